"""How a table names its networks: by index, by notation, by arch; and which of them are the same network."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cosearch.errors import ConfigError
from search_spaces.decisions import Arch
from search_spaces.networks import nasbench201

Ints = npt.NDArray[np.int64]
Network = int | str | Mapping[str, Any]
"""An index, a notation such as ``|op~0|+...``, or an arch."""


class Networks(Protocol):
    """The rows of a table."""

    def __len__(self) -> int: ...

    def index(self, network: Network) -> int:
        """Raises: ConfigError or UnknownNameError for a network that the table does not have."""
        ...

    def label(self, index: int) -> str:
        """The notation of a network."""
        ...

    def arch(self, index: int) -> Arch:
        """The decisions of a network."""
        ...

    @property
    def classes(self) -> Ints:
        """[networks] equal for networks that are the same up to isomorphism."""
        ...


class Cells:
    """The cells of NAS-Bench-201 by published index."""

    def __len__(self) -> int:
        return nasbench201.SIZE

    def index(self, network: Network) -> int:
        if isinstance(network, str):
            network = nasbench201.from_string(network)
        if isinstance(network, Mapping):
            _SPACE.check(network)
            return nasbench201.index_of(network)
        return checked_index(network, len(self), "NAS-Bench-201")

    def label(self, index: int) -> str:
        return nasbench201.to_string(self.arch(index))

    def arch(self, index: int) -> Arch:
        return nasbench201.cell(index)

    @cached_property
    def classes(self) -> Ints:
        keys = [nasbench201.function_class(self.arch(i)) for i in range(len(self))]
        return np.unique(np.array(keys), return_inverse=True)[1].astype(np.int64)


_SPACE = nasbench201.space()


def checked_index(network: Any, size: int, name: str) -> int:
    """An index as a Python integer.

    Raises: ConfigError if it is none, or out of range.
    """
    if not isinstance(network, int | np.integer) or isinstance(network, bool):
        raise ConfigError(f"network {str(network)[:60]!r}: expected an index, a notation or an arch")
    if not 0 <= network < size:
        raise ConfigError(f"index {network}: {name} has networks 0 to {size - 1}")
    return int(network)


def indices(networks: Networks, wanted: "Sequence[Network] | Ints") -> Ints:
    """[n] indices of many networks; arrays of integers are checked at once.

    Raises: what `Networks.index` raises.
    """
    if isinstance(wanted, np.ndarray) and np.issubdtype(wanted.dtype, np.integer):
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < len(networks)):
            outside = wanted[(wanted < 0) | (wanted >= len(networks))][0]
            networks.index(int(outside))
        return wanted.astype(np.int64, copy=False)
    return np.array([networks.index(network) for network in wanted], np.int64)
