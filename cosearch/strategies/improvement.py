"""What a network would add to a front, given that its costs are known and its error is not.

The volume that a network's whole hardware front would add at error e is the integral over e' > e of the area that its
front dominates and the points known with error <= e' do not. That area is constant between the errors known, so the
expectation over any distribution of e is a sum of areas times partial expectations E[(x - e)+]: exact, no sampling.
Source: own derivation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.special import ndtr

from cosearch.strategies.objectives import undominated

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
MOST_STEPS = 24
"""With more than two costs areas become volumes and are computed one by one: neighbouring errors then share one."""


@dataclass(frozen=True)
class Fronts:
    """Distinct hardware fronts. points: [p, costs] minimised; start: [fronts + 1], where each front's points begin."""

    points: Floats
    start: Ints

    def __len__(self) -> int:
        return len(self.start) - 1

    @classmethod
    def of(cls, fronts: Sequence[Floats]) -> "Fronts":
        start = np.cumsum([0, *(len(front) for front in fronts)])
        return cls(np.concatenate(fronts), np.asarray(start, dtype=np.intp))

    @property
    def owner(self) -> Ints:
        """[p] front of each point."""
        return np.repeat(np.arange(len(self)), np.diff(self.start))


def shortfall(x: Floats, mean: Floats, std: Floats, offset: float) -> Floats:
    """E[(x - e)+] where log(e + offset) is normal with mean and std. x: [k]; mean, std: [n]. Returns: [n, k]."""
    shifted = np.maximum(x[None, :] + offset, 1e-300)
    d = (np.log(shifted) - mean[:, None]) / std[:, None]
    return shifted * ndtr(d) - np.exp(mean + 0.5 * std**2)[:, None] * ndtr(d - std[:, None])


def expected_gain(
    fronts: Fronts,
    of: Ints,
    mean: Floats,
    std: Floats,
    offset: float,
    error: Floats,
    costs: Floats,
    reference: Floats,
    scale: Floats,
) -> Floats:
    """[n] expected growth of the hypervolume by each network, as a part of the box between ideal and reference.

    of: [n] front of each network; mean, std: [n] of log(error + offset). error [k], costs [k, costs]: points known.
    reference, scale: [1 + costs] the worst point that counts, error first, and the box's edges.
    """
    known = np.column_stack([error, costs])
    known = known[(known < reference).all(1)]
    known = known[undominated(known)]
    known = known[np.argsort(known[:, 0], kind="stable")]
    levels, first = np.unique(known[:, 0], return_index=True)
    areas = areas_beyond(
        Fronts((fronts.points - reference[1:]) / scale[1:], fronts.start),
        (known[:, 1:] - reference[1:]) / scale[1:],
        np.append(first, len(known)),
    )
    below = shortfall(np.append(levels, reference[0]), mean, std, offset) / scale[0]
    steps = np.diff(below, axis=1, prepend=0.0)
    return np.einsum("nk,nk->n", steps, areas[of])


def areas_beyond(fronts: Fronts, known: Floats, counts: npt.NDArray[np.integer]) -> Floats:
    """[fronts, steps] volume below 0 that each front dominates and the first counts[k] of the points known do not.

    All points are costs to be minimised, [*, costs]; only what is below 0 in every cost counts.
    """
    costs = fronts.points.shape[1]
    if costs == 0:  # nothing but the error counts: a network adds wherever no other one is
        return np.repeat((counts == 0).astype(float)[None, :], len(fronts), axis=0)
    if costs > 2:
        return _volumes_beyond(fronts, known, counts)
    pad = np.full((1, 2 - costs), -1.0)
    own = np.hstack([fronts.points, np.repeat(pad, len(fronts.points), axis=0)])
    other = np.hstack([known, np.repeat(pad, len(known), axis=0)])
    order = np.lexsort((own[:, 0], fronts.owner))
    out = np.zeros((len(fronts), len(counts)))
    _staircases(own[order], fronts.start, other, counts.astype(np.int64), out)
    return out


@njit(cache=True)
def _staircases(
    own: Floats, start: Ints, known: Floats, counts: npt.NDArray[np.int64], out: Floats
) -> None:  # pragma: no cover
    """See `areas_beyond`, for two costs. own: sorted by the first cost within each front."""
    for k in range(len(counts)):
        stair = known[: counts[k]]
        stair = stair[np.argsort(stair[:, 0])]
        for c in range(len(start) - 1):
            i, j, x = start[c], 0, -np.inf
            mine, theirs, area = 0.0, 0.0, 0.0  # least second cost of points to the left of x
            while True:
                ahead = 0.0
                if i < start[c + 1]:
                    ahead = min(ahead, own[i, 0])
                if j < len(stair):
                    ahead = min(ahead, stair[j, 0])
                if mine < theirs:
                    area += (ahead - x) * (theirs - mine)
                if ahead >= 0.0:
                    break
                x = ahead
                while i < start[c + 1] and own[i, 0] <= x:
                    mine = min(mine, own[i, 1])
                    i += 1
                while j < len(stair) and stair[j, 0] <= x:
                    theirs = min(theirs, stair[j, 1])
                    j += 1
            out[c, k] = area


def volume_below_zero(points: Floats) -> float:
    """Volume that points dominate below 0 in every column. points: [n, d], minimised."""
    import moocore

    inside = points[(points < 0).all(1)]
    if not len(inside):
        return 0.0
    if inside.shape[1] == 1:
        return float(-inside.min())
    return float(moocore.hypervolume(inside, ref=np.zeros(inside.shape[1])))


def _volumes_beyond(fronts: Fronts, known: Floats, counts: npt.NDArray[np.integer]) -> Floats:
    chosen = np.unique(np.linspace(0, len(counts) - 1, min(len(counts), MOST_STEPS)).round().astype(int))
    out = np.zeros((len(fronts), len(counts)))
    for position, k in enumerate(chosen):
        stair = known[: counts[k]]
        stair = stair[undominated(stair)]
        base = volume_below_zero(stair)
        until = chosen[position + 1] if position + 1 < len(chosen) else len(counts)
        for c in range(len(fronts)):
            own = fronts.points[fronts.start[c] : fronts.start[c + 1]]
            out[c, k:until] = volume_below_zero(np.vstack([stair, own])) - base
    return out
