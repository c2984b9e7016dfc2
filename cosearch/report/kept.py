"""report.json: what a report shows that takes time to find out, kept for the result that it belongs to."""

import hashlib
from typing import Any

from cosearch.reading import parse_json, read
from cosearch.runs import RunDirectory

FILE = "report.json"
FORMAT, VERSION = "cosearch.report", 3


def key_of(run: RunDirectory) -> str:
    """Of the result that details belong to."""
    content = b"".join((run.path / name).read_bytes() for name in ("result.json", "front.csv"))
    return hashlib.sha256(content).hexdigest()


def read_details(run: RunDirectory) -> dict[str, Any] | None:
    """What is kept for the run's result; None if there is nothing, or of another result or version."""
    try:
        data = read(run.path / FILE, parse_json)
        fits = (data["format"], data["version"], data["of"]) == (FORMAT, VERSION, key_of(run))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(data) if fits else None
