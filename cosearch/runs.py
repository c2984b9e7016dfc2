"""The run directory: what a search leaves behind, and all that a resumed one needs. No file in it is a pickle.

config.yaml, study.db (Optuna), log.jsonl, supernet.safetensors, finalists/, front.csv, result.json, best/.
log.jsonl and study.db grow by whole lines, every other file is written beside its place, flushed to disk and renamed:
a reader finds the old or the new one.
"""

import errno
import fcntl
import json
import os
import platform
import shlex
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cosearch.config import RunConfig, read_yaml
from cosearch.errors import ConfigError, CosearchError, DataError, RunError, command_line
from cosearch.reading import MOST_BYTES, parse_json, read, require_short_lines, require_tensor_size
from cosearch.strategies.base import Candidate, Failure
from cosearch.strategies.objectives import Objectives
from cosearch.version import __version__
from cosearch.writing import PARTIAL, write_atomic, write_within, writing
from search_spaces.decisions import Arch, Decisions

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from torch import Tensor


METADATA = "cosearch"
"""The one entry of a tensor file's metadata; it holds a JSON object."""


LOCK, LOG, STUDY, INPUTS = ".lock", "log.jsonl", "study.db", "inputs.json"
SQLITE = b"SQLite format 3"
"""How a database of SQLite begins."""


def versions() -> dict[str, str]:
    """Of Python and of what decides a run's figures."""
    from importlib.metadata import version

    packages = ("torch", "numpy", "numba", "optuna", "moocore", "scikit-learn", "pandas")
    own = {"python": platform.python_version(), "cosearch": __version__}
    return {**own, **{name: version(name) for name in packages}}


def to_json(data: Any) -> str:
    return json.dumps(data, indent=2, sort_keys=False, allow_nan=False) + "\n"


