"""Costs of one layer over tables of configurations: mapping counts times prices, the best mapping per policy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosearch.hardware.accelerator import FABRICS, refusal
from cosearch.hardware.array import Bounds, Counts, Tiles, count, enumerate_tiles, footprints, useful_tiles
from cosearch.hardware.kernels import best_mappings
from cosearch.hardware.sparsity import time_share
from cosearch.hardware.tables import EngineTable, Floats, Ints, Prices, SharedTable
from cosearch.workload import Layer

COMPONENTS: tuple[str, ...] = ("compute", "accumulator", "buffers", "dram", "requantise", "static")


@dataclass(frozen=True)
class Residency:
    """What stays on chip while a network runs; its DRAM traffic is then not charged."""

    weights: bool
    activations: bool

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensors that stay, as `cost.evaluate` names them."""
        return (*("W" if self.weights else ""), *("IO" if self.activations else ""))


NOTHING_RESIDENT = Residency(weights=False, activations=False)
RESIDENCIES: tuple[Residency, ...] = tuple(Residency(w, a) for w in (False, True) for a in (False, True))


@dataclass(frozen=True)
class ColumnTable:
    """The shared configurations that a residency tells apart.

    weight_bits and activation_bits are None where the tensor is resident: capacity then only decides whether it is.
    of_shared: for each shared configuration, its column. shared: for each column, one shared configuration of it.
    """

    of_shared: Ints
    shared: Ints


def columns(shared: SharedTable, residency: Residency) -> ColumnTable:
    keys = [
        (
            *column,
            0 if residency.weights else int(shared.weight_bits[i]),
            0 if residency.activations else int(shared.activation_bits[i]),
        )
        for i, column in enumerate(shared.columns)
    ]
    first: dict[tuple[float, ...], int] = {}
    for i, key in enumerate(keys):
        first.setdefault(key, i)
    position = {key: at for at, key in enumerate(first)}
    return ColumnTable(np.array([position[key] for key in keys], np.int64), np.array(list(first.values()), np.int64))


@dataclass(frozen=True)
class LayerFront:
    """The mappings of one layer on the configurations of one engine kind that may be best somewhere.

    layer: as the engines see it. update_share: updates of partial sums over those of the dense layer.
    groups: per dataflow, the positions of its configurations and the counts of its mappings.
    """

    layer: Layer
    bounds: Bounds
    tiles: Tiles
    update_share: float
    groups: tuple[tuple[Ints, Counts], ...]


def layer_front(
    layer: Layer, engines: EngineTable, weight_bits: Sequence[int], activation_bits: Sequence[int]
) -> LayerFront:
    """Enumerate the declared mapspace of one layer once for all configurations of an engine kind.

    weight_bits, activation_bits: the buffer capacities on offer.
    """
    layer = engines.seen(layer)
    bounds = Bounds.of(layer)
    tiles = useful_tiles(bounds, enumerate_tiles(bounds), layer, weight_bits, activation_bits)
    serial = time_share(layer, engines.zeros)
    if engines.kind == "bitserial":
        serial *= layer.weight_bits * layer.input_bits
    columns = engines.columns(layer)
    groups = []
    for stationary in (False, True):
        where = np.flatnonzero(engines.output_stationary == stationary)
        if len(where):
            rows, cols, depth = engines.rows[where], columns[where], engines.accumulator_depth[where]
            extras = engines.windowed[where], engines.lanes[where], serial, rows + engines.cols[where] - 2
            groups.append((where, count(bounds, tiles, stationary, rows, cols, depth, *extras)))
    return LayerFront(layer, bounds, tiles, time_share(layer, engines.zeros), tuple(groups))


@dataclass(frozen=True)
class Traffic:
    """Bits moved by each mapping of a group, [mapping, configuration] or [mapping, 1]."""

    weight_read: Floats
    weight_write: Floats
    activation_read: Floats
    activation_write: Floats
    dram: Floats
    accumulator: Floats


