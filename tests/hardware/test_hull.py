"""The least energy-delay product of a network: the bound beside every choice of a mapping for every layer."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosearch.hardware import accelerator_tensor, cost_tensor
from cosearch.hardware.hull import gap, outer_corners
from cosearch.hardware.pricing import RESIDENCIES, Residency
from cosearch.workload import Layer, distinct_layers
from search_spaces.accelerators import find, fpga

GRID = (1.0, 0.5, 0.0)


def random_fronts(rng, layers, mappings):
    """[layer, mapping, (latency, energy)], along curves on which latency is bought with energy."""
    t = np.sort(rng.random((layers, mappings)))
    scale = 10.0 ** rng.uniform(-2, 2, (layers, 1, 2))
    return scale * np.stack([0.05 + t, 0.05 + (1 - t) ** rng.uniform(1, 4, (layers, 1))], 2)


def under(fronts, policies):
    """[policy, (latency, energy)] sums of each layer's best mapping under each policy."""
    score = fronts @ np.array([(w, 1 - w) for w in policies]).T
    chosen = np.take_along_axis(fronts, score.argmin(axis=1)[:, :, None], axis=1)
    return chosen.sum(axis=0)


def every_choice(fronts):
    """[choice, (latency, energy)] sums of every choice of one mapping per layer, without any rule of the code's."""
    total = np.zeros((1, 2))
    for front in fronts:
        total = (total[:, None] + front[None]).reshape(-1, 2)
    return total


def bound_of(fronts, policies):
    latency, energy = outer_corners(*under(fronts, policies).T, policies)
    return float((latency * energy).min())


@pytest.mark.parametrize("seed", range(40))
def test_no_choice_of_mappings_beats_the_bound_and_the_grid_reaches_it_within_the_gap(seed):
    rng = np.random.default_rng(seed)
    fronts = random_fronts(rng, layers=int(rng.integers(1, 6)), mappings=int(rng.integers(1, 6)))
    policies = GRID if seed % 2 else tuple(np.linspace(1, 0, int(rng.integers(2, 8))).tolist())
    least = every_choice(fronts).prod(axis=1).min()
    found = under(fronts, policies).prod(axis=1).min()
    bound = bound_of(fronts, policies)
    assert bound <= least * (1 + 1e-12)
    assert least <= found * (1 + 1e-12)
    assert found <= least * (1 + gap(found, bound)) * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_policies_at_the_edges_of_the_hull_close_the_gap(seed):
    """With a line along every edge of the hull the polygon is the hull, and the grid's least product the least one."""
    rng = np.random.default_rng(100 + seed)
    fronts = random_fronts(rng, layers=4, mappings=5)
    points = every_choice(fronts)
    edges = {1.0, 0.0}
    for front in fronts:
        for (l0, e0), (l1, e1) in itertools.combinations(front, 2):
            if (l1 - l0) * (e1 - e0) < 0:
                edges.add(float((e0 - e1) / ((e0 - e1) + (l1 - l0))))
    policies = tuple(sorted(edges, reverse=True))
    least = points.prod(axis=1).min()
    assert bound_of(fronts, policies) == pytest.approx(least, rel=1e-9)
    assert under(fronts, policies).prod(axis=1).min() == pytest.approx(least, rel=1e-9)


def test_the_bound_by_hand():
    """Sums (1, 4), (2, 2), (4, 1) under latency, half and half, energy: lines x = 1, x + y = 4, y = 1: corners (1, 3)
    and (3, 1), so no product below 3; the grid's best is 4.
    """
    latency, energy = outer_corners(np.array([1.0, 2.0, 4.0]), np.array([4.0, 2.0, 1.0]), GRID)
    np.testing.assert_allclose([latency, energy], [[1, 3], [3, 1]])
    assert gap(4.0, 3.0) == pytest.approx(1 / 3)
    assert gap(3.0, 3.0) == gap(3.0, 3.0 * (1 + 1e-15)) == 0.0


def test_a_grid_without_an_end_knows_only_a_sign():
    fronts = random_fronts(np.random.default_rng(0), 3, 4)
    assert bound_of(fronts, (0.5,)) == bound_of(fronts, (1.0, 0.5)) == 0.0
    assert math.isinf(gap(1.0, 0.0))


