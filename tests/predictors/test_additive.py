import itertools

import numpy as np
import pytest

from cosearch.errors import DataError, UnknownNameError
from predictors import find
from predictors.additive import AdditivePredictor
from search_spaces.decisions import Decisions

SPACE = Decisions({"a": (0, 1, 2), "b": ("x", "y"), "c": (3, 5, 7), "d": (1, 2)})
ARCHS = [dict(zip(SPACE.choices, c, strict=True)) for c in itertools.product(*SPACE.choices.values())]
TABLE = {"a": {0: 0.0, 1: 2.0, 2: 5.0}, "b": {"x": 1.0, "y": 0.5}, "c": {3: 1.0, 5: 2.5, 7: 6.0}, "d": {1: 3.0, 2: 3.5}}
COST = np.array([sum(TABLE[n][v] for n, v in arch.items()) for arch in ARCHS])


def some(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(len(ARCHS))[:n]


def test_an_additive_cost_is_learned_from_half_of_the_networks():
    rows = some(18)
    model = AdditivePredictor(SPACE)
    model.fit([ARCHS[i] for i in rows], COST[rows])
    mean, std = model.predict(ARCHS)
    assert mean.shape == std.shape == (36,)
    assert np.abs(mean - COST).max() < 0.05
    assert model.relative_error < 0.01


def test_the_error_that_it_states_is_the_error_that_it_makes():
    noise = np.random.default_rng(1).normal(0, 0.5, len(ARCHS))
    rows = some(24)
    model = AdditivePredictor(SPACE)
    model.fit([ARCHS[i] for i in rows], (COST + noise)[rows])
    rest = np.setdiff1d(np.arange(len(ARCHS)), rows)
    mean, std = model.predict([ARCHS[i] for i in rest])
    made = np.sqrt(np.mean((mean - (COST + noise)[rest]) ** 2))
    assert 0.5 < made / std[0] < 2.0
    # by hand: fit without one, predict it, for each one, with the penalty that was chosen
    x, y = SPACE.one_hot([ARCHS[i] for i in rows]), (COST + noise)[rows]
    errors = []
    for i in range(len(y)):
        keep = np.arange(len(y)) != i
        centre, mean_y = x[keep].mean(0), y[keep].mean()
        centred = x[keep] - centre
        w = np.linalg.solve(
            centred.T @ centred + model._model.alpha_ * np.eye(x.shape[1]), centred.T @ (y[keep] - mean_y)
        )
        errors.append((x[i] - centre) @ w + mean_y - y[i])
    assert std[0] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-6)


def test_predictions_stay_positive():
    model = AdditivePredictor(SPACE)
    values = np.exp(COST)  # far from additive: a plain fit goes below zero
    model.fit(ARCHS, values)
    mean, _ = model.predict(ARCHS)
    assert mean.min() >= 0.1 * values.min()


@pytest.mark.parametrize(
    ("archs", "values", "match"),
    [
        (ARCHS[:4], COST[:4], "4 distinct networks: the additive predictor needs at least 5"),
        (ARCHS[:6], COST[:5], "6 networks but 5 values"),
        ([], [], "needs at least 5"),
        ([ARCHS[0]] * 9, COST[:9], "1 distinct networks"),
        (ARCHS[:6], [1.0] * 6, "all equal"),
        (ARCHS[:6], [1, 2, 3, np.nan, 4, 5], "not finite"),
        (ARCHS[:6], [1, 2, 3, np.inf, 4, 5], "not finite"),
    ],
)
def test_nothing_can_be_learned(archs, values, match):
    with pytest.raises(DataError, match=match):
        AdditivePredictor(SPACE).fit(archs, values)


def test_the_registry_finds_it():
    assert find("additive") is AdditivePredictor
    with pytest.raises(UnknownNameError, match="did you mean 'additive'"):
        find("aditive")
