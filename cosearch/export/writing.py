"""`export_design`: a design of a run written as files, its network trained first if that is asked for."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cosearch.errors import ConfigError, RunError
from cosearch.export.design import TRAINED, WHAT, design_files, parse_what, recorded_files, write_files
from cosearch.export.documents import read_json
from cosearch.finalists import load_trained
from cosearch.job import Job
from cosearch.loading import load_run
from cosearch.problem import prepare
from cosearch.progress import Reporter
from cosearch.results import CO_SEARCH
from cosearch.runs import RunDirectory
from cosearch.selection import first_good, train_open, trainings_of
from cosearch.trust import require_trusted
from search_spaces.decisions import Arch


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
        choice = problem.choice_of(arch, accelerator)
        training = None
        if config.trains and set(TRAINED) & set(what):
            trainings = trainings_of([arch], problem)
            if load_trained(run_directory, trainings[0]) is None:
                train_open(Job(run_directory, problem, reporter), trainings[:1], "training the network")
            training = first_good(run_directory, trainings)
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
