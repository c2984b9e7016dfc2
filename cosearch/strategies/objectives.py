"""Objectives: names, units, directions, and the front of what they say about a set of candidates."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cosearch.errors import ConfigError, nearest

Matrix = npt.NDArray[np.float64]

UNITS: dict[str, str] = {
    "accuracy": "fraction",
    "latency_ms": "ms",
    "energy_mj": "mJ",
    "edp": "mJ ms",
    "area_mm2": "mm2",
    "dsp": "blocks",
    "lut": "LUTs",
    "ff": "flip-flops",
    "bram": "block RAMs",
    "uram": "UltraRAMs",
    "params": "weights",
    "macs": "operations",
    "throughput_fps": "images/s",
}
MAXIMISED = frozenset({"accuracy", "throughput_fps"})
COUNTED = frozenset({"dsp", "lut", "ff", "bram", "uram", "params", "macs"})
"""Costs that are counts: zero is a value of theirs."""
ERROR_OFFSET = 1e-3
"""Errors are modelled and compared as log(error + offset), so that an error of zero is no singularity."""


@dataclass(frozen=True)
class Objectives:
    """An ordered set of objectives, and limits on any: `max_<name>` or `min_<name>` -> value.

    min_accuracy: networks below it are worse than all others; the same as a limit of that name.
    Raises: ConfigError if one is unknown or given twice, there is none, or limits contradict each other.
    """

    names: tuple[str, ...] = ("accuracy", "latency_ms", "energy_mj")
    min_accuracy: float = 0.0
    constraints: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.names, str) or not isinstance(self.names, Iterable):
            raise ConfigError(f"objectives {self.names!r}: give a tuple of names")
        object.__setattr__(self, "names", tuple(self.names))
        if not isinstance(self.constraints, Mapping):
            raise ConfigError(f"constraints {self.constraints!r}: give a dict, such as {{'max_latency_ms': 5.0}}"[:300])
        if not self.names:
            raise ConfigError(f"no objectives: give some of {', '.join(UNITS)}")
        for name in self.names:
            if name not in UNITS:
                raise ConfigError(f"unknown objective {name!r}: {nearest(str(name), UNITS)}")
        if len(set(self.names)) != len(self.names):
            raise ConfigError(f"objectives {', '.join(self.names)}: each may be given once")
        as_number("min_accuracy", self.min_accuracy)
        _check_limits({**self.constraints, **({"min_accuracy": self.min_accuracy} if self.min_accuracy else {})})
        floor = max(self.min_accuracy, self.constraints.get("min_accuracy", 0.0))
        object.__setattr__(self, "min_accuracy", float(floor))

    @property
    def costs(self) -> tuple[str, ...]:
        """The objectives that are known without training."""
        return tuple(name for name in self.names if name != "accuracy")

    @property
    def directions(self) -> list[str]:
        """As Optuna wants them."""
        return ["maximize" if name in MAXIMISED else "minimize" for name in self.names]

    def minimised(self, columns: Mapping[str, npt.ArrayLike]) -> Matrix:
        """[n, objectives], every column to be minimised. columns: name -> [n] or a scalar."""
        signed = [np.asarray(columns[n], dtype=float) * (-1.0 if n in MAXIMISED else 1.0) for n in self.names]
        return np.stack(np.broadcast_arrays(*(np.atleast_1d(c) for c in signed)), axis=1)


def split_limit(name: str) -> tuple[str, str]:
    """("max" or "min", what is limited).

    Raises: ConfigError for a name that is no limit.
    """
    side, _, limited = str(name).partition("_")
    if side not in ("max", "min") or limited not in UNITS:
        known = [f"{side}_{objective}" for objective in UNITS for side in ("max", "min")]
        raise ConfigError(f"unknown constraint {name!r}: {nearest(str(name), known)}")
    return side, limited


DERIVED: dict[str, tuple[str, ...]] = {"edp": ("latency_ms", "energy_mj"), "throughput_fps": ("latency_ms",)}
"""Objectives that follow from others."""


def is_known(name: str, metrics: Collection[str]) -> bool:
    """Whether an objective is one of some metrics, or follows from them."""
    return name in metrics or (name in DERIVED and all(part in metrics for part in DERIVED[name]))


def derive(name: str, metric: Callable[[str], Matrix]) -> Matrix:
    """[points] a derived objective from those that it follows from."""
    if name == "edp":
        return metric("latency_ms") * metric("energy_mj")
    assert name == "throughput_fps"  # images one after the other; results show what a pipeline reaches beside it
    return 1e3 / metric("latency_ms")


def tightest(limits: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Limits by name, of several on one side of an objective the one that implies the others."""
    found: dict[str, float] = {}
    for name, value in limits:
        choose = min if name.startswith("max_") else max
        found[name] = choose(found.get(name, value), value)
    return found


def as_number(what: str, value: Any) -> float:
    """Raises: ConfigError for what is no number; a string is none."""
    if not isinstance(value, str):
        with suppress(TypeError, ValueError):
            return float(value)
    raise ConfigError(f"{what} is {value!r}: expected a number"[:300])


