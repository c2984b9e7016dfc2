"""`nasbench201`: the 15,625 cells of NAS-Bench-201, stacked into one fixed macro.

A cell has four nodes; each of the six edges carries one of five operations and a node sums what reaches it. Three
stages of five cells (16, 32, 64 channels) follow a 3x3 stem; two residual blocks between them halve the image.
Hardware runs the *effective* cell: edges that lie on no path from the cell's input to its output do nothing.
Source: Dong and Yang, NAS-Bench-201, ICLR 2020.
"""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from cosearch.blueprint import Blueprint, Conv, Drawing, Norm, Pool, Sum, down
from cosearch.errors import ConfigError, UnknownNameError, nearest
from cosearch.workload import INPUT, Layer, count_layers
from search_spaces.decisions import Arch, Choice
from search_spaces.networks.space import NetworkSpace

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""(from, to) in the published order."""
NAMES = tuple(f"{a}-{b}" for a, b in EDGES)
SIZE = len(OPERATIONS) ** len(EDGES)
STEM_CHANNELS, STAGES, CELLS = 16, 3, 5
_PUBLISHED_SEED = 88
_PRICED = OPERATIONS[2:]
"""Operations that hardware runs; `none` and `skip_connect` are wires."""
_WIRE: Arch = {**dict.fromkeys(NAMES, "none"), "0-3": "skip_connect"}
_ONE_MORE: tuple[Arch, ...] = (
    *({**_WIRE, "0-3": operation} for operation in _PRICED),
    {**_WIRE, "0-1": "skip_connect", "1-3": "skip_connect"},
)
"""Cells with one priced operation, then with one addition, and nothing else."""


def to_string(arch: Mapping[str, Any]) -> str:
    """The published notation, ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``."""
    nodes = (
        "|" + "".join(f"{arch[name]}~{a}|" for name, (a, b) in zip(NAMES, EDGES, strict=True) if b == node)
        for node in (1, 2, 3)
    )
    return "+".join(nodes)


def from_string(text: str) -> Arch:
    """The inverse of `to_string`.

    Raises: ConfigError, or UnknownNameError for an operation that does not exist.
    """
    nodes = [[part.rsplit("~", 1) for part in node.split("|") if part] for node in text.strip().split("+")]
    if [[pair[-1] for pair in node] for node in nodes] != [["0"], ["0", "1"], ["0", "1", "2"]]:
        raise ConfigError(f"cell {text[:120]!r}: expected |op~0|+|op~0|op~1|+|op~0|op~1|op~2|")
    operations = [pair[0] for node in nodes for pair in node]
    for operation in operations:
        if operation not in OPERATIONS:
            raise UnknownNameError(f"unknown operation {operation[:40]!r}: {nearest(operation, OPERATIONS)}")
    return dict(zip(NAMES, operations, strict=True))


@lru_cache(maxsize=1)
def _published_order() -> tuple[int, ...]:
    """Of each published index its place in the product order of the choices."""
    order = list(range(SIZE))
    random.Random(_PUBLISHED_SEED).shuffle(order)
    return tuple(order)


@lru_cache(maxsize=1)
def published_cells() -> tuple[tuple[str, ...], ...]:
    """The operations of every cell, in the order of `NAMES`, by published index."""
    every = list(itertools.product(OPERATIONS, repeat=len(EDGES)))
    return tuple([every[place] for place in _published_order()])


@lru_cache(maxsize=1)
def _indices() -> dict[tuple[str, ...], int]:
    return {operations: i for i, operations in enumerate(published_cells())}


def cell(index: int) -> Arch:
    """The cell with a published index, 0 to 15,624.

    Raises: ConfigError if there is no such index.
    """
    if not 0 <= index < SIZE:
        raise ConfigError(f"index {index}: NAS-Bench-201 has networks 0 to {SIZE - 1}")
    return dict(zip(NAMES, published_cells()[index], strict=True))


def index_of(arch: Mapping[str, Any]) -> int:
    """The published index of a cell."""
    return _indices()[tuple(arch[name] for name in NAMES)]


def effective(arch: Mapping[str, Any]) -> Arch:
    """The cell with every edge that lies on no path from input to output set to ``none``."""
    operations = _effective(tuple(str(arch[name]) for name in NAMES))
    return dict(zip(NAMES, operations, strict=True))


def _effective(operations: tuple[str, ...]) -> tuple[str, ...]:
    used = _used(tuple(operation != "none" for operation in operations))
    return tuple(operation if kept else "none" for operation, kept in zip(operations, used, strict=True))


@lru_cache(maxsize=2 ** len(EDGES))
def _used(live: tuple[bool, ...]) -> tuple[bool, ...]:
    """[edges] which live edges lie on a path from input to output."""
    edges = [edge for edge, there in zip(EDGES, live, strict=True) if there]
    reached, leading = {0}, {3}
    for a, b in sorted(edges):
        if a in reached:
            reached.add(b)
    for a, b in sorted(edges, reverse=True):
        if b in leading:
            leading.add(a)
    return tuple(edge in edges and edge[0] in reached and edge[1] in leading for edge in EDGES)


def connected(arch: Mapping[str, Any]) -> bool:
    """Whether any path leads from the cell's input to its output."""
    return any(operation != "none" for operation in effective(arch).values())


