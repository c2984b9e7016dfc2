"""The measured device of the tables: a real processor; of cells a sample is timed and the rest predicted."""

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cosearch.errors import DataError
from hwbench_data.measuring import Protocol, machine, measure
from hwbench_data.networks import Cells
from hwbench_data.onnxnet import onnx_model
from hwbench_data.store import SOURCES, Floats, Ints
from search_spaces.networks import nasbench201 as nb

NAME = "cpu-x86"
FILE = "cpu_measured.parquet"
AGAIN = 100
"""Networks measured a second time at the end, which says how far figures can be trusted."""
DEGREE, FOLDS, BLOCK = 2, 5, 100


@dataclass(frozen=True)
class Sample:
    """Rows of a measuring session, in its order: [rows] arrays. again: second measurement of a network."""

    network: Ints
    side: Ints
    latency_ms: Floats
    low_ms: Floats
    high_ms: Floats
    runs: Ints
    dropped: Ints
    measured: Ints
    again: Ints
    load: Floats

    def of(self, side: int, again: int = 0) -> tuple[Ints, Floats]:
        """Networks that were measured with certainty at one input size, and their latencies."""
        rows = np.flatnonzero((self.side == side) & (self.measured == 1) & (self.again == again))
        return self.network[rows], self.latency_ms[rows]


def measure_sample(
    count: int, seed: int, sides: tuple[int, ...], classes: int, progress: Callable[[str], None]
) -> Sample:
    """Time `count` cells of different classes at every input size on this machine, then some of them again.

    Raises: ConfigError if onnxruntime is missing.
    """
    spaces = {side: nb.space((3, side, side), classes) for side in sides}
    rng = np.random.default_rng([seed, 201])
    order = rng.permutation(nb.SIZE)
    first = np.sort(np.unique(Cells().classes[order], return_index=True)[1])
    chosen = order[first][:count]
    rows: list[tuple[float, ...]] = []
    for again, cells in ((0, chosen), (1, rng.permutation(chosen)[:AGAIN])):
        start = time.monotonic()

        def models(cells: Ints = cells) -> Iterator[tuple[str, bytes]]:
            for cell, side in itertools.product(cells.tolist(), sides):
                yield f"{cell} {side}", onnx_model(spaces[side].workload(nb.cell(cell)), nb.NasBench201Space.rectified)

        for at, result in enumerate(measure(models()), start=1):
            cell, side = map(int, result.name.split())
            figures = (result.median_ms, result.low_ms, result.high_ms, result.runs, result.dropped, result.measured)
            rows.append((cell, side, *figures, again, os.getloadavg()[0]))
            if at % 100 == 0:
                progress(f"{NAME}: {at} of {len(cells) * len(sides)}, {time.monotonic() - start:.0f} s")
    return Sample(*(np.array(column) for column in zip(*rows, strict=True)))


def write_sample(path: Path, sample: Sample) -> None:
    write_rows(path, vars(sample))


def read_sample(path: Path) -> tuple[Sample, dict[str, str]]:
    """A session's rows, and the machine and protocol that they belong to.

    Raises: DataError if the file is missing or damaged.
    """
    rows, session = read_rows(path, tuple(Sample.__dataclass_fields__))
    return Sample(**rows), session


def write_rows(path: Path, columns: Mapping[str, Any], more: Mapping[str, str] | None = None) -> None:
    """Measurements of this machine. more: what else there is to say about the session."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    facts = {**{name: str(value) for name, value in machine().items()}, "protocol": str(Protocol()), **(more or {})}
    table = pa.table(dict(columns)).replace_schema_metadata(facts)
    pq.write_table(table, path, compression="zstd")


def read_rows(path: Path, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Columns of a file of measurements as arrays, and its session.

    Raises: DataError if the file is missing or damaged.
    """
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        columns = {name: np.array(table[name].to_pylist()) for name in names}
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path} holds no measurements ({error}): measure again with --measure") from error
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    return columns, {key: value for key, value in metadata.items() if not key.startswith("ARROW")}


def column(sample: Sample, side: int, features: Ints) -> tuple[Floats, Any]:
    """[networks] latency, measured where a network of the same class was, predicted elsewhere; and the sources.

    features: [networks, features] what the prediction goes by, equal for networks of one class.
    """
    same = Cells().same
    networks, latency = sample.of(side)
    fitted = _fit(features[networks], latency)
    values = fitted(features)
    sources = np.full(len(values), SOURCES.index("predicted"), np.int8)
    measured = dict(zip(same[networks].tolist(), latency.tolist(), strict=True))
    known = np.array([measured.get(label, np.nan) for label in same.tolist()])
    has = np.isfinite(known)
    values[has] = known[has]
    sources[has] = SOURCES.index("measured")
    return values, sources


def facts(sample: Sample, side: int, features: Ints) -> dict[str, float]:
    """How good the figures of one input size are; all errors are relative.

    held_out: of predicted networks, each left out of the fit once. repeated: between two measurements of one network.
    drift: how far blocks of a hundred networks, measured one after the other in random order, lie off the fit.
    """
    networks, latency = sample.of(side)
    error = np.empty(len(latency))
    fold = np.arange(len(latency)) % FOLDS
    for i in range(FOLDS):
        inside, outside = fold != i, fold == i
        error[outside] = _fit(features[networks[inside]], latency[inside])(features[networks[outside]])
    error = error / latency - 1
    residual = latency / _fit(features[networks], latency)(features[networks]) - 1
    blocks = [np.median(residual[at : at + BLOCK]) for at in range(0, len(residual), BLOCK)]
    first = dict(zip(networks.tolist(), latency.tolist(), strict=True))
    repeats = [
        abs(ms / first[n] - 1) for n, ms in zip(*map(np.ndarray.tolist, sample.of(side, 1)), strict=True) if n in first
    ]
    asked = (sample.side == side) & (sample.again == 0)
    found = {
        "measured_networks": float(len(networks)),
        "refused_networks": float((asked & (sample.measured == 0)).sum()),
        "held_out_mean_error": float(np.abs(error).mean()),
        "held_out_p95_error": float(np.quantile(np.abs(error), 0.95)),
        "drift": float(np.abs(blocks).max()),
        "mean_load": float(sample.load[asked].mean()),
    }
    if repeats:
        found |= {"repeated_median_error": float(np.median(repeats)), "repeated_networks": float(len(repeats))}
    return {name: round(value, 4) for name, value in found.items()}


def _fit(features: Ints, latency: Floats) -> Callable[[Ints], Floats]:
    """A quadratic in the features by least squares of relative errors; never below the fastest network measured."""
    design = _terms(features)
    weights = np.linalg.lstsq(design / latency[:, None], np.ones(len(latency)), rcond=1e-10)[0]
    least = latency.min()
    return lambda other: np.maximum(_terms(other) @ weights, least)


def _terms(features: Ints) -> Floats:
    """[networks, terms]: products of up to `DEGREE` features, the constant among them."""
    count = features.shape[1]
    groups = (
        group for degree in range(DEGREE + 1) for group in itertools.combinations_with_replacement(range(count), degree)
    )
    return np.stack([features[:, list(group)].prod(axis=1) for group in groups], axis=1).astype(float)
