"""A front as a page of HTML with one drawing and no script: it opens anywhere, offline."""

import html
from collections.abc import Mapping

import numpy as np

from hwbench_data.store import Floats
from hwbench_data.table import Selection

WIDTH, HEIGHT, MARGIN = 860, 520, 64
_SHOWN = 4000
"""Networks drawn as background; more would only make the page slow."""


def front_page(front: Selection, conditions: Mapping[str, str]) -> str:
    """The front and all networks behind it over the first two objectives; each point says what it is on hovering."""
    y_name, x_name = list(front.values)[:2] if len(front.values) > 1 else [next(iter(front.values))] * 2
    table = front.table
    every = table.query_many(np.arange(len(table)), (x_name, y_name), front.device, **conditions)
    x, y = every[x_name], every[y_name]
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    shown = known[:: max(1, len(known) // _SHOWN)]
    across, up = _axis(x[known], WIDTH), _axis(y[known], HEIGHT)
    dots = [f'<circle cx="{across(x[i]):.1f}" cy="{HEIGHT - up(y[i]):.1f}" r="1.5"/>' for i in shown]
    points = list(zip(front.index.tolist(), front.labels, front.values[x_name], front.values[y_name], strict=True))
    line = " ".join(f"{across(a):.1f},{HEIGHT - up(b):.1f}" for _, _, a, b in sorted(points, key=lambda p: p[2]))
    marks = [
        f'<circle cx="{across(a):.1f}" cy="{HEIGHT - up(b):.1f}" r="4"><title>{html.escape(label)} (index {index})\n'
        f"{x_name} {a:.6g}, {y_name} {b:.6g}</title></circle>"
        for index, label, a, b in points
    ]
    where = ", ".join([str(front.device), *conditions.values()])
    title = html.escape(f"{table.name} on {where}: front of {len(front)} networks")
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<body style="font-family: sans-serif; max-width: {WIDTH}px; margin: 2em auto">
<h1 style="font-size: 1.2em">{title}</h1>
<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">
<g fill="#bbb">{"".join(dots)}</g>
<polyline points="{line}" fill="none" stroke="#1b6ca8"/>
<g fill="#1b6ca8">{"".join(marks)}</g>
<g font-size="13">{_ticks(x[known], y[known], x_name, y_name)}</g>
</svg>
<p>{len(shown)} of {len(known)} networks in grey. {html.escape(" ".join(table.card.notes))}</p>
</body></html>
"""


class _axis:
    """Value -> position along one side."""

    def __init__(self, values: Floats, length: int) -> None:
        self.low, self.high, self.length = float(values.min()), float(values.max()), length

    def __call__(self, value: float) -> float:
        part = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return MARGIN + part * (self.length - 2 * MARGIN)


def _ticks(x: Floats, y: Floats, x_name: str, y_name: str) -> str:
    across, up = _axis(x, WIDTH), _axis(y, HEIGHT)
    texts = []
    for part in np.linspace(0, 1, 6):
        a, b = x.min() + part * np.ptp(x), y.min() + part * np.ptp(y)
        texts.append(f'<text x="{across(a):.0f}" y="{HEIGHT - MARGIN + 24}" text-anchor="middle">{a:.3g}</text>')
        texts.append(f'<text x="{MARGIN - 10}" y="{HEIGHT - up(b) + 4:.0f}" text-anchor="end">{b:.3g}</text>')
    texts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 14}" text-anchor="middle">{html.escape(x_name)}</text>')
    texts.append(f'<text x="{MARGIN}" y="{MARGIN - 24}" text-anchor="middle">{html.escape(y_name)}</text>')
    return "".join(texts)
