"""`lowrank`: convolutions whose 1x1 layers are dense or of half or a quarter of the full rank."""

from search_spaces.networks.shiftadd import MacroSpace, macro, macro_space

OPERATORS = ("conv", "lowrank50", "lowrank25")


def space(input_shape: tuple[int, int, int] = (1, 8, 8), num_classes: int = 10) -> MacroSpace:
    """The lowrank space for images of (channels, height, width) and a number of classes.

    Raises: ConfigError if the image is smaller than 8x8.
    """
    made = macro(input_shape, num_classes, "lowrank")
    return macro_space(
        "lowrank",
        made,
        "1x1 layers dense, or of 1/2 or 1/4 of the full rank; kernel 3 or 5; expansion 1, 3 or 6",
        OPERATORS,
    )
