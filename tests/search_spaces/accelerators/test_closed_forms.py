"""Accelerators whose layers have a closed-form cost: crossbars and processors; and the ASIC grid."""

import dataclasses
import json

import numpy as np
import pytest

from cosearch.errors import ConfigError, HardwareError, UnknownNameError
from cosearch.hardware import Accelerator, best, cost_tensor, grid, layer_report, lower_bound
from cosearch.hardware.closedform import Crossbar, OperatingPoint, unit_costs
from cosearch.hardware.pricing import Residency
from cosearch.workload import Layer, Workload
from search_spaces.accelerators import ACCELERATORS, find, processor
from tests.references.crossbar import through_crossbar

LAYERS = (
    Layer("conv", K=64, C=64, P=8, Q=8, R=3, S=3),
    Layer("depthwise", K=64, C=64, P=8, Q=8, R=3, S=3, groups=64),
    Layer("pool", "pool", K=64, C=64, groups=64, R=8, S=8),
    Layer("sum", "elementwise", K=64, C=128, groups=64, P=8, Q=8),
)
CLOSED = ["pim", "cpu", "gpu"]


def test_array_counts_by_hand():
    """576 rows by 64 x 4 cells x 2 columns on 128 x 128: 5 x 4 arrays; polarised: 5 x 2; 9-row kernels share arrays."""
    assert Crossbar().arrays_needed(LAYERS[0]) == 5 * 4
    assert Crossbar(polarised=True).arrays_needed(LAYERS[0]) == 5 * 2
    assert Crossbar().arrays_needed(LAYERS[1]) == -(-64 // min(128 // 9, 128 // 8))


def test_crossbar_latency_and_energy_by_hand():
    """16 rows, 16 x 4 x 2 columns, 4 outputs, 8 input bits: all 16 rows at once, eight columns an ADC within 100 ns."""
    layer = Layer("x", K=16, C=16, P=2, Q=2)
    crossbar = Crossbar(arrays=2)
    cost = crossbar.cost(layer, weights_stay=True)
    reads, rows, columns = 4 * 8, 16, 16 * 4 * 2
    ns = reads * 100
    assert cost.latency_ms == pytest.approx(ns * 1e-6)
    uw = 128 * 0.391 + 128 * 0.00097 + 16 * 0.1 * (1.67 + 0.0208) * 1.2e3 + 256 * 0.3125 + 4.79
    static_mw = (2 * uw + 128 * 35.6) * 1e-3
    pj = {
        "cells": reads * rows * columns * 0.0018,
        "drivers": reads * rows * 0.351,
        "registers": reads * rows * 0.0133,
        "converters": reads * columns * (0.9 * (1.67 + 0.0208) + 0.000873),
        "buffers": (64 * 8 + 64 * 8) * 0.215,
        "requantise": 64 * 0.25,
        "static": static_mw * ns,
        "writes": 0.0,
        "dram": 0.0,
    }
    assert cost.energy_pj == pytest.approx(pj)


def test_an_array_at_full_rate_takes_the_power_that_isaac_publishes():
    """ISAAC, per 128 x 128 array with one ADC: array 0.3 mW, ADC 2 mW, 128 DACs 0.5 mW, shift-and-add 25 uW."""
    crossbar = Crossbar(columns_per_adc=128, arrays=1, cell_bits=1)  # cells of one bit: all rows at once
    layer = Layer("full", K=128, C=128, P=1, Q=1, weight_bits=1, input_bits=8)
    crossbar = dataclasses.replace(crossbar, polarised=True)
    cost = crossbar.cost(layer, weights_stay=True)
    ns, table = cost.latency_ms * 1e6, unit_costs("crossbar")
    assert ns == pytest.approx(8 * 128 / 1.2)  # the ADC keeps the array waiting for 7 ns of 107
    converting = table["adc_pj_8bit"] + table["shift_add_pj"]
    adc_mw = (cost.energy_pj["converters"] - 8 * 128 * table["sample_pj"]) / ns + 0.1 * converting * 1.2
    assert adc_mw == pytest.approx(2.0 + 0.025, rel=0.01)
    assert cost.energy_pj["cells"] / 800 == pytest.approx(0.3, rel=0.02)
    assert cost.energy_pj["drivers"] / 800 + 128 * table["driver_static_uw"] * 1e-3 == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize(
    ("cell_bits", "adc_bits", "rows"), [(1, 4, 15), (1, 8, 128), (2, 8, 85), (2, 9, 128), (4, 4, 1), (4, 10, 68)]
)
def test_fewer_adc_bits_drive_fewer_rows_at_once(cell_bits, adc_bits, rows):
    """rows x (2^cell_bits - 1) <= 2^adc_bits - 1; 9 bits read 128 rows of two-bit cells at once, as ISAAC says."""
    assert Crossbar(cell_bits=cell_bits, adc_bits=adc_bits).active_rows == rows


def test_fewer_adc_bits_take_more_reads_and_conversions():
    """576 rows: four full arrays and 64 rows. 8 bits: 85 rows at once, 2 reads each and 1; 6 bits: 21, so 7 and 4."""
    costs = {bits: Crossbar(adc_bits=bits).cost(LAYERS[0], weights_stay=True) for bits in (6, 8, 9)}
    reads = 64 * 8
    assert costs[9].latency_ms == pytest.approx(reads * 1 * 100e-6)
    assert costs[8].latency_ms == pytest.approx(reads * 2 * 100e-6)
    assert costs[6].latency_ms == pytest.approx(reads * 7 * 100e-6)
    for bits, conversions in ((9, 4 + 1), (8, 4 * 2 + 1), (6, 4 * 7 + 4)):
        pj = {6: 1.20, 8: 1.67, 9: 1.969}[bits]
        expected = reads * 512 * conversions * (0.9 * (pj + 0.0208) + 0.000873)
        assert costs[bits].energy_pj["converters"] == pytest.approx(expected)
    assert costs[6].energy_pj["drivers"] == costs[9].energy_pj["drivers"]


@pytest.mark.parametrize("technology", ["reram", "sram"])
@pytest.mark.parametrize("polarised", [False, True])
@pytest.mark.parametrize("adc_bits", [4, 6, 8, 10])
@pytest.mark.parametrize("cell_bits", [1, 2, 4])
def test_every_product_is_exact_with_the_rows_that_an_adc_allows(technology, polarised, adc_bits, cell_bits):
    """Bit by bit, cell by cell, read by read, every sum through an ADC of that many levels: the integer product."""
    if technology == "sram" and cell_bits > 1:
        pytest.skip("SRAM cells hold one bit")
    crossbar = Crossbar(cell_bits=cell_bits, adc_bits=adc_bits, technology=technology, polarised=polarised)
    rng = np.random.default_rng(adc_bits * 10 + cell_bits)
    inputs = rng.integers(0, 256, (3, 300))
    inputs[0] = 255  # the largest sums there are
    weights = rng.integers(0 if polarised else -255, 256, (300, 5))
    weights[:, 0] = 255
    product = through_crossbar(inputs, weights, crossbar.rows, cell_bits, adc_bits, crossbar.active_rows)
    np.testing.assert_array_equal(product, inputs @ weights)
    if crossbar.active_rows < crossbar.rows:  # one row more, and the largest sum is cut off
        cut = through_crossbar(inputs, weights, crossbar.rows, cell_bits, adc_bits, crossbar.active_rows + 1)
        assert (cut != inputs @ weights).any()


def test_columns_wait_for_their_converter():
    """SRAM: 10 ns a read; an ADC of 1.2 GS/s converts 8 columns in 6.7 ns and 64 in 53 ns."""
    few, many = (Crossbar(technology="sram", cell_bits=1, columns_per_adc=n) for n in (64, 8))
    slow, fast = few.cost(LAYERS[0], weights_stay=True), many.cost(LAYERS[0], weights_stay=True)
    assert fast.latency_ms == pytest.approx(64 * 8 * 10e-6)
    assert slow.latency_ms == pytest.approx(64 * 8 * 64 / 1.2 * 1e-6)
    assert (fast.bound, slow.bound) == ("cells", "converters")
    assert many.area_um2 > few.area_um2
    assert many.static_w > few.static_w


def test_weights_that_do_not_stay_are_fetched_and_written_for_every_input():
    """576 x 512 cells of two bits, 20 arrays: in one pass of 64 arrays, in five of 4."""
    layer, table = LAYERS[0], unit_costs("crossbar")
    weight_bits = 576 * 64 * 8
    stays = Crossbar(arrays=64).cost(layer, weights_stay=True)
    for arrays, passes in ((64, 1), (4, 5)):
        cost = Crossbar(arrays=arrays).cost(layer)
        writing = max(passes * 128 * table["reram.row_write_ns"], weight_bits / table["dram_gbit_per_s"])
        assert cost.latency_ms == pytest.approx(passes * stays.latency_ms + writing * 1e-6)
        assert cost.energy_pj["writes"] == pytest.approx(576 * 512 * 44)
        assert cost.energy_pj["dram"] == pytest.approx(weight_bits * 12.5)
    assert Crossbar(arrays=4).cost(layer, weights_stay=True).latency_ms == float("inf")
    sram = Crossbar(technology="sram", cell_bits=1, arrays=64).cost(layer)
    assert sram.energy_pj["writes"] < 0.01 * 576 * 512 * 44


def test_a_network_stays_where_its_weights_fit_the_cells():
    """Weights of the conv and the depthwise layer: 299,520 bits; arrays of 128 x 128 two-bit cells in pairs: 16,384."""
    choices = {"rows": (128,), "cols": (128,), "cell_bits": (2,), "adc_bits": (8,), "columns_per_adc": (8,)}
    space = find("pim-reram", choices={**choices, "arrays": (16, 4096), "polarised": (False,)})
    tensor = cost_tensor(LAYERS, space, cache=False)
    assert [point.form.weight_bits for point in space.points] == [16 * 16384, 4096 * 16384]
    for point in space.points:
        stays = point.form.weight_bits >= 299_520
        accelerator = space.accelerator(0, {"crossbar": space.points.index(point)})
        cost = tensor.evaluate_on(accelerator, [1, 1, 1, 1], 1e4)
        assert cost.weights_resident == stays
        assert cost.latency_ms == pytest.approx(sum(point.form.cost(l, stays).latency_ms for l in LAYERS))


def test_the_front_has_designs_of_both_technologies_and_more_than_one_converter():
    tensor = cost_tensor(LAYERS, find("pim"), cache=False)
    both = tensor.hardware_front([2, 1, 1, 3], 1e4, ("latency_ms", "energy_mj", "area_mm2"))
    forms = [both.accelerator(i).engines[0].form for i in range(len(both))]
    assert {form.technology for form in forms} == {"reram", "sram"}
    assert len({form.adc_bits for form in forms}) > 1
    for device in ("pim", "pim-reram", "pim-sram"):
        front = cost_tensor(LAYERS, find(device), cache=False).hardware_front([2, 1, 1, 3], 1e4)
        assert len(front) > 1, device


def test_static_power_is_paid_for_as_long_as_a_layer_takes():
    for layer in LAYERS:
        for crossbar in (Crossbar(), Crossbar(technology="sram", cell_bits=1)):
            cost = crossbar.cost(layer)
            assert cost.energy_pj["static"] == pytest.approx(crossbar.static_w * cost.latency_ms * 1e9)
    cells = 128 * 128 * unit_costs("crossbar")["sram.cell_leakage_nw"] * 1e-9
    leaking, quiet = Crossbar(technology="sram", cell_bits=1, arrays=1), Crossbar(cell_bits=1, arrays=1)
    assert leaking.static_w - quiet.static_w == pytest.approx(cells)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"technology": "rram"}, "did you mean 'reram'"),
        ({"technology": "sram", "cell_bits": 2}, "sram cells of 2 bits, expected 1"),
        ({"cell_bits": 3}, "reram cells of 3 bits, expected 1, 2, 4"),
        ({"adc_bits": 3}, "ADC of 3 bits, expected 4 to 10"),
    ],
)
def test_crossbars_that_do_not_exist_are_refused(wrong, words):
    with pytest.raises(HardwareError, match=words):
        Crossbar(**wrong)


