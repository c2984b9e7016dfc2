import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from cosearch.errors import OperatorError
from cosearch.operators import (
    ShiftConv2d,
    ShiftLinear,
    clamp_shifts,
    compose_weight,
    fixed_point,
    integer_shift_conv2d,
    shift_codes,
    shift_penalty,
    shift_weight,
)
from tests.references.shift import form_ps, form_q


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-4, 4, allow_subnormal=False), min_size=1, max_size=20),
    st.integers(2, 6),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_form_q_is_the_published_rule(values: list[float], bits: int, dtype: torch.dtype) -> None:
    weight = torch.tensor(values, dtype=dtype)
    # The reference takes a logarithm, which is off by an ulp next to sqrt(2) 2^n: keep a hair's breadth from it.
    mantissa = torch.frexp(weight.double())[0].abs()
    weight = weight[(mantissa - math.sqrt(0.5)).abs() > 1e-6]
    expected = [form_q(float(v), bits) for v in weight]
    assert shift_weight(weight, bits).tolist() == expected


def test_rounding_is_in_the_log_domain_not_to_the_nearest() -> None:
    weight = torch.tensor([0.36, 0.354, 0.353, -0.72, 0.0, 3.0, 1e-9])
    assert shift_weight(weight).tolist() == [0.5, 0.5, 0.25, -1.0, 2.0**-15, 1.0, 2.0**-15]
    grid = torch.linspace(2.0**-14, 1, 10001)
    error = (shift_weight(grid) - grid).abs() / grid
    assert float(error.max()) <= math.sqrt(2) - 1 + 1e-6


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-40, 5), st.floats(-2, 2)), min_size=1, max_size=20), st.integers(2, 6))
def test_form_ps_is_the_published_rule(values: list[tuple[float, float]], bits: int) -> None:
    shift, sign = torch.tensor(values, dtype=torch.float64).unbind(1)
    expected = [form_ps(s, g, bits) for s, g in values]
    assert compose_weight(shift, sign, bits).tolist() == expected


def test_gradients_are_the_published_ones() -> None:
    weight = torch.randn(5, 3, requires_grad=True)
    upstream = torch.randn(5, 3)
    (dv,) = torch.autograd.grad(shift_weight(weight), weight, upstream)
    assert torch.equal(dv, upstream)
    shift = torch.empty(5, 3).uniform_(-16, 2).requires_grad_()
    sign = torch.randn(5, 3, requires_grad=True)
    value = compose_weight(shift, sign)
    ds, dg = torch.autograd.grad(value, (shift, sign), upstream)
    assert torch.allclose(ds, upstream * value * math.log(2))
    assert torch.equal(dg, upstream)


def test_inputs_and_weights_are_not_changed_by_forward() -> None:
    layer = ShiftConv2d(3, 4, 3)
    x = torch.randn(2, 3, 5, 5)
    before = x.clone(), layer.weight.detach().clone()
    layer(x)
    assert torch.equal(x, before[0])
    assert torch.equal(layer.weight, before[1])


def test_fixed_point_rounds_down_saturates_and_passes_the_gradient() -> None:
    x = torch.tensor([0.3, -0.3, 1.0, 9.0, -9.0], requires_grad=True)
    y = fixed_point(x, (4, 2))
    assert y.tolist() == [0.25, -0.5, 1.0, 7.75, -8.0]
    y.sum().backward()
    assert x.grad.tolist() == [1.0] * 5


@pytest.mark.parametrize("form", ["q", "ps"])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
@pytest.mark.parametrize(("stride", "padding", "groups", "size"), [(1, 1, 1, 6), (2, 1, 2, 7), (2, 0, 4, 5)])
def test_integer_form_equals_the_module_bit_for_bit(
    form: str, bits: int, stride: int, padding: int, groups: int, size: int
) -> None:
    torch.manual_seed(bits)
    layer = ShiftConv2d(4, 8, 3, stride, padding, groups=groups, bias=False, bits=bits, form=form).double()
    assert bool((torch.frexp(layer.value())[0].abs() % 0.5 == 0).all())  # zero or a power of two
    x = torch.randint(-128, 128, (2, 4, size, size + 1))
    total, exponent = integer_shift_conv2d(x, layer.codes(), stride, padding, 1, groups, accumulator_bits=64)
    assert torch.equal(layer(x.double()), total.double() * 2.0**exponent)


