"""`butterfly`: 1x1 layers dense, or butterfly chains of 2 or 4 times fewer weights (less if sizes allow no more)."""

from search_spaces.networks.shiftadd import MacroSpace, macro, macro_space

OPERATORS = ("conv", "butterfly2", "butterfly4")


def space(input_shape: tuple[int, int, int] = (1, 8, 8), num_classes: int = 10) -> MacroSpace:
    """The butterfly space for images of (channels, height, width) and a number of classes.

    Raises: ConfigError if the image is smaller than 8x8.
    """
    made = macro(input_shape, num_classes, "butterfly")
    return macro_space(
        "butterfly",
        made,
        "1x1 layers dense, or butterfly chains 2 or 4 times smaller; kernel 3 or 5; expansion 1, 3 or 6",
        OPERATORS,
    )
