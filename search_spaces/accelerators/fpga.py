"""FPGA accelerators: a MAC array on DSP blocks, a shift array and an L1 array on LUTs, side by side on one part.

Every accelerator has an engine per arithmetic kind that its network uses, a weight buffer and an activation buffer in
block RAM that the engines share, a vector unit (pooling, elementwise sums, requantisation) and one clock.

Each lane of the vector unit does one operation a cycle, R S of them for an output of R x S pooling, and takes an 8-bit
value a cycle from a buffer: no accelerator has more lanes than its ports feed, unless no fewer are offered.
"""

import math
import reprlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from cosearch.errors import ConfigError, nearest
from cosearch.hardware.accelerator import (
    ACCOUNTINGS,
    BITSERIAL_LANES,
    DATAFLOWS,
    FABRICS,
    Accelerator,
    Accounting,
    Engine,
    MemoryLevel,
    UnitEnergies,
    Zeros,
)
from cosearch.hardware.parts import Part, UnitCost, load_device
from cosearch.hardware.resources import RESOURCES, Resources
from cosearch.hardware.sparsity import ZEROS

if TYPE_CHECKING:
    from cosearch.hardware.tables import EngineTable, Prices, SharedTable

_brief = reprlib.Repr()
KINDS: tuple[str, ...] = ("mac", "shift", "add")
ENGINE_KINDS: tuple[str, ...] = (*KINDS, "bitserial")
CHOICES: dict[str, tuple[Any, ...]] = {
    "rows": (2, 4, 8, 12, 16, 24, 32),
    "cols": (4, 8, 12, 16, 24, 32, 48),
    "dataflow": DATAFLOWS,
    "windowed": (False, True),
    "fabric": FABRICS,
    "accumulator_depth": (512,),
    "zeros": ("compute",),
    "packed": (False,),
    "weight_kib": (36, 72, 144, 288),
    "activation_kib": (18, 36, 72),
    "port_bits": (64, 128, 256, 512),
    "clock_mhz": (75.0, 100.0, 125.0, 150.0),
    "lanes": (8, 32, 64),
    "weight_memory": ("bram",),
    "activation_memory": ("bram",),
}
MEMORIES: tuple[str, ...] = ("bram", "uram")
_OPTIONS: dict[str, tuple[str, ...]] = {
    "dataflow": DATAFLOWS,
    "fabric": FABRICS,
    "zeros": ZEROS,
    "weight_memory": MEMORIES,
    "activation_memory": MEMORIES,
}
_SWITCHES = ("windowed", "packed")
_NUMBERS: dict[str, tuple[Any, float, int]] = {
    "rows": (Integral, 1, 2**12),
    "cols": (Integral, 1, 2**12),
    "accumulator_depth": (Integral, 1, 2**20),
    "weight_kib": (Real, 0.001, 2**20),
    "activation_kib": (Real, 0.001, 2**20),
    "port_bits": (Integral, 1, 2**16),
    "clock_mhz": (Real, 0.001, 10**5),
    "lanes": (Integral, 1, 2**12),
}
"""Type, least and largest value of the choices that are numbers."""
LEAST_DRAM_RATE = 1e-6
"""Gbit/s."""
PATTERNS: tuple[str, ...] = ("unstructured", "block", "pattern")
"""Patterns of zero weights that an engine with index decoders makes use of."""
LANE_BITS = 8
"""What a lane of the vector unit takes from a buffer in a cycle."""
ACCUMULATOR_BITS = 32
"""Row width of the accumulator memory; partial sums of up to this width."""


def space(
    part: str | Part = "ecp5-85f",
    *,
    choices: Mapping[str, Sequence[Any]] | None = None,
    accounting: Accounting = "element",
    scale_modelled: Mapping[str, float] | None = None,
    kinds: Sequence[str] = KINDS,
) -> "FpgaSpace":
    """The accelerators that fit one part.

    part: a built-in part, a part file, or a `Part`. choices: replaces some of `CHOICES` and of the part's own.
    accounting: ``element`` charges each operation and element with its accumulator and operand registers;
        ``operator`` only the multiplier, shifter or adder, as many published shift/add figures do.
    scale_modelled: factors on unit costs of the part, by name. kinds: arithmetic kinds that may have an engine, of mac,
        shift, add and bitserial (LUT dot products whose operands arrive bit by bit).

    Raises: ConfigError for a choice, a value of one or an accounting that cannot be; what `load_device` raises.
    """
    device = load_device(part) if isinstance(part, str) else part
    given = {**dict(device.choices), **(choices or {})}
    for name in given:
        if name not in CHOICES:
            raise ConfigError(f"the fpga space has no choice {name!r}: {nearest(name, CHOICES)}")
    if accounting not in ACCOUNTINGS:
        raise ConfigError(f"accounting={accounting!r}, expected one of {', '.join(ACCOUNTINGS)}")
    merged = {name: tuple(given.get(name, values)) for name, values in CHOICES.items()}
    for kind in kinds:
        if kind not in ENGINE_KINDS:
            raise ConfigError(f"the fpga space has no engine for kind {kind!r}: {nearest(kind, ENGINE_KINDS)}")
    for name, values in merged.items():
        _check_choice(f"part {device.name!r}: choice {name}", name, values)
    _check_divisors(device, {*merged["weight_memory"], *merged["activation_memory"], "bram"})
    return FpgaSpace(device.scaled(scale_modelled or {}), tuple(merged.items()), accounting, tuple(kinds))


