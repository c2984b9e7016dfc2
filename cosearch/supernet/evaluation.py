"""How good the networks of a supernet are: cut out, batch-norm re-calibrated, measured.

What they begin with runs once.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from threading import Lock
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cosearch.blueprint import INPUT, Blueprint, Step
from cosearch.supernet.blocks import Values, calibrating, run_steps, set_simulation, start
from cosearch.supernet.elastic import Supernet

Precision = Literal["fp32", "bf16"]
CPU_VALUES = 3 << 20
"""Of a layer, computed at once where a CPU measures: they stay in its caches, and memory is used again."""
REMEMBERED_BYTES = 1 << 30


class Begun(NamedTuple):
    """What some first steps have computed: values of each batch of images."""

    calibration: tuple[Values, ...]
    images: tuple[Values, ...]

    @property
    def bytes(self) -> int:
        return sum(value.nbytes for batches in self for values in batches for value in values.values())


class Memory:
    """What networks began with, and what that computed: the next one that begins so goes on from there.

    Up to a step, a network's values and statistics depend on the steps before it alone, so that only time is saved.
    Of one supernet whose weights stay, and of one way to evaluate it. Any number of threads may use it.

    limit: bytes of all values; those that were not used for longest are forgotten.
    """

    def __init__(self, limit: int = REMEMBERED_BYTES) -> None:
        self.limit, self.bytes = limit, 0
        self._begun: OrderedDict[tuple[Step, ...], Begun] = OrderedDict()
        self._lock = Lock()

    def longest(self, blueprint: Blueprint) -> tuple[int, Begun] | None:
        """How many of a network's first steps are known, and what they computed; None if nothing is."""
        beginnings = [blueprint.steps[:cut] for cut in cuts(blueprint)]
        with self._lock:
            known = [steps for steps in beginnings if steps in self._begun]
            for steps in reversed(known):  # what most networks begin with is forgotten last
                self._begun.move_to_end(steps)
            return (len(known[-1]), self._begun[known[-1]]) if known else None

    def keep(self, steps: tuple[Step, ...], begun: Begun) -> None:
        with self._lock:
            if steps in self._begun or begun.bytes > self.limit:
                return
            self._begun[steps] = begun
            self.bytes += begun.bytes
            while self.bytes > self.limit:
                self.bytes -= self._begun.popitem(last=False)[1].bytes


def cuts(blueprint: Blueprint) -> list[int]:
    """The numbers of first steps that are whole blocks, the value of the last of them being all that is still read."""
    last, found = blueprint.last_reader(), []
    others = last.get(INPUT, INPUT)  # the last step that reads anything before this one
    for i, (step, following) in enumerate(pairwise(blueprint.steps)):
        if others <= i < last.get(i, INPUT) and _block(step) != _block(following):
            found.append(i + 1)
        others = max(others, last.get(i, INPUT))
    return found


def _block(step: Step) -> str:
    """What a step's name says it is part of, or itself."""
    return step.name.rpartition(".")[0] or step.name


def evaluate(
    supernet: Supernet,
    blueprints: Iterable[Blueprint],
    calibration: Tensor,
    images: Tensor,
    labels: Tensor,
    precision: Precision = "fp32",
    simulate: bool = True,
    batch_size: int = 512,
    memory: Memory | None = None,
) -> list[float]:
    """Accuracy of each network, in [0, 1]; NaN for one whose outputs are not all finite.

    The images are moved to the supernet's device once for all networks, and steps with which several networks begin run
    once for all of them.

    calibration: N x C x H x W, for batch-norm statistics and ranges. images: M x C x H x W; labels: M.
    precision: bf16 runs convolutions in bfloat16, additions stay in single precision. simulate: weights and activations
    as 8-bit hardware has them; bfloat16 does not hold their values exactly. memory: of earlier calls with the same
    supernet, images, precision and simulation; without it these networks share only with each other.
    """
    device = supernet.classifier.weight.device
    labels = labels.to(device)
    asked = list(blueprints)
    found = [math.nan] * len(asked)
    if memory is None:
        memory = Memory(REMEMBERED_BYTES if len(asked) > 1 else 0)
    sizes = batch_size, _measured_at_once(supernet, len(images), batch_size)
    split = (data.to(device).split(n) for data, n in zip((calibration, images), sizes, strict=True))
    inputs = Begun(*(tuple(map(start, batches)) for batches in split))
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        for i in _alike_together(asked):
            logits = _logits(supernet, asked[i], inputs, simulate, memory)
            if bool(torch.isfinite(logits).all()):
                found[i] = float((logits.argmax(1) == labels).sum()) / len(labels)
    return found


def _measured_at_once(supernet: Supernet, images: int, batch_size: int) -> int:
    """How many images. It depends on no network: what these begin with is shared."""
    most = batch_size
    if supernet.classifier.weight.device.type == "cpu":
        most = max(1, min(batch_size, CPU_VALUES // supernet.largest_values))
    return max(1, -(-images // -(-images // most)))


def _alike_together(blueprints: Sequence[Blueprint]) -> list[int]:
    """Indices, networks that begin with the same steps one after the other."""
    numbers: dict[Step, int] = {}
    coded = [[numbers.setdefault(step, len(numbers)) for step in blueprint.steps] for blueprint in blueprints]
    return sorted(range(len(blueprints)), key=lambda i: coded[i])


def _logits(supernet: Supernet, blueprint: Blueprint, inputs: Begun, simulate: bool, memory: Memory) -> Tensor:
    """[images, classes] of one network, calibrated; what it computes on the way is remembered."""
    begin, begun = memory.longest(blueprint) or (0, inputs)
    network, last_reader, end = supernet.extract(blueprint, begin), blueprint.last_reader(), len(blueprint.steps)

    def run(batches: Sequence[Values], ends: Sequence[int]) -> dict[int, tuple[Values, ...]]:
        """After how many steps -> the value of each batch there."""
        found: dict[int, list[Values]] = {cut: [] for cut in ends}
        for values in map(dict, batches):
            at = begin
            for cut in ends:
                run_steps(blueprint.steps[at:cut], at, values, last_reader, network.compute)
                found[cut].append({cut - 1: values[cut - 1]})
                at = cut
        return {cut: tuple(of_batches) for cut, of_batches in found.items()}

    with calibrating(network):
        ends = [cut for cut in cuts(blueprint) if cut > begin] if memory.limit else []
        calibration = run(begun.calibration, [*ends, end])
    set_simulation(network, simulate)
    if simulate:
        for unit in network.units():
            unit.hold()
    share = 1 + sum(map(_images, begun.images)) / sum(map(_images, begun.calibration))
    room, kept = float(memory.limit), [end]
    for cut in reversed(ends):  # the deepest save most, and are least
        room -= share * Begun(calibration[cut], ()).bytes
        if room >= 0:
            kept.insert(0, cut)
    images = run(begun.images, kept)
    for cut in kept[:-1]:
        memory.keep(blueprint.steps[:cut], Begun(calibration[cut], images[cut]))
    return torch.cat([values[end - 1] for values in images[end]])


def _images(values: Values) -> int:
    return len(next(iter(values.values())))
