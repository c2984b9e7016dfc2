"""A table on disk: a folder with ``table.parquet``, ``card.json`` and, where networks are listed, ``networks.parquet``.

Rows are long form: network, device, metric, the table's conditions, value, source. All rows of one (device, metric,
conditions) form one row group, found through the group's statistics, so that a query reads only the rows it needs.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cosearch.errors import DataError, one_line
from cosearch.reading import parse_json, read
from cosearch.writing import replacing, write_atomic
from hwbench_data.footer import (
    LARGEST_CELLS,
    LARGEST_UNPACKED,
    Group,
    read_groups,
    require_small,
    text_bytes,
    unpacked,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Key = tuple[str, ...]
"""device, metric and the value of each condition."""

FORMAT, VERSION = "cosearch.table", 1
SOURCES = ("measured", "modelled", "predicted", "published")
ANY = "any"
"""The device of what does not depend on one, and the value of a condition that does not matter."""
_TABLE, _CARD, LIST = "table.parquet", "card.json", "networks.parquet"
_KINDS = {"network": "int32", "value": "double"}
"""Arrow's types of columns; of all others, text."""
LARGEST_TABLE_CELLS = 500_000_000
"""Of all columns of a table, for who wants all of it at once."""
LISTING = ("listed", "pairs")
"""Kinds of networks that a file of the table lists."""


@dataclass(frozen=True)
class Column:
    """One metric on one device: values [n], NaN where there is none, and sources [n], indices into `SOURCES`."""

    values: Floats
    sources: npt.NDArray[np.int8]


@dataclass(frozen=True)
class Metric:
    """unit: of the values; better: ``lower`` or ``higher``, which `front` and `top` go by."""

    unit: str
    better: str
    title: str


@dataclass(frozen=True)
class Card:
    """What a table's ``card.json`` says.

    metrics: name -> unit, direction and meaning. devices: name -> what it is and how its figures came about.
    conditions: name -> its values, the default first. networks: how networks are named (``kind`` and its parameters).
    built: how, from what and with which versions. files: name -> size and checksum.
    """

    name: str
    title: str
    networks: dict[str, Any]
    metrics: dict[str, Metric]
    devices: dict[str, dict[str, Any]]
    conditions: dict[str, tuple[str, ...]]
    built: dict[str, Any]
    notes: tuple[str, ...]
    files: dict[str, dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "title": self.title,
            "networks": self.networks,
            "metrics": {name: vars(metric) for name, metric in self.metrics.items()},
            "devices": self.devices,
            "conditions": {name: list(values) for name, values in self.conditions.items()},
            "built": self.built,
            "notes": list(self.notes),
            "files": self.files,
        }

    @classmethod
    def from_json(cls, data: Any) -> "Card":
        """Raises: DataError if this is not the card of a table of this version, or units are missing."""
        if not isinstance(data, dict) or data.get("format") != FORMAT or data.get("version") != VERSION:
            raise DataError(f"expected a JSON object with format {FORMAT!r} and version {VERSION}")
        try:
            for name, metric in data["metrics"].items():
                if "unit" not in metric:
                    raise DataError(f"metric {name!r:.80} has no unit: give one, such as ms")
            metrics = {str(name): Metric(**metric) for name, metric in data["metrics"].items()}
            card = cls(
                str(data["name"]),
                str(data["title"]),
                dict(data["networks"]),
                metrics,
                {str(name): dict(facts) for name, facts in data["devices"].items()},
                {str(name): tuple(map(str, values)) for name, values in data["conditions"].items()},
                {**data["built"], "versions": dict(data["built"].get("versions", {}))},
                tuple(map(str, data["notes"])),
                {str(name): dict(facts) for name, facts in data["files"].items()},
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"a table's card is incomplete: {error}") from error
        for name, metric in metrics.items():
            if not all(isinstance(text, str) for text in (metric.unit, metric.better, metric.title)):
                raise DataError(f"metric {name!r:.80} has a unit, direction or title that is no text")
            if not metric.unit or metric.better not in ("lower", "higher"):
                raise DataError(f"metric {name!r} has unit {metric.unit!r} and better={metric.better!r}: give both")
        for name, values in card.conditions.items():
            if not values:
                raise DataError(f"condition {name!r} has no values, expected the default first")
        missing = ({_TABLE, LIST} if card.lists_networks else {_TABLE}) - set(card.files)
        if missing:
            raise DataError(f"no size and checksum of {', '.join(sorted(missing))} among its files")
        for name in card.files:
            if Path(name).name != name:
                raise DataError(f"file {name!r:.200}: expected the name of a file beside it")
        return card

    @property
    def lists_networks(self) -> bool:
        """Whether the networks stand in a file of the table."""
        return self.networks.get("kind") in LISTING


