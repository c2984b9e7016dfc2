"""What hardware sees of a network: `Layer`, one tensor operation, and `Workload`, a network without weights.

This module imports neither torch nor anything else that is slow.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

from cosearch.errors import DataError, HardwareError
from cosearch.notebook import html_table
from cosearch.reading import parse_json

if TYPE_CHECKING:
    import torch

Kind = Literal["mac", "shift", "add", "bitserial", "pool", "elementwise"]
Sparsity = Literal["dense", "unstructured", "channel", "filter", "block", "pattern"]

KINDS: tuple[str, ...] = get_args(Kind)
SPARSITIES: tuple[str, ...] = get_args(Sparsity)
INPUT = -1
"""The producer index that means the input of the network."""


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    height, width = value
    return int(height), int(width)


@dataclass(frozen=True)
class Layer:
    """One tensor operation: ``O[n,k,p,q] (+)= op(I[n, c, p*stride + r*dilation, q*stride + s*dilation], W[k,c,r,s])``.

    N, K, C, P, Q, R, S: batch, output channels, input channels, output height and width, kernel height and
        width. K and C are totals: each output channel reads C / groups input channels.
    kind: ``mac`` multiply-accumulate, ``shift`` power-of-two weight, ``add`` L1 response, ``bitserial`` LUT MAC
        (operands of 1 to 8 bits), ``pool``, ``elementwise``. Pool and elementwise layers have no weights and groups =
        K; an elementwise layer with two operands has C = 2 K.
    bits: of one weight, input, output and accumulator value.
    density: fraction of the weights that are non-zero, in (0, 1]; sparsity: how the zeros lie.
    computed_weights: W is another layer's output, as in an attention product: no weights of the network, new for every
        input, so that they never stay on chip from one input to the next and a crossbar writes them every time.

    Raises: HardwareError naming the layer and the field.
    """

    name: str
    kind: Kind = "mac"
    N: int = 1
    K: int = 1
    C: int = 1
    P: int = 1
    Q: int = 1
    R: int = 1
    S: int = 1
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    weight_bits: int = 8
    input_bits: int = 8
    output_bits: int = 8
    accumulator_bits: int = 32
    density: float = 1.0
    sparsity: Sparsity = "dense"
    computed_weights: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "stride", _pair(self.stride))
        object.__setattr__(self, "dilation", _pair(self.dilation))
        self._require(isinstance(self.name, str), "name", "text")
        for key in ("N", "K", "C", "P", "Q", "R", "S", "groups"):
            self._require(_is_count(getattr(self, key)), key, "an integer from 1 to 2**31")
        for key in ("weight_bits", "input_bits", "output_bits", "accumulator_bits"):
            value = getattr(self, key)
            self._require(_is_count(value) and value <= 64, key, "an integer from 1 to 64")
        for key in ("stride", "dilation"):
            self._require(all(_is_count(v) for v in getattr(self, key)), key, "integers of at least 1")
        self._require(self.kind in KINDS, "kind", f"one of {', '.join(KINDS)}")
        self._require(self.sparsity in SPARSITIES, "sparsity", f"one of {', '.join(SPARSITIES)}")
        self._require(0.0 < self.density <= 1.0, "density", "a fraction in (0, 1]")
        self._require(self.computed_weights in (True, False), "computed_weights", "true or false")
        self._require(
            self.K % self.groups == 0 and self.C % self.groups == 0, "groups", f"a divisor of K={self.K} and C={self.C}"
        )

    def _require(self, holds: bool, key: str, expected: str) -> None:
        if not holds:
            raise HardwareError(f"layer {self.name!r}: {key}={getattr(self, key)!r}, expected {expected}")

    @property
    def has_weights(self) -> bool:
        return self.kind not in ("pool", "elementwise")

    @property
    def input_height(self) -> int:
        """Rows of the input that the outputs read, padding included."""
        return (self.P - 1) * self.stride[0] + (self.R - 1) * self.dilation[0] + 1

    @property
    def input_width(self) -> int:
        """Columns of the input that the outputs read, padding included."""
        return (self.Q - 1) * self.stride[1] + (self.S - 1) * self.dilation[1] + 1

    @cached_property
    def macs(self) -> int:
        """Operations of the dense layer, one per (output, input channel, kernel position)."""
        return self.N * self.K * self.P * self.Q * (self.C // self.groups) * self.R * self.S

    @cached_property
    def weight_count(self) -> int:
        """Values of W of the dense layer; 0 for pool and elementwise."""
        return self.K * (self.C // self.groups) * self.R * self.S if self.has_weights else 0

    @property
    def input_count(self) -> int:
        return self.N * self.C * self.input_height * self.input_width

    @property
    def output_count(self) -> int:
        return self.N * self.K * self.P * self.Q

    @cached_property
    def output_bytes(self) -> float:
        return self.output_count * self.output_bits / 8

    @property
    def stored_weight_bits(self) -> float:
        """Bits that the weights take where zeros are not stored; never more than stored dense.

        Unstructured non-zeros carry an index into their filter, patterns three bits per kernel (one of 8), blocks of
        8 x 8 (filters x weights of a filter) one bit each. `cosearch.hardware.sparsity` has the sources.
        """
        dense = self.weight_count * self.weight_bits
        if self.density == 1.0 or self.sparsity == "dense":
            return dense
        stored = self.weight_count * self.density
        fan_in = (self.C // self.groups) * self.R * self.S
        index = {
            "unstructured": stored * max(1, math.ceil(math.log2(fan_in))),
            "pattern": self.K * (self.C // self.groups) * 3,
            "block": math.ceil(self.K / 8) * math.ceil(fan_in / 8),
        }
        return min(dense, stored * self.weight_bits + index.get(self.sparsity, 0))

    @property
    def weight_width(self) -> float:
        """Bits per weight, on average, where zeros are not stored."""
        return (
            self.stored_weight_bits / self.weight_count if self.density < 1.0 and self.has_weights else self.weight_bits
        )

    @cached_property
    def shape_key(self) -> tuple[Any, ...]:
        """What makes two layers cost the same: every field except the name."""
        return tuple(getattr(self, f.name) for f in fields(self) if f.name != "name")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Layer":
        """Raises: HardwareError on a field that does not exist or has the wrong type."""
        known = {f.name for f in fields(cls)}
        if not isinstance(data, dict) or "name" not in data or not known.issuperset(data):
            got = sorted(set(data) - known) if isinstance(data, dict) else type(data).__name__
            raise HardwareError(f"a layer is an object with a name and fields among {sorted(known)}, got {got}")
        try:
            return cls(**data)
        except HardwareError:
            raise
        except (TypeError, ValueError) as error:
            raise HardwareError(f"layer {data['name']!r}: {error}") from error


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 2**31


@dataclass(frozen=True)
class Workload:
    """A named tuple of layers in execution order, with the producers of each layer's inputs.

    inputs: for each layer the indices of the layers that it reads, `INPUT` (-1) for the network's input;
        a chain by default.
    """

    name: str
    layers: tuple[Layer, ...]
    inputs: tuple[tuple[int, ...], ...] = field(default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        edges = self.inputs or tuple((i - 1,) for i in range(len(self.layers)))
        object.__setattr__(self, "inputs", tuple(tuple(e) for e in edges))
        if not self.layers:
            raise HardwareError(f"workload {self.name!r} has no layers")
        if len(self.inputs) != len(self.layers) or any(
            not INPUT <= j < i for i, producers in enumerate(self.inputs) for j in producers
        ):
            raise HardwareError(
                f"workload {self.name!r}: inputs must name, for each of {len(self.layers)} layers, earlier layers or -1"
            )

    def __iter__(self) -> Any:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def _repr_html_(self) -> str:
        def extents(*values: int) -> str:
            return " x ".join(map(str, values))

        layers = [
            (x.name, x.kind, extents(x.K, x.C), extents(x.P, x.Q), extents(x.R, x.S), f"{x.macs:,}")
            for x in self.layers
        ]
        columns = ("layer", "kind", "channels out x in", "output", "kernel", "operations")
        return html_table(f"{self.name}: {len(self)} layers", columns, layers)

    @property
    def macs(self) -> int:
        """Operations of the layers that have weights (mac, shift, add and bitserial together)."""
        return sum(layer.macs for layer in self.layers if layer.has_weights)

    @property
    def weight_count(self) -> int:
        """Weights that the network stores: what layers compute for each other is not among them."""
        return sum(layer.weight_count for layer in self.layers if not layer.computed_weights)

    @property
    def weight_bytes(self) -> float:
        return sum(layer.stored_weight_bits for layer in self.layers if not layer.computed_weights) / 8

    @cached_property
    def live_activation_bytes(self) -> float:
        """The most bytes of activations alive at once: the layer's output and every tensor still to be read.

        The network's input counts until its last reader is done. Residual branches are counted through `inputs`.
        """
        last_use = {j: i for i, producers in enumerate(self.inputs) for j in producers}
        readers = [i for i, producers in enumerate(self.inputs) if INPUT in producers]
        image = max((self.layers[i].input_count * self.layers[i].input_bits / 8 for i in readers), default=0.0)
        alive = peak = image
        ends: dict[int, float] = defaultdict(float)  # layer -> bytes whose last reader it is
        ends[last_use.get(INPUT, -1)] += image
        for i, layer in enumerate(self.layers):
            size = layer.output_bytes
            alive += size
            peak = max(peak, alive)
            ends[last_use.get(i, i)] += size
            alive -= ends.pop(i, 0.0)
        return peak

    def shape_counts(self) -> dict[Layer, int]:
        """Each distinct layer shape (the first layer that has it) with how often it occurs."""
        first: dict[tuple[Any, ...], Layer] = {}
        for layer in self.layers:
            first.setdefault(layer.shape_key, layer)
        count = Counter(layer.shape_key for layer in self.layers)
        return {layer: count[key] for key, layer in first.items()}

    def with_batch(self, n: int) -> "Workload":
        return replace(self, layers=tuple(replace(layer, N=n) for layer in self.layers))

    def to_json(self) -> dict[str, Any]:
        return {
            "format": "cosearch.workload",
            "version": 1,
            "name": self.name,
            "layers": [layer.to_json() for layer in self.layers],
            "inputs": [list(producers) for producers in self.inputs],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any] | str) -> "Workload":
        """Raises: HardwareError if the document is not a workload of a version this code reads."""
        if isinstance(data, str):
            try:
                data = parse_json(data)
            except DataError as error:
                raise HardwareError(f"a workload document {error}") from None
        if not isinstance(data, dict) or data.get("format") != "cosearch.workload" or data.get("version") != 1:
            raise HardwareError("expected a JSON object with format 'cosearch.workload' and version 1")
        try:
            layers = tuple(Layer.from_json(layer) for layer in data["layers"])
            return cls(str(data["name"]), layers, tuple(tuple(int(j) for j in p) for p in data.get("inputs", ())))
        except HardwareError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise HardwareError(f"workload document is incomplete: {error}") from error

    @classmethod
    def from_module(cls, module: "torch.nn.Module", input_shape: tuple[int, ...], name: str = "") -> "Workload":
        """Trace a torch module; input_shape includes the batch: (N, C, H, W). See `cosearch.tracing`."""
        from cosearch.tracing import trace

        return trace(module, input_shape, name)


def count_layers(workload: Workload, layers: Sequence[Layer]) -> list[int]:
    """[layers] how often each of `layers` occurs in a workload.

    Raises: HardwareError naming a layer of the workload that is not among them.
    """
    row = {layer.shape_key: i for i, layer in enumerate(layers)}
    counts = [0] * len(layers)
    for layer in workload.layers:
        if layer.shape_key not in row:
            raise HardwareError(
                f"layer {layer.name!r} of {workload.name!r} is not in the table of {len(layers)} layers"
            )
        counts[row[layer.shape_key]] += 1
    return counts


def distinct_layers(workloads: Iterable[Workload]) -> tuple[Layer, ...]:
    """The distinct layer shapes of several workloads, in order of first appearance."""
    first: dict[tuple[Any, ...], Layer] = {}
    for workload in workloads:
        for layer in workload.layers:
            first.setdefault(layer.shape_key, layer)
    return tuple(first.values())


def host_bytes(workload: Workload) -> float:
    """Bytes of the network's input and output, which cross the chip's boundary for every image."""
    first, last = workload.layers[0], workload.layers[-1]
    height, width = (first.P - 1) * first.stride[0] + 1, (first.Q - 1) * first.stride[1] + 1
    return first.N * first.C * height * width * first.input_bits / 8 + last.output_bytes
