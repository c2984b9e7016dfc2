# mypy: disable-error-code="call-arg, var-annotated, type-var, misc, assignment"
"""Numba kernels of one butterfly factor on columns N x channels x L, float32, on a CPU.

For block b and diagonal tau a factor is an r x s product over L columns whose rows are t apart. Four rows of r by
sixteen columns stay in registers; nothing is permuted or copied, as a batched matrix product would need.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numba import types
from torch import Tensor

from cosearch.operators._simd import FLOATS, LANES, compile_kernel, load, plus_product, run, spread, store, zero


def _apply(x, w, y, n, b, r, s, t, length, start, stop):  # type: ignore[no-untyped-def]
    """Units (n, b, tau) start..stop of y = F x. x: N x (b s t) x L, y: N x (b r t) x L, w: b t r/4 s 4."""
    blocks, step = (r + 3) // 4, t * length
    whole = length // LANES * LANES
    for unit in range(start, stop):
        tau, nb = unit % t, unit // t
        weights = ((nb % b) * t + tau) * blocks * s * 4
        source, target = (nb * s * t + tau) * length, (nb * r * t + tau) * length
        for left in range(0, whole, LANES):
            for block in range(blocks):
                s0, s1, s2, s3 = zero(), zero(), zero(), zero()
                at, of = source + left, weights + block * s * 4
                for _ in range(s):
                    value = load(x, at)
                    s0 = plus_product(s0, spread(w, of), value)
                    s1 = plus_product(s1, spread(w, of + 1), value)
                    s2 = plus_product(s2, spread(w, of + 2), value)
                    s3 = plus_product(s3, spread(w, of + 3), value)
                    at += step
                    of += 4
                to = target + block * 4 * step + left
                store(y, to, s0)
                if block * 4 + 1 < r:
                    store(y, to + step, s1)
                if block * 4 + 2 < r:
                    store(y, to + 2 * step, s2)
                if block * 4 + 3 < r:
                    store(y, to + 3 * step, s3)
        for i in range(r):
            of = weights + (i // 4) * s * 4 + i % 4
            for left in range(whole, length):
                total = np.float32(0.0)
                for j in range(s):
                    total += w[of + j * 4] * x[source + j * step + left]
                y[target + i * step + left] = total


def _weight_gradient(x, g, dw, n, b, r, s, t, length, start, stop):  # type: ignore[no-untyped-def]
    """Units (b, tau) start..stop of dw[b, i, j, tau] = sum over n and L of g[b, i, tau] x[b, j, tau]."""
    step = t * length
    whole = length // LANES * LANES
    lanes = np.empty(8 * LANES, np.float32)
    for unit in range(start, stop):
        block, tau = unit // t, unit % t
        for i in range(0, r, 4):
            i1, i2, i3 = min(i + 1, r - 1) - i, min(i + 2, r - 1) - i, min(i + 3, r - 1) - i
            for j in range(0, s, 2):
                j1 = min(j + 1, s - 1) - j
                a0, a1, a2, a3 = zero(), zero(), zero(), zero()
                b0, b1, b2, b3 = zero(), zero(), zero(), zero()
                for image in range(n):
                    gs = (((image * b + block) * r + i) * t + tau) * length
                    xs = (((image * b + block) * s + j) * t + tau) * length
                    for left in range(0, whole, LANES):
                        x0, x1 = load(x, xs + left), load(x, xs + j1 * step + left)
                        g0, g1 = load(g, gs + left), load(g, gs + i1 * step + left)
                        g2, g3 = load(g, gs + i2 * step + left), load(g, gs + i3 * step + left)
                        a0, b0 = plus_product(a0, g0, x0), plus_product(b0, g0, x1)
                        a1, b1 = plus_product(a1, g1, x0), plus_product(b1, g1, x1)
                        a2, b2 = plus_product(a2, g2, x0), plus_product(b2, g2, x1)
                        a3, b3 = plus_product(a3, g3, x0), plus_product(b3, g3, x1)
                store(lanes, 0, a0)
                store(lanes, LANES, a1)
                store(lanes, 2 * LANES, a2)
                store(lanes, 3 * LANES, a3)
                store(lanes, 4 * LANES, b0)
                store(lanes, 5 * LANES, b1)
                store(lanes, 6 * LANES, b2)
                store(lanes, 7 * LANES, b3)
                for v in range(min(2, s - j)):
                    for u in range(min(4, r - i)):
                        total = np.float32(0.0)
                        for lane in range(LANES):
                            total += lanes[(v * 4 + u) * LANES + lane]
                        for image in range(n):
                            gs = (((image * b + block) * r + i + u) * t + tau) * length
                            xs = (((image * b + block) * s + j + v) * t + tau) * length
                            for left in range(whole, length):
                                total += g[gs + left] * x[xs + left]
                        dw[((block * r + i + u) * s + j + v) * t + tau] = total


@cache
def _compiled(name: str) -> Callable[..., None]:
    function = {"apply": _apply, "weight_gradient": _weight_gradient}[name]
    return compile_kernel(function, FLOATS, FLOATS, FLOATS, *[types.int64] * 8)


def apply(x: Tensor, weight: Tensor, threads: int) -> Tensor:
    """y = F x. x: N x (b s t) x L; weight: b x r x s x t. Returns: N x (b r t) x L."""
    n, _, length = x.shape
    b, r, s, t = weight.shape
    padded = torch.nn.functional.pad(weight, (0, 0, 0, 0, 0, -r % 4))
    packed = padded.view(b, -1, 4, s, t).permute(0, 4, 1, 3, 2).reshape(-1)
    y = torch.empty(n, b * r * t, length)
    arrays = (x.contiguous().view(-1).numpy(), packed.numpy(), y.view(-1).numpy())
    kernel = _compiled("apply")
    sizes = (n, b, r, s, t, length)
    run(lambda start, stop: kernel(*arrays, *sizes, start, stop), n * b * t, n * weight.numel() * length, threads)
    return y


def weight_gradient(x: Tensor, gradient: Tensor, weight: Tensor, threads: int) -> Tensor:
    """dF of y = F x for the gradient of y; shapes as `apply`."""
    n, _, length = x.shape
    b, r, s, t = weight.shape
    dw = torch.empty(weight.shape)
    arrays = (x.contiguous().view(-1).numpy(), gradient.contiguous().view(-1).numpy(), dw.view(-1).numpy())
    kernel = _compiled("weight_gradient")
    sizes = (n, b, r, s, t, length)
    run(lambda start, stop: kernel(*arrays, *sizes, start, stop), b * t, n * weight.numel() * length, threads)
    return dw
