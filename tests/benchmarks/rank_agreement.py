"""Does the supernet rank networks as stand-alone training does? On `shapes`, 64 networks, two seeds each.

``python -m tests.benchmarks.rank_agreement standalone`` trains each network alone, one file per training, and goes on
where it stopped; several may run at once with other ``--seeds``. After the 64 it goes on with more networks of the same
pool, for the `shiftadd` table. ``... longer`` trains the 64 once more, for longer. ``... supernet`` trains one supernet
per recipe and sharing with an equal budget of CPU seconds and evaluates all those networks. ``... speed`` times a path
in the supernet beside the same network alone, and evaluations; elapsed times it keeps only if nothing else runs when it
starts, and takes them when it is given again then. ``... precision --recipes NAME --budget N`` sets evaluation in
bfloat16 beside that in single precision. ``... gather`` puts everything into
hwbench_data/recipes/shiftadd_trained.json, from which the table is built too; what that file holds is not trained
again. ``... table --recipes NAME --budget N`` evaluates all networks of the table with that supernet, for
hwbench_data/recipes/shiftadd_supernet.json; several may share it with other ``--part``s. ``... report`` gathers and
writes docs/benchmarks/supernet.md.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from cosearch.blueprint import Blueprint
from cosearch.costs import AcceleratorCosts
from cosearch.data import Dataset, Split, load_dataset
from cosearch.hardware.tensor import cost_tensor
from cosearch.operators.adder import scale_add_gradients
from cosearch.runs import to_json
from cosearch.seeding import numpy_stream
from cosearch.strategies import Objectives
from cosearch.supernet import recipes
from cosearch.supernet.blocks import Network
from cosearch.supernet.elastic import Supernet
from cosearch.supernet.evaluation import Precision, evaluate
from cosearch.supernet.sampling import Within
from cosearch.supernet.training import (
    Recipe,
    accuracy,
    adder_parameters,
    make_optimizer,
    train_network,
    train_supernet_epoch,
)
from cosearch.writing import write_atomic
from hwbench_data.recipes import shiftadd
from search_spaces import accelerators, networks
from search_spaces.decisions import Arch, arch_key
from tests.benchmarks.machine import stamp
from tests.benchmarks.rank_statistics import Noise, jackknife, tau

PROJECT = Path(__file__).parents[2]
REPORT = PROJECT / "docs" / "benchmarks" / "supernet.md"
STUDY = PROJECT / "hwbench_data" / "recipes" / "shiftadd_trained.json"
DEVICE = "ecp5-85f"
POOL, NETWORKS, QUARTILES = 512, 64, 4
TABLE_BLOCK, TABLE_EVERY = 200, 2
"""Networks of the table that are evaluated together, and of how many images one is used for them."""
TABLE_NETWORKS = 200
"""Trained alone for the table: the 64 of the study and then others of the pool."""
SEEDS = (0, 1)
CALIBRATION = 512
RECIPES_COMPARED = (
    "uniform/separate",
    "uniform/heterogeneous",
    "fair/separate",
    "sandwich/separate",
    "progressive/separate",
    "prune/separate",
    "uniform/separate/kernels",
)
STANDALONE = Recipe(3, batch_size=32, learning_rate=0.2, rotation_degrees=0.0, scale=0.0, shift_pixels=0.0)
"""Mirrored or not, and otherwise as generated: there are images enough."""
LONGER = replace(STANDALONE, epochs=9, batch_size=64)
"""For the study's networks a second training. After three epochs they still learn, and how fast is left to chance;
batches of 64 take three quarters of the time for an image."""

Network_ = dict[str, Any]
Floats = npt.NDArray[np.float64]


def load() -> tuple[Dataset, Any]:
    dataset = load_dataset("shapes")
    return dataset, networks.find("shiftadd")(dataset.input_shape, len(dataset.classes))


def choose(space: Any, known: Sequence[Network_] = ()) -> list[Network_]:
    """A uniform sample stratified by latency quartile: arch, latency, quartile, size.

    known: the networks that are in it already; the first of a pool in its order follow until each quartile of the pool
    has an equal part of `TABLE_NETWORKS`, the study's `NETWORKS` before the others.
    """
    costs = AcceleratorCosts(space, cost_tensor(space.layer_table(), accelerators.find(DEVICE)), Objectives())
    rng = numpy_stream(0, "rank agreement")
    archs = [space.sample(rng) for _ in range(POOL)]
    latency = np.array([front.metric("latency_ms").min() for front in costs.fronts(archs)])
    quartile = np.argsort(np.argsort(latency, kind="stable"), kind="stable") * QUARTILES // POOL
    found = list(known)
    for size in (NETWORKS, TABLE_NETWORKS):
        held = {arch_key(entry["arch"]) for entry in found}
        fresh = [i for i in range(POOL) if arch_key(archs[i]) not in held]
        missing = {q: size // QUARTILES - sum(entry["quartile"] == q for entry in found) for q in range(QUARTILES)}
        chosen = sorted(i for q in missing for i in [i for i in fresh if quartile[i] == q][: max(0, missing[q])])
        found += [
            {
                "arch": archs[i],
                "latency_ms": float(latency[i]),
                "quartile": int(quartile[i]),
                "macs": space.workload(archs[i]).macs,
                "params": space.workload(archs[i]).weight_count,
            }
            for i in chosen
        ]
    return found


def read_study(folder: Path, space: Any, content_hash: str) -> dict[str, Any]:
    """What is known: the published study, and the files of the folder over it.

    A published study of other data or another training is left aside, but for its networks. What the longer training
    found stands apart, in "longer" of each entry.
    """
    study = json.loads(STUDY.read_text(encoding="utf-8")) if STUDY.exists() else {}
    identity = {"data": content_hash, "recipe": asdict(STANDALONE)}
    sample = study.get("networks", [])
    if {key: study.get(key) for key in identity} != identity:
        kept = ("arch", "latency_ms", "quartile", "macs", "params")
        study = {**identity, "networks": [{key: entry[key] for key in kept} for entry in sample]}
    if study.get("longer_recipe") != asdict(LONGER):
        study["longer_recipe"] = asdict(LONGER)
        for entry in study["networks"]:
            entry.pop("longer", None)
    if len(sample) < TABLE_NETWORKS:  # chosen once: a later cost model must not change them
        study["networks"] = choose(space, study["networks"])
    for i, entry in enumerate(study["networks"]):
        for seed, longer in product(SEEDS, (False, True)):
            file = standalone_file(folder, i, seed, longer)
            if file.exists():
                record = json.loads(file.read_text(encoding="utf-8"))
                found = entry.setdefault("longer", {}) if longer else entry
                for key in ("val_accuracy", "cpu_seconds"):
                    found.setdefault(key, {})[str(seed)] = record[key]
    for file in sorted(folder.glob("supernet-*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        study.setdefault("supernets", {})[file.stem.removeprefix("supernet-")] = record
    for name in ("speed", "precision"):
        if (folder / f"{name}.json").exists():
            study[name] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return study


def alone_results(entry: Network_, longer: bool) -> dict[str, dict[str, float]]:
    """What a network reached alone, and in how many seconds: "val_accuracy" and "cpu_seconds" by seed, where known."""
    found: dict[str, Any] = entry.get("longer", {}) if longer else entry
    return {key: found.get(key, {}) for key in ("val_accuracy", "cpu_seconds")}


def complete(study: dict[str, Any], longer: bool = False) -> list[int]:
    """The networks that have been trained alone with every seed: the study's, and the others of the table."""
    known = [alone_results(entry, longer)["val_accuracy"] for entry in study["networks"]]
    return [i for i, found in enumerate(known) if all(str(seed) in found for seed in SEEDS)]


