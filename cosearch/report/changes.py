"""What each choice bought: the finalist with one decision changed at a time, of the network and of the accelerator."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cosearch.costs import AcceleratorCosts, JointCosts
from cosearch.errors import CosearchError, HardwareError
from cosearch.hardware.accelerator import Accelerator
from cosearch.hardware.fronts import NetworkCost
from cosearch.hardware.resources import over_budget
from cosearch.hardware.tables import EngineTable, NestSpace, SharedTable
from cosearch.hardware.tensor import accelerator_tensor
from cosearch.problem import Problem
from cosearch.shortlist import Choice
from cosearch.strategies.objectives import product
from cosearch.workload import distinct_layers, host_bytes
from search_spaces.decisions import OF_ACCELERATOR, Arch, arch_key, network_key

MOST_EVALUATED = 64
"""Networks whose accuracy is found out for the report."""
LEAST_EVALUATED = 16
MOST_PRICED = 64
"""Accelerators that are priced for the report."""
COSTS = ("latency_ms", "energy_mj")


@dataclass(frozen=True)
class Change:
    """The finalist with one decision taken otherwise.

    costs: latency_ms and energy_mj, those that are known; empty if it cannot run, and `reason` says why. accuracy: as
    the search saw it, None if nobody looked. moved: the accelerator it is priced on where the finalist's cannot run it.
    """

    part: str
    decision: str
    chosen: str
    instead: str
    costs: dict[str, float]
    accuracy: float | None = None
    moved: str = ""
    reason: str = ""


def evaluations_allowed(trials: int) -> int:
    """How many accuracies a report may ask for: a small part of what the search did."""
    return min(MOST_EVALUATED, max(LEAST_EVALUATED, trials // 4))


def spread(groups: Sequence[Sequence[Any]], n: int) -> list[Any]:
    """At most n items, as many from each group as from the others, evenly spaced within it, groups in order."""
    taken = [0] * len(groups)
    while sum(taken) < n and any(t < len(group) for t, group in zip(taken, groups, strict=True)):
        for i, group in enumerate(groups):
            if taken[i] < len(group) and sum(taken) < n:
                taken[i] += 1
    return [group[j * len(group) // t] for t, group in zip(taken, groups, strict=True) for j in range(t)]


def changed(problem: Problem, arch: Arch) -> list[Arch]:
    """The network with every other choice of every decision, decision by decision."""
    return [
        {**arch, name: option}
        for name, options in problem.space.choices.items()
        for option in options
        if option != arch[name]
    ]


def network_changes(problem: Problem, choice: Choice, known: Mapping[str, float]) -> list[Change]:
    """What each network of `changed` costs. known: `network_key` -> accuracy."""
    arch, point = choice
    every = changed(problem, arch)
    priced = _priced(problem, arch, point, every)
    changes = []
    for other in every:
        key = arch_key(other)
        [name] = [name for name in arch if other[name] != arch[name]]
        costs, moved, reason = priced[key]
        said = name, str(arch[name]), str(other[name])
        part = "accelerator" if name.startswith(OF_ACCELERATOR) else "network"
        changes.append(Change(part, *said, costs, known.get(network_key(other)), moved, reason))
    return changes


def worth_knowing(problem: Problem, arch: Arch, changes: Sequence[Change]) -> list[Arch]:
    """The networks whose accuracy is unknown and worth finding out: of each decision the cheapest, then evenly."""
    groups: dict[str, list[Change]] = {}
    for change in changes:
        if change.accuracy is None:
            groups.setdefault(change.decision, []).append(change)
    cheapest_first = [sorted(group, key=_cost_of) for group in groups.values()]
    chosen = spread(cheapest_first, evaluations_allowed(problem.config.trials))
    return [{**arch, change.decision: _option(problem, change)} for change in chosen]


def _cost_of(change: Change) -> float:
    return change.costs.get("energy_mj", change.costs.get("latency_ms", math.inf))


def _option(problem: Problem, change: Change) -> Any:
    return next(option for option in problem.space.choices[change.decision] if str(option) == change.instead)


Priced = tuple[dict[str, float], str, str]


def _priced(problem: Problem, arch: Arch, point: int, others: Sequence[Arch]) -> dict[str, Priced]:
    """`arch_key` -> (costs, accelerator if it is another, why it cannot run)."""
    if isinstance(problem.costs, AcceleratorCosts):
        return _on_accelerator(problem, problem.costs, problem.costs.accelerator(arch, point), others)
    free = problem.costs.free()
    if isinstance(problem.costs, JointCosts):
        return {arch_key(other): _on_its_own(free.fronts([other])[0]) for other in others}
    return {arch_key(other): (_known_costs(free.fronts([other])[0], 0), "", "") for other in others}


def _on_its_own(front: Any) -> Priced:
    """At the least product of costs, on the accelerator whose decisions stand beside the network's."""
    if not len(front):
        return {}, "", front.reason
    return _known_costs(front, int(np.argmin(product({name: front.metric(name) for name in COSTS})))), "", ""


