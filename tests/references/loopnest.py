"""A literal loop-nest counter: runs every iteration of a mapping and watches what each memory instance holds.

No formula of `cosearch.hardware.cost` is used: tiles are sets of coordinates, fetches are set differences. Only for
nests whose loops divide the layer evenly and have a few thousand iterations.
"""

import itertools
from collections import Counter
from collections.abc import Iterator

from cosearch.hardware.accelerator import MemoryLevel
from cosearch.hardware.mapping import RELEVANT, Mapping
from cosearch.workload import Layer

Loop = tuple[int, str, str, int]  # level, temporal | spatial, dimension, bound


def loops_of(mapping: Mapping) -> list[Loop]:
    """All loops, outermost first."""
    out: list[Loop] = []
    for i in range(len(mapping.levels) - 1, -1, -1):
        out += [(i, "temporal", d, b) for d, b in reversed(mapping.levels[i].temporal)]
        out += [(i, "spatial", d, b) for d, b in mapping.levels[i].spatial]
    return out


def coordinate(layer: Layer, tensor: str, loops: list[Loop], index: tuple[int, ...]) -> tuple[int, ...]:
    """The word of a tensor that one iteration touches."""
    at = dict.fromkeys("NGKCPQRS", 0)
    for (_, _, dim, bound), i in zip(loops, index, strict=True):
        at[dim] = at[dim] * bound + i
    if tensor == "I":
        row = at["P"] * layer.stride[0] + at["R"] * layer.dilation[0]
        col = at["Q"] * layer.stride[1] + at["S"] * layer.dilation[1]
        return at["N"], at["G"], at["C"], row, col
    return tuple(at[d] for d in ("GKCRS" if tensor == "W" else "NGKPQ"))


