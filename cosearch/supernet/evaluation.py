"""How good the networks of a supernet are: cut out, batch-norm re-calibrated, measured; many in one call."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cosearch.blueprint import Blueprint, Conv, Step
from cosearch.supernet.blocks import Values, calibrating, run_steps, set_simulation, start
from cosearch.supernet.elastic import Supernet

Precision = Literal["fp32", "bf16"]
CPU_VALUES = 3 << 20
"""Of a layer, computed at once where a CPU measures: they stay in its caches, and memory is used again."""


def evaluate(
    supernet: Supernet,
    blueprints: Iterable[Blueprint],
    calibration: Tensor,
    images: Tensor,
    labels: Tensor,
    precision: Precision = "fp32",
    simulate: bool = True,
    batch_size: int = 512,
) -> list[float]:
    """Accuracy of each network, in [0, 1]; NaN for one whose outputs are not all finite.

    The images are moved to the supernet's device once for all networks, and steps with which several networks begin run
    once for all of them: up to a step, a network's values and statistics depend on the steps before it alone.

    calibration: N x C x H x W, for batch-norm statistics and ranges. images: M x C x H x W; labels: M.
    precision: bf16 runs convolutions in bfloat16, additions stay in single precision. simulate: weights and activations
    as 8-bit hardware has them; bfloat16 does not hold their values exactly.
    """
    device = supernet.classifier.weight.device
    labels = labels.to(device)
    asked = list(blueprints)
    found = [math.nan] * len(asked)
    sizes = batch_size, _measured_at_once(asked, batch_size, device)
    begun = [[start(x) for x in data.to(device).split(n)] for data, n in zip((calibration, images), sizes, strict=True)]
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        ahead = [_Branch(list(range(len(asked))), 0, *begun)] if asked else []
        while ahead:
            branch = ahead.pop()
            steps, last_reader = _shared([asked[i] for i in branch.networks], branch.at)
            end = branch.at + len(steps)
            network = supernet.extract(asked[branch.networks[0]])
            with calibrating(network):
                for values in branch.calibration:
                    run_steps(steps, branch.at, values, last_reader, network.compute)
            set_simulation(network, simulate)
            if simulate:
                for step in steps:
                    if isinstance(step, Conv):
                        network.unit(step.name).hold()
            for values in branch.images:
                run_steps(steps, branch.at, values, last_reader, network.compute)
            finished = [i for i in branch.networks if len(asked[i].steps) == end]
            if finished:
                logits = torch.cat([values[end - 1] for values in branch.images])
                right = float((logits.argmax(1) == labels).sum()) / len(labels)
                for i in finished:
                    found[i] = right if bool(torch.isfinite(logits).all()) else math.nan
            # the branch of the fewest networks next: while others wait, one branch's networks halve each time, and
            # so few hold values at once
            ahead += sorted(branch.onward(asked, end), key=lambda branch: -len(branch.networks))
    return found


def _measured_at_once(blueprints: Sequence[Blueprint], batch_size: int, device: torch.device) -> int:
    """How many images. Unlike those of calibration it decides no result."""
    if device.type != "cpu":
        return batch_size
    largest = max(
        (step.out_channels * math.prod(step.size) for blueprint in blueprints for step in blueprint.convolutions),
        default=1,
    )
    return max(1, min(batch_size, CPU_VALUES // largest))


@dataclass
class _Branch:
    """Networks with the same steps before one, and what these have computed: values of each batch of images."""

    networks: list[int]
    at: int
    calibration: list[Values]
    images: list[Values]

    def onward(self, asked: Sequence[Blueprint], end: int) -> list["_Branch"]:
        """By the step that follows the shared ones."""
        groups: dict[Step, list[int]] = {}
        for i in self.networks:
            if len(asked[i].steps) > end:
                groups.setdefault(asked[i].steps[end], []).append(i)
        copies = ([[dict(values) for values in data] for data in (self.calibration, self.images)] for _ in groups)
        return [_Branch(group, end, *data) for group, data in zip(groups.values(), copies, strict=True)]


def _shared(blueprints: Sequence[Blueprint], at: int) -> tuple[tuple[Step, ...], dict[int, int]]:
    """The steps from one on that all networks begin with, and for each value the last step of any that reads it."""
    first, end = blueprints[0].steps, at
    while all(blueprint.steps[end : end + 1] == first[end : end + 1] != () for blueprint in blueprints):
        end += 1
    last_reader: dict[int, int] = {}
    for blueprint in blueprints:
        for j, i in blueprint.last_reader().items():
            last_reader[j] = max(i, last_reader.get(j, i))
    return first[at:end], last_reader
