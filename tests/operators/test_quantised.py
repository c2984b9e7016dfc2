import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from cosearch.errors import OperatorError
from cosearch.operators.integer import integer_conv2d
from cosearch.operators.quantised import QuantConv2d, QuantLinear, best_step, learned_step, level_range
from tests.references.quantised import lsq


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-3, 3), min_size=1, max_size=12),
    st.integers(1, 8),
    st.booleans(),
    st.sampled_from([0.1, 0.25, 0.37]),
)
def test_values_and_gradients_are_the_published_ones(values: list, bits: int, signed: bool, step: float) -> None:
    if bits == 1 and signed:
        return
    low, high = level_range(bits, signed)
    v = torch.tensor(values, dtype=torch.float64)
    v = v[((v / step - low).abs() > 1e-6) & ((v / step - high).abs() > 1e-6)]
    if not len(v):
        return
    v.requires_grad_()
    s = torch.tensor(step, dtype=torch.float64, requires_grad=True)
    y = learned_step(v, s, bits, signed)
    gradient = torch.linspace(-1, 2, len(v), dtype=torch.float64)
    dv, ds = torch.autograd.grad(y, (v, s), gradient)
    outputs, slopes, total = lsq(v.tolist(), step, low, high, gradient.tolist())
    assert y.tolist() == pytest.approx(outputs, abs=1e-12)
    assert dv.tolist() == slopes
    assert ds.item() == pytest.approx(total, abs=1e-9)


def test_one_signed_bit_is_the_sign() -> None:
    v = torch.tensor([-2.0, -0.1, 0.0, 0.4, 3.0], requires_grad=True)
    s = torch.tensor(0.5, requires_grad=True)
    y = learned_step(v, s, 1)
    assert y.tolist() == [-0.5, -0.5, 0.5, 0.5, 0.5]
    dv, ds = torch.autograd.grad(y.sum(), (v, s))
    assert dv.tolist() == [0, 1, 1, 1, 0]
    # inside q - v / s, outside q
    assert ds.item() == pytest.approx((-1 + (-1 + 0.2) + 1 + (1 - 0.8) + 1) / 5**0.5, rel=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_best_step_is_no_worse_than_any_of_a_fine_grid(bits: int) -> None:
    v = torch.randn(2000, generator=torch.Generator().manual_seed(bits))
    low, high = level_range(bits)

    def error(step: float) -> float:
        levels = torch.where(v < 0, -1.0, 1.0) if bits == 1 else (v / step).round().clamp(low, high)
        return float((levels * step - v).square().sum())

    best = error(float(best_step(v, bits)))
    assert best <= min(error(float(s)) for s in torch.linspace(0.01, 4, 400)) * 1.03


@pytest.mark.parametrize(("groups", "stride", "size"), [(1, 1, (6, 6)), (2, 2, (7, 5))])
def test_eight_bits_are_dense_within_rounding(groups: int, stride: int, size: tuple) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, stride, 1, groups=groups)
    layer = QuantConv2d(4, 6, 3, stride, 1, groups=groups)
    layer.load_dense(conv.weight)
    layer.bias.data.copy_(conv.bias.data)
    x = torch.randn(2, 4, *size)
    with torch.no_grad():
        assert float((layer.value() - conv.weight).abs().max()) <= float(layer.weight_step) * 0.51
        assert float((layer(x) - conv(x)).norm() / conv(x).norm()) < 0.02


@pytest.mark.parametrize("weight_bits", [1, 2, 5, 8])
@pytest.mark.parametrize("activation_bits", [1, 4, 8])
@pytest.mark.parametrize(("groups", "stride", "size"), [(1, 1, (6, 6)), (2, 2, (7, 5))])
def test_integer_form_equals_the_module_bit_for_bit(
    weight_bits: int, activation_bits: int, groups: int, stride: int, size: tuple
) -> None:
    layer = QuantConv2d(
        4, 6, 3, stride, 1, groups=groups, bias=False, weight_bits=weight_bits, activation_bits=activation_bits
    ).double()
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    layer.calibrate(x)
    with torch.no_grad():  # powers of two as steps, so that no product rounds
        layer.weight_step.copy_(2.0 ** torch.log2(layer.weight_step).round())
        layer.input_step.copy_(2.0 ** torch.log2(layer.input_step).round())
    levels, step = layer.integer_weight()
    low, high = level_range(activation_bits)
    x_levels = (layer.quantise_input(x) / layer.input_step).round().long()
    assert low <= int(x_levels.min()) <= int(x_levels.max()) <= high
    total = integer_conv2d(x_levels, levels, stride, 1, 1, groups)
    assert torch.equal(layer(x), total.double() * step * float(layer.input_step))


def test_float_module_on_integer_inputs_and_overflow() -> None:
    layer = QuantConv2d(2, 3, 3, bias=False, activation_bits=None)
    with torch.no_grad():
        layer.weight.copy_(torch.randint(-127, 128, layer.weight.shape))
        layer.weight_step.fill_(1.0)
    x = torch.randint(-128, 128, (1, 2, 5, 5))
    levels, step = layer.integer_weight()
    assert step == 1.0
    assert torch.equal(layer(x.float()), integer_conv2d(x, levels).float())
    with pytest.raises(OperatorError, match="accumulator_bits"):
        integer_conv2d(x, levels, accumulator_bits=12)


def test_no_input_bits_leave_the_input_alone() -> None:
    layer = QuantLinear(5, 3, activation_bits=None)
    x = torch.randn(2, 5)
    assert torch.equal(layer(x), F.linear(x, layer.value(), layer.bias))


def test_training_moves_weight_and_both_steps_and_state_round_trips() -> None:
    layer = QuantLinear(6, 4, weight_bits=3, activation_bits=3)
    layer(torch.randn(16, 6)).square().sum().backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in (layer.weight, layer.weight_step, layer.input_step))
    copy = QuantLinear(6, 4, weight_bits=3, activation_bits=3)
    copy.load_state_dict(layer.state_dict())
    x = torch.randn(3, 6) * 10
    assert torch.equal(copy(x), layer(x))


def test_cost_layers() -> None:
    (layer,) = QuantConv2d(4, 4, 3, weight_bits=4, activation_bits=6).cost_layers("q", (1, 4, 5, 5))
    assert (layer.kind, layer.weight_bits, layer.input_bits) == ("mac", 4, 6)
    (layer,) = QuantLinear(4, 3, weight_bits=2, activation_bits=None).cost_layers("q", (7, 4))
    assert (layer.N, layer.weight_bits, layer.input_bits) == (7, 2, 8)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: QuantConv2d(2, 2, 3, weight_bits=0), "weight_bits"),
        (lambda: QuantConv2d(2, 2, 3, weight_bits=9), "weight_bits"),
        (lambda: QuantLinear(2, 2, activation_bits=0), "activation_bits"),
        (lambda: learned_step(torch.ones(2), torch.ones(2), 4), "step"),
        (lambda: learned_step(torch.ones(2), torch.ones(1), 12), "bits"),
        (lambda: QuantLinear(2, 2, activation_bits=None).calibrate(torch.ones(1, 2)), "activation_bits"),
    ],
)
def test_bad_arguments_are_named(call: object, named: str) -> None:
    with pytest.raises(OperatorError, match=named):
        call()
