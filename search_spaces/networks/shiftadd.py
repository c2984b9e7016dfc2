"""`shiftadd`: a MobileNetV2/FBNet-like macro whose every block is made of convolutions, shifts or additions.

Each block chooses operator (conv, shift, add), kernel (3, 5) and expansion (1, 3, 6), or is skipped where its shapes
allow. The macro scales with the input. The operators follow ShiftAddNAS and NASA (see the README for references).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cosearch.blueprint import Blueprint
from cosearch.errors import ConfigError
from cosearch.macro import BlockChoice, Macro
from search_spaces.decisions import Arch
from search_spaces.networks.space import BlockSpace

KERNELS = (3, 5)
EXPANSIONS = (1, 3, 6)

_Stages = tuple[tuple[int, int, int], ...]
# smallest image side -> (stem channels, stem stride, stages of (channels, blocks, stride), head channels)
_LADDER: dict[int, tuple[int, int, _Stages, int]] = {
    8: (8, 1, ((8, 2, 1), (16, 3, 2), (24, 3, 2)), 64),
    16: (16, 1, ((16, 2, 1), (24, 3, 2), (40, 3, 2), (64, 2, 2)), 128),
    # halved at once, so that training one such network alone takes seconds and many can be compared
    24: (8, 2, ((8, 2, 1), (16, 3, 2), (24, 3, 2)), 64),
    32: (16, 1, ((16, 1, 1), (24, 3, 1), (32, 3, 2), (64, 3, 2), (112, 2, 2)), 256),
    64: (16, 2, ((16, 1, 1), (24, 4, 1), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1)), 1504),
    128: (16, 2, ((16, 1, 1), (24, 4, 2), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1)), 1984),
}


@dataclass(frozen=True)
class MacroSpace(BlockSpace):
    """Networks of one macro: at every position a block, or none. `space` makes those of shiftadd."""

    macro: Macro
    blocks_are: str

    @property
    def description(self) -> str:
        return f"MobileNetV2-like; each block: {self.blocks_are}; or skipped"

    def blueprint(self, arch: Arch) -> Blueprint:
        return self.macro.blueprint([BlockChoice.parse(arch[position.name]) for position in self.macro.positions])


def macro(input_shape: tuple[int, int, int], num_classes: int, name: str = "shiftadd") -> Macro:
    """The macro for images of (channels, height, width). name: of the space, for the error.

    Raises: ConfigError if the image is smaller than 8x8.
    """
    side = min(input_shape[1:])
    fitting = [smallest for smallest in _LADDER if smallest <= side]
    if not fitting:
        raise ConfigError(f"images of {input_shape[1]}x{input_shape[2]}: the {name} space starts at 8x8")
    stem, stem_stride, stages, head = _LADDER[max(fitting)]
    return Macro(input_shape, num_classes, stem, stem_stride, stages, head)


def macro_space(
    name: str,
    made: Macro,
    blocks_are: str,
    operators: Sequence[str],
    kernels: Sequence[int] = KERNELS,
    expansions: Sequence[int] = EXPANSIONS,
) -> MacroSpace:
    """The space with every combination of operator, kernel and expansion at every position."""
    blocks = tuple(str(BlockChoice(op, k, e)) for op in operators for k in kernels for e in expansions)
    choices = {p.name: (*blocks, "skip") if p.residual else blocks for p in made.positions}
    return MacroSpace(choices, name, made, blocks_are)


def space(input_shape: tuple[int, int, int] = (1, 8, 8), num_classes: int = 10) -> MacroSpace:
    """The shiftadd space for images of (channels, height, width) and a number of classes.

    Raises: ConfigError if the image is smaller than 8x8.
    """
    blocks_are = "conv, shift or add; kernel 3 or 5; expansion 1, 3 or 6"
    return macro_space("shiftadd", macro(input_shape, num_classes), blocks_are, ("conv", "shift", "add"))
