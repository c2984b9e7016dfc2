import dataclasses
import itertools
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosearch.errors import HardwareError
from cosearch.hardware import (
    Accelerator,
    Axis,
    Engine,
    Mapspace,
    MemoryLevel,
    Tiling,
    UnitEnergies,
    best,
    evaluate,
    lower_bound,
    mapspace_size,
)
from cosearch.hardware.accelerator import hierarchy
from cosearch.hardware.cost import Nests as BatchNests
from cosearch.hardware.cost import evaluate_batch, nests
from cosearch.hardware.mapping import DIMS, loop_bounds
from cosearch.hardware.nest import (
    Nests,
    enumerate_nests,
    nest_mapping,
    price_nests,
)
from cosearch.hardware.single import too_small
from cosearch.hardware.tensor import accelerator_tensor
from cosearch.workload import Layer
from search_spaces.accelerators import asic
from tests.hardware.test_cost import HIERARCHIES, LAYERS, random_mapping

SMALL = {
    "gemmini": {"size": 4, "accumulator_depth": 32, "scratchpad_depth": 64},
    "tpu-ws": {"rows": 4, "cols": 6, "buffer_kib": 0.5, "accumulator_depth": 32},
    "tpu-os": {"rows": 4, "cols": 6, "buffer_kib": 0.5},
    "nvdla": {"channels": 6, "kernels": 4, "buffer_kib": 0.5, "accumulator_depth": 32},
    "eyeriss": {"rows": 3, "cols": 4, "buffer_kib": 0.5},
}
TOYS = [
    Layer("conv", K=8, C=6, P=6, Q=6, R=3, S=3),
    Layer("strided", K=4, C=4, P=4, Q=4, R=3, S=3, stride=2),
    Layer("pointwise", K=12, C=10, P=4, Q=4),
    Layer("depthwise", K=8, C=8, P=6, Q=6, R=3, S=3, groups=8),
    Layer("matrix", N=6, K=10, C=12),
    Layer("pool", "pool", K=4, C=4, P=2, Q=2, R=2, S=2, stride=2, groups=4),
    Layer("sum", "elementwise", K=6, C=12, P=4, Q=4, groups=6),
]


def compiled(batch, levels: int) -> Nests:
    """A batch as the compiled analysis takes it."""
    orders = np.full((1, levels, len(DIMS)), -1, np.int64)
    for i, order in enumerate(batch.orders):
        orders[0, i, : len(order)] = [DIMS.index(dim) for dim in order]
    return Nests(batch.temporal.numpy(), batch.spatial.numpy(), orders)


COPRIME = Layer("coprime", K=2, C=2, P=4, Q=4, R=3, S=4, stride=(2, 3), dilation=(3, 2))
"""Rows at 2 p + 3 r: not all of those between the first and the last are read."""


@pytest.mark.parametrize("name", [*LAYERS, "coprime"])
@pytest.mark.parametrize("shape", HIERARCHIES)
def test_the_compiled_analysis_equals_the_readable_one(name, shape):
    """With and without resident tensors, with and without filling and draining."""
    layer, levels = {**LAYERS, "coprime": COPRIME}[name], HIERARCHIES[shape]
    rng = random.Random(f"{name} {shape} compiled")
    for resident, ends in itertools.product(((), ("W",), ("I", "O")), (False, True)):
        engine = Engine("mac", ("mac",), 8, 8, levels=levels[:-1], fill_and_drain=ends)
        whole = Accelerator("toy", (engine,), levels[-1:], 100.0, lanes=10**6, energies=UnitEnergies(1, 1, 1))
        for _ in range(3):
            mapping = random_mapping(layer, levels, rng)
            [(_, batch)] = nests([mapping])
            slow = evaluate_batch(layer, levels, batch, resident=resident, operation_pj=1.0, fill_and_drain=ends)
            nest = compiled(batch, len(levels))
            figures = price_nests(layer, whole, engine, levels, nest, resident)
            np.testing.assert_allclose(figures.latency_ms * 100e3, np.where(slow.fits, slow.cycles, math.inf))
            np.testing.assert_allclose(figures.energy_mj * 1e9, np.where(slow.fits, slow.energy_pj, math.inf))


