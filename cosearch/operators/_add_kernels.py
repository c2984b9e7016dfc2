# mypy: disable-error-code="call-arg, var-annotated, type-var, misc, assignment"
# The kernels are in numba's dialect: mypy sees neither the intrinsics' arguments nor their values.
"""Numba kernels of the adder layer: forward response and clipped input gradient, float32, on a CPU.

A unit of work is a block of images, or a band of rows of one image, of one group. Its input is copied once, with
zero padding and split by stride phase, into a scratch plane in which every kernel position is a constant offset.
The inner loop then walks output pixels sixteen at a time for four channels at once (or, where a group has fewer
than four channels, sixty-four pixels of one channel) with all sums in vector registers. Sixteen lanes are written
as one LLVM vector, which the compiler maps to whatever vector width the machine has; a plain numba loop over
pixels would store and reload its sums for every weight.

Each output is one sum in a fixed order that no thread shares, so results do not depend on the number of threads or
on how the work is cut. The kernels release the GIL and run on Python threads: no OpenMP or other threading layer
of numba is started, which keeps them safe under fork and under concurrent callers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from cosearch.operators._simd import (
    FLOATS,
    INTS,
    LANES,
    add_products,
    compile_kernel,
    copy,
    load,
    minus_distance,
    move,
    plus,
    plus_clipped,
    plus_product,
    run,
    spread,
    store,
    whole,
    zero,
)

WIDE = 4 * LANES
SCRATCH_FLOATS = 1 << 16  # 256 KiB: a unit's working set stays in a second-level cache


@njit(nogil=True, error_model="numpy")
def _gather(source, plane, target, base, size, window, pitch, clear):  # type: ignore[no-untyped-def]
    """Copy a window of a plane: target[base + u pitch + v] = source[plane + h width + w], inside the plane only.

    size: (height, width); window: (row0, rows, row_step, row_shift, col0, cols, col_step, col_shift) with
    h = (row0 + u) row_step + row_shift and w likewise. clear: write zeros where h is outside.
    """
    height, width = size
    row0, rows, row_step, row_shift, col0, cols, col_step, col_shift = window
    first = max(0, -((col0 * col_step + col_shift) // col_step))
    last = min(cols, (width - 1 - col_shift) // col_step - col0 + 1)
    for u in range(rows):
        h = (row0 + u) * row_step + row_shift
        into = base + u * pitch
        if 0 <= h < height:
            out_of = plane + h * width + col0 * col_step + col_shift
            if col_step == 1:
                if last > first:
                    copy(target, into + first, source, out_of + first, last - first)
            else:
                for v in range(first, last):
                    move(target, into + v, source, out_of + v * col_step)
        elif clear:
            for v in range(cols):
                target[into + v] = 0.0


@njit(nogil=True, error_model="numpy")
def _scatter(source, base, pitch, target, plane, size, window):  # type: ignore[no-untyped-def]
    """The reverse of `_gather`: write the window back into the plane."""
    height, width = size
    row0, rows, row_step, row_shift, col0, cols, col_step, col_shift = window
    first = max(0, -((col0 * col_step + col_shift) // col_step))
    last = min(cols, (width - 1 - col_shift) // col_step - col0 + 1)
    for u in range(rows):
        h = (row0 + u) * row_step + row_shift
        if 0 <= h < height:
            out_of = base + u * pitch
            into = plane + h * width + col0 * col_step + col_shift
            if col_step == 1:
                if last > first:
                    copy(target, into + first, source, out_of + first, last - first)
            else:
                for v in range(first, last):
                    move(target, into + v * col_step, source, out_of + v)


def _forward(x, w, y, offsets, shape, cut, start, stop):  # type: ignore[no-untyped-def]
    """Units start..stop of y = -sum |w - x|. shape, cut: see `ForwardPlan`."""
    n, c, h, width, k, p, q, groups, stride_h, stride_w, pad_h, pad_w = shape
    phases_h, phases_w, images, band, bands, rows, pitch, plane, lanes = cut
    c_group, k_group, taps = c // groups, k // groups, offsets.size
    blocks = (k_group + 3) // 4
    channel = phases_h * phases_w * plane
    scratch = np.zeros(c_group * channel + WIDE, np.float32)
    line = ((images - 1) * rows + band - 1) * pitch + q + WIDE
    sums = np.empty(4 * line, np.float32)
    for unit in range(start, stop):
        p0 = (unit % bands) * band
        group = (unit // bands) % groups
        n0 = unit // bands // groups * images
        count = min(images, n - n0)
        height = min(band, p - p0)
        for ci in range(c_group):
            for a in range(phases_h):
                for b in range(phases_w):
                    base = ci * channel + (a * phases_w + b) * plane
                    window = (p0, rows, stride_h, a - pad_h, 0, pitch, stride_w, b - pad_w)
                    for i in range(count):
                        origin = ((n0 + i) * c + group * c_group + ci) * h * width
                        _gather(x, origin, scratch, base + i * rows * pitch, (h, width), window, pitch, bands > 1)
        pixels = ((count - 1) * rows + height - 1) * pitch + q
        window = (p0, height, 1, 0, 0, q, 1, 0)
        if lanes == 4:
            for block in range(blocks):
                for j in range(0, pixels, LANES):
                    s0, s1, s2, s3 = zero(), zero(), zero(), zero()
                    at = (group * blocks + block) * taps * 4
                    for t in range(taps):
                        value = load(scratch, whole(offsets, t) + j)
                        s0 = minus_distance(s0, spread(w, at), value)
                        s1 = minus_distance(s1, spread(w, at + 1), value)
                        s2 = minus_distance(s2, spread(w, at + 2), value)
                        s3 = minus_distance(s3, spread(w, at + 3), value)
                        at += 4
                    store(sums, j, s0)
                    store(sums, line + j, s1)
                    store(sums, 2 * line + j, s2)
                    store(sums, 3 * line + j, s3)
                for m in range(min(4, k_group - block * 4)):
                    for i in range(count):
                        origin = ((n0 + i) * k + group * k_group + block * 4 + m) * p * q
                        _scatter(sums, m * line + i * rows * pitch, pitch, y, origin, (p, q), window)
        else:
            for m in range(k_group):
                for j in range(0, pixels, WIDE):
                    s0, s1, s2, s3 = zero(), zero(), zero(), zero()
                    at = (group * k_group + m) * taps
                    for t in range(taps):
                        o = whole(offsets, t) + j
                        weight = spread(w, at + t)
                        s0 = minus_distance(s0, weight, load(scratch, o))
                        s1 = minus_distance(s1, weight, load(scratch, o + LANES))
                        s2 = minus_distance(s2, weight, load(scratch, o + 2 * LANES))
                        s3 = minus_distance(s3, weight, load(scratch, o + 3 * LANES))
                    store(sums, j, s0)
                    store(sums, j + LANES, s1)
                    store(sums, j + 2 * LANES, s2)
                    store(sums, j + 3 * LANES, s3)
                for i in range(count):
                    origin = ((n0 + i) * k + group * k_group + m) * p * q
                    _scatter(sums, i * rows * pitch, pitch, y, origin, (p, q), window)


def _input_gradient(x, g, w, dx, offsets, starts, shape, cut, start, stop):  # type: ignore[no-untyped-def]
    """Units start..stop of dx = sum g clip(w - x, -1, 1), gathered per input pixel. shape, cut: see `BackwardPlan`."""
    n, c, h, width, k, p, q, groups, stride_h, stride_w, pad_h, pad_w = shape
    phases_h, phases_w, images, band, bands, rows, pitch, plane, lanes, u0, us, v0, vs, halo_h, halo_w = cut
    c_group, k_group, pairs = c // groups, k // groups, offsets.size
    blocks = (c_group + 3) // 4
    gradient = np.zeros(k_group * plane + WIDE, np.float32)
    line = ((images - 1) * rows + band - 1) * pitch + vs + WIDE
    sums = np.empty(4 * line, np.float32)
    values = np.zeros(4 * line, np.float32)
    for unit in range(start, stop):
        first = u0 + (unit % bands) * band
        group = (unit // bands) % groups
        n0 = unit // bands // groups * images
        count = min(images, n - n0)
        height = min(band, u0 + us - first)
        window = (first - halo_h, height + halo_h, 1, 0, v0 - halo_w, min(vs + halo_w, pitch), 1, 0)
        for ki in range(k_group):
            for i in range(count):
                origin = ((n0 + i) * k + group * k_group + ki) * p * q
                _gather(g, origin, gradient, ki * plane + i * rows * pitch, (p, q), window, pitch, bands > 1)
        pixels = ((count - 1) * rows + height - 1) * pitch + vs
        for phase in range(phases_h * phases_w):
            shift_h, shift_w = phase // phases_w - pad_h, phase % phases_w - pad_w
            window = (first, height, stride_h, shift_h, v0, vs, stride_w, shift_w)
            begin, end = starts[phase], starts[phase + 1]
            if lanes == 4:
                for block in range(blocks):
                    channels = min(4, c_group - block * 4)
                    for m in range(channels):
                        for i in range(count):
                            origin = ((n0 + i) * c + group * c_group + block * 4 + m) * h * width
                            base = m * line + i * rows * pitch
                            _gather(x, origin, values, base, (h, width), window, pitch, False)
                    for j in range(0, pixels, LANES):
                        s0, s1, s2, s3 = zero(), zero(), zero(), zero()
                        x0, x1 = load(values, j), load(values, line + j)
                        x2, x3 = load(values, 2 * line + j), load(values, 3 * line + j)
                        at = ((group * blocks + block) * pairs + begin) * 4
                        for t in range(begin, end):
                            slope = load(gradient, whole(offsets, t) + j)
                            s0 = plus_clipped(s0, slope, spread(w, at), x0)
                            s1 = plus_clipped(s1, slope, spread(w, at + 1), x1)
                            s2 = plus_clipped(s2, slope, spread(w, at + 2), x2)
                            s3 = plus_clipped(s3, slope, spread(w, at + 3), x3)
                            at += 4
                        store(sums, j, s0)
                        store(sums, line + j, s1)
                        store(sums, 2 * line + j, s2)
                        store(sums, 3 * line + j, s3)
                    for m in range(channels):
                        for i in range(count):
                            origin = ((n0 + i) * c + group * c_group + block * 4 + m) * h * width
                            base = m * line + i * rows * pitch
                            _scatter(sums, base, pitch, dx, origin, (h, width), window)
            else:
                for m in range(c_group):
                    for i in range(count):
                        origin = ((n0 + i) * c + group * c_group + m) * h * width
                        _gather(x, origin, values, i * rows * pitch, (h, width), window, pitch, False)
                    for j in range(0, pixels, WIDE):
                        s0, s1, s2, s3 = zero(), zero(), zero(), zero()
                        x0, x1 = load(values, j), load(values, j + LANES)
                        x2, x3 = load(values, j + 2 * LANES), load(values, j + 3 * LANES)
                        at = (group * c_group + m) * pairs
                        for t in range(begin, end):
                            o = whole(offsets, t) + j
                            weight = spread(w, at + t)
                            s0 = plus_clipped(s0, load(gradient, o), weight, x0)
                            s1 = plus_clipped(s1, load(gradient, o + LANES), weight, x1)
                            s2 = plus_clipped(s2, load(gradient, o + 2 * LANES), weight, x2)
                            s3 = plus_clipped(s3, load(gradient, o + 3 * LANES), weight, x3)
                        store(sums, j, s0)
                        store(sums, j + LANES, s1)
                        store(sums, j + 2 * LANES, s2)
                        store(sums, j + 3 * LANES, s3)
                    for i in range(count):
                        origin = ((n0 + i) * c + group * c_group + m) * h * width
                        _scatter(sums, i * rows * pitch, pitch, dx, origin, (h, width), window)


def _depthwise_gradients(x, g, w, dx, dw, offsets, starts, shape, cut, start, stop):  # type: ignore[no-untyped-def]
    """Both gradients of groups start..stop, each of one input channel: dw = sum g x - w sum g beside dx.

    The two share the loads of g, and one thread sees all images of a channel, so dw needs no reduction over threads.
    """
    n, c, h, width, k, p, q, groups, stride_h, stride_w, pad_h, pad_w = shape
    phases_h, phases_w, images, band, bands, rows, pitch, plane, _, u0, us, v0, vs, halo_h, halo_w = cut
    k_group, pairs = k // groups, offsets.size
    gradient = np.zeros(k_group * plane + WIDE, np.float32)
    line = ((images - 1) * rows + band - 1) * pitch + vs + WIDE
    sums = np.empty(line, np.float32)
    values = np.zeros(line, np.float32)
    products = np.empty(pairs * LANES, np.float32)
    totals = np.empty(k_group * LANES, np.float32)
    phases = phases_h * phases_w
    for group in range(start, stop):
        products[:] = 0.0
        totals[:] = 0.0
        for part in range((n + images - 1) // images * bands):
            n0, first = part // bands * images, u0 + part % bands * band
            count, height = min(images, n - n0), min(band, u0 + us - first)
            window = (first - halo_h, height + halo_h, 1, 0, v0 - halo_w, min(vs + halo_w, pitch), 1, 0)
            for ki in range(k_group):
                for i in range(count):
                    origin = ((n0 + i) * k + group * k_group + ki) * p * q
                    _gather(g, origin, gradient, ki * plane + i * rows * pitch, (p, q), window, pitch, bands > 1)
                    if first == u0:
                        total = load(totals, ki * LANES)
                        for j in range(0, p * q - LANES + 1, LANES):
                            total = plus(total, load(g, origin + j))
                        store(totals, ki * LANES, total)
                        for j in range(p * q // LANES * LANES, p * q):
                            totals[ki * LANES] += g[origin + j]
            pixels = ((count - 1) * rows + height - 1) * pitch + vs
            for phase in range(phases):
                shift_h, shift_w = phase // phases_w - pad_h, phase % phases_w - pad_w
                window = (first, height, stride_h, shift_h, v0, vs, stride_w, shift_w)
                if phases > 1 or count < images or height < band:
                    values[:] = 0.0  # what another phase or a larger part left would count in dw
                for i in range(count):
                    origin = ((n0 + i) * c + group) * h * width
                    _gather(x, origin, values, i * rows * pitch, (h, width), window, pitch, False)
                for j in range(0, pixels, WIDE):
                    s0, s1, s2, s3 = zero(), zero(), zero(), zero()
                    x0, x1 = load(values, j), load(values, j + LANES)
                    x2, x3 = load(values, j + 2 * LANES), load(values, j + 3 * LANES)
                    for t in range(starts[phase], starts[phase + 1]):
                        o = whole(offsets, t) + j
                        weight = spread(w, group * pairs + t)
                        g0, g1 = load(gradient, o), load(gradient, o + LANES)
                        g2, g3 = load(gradient, o + 2 * LANES), load(gradient, o + 3 * LANES)
                        s0 = plus_clipped(s0, g0, weight, x0)
                        s1 = plus_clipped(s1, g1, weight, x1)
                        s2 = plus_clipped(s2, g2, weight, x2)
                        s3 = plus_clipped(s3, g3, weight, x3)
                        product = plus_product(plus_product(load(products, t * LANES), g0, x0), g1, x1)
                        store(products, t * LANES, plus_product(plus_product(product, g2, x2), g3, x3))
                    store(sums, j, s0)
                    store(sums, j + LANES, s1)
                    store(sums, j + 2 * LANES, s2)
                    store(sums, j + 3 * LANES, s3)
                for i in range(count):
                    origin = ((n0 + i) * c + group) * h * width
                    _scatter(sums, i * rows * pitch, pitch, dx, origin, (h, width), window)
        for phase in range(phases):
            taps = (starts[phase + 1] - starts[phase]) // k_group
            for t in range(starts[phase], starts[phase + 1]):
                ki = (t - starts[phase]) // taps
                product, total = np.float32(0.0), np.float32(0.0)
                for lane in range(LANES):
                    product += products[t * LANES + lane]
                    total += totals[ki * LANES + lane]
                dw[group * pairs + t] = product - w[group * pairs + t] * total


def _pointwise_products(x, g, dw, shape, start, stop):  # type: ignore[no-untyped-def]
    """Rows 4 start..4 stop of dw = sum over images and pixels of g x. shape: n, c, k and the pixels of an image."""
    n, c, k, length = shape
    whole = length // LANES * LANES
    sums = np.empty((c + 3) // 4 * LANES, np.float32)
    for block in range(start, stop):
        sums[:] = 0.0
        rows = min(4, k - 4 * block)
        for image in range(n):
            at = (image * k + 4 * block) * length
            for j in range(0, c, 4):
                of = (image * c + j) * length
                add_products(g, at, length, rows, x, of, length, c - j, sums, j * 4, whole)
                for m in range(rows):
                    for i in range(min(4, c - j)):
                        for v in range(whole, length):
                            sums[j * 4 + 4 * m + i] += g[at + m * length + v] * x[of + i * length + v]
        for m in range(rows):
            for i in range(c):
                dw[(4 * block + m) * c + i] = sums[i // 4 * LANES + 4 * m + i % 4]


@cache
def _compiled(name: str) -> Callable[..., None]:
    function, arrays, tables, lengths = {
        "forward": (_forward, 3, 1, (12, 9)),
        "input_gradient": (_input_gradient, 4, 2, (12, 15)),
        "depthwise_gradients": (_depthwise_gradients, 5, 2, (12, 15)),
        "pointwise_products": (_pointwise_products, 3, 0, (4,)),
    }[name]
    sizes = (types.UniTuple(types.int64, length) for length in lengths)
    return compile_kernel(function, *[FLOATS] * arrays, *[INTS] * tables, *sizes, types.int64, types.int64)


@dataclass(frozen=True)
class Geometry:
    """Sizes of one adder convolution: batch, channels, maps, groups, kernel (r, s) and its steps."""

    n: int
    c: int
    h: int
    w: int
    k: int
    r: int
    s: int
    groups: int
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def p(self) -> int:
        return (self.h + 2 * self.padding[0] - self.dilation[0] * (self.r - 1) - 1) // self.stride[0] + 1

    @property
    def q(self) -> int:
        return (self.w + 2 * self.padding[1] - self.dilation[1] * (self.s - 1) - 1) // self.stride[1] + 1

    @property
    def operations(self) -> int:
        return self.n * self.k * self.p * self.q * (self.c // self.groups) * self.r * self.s

    @property
    def phases(self) -> tuple[int, int]:
        """Stride phases that the kernel positions fall into, per direction."""
        height = min(self.stride[0], (self.r - 1) * self.dilation[0] + 1)
        return height, min(self.stride[1], (self.s - 1) * self.dilation[1] + 1)

    @property
    def reads_all(self) -> bool:
        """Whether every stride phase of the input is some kernel position's, so that the backward pass writes all."""
        return self.phases == self.stride

    def shape(self) -> tuple[int, ...]:
        first = (self.n, self.c, self.h, self.w, self.k, self.p, self.q, self.groups)
        return (*first, *self.stride, *self.padding)

    def taps(self) -> list[tuple[int, int, int, int]]:
        """Per kernel position: row phase, column phase, and whole strides of row and column."""
        rows = [divmod(i * self.dilation[0], self.stride[0]) for i in range(self.r)]
        columns = [divmod(i * self.dilation[1], self.stride[1]) for i in range(self.s)]
        return [(a, b, u, v) for u, a in rows for v, b in columns]


