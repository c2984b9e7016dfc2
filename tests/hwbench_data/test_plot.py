"""The page of a front: its drawing follows the front, its scales are round, what it quotes is quoted."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hwbench_data
from hwbench_data.plot import HEIGHT, MARGIN, WIDTH, front_page, round_numbers
from hwbench_data.store import ANY, Block, Card, Metric, write

METRICS = {
    "accuracy": Metric("fraction", "higher", "accuracy"),
    "latency_ms": Metric("ms", "lower", "time"),
    "energy_mj": Metric("mJ", "lower", "energy"),
}
ACCURACY, LATENCY = np.array([0.5, 0.7, 0.6, 0.9]), np.array([1.0, 2.0, 3.0, 5.0])
ENERGY = np.array([8.0, 9.0, 1.0, 6.0])


@pytest.fixture
def table(tmp_path: Path) -> hwbench_data.Table:
    kinds = {"kind": "listed", "count": 4}
    devices = {"chip": {"title": "a chip"}}
    card = Card("toy", "four", kinds, METRICS, devices, {"input": ("<8>",)}, {"command": "by hand"}, ("a < b & c",), {})
    blocks = [
        Block.full((ANY, "accuracy", ANY), ACCURACY, "measured"),
        Block.full(("chip", "latency_ms", ANY), LATENCY, "measured"),
        Block.full(("chip", "energy_mj", ANY), ENERGY, "measured"),
    ]
    write(tmp_path / "toy", card, blocks, ["<b>", "b", "c", "d"])
    return hwbench_data.load(tmp_path / "toy")


def across(values: np.ndarray, at: float) -> str:
    return f"{MARGIN + (at - values.min()) / np.ptp(values) * (WIDTH - 2 * MARGIN):.1f}"


def up(values: np.ndarray, at: float) -> str:
    return f"{HEIGHT - MARGIN - (at - values.min()) / np.ptp(values) * (HEIGHT - 2 * MARGIN):.1f}"


def drawn(page: str, what: str) -> list[str]:
    return re.findall(f'<path class="{what}" d="([^"]*)"/>', page)


def test_the_line_is_the_border_of_what_is_dominated(table: hwbench_data.Table) -> None:
    front = table.front(("accuracy", "latency_ms"), device="chip")
    assert front.index.tolist() == [3, 1, 0]
    # within more time, what was reached in less can be had: along first, then up
    points = [(across(LATENCY, LATENCY[i]), up(ACCURACY, ACCURACY[i])) for i in (0, 1, 3)]
    expected = "M{},{}".format(*points[0]) + "".join(f"H{x}V{y}" for x, y in points[1:])
    assert drawn(front_page(front, {}), "step") == [expected]
    # for more accuracy, the time of the next network is needed: up first, then along
    front = table.front(("latency_ms", "accuracy"), device="chip")
    points = [(across(ACCURACY, ACCURACY[i]), up(LATENCY, LATENCY[i])) for i in (0, 1, 3)]
    expected = "M{},{}".format(*points[0]) + "".join(f"V{y}H{x}" for x, y in points[1:])
    assert drawn(front_page(front, {}), "step") == [expected]


def test_a_front_of_three_metrics_has_no_line_in_the_plane_of_two(table: hwbench_data.Table) -> None:
    front = table.front(("accuracy", "latency_ms", "energy_mj"), device="chip")
    assert len(front) == 4
    page = front_page(front, {})
    assert drawn(page, "step") == [""]
    for accuracy, latency in zip(ACCURACY, LATENCY, strict=True):
        assert f'<circle cx="{across(LATENCY, latency)}" cy="{up(ACCURACY, accuracy)}" r="4">' in page


def test_limits_are_drawn_where_they_are_seen_and_said(table: hwbench_data.Table) -> None:
    limits = {"max_latency_ms": 4.0, "min_accuracy": 0.3}  # the second one is below all that is drawn
    page = front_page(table.front(("accuracy", "latency_ms"), limits, "chip"), {}, limits)
    assert [line.split(",")[0] for line in drawn(page, "limit")] == [f"M{across(LATENCY, 4.0)}"]
    assert "those with at most 4 latency_ms, at least 0.3 accuracy" in page
    assert "the front is of all of them" in front_page(table.front(("accuracy", "latency_ms"), device="chip"), {})


def test_names_notes_and_figures_are_quoted_and_listed(table: hwbench_data.Table) -> None:
    page = front_page(table.front(("accuracy", "latency_ms"), device="chip"), {"input": "<8>"})
    assert "<b>" not in page
    assert "a &lt; b &amp; c" in page
    assert "toy on chip, &lt;8&gt;: front of 3 networks" in page
    assert "<tr><td>0</td><td>&lt;b&gt;</td><td>0.5</td><td>1</td></tr>" in page
    assert "4 of 4 networks in grey" in page


def test_one_network_is_a_drawing_too(table: hwbench_data.Table) -> None:
    page = front_page(table.front(("latency_ms",), {"max_latency_ms": 1.5}, "chip"), {})
    assert page.count('r="4"') == 1


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_scales_are_round(low: float, span: float) -> None:
    high = low + span
    ticks = round_numbers(low, high)
    if not high > low:
        assert ticks == [low]
        return
    assert 2 <= len(ticks) <= 7
    slack = 1e-6 * (high - low) + 1e-9 * max(abs(low), abs(high))
    assert low - slack <= ticks[0] <= ticks[-1] <= high + slack
    step = (ticks[-1] - ticks[0]) / (len(ticks) - 1)
    if step > 1e-6 * max(abs(low), abs(high)):  # else the ticks themselves are rounded
        assert np.allclose(np.diff(ticks), step, rtol=1e-6)
        digit = step / 10 ** math.floor(math.log10(step) + 1e-6)
        assert min(abs(digit - n) for n in (1, 2, 5)) < 1e-5
        assert abs(ticks[0] / step - round(ticks[0] / step)) < 1e-3
