import dataclasses
import json
import math
import random

import pytest
import torch

from cosearch.errors import HardwareError
from cosearch.hardware import (
    Accelerator,
    Axis,
    Engine,
    LevelLoops,
    Mapping,
    Mapspace,
    MemoryLevel,
    UnitEnergies,
    best,
    evaluate,
)
from cosearch.hardware.accelerator import fan_out
from cosearch.hardware.cost import Nests, evaluate_batch, nests
from cosearch.hardware.mapping import DIMS, loop_bounds
from cosearch.workload import Layer
from search_spaces.accelerators import fpga
from tests.references import loopnest

DRAM = MemoryLevel("dram", read_bits_per_cycle=64, write_bits_per_cycle=64, read_energy_pj=10, write_energy_pj=12)
HIERARCHIES = {
    "one buffer": (MemoryLevel("buffer", read_energy_pj=1, write_energy_pj=1), DRAM),
    "weight registers, accumulators, split buffers": (
        MemoryLevel("register", ("W",), instances=64),
        MemoryLevel("accumulator", ("O",), instances=64),
        MemoryLevel("scratchpad", ("W", "I"), instances=4),
        DRAM,
    ),
    "output registers": (MemoryLevel("register", ("O",), instances=64), MemoryLevel("buffer", instances=4), DRAM),
    "row stationary": (
        MemoryLevel("spad", instances=64),
        MemoryLevel("array", ("O",), instances=8),
        MemoryLevel("global", ("I", "O"), instances=4),
        DRAM,
    ),
    "drained every pass": (
        MemoryLevel("register", ("W", "O"), instances=64, keeps=False),
        MemoryLevel("buffer", instances=4),
        DRAM,
    ),
    "windows that only slide": (
        MemoryLevel("window", ("I",), instances=64, keeps=False),
        MemoryLevel("register", ("W",), instances=64, keeps=False),
        MemoryLevel("buffer", ("W", "I"), instances=4, keeps=False),
        DRAM,
    ),
    "returning sums": (
        MemoryLevel("register", ("W", "O"), instances=64, returns=True),
        MemoryLevel("array", ("O",), instances=8),
        MemoryLevel("buffer", instances=4, returns=True),
        DRAM,
    ),
    "whole tiles in whole rows": (
        MemoryLevel("operands", ("W", "I"), instances=64, slides=False),
        MemoryLevel("sums", ("O",), math.inf, 24, 24, 1, 2, 24, instances=64, aligned=True),
        MemoryLevel("buffer", ("I", "O"), math.inf, 96, 64, 3, 5, 48, 4, aligned=True, slides=False, shared_port=True),
        dataclasses.replace(DRAM, word_bits=128, aligned=True),
    ),
}
LAYERS = {
    "conv": Layer("conv", K=4, C=4, P=4, Q=4, R=3, S=3),
    "strided": Layer("strided", K=2, C=2, P=4, Q=4, R=3, S=3, stride=2),
    "gap": Layer("gap", K=2, C=4, P=4, Q=4, stride=(2, 3)),
    "dilated": Layer("dilated", K=2, C=2, P=4, Q=2, R=3, S=2, dilation=2),
    "depthwise": Layer("depthwise", K=4, C=4, P=4, Q=4, R=3, S=3, groups=4),
    "grouped": Layer("grouped", K=4, C=8, P=2, Q=4, R=2, S=2, groups=2),
    "rows": Layer("rows", N=6, K=8, C=8),
    "batch": Layer("batch", N=2, K=2, C=4, P=4, Q=2, R=2),
}


