import pytest
import torch
from torch import nn

from cosearch.operators.pruned import MaskedConv2d, MaskedLinear
from cosearch.operators.unused_paths import remove_unused_paths, shrink_unused_paths


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


class _Bottleneck(nn.Module):
    """Pointwise, depthwise and pointwise convolutions with batch norms, beside a shortcut, as mobile networks have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm0 = nn.BatchNorm2d(8)
        self.expand = MaskedConv2d(8, 16, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.depth = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.norm2 = nn.BatchNorm2d(16)
        self.project = nn.Conv2d(16, 8, 1)
        self.last = nn.Conv2d(8, 6, 3)
        self.head = MaskedLinear(6 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm0(self.stem(x)))
        y = torch.relu(self.norm1(self.expand(x)))
        x = x + self.project(torch.relu(self.norm2(self.depth(y))))
        return self.head(torch.flatten(torch.relu(self.last(x)), 1))


def _bottleneck(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = _Bottleneck().eval()
    with torch.no_grad():
        for norm in (net.norm0, net.norm1, net.norm2):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            norm.bias.normal_()
        net.depth.weight[[3, 7]] = 0  # constants behind the batch norm, which the projection's bias takes
        net.project.weight[:, [1, 2]] = 0  # nobody reads them
        net.norm1.weight[5] = 0  # emits a constant: one that is not zero stays before padding
        net.last.weight[:, 4] = 0  # channel 4 of the sum: only the shortcut's other readers may need it
        net.expand.mask[:, 4] = False
        net.last.weight[2], net.last.bias[2] = 0, 0
        net.head.mask[:, 5 * 4 : 6 * 4] = False
    return net


@pytest.mark.parametrize("seed", range(3))
def test_a_shrunk_network_is_smaller_and_computes_the_same(seed: int) -> None:
    net, x = _bottleneck(seed), torch.randn(4, 3, 7, 8)
    small, kept = shrink_unused_paths(net, x)
    with torch.no_grad():
        assert torch.allclose(small(x), net(x), atol=1e-5)
    assert (small.depth.groups, small.depth.in_channels, len(small.norm2.running_mean)) == (12, 12, 12)
    assert {1, 2, 3, 7}.isdisjoint(kept["depth"].outputs)
    assert kept["expand"].outputs == kept["depth"].inputs == kept["project"].inputs
    assert 4 not in kept["stem"].outputs
    assert small.stem.weight.shape == (7, 3, 3, 3)
    assert small.last.weight.shape == (4, 7, 3, 3)
    assert small.head.weight.shape == small.head.mask.shape == (5, 16)
    assert sum(p.numel() for p in small.parameters()) < 0.85 * sum(p.numel() for p in net.parameters())
    small.train()
    small(x).sum().backward()
    assert small.expand.weight.grad.shape == small.expand.mask.shape == (12, 7, 1, 1)
    again, _ = shrink_unused_paths(small.eval(), x)
    assert all(a.shape == b.shape for a, b in zip(small.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_shrinking_keeps_whole_groups_and_leaves_the_original_alone(seed: int) -> None:
    net, x = _network(seed), torch.randn(3, 3, 9, 9)
    with torch.no_grad():
        net.left.mask[5] = False
        net.right.weight[5] = 0
        net.after.mask[:, 1] = False
    before = {name: value.clone() for name, value in net.state_dict().items()}
    small, kept = shrink_unused_paths(net, x)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with torch.no_grad():
        assert torch.allclose(small(x), net(x), atol=1e-5)
    assert small.right.weight.shape == net.right.weight.shape
    assert kept["after"].inputs == tuple(range(8))


def test_a_network_with_nothing_to_remove_keeps_its_shapes() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1)).eval()
    small, _ = shrink_unused_paths(net, torch.randn(1, 2, 6, 5))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), small.parameters(), strict=True))


def test_operations_behind_a_flattening_follow_its_channels() -> None:
    class Wide(nn.Module):
        def __init__(self, meets: bool) -> None:
            super().__init__()
            self.meets = meets
            self.conv, self.side = nn.Conv2d(2, 4, 3), nn.Conv2d(2, 4, 3)
            self.norm, self.drop = nn.BatchNorm1d(16), nn.Dropout(0.5)
            self.head = nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.flatten(self.conv(x), 1)
            y = y + torch.flatten(self.side(x), 1) if self.meets else y
            return self.head(self.drop(torch.relu(self.norm(y))))

    for meets in (False, True):
        torch.manual_seed(0)
        net, x = Wide(meets).eval(), torch.randn(3, 2, 4, 4)
        with torch.no_grad():
            net.head.weight[:, 4:8] = 0  # channel 1
            net.head.weight[:, 9] = 0  # one pixel of channel 2
            small, _ = shrink_unused_paths(net, x)
            assert torch.allclose(small(x), net(x), atol=1e-6)
        assert small.conv.out_channels == (4 if meets else 3)
        assert small.norm.num_features == small.head.in_features == (16 if meets else 12)
