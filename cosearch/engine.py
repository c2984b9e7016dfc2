"""The main job, top to bottom: check everything, train the supernet, search, train the finalists, compare, write.

`problem.prepare` does all the checking and writes nothing. The phases after it each leave their results in the run
directory and skip what is there already, so that `resume` is the same road walked again.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cosearch import registry
from cosearch.accuracy import AccuracySource, SupernetAccuracy, TrainAccuracy
from cosearch.comparison import (
    default_accelerator,
    design,
    designs_of,
    failures,
    front_table,
    notes,
    on_default,
)
from cosearch.config import RunConfig
from cosearch.costs import HardwareCosts
from cosearch.errors import ConfigError, CosearchError, DataError, InfeasibleError, RunError, StoppedError, command_line
from cosearch.evaluators import Evaluation, Evaluator, Pending, Threads
from cosearch.export.design import TRAINED, WHAT, design_files, parse_what, recorded_files, write_files
from cosearch.finalists import Trained, Training, inherit, load_trained, train_all
from cosearch.hardware.accelerator import Accelerator
from cosearch.problem import Problem, fingerprint, prepare
from cosearch.progress import Phase, Reporter
from cosearch.reading import parse_yaml
from cosearch.results import CO_SEARCH, CONV_ONLY, RANDOM, Design, Result, read_result
from cosearch.runs import INPUTS, RunDirectory, TrialLog, read_inputs, read_log, versions
from cosearch.shortlist import Choice, Halving, Lists, networks, shortlist
from cosearch.strategies import STRATEGIES, Objectives, make
from cosearch.strategies.base import TURNS, Candidate, Failure, Told
from cosearch.trust import require_trusted, trust
from cosearch.writing import write_atomic
from search_spaces.decisions import Arch, network_key, network_of

if TYPE_CHECKING:
    from cosearch.distributed.cluster import Cluster
    from cosearch.export.documents import Document, SavedDesign
    from cosearch.strategies.differentiable import Gradient

CHECKPOINT_SECONDS = 30.0
"""A supernet's training is saved after the epoch in which this much time has passed since the last time."""
MOST_HALVINGS = 4
"""Of a supernet's learning rate, when its training diverges."""
PARALLEL_PIXELS = 32 * 32
"""Images from this size on use several threads per operation; for smaller ones the threads wait for each other."""


