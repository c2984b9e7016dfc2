"""The exact integer form of a trained `Network`: what the accelerator computes, bit for bit.

Activations are 8 bits (unsigned after a ReLU, signed elsewhere, zero exact), weights 8 bits (conv, add) or a sign and
a 3-bit exponent (shift), accumulators 24 bits. Batch-norm is folded into the requantisation of each layer: per output
channel one 16-bit multiplier, one right shift and one integer offset.

An adder layer subtracts weights from inputs, so both are written in the step of the input tensor. A weight outside
the input's range is moved to its end, which is exact: |w - x| = |end - x| + |w - end| for every x in the range, and the
constant joins the offset.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cosearch.data import Split
from cosearch.errors import CosearchError, RunError
from cosearch.macro import ACCUMULATOR_BITS, ACTIVATION_BITS, OPERATORS
from cosearch.operators.adder import add_conv2d
from cosearch.operators.shift import shift_weight
from cosearch.supernet.blocks import InvertedBottleneck, Network, Unit

MULTIPLIER_BITS = 16


class AccumulatorOverflowError(CosearchError):
    """A sum does not fit the accumulator of the hardware."""


@dataclass(frozen=True)
class Requantise:
    """out = clamp((acc * multiplier + offset) >> shift, low, high), per output channel; offset holds the rounding."""

    multiplier: Tensor
    shift: Tensor
    offset: Tensor
    low: int
    high: int

    def __call__(self, accumulator: Tensor) -> Tensor:
        """accumulator: B x K x P x Q, int64. Returns: the same shape, int64 within [low, high]."""
        view = (1, -1, 1, 1)
        scaled = accumulator * self.multiplier.view(view) + self.offset.view(view)
        return (scaled >> self.shift.view(view)).clamp(self.low, self.high)


@dataclass(frozen=True)
class IntegerConv:
    """weight: K x C/groups x k x k, int64. A shift layer's are signed powers of two, 2^0 to 2^7."""

    name: str
    op: str
    weight: Tensor
    stride: int
    groups: int
    requantise: Requantise

    def accumulate(self, x: Tensor) -> Tensor:
        """x: B x C x H x W, int64. Returns: B x K x P x Q, int64, exact.

        Raises: AccumulatorOverflowError.
        """
        padding = self.weight.shape[-1] // 2
        if self.op == "add":
            # float32 sums of integers are exact below 2^24, which is the accumulator's own limit
            sums = add_conv2d(x.float(), self.weight.float(), self.stride, padding, groups=self.groups)
        else:
            sums = F.conv2d(x.double(), self.weight.double(), None, self.stride, padding, 1, self.groups)
        return _within_accumulator(self.name, sums.long())

    def __call__(self, x: Tensor) -> Tensor:
        return self.requantise(self.accumulate(x))