def test_a_roofline_is_bound_by_its_slower_side():
    point = OperatingPoint("cpu", 1000.0, 0.75, 0.95)
    heavy, light = LAYERS[0], Layer("classifier", K=1000, C=1000)
    assert point.cost(heavy).latency_ms == pytest.approx(heavy.macs / (128 * 1e6))
    assert point.cost(light).latency_ms == pytest.approx((1000 * 1000 + 2000) * 8 / 273e6)


def test_a_lower_voltage_is_slower_and_saves_energy_when_compute_bound():
    costs = [point.cost(LAYERS[0]) for point in processor.operating_points("gpu")]
    assert [c.latency_ms for c in costs] == sorted((c.latency_ms for c in costs), reverse=True)
    assert costs[0].energy_mj < costs[-1].energy_mj


@pytest.mark.parametrize("name", CLOSED)
def test_networks_are_priced_by_sums(name):
    choices = {"rows": (128,), "cols": (64, 128), "adc_bits": (8,), "arrays": (4096,)}  # all weights fit
    space = find(name, choices=choices) if name == "pim" else find(name)
    tensor = cost_tensor(LAYERS, space, cache=False)
    front = tensor.hardware_front([2, 1, 1, 3], 1e4)
    latency, energy = grid(tensor, residency=Residency(name == "pim", activations=False)).networks([[2, 1, 1, 3]])
    assert len(front) >= 1
    assert front.latency_ms.min() == pytest.approx(latency.min())
    assert front.energy_mj.min() == pytest.approx(energy.min())
    assert front.accelerator(0).name.startswith(name)