def start_threads(config: RunConfig, pixels: int) -> tuple[int, int]:
    """Choose how the CPU threads are used. pixels: of one image.

    Returns: how many networks to evaluate at once, and how many threads torch uses for each: 0 where it has no part.
    """
    if not config.trains:
        return 1, 0
    import torch

    at_once = evaluations_at_once(config.threads, pixels)
    torch.set_num_threads(config.threads // at_once)
    return at_once, config.threads // at_once


def evaluations_at_once(threads: int, pixels: int) -> int:
    return 1 if pixels >= PARALLEL_PIXELS else threads


def _pixels(problem: Problem) -> int:
    """Of one image."""
    return int(np.prod(problem.dataset.input_shape[1:])) if problem.dataset is not None else PARALLEL_PIXELS


def run(config: RunConfig | None = None, **options: Any) -> Result:
    """Search a network and an accelerator together, train the finalist and leave a run directory.

    options: fields of `RunConfig`, over those of `config`.
    Raises: a CosearchError of one line; nothing is written before all inputs are checked.
    """
    given = config.model_dump(exclude_unset=True) if config is not None else {}
    config = RunConfig.make({**given, **options})
    out = config.out if config.out is not None else _free_name(config)
    RunDirectory.require_free(out)
    if config.ray is None and config.order == "async":
        raise ConfigError("--ray-order async needs workers that finish in any order: give --ray too")
    config = config.model_copy(update={"ray_order": config.order if config.ray else None})
    reporter = Reporter(config.quiet)
    if config.trains:
        _check_training(config)
    started = time.monotonic()
    with _workers(config) as cluster:
        problem = prepare(config, reporter, cluster.price if cluster is not None else None)
        config = problem.config
        if cluster is not None:
            cluster.reserve(config, _threads_of_one(problem))
        reporter.say(_plan(problem))
        kept = config.with_absolute_paths().model_copy(update={"out": out.resolve()})
        _require_readable(kept)
        trust(config)
        with RunDirectory.begin(out, kept) as run_directory:
            run_directory.write_json(INPUTS, fingerprint(problem))
            return _carry_out(run_directory, problem, cluster, reporter, started)


def _require_readable(kept: RunConfig) -> None:
    """Raises: ConfigError for options that config.yaml would not give again."""
    with suppress(DataError):
        if RunConfig.make(parse_yaml(kept.to_yaml())) == kept:
            return
    raise ConfigError(
        f"--out {kept.out}, or another path among the options, has characters that no YAML file holds: rename it"
    )


def _check_training(config: RunConfig) -> None:
    """Raises: ConfigError if torch has no such device; UnknownNameError if there is no such recipe."""
    from cosearch.supernet.recipes import AUTO, RECIPES
    from cosearch.supernet.training import torch_device

    torch_device(config.torch_device)
    if config.recipe != AUTO:
        registry.find("recipes", RECIPES, config.recipe)


def _workers(config: RunConfig) -> "AbstractContextManager[Cluster | None]":
    """Ray, if the run asks for it.

    Raises: ConfigError.
    """
    if config.ray is None:
        return nullcontext()
    alone = getattr(registry.find("strategies", STRATEGIES, config.strategy), "single_process", "")
    if alone:
        raise ConfigError(f"--strategy {config.strategy} needs a single process ({alone}): run it without --ray")
    from cosearch.distributed.cluster import connected

    return connected(config)


def _threads_of_one(problem: Problem) -> int:
    """CPU threads that one evaluation makes use of."""
    config = problem.config
    looked_up = config.accuracy in ("table", "predictor")
    return 1 if looked_up else config.threads // evaluations_at_once(config.threads, _pixels(problem))


SUPERNET, LAST_GOOD = "supernet.safetensors", "supernet.diverged.safetensors"
"""The supernet; and its last checkpoint of a training that diverged after it."""


def _plan(problem: Problem) -> str:
    """The phase budget, in steps: what will be done, before it is."""
    config = problem.config
    searches = 1 + config.baselines * (1 + (problem.conv_only is not None))
    source = (
        f"supernet {config.supernet_epochs} epochs ({config.recipe})"
        if config.accuracy == "supernet"
        else f"{config.accuracy} accuracies"
    )
    data = f" for {config.data}" if config.trains else ""
    trainings = f"{searches} finalists x {config.finalist_seeds} trainings of {config.finalist_epochs} epochs"
    return (
        f"{problem.space.name}: {problem.space.network_space.size:.3g} networks{data} on {problem.device_name}. "
        f"Budget: {source}, {searches} searches of {min(config.trials, problem.space.network_space.size)} evaluations, "
        f"{trainings if config.trains else 'no training'}."
    )


def resume(
    path: Path | str,
    trials: int | None = None,
    quiet: bool | None = None,
    ray: str | None = None,
    trusted: bool = False,
) -> Result:
    """Continue a run where it stopped, or extend a finished one.

    trials: the new number of accuracy evaluations; None keeps the run's own. ray: where it goes on, as
    `RunConfig.ray`, or none for this process; the order of results stays as it was. trusted: whether code that the
    directory names may be imported though this user has not named it before, see `cosearch.trust`.
    Raises: RunError if the directory is not a run, names code that is not trusted, or trials is below what was asked
    before.
    """
    run_directory = RunDirectory.open(Path(path))
    config = run_directory.config
    if trials is not None and trials < config.trials:
        raise ConfigError(f"--trials {trials}: the run has {config.trials} already; give more, or +N for N more")
    run_directory.require_journal()
    require_trusted(run_directory.path, config if ray is None else config.model_copy(update={"ray": None}), trusted)
    asked: dict[str, Any] = {"trials": trials or config.trials, "minutes": None}
    if ray is not None:
        asked |= {"ray": None if ray == "none" else ray, "ray_order": config.order}
    config = RunConfig.make({**config.model_dump(), **asked, "quiet": config.quiet if quiet is None else quiet})
    reporter = Reporter(config.quiet)
    started = time.monotonic()
    try:
        with run_directory.locked(), _workers(config) as cluster:
            problem = prepare(config, reporter, cluster.price if cluster is not None else None)
            if cluster is not None:
                cluster.reserve(config, _threads_of_one(problem))
            if read_inputs(run_directory) is None:
                run_directory.write_json(INPUTS, fingerprint(problem))
            else:
                _require_same_inputs(run_directory, fingerprint(problem))
            run_directory.reconfigure(config)
            return _carry_out(run_directory, problem, cluster, reporter, started)
    except KeyboardInterrupt:
        raise StoppedError(_interrupted(run_directory)) from None


def _require_same_inputs(run: RunDirectory, found: Mapping[str, str]) -> None:
    """Raises: RunError naming what has changed since the run was started."""
    known = read_inputs(run)
    if known is None:
        return
    changed = sorted(name for name in known.keys() | found.keys() if known.get(name) != found.get(name))
    if changed:
        raise RunError(
            f"{run.path}: {', '.join(changed)} changed since this run was started: put it back, or start a new run"
        )


def _free_name(config: RunConfig) -> Path:
    stem = f"{config.space.replace(':', '.')}-{Path(config.device).stem}-seed{config.seed}"
    path, n = Path("runs") / stem, 2
    while path.exists():
        path, n = Path("runs") / f"{stem}-{n}", n + 1
    return path


def _carry_out(
    run: RunDirectory, problem: Problem, cluster: "Cluster | None", reporter: Reporter, started: float
) -> Result:
    """All phases, in a directory that is locked.

    Raises: StoppedError if the user stops it; everything done until then is kept.
    """
    config = problem.config
    deadline = started + 60 * config.minutes if config.minutes else float("inf")
    at_once, inside = start_threads(config, _pixels(problem))
    seconds: dict[str, float] = {"preparing": time.monotonic() - started}
    run.log("start", threads=config.threads, seed=config.seed, versions=versions())
    try:
        default = default_accelerator(problem)
        with _timed(run, seconds, "supernet"):
            accuracy = _accuracy_source(run, problem, reporter, deadline)
        evaluator = cluster.evaluator(accuracy) if cluster is not None else Threads(accuracy, at_once, inside)
        with _timed(run, seconds, "search"), evaluator:
            found = _searches(run, problem, evaluator, getattr(accuracy, "gradient", None), reporter, deadline)
        _require_sealed(problem)
        with _timed(run, seconds, "finalists"):
            chosen, trained = _finalists(run, found, problem, accuracy.images, cluster, reporter, deadline)
        with _timed(run, seconds, "comparing"):
            designs = [design(problem, name, chosen[name], found[name], trained[name]) for name in chosen]
            _require_sealed(problem)
            designs += _on_default(designs, problem, default)
            lines = (*failures(trained), *notes(problem, found[CO_SEARCH], chosen, designs, reporter))
            table = front_table(found[CO_SEARCH], problem)
            named = problem.objectives.names, problem.costs_are, config.training
            result = Result(str(run.path), table, tuple(designs), lines, *named)
            _write(run, problem, result, chosen[CO_SEARCH])
    except StoppedError as error:
        run.log("stopped", reason=str(error))
        raise
    except KeyboardInterrupt:
        run.log("stopped", reason="interrupted")
        raise StoppedError(_interrupted(run)) from None
    run.log("finished", seconds={name: round(value, 2) for name, value in seconds.items()})
    reporter.say("Time by phase: " + ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()))
    _leave_report(run, problem, chosen[CO_SEARCH], accuracy, reporter)
    return result


