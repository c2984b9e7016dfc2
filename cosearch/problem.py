"""A search problem, checked: data, network space, device and what networks cost on it. Nothing here writes."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cosearch import registry
from cosearch.accuracy import AccuracySource, BundledAccuracy, PredictorAccuracy, TableAccuracy, require_fractions
from cosearch.blueprint import OPERATORS
from cosearch.config import RunConfig
from cosearch.costs import (
    COVERAGE,
    AcceleratorCosts,
    HardwareCosts,
    JointCosts,
    MeasuredCosts,
    PublishedCosts,
    find_device,
    priced,
    read_table,
    unknown_device,
    unmeasured_choices,
)
from cosearch.data import Dataset, load_dataset
from cosearch.errors import ConfigError, InfeasibleError, RunError, UnknownNameError
from cosearch.hardware.pricing import RESIDENCIES
from cosearch.hardware.tensor import POLICIES, Build
from cosearch.progress import Reporter
from cosearch.seeding import numpy_stream
from cosearch.shortlist import Choice
from cosearch.strategies import STRATEGIES, Objectives
from cosearch.strategies.base import cheapest
from cosearch.strategies.objectives import MAXIMISED, split_limit
from search_spaces import accelerators, networks
from search_spaces.accelerators.published import PublishedSpace
from search_spaces.decisions import Arch, ends
from search_spaces.joint import joined
from search_spaces.networks.space import NetworkSpace


def load_data_and_space(config: RunConfig) -> tuple[Dataset, Any]:
    """The dataset and the network space made for it.

    Raises: DataError, UnknownNameError, ConfigError.
    """
    dataset = load_dataset(config.data, config.data_dir, config.seed)
    return dataset, _space(config, dataset.input_shape, len(dataset.classes))


def _space(config: RunConfig, *made_for: Any) -> Any:
    """made_for: image shape and number of classes; nothing for those that the space itself prefers."""
    factory = networks.find(config.space)
    if not callable(factory):
        raise ConfigError(
            f"--space {config.space}: expected a function (input_shape, num_classes), got {factory!r:.60}"
        )
    try:
        space = factory(*made_for)
    except TypeError as error:
        raise ConfigError(f"--space {config.space} takes no (input_shape, num_classes): {error}") from error
    if not isinstance(space, NetworkSpace):
        raise ConfigError(
            f"--space {config.space} made a {type(space).__name__}, which is no network space: inherit "
            "search_spaces.networks.space.NetworkSpace and give it a description and a blueprint"
        )
    return space


@dataclass(frozen=True)
class Problem:
    """All that a search needs, checked. dataset: None if nothing is trained. space: of networks, or of networks with
    accelerators where these are too many to tabulate.

    config: with a recipe in place of `auto`.
    device_name: the part, or the measurement file. known_accuracy: the source, if it is a table or a predictor.
    costs_are: how costs are known, for people.
    """

    config: RunConfig
    dataset: Dataset | None
    space: Any
    objectives: Objectives
    costs: HardwareCosts | MeasuredCosts | PublishedCosts
    device_name: str
    costs_are: str
    known_accuracy: AccuracySource | None

    @cached_property
    def conv_only(self) -> Any | None:
        """The same space restricted to convolutions, if that leaves something out, and something in every decision."""
        operators = self.space.operators
        if operators == ("conv",) or "conv" not in operators or not self.space.offers("conv"):
            return None
        return self.space.restricted("conv")

    @property
    def pixels(self) -> int:
        """Of one image; 0 if nothing is trained."""
        return math.prod(self.dataset.input_shape[1:]) if self.dataset is not None else 0

    def choice_of(self, arch: Arch, accelerator: str) -> Choice:
        """A network with the point of its hardware front that is an accelerator, by name.

        Raises: RunError if that is not on it.
        """
        if not isinstance(self.costs, HardwareCosts):
            return arch, 0
        [front] = self.costs.fronts([arch])
        names = (self.costs.accelerator(arch, i).name for i in range(len(front)))
        found = next((i for i, name in enumerate(names) if name == accelerator), None)
        if found is None:
            raise RunError(f"{accelerator} is not on the hardware front of its network: was the device changed?")
        return arch, found


def prepare(config: RunConfig, reporter: Reporter, build: "Build | None" = None) -> Problem:
    """Check and load everything that can be wrong. Writes nothing.

    build: prices layers, if not this process; as `cost_tensor`'s.
    Raises: a CosearchError of one line.
    """
    Objectives(config.objectives, config.least_accuracy, config.constraints)  # limits that contradict show here
    objectives = Objectives(config.objectives, config.least_accuracy)
    registry.find("strategies", STRATEGIES, config.strategy)
    if config.accuracy == "predictor" and config.accuracy_table is None:
        raise ConfigError("--accuracy predictor needs --accuracy-table FILE (a CSV of arch,accuracy)")
    if config.accuracy_table is not None and config.accuracy not in ("table", "predictor"):
        raise ConfigError(f"--accuracy-table is read with --accuracy table or predictor, not {config.accuracy}")
    _require_possible_finalists(config)
    dataset, known = None, None
    if config.trains:
        dataset, space = load_data_and_space(config)
        _require_batches(config, dataset)
        config = _with_recipe(config, dataset, space)
        if config.recipe == "fair" and config.accuracy == "supernet":
            fair_updates(config, dataset, space)
        if config.accuracy_table is not None:
            known = _known_accuracy(config.accuracy_table, config.accuracy, space, len(dataset.validation))
    else:
        space = _space(config)
        known = BundledAccuracy(space)
    space, costs, device_name, costs_are, objectives = _costs(config, space, objectives, reporter, build)
    if isinstance(costs, JointCosts):
        _require_separable(config, device_name)
    _require_budget_to_follow(config)
    costs.fronts([ends(space.choices)[1]])  # an unknown metric shows here
    if isinstance(costs, JointCosts):
        _require_some_pair(space, costs, config.seed)
    else:
        _require_feasible(space, costs, config.constraints, device_name)
    return Problem(config, dataset, space, objectives, costs, device_name, costs_are, known)


def _require_possible_finalists(config: RunConfig) -> None:
    if config.finalist_simulated_epochs > config.finalist_epochs:
        raise ConfigError(
            f"--finalist-simulated-epochs {config.finalist_simulated_epochs}: expected at most the "
            f"{config.finalist_epochs} epochs that finalists are trained"
        )
    needs = {"--finalist-start supernet": config.finalist_start == "supernet", "--distil": config.distil}
    for option, given in needs.items():
        if given and config.accuracy != "supernet":
            raise ConfigError(f"{option} needs a supernet, and --accuracy {config.accuracy} trains none: leave it out")


def _require_budget_to_follow(config: RunConfig) -> None:
    """Raises: ConfigError for `guided` where nothing would follow it."""
    if not config.guided:
        return
    if config.accuracy != "supernet":
        raise ConfigError(f"--guided needs a supernet, and --accuracy {config.accuracy} trains none: leave it out")
    if not config.constraints:
        raise ConfigError("--guided needs a limit on hardware to follow, such as --max-latency-ms: give one")
    if config.recipe == "fair":
        raise ConfigError("--guided: --recipe fair runs every choice equally often, whatever the limits: leave one out")


def _with_recipe(config: RunConfig, dataset: Dataset, space: NetworkSpace) -> RunConfig:
    """With the recipe that `auto` stands for, if a supernet is trained."""
    from cosearch.supernet.recipes import AUTO, automatic
    from cosearch.supernet.training import steps_per_epoch, supernet_recipe

    if config.recipe != AUTO or config.accuracy != "supernet":
        return config
    epochs = config.supernet_epochs
    networks = epochs * steps_per_epoch(dataset.train, supernet_recipe(epochs))
    return config.model_copy(update={"recipe": automatic(space.operators, networks)})


def fair_updates(config: RunConfig, dataset: Dataset, space: NetworkSpace) -> tuple[int, int]:
    """How many updates recipe fair makes of a supernet's weights, and how many networks each of them takes.

    Raises: ConfigError if the training is too short for one.
    """
    from cosearch.supernet.sampling import widest_decision
    from cosearch.supernet.training import steps_per_epoch, supernet_recipe

    batches, each = steps_per_epoch(dataset.train, supernet_recipe(1)), widest_decision(space)
    updates = config.supernet_epochs * batches // each
    if not updates:
        raise ConfigError(
            f"--recipe fair: an update takes {each} networks, one a batch, and {config.supernet_epochs} epochs have "
            f"{config.supernet_epochs * batches} batches: give at least --supernet-epochs {-(-each // batches)}, or "
            "another recipe"
        )
    return updates, each


def _require_separable(config: RunConfig, device: str) -> None:
    """Raises: ConfigError for what needs the whole hardware front of a network."""
    needs = {"--guided": config.guided, "--strategy differentiable": config.strategy == "differentiable"}
    for option, given in needs.items():
        if given:
            raise ConfigError(
                f"{option} needs accelerators that can be tabulated, and {device} has too many or only builds them one "
                "at a time: leave it out"
            )


def _require_batches(config: RunConfig, dataset: Dataset) -> None:
    """Raises: DataError if some training of the run would have fewer images than a batch."""
    from cosearch.supernet.training import finalist_recipe, require_batch, supernet_recipe

    if config.accuracy == "supernet":
        require_batch(dataset.train, supernet_recipe(config.supernet_epochs))
    if config.accuracy == "train" or config.finalist_candidates > 1:
        require_batch(dataset.train, finalist_recipe(config.finalist_epochs))
    require_batch(dataset.development(), finalist_recipe(config.finalist_epochs))


def _known_accuracy(path: Path, kind: str, space: Any, images: int) -> AccuracySource:
    """Raises: DataError, ConfigError."""
    table = read_table(path, space, "accuracy")
    require_fractions(table)
    source = TableAccuracy if kind == "table" else PredictorAccuracy
    return source(space, table, images)


def _costs(
    config: RunConfig, space: Any, objectives: Objectives, reporter: Reporter, build: "Build | None"
) -> tuple[Any, HardwareCosts | MeasuredCosts | PublishedCosts, str, str, Objectives]:
    """The part of the space that the device runs, costs, the device's name, how costs are known, and the objectives.

    Of the default objectives, those that the device has.
    """
    if Path(config.device).suffix == ".csv":
        table = read_table(Path(config.device), space, "latency_ms", ("energy_mj",), costs=True)
        if objectives.names == Objectives().names and "energy_mj" not in table.values:
            objectives = replace(objectives, names=("accuracy", "latency_ms"))
        measured = MeasuredCosts(space, table, objectives, config.constraints)
        errors = "; ".join(
            f"{name}: error {model.relative_error:.1%}, guessing the mean {model.relative_spread:.1%}"
            for name, model in measured.models.items()
        )
        unseen = unmeasured_choices(space, table)
        told = f"with {COVERAGE:.0%} intervals" if measured.tells else f"too few for {COVERAGE:.0%} intervals"
        costs_are = f"predicted from {len(table.archs)} measurements ({errors}), {told}"
        reporter.say(f"Device {config.device}: costs are {costs_are}.")
        reporter.say("Errors are relative root mean squares, by cross-validation.")
        for line in dict.fromkeys(model.used for model in measured.models.values() if model.used):
            reporter.say(line)
        for name in (name for name, model in measured.models.items() if model.useless):
            reporter.say(
                f"Predictions of {name} are no better than guessing the mean: check the lines, or measure more."
            )
        reporter.say("There is no accelerator to search: the device is given.")
        if unseen:
            reporter.say(f"Not one measured network has {', '.join(unseen)}: predictions for these are extrapolation.")
        return space, measured, config.device, costs_are, objectives
    try:
        device = find_device(config.device, config.accounting)
    except UnknownNameError as error:
        known = list(dict.fromkeys((*accelerators.ACCELERATORS, *accelerators.FAMILIES)))
        raise (error if ":" in config.device else unknown_device(config.device, known)) from None
    _require_accelerators(config.device, device)
    space = _runnable(space, device, reporter)
    if isinstance(device, PublishedSpace):
        return _published(config, space, objectives, device, reporter)
    if not can_be_tabulated(device, len(space.layer_table())):
        reporter.say(
            f"The {len(device):.3g} accelerators of {device.name} are not tabulated: they are searched together with "
            "the networks, and each pair is priced exactly. No network is on all of them: fronts are not exhaustive."
        )
        space = joined(space, device)
        costs_are = "modelled; accelerators searched with the networks, not exhaustively"
        return space, JointCosts(space, objectives, config.constraints), device.name, costs_are, objectives
    if not len(device):
        raise InfeasibleError(f"the budget of {device.name} is too small for any accelerator: choose a larger device")
    tensor = priced(space.layer_table(), device, reporter, build)
    costs = AcceleratorCosts(space, tensor, objectives, config.constraints)
    return space, costs, device.name, "modelled", objectives


MOST_TABULATED, MOST_TABLE_BYTES = 100_000, 4 << 30
"""Accelerators of a space that need not be tabulated, and bytes of its cost tensor: minutes of work and some memory."""
LAYER_BYTES = 2 * 8 * len(RESIDENCIES) * len(POLICIES)
"""Of one layer on one accelerator."""


def can_be_tabulated(device: Any, layers: int) -> bool:
    """Whether every layer is priced on every accelerator, so that a network's best ones are known exactly."""
    if not hasattr(device, "build"):
        return True
    few = len(device) <= MOST_TABULATED and layers * len(device) * LAYER_BYTES <= MOST_TABLE_BYTES
    return few and hasattr(device, "engines")