def _check_choice(place: str, name: str, values: tuple[Any, ...]) -> None:
    """Raises: ConfigError naming the place."""
    if not values:
        raise ConfigError(f"{place}=[], expected at least one value")
    if name == "zeros" and len(values) != 1:
        raise ConfigError(f"{place}={_brief.repr(values)}, expected one of {', '.join(ZEROS)}")
    for value in values:
        if name in _OPTIONS:
            good, expected = value in _OPTIONS[name], f"one of {', '.join(_OPTIONS[name])}"
        elif name in _SWITCHES:
            good, expected = isinstance(value, bool), "true or false"
        else:
            kind, least, most = _NUMBERS[name]
            good = isinstance(value, kind) and not isinstance(value, bool) and least <= value <= most
            expected = f"a {'whole ' if kind is Integral else ''}number from {least} to {most}"
        if not good:
            raise ConfigError(f"{place}={_brief.repr(value)}, expected {expected}")


def _check_divisors(part: Part, memories: Collection[str]) -> None:
    """Costs by which something is divided. Raises: ConfigError; HardwareError where the part gives none."""
    sizes = [f"{memory}_{what}" for memory in sorted(memories) for what in ("bits", "width_bits")]
    for name, least in (*((size, 1.0) for size in sizes), ("dram_gbit_per_s", LEAST_DRAM_RATE)):
        if part.cost(name) < least:
            raise ConfigError(f"part {part.name!r}: cost {name!r} is {part.cost(name):g}, expected at least {least:g}")


def element_name(kind: str, fabric: str) -> str:
    """Name of an element among a part's unit costs: ``mac`` multiplies in a DSP block, ``mac_logic`` in LUTs."""
    return "mac_logic" if kind == "mac" and fabric == "logic" else kind


def _short(engine: Engine) -> str:
    letters = engine.dataflow[0] + ("d" if engine.windowed else "") + ("l" if engine.fabric == "logic" else "")
    letters += "p" if engine.packing > 1 else ""
    return f"{engine.name}{engine.rows}x{engine.cols}{letters if engine.name == 'mac' else letters.replace('l', '')}"