@dataclass(frozen=True)
class Block:
    """Rows to write: one metric on one device. networks: [n] indices; sources: [n] indices into `SOURCES`."""

    key: Key
    networks: Ints
    values: Floats
    sources: npt.NDArray[np.int8]

    @classmethod
    def full(cls, key: Key, values: Floats, source: str) -> "Block":
        """Values for networks 0 to n - 1, all of one source; NaN values are left out."""
        known = np.flatnonzero(~np.isnan(values))
        return cls(key, known, values[known], np.full(len(known), SOURCES.index(source), np.int8))


class Figures(Protocol):
    """What a table's figures come from: a `Store`, or a package."""

    @property
    def card(self) -> Card: ...

    @property
    def groups(self) -> dict[Key, int]:
        """The keys that there are figures for."""
        ...

    def column(self, key: Key, size: int) -> Column | None: ...

    def arrow(self) -> Any: ...


class Store:
    """A table's folder, opened: the card is read and the checksums are verified."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.card = read_card(folder)
        for name, facts in self.card.files.items():
            verify(folder / name, facts)
        self._columns: dict[Key, Column] = {}

    @cached_property
    def _file(self) -> Any:
        try:
            return _opened(self.folder / _TABLE)
        except Exception as error:
            # a damaged Parquet file can raise almost anything
            said = one_line(error)
            raise DataError(f"{self.folder / _TABLE} is not a readable Parquet file ({said:.300})") from error

    @cached_property
    def groups(self) -> dict[Key, int]:
        """Row group of each key.

        Raises: DataError for a file that is not laid out as `write` does.
        """
        names = self._file.schema_arrow.names
        expected = ["network", "device", "metric", *self.card.conditions, "value", "source"]
        if names != expected:
            raise DataError(f"{self.folder / _TABLE} has columns {', '.join(names)}; expected {', '.join(expected)}")
        found: dict[Key, int] = {}
        for at, group in enumerate(self._said):
            parts = group.chunks[1 : 3 + len(self.card.conditions)]
            if any(part.least is None or part.least != part.greatest for part in parts):
                raise DataError(f"{self.folder / _TABLE}: row group {at} mixes devices or metrics: rebuild the table")
            key = tuple((part.least or b"").decode(errors="replace") for part in parts)
            if key in found:
                raise DataError(f"{self.folder / _TABLE}: {', '.join(key)} stands in two row groups: rebuild the table")
            found[key] = at
        for name, kind in zip(names, self._file.schema_arrow.types, strict=True):
            if not _is_kind(kind, _KINDS.get(name, "string")):
                said = f"{name} is a column of {_named(kind):.80}, expected {_KINDS.get(name, 'string')}"
                raise DataError(f"{self.folder / _TABLE}: {said}: rebuild the table")
        return found

    @cached_property
    def _said(self) -> list[Group]:
        """What the file says of its row groups.

        Raises: DataError for a file that is damaged.
        """
        try:
            groups = read_groups(self.folder / _TABLE)
        except (OSError, DataError) as error:
            raise self._damaged(error) from error
        if any(len(group.chunks) != 5 + len(self.card.conditions) for group in groups):
            raise self._damaged(DataError("a row group has other columns"))
        return groups

    def _damaged(self, error: Exception) -> DataError:
        said = one_line(f"{type(error).__name__}: {error}")
        return DataError(f"{self.folder / _TABLE} is damaged ({said:.300}): reinstall or rebuild it")

    def column(self, key: Key, size: int) -> Column | None:
        """The column of a key for `size` networks, or None if the table has none.

        Raises: DataError for a damaged file, a network out of range, or rows that disagree.
        """
        if key not in self._columns:
            if key not in self.groups:
                return None
            self._columns[key] = self._read(key, size)
        return self._columns[key]

    def _read(self, key: Key, size: int) -> Column:
        columns = ["network", "value", "source"]
        try:
            self._require_small([self._said[self.groups[key]]], columns)
            rows = self._file.read_row_group(self.groups[key], columns=columns)
            rows.validate(full=True)  # reading does not see a text that leads out of its dictionary
            networks = _numbers(rows["network"], np.int32).astype(np.int64)
            given = _numbers(rows["value"], np.float64)
            encoded = rows["source"].combine_chunks().dictionary_encode()
            names, sourced = encoded.dictionary.to_pylist(), _numbers(encoded.indices, np.int32)
        except DataError:
            raise
        except Exception as error:
            raise self._damaged(error) from error
        if not np.isfinite(given).all():
            raise DataError(f"{self.folder / _TABLE}: a value of {', '.join(key)} is not finite: rebuild the table")
        if not set(names) <= set(SOURCES):
            raise DataError(f"{self.folder / _TABLE}: sources {names}, expected some of {', '.join(SOURCES)}")
        codes = np.array([SOURCES.index(name) for name in names], np.int8)
        sources = np.zeros(size, np.int8)
        values = np.full(size, math.nan)
        if len(networks) and not (networks.min() >= 0 and networks.max() < size):
            raise DataError(f"{self.folder / _TABLE}: network {networks.max()} in a table of {size}")
        values[networks] = given
        there = np.zeros(size, bool)
        there[networks] = True
        sources[networks] = codes[sourced]
        if there.sum() < len(networks) and not np.array_equal(values[networks], given):
            twice = networks[values[networks] != given][0]
            raise DataError(f"{self.folder / _TABLE}: network {twice} has two values of {', '.join(key)}")
        values.flags.writeable = False
        return Column(values, sources)

    def labels(self) -> list[str]:
        """Notations of listed networks."""
        path = self.folder / LIST
        try:
            require_small(*unpacked(read_groups(path), {"label": 0}), LARGEST_CELLS, LARGEST_UNPACKED)
            with _opened(path) as file:
                listed = file.read(columns=["label"])["label"].combine_chunks()
            if hasattr(listed, "dictionary"):
                require_small(0, text_bytes(listed), LARGEST_CELLS, LARGEST_UNPACKED)
            labels = list(listed.to_pylist())
        except Exception as error:
            said = one_line(f"{type(error).__name__}: {error}")
            raise DataError(f"{path} is not a readable list of networks ({said:.300})") from error
        strange = next((label for label in labels if not isinstance(label, str)), "")
        if strange != "":
            raise DataError(f"{path} lists {strange!r:.80}, expected the names of networks")
        return labels

    def arrow(self) -> Any:
        """The whole table as an Arrow table."""
        try:
            self._require_small(self._said, self._file.schema_arrow.names, LARGEST_TABLE_CELLS)
            table = self._file.read()
            table.validate(full=True)
            return table
        except Exception as error:
            raise self._damaged(error) from error

    def _require_small(self, groups: Sequence[Group], columns: Sequence[str], cells: int = LARGEST_CELLS) -> None:
        """Raises: DataError for row groups that unpack to more than is read."""
        require_small(*unpacked(groups, dict.fromkeys(columns, 0)), cells, LARGEST_UNPACKED)


def _opened(path: Path) -> Any:
    """A Parquet file whose texts are read as they are stored: each once, however many rows have it.

    Raises: OSError, ValueError.
    """
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    texts = [name for name, kind in zip(schema.names, schema.types, strict=True) if _is_kind(kind, "string")]
    return pq.ParquetFile(path, memory_map=True, read_dictionary=texts)


def _named(kind: Any) -> str:
    """An Arrow type; texts may be stored as a dictionary."""
    return str(kind.value_type if str(kind).startswith("dictionary<") else kind)


def _is_kind(kind: Any, expected: str) -> bool:
    """Whether an Arrow type is that of a column."""
    return _named(kind) == expected


def _numbers(column: Any, dtype: Any) -> npt.NDArray[Any]:
    """An Arrow column without missing values as an array; Arrow's own conversion would import pandas, a second."""
    array = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    if array.null_count:
        raise ValueError(f"{array.null_count} values are missing")
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * np.dtype(dtype).itemsize)


