"""Binary-coded weights (ShiftAddLLM): W = sum_i alpha_i b_i with b_i in {-1, 1}, as a post-training transform.

Every run of `group` columns of a row has its own q scales, which may be sums of a few signed powers of two: then the
products are look-ups of activation sums, shifts and adds. Given the inputs' second moments, columns are coded one
after the other and each one's error is made up for in the columns to come (as GPTQ does).

Use: convert a trained layer with `load_dense`; the codes are buffers and are not trained.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosearch.operators.common import ConvOperator, LinearOperator, Operator, is_count, require
from cosearch.workload import Layer


@dataclass(frozen=True)
class BinaryCode:
    """alpha: O x groups x q; signs: O x groups x group x q, int8; the last group may be filled up with zeros."""

    alpha: Tensor
    signs: Tensor
    columns: int

    def matrix(self) -> Tensor:
        """The coded weight, O x columns."""
        values = torch.einsum("ogcq,ogq->ogc", self.signs.to(self.alpha.dtype), self.alpha)
        return values.flatten(1)[:, : self.columns]


def sum_of_powers(values: Tensor, terms: int) -> Tensor:
    """Each value as a sum of at most `terms` signed powers of two, greedily: the nearest one to what remains."""
    require(is_count(terms), "terms", terms, "an integer of at least 1")
    total = torch.zeros_like(values)
    for _ in range(terms):
        rest = values - total
        mantissa, exponent = torch.frexp(rest.abs())
        nearest = torch.ldexp(torch.ones_like(values), exponent - (mantissa < 0.75).to(exponent.dtype))
        total = total + torch.where(rest == 0, 0.0, nearest * rest.sign())
    return total


def _signs_table(bits: int, like: Tensor) -> Tensor:
    """All 2^q sign vectors: 2^q x q."""
    codes = torch.arange(2**bits, device=like.device)
    return ((codes[:, None] >> torch.arange(bits, device=like.device)) & 1).to(like.dtype) * 2 - 1


def _nearest_signs(weight: Tensor, alpha: Tensor) -> Tensor:
    """weight: ... x C; alpha: ... x q. Returns: the signs ... x C x q of the nearest of the 2^q levels."""
    table = _signs_table(alpha.shape[-1], weight)
    levels = alpha @ table.T  # ... x 2^q
    nearest = (weight.unsqueeze(-1) - levels.unsqueeze(-2)).abs().argmin(-1)
    return table[nearest]


def _greedy(weight: Tensor, bits: int, valid: Tensor) -> tuple[Tensor, Tensor]:
    """b = sign of the residue, alpha = its mean magnitude, q times."""
    rest, alphas, signs = weight, [], []
    for _ in range(bits):
        sign = torch.where(rest < 0, -1.0, 1.0).to(weight.dtype)
        alpha = (rest.abs() * valid).sum(-1) / valid.sum(-1)
        alphas.append(alpha)
        signs.append(sign)
        rest = rest - alpha.unsqueeze(-1) * sign
    return torch.stack(alphas, -1), torch.stack(signs, -1)


def _fit_scales(weight: Tensor, signs: Tensor, valid: Tensor) -> Tensor:
    """Least-squares scales for given signs."""
    weighted = signs * valid.unsqueeze(-1)
    gram = weighted.transpose(-1, -2) @ weighted
    moment = weighted.transpose(-1, -2) @ weight.unsqueeze(-1)
    return (torch.linalg.pinv(gram, hermitian=True) @ moment).squeeze(-1)


@torch.no_grad()
def binary_code(
    weight: Tensor, bits: int, group: int | None = None, terms: int | None = 3, iterations: int = 15
) -> BinaryCode:
    """Code a matrix O x C in runs of `group` columns (all C by default).

    bits: q, 1-8. terms: signed powers of two per scale, None leaves the scales real. iterations: alternations of
    scales (normal equations) and signs (nearest level); the error does not rise before the scales are rounded.
    Raises: OperatorError naming the argument. Source: ShiftAddLLM, alternating binary coding.
    """
    _check(weight, bits, group, terms, iterations)
    blocks, valid = _runs(weight.double(), group or weight.shape[1])
    alpha, signs = _greedy(blocks, bits, valid)
    for _ in range(iterations):
        alpha = _fit_scales(blocks, signs, valid)
        signs = _nearest_signs(blocks, alpha)
    alpha = _fit_scales(blocks, signs, valid)
    if terms is not None:
        alpha = sum_of_powers(alpha, terms)
        signs = _nearest_signs(blocks, alpha)
    signs = torch.where(valid.unsqueeze(-1) > 0, signs, 0.0)
    return BinaryCode(alpha.to(weight.dtype), signs.to(torch.int8), weight.shape[1])


@torch.no_grad()
def binary_code_with_feedback(
    weight: Tensor,
    moments: Tensor,
    bits: int,
    group: int | None = None,
    terms: int | None = 3,
    iterations: int = 15,
    damping: float = 0.01,
) -> BinaryCode:
    """As `binary_code`, column by column, spreading each column's error over the columns after it.

    moments: C x C, X^T X of inputs (rows of X). damping: share of the mean diagonal added to it.
    """
    _check(weight, bits, group, terms, iterations)
    columns, width = weight.shape[1], group or weight.shape[1]
    require(moments.shape == (columns, columns), "moments", tuple(moments.shape), f"{columns} x {columns}")
    rest = weight.double().clone()
    hessian = moments.double().clone()
    hessian += torch.eye(columns, dtype=torch.float64) * (damping * hessian.diagonal().mean().clamp_min(1e-12))
    spread = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    alphas, all_signs = [], []
    for start in range(0, columns, width):
        stop = min(start + width, columns)
        code = binary_code(rest[:, start:stop], bits, None, terms, iterations)
        alpha, signs = code.alpha[:, 0], torch.zeros(len(rest), width, bits, dtype=torch.int8)
        for j in range(start, stop):
            chosen = _nearest_signs(rest[:, j : j + 1], alpha)[:, 0]
            signs[:, j - start] = chosen.to(torch.int8)
            error = (rest[:, j] - (chosen * alpha).sum(-1)) / spread[j, j]
            rest[:, j + 1 :] -= error[:, None] * spread[j, j + 1 :]
        alphas.append(alpha)
        all_signs.append(signs)
    return BinaryCode(torch.stack(alphas, 1).to(weight.dtype), torch.stack(all_signs, 1), columns)


def _check(weight: Tensor, bits: int, group: int | None, terms: int | None, iterations: int) -> None:
    require(weight.dim() == 2, "weight", tuple(weight.shape), "a matrix O x C")
    require(is_count(bits) and bits <= 8, "bits", bits, "an integer from 1 to 8")
    require(group is None or is_count(group), "group", group, "an integer of at least 1, or None")
    require(terms is None or is_count(terms), "terms", terms, "an integer of at least 1, or None")
    require(isinstance(iterations, int) and iterations >= 0, "iterations", iterations, "an integer of at least 0")


def _runs(weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """O x C as O x groups x group, and 1 where a value is real, 0 where it fills up the last run."""
    filler = -weight.shape[1] % group
    valid = F.pad(torch.ones_like(weight), (0, filler))
    return F.pad(weight, (0, filler)).reshape(len(weight), -1, group), valid.reshape(len(weight), -1, group)


class _Coded(Operator):
    """Buffers of a binary code; `load_dense` codes a trained weight."""

    alpha: Tensor
    signs: Tensor

    def _build(self, bits: int = 3, group: int | None = None, terms: int | None = 3) -> None:
        columns = math.prod(self.weight_shape[1:])
        width = group or columns
        _check(torch.empty(1, 1), bits, group, terms, 0)
        self.bits, self.group, self.terms = bits, group, terms
        runs = -(-columns // width)
        self.register_buffer("alpha", torch.zeros(self.weight_shape[0], runs, bits))
        self.register_buffer("signs", torch.ones(self.weight_shape[0], runs, width, bits, dtype=torch.int8))

    @property
    def code(self) -> BinaryCode:
        return BinaryCode(self.alpha, self.signs, math.prod(self.weight_shape[1:]))

    def dense_weight(self) -> Tensor:
        return self.code.matrix().reshape(self.weight_shape)

    @torch.no_grad()
    def load_dense(self, weight: Tensor, moments: Tensor | None = None) -> None:
        """Code a trained weight; moments: see `binary_code_with_feedback`."""
        matrix = weight.detach().flatten(1)
        if moments is None:
            code = binary_code(matrix, self.bits, self.group, self.terms)
        else:
            code = binary_code_with_feedback(matrix, moments, self.bits, self.group, self.terms)
        self.alpha.copy_(code.alpha)
        self.signs.copy_(code.signs)

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        return self.product(x, self.dense_weight(), self.bias)

    def plain(self) -> nn.Module:
        return self.dense(self.dense_weight(), self.bias)

    def cost_layers(self, name: str, input_shape: tuple[int, ...]) -> tuple[Layer, ...]:
        """One `bitserial` layer of q weight bits."""
        return (self.layer(name, input_shape, kind="bitserial", weight_bits=self.bits),)


class BinaryCodedLinear(_Coded, LinearOperator):
    """A linear layer with binary-coded weights, zero until `load_dense`. bits, group, terms: see `binary_code`."""


class BinaryCodedConv2d(_Coded, ConvOperator):
    """A convolution with binary-coded weights, zero until `load_dense`; options as `BinaryCodedLinear`."""
