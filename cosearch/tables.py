"""Tables for a terminal."""

import html
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosearch.errors import shown
from cosearch.notebook import html_table
from cosearch.results import AT_DEFAULT, Design, Result
from cosearch.runs import dashboard_command
from search_spaces.decisions import network_of, split

if TYPE_CHECKING:
    from cosearch.costs import PricedNetwork
    from cosearch.hardware.mapping import Mapping as LoopMapping
    from cosearch.hardware.published import PublishedCost
    from cosearch.hardware.report import LayerReport, LayerRow
    from cosearch.models.recorder import Unpriced
    from cosearch.report.several import Comparison
    from cosearch.workload import Workload

FRONT_ROWS = 12
USUAL = ("accuracy", "latency_ms", "energy_mj", "area_mm2", "lut", "ff", "dsp", "bram", "uram")


def console(width: int = 112, stderr: bool = False) -> Any:
    """The terminal; wide enough for the tables where the output is a file or a pipe.

    Text is printed as it stands, whatever names of files, layers and devices hold: nothing in it is markup, and what
    would steer the terminal is escaped.
    """
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str("\n".join(map(shown, text.split("\n"))), **options)

    options: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False, "stderr": stderr}
    found = Plain(**options)
    return found if found.is_terminal else Plain(**options, width=max(found.width, width))


def html_result(result: Result) -> str:
    """What `print_result` prints, for a notebook."""
    finalist = result.finalist
    mappings = finalist_words(finalist) if finalist.policies else ""
    pipelined = pipeline_words(finalist.pipeline) if finalist.pipeline else ""
    lines = [decided(network_of(finalist.arch)), accelerator_words(finalist), mappings, pipelined]
    parts = [html_table(*table) for table in result_tables(result)]
    parts.append(
        "<p><b>Recommended finalist</b><br>" + "<br>".join(html.escape(line) for line in lines if line) + "</p>"
    )
    if result.notes:
        items = "".join(f"<li>{html.escape(note)}</li>" for note in result.notes)
        parts.append(f"<p><b>What co-search bought</b></p><ul>{items}</ul>")
    return "".join([*parts, f"<p>Run directory: {html.escape(result.path)}</p>"])


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    console().print(_table(title, columns, rows))


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)
    for i, column in enumerate(columns):
        numeric = i > 0 and all(row[i][:1].isdigit() or row[i] in ("-", "") for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric or i == 0)
    for row in rows:
        table.add_row(*row)
    return table