# -- each network alone --


def in_turn(study: dict[str, Any]) -> list[int]:
    """The study's networks, one of each latency quartile in turn: however many are trained, they stay stratified."""
    quartiles = [entry["quartile"] for entry in study["networks"][:NETWORKS]]
    return sorted(range(len(quartiles)), key=lambda i: (quartiles[:i].count(quartiles[i]), -quartiles[i]))


def pending(study: dict[str, Any], seeds: Sequence[int], longer: bool) -> Iterator[tuple[int, int]]:
    """(network, seed) that are not trained, a network's seeds together."""
    return (
        (i, seed)
        for i in (in_turn(study) if longer else range(len(study["networks"])))
        for seed in seeds
        if str(seed) not in alone_results(study["networks"][i], longer)["val_accuracy"]
    )


def standalone_file(folder: Path, network: int, seed: int, longer: bool) -> Path:
    return folder / f"{'longer' if longer else 'network'}{network:02}-seed{seed}.json"


def standalone(folder: Path, seeds: Sequence[int], longer: bool) -> None:
    dataset, space = load()
    study = read_study(folder, space, dataset.content_hash)
    for i, seed in pending(study, seeds, longer):
        file = standalone_file(folder, i, seed, longer)
        if file.exists():  # by another process since
            continue
        network = space.build(study["networks"][i]["arch"], seed)
        started = time.process_time()
        train_network(network, dataset.train, LONGER if longer else STANDALONE, seed, dataset.mirror)
        seconds = time.process_time() - started
        found = accuracy(network, dataset.validation)
        write_atomic(file, to_json({"val_accuracy": found, "cpu_seconds": seconds}))
        print(f"network {i} seed {seed}: {found:.4f} in {seconds:.1f} s of CPU", flush=True)


# -- supernets --


def supernet_file(folder: Path, name: str, budget: int, seed: int = 0) -> Path:
    again = f"-seed{seed}" if seed else ""
    return folder / f"supernet-{name.replace('/', '-')}-{budget}{again}.json"


def made_recipe(
    space: Any, name: str, epochs: int, within: Within | None = None, seed: int = 0
) -> recipes.SupernetRecipe:
    """name: RECIPE/SHARING, or RECIPE/SHARING/kernels for small kernels that are read through a transform."""
    recipe, sharing, *kernels = name.split("/")
    supernet = space.supernet(seed, sharing == "heterogeneous", bool(kernels))
    return recipes.make(recipe, space, supernet, seed, replace(STANDALONE, epochs=epochs), within)


def epoch_seconds(recipe: recipes.SupernetRecipe, few: Split, mirror: bool) -> Callable[[], float]:
    """A function that trains one more short epoch and says its CPU seconds."""
    optimizer = make_optimizer(recipe.supernet, recipe.settings)

    def once() -> float:
        started = time.process_time()
        train_supernet_epoch(recipe, optimizer, few, 0, recipe.settings.epochs - 1, mirror)
        return time.process_time() - started

    return once