def _require_accelerators(name: str, device: Any) -> None:
    """Raises: ConfigError for an object that is no accelerator space."""
    lacking = [attribute for attribute in ("name", "serves") if not hasattr(device, attribute)]
    if lacking:
        raise ConfigError(
            f"--device {name} made a {type(device).__name__}, which is no accelerator space (it has no "
            f"{' and no '.join(lacking)}): make a search_spaces.accelerators.built.BuiltSpace of decisions and a "
            "function that builds an accelerator of them"
        )


def _published(
    config: RunConfig, space: Any, objectives: Objectives, device: PublishedSpace, reporter: Reporter
) -> tuple[Any, PublishedCosts, str, str, Objectives]:
    """What `_costs` returns for a published simulator.

    Raises: HardwareError if its table charges nothing that networks of the space have.
    """
    if objectives.names == Objectives().names:
        objectives = replace(objectives, names=("accuracy", *device.device.metrics))
    costs = PublishedCosts(space, device.device, objectives, config.constraints)
    workload = space.workload(ends(space.choices)[1])
    share = device.device.cost(workload).unpriced_share(workload)
    reporter.say(f"Device {device.name}: costs are by the rules of a published table ({device.device.source}).")
    reporter.say(f"There is no accelerator to search. The table leaves {share:.1%} of the operations uncharged.")
    return space, costs, device.name, "by the rules of a published table", objectives


