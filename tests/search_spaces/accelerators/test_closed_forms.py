"""Accelerators whose layers have a closed-form cost: crossbars and processors; and the ASIC grid."""

import pytest

from cosearch.errors import ConfigError, HardwareError, UnknownNameError
from cosearch.hardware import cost_tensor
from cosearch.workload import Layer
from search_spaces.accelerators import ACCELERATORS, find, pim, processor

LAYERS = (
    Layer("conv", K=64, C=64, P=8, Q=8, R=3, S=3),
    Layer("depthwise", K=64, C=64, P=8, Q=8, R=3, S=3, groups=64),
    Layer("pool", "pool", K=64, C=64, groups=64, R=8, S=8),
    Layer("sum", "elementwise", K=64, C=128, groups=64, P=8, Q=8),
)
CLOSED = ["pim", "cpu", "gpu"]


def test_array_counts_by_hand():
    """576 rows by 64 x 4 cells x 2 columns on 128 x 128: 5 x 4 arrays; polarised: 5 x 2; 9-row kernels share arrays."""
    assert pim.Crossbar().arrays_needed(LAYERS[0]) == 5 * 4
    assert pim.Crossbar(polarised=True).arrays_needed(LAYERS[0]) == 5 * 2
    assert pim.Crossbar().arrays_needed(LAYERS[1]) == -(-64 // min(128 // 9, 128 // 8))


def test_crossbar_latency_and_energy_by_hand():
    layer = Layer("x", K=16, C=16, P=2, Q=2)
    crossbar = pim.Crossbar()
    ms, mj = crossbar.cost(layer)
    reads, rows, columns = 4 * 8, 16, 16 * 4 * 2
    assert ms == pytest.approx(reads * 8 * 100e-6)
    pj = reads * (rows * columns * 0.0018 + rows * 0.39 + columns * (1.56 + 0.05)) + (64 * 8 + 64 * 8) * 0.068
    assert mj == pytest.approx(pj * 1e-9)


def test_too_few_arrays_pay_for_writing():
    enough, few = pim.Crossbar(arrays=64), pim.Crossbar(arrays=4)
    assert few.cost(LAYERS[0])[0] > 5 * enough.cost(LAYERS[0])[0] * 0.99
    assert few.cost(LAYERS[0])[1] > enough.cost(LAYERS[0])[1] + 576 * 512 * 3910e-9 * 0.99


def test_every_adc_bit_doubles_the_converters_energy_only():
    base, more = (pim.Crossbar(adc_bits=bits).cost(LAYERS[0])[1] for bits in (8, 9))
    conversions = 64 * 8 * 5 * 512
    assert more - base == pytest.approx(conversions * 1.56e-9)


def test_a_roofline_is_bound_by_its_slower_side():
    point = processor.OperatingPoint("cpu", 1000.0, 0.75)
    heavy, light = LAYERS[0], Layer("classifier", K=1000, C=1000)
    assert point.cost(heavy)[0] == pytest.approx(heavy.macs / (128 * 1e6))
    assert point.cost(light)[0] == pytest.approx((1000 * 1000 + 2000) * 8 / 136e6)


def test_a_lower_voltage_is_slower_and_saves_energy_when_compute_bound():
    costs = [point.cost(LAYERS[0]) for point in processor.space("gpu").points]
    assert [c[0] for c in costs] == sorted((c[0] for c in costs), reverse=True)
    assert costs[0][1] < costs[-1][1]


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


def test_a_kind_that_a_crossbar_has_not_is_refused():
    with pytest.raises(HardwareError, match="none for 'add'"):
        cost_tensor((Layer("a", "add"),), find("pim"), cache=False)


def test_unknown_choices_and_processors_suggest_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'rows'"):
        find("pim", choices={"row": (1,)})
    with pytest.raises(UnknownNameError, match="cpu"):
        processor.space("cpus")


@pytest.mark.parametrize("name", ACCELERATORS)
def test_every_device_is_found_counted_and_described(name):
    space = find(name)
    assert len(space) > 0
    assert space.describe()["space"] in ("fpga", "asic", "pim", "processor")
