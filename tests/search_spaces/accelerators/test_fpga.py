import itertools
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from cosearch.errors import ConfigError, CosearchError, HardwareError, UnknownNameError
from cosearch.hardware import Accelerator, Resources, best, cost_tensor, evaluate, load_device, part_names
from cosearch.hardware.pricing import Residency
from cosearch.workload import Layer
from search_spaces.accelerators import ACCELERATORS, find, fpga, split

PARTS = [name for name, path in ACCELERATORS.items() if ".fpga:" in path and name != "fpga"]


@pytest.mark.parametrize("device", PARTS)
def test_every_device_has_a_space_within_its_budget(device):
    space = find(device)
    assert space.name == device
    for kind in space.kinds:
        assert len(space.engines(kind)) > 5
        for engine in space.engine_lists[kind]:
            assert engine.resources.fits(space.budget)


def test_the_family_is_its_default_part():
    assert find("fpga").part == find("ecp5-85f").part


def test_parts_with_a_device_are_the_parts_that_exist():
    assert set(part_names()) == set(PARTS)


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'zcu102'"):
        find("zcu-102")
    with pytest.raises(ConfigError, match="did you mean 'rows'"):
        fpga.space(choices={"row": (1,)})
    with pytest.raises(ConfigError, match="element"):
        fpga.space(accounting="elements")


def test_the_size_is_counted_exactly():
    space = fpga.space(
        "ecp5-25f",
        choices={
            "rows": (2, 8, 16),
            "cols": (4, 8, 12),
            "weight_kib": (36, 72),
            "activation_kib": (18,),
            "port_bits": (64,),
            "windowed": (True,),
        },
    )
    budget = space.budget
    expected = 0
    for shared in space.shared_list:
        base = space.shared_resources(shared["weight_kib"], shared["activation_kib"], shared["port_bits"], 8)
        for engines in itertools.product(*space.engine_lists.values()):
            expected += sum((e.resources for e in engines), base).fits(budget)
    assert 0 < expected < len(space.shared_list) * np.prod([len(e) for e in space.engine_lists.values()])
    assert len(space) == expected


def test_operator_accounting_leaves_accumulators_and_registers_out():
    element, operator = find("fpga"), find("fpga", accounting="operator")
    assert operator.engine_resources("shift", 8, 8, 0).lut < element.engine_resources("shift", 8, 8, 0).lut
    assert operator.energies.accumulate_pj == operator.energies.registers_pj == 0
    assert operator.energies.multiply_pj == element.energies.multiply_pj


def test_one_element_costs_what_was_measured():
    """Doubling rows adds elements and lines only: 64 elements x 72 LUT + 8 lines x 8 LUT."""
    space = find("fpga")
    small, large = (space.engine_resources("shift", rows, 8, 0, windowed=False) for rows in (8, 16))
    assert large.lut - small.lut == 64 * 72 + 8 * 8
    assert space.fmax_mhz("shift", 8, 8) == pytest.approx(225 * 0.87)


def test_modelled_costs_can_be_scaled_and_are_named():
    space = find("fpga")
    assert "dram_pj_per_bit" in space.modelled
    assert "mac.lut" not in space.modelled
    doubled = find("fpga", scale_modelled={"dram_pj_per_bit": 2.0})
    assert doubled.prices.dram_pj_per_bit == 2 * space.prices.dram_pj_per_bit
    with pytest.raises(HardwareError, match="no unit cost 'dram_pj'"):
        find("fpga", scale_modelled={"dram_pj": 2.0})


def test_an_accelerator_survives_json():
    accelerator = find("fpga").accelerator(3, {"mac": 1, "add": 5})
    assert Accelerator.from_json(json.loads(json.dumps(accelerator.to_json()))) == accelerator


def test_a_part_file_defines_a_device(tmp_path):
    path = tmp_path / "mine.json"
    document = {
        "format": "cosearch.part",
        "version": 1,
        "name": "mine",
        "family": "fpga",
        "includes": ["ecp5", "fpga_energy"],
        "budget": {"lut": 20000, "ff": 20000, "dsp": 20, "bram": 60},
        "costs": {"static_power_w": {"value": 0.1, "unit": "W", "status": "measured", "source": "bench"}},
    }
    path.write_text(json.dumps(document))
    space = find(str(path))
    assert space.budget == Resources(20000, 20000, 20, 60)
    assert "static_power_w" not in space.modelled
    path.write_text(json.dumps({**document, "budget": {"luts": 3}}))
    with pytest.raises(HardwareError, match="lut, ff, dsp"):
        load_device(str(path))
    path.write_text("{")
    with pytest.raises(HardwareError, match="is not valid JSON"):
        load_device(str(path))


