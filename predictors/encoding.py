"""Networks as numbers: every predictor sees an arch through `features`.

A cell can hold edges that lie on no path from its input to its output. What they cost depends on who runs it, so there
are three views of a network: *built*, every edge as written, which an eager framework runs; *used*, without the edges
whose result nobody reads, which a compiler that drops dead code runs; *effective*, also without the edges that carry
only zeros: what the network computes, and what its accuracy follows. Parts are of the last if they name none.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise, product
from typing import Any

import numpy as np

from cosearch.errors import ConfigError, nearest
from cosearch.workload import KINDS, Layer
from predictors.base import Floats
from search_spaces.decisions import Arch

WIRES = ("none", "skip_connect", "skip")
"""Choices that compute nothing: a path passes through them, or ends at ``none``."""


def features(space: Any, archs: Sequence[Arch], parts: Sequence[str] | None = None) -> Floats:
    """[archs, d] the parts side by side, by default all that the space allows of ``one_hot, counts, workload, paths``.

    A part is ``name`` or ``name@view``.

    Raises: ConfigError for an unknown part or one that the space does not allow, or an arch of another space.
    """
    chosen = default_parts(space) if parts is None else tuple(parts)
    for part in chosen:
        if part not in known_parts():
            raise ConfigError(f"unknown features {part!r}: {nearest(part, known_parts())}")
    for arch in archs:
        space.check(arch)
    seen = {"built": list(archs)}
    blocks = []
    for part in chosen:
        name, _, view = part.partition("@")
        view = view or "effective"
        if view not in seen:
            seen[view] = [VIEWS[view](space, arch) for arch in archs]
        blocks.append(PARTS[name](space, seen[view]))
    return np.hstack(blocks) if blocks else np.empty((len(archs), 0))


def default_parts(space: Any) -> tuple[str, ...]:
    """The parts that a space allows, without those that cost more than a lookup."""
    workload = ("workload",) if hasattr(space, "layer_table") else ()
    return ("one_hot", "counts", *workload, *(("paths",) if cell_edges(space) else ()))


def views(space: Any) -> tuple[str, ...]:
    """The views of a network that differ in this space."""
    return tuple(VIEWS) if cell_edges(space) else ("effective",)


def known_parts() -> tuple[str, ...]:
    return (*PARTS, *(f"{part}@{view}" for part in PARTS for view in VIEWS))


def _effective(space: Any, arch: Arch) -> Arch:
    """The network without what does nothing, if the space can tell."""
    return dict(space.canonical(arch)) if hasattr(space, "canonical") else arch


def _used(space: Any, arch: Arch) -> Arch:
    """The cell without the edges whose result nobody reads."""
    edges = cell_edges(space)
    if not edges:
        return arch
    names = tuple(space.choices)
    kept = _read(edges, tuple(str(arch[name]) for name in names))
    return {name: arch[name] if keep else "none" for name, keep in zip(names, kept, strict=True)}


@lru_cache(maxsize=1 << 16)
def _read(edges: tuple[tuple[int, int], ...], operations: tuple[str, ...]) -> tuple[bool, ...]:
    """Per edge: whether a path leads from its end to the output."""
    leading = {max(b for _, b in edges)}
    for (a, b), operation in sorted(zip(edges, operations, strict=True), reverse=True):
        if operation != "none" and b in leading:
            leading.add(a)
    return tuple(b in leading for _, b in edges)


VIEWS: dict[str, Callable[[Any, Arch], Arch]] = {
    "built": lambda space, arch: arch,
    "used": _used,
    "effective": _effective,
}


def cell_edges(space: Any) -> tuple[tuple[int, int], ...]:
    """The (from, to) edges of a cell space, whose decisions are called ``from-to``; () for any other."""
    edges = []
    for name in space.choices:
        ends = str(name).split("-")
        if len(ends) != 2 or not all(end.isdigit() for end in ends) or int(ends[0]) >= int(ends[1]):
            return ()
        edges.append((int(ends[0]), int(ends[1])))
    return tuple(edges)


def _one_hot(space: Any, archs: Sequence[Arch]) -> Floats:
    return np.asarray(space.one_hot(archs))


def _ordinal(space: Any, archs: Sequence[Arch]) -> Floats:
    """Each decision whose choices are numbers, as that number."""
    numbers = [n for n, options in space.choices.items() if all(isinstance(o, int | float) for o in options)]
    return np.array([[float(arch[n]) for n in numbers] for arch in archs]).reshape(len(archs), len(numbers))


def _counts(space: Any, archs: Sequence[Arch]) -> Floats:
    """How often each choice occurs, over all decisions."""
    column = {choice: i for i, choice in enumerate(dict.fromkeys(c for o in space.choices.values() for c in o))}
    out = np.zeros((len(archs), len(column)))
    for row, arch in enumerate(archs):
        for choice in arch.values():
            out[row, column[choice]] += 1.0
    return out


def _workload(space: Any, archs: Sequence[Arch]) -> Floats:
    """Per arithmetic kind MACs, bytes, outputs and layers; then the logarithms of all MACs, bytes, and their ratio."""
    if not hasattr(space, "layer_table"):
        raise ConfigError("this space has no layers, so no workload features")
    layers = space.layer_table()
    counts = np.asarray(space.counts(list(archs), layers), dtype=float)
    per_layer = np.array([_layer_features(layer) for layer in layers])
    totals = counts @ per_layer
    size = len(WORKLOAD_FEATURES)
    macs, moved = totals[:, 0::size].sum(1), totals[:, 1::size].sum(1)
    logs = np.column_stack([np.log1p(macs), np.log1p(moved), np.log1p(macs) - np.log1p(moved)])
    used = per_layer.any(0)
    return np.hstack([totals[:, used], logs])


WORKLOAD_FEATURES = ("macs", "bytes", "outputs", "layers")


def _layer_features(layer: Layer) -> list[float]:
    moved = (
        layer.input_count * layer.input_bits + layer.output_count * layer.output_bits + layer.stored_weight_bits
    ) / 8
    own = (float(layer.macs), moved, float(layer.output_count), 1.0)
    return [value if layer.kind == kind else 0.0 for kind in KINDS for value in own]


def _paths(space: Any, archs: Sequence[Arch]) -> Floats:
    """How often each sequence of operations leads from a cell's input to its output, wires left out.

    Two isomorphic cells have equal rows. Source: the path encoding of White et al., BANANAS, AAAI 2021; ours counts
    paths and leaves wires out.
    """
    edges = _require_cell(space)
    _, column = _sequence_columns(space)
    out = np.zeros((len(archs), len(column)))
    names = tuple(f"{a}-{b}" for a, b in edges)
    for row, arch in enumerate(archs):
        for sequence in _sequences(edges, tuple(str(arch[name]) for name in names)):
            out[row, column[sequence]] += 1.0
    return out


def _sequence_columns(space: Any) -> tuple[tuple[str, ...], dict[tuple[str, ...], int]]:
    """The operations of a cell space that are no wires, and the column of each sequence of them."""
    operations = tuple(str(c) for c in dict.fromkeys(c for o in space.choices.values() for c in o) if c not in WIRES)
    sequences = _all_sequences(_require_cell(space), operations)
    return operations, {sequence: i for i, sequence in enumerate(sequences)}


@lru_cache(maxsize=16)
def _all_sequences(edges: tuple[tuple[int, int], ...], operations: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    longest = max(len(route) for route in _routes(edges))
    return tuple(s for length in range(longest + 1) for s in product(operations, repeat=length))


def _shape(space: Any, archs: Sequence[Arch]) -> Floats:
    """Of a cell's paths: how many, the longest and shortest in operations, and the widest parallel step."""
    edges = _require_cell(space)
    names = tuple(f"{a}-{b}" for a, b in edges)
    rows = []
    for arch in archs:
        lengths = [len(s) for s in _sequences(edges, tuple(str(arch[name]) for name in names))]
        known = lengths or [0]
        rows.append([len(lengths), max(known), min(known), float(np.mean(known)), float(bool(lengths))])
    return np.array(rows, dtype=float).reshape(len(rows), 5)


