"""The searches of a run: ask a strategy, have its networks evaluated, record each result and tell it."""

from typing import Any

from cosearch.accuracy import AccuracySource
from cosearch.errors import CosearchError, InfeasibleError
from cosearch.evaluators import Evaluation, Evaluator, Pending
from cosearch.job import Job
from cosearch.problem import Problem
from cosearch.results import CO_SEARCH, CONV_ONLY, RANDOM
from cosearch.runs import read_log
from cosearch.strategies import STRATEGIES, make
from cosearch.strategies.base import TURNS, Candidate, Failure, Told
from cosearch.strategies.study import TrialLog


def searches(job: Job, evaluator: Evaluator, accuracy: AccuracySource) -> dict[str, list[Told]]:
    """The search, and the baselines at equal accuracy evaluations: name -> everything evaluated.

    accuracy: what the evaluator asks; a supernet's gradients are for strategies that follow them.
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
            found[name] = _search(job, name, space, strategy, evaluator, accuracy)
        except InfeasibleError as error:
            if name == CO_SEARCH:
                raise
            job.reporter.say(f"{name}: {error}")  # a baseline that the limits rule out is no reason to lose the search
    return found


def _search(
    job: Job, name: str, space: Any, strategy_name: str, evaluator: Evaluator, accuracy: AccuracySource
) -> list[Told]:
    """One search, of the whole space or of a part of it: everything it evaluated, in order."""
    config = job.problem.config
    trials = min(config.trials, space.network_space.size)
    results = TURNS * trials if space.joint else trials
    strategy = _strategy(job, name, space, strategy_name, trials, accuracy)
    history = strategy.history
    log = TrialLog(job.run.path, name, space, job.problem.objectives)
    pending = Pending(evaluator, config.order, config.group)
    with job.reporter.phase(f"{name}: {strategy_name}", trials) as phase:
        for candidate in log.replay(strategy, phase.advance, getattr(job.problem.costs, "recall", None)):
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
                job.reporter.say(f"{name}: {error}")
                results = len(history.told) + len(pending)
                job.run.log("exhausted", study=name, trials=results)
            for candidate, evaluation in pending.results():
                asked = history.next_number if config.order == "async" else None
                outcome = _recorded(job.problem, log, candidate, evaluation, asked)
                if asked is not None:
                    job.run.log("told", study=name, number=candidate.number, asked=asked, node=evaluation.node)
                strategy.tell(candidate, outcome)
                best = max((t.accuracy or 0.0) for t in history.told)
                phase.advance(int(candidate.accuracy is None), f"best accuracy {best:.4f}")
            job.require_time()
    if not any(t.accuracy is not None for t in history.told):
        raise CosearchError(
            f"all {len(history.told)} evaluations of {name} failed: see the trials in {job.run.path}/study.db"
        )
    return list(history.told)


def _strategy(job: Job, name: str, space: Any, asked: str, trials: int, accuracy: AccuracySource) -> Any:
    """What proposes the networks of a search. asked: its name; trials: evaluations that it has."""
    config = job.problem.config
    before = _why_before(job, name) if asked == "auto" else ""
    chosen = before.partition(":")[0] or asked
    options: dict[str, Any] = {}
    if chosen == "auto":
        options = {"trials": trials, "source": config.accuracy}
    elif chosen == "differentiable":
        options = {name: getattr(accuracy, name, None) for name in ("gradient", "logits")}
    costs: Any = job.problem.costs  # a network of a sub-space is priced as a network of the whole
    strategy: Any = make(chosen, space, costs, job.problem.objectives, config.seed, batch=config.group, **options)
    why = strategy.why if chosen == "auto" else before
    if why:
        job.reporter.say(f"{name}: strategy auto chose {why}")
    job.run.log("search", study=name, strategy=asked, why=why)
    return strategy


def _why_before(job: Job, name: str) -> str:
    """What `auto` chose for a search when the run began, and why: more trials do not change it. Empty if it did not."""
    events = (line for line in read_log(job.run.path) if line.get("event") == "search" and line.get("study") == name)
    why = str(next(events, {}).get("why", ""))
    return why if why.partition(":")[0] in STRATEGIES else ""


def _recorded(
    problem: Problem, log: TrialLog, candidate: Candidate, evaluation: Evaluation, asked: int | None
) -> dict[str, float] | Failure:
    """What came of a candidate, once it is in the study: what was measured, with what is known of its point.

    asked: as `TrialLog.add` takes it.
    """
    costs: Any = problem.costs
    arch, point = candidate.arch, candidate.point
    outcome: dict[str, float] | Failure
    if isinstance(evaluation.accuracy, Failure):
        outcome = evaluation.accuracy
    else:
        [front] = costs.fronts([arch])
        known = {name: float(front.metric(name)[point]) for name in problem.objectives.costs}
        outcome = {"accuracy": evaluation.accuracy, **known}
    device = costs.accelerator(arch, point).name if hasattr(costs, "accelerator") else None
    record = costs.record(arch) if hasattr(costs, "record") else None
    log.add(candidate, outcome, device, problem.config.accuracy, evaluation.seconds, asked, record)
    return outcome
