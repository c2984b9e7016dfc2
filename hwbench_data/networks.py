"""How a table names its networks: by index, by notation, by arch; and which of them are the same network."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cosearch.errors import ConfigError, UnknownNameError, nearest
from search_spaces.decisions import Arch, parse_pairs
from search_spaces.networks import nasbench201

Ints = npt.NDArray[np.int64]
Network = int | str | Mapping[str, Any]
"""An index, also as text; a notation such as ``|op~0|+...`` or ``name=choice;...``; or an arch."""


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
    def same(self) -> Ints:
        """[networks] equal for networks that are one up to isomorphism: cost and accuracy have one answer."""
        ...

    @property
    def alike(self) -> Ints:
        """[networks] equal for networks that are one also where edges that lead nowhere are run: finer than `same`."""
        ...

    @property
    def classes(self) -> Ints:
        """[networks] equal for networks that must not be split: coarser than `same`."""
        ...

    @property
    def repeated(self) -> list[str]:
        """Names of networks that are listed more than once."""
        ...

    @property
    def cells(self) -> Ints | None:
        """[networks] the NAS-Bench-201 cell of each, -1 where there is none; None where no network has one."""
        ...

    @property
    def heavier(self) -> Ints:
        """[pairs, 2] (a network, one that differs by more operations of the same kind); what `bench check` holds."""
        ...


class Cells:
    """The cells of NAS-Bench-201 by published index."""

    def __len__(self) -> int:
        return nasbench201.SIZE

    def index(self, network: Network) -> int:
        network = _number(network)
        if isinstance(network, str):
            network = _cell(network)
        if isinstance(network, Mapping):
            _SPACE.check(network)
            return nasbench201.index_of(network)
        return checked_index(network, len(self), "NAS-Bench-201")

    def label(self, index: int) -> str:
        return nasbench201.to_string(self.arch(index))

    def arch(self, index: int) -> Arch:
        return nasbench201.cell(index)

    @cached_property
    def same(self) -> Ints:
        return _labelled([nasbench201.network_class(self.arch(i)) for i in range(len(self))])

    @cached_property
    def alike(self) -> Ints:
        cells = map(self.arch, range(len(self)))
        whole = [nasbench201.effective(cell) == cell for cell in cells]
        return np.where(whole, self.same, len(self) + np.arange(len(self)))

    @property
    def repeated(self) -> list[str]:
        """None: each has one index."""
        return []

    @cached_property
    def classes(self) -> Ints:
        return _labelled([nasbench201.function_class(self.arch(i)) for i in range(len(self))])

    @property
    def cells(self) -> Ints | None:
        """Each is itself."""
        return np.arange(len(self))

    @cached_property
    def heavier(self) -> Ints:
        """Cells with a 1x1 convolution on an edge, and the same with a 3x3 convolution there."""
        pairs = [
            (i, nasbench201.index_of({**cell, edge: "nor_conv_3x3"}))
            for i, cell in enumerate(map(nasbench201.cell, range(len(self))))
            for edge in nasbench201.NAMES
            if cell[edge] == "nor_conv_1x1"
        ]
        return np.array(pairs, np.int64)


_SPACE = nasbench201.space()


def _cell(text: str) -> Arch:
    """Raises: ConfigError or UnknownNameError for what is neither the published notation nor `notation`."""
    return parse_pairs(text) if "=" in text else nasbench201.from_string(text)


class Listed:
    """Networks that a table lists by their notation: ``name=choice;...`` of a space, or the key of a block."""

    def __init__(self, name: str, labels: list[str]) -> None:
        self.name, self._labels = name, labels

    def __len__(self) -> int:
        return len(self._labels)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {label: i for i, label in enumerate(self._labels)}

    def index(self, network: Network) -> int:
        if isinstance(network, Mapping):
            network = notation(network)
        if not self._numbered:
            network = _number(network)
        if isinstance(network, str):
            network = self._named(network)
        return checked_index(network, len(self), f"table {self.name}")

    @cached_property
    def _numbered(self) -> bool:
        """Whether a number as text can be a name."""
        return any(label.isdecimal() for label in self._labels)

    @cached_property
    def _arranged(self) -> dict[str, int]:
        return {_sorted(label): i for i, label in enumerate(self._labels)}

    def _named(self, text: str) -> int:
        found = self._index.get(text)
        if found is None:
            found = self._arranged.get(_sorted(text))  # the decisions of an arch come in any order
        if found is None:
            raise UnknownNameError(f"table {self.name} has no network {text[:80]!r}: {self._hint(text)}")
        return found

    def _hint(self, network: str) -> str:
        if len(self) <= 500:
            return nearest(network, self._labels)
        return f"it lists {len(self)} networks such as {self._labels[0][:80]!r}"

    def label(self, index: int) -> str:
        return self._labels[index]

    def arch(self, index: int) -> Arch:
        """Raises: ConfigError where networks are named by keys that are no decisions, such as graphs and blocks."""
        label = self._labels[index]
        if "=" not in label:
            raise ConfigError(
                f"network {label[:80]!r} of table {self.name} has no decisions: expected to go by its name"
            )
        return parse_pairs(label)

    @property
    def same(self) -> Ints:
        """No two networks are the same."""
        return np.arange(len(self))

    classes = alike = same

    @property
    def repeated(self) -> list[str]:
        """Also with their decisions in another order."""
        return [label for i, label in enumerate(self._labels) if self._first[_sorted(label)] != i]

    @cached_property
    def _first(self) -> dict[str, int]:
        """Where each network is listed first."""
        return {_sorted(label): i for i, label in reversed(list(enumerate(self._labels)))}

    @property
    def cells(self) -> Ints | None:
        """None: networks of other spaces."""
        return None

    @cached_property
    def heavier(self) -> Ints:
        """Networks that differ in one choice, whose operator is equal and whose kernel or expansion is larger."""
        pairs = []
        for i, label in enumerate(self._labels):
            for larger in _enlarged(label):
                if larger in self._index:
                    pairs.append((i, self._index[larger]))
        return np.array(pairs, np.int64).reshape(-1, 2)


_LARGER = {"k3": "k5", "e1": "e3", "e3": "e6"}


def _enlarged(label: str) -> Iterator[str]:
    """Notations with the next larger kernel or expansion at one place, ``k3_e1`` to ``k5_e1`` or ``k3_e3``."""
    for found in re.finditer(r"(?<![a-z0-9])(k3|e1|e3)(?![0-9])", label):
        yield label[: found.start()] + _LARGER[found.group()] + label[found.end() :]


def _labelled(keys: list[str]) -> Ints:
    """0, 1, ... for equal keys, in order of first appearance."""
    labels: dict[str, int] = {}
    return np.array([labels.setdefault(key, len(labels)) for key in keys], np.int64)


class Pairs(Listed):
    """Pairs of a network and an accelerator, ``space:network@accelerator``."""

    @cached_property
    def classes(self) -> Ints:
        """Pairs of one network belong together."""
        return _labelled([label.partition("@")[0] for label in self._labels])

    @cached_property
    def cells(self) -> Ints | None:
        """The cells of the pairs with a network of NAS-Bench-201."""
        parts = [label.partition("@")[0].split(":", 1) for label in self._labels]
        return np.array([int(network) if space == "nasbench201" else -1 for space, network in parts], np.int64)

    def arch(self, index: int) -> Arch:
        space, network = self._labels[index].partition("@")[0].split(":", 1)
        return nasbench201.cell(int(network)) if space == "nasbench201" else parse_pairs(network)


def notation(arch: Mapping[str, Any]) -> str:
    """``name=choice;name=choice`` in the arch's order."""
    return ";".join(f"{name}={choice}" for name, choice in arch.items())


