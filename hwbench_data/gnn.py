"""NAS-Bench-Graph through its package `nas-bench-graph`: graph networks, their accuracy and latency on nine datasets.

A network has four nodes with one operation each; a node reads the input (0) or an earlier node, and what nothing reads
is the output. The package's files are pickles, read here without running or importing any of it.
Source: Qin et al., NAS-Bench-Graph, NeurIPS 2022.
"""

import importlib.util
import itertools
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cosearch.errors import DataError
from cosearch.unpickling import load_plain
from hwbench_data.store import ANY, SOURCES, Card, Column, Floats, Key, Metric

PACKAGE, MODULE = "nas-bench-graph", "nas_bench_graph"
INSTALL = "pip install 'cosearch[gnn]'"
DATASETS = ("cora", "citeseer", "pubmed", "cs", "physics", "photo", "computers", "arxiv", "proteins")
LINKS = ("0,0,0,0", "0,0,0,1", "0,0,1,1", "0,0,1,2", "0,0,1,3", "0,1,1,1", "0,1,1,2", "0,1,2,2", "0,1,2,3")
OPERATIONS = ("gat", "gcn", "gin", "cheb", "sage", "arma", "graph", "fc", "skip")
DEVICE = "gpu-published"
_FIELDS: dict[str, tuple[str, float]] = {
    "accuracy": ("perf", 1.0),
    "valid_accuracy": ("valid_perf", 1.0),
    "latency_ms": ("latency", 1e3),
    "params": ("para", 1e6),
}
"""Metric -> the package's field, and the factor to our unit."""

CARD = Card(
    "gnn",
    "NAS-Bench-Graph: 26,206 graph networks on nine datasets, from the package nas-bench-graph",
    {"kind": "gnn", "count": 26206},
    {
        "accuracy": Metric("fraction", "higher", "test performance (proteins: area under the ROC curve)"),
        "valid_accuracy": Metric("fraction", "higher", "validation performance"),
        "latency_ms": Metric("ms", "lower", "latency as published, on the authors' GPU"),
        "params": Metric("weights", "lower", "parameters"),
    },
    {DEVICE: {"title": "the authors' GPU", "source": "published"}},
    {"dataset": DATASETS},
    {"command": INSTALL, "source": f"package {PACKAGE}", "licence": "Apache-2.0"},
    (
        "The package states no unit of latency; its figures are read as seconds, parameters as millions.",
        "proteins has 2,021 networks, made of five operations.",
    ),
    {},
)


def data_folder() -> Path | None:
    """The package's data, or None where it is not installed; nothing of it is imported."""
    found = importlib.util.find_spec(MODULE)
    return Path(found.origin).parent / "light" if found is not None and found.origin else None


class GraphFigures:
    """The package's figures in the form of a table's store; each dataset is read when it is asked for."""

    card = CARD

    def __init__(self) -> None:
        folder = data_folder()
        if folder is None:
            raise DataError(f"table gnn comes from the package {PACKAGE}, which is not installed: {INSTALL}")
        self.folder = folder
        self._files: dict[str, tuple[list[int], dict[str, Floats]]] = {}

    @cached_property
    def groups(self) -> dict[Key, int]:
        keys = itertools.product(_FIELDS, DATASETS)
        return {
            (DEVICE if metric == "latency_ms" else ANY, metric, dataset): i for i, (metric, dataset) in enumerate(keys)
        }

    @cached_property
    def _place(self) -> dict[int, int]:
        codes, _ = self._dataset(DATASETS[0])
        return {code: i for i, code in enumerate(codes)}

    def labels(self) -> list[str]:
        """Notations ``0,0,1,2|gat,gcn,gin,fc``: what each node reads, and its operation. In the package's order."""
        try:
            return [_label(code) for code in self._place]
        except IndexError as error:
            raise self._strange(DATASETS[0], error) from error

    def column(self, key: Key, size: int) -> Column | None:
        """Raises: DataError for a file that is missing or damaged."""
        if key not in self.groups:
            return None
        _, metric, dataset = key
        field, factor = _FIELDS[metric]
        codes, figures = self._dataset(dataset)
        values = np.full(size, np.nan)
        try:
            values[[self._place[code] for code in codes]] = figures[field] * factor
        except KeyError as error:
            raise self._strange(dataset, error) from error
        return Column(values, np.full(size, SOURCES.index("published"), np.int8))

    def _path(self, dataset: str) -> Path:
        return self.folder / f"{dataset}.bench"

    def _strange(self, dataset: str, error: Exception) -> DataError:
        return DataError(f"{self._path(dataset)} is not {PACKAGE}'s ({error!r}): reinstall {PACKAGE}")

    def _dataset(self, dataset: str) -> tuple[list[int], dict[str, Floats]]:
        """The package's keys of networks [n], and each of its fields [n]."""
        if dataset not in self._files:
            path = self._path(dataset)
            try:
                records = load_plain(path.read_bytes(), f"{PACKAGE}'s data", arrays=True, installed=True)
                figures = {
                    field: np.array([float(record[field]) for record in records.values()])
                    for field, _ in _FIELDS.values()
                }
                self._files[dataset] = [int(code) for code in records], figures
            except OSError as error:
                raise DataError(f"cannot read {path} ({error.strerror}): reinstall {PACKAGE}") from None
            except DataError as error:
                raise DataError(f"{path} {error}; reinstall {PACKAGE}") from None
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise self._strange(dataset, error) from error
        return self._files[dataset]

    def arrow(self) -> Any:
        """Everything in long form."""
        import pyarrow as pa

        names, columns = self.labels(), {key: self.column(key, len(self._place)) for key in self.groups}
        rows = [
            (i, *key, float(column.values[i]), "published")
            for key, column in columns.items()
            if column is not None
            for i in np.flatnonzero(~np.isnan(column.values)).tolist()
        ]
        header = ("network", "device", "metric", "dataset", "value", "source")
        return pa.table(dict(zip(header, zip(*rows, strict=True), strict=True))) if names else pa.table({})


def _label(code: int) -> str:
    """The package's key is links, then operations, as digits of base one more than there are operations."""
    base = len(OPERATIONS) + 1
    digits = []
    for _ in range(4):
        code, digit = divmod(code, base)
        digits.append(OPERATIONS[digit])
    return f"{LINKS[code]}|{','.join(reversed(digits))}"
