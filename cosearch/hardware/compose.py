"""The best mappings of one layer on a deep hierarchy, composed level by level, front by front.

`cosearch.hardware.nest` prices every mapping of a mapspace; on hierarchies of which several levels are tiled there are
hundreds of millions. Here one level after the other is put around the partial mappings inside, and of those which look
the same from outside only the front stays (`composekernel` says what that is, and why it loses no optimum). What cannot
beat complete mappings that are known already goes too, by what the rest of the hierarchy has to move at least.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from cosearch.hardware.accelerator import Accelerator, Engine, Mapspace, MemoryLevel
from cosearch.hardware.array import divisors
from cosearch.hardware.composekernel import (
    BUSY,
    ENERGY,
    PORTS,
    Bounds,
    Frame,
    Ports,
    Scene,
    begin,
    climb,
    least_needed,
    least_outside,
)
from cosearch.hardware.mapping import DIMS, RELEVANT, LevelLoops, Mapping, loop_bounds
from cosearch.hardware.nest import (
    Floats,
    Ints,
    Totals,
    check_covered,
    mapspace_of,
    memories_of,
    spatial_options,
    terms_of,
    totals,
    trips_left,
    work_of,
)
from cosearch.hardware.nestkernel import RELEVANCE, chains
from cosearch.hardware.pricing import Residency
from cosearch.workload import Layer

_FIRST_LOOK = 48
"""Partial mappings per level and figure that are followed to have complete ones to compare with."""
_ANY, _SOME, _ALL = range(3)
"""What must be done with a dimension below its outermost unrolling: as one likes, not all of it, all of it."""


@dataclass(frozen=True)
class Composed:
    """Mappings of which no other one has both lower latency and lower energy, and what they cost."""

    mappings: tuple[Mapping, ...]
    totals: Totals


@dataclass(frozen=True)
class _Problem:
    layer: Layer
    names: tuple[str, ...]
    space: Mapspace
    scene: Scene
    homes: tuple[tuple[int, ...], ...]


def composes(levels: Sequence[MemoryLevel]) -> bool:
    """Whether `compose` can search a hierarchy: no memory of partial sums forgets them around one that keeps them.

    There, sums would leave a level in a rhythm that nothing outside shows.
    """
    keeps = [level.keeps for level in levels[:-1] if "O" in level.holds]
    return keeps == sorted(keeps)


def compose(
    layer: Layer, accelerator: Accelerator, engine: Engine, levels: Sequence[MemoryLevel], residency: Residency
) -> Composed:
    """The front of (latency, energy) over the whole declared mapspace; empty if no mapping fits.

    layer: as the engine sees it. levels: a hierarchy that `composes`, with the room that tiles have beside what stays.

    Raises: HardwareError if the mapspace does not cover a dimension of the layer.
    """
    problem = _problem(layer, accelerator, engine, levels, residency)
    frames, best = list(_frames(problem)), _Best()
    least = [_least(problem, frame) for _, frame in frames]
    for most in (_FIRST_LOOK, None):
        for (across, frame), outside in zip(frames, least, strict=True):
            _search(problem, across, frame, outside, best, most)
    return Composed(
        tuple(_mapping(problem, *how) for how in best.how),
        totals(accelerator, best.known[:, 0], best.known[:, 1]),
    )


class _Best:
    """Complete mappings found so far that no other one beats: (cycles, pJ) by rising cycles, and how to build each."""

    def __init__(self) -> None:
        self.known: Floats = np.empty((0, 2))
        self.how: list[tuple[Ints, Floats, Ints]] = []

    def add(self, found: Floats, how: Sequence[tuple[Ints, Floats, Ints]]) -> None:
        known, every = np.concatenate([self.known, found]), [*self.how, *how]
        kept, least = [], math.inf
        for i in np.lexsort((known[:, 1], known[:, 0])):
            if known[i, 1] < least:
                kept.append(int(i))
                least = known[i, 1]
        self.known, self.how = known[kept], [every[i] for i in kept]


def _problem(
    layer: Layer, accelerator: Accelerator, engine: Engine, levels: Sequence[MemoryLevel], residency: Residency
) -> _Problem:
    names, space = tuple(level.name for level in levels), mapspace_of(engine)
    work, memories = work_of(layer, engine, residency.tensors), memories_of(levels, engine)
    links = chains(memories, work)
    orders = _sequences(space, names)
    column, most = np.full((len(levels), 2), -1, np.int64), PORTS
    for i, level in enumerate(levels):
        for way in range(2):
            if math.isfinite(memories.port[i, way]):
                column[i, way] = column[i, 0] if way and level.shared_port else most
                most = max(most, int(column[i, way]) + 1)
    bits = [1 << k for k in range(len(links.links))]
    touching = np.array(
        [sum(b for b, link in zip(bits, links.links, strict=True) if i in link[1:]) for i in range(len(levels))]
    )
    aligned = any(levels[p].aligned for x, _, p in links.links if x == 2)
    ports = Ports(
        column,
        touching,
        orders,
        np.array([max(1, int((rows[:, 0] >= 0).sum())) for rows in orders]),
        aligned,
        levels[-1].shared_port,
    )
    scene = Scene(links, memories, work, terms_of(layer, accelerator, engine, len(levels)), ports)
    sums = () if not residency.activations else tuple(d for d in DIMS if d not in RELEVANT["O"])
    at = {name: i for i, name in enumerate(names)}
    homes = tuple(
        tuple(
            sorted(
                at[t.level] for t in space.tiled if d in t.dims and not (d in sums and at[t.level] == len(names) - 1)
            )
        )
        for d in DIMS
    )
    return _Problem(layer, names, space, scene, homes)


@lru_cache(maxsize=1024)
def _sequences(space: Mapspace, names: tuple[str, ...]) -> Ints:
    """Loop orders of each level, innermost dimension first: [level, order, 8], -1 after the last."""
    table = np.full((len(names), max(len(t.orders) for t in space.tiled), len(DIMS)), -1, np.int64)
    for t in space.tiled:
        for i, order in enumerate(t.orders):
            table[names.index(t.level), i, : len(order)] = [DIMS.index(d) for d in order]
    return table


def _frames(problem: _Problem) -> Iterator[tuple[Floats, Frame]]:
    """Every unrolling that the array has room for, with its fan-out [level, 8].

    Where an unrolling does not divide a dimension, its outermost loop is cut: a loop in time, or the unrolling itself
    if no loop in time lies outside it. These are two frames, so that all fan-out is known.
    """
    scene, names, count = problem.scene, problem.names, len(problem.names)
    bounds = loop_bounds(problem.layer)
    for option in spatial_options(problem.space, bounds):
        across = np.ones((count, len(DIMS)))
        for axis, factors in zip(problem.space.axes, option, strict=True):
            for dim, factor in factors.items():
                across[names.index(axis.level), DIMS.index(dim)] *= factor
        below = across.prod(axis=1)
        outer = np.append(np.cumprod(below[::-1])[::-1][1:], 1.0)
        if (outer > scene.memories.instances).any() or (below > scene.memories.fan_out).any():
            continue
        left = trips_left(bounds, option)
        check_covered(problem.layer, problem.space, left)
        trips = [left[dim] for dim in DIMS]
        choices = [_outside(across[:, d], trips[d], bounds[dim], problem.homes[d]) for d, dim in enumerate(DIMS)]
        for rules in product(*choices):
            yield across, _frame(problem, across, trips, rules)


def _outside(across: Floats, trips: int, bound: int, homes: Sequence[int]) -> list[tuple[int, int]]:
    """Where loops of one dimension may lie: (level below its outermost unrolling, what must be done by then)."""
    unrolled = np.flatnonzero(across > 1)
    if not len(unrolled) or unrolled[-1] == 0 or trips == 1 or trips * across.prod() == bound:
        return [(-1, _ANY)]
    below = int(unrolled[-1]) - 1
    ways = []
    if any(home > below for home in homes):
        ways.append((below, _SOME))
    if any(home <= below for home in homes):
        ways.append((below, _ALL))
    return ways


def _frame(problem: _Problem, across: Floats, trips: Sequence[int], rules: Sequence[tuple[int, int]]) -> Frame:
    scene, count = problem.scene, len(problem.names)
    bounds = scene.work.bounds
    spread = np.cumprod(across, axis=0).astype(np.float64)
    fans = across.copy()
    slack = np.ones((count, 3))
    for d, (_, rule) in enumerate(rules):
        unrolled = np.flatnonzero(across[:, d] > 1)
        if not len(unrolled):
            continue
        top = unrolled[-1]
        if trips[d] == 1 or rule == _ALL:
            done = min(trips[d] * (spread[top - 1, d] if top else 1.0), bounds[d])
            fans[top, d] = min(trips[d] * spread[top, d], bounds[d]) / done
        else:
            cut = trips[d] * spread[-1, d] / bounds[d]
            slack[:top] *= np.where(RELEVANCE[:, d], cut, 1.0)
    above = np.append(np.cumprod(fans[::-1], axis=0)[::-1], np.ones((1, len(DIMS))), axis=0).astype(np.float64)
    links = scene.chains.links
    relevant = RELEVANCE[links[:, 0]]
    between = np.array([fans[child + 1 : parent + 1].prod(axis=0) for _, child, parent in links]).reshape(-1, len(DIMS))
    tables = [_steps(trips[d], problem.homes[d], count, *rules[d]) for d in range(len(DIMS))]
    most = max(len(table[0]) for table in tables)
    factors = np.ones((len(DIMS), most), np.int64)
    following = np.full((count, len(DIMS), most, most + 1), -1, np.int64)
    many = np.array([len(table[0]) for table in tables])
    for d, (values, steps) in enumerate(tables):
        factors[d, : len(values)] = values
        following[:, d, : len(values), : len(values) + 1] = steps
    exact = bounds / above[0]
    every = np.where(RELEVANCE, exact, np.array(trips, float)).prod(axis=1)
    whole = above.prod(axis=1)
    return Frame(
        np.array(trips, float),
        factors,
        many,
        np.append(1, np.cumprod(many)[:-1]),
        spread,
        above[1:],
        following,
        np.where(relevant, between, 1.0).prod(axis=1),
        np.where(relevant, 1.0, between).prod(axis=1),
        whole[links[:, 2] + 1],
        np.where(RELEVANCE[2], 1.0, above).prod(axis=1)[links[:, 2] + 1],
        slack,
        whole[1:],
        every,
    )


@lru_cache(maxsize=65536)
def _steps(trips: int, homes: tuple[int, ...], levels: int, below: int, rule: int) -> tuple[Ints, Ints]:
    """Divisors of trips, and for each level and divisor reached below it the positions of those reached with it.

    Returns: [n], [level, n, n + 1], -1 after the last.
    """
    values = divisors(trips)
    table = np.full((levels, len(values), len(values) + 1), -1, np.int64)
    for level in range(levels):
        for i, inner in enumerate(values):
            reached = [j for j, outer in enumerate(values) if outer % inner == 0] if level in homes else [i]
            if not homes or level >= homes[-1]:
                reached = [j for j in reached if values[j] == trips]
            if level == below:
                reached = [j for j in reached if (values[j] == trips) == (rule == _ALL)]
            table[level, i, : len(reached)] = reached
    return np.array(values), table


def _least(problem: _Problem, frame: Frame) -> tuple[Floats, Floats, Floats]:
    """What must be moved at least, see `Bounds`: pJ, cycles [2, state], for the level below DRAM and for any below."""
    size = int(frame.how_many.prod())
    pj, cycles, needed = np.empty((2, size)), np.empty((2, size)), np.empty(len(problem.scene.chains.links))
    least_outside(problem.scene, frame, pj, cycles)
    least_needed(problem.scene, frame, needed)
    return pj, cycles, needed


def _search(
    problem: _Problem,
    across: Floats,
    frame: Frame,
    least: tuple[Floats, Floats, Floats],
    best: _Best,
    most: int | None,
) -> None:
    """Climb the levels; most: follow only the most promising partial mappings of each level, so many per figure."""
    scene, count = problem.scene, len(problem.names)
    pj, cycles, needed = least
    rows = np.empty((1, max(PORTS - 1, int(scene.ports.column.max())) + 1))
    begin(scene, frame, rows[0])
    states, masks = np.zeros(1, np.int64), np.zeros(1, np.int64)
    history = []
    for level in range(count):
        at = int(level < count - 2)
        groups = np.flatnonzero(np.diff(states, prepend=-1) | np.diff(masks, prepend=-1))
        bounds = Bounds(pj[at], cycles[at], needed, best.known)
        found, rows, about = climb(level, scene, frame, bounds, rows, states, masks, np.append(groups, len(rows)))
        if not found:
            return
        kept = np.lexsort((about[:, 1], about[:, 0]))
        if most is not None and level < count - 1 and found > 3 * most:
            low_pj, low = rows[:, ENERGY] + pj[at, about[:, 0]], np.maximum(rows[:, BUSY], cycles[at, about[:, 0]])
            promising = np.zeros(found, bool)
            for figure in (low_pj, low + low_pj * 1e-12, low * low_pj):
                promising[np.argpartition(figure, most)[:most]] = True
            kept = kept[promising[kept]]
        rows, about = rows[kept], about[kept]
        states, masks = about[:, 0].copy(), about[:, 1].copy()
        history.append(about)
    best.add(rows[:, [BUSY, ENERGY]], [_trace(frame, across, history, i) for i in range(len(rows))])


def _trace(frame: Frame, across: Floats, history: Sequence[Ints], at: int) -> tuple[Ints, Floats, Ints]:
    """Loops in time [level, 8], fan-out, and order per level of one complete mapping."""
    states, orders = [], []
    for about in reversed(history):
        states.append(int(about[at, 0]))
        orders.append(int(about[at, 3]))
        at = int(about[at, 2])
    places = np.array(states[::-1])[:, None] // frame.stride % frame.how_many
    reached = frame.divisors[np.arange(len(DIMS)), places]
    time = reached // np.append(np.ones((1, len(DIMS)), np.int64), reached[:-1], axis=0)
    return time, across, np.array(orders[::-1])


def _mapping(problem: _Problem, time: Ints, across: Floats, orders: Ints) -> Mapping:
    levels = []
    for i, name in enumerate(problem.names):
        order = [d for d in problem.scene.ports.sequences[i, orders[i]] if d >= 0]
        loops = tuple((DIMS[d], int(time[i, d])) for d in order if time[i, d] > 1)
        side = tuple((dim, int(across[i, d])) for d, dim in enumerate(DIMS) if across[i, d] > 1)
        levels.append(LevelLoops(name, loops, side))
    return Mapping(tuple(levels))
