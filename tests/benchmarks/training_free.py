"""What scores without training say of accuracy: NAS-Bench-201's known accuracies, networks at their initial weights.

``python -m tests.benchmarks.training_free [--networks N]`` writes docs/benchmarks/training_free.md. Needs the package
analog-nasbench (its data file only).
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

from cosearch.data import load_dataset
from cosearch.strategies.pool import features
from hwbench_data.analog import accuracies
from predictors.gp import GaussianProcess
from predictors.training_free import naswot, synflow
from search_spaces.networks import nasbench201
from tests.benchmarks.machine import stamp

REPORT = Path(__file__).parents[2] / "docs" / "benchmarks" / "training_free.md"
IMAGES, SPLITS = 32, 20
TRAINED = (20, 50, 100)
"""Networks that the surrogate is fitted to; it is judged on the others."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=200)
    n = parser.parse_args().networks
    torch.set_num_threads(1)
    data = load_dataset("shapes", None, 0)
    space = nasbench201.space(data.input_shape, len(data.classes))
    images = torch.from_numpy(data.train.x[np.linspace(0, len(data.train) - 1, IMAGES).astype(int)])
    published, rng = np.array(accuracies()), np.random.default_rng(0)
    archs: list[dict[str, Any]] = []
    while len(archs) < n:
        arch = space.sample(rng)
        if nasbench201.connected(arch) and arch not in archs:
            archs.append(arch)
    accuracy = np.array([published[nasbench201.index_of(arch)] for arch in archs])
    scores: dict[str, np.ndarray] = {}
    rows = []
    ways: dict[str, Callable[[dict[str, Any]], float]] = {
        "parameters": lambda a: float(np.log(space.workload(a).weight_count)),
        "operations": lambda a: float(np.log(space.workload(a).macs)),
        "SynFlow": lambda a: synflow(space.build(a, 0)),
        "NASWOT": lambda a: naswot(space.build(a, 0), images),
    }
    for name, score in ways.items():
        started = time.process_time()
        values = np.array([score(arch) for arch in archs])
        milliseconds = 1e3 * (time.process_time() - started) / n
        scores[name] = np.where(np.isfinite(values), values, values[np.isfinite(values)].min())
        tau = kendalltau(scores[name], accuracy).statistic
        good = accuracy >= np.quantile(accuracy, 0.5)
        among = kendalltau(scores[name][good], accuracy[good]).statistic
        rows.append(f"| {name} | {tau:.3f} | {among:.3f} | {milliseconds:.1f} |")
        print(rows[-1], flush=True)
    base, target = features(space, archs), np.log(1 - accuracy + 1e-3)
    with_scores = {
        "encoding and workload, as `bayesian` has": base,
        "and SynFlow": np.column_stack([base, scores["SynFlow"]]),
        "and NASWOT": np.column_stack([base, scores["NASWOT"]]),
        "and both": np.column_stack([base, scores["SynFlow"], scores["NASWOT"]]),
    }
    learned = []
    for name, X in with_scores.items():
        cells = []
        for size in TRAINED:
            found = []
            for split in range(SPLITS):
                order = np.random.default_rng(split).permutation(n)
                fit, rest = order[:size], order[size:]
                model = GaussianProcess(seed=0).fit(X[fit], target[fit])
                found.append(kendalltau(-model.predict(X[rest])[0], accuracy[rest]).statistic)
            cells.append(f"{np.mean(found):.3f}")
        learned.append(f"| {name} | {' | '.join(cells)} |")
        print(learned[-1], flush=True)
    REPORT.write_text(
        "\n".join(
            [
                "# Scores without training",
                "",
                f"{n} random connected cells of NAS-Bench-201 at initial weights, {IMAGES} images of shapes;",
                "Kendall's tau with the published CIFAR-10 accuracies.",
                "Made by `python -m tests.benchmarks.training_free`.",
                "",
                stamp("scipy"),
                "",
                "| score | tau | tau among the better half | processor ms a network |",
                "| --- | --- | --- | --- |",
                *rows,
                "",
                f"As features of the surrogate: tau on the other networks, mean of {SPLITS} splits,",
                "by how many networks it knows:",
                "",
                "| features | " + " | ".join(map(str, TRAINED)) + " |",
                "| --- |" + " --- |" * len(TRAINED),
                *learned,
            ]
        )
        + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
