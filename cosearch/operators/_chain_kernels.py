# mypy: disable-error-code="call-arg, var-annotated, type-var, misc, assignment"
"""Numba kernels of a whole butterfly chain on columns N x channels x L, float32, on a CPU.

A unit of work is a window of columns of one image. It goes through all factors while its intermediates, which are
often many times wider than the ends of the chain, stay in a second-level cache; only the ends touch memory. The
backward pass computes the intermediates again instead of keeping them. For block b and diagonal tau a factor is an
r x s product whose rows are t apart: eight (or four) rows of r by sixteen columns stay in registers, and nothing is
permuted, as a batched matrix product would need.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numba import njit, types
from numpy.typing import NDArray
from torch import Tensor

from cosearch.operators._simd import (
    FLOATS,
    INTS,
    LANES,
    compile_kernel,
    copy,
    eighths,
    halves,
    load,
    plus,
    plus_product,
    quarters,
    run,
    spread,
    store,
    zero,
)

SCRATCH_FLOATS = 1 << 17  # 512 KiB for the intermediates of a window
SEGMENTS = 8  # sums of a factor's gradient, added up at the end: fixed, so that threads do not change the result
LEAST_FOR_GRADIENT = 4 * LANES  # columns of a window: every window ends in sums over lanes, which cost about as much
FIELDS = 9
"""Per factor in a table: blocks, r, s, t, rows at once of F and of its transpose, and where its packed weights, its
transpose's and its gradient begin."""


@njit(nogil=True, error_model="numpy")
def _factor(x, x0, x_pitch, w, w0, y, y0, y_pitch, sizes, columns):  # type: ignore[no-untyped-def]
    """y = F x for `columns` columns, a multiple of LANES. sizes: blocks, r, s, t and the rows computed at once."""
    blocks, r, s, t, high = sizes
    strips = (r + high - 1) // high
    x_step, y_step = t * x_pitch, t * y_pitch
    for block in range(blocks):
        for tau in range(t):
            weights = w0 + (block * t + tau) * strips * s * high
            source, target = x0 + (block * s * t + tau) * x_pitch, y0 + (block * r * t + tau) * y_pitch
            for left in range(0, columns, LANES):
                of = weights
                for strip in range(strips):
                    s0, s1, s2, s3 = zero(), zero(), zero(), zero()
                    to, at, rest = target + strip * high * y_step + left, source + left, r - strip * high
                    if high == 8:
                        s4, s5, s6, s7 = zero(), zero(), zero(), zero()
                        for _ in range(s):
                            value = load(x, at)
                            s0 = plus_product(s0, spread(w, of), value)
                            s1 = plus_product(s1, spread(w, of + 1), value)
                            s2 = plus_product(s2, spread(w, of + 2), value)
                            s3 = plus_product(s3, spread(w, of + 3), value)
                            s4 = plus_product(s4, spread(w, of + 4), value)
                            s5 = plus_product(s5, spread(w, of + 5), value)
                            s6 = plus_product(s6, spread(w, of + 6), value)
                            s7 = plus_product(s7, spread(w, of + 7), value)
                            at += x_step
                            of += 8
                        if rest > 4:
                            store(y, to + 4 * y_step, s4)
                        if rest > 5:
                            store(y, to + 5 * y_step, s5)
                        if rest > 6:
                            store(y, to + 6 * y_step, s6)
                        if rest > 7:
                            store(y, to + 7 * y_step, s7)
                    else:
                        for _ in range(s):
                            value = load(x, at)
                            s0 = plus_product(s0, spread(w, of), value)
                            s1 = plus_product(s1, spread(w, of + 1), value)
                            s2 = plus_product(s2, spread(w, of + 2), value)
                            s3 = plus_product(s3, spread(w, of + 3), value)
                            at += x_step
                            of += 4
                    store(y, to, s0)
                    if rest > 1:
                        store(y, to + y_step, s1)
                    if rest > 2:
                        store(y, to + 2 * y_step, s2)
                    if rest > 3:
                        store(y, to + 3 * y_step, s3)


