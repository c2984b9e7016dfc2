"""From what a search evaluated to what a user reads: the front, the designs side by side, what co-search bought."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cosearch.costs import AcceleratorCosts, HardwareCosts, MeasuredCosts, NetworkFront
from cosearch.finalists import Trained
from cosearch.hardware.accelerator import Accelerator
from cosearch.hardware.fronts import NetworkCost
from cosearch.hardware.repricing import sensitivity
from cosearch.job import Job
from cosearch.problem import Problem
from cosearch.progress import Reporter
from cosearch.results import AT_DEFAULT, CO_SEARCH, CONV_ONLY, Design, Result, bought
from cosearch.shortlist import Choice, Designs
from cosearch.source import training_notes
from cosearch.strategies.base import Told
from cosearch.strategies.objectives import MAXIMISED, undominated
from search_spaces.decisions import Arch, arch_key

if TYPE_CHECKING:
    import pandas as pd


def designs_of(told: Sequence[Told], costs: Sequence[str]) -> Designs:
    """Every (network, point of its hardware front) that a search evaluated, with its accuracy and some costs."""
    good = [t for t in told if t.accuracy is not None]
    rows = tuple((t.candidate.arch, i) for t in good for i in range(len(t.front)))
    columns = {name: np.concatenate([t.front.metric(name) for t in good]) for name in costs}
    columns["accuracy"] = np.concatenate([np.full(len(t.front), t.accuracy) for t in good])
    return Designs(columns, rows)


def front_table(told: Sequence[Told], problem: Problem) -> "pd.DataFrame":
    """The front of what was evaluated and reaches the least accuracy that was asked for, if anything does.

    Best accuracy first. Accuracies are the search's own; trial: in study.db.
    """
    import pandas as pd

    metrics = tuple(dict.fromkeys((*problem.objectives.costs, *problem.costs.metrics)))
    designs = designs_of(told, metrics)
    trial = {arch_key(t.candidate.arch): number for number, t in enumerate(told)}
    columns, rows = designs.columns, designs.rows
    reaches = columns["accuracy"] >= problem.objectives.min_accuracy
    enough = np.flatnonzero(reaches if reaches.any() else ~reaches)
    points = problem.objectives.minimised({n: columns[n] for n in problem.objectives.names})
    keep = enough[undominated(points[enough])]
    table = pd.DataFrame({"accuracy": columns["accuracy"][keep], **{n: columns[n][keep] for n in metrics}})
    table["accuracy_source"] = problem.config.accuracy
    table["trial"] = [trial[arch_key(rows[i][0])] for i in keep]
    if isinstance(problem.costs, HardwareCosts):
        table["accelerator"] = [problem.costs.accelerator(*rows[i]).name for i in keep]
    if isinstance(problem.costs, MeasuredCosts):
        doubts = problem.costs.doubts([rows[i][0] for i in keep])
        for name in doubts[0].intervals if doubts else ():
            for side, bound in enumerate(("low", "high")):
                table[f"{name}_{bound}"] = [doubt.intervals[name][side] for doubt in doubts]
        table["unlike_measured"] = [doubt.unlike_measured for doubt in doubts]
    table["arch"] = [json.dumps(rows[i][0]) for i in keep]
    sort = [*problem.objectives.names, "arch"]
    return table.sort_values(sort, ascending=[n not in MAXIMISED for n in sort], ignore_index=True)


def default_accelerator(problem: Problem) -> Accelerator | None:
    """The least-EDP design for the largest conv-only network; None for a given device or without baselines."""
    if isinstance(problem.costs, AcceleratorCosts) and problem.config.baselines and problem.conv_only is not None:
        return problem.costs.least_edp_cost(problem.space.largest("conv")).accelerator(0)
    return None


def design(problem: Problem, name: str, choice: Choice, told: Sequence[Told], trained: Sequence[Trained]) -> Design:
    """A design on the accelerator that the search chose for it."""
    arch, point = choice
    [front] = problem.costs.fronts([arch])
    metrics = tuple(dict.fromkeys((*problem.objectives.costs, *problem.costs.metrics)))
    seen = next(t.accuracy for t in told if t.candidate.arch == arch)
    assert seen is not None
    beside: dict[str, Any] = {}  # what is known beside the costs
    accelerator = ""
    if isinstance(problem.costs, HardwareCosts):
        value = problem.costs.accelerator(arch, point)
        assert isinstance(front, NetworkFront)
        accelerator = value.name
        beside = _mapped(front.hardware.policies_of(point), problem.costs.on(value, arch))
        beside["pipeline"] = _pipeline(problem.costs, value, arch)
    elif isinstance(problem.costs, MeasuredCosts):
        [doubt] = problem.costs.doubts([arch])
        beside = {"cost_intervals": doubt.intervals, "unlike_measured": doubt.unlike_measured}
    return Design(
        name,
        arch,
        accelerator,
        {n: float(front.metric(n)[point]) for n in metrics if np.isfinite(front.metric(n)[point])},
        tuple(t.correct for t in trained if not t.failed),
        tuple(t.float_accuracy for t in trained if not t.failed),
        seen,
        **beside,
    )


def _mapped(policies: tuple[tuple[str, float], ...], cost: NetworkCost) -> dict[str, Any]:
    return {"policies": policies, "edp_bound": cost.edp_bound if np.isfinite(cost.edp_bound) else None}


def _pipeline(costs: HardwareCosts, accelerator: Accelerator, arch: Arch) -> dict[str, Any] | None:
    found = costs.pipeline(accelerator, arch)
    return found.to_json() if found else None


def on_default(found: Design, problem: Problem, accelerator: Accelerator) -> Design:
    """The same network on the default accelerator; infeasible with the reason if it cannot run there."""
    assert isinstance(problem.costs, AcceleratorCosts)
    moved = replace(found, name=found.name + AT_DEFAULT, accelerator=accelerator.name, pipeline=None)
    cost = problem.costs.on(accelerator, found.arch)
    if not cost.feasible:
        return replace(moved, costs={}, infeasible=f"cannot run there: {cost.reason}")
    resources = {n: float(getattr(accelerator.resources, n)) for n in problem.costs.resources}
    costs = {"latency_ms": cost.latency_ms, "energy_mj": cost.energy_mj, **resources}
    pipeline = _pipeline(problem.costs, accelerator, found.arch)
    return replace(moved, costs=costs, pipeline=pipeline, **_mapped(cost.policies, cost))


def result_of(
    job: Job,
    default: Accelerator | None,
    found: Mapping[str, Sequence[Told]],
    chosen: Mapping[str, Choice],
    trained: Mapping[str, Sequence[Trained]],
) -> Result:
    """All that a run found, from the point of view of its search. found, chosen, trained: of each search, by name."""
    problem = job.problem
    designs = [design(problem, name, chosen[name], found[name], trained[name]) for name in chosen]
    if default is not None:
        designs += [on_default(d, problem, default) for d in designs if d.name in (CONV_ONLY, CO_SEARCH)]
    searched = notes(problem, found[CO_SEARCH], chosen, designs, job.reporter)
    lines = (*training_notes(job.run), *failures(trained), *searched)
    table = front_table(found[CO_SEARCH], problem)
    named = problem.objectives.names, problem.costs_are, problem.config.training
    return Result(str(job.run.path), table, tuple(designs), lines, *named)


def notes(
    problem: Problem,
    found: Sequence[Told],
    chosen: Mapping[str, Choice],
    designs: Sequence[Design],
    reporter: Reporter,
) -> list[str]:
    """What co-search bought, and what a reader must know before believing it. found: all that it evaluated."""
    best = max(told.accuracy or 0.0 for told in found)
    lines = [*_below_minimum(problem, best, designs[0]), *_extrapolated(designs), *bought(designs)]
    if problem.config.baselines and problem.conv_only is not None and CONV_ONLY not in chosen:
        lines.append(f"{CONV_ONLY}: no network of only convolutions meets the limits")
    if CONV_ONLY in chosen and isinstance(problem.costs, AcceleratorCosts):
        lines.append(_sensitivity(problem, chosen, reporter))
    return lines


def failures(trained: Mapping[str, Sequence[Trained]]) -> list[str]:
    """A line for each design of which trainings have failed."""
    lines = []
    for name, results in trained.items():
        reasons = [t.failed for t in results if t.failed]
        if reasons:
            lines.append(f"{name}: {len(reasons)} of {len(results)} trainings failed and are left out ({reasons[0]})")
    return lines


def _below_minimum(problem: Problem, best: float, finalist: Design) -> list[str]:
    """best: accuracy of the search."""
    needed = problem.objectives.min_accuracy
    lines = []
    if best < needed:
        lines.append(f"NO design reaches --min-accuracy {needed:g} in the search; the best has {best:.4f}")
    elif finalist.search_accuracy < needed:
        lines.append(
            f"the finalist did best in the short trainings, but does not reach --min-accuracy {needed:g} in the "
            f"search: {finalist.search_accuracy:.4f}"
        )
    if finalist.accuracy < needed:
        lines.append(
            f"the trained finalist does not reach --min-accuracy {needed:g}: {finalist.accuracy:.4f} on the test images"
        )
    return lines


def _extrapolated(designs: Sequence[Design]) -> list[str]:
    unlike = [design.name for design in designs if design.unlike_measured]
    if not unlike:
        return []
    return [
        f"no measured network is like that of {', '.join(unlike)}: predicted costs are extrapolation there, and "
        "their intervals promise nothing; measure it, add its line to the measurements, and search again"
    ]


def _sensitivity(problem: Problem, chosen: Mapping[str, Choice], reporter: Reporter) -> str:
    """Do finalist and conv-only keep their order of energy when each modelled unit cost is halved or doubled?"""
    costs = problem.costs
    assert isinstance(costs, AcceleratorCosts)
    space: Any = costs.tensor.space
    if not hasattr(space, "modelled"):
        return "sensitivity: not known, the accelerator space does not say which unit costs are modelled"
    sides = {name: chosen[name] for name in (CO_SEARCH, CONV_ONLY)}
    with reporter.phase("scaling unit costs", 1 + 2 * len(space.modelled)) as phase:
        rows = sensitivity(
            space,
            {name: problem.space.workload(arch) for name, (arch, _) in sides.items()},
            accelerators={name: costs.accelerator(*choice) for name, choice in sides.items()},
            progress=phase.advance,
        )
    ratios = {(row.cost, row.factor): dict(row.values)[CO_SEARCH] / dict(row.values)[CONV_ONLY] for row in rows}
    base = ratios.pop(("", 1.0))
    known = {case: ratio for case, ratio in ratios.items() if np.isfinite(ratio)}
    turned = [f"{name} x{factor:g}" for (name, factor), ratio in known.items() if (ratio < 1) != (base < 1)]
    verdict = f"the order turns with {', '.join(turned)}" if turned else "the order of finalist and conv-only holds"
    lost = "".join(f"; neither runs with {name} x{factor:g}" for name, factor in ratios.keys() - known.keys())
    span = (
        f"energy ratio {base:.2f}, {min(known.values()):.2f} to {max(known.values()):.2f}" if known else "none priced"
    )
    return (
        f"sensitivity: each of {len(space.modelled)} modelled unit costs halved and doubled: {verdict} ({span}{lost})"
    )
