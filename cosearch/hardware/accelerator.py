"""What an accelerator is: memory levels, engines, resources, and their JSON form.

This module imports neither torch nor numpy.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from numbers import Real
from typing import Any, Literal

from cosearch.errors import HardwareError
from cosearch.hardware.closedform import ClosedForm, form_from_json
from cosearch.hardware.resources import Resources, check_name
from cosearch.hardware.sparsity import ZEROS, seen, time_share
from cosearch.notebook import html_table
from cosearch.reading import parse_json
from cosearch.workload import KINDS, SPARSITIES, Layer

Tensor = Literal["W", "I", "O"]
Dataflow = Literal["weight-stationary", "output-stationary"]
Accounting = Literal["element", "operator"]
Fabric = Literal["hard", "logic"]
FillPer = Literal["tile", "pass"]

TENSORS: tuple[str, ...] = ("W", "I", "O")
READ, WRITE = 0, 1
Zeros = Literal["compute", "store", "skip"]
DATAFLOWS: tuple[str, ...] = ("weight-stationary", "output-stationary")
FABRICS: tuple[str, ...] = ("hard", "logic")
ACCOUNTINGS: tuple[str, ...] = ("element", "operator")


MOST_MHZ = 100_000
"""A faster clock is one given in another unit."""


def _is_number(value: Any) -> bool:
    """A plain number; text with a unit is not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    """A whole number from 1 on, of any type."""
    return _is_number(value) and 1 <= value < math.inf and value == int(value)


def _check_counts(of: str, thing: Any, keys: tuple[str, ...]) -> None:
    for key in keys:
        if not _is_count(getattr(thing, key)):
            raise HardwareError(f"{of}: {key}={getattr(thing, key)!r}, expected a whole number, at least 1")


def _check_costs(of: str, thing: Any, keys: tuple[str, ...]) -> None:
    for key in keys:
        value = getattr(thing, key)
        if not (_is_number(value) and 0 <= value < math.inf):
            raise HardwareError(f"{of}: {key}={value!r}, expected a finite number, 0 or more")


BITSERIAL_LANES = 32
"""Lanes of a bit-serial element."""
BITSERIAL_BITS = 8
"""The widest operands that a bit-serial element takes."""


@dataclass(frozen=True)
class MemoryLevel:
    """One level of a memory hierarchy.

    holds: the tensors kept here; a tensor that is not kept passes by.
    capacity_bytes: of one instance; infinite for DRAM.
    read_bits_per_cycle, write_bits_per_cycle: of one instance's ports; infinite if it never limits.
    read_energy_pj, write_energy_pj: of one access of one row of `word_bits` bits.
    instances: copies that work side by side, each holding its own part of the tile of the level above.
    double_buffered: half of the capacity holds the tile in use, half the next one.
    keeps: a tile that the next iteration needs again stays; without it every iteration of any loop above moves it, but
        for what stays of an input tile that `slides` along the innermost loop of the level right above.
    shared_port: one port of `read_bits_per_cycle` serves reads and writes.
    aligned: every transfer of a tile starts a new row and takes whole cycles of a port; otherwise tiles lie packed.
    slides: where one input tile overlaps the next, only what is new enters; otherwise whole tiles do.
    returns: partial sums come back down to be added to: a tile that comes back is read from the level above and written
        here, and arithmetic reads its sum for every addition, the first too. Otherwise a tile's every visit starts from
        zero and is added to what lies above.
    """

    name: str
    holds: tuple[str, ...] = TENSORS
    capacity_bytes: float = math.inf
    read_bits_per_cycle: float = math.inf
    write_bits_per_cycle: float = math.inf
    read_energy_pj: float = 0.0
    write_energy_pj: float = 0.0
    word_bits: int = 8
    instances: int = 1
    double_buffered: bool = False
    shared_port: bool = False
    keeps: bool = True
    aligned: bool = False
    slides: bool = True
    returns: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "holds", tuple(self.holds))
        if not self.holds or not set(self.holds) <= set(TENSORS):
            raise HardwareError(f"memory level {self.name!r}: holds={self.holds!r}, expected some of {TENSORS}")
        for key in ("capacity_bytes", "read_bits_per_cycle", "write_bits_per_cycle"):
            value = getattr(self, key)
            if not (_is_number(value) and value > 0):
                raise HardwareError(f"memory level {self.name!r}: {key}={value!r}, expected a number above 0")
        _check_counts(f"memory level {self.name!r}", self, ("word_bits", "instances"))
        _check_costs(f"memory level {self.name!r}", self, ("read_energy_pj", "write_energy_pj"))


