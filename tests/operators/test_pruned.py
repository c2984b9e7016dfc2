import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from cosearch.errors import OperatorError
from cosearch.operators.pruned import (
    ALL_PATTERNS,
    SCHEMES,
    MaskedConv2d,
    MaskedLinear,
    block_mask,
    block_punched_mask,
    block_size,
    channel_mask,
    column_mask,
    filter_mask,
    frequency_energy,
    make_mask,
    pattern_library,
    pattern_mask,
    polarise,
    regular_block_mask,
    spline_distance,
    spline_scores,
    unstructured_mask,
)


def _weight(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - {"pattern"}))
def test_density_one_keeps_everything(scheme: str) -> None:
    assert bool(make_mask(_weight(6, 4, 3, 3), scheme, 1.0).all())


@pytest.mark.parametrize("scheme", ["unstructured", "filter", "channel", "column"])
@pytest.mark.parametrize("density", [0.1, 0.5, 0.75])
def test_projections_beat_every_other_set_of_their_kind(scheme: str, density: float) -> None:
    weight = _weight(4, 4, 1, 2, seed=3)
    labels = {
        "unstructured": torch.arange(32).view(4, 4, 1, 2),
        "filter": torch.arange(4).view(4, 1, 1, 1).expand(4, 4, 1, 2),
        "channel": torch.arange(4).view(1, 4, 1, 1).expand(4, 4, 1, 2),
        "column": torch.arange(8).view(1, 4, 1, 2).expand(4, 4, 1, 2),
    }[scheme]
    n = int(labels.max()) + 1
    kept = max(1, round(density * n))
    mask = make_mask(weight, scheme, density)
    energy = float((weight * mask).square().sum())
    groups = [float(weight[labels == i].square().sum()) for i in range(n)]
    if n <= 8:
        best = max(sum(groups[i] for i in chosen) for chosen in itertools.combinations(range(n), kept))
    else:
        best = sum(sorted(groups)[-kept:])
    assert energy == pytest.approx(best, rel=1e-6)
    assert len(labels[mask].unique()) == kept
    assert all(bool(mask[labels == i].all()) or not bool(mask[labels == i].any()) for i in range(n))


def test_channels_of_grouped_convolutions_are_their_own() -> None:
    weight = _weight(6, 2, 3, 3)
    mask = channel_mask(weight, 0.5, groups=2)
    per_group = mask.view(2, 3, 2, 9)
    assert all(bool(per_group[g, :, c].all()) or not bool(per_group[g, :, c].any()) for g in (0, 1) for c in (0, 1))
    assert int(per_group[:, 0, :, 0].sum()) == 2


@pytest.mark.parametrize("axis", ["column", "row"])
@pytest.mark.parametrize("block", [(4, 4), (3, 5), (64, 64)])
def test_block_pruning_drops_lines_inside_blocks(axis: str, block: tuple) -> None:
    weight = _weight(8, 2, 3, 3)
    mask = block_mask(weight, 0.5, block, axis).flatten(1)
    for top in range(0, 8, block[0]):
        for left in range(0, 18, block[1]):
            part = mask[top : top + block[0], left : left + block[1]]
            lines = part.T if axis == "column" else part
            assert all(bool(line.all()) or not bool(line.any()) for line in lines)


def test_block_punched_shares_positions_over_a_block() -> None:
    weight = _weight(5, 6, 3, 3)
    mask = block_punched_mask(weight, 4 / 9, (2, 4))
    for top, left in itertools.product(range(0, 5, 2), range(0, 6, 4)):
        part = mask[top : top + 2, left : left + 4].reshape(-1, 9)
        assert bool((part == part[0]).all())
        assert int(part[0].sum()) == 4


def test_patterns_have_four_entries_and_beat_any_other_assignment() -> None:
    weight = _weight(4, 3, 3, 3)
    library = pattern_library([weight, _weight(8, 8, 3, 3, seed=5)])
    assert len(library) == 8
    assert set(library) <= set(ALL_PATTERNS)
    mask = pattern_mask(weight, 4 / 9, library)
    assert bool((mask.flatten(2).sum(2) == 4).all())
    assert bool(mask[:, :, 1, 1].all())
    for kernel, kept in zip(weight.view(-1, 9), mask.view(-1, 9), strict=True):
        best = max(float(kernel[list(p)].square().sum()) for p in library)
        assert float(kernel[kept].square().sum()) == pytest.approx(best, rel=1e-6)


