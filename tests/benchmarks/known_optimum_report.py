"""docs/benchmarks/known_optimum.md, its figure and the stored optima, from the runs that were made."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cosearch.strategies.objectives import undominated
from search_spaces.networks import nasbench201
from tests.benchmarks.known_optimum_peers import EVOLUTIONARY
from tests.benchmarks.machine import commit as commit
from tests.benchmarks.machine import stamp

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks"
OPTIMA = Path(__file__).parents[1] / "references" / "known_optimum"
LEVELS = (0.95, 0.99, 0.999)
BUDGETS = (25, 50, 100, 200, 400, 800)
OURS = ("bayesian", "evolutionary")
COLOURS = ("#d62728", "#ff7f0e", "#7f7f7f", "#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#17becf", "#bcbd22", "#e377c2")
Runs = dict[tuple[str, str], list[dict[str, Any]]]
"""(algorithm, mode) -> one entry per seed."""


def is_of(run: Mapping[str, Any], prices: str) -> bool:
    """Whether a run was made with these prices. The first ones, of before prices had names, were made with those that
    tests/references/known_optimum stores the optima of.
    """
    return bool(run.get("prices", prices) == prices)


def read(folder: Path, prices: str) -> Runs:
    """prices: of the runs to read."""
    runs: Runs = {}
    for path in sorted(folder.glob("*.json")):
        algorithm, mode, _ = path.stem.split(".")
        run = json.loads(path.read_text(encoding="utf-8"))
        if is_of(run, prices):
            runs.setdefault((algorithm, mode), []).append(run)
    order = (*OURS, "random", "local", "regularised")

    def rank(key: tuple[str, str]) -> tuple[int, int, str]:
        return key[1] != "networks", order.index(key[0]) if key[0] in order else len(order), key[0]

    return {key: runs[key] for key in sorted(runs, key=rank)}


def reached(run: Mapping[str, Any], level: float) -> int:
    """Evaluations until a level is reached; a run that never arrives counts at its budget."""
    values = np.array(run["progress"])
    return int(np.argmax(values >= level)) + 1 if len(values) and values[-1] >= level else int(run["budget"])


@dataclass(frozen=True)
class Needed:
    """Evaluations to a level over some seeds. counts: of each seed, at its budget where it never arrives.

    low, high: bounds of the median, for a run that never arrives would have needed its budget or any number above it.
    """

    counts: tuple[int, ...]
    arrived: int
    budget: int
    low: float
    high: float

    @classmethod
    def of(cls, runs: Sequence[Mapping[str, Any]], level: float) -> "Needed":
        counts = [reached(run, level) for run in runs]
        arrives = [run["progress"][-1] >= level for run in runs]
        open_end = [count if there else np.inf for count, there in zip(counts, arrives, strict=True)]
        budget = max(run["budget"] for run in runs)
        return cls(tuple(counts), sum(arrives), budget, float(np.median(counts)), float(np.median(open_end)))

    @property
    def none(self) -> str:
        """What there is to say where fewer than half of the seeds arrive: nothing of a median. Else empty."""
        if 2 * self.arrived >= len(self.counts):
            return ""
        return f"not reached within {self.budget} ({self.arrived} of {len(self.counts)} seeds)"

    def __str__(self) -> str:
        return self.none or f"{'' if self.low == self.high else 'at least '}{self.low:g}"

    @property
    def cell(self) -> str:
        return self.none or f"{'' if self.low == self.high else 'at least '}{_quartiles(self.counts)}"


def ratio(own: Needed, other: Needed) -> str:
    """How many of the other's evaluations are needed, as far as runs that were cut short tell."""
    if own.low == own.high and other.low == other.high:
        return f"{own.low / other.low:.2f}"
    if other.low == other.high:
        return f"more than {own.low / other.high:.2f}"
    if own.low == own.high:
        return f"less than {own.high / other.low:.2f}"
    return "an unknown part"


def at(run: Mapping[str, Any], n: int) -> float | None:
    """Progress after n evaluations; a run that ended because it had arrived stays there."""
    values = run["progress"]
    if n > run["budget"]:
        return None
    return float(values[min(n, len(values)) - 1])


