"""Mappings composed level by level against every mapping of the mapspace, priced jointly."""

import dataclasses
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    mapspace_size,
    single,
)
from cosearch.hardware.accelerator import hierarchy
from cosearch.hardware.compose import compose, composes
from cosearch.hardware.nest import enumerate_nests, price_nests, score
from cosearch.hardware.nestfront import allowed, beside
from cosearch.hardware.pricing import NOTHING_RESIDENT, RESIDENCIES
from cosearch.workload import Layer
from search_spaces.accelerators import asic
from tests.hardware.test_nest import SMALL, TOYS
from tests.references import zigzag_machines
from tests.references.free_buffers import deep

ZIGZAG = Path(__file__).parents[1] / "references" / "tools" / "zigzag.json"


def front(latency, energy):
    """Latency and energy of what nothing beats in both, by rising latency."""
    kept, least = [], math.inf
    for i in np.lexsort((energy, latency)):
        if math.isfinite(latency[i]) and energy[i] < least * (1 - 1e-12):
            kept.append((latency[i], energy[i]))
            least = energy[i]
    return np.array(kept).reshape(-1, 2)


def every(layer, accelerator, residency=NOTHING_RESIDENT):
    """Latency and energy of every mapping of the mapspace."""
    engine = accelerator.engines[0]
    levels = beside(hierarchy(accelerator, engine), residency)
    nests = allowed(enumerate_nests(layer, engine, [level.name for level in levels]), residency)
    return price_nests(layer, accelerator, engine, levels, nests, residency.tensors)


def composed(layer, accelerator, residency=NOTHING_RESIDENT):
    engine = accelerator.engines[0]
    return compose(layer, accelerator, engine, beside(hierarchy(accelerator, engine), residency), residency)


def assert_equal(layer, accelerator, residency=NOTHING_RESIDENT):
    expected, found = every(layer, accelerator, residency), composed(layer, accelerator, residency)
    rows, truth = front(found.totals.latency_ms, found.totals.energy_mj), front(expected.latency_ms, expected.energy_mj)
    # latencies equal but for the last bit are one point in one front and two in the other: compared by what they reach
    for one, other in ((rows, truth), (truth, rows)):
        assert (one[:, None] * (1 - 1e-11) <= other).all(axis=2).any(axis=0).all(), (rows, truth)


@pytest.mark.parametrize("layer", TOYS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("template", SMALL)
def test_templates(template, layer):
    """The whole front of latency and energy, whatever stays on chip."""
    for residency in RESIDENCIES:
        accelerator = asic.build(template, SMALL[template])
        assert_equal(accelerator.engines[0].seen(layer), accelerator, residency)


TINY = [
    Layer("conv", K=8, C=4, P=6, Q=4, R=3, S=3),
    Layer("uneven", K=6, C=5, P=7, Q=3, R=3, S=1, stride=2),
    Layer("dilated", K=4, C=6, P=6, Q=6, R=3, S=3, dilation=2),
    Layer("depthwise", K=6, C=6, P=6, Q=6, R=3, S=3, groups=6),
    Layer("matrix", N=12, K=10, C=12),
]


def toy(rng: random.Random, ends: bool) -> Accelerator:
    """Five levels of random kinds, all of them tiled in all dimensions that matter, in random orders."""
    dims = "NGKCPQRS"
    holds = [("O",), ("W", "I"), ("W", "I", "O"), ("I", "O")]
    rng.shuffle(holds)
    aligned, returns = rng.random() < 0.3, rng.random() < 0.3
    forgetful = rng.choice([0, 0, 1, 3])  # the innermost levels keep nothing

    def level(name, what, capacity, instances=1):
        return MemoryLevel(
            name,
            what,
            capacity,
            *(rng.choice([16.0, 64.0, math.inf]) for _ in range(2)),
            *(rng.choice([0.5, 3.0]) for _ in range(2)),
            word_bits=rng.choice([8, 32]),
            instances=instances,
            shared_port=rng.random() < 0.4,
            keeps=int(name[1]) >= forgetful,
            aligned=aligned,
            slides=rng.random() < 0.7,
            returns=returns and "O" in what,
        )

    levels = [level(f"m{i}", what, 2.0 ** rng.randint(4 + 2 * i, 7 + 3 * i), 16) for i, what in enumerate(holds)]
    levels[2:] = [dataclasses.replace(x, instances=4 if i == 0 else 1) for i, x in enumerate(levels[2:])]
    dram = MemoryLevel("dram", read_bits_per_cycle=16, write_bits_per_cycle=16, read_energy_pj=60, write_energy_pj=70)
    whole = [*levels, dataclasses.replace(dram, word_bits=64, shared_port=rng.random() < 0.7)]
    tilings = []
    for x in whole:
        kept = [d for d in dims if x.name == "dram" or rng.random() < 0.45]
        orders = {tuple(rng.sample(kept, len(kept))) for _ in range(2)} if kept else set()
        if orders:
            tilings.append(Tiling(x.name, tuple(kept), tuple(sorted(orders))))
    # below each m2 there are four of m1: an unrolling by eight has no place
    axes = (Axis("m2", 8, tuple(rng.sample("KCP", 2))), Axis("m3", 4, tuple(rng.sample("KGPQ", 2))))
    engine = Engine(
        "mac",
        ("mac",),
        4,
        4,
        fill_cycles=rng.choice([0, 7]),
        fill_per=rng.choice(["tile", "pass"]),
        levels=tuple(levels),
        mapspace=Mapspace(axes, tuple(tilings)),
        fill_and_drain=ends,
    )
    return Accelerator("toy", (engine,), whole[-1:], 100.0, lanes=64, energies=UnitEnergies(1, 1, 1, requantise_pj=0.1))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(TINY), st.booleans(), st.sampled_from(RESIDENCIES))
