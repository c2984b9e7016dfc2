"""How searches went: which evaluations moved the front, the hypervolume they reached, and what several runs attain.

All points here are minimised; one evaluated network stands for its whole hardware front.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cosearch.strategies.objectives import undominated

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Entry:
    """An evaluation that moved the front: its place in the search, from 0, and its points that entered."""

    trial: int
    points: Matrix


def entries(evaluated: Sequence[Matrix]) -> list[Entry]:
    """The evaluations that moved the front of all before them. evaluated: per trial [points, objectives].

    What is left out changes no hypervolume and no attainment.
    """
    found: list[Entry] = []
    front = np.empty((0, evaluated[0].shape[1])) if evaluated else np.empty((0, 0))
    for trial, points in enumerate(evaluated):
        both = np.concatenate([front, points])
        keep = undominated(both)
        new = both[len(front) :][keep[len(front) :]]
        if len(new):
            found.append(Entry(trial, new))
            front = both[keep]
    return found


def front_of(found: Sequence[Entry], objectives: int) -> Matrix:
    """[points, objectives] the front that a search ended with."""
    points = np.concatenate([np.empty((0, objectives)), *(entry.points for entry in found)])
    return points[undominated(points)]


def box(fronts: Sequence[Matrix]) -> tuple[Matrix, Matrix]:
    """The best and the worst value of each objective among several fronts, [objectives] each."""
    every = np.concatenate(list(fronts))
    return every.min(axis=0), every.max(axis=0)


MARGIN = 0.1
"""The worst corner lies this part of the box beyond the worst values, so that the fronts' ends count too."""


def hypervolumes(found: Sequence[Entry], best: Matrix, worst: Matrix) -> Iterator[tuple[int, float]]:
    """After each evaluation that moved the front: (evaluations so far, part of the box that is dominated)."""
    import moocore

    span = np.where(worst > best, worst - best, 1.0)
    reference = np.full(len(best), 1.0 + MARGIN)
    front = np.empty((0, len(best)))
    for entry in found:
        front = np.concatenate([front, (entry.points - best) / span])
        front = front[undominated(front)]
        yield entry.trial + 1, float(moocore.hypervolume(front, ref=reference)) / float(np.prod(reference))


def attainment(fronts: Sequence[Matrix], runs: int) -> Matrix:
    """[steps, 2] the best points that at least `runs` of the fronts dominate or equal, by rising first objective.

    fronts: [points, 2], minimised. Source: Fonseca and Fleming 1996 (empirical attainment).
    """
    if runs > len(fronts):
        return np.empty((0, 2))
    steps: list[tuple[float, float]] = []
    for x in np.unique(np.concatenate([front[:, 0] for front in fronts])):
        # what each run reaches in the second objective when the first may be x
        reached = np.array([front[front[:, 0] <= x, 1].min(initial=np.inf) for front in fronts])
        y = float(np.sort(reached)[runs - 1])
        if np.isfinite(y) and (not steps or y < steps[-1][1]):
            steps.append((float(x), y))
    return np.array(steps).reshape(-1, 2)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95% interval by Student's t; the interval is infinite for fewer than two values."""
    from scipy.stats import t

    sample = np.asarray(values, dtype=float)
    mean = float(sample.mean())
    if len(sample) < 2:
        return mean, -np.inf, np.inf
    half = float(t.ppf(0.975, len(sample) - 1) * sample.std(ddof=1) / np.sqrt(len(sample)))
    return mean, mean - half, mean + half


def difference_interval(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Difference of two means and its 95% interval by Welch's t; infinite if one side has fewer than two values."""
    from scipy.stats import t

    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    mean = float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2:
        return mean, -np.inf, np.inf
    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    if va + vb == 0:
        return mean, mean, mean
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    half = float(t.ppf(0.975, freedom) * np.sqrt(va + vb))
    return mean, mean - half, mean + half