ONE = {
    "rows": (8,),
    "cols": (8,),
    "dataflow": ("weight-stationary",),
    "windowed": (False,),
    "fabric": ("hard",),
    "weight_kib": (72,),
    "activation_kib": (72,),
    "port_bits": (512,),
    "clock_mhz": (75,),
}
RESIDENT = Residency(weights=True, activations=True)


def packed(part: str, packs: bool) -> Accelerator:
    space = fpga.space(part, choices={**ONE, "packed": (packs,)}, kinds=("mac",))
    return space.accelerator(0, {"mac": 0})


def cycles(accelerator: Accelerator, bits: int) -> float:
    layer = Layer("x", K=64, C=64, P=8, Q=8, weight_bits=bits, input_bits=bits)
    cost = best(layer, accelerator, "latency", RESIDENT)[1]
    assert cost.utilisation <= 1 + 1e-9
    return cost.cycles - accelerator.engines[0].fill_cycles


@pytest.mark.parametrize(
    ("part", "products"),
    [("zcu102", {8: (2, 2), 4: (2, 4)}), ("ecp5-85f", {8: (1, 2), 4: (1, 2)}), ("pynq-z1", {8: (1, 1), 4: (1, 2)})],
)
def test_products_per_dsp_block(part, products):
    """Compute-bound 1x1 layer on 64 elements: products per block and cycle, without and with packing, per width."""
    for bits, expected in products.items():
        for packs, wanted in zip((False, True), expected, strict=True):
            accelerator = packed(part, packs)
            blocks = accelerator.engines[0].resources.dsp
            assert 64 * 64 * 64 / cycles(accelerator, bits) / blocks == wanted


def test_packing_costs_logic_and_accumulators_and_never_latency():
    plain, packs = (packed("zcu102", p).engines[0].resources for p in (False, True))
    assert packs.dsp == plain.dsp
    assert packs.lut - plain.lut == 64 * 36 + 8 * 6  # accumulators of the second products, lines of eight more columns
    assert packs.bram == 2 * plain.bram
    assert cycles(packed("zcu102", True), 8) == cycles(packed("zcu102", False), 8)
    assert cycles(packed("zcu102", True), 5) == cycles(packed("zcu102", False), 5)
    space = fpga.space("zcu102", choices={"fabric": ("hard",)}, kinds=("mac",))
    tensor = cost_tensor((Layer("x", K=64, C=64, P=8, Q=8, weight_bits=4, input_bits=4),), space, cache=False)
    few = tensor.best_accelerator([1], "latency_ms", {"max_dsp": 40}).accelerator(0)
    assert few.engines[0].packing == 2


@pytest.mark.parametrize("device", PARTS)
def test_every_port_feeds_the_lanes_of_its_accelerators(device):
    space = find(device)
    lanes, ports = space.choices["lanes"], space.choices["port_bits"]
    shared = {(s["lanes"], s["port_bits"]) for s in space.shared_list}
    assert shared == {(n, port) for n in lanes for port in ports if 8 * n <= port}
    assert {n for n, _ in shared} == {*lanes}
    assert {port for _, port in shared} == {*ports}
    at = next(i for i, s in enumerate(space.shared_list) if s["lanes"] == lanes[-1])
    accelerator = space.accelerator(at, {"mac": 0})
    assert accelerator.lanes == lanes[-1]
    assert f"_{lanes[-1]}lanes_" in accelerator.name


def test_lanes_that_are_asked_for_are_there_whatever_the_port():
    space = fpga.space(choices={"lanes": (48,), "port_bits": (64,)})
    assert {s["lanes"] for s in space.shared_list} == {48}


def test_a_lane_costs_what_its_part_says():
    space = find("fpga")
    few, many = (space.shared_resources(72, 36, 512, lanes) for lanes in (8, 64))
    more = {"lut": 56 * 83, "ff": 56 * 105, "dsp": 56, "bram": 0}
    assert {name: getattr(many, name) - getattr(few, name) for name in more} == more


NARROW = {**ONE, "fabric": ("logic",), "port_bits": (64, 128), "clock_mhz": (100.0,)}


@pytest.mark.parametrize(("lanes", "expected"), [(8, 9 * 16384 / 8), (16, 9 * 16384 / 16), (64, 2 * 16384 * 8 / 64)])
def test_pooling_takes_an_operation_per_value_of_a_window(lanes, expected):
    """16,384 outputs of 3x3, at 8 values a cycle and direction; 64 lanes wait for the port that DRAM shares."""
    layer = Layer("pool", "pool", K=16, C=16, P=32, Q=32, R=3, S=3, groups=16)
    space = fpga.space(choices={**NARROW, "port_bits": (64,), "lanes": (lanes,)})
    front = cost_tensor((layer,), space, cache=False).hardware_front([1], 1e9)
    cycles = front.latency_ms[0] * 100e3
    assert expected <= cycles <= expected * 1.07  # the halo comes in once, too


