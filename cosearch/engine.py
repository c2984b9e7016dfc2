"""The main job, top to bottom: check everything, train the supernet, search, train the finalists, compare, write.

`prepare` does all the checking and writes nothing. The phases after it each leave their results in the run directory
and skip what is there already, so that `resume` is the same road walked again.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cosearch import registry, results
from cosearch.accuracy import (
    AccuracySource,
    PredictorAccuracy,
    SupernetAccuracy,
    TableAccuracy,
    TrainAccuracy,
    require_fractions,
)
from cosearch.config import RunConfig
from cosearch.costs import RESOURCES, AcceleratorCosts, MeasuredCosts, read_table, unknown_device
from cosearch.data import Dataset, load_dataset
from cosearch.errors import ConfigError, CosearchError, InfeasibleError, RunError, UnknownNameError
from cosearch.finalists import Training, load_trained, train_all
from cosearch.hardware.accelerator import Accelerator
from cosearch.hardware.report import layer_report
from cosearch.hardware.tensor import NetworkCost, cost_tensor
from cosearch.progress import Reporter
from cosearch.results import Design, Result
from cosearch.runs import RunDirectory, TrialLog, write_atomic
from cosearch.seeding import numpy_stream
from cosearch.strategies import STRATEGIES, Objectives, make
from cosearch.strategies.base import Candidate, Failure, Told, cheapest
from cosearch.strategies.objectives import MAXIMISED, recommend, undominated
from search_spaces import accelerators, networks
from search_spaces.decisions import Arch

CHECKPOINTS = 12
"""How often a supernet's training is saved."""


PARALLEL_PIXELS = 32 * 32
"""Images from this size on use several threads per operation; for smaller ones the threads wait for each other."""


def start_threads(n: int, pixels: int) -> int:
    """Choose how the CPU threads are used. pixels: of one image.

    Returns: how many networks to evaluate at once; each then has one thread.
    """
    import torch

    inside = n if pixels >= PARALLEL_PIXELS else 1
    torch.set_num_threads(inside)
    return n // inside


def load_problem_data(config: RunConfig) -> tuple[Dataset, Any]:
    """The dataset and the network space made for it.

    Raises: DataError, UnknownNameError, ConfigError.
    """
    factory = networks.find(config.space)
    dataset = load_dataset(config.data, config.data_dir, config.seed)
    return dataset, factory(dataset.input_shape, len(dataset.classes))


@dataclass(frozen=True)
class Problem:
    """All that a search needs, checked. device_name: the part, or the measurement file.

    known_accuracy: the source, if it is a table or a predictor.
    """

    config: RunConfig
    dataset: Dataset
    space: Any
    objectives: Objectives
    costs: AcceleratorCosts | MeasuredCosts
    device_name: str
    known_accuracy: AccuracySource | None

    @cached_property
    def conv_only(self) -> Any | None:
        """The same space restricted to convolutions, if it can be."""
        return self.space.restricted("conv") if hasattr(self.space, "restricted") else None

    def costs_of(self, space: Any) -> Any:
        """The same costs for a sub-space."""
        if isinstance(self.costs, AcceleratorCosts):
            return AcceleratorCosts(space, self.costs.tensor, self.objectives, self.costs.constraints)
        return self.costs


def prepare(config: RunConfig, reporter: Reporter) -> Problem:
    """Check and load everything that can be wrong. Writes nothing.

    Raises: a CosearchError of one line.
    """
    objectives = Objectives(config.objectives, config.min_accuracy)
    registry.find("strategies", STRATEGIES, config.strategy)
    needs_table = config.accuracy in ("table", "predictor")
    if needs_table and config.accuracy_table is None:
        raise ConfigError(f"--accuracy {config.accuracy} needs --accuracy-table FILE (a CSV of arch,accuracy)")
    if config.accuracy_table is not None and not needs_table:
        raise ConfigError(f"--accuracy-table is read with --accuracy table or predictor, not {config.accuracy}")
    dataset, space = load_problem_data(config)
    known = None
    if config.accuracy_table is not None:
        known = _known_accuracy(config.accuracy_table, config.accuracy, space, len(dataset.validation))
    costs, device_name, objectives = _costs(config, space, objectives, reporter)
    costs.fronts([{name: options[-1] for name, options in space.choices.items()}])  # an unknown metric shows here
    _require_feasible(space, costs, config.constraints, device_name)
    return Problem(config, dataset, space, objectives, costs, device_name, known)