def random_mapping(layer, levels, rng):
    """Every dimension's prime factors dealt to random levels, in time or in space; random loop orders."""
    temporal = [dict.fromkeys(DIMS, 1) for _ in levels]
    spatial = [dict.fromkeys(DIMS, 1) for _ in levels]
    for dim, bound in loop_bounds(layer).items():
        for prime in (2, 2, 2, 3, 5, 7):
            if bound % prime == 0:
                bound //= prime
                i = rng.randrange(len(levels))
                fan = math.prod(b for x in spatial[i:] for b in x.values())
                # a copy that sums along C, R or S above the top of its tensor has no place in hardware
                below = math.prod(spatial[i].values())
                room = i > 0 and fan * prime <= levels[i - 1].instances and below * prime <= fan_out(levels, i)
                if rng.random() < 0.4 and room:
                    spatial[i][dim] *= prime
                else:
                    temporal[i][dim] *= prime
        temporal[-1][dim] *= bound
    out = []
    for level, time, space in zip(levels, temporal, spatial, strict=True):
        order = [(d, b) for d, b in time.items() if b > 1]
        rng.shuffle(order)
        out.append(LevelLoops(level.name, tuple(order), tuple((d, b) for d, b in space.items() if b > 1)))
    return Mapping(tuple(out))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", HIERARCHIES)
def test_counts_equal_a_literal_loop_nest(name, shape):
    layer, levels = LAYERS[name], HIERARCHIES[shape]
    rng = random.Random(f"{name} {shape}")
    for _ in range(4):
        mapping = random_mapping(layer, levels, rng)
        [(_, batch)] = nests([mapping])
        cost = evaluate_batch(layer, levels, batch)
        reads, writes = loopnest.count(layer, levels, mapping)
        for i, level in enumerate(levels):
            for x, tensor in enumerate("WIO"):
                if tensor in level.holds:
                    key = level.name, tensor
                    assert (float(cost.reads[0, i, x]), float(cost.writes[0, i, x])) == pytest.approx(
                        (reads[key], writes[key])
                    ), (key, mapping.text())


def divided(mapping, rng):
    """The same nest with every time loop cut into its prime factors, which are shuffled within their level."""
    out = []
    for level in mapping.levels:
        primes = [
            (dim, p)
            for dim, bound in level.temporal
            for p in (2, 3, 5, 7)
            for _ in range(20)
            if bound % p ** (_ + 1) == 0
        ]
        rng.shuffle(primes)
        out.append(dataclasses.replace(level, temporal=tuple(primes)))
    return Mapping(tuple(out))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", HIERARCHIES)
def test_a_dimension_may_come_back_within_a_level(name, shape):
    """As the literal nest counts it; some of the nests differ from those with one loop per dimension."""
    layer, levels = LAYERS[name], HIERARCHIES[shape]
    rng = random.Random(f"{shape} {name}")
    some = (divided(random_mapping(layer, levels, rng), rng) for _ in range(100))
    chosen = [mapping for mapping in some if any(len(level.runs) > 1 for level in mapping.levels)][:3]
    assert chosen
    for mapping in chosen:
        assert all(mapping.extent(dim) == bound for dim, bound in loop_bounds(layer).items())
        cost = evaluate(layer, accelerator(levels, 10**6, 10**6), mapping)
        reads, writes = loopnest.count(layer, levels, mapping)
        for key, words in cost.accesses.items():
            assert words == pytest.approx((reads[key], writes[key])), (key, mapping.text())


@pytest.mark.parametrize("loop", [("K",), ("K", 2, 3), 4, "K"])
def test_a_loop_that_is_no_pair_is_named(loop):
    with pytest.raises(HardwareError, match=r"level 'dram': loop .*, expected \(dimension, bound\)"):
        LevelLoops("dram", (loop,))


def test_a_layer_of_the_vector_unit_has_no_mapping():
    pool = Layer("p", "pool", K=8, C=8, R=2, S=2, groups=8)
    with pytest.raises(
        HardwareError, match="no engine for kind 'pool', only for mac; its vector unit, which has no map"
    ):
        best(pool, fpga.space("ecp5-25f").accelerator(0, {"mac": 0}))