def _runnable(space: Any, device: Any, reporter: Reporter) -> Any:
    """The networks of a space whose operators the device has engines for."""
    if not space.operators:  # convolutions only, by other names
        return space
    kinds = {kind for served in device.serves.values() for kind in served}
    operators = [operator for operator in space.operators if OPERATORS[operator].kind in kinds]
    if not operators:
        raise InfeasibleError(f"{device.name} has no engine for {', '.join(space.operators)}: choose another device")
    if len(operators) < len(space.operators):
        missing = ", ".join(operator for operator in space.operators if operator not in operators)
        reporter.say(f"{device.name} has no engine for {missing}: networks of {', '.join(operators)} are searched.")
    return space.restricted(*operators)


def _require_feasible(space: Any, costs: Any, constraints: Mapping[str, float], device: str) -> None:
    """Raises: InfeasibleError with the best value that can be reached, if some constraint cannot be met."""
    if not constraints:
        return
    free = costs.free()
    for name, limit in constraints.items():
        side, metric = split_limit(name)
        if (side == "min") != (metric in MAXIMISED):
            continue  # networks are not searched for their largest costs: together with the others, below
        arch = cheapest(space, free, "latency_ms" if metric == "throughput_fps" else metric)
        if arch is None:
            raise InfeasibleError(f"no network of {space.name} runs on {device} at all: choose a larger device")
        values = free.fronts([arch])[0].metric(metric)
        reached = float(values.max() if side == "min" else values.min())
        if (reached < limit) if side == "min" else (reached > limit):
            most, move = ("most", "lower the limit below") if side == "min" else ("least", "raise the limit above")
            raise InfeasibleError(
                f"{_asked(name, limit)} cannot be met: the {most} that {space.name} reaches on {device} is "
                f"{reached:.4g}; {move} it"
            )
    if cheapest(space, costs) is None:
        raise InfeasibleError(
            f"no network of {space.name} was found on {device} that meets "
            f"{', '.join(_asked(*limit) for limit in constraints.items())} together: loosen one"
        )


