"""Channels of one range where that is free, so that one scale of 8 bits serves them all.

Source: Nagel et al., Data-free quantization through weight equalization and bias correction, ICCV 2019. There the next
layer's weights take up what a channel was divided by; here nothing has to, since a batch-norm follows each channel.
"""

from collections.abc import Iterator

import torch

from cosearch.blueprint import Blueprint, Conv
from cosearch.supernet.blocks import Network


@torch.no_grad()
def equalise(network: Network) -> None:
    """Divide each channel larger than the median one of its layer, where only a depthwise convolution reads it.

    That convolution multiplies, and its batch-norm takes the factor out again: once calibrated, the network computes
    what it did, but for the batch-norm's epsilon. A channel's size is the root of the mean square that its batch-norm
    gives it, before ReLU.
    """
    for step in read_by_depthwise(network.blueprint):
        bn = network.unit(step.name).bn
        size = (bn.weight.square() + bn.bias.square()).sqrt()
        excess = (size / size.median().clamp_min(1e-12)).clamp_min(1.0)
        bn.weight.div_(excess)
        bn.bias.div_(excess)


def read_by_depthwise(blueprint: Blueprint) -> Iterator[Conv]:
    """The convolutions whose channels are read by a depthwise convolution that multiplies, and by nothing else."""
    for step, readers in zip(blueprint.steps, blueprint.readers(), strict=True):
        if not isinstance(step, Conv) or len(readers) != 1 or not isinstance(reader := readers[0], Conv):
            continue
        if reader.depthwise and reader.op != "add":
            yield step
