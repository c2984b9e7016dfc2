"""What a search has found so far, against every pair of results and the rule that a run recommends by."""

import numpy as np
import pytest

from cosearch.comparison import designs_of
from cosearch.errors import InfeasibleError
from cosearch.shortlist import shortlist
from cosearch.strategies import STRATEGIES, Failure, Found, Objectives, make
from search_spaces.decisions import arch_key
from tests.strategies import test_joint, test_known
from tests.strategies.synthetic import OBJECTIVES, SPACE, Costs, accuracy, latency

every = pytest.mark.parametrize("name", sorted(STRATEGIES))


def searched(name, objectives, costs, measured, n=12, space=test_known.SPACE):
    """Of the results every seventh is a failure."""
    functions = {"accuracy": test_known.accuracy, "latency_ms": test_known.latency, "params": params}
    strategy = make(name, space, costs, objectives, 0)
    for number in range(n):
        [candidate] = strategy.ask()
        values = {m: functions[m](candidate.arch) for m in measured}
        strategy.tell(candidate, Failure("died") if number % 7 == 3 else values)
    return strategy


def params(arch) -> float:
    return float(arch["width"] ** 2 * arch["depth"])


def unbeaten(points):
    """points: key -> values to be minimised."""
    return {
        key
        for key, own in points.items()
        if not any(o != own and all(x <= y for x, y in zip(o, own, strict=True)) for o in points.values())
    }


@every
@pytest.mark.parametrize("known", [True, False])
def test_the_front_of_what_was_told_against_every_pair(name, known):
    """Under limits on accuracy and on what is no objective, both known and measured."""
    objectives = Objectives(("accuracy", "latency_ms"), 0.55, {"max_params": 6000.0})
    costs = {"latency_ms": test_known.latency, "params": params} if known else {"latency_ms": test_known.latency}
    strategy = searched(name, objectives, costs, ("accuracy",) if known else ("accuracy", "params"))
    good = [t.candidate.arch for t in strategy.history.told if not t.failed]
    allowed = [a for a in good if test_known.accuracy(a) >= 0.55 and params(a) <= 6000.0]
    assert len(good) < 12
    expected = unbeaten({arch_key(a): (-test_known.accuracy(a), test_known.latency(a)) for a in allowed})
    front = strategy.front()
    assert {found.candidate.key for found in front} == expected
    assert [f.values["accuracy"] for f in front] == sorted((f.values["accuracy"] for f in front), reverse=True)
    for found in front:
        arch = found.candidate.arch
        wanted = {"accuracy": test_known.accuracy(arch), "latency_ms": test_known.latency(arch), "params": params(arch)}
        assert found.values == wanted
        assert list(found.values)[:2] == ["accuracy", "latency_ms"]
    assert strategy.knee() in front


def test_of_a_hardware_front_every_point_counts():
    """A second accelerator costs half as much again: it is beaten by the first, unless the first breaks a limit."""
    strategy = make("random", SPACE, Costs(), OBJECTIVES, 0)
    for choice in (0, 1):
        arch = dict.fromkeys(SPACE.choices, choice)
        strategy.tell(arch, {"accuracy": accuracy(arch)})
    front = strategy.front()
    assert [(f.candidate.point, f.values["latency_ms"]) for f in front] == [(0, 9.0), (0, 1.0)]

    strategy = make("random", SPACE, Costs(), Objectives(("latency_ms",), constraints={"min_latency_ms": 10.0}), 0)
    arch = dict.fromkeys(SPACE.choices, 1)
    strategy.tell(arch, {})
    assert strategy.front() == [Found(strategy.front()[0].candidate, {"latency_ms": 1.5 * latency(arch)})]


@pytest.mark.parametrize("seed", range(4))
def test_the_knee_is_the_one_that_a_run_recommends(seed):
    rng = np.random.default_rng(seed)
    objectives = Objectives(("accuracy", "latency_ms", "params"), min_accuracy=0.6)
    strategy = make("random", test_known.SPACE, {"latency_ms": test_known.latency, "params": params}, objectives, seed)
    for at in rng.permutation(len(test_known.ARCHS))[:40]:
        arch = test_known.ARCHS[at]
        strategy.tell(arch, {"accuracy": round(test_known.accuracy(arch), 2)})  # so that some are equal
    designs = {"search": designs_of(strategy.history.told, objectives.costs)}
    [(arch, point)] = shortlist(designs, objectives, 10_000, 1, knee=True)["search"]
    found = strategy.knee()
    assert (found.candidate.arch, found.candidate.point) == (arch, point)
    assert found in strategy.front()


def test_of_accelerators_that_are_searched_too():
    space = test_joint.SPACE
    strategy = make("evolutionary", space, test_joint.COSTS, test_joint.OBJECTIVES, 0)
    test_joint.follow(strategy, 2)
    points = {t.candidate.key: test_joint.point(*test_joint.split(t.candidate.arch)) for t in strategy.history.told}
    found = [points[found.candidate.key] for found in strategy.front()]
    assert len(set(found)) == len(found)  # of equal ones the first
    assert set(found) == {points[key] for key in unbeaten(points)}


def test_nothing_that_meets_the_limits():
    strategy = make("random", test_known.SPACE, None, Objectives(("accuracy",), min_accuracy=0.9), 0)
    for results in ("none of 0 results", "none of 2 results meets the limits: tell more, or loosen one"):
        assert strategy.front() == []
        with pytest.raises(InfeasibleError, match=results):
            strategy.knee()
        for value in ({"accuracy": 0.5}, {"accuracy": float("nan")}):
            strategy.tell(strategy.ask()[0], value)
