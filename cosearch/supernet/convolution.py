"""Convolutions as supernets and their networks train with them: of small images, by whatever way is fastest."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cosearch.operators.depthwise import depthwise_conv2d, is_slow

SMALL_PIXELS, NARROW_PIXELS, NARROW_CHANNELS = 4 * 4, 8 * 8, 32
"""Of an image, up to which 1x1 convolutions are matrix products: with any number of channels, and with few."""


def convolve(x: Tensor, weight: Tensor, stride: int = 1, groups: int = 1, plain: bool = False) -> Tensor:
    """The convolution of B x C x H x W with K x C/groups x k x k, k odd, padded by k // 2. Returns: B x K x P x Q.

    What of the kernel meets nothing but padding is left out, and what is left of it may be one number a channel, or a
    matrix. On a CPU that takes a half to a tenth of the time where images are small. The result is channels last.
    plain: as a convolution all the same, for who looks at what a network runs.
    """
    height, width = x.shape[2:]
    weight = weight if plain else _centre(weight, height - 1, width - 1)
    k, _, r, s = weight.shape
    if not plain and height == width == 1 and groups == x.shape[1] == k:
        return x * weight.view(1, k, 1, 1)
    if not plain and r == s == stride == groups == 1 and _is_product(height * width, max(k, x.shape[1])):
        return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1)).permute(0, 3, 1, 2)
    if not plain and is_slow(x, weight, groups):
        y = depthwise_conv2d(x, weight, stride)
    else:
        y = F.conv2d(x, weight, None, stride, (r // 2, s // 2), 1, groups)
    # an image of one channel is in either format, and convolutions would go on in the slower one
    return y.contiguous(memory_format=torch.channels_last)


def _centre(weight: Tensor, down: int, across: int) -> Tensor:
    """The taps of a kernel that are at most so many pixels away from its centre."""
    half = weight.shape[-1] // 2
    if half <= min(down, across):
        return weight
    down, across = min(half, down), min(half, across)
    return weight[:, :, half - down : half + down + 1, half - across : half + across + 1]


def _is_product(pixels: int, channels: int) -> bool:
    return pixels <= SMALL_PIXELS or (pixels <= NARROW_PIXELS and channels <= NARROW_CHANNELS)
