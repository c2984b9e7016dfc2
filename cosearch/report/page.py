"""The report of one run, section by section, in the order in which a reader asks."""

import json
import math
import shlex
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from cosearch.config import RunConfig
from cosearch.errors import command_line
from cosearch.report.charts import (
    accuracy_chart,
    changes_charts,
    front_chart,
    front_rows,
    hypervolume_chart,
    layer_charts,
    limits_of,
    scaled,
)
from cosearch.report.curves import common_box, hypervolume_curves, moves
from cosearch.report.facts import FINISHED, GOING_ON, Facts
from cosearch.report.labels import (
    amount_of_bytes,
    axis,
    better,
    count,
    network,
    percent,
    plural,
    ratio,
    title,
    unit,
    value,
)
from cosearch.report.markup import Markup, facts_list, fold, join, table, tag
from cosearch.report.picture import picture
from cosearch.report.shell import Section, bullets, code, meter, page, paragraph, tiles
from cosearch.report.trust import trust
from cosearch.results import AT_DEFAULT, RANDOM, Design, Result
from cosearch.shortlist import takes_knee
from cosearch.strategies.objectives import split_limit
from cosearch.strategies.study import dashboard_command
from cosearch.words import USUAL, accelerator_words, cost_of, number, pipeline_words
from search_spaces.decisions import network_key, network_of

FRONT_ROWS = 200


def run_page(facts: Facts) -> str:
    """The page as HTML."""
    sections = [_found(facts), _front(facts), _search(facts)]
    if facts.result is not None:
        sections += [_layers(facts), _accelerator(facts), _changes(facts)]
    sections += [trust(facts), _reproduce(facts)]
    state = {FINISHED: "finished", GOING_ON: "going on", "stopped": "stopped before it was finished"}[facts.state]
    subject = f"{facts.config.space} on {facts.device}"
    head = join(
        tag("h1", f"{subject}: report of {facts.name}"),
        paragraph(
            tag("span", state, class_="badge"),
            f" Networks of {facts.config.space}",
            f", data {facts.data}" if facts.data else "",
            f", device {facts.device}, seed {facts.config.seed}. Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
            kind="quiet",
        ),
    )
    foot = paragraph("Made by cosearch from the files of the run directory; this page needs no network.")
    return page(f"cosearch: {subject} ({facts.name})", head, sections, foot)


# -- what was found, and what to take --


def _found(facts: Facts) -> Section:
    heading = "What was found, and what to take"
    if facts.result is None:
        return Section("found", "Found", heading, _so_far(facts))
    result, finalist = facts.result, facts.result.finalist
    warnings = [note for note in result.notes if "--min-accuracy" in note]
    gains = [note for note in result.notes if note not in warnings]
    body = join(
        (tag("p", warning, class_="warning") for warning in warnings),
        tiles(_tiles(facts, result)),
        tag("h3", "What to take"),
        facts_list(_taken(facts, finalist)),
        tag("h3", "Beside the baselines"),
        bullets(gains) if gains else None,
        _designs(facts, result),
        paragraph(_rule(facts.config.recommend, result.objectives), kind="quiet small"),
    )
    return Section("found", "Found", heading, body)


def _rule(recommend: str, objectives: Sequence[str]) -> str:
    """How the finalist was taken among the evaluated designs, by `shortlist`."""
    if takes_knee(objectives, recommend == "knee"):
        return (
            f"The finalist is the knee of the front of {', '.join(title(name) for name in objectives)}: the design "
            "farthest below the plane through the best of each, as is that of every row."
        )
    if "accuracy" not in objectives:
        return f"The finalist is, of all evaluated designs that keep the limits, the best in {title(objectives[0])}."
    return (
        "The finalist is, of all evaluated designs that are accurate enough, the one with the least product of its "
        "costs; accurate enough means within one standard error of the best accuracy of the search that reached "
        "least, the same bar for every row."
    )


