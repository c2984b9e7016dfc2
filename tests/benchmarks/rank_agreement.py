"""Does the supernet rank networks as stand-alone training does? On `shapes`, 64 networks, two seeds each.

``python -m tests.benchmarks.rank_agreement standalone`` trains each network alone, one file per training, and goes on
where it stopped; several may run at once with other ``--seeds``. ``... supernet`` trains one supernet per recipe and
sharing with an equal budget of CPU seconds and evaluates the networks that are done. ``... speed`` times a path in the
supernet beside the same network alone. ``... report`` gathers everything into docs/benchmarks/rank_agreement.json and
writes docs/benchmarks/supernet.md. What that file holds is not trained again.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import kendalltau
from torch.nn import functional as F

from cosearch.blueprint import Blueprint
from cosearch.costs import AcceleratorCosts
from cosearch.data import Dataset, Split, load_dataset
from cosearch.hardware.tensor import cost_tensor
from cosearch.operators.adder import scale_add_gradients
from cosearch.runs import to_json, write_atomic
from cosearch.seeding import numpy_stream
from cosearch.strategies import Objectives
from cosearch.supernet import recipes
from cosearch.supernet.blocks import Network
from cosearch.supernet.evaluation import evaluate
from cosearch.supernet.training import (
    Recipe,
    accuracy,
    adder_parameters,
    make_optimizer,
    train_network,
    train_supernet_epoch,
)
from search_spaces import accelerators, networks
from tests.benchmarks.machine import stamp

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks"
STUDY, REPORT = DOCS / "rank_agreement.json", DOCS / "supernet.md"
DEVICE = "ecp5-85f"
POOL, NETWORKS, QUARTILES = 512, 64, 4
SEEDS = (0, 1)
CALIBRATION = 512
RECIPES_COMPARED = (
    "uniform/separate",
    "uniform/heterogeneous",
    "fair/separate",
    "sandwich/separate",
    "progressive/separate",
    "prune/separate",
)
STANDALONE = Recipe(3, batch_size=32, learning_rate=0.2, rotation_degrees=0.0, scale=0.0, shift_pixels=0.0)
"""Mirrored or not, and otherwise as generated: there are images enough."""

Network_ = dict[str, Any]
Floats = npt.NDArray[np.float64]


def load() -> tuple[Dataset, Any]:
    dataset = load_dataset("shapes")
    return dataset, networks.find("shiftadd")(dataset.input_shape, len(dataset.classes))


def choose(space: Any) -> list[Network_]:
    """A uniform sample, and of each quartile of its latencies the first sixteen: arch, latency, quartile, size."""
    costs = AcceleratorCosts(space, cost_tensor(space.layer_table(), accelerators.find(DEVICE)), Objectives())
    rng = numpy_stream(0, "rank agreement")
    archs = [space.sample(rng) for _ in range(POOL)]
    latency = np.array([front.metric("latency_ms").min() for front in costs.fronts(archs)])
    quartile = np.argsort(np.argsort(latency, kind="stable"), kind="stable") * QUARTILES // POOL
    chosen = sorted(i for q in range(QUARTILES) for i in np.flatnonzero(quartile == q)[: NETWORKS // QUARTILES])
    return [
        {
            "arch": archs[i],
            "latency_ms": float(latency[i]),
            "quartile": int(quartile[i]),
            "macs": space.workload(archs[i]).macs,
            "params": space.workload(archs[i]).weight_count,
        }
        for i in chosen
    ]


def read_study(folder: Path, space: Any, content_hash: str) -> dict[str, Any]:
    """What is known: the published study, and the files of the folder over it.

    A published study of other data or another training is left aside, but for its networks.
    """
    study = json.loads(STUDY.read_text(encoding="utf-8")) if STUDY.exists() else {}
    identity = {"data": content_hash, "recipe": asdict(STANDALONE)}
    sample = study.get("networks") or _sample(folder, space)
    if {key: study.get(key) for key in identity} != identity:
        kept = ("arch", "latency_ms", "quartile", "macs", "params")
        study = {**identity, "networks": [{key: entry[key] for key in kept} for entry in sample]}
    for i, entry in enumerate(study["networks"]):
        for seed in SEEDS:
            file = folder / f"network{i:02}-seed{seed}.json"
            if file.exists():
                record = json.loads(file.read_text(encoding="utf-8"))
                for key in ("val_accuracy", "cpu_seconds"):
                    entry.setdefault(key, {})[str(seed)] = record[key]
    for name in RECIPES_COMPARED:
        file = supernet_file(folder, name)
        if file.exists():
            study.setdefault("supernets", {})[name] = json.loads(file.read_text(encoding="utf-8"))
    if (folder / "speed.json").exists():
        study["speed"] = json.loads((folder / "speed.json").read_text(encoding="utf-8"))
    return study


def _sample(folder: Path, space: Any) -> list[Network_]:
    """The networks of the study, chosen once: a later cost model must not change them."""
    file = folder / "networks.json"
    if not file.exists():
        write_atomic(file, to_json(choose(space)))
    found: list[Network_] = json.loads(file.read_text(encoding="utf-8"))
    return found


def complete(study: dict[str, Any]) -> list[int]:
    """The networks that have been trained alone with every seed."""
    return [i for i, e in enumerate(study["networks"]) if all(str(s) in e.get("val_accuracy", {}) for s in SEEDS)]


# -- each network alone --


def pending(study: dict[str, Any], seeds: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(network, seed) that are not trained, a network's seeds together."""
    return (
        (i, seed)
        for i, entry in enumerate(study["networks"])
        for seed in seeds
        if str(seed) not in entry.get("val_accuracy", {})
    )


