"""What no choice of mappings can beat in a network's energy-delay product, from the mappings of a few policies.

Every layer brings a set of mappings, each a (latency, energy); a network's points are the sums of one of each. Policy w
takes each layer's mapping of least ``w P latency + (1 - w) energy`` (P = 1 W), so its sum c_w is the least of all those
points: the network lies above the line ``w P latency + (1 - w) energy = c_w``. What lies above the lines of a whole
grid is a convex polygon that holds every point of the convex hull. ``latency x energy`` is quasi-concave on positive
numbers, hence least at a corner of that polygon: a lower bound of the energy-delay product, and of any other cost that
is quasi-concave and rises with both. The grid's own points are corners of the hull; a finer grid closes the gap.
Source: own derivation (supporting lines of a Minkowski sum; quasi-concave functions on polytopes).
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from cosearch.hardware.tables import Floats


def outer_corners(latency_ms: Floats, energy_mj: Floats, policies: Sequence[float]) -> tuple[Floats, Floats]:
    """Corners of the polygon in which every choice of mappings lies.

    latency_ms, energy_mj: [policy, ...] sums over layers, each under the mapping that is best for the policy; infinite
        where a layer fits no mapping. policies: weights w of latency in [0, 1]; where 1 or 0 is not among them, nothing
        is known of the least latency or energy beyond its sign.

    Returns: latency_ms, energy_mj [corner, ...], by rising latency.
    """
    fits = np.isfinite(latency_ms)
    ms, mj = np.where(fits, latency_ms, 0.0), np.where(fits, energy_mj, 0.0)
    lines = {1.0: np.zeros(ms.shape[1:]), 0.0: np.zeros(ms.shape[1:])}
    lines |= {w: w * ms[at] + (1 - w) * mj[at] for at, w in enumerate(policies)}
    found = []
    for (w, c), (v, d) in pairwise(sorted(lines.items(), key=lambda line: -line[0])):
        found.append(((c * (1 - v) - d * (1 - w)) / (w - v), (w * d - v * c) / (w - v)))
    known = fits.all(axis=0)
    latency, energy = (np.where(known, np.stack(values), np.inf) for values in zip(*found, strict=True))
    return latency, energy


def gap(edp: float, bound: float) -> float:
    """How far a product may lie above the least one, as a fraction of the bound: 0 where it is the least.

    Infinite where the bound says nothing, NaN where there is none.
    """
    return max(0.0, edp / bound - 1) if bound != 0 else float("inf")
