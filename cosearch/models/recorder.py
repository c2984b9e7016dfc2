"""Collects the layers of a network while a front end walks through it, and makes layers from tensor shapes."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cosearch.errors import DataError, HardwareError
from cosearch.workload import INPUT, Layer, Workload

Producers = tuple[int, ...]
"""Indices of the layers that a tensor comes from; `INPUT` for the network's input."""

FOLDED = "folded into the weights of the layer before it"
FUSED = "done as the values leave the array"
MOVED = "data movement without arithmetic"
THROUGH_DRAM = "input and output through DRAM: priced with the network, not with a layer"
UNKNOWN = "no cost model"


@dataclass(frozen=True)
class Unpriced:
    """An operation of the network that no layer stands for.

    operations: arithmetic operations, one per output value where nothing better is known.
    bytes: memory traffic at 8 bits a value, 0 where the values never leave the array.
    share_of_operations, share_of_bytes: of the whole network, priced layers included.
    """

    operation: str
    reason: str
    calls: int
    operations: int
    bytes: float
    share_of_operations: float
    share_of_bytes: float


@dataclass
class Recorder:
    """Layers, producer edges and unpriced operations, in the order in which the network runs."""

    layers: list[Layer] = field(default_factory=list)
    inputs: list[Producers] = field(default_factory=list)
    unpriced: dict[tuple[str, str], tuple[int, int, float]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def add(self, layer: Layer, producers: Iterable[int]) -> Producers:
        """Append a layer under a name that no earlier layer has; returns its index as the only producer."""
        name, count = layer.name, 1
        while name in self.names:
            count += 1
            name = f"{layer.name}:{count}"
        self.names.add(name)
        self.layers.append(replace(layer, name=name))
        self.inputs.append(tuple(sorted(set(producers))))
        return (len(self.layers) - 1,)

    def note(self, operation: str, reason: str, operations: int, size: float) -> None:
        calls, before, bytes_before = self.unpriced.get((operation, reason), (0, 0, 0.0))
        self.unpriced[operation, reason] = (calls + 1, before + operations, bytes_before + size)

    def note_batch_norm(self, producers: Producers, size: int) -> None:
        """A scale and a shift per channel: part of the weights where they follow a layer that has some."""
        before = self.layers[producers[0]] if len(producers) == 1 and producers[0] != INPUT else None
        folds = before is not None and before.has_weights and not before.computed_weights
        self.note("batch norm", FOLDED if folds else FUSED, 0 if folds else 2 * size, 0.0)

    def finish(self, name: str, input_count: int, output_count: int) -> tuple[Workload, tuple[Unpriced, ...]]:
        """Raises: HardwareError if nothing was recorded."""
        if not self.layers:
            raise HardwareError(f"network {name!r} has no layer that can be priced: expected a convolution or the like")
        workload = Workload(name, tuple(self.layers), tuple(self.inputs))
        for layer in workload.layers:
            if layer.has_weights:
                self.note("requantisation", FUSED, layer.output_count, 0.0)
        self.note("host transfer", THROUGH_DRAM, 0, float(input_count + output_count))
        operations = sum(layer.macs for layer in workload.layers) + sum(n for _, n, _ in self.unpriced.values())
        traffic = sum(map(_layer_bytes, workload.layers)) + sum(size for _, _, size in self.unpriced.values())
        entries = (
            Unpriced(operation, reason, calls, count, size, count / max(operations, 1), size / max(traffic, 1.0))
            for (operation, reason), (calls, count, size) in self.unpriced.items()
        )
        return workload, tuple(sorted(entries, key=lambda entry: -entry.operations))


def _layer_bytes(layer: Layer) -> float:
    """Each of the layer's tensors moved once."""
    return (layer.input_count * layer.input_bits + layer.stored_weight_bits) / 8 + layer.output_bytes


def _places(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """N, K, P, Q of a tensor: (N, K, H, W), (N, tokens, K), (N, K) or, above four dimensions, (N, K, P, rest)."""
    if len(shape) == 3:
        return shape[0], shape[2], shape[1], 1
    n, channels, rows, *rest = (*shape, 1, 1, 1)
    return n, channels, rows, math.prod(rest)


def convolution_layer(
    name: str,
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    output_shape: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    transposed: bool,
) -> Layer:
    """A one- or two-dimensional convolution; weight_shape is (K, C / groups, R, S), transposed (C, K / groups, R, S).

    A transposed convolution of stride s is s^2 convolutions of the input with every s-th weight, interleaved: that
    many times the output channels at the input's size, with ceil(R / s) x ceil(S / s) weights each.
    """
    lead = (1,) * (4 - len(weight_shape))  # a one-dimensional convolution has one row
    rows, columns = (*lead, *output_shape[2:])
    kernel, steps, spread = (*lead, *weight_shape[2:]), (*lead, *stride), (*lead, *dilation)
    if not transposed:
        return Layer(
            name,
            N=input_shape[0],
            K=output_shape[1],
            C=input_shape[1],
            P=rows,
            Q=columns,
            R=kernel[0],
            S=kernel[1],
            stride=(steps[0], steps[1]),
            dilation=(spread[0], spread[1]),
            groups=groups,
        )
    height, width = (*lead, *input_shape[2:])
    return Layer(
        name,
        N=input_shape[0],
        K=output_shape[1] * steps[0] * steps[1],
        C=input_shape[1],
        P=height,
        Q=width,
        R=math.ceil(kernel[0] / steps[0]),
        S=math.ceil(kernel[1] / steps[1]),
        groups=groups,
    )


def product_layer(name: str, rows: int, inner: int, columns: int, batch: int) -> Layer:
    """(rows x inner) times weights (inner x columns); rows beyond the batch lie along P."""
    n = batch if rows % batch == 0 else 1
    return Layer(name, N=n, K=columns, C=inner, P=rows // n)


def batched_product_layer(name: str, count: int, rows: int, inner: int, columns: int) -> Layer:
    """`count` independent products of two activations, one group each, whose second operands stand as weights."""
    return Layer(name, K=count * columns, C=count * inner, P=rows, groups=count, computed_weights=True)


def pool_layer(
    name: str, output_shape: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Layer:
    """Pooling of a map; output_shape is (N, K, P, Q)."""
    n, channels, rows, columns = output_shape
    return Layer(
        name,
        "pool",
        N=n,
        K=channels,
        C=channels,
        P=rows,
        Q=columns,
        R=kernel[0],
        S=kernel[1],
        stride=(stride[0], stride[1]),
        dilation=(dilation[0], dilation[1]),
        groups=channels,
    )


def adaptive_pool_layer(name: str, input_shape: Sequence[int], output_shape: Sequence[int]) -> Layer:
    """Adaptive pooling as the fixed window that covers the input: exact where the output divides it."""
    stride = [max(1, i // o) for i, o in zip(input_shape[2:], output_shape[2:], strict=True)]
    kernel = [max(1, i - (o - 1) * s) for i, o, s in zip(input_shape[2:], output_shape[2:], stride, strict=True)]
    return pool_layer(name, output_shape, kernel, stride, (1, 1))


def mean_layer(name: str, input_shape: Sequence[int], axes: Iterable[int]) -> Layer | None:
    """A mean over all pixels of a map or over all tokens is pooling; None for a mean over anything else."""
    reduced = sorted(axis % len(input_shape) for axis in axes)
    if len(input_shape) == 4 and reduced == [2, 3]:
        return pool_layer(name, (*input_shape[:2], 1, 1), input_shape[2:], (1, 1), (1, 1))
    if len(input_shape) == 3 and reduced == [1]:
        n, tokens, channels = input_shape
        return pool_layer(name, (n, channels, 1, 1), (tokens, 1), (1, 1), (1, 1))
    return None


def pointwise_layer(name: str, output_shape: Sequence[int]) -> Layer:
    """An operation on two tensors of the output's shape."""
    n, channels, rows, columns = _places(output_shape)
    return Layer(name, "elementwise", N=n, K=channels, C=2 * channels, P=rows, Q=columns, groups=channels)


def words(text: str) -> frozenset[str]:
    """The words of a text, as a set of operator names."""
    return frozenset(text.split())


def checked_shape(input_shape: Sequence[int]) -> tuple[int, ...]:
    """Raises: HardwareError unless the shape is all positive integers."""
    shape = tuple(input_shape)
    if not shape or not all(isinstance(n, int) and n > 0 for n in shape):
        raise HardwareError(f"input_shape={shape}: expected positive integers, batch first, as in (1, 3, 224, 224)")
    return shape


def sized_file(path: str | Path, largest: int) -> Path:
    """Raises: DataError if there is no such file, or it is larger than `largest` bytes."""
    file = Path(path)
    if not file.is_file():
        raise DataError(f"no file {str(path)!r}: expected an ONNX or workload file")
    if file.stat().st_size > largest:
        raise DataError(
            f"{str(path)!r} is {file.stat().st_size} bytes, expected at most {largest}: export without weights"
        )
    return file
