"""Predictors that come with the package: trained on the bundled tables by ``python -m predictors.shipped``.

Per space, device and metric one `ArchPredictor`, and per space and metric the `DevicePool` of all its devices.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cosearch.errors import DataError, UnknownNameError, nearest
from predictors.arch import ArchPredictor, pool_parts
from predictors.base import Floats
from predictors.encoding import features, views
from predictors.linear import Ridge
from predictors.pool import DevicePool
from predictors.scoring import scores
from predictors.storage import load, load_with_card, read_card
from search_spaces.decisions import Arch

FOLDER = Path(__file__).parent / "data"
POOL = "pool"
"""Stands in a file's name where the others have a device."""
METRICS = ("latency_ms", "energy_mj")
TRAINED_ON, POOLED_ON = 250, 4000


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
    pool = device_pool(space, metric)
    return pool if pool.views == pool_columns(space)["views"] else None


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
    import hwbench_data
    from search_spaces.networks import find
    from search_spaces.networks.nasbench201 import cell

    folder.mkdir(exist_ok=True)
    table = hwbench_data.load("nasbench201")
    space = find("nasbench201")()
    archs = [cell(i) for i in range(len(table))]
    order = np.random.default_rng(0).permutation(len(archs))
    written = []
    for metric in METRICS:
        known, sources = {}, {}
        for device in table.devices:
            try:
                values = table.query_many(np.arange(len(archs)), metric, device)[metric]
            except (DataError, UnknownNameError):  # this device has no such metric
                continue
            said = np.array(table.sources(np.arange(len(archs)), metric, device))
            measured = said == "measured"
            # what was measured is learned from alone: the table filled the rest by a predictor of its own
            known[device] = np.where(measured, values, np.nan) if measured.any() else values
            sources[device] = "measured" if measured.any() else "modelled"
        data = {"table": table.name, "metric": metric}
        for device, values in known.items():
            written.append(folder / f"{space.name}--{device}--{metric}.safetensors")
            rows = order[np.isfinite(values[order])]
            described = {**data, "device": device, "source": sources[device], "rows": len(rows)}
            _train(space, archs, values, table.networks.same, rows, written[-1], described)
        if len(known) > 1:
            rows = order[:POOLED_ON]
            X = features(space, [archs[i] for i in rows], pool_parts(space))
            pool = DevicePool(**pool_columns(space)).fit(X, {d: v[rows] for d, v in known.items()})
            written.append(folder / f"{space.name}--pool--{metric}.safetensors")
            pool.save(written[-1], data={**data, "devices": sources}, target=metric)
    return written


def _train(
    space: Any,
    archs: Sequence[Arch],
    values: Floats,
    classes: npt.NDArray[np.int64],
    order: npt.NDArray[np.int64],
    path: Path,
    data: dict[str, Any],
) -> None:
    """Fit on 250 networks, score on up to 4,000 of other classes beside ridge regression on counts, and save."""
    train = order[:TRAINED_ON]
    rest = order[~np.isin(classes[order], classes[train])][:4000]
    model = ArchPredictor(space).fit([archs[i] for i in train], values[train])
    tested = [archs[i] for i in rest]
    mean, _ = model.predict(tested)
    counts = features(space, archs, ("counts@built",))
    floor = Ridge().fit(counts[train], values[train]).predict(counts[rest])[0]
    floors = {"ridge on operator counts": scores(floor, values[rest])}
    model.save(
        path, data=data, target=data["metric"], tested_on=len(rest), score=scores(mean, values[rest]), floor=floors
    )


if __name__ == "__main__":
    for file in build():
        print(file, read_card(file).get("score", ""))