def price_of_one(level: MemoryLevel, way: int) -> MemoryLevel:
    """Reading or writing a row costs 1 pJ, the rest nothing."""
    return dataclasses.replace(level, read_energy_pj=1.0 - way, write_energy_pj=float(way))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", HIERARCHIES)
def test_rows_of_each_level_equal_those_of_the_readable_analysis(name, shape):
    """One direction of one level at a time has a price; what no memory is too small for."""
    layer = LAYERS[name]
    levels = tuple(
        dataclasses.replace(x, capacity_bytes=math.inf, read_energy_pj=0.0, write_energy_pj=0.0)
        for x in HIERARCHIES[shape]
    )
    mapping = random_mapping(layer, levels, random.Random(f"{name} {shape} rows"))
    [(_, batch)] = nests([mapping])
    rows = evaluate_batch(layer, levels, batch).rows
    nest = compiled(batch, len(levels))
    for at, way in itertools.product(range(len(levels)), range(2)):
        own = (*levels[:at], price_of_one(levels[at], way), *levels[at + 1 :])
        engine = Engine("mac", ("mac",), 8, 8, levels=own[:-1])
        whole = Accelerator("toy", (engine,), own[-1:], 100.0, energies=UnitEnergies(0, 0, 0))
        figures = price_nests(layer, whole, engine, own, nest)
        np.testing.assert_allclose(figures.energy_mj * 1e9, rows[:, at, way])


def every(layer, accelerator):
    """All mappings of the declared mapspace as values, priced one by one by `evaluate`."""
    engine = accelerator.engines[0]
    names = [level.name for level in hierarchy(accelerator, engine)]
    space = enumerate_nests(layer, engine, names)
    for at in range(len(space)):
        mapping = nest_mapping(space, at, names)
        try:
            yield evaluate(layer, accelerator, mapping)
        except HardwareError:
            continue


