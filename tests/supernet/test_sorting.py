"""Sorting inner channels leaves every network that has them all as it was, and puts the important ones first."""

import pytest
import torch

from cosearch.blueprint import OPERATORS
from cosearch.supernet import recipes
from cosearch.supernet.sorting import inner_channels, sort_channels
from cosearch.supernet.training import Recipe
from search_spaces.networks import SPACES, find


def shuffled(space, heterogeneous: bool = False):
    """A supernet whose batch-norm gains and offsets differ between channels."""
    supernet = space.supernet(0, heterogeneous)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for unit in recipes.elastic_units(supernet):
            for values in (*unit.gamma.values(), *unit.beta.values()):
                values.add_(0.3 * torch.randn(values.shape, generator=generator))
    return supernet


IMAGES = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("heterogeneous", [False, True])
@pytest.mark.parametrize("name", [name for name in SPACES if name != "nasbench201"])
def test_the_largest_networks_of_every_operator_compute_the_same(name, heterogeneous):
    space = find(name)((1, 8, 8), 10)
    supernet = shuffled(space, heterogeneous)
    largest = {op: space.blueprint(space.largest(op)) for op in space.operators}
    with torch.no_grad():
        before = {op: supernet(IMAGES, blueprint) for op, blueprint in largest.items()}
        for op in space.operators:
            sort_channels(supernet, largest[op])
        for op, blueprint in largest.items():
            if OPERATORS[op].sparsity == "block":  # which weights are kept depends on which channels are neighbours
                continue
            assert torch.allclose(supernet(IMAGES, blueprint), before[op], atol=1e-3, rtol=1e-3), op


def test_the_first_channels_are_those_with_most_weight():
    space = find("shiftadd")((1, 8, 8), 10)
    supernet = shuffled(space)
    narrow = space.blueprint({name: "conv_k3_e1" for name in space.choices})
    with torch.no_grad():
        before = supernet(IMAGES, narrow)
    conv, add = (space.blueprint(space.largest(op)) for op in ("conv", "add"))
    sort_channels(supernet, conv)
    sort_channels(supernet, add)
    blocks = list(inner_channels(conv))
    assert [steps[0].name for steps in blocks] == [f"{name}.expand" for name in space.choices]
    for _, depthwise, project in blocks:
        norms = supernet.units[project.name.replace(".", "-")].weights["linear"][0].abs().sum((0, 2, 3))
        gains = supernet.units[depthwise.name.replace(".", "-")].gamma["add"].abs()
        assert norms.diff().max() <= 0
        assert gains.diff().max() <= 0
    with torch.no_grad():
        assert not torch.allclose(supernet(IMAGES, narrow), before, atol=1e-2)


def test_progressive_training_sorts_before_narrow_blocks_join(monkeypatch):
    space = find("shiftadd")((1, 8, 8), 10)
    sorted_at = []
    monkeypatch.setattr(recipes, "sort_channels", lambda _, blueprint: sorted_at.append(blueprint.convolutions[1].op))
    for heterogeneous in (False, True):
        recipe = recipes.progressive(space, space.supernet(0, heterogeneous), 0, Recipe(12))
        for epoch in range(12):
            recipe.before_epoch(epoch)
            sorted_at.append(epoch)
    assert sorted_at == [0, 1, "conv", 2, 3, 4, 5, "add", *range(6, 12), 0, 1, "conv", *range(2, 12)]
