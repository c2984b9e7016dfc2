"""Networks as numbers: every predictor sees an arch through `features`.

A cell can hold edges that lie on no path from its input to its output. What they cost depends on who runs it, so there
are three views of a network: *built*, every edge as written, which an eager framework runs; *used*, without the edges
whose result nobody reads, which a compiler that drops dead code runs; *effective*, also without the edges that carry
only zeros: what the network computes, and what its accuracy follows. Parts are of the last if they name none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cosearch.errors import ConfigError, nearest
from cosearch.workload import KINDS, Layer
from predictors.base import Floats, distinct
from search_spaces.decisions import Arch, arch_key

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
WIRES = ("none", "skip_connect", "skip")
"""Choices that compute nothing: a path passes through them, or ends at ``none``."""


@dataclass(frozen=True)
class Networks:
    """Networks of a space as [networks, decisions] indices of their choices."""

    space: Any
    codes: Ints

    def __len__(self) -> int:
        return len(self.codes)


def classes(space: Any, archs: Sequence[Arch]) -> Ints:
    """[n] a number of each network, equal for isomorphic ones."""
    same: Callable[[Arch], Arch] = getattr(space, "canonical", lambda arch: arch)
    return np.asarray(np.unique([arch_key(same(arch)) for arch in archs], return_inverse=True)[1])


def features(space: Any, archs: Sequence[Arch], parts: Sequence[str] | None = None) -> Floats:
    """[archs, d] the parts side by side, by default all that the space allows of ``one_hot, counts, workload, paths``.

    A part is ``name`` or ``name@view``; ``costs`` are of the cost model, which takes seconds to price a space once.

    Raises: ConfigError for an unknown part or one that the space does not allow, or an arch of another space.
    """
    chosen = default_parts(space) if parts is None else tuple(parts)
    for part in chosen:
        if part not in known_parts():
            raise ConfigError(f"unknown features {part!r}: {nearest(part, known_parts())}")
    built = Networks(space, codes(space, archs))
    seen = {"built": (built, np.arange(len(built)))}
    blocks = []
    for part in chosen:
        name, _, view = part.partition("@")
        view = view or "effective"
        if view not in seen:  # most networks share theirs with another: it is described once
            rows = VIEWS[view](built)
            first, of = distinct(rows.astype(float))
            seen[view] = (Networks(space, rows[first]), of)
        networks, of = seen[view]
        blocks.append(PARTS[name](networks)[of])
    return np.hstack(blocks) if blocks else np.empty((len(archs), 0))


def codes(space: Any, archs: Sequence[Arch]) -> Ints:
    """[archs, decisions] index of each choice: `encode` for many networks.

    Raises: ConfigError for an arch of another space.
    """
    try:
        if any(len(arch) != len(space.choices) for arch in archs):
            raise KeyError
        columns = []
        for name, options in space.choices.items():
            index = {option: i for i, option in enumerate(options)}
            columns.append([index[arch[name]] for arch in archs])
    except (KeyError, TypeError):
        for arch in archs:
            space.check(arch)
        raise
    return np.array(columns, dtype=np.int64).T.reshape(len(archs), len(space.choices))


def archs_of(networks: Networks) -> list[Arch]:
    """The inverse of `codes`."""
    options = list(networks.space.choices.items())
    return [{name: known[i] for i, (name, known) in zip(row, options, strict=True)} for row in networks.codes.tolist()]


def default_parts(space: Any) -> tuple[str, ...]:
    """The parts that a space allows, without those that cost more than a lookup."""
    workload = ("workload",) if hasattr(space, "layer_table") else ()
    return ("one_hot", "counts", *workload, *(("paths",) if cell_edges(space) else ()))


def views(space: Any) -> tuple[str, ...]:
    """The views of a network that differ in this space."""
    return tuple(VIEWS) if cell_edges(space) else ("effective",)


def known_parts() -> tuple[str, ...]:
    return (*PARTS, *(f"{part}@{view}" for part in PARTS for view in VIEWS))


def _effective(networks: Networks) -> Ints:
    """The network without what does nothing, if the space can tell."""
    space = networks.space
    if cell_edges(space):
        reached, leading = _reach(networks)
        return _without(networks, reached & leading)
    if not hasattr(space, "canonical"):
        return networks.codes
    return codes(space, [space.canonical(arch) for arch in archs_of(networks)])


def _used(networks: Networks) -> Ints:
    """The cell without the edges whose result nobody reads."""
    return _without(networks, _reach(networks)[1]) if cell_edges(networks.space) else networks.codes


def _reach(networks: Networks) -> tuple[Bools, Bools]:
    """[networks, edges] twice: whether what an edge reads comes from the input, and whether a path leads from it on."""
    edges = cell_edges(networks.space)
    live = ~_Operations.of(networks.space).none[np.arange(len(edges)), networks.codes]
    last = max(b for _, b in edges)
    reached, leading = np.zeros((2, len(networks), last + 1), dtype=bool)
    reached[:, 0] = leading[:, last] = True
    for i, (a, b) in sorted(enumerate(edges), key=lambda item: item[1]):
        reached[:, b] |= reached[:, a] & live[:, i]
    for i, (a, b) in sorted(enumerate(edges), key=lambda item: item[1], reverse=True):
        leading[:, a] |= leading[:, b] & live[:, i]
    return reached[:, [a for a, _ in edges]], leading[:, [b for _, b in edges]]


def _without(networks: Networks, kept: Bools) -> Ints:
    """Codes with ``none`` on the edges that are not kept, where the space has it there."""
    none = [options.index("none") if "none" in options else -1 for options in networks.space.choices.values()]
    return np.where(kept | (np.array(none) < 0), networks.codes, np.array(none))


VIEWS: dict[str, Callable[[Networks], Ints]] = {
    "built": lambda networks: networks.codes,
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


def _one_hot(networks: Networks) -> Floats:
    widths = [len(options) for options in networks.space.choices.values()]
    out = np.zeros((len(networks), sum(widths)))
    out[np.arange(len(networks))[:, None], np.cumsum([0, *widths[:-1]]) + networks.codes] = 1.0
    return out


def _ordinal(networks: Networks) -> Floats:
    """Each decision whose choices are numbers, as that number."""
    columns = [
        np.array(options, dtype=float)[networks.codes[:, i]]
        for i, options in enumerate(networks.space.choices.values())
        if all(isinstance(o, int | float) for o in options)
    ]
    return np.array(columns).T.reshape(len(networks), len(columns))


def _counts(networks: Networks) -> Floats:
    """How often each choice occurs, over all decisions."""
    return _counted(networks, _choice_columns(networks.space))


def _choice_columns(space: Any) -> dict[Any, int]:
    return {choice: i for i, choice in enumerate(dict.fromkeys(c for o in space.choices.values() for c in o))}


def _counted(networks: Networks, column: dict[Any, int]) -> Floats:
    out = np.zeros((len(networks), len(column)))
    rows = np.arange(len(networks))
    for i, options in enumerate(networks.space.choices.values()):
        out[rows, np.array([column[o] for o in options])[networks.codes[:, i]]] += 1.0
    return out


def _workload(networks: Networks) -> Floats:
    """Per arithmetic kind MACs, bytes, outputs and layers; then the logarithms of all MACs, bytes, and their ratio."""
    layers, counts = _layers(networks, "workload")
    per_layer = np.array([_layer_features(layer) for layer in layers])
    totals = counts @ per_layer
    size = len(WORKLOAD_FEATURES)
    macs, moved = totals[:, 0::size].sum(1), totals[:, 1::size].sum(1)
    logs = np.column_stack([np.log1p(macs), np.log1p(moved), np.log1p(macs) - np.log1p(moved)])
    used = per_layer.any(0)
    return np.hstack([totals[:, used], logs])


def _costs(networks: Networks) -> Floats:
    """Latency, ms, and energy, mJ, on the accelerators of `predictors.reference` by the cost model; then logarithms."""
    from predictors.reference import layer_costs

    layers, counts = _layers(networks, "cost")
    totals = counts @ layer_costs(layers)
    return np.hstack([totals, np.log(totals)])


def _layers(networks: Networks, what: str) -> tuple[tuple[Layer, ...], Floats]:
    """The layers of a space, and [networks, layers] how often each network has each.

    Raises: ConfigError if the space has none.
    """
    space = networks.space
    if not hasattr(space, "layer_table"):
        raise ConfigError(f"this space has no layers, so no {what} features")
    layers = tuple(space.layer_table())
    first, of = distinct(networks.codes.astype(float))
    counts = np.asarray(space.counts(archs_of(Networks(space, networks.codes[first])), layers), dtype=float)
    return layers, counts[of]


def rising(part: str, width: int) -> list[int]:
    """Per column of a part 1 if no cost falls with it by physics, 0 if it may: work of one kind does not come free.

    All but the last workload column are work; that one is arithmetic intensity.
    """
    return [1] * (width - 1) + [0] if part.partition("@")[0] == "workload" else [0] * width


WORKLOAD_FEATURES = ("macs", "bytes", "outputs", "layers")


def _layer_features(layer: Layer) -> list[float]:
    moved = (
        layer.input_count * layer.input_bits + layer.output_count * layer.output_bits + layer.stored_weight_bits
    ) / 8
    own = (float(layer.macs), moved, float(layer.output_count), 1.0)
    return [value if layer.kind == kind else 0.0 for kind in KINDS for value in own]


class _Operations:
    """The operations of a cell space that are no wires, by edge and choice.

    digit: [edges, choices] which operation it is, -1 for wires; none: [edges, choices] whether nothing passes.
    """

    def __init__(self, choices: tuple[tuple[Any, ...], ...]) -> None:
        self.names = tuple(str(c) for c in dict.fromkeys(c for o in choices for c in o) if c not in WIRES)
        shape = (len(choices), max(len(options) for options in choices))
        self.digit, self.none = np.full(shape, -1), np.zeros(shape, dtype=bool)
        for i, options in enumerate(choices):
            for j, option in enumerate(options):
                self.none[i, j] = option == "none"
                if option not in WIRES:
                    self.digit[i, j] = self.names.index(str(option))

    @staticmethod
    def of(space: Any) -> "_Operations":
        return _operations(tuple(map(tuple, space.choices.values())))

    @cached_property
    def pools(self) -> Bools:
        """[operations] whether it averages over pixels."""
        return np.array(["pool" in name for name in self.names], dtype=bool)


@lru_cache(maxsize=64)
def _operations(choices: tuple[tuple[Any, ...], ...]) -> _Operations:
    return _Operations(choices)


class _Paths(NamedTuple):
    """Of every path from input to output. open: [n, paths] whether all its edges pass; sequence: [n, paths] the column
    of its operations; counts: [n, paths, operations] how often it has each."""

    open: Bools
    sequence: Ints
    counts: Floats


def _paths_of(networks: Networks) -> _Paths:
    operations, routes = _Operations.of(networks.space), _routes(_require_cell(networks.space))
    edge = np.arange(networks.codes.shape[1])
    digit, none = operations.digit[edge, networks.codes], operations.none[edge, networks.codes]
    kinds = len(operations.names)
    open_, sequences = np.empty((len(networks), len(routes)), bool), np.empty((len(networks), len(routes)), np.int64)
    counts = np.zeros((len(networks), len(routes), kinds))
    # sequences are numbered by length, then as numbers whose digits are the operations
    first = np.cumsum([0, *(kinds**length for length in range(len(edge)))])
    for r, route in enumerate(routes):
        value, length = np.zeros((2, len(networks)), dtype=np.int64)
        for i in route:
            is_operation = digit[:, i] >= 0
            value = np.where(is_operation, value * kinds + digit[:, i], value)
            length += is_operation
            counts[:, r] += digit[:, i, None] == np.arange(kinds)
        sequences[:, r] = first[length] + value
        open_[:, r] = ~none[:, list(route)].any(1)
    return _Paths(open_, sequences, counts)


def _paths(networks: Networks) -> Floats:
    """How often each sequence of operations leads from a cell's input to its output, wires left out.

    Two isomorphic cells have equal rows. Source: the path encoding of White et al., BANANAS, AAAI 2021; ours counts
    paths and leaves wires out.
    """
    return _by_sequence(networks, _paths_of(networks), np.ones((1, 1)))


def _by_sequence(networks: Networks, paths: _Paths, weight: Floats) -> Floats:
    """[n, sequences] the weights [n, paths] of the open paths with each sequence of operations."""
    longest = max(len(route) for route in _routes(_require_cell(networks.space)))
    kinds = paths.counts.shape[2]
    out = np.zeros((len(networks), sum(kinds**length for length in range(longest + 1))))
    rows = np.arange(len(networks))
    given = np.where(paths.open, weight, 0.0)
    for r in range(paths.open.shape[1]):
        out[rows, paths.sequence[:, r]] += given[:, r]
    return out


def _shape(networks: Networks) -> Floats:
    """Of a cell's paths: how many, the longest and shortest in operations, their mean, and whether there is any."""
    paths = _paths_of(networks)
    length, count = paths.counts.sum(2), paths.open.sum(1)
    mean = np.where(paths.open, length, 0.0).sum(1) / np.maximum(count, 1)
    return np.column_stack([count, _most(length, paths.open), _least(length, paths.open), mean, count > 0])