def _so_far(facts: Facts) -> Markup:
    done = {name: len(trials) for name, trials in facts.searches.items()}
    epoch = facts.last("supernet").get("epoch")
    said = [f"{name}: {n} of at most {facts.config.trials} evaluations" for name, n in done.items()]
    if not done and facts.config.accuracy == "supernet":
        said.append(f"supernet: {epoch or 0} of {facts.config.supernet_epochs} epochs saved")
    nothing = "Nothing has been evaluated yet."
    hint = (
        "The run is going on; cosearch report makes this page again with what is there then."
        if facts.state == GOING_ON
        else f"Nothing works on this run now. Finish it with: {command_line('resume', facts.path)}"
    )
    return join(
        paragraph("There is no finalist before the searches and the finalists' trainings are finished."),
        bullets(said) if said else paragraph(nothing),
        paragraph(hint),
    )


def _tiles(facts: Facts, result: Result) -> Iterator[tuple[str, str, Any]]:
    finalist = result.finalist
    others = [d for d in result.designs[1:] if not d.infeasible and not (d.name.endswith(AT_DEFAULT))]
    if finalist.correct:
        low, high = finalist.interval
        yield (
            "test accuracy, integer network",
            number("accuracy", finalist.accuracy),
            f"95% interval {low:.3f} to {high:.3f}, {finalist.test_images} images, "
            f"{plural(len(finalist.correct), 'training')}",
        )
    else:
        yield "accuracy, from the table", number("accuracy", finalist.accuracy), "no training in this run"
    for name in _metrics(result):
        if name in finalist.costs and name in ("latency_ms", "energy_mj", "edp", "area_mm2", "throughput_fps"):
            bounds = finalist.cost_intervals.get(name, ())
            told = [f"90% interval {' to '.join(value(name, bound) for bound in bounds)}"] if bounds else []
            beside = [f"{ratio(finalist.costs[name], d.costs[name])} {d.name}" for d in others if d.costs.get(name)]
            yield (
                f"{title(name)}, {result.costs_are.split('(')[0].strip()}",
                value(name, finalist.costs[name]),
                "; ".join([*told, *beside]),
            )
    budget = (facts.details or {}).get("device", {}).get("budget", {})
    full = [(percent(finalist.costs[n] / have), title(n)) for n, have in budget.items() if n in finalist.costs and have]
    if full:
        part, name = max(full, key=lambda pair: float(pair[0][:-1]))
        yield f"of the {name}", part, "the resource that is nearest to the device's budget"


def _taken(facts: Facts, finalist: Design) -> Iterator[tuple[Any, Any]]:
    yield "network", code(network(network_of(finalist.arch)))
    if finalist.accelerator:
        yield "accelerator", code(accelerator_words(finalist))
    else:
        yield "accelerator", f"none to choose: the device {facts.device} is given"
    said = {
        "model_int8.onnx": "what the hardware computes, for any ONNX runtime",
        "model.onnx": "the float network",
        "weights.safetensors": "weights for torch",
        "integers.npz": "integer weights for hardware",
        "accelerator.json": "the accelerator",
        "mapping.json": "the mapping of every layer",
        "network.json": "which network of the space it is",
        "workload.json": "its layers, as hardware sees them",
    }
    there = [name for name in said if (facts.path / "best" / name).is_file()]
    files = (tag("li", tag("a", f"best/{name}", href=f"best/{name}"), f": {said[name]}") for name in there)
    yield "files", tag("ul", files)
    if facts.classes:
        yield "what it tells apart", f"{len(facts.classes)} classes: {', '.join(facts.classes[:40])}"
    yield "another design", code(_export_command(facts))


def _export_command(facts: Facts) -> str:
    return command_line("export", facts.path, "--front", "ROW", "--to", "DIR")


def _metrics(result: Result) -> list[str]:
    names = dict.fromkeys((*result.objectives, *USUAL))
    return [n for n in names if n != "accuracy" and any(n in d.costs for d in result.designs)]


