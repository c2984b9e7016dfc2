"""A mapping: the loop nest of one layer over a memory hierarchy, as one would write it.

Loops run over N (batch), G (groups), K and C (channels per group), P, Q (output) and R, S (kernel). The rows of a
matrix product may be written as N or as P. This module imports nothing slow.
"""

import math
import operator
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cosearch.errors import HardwareError
from cosearch.workload import Layer

DIMS: tuple[str, ...] = ("N", "G", "K", "C", "P", "Q", "R", "S")
RELEVANT: dict[str, frozenset[str]] = {
    "W": frozenset("GKCRS"),
    "I": frozenset("NGCPQRS"),
    "O": frozenset("NGKPQ"),
}
Loop = tuple[str, int]
MOST_ITERATIONS = 2**31


@dataclass(frozen=True)
class LevelLoops:
    """Loops at one memory level, each a (dimension, bound) pair.

    temporal: innermost first; they walk over the parts of this level's tile. spatial: the fan-out from this level to
    the level below, inside the temporal loops. A dimension may have several loops, and those next to each other, or in
    space, become one. tile: (dimension, size) pairs where this level's tile is smaller than what its loops and those
    below multiply to, because the loops do not divide it.
    """

    level: str
    temporal: tuple[Loop, ...] = ()
    spatial: tuple[Loop, ...] = ()
    tile: tuple[Loop, ...] = ()

    def __post_init__(self) -> None:
        for key in ("temporal", "spatial", "tile"):
            for loop in getattr(self, key):
                try:
                    dim, bound = loop
                except (TypeError, ValueError):
                    raise HardwareError(f"level {self.level!r}: loop {loop!r}, expected (dimension, bound)") from None
                if dim not in DIMS or not _is_bound(bound):
                    raise HardwareError(
                        f"level {self.level!r}: loop {dim}={bound}, expected a dimension among {' '.join(DIMS)} "
                        "and a whole number of iterations, at least 1"
                    )
            object.__setattr__(self, key, tuple((str(dim), int(bound)) for dim, bound in getattr(self, key)))
        if len({dim for dim, _ in self.tile}) != len(self.tile):
            raise HardwareError(f"level {self.level!r}: a dimension occurs twice in its tile {self.tile}")
        object.__setattr__(self, "temporal", _joined(self.temporal, anywhere=False))
        object.__setattr__(self, "spatial", _joined(self.spatial, anywhere=True))

    @property
    def runs(self) -> tuple[tuple[Loop, ...], ...]:
        """The time loops, innermost first, cut where a dimension comes back; at least one run."""
        found: list[list[Loop]] = [[]]
        for dim, bound in self.temporal:
            if bound > 1 and any(dim == other and many > 1 for other, many in found[-1]):
                found.append([])
            found[-1].append((dim, bound))
        return tuple(map(tuple, found))


def _joined(loops: tuple[Loop, ...], anywhere: bool) -> tuple[Loop, ...]:
    """Loops with those over one dimension multiplied: all of them, or those with no other loop between them."""
    found: list[Loop] = []
    for dim, bound in loops:
        where = [i for i, (_, many) in enumerate(found) if many > 1 or anywhere]
        at = next((i for i in (where if anywhere else where[-1:]) if found[i][0] == dim and bound > 1), None)
        if at is None:
            found.append((dim, bound))
        else:
            found[at] = (dim, found[at][1] * bound)
    return tuple(found)


def _is_bound(value: Any) -> bool:
    """Whole numbers of any integer type; numbers with units and fractions are not."""
    try:
        return 1 <= operator.index(value) <= MOST_ITERATIONS
    except TypeError:
        return False


@dataclass(frozen=True)
class Mapping:
    """Loops per memory level, innermost level first, DRAM last."""

    levels: tuple[LevelLoops, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))

    def extent(self, dim: str) -> int:
        """What the loops over a dimension cover."""
        size = 1
        for level in self.levels:
            size *= math.prod(b for d, b in (*level.spatial, *level.temporal) if d == dim)
            size = min(size, dict(level.tile).get(dim, size))
        return size

    def idles(self, dim: str, bound: int) -> bool:
        """Whether the outermost time loop over a dimension has an iteration without any work, for a layer's bound.

        Units side by side may idle: an array need not divide a dimension.
        """
        if self.extent(dim) <= bound:
            return False
        levels = list(self.levels)
        for i in reversed(range(len(levels))):
            time = list(levels[i].temporal)
            for at in reversed(range(len(time))):
                if time[at][0] == dim and time[at][1] > 1:
                    time[at] = (dim, time[at][1] - 1)
                    levels[i] = replace(levels[i], temporal=tuple(time))
                    return Mapping(tuple(levels)).extent(dim) >= bound
        return False

    def text(self) -> str:
        """One line per level, outermost first; loops of bound 1 left out."""
        lines = []
        for level in reversed(self.levels):
            time = " ".join(f"{d}{b}" for d, b in reversed(level.temporal) if b > 1)
            space = " ".join(f"{d}{b}" for d, b in level.spatial if b > 1)
            cut = " ".join(f"{d}{b}" for d, b in level.tile)
            line = f"{level.level}: {time or '-'}" + (f" | parallel {space}" if space else "")
            lines.append(line + (f" | tile {cut}" if cut else ""))
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": "cosearch.mapping",
            "version": 1,
            "levels": [
                {
                    "level": x.level,
                    **{key: [list(p) for p in getattr(x, key)] for key in ("temporal", "spatial", "tile")},
                }
                for x in self.levels
            ],
        }

    @classmethod
    def from_json(cls, data: Dict[str, Any]) -> "Mapping":
        """Raises: HardwareError if the document is not a mapping of a version that this code reads."""
        known = isinstance(data, Dict) and data.get("format") == "cosearch.mapping" and data.get("version") == 1
        if not known:
            raise HardwareError("expected a JSON object with format 'cosearch.mapping' and version 1")
        try:
            return cls(
                tuple(LevelLoops(x["level"], x["temporal"], x["spatial"], x.get("tile", ())) for x in data["levels"])
            )
        except (KeyError, TypeError, ValueError) as error:
            raise HardwareError(f"mapping document is malformed: {error}") from error


def loop_bounds(layer: Layer) -> dict[str, int]:
    """Bounds of the loops of a layer, K and C per group."""
    bounds = {dim: int(getattr(layer, dim)) for dim in DIMS if dim != "G"}
    return {**bounds, "G": layer.groups, "K": layer.K // layer.groups, "C": layer.C // layer.groups}


def parted(mappings: Sequence[Mapping]) -> tuple[list[Mapping], tuple[int, ...]]:
    """The same mappings with no dimension twice among a level's time loops, and the level of each row of loops.

    Where a dimension comes back, a level is more than one row, as many in every mapping. The last one stands for the
    level; the ones before it have its inner loops, and its fan-out in the first, and hold nothing.
    """
    count = len(mappings[0].levels) if mappings else 0
    rows = [max(len(mapping.levels[i].runs) for mapping in mappings) for i in range(count)]
    found = []
    for mapping in mappings:
        levels: list[LevelLoops] = []
        for level, most in zip(mapping.levels, rows, strict=True):
            runs = (*level.runs, *((),) * (most - len(level.runs)))
            levels += [LevelLoops(level.level, run, () if at else level.spatial) for at, run in enumerate(runs)]
            levels[-1] = replace(levels[-1], tile=level.tile)
        found.append(Mapping(tuple(levels)))
    return found, tuple(i for i, most in enumerate(rows) for _ in range(most))
