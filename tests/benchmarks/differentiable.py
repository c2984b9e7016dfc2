"""`differentiable` against `bayesian` on the shiftadd space with a trained supernet, by the supernet's forward time.

``python -m tests.benchmarks.differentiable run [--seeds N]`` trains the supernet once, lets `bayesian` evaluate 500 of
its networks, `evolutionary` and `random` 200, and `differentiable` use what 50 evaluations take, for each seed;
``... report`` writes docs/benchmarks/differentiable.md. Supernet, and every run, are kept in the cache.

``... run --space lowrank --equal`` lets all strategies search ranks, as HALOC does, with the supernet time of 50
evaluations each; ``... report --space lowrank --equal`` writes docs/benchmarks/rank_search.md.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cosearch.accuracy import SupernetAccuracy
from cosearch.costs import AcceleratorCosts
from cosearch.data import load_dataset
from cosearch.hardware.tensor import cost_tensor
from cosearch.strategies import Objectives, make
from cosearch.strategies.objectives import undominated
from cosearch.writing import cache_folder
from search_spaces import accelerators, networks
from tests.benchmarks.machine import stamp

ROOT = cache_folder() / "differentiable"
DOCS = Path(__file__).parents[2] / "docs" / "benchmarks"
REFERENCE_TRIALS, BUDGET = 500, 50.0
"""Evaluations of `bayesian`, and what `differentiable` may use, in evaluations."""
TRIALS = {"bayesian": REFERENCE_TRIALS, "differentiable": int(BUDGET), "evolutionary": 200, "random": 200}
"""The last two have what a run has by default."""
EPOCHS = 90
EQUAL = ("differentiable", "bayesian", "evolutionary", "random")
"""Strategies that are compared at equal supernet time."""


class Counted:
    """A supernet as source of accuracies that counts what it takes, in evaluations of whole networks.

    Every network is evaluated twice, by turns: as a search does it, going on from what networks before it have run, and
    whole. What an evaluation or a gradient takes is its processor time over the mean of the whole ones.
    """

    def __init__(self, source: SupernetAccuracy) -> None:
        self.source, self._whole = source, without_memory(source)
        self.seconds: list[float] = []
        self.whole_seconds: list[float] = []
        self.gradient_seconds: list[float] = []

    def __call__(self, arch: dict[str, Any]) -> float:
        uses = (self.source, self.seconds), (self._whole, self.whole_seconds)
        found = []
        for use, seconds in uses if len(self.seconds) % 2 else uses[::-1]:
            started = time.process_time()
            found.append(use(arch))
            seconds.append(time.process_time() - started)
        np.testing.assert_equal(*found)
        return found[0]

    def gradient(self, arch: dict[str, Any]) -> tuple[float, dict[str, float]]:
        started = time.process_time()
        found = self.source.gradient(arch)
        self.gradient_seconds.append(time.process_time() - started)
        return found

    @property
    def parts(self) -> list[float]:
        """What each evaluation took, in evaluations of whole networks."""
        return [seconds / self._unit for seconds in self.seconds]

    @property
    def gradient_cost(self) -> float:
        """The mean of what a gradient took."""
        return float(np.mean(self.gradient_seconds or [0.0])) / self._unit

    @property
    def used(self) -> float:
        return (sum(self.seconds) + sum(self.gradient_seconds)) / self._unit

    @property
    def _unit(self) -> float:
        """Seconds; before the first evaluation so many that nothing was used."""
        return float(np.mean(self.whole_seconds or [math.inf]))


def without_memory(source: SupernetAccuracy) -> SupernetAccuracy:
    """The same that runs every network whole."""
    return SupernetAccuracy(source.space, source.supernet, source.dataset, remembered_bytes=0)


def warm_up(source: SupernetAccuracy) -> None:
    """Load and compile what evaluations and gradients need, which is no part of their time."""
    rng = np.random.default_rng(0)
    unused = SupernetAccuracy(source.space, source.supernet, source.dataset)
    for arch in [source.space.sample(rng) for _ in range(5)]:
        unused(arch)
        source.gradient(arch)


def problem(space_name: str) -> tuple[Any, Any, SupernetAccuracy]:
    """Space, costs on the default FPGA, and the trained supernet, on digits."""
    import torch

    from cosearch.supernet import recipes
    from cosearch.supernet.training import make_optimizer, supernet_recipe, train_supernet_epoch

    data = load_dataset("digits", None, 0)
    space = networks.find(space_name)(data.input_shape, len(data.classes))
    supernet, path = space.supernet(0), ROOT / f"{space_name}.pt"
    if not path.is_file():
        settings = supernet_recipe(EPOCHS)
        recipe = recipes.make("uniform", space, supernet, 0, settings)
        optimizer = make_optimizer(supernet, settings)
        for epoch in range(EPOCHS):
            train_supernet_epoch(recipe, optimizer, data.train, 0, epoch, data.mirror, "cpu")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(supernet.state_dict(), path)
    supernet.load_state_dict(torch.load(path, weights_only=True))
    return space, costs_of(space), SupernetAccuracy(space, supernet, data)


def costs_of(space: Any) -> AcceleratorCosts:
    return AcceleratorCosts(space, cost_tensor(space.layer_table(), accelerators.find("fpga")), Objectives())


def search(
    name: str, space_name: str, seed: int, evaluations: float = math.inf, budget: float = math.inf
) -> dict[str, Any]:
    """One search of so many networks, or until its supernet time is spent, in evaluations.

    Returns: networks with their accuracies, and what they took.
    """
    space, costs, source = problem(space_name)
    warm_up(source)
    accuracy = Counted(source)
    options = {"gradient": accuracy.gradient} if name == "differentiable" else {}
    strategy = make(name, space, costs, Objectives(), seed, **options)
    found: list[Any] = []
    started = time.process_time()
    while len(found) < evaluations:
        [candidate] = strategy.ask()
        if accuracy.used + 1.0 > budget:
            break
        value = accuracy(candidate.arch)
        strategy.tell(candidate, {"accuracy": value})
        found.append([candidate.arch, value])
        if len(found) % 50 == 0:
            print(f"{name} {space_name} seed {seed}: {len(found)} networks", flush=True)
    return {
        "networks": found,
        "parts": accuracy.parts,
        "gradients": len(accuracy.gradient_seconds),
        "gradient_cost": accuracy.gradient_cost,
        "used": accuracy.used,
        "seconds": time.process_time() - started - sum(accuracy.whole_seconds),
    }


def run_path(name: str, space_name: str, seed: int, trials: int) -> Path:
    return ROOT / "timed" / f"{space_name}.{name}.{trials}.{seed}.json"


def kept(name: str, space_name: str, seed: int, trials: int) -> dict[str, Any]:
    """A run of so many evaluations, or of their time if that is what is asked for."""
    path = run_path(name, space_name, seed, trials)
    if not path.is_file():
        how = {"budget": BUDGET} if trials == int(BUDGET) else {"evaluations": trials}
        result = search(name, space_name, seed, **how)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result), encoding="utf-8")
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def front(costs: Any, found: Sequence[Any]) -> np.ndarray:
    """[n, (error, log latency, log energy)] of the networks on their whole hardware fronts, undominated."""
    rows = [np.zeros((0, 3))]
    for arch, accuracy in found:
        [hardware] = costs.fronts([arch])
        ms, mj = hardware.metric("latency_ms"), hardware.metric("energy_mj")
        rows.append(np.column_stack([np.full(len(ms), 1.0 - accuracy), ms, mj]))
    points = np.concatenate(rows)
    return points[undominated(points)]


def volumes(fronts: Sequence[np.ndarray], reference: np.ndarray) -> list[float]:
    """Hypervolume of each front; reference point: the nadir of one front and 10% of its range."""
    import moocore

    low, high = reference.min(0), reference.max(0)
    high = high + 0.1 * (high - low)
    scaled = [(f - low) / (high - low) for f in fronts]
    return [
        float(moocore.hypervolume(f[(f < 1).all(1)], ref=np.ones(3))) if (f < 1).all(1).any() else 0.0 for f in scaled
    ]


def equal_page(space_name: str, seeds: int) -> list[str]:
    """All strategies at equal supernet time, on one space."""
    return [
        "# Rank search at equal supernet time",
        "",
        f"The {space_name} space: every block's rank, kernel and width, on digits, the default FPGA, a supernet of",
        f"{EPOCHS} epochs. `differentiable` relaxes the choices of rank, as HALOC does, with the cost tensor as its",
        f"table of latencies; each strategy has the supernet's forward time of {BUDGET:.0f} evaluations, gradients",
        "included.",
        f"Made by `python -m tests.benchmarks.differentiable run --space {space_name} --equal` and `report`.",
        "Hypervolume of (error, latency, energy) over whole hardware fronts, as a part of that of what all strategies",
        "found together with that seed; reference point: the nadir of that front and 10% of its range. Accuracies are",
        "the supernet's, costs are modelled. The strategies' defaults were chosen elsewhere. A front of accurate and",
        "cheap networks has a narrow range, so that of networks beyond its nadir, as most of random ones, none counts.",
        "",
        stamp("moocore"),
        "",
        *equal_table(space_name, seeds),
    ]


def equal_table(space_name: str, seeds: int) -> list[str]:
    costs = costs_of(networks.find(space_name)())
    lines = ["| seed | " + " | ".join(EQUAL) + " |", "| --- |" + " --- |" * len(EQUAL)]
    shares = []
    for seed in range(seeds):
        paths = [run_path(name, space_name, seed, int(BUDGET)) for name in EQUAL]
        if not all(path.is_file() for path in paths):
            continue
        runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        fronts = [front(costs, run["networks"]) for run in runs]
        together = np.concatenate(fronts)
        together = together[undominated(together)]
        whole, *volume = volumes([together, *fronts], together)
        shares.append([v / whole for v in volume])
        cells = [f"{s:.1%} ({len(run['networks'])})" for s, run in zip(shares[-1], runs, strict=True)]
        lines.append(f"| {seed} | " + " | ".join(cells) + " |")
    if shares:
        lines.append("| median | " + " | ".join(f"**{m:.1%}**" for m in np.median(shares, axis=0)) + " |")
        lines += [
            "",
            "In brackets the networks evaluated; what they begin with runs once, and gradients take time too.",
        ]
    return lines


def page(seeds: int) -> list[str]:
    """The report on every space of which there are runs of both strategies."""
    lines = [
        "# Differentiable search against Bayesian search",
        "",
        "A trained supernet on digits, the default FPGA; `python -m tests.benchmarks.differentiable run` and `report`.",
        "The unit is the supernet's forward time for one evaluation of a whole network (recalibration, 357 images in",
        "simulated 8 bits), in processor time, taken by turns: an evaluation goes on from what networks before it have",
        "run and counts as what it takes, a gradient (forward and backward, 64 images) likewise. That holds for all",
        "strategies: the table has what bayesian's 500 networks took, and what it reaches in the time of 50.",
        "Hypervolume of (error, latency, energy) over whole hardware fronts; reference point: the nadir of the front",
        "that bayesian found in 500 evaluations of the same seed and 10% of its range. Accuracies are the supernet's,",
        "costs are modelled. The values of lambda were widened once after seed 0 of shiftadd was seen; of how many",
        "images gradients are, and the size of the refinement's pool, were chosen on six seeds of butterfly. How many",
        "of the networks that are drawn in a large space are priced was decided on shiftadd itself, with the supernets",
        "of three seeds of the main job. An earlier page, on which every network was run whole and 16 gradients taken,",
        "had 78.1 to 92.5% for seeds 0 to 2 of shiftadd (another machine's supernet). That values are reused and, by",
        "six seeds of butterfly, that 4 gradients are taken, came after it; seeds 3 and 4 had not been run before.",
        "",
        stamp("moocore"),
    ]
    references = (ROOT / "timed").glob(f"*.bayesian.{REFERENCE_TRIALS}.*")
    for space_name in sorted({path.name.split(".")[0] for path in references}):
        lines += ["", f"## {space_name}", "", *_table(space_name, seeds)]
    return lines


def _table(space_name: str, seeds: int) -> list[str]:
    _, costs, _ = problem(space_name)
    lines = [
        "| seed | differentiable / bayesian at 500 | networks | gradients, each | used, in evaluations "
        "(bayesian at 500) | "
        "bayesian in that time (networks) | at 50 networks | at 100 | at 200 | evolutionary at 200 | random at 200 "
        "| processor seconds: differentiable, bayesian, evolutionary |",
        "| --- |" + " --- |" * 11,
    ]
    shares = []
    for seed in range(seeds):
        paths = [run_path(name, space_name, seed, trials) for name, trials in TRIALS.items()]
        if not all(path.is_file() for path in paths):
            continue
        theirs, ours, evolved, drawn = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
        reference = front(costs, theirs["networks"])
        same_time = int((np.cumsum(theirs["parts"]) <= BUDGET).sum())
        parts = [ours["networks"], *(theirs["networks"][:n] for n in (same_time, 50, 100, 200))]
        parts += [evolved["networks"], drawn["networks"]]
        whole, *volume = volumes([reference, *(front(costs, part) for part in parts)], reference)
        share, *others = (v / whole for v in volume)
        shares.append(share)
        lines.append(
            f"| {seed} | **{share:.1%}** | {len(ours['networks'])} "
            f"| {ours['gradients']}, {ours['gradient_cost']:.2f} | "
            f"{ours['used']:.1f} ({theirs['used']:.0f}) | {others[0]:.1%} ({same_time}) | "
            f"{' | '.join(f'{other:.1%}' for other in others[1:])} | "
            f"{ours['seconds']:.0f}, {theirs['seconds']:.0f}, {evolved['seconds']:.0f} |"
        )
    if shares:
        lines += ["", f"Median {np.median(shares):.1%} of what bayesian reaches with 500, asked for: at least 95%."]
    return lines


def main() -> None:
    import torch

    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--space", default="shiftadd")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--strategies", default=",".join(TRIALS))
    parser.add_argument("--equal", action="store_true", help=f"{', '.join(EQUAL)}: {BUDGET:.0f} evaluations each")
    arguments = parser.parse_args()
    if arguments.what == "run":
        for seed in range(arguments.seeds):
            for name in EQUAL if arguments.equal else arguments.strategies.split(","):
                kept(name, arguments.space, seed, int(BUDGET) if arguments.equal else TRIALS[name])
        return
    DOCS.mkdir(parents=True, exist_ok=True)
    if arguments.equal:
        lines = equal_page(arguments.space, arguments.seeds)
        (DOCS / "rank_search.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return
    (DOCS / "differentiable.md").write_text("\n".join(page(arguments.seeds)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
