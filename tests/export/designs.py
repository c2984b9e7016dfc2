"""Small designs on every kind of accelerator, for tests of what is written about them."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from cosearch.export.network import NetworkDescription
from cosearch.export.network_mapping import NetworkMapping
from cosearch.hardware.accelerator import Accelerator
from cosearch.hardware.pricing import RESIDENCIES
from cosearch.hardware.report import point_report
from cosearch.hardware.tensor import cost_tensor
from cosearch.workload import Layer, Workload, host_bytes
from search_spaces import accelerators
from tests import tiny_space

ARCHS = {
    "conv": dict.fromkeys(tiny_space.space().choices, "conv_k3_e1"),
    "mixed": dict(zip(tiny_space.space().choices, ("shift_k3_e1", "add_k3_e1", "conv_k3_e1"), strict=True)),
}
DEVICES = {"ecp5-25f": "mixed", "pynq-z1-split": "conv", "eyeriss": "conv", "pim": "conv", "cpu": "conv"}
"""Device -> the network that is tested on it: array template, two engines a layer, declared mapspace, closed forms."""


WIDE = Workload(
    "wide",
    (
        Layer("conv", K=40, C=24, P=10, Q=10, R=3, S=3, accumulator_bits=24),
        Layer("strided", K=24, C=40, P=5, Q=5, R=3, S=3, stride=(2, 2), accumulator_bits=24),
        Layer("depthwise", K=24, C=24, P=5, Q=5, R=3, S=3, groups=24, accumulator_bits=24),
        Layer("grouped", K=24, C=24, P=5, Q=5, groups=4, accumulator_bits=24),
        Layer("head", K=17, C=600, accumulator_bits=24),
    ),
)
"""Layers of every form, too wide for one pass over small arrays."""


@dataclass(frozen=True)
class Made:
    description: NetworkDescription
    workload: Workload
    accelerator: Accelerator
    mapping: NetworkMapping

    @property
    def documents(self) -> dict[str, dict]:
        """Schema -> document."""
        return {
            "network": self.description.to_json(),
            "workload": self.workload.to_json(),
            "accelerator": self.accelerator.to_json(),
            "mapping": self.mapping.to_json(),
        }


@cache
def mapped(workload: Workload, device: str, at: int = 0) -> tuple[Accelerator, NetworkMapping]:
    """A point of a network's hardware front on a device; at: which one."""
    counts = workload.shape_counts()
    tensor = cost_tensor(tuple(counts), accelerators.find(device))
    live, crossing = workload.live_activation_bytes, host_bytes(workload)
    front = tensor.hardware_front(np.array(list(counts.values())), live, host_bytes=crossing)
    point = at % len(front)
    accelerator = front.accelerator(point)
    mapping = NetworkMapping.of(
        workload,
        accelerator,
        RESIDENCIES[int(front.residency[point])],
        point_report(workload, front, point),
        (float(front.latency_ms[point]), float(front.energy_mj[point])),
    )
    return accelerator, mapping


def made(device: str) -> Made:
    """A design on a device, the fastest one."""
    space = tiny_space.space()
    arch = ARCHS[DEVICES[device]]
    workload = space.workload(arch)
    classes = tuple("0123456789")
    description = NetworkDescription(tiny_space.NAME, arch, space.blueprint(arch), (0.5,), (0.25,), classes)
    return Made(description, workload, *mapped(workload, device))
