"""Layers priced on reference accelerators by the cost model: what a network costs there tells of unknown devices."""

from functools import lru_cache

import numpy as np

from cosearch.workload import Layer
from predictors.base import Floats

REFERENCES: dict[str, dict[str, tuple[float, ...]]] = {
    "cpu": {},
    "gpu": {},
    "eyeriss": {"rows": (12,), "cols": (14,), "buffer_kib": (108,), "dram_bits_per_cycle": (64.0,)},
    "tpu-ws": {
        "rows": (32,),
        "cols": (32,),
        "buffer_kib": (256,),
        "accumulator_depth": (1024,),
        "dram_bits_per_cycle": (64.0,),
    },
}
"""Device -> the choices that leave one design of an array template; of a processor it is the fastest clock."""


@lru_cache(maxsize=8)
def layer_costs(layers: tuple[Layer, ...]) -> Floats:
    """[layers, columns] latency, ms, and energy, mJ, of each layer on every reference that runs all of them.

    Each layer's mapping is the fastest one, and nothing stays on chip between layers, so that networks cost the sum.
    """
    from cosearch.hardware.tensor import cost_tensor
    from search_spaces.accelerators import find

    columns: list[Floats] = []
    for device, choices in REFERENCES.items():
        space = find(device, choices=choices) if choices else find(device)
        latency, energy = cost_tensor(layers, space).networks(np.eye(len(layers)))
        own = np.column_stack([latency[:, -1], energy[:, -1]])
        if np.isfinite(own).all():
            columns.append(own)
    return np.hstack(columns)
