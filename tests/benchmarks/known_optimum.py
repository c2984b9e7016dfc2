"""Search strategies against a known optimum: NAS-Bench-201's trained accuracies x every accelerator of two spaces.

``python -m tests.benchmarks.known_optimum run [--problems ...] [--algorithms ...] [--minutes M]`` makes runs, each kept
in the cache, so that it can be stopped and continued; ``... report`` writes docs/benchmarks/known_optimum.md and .svg
from those that are there. Needs the package analog-nasbench (its data file only); pymoo takes part if it is installed.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cosearch.config import RunConfig
from cosearch.hardware.pricing import RESIDENCIES
from cosearch.hardware.tensor import CostTensor, cost_tensor, identity_of, keeps
from cosearch.runs import RunDirectory
from cosearch.strategies import Objectives, make
from cosearch.strategies.known import Part, Values
from cosearch.strategies.objectives import undominated
from cosearch.strategies.study import TrialLog
from cosearch.workload import host_bytes
from cosearch.writing import cache_folder
from search_spaces import networks
from search_spaces.accelerators import asic, fpga
from search_spaces.decisions import Arch
from search_spaces.networks import nasbench201
from tests.benchmarks import known_optimum_peers as peers
from tests.benchmarks import known_optimum_report as report

ROOT = cache_folder() / "known_optimum"
SIZES = (len(nasbench201.OPERATIONS),) * len(nasbench201.NAMES)
# the problems are frozen: every choice is named here, whatever the spaces' own become
ECP5 = {
    "rows": (2, 4, 8, 12, 16, 24, 32),
    "cols": (4, 8, 12, 16, 24, 32, 48),
    "dataflow": ("weight-stationary", "output-stationary"),
    "windowed": (False, True),
    "fabric": ("hard", "logic"),
    "accumulator_depth": (512,),
    "zeros": ("compute",),
    "packed": (False,),
    "weight_kib": (36, 72, 144, 288),
    "activation_kib": (18, 36, 72),
    "port_bits": (64, 128, 256, 512),
    "clock_mhz": (75.0, 100.0, 125.0, 150.0),
    "lanes": (8,),
    "weight_memory": ("bram",),
    "activation_memory": ("bram",),
}
NVDLA = {
    "channels": (8, 16, 24, 32, 48, 64, 96, 128),
    "kernels": (4, 8, 12, 16, 24, 32, 48, 64),
    "buffer_kib": (16, 32, 64, 96, 128, 192, 256, 512),
    "accumulator_depth": (32, 64, 128, 256, 512),
    "dram_bits_per_cycle": (32.0, 64.0, 128.0, 256.0),
}
DEVICES: dict[str, Callable[[], Any]] = {
    "fpga": lambda: fpga.space("ecp5-85f", choices=ECP5, accounting="element", kinds=("mac",)),
    "asic": lambda: asic.space("nvdla", choices=NVDLA, accounting="element"),
}
"""Defaults were chosen on fpga-merged alone; see the history of cosearch/strategies."""
VARIANTS = ("merged", "raw")
BUDGET = 800
REPEATS = 10
"""A run ends, as one that never arrives, when it has asked for so many networks per evaluation of its budget."""


def place(arch: Arch) -> int:
    """Place of a cell in the product order of its choices."""
    return int(np.ravel_multi_index([nasbench201.OPERATIONS.index(arch[name]) for name in nasbench201.NAMES], SIZES))


@cache
def all_cells() -> tuple[Arch, ...]:
    space = networks.find("nasbench201")()
    return tuple(space.decode(at) for at in np.ndindex(*SIZES))


@dataclass(frozen=True)
class Table:
    """What everything costs, and how accurate it is. All [15,625] arrays are in the product order of the choices.

    error: of the network that a cell stands for; network: which one that is, -1 for cells without a path.
    cost_class: [15,625] row of `fronts` and `joint`; fronts: per class [points, (latency_ms, energy_mj)].
    joint: [class, accelerator, 2] on each accelerator, infinite where it does not run. axes: name -> [accelerators]
    value of each of an accelerator's own decisions. prices: the name of the costs.
    """

    name: str
    error: np.ndarray
    network: np.ndarray
    cost_class: np.ndarray
    fronts: tuple[np.ndarray, ...]
    joint: np.ndarray
    axes: dict[str, np.ndarray]
    prices: str = ""

    @cached_property
    def exact(self) -> tuple[np.ndarray, np.ndarray]:
        """The joint front by exhaustion: points [n, (error, latency, energy)] and the network of each."""
        ids = np.unique(self.network[self.network >= 0])
        rows = [np.column_stack([np.full(len(f), self.error[i]), f]) for i in ids for f in [self.front(i)]]
        owners = np.repeat(ids, [len(r) for r in rows])
        points = np.concatenate(rows)
        keep = undominated(points)
        return points[keep], owners[keep]

    @cached_property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Ideal and reference point: the nadir of the exact front and 10% of its range."""
        points = self.exact[0]
        low, high = points.min(0), points.max(0)
        return low, high + 0.1 * (high - low)

    @cached_property
    def volume(self) -> float:
        return hypervolume(self, self.exact[0])

    def front(self, network: int) -> np.ndarray:
        return self.fronts[self.cost_class[network]]

    @cached_property
    def limits(self) -> dict[str, tuple[dict[str, float], float]]:
        """Constrained problems: limits, and the least error under them, by exhaustion."""
        low, high = self.exact[0].min(0), self.exact[0].max(0)
        span = high - low
        # limits that leave more than a thousand networks, so that the best of them has to be found
        wanted = {
            "latency": {"max_latency_ms": float(low[1] + 0.5 * span[1])},
            "energy": {"max_energy_mj": float(low[2] + 0.6 * span[2])},
            "both": {
                "max_latency_ms": float(low[1] + 0.6 * span[1]),
                "max_energy_mj": float(low[2] + 0.5 * span[2]),
            },
        }
        return {name: (limits, self.best_error(limits)) for name, limits in wanted.items()}

    def best_error(self, limits: dict[str, float]) -> float:
        bound = np.array([limits.get("max_latency_ms", np.inf), limits.get("max_energy_mj", np.inf)])
        runs = np.array([(front <= bound).all(1).any() for front in self.fronts])
        ids = np.unique(self.network[self.network >= 0])
        return float(self.error[ids][runs[self.cost_class[ids]]].min())


