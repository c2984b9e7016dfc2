"""SmartExchange: each filter as W = Ce B, Ce sparse with power-of-two entries, B a small dense basis.

A filter C x R x S is the matrix (C R) x S; a row of a linear or pointwise layer is cut into rows of `basis` values.
Whole rows of Ce are zero (vector sparsity). Hardware keeps Ce (4 bits) and B (8 bits) and rebuilds W by shifts and
adds, which trades DRAM traffic for arithmetic.

Training recipe: train as a convolution, `project_()` after every epoch, the last epoch included.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosearch.operators.common import ConvOperator, LinearOperator, Operator, is_count, require
from cosearch.workload import Layer

COEFFICIENT_BITS = 4
BASIS_BITS = 8
EXPONENTS = tuple(range(-6, 1))
"""Exponents of a coefficient: with two signs and zero 15 codes, which 4 bits hold; columns of Ce have unit norm."""


@dataclass(frozen=True)
class SmartExchangeCode:
    """coefficients: F x M x S, zero or +-2^e; basis: F x S x S; the matrices are their products."""

    coefficients: Tensor
    basis: Tensor

    def matrices(self) -> Tensor:
        return self.coefficients @ self.basis

    @property
    def row_density(self) -> float:
        """Share of the rows of Ce that are not zero."""
        return float((self.coefficients != 0).any(-1).float().mean())

    @property
    def storage_bits(self) -> int:
        """Non-zero rows x S x 4 bits, one index bit per row, S^2 x 8 bits per basis."""
        filters, rows, s = self.coefficients.shape
        live = int((self.coefficients != 0).any(-1).sum())
        return live * s * COEFFICIENT_BITS + filters * rows + filters * s * s * BASIS_BITS


def _nearest_power(values: Tensor, exponents: tuple[int, ...]) -> Tensor:
    """Nearest of zero and the signed powers of two."""
    magnitude = values.abs()
    powers = torch.tensor([0.0, *(2.0**e for e in sorted(exponents))], dtype=values.dtype, device=values.device)
    between = (powers[1:] + powers[:-1]) / 2
    return powers[torch.bucketize(magnitude, between)] * values.sign()


@torch.no_grad()
def smart_exchange(
    matrices: Tensor,
    exponents: tuple[int, ...] | None = EXPONENTS,
    threshold: float = 0.0,
    iterations: int = 30,
    basis_bits: int | None = BASIS_BITS,
) -> SmartExchangeCode:
    """Alternate fits of B and Ce, quantising Ce in between; ends with a quantised Ce and B refitted to it.

    matrices: F x M x S. exponents: of the coefficients; None leaves them real (then the product is exact at threshold
    0). threshold: rows of the unit-norm-column Ce below this norm become zero. basis_bits: B is rounded to so many
    bits with one scale per filter; None leaves it real.
    Raises: OperatorError naming the argument. Source: SmartExchange (ISCA 2020), Algorithm 1.
    """
    require(matrices.dim() == 3, "matrices", tuple(matrices.shape), "F x M x S")
    require(exponents is None or len(exponents) > 0, "exponents", exponents, "at least one exponent, or None")
    require(threshold >= 0, "threshold", threshold, "a number of at least 0")
    require(is_count(iterations), "iterations", iterations, "an integer of at least 1")
    target = matrices.double()
    real = target.clone()
    best: tuple[Tensor, Tensor] | None = None
    least, previous = torch.full((len(target),), math.inf, dtype=torch.float64), math.inf
    for _ in range(iterations):
        norms = real.norm(dim=1, keepdim=True)
        unit = real / torch.where(norms > 0, norms, 1.0)
        kept = unit * (unit.norm(dim=2, keepdim=True) >= threshold)
        coefficients = kept if exponents is None else _nearest_power(kept, exponents)
        basis = torch.linalg.pinv(coefficients) @ target
        errors = (target - coefficients @ basis).square().sum((1, 2))
        if best is None:
            best = coefficients.clone(), basis.clone()
        better = errors < least
        best[0][better], best[1][better] = coefficients[better], basis[better]
        least = torch.minimum(least, errors)
        if abs(previous - float(errors.sum())) < 1e-10:
            break
        previous = float(errors.sum())
        real = target @ torch.linalg.pinv(basis)
    assert best is not None
    basis = best[1] if basis_bits is None else _rounded(best[1], basis_bits)
    return SmartExchangeCode(best[0].to(matrices.dtype), basis.to(matrices.dtype))


def _rounded(basis: Tensor, bits: int) -> Tensor:
    require(is_count(bits) and bits >= 2, "basis_bits", bits, "an integer of at least 2, or None")
    top = 2 ** (bits - 1) - 1
    scale = basis.abs().amax((1, 2), keepdim=True) / top
    return torch.round(basis / torch.where(scale > 0, scale, 1.0)) * scale


class _Exchanged(Operator):
    """A weight that `project_` replaces by the nearest Ce B found, and the code of the last projection."""

    weight: nn.Parameter
    coefficients: Tensor
    basis: Tensor

    def _build(self, basis: int = 4, threshold: float = 0.0) -> None:
        require(is_count(basis), "basis", basis, "an integer of at least 1")
        require(threshold >= 0, "threshold", threshold, "a number of at least 0")
        shape, self.threshold = self.weight_shape, threshold
        self.width = shape[3] if len(shape) == 4 and shape[3] > 1 else basis
        self.weight = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5)))
        rows = -(-math.prod(shape[1:]) // self.width)
        self.register_buffer("coefficients", torch.ones(shape[0], rows, self.width))
        self.register_buffer("basis", torch.zeros(shape[0], self.width, self.width))

    def _matrices(self) -> Tensor:
        flat = self.weight.detach().flatten(1)
        return F.pad(flat, (0, -flat.shape[1] % self.width)).reshape(len(flat), -1, self.width)

    @property
    def code(self) -> SmartExchangeCode:
        return SmartExchangeCode(self.coefficients, self.basis)

    @torch.no_grad()
    def project_(self) -> float:
        """Replace the weight by Ce B. Returns: the relative error of the replacement."""
        before = self.weight.detach().clone()
        code = smart_exchange(self._matrices(), threshold=self.threshold)
        self.coefficients.copy_(code.coefficients)
        self.basis.copy_(code.basis)
        flat = code.matrices().flatten(1)[:, : self.weight[0].numel()]
        self.weight.copy_(flat.reshape(self.weight.shape))
        return float((self.weight - before).norm() / before.norm().clamp_min(1e-12))

    @torch.no_grad()
    def load_dense(self, weight: Tensor) -> None:
        self.weight.copy_(weight)
        self.project_()

    def dense_weight(self) -> Tensor:
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        return self.product(x, self.weight, self.bias)

    def plain(self) -> nn.Module:
        return self.dense(self.weight.detach(), self.bias)

    def cost_layers(self, name: str, input_shape: tuple[int, ...]) -> tuple[Layer, ...]:
        """One `mac` layer with 4-bit weights and the density of Ce's rows; B and the rebuilding are not in it."""
        density = self.code.row_density
        sparsity = "dense" if density == 1 else "block"
        fields = {"weight_bits": COEFFICIENT_BITS, "density": max(density, 1e-9), "sparsity": sparsity}
        return (self.layer(name, input_shape, **fields),)


class SmartExchangeConv2d(_Exchanged, ConvOperator):
    """Drop-in for nn.Conv2d. basis: width of B for 1x1 kernels (wider ones take S); threshold: see `smart_exchange`."""


class SmartExchangeLinear(_Exchanged, LinearOperator):
    """Drop-in for nn.Linear; options as `SmartExchangeConv2d`."""
