"""Which tables there are and how one is opened. A new one is a file in `hwbench_data/recipes` and a line here."""

import os
from pathlib import Path
from typing import Any

from cosearch import registry
from cosearch.errors import DataError, UnknownNameError, nearest
from hwbench_data import gnn
from hwbench_data.networks import Cells, Listed, Networks, Pairs
from hwbench_data.store import LISTING, Store, read_card
from hwbench_data.table import Table

DATA = Path(__file__).parent / "data"

TABLES: dict[str, str] = {
    "fbnet_blocks": "hwbench_data.recipes.fbnet_blocks:build",
    "joint": "hwbench_data.recipes.joint:build",
    "nasbench201": "hwbench_data.recipes.nasbench201:build",
    "shiftadd": "hwbench_data.recipes.shiftadd:build",
}
"""Table -> the function that builds it."""


def folder(name_or_path: str | Path) -> Path:
    """Where a table lies: the shipped one of that name, or a folder with a card.

    Raises: UnknownNameError with the nearest name.
    """
    path = Path(name_or_path).expanduser()
    if str(name_or_path) in TABLES:
        return DATA / str(name_or_path)
    if os.path.isdir(path):
        return path
    hint = nearest(str(name_or_path), [*TABLES, gnn.CARD.name])
    raise UnknownNameError(f"unknown table {str(name_or_path)!r}: {hint}, or give the folder of a table")


def load(name_or_path: str | Path) -> Table:
    """A table by name, from a folder that `cosearch bench build` or `import` wrote, or ``gnn`` from its package.

    Raises: UnknownNameError with the nearest name; DataError for a missing, cut, altered or damaged file.
    """
    if name_or_path == gnn.CARD.name:
        figures = gnn.GraphFigures()
        return Table(Listed(gnn.CARD.name, figures.labels()), figures)
    store = Store(folder(name_or_path))
    return Table(_networks(store), store)


def available() -> list[str]:
    """Tables that can be asked: those that are shipped, and those whose package is installed."""
    shipped = [name for name in TABLES if (DATA / name / "card.json").is_file()]
    return [*shipped, gnn.CARD.name] if gnn.data_folder() is not None else shipped


def recipe(name: str) -> Any:
    """The function that builds a shipped table. Raises: UnknownNameError with the nearest name."""
    if name not in TABLES:
        raise UnknownNameError(f"unknown table {name!r}: {nearest(name, TABLES)}")
    return registry.load_object(TABLES[name])


def _networks(store: Store) -> Networks:
    kind = store.card.networks.get("kind")
    if kind == "nasbench201":
        return Cells()
    if kind in LISTING:
        return (Pairs if kind == "pairs" else Listed)(store.card.name, store.labels())
    raise DataError(f"{store.folder}: networks of kind {kind!r}, expected nasbench201, listed or pairs")


def card(name_or_path: str | Path) -> Any:
    """A table's card; nothing else of it is read."""
    if name_or_path == gnn.CARD.name:
        return gnn.CARD
    return read_card(folder(name_or_path))
