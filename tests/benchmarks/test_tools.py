"""The recordings of other tools are complete and consistent, so that comparisons can rest on them."""

import json
import math
import os
from dataclasses import replace
from typing import Any

import pytest

from cosearch.workload import Layer
from tests.benchmarks.tools import traffic_roof
from tests.benchmarks.tools_common import EVEN_LAYERS, LAYERS, RECORDINGS, is_depthwise
from tests.benchmarks.zigzag_speed import VARIABLE, zigzag_speed
from tests.references.scalesim_machines import machine, with_and_without_stalls

ZIGZAG = json.loads((RECORDINGS / "zigzag.json").read_text())
SCALESIM = json.loads((RECORDINGS / "scalesim.json").read_text())
MAPPINGS = [
    pytest.param(entry["hardware"], entry["layer"], cost, id=f"{entry['hardware']}-{entry['layer']['name']}-{key}")
    for entry in ZIGZAG["results"]
    for key, cost in entry.items()
    if key.startswith("best_")
]


def test_recordings_say_where_they_come_from() -> None:
    for recording, version in ((ZIGZAG, "3.9.1"), (SCALESIM, "3.0.0")):
        assert recording["version"] == version
        assert all(recording[key] for key in ("date", "machine", "commit", "command"))
    for hardware in ZIGZAG["hardware"]:
        found = [Layer.from_json(e["layer"]) for e in ZIGZAG["results"] if e["hardware"] == hardware]
        assert found == list(LAYERS)
    for place in {(e["dataflow"], e["rows"], e["columns"]) for e in SCALESIM["results"]}:
        results = [e for e in SCALESIM["results"] if (e["dataflow"], e["rows"], e["columns"]) == place]
        assert [Layer.from_json(e["layer"]) for e in results] == list(LAYERS)


@pytest.mark.parametrize(("hardware", "layer_json", "cost"), MAPPINGS)
def test_zigzag_mappings_are_whole(hardware: str, layer_json: dict[str, Any], cost: dict[str, Any]) -> None:
    layer = Layer.from_json(layer_json)
    nests = [[tuple(loop) for level in levels for loop in level] for levels in cost["temporal"].values()]
    assert nests[0] == nests[1] == nests[2]
    covered = dict.fromkeys("NKCPQRS", 1)
    for loop, bound in [*nests[0], *(item for loops in cost["spatial"].values() for item in loops.items())]:
        covered[loop] *= bound
    bounds = {d: getattr(layer, d) for d in covered} | ({"C": 1} if is_depthwise(layer) else {})
    assert all(covered[d] >= bounds[d] for d in covered)
    assert math.prod(bound for _, bound in nests[0]) == cost["ideal_temporal_cycles"]
    parts = ("ideal_temporal_cycles", "stall_cycles", "onloading_cycles", "offloading_cycles", "systolic_drain_cycles")
    assert cost["latency_cycles"] == pytest.approx(sum(cost[part] for part in parts))
    levels = [level for per_tensor in cost["levels"].values() for level in per_tensor]
    energy = cost["mac_energy_pj"] + sum(level["energy_pj"] for level in levels)
    assert cost["energy_pj"] == pytest.approx(energy)
    assert cost["mac_energy_pj"] == pytest.approx(layer.macs * ZIGZAG["hardware"][hardware]["mac_energy_pj"])
    assert all(level["capacity_used_by_all"] <= 1 for level in levels)


@pytest.mark.parametrize("entry", SCALESIM["results"], ids=lambda e: f"{e['dataflow']}{e['rows']}-{e['layer']['name']}")
def test_scalesim_is_fill_stream_drain(entry: dict[str, Any]) -> None:
    """Weight-stationary: rows to load, then P Q to stream and rows + columns - 2 to drain; output-stationary alike."""
    layer = Layer.from_json(entry["layer"])
    outputs, inner = (1, layer.R * layer.S) if is_depthwise(layer) else (layer.K, layer.C * layer.R * layer.S)
    pixels, rows, columns = layer.P * layer.Q, entry["rows"], entry["columns"]
    if entry["dataflow"] == "ws":
        folds = math.ceil(inner / rows) * math.ceil(outputs / columns)
        cycles = folds * (pixels + 2 * rows + columns - 2) - 1
    else:
        folds = math.ceil(pixels / rows) * math.ceil(outputs / columns)
        cycles = folds * (inner + rows + columns - 2) - 1
    assert entry["stall_free_cycles"] == cycles * entry["copies"]
    assert entry["total_cycles"] == entry["stall_free_cycles"] + entry["stall_cycles"]


STALLED = [entry for entry in SCALESIM["results"] if entry["stall_cycles"]]


@pytest.mark.parametrize("entry", STALLED, ids=lambda e: f"{e['dataflow']}{e['rows']}-{e['layer']['name']}")
def test_stalls_are_scalesims_own_traffic_over_its_ports(entry: dict[str, Any]) -> None:
    """And ours are less, because every word that is moved here is used."""
    rate = SCALESIM["words_per_cycle"]
    assert entry["total_cycles"] == pytest.approx(traffic_roof(entry, rate), rel=0.07)
    accelerator = machine(entry["dataflow"], entry["rows"], entry["columns"], SCALESIM["buffers_kib"], rate)
    layer = Layer.from_json(entry["layer"])
    ours, free = with_and_without_stalls(layer, accelerator)
    assert 0 <= ours.cycles - free.cycles < entry["stall_cycles"]
    words = sum(ours.accesses["dram", tensor][way] for tensor, way in (("I", 0), ("W", 0), ("O", 1)))
    assert words < sum(entry[f"dram_{key}"] for key in ("ifmap_reads", "filter_reads", "ofmap_writes"))
    assert ours.cycles >= layer.macs / (entry["rows"] * entry["columns"])


def test_zigzags_speed_is_the_recorded_one_where_it_cannot_run_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    found = zigzag_speed([replace(LAYERS[1], name="another name"), *EVEN_LAYERS])
    [entry] = [e for e in ZIGZAG["results"] if (e["hardware"], e["layer"]["name"]) == ("tpu_like", LAYERS[1].name)]
    recorded = entry["best_latency"]["cpu_seconds"]
    assert found.seconds(LAYERS[1]) == recorded
    assert found.beside(LAYERS[1], recorded / 250) == f"250 x ZigZag's {recorded:.2f} s"
    assert found.seconds(EVEN_LAYERS[0]) is None
    assert found.beside(EVEN_LAYERS[0], 1.0) == "no figure of ZigZag's"
    for said in ("zigzag-dse 3.9.1", ZIGZAG["date"], "not run"):
        assert said in found.source


def test_zigzag_itself_is_timed_in_the_same_run() -> None:
    if not os.environ.get(VARIABLE):
        pytest.skip(f"{VARIABLE} names no Python with zigzag-dse")
    found = zigzag_speed(EVEN_LAYERS)
    assert "3.9.1 measured in this run" in found.source
    assert 0 < (found.seconds(EVEN_LAYERS[0]) or 0) < 60
