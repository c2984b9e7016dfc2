"""What accelerators cost: descriptions, exact mapping search and the cost tensor.

Descriptions (`Accelerator`, `Engine`, `MemoryLevel`, `load_device`) import nothing slow; the rest loads on use.
"""

from typing import TYPE_CHECKING, Any

from cosearch.hardware.accelerator import Accelerator, Axis, Engine, Mapspace, MemoryLevel, Tiling, UnitEnergies
from cosearch.hardware.parts import Part, UnitCost, load_device, part_names
from cosearch.hardware.resources import Resources
from cosearch.hardware.technology import Technology, resized

if TYPE_CHECKING:
    from cosearch.hardware.bounds import LowerBound, lower_bound
    from cosearch.hardware.cost import Cost, Nests, evaluate
    from cosearch.hardware.explicit import MappingBatch, evaluate_many
    from cosearch.hardware.fronts import HardwareFront, NetworkCost, Pipeline
    from cosearch.hardware.joint import JointFront, joint_front
    from cosearch.hardware.mapping import LevelLoops, Mapping
    from cosearch.hardware.relaxed import Descent, RelaxedCost, descend, relaxed_cost
    from cosearch.hardware.report import LayerReport, LayerRow, layer_report
    from cosearch.hardware.repricing import SensitivityRow, sensitivity
    from cosearch.hardware.single import best, mapspace_size
    from cosearch.hardware.sweep import Grid, grid
    from cosearch.hardware.tensor import CostTensor, accelerator_tensor, cost_tensor

_LAZY = {
    "Grid": "sweep",
    "grid": "sweep",
    "Cost": "cost",
    "JointFront": "joint",
    "LayerRow": "report",
    "LevelLoops": "mapping",
    "LayerReport": "report",
    "LowerBound": "bounds",
    "Mapping": "mapping",
    "SensitivityRow": "repricing",
    "best": "single",
    "mapspace_size": "single",
    "Descent": "relaxed",
    "Nests": "cost",
    "RelaxedCost": "relaxed",
    "descend": "relaxed",
    "relaxed_cost": "relaxed",
    "evaluate": "cost",
    "evaluate_many": "explicit",
    "MappingBatch": "explicit",
    "joint_front": "joint",
    "layer_report": "report",
    "lower_bound": "bounds",
    "sensitivity": "repricing",
    "CostTensor": "tensor",
    "HardwareFront": "fronts",
    "NetworkCost": "fronts",
    "Pipeline": "fronts",
    "accelerator_tensor": "tensor",
    "cost_tensor": "tensor",
}

__all__ = [
    "Accelerator",
    "Axis",
    "Cost",
    "CostTensor",
    "Descent",
    "Engine",
    "Grid",
    "HardwareFront",
    "JointFront",
    "LayerReport",
    "LayerRow",
    "LevelLoops",
    "LowerBound",
    "Mapping",
    "MappingBatch",
    "Mapspace",
    "MemoryLevel",
    "Nests",
    "NetworkCost",
    "Part",
    "Pipeline",
    "RelaxedCost",
    "Resources",
    "SensitivityRow",
    "Technology",
    "Tiling",
    "UnitCost",
    "UnitEnergies",
    "accelerator_tensor",
    "best",
    "cost_tensor",
    "descend",
    "evaluate",
    "evaluate_many",
    "grid",
    "joint_front",
    "layer_report",
    "load_device",
    "lower_bound",
    "mapspace_size",
    "part_names",
    "relaxed_cost",
    "resized",
    "sensitivity",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"cosearch.hardware.{_LAZY[name]}"), name)
