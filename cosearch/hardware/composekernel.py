"""Mapping fronts of deep hierarchies, composed level by level: the compiled part of `cosearch.hardware.compose`.

One call of `climb` puts the loops of one more level around everything that was found below it. What comes outside sees
of what lies inside only

* the tile sizes reached, one number of iterations per dimension (a `state`), and
* which exchanges are still waiting for their first loop that matters (a `mask`): all loops since their tile was formed
  leave the tile in place, so its size and its transfers follow from the state as well.

Among partial mappings with equal states and masks those stay that no other one beats in energy charged so far, in the
cycles of ports whose traffic is complete (their largest), in the cycles so far of each port whose traffic is not, in
the partial sums that wait for what takes them away, and in what fills and drains. Whatever comes outside adds the same
to all of them, or takes the largest: this loses no optimum of latency, energy or a function that rises with both.
"""

from typing import NamedTuple

import numpy as np

from cosearch.hardware.nestkernel import (
    OUTPUT_WAYS,
    RELEVANCE,
    Chains,
    Floats,
    Ints,
    Memories,
    Terms,
    Work,
    compiled,
    inlined,
    slide,
    tile_words,
    up,
)

_P = 4
_LESS = 1 - 1e-9
"""Of a lower bound, so that rounding never lets it refuse what reaches it."""
ENERGY, BUSY, SUMS, INTO, SERIAL, ALONE_W, ALONE_I, PORTS = range(8)
"""Columns of a row: pJ; cycles of the busiest complete resource; words of partial sums that wait, and the words of one
of their transfers; cycles of filling and draining, those of W and of I alone; then cycles of each port so far."""


class Frame(NamedTuple):
    """One unrolling: what no tiling changes.

    trips: [8] iterations in time. divisors: [8, most] of them by rising size, how_many: [8]; stride: [8] of a state's
    position. spread: [level, 8] fan-out at and below; beyond: [level, 8] effective fan-out above.
    next: [level, 8, most, most + 1] positions of the divisors that a level's loops may reach from each one, then -1.
    scatter, copies, outside, summed: [link] as in `nestkernel`, of its upper level. slack: [level, 3]; used: [level]
    instances; every: [3] operands taken.
    """

    trips: Floats
    divisors: Ints
    how_many: Ints
    stride: Ints
    spread: Floats
    beyond: Floats
    next: Ints
    scatter: Floats
    copies: Floats
    outside: Floats
    summed: Floats
    slack: Floats
    used: Floats
    every: Floats


class Ports(NamedTuple):
    """column: [level, 2] of a port in a row, -1 where it never limits. touching: [level] links that a level takes part
    in, as bits. sequences: [level, order, 8] loop orders, orders: [level] how many.

    aligned: whether sums may arrive in whole rows; shared: whether DRAM has one port for both ways.
    """

    column: Ints
    touching: Ints
    sequences: Ints
    orders: Ints
    aligned: bool
    shared: bool


class Scene(NamedTuple):
    """What all unrollings share. Compiled code takes it apart once: a tuple in a tuple is slow to reach into."""

    chains: Chains
    memories: Memories
    work: Work
    terms: Terms
    ports: Ports


class Bounds(NamedTuple):
    """What is known before.

    energy, cycles: [state] that exchanges of the level below DRAM with it take at least. needed: [link] pJ that each
    exchange takes at least besides. known: (cycles, pJ) of complete mappings, by rising cycles and falling energy.
    """

    energy: Floats
    cycles: Floats
    needed: Floats
    known: Floats


@inlined
def _reach(level: int, c: Floats, frame: Frame, work: Work, reach: Floats) -> None:  # pragma: no cover
    for d in range(8):
        reach[d] = min(c[d] * frame.spread[level, d], work.bounds[d])


