"""Exact Gaussian process: a linear and a Matern-5/2 part, all scales by marginal likelihood.

The linear part is what ridge regression sees, so that ten samples already extrapolate; the Matern part learns what is
not additive. Columns may be split into groups with a length scale each.
"""

import ctypes
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, cython_blas, solve_triangular
from scipy.optimize import minimize

from cosearch.errors import DataError
from predictors.base import Arrays, Floats, Predictor, checked, threads

SQRT5 = np.sqrt(5.0)
JITTER = 1e-6
PRIOR_STD = (1.5, 1.0, 1.5)
"""Standard deviations of the log-normal priors of signal variances, length scales and noise: few samples need them."""
NOISE_MEDIAN = 1e-2
ROWS_AT_ONCE = 512
SINGLE_NOISE = 5e-3
"""With more noise than this, as a part of the targets' variance, variances are computed in single precision."""
MOST_RESTORED = 16_384
"""Samples of a process in a file: their kernel has 2 GiB."""


class GaussianProcess(Predictor):
    """k(x, x') = a x.x'/d + b Matern52(|x - x'|) + noise; hyperparameters maximise likelihood times log-normal priors.

    groups: columns of each length scale, every column once; one group of all by default.
    O(n^3) in fitting, so up to about 2,000 samples.
    """

    name = "gp"
    minimum = 3

    def __init__(
        self,
        log: bool = False,
        seed: int = 0,
        groups: Sequence[Sequence[int]] | None = None,
        linear: bool = True,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(log, seed, weights)
        self.groups = [list(g) for g in groups] if groups is not None else None
        self.linear = linear

    @property
    def options(self) -> dict[str, Any]:
        return {**super().options, "groups": self.groups, "linear": self.linear}

    def _fit(self, X: Floats, y: Floats) -> None:
        self._widths(X.shape[1])
        self._X = X
        squares = self._squares(X, X)
        dot = X @ X.T / X.shape[1]
        count = len(squares)
        centres = np.log(np.array([0.5, 0.5, *[1.0] * count, NOISE_MEDIAN]))
        spreads = np.array([PRIOR_STD[0]] * 2 + [PRIOR_STD[1]] * count + [PRIOR_STD[2]])

        def loss(theta: Floats) -> tuple[float, Floats]:
            value, gradient = _negative_log_likelihood(theta, dot if self.linear else None, squares, y)
            standard = (theta - centres) / spreads
            return value + 0.5 * float(standard @ standard), gradient + standard / spreads

        bounds = [(c - 6 * s, c + 6 * s) for c, s in zip(centres, spreads, strict=True)]
        found = minimize(loss, centres, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60})
        self._theta = np.asarray(found.x)
        self._condition(y)

    def condition(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """Take other samples and keep all scales: O(n^3) once, where `fit` does it for every step of its search.

        X: [n, d]; y: [n]. Raises: DataError as `fit` does.
        """
        self._require_fit()
        features, targets = checked(X, y, self.minimum, self.name, self.log)
        target = np.log(targets) if self.log else targets
        self._X, self.samples = self._scaled(features), len(target)
        self._condition((target - self._target_mean) / self._target_std)
        return self

    def _condition(self, y: Floats) -> None:
        kernel = self._kernel_of_samples()
        self._weights = cho_solve(cho_factor(kernel, lower=True), y)
        self._whiten(kernel)

    def _kernel_of_samples(self) -> Floats:
        """[n, n] with the noise on its diagonal."""
        self._stretch()
        n = len(self._X)
        kernel = np.empty((n, n))
        self._matern(self._X, kernel, np.empty((n, n)))
        kernel *= np.exp(self._theta[1])
        if self._along is not None:
            kernel += self._X @ self._along
        kernel[np.diag_indices(n)] += np.exp(self._theta[-1]) + JITTER
        return kernel

    def _whiten(self, kernel: Floats) -> None:
        """The inverse of the kernel's factor: |W k|^2 is the variance that the samples take off.

        Single precision where the noise is large beside its rounding: the standard deviation then is right to 1e-4.
        """
        factor = np.linalg.cholesky(kernel)
        inverse = np.asfortranarray(solve_triangular(factor, np.eye(len(kernel)), lower=True, check_finite=False))
        kind = np.float32 if np.exp(self._theta[-1]) > SINGLE_NOISE else np.float64
        self._whitener = inverse.astype(kind, copy=False)
        self._along_cast = self._along.astype(kind, copy=False) if self._along is not None else None

    def _widths(self, d: int) -> None:
        groups = self.groups if self.groups is not None else [list(range(d))]
        if sorted(i for g in groups for i in g) != list(range(d)):
            raise DataError(f"groups {groups}: expected each of {d} columns once")
        self._columns = [np.array(g) for g in groups]

    def _squares(self, A: Floats, B: Floats) -> list[Floats]:
        """Per group: [a, b] squared distances divided by the number of columns."""
        out = []
        for columns in self._columns:
            a, b = A[:, columns], B[:, columns]
            distance = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2.0 * (a @ b.T)
            out.append(np.maximum(distance, 0.0) / len(columns))
        return out

    def _stretch(self) -> None:
        """The samples in units of the length scales, in which the kernel's distances are plain ones."""
        stretch = np.empty(self._X.shape[1])
        for columns, scale in zip(self._columns, np.exp(-2.0 * self._theta[2:-1]), strict=True):
            stretch[columns] = np.sqrt(5.0 * scale / len(columns))
        self._stretches = stretch
        near = self._X * stretch
        # (x, |x|^2, 1) times a column of these is a squared distance
        self._near = np.column_stack([-2.0 * near, np.ones(len(near)), (near * near).sum(1)]).T
        slope = np.exp(self._theta[0]) / self._X.shape[1]
        self._along = np.ascontiguousarray(slope * self._X.T) if self.linear else None

    def _matern(self, A: Floats, out: Floats, spare: Floats) -> None:
        """The Matern part between A and the samples for a variance of one in out, [a, n] as spare is."""
        near = A * self._stretches
        np.matmul(np.column_stack([near, (near * near).sum(1), np.ones(len(near))]), self._near, out=out)
        np.abs(out, out=out)  # of equal rows rounding leaves what may be below zero
        _matern52(out, spare)

    def _predict(self, X: Floats) -> tuple[Floats, Floats]:
        mean, std = np.empty(len(X)), np.empty(len(X))
        unused: list[tuple[npt.NDArray[Any], ...]] = []
        single_or_double = self._whitener.dtype
        shape = (min(len(X), ROWS_AT_ONCE), len(self._X))

        def some(start: int) -> None:
            rows = slice(start, start + ROWS_AT_ONCE)
            # fresh arrays of this size take longer than what is done to them
            arrays = (
                unused.pop() if unused else tuple(np.empty(shape, kind) for kind in (float, float, single_or_double))
            )
            mean[rows], std[rows] = self._predict_block(X[rows], *(array[: len(mean[rows])] for array in arrays))
            unused.append(arrays)

        starts = range(0, len(X), ROWS_AT_ONCE)
        if len(starts) == 1:
            some(0)
        else:
            with threads() as several:
                list(several.map(some, starts))
        return mean, std

    def _predict_block(self, X: Floats, near: Floats, spare: Floats, cross: npt.NDArray[Any]) -> tuple[Floats, Floats]:
        """So few rows that the kernel between them and the samples stays in the cache. The last three: [rows, n].

        The mean is of double precision, the kernel that variances are made of as the whitener is.
        """
        linear, matern, noise = np.exp(self._theta[[0, 1, -1]])
        self._matern(X, near, spare)
        mean, prior = near @ (matern * self._weights), np.full(len(X), matern)
        np.multiply(near, matern, out=cross, casting="same_kind")
        if self._along is not None and self._along_cast is not None:
            mean += X @ (self._along @ self._weights)
            prior += linear / X.shape[1] * (X * X).sum(1)
            cross += X.astype(cross.dtype) @ self._along_cast
        _times_triangle(cross, self._whitener)
        taken = np.einsum("rn,rn->r", cross, cross)
        return mean, np.sqrt(np.maximum(prior - taken, 1e-12) + noise)

    def _arrays(self) -> Arrays:
        return {"X": self._X, "theta": self._theta, "weights": self._weights}

    def _restore(self, arrays: Arrays) -> None:
        self._X, self._theta, self._weights = arrays["X"], arrays["theta"], arrays["weights"]
        if len(self._X) > MOST_RESTORED:
            raise DataError(f"a Gaussian process of {len(self._X):,} samples, at most {MOST_RESTORED:,} are restored")
        self._widths(self._X.shape[1])
        self._whiten(self._kernel_of_samples())


def _times_triangle(rows: npt.NDArray[Any], triangle: npt.NDArray[Any]) -> None:
    """rows = rows W' in place; rows: [r, n] C-contiguous; W: [n, n] lower triangular, Fortran-contiguous; of one type.

    A triangular product takes half as long as a plain one. BLAS reads columns, so it is that of the transposes.
    """
    single, (r, n) = rows.dtype == np.float32, rows.shape
    assert triangle.dtype == rows.dtype
    assert triangle.shape == (n, n)
    assert rows.flags.c_contiguous
    assert triangle.flags.f_contiguous
    number = ctypes.c_float if single else ctypes.c_double
    height, width, one = ctypes.c_int(n), ctypes.c_int(r), number(1.0)
    by = ctypes.byref
    _blas("strmm" if single else "dtrmm")(
        b"L",
        b"L",
        b"N",
        b"N",
        by(height),
        by(width),
        by(one),
        triangle.ctypes.data,
        by(height),
        rows.ctypes.data,
        by(height),
    )


@lru_cache
def _blas(name: str) -> Callable[..., None]:
    """A routine of scipy's BLAS that lets other threads run: those of scipy.linalg.blas hold the interpreter's lock."""
    capsule = cython_blas.__pyx_capi__[name]
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    address = api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule))
    letters, pointers = [ctypes.c_char_p] * 4, [ctypes.c_void_p] * 7
    return ctypes.CFUNCTYPE(None, *letters, *pointers)(address)


