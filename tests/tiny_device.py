"""Accelerators for `tests.tiny_space`, built one at a time: `--device tests.tiny_device:arrays`."""

from typing import Any

from cosearch.errors import HardwareError
from cosearch.hardware.accelerator import Accelerator
from search_spaces.accelerators import fpga
from search_spaces.accelerators.built import BuiltSpace

NAME = "tests.tiny_device:arrays"
CHOICES: dict[str, tuple[Any, ...]] = {"rows": (2, 4, 8, 16), "cols": (4, 8), "port_bits": (64, 128, 256)}
FIXED = {"dataflow": ("weight-stationary",), "windowed": (False,), "fabric": ("logic",), "lanes": (8,)}
MEMORY = {"weight_kib": (36,), "activation_kib": (18,), "clock_mhz": (100.0,)}


def build(chosen: dict[str, Any]) -> Accelerator:
    """A MAC array, a shift array and an array of additions, all of one size.

    Raises: HardwareError for two rows of eight columns, which cannot be for the sake of the tests.
    """
    if (chosen["rows"], chosen["cols"]) == (2, 8):
        raise HardwareError("two rows of eight columns cannot be built")
    only = {name: (choice,) for name, choice in chosen.items()}
    space = fpga.space("ecp5-85f", choices={**FIXED, **MEMORY, **only})
    return space.accelerator(0, {kind: 0 for kind in space.kinds})


def arrays() -> BuiltSpace:
    """On a part that has no room for the largest."""
    budget = fpga.space("ecp5-45f").budget
    return BuiltSpace(CHOICES, "arrays", build, ("mac", "shift", "add"), budget)


def nothing() -> dict[str, Any]:
    return {}


def nothing_fits() -> BuiltSpace:
    """The budget is silicon, of which these accelerators are not made."""
    return BuiltSpace(CHOICES, "nothing", build, ("mac", "shift", "add"))