@pytest.mark.parametrize("name", CLOSED)
def test_reports_add_up_and_survive_json(name):
    """layer_report and evaluate_on on an accelerator read back from its JSON agree with the space's own sums."""
    space = find(name)
    tensor = cost_tensor(LAYERS, space, cache=False)
    counts = [2, 1, 1, 3]
    front = tensor.hardware_front(counts, 1e4)
    accelerator = Accelerator.from_json(json.loads(json.dumps(front.accelerator(0).to_json())))
    assert accelerator == front.accelerator(0)
    cost = tensor.evaluate_on(accelerator, counts, 1e4)
    assert cost.latency_ms == pytest.approx(front.latency_ms[0])
    assert cost.energy_mj == pytest.approx(front.energy_mj[0])
    rows = layer_report(Workload("net", LAYERS), accelerator)
    stays = Residency(cost.weights_resident, activations=False)
    assert sum(n * row.latency_ms for n, row in zip(counts, rows, strict=True)) == pytest.approx(cost.latency_ms)
    assert sum(n * row.energy_mj for n, row in zip(counts, rows, strict=True)) == pytest.approx(cost.energy_mj)
    for row in rows:
        assert row.roofline_ms <= row.latency_ms * (1 + 1e-12)
        assert row.compulsory_mj <= row.energy_mj * (1 + 1e-12)
        assert 0 < row.utilisation <= 1 + 1e-12
        assert lower_bound(row.layer, accelerator, stays).latency_ms == row.roofline_ms
    with pytest.raises(HardwareError, match="no mappings"):
        best(LAYERS[0], accelerator)


