"""The built-in networks against the figures that their papers and reference implementations state."""

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cosearch import models
from cosearch.errors import UnknownNameError
from cosearch.tracing import read_workload

PUBLISHED = {
    # name: (GMAC, half of its last digit, M parameters, half of its last digit)
    "resnet18": (1.814, 0.0005, 11.69, 0.005),
    "resnet20": (0.0406, 0.00005, 0.27, 0.005),
    "resnet50": (4.089, 0.0005, 25.56, 0.005),
    "mobilenetv2": (0.300, 0.001, 3.50, 0.005),
    "vgg16": (15.47, 0.005, 138.36, 0.005),
    "vit_s16": (4.6, 0.05, 22.05, 0.005),
}


def on_meta(name: str) -> torch.nn.Module:
    with torch.device("meta"):
        return models.build(name).eval()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_size(name: str) -> None:
    gmac, gmac_error, millions, millions_error = PUBLISHED[name]
    assert models.workload(name).macs / 1e9 == pytest.approx(gmac, abs=gmac_error)
    assert sum(p.numel() for p in on_meta(name).parameters()) / 1e6 == pytest.approx(millions, abs=millions_error)


@pytest.mark.parametrize("name", models.MODELS)
def test_macs_match_torch_counter(name: str) -> None:
    with FlopCounterMode(display=False) as counter, torch.device("meta"), torch.no_grad():
        on_meta(name)(torch.empty(models.INPUT_SHAPES[name]))
    assert 2 * models.workload(name).macs == counter.get_total_flops()


def test_block_sizes() -> None:
    """tokens x 12 dim^2 for the linear layers, 2 tokens^2 dim for attention; parameters of one BERT-base layer."""
    for name, tokens, dim in (("vit_s16_block", 197, 384), ("bert_base_block", 128, 768)):
        assert models.workload(name).macs == tokens * 12 * dim**2 + 2 * tokens**2 * dim
    assert sum(p.numel() for p in on_meta("bert_base_block").parameters()) == 7_087_872


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2", "vgg16"])
def test_weights_are_all_parameters_but_biases_and_norms(name: str) -> None:
    matrices = sum(p.numel() for p in on_meta(name).parameters() if p.dim() > 1)
    assert models.workload(name).weight_count == matrices


def test_networks_run() -> None:
    torch.manual_seed(0)
    for name, shape in (("resnet20", (2, 3, 32, 32)), ("mobilenetv2", (1, 3, 64, 64)), ("vit_s16_block", (1, 5, 384))):
        with torch.no_grad():
            output = models.build(name).eval()(torch.randn(shape))
        assert torch.isfinite(output).all()
        assert output.shape[0] == shape[0]


def test_other_input_shape() -> None:
    assert models.workload("resnet18", (4, 3, 32, 32)).layers[0].N == 4


def test_unknown_name() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'resnet50'"):
        models.build("resnet51")
    with pytest.raises(UnknownNameError, match="module:function"):
        read_workload("resnet51")


def test_import_needs_no_torch() -> None:
    code = "import sys, cosearch.tracing, cosearch.models; assert not {'torch', 'onnx'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
