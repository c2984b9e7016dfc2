"""`pruning`: dense or sparse weights, 1/2 or 1/4 of them kept anywhere or in blocks; filters kept by the expansion."""

from search_spaces.networks.shiftadd import MacroSpace, macro, macro_space

OPERATORS = ("conv", "sparse50", "sparse25", "block50", "block25")
EXPANSIONS = (1, 2, 3, 4, 6)


def space(input_shape: tuple[int, int, int] = (1, 8, 8), num_classes: int = 10) -> MacroSpace:
    """The pruning space for images of (channels, height, width) and a number of classes.

    Raises: ConfigError if the image is smaller than 8x8.
    """
    made = macro(input_shape, num_classes, "pruning")
    return macro_space(
        "pruning",
        made,
        "weights dense, or 1/2 or 1/4 of them kept, anywhere or (1x1 layers) in blocks of 8x8; kernel 3 or 5; "
        "filters kept by expansion 1, 2, 3, 4 or 6",
        OPERATORS,
        expansions=EXPANSIONS,
    )
