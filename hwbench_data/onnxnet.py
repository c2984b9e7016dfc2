"""A workload as an ONNX network with random weights: what a runtime can be timed on."""

from collections.abc import Callable
from typing import Any

import numpy as np

from cosearch.errors import ConfigError
from cosearch.workload import INPUT, Layer, Workload

_OPSET = 17


def onnx_model(workload: Workload, activated: Callable[[Layer], bool] = lambda layer: False, seed: int = 0) -> bytes:
    """A serialised float32 model with one input ``x`` [1, C, H, W] and one output ``y``.

    activated: whether a rectifier stands in front of a layer. Batch-norm counts as folded into the convolutions.
    Raises: ConfigError for a layer that ONNX's standard operators do not have (shift, add, bitserial).
    """
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    nodes: list[Any] = []
    weights: list[Any] = []
    shapes = {"x": _input_shape(workload.layers[0])}
    names = ["x"]
    rectified: dict[str, str] = {}

    def source(layer: Layer, producer: int) -> str:
        name = names[producer + 1] if producer != INPUT else names[0]
        if not activated(layer):
            return name
        if name not in rectified:
            rectified[name] = f"{name}_relu"
            nodes.append(helper.make_node("Relu", [name], [rectified[name]]))
            shapes[rectified[name]] = shapes[name]
        return rectified[name]

    def constant(name: str, values: Any) -> str:
        weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    for i, (layer, producers) in enumerate(zip(workload.layers, workload.inputs, strict=True)):
        out = f"t{i}"
        inputs = [source(layer, producer) for producer in producers]
        if not inputs:  # what no path reaches is zeros, which a runtime folds away
            zeros = np.zeros((1, layer.C, layer.P * layer.stride[0], layer.Q * layer.stride[1]))
            inputs = [constant(f"{out}_zeros", zeros)]
            shapes[inputs[0]] = zeros.shape[1:]
        if layer.kind == "elementwise":
            if len(inputs) == 1:
                inputs = [inputs[0], inputs[0]]
            nodes.append(helper.make_node("Add", inputs, [out]))
        elif layer.kind == "pool":
            window = _window(layer, shapes[inputs[0]])
            nodes.append(helper.make_node("AveragePool", inputs, [out], count_include_pad=0, **window))
        elif layer.kind == "mac":
            window = _window(layer, shapes[inputs[0]])
            fan_in = layer.C // layer.groups * layer.R * layer.S
            shape = (layer.K, layer.C // layer.groups, layer.R, layer.S)
            kernel = constant(f"{out}_w", rng.standard_normal(shape) * np.sqrt(2 / fan_in))
            bias = constant(f"{out}_b", np.zeros(layer.K))
            dilations = list(layer.dilation)
            nodes.append(
                helper.make_node(
                    "Conv", [*inputs, kernel, bias], [out], group=layer.groups, dilations=dilations, **window
                )
            )
        else:
            raise ConfigError(f"layer {layer.name!r} is {layer.kind!r}: a runtime measures mac, pool and elementwise")
        shapes[out] = (layer.K, layer.P, layer.Q)
        names.append(out)
    nodes.append(helper.make_node("Flatten", [names[-1]], ["y"]))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, *shapes["x"]))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
    return bytes(model.SerializeToString())


def _input_shape(first: Layer) -> tuple[int, int, int]:
    """(channels, height, width) of the image whose "same" convolution the first layer is."""
    return first.C, first.P * first.stride[0], first.Q * first.stride[1]


def _window(layer: Layer, shape: tuple[int, ...]) -> dict[str, Any]:
    """Kernel, stride and the padding that gives the layer's output; an odd pixel is padded in front."""
    height = max(0, layer.input_height - shape[1])
    width = max(0, layer.input_width - shape[2])
    pads = [-(-height // 2), -(-width // 2), height // 2, width // 2]
    return {"kernel_shape": [layer.R, layer.S], "strides": list(layer.stride), "pads": pads}
