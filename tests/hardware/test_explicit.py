"""Batches of explicit mappings against `evaluate`, row by row."""

import dataclasses
import math
import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosearch.errors import HardwareError
from cosearch.hardware import Accelerator, Engine, MappingBatch, UnitEnergies, evaluate, evaluate_many
from cosearch.hardware.accelerator import hierarchy
from cosearch.hardware.mapping import DIMS
from cosearch.hardware.nest import enumerate_nests, nest_mapping
from cosearch.workload import Layer
from search_spaces.accelerators import asic
from tests.hardware.test_cost import HIERARCHIES, LAYERS, divided, random_mapping
from tests.hardware.test_nest import SMALL, TOYS


def one_by_one(layer, accelerator, mappings, resident=()):
    rows = []
    for mapping in mappings:
        try:
            cost = evaluate(layer, accelerator, mapping, resident)
            rows.append((cost.latency_ms, cost.energy_mj))
        except HardwareError:
            rows.append((math.inf, math.inf))
    return np.array(rows).T


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(sorted(LAYERS)),
    st.sampled_from(sorted(HIERARCHIES)),
    st.sampled_from([(), ("W",), ("I", "O"), ("W", "I", "O")]),
    st.booleans(),
    st.sampled_from([np.float64, np.int64, np.uint16]),
)
def test_a_batch_equals_its_mappings_one_by_one(seed, name, shape, resident, ends, kind):
    """Any loops in any orders on any hierarchy; some do not fit."""
    layer, levels, rng = LAYERS[name], HIERARCHIES[shape], random.Random(seed)
    few = tuple(dataclasses.replace(x, capacity_bytes=min(x.capacity_bytes, 2.0 ** rng.randint(4, 14))) for x in levels)
    levels = (*rng.choice([levels, few])[:-1], levels[-1])
    engine = Engine("mac", ("mac",), 8, 8, levels=levels[:-1], fill_cycles=3, fill_per="pass", fill_and_drain=ends)
    energies = UnitEnergies(1, 1, 1, requantise_pj=0.5)
    whole = Accelerator("toy", (engine,), levels[-1:], 100.0, lanes=4, energies=energies, static_power_w=0.01)
    mappings = [random_mapping(layer, levels, rng) for _ in range(6)]
    batch = MappingBatch.of(mappings)
    batch = MappingBatch(np.asarray(batch.temporal).astype(kind), np.asarray(batch.spatial).astype(kind), batch.order)
    found = evaluate_many(layer, whole, batch, resident)
    expected = one_by_one(layer, whole, mappings, resident)
    np.testing.assert_allclose([found.latency_ms, found.energy_mj], expected, rtol=1e-11)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(sorted(LAYERS)),
    st.sampled_from(sorted(HIERARCHIES)),
    st.sampled_from([(), ("W",), ("I", "O")]),
    st.sampled_from(["tile", "pass"]),
)
def test_dimensions_may_come_back_within_a_level(seed, name, shape, resident, fill_per):
    """Beside mappings of the same batch where none does."""
    layer, levels, rng = LAYERS[name], HIERARCHIES[shape], random.Random(seed)
    engine = Engine("mac", ("mac",), 8, 8, levels=levels[:-1], fill_cycles=3, fill_per=fill_per, fill_and_drain=True)
    energies = UnitEnergies(1, 1, 1, requantise_pj=0.5)
    whole = Accelerator("toy", (engine,), levels[-1:], 100.0, lanes=4, energies=energies, static_power_w=0.01)
    plain = [random_mapping(layer, levels, rng) for _ in range(6)]
    mappings = [divided(mapping, rng) if i % 2 else mapping for i, mapping in enumerate(plain)]
    batch = MappingBatch.of(mappings)
    found = evaluate_many(layer, whole, batch, resident)
    np.testing.assert_allclose(
        [found.latency_ms, found.energy_mj], one_by_one(layer, whole, mappings, resident), rtol=1e-11
    )
    names = [level.name for level in levels]
    assert [batch.mapping(i, names) for i in range(6)] == mappings


def test_rows_that_are_not_the_hierarchy_s_are_refused():
    layer, temporal, spatial, order = arrays()
    accelerator = asic.build("gemmini")
    for level_of in ((0, 1, 2, 2), (0, 1, 3, 3), (0, 1, 2), (1, 0, 2, 3)):
        with pytest.raises(HardwareError, match="the mappings have 4 levels, the hierarchy register, "):
            evaluate_many(layer, accelerator, MappingBatch(temporal, spatial, order, level_of))


