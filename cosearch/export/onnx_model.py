"""Networks as ONNX: the float network, and the integer network with quantise and dequantise nodes (QDQ).

Both are one walk over the steps that everything else derives from. An L1 layer is written with standard nodes: per
kernel position a slice of the input, minus the weights, absolute, summed; over channels in blocks of output channels,
so that no intermediate is larger than `BLOCK_CHANNELS` channels.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cosearch.blueprint import Conv, Linear, Norm, Pool, Sum
from cosearch.workload import INPUT

if TYPE_CHECKING:
    from cosearch.integer import IntegerNetwork, Requantise
    from cosearch.supernet.blocks import Network

OPSET = 21
IR_VERSION = 10
BLOCK_CHANNELS = 4096
"""Channels of the largest intermediate of an L1 layer."""
Array = npt.NDArray[Any]


class _Graph:
    """Collects nodes and constants; every method returns the name of a value."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.count = 0

    def constant(self, value: Array) -> str:
        from onnx import numpy_helper

        name = self._name("c")
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        from onnx import helper

        name = self._name(kind.lower())
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def _name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def model(self, image: tuple[int, int, int], logits: str, classes: int, producer: str) -> Any:
        """The model with a dynamic batch: ``images`` N x C x H x W to ``logits`` N x classes."""
        import onnx
        from onnx import TensorProto, helper

        output = self.nodes[-1].output[0]
        assert output == logits
        self.nodes[-1].output[0] = "logits"
        graph = helper.make_graph(
            self.nodes,
            producer,
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *image])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
            self.constants,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="cosearch")
        made.ir_version = IR_VERSION
        onnx.checker.check_model(made, full_check=True)
        return made

    # -- what both forms are made of --

    def float(self, value: Any) -> str:
        return self.constant(np.asarray(value, dtype=np.float32))

    def conv(self, x: str, weight: str, shape: Sequence[int], stride: int, groups: int, bias: str | None = None) -> str:
        """shape: of the weight."""
        margin, kernel = shape[-1] // 2, list(shape[2:])
        inputs = [x, weight] if bias is None else [x, weight, bias]
        return self.node("Conv", inputs, kernel_shape=kernel, strides=[stride, stride], pads=[margin] * 4, group=groups)

    def l1(self, x: str, weight: Array, stride: int, groups: int) -> str:
        """Minus the sum of absolute differences; "same" padding with zeros. weight: K x C/groups x k x k."""
        size = weight.shape[-1]
        margin = size // 2
        if margin:
            x = self.node("Pad", [x, self.constant(np.array([0, 0, margin, margin, 0, 0, margin, margin]))])
        total = None
        for row in range(size):
            for column in range(size):
                tap = self._tap(x, row, column, size, stride)
                part = self._distances(tap, weight[:, :, row, column], groups)
                total = part if total is None else self.node("Add", [total, part])
        assert total is not None
        return self.node("Neg", [total])

    def _tap(self, x: str, row: int, column: int, size: int, stride: int) -> str:
        """The input pixel of every output under one kernel position."""
        if size == 1 and stride == 1:
            return x
        # the padded image ends size - 1 pixels after the last start of a window
        ends = np.array([row - (size - 1) or 2**31 - 1, column - (size - 1) or 2**31 - 1])
        starts, axes, steps = np.array([row, column]), np.array([2, 3]), np.array([stride, stride])
        return self.node("Slice", [x, *(self.constant(v) for v in (starts, ends, axes, steps))])

    def _distances(self, x: str, weight: Array, groups: int) -> str:
        """Sums over channels of |x - w|. weight: K x C/groups."""
        k, c = weight.shape
        if c == 1 and groups == k:
            difference = self.node("Sub", [x, self.float(weight.reshape(1, k, 1, 1))])
            return self.node("Abs", [difference])
        blocks = []
        per_group, rows = k // groups, max(1, BLOCK_CHANNELS // c)
        for group in range(groups):
            entry = x
            if groups > 1:
                bounds = (np.array([group * c]), np.array([group * c + c]), np.array([1]))
                entry = self.node("Slice", [x, *(self.constant(v) for v in bounds)])
            entry = self.node("Unsqueeze", [entry, self.constant(np.array([1]))])
            for start in range(group * per_group, (group + 1) * per_group, rows):
                block = weight[start : min(start + rows, (group + 1) * per_group)]
                difference = self.node("Sub", [entry, self.float(block.reshape(1, *block.shape, 1, 1))])
                absolute = self.node("Abs", [difference])
                blocks.append(self.node("ReduceSum", [absolute, self.constant(np.array([2]))], keepdims=0))
        return blocks[0] if len(blocks) == 1 else self.node("Concat", blocks, axis=1)

    def quantised(self, x: str, low: int, high: int, scale: str | None = None) -> str:
        """x rounded to steps of `scale` (1 by default) and held within [low, high]; in those steps."""
        step = scale if scale is not None else self.float(1.0)
        kind = np.uint8 if low == 0 else np.int16 if high > 127 else np.int8
        zero = self.constant(np.zeros((), kind))
        written = self.node("QuantizeLinear", [x, step, zero])
        read = self.node("DequantizeLinear", [written, self.float(1.0), zero])
        return read if low in (0, np.iinfo(kind).min) else self.node("Max", [read, self.float(low)])

    def dequantised(self, weight: Array, scale: Array, axis: int | None) -> str:
        """Whole-number weights in the narrowest type that holds them, times a scale along an axis."""
        low, high = int(weight.min()), int(weight.max())
        kind = np.int8 if low >= -128 and high <= 127 else np.int16
        held = self.constant(weight.astype(kind))
        if axis is None:
            return self.node("DequantizeLinear", [held, self.float(scale.reshape(()))])
        return self.node("DequantizeLinear", [held, self.float(scale)], axis=axis)

    def zeros(self, channels: int, size: tuple[int, int]) -> str:
        batch = self.node("Shape", ["images"], start=0, end=1)
        shape = self.node("Concat", [batch, self.constant(np.array([channels, *size]))], axis=0)
        return self.node("ConstantOfShape", [shape])

    def pool(self, x: str, kernel: tuple[int, int], stride: int, whole: bool) -> str:
        if whole:
            return self.node("GlobalAveragePool", [x])
        margin = (kernel[0] - 1) // 2 if stride == 1 else 0
        return self.node(
            "AveragePool",
            [x],
            kernel_shape=list(kernel),
            strides=[stride, stride],
            pads=[margin] * 4,
            ceil_mode=1,
            count_include_pad=0,
        )