@njit(nogil=True, error_model="numpy")
def _add_gradient(x, x0, x_pitch, g, g0, g_pitch, dw, d0, sizes, columns):  # type: ignore[no-untyped-def]
    """dw[b, i, j, tau] += sum over the columns of g[b, i, tau] x[b, j, tau], in tiles of four i by two j.

    A tile is LANES values: for the first j, then the second, two parts of each i's sum (`Packed.weight_gradients`).
    """
    blocks, r, s, t, _ = sizes
    at = d0
    x_step, g_step = t * x_pitch, t * g_pitch
    for block in range(blocks):
        for tau in range(t):
            xs, gs = x0 + (block * s * t + tau) * x_pitch, g0 + (block * r * t + tau) * g_pitch
            for i in range(0, r, 4):
                i1, i2, i3 = min(i + 1, r - 1), min(i + 2, r - 1), min(i + 3, r - 1)
                for j in range(0, s, 2):
                    j1 = min(j + 1, s - 1)
                    a0, a1, a2, a3 = zero(), zero(), zero(), zero()
                    b0, b1, b2, b3 = zero(), zero(), zero(), zero()
                    for left in range(0, columns, LANES):
                        c0, c1 = load(x, xs + j * x_step + left), load(x, xs + j1 * x_step + left)
                        v0, v1 = load(g, gs + i * g_step + left), load(g, gs + i1 * g_step + left)
                        v2, v3 = load(g, gs + i2 * g_step + left), load(g, gs + i3 * g_step + left)
                        a0, b0 = plus_product(a0, v0, c0), plus_product(b0, v0, c1)
                        a1, b1 = plus_product(a1, v1, c0), plus_product(b1, v1, c1)
                        a2, b2 = plus_product(a2, v2, c0), plus_product(b2, v2, c1)
                        a3, b3 = plus_product(a3, v3, c0), plus_product(b3, v3, c1)
                    a = quarters(halves(a0, a1), halves(a2, a3))
                    store(dw, at, plus(load(dw, at), eighths(a, quarters(halves(b0, b1), halves(b2, b3)))))
                    at += LANES