@inlined
def _move(
    chains: Chains,
    memories: Memories,
    work: Work,
    ports: Ports,
    frame: Frame,
    level: int,
    x: int,
    way: int,
    bits: float,
    times: float,
    row: Floats,
) -> float:  # pragma: no cover
    """Transfers of `bits` each, `times` times over all instances: adds to the port, returns the bits of rows."""
    column = ports.column[level, way]
    if column >= 0:
        width = memories.port[level, way]
        unit = width if memories.row[level] > 0.0 else 0.0
        row[column] += up(bits, unit) * times * frame.slack[level, x] / (frame.used[level] * width)
    return up(bits, memories.row[level]) * times


@inlined
def _row_pj(memories: Memories, level: int, way: int, bits: float) -> float:  # pragma: no cover
    energy = memories.energy_pj[level, way]
    return np.ceil(bits / memories.word[level] - 1e-9) * energy if energy > 0.0 else 0.0


@inlined
def _first(
    chains: Chains,
    memories: Memories,
    work: Work,
    ports: Ports,
    frame: Frame,
    level: int,
    way: int,
    bits: float,
    times: float,
    row: Floats,
) -> float:  # pragma: no cover
    """Cycles of one transfer, which leaves the steady time of the port."""
    column, width = ports.column[level, way], memories.port[level, way]
    if column < 0:
        return 0.0
    moved = up(bits, width if memories.row[level] > 0.0 else 0.0)
    row[column] -= moved * times / (frame.used[level] * width)
    return moved / width


@inlined
def _sends(level: int, x: int, chains: Chains) -> bool:  # pragma: no cover
    sends = False
    for k in range(chains.of[x, 0], chains.of[x, 1]):
        sends = sends or (chains.links[k, 1] >= 0 and chains.links[k, 2] == level)
    return sends


@inlined
def _go_down(
    k: int,
    tile: float,
    whole: float,
    slid: float,
    new: float,
    chains: Chains,
    memories: Memories,
    work: Work,
    ports: Ports,
    frame: Frame,
    row: Floats,
) -> None:  # pragma: no cover
    """Charge one exchange of W or I (`nestkernel._inputs`); tile: words of the lower level's."""
    x, child, parent = chains.links[k, 0], chains.links[k, 1], chains.links[k, 2]
    width, scatter, outside = work.widths[x], frame.scatter[k], frame.outside[k]
    entered = scatter * frame.copies[k] * outside
    read, written = 0.0, 0.0
    for step in range(2 if slid != 0.0 else 1):
        bits, times = (new * width, slid) if step else (tile * width, whole)
        for way in range(2 if child >= 0 else 1):
            if way:
                written += _move(chains, memories, work, ports, frame, child, x, 1, bits, times * entered, row)
            else:
                read += _move(chains, memories, work, ports, frame, parent, x, 0, bits * scatter, times * outside, row)
    row[ENERGY] += _row_pj(memories, parent, 0, read)
    if child >= 0:
        row[ENERGY] += _row_pj(memories, child, 1, written)
        if memories.ends:
            took = 0.0
            for way in range(2):
                if way:
                    took = max(took, _first(chains, memories, work, ports, frame, child, 1, tile * width, entered, row))
                else:
                    took = max(
                        took,
                        _first(chains, memories, work, ports, frame, parent, 0, tile * width * scatter, outside, row),
                    )
            if _sends(parent, 1 - x, chains):
                row[SERIAL] += took
            else:
                row[ALONE_W + x] += took


@inlined
def _add_sums(
    k: int,
    here: float,
    left: float,
    updates: float,
    into: float,
    chains: Chains,
    memories: Memories,
    work: Work,
    ports: Ports,
    frame: Frame,
    row: Floats,
) -> None:  # pragma: no cover
    """Charge one exchange of O at its upper level (`nestkernel._outputs`).

    here: words of the tile there; left: words that leave it; updates: words that arrive, `into` at a time.
    """
    child, parent = chains.links[k, 1], chains.links[k, 2]
    wide, narrow = work.widths[2], work.widths[3]
    leaves = k + 1 < chains.of[2, 1]
    finished = work.outputs * frame.summed[k]
    inner = child < 0 and parent != len(memories.row) - 1
    if inner:
        updates = max(updates * work.update_share, left)
    unread, returns = left, memories.returns[parent]
    if returns:
        unread = 0.0 if child < 0 else finished
    last = wide if inner else narrow
    read, written = 0.0, 0.0
    for transfer in range(6):
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
        way = OUTPUT_WAYS[transfer]
        moved = _move(chains, memories, work, ports, frame, parent, 2, way, bits, words / size, row)
        if way:
            written += moved
        else:
            read += moved
    row[ENERGY] += _row_pj(memories, parent, 0, read) + _row_pj(memories, parent, 1, written)


