"""Networks to choose among, with what is known of each for free: features and hardware front."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cosearch.strategies.base import History
from cosearch.strategies.improvement import Floats, Fronts, Ints
from cosearch.strategies.objectives import MAXIMISED
from search_spaces.decisions import Arch, Decisions

ENUMERABLE = 20_000
"""A space of at most so many networks is looked at whole."""


@dataclass(frozen=True)
class Pool:
    """archs: no two of one key, all within the constraints. fronts: the distinct ones; of: [n] which one each has.

    costs: names of the objectives that are known; the fronts' columns, each to be minimised. space: whose decisions
    tell what is measured. given: [n, d] features, where they are worked out already.
    """

    space: Decisions
    archs: tuple[Arch, ...]
    keys: tuple[str, ...]
    costs: tuple[str, ...]
    fronts: Fronts
    of: Ints
    given: Floats | None = None

    def __len__(self) -> int:
        return len(self.archs)

    @cached_property
    def rows(self) -> dict[str, int]:
        """Key -> row."""
        return {key: row for row, key in enumerate(self.keys)}

    @cached_property
    def least(self) -> Floats:
        """[n] least value of the first cost that each network can have; 0 if no cost is known."""
        if not self.costs:
            return np.zeros(len(self))
        return np.minimum.reduceat(self.fronts.points[:, 0], self.fronts.start[:-1])[self.of]

    @cached_property
    def encoded(self) -> Floats:
        """[n, d] features."""
        return features(self.space, self.archs) if self.given is None else self.given

    @cached_property
    def distinct(self) -> tuple[Floats, Ints]:
        """Distinct rows of features, and which one each network has."""
        rows, which = np.unique(self.encoded, axis=0, return_inverse=True)
        return rows, which.reshape(-1)


def make_pool(history: History, archs: Iterable[Arch]) -> Pool:
    """Those of some networks that can meet the constraints, one per key."""
    costs = tuple(name for name in history.objectives.costs if name not in history.measured)
    unique = {history.key(arch): arch for arch in archs}
    kept: list[tuple[str, Arch]] = []
    distinct: dict[bytes, int] = {}
    fronts: list[Floats] = []
    of: list[int] = []
    for (key, arch), front in zip(unique.items(), history.costs.fronts(list(unique.values())), strict=True):
        if not len(front):
            continue
        points = minimised(front, costs)
        identity = points.tobytes()
        if identity not in distinct:
            distinct[identity] = len(fronts)
            fronts.append(points)
        kept.append((key, arch))
        of.append(distinct[identity])
    keys, kept_archs = tuple(k for k, _ in kept), tuple(a for _, a in kept)
    table = Fronts.of(fronts) if fronts else Fronts(np.zeros((0, len(costs))), np.zeros(1, dtype=np.intp))
    return Pool(history.modelled, kept_archs, keys, costs, table, np.array(of, dtype=np.intp))


def minimised(front: Any, names: Sequence[str]) -> Floats:
    """[points, names] of a front, each to be minimised."""
    columns = [front.metric(name) * (-1.0 if name in MAXIMISED else 1.0) for name in names]
    return np.column_stack(columns) if columns else np.zeros((len(front), 0))


def whole_space(space: Decisions) -> list[Arch]:
    """Every network."""
    return [space.decode(place) for place in np.ndindex(*(len(options) for options in space.choices.values()))]


def features(space: Decisions, archs: Sequence[Arch]) -> Floats:
    """[archs, d] what a surrogate of accuracy sees; counts and sizes as logarithms.

    Decisions that are not of the space are left out.
    """
    from predictors.encoding import cell_edges
    from predictors.encoding import features as encoded

    archs = [{name: arch[name] for name in space.choices} for arch in archs]
    logarithmic = ["shape", "flow"] if cell_edges(space) else ["counts"]
    linear = [] if cell_edges(space) else ["one_hot", "ordinal"]
    if hasattr(space, "layer_table"):
        logarithmic.append("workload")
    return np.hstack([encoded(space, archs, linear), np.log1p(encoded(space, archs, logarithmic))])
