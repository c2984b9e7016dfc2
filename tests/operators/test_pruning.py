import pytest
import torch
from torch import nn

from cosearch.errors import OperatorError
from cosearch.operators.pruned import MaskedConv2d, MaskedLinear, unstructured_mask
from cosearch.operators.pruning import (
    Admm,
    EarlyBird,
    Reweighted,
    add_scale_penalty_,
    batch_norm_scales,
    mask_distance,
    purify,
    scheme_projection,
)


def test_admm_reaches_a_feasible_weight_near_the_optimum() -> None:
    torch.manual_seed(0)
    target = torch.randn(8, 8)
    weight = nn.Parameter(target.clone())
    admm = Admm({"w": (weight, scheme_projection("unstructured", 0.25))}, rho=0.05)
    for step in range(120):
        admm.rho = 0.05 * 3 ** (step // 30)
        for _ in range(40):
            loss = 0.5 * (weight - target).square().sum() + admm.penalty()
            (gradient,) = torch.autograd.grad(loss, weight)
            with torch.no_grad():
                weight -= 0.2 * gradient
        admm.update()
    assert admm.residual() < 1e-2
    masks = admm.project_()
    assert int(masks["w"].sum()) == 16
    best = (target * unstructured_mask(target, 0.25) - target).norm()  # the optimum of this quadratic is known
    assert float((weight.detach() - target).norm()) <= float(best) * 1.02


def test_admm_penalty_and_update_are_the_scaled_form() -> None:
    weight = nn.Parameter(torch.tensor([[3.0, 1.0]]))
    admm = Admm({"w": (weight, scheme_projection("unstructured", 0.5))}, rho=2.0)
    assert admm.penalty().item() == pytest.approx(1.0)  # Z = (3, 0), U = 0
    admm.update()  # U = (0, 1)
    assert admm.penalty().item() == pytest.approx(4.0)
    admm.update()  # W + U = (3, 2): Z stays, U = (0, 2)
    assert admm.penalty().item() == pytest.approx(9.0)


@pytest.mark.parametrize("axis", ["column", "row"])
def test_reweighting_separates_groups(axis: str) -> None:
    torch.manual_seed(1)
    strong = torch.zeros(8, 8)
    strong[:, :3] = 1.0
    target = torch.randn(8, 8) * (0.1 + strong)
    target = target if axis == "column" else target.T.contiguous()
    weight = nn.Parameter(target.clone())
    helper = Reweighted([weight], block=None, axis=axis, strength=0.05)
    for _ in range(4):
        for _ in range(100):
            loss = 0.5 * (weight - target).square().sum() + helper.penalty()
            (gradient,) = torch.autograd.grad(loss, weight)
            with torch.no_grad():
                weight -= 0.02 * gradient
        helper.refresh()
    (mask,) = helper.masks(1e-2)
    kept = mask.all(0) if axis == "column" else mask.all(1)
    assert kept.tolist() == [True] * 3 + [False] * 5
    assert bool((mask.any(0) == mask.all(0)).all()) if axis == "column" else bool((mask.any(1) == mask.all(1)).all())


def test_reweighted_blocks_of_one_weight_are_unstructured() -> None:
    weight = nn.Parameter(torch.tensor([[2.0, 0.01], [0.02, 3.0]]))
    (mask,) = Reweighted([weight], block=(1, 1)).masks(0.1)
    assert mask.tolist() == [[True, False], [False, True]]


def test_purification_drops_what_the_loss_does_not_need() -> None:
    torch.manual_seed(2)
    layer = MaskedConv2d(3, 8, 3, bias=False)
    with torch.no_grad():
        layer.weight[5:] *= 1e-4
    x = torch.randn(4, 3, 6, 6)
    with torch.no_grad():
        target = layer(x)
    dropped = purify([layer], lambda: float((layer(x) - target).square().mean()), tolerance=1e-5)
    assert dropped == [3]
    assert layer.mask.flatten(1).any(1).tolist() == [True] * 5 + [False] * 3
    assert layer.sparsity == "filter"
    linear = MaskedLinear(6, 4)
    with torch.no_grad():
        linear.weight[:, 2] = 1e-6
    z = torch.randn(5, 6)
    with torch.no_grad():
        target = linear(z)
    assert purify([linear], lambda: float((linear(z) - target).square().mean()), 1e-8, axis="column") == [1]
    assert not bool(linear.mask[:, 2].any())


def test_early_bird_fires_at_the_fifth_equal_mask() -> None:
    net = nn.Sequential(nn.Conv2d(1, 10, 1), nn.BatchNorm2d(10))
    with torch.no_grad():
        net[1].weight.copy_(torch.linspace(0.1, 1, 10))
    bird = EarlyBird(density=0.5)
    assert [bird.observe(net) for _ in range(6)] == [False] * 4 + [True] * 2
    assert bird.mask.tolist() == [False] * 5 + [True] * 5
    assert int(bird.mask.sum()) == 5


def test_random_masks_do_not_fire_and_distances_are_as_stated() -> None:
    generator = torch.Generator().manual_seed(0)
    bird = EarlyBird(density=0.5)
    masks = []
    for _ in range(20):
        mask = torch.zeros(2000, dtype=torch.bool)
        mask[torch.randperm(2000, generator=generator)[:1000]] = True
        masks.append(mask)
        assert not bird.observe_mask(mask)
    assert mask_distance(masks[0], masks[1]) == pytest.approx(0.5, abs=0.05)
    assert mask_distance(masks[0], masks[1]) == mask_distance(masks[1], masks[0])
    assert mask_distance(masks[0], ~masks[0]) == 1.0
    assert mask_distance(masks[0], masks[0]) == 0.0


def test_scale_penalty_is_the_l1_subgradient() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([-2.0, 0.0, 1.0]))
    net(torch.randn(2, 1, 4, 4)).sum().backward()
    before = net[1].weight.grad.clone()
    add_scale_penalty_(net, 0.5)
    assert torch.allclose(net[1].weight.grad - before, torch.tensor([-0.5, 0.0, 0.5]))
    assert batch_norm_scales(net).tolist() == [2.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: Admm({}), "targets"),
        (lambda: Admm({"w": (nn.Parameter(torch.ones(2, 2)), scheme_projection("filter", 0.5))}, rho=0), "rho"),
        (lambda: scheme_projection("filter", 0.0), "density"),
        (lambda: Reweighted([]), "weights"),
        (lambda: Reweighted([nn.Parameter(torch.ones(2, 2))], axis="x"), "axis"),
        (lambda: EarlyBird(0.0), "density"),
        (lambda: EarlyBird(0.5, window=1), "window"),
        (lambda: batch_norm_scales(nn.Linear(2, 2)), "module"),
        (lambda: mask_distance(torch.ones(2), torch.ones(3)), "right"),
        (lambda: purify([], lambda: 0.0, -1.0), "tolerance"),
    ],
)
def test_bad_arguments_are_named(call: object, named: str) -> None:
    with pytest.raises(OperatorError, match=named):
        call()
