"""Designs and their statistics against published figures and brute force."""

import json
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosearch.config import RunConfig
from cosearch.errors import RunError
from cosearch.results import Design, accuracy_difference, bought, read_result, wilson
from cosearch.runs import RunDirectory, to_json
from cosearch.tables import print_result

# Wilson score intervals at 95%: (successes, n) -> the interval of R's prop.test(x, n, correct = FALSE)
PUBLISHED = {(90, 100): (0.8256343, 0.9447708), (0, 20): (0.0, 0.1611252), (263, 263): (0.9856043, 1.0)}


@pytest.mark.parametrize("case", PUBLISHED)
def test_wilson_equals_published_figures(case):
    hits, n = case
    assert wilson(hits / n, n) == pytest.approx(PUBLISHED[case], abs=1e-6)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_fraction_and_stays_in_bounds(case):
    hits, n = case
    low, high = wilson(hits / n, n)
    assert 0 <= low <= hits / n + 1e-12
    assert hits / n - 1e-12 <= high <= 1


def made(name: str, seeds: list[np.ndarray], **costs: float) -> Design:
    correct = tuple("".join("1" if x else "0" for x in seed) for seed in seeds)
    return Design(name, {"a": "b"}, "acc", costs, correct, (0.5,) * len(seeds), 0.5)


def test_a_design_reports_what_its_images_say():
    rng = np.random.default_rng(0)
    seeds = [rng.random(200) < 0.9 for _ in range(3)]
    design = made("x", seeds, latency_ms=1.0, energy_mj=2.0)
    assert design.integer_accuracies == tuple(float(seed.mean()) for seed in seeds)
    assert design.accuracy == pytest.approx(np.mean(seeds))
    assert (design.test_images, design.latency_ms, design.energy_mj) == (200, 1.0, 2.0)
    assert Design.from_json(json.loads(json.dumps(design.to_json()))) == design


def test_the_difference_of_equal_designs_is_zero_and_of_unequal_ones_is_covered():
    rng = np.random.default_rng(1)
    base = rng.random(400) < 0.9
    same = made("a", [base, base])
    assert accuracy_difference(same, same) == (0.0, 0.0, 0.0)
    worse = base & (rng.random(400) < 0.9)
    mean, low, high = accuracy_difference(same, made("b", [worse, worse]))
    assert mean == pytest.approx(base.mean() - worse.mean())
    assert 0 < low < mean < high
    # paired: the standard error of the per-image difference, not of two independent accuracies
    error = np.std(base.astype(float) - worse) / np.sqrt(400)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.15)


def test_what_was_bought_is_a_ratio_per_baseline():
    ones = np.ones(50, dtype=bool)
    finalist = made("ours", [ones], latency_ms=1.0, energy_mj=2.0)
    other = made("theirs", [ones], latency_ms=4.0, energy_mj=4.0)
    stuck = Design("stuck", {}, "acc", {}, ("1",), (1.0,), 1.0, "cannot run there: no engine")
    assert bought([finalist, other, stuck]) == [
        "against theirs: 0.50x energy, 0.25x latency at +0.00 points of accuracy [+0.00, +0.00]",
        "stuck: cannot run there: no engine",
    ]


FRONT = 'accuracy,latency_ms,energy_mj,accuracy_source,accelerator,arch\n0.5,1,2,supernet,acc,"{""a"": 1}"\n'


def outcome() -> dict[str, Any]:
    """As a run writes it, of a finalist and of it on the default accelerator, where it was not trained."""
    ones = np.ones(50, dtype=bool)
    ours = made("ours", [ones, ~ones], latency_ms=1.0, energy_mj=2.0).to_json()
    ours |= {"policies": [["mac", 1.0]], "cost_intervals": {"latency_ms": [0.5, 2]}, "edp_bound": None}
    pipeline = {"interval_ms": 1, "energy_mj": 1, "limit": "mac", "interval_is_bound": False, "throughput_fps": 9}
    default = Design("ours @ default", {"a": 1}, "acc", {}, (), (), 0.5, "no room").to_json()
    return {
        "format": "cosearch.result",
        "version": 1,
        "objectives": ["accuracy", "latency_ms"],
        "costs_are": "modelled [/bold]",
        "front_sha256": sha256(FRONT.encode()).hexdigest(),
        "designs": [{**ours, "pipeline": pipeline}, default],
        "notes": ["so"],
    }


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory.create(tmp_path / "run", RunConfig())
    directory.write("front.csv", FRONT)
    return directory


def test_a_result_is_read_and_printed(run, capsys):
    run.write("result.json", to_json(outcome()))
    print_result(read_result(run))
    assert "Costs, modelled [/bold]" in capsys.readouterr().out  # what files say is no markup


@pytest.mark.parametrize(
    ("place", "value", "field"),
    [
        ((), [], "the document"),
        (("designs",), [], "designs"),
        (("objectives",), [["accuracy"]], "objectives.0"),
        (("objectives",), ["accuracy", "arch"], "'arch'"),
        (("costs_are",), None, "costs_are"),
        (("notes",), [None], "notes.0"),
        (("designs", 0), [1], "designs.0"),
        (("designs", 0, "policies"), [["mac", 1.0, 2]], "designs.0.policies.0"),
        (("designs", 0, "policies"), [[[], 1.0]], "designs.0.policies.0.0"),
        (("designs", 0, "cost_intervals"), [], "designs.0.cost_intervals"),
        (("designs", 0, "cost_intervals"), {"latency_ms": [1]}, "designs.0.cost_intervals.latency_ms"),
        (("designs", 0, "correct"), ["1"], "designs.0.float_accuracies"),
        (("designs", 0, "correct"), ["10", "1"], "designs.0.correct"),
        (("designs", 0, "correct"), ["", "1"], "designs.0.correct.0"),
        (("designs", 0, "correct"), [1, "0"], "designs.0.correct.0"),
        (("designs", 0, "float_accuracies"), ["a", 0.5], "designs.0.float_accuracies.0"),
        (("designs", 0, "costs"), {"latency_ms": "a", "energy_mj": 1}, "designs.0.costs.latency_ms"),
        (("designs", 0, "costs"), {"latency_ms": 1}, "designs.0.costs"),
        (("designs", 0, "arch"), [], "designs.0.arch"),
        (("designs", 0, "accelerator"), None, "designs.0.accelerator"),
        (("designs", 0, "name"), 3, "designs.0.name"),
        (("designs", 0, "pipeline"), {"limit": "mac"}, "designs.0.pipeline"),
        (("designs", 0, "edp_bound"), "a", "designs.0.edp_bound"),
        (("designs", 0, "search_accuracy"), None, "designs.0.search_accuracy"),
        (("designs", 1, "name"), "theirs", "designs.1.correct"),
    ],
)
def test_a_damaged_result_is_refused_in_one_line_that_names_the_field(run, place, value, field):
    data: Any = {"whole": outcome()}
    at, last = data, "whole"
    for key in place:
        at, last = at[last], key
    at[last] = value
    run.write("result.json", to_json(data["whole"]))
    with pytest.raises(RunError, match=r"result\.json") as caught:
        read_result(run)
    assert field in str(caught.value)
    assert "\n" not in str(caught.value)
