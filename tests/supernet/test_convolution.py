"""Whatever way a convolution takes, its values and gradients are those of torch's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cosearch.supernet.convolution import convolve

CASES = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 5),
        "channels": st.sampled_from([1, 2, 6, 40]),
        "filters": st.sampled_from([1, 2, 6, 40]),
        "grouping": st.sampled_from(["none", "two", "depthwise"]),
        "size": st.tuples(st.integers(1, 9), st.integers(1, 9)),
        "kernel": st.sampled_from([1, 3, 5, 7]),
        "stride": st.sampled_from([1, 2]),
        "seed": st.integers(0, 10_000),
    }
)


def drawn(case, dtype):
    """x, weight, groups, and the gradient of the result."""
    draw = torch.Generator().manual_seed(case["seed"])
    c, k, kernel, stride = (case[name] for name in ("channels", "filters", "kernel", "stride"))
    groups = {"none": 1, "two": 2 if c % 2 == k % 2 == 0 else 1, "depthwise": c}[case["grouping"]]
    k = c if groups == c > 1 else k
    x = torch.randn(case["batch"], c, *case["size"], generator=draw, dtype=dtype)
    # a part of shared weights, as in a supernet
    weight = torch.randn(k + 1, c // groups + 2, kernel, kernel, generator=draw, dtype=dtype)[:k, : c // groups]
    size = (len(x), k, *(-(-side // stride) for side in case["size"]))
    return x.contiguous(memory_format=torch.channels_last), weight, groups, torch.randn(*size, dtype=dtype)


def value_and_gradients(function, x, weight, upstream):
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = function(x, weight)
    return y.detach(), *torch.autograd.grad(y, (x, weight), upstream)


@given(case=CASES)
@settings(max_examples=300)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-4)])
def test_values_and_gradients_are_those_of_torch(case, dtype, tolerance):
    x, weight, groups, upstream = drawn(case, dtype)
    stride, half = case["stride"], case["kernel"] // 2
    found = value_and_gradients(lambda x, w: convolve(x, w, stride, groups), x, weight, upstream)
    expected = value_and_gradients(lambda x, w: F.conv2d(x, w, None, stride, half, 1, groups), x, weight, upstream)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


@given(case=CASES)
@settings(max_examples=60)
def test_the_result_is_channels_last(case):
    x, weight, groups, _ = drawn(case, torch.float32)
    y = convolve(x, weight, case["stride"], groups)
    assert y.is_contiguous(memory_format=torch.channels_last)
    _, k, p, q = y.shape
    assert k == 1 or p * q == 1 or y.stride() == (k * p * q, 1, k * q, k)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_an_images_values_do_not_depend_on_those_beside_it(size):
    """Networks are measured some images at a time, and how many at once shall decide nothing."""
    draw = torch.Generator().manual_seed(size)
    x = torch.randn(96, 32, size, size, generator=draw).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(24, 32, 1, 1, generator=draw)
    together = convolve(x, weight)
    for n in (1, 7, 40):
        assert torch.equal(torch.cat([convolve(some, weight) for some in x.split(n)]), together)


def test_weights_that_meet_only_padding_learn_nothing():
    weight = torch.randn(6, 1, 5, 5, requires_grad=True)
    convolve(torch.randn(3, 6, 2, 2), weight, 1, 6).sum().backward()
    assert weight.grad is not None
    reached = torch.zeros(5, 5, dtype=torch.bool)
    reached[1:4, 1:4] = True
    assert (weight.grad[:, 0, ~reached] == 0).all()
    assert (weight.grad[:, 0, reached] != 0).all()
