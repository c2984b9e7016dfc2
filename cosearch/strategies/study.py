"""The study of a search: study.db, to which every finished trial is written at once and from which a search goes on.

It is a journal of Optuna's, one JSON object a line, which grows by whole lines. A run directory holds one, and so does
the folder of a strategy that is made with ``study=``.
"""

import json
import os
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cosearch.errors import ConfigError, CosearchError, DataError, RunError, command_line
from cosearch.reading import MOST_BYTES, parse_json, require_short_lines
from cosearch.strategies.base import Candidate, Failure
from cosearch.strategies.objectives import Objectives
from search_spaces.decisions import Arch, Decisions

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

LOCK, STUDY, RUN_OPTIONS = ".lock", "study.db", "config.yaml"
SQLITE = b"SQLite format 3"
"""How a database of SQLite begins."""


class _FolderIsLocked:
    """In place of the lock of a journal: who writes to a study holds its folder's own."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def study_storage(folder: Path | str) -> "BaseStorage":
    """The studies of a folder, for Optuna: study.db is a journal file of Optuna's, one JSON object a line.

    In runs of before it is a database of SQLite, which can be read; see `RunDirectory.require_journal`.
    Raises: RunError if it is too long.
    """
    from optuna.storages import RDBStorage
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    path, lock = Path(folder) / STUDY, cast(Any, _FolderIsLocked())
    if is_sqlite(path):
        return RDBStorage(f"sqlite:///{path.resolve()}", skip_table_creation=True)
    require_lines(path)
    return JournalStorage(JournalFileBackend(str(path), lock))


MOST_LINES_BYTES = 4 << 30
"""Of the log and of the study: a million trials."""


def require_lines(path: Path) -> None:
    """Raises: RunError for a file that could not come into memory."""
    if not path.is_file():
        return
    try:
        require_short_lines(path, MOST_LINES_BYTES)
    except DataError as error:
        raise RunError(f"{path} is damaged ({error}): remove it and {going_on(path.parent, 'run')}") from None


def going_on(folder: Path, words: str, alone: str = "search again") -> str:
    """What a user is to do once something is mended: in a run the command that goes on with it, after some words."""
    return f"{words}: {command_line('resume', folder)}" if (folder / RUN_OPTIONS).is_file() else alone


def cut_half_line(path: Path) -> None:
    """Of a process that was killed while it wrote.

    Raises: RunError for what no process of this project writes; OSError.
    """
    if not _ends_within_a_line(path) or is_sqlite(path):
        return
    require_lines(path)
    with path.open("r+b") as file:
        start = max(0, file.seek(0, os.SEEK_END) - MOST_BYTES - 1)
        file.seek(start)
        file.truncate(start + file.read().rfind(b"\n") + 1)


def _ends_within_a_line(path: Path) -> bool:
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def is_sqlite(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(SQLITE)) == SQLITE


def dashboard_command(run: Path | str) -> str:
    """What shows a run's trials in a browser, where optuna-dashboard is installed."""
    return shlex.join(["optuna-dashboard", str(Path(run) / STUDY)])


@contextmanager
def study_of(folder: Path, doing: str = "write") -> Iterator[None]:
    """Raises: RunError for a study that is damaged, or cannot be read or written (doing): then it is as it was."""
    database = folder / STUDY
    try:
        yield
    except CosearchError:
        raise
    except OSError as error:
        raise RunError(
            f"cannot {doing} {database} ({error.strerror}): what was there is unharmed; mend this and "
            f"{going_on(folder, 'go on with', 'tell it again')}"
        ) from None
    except Exception as error:  # of JSON, or whatever Optuna makes of lines that are not its own
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(
            f"{database} is damaged ({first}): remove it and {going_on(folder, 'search again with')}"
        ) from error


@contextmanager
def whole_lines(path: Path) -> Iterator[None]:
    """What cannot be written to a file that grows by lines leaves no half line, to which another would be joined."""
    size = path.stat().st_size if path.is_file() else 0
    try:
        yield
    except OSError:
        if path.is_file():
            os.truncate(path, size)
        raise


MOST_OPEN = 4096
"""Candidates that are under evaluation at once: no more can have been asked than have results, and these."""


