"""The restated rules of ZigZag against what ZigZag recorded: its own best mappings, and random ones."""

import json
from typing import Any

import pytest

from cosearch.workload import Layer
from tests.benchmarks.tools_common import RECORDINGS
from tests.references.zigzag_rules import price

ZIGZAG = json.loads((RECORDINGS / "zigzag.json").read_text())
FOUND = [(e["hardware"], e["layer"], e[key]) for e in ZIGZAG["results"] for key in e if key.startswith("best_")]
GIVEN = [(entry["hardware"], entry["layer"], entry) for entry in ZIGZAG["given"]]


@pytest.mark.parametrize(("hardware", "layer", "recorded"), FOUND + GIVEN)
def test_price_equals_zigzag(hardware: str, layer: dict[str, Any], recorded: dict[str, Any]) -> None:
    found = price(Layer.from_json(layer), ZIGZAG["hardware"][hardware], recorded, ZIGZAG["partial_sum_bits"])
    for figure, value in vars(found).items():
        assert value == pytest.approx(recorded[figure], rel=1e-9), figure


def test_recorded_mappings_reach_every_rule() -> None:
    """Stalls, spilled partial sums and memories without room to double-buffer all occur among the random mappings."""
    given = ZIGZAG["given"]
    assert sum(entry["stall_cycles"] > 0 for entry in given) > len(given) / 2
    spilled = [g for g in given if any(loop in "CRS" for level in g["temporal"]["O"][1:] for loop, _ in level)]
    assert len(spilled) > len(given) / 4
