"""The noise model against simulated trainings, the jackknife against Kendall's variance of independent rankings."""

import numpy as np
import pytest

from tests.benchmarks.rank_statistics import Noise, jackknife, tau

NETWORKS, TRAINING = 0.06, 0.047


def trainings(n: int, seeds: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Expected accuracies of n networks, and [seeds, n] trainings whose seeds also shift all of them."""
    rng = np.random.default_rng(0)
    expected = rng.normal(0.73, NETWORKS, n)
    shift = np.linspace(-0.02, 0.02, seeds)[:, None]
    return expected, expected + shift + rng.normal(0, TRAINING, (seeds, n))


def test_the_two_spreads_are_found_again():
    found = Noise.of(trainings(20_000)[1])
    assert found.networks == pytest.approx(NETWORKS, rel=0.03)
    assert found.training == pytest.approx(TRAINING, rel=0.03)


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_no_ranker_is_closer_to_the_mean_than_the_one_that_knows(seeds):
    expected, found = trainings(4_000, max(2, seeds))
    assert Noise(NETWORKS, TRAINING).attainable(seeds) == pytest.approx(tau(expected, found[:seeds].mean(0)), abs=0.02)


def test_two_seeds_agree_as_simulated_ones_do():
    one, other = trainings(4_000)[1]
    assert Noise(NETWORKS, TRAINING).between_seeds() == pytest.approx(tau(one, other), abs=0.02)


def test_a_rankers_agreement_is_freed_of_the_noise():
    expected, found = trainings(4_000)
    ranker = expected + np.random.default_rng(1).normal(0, 0.03, len(expected))
    freed = Noise(NETWORKS, TRAINING).without(tau(ranker, found.mean(0)), 2)
    assert freed == pytest.approx(tau(ranker, expected), abs=0.03)


def test_noise_alone_leaves_no_differences():
    one = Noise.of(np.array([[0.7, 0.8, 0.9], [0.9, 0.8, 0.7]]))
    assert one.networks == 0.0
    assert one.attainable(2) == 0.0


def test_the_jackknife_meets_kendalls_error_of_independent_rankings():
    n = 60
    rng = np.random.default_rng(0)
    found = []
    for _ in range(20):
        a, b = rng.random((2, n))
        found.append(jackknife(lambda kept, a=a, b=b: tau(a[kept], b[kept]), n))
    expected = np.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1)))  # Kendall, Rank correlation methods, 1948
    assert np.mean(found) == pytest.approx(expected, rel=0.1)
