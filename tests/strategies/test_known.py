"""A user's own space, costs and measured objectives: no supernet, no accelerator."""

import numpy as np
import pytest

from cosearch.errors import ConfigError, InfeasibleError
from cosearch.strategies import STRATEGIES, Candidate, Failure, Objectives, make
from search_spaces.decisions import Decisions

SPACE = {"depth": (1, 2, 3, 4, 5, 6), "width": (8, 16, 24, 32, 48, 64), "kernel": (1, 3, 5, 7)}
BOTH = Objectives(("accuracy", "latency_ms"))
ARCHS = [
    dict(zip(SPACE, values, strict=True)) for values in np.array(np.meshgrid(*SPACE.values())).T.reshape(-1, 3).tolist()
]


def accuracy(arch) -> float:
    return 0.95 - 0.5 * np.exp(-0.15 * arch["depth"] * np.sqrt(arch["width"] / 8)) - 0.01 * abs(arch["kernel"] - 5)


def latency(arch) -> float:
    return 0.1 * arch["depth"] * arch["width"] / 8 * arch["kernel"] ** 0.5


def search(strategy, n, *measured):
    functions = {"accuracy": accuracy, "latency_ms": latency}
    found = []
    for _ in range(n):
        [candidate] = strategy.ask()
        found.append(candidate.arch)
        strategy.tell(candidate, {name: functions[name](candidate.arch) for name in ("accuracy", *measured)})
    return found


@pytest.mark.parametrize("name", ["bayesian", "evolutionary", "optuna-tpe", "random"])
@pytest.mark.parametrize("known", ["function", "array", "nothing"])
def test_any_space_with_known_or_measured_costs(name, known):
    order = np.array([latency(Decisions(SPACE).decode(place)) for place in np.ndindex(6, 6, 4)])
    costs = {"function": {"latency_ms": latency}, "array": {"latency_ms": order}, "nothing": None}[known]
    strategy = make(name, SPACE, costs, objectives=Objectives(("accuracy", "latency_ms")), seed=0)
    found = search(strategy, 16, *([] if costs else ["latency_ms"]))
    assert len({str(a) for a in found}) == 16


def test_an_array_and_a_function_propose_the_same():
    order = np.array([latency(Decisions(SPACE).decode(place)) for place in np.ndindex(6, 6, 4)]).reshape(6, 6, 4)
    objectives = Objectives(("accuracy", "latency_ms"))
    runs = [search(make("bayesian", SPACE, {"latency_ms": c}, objectives, 1), 20) for c in (latency, order)]
    assert runs[0] == runs[1]


def test_one_objective_under_a_known_limit_is_found():
    objectives = Objectives(("accuracy",), constraints={"max_latency_ms": 2.0})
    allowed = [a for a in ARCHS if latency(a) <= 2.0]
    best = max(map(accuracy, allowed))
    found = search(make("bayesian", SPACE, {"latency_ms": latency}, objectives, 0), 25)
    assert all(latency(a) <= 2.0 for a in found)
    assert max(map(accuracy, found)) == best


def test_a_measured_limit_is_learned():
    objectives = Objectives(("accuracy",), constraints={"max_latency_ms": 2.0})
    best = max(accuracy(a) for a in ARCHS if latency(a) <= 2.0)
    found = search(make("bayesian", SPACE, None, objectives, 0), 35, "latency_ms")
    assert max(accuracy(a) for a in found if latency(a) <= 2.0) >= best - 0.005
    assert np.mean([latency(a) <= 2.0 for a in found[15:]]) > 0.5


def test_a_measured_count_of_zero_is_one_value_among_others():
    """Half of all networks need no multiplier: they are searched for, and the others' counts are learned."""

    def dsp(arch):
        return 0 if arch["kernel"] < 4 else arch["width"] // 8

    objectives = Objectives(("accuracy", "dsp"))
    strategy = make("bayesian", SPACE, None, objectives, 0)
    found = []
    with np.errstate(all="raise", under="ignore"):
        for _ in range(30):
            [candidate] = strategy.ask()
            found.append(candidate.arch)
            strategy.tell(candidate, {"accuracy": accuracy(candidate.arch), "dsp": dsp(candidate.arch)})
    best = {limit: max(accuracy(a) for a in ARCHS if dsp(a) <= limit) for limit in range(9)}
    reached = {limit: max(accuracy(a) for a in found if dsp(a) <= limit) for limit in range(9)}
    assert reached[0] == best[0]
    assert np.mean(list(reached.values())) > np.mean(list(best.values())) - 0.01


