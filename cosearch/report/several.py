"""The report of several runs side by side; runs of one configuration with different seeds are one group."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np

from cosearch.config import RunConfig
from cosearch.errors import RunError
from cosearch.report.charts import axes_of, design_points, first_axes, front_points, look
from cosearch.report.curves import Curve, Moves, common_box, hypervolume_curves, moves, over_runs
from cosearch.report.facts import Facts, require_finished
from cosearch.report.labels import axis, better, plural, title
from cosearch.report.markup import Markup, facts_list, fold, join, table, tag
from cosearch.report.page import command
from cosearch.report.searching import Matrix, attainment, difference_interval, front_of, mean_interval
from cosearch.report.shell import Section, bullets, chart, code, page, paragraph
from cosearch.results import CO_SEARCH, CONV_ONLY, RANDOM, Design
from cosearch.strategies.objectives import MAXIMISED
from cosearch.strategies.study import STUDY
from cosearch.words import USUAL, number

OF_NO_MATTER = frozenset(
    {"seed", "out", "quiet", "minutes", "threads", "torch_device", "ray", "ray_cpus", "ray_gpus", "ray_order"}
)
"""Options in which the runs of one group may differ; of the order of results `RunConfig.order` says what matters."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed. name: A, B, ...; apart: what sets them apart from other groups."""

    name: str
    apart: str
    runs: tuple[Facts, ...]

    @cached_property
    def finalists(self) -> list[Design]:
        return [require_finished(run).finalist for run in self.runs]


@dataclass(frozen=True)
class Comparison:
    """objectives: those that all runs have. found: per run what moved the fronts, in these objectives."""

    groups: tuple[Group, ...]
    objectives: tuple[str, ...]
    found: tuple[tuple[Moves, ...], ...]
    whole: bool

    @property
    def runs(self) -> list[Facts]:
        return [run for group in self.groups for run in group.runs]


def grouped(runs: Sequence[Facts]) -> tuple[Group, ...]:
    """Runs by configuration, in order of first appearance."""
    kinds: dict[str, list[Facts]] = {}
    for run in runs:
        same = run.config.model_dump_json(exclude=set(OF_NO_MATTER)) + run.config.order
        kinds.setdefault(same, []).append(run)
    apart = differing([members[0].config for members in kinds.values()])
    named = [", ".join(f"{n} {_said(members[0].config, n)}" for n in apart) for members in kinds.values()]
    return tuple(
        Group(_label(i) if len(kinds) > 1 else "all runs", name, tuple(members))
        for i, (name, members) in enumerate(zip(named, kinds.values(), strict=True))
    )


