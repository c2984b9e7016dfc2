"""Uniform quantisation with a learned step (LSQ), 1 to 8 bits, of weights and inputs.

q(v) = round(clamp(v / step, low, high)) step. Signed b bits are -2^(b-1)..2^(b-1)-1, unsigned 0..2^b-1, and one
signed bit is -1 or +1. The gradient to v is straight-through inside the range and zero outside; the gradient to the
step is sum g (round(v / step) - v / step) inside and sum g (low or high) outside, times 1 / sqrt(n high).

Training recipe: `load_dense` of a trained layer, or from scratch; SGD as for the convolution, no decay on the steps.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from cosearch.operators.common import ConvOperator, LinearOperator, Operator, is_count, require
from cosearch.workload import Layer

SAMPLE = 1 << 14  # values that the best step is searched on
SMALLEST_STEP = 1e-9


def check_bits(name: str, bits: int) -> None:
    """Raises: OperatorError unless bits is an integer from 1 to 8."""
    require(is_count(bits) and bits <= 8, name, bits, "an integer from 1 to 8")


def level_range(bits: int, signed: bool = True) -> tuple[int, int]:
    """Least and greatest integer level."""
    check_bits("bits", bits)
    if not signed:
        return 0, 2**bits - 1
    return (-1, 1) if bits == 1 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _levels(v: Tensor, step: Tensor, bits: int, signed: bool) -> Tensor:
    """The integer levels of v, as floats."""
    if bits == 1 and signed:
        return torch.where(v < 0, -1.0, 1.0).to(v.dtype)
    return (v / step).round_().clamp_(*level_range(bits, signed))


class _LearnedStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, step: Tensor, bits: int, signed: bool, scale: float) -> Tensor:
        size = step.clamp_min(SMALLEST_STEP)
        y = _levels(v, size, bits, signed).mul_(size)
        ctx.save_for_backward(v, y, size)
        ctx.bounds, ctx.scale = level_range(bits, signed), scale
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        v, y, step = ctx.saved_tensors
        low, high = (bound * float(step) for bound in ctx.bounds)
        dv = torch.ops.aten.hardtanh_backward(gradient, v, low, high)  # zero where v is outside, in one pass
        # inside g (y - v), outside g y = g (y - v) + g v: no sum of large terms that cancel
        total = torch.dot(gradient.reshape(-1), (y - v).reshape(-1))
        total = total + torch.dot((gradient - dv).reshape(-1), v.reshape(-1))
        return dv, (total / step * ctx.scale).view(step.shape), None, None, None


def learned_step(v: Tensor, step: Tensor, bits: int, signed: bool = True, count: int | None = None) -> Tensor:
    """Quantise with a learned scalar step; see the module's text for the gradients.

    v: any shape; step: one positive value; count: n of the gradient's scale, all of v by default.
    Raises: OperatorError naming bits or step. Source: LSQ (ICLR 2020), Eq. 1-3.
    """
    require(step.numel() == 1, "step", tuple(step.shape), "one value")
    high = level_range(bits, signed)[1]
    return _LearnedStep.apply(v, step, bits, signed, 1 / math.sqrt((count or v.numel()) * high))


@torch.no_grad()
def best_step(v: Tensor, bits: int, signed: bool = True) -> Tensor:
    """The step of least squared error, by search over 80 fractions of the one that covers the range; a scalar."""
    low, high = level_range(bits, signed)
    flat = v.detach().flatten()
    if flat.numel() > SAMPLE:
        flat = torch.cat([flat[:: flat.numel() // SAMPLE], flat.aminmax().max.view(1), flat.aminmax().min.view(1)])
    if bits == 1 and signed:
        return flat.abs().mean().clamp_min(SMALLEST_STEP)
    widest = torch.maximum(flat.max() / high, flat.min() / low if signed else flat.max() / high)
    candidates = widest.clamp_min(SMALLEST_STEP) * torch.linspace(0.05, 1.2, 80, dtype=flat.dtype, device=flat.device)
    errors = torch.stack([(_levels(flat, c, bits, signed) * c - flat).square().sum() for c in candidates])
    return candidates[errors.argmin()]


class _Quantised(Operator):
    """Weight, steps and their use; the input's step is set from the first batch."""

    weight: nn.Parameter
    input_step: nn.Parameter
    calibrated: Tensor

    def _build(self, weight_bits: int = 8, activation_bits: int | None = 8, signed_input: bool = True) -> None:
        check_bits("weight_bits", weight_bits)
        if activation_bits is not None:
            check_bits("activation_bits", activation_bits)
        self.weight_bits, self.activation_bits, self.signed_input = weight_bits, activation_bits, signed_input
        self.weight = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(self.weight_shape), a=math.sqrt(5)))
        self.weight_step = nn.Parameter(best_step(self.weight, weight_bits))
        self.input_step = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("calibrated", torch.tensor(activation_bits is None))

    def value(self) -> Tensor:
        """The quantised weight, with LSQ's gradients."""
        return learned_step(self.weight, self.weight_step, self.weight_bits)

    def quantise_input(self, x: Tensor) -> Tensor:
        if self.activation_bits is None:
            return x
        if not self.calibrated and x.numel():
            self.calibrate(x)
        return learned_step(x, self.input_step, self.activation_bits, self.signed_input, max(1, x[:1].numel()))

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Set the input's step to the best one for a batch of inputs."""
        require(self.activation_bits is not None, "activation_bits", None, "a bit width, or nothing to calibrate")
        self.input_step.copy_(best_step(x, self.activation_bits or 8, self.signed_input))
        self.calibrated.fill_(True)

    @torch.no_grad()
    def load_dense(self, weight: Tensor) -> None:
        """Start from a trained weight with the step of least squared error."""
        self.weight.copy_(weight)
        self.weight_step.copy_(best_step(self.weight, self.weight_bits))

    def dense_weight(self) -> Tensor:
        return self.value()

    @torch.no_grad()
    def integer_weight(self) -> tuple[Tensor, float]:
        """Integer levels (int64) and the step: the weight is levels * step."""
        step = self.weight_step.clamp_min(SMALLEST_STEP)
        return _levels(self.weight, step, self.weight_bits, True).long(), float(step)

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        return self.product(self.quantise_input(x), self.value(), self.bias)

    def plain(self) -> nn.Module:
        """The same layer as a dense one with the rounded weights, behind the rounding of its input."""
        dense = self.dense(self.value().detach(), self.bias)
        if self.activation_bits is None:
            return dense
        bounds = level_range(self.activation_bits, self.signed_input)
        binary = self.activation_bits == 1 and self.signed_input
        return nn.Sequential(_InputLevels(float(self.input_step.clamp_min(SMALLEST_STEP)), bounds, binary), dense)

    def cost_layers(self, name: str, input_shape: tuple[int, ...]) -> tuple[Layer, ...]:
        """One `mac` layer with its bits."""
        bits = {"weight_bits": self.weight_bits}
        if self.activation_bits is not None:
            bits["input_bits"] = self.activation_bits
        return (self.layer(name, input_shape, **bits),)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, weight_bits={self.weight_bits}, activation_bits={self.activation_bits}"


class _InputLevels(nn.Module):
    def __init__(self, step: float, bounds: tuple[int, int], binary: bool) -> None:
        super().__init__()
        self.step, self.bounds, self.binary = step, bounds, binary

    def forward(self, x: Tensor) -> Tensor:
        if self.binary:
            return torch.where(x < 0, -self.step, self.step)
        return torch.round(x / self.step).clamp(*self.bounds) * self.step


class QuantConv2d(_Quantised, ConvOperator):
    """Drop-in for nn.Conv2d with quantised weights and inputs.

    weight_bits, activation_bits: 1-8, activation_bits None leaves the input as it is. signed_input: False after a ReLU.
    """


class QuantLinear(_Quantised, LinearOperator):
    """Drop-in for nn.Linear with quantised weights and inputs; options as `QuantConv2d`."""