def learned(constraints):
    """A search whose costs are measured too, with some results; and what it makes of them."""
    strategy = make("bayesian", SPACE, None, Objectives(BOTH.names, constraints=constraints), 0, batch=8)
    for at in np.random.default_rng(0).permutation(len(ARCHS))[:20]:
        strategy.tell(ARCHS[at], {"accuracy": accuracy(ARCHS[at]), "latency_ms": latency(ARCHS[at])})
    known, pool = strategy.history.told, strategy._everything
    return strategy, pool, known, {n: strategy._believe(n, known, pool, []) for n in strategy.history.measured}


def test_a_network_under_evaluation_is_believed_where_costs_are_measured_too():
    """As a point at the model's means: what would add the same volume once more adds less, and nothing adds more."""
    strategy, pool, known, beliefs = learned({})
    alone = strategy._sampled(pool, known, beliefs, [])
    best = int(np.argmax(alone))
    beside = strategy._sampled(pool, known, beliefs, [pool.archs[best]])
    assert alone[best] > 0
    assert beside[best] < 0.7 * alone[best]
    both = (alone > 0) & (beside > 0)
    assert (beside[both] <= alone[both] + 1e-12).all()
    calls = []
    inner = strategy._sampled
    strategy._sampled = lambda pool, known, beliefs, pending: (
        calls.append(list(pending)) or inner(pool, known, beliefs, pending)
    )
    group = [candidate.arch for candidate in strategy.ask(3)]
    assert calls == [group[:0], group[:1], group[:2]]


def test_a_network_under_evaluation_that_is_thought_to_break_a_limit_adds_nothing():
    strategy, pool, known, beliefs = learned({"max_latency_ms": 1.0})
    alone = strategy._sampled(pool, known, beliefs, [])
    slow = np.exp(beliefs["latency_ms"].mean) > 1.1
    best = int(np.argmax(np.where(slow, alone, -1.0)))
    assert alone[best] > 0  # it would add, were it not for the limit
    beside = strategy._sampled(pool, known, beliefs, [pool.archs[best]])
    assert np.array_equal(alone, beside)


@pytest.mark.parametrize("name", ["latency_ms", "dsp"])
def test_measured_zeros_without_a_pattern_overflow_nothing(name):
    strategy = make("bayesian", SPACE, None, ("accuracy", name), 0)
    with np.errstate(all="raise", under="ignore"):
        for i in range(20):
            [candidate] = strategy.ask()
            strategy.tell(candidate, {"accuracy": accuracy(candidate.arch), name: 7.0 * (i % 3)})


def test_the_cheapest_network_that_is_accurate_enough():
    objectives = Objectives(("latency_ms",), min_accuracy=0.85)
    best = min(latency(a) for a in ARCHS if accuracy(a) >= 0.85)
    found = search(make("bayesian", SPACE, {"latency_ms": latency}, objectives, 0), 30)
    assert min(latency(a) for a in found if accuracy(a) >= 0.85) == best


@pytest.mark.parametrize("name", ["bayesian", "differentiable"])
def test_the_cheapest_network_that_is_accurate_enough_where_its_cost_is_measured_too(name):
    """Few networks are that accurate, and none of them is near the cheapest of all."""
    objectives = Objectives(("latency_ms",), min_accuracy=0.85)
    allowed = sorted(latency(a) for a in ARCHS if accuracy(a) >= 0.85)
    assert len(allowed) < 0.15 * len(ARCHS)
    assert allowed[0] > 10 * min(map(latency, ARCHS))
    found = search(make(name, SPACE, None, objectives, 0), 30, "latency_ms")
    assert min(latency(a) for a in found if accuracy(a) >= 0.85) == allowed[0]