def _leave_report(
    run: RunDirectory, problem: Problem, finalist: Choice, accuracy: AccuracySource, reporter: Reporter
) -> None:
    """report.html. The run is finished, whatever happens here."""
    from cosearch.report.details import find_details
    from cosearch.report.writing import write_page

    again = f"the run is finished; make the report with: {command_line('report', run.path)}"
    try:
        find_details(run, problem, finalist, accuracy, reporter)
        write_page(run.path)
    except KeyboardInterrupt:
        reporter.say(f"The report was interrupted; {again}")
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        reporter.say(f"The report failed ({reason}); {again}")
        with suppress(RunError):  # the disk may be what failed
            run.log("report failed", reason=reason)


def find_report_details(run: RunDirectory, reporter: Reporter, trusted: bool = False) -> None:
    """What the report of a finished run shows and its files do not say, into report.json. trusted: as of `resume`.

    Raises: RunError if the inputs changed since, or code is not trusted; other CosearchErrors if they are gone.
    """
    from cosearch.report.details import find_details

    require_trusted(run.path, run.config, trusted)
    problem = prepare(run.config, reporter)
    _require_same_inputs(run, fingerprint(problem))
    accuracy = None
    if run.config.accuracy != "supernet" or (run.path / SUPERNET).is_file():
        start_threads(run.config, _pixels(problem))
        accuracy = _accuracy_source(run, problem, Reporter(quiet=True), float("inf"))
    finalist = load_run(run.path).finalist
    choice = finalist.arch, _point_of(problem, finalist.arch, finalist.accelerator)
    find_details(run, problem, choice, accuracy, reporter)


