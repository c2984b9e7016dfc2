"""`auto`: the strategy that fits the space, the budget and the source of accuracies; `why` says which and why."""

from typing import Any

import numpy as np

from cosearch.errors import ConfigError
from cosearch.strategies.base import Costs, Strategy
from cosearch.strategies.objectives import Objectives
from cosearch.strategies.pool import ENUMERABLE
from search_spaces.decisions import Decisions

DEAR_SOURCES = ("train",)
"""Sources of accuracy that take minutes or more: a second of thought per proposal is nothing beside them."""
MOST_MODELLED = 2_000
"""Results beyond which a Gaussian process takes longer than most evaluations."""
FEW = 500
"""Evaluations up to which a proposal by a Gaussian process takes about a tenth of a second, and is worth it however
cheap an evaluation is: docs/benchmarks/differentiable.md."""


PLANNING = ("trials", "source")
"""Options by which a strategy is chosen, and nothing else."""


def choose(size: int, trials: int | None, source: str, joint: bool = False) -> tuple[str, str]:
    """(name of the strategy, why). size: networks in the space; trials: evaluations planned, if known.

    joint: whether accelerators are searched with them.
    """
    if joint and source not in DEAR_SOURCES:
        return "evolutionary", f"accelerators are searched with the networks, and an evaluation by {source} is cheap"
    if trials is not None and trials >= size:
        return "random", f"{trials} evaluations cover all {size} networks"
    if trials is not None and trials > MOST_MODELLED:
        return "evolutionary", f"{trials} evaluations are too many for a Gaussian process"
    if size <= ENUMERABLE and not joint:
        return "bayesian", f"all {size} networks can be looked at before each evaluation"
    if source in DEAR_SOURCES:
        return "bayesian", f"an evaluation by {source} takes far longer than a proposal"
    if trials is not None and trials <= FEW:
        return "bayesian", f"{trials} evaluations of {size:.3g} networks are few: a model makes the most of each"
    planned = "any number of" if trials is None else trials
    return "evolutionary", f"{planned} evaluations by {source} are cheap beside a model of them"


def auto(
    space: Decisions,
    costs: Costs,
    objectives: Objectives,
    seed: int = 0,
    batch: int = 1,
    trials: int | None = None,
    source: str = "supernet",
) -> Strategy:
    from cosearch.strategies import make

    if trials is not None and not isinstance(trials, int | np.integer):
        raise ConfigError(f"trials={trials!r}: expected how many evaluations are planned, a whole number")
    name, why = choose(space.network_space.size, trials, source, space.joint)
    strategy: Any = make(name, space, costs, objectives, seed, batch=batch)
    strategy.why = f"{name}: {why}"
    found: Strategy = strategy
    return found