def _flow(space: Any, archs: Sequence[Arch]) -> Floats:
    """The path counts again, each path weighted by its share of the signal; then moments over the paths.

    Batch normalisation makes every convolution give unit variance, a skip gives what it gets, an average over pixels
    about half of it, and a node adds up: so each edge has a share of its node, and a path the product of its edges'
    shares. The moments: how often a path has each operation (mean, most, in how many paths); mean, variance and
    extremes of its depth; the share of paths that convolve nothing; the variance and the share that reach the output.
    Source: own derivation.
    """
    edges = _require_cell(space)
    operations, column = _sequence_columns(space)
    names = tuple(space.choices)
    out = np.array([_flow_row(edges, operations, tuple(str(arch[n]) for n in names)) for arch in archs])
    return out.reshape(len(archs), len(column) + FLOW_MOMENTS + 3 * len(operations))


FLOW_MOMENTS = 13
POOLED_VARIANCE = 0.5


@lru_cache(maxsize=1 << 16)
def _flow_row(
    edges: tuple[tuple[int, int], ...], operations: tuple[str, ...], chosen: tuple[str, ...]
) -> tuple[float, ...]:
    variance = {0: 1.0}
    given = {}
    for (a, b), operation in sorted(zip(edges, chosen, strict=True)):
        source = variance.get(a, 0.0)
        if operation == "none" or source == 0.0:
            given[a, b] = 0.0
        elif operation in WIRES:
            given[a, b] = source
        else:
            given[a, b] = POOLED_VARIANCE * source if "pool" in operation else 1.0
        variance[b] = variance.get(b, 0.0) + given[a, b]
    sequences = _all_sequences(edges, operations)
    row = dict.fromkeys(sequences, 0.0)
    shares, paths = [], []
    for route in _routes(edges):
        if any(chosen[i] == "none" for i in route):
            continue
        share = float(np.prod([given[edges[i]] / variance[edges[i][1]] for i in route]))
        path = tuple(chosen[i] for i in route if chosen[i] not in WIRES)
        row[path] += share
        shares.append(share)
        paths.append(path)
    weight = np.array(shares or [0.0])
    per_operation = np.array([[path.count(o) for o in operations] for path in paths or [()]], dtype=float)
    pools = per_operation[:, ["pool" in o for o in operations]].sum(1)
    depth = per_operation.sum(1) - pools
    mean = float(weight @ depth)
    moments = (
        *map(float, weight @ per_operation),
        mean,
        float(weight @ depth**2) - mean**2,
        float(depth.max()),
        float(depth.min()),
        float(pools.max()),
        float(pools.min()),
        float(weight @ (depth == 0)),
        float((depth == 0).sum()),
        float(((depth > 0) & (pools == 0)).any()),
        float(weight @ ((depth > 0) & (pools == 0))),
        variance.get(max(b for _, b in edges), 0.0),
        float(len(paths)),
        float(weight.sum()),
        *map(float, per_operation.max(0)),
        *map(float, (per_operation > 0).sum(0)),
    )
    return (*row.values(), *moments)


