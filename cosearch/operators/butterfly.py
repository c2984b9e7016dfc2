"""Deformable butterfly layers (DeBut): a weight matrix as a product of sparse, structured factors.

A factor F(p, q; r, s, t) is p x q, block diagonal with B = p / (r t) = q / (s t) blocks, each an r x s grid of t x t
diagonals; it is stored as B x r x s x t and has p s non-zeros. A chain, input side first, follows from its r and s
alone: t_i = r_1..r_(i-1), and with prod r = n_out, prod s = n_in every entry of the product has exactly one path, so
that the product of all-ones factors is all ones. Convolutions use the chain on their reshaped matrix
K/groups x (C/groups R S), one chain per group.

Training recipe: `load_dense` of a trained layer and a fine-tune with a small learning rate, or from scratch as is.
"""

import copy
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cosearch.errors import OperatorError
from cosearch.operators.common import ConvOperator, LinearOperator, Operator, is_count, require
from cosearch.workload import Layer

if TYPE_CHECKING:
    from cosearch.operators._chain_kernels import Columns

Shape = Literal["any", "monotone", "bulging"]
MAX_FACTORS = 4


@dataclass(frozen=True)
class Factor:
    """F(p, q; r, s, t); see the module's text."""

    p: int
    q: int
    r: int
    s: int
    t: int

    @property
    def blocks(self) -> int:
        return self.q // (self.s * self.t)

    @property
    def parameters(self) -> int:
        return self.p * self.s

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.blocks, self.r, self.s, self.t


Chain = tuple[Factor, ...]


def make_chain(r: Sequence[int], s: Sequence[int]) -> Chain:
    """The chain with the given grid sizes, input side first: prod s inputs, prod r outputs.

    Raises: OperatorError if r and s differ in length, are empty or hold anything but positive integers.
    """
    holds = len(r) == len(s) >= 1 and all(is_count(v) for v in (*r, *s))
    require(holds, "r, s", (tuple(r), tuple(s)), "two equally long sequences of positive integers")
    factors = []
    for i in range(len(r)):
        before, after = math.prod(r[:i]), math.prod(s[i + 1 :])
        factors.append(Factor(before * r[i] * after, before * s[i] * after, r[i], s[i], before))
    return tuple(factors)


def chain_from_factors(factors: Iterable[tuple[int, int, int, int, int]]) -> Chain:
    """A chain from explicit (p, q, r, s, t), input side first.

    Raises: OperatorError naming the first factor that does not fit, or the entries of the product out of reach.
    """
    chain = tuple(Factor(*f) for f in factors)
    require(bool(chain), "chain", (), "at least one factor")
    expected = make_chain([f.r for f in chain], [f.s for f in chain])
    for i, (got, want) in enumerate(zip(chain, expected, strict=True)):
        require(got == want, f"chain[{i}]", got, f"{want}: with these r and s, only then is every entry reachable")
    return chain


def chain_parameters(chain: Chain) -> int:
    return sum(factor.parameters for factor in chain)


def chain_shape(chain: Chain) -> Shape:
    """``monotone`` if the widths never turn, ``bulging`` if one exceeds both ends, ``any`` for what is neither."""
    widths = [chain[0].q, *(f.p for f in chain)]
    steps = [b - a for a, b in itertools.pairwise(widths)]
    if all(d <= 0 for d in steps) or all(d >= 0 for d in steps):
        return "monotone"
    return "bulging" if max(widths) > max(widths[0], widths[-1]) else "any"


def _divisors(n: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})


