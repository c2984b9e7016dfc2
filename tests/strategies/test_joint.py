"""Accelerators searched with networks, beside the enumeration of every pair."""

from itertools import product

import numpy as np
import pytest

from cosearch.errors import ConfigError, InfeasibleError
from cosearch.strategies import Candidate, Failure, Objectives, make
from cosearch.strategies.base import TURNS
from cosearch.strategies.improvement import volume_below_zero
from cosearch.strategies.objectives import undominated
from search_spaces.decisions import OF_ACCELERATOR, Decisions, network_key, split

NETWORKS = {"width": (8, 16, 24, 32), "depth": (1, 2, 3, 4), "operator": ("conv", "shift", "add")}
ACCELERATORS = {"rows": (2, 4, 8, 16), "cols": (2, 4, 8, 16), "kib": (4, 8, 16)}
SPACE = {**NETWORKS, **{OF_ACCELERATOR + name: options for name, options in ACCELERATORS.items()}}
OBJECTIVES = Objectives(("accuracy", "latency_ms", "area_mm2"))
NAMES = ["bayesian", "evolutionary", "random", "reinforce", "optuna-tpe", "optuna-nsga2"]
every = pytest.mark.parametrize("name", NAMES)


def accuracy(network) -> float:
    size = (network["width"] / 8) ** 0.6 * network["depth"] ** 0.5
    return float(1 - np.exp(-0.5 * size * {"conv": 1.0, "shift": 0.93, "add": 0.97}[network["operator"]]))