@dataclass(frozen=True)
class Axis:
    """One axis of an array: spatial loops at `level`, over some of `dims`, at most `size` together."""

    level: str
    size: int
    dims: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", tuple(self.dims))
        _check_counts(f"axis of level {self.level!r}", self, ("size",))


@dataclass(frozen=True)
class Tiling:
    """A level whose loops are searched: even tilings of `dims`, in each of `orders` (innermost dimension first)."""

    level: str
    dims: tuple[str, ...]
    orders: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", tuple(self.dims))
        object.__setattr__(self, "orders", tuple(tuple(order) for order in self.orders))
        for order in self.orders:
            if set(order) != set(self.dims):
                raise HardwareError(f"level {self.level!r}: loop order {''.join(order)} is not one of {self.dims}")


@dataclass(frozen=True)
class Mapspace:
    """The mappings that a template allows: see `cosearch.hardware.nest`."""

    axes: tuple[Axis, ...]
    tiled: tuple[Tiling, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", tuple(self.axes))
        object.__setattr__(self, "tiled", tuple(self.tiled))

    @property
    def level_names(self) -> tuple[str, ...]:
        return tuple(axis.level for axis in self.axes) + tuple(tiling.level for tiling in self.tiled)


@dataclass(frozen=True)
class UnitEnergies:
    """Energies of arithmetic in pJ, at 8-bit operands and a 24-bit accumulator.

    multiply_pj, shift_pj, add_pj: the bare operators; logic_multiply_pj: a multiplier built from logic.
    accumulate_pj, registers_pj: what an element adds to each operation; 0 under the accounting ``operator``.
    requantise_pj: scaling one accumulator to an output value.
    """

    multiply_pj: float
    shift_pj: float
    add_pj: float
    logic_multiply_pj: float = 0.0
    accumulate_pj: float = 0.0
    registers_pj: float = 0.0
    requantise_pj: float = 0.0

    def __post_init__(self) -> None:
        _check_costs("unit energies", self, tuple(f.name for f in fields(self)))

    def operation_pj(self, layer: Layer, fabric: str = "hard") -> float:
        """One operation of the layer on a fabric, its operand widths b_w and b_i counted.

        Operator: multiply ``b_w b_i / 64``, shift ``b_i / 8``, L1 response two additions (difference, sign) of
        ``max(b_w, b_i) / 8``, pool and elementwise one addition of ``b_i / 8``. Element: plus the accumulator, plus
        registers of ``(b_w + b_i + 24) / 40``. Bit-serial: a logic multiply, and accumulator and registers ``b_w b_i``
        times, shared by 32 lanes. Zero weights of a layer as an engine sees it (`cosearch.hardware.sparsity`) cost
        nothing.
        """
        return self._operator_pj(layer, fabric) * (layer.density if layer.has_weights else 1.0)

    def _operator_pj(self, layer: Layer, fabric: str) -> float:
        weight, value = layer.weight_bits, layer.input_bits
        if layer.kind in ("pool", "elementwise"):
            weight = 0
            operator = self.add_pj * value / 8
        elif layer.kind == "bitserial":
            per_lane = (self.accumulate_pj + self.registers_pj) / BITSERIAL_LANES
            return weight * value * (self.logic_multiply_pj / 64 + per_lane)
        elif layer.kind == "shift":
            operator = self.shift_pj * value / 8
        elif layer.kind == "add":
            operator = 2 * self.add_pj * max(weight, value) / 8
        else:
            multiply = self.multiply_pj if fabric == "hard" else self.logic_multiply_pj
            operator = multiply * weight * value / 64
        return operator + self.accumulate_pj + self.registers_pj * (weight + value + 24) / 40


def _operation_cycles(layer: Layer) -> int:
    return layer.weight_bits * layer.input_bits if layer.kind == "bitserial" else 1


@dataclass(frozen=True)
class Engine:
    """One compute array: rows x cols elements of one or more arithmetic kinds.

    dataflow: what stays in the elements' registers (see `cosearch.hardware.array`).
    fill_cycles: filling and draining the array, once per iteration of the DRAM loops (`fill_per` tile) or per exchange
        of what the innermost level holds (pass).
    mapspace: the mappings to search; None for the array template of `cosearch.hardware.array`.
    zeros, patterns: what becomes of zero weights that lie in one of some patterns: see `cosearch.hardware.sparsity`.
    form: prices layers in closed form instead; such an engine has no mappings.
    accumulator_depth: partial sums kept beside each column (weight-stationary only).
    windowed: columns keep a window of input pixels, from which a depthwise layer's kernel is unrolled over the rows.
    lanes: bit products that a bit-serial element adds per cycle; an operation takes ``b_w b_i`` cycles there.
    packing, packing_bits: products that an element makes at once of operands no wider than packing_bits, with one
        operand in common: of such layers the array unrolls packing times the columns.
    fabric: ``hard`` multiplies in hard blocks, ``logic`` in look-up tables or standard cells.
    levels: memories private to the engine, innermost first.
    fill_and_drain: latency counts the way in of the first tiles and the way out of the last one, which no double
        buffer hides. Off for networks: their layers follow one another, and a layer's first tiles arrive while the
        layer before computes.
    """

    name: str
    kinds: tuple[str, ...]
    rows: int
    cols: int
    dataflow: Dataflow = "weight-stationary"
    accumulator_depth: int = 0
    fill_cycles: int = 0
    windowed: bool = False
    lanes: int = 1
    fabric: Fabric = "hard"
    fill_per: FillPer = "tile"
    levels: tuple[MemoryLevel, ...] = ()
    resources: Resources = field(default_factory=Resources)
    mapspace: Mapspace | None = None
    packing: int = 1
    packing_bits: int = 0
    zeros: Zeros = "compute"
    patterns: tuple[str, ...] = ()
    form: ClosedForm | None = None
    fill_and_drain: bool = False

    def columns(self, layer: Layer) -> int:
        """Columns that the layer may unroll: more of them where several products fit one element."""
        return self.cols * (self.packing if max(layer.weight_bits, layer.input_bits) <= self.packing_bits else 1)

    def seen(self, layer: Layer) -> Layer:
        """The layer as this engine runs it."""
        return seen(layer, self.zeros, self.patterns)

    def cycles_per_operation(self, layer: Layer) -> float:
        """1, or ``b_w b_i`` where the operands arrive bit by bit; less where zero weights are skipped.

        layer: as the engine sees it.
        """
        return _operation_cycles(layer) * time_share(layer, self.zeros)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", tuple(self.kinds))
        object.__setattr__(self, "patterns", tuple(self.patterns))
        object.__setattr__(self, "levels", tuple(self.levels))
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise HardwareError(f"engine {self.name!r}: kinds={self.kinds!r}, expected some of {KINDS}")
        _check_counts(f"engine {self.name!r}", self, ("rows", "cols", "lanes", "packing"))
        for key, known in (("dataflow", DATAFLOWS), ("fabric", FABRICS), ("zeros", ZEROS)):
            if getattr(self, key) not in known:
                raise HardwareError(f"engine {self.name!r}: {key}={getattr(self, key)!r}, expected one of {known}")
        if not set(self.patterns) <= set(SPARSITIES):
            raise HardwareError(f"engine {self.name!r}: patterns={self.patterns!r}, expected some of {SPARSITIES}")
        if self.windowed and self.dataflow != "weight-stationary":
            raise HardwareError(f"engine {self.name!r}: only a weight-stationary engine can be windowed")


@dataclass(frozen=True)
class Accelerator:
    """Engines side by side over shared memories.

    levels: shared memories, innermost first; the last one is DRAM (infinite capacity).
    lanes: operations of the vector unit per cycle: one per sum of an elementwise layer and per requantised output, R S
        per output of R x S pooling.
    splits: shares of the memories that the mac engine may have while the bitserial engine runs the rest of a layer;
        none where every layer runs on one engine (`cosearch.hardware.split`).
    area_mm2: None when unknown.
    """

    name: str
    engines: tuple[Engine, ...]
    levels: tuple[MemoryLevel, ...]
    clock_mhz: float
    lanes: int = 1
    energies: UnitEnergies = field(default_factory=lambda: UnitEnergies(0.0, 0.0, 0.0))
    static_power_w: float = 0.0
    resources: Resources = field(default_factory=Resources)
    area_mm2: float | None = None
    part: str = ""
    accounting: Accounting = "element"
    splits: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "engines", tuple(self.engines))
        object.__setattr__(self, "splits", tuple(self.splits))
        object.__setattr__(self, "levels", tuple(self.levels))
        check_name("accelerator", self.name)
        if not (_is_number(self.clock_mhz) and 0 < self.clock_mhz <= MOST_MHZ):
            raise HardwareError(
                f"accelerator {self.name!r}: clock_mhz={self.clock_mhz!r}, expected a number of MHz above 0 "
                f"and at most {MOST_MHZ:,}"
            )
        _check_counts(f"accelerator {self.name!r}", self, ("lanes",))
        _check_costs(f"accelerator {self.name!r}", self, ("static_power_w",))
        if not self.levels or not math.isinf(self.levels[-1].capacity_bytes):
            outermost = self.levels[-1] if self.levels else None
            found = f"{outermost.name!r} has {outermost.capacity_bytes:g} bytes" if outermost else "is missing"
            raise HardwareError(
                f"accelerator {self.name!r}: the outermost memory level {found}, it must have infinite capacity (DRAM)"
            )
        if set(self.levels[-1].holds) != set(TENSORS):
            raise HardwareError(f"accelerator {self.name!r}: level {self.levels[-1].name!r} must hold W, I and O")
        for engine in self.engines:
            names = [level.name for level in (*engine.levels, *self.levels)]
            if len(set(names)) != len(names):
                raise HardwareError(f"accelerator {self.name!r}: engine {engine.name!r} has levels {names}, two alike")
            for name in () if engine.mapspace is None else engine.mapspace.level_names:
                if name not in names:
                    raise HardwareError(
                        f"accelerator {self.name!r}: the mapspace of engine {engine.name!r} names level {name!r}, "
                        f"its levels are {', '.join(names)}"
                    )

    def _repr_html_(self) -> str:
        engines = [
            (e.name, ", ".join(e.kinds), f"{e.rows} x {e.cols}", e.dataflow, ", ".join(x.name for x in e.levels))
            for e in self.engines
        ]
        shared = ", ".join(level.name for level in self.levels)
        title = f"{self.name}, {self.clock_mhz:g} MHz, shared memories: {shared}"
        return html_table(title, ("engine", "arithmetic", "elements", "dataflow", "own memories"), engines)

    def engine_for(self, kind: str) -> Engine | None:
        return next((engine for engine in self.engines if kind in engine.kinds), None)

    def level(self, name: str) -> MemoryLevel:
        for level in self.levels:
            if level.name == name:
                return level
        known = ", ".join(level.name for level in self.levels)
        raise HardwareError(f"accelerator {self.name!r} has no level {name!r}, only {known}")

    def to_json(self) -> dict[str, Any]:
        data = _encode(asdict(self))
        for engine, encoded in zip(self.engines, data["engines"], strict=True):
            if engine.form is not None:
                encoded["form"] = {"name": engine.form.name, **encoded["form"]}
        return {"format": "cosearch.accelerator", "version": 1, **data}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str) -> "Accelerator":
        """Raises: HardwareError if the document is not an accelerator of a version that this code reads."""
        try:
            document = dict(parse_json(data) if isinstance(data, str) else data)
        except (TypeError, ValueError) as error:
            raise HardwareError(f"expected a JSON object that describes an accelerator: {error}") from error
        if document.pop("format", None) != "cosearch.accelerator" or document.pop("version", None) != 1:
            raise HardwareError("expected a JSON object with format 'cosearch.accelerator' and version 1")
        try:
            engines = tuple(_engine(engine) for engine in document.pop("engines"))
            levels = tuple(MemoryLevel(**_decode(level)) for level in document.pop("levels"))
            resources = Resources(**document.pop("resources"))
            energies = UnitEnergies(**document.pop("energies"))
            return cls(engines=engines, levels=levels, resources=resources, energies=energies, **_decode(document))
        except (KeyError, TypeError) as error:
            raise HardwareError(f"accelerator document is incomplete or has an unknown field: {error}") from error