def test_a_library_of_sparse_kernels_still_has_four_positions() -> None:
    for count in range(4):
        for positions in itertools.combinations([i for i in range(9) if i != 4], count):
            weight = torch.zeros(1, 1, 9)
            weight[0, 0, list(positions)] = 0.1
            (pattern,) = pattern_library([weight.view(1, 1, 3, 3)])
            assert len(set(pattern)) == 4
            assert {4, *positions} <= set(pattern)


def test_kernels_without_weights_do_not_vote() -> None:
    weight = torch.zeros(4, 3, 3, 3)
    weight[1, 2] = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 4.0]])
    assert pattern_library([weight], 1) == ((4, 5, 7, 8),)
    assert pattern_library([torch.zeros(2, 2, 3, 3), weight], 8) == ((4, 5, 7, 8),)


def test_connectivity_drops_the_weakest_kernels() -> None:
    weight = _weight(4, 4, 3, 3)
    mask = pattern_mask(weight, 4 / 9 / 2)
    kernels = mask.flatten(2).sum(2)
    assert sorted(kernels.flatten().tolist()) == [0] * 8 + [4] * 8
    full = (weight * pattern_mask(weight, 4 / 9)).flatten(2).norm(dim=2)
    assert float(full[kernels > 0].min()) >= float(full[kernels == 0].max())


@settings(max_examples=40, deadline=None)
@given(st.floats(0.02, 1), st.integers(1, 6), st.integers(1, 40), st.integers(0, 10))
def test_regular_blocks_keep_exactly_one_weight_each(density: float, rows: int, length: int, seed: int) -> None:
    weight = _weight(rows, length, seed=seed)
    mask = regular_block_mask(weight, density)
    shares = unstructured_mask(weight, density).float().mean(1)
    for row, kept, share in zip(weight, mask, shares, strict=True):
        size = block_size(float(share), length)
        for left in range(0, length, size):
            part = kept[left : left + size]
            assert int(part.sum()) == 1
            assert float(row[left : left + size].abs().max()) == float(row[left : left + size][part].abs())
    assert block_size(1.0, 16) == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(0, 20))
def test_polarisation_is_the_nearest_with_one_sign_per_fragment(fragment: int, seed: int) -> None:
    weight = _weight(10, 3, seed=seed)
    result = polarise(weight, fragment)
    for column, got in zip(weight.T, result.T, strict=True):
        for top in range(0, 10, fragment):
            part, kept = column[top : top + fragment], got[top : top + fragment]
            assert bool((kept >= 0).all()) or bool((kept <= 0).all())
            best = max(float(part.clamp_min(0).square().sum()), float(part.clamp_max(0).square().sum()))
            assert float(kept.square().sum()) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize(("groups", "stride", "size"), [(1, 1, (6, 5)), (2, 2, (7, 9))])
@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_masked_layers_compute_with_what_is_left(scheme: str, groups: int, stride: int, size: tuple) -> None:
    layer = MaskedConv2d(4, 8, 3, stride, 1, groups=groups)
    layer.prune(scheme, 0.4)
    x = torch.randn(2, 4, *size)
    expected = F.conv2d(x, layer.weight * layer.mask, layer.bias, stride, 1, groups=groups)
    assert torch.equal(layer(x), expected)
    layer(x).sum().backward()
    assert not bool(layer.weight.grad[~layer.mask].any())
    (priced,) = layer.cost_layers("p", tuple(x.shape))
    assert priced.density == pytest.approx(layer.density)
    assert priced.sparsity == SCHEMES[scheme][1]
    copy = MaskedConv2d(4, 8, 3, stride, 1, groups=groups)
    copy.load_state_dict(layer.state_dict())
    assert torch.equal(copy(x), layer(x))
    assert copy.sparsity == layer.sparsity


