"""Smooth costs: one layer's latency, energy and area as functions of real tile sizes and real buffer sizes.

The relaxation is the analysis of `cosearch.hardware.cost` at loops of real bounds (1 and up) without rounding to whole
rows, with memories whose prices follow their capacities c (bytes; see `cosearch.hardware.technology`):

    latency = (max(compute, transfer_l for every level l, requantise) + fill and drain) / clock
    energy  = operations + requantisation + sum_l rows_l e_l(c_l) + (P + leakage(A(c) - A)) latency
    e(c)    = (base + slope c / 1024) row_bits / 16
    A(c)    = sum_l instances_l (cell 8 c_l + column row_bits_l + row 8 c_l / row_bits_l)
    excess_l = ln(footprint_l / room_l),  room = 8 c, half of it where a level is double-buffered

It equals `evaluate` at whole bounds but for rows, which `evaluate` rounds up. A design is feasible where no excess is
above 0; `descend` keeps it there by an augmented Lagrangian, follows the gradient from several starts at once, and
rounds what it finds to a mapping and to whole rows. It is meant for spaces too large to tabulate: where the mapspace
can be enumerated, `best` and the cost tensor are exact. The idea is DOSA's (Hong et al., MICRO 2023).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cosearch.errors import HardwareError, InfeasibleError, nearest
from cosearch.hardware.accelerator import Accelerator, Engine, MemoryLevel, engine_of, hierarchy
from cosearch.hardware.array import divisors
from cosearch.hardware.cost import BatchCost, Cost, Nests, evaluate, evaluate_batch
from cosearch.hardware.mapping import DIMS, LevelLoops, loop_bounds
from cosearch.hardware.mapping import Mapping as LayerMapping
from cosearch.hardware.nest import mapspace_of, spatial_options, trips_left
from cosearch.hardware.pricing import NOTHING_RESIDENT, Residency
from cosearch.hardware.sparsity import time_share
from cosearch.hardware.technology import Technology, is_sram, resized
from cosearch.workload import Layer

OBJECTIVES: tuple[str, ...] = ("latency", "energy", "edp")
_DRAWS = 16  # random designs per start, of which the best ones are started from
_ROUNDS = 3  # into which steps are divided; between them loop orders are chosen anew
_RHO = 4.0  # weight of the squared excess, and step of its multipliers
_EVERY = 10  # steps between updates of the multipliers, and between roundings
_RATE = 0.1


@dataclass(frozen=True)
class RelaxedCost:
    """Costs of B relaxed designs of one layer, B each; differentiable in the loops' bounds and the capacities.

    area_mm2: NaN where the accelerator's is unknown. excess: per level of finite capacity; see the module.
    footprint_bits: B x levels.
    """

    latency_ms: Tensor
    energy_mj: Tensor
    area_mm2: Tensor
    excess: dict[str, Tensor]
    footprint_bits: Tensor

    @property
    def edp(self) -> Tensor:
        """Energy-delay product, mJ ms."""
        return self.latency_ms * self.energy_mj


def relaxed_cost(
    layer: Layer,
    accelerator: Accelerator,
    loops: Nests,
    capacity_bytes: Mapping[str, Tensor] | None = None,
    technology: Technology | None = None,
    residency: Residency = NOTHING_RESIDENT,
) -> RelaxedCost:
    """See the module for the equations.

    loops: B nests over the hierarchy of the layer's engine, bounds from 1 on (`cosearch.hardware.cost.Nests`); their
        product per dimension covers the layer's bound. capacity_bytes: per level name B capacities, of one instance;
        other levels have their own. technology: prices those capacities.

    Raises: HardwareError for an engine without mappings, loops over other levels, a level that is no SRAM, or
        capacities without a technology.
    """
    engine = _searchable(layer, accelerator)
    levels, own = hierarchy(accelerator, engine), engine.seen(layer)
    sizes = dict(capacity_bytes or {})
    if loops.temporal.shape[1:] != (len(levels), len(DIMS)):
        raise HardwareError(
            f"layer {layer.name!r}: loops of shape {tuple(loops.temporal.shape)}, expected batch x {len(levels)} "
            f"levels ({', '.join(level.name for level in levels)}) x {len(DIMS)} dimensions"
        )
    _check_sizes(accelerator, levels, sizes)
    cost = _analysed(own, accelerator, engine, levels, loops, residency)
    steady = torch.clamp(cost.cycles - cost.ends_cycles, min=float(-(-own.output_count // accelerator.lanes)))
    ms = (steady + cost.ends_cycles) / (accelerator.clock_mhz * 1e3)
    pj, grown, excess = cost.energy_pj, torch.zeros_like(ms), {}
    for i, level in enumerate(levels):
        room: Tensor | float = level.capacity_bytes * 8
        if level.name in sizes:
            if technology is None:
                raise HardwareError(f"capacities of {', '.join(sizes)} without a technology: nothing prices them")
            size, wide = sizes[level.name], level.word_bits
            pj = pj - cost.level_energy_pj[:, i] + cost.rows[:, i].sum(1) * technology.sram_pj(size, wide)
            before = technology.sram_um2(float(level.capacity_bytes), wide)
            grown = grown + level.instances * (technology.sram_um2(size, wide) - before)
            room = size * 8
        if math.isfinite(level.capacity_bytes):
            excess[level.name] = torch.log(cost.footprint_bits[:, i] * (1 + level.double_buffered) / room)
    power = accelerator.static_power_w + (technology.leakage_w(0.0, grown) if technology and sizes else 0.0)
    pj = pj + own.output_count * accelerator.energies.requantise_pj
    area = math.nan if accelerator.area_mm2 is None else accelerator.area_mm2
    return RelaxedCost(ms, pj * 1e-9 + power * ms, area + grown * 1e-6, excess, cost.footprint_bits)


def _searchable(layer: Layer, accelerator: Accelerator) -> Engine:
    engine = engine_of(layer, accelerator)
    if engine.mapspace is None:
        raise HardwareError(
            f"layer {layer.name!r}: engine {engine.name!r} declares no mapspace, which says what loops there may be"
        )
    return engine


def _check_sizes(accelerator: Accelerator, levels: Sequence[MemoryLevel], names: Mapping[str, Any]) -> None:
    sized = [level.name for level in levels if is_sram(level)]
    for name in names:
        if name not in sized:
            raise HardwareError(f"accelerator {accelerator.name!r} has no SRAM {name!r}: {nearest(name, sized)}")


def _analysed(
    own: Layer,
    accelerator: Accelerator,
    engine: Engine,
    levels: Sequence[MemoryLevel],
    loops: Nests,
    residency: Residency,
) -> BatchCost:
    """The unrounded analysis; own: the layer as the engine sees it."""
    outer = len(levels) - 1 if engine.fill_per == "tile" else 1
    return evaluate_batch(
        own,
        levels,
        loops,
        operation_pj=accelerator.energies.operation_pj(own, engine.fabric),
        resident=residency.tensors,
        overhead_cycles=engine.fill_cycles * loops.temporal[:, outer:].flatten(1).prod(1),
        cycles_per_operation=engine.cycles_per_operation(own),
        update_share=time_share(own, engine.zeros),
        round_rows=False,
        fill_and_drain=engine.fill_and_drain,
    )


@dataclass(frozen=True)
class Descent:
    """What `descend` found: a design that exists, priced by `evaluate`.

    mappings, costs: per layer, on the accelerator. latency_ms, energy_mj: of all layers, as often as they occur.
    evaluations: relaxed or rounded costs of all layers that were computed, gradients included.
    """

    accelerator: Accelerator
    mappings: dict[Layer, LayerMapping]
    costs: dict[Layer, Cost]
    latency_ms: float
    energy_mj: float
    evaluations: int

    @property
    def edp(self) -> float:
        """Energy-delay product, mJ ms."""
        return self.latency_ms * self.energy_mj


def descend(
    counts: Mapping[Layer, int],
    accelerator: Accelerator,
    technology: Technology,
    *,
    sizes: Sequence[str] | None = None,
    objective: str = "edp",
    starts: int = 8,
    steps: int = 100,
    seed: int = 0,
) -> Descent:
    """Buffer sizes of one accelerator and mappings of layers on it, by gradient descent on relaxed costs.

    counts: layers and how often each occurs (`Workload.shape_counts()`). accelerator: its mapspace says which loops
    there are, its capacities are replaced. sizes: the SRAMs whose size is free, all by default. objective:
    ``latency``, ``energy`` or ``edp`` of all layers together. starts: improved side by side, the best of 16 times as
    many random ones for each layer; steps: of each, with none all starts are random and rounded as they are (a random
    search). The same seed gives the same design.

    Each start has an unrolling and loop orders per layer; orders are chosen anew twice, level by level. Designs are
    rounded every tenth step, and the best one is kept: the nearest divisors, and for each free memory the whole rows
    that its largest tile needs.

    Raises: HardwareError for layers of several engines, an engine without mapspace, an unknown level or objective;
        InfeasibleError if no rounded start fits the memories of fixed size.
    """
    if objective not in OBJECTIVES:
        raise HardwareError(f"objective={objective!r}: {nearest(objective, OBJECTIVES)}")
    if not counts or starts < 1 or steps < 0:
        raise HardwareError(f"{len(counts)} layers, starts={starts}, steps={steps}: expected layers, at least 1 start")
    engines = [_searchable(layer, accelerator) for layer in counts]
    if any(engine is not engines[0] for engine in engines):
        raise HardwareError(f"accelerator {accelerator.name!r}: expected layers of one engine, got several")
    levels = hierarchy(accelerator, engines[0])
    free = tuple(level.name for level in levels if is_sram(level)) if sizes is None else tuple(sizes)
    _check_sizes(accelerator, levels, dict.fromkeys(free))
    search = _Search(counts, accelerator, technology, free, objective, starts * (_DRAWS if steps else 1), seed)
    if steps:
        search.select(starts)
        search.improve(steps)
    return search.found()


class _LayerChoices:
    """One layer's part of all starts: unrollings and orders (discrete), and how tilings share the trips (logits)."""

    def __init__(
        self, layer: Layer, engine: Engine, names: Sequence[str], starts: int, rng: np.random.Generator
    ) -> None:
        space, bounds = mapspace_of(engine), loop_bounds(engine.seen(layer))
        at = {name: i for i, name in enumerate(names)}
        self.layer = layer
        self.homes = [[at[t.level] for t in space.tiled if dim in t.dims] for dim in DIMS]
        options = [option for option in spatial_options(space, bounds)]
        left = [trips_left(bounds, option) for option in options]
        usable = [i for i, t in enumerate(left) if all(t[d] == 1 or h for d, h in zip(DIMS, self.homes, strict=True))]
        if not usable:
            raise HardwareError(f"layer {layer.name!r}: the mapspace tiles no level along a dimension that is left")
        steps = np.array([math.prod(left[i].values()) for i in usable], float)
        chosen = rng.choice(usable, size=starts, p=(1 / steps) / (1 / steps).sum())  # busy arrays more often
        across = np.ones((len(options), len(names), len(DIMS)))
        for table, option in zip(across, options, strict=True):
            for axis, factors in zip(space.axes, option, strict=True):
                for dim, factor in factors.items():
                    table[at[axis.level], DIMS.index(dim)] *= factor
        self.spatial = torch.from_numpy(across[chosen])
        self.trips = torch.tensor([[float(left[i][dim]) for dim in DIMS] for i in chosen], dtype=torch.float64)
        self.tiled = [(at[t.level], t.orders) for t in space.tiled]
        self.order = np.stack([rng.integers(len(orders), size=starts) for _, orders in self.tiled], axis=1)
        mask = np.full((len(DIMS), len(names)), -np.inf)
        for row, homes in zip(mask, self.homes, strict=True):
            row[homes or [len(names) - 1]] = 0.0
        self.mask = torch.from_numpy(mask)
        self.logits = torch.from_numpy(rng.normal(0.0, 2.0, (starts, *mask.shape))).requires_grad_()

    def temporal(self) -> Tensor:
        """B x levels x dimensions: ``trips^share``, shares by softmax over the levels that tile a dimension."""
        share = torch.softmax(self.logits + self.mask, dim=2)
        return torch.exp(share * torch.log(self.trips)[:, :, None]).transpose(1, 2)

    def whole(self) -> Tensor:
        """The nearest even tilings: divisors of what is left, innermost level first."""
        with torch.no_grad():
            real = self.temporal().numpy()
        out = np.ones_like(real)
        for b, trips in enumerate(self.trips.numpy().astype(int)):
            for dim, homes in enumerate(self.homes):
                left = int(trips[dim])
                for level in homes[:-1]:
                    factor = min(divisors(left), key=lambda d: abs(math.log(d / real[b, level, dim])))
                    out[b, level, dim] = factor
                    left //= factor
                if homes:
                    out[b, homes[-1], dim] = left
        return torch.from_numpy(out)

    def take(self, at: Tensor) -> None:
        """Keep some starts, in this order."""
        self.spatial, self.trips, self.order = self.spatial[at], self.trips[at], self.order[at.numpy()]
        self.logits = self.logits.detach()[at].requires_grad_()

    def batches(self, temporal: Tensor) -> Iterator[tuple[Tensor, Nests]]:
        """Starts of the same loop orders at a time: their positions and nests."""
        for order in np.unique(self.order, axis=0):
            at = torch.from_numpy(np.flatnonzero((self.order == order).all(axis=1)))
            yield at, Nests(self.orders(order), temporal[at], self.spatial[at])

    def orders(self, chosen: Sequence[int]) -> tuple[tuple[str, ...], ...]:
        """Per memory level the loop order that a choice per tiled level stands for."""
        orders: list[tuple[str, ...]] = [()] * len(self.mask[0])
        for (level, options), at in zip(self.tiled, chosen, strict=True):
            orders[level] = options[at]
        return tuple(orders)