def _known_costs(front: Any, point: int) -> dict[str, float]:
    values = {}
    for name in COSTS:
        try:
            values[name] = float(front.metric(name)[point])
        except CosearchError:  # a measured device need not know both
            continue
    return {name: value for name, value in values.items() if np.isfinite(value)}


def costs_on(problem: Problem, accelerator: Accelerator, archs: Sequence[Arch]) -> dict[str, NetworkCost]:
    """`arch_key` -> what each network costs on one accelerator, its mapping policies chosen for the EDP."""
    costs = problem.costs
    assert isinstance(costs, AcceleratorCosts)
    workloads = {arch_key(arch): problem.space.workload(arch) for arch in archs}
    tensor = accelerator_tensor(distinct_layers(workloads.values()), accelerator, costs.tensor.policies)
    return {
        key: tensor.evaluate(
            tensor.counts_of(workload), workload.live_activation_bytes, host_bytes=host_bytes(workload)
        )
        for key, workload in workloads.items()
    }


def _on_accelerator(
    problem: Problem, costs: AcceleratorCosts, accelerator: Accelerator, others: Sequence[Arch]
) -> dict[str, Priced]:
    """Others on the finalist's accelerator; where it cannot run one, on the accelerator that is best for that one."""
    here = costs_on(problem, accelerator, others)
    free = costs.free()
    found: dict[str, Priced] = {}
    for other in others:
        key = arch_key(other)
        cost = here[key]
        if cost.feasible:
            found[key] = {"latency_ms": cost.latency_ms, "energy_mj": cost.energy_mj}, "", ""
            continue
        [front] = free.fronts([other])
        if not len(front):
            found[key] = {}, "", cost.reason
            continue
        least = int(np.argmin(product({name: front.metric(name) for name in COSTS})))
        found[key] = _known_costs(front, least), free.accelerator(other, least).name, cost.reason
    return found


def baseline(problem: Problem, choice: Choice) -> dict[str, float]:
    """Costs of the finalist, found as those of its changes are."""
    arch, point = choice
    return _priced(problem, arch, point, [arch])[arch_key(arch)][0]


def accelerator_steps(problem: Problem, choice: Choice) -> "list[Step]":
    """Accelerators that differ in one decision from the finalist's, at most `MOST_PRICED`; none for a given device."""
    if not isinstance(problem.costs, AcceleratorCosts):
        return []
    arch, point = choice
    hardware = problem.costs.front(arch).hardware
    engines = {kind: int(e) for kind, e in zip(hardware.kinds, hardware.engines[point], strict=True) if e >= 0}
    walk = _grid_steps if isinstance(hardware.space, NestSpace) else _table_steps
    # rows of a table may differ in what costs nothing: of equal steps one that can be built, if there is one
    steps: dict[tuple[str, str], Step] = {}
    for step in walk(hardware.space, int(hardware.shared[point]), engines):
        key = step.decision, step.instead
        if key not in steps or (steps[key].reason and not step.reason):
            steps[key] = step
    groups: dict[str, list[Step]] = {}
    for step in steps.values():
        groups.setdefault(step.decision, []).append(step)
    return spread(list(groups.values()), MOST_PRICED)


def accelerator_change(problem: Problem, arch: Arch, step: "Step") -> Change:
    """What the finalist's network costs on an accelerator one step away."""
    assert isinstance(problem.costs, AcceleratorCosts)
    said = "accelerator", step.decision, step.chosen, step.instead
    if step.reason:
        return Change(*said, {}, reason=step.reason)
    try:
        cost = problem.costs.on(step.accelerator, arch)
    except HardwareError as error:
        return Change(*said, {}, reason=str(error))
    costs = {"latency_ms": cost.latency_ms, "energy_mj": cost.energy_mj} if cost.feasible else {}
    return Change(*said, costs, reason=cost.reason)


