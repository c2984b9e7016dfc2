# mypy: disable-error-code="call-arg, var-annotated, type-var, misc, assignment"
"""Numba kernels of a whole butterfly chain, float32, on a CPU: on images, their patches, or rows of vectors.

A unit of work is a window of columns (pixels or vectors). A chain splits exactly: rows i of the first factor that
differ never meet again, and the columns j of the last factor only add up. With h of the first and m of the last the
chain falls into tiles that are small chains themselves; a tile's intermediates, which in the whole chain are often
many times wider than its ends, stay in a second-level cache, and only the ends touch memory. The backward pass
computes the intermediates of a tile again instead of keeping them. Patches are gathered, and their gradients
scattered, row by row inside the kernels: nothing is unfolded in memory. For block b and diagonal tau a factor is an
r x s product whose rows are t apart: eight (or fewer) rows of r by thirty-two columns stay in registers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import torch
from numba import njit, types
from numpy.typing import NDArray
from torch import Tensor

from cosearch.operators._simd import (
    FLOATS,
    INTS,
    LANES,
    add_products,
    compile_kernel,
    load,
    load_some,
    plus,
    product_of_eight,
    product_of_four,
    product_of_two,
    run,
    store,
    store_some,
    transpose,
)

STEP = 2 * LANES  # columns that a product computes at once; windows are multiples
SCRATCH_FLOATS = 1 << 18  # 1 MiB for what a tile of a window touches
WIDEST, NARROWEST = 8 * STEP, 2 * STEP  # columns of a window: a gradient ends in sums over lanes once per window
SEGMENTS = 8  # sums of a factor's gradient, added up at the end: fixed, so that threads do not change the result
TILE = 8  # rows of the first, columns of the last factor in a tile, or the nearest divisor
FIELDS = 19
"""Per factor and tile: blocks, r, s, t in two digits, rows at once of F and of its transpose; start and size of its
packed weights, of its transpose's and of its gradient; row steps per block, row and first digit, of input and output.
"""


@njit(nogil=True, error_model="numpy")
def _factor(x, x0, x_steps, w, w0, y, y0, y_steps, sizes, pitch, columns, add):  # type: ignore[no-untyped-def]
    """y = F x, or y += F x, for `columns` columns. sizes: blocks, r, s, t in two digits, rows computed at once."""
    blocks, r, s, outer, inner, high = sizes
    strips = (r + high - 1) // high
    x_block, x_row, x_outer = x_steps
    y_block, y_row, y_outer = y_steps
    for block in range(blocks):
        for o in range(outer):
            for tau in range(inner):
                source = x0 + (block * x_block + o * x_outer + tau) * pitch
                target = y0 + (block * y_block + o * y_outer + tau) * pitch
                for left in range(0, columns, STEP):
                    of = w0
                    for strip in range(strips):
                        rest, to = r - strip * high, target + strip * high * y_row * pitch + left
                        at = source + left
                        if high == 8:
                            product_of_eight(x, at, x_row * pitch, w, of, s, y, to, y_row * pitch, rest, add)
                        elif high == 4:
                            product_of_four(x, at, x_row * pitch, w, of, s, y, to, y_row * pitch, rest, add)
                        else:
                            product_of_two(x, at, x_row * pitch, w, of, s, y, to, y_row * pitch, rest, add)
                        of += s * high
                w0 += strips * s * high


@njit(nogil=True, error_model="numpy")
def _add_gradient(x, x0, x_steps, g, g0, g_steps, dw, d0, sizes, pitch, columns):  # type: ignore[no-untyped-def]
    """dw[b, tau, i, j] += sum over the columns of g[b, i, tau] x[b, j, tau], in tiles of four i by four j."""
    blocks, r, s, outer, inner, _ = sizes
    x_block, x_row, x_outer = x_steps
    g_block, g_row, g_outer = g_steps
    x_step, g_step = x_row * pitch, g_row * pitch
    for block in range(blocks):
        for o in range(outer):
            for tau in range(inner):
                xs = x0 + (block * x_block + o * x_outer + tau) * pitch
                gs = g0 + (block * g_block + o * g_outer + tau) * pitch
                for i in range(0, r, 4):
                    for j in range(0, s, 4):
                        at, of = gs + i * g_step, xs + j * x_step
                        add_products(g, at, g_step, r - i, x, of, x_step, s - j, dw, d0, columns)
                        d0 += LANES


@njit(nogil=True, error_model="numpy")
def _clear(target, at, rows, pitch, start, stop):  # type: ignore[no-untyped-def]
    for row in range(rows):
        for v in range(start, stop):
            target[at + row * pitch + v] = 0.0


@njit(nogil=True, error_model="numpy")
def _gather(image, row0, rows, left, width, target, at, pitch, shape, add):  # type: ignore[no-untyped-def]
    """Rows of unfolded images: target[row, v] = the input under column left + v, zero outside the image.

    add: the reverse, image += target. shape: channels, height, width, kernel (2), stride (2), padding (2), dilation
    (2) and the sizes p, q of the output that the columns run over, image by image.
    """
    channels, high, wide, r, s, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, p, q = shape
    column, v = left, 0
    while v < width:
        n, pixel = column // (p * q), column % (p * q)
        u, start = pixel // q, pixel % q
        count = min(q - start, width - v)
        c, a, b = row0 // (r * s), row0 % (r * s) // s, row0 % s - 1
        for row in range(rows):
            b += 1
            if b == s:
                a, b = a + 1, 0
            if a == r:
                c, a = c + 1, 0
            h = u * stride_h - pad_h + a * dilation_h
            first = start * stride_w - pad_w + b * dilation_w
            to = at + row * pitch + v
            if h < 0 or h >= high:
                if not add:
                    for i in range(count):
                        target[to + i] = 0.0
                continue
            out_of = ((n * channels + c) * high + h) * wide + first
            if stride_w == 1:
                low, top = max(0, -first), min(count, wide - first)
                for i in range(0, count, LANES):
                    if add:
                        sums = plus(load_some(image, out_of + i, low - i, top - i), load(target, to + i))
                        store_some(image, out_of + i, sums, low - i, top - i)
                    else:  # what is written beyond the run is overwritten by the next one or cleared
                        store(target, to + i, load_some(image, out_of + i, low - i, top - i))
            else:
                for i in range(count):
                    inside = 0 <= first + i * stride_w < wide
                    if add:
                        if inside:
                            image[out_of + i * stride_w] += target[to + i]
                    else:
                        target[to + i] = image[out_of + i * stride_w] if inside else np.float32(0.0)
        column += count
        v += count


@njit(nogil=True, error_model="numpy")
def _swap(source, at, step, rows, columns, target, to, pitch):  # type: ignore[no-untyped-def]
    """target[j, i] = source[i, j] for rows x columns values, rows `step` apart in the source, `pitch` in the target."""
    whole_rows, whole_columns = rows // LANES * LANES, columns // LANES * LANES
    for i in range(0, whole_rows, LANES):
        for j in range(0, whole_columns, LANES):
            transpose(source, at + i * step + j, step, target, to + j * pitch + i, pitch)
    for i in range(rows):
        for j in range(whole_columns if i < whole_rows else 0, columns):
            target[to + j * pitch + i] = source[at + i * step + j]


@njit(nogil=True, error_model="numpy")
def _read(source, row0, rows, left, width, target, at, pitch, vectors, shape):  # type: ignore[no-untyped-def]
    """Rows of a window from images (`_gather`) or, vectors > 0, from rows of so many values; zeros up to a STEP."""
    if vectors > 0:
        _swap(source, left * vectors + row0, vectors, width, rows, target, at, pitch)
    else:
        _gather(source, row0, rows, left, width, target, at, pitch, shape, False)
    _clear(target, at, rows, pitch, width, (width + STEP - 1) // STEP * STEP)


@njit(nogil=True, error_model="numpy")
def _write(target, row0, rows, left, width, source, at, pitch, vectors, shape):  # type: ignore[no-untyped-def]
    """The reverse of `_read`; where windows of images overlap, the target is added to."""
    if vectors > 0:
        _swap(source, at, pitch, rows, width, target, left * vectors + row0, vectors)
    else:
        _gather(target, row0, rows, left, width, source, at, pitch, shape, True)


@njit(nogil=True, error_model="numpy")
def _sizes(table, f):  # type: ignore[no-untyped-def]
    at = f * FIELDS
    sizes = (table[at], table[at + 1], table[at + 2], table[at + 3], table[at + 4], table[at + 5])
    steps_in = (table[at + 13], table[at + 14], table[at + 15])
    return sizes, steps_in, (table[at + 16], table[at + 17], table[at + 18])


def _apply(x, w, y, table, cut, shape_in, shape_out, start, stop):  # type: ignore[no-untyped-def]
    """Windows start..stop of y = F_N .. F_1 x. cut: see `Packed.cut`; table: `FIELDS` sizes per factor."""
    groups, tiles_i, tiles_j, n_in, n_out, high, width_local, vectors_in, vectors_out, total, window = cut
    factors, pitch = table.size // FIELDS, window + LANES
    part = n_in // tiles_j
    here = np.empty(part * pitch, np.float32)
    odd, even = np.empty(width_local * pitch, np.float32), np.empty(width_local * pitch, np.float32)
    out = np.empty(n_out * pitch, np.float32)
    for unit in range(start, stop):
        left = unit * window
        width = min(window, total - left)
        columns = (width + STEP - 1) // STEP * STEP
        for group in range(groups):
            for tile_j in range(tiles_j):
                row = group * n_in + tile_j * part
                _read(x, row, part, left, width, here, 0, pitch, vectors_in, shape_in)
                for tile_i in range(tiles_i):
                    tile = (group * tiles_i + tile_i) * tiles_j + tile_j
                    for f in range(factors):
                        sizes, steps_in, steps_out = _sizes(table, f)
                        of = table[f * FIELDS + 7] + tile * table[f * FIELDS + 8]
                        source = here if f == 0 else (odd if f % 2 == 1 else even)
                        if f == factors - 1:
                            base, more = tile_i * high * pitch, int(tile_j > 0)
                            _factor(source, 0, steps_in, w, of, out, base, steps_out, sizes, pitch, columns, more)
                        else:
                            target = even if f % 2 == 1 else odd
                            _factor(source, 0, steps_in, w, of, target, 0, steps_out, sizes, pitch, columns, 0)
            _write(y, group * n_out, n_out, left, width, out, 0, pitch, vectors_out, shape_out)


def _gradients(x, g, w, back, dx, dw, table, cut, shape_in, shape_out, unit, segments, start, stop):  # type: ignore[no-untyped-def]
    """Segments start..stop: dx unless it is empty, and each segment's own sum dw.

    w is F as packed, back its transpose. A segment is a share of the units of `unit` columns.
    """
    groups, tiles_i, tiles_j, n_in, n_out, high, width_local, vectors_in, vectors_out, total, window = cut
    factors, pitch = table.size // FIELDS, window + LANES
    part, size = n_in // tiles_j, dw.size // segments
    kept = 0  # rows of a tile's intermediates
    for f in range(factors - 1):
        kept += table[f * FIELDS] * table[f * FIELDS + 16]
    here, into = np.empty(part * pitch, np.float32), np.empty(part * pitch, np.float32)
    values = np.empty(kept * pitch, np.float32)
    odd, even = np.empty(width_local * pitch, np.float32), np.empty(width_local * pitch, np.float32)
    slope = np.empty(n_out * pitch, np.float32)
    units = (total + unit - 1) // unit
    for segment in range(start, stop):
        limit = min((segment + 1) * units // segments * unit, total)
        for left in range(segment * units // segments * unit, limit, window):
            width = min(window, limit - left)
            columns = (width + STEP - 1) // STEP * STEP
            for group in range(groups):
                _read(g, group * n_out, n_out, left, width, slope, 0, pitch, vectors_out, shape_out)
                for tile_j in range(tiles_j):
                    row = group * n_in + tile_j * part
                    _read(x, row, part, left, width, here, 0, pitch, vectors_in, shape_in)
                    for tile_i in range(tiles_i):
                        tile = (group * tiles_i + tile_i) * tiles_j + tile_j
                        base = 0
                        for f in range(factors - 1):
                            sizes, steps_in, steps_out = _sizes(table, f)
                            of = table[f * FIELDS + 7] + tile * table[f * FIELDS + 8]
                            source = here if f == 0 else values
                            at = 0 if f == 0 else base - table[f * FIELDS - FIELDS] * table[f * FIELDS - 3] * pitch
                            _factor(source, at, steps_in, w, of, values, base, steps_out, sizes, pitch, columns, 0)
                            base += sizes[0] * steps_out[0] * pitch
                        for f in range(factors - 1, -1, -1):
                            sizes, steps_in, steps_out = _sizes(table, f)
                            if f > 0:
                                base -= table[f * FIELDS - FIELDS] * table[f * FIELDS - 3] * pitch
                            inputs = here if f == 0 else values
                            last = f == factors - 1
                            above, top = slope if last else (odd if f % 2 == 1 else even), 0
                            if last:
                                top = tile_i * high * pitch
                            to = segment * size + table[f * FIELDS + 11] + tile * table[f * FIELDS + 12]
                            at = base if f > 0 else 0
                            _add_gradient(inputs, at, steps_in, above, top, steps_out, dw, to, sizes, pitch, columns)
                            of = table[f * FIELDS + 9] + tile * table[f * FIELDS + 10]
                            flipped = (sizes[0], sizes[2], sizes[1], sizes[3], sizes[4], table[f * FIELDS + 6])
                            if f > 0:
                                below = even if f % 2 == 1 else odd
                                _factor(above, top, steps_out, back, of, below, 0, steps_in, flipped, pitch, columns, 0)
                            elif dx.size > 0:
                                more = int(tile_i > 0)
                                _factor(
                                    above, top, steps_out, back, of, into, 0, steps_in, flipped, pitch, columns, more
                                )
                    if dx.size > 0:
                        _write(dx, row, part, left, width, into, 0, pitch, vectors_in, shape_in)


@cache
def _compiled(name: str) -> Callable[..., None]:
    function, arrays, more = {"apply": (_apply, 3, 2), "gradients": (_gradients, 6, 4)}[name]
    whole = types.int64
    shapes = (types.UniTuple(whole, 11), types.UniTuple(whole, 13), types.UniTuple(whole, 13))
    return compile_kernel(function, *[FLOATS] * arrays, INTS, *shapes, *[whole] * more)


@dataclass(frozen=True)
class Columns:
    """What a chain runs over: `n` images of `shape` (see `_gather`), or, vectors > 0, `n` rows of so many values."""

    n: int
    shape: tuple[int, ...]
    vectors: int = 0

    @property
    def per_image(self) -> int:
        return self.shape[11] * self.shape[12]

    @property
    def overlap(self) -> bool:
        """Whether columns of one image share inputs, so that no two threads may write to its gradient."""
        return self.shape[3] * self.shape[4] > 1


def patches(
    n: int,
    channels: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    steps: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
    out: tuple[int, int],
) -> Columns:
    """The patches under a kernel; steps: stride, padding, dilation."""
    if kernel == (1, 1) and steps[:2] == ((1, 1), (0, 0)):
        return plain_columns(n, channels, math.prod(size))
    return Columns(n, (channels, *size, *kernel, *steps[0], *steps[1], *steps[2], *out))


def plain_columns(n: int, channels: int, length: int) -> Columns:
    """The columns of N x channels x L as they are."""
    return Columns(n, (channels, 1, length, 1, 1, 1, 1, 0, 0, 1, 1, 1, length))


def vectors(n: int, channels: int) -> Columns:
    """The rows of N x channels."""
    return Columns(n, (channels, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1), channels)


@cache
def _rows_at_once(r: int) -> int:
    """Eight, or fewer where eight would compute more rows for nothing."""
    return min((8, 4, 2), key=lambda high: (-(-r // high) * high, -high))


@cache
def _nearest_divisor(n: int) -> int:
    return min((d for d in range(1, n + 1) if n % d == 0), key=lambda d: (abs(math.log2(d / TILE)), d))


@dataclass(frozen=True)
class Layout:
    """How a chain, one per group, is cut into tiles. shapes: per factor B, r, s, t of one group's chain."""

    groups: int
    shapes: tuple[tuple[int, int, int, int], ...]

    @property
    def n_in(self) -> int:
        return math.prod(shape[2] for shape in self.shapes)

    @property
    def n_out(self) -> int:
        return math.prod(shape[1] for shape in self.shapes)

    @property
    def first(self) -> int:
        return self.shapes[0][1]

    @property
    def last(self) -> int:
        return self.shapes[-1][2]

    @property
    def high(self) -> int:
        """Rows of the first factor in a tile."""
        return _nearest_divisor(self.first)

    @property
    def wide(self) -> int:
        """Columns of the last factor in a tile."""
        return _nearest_divisor(self.last)

    def local(self, f: int) -> tuple[int, int, int, int, int]:
        """Blocks, r, s and the two digits of t of factor f within a tile."""
        b, r, s, t = self.shapes[f]
        blocks = 1 if f == len(self.shapes) - 1 else b * self.wide // self.last
        rows, columns = self.high if f == 0 else r, self.wide if f == len(self.shapes) - 1 else s
        return (blocks, rows, columns, 1, 1) if f == 0 else (blocks, rows, columns, t // self.first, self.high)

    @property
    def tiles(self) -> int:
        return self.groups * (self.first // self.high) * (self.last // self.wide)

    @property
    def kept(self) -> list[int]:
        """Rows of each intermediate of a tile."""
        return [b * r * outer * inner for b, r, _, outer, inner in (self.local(f) for f in range(len(self.shapes) - 1))]

    def steps(self, f: int) -> tuple[int, ...]:
        """Row steps per block, row and first digit of factor f's input and output: see `FIELDS`."""
        _, r, s, outer, inner = self.local(f)
        t, whole = outer * inner, self.shapes[f][3]
        out = (0, whole, self.first) if f == len(self.shapes) - 1 else (r * t, t, inner)
        return s * t, t, inner, *out

    def table(self) -> NDArray[np.int64]:
        rows, packed, back, plain = [], 0, 0, 0
        for f in range(len(self.shapes)):
            b, r, s, outer, inner = self.local(f)
            high, flat, count = _rows_at_once(r), _rows_at_once(s), b * outer * inner
            forth = count * s * -(-r // high) * high
            reverse = count * r * -(-s // flat) * flat
            tiles = count * -(-r // 4) * -(-s // 4) * LANES
            starts = (packed, forth, back, reverse, plain, tiles)
            rows.append((b, r, s, outer, inner, high, flat, *starts, *self.steps(f)))
            packed, back, plain = packed + self.tiles * forth, back + self.tiles * reverse, plain + self.tiles * tiles
        return np.array(rows, np.int64).reshape(-1)

    def window(self, columns: int) -> int:
        """Columns of a window, a multiple of STEP: as many as keep what a tile touches in the cache."""
        touched = 2 * (self.n_in * self.wide // self.last) + sum(self.kept) + 2 * max(self.kept, default=0)
        fit = min(max(SCRATCH_FLOATS // touched, NARROWEST), WIDEST, columns + STEP - 1)
        return fit // STEP * STEP

    def cut(self, source: Columns, target: Columns, threads: int = 1) -> tuple[int, ...]:
        """What the kernels take for `cut`. threads: cut windows smaller until there is one for each."""
        tiles = (self.first // self.high, self.last // self.wide)
        widest, columns = max(self.kept, default=1), source.n * source.per_image
        sizes = (self.groups, *tiles, self.n_in, self.n_out, self.high, widest)
        share = max(-(-columns // threads), NARROWEST)
        return *sizes, source.vectors, target.vectors, columns, self.window(min(columns, share))

    def _cuts(self, f: int) -> tuple[int, int, int, int]:
        """Into how many parts tiles cut the blocks, r, s and t of factor f; two of them at most are cut."""
        (b, r, s, outer, inner), (whole_b, whole_r, whole_s, whole_t) = self.local(f), self.shapes[f]
        return whole_b // b, whole_r // r, whole_s // s, whole_t // (outer * inner)

    def in_tiles(self, weight: Tensor, f: int) -> Tensor:
        """A factor groups x B x r x s x t as tiles x (B t of a tile) x (r) x (s)."""
        b, r, s, outer, inner = self.local(f)
        in_blocks, in_rows, in_columns, in_t = self._cuts(f)
        spread = weight.reshape(self.groups, in_blocks, b, in_rows, r, in_columns, s, outer, in_t, inner)
        return spread.permute(0, 3, 8, 1, 5, 2, 7, 9, 4, 6).reshape(-1, b * outer * inner, r, s)

    def out_of_tiles(self, tiles: Tensor, f: int) -> Tensor:
        """The reverse of `in_tiles`."""
        b, r, s, outer, inner = self.local(f)
        in_blocks, in_rows, in_columns, in_t = self._cuts(f)
        spread = tiles.reshape(self.groups, in_rows, in_t, in_blocks, in_columns, b, outer, inner, r, s)
        return spread.permute(0, 3, 5, 1, 8, 4, 9, 6, 2, 7).reshape(self.groups, *self.shapes[f])


@lru_cache(maxsize=256)
def _layout(groups: int, shapes: tuple[tuple[int, int, int, int], ...]) -> tuple[Layout, NDArray[np.int64]]:
    layout = Layout(groups, shapes)
    return layout, layout.table()


def _in_rows(tiles: Tensor, high: int) -> Tensor:
    """... x r x s as ... x (r / high) x s x high, flat, rows filled up with zeros."""
    padded = torch.nn.functional.pad(tiles, (0, 0, 0, -tiles.shape[-2] % high))
    return padded.unflatten(-2, (-1, high)).transpose(-1, -2).reshape(-1)


@dataclass(frozen=True)
class Packed:
    """A chain's factors as the kernels read them: `forth` applies it, `back` its transpose."""

    layout: Layout
    table: NDArray[np.int64]
    forth: NDArray[np.float32]
    back: NDArray[np.float32]

    def weight_gradients(self, sums: Tensor) -> list[Tensor]:
        """Per factor groups x B x r x s x t from the sums of `_gradients`."""
        found, totals = [], sums.sum(0) if len(sums) > 1 else sums[0]
        for f in range(len(self.layout.shapes)):
            b, r, s, outer, inner = self.layout.local(f)
            start, size = self.table[f * FIELDS + 11], self.table[f * FIELDS + 12] * self.layout.tiles
            blocks = totals[start : start + size].view(-1, b * outer * inner, -(-r // 4), -(-s // 4), 4, 4)
            whole = blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)
            found.append(self.layout.out_of_tiles(whole[:, :, :r, :s], f))
        return found


def pack(weights: Sequence[Tensor], with_back: bool) -> Packed:
    """weights: per factor groups x B x r x s x t, input side first. with_back: also what `gradients` needs."""
    layout, table = _layout(len(weights[0]), tuple((w.shape[1], w.shape[2], w.shape[3], w.shape[4]) for w in weights))
    tiles = [layout.in_tiles(w, f) for f, w in enumerate(weights)]
    forth = torch.cat([_in_rows(w, _rows_at_once(w.shape[2])) for w in tiles])
    flipped = [w.transpose(2, 3) for w in tiles] if with_back else []
    reverse = torch.cat([_in_rows(w, _rows_at_once(w.shape[2])) for w in flipped]) if flipped else torch.empty(0)
    return Packed(layout, table, forth.numpy(), reverse.numpy())


def _flat(value: Tensor) -> NDArray[np.float32]:
    return value.contiguous().view(-1).numpy()


def _work(chain: Packed, columns: int) -> int:
    return columns * chain.forth.size


def apply(x: Tensor, y: Tensor, chain: Packed, source: Columns, target: Columns, threads: int) -> None:
    """Write y = F_N .. F_1 x; y: contiguous zeros. source, target: what x and y are."""
    kernel, cut = _compiled("apply"), chain.layout.cut(source, target, threads)
    columns, window = cut[-2:]
    arguments = (_flat(x), chain.forth, y.view(-1).numpy(), chain.table, cut, source.shape, target.shape)
    run(lambda start, stop: kernel(*arguments, start, stop), -(-columns // window), _work(chain, columns), threads)


def gradients(
    x: Tensor, gradient: Tensor, dx: Tensor, chain: Packed, source: Columns, target: Columns, threads: int
) -> list[Tensor]:
    """Gradients of y = F_N .. F_1 x for that of y. dx: contiguous zeros to write into, or empty if it is not wanted.

    Returns: the factors' gradients, groups x B x r x s x t.
    """
    kernel, cut = _compiled("gradients"), chain.layout.cut(source, target)
    columns, window = cut[-2:]
    unit = source.per_image if source.overlap else window
    segments = min(SEGMENTS, -(-columns // unit))
    last = (len(chain.layout.shapes) - 1) * FIELDS
    sums = torch.zeros(segments, int(chain.table[last + 11] + chain.table[last + 12] * chain.layout.tiles))
    arrays = (_flat(x), _flat(gradient), chain.forth, chain.back, dx.view(-1).numpy(), sums.view(-1).numpy())
    arguments = (*arrays, chain.table, cut, source.shape, target.shape, unit, segments)
    work = 3 * _work(chain, columns)
    run(lambda start, stop: kernel(*arguments, start, stop), segments, work, threads)
    return chain.weight_gradients(sums)