@dataclass(frozen=True)
class FpgaSpace:
    """See `space`. Engines and shared configurations are addressed by their index in `engines` and `shared`."""

    part: Part
    choice_items: tuple[tuple[str, tuple[Any, ...]], ...]
    accounting: Accounting = "element"
    kinds: tuple[str, ...] = field(default=KINDS)

    @property
    def name(self) -> str:
        """Name of the part."""
        return self.part.name

    @property
    def serves(self) -> dict[str, tuple[str, ...]]:
        """Each engine runs the layers of its kind."""
        return {kind: (kind,) for kind in self.kinds}

    @property
    def budget(self) -> Resources:
        return self.part.budget

    @property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        return dict(self.choice_items)

    @property
    def modelled(self) -> tuple[str, ...]:
        """Names of the unit costs that are modelled, neither measured nor published for the part."""
        return self.part.modelled()

    @property
    def unit_costs(self) -> dict[str, UnitCost]:
        """What everything costs on the part, each with its origin."""
        return dict(self.part.costs)

    def scaled(self, factors: Mapping[str, float]) -> "FpgaSpace":
        """The same space with some unit costs of its part multiplied by a factor."""
        return replace(self, part=self.part.scaled(factors))

    def reprice(self, accelerator: Accelerator) -> Accelerator:
        """An accelerator of this part at this space's unit energies, static power and DRAM rate."""
        per_bit = {"dram": self.cost("dram_pj_per_bit")}
        rate = self.cost("dram_gbit_per_s") * 1e3 / accelerator.clock_mhz
        levels = []
        for level in accelerator.levels:
            energy = per_bit.get(level.name, self.cost("bram_pj_per_bit"))
            level = replace(level, read_energy_pj=energy, write_energy_pj=energy)
            if level.name == "dram":
                level = replace(level, read_bits_per_cycle=rate, write_bits_per_cycle=rate)
            levels.append(level)
        return replace(
            accelerator,
            levels=tuple(levels),
            energies=self.energies,
            static_power_w=self.cost("static_power_w"),
            accounting=self.accounting,
        )

    def describe(self) -> dict[str, Any]:
        """What decides every cost in this space, as JSON."""
        return {
            "space": "fpga",
            "part": self.part.name,
            "budget": dict(zip(Resources.__dataclass_fields__, self.budget.counts, strict=True)),
            "costs": {name: cost.value for name, cost in self.part.costs},
            "choices": {name: list(values) for name, values in self.choice_items},
            "accounting": self.accounting,
            "kinds": list(self.kinds),
        }

    def __len__(self) -> int:
        """Accelerators within the budget that have one engine of every kind."""
        from cosearch.hardware.tables import count_within

        return count_within(self)

    def cost(self, name: str) -> float:
        return self.part.cost(name)

    @cached_property
    def engine_lists(self) -> dict[str, tuple[Engine, ...]]:
        """Per kind the engines that fit the part alone and reach the lowest clock."""
        return {kind: tuple(self._engines(kind)) for kind in self.kinds}

    def _engines(self, kind: str) -> list[Engine]:
        choices = self.choices
        names = ("rows", "cols", "dataflow", "windowed", "fabric", "accumulator_depth", "packed")
        zeros = self.zeros
        engines = []
        for combo in product(*(choices[name] for name in names)):
            rows, cols, dataflow, windowed, fabric, depth, packed = combo
            if packed and (kind != "mac" or fabric == "logic") and len(choices["packed"]) > 1:
                continue
            packing = int(self.cost("pack.products")) if packed and kind == "mac" and fabric == "hard" else 1
            if kind != "mac" and fabric == "hard":
                continue
            if kind == "bitserial" and (windowed or dataflow == "output-stationary"):
                continue
            if dataflow == "output-stationary":
                if windowed or depth != choices["accumulator_depth"][0]:
                    continue
                depth = 0
            element = element_name(kind, fabric)
            resources = self.engine_resources(element, rows, cols, depth, windowed, packing)
            resources = resources + self._index_resources(rows, cols)
            slow = self.fmax_mhz(element, rows, cols) < min(choices["clock_mhz"])
            if (resources + self._base()).fits(self.budget) and not slow:
                lanes = BITSERIAL_LANES if kind == "bitserial" else 1
                levels = self._private_levels(rows * lanes, cols * packing, depth, windowed)
                engines.append(
                    Engine(
                        kind,
                        (kind,),
                        rows,
                        cols,
                        dataflow,
                        accumulator_depth=depth,
                        fill_cycles=rows + cols - 2,
                        windowed=windowed,
                        lanes=lanes,
                        fabric=fabric,
                        packing=packing,
                        packing_bits=int(self.cost("pack.bits")) if packing > 1 else 0,
                        zeros=zeros,
                        patterns=PATTERNS if zeros != "compute" else (),
                        levels=levels,
                        resources=resources,
                    )
                )
        return engines

    def engine_resources(
        self, element: str, rows: int, cols: int, accumulator_depth: int, windowed: bool = False, packing: int = 1
    ) -> Resources:
        """Elements, operand distribution per row and column, control, and a block-RAM accumulator per column.

        A windowed engine adds a pixel register and a selector to each element, packing what each further product of an
        element needs besides the block, and a column's lines and accumulators for it.
        """
        elements = rows * cols
        lut, ff = self.cost(f"{element}.lut"), self.cost(f"{element}.ff")
        if self.accounting == "operator":
            lut = max(0.0, lut - self.cost("accumulate.lut"))
            ff = max(0.0, ff - self.cost("accumulate.ff"))
        if windowed:
            lut, ff = lut + self.cost("window.lut"), ff + self.cost("window.ff")
        if packing > 1:
            lut, ff = (
                lut + (packing - 1) * self.cost("pack.lut"),
                ff + (packing - 1) * self.cost("pack.ff"),
            )
        lines = rows + cols * packing
        per_column = 0
        if accumulator_depth:
            bits, width = accumulator_depth * ACCUMULATOR_BITS, ACCUMULATOR_BITS
            per_column = max(math.ceil(bits / self.cost("bram_bits")), math.ceil(width / self.cost("bram_width_bits")))
        return Resources(
            lut=math.ceil(elements * lut + lines * self.cost("line.lut") + self.cost("engine.lut")),
            ff=math.ceil(elements * ff + lines * self.cost("line.ff") + self.cost("engine.ff")),
            dsp=math.ceil(elements * self.cost(f"{element}.dsp")),
            bram=cols * packing * per_column,
        )

    @property
    def zeros(self) -> Zeros:
        """What all engines of the space do with zero weights."""
        [zeros] = self.choices["zeros"]
        return zeros

    def _index_resources(self, rows: int, cols: int) -> Resources:
        """Index decoders, one per row; where zeros are skipped, an input selector in each element as well."""
        if self.zeros == "compute":
            return Resources()
        selectors = rows * cols * (self.zeros == "skip")
        return Resources(
            lut=math.ceil(rows * self.cost("index.lut") + selectors * self.cost("window.lut")),
            ff=math.ceil(rows * self.cost("index.ff") + selectors * self.cost("window.ff")),
        )

    def fmax_mhz(self, element: str, rows: int, cols: int) -> float:
        """An element's Fmax, less the loss measured on an 8x8 array per six doublings of the element count."""
        loss = self.cost("fmax_loss_8x8") * math.log2(rows * cols) / 6
        return self.cost(f"{element}.fmax_mhz") * (1 - loss)

    def _base(self) -> Resources:
        return Resources(
            lut=math.ceil(self.cost("base.lut")),
            ff=math.ceil(self.cost("base.ff")),
            bram=math.ceil(self.cost("base.bram")),
        )

    def shared_resources(
        self,
        weight_kib: float,
        activation_kib: float,
        port_bits: float,
        lanes: int,
        memories: Sequence[str] = ("bram", "bram"),
    ) -> Resources:
        """Base system, vector lanes, and buffers of enough blocks for their capacity and for their ports.

        memories: what the weight and the activation buffer are made of.
        """
        blocks = dict.fromkeys(MEMORIES, 0)
        for kib, memory in zip((weight_kib, activation_kib), memories, strict=True):
            size, width = self.cost(f"{memory}_bits"), self.cost(f"{memory}_width_bits")
            blocks[memory] += max(math.ceil(kib * 8192 / size), math.ceil(port_bits / width))
        lane = Resources(
            lut=math.ceil(lanes * self.cost("lane.lut")),
            ff=math.ceil(lanes * self.cost("lane.ff")),
            dsp=math.ceil(lanes * self.cost("lane.dsp")),
            **blocks,
        )
        return self._base() + lane

    @cached_property
    def shared_list(self) -> tuple[dict[str, Any], ...]:
        """The shared configurations that fit the part alone, with no more lanes than their ports feed."""
        names = (
            "weight_kib",
            "activation_kib",
            "port_bits",
            "clock_mhz",
            "lanes",
            "weight_memory",
            "activation_memory",
        )
        combos = [dict(zip(names, values, strict=True)) for values in product(*(self.choices[n] for n in names))]
        fewest = min(self.choices["lanes"])
        fed = (c for c in combos if c["lanes"] == fewest or c["lanes"] * LANE_BITS <= c["port_bits"])
        return tuple(c for c in fed if self._shared_resources(c).fits(self.budget))

    def _shared_resources(self, combo: Mapping[str, Any]) -> Resources:
        memories = (combo["weight_memory"], combo["activation_memory"])
        return self.shared_resources(
            combo["weight_kib"], combo["activation_kib"], combo["port_bits"], combo["lanes"], memories
        )

    def engines(self, kind: str) -> "EngineTable":
        from cosearch.hardware.tables import engine_table

        engines = self.engine_lists[kind]
        return engine_table(
            kind, engines, [self.fmax_mhz(element_name(kind, e.fabric), e.rows, e.cols) for e in engines]
        )

    @cached_property
    def shared(self) -> "SharedTable":
        import numpy as np

        from cosearch.hardware.tables import SharedTable, resource_row

        def column(name: str, scale: float = 1.0) -> Any:
            return np.array([combo[name] * scale for combo in self.shared_list])

        return SharedTable(
            column("weight_kib", 8192).astype(np.int64),
            column("activation_kib", 8192).astype(np.int64),
            column("port_bits").astype(float),
            column("clock_mhz").astype(float),
            column("lanes").astype(np.int64),
            np.full(len(self.shared_list), self.cost("dram_gbit_per_s") * 1e9),
            np.array([resource_row(self._shared_resources(x)) for x in self.shared_list], np.int64).reshape(
                -1, len(RESOURCES)
            ),
        )

    @property
    def energies(self) -> UnitEnergies:
        """Energies of arithmetic on this part: ASIC figures times the overheads of hard blocks and of LUT logic."""
        hard, soft = self.cost("hard_overhead"), self.cost("lut_overhead")
        element = self.accounting == "element"
        return UnitEnergies(
            multiply_pj=self.cost("multiply_pj") * hard,
            shift_pj=self.cost("shift_pj") * soft,
            add_pj=self.cost("add_pj") * soft,
            logic_multiply_pj=self.cost("multiply_pj") * soft,
            accumulate_pj=self.cost("accumulate_pj") * soft if element else 0.0,
            registers_pj=self.cost("registers_pj") * hard if element else 0.0,
            # a 24-bit value times a 16-bit scale counts as two 8x8 products, then one rounding addition
            requantise_pj=2 * self.cost("multiply_pj") * hard + self.cost("accumulate_pj") * soft,
        )

    @property
    def prices(self) -> "Prices":
        from cosearch.hardware.tables import Prices

        return Prices(
            self.energies,
            self.cost("bram_pj_per_bit"),
            self.cost("dram_pj_per_bit"),
            self.cost("static_power_w"),
        )

    def _private_levels(self, rows: int, cols: int, depth: int, windowed: bool) -> tuple[MemoryLevel, ...]:
        """Element registers, whose energy is the element's, and block-RAM accumulators, one column each.

        Both are loaded or drained at every pass, whatever comes next; windows slide over a pass's pixels, and fill anew
        in the next one. Energies are per bit: only the blocks addressed are enabled.
        """
        held = "W" if depth else "O"
        # the elements of a column share its registers, so that one column can hold a whole kernel
        room = rows * ACCUMULATOR_BITS / 8
        registers = MemoryLevel("register", (held,), room, word_bits=1, instances=rows * cols, keeps=False)
        window = MemoryLevel("window", ("I",), room, word_bits=1, instances=rows * cols, keeps=False)
        windows = (window,) if windowed else ()
        if not depth:
            return (registers,)
        per_bit = self.cost("bram_pj_per_bit")
        accumulators = MemoryLevel(
            "accumulator",
            ("O",),
            capacity_bytes=depth * ACCUMULATOR_BITS / 8,
            read_bits_per_cycle=ACCUMULATOR_BITS,
            write_bits_per_cycle=ACCUMULATOR_BITS,
            read_energy_pj=per_bit,
            write_energy_pj=per_bit,
            word_bits=1,
            instances=cols,
            keeps=False,
        )
        return (*windows, registers, accumulators)

    def accelerator(self, shared: int, engines: Mapping[str, int]) -> Accelerator:
        """One accelerator by the index of its shared configuration and of each kind's engine."""
        combo = self.shared_list[shared]
        port = int(combo["port_bits"])
        per_bit = self.cost("bram_pj_per_bit")

        def buffer(name: str, holds: tuple[str, ...], kib: float) -> MemoryLevel:
            return MemoryLevel(
                name,
                holds,
                capacity_bytes=kib * 1024,
                read_bits_per_cycle=port,
                write_bits_per_cycle=port,
                read_energy_pj=per_bit,
                write_energy_pj=per_bit,
                word_bits=1,
                double_buffered=True,
            )

        dram_bits = self.cost("dram_gbit_per_s") * 1e3 / combo["clock_mhz"]
        dram = MemoryLevel(
            "dram",
            read_bits_per_cycle=dram_bits,
            write_bits_per_cycle=dram_bits,
            read_energy_pj=self.cost("dram_pj_per_bit"),
            write_energy_pj=self.cost("dram_pj_per_bit"),
            word_bits=1,
            shared_port=True,
        )
        chosen = tuple(self.engine_lists[kind][index] for kind, index in engines.items())
        resources = self._shared_resources(combo)
        for engine in chosen:
            resources = resources + engine.resources
        shapes = "_".join(_short(engine) for engine in chosen)
        return Accelerator(
            name=f"{self.part.name}_{shapes}_{port}b_{combo['lanes']}lanes_{combo['clock_mhz']:g}MHz",
            engines=chosen,
            levels=(
                buffer("weight_buffer", ("W",), combo["weight_kib"]),
                buffer("activation_buffer", ("I", "O"), combo["activation_kib"]),
                dram,
            ),
            clock_mhz=float(combo["clock_mhz"]),
            lanes=int(combo["lanes"]),
            energies=self.energies,
            static_power_w=self.cost("static_power_w"),
            resources=resources,
            part=self.part.name,
            accounting=self.accounting,
        )
