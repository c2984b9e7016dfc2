"""The adder layer written as its formulae say, one loop per index: slow, and independent of the fast code."""

import itertools

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def adder(
    x: Array,
    weight: Array,
    gradient: Array | None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> tuple[Array, Array, Array]:
    """Y, dX, dW of Y = -sum |W - X|, dW = sum G (X - W), dX = sum G clip(W - X, -1, 1)."""
    n, _, h, w = x.shape
    k, c_group, r, s = weight.shape
    p = (h + 2 * padding[0] - dilation[0] * (r - 1) - 1) // stride[0] + 1
    q = (w + 2 * padding[1] - dilation[1] * (s - 1) - 1) // stride[1] + 1
    y, dx, dw = np.zeros((n, k, p, q)), np.zeros_like(x), np.zeros_like(weight)
    for i, o, a, b in itertools.product(range(n), range(k), range(p), range(q)):
        first = o // (k // groups) * c_group
        for ci, u, v in itertools.product(range(c_group), range(r), range(s)):
            row = a * stride[0] + u * dilation[0] - padding[0]
            column = b * stride[1] + v * dilation[1] - padding[1]
            inside = 0 <= row < h and 0 <= column < w
            value = x[i, first + ci, row, column] if inside else 0.0
            difference = weight[o, ci, u, v] - value
            y[i, o, a, b] -= abs(difference)
            if gradient is not None:
                dw[o, ci, u, v] -= gradient[i, o, a, b] * difference
                if inside:
                    dx[i, first + ci, row, column] += gradient[i, o, a, b] * min(1.0, max(-1.0, difference))
    return y, dx, dw
