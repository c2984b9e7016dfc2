"""Exported ONNX models run in onnxruntime and give what the torch and the integer network give."""

import numpy as np
import onnxruntime
import pytest
import torch

from cosearch.blueprint import OPERATORS
from cosearch.export.onnx_model import float_model, integer_model
from cosearch.integer import integer_predictions, to_integer
from cosearch.macro import Macro
from cosearch.supernet.blocks import Network
from cosearch.supernet.training import Recipe, train_network
from search_spaces.networks import SPACES, find
from search_spaces.networks.shiftadd import macro_space


def run(model, images: np.ndarray, fused: bool = True) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


def trained(operator: str, digits) -> Network:
    macro = Macro((1, 8, 8), 10, 8, 1, ((8, 1, 1), (16, 2, 2)), 32)
    made = macro_space("one", macro, "one operator", (operator,), kernels=(3,), expansions=(2,))
    network = made.build(made.largest(operator), 1)
    train_network(network, digits.train, Recipe(epochs=3), 1)
    return network


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_in_both_forms(operator, digits):
    network = trained(operator, digits)
    images = digits.validation.x
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(run(float_model(network), images), expected, atol=1e-4, rtol=1e-4)
    integer = to_integer(network, torch.from_numpy(digits.train.x))
    model = integer_model(integer, (1, 8, 8), 10)
    exact = integer(torch.from_numpy(images)).numpy()
    # float32 has 24 bits where the hardware has 38: of some 10^4 values an image a few in 10^5 round the other way
    assert (run(model, images, fused=False) == exact).mean() > 0.8
    predicted = integer_predictions(integer, torch.from_numpy(images)).numpy()
    fused = run(model, images).argmax(1)  # integer kernels round the offsets: see `integer_model`
    assert (fused == predicted).mean() >= 0.95
    labels = digits.validation.y
    assert abs((fused == labels).mean() - (predicted == labels).mean()) <= 0.015


@pytest.mark.parametrize("name", SPACES)
def test_every_space_at_any_batch(name):
    made = find(name)((3, 10, 9), 7)
    rng = np.random.default_rng(0)
    network = made.build(made.sample(rng), 0).eval()
    model = float_model(network)
    assert model.opset_import[0].version == 21
    for batch in (1, 5):
        images = rng.standard_normal((batch, 3, 10, 9)).astype(np.float32)
        with torch.no_grad():
            expected = network(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(run(model, images), expected, atol=1e-4, rtol=1e-3)


def test_a_cell_without_a_path_exports():
    made = find("nasbench201")((1, 8, 8), 3)
    network = made.build(dict.fromkeys(made.choices, "none"), 0).eval()
    images = np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(run(float_model(network), images), expected, atol=1e-5)


@pytest.mark.parametrize(("k", "c", "size", "stride", "groups"), [(6, 4, 3, 2, 1), (6, 4, 3, 1, 2), (5, 300, 1, 1, 1)])
def test_additions_of_any_shape(k, c, size, stride, groups, monkeypatch):
    from cosearch.export import onnx_model
    from cosearch.operators.adder import add_conv2d

    monkeypatch.setattr(onnx_model, "BLOCK_CHANNELS", 700)  # so that the widest takes several blocks
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((k, c // groups, size, size)).astype(np.float32)
    images = rng.standard_normal((2, c, 7, 8)).astype(np.float32)
    graph = onnx_model._Graph()
    pooled = graph.node("GlobalMaxPool", [graph.l1("images", weight, stride, groups)])
    model = graph.model((c, 7, 8), graph.node("Flatten", [pooled]), k, "l1")
    full = add_conv2d(torch.from_numpy(images), torch.from_numpy(weight), stride, size // 2, groups=groups)
    np.testing.assert_allclose(run(model, images), full.amax((2, 3)).numpy(), atol=1e-3, rtol=1e-5)
