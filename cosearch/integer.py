"""The exact integer form of a trained `Network`: what the accelerator computes, bit for bit.

Activations are 8 bits (unsigned after a ReLU, signed elsewhere, zero exact), weights 8 bits or fewer (conv, add) or a
sign and a 3-bit exponent (shift), accumulators 24 bits. Batch-norm is folded into the requantisation of each layer:
per output channel one 16-bit multiplier, one right shift and one integer offset. Low-rank and butterfly layers are
several layers with 8 bits between them.

An adder layer subtracts weights from inputs, so both are written in the step of the input tensor. A weight outside
the input's range is moved to its end, which is exact: |w - x| = |end - x| + |w - end| for every x in the range, and the
constant joins the offset.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cosearch.blueprint import ACCUMULATOR_BITS, ACTIVATION_BITS, Conv, Linear, Norm, Pool, Sum
from cosearch.data import Split
from cosearch.errors import CosearchError, RunError, one_line
from cosearch.operators.adder import add_conv2d
from cosearch.reading import parse_json
from cosearch.supernet import arithmetic
from cosearch.supernet.blocks import Network, Unit, Watched
from cosearch.workload import INPUT

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
    """weight: K x C/groups x k x k, int64. A shift layer's are signed powers of two, 2^0 to 2^7.

    relu: negative inputs are read as 0.
    """

    name: str
    op: str
    weight: Tensor
    stride: int
    groups: int
    relu: bool
    requantise: Requantise

    def accumulate(self, x: Tensor) -> Tensor:
        """x: B x C x H x W, int64. Returns: B x K x P x Q, int64, exact.

        Raises: AccumulatorOverflowError.
        """
        padding = self.weight.shape[-1] // 2
        x = x.clamp_min(0) if self.relu else x
        if self.op == "add":
            # float32 sums of integers are exact below 2^24, which is the accumulator's own limit
            sums = add_conv2d(x.float(), self.weight.float(), self.stride, padding, groups=self.groups)
        else:
            sums = F.conv2d(x.double(), self.weight.double(), None, self.stride, padding, 1, self.groups)
        return _within_accumulator(self.name, sums.long())

    def __call__(self, values: Sequence[Tensor]) -> Tensor:
        return self.requantise(self.accumulate(values[0]))


@dataclass(frozen=True)
class IntegerSum:
    """out = clamp((sum of value * multiplier + half) >> shift, -127, 127), one multiplier per value."""

    name: str
    multipliers: tuple[int, ...]
    shift: int

    def __call__(self, values: Sequence[Tensor]) -> Tensor:
        half = 1 << (self.shift - 1)
        total = sum((v * m for v, m in zip(values, self.multipliers, strict=True)), torch.tensor(half))
        return (total >> self.shift).clamp(-127, 127)


@dataclass(frozen=True)
class IntegerPool:
    """Sums over windows, times 2^shift / (pixels that count), rounded, shifted back: an average in the same step.

    global_: over the whole image.
    """

    name: str
    kernel: tuple[int, int]
    stride: int
    global_: bool
    shift: int = MULTIPLIER_BITS - 1

    def __call__(self, values: Sequence[Tensor]) -> Tensor:
        [x] = values
        sums, counts = _window_sums(x, self), _window_sums(torch.ones_like(x[:1, :1]), self)
        multiplier = (2.0**self.shift / counts.double()).round().long()
        return (sums * multiplier + (1 << (self.shift - 1))) >> self.shift


def _window_sums(x: Tensor, step: IntegerPool) -> Tensor:
    if step.global_:
        return x.sum((2, 3), keepdim=True)
    padding = (step.kernel[0] - 1) // 2 if step.stride == 1 else 0
    # with a divisor of one these are sums, exact in float64; padding adds nothing
    return F.avg_pool2d(x.double(), step.kernel, step.stride, padding, ceil_mode=True, divisor_override=1).long()


@dataclass(frozen=True)
class IntegerNorm:
    """A batch-norm of its own."""

    name: str
    requantise: Requantise

    def __call__(self, values: Sequence[Tensor]) -> Tensor:
        return self.requantise(values[0])


@dataclass(frozen=True)
class IntegerZeros:
    """A tensor of zeros. size: of one image."""

    name: str
    size: tuple[int, int, int]


@dataclass(frozen=True)
class IntegerLinear:
    """The classifier: logits are integers in one common step. weight: classes x C; bias: classes; int64."""

    name: str
    weight: Tensor
    bias: Tensor

    def __call__(self, values: Sequence[Tensor]) -> Tensor:
        # products in float64 are exact for these widths and, unlike int64 matrix products, fast
        logits = (values[0].flatten(1).double() @ self.weight.double().T).long() + self.bias
        return _within_accumulator(self.name, logits)


IntegerStep = IntegerConv | IntegerNorm | IntegerSum | IntegerPool | IntegerZeros | IntegerLinear


@dataclass(frozen=True)
class IntegerNetwork:
    """input_step: the real value of one integer step of the image. reads: per step the steps it reads, -1 the image."""

    input_step: float
    steps: tuple[IntegerStep, ...]
    reads: tuple[tuple[int, ...], ...]

    def __call__(self, images: Tensor) -> Tensor:
        """images: B x C x H x W, float. Returns: B x classes, int64."""
        last_reader = {j: i for i, reads in enumerate(self.reads) for j in reads}
        values = {INPUT: (images / self.input_step).round().clamp(-127, 127).long()}
        for i, (step, reads) in enumerate(zip(self.steps, self.reads, strict=True)):
            if isinstance(step, IntegerZeros):
                values[i] = torch.zeros((len(images), *step.size), dtype=torch.int64)
            else:
                values[i] = step([values[j] for j in reads])
            for j in set(reads):
                if last_reader[j] == i:
                    del values[j]
        return values[len(self.steps) - 1]


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


def _adder_weight(weight: Tensor, entry: _Tensor) -> tuple[Tensor, Tensor]:
    """Integer weights in the step of the input, and per output channel a real constant to add."""
    low, high = entry.limits
    held = weight.clamp(low * entry.step, high * entry.step)
    return (held / entry.step).round().long(), -(weight - held).abs().sum((1, 2, 3))


def _affine(bn: torch.nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """A batch-norm as gain * x + offset, per channel."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    gain = bn.weight.detach().double() / torch.sqrt(bn.running_var.double() + bn.eps)
    return gain, bn.bias.detach().double() - bn.running_mean.double() * gain


