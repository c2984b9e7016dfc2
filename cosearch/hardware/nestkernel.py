"""The analysis of `cosearch.hardware.cost`, compiled: the same counts and prices for a batch of mappings.

`cosearch.hardware.cost.evaluate_batch` is the readable and differentiable form, and a test holds the two equal. What a
nest does under any loop order (tiles, fan-out, footprints) is found once and shared by all orders. Dimensions are
numbered as in `mapping.DIMS`, tensors as W, I, O, directions as read, write.
"""

import math
from typing import NamedTuple

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


class Memories(NamedTuple):
    """A hierarchy as arrays over levels, innermost first; fields as in `MemoryLevel`.

    holds: [level, 3]. row: bits to which a transfer is rounded up, 0 where tiles lie packed. port: [level, 2] bits per
    cycle of the read and the write port (the same one where it is shared). room: bits that tiles may take.
    energy_pj: [level, 2] of one row. ends: whether the first fill and the last drain are counted apart.
    """

    holds: Mask
    keeps: Mask
    slides: Mask
    returns: Mask
    row: Floats
    port: Floats
    shared: Mask
    word: Floats
    energy_pj: Floats
    room: Floats
    instances: Floats
    ends: bool


class Work(NamedTuple):
    """A layer: bounds [8]; window: stride and dilation along P, R and Q, S in lowest terms; bits of W, I, partial O, O.

    resident: [3]; outputs: how many; update_share: of the innermost partial sums, see `cost.evaluate_batch`.
    """

    bounds: Floats
    window: Ints
    widths: Floats
    resident: Mask
    outputs: float
    update_share: float


class Terms(NamedTuple):
    """What prices a mapping besides its traffic.

    cycles_per_operation, fill_cycles as in `Engine`; fill_from: the level above which loops fill the array again.
    least_cycles: of requantisation. fixed_pj: operations and requantisation.
    """

    cycles_per_operation: float
    fill_cycles: float
    fill_from: int
    least_cycles: float
    fixed_pj: float


class NestCounts(NamedTuple):
    """What each mapping does; b = order combination x nest.

    cycles [b] of the array; fills [b]: how often it fills and drains; ends [b]: cycles of the first fill and the last
    drain of the memories, 0 where they do not count. rows [b, 2, level, 3]: bits read and written, whole rows where
    transfers are aligned; ports [b, 2, level]: the same in whole cycles of the ports, without the ends. footprint_bits
    [b, level] of one instance; used [b, level]: instances at work on average; fanout [b, level]: instances needed.
    """

    cycles: Floats
    fills: Floats
    ends: Floats
    rows: Floats
    ports: Floats
    footprint_bits: Floats
    used: Floats
    fanout: Floats


class _Shape(NamedTuple):
    """Scratch of one nest. reach, below, exact: [level, 8]; the rest by (child, parent) link at its parent."""

    reach: Floats
    below: Floats
    exact: Floats
    above: Floats  # [level + 1] product of all fan-out at and above
    summed: Floats  # [level + 1] the same along dimensions that sum outputs
    every: Floats  # [3] operands taken, one per step
    tile: Floats  # [level, 3]
    scatter: Floats  # [level, 3] different children's tiles below one instance
    copies: Floats  # [level, 3] children that take the same tile
    slack: Floats  # [level, 3] what the busiest copy moves over the average (`cost._slack`)
    loops: Floats  # [loop, 2] trips and exact trips
    where: Ints  # [loop, 2] level and dimension
    reduces: Mask  # [level] whether time loops above sum outputs


def shapes(levels: int) -> _Shape:
    """Scratch for nests of so many levels."""

    def table(*shape: int) -> Floats:
        return np.empty(shape)

    return _Shape(
        table(levels, 8),
        table(levels, 8),
        table(levels, 8),
        table(levels + 1),
        table(levels + 1),
        table(3),
        table(levels, 3),
        table(levels, 3),
        table(levels, 3),
        table(levels, 3),
        table(8 * levels, 2),
        np.empty((8 * levels, 2), np.int64),
        np.empty(levels, np.bool_),
    )