def test_random_hierarchies(seed, layer, ends, residency):
    accelerator = toy(random.Random(seed), ends)
    if mapspace_size(layer, accelerator) <= 200_000:
        assert_equal(layer, accelerator, residency)


@pytest.mark.parametrize("name", zigzag_machines.SPACES)
@pytest.mark.parametrize("two_tiles", [False, True])
def test_aligned_transfers_that_fill_and_drain(name, two_tiles):
    document = json.loads(ZIGZAG.read_text())["hardware"][name]
    for accelerator in zigzag_machines.machines(name, document, two_tiles):
        for layer in TINY:
            assert_equal(dataclasses.replace(layer, accumulator_bits=16), accelerator)


OBJECTIVES = ("latency", "energy", "edp", lambda ms, mj: ms**3 * mj, lambda ms, mj: np.maximum(ms * 2, mj))


@pytest.mark.parametrize("layer", TINY, ids=lambda layer: layer.name)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=("latency", "energy", "edp", "cube", "larger"))
def test_best_of_a_deep_hierarchy(layer, objective, monkeypatch):
    """The mapping itself, evaluated as any explicit one, with both searches."""
    accelerator = deep()
    result = every(layer, accelerator)
    least = score(objective, result).min()
    for most in (0, math.inf):
        monkeypatch.setattr(single, "_MOST_ENUMERATED", most)
        mapping, cost = best(layer, accelerator, objective)
        assert cost == evaluate(layer, accelerator, mapping)
        found = score(objective, type(result)(np.array([cost.latency_ms]), np.array([cost.energy_mj])))
        assert found[0] == pytest.approx(least, rel=1e-11)


def test_what_cannot_be_composed_is_enumerated(monkeypatch):
    """A memory that keeps nothing around one that keeps its partial sums."""
    monkeypatch.setattr(single, "_MOST_ENUMERATED", 0)
    whole = asic.build("tpu-os", SMALL["tpu-os"])
    buffer = dataclasses.replace(whole.levels[0], keeps=False)
    accelerator = dataclasses.replace(whole, levels=(buffer, whole.levels[1]))
    assert not composes(hierarchy(accelerator, accelerator.engines[0]))
    for objective in ("latency", "energy", "edp"):
        _, cost = best(TINY[0], accelerator, objective)
        least = score(objective, every(TINY[0], accelerator)).min()
        assert {"latency": cost.latency_ms, "energy": cost.energy_mj, "edp": cost.edp}[objective] == pytest.approx(
            least
        )


def test_a_layer_that_does_not_fit_composes_to_nothing():
    accelerator = asic.build("gemmini", {"size": 4, "accumulator_depth": 1, "scratchpad_depth": 1})
    assert composed(Layer("big", K=8, C=8, P=4, Q=4, R=3, S=3), accelerator).mappings == ()


def test_hundreds_of_millions_of_mappings_take_little_memory():
    """294 million mappings; the joint table of their tilings alone would take 2.5 GB."""
    import tracemalloc

    layer = Layer("3x3 64-64 @56", K=64, C=64, P=56, Q=56, R=3, S=3)
    assert mapspace_size(layer, deep()) == 293_760_000
    best(layer, deep())
    tracemalloc.start()
    best(layer, deep())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20
