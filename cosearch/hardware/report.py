"""What each layer of a network does on one accelerator: mapping, cycles, energy split, distance to the bounds."""

from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from cosearch.errors import HardwareError
from cosearch.hardware.accelerator import Accelerator
from cosearch.hardware.array import Bounds, mapping_of
from cosearch.hardware.cost import Cost, engine_of, evaluate, hierarchy
from cosearch.hardware.mapping import Mapping
from cosearch.hardware.nest import best_nest, weighted
from cosearch.hardware.pricing import Residency, best_costs, columns, layer_front, vector_costs
from cosearch.hardware.tables import tables_of
from cosearch.hardware.tensor import POLICIES, VECTOR_KINDS, accelerator_tensor
from cosearch.workload import Layer, Workload


def best_mapping(
    layer: Layer, accelerator: Accelerator, policy: float = 1.0, residency: Residency | None = None
) -> Mapping:
    """The mapping that minimises ``policy x 1 W x latency + (1 - policy) x energy``: 1 latency, 0 energy.

    Raises: HardwareError if no engine runs the layer's kind or no mapping fits.
    """
    engine = engine_of(layer, accelerator)
    if engine.mapspace is not None:
        return best_nest(layer, accelerator, partial(weighted, policy))
    resident = residency or Residency(weights=False, activations=False)
    tables, shared, prices = tables_of(accelerator)
    table = next(t for t in tables if t.kind == layer.kind)
    front = layer_front(layer, table, shared.weight_bits.tolist(), shared.activation_bits.tolist())
    _, _, chosen = best_costs(front, table, shared, columns(shared, resident), resident, prices, (policy,))
    index = int(chosen[0, 0, 0])
    if index < 0:
        raise HardwareError(
            f"layer {layer.name!r}: no mapping fits accelerator {accelerator.name!r}; "
            "give it larger buffers, or deeper accumulators if one output row does not fit"
        )
    [(_, counts)] = front.groups
    names = [level.name for level in hierarchy(accelerator, engine)]
    return mapping_of(layer, front.tiles, int(counts.tile[index]), int(counts.option[index]), engine, names)


@dataclass(frozen=True)
class LayerRow:
    """One line of the report. roofline_ms, compulsory_mj: bounds that no mapping can beat."""

    layer: Layer
    engine: str
    mapping: Mapping | None
    cycles: float
    latency_ms: float
    energy_mj: float
    energy_pj: Dict[str, float]
    utilisation: float
    bound: str
    roofline_ms: float
    compulsory_mj: float


def layer_report(workload: Workload, accelerator: Accelerator, objective: str = "edp") -> list[LayerRow]:
    """Every layer in order on one accelerator, its mapping policies chosen for the network's objective.

    Raises: HardwareError if the accelerator cannot run the network.
    """
    counts = workload.shape_counts()
    tensor = accelerator_tensor(tuple(counts), accelerator, POLICIES)
    cost = tensor.evaluate(np.array(list(counts.values())), workload.live_activation_bytes, objective)
    if not cost.feasible:
        raise HardwareError(f"workload {workload.name!r} on {accelerator.name!r}: {cost.reason}")
    residency = Residency(cost.weights_resident, cost.activations_resident)
    policies = dict(cost.policies)
    rows = {layer.shape_key: _row(layer, accelerator, policies, residency) for layer in counts}
    return [_renamed(rows[layer.shape_key], layer) for layer in workload.layers]


def _renamed(row: LayerRow, layer: Layer) -> LayerRow:
    return LayerRow(**{**row.__dict__, "layer": layer})


def resident_tensors(residency: Residency) -> Sequence[str]:
    return [*("W" if residency.weights else ""), *("IO" if residency.activations else "")]


def _row(layer: Layer, accelerator: Accelerator, policies: Dict[str, float], residency: Residency) -> LayerRow:
    least = lower_bound(layer, accelerator, residency)
    if accelerator.engine_for(layer.kind) is None and layer.kind in VECTOR_KINDS:
        return _vector_row(layer, accelerator, residency, least)
    mapping = best_mapping(layer, accelerator, policies[engine_of(layer, accelerator).name], residency)
    cost: Cost = evaluate(layer, accelerator, mapping, resident_tensors(residency))
    return LayerRow(
        layer=layer,
        engine=engine_of(layer, accelerator).name,
        mapping=mapping,
        cycles=cost.cycles,
        latency_ms=cost.latency_ms,
        energy_mj=cost.energy_mj,
        energy_pj=cost.energy_pj,
        utilisation=cost.utilisation,
        bound=cost.bound,
        roofline_ms=least.latency_ms,
        compulsory_mj=least.energy_mj,
    )


def _vector_row(layer: Layer, accelerator: Accelerator, residency: Residency, least: "LowerBound") -> LayerRow:
    _, shared, prices = tables_of(accelerator)
    ms, mj = (float(v[0]) for v in vector_costs(layer, shared, columns(shared, residency), residency, prices))
    operations = layer.macs * prices.energies.operation_pj(layer)
    static = prices.static_power_w * ms * 1e9
    cycles = ms * accelerator.clock_mhz * 1e3
    ideal = layer.macs / accelerator.lanes
    return LayerRow(
        layer=layer,
        engine="vector",
        mapping=None,
        cycles=cycles,
        latency_ms=ms,
        energy_mj=mj,
        energy_pj={"operations": operations, "memories": mj * 1e9 - operations - static, "static": static},
        utilisation=ideal / cycles,
        bound="compute" if cycles <= np.ceil(ideal) else "memories",
        roofline_ms=least.latency_ms,
        compulsory_mj=least.energy_mj,
    )


@dataclass(frozen=True)
class LowerBound:
    """Roofline latency and compulsory energy: what no mapping can beat."""

    latency_ms: float
    energy_mj: float


def lower_bound(layer: Layer, accelerator: Accelerator, residency: Residency | None = None) -> LowerBound:
    """Roofline latency and compulsory energy of one layer.

    ``cycles = max(operations / elements, compulsory DRAM bits / DRAM bits per cycle, outputs / lanes)``; energy:
    operations, every word once through DRAM, requantisation, static power for that long. Tensors that stay on chip
    cross no DRAM.
    """
    resident = residency or Residency(weights=False, activations=False)
    bounds = Bounds.of(layer)
    dram = accelerator.levels[-1]
    read = 0.0 if resident.weights else float(layer.weight_count * layer.weight_bits)
    read += 0.0 if resident.activations else float(bounds.inputs * layer.input_bits)
    written = 0.0 if resident.activations else float(bounds.outputs * layer.output_bits)
    engine = accelerator.engine_for(layer.kind)
    rate: float = accelerator.lanes
    if engine is not None:
        rate = engine.rows * engine.lanes * engine.cols / engine.cycles_per_operation(layer)
    requantised = layer.kind not in VECTOR_KINDS
    cycles = max(
        layer.macs / rate,
        read / dram.read_bits_per_cycle + written / dram.write_bits_per_cycle
        if dram.shared_port
        else max(read / dram.read_bits_per_cycle, written / dram.write_bits_per_cycle),
        bounds.outputs / accelerator.lanes if requantised else 0.0,
    )
    ms = cycles / (accelerator.clock_mhz * 1e3)
    pj = layer.macs * accelerator.energies.operation_pj(layer, engine.fabric if engine is not None else "hard")
    pj += bounds.outputs * accelerator.energies.requantise_pj * requantised
    pj += (read * dram.read_energy_pj + written * dram.write_energy_pj) / dram.word_bits
    return LowerBound(ms, pj * 1e-9 + accelerator.static_power_w * ms)