@contextmanager
def _timed(run: RunDirectory, seconds: dict[str, float], name: str) -> Iterator[None]:
    run.log("phase", name=name)
    started = time.monotonic()
    yield
    seconds[name] = time.monotonic() - started


def _on_default(designs: Sequence[Design], problem: Problem, default: Accelerator | None) -> list[Design]:
    if default is None:
        return []
    return [on_default(d, problem, default) for d in designs if d.name in (CONV_ONLY, CO_SEARCH)]


def _accuracy_source(run: RunDirectory, problem: Problem, reporter: Reporter, deadline: float) -> AccuracySource:
    config, space, dataset = problem.config, problem.space.network_space, problem.dataset
    if problem.known_accuracy is not None:
        return problem.known_accuracy
    from cosearch.supernet.training import torch_device

    assert dataset is not None
    device = torch_device(config.torch_device)
    if config.accuracy == "supernet":
        supernet = _trained_supernet(run, problem, device, reporter, deadline)
        return SupernetAccuracy(space, supernet, dataset, device, config.precision)
    return TrainAccuracy(space, dataset, config.finalist_epochs, config.seed, device)


def _trained_supernet(run: RunDirectory, problem: Problem, device: str, reporter: Reporter, deadline: float) -> Any:
    """Train the space's supernet, or go on from its checkpoint. One that diverges begins again at half the rate.

    It begins at its first epoch: when a checkpoint was written depends on the machine. The last one is set aside.
    Raises: DivergedError if it still does after some times.
    """
    from cosearch.supernet.training import DivergedError

    while True:
        halved = sum(line.get("event") == "diverged" for line in read_log(run.path))
        try:
            return _train_supernet(run, problem, device, reporter, deadline, 0.5**halved)
        except DivergedError as error:
            if halved >= MOST_HALVINGS:
                kept = [str(run.path / name) for name in (SUPERNET, LAST_GOOD) if (run.path / name).is_file()]
                good = f"; its last good checkpoint is {kept[0]}" if kept else ""
                raise DivergedError(
                    f"{error}, as at {halved} higher rates: are the images of a usual scale? "
                    f"Else try another --recipe{good}"
                ) from None
            if (run.path / SUPERNET).is_file():
                os.replace(run.path / SUPERNET, run.path / LAST_GOOD)
            run.log("diverged", reason=str(error))
            reporter.say(f"{error}: it begins again at half the learning rate")


def _train_supernet(
    run: RunDirectory, problem: Problem, device: str, reporter: Reporter, deadline: float, slower: float
) -> Any:
    """slower: than the recipe says, the learning rate.

    Raises: DivergedError, and StoppedError when time is up.
    """
    from cosearch.supernet import recipes
    from cosearch.supernet.checkpoint import restore, save
    from cosearch.supernet.training import train_supernet_epoch

    config, space, dataset = problem.config, problem.space.network_space, problem.dataset
    assert dataset is not None
    recipe = recipes.of_run(config, space, device, _within(problem))
    settings = replace(recipe.settings, learning_rate=slower * recipe.settings.learning_rate)
    recipe = replace(recipe, settings=settings)
    done, optimizer = restore(run, recipe, space.name)
    if optimizer is None:
        return recipe.supernet
    saved = time.monotonic()
    with reporter.phase("training the supernet", settings.epochs, done) as phase:
        for epoch in range(done, settings.epochs):
            loss = train_supernet_epoch(recipe, optimizer, dataset.train, config.seed, epoch, dataset.mirror, device)
            phase.advance(1, f"loss {loss:.3f}")
            now = time.monotonic()
            if epoch + 1 == settings.epochs or now > min(deadline, saved + CHECKPOINT_SECONDS):
                save(run, recipe, optimizer, space.name, epoch + 1)
                run.log("supernet", epoch=epoch + 1, loss=round(loss, 5))
                saved = now
            if now > deadline:
                raise _out_of_time(run)
    return recipe.supernet