@njit(cache=True, inline="always")
def _edge(out: float, kernel: float, stride: int, dilation: int) -> float:  # pragma: no cover
    return min((out - 1.0) * stride + (kernel - 1.0) * dilation + 1.0, out * kernel)


@njit(cache=True, inline="always")
def _up(bits: float, unit: float) -> float:  # pragma: no cover
    return math.ceil(bits / unit - 1e-9) * unit if unit > 0.0 else bits


@njit(cache=True)
def _tile(tensor: int, reach: Floats, window: Ints) -> float:  # pragma: no cover
    if tensor == 0:
        return float(reach[1] * reach[2] * reach[3] * reach[_R] * reach[_S])
    if tensor == 2:
        return float(reach[0] * reach[1] * reach[2] * reach[_P] * reach[_Q])
    rows = _edge(reach[_P], reach[_R], window[0], window[1])
    cols = _edge(reach[_Q], reach[_S], window[2], window[3])
    return float(reach[0] * reach[1] * reach[3] * rows * cols)


@njit(cache=True)
def _look(time: Floats, space: Floats, memories: Memories, work: Work, s: _Shape) -> float:  # pragma: no cover
    """Fill the scratch with what no loop order changes; returns the array's steps."""
    count = time.shape[0]
    steps = 1.0
    s.every[:] = 1.0
    own = s.scatter  # per level first: fan-out that matters to a tensor
    rest = s.copies
    own[:] = 1.0
    rest[:] = 1.0
    s.slack[:] = 1.0
    s.reduces[:] = False
    for d in range(8):
        bound = work.bounds[d]
        size, held = 1.0, 1.0
        unrolled = 0
        for level in range(count):
            exact = 1.0
            spread, trips = space[level, d], time[level, d]
            if spread != 1.0:
                unrolled = level
                size *= spread
                grown = min(size, bound)
                fan = grown / held
                held = grown
                for x in range(3):
                    if RELEVANCE[x, d]:
                        own[level, x] *= fan
                    else:
                        rest[level, x] *= fan
            s.below[level, d] = held
            if trips != 1.0:
                size *= trips
                grown = min(size, bound)
                exact = grown / held
                held = grown
                steps *= trips
                for x in range(3):
                    s.every[x] *= exact if RELEVANCE[x, d] else trips
                if exact != trips:
                    for below in range(unrolled):
                        for x in range(3):
                            if RELEVANCE[x, d]:
                                s.slack[below, x] *= trips / exact
                if not RELEVANCE[2, d]:
                    s.reduces[:level] = True
            s.exact[level, d] = exact
            s.reach[level, d] = held
    s.above[count] = 1.0
    s.summed[count] = 1.0
    for level in range(count - 1, -1, -1):
        s.above[level] = s.above[level + 1] * own[level, 0] * rest[level, 0]
        s.summed[level] = s.summed[level + 1] * rest[level, 2]
    for x in range(3):
        inner, same = 1.0, 1.0
        for level in range(count):  # from here on per link: fan-out since the level below that holds the tensor
            inner *= own[level, x]
            same *= rest[level, x]
            if memories.holds[level, x]:
                own[level, x], rest[level, x] = inner, same
                inner, same = 1.0, 1.0
                s.tile[level, x] = _tile(x, s.reach[level], work.window)
    return steps


@njit(cache=True)
def _footprints(memories: Memories, work: Work, s: _Shape, footprint: Floats) -> None:  # pragma: no cover
    count = len(footprint)
    footprint[:] = 0.0
    for x in range(3):
        if x == 0 and work.widths[0] == 0.0:
            continue
        last = True  # from the top: the last level below DRAM that holds the tensor is where residents stay
        first = 0
        while not memories.holds[first, x]:
            first += 1
        for level in range(count - 1, -1, -1):
            if not memories.holds[level, x]:
                continue
            stays = work.resident[x] and last and not (x == 2 and level == first and level < count - 1)
            if level < count - 1:
                last = False
            if stays:
                continue
            width = work.widths[x]
            if x == 2 and not (s.reduces[level] or level == first):
                width = work.widths[3]
            footprint[level] += s.tile[level, x] * width