def published_class(arch: Mapping[str, Any]) -> str:
    """NAS-Bench-201's own key of isomorphic cells; 6,466 of them.

    It writes a missing input as ``#`` and a skip as its source, so it tells apart some cells that differ only in dead
    edges, and not a shared edge from two equal ones. `function_class` is coarser.
    """
    nodes = ["0"]
    for node in (1, 2, 3):
        terms = []
        for source in range(node):
            operation, value = str(arch[f"{source}-{node}"]), nodes[source]
            if operation == "none" or value == "#":
                terms.append("#")
            else:
                terms.append(value if operation == "skip_connect" else f"({value})@{operation}")
        nodes.append("+".join(sorted(terms)))
    return nodes[-1]


def function_class(arch: Mapping[str, Any]) -> str:
    """A key equal for cells that compute the same expression, dead edges and skips removed; 4,930 of them.

    Every published class lies in one of these, so sets split by it share no isomorphic cells.
    """
    nodes: list[tuple[str, ...]] = [("0",)]
    for node in (1, 2, 3):
        terms: list[str] = []
        for source in range(node):
            terms.extend(_terms(arch[f"{source}-{node}"], nodes[source]))
        nodes.append(tuple(sorted(terms)))
    return "+".join(nodes[-1])


@lru_cache(maxsize=1024)
def _terms(operation: str, value: tuple[str, ...]) -> tuple[str, ...]:
    """What an edge adds to a sum. value: the terms of the node it comes from; all cells have 156 different ones."""
    if operation == "none" or not value:
        return ()
    return value if operation == "skip_connect" else (f"({'+'.join(value)})@{operation}",)


def network_class(arch: Mapping[str, Any]) -> str:
    """A key equal for cells that compute the same expression with the same operations; 5,425 of them.

    They are one network up to the order of nodes, so that cost and accuracy have one answer. `function_class` also
    joins cells of which one computes twice what the other computes once and uses twice.
    """
    return f"{function_class(arch)} {operation_counts(_effective(tuple(arch[name] for name in NAMES)))}"


def same_network(index: int) -> npt.NDArray[np.int64]:
    """The published indices of a cell's `network_class`, itself among them; other classes are not worked out."""
    counts = all_operation_counts()
    key = function_class(cell(index))
    alike = np.flatnonzero((counts == counts[index]).all(axis=1))
    return np.array([i for i in alike.tolist() if function_class(cell(i)) == key], np.int64)


