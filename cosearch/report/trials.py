"""What the searches of a run evaluated, read from its study.db; the run may be going on meanwhile."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosearch.strategies.study import STUDY, study_of, study_storage


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

    if not (run / STUDY).is_file():
        return planned, {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with study_of(run, "read"):
        storage = study_storage(run)
        studies = {
            name: optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)
        }
        named = [study.metric_names for study in studies.values()]
        objectives = tuple(next((names for names in named if names), planned))
        return objectives, {
            name: [_trial(trial, objectives) for trial in study.get_trials(deepcopy=False)]
            for name, study in studies.items()
        }


def _trial(trial: Any, objectives: tuple[str, ...]) -> Trial:
    """Raises: KeyError, TypeError or ValueError if it is damaged."""
    known = trial.user_attrs
    arch, accelerator, accuracy = json.loads(known["arch"]), json.loads(known["accelerator"]), known.get("accuracy")
    values = dict(zip(objectives, trial.values or (), strict=False))
    if not isinstance(arch, dict) or not isinstance(accelerator, str | None):
        raise ValueError(f"trial {trial.number} is of {arch!r:.50} on {accelerator!r:.50}")
    for name, value in (("accuracy", accuracy), *values.items()):
        if not isinstance(value, int | float | None):
            raise ValueError(f"{name} of trial {trial.number} is {value!r:.50}")
    return Trial(
        trial.number,
        arch,
        accelerator or "",
        accuracy,
        values,
        float(known.get("seconds", 0.0)),
        str(known.get("reason", "")),
    )