@inlined
def _go_up(
    k: int,
    tile: float,
    whole: float,
    chains: Chains,
    memories: Memories,
    work: Work,
    ports: Ports,
    frame: Frame,
    row: Floats,
) -> None:  # pragma: no cover
    """An exchange of O whose transfers are known now: the one below it is complete, and it is, if nothing is above."""
    start, stop = chains.of[2, 0], chains.of[2, 1]
    child, parent = chains.links[k, 1], chains.links[k, 2]
    if k > start:
        _add_sums(
            k - 1,
            tile,
            whole * tile * frame.outside[k - 1],
            row[SUMS],
            row[INTO],
            chains,
            memories,
            work,
            ports,
            frame,
            row,
        )
        row[SUMS], row[INTO] = 0.0, 0.0
    into = tile * frame.scatter[k]
    updates = whole * into * frame.outside[k]
    if k + 1 < stop:
        row[SUMS] = updates
        if ports.aligned:
            row[INTO] = into
        else:
            row[INTO] = 1.0
    else:
        finished = work.outputs * frame.summed[k]
        _add_sums(k, 1.0, finished, updates, into, chains, memories, work, ports, frame, row)
    if memories.ends and child >= 0:
        entered = into / tile * frame.copies[k] * frame.outside[k]
        sent = tile * (work.widths[2] if k == start + 1 else work.widths[3])
        took = _first(chains, memories, work, ports, frame, parent, 1, into * work.widths[3], frame.outside[k], row)
        row[SERIAL] += max(took, _first(chains, memories, work, ports, frame, child, 0, sent, entered, row))


@inlined
def _waits(
    k: int,
    c: Floats,
    chains: Chains,
    memories: Memories,
    work: Work,
    ports: Ports,
    frame: Frame,
    reach: Floats,
    moves: Floats,
) -> None:  # pragma: no cover
    """What an exchange moves if the next loop matters to it: fill in words of a tile, how many tiles, and extents.

    c: [8] iterations inside that loop; none since the tile was formed matters.
    """
    x, child = chains.links[k, 0], chains.links[k, 1]
    _reach(child, c, frame, work, reach)
    whole = 1.0
    for d in range(8):
        if RELEVANCE[x, d]:
            whole *= work.bounds[d] / (reach[d] * frame.beyond[child, d])
        else:
            whole *= frame.trips[d] / c[d]
    moves[0], moves[1] = tile_words(x, reach, work.window), whole


@inlined
def _settles(
    k: int,
    level: int,
    c: Floats,
    f: Floats,
    order: Ints,
    last: bool,
    chains: Chains,
    memories: Memories,
    work: Work,
    ports: Ports,
    frame: Frame,
    reach: Floats,
    waits: Floats,
    moves: Floats,
) -> bool:  # pragma: no cover
    """Whether the loops f of a level, in an order, settle what an exchange moves, and what.

    last: nothing is above. reach, waits: see `_waits`. moves: words of a tile, transfers of whole and of slid tiles,
    words of these.
    """
    x, child = chains.links[k, 0], chains.links[k, 1]
    prefix, first = 1.0, -1
    for position in range(8):
        d = order[position]
        if d < 0:
            break
        if f[d] != 1.0:
            if RELEVANCE[x, d]:
                first = d
                break
            if not memories.keeps[child]:
                break
            prefix *= f[d]
    if memories.keeps[child] and first < 0 and not last:
        return False
    moves[0], moves[1], moves[2], moves[3] = waits[0], waits[1] / prefix, 0.0, 0.0
    if x == 1 and first >= _P and memories.slides[child]:
        below = min(c[first] * frame.spread[level, first], work.bounds[first])
        exact = min(c[first] * f[first] * frame.spread[level, first], work.bounds[first]) / below
        moves[1] /= exact
        moves[2] = moves[1] * (exact - 1.0)
        moves[3] = slide(first, below, reach, moves[0], work.window)
    return True


