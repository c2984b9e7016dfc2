"""Sorting inner channels leaves every network that has them all as it was, and puts the important ones first."""

from dataclasses import replace

import pytest
import torch

from cosearch.blueprint import OPERATORS
from cosearch.supernet import recipes, sampling
from cosearch.supernet.sorting import inner_channels, sort_channels
from cosearch.supernet.training import Recipe
from search_spaces.networks import SPACES, find


def shuffled(space, heterogeneous: bool = False):
    """A supernet whose batch-norm gains and offsets differ between channels."""
    supernet = space.supernet(0, heterogeneous)
    shuffle(supernet)
    return supernet


@torch.no_grad()
def shuffle(supernet) -> None:
    """Put channels in another order of importance."""
    generator = torch.Generator().manual_seed(1)
    for unit in recipes.elastic_units(supernet):
        for values in (*unit.gamma.values(), *unit.beta.values()):
            values.add_(0.3 * torch.randn(values.shape, generator=generator))
        for name, weights in unit.weights.items():
            if name == "linear":
                weights[0].mul_(1 + 0.1 * torch.randn(weights[0].shape, generator=generator))


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


def norms_of(supernet, blueprint) -> list[torch.Tensor]:
    """Of each block's inner channels the L1 norm of the dense weights that read one."""
    units = (supernet.units[project.name.replace(".", "-")] for _, _, project in inner_channels(blueprint))
    return [unit.weights["linear"][0].abs().sum((0, 2, 3)) for unit in units]


@pytest.mark.parametrize(
    ("name", "wide"),
    [
        ("lowrank", ("conv_k5_e6", "lowrank50_k5_e6", "lowrank25_k3_e6")),  # its factors share what is between them
        ("fbnet", ("conv_k3_e6", "conv_k5_e6")),  # its grouped convolutions are narrow
    ],
)
def test_blocks_are_sorted_where_others_than_dense_ones_share_their_middle(name, wide):
    space = find(name)((1, 8, 8), 10)
    supernet, largest = shuffled(space), space.blueprint(space.largest())
    networks = [space.blueprint(dict.fromkeys(space.choices, choice)) for choice in wide]
    with torch.no_grad():
        before = [supernet(IMAGES, blueprint) for blueprint in networks]
        norms = norms_of(supernet, largest)
        sort_channels(supernet, largest)
        for old, new in zip(norms, norms_of(supernet, largest), strict=True):
            assert torch.allclose(new, old.sort(descending=True).values)
            assert not torch.equal(new, old)
        for blueprint, logits in zip(networks, before, strict=True):
            assert torch.allclose(supernet(IMAGES, blueprint), logits, atol=1e-3, rtol=1e-3)


def test_low_rank_blocks_alone_are_sorted_by_what_their_factors_do():
    space = find("lowrank")((1, 8, 8), 10).restricted("lowrank50")
    supernet, largest = shuffled(space), space.blueprint(space.largest())
    sort_channels(supernet, largest)
    for _, _, project in inner_channels(largest):
        first, second = (w[:, :, 0, 0] for w in supernet.units[project.name.replace(".", "-")].weights["lowrank"])
        assert (second @ first).abs().sum(0).diff().max() <= 1e-4


def test_blocks_that_butterflies_are_made_for_stay_as_they_are():
    space = find("butterfly")((1, 8, 8), 10)
    supernet = shuffled(space)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    sort_channels(supernet, space.blueprint(space.largest()))
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())


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
    monkeypatch.setattr(
        recipes, "sort_channels", lambda _, blueprint, places: sorted_at.append(blueprint.convolutions[1].op)
    )
    for heterogeneous in (False, True):
        recipe = recipes.progressive(space, space.supernet(0, heterogeneous), 0, Recipe(12))
        for epoch in range(12):
            recipe.before_epoch(epoch)
            sorted_at.append(epoch)
    assert sorted_at == [0, 1, "conv", 2, 3, 4, 5, "add", *range(6, 12), 0, 1, "conv", *range(2, 12)]


def test_progressive_training_sorts_each_layer_by_what_it_has(monkeypatch):
    """No operator is in all layers: convolutions, shifts, additions beside others, and additions alone."""
    whole = find("shiftadd")((1, 8, 8), 10)
    parts = [("conv", "skip"), ("shift", "add"), ("add", "skip")]
    kept = {
        name: tuple(c for c in options if c.split("_")[0] in parts[i % 3])
        for i, (name, options) in enumerate(whole.choices.items())
    }
    space = replace(whole, choices=kept, name="parts")
    supernet = shuffled(space)
    recipe = recipes.progressive(space, supernet, 0, Recipe(12))
    largest = {op: space.blueprint(space.largest_of(choices)) for op, choices in of_operator(kept).items()}

    def is_sorted() -> dict[str, bool]:
        found = {}
        for blueprint in largest.values():
            for _, depthwise, project in inner_channels(blueprint):
                middle, last = (supernet.units[step.name.replace(".", "-")] for step in (depthwise, project))
                if project.op == "add":
                    values = middle.gamma["add"].abs()
                else:
                    values = last.weights["linear"][0].abs().sum((0, 2, 3))
                found[f"{project.name.split('.')[0]} {project.op}"] = bool(values.diff().max() <= 0)
        return found

    assert not any(is_sorted().values())
    for epoch in range(3):
        recipe.before_epoch(epoch)
    first = is_sorted()
    later = {"layer2 add", "layer5 add", "layer8 add"}  # of additions that join, each beside shifts
    assert {name for name, done in first.items() if not done} == later
    assert len(first) == len(kept) + len(later)
    shuffle(supernet)  # what has narrow blocks by now keeps its order
    for epoch in range(3, 7):
        recipe.before_epoch(epoch)
    assert {name for name, done in is_sorted().items() if done} == later


def of_operator(choices: dict) -> dict[str, dict]:
    """For additions and for the rest the choices of each decision, or where it has none of these what it has."""
    return {
        op: {
            name: [c for c in options if (c[:3] == "add") == (op == "add") and c != "skip"]
            or [c for c in options if c != "skip"]
            for name, options in choices.items()
        }
        for op in ("add", "others")
    }


def test_the_widest_expansions_are_those_of_grouped_blocks_too():
    assert sampling.widest(("conv_k3_e1", "conv_k3_e1_g2", "conv_k5_e6", "skip")) == ["conv_k5_e6", "skip"]
