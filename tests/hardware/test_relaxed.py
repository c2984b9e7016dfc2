"""Costs of real tile sizes and buffer sizes: equal to explicit ones at whole numbers, smooth between, useful to search.

Gradients with respect to which network and which accelerator are in test_sweep.py.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosearch.errors import HardwareError, InfeasibleError
from cosearch.hardware import Nests, Technology, best, descend, evaluate, relaxed_cost, resized
from cosearch.hardware.accelerator import Accelerator, Engine, Mapspace, MemoryLevel, Tiling, engine_of, hierarchy
from cosearch.hardware.cost import nests
from cosearch.hardware.mapping import DIMS
from cosearch.hardware.nest import enumerate_nests, nest_mapping
from cosearch.workload import Layer
from search_spaces.accelerators import asic
from tests.references.free_buffers import deep, exact_optimum

TECHNOLOGY = Technology(45)
LAYERS = (
    Layer("conv", K=16, C=8, P=8, Q=8, R=3, S=3),
    Layer("strided", K=8, C=8, P=6, Q=6, R=3, S=3, stride=2),
    Layer("depthwise", K=16, C=16, P=8, Q=8, R=3, S=3, groups=16),
    Layer("product", N=12, K=24, C=40),
)
templates = st.sampled_from(["gemmini", "nvdla", "tpu-os", "eyeriss"])


def wide(accelerator):
    """The same with memories that every tile fits and whole rows of any size."""

    def large(level):
        return replace(level, capacity_bytes=max(level.capacity_bytes, 2.0**20), word_bits=8)

    engine = accelerator.engines[0]
    engine = replace(engine, levels=tuple(map(large, engine.levels)))
    return replace(accelerator, engines=(engine,), levels=tuple(map(large, accelerator.levels)))


def some_nests(layer, accelerator, seed, n=3):
    """n mappings of the mapspace."""
    engine = engine_of(layer, accelerator)
    names = [level.name for level in hierarchy(accelerator, engine)]
    every = enumerate_nests(layer, engine, names)
    rng = np.random.default_rng(seed)
    return [nest_mapping(every, int(at), names) for at in rng.integers(len(every), size=n)]


@settings(max_examples=25, deadline=None)
@given(templates, st.sampled_from(LAYERS), st.integers(0, 2**32))
def test_whole_loops_cost_what_evaluate_says(template, layer, seed):
    accelerator = wide(asic.build(template))
    for mapping in some_nests(layer, accelerator, seed):
        [(_, loops)] = nests([mapping])
        relaxed, exact = relaxed_cost(layer, accelerator, loops), evaluate(layer, accelerator, mapping)
        assert float(relaxed.latency_ms[0]) == pytest.approx(exact.latency_ms, rel=1e-12)
        assert 0.995 * exact.energy_mj <= float(relaxed.energy_mj[0]) <= exact.energy_mj * (1 + 1e-9)  # whole rows
        assert float(relaxed.edp[0]) == pytest.approx(exact.edp, rel=5e-3)
        assert all(float(excess) <= 0 for excess in relaxed.excess.values())


def test_capacities_cost_what_an_accelerator_of_that_size_costs():
    layer, accelerator = LAYERS[0], asic.build("gemmini")
    mapping, _ = best(layer, accelerator)
    [(_, loops)] = nests([mapping])
    sizes = {"scratchpad": 16.0 * 1024, "accumulator": 4.0 * 256}
    smaller = resized(accelerator, sizes, TECHNOLOGY)
    tensors = {name: torch.tensor([size], dtype=torch.float64) for name, size in sizes.items()}
    one = relaxed_cost(layer, accelerator, loops, tensors, TECHNOLOGY)
    other = relaxed_cost(layer, smaller, loops)
    for name in ("latency_ms", "energy_mj", "area_mm2"):
        assert float(getattr(one, name)[0]) == pytest.approx(float(getattr(other, name)[0]))
    assert float(one.area_mm2[0]) == pytest.approx(smaller.area_mm2)
    exact = evaluate(layer, smaller, mapping)
    assert float(one.energy_mj[0]) == pytest.approx(exact.energy_mj, rel=2e-2)  # whole bursts of a small layer
    room = sizes["scratchpad"] * 8
    assert float(one.excess["scratchpad"][0]) == pytest.approx(math.log(exact.footprint_bits["scratchpad"] / room))


def soft(layer, accelerator, seed):
    """A nest of the mapspace, and tile sizes away from whole numbers: temporal(logs), logs."""
    [(_, loops)] = nests(some_nests(layer, accelerator, seed, 1))
    whole = loops.temporal[0]
    tiled = [(dim, np.flatnonzero(whole[:, dim] > 1).tolist()) for dim in range(len(DIMS))]
    shift = np.random.default_rng(seed).uniform(-0.3, 0.3, len(DIMS))
    logs = torch.tensor(shift, dtype=torch.float64, requires_grad=True)

    def temporal(x):
        """Iterations pass from a dimension's innermost loop to its outermost one; their product stays."""
        out = whole.clone()
        for dim, at in tiled:
            if len(at) > 1:
                out[at[0], dim] = whole[at[0], dim] * torch.exp(x[dim])
                out[at[-1], dim] = whole[at[-1], dim] * torch.exp(-x[dim])
        return out[None]

    return loops, temporal, logs