def _require_sealed(problem: Problem) -> None:
    """Raises: RunError if the test images were looked at before the networks to test are chosen and trained."""
    if problem.dataset is not None and problem.dataset.opened:
        raise RunError(f"the test images of {problem.dataset.name} were opened during the search: its results are void")


def _within(problem: Problem) -> Callable[[Arch], bool] | None:
    """Whether some accelerator runs a network within the limits, if training shall know."""
    if not problem.config.guided:
        return None
    costs: Any = problem.costs
    return lambda arch: len(costs.fronts([arch])[0]) > 0


def _interrupted(run: RunDirectory) -> str:
    return f"interrupted; what was done is kept, continue with: {run.resume_command}"


def _out_of_time(run: RunDirectory) -> StoppedError:
    return StoppedError(f"stopped by --minutes; what was done is kept, continue with: {run.resume_command}")


def _searches(
    run: RunDirectory,
    problem: Problem,
    evaluator: Evaluator,
    gradient: "Gradient | None",
    reporter: Reporter,
    deadline: float,
) -> dict[str, list[Told]]:
    """The search, and the baselines at equal accuracy evaluations: name -> everything evaluated."""
    strategy = problem.config.strategy
    plans = {CO_SEARCH: (problem.space, strategy)}
    if problem.config.baselines:
        if problem.conv_only is not None:
            plans[CONV_ONLY] = (problem.conv_only, strategy)
        plans[RANDOM] = (problem.space, "random")
    found = {}
    for name, (space, strategy) in plans.items():
        try:
            found[name] = _search(run, problem, name, space, strategy, evaluator, gradient, reporter, deadline)
        except InfeasibleError as error:
            if name == CO_SEARCH:
                raise
            reporter.say(f"{name}: {error}")  # a baseline that the limits rule out is no reason to lose the search
    return found


def _search(
    run: RunDirectory,
    problem: Problem,
    name: str,
    space: Any,
    strategy_name: str,
    evaluator: Evaluator,
    gradient: "Gradient | None",
    reporter: Reporter,
    deadline: float,
) -> list[Told]:
    config, objectives = problem.config, problem.objectives
    costs: Any = problem.costs  # a network of a sub-space is priced as a network of the whole
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
            if time.monotonic() > deadline:
                raise _out_of_time(run)
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


def _finalists(
    run: RunDirectory,
    found: Mapping[str, Sequence[Told]],
    problem: Problem,
    images: int,
    cluster: "Cluster | None",
    reporter: Reporter,
    deadline: float,
) -> tuple[dict[str, Choice], dict[str, list[Trained]]]:
    """Of each search the design to take, and its network trained with every seed.

    images: on how many an accuracy of the search was measured.
    """
    config = problem.config
    designs = {name: designs_of(told, problem.objectives.costs) for name, told in found.items()}
    knee = config.recommend == "knee"
    lists = shortlist(designs, problem.objectives, images, config.finalist_candidates if config.trains else 1, knee)
    if not config.trains:
        return {name: listed[0] for name, listed in lists.items()}, {name: [] for name in lists}
    assert problem.dataset is not None
    halving = Halving(designs, problem.objectives, len(problem.dataset.validation), config.finalist_epochs, knee)
    while halving.open(lists):
        trainings = _trainings(list(networks(lists).values()), problem, halving.heat(lists))
        if cluster is None:
            _train(run, problem, trainings, None, reporter, deadline)
        elif any(load_trained(run, training) is None for training in trainings):
            _halve(run, problem, halving, lists, trainings, cluster, reporter, deadline)
        scores = {network_key(t.arch): _result(run, t).integer_accuracy for t in trainings}
        lists = halving.better_half(lists, scores)
    chosen = {name: listed[0] for name, listed in lists.items()}
    _train(run, problem, _trainings([arch for arch, _ in chosen.values()], problem), cluster, reporter, deadline)
    results = {
        name: [_result(run, training) for training in _trainings([arch], problem)] for name, (arch, _) in chosen.items()
    }
    for name, trained in results.items():
        if all(t.failed for t in trained):
            raise CosearchError(
                f"all {len(trained)} trainings of {name}'s network failed ({trained[0].failed}): give more "
                "--finalist-candidates, or another --seed"
            )
    return chosen, results