def as_cost(what: str, value: Any) -> float:
    """Raises: ConfigError for what is no number, or a negative one. NaN and infinity are left to the caller."""
    number = as_number(what, value)
    if number < 0:
        raise ConfigError(f"{what} is {number:g}: expected a number that is not negative")
    return number


def _check_limits(limits: Mapping[str, float]) -> None:
    for name, value in limits.items():
        side, limited = split_limit(name)
        if not math.isfinite(as_number(f"constraint {name}", value)):
            raise ConfigError(f"constraint {name}={value}: expected a number")
        if (side == "max" and value < 0) or (name == "min_accuracy" and value > 1):
            raise ConfigError(f"constraint {name}={value:g} can never be met: {limited} is a {UNITS[limited]}")
        other = f"min_{limited}"
        if side == "max" and limits.get(other, -math.inf) > value:
            raise ConfigError(f"constraints {other}={limits[other]:g} and {name}={value:g} contradict each other")


def excess(columns: Mapping[str, npt.ArrayLike], limits: Mapping[str, float]) -> npt.NDArray[np.float64]:
    """[n] by how much limits are broken, each as a part of the limit; 0 where all are met. columns: name -> [n]."""
    total = np.zeros(np.broadcast_shapes(*(np.shape(c) for c in columns.values())) if columns else ())
    for name, limit in limits.items():
        side, limited = split_limit(name)
        beyond = np.asarray(columns[limited], dtype=float) - limit
        total = total + np.maximum(0.0, beyond if side == "max" else -beyond) / max(abs(limit), 1e-12)
    return np.asarray(total)


def undominated(points: Matrix) -> npt.NDArray[np.bool_]:
    """[n] which points no other dominates; of equal points the first stays. points: [n, objectives], minimised."""
    import moocore

    if len(points) == 0:
        return np.zeros(0, dtype=bool)
    return np.asarray(moocore.is_nondominated(points), dtype=bool)


def ranks(points: Matrix) -> npt.NDArray[np.int64]:
    """[n] front number of each point, 0 for the non-dominated. points: [n, objectives], minimised."""
    import moocore

    return np.asarray(moocore.pareto_rank(points), dtype=np.int64)


def crowding(points: Matrix, rank: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """[n] NSGA-II's crowding distance within each rank; infinite at the ends. Source: Deb et al. 2002."""
    out = np.zeros(len(points))
    for r in np.unique(rank):
        members = np.flatnonzero(rank == r)
        for column in points[members].T:
            order = members[np.argsort(column, kind="stable")]
            values = np.sort(column, kind="stable")
            span = values[-1] - values[0]
            out[order[[0, -1]]] = np.inf
            if span > 0 and len(order) > 2:
                out[order[1:-1]] += (values[2:] - values[:-2]) / span
    return out


def one_standard_error(accuracy: npt.NDArray[np.float64], images: int) -> float:
    """The least accuracy that is within one standard error of the best, given the images it was measured on.

    Source: the one-standard-error rule of Breiman et al. (CART, 1984).
    """
    best = float(accuracy.max())
    return best - float(np.sqrt(best * (1 - best) / images))


def product(columns: Mapping[str, npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """[n] log of the product of costs (EDP for latency and energy), each as a quantity to be minimised.

    Of a count its successor is multiplied: a count of zero is a value as good as its neighbours, not one that makes
    all other costs vanish.
    """
    total = np.zeros(len(next(iter(columns.values()))))
    for name, column in columns.items():
        values = np.log1p(column) if name in COUNTED else np.log(np.maximum(column, 1e-300))
        total += -values if name in MAXIMISED else values
    return total


def recommend(columns: Mapping[str, npt.NDArray[np.float64]], objectives: Objectives, needed: float) -> int:
    """Which row to take: of those that are accurate enough, the least product of the costs.

    columns: name -> [n], accuracy among them. needed: the accuracy that is enough; if no row reaches it, the most
    accurate rows are looked at.
    """
    accuracy = columns["accuracy"]
    paid = product({n: columns[n] for n in objectives.costs}) if objectives.costs else np.zeros(len(accuracy))
    costs = np.where(accuracy >= min(needed, float(accuracy.max())), paid, np.inf)
    return int(np.lexsort((-accuracy, costs))[0])


def bend(columns: Mapping[str, npt.NDArray[np.float64]], objectives: Objectives, needed: float) -> int:
    """Which row to take where no objective comes before the others: the knee of the rows that are accurate enough.

    columns, needed: as of `recommend`.
    """
    accuracy = columns["accuracy"]
    enough = np.flatnonzero(accuracy >= min(needed, float(accuracy.max())))
    return int(enough[knee(objectives.minimised({name: columns[name] for name in objectives.names})[enough])])


def knee(points: Matrix) -> int:
    """The point of a front that lies farthest below the plane through the best point of each objective.

    points: [n, objectives], minimised. Dominated points are not looked at; objectives are scaled to the front's range.
    Source: Das 1999, with the plane through the extremes.
    """
    front = np.flatnonzero(undominated(points))
    low, span = points[front].min(0), np.ptp(points[front], axis=0)
    scaled = (points[front] - low) / np.where(span > 0, span, 1.0)
    return int(front[np.argmin(scaled.sum(1))])
