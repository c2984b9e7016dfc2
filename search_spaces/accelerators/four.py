"""FPGA accelerators with all four kinds of engines side by side: MAC, shift, L1 and bit-serial."""

from typing import Any

from cosearch.hardware.parts import Part, load_device
from search_spaces.accelerators import fpga

SUFFIX = "-four"


def space(part: str | Part = "ecp5-85f" + SUFFIX, **options: Any) -> fpga.FpgaSpace:
    """The accelerators of one part that have an engine per arithmetic kind, the bit-serial one included.

    part: a part's name with or without ``-four``, a part file, or a `Part`. options: `fpga.space`'s.

    Raises: what `fpga.space` raises.
    """
    device = load_device(part.removesuffix(SUFFIX)) if isinstance(part, str) else part
    return fpga.space(device, **{"kinds": fpga.ENGINE_KINDS, **options})