class _Through(MemoryLevel):
    """Loops between memories: nothing is held there."""

    def __post_init__(self) -> None:
        assert not self.holds


def in_rows(levels: Sequence[MemoryLevel], level_of: Sequence[int]) -> tuple[MemoryLevel, ...]:
    """A hierarchy whose levels may be several rows of loops (`mapping.parted`): all but the last one hold nothing."""
    return tuple(
        levels[i] if i != above else _Through(levels[i].name, (), instances=levels[i].instances)
        for i, above in zip(level_of, (*level_of[1:], len(levels)), strict=True)
    )


def fan_out(levels: Sequence[MemoryLevel], i: int) -> float:
    """How many instances of the level below one instance of level i serves, 1 or more; no limit on the innermost."""
    return math.inf if i == 0 else max(levels[i - 1].instances / levels[i].instances, 1.0)


def room_bits(level: MemoryLevel) -> float:
    """Bits that tiles may take in one instance."""
    return level.capacity_bytes * 8 / (2 if level.double_buffered else 1)


def port_width(level: MemoryLevel, way: int) -> float:
    """Bits per cycle of the port that reads, or that writes."""
    return level.write_bits_per_cycle if way == WRITE and not level.shared_port else level.read_bits_per_cycle


def hierarchy(accelerator: Accelerator, engine: Engine) -> tuple[MemoryLevel, ...]:
    """The memories that a layer on this engine passes, innermost first."""
    return (*engine.levels, *accelerator.levels)