def _designs(facts: Facts, result: Result) -> Markup:
    metrics = _metrics(result)
    own = [design for design in result.designs if not design.name.endswith(AT_DEFAULT)]
    costs = [[d.name, *(cost_of(d, n) for n in metrics)] for d in result.designs]
    priced = table(
        ["design", *(axis(n) for n in metrics)], costs, range(1, len(metrics) + 1), f"Costs, {result.costs_are}"
    )
    if len(own) < len(result.designs):
        default = (
            f"{AT_DEFAULT.strip()}: on the default accelerator, which has the least energy-delay product for the "
            "largest conv-only network."
        )
        priced = join(priced, paragraph(default, kind="quiet small"))
    if not result.finalist.correct:
        rows = [(design.name, number("accuracy", design.accuracy)) for design in own]
        return join(table(["design", "accuracy"], rows, (1,), "Accuracies, from the table"), priced)
    head = ["design", "mean [95% interval]", "least to most", "float network", "in the search"]
    trainings = plural(len(result.finalist.correct), "training")
    caption = f"Accuracies of the integer networks on the test images, {trainings} {result.training} each"
    return join(table(head, [_accuracies(design) for design in own], range(1, 5), caption), priced)


def _accuracies(design: Design) -> list[str]:
    low, high = design.interval
    reached = design.integer_accuracies
    return [
        design.name,
        f"{design.accuracy:.4f} [{low:.3f}, {high:.3f}]",
        f"{min(reached):.4f} to {max(reached):.4f}",
        f"{sum(design.float_accuracies) / len(design.float_accuracies):.4f}",
        f"{design.search_accuracy:.4f}",
    ]


# -- the Pareto front --


def _front(facts: Facts) -> Section:
    body = join(front_chart(facts), _front_table(facts))
    return Section("front", "Front", "The Pareto front", body)


def _front_table(facts: Facts) -> Markup | None:
    if facts.result is None or not len(facts.result.front):
        return None
    front = facts.result.front
    names = [n for n in dict.fromkeys((*facts.result.objectives, *USUAL, "params", "macs")) if n in front]
    rows = []
    for i, row in enumerate(front_rows(facts, FRONT_ROWS)):
        said = network(json.loads(row["arch"]))
        cells: list[Any] = [i, row.get("trial", "-"), *(number(n, row[n]) for n in names)]
        if "accelerator" in front:
            cells.append(code(str(row["accelerator"])))
        rows.append([*cells, code(said)])
    head = ["row", "trial", *(axis(n) for n in names), *(["accelerator"] if "accelerator" in front else []), "network"]
    shown = f"{len(rows)} of {len(front)}" if len(front) > len(rows) else f"{len(front)}"
    more = "The rest is in front.csv. " if len(front) > len(rows) else ""
    return fold(
        f"The front as a table: {shown} designs",
        table(head, rows, range(len(names) + 2)),
        paragraph(
            f"{more}Accuracies are those of the search ({front['accuracy_source'].iloc[0]}); the file is ",
            tag("a", "front.csv", href="front.csv"),
            f". A design leaves with: {_export_command(facts)}",
            kind="quiet small",
        ),
        printed=True,
    )


# -- how the search went --


def _search(facts: Facts) -> Section:
    found = moves(facts)
    evaluations = {name: len(trials) for name, trials in facts.searches.items()}
    within = common_box(list(found.searches.values()), len(facts.objectives))
    curves = hypervolume_curves(found.searches, evaluations, within) if within is not None else {}
    charts = [
        hypervolume_chart(curves, facts.objectives, found.whole),
        accuracy_chart({name: trials for name, trials in facts.searches.items()}),
    ]
    body = join(
        tag("div", charts, class_="pair") if curves else paragraph("Nothing has been evaluated yet."),
        _searches_table(facts, {name: curve[-1][1] for name, curve in curves.items()}),
        paragraph(
            "Every evaluation is a trial in study.db. With pip install optuna-dashboard, a browser shows them: ",
            code(dashboard_command(facts.path)),
            kind="quiet small",
        ),
        tag("h3", "What decided what"),
        facts_list(_deciders(facts)),
    )
    return Section("search", "Search", "How the search went", body)


