"""A benchmark table and what can be asked of it."""

import itertools
import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cosearch.errors import ConfigError, DataError, InfeasibleError, UnknownNameError, nearest
from cosearch.notebook import html_table
from hwbench_data import analog
from hwbench_data.networks import Cells, Ints, Network, Networks, Pairs, indices
from hwbench_data.store import ANY, SOURCES, Card, Column, Figures, Floats, Key, Metric
from search_spaces.networks import nasbench201

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 20
"""Networks of a selection that a notebook shows."""
_BOUNDS: dict[str, Callable[[Floats, float], npt.NDArray[np.bool_]]] = {"max": operator.le, "min": operator.ge}


def better(metric: str, unit: str) -> str:
    """``higher`` or ``lower``, of a metric whose unit is one of ours: fractions are accuracies, or their spread."""
    return "higher" if unit == "fraction" and not metric.endswith("_std") else "lower"


@dataclass(frozen=True)
class Row:
    """One figure; conditions: what it holds under, such as input and accelerator."""

    device: str
    metric: str
    unit: str
    conditions: dict[str, str]
    value: float
    source: str


@dataclass(frozen=True)
class Selection:
    """Networks picked from a table, with what they were picked by. values: metric -> [n].

    among: how many networks have the figures and meet the constraints.
    """

    table: "Table" = field(repr=False)
    device: str | None
    index: Ints
    values: dict[str, Floats]
    among: int

    def __len__(self) -> int:
        return len(self.index)

    @property
    def place(self) -> str:
        """The table, and the device if there is one."""
        return self.table.name + (f" on {self.device}" if self.device else "")

    @property
    def labels(self) -> list[str]:
        """The notation of each network."""
        return [self.table.networks.label(i) for i in self.index.tolist()]

    def records(self) -> list[dict[str, Any]]:
        """One dict per network."""
        columns = {name: values.tolist() for name, values in self.values.items()}
        return [
            {"index": i, "network": label, **{name: values[at] for name, values in columns.items()}}
            for at, (i, label) in enumerate(zip(self.index.tolist(), self.labels, strict=True))
        ]

    def to_pandas(self) -> "pd.DataFrame":
        import pandas as pd

        return pd.DataFrame(self.records())

    def _repr_html_(self) -> str:
        records = replace(self, index=self.index[:SHOWN]).records()
        title = f"{self.place}: {len(records)} of {len(self)} networks"
        rows = [[f"{v:.6g}" if isinstance(v, float) else str(v) for v in record.values()] for record in records]
        return html_table(title, ("index", "network", *self.values), rows)


