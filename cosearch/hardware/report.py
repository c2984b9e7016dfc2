"""What each layer of a network does on one accelerator: mapping, cycles, energy split, distance to the bounds."""

from collections import Counter
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import numpy as np

from cosearch.errors import HardwareError
from cosearch.hardware import split
from cosearch.hardware.accelerator import Accelerator, engine_of
from cosearch.hardware.bounds import LowerBound, lower_bound, rate_of, runs
from cosearch.hardware.fronts import HardwareFront, NetworkCost, Pipeline
from cosearch.hardware.mapping import Mapping
from cosearch.hardware.nest import weighted
from cosearch.hardware.pricing import RESIDENCIES, Residency, columns, vector_costs
from cosearch.hardware.single import best, mapspace_size
from cosearch.hardware.tables import tables_of
from cosearch.hardware.tensor import VECTOR_KINDS, network_cost, network_pipeline
from cosearch.notebook import html_table
from cosearch.workload import Layer, Workload


@dataclass(frozen=True)
class LayerRow:
    """One line of the report.

    roofline_ms, compulsory_mj: bounds that no mapping can beat. mapspace: mappings of which this one is the best, 0 on
    the vector unit. parts, shares: of a layer that two engines may share, each part with its mapping, and which share
    of the memories it has.
    """

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
    mapspace: int
    parts: tuple[tuple[Layer, Mapping], ...] = ()
    shares: tuple[float, ...] = ()