@pytest.mark.parametrize("level_of", [(0, 1, 2, 1, 3), (0, 1, 0, 2, 3), (0, 1, 2, 3, 0)])
def test_levels_that_come_back_are_refused(level_of):
    """Where every level has its row, in order, but for one that is named once more."""
    layer, *four = arrays()
    temporal, spatial, order = (np.concatenate([part[:, :3], part[:, 2:]], axis=1) for part in four)
    accelerator = asic.build("gemmini")
    assert np.isfinite(
        evaluate_many(layer, accelerator, MappingBatch(temporal, spatial, order, (0, 1, 2, 2, 3))).latency_ms
    ).all()
    with pytest.raises(HardwareError, match=rf"level_of={re.escape(str(level_of))}, expected each of these by rising"):
        evaluate_many(layer, accelerator, MappingBatch(temporal, spatial, order, level_of))


@pytest.mark.parametrize("template", SMALL)
def test_templates_and_more_mappings_than_are_taken_at_once(template, monkeypatch):
    monkeypatch.setattr("cosearch.hardware.explicit._AT_ONCE", 37)
    accelerator = asic.build(template, SMALL[template])
    for layer in TOYS[:4]:
        names = [level.name for level in hierarchy(accelerator, accelerator.engines[0])]
        nests = enumerate_nests(layer, accelerator.engines[0], names)
        at = random.Random(layer.name).sample(range(len(nests)), min(100, len(nests)))
        mappings = [nest_mapping(nests, i, names) for i in at]
        batch = MappingBatch.of(mappings)
        found = evaluate_many(layer, accelerator, batch)
        expected = one_by_one(layer, accelerator, mappings)
        np.testing.assert_allclose([found.latency_ms, found.energy_mj], expected, rtol=1e-11)
        assert [batch.mapping(i, names) for i in range(len(batch))] == mappings


def test_an_empty_batch():
    empty = MappingBatch(*(np.ones((0, 4, 8)) for _ in range(3)))
    assert evaluate_many(TOYS[0], asic.build("gemmini"), empty).latency_ms.shape == (0,)


def arrays():
    """A convolution with all its loops at DRAM, twice."""
    temporal, spatial, order = np.ones((2, 4, 8)), np.ones((2, 4, 8)), np.full((2, 4, 8), -1)
    layer = Layer("toy", K=4, C=2, P=3)
    for dim, bound in (("K", 4), ("C", 2), ("P", 3)):
        temporal[:, 3, DIMS.index(dim)] = bound
    order[:, 3, :3] = [DIMS.index(d) for d in "PKC"]
    return layer, temporal, spatial, order


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t, s, o: t.__setitem__((1, 3, 2), 3),
            r"mapping 1: layer 'toy': the loops over K multiply to 3, .* has 4",
        ),
        (
            lambda t, s, o: t.__setitem__((1, 3, 2), 8),
            r"mapping 1: layer 'toy': the loops over K multiply to 8, .* has 4",
        ),
        (lambda t, s, o: t.__setitem__((1, 3, 2), 1.5), r"mapping 1: level 'dram': loop K=1.5"),
        (
            lambda t, s, o: t.__setitem__((1, 2, 2), 2),
            r"mapping 1: level 'scratchpad': the order leaves out K, .* 2 it",
        ),
        (lambda t, s, o: s.__setitem__((1, 2, 2), 0), r"mapping 1: level 'scratchpad': loop K=0"),
        (lambda t, s, o: s.__setitem__((1, 0, 5), np.nan), r"mapping 1: level 'register': loop Q=nan"),
        (lambda t, s, o: o.__setitem__((1, 3, 3), 2), r"mapping 1: level 'dram': a dimension occurs twice"),
        (lambda t, s, o: o.__setitem__((1, 3, 3), 9), r"mapping 1: level 'dram': loop 9=1"),
        (lambda t, s, o: o.__setitem__((1, 3, 2), -1), r"mapping 1: level 'dram': the order leaves out C, which has 2"),
    ],
)
def test_a_malformed_mapping_is_named(change, message):
    layer, temporal, spatial, order = arrays()
    accelerator = asic.build("gemmini")
    assert np.isfinite(evaluate_many(layer, accelerator, MappingBatch(temporal, spatial, order)).latency_ms).all()
    change(temporal, spatial, order)
    with pytest.raises(HardwareError, match=message):
        evaluate_many(layer, accelerator, MappingBatch(temporal, spatial, order))


def test_other_shapes_are_refused():
    layer, temporal, spatial, order = arrays()
    with pytest.raises(HardwareError, match=r"expected three times \(mappings, levels, 8\)"):
        MappingBatch(temporal, spatial[:1], order)
    with pytest.raises(HardwareError, match="the mappings have 4 levels, the hierarchy register, buffer, dram"):
        evaluate_many(layer, asic.build("tpu-os"), MappingBatch(temporal, spatial, order))
