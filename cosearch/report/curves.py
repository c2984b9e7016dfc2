"""The searches of a run as curves: hypervolume and best accuracy over evaluations, on one scale for all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cosearch.report.facts import Facts
from cosearch.report.searching import Entry, Matrix, box, entries, front_of, hypervolumes
from cosearch.report.trials import Trial
from cosearch.strategies.objectives import Objectives

Curve = list[tuple[float, float]]
MOST_STEPS = 400


@dataclass(frozen=True)
class Moves:
    """What moved the front in each search. whole: whole hardware fronts are counted, not only the recorded points."""

    searches: Mapping[str, list[Entry]]
    whole: bool


def moves(facts: Facts, whole: bool = True) -> Moves:
    """From the details where they are known and wanted, from the recorded trials otherwise."""
    if facts.details is not None and whole:
        kept = facts.details["searches"]
        found = {
            name: [Entry(int(e["trial"]), np.array(e["points"], dtype=float)) for e in kept[name]["moved"]]
            for name in facts.searches
            if name in kept
        }
        return Moves(found, True)
    objectives = Objectives(facts.objectives)
    recorded = {
        name: [_recorded(objectives, trial) for trial in trials] for name, trials in facts.searches.items() if trials
    }
    return Moves({name: entries(points) for name, points in recorded.items()}, False)


def _recorded(objectives: Objectives, trial: Trial) -> Matrix:
    if trial.accuracy is None:
        return np.empty((0, len(objectives.names)))
    return objectives.minimised({**trial.values, "accuracy": trial.accuracy})


def hypervolume_curves(
    found: Mapping[str, list[Entry]], evaluations: Mapping[str, int], within: tuple[Matrix, Matrix]
) -> dict[str, Curve]:
    """Search -> steps of (evaluations, part of the box), up to its last evaluation. within: the box for all."""
    curves = {}
    for name, moved in found.items():
        curve: Curve = list(hypervolumes(moved, *within))
        if curve:
            curve = _thinned(curve)
            curves[name] = [*curve, (evaluations[name], curve[-1][1])]
    return curves


def common_box(found: Sequence[list[Entry]], objectives: int) -> tuple[Matrix, Matrix] | None:
    """The box of the fronts that several searches ended with; None if none found anything."""
    fronts = [front_of(moved, objectives) for moved in found if moved]
    return box(fronts) if fronts else None


def best_accuracy(trials: Sequence[Trial]) -> Curve:
    """Steps of (evaluations, best accuracy so far)."""
    curve: Curve = []
    for i, trial in enumerate(trials, start=1):
        if trial.accuracy is not None and (not curve or trial.accuracy > curve[-1][1]):
            curve.append((i, trial.accuracy))
    return [*_thinned(curve), (len(trials), curve[-1][1])] if curve else []


def _thinned(curve: Curve) -> Curve:
    """At most so many steps, the first and the last among them."""
    if len(curve) <= MOST_STEPS:
        return curve
    return [curve[i] for i in np.linspace(0, len(curve) - 1, MOST_STEPS).astype(int)]


def over_runs(curves: Sequence[Curve]) -> tuple[Curve, Curve, Curve]:
    """Median, least and most of several curves at every step of any of them, as far as all of them go."""
    start, end = max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves)
    places = sorted({x for curve in curves for x, _ in curve if start <= x <= end})
    values = np.array([[_at(curve, x) for x in places] for curve in curves])
    rows = (np.median(values, axis=0), values.min(axis=0), values.max(axis=0))
    median, least, most = (list(zip(places, map(float, row), strict=True)) for row in rows)
    return median, least, most


def _at(curve: Curve, x: float) -> float:
    return [y for place, y in curve if place <= x][-1]
