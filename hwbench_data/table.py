"""A benchmark table and what can be asked of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cosearch.errors import UnknownNameError, nearest
from hwbench_data import analog
from hwbench_data.networks import Cells, Ints, Network, Networks, indices

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Table:
    """See `load`."""

    name: str
    networks: Networks

    def __len__(self) -> int:
        return len(self.networks)

    def accuracies(self, networks: Sequence[Network] | Ints, source: str = "cifar10_accuracy") -> Floats:
        """[n] accuracy as a fraction, one answer for isomorphic networks: the mean over their trainings.

        source: one of `hwbench_data.analog.METRICS`.
        Raises: DataError if the package that has them is not installed; UnknownNameError, ConfigError.
        """
        return _class_means(analog.accuracies(source), self.networks.classes)[indices(self.networks, networks)]


def _class_means(values: Floats, classes: Ints) -> Floats:
    """Each value replaced by the mean over its class."""
    return (np.bincount(classes, values) / np.bincount(classes))[classes]


_NETWORKS = {"nasbench201": Cells}


def load(name: str) -> Table:
    """A table by name.

    Raises: UnknownNameError with the nearest name.
    """
    if name not in _NETWORKS:
        raise UnknownNameError(f"unknown table {name!r}: {nearest(name, _NETWORKS)}")
    return Table(name, _NETWORKS[name]())
