"""The cost tensor: every layer shape on every engine configuration, and what networks cost with it.

An accelerator is a tuple of one configuration per engine kind and one shared configuration (memories, ports, clock). A
layer's cost depends on the engine of its kind and on the shared configuration only, so the tensor is kept per kind; the
cost of a network on any of millions of accelerators is a sum of one entry per kind.

Policies: each layer's mapping minimises ``w P latency + (1 - w) energy`` (P = 1 W) for w in a fixed grid; an engine
runs all of a network's layers of its kind under one w. Least latency (w = 1) and least energy (w = 0) of a network are
exact; its EDP and the points between are the best over the grid. `CostTensor.edp_bound` says what no choice of a
mapping for every layer can beat, and so how large the gap can be; `cosearch.hardware.hull` has the derivation.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cosearch.errors import HardwareError, InfeasibleError
from cosearch.hardware import split, tensorfiles
from cosearch.hardware.accelerator import Accelerator, refusal
from cosearch.hardware.combine import Candidate, Options, Problem, Solution, solve, undominated_rows
from cosearch.hardware.fronts import HardwareFront, NetworkCost, Pipeline
from cosearch.hardware.hull import outer_corners
from cosearch.hardware.kernels import add_least_sums
from cosearch.hardware.limits import CONSTRAINTS, checked_limits
from cosearch.hardware.pricing import (
    RESIDENCIES,
    ColumnTable,
    Residency,
    best_costs,
    columns,
    host_cost,
    layer_front,
    memory_ms,
    vector_costs,
)
from cosearch.hardware.resources import RESOURCES
from cosearch.hardware.single import best, one_accelerator, too_small
from cosearch.hardware.split import PairTable
from cosearch.hardware.tables import AcceleratorSpace, EngineTable, Floats, Ints, NestSpace, Prices, SharedTable
from cosearch.workload import Layer, Workload
from cosearch.writing import cache_folder

Mask = NDArray[np.bool_]
POLICIES: tuple[float, ...] = (1.0, 0.5, 0.0)
VECTOR_KINDS: tuple[str, ...] = ("pool", "elementwise")


def cost_tensor(
    layers: Sequence[Layer],
    space: AcceleratorSpace,
    *,
    progress: Callable[[int, int], None] | None = None,
    cache: bool = True,
    policies: Sequence[float] = POLICIES,
    build: "Build | None" = None,
) -> "CostTensor":
    """Price every layer on every configuration of a space.

    layers: distinct layer shapes; counts of networks refer to their order.
    progress: called with (layers done, layers in all).
    cache: keep the result under $COSEARCH_CACHE or ~/.cache/cosearch, keyed by everything that decides it.
    build: what prices them, if not this process; see `joined`.

    A layer that fits no mapping, or whose kind has no engine in the space, stops nothing: networks with it are
    infeasible on every accelerator, and their fronts say why.
    """
    tensor = CostTensor(tuple(layers), space, tuple(policies))
    folder = cache_folder() / "tensors" / tensor.identity if cache else None
    known = tensorfiles.load(folder, tensor.shapes) if folder is not None else None
    if known is not None:
        return tensor.filled(*known)
    if build is not None:
        tensor = build(tensor.layers, space, tensor.policies, progress)
    else:
        tensor = _priced(tensor, progress)
    if folder is not None:
        tensorfiles.save(folder, tensor.latency, tensor.energy)
    return tensor


def joined(
    layers: tuple[Layer, ...],
    space: AcceleratorSpace,
    policies: tuple[float, ...],
    parts: Sequence[tuple[Mapping[str, list[Floats]], Mapping[str, list[Floats]]]],
) -> "CostTensor":
    """The tensor of layers that were priced in blocks, from the latency and energy of each block, in order."""
    tensor = CostTensor(layers, space, policies)

    def whole(which: int) -> dict[str, list[Floats]]:
        return {
            kind: [np.concatenate([part[which][kind][case] for part in parts]) for case in range(len(RESIDENCIES))]
            for kind in tensor.shapes
        }

    return tensor.filled(whole(0), whole(1))


def _priced(tensor: "CostTensor", progress: Callable[[int, int], None] | None) -> "CostTensor":
    """A tensor that has no figures yet, with them."""
    layers, space, policies = tensor.layers, tensor.space, tensor.policies
    shared, prices, tables = tensor.shared, tensor.prices, tensor.tables
    latency, energy = (
        {kind: [np.empty(s) for s in shapes] for kind, shapes in tensor.shapes.items()} for _ in range(2)
    )
    weight_bits = sorted(set(shared.weight_bits.tolist()))
    activation_bits = sorted(set(shared.activation_bits.tolist()))
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(layers))

    for kind, table in tensor.engines.items():
        if isinstance(table, PairTable):
            some = [layers[index] for index in tensor.rows[kind]]
            split.fill(some, table, shared, tables, prices, policies, latency[kind], energy[kind], advance)
            continue
        for at, index in enumerate(tensor.rows[kind]):
            if isinstance(space, NestSpace):
                for case, residency in enumerate(RESIDENCIES):
                    ms: float | Floats = math.inf
                    mj: float | Floats = math.inf
                    if may_stay(table, residency):
                        ms, mj = space.layer_costs(layers[index], policies, residency)
                    latency[kind][case][at], energy[kind][case][at] = ms, mj
            else:
                front = layer_front(layers[index], table, weight_bits, activation_bits)
                for case, residency in enumerate(RESIDENCIES):
                    ms, mj, _ = best_costs(front, table, shared, tables[case], residency, prices, policies)
                    latency[kind][case][at], energy[kind][case][at] = ms, mj
            advance()
    for at, index in enumerate(tensor.vector_rows):
        for case, residency in enumerate(RESIDENCIES):
            ms, mj = vector_costs(layers[index], shared, tables[case], residency, prices)
            latency["vector"][case][at, :, 0, 0] = ms
            energy["vector"][case][at, :, 0, 0] = mj
        advance()
    return tensor.filled(latency, energy)


def keeps(engines: EngineTable | PairTable, residency: Residency, weight_bits: float, activation_bits: float) -> Mask:
    """Which engines can keep what stays, [configuration]; more than they have room for cannot stay."""
    room = np.ones(len(engines), bool)
    if residency.weights:
        room &= weight_bits <= engines.weight_bits
    if residency.activations:
        room &= activation_bits <= engines.activation_bits
    return room


def may_stay(engines: EngineTable, residency: Residency) -> bool:
    """Whether some engine can keep anything of what stays."""
    return bool(keeps(engines, residency, 0.0, 0.0).any())


def _rows(layers: Sequence[Layer], kinds: Sequence[str]) -> Ints:
    return np.array([i for i, layer in enumerate(layers) if layer.kind in kinds], np.int64)


_CHOSEN = ("latency_ms", "energy_mj", "shared", "engines", "policies", "residency")
"""What the rest of a point follows from."""


@dataclass(frozen=True, eq=False)
class CostTensor:
    """See the module. latency, energy: per kind and residency [layer of the kind, column, policy, engine]."""

    layers: tuple[Layer, ...]
    space: AcceleratorSpace
    policies: tuple[float, ...]
    latency: dict[str, list[Floats]] = field(default_factory=dict)
    energy: dict[str, list[Floats]] = field(default_factory=dict)

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self.engines)

    @cached_property
    def engines(self) -> dict[str, EngineTable | PairTable]:
        return {kind: self.space.engines(kind) for kind in self.space.kinds}

    @cached_property
    def shared(self) -> SharedTable:
        return self.space.shared

    @cached_property
    def prices(self) -> Prices:
        return self.space.prices

    @cached_property
    def tables(self) -> tuple[ColumnTable, ...]:
        """Per residency the shared configurations whose costs differ."""
        return tuple(columns(self.shared, residency) for residency in RESIDENCIES)

    @cached_property
    def rows(self) -> dict[str, Ints]:
        """Per engine kind the layers that run on it."""
        return {engine: _rows(self.layers, kinds) for engine, kinds in self.space.serves.items()}

    @cached_property
    def vector_rows(self) -> Ints:
        """The layers of the vector unit."""
        served = {kind for kinds in self.space.serves.values() for kind in kinds}
        return _rows(self.layers, [kind for kind in VECTOR_KINDS if kind not in served])

    def _rows_of(self, kind: str) -> Ints:
        """The layers of an engine kind, or of the vector unit (kind ``vector``)."""
        return self.vector_rows if kind == "vector" else self.rows[kind]

    @property
    def shapes(self) -> dict[str, list[tuple[int, ...]]]:
        """Of the arrays of `latency` and `energy`."""
        grid = len(self.policies)
        found: dict[str, list[tuple[int, ...]]] = {
            kind: [(len(self.rows[kind]), len(table.shared), grid, len(engines)) for table in self.tables]
            for kind, engines in self.engines.items()
        }
        return found | {"vector": [(len(self.vector_rows), len(table.shared), 1, 1) for table in self.tables]}

    def filled(self, latency: Mapping[str, list[Floats]], energy: Mapping[str, list[Floats]]) -> "CostTensor":
        """This tensor with its figures, which it does not have when it is made."""
        self.latency.update(latency)
        self.energy.update(energy)
        return self

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for part in (self.latency, self.energy) for case in part.values() for array in case)

    def _counts(self, counts: ArrayLike) -> Ints:
        row = np.asarray(counts)
        if row.shape != (len(self.layers),) or (row.size and not (row.min() >= 0 and np.isfinite(row.max()))):
            raise HardwareError(
                f"counts of shape {row.shape}, expected {len(self.layers)} numbers, 0 or more: one per layer"
            )
        return row

    def with_resources_of(self, space: AcceleratorSpace) -> "CostTensor | None":
        """This tensor for a space that differs in resources and budget only; None if more differs."""
        other: Any = replace(self, space=space)
        same = (
            other.prices == self.prices
            and other.shared.same_costs(self.shared)
            and set(other.engines) == set(self.engines)
            and all(table.same_costs(self.engines[kind]) for kind, table in other.engines.items())
        )
        return other if same else None

    def counts_of(self, workload: Workload) -> Ints:
        """How often a network has each layer of the tensor.

        Raises: HardwareError naming a layer whose shape the tensor does not have.
        """
        counts = np.zeros(len(self.layers), np.int64)
        for layer in workload.layers:
            if layer.shape_key not in self._position:
                raise HardwareError(
                    f"workload {workload.name!r}: layer {layer.name!r} is not in the tensor; build it with this layer"
                )
            counts[self._position[layer.shape_key]] += 1
        return counts

    @cached_property
    def _nests(self) -> bool:
        return isinstance(self.space, NestSpace)  # which compares every member of a protocol: too slow for each network

    @cached_property
    def _position(self) -> dict[tuple[Any, ...], int]:
        return {layer.shape_key: i for i, layer in enumerate(self.layers)}

    def weight_bits(self, counts: ArrayLike) -> float:
        """Bits that the weights of a network take; infinite if some are computed: then weights do not stay on chip."""
        row = self._counts(counts)
        computed = any(self.layers[i].computed_weights for i in np.flatnonzero(row))
        return math.inf if computed else float(row @ self._weight_bits)

    @cached_property
    def _weight_bits(self) -> Floats:
        """Per layer, as the engine that runs it stores them."""
        bits = np.zeros(len(self.layers))
        for kind, table in self.engines.items():
            stored = [table.seen(self.layers[i]) for i in self.rows[kind]]
            bits[self.rows[kind]] = [layer.weight_count * layer.weight_width for layer in stored]
        return bits

    @cached_property
    def memory(self) -> dict[str, list[Floats]]:
        """How long every layer needs the memories that engines share, as `latency`; made when a pipeline is asked for.

        Layers of the vector unit, of two engines at once, and of spaces whose layers are not priced by the array
        template are taken to need them for as long as they run.
        """
        found = {kind: list(cases) for kind, cases in self.latency.items()}
        if self._nests:
            return found
        weight_bits, activation_bits = (
            sorted({*x.tolist()}) for x in (self.shared.weight_bits, self.shared.activation_bits)
        )
        for kind, table in self.engines.items():
            if isinstance(table, PairTable):
                continue
            found[kind] = [np.empty_like(cases) for cases in self.latency[kind]]
            for at, index in enumerate(self.rows[kind]):
                front = layer_front(self.layers[index], table, weight_bits, activation_bits)
                for case, residency in enumerate(RESIDENCIES):
                    where = (front, table, self.shared, self.tables[case], residency)
                    chosen = best_costs(*where, self.prices, self.policies)[2]
                    found[kind][case][at] = memory_ms(*where, chosen)
        return found

    def memory_sums(self, kind: str, case: int, counts: Ints, column: int | slice = slice(None)) -> Floats:
        """Memory time of the network's layers of one engine kind, or of the vector unit; shaped as `sums`'."""
        rows = self._rows_of(kind)
        needed = np.flatnonzero(counts[rows])
        return np.asarray(np.tensordot(counts[rows[needed]].astype(float), self.memory[kind][case][needed, column], 1))

    def sums(
        self, kind: str, case: int, counts: Ints, column: int | slice = slice(None), dynamic: bool = False
    ) -> tuple[Floats, Floats]:
        """Latency and energy of the network's layers of one engine kind, or of the vector unit (kind ``vector``).

        case: index into `RESIDENCIES`, what stays on chip. column: of `tables[case]`, one or all of them.
        dynamic: energy without static power.

        Returns: latency_ms, energy_mj [policy, engine], or [column, policy, engine]; infinite where no mapping fits.
        """
        rows = self._rows_of(kind)
        needed = np.flatnonzero(counts[rows])
        times = counts[rows[needed]].astype(float)
        ms, mj = self.latency[kind][case][needed, column], self.energy[kind][case][needed, column]
        latency, energy = np.tensordot(times, ms, 1), np.tensordot(times, mj, 1)
        if dynamic:
            static = np.where(np.isfinite(latency), latency, 0.0) * self.prices.static_power_w
            energy = energy - static
        return latency, energy

    def _groups(self, weight_bits: float, activation_bits: float) -> list[tuple[int, int, int]]:
        """(residency, column, shared configuration): those with the fewest blocks of memory that realise a column.

        Both resident is never worse than less, whole weights never worse than fetched ones; resident activations
        exclude splitting C, so without resident weights both cases are looked at.
        """
        if self._nests:  # the engine's own memories decide, see `keeps`
            return [(case, 0, 0) for case in range(len(RESIDENCIES))]
        weights = weight_bits <= self.shared.weight_bits
        activations = activation_bits <= self.shared.activation_bits
        key = weights.tobytes() + activations.tobytes()
        if key not in self._known_groups:
            self._known_groups[key] = self._grouped(weights, activations)
        return self._known_groups[key]

    @cached_property
    def _known_groups(self) -> dict[bytes, list[tuple[int, int, int]]]:
        """By which capacities suffice: a few cases for all networks."""
        return {}

    def _grouped(self, weights: Mask, activations: Mask) -> list[tuple[int, int, int]]:
        """`_groups` where weights and activations fit some of the shared configurations."""
        memory = self.shared.resources[:, [RESOURCES.index("bram"), RESOURCES.index("uram")]]
        groups: dict[tuple[int, int], list[int]] = {}
        for at in range(len(self.shared)):
            cases = [2 * int(weights[at]) + int(activations[at])]
            if not weights[at] and activations[at]:
                cases.append(0)
            for case in cases:
                kept = groups.setdefault((case, int(self.tables[case].of_shared[at])), [])
                if not any((memory[other] <= memory[at]).all() for other in kept):
                    kept[:] = [other for other in kept if not (memory[at] <= memory[other]).all()] + [at]
        return [(*key, at) for key, kept in groups.items() for at in kept]

    def hardware_front(
        self,
        counts_row: ArrayLike,
        live_activation_bytes: float,
        objectives: Sequence[str] = ("latency_ms", "energy_mj"),
        constraints: Mapping[str, float] | None = None,
        host_bytes: float = 0.0,
        pipelined: bool = False,
    ) -> HardwareFront:
        """The exact Pareto front over all accelerators within the budget, for one network.

        counts_row: how often the network has each layer of the tensor. live_activation_bytes: the most activations
        alive at once (`Workload.live_activation_bytes`). host_bytes: network input and output, charged to DRAM.
        objectives: some of `METRICS`; constraints: ``max_<metric>`` values.
        pipelined: engines (and the vector unit) work on different images at once; latency_ms is then the interval
        between images, and static power is paid for that long: ``max(time of the slowest engine, memory time of all
        layers)``. A layer's memory time is what it needs of DRAM, of the buffers' ports or of the vector lanes, the
        longest of these at the whole rate, for these serve one engine at a time. So the interval is under no roofline
        of the network. It takes transfers that are spread evenly: rates divided in fixed shares, in proportion to the
        engines' memory times, take at most twice as long. Activations stay only if there is room for an image per
        engine; a tile may take the whole buffer, as in images one after the other. Mappings are those of the
        policies, none of which minimises memory time: the interval is the best over their grid.
        A network that lacks a kind gets no engine of that kind.

        Returns: a front, empty with a reason if nothing fits.
        Raises: ConfigError for an objective or constraint that does not exist or is unknown for the space.
        """
        limits = checked_limits(objectives, constraints or {}, self.space)
        counts = self._counts(counts_row)
        if not (live_activation_bytes >= 0 and 0 <= host_bytes < math.inf):
            raise HardwareError(
                f"live_activation_bytes={live_activation_bytes!r}, host_bytes={host_bytes!r}: expected bytes, 0 or more"
            )
        needed = self._needed(counts)
        by_resources = any(name in (*RESOURCES, "area_mm2") for name in objectives)
        images = len(needed) + bool(counts[self.vector_rows].any()) if pipelined else 1
        demand = _Demand(counts, self.weight_bits(counts), 8 * live_activation_bytes * images, host_bytes, pipelined)
        found = self._solve(demand, limits, by_resources)
        if pipelined:
            static = found.options.latency * self.prices.static_power_w
            found = replace(found, options=replace(found.options, energy=found.options.energy + static))
        front = self._front(found, needed, tuple(self.layers[i] for i in np.flatnonzero(counts)))
        keep = np.ones(len(front), bool)
        for name, limit in limits.items():
            keep &= front.metric(name) <= limit
        reason = ""
        if not keep.any():
            unmet = f"no accelerator within the budget meets {', '.join(constraints or {})}" if limits else front.reason
            reason = self._unserved(counts) or self._stuck(counts) or unmet
        front = front.take(np.flatnonzero(keep))
        values = np.stack([front.metric(name) for name in objectives], axis=1)
        front = front.take(undominated_rows(values))
        bound = pipelined and split.NAME in needed
        return replace(front, reason="" if len(front) else reason, interval_is_bound=bound)

    def runs_within(
        self,
        counts_row: ArrayLike,
        live_activation_bytes: float,
        constraints: Mapping[str, float],
        host_bytes: float = 0.0,
    ) -> bool:
        """Whether `hardware_front` has a point, in a part of its time: the first accelerator that is found will do.

        Raises: as `hardware_front`.
        """
        limits = checked_limits(("latency_ms", "energy_mj"), constraints, self.space)
        counts = self._counts(counts_row)
        demand = _Demand(counts, self.weight_bits(counts), 8 * live_activation_bytes, host_bytes)
        needed, budget = self._needed(counts), np.array(self._budget(limits), np.int64)
        most = limits.get("latency_ms", math.inf), limits.get("energy_mj", math.inf)
        groups, least = self._possible(demand, most)

        def near(group: tuple[int, int, int]) -> float:
            return float((least[group[0]][:, group[1]] / most).max())

        for case, column, at in sorted(groups, key=near):
            bound = tuple(least[case][:, column].tolist())
            candidate = Candidate(0.0, bound, partial(self._problem, case, column, at, needed, demand))
            front = self._front(solve([candidate], budget, len(needed), False, most), needed, ())
            if np.all([front.metric(name) <= limit for name, limit in limits.items()], axis=0).any():
                return True
        return False

    @cached_property
    def identity(self) -> str:
        """Equal for tensors whose fronts are equal, as far as `tensorfiles.VERSION` tells when the code changes."""
        return identity_of(self.layers, self.space, self.policies)

    def record(self, front: HardwareFront) -> dict[str, Any]:
        """One of its fronts as JSON, which `recorded` takes: exact, and much faster than to find it again."""
        points = {name: getattr(front, name).tolist() for name in _CHOSEN}
        return {"of": self.identity, "layers": [self._position[x.shape_key] for x in front.layers], **points}

    def recorded(self, record: Mapping[str, Any]) -> HardwareFront:
        """The front of a record.

        Raises: ValueError, KeyError, TypeError, IndexError or OverflowError if it is not of this tensor, or damaged.
        """
        if record["of"] != self.identity:
            raise ValueError(f"a record of {record['of']}, not of {self.identity}")
        ms, mj = (np.array(record[name], float) for name in ("latency_ms", "energy_mj"))
        shared, residency = (np.array(record[name], np.int64) for name in ("shared", "residency"))
        engines, policies = (np.array(record[n], np.int64).reshape(len(ms), -1) for n in ("engines", "policies"))
        wide = (len(ms), len(self.kinds))
        if not len(ms) or any(x.shape != wide for x in (engines, policies)) or not np.isfinite([ms, mj]).all():
            raise ValueError("points that cannot be")
        grid = len(self.policies)
        if min(shared.min(), residency.min()) < 0 or residency.max() >= len(RESIDENCIES) or policies.max() >= grid:
            raise ValueError("indices that cannot be")
        resources = self.shared.resources[shared]
        for i, kind in enumerate(self.kinds):
            used = engines[:, i] >= 0
            resources[used] += self.engines[kind].resources[engines[used, i]]
        layers = tuple(self.layers[i] for i in record["layers"])
        area = _area_mm2(resources)
        return HardwareFront(
            self.kinds, ms, mj, area, resources, shared, engines, policies, residency, "", self.space, layers,
            self.policies,
        )  # fmt: skip

    def edp_bound(
        self,
        counts_row: ArrayLike,
        live_activation_bytes: float,
        constraints: Mapping[str, float] | None = None,
        host_bytes: float = 0.0,
    ) -> float:
        """An energy-delay product, mJ ms, that no accelerator within the budget can beat for one network, whatever
        mapping each layer has: the least of the corners that the policies leave (see `cosearch.hardware.hull`).

        Arguments as `hardware_front`'s; limits of latency, energy and their product do not narrow the bound. For images
        one after the other. 0 where the policies lack least latency or least energy; NaN for layers that two engines
        share, whose parts both run under one policy; infinite if the network runs nowhere.

        Raises: what `hardware_front` raises.
        """
        limits = checked_limits(("edp",), constraints or {}, self.space)
        counts = self._counts(counts_row)
        if split.NAME in self._needed(counts):
            return math.nan
        demand = _Demand(counts, self.weight_bits(counts), 8 * live_activation_bytes, host_bytes, corners=True)
        of_silicon = {name: limit for name, limit in limits.items() if name not in ("latency_ms", "energy_mj")}
        corners = self._solve(demand, of_silicon, by_resources=False).options
        return float((corners.latency * corners.energy).min(initial=math.inf))

    def _needed(self, counts: Ints) -> tuple[str, ...]:
        """The kinds of engines that a network needs."""
        return tuple(kind for kind in self.kinds if counts[self.rows[kind]].any())

    def _solve(self, demand: "_Demand", limits: Mapping[str, float], by_resources: bool) -> Solution:
        """What is not dominated of all accelerators within the budget."""
        needed = self._needed(demand.counts)
        budget = np.array(self._budget(limits), np.int64)
        most = limits.get("latency_ms", math.inf), limits.get("energy_mj", math.inf)
        return solve(self._candidates(needed, demand, most), budget, len(needed), by_resources, most)

    def hardware_fronts(
        self,
        counts: ArrayLike,
        live_activation_bytes: ArrayLike,
        *,
        host_bytes: ArrayLike = 0.0,
        progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> list[HardwareFront]:
        """`hardware_front` of many networks: counts [network, layer]; live_activation_bytes, host_bytes [network].

        Networks that make the same demands share one front, which is computed once.
        progress: called with (different demands done, different demands in all); options: as `hardware_front`'s.
        """
        table = np.asarray(counts)
        sides = [np.broadcast_to(np.asarray(x, float), len(table)) for x in (live_activation_bytes, host_bytes)]
        distinct, which = np.unique(np.column_stack([table, *sides]), axis=0, return_inverse=True)
        fronts = []
        for *row, live, host in distinct:
            fronts.append(self.hardware_front(row, live, host_bytes=host, **options))
            if progress is not None:
                progress(len(fronts), len(distinct))
        return [fronts[i] for i in which.ravel()]

    def networks(
        self, counts: ArrayLike, accelerators: ArrayLike | None = None, policy: float = 1.0
    ) -> tuple[Floats, Floats]:
        """Latency and energy of many networks on a list of accelerators, [network, accelerator], nothing resident.

        accelerators: as `cosearch.hardware.sweep.grid` takes them; its `Grid` streams what does not fit memory.

        Infinite where a network cannot run: `reason` says why.
        """
        from cosearch.hardware.sweep import grid

        return grid(self, accelerators, policy=policy).networks(counts)

    def best_accelerator(
        self,
        counts_row: ArrayLike,
        objective: str = "edp",
        constraints: Mapping[str, float] | None = None,
        live_activation_bytes: float = math.inf,
        host_bytes: float = 0.0,
    ) -> HardwareFront:
        """The accelerator that minimises one metric under constraints, as a front of one point.

        Raises: InfeasibleError that says the best that can be reached; what `hardware_front` raises.
        """
        both = ("latency_ms", "energy_mj")
        objectives = both if objective in (*both, "edp") else (objective, *both)
        front = self.hardware_front(counts_row, live_activation_bytes, objectives, constraints, host_bytes)
        if not len(front):
            limited = [CONSTRAINTS[name] for name in constraints or {}]
            free = self.hardware_front(counts_row, live_activation_bytes, limited or objectives, None, host_bytes)
            reached = ", ".join(f"{name} {free.metric(name).min():.6g}" for name in limited if len(free))
            raise InfeasibleError(
                f"no accelerator meets the constraints; the best that can be reached: {reached}"
                if reached
                else free.reason or front.reason
            )
        order = np.lexsort((front.edp, front.metric(objective)))
        return front.take(order[:1])

    def _budget(self, limits: Mapping[str, float]) -> list[int]:
        have = dict(zip(RESOURCES, self.space.budget.counts, strict=True))
        if "area_mm2" in limits:
            have["area_um2"] = min(have["area_um2"], int(limits["area_mm2"] * 1e6))
        return [int(min(have[name], limits.get(name, math.inf))) for name in RESOURCES]

    def _possible(
        self, demand: "_Demand", most: tuple[float, float]
    ) -> tuple[list[tuple[int, int, int]], dict[int, Floats]]:
        """The groups that may reach limits of latency and energy, and `_least_sums` by residency where they bound."""
        if self._unserved(demand.counts):
            return [], {}
        groups, least = self._groups(demand.weight_bits, demand.activation_bits), {}
        if not demand.pipelined and not demand.corners:
            least = {case: self._least_sums(case, demand.counts) for case in {case for case, *_ in groups}}
            highest = np.array(most)[:, None] * (1 + 1e-9)
            within = {case: np.all((sums <= highest) & np.isfinite(sums), axis=0) for case, sums in least.items()}
            groups = [group for group in groups if within[group[0]][group[1]]]
        return groups, least

    def _candidates(self, needed: tuple[str, ...], demand: "_Demand", most: tuple[float, float]) -> list[Candidate]:
        """One problem per group, with a lower bound: what the network's layers cost at least in its residency and
        column; of pipelines and of corners what they cost at least with everything resident.

        most: of latency and energy; groups that are above them are left out.
        """
        groups, own = self._possible(demand, most)
        if groups and not own:
            resident, of_shared = self._resident_least(needed, demand), self.tables[-1].of_shared
        candidates = []
        for case, column, at in groups:
            least = own[case][:, column] if own else resident[:, of_shared[at]]
            bound = float(least[0]), float(least[1])
            build = partial(self._problem, case, column, at, needed, demand)
            candidates.append(Candidate(bound[0] * bound[1], bound, build))
        return candidates

    def _resident_least(self, needed: tuple[str, ...], demand: "_Demand") -> Floats:
        """[2, column] least latency and energy of a network whose weights and activations stay on chip."""
        latency, energy, memory = np.zeros((3, len(self.tables[-1].shared)))
        if self._nests:  # what stays takes room from tiles: it may cost more
            return np.stack([latency, energy])
        pipelined = demand.pipelined
        for kind in (*needed, "vector"):
            ms, mj = self.sums(kind, len(self.tables) - 1, demand.counts, dynamic=pipelined)
            least = ms.min(axis=(1, 2), initial=np.inf)  # no engine of a kind: nothing is feasible
            latency = np.maximum(latency, least) if pipelined else latency + least
            energy += mj.min(axis=(1, 2), initial=np.inf)
            if pipelined:
                held = self.memory_sums(kind, len(self.tables) - 1, demand.counts)
                memory += held.min(axis=(1, 2), initial=np.inf)
        return np.stack([np.maximum(latency, memory), energy])

    def _least_sums(self, case: int, counts: Ints) -> Floats:
        """[2, column] no engines and policies have less latency, or less energy, for a network under a residency."""
        found = np.zeros((2, len(self.tables[case].shared)))
        for kind in (*self._needed(counts), "vector"):
            times = counts[self._rows_of(kind)]
            rows = np.flatnonzero(times)
            if not len(rows):
                continue
            if (kind, case) not in self._least:
                layers, columns, _, engines = self.latency[kind][case].shape
                self._least[kind, case] = np.empty((layers, 2, columns, engines), np.float32), np.zeros(layers, bool)
            costs, known = self._least[kind, case]
            for at in rows[~known[rows]]:
                for side, part in enumerate((self.latency, self.energy)):
                    costs[at, side] = _below(part[kind][case][at].min(axis=1, initial=np.inf))
                known[at] = True
            add_least_sums(costs, rows, times[rows].astype(float), found)
        return found

    @cached_property
    def _least(self) -> dict[tuple[str, int], tuple[NDArray[np.float32], Mask]]:
        """By kind and residency: least latency and energy [layer, 2, column, engine] over the policies, rounded down,
        and of which layers they were asked for: the figures of others are not touched.
        """
        return {}

    def _problem(
        self,
        case: int,
        column: int,
        at: int,
        needed: tuple[str, ...],
        demand: "_Demand",
    ) -> Problem | None:
        counts, pipelined = demand.counts, demand.pipelined
        stored = demand.weight_bits, demand.activation_bits
        base_ms, base_mj = self.host_cost(demand.host_bytes, at)
        if pipelined:
            base_mj -= base_ms * self.prices.static_power_w
        vector_ms, vector_mj = self.sums("vector", case, counts, column, pipelined)
        options = []
        for kind in needed:
            ms, mj = self.sums(kind, case, counts, column, pipelined)
            if demand.corners:
                ms, mj = outer_corners(ms, mj, self.policies)
            held = self.memory_sums(kind, case, counts, column) if pipelined else np.zeros_like(ms)
            useful = np.isfinite(ms) & keeps(self.engines[kind], RESIDENCIES[case], *stored)
            # most engines do the same under every policy
            useful[1:] &= (ms[1:] != ms[0]) | (mj[1:] != mj[0]) | (held[1:] != held[0])
            ms, mj, held, fits = ms.ravel(), mj.ravel(), held.ravel(), np.flatnonzero(useful)
            if not len(fits):
                return None
            resources = self.engines[kind].resources[fits % len(self.engines[kind])]
            options.append(Options(ms[fits], mj[fits], held[fits], resources, fits[:, None]))
        alone_ms = np.array([base_ms + float(vector_ms[0, 0])])
        base = Options(
            alone_ms,
            np.array([base_mj + float(vector_mj[0, 0])]),
            alone_ms if pipelined else np.zeros(1),  # all of it is in the memories
            self.shared.resources[at : at + 1],
            np.empty((1, 0), np.int64),
        )
        return Problem(case, at, base, tuple(options), pipelined)

    def host_cost(self, host_bytes: float, shared: int) -> tuple[float, float]:
        """Moving the network's input and output through DRAM: latency_ms, energy_mj."""
        return host_cost(host_bytes, float(self.shared.dram_bits[shared]), self.prices)

    def _front(self, found: Solution, needed: tuple[str, ...], layers: tuple[Layer, ...]) -> HardwareFront:
        n = len(found.options)
        engines = np.full((n, len(self.kinds)), -1, np.int64)
        policies = np.full((n, len(self.kinds)), -1, np.int64)
        for i, kind in enumerate(needed):
            at = self.kinds.index(kind)
            policies[:, at], engines[:, at] = np.divmod(found.options.chosen[:, i], len(self.engines[kind]))
        return HardwareFront(
            self.kinds,
            found.options.latency,
            found.options.energy,
            _area_mm2(found.options.resources),
            found.options.resources,
            found.shared,
            engines,
            policies,
            found.residency,
            "" if n else "no accelerator within the budget runs this network: no tile fits, or engines are too large",
            self.space,
            layers,
            self.policies,
        )

    def evaluate(
        self, counts_row: ArrayLike, live_activation_bytes: float, objective: str = "edp", host_bytes: float = 0.0
    ) -> NetworkCost:
        """One network on the one accelerator that this tensor was built for (`accelerator_tensor`).

        Raises: ConfigError for an objective that does not exist or is unknown for the accelerator.
        """
        checked_limits((objective,), {}, self.space)
        counts = self._counts(counts_row)
        front = self.hardware_front(counts, live_activation_bytes, host_bytes=host_bytes)
        if not len(front):
            return NetworkCost(math.inf, math.inf, False, front.reason)
        i = int(np.lexsort((front.edp, front.metric(objective)))[0])
        residency = RESIDENCIES[int(front.residency[i])]
        return NetworkCost(
            float(front.latency_ms[i]),
            float(front.energy_mj[i]),
            True,
            weights_resident=residency.weights,
            activations_resident=residency.activations,
            policies=front.policies_of(i),
            edp_bound=self.edp_bound(counts, live_activation_bytes, None, host_bytes),
        )

    def pipeline(self, counts_row: ArrayLike, live_activation_bytes: float, host_bytes: float = 0.0) -> Pipeline | None:
        """One network on the one accelerator that this tensor was built for, at the least interval between images; its
        mapping policies may differ from those of one image at a time.

        None where nothing works side by side: one engine runs all layers, or the template does not say how long layers
        need the memories; and where the network cannot run.
        """
        counts = self._counts(counts_row)
        needed = self._needed(counts)
        if self._nests or len(needed) + counts[self.vector_rows].any() < 2:
            return None
        front = self.hardware_front(counts, live_activation_bytes, host_bytes=host_bytes, pipelined=True)
        if not len(front):
            return None
        interval, case = float(front.latency_ms[0]), int(front.residency[0])
        busy = {kind: float(self.sums(kind, case, counts, 0)[0][policy, 0])
                for kind, policy in zip(self.kinds, front.policies[0], strict=True) if kind in needed}  # fmt: skip
        slowest = max(busy, key=lambda kind: busy[kind]) if busy else ""
        limit = slowest if busy and busy[slowest] >= interval * (1 - 1e-12) else "memories"
        return Pipeline(interval, float(front.energy_mj[0]), limit, front.policies_of(0), front.interval_is_bound)

    def _unserved(self, counts: Ints) -> str:
        """Why the network runs nowhere: no accelerators, or none with an engine for a layer. Empty if it may run."""
        if not len(self.shared):
            return f"the budget of {self.space.name} is too small for any accelerator, even for its smallest memories"
        served = {kind for kinds in self.space.serves.values() for kind in kinds}
        for i in np.flatnonzero(counts):
            layer = self.layers[i]
            if layer.kind not in served and layer.kind not in VECTOR_KINDS:
                return (
                    f"layer {layer.name!r}: {self.space.name} has no engine for {layer.kind!r} layers, "
                    f"only for {', '.join(sorted(served))}"
                )
        return ""

    def _stuck(self, counts: Ints) -> str:
        """Which layer of the network fits no mapping; empty if every one does."""
        for kind in self.kinds:
            for at, index in enumerate(self.rows[kind]):
                if counts[index] and not self._fits(kind, at):
                    layer = self.layers[index]
                    return refusal(layer) or f"layer {layer.name!r} fits no mapping{self._too_small(layer, kind)}"
        return ""

    def _fits(self, kind: str, row: int) -> bool:
        """Whether a layer of an engine kind has a mapping on some accelerator; looked up once."""
        if (kind, row) not in self._known_fits:
            self._known_fits[kind, row] = bool(np.isfinite(self.latency[kind][0][row]).any())
        return self._known_fits[kind, row]

    @cached_property
    def _known_fits(self) -> dict[tuple[str, int], bool]:
        return {}

    def _too_small(self, layer: Layer, kind: str) -> str:
        """Which memory is too small for a layer that fits nowhere, on an accelerator whose buffers are the largest."""
        shared = int(np.argmax(self.shared.weight_bits.astype(float) + self.shared.activation_bits))
        with suppress(HardwareError):
            accelerator = self.space.accelerator(shared, {kind: len(self.engines[kind]) - 1})
            why = too_small(layer, accelerator)
            return f": in {accelerator.name} {why}" if why else ""
        return ""

    def reason(self, counts_row: ArrayLike, accelerator: int | Sequence[int]) -> str:
        """Why a network cannot run on an accelerator of the space, naming a layer; empty if it can, nothing resident.

        accelerator: a row of the list that `networks` takes, or a column of what it returns without one.
        """
        counts = self._counts(counts_row)
        if self._unserved(counts):
            return self._unserved(counts)
        if isinstance(accelerator, int | np.integer):
            accelerator = divmod(int(accelerator), len(self.engines[self.kinds[0]]))
        shared, *engines = (int(i) for i in accelerator)
        for kind, engine in zip(self.kinds, engines, strict=True):
            rows = np.flatnonzero(counts[self.rows[kind]])
            if len(rows) and engine < 0:
                layer = self.layers[self.rows[kind][rows[0]]]
                return f"layer {layer.name!r}: the accelerator has no {kind!r} engine, which {layer.kind!r} layers need"
            column = self.tables[0].of_shared[shared]
            stuck = [i for i in rows if not np.isfinite(self.latency[kind][0][i, column, :, engine]).any()]
            if stuck:
                return self._refusal(
                    self.layers[self.rows[kind][stuck[0]]], kind, shared, dict(zip(self.kinds, engines, strict=True))
                )
        return ""

    def _refusal(self, layer: Layer, kind: str, shared: int, engines: dict[str, int]) -> str:
        """What keeps a layer off an accelerator on which it is infeasible."""
        reached, clock = self.engines[kind].fmax_mhz[engines[kind]], self.shared.clock_mhz[shared]
        if reached < clock:
            return f"layer {layer.name!r}: its engine reaches {reached:g} MHz, the accelerator runs at {clock:g}"
        try:
            best(layer, self.space.accelerator(shared, {name: at for name, at in engines.items() if at >= 0}))
        except HardwareError as error:
            return str(error) if f"layer {layer.name!r}" in str(error) else f"layer {layer.name!r}: {error}"
        return f"layer {layer.name!r} fits no mapping"

    def evaluate_on(
        self,
        accelerator: Accelerator,
        counts_row: ArrayLike,
        live_activation_bytes: float,
        objective: str = "edp",
        host_bytes: float = 0.0,
    ) -> NetworkCost:
        """One network on a given accelerator, its mapping policies chosen for the objective."""
        counts = self._counts(counts_row)
        index = np.flatnonzero(counts)
        tensor = accelerator_tensor(tuple(self.layers[i] for i in index), accelerator, self.policies)
        return tensor.evaluate(counts[index], live_activation_bytes, objective, host_bytes)


