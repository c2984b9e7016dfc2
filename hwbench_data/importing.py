"""Reading the tables of others into one of ours: CSV, Parquet, and public pickles, `.npy` and JSON files.

A *map* says what a file's columns are::

    title: 13 devices, measured
    network: arch_idx                  # a column of indices, notations, or lists: which choice each decision takes
    values:
      pixel3: {device: pixel3, metric: latency_ms, unit: ms}

or, of a file with one figure a row, as our own tables are, in which columns the parts of a figure stand::

    network: key
    rows: {device: device, metric: metric, value: value}

There ``unit`` and ``source`` may name columns too (else units are ours and the figures published), and ``valid`` one of
truth values, whose false rows are left out. Metrics are ours, or latency and energy.

Public formats say so themselves: HW-NAS-Bench's pickle (space -> dataset -> ``<device>_latency``, ``<device>_energy``),
FBNet look-up tables (a dict of block keys, the map gives device, metric and unit), and NATS-Bench-style files (a dict
of index -> accuracy, likewise). Pickles are read without running anything in them.
"""

import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cosearch import registry
from cosearch.errors import ConfigError, CosearchError, DataError, UnknownNameError, nearest, one_line
from cosearch.reading import npy_header, parse_json, parse_yaml, read, require_few_columns
from cosearch.unpickling import load_plain
from hwbench_data.footer import LARGEST_CELLS, LARGEST_UNPACKED, read_groups, require_small, text_bytes, unpacked
from hwbench_data.networks import Cells, Listed, Networks, extremes, notation
from hwbench_data.store import ANY, SOURCES, Block, Card, Floats, Metric, checksum, write
from hwbench_data.table import better
from search_spaces.networks import SPACES, find

if TYPE_CHECKING:
    import pandas as pd

UNITS: dict[str, tuple[str, float]] = {
    "ms": ("ms", 1.0),
    "us": ("ms", 1e-3),
    "s": ("ms", 1e3),
    "mJ": ("mJ", 1.0),
    "uJ": ("mJ", 1e-3),
    "J": ("mJ", 1e3),
    "fraction": ("fraction", 1.0),
    "percent": ("fraction", 1e-2),
    "operations": ("operations", 1.0),
    "weights": ("weights", 1.0),
}
"""Unit of a file -> (our unit, factor)."""
_ENDINGS = {"_ms": "ms", "_mj": "mJ", "macs": "operations", "params": "weights"}
KEYS = ("fbnet_blocks", "gnn")
"""What networks can be called by besides the networks of a space: keys of blocks, notations of graph networks."""
LARGEST_BYTES = 1 << 30
LARGEST_CSV_BYTES = 256 << 20


@dataclass(frozen=True)
class Value:
    """What one column of a file is. source: how its figures came about."""

    device: str
    metric: str
    unit: str
    source: str = "published"


@dataclass(frozen=True)
class Rows:
    """The columns of a file with one figure a row. unit: of the figure, ours where there is no column; valid: whether
    a row counts."""

    device: str
    metric: str
    value: str
    unit: str | None = None
    source: str | None = None
    valid: str | None = None


@dataclass(frozen=True)
class ColumnMap:
    """network: the column with indices or notations; values: column -> what it is; rows: instead of values."""

    network: str
    values: dict[str, Value]
    title: str = ""
    rows: Rows | None = None


@dataclass(frozen=True)
class Content:
    """Rows of a file: networks [n] as the file names them, and columns [n]."""

    networks: list[Any]
    columns: dict[str, Floats]


def read_map(path: Path) -> ColumnMap:
    """Raises: DataError for a map that cannot be read or misses something."""
    try:
        data = read(path, parse_yaml)
    except (OSError, DataError) as error:
        raise DataError(f"{path} is not a readable map ({error})") from error
    return checked_map(data, str(path))


