"""A block picture of an accelerator as SVG: its memories from DRAM inwards, its arrays, its vector unit."""

import math
from dataclasses import dataclass, field

from cosearch.hardware.accelerator import Accelerator, Engine, MemoryLevel
from cosearch.report.labels import amount_of_bytes
from cosearch.report.markup import Markup, join, tag

WIDTH = 380
LEFT = 26
"""Where boxes begin; the bus runs beside them."""
GAP = 10
INNER = WIDTH - LEFT - 4
ARRAY_WIDTH, ARRAY_HEIGHT = 92, 66
MOST_LINES = 48
"""More elements than these are drawn as fewer, larger ones."""


@dataclass
class Drawing:
    """Boxes from top to bottom. said: the same in words, for who cannot see it."""

    y: float = 2.0
    shapes: list[Markup] = field(default_factory=list)
    taps: list[float] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def box(self, x: float, width: float, height: float, kind: str) -> None:
        self.shapes.append(tag("rect", x=x, y=self.y, width=width, height=height, rx=5, class_=f"box {kind}"))

    def text(self, x: float, y: float, text: str, kind: str = "", most: int = 60) -> None:
        shown = text if len(text) <= most else text[: most - 1] + "…"
        self.shapes.append(tag("text", shown, x=x, y=self.y + y, class_=kind or None))


def picture(accelerator: Accelerator) -> Markup:
    drawing = Drawing()
    _memory(drawing, accelerator.levels[-1], LEFT, INNER, accelerator)
    drawing.taps.append(drawing.y + 20)
    drawing.y += 40 + GAP
    shared = list(reversed(accelerator.levels[:-1]))
    for row in (shared[i : i + 2] for i in range(0, len(shared), 2)):
        width = (INNER - GAP * (len(row) - 1)) / len(row)
        for i, level in enumerate(row):
            _memory(drawing, level, LEFT + i * (width + GAP), width, accelerator)
        drawing.taps.append(drawing.y + 20)
        drawing.y += 40 + GAP
    for engine in accelerator.engines:
        _engine(drawing, engine)
    if any(engine.form is None for engine in accelerator.engines):
        drawing.box(LEFT, INNER, 24, "vector")
        lanes = f"vector unit, {accelerator.lanes} lanes: pooling, sums, requantisation"
        drawing.text(LEFT + 8, 16, lanes)
        drawing.said.append(lanes)
        drawing.taps.append(drawing.y + 12)
        drawing.y += 24 + GAP
    bus = 10
    stubs = (tag("path", d=f"M{bus} {y}H{LEFT}", class_="bus") for y in drawing.taps)
    spine = tag("path", d=f"M{bus} {drawing.taps[0]}V{drawing.taps[-1]}", class_="bus")
    described = f"{accelerator.name} at {accelerator.clock_mhz:g} MHz: " + "; ".join(drawing.said)
    return tag(
        "svg",
        tag("title", "Block picture of the accelerator"),
        tag("desc", described),
        spine,
        join(stubs),
        join(drawing.shapes),
        viewBox=f"0 0 {WIDTH} {drawing.y:g}",
        class_="picture",
        role="img",
        aria_label=described,
    )


def _memory(drawing: Drawing, level: MemoryLevel, x: float, width: float, accelerator: Accelerator) -> None:
    room = "" if math.isinf(level.capacity_bytes) else amount_of_bytes(level.capacity_bytes)
    if room and level.instances > 1:
        room = f"{level.instances} × {room}"
    port = "" if math.isinf(level.read_bits_per_cycle) else f"{level.read_bits_per_cycle:g} bit per cycle"
    if port and math.isinf(level.capacity_bytes):
        port = f"{level.read_bits_per_cycle * accelerator.clock_mhz / 1e3:.4g} Gbit/s"
    name = level.name.replace("_", " ")
    name = "DRAM" if name == "dram" else name
    drawing.box(x, width, 40, "memory")
    drawing.text(x + 8, 16, name, "strong", most=int(width / 7))
    below = ", ".join(part for part in (room, port) if part)
    drawing.text(x + 8, 32, below, most=int(width / 6))
    drawing.shapes.append(
        tag("text", " ".join(level.holds), x=x + width - 8, y=drawing.y + 16, class_="holds", text_anchor="end")
    )
    drawing.said.append(f"{name} ({', '.join(part for part in (below, 'holds ' + ' '.join(level.holds)) if part)})")


def _engine(drawing: Drawing, engine: Engine) -> None:
    lines = [f"{engine.rows} × {engine.cols} elements" + (f" of {engine.lanes} lanes" if engine.lanes > 1 else "")]
    if engine.form is not None:
        lines.append(f"priced in closed form: {engine.form.name}")
    else:
        fabric = " on hard multipliers" if engine.fabric == "hard" else " in logic"
        lines.append(engine.dataflow + (fabric if "mac" in engine.kinds else ""))
        if engine.windowed:
            lines.append("pixel window for depthwise layers")
        if engine.packing > 1:
            lines.append(f"{engine.packing} products per multiplier")
    for level in engine.levels:
        if level.word_bits > 1 or level.read_energy_pj > 0:  # registers are the elements' own
            lines.append(f"{level.name.replace('_', ' ')}: {level.instances} × {amount_of_bytes(level.capacity_bytes)}")
    takes = {"LUTs": engine.resources.lut, "DSP": engine.resources.dsp, "block RAMs": engine.resources.bram}
    if any(takes.values()):
        lines.append(", ".join(f"{amount:,} {name}" for name, amount in takes.items() if amount))
    if set(engine.kinds) != {engine.name}:
        lines.append(f"runs {', '.join(engine.kinds)}")
    height = max(ARRAY_HEIGHT + 20, 24 + 16 * len(lines) + 6)
    drawing.box(LEFT, INNER, height, "engine")
    _array(drawing, engine, LEFT + 8, drawing.y + (height - ARRAY_HEIGHT) / 2)
    for i, line in enumerate((f"{engine.name} array", *lines)):
        drawing.text(LEFT + ARRAY_WIDTH + 20, 18 + 16 * i, line, "strong" if i == 0 else "", most=38)
    drawing.said.append(f"{engine.name} array ({', '.join(lines)})")
    drawing.taps.append(drawing.y + height / 2)
    drawing.y += height + GAP


def _array(drawing: Drawing, engine: Engine, x: float, y: float) -> None:
    """Elements to scale: as many rows and columns as there are, up to a limit."""
    rows, cols = min(engine.rows, MOST_LINES), min(engine.cols, MOST_LINES)
    cell = min(ARRAY_WIDTH / cols, ARRAY_HEIGHT / rows, 16)
    width, height = cell * cols, cell * rows
    left, top = x + (ARRAY_WIDTH - width) / 2, y + (ARRAY_HEIGHT - height) / 2
    lines = "".join(f"M{left + cell * i:.2f} {top:.2f}v{height:.2f}" for i in range(cols + 1))
    lines += "".join(f"M{left:.2f} {top + cell * i:.2f}h{width:.2f}" for i in range(rows + 1))
    shape = {"x": f"{left:.2f}", "y": f"{top:.2f}", "width": f"{width:.2f}", "height": f"{height:.2f}"}
    drawing.shapes.append(tag("rect", class_="array", **shape))
    drawing.shapes.append(tag("path", d=lines, class_="grid"))
