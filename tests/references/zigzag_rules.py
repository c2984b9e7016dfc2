"""What ZigZag 3.9.1 charges for a given mapping, restated as equations and held against its recorded figures.

A second opinion that needs no foreign environment: `price` takes the hardware and mapping documents of
tests/references/tools/zigzag.json and returns what ZigZag itself returns for them. Only unrollings over K and C, and
over P or Q of depthwise layers, each over at most one array dimension, are covered. Every rule but two is checked by
the recordings: that transfers share a port's spare bandwidth, and that tensors take the room for double buffering in
turn, decides no recorded figure and is read from ZigZag's source. Terms: a *tile* of a tensor at a level is what one
instance holds; a *period* is the cycles of the temporal loops up to a level; "inner" is towards the array.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cosearch.workload import Layer

Loop = tuple[str, int]
Move = tuple[str, int, str]
"""Tensor, level and one of the four directions of a memory's traffic."""

FILL, READ, UPDATE, DRAIN = "fill from above", "read to below", "update from below", "drain to above"
TENSORS = ("O", "W", "I")
"""In the order in which ZigZag hands out room for double buffering."""


@dataclass(frozen=True)
class Price:
    latency_cycles: float
    stall_cycles: float
    onloading_cycles: float
    offloading_cycles: float
    energy_pj: float


@dataclass(frozen=True)
class Traffic:
    """elements per period, bits of one, cycles of a period, and how many periods the layer has."""

    elements: float
    bits: int
    period: int
    periods: int