@dataclass(frozen=True)
class NasBench201Space(NetworkSpace):
    """The cells for one input shape and number of classes; `nasbench201.space` makes it."""

    input_shape: tuple[int, int, int]
    num_classes: int

    @property
    def description(self) -> str:
        return "NAS-Bench-201 cells; each of six edges: none, skip, 1x1 or 3x3 convolution, or 3x3 average pooling"

    def published(self, text: str) -> Arch | None:
        """A cell by its published index or notation."""
        if text.isdecimal() and len(text) <= len(str(SIZE)):
            return cell(int(text))
        return from_string(text) if text.startswith("|") else None

    def blueprint(self, arch: Arch) -> Blueprint:
        """The effective cell, 15 times, and what is around it."""
        return _stack(effective(arch), self.input_shape, self.num_classes)

    @staticmethod
    def rectified(layer: Layer) -> bool:
        """Whether a rectifier stands in front of a layer of a workload: convolutions of cells and reductions have one.

        The stem, shortcuts and the classifier do not; the pooling before the classifier does.
        """
        return (layer.kind == "mac" and (".cell" in layer.name or ".conv_" in layer.name)) or layer.name == "pool"

    def canonical(self, arch: Arch) -> Arch:
        """The effective cell: archs with the same one are the same network."""
        return effective(arch)

    def demand_key(self, arch: Arch) -> tuple[tuple[int, ...], float]:
        """How often each operation occurs, and the bytes of activations alive at once."""
        return operation_counts(tuple(effective(arch).values())), self.live_activation_bytes(arch)

    def live_activation_bytes(self, arch: Arch) -> float:
        """That of its workload; which activations are alive is decided by where edges are wires, not by which
        operation the others carry.
        """
        wires = (op if op in ("none", "skip_connect") else "nor_conv_3x3" for op in effective(arch).values())
        return _live_activation_bytes(tuple(map(str, wires)), self.input_shape, self.num_classes)

    def covering(self) -> list[Arch]:
        """One network per operation that hardware runs, on every edge."""
        return [dict.fromkeys(NAMES, operation) for operation in _PRICED]

    def counts(self, archs: Sequence[Arch], layers: Sequence[Layer]) -> npt.NDArray[np.int64]:
        """[archs, layers]: how often each of `layers` occurs in each network.

        A network's layers follow from how many edges of each kind and how many additions its cell has, and each adds
        the same ones: so five networks tell of all.
        Raises: HardwareError if `layers` lacks one that a network has.
        """
        features = all_operation_counts()[np.array([index_of(arch) for arch in archs], np.int64)]
        base = np.array(count_layers(self.workload(_WIRE), layers), np.int64)
        per_feature = np.array(
            [
                np.array(count_layers(self.workload(example), layers), np.int64) - base if has.any() else 0 * base
                for example, has in zip(_ONE_MORE, features.T, strict=True)
            ]
        )
        return base + features @ per_feature


@lru_cache(maxsize=65536)
def _live_activation_bytes(operations: tuple[str, ...], input_shape: tuple[int, int, int], num_classes: int) -> float:
    cell = dict(zip(NAMES, operations, strict=True))
    return _stack(cell, input_shape, num_classes).workload("cell").live_activation_bytes


def operation_counts(operations: tuple[str, ...]) -> tuple[int, ...]:
    """(edges of each priced operation, additions) of an effective cell."""
    additions = _additions(tuple(operation != "none" for operation in operations))
    return (*(operations.count(operation) for operation in _PRICED), additions)


@lru_cache(maxsize=2 ** len(EDGES))
def _additions(live: tuple[bool, ...]) -> int:
    inputs = (sum(there and b == node for there, (_, b) in zip(live, EDGES, strict=True)) for node in (1, 2, 3))
    return sum(max(0, n - 1) for n in inputs)


