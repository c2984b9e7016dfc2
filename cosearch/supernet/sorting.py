"""Channels in the order of their importance, so that a narrower block, which reads the first ones, reads the best.

Of a block's inner channels, which nothing outside the block reads, any order computes the same. Source: Cai et al.,
Once-for-all, 2020, section 3.3; importance there is the L1 norm of the weights that read a channel.
"""

import itertools
from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn

from cosearch.blueprint import Blueprint, Conv
from cosearch.supernet.blocks import module_name
from cosearch.supernet.elastic import ElasticUnit, Supernet


def inner_channels(blueprint: Blueprint) -> Iterator[tuple[Conv, Conv, Conv]]:
    """(what makes channels, the depthwise convolution over them, what reads that), where nothing else reads either."""
    steps, readers = blueprint.steps, blueprint.readers()
    for i, step in enumerate(steps):
        if not isinstance(step, Conv) or step.groups != 1 or len(readers[i]) != 1:
            continue
        middle = readers[i][0]
        if not isinstance(middle, Conv) or not middle.depthwise:
            continue
        last = readers[steps.index(middle)]
        if len(last) == 1 and isinstance(last[0], Conv) and last[0].groups == 1:
            yield step, middle, last[0]


@torch.no_grad()
def sort_channels(supernet: Supernet, largest: Blueprint, places: Collection[str] | None = None) -> None:
    """Put the inner channels of a network's blocks in order of falling importance, in all that reads those weights.

    largest: uses every channel of the weights that are to be sorted. places: the blocks that are sorted, if not all.
    Every network that has all channels computes the same before and after, but for weights pruned in blocks of
    channels, of which others then keep theirs. A block is left as it is where a butterfly or a grouped convolution has
    all its channels, whose weights are made for their order, or where weights are shared beyond what moves.
    """
    for steps in inner_channels(largest):
        if places is not None and not set(places) & set(steps[0].name.split(".")):
            continue
        units = []
        for step in steps:
            unit = supernet.units[module_name(step.name)]
            assert isinstance(unit, ElasticUnit)
            units.append(unit)
        first, middle, last = units
        key = middle.stored(steps[1])
        ops = middle.readers(key)
        channels = steps[1].out_channels
        made, read = _along(first, ops, channels, makes=True), _along(last, ops, channels, makes=False)
        if made is None or read is None or not _alone(middle, key):
            continue
        order = _importance(middle, last, steps[1], steps[2]).argsort(descending=True, stable=True)
        for weight, axis in (*made, (_tensors(middle, key)[0], 0), *read):
            _reorder(weight, order, axis)
        for unit, op in itertools.product((first, middle), ops):
            if len(unit.gamma[op]) == len(order):  # an operator that only has narrow blocks gets other channels anyway
                _reorder(unit.gamma[op], order, 0)
                _reorder(unit.beta[op], order, 0)


def _along(unit: ElasticUnit, ops: Collection[str], channels: int, makes: bool) -> list[tuple[Tensor, int]] | None:
    """The tensors of some operators in which all channels lie that a unit makes, or else reads, each with the axis.

    What has fewer channels only is left out. None if one cannot be moved without changing what some network computes.
    """
    found: list[tuple[Tensor, int]] = []
    for key in unit.weights:
        readers, example = set(unit.readers(key)), unit.examples[key]
        if not readers & set(ops):
            continue
        if not readers <= set(ops):
            return None
        if example.operator.form == "butterfly":
            width = example.out_channels if makes else example.in_channels
        else:
            weight, axis = (_tensors(unit, key)[-1], 0) if makes else (_tensors(unit, key)[0], 1)
            width = weight.shape[axis] * (1 if makes else example.groups)
        if width < channels:
            continue
        if example.operator.form == "butterfly" or _grouped(unit, key, channels, makes):
            return None
        found.append((weight, axis))
    return found


def _grouped(unit: ElasticUnit, key: str, channels: int, makes: bool) -> bool:
    """Whether a grouped convolution that reads a tensor has so many channels."""
    variants = [step for step in unit.variants if step.groups > 1 and unit.stored(step) == key]
    return any((step.out_channels if makes else step.in_channels) >= channels for step in variants)


def _alone(unit: ElasticUnit, key: str) -> bool:
    """Whether the operators that read a tensor of a unit read no other of its tensors."""
    others = {op for other in unit.ops if other != key for op in unit.readers(other)}
    return not others & set(unit.readers(key))


def _tensors(unit: ElasticUnit, key: str) -> nn.ParameterList:
    found = unit.weights[key]
    assert isinstance(found, nn.ParameterList)
    return found


def _importance(middle: ElasticUnit, last: ElasticUnit, depthwise: Conv, reader: Conv) -> Tensor:
    """[channels] L1 norm of the weights that read a channel.

    Of additions, which subtract rather than scale what they read, the spread of the channel: its batch-norm gain.
    """
    if reader.op == "add":
        return middle.gamma[depthwise.op].abs()
    weight, *factors = last.weight(reader)
    for factor in factors:  # a chain computes what the product of its factors does
        weight = (factor.flatten(1) @ weight.flatten(1)).view(len(factor), *weight.shape[1:])
    return weight.abs().sum((0, 2, 3))


def _reorder(values: Tensor, order: Tensor, axis: int) -> None:
    values.copy_(values.index_select(axis, order))