def _quartiles(values: Sequence[float]) -> str:
    """Median (quartiles), interpolated, so that the median is that of `np.median`; to a tenth."""
    low, middle, high = (f"{q:.1f}".removesuffix(".0") for q in np.quantile(np.array(values), (0.25, 0.5, 0.75)))
    return f"{middle} ({low} to {high})"


def _name(key: tuple[str, str]) -> str:
    return f"**{key[0]}**" if key[0] in OURS else key[0] + (" (joint)" if key[1] == "joint" else "")


def evaluations_table(runs: Runs) -> list[str]:
    lines = [
        "| algorithm | seeds | budget | to 95% | to 99% | to 99.9% | arrived at 99% |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key, seeds in runs.items():
        cells = [Needed.of(seeds, level).cell for level in LEVELS]
        arrived = sum(run["progress"][-1] >= 0.99 for run in seeds)
        budget = max(run["budget"] for run in seeds)
        lines.append(f"| {_name(key)} | {len(seeds)} | {budget} | {' | '.join(cells)} | {arrived} of {len(seeds)} |")
    return lines


def progress_table(runs: Runs) -> list[str]:
    """Of hypervolumes, in percent."""
    lines = [
        "| algorithm | " + " | ".join(map(str, BUDGETS)) + " |",
        "| --- |" + " --- |" * len(BUDGETS),
    ]
    for key, seeds in runs.items():
        cells = []
        for n in BUDGETS:
            values = [100 * v for run in seeds if (v := at(run, n)) is not None]
            cells.append(_quartiles(values) if len(values) == len(seeds) else "-")
        lines.append(f"| {_name(key)} | {' | '.join(cells)} |")
    return lines


def regret_table(tasks: Mapping[str, Runs]) -> list[str]:
    lines = [
        "| algorithm | "
        + " | ".join(f"{task}: zero within 100; regret there; evaluations to zero" for task in tasks)
        + " |",
        "| --- |" + " --- |" * len(tasks),
    ]
    for key in dict.fromkeys(key for runs in tasks.values() for key in runs):
        cells = []
        for runs in tasks.values():
            seeds = runs.get(key, [])
            if not seeds:
                cells.append("-")
                continue
            zero = sum(_zero_within(run, 100) for run in seeds)
            regret = 100 * float(np.median([at(run, min(100, run["budget"])) for run in seeds]))
            falls = [{**run, "progress": [-value for value in run["progress"]]} for run in seeds]
            cells.append(f"{zero} of {len(seeds)}; {regret:.2f}; {Needed.of(falls, 0.0).cell}")
        lines.append(f"| {_name(key)} | {' | '.join(cells)} |")
    return lines


def verdicts(runs: Runs) -> list[str]:
    """The requirements, with the figures that decide them."""
    alone = {key[0]: seeds for key, seeds in runs.items() if key[1] == "networks"}
    lines = []
    if "bayesian" in alone:
        for level, target in zip(LEVELS, (60, 150, 500), strict=True):
            own = Needed.of(alone["bayesian"], level)
            said = f"{level:.1%} is {own}" if own.none else f"reaches {level:.1%} in {own} evaluations (median)"
            lines.append(f"- bayesian{':' if own.none else ''} {said}; asked for: at most {target}.")
        peers = {n: Needed.of(s, 0.99) for n, s in alone.items() if n not in OURS}
        rivals = {n: found for n, found in peers.items() if found.arrived}
        if peers and not rivals:
            lines.append("- no run of a peer reaches 99%: there is no best one.")
        if rivals:
            # a budget that is cut short says nothing of the evaluations that a run would have needed
            best = min(rivals, key=lambda n: (rivals[n].high, -rivals[n].arrived / len(alone[n]), rivals[n].low))
            other, own = rivals[best], Needed.of(alone["bayesian"], 0.99)
            arrival = f"for which it is {other}" if other.none else f"with {other} evaluations"
            lines.append(
                f"- the best peer for 99% is {best} {arrival}; bayesian takes {ratio(own, other)} of that; "
                f"asked for: at most 0.33. The peer has {len(alone[best])} seeds."
            )
    kin = [n for n in EVOLUTIONARY if n in alone]
    if "evolutionary" in alone and kin:
        for n in (n for n in BUDGETS if all(n <= run["budget"] for run in alone["evolutionary"])):
            reach = _median_at(alone["evolutionary"], n)
            others = {p: _median_at(alone[p], n) for p in kin}
            best = max(others, key=lambda p: others[p])
            sign = ">=" if reach >= others[best] else "<"
            lines.append(
                f"- at {n}: evolutionary {reach:.2%} {sign} {others[best]:.2%}, the best peer of its kind ({best})."
            )
    return lines


def constrained_verdicts(tasks: Mapping[str, Runs]) -> list[str]:
    lines = []
    for task, runs in tasks.items():
        seeds = runs.get(("bayesian", "networks"), [])
        if seeds:
            zero = sum(_zero_within(run, 100) for run in seeds)
            lines.append(
                f"- {task}: bayesian has no regret within 100 evaluations in {zero} of {len(seeds)} seeds; asked for: "
                "at least 8 of 10."
            )
    return lines


def _zero_within(run: Mapping[str, Any], n: int) -> bool:
    return bool(run["progress"][min(n, len(run["progress"])) - 1] <= 0)


def commits_of(folder: Path) -> str:
    """Of every algorithm that was run: in which commits."""
    found: dict[str, set[str]] = {}
    for path in folder.glob("*/*/*.json"):
        run = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(path.stem.split(".")[0], set()).add(run["commit"])
    by_commits: dict[str, list[str]] = {}
    for algorithm, commits in sorted(found.items()):
        by_commits.setdefault(", ".join(sorted(commits)), []).append(algorithm)
    return "; ".join(f"{', '.join(algorithms)}: {commits}" for commits, algorithms in sorted(by_commits.items()))


def _median_at(runs: Sequence[Mapping[str, Any]], n: int) -> float:
    """Median progress after n evaluations, up to the level at which runs end."""
    return float(np.median([min(at(run, n) or 0.0, LEVELS[-1]) for run in runs]))


def joint_against_sequential(table: Any) -> list[str]:
    """Network first, on a fixed accelerator, then its accelerator; against both at once. Exact, by exhaustion."""
    ids = np.unique(table.network[table.network >= 0])
    classes = table.cost_class[ids]
    runnable = np.isfinite(table.joint).all(2)
    edp = np.where(runnable, table.joint.prod(2), np.inf)
    largest = int(np.argmax([front.prod(1).min() for front in table.fronts]))
    fixed = int(np.argmin(edp[largest]))
    values = {"latency, ms": table.joint[:, :, 0], "energy, mJ": table.joint[:, :, 1], "EDP, mJ ms": edp}
    lines = [
        "| objective | accuracy at least | network first, its accelerator after | joint | joint / sequential |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, costs in values.items():
        costs = np.where(runnable, costs, np.inf)
        best = costs.min(1)
        for floor in (0.90, 0.92, 0.93, 0.935):
            enough = 1 - table.error[ids] >= floor
            there = np.where(enough, costs[classes, fixed], np.inf)
            sequential = best[classes[int(np.argmin(there))]] if np.isfinite(there).any() else np.inf
            joint = best[classes[enough]].min()
            lines.append(f"| {name} | {floor:.1%} | {sequential:.4g} | {joint:.4g} | {joint / sequential:.3f} |")
    lines += [
        "",
        "What the choice of the accelerator is worth: networks left on the fixed accelerator, against joint:",
        "",
        "| objective | accuracy at least | network on the fixed accelerator | joint | joint / fixed |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, costs in values.items():
        costs = np.where(runnable, costs, np.inf)
        for floor in (0.90, 0.93):
            enough = 1 - table.error[ids] >= floor
            there, joint = costs[classes[enough], fixed].min(), costs.min(1)[classes[enough]].min()
            lines.append(f"| {name} | {floor:.1%} | {there:.4g} | {joint:.4g} | {joint / there:.3f} |")
    return lines


def figure(problems: Mapping[str, Runs]) -> str:
    """Median hypervolume that is still missing over evaluations, both logarithmic, as SVG."""
    width, height, left, top = 560, 340, 60, 40
    parts = []
    for row, (problem, runs) in enumerate(problems.items()):
        x0, y0 = left + (row % 2) * (width + 60), top + (row // 2) * (height + 80)
        parts.append(f'<text x="{x0 + width / 2}" y="{y0 - 12}" text-anchor="middle" font-size="15">{problem}</text>')
        parts.append(f'<rect x="{x0}" y="{y0}" width="{width}" height="{height}" fill="none" stroke="#999"/>')

        def across(n: float, x0: int = x0) -> float:
            return x0 + width * np.log(n / 5) / np.log(800 / 5)

        def down(missing: float, y0: int = y0) -> float:
            return y0 + height * np.log(max(missing, 1e-3)) / np.log(1e-3)

        for n in (5, 10, 25, 50, 100, 200, 400, 800):
            parts.append(f'<text x="{across(n):.0f}" y="{y0 + height + 16}" text-anchor="middle">{n}</text>')
        for missing, label in ((1, "0%"), (0.5, "50%"), (0.1, "90%"), (0.05, "95%"), (0.01, "99%"), (0.001, "99.9%")):
            y = down(missing)
            parts.append(f'<line x1="{x0}" x2="{x0 + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
            parts.append(f'<text x="{x0 - 6}" y="{y + 4:.0f}" text-anchor="end">{label}</text>')
        for i, (key, seeds) in enumerate((k, s) for k, s in runs.items() if k[1] == "networks"):
            budget = min(run["budget"] for run in seeds)
            steps = np.unique(np.geomspace(5, budget, 60).round().astype(int))
            medians = [float(np.median([at(run, int(n)) or 0.0 for run in seeds])) for n in steps]
            points = " ".join(f"{across(n):.1f},{down(1 - value):.1f}" for n, value in zip(steps, medians, strict=True))
            colour, thick = COLOURS[i % len(COLOURS)], 2.5 if key[0] in OURS else 1.2
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{thick}"/>')
            parts.append(f'<text x="{x0 + 8}" y="{y0 + height - 8 - 14 * i}" fill="{colour}">{key[0]}</text>')
    rows = (len(problems) + 1) // 2
    size = f'width="{left + 2 * (width + 60)}" height="{top + rows * (height + 80)}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">'
        + '<rect width="100%" height="100%" fill="white"/>'
        + "".join(parts)
        + "</svg>\n"
    )


def optima(table: Any) -> dict[str, Any]:
    """The exact joint front and the constrained optima."""
    points, owners = table.exact
    assert undominated(points).all()
    order = np.lexsort((points[:, 1], points[:, 0]))

    def cell(network: int) -> str:
        digits = np.unravel_index(network, (len(nasbench201.OPERATIONS),) * len(nasbench201.NAMES))
        names = (nasbench201.OPERATIONS[int(d)] for d in digits)
        return nasbench201.to_string(dict(zip(nasbench201.NAMES, names, strict=True)))

    return {
        "problem": table.name,
        "networks": len(np.unique(table.network[table.network >= 0])),
        "accelerators": int(np.isfinite(table.joint).all(2).any(0).sum()),
        "reference": table.box[1].tolist(),
        "hypervolume": table.volume,
        "front": [
            {"accuracy": 1 - e, "latency_ms": ms, "energy_mj": mj, "cell": cell(int(owner))}
            for (e, ms, mj), owner in zip(points[order].tolist(), owners[order], strict=True)
        ],
        "constrained": {name: {**limits, "accuracy": 1 - best} for name, (limits, best) in table.limits.items()},
    }


def write(tables: Mapping[str, Any], folder: Path) -> None:
    """Everything that the runs in a folder say."""
    lines = [
        "# Search strategies against a known optimum",
        "",
        "NAS-Bench-201 cells with the trained CIFAR-10 accuracies of analog-nasbench x every accelerator of a space,",
        "priced by the cost tensor; exact joint front and constrained optima by exhaustion",
        "(tests/references/known_optimum).",
        "The unit is the distinct accuracy evaluation. Accuracies are measured (trained networks); costs are modelled.",
        "Made by `python -m tests.benchmarks.known_optimum run` and `report`.",
        "",
        stamp("optuna", "moocore"),
        "",
        "- *fpga*: one MAC array on an ECP5-85F; *asic*: NVDLA-like arrays. *merged*: cells that are the same without",
        "  dead edges are one network, its accuracy the mean over the trainings of isomorphic ones; *raw*: each cell",
        "  is a network of its own, so that the front is made of the luckiest of equal networks.",
        "- hypervolume of (error, latency, energy) as a part of the exact front's, reference point: the exact front's",
        "  nadir over connected networks and 10% of its range. Cells without a path are rejected free, for all.",
        "- mapping policy of the exact front: an engine runs all its layers for least latency, least energy or least",
        "  0.5 W x latency + 0.5 x energy. Least latency and least energy are exact over all mappings; what lies",
        "  between is the best of these policies (`edp_gap` on the tables' cards: how near to the best mappings).",
        "- peers search networks, each credited with its whole hardware front, or (joint) networks and accelerators",
        "  together; designs that break a limit are rejected free, repeats are free. Median (quartiles) over seeds.",
        "- a run that never arrives counts at its budget, and ends after ten proposals for every evaluation of it;",
        "  *at least* says that a median hangs on such runs; where fewer than half of the seeds arrive there is none.",
        "  Ours run with their defaults, one proposal at a time, chosen on fpga-merged with seeds that are not below,",
        "  and frozen in the commit of their runs before those were made. An earlier page had shown evolutionary",
        "  below its peers, and bayesian at 0.40 of the best peer, on asic-merged; that they were changed after it is",
        "  all that these figures owe to asic-merged.",
        "- runs end at 99.9%; what they have beyond is chance, so kinds are compared up to there. optuna-gp, where",
        "  it is listed, stops at 120 evaluations, because a proposal takes seconds. Where the tables have fewer than",
        "  10 seeds of a peer, or none, the others were not run.",
        f"- commits of the runs: {commits_of(folder)}.",
        "",
        "![Hypervolume over evaluations](known_optimum.svg)",
    ]
    fronts = {}
    for problem, table in tables.items():
        fronts[problem] = runs = read(folder / problem / "front", table.prices)
        known = optima(table)
        lines += ["", f"## {problem}", ""]
        lines += [
            f"{known['networks']:,} networks x {known['accelerators']:,} accelerators that run something; "
            f"{len(known['front'])} points on the front."
        ]
        if runs:
            lines += ["", *verdicts(runs), "", "Evaluations needed:", "", *evaluations_table(runs)]
            lines += ["", "Hypervolume, %, after so many evaluations:", "", *progress_table(runs)]
        tasks = {task: found for task in table.limits if (found := read(folder / problem / task, table.prices))}
        if tasks:
            limits = "; ".join(
                f"{task}: {table.limits[task][0]}, best {1 - table.limits[task][1]:.4f}" for task in tasks
            )
            lines += [
                "",
                f"Least error under limits ({limits}), regret in points of accuracy:",
                "",
                *constrained_verdicts(tasks),
                "",
                *regret_table(tasks),
            ]
        OPTIMA.mkdir(parents=True, exist_ok=True)
        (OPTIMA / f"{problem}.json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    for problem, table in tables.items():
        if problem.endswith("merged"):
            lines += ["", f"## What joint search buys: {problem.split('-')[0]}", "", *joint_against_sequential(table)]
    overheads = {n: json.loads(f.read_text()) for n in OURS if (f := folder.parent / f"overhead-{n}.json").is_file()}
    if overheads:
        lines += [
            "",
            "## Overhead",
            "",
            "Proposal, record in a study on disk and telling, ms, median over the trials:",
            "",
        ]
        lines += ["| strategy | trials | wall-clock | processor | wall-clock, last 100 | processor, last 100 |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        lines += [f"| {n} | " + " | ".join(map(str, figures.values())) + " |" for n, figures in overheads.items()]
    DOCS.mkdir(parents=True, exist_ok=True)
    (DOCS / "known_optimum.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (DOCS / "known_optimum.svg").write_text(figure(fronts), encoding="utf-8")