@dataclass(frozen=True)
class Step:
    """An accelerator with one decision taken otherwise; reason: why it is not within the budget or the clock."""

    decision: str
    chosen: str
    instead: str
    accelerator: Accelerator
    reason: str = ""


def _grid_steps(space: Any, shared: int, engines: Mapping[str, int]) -> Iterator[Step]:
    """Of a space that is a grid of choices, in the order of their product; nothing if it is no grid."""
    choices = dict(getattr(space, "choice_items", ()))
    shape = tuple(len(values) for values in choices.values())
    [(kind, at)] = engines.items()
    if len(space) != int(np.prod(shape)):
        return
    position = np.unravel_index(at, shape)
    for axis, (name, values) in enumerate(choices.items()):
        for option in range(len(values)):
            if option == position[axis]:
                continue
            index = int(np.ravel_multi_index((*position[:axis], option, *position[axis + 1 :]), shape))
            accelerator = space.accelerator(shared, {kind: index})
            yield Step(name.replace("_", " "), str(values[position[axis]]), str(values[option]), accelerator)


ENGINE_DECISIONS: dict[str, tuple[str, ...]] = {
    "rows": ("rows",),
    "columns": ("cols",),
    "dataflow": ("output_stationary", "accumulator_depth"),
    "pixel window": ("windowed",),
    "multipliers": ("logic",),
    "products per multiplier": ("packing", "packing_bits"),
}
SHARED_DECISIONS: dict[str, tuple[str, ...]] = {
    "weight buffer": ("weight_bits",),
    "activation buffer": ("activation_bits",),
    "buffer port": ("port_bits",),
    "clock": ("clock_mhz",),
    "vector lanes": ("lanes",),
}
"""Decision -> the columns of the tables that it sets."""


def _table_steps(space: Any, shared: int, engines: Mapping[str, int]) -> Iterator[Step]:
    """Of a space of engine tables and a shared table: rows that differ in the columns of one decision."""
    table = space.shared
    for decision, other in _one_decision_away(table, SHARED_DECISIONS, shared):
        said = tuple(_shared_value(table, decision, row) for row in (shared, other))
        yield _step(space, decision, said, other, engines)
    for kind, at in engines.items():
        options = space.engines(kind)
        if not isinstance(options, EngineTable):
            continue  # a pair of engines: its two halves are not decided one at a time
        for decision, other in _one_decision_away(options, ENGINE_DECISIONS, at):
            said = tuple(_engine_value(options, decision, row) for row in (at, other))
            yield _step(space, f"{kind} array: {decision}", said, shared, {**engines, kind: other})


def _one_decision_away(table: Any, decisions: Mapping[str, tuple[str, ...]], at: int) -> Iterator[tuple[str, int]]:
    differs = {
        decision: np.any([getattr(table, c) != getattr(table, c)[at] for c in columns], axis=0)
        for decision, columns in decisions.items()
    }
    how_many = np.sum(list(differs.values()), axis=0)
    for decision, rows in differs.items():
        for row in np.flatnonzero(rows & (how_many == 1)):
            yield decision, int(row)


def _shared_value(table: SharedTable, decision: str, row: int) -> str:
    value = getattr(table, SHARED_DECISIONS[decision][0])[row]
    if decision in ("weight buffer", "activation buffer"):
        return f"{value / 8192:g} KiB"
    return f"{value:g}" + {"clock": " MHz", "buffer port": " bit"}.get(decision, "")


def _engine_value(table: EngineTable, decision: str, row: int) -> str:
    value = getattr(table, ENGINE_DECISIONS[decision][0])[row]
    if decision == "dataflow":
        return "output-stationary" if value else "weight-stationary"
    if decision == "pixel window":
        return "yes" if value else "no"
    if decision == "multipliers":
        return "LUTs" if value else "DSP blocks"
    return f"{value:g}"


def _step(space: Any, decision: str, said: tuple[str, ...], shared: int, engines: Mapping[str, int]) -> Step:
    accelerator = space.accelerator(shared, dict(engines))
    reason = over_budget(accelerator.resources, space.budget)
    for kind, row in engines.items():
        table = space.engines(kind)
        if not reason and isinstance(table, EngineTable) and table.fmax_mhz[row] < accelerator.clock_mhz:
            reason = f"its {kind} array reaches {table.fmax_mhz[row]:.0f} of {accelerator.clock_mhz:g} MHz"
    return Step(decision, said[0], said[1], accelerator, reason)
