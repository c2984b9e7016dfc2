"""Explicit mappings of the Gemmini-like template against the literal reference."""

import random
from collections import Counter

import numpy as np
import pytest

from cosearch.errors import HardwareError
from cosearch.hardware import LevelLoops, Mapping, evaluate
from cosearch.hardware.accelerator import hierarchy
from cosearch.hardware.mapping import loop_bounds
from cosearch.workload import Layer
from search_spaces.accelerators import asic
from tests.references import gemmini

LAYERS = (
    Layer("3x3", K=4, C=4, P=2, Q=4, R=3, S=3),
    Layer("strided", K=4, C=4, P=2, Q=2, R=3, S=3, stride=2),
    Layer("1x1", K=8, C=8, P=4, Q=4),
    Layer("5x5", K=2, C=2, P=4, Q=2, R=5, S=5),
    Layer("depthwise", K=8, C=8, P=2, Q=4, R=3, S=3, groups=8),
    Layer("fc", K=32, C=32),
    Layer("rows", N=8, K=8, C=8),
)
TEMPLATES = ({"size": 4, "accumulator_depth": 64, "scratchpad_depth": 512}, {"size": 2})
MAPPINGS = 5


def random_mapping(layer: Layer, size: int, rng: random.Random) -> Mapping:
    """Rows and columns filled with divisors of C and K; what is left dealt to random levels in random order."""
    bounds = loop_bounds(layer)
    down = rng.choice([d for d in (1, 2, 4) if d <= size and bounds["C"] % d == 0])
    across = rng.choice([d for d in (1, 2, 4) if d <= size and bounds["K"] % d == 0])
    left = {**bounds, "C": bounds["C"] // down, "K": bounds["K"] // across}
    time: list[dict[str, int]] = [{}, {}, {}, {}]
    for dim, bound in left.items():
        for prime in (2, 2, 2, 2, 2, 2, 3, 5):
            if bound % prime == 0:
                bound //= prime
                # what a register holds are the loops below it: it has room for one weight
                level = rng.randrange(1 if dim in "GKCRS" else 0, 4)
                time[level][dim] = time[level].get(dim, 1) * prime
    levels = []
    spatial = ((), (("C", down),), (("K", across),), ())
    for name, loops, space in zip(("register", "accumulator", "scratchpad", "dram"), time, spatial, strict=True):
        order = list(loops.items())
        rng.shuffle(order)
        levels.append(LevelLoops(name, tuple(order), space))
    return Mapping(tuple(levels))


def compared() -> list[tuple[str, float, float]]:
    """(roof, cycles over the reference's, energy over the reference's) of every mapping that fits."""
    found = []
    for parameters in TEMPLATES:
        accelerator = asic.build("gemmini", parameters)
        levels = hierarchy(accelerator, accelerator.engines[0])
        depths = parameters.get("accumulator_depth", 1024), parameters.get("scratchpad_depth", 16384)
        for layer in LAYERS:
            rng = random.Random(f"{layer.name} {parameters}")
            for _ in range(MAPPINGS):
                mapping = random_mapping(layer, parameters["size"], rng)
                try:
                    cost = evaluate(layer, accelerator, mapping)
                except HardwareError:
                    continue  # does not fit
                truth = gemmini.price(layer, levels, mapping, parameters["size"], *depths)
                memories = sum(cost.energy_pj[name] for name in truth.memories_pj)
                cycles = max(truth.cycles, -(-layer.output_count // accelerator.lanes))
                found.append((truth.roof, cost.cycles / cycles, memories / sum(truth.memories_pj.values())))
    return found


def test_explicit_mappings_equal_the_literal_reference() -> None:
    """Stated error: at most 0.05% in cycles and 1% in energy on average; these mappings divide evenly: none."""
    found = compared()
    assert len(found) > 50
    roofs = Counter(roof for roof, _, _ in found)
    assert set(roofs) >= {"compute", "scratchpad", "dram"}
    np.testing.assert_allclose([cycles for _, cycles, _ in found], 1, rtol=1e-9)
    # the template's table of energies is rounded to seven digits
    np.testing.assert_allclose([energy for _, _, energy in found], 1, rtol=1e-5)


def test_a_nest_worked_by_hand() -> None:
    """3x3, 4 of 8 input channels and 4 of 8 kernels at a time, 4x4 outputs: 16 pixels x 9 x 2 x 2 passes."""
    layer = Layer("3x3", K=8, C=8, P=4, Q=4, R=3, S=3)
    accelerator = asic.build("gemmini", {"size": 4})
    mapping = Mapping(
        (
            LevelLoops("register", (("Q", 4), ("P", 4))),
            LevelLoops("accumulator", (("S", 3), ("R", 3), ("C", 2)), (("C", 4),)),
            LevelLoops("scratchpad", (("K", 2),), (("K", 4),)),
            LevelLoops("dram"),
        )
    )
    levels = hierarchy(accelerator, accelerator.engines[0])
    truth = gemmini.price(layer, levels, mapping, 4, 1024, 16384)
    assert evaluate(layer, accelerator, mapping).cycles == pytest.approx(truth.cycles)
    assert truth.roof == "compute"
    assert truth.cycles == 16 * 9 * 2 * 2