@inlined
def _fits(
    level: int, c: Floats, chains: Chains, memories: Memories, work: Work, ports: Ports, frame: Frame, reach: Floats
) -> bool:  # pragma: no cover
    """Whether the tiles of a level have room (`nestkernel._footprints`)."""
    _reach(level, c, frame, work, reach)
    bits = 0.0
    for x in range(3):
        if chains.takes[level, x]:
            width = work.widths[x]
            if x == 2 and not chains.wide[level]:
                reduces = False
                for d in range(8):
                    reduces = reduces or (not RELEVANCE[2, d] and c[d] != frame.trips[d])
                if not reduces:
                    width = work.widths[3]
            bits += tile_words(x, reach, work.window) * width
    return bits <= memories.room[level]


@inlined
def _unpack(state: int, frame: Frame, at: Ints, c: Floats) -> None:  # pragma: no cover
    for d in range(8):
        at[d] = state // frame.stride[d] % frame.how_many[d]
        c[d] = frame.divisors[d, at[d]]


@inlined
def _repeats(f: Floats, sequences: Ints, order: int, codes: Ints) -> bool:  # pragma: no cover
    """Whether an earlier order has the same loops that iterate; codes: of the earlier ones, this one's is added."""
    code = 0
    for i in range(8):
        d = sequences[order, i]
        if d < 0:
            break
        if f[d] != 1.0:
            code = code * 9 + d + 1
    codes[order] = code
    other = 0
    while codes[other] != code:
        other += 1
    return other < order


@compiled
def begin(scene: Scene, frame: Frame, row: Floats) -> None:  # pragma: no cover
    """The row from which the innermost level starts: what the array takes and gives, whatever the tiling."""
    chains, memories, work, terms, ports = scene
    row[:] = 0.0
    row[ENERGY] = terms.fixed_pj
    steps = 1.0
    for d in range(8):
        steps *= frame.trips[d]
    row[BUSY] = max(terms.least_cycles, steps * terms.cycles_per_operation)
    for k in range(len(chains.links)):
        x = chains.links[k, 0]
        if chains.links[k, 1] >= 0:
            continue
        if x == 2:
            _go_up(k, 1.0, frame.every[2], chains, memories, work, ports, frame, row)
        else:
            _go_down(k, 1.0, frame.every[x], 0.0, 0.0, chains, memories, work, ports, frame, row)


@compiled
def least_needed(scene: Scene, frame: Frame, needed: Floats) -> None:  # pragma: no cover
    """Fill in [link] the pJ that an exchange takes at least: every value of its tensor moves once, packed.

    Of O, what a level is given and gives away is counted with the exchange that takes it away. What `least_outside`
    counts is left out.
    """
    chains, memories, work, _, _ = scene
    top = len(memories.row) - 1
    for k in range(len(chains.links)):
        x, child, parent = chains.links[k, 0], chains.links[k, 1], chains.links[k, 2]
        needed[k] = 0.0
        if child < 0:
            continue
        if x == 2:
            finished, bits = work.outputs * frame.summed[k - 1], work.widths[3]
            if k - 1 == chains.of[2, 0]:
                bits = work.widths[2]
            price = memories.energy_pj[child, 0] + memories.energy_pj[child, 1]
            needed[k] = finished * bits / memories.word[child] * price
            if k + 1 == chains.of[2, 1] and child < top - 1:
                needed[k] += (
                    work.outputs
                    * frame.summed[k]
                    * work.widths[3]
                    / memories.word[parent]
                    * memories.energy_pj[parent, 1]
                )
        elif child < top - 1:
            bits = tile_words(x, work.bounds, work.window) * work.widths[x]
            shown, held = 1.0, 1.0
            for d in range(8):
                if not RELEVANCE[x, d]:
                    shown *= frame.beyond[parent, d]
                    held *= frame.beyond[child, d]
            needed[k] = bits * shown / memories.word[parent] * memories.energy_pj[parent, 0]
            needed[k] += bits * held / memories.word[child] * memories.energy_pj[child, 1]


