"""ASIC templates: arrays with their memories and declared mapspaces, each one a data file under `templates`.

A template is a JSON document: parameters with their defaults, the choices of its space, the array, its memories from
the innermost to DRAM, which dimensions an axis of the array unrolls, which levels are tiled in which loop orders. An
amount is a number, a parameter (or rows, cols), a product of these ``[4, "accumulator_depth"]``, or a sum of products
``[["rows"], ["cols"], [-2]]``.

Energies and areas come from `cosearch.hardware.technology`; wires, control and pads are not in the area.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosearch.errors import ConfigError, CosearchError, DataError, HardwareError, UnknownNameError, nearest
from cosearch.hardware.accelerator import (
    ACCOUNTINGS,
    Accelerator,
    Accounting,
    Axis,
    Engine,
    Mapspace,
    MemoryLevel,
    Tiling,
)
from cosearch.hardware.parts import UnitCost, read_costs
from cosearch.hardware.resources import SILICON, Resources
from cosearch.hardware.technology import Technology, memories_um2, silicon_costs
from cosearch.reading import parse_json, read
from cosearch.workload import Layer

if TYPE_CHECKING:
    from cosearch.hardware.nestfront import Fleet
    from cosearch.hardware.pricing import Residency
    from cosearch.hardware.tables import EngineTable, Floats, Prices, SharedTable

KINDS: tuple[str, ...] = ("mac", "pool", "elementwise")
TEMPLATES: tuple[str, ...] = tuple(sorted(path.stem for path in (Path(__file__).parent / "templates").glob("*.json")))
"""The templates that come with this package."""
DRAM_BURST_BITS = 512
MOST_ACCELERATORS = 1_000_000
"""Of a space that is listed: each is built when the first network is priced."""
MOST_TRIED = 100_000
"""Of a space, until one can be built."""


@dataclass(frozen=True)
class Template:
    """A template file, read; see the module."""

    name: str
    document: Mapping[str, Any]

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.document["parameters"])

    @property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        return {name: tuple(values) for name, values in self.document["choices"].items()}

    def build(self, parameters: Mapping[str, Any], accounting: Accounting = "element") -> Accelerator:
        """Raises: what `check` raises; ConfigError for a technology, HardwareError for a value that cannot be."""
        self.check(parameters, accounting)
        try:
            return self._built(parameters, accounting)
        except ConfigError:
            raise
        except (ArithmeticError, TypeError, ValueError) as error:
            chosen = ", ".join(f"{name}={value!r}" for name, value in parameters.items())
            raise HardwareError(f"template {self.name!r} with {chosen or 'its defaults'}: {error}") from error

    def check(self, names: Iterable[str], accounting: str) -> None:
        """Raises: ConfigError for a parameter that the template does not have, or an accounting that does not exist."""
        if accounting not in ACCOUNTINGS:
            raise ConfigError(f"accounting={accounting!r}, expected one of {', '.join(ACCOUNTINGS)}")
        for name in names:
            if name not in self.parameters:
                raise ConfigError(f"template {self.name!r} has no {name!r}: {nearest(name, self.parameters)}")

    def _built(self, parameters: Mapping[str, Any], accounting: Accounting) -> Accelerator:
        values = {**self.parameters, **parameters}
        values |= {key: int(amount(self.document[key], values)) for key in ("rows", "cols")}
        tech = Technology(values["nm"])
        private = tuple(_memory(level, values, tech) for level in self.document["engine"])
        shared = tuple(_memory(level, values, tech) for level in self.document["shared"])
        return _accelerator(self, values, private, shared, tech, accounting)


def amount(what: Any, values: Mapping[str, Any]) -> float:
    """A number, a name, a product of them, or a sum of products; see the module."""
    if isinstance(what, str):
        return float(values[what])
    if isinstance(what, list):
        if any(isinstance(part, list) for part in what):
            return sum(amount(part, values) for part in what)
        return math.prod(amount(part, values) for part in what) if what else 0.0
    return float(what)


def _memory(level: Mapping[str, Any], values: Mapping[str, Any], tech: Technology) -> MemoryLevel:
    """A register (the element's energy and area have it), an SRAM with one port both ways, or DRAM in bursts."""
    kind = level["kind"]
    if kind == "register":
        return MemoryLevel(
            level["name"],
            tuple(level["holds"]),
            amount(level["capacity_bytes"], values),
            word_bits=int(amount(level["row_bits"], values)),
            instances=int(amount(level["instances"], values)),
        )
    port = amount(level["bits_per_cycle"], values)
    if kind == "dram":
        row_bits, capacity, instances, holds = DRAM_BURST_BITS, math.inf, 1, "WIO"
        energy = silicon_costs()["dram_pj_per_bit"] * DRAM_BURST_BITS
    else:
        row_bits, capacity = int(amount(level["row_bits"], values)), amount(level["capacity_bytes"], values)
        instances, holds = int(amount(level.get("instances", 1), values)), level["holds"]
        energy = tech.sram_pj(capacity, row_bits)
    return MemoryLevel(
        level["name"],
        tuple(holds),
        capacity,
        port,
        port,
        energy,
        energy,
        word_bits=row_bits,
        instances=instances,
        shared_port=True,
    )


def _accelerator(
    template: Template,
    values: Mapping[str, Any],
    private: tuple[MemoryLevel, ...],
    shared: tuple[MemoryLevel, ...],
    tech: Technology,
    accounting: Accounting,
) -> Accelerator:
    document, rows, cols = template.document, values["rows"], values["cols"]
    axes = (Axis(a["level"], int(amount(a["size"], values)), tuple(a["dims"])) for a in document["axes"])
    tiled = (Tiling(t["level"], tuple(t["dims"]), tuple(map(tuple, t["orders"]))) for t in document["tiled"])
    engine = Engine(
        template.name,
        KINDS,
        rows,
        cols,
        dataflow="output-stationary" if "O" in private[0].holds else "weight-stationary",
        fill_cycles=int(amount(document["fill_cycles"], values)),
        fill_per="pass",
        fabric="logic",
        zeros=document.get("zeros", "compute"),
        patterns=tuple(document.get("patterns", ())),
        levels=private,
        mapspace=Mapspace(tuple(axes), tuple(tiled)),
    )
    logic, memory = tech.elements_um2(rows * cols), memories_um2((*private, *shared), tech)
    return Accelerator(
        name=f"{template.name}_{rows}x{cols}_{shared[0].capacity_bytes / 1024:g}KiB",
        engines=(engine,),
        levels=shared,
        clock_mhz=values["clock_mhz"],
        lanes=cols,
        energies=tech.energies(accounting),
        static_power_w=tech.leakage_w(logic, memory),
        resources=Resources(),
        area_mm2=(logic + memory) * 1e-6,
        accounting=accounting,
    )


def load_template(name_or_path: str) -> Template:
    """A built-in template by name, or one described by a JSON file.

    Raises: UnknownNameError with the nearest template; HardwareError naming the file and what is missing.
    """
    if Path(name_or_path).suffix == ".json":
        return _read(Path(name_or_path))
    if name_or_path not in TEMPLATES:
        raise UnknownNameError(f"unknown ASIC template {name_or_path!r}: {nearest(name_or_path, TEMPLATES)}")
    return _builtin(name_or_path)


@cache
def _builtin(name: str) -> Template:
    return _read(Path(__file__).parent / "templates" / f"{name}.json")


def _read(path: Path) -> Template:
    try:
        document = read(path, parse_json)
    except OSError as error:
        raise HardwareError(f"{path}: cannot be read ({error.strerror})") from error
    except DataError as error:
        raise HardwareError(f"{path} {error}") from None
    if not isinstance(document, dict) or document.get("format") != "cosearch.template" or document.get("version") != 1:
        raise HardwareError(f"{path}: expected format 'cosearch.template' and version 1")
    template = Template(str(document.get("name", path.stem)), document)
    try:
        template.check(template.choices, "element")
        template._built({}, "element")
    except CosearchError:
        raise
    except (KeyError, TypeError, IndexError, AttributeError, ArithmeticError, ValueError) as error:
        raise HardwareError(f"{path}: the template lacks or misnames something ({error!r})") from error
    return template


def build(
    template: str, parameters: Mapping[str, Any] | None = None, accounting: Accounting = "element"
) -> Accelerator:
    """One accelerator of a template.

    accounting: ``operator`` leaves the accumulators and operand registers of elements out of the energy of an
        operation, as many published figures do; area and leakage are those of whole elements in either.

    Raises: what `load_template` raises; ConfigError for a parameter that the template does not have.
    """
    return load_template(template).build(parameters or {}, accounting)


def space(
    template: str = "gemmini",
    *,
    choices: Mapping[str, Sequence[Any]] | None = None,
    accounting: Accounting = "element",
) -> "AsicSpace":
    """Accelerators of one template over a grid of its parameters.

    template: a name or a template file. choices: replaces some of the template's own. accounting: see `build`.

    A choice with which no accelerator can be built stops nothing: every layer is infeasible on that accelerator, and
    `AsicSpace.accelerator` says why.

    Raises: what `load_template` raises; ConfigError for a parameter that the template does not have, or an accounting
        that does not exist; HardwareError if no accelerator of the space can be built.
    """
    found = load_template(template)
    merged = {**found.choices, **{name: tuple(values) for name, values in (choices or {}).items()}}
    found.check(merged, accounting)
    made = AsicSpace(template, tuple(merged.items()), accounting)
    _ = made.first  # raises if there is none
    return made


@dataclass(frozen=True)
class AsicSpace:
    """See `space`. Its one engine kind runs multiply-accumulate, pooling and elementwise layers."""

    source: str
    choice_items: tuple[tuple[str, tuple[Any, ...]], ...]
    accounting: Accounting = "element"

    @cached_property
    def template(self) -> Template:
        return load_template(self.source)

    @property
    def name(self) -> str:
        """Name of the template."""
        return self.template.name

    @property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        return dict(self.choice_items)

    @property
    def kinds(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def serves(self) -> dict[str, tuple[str, ...]]:
        """The one array runs everything."""
        return {self.name: KINDS}

    @property
    def budget(self) -> Resources:
        """Silicon is limited by a constraint, not by a part."""
        return SILICON

    def __len__(self) -> int:
        return math.prod(len(values) for _, values in self.choice_items)

    def build(self, chosen: Mapping[str, Any]) -> Accelerator:
        """The accelerator of some choices.

        Raises: ConfigError or HardwareError that says why it cannot be built.
        """
        return self.template.build(chosen, self.accounting)

    def _entries(self) -> Iterator[Accelerator | HardwareError]:
        names = [name for name, _ in self.choice_items]
        for values in product(*(values for _, values in self.choice_items)):
            try:
                yield self.build(dict(zip(names, values, strict=True)))
            except (ConfigError, HardwareError) as error:
                yield HardwareError(str(error))

    @cached_property
    def entries(self) -> tuple[Accelerator | HardwareError, ...]:
        """Every accelerator, or why it cannot be built.

        Raises: ConfigError if there are more than can be listed; a search of them with networks need not list them.
        """
        if len(self) > MOST_ACCELERATORS:
            raise ConfigError(
                f"template {self.name!r:.80} offers {len(self):.3g} accelerators, "
                f"at most {MOST_ACCELERATORS:,} are priced"
            )
        return tuple(self._entries())

    @cached_property
    def accelerators(self) -> tuple[Accelerator, ...]:
        """Those that can be built."""
        return tuple(entry for entry in self.entries if isinstance(entry, Accelerator))

    @cached_property
    def first(self) -> Accelerator:
        """The first that can be built.

        Raises: HardwareError that says what is wrong with the last entry if there is none.
        """
        reason = f"template {self.name!r}: a parameter has no choices"
        for entry in islice(self._entries(), MOST_TRIED):
            if isinstance(entry, Accelerator):
                return entry
            reason = str(entry)
        raise HardwareError(reason)

    @cached_property
    def _built(self) -> list[int]:
        return [i for i, entry in enumerate(self.entries) if isinstance(entry, Accelerator)]

    def engines(self, kind: str) -> "EngineTable":
        from cosearch.hardware.nestfront import resident_bits
        from cosearch.hardware.tables import engine_table

        nothing = replace(self.first.engines[0], resources=Resources())
        engines, resident = [nothing] * len(self), [(-1, -1)] * len(self)
        for i, a in zip(self._built, self.accelerators, strict=True):
            engines[i] = replace(a.engines[0], resources=Resources(area_um2=round((a.area_mm2 or 0.0) * 1e6)))
            resident[i] = resident_bits(a)
        return engine_table(kind, engines, [math.inf] * len(engines), resident)

    @cached_property
    def shared(self) -> "SharedTable":
        from cosearch.hardware.single import nothing_shared

        return nothing_shared()

    @property
    def unit_costs(self) -> dict[str, UnitCost]:
        """What everything costs, each with its origin."""
        return read_costs("asic_45nm")

    @property
    def prices(self) -> "Prices":
        """Leakage differs between accelerators and is in their layers' energies already."""
        from cosearch.hardware.tables import Prices

        return Prices(self.first.energies, 0.0, silicon_costs()["dram_pj_per_bit"], 0.0)

    @cached_property
    def _fleet(self) -> "Fleet":
        from cosearch.hardware.nestfront import Fleet

        return Fleet(self.accelerators)

    def layer_costs(self, layer: Layer, policies: Sequence[float], residency: "Residency") -> "tuple[Floats, Floats]":
        """latency_ms and energy_mj, [policy, accelerator]; infinite on what cannot be built."""
        import numpy as np

        latency, energy = (np.full((len(policies), len(self)), math.inf) for _ in range(2))
        latency[:, self._built], energy[:, self._built] = self._fleet.costs(layer, policies, residency)
        return latency, energy

    def accelerator(self, shared: int, engines: Mapping[str, int]) -> Accelerator:
        """Raises: HardwareError that says why it cannot be built."""
        entry = self.entries[engines[self.name]]
        if isinstance(entry, HardwareError):
            raise entry
        return entry

    def describe(self) -> dict[str, Any]:
        """What decides every cost in this space, as JSON."""
        return {
            "space": "asic",
            "template": dict(self.template.document),
            "choices": {name: list(values) for name, values in self.choice_items},
            "costs": silicon_costs(),
            "accounting": self.accounting,
            "kinds": list(KINDS),
        }
