"""What the operators share: checked convolution arguments, the `Layer`s of a shape, kernel positions as slices."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosearch.errors import OperatorError
from cosearch.workload import Layer

Pair = int | tuple[int, int]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
Device = torch.device | str | int | None
Dense = TypeVar("Dense", nn.Conv2d, nn.Linear)


def require(holds: bool, name: str, got: object, expected: str) -> None:
    """Raises: OperatorError naming the argument unless `holds`."""
    if not holds:
        raise OperatorError(f"{name}={got!r}: expected {expected}")


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def pair(name: str, value: Any, least: int = 1) -> tuple[int, int]:
    """Raises: OperatorError unless value is an integer, or two, of at least `least`."""
    values = (value, value) if isinstance(value, int) else tuple(value)
    holds = len(values) == 2 and all(isinstance(v, int) and not isinstance(v, bool) and v >= least for v in values)
    require(holds, name, value, f"one integer or two, at least {least}")
    return int(values[0]), int(values[1])


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


class Operator(nn.Module, ABC):
    """What the two kinds of layer give a family of operators, which is written once for both.

    A family defines `_build`, which takes the options of its own and makes its parameters; all families take the
    arguments of nn.Conv2d or nn.Linear before them. `device` and `dtype` are those of the finished layer: parameters
    are drawn where and as torch does by default, then moved.
    """

    groups: int
    bias: nn.Parameter | None
    _build: Callable[..., None]  # makes the family's parameters from its options

    @property
    @abstractmethod
    def weight_shape(self) -> tuple[int, ...]:
        """Of the dense layer's weight."""

    @abstractmethod
    def check_input(self, x: Tensor) -> None:
        """Raises: OperatorError naming the input unless it fits."""

    @abstractmethod
    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the dense layer computes with a weight and a bias."""

    @abstractmethod
    def dense(self, weight: Tensor, bias: Tensor | None) -> nn.Module:
        """The dense layer with copies of weight and bias."""

    @abstractmethod
    def layer(self, name: str, input_shape: tuple[int, ...], **fields: Any) -> Layer:
        """The `Layer` of this geometry; fields: kind, bits, density, sparsity."""

    def _finish(self, bias: bool, device: Device, dtype: torch.dtype | None, options: dict[str, Any]) -> None:
        self._build(**options)
        self.bias = new_bias(self.weight_shape[0], math.prod(self.weight_shape[1:]), bias)
        self.to(device=device, dtype=dtype)


class ConvOperator(Operator):
    """Geometry of a 2-d convolution, under the names that nn.Conv2d uses.

    Raises: OperatorError naming the argument.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair | str = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Device = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)):
            require(is_count(value), name, value, "an integer of at least 1")
        divides = in_channels % groups == 0 and out_channels % groups == 0
        require(divides, "groups", groups, f"a divisor of in_channels={in_channels} and out_channels={out_channels}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = pair("kernel_size", kernel_size)
        self.stride = pair("stride", stride)
        self.dilation = pair("dilation", dilation)
        if isinstance(padding, str):
            require(padding in ("same", "valid"), "padding", padding, "integers, 'same' or 'valid'")
            same = padding == "same"
            spans = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            even = all(span % 2 == 0 for span in spans) and self.stride == (1, 1)
            require(not same or even, "padding", padding, "integers: 'same' needs stride 1 and an odd kernel here")
            padding = (spans[0] // 2, spans[1] // 2) if same else 0
        self.padding = pair("padding", padding, least=0)
        require(padding_mode in PADDING_MODES, "padding_mode", padding_mode, f"one of {', '.join(PADDING_MODES)}")
        self.padding_mode = padding_mode
        self._finish(bias, device, dtype, options)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return self.out_channels, self.in_channels // self.groups, *self.kernel_size

    def check_input(self, x: Tensor) -> None:
        """Raises: OperatorError unless x is N x in_channels x H x W, with maps that the padding can be taken from."""
        holds = x.dim() == 4 and x.shape[1] == self.in_channels
        require(holds, "input", tuple(x.shape), f"N x {self.in_channels} x H x W")
        if self.padding_mode in ("reflect", "circular"):
            more = int(self.padding_mode == "reflect")
            holds = all(size >= pad + more for size, pad in zip(x.shape[2:], self.padding, strict=True))
            least = tuple(pad + more for pad in self.padding)
            require(holds, "input", tuple(x.shape), f"maps of at least {least} for padding_mode={self.padding_mode!r}")

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """N, out_channels, P, Q for an input N, C, H, W. Raises: OperatorError if the shape does not fit."""
        holds = len(input_shape) == 4 and input_shape[1] == self.in_channels
        require(holds, "input_shape", tuple(input_shape), f"(N, {self.in_channels}, H, W)")
        p, q = (
            output_size(size, self.kernel_size[i], self.stride[i], self.padding[i], self.dilation[i])
            for i, size in enumerate(input_shape[2:])
        )
        require(p >= 1 and q >= 1, "input_shape", tuple(input_shape), f"maps that hold a {self.kernel_size} kernel")
        return input_shape[0], self.out_channels, p, q

    def padded(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The input, padded already unless with zeros, and the zero padding that is left to do."""
        return pad_maps(x, self.padding, self.padding_mode)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x, padding = self.padded(x)
        return F.conv2d(x, weight, bias, self.stride, padding, self.dilation, self.groups)

    def dense(self, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
        conv = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            bias is not None,
            self.padding_mode,
            weight.device,
            weight.dtype,
        )
        return _load(conv, weight, bias)

    def layer(self, name: str, input_shape: tuple[int, ...], **fields: Any) -> Layer:
        """The `Layer` of this geometry; fields: kind, bits, density, sparsity."""
        n, k, p, q = self.output_shape(input_shape)
        r, s = self.kernel_size
        fields |= {"N": n, "K": k, "C": self.in_channels, "P": p, "Q": q, "R": r, "S": s, "groups": self.groups}
        return Layer(name, stride=self.stride, dilation=self.dilation, **fields)

    def extra_repr(self) -> str:
        mode = "" if self.padding_mode == "zeros" else f", padding_mode={self.padding_mode!r}"
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}{mode}"
        )


class LinearOperator(Operator):
    """Sizes of a linear layer under the names that nn.Linear uses. Raises: OperatorError naming the argument."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        for name, value in (("in_features", in_features), ("out_features", out_features)):
            require(is_count(value), name, value, "an integer of at least 1")
        self.in_features, self.out_features, self.groups = in_features, out_features, 1
        self._finish(bias, device, dtype, options)

    @property
    def weight_shape(self) -> tuple[int, int]:
        return self.out_features, self.in_features

    def check_input(self, x: Tensor) -> None:
        """Raises: OperatorError unless the last size of x is in_features."""
        holds = x.dim() >= 1 and x.shape[-1] == self.in_features
        require(holds, "input", tuple(x.shape), f"... x {self.in_features}")

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def dense(self, weight: Tensor, bias: Tensor | None) -> nn.Linear:
        k, c = weight.shape
        return _load(nn.Linear(c, k, bias=bias is not None, device=weight.device, dtype=weight.dtype), weight, bias)

    def layer(self, name: str, input_shape: tuple[int, ...], **fields: Any) -> Layer:
        """The `Layer` for an input (..., in_features): every leading size counts as batch."""
        return linear_layer(name, input_shape, self.in_features, self.out_features, **fields)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}"


def pad_maps(x: Tensor, padding: tuple[int, int], mode: PaddingMode) -> tuple[Tensor, tuple[int, int]]:
    """N C H W padded by rows and columns of its own, and no zero padding left; with mode zeros both as they are."""
    if mode == "zeros":
        return x, padding
    high, wide = padding
    return F.pad(x, (wide, wide, high, high), mode), (0, 0)


def linear_layer(name: str, input_shape: tuple[int, ...], c: int, k: int, **fields: Any) -> Layer:
    """A linear `Layer` C -> K over an input (..., C). Raises: OperatorError if the last size is not C."""
    holds = len(input_shape) >= 1 and input_shape[-1] == c
    require(holds, "input_shape", tuple(input_shape), f"(..., {c})")
    return Layer(name, N=max(1, math.prod(input_shape[:-1])), K=k, C=c, **fields)


def new_bias(size: int, fan_in: int, wanted: bool) -> nn.Parameter | None:
    """A bias as nn.Conv2d and nn.Linear begin with it: uniform in +-1/sqrt(fan_in)."""
    if not wanted:
        return None
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(size).uniform_(-bound, bound))


def _load(layer: Dense, weight: Tensor, bias: Tensor | None) -> Dense:
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(bias)
    return layer


def kernel_positions(
    x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> Iterator[tuple[int, int, tuple[slice, slice]]]:
    """For each kernel position (r, s) the slices of a padded N C H W input that the outputs read."""
    p = output_size(x.shape[2], kernel[0], stride[0], 0, dilation[0])
    q = output_size(x.shape[3], kernel[1], stride[1], 0, dilation[1])
    for r in range(kernel[0]):
        for s in range(kernel[1]):
            top, left = r * dilation[0], s * dilation[1]
            rows = slice(top, top + (p - 1) * stride[0] + 1, stride[0])
            yield r, s, (rows, slice(left, left + (q - 1) * stride[1] + 1, stride[1]))