def _known_accuracy(path: Path, kind: str, space: Any, images: int) -> AccuracySource:
    """Raises: DataError, ConfigError."""
    table = read_table(path, space, "accuracy")
    require_fractions(table)
    source = TableAccuracy if kind == "table" else PredictorAccuracy
    return source(space, table, images)


def _costs(
    config: RunConfig, space: Any, objectives: Objectives, reporter: Reporter
) -> tuple[AcceleratorCosts | MeasuredCosts, str, Objectives]:
    """Costs, the device's name, and the objectives: of the default ones, those that the device has."""
    if Path(config.device).suffix == ".csv":
        table = read_table(Path(config.device), space, "latency_ms", ("energy_mj",))
        if objectives.names == Objectives().names and "energy_mj" not in table.values:
            objectives = replace(objectives, names=("accuracy", "latency_ms"))
        measured = MeasuredCosts(space, table, objectives, config.constraints)
        spread = ", ".join(f"{name} within {error:.1%}" for name, error in measured.errors.items())
        reporter.say(
            f"Device {config.device}: {len(table.archs)} measured networks; predictions, cross-validated: {spread}. "
            "There is no accelerator to search: the device is given."
        )
        return measured, config.device, objectives
    try:
        device = accelerators.find(config.device, accounting=config.accounting)
    except UnknownNameError as error:
        known = [*accelerators.ACCELERATORS, *accelerators.FAMILIES]
        raise (error if ":" in config.device else unknown_device(config.device, known)) from None
    layers = space.layer_table()
    with reporter.phase(f"pricing {len(layers)} layer shapes", len(layers)) as phase:
        priced = 0

        def advance(done: int, _: int) -> None:
            nonlocal priced
            phase.advance(done - priced)
            priced = done

        tensor = cost_tensor(layers, device, progress=advance)
        phase.advance(len(layers) - priced, f"{len(device):.3g} accelerators on {device.name}")
    return AcceleratorCosts(space, tensor, objectives, config.constraints), device.name, objectives


def _require_feasible(space: Any, costs: Any, constraints: Mapping[str, float], device: str) -> None:
    """Raises: InfeasibleError with the best value that can be reached, if some constraint cannot be met."""
    if not constraints:
        return
    free = _without_constraints(costs)
    for name, limit in constraints.items():
        metric = name.removeprefix("max_")
        arch = cheapest(space, free, metric)
        if arch is None:
            raise InfeasibleError(f"no network of {space.name} runs on {device} at all: choose a larger device")
        least = float(free.fronts([arch])[0].metric(metric).min())
        if least > limit:
            raise InfeasibleError(
                f"--{name.replace('_', '-')} {limit:g} cannot be met: the least that {space.name} reaches on {device} "
                f"is {least:.4g}; raise the limit above it"
            )
    if cheapest(space, costs) is None:
        raise InfeasibleError(
            f"the limits {dict(constraints)} can each be met on {device}, but not together: raise one"
        )


def _without_constraints(costs: Any) -> Any:
    if isinstance(costs, AcceleratorCosts):
        return AcceleratorCosts(costs.space, costs.tensor, Objectives(), None)
    names = ("accuracy", *costs.measurements.values)
    return MeasuredCosts(costs.space, costs.measurements, Objectives(names), None)


def run(config: RunConfig | None = None, **options: Any) -> Result:
    """Search a network and an accelerator together, train the finalist and leave a run directory.

    options: fields of `RunConfig`, over those of `config`.
    Raises: a CosearchError of one line; nothing is written before all inputs are checked.
    """
    given = config.model_dump(exclude_unset=True) if config is not None else {}
    config = RunConfig.make({**given, **options})
    out = config.out if config.out is not None else _free_name(config)
    if out.exists():
        RunDirectory.create(out, config)  # raises the one line that says what to do
    reporter = Reporter(config.quiet)
    from cosearch.supernet.training import torch_device

    torch_device(config.torch_device)
    started = time.monotonic()
    problem = prepare(config, reporter)
    reporter.say(_plan(problem))
    run_directory = RunDirectory.create(out, config.model_copy(update={"out": out}))
    return _carry_out(run_directory, problem, reporter, started)


