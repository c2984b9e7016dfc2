"""LSQ for one value after the other, as its equations are printed."""

import math


def lsq(
    values: list[float], step: float, low: int, high: int, gradient: list[float]
) -> tuple[list[float], list[float], float]:
    """Outputs, gradients of the values, and the step's gradient (scaled by 1 / sqrt(n high))."""
    outputs, slopes, total = [], [], 0.0
    for v, g in zip(values, gradient, strict=True):
        level = min(max(v / step, low), high)
        outputs.append(round(level) * step)
        inside = low < v / step < high
        slopes.append(g if inside else 0.0)
        if inside:
            total += g * (round(v / step) - v / step)
        else:
            total += g * (low if v / step <= low else high)
    return outputs, slopes, total / math.sqrt(len(values) * high)