def test_a_measured_throughput_is_maximised():
    """What is hoped of a network is more of it, not less: of 144 networks 128 are looked at closely."""
    strategy = make("bayesian", SPACE, None, Objectives(("throughput_fps",), min_accuracy=0.85), 0)
    found = []
    for _ in range(30):
        [candidate] = strategy.ask()
        found.append(candidate.arch)
        values = {"accuracy": accuracy(candidate.arch), "throughput_fps": 1.0 / latency(candidate.arch)}
        strategy.tell(candidate, values)
    assert min(latency(a) for a in found if accuracy(a) >= 0.85) == min(
        latency(a) for a in ARCHS if accuracy(a) >= 0.85
    )


def test_constraints_come_first_in_evolution():
    objectives = Objectives(("accuracy", "latency_ms"), constraints={"max_latency_ms": 1.0})
    found = search(make("evolutionary", SPACE, None, objectives, 0), 60, "latency_ms")
    assert np.mean([latency(a) <= 1.0 for a in found[30:]]) > np.mean([latency(a) <= 1.0 for a in found[:20]])


def test_objectives_that_are_all_known_need_no_result():
    objectives = Objectives(("latency_ms", "params"))
    costs = {"latency_ms": latency, "params": lambda a: 1000 / (a["depth"] * a["kernel"])}
    strategy = make("bayesian", SPACE, costs, objectives, 0)
    for _ in range(5):
        [candidate] = strategy.ask()
        strategy.tell(candidate, {})


@pytest.mark.parametrize(
    ("costs", "match"),
    [
        ({"latency": latency}, "unknown cost 'latency': did you mean 'latency_ms'"),
        ({"accuracy": accuracy}, "unknown cost 'accuracy'"),
        ({"latency_ms": np.ones(7)}, r"has shape \(7,\): expected \(144,\)"),
        ({"latency_ms": lambda arch: float("nan")}, "is nan: expected a number"),
        ({"latency_ms": lambda arch: "fast"}, "is 'fast': expected a number"),
        ({"latency_ms": lambda arch: -1.0}, "is -1: expected a number that is not negative"),
        ({"latency_ms": ["fast"] * 144}, "neither a function nor an array"),
        ([1.0], "costs are list: expected a dict"),
        (latency, "costs are function: expected a dict"),
    ],
)
def test_costs_that_are_none(costs, match):
    with pytest.raises(ConfigError, match=match):
        make("random", SPACE, costs, Objectives(("accuracy",))).ask()


def test_results_that_do_not_belong():
    strategy = make("random", SPACE, None, Objectives(("accuracy", "latency_ms")))
    [candidate] = strategy.ask()
    with pytest.raises(ConfigError, match="trial 0 lacks latency_ms"):
        strategy.tell(candidate, {"accuracy": 0.5})
    with pytest.raises(ConfigError, match="'depth' is 9"):
        strategy.tell(Candidate(1, {**candidate.arch, "depth": 9}), {"accuracy": 0.5, "latency_ms": 1.0})
    strategy.tell(Candidate(5, ARCHS[0]), {"accuracy": 0.5, "latency_ms": 1.0})  # never asked: a warm start
    assert strategy.ask()[0].number == 6


@pytest.mark.parametrize(
    ("result", "match"),
    [
        ({"accuracy": 93.0, "latency_ms": 1.0}, "accuracy of trial 0 is 93: expected a fraction, 0 to 1"),
        ({"accuracy": -0.1, "latency_ms": 1.0}, "expected a fraction"),
        ({"accuracy": "high", "latency_ms": 1.0}, "accuracy of trial 0 is 'high': expected a number"),
        ({"accuracy": 0.5, "latency_ms": None}, "latency_ms of trial 0 is None: expected a number"),
        ({"accuracy": 0.5, "latency_ms": -2.0}, "latency_ms of trial 0 is -2: expected a number that is not negative"),
        (0.5, "the result of trial 0 is 0.5: expected objective -> value"),
        (None, "is None: expected objective -> value, or a Failure"),
    ],
)
def test_results_that_cannot_be(result, match):
    strategy = make("random", SPACE, None, ("accuracy", "latency_ms"))
    [candidate] = strategy.ask()
    with pytest.raises(ConfigError, match=match):
        strategy.tell(candidate, result)
    assert not strategy.history.told
    strategy.tell(candidate, {"accuracy": np.float32(1.0), "latency_ms": np.array(1.0)})
    assert strategy.history.told[0].accuracy == 1.0