@dataclass(frozen=True)
class IntegerBlock:
    """residual: how branch and entry are brought to the step of their sum; None without a residual."""

    layers: tuple[IntegerConv, IntegerConv, IntegerConv]
    residual: "Residual | None"

    def __call__(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.layers:
            y = layer(y)
        return self.residual(y, x) if self.residual else y


@dataclass(frozen=True)
class Residual:
    """out = clamp((branch * m_b + entry * m_e + half) >> shift, -127, 127)."""

    branch_multiplier: int
    entry_multiplier: int
    shift: int

    def __call__(self, branch: Tensor, entry: Tensor) -> Tensor:
        half = 1 << (self.shift - 1)
        total = branch * self.branch_multiplier + entry * self.entry_multiplier + half
        return (total >> self.shift).clamp(-127, 127)


@dataclass(frozen=True)
class IntegerNetwork:
    """input_step: the real value of one integer step of the image. Logits are integers in one common step."""

    input_step: float
    stem: IntegerConv
    blocks: tuple[IntegerBlock, ...]
    head: IntegerConv
    pool: Requantise
    classifier_weight: Tensor
    classifier_bias: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """images: B x C x H x W, float. Returns: B x classes, int64."""
        y = (images / self.input_step).round().clamp(-127, 127).long()
        y = self.stem(y)
        for block in self.blocks:
            y = block(y)
        y = self.head(y)
        pooled = self.pool(y.sum((2, 3), keepdim=True))[:, :, 0, 0]
        # products in float64 are exact for these widths and, unlike int64 matrix products, fast
        logits = (pooled.double() @ self.classifier_weight.double().T).long() + self.classifier_bias
        return _within_accumulator("classifier", logits)


def _within_accumulator(name: str, value: Tensor) -> Tensor:
    limit = 2 ** (ACCUMULATOR_BITS - 1)
    peak = int(value.abs().max()) if value.numel() else 0
    if peak >= limit:
        raise AccumulatorOverflowError(f"layer {name!r}: a sum of {peak} does not fit {ACCUMULATOR_BITS} bits")
    return value


@dataclass(frozen=True)
class _Tensor:
    """How an activation tensor is written: real value = integer * step; unsigned after a ReLU."""

    step: float
    signed: bool

    @property
    def limits(self) -> tuple[int, int]:
        return (-127, 127) if self.signed else (0, 2**ACTIVATION_BITS - 1)


def _written(amax: float, signed: bool) -> _Tensor:
    """The tensor whose largest value is `amax`."""
    return _Tensor(max(amax, 1e-6) / (127 if signed else 2**ACTIVATION_BITS - 1), signed)


def _fixed_point(scale: Tensor, offset: Tensor, tensor: _Tensor) -> Requantise:
    """Write out = scale * acc + offset (in steps of `tensor`) with 16-bit multipliers."""
    _, exponent = torch.frexp(scale.abs().clamp_min(1e-12))
    shift = (MULTIPLIER_BITS - 1 - exponent.long()).clamp(1, 38)
    multiplier = (scale * 2.0**shift).round().long()
    half = 2.0 ** (shift - 1)
    low, high = tensor.limits
    return Requantise(multiplier, shift, (offset * 2.0**shift + half).round().long(), low, high)


def _integer_weight(unit: Unit, entry: _Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Integer weights; per output channel the real value of one accumulator step, and a real constant to add."""
    weight = unit.weight.detach().double()
    ones = torch.ones(len(weight), dtype=torch.float64)
    if unit.op == "add":
        low, high = entry.limits
        held = weight.clamp(low * entry.step, high * entry.step)
        return (held / entry.step).round().long(), ones * entry.step, -(weight - held).abs().sum((1, 2, 3))
    if unit.op == "shift":
        places = 2 ** (OPERATORS["shift"].weight_bits - 1) - 1
        exact = shift_weight(unit.weight.detach(), OPERATORS["shift"].weight_bits).double()
        return (exact * 2.0**places).round().long(), ones * entry.step * 2.0**-places, ones * 0
    step = weight.abs().amax((1, 2, 3)).clamp_min(1e-12) / 127
    return (weight / step.view(-1, 1, 1, 1)).round().long(), step * entry.step, ones * 0


def _convert(name: str, unit: Unit, entry: _Tensor) -> tuple[IntegerConv, _Tensor]:
    bn = unit.bn
    assert bn.running_mean is not None
    assert bn.running_var is not None
    gain = bn.weight.detach().double() / torch.sqrt(bn.running_var.double() + bn.eps)
    shift = bn.bias.detach().double() - bn.running_mean.double() * gain
    weight, step, constant = _integer_weight(unit, entry)
    out = _written(float(unit.amax), not unit.relu)
    requantise = _fixed_point(gain * step / out.step, (shift + gain * constant) / out.step, out)
    return IntegerConv(name, unit.op, weight, unit.stride, unit.groups, requantise), out


def _convert_block(name: str, block: InvertedBottleneck, entry: _Tensor) -> tuple[IntegerBlock, _Tensor]:
    expand, y = _convert(f"{name}.expand", block.expand, entry)
    depthwise, y = _convert(f"{name}.depthwise", block.depthwise, y)
    project, y = _convert(f"{name}.project", block.project, y)
    if not block.residual:
        return IntegerBlock((expand, depthwise, project), None), y
    out = _written(float(block.amax), True)
    shift = MULTIPLIER_BITS - 2
    residual = Residual(round(y.step / out.step * 2**shift), round(entry.step / out.step * 2**shift), shift)
    return IntegerBlock((expand, depthwise, project), residual), out


@torch.no_grad()
def to_integer(network: Network, images: Tensor) -> IntegerNetwork:
    """Convert a trained, calibrated network. images: calibration images, for the range of the input."""
    network = network.cpu().eval()
    entry = _written(float(images.abs().max()), True)
    input_step = entry.step
    stem, entry = _convert("stem", network.stem, entry)
    converted = []
    for i, block in enumerate(network.blocks):
        assert isinstance(block, InvertedBottleneck)
        integer, entry = _convert_block(f"block{i + 1}", block, entry)
        converted.append(integer)
    head, entry = _convert("head", network.head, entry)
    positions = network.macro.positions
    height, width = positions[-1].out_size
    pooled = _Tensor(entry.step, False)
    channels = torch.ones(network.macro.head_channels, dtype=torch.float64)
    pool = _fixed_point(channels / (height * width), channels * 0, pooled)
    weight = network.classifier.weight.double()
    step = float(weight.abs().max()) / 127
    bias = (network.classifier.bias.double() / (step * pooled.step)).round().long()
    return IntegerNetwork(input_step, stem, tuple(converted), head, pool, (weight / step).round().long(), bias)


@torch.no_grad()
def integer_predictions(network: IntegerNetwork, x: Tensor, batch_size: int = 128) -> Tensor:
    """Class of each image. x: n x C x H x W, standardised. Returns: n, int64."""
    return torch.cat([network(batch).argmax(1) for batch in x.split(batch_size)])


def integer_accuracy(network: IntegerNetwork, split: Split) -> float:
    """Fraction of the split that the integer network classifies correctly, in [0, 1]."""
    predicted = integer_predictions(network, torch.from_numpy(split.x))
    return float((predicted == torch.from_numpy(split.y)).double().mean())


FORMAT = {"format": "cosearch.integer", "version": "1"}


def to_tensors(network: IntegerNetwork) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Everything that the hardware needs, as named int64 tensors and JSON metadata; `from_tensors` reads it."""
    tensors: dict[str, Tensor] = {}

    def requantise(name: str, value: Requantise) -> dict[str, Any]:
        for part in ("multiplier", "shift", "offset"):
            tensors[f"{name}.{part}"] = getattr(value, part)
        return {"low": value.low, "high": value.high}

    def conv(layer: IntegerConv) -> dict[str, Any]:
        tensors[f"{layer.name}.weight"] = layer.weight
        fixed = {"name": layer.name, "op": layer.op, "stride": layer.stride, "groups": layer.groups}
        return {**fixed, **requantise(layer.name, layer.requantise)}

    structure = {
        "input_step": network.input_step,
        "stem": conv(network.stem),
        "blocks": [
            {
                "layers": [conv(layer) for layer in block.layers],
                "residual": asdict(block.residual) if block.residual else None,
            }
            for block in network.blocks
        ],
        "head": conv(network.head),
        "pool": requantise("pool", network.pool),
    }
    tensors["classifier.weight"], tensors["classifier.bias"] = network.classifier_weight, network.classifier_bias
    return tensors, {**FORMAT, "network": json.dumps(structure)}


def from_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> IntegerNetwork:
    """Raises: RunError if the tensors are not an integer network of a version that this code reads."""
    if any(metadata.get(key) != value for key, value in FORMAT.items()):
        raise RunError(f"expected tensors with {FORMAT}, got {dict(metadata)}"[:200])

    def requantise(name: str, data: Mapping[str, Any]) -> Requantise:
        multiplier, shift, offset = (tensors[f"{name}.{part}"] for part in ("multiplier", "shift", "offset"))
        return Requantise(multiplier, shift, offset, int(data["low"]), int(data["high"]))

    def conv(data: Mapping[str, Any]) -> IntegerConv:
        name = str(data["name"])
        weight, stride, groups = tensors[f"{name}.weight"], int(data["stride"]), int(data["groups"])
        return IntegerConv(name, str(data["op"]), weight, stride, groups, requantise(name, data))

    def block(data: Mapping[str, Any]) -> IntegerBlock:
        first, second, third = (conv(layer) for layer in data["layers"])
        return IntegerBlock((first, second, third), Residual(**data["residual"]) if data["residual"] else None)

    try:
        structure = json.loads(metadata["network"])
        return IntegerNetwork(
            float(structure["input_step"]),
            conv(structure["stem"]),
            tuple(block(data) for data in structure["blocks"]),
            conv(structure["head"]),
            requantise("pool", structure["pool"]),
            tensors["classifier.weight"],
            tensors["classifier.bias"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"the integer network is damaged: {error}") from error