@dataclass(frozen=True)
class Nest:
    """One mapping with either the mean (energy) or the floored (latency) unrolling."""

    layer: Layer
    hardware: Mapping[str, Any]
    temporal: Mapping[str, tuple[tuple[Loop, ...], ...]]
    unrolled: Mapping[str, Mapping[str, float]]
    partial_sum_bits: int

    def relevant(self, tensor: str) -> str:
        """Loops that change the tensor's element; the channel loop of a depthwise layer changes all of them."""
        depthwise = self.layer.groups > 1
        return {"W": "KCRS", "I": "NCPQRS" + "K" * depthwise, "O": "NKPQ"}[tensor]

    @cached_property
    def total(self) -> int:
        return math.prod(bound for level in self.temporal["O"] for _, bound in level)

    def levels(self, tensor: str) -> list[Mapping[str, Any]]:
        return [level for level in self.hardware["levels"] if tensor in level["holds"]]

    def spatial(self, tensor: str, level: int) -> dict[str, float]:
        """Loops unrolled right below a level: over the dimensions that it serves and that no lower level does."""
        served = [set(entry["shared_along"]) for entry in self.levels(tensor)]
        here = served[level] - set().union(*served[:level]) if level < len(served) else set()
        return {loop: bound for dim in here for loop, bound in self.unrolled.get(dim, {}).items()}

    def stationary(self, tensor: str) -> list[list[Loop]]:
        """Loops per level, the innermost irrelevant loops of each level handed down: they move no data there."""
        levels = [list(level) for level in self.temporal[tensor]]
        relevant = self.relevant(tensor)
        for level in range(1, len(levels)):
            while levels[level] and levels[level][0][0] not in relevant:
                target = level - 1
                loop = levels[level].pop(0)
                while target > 0 and not levels[target]:
                    target -= 1
                levels[target].append(loop)
        return levels

    def tile(self, tensor: str, level: int) -> int:
        """Elements that one instance of a level holds; level -1 is the array itself, with one element."""
        size = dict.fromkeys("NKCPQRS", 1.0)
        for j in range(level + 1):
            for loop, bound in [*self.stationary(tensor)[j], *self.spatial(tensor, j).items()]:
                size[loop] *= bound
        if tensor != "I":
            return round(math.prod(size[loop] for loop in self.relevant(tensor)))
        layer, depthwise = self.layer, self.layer.groups > 1
        rows = _window(size["P"], size["R"], layer.stride[0], layer.dilation[0])
        columns = _window(size["Q"], size["S"], layer.stride[1], layer.dilation[1])
        return round(size["N"] * size["C"] * (size["K"] if depthwise else 1) * rows * columns)

    def partial(self, tensor: str, level: int) -> bool:
        """Whether what level -1 (the array), 0, 1 ... hands up is still summed above, counting unrolled loops."""
        if tensor != "O":
            return False
        levels = self.stationary(tensor)
        above: list[tuple[str, float]] = [loop for j in range(level + 1, len(levels)) for loop in levels[j]]
        above += [item for j in range(level + 2, len(levels) + 1) for item in self.spatial(tensor, j).items()]
        return any(loop not in self.relevant(tensor) and bound > 1 for loop, bound in above)

    def bits(self, tensor: str, level: int) -> int:
        if tensor == "O":
            return self.partial_sum_bits if self.partial(tensor, level) else self.layer.output_bits
        return self.layer.weight_bits if tensor == "W" else self.layer.input_bits

    def period(self, tensor: str, level: int) -> int:
        """Cycles of the loops up to a level; at the array, those for which an input operand stays the same."""
        levels = self.stationary(tensor)
        if level >= 0:
            return math.prod(bound for j in range(level + 1) for _, bound in levels[j])
        cycles = 1
        for loop, bound in levels[0]:
            if tensor == "O" or loop in self.relevant(tensor):
                break
            cycles *= bound
        return cycles

    def distinct(self, tensor: str, level: int) -> int:
        """Different elements among the units below one instance of a level; the rest is multicast or summed.

        Of output rows or columns that move an input window, the whole part of their mean number counts.
        """
        relevant = self.relevant(tensor)
        counts = {loop: bound for loop, bound in self.spatial(tensor, level).items() if loop in relevant}
        return round(math.prod(int(b) if tensor == "I" and loop in "PQ" else b for loop, b in counts.items()))

    def instances(self, tensor: str, level: int) -> int:
        above = range(level + 1, len(self.levels(tensor)) + 1)
        return round(math.prod(bound for j in above for bound in self.spatial(tensor, j).values()))

    def traffic(self, move: Move) -> Traffic | None:
        """What moves over one instance's port in one direction; None if nothing does."""
        tensor, level, direction = move
        inner = direction in (READ, UPDATE)
        below = level - 1 if inner else level
        top = level == len(self.levels(tensor)) - 1
        if (top and not inner) or (tensor == "O" and direction in (READ, FILL) and not self.partial(tensor, below)):
            return None
        elements = self.tile(tensor, below) * (self.distinct(tensor, level) if inner else 1)
        period = self.period(tensor, below)
        return Traffic(elements, self.bits(tensor, below), period, self.total // period)

    def trailing(self, tensor: str, level: int, relevant: bool) -> int:
        """The product of a level's outermost loops that are all irrelevant, or all relevant; 1 for the array (-1).

        Loops that move an input window are neither.
        """
        loops = self.stationary(tensor)[level] if level >= 0 else []
        chosen = set(self.relevant(tensor)) - set("PQRS" if tensor == "I" else "")
        product = 1
        for loop, bound in reversed(loops):
            if (loop in chosen) if relevant else (loop not in self.relevant(tensor)):
                product *= bound
            else:
                break
        return product


def _window(outputs: float, kernel: float, stride: int, dilation: int) -> float:
    """Different input rows that `outputs` output rows read through `kernel` kernel rows."""
    common = math.gcd(stride, dilation)
    a, b = int(outputs), int(kernel)
    return a * b - max(0, b - stride // common) * (a - dilation // common)


def price(layer: Layer, hardware: Mapping[str, Any], mapping: Mapping[str, Any], partial_sum_bits: int = 16) -> Price:
    """Latency and energy of a mapping, as ZigZag counts them.

    hardware, mapping: documents with the fields of tests/references/tools/zigzag.json.
    """
    temporal = {
        tensor: tuple(tuple((str(loop), int(bound)) for loop, bound in level) for level in levels)
        for tensor, levels in mapping["temporal"].items()
    }
    mean = {
        dim: {loop: _mean_unrolling(layer, loop, bound) for loop, bound in loops.items()}
        for dim, loops in mapping["spatial"].items()
    }
    floor = {dim: {loop: int(bound) for loop, bound in loops.items()} for dim, loops in mean.items()}
    by_mean, by_floor = (Nest(layer, hardware, temporal, u, partial_sum_bits) for u in (mean, floor))
    stall = _stall(by_mean, by_floor)
    cycles = _edges(by_floor, by_floor.total + stall)
    onloading, offloading = _onloading(by_floor, cycles), _offloading(by_floor, cycles)
    drain = sum(math.prod(mapping["spatial"].get(d, {}).values()) - 1 for d in hardware["systolic_dimensions"])
    latency = by_floor.total + stall + onloading + offloading + drain
    energy = layer.macs * hardware["mac_energy_pj"] + _memory_energy(by_mean)
    return Price(latency, stall, onloading, offloading, energy)


def _mean_unrolling(layer: Layer, loop: str, bound: int) -> float:
    """Units busy on average when the last of ceil(size / bound) passes is not full."""
    depthwise_channel = loop == "C" and layer.groups > 1
    size = 1 if depthwise_channel else getattr(layer, loop)
    return size / math.ceil(size / bound)


def _moves(nest: Nest) -> list[tuple[Mapping[str, Any], Mapping[str, Any], list[tuple[Move, Traffic]]]]:
    """Every level and port with the moves that it serves and that happen."""
    found = []
    for level in nest.hardware["levels"]:
        for port in level["ports"]:
            served = [(text[0], text[2:]) for text in port["serves"]]
            moves: list[Move] = [(tensor, nest.levels(tensor).index(level), move) for tensor, move in served]
            found.append((level, port, [(m, t) for m in moves if (t := nest.traffic(m)) is not None]))
    return found


def _memory_energy(nest: Nest) -> float:
    """Accesses times energy: each period's bits round up to the smallest access, a part of the port's full width."""
    energy = 0.0
    for level, port, moves in _moves(nest):
        part = port["smallest_access_bits"] / port["bits_per_cycle"]
        for (tensor, index, direction), traffic in moves:
            steps = math.ceil(traffic.elements * traffic.bits / port["smallest_access_bits"])
            accesses = int(steps * part * traffic.periods * nest.instances(tensor, index))
            kind = "read" if direction in (READ, DRAIN) else "write"
            energy += accesses * level[f"{kind}_energy_pj_per_full_width_access"]
    return energy


def _double_buffered(nest: Nest) -> dict[tuple[str, int], bool]:
    """Whether a tensor's tile at a level can be replaced while it is used.

    What counts is the tile without its outermost relevant loops. It can if all tensors of the memory fill at most half
    of it; else each tensor in turn, if the room that is left holds a second copy of it.
    """
    share: dict[tuple[str, int], float] = {}
    groups: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for level in nest.hardware["levels"]:
        keys = [(tensor, nest.levels(tensor).index(level)) for tensor in level["holds"]]
        for tensor, index in keys:
            bits = nest.tile(tensor, index) * nest.bits(tensor, index) // nest.trailing(tensor, index, relevant=True)
            share[tensor, index] = bits / level["capacity_bits_per_instance"]
            groups[tensor, index] = keys
    used = {key: sum(share[other] for other in keys) for key, keys in groups.items()}
    result = {}
    for tensor in TENSORS:
        for index in range(len(nest.levels(tensor))):
            key = (tensor, index)
            result[key] = used[key] <= 0.5
            if not result[key] and share[key] <= 1 - used[key]:
                result[key] = True
                for other in groups[key]:
                    used[other] += share[key]
    return result


def _window_cycles(nest: Nest, buffered: Mapping[tuple[str, int], bool], move: Move, traffic: Traffic) -> int:
    """Cycles of a period in which a transfer may happen: all, or without double buffering the last irrelevant pass."""
    tensor, level, direction = move
    below = level - 1 if direction in (READ, UPDATE) else level
    if buffered.get((tensor, below), False):
        return traffic.period
    return int(traffic.period / nest.trailing(tensor, below, relevant=False))


def _stall(by_mean: Nest, by_floor: Nest) -> float:
    """The worst port's stalls. Each transfer's first period is left out: it is loading or unloading."""
    buffered = _double_buffered(by_mean)
    worst = 0.0
    for _, port, moves in _moves(by_floor):
        late = early = allowed = 0
        windows = []
        for move, traffic in moves:
            real = math.ceil(traffic.elements * traffic.bits / port["bits_per_cycle"])
            window = _window_cycles(by_floor, buffered, move, traffic)
            slack = (real - window) * (traffic.periods - 1)
            late, early = late + max(slack, 0), early + min(slack, 0)
            allowed += window * (traffic.periods - 1)
            windows.append((traffic.period, window, traffic.periods))
        if len(moves) == 1:
            worst = max(worst, late + early)
        elif moves:
            worst = max(worst, late + max(0, early + allowed - _union(windows)))
    return worst


def _union(windows: Sequence[tuple[int, int, int]]) -> int:
    """Cycles in which at least one of several (period, window at its start, periods) is open."""
    for period, window, periods in windows:
        if period == window:
            return period * periods
    longest, _, repeats = max(windows, key=lambda entry: entry[0])
    is_open = bytearray(longest)
    for period, window, _ in windows:
        for start in range(0, longest, period):
            is_open[start : start + window] = b"\x01" * window
    return sum(is_open) * repeats


def _edges(nest: Nest, computing: float) -> dict[Move, tuple[float, bool]]:
    """Cycles of the first fill or the last drain over each port, and whether W and I share the port.

    A transfer with one period only may overlap computing, into the port's average spare bandwidth, the longest first,
    down to the time of the innermost level's tile.
    """
    cycles: dict[Move, tuple[float, bool]] = {}
    for _, port, moves in _moves(nest):
        width = port["bits_per_cycle"]
        shared = {"W", "I"} <= {text[0] for text in port["serves"]}
        edges = [(m, t) for m, t in moves if m[0] != "O" or m[2] in (UPDATE, DRAIN)]
        busy = sum(math.ceil(int(_average_bits(nest, m, t))) for m, t in edges if t.periods > 1)
        spare = max(0.0, (width - busy) / width * computing)
        real = {m: float(math.ceil(t.elements * t.bits / width)) for m, t in edges}
        once = sorted((m for m, t in edges if t.periods == 1), key=lambda m: -real[m])
        for move in once:
            least = math.ceil(nest.tile(move[0], 0) * nest.bits(move[0], 0) / width)
            saved = min(max(0.0, real[move] - least), spare)
            real[move] -= saved
            spare -= saved
        cycles |= {move: (real[move], shared) for move, _ in edges}
    return cycles


def _average_bits(nest: Nest, move: Move, traffic: Traffic) -> float:
    return traffic.elements * traffic.bits / traffic.period


def _onloading(nest: Nest, cycles: Mapping[Move, tuple[float, bool]]) -> float:
    """Both inputs down their levels one after the other; links over a port that W and I share go in turn."""
    parts = {}
    for tensor in ("W", "I"):
        together = alone = half = 0.0
        for level in range(len(nest.levels(tensor)) - 1):
            fill, read = cycles[tensor, level, FILL], cycles[tensor, level + 1, READ]
            longest = max(fill[0], read[0])
            if fill[1] and read[1]:
                together += longest
            elif fill[1] or read[1]:
                half = longest
            else:
                alone += longest
        parts[tensor] = (together, half + alone)
    (w, w_alone), (i, i_alone) = parts["W"], parts["I"]
    return min(w + max(i + i_alone, w_alone), i + max(w + w_alone, i_alone))


def _offloading(nest: Nest, cycles: Mapping[Move, tuple[float, bool]]) -> float:
    """The last output tile up its levels, one link after the other."""
    links = range(len(nest.levels("O")) - 1)
    return sum(max(cycles["O", j, DRAIN][0], cycles["O", j + 1, UPDATE][0]) for j in links)