def _plan(problem: Problem) -> str:
    """The phase budget, in steps: what will be done, before it is."""
    config = problem.config
    searches = 1 + config.baselines * (1 + (problem.conv_only is not None))
    source = (
        f"supernet {config.supernet_epochs} epochs"
        if config.accuracy == "supernet"
        else f"{config.accuracy} accuracies"
    )
    return (
        f"{problem.space.name}: {problem.space.size:.3g} networks for {config.data} on {problem.device_name}. "
        f"Budget: {source}, {searches} searches of {min(config.trials, problem.space.size)} evaluations, "
        f"{searches} finalists x {config.finalist_seeds} trainings of {config.finalist_epochs} epochs."
    )


def resume(path: Path | str, trials: int | None = None, quiet: bool | None = None) -> Result:
    """Continue a run where it stopped, or extend a finished one.

    trials: the new number of accuracy evaluations; None keeps the run's own.
    Raises: RunError if the directory is not a run, or trials is below what was asked before.
    """
    run_directory = RunDirectory.open(Path(path))
    config = run_directory.config
    if trials is not None and trials < config.trials:
        raise ConfigError(f"--trials {trials}: the run has {config.trials} already; give more, or +N for N more")
    update: dict[str, Any] = {"trials": trials or config.trials, "minutes": None}
    if quiet is not None:
        update["quiet"] = quiet
    config = RunConfig.make({**config.model_dump(), **update})
    reporter = Reporter(config.quiet)
    started = time.monotonic()
    problem = prepare(config, reporter)
    with run_directory.locked():
        run_directory.reconfigure(config)
    return _carry_out(run_directory, problem, reporter, started)


def _free_name(config: RunConfig) -> Path:
    stem = f"{config.space.replace(':', '.')}-{Path(config.device).stem}-seed{config.seed}"
    path, n = Path("runs") / stem, 2
    while path.exists():
        path, n = Path("runs") / f"{stem}-{n}", n + 1
    return path


def _carry_out(run: RunDirectory, problem: Problem, reporter: Reporter, started: float) -> Result:
    config = problem.config
    deadline = started + 60 * config.minutes if config.minutes else float("inf")
    at_once = start_threads(config.threads, int(np.prod(problem.dataset.input_shape[1:])))
    seconds: dict[str, float] = {"preparing": time.monotonic() - started}
    with run.locked():
        run.log("start", threads=config.threads, seed=config.seed, data_hash=problem.dataset.content_hash)
        default = _default_accelerator(problem)
        with _timed(seconds, "supernet"):
            accuracy = _accuracy_source(run, problem, reporter, deadline)
        with _timed(seconds, "search"):
            found = _searches(run, problem, accuracy, at_once, reporter, deadline)
        chosen = {name: _recommended(told, problem, accuracy.images) for name, told in found.items()}
        with _timed(seconds, "finalists"):
            _train_finalists(run, [arch for arch, _ in chosen.values()], problem, reporter)
        designs = _designs(run, problem, chosen, default)
        notes = _notes(problem, chosen, designs)
        result = Result(str(run.path), _front_table(found[CO_SEARCH], problem), tuple(designs), tuple(notes))
        _write(run, problem, result, chosen[CO_SEARCH])
        run.log("finished", seconds={name: round(value, 2) for name, value in seconds.items()})
    reporter.say("Time by phase: " + ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()))
    return result


class _timed:
    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self.seconds, self.name = seconds, name

    def __enter__(self) -> None:
        self.started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.name] = time.monotonic() - self.started


BATCH = 20
"""Networks proposed together; a divisor of the strategies' generations."""
CO_SEARCH, CONV_ONLY, RANDOM = "co-search", "conv-only", "random search"
_Chosen = tuple[Arch, int]