def _searches_table(facts: Facts, reached: dict[str, float]) -> Markup | None:
    rows = []
    for name, trials in facts.searches.items():
        asked, why = facts.chosen_strategies.get(name, (facts.config.strategy, ""))
        failed = [trial for trial in trials if trial.accuracy is None]
        accuracies = [trial.accuracy for trial in trials if trial.accuracy is not None]
        rows.append(
            [
                name,
                why.split(":")[0] if why else ("random" if name == RANDOM else asked),
                len({network_key(trial.arch) for trial in trials}),
                len(failed),
                number("accuracy", max(accuracies)) if accuracies else "-",
                f"{reached[name]:.4f}" if name in reached else "-",
                f"{sum(trial.seconds for trial in trials):.1f}",
            ]
        )
    if not rows:
        return None
    head = ["search", "strategy", "evaluations", "failed", "best accuracy", "hypervolume", "seconds of evaluation"]
    return table(head, rows, range(2, 7), f"At most {facts.config.trials} evaluations each")


def _deciders(facts: Facts) -> Iterator[tuple[Any, Any]]:
    config, details = facts.config, facts.details or {}
    for name in facts.searches:
        asked, why = facts.chosen_strategies.get(name, ("", ""))
        if why:
            chosen, _, reason = why.partition(":")
            yield f"networks, {name}", f"{chosen} (auto chose it:{reason})"
        elif asked:
            yield f"networks, {name}", asked
    size = details.get("space", {}).get("networks")
    if size:
        yield "of how many", f"{count(size)} networks in {details['space']['decisions']} decisions"
    accelerators = details.get("device", {}).get("accelerators")
    if accelerators:
        tabulated = details["device"].get("tabulated", True)
        yield (
            "accelerator",
            (
                f"the networks' strategy: its {count(accelerators)} are too many to tabulate, so that each is searched "
                "with a network as decisions beside the network's; every pair is priced exactly, not every one is "
                "looked at, and a network that was evaluated before takes no evaluation on another accelerator"
                if not tabulated
                else f"no strategy: for every network the whole front over {count(accelerators)} accelerators is known "
                "exactly from the cost tensor, and each evaluation is credited with all of it"
            ),
        )
        mapped = any(row["mapspace"] for row in details["finalist"]["layers"])
        exact = "no strategy: the best of the declared mapspace, every mapping of it compared"
        yield "mapping of layers", exact if mapped else "nobody: layers are priced in closed form"
    elif facts.result is not None:
        yield "accelerator", "nobody: the device is given"
    source = {
        "supernet": "sub-networks of one supernet, batch-norm re-calibrated, 8-bit arithmetic simulated",
        "train": "each network trained alone, its integer form on the validation images",
        "table": "looked up in a table",
        "predictor": "predicted by a model fitted to a table",
    }
    yield "accuracy in the search", source[config.accuracy]
    yield "objectives", ", ".join(f"{title(n)} ({better(n)})" for n in facts.objectives)
    yield "limits", ", ".join(_limit(name, amount) for name, amount in limits_of(config).items()) or "none"


def _limit(name: str, amount: float) -> str:
    side, limited = split_limit(name)
    return f"{title(limited)} at {'most' if side == 'max' else 'least'} {amount:g} {unit(limited)}".rstrip()


# -- the finalist, layer by layer --


