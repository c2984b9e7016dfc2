"""How good the networks of a supernet are: cut out, batch-norm re-calibrated, measured; many in one call."""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from cosearch.blueprint import Blueprint
from cosearch.supernet.blocks import calibrate, set_simulation
from cosearch.supernet.elastic import Supernet

Precision = Literal["fp32", "bf16"]


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

    The images are moved to the supernet's device once for all networks.

    calibration: N x C x H x W, for batch-norm statistics and ranges. images: M x C x H x W; labels: M.
    precision: bf16 runs convolutions in bfloat16. simulate: weights and activations as 8-bit hardware has them.
    """
    device = supernet.classifier.weight.device
    calibration, images, labels = calibration.to(device), images.to(device), labels.to(device)
    found = []
    for blueprint in blueprints:
        network = supernet.extract(blueprint)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            calibrate(network, calibration, batch_size)
            set_simulation(network, simulate)
            logits = torch.cat([network(x) for x in images.split(batch_size)])
        right = float((logits.argmax(1) == labels).sum()) / len(labels)
        found.append(right if bool(torch.isfinite(logits).all()) else math.nan)
    return found
