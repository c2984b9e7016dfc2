"""The exact integer form of any operator: what fixed hardware computes for it, bit for bit.

A float weight is an integer times a power of two; `round_to_grid` brings a layer's weights onto integers of a stated
width, and `integer_form` reads them off again. With x = v 2^input_exponent the layer's output is then exactly
form(v) 2^exponent, form computing with integers alone: multiply-accumulate, shifts, differences or look-ups, a chain
or a low-rank layer factor by factor without rounding in between. A sum that does not fit the accumulator is an error.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosearch.errors import OperatorError
from cosearch.operators.adder import AddConv2d, AddLinear
from cosearch.operators.binarycoded import BinaryCodedConv2d, BinaryCodedLinear
from cosearch.operators.butterfly import ButterflyConv2d, ButterflyLinear
from cosearch.operators.common import ConvOperator, is_count, kernel_positions, require
from cosearch.operators.composite import ShiftAddConv2d
from cosearch.operators.integer import check_width, integer_add_conv2d, integer_conv2d, integer_shift_conv2d
from cosearch.operators.lowrank import LowRankConv2d, LowRankLinear, SpatialConv2d, TuckerConv2d
from cosearch.operators.pecan import PecanConv2d, PecanLinear
from cosearch.operators.pruned import MaskedConv2d, MaskedLinear
from cosearch.operators.quantised import SMALLEST_STEP, QuantConv2d, QuantLinear
from cosearch.operators.shift import ShiftConv2d, ShiftLinear
from cosearch.operators.smartexchange import SmartExchangeConv2d, SmartExchangeLinear

BIAS_FRACTION_BITS = 16
Stage = Callable[[Tensor, int], Tensor]
"""Integers N C H W and the accumulator's bits to integers N K P Q."""

_SHIFT, _ADD = ShiftConv2d | ShiftLinear, AddConv2d | AddLinear
_QUANT, _CODED = QuantConv2d | QuantLinear, BinaryCodedConv2d | BinaryCodedLinear
_EXCHANGED, _MASKED = SmartExchangeConv2d | SmartExchangeLinear, MaskedConv2d | MaskedLinear
_PECAN, _BUTTERFLY = PecanConv2d | PecanLinear, ButterflyConv2d | ButterflyLinear
_LOW_RANK = LowRankConv2d | LowRankLinear | SpatialConv2d | TuckerConv2d


@dataclass(frozen=True)
class IntegerForm:
    """y = form(v) 2^exponent for x = v 2^input_exponent; v and form(v) are integers of the layer's input, output shape.

    stages: run one after the other; bias: integers at 2^exponent. Raises on call: OperatorError naming x unless v are
    integers, or accumulator_bits and the bits needed on overflow.
    """

    stages: tuple[Stage, ...]
    exponent: int
    input_exponent: int = 0
    bias: Tensor | None = None
    is_linear: bool = False

    def __call__(self, v: Tensor, accumulator_bits: int = 32) -> Tensor:
        integers = not v.is_floating_point() and v.dtype != torch.bool
        require(integers, "x", v.dtype, "an integer tensor")
        total = v.long().reshape(-1, v.shape[-1], 1, 1) if self.is_linear else v.long()
        for stage in self.stages:
            total = stage(total, accumulator_bits)
        if self.bias is not None:
            total = total + self.bias.view(-1, 1, 1)
            check_width("accumulator_bits", total, accumulator_bits)
        return total.reshape(*v.shape[:-1], -1) if self.is_linear else total


def split_dyadic(name: str, value: Tensor, bits: int) -> tuple[Tensor, int]:
    """Integers v and the exponent e with value = v 2^e, v as small as can be.

    Raises: OperatorError unless v fits `bits` bits, two's complement.
    """
    mantissa, exponent = torch.frexp(value.detach().double())
    whole = (mantissa * 2.0**53).long()
    lowest = torch.frexp((whole & -whole).double())[1] - 1  # the place of the last one
    live = whole != 0
    if not bool(live.any()):
        return torch.zeros_like(whole), 0
    least = int((exponent + lowest - 53)[live].min())
    widest = int((exponent - least)[live].max())
    advice = f"integers of {bits} bits times one power of two: use round_to_grid(layer, {bits}) first"
    require(widest <= 62, name, f"values that span {widest} bits", advice)
    integers = torch.ldexp(value.detach().double(), torch.tensor(-least)).long()
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    require(low <= int(integers.min()) and int(integers.max()) <= high, name, f"{widest + 1} bits", advice)
    return integers, least