class View:
    """The nest as seen from one level: loops above its tile (time and place) and the tile that they select."""

    def __init__(self, layer: Layer, tensor: str, mapping: Mapping, child: int, parent: int) -> None:
        loops = loops_of(mapping)
        self.layer, self.tensor, self.parent = layer, tensor, parent
        self.above = [loop for loop in loops if loop[0] > child]
        self.inside = [loop for loop in loops if loop[0] <= child]
        self.temporal = [i for i, loop in enumerate(self.above) if loop[1] == "temporal"]
        self.spatial = [i for i, loop in enumerate(self.above) if loop[1] == "spatial"]
        moving = [
            at for at, i in enumerate(self.temporal) if self.above[i][2] in RELEVANT[tensor] and self.above[i][3] > 1
        ]
        self.sliding = moving[-1] if moving else 0
        loops_above = [at for at, i in enumerate(self.temporal) if self.above[i][3] > 1]
        self.innermost = loops_above[-1] if loops_above else 0
        level, _, dim, _ = self.above[self.temporal[self.innermost]] if loops_above else (0, "", "", 1)
        self.sweeps = level == child + 1 and tensor == "I" and dim in "PQRS"

    def steps(self) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
        """(time, place, index over the loops above), in order of time."""
        for time in itertools.product(*(range(self.above[i][3]) for i in self.temporal)):
            for place in itertools.product(*(range(self.above[i][3]) for i in self.spatial)):
                index = [0] * len(self.above)
                for i, v in (*zip(self.temporal, time, strict=True), *zip(self.spatial, place, strict=True)):
                    index[i] = v
                yield time, place, tuple(index)

    def tile(self, index: tuple[int, ...]) -> frozenset[tuple[int, ...]]:
        inner = itertools.product(*(range(b) for *_, b in self.inside))
        every = self.above + self.inside
        return frozenset(coordinate(self.layer, self.tensor, every, index + i) for i in inner)

    def parent_place(self, index: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(index[i] for i in self.spatial if self.above[i][0] > self.parent)

    def stream(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """Children that want different tiles are served apart, even where their halos overlap."""
        return tuple(index[i] for i in self.spatial if self.above[i][2] in RELEVANT[self.tensor])

    def slides(self, before: tuple[int, ...], now: tuple[int, ...]) -> bool:
        """Whether only the innermost loop that matters, or loops inside it, have advanced."""
        return before[: self.sliding] == now[: self.sliding]

    def sweeps_on(self, before: tuple[int, ...], now: tuple[int, ...]) -> bool:
        """Whether only the innermost loop of all has advanced, of the level right above, and inputs slide."""
        return self.sweeps and before[: self.innermost] == now[: self.innermost]


def fetches(layer: Layer, tensor: str, levels: tuple[MemoryLevel, ...], mapping: Mapping, child: int, parent: int):
    """(words that the parent delivers, words that enter all children)."""
    view = View(layer, tensor, mapping, child, parent)
    held: dict = {}
    entered = 0
    delivered = set()
    for time, place, index in view.steps():
        tile = view.tile(index)
        before = held.get(place)
        stays = False
        if child >= 0 and before is not None:
            stays = (view.slides if levels[child].keeps else view.sweeps_on)(before[0], time)
        new = tile - before[1] if stays else tile
        if child >= 0 and new and not levels[child].slides:
            new = tile
        entered += len(new)
        delivered.update((time, view.parent_place(index), view.stream(index), word) for word in new)
        held[place] = (time, tile)
    return len(delivered), entered


def updates(layer: Layer, levels: tuple[MemoryLevel, ...], mapping: Mapping, child: int, parent: int) -> int:
    """Partial sums that reach a level: one per visit of a tile below, summed over fan-out along C, R and S."""
    view = View(layer, "O", mapping, child, parent)
    visit: dict = {}
    arriving = set()
    for time, place, index in view.steps():
        tile = view.tile(index)
        last = visit.get(place)
        same = child >= 0 and levels[child].keeps and last is not None and last[1] == tile
        visit[place] = (last[0] if same else time, tile)
        arriving.update((visit[place][0], view.parent_place(index), word) for word in tile)
    return len(arriving)


def count(layer: Layer, levels: tuple[MemoryLevel, ...], mapping: Mapping) -> tuple[Counter, Counter]:
    """Words read and words written per (level name, tensor), over all instances."""
    reads: Counter = Counter()
    writes: Counter = Counter()
    for tensor in ("W", "I") if layer.has_weights else ("I",):
        holding = [i for i, level in enumerate(levels) if tensor in level.holds]
        for child, parent in zip([-1, *holding[:-1]], holding, strict=True):
            taken, entered = fetches(layer, tensor, levels, mapping, child, parent)
            reads[levels[parent].name, tensor] += taken
            if child >= 0:
                writes[levels[child].name, tensor] += entered
    holding = [i for i, level in enumerate(levels) if "O" in level.holds]
    arriving = [
        updates(layer, levels, mapping, child, parent)
        for child, parent in zip([-1, *holding[:-1]], holding, strict=True)
    ]
    for at, parent in enumerate(holding):
        name = levels[parent].name
        writes[name, "O"] += arriving[at]
        if parent == len(levels) - 1:  # DRAM only saves the first read of each output
            reads[name, "O"] += arriving[at] - layer.output_count
        elif not levels[parent].returns:  # every visit saves its first read and adds a drain
            reads[name, "O"] += arriving[at]
        else:
            drained, begun = leaving(layer, levels, mapping, parent), outputs_above(layer, mapping, parent)
            reads[name, "O"] += arriving[at] + drained - (begun if at else 0)
            writes[name, "O"] += drained - begun
    return reads, writes


def leaving(layer: Layer, levels: tuple[MemoryLevel, ...], mapping: Mapping, level: int) -> int:
    """Partial sums that leave all instances of a level, before any are summed on the way."""
    view = View(layer, "O", mapping, level, len(levels) - 1)
    held: dict = {}
    words = 0
    for _, place, index in view.steps():
        tile = view.tile(index)
        if not (levels[level].keeps and held.get(place) == tile):
            words += len(tile)
        held[place] = tile
    return words


def outputs_above(layer: Layer, mapping: Mapping, level: int) -> int:
    """Different (instance, output) pairs of a level: each begins from zero once."""
    view = View(layer, "O", mapping, level, len(mapping.levels) - 1)
    pairs = set()
    for _, place, index in view.steps():
        pairs.update((place, word) for word in view.tile(index))
    return len(pairs)
