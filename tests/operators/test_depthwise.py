"""The gradient of depthwise convolutions in their weights, held against torch's in double precision."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cosearch.operators import depthwise
from cosearch.operators.depthwise import depthwise_conv2d, is_slow, weight_gradient
from cosearch.supernet.convolution import convolve

CASES = st.fixed_dictionaries(
    {
        "n": st.integers(1, 5),
        "channels": st.integers(2, 40),
        "height": st.integers(1, 9),
        "width": st.integers(1, 9),
        "taps": st.sampled_from([1, 3, 5, 7]),
        "stride": st.integers(1, 3),
        "last": st.booleans(),
    }
)


def _drawn(case, dtype=torch.float32):
    draw = torch.Generator().manual_seed(sum(map(int, case.values())))
    n, c, taps = case["n"], case["channels"], case["taps"]
    x = torch.randn(n, c, case["height"], case["width"], generator=draw, dtype=torch.float64)
    weight = torch.randn(c, 1, taps, taps, generator=draw, dtype=torch.float64)
    layout = torch.channels_last if case["last"] else torch.contiguous_format
    return x.to(dtype).contiguous(memory_format=layout).requires_grad_(), weight.to(dtype).requires_grad_()


@given(case=CASES)
@settings(max_examples=150, deadline=None)
def test_values_and_gradients_are_those_of_torch(case):
    x, weight = _drawn(case)
    exact_x, exact_weight = _drawn(case, torch.float64)
    y = depthwise_conv2d(x, weight, case["stride"])
    exact = F.conv2d(exact_x, exact_weight, None, case["stride"], case["taps"] // 2, 1, case["channels"])
    assert torch.allclose(y.double(), exact, atol=1e-4)
    scale = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    y.backward(scale)
    exact.backward(scale.double())
    assert torch.allclose(x.grad.double(), exact_x.grad, atol=1e-4)
    assert weight.grad.shape == weight.shape
    assert torch.allclose(weight.grad.double(), exact_weight.grad, atol=2e-4)


def test_threads_decide_no_bit():
    draw = torch.Generator().manual_seed(0)
    x, g = (torch.randn(32, 72, 8, 8, generator=draw).contiguous(memory_format=torch.channels_last) for _ in range(2))
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(weight_gradient(x, g, 5, 1))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_what_is_not_finite_stays_so():
    x, weight = torch.ones(2, 20, 4, 4), torch.ones(20, 1, 5, 5, requires_grad=True)
    x[1, 7, 2, 2] = float("nan")
    depthwise_conv2d(x, weight).sum().backward()
    spoiled = weight.grad.isnan().flatten(1).any(1)
    assert spoiled.nonzero().flatten().tolist() == [7]


@pytest.mark.parametrize(
    ("size", "taps", "channels", "groups", "slow"),
    [
        (8, 5, 24, 24, True),
        (2, 3, 24, 24, True),
        (8, 3, 24, 24, False),
        (16, 5, 24, 24, False),
        (4, 3, 24, 24, False),
        (8, 5, 24, 12, False),
        (8, 5, 1, 1, False),
    ],
)
def test_only_what_the_library_does_slowly_is_done_here(size, taps, channels, groups, slow, monkeypatch):
    done: list[int] = []
    real = weight_gradient
    monkeypatch.setattr(depthwise, "weight_gradient", lambda *how: done.append(1) or real(*how))
    x = torch.randn(3, channels, size, size)
    weight = torch.randn(channels, channels // groups, taps, taps, requires_grad=True)
    assert is_slow(x, weight, groups) is slow
    convolve(x, weight, 1, groups).sum().backward()
    assert len(done) == slow
    assert not is_slow(x.double(), weight.double(), groups)
    assert not is_slow(x, weight.detach(), groups)
    with torch.no_grad():
        assert not is_slow(x, weight, groups)
