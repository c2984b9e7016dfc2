from collections.abc import Callable

import pytest
import torch
from torch import nn

from cosearch import operators
from cosearch.errors import OperatorError
from cosearch.operators.integer_forms import integer_form, round_to_grid, split_dyadic

CONV: dict[str, Callable[..., nn.Module]] = {
    "shift q": lambda *a: operators.ShiftConv2d(*a, bits=4),
    "shift ps": lambda *a: operators.ShiftConv2d(*a, bits=4, form="ps"),
    "add": operators.AddConv2d,
    "shift_add": lambda *a: operators.ShiftAddConv2d(*a, bits=3),
    "butterfly": lambda *a: operators.ButterflyConv2d(*a, compression=1.1),
    "svd": lambda *a: operators.LowRankConv2d(*a, rank=2),
    "tucker": lambda *a: operators.TuckerConv2d(*a, ranks=(3, 2)),
    "spatial": lambda *a: operators.SpatialConv2d(*a, rank=3),
    "pruned": lambda *a: _pruned(operators.MaskedConv2d(*a)),
    "quantised": lambda *a: operators.QuantConv2d(*a, weight_bits=4, activation_bits=8),
    "quantised, float input": lambda *a: operators.QuantConv2d(*a, weight_bits=1, activation_bits=None),
    "smartexchange": lambda *a: _projected(operators.SmartExchangeConv2d(*a)),
    "pecan": lambda *a: operators.PecanConv2d(*a, prototypes=5),
    "binary": lambda *a: _loaded(operators.BinaryCodedConv2d(*a, bits=3, group=5)),
}
LINEAR: dict[str, Callable[..., nn.Module]] = {
    "shift": operators.ShiftLinear,
    "add": operators.AddLinear,
    "butterfly": lambda *a: operators.ButterflyLinear(*a, compression=1.5),
    "svd": lambda *a: operators.LowRankLinear(*a, rank=3),
    "pruned": lambda *a: _pruned(operators.MaskedLinear(*a)),
    "quantised": lambda *a: operators.QuantLinear(*a, weight_bits=3, activation_bits=8),
    "smartexchange": lambda *a: _projected(operators.SmartExchangeLinear(*a)),
    "pecan": lambda *a: operators.PecanLinear(*a, prototypes=5),
    "binary": lambda *a: _loaded(operators.BinaryCodedLinear(*a, bits=3)),
}


def _pruned(layer: nn.Module) -> nn.Module:
    layer.prune("unstructured", 0.4)
    return layer


def _projected(layer: nn.Module) -> nn.Module:
    layer.project_()
    return layer


def _loaded(layer: nn.Module) -> nn.Module:
    layer.load_dense(torch.randn(layer.weight_shape))
    return layer


def _check(layer: nn.Module, shape: tuple[int, ...]) -> None:
    layer = layer.double()
    if hasattr(layer, "calibrate") and getattr(layer, "activation_bits", 8) is not None:
        layer.calibrate(torch.randint(-40, 40, shape).double())
    round_to_grid(layer)
    form = integer_form(layer)
    v = torch.randint(-100, 100, shape)
    y = layer(v.double() * 2.0**form.input_exponent)
    total = form(v, accumulator_bits=64)
    assert total.dtype == torch.int64
    assert torch.equal(y, total.double() * 2.0**form.exponent)
    assert bool(total.any())


@pytest.mark.parametrize("name", CONV)
@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups", "size"), [(1, 1, 1, 1, (5, 6)), (2, (1, 2), (2, 1), 2, (9, 7))]
)
def test_convolutions_equal_their_integer_form_bit_for_bit(
    name: str, stride: int, padding: object, dilation: object, groups: int, size: tuple
) -> None:
    torch.manual_seed(len(name))
    _check(CONV[name](8, 12, 3, stride, padding, dilation, groups), (2, 8, *size))


@pytest.mark.parametrize("name", LINEAR)
def test_linear_layers_equal_their_integer_form_bit_for_bit(name: str) -> None:
    torch.manual_seed(len(name))
    _check(LINEAR[name](12, 8), (3, 2, 12))


def test_an_adder_with_weights_coarser_than_its_inputs_takes_the_inputs_step() -> None:
    layer = operators.AddConv2d(3, 4, 3, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randint(-9, 9, layer.weight.shape) * 4.0)
    v = torch.randint(-50, 50, (2, 3, 6, 5))
    form = integer_form(layer)
    assert form.exponent == 0
    assert torch.equal(layer(v.double()), form(v).double())


def test_rounding_moves_a_weight_by_at_most_half_a_step_of_its_width() -> None:
    layer = operators.TuckerConv2d(8, 8, 3, ranks=4)
    before = [p.detach().clone() for p in layer.parameters()]
    round_to_grid(layer, 8)
    for old, (name, new) in zip(before, layer.named_parameters(), strict=True):
        if name != "bias":
            assert float((old - new).detach().abs().max()) <= float(old.abs().max()) / 127
    again = [p.detach().clone() for p in layer.parameters()]
    round_to_grid(layer, 8)
    assert all(torch.equal(a, b) for a, b in zip(again, layer.parameters(), strict=True))


def test_every_operator_has_one() -> None:
    covered = {type(make(8, 8, 3)) for make in CONV.values()} | {type(make(8, 8)) for make in LINEAR.values()}
    assert covered == {kind for kinds in operators.OPERATORS.values() for kind in kinds if kind is not None}


def test_dyadic_numbers_are_split_into_the_least_integers() -> None:
    integers, exponent = split_dyadic("weight", torch.tensor([0.75, -1.5, 0.0, 6.0]), 8)
    assert (integers.tolist(), exponent) == ([3, -6, 0, 24], -2)
    assert split_dyadic("weight", torch.zeros(2), 8)[0].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: integer_form(operators.AddConv2d(2, 2, 3)), "weight.*round_to_grid"),
        (lambda: integer_form(operators.LowRankLinear(4, 4, rank=2)), "first.*round_to_grid"),
        (lambda: integer_form(operators.PecanLinear(4, 4, form="angle")), "form"),
        (lambda: integer_form(nn.Linear(2, 2)), "layer"),
        (lambda: round_to_grid(nn.Linear(2, 2)), "layer"),
        (lambda: round_to_grid(operators.AddLinear(2, 2), 1), "weight_bits"),
        (lambda: integer_form(operators.ShiftLinear(2, 2, bias=False))(torch.ones(2, 2)), "x="),
        (
            lambda: integer_form(operators.ShiftLinear(64, 2, bias=False))(torch.full((1, 64), 127), 8),
            "accumulator_bits",
        ),
    ],
)
def test_bad_arguments_are_named(call: object, named: str) -> None:
    with pytest.raises(OperatorError, match=named):
        call()
