"""Costs that a user knows: functions or arrays instead of an accelerator space, and limits on any costs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
import numpy.typing as npt

from cosearch.errors import ConfigError, described, nearest
from cosearch.strategies.base import Costs, Front
from cosearch.strategies.objectives import UNITS, as_cost, derive, excess, is_known, split_limit
from search_spaces.decisions import Arch, Decisions, arch_key, split

Column = npt.NDArray[np.float64]
Known = Callable[..., float] | npt.ArrayLike
"""A cost as a function of the arch, or an array with one value per arch, in the product order of the choices.

In a joint space a function takes the network's decisions and the accelerator's, apart.
"""


@dataclass(frozen=True)
class Values:
    """A front of points that are given by their values. columns: name -> [points]."""

    columns: Mapping[str, Column]
    points: int = 1

    def __len__(self) -> int:
        return self.points

    def metric(self, name: str) -> Column:
        if name not in self.columns and is_known(name, self.columns):
            return derive(name, self.metric)
        if name not in self.columns:
            raise ConfigError(f"the cost {name!r} is not known: {nearest(name, self.columns)}")
        return self.columns[name]


@dataclass(frozen=True)
class Part:
    """Some points of a front."""

    whole: Front
    index: npt.NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.index)

    def metric(self, name: str) -> Column:
        return self.whole.metric(name)[self.index]


class KnownCosts:
    """Costs of the networks of a space as functions or arrays; one point per network.

    wanted: what objectives and limits are of; what follows from the costs is among them.
    Raises: ConfigError for a cost that is none, or an array that does not fit the space.
    """

    constraints: Mapping[str, float]

    def __init__(self, space: Decisions, values: Mapping[str, Known], wanted: Iterable[str] = ()) -> None:
        self.space, self.constraints = space, {}
        self._functions: dict[str, Callable[[Arch], float]] = {}
        for name, value in values.items():
            if name not in UNITS or name == "accuracy":
                costs = [n for n in UNITS if n != "accuracy"]
                raise ConfigError(f"unknown cost {name!r}: {nearest(name, costs)}")
            self._functions[name] = self._function(name, value) if callable(value) else self._lookup(name, value)
        self._derived = [name for name in wanted if name not in values and is_known(name, values)]
        self._fronts: dict[str, Values] = {}

    def _function(self, name: str, given: Callable[..., float]) -> Callable[[Arch], float]:
        if not self.space.joint:
            return given
        try:
            signature(given).bind({}, {})
        except TypeError as error:
            wanted = "a function of the network's decisions and the accelerator's, (network, accelerator)"
            raise ConfigError(f"the cost {name} in a space with both: {error}; expected {wanted}") from None
        except ValueError:
            pass  # there are functions that do not tell what they take
        return lambda arch: given(*split(arch))

    def _lookup(self, name: str, values: npt.ArrayLike) -> Callable[[Arch], float]:
        shape = tuple(len(options) for options in self.space.choices.values())
        try:
            array = np.asarray(values, dtype=float)
        except (TypeError, ValueError):
            raise ConfigError(f"the cost {name} is neither a function nor an array of numbers") from None
        if array.shape not in (shape, (self.space.size,)):
            raise ConfigError(f"the array of {name} has shape {array.shape}: expected ({self.space.size},) or {shape}")
        flat = array.reshape(-1)
        return lambda arch: float(flat[np.ravel_multi_index(tuple(self.space.encode(arch)), shape)])

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(self._functions)

    def fronts(self, archs: Sequence[Arch]) -> list[Values]:
        """A network that has an infinite cost cannot be built: it has no point.

        Raises: ConfigError if a function fails, or gives no number.
        """
        return [self._front(arch) for arch in archs]

    def free(self) -> "KnownCosts":
        return self

    def _front(self, arch: Arch) -> Values:
        key = arch_key(arch)
        if key not in self._fronts:
            found = {name: self._cost(name, arch, key) for name in self._functions}
            with np.errstate(divide="ignore"):  # a latency of zero makes an infinite throughput
                found |= {name: float(derive(name, lambda part: np.asarray(found[part]))) for name in self._derived}
            points = int(all(map(np.isfinite, found.values())))
            self._fronts[key] = Values({name: np.full(points, value) for name, value in found.items()}, points)
        return self._fronts[key]

    def _cost(self, name: str, arch: Arch, key: str) -> float:
        what = f"the cost {name} of {key}"
        try:
            value = self._functions[name](arch)
        except Exception as error:
            raise ConfigError(f"{what} is not known: its function raised {described(error)}") from error
        cost = as_cost(what, value)
        if np.isnan(cost):
            raise ConfigError(f"{what} is nan: expected a number, or infinity for a network that cannot be")
        return cost


class Limited:
    """Costs whose fronts keep the points that meet limits."""

    def __init__(self, costs: Costs, limits: Mapping[str, float]) -> None:
        self.costs, self.limits = costs, dict(limits)
        self.constraints = {**costs.constraints, **limits}

    @property
    def metrics(self) -> tuple[str, ...] | None:
        return getattr(self.costs, "metrics", None)

    def fronts(self, archs: Sequence[Arch]) -> list[Front]:
        return [self._kept(front) for front in self.costs.fronts(archs)]

    def free(self) -> Costs:
        return self.costs.free()

    @property
    def accelerator(self) -> Any:
        """(arch, point of its front) -> accelerator, if the costs know it."""
        inner: Any = getattr(self.costs, "accelerator", None)
        return None if inner is None else lambda arch, point: inner(arch, int(self._index(arch)[point]))

    @property
    def expected(self) -> Any:
        """What relaxed networks cost, if the costs know it."""
        inner = getattr(self.costs, "expected", None)
        return None if inner is None else partial(inner, self.limits)

    def _kept(self, front: Front) -> Front:
        if not len(front):
            return front
        broken = excess({split_limit(name)[1]: front.metric(split_limit(name)[1]) for name in self.limits}, self.limits)
        return Part(front, np.flatnonzero(broken == 0))

    def _index(self, arch: Arch) -> npt.NDArray[np.intp]:
        """[points] where those of an arch's front are on the whole one."""
        [front] = self.fronts([arch])
        assert isinstance(front, Part)  # none is empty to begin with that has a point
        return front.index
