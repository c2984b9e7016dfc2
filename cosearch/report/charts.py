"""What the charts of a report show, as data for page.js; each has a title, units and a text for who cannot see it."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from cosearch.config import RunConfig
from cosearch.report.curves import Curve, best_accuracy
from cosearch.report.facts import Facts
from cosearch.report.labels import axis, network, title
from cosearch.report.markup import Markup
from cosearch.report.shell import chart
from cosearch.report.trials import Trial
from cosearch.results import AT_DEFAULT
from cosearch.strategies.objectives import MAXIMISED, split_limit
from cosearch.words import USUAL

LOOKS: tuple[tuple[str, str, str], ...] = (
    ("c0", "circle", ""),
    ("c1", "triangle", "9 4"),
    ("c2", "cross", "3 3"),
    ("c3", "diamond", "12 3 3 3"),
    ("c4", "square", "6 2"),
    ("c7", "star", "2 4"),
)
"""Colour, symbol and dashes of the first, second ... of several things: no two differ by their colour alone."""
MOST_EVALUATED = 1500
MOST_FRONT = 4000


def look(i: int) -> dict[str, str]:
    color, symbol, dash = LOOKS[i % len(LOOKS)]
    return {"color": color, "symbol": symbol, "dash": dash}


def finite(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    return {n: float(values[n]) for n in names if n in values and math.isfinite(values[n])}


def axes_of(names: Sequence[str]) -> list[dict[str, Any]]:
    return [{"key": name, "label": axis(name), "more": name in MAXIMISED} for name in names]


def front_rows(facts: Facts, most: int) -> list[dict[str, Any]]:
    """The first rows of front.csv: column -> value."""
    if facts.result is None:
        return []
    front = facts.result.front.head(most)
    return [dict(zip(front.columns, row, strict=True)) for row in front.itertuples(index=False)]


def front_points(facts: Facts) -> list[dict[str, Any]]:
    """The rows of front.csv as points: their values, what they are, and where in the file they stand."""
    if facts.result is None:
        return []
    front = facts.result.front
    names = [n for n in (*facts.result.objectives, *USUAL, "params", "macs") if n in front]
    points = []
    for i, row in enumerate(front_rows(facts, MOST_FRONT)):
        said = network(json.loads(row["arch"]))
        where = f", trial {row['trial']}" if "trial" in row else ""
        about = [("accelerator", str(row["accelerator"]))] if "accelerator" in front else []
        point = {"id": i, "v": finite(row, names), "t": f"Pareto front, row {i}{where}"}
        points.append({**point, "n": [*about, ("network", said)]})
    return points


def evaluated_points(trials: Sequence[Trial], name: str) -> list[dict[str, Any]]:
    """What a search evaluated, thinned evenly if it is too much to draw."""
    good = [trial for trial in trials if trial.accuracy is not None]
    step = max(1, -(-len(good) // MOST_EVALUATED))
    points = []
    for trial in good[::step]:
        values = {**trial.values, "accuracy": trial.accuracy}
        about = [("accelerator", trial.accelerator)] if trial.accelerator else []
        point = {"v": finite(values, list(values)), "t": f"{name}, trial {trial.number}"}
        points.append({**point, "n": [*about, ("network", network(trial.arch))]})
    return points


def design_points(facts: Facts) -> list[dict[str, Any]]:
    """The designs of the comparison at the accuracy that the search saw, as everything else in the plot."""
    points = []
    for design in facts.result.designs if facts.result is not None else ():
        if not design.costs:
            continue
        values = {**design.costs, "accuracy": design.search_accuracy}
        measured = [("test accuracy", f"{design.accuracy:.4f}")] if design.correct else []
        about = [("accelerator", design.accelerator)] if design.accelerator else []
        shown = "finalist" if design.name == "co-search" else design.name
        point = {"v": finite(values, list(values)), "t": f"Design: {design.name}", "label": shown}
        points.append({**point, "n": [*measured, *about, ("network", network(design.arch))]})
    return points


def front_chart(facts: Facts) -> Markup:
    searches = facts.searches
    series: list[dict[str, Any]] = []
    for i, (name, trials) in enumerate(searches.items()):
        one = {"name": f"{name}: evaluated", **look(i), "style": "faint", "size": 3.2}
        series.append({**one, "points": evaluated_points(trials, name)})
    front = front_points(facts)
    names = list(dict.fromkeys(n for p in front for n in p["v"])) or list(facts.objectives)
    if front:
        one = {"name": "Pareto front", "color": "c0", "symbol": "circle", "size": 5, "line": True, "focus": True}
        series.append({**one, "points": front})
    designs = design_points(facts)
    if designs:
        finalist, others = designs[:1], [d for d in designs[1:] if not _same(d, designs[0])]
        series.append({"name": "finalist", "color": "ink", "symbol": "circle", "style": "hollow", "size": 8.5,
                       "ring": True, "points": finalist})  # fmt: skip
        series.append({"name": "other designs", "color": "ink", "symbol": "diamond", "style": "hollow", "size": 5.5,
                       "focus": True, "points": _labelled_once(others)})  # fmt: skip
    x, y = first_axes(facts.objectives)
    spec = {
        "kind": "scatter",
        "axes": axes_of(names),
        "x": x,
        "y": y,
        "series": [one for one in series if one["points"]],
        "limits": limits(facts),
    }
    note = (
        "Accuracies are those of the search. The line is the front in the two axes that are shown; each point tells "
        "its network and accelerator. Small points are recorded evaluations with one accelerator each."
    )
    return chart("front-chart", "Accuracy and costs of what was evaluated", note, _front_in_words(facts, front), spec)


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return bool(a["v"] == b["v"])


def _labelled_once(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A default accelerator may be a design's own: the label of the second of two equal points stays away."""
    seen: list[dict[str, float]] = []
    out = []
    for point in points:
        own = {k: v for k, v in point["v"].items() if k in ("accuracy", "latency_ms", "energy_mj")}
        twin = own in seen and AT_DEFAULT in point["label"]
        out.append({**point, "label": ""} if twin else point)
        seen.append(own)
    return out


