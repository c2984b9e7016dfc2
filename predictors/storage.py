"""Predictors as files: arrays and a JSON card in one safetensors file, nothing that can run code.

The card says what the predictor is, which format it has, what it learned from and how well; a digest over card and
arrays shows any change.
"""

import datetime
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cosearch.errors import DataError, UnknownNameError
from cosearch.reading import parse_json
from cosearch.writing import write_atomic
from predictors.base import Arrays

FORMAT = "cosearch.predictor"
VERSION = 3
"""Another one whenever the arrays or options of any predictor change: older files are then refused by this number."""
MAX_BYTES = 1 << 28
"""A larger file is not read: no predictor of ours comes near."""


class Storable(Protocol):
    """What can be saved: a registered class that is made again from its options and arrays."""

    @property
    def name(self) -> str: ...

    @property
    def options(self) -> dict[str, Any]: ...

    def arrays(self) -> Arrays: ...

    def restore(self, arrays: Arrays) -> Any: ...


def save(predictor: Storable, path: Path | str, card: Mapping[str, Any]) -> None:
    """Write a fitted predictor. card: JSON values about its data, score and floor; the date is added.

    Raises: DataError if it was not fitted or the card is not JSON; RunError if the file cannot be written.
    """
    from safetensors.numpy import save as encode

    arrays = {name: np.ascontiguousarray(array) for name, array in predictor.arrays().items()}
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    described = {"date": date, **card, "model": predictor.name, "options": predictor.options}
    try:
        text = json.dumps({"format": FORMAT, "version": VERSION, **described}, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"the card of a predictor holds JSON values only ({error})") from error
    metadata = {"card": text, "sha256": _digest(text, arrays)}
    write_atomic(Path(path), encode(arrays, metadata))


def load(path: Path | str) -> Any:
    """Read a predictor back.

    Raises: DataError for a file that is missing, foreign, altered or of another version.
    """
    predictor, _ = load_with_card(path)
    return predictor


def load_with_card(path: Path | str) -> tuple[Any, dict[str, Any]]:
    """A predictor and its card; raises as `load`."""
    from predictors import find

    card, arrays = _read(Path(path))
    try:
        require_registered(card["model"])
        model = find(card["model"])(**card["options"])
        return model.restore(arrays), card
    except (UnknownNameError, KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"{path} does not describe a predictor that this version knows ({error}): train it again"
        ) from (error)


def require_registered(model: str) -> None:
    """A file must not choose what code runs: the models that it names are registered ones, no ``module:object``.

    Raises: UnknownNameError.
    """
    from cosearch import registry
    from predictors import PREDICTORS

    if model not in registry.names("predictors", PREDICTORS):
        raise UnknownNameError(f"unknown model {str(model)[:40]!r}")


def read_card(path: Path | str) -> dict[str, Any]:
    """What a predictor file says of itself; raises as `load`."""
    return _read(Path(path))[0]


def _read(path: Path) -> tuple[dict[str, Any], Arrays]:
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):
        raise DataError(f"no predictor file {str(path)!r}: check the path, or train one with cosearch predictor train")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path} has {path.stat().st_size >> 20} MiB: not a predictor file")
    try:
        with safe_open(str(path), "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        card = parse_json(metadata["card"])
    except (SafetensorError, OSError, ValueError, KeyError, RecursionError, TypeError, AttributeError) as error:
        # the last two are of arrays of a type that numpy does not have
        raise DataError(f"{path} is not a predictor file, or was cut short ({error})") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise DataError(f"{path} is not a predictor file")
    if card.get("version") != VERSION:
        raise DataError(f"{path} is a predictor of version {card.get('version')}, this reads {VERSION}: train it again")
    if metadata.get("sha256") != _digest(metadata["card"], arrays):
        raise DataError(f"{path} was altered after it was written: train it again or fetch it anew")
    return card, arrays


def _digest(card: str, arrays: Arrays) -> str:
    digest = hashlib.sha256(card.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}:{array.dtype}:{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
