"""Building shipped tables again, and comparing what was built with what is shipped."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np

from cosearch.errors import DataError
from hwbench_data import library
from hwbench_data.costing import Workers
from hwbench_data.recipes.common import Request
from hwbench_data.store import LIST, SOURCES, Ints, Store, checksum, write

RELATIVE = 1e-12
"""How far a modelled figure may lie from the shipped one."""


def build_table(
    name: str,
    folder: Path,
    limit: int | None = None,
    seed: int = 0,
    measure: int = 0,
    progress: Callable[[str], None] = lambda text: None,
    ray: str | None = None,
) -> Iterator[str]:
    """Build a table into a folder; yields one line on what was written and one on how it compares.

    limit, measure: see `Request`; ray: price on Ray, as `RunConfig.ray`. Raises: UnknownNameError for a table that is
    not shipped.
    """
    recipe = library.recipe(name)
    with _workers(ray) as workers:
        built = recipe(Request(folder, limit, seed, measure, progress, workers))
    folder.mkdir(parents=True, exist_ok=True)
    extras = {}
    for file, path in (built.extras or {}).items():
        if path.resolve() != (folder / file).resolve():
            shutil.copyfile(path, folder / file)
        extras[file] = checksum(folder / file)
    card = write(folder, built.card, built.blocks, built.labels, extras)
    size = sum(int(facts["bytes"]) for facts in card.files.values())
    yield f"{folder}: {len(built.blocks)} columns, {card.networks['count']} networks, {size / 1024:.0f} KiB"
    if name in library.available() and folder.resolve() != library.folder(name).resolve():
        yield compare(Store(folder), Store(library.folder(name)))


def _workers(ray: str | None) -> AbstractContextManager[Workers | None]:
    if ray is None:
        return nullcontext()
    from cosearch.config import RunConfig
    from cosearch.distributed.connection import connected

    return connected(RunConfig.make({"ray": ray}))


def compare(ours: Store, shipped: Store) -> str:
    """One line: how modelled figures differ. Networks that are listed are found by their names, others by their index.

    Raises: DataError if some differ by more than `RELATIVE`, or stand in one table only.
    """
    size = max(int(store.card.networks["count"]) for store in (ours, shipped))
    there = _places(ours, shipped, size)
    new = sorted(set(ours.groups) - set(shipped.groups))
    if new:
        raise DataError(f"{ours.folder}: {', '.join(new[0])} is not in {shipped.folder}")
    equal = close = 0
    for key in ours.groups:
        mine, theirs = ours.column(key, size), shipped.column(key, size)
        assert mine is not None
        assert theirs is not None
        both = np.isfinite(mine.values) & (mine.sources == SOURCES.index("modelled"))
        expected = np.where(there >= 0, theirs.values[there], np.nan)
        if (both & ~np.isfinite(expected)).any():
            raise DataError(f"{ours.folder}: {', '.join(key)} has networks that {shipped.folder} lacks")
        distance = np.abs(mine.values[both] - expected[both])
        off = distance > RELATIVE * np.abs(expected[both])
        if off.any():
            at = int(np.flatnonzero(both)[np.argmax(distance)])
            raise DataError(
                f"{', '.join(key)} of network {at} is {mine.values[at]!r}, shipped {expected[at]!r}: the cost "
                "model or the versions on the card differ"
            )
        equal += int((distance == 0).sum())
        close += int((distance > 0).sum())
    return f"modelled figures equal the shipped table's: {equal} bit for bit, {close} within {RELATIVE:g}"


def _places(ours: Store, shipped: Store, size: int) -> Ints:
    """[size] where the shipped table has each of our networks; -1 where it does not."""
    if LIST not in ours.card.files:
        return np.arange(size)
    known, labels = {label: i for i, label in enumerate(shipped.labels())}, ours.labels()
    places = np.full(size, -1)
    places[: len(labels)] = [known.get(label, -1) for label in labels]
    return places
