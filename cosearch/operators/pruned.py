"""Pruned layers: a weight under a mask, and the masks of every pruning scheme.

All masks act on a weight K x C/groups x R x S (or K x C), its GEMM view being K x (C/groups R S), and are exact
Euclidean projections: no other set of the same kind keeps more of ||W||^2. density is the fraction kept, in (0, 1];
a scheme keeps round(density n) of its n groups, at least one.

| scheme | what is dropped as one | options |
| --- | --- | --- |
| unstructured | a weight | |
| filter | a row of the GEMM view: an output channel | scores |
| channel | an input channel | groups, scores |
| column | one kernel position of one channel, over all filters | |
| block | a column (or row) of a block of the GEMM view | block, axis |
| block_punched | a kernel position over a block of filters x channels | block |
| pattern | all but 4 positions of each 3x3 kernel, and whole kernels | library |
| regular_block | all but the greatest weight of each block of a row, block size adapted to the row's density (DARB) | |

Training recipe: train dense, `prune`, fine-tune a few epochs with the mask fixed; or ADMM from `pruning` first.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosearch.errors import OperatorError, nearest
from cosearch.operators.common import ConvOperator, LinearOperator, Operator, is_count, require
from cosearch.workload import SPARSITIES, Layer

Pattern = tuple[int, ...]
PATTERN_SIZE = 4


def check_density(density: float) -> None:
    """Raises: OperatorError unless density is in (0, 1]."""
    holds = isinstance(density, int | float) and 0 < density <= 1
    require(holds, "density", density, "a fraction in (0, 1]")


def keep_greatest(scores: Tensor, density: float, dim: int | None = None) -> Tensor:
    """Boolean mask of the round(density n) greatest scores, at least one; over all values or along `dim`."""
    check_density(density)
    flat = scores.flatten() if dim is None else scores.movedim(dim, -1)
    kept = max(1, round(density * flat.shape[-1]))
    mask = torch.zeros_like(flat, dtype=torch.bool).scatter_(-1, flat.topk(kept, dim=-1).indices, True)
    return mask.view(scores.shape) if dim is None else mask.movedim(-1, dim)


def unstructured_mask(weight: Tensor, density: float) -> Tensor:
    return keep_greatest(weight.abs(), density)


def _row_mask(keep: Tensor, weight: Tensor) -> Tensor:
    return keep.view(-1, *[1] * (weight.dim() - 1)).expand_as(weight).contiguous()


def filter_mask(weight: Tensor, density: float, scores: Tensor | None = None) -> Tensor:
    """Whole output channels. scores: K, an importance in place of the filters' norms."""
    values = weight.flatten(1).norm(dim=1) if scores is None else scores
    require(values.shape == weight.shape[:1], "scores", tuple(values.shape), f"one score for each of {len(weight)}")
    return _row_mask(keep_greatest(values, density), weight)


