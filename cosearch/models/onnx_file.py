"""Read the layers of an ONNX file; its weights are not looked at."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosearch.errors import CosearchError, DataError
from cosearch.models.recorder import (
    FUSED,
    MOVED,
    UNKNOWN,
    Producers,
    Recorder,
    Unpriced,
    batched_product_layer,
    checked_shape,
    convolution_layer,
    mean_layer,
    pointwise_layer,
    pool_layer,
    product_layer,
    sized_file,
    words,
)
from cosearch.workload import INPUT, Layer, Workload

LARGEST_BYTES = 1 << 29
LARGEST_NODES = 1 << 17
"""Once functions stand where they are called."""
LARGEST_FOLDED = 4096
"""Values of the largest tensor that counts as sizes and not as data."""

OPERANDS = {
    "Conv": (0, 1),
    "ConvInteger": (0, 1),
    "QLinearConv": (0, 3),
    "ConvTranspose": (0, 1),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearMatMul": (0, 3),
}
"""Where an operator that multiplies finds its two operands among its inputs."""
TWO_OPERANDS = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "QLinearAdd", "QLinearMul"})
VIEWS = words("Reshape Flatten Transpose Squeeze Unsqueeze Identity Split Slice Dropout Cast")
ACTIVATIONS = words(
    "Relu Clip LeakyRelu PRelu Elu Gelu HardSwish HardSigmoid Sigmoid Tanh Mish Softplus ThresholdedRelu Abs Neg Celu "
    "Selu Softsign Erf Sqrt Pow QuantizeLinear DequantizeLinear"
)
MOVEMENT = words("Concat Pad Gather Expand Tile Resize Upsample DepthToSpace SpaceToDepth Where")
FOLDED_OPERATORS = words(
    "Constant Gather Concat Unsqueeze Squeeze Cast Slice Add Sub Mul Div Mod Reshape Transpose Identity Equal Where "
    "ReduceProd"
)
OPERATIONS_PER_VALUE = {"Softmax": 5, "LogSoftmax": 5, "LayerNormalization": 6, "InstanceNormalization": 6}


def read_report(path: str | Path, input_shape: Sequence[int] | None = None) -> tuple[Workload, tuple[Unpriced, ...]]:
    """The layers of an ONNX file, and what they do not account for.

    input_shape: replaces the shape of the file's first input, batch included; without it an open batch is 1.
    Raises: DataError if the file is missing, larger than 512 MiB, damaged, or leaves a shape open that is needed.
    """
    file = sized_file(path, LARGEST_BYTES)
    import onnx

    try:
        return _read(onnx.load(str(file), load_external_data=False), input_shape, file)
    except CosearchError:
        raise
    except Exception as error:  # a damaged file fails in the parser, in shape inference, or as a node that lacks a part
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise DataError(f"{str(path)!r} is not an ONNX model that can be read ({reason}): export it again") from error


def _read(model: Any, input_shape: Sequence[int] | None, file: Path) -> tuple[Workload, tuple[Unpriced, ...]]:
    import onnx.inliner

    path = str(file)
    graph_input = _fix_input(model, input_shape, path)
    if model.functions:
        _check_functions(model, path)
        model = onnx.inliner.inline_local_functions(model)
    graph = _with_shapes(model).graph
    shapes = _shapes(graph)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    recorder = Recorder()
    producers: dict[str, Producers] = {value.name: (INPUT,) for value in graph.input if value.name not in constants}
    batch = shapes[graph_input][0]
    for node in graph.node:
        sources = sorted({j for name in node.input for j in producers.get(name, ())})
        if not sources or node.op_type in ("Shape", "Size"):
            continue  # a constant, whatever it is used for
        reader = _Node(node, shapes, constants, producers, path)
        made = recorder.add(layer, sources) if (layer := reader.layer(batch)) else tuple(sources)
        if layer is None or reader.bias:
            reader.note(recorder, priced=layer is not None)
        producers |= dict.fromkeys(node.output, made)
    outputs = sum(math.prod(shapes[value.name]) for value in graph.output)
    return recorder.finish(graph.name or file.stem, math.prod(shapes[graph_input]), outputs)


def _check_functions(model: Any, path: str) -> None:
    """Count what the functions of a model become once they stand where they are called, before they do.

    Raises: DataError if they call themselves, or become too much: ten calls of ten calls of ... are a small file.
    """
    functions = {_key(function.domain, function.name, function.overload): function for function in model.functions}
    bodies = {key: _body(function.node, functions) for key, function in functions.items()}
    sizes: dict[_Key, tuple[int, int]] = {}
    opened, waiting = set(), list(functions)
    while waiting:
        key = waiting[-1]
        missing = [callee for callee in bodies[key].calls if callee not in sizes] if key not in sizes else []
        if missing and key in opened:
            raise DataError(f"{path!r}: function {key[1]!r:.80} calls itself, which no ONNX model may: export it again")
        opened.add(key)
        if not missing:
            sizes.setdefault(key, bodies[key].expanded(sizes))
            waiting.pop()
        waiting += missing
    nodes, size = _body(model.graph.node, functions).expanded(sizes)
    if nodes > LARGEST_NODES or size > LARGEST_BYTES:
        raise DataError(
            f"{path!r}: its functions become more than {LARGEST_NODES:,} nodes or {LARGEST_BYTES >> 20} MiB where they "
            "are called: export the model without them"
        )


_Key = tuple[str, str, str]
"""Domain, name and overload of a function."""


def _key(domain: str, name: str, overload: str) -> _Key:
    return ("" if domain == "ai.onnx" else domain, name, overload)


@dataclass(frozen=True)
class _Body:
    """nodes, size: of a graph or a function, with its subgraphs, in bytes. calls: of functions, how often each."""

    nodes: int
    size: int
    calls: Counter[_Key]

    def expanded(self, sizes: Mapping[_Key, tuple[int, int]]) -> tuple[int, int]:
        """Nodes and bytes with the functions that are called, at most one more than the largest."""
        nodes = self.nodes + sum(n * sizes[key][0] for key, n in self.calls.items())
        size = self.size + sum(n * sizes[key][1] for key, n in self.calls.items())
        return min(nodes, LARGEST_NODES + 1), min(size, LARGEST_BYTES + 1)


def _body(nodes: Any, functions: Mapping[_Key, Any]) -> _Body:
    size, count, calls, graphs = sum(node.ByteSize() for node in nodes), 0, Counter[_Key](), [nodes]
    while graphs:
        for node in graphs.pop():
            count += 1
            key = _key(node.domain, node.op_type, node.overload)
            calls.update([key] if key in functions else [])
            for attribute in node.attribute:
                graphs += [graph.node for graph in (attribute.g, *attribute.graphs)]
    return _Body(count, size, calls)


def _shapes(graph: Any) -> dict[str, tuple[int, ...]]:
    """Sizes of all values that have any, 0 for an open one."""
    values = [*graph.input, *graph.value_info, *graph.output]
    shapes = {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in values}
    return shapes | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def _with_shapes(model: Any) -> Any:
    """The model with the sizes of its values, computing those that it computes from other sizes.

    Exporters write reshapes and paddings as small programs over sizes, which shape inference alone does not run.
    """
    import onnx.shape_inference

    while True:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        if not _fold(model.graph):
            return model


def _fold(graph: Any) -> bool:
    """Replace small nodes over known sizes and constants by their results; whether there were any."""
    import numpy
    import onnx.numpy_helper
    import onnx.reference

    shapes = _shapes(graph)
    known = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if math.prod(tensor.dims) <= LARGEST_FOLDED and not tensor.external_data
    }
    kept, results = [], {}
    for node in graph.node:
        inputs = [name for name in node.input if name]
        values: dict[str, Any] = {}
        if node.op_type == "Shape" and all(shapes.get(inputs[0], (0,))) and not node.attribute:
            values = {node.output[0]: numpy.array(shapes[inputs[0]], dtype=numpy.int64)}
        elif all(name in known for name in inputs) and _is_small(node, known):
            made = onnx.reference.ReferenceEvaluator(node).run(None, {name: known[name] for name in inputs})
            values = dict(zip(node.output, map(numpy.asarray, made), strict=True))
        if not values or any(value.size > LARGEST_FOLDED for value in values.values()):
            kept.append(node)
        else:
            known |= values
            results.update(values)
    del graph.node[:]
    graph.node.extend(kept)
    graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in results.items())
    return bool(results)


def _is_small(node: Any, known: Mapping[str, Any]) -> bool:
    """Whether a node over known values is one that is computed, and can only give few values."""
    if node.op_type == "ConstantOfShape":
        return 0 <= math.prod(int(size) for size in known[node.input[0]]) <= LARGEST_FOLDED
    return node.op_type in FOLDED_OPERATORS


def _fix_input(model: Any, input_shape: Sequence[int] | None, path: str) -> str:
    """Write sizes into the first input that is not a weight; returns its name."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if not inputs:
        raise DataError(f"{path!r} has no input: expected a network with at least one")
    dims = inputs[0].type.tensor_type.shape.dim
    if input_shape is not None:
        if len(input_shape) != len(dims):
            raise DataError(f"{path!r} takes an input of {len(dims)} dimensions, got {tuple(input_shape)}")
        for dim, size in zip(dims, checked_shape(input_shape), strict=True):
            dim.dim_value = size
    if dims and not dims[0].dim_value:
        dims[0].dim_value = 1
    if not dims or not all(dim.dim_value for dim in dims):
        sizes = [dim.dim_value or dim.dim_param or "?" for dim in dims]
        raise DataError(f"{path!r} leaves the size of input {inputs[0].name!r} open ({sizes}): give input_shape")
    return str(inputs[0].name)


