"""What accelerators cost: descriptions, exact mapping search and the cost tensor.

Descriptions (`Accelerator`, `Engine`, `MemoryLevel`, `load_device`) import nothing slow; the rest loads on use.
"""

from typing import TYPE_CHECKING, Any

from cosearch.hardware.accelerator import Accelerator, Engine, MemoryLevel, Resources, UnitEnergies
from cosearch.hardware.parts import Part, UnitCost, load_device, part_names

if TYPE_CHECKING:
    from cosearch.hardware.tensor import CostTensor, HardwareFront, NetworkCost, accelerator_tensor, cost_tensor

_LAZY = {
    "CostTensor": "tensor",
    "HardwareFront": "tensor",
    "NetworkCost": "tensor",
    "accelerator_tensor": "tensor",
    "cost_tensor": "tensor",
}

__all__ = [
    "Accelerator",
    "CostTensor",
    "Engine",
    "HardwareFront",
    "MemoryLevel",
    "NetworkCost",
    "Part",
    "Resources",
    "UnitCost",
    "UnitEnergies",
    "accelerator_tensor",
    "cost_tensor",
    "load_device",
    "part_names",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"cosearch.hardware.{_LAZY[name]}"), name)