class _Search:
    """All starts side by side; the first dimension of every tensor is the start."""

    def __init__(
        self,
        counts: Mapping[Layer, int],
        accelerator: Accelerator,
        technology: Technology,
        free: tuple[str, ...],
        objective: str,
        starts: int,
        seed: int,
    ) -> None:
        self.accelerator, self.technology, self.free, self.objective = accelerator, technology, free, objective
        engine = engine_of(next(iter(counts)), accelerator)
        self.levels = hierarchy(accelerator, engine)
        names, rng = [level.name for level in self.levels], np.random.default_rng(seed)
        self.times = torch.tensor([float(n) for n in counts.values()], dtype=torch.float64)
        self.choices = [_LayerChoices(layer, engine, names, starts, rng) for layer in counts]
        self.starts, self.evaluations = starts, 0
        self.limited = [level.name for level in self.levels if math.isfinite(level.capacity_bytes)]
        self.best, self.most_over = math.inf, ""
        self.design: tuple[dict[str, float], list[tuple[Layer, Any, Any, Any]]] | None = None

    def costs(self, which: int, temporal: Tensor, capacity: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Latency and energy of one layer [B], and its excess [B, limited level]."""
        choice = self.choices[which]
        parts = []
        for at, nests in choice.batches(temporal):
            some = {name: size[at] for name, size in capacity.items()}
            cost = relaxed_cost(choice.layer, self.accelerator, nests, some, self.technology)
            excess = [cost.excess[name] for name in self.limited]
            parts.append((at, torch.stack([cost.latency_ms, cost.energy_mj, *excess], 1)))
        table = torch.cat([part for _, part in parts])[torch.argsort(torch.cat([at for at, _ in parts]))]
        return table[:, 0], table[:, 1], table[:, 2:]

    def needed(self, temporal: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """Bytes that the largest tile of some layers takes in each free memory, [B]."""
        need = {name: torch.zeros(self.starts, dtype=torch.float64) for name in self.free}
        for which, loops in temporal.items():
            choice = self.choices[which]
            for at, nests in choice.batches(loops):
                bits = relaxed_cost(choice.layer, self.accelerator, nests).footprint_bits
                for i, level in enumerate(self.levels):
                    if level.name in need:
                        bytes_ = bits[:, i] * (1 + level.double_buffered) / 8
                        need[level.name][at] = torch.maximum(need[level.name][at], bytes_)
        return {name: size.clamp(min=1.0) for name, size in need.items()}

    def totals(self, temporal: Sequence[Tensor], capacity: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Latency and energy of all layers [B], excess [B, layer, limited level]."""
        self.evaluations += self.starts
        ms, mj, excess = zip(*(self.costs(i, t, capacity) for i, t in enumerate(temporal)), strict=True)
        return torch.stack(ms, 1) @ self.times, torch.stack(mj, 1) @ self.times, torch.stack(excess, 1)

    def score(self, ms: Tensor, mj: Tensor) -> Tensor:
        """Logarithm of the objective."""
        logs = {"latency": (ms,), "energy": (mj,), "edp": (ms, mj)}[self.objective]
        return sum((torch.log(x) for x in logs), start=torch.zeros_like(ms))

    def select(self, starts: int) -> None:
        """Keep each layer's best starts; the first one of each is one start."""
        with torch.no_grad():
            for i, choice in enumerate(self.choices):
                temporal = choice.temporal()
                ms, mj, excess = self.costs(i, temporal, self.needed({i: temporal}))
                ranked = torch.argsort(self.score(ms, mj) + _RHO * excess.clamp(min=0).sum(1), stable=True)
                choice.take(ranked[:starts])
        self.evaluations += self.starts
        self.starts = starts

    def improve(self, steps: int) -> None:
        """Adam on ``ln objective + sum (multiplier excess+ + rho / 2 excess+^2)``, the multipliers rising with it."""
        with torch.no_grad():
            needed = self.needed(dict(enumerate(choice.temporal() for choice in self.choices)))
            sizes = {name: torch.log(size).requires_grad_() for name, size in needed.items()}
        optimiser = torch.optim.Adam([*(choice.logits for choice in self.choices), *sizes.values()], lr=_RATE)
        multipliers = torch.zeros(self.starts, len(self.choices), len(self.limited), dtype=torch.float64)
        turns = {steps * turn // _ROUNDS for turn in range(1, _ROUNDS)}
        for step in range(steps):
            if step in turns:
                self.reorder({name: torch.exp(size).detach() for name, size in sizes.items()})
            optimiser.zero_grad()
            capacity = {name: torch.exp(size) for name, size in sizes.items()}
            ms, mj, excess = self.totals([choice.temporal() for choice in self.choices], capacity)
            over = excess.clamp(min=0)
            loss = self.score(ms, mj) + (multipliers * over + _RHO / 2 * over**2).sum((1, 2))
            loss.sum().backward()
            optimiser.step()
            if step % _EVERY == _EVERY - 1:
                multipliers = multipliers + _RHO * over.detach()
                self.round()

    def reorder(self, capacity: Mapping[str, Tensor]) -> None:
        """Give every start the best loop order of each layer and level, the outermost level first."""
        with torch.no_grad():
            for i, choice in enumerate(self.choices):
                temporal = choice.temporal()
                for position in reversed(range(len(choice.tiled))):
                    scores = []
                    for order in range(len(choice.tiled[position][1])):
                        choice.order[:, position] = order
                        ms, mj, excess = self.costs(i, temporal, capacity)
                        scores.append(self.score(ms, mj) + _RHO * excess.clamp(min=0).sum(1))
                    choice.order[:, position] = torch.stack(scores).argmin(0).numpy()
            tried = max(sum(len(orders) for _, orders in choice.tiled) for choice in self.choices)
            self.evaluations += self.starts * tried

    def round(self) -> None:
        """Round all starts and remember the best design so far."""
        with torch.no_grad():
            whole = [choice.whole() for choice in self.choices]
            capacity = self.needed(dict(enumerate(whole)))
            for level in self.levels:
                if level.name in capacity:
                    row = level.word_bits / 8
                    capacity[level.name] = torch.ceil(capacity[level.name] / row - 1e-9) * row
            ms, mj, excess = self.totals(whole, capacity)
            score = torch.where((excess <= 1e-9).flatten(1).all(1), self.score(ms, mj), math.inf)
            if self.limited:
                self.most_over = self.limited[int(excess.amax((0, 1)).argmax())]
            at = int(score.argmin())
        if float(score[at]) < self.best:
            self.best = float(score[at])
            nests = [
                (choice.layer, choice.orders(choice.order[at]), temporal[at].numpy(), choice.spatial[at].numpy())
                for choice, temporal in zip(self.choices, whole, strict=True)
            ]
            self.design = {name: float(size[at]) for name, size in capacity.items()}, nests

    def found(self) -> Descent:
        """The best design, priced exactly."""
        self.round()
        if self.design is None:
            raise InfeasibleError(
                f"no start fits memory {self.most_over!r}, whose size is fixed: free it or add starts"
            )
        capacity, nests = self.design
        accelerator = resized(self.accelerator, capacity, self.technology)
        mappings = {layer: _mapping(self.levels, *nest) for layer, *nest in nests}
        costs = {layer: evaluate(layer, accelerator, mapping) for layer, mapping in mappings.items()}
        times = self.times.tolist()
        ms = sum(n * cost.latency_ms for n, cost in zip(times, costs.values(), strict=True))
        mj = sum(n * cost.energy_mj for n, cost in zip(times, costs.values(), strict=True))
        return Descent(accelerator, mappings, costs, ms, mj, self.evaluations)


def _mapping(levels: Sequence[MemoryLevel], orders: Sequence[Sequence[str]], time: Any, space: Any) -> LayerMapping:
    """One nest of whole bounds, [level, dimension] each, as a value."""
    loops = []
    for i, level in enumerate(levels):
        inner = {dim: int(time[i, DIMS.index(dim)]) for dim in orders[i]}
        across = {dim: int(factor) for dim, factor in zip(DIMS, space[i], strict=True)}
        named = (tuple((d, b) for d, b in part.items() if b > 1) for part in (inner, across))
        loops.append(LevelLoops(level.name, *named))
    return LayerMapping(tuple(loops))