@lru_cache(maxsize=256)
def generate_chain(n_out: int, n_in: int, compression: float, shape: Shape = "any", fill: float = 0.9) -> Chain:
    """A chain with at most n_out n_in / compression parameters, and nearly as many, that is narrow.

    Of the chains with at least `fill` of the most parameters that the limit allows, the one whose widest intermediate
    is narrowest, then the one with most parameters. fill = 1 takes the most parameters whatever the width; chains
    near the limit are often many times wider than their ends. At most `MAX_FACTORS` factors, every r and s at
    least 2. shape: restrict to chains of that kind.
    Raises: OperatorError naming the argument; a prime size has no chain: pad it.
    """
    for name, value in (("n_out", n_out), ("n_in", n_in)):
        require(is_count(value) and value >= 2, name, value, "an integer of at least 2")
    require(compression >= 1, "compression", compression, "a number of at least 1")
    require(shape in ("any", "monotone", "bulging"), "shape", shape, "'any', 'monotone' or 'bulging'")
    require(0 < fill <= 1, "fill", fill, "a fraction in (0, 1]")
    for name, value in (("n_out", n_out), ("n_in", n_in)):
        composite = len(_divisors(value)) > 2
        require(composite or compression == 1, name, value, f"a composite number (pad it to {value + 1})")
    found = _fitting_chains(n_out, n_in, math.floor(n_out * n_in / compression), shape)
    if not found:
        every = _fitting_chains(n_out, n_in, n_out * n_in, shape)
        limit = n_out * n_in / min((c for c, _, _ in every), default=n_out * n_in)
        kind = "" if shape == "any" else f" {shape}"
        expected = f"at most {limit:.3g} for a{kind} chain of {n_out} x {n_in} with {MAX_FACTORS} factors"
        raise OperatorError(f"compression={compression!r}: expected {expected}")
    most = max(cost for cost, _, _ in found)
    return min((c for c in found if c[0] >= fill * most), key=lambda c: (c[1], -c[0], len(c[2])))[2]


def _fitting_chains(n_out: int, n_in: int, budget: int, shape: Shape) -> list[tuple[int, int, Chain]]:
    chains = [(cost, width, make_chain(r, s)) for cost, width, r, s in _reachable(n_out, n_in, budget)]
    return [found for found in chains if shape == "any" or chain_shape(found[2]) == shape]


