import dataclasses
import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosearch.errors import HardwareError
from cosearch.hardware import Engine, best, lower_bound
from cosearch.hardware.accelerator import hierarchy
from cosearch.hardware.array import Bounds, count, divisors, edge, enumerate_tiles, mapping_of, slid, unrollings
from cosearch.hardware.cost import evaluate_batch, nests
from cosearch.hardware.nest import weighted
from cosearch.hardware.pricing import RESIDENCIES, Residency
from cosearch.hardware.report import layer_report
from cosearch.hardware.tensor import accelerator_tensor
from cosearch.workload import Layer
from search_spaces.accelerators import fpga

LAYERS = {
    "conv": Layer("conv", K=12, C=6, P=8, Q=8, R=3, S=3),
    "strided": Layer("strided", K=8, C=8, P=4, Q=4, R=5, S=5, stride=2),
    "pointwise": Layer("pointwise", K=24, C=16, P=8, Q=8),
    "depthwise": Layer("depthwise", K=24, C=24, P=8, Q=8, R=3, S=3, groups=24),
    "strided depthwise": Layer("strided depthwise", K=12, C=12, P=4, Q=4, R=5, S=5, stride=2, groups=12),
    "grouped": Layer("grouped", K=12, C=18, P=4, Q=4, R=3, S=3, groups=3),
    "classifier": Layer("classifier", K=10, C=48),
    "rows": Layer("rows", N=12, K=8, C=16),
    "batch": Layer("batch", N=3, K=4, C=4, P=4, Q=4, R=3, S=3),
    "dilated": Layer("dilated", K=4, C=4, P=6, Q=6, R=3, S=3, dilation=2),
    "column": Layer("column", K=4, C=4, P=16, Q=1, R=3),
}
ENGINES = {
    "weight-stationary": {"dataflow": ("weight-stationary",), "windowed": (False,)},
    "windowed": {"dataflow": ("weight-stationary",), "windowed": (True,)},
    "output-stationary": {"dataflow": ("output-stationary",), "windowed": (False,)},
    "bitserial": {"dataflow": ("weight-stationary",), "windowed": (False,)},
}


def kind_of(engine):
    return "bitserial" if engine == "bitserial" else "mac"


def on(engine, layer):
    """The layer as the engine's kind; 3-bit weights and 2-bit inputs where they arrive bit by bit."""
    if engine != "bitserial":
        return layer
    return dataclasses.replace(layer, kind="bitserial", weight_bits=3, input_bits=2)


def build(engine, rows=10, cols=4, depth=16, weight_kib=1.0, activation_kib=2.0, **choices):
    space = fpga.space(
        "ecp5-85f",
        choices={
            **ENGINES[engine],
            "rows": (rows,),
            "cols": (cols,),
            "accumulator_depth": (depth,),
            "weight_kib": (weight_kib,),
            "activation_kib": (activation_kib,),
            "port_bits": (64,),
            "clock_mhz": (75.0,),
            "fabric": ("logic",) if engine == "bitserial" else ("hard",),
            **choices,
        },
        kinds=(kind_of(engine),),
    )
    return space.accelerator(0, {kind_of(engine): 0})


def every_mapping(layer, accelerator):
    """The declared mapspace, unfiltered."""
    engine = accelerator.engines[0]
    bounds = Bounds.of(layer)
    tiles = enumerate_tiles(bounds)
    names = [level.name for level in hierarchy(accelerator, engine)]
    stationary = engine.dataflow == "output-stationary"
    unroll = unrollings(
        bounds, stationary, np.array([engine.rows * engine.lanes]), np.array([engine.cols]), np.array([engine.windowed])
    )
    for option in range(len(unroll.valid)):
        if unroll.valid[option, 0]:
            for tile in range(len(tiles)):
                yield mapping_of(layer, tiles, tile, option, engine, names)


