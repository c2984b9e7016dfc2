"""report.json: what a report shows that takes time to find out, kept for the result that it belongs to."""

import hashlib
from collections.abc import Sequence
from typing import Any

from cosearch.errors import DataError, RunError
from cosearch.export.schema import check
from cosearch.reading import parse_json, read
from cosearch.results import MOST_FRONT_BYTES
from cosearch.runs import RunDirectory

FILE = "report.json"
FORMAT, VERSION = "cosearch.report", 3


def key_of(run: RunDirectory) -> str:
    """Of the result that details belong to."""
    digest = hashlib.sha256()
    for name in ("result.json", "front.csv"):
        with (run.path / name).open("rb") as file:
            digest.update(file.read(MOST_FRONT_BYTES))  # one that is longer is refused where it is read
    return digest.hexdigest()


def read_details(run: RunDirectory, objectives: Sequence[str]) -> dict[str, Any] | None:
    """What is kept for the result of a finished run; None if there is nothing, of another result or version, or hurt.

    objectives: of the result.
    """
    try:
        data = read(run.path / FILE, parse_json)
        if (data["format"], data["version"], data["of"]) != (FORMAT, VERSION, key_of(run)):
            return None
        check(data, "report")
        _check_figures(data, objectives)
    except (OSError, DataError, RunError, KeyError, TypeError):
        return None
    return dict(data)


def _check_figures(data: dict[str, Any], objectives: Sequence[str]) -> None:
    """What no schema says. Raises: DataError."""
    moved = [move for search in data["searches"].values() for move in search["moved"]]
    if any(len(point) != len(objectives) for move in moved for point in move["points"]):
        raise DataError("a point that has other than a value per objective")
    finalist = data["finalist"]
    if finalist is not None:
        parts = [*finalist["layers"], finalist["host"]]
        if not all(sum(part[cost] for part in parts) > 0 for cost in ("latency_ms", "energy_mj")):
            raise DataError("a finalist that costs nothing")
    if data["device"]["accelerators"] and finalist is None:
        raise DataError("a device with accelerators, and none that the finalist runs on")
