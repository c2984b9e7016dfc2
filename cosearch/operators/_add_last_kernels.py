# mypy: disable-error-code="call-arg, var-annotated, type-var, misc, assignment"
# The kernels are in numba's dialect: mypy sees neither the intrinsics' arguments nor their values.
"""Numba kernels of the adder layer's response where channels are last in memory, float32, on a CPU.

Networks keep their values so, because convolutions like it, and the kernels of `_add_kernels` would have every input
and output transposed. Here sixteen output channels are one vector, and eight pixels' sums stay in registers. A sum's
terms are added in the order in which `_add_kernels` adds them, so that both give the same bits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numba import types
from numpy.typing import NDArray

from cosearch.operators._add_kernels import SCRATCH_FLOATS, Geometry
from cosearch.operators._simd import (
    FLOATS,
    INTS,
    LANES,
    compile_kernel,
    load,
    load_some,
    minus_distance,
    run,
    spread,
    store,
    store_some,
    whole,
    zero,
)

TILE = 8
"""Pixels whose sums a kernel holds at once."""


def _pointwise(x, w, y, shape, start, stop):  # type: ignore[no-untyped-def]
    """Tiles start..stop of y = -sum |w - x|. x: pixels x c; w: blocks x c x LANES; y: pixels x k; shape: their sizes.

    The last tile's missing pixels are its last one again.
    """
    pixels, c, k = shape
    for tile in range(start, stop):
        p0, end = tile * TILE, pixels - 1
        p1, p2, p3, p4 = min(p0 + 1, end), min(p0 + 2, end), min(p0 + 3, end), min(p0 + 4, end)
        p5, p6, p7 = min(p0 + 5, end), min(p0 + 6, end), min(p0 + 7, end)
        for first in range(0, k, LANES):
            s0, s1, s2, s3, s4, s5, s6, s7 = zero(), zero(), zero(), zero(), zero(), zero(), zero(), zero()
            at = first * c
            for t in range(c):
                weight = load(w, at)
                s0 = minus_distance(s0, weight, spread(x, p0 * c + t))
                s1 = minus_distance(s1, weight, spread(x, p1 * c + t))
                s2 = minus_distance(s2, weight, spread(x, p2 * c + t))
                s3 = minus_distance(s3, weight, spread(x, p3 * c + t))
                s4 = minus_distance(s4, weight, spread(x, p4 * c + t))
                s5 = minus_distance(s5, weight, spread(x, p5 * c + t))
                s6 = minus_distance(s6, weight, spread(x, p6 * c + t))
                s7 = minus_distance(s7, weight, spread(x, p7 * c + t))
                at += LANES
            store_some(y, p0 * k + first, s0, 0, k - first)
            store_some(y, p1 * k + first, s1, 0, k - first)
            store_some(y, p2 * k + first, s2, 0, k - first)
            store_some(y, p3 * k + first, s3, 0, k - first)
            store_some(y, p4 * k + first, s4, 0, k - first)
            store_some(y, p5 * k + first, s5, 0, k - first)
            store_some(y, p6 * k + first, s6, 0, k - first)
            store_some(y, p7 * k + first, s7, 0, k - first)


def _depthwise(x, w, y, bases, offsets, shape, cut, start, stop):  # type: ignore[no-untyped-def]
    """Units start..stop of y = -sum |w - x|, each of some images and channels. w: blocks x taps x LANES.

    shape, cut, bases, offsets: see `depthwise_plan`.
    """
    n, c, h, width, p, q, pad_h, pad_w = shape
    images, span, plane, pitch = cut
    parts, taps, outputs, block = (c + span - 1) // span, offsets.size, p * q, images * plane * LANES
    scratch = np.zeros((span + LANES - 1) // LANES * block + LANES, np.float32)
    scratch = scratch[-(scratch.ctypes.data // 4) % LANES :]
    for unit in range(start, stop):
        c0, n0 = unit % parts * span, unit // parts * images
        count, channels = min(images, n - n0), min(span, c - c0)
        for i in range(count):
            for u in range(h):
                out_of = ((n0 + i) * h + u) * width * c + c0
                into = (i * plane + (u + pad_h) * pitch + pad_w) * LANES
                for _ in range(width):
                    for b in range(channels // LANES):
                        store(scratch, into + b * block, load(x, out_of + b * LANES))
                    if channels % LANES:
                        b, some = channels // LANES, channels % LANES
                        store(scratch, into + b * block, load_some(x, out_of + b * LANES, 0, some))
                    out_of += c
                    into += LANES
        end = count * outputs - 1
        for p0 in range(0, count * outputs, TILE):
            p1, p2, p3, p4 = min(p0 + 1, end), min(p0 + 2, end), min(p0 + 3, end), min(p0 + 4, end)
            p5, p6, p7 = min(p0 + 5, end), min(p0 + 6, end), min(p0 + 7, end)
            b0, b1, b2, b3 = whole(bases, p0), whole(bases, p1), whole(bases, p2), whole(bases, p3)
            b4, b5, b6, b7 = whole(bases, p4), whole(bases, p5), whole(bases, p6), whole(bases, p7)
            for first in range(0, channels, LANES):
                s0, s1, s2, s3, s4, s5, s6, s7 = zero(), zero(), zero(), zero(), zero(), zero(), zero(), zero()
                at, plus = (c0 + first) * taps, first // LANES * block
                for t in range(taps):
                    o, weight = whole(offsets, t) + plus, load(w, at)
                    s0 = minus_distance(s0, weight, load(scratch, b0 + o))
                    s1 = minus_distance(s1, weight, load(scratch, b1 + o))
                    s2 = minus_distance(s2, weight, load(scratch, b2 + o))
                    s3 = minus_distance(s3, weight, load(scratch, b3 + o))
                    s4 = minus_distance(s4, weight, load(scratch, b4 + o))
                    s5 = minus_distance(s5, weight, load(scratch, b5 + o))
                    s6 = minus_distance(s6, weight, load(scratch, b6 + o))
                    s7 = minus_distance(s7, weight, load(scratch, b7 + o))
                    at += LANES
                to, some = n0 * outputs * c + c0 + first, channels - first
                store_some(y, to + p0 * c, s0, 0, some)
                store_some(y, to + p1 * c, s1, 0, some)
                store_some(y, to + p2 * c, s2, 0, some)
                store_some(y, to + p3 * c, s3, 0, some)
                store_some(y, to + p4 * c, s4, 0, some)
                store_some(y, to + p5 * c, s5, 0, some)
                store_some(y, to + p6 * c, s6, 0, some)
                store_some(y, to + p7 * c, s7, 0, some)


@cache
def _compiled(name: str) -> Callable[..., None]:
    function, tables, lengths = {"pointwise": (_pointwise, 0, (3,)), "depthwise": (_depthwise, 2, (8, 4))}[name]
    sizes = (types.UniTuple(types.int64, length) for length in lengths)
    return compile_kernel(function, *[FLOATS] * 3, *[INTS] * tables, *sizes, types.int64, types.int64)


def fits(geometry: Geometry) -> bool:
    """Whether there is a kernel for a layer, and vectors of its channels are at least half full."""
    unit_steps = geometry.stride == (1, 1) and geometry.padding == (0, 0)
    pointwise = (geometry.r, geometry.s, geometry.groups) == (1, 1, 1) and unit_steps
    depthwise = geometry.c == geometry.k == geometry.groups
    return (pointwise or depthwise) and geometry.k >= LANES // 2


@dataclass(frozen=True)
class DepthwisePlan:
    """cut: images of a unit, pixels of a padded plane and of its rows. bases, offsets: where the scratch holds an
    output's first input, and from there that of each kernel position."""

    cut: tuple[int, int, int, int]
    bases: NDArray[np.int64]
    offsets: NDArray[np.int64]