def test_a_warm_start_is_told_as_an_arch():
    strategy = make("evolutionary", SPACE, {"latency_ms": latency}, ["accuracy", "latency_ms"])
    for arch in ARCHS[:30]:
        strategy.tell(arch, {"accuracy": accuracy(arch)})
    asked = strategy.ask(4)
    assert [c.number for c in asked] == [30, 31, 32, 33]
    assert all(c.arch not in ARCHS[:30] for c in asked)
    with pytest.raises(ConfigError, match="'depth' is missing"):
        strategy.tell({"width": 8}, {"accuracy": 0.5})


@pytest.mark.parametrize(
    ("space", "match"),
    [
        ({"op": "conv"}, "decision 'op' has choices 'conv': expected a list or a tuple"),
        ({"op": {"conv", "shift"}}, "expected a list or a tuple"),
        ({"depth": 5}, "decision 'depth' has choices 5: expected a list or a tuple"),
        ({"kernel": [[1, 3], [3, 3]]}, "choices of type list: expected numbers, strings or tuples"),
        ({"depth": (1, "1")}, "each once"),
        ({"depth": (1, 1.0)}, "each once"),
        ({"depth": ()}, "expected at least one"),
        ({1: (1, 2)}, "decision 1 is no text: expected names of decisions"),
    ],
)
def test_spaces_that_are_none(space, match):
    with pytest.raises(ConfigError, match=match):
        make("random", space)


def test_objectives_by_their_names_and_questions_that_make_no_sense():
    named, given = (make("bayesian", SPACE, {"latency_ms": latency}, o) for o in (["accuracy", "latency_ms"], BOTH))
    assert search(named, 15) == search(given, 15)
    assert make("random", SPACE, None, "accuracy").history.objectives == Objectives(("accuracy",))
    with pytest.raises(ConfigError, match="objectives are 3"):
        make("random", SPACE, None, 3)
    with pytest.raises(ConfigError, match="did you mean 'latency_ms'"):
        make("random", SPACE, None, ("accuracy", "latency"))
    for n in (-1, 2.5, "two"):
        with pytest.raises(ConfigError, match=r"ask\(.*expected how many"):
            named.ask(n)


def test_choices_from_an_array_are_plain_numbers():
    """So that a network can be written down."""
    [candidate] = make("random", {"width": np.array([8, 16]), "rate": np.array([0.1, 0.2])}).ask()
    assert [type(choice) for choice in candidate.arch.values()] == [int, float]


@pytest.mark.parametrize("seed", ["0", None, 1.0, -1])
def test_seeds_that_are_none(seed):
    with pytest.raises(ConfigError, match=r"seed=.*: expected a whole number, at least 0"):
        make("random", SPACE, seed=seed)


def test_what_follows_from_results_need_not_be_told():
    """The product of measured latency and energy is what a limit on it needs; said itself, that counts."""
    objectives = Objectives(("accuracy", "throughput_fps"), constraints={"max_edp": 5.0})
    strategy = make("random", SPACE, None, objectives)
    told = {"accuracy": 0.5, "latency_ms": 4.0, "energy_mj": 2.0}
    for result in (told, {**told, "edp": 5.0, "throughput_fps": 400.0}, {**told, "latency_ms": 0.0}):
        [candidate] = strategy.ask()
        strategy.tell(candidate, result)
    first, second, third = strategy.history.told
    assert [t.front.metric("throughput_fps").item() for t in (first, second)] == [250.0, 400.0]
    assert [first.excess, second.excess] == pytest.approx([0.6, 0.0])
    assert third.failed  # no throughput is infinite
    [candidate] = strategy.ask()
    with pytest.raises(ConfigError, match="lacks edp"):
        strategy.tell(candidate, {"accuracy": 0.5, "latency_ms": 4.0})
    with pytest.raises(ConfigError, match="energy_mj of trial 3 is 'low': expected a number"):
        strategy.tell(candidate, {**told, "energy_mj": "low"})


every = pytest.mark.parametrize("name", sorted(STRATEGIES))


