"""ASIC templates: data files, technologies, leakage and what stays on chip."""

import json
from pathlib import Path

import numpy as np
import pytest

from cosearch.errors import ConfigError, HardwareError, UnknownNameError
from cosearch.hardware import best, cost_tensor, evaluate
from cosearch.hardware.pricing import RESIDENCIES
from cosearch.hardware.report import layer_report
from cosearch.workload import Layer, Workload
from search_spaces.accelerators import asic, find

LAYER = Layer("conv", K=16, C=8, P=8, Q=8, R=3, S=3)


def test_gemmini_by_hand():
    """16 x 16, 4 KiB accumulators of 32-bit rows beside each column, 256 KiB scratchpad of 16-byte rows."""
    accelerator = asic.build("gemmini")
    register, accumulator = accelerator.engines[0].levels
    scratchpad, dram = accelerator.levels
    assert (register.holds, register.instances) == (("W",), 256)
    assert (accumulator.capacity_bytes, accumulator.instances, accumulator.read_bits_per_cycle) == (4096, 16, 64)
    assert (scratchpad.capacity_bytes, scratchpad.word_bits, scratchpad.read_bits_per_cycle) == (2**18, 128, 256)
    assert scratchpad.read_energy_pj == pytest.approx((0.9749 + 0.050251 * 256) * 8)
    assert dram.read_energy_pj == 6400
    pad = 2**21 * 0.5095 + 128 * 9.423 + 2**14 * 1.454  # bits, columns, rows
    memory = pad + 16 * (2**15 * 0.5095 + 32 * 9.423 + 2**10 * 1.454)
    assert accelerator.area_mm2 == pytest.approx((256 * 502 + memory) * 1e-6)
    assert accelerator.static_power_w == pytest.approx((256 * 502 * 21.8 + memory * 47.5) * 1e-9)


def test_amounts():
    values = {"rows": 3, "cols": 5}
    assert asic.amount("rows", values) == 3
    assert asic.amount([2, "rows"], values) == 6
    assert asic.amount([[2, "rows"], ["cols"], [-2]], values) == 9
    assert asic.amount([], values) == 0


@pytest.mark.parametrize("template", asic.TEMPLATES)
def test_leakage_shrinks_with_the_node_and_grows_with_memory(template):
    powers = [asic.build(template, {"nm": nm}).static_power_w for nm in (65, 45, 28)]
    assert powers == sorted(powers, reverse=True)
    memory = "scratchpad_depth" if template == "gemmini" else "buffer_kib"
    large = asic.load_template(template).parameters[memory] * 2
    assert asic.build(template, {memory: large}).static_power_w > asic.build(template).static_power_w
    accelerator = asic.build(template)
    cost = best(LAYER, accelerator)[1]
    assert cost.energy_pj["static"] == pytest.approx(accelerator.static_power_w * cost.latency_ms * 1e9)


def test_operator_accounting_leaves_accumulators_and_registers_out():
    """0.5608 pJ of a MAC unit, 0.2 pJ of the multiplication alone."""
    element, operator = (asic.build("gemmini", accounting=accounting) for accounting in ("element", "operator"))
    costs = [best(LAYER, accelerator, "latency")[1].energy_pj for accelerator in (element, operator)]
    assert costs[0]["operations"] == pytest.approx(LAYER.macs * 0.5608)
    assert costs[1]["operations"] == pytest.approx(LAYER.macs * 0.2)
    assert {name: value for name, value in costs[0].items() if name != "operations"} == {
        name: value for name, value in costs[1].items() if name != "operations"
    }
    assert find("nvdla", accounting="operator").accelerators[0].accounting == "operator"
    with pytest.raises(ConfigError, match="element, operator"):
        asic.space("gemmini", accounting="operators")


def test_a_template_file_is_a_device(tmp_path):
    path = Path(asic.__file__).parent / "templates" / "gemmini.json"
    document = {**json.loads(path.read_text()), "name": "mine", "choices": {"size": [4, 8]}}
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps(document))
    space = find(str(mine))
    assert (space.name, len(space)) == ("mine", 2)
    assert space.accelerator(0, {"mine": 1}).engines[0].rows == 8
    mine.write_text(json.dumps({**document, "rows": "height"}))
    with pytest.raises(HardwareError, match="height"):
        find(str(mine))
    mine.write_text(json.dumps({**document, "format": "cosearch.part"}))
    with pytest.raises(HardwareError, match="a part needs"):
        find(str(mine))


def test_unknown_templates_and_parameters_suggest_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'gemmini'"):
        asic.build("gemini")
    with pytest.raises(ConfigError, match="did you mean 'size'"):
        asic.space("gemmini", choices={"sizes": (4,)})
    with pytest.raises(ConfigError, match="28, 45, 65"):
        asic.build("gemmini", {"nm": 7})


NETWORK = Workload("small", (LAYER, Layer("next", K=8, C=16, P=8, Q=8), Layer("classifier", K=10, C=512)))


