"""A problem whose optimum is known: 4^8 networks, accuracy and cost in closed form, no training."""

from collections.abc import Mapping

import numpy as np

from cosearch.strategies import Objectives
from search_spaces.decisions import Decisions

OBJECTIVES = Objectives(("accuracy", "latency_ms"))
SPACE = Decisions({f"d{i}": (0, 1, 2, 3) for i in range(8)})


class Front:
    def __init__(self, latency: list[float]) -> None:
        self.latency = np.array(latency)

    def __len__(self) -> int:
        return len(self.latency)

    def metric(self, name: str) -> np.ndarray:
        assert name == "latency_ms"
        return self.latency


class Costs:
    """Latency is 1 + the sum of the choices; on a second accelerator half as much again. limit: ms."""

    def __init__(self, limit: float = np.inf) -> None:
        self.limit = limit
        self.constraints = {} if np.isinf(limit) else {"max_latency_ms": limit}

    def free(self) -> "Costs":
        return Costs()

    def fronts(self, archs) -> list[Front]:
        return [Front([v for v in (latency(a), 1.5 * latency(a)) if v <= self.limit]) for a in archs]


def latency(arch: Mapping[str, int]) -> float:
    return 1.0 + sum(arch.values())


def accuracy(arch: Mapping[str, int]) -> float:
    """Later decisions bring more for the same cost, with falling returns: the front runs from (0.2, 1) to (1, 25)."""
    gain = sum((i + 1) * (1 - 0.5 ** arch[f"d{i}"]) for i in range(8))
    return 0.2 + 0.8 * gain / (36 * 0.875)


def hypervolume(archs) -> float:
    """Area above accuracy 0 and below latency 30 that the archs dominate, by sorting."""
    best, area = 0.0, 0.0
    points = sorted({(latency(a), -accuracy(a)) for a in archs})
    for i, (x, negative) in enumerate(points):
        best = max(best, -negative)
        right = points[i + 1][0] if i + 1 < len(points) else 30.0
        area += best * (right - x)
    return area