def checked_map(data: Any, where: str) -> ColumnMap:
    """Raises: DataError naming what a map misses or misnames."""
    if not isinstance(data, dict) or ("rows" in data) == ("values" in data):
        raise DataError(f"{where}: expected 'network: COLUMN' and either 'values:' or 'rows:'")
    unknown = sorted(map(str, set(data) - {"network", "values", "rows", "title"}))
    if unknown:
        raise DataError(f"{where}: unknown entry {unknown[0]!r}, expected network, values or rows, and title")
    network, title = _text(data.get("network", "network"), f"{where}: network"), str(data.get("title", ""))
    if "rows" in data:
        return ColumnMap(network, {}, title, _checked_rows(data["rows"], where))
    if not isinstance(data["values"], dict) or not data["values"]:
        raise DataError(f"{where}: expected 'network: COLUMN' and 'values:' with at least one column")
    values = {str(column): _checked_value(column, facts, where) for column, facts in data["values"].items()}
    targets = [(value.device, value.metric) for value in values.values()]
    for target in targets:
        if targets.count(target) > 1:
            raise DataError(f"{where}: two columns are {target[1]} of {target[0]}")
    return ColumnMap(network, values, title)


def _checked_rows(given: Any, where: str) -> Rows:
    known = [field.name for field in fields(Rows)]
    if not isinstance(given, dict) or not {"device", "metric", "value"} <= set(given):
        raise DataError(f"{where}: rows need the names of columns, {{device: D, metric: M, value: V}}")
    unknown = sorted(map(str, set(given) - set(known)))
    if unknown:
        raise DataError(f"{where}: rows have an unknown entry {unknown[0]!r}: {nearest(unknown[0], known)}")
    return Rows(**{name: _text(column, f"{where}: {name} of rows") for name, column in given.items()})


def _text(given: Any, what: str) -> str:
    """A name in a map; YAML reads one of digits as a number."""
    if isinstance(given, bool) or not isinstance(given, str | int) or given == "":
        raise DataError(f"{what} is {str(given)[:40]!r}, expected a name")
    return str(given)


def _checked_value(column: Any, facts: Any, where: str) -> Value:
    if not isinstance(facts, dict) or "metric" not in facts:
        raise DataError(f"{where}: column {column!r} needs {{device, metric, unit}}")
    if "unit" not in facts:
        raise DataError(f"{where}: column {column!r} has no unit: give one of {', '.join(UNITS)}")
    unknown = sorted(map(str, set(facts) - {"device", "metric", "unit", "source"}))
    if unknown:
        raise DataError(f"{where}: column {column!r} has an unknown entry {unknown[0]!r}")
    given = {"device": ANY, "source": "published", **facts}
    value = Value(**{name: _text(fact, f"{where}: {name} of column {column!r}") for name, fact in given.items()})
    if value.unit not in UNITS:
        raise DataError(f"{where}: column {column!r} has unit {value.unit!r}: {nearest(value.unit, UNITS)}")
    if value.source not in SOURCES:
        raise DataError(f"{where}: column {column!r} has source {value.source!r}: {nearest(value.source, SOURCES)}")
    expected = _own_unit(value.metric)
    if UNITS[value.unit][0] != expected:
        raise DataError(f"{where}: {value.metric} of column {column!r} is given in {value.unit!r}, not {expected}")
    return value


def _own_unit(metric: str) -> str:
    return next((unit for ending, unit in _ENDINGS.items() if metric.endswith(ending)), "fraction")