def _sorted(text: str) -> str:
    """A notation with its decisions in order of their names."""
    return ";".join(sorted(text.split(";")))


_MOST_DIGITS = 18
"""Of an index as text; Python refuses to read or write much longer ones."""


def _number(network: Network) -> Network:
    """The index that a text such as ``5`` is; anything else as it is."""
    digits = network.strip() if isinstance(network, str) else ""
    return int(digits) if digits.isdecimal() and len(digits) <= _MOST_DIGITS else network


def extremes(groups: Ints, values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The least and the largest value of each group; groups: [n] numbers from 0, of values [n]."""
    count = int(groups.max(initial=-1)) + 1
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, groups, values)
    np.maximum.at(high, groups, values)
    return low, high


def checked_index(network: Any, size: int, name: str) -> int:
    """An index as a Python integer.

    Raises: ConfigError if it is none, or out of range.
    """
    if not isinstance(network, int | np.integer) or isinstance(network, bool):
        raise ConfigError(f"network {str(network)[:60]!r}: expected an index, a notation or an arch")
    if not 0 <= network < size:
        shown = network if abs(int(network)) < 10**_MOST_DIGITS else f"of more than {_MOST_DIGITS} digits"
        raise ConfigError(f"index {shown}: {name} has networks 0 to {size - 1}")
    return int(network)


def indices(networks: Networks, wanted: "Sequence[Network] | Ints") -> Ints:
    """[n] indices of many networks; arrays of integers are checked at once.

    Raises: what `Networks.index` raises; ConfigError for one network instead of a sequence.
    """
    if isinstance(wanted, str | Mapping) or not isinstance(wanted, Iterable) or getattr(wanted, "ndim", 1) == 0:
        raise ConfigError(f"networks {str(wanted)[:60]!r}: expected a sequence of them, also for a single one")
    if isinstance(wanted, list) and set(map(type, wanted)) == {int}:
        wanted = np.array(wanted)
    if isinstance(wanted, np.ndarray) and np.issubdtype(wanted.dtype, np.integer):
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < len(networks)):
            outside = wanted[(wanted < 0) | (wanted >= len(networks))][0]
            networks.index(int(outside))
        return wanted.astype(np.int64, copy=False)
    return np.array([networks.index(network) for network in wanted], np.int64)
