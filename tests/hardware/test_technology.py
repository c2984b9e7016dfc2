"""Silicon at a feature size: memories against published macros, and accelerators with memories of other sizes."""

import pytest
import torch

from cosearch.errors import ConfigError, HardwareError
from cosearch.hardware import Technology, resized
from search_spaces.accelerators import asic

# rows, bits of a row, um2, leakage in nW: area and cell_leakage_power of fakeram45_<rows>x<bits>.lib in
# OpenROAD-flow-scripts, platform nangate45 (made by bsg_fakeram with CACTI for 45 nm, 1.1 V)
MACROS = (
    (64, 7, 387.296, 26746),
    (64, 32, 1240.624, 81627.2),
    (32, 64, 1754.536, 78524.9),
    (64, 96, 4198.81, 163620),
    (256, 16, 3155.026, 169783),
    (256, 95, 13701.66, 697753),
    (512, 64, 17301.438, 823237),
    (1024, 32, 16406.082, 797666),
    (128, 256, 23378.74, 1023890),
    (2048, 39, 45478.818, 1876600),
)


def test_areas_of_published_macros_within_18_percent_and_8_on_average():
    ratios = [Technology(45).sram_um2(rows * bits / 8, bits) / area for rows, bits, area, _ in MACROS]
    assert all(0.82 < ratio < 1.18 for ratio in ratios)
    assert sum(abs(ratio - 1) for ratio in ratios) / len(ratios) < 0.08


def test_leakage_of_published_macros_within_a_third_and_14_percent_on_average():
    ratios = [Technology(45).leakage_w(0.0, area) * 1e9 / nw for _, _, area, nw in MACROS]
    assert all(0.67 < ratio < 1.33 for ratio in ratios)
    assert sum(abs(ratio - 1) for ratio in ratios) / len(ratios) < 0.14


def test_wide_rows_take_more_room_and_energy_at_the_same_capacity():
    technology = Technology(45)
    narrow, wide = (technology.sram_um2(4096.0, bits) for bits in (128, 2048))
    assert wide - narrow == pytest.approx(1920 * 9.423 - (256 - 16) * 1.454)
    assert technology.sram_pj(4096.0, 2048) == pytest.approx(16 * technology.sram_pj(4096.0, 128))
    assert technology.sram_pj(8192.0, 128) > technology.sram_pj(4096.0, 128)


def test_amounts_may_be_tensors_with_gradients():
    technology = Technology(28)
    size = torch.tensor([1000.0, 5000.0], dtype=torch.float64, requires_grad=True)
    for price in (technology.sram_pj, technology.sram_um2):
        assert torch.autograd.gradcheck(lambda x, price=price: price(x, 64.0), size)
        assert price(size, 64.0).tolist() == pytest.approx([price(1000.0, 64.0), price(5000.0, 64.0)])


@pytest.mark.parametrize("nm", [28, 45, 65])
def test_a_resized_accelerator_is_the_template_with_that_size(nm):
    base = asic.build("gemmini", {"nm": nm})
    other = resized(base, {"scratchpad": 16.0 * 4096, "accumulator": 4.0 * 512}, Technology(nm))
    built = asic.build("gemmini", {"nm": nm, "scratchpad_depth": 4096, "accumulator_depth": 512})
    assert other.levels == built.levels
    assert other.engines[0].levels == built.engines[0].levels
    assert other.area_mm2 == pytest.approx(built.area_mm2)
    assert other.static_power_w == pytest.approx(built.static_power_w)
    assert other.energies == built.energies


def test_what_is_no_sram_cannot_be_resized_and_a_feature_size_must_be_known():
    for name in ("register", "dram", "scratchpd"):
        with pytest.raises(HardwareError, match=f"level {name!r} cannot be resized, only accumulator, scratchpad"):
            resized(asic.build("gemmini"), {name: 100.0}, Technology(45))
    with pytest.raises(ConfigError, match="nm=7, expected one of 28, 45, 65"):
        Technology(7)
