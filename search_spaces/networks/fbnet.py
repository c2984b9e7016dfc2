"""`fbnet`: 22 searchable blocks of inverted bottlenecks, as FBNet and HW-NAS-Bench lay them out.

Each block chooses kernel 3 or 5, expansion 1, 3 or 6, with one or two groups in its 1x1 convolutions where the
expansion is 1, or is skipped; a skip that changes the shape is a 1x1 convolution. Images from 64 pixels get the
ImageNet ladder, smaller ones CIFAR's. Sources: Wu et al., FBNet, CVPR 2019; Li et al., HW-NAS-Bench, ICLR 2021.
"""

from dataclasses import dataclass

from cosearch.blueprint import Blueprint, Conv, Drawing, Sum, down
from cosearch.errors import ConfigError
from cosearch.macro import Position
from cosearch.workload import INPUT, Layer
from search_spaces.decisions import Arch, Choice
from search_spaces.networks.space import BlockSpace

BLOCKS: dict[str, tuple[int, int, int]] = {
    "conv_k3_e1": (3, 1, 1),
    "conv_k3_e1_g2": (3, 1, 2),
    "conv_k3_e3": (3, 3, 1),
    "conv_k3_e6": (3, 6, 1),
    "conv_k5_e1": (5, 1, 1),
    "conv_k5_e1_g2": (5, 1, 2),
    "conv_k5_e3": (5, 3, 1),
    "conv_k5_e6": (5, 6, 1),
}
"""Choice -> kernel, expansion, groups of the 1x1 convolutions; in HW-NAS-Bench's order, which ends with ``skip``."""
CHOICES: tuple[Choice, ...] = (*BLOCKS, "skip")
STEM_CHANNELS = 16
_WIDTHS = ((16, 1), (24, 4), (32, 4), (64, 4), (112, 4), (184, 4), (352, 1))
_STRIDES = {32: (1, 1, 2, 2, 1, 2, 1), 64: (1, 2, 2, 2, 1, 2, 1)}
_HEADS = {32: (1, 1504), 64: (2, 1984)}
"""Smallest image side -> stem stride and head channels."""


@dataclass(frozen=True)
class FbnetSpace(BlockSpace):
    """The networks for one input shape and number of classes; `fbnet.space` makes it."""

    input_shape: tuple[int, int, int]
    num_classes: int

    @property
    def description(self) -> str:
        return "FBNet: 22 inverted bottlenecks; each: kernel 3 or 5, expansion 1, 3 or 6, 1 or 2 groups; or skipped"

    @property
    def ladder(self) -> int:
        """Key of the sizes for this image."""
        return max(side for side in _STRIDES if side <= max(32, min(self.input_shape[1:])))

    @property
    def positions(self) -> tuple[Position, ...]:
        """The 22 blocks."""
        found: list[Position] = []
        channels, size = STEM_CHANNELS, down(self.input_shape[1:], _HEADS[self.ladder][0])
        for (width, count), first in zip(_WIDTHS, _STRIDES[self.ladder], strict=True):
            for b in range(count):
                stride = first if b == 0 else 1
                found.append(Position(f"layer{len(found) + 1}", channels, width, stride, size))
                channels, size = width, down(size, stride)
        return tuple(found)

    def blueprint(self, arch: Arch) -> Blueprint:
        """Stem, blocks, head, pooling, classifier."""
        stem_stride, head = _HEADS[self.ladder]
        drawing, size = Drawing(self.input_shape), down(self.input_shape[1:], stem_stride)
        last = drawing.add(Conv("stem", "conv", INPUT, self.input_shape[0], STEM_CHANNELS, size, 3, stem_stride))
        channels = STEM_CHANNELS
        for position in self.positions:
            last = _block(drawing, position, str(arch[position.name]), last)
            channels, size = position.out_channels, position.out_size
        last = drawing.add(Conv("head", "conv", last, channels, head, size))
        return drawing.finish(last, self.num_classes, head, size)

    @staticmethod
    def rectified(layer: Layer) -> bool:
        """Whether a rectifier stands in front of a layer of a workload: inside blocks, after the stem and the head.

        Those after skips that are convolutions, which not all networks have, are left out.
        """
        return layer.name.endswith((".depthwise", ".project")) or layer.name in ("layer1.expand", "pool")


def _block(drawing: Drawing, position: Position, choice: str, entry: int) -> int:
    prefix, inside, out = position.name, position.in_channels, position.out_channels
    if choice == "skip":
        if position.residual:
            return entry
        size = position.out_size
        return drawing.add(Conv(f"{prefix}.skip", "conv", entry, inside, out, size, 1, position.stride))
    kernel, expansion, groups = BLOCKS[choice]
    wide, size = inside * expansion, position.out_size
    last = drawing.add(Conv(f"{prefix}.expand", "conv", entry, inside, wide, position.size, groups=groups))
    last = drawing.add(Conv(f"{prefix}.depthwise", "conv", last, wide, wide, size, kernel, position.stride, wide))
    last = drawing.add(Conv(f"{prefix}.project", "conv", last, wide, out, size, groups=groups, relu="none"))
    return drawing.add(Sum(f"{prefix}.residual", (last, entry), out, size)) if position.residual else last


def block_key(position: Position, choice: str) -> str:
    """HW-NAS-Bench's key, ``ConvBlock_H112_W112_Cin16_Cout24_exp6_kernel3_stride2_group1`` or ``Skip_...``."""
    where = f"H{position.size[0]}_W{position.size[1]}_Cin{position.in_channels}_Cout{position.out_channels}"
    if choice == "skip":
        return f"Skip_{where}_stride{position.stride}"
    kernel, expansion, groups = BLOCKS[choice]
    return f"ConvBlock_{where}_exp{expansion}_kernel{kernel}_stride{position.stride}_group{groups}"


def fixed_keys(space: FbnetSpace) -> dict[str, str]:
    """HW-NAS-Bench's keys of what is not searched: name of the layer -> key."""
    stem_stride, head = _HEADS[space.ladder]
    channels, height, width = space.input_shape
    last = space.positions[-1]
    size, side = f"H{last.out_size[0]}_W{last.out_size[1]}", last.out_size[0]
    return {
        "stem": f"ConvNorm_H{height}_W{width}_Cin{channels}_Cout{STEM_CHANNELS}_kernel3_stride{stem_stride}_group1",
        "head": f"ConvNorm_{size}_Cin{last.out_channels}_Cout{head}_kernel1_stride1_group1",
        "pool": f"AvgP_{size}_Cin{head}_Cout{head}_kernel{side}_stride1",
        "classifier": f"FC_Cin{head}_Cout{space.num_classes}",
    }


def space(input_shape: tuple[int, int, int] = (3, 32, 32), num_classes: int = 100) -> FbnetSpace:
    """The FBNet space for images of (channels, height, width) and a number of classes.

    Raises: ConfigError if the image is smaller than 8x8.
    """
    if min(input_shape[1:]) < 8:
        raise ConfigError(f"images of {input_shape[1]}x{input_shape[2]}: the fbnet space starts at 8x8")
    choices: dict[str, tuple[Choice, ...]] = {f"layer{i + 1}": CHOICES for i in range(sum(n for _, n in _WIDTHS))}
    return FbnetSpace(choices, "fbnet", input_shape, num_classes)
