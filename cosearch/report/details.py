"""What a report shows that takes time to find out, kept in the run's report.json: found once per result.

Everything else on the page is read from the run's other files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from cosearch.accuracy import AccuracySource, PredictorAccuracy, SupernetAccuracy
from cosearch.costs import AcceleratorCosts, HardwareCosts, MeasuredCosts, NetworkFront
from cosearch.errors import CosearchError, RunError
from cosearch.evaluators import start_threads
from cosearch.hardware.pricing import RESIDENCIES, host_cost
from cosearch.hardware.report import LayerRow, point_report, where
from cosearch.job import Job
from cosearch.problem import Problem, fingerprint, prepare
from cosearch.progress import Reporter
from cosearch.report.changes import (
    Change,
    accelerator_change,
    accelerator_steps,
    baseline,
    changed,
    network_changes,
    worth_knowing,
)
from cosearch.report.kept import FILE, FORMAT, VERSION, key_of
from cosearch.report.searching import Matrix, entries
from cosearch.report.sequential import beside_sequential
from cosearch.report.trials import Trial, read_trials
from cosearch.results import read_result
from cosearch.runs import RunDirectory, require_same_inputs
from cosearch.shortlist import Choice
from cosearch.source import SUPERNET, accuracy_source
from cosearch.strategies.auto import DEAR_SOURCES
from cosearch.strategies.objectives import Objectives
from cosearch.strategies.study import STUDY
from cosearch.trust import require_trusted
from cosearch.workload import host_bytes
from search_spaces.decisions import network_key, network_of

Searches = Mapping[str, Sequence[Trial]]


def find_details(
    run: RunDirectory, problem: Problem, finalist: Choice, accuracy: AccuracySource | None, reporter: Reporter
) -> dict[str, Any]:
    """Everything that needs the problem, as JSON, kept in report.json.

    accuracy: asked for a few networks beside the finalist, unless it trains every network that it is asked for.
    Raises: RunError if the finalist's trial is not in the study.
    """
    _, searches = read_trials(run.path, problem.objectives.names)
    if not any(trial.arch == finalist[0] for trials in searches.values() for trial in trials):
        raise RunError(
            f"{run.path / STUDY} has no trial of the finalist: put the study of this run back, or remove result.json "
            f"and search again with: {run.resume_command}"
        )
    asked = None if problem.config.accuracy in DEAR_SOURCES else accuracy
    data = {
        "format": FORMAT,
        "version": VERSION,
        "of": key_of(run),
        "space": _space(problem),
        "device": _device(problem),
        "predictors": _predictors(problem),
        "searches": {name: _search(problem, trials) for name, trials in searches.items()},
        "sequential": beside_sequential(problem, searches),
        "finalist": _finalist(problem, finalist),
        "changes": _changes(problem, finalist, searches, asked, reporter),
    }
    run.write_json(FILE, data)
    return data


def find_again(run: RunDirectory, reporter: Reporter, trusted: bool = False) -> None:
    """`find_details` of a finished run, from its files. trusted: whether code that they name may be imported.

    Raises: RunError if the inputs changed since, or code is not trusted; other CosearchErrors if they are gone.
    """
    require_trusted(run.path, run.config, trusted)
    problem = prepare(run.config, reporter)
    require_same_inputs(run, fingerprint(problem))
    accuracy = None
    if run.config.accuracy != "supernet" or (run.path / SUPERNET).is_file():
        start_threads(run.config, problem.pixels)
        accuracy = accuracy_source(Job(run, problem, Reporter(quiet=True)))
    finalist = read_result(run).finalist
    find_details(run, problem, problem.choice_of(finalist.arch, finalist.accelerator), accuracy, reporter)


def _space(problem: Problem) -> dict[str, Any]:
    space = problem.space
    return {
        "name": space.name,
        "networks": space.size,
        "decisions": len(space.choices),
        "description": space.description,
    }


def _device(problem: Problem) -> dict[str, Any]:
    if not isinstance(problem.costs, HardwareCosts):
        return {"name": problem.device_name, "accelerators": None, "budget": {}, "unit_costs": []}
    space: Any = problem.costs.device
    have = {name: getattr(space.budget, name) for name in problem.costs.resources}
    units = space.unit_costs.items() if hasattr(space, "unit_costs") else ()
    return {
        "name": problem.device_name,
        "accelerators": len(space),
        "tabulated": isinstance(problem.costs, AcceleratorCosts),
        "budget": have,
        "unit_costs": [{"name": name, **asdict(cost)} for name, cost in units],
    }


def _predictors(problem: Problem) -> list[dict[str, Any]]:
    """Models that stand for measurements, each with its error in cross-validation and that of guessing the mean."""
    models: dict[str, Any] = dict(problem.costs.models) if isinstance(problem.costs, MeasuredCosts) else {}
    if isinstance(problem.known_accuracy, PredictorAccuracy):
        models["accuracy"] = problem.known_accuracy.model
    return [
        {"of": name, "error": float(model.relative_error), "floor": float(model.relative_spread)}
        for name, model in models.items()
    ]


def _search(problem: Problem, trials: Sequence[Trial]) -> dict[str, Any]:
    """The evaluations that moved the front, each with the points of its hardware front that entered."""
    good = [trial for trial in trials if trial.accuracy is not None]
    fronts: Sequence[Any] = problem.costs.fronts([trial.arch for trial in good])
    places = [place for place, trial in enumerate(trials) if trial.accuracy is not None]
    evaluated = [
        np.empty((0, len(problem.objectives.names))) if not len(front) else _points(problem.objectives, trial, front)
        for trial, front in zip(good, fronts, strict=True)
    ]
    moved = [{"trial": places[e.trial], "points": e.points.tolist()} for e in entries(evaluated)]
    return {"moved": moved}


def _points(objectives: Objectives, trial: Trial, front: Any) -> Matrix:
    columns: dict[str, Any] = {name: front.metric(name) for name in objectives.costs}
    return objectives.minimised({**columns, "accuracy": np.full(len(front), trial.accuracy)})


def _finalist(problem: Problem, choice: Choice) -> dict[str, Any] | None:
    """Layer by layer; None for a device that is given."""
    if not isinstance(problem.costs, HardwareCosts):
        return None
    arch, point = choice
    [front] = problem.costs.fronts([arch])
    assert isinstance(front, NetworkFront)
    workload = problem.space.workload(arch)
    rows = point_report(workload, front.hardware, point)
    dram_bits = float(front.hardware.space.shared.dram_bits[front.hardware.shared[point]])
    ms, mj = host_cost(host_bytes(workload), dram_bits, front.hardware.space.prices)
    stays = RESIDENCIES[int(front.hardware.residency[point])]
    bound = problem.costs.on(front.hardware.accelerator(point), arch).edp_bound
    return {
        "policies": dict(front.hardware.policies_of(point)),
        "edp": float(front.hardware.edp[point]),
        "edp_bound": bound if np.isfinite(bound) else None,
        "layers": [_layer(row) for row in rows],
        "host": {"latency_ms": ms, "energy_mj": mj},
        "weights_resident": stays.weights,
        "activations_resident": stays.activations,
    }


def _layer(row: LayerRow) -> dict[str, Any]:
    layer = row.layer
    return {
        "name": layer.name,
        "kind": layer.kind,
        "shape": {name: getattr(layer, name) for name in "KCPQRS"},
        "stride": list(layer.stride),
        "groups": layer.groups,
        "bits": [layer.weight_bits, layer.input_bits],
        "density": layer.density,
        "macs": layer.macs,
        "where": where(row),
        "cycles": row.cycles,
        "latency_ms": row.latency_ms,
        "energy_mj": row.energy_mj,
        "energy_pj": dict(row.energy_pj),
        "utilisation": row.utilisation,
        "bound": row.bound,
        "roofline_ms": row.roofline_ms,
        "compulsory_mj": row.compulsory_mj,
        "mapspace": row.mapspace,
    }


def _changes(
    problem: Problem, finalist: Choice, searches: Searches, accuracy: AccuracySource | None, reporter: Reporter
) -> dict[str, Any]:
    arch = finalist[0]
    every = [trial for trials in searches.values() for trial in trials]
    known = {network_key(trial.arch): trial.accuracy for trial in every if trial.accuracy is not None}
    changes = network_changes(problem, finalist, known)
    asked = worth_knowing(problem, arch, changes) if accuracy is not None else []
    steps = accelerator_steps(problem, finalist)
    found: list[Change] = []
    with reporter.phase("report: one choice at a time", len(asked) + len(steps)) as phase:
        if isinstance(accuracy, SupernetAccuracy):  # they begin as the finalist does, and that runs once
            together = accuracy.many([network_of(other) for other in asked])
            known.update(zip(map(network_key, asked), together, strict=True))
            phase.advance(len(asked))
        else:
            for other in asked:
                assert accuracy is not None
                try:
                    known[network_key(other)] = float(accuracy(network_of(other)))
                except CosearchError as error:
                    phase.advance(0, str(error)[:40])  # a network that cannot be evaluated is left without an accuracy
                phase.advance(1)
        for step in steps:
            found.append(accelerator_change(problem, arch, step))
            phase.advance(1)
    others = changed(problem, arch)
    told = [replace(c, accuracy=known.get(network_key(a))) for c, a in zip(changes, others, strict=True)]
    return {
        "of": {"accuracy": known[network_key(arch)], **baseline(problem, finalist)},
        "evaluated": len(asked),
        "images": accuracy.images if accuracy is not None else None,
        "rows": [asdict(change) for change in (*told, *found)],
    }
