"""Files that are the old or the new ones, never half: written beside their place, flushed to disk and renamed."""

import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cosearch.errors import RunError

PARTIAL = ".partial"
"""How a file's name ends while it is written."""


FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How text begins that a spreadsheet which opens a CSV file would run."""


def cache_folder() -> Path:
    """Where this user's own files are: $COSEARCH_CACHE or ~/.cache/cosearch."""
    return Path(os.environ.get("COSEARCH_CACHE") or Path.home() / ".cache" / "cosearch")


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write, fsync, rename: the file is never half there, and once there it stays.

    Raises: RunError if it cannot be written; what was there before still is.
    """
    with replacing(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write to, beside its place, which it takes when all is well; else it is removed.

    Raises: RunError if it cannot be written; what was there before still is.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
        try:
            yield Path(temporary)
            os.fsync(handle)  # of the file, whoever wrote it
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the name, too, is on the disk
        finally:
            os.close(folder)


def clear_partial(path: Path) -> None:
    """Remove what killed processes left of a file half written, where no other process writes it.

    Raises: RunError.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{PARTIAL}"):
        with writing(left):
            left.unlink(missing_ok=True)


def write_within(folder: Path, name: str, content: bytes | str) -> Path:
    """Write a file of a folder whose name may come from data. Returns: the file.

    Raises: RunError if the name leads out of the folder, or the file cannot be written.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()) or path.resolve() == folder.resolve():
        raise RunError(f"{name!r:.200} leads out of {folder}: refused")
    write_atomic(path, content)
    return path


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises: RunError for an OSError: a full disk, a read-only folder."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot write {path} ({error.strerror}): what was there is unharmed; mend this or write elsewhere, then "
            "give the command again (a run goes on with cosearch resume)"
        ) from None