def test_loops_of_one_dimension_side_by_side_are_one():
    level = LevelLoops(
        "buffer", (("K", 2), ("K", 3), ("C", 1), ("K", 2), ("P", 2), ("K", 5)), (("C", 2), ("K", 3), ("C", 4))
    )
    assert level.temporal == (("K", 12), ("C", 1), ("P", 2), ("K", 5))
    assert level.spatial == (("C", 8), ("K", 3))
    assert level.runs == ((("K", 12), ("C", 1), ("P", 2)), (("K", 5),))
    assert Mapping((level,)).extent("K") == 12 * 5 * 3
    assert Mapping.from_json(Mapping((level,)).to_json()) == Mapping((level,))


def test_a_hand_worked_nest_with_two_loops_over_one_dimension():
    """4 vectors times a matrix of 2 x 4 weights, of which the buffer holds the 4 of one row.

    DRAM loops N2 C2 N2, innermost first: both rows are fetched for either half of the vectors, 2 x 8 words; with all of
    N inside of C each row is fetched once. Either way each of 16 sums reaches DRAM once per row, and is read for the
    second one.
    """
    levels = (MemoryLevel("buffer", ("W",)), DRAM)
    layer = Layer("product", N=4, K=4, C=2)
    for dram, weights, sums in (
        ((("N", 2), ("C", 2), ("N", 2)), 16, (16, 32)),
        ((("N", 2), ("N", 2), ("C", 2)), 8, (16, 32)),
    ):
        mapping = Mapping((LevelLoops("buffer", (("K", 4),)), LevelLoops("dram", dram)))
        cost = evaluate(layer, accelerator(levels), mapping)
        assert cost.accesses["dram", "W"] == (weights, 0)
        assert cost.accesses["dram", "O"] == sums
        assert cost.cycles == 32


@pytest.mark.parametrize("bound", [12, 11, 9])
def test_uneven_loops_that_come_back(bound):
    """Inner loops are full and the outermost one is cut; an outermost one with an idle iteration is refused."""
    levels = (MemoryLevel("buffer", ("W", "I")), DRAM)
    nest = (LevelLoops("buffer", (("K", 2), ("P", 3), ("K", 2))), LevelLoops("dram", (("K", 3),)))
    cost = evaluate(Layer("x", K=bound, P=3), accelerator(levels), Mapping(nest))
    assert cost.accesses["dram", "W"] == (bound, 0)
    assert cost.cycles == 36
    with pytest.raises(HardwareError, match="the loops over K multiply to 12, the layer has 8"):
        evaluate(Layer("x", K=8, P=3), accelerator(levels), Mapping(nest))
    inner = (LevelLoops("buffer", (("K", 2), ("P", 3), ("K", 6))), LevelLoops("dram"))
    evaluate(Layer("x", K=11, P=3), accelerator(levels), Mapping(inner))
    with pytest.raises(HardwareError, match="the loops over K multiply to 12, the layer has 10"):
        evaluate(Layer("x", K=10, P=3), accelerator(levels), Mapping(inner))


def accelerator(levels, rows=4, cols=4, **options):
    engine = Engine("mac", ("mac",), rows, cols, levels=levels[:-1])
    return Accelerator("toy", (engine,), levels[-1:], 100.0, lanes=10**6, **options)


