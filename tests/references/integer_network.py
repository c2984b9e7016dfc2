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


def accumulate(layer, x: Tensor, trained) -> Tensor:
    """The accumulators of one integer layer. trained: the unit that the layer was made from."""
    padding = layer.weight.shape[-1] // 2
    common = {"stride": layer.stride, "padding": padding, "groups": layer.groups, "accumulator_bits": ACCUMULATOR_BITS}
    if layer.op == "add":
        return integer_add_conv2d(x, layer.weight, **common)
    if layer.op == "shift":
        sign, exponent = powers_of_two(trained.weight.detach().contiguous())
        sums, least = integer_shift_conv2d(x, ShiftCodes(sign, exponent), **common)
        return sums * 2 ** (least + 7)  # accumulators count in 2^-7
    if trained.step.operator.form != "dense":
        return integer_conv2d(x, layer.weight, **common)
    return integer_conv2d(x, whole_weights(trained), **common)


def whole_weights(trained) -> Tensor:
    """The integers of a dense convolution's weights, one output channel at a time."""
    operator, weight = trained.step.operator, trained.weight.detach().double().clone()
    if operator.sparsity == "block":
        for top in range(0, weight.shape[0], 8):
            for left in range(0, weight.shape[1], 8):
                block = weight[top : top + 8, left : left + 8, 0, 0]  # a view
                energies = [sum(v * v for v in block[:, j].tolist()) for j in range(block.shape[1])]
                weakest = sorted(range(len(energies)), key=lambda j: energies[j])
                block[:, weakest[: len(energies) - round(operator.density * 8)]] = 0.0
    elif operator.density < 1:
        kept = math.ceil(operator.density * weight.numel())
        limit = sorted(weight.abs().flatten().tolist(), reverse=True)[kept - 1]
        weight[weight.abs() < limit] = 0.0
    out = torch.zeros(weight.shape, dtype=torch.int64)
    for k, row in enumerate(weight):
        if operator.weight_bits == 2:
            delta = 0.7 * float(row.abs().mean())
            out[k] = torch.tensor([(v > delta) - (v < -delta) for v in row.flatten().tolist()]).view(row.shape)
        elif row.any():  # an output channel may lose all its weights
            out[k] = (row / (float(row.abs().max()) / (2 ** (operator.weight_bits - 1) - 1))).round().long()
    return out


def run(integer, network, images: Tensor) -> Tensor:
    """The logits of `integer` (an IntegerNetwork made from `network`) on float images."""
    step = Fraction(integer.input_step)
    pixels = [min(max(round(Fraction(v) / step), -127), 127) for v in images.double().flatten().tolist()]
    values = {-1: torch.tensor(pixels).view(images.shape)}
    units = {unit.step.name: unit for unit in network.units()}
    for i, (layer, reads) in enumerate(zip(integer.steps, integer.reads, strict=True)):
        entries = [values[j] for j in reads]
        values[i] = globals()[f"_{type(layer).__name__}"](layer, entries, units, len(images))
    return values[len(integer.steps) - 1]


def _IntegerConv(layer, entries, units, _) -> Tensor:
    # the layers of a chain are numbered after the unit's name
    unit = units.get(layer.name) or units[layer.name.rsplit(".", 1)[0]]
    x = torch.where(entries[0] < 0, 0, entries[0]) if layer.relu else entries[0]
    r = layer.requantise
    return requantise(accumulate(layer, x, unit), r.multiplier, r.shift, r.offset, r.low, r.high)


def _IntegerSum(layer, entries, _, __) -> Tensor:
    half = 2 ** (layer.shift - 1)
    rows = zip(*(entry.flatten().tolist() for entry in entries), strict=True)
    sums = [sum(v * m for v, m in zip(row, layer.multipliers, strict=True)) + half for row in rows]
    return torch.tensor([min(max(s // 2**layer.shift, -127), 127) for s in sums]).view(entries[0].shape)


def _IntegerPool(layer, entries, _, __) -> Tensor:
    x = entries[0]
    n, c, height, width = x.shape
    high, wide = layer.kernel
    margin = (high - 1) // 2 if layer.stride == 1 and not layer.global_ else 0
    rows = [0] if layer.global_ else range(0, height, layer.stride)
    columns = [0] if layer.global_ else range(0, width, layer.stride)
    out = torch.zeros(n, c, len(rows), len(columns), dtype=torch.int64)
    for i, top in enumerate(rows):
        for j, left in enumerate(columns):
            window = x[:, :, max(0, top - margin) : top - margin + high, max(0, left - margin) : left - margin + wide]
            multiplier = round(Fraction(2**layer.shift, window.shape[2] * window.shape[3]))
            for image in range(n):
                for channel in range(c):
                    pixels = window[image, channel].flatten().tolist()
                    total = sum(pixels)
                    out[image, channel, i, j] = (total * multiplier + 2 ** (layer.shift - 1)) // 2**layer.shift
    return out


def _IntegerNorm(layer, entries, _, __) -> Tensor:
    r = layer.requantise
    return requantise(entries[0], r.multiplier, r.shift, r.offset, r.low, r.high)


def _IntegerZeros(layer, _, __, images: int) -> Tensor:
    return torch.zeros(images, *layer.size, dtype=torch.int64)


def _IntegerLinear(layer, entries, _, __) -> Tensor:
    return entries[0].flatten(1) @ layer.weight.T + layer.bias