def _layers(facts: Facts) -> Section:
    heading = "The finalist, layer by layer"
    described = (facts.details or {}).get("finalist")
    if described is None:
        return Section(
            "layers", "Layers", heading, _not_there(facts, "The device is given: nothing maps layers to it.")
        )
    rows, host = described["layers"], described["host"]
    ms, factor = scaled([row["latency_ms"] for row in rows], "ms")
    pj, pj_factor = scaled([row["energy_mj"] * 1e9 for row in rows], "pJ")
    total_ms = sum(row["latency_ms"] for row in rows) + host["latency_ms"]
    total_mj = sum(row["energy_mj"] for row in rows) + host["energy_mj"]
    cells = [
        [
            row["name"],
            row["kind"],
            code(_shape(row)),
            code(row["where"]),
            f"{row['cycles']:,.0f}",
            f"{row['latency_ms'] * factor:.4g} ({percent(row['latency_ms'] / total_ms)})",
            f"{row['energy_mj'] * 1e9 * pj_factor:.4g} ({percent(row['energy_mj'] / total_mj)})",
            percent(row["utilisation"]),
            f"{row['latency_ms'] / row['roofline_ms']:.2f}x" if row["roofline_ms"] else "-",
            row["bound"],
            f"{row['mapspace']:,}" if row["mapspace"] else "-",
        ]
        for row in rows
    ]
    shares = (f"latency, {ms} (share)", f"energy, {pj} (share)")
    bounds = ("use of the array", "to the roofline", "bound by", "best of mappings")
    head = ["layer", "operator", "shape", "engine: mapping", "cycles", *shares, *bounds]
    worst = max(rows, key=lambda row: row["latency_ms"])
    pipeline = facts.finalist.pipeline if facts.finalist else None
    body = join(
        paragraph(
            f"{len(rows)} layers, {count(sum(row['macs'] for row in rows))} operations, residual sums and pooling too; "
            f"{total_ms:.4g} ms and {total_mj:.4g} mJ with the transfer of input and output. {_stays(described)} "
            f"The slowest layer is {worst['name']} ({percent(worst['latency_ms'] / total_ms)} of the latency)."
        ),
        paragraph(f"Pipelined, {pipeline_words(pipeline)}.") if pipeline else None,
        tag("div", layer_charts(rows), class_="pair"),
        fold("All layers as a table", table(head, cells, range(4, 9)), printed=True),
        paragraph(
            "Mapping: memory levels by their initials, loops outermost first, after | what runs in parallel. To the "
            "roofline: latency over the least that array and DRAM allow. Best of mappings: how many the declared "
            "mapspace of the layer has; all were compared.",
            kind="quiet small",
        ),
    )
    return Section("layers", "Layers", heading, body)


def _stays(described: dict[str, Any]) -> str:
    stays = [what for what in ("weights", "activations") if described[f"{what}_resident"]]
    if not stays:
        return "Nothing stays on chip between layers."
    return f"{' and '.join(stays).capitalize()} stay on chip between layers."


def _shape(row: dict[str, Any]) -> str:
    s = row["shape"]
    groups = f" groups {row['groups']}" if row["groups"] > 1 else ""
    stride = f" stride {row['stride'][0]}" if max(row["stride"]) > 1 else ""
    weight, operand = row["bits"]
    return f"{s['C']}→{s['K']}, {s['P']}x{s['Q']}, kernel {s['R']}x{s['S']}{stride}{groups}, {weight}/{operand} bit"


def _not_there(facts: Facts, given: str) -> Markup:
    """Why something is not on the page."""
    if facts.details is not None:
        return paragraph(given)
    reason = facts.no_details or f"it has not been worked out yet: {command_line('report', facts.path)}"
    return paragraph(f"Not known here: {reason}", kind="quiet")


# -- the accelerator --