@dataclass
class _Node:
    """One ONNX node, with what is known of the values that it reads."""

    node: Any
    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, Any]
    producers: Mapping[str, Producers]
    path: str
    bias: bool = False

    def shape(self, name: str) -> tuple[int, ...]:
        found = self.shapes.get(name, ())
        if not found or not all(found):
            raise DataError(
                f"{self.path!r}: node {self.node.name!r} ({self.node.op_type}) has a value {name!r} of open shape "
                f"{found}: export with fixed sizes"
            )
        return found

    def attribute(self, name: str, default: Any) -> Any:
        for attribute in self.node.attribute:
            if attribute.name == name:
                return list(attribute.ints) or attribute.i
        return default

    def active(self, name: str) -> bool:
        return name in self.producers

    def layer(self, batch: int) -> Layer | None:
        """The layer that this node is, or None."""
        kind, inputs = self.node.op_type, self.node.input
        name = self.node.name or self.node.output[0]
        if kind in OPERANDS:
            left, right = (inputs[i] for i in OPERANDS[kind])
            if "Conv" in kind:
                return self.convolution(name, left, right)
            return self.product(name, left, right, batch)
        if kind in ("MaxPool", "AveragePool") and len(self.shape(inputs[0])) == 4:
            kernel = self.attribute("kernel_shape", None)
            stride, dilation = self.attribute("strides", (1, 1)), self.attribute("dilations", (1, 1))
            return pool_layer(name, self.shape(self.node.output[0]), kernel, stride, dilation)
        if kind in ("GlobalAveragePool", "GlobalMaxPool") and len(self.shape(inputs[0])) == 4:
            return mean_layer(name, self.shape(inputs[0]), (2, 3))
        if kind == "ReduceMean":
            return mean_layer(name, self.shape(inputs[0]), self.axes())
        if kind in TWO_OPERANDS and sum(self.active(value) for value in inputs) >= 2:
            return pointwise_layer(name, self.shape(self.node.output[0]))
        return None

    def convolution(self, name: str, source: str, weight: str) -> Layer | None:
        kernel = self.shape(weight)
        if len(kernel) not in (3, 4):
            return None
        plain = (1,) * (len(kernel) - 2)
        self.bias = self.node.op_type in ("Conv", "ConvTranspose") and len(self.node.input) > 2
        return convolution_layer(
            name,
            self.shape(source),
            kernel,
            self.shape(self.node.output[0]),
            self.attribute("strides", plain),
            self.attribute("dilations", plain),
            self.attribute("group", 1),
            self.node.op_type == "ConvTranspose",
        )

    def product(self, name: str, left: str, right: str, batch: int) -> Layer:
        self.bias = self.node.op_type == "Gemm" and len(self.node.input) > 2
        output = self.shape(self.node.output[0])
        first, second = self.shape(left), self.shape(right)
        inner = first[0] if self.attribute("transA", 0) else first[-1]
        if self.active(left) and self.active(right):
            return batched_product_layer(name, math.prod(output[:-2]), output[-2], inner, output[-1])
        if self.active(right) and len(second) > 1:
            return product_layer(name, math.prod(output[:-2]) * output[-1], inner, output[-2], batch)
        return product_layer(name, math.prod(output[:-1]), inner, output[-1], batch)

    def axes(self) -> Sequence[int]:
        if len(self.node.input) > 1 and self.node.input[1] in self.constants:
            import onnx.numpy_helper

            return [int(axis) for axis in onnx.numpy_helper.to_array(self.constants[self.node.input[1]])]
        return list(self.attribute("axes", ()))

    def note(self, recorder: Recorder, priced: bool) -> None:
        kind = self.node.op_type
        size = math.prod(self.shapes.get(self.node.output[0], (0,)))
        if priced:
            recorder.note("bias", FUSED, size, 4.0 * math.prod(self.shapes.get(self.node.input[2], (0,))))
        elif kind == "BatchNormalization":
            recorder.note_batch_norm(self.producers[self.node.input[0]], size)
        elif kind in ACTIVATIONS or kind in TWO_OPERANDS:
            recorder.note(kind, FUSED, size, 0.0)
        elif kind in MOVEMENT:
            recorder.note(kind, MOVED, 0, 2.0 * size)
        elif kind not in VIEWS:
            read = sum(math.prod(self.shapes.get(name, (0,))) for name in self.node.input if self.active(name))
            work = OPERATIONS_PER_VALUE.get(kind, 1) * max(size, read)
            recorder.note(kind, UNKNOWN, work, float(read + size))
