"""A space of 100 networks that real runs finish in seconds: `--space tests.tiny_space:space`."""

from cosearch.macro import Macro
from search_spaces.networks.shiftadd import MacroSpace

NAME = "tests.tiny_space:space"
BLOCKS = ("conv_k3_e1", "shift_k3_e1", "add_k3_e1", "conv_k5_e6")


def space(input_shape: tuple[int, int, int] = (1, 8, 8), num_classes: int = 10) -> MacroSpace:
    macro = Macro(input_shape, num_classes, 4, 2, ((4, 1, 1), (8, 2, 2)), 16)
    choices = {p.name: (*BLOCKS, "skip") if p.residual else BLOCKS for p in macro.positions}
    return MacroSpace(choices, "tiny", macro, "one of four")
