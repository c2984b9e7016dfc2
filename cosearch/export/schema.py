"""JSON Schemas of the documents that cosearch writes: `schemas/<name>.schema.json`, draft 2020-12."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from cosearch.errors import RunError, one_line

FOLDER = Path(__file__).with_name("schemas")


@cache
def _schema(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.schema.json").read_text(encoding="utf-8"))


@cache
def _validator(name: str) -> Any:
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(_schema(name))
    return Draft202012Validator(_schema(name))


@cache
def _events() -> dict[str, Any]:
    """Event -> what validates a line of log.jsonl that tells of it: to try them all takes milliseconds a line."""
    from jsonschema import Draft202012Validator

    kinds = _schema("log")["oneOf"]
    return {kind["properties"]["event"]["const"]: Draft202012Validator(kind) for kind in kinds}


def is_event(line: Mapping[str, Any]) -> bool:
    """Whether a line of log.jsonl follows its schema."""
    event = line.get("event")
    return isinstance(event, str) and event in _events() and bool(_events()[event].is_valid(line))


def check(data: Mapping[str, Any], name: str) -> None:
    """Hold a document against a schema.

    Raises: RunError naming the place that is wrong first.
    """
    from jsonschema.exceptions import best_match

    error = best_match(_validator(name).iter_errors(data))
    if error is not None:
        place = ".".join(str(part) for part in error.absolute_path) or "the document"
        raise RunError(f"{place:.200}: {one_line(error.message):.200} (schema {name})")