def traffic(front: LayerFront, counts: Counts, residency: Residency) -> Traffic:
    """Bits per port: what the array takes, what DRAM fills and drains, and partial sums while C is split.

    Outputs are written once in output width after ``C / C_tile - 1`` round trips in accumulator width. A buffer that
    is not resident is filled from DRAM with what the tiles fetch, and drained of each output once.
    """
    layer, tiles = front.layer, front.tiles
    outputs = front.bounds.outputs
    trips: Floats = (front.bounds.C // tiles.C - 1)[counts.tile][:, None].astype(float) * float(
        outputs * layer.accumulator_bits
    )
    weights: Floats = tiles.weight_words[counts.tile][:, None].astype(float) * float(
        layer.weight_width * (not residency.weights)
    )
    inputs: Floats = tiles.input_words[counts.tile][:, None].astype(float) * float(
        layer.input_bits * (not residency.activations)
    )
    drained = float(outputs * layer.output_bits)
    spilled = drained * (not residency.activations)
    return Traffic(
        weight_read=counts.weight_reads * layer.weight_width,
        weight_write=weights,
        activation_read=counts.input_reads * layer.input_bits + trips + spilled,
        activation_write=inputs + trips + drained,
        dram=weights + inputs + spilled,
        accumulator=2 * _updates(front, counts) * layer.accumulator_bits,
    )