def test_lanes_beyond_what_a_port_feeds_help_no_sum_and_no_requantisation():
    """Of all numbers of lanes with all ports the front is that of the numbers that the ports feed."""
    layers = (
        Layer("conv", K=16, C=4, P=16, Q=16),
        Layer("sum", "elementwise", K=16, C=32, P=16, Q=16, groups=16),
        Layer("pool", "pool", K=16, C=16, P=8, Q=8, R=2, S=2, stride=2, groups=16),
    )

    def points(lanes):
        tensor = cost_tensor(layers, fpga.space(choices={**NARROW, "lanes": lanes}, kinds=("mac",)), cache=False)
        front = tensor.hardware_front([3, 2, 1], 1e9)
        return {*zip(front.latency_ms.tolist(), front.energy_mj.tolist(), strict=True)}

    alone = set.union(*(points((n,)) for n in (8, 16, 32)))
    unbeaten = {p for p in alone if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in alone)}
    assert unbeaten == points((8, 16, 32))
    assert len(alone) > len(unbeaten)


@pytest.mark.parametrize("weight_bits", range(1, 9))
def test_bit_serial_elements_take_one_cycle_per_pair_of_bits(weight_bits):
    """64 channels on 8 x 32 lanes and 8 columns: 64 pixels x 8 passes, b_w b_i cycles each."""
    space = fpga.space("zcu102", choices={**ONE, "fabric": ("logic",)}, kinds=("bitserial",))
    accelerator = space.accelerator(0, {"bitserial": 0})
    for input_bits in (1, 3, 8):
        layer = Layer("x", "bitserial", K=64, C=64, P=8, Q=8, weight_bits=weight_bits, input_bits=input_bits)
        cost = best(layer, accelerator, "latency", RESIDENT)[1]
        assert cost.cycles - 14 == 64 * 8 * weight_bits * input_bits


def test_ultra_ram_is_a_resource_of_its_own():
    """1152 KiB and a port of 512 bits: 256 block RAMs of 36 kbit, or 32 UltraRAMs of 288 kbit."""
    space = find("zcu104")
    bram = space.shared_resources(1152, 144, 512, 8)
    uram = space.shared_resources(1152, 144, 512, 8, ("uram", "bram"))
    assert (bram.bram - uram.bram, uram.uram, bram.uram) == (256, 32, 0)
    assert space.shared_resources(1, 144, 512, 8, ("uram", "bram")).uram == 8  # 512 bits from ports of 72
    assert find("zcu102").budget.uram == 0
    with pytest.raises(ConfigError, match="bram, uram"):
        fpga.space("zcu104", choices={"weight_memory": ("hbm",)})


def test_both_memories_are_on_the_front_and_can_be_limited():
    """With few block RAMs left, weights stay in UltraRAM; without UltraRAM they do not stay."""
    choices = {**ONE, "packed": (False,), "weight_kib": (72, 1152), "weight_memory": ("bram", "uram")}
    space = fpga.space("zcu104", choices={**choices, "activation_memory": ("bram",)}, kinds=("mac",))
    tensor = cost_tensor((Layer("x", K=1024, C=1024),), space, cache=False)
    front = tensor.hardware_front([1], 4096.0, ("latency_ms", "bram", "uram"))
    assert {(int(b) > 250, int(u) > 0) for b, u in zip(front.bram, front.uram, strict=True)} >= {
        (True, False),
        (False, True),
    }
    few = tensor.hardware_front([1], 4096.0, constraints={"max_bram": 100})
    none = tensor.hardware_front([1], 4096.0, constraints={"max_bram": 100, "max_uram": 1})
    assert few.uram.min() >= 32
    assert few.latency_ms.min() < none.latency_ms.min()
    assert none.accelerator(0).resources.uram == 0


