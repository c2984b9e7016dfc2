"""Arrays over configurations: what the cost tensor needs to know of an accelerator space, and of one accelerator."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cosearch.errors import HardwareError
from cosearch.hardware.accelerator import Accelerator, Engine, UnitEnergies
from cosearch.hardware.resources import RESOURCES, Resources
from cosearch.hardware.sparsity import seen
from cosearch.workload import Layer

if TYPE_CHECKING:
    from cosearch.hardware.pricing import Residency
    from cosearch.hardware.split import PairTable

UNLIMITED_BITS = 2**62
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EngineTable:
    """Configurations of one engine kind: [configuration] arrays; resources is [configuration, len(RESOURCES)].

    weight_bits, activation_bits: what may stay on chip where the engine's own memories decide it, -1 for nothing;
    beyond every network where the shared configuration decides. zeros, patterns: of all engines alike.
    """

    kind: str
    rows: Ints
    cols: Ints
    output_stationary: NDArray[np.bool_]
    accumulator_depth: Ints
    windowed: NDArray[np.bool_]
    lanes: Ints
    logic: NDArray[np.bool_]
    fmax_mhz: Floats
    resources: Ints
    weight_bits: Ints
    activation_bits: Ints
    packing: Ints
    packing_bits: Ints
    zeros: str = "compute"
    patterns: tuple[str, ...] = ()

    def columns(self, layer: Layer) -> Ints:
        """Columns that a layer may unroll, [configuration]; see `Engine.packing`."""
        packs = max(layer.weight_bits, layer.input_bits) <= self.packing_bits
        return np.where(packs, self.cols * self.packing, self.cols)

    def seen(self, layer: Layer) -> Layer:
        """The layer as engines of this kind run it."""
        return seen(layer, self.zeros, self.patterns)

    def __len__(self) -> int:
        return len(self.rows)

    def same_costs(self, other: "EngineTable | PairTable") -> bool:
        """Whether layers cost the same on both, configuration by configuration; resources may differ."""
        return isinstance(other, EngineTable) and _equal_but_resources(self, other)


@dataclass(frozen=True)
class SharedTable:
    """Configurations of what the engines share: [configuration] arrays; resources is [configuration, len(RESOURCES)].

    weight_bits, activation_bits: buffer capacities. port_bits: per cycle and direction, of either buffer.
    dram_bits: per second.
    """

    weight_bits: Ints
    activation_bits: Ints
    port_bits: Floats
    clock_mhz: Floats
    lanes: Ints
    dram_bits: Floats
    resources: Ints

    def __len__(self) -> int:
        return len(self.weight_bits)

    def same_costs(self, other: "SharedTable") -> bool:
        """Whether layers cost the same under both, configuration by configuration; resources may differ."""
        return _equal_but_resources(self, other)

    @property
    def columns(self) -> list[tuple[float, ...]]:
        """What a layer's cost depends on besides capacities."""
        parts = (self.port_bits, self.clock_mhz, self.lanes, self.dram_bits)
        return list(zip(*(part.tolist() for part in parts), strict=True))


def _equal_but_resources(a: Any, b: Any) -> bool:
    names = [name for name in a.__dataclass_fields__ if name != "resources"]
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


@dataclass(frozen=True)
class Prices:
    """Energies besides arithmetic: of one bit read from or written to a buffer and DRAM; and static power."""

    energies: UnitEnergies
    buffer_pj_per_bit: float
    dram_pj_per_bit: float
    static_power_w: float


class AcceleratorSpace(Protocol):
    """What `cosearch.hardware.tensor` asks of an accelerator space."""

    @property
    def name(self) -> str: ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """Arithmetic kinds that have engines of their own."""

    @property
    def serves(self) -> dict[str, tuple[str, ...]]:
        """Per engine kind the kinds of layers that run on it; pool and elementwise run on the vector unit otherwise."""

    @property
    def budget(self) -> Resources: ...

    @property
    def prices(self) -> Prices: ...

    @property
    def shared(self) -> SharedTable: ...

    def engines(self, kind: str) -> "EngineTable | PairTable": ...

    def accelerator(self, shared: int, engines: dict[str, int]) -> Accelerator: ...

    def describe(self) -> dict[str, Any]: ...


@runtime_checkable
class NestSpace(AcceleratorSpace, Protocol):
    """A space whose layers are priced by a declared mapspace or in closed form instead of the array template."""

    def layer_costs(self, layer: Layer, policies: Sequence[float], residency: "Residency") -> tuple[Floats, Floats]:
        """latency_ms, energy_mj of one layer, [policy, engine]; infinite where what should stay cannot."""