def latency(network, accelerator) -> float:
    """The widths have to fit the array, and the weights the memory: neither side is best alone."""
    width, depth = network["width"], network["depth"]
    passes = -(-width // accelerator["rows"]) * -(-width // accelerator["cols"])
    return depth * passes * max(1.0, width * width * depth / (accelerator["kib"] * 128))


def area(network, accelerator) -> float:
    element = {"conv": 4.0, "shift": 1.0, "add": 1.5}[network["operator"]]
    return accelerator["rows"] * accelerator["cols"] * element + 20.0 * accelerator["kib"]


COSTS = {"latency_ms": latency, "area_mm2": area}


def point(network, accelerator) -> tuple[float, float, float]:
    return -accuracy(network), latency(network, accelerator), area(network, accelerator)


def pairs() -> list[tuple[dict, dict]]:
    sides = [[dict(zip(x, chosen, strict=True)) for chosen in product(*x.values())] for x in (NETWORKS, ACCELERATORS)]
    return list(product(*sides))


def search(name: str, evaluations: int, seed: int = 0, **options) -> list[Candidate]:
    """Of so many groups of turns; each network evaluated once, and its accuracy taken from the candidate after that."""
    strategy = make(name, SPACE, COSTS, OBJECTIVES, seed, **options)
    return follow(strategy, evaluations)


def follow(strategy, evaluations: int) -> list[Candidate]:
    found = []
    while len(strategy.history.told) < TURNS * evaluations:
        for candidate in strategy.ask(strategy.batch - len(strategy.history.told) % strategy.batch):
            evaluated = {} if candidate.accuracy is not None else {"accuracy": accuracy(split(candidate.arch)[0])}
            strategy.tell(candidate, evaluated)
            found.append(candidate)
    return found


@every
@pytest.mark.parametrize("batch", [1, 4])
def test_a_network_is_evaluated_once_and_no_pair_comes_twice(name, batch):
    found = search(name, 8, batch=batch)
    first = {}
    for candidate in found:
        known = first.setdefault(network_key(candidate.arch), accuracy(split(candidate.arch)[0]))
        assert candidate.accuracy in (None, known)
    assert sum(candidate.accuracy is None for candidate in found) == len(first) == 8
    assert len({candidate.key for candidate in found}) == len(found) == 8 * TURNS


@every
def test_a_replay_proposes_what_an_uninterrupted_search_does(name):
    whole = search(name, 8, batch=4)
    for told in (13, 32, 50):
        strategy = make(name, SPACE, COSTS, OBJECTIVES, 0, batch=4)
        for candidate in whole[:told]:
            strategy.tell(Candidate(candidate.number, candidate.arch), {"accuracy": accuracy(split(candidate.arch)[0])})
        assert whole[:told] + follow(strategy, 8) == whole


def volume(points) -> float:
    """Below the nadir of the front of all pairs."""
    everything = np.array([point(*pair) for pair in pairs()])
    front = logarithmic(everything[undominated(everything)])
    scaled = (logarithmic(np.array(points)) - front.max(0)) / np.ptp(front, axis=0)
    return volume_below_zero(scaled[(scaled < 0).all(1)])


def logarithmic(points):
    return np.column_stack([points[:, 0], np.log(points[:, 1:])])


@pytest.mark.parametrize("name", ["bayesian", "evolutionary", "random", "reinforce"])
def test_what_is_found_is_near_to_the_front_of_every_pair(name):
    """A part of the 48 networks is evaluated, and of the 2,304 pairs at most one in twelve is told."""
    found = [point(*split(candidate.arch)) for candidate in search(name, 24)]
    reached = volume(found) / volume([point(*pair) for pair in pairs()])
    assert {"random": 0.8, "reinforce": 0.8}.get(name, 0.9) <= reached <= 1 + 1e-9


def test_of_networks_that_are_all_known_every_pair_is_found():
    """Where nothing is left to evaluate, the accelerators are: the front is that of the enumeration."""
    networks = {"width": (8, 32), "operator": ("conv", "shift")}
    accelerators = {"rows": (2, 4, 8), "kib": (4, 16)}
    space = {**networks, **{OF_ACCELERATOR + name: options for name, options in accelerators.items()}}

    def cost(network, accelerator):
        return latency({**network, "depth": 2}, {**accelerator, "cols": 4})

    strategy = make("evolutionary", space, {"latency_ms": cost}, ("accuracy", "latency_ms"))
    told = {}
    for _ in range(24):
        [candidate] = strategy.ask()
        network, accelerator = split(candidate.arch)
        measured = candidate.accuracy or accuracy({**network, "depth": 2})
        strategy.tell(candidate, {"accuracy": measured})
        told[candidate.key] = (-measured, cost(network, accelerator))
    with pytest.raises(InfeasibleError, match="no further network"):
        strategy.ask()
    every_pair = [
        (-accuracy({"width": w, "operator": o, "depth": 2}), cost({"width": w, "operator": o}, {"rows": r, "kib": k}))
        for w, o, r, k in product(*networks.values(), *accelerators.values())
    ]
    assert strategy.history.evaluated == 4
    assert sorted(told.values()) == sorted(every_pair)


def test_a_network_that_failed_is_not_proposed_with_another_accelerator():
    strategy = make("evolutionary", SPACE, COSTS, OBJECTIVES, 0)
    failed = set()
    for _ in range(60):
        [candidate] = strategy.ask()
        assert network_key(candidate.arch) not in failed
        if candidate.accuracy is None and len(failed) < 3:
            failed.add(network_key(candidate.arch))
            strategy.tell(candidate, Failure("died"))
        else:
            strategy.tell(candidate, {"accuracy": accuracy(split(candidate.arch)[0])})
    assert len(failed) == 3


@every
def test_limits_on_a_pair_are_free(name):
    limited = Objectives(OBJECTIVES.names, constraints={"max_area_mm2": 120.0, "max_latency_ms": 40.0})
    strategy = make(name, SPACE, COSTS, limited, 0)
    for candidate in follow(strategy, 5):
        _, ms, area = point(*split(candidate.arch))
        assert ms <= 40.0
        assert area <= 120.0


def test_a_cost_of_a_pair_can_be_an_array():
    space = Decisions({"width": (8, 16), OF_ACCELERATOR + "rows": (2, 4)})
    table = np.array([[1.0, 2.0], [3.0, 4.0]])
    strategy = make("random", space, {"latency_ms": table}, ("accuracy", "latency_ms"))
    seen = {}
    for _ in range(4):
        [candidate] = strategy.ask()
        strategy.tell(candidate, {"accuracy": 0.5})
        seen[tuple(candidate.arch.values())] = strategy.history.told[-1].front.metric("latency_ms")[0]
    assert seen == {(8, 2): 1.0, (8, 4): 2.0, (16, 2): 3.0, (16, 4): 4.0}


def test_a_cost_that_only_an_evaluation_tells_is_asked_for_on_every_accelerator():
    strategy = make("bayesian", SPACE, {"area_mm2": area}, OBJECTIVES, 0)
    for _ in range(24):
        [candidate] = strategy.ask()
        if candidate.accuracy is not None:
            with pytest.raises(ConfigError, match="lacks latency_ms"):
                strategy.tell(candidate, {})
        network, accelerator = split(candidate.arch)
        strategy.tell(candidate, {"accuracy": accuracy(network), "latency_ms": latency(network, accelerator)})
    assert strategy.history.evaluated < 24


@pytest.mark.parametrize(
    ("space", "cost", "words"),
    [
        (
            {"a": (1, 2), "accelerator.r": (1, 2)},
            lambda arch: 1.0,
            "expected a function of the network's decisions and",
        ),
        ({"accelerator.r": (1, 2)}, lambda network, accelerator: 1.0, "every decision begins with 'accelerator.'"),
    ],
)
def test_what_is_no_joint_search(space, cost, words):
    with pytest.raises(ConfigError, match=words):
        make("bayesian", space, {"latency_ms": cost}, ("accuracy", "latency_ms")).ask()
