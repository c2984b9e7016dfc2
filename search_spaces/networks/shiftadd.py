"""`shiftadd`: a MobileNetV2/FBNet-like macro whose every block is made of convolutions, shifts or additions.

Each block chooses operator (conv, shift, add), kernel (3, 5) and expansion (1, 3, 6), or is skipped where its shapes
allow. The macro scales with the input. The operators follow ShiftAddNAS and NASA (see the README for references).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cosearch.errors import ConfigError
from cosearch.macro import OPERATORS, BlockChoice, Macro
from cosearch.workload import Layer, Workload, count_layers, distinct_layers
from search_spaces.decisions import Arch, Decisions, arch_key

if TYPE_CHECKING:
    from cosearch.supernet.blocks import Network
    from cosearch.supernet.elastic import Supernet

KERNELS = (3, 5)
EXPANSIONS = (1, 3, 6)

_Stages = tuple[tuple[int, int, int], ...]
# smallest image side -> (stem channels, stem stride, stages of (channels, blocks, stride), head channels)
_LADDER: dict[int, tuple[int, int, _Stages, int]] = {
    8: (8, 1, ((8, 2, 1), (16, 3, 2), (24, 3, 2)), 64),
    16: (16, 1, ((16, 2, 1), (24, 3, 2), (40, 3, 2), (64, 2, 2)), 128),
    32: (16, 1, ((16, 1, 1), (24, 3, 1), (32, 3, 2), (64, 3, 2), (112, 2, 2)), 256),
    64: (16, 2, ((16, 1, 1), (24, 4, 1), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1)), 1504),
    128: (16, 2, ((16, 1, 1), (24, 4, 2), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1)), 1984),
}


@dataclass(frozen=True)
class ShiftAddSpace(Decisions):
    """The networks for one input shape and number of classes; `shiftadd.space` makes it."""

    macro: Macro
    name: str = "shiftadd"

    @property
    def description(self) -> str:
        return "MobileNetV2-like; each block: conv, shift or add; kernel 3 or 5; expansion 1, 3 or 6; or skipped"

    def blocks(self, arch: Arch) -> list[BlockChoice | None]:
        self.check(arch)
        return [BlockChoice.parse(arch[position.name]) for position in self.macro.positions]

    def workload(self, arch: Arch) -> Workload:
        """The network's layers as hardware sees them."""
        return self.macro.workload(f"{self.name}[{arch_key(arch)}]", self.blocks(arch))

    def build(self, arch: Arch, seed: int = 0) -> "Network":
        """The stand-alone torch module with fresh weights."""
        from cosearch.supernet.blocks import Network

        return Network(self.macro, self.blocks(arch), seed)

    def supernet(self, seed: int = 0) -> "Supernet":
        """One set of weights for every network of the space."""
        from cosearch.supernet.elastic import Supernet

        options = {
            position.name: tuple(BlockChoice.parse(str(choice)) for choice in self.choices[position.name])
            for position in self.macro.positions
        }
        return Supernet(self.macro, options, seed)

    @property
    def operators(self) -> tuple[str, ...]:
        """The operators that some block can use."""
        used = {str(choice).split("_")[0] for options in self.choices.values() for choice in options}
        return tuple(operator for operator in OPERATORS if operator in used)

    def restricted(self, *operators: str) -> "ShiftAddSpace":
        """The sub-space in which every block that is not skipped uses one of these operators.

        Raises: ConfigError for an operator that the space does not have.
        """
        for operator in operators:
            if operator not in self.operators:
                raise ConfigError(f"operator {operator!r}: expected some of {', '.join(self.operators)}")
        if set(operators) == set(self.operators):
            return self
        kept = {
            name: tuple(c for c in options if c == "skip" or str(c).split("_")[0] in operators)
            for name, options in self.choices.items()
        }
        return ShiftAddSpace(kept, self.macro, "-".join(("shiftadd", *operators)))

    def largest(self, operator: str = "conv") -> Arch:
        """The network with the widest and largest block of one operator everywhere."""
        return {name: str(BlockChoice(operator, KERNELS[-1], EXPANSIONS[-1])) for name in self.choices}

    def layer_table(self) -> tuple[Layer, ...]:
        """The distinct layers of all networks of the space."""
        return distinct_layers(self._uniform_workloads())

    def _uniform_workloads(self) -> list[Workload]:
        # A block's layers do not depend on the other blocks, so one network per choice shows every layer.
        all_choices = dict.fromkeys(choice for options in self.choices.values() for choice in options)
        return [
            self.workload({name: c if c in options else options[0] for name, options in self.choices.items()})
            for c in all_choices
        ]

    def counts(self, archs: list[Arch], layers: tuple[Layer, ...]) -> npt.NDArray[np.int64]:
        """[archs, layers]: how often each of `layers` occurs in each network."""
        return np.array([count_layers(self.workload(arch), layers) for arch in archs], dtype=np.int64)


def space(input_shape: tuple[int, int, int] = (1, 8, 8), num_classes: int = 10) -> ShiftAddSpace:
    """The shiftadd space for images of (channels, height, width) and a number of classes.

    Raises: ConfigError if the image is smaller than 8x8.
    """
    side = min(input_shape[1:])
    fitting = [smallest for smallest in _LADDER if smallest <= side]
    if not fitting:
        raise ConfigError(f"images of {input_shape[1]}x{input_shape[2]}: the shiftadd space starts at 8x8")
    stem, stem_stride, stages, head = _LADDER[max(fitting)]
    macro = Macro(input_shape, num_classes, stem, stem_stride, stages, head)
    blocks = tuple(str(BlockChoice(op, k, e)) for op in OPERATORS for k in KERNELS for e in EXPANSIONS)
    choices = {p.name: (*blocks, "skip") if p.residual else blocks for p in macro.positions}
    return ShiftAddSpace(choices, macro)
