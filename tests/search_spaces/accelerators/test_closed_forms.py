"""Accelerators whose layers have a closed-form cost: crossbars and processors; and the ASIC grid."""

import dataclasses
import json

import pytest

from cosearch.errors import ConfigError, HardwareError, UnknownNameError
from cosearch.hardware import Accelerator, best, cost_tensor, layer_report, lower_bound
from cosearch.hardware.closedform import Crossbar, OperatingPoint, unit_costs
from cosearch.workload import Layer, Workload
from search_spaces.accelerators import ACCELERATORS, find, processor

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
    layer = Layer("x", K=16, C=16, P=2, Q=2)
    crossbar = Crossbar()
    cost = crossbar.cost(layer)
    ms, mj = cost.latency_ms, cost.energy_mj
    reads, rows, columns = 4 * 8, 16, 16 * 4 * 2
    assert ms == pytest.approx(reads * 8 * 100e-6)
    pj = reads * (rows * columns * 0.0018 + rows * 0.39 + columns * (1.56 + 0.05)) + (64 * 8 + 64 * 8) * 0.068
    assert mj == pytest.approx(pj * 1e-9)


def test_too_few_arrays_pay_for_writing():
    enough, few = Crossbar(arrays=64), Crossbar(arrays=4)
    assert few.cost(LAYERS[0]).latency_ms > 5 * enough.cost(LAYERS[0]).latency_ms * 0.99
    assert few.cost(LAYERS[0]).energy_mj > enough.cost(LAYERS[0]).energy_mj + 576 * 512 * 3910e-9 * 0.99


def test_every_adc_bit_doubles_the_converters_energy_only():
    base, more = (Crossbar(adc_bits=bits).cost(LAYERS[0]).energy_mj for bits in (8, 9))
    conversions = 64 * 8 * 5 * 512
    assert more - base == pytest.approx(conversions * 1.56e-9)


def test_a_roofline_is_bound_by_its_slower_side():
    point = OperatingPoint("cpu", 1000.0, 0.75, 0.95)
    heavy, light = LAYERS[0], Layer("classifier", K=1000, C=1000)
    assert point.cost(heavy).latency_ms == pytest.approx(heavy.macs / (128 * 1e6))
    assert point.cost(light).latency_ms == pytest.approx((1000 * 1000 + 2000) * 8 / 136e6)


def test_a_lower_voltage_is_slower_and_saves_energy_when_compute_bound():
    costs = [point.cost(LAYERS[0]) for point in processor.operating_points("gpu")]
    assert [c.latency_ms for c in costs] == sorted((c.latency_ms for c in costs), reverse=True)
    assert costs[0].energy_mj < costs[-1].energy_mj


@pytest.mark.parametrize("name", CLOSED)
def test_networks_are_priced_by_sums(name):
    choices = {"rows": (128,), "cols": (64, 128), "adc_bits": (8,)}
    space = find(name, choices=choices) if name == "pim" else find(name)
    tensor = cost_tensor(LAYERS, space, cache=False)
    front = tensor.hardware_front([2, 1, 1, 3], 1e4)
    latency, energy = tensor.networks([[2, 1, 1, 3]])
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
    assert sum(n * row.latency_ms for n, row in zip(counts, rows, strict=True)) == pytest.approx(cost.latency_ms)
    assert sum(n * row.energy_mj for n, row in zip(counts, rows, strict=True)) == pytest.approx(cost.energy_mj)
    for row in rows:
        assert row.roofline_ms <= row.latency_ms * (1 + 1e-12)
        assert row.compulsory_mj <= row.energy_mj * (1 + 1e-12)
        assert 0 < row.utilisation <= 1 + 1e-12
        assert lower_bound(row.layer, accelerator).latency_ms == row.roofline_ms
    with pytest.raises(HardwareError, match="no mappings"):
        best(LAYERS[0], accelerator)


def test_the_operating_points_are_a_table_of_clock_voltage_and_power():
    """C V^2 f + leakage at the slowest and the nominal point of the CPU: 1.2 nF, 0.3 W."""
    slow, *_, fast = processor.operating_points("cpu")
    assert (slow.clock_mhz, slow.voltage, fast.clock_mhz, fast.voltage) == (600, 0.65, 1800, 0.95)
    assert fast.dynamic_w + fast.leakage_w == pytest.approx(1.2 * 0.95**2 * 1.8 + 0.3)
    assert slow.dynamic_w + slow.leakage_w == pytest.approx(1.2 * 0.65**2 * 0.6 + 0.3 * 0.65 / 0.95)


@pytest.mark.parametrize("kind", [{}, {"groups": 64}])
def test_polarised_columns_halve_columns_and_conversions(kind):
    """Without doubled columns: half the columns, half the converters' energy; latency stays."""
    layer = Layer("x", K=64, C=64, P=8, Q=8, R=3, S=3, **kind)
    paired, polarised = Crossbar(), Crossbar(polarised=True)
    assert paired.columns(layer) == 2 * polarised.columns(layer)
    two, one = paired.cost(layer), polarised.cost(layer)
    assert two.energy_pj["converters"] == pytest.approx(2 * one.energy_pj["converters"])
    assert two.energy_pj["cells"] == pytest.approx(2 * one.energy_pj["cells"])
    assert two.energy_pj["buffers"] == one.energy_pj["buffers"]


def test_a_crossbar_writes_what_another_layer_computed_for_every_input():
    stored = Layer("x", K=64, C=64, P=8, Q=8)
    computed = dataclasses.replace(stored, computed_weights=True)
    crossbar = Crossbar()
    once, always = crossbar.cost(stored), crossbar.cost(computed)
    table = unit_costs("crossbar")
    cells = 64 * crossbar.columns(stored)
    assert always.energy_pj["writes"] == cells * table["cell_write_pj"] > once.energy_pj["writes"] == 0
    assert always.latency_ms - once.latency_ms == pytest.approx(crossbar.rows * table["row_write_ns"] * 1e-6)
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