@settings(max_examples=12, deadline=None)
@given(templates, st.sampled_from(LAYERS), st.integers(0, 2**32))
def test_gradients_in_tiles_and_buffers_equal_finite_differences(template, layer, seed):
    accelerator = asic.build(template)
    loops, temporal, logs = soft(layer, accelerator, seed)
    sized = [x for x in hierarchy(accelerator, accelerator.engines[0]) if x.read_energy_pj and x.name != "dram"]
    capacity = torch.tensor([x.capacity_bytes * 0.7 for x in sized], dtype=torch.float64, requires_grad=True)

    def figures(x, size):
        sizes = {level.name: size[i : i + 1] for i, level in enumerate(sized)}
        cost = relaxed_cost(layer, accelerator, replace(loops, temporal=temporal(x)), sizes, TECHNOLOGY)
        excess = torch.cat([cost.excess[level.name] for level in sized])
        scaled = (cost.latency_ms * 1e3, cost.energy_mj * 1e3, cost.area_mm2, excess)
        return torch.cat(scaled)

    assert torch.autograd.gradcheck(figures, (logs, capacity), eps=1e-6, atol=1e-5, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(templates, st.sampled_from(LAYERS), st.integers(0, 2**32), st.sampled_from([1.0, 2.0, 3.0]))
def test_nothing_jumps_where_a_loop_becomes_one(template, layer, seed, to):
    """From a whole bound to a hair above it costs move by a hair."""
    accelerator = wide(asic.build(template))
    loops, _, _ = soft(layer, accelerator, seed)
    base = loops.temporal.clone()
    base[base > 1] = to
    costs = [relaxed_cost(layer, accelerator, replace(loops, temporal=base * f)) for f in (1.0, 1.0 + 1e-9)]
    for name in ("latency_ms", "energy_mj", "footprint_bits"):
        before, after = (getattr(cost, name) for cost in costs)
        torch.testing.assert_close(before, after, rtol=1e-6, atol=1e-12)


def test_descent_reaches_the_exact_joint_optimum_of_a_small_space():
    layer, accelerator = Layer("conv", K=32, C=32, P=8, Q=8, R=3, S=3), asic.build("gemmini")
    found = descend({layer: 1}, accelerator, TECHNOLOGY, starts=4, steps=40)
    assert found.edp <= 1.02 * exact_optimum(layer, accelerator, TECHNOLOGY)
    assert found.costs[layer] == evaluate(layer, found.accelerator, found.mappings[layer])
    assert found.edp < best(layer, accelerator, "edp")[1].edp  # the default buffers are larger than it needs


def test_descent_beats_as_many_random_designs_where_nothing_can_be_tabulated():
    layers = {Layer("a", K=64, C=64, P=28, Q=28, R=3, S=3): 2, Layer("b", K=128, C=64, P=14, Q=14): 1}
    found = descend(layers, deep(), TECHNOLOGY, starts=3, steps=20)
    random = descend(layers, deep(), TECHNOLOGY, starts=found.evaluations, steps=0)
    assert random.evaluations >= found.evaluations
    assert found.edp < random.edp
    again = descend(layers, deep(), TECHNOLOGY, starts=3, steps=20)
    assert again == found
    total = sum(times * found.costs[layer].latency_ms for layer, times in layers.items())
    assert found.latency_ms == pytest.approx(total)


def test_fixed_memories_are_respected_or_said_to_be_too_small():
    layer, accelerator = LAYERS[0], asic.build("gemmini", {"accumulator_depth": 64})
    found = descend({layer: 1}, accelerator, TECHNOLOGY, sizes=["scratchpad"], objective="latency", steps=10)
    assert found.accelerator.engines[0].levels == accelerator.engines[0].levels
    assert found.latency_ms == found.costs[layer].latency_ms
    tiny = asic.build("gemmini", {"scratchpad_depth": 1})
    with pytest.raises(InfeasibleError, match="no start fits memory 'scratchpad', whose size is fixed"):
        descend({Layer("conv", K=64, C=64, P=8, Q=8, R=7, S=7): 1}, tiny, TECHNOLOGY, sizes=[], steps=0)


def test_a_hierarchy_of_dram_alone_has_no_memory_to_size():
    order = tuple("NKCPQRS")
    engine = Engine("e", ("mac",), 4, 4, mapspace=Mapspace((), (Tiling("dram", order, (order,)),)))
    accelerator = Accelerator("bare", (engine,), (MemoryLevel("dram", read_energy_pj=1.0),), 100.0, lanes=100)
    layer = Layer("x", K=4, C=4)
    found = descend({layer: 1}, accelerator, TECHNOLOGY, steps=2)
    assert found.latency_ms == best(layer, accelerator)[1].latency_ms


def test_what_cannot_be_relaxed_is_said():
    layer, accelerator = LAYERS[0], asic.build("gemmini")
    [(_, loops)] = nests([best(layer, accelerator)[0]])
    one = torch.ones(1, dtype=torch.float64)
    with pytest.raises(HardwareError, match="has no SRAM 'scratchpd': did you mean 'scratchpad'"):
        relaxed_cost(layer, accelerator, loops, {"scratchpd": one}, TECHNOLOGY)
    with pytest.raises(HardwareError, match="capacities of scratchpad without a technology"):
        relaxed_cost(layer, accelerator, loops, {"scratchpad": one})
    with pytest.raises(HardwareError, match=r"'conv': loops of shape \(1, 3, 8\), expected batch x 4 levels"):
        relaxed_cost(layer, accelerator, Nests(loops.orders[1:], loops.temporal[:, 1:], loops.spatial[:, 1:]))
    with pytest.raises(HardwareError, match="no engine for kind 'shift'"):
        descend({Layer("s", "shift"): 1}, accelerator, TECHNOLOGY)
    with pytest.raises(HardwareError, match="objective='speed': known: edp, energy, latency"):
        descend({layer: 1}, accelerator, TECHNOLOGY, objective="speed")
    with pytest.raises(HardwareError, match="0 layers, starts=8, steps=100: expected layers"):
        descend({}, accelerator, TECHNOLOGY)