def _cut_rows(n: int, groups: int, total: int, row: int, halo: int, pitch: int) -> tuple[int, int, int]:
    """Images per unit, rows per band and bands, so that a unit fits the scratch and there are units to share out.

    total: rows of one image; row: scratch floats per row over all channels; halo: further rows a band reads.
    """
    fit = SCRATCH_FLOATS // row - halo
    if fit >= total and n * groups >= 8:
        images = max(1, min(fit // (total + halo), -(-256 // (total * pitch)), n * groups // 8))
        return images, total, 1
    wanted = min(max(fit, -(-WIDE // pitch), 1), total)
    if n * groups * -(-total // wanted) < 8:
        wanted = min(wanted, max(-(-2 * LANES // pitch), total * n * groups // 8, 1))
    bands = -(-total // wanted)
    return 1, -(-total // bands), bands


@dataclass(frozen=True)
class Plan:
    """How a kernel cuts and addresses its work: `cut` and the offset tables of `_forward` or `_input_gradient`."""

    cut: tuple[int, ...]
    offsets: NDArray[np.int64]
    starts: NDArray[np.int64]
    units: int


@lru_cache(maxsize=1024)
def forward_plan(geometry: Geometry) -> Plan:
    """Scratch layout of the forward kernel: per channel and stride phase one plane of `rows x pitch` per image.

    With stride 1 the zeros right of a row are those left of the next one, and likewise between images.
    """
    taps, (phases_h, phases_w) = geometry.taps(), geometry.phases
    halo_h, halo_w = max(t[2] for t in taps), max(t[3] for t in taps)
    c_group, k_group = geometry.c // geometry.groups, geometry.k // geometry.groups
    p, q = geometry.p, geometry.q
    pitch = max(geometry.w + geometry.padding[1], q) if geometry.stride[1] == 1 else q + halo_w
    row = c_group * phases_h * phases_w * pitch
    images, band, bands = _cut_rows(geometry.n, geometry.groups, p, row, halo_h, pitch)
    shared = geometry.stride[0] == 1 and bands == 1
    rows = max(geometry.h + geometry.padding[0], p) if shared else band + halo_h
    pixels = ((images - 1) * rows + band - 1) * pitch + q
    plane = _odd_lines(max(halo_h * pitch + halo_w + pixels, images * rows * pitch))
    position = [(a * phases_w + b) * plane + u * pitch + v for a, b, u, v in taps]
    channel = phases_h * phases_w * plane
    offsets = np.add.outer(np.arange(c_group) * channel, np.array(position)).astype(np.int64).reshape(-1)
    lanes = 4 if k_group >= 4 else 1
    units = -(-geometry.n // images) * geometry.groups * bands
    cut = (phases_h, phases_w, images, band, bands, rows, pitch, plane, lanes)
    return Plan(cut, offsets, np.zeros(0, np.int64), units)


@lru_cache(maxsize=1024)
def backward_plan(geometry: Geometry) -> Plan:
    """Scratch layout of the input-gradient kernel: the output gradient of each k, with a margin of kernel size.

    offsets: (k, kernel position) pairs ordered by stride phase; starts: where each phase begins.
    """
    taps, (phases_h, phases_w) = geometry.taps(), geometry.phases
    halo_h, halo_w = max(t[2] for t in taps), max(t[3] for t in taps)
    c_group, k_group = geometry.c // geometry.groups, geometry.k // geometry.groups
    u0, us = _phase_range(geometry.h, geometry.stride[0], geometry.padding[0], phases_h)
    v0, vs = _phase_range(geometry.w, geometry.stride[1], geometry.padding[1], phases_w)
    if us < 1 or vs < 1:  # every output reads padding only
        return Plan((), np.zeros(0, np.int64), np.zeros(0, np.int64), 0)
    pitch = _shared_pitch(geometry.q, v0, vs, halo_w)
    images, band, bands = _cut_rows(geometry.n, geometry.groups, us, k_group * pitch, halo_h, pitch)
    rows = _shared_pitch(geometry.p, u0, us, halo_h) if bands == 1 else band + halo_h
    pixels = ((images - 1) * rows + band - 1) * pitch + vs
    plane = _odd_lines(halo_h * pitch + halo_w + pixels)
    position = np.array([(halo_h - u) * pitch + halo_w - v for _, _, u, v in taps])
    by_phase = _taps_by_phase(geometry)
    offsets = [np.add.outer(np.arange(k_group) * plane, position[list(members)]).reshape(-1) for members in by_phase]
    starts = np.cumsum([0] + [len(o) for o in offsets]).astype(np.int64)
    lanes = 4 if c_group >= 4 else 1
    units = -(-geometry.n // images) * geometry.groups * bands
    cut = (phases_h, phases_w, images, band, bands, rows, pitch, plane, lanes, u0, us, v0, vs, halo_h, halo_w)
    return Plan(cut, np.concatenate(offsets).astype(np.int64), starts, units)


def _odd_lines(size: int) -> int:
    """The next odd number of vectors: planes a power of two apart would share few sets of the first-level cache."""
    return size + (LANES - size) % (2 * LANES)


def _phase_range(size: int, stride: int, padding: int, phases: int) -> tuple[int, int]:
    """First index and count of the stride steps u for which u stride + phase - padding is inside [0, size)."""
    first = max(0, -(-(padding - phases + 1) // stride))
    return first, (size - 1 + padding) // stride - first + 1


def _shared_pitch(size: int, first: int, count: int, halo: int) -> int:
    """Least pitch at which zeros on the far side of a row can be those on the near side of the next.

    The row holds indices first - halo .. first + count - 1, of which those in [0, size) carry values.
    """
    zeros = max(0, halo - first)
    return max(count + halo - zeros, size - first + halo, count)


@lru_cache(maxsize=1024)
def _taps_by_phase(geometry: Geometry) -> tuple[tuple[int, ...], ...]:
    phases_h, phases_w = geometry.phases
    phase = [a * phases_w + b for a, b, _, _ in geometry.taps()]
    return tuple(tuple(i for i, f in enumerate(phase) if f == want) for want in range(phases_h * phases_w))


def _in_fours(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """(groups, channels, terms) -> flat (groups, channels / 4, terms, 4), channels filled up with zeros."""
    groups, channels, terms = weight.shape
    blocks = -(-channels // 4)
    full = np.zeros((groups, blocks * 4, terms), np.float32)
    full[:, :channels] = weight
    return np.ascontiguousarray(full.reshape(groups, blocks, 4, terms).transpose(0, 1, 3, 2)).reshape(-1)


def forward(
    x: NDArray[np.float32], weight: NDArray[np.float32], y: NDArray[np.float32], geometry: Geometry, threads: int
) -> None:
    """Write y = -sum |weight - x|. x: N C H W, weight: K C/groups R S, y: N K P Q, contiguous."""
    plan = forward_plan(geometry)
    flat = weight.reshape(geometry.groups, geometry.k // geometry.groups, -1)
    packed = _in_fours(flat) if plan.cut[-1] == 4 else flat.reshape(-1)
    kernel = _compiled("forward")
    arguments = (x.reshape(-1), packed, y.reshape(-1), plan.offsets, geometry.shape(), plan.cut)
    run(lambda start, stop: kernel(*arguments, start, stop), plan.units, geometry.operations, threads)


def _paired(weight: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """Weights as (groups, C/groups, pairs) in the order of `backward_plan`'s pairs."""
    c_group = geometry.c // geometry.groups
    taps = weight.reshape(geometry.groups, geometry.k // geometry.groups, c_group, -1).transpose(0, 2, 1, 3)
    parts = [taps[..., list(members)].reshape(geometry.groups, c_group, -1) for members in _taps_by_phase(geometry)]
    return np.concatenate(parts, axis=2)


def input_gradient(
    x: NDArray[np.float32],
    gradient: NDArray[np.float32],
    weight: NDArray[np.float32],
    dx: NDArray[np.float32],
    geometry: Geometry,
    threads: int,
) -> None:
    """Write dx = sum gradient clip(weight - x, -1, 1); inputs that no output reads are left as they are."""
    plan = backward_plan(geometry)
    if plan.units == 0:
        return
    pairs = _paired(weight, geometry)
    packed = _in_fours(pairs) if plan.cut[8] == 4 else pairs.reshape(-1)
    kernel = _compiled("input_gradient")
    arrays = (x.reshape(-1), gradient.reshape(-1), packed, dx.reshape(-1))
    arguments = (*arrays, plan.offsets, plan.starts, geometry.shape(), plan.cut)
    run(lambda start, stop: kernel(*arguments, start, stop), plan.units, geometry.operations, threads)


def depthwise_gradients(
    x: NDArray[np.float32],
    gradient: NDArray[np.float32],
    weight: NDArray[np.float32],
    dx: NDArray[np.float32],
    dw: NDArray[np.float32],
    geometry: Geometry,
    threads: int,
) -> None:
    """Write dx as `input_gradient` does, and dw = sum gradient (x - weight); for one input channel per group."""
    plan = backward_plan(geometry)
    if plan.units == 0:
        dw[...] = -weight * gradient.sum((0, 2, 3)).reshape(-1, 1, 1, 1)
        return
    kernel = _compiled("depthwise_gradients")
    pairs = np.empty(dw.size, np.float32)
    arrays = (x.reshape(-1), gradient.reshape(-1), _paired(weight, geometry).reshape(-1), dx.reshape(-1), pairs)
    arguments = (*arrays, plan.offsets, plan.starts, geometry.shape(), plan.cut)
    run(lambda start, stop: kernel(*arguments, start, stop), geometry.groups, geometry.operations, threads)
    positions = np.arange(dw.size, dtype=np.int64).reshape(dw.shape)  # where each pair came from
    dw.reshape(-1)[_paired(positions, geometry).reshape(-1)] = pairs


def pointwise_products(x: NDArray[np.float32], gradient: NDArray[np.float32], threads: int) -> NDArray[np.float32]:
    """Sums of products over images and pixels. x: N C L with L >= LANES, gradient: N K L. Returns: K C."""
    (n, c, length), k = x.shape, gradient.shape[1]
    kernel, dw = _compiled("pointwise_products"), np.empty(k * c, np.float32)
    arguments = (x.reshape(-1), gradient.reshape(-1), dw, (n, c, k, length))
    run(lambda start, stop: kernel(*arguments, start, stop), -(-k // 4), n * c * k * length, threads)
    return dw.reshape(k, c)