def hypervolume(table: Table, points: np.ndarray) -> float:
    """As a part of the box between ideal and reference point."""
    import moocore

    low, high = table.box
    inside = points[(points < high).all(1)]
    return float(moocore.hypervolume((inside - low) / (high - low), ref=np.ones(3))) if len(inside) else 0.0


@cache
def load(problem: str) -> Table:
    """The tables of a problem such as fpga-merged; made once and kept.

    Raises: DataError if the accuracies are not installed.
    """
    device, variant = problem.split("-")
    path = prices_of(device)
    if not path.is_file():
        _price(device, path)
    with np.load(path, allow_pickle=False) as data:
        sizes, points = data["sizes"], data["points"]
        fronts = tuple(np.split(points, np.cumsum(sizes)[:-1]))
        axes = {name.removeprefix("axis_"): data[name] for name in data.files if name.startswith("axis_")}
        cost_class, joint = data["cost_class"], data["joint"]
    error, network = _accuracies(variant)
    return Table(problem, error, network, cost_class, fronts, joint, axes, path.stem)


PRICES = 1
"""To be raised when `_price` changes what it makes of a cost tensor."""


def prices_of(device: str) -> Path:
    """Where what everything costs on a device is kept: by all that the cost tensor follows from, unit costs included.

    Runs are kept apart: each says of which prices it is.
    """
    space = DEVICES[device]()
    return ROOT / f"{device}-{PRICES}-{identity_of(networks.find('nasbench201')().layer_table(), space)}.npz"


def _accuracies(variant: str) -> tuple[np.ndarray, np.ndarray]:
    """(error, network) of every cell. merged: cells of one effective cell are one network, whose accuracy is the mean
    over the trainings of cells that compute the same; raw: each cell is a network with its own training."""
    from hwbench_data.analog import accuracies

    published = np.array(accuracies())
    order = np.array([nasbench201.index_of(arch) for arch in all_cells()])
    accuracy = published[order]
    network = np.arange(len(order))
    if variant == "merged":
        classes = np.unique([nasbench201.function_class(arch) for arch in all_cells()], return_inverse=True)[1].ravel()
        accuracy = (np.bincount(classes, accuracy) / np.bincount(classes))[classes]
        network = np.array([place(nasbench201.effective(arch)) for arch in all_cells()])
    connected = np.array([nasbench201.connected(arch) for arch in all_cells()])
    return 1.0 - accuracy, np.where(connected, network, -1)