def _label(i: int) -> str:
    """A to Z, then A1, B1 and on."""
    return ascii_uppercase[i % 26] + (str(i // 26) if i >= 26 else "")


def differing(configs: Sequence[RunConfig]) -> list[str]:
    """The options of weight that are not the same everywhere."""
    names = [*(name for name in RunConfig.model_fields if name not in OF_NO_MATTER), "order"]
    return [name for name in names if len({_said(config, name) for config in configs}) > 1]


def _value(config: RunConfig, name: str) -> Any:
    """As JSON has it."""
    value = getattr(config, name)
    return str(value) if isinstance(value, Path) else value


def _said(config: RunConfig, name: str) -> str:
    given = getattr(config, name)
    return ",".join(map(str, given)) if isinstance(given, tuple) else str(given)


def comparison(runs: Sequence[Facts]) -> Comparison:
    """Raises: RunError for fewer than two runs, one that is not finished, or nothing in common."""
    if len(runs) < 2:
        raise RunError(f"compare needs two runs or more, got {len(runs)}: give their directories")
    results = [require_finished(run) for run in runs]
    shared = tuple(n for n in results[0].objectives if all(n in result.objectives for result in results))
    if not shared:
        said = "; ".join(f"{run.path}: {', '.join(run.objectives)}" for run in runs)
        raise RunError(f"the runs have no objective in common ({said}): compare runs that optimised the same")
    whole = all(run.details is not None for run in runs)
    groups = grouped(runs)
    found = tuple(tuple(_projected(run, shared, whole) for run in group.runs) for group in groups)
    return Comparison(groups, shared, found, whole)


def _projected(run: Facts, objectives: tuple[str, ...], whole: bool) -> Moves:
    """What moved a run's fronts, seen in some of its objectives."""
    own = moves(run, whole)
    if CO_SEARCH not in own.searches:
        raise RunError(
            f"{run.path / STUDY} has no trial of the search: put the study of this run back, or leave it out"
        )
    columns = [run.objectives.index(name) for name in objectives]
    searches = {
        name: [type(entry)(entry.trial, entry.points[:, columns]) for entry in found]
        for name, found in own.searches.items()
    }
    return Moves(searches, own.whole)


def several_page(compared: Comparison) -> str:
    """The page as HTML."""
    runs = compared.runs
    sections = [
        _found(compared),
        _fronts(compared),
        _attained(compared),
        _search(compared),
        _trust(compared),
        _reproduce(compared),
    ]
    head = join(
        tag("h1", f"{plural(len(runs), 'run')} side by side"),
        paragraph(
            f"{plural(len(compared.groups), 'configuration')}, {_seeds_in_words(compared)}. "
            f"Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
            kind="quiet",
        ),
    )
    foot = paragraph("Made by cosearch from the files of the run directories; this page needs no network.")
    return page(f"cosearch: {len(runs)} runs side by side", head, sections, foot)


def _seeds_in_words(compared: Comparison) -> str:
    counts = {len(group.runs) for group in compared.groups}
    least, most = min(counts), max(counts)
    return plural(least, "run") + " each" if least == most else f"{least} to {most} runs each"


# -- what was found --


def _metrics(compared: Comparison) -> list[str]:
    designs = [design for group in compared.groups for design in group.finalists]
    names = dict.fromkeys((*compared.objectives, "latency_ms", "energy_mj", "area_mm2"))
    return [n for n in names if n != "accuracy" and all(n in design.costs for design in designs)]


Rows = list[list[str]]


def by_configuration(compared: Comparison) -> tuple[list[str], Rows]:
    """(columns, rows): the finalists of each configuration, mean and spread over its runs."""
    metrics = _metrics(compared)
    columns = ["configuration", "runs", "accuracy, mean (least to most)", *(axis(n) for n in metrics)]
    rows = []
    for group in compared.groups:
        accuracies = [design.accuracy for design in group.finalists]
        costs = [_spread(n, [design.costs[n] for design in group.finalists]) for n in metrics]
        rows.append([group.name, str(len(group.runs)), _spread("accuracy", accuracies), *costs])
    return columns, rows


def by_run(compared: Comparison) -> tuple[list[str], Rows]:
    """(columns, rows): the finalist of each run."""
    metrics = _metrics(compared)
    columns = ["run", "configuration", "seed", "accuracy [95% interval]", *(axis(n) for n in metrics)]
    rows = [
        [run.name, group.name, str(run.config.seed), _accuracy(design), *(number(n, design.costs[n]) for n in metrics)]
        for group in compared.groups
        for run, design in zip(group.runs, group.finalists, strict=True)
    ]
    return columns, rows


def sentences(compared: Comparison) -> list[str]:
    """What sets the configurations apart from the first one, and joint search from the other searches."""
    return [*_differences(compared), *_beside_baselines(compared, curves_over_runs(compared))]


def configurations(compared: Comparison) -> list[tuple[str, str]]:
    """(name, what sets it apart) of each configuration; none if there is one."""
    return [(group.name, group.apart) for group in compared.groups if group.apart]


def _found(compared: Comparison) -> Section:
    groups, runs = by_configuration(compared), by_run(compared)
    differences = list(_differences(compared))
    body = join(
        (tag("p", text, class_="warning") for text in warnings(compared)),
        facts_list(configurations(compared)),
        table(*groups, range(1, len(groups[0])), "The finalists of each configuration"),
        tag("h3", "Configurations beside the first one") if differences else None,
        bullets(differences) if differences else None,
        table(*runs, range(2, len(runs[0])), "The finalist of each run"),
    )
    return Section("found", "Found", "What was found", body)


def _spread(name: str, values: Sequence[float]) -> str:
    mean = number(name, float(np.mean(values)))
    return mean if len(values) == 1 else f"{mean} ({number(name, min(values))} to {number(name, max(values))})"


def _accuracy(design: Design) -> str:
    if not design.correct:
        return number("accuracy", design.accuracy)
    low, high = design.interval
    return f"{design.accuracy:.4f} [{low:.3f}, {high:.3f}]"


def _differences(compared: Comparison) -> Iterator[str]:
    first, *others = compared.groups
    for group in others:
        mean, low, high = difference_interval(
            [d.accuracy for d in group.finalists], [d.accuracy for d in first.finalists]
        )
        said = [f"{100 * mean:+.2f} points of accuracy{_interval(100 * low, 100 * high, '+.2f')}"]
        for name in ("energy_mj", "latency_ms"):
            if all(d.costs.get(name) for g in (group, first) for d in g.finalists):
                logs = [[math.log(d.costs[name]) for d in g.finalists] for g in (group, first)]
                ratio, least, most = difference_interval(*logs)
                said.append(f"{math.exp(ratio):.2f}x {title(name)}{_interval(_exp(least), _exp(most), '.2f')}")
        missing = "" if math.isfinite(low) else "; no intervals: they need two runs on each side"
        yield f"{group.name} against {first.name}: {', '.join(said)}{missing}"


def _exp(value: float) -> float:
    return math.exp(value) if math.isfinite(value) else value


def _interval(low: float, high: float, form: str) -> str:
    """Nothing if there is none."""
    return f" [{low:{form}}, {high:{form}}]" if math.isfinite(low) and math.isfinite(high) else ""


def warnings(compared: Comparison) -> Iterator[str]:
    runs = compared.runs
    if len({run.data_hash for run in runs}) > 1:
        yield "The runs saw different data: their accuracies do not compare."
    if len({run.config.accuracy for run in runs}) > 1:
        yield "The accuracies of the searches come from different sources: their fronts do not compare."
    for group in compared.groups:
        seeds = [run.config.seed for run in group.runs]
        if len(set(seeds)) < len(seeds):
            yield f"{group.name}: a seed stands twice, so the spread over seeds is too small."
    asked = {objective for run in runs for objective in run.objectives}
    if asked != set(compared.objectives):
        left = ", ".join(sorted(asked - set(compared.objectives)))
        yield f"Not every run optimised {left}: fronts and hypervolumes leave it out."


def to_json(compared: Comparison) -> dict[str, Any]:
    """What a script needs of a comparison: configurations, the finalist of each run, and the sentences.

    hypervolume: of each search of a run at its end, as a part of one box for all runs.
    """
    apart, curves = differing([run.config for run in compared.runs]), curves_over_runs(compared)

    def one(group: int, at: int, run: Facts) -> dict[str, Any]:
        [finalist, *_] = require_finished(run).to_json()["designs"]
        whole = {n: c for (g, n), c in curves.items() if g == group and len(c) == len(compared.groups[group].runs)}
        reached = {name: found[at][-1][1] for name, found in whole.items()}
        return {"path": str(run.path), "seed": run.config.seed, "finalist": finalist, "hypervolume": reached}

    return {
        "objectives": list(compared.objectives),
        "configurations": [
            {
                "name": group.name,
                "apart": {name: _value(group.runs[0].config, name) for name in apart},
                "runs": [one(i, at, run) for at, run in enumerate(group.runs)],
            }
            for i, group in enumerate(compared.groups)
        ],
        "warnings": list(warnings(compared)),
        "sentences": sentences(compared),
    }


# -- fronts and attainment --


def _fronts(compared: Comparison) -> Section:
    series: list[dict[str, Any]] = []
    rings: list[dict[str, Any]] = []
    for i, group in enumerate(compared.groups):
        points = []
        for run in group.runs:
            points += [
                {**p, "t": f"{run.name}: {p['t']}", "id": f"{run.name}-{p['id']}", "v": _known(p, compared)}
                for p in front_points(run)
            ]
            rings += [{**p, "label": run.name if len(compared.runs) <= 6 else ""} for p in design_points(run)[:1]]
        one = {"name": group.name, **look(i), "size": 4, "line": True, "focus": len(points) <= 200}
        series.append({**one, "points": points})
    series.append({"name": "finalists", "color": "ink", "symbol": "circle", "style": "hollow", "size": 8, "ring": True,
                   "points": rings})  # fmt: skip
    names = list(dict.fromkeys(n for one in series[:-1] for p in one["points"] for n in p["v"]))
    x, y = first_axes(compared.objectives)
    spec = {"kind": "scatter", "axes": axes_of(names), "x": x, "y": y, "series": series, "limits": []}
    note = (
        "Every design of every run's front.csv; lines join what no run of the configuration surpasses in the two axes "
        "that are shown."
    )
    alt = "; ".join(
        f"{group.name}: {len(one['points'])} designs" for group, one in zip(compared.groups, series, strict=False)
    )
    body = chart("fronts", "The fronts of all runs", note, f"{alt}.", spec)
    return Section("front", "Fronts", "The Pareto fronts", body)


def _known(point: dict[str, Any], compared: Comparison) -> dict[str, float]:
    names = {*compared.objectives, *USUAL, "params", "macs"}
    return {name: value for name, value in point["v"].items() if name in names}


def attained(compared: Comparison, group: int, x: str, y: str) -> dict[str, Matrix]:
    """What the co-searches of a group attain in two objectives: the best, the median and the worst of the runs.

    Returns: [steps, 2] in the objectives' own directions.
    """
    columns = [compared.objectives.index(name) for name in (x, y)]
    all_of = [front_of(found.searches[CO_SEARCH], len(compared.objectives)) for found in compared.found[group]]
    fronts = [front[:, columns] for front in all_of]
    n = len(fronts)
    signs = np.array([-1.0 if name in MAXIMISED else 1.0 for name in (x, y)])
    levels = {"best": 1, "median": (n + 1) // 2, "worst": n}
    return {name: attainment(fronts, runs) * signs for name, runs in levels.items()}


def _attained(compared: Comparison) -> Section:
    charts = []
    pairs = _pairs(compared.objectives)
    several = [i for i, group in enumerate(compared.groups) if len(group.runs) > 1]
    for x, y in pairs if several else ():
        found = {i: attained(compared, i, x, y) for i in several}
        charts.append(_attainment_chart(compared, found, x, y))
    missing = "No configuration has runs with several seeds, so nothing is known about the spread over seeds."
    if several and not pairs:
        missing = "The runs share one objective only: there is no trade-off to attain."
    body = join(tag("div", charts, class_="pair")) if charts else paragraph(missing)
    return Section("attainment", "Attainment", "What is attained over seeds", body)


def _pairs(objectives: Sequence[str]) -> list[tuple[str, str]]:
    if "accuracy" in objectives:
        return [(name, "accuracy") for name in objectives if name != "accuracy"]
    return [(objectives[0], name) for name in objectives[1:]]


def _attainment_chart(compared: Comparison, found: dict[int, dict[str, Matrix]], x: str, y: str) -> Markup:
    every = np.concatenate([steps for levels in found.values() for steps in levels.values()])
    edge = every.min(axis=0)[0] if x in MAXIMISED else every.max(axis=0)[0]
    floor = every[:, 1].min() if y in MAXIMISED else every[:, 1].max()
    series = []
    said = []
    for i, levels in found.items():
        lines = {
            name: [*map(tuple, steps.tolist()), (edge, float(steps[-1, 1]))]
            for name, steps in levels.items()
            if len(steps)
        }
        one: dict[str, Any] = {"name": f"{compared.groups[i].name}: median", **look(i), "line": True}
        one["points"] = lines["median"]
        one["high"] = lines["best"]
        one["low"] = [(lines["best"][0][0], float(floor)), *lines["worst"]]
        series.append(one)
        said.append(f"{compared.groups[i].name}: {plural(len(compared.groups[i].runs), 'run')}")
    spec = {"kind": "steps", "series": series, "xLabel": axis(x), "yLabel": axis(y)}
    note = f"Half of the runs attain the line; the band reaches from what all attain to what one does ({better(y)})."
    heading = f"{title(y).capitalize()} attained for a given {title(x)}"
    return chart(f"attained-{x}-{y}", heading, note, "; ".join(said) + ".", spec)


# -- how the searches went --


def curves_over_runs(compared: Comparison) -> dict[tuple[int, str], list[Curve]]:
    """(group, search) -> the hypervolume curve of each run, all in one box."""
    every = [found for group in compared.found for run in group for found in run.searches.values()]
    within = common_box(every, len(compared.objectives))
    curves: dict[tuple[int, str], list[Curve]] = {}
    for i, group in enumerate(compared.groups):
        for run, found in zip(group.runs, compared.found[i], strict=True):
            evaluations = {name: len(trials) for name, trials in run.searches.items()}
            made = hypervolume_curves(found.searches, evaluations, within) if within is not None else {}
            for name, curve in made.items():
                curves.setdefault((i, name), []).append(curve)
    return curves


def _search(compared: Comparison) -> Section:
    curves = curves_over_runs(compared)
    series = []
    order = [key for key in curves if key[1] in (CO_SEARCH, RANDOM)]
    for n, (i, name) in enumerate(order):
        median, least, most = over_runs(curves[i, name])
        label = name if len(compared.groups) == 1 else f"{compared.groups[i].name}: {name}"
        one: dict[str, Any] = {"name": label, **look(n), "line": True, "points": median}
        series.append({**one, "low": least, "high": most} if len(curves[i, name]) > 1 else one)
    spec = {
        "kind": "steps",
        "series": series,
        "xLabel": "evaluations",
        "yLabel": "dominated part of the box",
        "from": 0,
    }
    counted = "whole hardware fronts counted" if compared.whole else "recorded accelerators only counted"
    note = f"Median over the runs of a configuration, band from least to most; one box for all runs, {counted}."
    body = join(
        chart("hypervolume", "Hypervolume over evaluations", note, "Rising steps, one line per search.", spec),
        table(
            ["configuration", "search", "runs", "hypervolume at the end, mean [95% interval]"],
            [
                [compared.groups[i].name, name, len(found), _mean([curve[-1][1] for curve in found])]
                for (i, name), found in curves.items()
            ],
            (2, 3),
        ),
        tag("h3", "Joint search beside the other searches at equal evaluations"),
        bullets(_beside_baselines(compared, curves)),
    )
    return Section("search", "Search", "How the searches went", body)


def _mean(values: Sequence[float]) -> str:
    mean, low, high = mean_interval(values)
    return f"{mean:.4f}" if len(values) < 2 else f"{mean:.4f} [{low:.4f}, {high:.4f}]"


def _beside_baselines(compared: Comparison, curves: dict[tuple[int, str], list[Curve]]) -> Iterator[str]:
    """Paired within each run: the searches of a run had the same accuracies to ask for."""
    for i, group in enumerate(compared.groups):
        ours = curves.get((i, CO_SEARCH), [])
        for baseline in (RANDOM, CONV_ONLY):
            theirs = curves.get((i, baseline), [])
            if not ours or len(ours) != len(theirs):
                if baseline == RANDOM:
                    yield f"{group.name}: not measured in these runs"
                continue
            gains = [a[-1][1] - b[-1][1] for a, b in zip(ours, theirs, strict=True)]
            mean, low, high = mean_interval(gains)
            ahead = sum(gain > 0 for gain in gains)
            yield (
                f"{group.name}: joint search dominates {mean:+.4f} of the box beside {baseline} at equal evaluations"
                f"{_interval(low, high, '+.4f')}, ahead in {ahead} of {plural(len(gains), 'run')}"
            )


# -- how far to trust it, and how to reproduce it --


def _trust(compared: Comparison) -> Section:
    runs = compared.runs
    results = [require_finished(run) for run in runs]
    rows = [
        ["intervals over seeds", "Student's t over the runs of a configuration; Welch's between two of them"],
        ["seeds", "; ".join(f"{g.name}: {', '.join(str(r.config.seed) for r in g.runs)}" for g in compared.groups)],
        ["latency and energy", "; ".join(dict.fromkeys(result.costs_are for result in results))],
        ["data", "the same in all runs" if len({run.data_hash for run in runs}) == 1 else "not the same in all runs"],
        [
            "versions",
            "the same in all runs" if len({_versions(run) for run in runs}) == 1 else "not the same in all runs",
        ],
        ["everything else", "each run's own report.html says how far to trust it"],
    ]
    body = table(["question", "what these runs know"], rows)
    return Section("trust", "Trust", "How far to trust it", body)


def _versions(run: Facts) -> str:
    return ", ".join(f"{name} {version}" for name, version in run.last("start").get("versions", {}).items())


def _reproduce(compared: Comparison) -> Section:
    apart = differing([run.config for run in compared.runs])
    rows = [[run.name, run.config.seed, *(_said(run.config, n) for n in apart)] for run in compared.runs]
    commands = [(run.name, join(code(command(run.config)), paragraph(str(run.path), kind="quiet small")))
                for run in compared.runs]  # fmt: skip
    body = join(
        table(["run", "seed", *apart], rows, (1,), "In what the runs differ"),
        facts_list(commands),
        fold("Versions", facts_list((run.name, _versions(run) or "not recorded by this run") for run in compared.runs)),
    )
    return Section("reproduce", "Reproduce", "How to reproduce it", body)
