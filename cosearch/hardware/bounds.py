"""What no mapping can beat: the roofline and compulsory traffic of one layer on one accelerator."""

from dataclasses import dataclass, replace

from cosearch.hardware import split
from cosearch.hardware.accelerator import Accelerator, Engine
from cosearch.hardware.array import Bounds
from cosearch.hardware.pricing import NOTHING_RESIDENT, Residency
from cosearch.workload import Layer


def runs(layer: Layer, accelerator: Accelerator) -> list[tuple[Layer, Engine]]:
    """The engines that may run a layer, each with the layer as it sees it; none for the vector unit."""
    kinds = split.KINDS if accelerator.splits and layer.kind in split.KINDS else (layer.kind,)
    engines = [(replace(layer, kind=kind), accelerator.engine_for(kind)) for kind in kinds]
    return [(engine.seen(own), engine) for own, engine in engines if engine is not None]


def rate_of(layer: Layer, engine: Engine) -> float:
    """Operations per cycle of the whole array."""
    return engine.rows * engine.lanes * engine.columns(layer) / engine.cycles_per_operation(layer)


@dataclass(frozen=True)
class LowerBound:
    """Roofline latency and compulsory energy: what no mapping can beat."""

    latency_ms: float
    energy_mj: float


def lower_bound(layer: Layer, accelerator: Accelerator, residency: Residency = NOTHING_RESIDENT) -> LowerBound:
    """Roofline latency and compulsory energy of one layer.

    ``cycles = max(operations / elements, compulsory DRAM bits / DRAM bits per cycle, outputs / lanes)``; energy:
    operations, every word once through DRAM, requantisation, static power for that long. Tensors that stay on chip
    cross no DRAM.
    """
    form = next((engine.form for engine in accelerator.engines if layer.kind in engine.kinds), None)
    if form is not None:
        cost = form.cost(layer, residency.weights)
        return LowerBound(cost.roofline_ms, cost.compulsory_pj * 1e-9)
    found = runs(layer, accelerator)
    layer = found[0][0] if found else layer
    bounds = Bounds.of(layer)
    dram = accelerator.levels[-1]
    read = 0.0 if residency.weights else float(layer.weight_count * layer.weight_width)
    read += 0.0 if residency.activations else float(bounds.inputs * layer.input_bits)
    written = 0.0 if residency.activations else float(bounds.outputs * layer.output_bits)
    rate = sum(rate_of(*run) for run in found) or accelerator.lanes
    requantised = layer.has_weights
    cycles = max(
        layer.macs / rate,
        read / dram.read_bits_per_cycle + written / dram.write_bits_per_cycle
        if dram.shared_port
        else max(read / dram.read_bits_per_cycle, written / dram.write_bits_per_cycle),
        bounds.outputs / accelerator.lanes if requantised else 0.0,
    )
    ms = cycles / (accelerator.clock_mhz * 1e3)
    fabrics = [(own, engine.fabric) for own, engine in found] or [(layer, "hard")]
    pj = layer.macs * min(accelerator.energies.operation_pj(own, fabric) for own, fabric in fabrics)
    pj += bounds.outputs * accelerator.energies.requantise_pj * requantised
    pj += (read * dram.read_energy_pj + written * dram.write_energy_pj) / dram.word_bits
    return LowerBound(ms, pj * 1e-9 + accelerator.static_power_w * ms)
