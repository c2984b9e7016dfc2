"""Compiled inner loops (numba): the few that numpy cannot vectorise without quadratic memory.

Each takes and gives plain arrays and sorts nothing, which keeps its compilation under a second.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@njit(cache=True)
def undominated_tiles(size: Ints, cost: Ints) -> Mask:  # pragma: no cover
    """Which tilings no earlier kept tiling beats: sizes that it divides, costs all at most as high.

    size: n x d tile sizes; cost: n x m, smaller is better; a dominating row must come before what it dominates.
    """
    n, d = size.shape
    m = cost.shape[1]
    keep = np.ones(n, np.bool_)
    kept = np.empty(n, np.int64)
    found = 0
    for i in range(n):
        for at in range(found):
            j = kept[at]
            beats = True
            for x in range(m):
                if cost[j, x] > cost[i, x]:
                    beats = False
                    break
            if beats:
                for x in range(d):
                    if size[j, x] % size[i, x] != 0:
                        beats = False
                        break
            if beats:
                keep[i] = False
                break
        if keep[i]:
            kept[found] = i
            found += 1
    return keep


@njit(cache=True, fastmath={"nnan", "nsz"})
def add_least_sums(costs: NDArray[np.float32], rows: Ints, times: Floats, least: Floats) -> None:  # pragma: no cover
    """Add to least [side, column] the least over engines of ``sum_i times[i] costs[rows[i], side, column, engine]``.

    Infinite where there is no engine.
    """
    _, sides, columns, engines = costs.shape
    total = np.empty(engines)
    for side in range(sides):
        for column in range(columns):
            total[:] = 0.0
            for i in range(len(rows)):
                part = costs[rows[i], side, column]
                for e in range(engines):
                    total[e] += times[i] * part[e]
            best = np.inf
            for e in range(engines):
                if total[e] < best:
                    best = total[e]
            least[side, column] += best


@njit(cache=True)
def best_mappings(
    fits: Mask,
    array: Floats,
    weight_read: Floats,
    weight_write: Floats,
    activation_read: Floats,
    activation_write: Floats,
    dram: Floats,
    dynamic_mj: Floats,
    port_bits: Floats,
    dram_bits_per_cycle: Floats,
    requantise_cycles: Floats,
    cycles_to_ms: Floats,
    runs: Mask,
    static_w: float,
    weights: Floats,
    latency: Floats,
    energy: Floats,
    chosen: Ints,
) -> None:  # pragma: no cover
    """The best mapping per policy, configuration and column: see `pricing.best_costs`.

    fits: [column, mapping]; runs: [column, configuration], whether the engine reaches the clock.
    array, weight_read, activation_read, dynamic_mj: [mapping, configuration]; weight_write, activation_write, dram:
    [mapping]; weights: [policy]; the rest of the inputs: [column].
    latency, energy, chosen: [column, policy, configuration], filled in place.
    """
    mappings, configurations = array.shape
    for c in range(fits.shape[0]):
        for w in range(len(weights)):
            for e in range(configurations):
                least, tie, best, best_ms, best_mj = np.inf, np.inf, -1, np.inf, np.inf
                for m in range(mappings):
                    if not runs[c, e] or not fits[c, m] or not array[m, e] < np.inf:
                        continue
                    port = max(max(weight_read[m, e], weight_write[m]), max(activation_read[m, e], activation_write[m]))
                    cycles = max(max(array[m, e], port / port_bits[c]), requantise_cycles[c])
                    ms = max(cycles, dram[m] / dram_bits_per_cycle[c]) * cycles_to_ms[c]
                    mj = dynamic_mj[m, e] + ms * static_w
                    score = weights[w] * ms + (1.0 - weights[w]) * mj
                    other = mj if weights[w] == 1.0 else ms
                    if score < least or (score == least and other < tie):
                        least, tie, best, best_ms, best_mj = score, other, m, ms, mj
                latency[c, w, e] = best_ms
                energy[c, w, e] = best_mj
                chosen[c, w, e] = best


@njit(cache=True)
def unbeaten_rows(points: Floats) -> Mask:  # pragma: no cover
    """Which rows of [n, d] no earlier kept row beats in every column; a row comes after all that may beat it.

    Of equal rows the first stays; rows that begin with infinity go.
    """
    n, d = points.shape
    keep = np.zeros(n, np.bool_)
    kept = np.empty(n, np.int64)
    found = 0
    for i in range(n):
        beaten = not points[i, 0] < np.inf
        for at in range(found):
            if beaten:
                break
            j = kept[at]
            beaten = True
            for x in range(d):
                if points[j, x] > points[i, x]:
                    beaten = False
                    break
            if beaten:  # what beats one row often beats the next: it is tried first
                kept[at], kept[0] = kept[0], j
        if not beaten:
            keep[i] = True
            kept[found] = i
            found += 1
    return keep


@njit(cache=True)
def _fits(left: Ints, right: Ints, budget: Ints) -> bool:  # pragma: no cover
    """Whether two sets of resources [r] fit the budget together."""
    fits = True
    for x in range(len(budget)):
        fits = fits and left[x] + right[x] <= budget[x]
    return fits


@njit(cache=True, nogil=True)
def below(values: Floats, size: int, x: float) -> int:  # pragma: no cover
    """How many of the first `size` rising values are at most x."""
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        if values[middle] <= x:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True)
def join(
    left_latency: Floats,
    left_energy: Floats,
    left_memory: Floats,
    left_resources: Ints,
    right_latency: Floats,
    right_energy: Floats,
    right_memory: Floats,
    right_resources: Ints,
    budget: Ints,
    rest_latency: float,
    rest_energy: float,
    rest_memory: float,
    front_latency: Floats,
    front_energy: Floats,
    slowest: bool,
    left: Ints,
    right: Ints,
) -> int:  # pragma: no cover
    """Pairs of a left and a right row whose resources together fit the budget and that may still reach the front.

    A pair is dropped if some point of the front (by rising latency and falling energy) is at most as high in latency
    and in energy as the pair with the least that is still to be added (rest). slowest: latencies combine to their
    maximum instead of their sum, or to the sum of the memory times where that is larger. left, right: filled with the
    pairs.

    Returns: how many pairs there are.
    """
    found = 0
    margin = 1.0 - 1e-12  # sums in another order may differ in the last place
    for i in range(len(left_latency)):
        for j in range(len(right_latency)):
            if not _fits(left_resources[i], right_resources[j], budget):
                continue
            if slowest:
                memory = left_memory[i] + right_memory[j] + rest_memory
                latency = max(max(left_latency[i], right_latency[j]), max(rest_latency, memory)) * margin
            else:
                latency = (left_latency[i] + right_latency[j] + rest_latency) * margin
            energy = (left_energy[i] + right_energy[j] + rest_energy) * margin
            at = below(front_latency, len(front_latency), latency)
            if at > 0 and front_energy[at - 1] <= energy:
                continue
            left[found] = i
            right[found] = j
            found += 1
    return found