@dataclass(frozen=True, eq=False)
class Table:
    """A table: `networks` are its rows' names, `store` its figures; `hwbench_data.load` opens one."""

    networks: Networks
    store: Figures
    _joined: dict[str, Floats] = field(default_factory=dict, repr=False)

    @property
    def card(self) -> Card:
        return self.store.card

    @property
    def name(self) -> str:
        return self.card.name

    def __len__(self) -> int:
        return len(self.networks)

    @property
    def joined(self) -> Mapping[str, str]:
        """Metrics that a package adds at query time -> what they are."""
        return analog.METRICS if self.networks.cells is not None else {}

    @property
    def metrics(self) -> dict[str, Metric]:
        """Everything that can be asked for."""
        joined = {name: Metric("fraction", better(name, "fraction"), text) for name, text in self.joined.items()}
        return {**self.card.metrics, **joined}

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(self.card.devices)

    def _repr_html_(self) -> str:
        devices = ", ".join(self.devices)
        rows = [(name, metric.unit, metric.better, metric.title) for name, metric in self.metrics.items()]
        title = f"{self.card.title}: {len(self):,} networks; devices: {devices}"
        return html_table(title, ("metric", "unit", "better", "what"), rows)

    # -- figures --

    def query(
        self, network: Network, device: str | None = None, metrics: str | Sequence[str] | None = None, **conditions: str
    ) -> dict[str, float]:
        """What one network costs: metric -> value.

        network: an index, a notation or an arch. device: one of `devices`; without it only metrics that need none.
        metrics: one or several; all that the table has for the device by default. conditions: their first value by
        default.
        Raises: UnknownNameError with the nearest name; ConfigError; DataError if a metric is missing there, or a pair
        of network and accelerator has no figures there.
        """
        wanted = self._wanted(metrics, device, conditions)
        at = self.networks.index(network)
        self._check_pair(at, device, {name: values[0] for name, values in self.card.conditions.items()} | conditions)
        joined = self._accuracies_of(at, [name for name in wanted if name in self.joined])
        found = {
            name: joined[name] if name in joined else float(self._full(name, device, conditions)[at]) for name in wanted
        }
        return {name: value for name, value in found.items() if metrics is not None or not np.isnan(value)}

    def query_many(
        self,
        networks: Sequence[Network] | Ints,
        metrics: str | Sequence[str] | None = None,
        device: str | None = None,
        **conditions: str,
    ) -> dict[str, Floats]:
        """`query` of many networks at once: metric -> [n], NaN where the table has no value."""
        wanted = self._wanted(metrics, device, conditions)
        return self._values(indices(self.networks, networks), wanted, device, conditions)

    def sources(self, networks: Sequence[Network] | Ints, metric: str, device: str, **conditions: str) -> list[str]:
        """[n] whether each figure was measured, modelled, predicted or published."""
        column = self._column(metric, device, conditions)
        return [SOURCES[code] for code in column.sources[indices(self.networks, networks)].tolist()]

    def rows(self, network: Network, device: str | None = None, **conditions: str) -> list[Row]:
        """Everything that the table knows of one network, under given conditions or all of them.

        Raises: UnknownNameError, ConfigError; DataError if a pair of network and accelerator has no figures there.
        """
        at = self.networks.index(network)
        self._check(device, conditions)
        self._check_pair(at, device, conditions)
        return list(self._rows(at, device, conditions))

    def _check_pair(self, at: int, device: str | None, conditions: Mapping[str, str]) -> None:
        """A pair has the costs of one device and space.

        Raises: DataError that says which, if others are asked for.
        """
        if not isinstance(self.networks, Pairs):
            return
        if any(device in (None, row.device) for row in self._rows(at, device, conditions)):
            return
        there = {(row.device, *row.conditions.values()) for row in self._rows(at, None, {}) if row.device != ANY}
        known = "; ".join(", ".join(place) for place in sorted(there))
        asked = ", ".join([device or "any device", *conditions.values()])
        raise DataError(f"pair {at} of table {self.name} has no figures of {asked}; it has them of {known}")

    def _rows(self, at: int, device: str | None, conditions: Mapping[str, str]) -> Iterator[Row]:
        for key in self.store.groups:
            given = dict(zip(self.card.conditions, key[2:], strict=True))
            if device is not None and key[0] not in (device, ANY):
                continue
            if any(given[name] not in (value, ANY) for name, value in conditions.items()):
                continue
            column = self.store.column(key, len(self))
            assert column is not None
            if not np.isnan(column.values[at]):
                if key[1] not in self.card.metrics:
                    raise DataError(f"{self.card.name}: the card tells nothing of the metric {key[1]!r:.80}")
                unit = self.card.metrics[key[1]].unit
                shown = {name: value for name, value in given.items() if value != ANY}
                source = SOURCES[column.sources[at]]
                yield Row(key[0], key[1], unit, shown, float(column.values[at]), source)

    def accuracies(self, networks: Sequence[Network] | Ints, source: str = "cifar10_accuracy") -> Floats:
        """[n] accuracy as a fraction, one answer for isomorphic networks: the mean over their trainings.

        source: a metric whose unit is a fraction; of NAS-Bench-201 one of `hwbench_data.analog.METRICS`.
        Raises: DataError if the package that has them is not installed; UnknownNameError, ConfigError.
        """
        known = [name for name, metric in self.metrics.items() if metric.unit == "fraction"]
        self._one_of("accuracy", source, known)
        return self._full(source, None, {})[indices(self.networks, networks)]

    # -- choices --

    def front(
        self,
        objectives: str | Sequence[str] | None = None,
        constraints: Mapping[str, float] | None = None,
        device: str | None = None,
        **conditions: str,
    ) -> Selection:
        """The networks that no other one beats in every objective, one of equal ones, best first by the first.

        objectives: metrics, or one; by default accuracy, if there is one, and latency_ms. constraints:
        ``max_<metric>`` or ``min_<metric>``.
        Raises: InfeasibleError that says the best that can be reached; UnknownNameError, ConfigError, DataError.
        """
        names = _names(objectives) if objectives is not None else self._usual()
        at, values, compared = self._candidates(names, constraints, device, conditions)
        return self._selection(at[_undominated(compared)], values, device, len(at))

    def best(
        self,
        objective: str,
        constraints: Mapping[str, float] | None = None,
        device: str | None = None,
        **conditions: str,
    ) -> Selection:
        """The network with the best value of one metric under constraints. Raises: what `front` raises."""
        return self.top(1, objective, constraints, device, **conditions)

    def top(
        self,
        n: int,
        objective: str | None = None,
        constraints: Mapping[str, float] | None = None,
        device: str | None = None,
        **conditions: str,
    ) -> Selection:
        """The n best networks by one metric, by default accuracy, if there is one, or latency_ms; one of each class.

        Raises: what `front` raises; ConfigError if n is negative.
        """
        if _whole(n) < 0:
            raise ConfigError(f"{n} best networks: expected 0 or more")
        chosen = self._usual()[0] if objective is None else objective
        at, values, compared = self._candidates((chosen,), constraints, device, conditions)
        order = at[np.argsort(compared[:, 0], kind="stable")]
        first = np.sort(np.unique(self.networks.same[order], return_index=True)[1])
        return self._selection(order[first[:n]], values, device, len(at))

    def random(self, n: int, seed: int = 0) -> Ints:
        """n networks of n different classes, drawn uniformly over classes.

        Raises: ConfigError if there are fewer classes.
        """
        rng = np.random.default_rng(seed)
        first = _one_per_class(self.networks.classes, rng.permutation(len(self)))
        if not 0 <= _whole(n) <= len(first):
            raise ConfigError(f"{n} random networks: table {self.name} has {len(first)} distinct ones")
        return rng.permutation(first)[:n]

    def split(self, fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0) -> tuple[Ints, ...]:
        """All networks in parts, isomorphic ones together, so that no part knows another's networks.

        Raises: ConfigError if the fractions are not positive or sum to more than 1.
        """
        parts = _floats(fractions)
        if parts.ndim != 1 or not len(parts) or not (parts > 0).all() or parts.sum() > 1 + 1e-9:
            raise ConfigError(f"fractions {fractions}: expected positive numbers that sum to at most 1")
        classes = self.networks.classes
        order = np.random.default_rng(seed).permutation(int(classes.max()) + 1)
        ends = np.round(np.cumsum([0.0, *parts]) * len(order)).astype(int)
        part = np.full(len(order), -1)
        for i, (low, high) in enumerate(itertools.pairwise(ends)):
            part[order[low:high]] = i
        return tuple(np.flatnonzero(part[classes] == i) for i in range(len(parts)))

    def to_pandas(self) -> "pd.DataFrame":
        """The whole table in long form, as it is stored."""
        return self.store.arrow().to_pandas()

    # -- how --

    def _usual(self) -> tuple[str, ...]:
        facts = self.metrics.items()
        accurate = [name for name, metric in facts if metric.unit == "fraction" and metric.better == "higher"]
        return (*accurate[:1], "latency_ms")

    def _candidates(
        self,
        objectives: tuple[str, ...],
        constraints: Mapping[str, float] | None,
        device: str | None,
        conditions: Mapping[str, str],
    ) -> tuple[Ints, dict[str, Floats], Floats]:
        """Networks that meet the constraints; values of all networks; [candidates, objectives], lower is better."""
        self._check(device, conditions)
        for name in objectives:
            self._known(name)
        limits = [self._limit(name, value) for name, value in (constraints or {}).items()]
        names = list(dict.fromkeys((*objectives, *(metric for _, metric, _ in limits))))
        if not names:
            raise ConfigError(f"no objective given: choose among {', '.join(self.metrics)}")
        values = {name: self._full(name, device, conditions) for name in names}
        meets = self._there(device, conditions)
        for name in names:
            meets &= ~np.isnan(values[name])
        if not meets.any():
            where = ", ".join([device or "any device", *self._asked(conditions)])
            raise DataError(f"table {self.name} has no network with {', '.join(names)} on {where}: ask for others")
        here = np.flatnonzero(meets)
        for bound, metric, limit in limits:
            meets &= _BOUNDS[bound](values[metric], limit)
        if not meets.any():
            reach = ", ".join(
                f"{'least' if bound == 'max' else 'largest'} {metric} "
                f"{(values[metric][here].min() if bound == 'max' else values[metric][here].max()):.6g}"
                for bound, metric, _ in limits
            )
            raise InfeasibleError(f"no network of {self.name} meets the constraints; one at a time: {reach}")
        kept = np.flatnonzero(meets)
        signs = [1.0 if self.metrics[name].better == "lower" else -1.0 for name in objectives]
        compared = np.stack([sign * values[name][kept] for sign, name in zip(signs, objectives, strict=True)], axis=1)
        return kept, values, compared

    def _selection(self, at: Ints, values: Mapping[str, Floats], device: str | None, among: int) -> Selection:
        return Selection(self, device, at, {name: column[at] for name, column in values.items()}, among)

    def _there(self, device: str | None, conditions: Mapping[str, str]) -> npt.NDArray[np.bool_]:
        """[networks] which there are on a device: of pairs those with one of its accelerators, else all."""
        if device is None or not isinstance(self.networks, Pairs):
            return np.ones(len(self), bool)
        asked = self._asked(conditions)
        found = np.zeros(len(self), bool)
        for key in self.store.groups:
            if key[0] == device and all(part in (value, ANY) for part, value in zip(key[2:], asked, strict=True)):
                column = self.store.column(key, len(self))
                assert column is not None
                found |= np.isfinite(column.values)
        return found

    def _limit(self, name: str, value: float) -> tuple[str, str, float]:
        bound, _, metric = name.partition("_")
        if bound not in _BOUNDS:
            raise ConfigError(f"constraint {name!r}: expected max_METRIC or min_METRIC")
        self._known(metric)
        limit = _floats(value)
        if limit.ndim or np.isnan(limit):
            raise ConfigError(f"constraint {name} is {value!r}, expected a number")
        return bound, metric, float(limit)

    def _wanted(
        self, metrics: str | Sequence[str] | None, device: str | None, conditions: Mapping[str, str]
    ) -> tuple[str, ...]:
        self._check(device, conditions)
        if metrics is not None:
            names = _names(metrics)
            for name in names:
                self._known(name)
            return names
        here = {key[1] for key in self.store.groups if key[0] in (device, ANY)}
        joined = self.joined if self.joined and analog.installed() else {}
        return tuple(name for name in self.metrics if name in here or name in joined)

    def _known(self, metric: str) -> None:
        self._one_of("metric", metric, self.metrics)

    def _check(self, device: str | None, conditions: Mapping[str, str]) -> None:
        if device is not None:
            self._one_of("device", device, self.card.devices)
        for name, value in conditions.items():
            if name not in self.card.conditions:
                hint = nearest(name, self.card.conditions) if self.card.conditions else "it has none"
                raise UnknownNameError(f"table {self.name} has no condition {name!r}: {hint}")
            self._one_of(name, value, self.card.conditions[name])

    def _one_of(self, what: str, given: Any, known: Collection[str]) -> None:
        """Raises: UnknownNameError with the nearest name, also for what is no text."""
        if not isinstance(given, str) or given not in known:
            raise UnknownNameError(f"unknown {what} {given!r} of table {self.name}: {nearest(str(given), known)}")

    def _values(
        self, at: Ints, metrics: Sequence[str], device: str | None, conditions: Mapping[str, str]
    ) -> dict[str, Floats]:
        return {name: self._full(name, device, conditions)[at] for name in metrics}

    def _full(self, metric: str, device: str | None, conditions: Mapping[str, str]) -> Floats:
        """[networks] values of one metric."""
        if metric in self.joined:
            return self._accuracy(metric)
        return self._column(metric, device, conditions).values

    def _accuracies_of(self, at: int, metrics: Sequence[str]) -> dict[str, float]:
        """`_accuracy` of one network by each of several metrics: the other networks are not looked at."""
        if not metrics:
            return {}
        cells = self.networks.cells
        assert cells is not None
        if cells[at] < 0:
            return dict.fromkeys(metrics, np.nan)
        found = analog.of_cells(metrics, nasbench201.same_network(int(cells[at])))
        return {metric: float(values.mean()) for metric, values in found.items()}

    @property
    def _cells(self) -> Networks:
        return self.networks if isinstance(self.networks, Cells) else Cells()

    def _accuracy(self, metric: str) -> Floats:
        """[networks] of a joined metric: the mean over isomorphic cells; NaN for networks that are no cells."""
        if metric not in self._joined:
            cells = self.networks.cells
            assert cells is not None
            means = _class_means(analog.accuracies(metric), self._cells.same)
            self._joined[metric] = np.where(cells >= 0, means[cells], np.nan)
        return self._joined[metric]

    def _column(self, metric: str, device: str | None, conditions: Mapping[str, str]) -> Column:
        for key in self._keys(metric, device, conditions):
            column = self.store.column(key, len(self))
            if column is not None:
                return column
        has = sorted({key[0] for key in self.store.groups if key[1] == metric} - {ANY})
        if device is None and has:
            raise ConfigError(f"{metric} depends on the device: name one of {', '.join(has)}")
        where = f"{device}" + "".join(f", {name} {value}" for name, value in conditions.items())
        raise DataError(f"table {self.name} has no {metric} of {where}; it has it of {', '.join(has)}")

    def _keys(self, metric: str, device: str | None, conditions: Mapping[str, str]) -> Iterator[Key]:
        """Where a metric may stand: on the device or on none, under the conditions or whatever they are."""
        for where in (device, ANY):
            if where is None:
                continue
            yield from ((where, metric, *part) for part in _relaxed(self._asked(conditions)))

    def _asked(self, conditions: Mapping[str, str]) -> tuple[str, ...]:
        """The value of each condition, its first one by default."""
        return tuple(conditions.get(name, values[0]) for name, values in self.card.conditions.items())


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    """Metrics; a text is one of them."""
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, Iterable):
        raise ConfigError(f"metrics {given!r}: expected names")
    return tuple(given)


