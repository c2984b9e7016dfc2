"""Processing in memory: ReRAM and SRAM crossbars over a grid of sizes. `cosearch.hardware.closedform` has the rules.

Cells that a technology does not have are left out of the grid, and converters that resolve more than the sums of a
whole column: they would only cost more.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from cosearch.errors import ConfigError, nearest
from cosearch.hardware.closedform import CELL_BITS, Crossbar
from search_spaces.accelerators.formspace import FormSpace, Point

KINDS: tuple[str, ...] = ("mac", "shift", "pool", "elementwise")
"""Adder layers have no crossbar form."""
CHOICES: dict[str, tuple[Any, ...]] = {
    "technology": ("reram", "sram"),
    "rows": (64, 128, 256),
    "cols": (64, 128, 256),
    "cell_bits": (1, 2, 4),
    "adc_bits": (4, 6, 8, 10),
    "columns_per_adc": (8, 16, 128),
    "arrays": (64, 256, 1024, 4096),
    "polarised": (False, True),
}


ONLY: dict[str, str] = {"pim-reram": "reram", "pim-sram": "sram"}
"""Spaces of one technology."""


def space(name: str = "pim", *, choices: Mapping[str, Sequence[Any]] | None = None) -> FormSpace:
    """Crossbar accelerators over a grid of `CHOICES`; of one technology where the name says so.

    Raises: ConfigError for a choice that does not exist.
    """
    for choice in choices or {}:
        if choice not in CHOICES:
            raise ConfigError(f"the {name} space has no choice {choice!r}: {nearest(choice, CHOICES)}")
    own = {"technology": (ONLY[name],)} if name in ONLY else {}
    merged = {**CHOICES, **own, **{key: tuple(values) for key, values in (choices or {}).items()}}
    every = (dict(zip(merged, values, strict=True)) for values in product(*merged.values()))
    points = tuple(_point(Crossbar(**values)) for values in every if _sensible(**values))
    return FormSpace(name, "crossbar", KINDS, points, tuple(merged.items()), "crossbar", sized=True)


def _sensible(technology: str, rows: int, cell_bits: int, adc_bits: int, **_: Any) -> bool:
    """Whether such cells exist, and fewer bits would not read a whole column at once."""
    if cell_bits not in CELL_BITS.get(technology, (cell_bits,)):
        return False
    return 2 ** (adc_bits - 1) - 1 < rows * (2**cell_bits - 1)


def _point(c: Crossbar) -> Point:
    name = f"pim_{c.technology}_{c.arrays}x{c.rows}x{c.cols}_{c.cell_bits}b_adc{c.adc_bits}x{c.adcs}"
    return Point(name + ("_polarised" if c.polarised else ""), c, c.rows, c.cols, c.area_um2)