def _below(values: Floats) -> NDArray[np.float32]:
    """In single precision, nothing above what it was."""
    single = values.astype(np.float32)
    return np.where(single > values, np.nextafter(single, np.float32(-np.inf)), single)


@dataclass(frozen=True)
class _Demand:
    """What a network asks of hardware; see `CostTensor.hardware_front`. corners: instead of the mappings that the
    policies choose, the corners that no choice of mappings can pass.
    """

    counts: Ints
    weight_bits: float
    activation_bits: float
    host_bytes: float
    pipelined: bool = False
    corners: bool = False


Build = Callable[
    [tuple[Layer, ...], AcceleratorSpace, tuple[float, ...], Callable[[int, int], None] | None], CostTensor
]


def accelerator_tensor(
    layers: Sequence[Layer], accelerator: Accelerator, policies: Sequence[float] = POLICIES
) -> CostTensor:
    """The cost tensor of a single accelerator."""
    return _priced(CostTensor(tuple(layers), one_accelerator(accelerator), tuple(policies)), None)


def network_pipeline(workload: Workload, accelerator: Accelerator, host_bytes: float = 0.0) -> Pipeline | None:
    """`CostTensor.pipeline` of a network on an accelerator."""
    counts = workload.shape_counts()
    tensor = accelerator_tensor(tuple(counts), accelerator)
    return tensor.pipeline(list(counts.values()), workload.live_activation_bytes, host_bytes)


def network_cost(
    workload: Workload, accelerator: Accelerator, objective: str = "edp", host_bytes: float = 0.0
) -> NetworkCost:
    """A network on one accelerator, its mapping policies chosen for its objective; infeasible ones say why.

    host_bytes: network input and output, charged to DRAM.
    """
    counts = workload.shape_counts()
    tensor = accelerator_tensor(tuple(counts), accelerator)
    return tensor.evaluate(list(counts.values()), workload.live_activation_bytes, objective, host_bytes)


def _area_mm2(resources: Ints) -> Floats:
    """NaN where the area is unknown."""
    um2 = resources[:, RESOURCES.index("area_um2")]
    return np.where(um2 > 0, um2 * 1e-6, np.nan)


def identity_of(layers: Sequence[Layer], space: AcceleratorSpace, policies: Sequence[float] = POLICIES) -> str:
    """`CostTensor.identity` of a tensor that need not have been built: a digest of all that decides it."""
    content = {
        "version": tensorfiles.VERSION,
        "layers": [layer.shape_key for layer in layers],
        "space": space.describe(),
        "policies": list(policies),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