def _accelerator(facts: Facts) -> Section:
    heading = "The accelerator"
    made = facts.accelerator
    if made is None:
        given = f"There is no accelerator to design: the device {facts.device} is given, costs are {_costs_are(facts)}."
        return Section("accelerator", "Accelerator", heading, paragraph(given))
    budget = (facts.details or {}).get("device", {}).get("budget", {})
    meters = [meter(title(n), getattr(made.resources, n), have) for n, have in budget.items() if have]
    most = facts.config.constraints.get("max_area_mm2")
    if made.area_mm2 is not None and most:
        meters.append(meter("area, mm² of the limit", made.area_mm2, most))
    area = [("area", f"{made.area_mm2:.4g} mm²")] if made.area_mm2 is not None else []
    part = [("part", made.part)] if made.part else []
    levels = [
        [level.name, " ".join(level.holds), level.instances,
         "unlimited" if math.isinf(level.capacity_bytes) else amount_of_bytes(level.capacity_bytes),
         "-" if math.isinf(level.read_bits_per_cycle) else f"{level.read_bits_per_cycle:g}",
         f"{level.read_energy_pj / level.word_bits:.3g}"]
        for level in (*made.levels, *(level for engine in made.engines for level in engine.levels))
    ]  # fmt: skip
    body = join(
        tag(
            "div",
            picture(made),
            tag(
                "div",
                facts_list(
                    [
                        ("name", code(made.name)),
                        *part,
                        ("clock", f"{made.clock_mhz:g} MHz"),
                        *area,
                        ("static power", f"{made.static_power_w:.4g} W"),
                        ("unit costs per", made.accounting),
                    ]
                ),
                tag("h3", "Resources of the budget") if meters else None,
                meters,
            ),
            class_="pair",
        ),
        fold(
            "All memories as a table",
            table(
                ["memory", "holds", "copies", "capacity of one", "bits per cycle", "pJ per bit"], levels, range(2, 6)
            ),
        ),
    )
    return Section("accelerator", "Accelerator", heading, body)


def _costs_are(facts: Facts) -> str:
    return facts.result.costs_are if facts.result is not None else "not known yet"


# -- what each choice bought --


def _changes(facts: Facts) -> Section:
    heading = "What each choice bought"
    if facts.details is None:
        return Section("changes", "Choices", heading, _not_there(facts, ""))
    changes = facts.details["changes"]
    of, rows = changes["of"], changes["rows"]
    moved = [row for row in rows if row["moved"]]
    images = changes["images"] if facts.config.accuracy in ("supernet", "train") else None
    noise = math.sqrt(of["accuracy"] * (1 - of["accuracy"]) / images) if images else None
    said = [
        "The finalist with one decision taken otherwise, everything else kept.",
        f"Costs are {_costs_are(facts)}; accuracies are the search's own, {changes['evaluated']} of them evaluated for "
        "this page.",
    ]
    if noise is not None:
        said.append(f"One standard error of an accuracy on {images:,} images is {100 * noise:.2f} points.")
    if moved:
        said.append(
            f"{len(moved)} choices cannot run on the finalist's accelerator and are priced on their own best one."
        )
    body = join(
        paragraph(" ".join(said)),
        changes_charts(changes),
        tag("h3", "The best that each decision left behind"),
        _left_behind(of, rows),
        fold(f"All {len(rows)} changes as a table", _all_changes(of, rows)),
    )
    return Section("changes", "Choices", heading, body)


def change_of(of: dict[str, float], row: dict[str, Any], name: str) -> str:
    """Against the finalist: percent of a cost, points of accuracy."""
    if name == "accuracy":
        return "-" if row["accuracy"] is None else f"{100 * (row['accuracy'] - of['accuracy']):+.2f}"
    if name not in row["costs"] or not of.get(name):
        return "-"
    return f"{100 * (row['costs'][name] / of[name] - 1):+.1f}%"


