"""The tiled array template: every mapping of a layer on a rows x cols array, its counts, and what survives.

The hierarchy: registers in the elements, an accumulator memory beside each column (weight-stationary only), a weight
buffer (W), an activation buffer (I and O), DRAM. The declared mapspace:

* DRAM loops: even tilings (divisors) of G, K, C and P; Q is tiled only where P is tiled down to one row. R and S stay
  whole. N is the outermost loop, G the next. C is the innermost loop, so partial sums never reach DRAM; around it the
  four orders of K, P, Q that differ in what stays: C Q P K, C P Q K, C K Q P, C K P Q (innermost first).
* weight-stationary: rows unroll C with none, R, S or both of the kernel loops, columns unroll K; groups go down the
  diagonal. Loops inside a tile, outermost first: G, K, chunks of P, C, R, S, then the pixels. A chunk is the largest
  divisor of the tile's rows that fits the accumulators.
* windowed (an option of weight-stationary arrays, for layers with one channel per group): each column keeps a window
  of R x S pixels that slides along Q; rows unroll R x S, columns unroll G.
* output-stationary: rows unroll P x Q (Q by a power of two or whole), columns unroll K, groups down the diagonal. Loops
  inside a tile, outermost first: G, K, P, Q, then C, R, S.

Group g and the channels inside it are loops of their own: K and C below are per group. What a mapping does (cycles,
words) is independent of prices, widths and capacities; only what fits depends on capacities, so footprints are
compared by the smallest capacity on offer that takes them, which loses nothing for a given list of capacities.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosearch.hardware.accelerator import Engine
from cosearch.hardware.kernels import undominated_tiles
from cosearch.hardware.mapping import LevelLoops, Mapping
from cosearch.workload import Layer

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ORDERS: tuple[tuple[str, ...], ...] = (
    ("C", "Q", "P", "K", "G", "N"),
    ("C", "P", "Q", "K", "G", "N"),
    ("C", "K", "Q", "P", "G", "N"),
    ("C", "K", "P", "Q", "G", "N"),
)


@dataclass(frozen=True)
class Bounds:
    """Loop bounds as the array sees them: K and C per group; rows of a matrix product (N) are pixels (P)."""

    N: int
    G: int
    K: int
    C: int
    P: int
    Q: int
    R: int
    S: int
    stride: tuple[int, int]
    dilation: tuple[int, int]

    @classmethod
    def of(cls, layer: Layer) -> "Bounds":
        n, p, stride = layer.N, layer.P, layer.stride
        if layer.P == layer.Q == layer.R == layer.S == 1:
            n, p, stride = 1, layer.N, (1, 1)
        groups = layer.groups
        return cls(
            n,
            groups,
            layer.K // groups,
            layer.C // groups,
            p,
            layer.Q,
            layer.R,
            layer.S,
            stride,
            layer.dilation,
        )

    @property
    def macs(self) -> int:
        return self.N * self.G * self.K * self.C * self.P * self.Q * self.R * self.S

    @property
    def weights(self) -> int:
        return self.G * self.K * self.C * self.R * self.S

    @property
    def outputs(self) -> int:
        return self.N * self.G * self.K * self.P * self.Q

    @property
    def inputs(self) -> int:
        """Distinct input values that the outputs read."""
        rows = edge(self.P, self.stride[0], self.R, self.dilation[0])
        cols = edge(self.Q, self.stride[1], self.S, self.dilation[1])
        return int(self.N * self.G * self.C * rows * cols)


def edge(outputs: int | Ints, stride: int, kernel: int, dilation: int) -> Ints:
    """Input rows (or columns) that `outputs` consecutive rows read, each counted once.

    ``p r - max(p - dilation, 0) max(r - stride, 0)``, stride and dilation in units of their greatest common divisor.
    """
    p, common = np.asarray(outputs, np.int64), math.gcd(stride, dilation)
    return p * kernel - np.maximum(p - dilation // common, 0) * max(kernel - stride // common, 0)


def slid(outputs: int | Ints, tile: int | Ints, stride: int, kernel: int, dilation: int) -> Ints:
    """Input rows fetched while a tile of output rows slides over `outputs` rows: the union, or, where the tile has gaps
    and does not overlap the next one, every tile in full.
    """
    t, common = np.asarray(tile, np.int64), math.gcd(stride, dilation)
    gaps = (t < dilation // common) | (kernel < stride // common)
    every = edge(t, stride, kernel, dilation) * (np.asarray(outputs, np.int64) // t)
    return np.where(gaps, every, edge(outputs, stride, kernel, dilation))


def divisors(n: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})


@dataclass(frozen=True)
class Tiles:
    """Tilings of the DRAM loops with their order: one array entry each.

    G, K, C, P, Q: tile sizes. order: index of the loop order. weight_words, input_words: DRAM words per layer.
    weight_tile, input_tile, output_tile: values in one tile.
    """

    G: Ints
    K: Ints
    C: Ints
    P: Ints
    Q: Ints
    order: Ints
    weight_words: Ints
    input_words: Ints
    weight_tile: Ints
    input_tile: Ints
    output_tile: Ints

    def __len__(self) -> int:
        return len(self.order)

    def take(self, index: Ints | NDArray[np.bool_]) -> "Tiles":
        return Tiles(**{name: getattr(self, name)[index] for name in self.__dataclass_fields__})


def enumerate_tiles(bounds: Bounds) -> Tiles:
    """Every tiling of the declared mapspace with every loop order, DRAM traffic counted.

    A tensor is fetched once per iteration of the DRAM loops, outermost down to the innermost loop that matters to it;
    along an innermost P or Q loop the input slides, so its halo is fetched once (costmodel: refetch, halo).
    """
    pq = [(p, bounds.Q) for p in divisors(bounds.P)] + [(1, q) for q in divisors(bounds.Q) if q < bounds.Q]
    grid = [
        (g, k, c, p, q)
        for g in divisors(bounds.G)
        for k in divisors(bounds.K)
        for c in divisors(bounds.C)
        for p, q in pq
    ]
    table = np.array(grid, np.int64)
    order = np.repeat(np.arange(len(ORDERS)), len(table))
    g, k, c, p, q = np.tile(table, (len(ORDERS), 1)).T
    weight_tile = g * k * c * bounds.R * bounds.S
    rows = edge(p, bounds.stride[0], bounds.R, bounds.dilation[0])
    cols = edge(q, bounds.stride[1], bounds.S, bounds.dilation[1])
    weight_words = np.empty_like(order)
    input_words = np.empty_like(order)
    for index, loops in enumerate(ORDERS):
        here = order == index
        size = {"G": g[here], "K": k[here], "C": c[here], "P": p[here], "Q": q[here], "N": np.ones(here.sum(), int)}
        trips = {name: getattr(bounds, name) // size[name] for name in size}
        weight_words[here] = weight_tile[here] * _refetch(loops, trips, "KCG")
        input_words[here] = _input_words(bounds, loops, trips, size, rows[here], cols[here])
    return Tiles(
        G=g,
        K=k,
        C=c,
        P=p,
        Q=q,
        order=order,
        weight_words=weight_words,
        input_words=input_words,
        weight_tile=weight_tile,
        input_tile=g * c * rows * cols,
        output_tile=g * k * p * q,
    )


def _refetch(loops: Sequence[str], trips: dict[str, Ints], relevant: str) -> Ints:
    """Product of the loops outside and including the innermost one that matters and iterates."""
    started = np.zeros(len(trips["N"]), bool)
    times = np.ones(len(trips["N"]), np.int64)
    for name in loops:
        if name in relevant:
            started |= trips[name] > 1
        times = np.where(started, times * trips[name], times)
    return times


def _input_words(
    bounds: Bounds, loops: Sequence[str], trips: dict[str, Ints], size: dict[str, Ints], rows: Ints, cols: Ints
) -> Ints:
    started = np.zeros(len(rows), bool)
    times = np.ones(len(rows), np.int64)
    for name in loops:
        iterates = trips[name] > 1
        if name in "PQ":
            first = iterates & ~started
            if name == "P":
                union = slid(bounds.P, size["P"], bounds.stride[0], bounds.R, bounds.dilation[0])
                rows = np.where(first, union, rows)
            else:
                union = slid(bounds.Q, size["Q"], bounds.stride[1], bounds.S, bounds.dilation[1])
                cols = np.where(first, union, cols)
            times = np.where(started, times * trips[name], times)
            started |= iterates
        else:
            if name != "K":
                started |= iterates
            times = np.where(started, times * trips[name], times)
    return times * size["G"] * size["C"] * rows * cols


def useful_tiles(
    bounds: Bounds, tiles: Tiles, layer: Layer, weight_bits: Sequence[int], activation_bits: Sequence[int]
) -> Tiles:
    """The tilings that some array, capacity and price may prefer.

    A tiling whose tile sizes divide another's, and that moves no fewer words and needs no smaller buffer on offer, is
    never better: every count inside the array is at most as high for the larger tile (ceil(m x) <= m ceil(x)).

    weight_bits, activation_bits: the capacities on offer, in bits.
    """
    weight_need, activation_need = footprints(bounds, tiles, layer)
    weight_class = np.searchsorted(np.sort(np.asarray(weight_bits)), weight_need)
    activation_class = np.searchsorted(np.sort(np.asarray(activation_bits)), activation_need)
    size = np.stack([tiles.G, tiles.K, tiles.C, tiles.P, tiles.Q], axis=1)
    cost = np.stack([weight_class, activation_class, tiles.weight_words, tiles.input_words], axis=1).astype(np.int64)
    # The largest tiles first: a dominating tiling is then always met before what it dominates.
    rank = np.lexsort((cost[:, 3] + cost[:, 2], -np.prod(size.astype(float), axis=1)))
    keep = undominated_tiles(np.ascontiguousarray(size[rank]), np.ascontiguousarray(cost[rank]))
    return tiles.take(np.sort(rank[keep]))


def footprints(bounds: Bounds, tiles: Tiles, layer: Layer) -> tuple[Floats, Ints]:
    """Bits that a tile takes in the weight buffer and in the activation buffer, both double-buffered.

    Outputs wait in accumulator width while C is split, in output width otherwise.
    """
    output_bits = np.where(tiles.C < bounds.C, layer.accumulator_bits, layer.output_bits)
    weights = np.asarray(2.0 * tiles.weight_tile * layer.weight_width)
    return weights, 2 * (tiles.input_tile * layer.input_bits + tiles.output_tile * output_bits)


@dataclass(frozen=True)
class Unrolling:
    """Spatial unrolling of each array configuration under one option: [option, configuration] factors."""

    G: Ints
    K: Ints
    C: Ints
    P: Ints
    Q: Ints
    R: Ints
    S: Ints
    window: NDArray[np.bool_]
    valid: NDArray[np.bool_]


def weight_stationary_unrollings(bounds: Bounds, rows: Ints, cols: Ints, windowed: NDArray[np.bool_]) -> Unrolling:
    kernels = sorted({(1, 1), (1, bounds.S), (bounds.R, 1), (bounds.R, bounds.S)})
    r, s = (np.array([kernel[i] for kernel in kernels])[:, None] for i in (0, 1))
    valid = r * s <= rows
    c = np.clip(rows // (r * s), 1, bounds.C)
    k = np.broadcast_to(np.minimum(bounds.K, cols), c.shape)
    g = np.clip(np.minimum(rows // (c * r * s), cols // k), 1, bounds.G)
    one = np.ones_like(c)
    plain = Unrolling(g, k, c, one, one, r * one, s * one, np.zeros(len(kernels), bool), valid)
    kernel = bounds.R * bounds.S
    if bounds.K > 1 or bounds.C > 1 or kernel == 1 or not windowed.any():
        return plain
    ones = np.ones((1, len(rows)), np.int64)
    window = Unrolling(
        np.minimum(bounds.G, cols)[None],
        *(ones, ones, ones, ones),
        bounds.R * ones,
        bounds.S * ones,
        np.ones(1, bool),
        (windowed & (kernel <= rows))[None],
    )
    names = Unrolling.__dataclass_fields__
    return Unrolling(*(np.concatenate([getattr(plain, name), getattr(window, name)]) for name in names))


def output_stationary_unrollings(bounds: Bounds, rows: Ints, cols: Ints) -> Unrolling:
    widths = sorted({w for w in (1, 2, 4, 8, 16, 32, 64, 128) if w < bounds.Q} | {bounds.Q})
    q = np.array(widths)[:, None]
    valid = q <= np.maximum(rows, 1)
    p = np.clip(rows // q, 1, bounds.P)
    k = np.broadcast_to(np.minimum(bounds.K, cols), p.shape)
    g = np.clip(np.minimum(rows // (p * np.minimum(q, rows)), cols // k), 1, bounds.G)
    one = np.ones_like(p)
    return Unrolling(g, k, one, p, q * one, one, one, np.zeros(len(widths), bool), valid)


def unrollings(
    bounds: Bounds, output_stationary: bool, rows: Ints, cols: Ints, windowed: NDArray[np.bool_]
) -> Unrolling:
    """Every spatial unrolling of the declared mapspace on arrays of one dataflow."""
    if output_stationary:
        return output_stationary_unrollings(bounds, rows, cols)
    return weight_stationary_unrollings(bounds, rows, cols, windowed)


def mapping_of(layer: Layer, tiles: Tiles, tile: int, option: int, engine: Engine, levels: Sequence[str]) -> Mapping:
    """The loop nest that a (tiling, unrolling) stands for on one engine.

    levels: names of the hierarchy, innermost first: window (windowed only), register, accumulator (weight-stationary
    only), weight buffer, activation buffer, DRAM.
    """
    bounds = Bounds.of(layer)
    stationary = engine.dataflow == "output-stationary"
    unroll = unrollings(
        bounds,
        stationary,
        np.array([engine.rows * engine.lanes]),
        np.array([engine.columns(layer)]),
        np.array([engine.windowed]),
    )
    size = {dim: int(getattr(tiles, dim)[tile]) for dim in "GKCPQ"} | {"N": 1, "R": bounds.R, "S": bounds.S}
    part = {dim: min(int(getattr(unroll, dim)[option, 0]), size[dim]) for dim in "GKCPQRS"}
    trips = {dim: -(-size[dim] // part[dim]) for dim in part}
    rows_name = "N" if layer.P == layer.Q == layer.R == layer.S == 1 else "P"

    def named(loops: Sequence[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
        return tuple((rows_name if dim == "P" else dim, bound) for dim, bound in loops if bound > 1)

    def cut(dims: str) -> tuple[tuple[str, int], ...]:
        """Sizes to which uneven time loops are cut; stated where these loops are, so that their words are exact."""
        return named([(dim, size[dim]) for dim in dims if trips[dim] * part[dim] > size[dim]])

    outer = [(dim, getattr(bounds, dim) // size[dim]) for dim in ORDERS[int(tiles.order[tile])]]
    if stationary:
        inner = LevelLoops(levels[0], named([(dim, trips[dim]) for dim in "SRC"]))
        across = named([(dim, part[dim]) for dim in "QPKG"])
        buffers = LevelLoops(levels[1], named([(dim, trips[dim]) for dim in "QPKG"]), across, cut("QPKG"))
        return Mapping((inner, buffers, LevelLoops(levels[2]), LevelLoops(levels[3], named(outer))))
    chunk = int(chunks_of(bounds, tiles, np.array([engine.accumulator_depth]))[tile, 0])
    down = named([(dim, part[dim]) for dim in "SRC"])
    in_window = bool(unroll.window[option])
    windows = [LevelLoops(levels[0], (), down if in_window else ())] if engine.windowed else []
    register, accumulator, weights, activations, dram = levels[len(windows) :]
    pixels = LevelLoops(register, named([("Q", size["Q"]), ("P", chunk)]))
    loops = named([(dim, trips[dim]) for dim in "SRC"])
    reductions = LevelLoops(accumulator, loops, () if in_window else down, cut("CRS"))
    chunks = {"P": size["P"] // chunk, "K": trips["K"], "G": trips["G"]}
    passes = LevelLoops(weights, named(list(chunks.items())), named([(dim, part[dim]) for dim in "KG"]), cut("GK"))
    return Mapping((*windows, pixels, reductions, passes, LevelLoops(activations), LevelLoops(dram, named(outer))))


@dataclass(frozen=True)
class Counts:
    """What each mapping does, [mapping, configuration], in whole layers.

    cycles: of the array, filling and draining it (rows + cols - 2) once per tile included; infinite if impossible.
    weight_reads, input_reads: words that the buffers deliver to the array. updates: words added into the accumulators.
    tile, option: which tiling and which unrolling a mapping is, [mapping].
    """

    cycles: Floats
    weight_reads: Floats
    input_reads: Floats
    updates: Floats
    tile: Ints
    option: Ints


def chunks_of(bounds: Bounds, tiles: Tiles, accumulator_depth: Ints) -> Ints:
    """Output rows of each tile that the accumulators hold at once: the largest divisor of its rows for which there is
    room, so that no chunk is cut; 1 where there is none. [tile, configuration]
    """
    depths, which = np.unique(accumulator_depth, return_inverse=True)
    room = depths // tiles.Q[:, None]
    chunk = np.ones_like(room)
    for rows in divisors(bounds.P):
        chunk[(tiles.P[:, None] % rows == 0) & (rows <= room)] = rows
    return chunk[:, which]


def _window_words(bounds: Bounds, P: Ints, Q: Ints, chunk: Ints) -> Floats:
    """Pixels that enter the windows of one channel for one tile: R rows slide along Q; along P where Q is 1."""
    across = P * bounds.R * slid(Q, 1, bounds.stride[1], bounds.S, bounds.dilation[1])
    down = P // chunk * slid(chunk, 1, bounds.stride[0], bounds.R, bounds.dilation[0]) * bounds.S
    return np.where(Q > 1, across, down)


def _ceil(a: Ints, b: Ints) -> Ints:
    return -(-a // b)


def count(
    bounds: Bounds,
    tiles: Tiles,
    output_stationary: bool,
    rows: Ints,
    cols: Ints,
    accumulator_depth: Ints,
    windowed: NDArray[np.bool_],
    lanes: Ints,
    cycles_per_operation: float,
    fill: Ints,
) -> Counts:
    """Counts of every (tiling, unrolling) on every array configuration of one dataflow.

    Weight-stationary, with tile sizes in capitals, unrolled factors in small letters, p = rows of a chunk:
    ``cycles = tiles (ceil(G/g) ceil(K/k) ceil(C/c) ceil(R/r) ceil(S/s) P Q + fill)``,
    ``weight_reads = tiles G K C R S P / p``, ``input_reads = tiles P Q G C R S ceil(K/k)``,
    ``updates = tiles P Q G K ceil(C/c) ceil(R/r) ceil(S/s)``.
    In a window the input slides: ``input_reads = tiles G P R slid(Q)``.
    Output-stationary: ``cycles = tiles (ceil(G/g) ceil(K/k) ceil(P/p) ceil(Q/q) C R S + fill)``,
    ``weight_reads = tiles G K C R S ceil(P/p) ceil(Q/q)``, the same input_reads, no updates.
    Bit-serial elements stand for `lanes` rows each and take `cycles_per_operation` cycles a step; cols counts packed
    products; fill is what an array of elements takes to fill and drain.
    """
    unroll = unrollings(bounds, output_stationary, rows * lanes, cols, windowed)
    options, configurations = unroll.valid.shape
    shape = (len(tiles) * options, configurations)
    G, K, C, P, Q = (getattr(tiles, name)[:, None, None] for name in "GKCPQ")
    steps = bounds.N * (bounds.G // G) * (bounds.K // K) * (bounds.C // C) * (bounds.P // P) * (bounds.Q // Q)
    kernel = bounds.R * bounds.S
    k1 = _ceil(K, unroll.K)
    passes = _ceil(G, unroll.G) * k1
    input_reads = steps * P * Q * G * C * kernel * k1
    if output_stationary:
        pixels = _ceil(P, unroll.P) * _ceil(Q, unroll.Q)
        cycles = steps * (passes * pixels * C * kernel * cycles_per_operation + fill)
        weight_reads = steps * G * K * C * kernel * pixels
        updates = np.zeros_like(cycles)
        valid = np.broadcast_to(unroll.valid, cycles.shape)
    else:
        reductions = _ceil(C, unroll.C) * _ceil(np.asarray(bounds.R), unroll.R) * _ceil(np.asarray(bounds.S), unroll.S)
        cycles = steps * (passes * reductions * P * Q * cycles_per_operation + fill)
        chunk = chunks_of(bounds, tiles, accumulator_depth)[:, None]
        weight_reads = steps * G * K * C * kernel * (P // chunk)
        updates = steps * P * Q * G * K * reductions
        in_window = steps * G * _window_words(bounds, P, Q, chunk)
        input_reads = np.where(unroll.window[:, None], in_window, input_reads)
        valid = unroll.valid & (accumulator_depth >= Q)

    def flat(values: Ints) -> Floats:
        return np.broadcast_to(values, cycles.shape).reshape(shape).astype(float)

    return Counts(
        cycles=np.where(valid, cycles, np.inf).reshape(shape),
        weight_reads=flat(weight_reads),
        input_reads=flat(input_reads),
        updates=flat(updates),
        tile=np.repeat(np.arange(len(tiles)), options),
        option=np.tile(np.arange(options), len(tiles)),
    )