def _whole(given: Any) -> int:
    """Raises: ConfigError for what is no whole number."""
    if not isinstance(given, int | np.integer) or isinstance(given, bool):
        raise ConfigError(f"{given!r} networks: expected a whole number")
    return int(given)


def _floats(given: Any) -> Floats:
    """An array of numbers; NaN for what holds none."""
    try:
        return np.array(given, float)
    except (TypeError, ValueError, OverflowError):
        return np.array(np.nan)


def _relaxed(asked: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The conditions, and every way to replace some of them by `ANY`."""
    if not asked:
        yield ()
        return
    for rest in _relaxed(asked[1:]):
        yield (asked[0], *rest)
        yield (ANY, *rest)


def _class_means(values: Floats, classes: Ints) -> Floats:
    """Each value replaced by the mean over its class."""
    return (np.bincount(classes, values) / np.bincount(classes))[classes]


def _one_per_class(classes: Ints, order: Ints) -> Ints:
    """The first network of each class in a given order of networks."""
    return order[np.unique(classes[order], return_index=True)[1]]


def _undominated(values: Floats) -> Ints:
    """Rows that no other row beats in every column (lower is better), the first of equal ones, by the first column."""
    order = np.lexsort(values.T[::-1])
    if values.shape[1] == 1:
        return order[:1]
    if values.shape[1] == 2:
        # sorted by the first column, a row is undominated if it lowers the second
        second = values[order, 1]
        before = np.concatenate([[np.inf], np.minimum.accumulate(second)[:-1]])
        return order[second < before]
    rows = values[order]
    alive = np.ones(len(rows), bool)
    for i in range(len(rows)):
        if alive[i]:
            # rows before i were not beaten by it: they come first in the order
            alive[i + 1 :] &= (rows[i + 1 :] < rows[i]).any(axis=1)
    return order[alive]
