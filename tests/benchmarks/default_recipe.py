"""By which recipe should a run train its supernet, if nobody says? Recipes side by side, at a run's own budgets.

``python -m tests.benchmarks.default_recipe [--recipes a,b]`` trains each supernet as `cosearch run` does, one file per
training in ``--out``, and writes docs/benchmarks/default_recipe.md; what is trained already is not trained again.
On `digits`, which cannot tell rankings apart, it finds the accuracy that the search sees and how far two seeds agree;
on `shapes`, with as many steps as a run on digits has, the agreement with networks trained alone
(hwbench_data/recipes/shiftadd_trained.json). ``--steps`` asks for other numbers of steps on `shapes`.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cosearch.accuracy import SupernetAccuracy
from cosearch.config import RunConfig
from cosearch.data import Dataset, load_dataset
from cosearch.runs import to_json
from cosearch.seeding import numpy_stream
from cosearch.supernet import recipes
from cosearch.supernet.training import make_optimizer, steps_per_epoch, train_supernet_epoch
from cosearch.writing import write_atomic
from search_spaces import networks
from tests.benchmarks.machine import stamp
from tests.benchmarks.rank_agreement import NETWORKS, STUDY, accuracies
from tests.benchmarks.rank_statistics import jackknife, tau

REPORT = Path(__file__).parents[2] / "docs" / "benchmarks" / "default_recipe.md"
COMPARED = ("uniform", "progressive", "sandwich")
DIGITS = {"shiftadd": (0, 1), "hybrid": (0,)}
"""Spaces that are trained on digits, and with which seeds."""
SEEDS = (0, 1)
STEPS = 1440
"""Networks that a run of 90 epochs on digits runs."""
SAMPLED, EVERY = 48, 2
"""Networks evaluated on digits; of how many images of `shapes` one is used."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Job:
    data: str
    space: str
    recipe: str
    seed: int
    steps: int = STEPS

    @property
    def file(self) -> str:
        return f"{self.data}-{self.space}-{self.recipe}-{self.steps}-seed{self.seed}.json"


def jobs(compared: Sequence[str], steps: Sequence[int]) -> Iterator[Job]:
    """Recipes of one seed after each other, so that their times are of one hour."""
    for seed in SEEDS:
        yield from (Job("digits", "shiftadd", recipe, seed) for recipe in compared)
        for many in steps:
            yield from (Job("shapes", "shiftadd", recipe, seed, many) for recipe in compared)
    yield from (Job("digits", "hybrid", recipe, 0) for recipe in compared)


def trained(job: Job, dataset: Dataset, space: Any) -> tuple[recipes.SupernetRecipe, float]:
    """A supernet as a run trains it, and the CPU seconds that this took. On `shapes` for as many steps as are asked."""
    config = RunConfig.make({"space": job.space, "data": job.data, "recipe": job.recipe, "seed": job.seed})
    recipe = recipes.of_run(config, space, "cpu")
    if job.data == "shapes":
        epochs = max(3, round(job.steps / steps_per_epoch(dataset.train, recipe.settings)))
        settings = replace(recipe.settings, epochs=epochs)
        recipe = recipes.make(job.recipe, space, recipe.supernet, job.seed, settings)
    optimizer = make_optimizer(recipe.supernet, recipe.settings)
    started = time.process_time()
    for epoch in range(recipe.settings.epochs):
        train_supernet_epoch(recipe, optimizer, dataset.train, job.seed, epoch, dataset.mirror)
    return recipe, time.process_time() - started


def measure(job: Job) -> Record:
    dataset = load_dataset(job.data)
    space = networks.find(job.space)(dataset.input_shape, len(dataset.classes))
    recipe, seconds = trained(job, dataset, space)
    if job.data == "shapes":
        study = json.loads(STUDY.read_text(encoding="utf-8"))
        assert study["data"] == dataset.content_hash, "the study is of other images"
        archs = [entry["arch"] for entry in study["networks"][:NETWORKS]]
        found = accuracies(recipe.supernet, archs, space, dataset, EVERY)
    else:  # as the search sees them: in the hardware's 8 bits
        source = SupernetAccuracy(space, recipe.supernet, dataset)
        found = [source(space.sample(numpy_stream(0, "default recipe", i))) for i in range(SAMPLED)]
    paths = recipe.settings.epochs * recipe.paths
    paths *= max(1, steps_per_epoch(dataset.train, recipe.settings) // recipe.paths)
    return {"cpu_seconds": seconds, "paths": paths, "val_accuracy": found}


def known(folder: Path, job: Job) -> Record | None:
    file = folder / job.file
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def spread(values: Sequence[float]) -> str:
    """Mean and standard error over seeds."""
    if len(values) < 2:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} +- {np.std(values, ddof=1) / len(values) ** 0.5:.3f}"


