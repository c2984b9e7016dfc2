"""What commands print on a terminal: a run, several of them, a network layer by layer."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cosearch.results import Result
from cosearch.strategies.study import dashboard_command
from cosearch.terminal import as_table, console
from cosearch.words import (
    accelerator_words,
    decided,
    finalist_words,
    gap_words,
    pipeline_words,
    policy_words,
    result_tables,
)
from search_spaces.decisions import network_of

if TYPE_CHECKING:
    from cosearch.costs import PricedNetwork
    from cosearch.hardware.published import PublishedCost
    from cosearch.models.recorder import Unpriced
    from cosearch.report.several import Comparison
    from cosearch.workload import Workload


def print_result(result: Result) -> None:
    """The front, the designs side by side, and what co-search bought."""
    out = console()
    for title, columns, rows in result_tables(result):
        out.print(as_table(title, columns, rows))
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
    out.print(as_table("The finalists of each configuration", *by_configuration(compared)))
    out.print(as_table("The finalist of each run", *by_run(compared)))
    for sentence in sentences(compared):
        out.print(f"  {sentence}")


def print_layers(priced: "PricedNetwork") -> None:
    """One line per layer, the totals, and what the optimum is one of; all figures are modelled."""
    from cosearch.hardware.report import LAYER_NOTES, layers_table, layers_total

    out = console(150)
    report, cost = priced.report.rows, priced.report.cost
    out.print(as_table(*layers_table(report)))
    for line in (*LAYER_NOTES, layers_total(report)):
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
    console(150).print(as_table("Beside the layers", columns, rows))


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
    out.print(as_table(f"{workload.name} on {device}", ("block", "ms", "mJ"), rows))
    energy = f", {cost.energy_mj:.4g} mJ" if math.isfinite(cost.energy_mj) else "; it gives no energy"
    out.print(f"By the rules of the published table: {cost.latency_ms:.4g} ms{energy}.")
    if cost.unpriced:
        share = cost.unpriced_share(workload)
        out.print(f"Not charged by the table ({share:.1%} of the operations): {', '.join(cost.unpriced)}.")
