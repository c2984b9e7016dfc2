import numpy as np
import pytest
import torch

from cosearch.errors import ConfigError, HardwareError
from cosearch.hardware import cost_tensor, grid
from cosearch.hardware.pricing import Residency
from cosearch.hardware.sweep import sample_accelerators, within_budget
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
            cost = asic_tensor.evaluate_on(accelerator, row, 1e9, "latency_ms")
            assert latency[n, a] == pytest.approx(cost.latency_ms)
            assert energy[n, a] >= asic_tensor.evaluate_on(accelerator, row, 1e9, "energy_mj").energy_mj * (1 - 1e-9)


@pytest.mark.parametrize("objective", ["latency_ms", "energy_mj", "edp"])
def test_streamed_best_equals_dense(asic_tensor, objective):
    counts = np.random.default_rng(0).integers(0, 5, (200, 3)) + np.eye(3, dtype=int)[0]
    dense = grid(asic_tensor)
    latency, energy = dense.networks(counts)
    values = {"latency_ms": latency, "energy_mj": energy, "edp": latency * energy}[objective]
    index, best = dense.best(counts, objective)
    np.testing.assert_allclose(best, values.min(axis=1), rtol=1e-12)
    np.testing.assert_allclose(values[np.arange(200), index], best, rtol=1e-12)


def test_streamed_front_equals_dense(asic_tensor):
    counts = np.random.default_rng(1).integers(0, 5, (150, 3)) + np.eye(3, dtype=int)[1]
    dense = grid(asic_tensor)
    latency, energy = (part.ravel() for part in dense.networks(counts))
    network, accelerator, ms, mj = dense.front(counts)
    for a, b in zip(ms, mj, strict=True):
        better = (latency < a * (1 - 1e-9)) & (energy < b * (1 - 1e-9))
        assert not better.any()
    assert ms.min() == pytest.approx(latency.min())
    assert mj.min() == pytest.approx(energy.min())
    flat = network * len(asic_tensor.space) + accelerator
    np.testing.assert_allclose(latency[flat], ms, rtol=1e-12)


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
    with pytest.raises(HardwareError, match="policy"):
        grid(asic_tensor, policy=0.3)
