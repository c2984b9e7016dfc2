"""What networks cost on a device, for strategies: known before anything is trained.

`AcceleratorCosts` prices a network on every accelerator of a space, exactly; `JointCosts` a network on one accelerator,
where there are too many to tabulate; `PublishedCosts` prices it on a published simulator, by its rules; `MeasuredCosts`
predicts latency (and energy) on one device from a table of measurements, and has no accelerator axis.
"""

import io
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cosearch.errors import ConfigError, DataError, HardwareError, UnknownNameError, nearest, one_line
from cosearch.expected import ExpectedCosts
from cosearch.export.documents import read_document
from cosearch.hardware.accelerator import Accelerator
from cosearch.hardware.fronts import HardwareFront, NetworkCost, Pipeline
from cosearch.hardware.limits import CONSTRAINTS, checked_limits
from cosearch.hardware.parts import file_format
from cosearch.hardware.published import PublishedCost, PublishedDevice
from cosearch.hardware.report import NetworkReport, network_report
from cosearch.hardware.resources import over_budget
from cosearch.hardware.single import one_accelerator
from cosearch.hardware.tensor import CostTensor, accelerator_tensor, cost_tensor, network_cost, network_pipeline
from cosearch.reading import MOST_DIGITS, require_few_columns
from cosearch.strategies.objectives import Objectives, derive, excess, is_known, split_limit, tightest
from cosearch.workload import Layer, Workload, host_bytes
from search_spaces import accelerators
from search_spaces.accelerators.published import PublishedSpace
from search_spaces.decisions import Arch, Decisions, arch_key, ends, parse_arch, split
from search_spaces.joint import JointSpace

if TYPE_CHECKING:
    import pandas as pd

    from cosearch.hardware.tensor import Build
    from cosearch.progress import Reporter
    from predictors.arch import ArchPredictor

RESOURCES = ("lut", "ff", "dsp", "bram", "uram")
COUNTED: Mapping[str, Callable[[Workload], float]] = {"params": attrgetter("weight_count"), "macs": attrgetter("macs")}
"""What follows from a network alone."""
MOST_RECORDED = 64
"""Points of a front that a run keeps beside a trial."""


@dataclass(frozen=True)
class NetworkFront:
    """A network's hardware front with the metrics that do not depend on the accelerator."""

    hardware: HardwareFront
    params: float
    macs: float

    def __len__(self) -> int:
        return len(self.hardware)

    @property
    def reason(self) -> str:
        """Why it is empty, if it is."""
        return self.hardware.reason

    def metric(self, name: str) -> npt.NDArray[np.float64]:
        if name in ("params", "macs"):
            return np.full(len(self), getattr(self, name))
        return self.hardware.metric(name)


class HardwareCosts(ABC):
    """Networks on accelerators that are designed for them.

    space: of the networks, with the decisions of accelerators if these are searched too; device: of the accelerators.
    """

    fixed: tuple[str, ...] = ("params", "macs")
    """Costs that are the same all over a front."""

    def __init__(
        self, space: Any, device: Any, objectives: Objectives, constraints: Mapping[str, float] | None = None
    ) -> None:
        self.space, self.device = space, device
        self.constraints: Mapping[str, float] = dict(constraints or {})
        self._of_hardware, self._of_rows = _hardware_limits(self.constraints)
        wanted = tuple("latency_ms" if n == "throughput_fps" else n for n in objectives.costs)
        hardware = tuple(n for n in dict.fromkeys(wanted) if n not in ("params", "macs"))
        self.hardware_objectives = hardware or ("latency_ms", "energy_mj")

    def require_searched(self, names: Iterable[str]) -> None:
        """Raises: ConfigError if a network's best accelerators in one of some costs may not be on its front."""
        kept = (*self.fixed, *self.hardware_objectives)
        lacking = [name for name in dict.fromkeys(names) if is_known(name, self.metrics) and not is_known(name, kept)]
        if lacking:
            raise ConfigError(
                f"the costs keep the accelerators that are best in {', '.join(self.hardware_objectives)}, not in "
                f"{', '.join(lacking)}: make the costs with the objectives and the limits of the search"
            )

    @property
    def resources(self) -> tuple[str, ...]:
        """The resources that the device has."""
        return tuple(name for name in RESOURCES if getattr(self.device.budget, name, 0))

    @property
    def metrics(self) -> tuple[str, ...]:
        area = ("area_mm2",) if self.sized else ()
        return ("latency_ms", "energy_mj", *self.resources, *area, "params", "macs")

    @property
    def sized(self) -> bool:
        """Whether accelerators have an area."""
        return bool(self.device.budget.area_um2)

    def fronts(self, archs: Sequence[Arch]) -> "list[NetworkFront | NoFront]":
        return [self.front(arch) for arch in archs]

    @abstractmethod
    def front(self, arch: Arch) -> "NetworkFront | NoFront": ...

    @abstractmethod
    def free(self) -> "HardwareCosts": ...

    def accelerator(self, arch: Arch, point: int) -> Accelerator:
        front = self.front(arch)
        assert isinstance(front, NetworkFront)
        return front.hardware.accelerator(point)

    def on(self, accelerator: Accelerator, arch: Arch) -> NetworkCost:
        """A network on a given accelerator; infeasible with a reason if it cannot run there."""
        workload = self.space.workload(arch)
        return network_cost(workload, accelerator, "edp", host_bytes(workload))

    def pipeline(self, accelerator: Accelerator, arch: Arch) -> Pipeline | None:
        """A network on a given accelerator whose engines work on different images at once; None where none do."""
        workload = self.space.workload(arch)
        return network_pipeline(workload, accelerator, host_bytes(workload))