def first_axes(objectives: Sequence[str]) -> tuple[str, str]:
    costs = [n for n in objectives if n != "accuracy"]
    if "accuracy" in objectives and costs:
        return costs[0], "accuracy"
    return objectives[0], objectives[min(1, len(objectives) - 1)]


def limits_of(config: RunConfig) -> dict[str, float]:
    """All limits of a run, that on accuracy included: ``max_latency_ms`` -> value."""
    least = {"min_accuracy": config.least_accuracy} if config.least_accuracy else {}
    return {**config.constraints, **least}


def limits(facts: Facts) -> list[dict[str, Any]]:
    """Limits of the run as lines."""
    lines = []
    for name, amount in limits_of(facts.config).items():
        side, limited = split_limit(name)
        lines.append(
            {"key": limited, "value": amount, "label": f"{'at most' if side == 'max' else 'at least'} {amount:g}"}
        )
    return lines


def _front_in_words(facts: Facts, front: Sequence[dict[str, Any]]) -> str:
    if not front:
        return f"{sum(len(t) for t in facts.searches.values())} evaluations; there is no front yet."
    said = []
    for name in facts.objectives:
        values = [p["v"][name] for p in front if name in p["v"]]
        if values:
            said.append(f"{title(name)} {min(values):.4g} to {max(values):.4g}")
    return f"{len(front)} designs that nothing evaluated dominates: {', '.join(said)}."


# -- how the search went --


def hypervolume_chart(curves: Mapping[str, Curve], objectives: Sequence[str], whole: bool) -> Markup:
    series = [
        {"name": name, **look(i), "line": True, "points": curve} for i, (name, curve) in enumerate(curves.items())
    ]
    counted = (
        "Every network counts with its whole hardware front."
        if whole
        else "Every network counts with its recorded accelerator only."
    )
    note = (
        f"Part of the box between the best and the worst {', '.join(title(n) for n in objectives)} of all fronts (with "
        f"a margin of a tenth) that is dominated. {counted}"
    )
    ends = "; ".join(f"{name} ends at {curve[-1][1]:.3f}" for name, curve in curves.items())
    spec = {
        "kind": "steps",
        "series": series,
        "xLabel": "evaluations",
        "yLabel": "dominated part of the box",
        "from": 0,
    }
    return chart("hypervolume", "Hypervolume over evaluations", note, f"Rising steps: {ends}.", spec)


