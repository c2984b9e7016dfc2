import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cosearch.errors import ConfigError, HardwareError
from cosearch.hardware import Grid, best, cost_tensor, grid, sweep
from cosearch.hardware.pricing import Residency
from cosearch.hardware.sweep import IMPOSSIBLE, sample_accelerators, within_budget
from cosearch.workload import Layer, distinct_layers
from search_spaces.accelerators import asic


@pytest.fixture
def asic_tensor():
    layers = (Layer("a", K=8, C=8, P=4, Q=4, R=3, S=3), Layer("b", K=16, C=8, P=4, Q=4), Layer("c", K=10, C=32))
    space = asic.space("gemmini", choices={"size": (4, 8, 16), "accumulator_depth": (64, 256)})
    return cost_tensor(layers, space, cache=False)


def test_networks_equal_sums_over_layers(asic_tensor):
    counts = np.array([[1, 2, 0], [0, 0, 3]])
    latency, energy = asic_tensor.networks(counts)
    assert latency.shape == (2, len(asic_tensor.space))
    for n, row in enumerate(counts):
        for a in range(0, latency.shape[1], 5):
            accelerator = asic_tensor.space.accelerator(0, {"gemmini": a})
            fastest = [best(layer, accelerator, "latency")[1] for layer in asic_tensor.layers]
            assert latency[n, a] == pytest.approx(row @ [cost.latency_ms for cost in fastest])
            assert energy[n, a] == pytest.approx(row @ [cost.energy_mj for cost in fastest])
            cost = asic_tensor.evaluate_on(accelerator, row, 1e9, "energy_mj")  # weights may stay on chip there
            assert cost.energy_mj <= energy[n, a] * (1 + 1e-9)


def ordered_costs(counts, table):
    """Every pair's cost, written out: layer after layer, each product and sum rounded to float64."""
    out = np.zeros((len(counts), table.shape[1]))
    for layer in range(table.shape[0]):
        out += np.asarray(counts, float)[:, layer, None] * table[layer]
    return out


def brute_front(points):
    """Positions of [n, d] that no other point beats; of equal points the first."""
    order = np.lexsort(points.T[::-1])
    kept = []
    for i in order:
        if not any((points[j] <= points[i]).all() for j in kept):
            kept.append(int(i))
    return kept