@compiled
def least_outside(scene: Scene, frame: Frame, energy: Floats, cycles: Floats) -> None:  # pragma: no cover
    """Fill in [2, state] what the outermost memory takes at least, from states of the level below it, and of any.

    The exchanges of the level below alone: those of others may be charged already.
    """
    chains, memories, work, _, ports = scene
    top = len(memories.row) - 1
    at, c, f, reach = np.empty(8, np.int64), np.empty(8), np.empty(8), np.empty(8)
    waits, out, row, codes = (
        np.empty(2),
        np.empty(4),
        np.empty(PORTS + 2 * (top + 1)),
        np.empty(ports.sequences.shape[1], np.int64),
    )
    for state in range(energy.shape[1]):
        _unpack(state, frame, at, c)
        energy[:, state], cycles[:, state] = np.inf, np.inf
        reached = True
        for d in range(8):
            f[d] = frame.trips[d] / c[d]
            reached = reached and frame.next[top, d, at[d], 0] >= 0
        if not (reached and _fits(top - 1, c, chains, memories, work, ports, frame, reach)):
            continue
        for order in range(ports.orders[top]):
            if _repeats(f, ports.sequences[top], order, codes):
                continue
            row[:] = 0.0
            for k in range(len(chains.links)):
                x = chains.links[k, 0]
                if chains.links[k, 1] != top - 1:
                    continue
                _waits(k, c, chains, memories, work, ports, frame, reach, waits)
                _settles(
                    k,
                    top,
                    c,
                    f,
                    ports.sequences[top, order],
                    True,
                    chains,
                    memories,
                    work,
                    ports,
                    frame,
                    reach,
                    waits,
                    out,
                )
                if x < 2:
                    _go_down(k, out[0], out[1], out[2], out[3], chains, memories, work, ports, frame, row)
                elif k + 1 == chains.of[2, 1] and chains.links[k, 2] == top:
                    into = out[0] * frame.scatter[k]
                    left = work.outputs * frame.summed[k]
                    _add_sums(
                        k, 1.0, left, out[1] * into * frame.outside[k], into, chains, memories, work, ports, frame, row
                    )
            energy[0, state] = min(energy[0, state], row[ENERGY])
            busy = 0.0
            if not memories.ends:
                for way in range(2):
                    if ports.column[top, way] >= 0:
                        busy = max(busy, row[ports.column[top, way]])
            cycles[0, state] = min(cycles[0, state], busy)
        energy[1, state], cycles[1, state] = energy[0, state], cycles[0, state]
    for d in range(8):  # the least of all states that tiles may grow to
        many, stride = frame.how_many[d], frame.stride[d]
        for state in range(energy.shape[1] - 1, -1, -1):
            i = state // stride % many
            for j in range(i + 1, many):
                if frame.divisors[d, j] % frame.divisors[d, i] == 0:
                    other = state + (j - i) * stride
                    energy[1, state] = min(energy[1, state], energy[1, other])
                    cycles[1, state] = min(cycles[1, state], cycles[1, other])


@inlined
def _known_better(cycles: float, pj: float, known: Floats) -> bool:  # pragma: no cover
    low, high = 0, len(known)
    while low < high:
        middle = (low + high) // 2
        if known[middle, 0] <= cycles:
            low = middle + 1
        else:
            high = middle
    return low > 0 and known[low - 1, 1] <= pj


