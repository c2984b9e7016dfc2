"""PECAN: convolution by product quantisation and table look-up.

The rows of the unfolded input are split into D groups of d; each group has m prototypes. ``distance`` replaces every
group of a column by its nearest prototype in the L1 norm, ``angle`` by a softmax mixture of prototypes. The products
of weights and prototypes are a table known beforehand, so that the distance form computes without a multiplication.

Training: the distance form computes with the nearest prototype and back-propagates through
softmax(-distance / temperature), the sign in the distance's gradient replaced by tanh(sharpness (x - c)); raise
`sharpness` as exp(4 epoch / epochs), or by `set_progress`. Start from `load_dense`, then `calibrate` on a batch.
"""

import math
from abc import abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosearch.operators.adder import add_conv2d
from cosearch.operators.common import ConvOperator, LinearOperator, Operator, is_count, require
from cosearch.workload import Layer

Form = Literal["distance", "angle"]
LLOYD_STEPS = 10


class _Closeness(torch.autograd.Function):
    """-||x - c||_1 of N x D x d x L columns to D x d x m prototypes, N x D x m x L, with the tanh surrogate."""

    @staticmethod
    def forward(ctx: Any, columns: Tensor, prototypes: Tensor, sharpness: float) -> Tensor:
        ctx.save_for_backward(columns, prototypes)
        ctx.sharpness = sharpness
        n, groups, width, length = columns.shape
        count = prototypes.shape[2]
        if columns.numel() == 0:
            return columns.new_zeros(n, groups, count, length)
        weight = prototypes.transpose(1, 2).reshape(groups * count, width, 1, 1)
        response = add_conv2d(columns.reshape(n, groups * width, length, 1), weight, groups=groups)
        return response.view(n, groups, count, length)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        columns, prototypes = ctx.saved_tensors
        dx, dc = torch.zeros_like(columns), torch.empty_like(prototypes)
        for m in range(prototypes.shape[2]):  # one prototype at a time: no D d m L temporary
            slope = torch.tanh(ctx.sharpness * (columns - prototypes[None, :, :, m, None])) * gradient[:, :, m : m + 1]
            dx -= slope
            dc[:, :, m] = slope.sum((0, 3))
        return dx, dc, None


