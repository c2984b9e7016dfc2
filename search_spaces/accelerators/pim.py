"""Processing in memory: crossbars over a grid of sizes. `cosearch.hardware.closedform` has the equations."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from cosearch.errors import ConfigError, nearest
from cosearch.hardware.closedform import Crossbar
from search_spaces.accelerators.formspace import FormSpace, Point

KINDS: tuple[str, ...] = ("mac", "shift", "pool", "elementwise")
"""Adder layers have no crossbar form."""
CHOICES: dict[str, tuple[Any, ...]] = {
    "rows": (64, 128, 256),
    "cols": (64, 128, 256),
    "cell_bits": (1, 2, 4),
    "adc_bits": (6, 8),
    "columns_per_adc": (8, 16, 128),
    "arrays": (64, 256, 1024, 4096),
    "polarised": (False, True),
}


def space(name: str = "pim", *, choices: Mapping[str, Sequence[Any]] | None = None) -> FormSpace:
    """Crossbar accelerators over a grid of `CHOICES`.

    Raises: ConfigError for a choice that does not exist.
    """
    for choice in choices or {}:
        if choice not in CHOICES:
            raise ConfigError(f"the {name} space has no choice {choice!r}: {nearest(choice, CHOICES)}")
    merged = {**CHOICES, **{key: tuple(values) for key, values in (choices or {}).items()}}
    points = tuple(_point(Crossbar(**dict(zip(merged, values, strict=True)))) for values in product(*merged.values()))
    return FormSpace(name, "crossbar", KINDS, points, tuple(merged.items()), "crossbar", sized=True)


def _point(c: Crossbar) -> Point:
    name = f"pim_{c.arrays}x{c.rows}x{c.cols}_{c.cell_bits}b_adc{c.adc_bits}{'_polarised' if c.polarised else ''}"
    return Point(name, c, c.rows, c.cols, c.area_um2)