@dataclass(frozen=True)
class LayerReport(Sequence[LayerRow]):
    """The layers of a network in order, a sequence of `LayerRow`; in a notebook, a table."""

    workload: Workload
    accelerator: Accelerator
    rows: tuple[LayerRow, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return self.rows[place]

    def _repr_html_(self) -> str:
        lines = (*LAYER_NOTES, layers_total(self))
        return html_table(*layers_table(self)) + "".join(f"<p>{escape(line)}</p>" for line in lines)


@dataclass(frozen=True)
class NetworkReport:
    """A network on one accelerator: its cost, with its mapping policies and what bounds them, and every layer in order.

    The rows and the transfer of input and output sum to the cost, which is of one image after the other. pipeline: what
    engines reach that work on different images at once; None where nothing works side by side.
    """

    cost: NetworkCost
    rows: LayerReport
    pipeline: Pipeline | None = None


def layer_report(workload: Workload, accelerator: Accelerator, objective: str = "edp") -> LayerReport:
    """Every layer in order on one accelerator, its mapping policies chosen for the network's objective.

    Raises: HardwareError if the accelerator cannot run the network.
    """
    return network_report(workload, accelerator, objective).rows


def network_report(
    workload: Workload, accelerator: Accelerator, objective: str = "edp", host_bytes: float = 0.0
) -> NetworkReport:
    """A network on one accelerator, its mapping policies chosen for its objective.

    host_bytes: network input and output, charged to DRAM.
    Raises: HardwareError if the accelerator cannot run the network.
    """
    cost = network_cost(workload, accelerator, objective, host_bytes)
    if not cost.feasible:
        raise HardwareError(f"workload {workload.name!r} on {accelerator.name!r}: {cost.reason}")
    residency = Residency(cost.weights_resident, cost.activations_resident)
    policies = dict(cost.policies)
    rows = {layer.shape_key: _row(layer, accelerator, policies, residency) for layer in workload.shape_counts()}
    named = tuple(_renamed(rows[layer.shape_key], layer) for layer in workload.layers)
    pipeline = network_pipeline(workload, accelerator, host_bytes)
    return NetworkReport(cost, LayerReport(workload, accelerator, named), pipeline)


def point_report(workload: Workload, front: HardwareFront, i: int) -> LayerReport:
    """Every layer in order on point i of the network's hardware front, as the point prices it.

    The rows, host transfer apart, sum to the point's latency (of one image) and energy.
    """
    accelerator, residency = front.accelerator(i), RESIDENCIES[int(front.residency[i])]
    policies = dict(front.policies_of(i))
    rows = {layer.shape_key: _row(layer, accelerator, policies, residency) for layer in workload.shape_counts()}
    named = tuple(_renamed(rows[layer.shape_key], layer) for layer in workload.layers)
    return LayerReport(workload, accelerator, named)


def _renamed(row: LayerRow, layer: Layer) -> LayerRow:
    return LayerRow(**{**row.__dict__, "layer": layer})


def _row(layer: Layer, accelerator: Accelerator, policies: Dict[str, float], residency: Residency) -> LayerRow:
    least = lower_bound(layer, accelerator, residency)
    if accelerator.splits and layer.kind in split.KINDS:
        return _split_row(layer, accelerator, policies[split.NAME], residency, least)
    if accelerator.engine_for(layer.kind) is None and layer.kind in VECTOR_KINDS:
        return _vector_row(layer, accelerator, residency, least)
    if engine_of(layer, accelerator).form is not None:
        return _form_row(layer, accelerator, residency)
    engine = engine_of(layer, accelerator).name
    mapping, cost = best(layer, accelerator, partial(weighted, policies[engine]), residency)
    return LayerRow(
        layer=layer,
        engine=engine,
        mapping=mapping,
        cycles=cost.cycles,
        latency_ms=cost.latency_ms,
        energy_mj=cost.energy_mj,
        energy_pj=cost.energy_pj,
        utilisation=cost.utilisation,
        bound=cost.bound,
        roofline_ms=least.latency_ms,
        compulsory_mj=least.energy_mj,
        mapspace=mapspace_size(layer, accelerator),
    )


def _split_row(
    layer: Layer, accelerator: Accelerator, policy: float, residency: Residency, least: "LowerBound"
) -> LayerRow:
    found = split.best_split(layer, accelerator, policy, residency)
    slowest = max((cost for _, _, cost in found.parts), key=lambda cost: cost.latency_ms)
    whole = len(found.parts) == 1
    rate = sum(rate_of(*run) for run in runs(layer, accelerator))
    return LayerRow(
        layer=layer,
        engine=" + ".join(part.kind if whole else f"{part.kind} {part.K}" for part, _, _ in found.parts),
        mapping=found.parts[0][1] if whole else None,
        cycles=slowest.cycles,
        latency_ms=found.latency_ms,
        energy_mj=found.energy_mj,
        energy_pj=split.energy_of(found, accelerator.static_power_w),
        utilisation=layer.macs / rate / slowest.cycles,
        bound=slowest.bound,
        roofline_ms=least.latency_ms,
        compulsory_mj=least.energy_mj,
        mapspace=sum(mapspace_size(part, accelerator) for part, _, _ in found.parts),
        parts=() if whole else tuple((part, mapping) for part, mapping, _ in found.parts),
        shares=found.shares,
    )


def _form_row(layer: Layer, accelerator: Accelerator, residency: Residency) -> LayerRow:
    engine = engine_of(layer, accelerator)
    assert engine.form is not None
    cost = engine.form.cost(layer, residency.weights)
    return LayerRow(
        layer=layer,
        engine=engine.name,
        mapping=None,
        cycles=cost.latency_ms * accelerator.clock_mhz * 1e3,
        latency_ms=cost.latency_ms,
        energy_mj=cost.energy_mj,
        energy_pj=cost.energy_pj,
        utilisation=cost.utilisation,
        bound=cost.bound,
        roofline_ms=cost.roofline_ms,
        compulsory_mj=cost.compulsory_pj * 1e-9,
        mapspace=0,
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
        mapspace=0,
    )


LAYER_NOTES = (
    "Best of: how many mappings the mapspace of this layer has; shown is the best of all of them under the network's "
    "policy, exactly.",
    "Mapping: memory levels by their initials, loops outermost first, after | what runs in parallel.",
)


def layers_table(report: LayerReport) -> tuple[str, Sequence[str], Sequence[Sequence[str]]]:
    """Title, columns and one row per layer; all figures are modelled."""
    columns = (
        "layer",
        "kind",
        "MMACs",
        "cycles",
        "uJ",
        "energy split",
        "use",
        "x roof",
        "bound",
        "best of",
        "engine: mapping",
    )
    table = [
        (
            row.layer.name,
            row.layer.kind,
            f"{row.layer.macs / 1e6:.3g}",
            f"{row.cycles:,.0f}",
            f"{row.energy_mj * 1e3:.3g}",
            _split(row.energy_pj),
            f"{row.utilisation:.0%}",
            f"{row.latency_ms / row.roofline_ms:.2f}" if row.roofline_ms else "-",
            row.bound,
            f"{row.mapspace:,}" if row.mapspace else "-",
            where(row),
        )
        for row in report
    ]
    return f"{report.workload.name} on {report.accelerator.name}", columns, table


def layers_total(report: LayerReport) -> str:
    """Operations, weights, latency and energy of all layers."""
    energy: Counter[str] = Counter()
    for row in report:
        energy.update(row.energy_pj)
    millions = report.workload.macs / 1e6
    operations = f"{millions:.3g}" if millions < 100 else f"{millions:,.1f}"
    return (
        f"{operations} MMACs, {report.workload.weight_count / 1e6:.3g} M weights; modelled: "
        f"{sum(row.latency_ms for row in report):.4g} ms, {sum(row.energy_mj for row in report):.4g} mJ "
        f"({_split(energy, len(energy))})"
    )


def where(row: LayerRow) -> str:
    """Engine and mapping; of a layer on two engines each one's output channels and mapping."""
    if row.parts:
        return "; ".join(f"{part.kind} {part.K}: {_compact(mapping)}" for part, mapping in row.parts)
    return f"{row.engine}: {_compact(row.mapping)}" if row.mapping else row.engine


def _split(energy_pj: Dict[str, float], most: int = 2) -> str:
    """The largest shares of an energy: ``static 79%, compute 12%``."""
    total = sum(energy_pj.values()) or 1.0
    largest = sorted(energy_pj.items(), key=lambda item: -item[1])[:most]
    return ", ".join(f"{name} {value / total:.0%}" for name, value in largest)


def _compact(mapping: Mapping) -> str:
    """Levels with loops, outermost first: ``wb P2|K16 acc C2R3|S3C8``; after the bar, loops that run in parallel."""
    parts = []
    for level in reversed(mapping.levels):
        words = level.level.split("_")
        name = words[0][:3] if len(words) == 1 else "".join(word[0] for word in words)
        loops = "".join(f"{dim}{bound}" for dim, bound in reversed(level.temporal) if bound > 1)
        parallel = "".join(f"{dim}{bound}" for dim, bound in level.spatial if bound > 1)
        if loops or parallel:
            parts.append(f"{name} {loops}" + (f"|{parallel}" if parallel else ""))
    return " ".join(parts)
