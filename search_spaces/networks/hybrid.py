"""`hybrid`: every operator of the project in one space, in every block of the shiftadd macro."""

from cosearch.blueprint import OPERATORS
from search_spaces.networks.shiftadd import MacroSpace, macro, macro_space


def space(input_shape: tuple[int, int, int] = (1, 8, 8), num_classes: int = 10) -> MacroSpace:
    """The hybrid space for images of (channels, height, width) and a number of classes.

    Raises: ConfigError if the image is smaller than 8x8.
    """
    blocks_are = f"{', '.join(OPERATORS)}; kernel 3 or 5; expansion 1, 3 or 6"
    return macro_space("hybrid", macro(input_shape, num_classes, "hybrid"), blocks_are, tuple(OPERATORS))
