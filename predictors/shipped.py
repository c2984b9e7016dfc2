"""Predictors that come with the package: trained on the bundled tables by ``python -m predictors.shipped``.

Per space, device and metric one `ArchPredictor`, and per space and metric the `DevicePool` of all its devices.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cosearch.errors import DataError, UnknownNameError, nearest
from predictors.arch import ArchPredictor, identity, pool_parts
from predictors.base import Floats
from predictors.encoding import classes, features, views
from predictors.linear import Ridge
from predictors.pool import DevicePool
from predictors.scoring import scores
from predictors.storage import load, load_with_card, read_card
from search_spaces.decisions import Arch

FOLDER = Path(__file__).parent / "data"
POOL = "pool"
"""Stands in a file's name where the others have a device."""
METRICS = ("latency_ms", "energy_mj")
ANY = "any"
"""Stands there for what is the same on all devices, such as an accuracy."""
TRAINED_ON, TESTED_ON, POOLED_ON, SAMPLED = 250, 4000, 4000, 5000
LEAST_POOL, POOL_DRAWS = 3, 4
SUMS = ("additive", ("one_hot@built",))
"""What learns costs that are sums over layers, in the smallest file."""
RANKED = ("robust", ("counts@built", "one_hot@built"))
"""What learns accuracies with the least cross-validated error of those whose file is small."""


def pool_columns(space: Any) -> dict[str, Any]:
    """The arguments of a `DevicePool` over `pool_parts` of a space."""
    shown = views(space)
    counts = len(dict.fromkeys(c for options in space.choices.values() for c in options))
    width = counts + sum(len(options) for options in space.choices.values())
    return {
        "views": [list(range(i * width, (i + 1) * width)) for i in range(len(shown))],
        "general": list(range(counts)),
    }


def device_pool(space: Any, metric: str = "latency_ms") -> DevicePool:
    """The pool of the devices of a space's bundled table.

    Raises: UnknownNameError if none ships for the space and metric.
    """
    pool: DevicePool = load(_file(space.name, POOL, metric))
    return pool


def known_pool(space: Any, metric: str) -> DevicePool | None:
    """The pool that ships for a metric of this very space, or None."""
    if (getattr(space, "name", ""), POOL, metric) not in available():
        return None
    pool, card = load_with_card(_file(space.name, POOL, metric))
    return pool if card["space"] == identity(space) else None


def predictor(space_name: str, device: str, metric: str = "latency_ms") -> tuple[ArchPredictor, dict[str, Any]]:
    """The predictor of one device that ships, and its card.

    Raises: UnknownNameError with the nearest name of a device, space or metric that has one.
    """
    if device == POOL:
        devices = sorted({d for s, d, m in available() if (s, m) == (space_name, metric) and d != POOL})
        known = ", ".join(devices) or "none"
        raise UnknownNameError(f"{POOL!r} is what several devices have in common, no device; one that ships: {known}")
    return load_with_card(_file(space_name, device, metric))


def available() -> list[tuple[str, str, str]]:
    """(space, device or ``pool``, metric) of every predictor that ships."""
    files = sorted(FOLDER.glob("*.safetensors"))
    return [(space, device, metric) for space, device, metric in (f.stem.split("--") for f in files)]


def _file(space_name: str, device: str, metric: str) -> Path:
    # a pool is no device, so it is never the nearest name of one
    known = [entry for entry in available() if (entry[1] == POOL) == (device == POOL)]
    for at, (what, wanted) in enumerate((("space", space_name), ("device", device), ("metric", metric))):
        names = sorted({entry[at] for entry in known if entry[:at] == (space_name, device, metric)[:at]})
        if wanted not in names:
            raise UnknownNameError(f"no predictor ships for {what} {wanted!r}: {nearest(wanted, names)}")
    return FOLDER / f"{space_name}--{device}--{metric}.safetensors"


def build(folder: Path = FOLDER) -> list[Path]:
    """Train on every bundled table and write the files. Returns: what was written.

    Raises: DataError if a table is missing or altered.
    """
    folder.mkdir(exist_ok=True)
    written = []
    for source in (_cells, _fbnet, _shiftadd):
        networks = source()
        for metric in METRICS:
            known = {device: found for (device, name), found in networks.figures.items() if name == metric}
            if networks.single:
                written += [_train(networks, device, metric, folder) for device in known]
            if len(known) >= LEAST_POOL:
                written.append(_pool(networks, metric, folder))
        written += [_train(networks, ANY, metric, folder) for device, metric in networks.figures if device == ANY]
    return written


class _Bundled(NamedTuple):
    """Networks of a bundled table. same: [n] equal for isomorphic ones; model, parts: what learns them best.

    figures: (device, metric) -> [n] values, NaN where there is none, and whether they are measured or modelled.
    """

    table: str
    space: Any
    archs: Sequence[Arch]
    same: npt.NDArray[np.int64]
    figures: dict[tuple[str, str], tuple[Floats, str]]
    model: str = "auto"
    parts: tuple[str, ...] | None = None
    single: bool = True
    """Whether each device has a predictor of its own, beside the pool of all."""


