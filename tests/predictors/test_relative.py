import numpy as np
import pytest

from predictors.linear import Ridge
from predictors.relative import Relative

RNG = np.random.default_rng(4)
X = RNG.normal(size=(1200, 6))
TRUE = np.maximum(20 + X @ np.array([3.0, -2.0, 1.0, 0.5, 0.0, 0.0]), 4.0)
NEW = slice(200, None)


def two_speeds(draw, n=1200, gap=0.2):
    """Latencies with 1.5% of noise, three in ten of them taken while the device was slower."""
    rng = np.random.default_rng(draw)
    return TRUE[:n] * (1 + gap * (rng.random(n) < 0.3)) * (1 + 0.015 * rng.normal(size=n))


@pytest.mark.parametrize("draw", range(4))
def test_a_device_of_two_speeds_is_told_apart(draw):
    model = Relative().fit(X[:100], two_speeds(draw, 100))
    assert model._states[1] - model._states[0] == pytest.approx(0.2, abs=0.04)
    assert model._shares[0] == pytest.approx(0.7, abs=0.15)


def test_what_the_speeds_do_to_errors_is_not_learned_as_the_network():
    """Latencies of one speed are a multiple of the truth: what is left of the ratio is error."""
    spread = {Relative: [], Ridge: []}
    for draw in range(4):
        for kind, found in spread.items():
            mean, _ = kind().fit(X[:100], two_speeds(draw, 100)).predict(X[NEW])
            found.append((mean / TRUE[NEW]).std())
    assert np.mean(spread[Relative]) < 0.4 * np.mean(spread[Ridge])


@pytest.mark.parametrize("kind", ["normal", "student"])
def test_noise_alone_shows_no_two_speeds(kind):
    for draw in range(12):
        rng = np.random.default_rng(draw)
        noise = rng.normal(size=100) if kind == "normal" else rng.standard_t(3, size=100)
        model = Relative().fit(X[:100], TRUE[:100] * (1 + 0.02 * noise))
        assert len(model._states) == 1


def test_its_mean_and_deviation_are_those_of_new_latencies():
    y = two_speeds(1)
    mean, std = Relative().fit(X[:200], y[:200]).predict(X[NEW])
    error = y[NEW] - mean
    assert abs(error.mean()) < 0.02 * y.mean()
    assert 0.9 < np.sqrt(np.mean((error / std) ** 2)) < 1.1
    cheap, dear = np.argsort(mean)[:200], np.argsort(mean)[-200:]
    assert 1.3 < std[dear].mean() / std[cheap].mean() < 1.05 * mean[dear].mean() / mean[cheap].mean()


def test_small_latencies_are_fitted_as_exactly_for_their_size():
    """Errors in proportion: weights 1/f^2, as of least squares on y/f."""
    y = TRUE * (1 + 0.1 * np.random.default_rng(3).normal(size=len(X)))
    relative, plain = [], []
    for some in np.array_split(np.arange(1200), 12):
        relative.append(np.mean((Relative().fit(X[some], y[some]).predict(X)[0] / TRUE - 1) ** 2))
        plain.append(np.mean((Ridge().fit(X[some], y[some]).predict(X)[0] / TRUE - 1) ** 2))
    assert np.mean(relative) < 0.9 * np.mean(plain)


def test_targets_that_are_not_positive_have_absolute_errors():
    y = TRUE - TRUE.mean() + 0.1 * RNG.normal(size=len(X))
    mean, std = Relative().fit(X[:100], y[:100]).predict(X[NEW])
    assert np.abs(mean - y[NEW]).mean() < 0.2 + np.abs(TRUE[NEW] - Ridge().fit(X, TRUE).predict(X[NEW])[0]).mean()
    assert std.std() < 0.2 * std.mean()