def test_float32_module_equals_the_integer_form_on_small_integers() -> None:
    layer = ShiftConv2d(4, 8, 3, bits=4, bias=False)
    x = torch.randint(-16, 16, (2, 4, 6, 6))
    total, exponent = integer_shift_conv2d(x, layer.codes())
    assert torch.equal(layer(x.float()), total.float() * 2.0**exponent)


def test_a_multiple_of_eight_times_an_eighth_is_a_right_shift() -> None:
    x = torch.arange(-64, 64, 8).view(1, 1, 1, -1)
    total, exponent = integer_shift_conv2d(x, shift_codes(torch.tensor([[[[0.125]]]])))
    assert torch.equal(total, x)
    assert exponent == -3
    assert torch.equal(x * 2.0**exponent, (x >> 3).float())


def test_codes_round_trip_and_align() -> None:
    layer = ShiftLinear(6, 5, form="ps")
    codes = layer.codes()
    assert torch.equal(codes.to_float(), layer.value())
    integers, exponent = codes.aligned()
    assert torch.equal(integers.float() * 2.0**exponent, layer.value())


@pytest.mark.parametrize("form", ["q", "ps"])
def test_exact_powers_of_two_make_the_convolution_itself(form: str) -> None:
    dense = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False)
    with torch.no_grad():
        dense.weight.copy_(shift_weight(dense.weight, 4))
    layer = ShiftConv2d(4, 6, 3, 2, 1, groups=2, bias=False, form=form, activation_bits=None)
    layer.load_dense(dense.weight)
    x = torch.randn(2, 4, 7, 7)
    assert torch.equal(layer(x), dense(x))


def test_fixed_point_activations_and_bias_are_used() -> None:
    layer = ShiftLinear(4, 3, activation_bits=(8, 3))
    x = torch.randn(2, 4)
    expected = F.linear(fixed_point(x, (8, 3)), layer.value(), fixed_point(layer.bias, (8, 3)))
    assert torch.equal(layer(x), expected)


def test_state_dict_round_trip() -> None:
    for form in ("q", "ps"):
        one, two = ShiftConv2d(3, 4, 3, form=form), ShiftConv2d(3, 4, 3, form=form)
        two.load_state_dict(one.state_dict())
        x = torch.randn(1, 3, 5, 5)
        assert torch.equal(one(x), two(x))


def test_penalty_and_clamp_act_on_form_ps_only() -> None:
    net = nn.Sequential(ShiftLinear(4, 4, form="ps"), ShiftLinear(4, 4))
    assert shift_penalty(net).item() == pytest.approx(float(0.5 * (2.0 ** net[0].shift.detach()).square().sum()))
    with torch.no_grad():
        net[0].shift.fill_(3.0)
    clamp_shifts(net)
    assert not net[0].shift.any()


def test_cost_layers() -> None:
    (layer,) = ShiftConv2d(4, 4, 3, padding=1, groups=4, bits=4).cost_layers("s", (2, 4, 8, 8))
    assert (layer.kind, layer.weight_bits, layer.groups, layer.macs) == ("shift", 4, 4, 2 * 4 * 64 * 9)
    (layer,) = ShiftLinear(5, 7).cost_layers("s", (3, 5))
    assert (layer.kind, layer.N, layer.C, layer.K) == ("shift", 3, 5, 7)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: shift_weight(torch.ones(2), 1), "bits"),
        (lambda: shift_weight(torch.ones(2), 7), "bits"),
        (lambda: ShiftConv2d(2, 2, 3, form="x"), "form"),
        (lambda: ShiftLinear(2, 2, bits=True), "bits"),
        (lambda: fixed_point(torch.ones(2), (0, 4)), "activation_bits"),
        (lambda: shift_codes(torch.tensor([0.3])), "weight"),
        (lambda: shift_penalty(nn.Linear(2, 2)), "module"),
        (lambda: ShiftConv2d(2, 2, 3).cost_layers("s", (1, 2, 2, 2)), "input_shape"),
        (
            lambda: integer_shift_conv2d(
                torch.full((1, 9, 3, 3), 127), shift_codes(torch.ones(1, 9, 3, 3)), accumulator_bits=14
            ),
            "accumulator_bits",
        ),
        (lambda: integer_shift_conv2d(torch.ones(1, 1, 1, 1), shift_codes(torch.ones(1, 1, 1, 1))), "x="),
    ],
)
def test_bad_arguments_are_named(call: object, named: str) -> None:
    with pytest.raises(OperatorError, match=named):
        call()
