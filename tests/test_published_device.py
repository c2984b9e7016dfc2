"""`hwnasbench-fpga` and `hwnasbench-eyeriss` by name: on the command line, and as devices of a search."""

import json
import sys

import pytest

from cosearch.cli import main
from cosearch.config import RunConfig
from cosearch.costs import price_workload, published_cost
from cosearch.errors import ConfigError, HardwareError
from cosearch.hardware.published import InvertedBottleneck, find
from cosearch.problem import fingerprint, prepare
from cosearch.progress import Reporter
from cosearch.workload import Layer, Workload

NETWORK = Workload(
    "small", (Layer("stem", K=16, C=3, P=32, Q=32, R=3, S=3), *InvertedBottleneck(32, 16, 24, 3, 5).layers())
)


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["cosearch", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("device", ["hwnasbench-fpga", "hwnasbench-eyeriss"])
def test_the_command_prints_blocks_totals_and_what_is_not_charged(device, tmp_path, monkeypatch, capsys):
    path = tmp_path / "small.json"
    path.write_text(json.dumps(NETWORK.to_json()))
    assert run(monkeypatch, "cost", "--device", device, "--model", str(path)) == 0
    printed = capsys.readouterr().out
    cost = find(device).cost(NETWORK)
    assert f"{cost.latency_ms:.4g} ms" in printed
    assert "expand depthwise project" in printed
    if device == "hwnasbench-fpga":
        share = NETWORK.layers[0].macs / sum(layer.macs for layer in NETWORK)
        assert f"{share:.1%} of the operations): stem" in printed
        assert cost.latency_ms == pytest.approx(1.19808)  # the published block of this shape
    else:
        assert "no energy" in printed


def test_what_the_table_does_not_know_is_one_line(tmp_path, monkeypatch, capsys):
    path = tmp_path / "plain.json"
    path.write_text(json.dumps(Workload("plain", NETWORK.layers[:1]).to_json()))
    assert run(monkeypatch, "cost", "--device", "hwnasbench-fpga", "--model", str(path)) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "inverted bottlenecks" in said[0]
    with pytest.raises(ConfigError, match="published_cost"):
        price_workload(NETWORK, "hwnasbench-fpga")
    assert published_cost(NETWORK, "cpu") is None


def problem(device: str, **options):
    return prepare(RunConfig(space="shiftadd", device=device, **options), Reporter(quiet=True))


def test_a_search_uses_the_published_rules():
    found = problem("hwnasbench-eyeriss")
    assert found.objectives.names == ("accuracy", "latency_ms")
    assert found.costs.metrics == ("latency_ms", "params", "macs")
    assert found.space.operators == ("conv",)
    arch = {name: options[0] for name, options in found.space.choices.items()}
    [front] = found.costs.fronts([arch])
    expected = find("hwnasbench-eyeriss").cost(found.space.workload(arch)).latency_ms
    assert front.metric("latency_ms")[0] == pytest.approx(expected)
    limited = problem("hwnasbench-eyeriss", max_latency_ms=expected / 2)
    assert len(limited.costs.fronts([arch])[0]) == 0
    assert "device" in fingerprint(found)


def test_a_metric_that_the_table_lacks_is_refused():
    with pytest.raises(ConfigError, match="gives no 'energy_mj'"):
        problem("hwnasbench-eyeriss", objectives="accuracy,energy_mj")


def test_a_space_of_which_the_table_charges_nothing_is_refused():
    with pytest.raises(HardwareError, match="inverted bottlenecks"):
        prepare(RunConfig(space="nasbench201", device="hwnasbench-fpga"), Reporter(quiet=True))
