"""CPU and GPU rooflines with voltage and frequency levels. `cosearch.hardware.closedform` has the equations."""

import re

from cosearch.errors import UnknownNameError, nearest
from cosearch.hardware.closedform import OperatingPoint, unit_costs
from cosearch.workload import KINDS
from search_spaces.accelerators.formspace import FormSpace, Point


def processors() -> tuple[str, ...]:
    """The processors of the cost table."""
    return tuple(sorted({name.split(".")[0] for name in unit_costs("processors")}))


def operating_points(processor: str) -> tuple[OperatingPoint, ...]:
    """The table of clocks and voltages, slowest first; the last voltage is the nominal one."""
    table = unit_costs("processors")
    levels = sorted(int(m[1]) for name in table if (m := re.fullmatch(rf"{processor}\.level(\d+)_mhz", name)))
    nominal = table[f"{processor}.level{levels[-1]}_v"]
    return tuple(
        OperatingPoint(processor, table[f"{processor}.level{i}_mhz"], table[f"{processor}.level{i}_v"], nominal)
        for i in levels
    )


def space(name: str = "cpu") -> FormSpace:
    """The operating points of one processor, which runs layers of every kind.

    Raises: UnknownNameError with the nearest processor.
    """
    if name not in processors():
        raise UnknownNameError(f"unknown processor {name!r}: {nearest(name, processors())}")
    table, found = unit_costs("processors"), operating_points(name)
    cols = int(table[f"{name}.macs_per_cycle"])
    points = tuple(Point(f"{name}_{point.clock_mhz:g}MHz", point, 1, cols) for point in found)
    clocks = tuple(point.clock_mhz for point in found)
    return FormSpace(name, name, KINDS, points, (("clock_mhz", clocks),), "processors", sized=False)