def brute_force(layer, accelerator, residency):
    """Latency and energy of every feasible mapping of the declared mapspace, by the general evaluator."""
    engine = accelerator.engines[0]
    mappings = [
        mapping
        for mapping in every_mapping(layer, accelerator)
        if not (residency.activations and any(d == "C" for d, _ in mapping.levels[-1].temporal))
    ]
    points = []
    for members, batch in nests(mappings):
        tiles = [math.prod(b for _, b in mappings[at].levels[-1].temporal) for at in members]
        cost = evaluate_batch(
            layer,
            hierarchy(accelerator, engine),
            batch,
            operation_pj=accelerator.energies.operation_pj(layer),
            resident=residency.tensors,
            overhead_cycles=engine.fill_cycles * torch.tensor(tiles, dtype=torch.float64),
            cycles_per_operation=engine.cycles_per_operation(layer),
        )
        cycles = cost.cycles.clamp(min=-(-layer.output_count // accelerator.lanes))
        ms = cycles / (accelerator.clock_mhz * 1e3)
        pj = cost.energy_pj + layer.output_count * accelerator.energies.requantise_pj
        mj = pj * 1e-9 + accelerator.static_power_w * ms
        points.append(torch.stack([ms, mj], 1)[cost.fits])
    return torch.cat(points).numpy()


EVERY = [(name, engine, residency) for name in LAYERS for engine in ENGINES for residency in RESIDENCIES]
SOME = [case for i, case in enumerate(EVERY) if i % 7 == 0]  # each layer, engine and residency several times


@pytest.mark.parametrize(
    ("name", "engine", "residency"),
    [case if case in SOME else pytest.param(*case, marks=pytest.mark.slow) for case in EVERY],
    ids=str,
)
def test_the_best_mapping_equals_brute_force(name, engine, residency):
    """Every mapping of the declared mapspace through the general evaluator: no better one, for three policies."""
    layer, accelerator = on(engine, LAYERS[name]), build(engine)
    points = brute_force(layer, accelerator, residency)
    for policy in (1.0, 0.5, 0.0):
        _, cost = best(layer, accelerator, partial(weighted, policy), residency)
        score = policy * cost.latency_ms + (1 - policy) * cost.energy_mj
        assert score == pytest.approx((policy * points[:, 0] + (1 - policy) * points[:, 1]).min(), rel=1e-9)


@pytest.mark.parametrize("depth", [24, 40])
@pytest.mark.parametrize("engine", ["weight-stationary", "windowed"])
def test_rows_of_a_tile_that_the_accumulators_do_not_divide(engine, depth):
    """3 or 5 of 8 rows fit, 4 or 6 of 6: no mapping is better, and counted again it costs what the tensor says."""
    accelerator = build(engine, depth=depth, weight_kib=4.0, activation_kib=8.0)
    for layer in (
        Layer("wide", K=12, C=6, P=8, Q=8, R=3, S=3),
        Layer("deep", K=6, C=6, P=6, Q=6, R=3, S=3, groups=6),
        Layer("rows", N=50, K=8, C=16),
    ):
        tensor = accelerator_tensor((layer,), accelerator)
        points = brute_force(layer, accelerator, RESIDENCIES[0])
        for i, policy in enumerate(tensor.policies):
            _, cost = best(layer, accelerator, partial(weighted, policy))
            assert cost.latency_ms == pytest.approx(tensor.latency["mac"][0][0, 0, i, 0], rel=1e-9)
            assert cost.energy_mj == pytest.approx(tensor.energy["mac"][0][0, 0, i, 0], rel=1e-9)
            score = policy * cost.latency_ms + (1 - policy) * cost.energy_mj
            assert score == pytest.approx((policy * points[:, 0] + (1 - policy) * points[:, 1]).min(), rel=1e-9)


def counted(layer, accelerator):
    """Words of I and W that the buffers deliver under every valid mapping, by `array.count` and by the evaluator."""
    engine, bounds = accelerator.engines[0], Bounds.of(layer)
    levels = hierarchy(accelerator, engine)
    names = [level.name for level in levels]
    tiles = enumerate_tiles(bounds)
    one = (engine.rows, engine.cols, engine.accumulator_depth, engine.windowed, engine.lanes)
    counts = count(bounds, tiles, False, *(np.array([x]) for x in one), 1.0, np.array([engine.fill_cycles]))
    valid = np.flatnonzero(np.isfinite(counts.cycles[:, 0]))
    mappings = [mapping_of(layer, tiles, counts.tile[i], counts.option[i], engine, names) for i in valid]
    told = np.stack([counts.input_reads[valid, 0], counts.weight_reads[valid, 0]], 1)
    evaluated = np.empty_like(told)
    for members, batch in nests(mappings):
        reads = evaluate_batch(layer, levels, batch).reads.numpy()
        evaluated[members, 0] = reads[:, names.index("activation_buffer"), 1]
        evaluated[members, 1] = reads[:, names.index("weight_buffer"), 0]
    return told, evaluated


@pytest.mark.parametrize("groups", [1, 6], ids=["dense", "depthwise"])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("P", "Q"), [(1, 1), (1, 2), (2, 1), (4, 1), (4, 4)])
def test_every_mapping_on_a_windowed_array_reads_what_the_evaluator_says(P, Q, kernel, groups):
    """One pixel and few pixels, in one and in several passes over K or G: a window slides, it keeps nothing else."""
    layer = Layer("few pixels", K=12 if groups == 1 else 6, C=6, P=P, Q=Q, R=kernel, S=kernel, groups=groups)
    for rows, cols, depth in ((6, 4, 64), (10, 12, 4)):
        told, evaluated = counted(layer, build("windowed", rows, cols, depth))
        np.testing.assert_array_equal(told, evaluated)


@settings(max_examples=40, deadline=None)
@given(
    st.builds(
        lambda k, c, p, q, r, stride: Layer("random", K=k, C=c, P=p, Q=q, R=r, S=r, stride=stride),
        *(st.integers(1, 24), st.integers(1, 12), st.integers(1, 3), st.integers(1, 3)),
        *(st.sampled_from([1, 3]), st.integers(1, 2)),
    ),
    *(st.integers(1, 16), st.integers(1, 8), st.sampled_from(RESIDENCIES)),
)
def test_a_layer_of_few_pixels_costs_the_same_twice_on_a_windowed_array(layer, rows, cols, residency):
    """What the tensor says of its best mapping, and that mapping counted again, as for an exported design."""
    accelerator = build("windowed", rows, cols, weight_kib=4.0, activation_kib=8.0)
    tensor = accelerator_tensor((layer,), accelerator)
    case = RESIDENCIES.index(residency)
    for i, policy in enumerate(tensor.policies):
        _, cost = best(layer, accelerator, partial(weighted, policy), residency)
        assert cost.latency_ms == pytest.approx(tensor.latency["mac"][case][0, 0, i, 0], rel=1e-9)
        assert cost.energy_mj == pytest.approx(tensor.energy["mac"][case][0, 0, i, 0], rel=1e-9)


def test_every_row_is_counted_once():
    """Against the rows themselves; a tile slides over all of them unless it has gaps."""
    for p, r, stride, dilation in itertools.product(range(1, 9), range(1, 6), range(1, 5), range(1, 5)):

        def rows(first, count, r=r, stride=stride, dilation=dilation):
            return {i * stride + j * dilation for i in range(first, first + count) for j in range(r)}

        assert edge(p, stride, r, dilation) == len(rows(0, p))
        common = math.gcd(stride, dilation)
        for tile in divisors(p):
            gaps = tile < dilation // common or r < stride // common
            read = sum(len(rows(first, tile)) for first in range(0, p, tile)) if gaps else len(rows(0, p))
            assert slid(p, tile, stride, r, dilation) == read


def small_layers():
    return st.builds(
        lambda k, c, p, q, r, stride, depthwise: Layer(
            "random",
            K=c if depthwise else k,
            C=c,
            P=p,
            Q=q,
            R=r,
            S=r,
            stride=stride,
            groups=c if depthwise else 1,
        ),
        *(st.integers(1, 24), st.integers(1, 24), st.integers(1, 10), st.integers(1, 10)),
        *(st.sampled_from([1, 3, 5]), st.integers(1, 2), st.booleans()),
    )


engines = st.sampled_from(sorted(ENGINES))


@settings(max_examples=60, deadline=None)
@given(small_layers(), engines, st.integers(1, 12), st.integers(1, 12), st.sampled_from([0.0, 0.5, 1.0]))
def test_never_below_the_lower_bound(layer, engine, rows, cols, policy):
    layer, accelerator = on(engine, layer), build(engine, rows, cols, weight_kib=8, activation_kib=16)
    _, cost = best(layer, accelerator, partial(weighted, policy))
    bound = lower_bound(layer, accelerator)
    assert cost.latency_ms >= bound.latency_ms * (1 - 1e-9)
    assert cost.energy_mj >= bound.energy_mj * (1 - 1e-9)
    assert cost.utilisation <= 1 + 1e-9


def optimum(layer, accelerator, policy):
    _, cost = best(layer, accelerator, partial(weighted, policy))
    return cost.latency_ms if policy == 1.0 else cost.energy_mj


@settings(max_examples=40, deadline=None)
@given(small_layers(), engines, st.sampled_from([0.0, 1.0]))
def test_more_of_anything_never_costs_more(layer, engine, policy):
    layer, accelerator = on(engine, layer), build(engine, weight_kib=8, activation_kib=16)
    cost = optimum(layer, accelerator, policy) * (1 + 1e-9)
    bigger = tuple(dataclasses.replace(level, capacity_bytes=2 * level.capacity_bytes) for level in accelerator.levels)
    wider = tuple(
        dataclasses.replace(
            level,
            read_bits_per_cycle=2 * level.read_bits_per_cycle,
            write_bits_per_cycle=2 * level.write_bits_per_cycle,
        )
        for level in accelerator.levels
    )
    cheaper = tuple(
        dataclasses.replace(level, read_energy_pj=level.read_energy_pj / 2, write_energy_pj=level.write_energy_pj / 2)
        for level in accelerator.levels
    )
    for levels in (bigger, wider, cheaper):
        assert optimum(layer, dataclasses.replace(accelerator, levels=levels), policy) <= cost


def test_depthwise_uses_the_diagonal_of_a_plain_array_and_the_columns_of_a_windowed_one():
    """24 channels, 3x3, 8x8 maps. Plain 10x8: 8 channels at once, 9 x 64 steps, 3 passes. Windowed: kernel unrolled."""
    layer = LAYERS["depthwise"]
    plain = build("weight-stationary", 10, 8, 64, 64, 64, port_bits=(1024,))
    _, cost = best(layer, plain, "latency", Residency(True, True))
    # a part of the kernel in the rows does better: three rows of it for three channels, in 8 passes of 3 x 64 steps
    assert cost.cycles == 8 * 3 * 64 + 16
    windowed = build("windowed", 10, 8, 64, 64, 64, port_bits=(1024,))
    _, cost = best(layer, windowed, "latency", Residency(True, True))
    assert cost.cycles == 3 * 64 + 16
    assert cost.accesses["activation_buffer", "I"][0] == 24 * 8 * 3 * 10


def test_doubling_both_widths_quadruples_bit_serial_time():
    """10 x 32 lanes x 4 columns: 24 outputs in 6 passes, 16 channels at once, 64 pixels, b_w b_i cycles each."""
    accelerator = build("bitserial", 10, 4, 64, 64, 64, port_bits=(1024,))
    cycles = []
    for bits in (2, 4):
        layer = dataclasses.replace(LAYERS["pointwise"], kind="bitserial", weight_bits=bits, input_bits=bits)
        cycles.append(best(layer, accelerator, "latency", Residency(True, True))[1].cycles - 12)
    assert cycles == [6 * 64 * 4, 6 * 64 * 16]


def test_a_layer_that_does_not_fit_names_itself():
    with pytest.raises(HardwareError, match=r"'wide'.*no mapping fits"):
        best(Layer("wide", R=5, S=5), build("weight-stationary", weight_kib=0.01))


def test_the_report_adds_up_and_prices_every_layer(network):
    space = fpga.space("ecp5-85f")
    kinds = {kind: 0 for kind in space.kinds}
    accelerator = space.accelerator(0, kinds)
    rows = layer_report(network, accelerator)
    assert [row.layer.name for row in rows] == [layer.name for layer in network]
    for row in rows:
        assert sum(row.energy_pj.values()) * 1e-9 == pytest.approx(row.energy_mj)
        assert row.roofline_ms <= row.latency_ms * (1 + 1e-9)
        assert row.compulsory_mj <= row.energy_mj * (1 + 1e-9)
        assert 0 < row.utilisation <= 1 + 1e-9


def test_buffers_that_are_not_the_template_s_are_refused():
    accelerator = build("weight-stationary")
    weights, *others = accelerator.levels
    wider = dataclasses.replace(accelerator, levels=(dataclasses.replace(weights, read_bits_per_cycle=128), *others))
    with pytest.raises(HardwareError, match="'weight_buffer' has read_bits_per_cycle=128, 'activation_buffer' 64"):
        best(LAYERS["conv"], wider)
    other = dataclasses.replace(accelerator, levels=accelerator.levels[1:])
    with pytest.raises(HardwareError, match=r"declare no mapspace, and its levels activation_buffer, dram are not"):
        best(LAYERS["conv"], other)


def test_engines_check_themselves():
    with pytest.raises(HardwareError, match="rows=0, expected a whole number, at least 1"):
        Engine("e", ("mac",), 0, 4)
    with pytest.raises(HardwareError, match="dataflow"):
        Engine("e", ("mac",), 1, 4, dataflow="stationary")