def _price(device: str, path: Path) -> None:
    space = networks.find("nasbench201")()
    layers = space.layer_table()
    counts = space.counts(all_cells(), layers)
    effective = [tuple(nasbench201.effective(arch).values()) for arch in all_cells()]
    known: dict[tuple[Any, ...], tuple[float, float]] = {}
    for arch, key in zip(all_cells(), effective, strict=True):
        if key not in known:
            workload = space.workload(arch)
            known[key] = (workload.live_activation_bytes, host_bytes(workload))
    extra = np.array([known[key] for key in effective])
    classes, cost_class = np.unique(np.hstack([counts, extra]), axis=0, return_inverse=True)
    tensor = cost_tensor(layers, DEVICES[device]())
    fronts, joint = [], []
    for row in classes:
        own = row[:-2].astype(np.int64)
        front = tensor.hardware_front(own, float(row[-2]), host_bytes=float(row[-1]))
        fronts.append(np.column_stack([front.latency_ms, front.energy_mj]))
        joint.append(_everywhere(tensor, own, float(row[-2]), float(row[-1])))
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"axis_{name}": values for name, values in _axes(tensor).items()}
    np.savez(
        path,
        cost_class=cost_class.ravel(),
        sizes=np.array([len(f) for f in fronts]),
        points=np.concatenate(fronts),
        joint=np.array(joint),
        **arrays,
    )


def _everywhere(tensor: CostTensor, counts: np.ndarray, live_bytes: float, crossing: float) -> np.ndarray:
    """[accelerator, 2] latency and energy of a network on every pair of a shared configuration and an engine.

    The mapping policy of least energy-delay product, from the tensor's sums per engine: it has no call for all pairs.
    """
    [kind] = tensor.kinds
    engines = tensor.engines[kind]
    fits = (engines.resources[None] + tensor.shared.resources[:, None] <= np.array(tensor.space.budget.counts)).all(2)
    base = np.array([tensor.host_cost(crossing, at) for at in range(len(tensor.shared))])[:, None, :]
    bits = tensor.weight_bits(counts), 8 * live_bytes
    least = np.full((*fits.shape, 2), np.inf)
    for case, residency in enumerate(RESIDENCIES):
        column = tensor.tables[case].of_shared
        vector = np.stack(tensor.sums("vector", case, counts), axis=-1)[column, 0]
        own = np.stack(tensor.sums(kind, case, counts), axis=-1)[column]
        kept = (residency.weights * bits[0] <= tensor.shared.weight_bits) & (
            residency.activations * bits[1] <= tensor.shared.activation_bits
        )
        allowed = fits & kept[:, None] & keeps(engines, residency, *bits)[None]
        for policy in range(own.shape[1]):
            found = own[:, policy] + vector + base
            with np.errstate(invalid="ignore"):
                better = allowed & np.isfinite(found).all(2) & (found.prod(2) < least.prod(2))
            least[better] = found[better]
    return least.reshape(-1, 2)


def _axes(tensor: CostTensor) -> dict[str, np.ndarray]:
    """An accelerator's own decisions, in the order of `_everywhere`."""
    space: Any = tensor.space
    if hasattr(space, "choice_items") and len(tensor.shared) == 1:
        names = [name for name, _ in space.choice_items]
        grid = np.array(np.meshgrid(*(values for _, values in space.choice_items), indexing="ij"), dtype=float)
        return dict(zip(names, grid.reshape(len(names), -1), strict=True))
    [kind] = tensor.kinds
    engine, shared = tensor.engines[kind], tensor.shared
    own = {n: np.asarray(getattr(engine, n), float) for n in ("rows", "cols", "output_stationary", "windowed", "logic")}
    memory = {
        n: np.asarray(getattr(shared, n), float) for n in ("weight_bits", "activation_bits", "port_bits", "clock_mhz")
    }
    axes = {name: np.tile(values, len(shared)) for name, values in own.items()}
    return axes | {name: np.repeat(values, len(engine.resources)) for name, values in memory.items()}