def _convert(unit: Unit, entry: _Tensor) -> tuple[list[IntegerConv], _Tensor]:
    """A unit's layers - one, or those of its chain - and how the last one's output is written."""
    step = unit.step
    gain, shift = _affine(unit.bn)
    out = _written(float(unit.amax), step.relu != "after")
    if step.op == "add":
        seen = _Tensor(entry.step, entry.signed and step.relu != "before")
        weight, constant = _adder_weight(unit.weight.detach().double(), seen)
        requantise = _fixed_point(gain * entry.step / out.step, (shift + gain * constant) / out.step, out)
        reads_relu = step.relu == "before"
        return [IntegerConv(step.name, "add", weight, step.stride, step.groups, reads_relu, requantise)], out
    layers, stages = [], arithmetic.stages(step, [w.detach() for w in unit.weights])
    for i, (stage, dense) in enumerate(stages):
        levels, unit_value = arithmetic.weight_levels(stage, dense.double())
        scale = unit_value.flatten() * entry.step
        if i + 1 < len(stages):
            middle = _written(float(unit.middle[i]), True)
            requantise = _fixed_point(scale / middle.step, torch.zeros_like(scale), middle)
        else:
            middle = out
            requantise = _fixed_point(gain * scale / out.step, shift / out.step, out)
        relu = i == 0 and step.relu == "before"
        op = "shift" if step.op == "shift" else "conv"
        weight = levels.round().long()
        layers.append(IntegerConv(stage.name, op, weight, stage.stride, stage.groups, relu, requantise))
        entry = middle
    return layers, out


