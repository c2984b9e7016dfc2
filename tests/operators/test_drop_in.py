"""What every operator shares with the layer it replaces, and with the cost model: held for all of `OPERATORS`."""

import inspect

import pytest
import torch
from torch import nn

from cosearch.errors import OperatorError
from cosearch.operators import OPERATORS, integer_form
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
            assert ours[: len(theirs)] == theirs


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_a_padding_mode_is_that_padding_before_a_layer_that_pads_nothing(name: str, mode: str) -> None:
    torch.manual_seed(0)
    steps = {"kernel_size": (3, 5), "stride": (2, 1), "groups": 2}
    layer, bare = _make(name, padding=(1, 2), padding_mode=mode, **steps), _make(name, **steps)
    bare.load_state_dict(layer.state_dict())
    x = torch.randn(2, 8, 7, 9)
    y = layer(x)
    assert y.shape == nn.Conv2d(8, 16, padding=(1, 2), padding_mode=mode, **steps)(x).shape
    if name == "shift_add":  # its second half pads as well
        bare.shift, bare.add.padding_mode = layer.shift, mode
        assert torch.equal(bare(x), y)
    else:
        bare.load_state_dict(layer.state_dict())  # with the input's step, which the first batch sets
        assert torch.allclose(bare(nn.functional.pad(x, (2, 2, 1, 1), mode)), y, atol=1e-5)
    assert torch.allclose(layer.plain()(x), y, atol=1e-4)
    with pytest.raises(OperatorError, match="padding_mode"):
        integer_form(layer)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_layer_is_made_on_the_device_and_in_the_type_asked_for(name: str) -> None:
    for kind, size in zip(OPERATORS[name], ((8, 16, 3), (8, 16)), strict=True):
        if kind is not None:
            for wish in ({"device": "meta"}, {"dtype": torch.float64}):
                layer = kind(*size, **wish, **OPTIONS.get(name, {}))
                floats = [v for v in layer.state_dict().values() if v.is_floating_point()]
                assert floats
                assert all(v.device.type == wish.get("device", "cpu") for v in layer.state_dict().values())
                assert all(v.dtype == wish.get("dtype", torch.float32) for v in floats)


def test_padding_modes_that_are_not_or_do_not_fit_are_named() -> None:
    for name in CONVOLUTIONS:
        with pytest.raises(OperatorError, match="padding_mode"):
            _make(name, kernel_size=3, padding_mode="mirror")
    with pytest.raises(OperatorError, match="reflect"):
        _make("shift", kernel_size=3, padding=2, padding_mode="reflect")(torch.ones(1, 8, 2, 4))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_state_dict_carries_everything(name: str) -> None:
    torch.manual_seed(0)
    one, two = (_make(name, kernel_size=3, stride=2, groups=2) for _ in range(2))
    x = torch.randn(2, 8, 7, 9)
    one.load_dense(torch.randn(16, 4, 3, 3)) if hasattr(one, "load_dense") else None
    one(x)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(x), two(x))
