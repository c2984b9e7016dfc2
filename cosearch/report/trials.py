"""What the searches of a run evaluated, read from its study.db; the run may be going on meanwhile."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosearch.errors import RunError, command_line
from cosearch.runs import study_url


@dataclass(frozen=True)
class Trial:
    """One evaluation. values: of the objectives; accuracy None if it failed, and reason says why.

    accelerator: the one that it is recorded with; "" without an accelerator axis.
    """

    number: int
    arch: dict[str, Any]
    accelerator: str
    accuracy: float | None
    values: dict[str, float]
    seconds: float
    reason: str = ""


def read_trials(run: Path, planned: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, list[Trial]]]:
    """The objectives, and search -> its evaluations in order; none before the first search has begun.

    planned: the objectives asked for; a device may know only some of them.
    Raises: RunError if the database cannot be read.
    """
    import optuna

    path = (run / "study.db").resolve()
    if not path.is_file():
        return planned, {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        # a driver that finds no tables makes them: a database that is still being made is not to be touched
        storage = optuna.storages.RDBStorage(study_url(path.parent), skip_table_creation=True)
        names = [summary.study_name for summary in optuna.get_all_study_summaries(storage, include_best_trial=False)]
        studies = {name: optuna.load_study(study_name=name, storage=storage) for name in names}
        named = [study.metric_names for study in studies.values()]
        objectives = tuple(next((names for names in named if names), planned))
        return objectives, {
            name: [_trial(trial, objectives) for trial in study.trials] for name, study in studies.items()
        }
    except Exception as error:
        # a damaged database raises errors of SQLite, SQLAlchemy, Alembic and Optuna
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        again = command_line("resume", run)
        raise RunError(f"{path} is no study of a run ({first}): remove it and search again with: {again}") from error


def _trial(trial: Any, objectives: tuple[str, ...]) -> Trial:
    known = trial.user_attrs
    return Trial(
        trial.number,
        json.loads(known["arch"]),
        json.loads(known["accelerator"]) or "",
        known.get("accuracy"),
        dict(zip(objectives, trial.values or (), strict=False)),
        float(known.get("seconds", 0.0)),
        str(known.get("reason", "")),
    )
