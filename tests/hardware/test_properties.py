"""What holds for every explicit mapping: bounds, monotony, invariance; and for the sum of layers."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosearch.hardware import Accelerator, Engine, LevelLoops, Mapping, UnitEnergies, best, evaluate, lower_bound
from cosearch.hardware.report import layer_report
from cosearch.hardware.tensor import accelerator_tensor
from cosearch.workload import Workload
from search_spaces.accelerators import asic
from tests.hardware.test_cost import HIERARCHIES, LAYERS, random_mapping

seeds = st.integers(0, 2**32)
shapes = st.sampled_from(sorted(HIERARCHIES))
names = st.sampled_from(sorted(LAYERS))
checked = settings(max_examples=40, deadline=None)
TRANSPOSED = {"P": "Q", "Q": "P", "R": "S", "S": "R"}


def fitting(shape, name, seed):
    """(layer, accelerator, mapping, cost) with finite memories and ports that every mapping fits."""
    levels = tuple(
        replace(
            level,
            capacity_bytes=level.capacity_bytes if level.name == "dram" else 1e6,
            read_bits_per_cycle=min(level.read_bits_per_cycle, 64),
            write_bits_per_cycle=min(level.write_bits_per_cycle, 64),
            read_energy_pj=max(level.read_energy_pj, 1),
            write_energy_pj=max(level.write_energy_pj, 1),
        )
        for level in HIERARCHIES[shape]
    )
    layer, accelerator = LAYERS[name], on(levels)
    mapping = random_mapping(layer, HIERARCHIES[shape], random.Random(seed))
    return layer, accelerator, mapping, evaluate(layer, accelerator, mapping)


def on(levels, name="toy"):
    engine = Engine("mac", ("mac",), 64, 64, levels=levels[:-1], fill_and_drain=len(levels) > 3)
    return Accelerator(name, (engine,), levels[-1:], 100.0, lanes=16, energies=UnitEnergies(0.5, 0.1, 0.1))


def hierarchy(accelerator):
    return (*accelerator.engines[0].levels, *accelerator.levels)


@checked
@given(shapes, names, seeds)
def test_never_below_the_lower_bound(shape, name, seed):
    layer, accelerator, _, cost = fitting(shape, name, seed)
    least = lower_bound(layer, accelerator)
    assert cost.latency_ms >= least.latency_ms * (1 - 1e-9)
    assert cost.energy_mj >= least.energy_mj * (1 - 1e-9)
    assert cost.utilisation <= 1 + 1e-9
    assert (cost.roofline_ms, cost.compulsory_mj) == (least.latency_ms, least.energy_mj)


@checked
@given(shapes, names, seeds, st.integers(0, 3), st.floats(1, 8))
def test_more_of_anything_never_costs_more_at_a_fixed_mapping(shape, name, seed, at, factor):
    layer, accelerator, mapping, cost = fitting(shape, name, seed)
    levels = hierarchy(accelerator)
    level = levels[at % len(levels)]
    faster = {key: int(getattr(level, key) * factor) for key in ("read_bits_per_cycle", "write_bits_per_cycle")}
    cheaper = {key: getattr(level, key) / factor for key in ("read_energy_pj", "write_energy_pj")}
    for changes in (faster, cheaper, {"capacity_bytes": level.capacity_bytes * factor}):
        better = tuple(replace(x, **changes) if x is level else x for x in levels)
        other = evaluate(layer, on(better), mapping)
        assert other.latency_ms <= cost.latency_ms * (1 + 1e-9)
        assert other.energy_mj <= cost.energy_mj * (1 + 1e-9)


def transposed(layer, mapping):
    turned = replace(
        layer, P=layer.Q, Q=layer.P, R=layer.S, S=layer.R, stride=layer.stride[::-1], dilation=layer.dilation[::-1]
    )
    levels = [
        LevelLoops(x.level, *(tuple((TRANSPOSED.get(d, d), b) for d, b in loops) for loops in (x.temporal, x.spatial)))
        for x in mapping.levels
    ]
    return turned, Mapping(tuple(levels))


@checked
@given(shapes, names, seeds)
def test_rows_and_columns_may_change_places(shape, name, seed):
    layer, accelerator, mapping, cost = fitting(shape, name, seed)
    turned, loops = transposed(layer, mapping)
    assert evaluate(turned, accelerator, loops) == cost


@checked
@given(shapes, names, seeds)
def test_names_change_nothing(shape, name, seed):
    layer, accelerator, mapping, cost = fitting(shape, name, seed)
    renamed = {level.name: f"level {i}" for i, level in enumerate(hierarchy(accelerator))}
    levels = tuple(replace(level, name=renamed[level.name]) for level in hierarchy(accelerator))
    loops = tuple(replace(x, level=renamed[x.level]) for x in mapping.levels)
    other = evaluate(replace(layer, name="other"), on(levels, "other"), Mapping(loops))
    assert (other.cycles, other.energy_mj) == (cost.cycles, cost.energy_mj)
    assert other.accesses == {(renamed[level], tensor): words for (level, tensor), words in cost.accesses.items()}


@checked
@given(shapes, names, seeds)
def test_loops_of_bound_one_change_nothing(shape, name, seed):
    layer, accelerator, mapping, cost = fitting(shape, name, seed)
    rng = random.Random(seed)
    padded = []
    for x in mapping.levels:
        loops = list(x.temporal)
        for dim in "NGKCPQRS":
            if dim not in dict(loops) and rng.random() < 0.5:
                loops.insert(rng.randint(0, len(loops)), (dim, 1))
        padded.append(replace(x, temporal=tuple(loops)))
    assert evaluate(layer, accelerator, Mapping(tuple(padded))) == cost


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(["gemmini", "tpu-os", "nvdla"]), st.lists(names, min_size=1, max_size=4))
def test_a_network_costs_what_its_layers_cost(template, chosen):
    accelerator = asic.build(template)
    network = Workload("sum", tuple(replace(LAYERS[name], name=f"{name} {i}") for i, name in enumerate(chosen)))
    counts = network.shape_counts()
    tensor = accelerator_tensor(tuple(counts), accelerator)
    whole = tensor.evaluate(list(counts.values()), 2.0**40, "latency_ms")
    rows = layer_report(network, accelerator, "latency_ms")
    assert sum(row.latency_ms for row in rows) == pytest.approx(whole.latency_ms)
    alone = sum(best(layer, accelerator)[1].latency_ms for layer in network)
    assert whole.latency_ms <= alone * (1 + 1e-9)  # less where tensors stay on chip
    if not (whole.weights_resident or whole.activations_resident):
        assert whole.latency_ms == pytest.approx(alone)