def _most(values: Floats, of: Bools) -> Floats:
    """[n] largest of values [n, paths] that count, 0 if none does."""
    return np.where(of, values, 0.0).max(1)


def _least(values: Floats, of: Bools) -> Floats:
    return np.where(of.any(1), np.where(of, values, np.inf).min(1), 0.0)


def _flow(networks: Networks) -> Floats:
    """The path counts again, each path weighted by its share of the signal; then moments over the paths.

    Batch normalisation makes every convolution give unit variance, a skip gives what it gets, an average over pixels
    about half of it, and a node adds up: so each edge has a share of its node, and a path the product of its edges'
    shares. The moments: how often a path has each operation (mean, most, in how many paths); mean, variance and
    extremes of its depth; the share of paths that convolve nothing; the variance and the share that reach the output.
    Source: own derivation.
    """
    paths, operations = _paths_of(networks), _Operations.of(networks.space)
    share, output = _shares(networks)
    weight, is_open = np.where(paths.open, share, 0.0), paths.open
    pools = paths.counts[:, :, operations.pools].sum(2)
    depth = paths.counts.sum(2) - pools
    mean = (weight * depth).sum(1)
    # a cell without a path counts as one that convolves nothing
    shallow = np.where(is_open.any(1), (is_open & (depth == 0)).sum(1), 1)
    sharp = is_open & (depth > 0) & (pools == 0)
    moments = [
        *(weight[:, :, None] * paths.counts).sum(1).T,
        mean,
        (weight * depth**2).sum(1) - mean**2,
        _most(depth, is_open),
        _least(depth, is_open),
        _most(pools, is_open),
        _least(pools, is_open),
        (weight * (depth == 0)).sum(1),
        shallow,
        sharp.any(1),
        (weight * sharp).sum(1),
        output,
        is_open.sum(1),
        weight.sum(1),
        *(_most(count, is_open) for count in np.moveaxis(paths.counts, 2, 0)),
        *((is_open & (count > 0)).sum(1) for count in np.moveaxis(paths.counts, 2, 0)),
    ]
    return np.column_stack([_by_sequence(networks, paths, share), *moments])


