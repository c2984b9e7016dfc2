"""The joint choice beside the sequential one, against a walk over every network and accelerator."""

import itertools

import numpy as np
import pytest

from cosearch.config import RunConfig
from cosearch.hardware.report import layer_report
from cosearch.problem import prepare
from cosearch.progress import Reporter
from cosearch.report.searching import mean_interval
from cosearch.report.sequential import beside_sequential, saved
from cosearch.report.trials import Trial
from tests import tiny_space


@pytest.fixture(scope="module")
def problem(few_digits):
    config = RunConfig.make({"space": tiny_space.NAME, "device": "ecp5-25f", "data": str(few_digits)})
    return prepare(config, Reporter(quiet=True))


def evaluated(problem, n: int, seed: int) -> list[Trial]:
    rng = np.random.default_rng(seed)
    archs = [problem.space.sample(rng) for _ in range(n)]
    return [Trial(i, arch, "", float(rng.uniform(0.8, 0.95)), {}, 0.0) for i, arch in enumerate(archs)]


def by_walking(problem, trials: list[Trial], fixed_name: str) -> float:
    """The ratio, every network's front looked through for its cheapest accelerator and for the fixed one."""
    images = len(problem.dataset.validation)
    best = max(t.accuracy for t in trials)
    enough = [t for t in trials if t.accuracy >= best - (best * (1 - best) / images) ** 0.5]

    def product_over(arch, accelerators):
        return [c.latency_ms * c.energy_mj for a in accelerators if (c := problem.costs.on(a, arch)).feasible]

    def cheapest(arch) -> float:
        [front] = problem.costs.fronts([arch])
        return min(a * b for a, b in zip(front.metric("latency_ms"), front.metric("energy_mj"), strict=True))

    mixed = problem.space.largest(*problem.space.operators)
    fixed = problem.costs.least_edp_cost(mixed).accelerator(0)
    assert fixed.name == fixed_name
    first = min(enough, key=lambda t: min(product_over(t.arch, [fixed]), default=np.inf))
    return min(cheapest(t.arch) for t in enough) / cheapest(first.arch)


def test_the_ratio_is_that_of_a_walk_over_everything(problem):
    searches = {"co-search": evaluated(problem, 12, 0), "random search": evaluated(problem, 30, 1)}
    found = beside_sequential(problem, searches)
    assert found["costs"] == ["latency_ms", "energy_mj"]
    assert [row["search"] for row in found["rows"]] == list(searches)
    for row in found["rows"]:
        trials = searches[row["search"]]
        assert row["evaluations"] == len(trials)
        assert row["ratio"] == pytest.approx(by_walking(problem, trials, found["accelerator"]), rel=1e-9)
    parted = found["rows"][1]
    pieces = [searches["random search"][i : i + 5] for i in range(0, 30, 5)]
    logs = [np.log(by_walking(problem, piece, found["accelerator"])) for piece in pieces]
    assert (parted["parts"], parted["size"]) == (6, 5)
    assert parted["interval"] == pytest.approx(np.exp(mean_interval(logs)), rel=1e-9)


def test_the_fixed_accelerator_runs_every_network(problem):
    mixed = problem.space.largest(*problem.space.operators)
    assert {str(choice).split("_")[0] for choice in mixed.values()} == set(problem.space.operators)
    fixed = problem.costs.least_edp_cost(mixed).accelerator(0)
    for choices in itertools.islice(itertools.product(*problem.space.choices.values()), 0, None, 7):
        arch = dict(zip(problem.space.choices, choices, strict=True))
        assert layer_report(problem.space.workload(arch), fixed)


def test_a_choice_together_is_never_dearer_and_nothing_is_said_where_nothing_runs():
    rng = np.random.default_rng(0)
    for _ in range(200):
        n = int(rng.integers(1, 9))
        accuracy, first, last = rng.uniform(0.5, 1, n), rng.normal(size=n), rng.normal(size=n)
        assert saved(accuracy, first, last, 50) <= 0
    assert np.isnan(saved(np.array([0.9]), np.array([np.inf]), np.array([1.0]), 50))
    assert np.isnan(saved(np.empty(0), np.empty(0), np.empty(0), 50))


def test_a_given_device_has_no_such_choice(problem):
    from dataclasses import replace

    alone = replace(problem, objectives=replace(problem.objectives, names=("latency_ms", "energy_mj")))
    assert beside_sequential(alone, {}) is None