# -- one run --


class TableCosts:
    """The table's hardware fronts as `Costs`; cells without a path have none, for us and for the peers alike."""

    metrics = ("latency_ms", "energy_mj")

    def __init__(self, table: Table, limits: dict[str, float]) -> None:
        self.table, self.constraints = table, limits
        self._fronts: list[Any] = []
        bound = np.array([limits.get("max_latency_ms", np.inf), limits.get("max_energy_mj", np.inf)])
        for points in table.fronts:
            whole = Values({"latency_ms": points[:, 0], "energy_mj": points[:, 1]}, len(points))
            self._fronts.append(Part(whole, np.flatnonzero((points <= bound).all(1))))
        self._none = Part(Values({}, 0), np.zeros(0, dtype=np.intp))

    def fronts(self, archs: Any) -> list[Any]:
        at = [place(arch) for arch in archs]
        return [self._fronts[self.table.cost_class[i]] if self.table.network[i] >= 0 else self._none for i in at]

    def free(self) -> "TableCosts":
        return TableCosts(self.table, {})


def ours(name: str, table: Table, limits: dict[str, float], seed: int) -> Iterator[int]:
    """Networks in the order in which a strategy of this project evaluates them."""
    objectives = Objectives(("accuracy",)) if limits else Objectives()
    merge = {} if name == "random" else {"merge": table.name.endswith("merged")}
    space = networks.find("nasbench201")()
    strategy = make(name, space, TableCosts(table, limits), objectives, seed, **merge)
    while True:
        [candidate] = strategy.ask()
        network = int(table.network[place(candidate.arch)])
        yield network
        strategy.tell(candidate, {"accuracy": 1.0 - float(table.error[network])})


OURS = ("bayesian", "evolutionary")
LARGEST = {"bayesian": 400, "optuna-gp": 120}
"""Budgets of what is slow; runs also end when 99.9%, or a limit's optimum, is reached. GP's is over three times what
bayesian needs for 99%: arriving later, it could not decide whether a third of its evaluations are enough."""
SEEDS = {"optuna-gp": 5}


def one_run(problem: str, task: str, algorithm: str, mode: str, seed: int) -> dict[str, Any]:
    """task: front, or the name of a limit. mode: networks (whole fronts credited) or joint.

    Returns: the progress after each distinct evaluation: hypervolume as a part of the exact one, or regret.
    """
    table = load(problem)
    limits, optimum = table.limits[task] if task != "front" else ({}, 0.0)
    if algorithm in OURS:
        steps: Iterator[Any] = ((n, None) for n in ours(algorithm, table, limits, seed))
    else:
        steps = peers.run(algorithm, table, limits, mode, seed)
    budget = min(BUDGET, LARGEST.get(algorithm, BUDGET), int((table.network >= 0).sum()))
    started, evaluated, progress = time.process_time(), set[int](), list[float]()
    archive, best, volume = np.zeros((0, 3)), np.inf, 0.0
    for step, (network, point) in enumerate(steps):
        if step > REPEATS * budget or len(progress) >= budget:
            break
        new = network not in evaluated
        evaluated.add(network)
        if task == "front":
            points = table.front(network) if point is None else np.array([point])
            points = np.column_stack([np.full(len(points), table.error[network]), points])
            beyond = points[~(archive[None, :, :] <= points[:, None, :]).all(2).any(1)] if len(archive) else points
            if len(beyond):
                archive = np.vstack([archive, beyond])
                archive = archive[undominated(archive)]
                volume = hypervolume(table, archive) / table.volume
            value = volume
        else:
            best = min(best, table.error[network])
            value = best - optimum
        if new:
            progress.append(value)
        else:
            progress[-1] = value
        if (task == "front" and value >= 0.999) or (task != "front" and value <= 0):
            break
    seconds = time.process_time() - started
    origin = {"commit": report.commit(), "prices": table.prices}
    return {"progress": progress, "cpu_seconds": seconds, "budget": budget, **origin}


