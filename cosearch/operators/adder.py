"""The adder layer (AdderNet): the response is minus the L1 distance between a weight and the input under it.

Y[n,k,p,q] = -sum_{c,r,s} |W[k,c,r,s] - X[n, c, p stride + r dilation, q stride + s dilation]|; a padded zero is not
neutral, it adds -|W|. Gradients are the published surrogates: the weight's is the full-precision difference X - W,
the input's is clip(W - X, -1, 1). Follow the layer by a batch norm: its outputs are large and negative.

Training recipe that reaches the accuracies of tests/operators/test_training.py: `scale_add_gradients` between
backward() and the optimiser's step (SGD, momentum 0.9, cosine from 0.05), weights from N(0, 1).

float32 tensors on a CPU run in numba kernels, of `_add_kernels` or, where channels are last in memory and a layer is
pointwise or depthwise, of `_add_last_kernels`; every other dtype or device runs in plain torch.
Memory: the kernels need at most 256 KiB, one row band or 16 channels of an image per thread beside input, output and
weight; the plain form blocks over output channels and needs three to four times `BLOCK_BYTES`, or one output channel,
of temporaries.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cosearch.operators.common import (
    ConvOperator,
    LinearOperator,
    Operator,
    Pair,
    kernel_positions,
    pad_maps,
    pair,
    require,
)
from cosearch.workload import Layer

if TYPE_CHECKING:
    from cosearch.operators._add_kernels import Geometry

BLOCK_BYTES = 1 << 26
LONG_ROW, SMALL_PRODUCT = 128, 1 << 13  # from so many pixels, to so many weights, rows of products beat matrix products


def _blocks(taps: Tensor, k_group: int) -> list[slice]:
    """Output channels of a group in blocks whose broadcast against one kernel position stays within BLOCK_BYTES."""
    block = max(1, BLOCK_BYTES // max(1, taps.numel() * taps.element_size()))
    return [slice(k, min(k + block, k_group)) for k in range(0, k_group, block)]


def plain_add_conv2d(
    x: Tensor, weight: Tensor, stride: Pair = 1, padding: Pair = 0, dilation: Pair = 1, groups: int = 1
) -> Tensor:
    """The adder response in slices, subtractions and sums only: the form for ONNX, GPU and float64.

    x: N C H W; weight: K C/groups R S. Returns: N K P Q. Blocked over output channels: one temporary is at most
    BLOCK_BYTES (64 MiB), or N C P Q values if one output channel of each group needs more; the peak is three to four
    of them in torch, five in onnxruntime (0.3 GiB for 64 -> 64 channels, 3x3, at 224 x 224; one broadcast takes 7).
    Its autograd gradient is the true sign gradient, not the published surrogate: train with `add_conv2d`.
    """
    stride, (pad_h, pad_w), dilation = pair("stride", stride), pair("padding", padding, 0), pair("dilation", dilation)
    padded = F.pad(x, (pad_w, pad_w, pad_h, pad_h))
    n, (k, c_group, r_size, s_size) = x.shape[0], weight.shape
    grouped = weight.view(groups, k // groups, c_group, r_size, s_size)
    total: Tensor | None = None
    for r, s, window in kernel_positions(padded, (r_size, s_size), stride, dilation):
        taps = padded[(slice(None), slice(None), *window)]
        p, q = taps.shape[2:]
        values = taps.reshape(n, groups, 1, c_group, p, q)
        parts = [
            (grouped[None, :, block, :, r, s, None, None] - values).abs().sum(3) for block in _blocks(taps, k // groups)
        ]
        distance = torch.cat(parts, 2) if len(parts) > 1 else parts[0]
        total = distance if total is None else total + distance
    assert total is not None
    return -total.reshape(n, k, *total.shape[3:])


def _plain_input_gradient(x: Tensor, weight: Tensor, gradient: Tensor, sizes: "_Sizes") -> Tensor:
    """dX[i] = sum over the outputs that read i of G clip(W - X, -1, 1), blocked as `plain_add_conv2d`."""
    pad_h, pad_w = sizes.padding
    padded = F.pad(x, (pad_w, pad_w, pad_h, pad_h))
    result = torch.zeros_like(padded)
    n, (k, c_group, r_size, s_size) = x.shape[0], weight.shape
    grouped = weight.view(sizes.groups, k // sizes.groups, c_group, r_size, s_size)
    p, q = gradient.shape[2:]
    slope = gradient.reshape(n, sizes.groups, k // sizes.groups, 1, p, q)
    for r, s, window in kernel_positions(padded, (r_size, s_size), sizes.stride, sizes.dilation):
        taps = padded[(slice(None), slice(None), *window)]
        values = taps.reshape(n, sizes.groups, 1, c_group, p, q)
        target = result[(slice(None), slice(None), *window)]
        for block in _blocks(taps, k // sizes.groups):
            clipped = (grouped[None, :, block, :, r, s, None, None] - values).clamp(-1, 1)
            target += (clipped * slope[:, :, block]).sum(2).reshape(target.shape)
    return result[:, :, pad_h : pad_h + x.shape[2], pad_w : pad_w + x.shape[3]]


class _Sizes:
    """Stride, padding, dilation and groups, checked against an input and a weight."""

    def __init__(self, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> None:
        self.stride, self.padding = pair("stride", stride), pair("padding", padding, 0)
        self.dilation, self.groups = pair("dilation", dilation), groups
        require(x.dim() == 4, "x", tuple(x.shape), "a tensor N x C x H x W")
        fits = weight.dim() == 4 and groups >= 1 and weight.shape[0] % groups == 0
        fits = fits and weight.shape[1] * groups == x.shape[1]
        require(fits, "weight", tuple(weight.shape), f"K x C/groups x R x S for C={x.shape[1]}, groups={groups}")
        require(x.dtype == weight.dtype, "weight.dtype", weight.dtype, f"the dtype of x, {x.dtype}")
        require(x.device == weight.device, "weight.device", weight.device, f"the device of x, {x.device}")
        for axis in range(2):
            reach = self.dilation[axis] * (weight.shape[2 + axis] - 1) + 1
            size = x.shape[2 + axis] + 2 * self.padding[axis]
            require(size >= reach, "x", tuple(x.shape), f"maps of at least {reach - 2 * self.padding[axis]}")

    def geometry(self, x: Tensor, weight: Tensor) -> "Geometry":
        from cosearch.operators._add_kernels import Geometry

        n, c, h, w = x.shape
        k, _, r, s = weight.shape
        return Geometry(n, c, h, w, k, r, s, self.groups, self.stride, self.padding, self.dilation)


def _in_kernel(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0


def _forward(x: Tensor, weight: Tensor, sizes: _Sizes) -> Tensor:
    if not _in_kernel(x):
        return plain_add_conv2d(x, weight, sizes.stride, sizes.padding, sizes.dilation, sizes.groups)
    from cosearch.operators import _add_kernels, _add_last_kernels

    geometry = sizes.geometry(x, weight)
    shape = geometry.n, geometry.k, geometry.p, geometry.q
    if x.is_contiguous(memory_format=torch.channels_last) and _add_last_kernels.fits(geometry):
        y = torch.empty(shape, memory_format=torch.channels_last)
        x_last, y_last = (value.detach().permute(0, 2, 3, 1).numpy() for value in (x, y))
        _add_last_kernels.forward(x_last, _array(weight), y_last, geometry, torch.get_num_threads())
        return y
    y = torch.empty(shape)
    _add_kernels.forward(_array(x), _array(weight), y.numpy(), geometry, torch.get_num_threads())
    return y


def _input_gradient(x: Tensor, weight: Tensor, gradient: Tensor, sizes: _Sizes) -> Tensor:
    if not _in_kernel(x):
        return _plain_input_gradient(x, weight, gradient, sizes)
    from cosearch.operators import _add_kernels

    geometry = sizes.geometry(x, weight)
    dx = _new_gradient(x, geometry)
    threads = torch.get_num_threads()
    _add_kernels.input_gradient(_array(x), _array(gradient), _array(weight), dx.numpy(), geometry, threads)
    return dx


def _depthwise_gradients(x: Tensor, weight: Tensor, gradient: Tensor, sizes: _Sizes) -> tuple[Tensor, Tensor]:
    from cosearch.operators import _add_kernels

    geometry = sizes.geometry(x, weight)
    dx, dw = _new_gradient(x, geometry), torch.empty(weight.shape)
    operands = (_array(x), _array(gradient), _array(weight), dx.numpy(), dw.numpy())
    _add_kernels.depthwise_gradients(*operands, geometry, torch.get_num_threads())
    return dx, dw


def _new_gradient(x: Tensor, geometry: "Geometry") -> Tensor:
    return torch.empty(x.shape) if geometry.reads_all else torch.zeros(x.shape)


def _array(value: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    return value.detach().contiguous().numpy()


def _weight_gradient(x: Tensor, weight: Tensor, gradient: Tensor, sizes: _Sizes) -> Tensor:
    """dW = sum G (X - W): a convolution's weight gradient, minus W times the sum of G over outputs."""
    how = (sizes.stride, sizes.padding, sizes.groups)
    if weight.shape[2:] == (1, 1) and how == ((1, 1), (0, 0), 1) and x.device.type == "cpu":
        correlation = _pointwise_products(x.flatten(2), gradient.flatten(2)).view_as(weight)
    else:
        correlation = torch.ops.aten.convolution_backward(
            gradient,
            x,
            weight,
            None,
            sizes.stride,
            sizes.padding,
            sizes.dilation,
            False,
            (0, 0),
            sizes.groups,
            (False, True, False),
        )[1]
    return correlation - weight * gradient.sum((0, 2, 3)).view(-1, 1, 1, 1)