def test_the_operating_points_are_a_table_of_clock_voltage_and_power():
    """C V^2 f + leakage at the slowest and the nominal point: 416 uW per MHz and V^2 for each of four Cortex-A76, and
    0.4 W, a tenth of the nominal power.
    """
    slow, *_, fast = processor.operating_points("cpu")
    assert (slow.clock_mhz, slow.voltage, fast.clock_mhz, fast.voltage) == (1200, 0.675, 2400, 1.0)
    assert fast.dynamic_w + fast.leakage_w == pytest.approx(4 * 416e-6 * 2400 + 0.4)
    assert slow.dynamic_w + slow.leakage_w == pytest.approx(4 * 416e-6 * 0.675**2 * 1200 + 0.4 * 0.675)


@pytest.mark.parametrize("kind", [{}, {"groups": 64}])
def test_polarised_columns_halve_columns_and_conversions(kind):
    """Without doubled columns: half the columns, half the converters' energy; latency stays."""
    layer = Layer("x", K=64, C=64, P=8, Q=8, R=3, S=3, **kind)
    paired, polarised = Crossbar(), Crossbar(polarised=True)
    assert paired.columns(layer) == 2 * polarised.columns(layer)
    two, one = paired.cost(layer, True), polarised.cost(layer, True)
    assert paired.weight_bits == polarised.weight_bits // 2
    assert two.energy_pj["converters"] == pytest.approx(2 * one.energy_pj["converters"])
    assert two.energy_pj["cells"] == pytest.approx(2 * one.energy_pj["cells"])
    assert two.energy_pj["buffers"] == one.energy_pj["buffers"]


def test_a_crossbar_writes_what_another_layer_computed_for_every_input():
    stored = Layer("x", K=64, C=64, P=8, Q=8)
    computed = dataclasses.replace(stored, computed_weights=True)
    crossbar = Crossbar()
    once, always = crossbar.cost(stored, weights_stay=True), crossbar.cost(computed, weights_stay=True)
    table = unit_costs("crossbar")
    cells = 64 * crossbar.columns(stored)
    assert always.energy_pj["writes"] == cells * table["reram.cell_write_pj"] > once.energy_pj["writes"] == 0
    assert always.energy_pj["dram"] == 0
    assert always.latency_ms - once.latency_ms == pytest.approx(crossbar.rows * table["reram.row_write_ns"] * 1e-6)
    assert always.compulsory_pj == pytest.approx(sum(always.energy_pj.values()))


def test_a_kind_that_a_crossbar_has_not_is_infeasible():
    front = cost_tensor((Layer("a", "add"),), find("pim"), cache=False).hardware_front([1], 0.0)
    assert front.reason == "layer 'a': pim has no engine for 'add' layers, only for elementwise, mac, pool, shift"


def test_unknown_choices_and_processors_suggest_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'rows'"):
        find("pim", choices={"row": (1,)})
    with pytest.raises(UnknownNameError, match="cpu"):
        processor.space("cpus")


@pytest.mark.parametrize("name", ACCELERATORS)
def test_every_device_is_found_counted_and_described(name):
    space = find(name)
    assert len(space) > 0
    assert json.loads(json.dumps(space.describe()))["space"]