def _reachable(n_out: int, n_in: int, budget: int) -> list[tuple[int, int, tuple[int, ...], tuple[int, ...]]]:
    """(parameters, widest intermediate, r, s) of chains within the budget, the narrowest per cost and kind of widths.

    Dynamic programming over (outputs made, inputs left): factor i has prod r_1..r_i x prod s_i..s_N parameters.
    """
    outs, ins = _divisors(n_out), _divisors(n_in)
    Path = tuple[int, tuple[int, ...], tuple[int, ...]]  # widest, r, s
    states: dict[tuple[int, int], dict[tuple[int, int], Path]] = {(1, n_in): {(0, 0): (0, (), ())}}
    finished = []
    for _ in range(MAX_FACTORS):
        following: dict[tuple[int, int], dict[tuple[int, int], Path]] = {}
        for (made, left), paths in states.items():
            for out in (o for o in outs if o > made and o % made == 0):
                for rest in (i for i in ins if i < left and left % i == 0):
                    price, width, before = out * left, out * rest, made * left
                    # keep apart what tells the shapes of chains: widths that grew, shrank, exceeded both ends
                    seen = (width > before) | (width < before) << 1 | (width > max(n_out, n_in)) << 2
                    target = following.setdefault((out, rest), {})
                    for (cost, kinds), (widest, r, s) in paths.items():
                        total = cost + price
                        if total > budget:
                            continue
                        path = (max(widest, width), (*r, out // made), (*s, left // rest))
                        key = (total, kinds | seen)
                        if key not in target or path[0] < target[key][0]:
                            target[key] = path
        ends = following.get((n_out, 1), {})
        finished += [(cost, widest, r, s) for (cost, _), (widest, r, s) in ends.items()]
        states = following
    return finished


def factor_matrix(weight: Tensor, factor: Factor) -> Tensor:
    """A factor's B x r x s x t values as the dense p x q matrix."""
    b, r, s, t = factor.shape
    dense = torch.zeros(b, r, t, b, s, t, dtype=weight.dtype, device=weight.device)
    i, j = torch.meshgrid(torch.arange(b), torch.arange(t), indexing="ij")
    dense[i, :, j, i, :, j] = weight.permute(0, 3, 1, 2)
    return dense.reshape(factor.p, factor.q)


def chain_matrix(weights: Sequence[Tensor], chain: Chain) -> Tensor:
    """The dense n_out x n_in product of a chain."""
    product = torch.eye(chain[0].q, dtype=weights[0].dtype, device=weights[0].device)
    for weight, factor in zip(weights, chain, strict=True):
        product = factor_matrix(weight, factor) @ product
    return product


def hierarchical_svd(matrix: Tensor, chain: Chain) -> list[Tensor]:
    """Factors that fit a dense n_out x n_in matrix, peeled from the input side by rank-1 approximations.

    Exact if the matrix is the product of such a chain; optimal in the Frobenius norm for two factors.
    Returns: per factor B x r x s x t, all of one norm.
    """
    rest, weights = matrix, []
    for factor in chain:
        b, r, s, t = factor.shape
        rows = chain[-1].p // (r * t)
        views = rest.reshape(rows, r, t, b, s, t).diagonal(dim1=2, dim2=5)  # rows r b s t
        left, value, right = torch.linalg.svd(views.permute(1, 2, 4, 0, 3), full_matrices=False)  # r b t rows s
        weights.append(right[..., 0, :].permute(1, 0, 3, 2).contiguous())
        column = left[..., 0] * value[..., :1]  # r b t rows
        following = torch.zeros(rows, r, t, b, r, t, dtype=matrix.dtype, device=matrix.device)
        i, j = torch.meshgrid(torch.arange(r), torch.arange(t), indexing="ij")
        following[:, i, j, :, i, j] = column.permute(0, 2, 3, 1)
        rest = following.reshape(chain[-1].p, factor.p)
    last = chain[-1]
    weights[-1] = weights[-1] * rest.diagonal().reshape(last.blocks, last.r, 1, last.t)
    norms = torch.stack([w.norm() for w in weights]).clamp_min(1e-30)
    level = norms.log().mean().exp()
    return [w * (level / n) for w, n in zip(weights, norms, strict=True)]


def alternating_least_squares(
    matrix: Tensor, weights: Sequence[Tensor], chain: Chain, sweeps: int = 3
) -> tuple[list[Tensor], list[float]]:
    """Refine factors by fitting one at a time, right then left, with the others fixed. Returns: factors, errors.

    In a chain every entry of the product has one path, so the least-squares system of a factor is diagonal: entry
    (u, v) is <W, A_u C_v> / (|A_u|^2 |C_v|^2), A and C the products of the later and of the earlier factors.
    errors: ||W - product||_F before and after each factor's fit; it never rises.
    """
    fitted = [w.clone() for w in weights]
    errors = [float((matrix - chain_matrix(fitted, chain)).norm())]
    order = [*range(len(chain)), *reversed(range(len(chain) - 1))] if len(chain) > 1 else [0]
    for _ in range(sweeps):
        for i in order:
            factor = chain[i]
            dense = [factor_matrix(w, f) for w, f in zip(fitted, chain, strict=True)]
            early = torch.eye(chain[0].q, dtype=matrix.dtype)
            for d in dense[:i]:
                early = d @ early
            later = torch.eye(factor.p, dtype=matrix.dtype)
            for d in dense[i + 1 :]:
                later = d @ later
            fitted[i] = _fit_factor(matrix, later, early, factor, fitted[i])
            errors.append(float((matrix - chain_matrix(fitted, chain)).norm()))
    return fitted, errors


def _fit_factor(matrix: Tensor, later: Tensor, early: Tensor, factor: Factor, old: Tensor) -> Tensor:
    b, r, s, t = factor.shape
    i, j = torch.meshgrid(torch.arange(b), torch.arange(t), indexing="ij")

    def at_support(dense: Tensor) -> Tensor:
        return dense.reshape(b, r, t, b, s, t)[i, :, j, i, :, j].permute(0, 2, 3, 1)

    moment = at_support(later.T @ matrix @ early.T)
    weight = at_support(torch.outer(later.square().sum(0), early.square().sum(1)))
    return torch.where(weight > 0, moment / weight, old)


class _ApplyChain(torch.autograd.Function):
    """A chain on columns, in the kernels. source, target: what x and y are; shape: y's."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, source: "Columns", target: "Columns", shape: tuple[int, ...], *weights: Tensor
    ) -> Tensor:
        from cosearch.operators import _chain_kernels

        ctx.save_for_backward(x, *weights)
        ctx.source, ctx.target = source, target
        chain = _chain_kernels.pack([w.detach() for w in weights], False)
        y = torch.zeros(shape)
        _chain_kernels.apply(x.detach(), y, chain, source, target, torch.get_num_threads())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        from cosearch.operators import _chain_kernels

        x, *weights = ctx.saved_tensors
        chain = _chain_kernels.pack(weights, True)
        dx = torch.zeros(x.shape if ctx.needs_input_grad[0] else 0)
        threads = torch.get_num_threads()
        dw = _chain_kernels.gradients(x, gradient, dx, chain, ctx.source, ctx.target, threads)
        return dx if ctx.needs_input_grad[0] else None, None, None, None, *dw


def _plain_factor(x: Tensor, weight: Tensor) -> Tensor:
    """A factor as one grouped 1x1 convolution, the t diagonals of a block being groups of their own."""
    n, _, length = x.shape
    b, r, s, t = weight.shape
    columns = x.reshape(n, b, s, t, length).transpose(2, 3).reshape(n, -1, length)
    kernel = weight.permute(0, 3, 1, 2).reshape(b * t * r, s, 1)
    y = F.conv1d(columns, kernel, groups=b * t)
    return y.reshape(n, b, t, r, length).transpose(2, 3).reshape(n, -1, length)


def _in_kernel(x: Tensor, weights: Iterable[Tensor]) -> bool:
    kinds = {(t.device.type, t.dtype) for t in (x, *weights)}
    return kinds == {("cpu", torch.float32)} and x.numel() > 0


def apply_chain(x: Tensor, weights: Sequence[Tensor], plain: bool = False) -> Tensor:
    """Apply a chain, or one per group side by side, to columns.

    x: N x (groups n_in) x L; weights: groups x B x r x s x t per factor. Returns: N x (groups n_out) x L. float32 on
    a CPU runs in the numba kernels of `_chain_kernels` unless `plain`; the rest as grouped convolutions.
    """
    if not plain and _in_kernel(x, weights):
        from cosearch.operators._chain_kernels import plain_columns

        n, channels, length = x.shape
        shape = (n, _rows(weights), length)
        source, target = plain_columns(n, channels, length), plain_columns(n, shape[1], length)
        return _ApplyChain.apply(x, source, target, shape, *weights)
    if x.numel() == 0:
        return x.new_zeros(x.shape[0], _rows(weights), x.shape[2])
    for weight in weights:
        x = _plain_factor(x, weight.flatten(0, 1))
    return x


def _rows(weights: Sequence[Tensor]) -> int:
    groups, b, r, _, t = weights[-1].shape
    return groups * b * r * t


def _new_factors(chain: Chain, groups: int) -> nn.ParameterList:
    """N(0, 1/2) entries as in the authors' code, scaled so that the product keeps a unit input's variance."""
    gain = math.prod(f.s for f in chain) ** (-0.5 / len(chain))
    return nn.ParameterList(torch.randn(groups, *f.shape) * gain for f in chain)


class _Butterfly(Operator):
    """The factors of a chain per group on the matrix K/groups x (C/groups R S)."""

    is_plain = False

    def _build(self, compression: float = 4.0, chain: Chain | None = None) -> None:
        n_out, n_in = self.weight_shape[0] // self.groups, math.prod(self.weight_shape[1:])
        self.chain = _checked(chain, n_out, n_in, compression)
        self.factors = _new_factors(self.chain, self.groups)

    def dense_weight(self) -> Tensor:
        """The weight of the dense layer that this layer equals."""
        per_group = [chain_matrix([w[g] for w in self.factors], self.chain) for g in range(self.groups)]
        return torch.cat(per_group).reshape(self.weight_shape)

    def load_dense(self, weight: Tensor, sweeps: int = 2) -> None:
        """Fit the factors to a dense weight: hierarchical SVD, then sweeps of alternating least squares."""
        _load_factors(self.factors, weight.reshape(self.groups, self.chain[-1].p, -1), self.chain, sweeps)

    def plain(self) -> nn.Module:
        """A copy in ordinary torch operations, for export."""
        plain = copy.deepcopy(self)
        plain.is_plain = True
        return plain

    def cost_layers(self, name: str, input_shape: tuple[int, ...]) -> tuple[Layer, ...]:
        """One grouped 1x1 `mac` layer per factor; a convolution's first reads an unfolded input, C R S wide."""
        dense, groups = self.layer(name, input_shape), self.groups
        sizes: dict[str, Any] = {"N": dense.N, "P": dense.P, "Q": dense.Q}
        return tuple(
            Layer(f"{name}.factor{i}", K=groups * f.p, C=groups * f.q, groups=groups * f.blocks * f.t, **sizes)
            for i, f in enumerate(self.chain)
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, chain={[(f.r, f.s) for f in self.chain]}"


class ButterflyLinear(_Butterfly, LinearOperator):
    """Drop-in for nn.Linear whose weight is a butterfly chain.

    chain: from `make_chain` or `generate_chain`; None generates one with the given compression.
    """

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        rows = x.reshape(x.numel() // self.in_features, self.in_features)
        if not self.is_plain and _in_kernel(x, self.factors):
            from cosearch.operators._chain_kernels import vectors

            source, target = (vectors(len(rows), size) for size in (self.in_features, self.out_features))
            y = _ApplyChain.apply(rows, source, target, (len(rows), self.out_features), *self.factors)
        else:
            y = apply_chain(rows.t()[None], list(self.factors), True)[0].t()
        y = y.reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias


class ButterflyConv2d(_Butterfly, ConvOperator):
    """Drop-in for nn.Conv2d: a butterfly chain per group on the matrix K/groups x (C/groups R S).

    chain, compression: as `ButterflyLinear`.
    """

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        n, k, p, q = self.output_shape(tuple(x.shape))
        x, padding = self.padded(x)
        if not self.is_plain and _in_kernel(x, self.factors):
            from cosearch.operators._chain_kernels import patches, plain_columns

            steps = (self.stride, padding, self.dilation)
            source = patches(n, self.in_channels, (x.shape[2], x.shape[3]), self.kernel_size, steps, (p, q))
            y = _ApplyChain.apply(x, source, plain_columns(n, k, p * q), (n, k, p, q), *self.factors)
        else:
            columns = F.unfold(x, self.kernel_size, self.dilation, padding, self.stride)
            y = apply_chain(columns, list(self.factors), True).reshape(n, k, p, q)
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)


def _checked(chain: Chain | None, n_out: int, n_in: int, compression: float) -> Chain:
    if chain is None:
        return generate_chain(n_out, n_in, compression)
    fits = len(chain) >= 1 and chain[0].q == n_in and chain[-1].p == n_out
    require(fits, "chain", chain, f"a chain from {n_in} inputs to {n_out} outputs")
    return chain_from_factors((f.p, f.q, f.r, f.s, f.t) for f in chain)


@torch.no_grad()
def _load_factors(factors: nn.ParameterList, matrices: Tensor, chain: Chain, sweeps: int) -> None:
    for g, matrix in enumerate(matrices.double()):
        start = hierarchical_svd(matrix, chain)
        fitted, _ = alternating_least_squares(matrix, start, chain, sweeps)
        for parameter, value in zip(factors, fitted, strict=True):
            parameter[g].copy_(value)
