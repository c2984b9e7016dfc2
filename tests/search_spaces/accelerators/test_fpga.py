import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from cosearch.errors import ConfigError, HardwareError, UnknownNameError
from cosearch.hardware import Accelerator, Resources, load_device, part_names
from search_spaces.accelerators import ACCELERATORS, find, fpga

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
    with pytest.raises(HardwareError, match="cannot be read"):
        load_device(str(path))


def test_describing_devices_imports_nothing_slow():
    code = (
        "import sys; from search_spaces.accelerators import find; s = find('fpga'); s.describe(); s.engine_lists;"
        "s.accelerator(0, {'mac': 0}); print([m for m in ('torch', 'numba', 'sklearn', 'pandas') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
