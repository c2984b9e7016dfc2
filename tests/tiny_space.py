"""A space of 100 networks that real runs finish in seconds: `--space tests.tiny_space:space`."""

from dataclasses import replace

from cosearch.macro import Macro
from search_spaces.networks.shiftadd import MacroSpace

NAME = "tests.tiny_space:space"
BLOCKS = ("conv_k3_e1", "shift_k3_e1", "add_k3_e1", "conv_k5_e6")


def space(input_shape: tuple[int, int, int] = (1, 8, 8), num_classes: int = 10) -> MacroSpace:
    macro = Macro(input_shape, num_classes, 4, 2, ((4, 1, 1), (8, 2, 2)), 16)
    choices = {p.name: (*BLOCKS, "skip") if p.residual else BLOCKS for p in macro.positions}
    return MacroSpace(choices, "tiny", macro, "one of four")


def uneven(input_shape: tuple[int, int, int] = (1, 8, 8), num_classes: int = 10) -> MacroSpace:
    """No operator is in all of its layers."""
    whole = space(input_shape, num_classes)
    first, *others = whole.choices
    parts = {first: ("conv_k3_e1", "conv_k5_e6", "skip"), **{name: ("shift_k3_e1", "add_k3_e1") for name in others}}
    return replace(whole, choices=parts, name="uneven")


def without_choices(input_shape: tuple[int, int, int], num_classes: int) -> MacroSpace:
    """One of its layers has no choice."""
    whole = space(input_shape, num_classes)
    return replace(whole, choices={**whole.choices, "layer2": ()})


def without_valid_choices(input_shape: tuple[int, int, int], num_classes: int) -> MacroSpace:
    """One of its layers can only be skipped, where what follows needs other channels."""
    whole = space(input_shape, num_classes)
    return replace(whole, choices={**whole.choices, "layer2": ("skip",)})