@njit(cache=True, inline="always")
def _moved(
    tensor: int, child: int, memories: Memories, loops: int, s: _Shape, window: Ints
) -> tuple[float, float, float]:  # pragma: no cover
    """Transfers into one instance of a level: whole tiles, slid tiles, words that a slid tile adds (`cost._moved`)."""
    whole, slid, new = 1.0, 0.0, 0.0
    started = not memories.keeps[child]
    slides = tensor == 1 and memories.slides[child]
    for at in range(loops):
        level, d = s.where[at, 0], s.where[at, 1]
        if level <= child:
            continue
        if not RELEVANCE[tensor, d]:
            if started:
                whole *= s.loops[at, 0]
                slid *= s.loops[at, 0]
            continue
        trips = s.loops[at, 1]
        if slides and d >= _P and not started:
            vertical = d in (_P, _R)
            stride, dilation = (window[0], window[1]) if vertical else (window[2], window[3])
            out = s.reach[child, _P] if vertical else s.reach[child, _Q]
            kernel = s.reach[child, _R] if vertical else s.reach[child, _S]
            edge = _edge(out, kernel, stride, dilation)
            step = s.below[level, d] * (stride if d in (_P, _Q) else dilation)
            unit = dilation if out == 1.0 else stride
            added = edge
            if edge == (out - 1.0) * stride + (kernel - 1.0) * dilation + 1.0:
                added = step
            elif (out == 1.0 or kernel == 1.0) and step % unit == 0.0:
                added = step / unit
            new = s.tile[child, tensor] / edge * min(edge, added)
            slid = trips - 1.0
        else:
            whole *= trips
            slid *= trips
        started = True
    return whole, slid, new


@njit(cache=True, inline="always")
def _add(
    memories: Memories, s: _Shape, rows: Floats, ports: Floats, level: int, x: int, way: int, bits: float, times: float
) -> None:  # pragma: no cover
    """Transfers of `bits` each, `times` times over all instances."""
    rows[way, level, x] += _up(bits, memories.row[level]) * times
    width = memories.port[level, way]
    unit = width if memories.row[level] > 0.0 and width < np.inf else 0.0
    ports[way, level] += _up(bits, unit) * times * s.slack[level, x]


@njit(cache=True, inline="always")
def _first(
    memories: Memories, ports: Floats, level: int, way: int, bits: float, times: float
) -> float:  # pragma: no cover
    """Cycles of one transfer, which leaves the steady time of the port."""
    width = memories.port[level, way]
    if width == np.inf:
        return 0.0
    moved = _up(bits, width if memories.row[level] > 0.0 else 0.0)
    ports[way, level] -= moved * times
    return moved / width


@njit(cache=True, inline="always")
def _inputs(
    memories: Memories, work: Work, s: _Shape, loops: int, rows: Floats, ports: Floats
) -> float:  # pragma: no cover
    """Traffic of W and I (`cost._inputs`); returns the cycles of their first way down."""
    count = memories.holds.shape[0]
    top = count - 1
    together, alone_w, alone_i = 0.0, 0.0, 0.0
    for x in range(2):
        width = work.widths[x]
        if width == 0.0:
            continue
        child = -1
        for parent in range(count):
            if not memories.holds[parent, x]:
                continue
            if parent == top and work.resident[x]:
                break
            scatter, outside = s.scatter[parent, x], s.above[parent + 1]
            if child < 0:
                _add(memories, s, rows, ports, parent, x, 0, scatter * width, s.every[x] * outside)
                child = parent
                continue
            whole, slid, new = _moved(x, child, memories, loops, s, work.window)
            entered = scatter * s.copies[parent, x] * outside
            tile = s.tile[child, x] * width
            _add(memories, s, rows, ports, parent, x, 0, tile * scatter, whole * outside)
            _add(memories, s, rows, ports, child, x, 1, tile, whole * entered)
            if slid != 0.0:
                _add(memories, s, rows, ports, parent, x, 0, new * width * scatter, slid * outside)
                _add(memories, s, rows, ports, child, x, 1, new * width, slid * entered)
            if memories.ends:
                sent = _first(memories, ports, parent, 0, tile * scatter, outside)
                took = max(sent, _first(memories, ports, child, 1, tile, entered))
                if memories.holds[parent, 1 - x] and _sends(parent, 1 - x, memories, work):
                    together += took
                elif x == 0:
                    alone_w += took
                else:
                    alone_i += took
            child = parent
    return together + max(alone_w, alone_i)


