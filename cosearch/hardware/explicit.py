"""Batches of explicit mappings as arrays: `cost.evaluate` by the million."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cosearch.errors import HardwareError
from cosearch.hardware.accelerator import Accelerator, engine_of, hierarchy, in_rows
from cosearch.hardware.cost import evaluate
from cosearch.hardware.mapping import DIMS, LevelLoops, Mapping, parted
from cosearch.hardware.nest import Floats, Ints, Totals, in_parts, memories_of, terms_of, totals, work_of
from cosearch.hardware.nestkernel import chains, price_each, scratch
from cosearch.workload import Layer

_AT_ONCE = 2**18
"""Mappings whose arrays are converted together, so that a batch of another type is not copied as a whole."""


@dataclass(frozen=True, eq=False)
class MappingBatch:
    """Many mappings of one layer over the same memory levels, innermost level first, DRAM last.

    temporal, spatial: [mapping, level, 8] loop bounds over N G K C P Q R S (`mapping.DIMS`), 1 where there is no loop.
    order: [mapping, level, 8] the time loops of each level, innermost first, as positions in `DIMS`, -1 after the last;
        loops of bound 1 may be named or left out. Spatial loops have no order.
    level_of: the memory level of each row of loops, by rising level: a level is several rows, the inner ones first,
        where a dimension comes back among its time loops. None where every row is a level.

    Any numeric type; float64 and int64 (order) are used in place. Tiles that a level states apart from its loops
    (`LevelLoops.tile`) have no place here.

    Raises: HardwareError for arrays of other shapes.
    """

    temporal: ArrayLike
    spatial: ArrayLike
    order: ArrayLike
    level_of: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("temporal", "spatial", "order"):
            object.__setattr__(self, name, np.asarray(getattr(self, name)))
        shapes = [np.shape(x) for x in (self.temporal, self.spatial, self.order)]
        if len(set(shapes)) > 1 or len(shapes[0]) != 3 or shapes[0][2] != len(DIMS):
            raise HardwareError(
                f"temporal, spatial and order have shapes {', '.join(map(str, shapes))}, "
                f"expected three times (mappings, levels, {len(DIMS)})"
            )

    def __len__(self) -> int:
        return len(np.asarray(self.temporal))

    @classmethod
    def of(cls, mappings: Sequence[Mapping]) -> "MappingBatch":
        """Raises: HardwareError if mappings have different numbers of levels, or state a tile."""
        levels = len(mappings[0].levels) if mappings else 0
        for b, mapping in enumerate(mappings):
            if len(mapping.levels) != levels:
                raise HardwareError(f"mapping {b} has {len(mapping.levels)} levels, the first one {levels}")
        rows, level_of = parted(mappings)
        shape = (len(mappings), len(level_of), len(DIMS))
        temporal, spatial, order = np.ones(shape), np.ones(shape), np.full(shape, -1, np.int64)
        for b, mapping in enumerate(rows):
            for i, level in enumerate(mapping.levels):
                if level.tile:
                    raise HardwareError(f"mapping {b}, level {level.level!r} states a tile: price it with evaluate")
                dims = [DIMS.index(dim) for dim in dict(level.temporal)]
                order[b, i, : len(dims)] = dims
                for loops, table in ((level.temporal, temporal), (level.spatial, spatial)):
                    for dim, bound in loops:
                        table[b, i, DIMS.index(dim)] *= bound
        return cls(temporal, spatial, order, None if len(level_of) == levels else level_of)

    def mapping(self, at: int, names: Sequence[str]) -> Mapping:
        """One of them as a value; names: of the levels. Raises: HardwareError if its loops are malformed."""
        level_of = self.level_of or range(len(names))
        temporal, spatial, order = (np.asarray(x)[at] for x in (self.temporal, self.spatial, self.order))
        levels = [LevelLoops(name) for name in names]
        rows = zip(level_of, temporal.tolist(), spatial.tolist(), order.tolist(), strict=True)
        for level, time, side, dims in rows:
            name = names[level]
            listed = dims[: dims.index(-1)] if -1 in dims else dims
            named = [DIMS[int(d)] if 0 <= d < len(DIMS) else str(d) for d in listed]
            for dim, bound in zip(DIMS, time, strict=True):
                if bound != 1 and dim not in named:
                    raise HardwareError(f"level {name!r}: the order leaves out {dim}, which has {bound:g} iterations")
            if len(set(named)) < len(named):
                raise HardwareError(f"level {name!r}: a dimension occurs twice in the order {' '.join(named)}")
            loops = [(dim, _bound(time[DIMS.index(dim)]) if dim in DIMS else 1) for dim in named]
            across = [(dim, _bound(bound)) for dim, bound in zip(DIMS, side, strict=True) if bound != 1]
            inner = levels[level]
            levels[level] = LevelLoops(name, (*inner.temporal, *loops), (*inner.spatial, *across))
        return Mapping(tuple(levels))


def _bound(value: float) -> Any:
    """A whole number as an int; another as it is, which `LevelLoops` refuses."""
    return int(value) if float(value).is_integer() else value


def evaluate_many(layer: Layer, accelerator: Accelerator, batch: MappingBatch, resident: Sequence[str] = ()) -> Totals:
    """Latency and energy of every mapping of a batch, as `evaluate` gives them one by one; on two threads.

    resident: tensors that stay in the level below DRAM.

    Returns: latency_ms, energy_mj [mapping]; infinite where tiles have no room or the array not that many elements.
    Raises: HardwareError for the first mapping that is malformed (its number, then what `evaluate` says of it), for
        another number of levels than the hierarchy has, and if no engine runs the layer's kind.
    """
    engine = engine_of(layer, accelerator)
    own, levels = engine.seen(layer), hierarchy(accelerator, engine)
    temporal, spatial, order = (np.asarray(x) for x in (batch.temporal, batch.spatial, batch.order))
    names = [level.name for level in levels]
    level_of = batch.level_of or tuple(range(temporal.shape[1] if len(batch) else len(levels)))
    if len(batch) and (len(level_of) != temporal.shape[1] or not _covers(level_of, len(levels))):
        told = f"; level_of={batch.level_of}, expected each of these by rising number" if batch.level_of else ""
        have = temporal.shape[1]
        raise HardwareError(
            f"layer {layer.name!r}: the mappings have {have} levels, the hierarchy {', '.join(names)}{told}"
        )
    work, memories = work_of(own, engine, resident), memories_of(in_rows(levels, level_of), engine)
    links, terms = chains(memories, work), terms_of(own, accelerator, engine, len(levels))
    terms = terms._replace(fill_from=level_of.index(terms.fill_from))
    cycles, pj = np.empty(len(batch)), np.empty(len(batch))
    for low, high in pairwise([*range(0, len(batch), _AT_ONCE), len(batch)]):
        time: Floats = np.ascontiguousarray(temporal[low:high], float)
        across: Floats = np.ascontiguousarray(spatial[low:high], float)
        orders: Ints = np.ascontiguousarray(order[low:high], np.int64)
        run = partial(price_each, time, across, orders, links, memories, work, terms)
        in_parts(
            high - low,
            high - low,
            partial(_price, run, (len(level_of), len(links.links)), cycles[low:high], pj[low:high]),
        )
    wrong = np.flatnonzero(np.isnan(cycles))
    if len(wrong):
        _refuse(layer, accelerator, batch, int(wrong[0]), names)
    return totals(accelerator, cycles, pj)


def _covers(level_of: Sequence[int], levels: int) -> bool:
    """Whether rows name every level, the inner ones first: one that came back would be priced as if it had not."""
    return [*dict.fromkeys(level_of)] == [*range(levels)] and all(a <= b for a, b in pairwise(level_of))


def _price(
    run: Callable[..., None],
    sizes: tuple[int, int],
    cycles: Floats,
    pj: Floats,
    parts: Iterator[tuple[int, int]],
) -> None:
    own = scratch(*sizes, 1)
    for start, stop in parts:
        run(start, stop, own, cycles, pj)


def _refuse(layer: Layer, accelerator: Accelerator, batch: MappingBatch, at: int, names: Sequence[str]) -> None:
    """Raises: HardwareError that says what is wrong with a mapping."""
    try:
        evaluate(layer, accelerator, batch.mapping(at, names))
    except HardwareError as error:
        raise HardwareError(f"mapping {at}: {error}") from None
    raise AssertionError(f"mapping {at} is refused in a batch and not alone")
