"""Accelerator spaces: which accelerators a device allows. Importing this module loads none of them."""

from pathlib import Path
from typing import Any

from cosearch import registry
from cosearch.errors import ConfigError, UnknownNameError, nearest

ACCELERATORS: dict[str, str] = {
    "asic": "search_spaces.accelerators.asic:space",
    "fpga": "search_spaces.accelerators.fpga:space",
    "ecp5-85f": "search_spaces.accelerators.fpga:space",
    "ecp5-45f": "search_spaces.accelerators.fpga:space",
    "ecp5-25f": "search_spaces.accelerators.fpga:space",
    "zcu102": "search_spaces.accelerators.fpga:space",
    "zcu104": "search_spaces.accelerators.fpga:space",
    "zc706": "search_spaces.accelerators.fpga:space",
    "ultra96": "search_spaces.accelerators.fpga:space",
    "pynq-z1": "search_spaces.accelerators.fpga:space",
    "ecp5-85f-four": "search_spaces.accelerators.four:space",
    "zcu102-four": "search_spaces.accelerators.four:space",
    "zcu102-split": "search_spaces.accelerators.split:space",
    "pynq-z1-split": "search_spaces.accelerators.split:space",
    "ecp5-85f-split": "search_spaces.accelerators.split:space",
    "gemmini": "search_spaces.accelerators.asic:space",
    "tpu-ws": "search_spaces.accelerators.asic:space",
    "tpu-os": "search_spaces.accelerators.asic:space",
    "nvdla": "search_spaces.accelerators.asic:space",
    "eyeriss": "search_spaces.accelerators.asic:space",
    "pim": "search_spaces.accelerators.pim:space",
    "pim-reram": "search_spaces.accelerators.pim:space",
    "pim-sram": "search_spaces.accelerators.pim:space",
    "hwnasbench-fpga": "search_spaces.accelerators.published:space",
    "hwnasbench-eyeriss": "search_spaces.accelerators.published:space",
    "cpu": "search_spaces.accelerators.processor:space",
    "gpu": "search_spaces.accelerators.processor:space",
}
"""Device name -> the function that makes its space; it is called with the device's name."""

FAMILIES: dict[str, str] = {"fpga": "ecp5-85f", "asic": "gemmini"}
"""Family -> its default device."""


def find(name_or_path: str, **options: Any) -> Any:
    """The accelerator space of a device, a family's default device, or a file: a part, or an ASIC template.

    options: what the space's own function takes (choices, accounting, scale_modelled ...).

    Raises: UnknownNameError with the nearest device; HardwareError for a file that describes no
        part, ConfigError naming the choice of one that cannot be.
    """
    if Path(name_or_path).suffix in (".json", ".yaml", ".yml"):
        from cosearch.hardware.parts import file_format, load_device

        if file_format(name_or_path) == "cosearch.template":
            return registry.find("devices", ACCELERATORS, "asic")(name_or_path, **options)
        part = load_device(name_or_path)
        if part.family not in FAMILIES:
            raise UnknownNameError(f"{name_or_path}: unknown family {part.family!r}: {nearest(part.family, FAMILIES)}")
        try:
            return registry.find("devices", ACCELERATORS, part.family)(part, **options)
        except ConfigError as error:
            raise ConfigError(f"{name_or_path}: {error}") from None
    device = FAMILIES.get(name_or_path, name_or_path)
    make = registry.find("devices", ACCELERATORS, device)
    return make(**options) if ":" in device else make(device, **options)