def _halve(
    run: RunDirectory,
    problem: Problem,
    halving: Halving,
    lists: Lists,
    trainings: Sequence[Training],
    cluster: "Cluster",
    reporter: Reporter,
    deadline: float,
) -> None:
    """This heat and those after it on Ray, where a scheduler of Tune's halves the lists as they are halved here."""
    inherit(run, problem.space.network_space, [training.arch for training in trainings])
    with reporter.phase("comparing candidates, epochs", halving.most_epochs(lists)) as phase:
        cluster.halve(run, halving, lists, trainings, _counting(phase, run, deadline))


def _counting(phase: Phase, run: RunDirectory, deadline: float) -> Callable[[int], None]:
    """What is called with epochs that were done.

    Raises: StoppedError, when called, if the time is over.
    """

    def on_epochs(n: int) -> None:
        phase.advance(n)
        if time.monotonic() > deadline:
            raise _out_of_time(run)

    return on_epochs


def _result(run: RunDirectory, training: Training) -> Trained:
    trained = load_trained(run, training)
    assert trained is not None
    return trained


def _train(
    run: RunDirectory,
    problem: Problem,
    trainings: Sequence[Training],
    cluster: "Cluster | None",
    reporter: Reporter,
    deadline: float,
) -> None:
    """Do the trainings that have no result yet."""
    from cosearch.supernet.training import torch_device

    config = problem.config
    open_ones = [t for t in trainings if load_trained(run, t) is None]
    workers = 1 if torch_device(config.torch_device) == "cuda" else config.threads
    total, rest = (sum(t.epochs(config) for t in some) for some in (trainings, open_ones))
    if open_ones:
        inherit(run, problem.space.network_space, [training.arch for training in open_ones])
    what = "comparing candidates" if trainings[0].heat else "training finalists"
    with reporter.phase(f"{what}, epochs", total, total - rest) as phase:
        on_epochs = _counting(phase, run, deadline)
        if cluster is None:
            train_all(run, trainings, workers, on_epochs)
        else:
            cluster.train_all(run, trainings, on_epochs)


def _trainings(archs: Sequence[Arch], problem: Problem, heat: int = 0) -> list[Training]:
    """Of each network with every seed; in a heat, of so many epochs, with one."""
    config = problem.config
    unique = {network_key(arch): network_of(arch) for arch in archs}.values()
    return [
        Training(arch, config.seed + k, problem.space.network_space.workload(arch).macs, heat)
        for arch in unique
        for k in range(1 if heat else config.finalist_seeds)
    ]


def _write(run: RunDirectory, problem: Problem, result: Result, finalist: Choice) -> None:
    """best/, front.csv and, last, result.json: a run with it is finished."""
    arch, _ = finalist
    front = result.front.to_csv(index=False)
    # the weights of the first seed, not of the best on the test images
    training = _first_good(run, _trainings([arch], problem)) if problem.config.trains else None
    write_files(design_files(run, problem, finalist, training, WHAT), run.path / "best")
    write_atomic(run.path / "front.csv", front)
    run.write_json(
        "result.json",
        {
            "format": "cosearch.result",
            "version": 1,
            "device": problem.device_name,
            "data": problem.config.data if problem.dataset is not None else None,
            "data_hash": problem.dataset.content_hash if problem.dataset is not None else None,
            "objectives": list(problem.objectives.names),
            "costs_are": problem.costs_are,
            "front_sha256": sha256(front.encode()).hexdigest(),
            "designs": [d.to_json() for d in result.designs],
            "notes": list(result.notes),
        },
    )


def _first_good(run: RunDirectory, trainings: Sequence[Training]) -> Training:
    """The first of the trainings that is done and did not diverge.

    Raises: RunError if there is none.
    """
    done = [(t, found) for t in trainings if (found := load_trained(run, t)) is not None]
    good = [training for training, found in done if not found.failed]
    if not good:
        raise RunError(f"the network has no weights: {done[0][1].failed}")
    return good[0]


