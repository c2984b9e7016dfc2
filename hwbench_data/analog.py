"""CIFAR-10 accuracies of the NAS-Bench-201 cells, from the data file of the package analog-nasbench.

The package trained every cell and evaluated it in floating point, quantised, and on a simulated analog in-memory
device, fresh and after its weights have drifted. Its file is a pickle, read here without running or importing any of
the package. Source: AnalogNAS-Bench, 2025; 15,625 records.
"""

import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from cosearch.errors import DataError, UnknownNameError, nearest
from cosearch.unpickling import load_plain
from search_spaces.networks import nasbench201

Floats = npt.NDArray[np.float64]

PACKAGE, MODULE = "analog-nasbench", "analognasbench"
INSTALL = "pip install 'cosearch[nasbench201]'"
_OPERATIONS = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
"""What the package's operation ids 0 to 4 mean."""
_EDGES = ("0-1", "0-2", "0-3", "1-2", "1-3", "2-3")
_CLASSES = ((f"{MODULE}.data", "Architecture"), (f"{MODULE}.data", "DriftMeasurement"))

_PLAIN = {
    "cifar10_accuracy": "baseline_accuracy",
    "cifar10_accuracy_ptq": "ptq_accuracy",
    "cifar10_accuracy_qat": "qat_accuracy",
    "cifar10_accuracy_noisy": "noisy_accuracy",
    "cifar10_accuracy_analog": "analog_accuracy",
}
_AGES = {"60s": 60, "1h": 3600, "1d": 86400, "30d": 2592000}
_DRIFTED = {
    **{f"cifar10_accuracy_noisy_drift_{age}": f"baseline_drift_{seconds}" for age, seconds in _AGES.items()},
    **{f"cifar10_accuracy_analog_drift_{age}": f"analog_drift_{seconds}" for age, seconds in _AGES.items()},
}
_METRICS = {
    "cifar10_accuracy": "float network",
    "cifar10_accuracy_ptq": "quantised after training",
    "cifar10_accuracy_qat": "trained with quantisation",
    "cifar10_accuracy_noisy": "float training, then on the simulated analog device",
    "cifar10_accuracy_analog": "trained with the analog device's noise, then on it",
    **{f"cifar10_accuracy_noisy_drift_{age}": f"float training, on the analog device for {age}" for age in _AGES},
    **{f"cifar10_accuracy_analog_drift_{age}": f"analog training, on the analog device for {age}" for age in _AGES},
    **{f"{name}_std": "spread of the repeated evaluations, as the package gives it" for name in _DRIFTED},
}
METRICS: MappingProxyType[str, str] = MappingProxyType(_METRICS)
"""Metric -> what was evaluated; all are fractions of the CIFAR-10 test images."""


def data_file() -> Path | None:
    """The package's data file, or None where the package is not installed; nothing of it is imported."""
    found = importlib.util.find_spec(MODULE)
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "data.anb"


def installed() -> bool:
    """Whether the accuracies can be read."""
    path = data_file()
    return path is not None and path.is_file()


def missing(metric: str) -> DataError:
    """What to tell who asks for an accuracy without the package."""
    return DataError(f"{metric} comes from the package {PACKAGE}, which is not installed: {INSTALL}")


def accuracies(metric: str = "cifar10_accuracy") -> Floats:
    """[15,625] fractions, by published index, each cell as it was trained: isomorphic ones differ by training noise.

    Raises: UnknownNameError for a metric that is not among `METRICS`; DataError if the package is not installed or its
    file is damaged.
    """
    if metric not in METRICS:
        raise UnknownNameError(f"unknown accuracy {metric!r}: {nearest(metric, METRICS)}")
    path = data_file()
    if path is None or not path.is_file():
        raise missing(metric)
    return _column(path, metric)


def of_cells(metrics: Sequence[str], cells: npt.NDArray[np.int64]) -> dict[str, Floats]:
    """Metric -> [n], the same for a few cells by published index, without reading the metric of all others."""
    path = data_file()
    if path is None or not path.is_file():
        raise missing(metrics[0])
    records = _records(path)
    return {metric: _fractions(path, metric, [records[i] for i in cells.tolist()]) for metric in metrics}


@lru_cache(maxsize=len(_METRICS))
def _column(path: Path, metric: str) -> Floats:
    return _fractions(path, metric, _records(path))


def _fractions(path: Path, metric: str, records: Sequence[Any]) -> Floats:
    try:
        column = np.array([_value(record, metric) for record in records], float)
        if not ((column >= 0) & (column <= 100)).all():
            raise ValueError(f"{metric} leaves 0 to 100 percent")
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is not {PACKAGE}'s data file ({type(error).__name__}: {error}): reinstall {PACKAGE}"
        ) from error
    fractions = column / 100
    fractions.flags.writeable = False
    return fractions


def _value(record: Any, metric: str) -> float:
    if metric in _PLAIN:
        return float(getattr(record, _PLAIN[metric]))
    name = metric.removesuffix("_std")
    measurement = getattr(record, _DRIFTED[name])
    return float(measurement.value if name == metric else measurement.uncertainty)


@lru_cache(maxsize=1)
def _records(path: Path) -> list[Any]:
    """The package's records, by published index."""
    try:
        records = load_plain(path.read_bytes(), f"{PACKAGE}'s data file", records=_CLASSES, installed=True)
        return [records[key] for key in _keys()]
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): reinstall {PACKAGE}") from None
    except DataError as error:
        raise DataError(f"{path} {error}; reinstall {PACKAGE}") from None
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} lacks the cell {error}: reinstall {PACKAGE}") from error


def _keys() -> list[tuple[int, ...]]:
    """The package's key of each cell, by published index."""
    ids = {operation: i for i, operation in enumerate(_OPERATIONS)}
    places = [nasbench201.NAMES.index(edge) for edge in _EDGES]
    return [tuple([ids[operations[at]] for at in places]) for operations in nasbench201.published_cells()]
