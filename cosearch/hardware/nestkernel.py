"""The analysis of `cosearch.hardware.cost`, compiled: prices, or what decides them, of a batch of mappings.

`cosearch.hardware.cost.evaluate_batch` is the readable and differentiable form, and a test holds the two equal. What a
nest does under any loop order (tiles, fan-out, footprints) is found once and shared by all orders; orders that agree in
the loops that iterate do the same and are analysed once; and orders that agree up to a level share what happens below.
Dimensions are numbered as in `mapping.DIMS`, tensors as W, I, O, directions as read, write.
"""

from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

compiled = njit(cache=True, nogil=True, error_model="numpy")
_WITHIN: dict[str, Any] = {"forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False}
inlined = njit(error_model="numpy", **_WITHIN)
"""For what only compiled functions call: passing this many arrays, and counting references to each of them, would take
longer than what is done with them. Such a function allocates nothing."""

_P, _Q, _R, _S = 4, 5, 6, 7
BOTH = 2
"""The direction of charges that reads and writes share."""
RELEVANCE: Mask = np.array(
    [
        [False, True, True, True, False, False, True, True],
        [True, True, False, True, True, True, True, True],
        [True, True, True, False, True, True, False, False],
    ]
)
"""[tensor, dimension] in the orders W I O and N G K C P Q R S."""
OUTPUT_WAYS: Ints = np.array([1, 0, 1, 1, 0, 0])
"""Directions of the transfers of outputs over one port, see `_outputs`."""


class Memories(NamedTuple):
    """A hierarchy as arrays over levels, innermost first; fields as in `MemoryLevel`.

    holds: [level, 3]. row: bits to which a transfer is rounded up, 0 where tiles lie packed. port: [level, 2] bits per
    cycle of the read and the write port (the same one where it is shared). room: bits that tiles may take.
    energy_pj: [level, 2] of one row. fan_out: see `accelerator.fan_out`. ends: whether the first fill and the
    last drain are counted apart.
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
    fan_out: Floats
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


class Chains(NamedTuple):
    """Which levels exchange what.

    links: [link, 3] tensor, lower and upper level of every exchange, level -1 being the array; W, then I, then O,
    innermost first. of: [tensor, 2] first link and one past the last. takes: [level, 3] whether a tensor's tile takes
    room there; wide: [level] whether outputs do in full width anyway.
    """

    links: Ints
    of: Ints
    takes: Mask
    wide: Mask


class Orders(NamedTuple):
    """Combinations of loop orders: [combination, level] which order each level has, and [level, order, 8] the orders.

    An order lists dimensions innermost first, -1 after the last one.
    """

    chosen: Ints
    sequences: Ints


class Charges(NamedTuple):
    """What some accelerators charge for, see `nestfront`.

    ports, rows: [charge, 2] level and direction, `BOTH` for the sum. offered: [level, n] rooms in bits by rising size,
    infinity after the last one.
    """

    ports: Ints
    rows: Ints
    offered: Floats


class Limits(NamedTuple):
    """Which tiles may fit: see `nest.limits`.

    takes: [level, 3] whether a tensor's tile takes room; room: [level] bits on offer; widths: [3] bits of a word, the
    narrower one of O; bounds, window: as in `Work`.
    """

    takes: Mask
    room: Floats
    widths: Floats
    bounds: Floats
    window: Ints


def chains(memories: Memories, work: Work) -> Chains:
    count, top = len(memories.holds), len(memories.holds) - 1
    links: list[tuple[int, int, int]] = []
    of, takes, wide = [], np.zeros((count, 3), bool), np.zeros(count, bool)
    for x in range(3):
        start, levels = len(links), [level for level in range(count) if memories.holds[level, x]]
        moved = [level for level in levels if not (level == top and work.resident[x])]
        exists = x > 0 or work.widths[0] > 0.0
        if exists:
            links += [(x, low, high) for low, high in pairwise([-1, *moved])]
        of.append((start, len(links)))
        stays = levels[-2:] if work.resident[x] else []
        wide[levels[0]] |= x == 2
        for level in levels:
            takes[level, x] = exists and (level not in stays or (x == 2 and level == levels[0] and level < top))
    return Chains(np.array(links, np.int64).reshape(-1, 3), np.array(of), takes, wide)


def orders_of(orders: Ints) -> Orders:
    """orders: [combination, level, 8]."""
    return _orders(orders.tobytes(), orders.shape)


@lru_cache(maxsize=256)
def _orders(content: bytes, shape: tuple[int, ...]) -> Orders:
    orders = np.frombuffer(content, np.int64).reshape(shape)
    combinations, levels, _ = shape
    chosen = np.zeros((combinations, levels), np.int64)
    found: list[list[Any]] = []
    for level in range(levels):
        unique, chosen[:, level] = np.unique(orders[:, level], axis=0, return_inverse=True)
        found.append(list(unique))
    sequences = np.full((levels, max(map(len, found)), 8), -1, np.int64)
    for level, rows in enumerate(found):
        sequences[level, : len(rows)] = rows
    return Orders(chosen, sequences)


class Nest(NamedTuple):
    """Scratch: what no loop order changes, of one nest."""

    reach: Floats  # [level, 8] extent of a tile
    below: Floats  # [level, 8] extent inside a level's time loops, its own fan-out included
    exact: Floats  # [level, 8] time loops cut to the layer
    above: Floats  # [level + 1] product of all fan-out at and above
    summed: Floats  # [level + 1] the same along dimensions that sum outputs
    every: Floats  # [3] operands taken, one per step
    tile: Floats  # [level, 3]
    scatter: Floats  # [level, 3] different children's tiles below one instance
    copies: Floats  # [level, 3] children that take the same tile
    slack: Floats  # [level, 3] what the busiest copy moves over the average (`cost._slack`)
    reduces: Mask  # [level] whether time loops above sum outputs
    footprint: Floats  # [level]
    state: Floats  # [level, link, 4] transfers of whole tiles, of slid ones, words of these, whether loops move it
    loops: Ints  # [level, order, 8] the loops of an order that iterate
    same: Ints  # [level, order] the first order with the same loops
    trips: Ints  # [level] how many there are
    rows: Floats  # [2, level, 3] bits read and written, whole rows where transfers are aligned
    ports: Floats  # [2, level] the same in whole cycles of the ports, without the ends


def scratch(levels: int, links: int, orders: int) -> Nest:
    """Room for the analysis of one nest after the other."""
    extents, tiles = (levels, 8), (levels, 3)
    floats = (extents, extents, extents, levels + 1, levels + 1, 3, tiles, tiles, tiles, tiles)
    tables: list[Any] = [np.ones(shape) for shape in floats]
    tables += [np.zeros(levels, np.bool_), np.zeros(levels), np.zeros((levels, links, 4))]
    tables += [np.zeros(shape, np.int64) for shape in ((levels, orders, 8), (levels, orders), levels)]
    tables += [np.zeros((2, levels, 3)), np.zeros((2, levels))]
    return Nest(*tables)


@inlined
def _edge(out: float, kernel: float, stride: int, dilation: int) -> float:  # pragma: no cover
    return out * kernel - max(out - dilation, 0.0) * max(kernel - stride, 0.0)


@inlined
def up(bits: float, unit: float) -> float:  # pragma: no cover
    return np.ceil(bits / unit - 1e-9) * unit if unit > 0.0 else bits


@inlined
def tile_words(tensor: int, reach: Floats, window: Ints) -> float:  # pragma: no cover
    if tensor == 0:
        return reach[1] * reach[2] * reach[3] * reach[_R] * reach[_S]
    if tensor == 2:
        return reach[0] * reach[1] * reach[2] * reach[_P] * reach[_Q]
    rows = _edge(reach[_P], reach[_R], window[0], window[1])
    cols = _edge(reach[_Q], reach[_S], window[2], window[3])
    return reach[0] * reach[1] * reach[3] * rows * cols


@inlined
def _may_fit(reach: Floats, limits: Limits) -> bool:  # pragma: no cover
    """Whether tiles of these extents [level, 8] have room at every level."""
    for level in range(len(reach)):
        bits = 0.0
        for x in range(3):
            if limits.takes[level, x]:
                bits += tile_words(x, reach[level], limits.window) * limits.widths[x]
        if bits > limits.room[level]:
            return False
    return True


@inlined
def _extend(d: int, time: Floats, across: Floats, bound: float, reach: Floats) -> None:  # pragma: no cover
    """Extents of tiles along one dimension."""
    size = 1.0
    for level in range(len(time)):
        size *= across[level, d] * time[level, d]
        reach[level, d] = min(size, bound)


@compiled
def tilings(
    across: Floats, starts: Ints, splits: Floats, limits: Limits, table: Floats, which: Ints
) -> int:  # pragma: no cover
    """Every tiling of some unrollings that may fit, dimension by dimension: what cannot fit goes before it multiplies.

    across: [unrolling, level, 8] fan-out. splits: [n, level] ways to split a dimension's trips over the levels;
    starts: [unrolling, 9] the first one of each dimension, and where the last one's end.
    table: [b, level, 8] filled with temporal bounds as far as it goes; which: [b] with the unrolling they go with.

    Returns: how many there are.
    """
    count = across.shape[1]
    found = 0
    time, reach, at = np.ones((count, 8)), np.ones((count, 8)), np.zeros(8, np.int64)
    for option in range(len(across)):
        for d in range(8):
            _extend(d, time, across[option], limits.bounds[d], reach)
        d = 0
        at[0] = starts[option, 0]
        while d >= 0:
            first, stop = starts[option, d], starts[option, d + 1]
            ended = at[d] == stop
            for level in range(count):
                time[level, d] = 1.0 if ended else splits[at[d], level]
            _extend(d, time, across[option], limits.bounds[d], reach)
            if ended:
                d -= 1
                continue
            at[d] += 1
            if stop - first > 1 and not _may_fit(reach, limits):
                continue
            if d < 7:
                d += 1
                at[d] = starts[option, d]
                continue
            if found < len(table):
                which[found] = option
                for level in range(count):
                    for each in range(8):
                        table[found, level, each] = time[level, each]
            found += 1
    return found


@inlined
def _look(time: Floats, space: Floats, holds: Mask, work: Work, s: Nest) -> float:  # pragma: no cover
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
    for level in range(count - 1, -1, -1):
        s.above[level] = s.above[level + 1] * own[level, 0] * rest[level, 0]
        s.summed[level] = s.summed[level + 1] * rest[level, 2]
    for x in range(3):
        inner, same = 1.0, 1.0
        for level in range(count):  # from here on per link: fan-out since the level below that holds the tensor
            inner *= own[level, x]
            same *= rest[level, x]
            if holds[level, x]:
                own[level, x], rest[level, x] = inner, same
                inner, same = 1.0, 1.0
                s.tile[level, x] = tile_words(x, s.reach[level], work.window)
    return steps


@inlined
def _footprints(chains: Chains, work: Work, s: Nest) -> None:  # pragma: no cover
    """Bits that tiles take in one instance; outputs lie there in full width as long as they are added to."""
    for level in range(len(s.footprint)):
        bits = 0.0
        for x in range(3):
            if chains.takes[level, x]:
                width = work.widths[x]
                if x == 2 and not (s.reduces[level] or chains.wide[level]):
                    width = work.widths[3]
                bits += s.tile[level, x] * width
        s.footprint[level] = bits


@inlined
def _used(time: Floats, orders: Orders, s: Nest) -> None:  # pragma: no cover
    """The loops of each level's orders that iterate, and which orders are then the same."""
    for level in range(1, time.shape[0]):
        sequences, loops, same = orders.sequences[level], s.loops[level], s.same[level]
        many = 0
        for order in range(len(sequences)):
            found = 0
            for position in range(8):
                d = sequences[order, position]
                if d < 0:
                    break
                if time[level, d] != 1.0:
                    loops[order, found] = d
                    found += 1
            if order == 0:
                many = found
            same[order] = order
            for other in range(order):
                equal = True
                for i in range(many):
                    if loops[order, i] != loops[other, i]:
                        equal = False
                        break
                if equal:
                    same[order] = other
                    break
        s.trips[level] = many


@inlined
def _first_like(o: int, chosen: Ints, s: Nest) -> int:  # pragma: no cover
    """The first combination of orders in which the loops that iterate are the same as in this one."""
    for other in range(o):
        level = 1
        while level < chosen.shape[1] and s.same[level, chosen[o, level]] == s.same[level, chosen[other, level]]:
            level += 1
        if level == chosen.shape[1]:
            return other
    return o


@inlined
def slide(d: int, step: float, reach: Floats, tile: float, window: Ints) -> float:  # pragma: no cover
    """Words that each next tile adds in a sweep of the innermost loop along a sliding dimension (`cost._slide`)."""
    vertical = d in (_P, _R)
    stride, dilation = (window[0], window[1]) if vertical else (window[2], window[3])
    out, kernel = (reach[_P], reach[_R]) if vertical else (reach[_Q], reach[_S])
    edge = _edge(out, kernel, stride, dilation)
    step *= stride if d in (_P, _Q) else dilation
    unit = dilation if out == 1.0 else stride
    added = edge
    if out >= dilation and kernel >= stride:
        added = step
    elif (out == 1.0 or kernel == 1.0) and step % unit == 0.0:
        added = step / unit
    return tile / edge * min(edge, added)


@inlined
def _climb(
    level: int, order: int, time: Floats, links: Ints, memories: Memories, window: Ints, s: Nest
) -> None:  # pragma: no cover
    """Carry the transfers into the lower level of each link over the time loops of one level (`cost._moved`)."""
    loops = s.loops[level, order]
    for k in range(len(links)):
        x, child = links[k, 0], links[k, 1]
        if child < 0 or child >= level:
            continue
        whole, slid, new, started = 1.0, 0.0, 0.0, not memories.keeps[child]
        if child < level - 1:
            was = s.state[level - 1, k]
            whole, slid, new, started = was[0], was[1], was[2], was[3] != 0.0
        for i in range(s.trips[level]):
            d = loops[i]
            if not RELEVANCE[x, d]:
                if started:
                    whole *= time[level, d]
                    slid *= time[level, d]
                continue
            trips = s.exact[level, d]
            left = not started or (i == 0 and level == child + 1)  # something to slide on
            if x == 1 and d >= _P and left and memories.slides[child]:
                new = slide(d, s.below[level, d], s.reach[child], s.tile[child, 1], window)
                slid = trips - 1.0
            else:
                whole *= trips
                slid *= trips
            started = True
        state = s.state[level, k]
        state[0], state[1], state[2], state[3] = whole, slid, new, 1.0 if started else 0.0


@inlined
def _add(
    memories: Memories, s: Nest, level: int, x: int, way: int, bits: float, times: float
) -> None:  # pragma: no cover
    """Transfers of `bits` each, `times` times over all instances."""
    row, width = memories.row[level], memories.port[level, way]
    s.rows[way, level, x] += up(bits, row) * times
    unit = width if row > 0.0 and width < np.inf else 0.0
    s.ports[way, level] += up(bits, unit) * times * s.slack[level, x]


@inlined
def _first(memories: Memories, s: Nest, level: int, way: int, bits: float, times: float) -> float:  # pragma: no cover
    """Cycles of one transfer, which leaves the steady time of the port."""
    width = memories.port[level, way]
    if width == np.inf:
        return 0.0
    moved = up(bits, width if memories.row[level] > 0.0 else 0.0)
    s.ports[way, level] -= moved * times
    return moved / width


@inlined
def _inputs(memories: Memories, work: Work, chains: Chains, s: Nest) -> float:  # pragma: no cover
    """Traffic of W and I (`cost._inputs`); returns the cycles of their first way down."""
    top = len(s.footprint) - 1
    together, alone_w, alone_i = 0.0, 0.0, 0.0
    for k in range(chains.of[1, 1]):
        x, child, parent = chains.links[k, 0], chains.links[k, 1], chains.links[k, 2]
        width, scatter, outside = work.widths[x], s.scatter[parent, x], s.above[parent + 1]
        whole, slid, new, tile = s.every[x], 0.0, 0.0, width
        if child >= 0:
            whole, slid, new = s.state[top, k, 0], s.state[top, k, 1], s.state[top, k, 2]
            tile *= s.tile[child, x]
        entered = scatter * s.copies[parent, x] * outside
        for step in range(2 if slid != 0.0 else 1):
            bits, times = (new * width, slid) if step else (tile, whole)
            for way in range(2 if child >= 0 else 1):
                if way:
                    _add(memories, s, child, x, way, bits, times * entered)
                else:
                    _add(memories, s, parent, x, way, bits * scatter, times * outside)
        if memories.ends and child >= 0:
            took = 0.0
            for way in range(2):
                if way:
                    took = max(took, _first(memories, s, child, way, tile, entered))
                else:
                    took = max(took, _first(memories, s, parent, way, tile * scatter, outside))
            if _sends(parent, 1 - x, chains):
                together += took
            elif x == 0:
                alone_w += took
            else:
                alone_i += took
    return together + max(alone_w, alone_i)


@inlined
def _sends(level: int, x: int, chains: Chains) -> bool:  # pragma: no cover
    """Whether a level sends a tensor to another level."""
    sends = False
    for k in range(chains.of[x, 0], chains.of[x, 1]):
        sends = sends or (chains.links[k, 1] >= 0 and chains.links[k, 2] == level)
    return sends


@inlined
def _outputs(memories: Memories, work: Work, chains: Chains, s: Nest) -> float:  # pragma: no cover
    """Traffic of O (`cost._outputs`); returns the cycles of the last way up."""
    top = len(s.footprint) - 1
    wide, narrow = work.widths[2], work.widths[3]
    start, stop = chains.of[2, 0], chains.of[2, 1]
    ends = 0.0
    whole, tile = s.every[2], 1.0
    for k in range(start, stop):
        x, child, parent = chains.links[k, 0], chains.links[k, 1], chains.links[k, 2]
        leaves = k + 1 < stop  # it goes on to a level above
        scatter, outside = s.scatter[parent, x], s.above[parent + 1]
        finished = work.outputs * s.summed[parent + 1]
        into = tile * scatter
        updates = whole * into * outside
        here = s.tile[parent, x]
        rise = s.state[top, k + 1, 0] if leaves else 0.0
        left = rise * here * outside if leaves else finished
        inner = child < 0 and parent != top
        if inner:
            updates = max(updates * work.update_share, left)
        returns = memories.returns[parent]
        unread = left
        if returns:
            unread = 0.0 if child < 0 else finished
        last = wide if inner else narrow
        for transfer in range(6):  # sums return, are read, are written; results are written; sums and results leave
            if (transfer == 0 and not returns) or (transfer > 3 and not leaves):
                continue
            size = into if 0 < transfer < 4 else here
            bits = size * (last if transfer in (3, 5) else wide)
            if transfer == 1:
                words = updates - unread
            elif transfer == 2:
                words = updates - finished
            elif transfer in (0, 4):
                words = left - finished
            else:
                words = finished
            _add(memories, s, parent, x, OUTPUT_WAYS[transfer], bits, words / size)
        if memories.ends and child >= 0:
            entered = scatter * s.copies[parent, x] * outside
            took = 0.0
            for way in range(2):
                if way:
                    took = max(took, _first(memories, s, parent, way, into * narrow, outside))
                else:
                    sent = tile * (wide if k == start + 1 else narrow)
                    took = max(took, _first(memories, s, child, way, sent, entered))
            ends += took
        whole, tile = rise, here
    return ends


@inlined
def _traffic(memories: Memories, work: Work, chains: Chains, s: Nest) -> float:  # pragma: no cover
    """Fill in rows and ports; returns the cycles of the first way down and the last way up."""
    for way in range(2):
        for level in range(len(s.footprint)):
            s.ports[way, level] = 0.0
            for x in range(3):
                s.rows[way, level, x] = 0.0
    return _inputs(memories, work, chains, s) + _outputs(memories, work, chains, s)


@inlined
def _price(
    steps: float, fills: float, ends: float, memories: Memories, terms: Terms, s: Nest
) -> tuple[float, float]:  # pragma: no cover
    """Cycles and pJ of one mapping, static power apart."""
    cycles = max(steps * terms.cycles_per_operation + terms.fill_cycles * fills, terms.least_cycles)
    pj = terms.fixed_pj
    for level in range(len(s.footprint)):
        read, write = s.ports[0, level], s.ports[1, level]
        if memories.shared[level]:
            read, write = read + write, 0.0
        used = s.above[level + 1]
        if memories.port[level, 0] < np.inf:
            cycles = max(cycles, read / (used * memories.port[level, 0]))
        if memories.port[level, 1] < np.inf:
            cycles = max(cycles, write / (used * memories.port[level, 1]))
        for way in range(2):
            energy = memories.energy_pj[level, way]
            if energy > 0.0:
                for x in range(3):
                    if memories.holds[level, x]:
                        pj += np.ceil(s.rows[way, level, x] / memories.word[level] - 1e-9) * energy
    return cycles + ends, pj


@inlined
def _fits(space: Floats, memories: Memories, s: Nest) -> bool:  # pragma: no cover
    """Whether tiles have room and the fan-out exists."""
    fanout = 1.0
    for level in range(len(s.footprint) - 1, -1, -1):
        if s.footprint[level] > memories.room[level] or fanout > memories.instances[level]:
            return False
        below = 1.0
        for d in range(8):
            below *= space[level, d]
        if below > memories.fan_out[level]:
            return False
        fanout *= below
    return True


@inlined
def _fills(time: Floats, fill_from: int) -> float:  # pragma: no cover
    product = 1.0
    for level in range(fill_from, time.shape[0]):
        for d in range(8):
            product *= time[level, d]
    return product


@inlined
def _charge(memories: Memories, charges: Charges, s: Nest, point: Floats) -> None:  # pragma: no cover
    """Fill in, from the third column on, the bits per instance of ports and the rows that accelerators charge for."""
    at = 2
    for i in range(len(charges.ports)):
        level, way = charges.ports[i, 0], charges.ports[i, 1]
        used = s.above[level + 1]
        point[at] = s.ports[0, level] / used if way != 1 else 0.0
        if way > 0:
            point[at] += s.ports[1, level] / used
        at += 1
    for i in range(len(charges.rows)):
        level, way = charges.rows[i, 0], charges.rows[i, 1]
        total = 0.0
        for side in range(2):
            if way in (side, BOTH):
                count = 0.0
                for x in range(3):
                    count += np.ceil(s.rows[side, level, x] / memories.word[level] - 1e-9)
                total += count
        point[at] = total
        at += 1


@inlined
def _beats(front: Floats, i: int, j: int) -> bool:  # pragma: no cover
    x, last = 0, front.shape[1] - 1
    while x < last and front[i, x] <= front[j, x]:
        x += 1
    return x == last


@inlined
def _exchange(front: Floats, i: int, j: int) -> None:  # pragma: no cover
    for x in range(front.shape[1]):
        front[i, x], front[j, x] = front[j, x], front[i, x]


@inlined
def _enter(front: Floats, found: int) -> int:  # pragma: no cover
    """Let the row after the first `found` join them unless one of these is at most as high in all columns but the last.

    Those that it beats leave. Returns how many rows there are then.
    """
    for i in range(found):
        if _beats(front, i, found):
            _exchange(front, i, 0)  # what beats one row often beats the next: it is tried first
            return found
    kept = 0
    for i in range(found):
        if not _beats(front, found, i):
            _exchange(front, i, kept)
            kept += 1
    _exchange(front, found, kept)
    return kept + 1


@compiled
def _doubled(front: Floats) -> Floats:  # pragma: no cover
    rows, columns = front.shape
    larger = np.empty((2 * rows, columns))
    for i in range(rows):
        for x in range(columns):
            larger[i, x] = front[i, x]
    return larger


@compiled
def analyse(
    temporal: Floats,
    spatial: Floats,
    orders: Orders,
    chains: Chains,
    memories: Memories,
    work: Work,
    terms: Terms,
    charges: Charges,
    start: int,
    stop: int,
    pricing: bool,
    s: Nest,
    cycles: Floats,
    energy_pj: Floats,
    front: Floats,
) -> tuple[int, Floats]:  # pragma: no cover
    """Nests start..stop - 1 under every combination of orders: what they cost, or the front of what is charged for.

    temporal, spatial: [b, level, 8]. s: `scratch`. cycles, energy_pj: [combination, b] filled if pricing; infinite
    where a mapping does not fit. front: room for rows of array cycles, ends, charges, how many of the rooms on offer
    are too small per level, and the mapping's position: combination x nests + nest.

    Returns: if not pricing, how many mappings no other one beats in all columns but the last, and their rows.
    """
    size, count = temporal.shape[0], temporal.shape[1]
    found, rooms = 0, front.shape[1] - 1 - count
    current = np.zeros(count, np.int64)
    for b in range(start, stop):
        time, space = temporal[b], spatial[b]
        steps = _look(time, space, memories.holds, work, s)
        _footprints(chains, work, s)
        if not _fits(space, memories, s):
            if pricing:
                for o in range(len(orders.chosen)):
                    cycles[o, b], energy_pj[o, b] = np.inf, np.inf
            continue
        fills = _fills(time, terms.fill_from)
        _used(time, orders, s)
        for o in range(len(orders.chosen)):
            like = _first_like(o, orders.chosen, s)
            if like < o:
                if pricing:
                    cycles[o, b], energy_pj[o, b] = cycles[like, b], energy_pj[like, b]
                continue
            changed = 1
            while o > 0 and s.same[changed, orders.chosen[o, changed]] == current[changed]:
                changed += 1
            for level in range(changed, count):
                current[level] = s.same[level, orders.chosen[o, level]]
                _climb(level, current[level], time, chains.links, memories, work.window, s)
            ends = _traffic(memories, work, chains, s)
            if pricing:
                cycles[o, b], energy_pj[o, b] = _price(steps, fills, ends, memories, terms, s)
                continue
            if found == len(front):
                front = _doubled(front)
            point = front[found]
            point[0], point[1] = steps * terms.cycles_per_operation + terms.fill_cycles * fills, ends
            _charge(memories, charges, s, point)
            for level in range(count):
                small = 0
                while charges.offered[level, small] < s.footprint[level]:
                    small += 1
                point[rooms + level] = small
            point[rooms + count] = o * size + b
            found = _enter(front, found)
    return found, front


@inlined
def _well_formed(
    time: Floats, space: Floats, order: Ints, bounds: Floats, orders: Ints, trips: Ints
) -> bool:  # pragma: no cover
    """Whether a mapping's loops cover a layer without idle iterations, and each has its place in its level's order.

    Fills in the loops of each level that iterate, in order, and how many there are.
    """
    count = len(time)
    for d in range(8):
        extent, outermost = 1.0, 1.0
        for level in range(count):
            t, across = time[level, d], space[level, d]
            if not (t >= 1.0 and across >= 1.0 and t == np.floor(t) and across == np.floor(across)):
                return False
            extent *= t * across
            if t > 1.0:
                outermost = t
        if extent < bounds[d] or (outermost > 1.0 and extent / outermost * (outermost - 1.0) >= bounds[d]):
            return False
    for level in range(count):
        seen, found = 0, 0
        for position in range(8):
            d = order[level, position]
            if d < 0:
                break
            if d > 7 or seen >> d & 1:
                return False
            seen |= 1 << d
            if time[level, d] != 1.0:
                orders[level, found] = d
                found += 1
        for d in range(8):
            if time[level, d] != 1.0 and not seen >> d & 1:
                return False
        trips[level] = found
    return True


@compiled
def price_each(
    temporal: Floats,
    spatial: Floats,
    order: Ints,
    chains: Chains,
    memories: Memories,
    work: Work,
    terms: Terms,
    start: int,
    stop: int,
    s: Nest,
    cycles: Floats,
    energy_pj: Floats,
) -> None:  # pragma: no cover
    """What mappings start..stop - 1 cost, each with loop orders of its own.

    temporal, spatial: [b, level, 8]; order: [b, level, 8], -1 after the last dimension. s: `scratch`. cycles,
    energy_pj: [b], infinite where a mapping does not fit, not a number where it is malformed.
    """
    count = temporal.shape[1]
    for b in range(start, stop):
        time, space = temporal[b], spatial[b]
        if not _well_formed(time, space, order[b], work.bounds, s.loops[:, 0], s.trips):
            cycles[b], energy_pj[b] = np.nan, np.nan
            continue
        steps = _look(time, space, memories.holds, work, s)
        _footprints(chains, work, s)
        if not _fits(space, memories, s):
            cycles[b], energy_pj[b] = np.inf, np.inf
            continue
        for level in range(1, count):
            _climb(level, 0, time, chains.links, memories, work.window, s)
        ends = _traffic(memories, work, chains, s)
        cycles[b], energy_pj[b] = _price(steps, _fills(time, terms.fill_from), ends, memories, terms, s)