@njit(cache=True)
def _sends(level: int, x: int, memories: Memories, work: Work) -> bool:  # pragma: no cover
    """Whether a level that holds a tensor sends it to another level."""
    if work.widths[x] == 0.0 or (work.resident[x] and level == memories.holds.shape[0] - 1):
        return False
    return bool(memories.holds[:level, x].any())


@njit(cache=True, inline="always")
def _outputs(
    memories: Memories, work: Work, s: _Shape, loops: int, rows: Floats, ports: Floats
) -> float:  # pragma: no cover
    """Traffic of O (`cost._outputs`); returns the cycles of the last way up."""
    count = memories.holds.shape[0]
    top = count - 1
    wide, narrow = work.widths[2], work.widths[3]
    ends = 0.0
    child = -1
    below = -1  # the level below the child that holds outputs
    parent = 0
    while not memories.holds[parent, 2]:
        parent += 1
    whole, tile = s.every[2], 1.0
    while True:
        if parent == top and work.resident[2]:
            break
        after = parent + 1
        while after <= top and not memories.holds[after, 2]:
            after += 1
        scatter, outside = s.scatter[parent, 2], s.above[parent + 1]
        entered = scatter * s.copies[parent, 2] * outside
        finished = work.outputs * s.summed[parent + 1]
        into = tile * scatter
        updates = whole * into * outside
        stays = work.resident[2] and after == top
        here = s.tile[parent, 2]
        left = finished
        rise = 0.0
        if parent != top:
            rise = _moved(2, parent, memories, loops, s, work.window)[0]
            if not stays:
                left = rise * here * outside
        if child < 0 and parent != top:
            updates = max(updates * work.update_share, left)
        last = wide if child < 0 and parent != top else narrow
        unread = left
        if memories.returns[parent]:
            unread = 0.0 if child < 0 else finished
            _add(memories, s, rows, ports, parent, 2, 1, here * wide, (left - finished) / here)
        _add(memories, s, rows, ports, parent, 2, 0, into * wide, (updates - unread) / into)
        _add(memories, s, rows, ports, parent, 2, 1, into * wide, (updates - finished) / into)
        _add(memories, s, rows, ports, parent, 2, 1, into * last, finished / into)
        if parent != top and not stays:
            _add(memories, s, rows, ports, parent, 2, 0, here * wide, (left - finished) / here)
            _add(memories, s, rows, ports, parent, 2, 0, here * last, finished / here)
        if memories.ends and child >= 0:
            sent = _first(memories, ports, child, 0, tile * (wide if below < 0 else narrow), entered)
            ends += max(sent, _first(memories, ports, parent, 1, into * narrow, outside))
        if parent == top:
            break
        below, child, parent = child, parent, after
        whole, tile = rise, here
    return ends


@njit(cache=True)
def _loops(time: Floats, order: Ints, s: _Shape) -> int:  # pragma: no cover
    """The time loops that iterate, innermost first, in the scratch; returns how many there are."""
    found = 0
    for level in range(time.shape[0]):
        for position in range(8):
            d = order[level, position]
            if d < 0:
                break
            if time[level, d] != 1.0:
                s.loops[found, 0] = time[level, d]
                s.loops[found, 1] = s.exact[level, d]
                s.where[found, 0] = level
                s.where[found, 1] = d
                found += 1
    return found


@njit(cache=True)
def _fills(time: Floats, fill_from: int) -> float:  # pragma: no cover
    product = 1.0
    for level in range(fill_from, time.shape[0]):
        for d in range(8):
            product *= time[level, d]
    return product