def _require_cell(space: Any) -> tuple[tuple[int, int], ...]:
    edges = cell_edges(space)
    if not edges:
        raise ConfigError("path features are of cell spaces, whose decisions are edges such as '0-1'")
    return edges


@lru_cache(maxsize=16)
def _routes(edges: tuple[tuple[int, int], ...]) -> tuple[tuple[int, ...], ...]:
    """Every path from the first node to the last, as indices of edges."""
    index = {edge: i for i, edge in enumerate(edges)}
    last = max(b for _, b in edges)

    def onward(node: int) -> list[list[int]]:
        if node == last:
            return [[]]
        return [[node, *rest] for a, b in edges if a == node for rest in onward(b)]

    return tuple(tuple(index[step] for step in pairwise([*nodes, last])) for nodes in onward(0))


@lru_cache(maxsize=1 << 16)
def _sequences(edges: tuple[tuple[int, int], ...], operations: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        tuple(operations[i] for i in route if operations[i] not in WIRES)
        for route in _routes(edges)
        if "none" not in (operations[i] for i in route)
    )


def _graph(space: Any, archs: Sequence[Arch]) -> Floats:
    """The operations as nodes: [decisions, choices + 2] what each is, whether it reads the input, whether it makes the
    output; then [decisions, decisions] who reads whom. In a space that is no cell each decision reads the one before.
    """
    options = {choice: i for i, choice in enumerate(dict.fromkeys(c for o in space.choices.values() for c in o))}
    edges = cell_edges(space) or tuple((i, i + 1) for i in range(len(space.choices)))
    last, count = max(b for _, b in edges), len(edges)
    out = np.zeros((len(archs), count, len(options) + 2 + count))
    kinds, reads = out[:, :, : len(options) + 2], out[:, :, len(options) + 2 :]
    for row, arch in enumerate(archs):
        for i, ((a, b), name) in enumerate(zip(edges, space.choices, strict=True)):
            choice = arch[name]
            if choice == "none":
                continue
            kinds[row, i, options[choice]] = 1.0
            kinds[row, i, -2:] = float(a == 0), float(b == last)
            for j, (c, _) in enumerate(edges):
                reads[row, i, j] = float(c == b)
    alive = np.asarray(kinds.any(2))
    reads *= alive[:, :, None] & alive[:, None, :]
    return np.hstack([kinds.reshape(len(archs), -1), reads.reshape(len(archs), -1)])


PARTS: dict[str, Callable[[Any, Sequence[Arch]], Floats]] = {
    "one_hot": _one_hot,
    "ordinal": _ordinal,
    "counts": _counts,
    "workload": _workload,
    "paths": _paths,
    "shape": _shape,
    "flow": _flow,
    "graph": _graph,
}
