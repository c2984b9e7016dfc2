"""Torch modules of hybrid networks: shift, add and their like, each a drop-in for nn.Conv2d or nn.Linear.

Training, as on the digits (tests/operators/test_training.py, 95% test accuracy and more with each): batch-norm and ReLU
after every layer, SGD with momentum 0.9, weight decay 5e-4, learning rate 0.05 with a cosine to 0, batch 64, 12 epochs,
`scale_add_gradients` before each step. Form ps of shift takes RAdam at 0.01 without decay, 30 epochs and `clamp_shifts`
after each step, because its random exponents start most weights near zero.

Importing this package imports nothing heavy: names are loaded from their module on first use.
"""

import importlib
from typing import Any

_MODULE_OF = {
    "adder": ("AddConv2d", "AddLinear", "add_conv2d", "add_linear", "plain_add_conv2d", "scale_add_gradients"),
    "binarycoded": ("BinaryCodedConv2d", "BinaryCodedLinear", "binary_code"),
    "butterfly": ("ButterflyConv2d", "ButterflyLinear", "generate_chain", "make_chain"),
    "composite": ("ShiftAddConv2d",),
    "conversion": ("OPERATORS", "Conversion", "Rule", "convert", "to_plain"),
    "integer": ("integer_add_conv2d", "integer_conv2d", "integer_shift_conv2d"),
    "integer_forms": ("IntegerForm", "integer_form", "round_to_grid"),
    "lowrank": (
        "LowRankConv2d",
        "LowRankLinear",
        "SpatialConv2d",
        "TuckerConv2d",
        "nuclear_penalty",
        "nuclear_ranks",
        "orthogonality_penalty",
    ),
    "pecan": ("PecanConv2d", "PecanLinear"),
    "pruned": (
        "MaskedConv2d",
        "MaskedLinear",
        "frequency_energy",
        "make_mask",
        "pattern_library",
        "polarise",
        "spline_scores",
    ),
    "pruning": ("Admm", "EarlyBird", "Reweighted", "mask_distance", "purify", "scheme_projection"),
    "unused_paths": ("remove_unused_paths", "shrink_unused_paths"),
    "quantised": ("QuantConv2d", "QuantLinear", "best_step", "learned_step"),
    "smartexchange": ("SmartExchangeConv2d", "SmartExchangeLinear", "smart_exchange"),
    "shift": (
        "ShiftCodes",
        "ShiftConv2d",
        "ShiftLinear",
        "clamp_shifts",
        "compose_weight",
        "fixed_point",
        "shift_codes",
        "shift_penalty",
        "shift_weight",
    ),
}
_HOME = {name: module for module, names in _MODULE_OF.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