def _pointwise_products(x: Tensor, gradient: Tensor) -> Tensor:
    """sum over images of G X^T, of N C L and N K L: K C, in less than the time of the convolution's weight gradient."""
    if _in_kernel(x) and x.shape[2] >= LONG_ROW and x.shape[1] * gradient.shape[1] <= SMALL_PRODUCT:
        from cosearch.operators import _add_kernels

        products = _add_kernels.pointwise_products(_array(x), _array(gradient), torch.get_num_threads())
        return torch.from_numpy(products)
    start = torch.zeros(gradient.shape[1], x.shape[1], dtype=x.dtype)
    return torch.addbmm(start, gradient, x.transpose(1, 2))


class _AddConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, sizes: _Sizes) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.sizes = sizes
        return _forward(x, weight, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        if all(ctx.needs_input_grad[:2]) and weight.shape[1] == 1 and _in_kernel(x):
            return *_depthwise_gradients(x, weight, gradient, ctx.sizes), None
        dx = _input_gradient(x, weight, gradient, ctx.sizes) if ctx.needs_input_grad[0] else None
        dw = _weight_gradient(x, weight, gradient, ctx.sizes) if ctx.needs_input_grad[1] else None
        return dx, dw, None


def add_conv2d(
    x: Tensor, weight: Tensor, stride: Pair = 1, padding: Pair = 0, dilation: Pair = 1, groups: int = 1
) -> Tensor:
    """Adder convolution with the published surrogate gradients.

    x: N C H W; weight: K C/groups R S, same dtype and device. Returns: N K P Q, all values <= 0.
    Raises: OperatorError naming the argument. Source: AdderNet (CVPR 2020), Eq. 2, 5 and 6.
    """
    return _AddConv2d.apply(x, weight, _Sizes(x, weight, stride, padding, dilation, groups))


def add_linear(x: Tensor, weight: Tensor) -> Tensor:
    """The adder response of vectors. x: ... x C; weight: K C. Returns: ... x K."""
    if x.numel() == 0:
        return F.linear(x, weight)  # no vectors: empty, of the right shape
    return _of_vectors(add_conv2d, x, weight)


def _of_vectors(respond: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> Tensor:
    """A pointwise response to vectors, each of them a pixel of one image."""
    columns = x.reshape(-1, x.shape[-1]).t()[None, :, :, None]
    response = respond(columns, weight[:, :, None, None])
    return response[0, :, :, 0].t().reshape(*x.shape[:-1], weight.shape[0])


class _Add(Operator):
    weight: nn.Parameter

    def _build(self) -> None:
        self.weight = nn.Parameter(torch.randn(self.weight_shape))

    def cost_layers(self, name: str, input_shape: tuple[int, ...]) -> tuple[Layer, ...]:
        """One `add` layer for an input N, C, H, W or (..., C)."""
        return (self.layer(name, input_shape, kind="add"),)


class AddConv2d(_Add, ConvOperator):
    """Drop-in for nn.Conv2d with an adder response; weights start from N(0, 1). See the module's text for training."""

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        x, padding = self.padded(x)
        y = add_conv2d(x, self.weight, self.stride, padding, self.dilation, self.groups)
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)

    def plain(self) -> nn.Module:
        """The same response from ordinary torch operations, for export."""
        return _PlainAdd(self)


class AddLinear(_Add, LinearOperator):
    """Drop-in for nn.Linear with an adder response; weights start from N(0, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        y = add_linear(x, self.weight)
        return y if self.bias is None else y + self.bias

    def plain(self) -> nn.Module:
        """The same response from ordinary torch operations, for export."""
        return _PlainAddLinear(self.weight, self.bias)


class _PlainAdd(nn.Module):
    weight: Tensor
    bias: Tensor | None

    def __init__(self, source: AddConv2d) -> None:
        super().__init__()
        self.register_buffer("weight", source.weight.detach().clone())
        self.register_buffer("bias", None if source.bias is None else source.bias.detach().clone())
        self.pads = (source.padding, source.padding_mode)
        self.stride, self.dilation, self.groups = source.stride, source.dilation, source.groups

    def forward(self, x: Tensor) -> Tensor:
        x, padding = pad_maps(x, *self.pads)
        y = plain_add_conv2d(x, self.weight, self.stride, padding, self.dilation, self.groups)
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)


class _PlainAddLinear(nn.Module):
    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        y = _of_vectors(plain_add_conv2d, x, self.weight)
        return y if self.bias is None else y + self.bias


@torch.no_grad()
def scale_add_gradients(source: nn.Module | Iterable[nn.Parameter], eta: float = 0.2, used_only: bool = False) -> None:
    """Adaptive local learning rate: rescale each adder weight's .grad to norm eta sqrt(n), n its number of values.

    Call it once per step on the summed gradient, between backward() and the optimiser's step; calling it per
    backward would give another result under gradient accumulation.
    source: a module, whose AddConv2d and AddLinear weights are taken, or the weights themselves.
    eta: 0.2 in the authors' code. used_only: n counts the values whose gradient is not zero, which is what a slice of
    a shared weight has used. Source: AdderNet, Eq. 13.
    """
    require(eta > 0, "eta", eta, "a positive number")
    if isinstance(source, nn.Module):
        weights: Iterable[nn.Parameter] = [m.weight for m in source.modules() if isinstance(m, AddConv2d | AddLinear)]
    else:
        weights = source
    for weight in weights:
        if weight.grad is not None:
            count = torch.count_nonzero(weight.grad) if used_only else torch.tensor(weight.numel())
            weight.grad.mul_(eta * count.sqrt() / weight.grad.norm().clamp_min(1e-12))
