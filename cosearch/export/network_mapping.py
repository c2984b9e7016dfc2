"""How a whole network runs on one accelerator: which engine takes each layer, and the loop nest it runs there.

The document says what every layer costs, and holds all that is needed to price it again: `NetworkMapping.cost` goes
from workload, accelerator and loop nests to latency and energy without a search.
"""

import math
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cosearch.errors import HardwareError
from cosearch.export.schema import check
from cosearch.hardware import split
from cosearch.hardware.accelerator import Accelerator, engine_of
from cosearch.hardware.mapping import Mapping
from cosearch.hardware.pricing import Residency, columns, host_cost, vector_costs
from cosearch.hardware.report import LayerRow
from cosearch.hardware.single import one_accelerator
from cosearch.hardware.tables import tables_of
from cosearch.notebook import html_table
from cosearch.workload import Layer, Workload, host_bytes

FORMAT = "cosearch.network_mapping"
VECTOR = "vector"
"""The engine of layers that run on the vector unit."""


@dataclass(frozen=True)
class Part:
    """K output channels of a layer on the engine of a kind, which has a share of the memories meanwhile."""

    kind: str
    K: int
    share: float
    mapping: Mapping


@dataclass(frozen=True)
class LayerMapping:
    """One layer: its engine, its loop nest, and what it was found to cost.

    mapping: None on the vector unit, on engines priced in closed form, and where `parts` say it: of a layer that two
    engines may share.
    """

    layer: str
    engine: str
    mapping: Mapping | None
    parts: tuple[Part, ...]
    cycles: float
    latency_ms: float
    energy_mj: float
    utilisation: float
    bound: str


@dataclass(frozen=True)
class NetworkCost:
    """Of one image: latency_ms, energy_mj, and (latency_ms, energy_mj) of each layer; the rest is host transfer."""

    latency_ms: float
    energy_mj: float
    layers: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class NetworkMapping:
    """accelerator: its name. resident: tensors that stay on chip between layers. latency_ms, energy_mj: of one image,
    with the transfer of the network's input and output (host_bytes, host_latency_ms, host_energy_mj).
    """

    accelerator: str
    resident: tuple[str, ...]
    latency_ms: float
    energy_mj: float
    host_bytes: float
    host_latency_ms: float
    host_energy_mj: float
    layers: tuple[LayerMapping, ...]

    @classmethod
    def of(
        cls,
        workload: Workload,
        accelerator: Accelerator,
        residency: Residency,
        rows: Sequence[LayerRow],
        total: tuple[float, float],
    ) -> "NetworkMapping":
        """rows: the layers as `point_report` finds them; total: latency_ms and energy_mj of the point."""
        crossing = host_bytes(workload)
        return cls(
            accelerator.name,
            residency.tensors,
            *total,
            crossing,
            *_host_cost(accelerator, crossing),
            tuple(_layer_mapping(row) for row in rows),
        )

    def cost(self, workload: Workload, accelerator: Accelerator) -> NetworkCost:
        """Latency and energy, counted again from the loop nests.

        Raises: HardwareError if the mapping is of another network or accelerator, or does not fit.
        """
        if self.accelerator != accelerator.name:
            raise HardwareError(f"a mapping for accelerator {self.accelerator!r:.80}, got {accelerator.name!r:.80}")
        names = [layer.name for layer in workload.layers]
        if names != [entry.layer for entry in self.layers]:
            raise HardwareError(f"the mapping is not of workload {workload.name!r:.80}: its layers have other names")
        residency = Residency("W" in self.resident, "I" in self.resident)
        _check_residency(workload, accelerator, residency)
        costs = tuple(
            _cost(layer, accelerator, entry, residency)
            for layer, entry in zip(workload.layers, self.layers, strict=True)
        )
        ms, mj = _host_cost(accelerator, host_bytes(workload))
        return NetworkCost(ms + sum(cost[0] for cost in costs), mj + sum(cost[1] for cost in costs), costs)

    def _repr_html_(self) -> str:
        rows = [
            (
                entry.layer,
                entry.engine,
                f"{entry.cycles:,.0f}",
                f"{entry.latency_ms:.4g}",
                f"{entry.energy_mj:.4g}",
                f"{entry.utilisation:.1%}",
                entry.bound,
            )
            for entry in self.layers
        ]
        total = (f"{self.latency_ms:.4g}", f"{self.energy_mj:.4g}")
        rows.append(("network, with host transfer", "", "", *total, "", ""))
        columns = ("layer", "engine", "cycles", "ms", "mJ", "utilisation", "limited by")
        return html_table(f"mapping on {self.accelerator}, modelled", columns, rows)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": 1,
            "accelerator": self.accelerator,
            "resident": list(self.resident),
            "total": {"latency_ms": self.latency_ms, "energy_mj": self.energy_mj},
            "host_transfer": {
                "bytes": self.host_bytes,
                "latency_ms": self.host_latency_ms,
                "energy_mj": self.host_energy_mj,
            },
            "layers": [_layer_to_json(entry) for entry in self.layers],
        }

    @classmethod
    def from_json(cls, data: Dict[str, Any]) -> "NetworkMapping":
        """Raises: RunError if the document is not a network's mapping; HardwareError if a loop nest is malformed, or
        the total is not the sum of its parts.
        """
        check(data, "mapping")
        total, host = data["total"], data["host_transfer"]
        layers = tuple(_layer_from_json(entry) for entry in data["layers"])
        for name in ("latency_ms", "energy_mj"):
            parts = float(host[name]) + sum(getattr(layer, name) for layer in layers)
            if not math.isclose(parts, total[name], rel_tol=1e-9):
                raise HardwareError(f"total.{name} is {total[name]:.6g}, layers and host transfer sum to {parts:.6g}")
        return cls(
            data["accelerator"],
            tuple(data["resident"]),
            float(total["latency_ms"]),
            float(total["energy_mj"]),
            float(host["bytes"]),
            float(host["latency_ms"]),
            float(host["energy_mj"]),
            layers,
        )


