"""Low-rank layers: SVD for linear and pointwise layers, Tucker-2 and spatial factors for convolutions.

A rank is an integer, or a fraction in (0, 1] of the full rank. With full ranks every layer equals the dense one.
Groups are factored apart, with one rank for all. Also here: the orthogonality penalty that keeps factors trained from
scratch near orthonormal (ELRT), and the nuclear-norm penalty with its choice of ranks (NRMF).

Training recipe from scratch: as a convolution, plus `orthogonality_penalty` times 1e-3.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosearch.operators.common import ConvOperator, LinearOperator, Operator, linear_layer, pad_maps, require
from cosearch.workload import Layer

Rank = int | float


def resolve_rank(name: str, rank: Rank, full: int) -> int:
    """A rank as an integer. Raises: OperatorError unless it is an integer in 1..full or a fraction in (0, 1]."""
    if isinstance(rank, float):
        require(0 < rank <= 1, name, rank, f"a fraction in (0, 1] or an integer from 1 to {full}")
        return max(1, round(rank * full))
    holds = not isinstance(rank, bool) and 1 <= rank <= full
    require(holds, name, rank, f"an integer from 1 to {full} or a fraction in (0, 1]")
    return rank


def svd_factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Best rank-r factors of ... x m x n matrices, singular values split evenly. Returns: ... m r and ... r n."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    root = s[..., :rank].sqrt()
    return u[..., :rank] * root[..., None, :], root[..., :, None] * v[..., :rank, :]


def tucker2(weight: Tensor, rank_out: int, rank_in: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tucker-2 by HOSVD: W[o,i,x,y] = sum_ab U[o,a] G[a,b,x,y] V[i,b]; U and V have orthonormal columns.

    weight: O I R S. Returns: U (O x rank_out), G (rank_out x rank_in x R x S), V (I x rank_in). The squared error is at
    most the sum of the discarded squared singular values of both unfoldings.
    """
    u = torch.linalg.svd(weight.flatten(1), full_matrices=False)[0]
    v = torch.linalg.svd(weight.transpose(0, 1).flatten(1), full_matrices=False)[0]
    u, v = _complete(u, rank_out), _complete(v, rank_in)
    return u, torch.einsum("oixy,oa,ib->abxy", weight, u, v), v


def _complete(basis: Tensor, rank: int) -> Tensor:
    """The first `rank` columns, with further orthonormal ones where the unfolding has fewer columns than rows."""
    if basis.shape[1] >= rank:
        return basis[:, :rank]
    return torch.linalg.qr(torch.cat([basis, torch.eye(basis.shape[0], dtype=basis.dtype)], 1))[0][:, :rank]


def _orthonormal(rows: int, columns: int) -> Tensor:
    return nn.init.orthogonal_(torch.empty(rows, columns))


