# mypy: disable-error-code="call-arg, var-annotated, type-var, misc, assignment"
# The kernel is in numba's dialect: mypy sees neither the intrinsics' arguments nor their values.
"""Depthwise convolutions of small images, whose gradient in the weights a CPU's library computes slowly.

oneDNN has a kernel for 3x3 taps that fit into the image. Of others it computes the weights' gradient as if each channel
were a group of sixteen: on images up to 8x8 that takes several times as long as what is here; the rest is its own.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import types
from torch import Tensor
from torch.autograd.function import once_differentiable

from cosearch.operators._simd import (
    FLOATS,
    LANES,
    compile_kernel,
    load_some,
    plus,
    plus_product,
    run,
    store_some,
    zero,
)

MOST_PIXELS = 8 * 8
"""Of an image; the kernel reads all of them once for each tap, and of larger ones the library's is faster."""


def is_slow(x: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether a convolution of x (B x C x H x W) is one whose training `depthwise_conv2d` makes faster."""
    k, taps = weight.shape[0], weight.shape[-1]
    return (
        1 < groups == x.shape[1] == k
        and weight.shape[-2] == taps
        and (taps > 3 or min(x.shape[2:]) < taps)
        and x.shape[2] * x.shape[3] <= MOST_PIXELS
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and torch.is_grad_enabled()
        and weight.requires_grad
    )


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """The convolution of B x C x H x W with C x 1 x k x k, padded by k // 2, k odd. Returns: B x C x P x Q.

    Values and the gradient in x are `torch.nn.functional.conv2d`'s, that in the weights is but for rounding. On a CPU,
    in single precision.
    """
    found: Tensor = _Depthwise.apply(x, weight, stride)
    return found


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return torch.nn.functional.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        taps, dx, dw = weight.shape[-1], None, None
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        if ctx.needs_input_grad[0]:
            how = [ctx.stride] * 2, [taps // 2] * 2, [1, 1], False, [0, 0], len(weight), [True, False, False]
            dx = torch.ops.aten.convolution_backward(gradient, x, weight, None, *how)[0]
        if ctx.needs_input_grad[1]:
            dw = weight_gradient(x, gradient, taps, ctx.stride)
        return dx, dw, None


def weight_gradient(x: Tensor, gradient: Tensor, taps: int, stride: int) -> Tensor:
    """[C, 1, taps, taps]: of the sum of the convolution's values times `gradient` (B x C x P x Q) in its weights."""
    (n, c, height, width), (rows, columns) = x.shape, gradient.shape[2:]
    out = np.empty(taps * taps * c, np.float32)
    kernel, sizes = _compiled(), (n, c, height, width, rows, columns, taps, stride)
    values = [_flat(x), _flat(gradient)]
    operations = 2 * n * c * rows * columns * taps * taps
    blocks = -(-c // LANES)
    run(lambda start, stop: kernel(*values, out, sizes, start, stop), blocks, operations, torch.get_num_threads())
    return torch.from_numpy(out).view(-1, c).t().contiguous().view(c, 1, taps, taps)


def _flat(x: Tensor) -> Any:
    """Channels last."""
    return x.permute(0, 2, 3, 1).contiguous().view(-1).numpy()


def _weight_gradient(x, g, out, shape, start, stop):  # type: ignore[no-untyped-def]
    """Blocks start..stop of LANES channels. x: n x height x width x c; g: n x rows x columns x c; out: taps x taps x c.

    Two sums of each tap, over even and odd columns, so that one addition need not wait for the other.
    """
    n, c, height, width, rows, columns, taps, stride = shape
    pad = taps // 2
    for block in range(start, stop):
        first = block * LANES
        some = c - first
        for down in range(taps):
            for across in range(taps):
                # the outputs whose input lies within the image
                u0, u1 = max(0, (pad - down + stride - 1) // stride), min(rows, (height - 1 + pad - down) // stride + 1)
                v0 = max(0, (pad - across + stride - 1) // stride)
                v1 = min(columns, (width - 1 + pad - across) // stride + 1)
                even, odd = zero(), zero()
                for image in range(n):
                    for u in range(u0, u1):
                        of_g = ((image * rows + u) * columns + v0) * c + first
                        of_x = ((image * height + u * stride + down - pad) * width + v0 * stride + across - pad) * c
                        of_x += first
                        for _ in range((v1 - v0) // 2):
                            even = plus_product(even, load_some(x, of_x, 0, some), load_some(g, of_g, 0, some))
                            of_x += stride * c
                            of_g += c
                            odd = plus_product(odd, load_some(x, of_x, 0, some), load_some(g, of_g, 0, some))
                            of_x += stride * c
                            of_g += c
                        if v1 > v0 and (v1 - v0) % 2:
                            even = plus_product(even, load_some(x, of_x, 0, some), load_some(g, of_g, 0, some))
                store_some(out, (down * taps + across) * c + first, plus(even, odd), 0, some)


@cache
def _compiled() -> Callable[..., None]:
    return compile_kernel(
        _weight_gradient, FLOATS, FLOATS, FLOATS, types.UniTuple(types.int64, 8), types.int64, types.int64
    )