def digits_rows(folder: Path, compared: Sequence[str]) -> Iterator[str]:
    for space, seeds in DIGITS.items():
        for recipe in compared:
            records = [r for seed in seeds if (r := known(folder, Job("digits", space, recipe, seed)))]
            if not records:
                continue
            of = [np.array(r["val_accuracy"], dtype=float) for r in records]
            of = [np.where(np.isfinite(a), a, 0.0) for a in of]
            agreement = [tau(a, b) for a, b in combinations(of, 2)]
            yield (
                f"| {space} | {recipe} | {len(records)} | {np.mean([r['paths'] for r in records]):.0f} "
                f"| {np.mean([r['cpu_seconds'] for r in records]):.0f} | {spread([float(a.mean()) for a in of])} "
                f"| {spread([float(np.sort(a)[-len(a) // 4 :].mean()) for a in of])} "
                f"| {f'{np.mean(agreement):.2f}' if agreement else '-'} |"
            )


def shapes_rows(folder: Path, compared: Sequence[str], steps: Sequence[int]) -> Iterator[str]:
    study = json.loads(STUDY.read_text(encoding="utf-8"))["networks"][:NETWORKS]
    alone = np.array([np.mean(list(entry["val_accuracy"].values())) for entry in study])
    longer = [i for i, e in enumerate(study) if len(e.get("longer", {}).get("val_accuracy", {})) > 1]
    nine = np.array([np.mean(list(study[i]["longer"]["val_accuracy"].values())) for i in longer])
    for many in steps:
        for recipe in compared:
            jobs_done = [Job("shapes", "shiftadd", recipe, seed, many) for seed in SEEDS]
            records = [r for job in jobs_done if (r := known(folder, job))]
            if not records:
                continue
            of = np.array([r["val_accuracy"] for r in records])

            def agreement(index: Any, of: Any = of) -> float:
                return float(np.mean([tau(a[index], alone[index]) for a in of]))

            yield (
                f"| {recipe} | {len(records)} | {np.mean([r['paths'] for r in records]):.0f} "
                f"| {np.mean([r['cpu_seconds'] for r in records]):.0f} | {spread([float(a.mean()) for a in of])} "
                f"| {', '.join(f'{tau(a, alone):.2f}' for a in of)} "
                f"| {agreement(np.arange(len(alone))):.2f} +- {jackknife(agreement, len(alone)):.2f} "
                f"| {np.mean([tau(a[longer], nine) for a in of]):.2f} ({len(longer)}) |"
            )


def report(folder: Path, compared: Sequence[str], steps: Sequence[int]) -> str:
    lines = [
        "# The recipe that a run takes by default",
        "",
        "Made by `python -m tests.benchmarks.default_recipe`; see there for what is measured.",
        "",
        stamp(),
        "",
        "Supernets as `cosearch run` trains them, one thread, seconds of the processor, recipes of a seed after each",
        "other. +-: standard error over seeds; of tau over the networks, by jackknife.",
        "",
        "## On digits, at the budget of a run",
        "",
        f"90 epochs. Accuracy of {SAMPLED} sampled networks as the search sees it: 357 validation images, 8 bits.",
        "Two seeds' supernets agree with the tau of the last column; it is no rank agreement with anything true.",
        "",
        "| space | recipe | seeds | networks run | CPU s | mean accuracy | of the best quarter | two seeds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *digits_rows(folder, compared),
        "",
        "## On shapes, at as many steps",
        "",
        "The shiftadd space; tau to the accuracy of the 64 networks of the [study](supernet.md) trained alone for",
        "three epochs (mean of two seeds), of each seed's supernet and on average, and to that after nine, of how many",
        "there are. Batches of 64, with the augmentation of a run; 1,020 validation images.",
        "",
        "| recipe | seeds | networks run | CPU s | mean accuracy | tau by seed | tau | tau, nine epochs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *shapes_rows(folder, compared, steps),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default=",".join(COMPARED))
    parser.add_argument("--steps", default=str(STEPS), help="numbers of training steps on shapes, comma-separated")
    parser.add_argument("--out", type=Path, default=Path("runs") / "default-recipe")
    parser.add_argument("--known", action="store_true", help="only write the page of what is trained")
    arguments = parser.parse_args()
    compared, steps = arguments.recipes.split(","), [int(many) for many in arguments.steps.split(",")]
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for job in () if arguments.known else jobs(compared, steps):
        if known(arguments.out, job) is None:
            record = measure(job)
            write_atomic(arguments.out / job.file, to_json(record))
            mean = np.nanmean(record["val_accuracy"])
            print(f"{job.file}: {record['cpu_seconds']:.0f} s of CPU, mean accuracy {mean:.4f}", flush=True)
    write_atomic(REPORT, report(arguments.out, compared, steps))
    print(REPORT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
