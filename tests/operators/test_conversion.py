import io

import numpy as np
import pytest
import torch
from torch import nn

from cosearch import operators
from cosearch.errors import OperatorError
from cosearch.operators.conversion import OPERATORS, Rule, convert, to_plain

OPTIONS = {
    "shift": {"activation_bits": None},
    "add": {},
    "shift_add": {},
    "butterfly": {"compression": 1.5},
    "svd": {"rank": 0.5},
    "tucker": {"ranks": 0.5},
    "spatial": {"rank": 0.5},
    "pruned": {"scheme": "unstructured", "density": 0.5},
    "quantised": {},
    "smartexchange": {},
    "pecan": {"prototypes": 8},
    "binary": {"bits": 4},
}
EXACT = {  # limit cases: the converted network is the network itself
    "butterfly": {"compression": 1.0},
    "svd": {"rank": 1.0},
    "tucker": {"ranks": 1.0},
    "spatial": {"rank": 1.0},
    "pruned": {"scheme": "filter", "density": 1.0},
}


def _network(groups: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=groups, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 6),
    ).eval()


def _rule(operator: str, options: dict) -> dict:
    rules = {"0": Rule(operator, **options), "3": Rule(operator, **options)}
    return rules if OPERATORS[operator][1] is None else {"*": Rule(operator, **options)}


@pytest.mark.parametrize("operator", sorted(OPERATORS))
@pytest.mark.parametrize("with_example", [False, True])
def test_every_operator_converts_and_reports(operator: str, with_example: bool) -> None:
    net, x = _network(), torch.randn(8, 4, 9, 7)
    before = [p.clone() for p in net.parameters()]
    converted, report = convert(net, _rule(operator, OPTIONS[operator]), x if with_example else None)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert [r.name for r in report] == ["0", "3", "7"][: len(report)]
    assert len(report) == (2 if OPERATORS[operator][1] is None else 3)
    for r in report:
        assert (r.weight_error is None) == (operator in ("add", "shift_add", "pecan"))
        assert np.isfinite(r.output_error)
        if r.weight_error is not None:
            assert r.weight_error < 0.8
    assert converted(x).shape == (8, 6)


@pytest.mark.parametrize("operator", sorted(EXACT))
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_limit_cases_leave_the_network_as_it_is(operator: str, groups: int) -> None:
    net, x = _network(groups).double(), torch.randn(3, 4, 9, 7, dtype=torch.float64)
    if operator == "butterfly" and groups == 8:
        pytest.skip("a depthwise layer has one output per group, which no chain can factor")
    converted, report = convert(net, _rule(operator, EXACT[operator]), x)
    assert all(r.weight_error < 1e-6 for r in report)
    assert torch.allclose(converted(x), net(x), atol=1e-5)


def test_fitted_starts_beat_random_ones() -> None:
    net, x = _network(), torch.randn(16, 4, 9, 7)
    for operator in ("butterfly", "svd", "tucker", "spatial", "binary", "quantised", "smartexchange", "shift"):
        _, report = convert(net, {"0": Rule(operator, **OPTIONS[operator])}, x)
        assert report[0].output_error < 0.75, operator  # a random weight of equal norm is at about 1.4


def test_a_calibrated_pecan_beats_an_uncalibrated_one() -> None:
    net, x = _network(), torch.randn(16, 4, 9, 7)
    rule = {"0": Rule("pecan", prototypes=32, width=3)}
    _, with_data = convert(net, rule, x)
    _, without = convert(net, rule)
    assert with_data[0].output_error < 0.9 * without[0].output_error


def test_the_first_matching_rule_counts() -> None:
    converted, report = convert(_network(), {"7": "quantised", "[037]": "shift"})
    assert {r.name: r.operator for r in report} == {"0": "shift", "3": "shift", "7": "quantised"}
    assert type(converted[7]).__name__ == "QuantLinear"


def test_every_name_of_the_package_is_found() -> None:
    for name, home in operators._HOME.items():
        value = getattr(operators, name)
        assert getattr(value, "__module__", "").endswith(f"operators.{home}") or name == "OPERATORS"
    assert set(operators._HOME) <= set(dir(operators))
    with pytest.raises(AttributeError):
        _ = operators.no_such_operator