def _matern52(squared: Floats, spare: Floats) -> None:
    """In place (1 + r + r^2/3) exp(-r) with r^2 = squared: prediction spends its time here. spare: as large."""
    r = np.sqrt(squared, out=spare)
    squared *= 1.0 / 3.0
    squared += r
    squared += 1.0
    squared *= np.exp(np.negative(r, out=r), out=r)


def _negative_log_likelihood(
    theta: Floats, dot: Floats | None, squares: list[Floats], y: Floats
) -> tuple[float, Floats]:
    """Value and gradient. theta: logs of [linear variance, Matern variance, length scale per group, noise variance].

    dot: [n, n] x.x'/d; squares: per group [n, n] squared distance.
    Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, Eq. 5.9.
    """
    n = len(y)
    a, b, noise = np.exp(theta[0]), np.exp(theta[1]), np.exp(theta[-1])
    scales = np.exp(-2.0 * theta[2:-1])
    squared = np.asarray(sum(s * q for s, q in zip(scales, squares, strict=True)))
    r = np.sqrt(squared)
    decay = np.exp(-SQRT5 * r)
    matern = (1.0 + SQRT5 * r + 5.0 / 3.0 * squared) * decay
    kernel = b * matern + (noise + JITTER) * np.eye(n)
    if dot is not None:
        kernel += a * dot
    factor = cho_factor(kernel, lower=True, overwrite_a=True, check_finite=False)
    weights = cho_solve(factor, y, check_finite=False)
    value = 0.5 * float(y @ weights) + float(np.log(np.diag(factor[0])).sum())
    # d value / d theta = 1/2 tr((K^-1 - w w^T) dK / d theta)
    outer = cho_solve(factor, np.eye(n), check_finite=False) - np.outer(weights, weights)
    slope = outer * (b * 5.0 / 3.0 * (1.0 + SQRT5 * r) * decay)  # times scale * square: d Matern / d log length scale
    gradient = [
        0.5 * a * float((outer * dot).sum()) if dot is not None else 0.0,
        0.5 * b * float((outer * matern).sum()),
        *(0.5 * s * float((slope * q).sum()) for s, q in zip(scales, squares, strict=True)),
        0.5 * noise * float(np.trace(outer)),
    ]
    return value, np.array(gradient)
