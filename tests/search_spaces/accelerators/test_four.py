"""All four kinds of engines side by side, against every tuple of engines priced one by one."""

import itertools

import numpy as np
import pytest

from cosearch.costs import price_workload
from cosearch.hardware import cost_tensor, evaluate
from cosearch.hardware.pricing import RESIDENCIES
from cosearch.workload import Layer, Workload, distinct_layers
from search_spaces.accelerators import find, four, fpga
from tests.hardware.test_tensor import brute_front, counts_of

NETWORK = Workload(
    "four",
    (
        Layer("first", K=16, C=3, P=8, Q=8, R=3, S=3),
        Layer("shifts", "shift", K=24, C=16, P=8, Q=8, weight_bits=5),
        Layer("adds", "add", K=24, C=24, P=4, Q=4, R=3, S=3, stride=2, groups=24),
        Layer("bits", "bitserial", K=32, C=24, P=4, Q=4, weight_bits=2, input_bits=4),
        Layer("sum", "elementwise", K=8, C=16, P=4, Q=4, groups=8),
    ),
)
CHOICES = {
    "rows": (2, 8),
    "cols": (4, 16),
    "dataflow": ("weight-stationary",),
    "windowed": (False,),
    "fabric": ("logic",),
    "weight_kib": (4.5,),
    "activation_kib": (4.5, 36),
    "port_bits": (64,),
    "clock_mhz": (75.0,),
}


@pytest.fixture(scope="module")
def space():
    return four.space("ecp5-25f-four", choices=CHOICES)


@pytest.mark.parametrize("live", [512.0, 1e9])
def test_the_front_under_one_budget_equals_brute_force(space, live):
    layers = distinct_layers([NETWORK])
    tensor, counts = cost_tensor(layers, space, cache=False), counts_of(NETWORK, layers)
    front = tensor.hardware_front(counts, live)
    assert (front.engines >= 0).all()
    expected = brute_front(tensor, space, counts, live)
    np.testing.assert_allclose(np.stack([front.latency_ms, front.energy_mj], 1), expected, rtol=1e-9)
    parts = [space.shared.resources, *(space.engines(kind).resources for kind in space.kinds)]
    fitting = sum((np.sum(x, axis=0) <= space.budget.counts).all() for x in itertools.product(*parts))
    assert 0 < fitting == len(space) < np.prod([len(part) for part in parts])  # the budget binds


def test_each_layer_runs_on_the_engine_of_its_kind(space):
    layers = distinct_layers([NETWORK])
    tensor, counts = cost_tensor(layers, space, cache=False), counts_of(NETWORK, layers)
    front = tensor.hardware_front(counts, 512.0)
    accelerator, residency = front.accelerator(0), RESIDENCIES[int(front.residency[0])]
    assert [engine.kinds for engine in accelerator.engines] == [("mac",), ("shift",), ("add",), ("bitserial",)]
    mapped = front.mappings(0)
    assert [mapping is None for _, mapping in mapped] == [False] * 4 + [True]
    total = sum(evaluate(x, accelerator, mapping, residency.tensors).latency_ms for x, mapping in mapped if mapping)
    assert total < front.latency_ms[0]  # the vector unit comes on top
    again = tensor.evaluate_on(accelerator, counts, 512.0, "latency_ms")
    assert again.latency_ms == pytest.approx(front.latency_ms[0])


def test_the_device_prices_a_network_on_four_engines():
    priced = price_workload(NETWORK, "ecp5-85f-four")
    assert [row.engine for row in priced.report.rows] == ["mac", "shift", "add", "bitserial", "vector"]
    assert priced.report.pipeline.interval_ms < priced.report.cost.latency_ms


def test_the_default_device_with_one_more_kind():
    assert find("zcu102-four").part == find("zcu102").part
    assert find("ecp5-85f-four").kinds == (*fpga.KINDS, "bitserial")
    assert four.space("ecp5-25f", kinds=("mac", "bitserial")).kinds == ("mac", "bitserial")