@njit(cache=True, inline="always")
def _price(
    steps: float,
    fills: float,
    ends: float,
    rows: Floats,
    ports: Floats,
    used: Floats,
    memories: Memories,
    terms: Terms,
) -> tuple[float, float]:  # pragma: no cover
    """Cycles and pJ of one mapping, static power apart."""
    cycles = max(steps * terms.cycles_per_operation + terms.fill_cycles * fills, terms.least_cycles)
    pj = terms.fixed_pj
    for level in range(len(used)):
        read, write = ports[0, level], ports[1, level]
        if memories.shared[level]:
            read, write = read + write, 0.0
        cycles = max(cycles, read / (used[level] * memories.port[level, 0]))
        cycles = max(cycles, write / (used[level] * memories.port[level, 1]))
        for way in range(2):
            energy = memories.energy_pj[level, way]
            if energy > 0.0:
                for x in range(3):
                    pj += math.ceil(rows[way, level, x] / memories.word[level] - 1e-9) * energy
    return cycles + ends, pj


@njit(cache=True, inline="always")
def _fits(footprint: Floats, fanout: Floats, memories: Memories) -> bool:  # pragma: no cover
    for level in range(len(footprint)):
        if footprint[level] > memories.room[level] or fanout[level] > memories.instances[level]:
            return False
    return True


@njit(cache=True)
def _fanouts(space: Floats, fanout: Floats) -> None:  # pragma: no cover
    product = 1.0
    for level in range(space.shape[0] - 1, -1, -1):
        fanout[level] = product
        for d in range(8):
            product *= space[level, d]


@njit(cache=True, nogil=True)
def analyse(
    temporal: Floats,
    spatial: Floats,
    orders: Ints,
    memories: Memories,
    work: Work,
    terms: Terms,
    s: _Shape,
    start: int,
    stop: int,
    counting: bool,
    found: NestCounts,
    cycles: Floats,
    energy_pj: Floats,
) -> None:  # pragma: no cover
    """Nests start..stop - 1 under every combination of orders: what they do if counting, else what they cost.

    temporal, spatial: [b, level, 8]; orders: [o, level, 8] dimensions innermost first, -1 after the last.
    found: [o * b, ...] filled if counting, otherwise scratch for one mapping. cycles, energy_pj: [o, b] filled if not
    counting; infinite where a mapping does not fit.
    """
    size = temporal.shape[0]
    for b in range(start, stop):
        time = temporal[b]
        at = b if counting else 0
        _fanouts(spatial[b], found.fanout[at])
        steps = _look(time, spatial[b], memories, work, s)
        _footprints(memories, work, s, found.footprint_bits[at])
        if not counting and not _fits(found.footprint_bits[at], found.fanout[at], memories):
            cycles[:, b] = np.inf
            energy_pj[:, b] = np.inf
            continue
        fills = _fills(time, terms.fill_from)
        for o in range(orders.shape[0]):
            if counting:
                at = o * size + b
                _fanouts(spatial[b], found.fanout[at])
                _footprints(memories, work, s, found.footprint_bits[at])
            loops = _loops(time, orders[o], s)
            rows, ports = found.rows[at], found.ports[at]
            rows[:] = 0.0
            ports[:] = 0.0
            ends = _inputs(memories, work, s, loops, rows, ports) + _outputs(memories, work, s, loops, rows, ports)
            if counting:
                found.cycles[at], found.fills[at], found.ends[at] = steps, fills, ends
                found.used[at] = s.above[1:]
            else:
                priced = _price(steps, fills, ends, rows, ports, s.above[1:], memories, terms)
                cycles[o, b], energy_pj[o, b] = priced


@njit(cache=True)
def price_counted(
    counted: NestCounts, memories: Memories, terms: Terms, cycles: Floats, energy_pj: Floats
) -> None:  # pragma: no cover
    """Price counted mappings [b]; infinite where one does not fit."""
    for b in range(len(cycles)):
        if not _fits(counted.footprint_bits[b], counted.fanout[b], memories):
            cycles[b], energy_pj[b] = np.inf, np.inf
            continue
        cycles[b], energy_pj[b] = _price(
            counted.cycles[b],
            counted.fills[b],
            counted.ends[b],
            counted.rows[b],
            counted.ports[b],
            counted.used[b],
            memories,
            terms,
        )