def _nearest_on_grid(value: Tensor, bits: int) -> Tensor:
    """Nearest `bits`-bit integers on the least power-of-two step that covers the greatest magnitude."""
    top = 2 ** (bits - 1) - 1
    greatest = float(value.abs().max()) if value.numel() else 0.0
    if greatest == 0:
        return torch.zeros_like(value)
    step = 2.0 ** int(torch.frexp(torch.tensor(greatest / top, dtype=torch.float64))[1])
    if greatest <= top * step / 2:
        step /= 2  # greatest / top was a power of two itself
    return (value / step).round() * step


@torch.no_grad()
def round_to_grid(layer: nn.Module, weight_bits: int = 8) -> None:
    """Round an operator's weights in place to `weight_bits`-bit integers times a power of two per tensor.

    Steps of a quantised layer become powers of two, the bias has 16 fraction bits; form q and ps of shift, signs and
    powers of two stay. Raises: OperatorError naming weight_bits, or the layer if it is no operator.
    """
    require(is_count(weight_bits) and 2 <= weight_bits <= 24, "weight_bits", weight_bits, "an integer from 2 to 24")
    for value in _rounded_tensors(layer):
        value.copy_(_nearest_on_grid(value, weight_bits))
    if isinstance(layer, _QUANT):
        for step in (layer.weight_step, layer.input_step):
            step.copy_(2.0 ** step.clamp_min(SMALLEST_STEP).log2().round())
    if isinstance(layer, _EXCHANGED):
        layer.weight.copy_(layer.code.matrices().flatten(1)[:, : layer.weight[0].numel()].reshape(layer.weight.shape))
    bias = layer.add.bias if isinstance(layer, ShiftAddConv2d) else getattr(layer, "bias", None)
    if bias is not None:
        bias.copy_((bias * 2.0**BIAS_FRACTION_BITS).floor() / 2.0**BIAS_FRACTION_BITS)


def _rounded_tensors(layer: nn.Module) -> list[Tensor]:
    if isinstance(layer, _SHIFT | _QUANT):
        return []
    if isinstance(layer, _ADD | _MASKED):
        return [layer.weight]
    if isinstance(layer, ShiftAddConv2d):
        return [layer.add.weight]
    if isinstance(layer, _BUTTERFLY):
        return list(layer.factors)
    if isinstance(layer, TuckerConv2d):
        return [layer.first, layer.core, layer.last]
    if isinstance(layer, _LOW_RANK):
        return [layer.first, layer.last]
    if isinstance(layer, _EXCHANGED):
        return [layer.basis]
    if isinstance(layer, _PECAN):
        return [layer.weight, layer.prototypes]
    if isinstance(layer, _CODED):
        return [layer.alpha]
    raise OperatorError(f"layer={type(layer).__name__}: expected an operator of cosearch.operators")


