"""Compiled loops of `cosearch.hardware.sweep`: exact sums over layers, and what they are reduced to.

A cost is the sum of ``counts[l] * table[l, a]`` over rising l in float64, each product and sum rounded: one definition,
whichever way it is reached. Rounded-down estimates of all pairs (a matrix product) choose the tiles of accelerators
whose costs are worth that sum. Estimates are scaled; multiplying one by `scale` makes it a bound below the cost.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cosearch.hardware.kernels import below

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Estimates = NDArray[np.floating]

TILE = 32
"""Accelerators whose estimates are reduced before one comparison."""
FEW = 4
"""Accelerators of a tile up to which they are summed one by one."""
IMPOSSIBLE = 1e30
"""Stands for an infinite cost in matrix products, where infinity times zero would be NaN."""
_SMALL = 2.0**-80
_LEAST = 1e-30  # products of estimates below this may have been rounded up by underflow


@njit(cache=True, nogil=True)
def estimate_table(table: Floats, low: int, high: int, factor: float, out: Estimates) -> None:  # pragma: no cover
    """The accelerators low..high of a table [layer, accelerator] times a factor, fit for a matrix product.

    Tiny terms would lose their relative precision to underflow: they are left out, which lowers the bound. Infinite
    ones would give NaN times zero.
    """
    for at in range(table.shape[0]):
        row, into = table[at, low:high], out[at]
        for j in range(high - low):
            value = row[j] * factor
            into[j] = 0.0 if value < _SMALL else value if value < IMPOSSIBLE else IMPOSSIBLE


@njit(cache=True, nogil=True)
def exact_costs(counts: Floats, table: Floats, start: int, stop: int, out: Floats) -> None:  # pragma: no cover
    """Costs of the networks start..stop on every accelerator, out [network, accelerator].

    counts: [network, layer]; table: [layer, accelerator].
    """
    layers, width = table.shape
    quads, tile = layers - layers % 4, 128  # a tile of sums for four networks stays in the first-level cache
    sums = np.empty((4, tile))
    a, b, c, d = sums[0], sums[1], sums[2], sums[3]
    even = stop - (stop - start) % 4
    for low in range(0, width, tile):
        size = min(tile, width - low)
        for n in range(start, even, 4):
            sums[:] = 0.0
            for at in range(0, quads, 4):  # four networks by four layers: few loads and stores for what is summed
                p, q = table[at, low : low + size], table[at + 1, low : low + size]
                r, s = table[at + 2, low : low + size], table[at + 3, low : low + size]
                k = counts[n : n + 4, at : at + 4]
                a0, a1, a2, a3 = k[0, 0], k[0, 1], k[0, 2], k[0, 3]
                b0, b1, b2, b3 = k[1, 0], k[1, 1], k[1, 2], k[1, 3]
                c0, c1, c2, c3 = k[2, 0], k[2, 1], k[2, 2], k[2, 3]
                d0, d1, d2, d3 = k[3, 0], k[3, 1], k[3, 2], k[3, 3]
                for j in range(size):
                    w, x, y, z = p[j], q[j], r[j], s[j]
                    a[j] = (((a[j] + a0 * w) + a1 * x) + a2 * y) + a3 * z
                    b[j] = (((b[j] + b0 * w) + b1 * x) + b2 * y) + b3 * z
                    c[j] = (((c[j] + c0 * w) + c1 * x) + c2 * y) + c3 * z
                    d[j] = (((d[j] + d0 * w) + d1 * x) + d2 * y) + d3 * z
            for i in range(4):
                _add(counts[n + i, quads:], table[quads:], low, low + size, sums[i])
                out[n + i, low : low + size] = sums[i, :size]
        for n in range(even, stop):
            _sums(counts[n], table, low, low + size, out[n, low : low + size])


@njit(cache=True, nogil=True)
def _sums(counts: Floats, table: Floats, low: int, high: int, out: Floats) -> None:  # pragma: no cover
    """Costs of one network on the accelerators low..high."""
    for j in range(high - low):
        out[j] = 0.0
    _add(counts, table, low, high, out)


@njit(cache=True, nogil=True)
def _add(counts: Floats, table: Floats, low: int, high: int, out: Floats) -> None:  # pragma: no cover
    """Add layer after layer; one that the network lacks would add zero and is left out."""
    for at in range(len(counts)):
        times = counts[at]
        if times != 0.0:
            row = table[at, low:high]
            for j in range(high - low):
                out[j] += times * row[j]


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
def _least(values: Estimates) -> float:  # pragma: no cover
    least = values[0]
    for j in range(1, len(values)):
        least = min(least, values[j])
    return least


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
def _least_product(a: Estimates, b: Estimates) -> float:  # pragma: no cover
    least = a[0] * b[0]
    for j in range(1, len(a)):
        least = min(least, a[j] * b[j])
    return least


@njit(cache=True, nogil=True)
def improve_best(
    latency_estimate: Estimates,
    energy_estimate: Estimates,
    scale: Floats,
    counts: Floats,
    latency: Floats,
    energy: Floats,
    first: int,
    objective: int,
    value: Floats,
    index: Ints,
) -> None:  # pragma: no cover
    """Lower each network's value by one block of accelerators; of equal accelerators the first stays.

    estimates: [network, accelerator of the block]; scale: of latency and energy; counts: [network, layer]; latency,
    energy: [layer, accelerator]; first: the block's first accelerator. objective: 0 latency, 1 energy, 2 their product.
    value, index: [network], updated.
    """
    width = latency_estimate.shape[1]
    tiles = -(-width // TILE)
    ms, mj, bound = np.empty(TILE), np.empty(TILE), np.empty(tiles)
    factor = scale[objective] if objective < 2 else scale[0] * scale[1]
    for n in range(len(counts)):
        promising = 0
        for tile in range(tiles):
            low, high = tile * TILE, min((tile + 1) * TILE, width)
            if objective == 0:
                least = float(_least(latency_estimate[n, low:high]))
            elif objective == 1:
                least = float(_least(energy_estimate[n, low:high]))
            else:
                least = float(_least_product(latency_estimate[n, low:high], energy_estimate[n, low:high]))
                least = least if least > _LEAST else 0.0
            bound[tile] = least * factor
            if bound[tile] < bound[promising]:
                promising = tile
        for turn in range(-1, tiles):  # the most promising tile first: it rules out most others
            tile = promising if turn < 0 else turn
            if bound[tile] > value[n] or turn == promising:
                continue
            low, high = tile * TILE, min((tile + 1) * TILE, width)
            if objective != 1:
                _sums(counts[n], latency, first + low, first + high, ms)
            if objective != 0:
                _sums(counts[n], energy, first + low, first + high, mj)
            for j in range(high - low):
                cost = ms[j] if objective == 0 else mj[j] if objective == 1 else ms[j] * mj[j]
                at = first + low + j
                if cost < value[n] or (cost == value[n] and at < index[n]):
                    value[n], index[n] = cost, at


@njit(cache=True, nogil=True)
def _insert(ms: Floats, mj: Floats, at: Ints, size: int, x: float, y: float, tag: int) -> int:  # pragma: no cover
    """Put an unbeaten point into a front (latency rising, energy falling), dropping what it beats.

    Returns: the new size, or -1 if there is no room.
    """
    position = below(ms, size, x)
    if position > 0 and ms[position - 1] == x:
        position -= 1
    stop = position
    while stop < size and mj[stop] >= y:
        stop += 1
    if stop == position:
        if size == len(ms):
            return -1
        for k in range(size, position, -1):
            ms[k], mj[k], at[k] = ms[k - 1], mj[k - 1], at[k - 1]
        size += 1
    elif stop > position + 1:
        gap = stop - position - 1
        for k in range(stop, size):
            ms[k - gap], mj[k - gap], at[k - gap] = ms[k], mj[k], at[k]
        size -= gap
    ms[position], mj[position], at[position] = x, y, tag
    return size


@njit(cache=True, nogil=True)
def _cost(counts: Floats, table: Floats, at: int) -> float:  # pragma: no cover
    """Cost of one network on one accelerator: as `_sums`."""
    total = 0.0
    for layer in range(len(counts)):
        if counts[layer] != 0.0:
            total += counts[layer] * table[layer, at]
    return total


@njit(cache=True, nogil=True)
def _screen(ms: Floats, mj: Floats, x: Floats, y: Floats, alive: Ints) -> int:  # pragma: no cover
    """Which of some points no point of a front is at most as high as in both, and how many; without branches."""
    alive[:] = 1
    for i in range(len(ms)):
        least_x, least_y = ms[i], mj[i]
        for j in range(len(x)):
            alive[j] &= np.int64(x[j] < least_x) | np.int64(y[j] < least_y)
    return int(alive.sum())


@njit(cache=True, nogil=True)
def extend_fronts(
    latency_estimate: Estimates,
    energy_estimate: Estimates,
    scale: Floats,
    counts: Floats,
    latency: Floats,
    energy: Floats,
    first: int,
    ms: Floats,
    mj: Floats,
    at: Ints,
    size: Ints,
    joint_ms: Floats,
    joint_mj: Floats,
    joint_size: Ints,
    start: int,
) -> int:  # pragma: no cover
    """Extend each network's front by one block of accelerators; of equal points of a network the first stays.

    Arguments as in `improve_best`. ms, mj, at: [network, room], the fronts and their accelerators, updated; size:
    [network]. joint_ms, joint_mj: a front of earlier networks with joint_size[0] points; what it beats is left out, and
    what is found goes into it while it has room. joint without room: networks are apart. start: the first network.

    Returns: the network whose front has no more room (nothing is lost: give it room and start there), or -1.
    """
    width = latency_estimate.shape[1]
    some_ms, some_mj, alive = np.empty(TILE), np.empty(TILE), np.empty(TILE, np.int64)
    nothing = np.zeros(len(joint_ms), np.int64)
    for n in range(start, len(counts)):
        for low in range(0, width, TILE):
            high = min(low + TILE, width)
            x = float(_least(latency_estimate[n, low:high])) * scale[0]
            y = float(_least(energy_estimate[n, low:high])) * scale[1]
            i = below(joint_ms, joint_size[0], x)
            if i > 0 and joint_mj[i - 1] < y:
                continue
            i = below(ms[n], size[n], x)
            if i > 0 and mj[n, i - 1] <= y:
                continue
            for j in range(high - low):
                some_ms[j] = float(latency_estimate[n, low + j]) * scale[0]
                some_mj[j] = float(energy_estimate[n, low + j]) * scale[1]
            many = high - low
            begin, stop = max(i - 1, 0), i
            while stop < size[n] and mj[n, stop] > y:
                stop += 1
            stop = min(stop + 1, size[n])  # points before and after these rule out no more than they do
            left = _screen(ms[n, begin:stop], mj[n, begin:stop], some_ms[:many], some_mj[:many], alive[:many])
            if left > FEW:
                _sums(counts[n], latency, first + low, first + high, some_ms)
                _sums(counts[n], energy, first + low, first + high, some_mj)
            for j in range(many):
                if not alive[j]:
                    continue
                if left <= FEW:
                    some_ms[j] = _cost(counts[n], latency, first + low + j)
                    some_mj[j] = _cost(counts[n], energy, first + low + j)
                x, y = some_ms[j], some_mj[j]
                if not (x < IMPOSSIBLE / 2 and y < IMPOSSIBLE / 2):
                    continue
                i = below(ms[n], size[n], x)
                if i > 0 and mj[n, i - 1] <= y:
                    continue
                i = below(joint_ms, joint_size[0], x)
                if i > 0 and (joint_mj[i - 1] < y or (joint_mj[i - 1] == y and joint_ms[i - 1] < x)):
                    continue
                grown = _insert(ms[n], mj[n], at[n], size[n], x, y, first + low + j)
                if grown < 0:
                    return n
                size[n] = grown
                if i == 0 or joint_mj[i - 1] > y:
                    grown = _insert(joint_ms, joint_mj, nothing, joint_size[0], x, y, 0)
                    if grown >= 0:
                        joint_size[0] = grown
    return -1