def read_card(folder: Path) -> Card:
    """Raises: DataError if there is no table in a folder, or its card is damaged."""
    path = folder / _CARD
    try:
        return Card.from_json(read(path, parse_json))
    except FileNotFoundError:
        raise DataError(f"no table in {folder}: expected a folder with {_CARD} and {_TABLE}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: {error}") from error


def checksum(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, as a card holds them."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def verify(path: Path, facts: Mapping[str, Any]) -> None:
    """Raises: DataError if a file is missing, cut short or altered."""
    try:
        found = checksum(path)
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): reinstall or rebuild the table") from None
    if found["bytes"] != facts.get("bytes"):
        raise DataError(
            f"{path} has {found['bytes']} bytes, its card says {facts.get('bytes')}: cut short or replaced; "
            "reinstall or rebuild the table"
        )
    if found["sha256"] != facts.get("sha256"):
        raise DataError(f"{path} was altered: its checksum is not the card's; reinstall or rebuild the table")


def write(
    folder: Path,
    card: Card,
    blocks: Iterable[Block],
    labels: list[str] | None = None,
    extras: Mapping[str, dict[str, Any]] | None = None,
) -> Card:
    """Write a table; the card's `files` are filled in.

    labels: notations, where networks are listed. extras: size and checksum of further files of the folder.

    Raises: DataError for an empty table, a value that is not finite, or a key that occurs twice; RunError if a file
    cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.dictionary(pa.int32(), pa.string())
    names = ("device", "metric", *card.conditions)
    schema = pa.schema(
        [("network", pa.int32()), *((n, text) for n in names), ("value", pa.float64()), ("source", text)]
    )
    seen: set[Key] = set()
    options = {
        "compression": "zstd",
        "compression_level": 12,
        "use_dictionary": [*names, "value", "source"],
        "column_encoding": {"network": "DELTA_BINARY_PACKED"},  # 0, 1, 2, ...: next to nothing
    }
    with replacing(folder / _TABLE) as draft, pq.ParquetWriter(draft, schema, **options) as writer:
        for block in blocks:
            if block.key in seen:
                raise DataError(f"{', '.join(block.key)} occurs twice: rows of one metric and device go together")
            if not np.isfinite(block.values).all():
                raise DataError(f"{', '.join(block.key)}: a value is not finite; leave the row out")
            seen.add(block.key)
            n = len(block.networks)
            if not n:
                continue
            zeros = pa.array(np.zeros(n, np.int32))
            same = [pa.DictionaryArray.from_arrays(zeros, pa.array([part])) for part in block.key]
            sources = pa.DictionaryArray.from_arrays(pa.array(block.sources.astype(np.int32)), pa.array(SOURCES))
            columns = [pa.array(block.networks.astype(np.int32)), *same, pa.array(block.values), sources]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=n)
        if not seen:
            raise DataError(f"{card.name}: no rows to write")
    files = {_TABLE: checksum(folder / _TABLE), **(extras or {})}
    if labels is not None:
        listed = pa.table({"label": pa.array(labels, pa.string())})
        with replacing(folder / LIST) as draft:
            pq.write_table(listed, draft, compression="zstd", compression_level=12)
        files[LIST] = checksum(folder / LIST)
    written = Card(**{**vars(card), "files": files})
    write_atomic(folder / _CARD, json.dumps(written.to_json(), indent=1) + "\n")  # last: it tells which files belong
    return written
