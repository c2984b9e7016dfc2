import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cosearch.errors import OperatorError
from cosearch.operators.lowrank import (
    LowRankConv2d,
    LowRankLinear,
    SpatialConv2d,
    TuckerConv2d,
    nuclear_penalty,
    nuclear_ranks,
    orthogonality_penalty,
    rank_for_mass,
    tucker2,
)

GEOMETRIES = [  # c, k, kernel, stride, padding, dilation, groups, (h, w)
    (6, 8, (3, 3), 1, 1, 1, 1, (5, 7)),
    (6, 8, (3, 3), 2, 1, 1, 2, (7, 8)),
    (4, 8, (5, 3), (2, 1), (2, 1), (1, 2), 4, (9, 9)),
    (6, 4, (1, 1), 2, 0, 1, 2, (5, 3)),
]
LAYERS = [(LowRankConv2d, "rank"), (SpatialConv2d, "rank"), (TuckerConv2d, "ranks")]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize(("kind", "option"), LAYERS)
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_layers_equal_their_dense_weight_and_full_rank_equals_the_convolution(
    kind: type, option: str, share: float, geometry: tuple
) -> None:
    c, k, kernel, stride, padding, dilation, groups, size = geometry
    conv = nn.Conv2d(c, k, kernel, stride, padding, dilation, groups).double()
    layer = kind(c, k, kernel, stride, padding, dilation, groups, **{option: share}).double()
    layer.load_dense(conv.weight)
    with torch.no_grad():
        layer.bias.copy_(conv.bias)
    x = torch.randn(2, c, *size, dtype=torch.float64)
    expected = F.conv2d(x, layer.dense_weight(), conv.bias, stride, padding, dilation, groups)
    assert torch.allclose(layer(x), expected, atol=1e-10)
    if share == 1.0:
        assert torch.allclose(layer(x), conv(x), atol=1e-10)
    layers = layer.cost_layers("l", tuple(x.shape))
    weights = [p.numel() for name, p in layer.named_parameters() if name != "bias"]
    assert sum(one.weight_count for one in layers) == sum(weights)
    assert tuple(conv(x).shape[2:]) == (layers[-1].P, layers[-1].Q)
    for one, following in itertools.pairwise(layers):
        assert one.K == following.C


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_linear_error_is_that_of_the_discarded_singular_values(rank: int) -> None:
    linear = nn.Linear(7, 5).double()
    layer = LowRankLinear(7, 5, rank=rank).double()
    layer.load_dense(linear.weight)
    tail = torch.linalg.svdvals(linear.weight)[rank:].square().sum().sqrt()
    assert torch.allclose((layer.dense_weight() - linear.weight).norm(), tail, atol=1e-12)
    x = torch.randn(4, 7, dtype=torch.float64)
    assert torch.allclose(layer(x), F.linear(x, layer.dense_weight(), layer.bias))
    first, last = layer.cost_layers("l", (4, 7))
    assert (first.macs + last.macs) == 4 * rank * 12


def test_spatial_and_svd_errors_are_optimal() -> None:
    weight = torch.randn(6, 4, 3, 3, dtype=torch.float64)
    spatial = SpatialConv2d(4, 6, 3, rank=5).double()
    spatial.load_dense(weight)
    tail = torch.linalg.svdvals(weight.permute(1, 2, 0, 3).reshape(12, 18))[5:].square().sum()
    assert torch.allclose((spatial.dense_weight() - weight).square().sum(), tail)
    flat = LowRankConv2d(4, 6, 3, rank=2).double()
    flat.load_dense(weight)
    tail = torch.linalg.svdvals(weight.flatten(1))[2:].square().sum()
    assert torch.allclose((flat.dense_weight() - weight).square().sum(), tail)


@pytest.mark.parametrize("ranks", [(3, 2), (6, 4), (1, 4), (6, 1)])
def test_tucker_error_is_bounded_by_the_discarded_mass(ranks: tuple) -> None:
    weight = torch.randn(6, 4, 3, 3, dtype=torch.float64)
    u, core, v = tucker2(weight, *ranks)
    error = (torch.einsum("oa,abxy,ib->oixy", u, core, v) - weight).square().sum()
    tails = torch.linalg.svdvals(weight.flatten(1))[ranks[0] :].square().sum()
    tails = tails + torch.linalg.svdvals(weight.transpose(0, 1).flatten(1))[ranks[1] :].square().sum()
    assert error <= tails + 1e-12
    assert torch.allclose(u.T @ u, torch.eye(ranks[0], dtype=torch.float64), atol=1e-12)