def refusal(layer: Layer) -> str:
    """Why no engine of a layer's kind runs it, whatever its size; empty if one may."""
    if layer.kind != "bitserial" or max(layer.weight_bits, layer.input_bits) <= BITSERIAL_BITS:
        return ""
    return (
        f"layer {layer.name!r}: bit-serial elements take operands of 1 to {BITSERIAL_BITS} bits, it has "
        f"{layer.weight_bits}-bit weights and {layer.input_bits}-bit inputs"
    )


def engine_of(layer: Layer, accelerator: Accelerator) -> Engine:
    """Raises: HardwareError naming the layer, and the kinds that the accelerator has or why the engine refuses it."""
    engine = accelerator.engine_for(layer.kind)
    if engine is None:
        kinds = sorted({kind for e in accelerator.engines for kind in e.kinds})
        beside = "" if layer.has_weights else "; its vector unit, which has no mappings, runs it: see layer_report"
        raise HardwareError(
            f"layer {layer.name!r}: accelerator {accelerator.name!r} has no engine for kind {layer.kind!r}, "
            f"only for {', '.join(kinds)}{beside}"
        )
    if refusal(layer):
        raise HardwareError(refusal(layer))
    return engine


def _engine(data: Mapping[str, Any]) -> Engine:
    space = data.get("mapspace")
    if space is not None:
        space = Mapspace(tuple(Axis(**a) for a in space["axes"]), tuple(Tiling(**t) for t in space["tiled"]))
    form = data.get("form")
    if form is not None:
        form = form_from_json(form)
    levels = tuple(MemoryLevel(**_decode(level)) for level in data["levels"])
    return Engine(
        **{**data, "form": form, "levels": levels, "resources": Resources(**data["resources"]), "mapspace": space}
    )


def _encode(value: Any) -> Any:
    """JSON has no infinity and no NaN: they are written as strings."""
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _decode(level: Mapping[str, Any]) -> dict[str, Any]:
    return {key: float(item) if item in ("inf", "nan") else item for key, item in level.items()}
