import numpy as np
import pytest
import torch

from cosearch.supernet.blocks import Network
from predictors.training_free import naswot, synflow
from search_spaces.networks import nasbench201
from tests import tiny_space

SPACE = tiny_space.space()


def images(n: int) -> torch.Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_synflow_against_scaling_each_weight_tensor():
    """The sum of w dR/dw over a tensor is the derivative of R by a factor on it."""
    arch = {"layer1": "conv_k3_e1", "layer2": "conv_k3_e1", "layer3": "skip"}
    network: Network = SPACE.build(arch, 0)
    linear = SPACE.build(arch, 0).double().eval()
    ones, total, step = torch.ones(1, 1, 8, 8, dtype=torch.float64), 0.0, 1e-6
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.abs_()
        for parameter in linear.parameters():
            parameter.mul_(1 + step)
            high = float(linear(ones).sum())
            parameter.mul_((1 - step) / (1 + step))
            total += (high - float(linear(ones).sum())) / (2 * step)
            parameter.div_(1 - step)
    assert np.exp(synflow(network)) == pytest.approx(total, rel=1e-5)


def test_the_network_is_left_as_it_was():
    network = SPACE.build({"layer1": "conv_k3_e1", "layer2": "add_k3_e1", "layer3": "skip"}, 0)
    before = [parameter.clone() for parameter in network.parameters()]
    synflow(network)
    naswot(network, images(4))
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in network.modules())


def test_naswot_against_counting_pairs_of_codes():
    network = SPACE.build({"layer1": "conv_k3_e1", "layer2": "shift_k3_e1", "layer3": "skip"}, 0)
    x = images(5)
    codes: list[torch.Tensor] = []
    hooks = [
        unit.register_forward_hook(lambda _, __, y: codes.append((y > 0).flatten(1)))
        for unit in network.units()
        if unit.step.relu == "after"
    ]
    network.train()
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    on = torch.cat(codes, 1).numpy()
    kernel = [[float((on[i] == on[j]).sum()) for j in range(5)] for i in range(5)]
    assert naswot(network, x) == pytest.approx(np.log(np.linalg.det(np.array(kernel))))


def test_equal_images_have_no_volume():
    network = SPACE.build({"layer1": "conv_k3_e1", "layer2": "conv_k3_e1", "layer3": "skip"}, 0)
    assert naswot(network, images(1).repeat(3, 1, 1, 1)) < naswot(network, images(3)) - 10


def test_scores_read_relus_before_convolutions_too():
    space = nasbench201.space((3, 8, 8), 4)
    cell = nasbench201.from_string("|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|skip_connect~1|none~2|")
    wire = {**cell, **{name: "skip_connect" for name in cell if name == "0-1"}}
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    assert naswot(space.build(cell, 0), x) != naswot(space.build(wire, 0), x)
