import numpy as np
from scipy.optimize import minimize

from predictors.linear import Ridge
from predictors.robust import FREEDOM, Robust, _reweighted

RNG = np.random.default_rng(4)
X = RNG.normal(size=(300, 6))
TRUE = 20 + X @ np.array([3.0, -2.0, 1.0, 0.5, 0.0, 0.0])


def test_outliers_do_not_pull_it():
    wrong = {Robust: [], Ridge: []}
    for draw in range(5):
        rng = np.random.default_rng(draw)
        y = TRUE + 0.1 * rng.normal(size=300) + 15.0 * (rng.random(300) < 0.15)  # a tenth of the lines was disturbed
        for kind, errors in wrong.items():
            errors.append(np.ptp(kind().fit(X[:80], y[:80]).predict(X)[0] - TRUE))
    assert np.mean(wrong[Robust]) < 0.1 * np.mean(wrong[Ridge])


def test_without_outliers_it_is_as_good_as_least_squares():
    y = TRUE + RNG.normal(size=300)
    robust, ridge = (k().fit(X[:80], y[:80]).predict(X[80:])[0] - TRUE[80:] for k in (Robust, Ridge))
    assert np.sqrt(np.mean(robust**2)) < 1.15 * np.sqrt(np.mean(ridge**2))


def test_the_weights_minimise_the_penalised_likelihood():
    """Against a general minimiser at the same scale."""
    y = (TRUE - TRUE.mean()) / TRUE.std() + 0.1 * RNG.standard_t(2, size=300)
    design, penalty = np.column_stack([np.ones(60), X[:60]]), 3.0
    _, weights, _, scale = _reweighted(design, y[:60], penalty)

    def loss(w):
        error = (y[:60] - design @ w) / scale
        return (FREEDOM + 1) / 2 * np.log1p(error**2 / FREEDOM).sum() + 0.5 * penalty / scale**2 * (w[1:] ** 2).sum()

    np.testing.assert_allclose(weights, minimize(loss, np.zeros(7), tol=1e-10).x, atol=2e-3)


def test_its_standard_deviation_is_that_of_the_noise():
    y = TRUE + 0.5 * RNG.standard_t(FREEDOM, size=300)
    _, std = Robust().fit(X, y).predict(X)
    assert 0.8 < np.median(std) / (0.5 * np.sqrt(2)) < 1.25
