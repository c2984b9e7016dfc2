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
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosearch.config import RunConfig, read_yaml
from cosearch.errors import DataError, RunError, command_line
from cosearch.reading import parse_json, read, require_tensor_size
from cosearch.strategies.study import (
    LOCK,
    RUN_OPTIONS,
    STUDY,
    cut_half_line,
    is_sqlite,
    require_lines,
    study_of,
    whole_lines,
)
from cosearch.version import __version__
from cosearch.writing import PARTIAL, write_atomic, write_within, writing

if TYPE_CHECKING:
    from torch import Tensor


METADATA = "cosearch"
"""The one entry of a tensor file's metadata; it holds a JSON object."""


LOG, INPUTS = "log.jsonl", "inputs.json"


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
            of_sqlite = is_sqlite(self.path / STUDY)
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
            write_atomic(path / RUN_OPTIONS, config.to_yaml())
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
        if not os.path.isfile(path / RUN_OPTIONS):
            raise RunError(f"{path} is not a run directory (it has no config.yaml): give the --out of an earlier run")
        inside = path.resolve()
        for file in path.rglob("*"):
            if file.is_symlink() and not file.resolve().is_relative_to(inside):
                raise RunError(f"{file} leads out of {path}: a run's files are its own; put the file itself there")
            if file.is_fifo() or file.is_socket() or file.is_char_device() or file.is_block_device():
                raise RunError(f"{file} is no file but a pipe, a socket or a device: remove it")
        return cls(path, RunConfig.make(read_yaml(path / RUN_OPTIONS)))

    def reconfigure(self, config: RunConfig) -> None:
        self.config = config
        write_atomic(self.path / RUN_OPTIONS, config.to_yaml())

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
                cut_half_line(growing)

    def log(self, event: str, **details: Any) -> None:
        """Append one line to log.jsonl; `cosearch/export/schemas/log.schema.json` describes every event.

        Raises: RunError if it cannot be written; no half line stays.
        """
        line = {"time": round(time.time(), 3), "event": event, **details}
        content = (json.dumps(line, allow_nan=False) + "\n").encode()
        path = self.path / LOG
        with writing(path), whole_lines(path), path.open("ab", buffering=0) as file:
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
        require_lines(path / LOG)
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
