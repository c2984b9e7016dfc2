import pytest
import torch
from torch import nn

from cosearch.operators.pruned import MaskedConv2d, MaskedLinear
from cosearch.operators.unused_paths import remove_unused_paths


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.left = MaskedConv2d(8, 8, 1)
        self.right = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.after = MaskedConv2d(8, 6, 1, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = MaskedLinear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = self.left(x) + self.right(x)
        x = self.pool(self.after(x))
        return self.head(torch.flatten(x, 1))


def _network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = _Residual().eval()
    with torch.no_grad():
        net.norm.running_mean.normal_()
        net.norm.running_var.uniform_(0.5, 2)
        net.norm.bias.normal_()
    return net


@pytest.mark.parametrize("seed", range(5))
def test_output_is_unchanged_and_dead_channels_are_cleared_on_both_sides(seed: int) -> None:
    net = _network(seed)
    with torch.no_grad():
        net.stem.weight[2] = 0  # a dead filter: a constant behind the batch norm
        net.left.mask[5] = False
        net.right.weight[5] = 0  # dead in both branches
        net.left.mask[6] = False  # dead in one branch only
        net.after.mask[:, 1] = False  # nobody reads channel 1 of the sum
        net.head.mask[:, 12:16] = False  # nor channel 3 of the last convolution
    x = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        before = net(x)
        kept = remove_unused_paths(net, x)
        after = net(x)
    assert torch.allclose(before, after, atol=1e-5)
    assert 2 not in kept["left"].inputs
    assert 1 not in kept["left"].outputs
    assert 1 not in kept["right"].outputs
    assert {5, 1}.isdisjoint(kept["after"].inputs)
    assert 6 in kept["after"].inputs
    assert 3 not in kept["after"].outputs
    assert not bool(net.left.mask[1].any())


def test_a_constant_behind_zero_padding_stays() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 3, 3, padding=1)).eval()
    with torch.no_grad():
        net[0].weight[1], net[0].bias[1] = 0, 0.7
        net[0].weight[2], net[0].bias[2] = 0, 0.0
    x = torch.randn(2, 2, 5, 5)
    with torch.no_grad():
        before = net(x)
        kept = remove_unused_paths(net, x)
        assert torch.allclose(net(x), before, atol=1e-6)
    assert kept["1"].inputs == (0, 1, 3)


def test_a_dead_chain_is_followed_to_its_end() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1)).eval()
    with torch.no_grad():
        net[4].weight[:, 1] = 0
        net[2].weight[:, 2] = 0
    before = {name: p.clone() for name, p in net.named_parameters()}
    kept = remove_unused_paths(net, torch.randn(1, 2, 4, 4))
    assert kept["2"].outputs == (0, 2)
    assert kept["0"].outputs == (0, 1)
    assert torch.equal(net[4].weight, before["4.weight"])


def test_unknown_operations_keep_their_channels() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(torch.roll(self.one(x), 1, 1))

    net = Odd().eval()
    with torch.no_grad():
        net.two.weight[:, 0] = 0
    x = torch.randn(1, 2, 3, 3)
    before = net(x)
    assert remove_unused_paths(net, x)["one"].outputs == (0, 1, 2, 3)
    assert torch.allclose(net(x), before)


def test_a_layer_called_twice_is_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.same(torch.relu(self.same(x))))

    net = Twice().eval()
    with torch.no_grad():
        net.same.weight[1] = 0
        net.last.weight[:, 0] = 0
    x = torch.randn(1, 3, 4, 4)
    before = net(x)
    remove_unused_paths(net, x)
    assert torch.allclose(net(x), before, atol=1e-6)
