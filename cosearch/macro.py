"""The MobileNetV2/FBNet-like skeleton that network spaces fill in, as plain data.

A `Macro` fixes what is not searched: input, stem, widths, strides, head, classifier. Each `Position` takes a
`BlockChoice` - an inverted bottleneck whose three convolutions all use one operator - or is skipped (`None`).
Networks, supernets and workloads are all derived from this one description. No torch here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from cosearch.blueprint import OPERATORS, Blueprint, Conv, Drawing, Sum, down
from cosearch.errors import ConfigError
from cosearch.workload import INPUT


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

    def blueprint(self, blocks: Sequence[BlockChoice | None]) -> Blueprint:
        """The network with one choice per position; None skips it.

        Raises: ConfigError for a skip where the shape changes.
        """
        drawing, size = Drawing(self.input_shape), down(self.input_shape[1:], self.stem_stride)
        channels = self.stem_channels
        last = drawing.add(Conv("stem", "conv", INPUT, self.input_shape[0], channels, size, 3, self.stem_stride))
        for position, choice in zip(self.positions, blocks, strict=True):
            if choice is None and not position.residual:
                raise ConfigError(
                    f"{position.name} cannot be skipped: it makes {position.out_channels} channels of "
                    f"{position.in_channels} with stride {position.stride}; give it a block"
                )
            if choice is not None:
                last = _inverted_bottleneck(drawing, position, choice, last)
            channels, size = position.out_channels, position.out_size
        last = drawing.add(Conv("head", "conv", last, channels, self.head_channels, size))
        return drawing.finish(last, self.num_classes, self.head_channels, size)


def _inverted_bottleneck(drawing: Drawing, position: Position, choice: BlockChoice, entry: int) -> int:
    """1x1 expansion, depthwise, linear 1x1 projection, and the residual where shapes allow."""
    prefix, op, out = position.name, choice.op, position.out_channels
    inner = position.in_channels * choice.expansion
    last = drawing.add(Conv(f"{prefix}.expand", op, entry, position.in_channels, inner, position.size))
    size, k = position.out_size, choice.kernel
    last = drawing.add(Conv(f"{prefix}.depthwise", op, last, inner, inner, size, k, position.stride, inner))
    last = drawing.add(Conv(f"{prefix}.project", op, last, inner, out, size, relu="none"))
    return drawing.add(Sum(f"{prefix}.residual", (last, entry), out, size)) if position.residual else last
