"""The fused pass computes what batch-norm, ReLU and rounding do one after another."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from cosearch.supernet.rounding import can_fuse, normalised, quantise_symmetric, rounded


def images(seed: int, channels: int) -> torch.Tensor:
    x = torch.randn(5, channels, 6, 7, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last)


def norm(seed: int, channels: int) -> nn.BatchNorm2d:
    draw = torch.Generator().manual_seed(seed)
    bn = nn.BatchNorm2d(channels).eval()
    with torch.no_grad():
        for tensor in (bn.weight, bn.bias, bn.running_mean):
            tensor.normal_(generator=draw)
        bn.running_var.uniform_(0.5, 2.0, generator=draw)
    return bn


@torch.no_grad()
@given(
    seed=st.integers(0, 10_000),
    channels=st.integers(2, 40),
    signed=st.booleans(),
    biased=st.booleans(),
    share=st.floats(0.1, 2.0),
)
@settings(max_examples=60, deadline=None)
def test_one_pass_is_the_three_steps(seed, channels, signed, biased, share):
    """Up to the rounding of the affine map: where it falls on the other side of a half, the result is a level off."""
    x, bn = images(seed, channels), norm(seed, channels)
    bias = torch.randn(channels, generator=torch.Generator().manual_seed(seed)) if biased else None
    y = bn(x if bias is None else x + bias.view(1, -1, 1, 1))
    y = y if signed else F.relu(y)
    amax = y.abs().amax() * share  # values beyond the range are clipped
    expected = quantise_symmetric(y, amax, 8, signed)
    found = normalised(x, bn, amax, signed, bias)
    assert found is x
    level = amax.clamp_min(1e-8) / (127 if signed else 255)  # ReLU may leave nothing but zeros
    off = (found - expected).abs() / level
    assert off.max() < 1.01
    assert (off > 0.01).double().mean() < 0.01
    assert torch.unique((found / level).round()).numel() <= (255 if signed else 256)


@torch.no_grad()
@given(seed=st.integers(0, 10_000), signed=st.booleans())
@settings(max_examples=30, deadline=None)
def test_rounding_alone_is_that_of_torch(seed, signed):
    x = images(seed, 8)
    amax = x.abs().amax()
    expected = quantise_symmetric(x, amax, 8, signed)
    torch.testing.assert_close(rounded(x.clone(), amax, signed), expected, rtol=0, atol=1e-6)


@given(
    seed=st.integers(0, 10_000),
    bits=st.sampled_from([2, 4, 8]),
    signed=st.booleans(),
    share=st.floats(0.1, 2.0),
    channels_last=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_values_and_gradients_are_those_of_torchs_fake_quantisation(seed, bits, signed, share, channels_last):
    """Bit for bit, beyond the range too, where no gradient passes."""
    x = images(seed, 8)
    x = x if channels_last else x.contiguous()
    x = (x if signed else F.relu(x)).requires_grad_()
    amax = x.detach().abs().amax() * share
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed + 1))
    low, high = (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    zero = torch.zeros((), dtype=torch.int32)
    expected = torch.fake_quantize_per_tensor_affine(x, amax / high, zero, low, high)
    found = quantise_symmetric(x, amax, bits, signed)
    assert torch.equal(found, expected)
    slopes = [torch.autograd.grad(y, x, upstream)[0] for y in (found, expected)]
    assert torch.equal(*slopes)
    if share < 1:
        assert not slopes[0][x.detach().abs() > amax * (high + 1) / high].any()


def test_a_range_of_nothing_gives_zeros():
    x = torch.zeros(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    assert not rounded(x, torch.zeros(()), signed=True).any()


def test_what_cannot_be_fused_is_not():
    x = images(0, 4)
    assert not can_fuse(x)  # gradients are on
    with torch.no_grad():
        assert can_fuse(x)
        assert not can_fuse(x.contiguous())
        assert not can_fuse(x.double())
