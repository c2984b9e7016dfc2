"""Shift layers (DeepShift): every weight is a signed power of two, so a product is a bit shift and a sign.

Form "q" keeps a latent weight and rounds it in the log domain on each forward; form "ps" learns the exponent and the
sign. With b weight bits the exponents of form q are -(2^(b-1) - 1)..0; form ps keeps one code for zero and has
-(2^(b-1) - 2)..0. Rounding in the log domain is not nearest-neighbour: 1.4143 2^n rounds up although 2^n is nearer;
the relative error is at most sqrt(2) - 1.

Training recipe: form q as a convolution. Form ps with RAdam and lr 0.01, no weight decay on `shift` and `sign`,
`shift_penalty` times the decay in the loss, and `clamp_shifts` after each step.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cosearch.errors import OperatorError
from cosearch.operators.common import ConvOperator, LinearOperator, Operator, is_count, require
from cosearch.workload import Layer

Form = Literal["q", "ps"]
FIXED_POINT = (16, 16)
"""Integer bits, sign included, and fraction bits of activations and bias."""


def exponent_range(bits: int, form: Form = "q") -> tuple[int, int]:
    """Least and greatest exponent of a weight. Raises: OperatorError unless bits is in 2..6."""
    require(is_count(bits) and 2 <= bits <= 6, "bits", bits, "an integer from 2 to 6")
    require(form in ("q", "ps"), "form", form, "'q' or 'ps'")
    return -(2 ** (bits - 1) - (1 if form == "q" else 2)), 0


def _log_round(magnitude: Tensor) -> Tensor:
    """round(log2 magnitude) as float, exactly: the mantissa is held against sqrt(1/2) instead of taking a logarithm."""
    mantissa, exponent = torch.frexp(magnitude)
    return (exponent - (mantissa < math.sqrt(0.5)).to(exponent.dtype)).to(magnitude.dtype)


def _power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent, exact for whole exponents (torch.exp2 need not be)."""
    return torch.ldexp(torch.ones_like(exponent), exponent.to(torch.int32))


def _signed_power(weight: Tensor, bits: int) -> Tensor:
    low, high = exponent_range(bits)
    magnitude = _power_of_two(_log_round(weight.abs().clamp(2.0**low, 2.0**high)))  # zero becomes the least
    return torch.where(weight < 0, -magnitude, magnitude)


class _Quantise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bits: int) -> Tensor:
        return _signed_power(weight, bits)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def shift_weight(weight: Tensor, bits: int = 5) -> Tensor:
    """Form q: sign(w) 2^round(log2 |w|) with the exponent clamped; straight-through gradient.

    weight: any shape. Zero becomes +2^(least exponent), since form q has no code for zero. The clamp also passes the
    gradient. Raises: OperatorError unless bits is in 2..6. Source: DeepShift (CVPRW 2021), Eq. 8-10.
    """
    exponent_range(bits)
    return _Quantise.apply(weight, bits)


class _Compose(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shift: Tensor, sign: Tensor, low: int) -> Tensor:
        weight = _power_of_two(shift.clamp(low, 0).round()) * sign.round().sign()
        ctx.save_for_backward(weight)
        return weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (weight,) = ctx.saved_tensors
        return gradient * weight * math.log(2), gradient, None


def compose_weight(shift: Tensor, sign: Tensor, bits: int = 5) -> Tensor:
    """Form ps: 2^round(clamp(shift)) sign(round(sign)); zero where |sign| <= 0.5.

    Gradients are the published ones: dL/dshift = dL/dw w ln 2, dL/dsign = dL/dw. Same shapes in and out.
    """
    return _Compose.apply(shift, sign, exponent_range(bits, "ps")[0])