POOLED_VARIANCE = 0.5


def _shares(networks: Networks) -> tuple[Floats, Floats]:
    """[n, paths] the share of the signal that each open path carries, and [n] the variance that reaches the output."""
    edges, operations = _require_cell(networks.space), _Operations.of(networks.space)
    edge = np.arange(len(edges))
    digit, none = operations.digit[edge, networks.codes], operations.none[edge, networks.codes]
    gain = np.where(operations.pools, POOLED_VARIANCE, 0.0)[digit]
    convolves = (digit >= 0) & ~operations.pools[digit]
    variance = np.zeros((len(networks), max(b for _, b in edges) + 1))
    variance[:, 0] = 1.0
    given = np.zeros((len(networks), len(edges)))
    for i, (a, b) in sorted(enumerate(edges), key=lambda item: item[1]):
        source = variance[:, a]
        passed = np.where(convolves[:, i], 1.0, np.where(digit[:, i] < 0, source, gain[:, i] * source))
        given[:, i] = np.where(none[:, i] | (source == 0), 0.0, passed)
        variance[:, b] += given[:, i]
    share = given / np.maximum(variance[:, [b for _, b in edges]], 1e-300)
    routes = _routes(edges)
    return np.column_stack([share[:, list(route)].prod(1) for route in routes]), variance[:, -1]


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