def result_tables(result: Result) -> list[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
    """Title, columns and rows of the front, the designs side by side, and their costs."""
    front = result.front
    names = [n for n in dict.fromkeys((*result.objectives, *USUAL)) if n in front]
    step = max(1, -(-len(front) // FRONT_ROWS))
    rows = [
        tuple(_with_bounds(name, front[name].iloc[i], _bounds(front, name, i)) for name in names)
        for i in range(0, len(front), step)
    ]
    if "unlike_measured" in front and front["unlike_measured"].any():
        like = ["no" if front["unlike_measured"].iloc[i] else "yes" for i in range(0, len(front), step)]
        names, rows = [*names, "like measured"], [(*row, said) for row, said in zip(rows, like, strict=True)]
    told = f"{len(rows)} of {len(front)} designs" if step > 1 else f"{len(front)} designs"
    source = front["accuracy_source"].iloc[0] if len(front) else ""
    tables: list[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = [
        (f"Pareto front: {told}; accuracy from: {source}", names, rows)
    ]
    seeds = len(result.finalist.correct)
    own = [design for design in result.designs if not design.name.endswith(AT_DEFAULT)]
    if seeds:
        trainings = f"{seeds} training{'s' * (seeds > 1)} {result.training}"
        title = f"Designs: accuracy of the integer network on the test images, {trainings}"
        columns = ("design", "mean [95% interval]", "least to most", "float network", "in the search")
        tables.append((title, columns, [_accuracy_row(design) for design in own]))
    else:
        rows = [(design.name, number("accuracy", design.accuracy)) for design in own]
        tables.append(("Designs", ("design", "accuracy, from the table"), rows))
    metrics = [n for n in dict.fromkeys((*result.objectives, *USUAL)) if any(n in d.costs for d in result.designs)]
    title = f"Costs, {result.costs_are}"
    if len(own) < len(result.designs):
        title += f";{AT_DEFAULT}: on the default accelerator"
    rows = [(d.name, *(cost_of(d, n) for n in metrics)) for d in result.designs]
    return [*tables, (title, ("design", *metrics), rows)]


def cost_of(design: Design, name: str) -> str:
    """A cost, with its interval if it is predicted: ``12.3 [11 to 14]``."""
    return _with_bounds(name, design.costs.get(name), design.cost_intervals.get(name))


def _bounds(front: Any, name: str, row: int) -> tuple[float, float] | None:
    """The interval of a value in a front, if its costs are predicted."""
    columns = [f"{name}_low", f"{name}_high"]
    return tuple(front[columns].iloc[row]) if set(columns) <= set(front) else None


def _with_bounds(name: str, value: Any, bounds: tuple[float, float] | None) -> str:
    told = f" [{number(name, bounds[0])} to {number(name, bounds[1])}]" if bounds is not None else ""
    return f"{number(name, value)}{told}"


def decided(choices: Mapping[str, Any]) -> str:
    """``layer1 shift_k3_e1, layer2 skip``."""
    return ", ".join(f"{name} {choice}" for name, choice in choices.items())


def accelerator_words(design: Design) -> str:
    """The name of its accelerator, with the decisions that were searched for it."""
    chosen = split(design.arch)[1]
    return f"{design.accelerator} ({decided(chosen)})" if chosen else design.accelerator


def print_result(result: Result) -> None:
    """The front, the designs side by side, and what co-search bought."""
    out = console()
    for title, columns, rows in result_tables(result):
        out.print(_table(title, columns, rows))
    finalist = result.finalist
    out.print("Recommended finalist", style="bold")
    out.print("  network: " + decided(network_of(finalist.arch)))
    if finalist.accelerator:
        out.print(f"  accelerator: {accelerator_words(finalist)}")
    if finalist.policies:
        out.print(f"  mappings: {finalist_words(finalist)}")
    if finalist.pipeline:
        out.print(f"  pipelined: {pipeline_words(finalist.pipeline)}")
    if result.notes:
        out.print("What co-search bought", style="bold")
    for note in result.notes:
        out.print(f"  {note}")
    out.print(f"Run directory: {result.path}")
    # a line that is to be copied is not folded, however narrow the terminal
    out.print(f"Its trials in a browser: {dashboard_command(result.path)}", soft_wrap=True)
    if (Path(result.path) / "report.html").is_file():
        out.print(f"Report: {result.path}/report.html")


def print_comparison(compared: "Comparison") -> None:
    """What the page of several runs begins with."""
    from cosearch.report.several import by_configuration, by_run, configurations, sentences, warnings

    out = console(150)
    for warning in warnings(compared):
        out.print(warning, style="bold")
    for name, apart in configurations(compared):
        out.print(f"{name}: {apart}")
    out.print(_table("The finalists of each configuration", *by_configuration(compared)))
    out.print(_table("The finalist of each run", *by_run(compared)))
    for sentence in sentences(compared):
        out.print(f"  {sentence}")


def policy_words(policies: Iterable[tuple[str, float]]) -> str:
    """What each engine's mappings minimise: ``mac: least latency; shift: least 0.5 W x latency + 0.5 x energy``."""
    named = {1.0: "least latency", 0.0: "least energy"}
    said = [f"{kind}: {named.get(w, f'least {w:g} W x latency + {1 - w:g} x energy')}" for kind, w in policies]
    return "; ".join(said) or "nothing to choose"


def gap_words(edp: float, bound: float | None) -> str:
    """How near an energy-delay product is to the least one of any choice of mappings."""
    from cosearch.hardware.hull import gap

    if bound is None or math.isnan(bound):
        return "not known, as two engines share layers"
    left = gap(edp, bound)
    if math.isinf(left):
        return "not bounded by this grid of policies"
    return f"at most {left:.2%}" if left >= 5e-5 else "less than 0.01%"


def finalist_words(design: Design) -> str:
    """How the mappings of a design on an accelerator were chosen, and how near they are to the best for the product."""
    edp = design.costs["latency_ms"] * design.costs["energy_mj"]
    return (
        f"{policy_words(design.policies)}; energy-delay product {edp:.4g} mJ ms, gap to the convex-hull bound of any "
        f"mapping for any layer {gap_words(edp, design.edp_bound)}"
    )


def pipeline_words(pipeline: Mapping[str, Any]) -> str:
    """What engines that work on different images at once reach; pipeline: as `Pipeline.to_json` has it."""
    memories = pipeline["limit"] == "memories"
    limit = "the memories that they share" if memories else f"the {pipeline['limit']} engine"
    most = "at most " if pipeline["interval_is_bound"] else ""
    return (
        f"engines on different images at once: one every {most}{pipeline['interval_ms']:.4g} ms, "
        f"{pipeline['throughput_fps']:,.4g} images/s, limited by {limit}; {pipeline['energy_mj']:.4g} mJ an image"
    )


LAYER_NOTES = (
    "Best of: how many mappings the mapspace of this layer has; shown is the best of all of them under the network's "
    "policy, exactly.",
    "Mapping: memory levels by their initials, loops outermost first, after | what runs in parallel.",
)


def layers_table(report: "LayerReport") -> tuple[str, Sequence[str], Sequence[Sequence[str]]]:
    """Title, columns and one row per layer; all figures are modelled."""
    columns = (
        "layer",
        "kind",
        "MMACs",
        "cycles",
        "uJ",
        "energy split",
        "use",
        "x roof",
        "bound",
        "best of",
        "engine: mapping",
    )
    table = [
        (
            row.layer.name,
            row.layer.kind,
            f"{row.layer.macs / 1e6:.3g}",
            f"{row.cycles:,.0f}",
            f"{row.energy_mj * 1e3:.3g}",
            _split(row.energy_pj),
            f"{row.utilisation:.0%}",
            f"{row.latency_ms / row.roofline_ms:.2f}" if row.roofline_ms else "-",
            row.bound,
            f"{row.mapspace:,}" if row.mapspace else "-",
            where(row),
        )
        for row in report
    ]
    return f"{report.workload.name} on {report.accelerator.name}", columns, table


def _layers_total(report: "LayerReport") -> str:
    energy: Counter[str] = Counter()
    for row in report:
        energy.update(row.energy_pj)
    millions = report.workload.macs / 1e6
    operations = f"{millions:.3g}" if millions < 100 else f"{millions:,.1f}"
    return (
        f"{operations} MMACs, {report.workload.weight_count / 1e6:.3g} M weights; modelled: "
        f"{sum(row.latency_ms for row in report):.4g} ms, {sum(row.energy_mj for row in report):.4g} mJ "
        f"({_split(energy, len(energy))})"
    )


def print_layers(priced: "PricedNetwork") -> None:
    """One line per layer, the totals, and what the optimum is one of; all figures are modelled."""
    out = console(150)
    report, cost = priced.report.rows, priced.report.cost
    out.print(_table(*layers_table(report)))
    for line in (*LAYER_NOTES, _layers_total(report)):
        out.print(line)
    out.print(
        f"With its input and output through DRAM: {cost.latency_ms:.4g} ms, {cost.energy_mj:.4g} mJ; energy-delay "
        f"product {cost.edp:.4g} mJ ms."
    )
    pipeline = priced.report.pipeline
    beside = f"; {pipeline_words(pipeline.to_json())}" if pipeline else ""
    out.print(f"Throughput: one image after the other {cost.throughput_fps:,.4g} images/s{beside}.")
    mapped = any(row.mapspace for row in report)
    out.print(
        f"Mapping policy: {policy_words(cost.policies)}."
        if mapped
        else "No mappings to choose: layers are priced in closed form.",
    )
    out.print(f"Accounting of an operation's energy: {priced.accelerator.accounting}.")
    what = f"of {priced.accelerators:,} accelerators" if priced.accelerators > 1 else "of this one accelerator"
    if priced.objective == "edp" and mapped:
        out.print(
            f"Least energy-delay product {what}, over one policy per engine. Gap to the convex-hull bound of any "
            f"mapping for any layer: {gap_words(cost.edp, cost.edp_bound)} on this accelerator, "
            f"{gap_words(cost.edp, priced.edp_bound)} over all.",
        )
    else:
        exactly = "" if priced.accelerator.splits else " and of any mapping for any layer, exactly"
        out.print(f"Least {priced.objective} {what}{exactly}.")


def html_layers(report: "LayerReport") -> str:
    """The layers as `print_layers` prints them, for a notebook."""
    lines = (*LAYER_NOTES, _layers_total(report))
    return html_table(*layers_table(report)) + "".join(f"<p>{html.escape(line)}</p>" for line in lines)


def print_unpriced(unpriced: "Sequence[Unpriced]") -> None:
    """What a network does beside its layers, with its share of operations and bytes."""
    if not unpriced:
        return
    rows = [
        (
            entry.operation,
            str(entry.calls),
            f"{entry.share_of_operations:.2%}",
            f"{entry.share_of_bytes:.2%}",
            entry.reason,
        )
        for entry in unpriced
    ]
    columns = ("not a layer of its own", "calls", "of operations", "of bytes", "what becomes of it")
    console(150).print(_table("Beside the layers", columns, rows))


def print_blocks(workload: "Workload", device: str, cost: "PublishedCost") -> None:
    """One line per block that a published simulator charges, what it does not charge, and the totals."""
    out = console(150)
    rows = [
        (
            " ".join(block.layers),
            f"{block.latency_ms:.4g}",
            f"{block.energy_mj:.4g}" if math.isfinite(block.energy_mj) else "-",
        )
        for block in cost.blocks
    ]
    out.print(_table(f"{workload.name} on {device}", ("block", "ms", "mJ"), rows))
    energy = f", {cost.energy_mj:.4g} mJ" if math.isfinite(cost.energy_mj) else "; it gives no energy"
    out.print(f"By the rules of the published table: {cost.latency_ms:.4g} ms{energy}.")
    if cost.unpriced:
        share = cost.unpriced_share(workload)
        out.print(f"Not charged by the table ({share:.1%} of the operations): {', '.join(cost.unpriced)}.")


def where(row: "LayerRow") -> str:
    """Engine and mapping; of a layer on two engines each one's output channels and mapping."""
    if row.parts:
        return "; ".join(f"{part.kind} {part.K}: {_compact(mapping)}" for part, mapping in row.parts)
    return f"{row.engine}: {_compact(row.mapping)}" if row.mapping else row.engine


def _split(energy_pj: Mapping[str, float], most: int = 2) -> str:
    """The largest shares of an energy: ``static 79%, compute 12%``."""
    total = sum(energy_pj.values()) or 1.0
    largest = sorted(energy_pj.items(), key=lambda item: -item[1])[:most]
    return ", ".join(f"{name} {value / total:.0%}" for name, value in largest)


def _compact(mapping: "LoopMapping") -> str:
    """Levels with loops, outermost first: ``wb P2|K16 acc C2R3|S3C8``; after the bar, loops that run in parallel."""
    parts = []
    for level in reversed(mapping.levels):
        words = level.level.split("_")
        name = words[0][:3] if len(words) == 1 else "".join(word[0] for word in words)
        loops = "".join(f"{dim}{bound}" for dim, bound in reversed(level.temporal) if bound > 1)
        parallel = "".join(f"{dim}{bound}" for dim, bound in level.spatial if bound > 1)
        if loops or parallel:
            parts.append(f"{name} {loops}" + (f"|{parallel}" if parallel else ""))
    return " ".join(parts)


def _accuracy_row(design: Design) -> tuple[str, ...]:
    low, high = design.interval
    reached = design.integer_accuracies
    return (
        design.name,
        f"{design.accuracy:.4f} [{low:.3f}, {high:.3f}]",
        f"{min(reached):.4f} to {max(reached):.4f}",
        f"{sum(design.float_accuracies) / len(design.float_accuracies):.4f}",
        f"{design.search_accuracy:.4f}",
    )


def number(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "accuracy":
        return f"{value:.4f}"
    return f"{value:.4g}" if name in ("latency_ms", "energy_mj", "edp", "area_mm2") else f"{value:,.0f}"
