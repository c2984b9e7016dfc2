import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosearch.errors import ConfigError, InfeasibleError, UnknownNameError
from cosearch.strategies import STRATEGIES, Candidate, Failure, Objectives, make, require_space
from cosearch.strategies.base import cheapest
from search_spaces.decisions import Decisions
from tests.strategies.synthetic import OBJECTIVES, SPACE, Costs, accuracy, hypervolume, latency

NAMES = sorted(STRATEGIES)
every = pytest.mark.parametrize("name", NAMES)


def run(strategy, n: int, batch: int = 20) -> list[dict]:
    found = []
    while len(found) < n:
        for candidate in strategy.ask(min(batch, n - len(found))):
            strategy.tell(candidate, {"accuracy": accuracy(candidate.arch)})
            found.append(candidate.arch)
    return found


@every
def test_no_network_is_proposed_twice_and_numbers_count_up(name):
    strategy = make(name, SPACE, Costs(), OBJECTIVES, 0)
    candidates = [c for _ in range(10) for c in tell_all(strategy, strategy.ask(20))]
    assert [c.number for c in candidates] == list(range(200))
    assert len({c.key for c in candidates}) == 200


def tell_all(strategy, candidates):
    for candidate in candidates:
        strategy.tell(candidate, {"accuracy": accuracy(candidate.arch)})
    return candidates


@every
@pytest.mark.parametrize("limit", [5.0, 8.0])
def test_constraints_are_never_violated(name, limit):
    # of 65,536 networks 495 cost at most 5
    archs = run(make(name, SPACE, Costs(limit), OBJECTIVES, 1), 100)
    assert max(map(latency, archs)) <= limit
    assert len({str(a) for a in archs}) == 100


@every
def test_the_same_seed_proposes_the_same_and_another_seed_does_not(name):
    a, b, c = (run(make(name, SPACE, Costs(), OBJECTIVES, seed), 60) for seed in (3, 3, 4))
    assert a == b
    assert a != c


@every
@pytest.mark.parametrize("limit", [np.inf, 4.0], ids=["free", "rarely met"])
@pytest.mark.parametrize("interrupted", [7, 20, 33])
def test_a_replay_proposes_what_an_uninterrupted_search_does(name, interrupted, limit):
    """As `cosearch resume` does: results so far are told to a new strategy; the batch it died in is asked again."""
    whole = run(make(name, SPACE, Costs(limit), OBJECTIVES, 5), 60)
    strategy = make(name, SPACE, Costs(limit), OBJECTIVES, 5)
    for number, arch in enumerate(whole[:interrupted]):
        strategy.tell(Candidate(number, arch), {"accuracy": accuracy(arch)})
    rest = run(strategy, -interrupted % 20, 20) if interrupted % 20 else []
    assert whole[:interrupted] + rest + run(strategy, 60 - interrupted - len(rest)) == whole


@every
def test_proposals_do_not_depend_on_the_size_of_a_request(name):
    assert run(make(name, SPACE, Costs(), OBJECTIVES, 2), 60, 20) == run(
        make(name, SPACE, Costs(), OBJECTIVES, 2), 60, 5
    )


@every
def test_failures_are_not_proposed_again_and_do_not_stop_the_search(name):
    strategy = make(name, SPACE, Costs(), OBJECTIVES, 0)
    seen = []
    for _ in range(6):
        for candidate in strategy.ask(20):
            seen.append(candidate.key)
            bad = candidate.number % 3
            value = {"accuracy": (accuracy(candidate.arch), float("nan"), float("inf"))[bad]}
            strategy.tell(candidate, Failure("died") if candidate.number % 7 == 0 else value)
    assert len(set(seen)) == 120


@every
def test_a_warm_start_is_not_proposed_again(name):
    known = run(make("random", SPACE, Costs(), OBJECTIVES, 9), 40)
    strategy = make(name, SPACE, Costs(), OBJECTIVES, 9)
    for number, arch in enumerate(known):
        strategy.tell(Candidate(number, arch), {"accuracy": accuracy(arch)})
    asked = strategy.ask(20)
    assert asked[0].number == 40
    assert not {str(c.arch) for c in asked} & {str(a) for a in known}