def _graph(networks: Networks) -> Floats:
    """The operations as nodes: [decisions, choices + 2] what each is, whether it reads the input, whether it makes the
    output; then [decisions, decisions] who reads whom. In a space that is no cell each decision reads the one before.
    """
    space, chosen = networks.space, networks.codes
    column = _choice_columns(space)
    edges = cell_edges(space) or tuple((i, i + 1) for i in range(len(space.choices)))
    last, count = max(b for _, b in edges), len(edges)
    kinds = np.zeros((len(networks), count, len(column) + 2))
    alive = np.ones((len(networks), count), dtype=bool)
    rows = np.arange(len(networks))
    for i, ((a, b), options) in enumerate(zip(edges, space.choices.values(), strict=True)):
        alive[:, i] = np.array([option != "none" for option in options])[chosen[:, i]]
        kinds[rows, i, np.array([column[option] for option in options])[chosen[:, i]]] = 1.0
        kinds[:, i, -2:] = float(a == 0), float(b == last)
    kinds *= alive[:, :, None]
    follows = np.array([[c == b for c, _ in edges] for _, b in edges], dtype=float)
    reads = follows * alive[:, :, None] * alive[:, None, :]
    return np.hstack([kinds.reshape(len(networks), -1), reads.reshape(len(networks), -1)])


PARTS: dict[str, Callable[[Networks], Floats]] = {
    "one_hot": _one_hot,
    "ordinal": _ordinal,
    "counts": _counts,
    "workload": _workload,
    "costs": _costs,
    "paths": _paths,
    "shape": _shape,
    "flow": _flow,
    "graph": _graph,
}
