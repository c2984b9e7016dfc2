"""Equal channels: nothing changes but how much of a scale each has."""

import numpy as np
import pytest
import torch

from cosearch.blueprint import Conv, Drawing
from cosearch.supernet.blocks import Network, calibrate, set_simulation
from cosearch.supernet.equalising import equalise, read_by_depthwise
from cosearch.supernet.training import Recipe, accuracy, train_network
from cosearch.workload import INPUT
from search_spaces import networks


@torch.no_grad()
def uneven(network: Network) -> Network:
    """A few channels of every layer are far larger than the others."""
    draw = torch.Generator().manual_seed(0)
    for unit in network.units():
        large = torch.rand(len(unit.bn.weight), generator=draw) < 0.1
        unit.bn.weight[large] *= 60.0
        unit.bn.bias.uniform_(0.0, 1.0, generator=draw)  # leaves no channel without a value
    return network


def logits(network: Network, images: torch.Tensor, simulate: bool) -> torch.Tensor:
    set_simulation(network, simulate)
    with torch.no_grad():
        return network.eval()(images)


@pytest.mark.parametrize("name", ["fbnet", "shiftadd", "hybrid"])
@pytest.mark.parametrize("seed", range(2))
def test_a_network_computes_the_same_and_is_rounded_less(digits, name, seed):
    """But for the batch-norms' epsilon, which is next to nothing here."""
    space = networks.find(name)((1, 8, 8), 10)
    network = uneven(space.build(space.sample(np.random.default_rng(seed)), seed)).double()
    for unit in network.units():
        unit.bn.eps = 1e-12
    images = torch.from_numpy(digits.train.x[:96]).double()
    calibrate(network, images)
    before, rounded = (logits(network, images, simulate) for simulate in (False, True))
    set_simulation(network, False)
    equalise(network)
    calibrate(network, images)
    after, less = (logits(network, images, simulate) for simulate in (False, True))
    assert (after - before).abs().max() < 1e-4 * before.std()
    assert (less - after).square().mean() < (rounded - before).square().mean()
    for step in read_by_depthwise(network.blueprint):
        bn = network.unit(step.name).bn
        size = (bn.weight.square() + bn.bias.square()).sqrt()
        assert size.max() <= size.median() * 1.0001


def test_what_something_else_reads_or_an_addition_does_is_left_alone():
    drawing = Drawing((4, 6, 6))

    def conv(name: str, source: int, op: str = "conv", groups: int = 1) -> int:
        return drawing.add(Conv(name, op, source, 4, 4, (6, 6), groups=groups))

    last = conv("multiplied", conv("first", INPUT), groups=4)
    last = conv("shifted", conv("second", last), op="shift", groups=4)
    last = conv("added", conv("third", last), op="add", groups=4)
    last = conv("grouped", conv("fourth", last), groups=2)
    last = conv("dense", conv("fifth", last))
    blueprint = drawing.finish(last, 10, 4, (6, 6))
    assert [step.name for step in read_by_depthwise(blueprint)] == ["first", "second"]


def test_a_training_that_made_one_channel_large_keeps_its_accuracy_in_8_bits(digits):
    space = networks.find("fbnet")((1, 8, 8), 10)
    arch = dict.fromkeys(space.choices, "skip") | {
        "layer1": "conv_k3_e3",
        "layer3": "conv_k3_e3",
        "layer7": "conv_k5_e1",
    }
    network = space.build(arch, 0)
    train_network(network, digits.train, Recipe(6), 0)
    with torch.no_grad():
        for name in ("layer1.expand", "layer3.expand", "layer7.expand"):
            for values in (network.unit(name).bn.weight, network.unit(name).bn.bias):
                values[0] *= 3000.0
    images = torch.from_numpy(digits.train.x)
    calibrate(network, images)
    exact = accuracy(network.eval(), digits.validation)
    set_simulation(network, True)
    spoilt = accuracy(network, digits.validation)
    set_simulation(network, False)
    equalise(network)
    calibrate(network, images)
    set_simulation(network.eval(), True)
    assert spoilt < exact - 0.1
    assert accuracy(network, digits.validation) >= exact - 0.01