class _LowRank(Operator):
    """Factors by SVD of K x (C R S), per group: `first` into rank channels, `last` out of them."""

    def _build(self, *, rank: Rank) -> None:
        k, *inputs = self.weight_shape
        fan_in = math.prod(inputs)
        self.rank = resolve_rank("rank", rank, min(k // self.groups, fan_in))
        first = torch.cat([_orthonormal(self.rank, fan_in) for _ in range(self.groups)])
        self.first = nn.Parameter(first.view(self.groups * self.rank, *inputs))
        last = torch.empty(k, self.rank, *[1] * (len(inputs) - 1))
        self.last = nn.Parameter(nn.init.kaiming_uniform_(last, a=math.sqrt(5)))

    def dense_weight(self) -> Tensor:
        last = self.last.view(self.groups, -1, self.rank)
        return (last @ self.first.view(self.groups, self.rank, -1)).reshape(self.weight_shape)

    @torch.no_grad()
    def load_dense(self, weight: Tensor) -> None:
        """The best approximation of a dense weight of this rank."""
        last, first = svd_factors(weight.double().reshape(self.groups, -1, self.first[0].numel()), self.rank)
        self.last.copy_(last.reshape(self.last.shape))
        self.first.copy_(first.reshape(self.first.shape))

    def orthogonal_factors(self) -> tuple[Tensor, ...]:
        return tuple(f.flatten(1).T for f in self.first.chunk(self.groups))

    def plain(self) -> nn.Module:
        return self

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}"


class LowRankLinear(_LowRank, LinearOperator):
    """Drop-in for nn.Linear: in -> rank -> out, weight = `last` @ `first`."""

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        return F.linear(F.linear(x, self.first), self.last, self.bias)

    def cost_layers(self, name: str, input_shape: tuple[int, ...]) -> tuple[Layer, ...]:
        """Two `mac` layers."""
        first = linear_layer(f"{name}.first", input_shape, self.in_features, self.rank)
        middle = (*input_shape[:-1], self.rank)
        return first, linear_layer(f"{name}.last", middle, self.rank, self.out_features)


class LowRankConv2d(_LowRank, ConvOperator):
    """Drop-in for nn.Conv2d by SVD of K x (C R S): the given kernel into rank channels, then 1x1; for 1x1 kernels."""

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        return F.conv2d(self.product(x, self.first, None), self.last, self.bias, groups=self.groups)

    def cost_layers(self, name: str, input_shape: tuple[int, ...]) -> tuple[Layer, ...]:
        """Two `mac` layers."""
        n, k, p, q = self.output_shape(input_shape)
        middle = self.groups * self.rank
        first = Layer(
            f"{name}.first",
            N=n,
            K=middle,
            C=self.in_channels,
            P=p,
            Q=q,
            R=self.kernel_size[0],
            S=self.kernel_size[1],
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups,
        )
        return first, Layer(f"{name}.last", N=n, K=k, C=middle, P=p, Q=q, groups=self.groups)


class TuckerConv2d(ConvOperator):
    """Drop-in for nn.Conv2d by Tucker-2: 1x1 (C -> rank_in), R x S (rank_in -> rank_out), 1x1 (rank_out -> K).

    ranks: (rank_out, rank_in) per group, or one value for both; the magnitude lives in the core.
    """

    def _build(self, *, ranks: Rank | tuple[Rank, Rank]) -> None:
        groups = self.groups
        k_group, c_group = self.out_channels // groups, self.in_channels // groups
        both = ranks if isinstance(ranks, tuple) else (ranks, ranks)
        require(len(both) == 2, "ranks", ranks, "one rank, or (rank_out, rank_in)")
        self.rank_out = resolve_rank("ranks", both[0], k_group)
        self.rank_in = resolve_rank("ranks", both[1], c_group)
        first = torch.cat([_orthonormal(self.rank_in, c_group) for _ in range(groups)])
        last = torch.cat([_orthonormal(k_group, self.rank_out) for _ in range(groups)])
        core = torch.empty(groups * self.rank_out, self.rank_in, *self.kernel_size)
        self.first = nn.Parameter(first[:, :, None, None])
        self.core = nn.Parameter(nn.init.kaiming_uniform_(core, a=math.sqrt(5)))
        self.last = nn.Parameter(last[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        reduced = F.conv2d(x, self.first, groups=self.groups)
        return F.conv2d(self.product(reduced, self.core, None), self.last, self.bias, groups=self.groups)

    def _grouped(self) -> tuple[Tensor, Tensor, Tensor]:
        first = self.first.view(self.groups, self.rank_in, -1)
        core = self.core.view(self.groups, self.rank_out, *self.core.shape[1:])
        return self.last.view(self.groups, -1, self.rank_out), core, first

    def dense_weight(self) -> Tensor:
        return torch.einsum("goa,gabxy,gbi->goixy", *self._grouped()).reshape(self.weight_shape)

    @torch.no_grad()
    def load_dense(self, weight: Tensor) -> None:
        """HOSVD of a K x C/groups x R x S weight."""
        last, core, first = self._grouped()
        for g, part in enumerate(weight.double().chunk(self.groups)):
            u, middle, v = tucker2(part, self.rank_out, self.rank_in)
            last[g].copy_(u)
            core[g].copy_(middle)
            first[g].copy_(v.T)

    def orthogonal_factors(self) -> tuple[Tensor, ...]:
        last, _, first = self._grouped()
        return (*last, *first.transpose(1, 2))

    def plain(self) -> nn.Module:
        return self

    def cost_layers(self, name: str, input_shape: tuple[int, ...]) -> tuple[Layer, ...]:
        """Three `mac` layers."""
        n, k, p, q = self.output_shape(input_shape)
        inner, outer, groups = self.groups * self.rank_in, self.groups * self.rank_out, self.groups
        h, w = input_shape[2:]
        core = Layer(
            f"{name}.core",
            N=n,
            K=outer,
            C=inner,
            P=p,
            Q=q,
            R=self.kernel_size[0],
            S=self.kernel_size[1],
            stride=self.stride,
            dilation=self.dilation,
            groups=groups,
        )
        first = Layer(f"{name}.first", N=n, K=inner, C=self.in_channels, P=h, Q=w, groups=groups)
        return first, core, Layer(f"{name}.last", N=n, K=k, C=outer, P=p, Q=q, groups=groups)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ranks=({self.rank_out}, {self.rank_in})"


class SpatialConv2d(ConvOperator):
    """Drop-in for nn.Conv2d in spatial factors: R x 1 (C -> rank), then 1 x S (rank -> K)."""

    def _build(self, *, rank: Rank) -> None:
        groups = self.groups
        k_group, c_group, (r, s) = self.out_channels // groups, self.in_channels // groups, self.kernel_size
        self.rank = resolve_rank("rank", rank, min(c_group * r, k_group * s))
        first = torch.cat([_orthonormal(self.rank, c_group * r) for _ in range(groups)])
        last = torch.empty(self.out_channels, self.rank, 1, s)
        self.first = nn.Parameter(first.view(groups * self.rank, c_group, r, 1))
        self.last = nn.Parameter(nn.init.kaiming_uniform_(last, a=math.sqrt(5)))

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        (down, across), (top, side), (high, wide) = self.stride, self.padding, self.dilation
        x, padding = pad_maps(x, (top, 0), self.padding_mode)
        rows = F.conv2d(x, self.first, None, (down, 1), padding, (high, 1), self.groups)
        rows, padding = pad_maps(rows, (0, side), self.padding_mode)
        return F.conv2d(rows, self.last, self.bias, (1, across), padding, (1, wide), self.groups)

    def dense_weight(self) -> Tensor:
        first = self.first.view(self.groups, self.rank, -1, self.kernel_size[0])
        last = self.last.view(self.groups, -1, self.rank, self.kernel_size[1])
        return torch.einsum("gkas,gacr->gkcrs", last, first).reshape(self.weight_shape)

    @torch.no_grad()
    def load_dense(self, weight: Tensor) -> None:
        """The best approximation of a K x C/groups x R x S weight of this rank."""
        k, c, r, s = weight.shape
        grouped = weight.double().reshape(self.groups, k // self.groups, c, r, s)
        matrices = grouped.permute(0, 2, 3, 1, 4).reshape(self.groups, c * r, -1)
        left, right = svd_factors(matrices, self.rank)  # groups, C R, rank and groups, rank, K S
        self.first.copy_(left.transpose(1, 2).reshape(self.first.shape))
        across = right.reshape(self.groups, self.rank, k // self.groups, s).transpose(1, 2)
        self.last.copy_(across.reshape(self.last.shape))

    def orthogonal_factors(self) -> tuple[Tensor, ...]:
        return tuple(f.flatten(1).T for f in self.first.chunk(self.groups))

    def plain(self) -> nn.Module:
        return self

    def cost_layers(self, name: str, input_shape: tuple[int, ...]) -> tuple[Layer, ...]:
        """Two `mac` layers, of R x 1 and 1 x S."""
        n, k, p, q = self.output_shape(input_shape)
        middle, (r, s), groups = self.groups * self.rank, self.kernel_size, self.groups
        (down, across), (high, wide) = self.stride, self.dilation
        first = Layer(
            f"{name}.first",
            N=n,
            K=middle,
            C=self.in_channels,
            P=p,
            Q=input_shape[3],
            R=r,
            stride=(down, 1),
            dilation=(high, 1),
            groups=groups,
        )
        last = Layer(
            f"{name}.last",
            N=n,
            K=k,
            C=middle,
            P=p,
            Q=q,
            S=s,
            stride=(1, across),
            dilation=(1, wide),
            groups=groups,
        )
        return first, last

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}"


def orthogonality_penalty(module: nn.Module, double: bool = False) -> Tensor:
    """sum ||U^T U - I||_F^2 over the thin factors of all low-rank layers; double adds ||U U^T - I||_F^2.

    Source: ELRT; for training low-rank layers from scratch, at a weight of 1e-4 to 1e-3.
    """
    kinds = LowRankLinear | LowRankConv2d | TuckerConv2d | SpatialConv2d
    factors = [f for m in module.modules() if isinstance(m, kinds) for f in m.orthogonal_factors()]
    require(bool(factors), "module", type(module).__name__, "a module that holds low-rank layers")
    grams = [f.T @ f for f in factors] + ([f @ f.T for f in factors] if double else [])
    return torch.stack([(g - torch.eye(len(g), dtype=g.dtype, device=g.device)).square().sum() for g in grams]).sum()


def unfoldings(weight: Tensor) -> tuple[Tensor, ...]:
    """The matrices whose ranks a low-rank layer takes: out x rest and, for a convolution, in x rest."""
    return (weight,) if weight.dim() == 2 else (weight.flatten(1), weight.transpose(0, 1).flatten(1))


def nuclear_penalty(weights: Iterable[Tensor]) -> Tensor:
    """Sum of the nuclear norms of all unfoldings; its gradient is U V^T of each thin SVD. Source: NRMF."""
    return torch.stack([torch.linalg.svdvals(m).sum() for w in weights for m in unfoldings(w)]).sum()


def rank_for_mass(matrix: Tensor, share: float) -> int:
    """The least rank whose singular values hold `share` of their sum. Raises: OperatorError unless share in (0, 1]."""
    require(0 < share <= 1, "share", share, "a fraction in (0, 1]")
    values = torch.linalg.svdvals(matrix.detach().double())
    mass = values.cumsum(0) / values.sum().clamp_min(1e-300)
    if share == 1:
        return len(values)
    return int((mass < share).sum()) + 1


def nuclear_ranks(weight: Tensor, share: float) -> tuple[int, ...]:
    """Per unfolding the rank that keeps `share` of the singular mass: (rank_out, rank_in) of a convolution."""
    return tuple(rank_for_mass(m, share) for m in unfoldings(weight))