def overhead(problem: str, name: str, trials: int) -> dict[str, float]:
    """Median time of a trial, ms, with the evaluation free: proposal, record in a study on disk, and telling."""
    table = load(problem)
    space = networks.find("nasbench201")()
    strategy: Any = make(name, space, TableCosts(table, {}), Objectives(), 0)
    wall, cpu = [], []
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(Path(folder) / "run", RunConfig.make({"space": "nasbench201"}))
        log = TrialLog(run.path, name, space, Objectives())
        for _ in range(trials):
            started, worked = time.monotonic(), time.process_time()
            [candidate] = strategy.ask()
            network = int(table.network[place(candidate.arch)])
            [front] = strategy.history.costs.fronts([candidate.arch])
            result = {n: float(front.metric(n)[candidate.point]) for n in ("latency_ms", "energy_mj")}
            result["accuracy"] = 1.0 - float(table.error[network])
            log.add(candidate, result, None, "table", 0.0)
            strategy.tell(candidate, result)
            wall.append(time.monotonic() - started)
            cpu.append(time.process_time() - worked)
    late = slice(-100, None)
    figures = {"wall_ms": wall, "cpu_ms": cpu, "wall_ms_last_100": wall[late], "cpu_ms_last_100": cpu[late]}
    return {"trials": trials, **{key: round(1e3 * float(np.median(v)), 1) for key, v in figures.items()}}


def path_of(problem: str, task: str, algorithm: str, mode: str, seed: int) -> Path:
    return ROOT / "runs" / problem / task / f"{algorithm}.{mode}.{seed}.json"


def is_kept(job: tuple[str, str, str, str, int]) -> bool:
    """Whether a run was made, with the prices of now."""
    path = path_of(*job)
    return path.is_file() and report.is_of(json.loads(path.read_text(encoding="utf-8")), load(job[0]).prices)


def _kept_run(job: tuple[str, str, str, str, int]) -> str:
    path = path_of(*job)
    if not is_kept(job):
        result = one_run(*job)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(result), encoding="utf-8")
        draft.replace(path)
    return "/".join(map(str, job))


def jobs(problems: list[str], tasks: list[str], algorithms: list[str], modes: list[str], seeds: int) -> list[Any]:
    """Seeds outermost, so that a benchmark that is cut short has all algorithms on fewer seeds."""
    return [
        (problem, task, algorithm, mode, seed)
        for seed in range(seeds)
        for problem in problems
        for task in tasks
        for algorithm in algorithms
        for mode in modes
        if seed < SEEDS.get(algorithm, seeds) and (mode == "networks" or (algorithm not in OURS and task == "front"))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "overhead", "report"))
    parser.add_argument("--problems", default="fpga-merged,asic-merged,fpga-raw,asic-raw")
    parser.add_argument("--tasks", default="front,latency,energy,both")
    parser.add_argument("--algorithms", default=",".join((*OURS, *peers.available())))
    parser.add_argument("--modes", default="networks,joint")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=600.0)
    arguments = parser.parse_args()
    problems = arguments.problems.split(",")
    if arguments.what == "overhead":
        for name, trials in (("evolutionary", 1000), ("bayesian", 500)):
            if name in arguments.algorithms.split(","):
                figures = overhead(problems[0], name, trials)
                ROOT.mkdir(parents=True, exist_ok=True)
                (ROOT / f"overhead-{name}.json").write_text(json.dumps(figures), encoding="utf-8")
                print(name, figures, flush=True)
        return
    if arguments.what == "report":
        report.write({p: load(p) for p in problems}, ROOT / "runs")
        return
    deadline = time.monotonic() + 60 * arguments.minutes
    for problem in problems:
        load(problem)
    lists = (arguments.tasks.split(","), arguments.algorithms.split(","), arguments.modes.split(","))
    open_jobs = [job for job in jobs(problems, *lists, arguments.seeds) if not is_kept(job)]
    with ProcessPoolExecutor(arguments.processes, max_tasks_per_child=50) as pool:
        waiting = iter(open_jobs)
        running = {pool.submit(_kept_run, job) for _, job in zip(range(arguments.processes), waiting, strict=False)}
        while running:
            done = next(as_completed(running))
            running.remove(done)
            print(done.result(), flush=True)
            job = next(waiting, None)
            if job is not None and time.monotonic() < deadline:
                running.add(pool.submit(_kept_run, job))


if __name__ == "__main__":
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = "1"
    main()
