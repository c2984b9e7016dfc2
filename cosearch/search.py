"""The searches of a run: ask a strategy, have its networks evaluated, record each result and tell it."""

from typing import TYPE_CHECKING, Any

from cosearch.errors import CosearchError, InfeasibleError
from cosearch.evaluators import Evaluation, Evaluator, Pending
from cosearch.job import Job
from cosearch.results import CO_SEARCH, CONV_ONLY, RANDOM
from cosearch.runs import TrialLog
from cosearch.strategies import Objectives, make
from cosearch.strategies.base import TURNS, Candidate, Failure, Told

if TYPE_CHECKING:
    from cosearch.strategies.differentiable import Gradient


def searches(job: Job, evaluator: Evaluator, gradient: "Gradient | None" = None) -> dict[str, list[Told]]:
    """The search, and the baselines at equal accuracy evaluations: name -> everything evaluated.

    gradient: of the supernet's loss by a network's decisions, for strategies that follow it.
    Raises: InfeasibleError if the search has nothing to propose; StoppedError; CosearchError if all evaluations fail.
    """
    problem = job.problem
    strategy = problem.config.strategy
    plans = {CO_SEARCH: (problem.space, strategy)}
    if problem.config.baselines:
        if problem.conv_only is not None:
            plans[CONV_ONLY] = (problem.conv_only, strategy)
        plans[RANDOM] = (problem.space, "random")
    found = {}
    for name, (space, strategy) in plans.items():
        try:
            found[name] = _search(job, name, space, strategy, evaluator, gradient)
        except InfeasibleError as error:
            if name == CO_SEARCH:
                raise
            job.reporter.say(f"{name}: {error}")  # a baseline that the limits rule out is no reason to lose the search
    return found


def _search(
    job: Job, name: str, space: Any, strategy_name: str, evaluator: Evaluator, gradient: "Gradient | None"
) -> list[Told]:
    run, reporter, config, objectives = job.run, job.reporter, job.problem.config, job.problem.objectives
    costs: Any = job.problem.costs  # a network of a sub-space is priced as a network of the whole
    trials = min(config.trials, space.network_space.size)
    results = TURNS * trials if space.joint else trials
    options: dict[str, Any] = {}
    if strategy_name == "auto":
        options = {"trials": trials, "source": config.accuracy}
    elif strategy_name == "differentiable":
        options = {"gradient": gradient}
    strategy: Any = make(strategy_name, space, costs, objectives, config.seed, batch=config.group, **options)
    why = strategy.why if strategy_name == "auto" else ""
    if why:
        reporter.say(f"{name}: strategy auto chose {why}")
    run.log("search", study=name, strategy=strategy_name, why=why)
    log = TrialLog(run, name, space, objectives)
    history = strategy.history
    pending = Pending(evaluator, config.order, config.group)
    with reporter.phase(f"{name}: {strategy_name}", trials) as phase:
        for candidate in log.replay(strategy, phase.advance, getattr(costs, "recall", None)):
            pending.submit(candidate)
        while len(history.told) < results:
            wanted = pending.wanted(len(history.told), results)
            try:
                for candidate in strategy.ask(wanted) if wanted else []:
                    if candidate.accuracy is None and history.evaluated + pending.evaluations == trials:
                        results = len(history.told) + len(pending)
                        break
                    pending.submit(candidate)
            except InfeasibleError as error:
                if not history.told and not pending:
                    raise
                reporter.say(f"{name}: {error}")
                results = len(history.told) + len(pending)
                run.log("exhausted", study=name, trials=results)
            for candidate, evaluation in pending.results():
                device = (
                    costs.accelerator(candidate.arch, candidate.point).name if hasattr(costs, "accelerator") else None
                )
                outcome = _outcome(candidate, evaluation, costs, objectives)
                asked = history.next_number if config.order == "async" else None
                front = costs.record(candidate.arch) if hasattr(costs, "record") else None
                log.add(candidate, outcome, device, config.accuracy, evaluation.seconds, asked, front)
                if asked is not None:
                    run.log("told", study=name, number=candidate.number, asked=asked, node=evaluation.node)
                strategy.tell(candidate, outcome)
                best = max((t.accuracy or 0.0) for t in history.told)
                phase.advance(int(candidate.accuracy is None), f"best accuracy {best:.4f}")
            job.require_time()
    if not any(t.accuracy is not None for t in history.told):
        raise CosearchError(
            f"all {len(history.told)} evaluations of {name} failed: see the trials in {run.path}/study.db"
        )
    return list(history.told)


def _outcome(
    candidate: Candidate, evaluation: Evaluation, costs: Any, objectives: Objectives
) -> dict[str, float] | Failure:
    """What was measured, with what is known of the point that the candidate is recorded with."""
    if isinstance(evaluation.accuracy, Failure):
        return evaluation.accuracy
    [front] = costs.fronts([candidate.arch])
    known = {name: float(front.metric(name)[candidate.point]) for name in objectives.costs}
    return {"accuracy": evaluation.accuracy, **known}
