"""Expected costs of relaxed networks: exact at one-hot shares, gradients by differences, a limit case of HALOC."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosearch.costs import AcceleratorCosts
from cosearch.expected import ExpectedCosts, layer_costs
from cosearch.hardware.pricing import RESIDENCIES
from cosearch.hardware.sweep import grid
from cosearch.hardware.tensor import cost_tensor
from cosearch.strategies import Objectives
from cosearch.strategies.differentiable import Descent, most_probable
from cosearch.strategies.shares import softmax
from cosearch.workload import host_bytes
from search_spaces.accelerators import fpga
from search_spaces.networks import lowrank
from tests import tiny_space

SIZES = {
    "rows": (2, 8), "cols": (4, 8), "weight_kib": (4.5, 36), "activation_kib": (4.5, 18), "port_bits": (64,),
    "clock_mhz": (75.0, 150.0),
}  # fmt: skip
WEIGHTS = {"latency_ms": 0.7, "energy_mj": 0.3}
METRICS = ("latency_ms", "energy_mj", "edp", "throughput_fps", "params", "macs", "lut")


def first(scores):
    """All of the least score."""
    return np.eye(len(scores))[int(np.argmin(scores))]


@pytest.fixture(scope="module")
def space():
    return tiny_space.space()


@pytest.fixture(scope="module")
def costs(space):
    tensor = cost_tensor(space.layer_table(), fpga.space("ecp5-25f", choices=SIZES), cache=False)
    return AcceleratorCosts(space, tensor, Objectives(("accuracy", *WEIGHTS)))


def one_hot(space, arch):
    return {name: np.array([float(arch[name] == option) for option in o]) for name, o in space.choices.items()}


def soft(space, rng):
    return {name: rng.dirichlet(np.ones(len(options))) for name, options in space.choices.items()}


def test_a_part_of_the_space_costs_what_it_costs_in_the_whole(space, costs):
    part, rng = space.restricted("conv"), np.random.default_rng(0)
    assert any(len(options) < len(space.choices[name]) for name, options in part.choices.items())
    for _ in range(5):
        arch = part.sample(rng)
        whole, own = (
            expected.log_cost(one_hot(of, arch), arch, WEIGHTS, first)[0]
            for expected, of in ((costs.expected(), space), (costs.expected(space=part), part))
        )
        assert own == pytest.approx(whole)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_a_network_of_one_hot_shares_costs_what_its_best_accelerator_costs(space, costs, seed):
    arch = space.sample(np.random.default_rng(seed))
    expected = costs.expected()
    [front] = costs.fronts([arch])
    for name in METRICS:
        sign = -1.0 if name == "throughput_fps" else 1.0
        value, _ = expected.log_cost(one_hot(space, arch), arch, {name: sign}, first)
        assert value == pytest.approx(float(np.min(sign * np.log(np.maximum(front.metric(name), 1e-300)))), abs=1e-9)


def test_layers_add_up_to_the_front(space, costs):
    for seed in range(8):
        arch = space.sample(np.random.default_rng(seed))
        [front] = costs.fronts([arch])
        _, demand = costs._demand(arch)
        counts = np.asarray(demand["counts_row"], float)
        ms, mj = layer_costs(costs.tensor, front.hardware)
        for i in range(len(front)):
            base = costs.tensor.host_cost(demand["host_bytes"], int(front.hardware.shared[i]))
            assert counts @ ms[:, i] + base[0] == pytest.approx(front.metric("latency_ms")[i])
            assert counts @ mj[:, i] + base[1] == pytest.approx(front.metric("energy_mj")[i])


@pytest.mark.parametrize("name", METRICS[:-1])
def test_gradients_are_finite_differences_on_the_accelerator_that_was_picked(space, costs, name):
    rng = np.random.default_rng(3)
    expected, shares = costs.expected(), soft(space, rng)
    arch = space.sample(rng)
    weights = {name: -1.0 if name == "throughput_fps" else 1.0}
    _, gradient = expected.log_cost(shares, arch, weights, first)
    step = 1e-6
    for decision, options in space.choices.items():
        for i in range(len(options)):
            moved = {**shares, decision: shares[decision] + step * np.eye(len(options))[i]}
            back = {**shares, decision: shares[decision] - step * np.eye(len(options))[i]}
            high, low = (expected.log_cost(s, arch, weights, first)[0] for s in (moved, back))
            assert gradient[decision][i] == pytest.approx((high - low) / (2 * step), rel=1e-3, abs=1e-6)


def test_the_gradient_is_that_of_the_relaxed_grid_by_autograd():
    space = lowrank.space((1, 8, 8), 10)
    tensor = cost_tensor(space.layer_table(), fpga.space("ecp5-25f", kinds=("mac",), choices=SIZES), cache=False)
    rng = np.random.default_rng(0)
    shares, arch = soft(space, rng), space.sample(rng)
    expected = ExpectedCosts(space, tensor, {})
    counts, workload = expected.counts(shares), space.workload(arch)
    crossing = host_bytes(workload)
    front = tensor.hardware_front(counts, workload.live_activation_bytes, host_bytes=crossing).take(np.array([0]))
    dense = grid(
        tensor,
        np.column_stack([front.shared, front.engines]),
        policy=tensor.policies[int(front.policies[0, 0])],
        residency=RESIDENCIES[int(front.residency[0])],
    )
    relaxed = {name: torch.tensor(share, requires_grad=True) for name, share in shares.items()}
    expanded = torch.from_numpy(expected._base) + sum(
        relaxed[name] @ torch.from_numpy(added) for name, added in expected._added.items()
    )
    ms = (
        dense.expected(expanded, torch.ones(1, dtype=torch.float64))[0]
        + tensor.host_cost(crossing, int(front.shared[0]))[0]
    )
    ms.log().backward()
    fastest = lambda scores: np.eye(len(scores))[0]  # noqa: E731 - fronts come by rising latency
    value, gradient = expected.log_cost(shares, arch, {"latency_ms": 1.0}, fastest)
    assert value == pytest.approx(float(ms.detach().log()))
    for name, share in relaxed.items():
        assert np.allclose(gradient[name], share.grad.numpy())


def test_limits_push_towards_networks_that_meet_them(space, costs):
    rng = np.random.default_rng(0)
    shares, arch = soft(space, rng), space.sample(rng)
    free, pushed = costs.expected(), costs.expected({"max_latency_ms": 1e-6})
    (a, slope), (b, steeper) = (e.log_cost(shares, arch, WEIGHTS, first) for e in (free, pushed))
    assert b > a
    name = next(iter(slope))
    assert np.ptp(steeper[name]) > np.ptp(slope[name])


def test_a_floor_on_throughput_is_a_limit_on_latency(costs):
    assert costs.expected({"min_throughput_fps": 5e4}).limits == {"latency_ms": pytest.approx(0.02)}
    both = costs.expected({"min_throughput_fps": 5e4, "max_latency_ms": 0.01, "max_params": 900.0})
    assert both.limits == {"latency_ms": 0.01, "params": 900.0}


def test_rank_search_takes_the_smallest_ranks_for_cost_alone():
    """HALOC's limit case on the space whose choices are ranks; what is smallest is found by pricing one by one."""
    made = lowrank.space((1, 8, 8), 10)
    space = replace(made, choices={n: tuple(c for c in o if c != "skip") for n, o in made.choices.items()})
    tensor = cost_tensor(space.layer_table(), fpga.space("ecp5-25f", kinds=("mac",), choices=SIZES), cache=False)
    expected, run = ExpectedCosts(space, tensor, {}), Descent(space)
    for _ in range(40):
        run.shares = {name: softmax(values) for name, values in run.logits.items()}
        slope = expected.log_cost(run.shares, most_probable(space, run.shares), {"params": 1.0}, first)[1]
        run.descend(slope, 1.0)
    chosen = most_probable(space, run.logits)
    assert all(choice.startswith("lowrank25") for choice in chosen.values())
    for name, options in space.choices.items():
        weights = {option: space.workload({**chosen, name: option}).weight_count for option in options}
        assert weights[chosen[name]] == min(weights.values())