class _ProductQuantised(Operator):
    """Prototypes, weights and the product of both; columns are N x D x d x L."""

    weight: nn.Parameter

    @abstractmethod
    def columns(self, x: Tensor) -> Tensor:
        """N x D x d x L of the input."""

    @abstractmethod
    def _shaped(self, y: Tensor, x: Tensor) -> Tensor:
        """N x O x L as the layer's output, with its bias."""

    def _build(
        self, prototypes: int = 16, width: int | None = None, form: Form = "distance", temperature: float = 1.0
    ) -> None:
        shape, groups = self.weight_shape, self.groups
        fan_in = math.prod(shape[1:])
        kernel = math.prod(shape[2:])
        width = (kernel if kernel > 1 else math.gcd(shape[1], 4)) if width is None else width
        fits = is_count(width) and fan_in % width == 0
        require(fits, "width", width, f"a divisor of the {fan_in} inputs of an output")
        require(is_count(prototypes), "prototypes", prototypes, "an integer of at least 1")
        require(form in ("distance", "angle"), "form", form, "'distance' or 'angle'")
        require(temperature > 0, "temperature", temperature, "a positive number")
        self.form, self.temperature, self.sharpness = form, temperature, 1.0
        self.width, self.count, self.parts = width, prototypes, groups
        self.weight = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5)))
        self.prototypes = nn.Parameter(torch.randn(groups * fan_in // width, width, prototypes))

    def set_progress(self, share: float) -> None:
        """Set the sharpness for a share of the training done: exp(4 share)."""
        require(0 <= share <= 1, "share", share, "a fraction in [0, 1]")
        self.sharpness = math.exp(4 * share)

    def assignment(self, columns: Tensor) -> Tensor:
        """N x D x m x L: one-hot of the nearest prototype with the soft one's gradient, or the softmax mixture."""
        if self.form == "angle":
            scores = torch.einsum("gdm,ngdl->ngml", self.prototypes, columns)
            return (scores / self.temperature).softmax(2)
        scores = _Closeness.apply(columns, self.prototypes, self.sharpness)
        soft = (scores / self.temperature).softmax(2)
        hard = torch.zeros_like(soft).scatter_(2, scores.argmax(2, keepdim=True), 1.0)
        return hard + (soft - soft.detach())

    def mix(self, columns: Tensor) -> Tensor:
        """Weights times the quantised columns: N x O x L."""
        n, groups, _, length = columns.shape
        quantised = torch.einsum("gdm,ngml->ngdl", self.prototypes, self.assignment(columns))
        quantised = quantised.reshape(n, self.parts, groups // self.parts * self.width, length)
        weight = self.weight.reshape(self.parts, -1, quantised.shape[2])
        return torch.einsum("pok,npkl->npol", weight, quantised).reshape(n, self.weight.shape[0], length)

    def table(self) -> Tensor:
        """Products of weights and prototypes: parts x D / parts x m x O / parts."""
        groups = self.prototypes.shape[0] // self.parts
        weight = self.weight.reshape(self.parts, -1, groups, self.width)
        prototypes = self.prototypes.view(self.parts, groups, self.width, self.count)
        return torch.einsum("pogd,pgdm->pgmo", weight, prototypes)

    def look_up_columns(self, columns: Tensor) -> Tensor:
        """The distance form by table: the index of the nearest prototype, then additions only. N x O x L."""
        require(self.form == "distance", "form", self.form, "'distance': the angle form has no index")
        n, groups, _, length = columns.shape
        index = (
            _Closeness.apply(columns, self.prototypes, self.sharpness)
            .argmax(2)
            .view(n, self.parts, groups // self.parts, length)
        )
        table = self.table()
        total = torch.zeros(n, self.parts, table.shape[3], length, dtype=columns.dtype, device=columns.device)
        for j in range(groups // self.parts):
            for part in range(self.parts):
                total[:, part] += table[part, j][index[:, part, j]].transpose(1, 2)
        return total.reshape(n, self.weight.shape[0], length)

    @torch.no_grad()
    def _calibrate(self, columns: Tensor, seed: int) -> None:
        """Prototypes from data: the distinct rows where few, else medians (distance) or means (angle) by Lloyd."""
        generator = torch.Generator().manual_seed(seed)
        for j in range(self.prototypes.shape[0]):
            rows = columns[:, j].transpose(1, 2).reshape(-1, self.width)
            self.prototypes[j] = _cluster(rows, self.count, self.form == "distance", generator).T

    @torch.no_grad()
    def load_dense(self, weight: Tensor) -> None:
        self.weight.copy_(weight)

    def forward(self, x: Tensor) -> Tensor:
        return self._shaped(self.mix(self.columns(x)), x)

    @torch.no_grad()
    def look_up(self, x: Tensor) -> Tensor:
        """Inference of the distance form by table look-up."""
        return self._shaped(self.look_up_columns(self.columns(x)), x)

    def calibrate(self, x: Tensor, seed: int = 0) -> None:
        """Take the prototypes from a batch of inputs."""
        self._calibrate(self.columns(x), seed)

    def plain(self) -> nn.Module:
        return _PlainPecan(self)

    def _layers(self, name: str, outputs: int, sizes: dict[str, int]) -> tuple[Layer, ...]:
        groups = self.prototypes.shape[0]
        fields: dict[str, Any] = {"kind": "add" if self.form == "distance" else "mac", **sizes}
        match = Layer(f"{name}.match", K=groups * self.count, C=groups * self.width, groups=groups, **fields)
        columns = groups if self.form == "distance" else groups * self.count
        return match, Layer(f"{name}.table", K=outputs, C=columns, groups=self.parts, **fields)


def _cluster(rows: Tensor, count: int, medians: bool, generator: torch.Generator) -> Tensor:
    """count x d centres of rows; exactly the distinct rows, repeated, if there are at most `count`."""
    distinct = torch.unique(rows, dim=0)
    if len(distinct) <= count:
        return distinct[torch.arange(count) % len(distinct)]
    centres = distinct[torch.randperm(len(distinct), generator=generator)[:count]]
    power = 1.0 if medians else 2.0
    for _ in range(LLOYD_STEPS):
        nearest = torch.cdist(rows, centres, p=power).argmin(1)
        for m in nearest.unique():
            members = rows[nearest == m]
            centres[m] = members.median(0).values if medians else members.mean(0)
    return centres


class PecanConv2d(_ProductQuantised, ConvOperator):
    """Drop-in for nn.Conv2d by product quantisation.

    prototypes: m per group; width: d, a divisor of C/groups R S (R S by default: one input channel);
    form: "distance" or "angle"; temperature: of the softmax.
    """

    def columns(self, x: Tensor) -> Tensor:
        """N x D x d x L of the unfolded input."""
        self.check_input(x)
        x, padding = self.padded(x)
        unfolded = F.unfold(x, self.kernel_size, self.dilation, padding, self.stride)
        return unfolded.view(x.shape[0], self.prototypes.shape[0], self.width, unfolded.shape[2])

    def _shaped(self, y: Tensor, x: Tensor) -> Tensor:
        y = y.view(self.output_shape(tuple(x.shape)))
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)

    def cost_layers(self, name: str, input_shape: tuple[int, ...]) -> tuple[Layer, ...]:
        """`match` against the prototypes and `table`: additions in the distance form, products in the angle form.

        The table's storage, m words per weight of the `table` layer in the distance form, is not in the layers.
        """
        n, k, p, q = self.output_shape(input_shape)
        return self._layers(name, k, {"N": n, "P": p, "Q": q})


class PecanLinear(_ProductQuantised, LinearOperator):
    """Drop-in for nn.Linear by product quantisation; options as `PecanConv2d`, width 4, 2 or 1 by default."""

    def columns(self, x: Tensor) -> Tensor:
        self.check_input(x)
        flat = x.reshape(x.numel() // self.in_features, self.in_features)
        return flat.t().reshape(1, self.prototypes.shape[0], self.width, flat.shape[0])

    def _shaped(self, y: Tensor, x: Tensor) -> Tensor:
        y = y[0].t().reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def cost_layers(self, name: str, input_shape: tuple[int, ...]) -> tuple[Layer, ...]:
        return self._layers(name, self.out_features, {"N": self.layer(name, input_shape).N})


class _PlainPecan(nn.Module):
    """The layer with its distances in ordinary operations: temporaries of N x D x d x L, one prototype at a time."""

    def __init__(self, source: _ProductQuantised) -> None:
        super().__init__()
        self.source = source

    def forward(self, x: Tensor) -> Tensor:
        layer = self.source
        if layer.form == "angle":
            return layer(x)
        columns = layer.columns(x)
        distances = [(columns - layer.prototypes[None, :, :, m, None]).abs().sum(2) for m in range(layer.count)]
        nearest = torch.stack(distances, 2).argmin(2)
        hard = F.one_hot(nearest, layer.count).transpose(2, 3).to(columns.dtype)
        quantised = torch.matmul(layer.prototypes, hard).reshape(len(columns), layer.parts, -1, columns.shape[3])
        weight = layer.weight.reshape(layer.parts, -1, quantised.shape[2])
        y = torch.matmul(weight, quantised).reshape(len(columns), -1, columns.shape[3])
        return layer._shaped(y, x)
