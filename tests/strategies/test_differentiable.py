import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosearch.strategies import make
from cosearch.strategies.differentiable import (
    LAMBDAS,
    ROUNDS,
    Descent,
    Effects,
    Step,
    gumbel,
    most_probable,
    stage_of,
    through_softmax,
)
from cosearch.strategies.shares import shares_of, softmax
from search_spaces.decisions import Decisions
from tests.strategies.synthetic import OBJECTIVES, SPACE, Costs, accuracy, hypervolume, latency

WORDS = Decisions({f"layer{i}": ("conv_k3_e1", "conv_k5_e3", "add_k3_e3", "add_k5_e1", "skip") for i in range(5)})


def run(strategy, n: int) -> list[dict]:
    found = []
    for _ in range(n):
        [candidate] = strategy.ask()
        strategy.tell(candidate, {"accuracy": accuracy(candidate.arch)})
        found.append(candidate.arch)
    return found


@given(st.lists(st.floats(-4, 4), min_size=2, max_size=6), st.floats(0.3, 5.0), st.integers(0, 1000))
def test_through_softmax_is_the_derivative_by_finite_differences(logits, temperature, seed):
    z, by_share = np.array(logits), np.random.default_rng(seed).normal(size=len(logits))
    got = through_softmax(softmax(z / temperature), by_share, temperature)
    step = 1e-6
    for i in range(len(z)):
        high, low = (softmax((z + s * np.eye(len(z))[i]) / temperature) @ by_share for s in (step, -step))
        assert got[i] == pytest.approx((high - low) / (2 * step), abs=1e-5)


def test_gumbel_argmax_draws_in_proportion_and_low_temperature_is_one_hot():
    logits = {"d": np.log(np.array([0.7, 0.2, 0.1]))}
    rng = np.random.default_rng(0)
    drawn = np.array([int(np.argmax(gumbel(logits, 1.0, rng)["d"])) for _ in range(4000)])
    assert np.bincount(drawn) / 4000 == pytest.approx([0.7, 0.2, 0.1], abs=0.03)
    assert gumbel(logits, 1e-4, rng)["d"].max() > 0.999
    assert shares_of(logits, 1.0)["d"] == pytest.approx([0.7, 0.2, 0.1])


def test_effects_of_a_linear_function_are_its_coefficients():
    rng = np.random.default_rng(1)
    effects = {name: rng.normal(size=len(options)) for name, options in SPACE.choices.items()}
    archs = [SPACE.sample(rng) for _ in range(400)]
    values = [sum(effects[n][SPACE.choices[n].index(a[n])] for n in a) for a in archs]
    for name, got in Effects(SPACE).of_values(archs, values).items():
        assert got - got.mean() == pytest.approx(effects[name] - effects[name].mean(), abs=0.02)


def test_choices_learn_from_others_of_their_words():
    """No network of the sample has an addition of kernel 5 in the last layer, but others tell what it is like."""
    rng = np.random.default_rng(2)
    archs = [a for a in (WORDS.sample(rng) for _ in range(300)) if a["layer4"] != "add_k5_e1"]
    values = [float(sum("add" in str(c) for c in a.values())) for a in archs]
    got = Effects(WORDS).of_values(archs, values)["layer4"]
    assert got[3] > got[[0, 1, 4]].max() + 0.2


def test_gates_say_what_losses_alone_do_not():
    """Losses that teach nothing: what is learned of unseen choices comes from the slopes of the gates."""
    rng = np.random.default_rng(3)
    useful = {"conv_k3_e1": -1.0, "conv_k5_e3": -0.5, "add_k3_e3": 0.0, "add_k5_e1": 0.5, "skip": 1.0}
    steps = []
    for _ in range(30):
        arch = WORDS.sample(rng)
        steps.append(Step(arch, sum(useful[c] for c in arch.values()), {n: useful[c] for n, c in arch.items()}))
    for values in Effects(WORDS).of_steps(steps).values():
        assert np.argsort(values).tolist() == [0, 1, 2, 3, 4]