def test_describing_devices_imports_nothing_slow():
    code = (
        "import sys; from search_spaces.accelerators import find; s = find('fpga'); s.describe(); s.engine_lists;"
        "s.accelerator(0, {'mac': 0}); print([m for m in ('torch', 'numba', 'sklearn', 'pandas') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(("weight_bits", "input_bits"), [(9, 8), (8, 9)])
def test_bits_one_by_one_are_at_most_eight(weight_bits, input_bits):
    """A wider layer is infeasible, with the reason, and stops no other one."""
    sizes = {"rows": (2,), "cols": (4,), "port_bits": (128,), "clock_mhz": (75.0,)}
    space = fpga.space("ecp5-25f", choices=sizes, kinds=("bitserial",))
    fine = Layer("fine", "bitserial", K=16, C=16, weight_bits=8, input_bits=8)
    wide = replace(fine, name="wide", weight_bits=weight_bits, input_bits=input_bits)
    tensor = cost_tensor((fine, wide), space, cache=False)
    said = f"layer 'wide': bit-serial elements take operands of 1 to 8 bits, it has {weight_bits}-bit weights and "
    said += f"{input_bits}-bit inputs"
    assert tensor.hardware_front([1, 1], 0.0).reason == said
    assert tensor.reason([1, 1], 0) == said
    assert len(tensor.hardware_front([1, 0], 0.0))
    assert np.isinf(tensor.networks([[0, 1], [1, 0]])[0]).all(axis=1).tolist() == [True, False]
    accelerator = space.accelerator(0, {"bitserial": 0})
    assert tensor.evaluate_on(accelerator, [1, 1], 0.0).reason == said
    mapping, _ = best(fine, accelerator)
    for refuses in (lambda: best(wide, accelerator), lambda: evaluate(wide, accelerator, mapping)):
        with pytest.raises(HardwareError, match=said):
            refuses()


@pytest.mark.parametrize("space", [find, fpga.space, split.space])
@pytest.mark.parametrize(
    ("choice", "value", "expected"),
    [
        *(("rows", value, "a whole number from 1 to 4096") for value in ("x", None, [1], 0, -1, 1.5, True, 10**20)),
        *(("port_bits", value, "a whole number from 1 to 65536") for value in (0, "a")),
        *(("clock_mhz", value, "a number from 0.001 to 100000") for value in ("a", 0, -1, 1e-300, None)),
        *(("weight_kib", value, "a number from 0.001 to 1048576") for value in (0, -3, [])),
        ("accumulator_depth", 0, "a whole number from 1 to 1048576"),
        ("lanes", 0, "a whole number from 1 to 4096"),
        ("windowed", 2, "true or false"),
        ("packed", "x", "true or false"),
        ("dataflow", "zz", "one of weight-stationary, output-stationary"),
        ("fabric", ["hard"], "one of hard, logic"),
        ("zeros", [1], "one of compute, store, skip"),
        ("weight_memory", ["bram"], "one of bram, uram"),
    ],
)
def test_choices_of_a_part_file_that_cannot_be_are_named(tmp_path, space, choice, value, expected):
    path = part_file(tmp_path, choices={choice: [value]})
    with pytest.raises(ConfigError) as caught:
        space(str(path))
    assert f"part 'mine': choice {choice}={value!r}, expected {expected}" in str(caught.value)
    assert space is not find or str(caught.value).startswith(f"{path}: ")


def part_file(folder, **changes):
    path = folder / "part.json"
    form = {"format": "cosearch.part", "version": 1, "name": "mine", "family": "fpga", "budget": {"lut": 80000}}
    own = {"static_power_w": {"value": 0.1, "unit": "W", "status": "measured", "source": "x"}}
    path.write_text(json.dumps({**form, "includes": ["ecp5", "fpga_energy"], "costs": own, **changes}))
    return path


def test_a_choice_needs_a_value(tmp_path):
    with pytest.raises(ConfigError, match=r"part\.json: part 'mine': choice rows=\[\], expected at least one value"):
        find(str(part_file(tmp_path, choices={"rows": []})))


@pytest.mark.parametrize("count", [2**53 + 1, 2**63, 10**30, -1, 0.5, True])
def test_a_budget_beyond_floating_point_is_named(tmp_path, count):
    assert find(str(part_file(tmp_path, budget={"lut": 2**53}))).budget.lut == 2**53
    with pytest.raises(
        HardwareError, match=r"part\.json: budget lut=.*, expected an integer from 0 to 9007199254740992"
    ):
        find(str(part_file(tmp_path, budget={"lut": count})))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("bram_bits", 0, "part 'mine': cost 'bram_bits' is 0, expected at least 1"),
        ("bram_width_bits", 0, "part 'mine': cost 'bram_width_bits' is 0, expected at least 1"),
        ("dram_gbit_per_s", 0, "part 'mine': cost 'dram_gbit_per_s' is 0, expected at least 1e-06"),
        ("mac.lut", 1e308, r"cost 'mac\.lut' is 1e\+308 .*, expected a number from 0 to 1e\+09"),
    ],
)
def test_costs_that_nothing_can_be_counted_with_are_named(tmp_path, name, value, words):
    own = {"static_power_w": {"value": 0.1, "unit": "W", "status": "measured", "source": "x"}}
    path = part_file(tmp_path, costs={**own, name: {"value": value, "unit": "x", "status": "measured", "source": "x"}})
    with pytest.raises(CosearchError, match=rf"part\.json: .*{words}"):
        find(str(path))