def float_model(network: "Network") -> Any:
    """The trained network with batch-norm as trained, as an `onnx.ModelProto`. Input: standardised images."""
    network = network.cpu().eval()
    graph = _Graph()
    values = {INPUT: "images"}
    for i, step in enumerate(network.blueprint.steps):
        entries = [values[j] for j in step.reads]
        if isinstance(step, Conv):
            values[i] = _float_unit(graph, network, step, entries[0])
        elif isinstance(step, Norm):
            values[i] = graph.node("Relu", [_batch_norm(graph, network.norm(step), entries[0])])
        elif isinstance(step, Pool):
            values[i] = graph.pool(entries[0], step.kernel, step.stride, step.size == (1, 1))
        elif isinstance(step, Linear):
            flat = graph.node("Flatten", entries)
            weight, bias = (p.detach().numpy() for p in (network.classifier.weight, network.classifier.bias))
            values[i] = graph.node("Gemm", [flat, graph.float(weight), graph.float(bias)], transB=1)
        else:
            assert isinstance(step, Sum)
            values[i] = graph.node("Sum", entries) if entries else graph.zeros(step.channels, step.size)
    last = network.blueprint.classifier
    logits = values[len(network.blueprint.steps) - 1]
    return graph.model(network.blueprint.input_shape, logits, last.out_channels, "network")


def _float_unit(graph: _Graph, network: "Network", step: Conv, x: str) -> str:
    from cosearch.supernet import arithmetic

    unit = network.unit(step.name)
    if step.relu == "before":
        x = graph.node("Relu", [x])
    weights = [w.detach() for w in unit.weights]
    if step.op == "add":
        x = graph.l1(x, weights[0].numpy(), step.stride, step.groups)
    else:
        for stage, weight in arithmetic.stages(step, weights):
            seen = arithmetic.trained_weight(stage, weight).numpy()
            x = graph.conv(x, graph.float(seen), seen.shape, stage.stride, stage.groups)
    x = _batch_norm(graph, unit.bn, x)
    return graph.node("Relu", [x]) if step.relu == "after" else x