def _layer_mapping(row: LayerRow) -> LayerMapping:
    pieces = row.parts
    if row.shares and not pieces:
        # one of the two engines runs the layer whole; the row then names that engine by its kind
        assert row.mapping is not None
        pieces = ((replace(row.layer, kind=row.engine), row.mapping),)  # type: ignore[arg-type]
    parts = tuple(
        Part(piece.kind, piece.K, share, mapping) for (piece, mapping), share in zip(pieces, row.shares, strict=True)
    )
    own = None if parts else row.mapping
    return LayerMapping(
        row.layer.name,
        row.engine,
        own,
        parts,
        float(row.cycles),
        float(row.latency_ms),
        float(row.energy_mj),
        float(row.utilisation),
        row.bound,
    )


def _cost(layer: Layer, accelerator: Accelerator, entry: LayerMapping, residency: Residency) -> tuple[float, float]:
    """Latency_ms and energy_mj of one layer."""
    if entry.parts:
        return _parts_cost(layer, accelerator, entry, residency)
    if entry.mapping is not None:
        from cosearch.hardware.cost import evaluate

        cost = evaluate(layer, accelerator, entry.mapping, residency.tensors)
        return cost.latency_ms, cost.energy_mj
    if entry.engine == VECTOR:
        if layer.has_weights:
            raise HardwareError(f"layer {layer.name!r:.80} of kind {layer.kind!r} cannot run on the vector unit")
        _, shared, prices = tables_of(accelerator)
        ms, mj = vector_costs(layer, shared, columns(shared, residency), residency, prices)
        return float(ms[0]), float(mj[0])
    form = engine_of(layer, accelerator).form
    if form is None:
        raise HardwareError(f"layer {layer.name!r:.80}: no loop nest is given, and its engine needs one")
    closed = form.cost(layer, residency.weights)
    return closed.latency_ms, closed.energy_mj


def _parts_cost(
    layer: Layer, accelerator: Accelerator, entry: LayerMapping, residency: Residency
) -> tuple[float, float]:
    """Side by side: the slower part's latency; both energies, static power once. See `cosearch.hardware.split`."""
    from cosearch.hardware.cost import evaluate

    if sum(part.K for part in entry.parts) != layer.K or sum(part.share for part in entry.parts) > 1:
        raise HardwareError(
            f"layer {layer.name!r:.80}: its parts have {sum(part.K for part in entry.parts)} of {layer.K} channels "
            f"and {sum(part.share for part in entry.parts):g} of the memories"
        )
    found = next((accelerator.engine_for(kind) for kind in split.KINDS if accelerator.engine_for(kind)), None)
    own = found.seen(layer) if found is not None else layer
    costs = [
        evaluate(
            split.channels(own, part.K, part.kind),  # type: ignore[arg-type]
            split.partition(accelerator, part.share),
            part.mapping,
            residency.tensors,
        )
        for part in entry.parts
    ]
    ms = max(cost.latency_ms for cost in costs)
    idle = sum(cost.latency_ms for cost in costs) - ms
    return ms, sum(cost.energy_mj for cost in costs) - accelerator.static_power_w * idle


def _host_cost(accelerator: Accelerator, crossing: float) -> tuple[float, float]:
    only = one_accelerator(accelerator)
    return host_cost(crossing, float(only.shared.dram_bits[0]), only.prices)


def _check_residency(workload: Workload, accelerator: Accelerator, residency: Residency) -> None:
    """Raises: HardwareError if what is said to stay on chip does not fit there."""
    only = one_accelerator(accelerator)
    tables = [only.shared, *(only.engines(kind) for kind in only.kinds)]
    held = (
        ("weights", residency.weights, workload.weight_bytes * 8, min(int(t.weight_bits[0]) for t in tables)),
        (
            "activations",
            residency.activations,
            workload.live_activation_bytes * 8,
            min(int(t.activation_bits[0]) for t in tables),
        ),
    )
    for name, stays, bits, room in held:
        if stays and bits > room:
            raise HardwareError(
                f"the mapping keeps {bits / 8:g} bytes of {name} on chip, {accelerator.name!r:.80} has room for "
                f"{max(room, 0) / 8:g}"
            )


def _layer_to_json(entry: LayerMapping) -> dict[str, Any]:
    parts = [
        {"kind": part.kind, "K": part.K, "share": part.share, "mapping": part.mapping.to_json()} for part in entry.parts
    ]
    return {
        "layer": entry.layer,
        "engine": entry.engine,
        "mapping": entry.mapping.to_json() if entry.mapping is not None else None,
        "parts": parts,
        "cycles": entry.cycles,
        "latency_ms": entry.latency_ms,
        "energy_mj": entry.energy_mj,
        "utilisation": entry.utilisation,
        "bound": entry.bound,
    }


def _layer_from_json(data: Dict[str, Any]) -> LayerMapping:
    parts = tuple(
        Part(part["kind"], int(part["K"]), float(part["share"]), Mapping.from_json(part["mapping"]))
        for part in data["parts"]
    )
    return LayerMapping(
        data["layer"],
        data["engine"],
        Mapping.from_json(data["mapping"]) if data["mapping"] is not None else None,
        parts,
        float(data["cycles"]),
        float(data["latency_ms"]),
        float(data["energy_mj"]),
        float(data["utilisation"]),
        data["bound"],
    )
