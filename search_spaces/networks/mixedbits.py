"""`mixedbits`: convolutions with weights of 8, 4 or 2 bits in every block of the shiftadd macro."""

from search_spaces.networks.shiftadd import MacroSpace, macro, macro_space

OPERATORS = ("conv", "conv4", "conv2")


def space(input_shape: tuple[int, int, int] = (1, 8, 8), num_classes: int = 10) -> MacroSpace:
    """The mixedbits space for images of (channels, height, width) and a number of classes.

    Raises: ConfigError if the image is smaller than 8x8.
    """
    made = macro(input_shape, num_classes, "mixedbits")
    return macro_space(
        "mixedbits", made, "convolutions of 8, 4 or 2 bit weights; kernel 3 or 5; expansion 1, 3 or 6", OPERATORS
    )
