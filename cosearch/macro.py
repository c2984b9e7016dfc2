"""The MobileNetV2/FBNet-like skeleton that network spaces fill in, as plain data.

A `Macro` fixes what is not searched: input, stem, widths, strides, head, classifier. Each `Position` takes a
`BlockChoice` - an inverted bottleneck whose three convolutions all use one operator - or is skipped (`None`).
Networks, supernets and workloads are all derived from this one description. No torch here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from cosearch.errors import ConfigError
from cosearch.workload import INPUT, Kind, Layer, Workload

ACTIVATION_BITS = 8
ACCUMULATOR_BITS = 24
"""What the measured processing elements have; 8-bit products of up to 1,000 inputs fit."""


@dataclass(frozen=True)
class Operator:
    """How an operator family looks to hardware."""

    kind: Kind
    weight_bits: int


OPERATORS: dict[str, Operator] = {
    "conv": Operator("mac", 8),
    "shift": Operator("shift", 4),  # sign and a 3-bit exponent
    "add": Operator("add", 8),
}


@dataclass(frozen=True)
class BlockChoice:
    """An inverted bottleneck: 1x1 expansion, k x k depthwise, 1x1 projection, all with one operator."""

    op: str
    kernel: int
    expansion: int

    def __str__(self) -> str:
        return f"{self.op}_k{self.kernel}_e{self.expansion}"

    @classmethod
    def parse(cls, text: str) -> "BlockChoice | None":
        """``conv_k3_e6`` or ``skip`` (None).

        Raises: ConfigError.
        """
        if text == "skip":
            return None
        parts = text.split("_")
        numbers = [part[1:] for part in parts[1:] if part[1:].isdecimal()]
        if (
            len(parts) != 3
            or parts[0] not in OPERATORS
            or [p[:1] for p in parts[1:]] != ["k", "e"]
            or len(numbers) != 2
        ):
            raise ConfigError(f"block {text!r}: expected skip or OPERATOR_kN_eN with one of {', '.join(OPERATORS)}")
        return cls(parts[0], int(numbers[0]), int(numbers[1]))


@dataclass(frozen=True)
class Position:
    """One place for a block. size: (height, width) of its input."""

    name: str
    in_channels: int
    out_channels: int
    stride: int
    size: tuple[int, int]

    @property
    def residual(self) -> bool:
        """Whether the block's output is added to its input; such a block can also be skipped."""
        return self.stride == 1 and self.in_channels == self.out_channels

    @property
    def out_size(self) -> tuple[int, int]:
        return down(self.size, self.stride)


@dataclass(frozen=True)
class Macro:
    """input_shape: (channels, height, width). stages: (channels, blocks, stride of the first block)."""

    input_shape: tuple[int, int, int]
    num_classes: int
    stem_channels: int
    stem_stride: int
    stages: tuple[tuple[int, int, int], ...]
    head_channels: int

    @cached_property
    def positions(self) -> tuple[Position, ...]:
        found: list[Position] = []
        channels, size = self.stem_channels, down(self.input_shape[1:], self.stem_stride)
        for width, blocks, first_stride in self.stages:
            for b in range(blocks):
                stride = first_stride if b == 0 else 1
                found.append(Position(f"layer{len(found) + 1}", channels, width, stride, size))
                channels, size = width, down(size, stride)
        return tuple(found)

    def workload(self, name: str, blocks: Sequence[BlockChoice | None]) -> Workload:
        """The layers that hardware runs, in order, with residual edges.

        Batch normalisation, ReLU and requantisation are fused into the layer before and not priced on their own.
        """
        layers: list[Layer] = []
        inputs: list[tuple[int, ...]] = []

        def append(layer: Layer, producers: tuple[int, ...]) -> int:
            layers.append(layer)
            inputs.append(producers)
            return len(layers) - 1

        size = down(self.input_shape[1:], self.stem_stride)
        channels = self.input_shape[0]
        last = append(_conv("stem", "conv", channels, self.stem_channels, size, 3, self.stem_stride), (INPUT,))
        for position, choice in zip(self.positions, blocks, strict=True):
            if choice is None:
                continue
            entry = last
            inner, k = position.in_channels * choice.expansion, choice.kernel
            prefix, out = position.name, position.out_channels
            last = append(_conv(f"{prefix}.expand", choice.op, position.in_channels, inner, position.size), (last,))
            depthwise = _conv(
                f"{prefix}.depthwise", choice.op, inner, inner, position.out_size, k, position.stride, groups=inner
            )
            last = append(depthwise, (last,))
            last = append(_conv(f"{prefix}.project", choice.op, inner, out, position.out_size), (last,))
            if position.residual:
                height, width = position.size
                residual = Layer(f"{prefix}.residual", "elementwise", 1, out, 2 * out, height, width, groups=out)
                last = append(residual, (last, entry))
        final = self.positions[-1] if self.positions else None
        size = final.out_size if final else size
        channels = final.out_channels if final else self.stem_channels
        last = append(_conv("head", "conv", channels, self.head_channels, size), (last,))
        pool = Layer("pool", "pool", 1, self.head_channels, self.head_channels, 1, 1, *size, groups=self.head_channels)
        last = append(pool, (last,))
        append(_conv("classifier", "conv", self.head_channels, self.num_classes, (1, 1)), (last,))
        return Workload(name, tuple(layers), tuple(inputs))


def down(size: tuple[int, ...], stride: int) -> tuple[int, int]:
    """Output size of a strided convolution with "same" padding."""
    height, width = size
    return -(-height // stride), -(-width // stride)


@lru_cache(maxsize=1 << 14)  # networks of a space share their layers, and checking one takes time
def _conv(
    name: str,
    op: str,
    in_channels: int,
    out_channels: int,
    out_size: tuple[int, int],
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
) -> Layer:
    operator = OPERATORS[op]
    return Layer(
        name,
        operator.kind,
        K=out_channels,
        C=in_channels,
        P=out_size[0],
        Q=out_size[1],
        R=kernel,
        S=kernel,
        stride=(stride, stride),
        groups=groups,
        weight_bits=operator.weight_bits,
        input_bits=ACTIVATION_BITS,
        output_bits=ACTIVATION_BITS,
        accumulator_bits=ACCUMULATOR_BITS,
    )