def channel_mask(weight: Tensor, density: float, groups: int = 1, scores: Tensor | None = None) -> Tensor:
    """Whole input channels. scores: C, an importance in place of the channels' norms."""
    k, c_group = weight.shape[:2]
    require(is_count(groups) and k % groups == 0, "groups", groups, f"a divisor of {k}")
    grouped = weight.reshape(groups, k // groups, c_group, -1)
    values = grouped.square().sum((1, 3)) if scores is None else scores.view(groups, c_group)
    keep = keep_greatest(values, density)
    return keep[:, None, :, None].expand_as(grouped).reshape(weight.shape).contiguous()


def column_mask(weight: Tensor, density: float) -> Tensor:
    """Columns of the GEMM view: one position over all filters."""
    keep = keep_greatest(weight.flatten(1).norm(dim=0), density)
    return keep.expand(len(weight), -1).reshape(weight.shape).contiguous()


def _blocked(matrix: Tensor, block: tuple[int, int]) -> Tensor:
    """M x N as blocks: rows / b_r x b_r x columns / b_c x b_c, filled up with zeros at the edges."""
    (rows, columns), (high, wide) = matrix.shape, block
    full = F.pad(matrix, (0, -columns % wide, 0, -rows % high))
    return full.reshape(full.shape[0] // high, high, full.shape[1] // wide, wide)


def _unblocked(blocks: Tensor, shape: Sequence[int]) -> Tensor:
    a, high, b, wide = blocks.shape
    rows = shape[0]
    return blocks.reshape(a * high, b * wide)[:rows, : math.prod(shape[1:])].reshape(tuple(shape))


def check_block(block: tuple[int, int]) -> None:
    holds = isinstance(block, tuple) and len(block) == 2 and all(is_count(b) for b in block)
    require(holds, "block", block, "two integers of at least 1")


def block_mask(weight: Tensor, density: float, block: tuple[int, int] = (8, 8), axis: str = "column") -> Tensor:
    """Columns (or rows) inside every block of the GEMM view, the same share of each block."""
    check_block(block)
    require(axis in ("column", "row"), "axis", axis, "'column' or 'row'")
    blocks = _blocked(weight.flatten(1), block)
    along, across = (1, 3) if axis == "column" else (3, 1)
    norms = blocks.square().sum(along, keepdim=True)
    mask = keep_greatest(norms, density, dim=across).expand_as(blocks)
    return _unblocked(mask, weight.shape).contiguous()


def block_punched_mask(weight: Tensor, density: float, block: tuple[int, int] = (8, 8)) -> Tensor:
    """The same kernel positions over every block of filters x channels, the same share of each block."""
    check_block(block)
    require(weight.dim() == 4, "weight", tuple(weight.shape), "a convolution's K x C/groups x R x S")
    k, c, r, s = weight.shape
    high, wide = block
    full = F.pad(weight, (0, 0, 0, 0, 0, -c % wide, 0, -k % high))
    blocks = full.reshape(full.shape[0] // high, high, full.shape[1] // wide, wide, r * s)
    keep = keep_greatest(blocks.square().sum((1, 3), keepdim=True), density, dim=4)
    return keep.expand_as(blocks).reshape(full.shape)[:k, :c].contiguous()


def pattern_library(weights: Sequence[Tensor], size: int = 8) -> tuple[Pattern, ...]:
    """The most frequent patterns: each 3x3 kernel's centre and its three greatest other positions.

    Kernels without any weight left do not vote, unless there are no others.
    Raises: OperatorError unless 1 <= size <= 56 and the weights are 3x3 kernels. Source: PatDNN.
    """
    require(is_count(size) and size <= 56, "size", size, "an integer from 1 to 56")
    counts: dict[Pattern, int] = {}
    every = [_kernels(weight).abs() for weight in weights]
    live = [kernels[kernels.any(1)] for kernels in every]
    for kernels in live if any(len(kernels) for kernels in live) else every:
        others = kernels.clone()
        others[:, 4] = -1.0
        top = others.topk(PATTERN_SIZE - 1, dim=1).indices
        for row in top.sort(dim=1).values.tolist():
            pattern = tuple(sorted([4, *row]))
            counts[pattern] = counts.get(pattern, 0) + 1
    ordered = sorted(counts, key=lambda p: (-counts[p], p))
    return tuple(ordered[:size])


ALL_PATTERNS: tuple[Pattern, ...] = tuple(p for p in itertools.combinations(range(9), PATTERN_SIZE) if 4 in p)


def _kernels(weight: Tensor) -> Tensor:
    holds = weight.dim() == 4 and weight.shape[2:] == (3, 3)
    require(holds, "weight", tuple(weight.shape), "3 x 3 kernels, K x C/groups x 3 x 3")
    return weight.detach().reshape(-1, 9)


def pattern_mask(weight: Tensor, density: float, library: Sequence[Pattern] | None = None) -> Tensor:
    """Four positions of each live kernel by the best pattern of the library, and the connectivity that density asks.

    density: 4/9 keeps every kernel, less drops whole kernels by what is left of their norm. library: a tuple of
    position tuples; the 8 most frequent of this weight by default.
    """
    check_density(density)
    most = PATTERN_SIZE / 9
    require(density <= most + 1e-9, "density", density, "at most 4/9: a pattern keeps 4 of 9 positions")
    patterns = pattern_library([weight]) if library is None else tuple(library)
    kernels = _kernels(weight)
    table = torch.zeros(len(patterns), 9, dtype=torch.bool)
    for i, pattern in enumerate(patterns):
        require(set(pattern) <= set(range(9)), "library", pattern, "positions 0 to 8")
        table[i, list(pattern)] = True
    retained = kernels.square() @ table.to(kernels.dtype).T
    best = retained.max(dim=1)
    live = keep_greatest(best.values, min(1.0, density / most))
    return (table[best.indices] & live[:, None]).reshape(weight.shape)


def regular_block_mask(weight: Tensor, density: float) -> Tensor:
    """Density-adaptive regular blocks (DARB): in each row one weight, the greatest, per block of 2^n weights.

    A row's block size is the power of two nearest to one over the density that unstructured pruning gives the row.
    """
    rows = weight.flatten(1).abs()
    densities = unstructured_mask(weight, density).flatten(1).to(rows.dtype).mean(dim=1)
    mask = torch.zeros_like(rows, dtype=torch.bool)
    for i, row in enumerate(rows):
        size = block_size(float(densities[i]), rows.shape[1])
        blocks = F.pad(row, (0, -len(row) % size), value=-1.0).view(-1, size)
        kept = torch.zeros_like(blocks, dtype=torch.bool).scatter_(1, blocks.argmax(1, keepdim=True), True)
        mask[i] = kept.flatten()[: len(row)]
    return mask.view(weight.shape)


def block_size(density: float, length: int) -> int:
    """The power of two nearest to 1 / density, at most the one that covers `length`."""
    longest = 2 ** math.ceil(math.log2(length))
    if density * longest <= 1:
        return longest
    below = 2 ** math.floor(math.log2(1 / density))
    return below if 1 / density - below <= 2 * below - 1 / density else 2 * below


SCHEMES: dict[str, tuple[Callable[..., Tensor], str]] = {
    "unstructured": (unstructured_mask, "unstructured"),
    "filter": (filter_mask, "filter"),
    "channel": (channel_mask, "channel"),
    "column": (column_mask, "block"),
    "block": (block_mask, "block"),
    "block_punched": (block_punched_mask, "block"),
    "pattern": (pattern_mask, "pattern"),
    "regular_block": (regular_block_mask, "unstructured"),
}
"""Scheme -> its mask function and the sparsity that the cost model sees."""


def make_mask(weight: Tensor, scheme: str, density: float, **options: Any) -> Tensor:
    """Boolean mask of a scheme; options are those of its mask function.

    Raises: OperatorError naming the argument.
    """
    if scheme not in SCHEMES:
        raise OperatorError(f"scheme={scheme!r}: {nearest(scheme, SCHEMES)}")
    check_density(density)
    if density == 1 and scheme != "pattern":
        return torch.ones_like(weight, dtype=torch.bool)
    return SCHEMES[scheme][0](weight.detach(), density, **options)


def polarise(weight: Tensor, fragment: int = 8, rule: str = "energy") -> Tensor:
    """Make the signs in each fragment of a GEMM column equal, zeroing the rest (FORMS).

    rule: ``energy`` keeps the sign with more squared weight, the exact projection; ``sum`` the sign of the sum.
    """
    require(is_count(fragment), "fragment", fragment, "an integer of at least 1")
    require(rule in ("energy", "sum"), "rule", rule, "'energy' or 'sum'")
    blocks = _blocked(weight.flatten(1), (fragment, 1))
    signed = blocks * blocks.abs() if rule == "energy" else blocks
    positive = signed.sum(1, keepdim=True) >= 0
    return _unblocked(torch.where((blocks > 0) == positive, blocks, 0.0), weight.shape)


class _Masked(Operator):
    """A weight, its mask and what the mask is called; the weight under the mask is `value()`."""

    weight: nn.Parameter
    mask: Tensor
    sparsity_code: Tensor

    def _build(self) -> None:
        self.weight = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(self.weight_shape), a=math.sqrt(5)))
        self.register_buffer("mask", torch.ones(self.weight_shape, dtype=torch.bool))
        self.register_buffer("sparsity_code", torch.tensor(0))  # a buffer, so that it travels in the state dict

    def value(self) -> Tensor:
        return self.weight * self.mask

    @property
    def density(self) -> float:
        return float(self.mask.float().mean())

    @property
    def sparsity(self) -> str:
        return SPARSITIES[int(self.sparsity_code)]

    @torch.no_grad()
    def set_mask(self, mask: Tensor, sparsity: str) -> None:
        """Raises: OperatorError unless the mask has the weight's shape and keeps something."""
        require(mask.shape == self.weight.shape, "mask", tuple(mask.shape), f"the weight's shape {self.weight_shape}")
        require(bool(mask.any()), "mask", "all zeros", "at least one kept weight")
        require(sparsity in SPARSITIES, "sparsity", sparsity, f"one of {', '.join(SPARSITIES)}")
        self.mask.copy_(mask)
        self.sparsity_code.fill_(SPARSITIES.index(sparsity))

    def prune(self, scheme: str, density: float, **options: Any) -> None:
        """Mask the weight by a scheme of `SCHEMES`."""
        if scheme == "channel":
            options.setdefault("groups", self.groups)
        self.set_mask(make_mask(self.weight, scheme, density, **options), SCHEMES[scheme][1])

    def load_dense(self, weight: Tensor) -> None:
        with torch.no_grad():
            self.weight.copy_(weight)

    def dense_weight(self) -> Tensor:
        return self.value()

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        return self.product(x, self.value(), self.bias)

    def plain(self) -> nn.Module:
        return self.dense(self.value().detach(), self.bias)

    def cost_layers(self, name: str, input_shape: tuple[int, ...]) -> tuple[Layer, ...]:
        """One `mac` layer with the mask's density."""
        density = self.density
        sparsity = "dense" if density == 1 else self.sparsity
        return (self.layer(name, input_shape, density=density, sparsity=sparsity),)


class MaskedConv2d(_Masked, ConvOperator):
    """Drop-in for nn.Conv2d with a masked weight; dense until `prune` or `set_mask`."""


class MaskedLinear(_Masked, LinearOperator):
    """Drop-in for nn.Linear with a masked weight; dense until `prune` or `set_mask`."""


def frequency_energy(activations: Tensor, zone: float = 0.25) -> Tensor:
    """Importance of channels by spectrum: the share of energy outside the centred low-frequency square (EZCrop).

    activations: N C H W; zone: side of the square as a fraction of min(H, W). Returns: C, in [0, 1]; 0 for a zero map.
    """
    require(activations.dim() == 4, "activations", tuple(activations.shape), "N x C x H x W")
    require(0 < zone <= 1, "zone", zone, "a fraction in (0, 1]")
    height, width = activations.shape[2:]
    side = max(1, int(zone * min(height, width)))
    energy = torch.fft.fftshift(torch.fft.fft2(activations), dim=(2, 3)).abs().square()
    top, left = height // 2 - side // 2, width // 2 - side // 2
    total = energy.sum((2, 3))
    low = energy[:, :, top : top + side, left : left + side].sum((2, 3))
    share = torch.where(total > 0, 1 - low / total.clamp_min(1e-300), torch.zeros_like(total))
    return share.clamp(0, 1).mean(0)


def spline_distance(weight: Tensor, bias: Tensor | None = None, rho: float = 0.5) -> Tensor:
    """Distance between the hyperplanes of a ReLU layer's units: near 0 means one of the two is redundant.

    d(i,j) = rho (1 - |cos(w_i, w_j)|) + (1 - rho) |b_i/|w_i| -+ b_j/|w_j||, the sign that of the cosine, since (w, b)
    and (-w, -b) are one hyperplane. Fold a batch norm into weight and bias first. Returns: K K.
    """
    require(0 <= rho <= 1, "rho", rho, "a fraction in [0, 1]")
    rows = weight.flatten(1)
    norms = rows.norm(dim=1).clamp_min(1e-12)
    cosine = (rows @ rows.T) / torch.outer(norms, norms)
    offset = torch.zeros_like(norms) if bias is None else bias / norms
    flipped = torch.where(cosine < 0, -offset[None], offset[None])
    return rho * (1 - cosine.abs()).clamp_min(0) + (1 - rho) * (offset[:, None] - flipped).abs()


def spline_scores(weight: Tensor, bias: Tensor | None = None, rho: float = 0.5) -> Tensor:
    """Importance of filters: removing the later one of the closest pair again and again, the rank of its removal."""
    distance = spline_distance(weight, bias, rho)
    distance = distance + torch.diag(torch.full((len(distance),), math.inf, dtype=distance.dtype))
    scores = torch.zeros(len(distance))
    for rank in range(len(distance) - 1):
        pair = int(distance.argmin())
        i, j = divmod(pair, len(distance))
        gone = max(i, j)
        scores[gone] = rank
        distance[gone], distance[:, gone] = math.inf, math.inf
    scores[0] = len(distance) - 1
    return scores