def test_a_hand_worked_weight_stationary_convolution():
    """3x3 convolution, 2 -> 4 channels, 4x4 outputs; 2x4 array: C over rows (summed), K over columns.

    Weights 72, each loaded once. Every step reads two inputs (C) for all four columns: 9 x 16 x 2 = 288. Updates of
    the accumulators: 4 x 16 outputs x 9 kernel positions = 576, written and read. DRAM: 72 weights, 2 x 6 x 6 inputs,
    64 outputs. Compute: 9 x 16 = 144 cycles; DRAM: (72 + 72) x 8 bits read, 64 x 8 written, over 4 bits = 288.
    """
    levels = (
        MemoryLevel("register", ("W",), instances=8),
        MemoryLevel("accumulator", ("O",), instances=4, read_energy_pj=1, write_energy_pj=1, word_bits=32),
        MemoryLevel("buffer", ("W", "I"), 1024, 256, 256, 2, 2, word_bits=8),
        MemoryLevel("dram", read_bits_per_cycle=4, write_bits_per_cycle=4, read_energy_pj=100, write_energy_pj=100),
    )
    layer = Layer("conv", K=4, C=2, P=4, Q=4, R=3, S=3)
    mapping = Mapping(
        (
            LevelLoops("register", (("Q", 4), ("P", 4))),
            LevelLoops("accumulator", (("S", 3), ("R", 3)), (("C", 2),)),
            LevelLoops("buffer", (), (("K", 4),)),
            LevelLoops("dram"),
        )
    )
    cost = evaluate(layer, accelerator(levels, 2, 4, energies=UnitEnergies(0.5, 0.1, 0.1)), mapping)
    assert cost.accesses == {
        ("register", "W"): (72 * 16, 72),
        ("accumulator", "O"): (576, 576),
        ("buffer", "W"): (72, 72),
        ("buffer", "I"): (288, 72),
        ("dram", "W"): (72, 0),
        ("dram", "I"): (72, 0),
        ("dram", "O"): (0, 64),
    }
    assert cost.cycles == 288
    assert cost.bound == "dram"
    assert cost.latency_ms == pytest.approx(288 / 100e3)
    assert cost.utilisation == pytest.approx(layer.macs / (288 * 8))
    assert cost.energy_pj["operations"] == pytest.approx(0.5 * layer.macs)
    assert cost.energy_pj["accumulator"] == 2 * 576
    assert cost.energy_pj["buffer"] == 2 * (72 + 288 + 72 + 72)
    assert cost.energy_pj["dram"] == 100 * (72 + 72 + 64)


def test_split_channels_send_partial_sums_through_dram():
    """C outermost in two parts, nothing holds O: 2 x 16 updates reach DRAM, the second 16 read first."""
    levels = (MemoryLevel("buffer", ("W", "I")), DRAM)
    layer = Layer("pointwise", K=4, C=2, P=2, Q=2)
    mapping = Mapping((LevelLoops("buffer", (("P", 2), ("Q", 2), ("K", 4))), LevelLoops("dram", (("C", 2),))))
    cost = evaluate(layer, accelerator(levels), mapping)
    assert cost.accesses["dram", "O"] == (16, 32)


def test_strided_tiles_share_no_halo_where_the_stride_skips():
    """1x1, stride 2: the four outputs of a row read four pixels, whatever the tiling."""
    levels = (MemoryLevel("buffer", ("W", "I")), DRAM)
    layer = Layer("down", P=4, Q=4, stride=2)
    mapping = Mapping((LevelLoops("buffer", (("Q", 4),)), LevelLoops("dram", (("P", 4),))))
    assert evaluate(layer, accelerator(levels), mapping).accesses["dram", "I"] == (16, 0)