def export_design(
    path: Path | str,
    to: Path | str,
    trial: int | None = None,
    what: Sequence[str] = WHAT,
    front: int | None = None,
    quiet: bool | None = None,
    trusted: bool = False,
) -> list[Path]:
    """Write a design of a run as files.

    trial: a trial of the search, its network with the accelerator that it is recorded with; front: a row of front.csv,
    its network with its accelerator; None of both is the finalist. A network that was not trained yet is trained first
    if its weights are asked for. quiet: None is as the run was. trusted: as of `resume`; what best/ holds of the
    finalist needs no code.
    Returns: the files. Raises: RunError, ConfigError.
    """
    what = parse_what(what if isinstance(what, str) else ",".join(what))
    run_directory = RunDirectory.open(Path(path))
    config = run_directory.config
    reporter = Reporter(config.quiet if quiet is None else quiet)
    with run_directory.locked():
        arch, accelerator = _asked(run_directory, trial, front)
        _require_no_other(Path(to), run_directory, arch, accelerator)
        if trial is None and front is None:
            files = recorded_files(run_directory, arch, accelerator, what)
            if files is not None:
                return _write_alike(files, Path(to))
        require_trusted(run_directory.path, config, trusted)
        problem = prepare(config, reporter)
        choice = arch, _point_of(problem, arch, accelerator)
        training = None
        if config.trains and set(TRAINED) & set(what):
            trainings = _trainings([arch], problem)
            if load_trained(run_directory, trainings[0]) is None:
                inherit(run_directory, problem.space.network_space, [trainings[0].arch])
                with reporter.phase("training the network, epochs", config.finalist_epochs) as phase:
                    train_all(run_directory, trainings[:1], 1, phase.advance)
            training = _first_good(run_directory, trainings)
        return _write_alike(design_files(run_directory, problem, choice, training, what), Path(to))


def _write_alike(files: Mapping[str, bytes], to: Path) -> list[Path]:
    """Raises: ConfigError for a folder that holds another file by one of the names; nothing is written then."""
    for name, content in files.items():
        with suppress(FileNotFoundError, NotADirectoryError):
            if (to / name).read_bytes() != content:
                raise ConfigError(f"--to {to} holds another {name}: remove it, or choose another folder")
    return write_files(files, to)


def _asked(run: RunDirectory, trial: int | None, front: int | None) -> tuple[Arch, str]:
    """Network and accelerator, by name, of a trial, of a row of front.csv or, without both, of the finalist.

    Raises: ConfigError if both are given, there is no such trial or row, or the trial failed.
    """
    if trial is not None and front is not None:
        raise ConfigError("--trial and --front both name a design: give one of them")
    if trial is not None:
        return _of_trial(run, trial)
    result = load_run(run.path)
    if front is None:
        return result.finalist.arch, result.finalist.accelerator
    table = result.front
    if not 0 <= front < len(table):
        raise ConfigError(f"--front {front}: {run.path / 'front.csv'} has rows 0 to {len(table) - 1}")
    accelerator = str(table["accelerator"].iloc[front]) if "accelerator" in table else ""
    return json.loads(table["arch"].iloc[front]), accelerator


def _of_trial(run: RunDirectory, number: int) -> tuple[Arch, str]:
    from cosearch.report.trials import read_trials

    trials = read_trials(run.path, run.config.objectives)[1].get(CO_SEARCH, [])
    if not 0 <= number < len(trials):
        known = f"has trials 0 to {len(trials) - 1}" if trials else "has no trials yet"
        raise ConfigError(f"--trial {number}: {run.path} {known}")
    trial = trials[number]
    if trial.accuracy is None:
        raise ConfigError(f"--trial {number} failed ({trial.reason or 'no reason is known'}): choose another")
    return trial.arch, trial.accelerator


def _require_no_other(to: Path, run: RunDirectory, arch: Arch, accelerator: str) -> None:
    """Raises: ConfigError if a design in a folder would be overwritten by another one, or the files of a run."""
    within = to.resolve()
    if any((folder / "config.yaml").is_file() for folder in (within, *within.parents)) or within.is_relative_to(
        run.path.resolve()
    ):
        raise ConfigError(f"--to {to} is inside of a run directory, whose files are its own: choose another folder")
    if to.exists() and not to.is_dir():
        raise ConfigError(f"--to {to} is a file: choose a folder")
    from cosearch.export.documents import read_json

    asked = {"network": ("arch", dict(arch)), "accelerator": ("name", accelerator)}
    for name, (field, value) in asked.items():
        path = to / f"{name}.json"
        try:
            found = read_json(path).get(field) if path.is_file() else value
        except RunError:
            raise ConfigError(
                f"--to {to} holds a {path.name} that is damaged: remove it, or choose another folder"
            ) from None
        if found != value:
            raise ConfigError(
                f"--to {to} holds another design ({path.name} is of another {name}): choose another folder"
            )


