"""Many accelerators at once against one at a time, and against every mapping of the mapspace."""

import dataclasses
import math

import numpy as np
import pytest

from cosearch.hardware import Accelerator, best
from cosearch.hardware.accelerator import hierarchy
from cosearch.hardware.nest import enumerate_nests, price_nests, weighted
from cosearch.hardware.nestfront import allowed, beside, nest_costs, resident_bits
from cosearch.hardware.pricing import RESIDENCIES, Residency
from cosearch.workload import Layer
from search_spaces.accelerators import asic

LAYERS = (
    Layer("conv", K=12, C=6, P=8, Q=8, R=3, S=3),
    Layer("strided", K=8, C=8, P=4, Q=4, R=5, S=5, stride=2, weight_bits=4),
    Layer("depthwise", K=24, C=24, P=8, Q=8, R=3, S=3, groups=24),
    Layer("classifier", K=10, C=48),
    Layer("pool", "pool", K=8, C=8, R=4, S=4, groups=8),
)
CHOICES = {
    "gemmini": {"size": (4, 8), "accumulator_depth": (16, 256), "scratchpad_depth": (32, 512)},
    "tpu-ws": {"rows": (4, 8), "cols": (8,), "buffer_kib": (0.5, 1, 4), "accumulator_depth": (16, 256)},
    "tpu-os": {"rows": (4,), "cols": (4, 8), "buffer_kib": (0.25, 0.5, 2)},
    "nvdla": {"channels": (6,), "kernels": (4, 8), "buffer_kib": (0.5, 2), "accumulator_depth": (16, 64)},
    "eyeriss": {"rows": (3,), "cols": (4, 8), "buffer_kib": (0.5, 1, 4), "weight_words": (48,)},
}
POLICIES = (1.0, 0.5, 0.0)


def varied(template: str) -> list[Accelerator]:
    """A small space, some of it with dearer writes, more lanes or static power."""
    found = []
    for i, a in enumerate(asic.space(template, choices=CHOICES[template]).accelerators):
        levels = tuple(dataclasses.replace(x, write_energy_pj=x.read_energy_pj * (1 + i % 2)) for x in a.levels)
        found.append(dataclasses.replace(a, levels=levels, lanes=4 + i % 3, static_power_w=0.01 * (i % 4)))
    return found


def exact(layer: Layer, accelerator: Accelerator, residency: Residency) -> list[float]:
    """Least score over every mapping of the mapspace, per policy."""
    engine = accelerator.engines[0]
    levels = beside(hierarchy(accelerator, engine), residency)
    nests = allowed(enumerate_nests(layer, engine, [level.name for level in levels]), residency)
    result = price_nests(layer, accelerator, engine, levels, nests, residency.tensors)
    return [float(weighted(w, result.latency_ms, result.energy_mj).min()) for w in POLICIES]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("template", CHOICES)
def test_many_at_once_lose_no_optimum(template, layer):
    accelerators = varied(template)
    for residency in RESIDENCIES:
        latency, energy = nest_costs(layer, accelerators, POLICIES, residency)
        weights, activations = resident_bits(accelerators[0])
        if (residency.weights and weights < 0) or (residency.activations and activations < 0):
            assert np.isinf(latency).all()
            continue
        for at, accelerator in enumerate(accelerators):
            scores = exact(layer, accelerator, residency)
            for p, (policy, expected) in enumerate(zip(POLICIES, scores, strict=True)):
                if math.isinf(expected):
                    assert math.isinf(latency[p, at])
                    continue
                assert policy * latency[p, at] + (1 - policy) * energy[p, at] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("template", CHOICES)
def test_it_agrees_with_the_search_on_one_accelerator(template):
    accelerators = varied(template)[:3]
    latency, energy = nest_costs(LAYERS[0], accelerators, (1.0, 0.0))
    for at, accelerator in enumerate(accelerators):
        assert latency[0, at] == pytest.approx(best(LAYERS[0], accelerator, "latency")[1].latency_ms, rel=1e-12)
        assert energy[1, at] == pytest.approx(best(LAYERS[0], accelerator, "energy")[1].energy_mj, rel=1e-12)


def test_one_accelerator_without_a_mapping_does_not_disturb_the_others():
    big = Layer("big", K=8, C=8, P=4, Q=4, R=3, S=3)
    small = asic.build("gemmini", {"size": 4, "accumulator_depth": 1, "scratchpad_depth": 1})
    large = asic.build("gemmini", {"size": 4})
    latency, energy = nest_costs(big, [small, large], (1.0, 0.0))
    assert np.isinf(latency[:, 0]).all()
    assert np.isinf(energy[:, 0]).all()
    np.testing.assert_array_equal(latency[:, 1], nest_costs(big, [large], (1.0, 0.0))[0][:, 0])


def test_what_may_stay_on_chip():
    """A buffer for weights and inputs gives half of itself to weights, one for all tensors half to each."""
    kib = 8192
    assert resident_bits(asic.build("gemmini", {"size": 16, "scratchpad_depth": 1024})) == (8 * kib, -1)
    assert resident_bits(asic.build("tpu-os", {"buffer_kib": 64})) == (32 * kib, 32 * kib)
    assert resident_bits(asic.build("eyeriss", {"buffer_kib": 108})) == (-1, 108 * kib)