def standalone(folder: Path, seeds: Sequence[int]) -> None:
    dataset, space = load()
    study = read_study(folder, space, dataset.content_hash)
    for i, seed in pending(study, seeds):
        file = folder / f"network{i:02}-seed{seed}.json"
        if file.exists():  # by another process since
            continue
        network = space.build(study["networks"][i]["arch"], seed)
        started = time.process_time()
        train_network(network, dataset.train, STANDALONE, seed, dataset.mirror)
        seconds = time.process_time() - started
        found = accuracy(network, dataset.validation)
        write_atomic(file, to_json({"val_accuracy": found, "cpu_seconds": seconds}))
        print(f"network {i} seed {seed}: {found:.4f} in {seconds:.1f} s of CPU", flush=True)


# -- supernets --


def supernet_file(folder: Path, name: str) -> Path:
    return folder / f"supernet-{name.replace('/', '-')}.json"


def made_recipe(space: Any, name: str, epochs: int) -> recipes.SupernetRecipe:
    """name: RECIPE/SHARING."""
    recipe, sharing = name.split("/")
    supernet = space.supernet(0, sharing == "heterogeneous")
    return recipes.make(recipe, space, supernet, 0, replace(STANDALONE, epochs=epochs))


def path_seconds(space: Any, name: str, dataset: Dataset, steps: int = 40) -> float:
    """CPU seconds that a recipe takes for one network of a step, on a supernet that is thrown away."""
    recipe = made_recipe(space, name, 3)
    optimizer = make_optimizer(recipe.supernet, recipe.settings)
    images = steps * STANDALONE.batch_size
    few = Split(dataset.train.x[:images], dataset.train.y[:images])
    train_supernet_epoch(recipe, optimizer, few, 0, 0, dataset.mirror)  # compiles and warms up
    started = time.process_time()
    train_supernet_epoch(recipe, optimizer, few, 0, 1, dataset.mirror)
    return (time.process_time() - started) / (recipe.paths * max(1, steps // recipe.paths))


def train_supernet(folder: Path, name: str, budget: float) -> None:
    """Train one supernet for about `budget` seconds of CPU and evaluate the networks of the study."""
    dataset, space = load()
    batches = len(dataset.train) // STANDALONE.batch_size
    epochs = max(3, round(budget / (batches * path_seconds(space, name, dataset))))
    recipe = made_recipe(space, name, epochs)
    optimizer = make_optimizer(recipe.supernet, recipe.settings)
    started = time.process_time()
    for epoch in range(epochs):
        loss = train_supernet_epoch(recipe, optimizer, dataset.train, 0, epoch, dataset.mirror)
        print(f"{name}: epoch {epoch + 1} of {epochs}, loss {loss:.3f}", flush=True)
    seconds = time.process_time() - started
    study = read_study(folder, space, dataset.content_hash)
    done = complete(study)
    spread = np.linspace(0, len(dataset.train) - 1, CALIBRATION).astype(int)
    found = evaluate(
        recipe.supernet,
        [space.blueprint(study["networks"][i]["arch"]) for i in done],
        torch.from_numpy(dataset.train.x[spread]),
        torch.from_numpy(dataset.validation.x),
        torch.from_numpy(dataset.validation.y),
        simulate=False,
    )
    record = {
        "val_accuracy": dict(zip(map(str, done), found, strict=True)),
        "cpu_seconds": seconds,
        "epochs": epochs,
        "paths": epochs * recipe.paths * max(1, batches // recipe.paths),
        "parameters": sum(p.numel() for p in recipe.supernet.parameters()),
    }
    write_atomic(supernet_file(folder, name), to_json(record))
    print(f"{name}: {seconds:.0f} s of CPU, mean accuracy {np.mean(found):.4f}", flush=True)


# -- speed --


def path_ratio(space: Any, name: str, batch: int = 64, steps: int = 2, repeats: int = 3) -> float:
    """Time of a recipe's training steps over that of the same networks alone, side by side, least of repeats."""
    recipe = made_recipe(space, name, 8)
    supernet = recipe.supernet
    optimizer = make_optimizer(supernet, recipe.settings)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, *space.blueprint(space.largest()).input_shape, generator=generator)
    y = torch.arange(batch) % 10
    seen: list[Blueprint] = []
    forward = supernet.forward

    def spied(x: torch.Tensor, blueprint: Blueprint, *others: Any, **more: Any) -> torch.Tensor:
        seen.append(blueprint)
        return forward(x, blueprint, *others, **more)

    ratios = []
    for step in range(steps):
        epoch = 7  # the last stage of every recipe

        def together(epoch: int = epoch, step: int = step) -> None:
            optimizer.zero_grad(set_to_none=True)
            recipe.step(x, y, epoch, step)
            recipe.after_backward(epoch)
            scale_add_gradients(supernet.adder_parameters(), 0.5, used_only=True)
            optimizer.step()
            recipe.after_step(epoch)

        seen.clear()
        supernet.forward = spied  # type: ignore[method-assign]
        together()
        supernet.forward = forward  # type: ignore[method-assign]
        alone = [alone_step(blueprint, x, y) for blueprint in seen]
        for run in alone:
            run()
        least = [min(times) for times in zip(*(_timed([together, *alone]) for _ in range(repeats)), strict=True)]
        ratios.append(least[0] / sum(least[1:]))
    return float(np.median(ratios))


def alone_step(blueprint: Blueprint, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    network = Network(blueprint).train()
    optimizer = make_optimizer(network, STANDALONE)
    adders = adder_parameters(network)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(network(x), y, label_smoothing=0.05).backward()
        scale_add_gradients(adders, 0.5, used_only=True)
        optimizer.step()

    return run


def _timed(runs: Sequence[Callable[[], None]]) -> list[float]:
    found = []
    for run in runs:
        started = time.process_time()
        run()
        found.append(time.process_time() - started)
    return found


def evaluation_seconds(precision: Any, count: int = 6) -> float:
    """CPU seconds to cut out, calibrate (256 images) and measure (1,000 images of 16x16) one sub-network."""
    space = networks.find("shiftadd")((1, 16, 16), 10)
    supernet = space.supernet(0)
    images = torch.randn(1000, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    blueprints = [space.blueprint(space.sample(numpy_stream(0, "speed", i))) for i in range(count)]
    found = []
    for blueprint in blueprints:
        times = []
        for _ in range(3):
            started = time.process_time()
            evaluate(supernet, [blueprint], images[:256], images, torch.zeros(1000, dtype=torch.long), precision)
            times.append(time.process_time() - started)
        found.append(min(times))
    return float(np.mean(found))


def speed(folder: Path) -> None:
    space = networks.find("shiftadd")((1, 8, 8), 10)
    named = [f"{recipe}/separate" for recipe in recipes.RECIPES] + ["uniform/heterogeneous"]
    record: dict[str, Any] = {"path ratio": {}, "evaluation seconds": {}}
    for name in named:
        record["path ratio"][name] = path_ratio(space, name)
        print(f"{name}: a path takes {record['path ratio'][name]:.2f} times the network alone", flush=True)
    for precision in ("fp32", "bf16"):
        record["evaluation seconds"][precision] = evaluation_seconds(precision)
        print(f"evaluation, {precision}: {record['evaluation seconds'][precision]:.2f} s of CPU", flush=True)
    write_atomic(folder / "speed.json", to_json(record))


# -- the report --


def tau(a: Sequence[float] | Floats, b: Sequence[float] | Floats) -> float:
    return float(kendalltau(a, b).statistic)


def within_quartiles(a: Floats, b: Floats, quartile: Floats) -> str:
    found = [tau(a[quartile == q], b[quartile == q]) if (quartile == q).sum() > 2 else np.nan for q in range(QUARTILES)]
    return ", ".join("-" if np.isnan(value) else f"{value:.2f}" for value in found)


def report(study: dict[str, Any]) -> str:
    done = complete(study)
    rows = [study["networks"][i] for i in done]
    by_seed = [np.array([row["val_accuracy"][str(seed)] for row in rows]) for seed in SEEDS]
    mean, quartile = np.mean(by_seed, axis=0), np.array([row["quartile"] for row in rows], float)
    seconds = [s for row in rows for s in row["cpu_seconds"].values()]
    ceiling = tau(by_seed[0], by_seed[1])
    proxies = {
        label: np.array([row[key] for row in rows], float)
        for label, key in (("MACs", "macs"), ("parameters", "params"), (f"latency on {DEVICE}", "latency_ms"))
    }
    least_proxy = max(tau(proxies["MACs"], mean), tau(proxies["parameters"], mean))
    target = min(0.6, 0.85 * ceiling)
    lines = [
        "# The supernet",
        "",
        "Made by `python -m tests.benchmarks.rank_agreement`; see there for the commands.",
        "",
        stamp(),
        "",
        "## Does it rank networks as stand-alone training does?",
        "",
        f"`shapes` at its default difficulty, the shiftadd space, {len(done)} of the study's {len(study['networks'])}",
        f"networks trained alone so far, each with {len(SEEDS)} seeds ({np.mean(seconds):.0f} s of CPU on average, "
        f"{max(seconds):.0f} s at most,",
        "one thread, on a machine shared with other work). The networks are a seeded uniform sample, stratified by",
        f"latency quartile on {DEVICE}; none was chosen by its accuracy. Validation accuracy alone: "
        f"{mean.min():.3f} to {mean.max():.3f}.",
        "",
        f"- Noise ceiling, Kendall tau between the two seeds: {ceiling:.2f}.",
        f"- Target: at least {target:.2f} (0.6, or 85% of the ceiling if that is less), and 0.1 above MACs and "
        f"parameters: {least_proxy + 0.1:.2f}.",
        f"- The standard error of a tau over {len(done)} networks is about {tau_error(len(done)):.2f}.",
        "",
        "| what ranks them | tau to the mean of the seeds | within latency quartiles |",
        "| --- | --- | --- |",
        *(
            f"| {label} | {tau(values, mean):.2f} | {within_quartiles(values, mean, quartile)} |"
            for label, values in proxies.items()
        ),
        f"| one seed, of the other | {ceiling:.2f} | {within_quartiles(by_seed[0], by_seed[1], quartile)} |",
        "",
        "Recipes at equal CPU time, with what they cost:",
        "",
        "| recipe/sharing | tau | within quartiles | networks | mean accuracy | CPU s | networks run | parameters |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(supernet_row(name, entry, done, mean, quartile) for name, entry in study.get("supernets", {}).items()),
        "",
    ]
    lines += verdict(study, done, mean, target, least_proxy)
    if "speed" in study:
        lines += speed_lines(study["speed"])
    return "\n".join(lines)


def verdict(study: dict[str, Any], done: list[int], mean: Floats, target: float, proxy: float) -> list[str]:
    """What holds of the best recipe, in words."""
    taus = {}
    for name, entry in study.get("supernets", {}).items():
        held = [k for k, i in enumerate(done) if str(i) in entry["val_accuracy"]]
        taus[name] = tau([entry["val_accuracy"][str(done[k])] for k in held], mean[held])
    if not taus:
        return []
    best = max(taus, key=lambda name: taus[name])
    reached, above = taus[best] >= target, taus[best] >= proxy + 0.1
    return [
        f"The best is {best}: it {'reaches' if reached else 'misses'} the target against the noise ceiling and "
        f"{'is' if above else 'is not'} 0.1 above MACs and parameters.",
        "",
    ]


def tau_error(n: int) -> float:
    """Of Kendall's tau of independent rankings of n. Source: Kendall, Rank correlation methods, 1948."""
    return float(np.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1))))


def supernet_row(name: str, entry: dict[str, Any], done: list[int], mean: Floats, quartile: Floats) -> str:
    held = [k for k, i in enumerate(done) if str(i) in entry["val_accuracy"]]
    found = np.array([entry["val_accuracy"][str(done[k])] for k in held])
    return (
        f"| {name} | {tau(found, mean[held]):.2f} | {within_quartiles(found, mean[held], quartile[held])} "
        f"| {len(held)} | {found.mean():.3f} | {entry['cpu_seconds']:.0f} | {entry['paths']} | {entry['parameters']} |"
    )


def speed_lines(record: dict[str, Any]) -> list[str]:
    evaluation = ", ".join(f"{value:.2f} s in {name}" for name, value in record["evaluation seconds"].items())
    return [
        "## Speed",
        "",
        "One training step in the supernet over the same networks' steps alone (8x8 images, batches of 64, CPU time of",
        "one thread, least of three repeats side by side, median of two steps):",
        "",
        "| recipe/sharing | time of a path over the network alone |",
        "| --- | --- |",
        *(f"| {name} | {value:.2f} |" for name, value in record["path ratio"].items()),
        "",
        "A sub-network cut out, calibrated on 256 and measured on 1,000 images of 16x16, in 8-bit simulation, on one",
        f"thread: {evaluation} (other work ran on the machine meanwhile).",
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("standalone", "supernet", "speed", "report"))
    parser.add_argument("--out", type=Path, default=Path("runs") / "rank-agreement")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="so that several processes can share them")
    parser.add_argument("--recipes", default=",".join(RECIPES_COMPARED), help="RECIPE/SHARING, comma-separated")
    parser.add_argument("--budget", type=float, default=80.0, help="CPU seconds of each supernet")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.step == "standalone":
        standalone(arguments.out, [int(seed) for seed in arguments.seeds.split(",")])
    elif arguments.step == "supernet":
        for name in arguments.recipes.split(","):
            if not supernet_file(arguments.out, name).exists():
                train_supernet(arguments.out, name, arguments.budget)
    elif arguments.step == "speed":
        speed(arguments.out)
    else:
        dataset, space = load()
        study = read_study(arguments.out, space, dataset.content_hash)
        write_atomic(STUDY, to_json(study))
        write_atomic(REPORT, report(study))
        print(REPORT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