def import_file(
    path: Path, space: str, mapping: ColumnMap | None, folder: Path, dataset: str | None = None
) -> tuple[Card, list[str]]:
    """Read a file into a table's folder. Returns its card and what was left out, one line each.

    space: ``nasbench201``; or another network space, or what else the names are (`KEYS`): then networks are listed as
    they are named. mapping: what the columns are; not needed for HW-NAS-Bench's pickle. dataset: which part of that
    pickle. Equal (isomorphic) networks keep their own figures: measurements are noisy, and edges that lead
    nowhere take time; the card notes how far they differ.

    Raises: UnknownNameError for an unknown space; DataError for a file that cannot be read, misses columns, names a
    network that does not exist, holds what is no number or has rows that disagree; ConfigError for a map that is
    missing.
    """
    if not os.path.isfile(path):
        raise DataError(f"no file {str(path)!r}: check the path")
    _check_space(space)
    if path.stat().st_size > LARGEST_BYTES:
        raise DataError(f"{path} has {path.stat().st_size / 2**30:.1f} GiB, at most 1 is read")
    content, mapping = _read(path, space, mapping, dataset)
    given = _decided(path, space, content.networks)
    if space == "nasbench201":
        networks: Networks = Cells()
        names = [_whole(name) for name in given]
    else:
        names = _texts(path, given)
        networks = Listed(space, list(dict.fromkeys(names)))
    index = _indices(path, networks, names)
    left_out: list[str] = []
    notes: list[str] = []
    blocks, metrics = [], {}
    for column, value in mapping.values.items():
        block, infinite = _block(path, column, value, content.columns[column], index, len(networks))
        blocks.append(block)
        missing = len(networks) - len(block.networks) - infinite
        left_out += [f"{column}: {missing} networks have no number"] if missing else []
        left_out += [f"{column}: {infinite} networks have an infinite number"] if infinite else []
        unit = UNITS[value.unit][0]
        notes += _differences(block, networks, unit)
        metrics[value.metric] = Metric(unit, better(value.metric, unit), f"from {path.name}")
    devices = {value.device: {"title": value.device, "source": value.source} for value in mapping.values.values()}
    devices.pop(ANY, None)
    kind = "nasbench201" if space == "nasbench201" else "listed"
    card = Card(
        folder.name,
        mapping.title or f"imported from {path.name}",
        {"kind": kind, "space": space, "count": len(networks)},
        metrics,
        devices,
        {},
        {"command": f"cosearch bench import {path.name}", "file": checksum(path), "dataset": dataset},
        tuple(notes),
        {},
    )
    labels = [networks.label(i) for i in range(len(networks))] if kind == "listed" else None
    return write(folder, card, blocks, labels), left_out


def _check_space(space: str) -> None:
    """Raises: UnknownNameError with the nearest name."""
    if ":" in space:
        find(space)
        return
    known = {*registry.names("spaces", SPACES), *KEYS}
    if space not in known:
        raise UnknownNameError(f"unknown space {space!r}: {nearest(space, known)}")


def _block(path: Path, column: str, value: Value, given: Floats, index: np.ndarray, size: int) -> tuple[Block, int]:
    """One column as rows of a table, and how many networks are left out as infinite."""
    unit, factor = UNITS[value.unit]
    numbers = given * factor
    wrong = np.flatnonzero((numbers < 0) | ((numbers > 1) & (unit == "fraction")))
    if len(wrong):
        at = int(wrong[0])
        raise DataError(f"{path}, row {at + 1}: {column!r} holds {given[at]:g} {value.unit}, which cannot be")
    known = np.flatnonzero(~np.isnan(numbers))
    values = np.full(size, np.nan)
    values[index[known]] = numbers[known]
    differs = known[values[index[known]] != numbers[known]]
    if len(differs):
        at = int(index[differs[0]])
        rows = f"rows {differs[0] + 1} and {known[index[known] == at][-1] + 1}"
        raise DataError(f"{path}: rows of network {at} disagree in {column!r} ({rows}): keep one, or map 'rows:'")
    infinite = np.isinf(values)
    values[infinite] = np.nan
    if np.isnan(values).all():
        raise DataError(f"{path}: column {column!r} holds no {'finite ' if infinite.any() else ''}numbers")
    return Block.full((value.device, value.metric), values, value.source), int(infinite.sum())


def _differences(block: Block, networks: Networks, unit: str) -> list[str]:
    """How many networks have another value than an equal one, and the largest difference, as a note; if there are."""
    same = networks.same[block.networks]
    low, high = extremes(same, block.values)
    apart = (high - low)[same]
    if not apart.any():
        return []
    widest = same == same[apart.argmax()]
    ends = [int(block.networks[widest][at(block.values[widest])]) for at in (np.argmin, np.argmax)]
    return [
        f"{block.key[1]} of {block.key[0]}: {(apart > 0).sum():,} networks have another value than an equal "
        f"(isomorphic) one, by at most {apart.max():.6g} {unit} (networks {ends[0]} and {ends[1]}); each keeps its own."
    ]


