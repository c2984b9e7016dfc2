import pytest

from cosearch.workload import Layer, Workload
from search_spaces.accelerators import fpga


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("COSEARCH_CACHE", str(tmp_path / "cache"))


SMALL = {
    "rows": (2, 8),
    "cols": (4, 8),
    "weight_kib": (4.5, 36),
    "activation_kib": (4.5, 18),
    "port_bits": (64, 128),
    "clock_mhz": (75.0, 150.0),
}


@pytest.fixture
def small_space() -> fpga.FpgaSpace:
    return fpga.space("ecp5-25f", choices=SMALL)


@pytest.fixture
def network() -> Workload:
    """A stem, a shift pointwise, an add depthwise, a residual sum, a pool and a classifier."""
    return Workload(
        "toy",
        (
            Layer("stem", K=8, C=1, P=8, Q=8, R=3, S=3),
            Layer("pointwise", "shift", K=24, C=8, P=8, Q=8, weight_bits=5),
            Layer("depthwise", "add", K=24, C=24, P=4, Q=4, R=3, S=3, stride=2, groups=24),
            Layer("project", "shift", K=8, C=24, P=4, Q=4, weight_bits=5),
            Layer("sum", "elementwise", K=8, C=16, P=4, Q=4, groups=8),
            Layer("pool", "pool", K=8, C=8, R=4, S=4, groups=8),
            Layer("classifier", K=10, C=8),
        ),
    )