@torch.no_grad()
def integer_form(layer: nn.Module, weight_bits: int = 8) -> IntegerForm:
    """The integer form of an operator whose weights are integers of `weight_bits` bits times powers of two.

    Raises: OperatorError naming the weight and the width, or what has no integer form (the angle form of PECAN).
    """
    split = partial(split_dyadic, bits=weight_bits)
    how = _geometry(layer)
    v_exponent = 0
    stages: tuple[Stage, ...]
    if isinstance(layer, _SHIFT):
        stages, exponent = _shift_stage(layer, how)
    elif isinstance(layer, _ADD):
        weight, exponent = split("weight", _as_kernel(layer.weight))
        stages, exponent = _add_stage(weight, exponent, 0, how)
    elif isinstance(layer, ShiftAddConv2d):
        first, middle = _shift_stage(layer.shift, _geometry(layer.shift))
        weight, exponent = split("add.weight", layer.add.weight)
        second, exponent = _add_stage(weight, exponent, middle, _geometry(layer.add))
        stages = (*first, *second)
    elif isinstance(layer, _BUTTERFLY):
        factors = [split(f"factors[{i}]", f) for i, f in enumerate(layer.factors)]
        stages = (partial(_chain, [f for f, _ in factors], layer),)
        exponent = sum(e for _, e in factors)
    elif isinstance(layer, _LOW_RANK):
        stages, exponent = _low_rank_stages(layer, split)
    elif isinstance(layer, _PECAN):
        stages, exponent = _pecan_stage(layer, split)
    elif isinstance(layer, _QUANT):
        levels, _ = layer.integer_weight()
        _, exponent = split_dyadic("weight_step", layer.weight_step, 2)
        if layer.activation_bits is not None:
            _, v_exponent = split_dyadic("input_step", layer.input_step, 2)
        stages = (_product(levels, how),)
        exponent += v_exponent
    else:
        weight, exponent = _product_weight(layer, split)
        stages = (_product(_as_kernel(weight), how),)
    bias = layer.add.bias if isinstance(layer, ShiftAddConv2d) else getattr(layer, "bias", None)
    linear = not isinstance(layer, ConvOperator | ShiftAddConv2d)
    if bias is None:
        return IntegerForm(stages, exponent, v_exponent, None, linear)
    whole, at = split_dyadic("bias", bias, 63)
    if at < exponent:
        stages = (*stages, partial(_moved, exponent - at))
        exponent = at
    return IntegerForm(stages, exponent, v_exponent, whole << (at - exponent), linear)


def _geometry(layer: Any) -> dict[str, Any]:
    if not isinstance(layer, ConvOperator):
        return {}
    mode = layer.padding_mode
    require(mode == "zeros", "padding_mode", mode, "'zeros': no other padding has an integer form here")
    names = ("stride", "padding", "dilation", "groups")
    return {name: getattr(layer, name) for name in names}


def _as_kernel(weight: Tensor) -> Tensor:
    return weight if weight.dim() == 4 else weight[:, :, None, None]


def _moved(places: int, v: Tensor, accumulator_bits: int) -> Tensor:
    check_width("accumulator_bits", v, accumulator_bits - places)
    return v << places


def _product(weight: Tensor, how: dict[str, Any]) -> Stage:
    kernel = _as_kernel(weight)
    return lambda v, accumulator_bits: integer_conv2d(v, kernel, **how, accumulator_bits=accumulator_bits)


def _shift_stage(layer: ShiftConv2d | ShiftLinear, how: dict[str, Any]) -> tuple[tuple[Stage, ...], int]:
    codes = layer.codes()
    codes = type(codes)(_as_kernel(codes.sign), _as_kernel(codes.exponent))
    stage: Stage = lambda v, bits: integer_shift_conv2d(v, codes, **how, accumulator_bits=bits)[0]  # noqa: E731
    return (stage,), int(codes.exponent.min())


def _add_stage(weight: Tensor, exponent: int, v_exponent: int, how: dict[str, Any]) -> tuple[tuple[Stage, ...], int]:
    """Weights and inputs on their finer step: a difference needs one."""
    finer = min(exponent, v_exponent)
    aligned, places = weight << (exponent - finer), v_exponent - finer

    def stage(v: Tensor, bits: int) -> Tensor:
        return integer_add_conv2d(_moved(places, v, bits), aligned, **how, accumulator_bits=bits)

    return (stage,), finer


def _product_weight(layer: nn.Module, split: Callable[[str, Tensor], tuple[Tensor, int]]) -> tuple[Tensor, int]:
    if isinstance(layer, _MASKED):
        return split("weight", layer.value())
    if isinstance(layer, _EXCHANGED):
        coefficients, e = split("coefficients", layer.coefficients)
        basis, f = split("basis", layer.basis)
        flat = (coefficients @ basis).flatten(1)[:, : layer.weight[0].numel()]  # shifts of the basis, and sums
        return flat.reshape(layer.weight.shape), e + f
    if isinstance(layer, _CODED):
        alpha, e = split("alpha", layer.alpha)
        flat = (layer.signs.long() * alpha.unsqueeze(2)).sum(-1).flatten(1)
        return flat[:, : layer.code.columns].reshape(layer.weight_shape), e
    raise OperatorError(f"layer={type(layer).__name__}: expected an operator of cosearch.operators")


