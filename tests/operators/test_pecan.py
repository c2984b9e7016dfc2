import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cosearch.errors import OperatorError
from cosearch.operators.pecan import PecanConv2d, PecanLinear, _Closeness


@pytest.mark.parametrize(
    ("c", "k", "kernel", "stride", "groups", "size"),
    [(4, 6, 3, 1, 1, (5, 4)), (4, 6, 3, 2, 2, (7, 5)), (8, 4, 1, 1, 1, (3, 3))],
)
def test_prototypes_that_are_the_patches_give_the_convolution(
    c: int, k: int, kernel: int, stride: int, groups: int, size: tuple
) -> None:
    conv = nn.Conv2d(c, k, kernel, stride, kernel // 2, groups=groups).double()
    layer = PecanConv2d(c, k, kernel, stride, kernel // 2, groups=groups, prototypes=64).double()
    layer.load_dense(conv.weight)
    layer.bias.data.copy_(conv.bias.data)
    x = torch.randint(-1, 2, (1, c, *size)).double()
    layer.calibrate(x)
    assert torch.allclose(layer(x), conv(x), atol=1e-10)
    assert torch.allclose(layer.look_up(x), conv(x), atol=1e-10)


@pytest.mark.parametrize(("groups", "stride", "size"), [(1, 1, (6, 6)), (2, 2, (7, 5))])
def test_look_up_equals_the_training_graph(groups: int, stride: int, size: tuple) -> None:
    layer = PecanConv2d(4, 6, 3, stride, 1, groups=groups, prototypes=5).double()
    x = torch.randn(3, 4, *size, dtype=torch.float64)
    layer.calibrate(x)
    assert torch.allclose(layer.look_up(x), layer(x), atol=1e-10)
    linear = PecanLinear(12, 5, prototypes=6).double()
    z = torch.randn(7, 12, dtype=torch.float64)
    linear.calibrate(z)
    assert torch.allclose(linear.look_up(z), linear(z), atol=1e-10)


def test_forward_is_the_literal_formula() -> None:
    layer = PecanConv2d(2, 3, 3, prototypes=4, bias=False).double()
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64)
    columns = F.unfold(x, 3).view(2, 9, -1)
    out = torch.zeros(3, columns.shape[2], dtype=torch.float64)
    for place in range(columns.shape[2]):
        quantised = []
        for group in range(2):
            prototypes = layer.prototypes[group].T
            distances = (columns[group, :, place] - prototypes).abs().sum(1)
            quantised.append(prototypes[distances.argmin()])
        out[:, place] = layer.weight.flatten(1) @ torch.cat(quantised)
    assert torch.allclose(layer(x).view(3, -1), out, atol=1e-10)


def test_angle_form_hardens_as_the_temperature_falls() -> None:
    layer = PecanLinear(8, 3, prototypes=5, form="angle").double()
    columns = layer.columns(torch.randn(6, 8, dtype=torch.float64))
    layer.temperature = 1e-4
    one_hot = layer.assignment(columns)
    assert torch.allclose(one_hot.max(2).values, torch.ones(1, 2, 6, dtype=torch.float64), atol=1e-3)
    layer.temperature = 1.0
    assert float(layer.assignment(columns).max(2).values.detach().mean()) < 0.999


def test_distance_gradient_is_the_tanh_surrogate() -> None:
    columns = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    prototypes = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    got = torch.autograd.grad(_Closeness.apply(columns, prototypes, 2.0), (columns, prototypes), upstream)
    smooth = torch.log(torch.cosh(2.0 * (columns[:, :, :, None] - prototypes[None, ..., None]))).sum(2) / 2
    expected = torch.autograd.grad(-smooth, (columns, prototypes), upstream)
    for one, other in zip(got, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-10)


def test_angle_form_passes_gradcheck_and_the_distance_form_trains_everything() -> None:
    layer = PecanConv2d(2, 3, 3, prototypes=3, form="angle", width=6).double()
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, *_: layer(v), (x, *layer.parameters()))
    layer = PecanConv2d(2, 3, 3, prototypes=3)
    y = torch.randn(2, 2, 5, 5, requires_grad=True)
    layer(y).square().sum().backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in (*layer.parameters(), y))


def test_sharpness_follows_the_progress() -> None:
    layer = PecanLinear(4, 2)
    layer.set_progress(0.5)
    assert layer.sharpness == pytest.approx(math.exp(2))


def test_operations_are_the_published_counts() -> None:
    match, table = PecanConv2d(4, 10, 3, prototypes=8).cost_layers("p", (1, 4, 6, 6))
    assert (match.kind, table.kind) == ("add", "add")  # no multiplication in the distance form
    assert match.macs == 16 * 4 * 8 * 9  # an L1 term is a subtraction and an addition: the paper counts 2 D m d
    assert table.macs == 16 * 4 * 10
    match, table = PecanConv2d(4, 10, 3, prototypes=8, form="angle").cost_layers("p", (1, 4, 6, 6))
    assert (match.kind, table.kind) == ("mac", "mac")
    assert match.macs + table.macs == 16 * 4 * 8 * (9 + 10)


def test_state_dict_round_trip() -> None:
    one, two = PecanConv2d(2, 3, 3), PecanConv2d(2, 3, 3)
    two.load_state_dict(one.state_dict())
    x = torch.randn(1, 2, 5, 5)
    assert torch.equal(one(x), two(x))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: PecanConv2d(2, 3, 3, width=5), "width"),
        (lambda: PecanConv2d(2, 3, 3, prototypes=0), "prototypes"),
        (lambda: PecanConv2d(2, 3, 3, form="x"), "form"),
        (lambda: PecanLinear(4, 3, temperature=0.0), "temperature"),
        (lambda: PecanLinear(4, 3).set_progress(2), "share"),
        (lambda: PecanLinear(4, 3, form="angle").look_up(torch.ones(1, 4)), "form"),
    ],
)
def test_bad_arguments_are_named(call: object, named: str) -> None:
    with pytest.raises(OperatorError, match=named):
        call()
