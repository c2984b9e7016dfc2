"""Learned predictors beside their floors: ``python -m tests.benchmarks.predictors [section ...]``.

Sections: pool-nasbench201, pool-fbnet, shipped, device, cost-features, accuracy, accuracy-neural, ranksim, coverage,
speed; all by default.
Measured pools are read from the folder COSEARCH_REFERENCE_DATA. Each section replaces its part of
docs/benchmarks/predictors.md, whose head lists what is missed.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau, norm, rankdata

from predictors import features
from predictors.arch import ArchPredictor, pool_parts
from predictors.base import Predictor
from predictors.blend import Blend
from predictors.gp import GaussianProcess
from predictors.linear import Ridge
from predictors.pool import DevicePool
from predictors.relative import Relative
from predictors.shipped import pool_columns
from predictors.trees import Boosting, RandomForest
from search_spaces.decisions import Arch, Decisions
from search_spaces.networks import find
from search_spaces.networks.nasbench201 import cell, function_class
from tests.benchmarks.machine import stamp
from tests.benchmarks.predictors_targets import PHONES, asked_and_measured

DRAWS = 8
TESTED = 4000
REPORT = Path("docs/benchmarks/predictors.md")
CPUS = ("silver_4114", "silver_4210r", "gold_6240")
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class PoolData(NamedTuple):
    """Measured latencies of many networks on many devices."""

    X: Floats
    pool: DevicePool
    counts: Floats
    macs: Floats
    one_hot: Floats
    latency: dict[str, Floats]


def spearman(a: Floats, b: Floats) -> float:
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def tau(a: Floats, b: Floats) -> float:
    return float(kendalltau(a, b)[0])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def reference(name: str) -> Any:
    import pandas as pd

    folder = os.environ.get("COSEARCH_REFERENCE_DATA")
    if not folder:
        sys.exit("set COSEARCH_REFERENCE_DATA to the folder with the measured latency pools")
    return pd.read_parquet(Path(folder) / name)


@lru_cache(maxsize=1)
def cells() -> list[Arch]:
    return [cell(i) for i in range(15625)]


@lru_cache(maxsize=1)
def nasbench201() -> PoolData:
    found = reference("nb201_latency_pool_ms.parquet")
    space = find("nasbench201")()
    latency = {d: found[d].to_numpy(float) for d in found.columns[2:]}
    X = features(space, cells(), pool_parts(space))
    macs = features(space, cells(), ("workload",))[:, -3]
    pool = DevicePool(**pool_columns(space)).fit(X, latency)
    built = features(space, cells(), ("one_hot@built",))
    return PoolData(X, pool, X[:, :5], macs, built, latency)


FBNET_CHANNELS, FBNET_LAYERS, FBNET_STRIDES = (
    (16, 24, 32, 64, 112, 184, 352),
    (1, 4, 4, 4, 4, 4, 1),
    (1, 2, 2, 2, 1, 2, 1),
)
FBNET_OPERATIONS = ((3, 1, 1), (3, 1, 2), (3, 3, 1), (3, 6, 1), (5, 1, 1), (5, 1, 2), (5, 3, 1), (5, 6, 1))
"""(kernel, expansion, groups); the ninth is skip."""


def fbnet_macs(arch: Ints) -> float:
    """MACs of the searched blocks of FBNet on 224x224 images."""
    total, size, inputs, at = 0.0, 112, 16, 0
    for channels, layers, stride in zip(FBNET_CHANNELS, FBNET_LAYERS, FBNET_STRIDES, strict=True):
        for layer in range(layers):
            out = size // stride if layer == 0 else size
            if arch[at] < len(FBNET_OPERATIONS):
                kernel, expansion, groups = FBNET_OPERATIONS[arch[at]]
                wide = inputs * expansion
                total += size**2 * inputs * wide / groups + out**2 * wide * (kernel**2 + channels / groups)
            elif inputs != channels or out != size:
                total += out**2 * inputs * channels
            size, inputs, at = out, channels, at + 1
    return total


@lru_cache(maxsize=1)
def fbnet() -> PoolData:
    found = reference("fbnet_latency_pool_ms.parquet")
    chosen = np.array(found["arch"].tolist())
    space = Decisions({f"layer{i}": tuple(range(9)) for i in range(22)})
    archs = [{f"layer{i}": int(v) for i, v in enumerate(row)} for row in chosen]
    X = features(space, archs, ("counts", "one_hot"))
    latency = {d: found[d].to_numpy(float) for d in found.columns[1:]}
    pool = DevicePool(general=range(9)).fit(X, latency)
    return PoolData(X, pool, X[:, :9], np.array([fbnet_macs(row) for row in chosen]), X[:, 9:], latency)


def ceiling(X: Floats, y: Floats, rest: Floats) -> Floats:
    """Gradient boosting of scikit-learn on many samples of the target itself."""
    from sklearn.ensemble import GradientBoostingRegressor

    model = GradientBoostingRegressor(n_estimators=300, max_depth=4, learning_rate=0.05, subsample=0.7, random_state=0)
    return np.asarray(model.fit(X, y).predict(rest))


def leave_one_device_out(data: PoolData) -> str:
    """A table per number of samples, and what holds of it."""
    n_networks = len(data.X)
    offered = min(2000, n_networks - TESTED)
    parts = []
    for n in (10, 20):
        rows, figures, ours, floors = [], [], {}, {}
        for device, y in data.latency.items():
            pool = data.pool.without(device)
            scores: list[list[float]] = []
            for draw in range(DRAWS):
                order = np.random.default_rng(draw).permutation(n_networks)
                some, rest = order[:offered], order[offered : offered + TESTED]
                chosen = some[pool.choose(data.X[some], n)]
                row = []
                for few in (order[:n], chosen):
                    mean, _ = pool.adapt(data.X[few], y[few]).predict(data.X[rest])
                    ridge = Ridge().fit(data.counts[few], y[few]).predict(data.counts[rest])[0]
                    row += [spearman(mean, y[rest]), spearman(ridge, y[rest])]
                relative = np.abs(mean / y[rest] - 1)
                row += [tau(mean, y[rest]), float(relative.mean()), float((relative <= 0.1).mean())]
                others = [d for d in data.latency if d != device]
                nearest = max(others, key=lambda d: spearman(data.latency[d][order[:n]], y[order[:n]]))
                row.append(spearman(data.latency[nearest][rest], y[rest]))
                row.append(spearman(data.macs[rest], y[rest]))
                if n == 10 and draw < 4:
                    train = order[-900:]
                    boosted = ceiling(data.one_hot[train], y[train], data.one_hot[rest])
                    _CEILING.setdefault(device + str(n_networks), []).append(spearman(boosted, y[rest]))
                scores.append(row)
            mean_row = np.mean(scores, 0)
            ours[device], floors[device] = mean_row[[0, 2]], mean_row[[1, 3]]
            top = np.mean(_CEILING[device + str(n_networks)])
            figures.append([*mean_row, top])
            cells_ = [f"{v:.3f}" for v in (*mean_row[:5],)]
            rows.append([device, *cells_, f"{mean_row[5]:.1%}", f"{mean_row[6]:.0%}", f"{mean_row[7]:.3f}",
                         f"{mean_row[8]:.3f}", f"{top:.3f}"])  # fmt: skip
            print(n, *rows[-1], flush=True)
        all_ours, all_floors = np.array(list(ours.values())), np.array(list(floors.values()))
        below = (all_floors - all_ours).max(0)
        head = ["device", "ours, random", "ridge, same", "ours, chosen", "ridge, same", "tau", "MAPE", "within 10%",
                "nearest device", "MACs", "boosting, 900"]  # fmt: skip
        means = np.mean(figures, 0)
        rows.append(["**mean**", *(f"**{v:.4f}**" for v in means[:5]), "", "", *(f"{v:.3f}" for v in means[7:])])
        parts.append(
            f"### {n} samples\n\n{table(head, rows)}\n\nMean over devices: random samples "
            f"{all_ours[:, 0].mean():.4f} (ridge "
            f"{all_floors[:, 0].mean():.4f}), chosen samples {all_ours[:, 1].mean():.4f}. Least difference to "
            f"the ridge on the same samples (ours - ridge): {-below[0]:+.4f} with random ones, {-below[1]:+.4f} with "
            "chosen ones. "
            + ("Phones: " + ", ".join(f"{d} {ours[d][0]:.3f} / {ours[d][1]:.3f}" for d in PHONES if d in ours) + ".")
        )
    return "\n\n".join(parts)


_CEILING: dict[str, list[float]] = {}

PROTOCOL = (
    "Each device is left out of the pool in turn. Spearman correlation on 4,000 networks that were neither "
    "measured nor "
    "offered for measurement, mean of 8 draws. Random: the first n of a permutation; chosen: by "
    "`DevicePool.choose` among "
    "up to 2,000 networks. Ridge: on the operator counts, penalty by leave-one-out error, on the same samples. "
    "tau, MAPE and "
    "within 10% are of the chosen samples. Nearest device: the pool's best correlated on the random samples. "
    "Boosting: "
    "scikit-learn's, on 900 samples of the target, four draws."
)


def pool_nasbench201() -> str:
    head = "## A device never seen: NAS-Bench-201, 13 measured devices"
    return f"{head}\n\n{PROTOCOL}\n\n{leave_one_device_out(nasbench201())}"


def pool_fbnet() -> str:
    return f"## A device never seen: FBNet, 21 measured devices\n\n{PROTOCOL}\n\n{leave_one_device_out(fbnet())}"


def shipped() -> str:
    """The pool that ships, of modelled devices, adapted to the measured ones."""
    from predictors.shipped import device_pool

    data, space = nasbench201(), find("nasbench201")()
    pool = device_pool(space)
    parts = []
    for n in (10, 20):
        rows, figures = [], []
        for device, y in data.latency.items():
            scores = []
            for draw in range(DRAWS):
                order = np.random.default_rng(draw).permutation(len(y))
                few, rest = order[:n], order[2000 : 2000 + TESTED]
                got = pool.adapt(data.X[few], y[few])
                ridge = Ridge().fit(data.counts[few], y[few]).predict(data.counts[rest])[0]
                ours = spearman(got.predict(data.X[rest])[0], y[rest])
                scores.append([ours, spearman(ridge, y[rest]), got.ridge_share])
            mean = np.mean(scores, 0)
            figures.append([mean[0], mean[1], mean[0] - mean[1]])
            error = np.std(np.subtract(*np.transpose(scores)[:2]), ddof=1) / np.sqrt(DRAWS)
            shown = (f"{mean[0]:.3f}", f"{mean[1]:.3f}", f"{mean[0] - mean[1]:+.4f}", f"{error:.4f}", f"{mean[2]:.0%}")
            rows.append([device, *shown])
            print(n, *rows[-1], flush=True)
        means = [f"**{value:.4f}**" for value in np.mean(figures, 0)]
        least = np.min(figures, 0)[2]
        head = ["device", "shipped pool, adapted", "ridge on counts", "difference", "its standard error",
                "share of the ridge"]  # fmt: skip
        rows.append(["**mean**", *means, "", ""])
        parts.append(f"### {n} samples\n\n{table(head, rows)}\n\nLeast difference: {least:+.4f}.")
    return (
        f"## What ships: the pool of {', '.join(pool.devices)}, adapted to measured devices\n\nNone of the 13 "
        "devices is in the pool that ships. Its settings were chosen by leaving out the bundled devices; among rules "
        "of how far the ridge is believed and of which networks are measured, none with a fitted constant, one was "
        "chosen on these 13 and the 21 of FBNet. Random samples, Spearman on 4,000 other networks, mean of 8 draws. "
        "Share of the ridge: how much ridge regression on the samples counts beside the pool, by leave-one-out "
        "errors; in a draw where it errs less it is used alone and counts for 100%.\n\n" + "\n\n".join(parts)
    )


def device() -> str:
    """One device, its own samples only."""
    names = list(nasbench201().latency)
    with ProcessPoolExecutor(PROCESSES) as several:
        rows = [row for found in several.map(_within, names) for row in found]
    median, limit = (np.median([float(row[i]) for row in rows if row[1] == "100"]) for i in (4, 7))
    head = ["device", "samples", "chosen by auto (last draw)", "Spearman", "tau", "MAPE", "within 10%"]
    return (
        "## Within a device\n\n`ArchPredictor(space)`, model and features by cross-validation on the samples "
        "alone; 8 "
        "draws, 4,000 other networks. Ceiling: the best of boosting, least squares and regression with relative "
        "errors on every view, trained on four fifths of all networks and scored on the rest: "
        "what is left is noise.\n\n"
        f"{table([*head, 'ceiling: tau', 'ceiling: within 10%'], rows)}\n\n"
        f"Median tau over devices with 100 samples: {median:.3f}; of the ceilings: {limit:.3f}."
    )


PROCESSES = 3


def _within(name: str) -> list[list[str]]:
    """The rows of one device."""
    data, space = nasbench201(), find("nasbench201")()
    y = data.latency[name]
    ceil = noise_ceiling(data, y)
    rows = []
    for n in (100, 200) if name in CPUS else (100,):
        found = []
        for draw in range(DRAWS):
            order = np.random.default_rng(draw).permutation(len(y))
            train, rest = order[:n], order[-TESTED:]
            model = ArchPredictor(space).fit([cells()[i] for i in train], y[train])
            mean, _ = model.predict([cells()[i] for i in rest])
            relative = np.abs(mean / y[rest] - 1)
            found.append([spearman(mean, y[rest]), tau(mean, y[rest]), relative.mean(), (relative <= 0.1).mean()])
        assert model.chosen is not None
        got = np.mean(found, 0)
        shown = (f"{got[0]:.3f}", f"{got[1]:.3f}", f"{got[2]:.1%}", f"{got[3]:.1%}", f"{ceil[0]:.3f}", f"{ceil[1]:.1%}")
        rows.append([name, str(n), model.chosen.label, *shown])
        print(*rows[-1], flush=True)
    return rows


def noise_ceiling(data: PoolData, y: Floats) -> tuple[float, float]:
    """tau and the share within 10% of the best of three models trained on 12,500 networks."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    order = np.random.default_rng(0).permutation(len(y))
    train, rest = order[: len(y) * 4 // 5], order[len(y) * 4 // 5 :]
    boosted = HistGradientBoostingRegressor(loss="absolute_error").fit(data.X[train], np.log(y[train]))
    models = [kind().fit(data.X[train], y[train]) for kind in (Ridge, Relative)]
    means = [np.exp(boosted.predict(data.X[rest])), *(model.predict(data.X[rest])[0] for model in models)]
    return (
        max(tau(mean, y[rest]) for mean in means),
        max(float((np.abs(mean / y[rest] - 1) <= 0.1).mean()) for mean in means),
    )


@lru_cache(maxsize=1)
def accuracies() -> tuple[Floats, npt.NDArray[np.int64]]:
    """CIFAR-10 accuracy of each cell as trained, and its class of equal functions."""
    import hwbench_data

    y = hwbench_data.load("nasbench201").query_many(np.arange(15625), "cifar10_accuracy")["cifar10_accuracy"]
    return y, np.unique([function_class(a) for a in cells()], return_inverse=True)[1]


def unseen(draw: int, n: int) -> tuple[Ints, Ints]:
    """n training networks and 4,000 of classes that none of them belongs to."""
    classes = accuracies()[1]
    order = np.random.default_rng(draw).permutation(len(classes))
    rest = order[n:]
    return order[:n], rest[~np.isin(classes[rest], classes[order[:n]])][:TESTED]


def normal_scores(y: Floats) -> Floats:
    return np.asarray(norm.ppf((rankdata(y) - 0.5) / len(y)))


ACCURACY_HEAD = ("model", "features", "tau, 100 networks", "tau, 500 networks")


def accuracy_row(name: str, what: str, X: Floats, make: Callable[[], Predictor], ranked: bool) -> list[str]:
    """Mean and standard deviation of tau over draws, from 100 and 500 networks."""
    y, _ = accuracies()
    row = [name, what]
    for n in (100, 500):
        scores = []
        for draw in range(DRAWS):
            train, rest = unseen(draw, n)
            target = normal_scores(y[train]) if ranked else y[train]
            scores.append(tau(make().fit(X[train], target).predict(X[rest])[0], y[rest]))
        row.append(f"{np.mean(scores):.3f} ± {np.std(scores):.3f}")
    print(*row, flush=True)
    return row


def accuracy() -> str:
    space = find("nasbench201")()
    seen = {
        "one-hot, as written": features(space, cells(), ("one_hot@built",)),
        "one-hot and counts, effective": features(space, cells(), ("one_hot", "counts")),
        "paths, effective": features(space, cells(), ("counts", "paths")),
        OURS: features(space, cells(), OUR_PARTS),
    }
    kinds: dict[str, Callable[[], Predictor]] = {
        "ridge": Ridge, "gp": GaussianProcess, "forest": RandomForest, "boosting": Boosting,
    }  # fmt: skip
    rows = [accuracy_row(name, what, X, make, True) for what, X in seen.items() for name, make in kinds.items()]
    plain = "one-hot, as written"
    rows.append(accuracy_row("boosting, raw accuracy", plain, seen[plain], Boosting, False))
    rows.append(accuracy_row("**blend**", OURS, seen[OURS], Blend, False))
    return accuracy_text(rows)


OURS, OUR_PARTS = "with signal shares (ours)", ("counts", "paths", "shape", "flow")


def accuracy_text(rows: Sequence[Sequence[str]]) -> str:
    return (
        "## Accuracy: NAS-Bench-201 on CIFAR-10, classes of networks never seen\n\nKendall tau on 4,000 "
        "networks whose "
        "function class (skips and dead edges removed) has no training network; mean ± standard deviation of 8 "
        "draws. All "
        "models but those that say raw learn the normal scores of the ranks. Accuracies: package analog-nasbench.\n\n"
        + table(ACCURACY_HEAD, rows)
    )


def accuracy_neural() -> str:
    from predictors.neural import GraphNetwork, NeuralEnsemble

    space = find("nasbench201")()
    ours, graph = features(space, cells(), OUR_PARTS), features(space, cells(), ("graph",))
    rows = [
        accuracy_row(f"MLP ensemble, {loss}", OURS, ours, lambda loss=loss: NeuralEnsemble(loss=loss), True)  # type: ignore[misc]
        for loss in ("squared", "hinge", "listmle")
    ]
    rows.append(accuracy_row("graph network", "graph", graph, lambda: GraphNetwork(nodes=len(space.choices)), True))
    return f"## Accuracy: neural predictors, same protocol\n\n{table(ACCURACY_HEAD, rows)}"


RANKING_WEIGHT = 0.1
"""Of RankSim: the best of 0.01, 0.1 and 1 with squared loss on draws 100 to 103, which no table here has."""
REGULARISED = 100
"""Networks that the regulariser is measured with."""


def ranksim() -> str:
    """Each loss of the perceptrons with RankSim and without, on the same draws."""
    jobs = [(loss, weight) for loss in ("squared", "hinge", "listmle") for weight in (0.0, RANKING_WEIGHT)]
    with ProcessPoolExecutor(PROCESSES) as several:
        found = dict(zip(jobs, several.map(_regularised, *zip(*jobs, strict=True)), strict=True))
    rows = []
    for loss in ("squared", "hinge", "listmle"):
        plain, ordered = found[loss, 0.0], found[loss, RANKING_WEIGHT]
        gained = ordered - plain
        error = gained.std(ddof=1) / np.sqrt(len(gained))
        shown = (f"{scores.mean():.3f} ± {scores.std():.3f}" for scores in (plain, ordered))
        rows.append([loss, *shown, f"{gained.mean():+.4f}", f"{error:.4f}"])
    head = ["loss", "tau alone", "tau with RankSim", "difference", "its standard error"]
    return (
        f"## RankSim\n\nPerceptrons of `NeuralEnsemble` from {REGULARISED} networks, {OURS}, by the protocol of "
        f"accuracies, the same {DRAWS} draws on both sides. RankSim orders what the last hidden layer says of networks "
        f"as their accuracies are; its weight {RANKING_WEIGHT} was the best of 0.01, 0.1 and 1 on other draws.\n\n"
        f"{table(head, rows)}"
    )


def _regularised(loss: str, weight: float) -> Floats:
    """[draws] tau."""
    from predictors.neural import NeuralEnsemble

    X, (y, _) = features(find("nasbench201")(), cells(), OUR_PARTS), accuracies()
    found = []
    for draw in range(DRAWS):
        train, rest = unseen(draw, REGULARISED)
        model = NeuralEnsemble(loss=loss, ranking_weight=weight).fit(X[train], normal_scores(y[train]))
        found.append(tau(model.predict(X[rest])[0], y[rest]))
    print(loss, weight, np.round(found, 3), flush=True)
    return np.array(found)


COST_PARTS = (("counts",), ("counts", "workload"), ("counts", "costs"), ("counts", "workload", "costs"))


def cost_features() -> str:
    """What modelled costs on reference accelerators tell of measured devices."""
    from search_spaces.networks.fbnet import CHOICES

    found = reference("fbnet_latency_pool_ms.parquet")
    space = find("fbnet")((3, 224, 224), 1000)
    archs = [dict(zip(space.choices, (CHOICES[i] for i in row), strict=True)) for row in found["arch"].tolist()]
    rows = []
    for parts in COST_PARTS:
        X = features(space, archs, parts)
        for kind in (Ridge, GaussianProcess):
            row = [kind.name, ", ".join(parts)]
            for n in (20, 50, 100):
                scores = []
                for device in found.columns[1:]:
                    y = found[device].to_numpy(float)
                    for draw in range(DRAWS):
                        order = np.random.default_rng(draw).permutation(len(y))
                        few, rest = order[:n], order[-TESTED:]
                        mean = kind().fit(X[few], y[few]).predict(X[rest])[0]
                        scores.append((spearman(mean, y[rest]), tau(mean, y[rest])))
                row.append(" / ".join(f"{value:.3f}" for value in np.mean(scores, 0)))
            rows.append(row)
            print(*row, flush=True)
    head = ["model", "features", "20 samples", "50 samples", "100 samples"]
    return (
        "## Features from the cost model: FBNet, 21 measured devices\n\nEach device from its own samples alone. "
        "Spearman / Kendall tau on 4,000 other networks, mean over devices and 8 draws. costs: latency and energy on "
        "the accelerators of `predictors.reference`. `auto` compares the last two rows with others, which it does "
        "since the even devices gained by them from 50 samples on; the odd ones, looked at after that, do so too.\n\n"
        f"{table(head, rows)}"
    )


COVERAGE_DRAWS = {50: 48, 200: 24}
"""How often each number of samples is drawn: few scatter more."""


def coverage() -> str:
    rows = []
    y, _ = accuracies()
    space = find("nasbench201")()
    latency = nasbench201().latency
    for what, target, positive, model in (
        ("CIFAR-10 accuracy", y, False, "gp"),
        ("latency, silver_4210r", latency["silver_4210r"], True, "ridge"),
        ("latency, samsung_a50", latency["samsung_a50"], True, "ridge"),
        ("latency, pixel3", latency["pixel3"], True, "gp"),
    ):
        for n, draws in COVERAGE_DRAWS.items():
            inside, others, width = [], [], []
            for draw in range(draws):
                train, rest = unseen(draw, n)
                fitted = ArchPredictor(space, model, positive=positive, seed=draw).fit(
                    [cells()[i] for i in train], target[train]
                )
                low, high = fitted.interval([cells()[i] for i in rest], 0.9)
                inside.append(((low <= target[rest]) & (target[rest] <= high)).mean())
                width.append(np.median(high - low) / target[rest].std())
                other = np.setdiff1d(np.random.default_rng(draw).permutation(len(y))[: len(rest)], train)
                low, high = fitted.interval([cells()[i] for i in other], 0.9)
                others.append(((low <= target[other]) & (target[other] <= high)).mean())
            rows.append(
                [
                    what,
                    model,
                    str(n),
                    f"{np.mean(inside):.1%}",
                    f"{np.std(inside):.1%}",
                    f"{np.std(inside) / np.sqrt(draws):.1%}",
                    f"{np.mean(others):.1%}",
                    f"{np.mean(width):.2f}",
                ]
            )
            print(*rows[-1], flush=True)
    head = ["target", "model", "samples", "coverage of 90% intervals", "std over draws", "standard error",
            "of any others", "median width / std of target"]  # fmt: skip
    drawn = " and ".join(f"{count} draws of {n} samples" for n, count in COVERAGE_DRAWS.items())
    return (
        f"## Conformal intervals\n\n4,000 networks of unseen classes, {drawn}. What is promised is of these: any other "
        "network may be isomorphic to a sample, which a predictor of the effective network then knows exactly and one "
        f"of the built network does not.\n\n{table(head, rows)}"
    )


FITS, CALLS = 3, 21
"""How often each is timed."""


def speed() -> str:
    data, space = nasbench201(), find("nasbench201")()
    y = data.latency["silver_4210r"]
    X = features(space, cells(), ("counts@built", "one_hot@built"))
    load, rows = os.getloadavg()[0], []

    def add(name: str, fit: Callable[[], Any], predict: Callable[[Any], Any]) -> None:
        model = fit()
        predict(model)  # compiled kernels, caches
        fits = np.array([_seconds(fit) for _ in range(FITS)])
        calls = 1e3 * np.array([_seconds(lambda: predict(model)) for _ in range(CALLS)])
        (took, busy), (elapsed, processor) = fits.min(0), calls.min(0)
        both = f"{elapsed:.0f} ms; {np.median(calls[:, 0]):.0f} ms"
        rows.append([name, f"{took:.2f} s", f"{busy:.2f} s", both, f"{processor:.0f} ms"])
        print(*rows[-1], flush=True)

    train = np.random.default_rng(0).permutation(len(y))[:1000]
    from predictors.additive import Additive
    from predictors.neural import GraphNetwork, NeuralEnsemble

    graph = features(space, cells(), ("graph",))
    for kind in (Ridge, Additive, GaussianProcess, RandomForest, Boosting, Blend, NeuralEnsemble):
        add(f"{kind.name}, 1,000 samples", lambda k=kind: k().fit(X[train], y[train]), lambda m: m.predict(X))
    add(
        "graph network, 1,000 samples",
        lambda: GraphNetwork(nodes=len(space.choices)).fit(graph[train], y[train]),
        lambda m: m.predict(graph),
    )
    few = train[:20]
    pool = data.pool.without("silver_4210r")
    add("pool, adapt with 20 samples", lambda: pool.adapt(data.X[few], y[few]), lambda m: m.predict(data.X))
    from predictors import shipped

    for device, metric in (("cpu-x86", "latency_ms"), ("zcu102", "energy_mj")):
        add(
            f"ships: {device}, {metric}; from networks",
            partial(shipped.predictor, "nasbench201", device, metric),
            lambda found: found[0].predict(cells()),
        )
    head = ["what", "fit, adapt or load", "processor", "15,625 predictions: least; median", "processor"]
    return (
        f"## Speed\n\nLoad average from {load:.1f} to {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores. Prediction: "
        f"15,625 networks from features, where not said otherwise. Fits: the least of {FITS}; predictions: the least "
        f"and the median of {CALLS}, which are far apart where others use the machine. Processor: the least time of "
        f"all cores together; less than twice the time asked is in time on two idle cores.\n\n{table(head, rows)}"
    )


def _seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Elapsed and processor time."""
    start, busy = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start, time.process_time() - busy


SECTIONS: dict[str, Callable[[], str]] = {
    "pool-nasbench201": pool_nasbench201,
    "pool-fbnet": pool_fbnet,
    "shipped": shipped,
    "device": device,
    "cost-features": cost_features,
    "accuracy": accuracy,
    "accuracy-neural": accuracy_neural,
    "ranksim": ranksim,
    "coverage": coverage,
    "speed": speed,
}


def replace(text: str, section: str, body: str) -> str:
    """The report with one section's part replaced, sections in their order."""
    found = dict(re.findall(r"<!-- (\S+) -->\n(.*?)\n<!-- end -->", text, re.DOTALL))
    found[section] = body
    parts = [f"<!-- {name} -->\n{found[name]}\n<!-- end -->" for name in SECTIONS if name in found]
    return "\n\n".join(["# Learned predictors beside their floors", asked_and_measured(found), *parts]) + "\n"


def main(names: Sequence[str]) -> None:
    chosen: Iterator[str] = iter(names or SECTIONS)
    for name in chosen:
        if name not in SECTIONS:
            sys.exit(f"unknown section {name!r}: choose among {', '.join(SECTIONS)}")
        start = time.perf_counter()
        body = SECTIONS[name]()
        took = f"{time.perf_counter() - start:.0f} s"
        note = f"{stamp('scikit-learn')} `python -m tests.benchmarks.predictors {name}`, {took}."
        known = REPORT.read_text() if REPORT.exists() else ""
        REPORT.write_text(replace(known, name, f"{body}\n\n{note}"))
        print(body, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