def _low_rank_stages(layer: Any, split: Callable[[str, Tensor], tuple[Tensor, int]]) -> tuple[tuple[Stage, ...], int]:
    names = ("first", "core", "last") if isinstance(layer, TuckerConv2d) else ("first", "last")
    parts = [split(name, getattr(layer, name)) for name in names]
    how = _geometry(layer)
    plain = {"groups": how.get("groups", 1)}
    if isinstance(layer, SpatialConv2d):
        moves = {name: value for name, value in how.items() if name != "groups"}
        none = {"stride": 1, "padding": 0, "dilation": 1}
        down = {name: (value[0], none[name]) for name, value in moves.items()}
        across = {name: (none[name], value[1]) for name, value in moves.items()}
        steps = [down | plain, across | plain]
    elif isinstance(layer, TuckerConv2d):
        steps = [plain, how, plain]
    else:
        steps = [how, plain]
    stages = tuple(_product(weight, how) for (weight, _), how in zip(parts, steps, strict=True))
    return stages, sum(e for _, e in parts)


def _columns(layer: Any, v: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Integers N C H W unfolded to N x (C R S) x (P Q), and (P, Q)."""
    if not isinstance(layer, ConvOperator):
        return v.flatten(2), (1, 1)
    p, q = layer.output_shape(tuple(v.shape))[2:]
    high, wide = layer.padding
    padded = F.pad(v, (wide, wide, high, high))
    windows = [
        padded[(..., *w)] for _, _, w in kernel_positions(padded, layer.kernel_size, layer.stride, layer.dilation)
    ]
    return torch.stack(windows, 2).reshape(len(v), -1, p * q), (p, q)


def _chain(factors: list[Tensor], layer: ButterflyConv2d | ButterflyLinear, v: Tensor, accumulator_bits: int) -> Tensor:
    columns, size = _columns(layer, v)
    for factor in factors:
        groups, b, _, s, t = factor.shape
        grouped = columns.reshape(len(v), groups, b, s, t, -1)
        columns = torch.einsum("gbrst,ngbstl->ngbrtl", factor, grouped).reshape(len(v), -1, columns.shape[2])
        check_width("accumulator_bits", columns, accumulator_bits)
    return columns.reshape(len(v), -1, *size)


def _pecan_stage(
    layer: PecanConv2d | PecanLinear, split: Callable[[str, Tensor], tuple[Tensor, int]]
) -> tuple[tuple[Stage, ...], int]:
    """The nearest prototype by integer L1 distance, then sums from an integer table."""
    require(layer.form == "distance", "form", layer.form, "'distance': the angle form's softmax has no integer form")
    prototypes, e = split("prototypes", layer.prototypes)
    weight, f = split("weight", layer.weight)
    finer = min(e, 0)
    aligned, places = prototypes << (e - finer), -finer
    parts, groups = layer.parts, prototypes.shape[0] // layer.parts
    table = torch.einsum(
        "pogd,pgdm->pgmo",
        weight.reshape(parts, -1, groups, layer.width),
        prototypes.view(parts, groups, layer.width, layer.count),
    )

    def stage(v: Tensor, bits: int) -> Tensor:
        columns, size = _columns(layer, _moved(places, v, bits))
        grouped = columns.view(len(v), parts * groups, layer.width, 1, -1)
        distance = (grouped - aligned[None, :, :, :, None]).abs().sum(2)
        check_width("accumulator_bits", distance, bits)
        index = distance.argmin(2).view(len(v), parts, groups, -1)  # N x parts x groups x L
        chosen = [
            torch.stack([table[p, g][index[:, p, g]] for g in range(groups)]).sum(0).transpose(1, 2)
            for p in range(parts)
        ]
        total = torch.cat(chosen, 1)
        check_width("accumulator_bits", total, bits)
        return total.reshape(len(v), -1, *size)

    return (stage,), e + f
