"""Reading the tables of others into one of ours: CSV, Parquet, and public pickles, `.npy` and JSON files.

A *map* says what a file's columns are::

    title: 13 devices, measured
    network: arch_idx                  # a column of indices or notations
    values:
      pixel3: {device: pixel3, metric: latency_ms, unit: ms}

Public formats say so themselves: HW-NAS-Bench's pickle (space -> dataset -> ``<device>_latency``, ``<device>_energy``),
FBNet look-up tables (a dict of block keys, the map gives device, metric and unit), and NATS-Bench-style files (a dict
of index -> accuracy, likewise). Pickles are read without running anything in them.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cosearch.errors import ConfigError, CosearchError, DataError, nearest
from cosearch.reading import parse_json, parse_yaml, read
from cosearch.unpickling import load_plain
from hwbench_data.networks import Cells, Listed, Networks
from hwbench_data.store import ANY, SOURCES, Block, Card, Floats, Metric, checksum, write
from hwbench_data.table import better

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
LARGEST_BYTES = 1 << 30


@dataclass(frozen=True)
class Value:
    """What one column of a file is. source: how its figures came about."""

    device: str
    metric: str
    unit: str
    source: str = "published"


@dataclass(frozen=True)
class ColumnMap:
    """network: the column with indices or notations; values: column -> what it is."""

    network: str
    values: dict[str, Value]
    title: str = ""


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
    if not isinstance(data, dict) or not isinstance(data.get("values"), dict) or not data["values"]:
        raise DataError(f"{where}: expected 'network: COLUMN' and 'values:' with at least one column")
    unknown = sorted(set(data) - {"network", "values", "title"})
    if unknown:
        raise DataError(f"{where}: unknown entry {unknown[0]!r}, expected network, values and title")
    values = {str(column): _checked_value(column, facts, where) for column, facts in data["values"].items()}
    targets = [(value.device, value.metric) for value in values.values()]
    for target in targets:
        if targets.count(target) > 1:
            raise DataError(f"{where}: two columns are {target[1]} of {target[0]}")
    return ColumnMap(str(data.get("network", "network")), values, str(data.get("title", "")))


def _checked_value(column: Any, facts: Any, where: str) -> Value:
    if not isinstance(facts, dict) or "metric" not in facts:
        raise DataError(f"{where}: column {column!r} needs {{device, metric, unit}}")
    if "unit" not in facts:
        raise DataError(f"{where}: column {column!r} has no unit: give one of {', '.join(UNITS)}")
    unknown = sorted(set(facts) - {"device", "metric", "unit", "source"})
    if unknown:
        raise DataError(f"{where}: column {column!r} has an unknown entry {unknown[0]!r}")
    value = Value(
        str(facts.get("device", ANY)), str(facts["metric"]), str(facts["unit"]), str(facts.get("source", "published"))
    )
    if value.unit not in UNITS:
        raise DataError(f"{where}: column {column!r} has unit {value.unit!r}: {nearest(value.unit, UNITS)}")
    if value.source not in SOURCES:
        raise DataError(f"{where}: column {column!r} has source {value.source!r}: {nearest(value.source, SOURCES)}")
    expected = next((unit for ending, unit in _ENDINGS.items() if value.metric.endswith(ending)), "fraction")
    if UNITS[value.unit][0] != expected:
        raise DataError(f"{where}: {value.metric} of column {column!r} is given in {value.unit!r}, not {expected}")
    return value


def import_file(
    path: Path, space: str, mapping: ColumnMap | None, folder: Path, dataset: str | None = None
) -> tuple[Card, list[str]]:
    """Read a file into a table's folder. Returns its card and what was left out, one line each.

    space: ``nasbench201``, or the name of what the keys mean (``fbnet_blocks``): then networks are listed as they are
    named. mapping: what the columns are; not needed for HW-NAS-Bench's pickle. dataset: which part of that pickle.
    Raises: DataError for a file that cannot be read, misses columns, names a network that does not exist or has rows
    that disagree; ConfigError for a map that is missing.
    """
    if not path.is_file():
        raise DataError(f"no file {str(path)!r}: check the path")
    if path.stat().st_size > LARGEST_BYTES:
        raise DataError(f"{path} has {path.stat().st_size / 2**30:.1f} GiB, at most 1 is read")
    content, mapping = _read(path, space, mapping, dataset)
    networks: Networks = Cells() if space == "nasbench201" else Listed(space, _distinct(content.networks))
    index = _indices(path, networks, content.networks)
    left_out: list[str] = []
    blocks, metrics = [], {}
    for column, value in mapping.values.items():
        block, missing = _block(path, column, value, content.columns[column], index, len(networks))
        blocks.append(block)
        if missing:
            left_out.append(f"{column}: {missing} networks have no number")
        unit = UNITS[value.unit][0]
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
        (),
        {},
    )
    labels = [networks.label(i) for i in range(len(networks))] if kind == "listed" else None
    return write(folder, card, blocks, labels), left_out


def _block(path: Path, column: str, value: Value, given: Floats, index: np.ndarray, size: int) -> tuple[Block, int]:
    """One column as rows of a table, and how many networks it has no number for."""
    numbers = given * UNITS[value.unit][1]
    known = np.flatnonzero(np.isfinite(numbers))
    if not len(known):
        raise DataError(f"{path}: column {column!r} holds no numbers")
    values = np.full(size, np.nan)
    values[index[known]] = numbers[known]
    differs = known[values[index[known]] != numbers[known]]
    if len(differs):
        at = int(index[differs[0]])
        raise DataError(f"{path}: rows of network {at} disagree in {column!r}: keep one of them")
    if (numbers[known] < 0).any() or (UNITS[value.unit][0] == "fraction" and (numbers[known] > 1).any()):
        worst = int(known[np.argmax(np.abs(numbers[known] - 0.5))])
        raise DataError(f"{path}: {column!r} holds {given[worst]:g} {value.unit}, which cannot be")
    block = Block.full((value.device, value.metric), values, value.source)
    return block, size - len(block.networks)


def _distinct(names: list[Any]) -> list[str]:
    return list(dict.fromkeys(str(name) for name in names))


def _indices(path: Path, networks: Networks, names: list[Any]) -> np.ndarray:
    found = []
    for row, name in enumerate(names, start=1):
        try:
            found.append(networks.index(_whole(name) if isinstance(networks, Cells) else str(name)))
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
        return _columns_of(path, mapping), mapping
    readers: dict[str, Callable[[Path], Any]] = {
        ".pickle": _pickle,
        ".pkl": _pickle,
        ".npy": _npy,
        ".json": _json,
    }
    if suffix not in readers:
        raise DataError(f"{path}: files that can be imported end in .csv, .parquet, {', '.join(readers)}")
    data = readers[suffix](path)
    if isinstance(data, dict) and "nasbench201" in data:
        return _hwnasbench(path, data, space, dataset)
    if mapping is None or len(mapping.values) != 1:
        raise ConfigError(
            f"{path.name} holds one value per network: --map must say which metric, device and unit it is"
        )
    [column] = mapping.values
    return _one_column(path, data, column), mapping


def _columns_of(path: Path, mapping: ColumnMap) -> Content:
    import pandas as pd

    wanted = [mapping.network, *mapping.values]
    try:
        table = pd.read_csv(path) if path.suffix.lower() == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable {path.suffix} file ({' '.join(str(error).split())})") from error
    missing = [column for column in wanted if column not in table]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}: {nearest(missing[0], map(str, table.columns))}")
    if not len(table):
        raise DataError(f"{path} holds no rows")
    columns = {}
    for column in mapping.values:
        numbers = pd.to_numeric(table[column], errors="coerce")
        text = numbers.isna() & table[column].notna()
        if text.any():
            row = int(np.flatnonzero(text.to_numpy())[0])
            raise DataError(f"{path}, row {row + 1}: {column!r} is {str(table[column].iloc[row])[:40]!r}, not a number")
        columns[column] = numbers.to_numpy(dtype=float)
    return Content(table[mapping.network].tolist(), columns)


def _pickle(path: Path) -> Any:
    try:
        return load_plain(path.read_bytes(), "a benchmark's pickle", arrays=True)
    except DataError as error:
        raise DataError(f"{path} {error}") from None


def _npy(path: Path) -> Any:
    """The dict in an object array, as numpy.save writes one; numbers only otherwise."""
    content = io.BytesIO(path.read_bytes())
    try:
        version = np.lib.format.read_magic(content)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(content)
        if not dtype.hasobject:
            return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a .npy file ({error})") from error
    try:
        array = load_plain(content.read(), "a look-up table", arrays=True)
    except DataError as error:
        raise DataError(f"{path} {error}") from None
    if shape != () or not isinstance(array, np.ndarray) or array.shape != ():
        raise DataError(f"{path} holds an array of objects of shape {shape}, expected one dict")
    return array.item()


def _json(path: Path) -> Any:
    try:
        return read(path, lambda text: parse_json(text, missing=True))
    except (OSError, DataError) as error:
        raise DataError(f"{path} is not a readable JSON file ({error})") from error


def _one_column(path: Path, data: Any, column: str) -> Content:
    """A dict of network -> number, or a list by index."""
    if isinstance(data, list | np.ndarray):
        data = dict(enumerate(data))
    if not isinstance(data, Mapping) or not data:
        raise DataError(f"{path} holds {type(data).__name__}, expected a dict of network -> number")
    try:
        numbers = np.array([float(value) for value in data.values()])
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {error}; expected a dict of network -> number") from error
    return Content(list(data), {column: numbers})


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