@st.composite
def grids(draw):
    """Costs with ties, zeros, impossible entries and several magnitudes; counts with zeros and equal rows."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    layers, accelerators, networks = draw(st.integers(1, 9)), draw(st.integers(1, 90)), draw(st.integers(1, 25))
    tables = []
    for _ in range(2):
        table = rng.random((layers, accelerators)) * 10.0 ** draw(st.sampled_from([-60, -6, 0, 8]))
        table *= 10.0 ** -rng.integers(0, draw(st.sampled_from([1, 3, 40])), (layers, 1)).astype(float)
        decimals = draw(st.sampled_from([None, 0, 1]))
        if decimals is not None:
            table = np.round(table / table.max(), decimals) + 1.0
        tables.append(table)
    impossible = rng.random((layers, accelerators)) < draw(st.sampled_from([0.0, 0.3]))
    for table in tables:
        table[impossible] = IMPOSSIBLE
    counts = rng.integers(0, draw(st.sampled_from([2, 5, 60])), (networks, layers))
    return Grid(*(torch.from_numpy(table) for table in tables)), counts, rng.integers(0, 5, networks) / 4


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks, chunks and rooms so small that a small grid crosses all their borders."""
    for name, value in (("_ROWS", 7), ("_COLUMNS", 40), ("_ROOM", 2), ("_JOINT_ROOM", 4)):
        monkeypatch.setattr(sweep, name, value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(grids())
def test_streamed_answers_are_those_of_all_pairs_bit_for_bit(small_blocks, case):
    dense, counts, error = case
    latency, energy = (ordered_costs(counts, part.numpy()) for part in (dense.latency, dense.energy))
    impossible = (latency >= IMPOSSIBLE / 2) | (energy >= IMPOSSIBLE / 2)
    for got, want in zip(dense.networks(counts), (latency, energy), strict=True):
        np.testing.assert_array_equal(got, np.where(want >= IMPOSSIBLE / 2, np.inf, want))
    latency[impossible], energy[impossible] = np.inf, np.inf

    for objective, values in (("latency_ms", latency), ("energy_mj", energy), ("edp", latency * energy)):
        index, best = dense.best(counts, objective)
        runs = np.isfinite(values).any(axis=1)
        np.testing.assert_array_equal(best, values.min(axis=1))
        np.testing.assert_array_equal(index, np.where(runs, values.argmin(axis=1), -1))

    pairs = np.argwhere(~impossible)
    costs = np.stack([latency[~impossible], energy[~impossible]], axis=1)
    own = [
        i for n in range(len(counts)) for i in np.flatnonzero(pairs[:, 0] == n)[brute_front(costs[pairs[:, 0] == n])]
    ]
    whole = brute_front(costs)
    ranked = brute_front(np.column_stack([error[pairs[:, 0]], costs]))
    found = dense.fronts(counts), dense.front(counts), dense.front(counts, error)
    for got, want in zip(found, (own, whole, ranked), strict=True):
        np.testing.assert_array_equal(np.column_stack(got[:2]), pairs[want])
        np.testing.assert_array_equal(np.column_stack(got[2:]), costs[want])


def test_of_equal_pairs_the_first_network_is_taken_though_found_later(small_blocks):
    table = torch.ones(2, 80, dtype=torch.float64)
    table[0, :40], table[1, 40:] = 2.0, 2.0
    network, accelerator, ms, _ = Grid(table, table).front([[1, 0], [0, 1], [3, 3], [4, 4]])
    assert (network.tolist(), accelerator.tolist(), ms.tolist()) == ([0], [40], [1.0])


def test_a_reduced_precision_of_products_does_not_change_answers(asic_tensor):
    counts = np.random.default_rng(4).integers(0, 5, (50, 3))
    dense = grid(asic_tensor)
    index, value = dense.best(counts)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        again = dense.best(counts)
    finally:
        torch.set_float32_matmul_precision(before)
    np.testing.assert_array_equal(again[0], index)
    np.testing.assert_array_equal(again[1], value)


def test_a_sweep_leaves_the_number_of_threads_as_it_was(asic_tensor):
    before = torch.get_num_threads()
    grid(asic_tensor).best(np.ones((5, 3)))
    assert torch.get_num_threads() == before


def test_a_large_sweep_streams_in_little_memory():
    """Its 30 million pairs would take 480 MB; a fresh process measures what the sweep adds at its peak."""
    code = """
import resource, sys
import numpy as np, torch
from cosearch.hardware.sweep import Grid
rng = np.random.default_rng(0)
grid = Grid(*(torch.from_numpy(rng.random((8, 20000)) + 0.1) for _ in range(2)))
counts, error = rng.integers(0, 3, (1500, 8)), rng.random(1500)
grid.front(counts[:10], error[:10])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
grid.best(counts), grid.front(counts), grid.front(counts, error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150 * 1024  # KiB


def test_a_list_of_multi_engine_accelerators(small_space, network):
    tensor = cost_tensor(distinct_layers([network]), small_space, cache=False)
    table = sample_accelerators(tensor, 40, seed=3)
    assert len(within_budget(tensor, table)) == 40
    np.testing.assert_array_equal(table, sample_accelerators(tensor, 40, seed=3))
    counts = tensor.counts_of(network)
    resident = grid(tensor, table, residency=Residency(weights=True, activations=True))
    latency, _ = resident.networks(counts[None])
    for a, (shared, *engines) in enumerate(table[:8]):
        chosen = {kind: int(e) for kind, e in zip(tensor.kinds, engines, strict=True)}
        cost = tensor.evaluate_on(small_space.accelerator(int(shared), chosen), counts, 1.0, "latency_ms")
        if cost.weights_resident and cost.activations_resident:
            assert latency[0, a] == pytest.approx(cost.latency_ms)
        elif not np.isfinite(latency[0, a]):
            assert not cost.feasible
    with pytest.raises(HardwareError, match="needs a list of accelerators"):
        grid(tensor)


def test_expected_costs_are_differentiable_in_both(asic_tensor):
    dense = grid(asic_tensor)
    generator = torch.Generator().manual_seed(0)
    network = torch.rand(3, generator=generator, dtype=torch.float64, requires_grad=True)
    logits = torch.rand(dense.latency.shape[1], generator=generator, dtype=torch.float64, requires_grad=True)

    def cost(p, q):
        ms, mj = dense.expected(p, torch.softmax(q, 0))
        return torch.log(ms) + torch.log(mj)

    assert torch.autograd.gradcheck(cost, (network, logits))
    one_hot = torch.zeros_like(logits).index_fill(0, torch.tensor([4]), 1.0)
    ms, _ = dense.expected(network, one_hot)
    torch.testing.assert_close(ms, network @ dense.latency[:, 4])


def test_bad_requests_are_refused(asic_tensor):
    dense = grid(asic_tensor)
    with pytest.raises(ConfigError, match="did you mean 'latency_ms'"):
        dense.best([[1, 1, 1]], "latency")
    with pytest.raises(HardwareError, match="expected"):
        dense.networks([1, 1, 1])
    with pytest.raises(HardwareError, match="from -1 to 1"):
        dense.best([[1, -1, 1]])
    with pytest.raises(HardwareError, match="one per network"):
        dense.front([[1, 1, 1]], [0.5, 0.5])
    with pytest.raises(HardwareError, match="policy"):
        grid(asic_tensor, policy=0.3)