def test_evolution_builds_on_a_warm_start():
    best = {f"d{i}": 3 for i in range(8)}
    starts = [{**best, f"d{i}": v} for i in range(8) for v in (2, 1, 0)]
    objectives = Objectives(("accuracy",))
    strategy = make("evolutionary", SPACE, Costs(), objectives, 0)
    for number, arch in enumerate(starts[:20]):
        strategy.tell(Candidate(number, arch), {"accuracy": accuracy(arch)})
    children = [c.arch for c in strategy.ask(20)]
    assert np.mean([accuracy(a) for a in children]) > 0.85
    assert np.mean([accuracy(a) for a in run(make("random", SPACE, Costs(), objectives, 0), 20)]) < 0.75


@every
def test_a_small_space_is_proposed_whole_and_then_said_to_be_exhausted(name):
    small = Decisions({"a": (0, 1, 2), "b": (0, 1), "c": (5,)})

    class Flat(Costs):
        def fronts(self, archs):
            return Costs().fronts([{"d": a["a"]} for a in archs])

    strategy = make(name, small, Flat(), OBJECTIVES, 0)
    asked = strategy.ask(20)
    assert len({c.key for c in asked}) == len(asked) == 6
    with pytest.raises(InfeasibleError, match="after 6 of 6: lower --trials") as caught:
        strategy.ask(1)
    assert "\n" not in str(caught.value)


@every
def test_limits_that_nothing_meets(name):
    with pytest.raises(InfeasibleError, match="no further network meets the constraints after 0"):
        make(name, SPACE, Costs(0.5), OBJECTIVES, 0).ask(1)


def test_evolution_beats_random_and_comes_near_the_known_optimum():
    archs = [SPACE.decode(i) for i in np.ndindex(*[4] * 8)]
    optimum = hypervolume(archs)
    reached = {
        name: np.median([hypervolume(run(make(name, SPACE, Costs(), OBJECTIVES, s), 300)) for s in range(5)]) / optimum
        for name in ("random", "evolutionary")
    }
    assert reached["evolutionary"] > 0.95
    assert reached["evolutionary"] > reached["random"] + 0.02


def test_a_floor_on_accuracy_directs_evolution():
    floor = Objectives(("accuracy", "latency_ms"), min_accuracy=0.9)
    late = run(make("evolutionary", SPACE, Costs(), floor, 0), 300)[200:]
    free = run(make("evolutionary", SPACE, Costs(), OBJECTIVES, 0), 300)[200:]
    meets = [np.mean([accuracy(a) >= 0.9 for a in archs]) for archs in (late, free)]
    assert meets[0] > meets[1] + 0.1


def test_the_recorded_point_is_the_cheapest_of_the_front():
    [candidate] = make("random", SPACE, Costs(), OBJECTIVES, 0).ask(1)
    assert candidate.point == 0  # the second accelerator costs half as much again


def test_cheapest_is_exact_where_decisions_do_not_interact():
    assert cheapest(SPACE, Costs()) == {f"d{i}": 0 for i in range(8)}
    # found although the walk starts at a network that breaks the limit in every decision
    assert cheapest(SPACE, Costs(1.0)) == {f"d{i}": 0 for i in range(8)}
    assert cheapest(SPACE, Costs(0.5)) is None


def test_names_and_spaces_that_do_not_exist():
    with pytest.raises(UnknownNameError, match="did you mean 'evolutionary'"):
        make("evolution", SPACE, Costs())
    with pytest.raises(ConfigError, match="got list"):
        require_space([1, 2])
    assert require_space({"a": [1, 2]}) == Decisions({"a": (1, 2)})


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**62), cut=st.integers(1, 39), name=st.sampled_from(NAMES))
def test_replay_for_any_seed_and_any_cut(seed, cut, name):
    whole = run(make(name, SPACE, Costs(6.0), OBJECTIVES, seed), 40)
    strategy = make(name, SPACE, Costs(6.0), OBJECTIVES, seed)
    for number, arch in enumerate(whole[:cut]):
        strategy.tell(Candidate(number, arch), {"accuracy": accuracy(arch)})
    for number in range(cut, 40):
        [candidate] = strategy.ask(1)
        assert candidate.arch == whole[number]
        strategy.tell(candidate, {"accuracy": accuracy(candidate.arch)})
