"""Parts (devices): resource budgets and unit costs, read from versioned data files.

A part is a JSON or YAML document::

    {"format": "cosearch.part", "version": 1, "name": "...", "family": "fpga", "title": "...",
     "includes": ["ecp5", "fpga_energy"],                    cost tables under data/costs, or files beside this one
     "choices": {"rows": [8, 16], ...},                      optional, instead of the family's defaults
     "budget": {"lut": ..., "ff": ..., "dsp": ..., "bram": ..., "uram": ...},
     "costs": {"static_power_w": {"value": ..., "unit": "W", "status": "measured|published|modelled", "source": "..."}}}

Its own costs override those of the tables that it includes. This module imports nothing slow.
"""

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from cosearch.errors import DataError, HardwareError, UnknownNameError, nearest
from cosearch.hardware.resources import RESOURCES, Resources, check_name
from cosearch.reading import parse_json, parse_yaml, read

DATA = Path(__file__).parent / "data"
_brief = reprlib.Repr()
MOST_COUNT = 2**53
"""Of a resource: as far as floating point counts."""
MOST_COST = 1e9
"""Of a unit cost in its unit: so many elements as an array may have still count in 64 bits."""
STATUSES = ("measured", "published", "modelled")


@dataclass(frozen=True)
class UnitCost:
    """One unit cost with its origin."""

    value: float
    unit: str
    status: str
    source: str


@dataclass(frozen=True)
class Part:
    """A device: what it offers and what things cost on it.

    costs: pairs of a name such as ``mac.lut`` and its unit cost. choices: what its family's accelerator space offers
    on this part instead of the family's defaults.
    """

    name: str
    family: str
    title: str
    budget: Resources
    costs: tuple[tuple[str, UnitCost], ...]
    choices: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    def cost(self, name: str) -> float:
        """Raises: HardwareError naming the part and the nearest cost."""
        if name not in self._values:
            raise HardwareError(f"part {self.name!r} gives no unit cost {name!r}: {nearest(name, self._values)}")
        return self._values[name]

    @cached_property
    def _values(self) -> dict[str, float]:
        return {name: cost.value for name, cost in self.costs}

    def modelled(self) -> tuple[str, ...]:
        """Names of the unit costs that nobody measured or published for this part."""
        return tuple(name for name, cost in self.costs if cost.status == "modelled")

    def scaled(self, factors: Mapping[str, float]) -> "Part":
        """The part with some unit costs multiplied by a factor.

        Raises: HardwareError for a cost that does not exist or a factor that is not positive.
        """
        for name, factor in factors.items():
            self.cost(name)
            if not 0 < factor < math.inf:
                raise HardwareError(f"part {self.name!r}: factor of {name!r} is {factor!r}, expected a number above 0")
        costs = tuple((n, replace(c, value=c.value * factors.get(n, 1.0))) for n, c in self.costs)
        return replace(self, costs=costs)


def part_names() -> tuple[str, ...]:
    """The parts that come with this package."""
    return tuple(sorted(path.stem for path in (DATA / "parts").glob("*.json")))


def load_device(name_or_path: str) -> Part:
    """A built-in part by name, or one described by a JSON or YAML file.

    Raises: UnknownNameError with the nearest part; HardwareError naming the file and the field at fault.
    """
    path = Path(name_or_path)
    if path.suffix in (".json", ".yaml", ".yml"):
        return _read_part(path)
    if name_or_path not in part_names():
        raise UnknownNameError(f"unknown part {name_or_path!r}: {nearest(name_or_path, part_names())}")
    return _builtin(name_or_path)


def file_format(path: str) -> str:
    """What a device file says it is, such as ``cosearch.part``.

    Raises: HardwareError naming a file that cannot be read.
    """
    return str(_read(Path(path)).get("format", ""))


@cache
def _builtin(name: str) -> Part:
    return _read_part(DATA / "parts" / f"{name}.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        document = read(path, parse_json if path.suffix == ".json" else parse_yaml)
    except OSError as error:
        raise HardwareError(f"{path}: cannot be read ({error.strerror})") from error
    except DataError as error:
        raise HardwareError(f"{path} {error}") from None
    if not isinstance(document, dict):
        raise HardwareError(f"{path}: expected an object, got {type(document).__name__}")
    return document


def _read_part(path: Path) -> Part:
    document = _read(path)
    if document.get("format") != "cosearch.part" or document.get("version") != 1:
        raise HardwareError(f"{path}: expected format 'cosearch.part' and version 1")
    missing = {"name", "family", "budget"} - set(document)
    if missing:
        raise HardwareError(f"{path}: a part needs the fields {', '.join(sorted(missing))}")
    check_name(f"{path}: part", document["name"])
    budget = document["budget"]
    if not isinstance(budget, dict) or not set(budget) <= set(RESOURCES):
        raise HardwareError(
            f"{path}: budget={_brief.repr(budget)}, expected numbers under some of {', '.join(RESOURCES)}"
        )
    for key, count in budget.items():
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MOST_COUNT:
            raise HardwareError(f"{path}: budget {key}={count!r:.40}, expected an integer from 0 to {MOST_COUNT}")
    includes = document.get("includes", [])
    if not isinstance(includes, list) or not all(map(_names_table, includes)):
        raise HardwareError(f"{path}: includes={_brief.repr(includes)}, expected a list of names of cost tables")
    costs: dict[str, UnitCost] = {}
    for table in includes:
        costs.update(_costs(_table_path(path, table)))
    costs.update(_parse_costs(path, document.get("costs", {})))
    title = str(document.get("title", document["name"]))
    offered = document.get("choices", {})
    if not isinstance(offered, dict) or not all(isinstance(values, list) for values in offered.values()):
        raise HardwareError(f"{path}: choices={_brief.repr(offered)}, expected lists of values by name")
    choices = tuple((str(name), tuple(values)) for name, values in offered.items())
    return Part(document["name"], str(document["family"]), title, Resources(**budget), tuple(costs.items()), choices)


def _names_table(name: Any) -> bool:
    return isinstance(name, str) and len(name) < 200 and name.isprintable()


def _table_path(part: Path, table: str) -> Path:
    beside = part.parent / table
    return beside if beside.is_file() else DATA / "costs" / f"{table}.json"


def read_costs(table: str) -> dict[str, UnitCost]:
    """A cost table under data/costs by name."""
    return _costs(DATA / "costs" / f"{table}.json")


def _costs(path: Path) -> dict[str, UnitCost]:
    document = _read(path)
    if document.get("format") != "cosearch.costs" or document.get("version") != 1:
        raise HardwareError(f"{path}: expected format 'cosearch.costs' and version 1")
    return _parse_costs(path, document.get("costs", {}))


def _parse_costs(path: Path, table: Any) -> dict[str, UnitCost]:
    if not isinstance(table, dict):
        raise HardwareError(f"{path}: costs={_brief.repr(table)}, expected an object of unit costs by name")
    costs = {}
    for name, entry in table.items():
        try:
            cost = UnitCost(float(entry["value"]), str(entry["unit"]), str(entry["status"]), str(entry["source"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise HardwareError(f"{path}: cost {name!r} needs value, unit, status and source ({error!r})") from error
        if cost.status not in STATUSES or not 0 <= cost.value <= MOST_COST:
            raise HardwareError(
                f"{path}: cost {name!r:.80} is {cost.value} ({cost.status:.40}), expected a number from 0 to "
                f"{MOST_COST:g}, marked {' or '.join(STATUSES)}"
            )
        costs[name] = cost
    return costs
