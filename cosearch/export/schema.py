"""JSON Schemas of the documents that cosearch writes: `schemas/<name>.schema.json`, draft 2020-12."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from cosearch.errors import RunError

FOLDER = Path(__file__).with_name("schemas")


@cache
def _validator(name: str) -> Any:
    from jsonschema import Draft202012Validator

    schema = json.loads((FOLDER / f"{name}.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def check(data: Mapping[str, Any], name: str) -> None:
    """Hold a document against a schema.

    Raises: RunError naming the place that is wrong first.
    """
    from jsonschema.exceptions import best_match

    error = best_match(_validator(name).iter_errors(data))
    if error is not None:
        place = ".".join(str(part) for part in error.absolute_path) or "the document"
        raise RunError(f"{place:.200}: {' '.join(error.message.split()):.200} (schema {name})")
