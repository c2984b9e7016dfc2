"""What moved fronts, hypervolumes and attainment, against the textbook answer over everything."""

import moocore
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosearch.report.curves import over_runs
from cosearch.report.searching import (
    MARGIN,
    attainment,
    box,
    difference_interval,
    entries,
    front_of,
    hypervolumes,
    mean_interval,
)

SMALL = st.integers(0, 6).map(float)


def trials(objectives: int, most: int = 3):
    points = st.lists(st.lists(SMALL, min_size=objectives, max_size=objectives), min_size=0, max_size=most)
    return st.lists(points.map(lambda p: np.array(p, float).reshape(-1, objectives)), min_size=1, max_size=8)


@given(trials(3))
def test_what_moved_the_front_has_the_hypervolume_of_everything(evaluated):
    found = entries(evaluated)
    every = np.concatenate(evaluated)
    if not len(every):
        assert found == []
        return
    best, worst = box([front_of(found, 3)])
    span = np.where(worst > best, worst - best, 1.0)
    reference = np.full(3, 1.0 + MARGIN)
    steps = dict(hypervolumes(found, best, worst))
    known = 0.0
    for n in range(1, len(evaluated) + 1):
        so_far = (np.concatenate(evaluated[:n]) - best) / span
        whole = float(moocore.hypervolume(so_far, ref=reference)) / float(np.prod(reference)) if len(so_far) else 0.0
        known = steps.get(n, known)
        assert known == pytest.approx(whole, abs=1e-12)


@given(trials(2, most=5).filter(lambda sets: all(len(points) for points in sets)), st.data())
def test_attainment_is_moocores(fronts, data):
    runs = data.draw(st.integers(1, len(fronts)))
    ours = attainment(fronts, runs)
    labelled = np.concatenate([np.column_stack([f, np.full(len(f), i + 1)]) for i, f in enumerate(fronts)])
    theirs = moocore.eaf(labelled[:, :2], sets=labelled[:, 2].astype(int), percentiles=[100 * runs / len(fronts)])
    assert sorted(map(tuple, ours.tolist())) == sorted({(a, b) for a, b, _ in theirs.tolist()})


def test_attainment_of_more_runs_than_there_are_is_nothing():
    assert attainment([np.array([[1.0, 1.0]])], 2).shape == (0, 2)


def test_intervals_are_scipys():
    from scipy import stats

    ours, theirs = [1.0, 2.0, 4.0, 3.5], [0.5, 1.0, 0.7]
    mean, low, high = mean_interval(ours)
    known = stats.ttest_1samp(ours, 0.0).confidence_interval()
    assert (mean, low, high) == pytest.approx((np.mean(ours), known.low, known.high))
    mean, low, high = difference_interval(ours, theirs)
    welch = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    assert (low, high) == pytest.approx((welch.low, welch.high))
    assert mean_interval([1.0])[1:] == (-np.inf, np.inf)
    assert difference_interval([1.0], theirs)[1:] == (-np.inf, np.inf)


def test_curves_over_runs_hold_their_value_until_the_next_step():
    median, least, most = over_runs(
        [[(1, 0.1), (4, 0.5), (6, 0.5)], [(2, 0.2), (6, 0.3)], [(1, 0.0), (3, 0.9), (6, 0.9)]]
    )
    assert median == [(2, 0.1), (3, 0.2), (4, 0.5), (6, 0.5)]
    assert least == [(2, 0.0), (3, 0.1), (4, 0.2), (6, 0.3)]
    assert most == [(2, 0.2), (3, 0.9), (4, 0.9), (6, 0.9)]