@njit(nogil=True, error_model="numpy")
def _fill(source, start, length, rows, target, pitch, width):  # type: ignore[no-untyped-def]
    """Rows of `width` values into rows of `pitch`, zero as far as a product reads on."""
    for row in range(rows):
        copy(target, row * pitch, source, start + row * length, width)
        for v in range(width, (width + LANES - 1) // LANES * LANES):
            target[row * pitch + v] = 0.0


def _apply(x, w, y, table, length, window, start, stop):  # type: ignore[no-untyped-def]
    """Windows start..stop of y = F_N .. F_1 x. table: `FIELDS` sizes per factor."""
    factors = table.size // FIELDS
    n_in = table[0] * table[2] * table[3]
    last = (factors - 1) * FIELDS
    n_out = table[last] * table[last + 1] * table[last + 3]
    widest = n_in
    for f in range(factors):
        at = f * FIELDS
        widest = max(widest, table[at] * table[at + 1] * table[at + 3])
    pitch = window + LANES  # a power of two would put the rows of a product into one set of the cache
    here, there = np.empty(widest * pitch, np.float32), np.empty(widest * pitch, np.float32)
    windows = (length + window - 1) // window
    for unit in range(start, stop):
        image, left = unit // windows, unit % windows * window
        width = min(window, length - left)
        origin, target = image * n_in * length + left, image * n_out * length + left
        _fill(x, origin, length, n_in, here, pitch, width)
        columns = (width + LANES - 1) // LANES * LANES
        for f in range(factors):
            at = f * FIELDS
            sizes = (table[at], table[at + 1], table[at + 2], table[at + 3], table[at + 4])
            if f == factors - 1 and width == columns:
                _factor(here, 0, pitch, w, table[at + 6], y, target, length, sizes, columns)
            else:
                _factor(here, 0, pitch, w, table[at + 6], there, 0, pitch, sizes, columns)
            here, there = there, here
        if width != columns:
            for row in range(n_out):
                copy(y, target + row * length, here, row * pitch, width)


def _gradients(x, g, w, back, dx, dw, table, length, window, start, stop):  # type: ignore[no-untyped-def]
    """Segments start..stop: dx, and each segment's own sum dw; w is F as packed, back its transpose."""
    factors = table.size // FIELDS
    n_in = table[0] * table[2] * table[3]
    kept, widest = n_in, n_in
    for f in range(factors):
        at = f * FIELDS
        width = table[at] * table[at + 1] * table[at + 3]
        kept, widest = kept + width, max(widest, width)
    n_out = table[(factors - 1) * FIELDS] * table[(factors - 1) * FIELDS + 1] * table[(factors - 1) * FIELDS + 3]
    pitch = window + LANES  # as in `_apply`
    values = np.empty(kept * pitch, np.float32)  # the input and every factor's output
    here, there = np.empty(widest * pitch, np.float32), np.empty(widest * pitch, np.float32)
    per_image = (length + window - 1) // window
    units = x.size // (n_in * length) * per_image
    size = dw.size // SEGMENTS
    for segment in range(start, stop):
        for unit in range(segment * units // SEGMENTS, (segment + 1) * units // SEGMENTS):
            image, left = unit // per_image, unit % per_image * window
            width = min(window, length - left)
            columns = (width + LANES - 1) // LANES * LANES
            origin, target = image * n_in * length + left, image * n_out * length + left
            _fill(x, origin, length, n_in, values, pitch, width)
            _fill(g, target, length, n_out, here, pitch, width)
            base = 0
            for f in range(factors - 1):
                at = f * FIELDS
                sizes = (table[at], table[at + 1], table[at + 2], table[at + 3], table[at + 4])
                following = base + sizes[0] * sizes[2] * sizes[3] * pitch
                _factor(values, base, pitch, w, table[at + 6], values, following, pitch, sizes, columns)
                base = following
            for f in range(factors - 1, -1, -1):
                at = f * FIELDS
                sizes = (table[at], table[at + 1], table[at + 2], table[at + 3], table[at + 4])
                into = segment * size + table[at + 8]
                _add_gradient(values, base, pitch, here, 0, pitch, dw, into, sizes, columns)
                flipped = (sizes[0], sizes[2], sizes[1], sizes[3], table[at + 5])
                _factor(here, 0, pitch, back, table[at + 7], there, 0, pitch, flipped, columns)
                here, there = there, here
                if f > 0:
                    base -= table[at - FIELDS] * table[at - FIELDS + 2] * table[at - FIELDS + 3] * pitch
            for row in range(n_in):
                copy(dx, origin + row * length, here, row * pitch, width)


@cache
def _compiled(name: str) -> Callable[..., None]:
    function, arrays = {"apply": (_apply, 3), "gradients": (_gradients, 6)}[name]
    return compile_kernel(function, *[FLOATS] * arrays, INTS, *[types.int64] * 4)


def _rows_at_once(r: int) -> int:
    """Eight, or four where eight would compute four more rows for nothing."""
    return 4 if 0 < r % 8 <= 4 else 8


def _in_rows(weight: Tensor, high: int) -> Tensor:
    """b x r x s x t as b, t, r / high, s, high, flat."""
    b, r, s, t = weight.shape
    padded = torch.nn.functional.pad(weight, (0, 0, 0, 0, 0, -r % high))
    return padded.view(b, -1, high, s, t).permute(0, 4, 1, 3, 2).reshape(-1)


@dataclass(frozen=True)
class Packed:
    """A chain's factors as the kernels read them: `forth` applies it, `back` its transpose. See `FIELDS` for table."""

    shapes: tuple[tuple[int, int, int, int], ...]
    table: NDArray[np.int64]
    forth: NDArray[np.float32]
    back: NDArray[np.float32]

    @property
    def n_in(self) -> int:
        b, _, s, t = self.shapes[0]
        return b * s * t

    @property
    def n_out(self) -> int:
        b, r, _, t = self.shapes[-1]
        return b * r * t

    @property
    def sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self.shapes]

    def window(self, length: int, least: int = LANES) -> int:
        """Columns of a window: what the scratch holds, a multiple of LANES, no more than there are."""
        widest = max(b * max(r, s) * t for b, r, s, t in self.shapes)
        fit = max(SCRATCH_FLOATS // widest, least)
        return min(fit, length + LANES - 1, 16 * LANES) // LANES * LANES

    def new_sums(self) -> Tensor:
        """Zeros that `gradients` adds to."""
        return torch.zeros(SEGMENTS, LANES * sum(_tiles(*shape) for shape in self.shapes))

    def weight_gradients(self, sums: Tensor) -> list[Tensor]:
        """Per factor b x r x s x t from the tiles of `gradients`."""
        parts = sums.sum(0).split([LANES * _tiles(*shape) for shape in self.shapes])
        found = []
        for part, (b, r, s, t) in zip(parts, self.shapes, strict=True):
            tiles = part.view(b, t, -(-r // 4), -(-s // 2), 2, 4, 2).sum(6)  # b, t, i / 4, j / 2, j, i
            whole = tiles.permute(0, 2, 5, 3, 4, 1).reshape(b, -(-r // 4) * 4, -(-s // 2) * 2, t)
            found.append(whole[:, :r, :s].contiguous())
        return found


def _tiles(b: int, r: int, s: int, t: int) -> int:
    return b * t * -(-r // 4) * -(-s // 2)


def pack(weights: Sequence[Tensor], with_back: bool) -> Packed:
    """weights: per factor b x r x s x t, input side first. with_back: also what `gradients` needs."""
    rows, packed, back, plain = [], 0, 0, 0
    shapes = tuple((int(b), int(r), int(s), int(t)) for b, r, s, t in (w.shape for w in weights))
    for b, r, s, t in shapes:
        high, flat = _rows_at_once(r), _rows_at_once(s)
        rows.append((b, r, s, t, high, flat, packed, back, plain))
        packed += b * t * s * -(-r // high) * high
        back += b * t * r * -(-s // flat) * flat
        plain += _tiles(b, r, s, t) * LANES
    forth = torch.cat([_in_rows(w, _rows_at_once(w.shape[1])) for w in weights])
    flipped = [w.transpose(1, 2) for w in weights] if with_back else []
    reverse = torch.cat([_in_rows(w, _rows_at_once(w.shape[1])) for w in flipped]) if flipped else torch.empty(0)
    return Packed(shapes, np.array(rows, np.int64).reshape(-1), forth.numpy(), reverse.numpy())


def _joined(x: Tensor) -> Tensor:
    """Short images side by side as one, since a window never spans two: N x C x L to 1 x C x N L."""
    return x.transpose(0, 1).reshape(1, x.shape[1], -1)


def _apart(y: Tensor, n: int) -> Tensor:
    return y.view(y.shape[1], n, -1).transpose(0, 1)


def _wasteful(x: Tensor) -> bool:
    n, _, length = x.shape
    return n > 1 and -length % LANES > length // 2


def _flat(value: Tensor) -> NDArray[np.float32]:
    return value.contiguous().view(-1).numpy()


def apply(x: Tensor, chain: Packed, threads: int) -> Tensor:
    """y = F_N .. F_1 x. x: N x n_in x L. Returns: N x n_out x L."""
    if _wasteful(x):
        return _apart(apply(_joined(x), chain, threads), len(x))
    n, _, length = x.shape
    y, window, kernel = torch.empty(n, chain.n_out, length), chain.window(length), _compiled("apply")
    arguments = (_flat(x), chain.forth, _flat(y), chain.table, length, window)
    work = n * length * sum(chain.sizes)
    run(lambda start, stop: kernel(*arguments, start, stop), n * -(-length // window), work, threads)
    return y


def gradients(x: Tensor, gradient: Tensor, chain: Packed, sums: Tensor, threads: int) -> Tensor:
    """dx of y = F_N .. F_1 x for the gradient of y; adds the factors' gradients to sums. Shapes as `apply`."""
    if _wasteful(x):
        return _apart(gradients(_joined(x), _joined(gradient), chain, sums, threads), len(x))
    n, _, length = x.shape
    dx, kernel = torch.empty(x.shape), _compiled("gradients")
    arrays = (_flat(x), _flat(gradient), chain.forth, chain.back, _flat(dx), _flat(sums))
    arguments = (*arrays, chain.table, length, chain.window(length, LEAST_FOR_GRADIENT))
    run(lambda start, stop: kernel(*arguments, start, stop), SEGMENTS, 3 * n * length * sum(chain.sizes), threads)
    return dx
