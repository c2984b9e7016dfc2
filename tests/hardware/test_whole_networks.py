"""Everything a network does is priced, or listed with its share of operations and bytes, on every device."""

import math
from dataclasses import replace

import pytest

from cosearch import models
from cosearch.costs import price_workload, published_cost
from cosearch.errors import HardwareError
from cosearch.hardware import cost_tensor, layer_report
from cosearch.hardware.pricing import RESIDENCIES
from cosearch.hardware.report import network_report
from cosearch.models.recorder import FUSED, THROUGH_DRAM, UNKNOWN
from cosearch.workload import Layer
from search_spaces import accelerators
from search_spaces.accelerators.published import PublishedSpace

QUICK = ("ecp5-25f", "gemmini", "pim", "cpu", "hwnasbench-fpga")
DEVICES = [pytest.param(d, marks=() if d in QUICK else pytest.mark.slow) for d in accelerators.ACCELERATORS]
BESIDE = {
    "resnet18": {"relu": FUSED, "bias": FUSED},
    "vit_s16_block": {"native_layer_norm": UNKNOWN, "softmax": UNKNOWN, "gelu": FUSED, "bias": FUSED},
}


def rows_on(device, workload):
    """Layer by layer, on the device's best accelerator; of a template's whole space just on its first one."""
    space = accelerators.find(device)
    if hasattr(space, "accelerators"):
        return space.accelerators[0], layer_report(workload, space.accelerators[0])
    priced = price_workload(workload, device)
    return priced.accelerator, priced.report.rows


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("model", ["resnet18", "vit_s16_block"])
def test_every_layer_of_a_network_is_priced_on_every_device(device, model):
    workload, _ = models.report(model)
    if isinstance(accelerators.find(device), PublishedSpace):  # its table has other blocks only, and says so
        with pytest.raises(HardwareError, match="prices nothing of"):
            published_cost(workload, device)
        return
    accelerator, rows = rows_on(device, workload)
    assert [row.layer.name for row in rows] == [layer.name for layer in workload]
    for row in rows:
        assert 0 < row.roofline_ms * (1 - 1e-9) <= row.latency_ms < math.inf
        assert 0 < row.compulsory_mj * (1 - 1e-9) <= row.energy_mj < math.inf
        assert 0 < row.utilisation <= 1 + 1e-9
        assert sum(row.energy_pj.values()) * 1e-9 == pytest.approx(row.energy_mj)
    report = network_report(workload, accelerator)
    for metric in ("latency_ms", "energy_mj"):
        assert sum(getattr(row, metric) for row in report.rows) == pytest.approx(getattr(report.cost, metric))
    kinds = [row.layer.kind for row in rows]
    if model == "resnet18":
        assert (kinds[0], kinds[-1]) == ("mac", "mac")  # the first convolution and the classifier
        assert rows[0].layer.R == 7
        assert rows[-1].layer.K == 1000
        assert (kinds.count("elementwise"), kinds.count("pool")) == (8, 2)  # residual sums, both poolings
    else:
        assert kinds.count("elementwise") == 2
        products = [layer for layer in workload if layer.computed_weights]
        assert [layer.groups for layer in products] == [6, 6]  # of six heads: queries by keys, scores by values
    if accelerator.energies.requantise_pj:
        assert all(row.energy_pj.get("requantise", 1.0) > 0 for row in rows if row.layer.has_weights)


@pytest.mark.parametrize("model", sorted(BESIDE))
def test_what_is_no_layer_is_listed_with_shares_that_make_a_whole(model):
    workload, unpriced = models.report(model)
    found = {entry.operation: entry for entry in unpriced}
    weighted = [layer for layer in workload if layer.has_weights]
    assert found["requantisation"].operations == sum(layer.output_count for layer in weighted)
    assert found["host transfer"].reason == THROUGH_DRAM
    first, last = workload.layers[0], workload.layers[-1]
    image = 3 * 224 * 224 if model == "resnet18" else first.input_count
    assert found["host transfer"].bytes == image + last.output_count
    for name, reason in BESIDE[model].items():
        entry = next(entry for operation, entry in found.items() if name in operation)
        assert entry.reason == reason
        assert entry.operations > 0
    if model == "resnet18":
        assert found["batch norm"].operations == 0  # part of the weights
    operations = sum(layer.macs for layer in workload) + sum(entry.operations for entry in unpriced)
    for entry in unpriced:
        assert entry.share_of_operations == pytest.approx(entry.operations / operations)
    assert 0 < sum(entry.share_of_bytes for entry in unpriced) < 1


def test_attention_products_are_no_weights_of_the_network():
    workload, _ = models.report("vit_s16_block")
    assert workload.weight_count == 12 * 384**2  # queries, keys, values, projection, and both layers of the MLP
    assert workload.weight_bytes == workload.weight_count


@pytest.mark.parametrize("device", ["ecp5-25f", "tpu-os"])
def test_computed_weights_never_stay_on_chip(device):
    stored = Layer("scores", K=32, C=32, P=16, groups=2)
    kept = []
    for layer in (stored, replace(stored, computed_weights=True)):
        tensor = cost_tensor((layer,), accelerators.find(device), cache=False)
        front = tensor.hardware_front([1], 1e9)
        assert len(front)
        kept.append(any(RESIDENCIES[i].weights for i in front.residency))
    assert kept == [True, False]