def test_a_bare_layer_converts() -> None:
    converted, report = convert(nn.Linear(6, 4), {"*": "shift"})
    assert type(converted).__name__ == "ShiftLinear"
    assert report[0].name == ""


def test_a_layer_used_twice_stays_one() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2] = net[0]
    converted, report = convert(net, {"*": "shift"})
    assert len(report) == 1
    assert converted[0] is converted[2]
    assert type(converted[2]).__name__ == "ShiftLinear"


def test_training_mode_is_kept() -> None:
    net = _network()
    net.train()
    converted, _ = convert(net, {"0": "shift"}, torch.randn(2, 4, 6, 6))
    assert net.training
    assert all(m.training for m in converted.modules())


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_plain_forms_compute_the_same(operator: str) -> None:
    net, x = _network(), torch.randn(3, 4, 9, 7)
    converted, _ = convert(net, _rule(operator, OPTIONS[operator]), x)
    converted.eval()
    plain = to_plain(converted)
    ours = [m for m in plain.modules() if type(m).__name__ in ("AddConv2d", "ShiftConv2d", "QuantConv2d")]
    assert not ours
    with torch.no_grad():
        assert torch.allclose(plain(x), converted(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_onnx_export_equals_the_module(operator: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    net, x = _network(), torch.randn(2, 4, 9, 7)
    converted, _ = convert(net, _rule(operator, OPTIONS[operator]), x)
    converted.eval()
    buffer = io.BytesIO()
    torch.onnx.export(to_plain(converted), (x,), buffer, input_names=["x"], dynamo=False, opset_version=18)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"x": x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(got, converted(x).numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("operator", "mode"), [("add", "reflect"), ("butterfly", "circular"), ("spatial", "replicate")]
)
def test_onnx_export_keeps_a_padding_mode(operator: str, mode: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    net, x = nn.Conv2d(4, 8, 3, stride=2, padding=1, padding_mode=mode), torch.randn(2, 4, 9, 7)
    converted, _ = convert(net, {"*": Rule(operator, **OPTIONS[operator])}, x)
    buffer = io.BytesIO()
    torch.onnx.export(to_plain(converted), (x,), buffer, input_names=["x"], dynamo=False, opset_version=18)
    (got,) = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"]).run(
        None, {"x": x.numpy()}
    )
    with torch.no_grad():
        np.testing.assert_allclose(got, converted(x).numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: Rule("shfit"), "shift"),
        (lambda: convert(_network(), {}), "rules"),
        (lambda: convert(_network(), {"conv9": "shift"}), "conv9"),
        (lambda: convert(_network(), {"0": Rule("svd", rank=0)}), "'0'.*rank"),
        (lambda: convert(_network(), {"0": Rule("svd", rnak=1)}), "rnak"),
        (lambda: convert(_network(), {"0": Rule("pruned", scheme="filter", density=0.0)}), "density"),
        (lambda: convert(_network(), {"7": Rule("tucker", ranks=1)}), "'7'.*convolution"),
    ],
)
def test_bad_arguments_are_named(call: object, named: str) -> None:
    with pytest.raises(OperatorError, match=named):
        call()


@pytest.mark.parametrize(
    ("operator", "options"),
    [("svd", {"rank": 1.0}), ("pruned", {"scheme": "filter", "density": 1.0}), ("binary", {"bits": 8})],
)
def test_a_padding_mode_is_kept(operator: str, options: dict) -> None:
    conv, x = nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), torch.randn(2, 4, 6, 5)
    layer, (report,) = convert(conv, {"*": Rule(operator, **options)}, x)
    assert layer.padding_mode == "circular"
    assert report.output_error < 0.03
    assert torch.allclose(layer(x), conv(x), atol=0.1)


def test_a_layer_used_twice_is_plain_in_both_places_and_stays_one() -> None:
    twice = nn.Conv2d(4, 4, 3, padding=1)
    network, _ = convert(nn.Sequential(twice, nn.ReLU(), twice, nn.Sequential(twice)), {"0": "add"})
    plain = to_plain(network)
    assert not any(hasattr(m, "plain") for m in plain.modules())
    assert plain[0] is plain[2] is plain[3][0]
    x = torch.randn(2, 4, 6, 6)
    assert torch.allclose(plain(x), network.eval()(x), atol=1e-4)