def _cells() -> _Bundled:
    import hwbench_data
    from search_spaces.networks import find
    from search_spaces.networks.nasbench201 import cell

    table = hwbench_data.load("nasbench201")
    every = np.arange(len(table))
    figures = {}
    for metric in METRICS:
        for device in table.devices:
            try:
                values = table.query_many(every, metric, device)[metric]
            except (DataError, UnknownNameError):  # this device has no such metric
                continue
            # what was measured is learned from alone: the table filled the rest by a predictor of its own
            measured = np.array(table.sources(every, metric, device)) == "measured"
            source = "measured" if measured.any() else "modelled"
            figures[device, metric] = (np.where(measured, values, np.nan) if measured.any() else values, source)
    archs = [cell(i) for i in every.tolist()]
    return _Bundled(table.name, find("nasbench201")(), archs, table.networks.same, figures)


def _fbnet() -> _Bundled:
    """Random networks of FBNet's space for small images: a look-up table of the blocks tells each device's exactly."""
    import hwbench_data
    from hwbench_data.fbnet import compose
    from search_spaces.networks import find

    table, space = hwbench_data.load("fbnet_blocks"), find("fbnet")()
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(SAMPLED)]
    figures = {}
    for metric in METRICS:
        for device in table.devices:
            try:
                values = compose(table, space, archs, device, metric)
            except (DataError, UnknownNameError):
                continue
            figures[device, metric] = (values, table.card.devices[device]["source"])
    return _Bundled(table.name, space, archs, classes(space, archs), figures, single=False)


def _shiftadd() -> _Bundled:
    import hwbench_data
    from cosearch import shapes
    from hwbench_data.recipes.shiftadd import SIDE
    from search_spaces.networks import find

    table, space = hwbench_data.load("shiftadd"), find("shiftadd")((1, SIDE, SIDE), len(shapes.CLASSES))
    every = np.random.default_rng(0).permutation(len(table))[:SAMPLED]
    archs = [table.networks.arch(i) for i in every.tolist()]
    figures = {}
    for device, metric in [*((d, m) for d in table.devices for m in METRICS), (ANY, "supernet_accuracy")]:
        values = table.query_many(every, metric, None if device == ANY else device)[metric]
        figures[device, metric] = (values, "measured" if device == ANY else "modelled")
    return _Bundled(table.name, space, archs, classes(space, archs), figures, *SUMS)


def _train(networks: _Bundled, device: str, metric: str, folder: Path) -> Path:
    """Fit on 250 networks, score on up to 4,000 of other classes beside ridge regression on counts, and save."""
    values, source = networks.figures[device, metric]
    order = np.random.default_rng(0).permutation(len(values))
    order = order[np.isfinite(values[order])]
    train = order[:TRAINED_ON]
    rest = order[~np.isin(networks.same[order], networks.same[train])][:TESTED_ON]
    cost = metric in METRICS
    kind = (networks.model, networks.parts) if cost else RANKED
    model = ArchPredictor(networks.space, *kind, positive=cost)
    model.fit([networks.archs[i] for i in train], values[train])
    mean, _ = model.predict([networks.archs[i] for i in rest])
    counts = features(networks.space, networks.archs, ("counts@built",))
    floor = Ridge().fit(counts[train], values[train]).predict(counts[rest])[0]
    path = folder / f"{networks.space.name}--{device}--{metric}.safetensors"
    model.save(
        path,
        data={"table": networks.table, "metric": metric, "device": device, "source": source, "rows": len(order)},
        target=metric,
        tested_on=len(rest),
        score=scores(mean, values[rest]),
        floor={"ridge on operator counts": scores(floor, values[rest])},
    )
    return path


def _pool(networks: _Bundled, metric: str, folder: Path) -> Path:
    """Fit on 4,000 networks; its score is that of ten samples of each device by a pool without that device."""
    space = networks.space
    known = {device: values for (device, name), (values, _) in networks.figures.items() if name == metric}
    rows = np.random.default_rng(0).permutation(len(networks.archs))[:POOLED_ON]
    X = features(space, [networks.archs[i] for i in rows], pool_parts(space))
    figures = {device: values[rows] for device, values in known.items()}
    pool = DevicePool(**pool_columns(space)).fit(X, figures)
    counts = X[:, pool_columns(space)["general"]]
    found: list[tuple[float, float]] = []
    for device, values in figures.items():
        some = np.flatnonzero(np.isfinite(values))
        other = pool.without(device)
        for draw in range(POOL_DRAWS):
            order = np.random.default_rng(draw).permutation(some)
            few, rest = order[:10], order[10:]
            ours = other.adapt(X[few], values[few]).predict(X[rest])[0]
            ridge = Ridge().fit(counts[few], values[few]).predict(counts[rest])[0]
            found.append(tuple(scores(mean, values[rest])["spearman"] for mean in (ours, ridge)))  # type: ignore[arg-type]
    ours, ridge = np.mean(found, 0)
    path = folder / f"{space.name}--{POOL}--{metric}.safetensors"
    sources = {device: source for (device, name), (_, source) in networks.figures.items() if name == metric}
    pool.save(
        path,
        space=identity(space),
        data={"table": networks.table, "metric": metric, "devices": sources, "rows": len(rows)},
        target=metric,
        tested_on=f"each device by the others' pool and 10 of its networks, {POOL_DRAWS} draws",
        score={"spearman": round(float(ours), 5)},
        floor={"ridge on operator counts": {"spearman": round(float(ridge), 5)}},
    )
    return path


def _main() -> None:
    """The command; an option that it does not know is refused before a file is written."""
    parser = argparse.ArgumentParser(prog="python -m predictors.shipped", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files go; without it, the package's own")
    for file in build(parser.parse_args().folder):
        print(file, read_card(file).get("score", ""))


if __name__ == "__main__":
    _main()