def test_an_unpruned_layer_is_the_dense_one() -> None:
    layer = MaskedConv2d(3, 5, 3, padding=1)
    x = torch.randn(1, 3, 4, 4)
    assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1))
    assert layer.cost_layers("p", (1, 3, 4, 4))[0].sparsity == "dense"
    linear = MaskedLinear(4, 3)
    assert torch.equal(linear(x[:, :, 0]), F.linear(x[:, :, 0], linear.weight, linear.bias))
    assert linear.cost_layers("p", (2, 4))[0].density == 1.0


def test_scores_take_the_place_of_norms() -> None:
    weight = _weight(4, 3, 3, 3)
    scores = torch.tensor([0.0, 3.0, 1.0, 2.0])
    assert filter_mask(weight, 0.5, scores).flatten(1).all(1).tolist() == [False, True, False, True]


def test_frequency_energy_of_known_maps() -> None:
    torch.manual_seed(0)
    constant = torch.ones(2, 1, 16, 16)
    noise = torch.randn(400, 1, 16, 16)
    wave = torch.cos(2 * math.pi * 6 * torch.arange(16) / 16).view(1, 1, 1, 16).expand(1, 1, 16, 16)
    assert float(frequency_energy(constant)) == pytest.approx(0, abs=1e-6)
    assert float(frequency_energy(noise)) == pytest.approx(1 - (4 / 16) ** 2, abs=0.01)
    assert float(frequency_energy(wave)) == pytest.approx(1, abs=1e-5)
    both = frequency_energy(torch.cat([constant, wave.expand(2, 1, 16, 16)], 1))
    assert float(both[0]) < float(both[1])
    assert float(frequency_energy(torch.zeros(1, 1, 4, 4))) == 0.0


def test_duplicated_filters_go_first_and_summed_readers_keep_the_function() -> None:
    torch.manual_seed(2)
    first, second = nn.Linear(5, 6).double(), nn.Linear(6, 3).double()
    with torch.no_grad():
        first.weight[4], first.bias[4] = first.weight[1], first.bias[1]
    distance = spline_distance(first.weight, first.bias)
    assert torch.allclose(distance, distance.T)
    assert float(distance[1, 4].detach()) == pytest.approx(0, abs=1e-12)
    scores = spline_scores(first.weight.detach(), first.bias.detach())
    assert int(scores.argmin()) == 4
    x = torch.randn(7, 5, dtype=torch.float64)
    before = second(torch.relu(first(x)))
    with torch.no_grad():
        second.weight[:, 1] += second.weight[:, 4]
        second.weight[:, 4] = 0
    assert torch.allclose(second(torch.relu(first(x))), before, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: make_mask(_weight(4, 4), "unstructured", 0.0), "density"),
        (lambda: make_mask(_weight(4, 4), "unstructured", 1.1), "density"),
        (lambda: make_mask(_weight(4, 4), "unstructred", 0.5), "unstructured"),
        (lambda: make_mask(_weight(4, 4), "pattern", 0.4), "weight"),
        (lambda: make_mask(_weight(4, 4, 3, 3), "pattern", 0.5), "density"),
        (lambda: make_mask(_weight(4, 4), "block_punched", 0.5), "weight"),
        (lambda: make_mask(_weight(4, 4), "block", 0.5, block=(0, 2)), "block"),
        (lambda: make_mask(_weight(4, 4), "block", 0.5, axis="diagonal"), "axis"),
        (lambda: make_mask(_weight(4, 4), "filter", 0.5, scores=torch.ones(3)), "scores"),
        (lambda: MaskedLinear(4, 4).set_mask(torch.zeros(4, 4, dtype=torch.bool), "block"), "mask"),
        (lambda: MaskedLinear(4, 4).set_mask(torch.ones(4, 3, dtype=torch.bool), "block"), "mask"),
        (lambda: polarise(_weight(4, 4), 0), "fragment"),
        (lambda: pattern_library([_weight(2, 2, 3, 3)], 0), "size"),
        (lambda: frequency_energy(torch.ones(2, 2)), "activations"),
        (lambda: column_mask(_weight(4, 4), float("nan")), "density"),
    ],
)
def test_bad_arguments_are_named(call: object, named: str) -> None:
    with pytest.raises(OperatorError, match=named):
        call()
