"""The analysis of `cosearch.hardware.cost`, compiled: the same counts for a batch of mappings, one mapping at a time.

`cosearch.hardware.cost.evaluate_batch` is the readable and differentiable form, and a test holds the two equal.
Dimensions are numbered as in `mapping.DIMS`, tensors as W, I, O.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

_P, _Q, _R, _S = 4, 5, 6, 7
RELEVANCE: Mask = np.array(
    [
        [False, True, True, True, False, False, True, True],
        [True, True, False, True, True, True, True, True],
        [True, True, True, False, True, True, False, False],
    ]
)
"""[tensor, dimension] in the orders W I O and N G K C P Q R S."""


@njit(cache=True)
def _edge(out: float, kernel: float, stride: int, dilation: int) -> float:  # pragma: no cover
    return min((out - 1.0) * stride + (kernel - 1.0) * dilation + 1.0, out * kernel)


@njit(cache=True)
def _tile(tensor: int, reach: Floats, relevance: Mask, window: Ints) -> float:  # pragma: no cover
    """Words of a tile; window: stride and dilation along P, R and along Q, S, in lowest terms."""
    if tensor == 1:
        rows = _edge(reach[_P], reach[_R], window[0], window[1])
        cols = _edge(reach[_Q], reach[_S], window[2], window[3])
        return reach[0] * reach[1] * reach[3] * rows * cols
    words = 1.0
    for d in range(8):
        if relevance[tensor, d]:
            words *= reach[d]
    return words


@njit(cache=True)
def _moved(
    tensor: int,
    child: int,
    keeps: bool,
    orders: Ints,
    trips: Floats,
    exact: Floats,
    reach: Floats,
    below: Floats,
    relevance: Mask,
    window: Ints,
) -> float:  # pragma: no cover
    """Words that enter one instance of a level: tile, refetch and halo (`cost._moved` and `cost._slide`)."""
    words = _tile(tensor, reach[child], relevance, window)
    started = not keeps
    for level in range(child + 1, trips.shape[0]):
        for position in range(8):
            d = orders[level, position]
            if d < 0:
                break
            n = trips[level, d]
            if not relevance[tensor, d]:
                if started:
                    words *= n
                continue
            if tensor == 1 and d >= _P and not started:
                vertical = d in (_P, _R)
                stride, dilation = (window[0], window[1]) if vertical else (window[2], window[3])
                out = reach[child, _P] if vertical else reach[child, _Q]
                kernel = reach[child, _R] if vertical else reach[child, _S]
                edge = _edge(out, kernel, stride, dilation)
                along_out = d in (_P, _Q)
                step = below[level, d] * (stride if along_out else dilation)
                unit = dilation if out == 1.0 else stride
                if edge == (out - 1.0) * stride + (kernel - 1.0) * dilation + 1.0:
                    added = step
                elif (out == 1.0 or kernel == 1.0) and step % unit == 0.0:
                    added = step / unit
                else:
                    added = edge
                words = words / edge * (edge + (exact[level, d] - 1.0) * min(edge, added))
            else:
                words *= exact[level, d]
            if n > 1.0:
                started = True
    return words


@njit(cache=True, nogil=True)
def analyse(
    temporal: Floats,
    spatial: Floats,
    orders: Ints,
    bounds: Floats,
    window: Ints,
    holds: Mask,
    keeps: Mask,
    resident: Mask,
    widths: Floats,
    relevance: Mask,
    cycles: Floats,
    read_bits: Floats,
    write_bits: Floats,
    footprint: Floats,
    used: Floats,
) -> None:  # pragma: no cover
    """Counts of a batch of loop nests, as `cost.evaluate_batch` defines them.

    temporal, spatial: [b, level, 8]; orders: [b or 1, level, 8] dimensions innermost first, -1 after the last.
    holds: [level, 3]; keeps: [level]; resident: [3]; widths: bits of W (0 if there are none), I, partial O, final O.
    Filled: cycles [b]; read_bits, write_bits [b, level, 3]; footprint [b, level] of one instance; used [b, level].
    """
    batch, count = temporal.shape[0], temporal.shape[1]
    top = count - 1
    exact = np.empty((count, 8))
    fan = np.empty((count, 8))
    reach = np.empty((count, 8))
    below = np.empty((count, 8))
    copies_above = np.empty(count + 1)
    outputs = bounds[0] * bounds[1] * bounds[2] * bounds[4] * bounds[5]
    for b in range(batch):
        order = orders[b if orders.shape[0] > 1 else 0]
        steps = 1.0
        for d in range(8):
            size, held = 1.0, 1.0
            for level in range(count):
                size *= spatial[b, level, d]
                grown = min(size, bounds[d])
                fan[level, d] = grown / held
                below[level, d] = grown
                size *= temporal[b, level, d]
                held = min(size, bounds[d])
                exact[level, d] = held / grown
                reach[level, d] = held
                steps *= temporal[b, level, d]
        cycles[b] = steps
        copies_above[count] = 1.0
        for level in range(count - 1, -1, -1):
            used[b, level] = copies_above[level + 1]
            product = copies_above[level + 1]
            for d in range(8):
                product *= fan[level, d]
            copies_above[level] = product
            footprint[b, level] = 0.0
            for x in range(3):
                read_bits[b, level, x] = 0.0
                write_bits[b, level, x] = 0.0
        for x in range(3):
            if x == 0 and widths[0] == 0.0:
                continue
            child = -1
            for parent in range(count):
                if not holds[parent, x]:
                    continue
                if child < 0:
                    words = 1.0
                    for level in range(count):
                        for d in range(8):
                            words *= exact[level, d] if relevance[x, d] else temporal[b, level, d]
                else:
                    words = _moved(x, child, keeps[child], order, temporal[b], exact, reach, below, relevance, window)
                scatter, copies = 1.0, 1.0
                for level in range(child + 1, parent + 1):
                    for d in range(8):
                        if relevance[x, d]:
                            scatter *= fan[level, d]
                        else:
                            copies *= fan[level, d]
                outside = copies_above[parent + 1]
                in_dram = parent == top
                last_buffer = True
                for level in range(parent + 1, top):
                    if holds[level, x]:
                        last_buffer = False
                if x < 2:
                    if not (in_dram and resident[x]):
                        read_bits[b, parent, x] = words * scatter * outside * widths[x]
                        if child >= 0:
                            write_bits[b, child, x] = words * scatter * copies * outside * widths[x]
                    if not (resident[x] and (in_dram or last_buffer)):
                        footprint[b, parent] += _tile(x, reach[parent], relevance, window) * widths[x]
                else:
                    updates = words * scatter * outside
                    summed = 1.0
                    reduces = False
                    for level in range(parent + 1, count):
                        for d in range(8):
                            if not relevance[2, d]:
                                summed *= fan[level, d]
                                if temporal[b, level, d] > 1.0:
                                    reduces = True
                    finished = outputs * summed
                    partial = updates - finished
                    innermost = child < 0
                    if in_dram:
                        if not resident[2]:
                            read_bits[b, parent, 2] = partial * widths[2]
                            write_bits[b, parent, 2] = partial * widths[2] + finished * widths[3]
                    elif innermost:
                        read_bits[b, parent, 2] = updates * widths[2]
                        write_bits[b, parent, 2] = updates * widths[2]
                    else:
                        drained = 0.0 if parent + 1 == top and resident[2] else finished
                        read_bits[b, parent, 2] = partial * widths[2] + drained * widths[3]
                        write_bits[b, parent, 2] = partial * widths[2] + finished * widths[3]
                    if not (resident[2] and parent + 1 >= top and not innermost):
                        width = widths[2] if reduces or innermost else widths[3]
                        footprint[b, parent] += _tile(2, reach[parent], relevance, window) * width
                child = parent