def price(space: Any, name: str, dataset: Dataset, networks_run: int = 36, repeats: int = 5) -> float:
    """CPU time that a recipe takes for a network of a step over what uniform/separate takes for one.

    Side by side, on supernets that are thrown away: the ratio does not depend on what else runs on the machine.
    """
    images = networks_run * STANDALONE.batch_size
    few = Split(dataset.train.x[:images], dataset.train.y[:images])
    timed, plain = (epoch_seconds(made_recipe(space, n, 3), few, dataset.mirror) for n in (name, "uniform/separate"))
    ratios = [timed() / plain() for _ in range(1 + repeats)][1:]  # the first compiles and warms up
    return float(np.median(ratios))


def train_supernet(folder: Path, name: str, budget: int, seed: int = 0) -> None:
    """Train one supernet for the time in which uniform/separate runs `budget` networks, and evaluate all that are
    trained alone.

    The time is counted in prices: CPU seconds themselves depend on what else the machine does meanwhile.
    """
    dataset, space = load()
    batches = len(dataset.train) // STANDALONE.batch_size
    relative = 1.0 if name == "uniform/separate" else price(space, name, dataset)
    epochs = max(3, round(budget / (batches * relative)))
    recipe = made_recipe(space, name, epochs, seed=seed)
    optimizer = make_optimizer(recipe.supernet, recipe.settings)
    started = time.process_time()
    epoch = 0
    while epoch < recipe.epochs:
        loss = train_supernet_epoch(recipe, optimizer, dataset.train, seed, epoch, dataset.mirror)
        epoch += 1
        print(f"{name}: epoch {epoch} of {recipe.epochs}, loss {loss:.3f}", flush=True)
    seconds = time.process_time() - started
    study = read_study(folder, space, dataset.content_hash)
    found = accuracies(recipe.supernet, [entry["arch"] for entry in study["networks"]], space, dataset)
    file = supernet_file(folder, name, budget, seed)
    save_file(recipe.supernet.state_dict(), file.with_suffix(".safetensors"))
    record = {
        "name": name,
        "budget": budget,
        "val_accuracy": found,
        "cpu_seconds": seconds,
        "price": relative,
        "paths": recipe.epochs * recipe.paths * max(1, batches // recipe.paths),
        "parameters": sum(p.numel() for p in recipe.supernet.parameters()),
        "seed": seed,
    }
    write_atomic(file, to_json(record))
    print(f"{name}: {seconds:.0f} s of CPU, mean accuracy {np.mean(found):.4f}", flush=True)


def accuracies(supernet: Supernet, archs: Sequence[Arch], space: Any, dataset: Dataset, every: int = 1) -> list[float]:
    """Of sub-networks on the validation images, as trained alone: without the rounding of hardware.

    every: of so many images one is taken, for calibration too.
    """
    spread = np.linspace(0, len(dataset.train) - 1, CALIBRATION // every).astype(int)
    return evaluate(
        supernet,
        [space.blueprint(arch) for arch in archs],
        torch.from_numpy(dataset.train.x[spread]),
        torch.from_numpy(dataset.validation.x[::every]),
        torch.from_numpy(dataset.validation.y[::every]),
        simulate=False,
    )


def load_supernet(folder: Path, name: str, budget: int, space: Any) -> tuple[Supernet, dict[str, Any]]:
    """A supernet that `train_supernet` has left, and its record."""
    file = supernet_file(folder, name, budget)
    supernet = made_recipe(space, name, 3).supernet
    supernet.load_state_dict(load_file(file.with_suffix(".safetensors")))
    return supernet, json.loads(file.read_text(encoding="utf-8"))


# -- the table --


def evaluate_table(folder: Path, name: str, budget: int, part: int, parts: int) -> None:
    """Every network of the `shiftadd` table with one supernet's weights; one file for so many of them.

    Networks that begin alike are evaluated together: what they share runs once.
    """
    dataset, space = load()
    supernet, record = load_supernet(folder, name, budget, space)
    study = read_study(folder, space, dataset.content_hash)
    archs = shiftadd.networks_of_table(space, 0, shiftadd.trained(study))
    order = sorted(range(len(archs)), key=lambda i: list(map(str, archs[i].values())))
    right = np.full(len(archs), -1)
    images = len(dataset.validation.x[::TABLE_EVERY])
    blocks = [order[i : i + TABLE_BLOCK] for i in range(0, len(order), TABLE_BLOCK)]
    for i, block in enumerate(blocks):
        file = folder / f"table-{name.replace('/', '-')}-{budget}-{i:03}.json"
        if not file.exists() and i % parts == part:
            found = accuracies(supernet, [archs[i] for i in block], space, dataset, TABLE_EVERY)
            write_atomic(file, to_json([round(value * images) for value in found]))
            print(f"{i + 1} of {len(blocks)}: mean accuracy {np.mean(found):.3f}", flush=True)
        if file.exists():
            right[block] = json.loads(file.read_text(encoding="utf-8"))
    if (right >= 0).all():
        facts = {key: record[key] for key in ("name", "budget", "paths", "cpu_seconds")}
        training = {key: value for key, value in asdict(STANDALONE).items() if key != "epochs"}
        found = {
            "data": dataset.content_hash,
            "images": images,
            "supernet": {**facts, "training": training},
            "networks": shiftadd.digest(archs),
            "right": right.tolist(),
        }
        write_atomic(shiftadd.SUPERNET, json.dumps(found) + "\n")


# -- speed --


GUIDED = (0.03, 0.1, 0.3, 0.5)
"""Shares of the networks that meet the limit which sampling follows."""


def within_share(space: Any, share: float) -> Within:
    """Whether a network meets the latency that a share of the networks does on `DEVICE`; priced anew at each call."""
    tensor = cost_tensor(space.layer_table(), accelerators.find(DEVICE))
    free = AcceleratorCosts(space, tensor, Objectives())
    fronts = free.fronts([space.sample(numpy_stream(0, "guided", i)) for i in range(POOL)])
    limit = float(np.quantile([front.metric("latency_ms").min() for front in fronts], share))

    def within(arch: Arch) -> bool:
        costs = AcceleratorCosts(space, tensor, Objectives(), {"max_latency_ms": limit})
        return costs.runs_within(arch)

    return within


def path_ratio(
    space: Any, name: str, within: Within | None = None, batch: int = 64, least: int = 24, repeats: int = 3
) -> tuple[float, int]:
    """Time of a recipe's training steps over that of the same networks alone, side by side, least of repeats.

    within: what sampling follows. Steps follow until `least` networks have run.
    Returns: the ratio of all steps' time, and the networks.
    """
    recipe = made_recipe(space, name, 8, within)
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

    inside = outside = 0.0
    paths = step = 0
    while paths < least:
        epoch = 7  # the last stage of every recipe
        learned = {name: value.clone() for name, value in recipe.state.state_dict().items()}

        def together(epoch: int = epoch, step: int = step, learned: dict[str, Any] = learned) -> None:
            recipe.state.load_state_dict(learned)  # what is repeated runs the same networks
            optimizer.zero_grad()
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
        best = [min(times) for times in zip(*(_timed([together, *alone]) for _ in range(repeats)), strict=True)]
        inside, outside = inside + best[0], outside + sum(best[1:])
        paths, step = paths + len(alone), step + 1
    return inside / outside, paths


def alone_step(blueprint: Blueprint, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    network = Network(blueprint).train()
    optimizer = make_optimizer(network, STANDALONE)
    adders = adder_parameters(network)

    def run() -> None:
        optimizer.zero_grad()
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


EVALUATED: dict[str, tuple[Precision, int]] = {
    "fp32, one thread": ("fp32", 1),
    "fp32, two threads": ("fp32", 2),
    "bf16, one thread": ("bf16", 1),
}
QUIET_LOAD = 0.5
"""Elapsed times are kept where the load average of the last minute is below it."""


def evaluated_space() -> tuple[Any, Callable[[Sequence[Blueprint], Precision], list[float]]]:
    """A space of 16x16 images, and what calibrates its networks on 256 of 1,000 images and measures them on all."""
    space = networks.find("shiftadd")((1, 16, 16), 10)
    supernet = space.supernet(0)
    images = torch.randn(1000, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(1000, dtype=torch.long)
    return space, lambda blueprints, precision: evaluate(supernet, blueprints, images[:256], images, labels, precision)


def evaluation_seconds(
    precision: Precision, threads: int, quiet: bool, count: int = 12, repeats: int = 3
) -> dict[str, Any]:
    """Seconds to cut out, calibrate (256 images) and measure (1,000 images of 16x16) one sub-network.

    Of sampled networks and of the largest of additions alone; least of the repeats. Processor and, if quiet, elapsed.
    """
    space, measure = evaluated_space()
    clocks = {"processor": time.process_time, **({"elapsed": time.perf_counter} if quiet else {})}

    def seconds(arch: Any) -> dict[str, float]:
        blueprint, times = space.blueprint(arch), []
        for _ in range(repeats):
            started = {name: clock() for name, clock in clocks.items()}
            measure([blueprint], precision)
            times.append({name: clock() - started[name] for name, clock in clocks.items()})
        return {name: min(found[name] for found in times) for name in clocks}

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    sampled = [seconds(space.sample(numpy_stream(0, "speed", i))) for i in range(count)]
    additions = seconds(space.largest("add"))
    torch.set_num_threads(before)
    return {
        name: {
            "mean": float(np.mean([found[name] for found in sampled])),
            "most": max(found[name] for found in sampled),
            "additions alone": additions[name],
        }
        for name in clocks
    }


def together_seconds(repeats: int = 3) -> dict[str, Any]:
    """CPU seconds of a network evaluated singly and with others in one call, one thread, 256 and 1,000 16x16 images."""
    space, measure = evaluated_space()
    base, *sampled = [space.sample(numpy_stream(0, "together", i)) for i in range(17)]
    changed = [{**base, name: option} for name, options in space.choices.items() for option in options[:3]]

    def seconds(groups: Sequence[Sequence[Arch]]) -> float:
        started = time.process_time()
        for group in groups:
            measure([space.blueprint(arch) for arch in group], "fp32")
        return (time.process_time() - started) / sum(map(len, groups))

    asked = {
        "drawn at random, four in a call": (sampled, 4),
        "one choice of a network changed, all in a call": (changed, 99),
    }
    found = {}
    for name, (archs, size) in asked.items():
        ways = [[arch] for arch in archs], [archs[i : i + size] for i in range(0, len(archs), size)]
        least = [min(times) for times in zip(*([seconds(way) for way in ways] for _ in range(repeats)), strict=True)]
        found[name] = {"networks": len(archs), "singly": least[0], "together": least[1]}
    return found


def speed(folder: Path, published: dict[str, Any]) -> None:
    """Time what is not timed yet, nor published; kept as it comes."""
    quiet = os.getloadavg()[0] < QUIET_LOAD
    file = folder / "speed.json"
    space = networks.find("shiftadd")((1, 8, 8), 10)
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else published
    evaluations = record.setdefault("evaluation seconds", {})
    for name, how in EVALUATED.items():
        if name not in evaluations or (quiet and "elapsed" not in evaluations[name]):
            evaluations[name] = evaluation_seconds(*how, quiet)
            write_atomic(file, to_json(record))
            print(f"evaluation, {name}: {evaluations[name]}", flush=True)
    if "together" not in record:
        record["together"] = together_seconds()
        write_atomic(file, to_json(record))
        print(f"together: {record['together']}", flush=True)
    named = ["uniform/separate", "uniform/heterogeneous", "uniform/separate/kernels"]
    named += [f"{recipe}/separate" for recipe in recipes.RECIPES if recipe != "uniform"]
    limits = {f"uniform/separate, guided, {share:.0%} fit": share for share in GUIDED}
    for name in (*named, *limits):
        if name not in record.setdefault("path ratio", {}):
            recipe, *guided = name.split(", ")
            ratio, paths = path_ratio(space, recipe, within_share(space, limits[name]) if guided else None)
            record["path ratio"][name] = {"ratio": ratio, "networks": paths}
            write_atomic(file, to_json(record))
            print(f"{name}: a path takes {ratio:.2f} times the network alone ({paths} networks)", flush=True)


# -- precision --


def _tau_of(a: Floats, b: Floats, kept: npt.NDArray[np.int64]) -> float:
    return tau(a[kept], b[kept])


def precision(folder: Path, name: str, budget: int) -> None:
    """How the study's networks are ranked in bfloat16 beside single precision, and in what time, by one supernet."""
    dataset, space = load()
    supernet, record = load_supernet(folder, name, budget, space)
    study = read_study(folder, space, dataset.content_hash)
    blueprints = [space.blueprint(entry["arch"]) for entry in study["networks"][:NETWORKS]]
    spread = np.linspace(0, len(dataset.train) - 1, CALIBRATION).astype(int)
    calibration, images = torch.from_numpy(dataset.train.x[spread]), torch.from_numpy(dataset.validation.x)
    labels, rows = torch.from_numpy(dataset.validation.y), []
    kinds: tuple[Precision, ...] = ("fp32", "bf16")
    for simulate in (True, False):
        values: list[Floats] = []
        seconds = []
        for kind in kinds:
            started = time.process_time()
            values.append(np.array(evaluate(supernet, blueprints, calibration, images, labels, kind, simulate)))
            seconds.append((time.process_time() - started) / len(blueprints))
        error = jackknife(partial(_tau_of, *values), len(blueprints))
        apart = np.abs(values[0] - values[1])
        rows.append(
            {
                "simulate": simulate,
                "tau": tau(*values),
                "error": error,
                "mean": float(apart.mean()),
                "most": float(apart.max()),
                "seconds": seconds,
            }
        )
        print(rows[-1], flush=True)
    found = {"name": record["name"], "paths": record["paths"], "networks": len(blueprints), "rows": rows}
    write_atomic(folder / "precision.json", to_json(found))


# -- the report --


def within_quartiles(a: Floats, b: Floats, quartile: Floats) -> str:
    found = [tau(a[quartile == q], b[quartile == q]) if (quartile == q).sum() > 2 else np.nan for q in range(QUARTILES)]
    return ", ".join("-" if np.isnan(value) else f"{value:.2f}" for value in found)


@dataclass(frozen=True)
class Alone:
    """The networks that are trained alone with every seed. accuracy: [seeds, networks]; the rest: [networks]."""

    index: npt.NDArray[np.int64]
    accuracy: Floats
    quartile: Floats
    proxies: dict[str, Floats]

    @classmethod
    def of(cls, study: dict[str, Any], others: bool = False, longer: bool = False) -> "Alone":
        """The study's networks, or the others of the table."""
        done = [i for i in complete(study, longer) if (i >= NETWORKS) == others]
        rows = [study["networks"][i] for i in done]
        found = [alone_results(row, longer)["val_accuracy"] for row in rows]
        named = (("MACs", "macs"), ("parameters", "params"), (f"latency on {DEVICE}", "latency_ms"))
        return cls(
            np.array(done),
            np.array([[values[str(seed)] for values in found] for seed in SEEDS]),
            np.array([row["quartile"] for row in rows], float),
            {label: np.array([row[key] for row in rows], float) for label, key in named},
        )

    @property
    def mean(self) -> Floats:
        return self.accuracy.mean(0)

    @property
    def ceiling(self) -> float:
        """Tau between two seeds."""
        return tau(self.accuracy[0], self.accuracy[1])

    def tau(self, ranker: Floats) -> str:
        """To the mean of the seeds, with its standard error."""
        mean = self.mean
        error = jackknife(lambda kept: tau(ranker[kept], mean[kept]), len(mean))
        return f"{tau(ranker, mean):.2f} +- {error:.2f}"

    def above(self, ranker: Floats, proxy: Floats) -> str:
        """How far a ranker's tau is above a proxy's on the same networks, with the standard error of the difference."""
        mean = self.mean

        def difference(kept: npt.NDArray[np.int64]) -> float:
            return tau(ranker[kept], mean[kept]) - tau(proxy[kept], mean[kept])

        return f"{difference(np.arange(len(mean))):+.2f} +- {jackknife(difference, len(mean)):.2f}"

    def part(self, kept: npt.NDArray[np.int64]) -> "Alone":
        proxies = {label: values[kept] for label, values in self.proxies.items()}
        return Alone(self.index[kept], self.accuracy[:, kept], self.quartile[kept], proxies)


def of_supernet(entry: dict[str, Any], alone: Alone) -> Floats:
    """A supernet's accuracies of the networks that are trained alone."""
    return np.array([entry["val_accuracy"][i] for i in alone.index])


def report(study: dict[str, Any]) -> str:
    alone = Alone.of(study)
    trained = len(complete(study))
    lines = [
        "# The supernet",
        "",
        "Made by `python -m tests.benchmarks.rank_agreement`; see there for the commands.",
        "",
        stamp(),
        "",
        "Rows stay as they were measured, some on other machines: the same command trains another supernet there.",
        "",
        "## Does it rank networks as stand-alone training does?",
        "",
        "`shapes` at its default difficulty, the shiftadd space. The networks are a seeded uniform sample, stratified",
        f"by latency quartile on {DEVICE}; none was chosen by its accuracy. Of the {TABLE_NETWORKS} of the sample",
        f"{trained} are trained for {STANDALONE.epochs} epochs, the study's {NETWORKS} among them; of these,",
        f"{len(complete(study, longer=True))} for {LONGER.epochs} epochs too. Latencies and quartiles are those of the",
        "cost model by which the sample was drawn.",
        *([study["note"]] if "note" in study else []),
        "",
        f"## After {STANDALONE.epochs} epochs alone",
        "",
        *alone_lines(study, alone, longer=False),
        *noise_lines(alone),
        *supernet_lines(study, alone),
        *other_lines(study),
        *longer_lines(study),
    ]
    if "speed" in study:
        lines += speed_lines(study["speed"])
    if "precision" in study:
        lines += precision_lines(study["precision"])
    return "\n".join(lines)


def alone_lines(study: dict[str, Any], alone: Alone, longer: bool) -> list[str]:
    """Who ranks the networks as their trainings do, without a supernet."""
    recipe, mean = LONGER if longer else STANDALONE, alone.mean
    results = (alone_results(study["networks"][i], longer) for i in alone.index)
    seconds = [s for found in results for s in found["cpu_seconds"].values()]
    error = jackknife(lambda kept: alone.part(kept).ceiling, len(mean))
    return [
        f"{len(mean)} of the study's {NETWORKS} networks, each with {len(SEEDS)} seeds, batches of {recipe.batch_size}",
        f"({np.mean(seconds):.0f} s of CPU on average, {max(seconds):.0f} at most, one thread, on a machine shared",
        "with other work, which doubles these seconds at times). Validation accuracy alone:",
        f"{mean.min():.3f} to {mean.max():.3f}, mean {mean.mean():.3f}.",
        "",
        "| what ranks them | tau to the mean of the seeds | above MACs | within latency quartiles |",
        "| --- | --- | --- | --- |",
        *(proxy_row(label, values, alone) for label, values in alone.proxies.items()),
        f"| one seed, of the other (noise ceiling) | {alone.ceiling:.2f} +- {error:.2f} | "
        f"| {within_quartiles(alone.accuracy[0], alone.accuracy[1], alone.quartile)} |",
        "",
        "+-: standard error over the networks, by jackknife.",
        "",
    ]


def longer_lines(study: dict[str, Any]) -> list[str]:
    """The study's networks again, after the longer training."""
    alone = Alone.of(study, longer=True)
    if len(alone.index) < 2 * QUARTILES:  # nothing to correlate
        return []
    before = Alone.of(study)
    before = before.part(np.flatnonzero(np.isin(before.index, alone.index)))
    return [
        f"## After {LONGER.epochs} epochs alone",
        "",
        *alone_lines(study, alone, longer=True),
        *(
            [f"Unfinished: {len(alone.index)} of {NETWORKS} networks, and errors are wide; `... longer` goes on."]
            if len(alone.index) < NETWORKS
            else []
        ),
        f"The same networks after {STANDALONE.epochs} epochs: two seeds agree with tau {before.ceiling:.2f}, MACs have",
        f"{before.tau(before.proxies['MACs'])}, parameters {before.tau(before.proxies['parameters'])}.",
        f"Between the two trainings, both means of the seeds: {before.tau(alone.mean)}.",
        "",
        *noise_lines(alone),
        *supernet_lines(study, alone),
        *chosen_before_lines(study, alone),
        "",
    ]


def proxy_row(label: str, values: Floats, alone: Alone) -> str:
    above = alone.above(values, alone.proxies["MACs"]) if label != "MACs" else ""
    return f"| {label} | {alone.tau(values)} | {above} | {within_quartiles(values, alone.mean, alone.quartile)} |"


def noise_lines(alone: Alone) -> list[str]:
    """What a supernet could reach on these trainings."""
    noise, seeds, ceiling = Noise.of(alone.accuracy), len(SEEDS), alone.ceiling
    best = {label: tau(values, alone.mean) for label, values in alone.proxies.items()}
    proxy = max(best["MACs"], best["parameters"])
    known = noise.without(proxy, seeds)
    wanted = noise.without(proxy + 0.1, seeds)
    return [
        "### What the noise allows",
        "",
        f"Trainings of one network differ by {100 * noise.training:.1f} points (standard deviation, beside what a",
        f"seed shifts in common), networks' expected accuracies by {100 * noise.networks:.1f}. Were all of it normal,",
        f"two seeds would agree with tau {noise.between_seeds():.2f} (measured: {ceiling:.2f}), and a ranker that knew",
        f"every network's expected accuracy would have {noise.attainable(seeds):.2f} to the mean of {seeds} seeds,",
        f"{noise.attainable(4):.2f} to that of 4, {noise.attainable(8):.2f} to that of 8. The better of MACs and",
        f"parameters has {proxy:.2f}, which is tau {known:.2f} to the expected accuracy. To be 0.1 above it here, a",
        f"supernet needs {proxy + 0.1:.2f}: tau {wanted:.2f} to the expected accuracy"
        + (", which is no less than perfect." if wanted > 0.99 else "."),
        "",
        f"Target: at least {min(0.6, 0.85 * ceiling):.2f} (0.6, or 85% of the noise ceiling if that is less), and 0.1",
        f"above MACs and parameters: {proxy + 0.1:.2f}.",
        "",
    ]


def _again(entry: dict[str, Any]) -> str:
    """Which seed a supernet has, if that is not the first."""
    return f", seed {entry['seed']}" if entry.get("seed") else ""


def best_supernet(study: dict[str, Any], alone: Alone) -> dict[str, Any]:
    """The one of highest tau."""
    entries: list[dict[str, Any]] = list(study["supernets"].values())
    return max(entries, key=lambda entry: tau(of_supernet(entry, alone), alone.mean))


def title(entry: dict[str, Any]) -> str:
    return f"{entry['name']}{_again(entry)}, {entry['paths']} networks run"


def supernet_lines(study: dict[str, Any], alone: Alone) -> list[str]:
    entries = sorted(
        study.get("supernets", {}).values(),
        key=lambda entry: (entry["name"], entry["paths"], entry.get("seed", 0)),
    )
    if not entries:
        return []
    rows, others = [], Alone.of(study, others=True)
    for entry in entries:
        found = of_supernet(entry, alone)
        rows.append(
            f"| {entry['name']}{_again(entry)} | {entry['paths']} | {entry['cpu_seconds']:.0f} | {found.mean():.3f} "
            f"| {alone.tau(found)} | {alone.above(found, alone.proxies['MACs'])} "
            f"| {within_quartiles(found, alone.mean, alone.quartile)} "
            f"| {tau(of_supernet(entry, others), others.mean):.2f} | {entry['parameters']} |"
        )
    best = best_supernet(study, alone)
    own = tau(of_supernet(best, alone), alone.mean)
    proxies = [tau(alone.proxies[name], alone.mean) for name in ("MACs", "parameters")]
    reached, above = own >= min(0.6, 0.85 * alone.ceiling), own >= max(proxies) + 0.1
    return [
        "### Recipes at equal time",
        "",
        "Networks run: training steps of one network each. Rows with about equal CPU seconds had equal time.",
        "",
        "| recipe/sharing | networks run | CPU s | mean accuracy | tau | above MACs | within quartiles | others "
        "| parameters |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        f"Others: tau on the {len(others.mean)} networks of the table that are trained alone for {STANDALONE.epochs} "
        "epochs and are not of",
        f"the study (two seeds agree with {others.ceiling:.2f}; MACs "
        f"{tau(others.proxies['MACs'], others.mean):.2f}); by them nothing was chosen.",
        "",
        f"The highest tau is that of {title(best)}: it",
        f"{'reaches' if reached else 'misses'} the target against the noise ceiling and {'is' if above else 'is not'}",
        "0.1 above MACs and parameters on the same networks.",
    ]


def chosen_before_lines(study: dict[str, Any], alone: Alone) -> list[str]:
    """How the supernet that the shorter trainings name best ranks the longer ones, by which it was not chosen."""
    if not study.get("supernets"):
        return []
    best = best_supernet(study, Alone.of(study))
    found = of_supernet(best, alone)
    return [
        f"Best after {STANDALONE.epochs} epochs, on all networks, was {title(best)}. On these trainings it has",
        f"tau {alone.tau(found)}, above MACs {alone.above(found, alone.proxies['MACs'])},",
        f"above parameters {alone.above(found, alone.proxies['parameters'])}.",
    ]


def other_lines(study: dict[str, Any]) -> list[str]:
    """The supernet of the table on networks by which no recipe was chosen."""
    if not shiftadd.SUPERNET.exists():
        return []
    shared = json.loads(shiftadd.SUPERNET.read_text(encoding="utf-8"))
    _, space = load()
    archs = shiftadd.networks_of_table(space, 0, shiftadd.trained(study))
    known = dict(zip(map(arch_key, archs), np.array(shared["right"]) / shared["images"], strict=True))
    alone = Alone.of(study, others=True)
    found = np.array([known[arch_key(study["networks"][i]["arch"])] for i in alone.index])
    named = {f"{shared['supernet']['name']}, {shared['supernet']['paths']} networks run": found, **alone.proxies}
    return [
        "",
        "### The same on networks by which nothing was chosen",
        "",
        f"The supernet that evaluated the `shiftadd` table, on the {len(found)} other networks of the table that are",
        f"trained alone (two seeds agree with tau {alone.ceiling:.2f}); {shared['images']} validation images.",
        "",
        "| what ranks them | tau to the mean of the seeds | above MACs | within latency quartiles |",
        "| --- | --- | --- | --- |",
        *(proxy_row(label, values, alone) for label, values in named.items()),
        "",
    ]


def speed_lines(record: dict[str, Any]) -> list[str]:
    return [
        "## Speed",
        "",
        "Training steps in the supernet over the same networks' steps alone (8x8 images, batches of 64, CPU time of",
        "one thread, least of three repeats side by side, summed over the steps):",
        "",
        "| recipe/sharing | time of a path over the network alone | networks |",
        "| --- | --- | --- |",
        *(f"| {name} | {entry['ratio']:.2f} | {entry['networks']} |" for name, entry in record["path ratio"].items()),
        "",
        f"*guided*: sampling follows a limit of latency on {DEVICE} (`--guided`) that so many of {POOL} networks meet.",
        "",
        *(evaluation_lines(record["evaluation seconds"]) if "evaluation seconds" in record else []),
        *(together_lines(record["together"]) if "together" in record else []),
    ]


def evaluation_lines(found: dict[str, Any]) -> list[str]:
    def row(name: str, clock: str) -> str:
        cells = (f"{found[name][clock][key]:.2f}" for key in ("mean", "most", "additions alone"))
        return f"| {name} | {clock} | {' | '.join(cells)} |"

    busy = [name for name, entry in found.items() if "elapsed" not in entry]
    return [
        "A sub-network cut out, calibrated on 256 and measured on 1,000 images of 16x16, in 8-bit simulation: seconds",
        "of twelve sampled networks and of the largest of additions alone, least of three repeats.",
        *(
            [
                "Other work ran on the machine meanwhile, under which processor seconds grow; elapsed ones are",
                f"therefore not given ({'; '.join(busy)}): `... speed` takes them on a quiet machine.",
            ]
            if busy
            else []
        ),
        "",
        "| precision, threads | seconds | mean | most | additions alone |",
        "| --- | --- | --- | --- | --- |",
        *(row(name, clock) for name, entry in found.items() for clock in entry),
        "",
    ]


def together_lines(found: dict[str, Any]) -> list[str]:
    return [
        "Blocks with which networks begin run once, as far as what they computed fits into the memory of a call (1",
        "GiB, a sixteenth of it for each network). Seconds of CPU for each network, as above:",
        "",
        "| networks | how many | singly | together |",
        "| --- | --- | --- | --- |",
        *(f"| {k} | {v['networks']} | {v['singly']:.2f} | {v['together']:.2f} |" for k, v in found.items()),
        "",
        "A search, too, goes on from what the networks before have computed; what it proposes at once is evaluated",
        "side by side, a network on each thread (images below 32x32).",
        "",
    ]


def precision_lines(found: dict[str, Any]) -> list[str]:
    return [
        "## bfloat16",
        "",
        f"The study's {found['networks']} networks in the supernet {found['name']}, {found['paths']} networks run,",
        "with convolutions in bfloat16 and in single precision (`--precision`); additions have always the latter.",
        "",
        "| arithmetic | tau between the two | accuracies apart, mean | most | CPU s of a network, fp32 | bf16 |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {'8 bits simulated, as in a search' if row['simulate'] else 'floating point'} "
            f"| {row['tau']:.2f} +- {row['error']:.2f} | {row['mean']:.4f} | {row['most']:.4f} "
            f"| {row['seconds'][0]:.2f} | {row['seconds'][1]:.2f} |"
            for row in found["rows"]
        ),
        "",
        "Eight significant bits hold few of the rounded values, each a whole number of steps, exactly: bfloat16 rounds",
        "what the simulation has rounded once more, elsewhere. And the pass that rounds together with batch-norm takes",
        "single precision only. So on a CPU fp32 is the default; bf16 is meant for GPUs, where it is not timed.",
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "step", choices=("standalone", "longer", "supernet", "table", "speed", "precision", "gather", "report")
    )
    parser.add_argument("--out", type=Path, default=Path("runs") / "rank-agreement")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="so that several processes can share them")
    parser.add_argument("--recipes", default=",".join(RECIPES_COMPARED), help="RECIPE/SHARING, comma-separated")
    parser.add_argument("--supernet-seed", type=int, default=0, help="of a supernet's weights and of what it draws")
    parser.add_argument("--budget", type=int, default=2500, help="networks that uniform/separate runs meanwhile")
    parser.add_argument("--part", default="0/1", help="PART/PARTS of the table, so that several processes can share it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.step in ("standalone", "longer"):
        standalone(arguments.out, [int(seed) for seed in arguments.seeds.split(",")], arguments.step == "longer")
    elif arguments.step == "supernet":
        for name in arguments.recipes.split(","):
            if not supernet_file(arguments.out, name, arguments.budget, arguments.supernet_seed).exists():
                train_supernet(arguments.out, name, arguments.budget, arguments.supernet_seed)
    elif arguments.step == "table":
        part, parts = map(int, arguments.part.split("/"))
        evaluate_table(arguments.out, arguments.recipes, arguments.budget, part, parts)
    elif arguments.step == "speed":
        study = json.loads(STUDY.read_text(encoding="utf-8")) if STUDY.exists() else {}
        speed(arguments.out, study.get("speed", {}))
    elif arguments.step == "precision":
        precision(arguments.out, arguments.recipes, arguments.budget)
    else:
        dataset, space = load()
        study = read_study(arguments.out, space, dataset.content_hash)
        write_atomic(STUDY, to_json(study))
        if arguments.step == "report":
            write_atomic(REPORT, report(study))
            print(REPORT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