def test_rows_that_stride_and_dilation_leave_out_are_not_fetched():
    """Rows at 2 p + 3 r for p < 4 and r < 3: 0 2 3 4 5 6 7 8 9 10 12, 11 of 13; 6 is read twice.

    Two output rows at a time: 0 3 6 2 5 8, then 4 7 10 6 9 12: gaps, and each tile whole.
    """
    levels = (MemoryLevel("buffer"), DRAM)
    layer = Layer("coprime", P=4, R=3, stride=(2, 1), dilation=(3, 1))
    for inside, words in ((4, 11), (2, 12)):
        nest = (LevelLoops("buffer", (("R", 3), ("P", inside))), LevelLoops("dram", (("P", 4 // inside),)))
        cost = evaluate(layer, accelerator(levels), Mapping(nest))
        assert cost.accesses["dram", "I"] == (words, 0)
        assert cost.energy_mj >= cost.compulsory_mj * (1 - 1e-12)


def test_a_sliding_window_fetches_its_halo_once():
    """3x3 over 4x4 outputs, one output row at a time: 3 x 6 inputs, then 1 x 6 more for each next row: the whole 6 x 6.

    With K outside, in two halves, the sweep starts again: twice that. Fetched whole, each of the 8 tiles is 3 x 6.
    """
    layer = Layer("conv", K=2, P=4, Q=4, R=3, S=3)
    rows = LevelLoops("buffer", (("S", 3), ("R", 3), ("Q", 4)))
    for slides, words in ((True, 2 * 36), (False, 2 * 4 * 18)):
        levels = (MemoryLevel("buffer", ("W", "I"), slides=slides), DRAM)
        mapping = Mapping((rows, LevelLoops("dram", (("P", 4), ("K", 2)))))
        assert evaluate(layer, accelerator(levels), mapping).accesses["dram", "I"] == (words, 0)


def test_stride_two_shares_one_row_of_three():
    """3x3, stride 2, 4x4 outputs: a row of outputs reads 3 x 9 inputs and shares one of its rows with the next one."""
    levels = (MemoryLevel("buffer", ("W", "I")), DRAM)
    layer = Layer("down", P=4, Q=4, R=3, S=3, stride=2)
    mapping = Mapping((LevelLoops("buffer", (("S", 3), ("R", 3), ("Q", 4))), LevelLoops("dram", (("P", 4),))))
    assert evaluate(layer, accelerator(levels), mapping).accesses["dram", "I"] == (27 + 3 * 18, 0)


def test_depthwise_groups_scatter_everything():
    """4 groups side by side, 3x3 over 2x2: every group has its own weights (9), inputs (4 x 4) and outputs (4).

    Nothing is shared: each of 4 elements takes its own input in each of 36 steps.
    """
    levels = (MemoryLevel("register", ("W",), instances=4), MemoryLevel("buffer"), DRAM)
    layer = Layer("depthwise", K=4, C=4, P=2, Q=2, R=3, S=3, groups=4)
    mapping = Mapping(
        (
            LevelLoops("register", (("Q", 2), ("P", 2))),
            LevelLoops("buffer", (("S", 3), ("R", 3)), (("G", 4),)),
            LevelLoops("dram"),
        )
    )
    cost = evaluate(layer, accelerator(levels), mapping)
    assert cost.cycles == 36
    assert cost.accesses["buffer", "W"] == (36, 36)
    assert cost.accesses["buffer", "I"] == (4 * 36, 4 * 16)
    assert cost.accesses["buffer", "O"] == (4 * 36, 4 * 36)
    assert cost.accesses["dram", "O"] == (0, 16)


def test_uneven_loops_move_exact_words_in_whole_steps():
    """K = 5 on 4 columns: two passes, but five columns' worth of weights; inputs are read again for the second pass."""
    levels = (MemoryLevel("register", ("W",), instances=4), MemoryLevel("buffer"), DRAM)
    layer = Layer("uneven", K=5, C=3)
    mapping = Mapping(
        (LevelLoops("register"), LevelLoops("buffer", (("C", 3), ("K", 2)), (("K", 4),)), LevelLoops("dram"))
    )
    cost = evaluate(layer, accelerator(levels), mapping)
    assert cost.accesses["buffer", "W"] == (15, 15)
    assert cost.accesses["buffer", "I"] == (6, 3)
    assert cost.accesses["dram", "O"] == (0, 5)
    assert cost.energy_pj["operations"] == 0


def test_the_busiest_column_sets_the_time_of_uneven_passes():
    """K = 5 on 4 columns: the first column works in both passes, 3 updates each of 2 cycles (16 bits a cycle)."""
    column = MemoryLevel("accumulator", ("O",), math.inf, 16, 16, instances=4)
    levels = (column, MemoryLevel("buffer", ("W", "I")), MemoryLevel("dram"))
    layer = Layer("uneven", K=5, C=3)
    mapping = Mapping(
        (LevelLoops("accumulator", (("C", 3),)), LevelLoops("buffer", (("K", 2),), (("K", 4),)), LevelLoops("dram"))
    )
    cost = evaluate(layer, accelerator(levels), mapping)
    assert cost.accesses["accumulator", "O"] == (15, 15)
    assert (cost.cycles, cost.bound) == (12, "accumulator")


def test_a_transfer_takes_whole_rows_and_whole_cycles():
    """Tiles of 3 weights over a row of 2 and a port of 16 bits: 2 rows and 2 cycles each, 4 tiles.

    Packed: 12 weights are 6 rows, 6 cycles.
    """
    layer = Layer("rows", K=4, C=3)
    for aligned, rows in ((False, 6), (True, 8)):
        dram = MemoryLevel("dram", read_bits_per_cycle=16, word_bits=16, read_energy_pj=1, aligned=aligned)
        levels = (MemoryLevel("buffer"), dram)
        mapping = Mapping((LevelLoops("buffer", (("C", 3),)), LevelLoops("dram", (("K", 4),))))
        cost = evaluate(layer, accelerator(levels), mapping)
        assert cost.energy_pj["dram"] == rows + 2  # and 3 inputs, once
        assert cost.cycles == max(12, rows + 2)


def test_filling_and_draining_hand_worked():
    """Four tiles of 3 weights, 3 inputs once, one output drained per tile; DRAM 8 bits a cycle, one port each way.

    Weights and inputs take turns out of DRAM: 3 + 3 cycles in; then 9 weights in 9 cycles, while 12 cycles compute;
    the last output leaves in 1.
    """
    layer = Layer("ends", K=4, C=3)
    dram = MemoryLevel("dram", read_bits_per_cycle=8, write_bits_per_cycle=8)
    levels = (MemoryLevel("buffer"), dram)
    mapping = Mapping((LevelLoops("buffer", (("C", 3),)), LevelLoops("dram", (("K", 4),))))
    plain = accelerator(levels)
    engines = (dataclasses.replace(plain.engines[0], fill_and_drain=True),)
    cost = evaluate(layer, dataclasses.replace(plain, engines=engines), mapping)
    assert (cost.ends_cycles, cost.cycles) == (7, 12 + 7)
    assert evaluate(layer, plain, mapping).cycles == 15


def test_loops_of_bound_one_and_their_order_change_nothing():
    layer, levels = LAYERS["conv"], HIERARCHIES["row stationary"]
    mapping = random_mapping(layer, levels, random.Random(3))
    padded = Mapping(
        tuple(
            dataclasses.replace(x, temporal=(*x.temporal, *((d, 1) for d in DIMS if d not in dict(x.temporal))))
            for x in mapping.levels
        )
    )
    assert evaluate(layer, accelerator(levels), padded) == evaluate(layer, accelerator(levels), mapping)


def test_a_batch_equals_its_mappings_one_by_one():
    layer, levels = LAYERS["conv"], HIERARCHIES["row stationary"]
    rng = random.Random(1)
    mappings = [random_mapping(layer, levels, rng) for _ in range(20)]
    for members, batch in nests(mappings):
        together = evaluate_batch(layer, levels, batch)
        for b, at in enumerate(members):
            [(_, alone)] = nests([mappings[at]])
            cost = evaluate_batch(layer, levels, alone)
            assert float(cost.cycles[0]) == float(together.cycles[b])
            assert float(cost.energy_pj[0]) == float(together.energy_pj[b])


def test_gradients_in_tile_sizes_equal_finite_differences():
    """One layer, continuous tile sizes: what a relaxed search over tiles needs."""
    layer = Layer("conv", K=16, C=16, P=16, Q=16, R=3, S=3)
    levels = (
        MemoryLevel("buffer", capacity_bytes=1e6, read_energy_pj=1, write_energy_pj=1, word_bits=8),
        dataclasses.replace(DRAM, word_bits=8),
    )
    order = (("Q", "P", "S", "R", "C", "K"), ("C", "P", "K"))

    def total(tile):
        inner = dict(zip("KCP", tile, strict=True)) | {"Q": tile.new_tensor(16.0)}
        inner |= {dim: tile.new_tensor(3.0) for dim in "RS"}
        outer = {dim: 16.0 / inner[dim] for dim in "KCP"}
        one = tile.new_tensor(1.0)
        temporal = torch.stack([torch.stack([loops.get(d, one) for d in DIMS]) for loops in (inner, outer)])[None]
        cost = evaluate_batch(layer, levels, Nests(order, temporal, torch.ones_like(temporal)), round_rows=False)
        return cost.energy_pj[0] + cost.level_cycles[0, 1]

    tile = torch.tensor([3.0, 5.0, 6.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(total, (tile,), eps=1e-6, atol=1e-4)


@pytest.mark.parametrize(
    ("levels", "mapping", "message"),
    [
        (("buffer", "memory"), {}, "levels"),
        (("buffer", "dram"), {"K": 2}, "loops over K multiply to 2, the layer has 4"),
        (("buffer", "dram"), {"K": 8}, r"'x'.*loops over K multiply to 8, the layer has 4 \(loops: buffer 8\)"),
        (("buffer", "dram"), {"K": 4, "C": 64}, "level 'buffer' needs 336 bytes per instance, has 32"),
    ],
)
def test_a_malformed_mapping_names_the_fault(levels, mapping, message):
    layer = Layer("x", K=4, C=mapping.get("C", 1))
    stack = (MemoryLevel("buffer", capacity_bytes=32), DRAM)
    loops = Mapping((LevelLoops(levels[0], tuple(mapping.items())), LevelLoops(levels[1])))
    with pytest.raises(HardwareError, match=message):
        evaluate(layer, accelerator(stack), loops)


def test_too_much_fanout_and_unknown_loops_are_refused():
    levels = (MemoryLevel("register", ("W",), instances=4), DRAM)
    mapping = Mapping((LevelLoops("register"), LevelLoops("dram", (), (("K", 8),))))
    with pytest.raises(HardwareError, match="8 instances of level 'register', there are 4"):
        evaluate(Layer("x", K=8), accelerator(levels), mapping)
    array = (MemoryLevel("register", ("W",), instances=64), MemoryLevel("column", ("O",), instances=8), DRAM)
    below = Mapping((LevelLoops("register"), LevelLoops("column", (), (("C", 16),)), LevelLoops("dram")))
    with pytest.raises(HardwareError, match="over 16 instances of level 'register' below each 'column', there are 8"):
        evaluate(Layer("x", C=16), accelerator(array), below)
    [(_, batch)] = nests([below])
    assert not evaluate_batch(Layer("x", C=16), array, batch, operation_pj=1.0).fits.any()
    for loop, shown in ((("X", 2), "X=2"), (("K", 2.5), "K=2.5"), (("K", "4 KiB"), "K=4 KiB"), (("K", 0), "K=0")):
        with pytest.raises(HardwareError, match=f"level 'dram': loop {shown}, expected"):
            LevelLoops("dram", (loop,))
    with pytest.raises(HardwareError, match="no engine for kind 'shift'"):
        evaluate(Layer("x", "shift"), accelerator(levels), mapping)


def test_malformed_hierarchies_are_refused():
    for levels, found in (
        ((MemoryLevel("a"), MemoryLevel("b", capacity_bytes=10)), "'b' has 10 bytes"),
        ((), "is mis"),
    ):
        with pytest.raises(HardwareError, match=rf"'toy'.*outermost.*{found}.*infinite capacity \(DRAM\)"):
            Accelerator("toy", (), levels, 100.0)
    with pytest.raises(HardwareError, match=r"'toy'.*'b' must hold W, I and O"):
        accelerator((MemoryLevel("a"), MemoryLevel("b", ("W",))))
    for width in (0, -8, math.nan):
        for key in ("read_bits_per_cycle", "write_bits_per_cycle"):
            with pytest.raises(HardwareError, match=f"'a': {key}={width}, expected a number above 0"):
                MemoryLevel("a", **{key: width})
    with pytest.raises(HardwareError, match="'a': holds"):
        MemoryLevel("a", ("X",))


@pytest.mark.parametrize(
    ("field", "value"),
    [("capacity_bytes", "64 KiB"), ("read_bits_per_cycle", "8 B"), ("read_energy_pj", "1 nJ"), ("instances", None)],
)
def test_numbers_with_units_are_refused(field, value):
    with pytest.raises(HardwareError, match=f"'a': {field}={value!r}, expected a"):
        MemoryLevel("a", **{field: value})


@pytest.mark.parametrize("value", [0, 1.5, math.inf, math.nan, "4", None])
def test_counts_are_whole_numbers(value):
    makers = {
        "'a': instances": lambda: MemoryLevel("a", instances=value),
        "'a': word_bits": lambda: MemoryLevel("a", word_bits=value),
        "'e': rows": lambda: Engine("e", ("mac",), value, 4),
        "'e': cols": lambda: Engine("e", ("mac",), 4, value),
        "'a': size": lambda: Axis("a", value, ("K",)),
        "'toy': lanes": lambda: Accelerator("toy", (), (DRAM,), 100.0, lanes=value),
    }
    for field, make in makers.items():
        with pytest.raises(HardwareError, match=f"{field}={value!r}, expected a whole number, at least 1"):
            make()


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan, "1 W"])
def test_powers_and_energies_are_not_negative(value):
    with pytest.raises(HardwareError, match=f"'toy': static_power_w={value!r}, expected a finite number, 0 or more"):
        Accelerator("toy", (), (DRAM,), 100.0, static_power_w=value)
    with pytest.raises(HardwareError, match=f"multiply_pj={value!r}, expected a finite number, 0 or more"):
        UnitEnergies(value, 0.1, 0.1)


def test_levels_are_told_apart_and_a_mapspace_names_them():
    with pytest.raises(HardwareError, match=r"'toy': engine 'e' has levels \['dram', 'dram'\], two alike"):
        Accelerator("toy", (Engine("e", ("mac",), 4, 4, levels=(DRAM,)),), (DRAM,), 100.0)
    space = Mapspace((Axis("bufer", 4, ("K",)),), ())
    engine = Engine("e", ("mac",), 4, 4, levels=(MemoryLevel("buffer"),), mapspace=space)
    with pytest.raises(HardwareError, match="'toy': the mapspace of engine 'e' names level 'bufer', its levels are"):
        Accelerator("toy", (engine,), (DRAM,), 100.0)


@pytest.mark.parametrize("text", ["{", "[]", "[1]", "3"])
def test_text_that_is_no_accelerator_is_refused(text):
    with pytest.raises(HardwareError, match="expected a JSON object"):
        Accelerator.from_json(text)


def test_a_clock_in_another_unit_is_refused():
    for clock in (1e9, "500 MHz", 0):
        with pytest.raises(HardwareError, match=f"'toy': clock_mhz={clock!r}, expected a number of MHz"):
            Accelerator("toy", (), (DRAM,), clock)


@pytest.mark.parametrize("document", [[], None, "x", {"format": "cosearch.mapping"}])
def test_a_document_that_is_no_mapping_is_refused(document):
    with pytest.raises(HardwareError, match=r"expected a JSON object with format 'cosearch\.mapping' and version 1"):
        Mapping.from_json(document)


def test_a_mapping_survives_json():
    mapping = random_mapping(LAYERS["conv"], HIERARCHIES["row stationary"], random.Random(3))
    assert Mapping.from_json(json.loads(json.dumps(mapping.to_json()))) == mapping
