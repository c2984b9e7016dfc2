"""A front as a page of HTML with one drawing, a table and no script: it opens anywhere, offline."""

import html
import math
from collections.abc import Mapping

import numpy as np

from hwbench_data.store import Floats
from hwbench_data.table import Selection

WIDTH, HEIGHT, MARGIN = 860, 520, 64
_SHOWN = 4000
"""Networks drawn as background; more would only make the page slow."""
_STYLE = f"""
body {{ font-family: sans-serif; max-width: {WIDTH}px; margin: 2em auto; color-scheme: light dark }}
h1 {{ font-size: 1.2em }}
svg {{ width: 100%; height: auto }}
svg text {{ fill: currentColor; font-size: 13px }}
.grid {{ stroke: currentColor; opacity: .15 }}
.limit {{ stroke: currentColor; stroke-dasharray: 5 4; opacity: .6 }}
.all {{ fill: #999; opacity: .6 }}
.front {{ fill: #2f86c9; stroke: none }}
.step {{ fill: none; stroke: #2f86c9 }}
table {{ border-collapse: collapse; font-size: .85em; font-variant-numeric: tabular-nums }}
td, th {{ padding: .15em .7em; text-align: right; border-bottom: 1px solid #8884 }}
td:nth-child(2), th:nth-child(2) {{ text-align: left; overflow-wrap: anywhere }}
"""


def front_page(front: Selection, conditions: Mapping[str, str], limits: Mapping[str, float] | None = None) -> str:
    """The front and all networks behind it over the first two objectives; each point says what it is on hovering.

    limits: ``max_<metric>`` and ``min_<metric>``, drawn where they are of these objectives.
    """
    y_name, x_name = list(front.values)[:2] if len(front.values) > 1 else [next(iter(front.values))] * 2
    table = front.table
    every = table.query_many(np.arange(len(table)), (x_name, y_name), front.device, **conditions)
    x, y = every[x_name], every[y_name]
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    shown = known[:: max(1, len(known) // _SHOWN)]
    across, up = _axis(x[known], WIDTH), _axis(y[known], HEIGHT)
    dots = [f'<circle cx="{across(x[i]):.1f}" cy="{HEIGHT - up(y[i]):.1f}" r="1.5"/>' for i in shown]
    points = list(zip(front.index.tolist(), front.labels, front.values[x_name], front.values[y_name], strict=True))
    marks = [
        f'<circle cx="{across(a):.1f}" cy="{HEIGHT - up(b):.1f}" r="4"><title>{html.escape(label)} (index {index})\n'
        f"{x_name} {a:.6g}, {y_name} {b:.6g}</title></circle>"
        for index, label, a, b in points
    ]
    where = ", ".join([front.place, *conditions.values()])
    title = html.escape(f"{where}: front of {len(front)} networks")
    bounds = {metric: limit for name, limit in (limits or {}).items() for metric in [name.partition("_")[2]]}
    steps = _steps(across, up, sorted((a, b) for _, _, a, b in points), table.metrics[x_name].better == "lower")
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>{_STYLE}</style>
<h1>{title}</h1>
<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">
{_scales(across, up, f"{x_name} ({_best(front, x_name)})", f"{y_name} ({_best(front, y_name)})")}
<g class="all">{"".join(dots)}</g>
{_bounds(across, up, bounds.get(x_name), bounds.get(y_name))}
<path class="step" d="{steps}"/>
<g class="front">{"".join(marks)}</g>
</svg>
<p>{len(shown):,} of {len(known):,} networks in grey; {_said(limits or {})}</p>
{_table(front)}
<p>{html.escape(" ".join(table.card.notes))}</p>
</html>
"""


def _said(limits: Mapping[str, float]) -> str:
    given = [f"{'at most' if name.startswith('max_') else 'at least'} {n:g} {name[4:]}" for name, n in limits.items()]
    return html.escape(f"the front is of those with {', '.join(given)}." if given else "the front is of all of them.")


def _best(front: Selection, metric: str) -> str:
    return f"{front.table.metrics[metric].better} is better"


def _table(front: Selection) -> str:
    rows = ["".join(f"<th>{html.escape(name)}</th>" for name in ("index", "network", *front.values))]
    for record in front.records():
        texts = (f"{value:.6g}" if isinstance(value, float) else str(value) for value in record.values())
        rows.append("".join(f"<td>{html.escape(text)}</td>" for text in texts))
    return "<table>" + "".join(f"<tr>{row}</tr>\n" for row in rows) + "</table>"


class _axis:
    """Value -> position along one side. ticks: round numbers between the ends."""

    def __init__(self, values: Floats, length: int) -> None:
        self.low, self.high, self.length = float(values.min()), float(values.max()), length
        self.ticks = round_numbers(self.low, self.high)

    def __call__(self, value: float) -> float:
        part = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return MARGIN + part * (self.length - 2 * MARGIN)


def round_numbers(low: float, high: float, most: int = 7) -> list[float]:
    """At most so many multiples of 1, 2 or 5 times a power of ten from low to high; low alone if they are equal."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(n * power for n in (1, 2, 5, 10, 20) if (high - low) / (n * power) <= most - 1)
    return [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _steps(across: _axis, up: _axis, points: list[tuple[float, float]], least_x: bool) -> str:
    """The border of what is dominated: between two networks of a front there is none to be had.

    points: by rising x; nothing is drawn if there are more objectives than these two, so that they are in no order.
    """
    ys = [b for _, b in points]
    if ys not in (sorted(ys), sorted(ys, reverse=True)):
        return ""
    moves = [f"M{across(points[0][0]):.1f},{HEIGHT - up(points[0][1]):.1f}"]
    for a, b in points[1:]:
        along, over = f"H{across(a):.1f}", f"V{HEIGHT - up(b):.1f}"
        moves.append(along + over if least_x else over + along)
    return "".join(moves)


def _bounds(across: _axis, up: _axis, x: float | None, y: float | None) -> str:
    """Limits as dashed lines, where they lie within the drawing."""
    lines = []
    if x is not None and across.low <= x <= across.high:
        lines.append(f'<path class="limit" d="M{across(x):.1f},{MARGIN}V{HEIGHT - MARGIN}"/>')
    if y is not None and up.low <= y <= up.high:
        lines.append(f'<path class="limit" d="M{MARGIN},{HEIGHT - up(y):.1f}H{WIDTH - MARGIN}"/>')
    return "".join(lines)


def _scales(across: _axis, up: _axis, x_name: str, y_name: str) -> str:
    """Lines and numbers at round values, and what the axes are."""
    parts = []
    for tick in across.ticks:
        at = across(tick)
        parts.append(f'<path class="grid" d="M{at:.1f},{MARGIN}V{HEIGHT - MARGIN}"/>')
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - MARGIN + 22}" text-anchor="middle">{_number(tick)}</text>')
    for tick in up.ticks:
        at = HEIGHT - up(tick)
        parts.append(f'<path class="grid" d="M{MARGIN},{at:.1f}H{WIDTH - MARGIN}"/>')
        parts.append(f'<text x="{MARGIN - 8}" y="{at + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 14}" text-anchor="middle">{html.escape(x_name)}</text>')
    parts.append(f'<text x="{MARGIN - 40}" y="{MARGIN - 24}">{html.escape(y_name)}</text>')
    return "\n".join(parts)


def _number(value: float) -> str:
    """Short enough for a margin: millions as 12M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"