def tables_of(accelerator: Accelerator) -> tuple[list[EngineTable], SharedTable, Prices]:
    """One accelerator of the tiled array template as tables of length 1.

    Raises: HardwareError if a level of the template (weight_buffer, activation_buffer, DRAM last) is missing, if the
            buffers' ports or energies per bit differ, or if one has no capacity.
    """
    names = [level.name for level in accelerator.levels]
    if not {"weight_buffer", "activation_buffer"} <= set(names):
        raise HardwareError(
            f"accelerator {accelerator.name!r}: its engines declare no mapspace, and its levels {', '.join(names)} are "
            "not the array template's weight_buffer, activation_buffer, dram: give the engines a mapspace, or evaluate "
            "mappings of your own"
        )
    weights, activations = accelerator.level("weight_buffer"), accelerator.level("activation_buffer")
    for key in ("read_bits_per_cycle", "write_bits_per_cycle", "read_energy_pj", "write_energy_pj", "word_bits"):
        one, other = getattr(weights, key), getattr(activations, key)
        if one != other:
            raise HardwareError(
                f"accelerator {accelerator.name!r}: level 'weight_buffer' has {key}={one:g}, 'activation_buffer' "
                f"{other:g}: the array template has buffers alike but for size; give the engines a mapspace"
            )
    dram = accelerator.levels[-1]
    for level in (weights, activations):
        if not math.isfinite(level.capacity_bytes):
            raise HardwareError(f"accelerator {accelerator.name!r}: {level.name} has no capacity, expected bytes")
    engines = [engine_table(kind, [engine], [math.inf]) for engine in accelerator.engines for kind in engine.kinds]
    shared = SharedTable(
        np.array([int(weights.capacity_bytes * 8)]),
        np.array([int(activations.capacity_bytes * 8)]),
        np.array([activations.read_bits_per_cycle]),
        np.array([accelerator.clock_mhz]),
        np.array([accelerator.lanes]),
        np.array([dram.read_bits_per_cycle * accelerator.clock_mhz * 1e6]),
        np.array([resource_row(accelerator.resources)]),
    )
    prices = Prices(
        accelerator.energies,
        activations.read_energy_pj / activations.word_bits,
        dram.read_energy_pj / dram.word_bits,
        accelerator.static_power_w,
    )
    return engines, shared, prices


def resource_row(resources: Resources) -> list[int]:
    return list(resources.counts)


def engine_table(
    kind: str, engines: Sequence[Engine], fmax_mhz: Sequence[float], resident: Sequence[tuple[int, int]] = ()
) -> EngineTable:
    """resident: weights and activations in bits that may stay on chip with each engine, where it decides that."""
    [(zeros, patterns)] = {(engine.zeros, engine.patterns) for engine in engines} or {("compute", ())}
    stays = np.array(resident or [(UNLIMITED_BITS, UNLIMITED_BITS)] * len(engines), np.int64).reshape(-1, 2)
    return EngineTable(
        kind,
        np.array([e.rows for e in engines], np.int64),
        np.array([e.cols for e in engines], np.int64),
        np.array([e.dataflow == "output-stationary" for e in engines], bool),
        np.array([e.accumulator_depth for e in engines], np.int64),
        np.array([e.windowed for e in engines], bool),
        np.array([e.lanes for e in engines], np.int64),
        np.array([e.fabric == "logic" for e in engines], bool),
        np.array(fmax_mhz, float),
        np.array([resource_row(e.resources) for e in engines], np.int64).reshape(len(engines), len(RESOURCES)),
        stays[:, 0],
        stays[:, 1],
        np.array([e.packing for e in engines], np.int64),
        np.array([e.packing_bits for e in engines], np.int64),
        zeros,
        patterns,
    )


def blocks(bits: float, width_bits: float, block_bits: float, block_width: float) -> int:
    """Memory blocks for a capacity and a port width: the larger of the two needs."""
    return max(math.ceil(bits / block_bits), math.ceil(width_bits / block_width))


def count_within(space: AcceleratorSpace) -> int:
    """Accelerators of a space with one engine of every kind that fit the budget together."""
    budget = np.array(space.budget.counts, np.int64)
    parts = [space.shared.resources, *(space.engines(kind).resources for kind in space.kinds)]
    scarce = sum(part.max(axis=0, initial=0) for part in parts) > budget  # the others never run out
    scarce[0] |= not scarce.any()
    left = budget[scarce]

    def summed(one: tuple[Ints, Ints], other: tuple[Ints, Ints]) -> tuple[Ints, Ints]:
        """Resources of every pair within the budget, [n, r], and how many pairs have them, [n]."""
        rows = (one[0][:, None] + other[0][None]).reshape(-1, len(left))
        many, fits = np.multiply.outer(one[1], other[1]).ravel(), (rows <= left).all(axis=1)
        distinct, which = _distinct(rows[fits], left)
        return distinct, np.bincount(which, many[fits], len(distinct)).astype(np.int64)

    shared, *engines, last = (np.unique(part[:, scarce], axis=0, return_counts=True) for part in parts)
    several = reduce(summed, engines, (np.zeros((1, len(left)), np.int64), np.ones(1, np.int64)))
    one, columns = summed(shared, last), np.ascontiguousarray(several[0].T)
    total = 0
    for room, many in zip(left - one[0], one[1].tolist(), strict=True):
        upto = np.searchsorted(columns[0], room[0], side="right")  # rows rise in their first column
        fits = (columns[1:, :upto] <= room[1:, None]).all(axis=0)
        total += many * int(several[1][:upto][fits].sum())
    return total


def _distinct(rows: Ints, largest: Ints) -> tuple[Ints, Ints]:
    """Different rows, rising, and which of them each row is. rows: [n, r], of 0 to `largest`, [r].

    Numbers that tell rows apart are sorted several times faster than rows, where they fit in 64 bits.
    """
    sizes = [int(most) + 1 for most in largest]
    if math.prod(sizes) >= 2**63:
        distinct, which = np.unique(rows, axis=0, return_inverse=True)
        return distinct, which.ravel()
    numbers, which = np.unique(np.ravel_multi_index(tuple(rows.T), sizes), return_inverse=True)
    return np.stack(np.unravel_index(numbers, sizes), axis=1), which