def tensor_bytes(tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file."""
    from safetensors.torch import save

    # one entry, because safetensors writes several in random order and equal runs are to leave equal files
    described = {METADATA: json.dumps(dict(metadata))}
    return save({k: v.contiguous() for k, v in tensors.items()}, described)


class _RunIsLocked:
    """In place of the lock of a journal: who writes to a run directory holds the directory's own."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def study_storage(run: Path | str) -> "BaseStorage":
    """The studies of a run, for Optuna: study.db is a journal file of Optuna's, one JSON object a line.

    In runs of before it is a database of SQLite, which can be read; see `RunDirectory.require_journal`.
    Raises: RunError if it is too long.
    """
    from optuna.storages import RDBStorage
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    path, lock = Path(run) / STUDY, cast(Any, _RunIsLocked())
    if _is_sqlite(path):
        return RDBStorage(f"sqlite:///{path.resolve()}", skip_table_creation=True)
    _require_lines(path)
    return JournalStorage(JournalFileBackend(str(path), lock))


MOST_LINES_BYTES = 4 << 30
"""Of the log and of the study: a million trials."""


def _require_lines(path: Path) -> None:
    """Raises: RunError for a file that could not come into memory."""
    if not path.is_file():
        return
    try:
        require_short_lines(path, MOST_LINES_BYTES)
    except DataError as error:
        again = command_line("resume", path.parent)
        raise RunError(f"{path} is damaged ({error}): remove it and run: {again}") from None


def _cut_half_line(path: Path) -> None:
    """Of a process that was killed while it wrote.

    Raises: RunError for what no process of this project writes; OSError.
    """
    if not _ends_within_a_line(path) or _is_sqlite(path):
        return
    _require_lines(path)
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


def _is_sqlite(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(SQLITE)) == SQLITE


def dashboard_command(run: Path | str) -> str:
    """What shows a run's trials in a browser, where optuna-dashboard is installed."""
    return shlex.join(["optuna-dashboard", str(Path(run) / STUDY)])


class RunDirectory:
    """An open run directory."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path, self.config = path, config

    @property
    def resume_command(self) -> str:
        return command_line("resume", self.path)

    def require_journal(self) -> None:
        """Raises: RunError if the study cannot be read, or is of a form that is not written any more."""
        with study_of(self.path, "read"):
            of_sqlite = _is_sqlite(self.path / STUDY)
        if of_sqlite:
            raise RunError(f"{self.path / STUDY} is a database of SQLite, as runs had before: start a new run")

    @classmethod
    @contextmanager
    def begin(cls, path: Path, config: RunConfig) -> Iterator["RunDirectory"]:
        """Make a run directory and hold it for this process.

        Raises: RunError if it holds something already, cannot be made, or another process holds it.
        """
        cls.require_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the run directory {path} ({error.strerror}): choose another --out") from None
        run = cls(path, config)
        with run.locked():
            cls.require_free(path)  # another process may have begun a run here since
            write_atomic(path / "config.yaml", config.to_yaml())
            yield run

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> "RunDirectory":
        """`begin` without holding it."""
        with cls.begin(path, config) as run:
            return run

    @staticmethod
    def require_free(path: Path) -> None:
        """Raises: RunError if a run cannot begin there. An empty folder is free: a run may have been killed in it."""
        left = (LOCK, PARTIAL)
        taken = not path.is_dir() or any(not file.name.endswith(left) for file in path.iterdir())
        if path.exists() and taken:
            raise RunError(f"{path} exists: choose another --out, or continue it with: {command_line('resume', path)}")

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """Raises: RunError if it is no run directory, or what is in it is no file of its own."""
        if not os.path.isfile(path / "config.yaml"):
            raise RunError(f"{path} is not a run directory (it has no config.yaml): give the --out of an earlier run")
        inside = path.resolve()
        for file in path.rglob("*"):
            if file.is_symlink() and not file.resolve().is_relative_to(inside):
                raise RunError(f"{file} leads out of {path}: a run's files are its own; put the file itself there")
            if file.is_fifo() or file.is_socket() or file.is_char_device() or file.is_block_device():
                raise RunError(f"{file} is no file but a pipe, a socket or a device: remove it")
        return cls(path, RunConfig.make(read_yaml(path / "config.yaml")))

    def reconfigure(self, config: RunConfig) -> None:
        self.config = config
        write_atomic(self.path / "config.yaml", config.to_yaml())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for this process; the lock goes with the process, however it ends.

        Raises: RunError if another process holds it.
        """
        with ExitStack() as held:
            with writing(self.path / LOCK):
                file = held.enter_context((self.path / LOCK).open("a+"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError(f"{self.path} is in use by another process: wait for it or stop it") from None
            self._clear_away()
            yield

    def _clear_away(self) -> None:
        """What a killed process left: files half written, and half a line of the log or of the study.

        Raises: RunError.
        """
        for file in self.path.rglob(f".*{PARTIAL}"):
            with writing(file):
                file.unlink(missing_ok=True)
        for growing in (self.path / LOG, self.path / STUDY):
            with writing(growing):
                _cut_half_line(growing)

    def log(self, event: str, **details: Any) -> None:
        """Append one line to log.jsonl; `cosearch/export/schemas/log.schema.json` describes every event.

        Raises: RunError if it cannot be written; no half line stays.
        """
        line = {"time": round(time.time(), 3), "event": event, **details}
        content = (json.dumps(line, allow_nan=False) + "\n").encode()
        path = self.path / LOG
        with writing(path), _whole_lines(path), path.open("ab", buffering=0) as file:
            if file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, name: str, content: bytes | str) -> None:
        """Raises: RunError if it cannot be written, or the name leads out of the directory."""
        write_within(self.path, name, content)

    def write_json(self, name: str, data: Any) -> None:
        self.write(name, to_json(data))

    def read_json(self, name: str) -> Any:
        """Raises: RunError if the file is missing or damaged."""
        path = self.path / name
        try:
            return read(path, parse_json)
        except FileNotFoundError:
            raise RunError(f"{path} is missing: finish the run with: {self.resume_command}") from None
        except (OSError, DataError) as error:
            raise RunError(f"{path} is damaged ({error}): remove it and run: {self.resume_command}") from None

    def save_tensors(self, name: str, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str]) -> None:
        self.write(name, tensor_bytes(tensors, metadata))

    def tensor_file(self, name: str) -> bytes:
        """A tensor file as it is. Raises: RunError if it is missing, or larger than any that is read."""
        path = self.path / name
        try:
            require_tensor_size(path)
            return path.read_bytes()
        except FileNotFoundError:
            raise RunError(f"{path} is missing: {self.resume_command}") from None
        except (OSError, DataError) as error:
            raise RunError(f"{path} is damaged ({error}): remove it and run: {self.resume_command}") from None

    def load_tensors(self, name: str) -> tuple[dict[str, "Tensor"], dict[str, str]] | None:
        """Tensors and metadata, or None if the file is not there.

        Raises: RunError if it is damaged.
        """
        from safetensors import SafetensorError, safe_open

        path = self.path / name
        if not path.is_file():
            return None
        try:
            require_tensor_size(path)
            with safe_open(path, framework="pt") as file:
                described = parse_json((file.metadata() or {}).get(METADATA, "{}"))
                if not isinstance(described, dict) or not all(isinstance(v, str) for v in described.values()):
                    raise DataError("its description is no object of texts")
                return {key: file.get_tensor(key) for key in file.keys()}, described  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise RunError(f"{path} is damaged ({error}): remove it and run: {self.resume_command}") from None


def read_inputs(run: RunDirectory) -> dict[str, str] | None:
    """Hashes of what a run depends on, by name; None if the run has not come so far.

    Raises: RunError if the file is damaged.
    """
    if not (run.path / INPUTS).is_file():
        return None
    data = run.read_json(INPUTS)
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        raise RunError(
            f"{run.path / INPUTS} is damaged (expected a hash by each name): remove it and run: {run.resume_command}"
        )
    return data


def require_same_inputs(run: RunDirectory, found: Mapping[str, str]) -> None:
    """Raises: RunError naming what has changed since the run was started. found: hashes, by name."""
    known = read_inputs(run)
    if known is None:
        return
    changed = sorted(name for name in known.keys() | found.keys() if known.get(name) != found.get(name))
    if changed:
        raise RunError(
            f"{run.path}: {', '.join(changed)} changed since this run was started: put it back, or start a new run"
        )


def read_log(path: Path) -> tuple[dict[str, Any], ...]:
    """Lines of log.jsonl that are whole: the last one may just be written.

    Raises: RunError if it is too long.
    """
    entries = []
    try:
        _require_lines(path / LOG)
        lines = (path / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    for line in lines:
        try:
            entry = parse_json(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return tuple(entries)


@contextmanager
def study_of(run: Path, doing: str = "write") -> Iterator[None]:
    """Raises: RunError for a study that is damaged, or cannot be read or written (doing): then it is as it was."""
    database = run / STUDY
    try:
        yield
    except CosearchError:
        raise
    except OSError as error:
        raise RunError(
            f"cannot {doing} {database} ({error.strerror}): what was there is unharmed; mend this and go on "
            f"with: {command_line('resume', run)}"
        ) from None
    except Exception as error:  # of JSON, or whatever Optuna makes of lines that are not its own
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(
            f"{database} is damaged ({first}): remove it and search again with: {command_line('resume', run)}"
        ) from error


@contextmanager
def _whole_lines(path: Path) -> Iterator[None]:
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


class TrialLog:
    """One Optuna study in study.db; a finished trial is written at once: a crash loses none and doubles none."""

    def __init__(self, run: RunDirectory, name: str, space: Decisions, objectives: Objectives) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.objectives = space, objectives
        directions: Any = objectives.directions
        self._run = run.path
        with study_of(run.path), _whole_lines(run.path / STUDY):
            storage = study_storage(run.path)
            known = name in optuna.get_all_study_names(storage)
            self.study: optuna.Study = (
                optuna.load_study(study_name=name, storage=storage)
                if known
                else optuna.create_study(study_name=name, storage=storage, directions=directions)
            )
            self._recorded = self.study.get_trials(deepcopy=False)
            if not self._recorded:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    self.study.set_metric_names(list(objectives.names))
        self._distributions: dict[str, optuna.distributions.BaseDistribution] = {
            key: optuna.distributions.CategoricalDistribution(options) for key, options in space.choices.items()
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
    ) -> None:
        """Record a result.

        asked: where results come in any order, how many candidates had been asked by then. front: the network's
        hardware front, so that a replay need not find it again.
        """
        from optuna.trial import TrialState, create_trial

        attributes = {
            "arch": json.dumps(candidate.arch),
            "accelerator": json.dumps(accelerator),
            "accuracy_source": source,
            "seconds": round(seconds, 4),
        }
        if asked is not None:
            attributes |= {"number": candidate.number, "asked": asked}
        if front is not None:
            attributes["front"] = json.dumps(front)
        failed = isinstance(result, Failure)
        if isinstance(result, Failure):
            attributes["reason"] = result.reason
        else:
            attributes["accuracy"] = result["accuracy"]  # also where it is no objective
        trial = create_trial(
            state=TrialState.FAIL if failed else TrialState.COMPLETE,
            values=None if isinstance(result, Failure) else [result[name] for name in self.objectives.names],
            params=candidate.arch,
            distributions=self._distributions,
            user_attrs=attributes,
        )
        if trial.datetime_complete is not None:  # when it began, as the dashboard shows it
            trial.datetime_start = trial.datetime_complete - timedelta(seconds=seconds)
        with study_of(self._run), _whole_lines(self._run / STUDY):
            self.study.add_trial(trial)

    def replay(
        self,
        strategy: Any,
        on_trial: Callable[[], None] = lambda: None,
        recall: Callable[[Arch, Mapping[str, Any]], None] | None = None,
    ) -> list[Candidate]:
        """Tell a strategy the trials that were recorded before this log was opened.

        Where results came in any order, proposals are asked again between the same results as then, which gives the
        same, so that what was under evaluation when the run ended has its number and network again.
        on_trial: called after each that took an evaluation; recall: with each network and the front that was recorded
        with it.
        Returns: the candidates that were asked and have no result.
        Raises: RunError if a trial is of another space.
        """
        pending: dict[int, Candidate] = {}
        if recall is not None:
            for trial in self._recorded:
                with suppress(KeyError, TypeError, ValueError):  # there is none, or it is damaged: it is priced again
                    recall(_json_of(trial.user_attrs["arch"]), _json_of(trial.user_attrs["front"]))
        for candidate, result, asked in self._finished():
            while strategy.history.next_number < asked:
                pending |= {again.number: again for again in strategy.ask(1)}
            pending.pop(candidate.number, None)
            evaluated = strategy.history.evaluated
            strategy.tell(candidate, result)
            if strategy.history.evaluated > evaluated:
                on_trial()
        return list(pending.values())

    def _finished(self) -> Iterator[tuple[Candidate, dict[str, float] | Failure, int]]:
        """Trials as they were recorded, each with how many candidates had to be asked by then (0: no matter)."""
        for trial in self._recorded:
            try:
                found = self._result_of(trial)
            except CosearchError as error:
                raise RunError(f"trial {trial.number} of {self._run / STUDY} {error}") from None
            except (KeyError, TypeError, ValueError) as error:
                raise RunError(
                    f"trial {trial.number} of {self._run / STUDY} is damaged ({error}): remove the file and search "
                    f"again with: {command_line('resume', self._run)}"
                ) from None
            yield found

    def _result_of(self, trial: Any) -> tuple[Candidate, dict[str, float] | Failure, int]:
        """A trial as it was recorded.

        Raises: RunError if it is of another study; KeyError, TypeError or ValueError if it is damaged.
        """
        from optuna.trial import TrialState

        known = trial.user_attrs
        if "arch" not in known:
            raise RunError("names no network: it is not of cosearch, remove it")
        arch = _json_of(known["arch"])
        try:
            self.space.check(arch)
        except ConfigError as error:
            raise RunError(f"is of another space ({error}): start a new run, or give --space as it was") from None
        most = len(self._recorded) + MOST_OPEN
        number, asked = known.get("number", trial.number), known.get("asked", 0)
        if not all(isinstance(count, int) and 0 <= count <= most for count in (number, asked)):
            raise ValueError(f"number={number!r:.50}, asked={asked!r:.50}, expected 0 to {most}")
        candidate = Candidate(number, arch)
        if trial.state != TrialState.COMPLETE:
            return candidate, Failure(str(known.get("reason", "failed"))), asked
        values = dict(zip(self.objectives.names, trial.values, strict=True))
        for name, value in (("accuracy", known["accuracy"]), *values.items()):
            if not _is_number(value):
                raise ValueError(f"{name}={value!r:.50}, expected a number")
        return candidate, {"accuracy": known["accuracy"], **values}, asked


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _json_of(text: Any) -> Any:
    """Raises: TypeError if it is no text; DataError."""
    if not isinstance(text, str):
        raise TypeError(f"{text!r:.50} where JSON is expected")
    return parse_json(text)