def _batch_norm(graph: _Graph, norm: Any, x: str) -> str:
    parameters = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    return graph.node(
        "BatchNormalization", [x, *(graph.float(p.detach().numpy()) for p in parameters)], epsilon=norm.eps
    )


def integer_model(network: "IntegerNetwork", image: tuple[int, int, int], classes: int) -> Any:
    """The integer network in QDQ form, as an `onnx.ModelProto`. Input: standardised images; output: integer logits.

    One step of an activation is written as 1.0; a layer's 16-bit multiplier and shift as the scale of its weights, its
    offset as a bias. Computed node by node in float32 all but a few values in 10^5 are the hardware's; runtimes that
    fuse the nodes into integer kernels round offsets to whole accumulator steps: some values move by a few steps.
    """
    from cosearch.integer import IntegerConv, IntegerLinear, IntegerNorm, IntegerPool, IntegerZeros

    graph = _Graph()
    step_of_input = graph.float(network.input_step)
    values = {INPUT: graph.quantised("images", -127, 127, step_of_input)}
    for i, (step, reads) in enumerate(zip(network.steps, network.reads, strict=True)):
        entries = [values[j] for j in reads]
        if isinstance(step, IntegerConv):
            values[i] = _integer_conv(graph, step, entries[0])
        elif isinstance(step, IntegerNorm):
            gain, offset = _real(step.requantise)
            scaled = graph.node("Mul", [entries[0], graph.float(gain.reshape(1, -1, 1, 1))])
            shifted = graph.node("Add", [scaled, graph.float(offset.reshape(1, -1, 1, 1))])
            values[i] = graph.quantised(shifted, step.requantise.low, step.requantise.high)
        elif isinstance(step, IntegerPool):
            pooled = graph.pool(entries[0], step.kernel, step.stride, step.global_)
            # QuantizeLinear rounds halves to even, hardware upwards: less than the least distance decides for it
            upwards = graph.float(0.25 / (step.kernel[0] * step.kernel[1]))
            values[i] = graph.quantised(graph.node("Add", [pooled, upwards]), -127, 255)
        elif isinstance(step, IntegerZeros):
            values[i] = graph.zeros(step.size[0], step.size[1:])
        elif isinstance(step, IntegerLinear):
            weight = graph.dequantised(step.weight.numpy(), np.ones(1, np.float32), None)
            bias = graph.float(step.bias.numpy())
            values[i] = graph.node("Gemm", [graph.node("Flatten", entries), weight, bias], transB=1)
        else:
            ratios = [graph.float(m / 2.0**step.shift) for m in step.multipliers]
            parts = [graph.node("Mul", [x, r]) for x, r in zip(entries, ratios, strict=True)]
            upwards = graph.float(2.0 ** -(step.shift + 1))
            values[i] = graph.quantised(graph.node("Sum", [*parts, upwards]), -127, 127)
    return graph.model(image, values[len(network.steps) - 1], classes, "integer-network")


def _real(requantise: "Requantise") -> tuple[Array, Array]:
    """A requantisation as gain * accumulator + offset in real numbers, its own rounding left out. [K] each."""
    power = 2.0 ** -requantise.shift.double().numpy()
    half = 2.0 ** (requantise.shift.double().numpy() - 1)
    return requantise.multiplier.numpy() * power, (requantise.offset.numpy() - half) * power


def _integer_conv(graph: _Graph, step: Any, x: str) -> str:
    gain, offset = _real(step.requantise)
    if step.relu:
        x = graph.node("Relu", [x])
    weight = step.weight.numpy()
    if step.op == "add":
        distance = graph.l1(x, weight.astype(np.float32), step.stride, step.groups)
        scaled = graph.node("Mul", [distance, graph.float(gain.reshape(1, -1, 1, 1))])
        y = graph.node("Add", [scaled, graph.float(offset.reshape(1, -1, 1, 1))])
    else:
        signed = weight * np.where(gain < 0, -1, 1).reshape(-1, 1, 1, 1)  # scales are positive
        held = graph.dequantised(signed, np.maximum(np.abs(gain), 1e-30).astype(np.float32), 0)
        y = graph.conv(x, held, weight.shape, step.stride, step.groups, graph.float(offset))
    return graph.quantised(y, step.requantise.low, step.requantise.high)
