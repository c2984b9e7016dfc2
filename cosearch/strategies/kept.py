"""A strategy whose results are kept: what it is told is in a folder's study, from which a later process goes on."""

import fcntl
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cosearch.errors import ConfigError, RunError
from cosearch.strategies.base import Failure, History, Told
from cosearch.strategies.study import (
    LOCK,
    MOST_OPEN,
    RUN_OPTIONS,
    STUDY,
    TrialLog,
    cut_half_line,
    going_on,
    is_sqlite,
    study_of,
    whole_lines,
)
from cosearch.writing import writing
from search_spaces.decisions import arch_key, split

SEARCH = "search"
"""Its name, and that of what it says of the search."""


def keep(strategy: Any, folder: Path, options: Mapping[str, Any]) -> None:
    """Tell a strategy what a folder's study holds, and have every result that it is told after that written there.

    What an earlier process had asked and not told is asked first, alone, under the numbers of then. options: of the
    strategy.
    Raises: RunError if the study is of another search, is damaged or cannot be written; ConfigError for choices that
    cannot be written down.
    """
    history: History = strategy.history
    if (folder / RUN_OPTIONS).is_file():
        raise RunError(f"{folder} is a run's: {going_on(folder, 'continue it with')}; or give the study another folder")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        with writing(folder / STUDY):
            cut_half_line(folder / STUDY)
            if is_sqlite(folder / STUDY):
                raise RunError(f"{folder / STUDY} is a database of SQLite: give the study another folder")
        log = TrialLog(folder, SEARCH, history.space, history.objectives)
        _require_same(log, _described(history, options))
        recorder = _Recorder(log, history)
    try:
        history.left = log.replay(strategy)
    except ConfigError as error:
        raise RunError(f"{log.file} does not fit this search: {error}") from error
    _require_same_costs(log, history)
    history.record = recorder


def _described(history: History, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a search is resumed by, as JSON."""
    from cosearch.strategies.auto import PLANNING

    objectives = history.objectives
    own = {name: value for name, value in options.items() if name not in ("batch", *PLANNING)}
    described = {
        "strategy": history.name,
        "seed": int(history.seed),
        "batch": int(history.batch),
        "options": own,
        "objectives": objectives.names,
        "constraints": {n: float(v) for n, v in sorted(objectives.constraints.items()) if n != "min_accuracy"},
        "min_accuracy": objectives.min_accuracy,
        "costs": sorted(getattr(history.costs, "metrics", None) or [type(history.costs).__name__]),
        "space": list(history.space.choices.items()),
    }
    found: dict[str, Any] = json.loads(json.dumps(described, default=lambda value: type(value).__name__))
    return found


def _require_same(log: TrialLog, search: Mapping[str, Any]) -> None:
    """Raises: RunError naming the first thing in which the study's search is another. search: as `_described`."""
    known = log.study.user_attrs.get(SEARCH)
    if known is None and not log.recorded:
        with study_of(log.file.parent), whole_lines(log.file):
            log.study.set_user_attr(SEARCH, search)
        return
    if not isinstance(known, dict):
        raise RunError(f"{log.file} does not say what search it is of: give the study another folder")
    for name, value in search.items():
        if known.get(name) != value:
            raise RunError(
                f"{log.file} is of another search: {name} {_cut(known.get(name))} there, {_cut(value)} here: make the "
                "strategy as it was, or give the study another folder"
            )


def _cut(value: Any) -> str:
    return text if len(text := json.dumps(value)) <= 200 else f"{text[:197]}..."


def _require_same_costs(log: TrialLog, history: History) -> None:
    """Raises: RunError if what is known of a network that was told is not what it was."""
    names = history.objectives.names
    for trial, told in zip(log.recorded, history.told, strict=True):
        for name, value in zip(names, trial.values or (), strict=False):
            known = told.accuracy if name == "accuracy" else told.front.metric(name)
            if not np.any(np.asarray(known) == value):
                raise RunError(
                    f"{log.file} is of other costs: {name} of trial {told.candidate.number} is {value:g} there, and "
                    f"{np.asarray(known)} here: give the costs as they were, or the study another folder"
                )


class _Recorder:
    """Writes a result before its strategy takes it."""

    def __init__(self, log: TrialLog, history: History) -> None:
        self._log, self._history = log, history
        self._bytes = log.file.stat().st_size

    def __call__(self, told: Told, outcome: Mapping[str, float] | Failure, warm: bool) -> None:
        """outcome: what was measured.

        Raises: RunError if it cannot be written, or others have written to the study; ConfigError for more candidates
        without a result than a study keeps.
        """
        history, candidate, now = self._history, told.candidate, time.monotonic()
        if max(candidate.number, history.next_number) > len(history.told) + MOST_OPEN:
            raise ConfigError(
                f"trial {candidate.number}: a study keeps at most {MOST_OPEN:,} candidates that have no result; tell "
                "those before it, or it as an arch"
            )
        result: Mapping[str, float] | Failure = outcome
        if not isinstance(outcome, Failure):
            result = _objectives_of(history, told)
        with _alone(self._log.file.parent):
            if self._log.file.stat().st_size != self._bytes:
                raise RunError(
                    f"{self._log.file} was written to by another search since: make the strategy again, which tells it "
                    "what is there"
                )
            self._log.add(
                candidate,
                result,
                _accelerator(history, told),
                "warm start" if warm else "told",
                now - history.asked_at.get(candidate.number, now),
                history.next_number,
                measured=None if isinstance(outcome, Failure) else outcome,
                warm=warm,
            )
            self._bytes = self._log.file.stat().st_size


def _objectives_of(history: History, told: Told) -> dict[str, float] | Failure:
    """What the study shows of a result: the objectives at the point that the network is recorded with."""
    if not len(told.front):
        return Failure("breaks a limit on what is known")
    point = history.point(told.front)
    values = {} if told.accuracy is None else {"accuracy": told.accuracy}
    return values | {name: float(told.front.metric(name)[point]) for name in history.objectives.costs}


def _accelerator(history: History, told: Told) -> str | None:
    """The one that a result is recorded with; None without an accelerator axis."""
    arch, named = told.candidate.arch, getattr(history.costs, "accelerator", None)
    if named is not None and len(told.front):
        return str(named(arch, history.point(told.front)).name)
    chosen = split(arch)[1]
    return arch_key(chosen) if chosen else None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder for this process, for a moment. Raises: RunError."""
    with writing(folder / LOCK):
        file = (folder / LOCK).open("a+")
    with file:
        with writing(folder / LOCK):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
