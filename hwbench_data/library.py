"""Which tables there are and how one is opened. A new one is a file in `hwbench_data/recipes` and a line here."""

from pathlib import Path
from typing import Any

from cosearch import registry
from cosearch.errors import DataError, UnknownNameError, nearest
from hwbench_data.networks import Cells, Listed, Networks, Pairs
from hwbench_data.store import Store, read_card
from hwbench_data.table import Table

DATA = Path(__file__).parent / "data"

TABLES: dict[str, str] = {
    "fbnet_blocks": "hwbench_data.recipes.fbnet_blocks:build",
    "joint": "hwbench_data.recipes.joint:build",
    "nasbench201": "hwbench_data.recipes.nasbench201:build",
}
"""Table -> the function that builds it."""


def folder(name_or_path: str | Path) -> Path:
    """Where a table lies: the shipped one of that name, or a folder with a card.

    Raises: UnknownNameError with the nearest name.
    """
    path = Path(name_or_path).expanduser()
    if str(name_or_path) in TABLES:
        return DATA / str(name_or_path)
    if path.is_dir():
        return path
    raise UnknownNameError(
        f"unknown table {str(name_or_path)!r}: {nearest(str(name_or_path), TABLES)}, or give the folder of a table"
    )


def load(name_or_path: str | Path) -> Table:
    """A table by name, or from a folder that `cosearch bench build` or `import` wrote.

    Raises: UnknownNameError with the nearest name; DataError for a missing, cut, altered or damaged file.
    """
    store = Store(folder(name_or_path))
    return Table(_networks(store), store)


def available() -> list[str]:
    """Shipped tables that are there."""
    return [name for name in TABLES if (DATA / name / "card.json").is_file()]


def recipe(name: str) -> Any:
    """The function that builds a shipped table. Raises: UnknownNameError with the nearest name."""
    if name not in TABLES:
        raise UnknownNameError(f"unknown table {name!r}: {nearest(name, TABLES)}")
    return registry.load_object(TABLES[name])


def _networks(store: Store) -> Networks:
    kind = store.card.networks.get("kind")
    if kind == "nasbench201":
        return Cells()
    if kind in ("listed", "pairs"):
        return (Pairs if kind == "pairs" else Listed)(store.card.name, store.labels())
    raise DataError(f"{store.folder}: networks of kind {kind!r}, expected nasbench201, listed or pairs")


def card(name_or_path: str | Path) -> Any:
    """A table's card; nothing else of it is read."""
    return read_card(folder(name_or_path))