def test_tucker_full_rank_where_an_unfolding_is_narrow() -> None:
    conv = nn.Conv2d(1, 16, 3).double()
    layer = TuckerConv2d(1, 16, 3, ranks=1.0).double()
    layer.load_dense(conv.weight)
    assert torch.allclose(layer.dense_weight(), conv.weight, atol=1e-12)


def test_parameter_count_is_the_closed_form() -> None:
    layer = TuckerConv2d(12, 20, 3, bias=False, ranks=(5, 4))
    assert sum(p.numel() for p in layer.parameters()) == 12 * 4 + 9 * 5 * 4 + 20 * 5


@pytest.mark.parametrize("kind", [LowRankConv2d, SpatialConv2d, TuckerConv2d])
def test_gradcheck(kind: type) -> None:
    option = {"ranks": (2, 2)} if kind is TuckerConv2d else {"rank": 2}
    layer = kind(4, 4, 3, 2, 1, groups=2, **option).double()
    x = torch.randn(1, 4, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, *_: layer(v), (x, *layer.parameters()))


def test_factors_start_orthonormal_and_the_penalty_brings_them_back() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(TuckerConv2d(6, 8, 3, ranks=(4, 3)), LowRankLinear(8, 6, rank=3))
    assert orthogonality_penalty(net).item() < 1e-10
    assert orthogonality_penalty(net, double=True).item() == pytest.approx(8 - 4 + 6 - 3 + 8 - 3, abs=1e-4)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(200):
        optimiser.zero_grad()
        orthogonality_penalty(net).backward()
        optimiser.step()
    for factor in (*net[0].orthogonal_factors(), *net[1].orthogonal_factors()):
        assert (factor.T @ factor - torch.eye(factor.shape[1])).norm() < 1e-2


def test_nuclear_penalty_has_the_published_subgradient_and_shrinks_the_tail() -> None:
    weight = torch.randn(6, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(nuclear_penalty([weight]), weight)
    expected = torch.zeros_like(weight)
    u, _, v = torch.linalg.svd(weight.detach().flatten(1), full_matrices=False)
    expected += (u @ v).view_as(weight)
    u, _, v = torch.linalg.svd(weight.detach().transpose(0, 1).flatten(1), full_matrices=False)
    expected += (u @ v).view(4, 6, 3, 3).transpose(0, 1)
    assert torch.allclose(gradient, expected, atol=1e-10)
    moving = weight.detach().clone()
    tails = []
    for _ in range(5):
        values = torch.linalg.svdvals(moving.flatten(1))
        tails.append(float(values[2:].sum() / values.sum()))
        moving.requires_grad_()
        (step,) = torch.autograd.grad(nuclear_penalty([moving]), moving)
        moving = (moving - 0.1 * step).detach()
    assert tails == sorted(tails, reverse=True)


def test_rank_for_mass() -> None:
    matrix = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    assert [rank_for_mass(matrix, s) for s in (0.4, 0.41, 0.7, 0.9, 0.95, 1.0)] == [1, 2, 2, 3, 4, 4]
    assert nuclear_ranks(torch.randn(6, 4, 3, 3), 1.0) == (6, 4)


def test_state_dict_round_trip_and_from_scratch_variance() -> None:
    torch.manual_seed(1)
    for kind, option in LAYERS:
        one, two = kind(8, 8, 3, padding=1, **{option: 4}), kind(8, 8, 3, padding=1, **{option: 4})
        two.load_state_dict(one.state_dict())
        x = torch.randn(2, 8, 6, 6)
        assert torch.equal(one(x), two(x))
        assert math.isfinite(float(one(x).detach().std()))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: LowRankLinear(4, 6, rank=0), "rank=0.*1 to 4"),
        (lambda: LowRankLinear(4, 6, rank=5), "rank=5"),
        (lambda: LowRankLinear(4, 6, rank=0.0), "rank"),
        (lambda: LowRankLinear(4, 6, rank=1.5), "rank"),
        (lambda: LowRankConv2d(4, 6, 3, rank=7), "rank"),
        (lambda: SpatialConv2d(4, 6, 3, rank=13), "rank"),
        (lambda: TuckerConv2d(4, 6, 3, ranks=(7, 1)), "ranks"),
        (lambda: TuckerConv2d(4, 6, 3, ranks=(6, 5)), "ranks"),
        (lambda: rank_for_mass(torch.eye(2), 0.0), "share"),
        (lambda: orthogonality_penalty(nn.Linear(2, 2)), "module"),
    ],
)
def test_bad_arguments_are_named(call: object, named: str) -> None:
    with pytest.raises(OperatorError, match=named):
        call()