@pytest.mark.parametrize(("name", "form"), [*((name, "function") for name in sorted(STRATEGIES)), ("random", "array")])
def test_what_costs_infinitely_much_is_never_proposed(name, form):
    """A third of the space can be built; one that cannot may be told, and teaches its accuracy."""

    def cost(arch):
        return np.inf if arch["kernel"] > 3 or arch["depth"] > 4 else latency(arch)

    costs = cost if form == "function" else np.array([cost(Decisions(SPACE).decode(p)) for p in np.ndindex(6, 6, 4)])
    strategy = make(name, SPACE, {"latency_ms": costs}, BOTH, 0)
    strategy.tell({"depth": 6, "width": 64, "kernel": 7}, {"accuracy": 0.94})
    found = search(strategy, 4 if name == "optuna-gp" else 12)  # whose model takes seconds
    assert all(np.isfinite(cost(arch)) for arch in found)
    assert max(f.values["accuracy"] for f in strategy.front()) == max(map(accuracy, found)) < 0.94


@every
def test_where_everything_costs_infinitely_much_there_is_nothing_to_propose(name):
    strategy = make(name, SPACE, {"latency_ms": lambda arch: np.inf}, BOTH, 0)
    with pytest.raises(InfeasibleError, match="after 0 of 144: none that was tried can be built"):
        strategy.ask()


@every
def test_a_throughput_that_would_be_infinite_cannot_be(name):
    costs = {"latency_ms": lambda arch: 0.0 if arch["depth"] < 4 else latency(arch)}
    with np.errstate(all="raise", under="ignore"):
        found = search(make(name, SPACE, costs, ("accuracy", "throughput_fps"), 0), 8)
    assert all(arch["depth"] > 3 for arch in found)


SLOW = [{"depth": depth, "width": width, "kernel": 7} for depth in (4, 5, 6) for width in (48, 64)]


@every
def test_a_warm_start_beyond_a_known_limit_whose_other_cost_was_measured(name):
    objectives = Objectives(("accuracy", "energy_mj"), constraints={"max_latency_ms": 2.0})
    strategy = make(name, SPACE, {"latency_ms": latency}, objectives, 0)
    for arch in SLOW:
        assert latency(arch) > 2.0
        strategy.tell(arch, {"accuracy": 0.9, "energy_mj": 1.0})
    for _ in range(8):
        [candidate] = strategy.ask()
        assert latency(candidate.arch) <= 2.0
        strategy.tell(candidate, {"accuracy": accuracy(candidate.arch), "energy_mj": latency(candidate.arch) ** 0.5})
    assert all(f.values["latency_ms"] <= 2.0 for f in strategy.front())


def test_a_cost_function_that_fails_names_its_network():
    def cost(arch):
        return {8: 1.0}[arch["width"]]

    strategy, named = make("random", SPACE, {"latency_ms": cost}, BOTH, 0), "the cost latency_ms of depth=6,kernel=7,"
    with pytest.raises(ConfigError, match=rf"{named}width=64 .* raised KeyError: 64$") as caught:
        strategy.tell(ARCHS[-1], {"accuracy": 0.5})
    assert isinstance(caught.value.__cause__, KeyError)
    assert "\n" not in str(caught.value)


def test_a_cost_function_of_both_sides_that_fails_names_them():
    def cost(network, accelerator):
        raise InfeasibleError("two\nlines")  # which is not to be taken for a space that is exhausted

    space = {"width": (8, 16), "accelerator.rows": (2,)}
    with pytest.raises(ConfigError, match=r"of accelerator\.rows=2,width=(8|16) .* raised InfeasibleError: two lines$"):
        make("random", space, {"latency_ms": cost}, BOTH, 0).ask()


@every
def test_a_failure_where_costs_are_measured_too(name):
    """It has no costs; the search goes on."""
    strategy = make(name, SPACE, None, BOTH, 0)
    for number in range({"reinforce": 24, "optuna-gp": 6}.get(name, 12)):
        [candidate] = strategy.ask()
        values = {"accuracy": accuracy(candidate.arch), "latency_ms": latency(candidate.arch)}
        strategy.tell(candidate, Failure("died") if number % 4 == 1 else values)
    assert strategy.front()