def _updates(front: LayerFront, counts: Counts) -> Floats:
    """Words added into the accumulators: fewer where zero weights are skipped, but no fewer than leave them."""
    if front.update_share == 1.0:
        return counts.updates
    leave = front.bounds.outputs * (front.bounds.C // front.tiles.C)[counts.tile][:, None]
    return np.where(counts.updates > 0, np.maximum(counts.updates * front.update_share, leave), 0.0)


def mapping_energy_pj(front: LayerFront, moved: Traffic, prices: Prices, logic: NDArray[np.bool_]) -> Floats:
    """Energy of each mapping without static power: operations, accumulators, buffers, DRAM, requantisation.

    Returns: [mapping, configuration], pJ.
    """
    per_operation = [prices.energies.operation_pj(front.layer, fabric) for fabric in FABRICS]
    fixed = front.bounds.macs * np.where(logic, per_operation[1], per_operation[0])
    fixed += front.bounds.outputs * prices.energies.requantise_pj
    buffers = moved.weight_read + moved.weight_write + moved.activation_read + moved.activation_write
    return np.asarray(
        fixed + (buffers + moved.accumulator) * prices.buffer_pj_per_bit + moved.dram * prices.dram_pj_per_bit
    )


def feasible(
    front: LayerFront, counts: Counts, residency: Residency, weight_bits: Ints, activation_bits: Ints
) -> NDArray[np.bool_]:
    """Which mappings fit buffers of the given sizes: tiles of what is not resident; the resident lies there whole.

    With resident activations C stays whole, so that no partial sums take room beside them. None of a layer that engines
    of its kind refuse. [capacity, mapping]
    """
    weights, activations = (need[counts.tile] for need in footprints(front.bounds, front.tiles, front.layer))
    fits = np.full((len(weight_bits), len(counts.tile)), not refusal(front.layer))
    if not residency.weights:
        fits &= weights <= weight_bits[:, None]
    if residency.activations:
        fits &= (front.tiles.C == front.bounds.C)[counts.tile]
    else:
        fits &= activations <= activation_bits[:, None]
    return fits


def best_costs(
    front: LayerFront,
    engines: EngineTable,
    shared: SharedTable,
    table: ColumnTable,
    residency: Residency,
    prices: Prices,
    weights: Sequence[float],
) -> tuple[Floats, Floats, Ints]:
    """The best mapping per policy, configuration and column.

    The latency of a mapping is the largest of what each resource needs: ``max(array cycles, bits of each buffer and
    direction / port_bits, DRAM bits / (dram_bits / clock), outputs / lanes)``.

    weights: policy w minimises ``w P latency + (1 - w) energy`` with P = 1 W, so that w = 1 is latency and w = 0
        energy; ties are broken by the other one.

    Returns: latency_ms, energy_mj (static power included), mapping index; each [column, policy, configuration];
        infinite and -1 where nothing fits or the engine does not reach the clock.
    """
    at = table.shared
    shape = (len(at), len(weights), len(engines))
    latency, energy, chosen = np.empty(shape), np.empty(shape), np.empty(shape, np.int64)
    for where, counts in front.groups:
        moved = traffic(front, counts, residency)
        local = (len(at), len(weights), len(where))
        ms, mj, index = np.empty(local), np.empty(local), np.empty(local, np.int64)
        best_mappings(
            feasible(front, counts, residency, shared.weight_bits[at], shared.activation_bits[at]),
            counts.cycles,
            moved.weight_read,
            moved.weight_write[:, 0],
            moved.activation_read,
            moved.activation_write[:, 0],
            moved.dram[:, 0],
            mapping_energy_pj(front, moved, prices, engines.logic[where]) * 1e-9,
            shared.port_bits[at],
            shared.dram_bits[at] / (shared.clock_mhz[at] * 1e6),
            np.ceil(front.bounds.outputs / shared.lanes[at]),
            1.0 / (shared.clock_mhz[at] * 1e3),
            engines.fmax_mhz[where] >= shared.clock_mhz[at][:, None],
            prices.static_power_w,
            np.asarray(weights, float),
            ms,
            mj,
            index,
        )
        if len(front.groups) == 1:
            return ms, mj, index
        latency[:, :, where], energy[:, :, where], chosen[:, :, where] = ms, mj, index
    return latency, energy, chosen


def memory_ms(
    front: LayerFront,
    engines: EngineTable,
    shared: SharedTable,
    table: ColumnTable,
    residency: Residency,
    chosen: Ints,
) -> Floats:
    """How long a layer needs what engines share, with the mappings that `best_costs` chose: the same maximum without
    the array's own cycles.

    Returns: ms, [column, policy, configuration]; infinite where nothing is chosen.
    """
    at = table.shared
    clock_khz, port = shared.clock_mhz[at] * 1e3, shared.port_bits[at]
    dram_bits = shared.dram_bits[at] / (clock_khz * 1e3)
    requantise = np.ceil(front.bounds.outputs / shared.lanes[at])
    ms = np.full(chosen.shape, np.inf)
    for where, counts in front.groups:
        moved = traffic(front, counts, residency)
        own, column = chosen[:, :, where], np.arange(len(where))
        read = np.maximum(moved.weight_read, moved.activation_read)[own, column]
        ported = np.maximum(read, np.maximum(moved.weight_write, moved.activation_write)[own, 0])
        cycles = np.maximum(ported / port[:, None, None], moved.dram[own, 0] / dram_bits[:, None, None])
        cycles = np.maximum(cycles, requantise[:, None, None])
        ms[:, :, where] = np.where(own >= 0, cycles / clock_khz[:, None, None], np.inf)
    return ms


def host_cost(host_bytes: float, dram_bits: float, prices: Prices) -> tuple[float, float]:
    """Moving a network's input and output through DRAM, dram_bits a second: latency_ms, energy_mj."""
    ms = host_bytes * 8 / dram_bits * 1e3
    mj = host_bytes * 8 * (prices.dram_pj_per_bit + prices.buffer_pj_per_bit) * 1e-9
    return float(ms), float(mj + ms * prices.static_power_w)


def vector_costs(
    layer: Layer, shared: SharedTable, table: ColumnTable, residency: Residency, prices: Prices
) -> tuple[Floats, Floats]:
    """Pooling and elementwise layers on the vector unit, streamed: every value read and written once.

    R x S pooling takes R S operations per output: windows share no sums. Energy assumes that they share what was read;
    time would hardly change if they did not, where a port feeds every lane.

    ``cycles = max(operations / lanes, bits / ports, DRAM bits / bandwidth)``; latency_ms and energy_mj, [column].
    """
    bounds = Bounds.of(layer)
    at = table.shared
    out = float(bounds.outputs * layer.output_bits)
    read = float(bounds.inputs * layer.input_bits)
    dram = 0.0 if residency.activations else read + out
    moved = read + out + dram  # what is not resident crosses the buffer a second time
    clock = shared.clock_mhz[at]
    cycles = np.maximum.reduce(
        [
            np.ceil(bounds.macs / shared.lanes[at]),
            (read + (dram - read if dram else 0.0)) / shared.port_bits[at],
            (out + (dram - out if dram else 0.0)) / shared.port_bits[at],
            dram / (shared.dram_bits[at] / (clock * 1e6)),
        ]
    )
    ms = cycles / (clock * 1e3)
    pj = bounds.macs * prices.energies.operation_pj(layer)
    pj += moved * prices.buffer_pj_per_bit + dram * prices.dram_pj_per_bit
    return ms, pj * 1e-9 + ms * prices.static_power_w
