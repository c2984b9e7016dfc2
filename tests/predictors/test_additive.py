import itertools
import time

import numpy as np
import pytest

from predictors import find
from predictors.additive import Additive, _non_negative
from search_spaces.decisions import Decisions

SPACE = Decisions({"a": (0, 1, 2), "b": ("x", "y"), "c": (3, 5, 7), "d": (1, 2)})
ARCHS = [dict(zip(SPACE.choices, c, strict=True)) for c in itertools.product(*SPACE.choices.values())]
TABLE = {"a": {0: 0.0, 1: 2.0, 2: 5.0}, "b": {"x": 1.0, "y": 0.5}, "c": {3: 1.0, 5: 2.5, 7: 6.0}, "d": {1: 3.0, 2: 3.5}}
COST = np.array([sum(TABLE[n][v] for n, v in arch.items()) for arch in ARCHS])
X = SPACE.one_hot(ARCHS)


def some(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(len(ARCHS))[:n]


def test_an_additive_cost_is_learned_from_half_of_the_networks():
    rows = some(18)
    mean, std = Additive().fit(X[rows], COST[rows]).predict(X)
    assert np.abs(mean - COST).max() < 0.05
    assert std.max() < 0.05


def test_what_a_choice_costs_can_be_read_off():
    model = Additive().fit(X, COST)
    costs = model._weights / model._spread * COST.std()
    a = costs[:3] - costs[0]
    np.testing.assert_allclose(a, [0.0, 2.0, 5.0], atol=0.01)


def test_no_weight_is_negative_whatever_the_noise():
    rows = some(12)
    noisy = COST[rows] + np.random.default_rng(2).normal(0, 3.0, 12)
    assert (Additive().fit(X[rows], noisy)._weights >= 0).all()


def test_the_fit_is_the_best_of_its_kind():
    """Against projected gradient descent on the same loss."""
    rng = np.random.default_rng(3)
    x, y, penalty = rng.normal(size=(20, 4)), rng.normal(size=20), 0.5
    weights, offset = _non_negative(x, y, penalty)
    slow, centred = np.zeros(4), x - x.mean(0)
    for _ in range(5000):
        slow = np.maximum(0.0, slow - 0.01 * (centred.T @ (centred @ slow - (y - y.mean())) + penalty * slow))
    np.testing.assert_allclose(weights, slow, atol=1e-6)
    assert offset == pytest.approx(y.mean() - x.mean(0) @ slow)


@pytest.mark.parametrize("shape", [(15, 60), (60, 15), (40, 40)])
@pytest.mark.parametrize("penalty", [1e-4, 0.1, 100.0])
def test_the_conditions_of_the_optimum_hold_with_few_rows_and_with_many(shape, penalty):
    """Karush, Kuhn and Tucker: no slope in a free weight, none downwards in one at zero. Some columns repeat."""
    rng = np.random.default_rng(5)
    for kind in (rng.normal(size=shape), rng.integers(0, 2, shape).astype(float)):
        x = np.hstack([kind, kind[:, :5], np.zeros((len(kind), 2))])
        y = rng.normal(size=len(x)) + x[:, :9].sum(1)
        weights, _ = _non_negative(x, y, penalty)
        centred = x - x.mean(0)
        slope = penalty * weights - centred.T @ (y - y.mean() - centred @ weights)
        assert (weights >= 0).all()
        assert 0 < (weights > 0).sum() < x.shape[1]
        assert np.abs(slope[weights > 0]).max() < 1e-8
        assert slope.min() > -1e-8


def test_many_columns_are_as_quick_as_their_rows_are_few():
    rng = np.random.default_rng(6)
    x = rng.integers(0, 2, (60, 600)).astype(float)
    y = x[:, :40] @ rng.random(40) + 0.1 * rng.normal(size=60)
    least = 1e9
    for _ in range(3):  # a busy machine is no failure
        start = time.process_time()
        Additive().fit(x, y)
        least = min(least, time.process_time() - start)
    assert least < 0.7


def test_the_registry_finds_it():
    assert find("additive") is Additive
