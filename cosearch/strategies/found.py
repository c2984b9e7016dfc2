"""What was found so far: the front of all results that meet the limits, and its knee."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cosearch.errors import InfeasibleError
from cosearch.strategies.base import Candidate, Told, broken
from cosearch.strategies.objectives import Matrix, Objectives, split_limit, undominated
from cosearch.strategies.objectives import knee as bend


@dataclass(frozen=True)
class Found:
    """A result. candidate: with the point of its hardware front; values: of the objectives, then what else is known of
    what has a limit, and accuracy.
    """

    candidate: Candidate
    values: dict[str, float]


def front(told: Sequence[Told], objectives: Objectives) -> list[Found]:
    """The results that meet all limits and that no other beats, of equal ones the first; best first objective first."""
    rows, points = _feasible(told, objectives)
    kept = np.flatnonzero(undominated(points))
    return [_found(*rows[i], objectives) for i in sorted(kept, key=lambda i: (*points[i], rows[i][0].candidate.key))]


def knee(told: Sequence[Told], objectives: Objectives) -> Found:
    """The result of the front that is farthest below the plane through the best of each objective.

    Raises: InfeasibleError if no result meets all limits.
    """
    rows, points = _feasible(told, objectives)
    if not rows:
        raise InfeasibleError(f"none of {len(told)} results meets the limits: tell more, or loosen one")
    return _found(*rows[bend(points)], objectives)


def _feasible(told: Sequence[Told], objectives: Objectives) -> tuple[list[tuple[Told, int]], Matrix]:
    """(result, point of its hardware front) of all that meet the limits, and their objectives, to be minimised."""
    good = [t for t in told if not t.failed and len(t.front) and broken(objectives, t) == 0]
    rows = [(t, i) for t in good for i in range(len(t.front))]
    columns = [{name: _column(t, name) for name in objectives.names} for t in good]
    points = [objectives.minimised(column) for column in columns]
    return rows, np.concatenate(points) if points else np.zeros((0, len(objectives.names)))


def _column(told: Told, name: str) -> Matrix:
    """[points] an objective, or a quantity that has a limit."""
    return np.full(len(told.front), told.accuracy) if name == "accuracy" else told.front.metric(name)


def _found(told: Told, point: int, objectives: Objectives) -> Found:
    limited = (split_limit(limit)[1] for limit in objectives.constraints)
    names = dict.fromkeys((*objectives.names, *limited, "accuracy"))
    values = {n: float(_column(told, n)[point]) for n in names if n != "accuracy" or told.accuracy is not None}
    return Found(Candidate(told.candidate.number, told.candidate.arch, point), values)