def accuracy_chart(searches: Mapping[str, Sequence[Trial]]) -> Markup:
    curves = {name: best_accuracy(trials) for name, trials in searches.items()}
    series = [{"name": name, **look(i), "line": True, "points": c} for i, (name, c) in enumerate(curves.items()) if c]
    ends = "; ".join(f"{name} reaches {curve[-1][1]:.4f}" for name, curve in curves.items() if curve)
    spec = {"kind": "steps", "series": series, "xLabel": "evaluations", "yLabel": axis("accuracy"), "from": 0}
    return chart("best-accuracy", "Best accuracy so far", "As the search saw it.", f"Rising steps: {ends}.", spec)


# -- the finalist, layer by layer --

SMALLER: dict[str, tuple[tuple[str, float], ...]] = {
    "ms": (("s", 1e-3), ("ms", 1.0), ("µs", 1e3), ("ns", 1e6)),
    "pJ": (("J", 1e-12), ("mJ", 1e-9), ("µJ", 1e-6), ("nJ", 1e-3), ("pJ", 1.0)),
}
MOST_PARTS = 6


def scaled(values: Sequence[float], given: str) -> tuple[str, float]:
    """(unit, factor) that brings the largest value to at least 1. given: ``ms`` or ``pJ``."""
    largest = max(values, default=0.0)
    return next(((unit, f) for unit, f in SMALLER[given] if largest * f >= 1.0), SMALLER[given][-1])


def layer_charts(rows: Sequence[Mapping[str, Any]]) -> list[Markup]:
    names = [row["name"] for row in rows]
    ms, factor = scaled([row["latency_ms"] for row in rows], "ms")
    notes = [
        [
            ("engine", row["where"].split(":")[0]),
            ("use of the array", f"{row['utilisation']:.0%}"),
            ("bound by", row["bound"]),
        ]
        for row in rows
    ]
    latency = {
        "kind": "bars",
        "rows": names,
        "parts": [{"name": "latency", "color": "c0", "swatch": True, "values": _times(rows, "latency_ms", factor)}],
        "marks": {"name": "roofline: the least possible", "color": "c1", "line": True,
                  "values": _times(rows, "roofline_ms", factor)},
        "label": f"latency ({ms})",
        "notes": notes,
    }  # fmt: skip
    slowest = max(rows, key=lambda row: row["latency_ms"])
    alt = f"One bar per layer; the longest is {slowest['name']} with {slowest['latency_ms'] * factor:.3g} {ms}."
    pj, pj_factor = scaled([row["energy_mj"] * 1e9 for row in rows], "pJ")
    parts = energy_parts(rows)
    energy = {
        "kind": "bars",
        "rows": names,
        "parts": [
            {"name": name, "color": f"c{i}", "swatch": True, "values": [v * pj_factor for v in values]}
            for i, (name, values) in enumerate(parts.items())
        ],
        "label": f"energy ({pj})",
        "notes": notes,
    }
    total = sum(sum(values) for values in parts.values())
    shares = ", ".join(f"{name} {sum(values) / total:.0%}" for name, values in parts.items()) if total else "nothing"
    return [
        chart(
            "layer-latency", "Latency of each layer", "Beside the roofline, which no mapping can beat.", alt, latency
        ),
        chart(
            "layer-energy",
            "Energy of each layer, and where it goes",
            f"In all: {shares}.",
            f"In all: {shares}.",
            energy,
        ),
    ]


def _times(rows: Sequence[Mapping[str, Any]], key: str, factor: float) -> list[float]:
    return [row[key] * factor for row in rows]