class AcceleratorCosts(HardwareCosts):
    """Networks of one space on all accelerators of another."""

    def __init__(
        self, space: Any, tensor: CostTensor, objectives: Objectives, constraints: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(space, tensor.space, objectives, constraints)
        self.tensor = tensor
        self._fronts: dict[Hashable, NetworkFront] = {}
        self._runs: dict[Hashable, bool] = {}
        self._hardware: dict[tuple[bytes, float, float], HardwareFront] = {}

    def free(self) -> "AcceleratorCosts":
        return AcceleratorCosts(self.space, self.tensor, _limited(("latency_ms", "energy_mj"), self.constraints))

    def expected(self, limits: Mapping[str, float] | None = None, space: Any = None) -> "ExpectedCosts":
        """What relaxed networks cost, with gradients, under limits beside the constraints.

        space: a part of the networks' space, if not all of it is relaxed.
        """
        of_hardware, others = _hardware_limits({**self.constraints, **(limits or {})})
        return ExpectedCosts(space or self.space, self.tensor, {**of_hardware, **others})

    def front(self, arch: Arch) -> NetworkFront:
        key = self.space.demand_key(arch)  # of a cell space there are a few hundred
        if key not in self._fronts:
            self._fronts[key] = self._priced(arch)
        return self._fronts[key]

    def _priced(self, arch: Arch) -> NetworkFront:
        workload, demand = self._demand(arch)
        same = (demand["counts_row"].tobytes(), demand["live_activation_bytes"], demand["host_bytes"])
        if same not in self._hardware:
            self._hardware[same] = self.tensor.hardware_front(
                objectives=self.hardware_objectives, constraints=self._of_hardware, **demand
            )
        front = NetworkFront(self._hardware[same], float(workload.weight_count), float(workload.macs))
        return _within(front, self._of_rows)

    def runs_within(self, arch: Arch) -> bool:
        """Whether an accelerator runs a network within the limits: whether it has a front, in a part of its time."""
        key = self.space.demand_key(arch)
        if self._of_rows or key in self._fronts:
            return len(self.front(arch)) > 0
        if key not in self._runs:
            demand = self._demand(arch)[1]
            self._runs[key] = self.tensor.runs_within(constraints=self._of_hardware, **demand)
        return self._runs[key]

    def record(self, arch: Arch) -> dict[str, Any] | None:
        """A network's front as JSON, for `recall`; None where there is none, or it would be long."""
        front = self.front(arch)
        if not 0 < len(front) <= MOST_RECORDED:
            return None
        return {"params": front.params, "macs": front.macs, **self.tensor.record(front.hardware)}

    def recall(self, arch: Arch, record: Mapping[str, Any]) -> None:
        """Know a network's front again, under the same objectives and limits. What cannot be read is priced anew."""
        with suppress(ValueError, KeyError, TypeError, IndexError, OverflowError):
            front = NetworkFront(self.tensor.recorded(record), float(record["params"]), float(record["macs"]))
            self._fronts.setdefault(self.space.demand_key(arch), front)

    def _demand(self, arch: Arch) -> tuple[Workload, dict[str, Any]]:
        """A network, and what the cost tensor needs to know of it."""
        workload = self.space.workload(arch)
        demand = {
            "counts_row": self.tensor.counts_of(workload),
            "live_activation_bytes": workload.live_activation_bytes,
            "host_bytes": host_bytes(workload),
        }
        return workload, demand

    def least_edp_cost(self, arch: Arch) -> HardwareFront:
        """The accelerator on which a network has the least energy-delay product, as a front of one point.

        Raises: InfeasibleError.
        """
        return self.tensor.best_accelerator(objective="edp", **self._demand(arch)[1])

    def on(self, accelerator: Accelerator, arch: Arch) -> NetworkCost:
        return self.tensor.evaluate_on(accelerator, objective="edp", **self._demand(arch)[1])


@dataclass(frozen=True)
class NoFront:
    """Of a network on an accelerator that cannot be, or cannot run it. reason: why."""

    reason: str

    def __len__(self) -> int:
        return 0

    def metric(self, name: str) -> npt.NDArray[np.float64]:
        return np.zeros(0)


BY_MAPPING = ("latency_ms", "energy_mj", "edp")
"""The metrics of an accelerator that depend on how layers are mapped to it."""


class JointCosts(HardwareCosts):
    """Networks on accelerators of which there are too many to tabulate: every arch has the decisions of both.

    The front of an arch is of its accelerator alone; it has a point for every mapping policy that no other beats.
    Raises: ConfigError for an objective or a constraint that accelerators do not have.
    """

    fixed = (*HardwareCosts.fixed, *RESOURCES, "area_mm2")

    def __init__(
        self, space: JointSpace, objectives: Objectives, constraints: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(space, space.accelerators, objectives, constraints)
        self._fronts: dict[str, NetworkFront | NoFront] = {}
        for name in (*objectives.costs, *(split_limit(name)[1] for name in self.constraints)):
            if name == "area_mm2" and not self.sized:
                raise ConfigError(f"the area of {self.device.name}'s accelerators is unknown: use other objectives")

    @cached_property
    def sized(self) -> bool:
        built = (_built(self.device, end) for end in ends(self.device.choices))
        return any(isinstance(made, Accelerator) and made.area_mm2 is not None for made in built)

    def free(self) -> "JointCosts":
        return JointCosts(self.space, _limited(("latency_ms", "energy_mj"), self.constraints))

    def front(self, arch: Arch) -> NetworkFront | NoFront:
        key = arch_key(arch)
        if key not in self._fronts:
            self._fronts[key] = self._priced(arch)
        return self._fronts[key]

    def _priced(self, arch: Arch) -> NetworkFront | NoFront:
        network, chosen = split(arch)
        accelerator = _built(self.device, chosen)
        if isinstance(accelerator, str):
            return NoFront(accelerator)
        workload = self.space.network_space.workload(network)
        counts = workload.shape_counts()
        live, crossing = workload.live_activation_bytes, host_bytes(workload)
        wanted = tuple(n for n in self.hardware_objectives if n in BY_MAPPING) or BY_MAPPING[:2]
        limits = {name: value for name, value in self._of_hardware.items() if split_limit(name)[1] in BY_MAPPING}
        try:
            tensor = accelerator_tensor(tuple(counts), accelerator)
            found = tensor.hardware_front(list(counts.values()), live, wanted, limits, crossing)
        except HardwareError as error:
            return NoFront(str(error))
        resources = np.tile(np.array(accelerator.resources.counts, np.int64), (len(found), 1))
        area = np.nan if accelerator.area_mm2 is None else accelerator.area_mm2
        hardware = replace(found, resources=resources, area_mm2=np.full(len(found), area))
        others = {name: value for name, value in self.constraints.items() if name not in limits}
        return _within(NetworkFront(hardware, float(workload.weight_count), float(workload.macs)), others)


def _built(device: Any, chosen: Arch) -> Accelerator | str:
    """The accelerator of some choices within the device's budget, or why there is none.

    Raises: ConfigError if what builds it gives no accelerator.
    """
    try:
        made = device.build(chosen)
    except (ConfigError, HardwareError) as error:
        return str(error)
    if not isinstance(made, Accelerator):
        raise ConfigError(f"{device.name} built {made!r:.60} of {chosen}: expected an Accelerator"[:300])
    area = round((made.area_mm2 or 0.0) * 1e6)
    return over_budget(replace(made.resources, area_um2=area), device.budget) or made


def _hardware_limits(limits: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """(limits that the search over accelerators keeps, those that its fronts are cut by)."""
    kept = [(name, value) for name, value in limits.items() if name in CONSTRAINTS]
    if limits.get("min_throughput_fps", 0.0) > 0.0:
        kept.append(("max_latency_ms", 1e3 / limits["min_throughput_fps"]))
    return tightest(kept), {name: value for name, value in limits.items() if name not in CONSTRAINTS}


def _within(front: NetworkFront, limits: Mapping[str, float]) -> NetworkFront:
    """The points of a front that meet limits."""
    if not limits or not len(front):
        return front
    broken = excess({split_limit(name)[1]: front.metric(split_limit(name)[1]) for name in limits}, limits)
    # 1000 / (1000 / x) may miss x by a rounding
    return replace(front, hardware=front.hardware.take(np.flatnonzero(broken < 1e-12)))


@dataclass(frozen=True)
class PricedNetwork:
    """A network on the accelerator of a device that is best for an objective.

    accelerators: how many it was chosen from; edp_bound: the energy-delay product, mJ ms, that none of them can beat,
    whatever mapping each layer has.
    """

    objective: str
    accelerator: Accelerator
    report: NetworkReport
    accelerators: int
    edp_bound: float


def find_device(device: Any, accounting: str = "element") -> Any:
    """The accelerator space of a device; a space is one already.

    accounting: what the energy of an operation holds: ``element`` or ``operator`` (see `UnitEnergies`).
    Raises: UnknownNameError; ConfigError if the device has no such accounting.
    """
    if not isinstance(device, str):
        own = getattr(device, "accounting", "element")
        if accounting not in ("element", own):
            raise ConfigError(
                f"accounting={accounting!r}: the space given has {own!r}; make it with {accounting!r}, or name it"
            )
        return device
    # crossbars and processors know one accounting only: they are asked for by their name alone
    options = {"accounting": accounting} if accounting != "element" else {}
    try:
        return accelerators.find(device, **options)
    except TypeError as error:
        if options:
            raise ConfigError(f"--accounting {accounting}: {device} knows only 'element'") from error
        if ":" not in device:
            raise
        wanted = "a function without arguments that makes an accelerator space"
        raise ConfigError(f"--device {device}: expected {wanted} ({error})") from error


def device_to_price(device: str, accounting: str = "element") -> Any:
    """What one network can be priced on: a device, or the one accelerator that a design's ``accelerator.json`` holds.

    Raises: what `find_device` raises; RunError for an accelerator file that cannot be read.
    """
    if Path(device).suffix != ".json" or file_format(device) != "cosearch.accelerator":
        return find_device(device, accounting)
    accelerator = read_document(Path(device))
    assert isinstance(accelerator, Accelerator)
    if accounting not in ("element", accelerator.accounting):
        raise ConfigError(f"--accounting {accounting}: the accelerator of {device} has {accelerator.accounting!r}")
    return one_accelerator(accelerator)


def price_workload(
    workload: Workload,
    device: Any,
    objective: str = "edp",
    reporter: "Reporter | None" = None,
    accounting: str = "element",
) -> PricedNetwork:
    """The accelerator of a device that is best for one network, and the network on it layer by layer.

    device, accounting: as `find_device` takes them.
    Raises: UnknownNameError, ConfigError, HardwareError, InfeasibleError.
    """
    space = find_device(device, accounting)
    if isinstance(space, PublishedSpace):
        raise ConfigError(f"{space.name} has no accelerators to choose from: price the network with published_cost")
    checked_limits((objective,), {}, space)
    counts = workload.shape_counts()
    tensor = priced(tuple(counts), space, reporter) if reporter is not None else cost_tensor(tuple(counts), space)
    live, crossing = workload.live_activation_bytes, host_bytes(workload)
    row = list(counts.values())
    accelerator = tensor.best_accelerator(row, objective, None, live, crossing).accelerator(0)
    report = network_report(workload, accelerator, objective, crossing)
    return PricedNetwork(objective, accelerator, report, len(space), tensor.edp_bound(row, live, None, crossing))


def priced(layers: tuple[Layer, ...], space: Any, reporter: "Reporter", build: "Build | None" = None) -> CostTensor:
    """The cost tensor of layers on a device, with its progress shown. build: as `cost_tensor`'s."""
    with reporter.phase(f"pricing {len(layers)} layer shapes", len(layers)) as phase:
        finished = 0

        def advance(done: int, _: int) -> None:
            nonlocal finished
            phase.advance(done - finished)
            finished = done

        tensor = cost_tensor(layers, space, progress=advance, build=build)
        phase.advance(len(layers) - finished, f"{len(space):.3g} accelerators on {space.name}")
    return tensor


def published_cost(workload: Workload, device: Any, accounting: str = "element") -> PublishedCost | None:
    """A network block by block on a device that is a published simulator; None for any other device.

    Raises: what `find_device` raises; HardwareError if the published table charges nothing that the network has.
    """
    space = find_device(device, accounting)
    return _charged(space.device, workload) if isinstance(space, PublishedSpace) else None


def _charged(device: PublishedDevice, workload: Workload) -> PublishedCost:
    cost = device.cost(workload)
    if not cost.blocks:
        raise HardwareError(f"{device.name} prices nothing of {workload.name!r}: its table knows only {device.knows}")
    return cost


def _limited(names: tuple[str, ...], constraints: Mapping[str, float]) -> Objectives:
    """Objectives whose fronts hold the least of every cost that is limited."""
    return Objectives(tuple(dict.fromkeys((*names, *(split_limit(name)[1] for name in constraints)))))


@dataclass(frozen=True)
class PredictedFront:
    """One point: the device is given. workload: of the network, whose parameters and operations are counted when asked
    for.
    """

    values: Mapping[str, float]
    workload: Callable[[], Workload]

    def __len__(self) -> int:
        return 1 if self.values else 0

    def metric(self, name: str) -> npt.NDArray[np.float64]:
        if name in COUNTED and self.values:
            return np.array([float(COUNTED[name](self.workload()))])
        if name not in self.values and is_known(name, self.values):
            return derive(name, self.metric)
        if name not in self.values:
            raise ConfigError(f"a measured device gives no {name!r}: {nearest(name, (*self.values, *COUNTED))}")
        return np.array([self.values[name]])


@dataclass(frozen=True)
class Measurements:
    """Rows of a measurement file. values: metric -> [n]."""

    path: str
    archs: tuple[Arch, ...]
    values: dict[str, npt.NDArray[np.float64]]


class PublishedCosts:
    """Costs on a published simulator: exact by its rules, one device."""

    def __init__(
        self,
        space: Any,
        device: PublishedDevice,
        objectives: Objectives,
        constraints: Mapping[str, float] | None = None,
    ) -> None:
        self.space, self.device = space, device
        self.constraints: Mapping[str, float] = dict(constraints or {})
        for name in (*objectives.costs, *(split_limit(name)[1] for name in self.constraints)):
            if not is_known(name, self.metrics):
                raise ConfigError(
                    f"{device.name} gives no {name!r}, which is an objective or a constraint: "
                    f"choose among {', '.join(self.metrics)} with --objectives"
                )
        self._fronts: dict[str, PredictedFront] = {}

    @property
    def metrics(self) -> tuple[str, ...]:
        return (*self.device.metrics, "params", "macs")

    def fronts(self, archs: Sequence[Arch]) -> list[PredictedFront]:
        return [self._front(arch) for arch in archs]

    def free(self) -> "PublishedCosts":
        return PublishedCosts(self.space, self.device, _limited(self.device.metrics, self.constraints))

    def _front(self, arch: Arch) -> PredictedFront:
        key = arch_key(arch)
        if key not in self._fronts:
            workload = self.space.workload(arch)
            cost = _charged(self.device, workload)
            known = {name: float(getattr(cost, name)) for name in self.device.metrics}
            self._fronts[key] = _given(known, lambda: workload, self.constraints)
        return self._fronts[key]


def _given(
    known: Mapping[str, float], workload: Callable[[], Workload], constraints: Mapping[str, float]
) -> PredictedFront:
    """The one point of a device that is given, or none if it breaks a limit."""
    front = PredictedFront(known, workload)
    broken = excess({split_limit(name)[1]: front.metric(split_limit(name)[1]) for name in constraints}, constraints)
    return front if not np.any(broken) else PredictedFront({}, workload)


COVERAGE = 0.9
"""Of the intervals that predicted costs are given."""


@dataclass(frozen=True)
class Doubt:
    """How far a network's predicted costs are to be believed.

    intervals: metric -> bounds that hold a measured value with probability `COVERAGE`; none of a metric with too few
    measurements to tell. unlike_measured: whether the network is unlike all that were measured: then they promise
    nothing.
    """

    intervals: Mapping[str, tuple[float, float]]
    unlike_measured: bool


class MeasuredCosts:
    """Costs on one device, predicted from a few measured networks by the model that does best in cross-validation."""

    def __init__(
        self,
        space: Any,
        measurements: Measurements,
        objectives: Objectives,
        constraints: Mapping[str, float] | None = None,
        models: "Mapping[str, ArchPredictor] | None" = None,
    ) -> None:
        from predictors.arch import ArchPredictor
        from predictors.shipped import known_pool

        self.space, self.measurements = space, measurements
        self.constraints = dict(constraints or {})
        known = {*measurements.values, "params", "macs"}
        wanted = [*objectives.costs, *(split_limit(name)[1] for name in self.constraints)]
        for name in wanted:
            if not is_known(name, known):
                raise ConfigError(
                    f"{measurements.path} measures no {name!r}, which is an objective or a constraint: "
                    f"choose among {', '.join(sorted(known))} with --objectives"
                )
        self.models = models or {
            metric: _learned(ArchPredictor(space, pool=known_pool(space, metric)), measurements, metric)
            for metric in measurements.values
        }
        self._fronts: dict[str, PredictedFront] = {}

    @property
    def metrics(self) -> tuple[str, ...]:
        return (*self.measurements.values, "params", "macs")

    def fronts(self, archs: Sequence[Arch]) -> list[PredictedFront]:
        """All that are new are predicted at once; to ten digits, which do not depend on how many these are."""
        fresh = {key: arch for key, arch in zip(map(arch_key, archs), archs, strict=True) if key not in self._fronts}
        if fresh:
            means = {metric: model.predict(list(fresh.values()))[0] for metric, model in self.models.items()}
            for at, (key, arch) in enumerate(fresh.items()):
                values = {metric: float(f"{mean[at]:.10g}") for metric, mean in means.items()}
                self._fronts[key] = _given(values, partial(self.space.workload, arch), self.constraints)
        return [self._fronts[arch_key(arch)] for arch in archs]

    @property
    def tells(self) -> bool:
        """Whether the measurements are enough for intervals."""
        return all(map(_tells, self.models.values()))

    def doubts(self, archs: Sequence[Arch]) -> list[Doubt]:
        """Of each network; bounds to ten digits, as `fronts`."""
        bounds = {name: model.interval(archs, COVERAGE) for name, model in self.models.items() if _tells(model)}
        outside = np.any([model.outside(archs) for model in self.models.values()], axis=0)
        return [
            Doubt(
                {name: (float(f"{low[i]:.10g}"), float(f"{high[i]:.10g}")) for name, (low, high) in bounds.items()},
                bool(outside[i]),
            )
            for i in range(len(archs))
        ]

    def free(self) -> "MeasuredCosts":
        limited = _limited(tuple(self.models), self.constraints)
        return MeasuredCosts(self.space, self.measurements, limited, models=self.models)


def _learned(predictor: "ArchPredictor", measurements: Measurements, metric: str) -> "ArchPredictor":
    """Raises: DataError naming file and metric, if nothing can be learned from them."""
    try:
        return predictor.fit(measurements.archs, measurements.values[metric])
    except DataError as error:
        raise DataError(f"{measurements.path}, {metric}: {error}") from error


def _tells(model: "ArchPredictor") -> bool:
    """Whether a model has samples enough for intervals of `COVERAGE`."""
    return model.samples >= model.least_samples(COVERAGE)


def unmeasured_choices(space: Decisions, measurements: "Measurements") -> list[str]:
    """Operators (the first part of a choice's name) that the space offers and no measured network has."""

    def operators(archs: Sequence[Mapping[str, Any]]) -> set[str]:
        return {str(choice).split("_")[0] for arch in archs for choice in arch.values()}

    offered = {str(choice).split("_")[0] for options in space.choices.values() for choice in options}
    return sorted(offered - operators(measurements.archs))


MOST_TABLE_BYTES = 256 << 20
"""Of a file of measurements: more lines than anyone measures, and some gigabytes in memory."""
_LEADING_BLANKS = re.compile(rb"(?:\xef\xbb\xbf)?((?:[ \t]*+(?:\r\n|\n|\r))*+)")


def read_table(
    path: Path, space: Decisions, required: str, optional: tuple[str, ...] = (), costs: bool = False
) -> Measurements:
    """Read ``arch,<required>[,<optional>...]`` from a CSV; arch is JSON, or ``name=choice`` pairs joined by ``;``.

    costs: the values are latencies or energies to learn from, of which none is 0.
    Raises: DataError naming the line.
    """
    import pandas as pd

    from predictors.base import LARGEST

    try:
        with path.open("rb") as file:
            content = file.read(MOST_TABLE_BYTES + 1)
        if len(content) > MOST_TABLE_BYTES:
            raise DataError(f"has more than {MOST_TABLE_BYTES >> 20} MiB, which no measurements need: split it")
        stream = io.BytesIO(content)
        before = _LEADING_BLANKS.match(content)
        assert before is not None  # it matches nothing, too
        stream.seek(before.end())
        require_few_columns(content[before.end() :])
        # further empty lines are counted, so that the line that an error names is the file's
        table = pd.read_csv(stream, dtype={"arch": str}, skip_blank_lines=False, compression=None)
    except FileNotFoundError:
        raise DataError(f"no file {str(path)!r}: check the path") from None
    except (OSError, ValueError, MemoryError, OverflowError) as error:
        raise DataError(f"{path} is not a readable CSV file ({one_line(error)})") from error
    if not isinstance(table.index, pd.RangeIndex):
        raise DataError(f"{path} has lines with more values than columns: put archs that have commas in quotes")
    table = table.dropna(how="all")
    if "arch" not in table or required not in table:
        raise DataError(f"{path} has columns {', '.join(map(str, table.columns))}; expected arch,{required}")
    archs = []
    skipped = before[1].replace(b"\r\n", b"\n")
    lines = table.index.to_numpy() + 2 + skipped.count(b"\n") + skipped.count(b"\r")
    for line, text in zip(lines, table["arch"], strict=True):
        try:
            archs.append(parse_arch(str(text), space))
        except (ConfigError, ValueError) as error:
            raise DataError(f"{path}, line {line}: {error}") from error
    values = {}
    for metric in (required, *(name for name in optional if name in table)):
        column = _numbers(table[metric])
        bad = np.flatnonzero(~np.isfinite(column) | (column < 0))
        if len(bad):
            got = table[metric].iloc[bad[0]]
            raise DataError(f"{path}, line {lines[bad[0]]}: {metric} is {str(got)!r}, expected a number of at least 0")
        bad = np.flatnonzero((column > LARGEST) | (costs & (column == 0)))
        if len(bad):
            got = column[bad[0]]
            expected = f"at most {LARGEST:g}" if got else "more than 0"
            raise DataError(f"{path}, line {lines[bad[0]]}: {metric} is {got:g}, expected a number of {expected}")
        values[metric] = column
    if not archs:
        raise DataError(f"{path} holds no rows: expected arch,{required}")
    return Measurements(str(path), tuple(archs), values)


def _numbers(cells: "pd.Series[Any]") -> npt.NDArray[np.float64]:
    """NaN for what is no number, infinity for whole numbers that floating point does not have."""
    import pandas as pd

    try:
        return pd.to_numeric(cells, errors="coerce").to_numpy(dtype=float)
    except OverflowError:
        large = cells.map(lambda cell: len(str(cell)) > MOST_DIGITS)
        return pd.to_numeric(cells.mask(large, math.inf), errors="coerce").to_numpy(dtype=float)


def unknown_device(name: str, known: Sequence[str]) -> UnknownNameError:
    return UnknownNameError(
        f"unknown device {name!r}: {nearest(name, known)}, or give a device file (.json, .yaml) or measurements (.csv)"
    )
