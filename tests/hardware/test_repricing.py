import dataclasses

import pytest

from cosearch.hardware import cost_tensor, sensitivity
from cosearch.workload import Layer, Workload
from search_spaces.accelerators import fpga
from tests.hardware.conftest import SMALL


@pytest.fixture
def networks():
    def network(kind, bits):
        layers = (
            Layer("a", kind, K=16, C=8, P=4, Q=4, R=3, S=3, weight_bits=bits),
            Layer("b", kind, K=10, C=16, weight_bits=bits),
        )
        return Workload(kind, layers)

    return {"conv": network("mac", 8), "shift": network("shift", 5)}


def test_every_modelled_cost_is_scaled_both_ways(networks):
    space = fpga.space("ecp5-25f", choices=SMALL)
    rows = sensitivity(space, networks)
    assert rows[0].cost == ""
    assert {(row.cost, row.factor) for row in rows[1:]} == {(c, f) for c in space.modelled for f in (0.5, 2.0)}
    value = {(row.cost, row.factor): dict(row.values) for row in rows}
    base = value["", 1.0]
    for network, energy in base.items():
        assert value["static_power_w", 0.5][network] < energy < value["static_power_w", 2.0][network]
        assert value["engine.lut", 0.5][network] <= energy <= value["engine.lut", 2.0][network]
    assert set(rows[0].order()) == set(networks)


def test_each_row_is_what_the_scaled_space_says(networks):
    space = fpga.space("ecp5-25f", choices=SMALL)
    rows = {(row.cost, row.factor): dict(row.values) for row in sensitivity(space, networks, "latency_ms")}
    for cost, factor in (("lut_overhead", 2.0), ("base.lut", 2.0), ("dram_gbit_per_s", 0.5)):
        workload = networks["shift"]
        tensor = cost_tensor(workload.layers, space.scaled({cost: factor}), cache=False)
        front = tensor.hardware_front(tensor.counts_of(workload), workload.live_activation_bytes)
        assert rows[cost, factor]["shift"] == pytest.approx(front.latency_ms.min())


def test_a_fixed_accelerator_is_only_repriced(networks):
    space = fpga.space("ecp5-25f", choices=SMALL)
    workload = networks["conv"]
    tensor = cost_tensor(workload.layers, space, cache=False)
    front = tensor.hardware_front(tensor.counts_of(workload), workload.live_activation_bytes)
    accelerator = front.accelerator(0)
    rows = sensitivity(space, networks, "latency_ms", accelerators={"conv": accelerator})
    for row in rows:
        if row.cost != "dram_gbit_per_s":
            assert dict(row.values)["conv"] == pytest.approx(float(front.latency_ms[0]))
    assert space.reprice(accelerator) == dataclasses.replace(accelerator)