def energy_parts(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Component -> pJ of each layer, the largest first; what is small is put together."""
    totals: dict[str, float] = {}
    for row in rows:
        for name, pj in row["energy_pj"].items():
            totals[name] = totals.get(name, 0.0) + pj
    order = sorted((name for name, pj in totals.items() if pj > 0), key=lambda name: -totals[name])
    named = order if len(order) <= MOST_PARTS else order[: MOST_PARTS - 1]
    parts = {name.replace("_", " "): [row["energy_pj"].get(name, 0.0) for row in rows] for name in named}
    if len(order) > len(named):
        rest = order[len(named) :]
        parts["other"] = [sum(row["energy_pj"].get(name, 0.0) for name in rest) for row in rows]
    return parts


# -- what each choice bought --


def changes_charts(changes: Mapping[str, Any]) -> list[Markup]:
    of, rows = changes["of"], changes["rows"]
    charts = []
    if "energy_mj" in of:
        charts.append(_cost_changes("energy_mj", "network", of, rows))
    elif "latency_ms" in of:
        charts.append(_cost_changes("latency_ms", "network", of, rows))
    seen = [row for row in rows if row["accuracy"] is not None]
    if seen:
        charts.append(_accuracy_changes(of, seen))
    metric = "energy_mj" if "energy_mj" in of else "latency_ms"
    if any(row["part"] == "accelerator" and row["costs"] for row in rows):
        charts.append(_cost_changes(metric, "accelerator", of, rows))
    return charts


KINDS: list[dict[str, str]] = [
    {"name": "less than the finalist", "color": "c0", "symbol": "circle", "style": "fill"},
    {"name": "the same or more", "color": "c1", "symbol": "triangle", "style": "fill"},
    {"name": "needs another accelerator", "color": "c6", "symbol": "square", "style": "hollow"},
]


def _told(row: Mapping[str, Any], of: Mapping[str, float]) -> list[tuple[str, str]]:
    told = [
        (title(name), f"{100 * (row['costs'][name] / of[name] - 1):+.1f}%")
        for name in ("latency_ms", "energy_mj")
        if name in row["costs"] and of.get(name)
    ]
    if row["accuracy"] is not None:
        told.append(("accuracy", f"{100 * (row['accuracy'] - of['accuracy']):+.2f} points"))
    return [*told, ("accelerator", row["moved"])] if row["moved"] else told


def _cost_changes(metric: str, part: str, of: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> Markup:
    own = [row for row in rows if row["part"] == part and metric in row["costs"] and of.get(metric)]
    decisions = list(dict.fromkeys(row["decision"] for row in own))
    points = []
    for row in own:
        change = 100 * (row["costs"][metric] / of[metric] - 1)
        kind = 2 if row["moved"] else int(change >= 0)
        said = f"{row['decision']}: {row['instead']} instead of {row['chosen']}"
        points.append(
            {"row": decisions.index(row["decision"]), "x": change, "kind": kind, "t": said, "n": _told(row, of)}
        )
    most = edge([point["x"] for point in points])
    label = f"change of {title(metric)} (%)" + (f"; arrows: beyond {most:.0f}%" if most is not None else "")
    spec: dict[str, Any] = {
        "kind": "strip",
        "rows": decisions,
        "points": points,
        "kinds": KINDS if any(point["kind"] == 2 for point in points) else KINDS[:2],
        "label": label,
    }
    if most is not None:
        spec["most"] = most
    cheaper = sum(point["x"] < 0 for point in points)
    alt = f"{len(points)} changes in {len(decisions)} decisions; {cheaper} would cost less."
    name = {"network": "network-changes", "accelerator": "accelerator-changes"}[part]
    return chart(name, f"Another choice in the {part}: {title(metric)}", "One decision at a time.", alt, spec)


def edge(values: Sequence[float]) -> float | None:
    """Where to cut an axis so that a few large values do not press all others together; None if nothing is lost."""
    largest = max(values, default=0.0)
    usual = sorted(values)[int(0.8 * (len(values) - 1))] if values else 0.0
    cut = max(20.0, 1.25 * usual)
    return cut if largest > 1.5 * cut else None


def _accuracy_changes(of: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> Markup:
    decisions = list(dict.fromkeys(row["decision"] for row in rows))
    points = []
    for row in rows:
        change = 100 * (row["accuracy"] - of["accuracy"])
        said = f"{row['decision']}: {row['instead']} instead of {row['chosen']}"
        point = {"row": decisions.index(row["decision"]), "x": change, "kind": int(change >= 0), "t": said}
        points.append({**point, "n": _told(row, of)})
    spec = {
        "kind": "strip",
        "rows": decisions,
        "points": points,
        "kinds": KINDS[:2],
        "label": "change of accuracy (points)",
    }
    better = sum(point["x"] > 0 for point in points)
    alt = f"{len(points)} changes whose accuracy is known; {better} would be more accurate in the search's eyes."
    return chart("accuracy-changes", "Another choice in the network: accuracy", "Where it is known.", alt, spec)