@torch.no_grad()
def to_integer(network: Network, images: Tensor) -> IntegerNetwork:
    """Convert a trained, calibrated network. images: calibration images, for the range of the input."""
    network = network.cpu().eval()
    written = {INPUT: _written(float(images.abs().max()), True)}
    place = {INPUT: INPUT}  # blueprint step -> the integer step that holds its value
    steps: list[IntegerStep] = []
    reads: list[tuple[int, ...]] = []

    def append(step: IntegerStep, sources: Sequence[int]) -> None:
        steps.append(step)
        reads.append(tuple(sources))

    for i, step in enumerate(network.blueprint.steps):
        sources = [place[j] for j in step.reads]
        if isinstance(step, Conv):
            layers, written[i] = _convert(network.unit(step.name), written[step.source])
            for layer in layers:
                append(layer, sources)
                sources = [len(steps) - 1]
        elif isinstance(step, Sum) and not step.sources:
            append(IntegerZeros(step.name, (step.channels, *step.size)), ())
            written[i] = _written(1.0, True)
        elif isinstance(step, Sum):
            written[i] = _written(_seen(network, step), True)
            shift = MULTIPLIER_BITS - 2
            ratios = [written[j].step / written[i].step for j in step.reads]
            append(IntegerSum(step.name, tuple(round(ratio * 2**shift) for ratio in ratios), shift), sources)
        elif isinstance(step, Pool):
            append(IntegerPool(step.name, step.kernel, step.stride, step.size == (1, 1)), sources)
            written[i] = written[step.source]
        elif isinstance(step, Norm):
            written[i] = _written(_seen(network, step), False)
            gain, offset = _affine(network.norm(step))
            scale = gain * written[step.source].step / written[i].step
            append(IntegerNorm(step.name, _fixed_point(scale, offset / written[i].step, written[i])), sources)
        else:
            append(_convert_classifier(step, network, written[step.source]), sources)
        place[i] = len(steps) - 1
    return IntegerNetwork(written[INPUT].step, tuple(steps), tuple(reads))


def _seen(network: Network, step: Sum | Norm) -> float:
    """The largest value of a step that calibration saw."""
    part = network.part(step)
    assert isinstance(part, Watched)
    return float(part.amax)


def _convert_classifier(step: Linear, network: Network, entry: _Tensor) -> IntegerLinear:
    weight = network.classifier.weight.double()
    unit = float(weight.abs().max()) / 127
    bias = (network.classifier.bias.double() / (unit * entry.step)).round().long()
    return IntegerLinear(step.name, (weight / unit).round().long(), bias)


@torch.no_grad()
def integer_predictions(network: IntegerNetwork, x: Tensor, batch_size: int = 128) -> Tensor:
    """Class of each image. x: n x C x H x W, standardised. Returns: n, int64."""
    return torch.cat([network(batch).argmax(1) for batch in x.split(batch_size)])


def integer_accuracy(network: IntegerNetwork, split: Split) -> float:
    """Fraction of the split that the integer network classifies correctly, in [0, 1]."""
    predicted = integer_predictions(network, torch.from_numpy(split.x))
    return float((predicted == torch.from_numpy(split.y)).double().mean())


FORMAT = {"format": "cosearch.integer", "version": "2"}
_PARTS = ("multiplier", "shift", "offset")