def _point_of(problem: Problem, arch: Arch, accelerator: str) -> int:
    """The point of a network's front that is an accelerator, by name."""
    if not isinstance(problem.costs, HardwareCosts):
        return 0
    [front] = problem.costs.fronts([arch])
    names = (problem.costs.accelerator(arch, i).name for i in range(len(front)))
    found = next((i for i, name in enumerate(names) if name == accelerator), None)
    if found is None:
        raise RunError(f"{accelerator} is not on the hardware front of its network: was the device changed?")
    return found


def load(path: Path | str) -> "Result | SavedDesign | Document":
    """What cosearch wrote: a run directory as its `Result`, a folder with a design as a `SavedDesign` (network with its
    weights, workload, accelerator, mapping), and a .json file as what it describes.

    Raises: RunError if it is none of these, or damaged.
    """
    from cosearch.export.documents import read_design, read_document

    found = Path(path)
    if os.path.isfile(found / "config.yaml"):
        return load_run(found)
    if os.path.isfile(found / "network.json"):
        return read_design(found)
    if os.path.isfile(found):
        return read_document(found)
    raise RunError(
        f"{path} is not a run directory, a folder with a design or one of its .json files: give the --out of an "
        "earlier run, or what cosearch export wrote"
    )


def load_run(path: Path | str) -> Result:
    """A finished run, from its files.

    Raises: RunError if it is not one, or not finished.
    """
    return read_result(RunDirectory.open(Path(path)))


def load_network(path: Path | str) -> "Classifier":
    """The finalist of a finished run as a callable on images; the dataset is not needed.

    Raises: RunError.
    """
    import torch

    from cosearch.export.network import read_network
    from cosearch.integer import IntegerLinear, from_tensors

    run_directory = RunDirectory.open(Path(path))
    if not run_directory.config.trains:
        raise RunError(f"{path} trained no network: its accuracies come from a table")
    described = read_network(run_directory)
    loaded = run_directory.load_tensors("best/integer.safetensors")
    if loaded is None:
        raise RunError(
            f"{path}/best/integer.safetensors is missing: finish the run with: {run_directory.resume_command}"
        )
    network = from_tensors(*loaded)
    last = network.steps[-1] if network.steps else None
    if not isinstance(last, IntegerLinear) or len(last.weight) != len(described.classes):
        raise RunError(
            f"{path}/best: network.json names {len(described.classes)} classes, and integer.safetensors does not tell "
            f"so many apart: remove both and run: {run_directory.resume_command}"
        )
    try:
        network(torch.zeros(1, *described.blueprint.input_shape))
    except Exception as error:  # steps that do not fit each other fail in any way
        raise RunError(
            f"{path}/best/integer.safetensors is no network ({' '.join(str(error).split()):.300}): remove it and run: "
            f"{run_directory.resume_command}"
        ) from None
    return Classifier(network, described.pixel_mean, described.pixel_std, described.classes)


@dataclass(frozen=True)
class Classifier:
    """The integer network of a finalist with the scaling of its images."""

    network: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]

    def __call__(self, images: Any) -> list[str]:
        """images: [n, channels, height, width], uint8, or float on the scale of the training data. Returns: classes.

        Raises: DataError for an array of another shape.
        """
        import torch

        from cosearch.data import standardise
        from cosearch.integer import integer_predictions

        pixels = np.asarray(images)
        if pixels.ndim != 4 or pixels.shape[1] != len(self.mean):
            raise DataError(f"images of shape {pixels.shape}, expected (images, {len(self.mean)}, height, width)")
        scaled = pixels.astype(np.float32) / np.float32(255 if pixels.dtype == np.uint8 else 1)
        found = integer_predictions(self.network, torch.from_numpy(standardise(scaled, self.mean, self.std)))
        return [self.classes[i] for i in found.tolist()]
