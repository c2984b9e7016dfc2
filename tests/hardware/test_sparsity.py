"""Zero weights: limits, monotony, index bits, and who makes use of which pattern."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosearch.errors import ConfigError, HardwareError
from cosearch.hardware import Accelerator, best, cost_tensor, lower_bound
from cosearch.hardware.closedform import Crossbar, OperatingPoint
from cosearch.hardware.nestfront import nest_costs
from cosearch.hardware.pricing import Residency
from cosearch.hardware.sparsity import seen, time_share
from cosearch.workload import SPARSITIES, Layer
from search_spaces.accelerators import asic, fpga

DENSE = Layer("conv", K=32, C=16, P=8, Q=8, R=3, S=3)
SMALL = {"rows": (8,), "cols": (8,), "weight_kib": (36,), "activation_kib": (36,), "port_bits": (512,)}
SMALL |= {"clock_mhz": (100.0,), "fabric": ("hard",), "windowed": (False,), "dataflow": ("weight-stationary",)}


def sparse(sparsity: str, density: float, layer: Layer = DENSE) -> Layer:
    return dataclasses.replace(layer, sparsity=sparsity, density=density)


def on_fpga(zeros: str) -> Accelerator:
    return fpga.space("zc706", choices={**SMALL, "zeros": (zeros,)}, kinds=("mac",)).accelerator(0, {"mac": 0})


MACHINES = {
    **{f"fpga {zeros}": on_fpga(zeros) for zeros in ("compute", "store", "skip")},
    "gemmini": asic.build("gemmini", {"size": 8, "scratchpad_depth": 512}),
    "nvdla": asic.build("nvdla", {"channels": 8, "kernels": 8, "buffer_kib": 16}),
}
_plain = MACHINES["gemmini"]
_skipping = dataclasses.replace(_plain.engines[0], zeros="skip", patterns=("unstructured", "block", "pattern"))
MACHINES["gemmini skip"] = dataclasses.replace(_plain, engines=(_skipping,))


def figures(layer: Layer, accelerator: Accelerator) -> tuple[float, float]:
    return best(layer, accelerator, "latency")[1].latency_ms, best(layer, accelerator, "energy")[1].energy_mj


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("machine", MACHINES)
def test_density_one_is_dense(machine, sparsity):
    assert figures(sparse(sparsity, 1.0), MACHINES[machine]) == figures(DENSE, MACHINES[machine])


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(MACHINES)),
    st.sampled_from(SPARSITIES),
    st.lists(st.floats(0.05, 1.0), min_size=2, max_size=2).map(sorted),
)
def test_fewer_weights_never_cost_more(machine, sparsity, densities):
    few, many = (figures(sparse(sparsity, density), MACHINES[machine]) for density in densities)
    assert few[0] <= many[0] * (1 + 1e-9)
    assert few[1] <= many[1] * (1 + 1e-9)
    for density in densities:
        layer = sparse(sparsity, density)
        least = lower_bound(layer, MACHINES[machine])
        assert figures(layer, MACHINES[machine])[0] >= least.latency_ms * (1 - 1e-9)
        assert figures(layer, MACHINES[machine])[1] >= least.energy_mj * (1 - 1e-9)


@pytest.mark.parametrize("machine", [*MACHINES, "crossbar", "cpu"])
@pytest.mark.parametrize("sparsity", ["channel", "filter"])
def test_dropped_channels_are_a_smaller_layer_everywhere(machine, sparsity):
    """12 of 16 input channels, or 24 of 32 filters."""
    smaller = dataclasses.replace(DENSE, **({"C": 12} if sparsity == "channel" else {"K": 24}))
    layer = sparse(sparsity, 0.75)
    if machine in MACHINES:
        assert figures(layer, MACHINES[machine]) == figures(smaller, MACHINES[machine])
        return
    form = Crossbar() if machine == "crossbar" else OperatingPoint("cpu", 1000.0, 0.75, 0.95)
    assert form.cost(layer) == form.cost(smaller)


def test_depthwise_layers_lose_whole_groups():
    depthwise = Layer("dw", K=16, C=16, P=8, Q=8, R=3, S=3, groups=16)
    for sparsity in ("channel", "filter"):
        left = seen(sparse(sparsity, 0.5, depthwise))
        assert (left.K, left.C, left.groups) == (8, 8, 8)
    grouped = Layer("grouped", K=16, C=32, P=8, Q=8, groups=4)
    left = seen(sparse("filter", 0.5, grouped))
    assert (left.K, left.C, left.groups) == (8, 32, 4)
    left = seen(sparse("channel", 0.3, grouped))
    assert (left.K, left.C, left.groups) == (16, 12, 4)  # ceil(0.3 x 8) = 3 per group


@pytest.mark.parametrize("sparsity", ["unstructured", "block", "pattern"])
@pytest.mark.parametrize("machine", ["fpga compute", "gemmini"])
def test_who_cannot_use_a_pattern_pays_for_every_weight(machine, sparsity):
    assert figures(sparse(sparsity, 0.25), MACHINES[machine]) == figures(DENSE, MACHINES[machine])


def test_index_bits():
    """144 weights per filter: 8 bits of index per non-zero; 512 kernels x 3 bits; 4 x 18 blocks x 1 bit."""
    quarter = 32 * 144 / 4
    assert sparse("unstructured", 0.25).stored_weight_bits == quarter * (8 + 8)
    assert sparse("pattern", 0.25).stored_weight_bits == quarter * 8 + 512 * 3
    assert sparse("block", 0.25).stored_weight_bits == quarter * 8 + 4 * 18
    assert sparse("channel", 0.25).stored_weight_bits == quarter * 8
    assert sparse("dense", 0.25).stored_weight_bits == 32 * 144 * 8
    assert sparse("unstructured", 0.9).stored_weight_bits == 32 * 144 * 8  # compressed it would be larger


@pytest.mark.parametrize("sparsity", ["unstructured", "block", "pattern"])
def test_storing_saves_traffic_and_arithmetic_and_skipping_saves_time(sparsity):
    """Weights cross DRAM once in their stored form, everything else resident; a third of the kernel is 3 of 9."""
    layer = sparse(sparsity, 1 / 3)
    kept = Residency(weights=False, activations=True)
    dense = best(DENSE, MACHINES["fpga compute"], "latency", kept)[1]
    for zeros in ("store", "skip"):
        cost = best(layer, MACHINES[f"fpga {zeros}"], "latency", kept)[1]
        assert cost.accesses["dram", "W"][0] == dense.accesses["dram", "W"][0] == 32 * 144
        per_bit = MACHINES["fpga compute"].levels[-1].read_energy_pj
        assert cost.energy_pj["dram"] == pytest.approx(math.ceil(layer.stored_weight_bits - 1e-9) * per_bit)
        assert cost.energy_pj["operations"] == pytest.approx(dense.energy_pj["operations"] / 3)
        fill = 14
        assert cost.cycles - fill == pytest.approx((dense.cycles - fill) / (3 if zeros == "skip" else 1))


def test_a_pattern_takes_whole_kernel_positions():
    assert time_share(sparse("pattern", 0.4), "skip") == 4 / 9
    assert time_share(sparse("pattern", 4 / 9), "skip") == 4 / 9
    assert time_share(sparse("block", 0.4), "skip") == 0.4
    assert time_share(sparse("block", 0.4), "store") == 1


def test_skipping_on_a_declared_mapspace():
    """Faster than dense, fewer updates of partial sums, and the same whether priced in bulk or one by one."""
    skipping, plain = MACHINES["gemmini skip"], MACHINES["gemmini"]
    layer = sparse("unstructured", 0.25)
    latency, energy = nest_costs(layer, [skipping, plain], (1.0, 0.0))
    for at, accelerator in enumerate((skipping, plain)):
        assert (latency[0, at], energy[1, at]) == pytest.approx(figures(layer, accelerator), rel=1e-12)
    assert latency[0, 0] < latency[0, 1]
    updates = [best(layer, a, "energy")[1].accesses["accumulator", "O"][1] for a in (skipping, plain)]
    assert updates[0] < updates[1]


def test_the_tensor_and_one_accelerator_agree_on_sparse_layers():
    layers = (DENSE, sparse("unstructured", 0.3), sparse("filter", 0.5))
    for space in (
        fpga.space("zc706", choices={**SMALL, "zeros": ("skip",)}, kinds=("mac",)),
        asic.space("nvdla", choices={"channels": (8,), "kernels": (8,), "buffer_kib": (2, 64)}),
    ):
        tensor = cost_tensor(layers, space, cache=False)
        front = tensor.hardware_front([1, 2, 1], 1e9)
        cost = tensor.evaluate_on(front.accelerator(0), [1, 2, 1], 1e9, "latency_ms")
        assert cost.latency_ms == pytest.approx(front.latency_ms[0])
        stored = 32 * 144 * 8 + 2 * layers[1].stored_weight_bits + 16 * 144 * 8
        assert tensor.weight_bits([1, 2, 1]) == pytest.approx(stored)


def test_decoders_take_room_and_names_are_checked():
    plain, skipping = (on_fpga(zeros).engines[0].resources for zeros in ("compute", "skip"))
    assert skipping.lut - plain.lut == 8 * 24 + 64 * 8
    with pytest.raises(ConfigError, match="compute, store, skip"):
        fpga.space(choices={"zeros": ("ignore",)})
    with pytest.raises(HardwareError, match="patterns"):
        dataclasses.replace(on_fpga("skip").engines[0], patterns=("random",))
