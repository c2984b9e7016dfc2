"""By which recipe should a run train its supernet, if nobody says? Recipes side by side, at a run's own budget.

``python -m tests.benchmarks.default_recipe [--recipes a,b]`` trains each supernet as `cosearch run` does on digits, one
file per training in ``--out``, and writes docs/benchmarks/default_recipe.md; what is trained already is not trained
again. It finds the processor seconds, the accuracy that the search sees, and how far the supernets of two seeds agree.
Digits cannot tell whether rankings are true; tests.benchmarks.rank_agreement does.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cosearch.accuracy import SupernetAccuracy
from cosearch.config import RunConfig
from cosearch.data import load_dataset
from cosearch.runs import to_json
from cosearch.seeding import numpy_stream
from cosearch.supernet import recipes
from cosearch.supernet.training import make_optimizer, steps_per_epoch, train_supernet_epoch
from cosearch.writing import write_atomic
from search_spaces import networks
from tests.benchmarks.machine import stamp
from tests.benchmarks.rank_statistics import tau

REPORT = Path(__file__).parents[2] / "docs" / "benchmarks" / "default_recipe.md"
COMPARED = ("uniform", "progressive", "sandwich")
SEEDS = {"shiftadd": (0, 1), "hybrid": (0,), "fbnet": (0,)}
"""Spaces, and the seeds that they are trained with."""
SAMPLED = 48
"""Networks evaluated."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Job:
    space: str
    recipe: str
    seed: int

    @property
    def file(self) -> str:
        return f"{self.space}-{self.recipe}-seed{self.seed}.json"


def jobs(compared: Sequence[str]) -> Iterator[Job]:
    """Recipes of one seed after each other, so that their times are of one hour."""
    return (Job(space, recipe, seed) for space, seeds in SEEDS.items() for seed in seeds for recipe in compared)


def measure(job: Job) -> Record:
    """A supernet as a run trains it: CPU seconds, networks run, accuracy of sampled networks as the search sees it."""
    dataset = load_dataset("digits")
    space = networks.find(job.space)(dataset.input_shape, len(dataset.classes))
    recipe = recipes.of_run(RunConfig.make({"recipe": job.recipe, "seed": job.seed}), space, "cpu")
    optimizer = make_optimizer(recipe.supernet, recipe.settings)
    started = time.process_time()
    epochs = 0
    while epochs < recipe.epochs:  # some recipes learn on the way that they need fewer
        train_supernet_epoch(recipe, optimizer, dataset.train, job.seed, epochs, dataset.mirror)
        epochs += 1
    seconds = time.process_time() - started
    steps = epochs * max(1, steps_per_epoch(dataset.train, recipe.settings) // recipe.paths)
    source = SupernetAccuracy(space, recipe.supernet, dataset)
    found = [source(space.sample(numpy_stream(0, "default recipe", i))) for i in range(SAMPLED)]
    return {"cpu_seconds": seconds, "paths": steps * recipe.paths, "val_accuracy": np.nan_to_num(found).tolist()}


def known(folder: Path, job: Job) -> Record | None:
    file = folder / job.file
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def row(space: str, recipe: str, records: Sequence[Record]) -> str:
    of = [np.array(record["val_accuracy"]) for record in records]
    agreement = [tau(a, b) for a, b in combinations(of, 2)]
    seconds = ", ".join(f"{record['cpu_seconds']:.0f}" for record in records)
    mean = ", ".join(f"{a.mean():.3f}" for a in of)
    best = ", ".join(f"{np.sort(a)[-len(a) // 4 :].mean():.3f}" for a in of)
    agree = f"{np.mean(agreement):.2f}" if agreement else "-"
    return f"| {space} | {recipe} | {len(records)} | {records[0]['paths']} | {seconds} | {mean} | {best} | {agree} |"


def rows(folder: Path, compared: Sequence[str]) -> Iterator[str]:
    for space, seeds in SEEDS.items():
        for recipe in compared:
            records = [record for seed in seeds if (record := known(folder, Job(space, recipe, seed)))]
            if records:
                yield row(space, recipe, records)


def report(folder: Path, compared: Sequence[str]) -> str:
    lines = [
        "# The recipe that a run takes by default",
        "",
        "Made by `python -m tests.benchmarks.default_recipe`; see there for what is measured.",
        "",
        stamp(),
        "",
        "Supernets as `cosearch run` trains them on digits: 90 epochs, one thread; seconds of the processor, which",
        "other work made longer, recipes of a seed after each other. Accuracy of",
        f"{SAMPLED} sampled networks as the search sees it (357 validation images, 8 bits), and of the best quarter of",
        "them. Two seeds' supernets agree with the tau of the last column: no agreement with anything true, which",
        "[supernet](supernet.md) has, on shapes.",
        "",
        "| space | recipe | seeds | networks run | CPU s | mean accuracy | of the best quarter | tau of two seeds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *rows(folder, compared),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default=",".join(COMPARED))
    parser.add_argument("--out", type=Path, default=Path("runs") / "default-recipe")
    parser.add_argument("--known", action="store_true", help="only write the page of what is trained")
    arguments = parser.parse_args()
    compared = arguments.recipes.split(",")
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for job in () if arguments.known else jobs(compared):
        if known(arguments.out, job) is None:
            record = measure(job)
            write_atomic(arguments.out / job.file, to_json(record))
            mean = np.mean(record["val_accuracy"])
            print(f"{job.file}: {record['cpu_seconds']:.0f} s of CPU, mean accuracy {mean:.4f}", flush=True)
    write_atomic(REPORT, report(arguments.out, compared))
    print(REPORT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