class _FixedPoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, integer_bits: int, fraction_bits: int) -> Tensor:
        scale, limit = 2.0**fraction_bits, 2.0 ** (integer_bits - 1)
        scaled = (x * scale).floor_().clamp_(-limit * scale, limit * scale - 1)
        return scaled.mul_(1 / scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient, None, None


def fixed_point(x: Tensor, bits: tuple[int, int] = FIXED_POINT) -> Tensor:
    """Round down to fixed point with bits = (integer bits with sign, fraction bits); straight-through gradient."""
    check_fixed_point(bits)
    return _FixedPoint.apply(x, *bits)


def check_fixed_point(bits: tuple[int, int]) -> None:
    """Raises: OperatorError unless bits are integer bits and fraction bits."""
    holds = len(bits) == 2 and is_count(bits[0]) and isinstance(bits[1], int) and bits[1] >= 0 and sum(bits) <= 64
    require(holds, "activation_bits", bits, "(integer bits >= 1, fraction bits >= 0), 64 together at most")


@dataclass(frozen=True)
class ShiftCodes:
    """Weights as the hardware stores them: w = sign 2^exponent, sign in {-1, 0, 1}, int8 tensors of w's shape."""

    sign: Tensor
    exponent: Tensor

    def to_float(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return _power_of_two(self.exponent.to(dtype)) * self.sign.to(dtype)

    def aligned(self) -> tuple[Tensor, int]:
        """Integers v and the exponent e with w = v 2^e: what shifting left from the least exponent e gives."""
        least = int(self.exponent.min())
        return self.sign.long() << (self.exponent.long() - least), least


def shift_codes(weight: Tensor) -> ShiftCodes:
    """Split powers of two into sign and exponent. Raises: OperatorError if a weight is neither 0 nor +-2^n."""
    mantissa, exponent = torch.frexp(weight.detach())
    holds = bool(((mantissa.abs() == 0.5) | (mantissa == 0)).all())
    require(holds, "weight", "another value", "zeros and signed powers of two only: quantise it with shift_weight")
    exponent = torch.where(mantissa == 0, torch.zeros_like(exponent), exponent - 1)
    return ShiftCodes(mantissa.sign().to(torch.int8), exponent.to(torch.int8))


class _Shift(Operator):
    """The parameters of either form; `value()` is the weight that the layer computes with."""

    weight: nn.Parameter
    shift: nn.Parameter
    sign: nn.Parameter

    def _build(self, bits: int = 5, form: Form = "q", activation_bits: tuple[int, int] | None = FIXED_POINT) -> None:
        low, high = exponent_range(bits, form)
        if activation_bits is not None:
            check_fixed_point(activation_bits)
        self.bits, self.form, self.activation_bits = bits, form, activation_bits
        if form == "q":
            self.weight = nn.Parameter(torch.empty(self.weight_shape))
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        else:
            self.shift = nn.Parameter(torch.empty(self.weight_shape).uniform_(low, high))
            self.sign = nn.Parameter(torch.empty(self.weight_shape).uniform_(-1, 1))

    def value(self) -> Tensor:
        """The weight, signed powers of two, with the form's gradients."""
        if self.form == "q":
            return shift_weight(self.weight, self.bits)
        return compose_weight(self.shift, self.sign, self.bits)

    @torch.no_grad()
    def load_dense(self, weight: Tensor) -> None:
        """Start from a trained weight: the latent weight itself, or round(log2 |w|) and sign(w)."""
        if self.form == "q":
            self.weight.copy_(weight)
            return
        low, high = exponent_range(self.bits, "ps")
        self.shift.copy_(_log_round(weight.abs()).clamp(low, high))
        self.sign.copy_(weight.sign())

    def codes(self) -> ShiftCodes:
        """The integer form of the weights."""
        return shift_codes(self.value())

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        bias: Tensor | None = self.bias
        if self.activation_bits is not None:
            x = fixed_point(x, self.activation_bits)
            bias = None if bias is None else fixed_point(bias, self.activation_bits)
        return self.product(x, self.value(), bias)

    def plain(self) -> nn.Module:
        """The same layer as a dense one with the rounded weights, behind the rounding of its input."""
        bias: Tensor | None = self.bias
        if bias is not None and self.activation_bits is not None:
            bias = fixed_point(bias.detach(), self.activation_bits)
        dense = self.dense(self.value().detach(), bias)
        return dense if self.activation_bits is None else nn.Sequential(_Rounding(self.activation_bits), dense)

    def cost_layers(self, name: str, input_shape: tuple[int, ...]) -> tuple[Layer, ...]:
        """One `shift` layer for an input N, C, H, W or (..., C)."""
        return (self.layer(name, input_shape, kind="shift", weight_bits=self.bits),)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.bits}, form={self.form!r}"


class ShiftConv2d(_Shift, ConvOperator):
    """Drop-in for nn.Conv2d with power-of-two weights.

    bits: of a weight, 2-6. form: "q" (parameter `weight`) or "ps" (parameters `shift` and `sign`).
    activation_bits: fixed point of input and bias, (integer, fraction) bits; None leaves them as they are.
    """


class ShiftLinear(_Shift, LinearOperator):
    """Drop-in for nn.Linear with power-of-two weights; options as `ShiftConv2d`."""


class _Rounding(nn.Module):
    def __init__(self, bits: tuple[int, int]) -> None:
        super().__init__()
        self.scale, self.limit = 2.0 ** bits[1], 2.0 ** (sum(bits) - 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.floor(x * self.scale).clamp(-self.limit, self.limit - 1) * (1 / self.scale)


def shift_penalty(module: nn.Module) -> Tensor:
    """0.5 sum (2^shift)^2 over the form-ps layers of a module: the L2 penalty belongs on 2^s, not on s."""
    parts = [m.shift for m in module.modules() if isinstance(m, ShiftConv2d | ShiftLinear) and m.form == "ps"]
    if not parts:
        raise OperatorError("module: expected at least one shift layer of form 'ps'; form 'q' takes weight decay")
    return torch.stack([0.5 * torch.exp2(2 * shift).sum() for shift in parts]).sum()


@torch.no_grad()
def clamp_shifts(module: nn.Module) -> None:
    """Bring the exponents of form-ps layers back into their range; the straight-through gradient lets them drift."""
    for m in module.modules():
        if isinstance(m, ShiftConv2d | ShiftLinear) and m.form == "ps":
            m.shift.clamp_(*exponent_range(m.bits, "ps"))