@inlined
def _ahead(rows: Floats, i: int, j: int, aligned: bool) -> bool:  # pragma: no cover
    """Whether row i is at most as high as row j in everything."""
    if aligned and rows[i, INTO] != rows[j, INTO]:
        return False
    x, last = 0, rows.shape[1]
    while x < last and (x == INTO or rows[i, x] <= rows[j, x]):
        x += 1
    return x == last


@compiled
def climb(
    level: int,
    scene: Scene,
    frame: Frame,
    bounds: Bounds,
    rows: Floats,
    states: Ints,
    masks: Ints,
    groups: Ints,
) -> tuple[int, Floats, Ints]:  # pragma: no cover
    """Put the loops of a level around partial mappings.

    rows: [n, column], sorted into groups of equal state and mask; states, masks: [n]; groups: [groups + 1] the first
    row of each.

    Returns: how many there are, rows, and (state, mask, row that they go around, order of the level's loops).
    """
    chains, memories, work, terms, ports = scene
    links, count = len(chains.links), len(memories.row)
    top = count - 1
    last = level == top
    width = rows.shape[1]
    size = len(bounds.energy)
    heads = np.full(size, -1, np.int64)
    room = np.zeros(size, np.int8)
    found, used = np.empty((1024, width)), 0
    about = np.empty((1024, 5), np.int64)  # state, mask, inner row, order, next of the same state (-2: beaten)
    at, to, position = np.empty(8, np.int64), np.empty(8, np.int64), np.empty(8, np.int64)
    c, f, larger, reach = np.empty(8), np.empty(8), np.empty(8), np.empty(8)
    reaches, waits = np.empty((links, 8)), np.empty((links, 2))
    moved, settled = np.empty((links, 4)), np.zeros(links, np.bool_)
    steps = 1.0
    for d in range(8):
        steps *= frame.trips[d]
    codes, added = np.empty(ports.sequences.shape[1], np.int64), np.empty(width)
    new_links, to_come = 0, 0.0
    for k in range(links):
        if chains.links[k, 1] == level:
            new_links |= 1 << k
        if chains.links[k, 1] >= level:
            to_come += bounds.needed[k] * _LESS
    for group in range(len(groups) - 1):
        start, stop = groups[group], groups[group + 1]
        state, mask = states[start], masks[start]
        _unpack(state, frame, at, c)
        least_pj, least_busy = np.inf, np.inf
        for r in range(start, stop):
            least_pj, least_busy = min(least_pj, rows[r, ENERGY]), min(least_busy, rows[r, BUSY])
        waiting = to_come
        for k in range(links):
            if mask >> k & 1:
                waiting += bounds.needed[k] * _LESS
                _waits(k, c, chains, memories, work, ports, frame, reaches[k], waits[k])
        position[:] = 0
        for d in range(8):
            to[d] = frame.next[level, d, at[d], 0]
        if to.min() < 0:
            continue
        while True:
            target = 0
            for d in range(8):
                target += to[d] * frame.stride[d]
            good, outside, least_low = True, 0.0, 0.0
            if not last:
                if room[target] == 0:
                    for d in range(8):
                        larger[d] = frame.divisors[d, to[d]]
                    room[target] = 1 if _fits(level, larger, chains, memories, work, ports, frame, reach) else 2
                outside = bounds.energy[target] * _LESS
                least_low = max(least_busy, bounds.cycles[target] * _LESS)
                good = room[target] == 1 and not _known_better(least_low, least_pj + waiting + outside, bounds.known)
            if good:
                for d in range(8):
                    larger[d] = frame.divisors[d, to[d]]
                    f[d] = larger[d] / c[d]
                for order in range(ports.orders[level] if level > 0 else 1):
                    if _repeats(f, ports.sequences[level], order, codes):
                        continue
                    sequence = ports.sequences[level, order]
                    added[:] = 0.0
                    outer_mask, still = mask | new_links, waiting
                    hopeless = False
                    for k in range(links):
                        settled[k] = False
                        if not mask >> k & 1 or hopeless:
                            continue
                        settled[k] = _settles(
                            k,
                            level,
                            c,
                            f,
                            sequence,
                            last,
                            chains,
                            memories,
                            work,
                            ports,
                            frame,
                            reaches[k],
                            waits[k],
                            moved[k],
                        )
                        if settled[k]:
                            outer_mask &= ~(1 << k)
                            if chains.links[k, 0] < 2:
                                still -= bounds.needed[k] * _LESS
                                _go_down(
                                    k,
                                    moved[k, 0],
                                    moved[k, 1],
                                    moved[k, 2],
                                    moved[k, 3],
                                    chains,
                                    memories,
                                    work,
                                    ports,
                                    frame,
                                    added,
                                )
                                hopeless = not last and _known_better(
                                    least_low, least_pj + added[ENERGY] + still + outside, bounds.known
                                )
                    if hopeless:
                        continue
                    for k in range(chains.of[2, 0], chains.of[2, 1]):
                        if settled[k]:
                            still -= bounds.needed[k] * _LESS
                    for r in range(start, stop):
                        if used == len(found):
                            more, wider = np.empty((2 * used, width)), np.empty((2 * used, 5), np.int64)
                            more[:used], wider[:used] = found, about
                            found, about = more, wider
                        row = found[used]
                        for i in range(width):
                            row[i] = rows[r, i] + added[i]
                        for k in range(chains.of[2, 0], chains.of[2, 1]):
                            if settled[k]:
                                _go_up(k, moved[k, 0], moved[k, 1], chains, memories, work, ports, frame, row)
                        if level == terms.fill_from - 1:
                            fills = steps
                            for d in range(8):
                                fills /= larger[d]
                            filled = steps * terms.cycles_per_operation + terms.fill_cycles * fills
                            row[BUSY] = max(row[BUSY], filled)
                        for other in range(count):
                            if ports.touching[other] & outer_mask == 0 and (other < top or last):
                                if other > level and not last:
                                    continue
                                for way in range(2):
                                    column = ports.column[other, way]
                                    if column >= 0:
                                        row[BUSY] = max(row[BUSY], row[column])
                                        row[column] = 0.0
                        if last:
                            row[BUSY] += row[SERIAL] + max(row[ALONE_W], row[ALONE_I])
                            row[SERIAL], row[ALONE_W], row[ALONE_I] = 0.0, 0.0, 0.0
                            low, pj = row[BUSY], row[ENERGY]
                        else:
                            low, pj = row[BUSY], row[ENERGY] + still + outside
                            so_far = row[ports.column[top, 0]] if ports.shared and ports.column[top, 0] >= 0 else 0.0
                            low = max(low, so_far + bounds.cycles[target] * _LESS)
                        if _known_better(low, pj, bounds.known):
                            continue
                        beaten = False
                        before, i = -1, heads[target]
                        while i >= 0:
                            after = about[i, 4]
                            if about[i, 1] == outer_mask:
                                if _ahead(found, i, used, ports.aligned):
                                    beaten = True
                                    break
                                if _ahead(found, used, i, ports.aligned):
                                    about[i, 4] = -2
                                    if before < 0:
                                        heads[target] = after
                                    else:
                                        about[before, 4] = after
                                    i = after
                                    continue
                            before, i = i, after
                        if beaten:
                            continue
                        about[used, 0], about[used, 1], about[used, 2], about[used, 3] = target, outer_mask, r, order
                        about[used, 4] = heads[target]
                        heads[target] = used
                        used += 1
            d = 7
            while d >= 0:
                position[d] += 1
                to[d] = frame.next[level, d, at[d], position[d]]
                if to[d] >= 0:
                    break
                position[d] = 0
                to[d] = frame.next[level, d, at[d], 0]
                d -= 1
            if d < 0:
                break
    kept = 0
    for i in range(used):
        if about[i, 4] != -2:
            found[kept] = found[i]
            about[kept] = about[i]
            kept += 1
    return kept, found[:kept], about[:kept, :4]
