"""Which code a run directory may have imported: what its user named before, and nothing else.

A run directory can name code, as ``space: my_module:my_space`` in its config.yaml, and it can come from anybody. Who
begins a run names its code; the name is then kept with the file in which it was found, in a list of the user's own.
Whatever goes on with a run imports what is on that list, or what the user says is to be trusted.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cosearch.config import FILE_SUFFIXES, RunConfig
from cosearch.errors import DataError, RunError
from cosearch.reading import parse_json, read
from cosearch.registry import find_module
from cosearch.writing import cache_folder, write_atomic

FILE = "trusted.jsonl"
_NAMING = ("space", "device", "strategy", "recipe")
"""Options that can be ``module:object``."""


def named_code(config: RunConfig) -> Iterator[tuple[str, str]]:
    """What a configuration has imported that is registered nowhere, and where it is; and the Ray cluster that it joins,
    with which Python objects are exchanged. What cannot be found is left out: it is not imported either.
    """
    for option in _NAMING:
        name = getattr(config, option)
        if ":" in name and not (option == "device" and Path(name).suffix in FILE_SUFFIXES):
            place = _place(name.partition(":")[0].partition(".")[0])
            if place:
                yield name, place
    if config.ray is not None and config.ray.startswith("ray://"):
        yield config.ray, "a Ray cluster"


def _place(package: str) -> str:
    """The file of a module or package, found without importing it; empty if there is none."""
    if package in sys.modules and sys.modules[package].__spec__ is None:  # a script that is running
        return str(getattr(sys.modules[package], "__file__", package))
    try:
        spec = find_module(package)
    except (ImportError, ValueError):
        return ""
    if spec is None:
        return ""
    return os.path.realpath(spec.origin) if spec.origin else ", ".join(spec.submodule_search_locations or [package])


def trust(config: RunConfig) -> None:
    """Keep what a configuration names as what the user has named; a folder that cannot be written makes no difference
    but that the user is asked."""
    known = _known()
    wanted = known | set(named_code(config))
    if wanted != known:
        with suppress(RunError):
            write_atomic(cache_folder() / FILE, "".join(json.dumps(code) + "\n" for code in sorted(wanted)))


def _known() -> set[tuple[str, str]]:
    try:
        lines = read(cache_folder() / FILE, str.splitlines)
    except (OSError, DataError):
        return set()
    found = set()
    for line in lines:
        with suppress(DataError, TypeError, ValueError):
            name, place = parse_json(line)
            found.add((str(name), str(place)))
    return found


def require_trusted(run: Path, config: RunConfig, trusted: bool) -> None:
    """Before a run's code is imported. trusted: whether the user says that it may be.

    Raises: RunError naming the code that this user has not named before.
    """
    if trusted:
        trust(config)
        return
    known = _known()
    foreign = [f"{name} ({place})" for name, place in named_code(config) if (name, place) not in known]
    if foreign:
        raise RunError(
            f"{run} names code that you have not run before: {', '.join(foreign)}; if you know what it does, give "
            "--trust to have it imported"
        )
