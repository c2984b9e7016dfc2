"""What is said of a run's designs, for the terminal, a notebook and a report alike."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cosearch.notebook import html_table
from cosearch.results import AT_DEFAULT, Design, Result
from search_spaces.decisions import network_of, split

FRONT_ROWS = 12
USUAL = ("accuracy", "latency_ms", "energy_mj", "area_mm2", "lut", "ff", "dsp", "bram", "uram")


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
