"""Network and accelerator chosen together, beside the network first and its accelerator after.

Both choices are made among the same evaluated networks, so that the budget is equal. A random search proposes without
looking at costs: both kinds of search would have evaluated exactly these networks, and each part of its evaluations is
a smaller random search of its own, which is where the interval comes from.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cosearch.costs import AcceleratorCosts
from cosearch.errors import CosearchError
from cosearch.hardware.fronts import NetworkCost
from cosearch.problem import Problem
from cosearch.report.changes import costs_on
from cosearch.report.searching import mean_interval
from cosearch.report.trials import Trial
from cosearch.results import CO_SEARCH, RANDOM
from cosearch.strategies.objectives import one_standard_error, product
from search_spaces.decisions import arch_key

Floats = npt.NDArray[np.float64]
PARTS = 10
"""Searches that a random search is cut into."""
LEAST_IN_A_PART = 5


def beside_sequential(problem: Problem, searches: Mapping[str, Sequence[Trial]]) -> dict[str, Any] | None:
    """What choosing together saves in the co-search and in random search, for the latter with an interval.

    The network of the sequential choice is, of those accurate enough, the one with the least product of latency and
    energy (those that are objectives) on a fixed accelerator: the one with the least energy-delay product for the
    largest network in which the operators take turns, so that it has an engine for all of them.
    Returns: None where there is no accelerator to choose, or nothing to weigh accuracy against.
    """
    objectives = problem.objectives.costs
    names = [name for name in ("latency_ms", "energy_mj", "edp") if name in objectives]
    if not isinstance(problem.costs, AcceleratorCosts) or "accuracy" not in problem.objectives.names or not names:
        return None
    good = {name: [t for t in searches.get(name, ()) if t.accuracy is not None] for name in (CO_SEARCH, RANDOM)}
    try:
        largest = problem.space.largest(*problem.space.operators)
        fixed = problem.costs.free().least_edp_cost(largest).accelerator(0)
    except CosearchError:  # no accelerator runs them all, or a decision lacks an operator
        return None
    there = costs_on(problem, fixed, [t.arch for trials in good.values() for t in trials])
    images = _images(problem)
    rows = []
    for name, trials in good.items():
        accuracy = np.array([t.accuracy for t in trials], dtype=float)
        first = np.array([_log_product(there[arch_key(t.arch)], names) for t in trials])
        fronts: Sequence[Any] = problem.costs.fronts([t.arch for t in trials])
        last = np.array([product({n: f.metric(n) for n in names}).min(initial=np.inf) for f in fronts])
        row = {"search": name, "evaluations": len(trials), "ratio": _ratio(saved(accuracy, first, last, images))}
        rows.append(row | (_in_parts(accuracy, first, last, images) if name == RANDOM else {}))
    return {"accelerator": fixed.name, "costs": names, "rows": rows}


def _images(problem: Problem) -> int:
    """Behind an accuracy of the search."""
    if problem.known_accuracy is not None:
        return problem.known_accuracy.images
    assert problem.dataset is not None
    return len(problem.dataset.validation)


def _log_product(cost: NetworkCost, names: Sequence[str]) -> float:
    return float(sum(np.log(getattr(cost, name)) for name in names)) if cost.feasible else np.inf


def saved(accuracy: Floats, first: Floats, last: Floats, images: int) -> float:
    """Log of what the joint choice costs over what the sequential one does: at most 0; NaN if one finds nothing.

    accuracy: [n], each on so many images; first: [n] log product of costs on the fixed accelerator; last: [n] the least
    of it over all accelerators. Accurate enough is what is within one standard error of the best.
    """
    if not len(accuracy):
        return np.nan
    enough = accuracy >= one_standard_error(accuracy, images)
    sequential = np.where(enough, first, np.inf)
    chosen = int(np.argmin(sequential))
    if not (np.isfinite(sequential[chosen]) and np.isfinite(last[chosen])):
        return np.nan
    return float(np.where(enough, last, np.inf).min() - last[chosen])


def _in_parts(accuracy: Floats, first: Floats, last: Floats, images: int) -> dict[str, Any]:
    """The search cut into smaller ones: the mean ratio of costs (geometric) and its 95% interval by Student's t."""
    parts = min(PARTS, len(accuracy) // LEAST_IN_A_PART)
    size = len(accuracy) // max(1, parts)
    pieces = [slice(i * size, (i + 1) * size) for i in range(parts)]
    found = [saved(accuracy[piece], first[piece], last[piece], images) for piece in pieces]
    known = [value for value in found if np.isfinite(value)]
    if len(known) < 2:
        return {}
    return {"parts": len(known), "size": size, "interval": [_ratio(value) for value in mean_interval(known)]}


def _ratio(log_ratio: float) -> float | None:
    return float(np.exp(log_ratio)) if np.isfinite(log_ratio) else None
