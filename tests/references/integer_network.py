"""What an accelerator computes, literally: integer operators of `cosearch.operators.integer` and Python's own integers
for every requantisation. Weights are quantised here anew from the trained network.
"""

import math
from fractions import Fraction

import torch
from torch import Tensor

from cosearch.operators.integer import integer_add_conv2d, integer_conv2d, integer_shift_conv2d
from cosearch.operators.shift import ShiftCodes

ACCUMULATOR_BITS = 24


def requantise(accumulator: Tensor, multiplier: Tensor, shift: Tensor, offset: Tensor, low: int, high: int) -> Tensor:
    """clamp(floor((acc * m + b) / 2^s)), one number at a time, without a width limit."""
    out = torch.empty_like(accumulator)
    rows = zip(multiplier.tolist(), shift.tolist(), offset.tolist(), strict=True)
    for k, (m, s, b) in enumerate(rows):
        values = [min(max((v * m + b) // 2**s, low), high) for v in accumulator[:, k].flatten().tolist()]
        out[:, k] = torch.tensor(values).view(accumulator[:, k].shape)
    return out


def powers_of_two(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(sign, exponent) of the shift rule in 4 bits: round log2|w| clamped to -7..0; 0 counts as +2^-7."""
    sign, exponent = torch.ones_like(weight, dtype=torch.int8), torch.empty_like(weight, dtype=torch.int8)
    for i, value in enumerate(weight.flatten().tolist()):
        magnitude = min(max(abs(value), 2.0**-7), 1.0)
        exponent.view(-1)[i] = round(math.log2(magnitude))
        sign.view(-1)[i] = -1 if value < 0 else 1
    return sign, exponent


def accumulate(layer, x: Tensor, trained: Tensor) -> Tensor:
    """The accumulators of one integer layer. trained: the float weights that the layer was made from."""
    padding = layer.weight.shape[-1] // 2
    common = {"stride": layer.stride, "padding": padding, "groups": layer.groups, "accumulator_bits": ACCUMULATOR_BITS}
    if layer.op == "add":
        return integer_add_conv2d(x, layer.weight, **common)
    if layer.op == "shift":
        sign, exponent = powers_of_two(trained.contiguous())
        sums, least = integer_shift_conv2d(x, ShiftCodes(sign, exponent), **common)
        return sums * 2 ** (least + 7)  # accumulators count in 2^-7
    step = trained.abs().amax((1, 2, 3)).double() / 127
    weight = (trained.double() / step.view(-1, 1, 1, 1)).round().long()
    return integer_conv2d(x, weight, **common)


def run(integer, network, images: Tensor) -> Tensor:
    """The logits of `integer` (an IntegerNetwork made from `network`) on float images."""

    def unit(layer, trained_unit, x: Tensor) -> Tensor:
        r = layer.requantise
        sums = accumulate(layer, x, trained_unit.weight.detach())
        return requantise(sums, r.multiplier, r.shift, r.offset, r.low, r.high)

    step = Fraction(integer.input_step)
    pixels = [min(max(round(Fraction(v) / step), -127), 127) for v in images.double().flatten().tolist()]
    y = torch.tensor(pixels).view(images.shape)
    y = unit(integer.stem, network.stem, y)
    for block, trained in zip(integer.blocks, network.blocks, strict=True):
        entry = y
        for layer, trained_unit in zip(block.layers, (trained.expand, trained.depthwise, trained.project), strict=True):
            y = unit(layer, trained_unit, y)
        if trained.residual:
            r = block.residual
            sums = [
                min(
                    max((b * r.branch_multiplier + e * r.entry_multiplier + 2 ** (r.shift - 1)) // 2**r.shift, -127),
                    127,
                )
                for b, e in zip(y.flatten().tolist(), entry.flatten().tolist(), strict=True)
            ]
            y = torch.tensor(sums).view(y.shape)
    y = unit(integer.head, network.head, y)
    p = integer.pool
    pooled = requantise(y.sum((2, 3), keepdim=True), p.multiplier, p.shift, p.offset, p.low, p.high)[:, :, 0, 0]
    return pooled @ integer.classifier_weight.T + integer.classifier_bias
