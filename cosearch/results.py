"""What a run found, as values: designs, their accuracies with intervals, the front, and what co-search bought."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from cosearch.errors import RunError
from cosearch.reading import parse_json, require_few_columns

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from cosearch.runs import RunDirectory

Z95 = 1.959963984540054
CO_SEARCH, CONV_ONLY, RANDOM = "co-search", "conv-only", "random search"
"""The searches of a run."""
AT_DEFAULT = " @ default"
"""Ending of the name of a design that runs on the default accelerator."""


def wilson(fraction: float, n: int, z: float = Z95) -> tuple[float, float]:
    """95% score interval of a proportion observed on n images. Source: Wilson 1927."""
    centre = (fraction + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(fraction * (1 - fraction) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Design:
    """One (network, accelerator) pair of the comparison.

    costs: metric -> value; empty if the pair cannot run, and infeasible says why. correct: per training seed one
    character a test image, 1 where the integer network is right; none if accuracies are a table's. float_accuracies:
    of the networks they came from. search_accuracy: what the search saw. policies: (engine kind, w) of the mappings, on
    an accelerator; edp_bound: the energy-delay product, mJ ms, that no mappings can beat there, None if not known.
    cost_intervals: metric -> bounds that hold a measured value with probability 0.9, of costs that are predicted from
    measurements; unlike_measured: whether no measured network is like this one, so that these promise nothing.
    pipeline: what its engines reach side by side, as `Pipeline.to_json` has it; None where nothing works side by side.
    """

    name: str
    arch: dict[str, Any]
    accelerator: str
    costs: dict[str, float]
    correct: tuple[str, ...]
    float_accuracies: tuple[float, ...]
    search_accuracy: float
    infeasible: str = ""
    policies: tuple[tuple[str, float], ...] = ()
    edp_bound: float | None = None
    cost_intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    unlike_measured: bool = False
    pipeline: dict[str, Any] | None = None

    @property
    def integer_accuracies(self) -> tuple[float, ...]:
        """On the test images, one per training seed."""
        return tuple(seed.count("1") / len(seed) for seed in self.correct)

    @property
    def test_images(self) -> int:
        return len(self.correct[0])

    @property
    def accuracy(self) -> float:
        """Mean over training seeds of the integer network's test accuracy; the table's if nothing was trained."""
        return sum(self.integer_accuracies) / len(self.correct) if self.correct else self.search_accuracy

    @property
    def interval(self) -> tuple[float, float]:
        """95% Wilson interval of `accuracy` over the draw of test images; the spread over seeds is beside it."""
        return wilson(self.accuracy, self.test_images)

    @property
    def latency_ms(self) -> float | None:
        return self.costs.get("latency_ms")

    @property
    def energy_mj(self) -> float | None:
        return self.costs.get("energy_mj")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Design":
        lists: dict[str, Any] = {key: tuple(data[key]) for key in ("correct", "float_accuracies")}
        lists["policies"] = tuple((kind, float(w)) for kind, w in data.get("policies", ()))
        intervals = {name: (float(low), float(high)) for name, (low, high) in data.get("cost_intervals", {}).items()}
        return cls(**{**data, **lists, "cost_intervals": intervals})


@dataclass(frozen=True)
class Result:
    """path: the run directory. front: one row per (network, accelerator) that nothing evaluated dominates.

    objectives: what was optimised. costs_are: how the costs are known (modelled, or predicted from measurements).
    training: how finalists were trained, as `RunConfig.training`.
    """

    path: str
    front: "pd.DataFrame"
    designs: tuple[Design, ...]
    notes: tuple[str, ...]
    objectives: tuple[str, ...]
    costs_are: str
    training: str = "from scratch"

    @property
    def finalist(self) -> Design:
        return self.designs[0]

    def to_json(self) -> dict[str, Any]:
        """What a script needs: the front, the designs with their accuracies, and the notes; None for unknown values."""

        def known(value: Any) -> Any:
            value = getattr(value, "item", lambda: value)()  # plain Python numbers
            return None if isinstance(value, float) and not math.isfinite(value) else value

        front = [{str(name): known(value) for name, value in row.items()} for row in self.front.to_dict("records")]
        designs = [
            {
                "name": design.name,
                "arch": design.arch,
                "accelerator": design.accelerator,
                "costs": design.costs,
                "cost_intervals": {name: list(bounds) for name, bounds in design.cost_intervals.items()},
                "unlike_measured": design.unlike_measured,
                "accuracy": design.accuracy,
                "interval": list(design.interval) if design.correct else None,
                "integer_accuracies": list(design.integer_accuracies),
                "float_accuracies": list(design.float_accuracies),
                "search_accuracy": design.search_accuracy,
                "infeasible": design.infeasible,
                "policies": dict(design.policies),
                "edp_bound": design.edp_bound,
                "pipeline": design.pipeline,
            }
            for design in self.designs
        ]
        return {
            "path": self.path,
            "objectives": list(self.objectives),
            "costs_are": self.costs_are,
            "front": [{**row, "arch": json.loads(str(row["arch"]))} for row in front],
            "designs": designs,
            "notes": list(self.notes),
        }

    def _repr_html_(self) -> str:
        from cosearch.words import html_result

        return html_result(self)


def write_result(run: "RunDirectory", result: Result, device: str, data: str | None, data_hash: str | None) -> None:
    """front.csv and, last, result.json: a run with it is finished.

    device, data: by name; data, data_hash: None if none was read.
    Raises: RunError.
    """
    front = result.front.to_csv(index=False)
    run.write("front.csv", front)
    run.write_json(
        "result.json",
        {
            "format": "cosearch.result",
            "version": 1,
            "device": device,
            "data": data,
            "data_hash": data_hash,
            "objectives": list(result.objectives),
            "costs_are": result.costs_are,
            "front_sha256": sha256(front.encode()).hexdigest(),
            "designs": [d.to_json() for d in result.designs],
            "notes": list(result.notes),
        },
    )


def read_outcome(run: "RunDirectory") -> dict[str, Any]:
    """What result.json of a finished run says, of the form that `cosearch/export/schemas/result.schema.json` describes.

    Raises: RunError if it is not finished, or naming the field that is wrong.
    """
    from cosearch.export.schema import check

    data: dict[str, Any] = run.read_json("result.json")
    try:
        check(data, "result")
        _check_designs(data["designs"])
    except RunError as error:
        raise RunError(
            f"{run.path / 'result.json'} is damaged ({error}): write it again with: {run.resume_command}"
        ) from None
    return data


def _check_designs(designs: Sequence[Mapping[str, Any]]) -> None:
    """What no schema says. Raises: RunError."""
    trained = len(designs[0]["correct"]) > 0
    if designs[0].get("policies") and not {"latency_ms", "energy_mj"} <= set(designs[0]["costs"]):
        raise RunError("designs.0.costs: expected latency_ms and energy_mj, as the design has mappings")
    for i, design in enumerate(designs):
        correct, accuracies = design["correct"], design["float_accuracies"]
        if len({len(seed) for seed in correct}) > 1:
            raise RunError(f"designs.{i}.correct: expected as many test images of every seed")
        if len(accuracies) != len(correct):
            raise RunError(f"designs.{i}.float_accuracies: {len(accuracies)}, expected one of each of {len(correct)}")
        if trained and not correct and not design["name"].endswith(AT_DEFAULT):
            raise RunError(f"designs.{i}.correct is empty, the finalist's is not")


def read_result(run: "RunDirectory") -> Result:
    """The result of a finished run, from its files.

    Raises: RunError if it is not finished, or a file is damaged.
    """
    return as_result(run, read_outcome(run))


def as_result(run: "RunDirectory", data: Mapping[str, Any]) -> Result:
    """What `read_outcome` gives, with the front. Raises: RunError if front.csv is damaged, or of another result."""
    try:
        front = _read_front(run.path / "front.csv", data.get("front_sha256"), data["objectives"])
        designs = tuple(Design.from_json(design) for design in data["designs"])
        named = tuple(data["notes"]), tuple(data["objectives"]), data["costs_are"]
        return Result(str(run.path), front, designs, *named, run.config.training)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{run.path}: front.csv or result.json is missing or damaged ({error}): write them again with: "
            f"{run.resume_command}"
        ) from error


MOST_FRONT_BYTES = 64 << 20
"""Of front.csv: a hundred thousand designs."""
TEXTS = ("accuracy_source", "accelerator", "arch")
"""The columns of front.csv that hold no numbers."""


def _read_front(path: "Path", digest: str | None, objectives: Sequence[str]) -> "pd.DataFrame":
    """front.csv, if it is that of a digest.

    Raises: OSError; ValueError for a file that is too long, another, or not of the form that `front_table` gives.
    """
    import pandas as pd

    with path.open("rb") as file:
        content = file.read(MOST_FRONT_BYTES + 1)
    if len(content) > MOST_FRONT_BYTES:
        raise ValueError(f"front.csv has more than {MOST_FRONT_BYTES >> 20} MiB")
    if digest is not None and sha256(content).hexdigest() != digest:
        raise ValueError("front.csv is not the one that result.json was written with")
    require_few_columns(content)
    front = pd.read_csv(io.BytesIO(content), dtype=dict.fromkeys(TEXTS, str), keep_default_na=False, na_values=[""])
    for name in ("arch", "accuracy_source", *objectives):
        if name not in front:
            raise ValueError(f"front.csv has no column {name!r:.50}")
        if name in TEXTS and name in objectives:
            raise ValueError(f"the objective {name!r} is no column of numbers")
    for name in map(str, front.columns):
        column = front[name]
        if name in TEXTS and column.isna().any():
            raise ValueError(f"an empty cell in the column {name!r} of front.csv")
        if name not in TEXTS and not pd.api.types.is_numeric_dtype(column):
            raise ValueError(f"the column {name!r:.50} of front.csv is no column of numbers")
    for text in front["arch"]:
        arch = parse_json(text)
        if not isinstance(arch, dict) or not all(isinstance(choice, str | int | float) for choice in arch.values()):
            raise ValueError(f"front.csv has {text!r:.50} where a network is expected")
    return front


def bought(designs: Sequence[Design]) -> list[str]:
    """What co-search bought, one sentence per baseline, from the first design's point of view."""
    finalist = designs[0]
    lines = []
    for other in designs[1:]:
        if other.infeasible:
            lines.append(f"{other.name}: {other.infeasible}")
            continue
        gains = [
            f"{finalist.costs[metric] / other.costs[metric]:.2f}x {metric.split('_')[0]}"
            for metric in ("energy_mj", "latency_ms")
            if other.costs.get(metric)
        ]
        lines.append(f"against {other.name}: {', '.join(gains)} at {_points(finalist, other)}")
    return lines


def _points(ours: Design, theirs: Design) -> str:
    if not ours.correct:
        return f"{100 * (ours.accuracy - theirs.accuracy):+.2f} points of accuracy"
    mean, low, high = (100 * value for value in accuracy_difference(ours, theirs))
    return f"{mean:+.2f} points of accuracy [{low:+.2f}, {high:+.2f}]"


RESAMPLES = 2000


def accuracy_difference(ours: Design, theirs: Design) -> tuple[float, float, float]:
    """Mean difference of accuracy and its 95% interval, paired on the test images.

    Bootstrap over images and, on each side, over training seeds; seeded, so that it gives the same answer twice.
    """
    import numpy as np

    a, b = (np.array([[c == "1" for c in seed] for seed in d.correct], dtype=float) for d in (ours, theirs))
    rng = np.random.default_rng(0)
    n = a.shape[1]
    drawn = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        images = rng.integers(n, size=n)
        mine, other = a[rng.integers(len(a), size=len(a))], b[rng.integers(len(b), size=len(b))]
        drawn[i] = (mine.mean(axis=0) - other.mean(axis=0))[images].mean()
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(a.mean() - b.mean()), float(low), float(high)
