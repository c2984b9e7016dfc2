from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosearch.errors import ConfigError, InfeasibleError, UnknownNameError
from cosearch.strategies import STRATEGIES, Candidate, Failure, Objectives, make, require_space
from cosearch.strategies.auto import choose
from cosearch.strategies.base import cheapest
from cosearch.strategies.evolutionary import Similar, into, operator_spaces, random_networks
from search_spaces.decisions import Decisions
from search_spaces.networks import hybrid, shiftadd
from tests import tiny_space
from tests.strategies.synthetic import OBJECTIVES, SPACE, Costs, accuracy, hypervolume, latency

NAMES = sorted(set(STRATEGIES) - {"auto"})
every = pytest.mark.parametrize("name", NAMES)
TRIALS = {"evolutionary": 100, "random": 200, "bayesian": 30, "differentiable": 30, "optuna-tpe": 30, "optuna-gp": 12}
"""Enough that each strategy does more than sample at random, and no more: models are slow."""


def trials(name: str) -> int:
    return TRIALS.get(name, 60)


def run(strategy, n: int) -> list[dict]:
    found = []
    while len(found) < n:
        for candidate in strategy.ask(min(strategy.batch, n - len(found))):
            strategy.tell(candidate, {"accuracy": accuracy(candidate.arch)})
            found.append(candidate.arch)
    return found