def _accuracy_source(run: RunDirectory, problem: Problem, reporter: Reporter, deadline: float) -> AccuracySource:
    config, space, dataset = problem.config, problem.space, problem.dataset
    from cosearch.supernet.training import torch_device

    device = torch_device(config.torch_device)
    if config.accuracy == "supernet":
        return SupernetAccuracy(space, _trained_supernet(run, problem, device, reporter, deadline), dataset, device)
    if config.accuracy == "train":
        return TrainAccuracy(space, dataset, config.finalist_epochs, config.seed, device)
    assert problem.known_accuracy is not None
    return problem.known_accuracy


def _trained_supernet(run: RunDirectory, problem: Problem, device: str, reporter: Reporter, deadline: float) -> Any:
    """Train the space's supernet, or go on from its checkpoint."""
    from cosearch.supernet.checkpoint import restore, save
    from cosearch.supernet.training import make_optimizer, supernet_recipe, train_supernet_epoch

    config, space, dataset = problem.config, problem.space, problem.dataset
    supernet = space.supernet(config.seed).to(device)
    recipe = supernet_recipe(config.supernet_epochs)
    optimizer = make_optimizer(supernet, recipe)
    done = restore(run, supernet, optimizer, space.name, recipe.epochs)

    def path(epoch: int, step: int) -> Any:
        return tuple(space.blocks(space.sample(numpy_stream(config.seed, "path", epoch, step))))

    every = max(1, recipe.epochs // CHECKPOINTS)
    with reporter.phase("training the supernet", recipe.epochs, done) as phase:
        for epoch in range(done, recipe.epochs):
            if time.monotonic() > deadline:
                raise _out_of_time(run)
            loss = train_supernet_epoch(
                supernet, optimizer, path, dataset.train, recipe, config.seed, epoch, dataset.mirror, device
            )
            phase.advance(1, f"loss {loss:.3f}")
            if (epoch + 1) % every == 0 or epoch + 1 == recipe.epochs:
                save(run, supernet, optimizer, space.name, epoch + 1, recipe.epochs)
                run.log("supernet", epoch=epoch + 1, loss=round(loss, 5))
    return supernet


def _out_of_time(run: RunDirectory) -> CosearchError:
    return CosearchError(f"stopped by --minutes; what was done is kept, continue with: cosearch resume {run.path}")


def _searches(
    run: RunDirectory, problem: Problem, accuracy: AccuracySource, at_once: int, reporter: Reporter, deadline: float
) -> dict[str, list[Told]]:
    """The search, and the baselines at equal accuracy evaluations: name -> everything evaluated."""
    strategy = problem.config.strategy
    plans = {CO_SEARCH: (problem.space, strategy)}
    if problem.config.baselines:
        if problem.conv_only is not None:
            plans[CONV_ONLY] = (problem.conv_only, strategy)
        plans[RANDOM] = (problem.space, "random")
    found = {}
    for name, (space, strategy) in plans.items():
        try:
            found[name] = _search(run, problem, name, space, strategy, accuracy, at_once, reporter, deadline)
        except InfeasibleError as error:
            if name == CO_SEARCH:
                raise
            reporter.say(f"{name}: {error}")  # a baseline that the limits rule out is no reason to lose the search
    return found


def _search(
    run: RunDirectory,
    problem: Problem,
    name: str,
    space: Any,
    strategy_name: str,
    accuracy: AccuracySource,
    at_once: int,
    reporter: Reporter,
    deadline: float,
) -> list[Told]:
    config, objectives = problem.config, problem.objectives
    costs = problem.costs_of(space)
    strategy: Any = make(strategy_name, space, costs, objectives, config.seed)
    trials = min(config.trials, space.size)
    log = TrialLog(run, name, space, objectives)
    for candidate, result in log.finished():
        strategy.tell(candidate, result)
    history = strategy.history

    def outcome_of(candidate: Candidate) -> tuple[dict[str, float] | Failure, float]:
        started = time.monotonic()
        return _evaluate(candidate, accuracy, costs, objectives), time.monotonic() - started

    with reporter.phase(f"{name}: {strategy_name}", trials, len(history.told)) as phase, _pool(at_once) as pool:
        while len(history.told) < trials:
            # a batch ends where a generation does, so that what is proposed never depends on the number of threads
            wanted = min(BATCH - len(history.told) % BATCH, trials - len(history.told))
            try:
                batch = strategy.ask(wanted)
            except InfeasibleError as error:
                if not history.told:
                    raise
                reporter.say(f"{name}: {error}")
                run.log("exhausted", study=name, trials=len(history.told))
                break
            for candidate, (outcome, seconds) in zip(batch, pool.map(outcome_of, batch), strict=True):
                device = (
                    costs.accelerator(candidate.arch, candidate.point).name if hasattr(costs, "accelerator") else None
                )
                log.add(candidate, outcome, device, config.accuracy, seconds)
                strategy.tell(candidate, outcome)
                phase.advance(1, f"best accuracy {max((t.accuracy or 0.0) for t in history.told):.4f}")
            if time.monotonic() > deadline:
                raise _out_of_time(run)
    if not any(t.accuracy is not None for t in history.told):
        raise CosearchError(
            f"all {len(history.told)} evaluations of {name} failed: see the trials in {run.path}/study.db"
        )
    return list(history.told)


def _pool(threads: int) -> ThreadPoolExecutor:
    import torch

    inside = torch.get_num_threads()
    return ThreadPoolExecutor(max(1, threads), initializer=lambda: torch.set_num_threads(inside))


def _evaluate(
    candidate: Candidate, accuracy: AccuracySource, costs: Any, objectives: Objectives
) -> dict[str, float] | Failure:
    """An evaluation that fails or gives no number is recorded as such; the search goes on."""
    try:
        value = accuracy(candidate.arch)
    except CosearchError as error:
        return Failure(str(error))
    if not np.isfinite(value):
        return Failure(f"accuracy is {value}")
    [front] = costs.fronts([candidate.arch])
    return {"accuracy": value} | {n: float(front.metric(n)[candidate.point]) for n in objectives.costs}


def _columns(told: Sequence[Told], names: Sequence[str]) -> tuple[dict[str, Any], list[_Chosen]]:
    """Every (network, point of its hardware front) as columns, and what each row is."""
    good = [t for t in told if t.accuracy is not None]
    rows = [(t.candidate.arch, i) for t in good for i in range(len(t.front))]
    columns = {name: np.concatenate([t.front.metric(name) for t in good]) for name in names}
    columns["accuracy"] = np.concatenate([np.full(len(t.front), t.accuracy) for t in good])
    return columns, rows


def _recommended(told: Sequence[Told], problem: Problem, images: int) -> _Chosen:
    columns, rows = _columns(told, problem.objectives.costs)
    return rows[recommend(columns, problem.objectives, images)]


def _front_table(told: Sequence[Told], problem: Problem) -> Any:
    """The front of everything evaluated, best accuracy first. Accuracies are the search's own."""
    import pandas as pd

    metrics = tuple(dict.fromkeys((*problem.objectives.costs, *problem.costs.metrics)))
    columns, rows = _columns(told, metrics)
    keep = np.flatnonzero(undominated(problem.objectives.minimised({n: columns[n] for n in problem.objectives.names})))
    table = pd.DataFrame({"accuracy": columns["accuracy"][keep], **{n: columns[n][keep] for n in metrics}})
    table["accuracy_source"] = problem.config.accuracy
    if isinstance(problem.costs, AcceleratorCosts):
        table["accelerator"] = [problem.costs.accelerator(*rows[i]).name for i in keep]
    import json

    table["arch"] = [json.dumps(rows[i][0]) for i in keep]
    sort = [*problem.objectives.names, "arch"]
    return table.sort_values(sort, ascending=[n not in MAXIMISED for n in sort], ignore_index=True)


def _default_accelerator(problem: Problem) -> Accelerator | None:
    """The least-EDP design for the largest conv-only network, fixed before any search."""
    if isinstance(problem.costs, AcceleratorCosts) and problem.config.baselines and problem.conv_only is not None:
        return problem.costs.least_edp_cost(problem.space.largest("conv")).accelerator(0)
    return None


def _train_finalists(run: RunDirectory, archs: Sequence[Arch], problem: Problem, reporter: Reporter) -> None:
    config = problem.config
    trainings = _trainings(archs, problem)
    open_ones = [t for t in trainings if load_trained(run, t) is None]
    workers = 1 if config.torch_device == "cuda" else config.threads
    epochs = config.finalist_epochs
    with reporter.phase(
        "training finalists, epochs", epochs * len(trainings), epochs * (len(trainings) - len(open_ones))
    ) as phase:
        train_all(run, trainings, workers, phase.advance)


def _trainings(archs: Sequence[Arch], problem: Problem) -> list[Training]:
    unique = {tuple(sorted(arch.items())): arch for arch in archs}.values()
    return [
        Training(arch, problem.config.seed + k, problem.space.workload(arch).macs)
        for arch in unique
        for k in range(problem.config.finalist_seeds)
    ]


def _designs(
    run: RunDirectory, problem: Problem, chosen: Mapping[str, _Chosen], default: Accelerator | None
) -> list[Design]:
    designs = [_design(run, problem, name, arch, point) for name, (arch, point) in chosen.items()]
    by_name = {design.name: design for design in designs}
    if default is not None:
        for name in (CONV_ONLY, CO_SEARCH):
            if name in chosen:
                designs.append(_on_default(by_name[name], problem, default))
    return designs


def _design(run: RunDirectory, problem: Problem, name: str, arch: Arch, point: int) -> Design:
    [front] = problem.costs.fronts([arch])
    trained = [load_trained(run, training) for training in _trainings([arch], problem)]
    done = [t for t in trained if t is not None]
    assert len(done) == len(trained)
    values = {n: float(front.metric(n)[point]) for n in problem.costs.metrics}
    accelerator = problem.costs.accelerator(arch, point).name if isinstance(problem.costs, AcceleratorCosts) else ""
    return Design(
        name,
        arch,
        accelerator,
        values["latency_ms"],
        values.get("energy_mj"),
        {n: values[n] for n in RESOURCES if n in values},
        tuple(t.integer_accuracy for t in done),
        tuple(t.float_accuracy for t in done),
        done[0].images,
        None,
    )


def _on_default(design: Design, problem: Problem, accelerator: Accelerator) -> Design:
    assert isinstance(problem.costs, AcceleratorCosts)
    cost: NetworkCost = problem.costs.on(accelerator, design.arch)
    resources = {n: float(getattr(accelerator.resources, n)) for n in RESOURCES}
    name = f"{design.name} @ default"
    if not cost.feasible:
        return replace(
            design, name=name, accelerator=accelerator.name, latency_ms=None, energy_mj=None, resources=resources,
            infeasible=f"cannot run there: {cost.reason}",
        )  # fmt: skip
    return replace(
        design, name=name, accelerator=accelerator.name, latency_ms=cost.latency_ms, energy_mj=cost.energy_mj,
        resources=resources,
    )  # fmt: skip


def _notes(problem: Problem, chosen: Mapping[str, _Chosen], designs: Sequence[Design]) -> list[str]:
    notes = results.bought(designs)
    if problem.config.baselines and problem.conv_only is not None and CONV_ONLY not in chosen:
        notes.append(f"{CONV_ONLY}: no network of only convolutions meets the limits")
    if CONV_ONLY in chosen and isinstance(problem.costs, AcceleratorCosts):
        notes.append(_sensitivity(problem, chosen[CO_SEARCH], chosen[CONV_ONLY]))
    return notes


FACTORS = (0.5, 2.0)


def _sensitivity(problem: Problem, finalist: _Chosen, baseline: _Chosen) -> str:
    """Whether finalist and baseline keep their order of energy when each modelled unit cost is halved or doubled.

    Under the changed costs each network gets its best accelerator anew, among the array sizes of the two designs.
    """
    costs = problem.costs
    assert isinstance(costs, AcceleratorCosts)
    device: Any = costs.tensor.space
    chosen = [costs.accelerator(*finalist), problem.costs_of(problem.conv_only).accelerator(*baseline)]
    engines = [engine for accelerator in chosen for engine in accelerator.engines]
    sizes = {
        "rows": sorted({engine.rows for engine in engines}),
        "cols": sorted({engine.cols for engine in engines}),
    }
    archs = [finalist[0], baseline[0]]
    used = costs.space.counts(archs, costs.tensor.layers).any(0)
    layers = [layer for layer, needed in zip(costs.tensor.layers, used, strict=True) if needed]

    def ratio(scale: Mapping[str, float]) -> float:
        options = {"accounting": problem.config.accounting, "choices": sizes, "scale_modelled": scale}
        tensor = cost_tensor(layers, accelerators.find(problem.config.device, **options), cache=False)
        priced = AcceleratorCosts(problem.space, tensor, Objectives())
        try:
            ours, theirs = (priced.least_edp_cost(arch).energy_mj for arch in archs)
        except InfeasibleError:
            return float("nan")
        return float(ours[0] / theirs[0])

    base = ratio({})
    changed = {(name, factor): ratio({name: factor}) for name in device.modelled for factor in FACTORS}
    known = {case: value for case, value in changed.items() if np.isfinite(value)}
    turned = [f"{name} x{factor:g}" for (name, factor), value in known.items() if (value < 1) != (base < 1)]
    span = f"energy ratio to conv-only {base:.2f}, {min(known.values()):.2f} to {max(known.values()):.2f}"
    span += "".join(f"; no design fits with {name} x{factor:g}" for name, factor in changed.keys() - known.keys())
    verdict = f"the order turns with {', '.join(turned)}" if turned else "the order of finalist and conv-only holds"
    return f"sensitivity: with each of {len(device.modelled)} modelled unit costs halved and doubled {verdict} ({span})"


def _write(run: RunDirectory, problem: Problem, result: Result, finalist: _Chosen) -> None:
    arch, point = finalist
    write_atomic(run.path / "front.csv", result.front.to_csv(index=False))
    network = {
        "format": "cosearch.network",
        "version": 1,
        "space": problem.config.space,
        "input_shape": list(problem.dataset.input_shape),
        "classes": list(problem.dataset.classes),
        "arch": arch,
    }
    run.write_json("best/network.json", network)
    run.write_json("best/workload.json", problem.space.workload(arch).to_json())
    if isinstance(problem.costs, AcceleratorCosts):
        accelerator = problem.costs.accelerator(arch, point)
        run.write_json("best/accelerator.json", accelerator.to_json())
        run.write_json("best/mapping.json", _mapping_document(problem, arch, accelerator))
    first = _trainings([arch], problem)[0]
    loaded = run.load_tensors(f"{first.name}.safetensors")
    assert loaded is not None
    run.save_tensors("best/weights.safetensors", loaded[0], loaded[1])
    run.write_json(
        "result.json",
        {
            "format": "cosearch.result",
            "version": 1,
            "device": problem.device_name,
            "data": problem.config.data,
            "data_hash": problem.dataset.content_hash,
            "objectives": list(problem.objectives.names),
            "designs": [design.to_json() for design in result.designs],
            "notes": list(result.notes),
        },
    )


def _mapping_document(problem: Problem, arch: Arch, accelerator: Accelerator) -> dict[str, Any]:
    rows = layer_report(problem.space.workload(arch), accelerator)
    return {
        "format": "cosearch.mapping",
        "version": 1,
        "accelerator": accelerator.name,
        "layers": [
            {
                "layer": row.layer.name,
                "engine": row.engine,
                "mapping": row.mapping.to_json() if row.mapping is not None else None,
                "cycles": row.cycles,
                "latency_ms": row.latency_ms,
                "energy_mj": row.energy_mj,
                "utilisation": row.utilisation,
                "bound": row.bound,
            }
            for row in rows
        ],
    }


def load(path: Path | str) -> Result:
    """A finished run, from its files.

    Raises: RunError if it is not one, or not finished.
    """
    import io

    import pandas as pd

    run_directory = RunDirectory.open(Path(path))
    data = run_directory.read_json("result.json")
    try:
        front = pd.read_csv(io.StringIO((run_directory.path / "front.csv").read_text(encoding="utf-8")))
        designs = tuple(Design.from_json(design) for design in data["designs"])
        return Result(str(path), front, designs, tuple(data["notes"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path}: front.csv or result.json is missing or damaged ({error}): write them again with: "
            f"cosearch resume {path}"
        ) from error