def test_what_fits_no_mapping_stays_infeasible():
    latency, energy = outer_corners(np.array([[1.0, np.inf]] * 3), np.array([[1.0, np.inf]] * 3), GRID)
    assert latency[:, 0] == pytest.approx(1.0)
    assert energy[:, 0] == pytest.approx(1.0)
    assert np.isinf(latency[:, 1]).all()
    assert np.isinf(energy[:, 1]).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_more_policies_never_lower_the_bound(seed, ms, mj):
    fronts = random_fronts(np.random.default_rng(seed), 4, 6) * (ms, mj)
    coarse, fine = bound_of(fronts, GRID), bound_of(fronts, (1.0, 0.9, 0.5, 0.1, 0.0))
    assert coarse <= fine * (1 + 1e-9)


def test_over_a_space_of_engines_within_a_budget_the_bound_holds_for_every_tuple(network):
    """A real space of three engine kinds with random mappings in its tensor: every accelerator within the budget, and
    on it every choice of a mapping for every layer.
    """
    choices = {
        "rows": (2, 8),
        "cols": (4,),
        "fabric": ("logic",),
        "weight_kib": (4.5,),
        "activation_kib": (4.5,),
        "port_bits": (64,),
        "clock_mhz": (75.0,),
    }
    space = fpga.space("ecp5-25f", choices=choices)
    layers = distinct_layers([network])
    tensor = cost_tensor(layers, space, cache=False)
    counts = np.ones(len(layers), int)
    case, live = 0, 1e9  # activations do not stay; and weights are made too many to
    counts[-1] = 1000
    assert tensor.weight_bits(counts) > space.shared.weight_bits.max()
    rng = np.random.default_rng(5)
    fronts: dict[tuple[str, int], np.ndarray] = {}
    latency, energy = ({k: [a.copy() for a in v] for k, v in part.items()} for part in (tensor.latency, tensor.energy))
    for kind in tensor.kinds:
        for engine in range(len(tensor.engines[kind])):
            own = random_fronts(rng, len(tensor.rows[kind]), 3)
            fronts[kind, engine] = own
            for at, front in enumerate(own):
                for p, w in enumerate(GRID):
                    latency[kind][case][at, :, p, engine], energy[kind][case][at, :, p, engine] = under(
                        front[None], [w]
                    )[0]
    tensor = replace(tensor, latency=latency, energy=energy)
    base = np.array(
        [
            sum(counts[i] * part["vector"][case][at, 0, 0, 0] for at, i in enumerate(tensor.vector_rows))
            for part in (latency, energy)
        ]
    )
    least = math.inf
    budget = np.array(space.budget.counts)
    for engines in itertools.product(*(range(len(tensor.engines[kind])) for kind in tensor.kinds)):
        chosen = list(zip(tensor.kinds, engines, strict=True))
        if (space.shared.resources[0] + sum(tensor.engines[k].resources[e] for k, e in chosen) > budget).any():
            continue
        many = [
            counts[i] * fronts[kind, engine][at] for kind, engine in chosen for at, i in enumerate(tensor.rows[kind])
        ]
        least = min(least, (every_choice(many) + base).prod(axis=1).min())
    bound = tensor.edp_bound(counts, live)
    found = tensor.best_accelerator(counts, "edp", None, live)
    assert 0 < bound <= least * (1 + 1e-12)
    assert least <= found.edp[0] * (1 + 1e-12)
    assert found.edp[0] <= least * (1 + gap(float(found.edp[0]), bound)) * (1 + 1e-9)


@pytest.mark.parametrize("device", ["gemmini", "eyeriss"])
def test_real_mappings_of_two_layers_never_beat_the_bound(device):
    """Two layers on one accelerator, each with the mappings that are best for 101 weights: their 10,201 pairs."""
    space = find(device)
    accelerator = space.accelerators[0]
    layers = (Layer("a", K=32, C=16, P=14, Q=14, R=3, S=3), Layer("b", K=64, C=32, P=7, Q=7))
    fine = accelerator_tensor(layers, accelerator, tuple(np.linspace(1, 0, 101).tolist()))
    [kind] = fine.kinds
    cost = accelerator_tensor(layers, accelerator).evaluate([1, 1], 1e12)
    least = math.inf
    for case in {0, RESIDENCIES.index(Residency(cost.weights_resident, activations=False))}:
        points = np.stack([fine.latency[kind][case][:, 0, :, 0], fine.energy[kind][case][:, 0, :, 0]], 2)
        least = min(least, every_choice(points).prod(axis=1).min())
    assert cost.edp_bound <= least * (1 + 1e-12)
    assert least <= cost.edp * (1 + 1e-12)
    assert cost.edp <= least * (1 + cost.edp_gap) * (1 + 1e-9)