def _decided(path: Path, space: str, names: list[Any]) -> list[Any]:
    """Networks as archs where each is a list of numbers: which choice every decision takes, in the space's order."""
    if not isinstance(names[0], np.ndarray):
        return names
    if space in KEYS:
        raise DataError(f"{path} names networks by lists of choices, which {space} does not have: give a network space")
    options = find(space)((3, 32, 32), 10).choices
    archs = []
    for row, taken in enumerate(names, start=1):
        if len(taken) != len(options):
            raise DataError(f"{path}, row {row}: {len(taken)} choices, {space} has {len(options)} decisions")
        arch = {}
        for (decision, known), number in zip(options.items(), taken.tolist(), strict=True):
            if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(known):
                expected = f"expected 0 to {len(known) - 1}"
                raise DataError(f"{path}, row {row}: choice {number!s:.40} of {decision!r}, {expected}")
            arch[decision] = known[number]
        archs.append(arch)
    return archs


def _texts(path: Path, names: list[Any]) -> list[str]:
    texts = []
    for row, name in enumerate(names, start=1):
        try:
            texts.append(notation(name) if isinstance(name, Mapping) else str(name))
        except ValueError as error:  # an integer of thousands of digits
            raise DataError(f"{path}, row {row}: the network's name has no text ({error})") from None
    return texts


def _indices(path: Path, networks: Networks, names: list[Any]) -> np.ndarray:
    found = []
    for row, name in enumerate(names, start=1):
        try:
            found.append(networks.index(name))
        except CosearchError as error:
            raise DataError(f"{path}, row {row}: {error}") from error
    return np.array(found, np.int64)


def _whole(name: Any) -> Any:
    """A column of indices with a gap holds them as floats."""
    return int(name) if isinstance(name, float | np.floating) and float(name).is_integer() else name


# -- formats --


def _read(path: Path, space: str, mapping: ColumnMap | None, dataset: str | None) -> tuple[Content, ColumnMap]:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".parquet"):
        if mapping is None:
            raise ConfigError(f"{path.name} needs --map map.yaml, which says what its columns are")
        return _columns_of(path, mapping)
    readers: dict[str, Callable[[Path], Any]] = {
        ".pickle": _pickle,
        ".pkl": _pickle,
        ".npy": _npy,
        ".json": _json,
    }
    if suffix not in readers:
        raise DataError(f"{path}: files that can be imported end in .csv, .parquet, {', '.join(readers)}")
    data = readers[suffix](path)
    if isinstance(data, dict) and any(isinstance(data.get(part), Mapping | list) for part in _HW_PARTS):
        return _hwnasbench(path, data, space, dataset)
    if mapping is None or len(mapping.values) != 1:
        raise ConfigError(
            f"{path.name} holds one value per network: --map must say which metric, device and unit it is"
        )
    [column] = mapping.values
    return _one_column(path, data, column), mapping


def _columns_of(path: Path, mapping: ColumnMap) -> tuple[Content, ColumnMap]:
    """The columns that a map names; of a map of rows also what they turn out to be."""
    asked = mapping.values if mapping.rows is None else [name for name in vars(mapping.rows).values() if name]
    wanted = list(dict.fromkeys([mapping.network, *asked]))
    try:
        table = _csv(path, wanted) if path.suffix.lower() == ".csv" else _parquet(path, wanted, mapping.network)
    except CosearchError:
        raise
    except Exception as error:
        # a damaged Parquet file can raise almost anything
        said = one_line(f"{type(error).__name__}: {error}")
        raise DataError(f"{path} is not a readable {path.suffix} file ({said:.300})") from error
    if not len(table):
        raise DataError(f"{path} holds no rows")
    names = table[mapping.network]
    if names.isna().any():
        raise DataError(f"{path}, row {int(names.isna().argmax()) + 1}: no network in {mapping.network!r}")
    if mapping.rows is not None:
        columns, values = _figures(path, mapping.rows, table)
        return Content(names.tolist(), columns), replace(mapping, values=values)
    return Content(
        names.tolist(), {column: _numbers(path, column, table[column]) for column in mapping.values}
    ), mapping


