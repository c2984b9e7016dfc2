"""The presets against HW-NAS-Bench's published figures.

A handful of them stand here. Set COSEARCH_REFERENCE_DATA to the folder with hwnasbench_fbnet_lut.parquet to check all.
"""

import math
import os
from pathlib import Path
from typing import Any

import pytest

from cosearch import models
from cosearch.errors import UnknownNameError
from cosearch.hardware.published import (
    DEVICES,
    InvertedBottleneck,
    blocks,
    eyeriss_elements,
    eyeriss_layer_cycles,
    find,
)
from cosearch.workload import Layer, Workload

FPGA = find("hwnasbench-fpga")
EYERISS = find("hwnasbench-eyeriss")

PUBLISHED = [
    # size, in, out, expansion, kernel, stride, groups; FPGA ms; Eyeriss ms, None where the rule is not exact
    ((4, 184, 184, 1, 3, 1, 1), 0.576, 0.076544),
    ((4, 184, 184, 3, 5, 1, 1), 1.70496, 0.179584),
    ((4, 184, 352, 6, 3, 1, 1), 4.7904, 0.376832),
    ((8, 112, 184, 6, 5, 2, 1), 1.584, 0.25088),
    ((16, 32, 64, 3, 3, 2, 1), 0.31488, None),
    ((32, 16, 24, 3, 5, 1, 1), 1.19808, 0.188416),
    ((7, 184, 184, 3, 3, 1, 1), 4.08096, None),
    ((14, 112, 112, 1, 5, 1, 2), 1.0584, None),
    ((28, 32, 32, 6, 3, 1, 1), 4.16064, 0.3584),
    ((112, 16, 16, 3, 3, 1, 1), 10.01472, 1.118208),
    ((112, 16, 24, 6, 5, 2, 1), 6.21696, None),
]

EYERISS_LAYERS = [
    (Layer("stem", K=16, C=3, P=32, Q=32, R=3, S=3), 0.018432),
    (Layer("head", K=1984, C=352, P=7, Q=7), 0.888832),
    (Layer("head", K=1504, C=352, P=4, Q=4), 0.385024),
    (Layer("pool", "pool", K=1504, C=1504, R=4, S=4, groups=1504), 2.262016),
    (Layer("pool", "pool", K=1984, C=1984, R=7, S=7, groups=1984), 13.776896),
    (Layer("classifier", K=10, C=1504), 0.000752),
    (Layer("classifier", K=100, C=1504), 0.006016),
    (Layer("classifier", K=1000, C=1984), 0.07936),
]


def fbnet(last_groups: int = 1) -> Workload:
    """The CIFAR-100 FBNet of 22 blocks of 3x3, expansion 1; only the last block may be grouped."""
    layers = [Layer("stem", K=16, C=3, P=32, Q=32, R=3, S=3)]
    size, channels = 32, 16
    stages = zip((16, 24, 32, 64, 112, 184, 352), (1, 4, 4, 4, 4, 4, 1), (1, 1, 2, 2, 1, 2, 1), strict=True)
    for outputs, repeats, first_stride in stages:
        for i in range(repeats):
            stride = first_stride if i == 0 else 1
            groups = last_groups if outputs == 352 else 1
            layers += InvertedBottleneck(size, channels, outputs, 1, 3, stride, groups).layers()
            size, channels = size // stride, outputs
    layers += [
        Layer("head", K=1504, C=352, P=4, Q=4),
        Layer("pool", "pool", K=1504, C=1504, R=4, S=4, groups=1504),
        Layer("classifier", K=100, C=1504),
    ]
    return Workload("fbnet", tuple(layers))


def table() -> Any:
    """The whole published table of blocks, or a skip that says how to get it."""
    folder = os.environ.get("COSEARCH_REFERENCE_DATA", "")
    file = Path(folder) / "hwnasbench_fbnet_lut.parquet"
    if not folder or not file.is_file():
        pytest.skip("set COSEARCH_REFERENCE_DATA to the folder with hwnasbench_fbnet_lut.parquet")
    import pandas

    frame = pandas.read_parquet(file)
    return frame[(frame.block == "ConvBlock") & frame.valid]


def predicted(device: Any, rows: Any) -> list[tuple[float, float]]:
    return [
        device.price(InvertedBottleneck(r.H, r.cin, r.cout, r.exp, r.kernel, r.stride, r.group).layers())
        for r in rows.itertuples()
    ]