@dataclass(frozen=True)
class Recorded:
    """A trial as it was recorded. asked: how many candidates had to be asked by then (0: no matter).

    warm: whether the network was told as an arch.
    """

    candidate: Candidate
    result: dict[str, float] | Failure
    asked: int
    warm: bool


class TrialLog:
    """One Optuna study in study.db; a finished trial is written at once: a crash loses none and doubles none.

    folder: whose study.db it is; what is written to it meanwhile is written by others at their own risk.
    Raises: RunError; ConfigError for a space that has choices which cannot be written down.
    """

    def __init__(self, folder: Path, name: str, space: Decisions, objectives: Objectives) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.objectives = space, objectives
        self._choices = {key: _written(key, options) for key, options in space.choices.items()}
        directions: Any = objectives.directions
        self._folder, self.file = folder, folder / STUDY
        with study_of(folder), whole_lines(self.file):
            storage = study_storage(folder)
            known = name in optuna.get_all_study_names(storage)
            self.study: optuna.Study = (
                optuna.load_study(study_name=name, storage=storage)
                if known
                else optuna.create_study(study_name=name, storage=storage, directions=directions)
            )
            self.recorded = self.study.get_trials(deepcopy=False)
            if not self.recorded:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    self.study.set_metric_names(list(objectives.names))
        self._distributions: dict[str, optuna.distributions.BaseDistribution] = {
            key: optuna.distributions.CategoricalDistribution(tuple(map(parameter, options)))
            for key, options in space.choices.items()
        }

    def add(
        self,
        candidate: Candidate,
        result: Mapping[str, float] | Failure,
        accelerator: Any,
        source: str,
        seconds: float,
        asked: int | None = None,
        front: Mapping[str, Any] | None = None,
        measured: Mapping[str, float] | None = None,
        warm: bool = False,
    ) -> None:
        """Record a result.

        asked: where results come in any order, how many candidates had been asked by then. front: the network's
        hardware front, so that a replay need not find it again. measured: what a replay tells, if not the result; warm:
        and as an arch.
        """
        from optuna.trial import TrialState, create_trial

        attributes: dict[str, Any] = {
            "arch": json.dumps(candidate.arch),
            "accelerator": json.dumps(accelerator),
            "accuracy_source": source,
            "seconds": round(seconds, 4),
        }
        if asked is not None:
            attributes |= {"number": candidate.number, "asked": asked}
        if front is not None:
            attributes["front"] = json.dumps(front)
        if measured is not None:
            attributes["measured"] = json.dumps(dict(measured))
        if warm:
            attributes["warm"] = True
        failed = isinstance(result, Failure)
        if isinstance(result, Failure):
            attributes["reason"] = result.reason
        elif "accuracy" in result:
            attributes["accuracy"] = result["accuracy"]  # also where it is no objective
        trial = create_trial(
            state=TrialState.FAIL if failed else TrialState.COMPLETE,
            values=None if isinstance(result, Failure) else [result[name] for name in self.objectives.names],
            params={name: parameter(choice) for name, choice in candidate.arch.items()},
            distributions=self._distributions,
            user_attrs=attributes,
        )
        if trial.datetime_complete is not None:  # when it began, as the dashboard shows it
            trial.datetime_start = trial.datetime_complete - timedelta(seconds=seconds)
        with study_of(self._folder), whole_lines(self.file):
            self.study.add_trial(trial)

    def replay(
        self,
        strategy: Any,
        on_trial: Callable[[], None] = lambda: None,
        recall: Callable[[Arch, Mapping[str, Any]], None] | None = None,
    ) -> list[Candidate]:
        """Tell a strategy the trials that were recorded before this log was opened.

        Where results came in any order, proposals are asked again between the same results as then, which gives the
        same, so that what was under evaluation when the run ended has its number and network again. As long as each
        result came before the next proposal, results alone say what follows.
        on_trial: called after each that took an evaluation; recall: with each network and the front that was recorded
        with it.
        Returns: the candidates that were asked and have no result.
        Raises: RunError if a trial is of another space.
        """
        pending: dict[int, Candidate] = {}
        if recall is not None:
            for trial in self.recorded:
                with suppress(KeyError, TypeError, ValueError):  # there is none, or it is damaged: it is priced again
                    recall(self._arch_of(trial.user_attrs["arch"]), _json_of(trial.user_attrs["front"]))
        finished = list(self._finished())
        in_turn = _in_turn(finished)
        for at, told in enumerate(finished):
            while at >= in_turn and strategy.history.next_number < told.asked:
                pending |= {again.number: again for again in strategy.ask(1)}
            pending.pop(told.candidate.number, None)
            evaluated = strategy.history.evaluated
            strategy.tell(told.candidate.arch if told.warm else told.candidate, told.result)
            if strategy.history.evaluated > evaluated:
                on_trial()
        return list(pending.values())

    def _finished(self) -> Iterator[Recorded]:
        for trial in self.recorded:
            try:
                found = self._result_of(trial)
            except CosearchError as error:
                raise RunError(f"trial {trial.number} of {self.file} {error}") from None
            except (KeyError, TypeError, ValueError) as error:
                raise RunError(
                    f"trial {trial.number} of {self.file} is damaged ({error}): remove the file and "
                    f"{going_on(self._folder, 'search again with')}"
                ) from None
            yield found

    def _result_of(self, trial: Any) -> Recorded:
        """Raises: RunError if it is of another study; KeyError, TypeError or ValueError if it is damaged."""
        from optuna.trial import TrialState

        known = trial.user_attrs
        if "arch" not in known:
            raise RunError("names no network: it is not of cosearch, remove it")
        arch = self._arch_of(known["arch"])
        try:
            self.space.check(arch)
        except ConfigError as error:
            raise RunError(f"is of another space ({error}): start a new run, or give --space as it was") from None
        most = len(self.recorded) + MOST_OPEN
        number, asked = known.get("number", trial.number), known.get("asked", 0)
        if not all(isinstance(count, int) and 0 <= count <= most for count in (number, asked)):
            raise ValueError(f"number={number!r:.50}, asked={asked!r:.50}, expected 0 to {most}")
        candidate, warm = Candidate(number, arch), "warm" in known
        if warm and number != asked:
            raise ValueError(f"number={number}, asked={asked}, expected the same of a warm start")
        if "measured" in known:
            return Recorded(candidate, _numbers(_json_of(known["measured"])), asked, warm)
        if trial.state != TrialState.COMPLETE:
            return Recorded(candidate, Failure(str(known.get("reason", "failed"))), asked, warm)
        values = dict(zip(self.objectives.names, trial.values, strict=True))
        return Recorded(candidate, _numbers({"accuracy": known["accuracy"]}) | _numbers(values), asked, warm)

    def _arch_of(self, text: Any) -> Any:
        """Raises: TypeError, DataError."""
        arch = _json_of(text)
        if not isinstance(arch, dict):
            return arch
        return {name: self._choices.get(name, {}).get(json.dumps(choice), choice) for name, choice in arch.items()}


