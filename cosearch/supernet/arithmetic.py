"""What each operator computes: the shapes of its weights, its forward pass, and its weights as integers.

A weight is a list of tensors: one for dense operators, the factors of a chain for low-rank and butterfly layers.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cosearch.blueprint import OPERATORS, Conv, Operator, butterfly_chain
from cosearch.operators.adder import add_conv2d
from cosearch.operators.butterfly import apply_chain, factor_matrix
from cosearch.operators.pruned import block_mask
from cosearch.operators.shift import shift_weight
from cosearch.supernet.convolution import convolve

SHIFT_PLACES = 2 ** (OPERATORS["shift"].weight_bits - 1) - 1


def weight_shapes(step: Conv) -> list[tuple[int, ...]]:
    """Of the tensors that the layer's weight is made of, input side first."""
    form, c, k = step.operator.form, step.in_channels, step.out_channels
    if form == "lowrank":
        return [(step.rank, c, 1, 1), (k, step.rank, 1, 1)]
    if form == "butterfly":
        return [factor.shape for factor in butterfly_chain(k, c, step.operator.ratio)]
    return [(k, c // step.groups, step.kernel, step.kernel)]


def weight_key(step: Conv) -> str:
    """Layers of one name and key share their weights: each is a part of the largest.

    Conv, shift, fewer bits and sparse read one tensor; additions, low rank and every butterfly chain their own. So do
    grouped convolutions, where none of the name is dense (`dense_key`).
    """
    form = step.operator.form
    if form == "butterfly":
        return f"{step.op}-{step.out_channels}x{step.in_channels}"
    if form == "lowrank":
        return "lowrank"
    return dense_key(step) if step.groups in (1, step.in_channels) else f"{dense_key(step)}-g{step.groups}"


def dense_key(step: Conv) -> str:
    """`weight_key` of a layer that multiplies or adds, without its groups."""
    return "adder" if step.op == "add" else "linear"


def part(full: Sequence[Tensor], step: Conv, dense: bool = False) -> list[Tensor]:
    """Parts of shared weights for one layer: the first channels and ranks, the centre of the kernel.

    dense: a grouped convolution has the blocks on the diagonal of the dense one that the weights are of.
    """
    if step.operator.form == "butterfly":
        return list(full)
    parts = []
    for tensor, (k, c, size, _) in zip(full, weight_shapes(step), strict=True):
        margin = (tensor.shape[-1] - size) // 2
        end = tensor.shape[-1] - margin
        centre = tensor[:, :, margin:end, margin:end]
        parts.append(_diagonal(centre, k, c, step.groups) if dense and step.groups > 1 else centre[:k, :c])
    return parts


def _diagonal(weight: Tensor, k: int, c: int, groups: int) -> Tensor:
    """[k, c, ...]: of each group of k / groups filters the weights of its own c channels."""
    rows = k // groups
    return torch.cat([weight[g * rows : (g + 1) * rows, g * c : (g + 1) * c] for g in range(groups)])


def initialise(step: Conv, weights: Sequence[Tensor], generator: torch.Generator) -> None:
    """Kaiming for conv and shift (latent) and their factors, standard normal for add (AdderNet)."""
    for weight in weights:
        if step.op == "add":
            weight.normal_(generator=generator)
        elif step.operator.form == "butterfly":
            weight.normal_(0.0, weight.shape[2] ** -0.5, generator=generator)  # keeps the variance of its input
        else:
            nn.init.kaiming_normal_(weight, generator=generator)


def compute(step: Conv, x: Tensor, weights: Sequence[Tensor], plain: bool = False) -> Tensor:
    """The layer without batch-norm and ReLU. x: B x C x H x W. plain: as `convolve`'s. Returns: B x K x P x Q."""
    operator = step.operator
    if operator.form == "butterfly":
        n, _, height, width = (x := x[:, :, :: step.stride, :: step.stride]).shape
        y = apply_chain(x.reshape(n, -1, height * width), [w[None] for w in weights])
        return y.view(n, -1, height, width).contiguous(memory_format=torch.channels_last)
    if operator.form == "lowrank":
        return convolve(convolve(x, weights[0], step.stride, plain=plain), weights[1], plain=plain)
    [weight] = weights
    if step.op == "add":
        x = x.to(weight.dtype)  # additions run in single precision, also where convolutions do not
        y = add_conv2d(x, weight, stride=step.stride, padding=step.kernel // 2, groups=step.groups)
        return y.contiguous(memory_format=torch.channels_last)
    return convolve(x, trained_weight(step, weight), step.stride, step.groups, plain)


def trained_weight(step: Conv, weight: Tensor) -> Tensor:
    """What training sees of a latent dense weight; gradients pass straight through where it is rounded."""
    operator = step.operator
    if operator.kind == "shift":
        return shift_weight(weight, operator.weight_bits)
    if operator.density < 1.0:
        return weight * kept_entries(weight, operator)
    if operator.weight_bits < 8:
        levels, unit = weight_levels(step, weight.detach())
        return weight + (levels * unit - weight).detach()
    return weight


def held_weight(step: Conv, weight: Tensor) -> Tensor:
    """A dense weight that is no adder's with the values that the hardware holds; its gradient is that of training."""
    levels, unit = weight_levels(step, weight.detach())
    seen = trained_weight(step, weight)
    return levels * unit + (seen - seen.detach()) if weight.requires_grad else levels * unit


def kept_entries(weight: Tensor, operator: Operator) -> Tensor:
    """[weight's shape] 1 where a sparse operator keeps a dense weight, else 0.

    In blocks of 8 x 8 the columns of largest norm, equally many in each; else the entries of largest magnitude.
    """
    if operator.sparsity == "block":
        return block_mask(weight.detach(), operator.density).to(weight.dtype)
    return largest_entries(weight, operator.density)


def largest_entries(weight: Tensor, density: float) -> Tensor:
    """[weight's shape] 1 where an entry is among the `density` of largest magnitude, else 0."""
    keep = max(1, math.ceil(density * weight.numel()))
    threshold = weight.detach().abs().flatten().kthvalue(weight.numel() - keep + 1).values
    return (weight.detach().abs() >= threshold).to(weight.dtype)


def weight_levels(step: Conv, weight: Tensor) -> tuple[Tensor, Tensor]:
    """A dense weight that is no adder's as integers, and the real value of one of them.

    weight: K x C/g x k x k. Returns: the same shape, whole numbers in weight's type; K x 1 x 1 x 1.
    Powers of two for shift (both parts exact); ternary by threshold for 2 bits; else symmetric with the largest
    magnitude of the output channel at the end. Source of the ternary rule: Li et al., Ternary weight networks, 2016.
    """
    operator = step.operator
    unit = weight.new_ones((len(weight), 1, 1, 1))
    if operator.kind == "shift":
        exact = shift_weight(weight, operator.weight_bits)
        return exact * 2.0**SHIFT_PLACES, unit * 2.0**-SHIFT_PLACES
    if operator.density < 1.0:
        weight = weight * kept_entries(weight, operator)
    magnitude = weight.abs()
    if operator.weight_bits == 2:
        kept = magnitude > 0.7 * magnitude.mean((1, 2, 3), keepdim=True)
        mean = (magnitude * kept).sum((1, 2, 3), keepdim=True) / kept.sum((1, 2, 3), keepdim=True).clamp_min(1)
        return weight.sign() * kept, mean.clamp_min(1e-12)
    unit = magnitude.amax((1, 2, 3), keepdim=True).clamp_min(1e-12) / (2 ** (operator.weight_bits - 1) - 1)
    return (weight / unit).round(), unit


def stages(step: Conv, weights: Sequence[Tensor]) -> list[tuple[Conv, Tensor]]:
    """The dense layers that hardware runs one after another: a chain's factors as 1x1 convolutions, or the layer."""
    operator = step.operator
    if operator.form == "dense":
        return [(step, weights[0])]
    if operator.form == "lowrank":
        dense = list(weights)
    else:
        chain = butterfly_chain(step.out_channels, step.in_channels, operator.ratio)
        dense = [factor_matrix(w, f)[:, :, None, None] for w, f in zip(weights, chain, strict=True)]
    return [
        (Conv(f"{step.name}.{i + 1}", "conv", step.source, c, k, step.size, 1, 1 if i else step.stride), weight)
        for i, weight in enumerate(dense)
        for k, c in [weight.shape[:2]]
    ]