def test_nothing_is_learned_from_equal_results():
    archs = [SPACE.sample(np.random.default_rng(i)) for i in range(5)]
    assert all((v == 0).all() for v in Effects(SPACE).of_values(archs, [1.0] * 5).values())


def test_descent_reaches_the_cheapest_choice_of_each_decision():
    run_ = Descent(WORDS)
    slope = {name: np.array([3.0, 1.0, 2.0, 0.5, 4.0]) for name in WORDS.choices}
    for _ in range(30):
        run_.shares = {name: softmax(values) for name, values in run_.logits.items()}
        run_.descend(slope, 1.0)
    assert most_probable(WORDS, run_.logits) == dict.fromkeys(WORDS.choices, "add_k5_e1")


def test_runs_start_from_what_training_has_learned():
    """Of a space that lacks one of the choices; what is not known starts at 0."""
    learned = {"layer0": {"add_k5_e1": 1.5, "conv_k7_e1": 3.0}, "elsewhere": {"skip": 1.0}}
    logits = Descent(WORDS, learned).logits
    assert logits["layer0"].tolist() == [0.0, 0.0, 0.0, 1.5, 0.0]
    assert not any(logits[name].any() for name in WORDS.choices if name != "layer0")
    strong = {name: {options[-1]: 50.0} for name, options in SPACE.choices.items()}
    strategy = make("differentiable", SPACE, Costs(), OBJECTIVES, 0, gradient=gradient, logits=strong)
    assert run(strategy, 1) == [{name: options[-1] for name, options in SPACE.choices.items()}]
    assert run(make("differentiable", SPACE, Costs(), OBJECTIVES, 0, gradient=gradient), 1) != run(strategy, 1)


def test_stages_grow_by_half():
    assert [stage_of(n) for n in (0, 9, 10, 14, 15, 21, 22, 33)] == [0, 0, 10, 10, 15, 15, 22, 33]


def gradient(arch):
    """Of a loss that falls with accuracy; the gate of a decision says how much it contributes."""
    loss = 1.05 - accuracy(arch)
    return loss, {f"d{i}": -0.8 * (i + 1) * (1 - 0.5 ** arch[f"d{i}"]) / (36 * 0.875) for i in range(8)}


def test_gradients_are_taken_once_and_before_the_first_trial():
    calls = []

    def counted(arch):
        calls.append(arch)
        return gradient(arch)

    strategy = make("differentiable", SPACE, Costs(), OBJECTIVES, 0, gradient=counted)
    run(strategy, 1)
    first = len(calls)
    assert first == ROUNDS
    run(strategy, 20)
    assert len(calls) == first


def test_with_gradients_few_trials_do_what_random_needs_many_for():
    """On the mean of five seeds."""
    found, random = (
        np.mean([hypervolume(run(make(name, SPACE, Costs(), OBJECTIVES, seed, **options), n)) for seed in range(5)])
        for name, n, options in (("differentiable", 15, {"gradient": gradient}), ("random", 60, {}))
    )
    assert found > random


def test_a_larger_lambda_is_a_cheaper_network():
    strategy = make("differentiable", SPACE, Costs(), OBJECTIVES, 0, gradient=gradient)
    archs = run(strategy, len(LAMBDAS))
    assert latency(archs[0]) > latency(archs[-1])
    assert accuracy(archs[0]) > accuracy(archs[-1])


def test_with_gradients_a_replay_proposes_the_same():
    whole = run(make("differentiable", SPACE, Costs(), OBJECTIVES, 5, gradient=gradient), 16)
    strategy = make("differentiable", SPACE, Costs(), OBJECTIVES, 5, gradient=gradient)
    from cosearch.strategies import Candidate

    for number, arch in enumerate(whole[:9]):
        strategy.tell(Candidate(number, arch), {"accuracy": accuracy(arch)})
    assert whole[:9] + run(strategy, 7) == whole