@lru_cache(maxsize=1)
def all_operation_counts() -> npt.NDArray[np.int64]:
    """[15625, 4] `operation_counts` of every effective cell, by published index."""
    digits = np.stack(np.unravel_index(np.array(_published_order()), (len(OPERATIONS),) * len(EDGES)), axis=1)
    patterns = list(itertools.product((False, True), repeat=len(EDGES)))
    place = (digits > 0) @ (1 << np.arange(len(EDGES))[::-1])  # `none` is the first operation
    used = np.array([_used(pattern) for pattern in patterns])[place]
    additions = np.array([_additions(_used(pattern)) for pattern in patterns])[place]
    effective_digits = np.where(used, digits, 0)
    priced = [(effective_digits == OPERATIONS.index(operation)).sum(axis=1) for operation in _PRICED]
    counts = np.stack([*priced, additions], axis=1).astype(np.int64)
    counts.flags.writeable = False
    return counts


def _stack(arch: Arch, input_shape: tuple[int, int, int], num_classes: int) -> Blueprint:
    drawing = Drawing(input_shape)
    size, channels = (input_shape[1], input_shape[2]), STEM_CHANNELS
    last = drawing.add(Conv("stem", "conv", INPUT, input_shape[0], channels, size, 3, relu="none"))
    for stage in range(STAGES):
        if stage:
            last = _reduction(drawing, f"reduction{stage}", last, channels, size)
            size, channels = down(size, 2), 2 * channels
        for c in range(CELLS):
            last = _cell(drawing, f"stage{stage + 1}.cell{c + 1}", arch, last, channels, size)
    last = drawing.add(Norm("last", last, channels))
    return drawing.finish(last, num_classes, channels, size)


def _reduction(drawing: Drawing, prefix: str, last: int, channels: int, size: tuple[int, int]) -> int:
    """A residual block that halves the image and doubles the channels."""
    half, wide = down(size, 2), 2 * channels
    left = drawing.add(Conv(f"{prefix}.conv_a", "conv", last, channels, wide, half, 3, 2, relu="before"))
    left = drawing.add(Conv(f"{prefix}.conv_b", "conv", left, wide, wide, half, 3, relu="before"))
    right = drawing.add(Pool(f"{prefix}.pool", last, channels, half, (2, 2), 2))
    right = drawing.add(Conv(f"{prefix}.shortcut", "conv", right, channels, wide, half, relu="none"))
    return drawing.add(Sum(f"{prefix}.residual", (left, right), wide, half))


def _cell(drawing: Drawing, prefix: str, arch: Arch, last: int, channels: int, size: tuple[int, int]) -> int:
    nodes: list[int | None] = [last]
    for node in (1, 2, 3):
        reaching = []
        for source in range(node):
            operation, value = arch[f"{source}-{node}"], nodes[source]
            if operation == "none" or value is None:
                continue
            name = f"{prefix}.{source}-{node}"
            if operation == "avg_pool_3x3":
                value = drawing.add(Pool(name, value, channels, size, (3, 3)))
            elif operation != "skip_connect":
                kernel = 3 if operation == "nor_conv_3x3" else 1
                value = drawing.add(Conv(name, "conv", value, channels, channels, size, kernel, relu="before"))
            reaching.append(value)
        nodes.append(_sum(drawing, f"{prefix}.node{node}", reaching, channels, size))
    out = nodes[3]
    return out if out is not None else drawing.add(Sum(f"{prefix}.zeros", (), channels, size))


def _sum(drawing: Drawing, name: str, values: list[int], channels: int, size: tuple[int, int]) -> int | None:
    if len(values) < 2:
        return values[0] if values else None
    return drawing.add(Sum(name, tuple(values), channels, size))


def space(input_shape: tuple[int, int, int] = (3, 32, 32), num_classes: int = 10) -> NasBench201Space:
    """The NAS-Bench-201 space for images of (channels, height, width) and a number of classes.

    Raises: ConfigError if the image is smaller than 8x8.
    """
    if min(input_shape[1:]) < 8:
        raise ConfigError(f"images of {input_shape[1]}x{input_shape[2]}: the nasbench201 space starts at 8x8")
    choices: dict[str, tuple[Choice, ...]] = dict.fromkeys(NAMES, OPERATIONS)
    return NasBench201Space(choices, "nasbench201", input_shape, num_classes)