DRAWN_PAIRS = 32


def _require_some_pair(space: Any, costs: JointCosts, seed: int) -> None:
    """Raises: InfeasibleError with a reason, if no network was found that some accelerator runs within the limits."""
    rng = numpy_stream(seed, "some pair")
    drawn = [space.sample(rng) for _ in range(DRAWN_PAIRS)]
    if any(len(costs.front(arch)) for arch in drawn) or cheapest(space, costs) is not None:
        return
    limits = ", ".join(_asked(*limit) for limit in costs.constraints.items())
    within = f" within {limits} together: loosen one" if limits else ""
    raise InfeasibleError(
        f"no network of {space.name} was found that an accelerator of {costs.device.name} runs{within} "
        f"({costs.front(drawn[-1]).reason})"
    )


def _asked(name: str, limit: float) -> str:
    """A limit as a user gives it."""
    if name in RunConfig.model_fields:
        return f"--{name.replace('_', '-')} {limit:g}"
    side, metric = split_limit(name)
    return f"--constraint '{metric}{'<=' if side == 'max' else '>='}{limit:g}'"


def fingerprint(problem: Problem) -> dict[str, str]:
    """Hashes of what a run depends on beside its configuration; a resumed run must find the same."""

    def digest(content: bytes) -> str:
        return hashlib.sha256(content).hexdigest()

    found = {"space": digest(json.dumps(dict(problem.space.choices)).encode())}
    if problem.dataset is not None:
        found["data"] = problem.dataset.content_hash
    elif isinstance(problem.known_accuracy, BundledAccuracy):
        found["accuracies"] = digest(problem.known_accuracy.values.tobytes())
    if isinstance(problem.costs, HardwareCosts):
        space: Any = problem.costs.device
        found["device and unit costs"] = digest(json.dumps(space.describe(), sort_keys=True, default=str).encode())
    elif isinstance(problem.costs, PublishedCosts):
        found["device"] = digest(problem.costs.device.name.encode())
    else:
        found["measurements"] = digest(Path(problem.config.device).read_bytes())
    if problem.config.accuracy_table is not None:
        found["accuracy table"] = digest(problem.config.accuracy_table.read_bytes())
    return found
