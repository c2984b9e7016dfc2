"""Channels in the order of their importance, so that a narrower block, which reads the first ones, reads the best.

Of a block's inner channels, which nothing outside the block reads, any order computes the same. Source: Cai et al.,
Once-for-all, 2020, section 3.3; importance there is the L1 norm of the weights that read a channel.
"""

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from cosearch.blueprint import Blueprint, Conv
from cosearch.supernet.blocks import module_name
from cosearch.supernet.elastic import ElasticUnit, Supernet


def inner_channels(blueprint: Blueprint) -> Iterator[tuple[Conv, Conv, Conv]]:
    """(what makes channels, the depthwise convolution over them, what reads that), where nothing else reads either."""
    steps = blueprint.steps
    readers = [[reader for reader in steps if i in reader.reads] for i in range(len(steps))]
    for i, step in enumerate(steps):
        if not isinstance(step, Conv) or step.groups != 1 or len(readers[i]) != 1:
            continue
        middle = readers[i][0]
        if not isinstance(middle, Conv) or not 1 < middle.groups == middle.in_channels == middle.out_channels:
            continue
        last = readers[steps.index(middle)]
        if len(last) == 1 and isinstance(last[0], Conv) and last[0].groups == 1:
            yield step, middle, last[0]


@torch.no_grad()
def sort_channels(supernet: Supernet, largest: Blueprint) -> None:
    """Put the inner channels of a network's blocks in order of falling importance, in all that reads those weights.

    largest: uses every channel of the weights that are to be sorted. Every network that has them all computes the same
    before and after, but for weights pruned in blocks of channels, of which others then keep theirs. A block is left as
    it is where some operator shares only a part of the weights that would move.
    """
    for steps in inner_channels(largest):
        units = []
        for step in steps:
            unit = supernet.units[module_name(step.name)]
            assert isinstance(unit, ElasticUnit)
            units.append(unit)
        first, middle, last = units
        keys = [unit.stored(step) for unit, step in zip(units, steps, strict=True)]
        ops = middle.readers(keys[1])
        if not all(_only_through(unit, key, ops) for unit, key in ((first, keys[0]), (last, keys[2]))):
            continue
        order = _importance(middle, last, steps[1], steps[2]).argsort(descending=True, stable=True)
        for unit, key, axis in zip(units, keys, (0, 0, 1), strict=True):
            weight = unit.weights[key]
            assert isinstance(weight, nn.ParameterList)
            _reorder(weight[0], order, axis)
        for unit, op in itertools.product((first, middle), ops):
            if len(unit.gamma[op]) == len(order):  # an operator that only has narrow blocks gets other channels anyway
                _reorder(unit.gamma[op], order, 0)
                _reorder(unit.beta[op], order, 0)


def _only_through(unit: ElasticUnit, key: str, ops: Sequence[str]) -> bool:
    """Whether these operators read this tensor of a unit, and no other of its tensors."""
    others = {op for other in unit.ops if other != key for op in unit.readers(other)}
    return set(ops) <= set(unit.readers(key)) and not others & set(ops)


def _importance(middle: ElasticUnit, last: ElasticUnit, depthwise: Conv, reader: Conv) -> Tensor:
    """[channels] L1 norm of the weights that read a channel.

    Of additions, which subtract rather than scale what they read, the spread of the channel: its batch-norm gain.
    """
    if reader.op == "add":
        return middle.gamma[depthwise.op].abs()
    [weight] = last.weight(reader)
    return weight.abs().sum((0, 2, 3))


def _reorder(values: Tensor, order: Tensor, axis: int) -> None:
    values.copy_(values.index_select(axis, order))
