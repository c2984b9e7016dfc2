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

from cosearch.blueprint import INPUT, Blueprint, Conv, Pool, Step, Sum
from cosearch.errors import ConfigError
from cosearch.supernet.blocks import Values, calibrating, run_steps, set_simulation, start
from cosearch.supernet.elastic import Supernet

Precision = Literal["fp32", "bf16"]
CPU_VALUES = 3 << 20
"""Of a layer, computed at once where a CPU measures: they stay in its caches, and memory is used again."""
REMEMBERED_BYTES = 1 << 30
OF_ONE_NETWORK = 1 / 16
"""The part of a memory that one network may fill."""


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
    Any number of threads may use it. It is copied and pickled empty.

    limit: bytes of all values; those that were not used for longest are forgotten.
    """

    def __init__(self, limit: int = REMEMBERED_BYTES) -> None:
        self.limit, self.bytes = limit, 0
        self._begun: OrderedDict[tuple[Step, ...], Begun] = OrderedDict()
        self._lock = Lock()
        self._of: tuple[tuple[object, ...], tuple[object, ...]] | None = None

    def __reduce__(self) -> tuple[type["Memory"], tuple[int]]:
        return Memory, (self.limit,)

    def require(self, things: tuple[object, ...], how: tuple[object, ...]) -> None:
        """Values are those of the first things, by identity, and the first way of evaluation, that it is used with.

        Raises: ConfigError for others.
        """
        with self._lock:
            known, before = self._of = self._of or (things, how)
        if before != how or any(a is not b for a, b in zip(known, things, strict=True)):
            raise ConfigError(
                "the memory is of another evaluation: expected the same supernet, not trained since, the same images, "
                "precision, simulation and batch size; give this one a memory of its own"
            )

    def longest(self, blueprint: Blueprint) -> tuple[int, Begun] | None:
        """How many of a network's first steps are known, and what they computed; None if nothing is."""
        beginnings = [blueprint.steps[:cut] for cut in cuts(blueprint)]
        with self._lock:
            known = [steps for steps in beginnings if steps in self._begun]
            for steps in reversed(known):  # what most networks begin with is forgotten last
                self._begun.move_to_end(steps)
            return (len(known[-1]), self._begun[known[-1]]) if known else None

    def worth_keeping(self, blueprint: Blueprint, images: int) -> list[int]:
        """The cuts whose values, of so many images, one network may keep.

        Those first that save most for a byte: what lies before a cut, times how likely the next network, which differs
        in one place, differs behind it.
        """
        steps, room = len(blueprint.steps), self.limit * OF_ONE_NETWORK
        size = {cut: 4 * images * _values(blueprint.steps[cut - 1]) for cut in cuts(blueprint)}
        kept = []
        for cut in sorted(size, key=lambda cut: -cut * (steps - cut) / size[cut]):
            if size[cut] <= room:
                room -= size[cut]
                kept.append(cut)
        return sorted(kept)

    def keep(self, steps: tuple[Step, ...], begun: Begun) -> None:
        size = begun.bytes
        with self._lock:
            if steps in self._begun or size > self.limit:
                return
            while self.bytes + size > self.limit:
                self.bytes -= self._begun.popitem(last=False)[1].bytes
            self._begun[steps] = begun
            self.bytes += size


TAIL = 1 / 8
"""Of a network's steps: behind the last cut are more, as what ends all networks is no beginning that two share."""


def cuts(blueprint: Blueprint) -> list[int]:
    """The numbers of first steps that are whole blocks, the value of the last of them being all that is still read."""
    last, found = blueprint.last_reader(), []
    others = last.get(INPUT, INPUT)  # the last step that reads anything before this one
    most = len(blueprint.steps) * (1 - TAIL)
    for i, (step, following) in enumerate(pairwise(blueprint.steps)):
        ends = _block(step) != _block(following) and _values(step) > 0
        if ends and others <= i < last.get(i, INPUT) and i + 1 < most:
            found.append(i + 1)
        others = max(others, last.get(i, INPUT))
    return found


def _block(step: Step) -> str:
    """What a step's name says it is part of, or itself."""
    return step.name.rpartition(".")[0] or step.name


def _values(step: Step) -> int:
    """Of a step's result for one image; 0 where the step does not say."""
    if isinstance(step, Conv):
        return step.out_channels * math.prod(step.size)
    return step.channels * math.prod(step.size) if isinstance(step, Sum | Pool) else 0


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

    The images are moved to the supernet's device once for all networks, and blocks with which several networks begin
    run once for all of them, as far as a memory holds what they computed.

    calibration: N x C x H x W, for batch-norm statistics and ranges. images: M x C x H x W; labels: M.
    precision: bf16 runs convolutions in bfloat16, additions stay in single precision. simulate: weights and activations
    as 8-bit hardware has them; bfloat16 does not hold their values exactly. memory: of earlier calls with the same
    supernet, images and way of evaluation; without it these networks share only with each other.
    Raises: ConfigError for the memory of another evaluation.
    """
    device = supernet.classifier.weight.device
    labels = labels.to(device)
    asked = list(blueprints)
    found = [math.nan] * len(asked)
    if memory is None:
        memory = Memory(REMEMBERED_BYTES if len(asked) > 1 else 0)
    trained = supernet.classifier.weight._version  # counts the steps of training
    memory.require((supernet, calibration, images), (device, precision, simulate, batch_size, trained))
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
    images = sum(len(next(iter(values.values()))) for batches in begun for values in batches)
    ends = [*(cut for cut in memory.worth_keeping(blueprint, images) if cut > begin), end]

    def run(batches: Sequence[Values]) -> dict[int, tuple[Values, ...]]:
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
        calibrated = run(begun.calibration)
    set_simulation(network, simulate)
    if simulate:
        for unit in network.units():
            unit.hold()
    measured = run(begun.images)
    for cut in ends[:-1]:
        memory.keep(blueprint.steps[:cut], Begun(calibrated[cut], measured[cut]))
    return torch.cat([values[end - 1] for values in measured[end]])