@every
def test_no_network_is_proposed_twice_and_numbers_count_up(name):
    strategy = make(name, SPACE, Costs(), OBJECTIVES, 0, batch=4)
    candidates = []
    for _ in range(trials(name) // 4):
        for candidate in strategy.ask(4):
            strategy.tell(candidate, {"accuracy": accuracy(candidate.arch)})
            candidates.append(candidate)
    assert [c.number for c in candidates] == list(range(len(candidates)))
    assert len({c.key for c in candidates}) == len(candidates)


@every
@pytest.mark.parametrize("limit", [5.0, 8.0])
def test_constraints_are_never_violated(name, limit):
    # of 65,536 networks 495 cost at most 5
    archs = run(make(name, SPACE, Costs(limit), OBJECTIVES, 1), trials(name) // 2)
    assert max(map(latency, archs)) <= limit
    assert len({str(a) for a in archs}) == len(archs)


@every
def test_the_same_seed_proposes_the_same_and_another_seed_does_not(name):
    a, b, c = (run(make(name, SPACE, Costs(), OBJECTIVES, seed), trials(name) // 2) for seed in (3, 3, 4))
    assert a == b
    assert a != c


@every
@pytest.mark.parametrize("limit", [np.inf, 4.0], ids=["free", "rarely met"])
@pytest.mark.parametrize("share", [0.4, 0.75, 0.9])
def test_a_replay_proposes_what_an_uninterrupted_search_does(name, share, limit):
    """As `cosearch resume` does: results so far are told to a new strategy; the batch it died in is asked again."""
    n = trials(name) // 2 // 4 * 4
    interrupted = int(share * n)
    whole = run(make(name, SPACE, Costs(limit), OBJECTIVES, 5, batch=4), n)
    strategy = make(name, SPACE, Costs(limit), OBJECTIVES, 5, batch=4)
    for number, arch in enumerate(whole[:interrupted]):
        strategy.tell(Candidate(number, arch), {"accuracy": accuracy(arch)})
    left = -interrupted % 4
    rest = [c.arch for c in strategy.ask(left)] if left else []
    for number, arch in enumerate(rest, interrupted):
        strategy.tell(Candidate(number, arch), {"accuracy": accuracy(arch)})
    assert whole[:interrupted] + rest + run(strategy, n - interrupted - left) == whole


@every
def test_results_of_the_own_batch_change_nothing(name):
    """Told one by one or all at once, early or late: the same proposals."""
    n = trials(name) // 2 // 4 * 4
    together, apart = (make(name, SPACE, Costs(), OBJECTIVES, 2, batch=4) for _ in range(2))
    singly = []
    for _ in range(n):
        [candidate] = apart.ask(1)
        apart.tell(candidate, {"accuracy": accuracy(candidate.arch)})
        singly.append(candidate.arch)
    assert run(together, n) == singly


@every
def test_failures_are_not_proposed_again_and_do_not_stop_the_search(name):
    strategy = make(name, SPACE, Costs(), OBJECTIVES, 0, batch=4)
    seen = []
    for _ in range(trials(name) // 4):
        for candidate in strategy.ask(4):
            seen.append(candidate.key)
            bad = candidate.number % 3
            value = {"accuracy": (accuracy(candidate.arch), float("nan"), float("inf"))[bad]}
            strategy.tell(candidate, Failure("died") if candidate.number % 7 == 0 else value)
    assert len(set(seen)) == len(seen)


@every
def test_a_warm_start_is_not_proposed_again(name):
    known = run(make("random", SPACE, Costs(), OBJECTIVES, 9), trials(name))
    strategy = make(name, SPACE, Costs(), OBJECTIVES, 9)
    for number, arch in enumerate(known):
        strategy.tell(Candidate(number, arch), {"accuracy": accuracy(arch)})
    asked = strategy.ask(3)
    assert asked[0].number == len(known)
    assert not {str(c.arch) for c in asked} & {str(a) for a in known}


@pytest.mark.parametrize("name", ["evolutionary", "bayesian"])
def test_a_warm_start_is_built_on(name):
    best = {f"d{i}": 3 for i in range(8)}
    starts = [{**best, f"d{i}": v} for i in range(8) for v in (2, 1, 0)]
    objectives = Objectives(("accuracy",))
    strategy = make(name, SPACE, Costs(), objectives, 0)
    for number, arch in enumerate(starts[:20]):
        strategy.tell(Candidate(number, arch), {"accuracy": accuracy(arch)})
    children = [c.arch for c in strategy.ask(10)]
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
    with pytest.raises(InfeasibleError, match="no further network meets the constraints after 0 of 65536: loosen one"):
        make(name, SPACE, Costs(0.5), OBJECTIVES, 0).ask(1)


def test_searches_beat_random_and_come_near_the_known_optimum():
    archs = [SPACE.decode(i) for i in np.ndindex(*[4] * 8)]
    optimum = hypervolume(archs)

    def reached(name: str, n: int, seeds: int) -> float:
        found = (run(make(name, SPACE, Costs(), OBJECTIVES, s), n) for s in range(seeds))
        return float(np.median([hypervolume(f) for f in found])) / optimum

    chance = reached("random", 200, 5)
    assert reached("evolutionary", 200, 3) > max(0.95, chance + 0.02)
    assert reached("bayesian", 50, 2) > max(0.93, chance + 0.02)


@pytest.mark.parametrize("name", ["evolutionary", "bayesian"])
def test_a_warm_start_is_built_on_by_the_first_group(name):
    """However large the groups are; and groups are counted from behind it."""
    best = {f"d{i}": 3 for i in range(8)}
    starts = [{**best, f"d{i}": v} for i in range(8) for v in (2, 1, 0)][:18]
    strategy, singly = (make(name, SPACE, Costs(), Objectives(("accuracy",)), 0, batch=64) for _ in range(2))
    for arch in starts:
        strategy.tell(arch, {"accuracy": accuracy(arch)})
        singly.tell(arch, {"accuracy": accuracy(arch)})
    assert [t.candidate.arch for t in strategy.history.known(strategy.history.next_number)] == starts
    children = strategy.ask(10)
    assert np.mean([accuracy(c.arch) for c in children]) > 0.85
    # one result after the other of the same group changes nothing, as without a warm start
    for child in children:
        [candidate] = singly.ask(1)
        singly.tell(candidate, {"accuracy": accuracy(candidate.arch)})
        assert candidate == child


@every
def test_a_replay_with_a_warm_start_proposes_the_same(name):
    known = run(make("random", SPACE, Costs(), OBJECTIVES, 9), 6)
    strategies = [make(name, SPACE, Costs(), OBJECTIVES, 3, batch=4) for _ in range(2)]
    for strategy in strategies:
        for arch in known:
            strategy.tell(arch, {"accuracy": accuracy(arch)})
    whole = run(strategies[0], 12)
    for number, arch in enumerate(whole[:6], 6):
        strategies[1].tell(Candidate(number, arch), {"accuracy": accuracy(arch)})
    rest = strategies[1].ask(2)  # of the group that was interrupted
    for candidate in rest:
        strategies[1].tell(candidate, {"accuracy": accuracy(candidate.arch)})
    assert whole == whole[:6] + [c.arch for c in rest] + run(strategies[1], 4)


def test_a_trial_has_one_result():
    strategy = make("random", SPACE, Costs(), OBJECTIVES, 0)
    [candidate] = strategy.ask()
    strategy.tell(candidate, {"accuracy": 0.5})
    for again in ({"accuracy": 0.9}, {"accuracy": 0.5}, Failure("died")):
        with pytest.raises(ConfigError, match="trial 0 has a result already: tell each once"):
            strategy.tell(candidate, again)
    strategy.tell(candidate.arch, {"accuracy": 0.6})  # evaluated again, as a result of its own
    assert [(t.candidate.number, t.accuracy) for t in strategy.history.told] == [(0, 0.5), (1, 0.6)]


def test_parents_that_age_are_the_latest_and_the_front_stays():
    """The best networks are told first, and bad ones after them: only with ageing do the bad ones have children."""
    best = {f"d{i}": 3 for i in range(8)}
    old = [{**best, f"d{i}": v} for i in range(8) for v in (2, 1, 0)]
    late = [{**dict.fromkeys(best, 0), f"d{i}": v} for i in range(8) for v in (1, 2, 3)]
    children = {}
    for age in (None, 24, 48):
        strategy = make("evolutionary", SPACE, Costs(), Objectives(("accuracy",)), 0, age=age)
        for arch in old + late:
            strategy.tell(arch, {"accuracy": accuracy(arch)})
        children[age] = [sum(c.arch.values()) for c in strategy.ask(30)]
    assert min(children[None]) > 12
    assert sum(total < 12 for total in children[24]) >= 4
    assert sum(total > 20 for total in children[24]) >= 4  # steps around the front, which does not age
    assert children[48] == children[None]  # all are among the latest


def test_ageing_replays_and_climbs():
    whole = run(make("evolutionary", SPACE, Costs(), OBJECTIVES, 5, age=20), 80)
    strategy = make("evolutionary", SPACE, Costs(), OBJECTIVES, 5, age=20)
    for number, arch in enumerate(whole[:50]):
        strategy.tell(Candidate(number, arch), {"accuracy": accuracy(arch)})
    assert whole[:50] + run(strategy, 30) == whole
    assert whole != run(make("evolutionary", SPACE, Costs(), OBJECTIVES, 5), 80)
    assert hypervolume(whole) > hypervolume(run(make("random", SPACE, Costs(), OBJECTIVES, 5), 160))


@pytest.mark.parametrize("age", [0, 1, -3, 2.5, "ten"])
def test_ages_that_are_none(age):
    with pytest.raises(ConfigError, match=r"age=.*expected of how many latest results"):
        make("evolutionary", SPACE, Costs(), OBJECTIVES, age=age)


def test_a_floor_on_accuracy_directs_evolution():
    floor = Objectives(("accuracy", "latency_ms"), min_accuracy=0.9)
    late = run(make("evolutionary", SPACE, Costs(), floor, 0), 200)[100:]
    free = run(make("evolutionary", SPACE, Costs(), OBJECTIVES, 0), 200)[100:]
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
    with pytest.raises(ConfigError, match="no decisions"):
        make("random", {}, Costs())
    with pytest.raises(ConfigError, match="'populations'"):
        make("random", SPACE, Costs(), populations=3)
    with pytest.raises(ConfigError, match="batch=0"):
        make("random", SPACE, Costs(), batch=0)
    for batch in ("4", None, 2.5):
        with pytest.raises(ConfigError, match="expected a whole number, at least 1"):
            make("random", SPACE, Costs(), batch=batch)
    with pytest.raises(ConfigError, match="trials='many'"):
        make("auto", SPACE, Costs(), trials="many")
    for name in (3, None):
        with pytest.raises(UnknownNameError, match=f"is text, got {name}: known: auto, bayesian"):
            make(name, SPACE, Costs())


def test_networks_that_are_the_same_are_one_candidate():
    class Symmetric(Decisions):
        """Decisions in any order are the same network."""

        def canonical(self, arch):
            return dict(zip(arch, sorted(arch.values()), strict=True))

    space = Symmetric({f"d{i}": (0, 1, 2) for i in range(3)})
    for name in ("random", "evolutionary", "bayesian", "optuna-tpe"):
        strategy = make(name, space, Costs(), OBJECTIVES, 0)
        found = []
        for _ in range(10):
            [candidate] = strategy.ask()
            found.append(str(space.canonical(candidate.arch)))
            strategy.tell(candidate, {"accuracy": sum(candidate.arch.values()) / 6})
        assert len(set(found)) == 10
        with pytest.raises(InfeasibleError):
            strategy.ask(1)


def test_random_networks_make_no_more_sub_spaces_than_they_are_drawn_from(monkeypatch):
    """Of hybrid's 13 operators there are 8,190 subsets, and a large space is drawn from before every proposal."""
    space, made = hybrid.space(), []
    restricted = type(space).restricted
    monkeypatch.setattr(type(space), "restricted", lambda *how: made.append(how[1:]) or restricted(*how))
    archs = random_networks(space, np.random.default_rng(0), 20)
    assert made == [(operator,) for operator in space.operators] + [("conv", other) for other in space.operators[1:7]]
    assert len(archs) == 20


def test_the_first_networks_of_evolution_cover_every_subset_of_operators():
    space = shiftadd.space()
    assert [s.operators for s in list(operator_spaces(space))[1:4]] == [("conv",), ("shift",), ("add",)]
    strategy = make("evolutionary", space, {"params": lambda arch: len(str(arch))}, Objectives(("accuracy", "params")))
    used = [{str(c).split("_")[0] for c in a.arch.values()} - {"skip"} for a in strategy.ask(14)]
    assert {"conv"} in used
    assert {"shift"} in used
    assert {"add"} in used
    parts = list(operator_spaces(tiny_space.uneven()))[1:]
    assert [set(s.operators) for s in parts] == [{"conv", "shift"}, {"conv", "add"}]  # what every layer has some of


def test_a_network_moved_into_other_operators_keeps_its_shape():
    space = shiftadd.space()
    arch = space.largest("conv")
    moved = into(space.restricted("shift"), arch, np.random.default_rng(0))
    assert moved == space.largest("shift")


@pytest.mark.parametrize(
    ("size", "trials", "source", "expected"),
    [
        (15_625, 200, "table", "bayesian"),
        (10**10, 200, "supernet", "bayesian"),
        (10**10, 1_000, "supernet", "evolutionary"),
        (10**10, None, "supernet", "evolutionary"),
        (10**10, 100, "train", "bayesian"),
        (15_625, 5_000, "table", "evolutionary"),
        (100, 100, "supernet", "random"),
        (15_625, None, "supernet", "bayesian"),
    ],
)
def test_auto_says_what_it_chose_and_why(size, trials, source, expected):
    name, why = choose(size, trials, source)
    assert name == expected
    assert len(why) > 20


def test_auto_is_the_strategy_that_it_names():
    chosen = make("auto", SPACE, Costs(), OBJECTIVES, 3, trials=600, source="supernet")
    assert chosen.why.startswith("evolutionary: ")
    assert run(chosen, 30) == run(make("evolutionary", SPACE, Costs(), OBJECTIVES, 3), 30)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**62), cut=st.integers(1, 39), name=st.sampled_from(["random", "evolutionary"]))
def test_replay_for_any_seed_and_any_cut(seed, cut, name):
    whole = run(make(name, SPACE, Costs(6.0), OBJECTIVES, seed), 40)
    strategy = make(name, SPACE, Costs(6.0), OBJECTIVES, seed)
    for number, arch in enumerate(whole[:cut]):
        strategy.tell(Candidate(number, arch), {"accuracy": accuracy(arch)})
    for number in range(cut, 40):
        [candidate] = strategy.ask(1)
        assert candidate.arch == whole[number]
        strategy.tell(candidate, {"accuracy": accuracy(candidate.arch)})


def test_reinforce_policies_lean_towards_what_their_weight_rewards():
    from cosearch.strategies.shares import softmax

    strategy = make("reinforce", SPACE, Costs(), OBJECTIVES, 0)
    run(strategy, 200)
    strategy.ask()
    expected = [sum(float(softmax(logits) @ np.arange(4)) for logits in p.values()) for p in strategy._logits]
    assert expected[0] > 15 > 12 > 3 > expected[-1]  # uniform choices sum to 12; all costs nothing, none is accurate
    assert expected == sorted(expected, reverse=True)


def test_reinforce_ranks_what_breaks_a_limit_behind_what_does_not_and_by_how_far():
    objectives = Objectives(("latency_ms",), min_accuracy=0.5)
    strategy = make("reinforce", SPACE, Costs(), objectives, 0)
    archs = [dict.fromkeys(SPACE.choices, choice) for choice in (0, 1, 2, 3)]  # the cheapest is farthest from the limit
    for arch, value in zip(archs, (0.1, 0.3, 0.6, 0.9), strict=True):
        strategy.tell(arch, {"accuracy": value})
    strategy.tell({**archs[0], "d0": 1}, Failure("died"))
    ranked = np.argsort(strategy._values(strategy.history.told, 1.0))
    assert ranked.tolist() == [4, 0, 1, 3, 2]


@pytest.mark.parametrize(
    ("name", "n"), [("optuna-tpe", 60), ("optuna-gp", 18), ("optuna-nsga2", 100), ("optuna-nsga3", 100)]
)
def test_optuna_heeds_limits_on_what_is_measured(name, n):
    """Accuracy rises with latency: of the last third far more networks are fast if that is a limit."""
    kept = []
    for limits in ({}, {"max_latency_ms": 11.0}):
        strategy = make(name, SPACE, None, Objectives(("accuracy",), constraints=limits), 0)
        found = []
        for _ in range(n):
            [candidate] = strategy.ask()
            found.append(latency(candidate.arch))
            strategy.tell(candidate, {"accuracy": accuracy(candidate.arch), "latency_ms": found[-1]})
        kept.append(np.mean(np.array(found[-n // 3 :]) <= 11.0))
    assert kept[1] > kept[0] + 0.2


def test_optuna_is_told_by_how_much_a_limit_is_broken():
    objectives = Objectives(("latency_ms",), min_accuracy=0.8, constraints={"max_energy_mj": 2.0})
    strategy = make("optuna-tpe", SPACE, None, objectives, 0)
    arch = dict.fromkeys(SPACE.choices, 1)
    strategy.tell(arch, {"accuracy": 0.7, "latency_ms": 1.0, "energy_mj": 3.0})
    strategy.tell({**arch, "d0": 0}, {"accuracy": 0.9, "latency_ms": 1.0, "energy_mj": 2.0})
    trials = [strategy._trial(told, "TPESampler") for told in strategy.history.told]
    assert [list(trial.constraints.values()) for trial in trials] == [[pytest.approx(0.1 + 0.5)], [0.0]]


def test_ranks_between():
    from cosearch.strategies.reinforce import ranks_between

    np.testing.assert_allclose(ranks_between(np.array([3.0, -np.inf, 5.0, 3.0, 9.0])), [0 - 0.25, -1, 0.5, -0.25, 1])


def test_the_networks_that_lead_are_those_that_none_beats_equal_ones_once():
    from cosearch.strategies.evolutionary import best_first, unbeaten

    strategy = make("random", SPACE, Costs(), OBJECTIVES, 3)
    run(strategy, 40)
    told = strategy.history.told
    twins = [replace(t, candidate=Candidate(40 + t.candidate.number, t.candidate.arch)) for t in told]
    values = {t.candidate.number: (latency(t.candidate.arch), 1 - accuracy(t.candidate.arch)) for t in [*told, *twins]}
    beaten = {n: any(o != v and o[0] <= v[0] and o[1] <= v[1] for o in values.values()) for n, v in values.items()}
    for networks in (told, [*told, *twins], [*twins, *told]):
        leading = unbeaten(OBJECTIVES, best_first(OBJECTIVES, networks))
        found = [values[t.candidate.number] for t in leading]
        assert len(set(found)) == len(found)
        assert set(found) == {values[t.candidate.number] for t in told if not beaten[t.candidate.number]}
    assert unbeaten(OBJECTIVES, []) == []


def test_the_most_similar_network_as_networks_are_added_and_replaced():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 3, (40, 6))
    similar = Similar()
    for numbers in (list(range(10)), list(range(25)), [*range(25), 30], [3, 1, 7, 39], list(range(40))):
        seen, nearest = similar.of(numbers, lambda i, numbers=numbers: rows[numbers[i]])
        assert (seen == rows[numbers]).all()
        differing = (seen[:, None] != seen[None]).sum(2) + 99 * np.eye(len(seen), dtype=int)
        assert (nearest == differing.argmin(1)).all()


def test_without_accuracy_as_an_objective_a_large_space_is_searched_where_its_limit_is_met():
    """What drawn networks promise counts whether they are accurate enough; else the cheapest are all that is priced."""
    space = Decisions({f"d{i}": (0, 1, 2, 3) for i in range(16)})
    costs = {"latency_ms": lambda arch: 1.0 + sum(arch.values())}

    def true(arch):
        return 0.2 + 0.8 * sum((i + 1) * (1 - 0.5 ** arch[f"d{i}"]) for i in range(16)) / (136 * 0.875)

    best = []
    for seed in range(3):
        strategy = make("bayesian", space, costs, Objectives(("latency_ms",), min_accuracy=0.8), seed)
        for _ in range(50):
            [candidate] = strategy.ask()
            strategy.tell(candidate, {"accuracy": true(candidate.arch)})
        met = [t.candidate.arch for t in strategy.history.told if t.accuracy >= 0.8]
        best.append(min((sum(arch.values()) for arch in met), default=np.inf))
    assert np.mean(best) <= 24


def test_warm_starts_that_break_the_limits_of_a_large_space_where_no_drawn_network_meets_them():
    costs, rng = Costs(1.5), np.random.default_rng(0)  # one network does
    strategy = make("bayesian", SPACE, costs, OBJECTIVES, 0)
    for arch in [SPACE.sample(rng) for _ in range(8)]:
        strategy.tell(arch, {"accuracy": accuracy(arch)})
    [candidate] = strategy.ask()
    assert latency(candidate.arch) == 1.0


@pytest.mark.parametrize("same", [False, True], ids=["some cost nothing", "all cost the same"])
def test_of_the_drawn_networks_of_a_large_space_few_are_priced(same):
    priced = []

    def blocks(arch):
        priced.append(arch)
        return 4.0 if same else float(sum(choice > 1 for choice in arch.values()))

    strategy = make("bayesian", SPACE, {"dsp": blocks}, ("accuracy", "dsp"), 0)
    run(strategy, 5)
    assert len(priced) == 200  # those at the start
    run(strategy, 10)
    assert len(priced) <= 200 + 10 * 200 / 4