@pytest.mark.parametrize("layer", TOYS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("template", SMALL)
def test_best_equals_brute_force(template, layer):
    accelerator = asic.build(template, SMALL[template])
    engine = accelerator.engines[0]
    levels = hierarchy(accelerator, engine)
    nest = enumerate_nests(layer, engine, [level.name for level in levels])
    sample = random.Random(template + layer.name).sample(range(len(nest)), min(60, len(nest)))
    result = price_nests(layer, accelerator, engine, levels, nest)
    for at in sample:
        try:
            cost = evaluate(layer, accelerator, nest_mapping(nest, at, [level.name for level in levels]))
        except HardwareError:
            assert math.isinf(result.latency_ms[at])
            continue
        assert result.latency_ms[at] == pytest.approx(cost.latency_ms, rel=1e-12)
        assert result.energy_mj[at] == pytest.approx(cost.energy_mj, rel=1e-12)
    edp = result.latency_ms * result.energy_mj
    for objective, values in (("latency", result.latency_ms), ("energy", result.energy_mj), ("edp", edp)):
        _, cost = best(layer, accelerator, objective)
        found = {"latency": cost.latency_ms, "energy": cost.energy_mj, "edp": cost.edp}[objective]
        assert found == pytest.approx(values.min(), rel=1e-12)
    _, cube = best(layer, accelerator, lambda ms, mj: ms**3 * mj)
    assert cube.latency_ms**3 * cube.energy_mj == pytest.approx((result.latency_ms**3 * result.energy_mj).min())
    assert cube.latency_ms >= result.latency_ms.min() * (1 - 1e-12)
    assert mapspace_size(layer, accelerator) == len(nest)


@pytest.mark.parametrize("template", ["gemmini", "tpu-os"])
def test_best_equals_every_mapping_priced_one_by_one(template):
    layer = Layer("tiny", K=4, C=3, P=4, Q=2, R=2)
    accelerator = asic.build(template, SMALL[template])
    costs = list(every(layer, accelerator))
    _, least = best(layer, accelerator, "energy")
    assert least.energy_mj == pytest.approx(min(cost.energy_mj for cost in costs), rel=1e-12)


def layers():
    return st.builds(
        lambda k, c, p, q, r, stride, depthwise: Layer(
            "random", K=c if depthwise else k, C=c, P=p, Q=q, R=r, S=r, stride=stride, groups=c if depthwise else 1
        ),
        *(st.integers(1, 20), st.integers(1, 20), st.integers(1, 9), st.integers(1, 9)),
        *(st.sampled_from([1, 3]), st.integers(1, 2), st.booleans()),
    )


@settings(max_examples=40, deadline=None)
@given(layers(), st.sampled_from(sorted(SMALL)), st.sampled_from(["latency", "energy", "edp"]))
def test_never_below_the_lower_bound(layer, template, objective):
    accelerator = asic.build(template)
    cost = best(layer, accelerator, objective)[1]
    least = lower_bound(layer, accelerator)
    assert cost.latency_ms >= least.latency_ms * (1 - 1e-9)
    assert cost.energy_mj >= least.energy_mj * (1 - 1e-9)
    assert cost.utilisation <= 1 + 1e-9


@settings(max_examples=30, deadline=None)
@given(layers(), st.sampled_from(sorted(SMALL)), st.sampled_from(["latency", "energy"]))
def test_more_of_anything_never_costs_more(layer, template, objective):
    accelerator = asic.build(template)

    def optimum(candidate):
        cost = best(layer, candidate, objective)[1]
        return cost.latency_ms if objective == "latency" else cost.energy_mj

    def scaled(**factors):
        def one(level):
            return dataclasses.replace(level, **{key: getattr(level, key) * f for key, f in factors.items()})

        engine = dataclasses.replace(accelerator.engines[0], levels=tuple(map(one, accelerator.engines[0].levels)))
        return dataclasses.replace(accelerator, engines=(engine,), levels=tuple(map(one, accelerator.levels)))

    cost = optimum(accelerator) * (1 + 1e-9)
    assert optimum(scaled(capacity_bytes=2)) <= cost
    assert optimum(scaled(read_bits_per_cycle=2, write_bits_per_cycle=2)) <= cost
    assert optimum(scaled(read_energy_pj=0.5, write_energy_pj=0.5)) <= cost


def test_a_layer_too_large_for_its_memories_names_them():
    accelerator = asic.build("gemmini", {"size": 4, "accumulator_depth": 1, "scratchpad_depth": 1})
    with pytest.raises(HardwareError, match=r"'big'.*scratchpad 4 B"):
        best(Layer("big", K=8, C=8, P=4, Q=4, R=3, S=3), accelerator)


@pytest.mark.parametrize("layer", TOYS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("template", SMALL)
def test_a_memory_is_too_small_where_it_has_no_room_for_the_smallest_of_all_tiles(template, layer):
    accelerator = asic.build(template, SMALL[template])
    engine = accelerator.engines[0]
    levels = hierarchy(accelerator, engine)
    nest = enumerate_nests(layer, engine, [level.name for level in levels])
    batch = BatchNests((DIMS,) * len(levels), torch.from_numpy(nest.temporal), torch.from_numpy(nest.spatial))
    smallest = evaluate_batch(layer, levels, batch).footprint_bits.amin(0).tolist()
    sums = next(level for level in levels if "O" in level.holds)
    for at, (level, bits) in enumerate(zip(levels[:-1], smallest, strict=False)):
        own, shared = list(engine.levels), list(accelerator.levels)
        for size, enough in ((bits, True), (bits - 1, False)):
            place, i = (own, at) if at < len(own) else (shared, at - len(own))
            place[i] = dataclasses.replace(level, capacity_bytes=max(size, 0.5) / 8)
            engines = (dataclasses.replace(engine, levels=tuple(own)),)
            said = too_small(layer, dataclasses.replace(accelerator, engines=engines, levels=tuple(shared)))
            if enough or level is sums or "O" not in level.holds:  # elsewhere sums may be narrower than in any mapping
                assert said == ("" if enough or not bits else f"level {level.name!r} needs at least {bits / 8:g} bytes "
                                f"per instance, has {max(size, 0.5) / 8:g}")  # fmt: skip


def test_a_dimension_that_no_level_tiles_is_named_with_its_layer():
    space = Mapspace((Axis("buffer", 4, ("K",)),), (Tiling("dram", ("K", "C"), (("K", "C"),)),))
    levels = (MemoryLevel("buffer", ("W",), instances=4), MemoryLevel("dram"))
    engine = Engine("e", ("mac",), 4, 1, levels=levels[:1], mapspace=space)
    with pytest.raises(HardwareError, match="layer 'x': the mapspace tiles no level along P, which has 5 iterations"):
        best(Layer("x", K=4, P=5), Accelerator("toy", (engine,), levels[1:], 100.0))


def test_a_network_with_a_layer_that_fits_nowhere_says_which():
    accelerator = asic.build("gemmini", {"size": 4, "accumulator_depth": 1, "scratchpad_depth": 1})
    layers = (Layer("small", K=2), Layer("big", K=8, C=8, P=4, Q=4, R=3, S=3))
    tensor = accelerator_tensor(layers, accelerator)
    refused = tensor.evaluate([1, 1], 0.0, "latency_ms")
    assert not refused.feasible
    assert refused.reason == (
        "layer 'big' fits no mapping: in gemmini_4x4_0.00390625KiB level 'scratchpad' needs at least 45 bytes per "
        "instance, has 4"
    )
    assert tensor.evaluate([1, 0], 0.0, "latency_ms").feasible


def test_technologies_scale_and_are_checked():
    areas = [asic.build("gemmini", {"nm": nm}).area_mm2 for nm in (65, 45, 28)]
    assert areas == sorted(areas, reverse=True)
    layer = TOYS[0]
    energies = []
    for nm in (65, 45, 28):
        accelerator = asic.build("gemmini", {"nm": nm})
        energies.append(best(layer, accelerator, "energy")[1].energy_mj)
    assert energies == sorted(energies, reverse=True)


def test_an_accelerator_with_a_mapspace_survives_json():
    accelerator = asic.build("eyeriss")
    assert Accelerator.from_json(json.loads(json.dumps(accelerator.to_json()))) == accelerator


RECORDED = Path(__file__).parents[1] / "references" / "tools" / "scalesim.json"


def systolic(rows, cols, dataflow):
    """A systolic array alone: memories that never limit.

    A pass fills and drains in rows + cols - 2 cycles; loading weights takes another `rows`.
    """
    weights = dataflow == "ws"
    register = MemoryLevel("register", ("W",) if weights else ("O",), instances=rows * cols)
    dims = ("C",) if weights else ("N",)
    held, streamed = (("N",), ("C", "K")) if weights else (("C",), ("N", "K"))
    space = Mapspace(
        (Axis("dram", rows, dims), Axis("dram", cols, ("K",))),
        (Tiling("register", held, (held,)), Tiling("dram", streamed, (streamed,))),
    )
    fill = rows + cols - 2 + rows * weights
    engine = Engine("mac", ("mac",), rows, cols, fill_cycles=fill, fill_per="pass", levels=(register,), mapspace=space)
    return Accelerator(
        "systolic", (engine,), (MemoryLevel("dram"),), 100.0, lanes=10**6, energies=UnitEnergies(1, 1, 1)
    )


@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_stall_free_cycles_equal_scale_sim(dataflow):
    """Recorded SCALE-Sim cycles; a convolution is the matrix product that it lowers it to."""
    compared = 0
    for record in json.loads(RECORDED.read_text())["results"]:
        if record["dataflow"] != dataflow:
            continue
        layer = Layer.from_json(record["layer"])
        bounds = loop_bounds(layer)
        matrix = Layer(
            layer.name, N=bounds["P"] * bounds["Q"] * layer.N, K=bounds["K"], C=bounds["C"] * layer.R * layer.S
        )
        accelerator = systolic(record["rows"], record["columns"], dataflow)
        cost = best(matrix, accelerator)[1]
        theirs = record["stall_free_cycles"] / record["copies"]
        assert cost.cycles == pytest.approx(theirs, rel=1e-3, abs=1), layer.name  # SCALE-Sim counts from 0
        compared += 1
    assert compared >= 8


def test_an_objective_may_be_any_function_and_what_is_none_is_refused():
    """One that multiplies by zero has no number where a mapping does not fit: that is no better than infinite."""
    layer, accelerator = TOYS[0], asic.build("gemmini", SMALL["gemmini"])
    assert (
        best(layer, accelerator, lambda ms, mj: 0 * ms + mj)[1].energy_mj
        == best(layer, accelerator, "energy")[1].energy_mj
    )
    for objective in (lambda ms, mj: ms * math.nan, lambda ms, mj: 1.0, lambda ms, mj: ms[:-1]):
        with pytest.raises(HardwareError, match=r"expected [0-9]+ numbers: one per mapping"):
            best(layer, accelerator, objective)