@lru_cache(maxsize=1024)
def depthwise_plan(geometry: Geometry) -> DepthwisePlan:
    """Scratch layout: of each image one plane of LANES channels, which are last, with the padding around it."""
    height, pitch = geometry.h + 2 * geometry.padding[0], geometry.w + 2 * geometry.padding[1]
    p, q, plane = geometry.p, geometry.q, height * pitch
    span = LANES * max(1, min(-(-geometry.c // LANES), SCRATCH_FLOATS // (plane * LANES)))
    images = max(1, min(geometry.n, SCRATCH_FLOATS // (plane * span), -(-64 // (p * q))))
    rows, columns = (np.arange(n) * step for n, step in zip((p, q), geometry.stride, strict=True))
    down, right = (np.arange(n) * step for n, step in zip((geometry.r, geometry.s), geometry.dilation, strict=True))
    starts = np.add.outer(np.arange(images) * plane, np.add.outer(rows * pitch, columns).reshape(-1))
    offsets = np.add.outer(down * pitch, right)
    bases, places = (LANES * table.astype(np.int64).reshape(-1) for table in (starts, offsets))
    return DepthwisePlan((images, span, plane, pitch), bases, places)


def _in_lanes(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """(channels, terms) -> flat (channels / LANES, terms, LANES), channels filled up with zeros."""
    channels, terms = weight.shape
    full = np.zeros((-(-channels // LANES), LANES, terms), np.float32)
    full.reshape(-1, terms)[:channels] = weight
    return np.ascontiguousarray(full.transpose(0, 2, 1)).reshape(-1)


def forward(
    x: NDArray[np.float32], weight: NDArray[np.float32], y: NDArray[np.float32], geometry: Geometry, threads: int
) -> None:
    """Write y = -sum |weight - x| where `fits`. x: N H W C, weight: K C/groups R S, y: N P Q K, contiguous."""
    g = geometry
    arrays = (x.reshape(-1), _in_lanes(weight.reshape(g.k, -1)), y.reshape(-1))
    if g.groups == 1:
        pixels, kernel = g.n * g.h * g.w, _compiled("pointwise")
        shape = (pixels, g.c, g.k)
        run(lambda start, stop: kernel(*arrays, shape, start, stop), -(-pixels // TILE), g.operations, threads)
        return
    plan, kernel = depthwise_plan(g), _compiled("depthwise")
    sizes = ((g.n, g.c, g.h, g.w, g.p, g.q, *g.padding), plan.cut)
    units = -(-g.n // plan.cut[0]) * -(-g.c // plan.cut[1])
    run(
        lambda start, stop: kernel(*arrays, plan.bases, plan.offsets, *sizes, start, stop),
        units,
        g.operations,
        threads,
    )