def _in_turn(trials: Sequence[Recorded]) -> int:
    """How many at the beginning were each told before any other was asked."""
    for at, trial in enumerate(trials):
        if trial.candidate.number != at or trial.asked > at + 1:
            return at
    return len(trials)


def _written(name: str, options: tuple[Any, ...]) -> dict[str, Any]:
    """As JSON -> choice. Raises: ConfigError for a choice that has none."""
    written = {}
    for option in options:
        try:
            written[json.dumps(option)] = option
            parse_json(json.dumps(option))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"decision {name!r} has the choice {option!r:.80}, which a study cannot hold ({error}): give text, "
                "numbers, or tuples of these"
            ) from None
    return written


def parameter(choice: Any) -> Any:
    """A choice as a parameter of Optuna's, which are text and numbers."""
    return choice if choice is None or isinstance(choice, str | int | float) else str(choice)


def _numbers(values: Any) -> dict[str, float]:
    """Raises: ValueError for what is no object of numbers."""
    if not isinstance(values, dict):
        raise ValueError(f"{values!r:.50}, expected an object of numbers")
    for name, value in values.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"{name}={value!r:.50}, expected a number")
    return values


def _json_of(text: Any) -> Any:
    """Raises: TypeError if it is no text; DataError."""
    if not isinstance(text, str):
        raise TypeError(f"{text!r:.50} where JSON is expected")
    return parse_json(text)
