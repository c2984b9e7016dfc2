"""The main job, top to bottom: check everything, train the supernet, search, train the finalists, compare, write.

`problem.prepare` does all the checking and writes nothing. The phases after it each leave their results in the run
directory and skip what is there already, so that `resume` is the same road walked again.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosearch import registry
from cosearch.accuracy import AccuracySource
from cosearch.comparison import default_accelerator, result_of
from cosearch.config import RunConfig
from cosearch.errors import ConfigError, DataError, RunError, StoppedError, command_line, one_line
from cosearch.evaluators import Threads, evaluations_at_once, start_threads
from cosearch.export.design import WHAT, design_files, write_files
from cosearch.job import Job
from cosearch.problem import Problem, fair_updates, fingerprint, prepare
from cosearch.progress import Reporter
from cosearch.reading import parse_yaml
from cosearch.results import CO_SEARCH, Result, write_result
from cosearch.runs import INPUTS, RunDirectory, read_inputs, require_same_inputs, versions
from cosearch.search import searches
from cosearch.selection import first_good, select, trainings_of
from cosearch.shortlist import Choice
from cosearch.source import accuracy_source
from cosearch.strategies import STRATEGIES
from cosearch.trust import require_trusted, trust

if TYPE_CHECKING:
    from cosearch.distributed.workers import Workers


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
        problem = _prepared(config, reporter, cluster)
        reporter.say(_plan(problem))
        kept = problem.config.with_absolute_paths().model_copy(update={"out": out.resolve()})
        _require_readable(kept)
        trust(problem.config)
        with RunDirectory.begin(out, kept) as run_directory:
            run_directory.write_json(INPUTS, fingerprint(problem))
            return _carry_out(run_directory, problem, cluster, reporter, started)


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
            problem = _prepared(config, reporter, cluster)
            if read_inputs(run_directory) is None:
                run_directory.write_json(INPUTS, fingerprint(problem))
            else:
                require_same_inputs(run_directory, fingerprint(problem))
            run_directory.reconfigure(config)
            return _carry_out(run_directory, problem, cluster, reporter, started)
    except KeyboardInterrupt:
        raise StoppedError(_interrupted(run_directory)) from None


def _carry_out(
    run: RunDirectory, problem: Problem, cluster: "Workers | None", reporter: Reporter, started: float
) -> Result:
    """All phases, in a directory that is locked.

    Raises: StoppedError if the user stops it; everything done until then is kept.
    """
    config = problem.config
    job = Job(run, problem, reporter, started + 60 * config.minutes if config.minutes else float("inf"), cluster)
    at_once, inside = start_threads(config, problem.pixels)
    seconds: dict[str, float] = {"preparing": time.monotonic() - started}
    run.log("start", threads=config.threads, seed=config.seed, versions=versions())
    try:
        default = default_accelerator(problem)
        with _timed(run, seconds, "supernet"):
            accuracy = accuracy_source(job)
        evaluator = cluster.evaluator(accuracy) if cluster is not None else Threads(accuracy, at_once, inside)
        with _timed(run, seconds, "search"), evaluator:
            found = searches(job, evaluator, accuracy)
        _require_sealed(problem)
        with _timed(run, seconds, "finalists"):
            chosen, trained = select(job, found, accuracy.images)
        with _timed(run, seconds, "comparing"):
            result = result_of(job, default, found, chosen, trained)
            _require_sealed(problem)
            _write(run, problem, result, chosen[CO_SEARCH])
    except StoppedError as error:
        run.log("stopped", reason=str(error))
        raise
    except KeyboardInterrupt:
        run.log("stopped", reason="interrupted")
        raise StoppedError(_interrupted(run)) from None
    run.log("finished", seconds={name: round(value, 2) for name, value in seconds.items()})
    reporter.say("Time by phase: " + ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()))
    _leave_report(job, chosen[CO_SEARCH], accuracy)
    return result


@contextmanager
def _timed(run: RunDirectory, seconds: dict[str, float], name: str) -> Iterator[None]:
    run.log("phase", name=name)
    started = time.monotonic()
    yield
    seconds[name] = time.monotonic() - started


def _require_sealed(problem: Problem) -> None:
    """Raises: RunError if the test images were looked at before the networks to test are chosen and trained."""
    if problem.dataset is not None and problem.dataset.opened:
        raise RunError(f"the test images of {problem.dataset.name} were opened during the search: its results are void")


def _write(run: RunDirectory, problem: Problem, result: Result, finalist: Choice) -> None:
    """best/, front.csv and, last, result.json."""
    # the weights of the first seed, not of the best on the test images
    training = first_good(run, trainings_of([finalist[0]], problem)) if problem.config.trains else None
    write_files(design_files(run, problem, finalist, training, WHAT), run.path / "best")
    data = (problem.config.data, problem.dataset.content_hash) if problem.dataset is not None else (None, None)
    write_result(run, result, problem.device_name, *data)


def _leave_report(job: Job, finalist: Choice, accuracy: AccuracySource) -> None:
    """report.html. The run is finished, whatever happens here."""
    from cosearch.report.details import find_details
    from cosearch.report.writing import write_page

    again = f"the run is finished; make the report with: {command_line('report', job.run.path)}"
    try:
        find_details(job.run, job.problem, finalist, accuracy, job.reporter)
        write_page(job.run.path)
    except KeyboardInterrupt:
        job.reporter.say(f"The report was interrupted; {again}")
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error):.200}"
        job.reporter.say(f"The report failed ({reason}); {again}")
        with suppress(RunError):  # the disk may be what failed
            job.run.log("report failed", reason=reason)


def _interrupted(run: RunDirectory) -> str:
    return f"interrupted; what was done is kept, continue with: {run.resume_command}"


def _free_name(config: RunConfig) -> Path:
    stem = f"{config.space.replace(':', '.')}-{Path(config.device).stem}-seed{config.seed}"
    path, n = Path("runs") / stem, 2
    while path.exists():
        path, n = Path("runs") / f"{stem}-{n}", n + 1
    return path


def _check_training(config: RunConfig) -> None:
    """Raises: ConfigError if torch has no such device; UnknownNameError if there is no such recipe."""
    from cosearch.supernet.recipes import AUTO, RECIPES
    from cosearch.supernet.training import torch_device

    torch_device(config.torch_device)
    if config.recipe != AUTO:
        registry.find("recipes", RECIPES, config.recipe)


def _workers(config: RunConfig) -> "AbstractContextManager[Workers | None]":
    """Ray, if the run asks for it.

    Raises: ConfigError.
    """
    if config.ray is None:
        return nullcontext()
    alone = getattr(registry.find("strategies", STRATEGIES, config.strategy), "single_process", "")
    if alone:
        raise ConfigError(f"--strategy {config.strategy} needs a single process ({alone}): run it without --ray")
    from cosearch.distributed.connection import connected

    return connected(config)


def _prepared(config: RunConfig, reporter: Reporter, cluster: "Workers | None") -> Problem:
    """The problem, checked, and on Ray what one evaluation takes reserved for it."""
    if cluster is None:
        return prepare(config, reporter)
    problem = prepare(config, reporter, cluster.price)
    looked_up = config.accuracy in ("table", "predictor")
    threads = 1 if looked_up else config.threads // evaluations_at_once(config.threads, problem.pixels)
    cluster.reserve(problem.config, threads)
    return problem


def _plan(problem: Problem) -> str:
    """The phase budget, in steps: what will be done, before it is."""
    config = problem.config
    count = 1 + config.baselines * (1 + (problem.conv_only is not None))
    recipe = config.recipe
    if config.accuracy == "supernet" and recipe == "fair":
        assert problem.dataset is not None
        updates, networks = fair_updates(config, problem.dataset, problem.space.network_space)
        recipe = f"fair: {_counted(updates, 'update')}, each of {networks} networks"
    source = (
        f"supernet {_counted(config.supernet_epochs, 'epoch')} ({recipe})"
        if config.accuracy == "supernet"
        else f"{config.accuracy} accuracies"
    )
    data = f" for {config.data}" if config.trains else ""
    each = _counted(min(config.trials, problem.space.network_space.size), "evaluation")
    seeds, epochs = _counted(config.finalist_seeds, "training"), _counted(config.finalist_epochs, "epoch")
    trainings = f"{_counted(count, 'finalist')} x {seeds} of {epochs}"
    return (
        f"{problem.space.name}: {problem.space.network_space.size:.3g} networks{data} on {problem.device_name}. "
        f"Budget: {source}, {_counted(count, 'search', 'searches')} of {each}, "
        f"{trainings if config.trains else 'no training'}."
    )


def _counted(n: int, one: str, several: str = "") -> str:
    return f"{n} {one}" if n == 1 else f"{n} {several or one + 's'}"


def _require_readable(kept: RunConfig) -> None:
    """Raises: ConfigError for options that config.yaml would not give again."""
    with suppress(DataError):
        if RunConfig.make(parse_yaml(kept.to_yaml())) == kept:
            return
    raise ConfigError(
        f"--out {kept.out}, or another path among the options, has characters that no YAML file holds: rename it"
    )