def least(space, network, accelerator):
    """The best total over residencies that the network fits, every layer by the search on one accelerator."""
    from cosearch.hardware.nestfront import resident_bits

    weights, activations = resident_bits(accelerator)
    found = []
    for residency in RESIDENCIES:
        if residency.weights and network.weight_bytes * 8 > weights:
            continue
        if residency.activations and network.live_activation_bytes * 8 > activations:
            continue
        found.append(sum(best(layer, accelerator, "latency", residency)[1].latency_ms for layer in network))
    return min(found)


@pytest.mark.parametrize(
    ("template", "choices"),
    [
        ("gemmini", {"size": (8,), "accumulator_depth": (256,), "scratchpad_depth": (64, 2048)}),
        ("tpu-os", {"rows": (8,), "cols": (8,), "buffer_kib": (1, 64)}),
        ("eyeriss", {"rows": (8,), "cols": (8,), "buffer_kib": (1, 54)}),
    ],
)
def test_networks_keep_what_fits_on_chip(template, choices):
    """Per accelerator the better of keeping and fetching; the whole front is the best of them."""
    space = asic.space(template, choices={**choices, "dram_bits_per_cycle": (64.0,)})
    tensor = cost_tensor(NETWORK.layers, space, cache=False)
    counts, live = tensor.counts_of(NETWORK), NETWORK.live_activation_bytes
    expected = [least(space, NETWORK, accelerator) for accelerator in space.accelerators]
    for accelerator, latency in zip(space.accelerators, expected, strict=True):
        cost = tensor.evaluate_on(accelerator, counts, live, "latency_ms")
        assert cost.latency_ms == pytest.approx(latency)
    front = tensor.hardware_front(counts, live)
    assert front.latency_ms.min() == pytest.approx(min(expected))
    small, large = space.accelerators
    assert not tensor.evaluate_on(small, counts, live).weights_resident
    cost = tensor.evaluate_on(large, counts, live, "energy_mj")
    assert cost.weights_resident == (template != "eyeriss")
    assert cost.activations_resident == (template != "gemmini")
    rows = layer_report(NETWORK, large, "energy_mj")
    assert sum(row.energy_mj for row in rows) == pytest.approx(cost.energy_mj)
    for i, (layer, mapping) in enumerate(front.mappings(0)):
        assert evaluate(layer, front.accelerator(0), mapping).cycles > 0, i


BAD = {"size": (8,), "scratchpad_depth": (0, 1024, "64 KiB"), "dram_bits_per_cycle": (64.0, 0.0), "clock_mhz": (500.0,)}


def test_what_cannot_be_built_does_not_stop_a_sweep():
    """Of six accelerators one can be built; the others are infeasible, and say why."""
    space = asic.space("gemmini", choices={"accumulator_depth": (256,), **BAD})
    tensor = cost_tensor((LAYER,), space, cache=False)
    latency, energy = tensor.networks([[1]])
    assert np.isfinite(latency).tolist() == np.isfinite(energy).tolist() == [[False, False, True, False, False, False]]
    alone = asic.space(
        "gemmini",
        choices={
            "accumulator_depth": (256,),
            "size": (8,),
            "scratchpad_depth": (1024,),
            "dram_bits_per_cycle": (64.0,),
        },
    )
    np.testing.assert_array_equal(latency[0, 2], cost_tensor((LAYER,), alone, cache=False).networks([[1]])[0][0, 0])
    reasons = [tensor.reason([1], i) for i in range(6)]
    assert reasons[2] == ""
    assert all(
        reason.startswith(f"layer {LAYER.name!r}: template 'gemmini'") for i, reason in enumerate(reasons) if i != 2
    )
    assert "memory level 'scratchpad': capacity_bytes=0" in reasons[0]
    assert "memory level 'dram': read_bits_per_cycle=0" in reasons[3]
    assert "scratchpad_depth='64 KiB'" in reasons[4]
    assert len(tensor.hardware_front([1], 0.0)) == 1
    assert tensor.best_accelerator([1]).accelerator(0) == space.accelerators[0]
    with pytest.raises(HardwareError, match="capacity_bytes=0"):
        space.accelerator(0, {"gemmini": 0})


def test_a_space_of_which_nothing_can_be_built_is_refused():
    with pytest.raises(HardwareError, match=r"scratchpad_depth=0.*capacity_bytes=0"):
        asic.space("gemmini", choices={"scratchpad_depth": (0,)})


def test_the_reason_names_the_layer_and_the_memories():
    """A buffer too small for the second layer."""
    large = Layer("large", K=8, C=4096, P=1, Q=1, R=3, S=3)
    space = asic.space(
        "tpu-os", choices={"rows": (8,), "cols": (8,), "buffer_kib": (0.03125, 64), "dram_bits_per_cycle": (64.0,)}
    )
    layers = (Layer("small", K=2), large)
    tensor = cost_tensor(layers, space, cache=False)
    latency, _ = tensor.networks([[1, 1], [1, 0]])
    for network, counts in enumerate(([1, 1], [1, 0])):
        for at in range(2):
            assert (tensor.reason(counts, at) == "") == np.isfinite(latency[network, at])
    assert "'large'" in tensor.reason([1, 1], 0)
    assert "no mapping fits" in tensor.reason([1, 1], 0)
    unserved = cost_tensor((Layer("shifted", "shift"),), space, cache=False)
    assert unserved.reason([1], 0).startswith("layer 'shifted': tpu-os has no engine for 'shift' layers")
