"""What every operator shares with the layer it replaces, and with the cost model: held for all of `OPERATORS`."""

import inspect

import pytest
import torch
from torch import nn

from cosearch.operators import OPERATORS
from cosearch.workload import Workload

OPTIONS: dict[str, dict] = {
    "butterfly": {"compression": 1.2},
    "svd": {"rank": 0.5},
    "tucker": {"ranks": 0.5},
    "spatial": {"rank": 0.5},
}
CONVOLUTIONS = sorted(OPERATORS)
LINEAR = sorted(name for name, kinds in OPERATORS.items() if kinds[1] is not None)
GEOMETRIES: list[dict] = [
    {"kernel_size": 3, "groups": 4, "bias": False},
    {"kernel_size": (3, 5), "padding": "same", "dilation": (2, 1)},
    {"kernel_size": 3, "stride": 2, "padding": "valid"},
    {"kernel_size": 1, "stride": (2, 1), "groups": 2},
    {"kernel_size": (5, 3), "stride": (1, 3), "padding": (2, 0), "dilation": (1, 2), "groups": 2},
]


def _make(name: str, **arguments: object) -> nn.Module:
    kind = OPERATORS[name][0]
    assert kind is not None
    return kind(8, 16, **arguments, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_a_convolution_has_the_shapes_gradients_layers_and_plain_form_of_one(name: str, geometry: dict) -> None:
    torch.manual_seed(0)
    layer, x = _make(name, **geometry), torch.randn(2, 8, 9, 7, requires_grad=True)
    expected = nn.Conv2d(8, 16, **geometry)(x)
    y = layer(x)
    assert y.shape == expected.shape
    assert layer(x[:0]).shape == expected[:0].shape
    (y * torch.randn_like(y)).sum().backward()
    assert x.grad is not None
    assert all(p.grad is not None for p in layer.parameters())
    workload = Workload.from_module(nn.Sequential(layer), (2, 8, 9, 7))
    last = workload.layers[-1]
    assert tuple(y.shape[1:]) == (last.K, last.P, last.Q)
    with torch.no_grad():
        assert torch.allclose(layer.eval().plain()(x), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_layer_has_the_shapes_gradients_and_layers_of_one(name: str) -> None:
    torch.manual_seed(0)
    kind = OPERATORS[name][1]
    assert kind is not None
    layer, x = kind(12, 8, bias=False, **OPTIONS.get(name, {})), torch.randn(2, 3, 12, requires_grad=True)
    assert layer(x).shape == (2, 3, 8)
    assert layer(x[0, 0]).shape == (8,)
    assert layer(x[:0]).shape == (0, 3, 8)
    layer(x).square().sum().backward()
    assert x.grad is not None
    assert all(p.grad is not None for p in layer.parameters())
    assert layer.cost_layers("l", (2, 3, 12))[-1].N == 6


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_arguments_are_in_the_order_of_the_dense_layer(name: str) -> None:
    for kind, dense in zip(OPERATORS[name], (nn.Conv2d, nn.Linear), strict=True):
        if kind is not None:
            ours, theirs = (list(inspect.signature(k.__init__).parameters) for k in (kind, dense))
            wanted = theirs[: theirs.index("bias") + 1]
            assert ours[: len(wanted)] == wanted


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_state_dict_carries_everything(name: str) -> None:
    torch.manual_seed(0)
    one, two = (_make(name, kernel_size=3, stride=2, groups=2) for _ in range(2))
    x = torch.randn(2, 8, 7, 9)
    one.load_dense(torch.randn(16, 4, 3, 3)) if hasattr(one, "load_dense") else None
    one(x)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(x), two(x))
