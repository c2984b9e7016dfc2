"""Butterfly factors entry by entry, and the least-squares fit of one factor as a dense linear system."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def factor(weight: Array) -> Array:
    """B x r x s x t values as a dense matrix."""
    b, r, s, t = weight.shape
    dense = np.zeros((b * r * t, b * s * t))
    for block in range(b):
        for i in range(r):
            for j in range(s):
                for d in range(t):
                    dense[(block * r + i) * t + d, (block * s + j) * t + d] = weight[block, i, j, d]
    return dense


def fitted_factor(matrix: Array, later: Array, early: Array, shape: tuple[int, int, int, int]) -> Array:
    """argmin over the non-zeros of F of ||matrix - later F early||, by numpy's least squares."""
    support = np.argwhere(factor(np.ones(shape)))
    system = np.stack([np.outer(later[:, u], early[v]).reshape(-1) for u, v in support], 1)
    solution = np.linalg.lstsq(system, matrix.reshape(-1), rcond=None)[0]
    dense = np.zeros((later.shape[1], early.shape[0]))
    dense[support[:, 0], support[:, 1]] = solution
    return dense
