"""Search strategies under one ask/tell contract. A new strategy is one file here and one line below."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cosearch import registry
from cosearch.errors import ConfigError
from cosearch.strategies.base import Candidate, Costs, Failure, Front, Strategy, require_space
from cosearch.strategies.found import Found
from cosearch.strategies.known import Known, KnownCosts, Limited
from cosearch.strategies.objectives import Objectives, is_known, split_limit

STRATEGIES: dict[str, str] = {
    "auto": "cosearch.strategies.auto:auto",
    "bayesian": "cosearch.strategies.bayesian:Bayesian",
    "differentiable": "cosearch.strategies.differentiable:Differentiable",
    "evolutionary": "cosearch.strategies.evolutionary:Evolutionary",
    "optuna-gp": "cosearch.strategies.optuna_samplers:gp",
    "optuna-nsga2": "cosearch.strategies.optuna_samplers:nsga2",
    "optuna-nsga3": "cosearch.strategies.optuna_samplers:nsga3",
    "optuna-tpe": "cosearch.strategies.optuna_samplers:tpe",
    "random": "cosearch.strategies.random:RandomSearch",
    "reinforce": "cosearch.strategies.reinforce:Reinforce",
}

__all__ = ["STRATEGIES", "Candidate", "Costs", "Failure", "Found", "Front", "Objectives", "Strategy", "make"]


def make(
    name: str,
    space: Any,
    costs: Costs | Mapping[str, Known] | None = None,
    objectives: Objectives | Sequence[str] | None = None,
    seed: int = 0,
    study: Path | str | None = None,
    **options: Any,
) -> Strategy:
    """A strategy over a space.

    space: a network space or a dict of choices. costs: what networks cost, for free: accelerators (`Costs`), or cost ->
    function of the arch or array; objectives that are not among them are measured and told with the accuracy.
    objectives: or just their names.
    study: a folder for its study.db, to which every result is written at once. The strategy of an earlier process, made
    the same way, goes on from there: what had been asked and not told is asked first, alone.
    options: of the strategy; all know `batch`, the number of networks that are evaluated at once.
    Raises: UnknownNameError with the nearest name; ConfigError for something that is no space, an unknown option, or
    costs that were made for other objectives; RunError for a study of another search, or that cannot be read or
    written.
    """
    factory = registry.find("strategies", STRATEGIES, name)
    decisions = require_space(space)
    if objectives is None:
        objectives = Objectives()
    wanted = objectives if isinstance(objectives, Objectives) else Objectives(_names(objectives))
    named = (*wanted.costs, *(split_limit(limit)[1] for limit in wanted.constraints))
    priced: Costs = KnownCosts(decisions, costs or {}, named) if costs is None or isinstance(costs, Mapping) else costs
    if not hasattr(priced, "fronts"):
        raise ConfigError(f"costs are {type(costs).__name__}: expected a dict, cost -> function or array, or `Costs`")
    if hasattr(priced, "require_searched"):
        priced.require_searched(named)
    known = getattr(priced, "metrics", None)
    limits = {
        limit: value
        for limit, value in wanted.constraints.items()
        if split_limit(limit)[1] != "accuracy" and (known is None or is_known(split_limit(limit)[1], known))
    }
    try:
        strategy: Strategy = factory(decisions, Limited(priced, limits) if limits else priced, wanted, seed, **options)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ConfigError(f"strategy {name!r} has no such option: {error}") from error
    if study is not None:
        from cosearch.strategies.kept import keep

        keep(strategy, Path(study), options)
    return strategy


def _names(objectives: Sequence[str]) -> tuple[str, ...]:
    if isinstance(objectives, str):
        return (objectives,)
    try:
        return tuple(objectives)
    except TypeError:
        raise ConfigError(f"objectives are {objectives!r}: expected names such as ('accuracy', 'latency_ms')") from None