def _require(path: Path, wanted: list[str], names: Sequence[Any]) -> None:
    """Raises: DataError for a wanted column that is not there, or there more than once."""
    for column in wanted:
        if column not in names:
            raise DataError(f"{path} has no column {column!r}: {nearest(column, map(str, names))}")
        if list(names).count(column) > 1:
            raise DataError(f"{path} has {list(names).count(column)} columns {column!r}: rename or remove all but one")


def _csv(path: Path, wanted: list[str]) -> "pd.DataFrame":
    import pandas as pd

    if path.stat().st_size > LARGEST_CSV_BYTES:
        most = LARGEST_CSV_BYTES >> 20
        raise DataError(f"{path} has {path.stat().st_size >> 20} MiB, at most {most} are read of a CSV file: split it")
    content = path.read_bytes()
    try:
        require_few_columns(content)
    except DataError as error:
        raise DataError(f"{path} {error}") from None
    table = pd.read_csv(io.BytesIO(content))
    _require(path, wanted, table.columns.tolist())
    return table


def _parquet(path: Path, wanted: list[str], network: str) -> "pd.DataFrame":
    """The wanted columns, once what they unpack to is known to be little: a few kilobytes can stand for gigabytes.

    network: the column that may be one of lists.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        _require(path, wanted, file.schema_arrow.names)
        nested = []
        for column in wanted:
            kind = file.schema_arrow.field(column).type
            if pa.types.is_nested(kind):
                if column != network or not _is_list(kind):
                    raise DataError(f"{path}: {column!r} is a column of {kind!s:.80}, not a number or name in each row")
                nested.append(column)
        stored = [file.schema.column(at) for at in range(len(file.schema))]
        lengths = {
            leaf.path: max(0, leaf.length or 0)  # of bytes, if a value has as many in each row
            for leaf in stored
            if leaf.path in wanted or leaf.path.startswith(tuple(f"{column}." for column in nested))
        }
    _limit(path, *unpacked(read_groups(path), lengths))
    # texts that repeat are read as they are stored, each once
    with pq.ParquetFile(path, read_dictionary=[column for column in wanted if column not in nested]) as file:
        table = file.read(columns=wanted)
    table.validate(full=True)  # texts that are none would be found out when they are used
    texts = [at for at, field in enumerate(table.schema) if pa.types.is_dictionary(field.type)]
    _limit(path, 0, sum(text_bytes(chunk) for at in texts for chunk in table.column(at).chunks))
    for at in texts:
        field = table.schema.field(at)
        table = table.set_column(at, field.name, table.column(at).cast(field.type.value_type))
    return table.to_pandas()


def _is_list(kind: Any) -> bool:
    """Whether an Arrow type is that of lists of whole numbers."""
    import pyarrow as pa

    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(kind) for is_kind in lists) and pa.types.is_integer(kind.value_type)


def _limit(path: Path, cells: int, size: int) -> None:
    """Raises: DataError for columns that unpack to more than is read."""
    try:
        require_small(cells, size, LARGEST_CELLS, LARGEST_UNPACKED)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _figures(path: Path, rows: Rows, table: "pd.DataFrame") -> tuple[dict[str, Floats], dict[str, Value]]:
    """A column for each metric and device of a file with one figure a row, NaN in the rows of others."""
    numbers = _numbers(path, rows.value, table[rows.value])
    if rows.valid is not None:
        numbers = np.where(_flags(path, rows.valid, table[rows.valid]), numbers, np.nan)
    names = {"device": rows.device, "metric": rows.metric, "unit": rows.unit, "source": rows.source}
    parts = {part: _words(path, column, table[column]) for part, column in names.items() if column}
    places: dict[tuple[str, ...], list[int]] = {}
    for row, group in enumerate(zip(*parts.values(), strict=True)):
        places.setdefault(group, []).append(row)
    columns: dict[str, Floats] = {}
    values: dict[str, Value] = {}
    for group, there in places.items():
        facts = dict(zip(parts, group, strict=True))
        metric = _HW_UNITS[facts["metric"]][0] if facts["metric"] in _HW_UNITS else facts["metric"]
        column = f"{metric} of {facts['device']}"
        if column in columns:
            raise DataError(f"{path}: {column} comes in two units or from two sources: keep one of them")
        values[column] = _checked_value(column, {"unit": _own_unit(metric), **facts, "metric": metric}, str(path))
        columns[column] = np.full(len(numbers), np.nan)
        columns[column][there] = numbers[there]
    return columns, values


def _words(path: Path, column: str, given: "pd.Series[Any]") -> list[str]:
    if given.isna().any():
        raise DataError(f"{path}, row {int(given.isna().argmax()) + 1}: {column!r} is empty")
    return [str(entry) for entry in given]


def _flags(path: Path, column: str, given: "pd.Series[Any]") -> np.ndarray:
    if str(given.dtype) not in ("bool", "boolean") or given.isna().any():
        raise DataError(f"{path}: {column!r} is a column of {given.dtype}, expected truth values in every row")
    return given.to_numpy(bool)


def _numbers(path: Path, column: str, given: "pd.Series[Any]") -> Floats:
    """[rows] the numbers of a column, also where they are text; NaN where there is none.

    Raises: DataError for other text, and for dates, durations and truth values, which are not taken for numbers.
    """
    import pandas as pd
    from pandas.api import types

    kind = getattr(given.dtype, "categories", given).dtype
    plain = types.is_numeric_dtype(kind) or types.is_string_dtype(kind) or types.is_object_dtype(kind)
    if not plain or types.is_bool_dtype(kind):
        raise DataError(f"{path}: {column!r} is a column of {kind}, expected numbers")
    try:
        numbers = pd.to_numeric(given, errors="coerce")
    except OverflowError:
        raise DataError(f"{path}: {column!r} holds a number that is too large") from None
    truths = given.map(lambda entry: isinstance(entry, bool | np.bool_)).to_numpy(bool)
    wrong = np.flatnonzero(truths | (numbers.isna() & given.notna()).to_numpy(bool))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(f"{path}, row {row + 1}: {column!r} is {str(given.iloc[row])[:40]!r}, not a number")
    return numbers.to_numpy(dtype=float, na_value=np.nan)


def _pickle(path: Path) -> Any:
    try:
        return load_plain(path.read_bytes(), "a benchmark's pickle", arrays=True)
    except DataError as error:
        raise DataError(f"{path} {error}") from None


def _npy(path: Path) -> Any:
    """The dict in an object array, as numpy.save writes one; numbers only otherwise."""
    content = io.BytesIO(path.read_bytes())
    try:
        shape, fortran, dtype = npy_header(content)
    except DataError as error:
        raise DataError(f"{path} {error}") from None
    if not dtype.hasobject:
        return _plain_array(path, content.getbuffer()[content.tell() :], shape, dtype, "F" if fortran else "C")
    try:
        array = load_plain(content.read(), "a look-up table", arrays=True)
    except DataError as error:
        raise DataError(f"{path} {error}") from None
    if shape != () or not isinstance(array, np.ndarray) or array.shape != ():
        raise DataError(f"{path} holds an array of objects of shape {shape}, expected one dict")
    return array.item()


def _plain_array(path: Path, data: memoryview, shape: tuple[int, ...], dtype: np.dtype[Any], order: Any) -> np.ndarray:
    """Raises: DataError if there are other than the bytes that the header tells of."""
    expected = math.prod(shape) * dtype.itemsize
    # of values without a length there would be any number
    if min(shape, default=0) < 0 or not dtype.itemsize or dtype.subdtype or expected != len(data):
        said = f"{dtype!s:.80} of shape {shape!s:.80}"
        raise DataError(f"{path} has {len(data):,} bytes of values, its header says {said}: cut short or damaged")
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _json(path: Path) -> Any:
    try:
        return read(path, lambda text: parse_json(text, missing=True))
    except (OSError, DataError) as error:
        raise DataError(f"{path} is not a readable JSON file ({error})") from error


def _one_column(path: Path, data: Any, column: str) -> Content:
    """A dict of network -> number, or a list by index."""
    if isinstance(data, list) or (isinstance(data, np.ndarray) and data.ndim == 1):
        if len(data) > LARGEST_CELLS:
            raise DataError(f"{path} holds {len(data):,} values, at most {LARGEST_CELLS:,} are read")
        data = dict(enumerate(data))
    if not isinstance(data, Mapping) or not data:
        raise DataError(f"{path} holds {type(data).__name__}, expected a dict of network -> number")
    numbers = [_real(path, column, row, value) for row, value in enumerate(data.values(), start=1)]
    return Content(list(data), {column: np.array(numbers)})


def _real(path: Path, column: str, row: int, value: Any) -> float:
    """Raises: DataError for what is no number; truth values and durations are none."""
    if isinstance(value, bool | np.timedelta64) or not isinstance(value, Real):
        kind = type(value).__name__
        raise DataError(f"{path}, row {row}: {column!r} holds a {kind}, expected a dict of network -> number")
    try:
        return float(value)
    except OverflowError:
        raise DataError(f"{path}, row {row}: {column!r} holds a number that is too large") from None


_HW_PARTS = ("nasbench201", "fbnet")
_HW_UNITS = {"latency": ("latency_ms", "ms"), "energy": ("energy_mj", "mJ")}


def _hwnasbench(path: Path, data: Mapping[str, Any], space: str, dataset: str | None) -> tuple[Content, ColumnMap]:
    """One dataset of HW-NAS-Bench: ``<device>_latency`` and ``<device>_energy``, a list by index or a dict by key.

    FPGA energy is 7 W times its latency there, not a second measurement. Configurations, the product of all metrics
    and arithmetic intensities are left out.
    """
    part = "fbnet" if space.startswith("fbnet") else space
    if part not in data:
        raise DataError(f"{path} has no space {part!r}: {nearest(part, map(str, data))}")
    datasets = data[part]
    if not isinstance(datasets, Mapping) or (dataset is None and len(datasets) != 1) or not datasets:
        known = ", ".join(map(str, datasets)) if isinstance(datasets, Mapping) else type(datasets).__name__
        raise ConfigError(f"{path.name} has {part} for {known}: choose one with --dataset")
    chosen = next(iter(datasets)) if dataset is None else dataset
    if chosen not in datasets:
        raise ConfigError(f"{path.name} has no dataset {chosen!r}: {nearest(chosen, map(str, datasets))}")
    if not isinstance(datasets[chosen], Mapping):
        kind = type(datasets[chosen]).__name__
        raise DataError(f"{path}: {part}, {chosen} is a {kind}, expected a dict of <device>_latency -> figures")
    columns: dict[str, Content] = {}
    values: dict[str, Value] = {}
    for name, figures in datasets[chosen].items():
        device, _, metric = str(name).rpartition("_")
        if not device or metric not in _HW_UNITS or device == "average":
            continue
        columns[str(name)] = _one_column(path, figures, str(name))
        values[str(name)] = Value(device, *_HW_UNITS[metric])
    if not columns:
        raise DataError(f"{path}: {part}, {chosen} holds no <device>_latency or <device>_energy")
    names = list(dict.fromkeys(network for content in columns.values() for network in content.networks))
    place = {network: at for at, network in enumerate(names)}
    dense = {name: np.full(len(names), np.nan) for name in columns}
    for name, content in columns.items():
        dense[name][[place[network] for network in content.networks]] = content.columns[name]
    return Content(names, dense), ColumnMap("index", values, f"HW-NAS-Bench, {part}, {chosen}")
