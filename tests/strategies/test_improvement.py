"""The exact expected gain against sampling, and areas beyond a front against cells of a grid."""

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosearch.strategies.improvement import Fronts, areas_beyond, expected_gain, shortfall


def problem(seed: int, costs: int):
    rng = np.random.default_rng(seed)
    fronts = Fronts.of([rng.random((rng.integers(1, 5), costs)) for _ in range(4)])
    of = np.array([0, 1, 2, 3, 0])
    mean, std = np.log(0.05 + 0.5 * rng.random(5)), 0.05 + rng.random(5)
    known = rng.integers(0, 9)
    return fronts, of, mean, std, rng.random(known), rng.random((known, costs))


def volume(points: np.ndarray, reference: np.ndarray) -> float:
    inside = points[(points < reference).all(1)]
    if not len(inside):
        return 0.0
    if inside.shape[1] == 1:
        return float(reference[0] - inside.min())
    return float(moocore.hypervolume(inside, ref=reference))


@pytest.mark.parametrize("costs", [0, 1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_expected_gain_against_sampled_outcomes(costs, seed):
    fronts, of, mean, std, error, known = problem(seed, costs)
    reference, scale, offset = np.full(1 + costs, 0.9), np.linspace(0.5, 2.0, 1 + costs), 0.01
    exact = expected_gain(fronts, of, mean, std, offset, error, known, reference, scale)
    archive = np.column_stack([error, known])
    base = volume(archive, reference)
    # quantiles of the normal, so that the mean over them converges fast
    z = np.sort(np.random.default_rng(0).standard_normal(4000))
    for i, front in enumerate(of):
        own = fronts.points[fronts.start[front] : fronts.start[front + 1]]
        outcomes = np.exp(mean[i] + std[i] * z) - offset
        gains = [
            volume(np.vstack([archive, np.column_stack([np.full(len(own), e), own])]), reference) for e in outcomes
        ]
        sampled = (np.array(gains) - base) / np.prod(scale)
        noise = 4 * sampled.std() / np.sqrt(len(z)) + 1e-4
        assert exact[i] == pytest.approx(sampled.mean(), abs=noise)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_areas_against_cells_of_a_grid(seed, costs):
    """Points on a grid of side 6, so that counting cells is exact; equal coordinates occur."""
    rng = np.random.default_rng(seed)
    side = 6
    fronts = [rng.integers(-side, 2, (rng.integers(1, 4), costs)).astype(float) for _ in range(3)]
    known = rng.integers(-side, 2, (4, costs)).astype(float)
    found = areas_beyond(Fronts.of(fronts), known, np.array([0, 2, 4]))
    cells = np.stack(np.meshgrid(*[np.arange(-side, 0)] * costs, indexing="ij"), -1).reshape(-1, costs)

    def covered(points):
        return (points[:, None, :] <= cells[None, :, :]).all(2).any(0) if len(points) else np.zeros(len(cells), bool)

    for i, front in enumerate(fronts):
        for k, count in enumerate((0, 2, 4)):
            assert found[i, k] == (covered(front) & ~covered(known[:count])).sum()


def test_more_hope_and_less_known_never_lower_the_gain():
    fronts, of, mean, std, error, known = problem(1, 2)
    reference, scale = np.ones(3), np.ones(3)
    base = expected_gain(fronts, of, mean, std, 0.0, error, known, reference, scale)
    assert (expected_gain(fronts, of, mean - 0.3, std, 0.0, error, known, reference, scale) >= base).all()
    assert (expected_gain(fronts, of, mean, std, 0.0, error[1:], known[1:], reference, scale) >= base - 1e-12).all()
    assert (base >= 0).all()


def test_shortfall_of_a_sure_error():
    found = shortfall(np.array([0.3, 0.5]), np.log(np.array([0.4])), np.array([1e-9]), 0.0)
    assert found == pytest.approx(np.array([[0.0, 0.1]]), abs=1e-12)
