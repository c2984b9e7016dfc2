"""The recordings of other tools are complete and consistent, so that comparisons can rest on them."""

import json
import math
from typing import Any

import pytest

from cosearch.workload import Layer
from tests.benchmarks.tools import traffic_roof
from tests.benchmarks.tools_common import LAYERS, RECORDINGS, is_depthwise
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
