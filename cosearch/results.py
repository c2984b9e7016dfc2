"""What a run found, as values: designs, their accuracies with intervals, the front, and what co-search bought."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

Z95 = 1.959963984540054


def wilson(fraction: float, n: int, z: float = Z95) -> tuple[float, float]:
    """95% score interval of a proportion observed on n images. Source: Wilson 1927."""
    centre = (fraction + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(fraction * (1 - fraction) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Design:
    """One (network, accelerator) pair of the comparison.

    integer_accuracies, float_accuracies: on the test images, one per training seed. search_accuracy: what the search
    saw. infeasible: why the pair cannot run; its costs are then None.
    """

    name: str
    arch: dict[str, Any]
    accelerator: str
    latency_ms: float | None
    energy_mj: float | None
    resources: dict[str, float]
    integer_accuracies: tuple[float, ...]
    float_accuracies: tuple[float, ...]
    test_images: int
    search_accuracy: float | None
    infeasible: str = ""

    @property
    def accuracy(self) -> float:
        """Mean over training seeds of the integer network's test accuracy."""
        return sum(self.integer_accuracies) / len(self.integer_accuracies)

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.accuracy, self.test_images)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Design":
        lists = {key: tuple(data[key]) for key in ("integer_accuracies", "float_accuracies")}
        return cls(**{**data, **lists})


@dataclass(frozen=True)
class Result:
    """path: the run directory. front: one row per (network, accelerator) that nothing evaluated dominates."""

    path: str
    front: "pd.DataFrame"
    designs: tuple[Design, ...]
    notes: tuple[str, ...]

    @property
    def finalist(self) -> Design:
        return self.designs[0]


def bought(designs: Sequence[Design]) -> list[str]:
    """What co-search bought, one sentence per baseline, from the first design's point of view."""
    finalist = designs[0]
    lines = []
    for other in designs[1:]:
        if other.infeasible:
            lines.append(f"{other.name}: {other.infeasible}")
            continue
        gains = [
            f"{_ratio(ours, theirs)} {label}"
            for label, ours, theirs in (
                ("energy", finalist.energy_mj, other.energy_mj),
                ("latency", finalist.latency_ms, other.latency_ms),
            )
            if ours is not None and theirs
        ]
        points = 100 * (finalist.accuracy - other.accuracy)
        lines.append(f"against {other.name}: {', '.join(gains)} at {points:+.2f} points of accuracy")
    return lines


def _ratio(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.2f}x"