@pytest.mark.parametrize(("block", "fpga_ms", "eyeriss_ms"), PUBLISHED)
def test_published_blocks(block: tuple[int, ...], fpga_ms: float, eyeriss_ms: float | None) -> None:
    layers = InvertedBottleneck(*block).layers()
    assert FPGA.price(layers) == pytest.approx((fpga_ms, 7 * fpga_ms), rel=1e-9)
    latency, energy = EYERISS.price(layers) or (0.0, 0.0)
    assert math.isnan(energy)
    if eyeriss_ms is not None:
        assert latency == pytest.approx(eyeriss_ms, rel=1e-9)


@pytest.mark.parametrize(("layer", "milliseconds"), EYERISS_LAYERS)
def test_published_eyeriss_layers(layer: Layer, milliseconds: float) -> None:
    assert eyeriss_layer_cycles(layer) == pytest.approx(milliseconds * 250e3, rel=1e-9)


@pytest.mark.parametrize(("groups", "fpga_ms"), [(1, 10.73952), (2, 10.34784)])
def test_published_networks(groups: int, fpga_ms: float) -> None:
    """Totals that the benchmark's own query interface gives; its FPGA table charges the blocks alone."""
    cost = FPGA.cost(fbnet(groups))
    assert (cost.latency_ms, cost.energy_mj) == pytest.approx((fpga_ms, 7 * fpga_ms), rel=1e-9)
    assert cost.unpriced == ("stem", "head", "pool", "classifier")
    assert len(cost.blocks) == 22


def test_published_eyeriss_network() -> None:
    cost = EYERISS.cost(fbnet())
    assert cost.latency_ms == pytest.approx(3.940896, rel=2e-3)
    assert cost.unpriced == ()


def test_whole_fpga_table() -> None:
    rows = table()
    latency = rows[(rows.device == "fpga") & (rows.metric == "latency")]
    energy = rows[(rows.device == "fpga") & (rows.metric == "energy")]
    assert len(latency) == len(energy) == 192
    assert [ms for ms, _ in predicted(FPGA, latency)] == pytest.approx(list(latency.value), rel=1e-9)
    assert [mj for _, mj in predicted(FPGA, energy)] == pytest.approx(list(energy.value), rel=1e-9)


def test_whole_eyeriss_table() -> None:
    rows = table()
    rows = rows[(rows.device == "eyeriss") & (rows.metric == "latency")].copy()
    rows["predicted"] = [ms for ms, _ in predicted(EYERISS, rows)]
    exact = (rows.predicted / rows.value - 1).abs() < 1e-9
    assert rows.predicted.corr(rows.value, method="spearman") >= 0.995
    assert exact.mean() > 0.6


def test_elements_by_brute_force() -> None:
    for rows, outputs, inputs, kernel in ((7, 12, 30, 1), (28, 32, 24, 3), (1, 10, 1504, 1), (5, 7, 11, 5)):
        best = max(
            e * k * kernel * c * k2
            for e in range(1, 15)
            for k in range(1, 15)
            for c in range(1, 13)
            for k2 in range(1, 13)
            if rows % e == 0 and outputs % (k * k2) == 0 and inputs % c == 0
            if e * k <= 14 and kernel * c * k2 <= 12
        )
        assert eyeriss_elements(rows, outputs, inputs, kernel) == best


def test_blocks_of_a_traced_network() -> None:
    network = models.workload("mobilenetv2")
    groups = blocks(network)
    assert [layer for group in groups for layer in group] == list(network.layers)
    bottlenecks = [group for group in groups if len(group) > 1]
    assert [len(group) for group in bottlenecks] == [2] + [3] * 16
    assert len(FPGA.cost(network).blocks) == 17
    assert {name for name in FPGA.cost(network).unpriced if name.endswith("add")}


def test_layers_that_no_table_charges() -> None:
    chain = Workload(
        "w", (Layer("shift", "shift", K=8, C=8, P=4, Q=4), Layer("sum", "elementwise", K=8, C=16, groups=8))
    )
    for device in DEVICES.values():
        cost = device.cost(chain)
        assert (cost.blocks, cost.latency_ms, cost.unpriced) == ((), 0, ("shift", "sum"))


def test_unknown_device() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'hwnasbench-fpga'"):
        find("hwnasbench-fpgas")