def to_tensors(network: IntegerNetwork) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Everything that the hardware needs, as named int64 tensors and JSON metadata; `from_tensors` reads it."""
    tensors: dict[str, Tensor] = {}
    steps = []
    for step in network.steps:
        if isinstance(step, IntegerConv):
            tensors[f"{step.name}.weight"] = step.weight
            tensors |= {f"{step.name}.{part}": getattr(step.requantise, part) for part in _PARTS}
            fixed = {key: getattr(step, key) for key in ("name", "op", "stride", "groups", "relu")}
            steps.append({"kind": "conv", **fixed, "low": step.requantise.low, "high": step.requantise.high})
        elif isinstance(step, IntegerNorm):
            tensors |= {f"{step.name}.{part}": getattr(step.requantise, part) for part in _PARTS}
            limits = {"low": step.requantise.low, "high": step.requantise.high}
            steps.append({"kind": "norm", "name": step.name, **limits})
        elif isinstance(step, IntegerLinear):
            tensors[f"{step.name}.weight"], tensors[f"{step.name}.bias"] = step.weight, step.bias
            steps.append({"kind": "linear", "name": step.name})
        else:
            steps.append({"kind": _KINDS[type(step)], **asdict(step)})
    structure = {"input_step": network.input_step, "steps": steps, "reads": network.reads}
    return tensors, {**FORMAT, "network": json.dumps(structure)}


_KINDS: dict[type, str] = {IntegerSum: "sum", IntegerPool: "pool", IntegerZeros: "zeros"}


def _requantise(tensors: Mapping[str, Tensor], name: str, data: Mapping[str, Any]) -> Requantise:
    multiplier, shift, offset = (tensors[f"{name}.{part}"] for part in _PARTS)
    return Requantise(multiplier, shift, offset, int(data["low"]), int(data["high"]))


MOST_ZEROS = 1 << 24
"""Values that a step of zeros stands for."""


def _check_tensors(step: IntegerStep) -> None:
    """Raises: ValueError for tensors of other shapes than a step of its kind has."""
    shapes: list[tuple[Tensor, int]] = []
    if isinstance(step, IntegerConv):
        shapes = [(step.weight, 4)]
    if isinstance(step, IntegerLinear):
        shapes = [(step.weight, 2), (step.bias, 1)]
    if isinstance(step, IntegerConv | IntegerNorm):
        shapes += [(getattr(step.requantise, part), 1) for part in _PARTS]
    if any(tensor.ndim != rank or tensor.dtype != torch.int64 or not tensor.numel() for tensor, rank in shapes):
        raise ValueError(f"step {step.name!r:.80} has tensors of another shape or type")
    if len({len(tensor) for tensor, _ in shapes}) > 1:
        raise ValueError(f"step {step.name!r:.80} has tensors of several lengths")
    if isinstance(step, IntegerConv | IntegerPool) and step.stride < 1:
        raise ValueError(f"step {step.name!r:.80} has stride {step.stride}")
    if isinstance(step, IntegerZeros) and not (min(step.size) > 0 and math.prod(step.size) <= MOST_ZEROS):
        raise ValueError(f"step {step.name!r:.80} is of {step.size} zeros")


def from_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> IntegerNetwork:
    """Raises: RunError if the tensors are not an integer network of a version that this code reads."""
    if any(metadata.get(key) != value for key, value in FORMAT.items()):
        raise RunError(f"expected tensors with {FORMAT}, got {dict(metadata)}"[:200])

    def step(data: Mapping[str, Any]) -> IntegerStep:
        name = str(data["name"])
        match data["kind"]:
            case "conv":
                requantise = _requantise(tensors, name, data)
                stride, groups, relu = int(data["stride"]), int(data["groups"]), bool(data["relu"])
                return IntegerConv(name, str(data["op"]), tensors[f"{name}.weight"], stride, groups, relu, requantise)
            case "norm":
                return IntegerNorm(name, _requantise(tensors, name, data))
            case "linear":
                return IntegerLinear(name, tensors[f"{name}.weight"], tensors[f"{name}.bias"])
            case "sum":
                return IntegerSum(name, tuple(int(m) for m in data["multipliers"]), int(data["shift"]))
            case "pool":
                height, width = (int(k) for k in data["kernel"])
                whole, shift = bool(data["global_"]), int(data["shift"])
                return IntegerPool(name, (height, width), int(data["stride"]), whole, shift)
            case "zeros":
                channels, height, width = (int(n) for n in data["size"])
                return IntegerZeros(name, (channels, height, width))
        raise ValueError(f"step {name!r} is of unknown kind {data['kind']!r}")

    try:
        structure = parse_json(metadata["network"])
        steps = tuple(step(data) for data in structure["steps"])
        reads = tuple(tuple(int(j) for j in sources) for sources in structure["reads"])
        for made in steps:
            _check_tensors(made)
        if len(reads) != len(steps) or any(not INPUT <= j < i for i, sources in enumerate(reads) for j in sources):
            raise ValueError("steps must read earlier steps")
        return IntegerNetwork(float(structure["input_step"]), steps, reads)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"the integer network is damaged: {error}") from error


@contextmanager
def trying(network: IntegerNetwork, input_shape: Sequence[int], path: str, mend: str) -> Iterator[None]:
    """Try a network that was read from a file on an empty image, and then whatever else is to be made of it.

    Raises: RunError naming the file and its mend: steps that do not fit each other fail in any way.
    """
    try:
        network(torch.zeros(1, *input_shape))
        yield
    except Exception as error:
        raise RunError(f"{path} is no network ({one_line(error):.300}): {mend}") from error