def _left_behind(of: dict[str, float], rows: Sequence[dict[str, Any]]) -> Iterator[Markup]:
    """Per decision what would have cost least and what was most accurate."""
    metric = "energy_mj" if "energy_mj" in of else "latency_ms"
    for part in ("network", "accelerator"):
        cells = []
        with_accuracy = any(row["accuracy"] is not None for row in rows if row["part"] == part)
        for decision in dict.fromkeys(row["decision"] for row in rows if row["part"] == part):
            own = [row for row in rows if (row["part"], row["decision"]) == (part, decision)]
            runs = [row for row in own if metric in row["costs"]]
            cheapest = min(runs, key=lambda row: row["costs"][metric], default=None)
            seen = [row for row in own if row["accuracy"] is not None]
            best = max(seen, key=lambda row: row["accuracy"], default=None)
            told = _told(of, cheapest) if cheapest is not None else f"none: {own[0]['reason']}"
            cells.append([decision, own[0]["chosen"], told, *([_told(of, best)] if with_accuracy else [])])
        head = ["decision", "chosen", f"of the others, the least {title(metric)}"]
        if cells:
            caption = f"Decisions of the {part}"
            yield table([*head, *(["of the others, the most accurate"] if with_accuracy else [])], cells, (), caption)


def _told(of: dict[str, float], row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    parts = [f"{title(n)} {change_of(of, row, n)}" for n in ("energy_mj", "latency_ms") if n in row["costs"]]
    if row["accuracy"] is not None:
        parts.append(f"accuracy {change_of(of, row, 'accuracy')} points")
    return f"{row['instead']}: {', '.join(parts)}"


def _all_changes(of: dict[str, float], rows: Sequence[dict[str, Any]]) -> Markup:
    names = [n for n in ("latency_ms", "energy_mj") if n in of]
    head = ["decision", "of the", "chosen", "instead", *(title(n) for n in names), "accuracy, points", "remark"]
    cells = []
    for row in rows:
        remark = f"on {row['moved']}: {row['reason']}" if row["moved"] else row["reason"]
        changed = [change_of(of, row, n) for n in (*names, "accuracy")]
        cells.append([row["decision"], row["part"], row["chosen"], row["instead"], *changed, remark])
    return table(head, cells, range(4, 5 + len(names)))


# -- how to reproduce it --


def _reproduce(facts: Facts) -> Section:
    start, end = facts.last("start"), facts.last("finished")
    versions = start.get("versions", {})
    pairs: list[tuple[Any, Any]] = [
        (
            "again, from its configuration",
            code(command_line("run", "--config", facts.path / "config.yaml", "--out", "NEW")),
        ),
        ("the same as options", code(command(facts.config))),
        ("seed", facts.config.seed),
        ("threads", start.get("threads", facts.config.threads)),
        (
            "versions",
            ", ".join(f"{name} {version}" for name, version in versions.items()) or "not recorded by this run",
        ),
    ]
    if facts.data:
        pairs.append(("data", f"{facts.data}, SHA-256 {facts.data_hash or facts.inputs.get('data', 'not known yet')}"))
    pairs += [(f"SHA-256 of {name}", code(digest)) for name, digest in facts.inputs.items() if name != "data"]
    if start.get("time"):
        pairs.append(("started", _when(start["time"])))
    if facts.state == FINISHED and end:
        spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in end.get("seconds", {}).items())
        pairs.append(("finished", f"{_when(end['time'])}; {spent}"))
    body = join(
        paragraph("The same configuration, versions, inputs and thread count give the same front.csv, byte for byte."),
        facts_list(pairs),
        fold("config.yaml", tag("pre", facts.config.to_yaml())),
    )
    return Section("reproduce", "Reproduce", "How to reproduce it", body)


def _when(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def command(config: RunConfig) -> str:
    """The command line of a run: the options that are not the default."""
    words = ["cosearch", "run"]
    for name, field in RunConfig.model_fields.items():
        given = getattr(config, name)
        if name in ("out", "quiet") or given == field.default:
            continue
        flag = f"--{name.replace('_', '-')}"
        if name == "constraint":
            words += [word for one in given for word in (flag, one)]
        elif isinstance(given, bool):
            words.append(flag if given else f"--no-{flag[2:]}")
        else:
            words += [flag, ",".join(map(str, given)) if isinstance(given, tuple) else str(given)]
    return shlex.join(words)
