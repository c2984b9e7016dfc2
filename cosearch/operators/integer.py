"""What fixed hardware computes: the integer forms of the layers, exact or an error.

Every function takes int64 tensors that hold integers of stated widths and accumulates in int64. A sum that does not
fit the accumulator is an error: intermediate two's-complement wrap-around is harmless, a final one is not.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from cosearch.operators.common import Pair, kernel_positions, pair, require
from cosearch.operators.shift import ShiftCodes


def _require_integers(name: str, value: Tensor) -> None:
    integers = not value.is_floating_point() and value.dtype != torch.bool
    require(integers, name, value.dtype, "an integer tensor")


def check_width(name: str, value: Tensor, bits: int) -> None:
    """Raises: OperatorError naming the argument unless every value fits `bits` bits, two's complement."""
    if value.numel() == 0:
        return
    low, high = int(value.min()), int(value.max())
    needed = max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0) + 1
    require(needed <= bits, name, bits, f"at least {needed} bits for values {low}..{high}")


def _windows(x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> list[Tensor]:
    """Per kernel position, in order, the inputs under it: groups x N x C/groups x P x Q."""
    _require_integers("x", x)
    fits = x.dim() == 4 and weight.dim() == 4 and weight.shape[1] * groups == x.shape[1]
    require(fits, "weight", tuple(weight.shape), f"K x C/groups x R x S for x {tuple(x.shape)}, groups={groups}")
    pad_h, pad_w = pair("padding", padding, 0)
    padded = F.pad(x.long(), (pad_w, pad_w, pad_h, pad_h))
    steps = kernel_positions(
        padded, (weight.shape[2], weight.shape[3]), pair("stride", stride), pair("dilation", dilation)
    )
    grouped = padded.view(x.shape[0], groups, -1, *padded.shape[2:]).transpose(0, 1)
    return [grouped[(..., *window)] for _, _, window in steps]


def integer_conv2d(
    x: Tensor,
    weight: Tensor,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    accumulator_bits: int = 32,
) -> Tensor:
    """Multiply-accumulate of integers. x: N C H W, weight: K C/groups R S. Returns: N K P Q, int64.

    Raises: OperatorError naming accumulator_bits, and the bits needed, on overflow.
    """
    _require_integers("weight", weight)
    taps = weight.long().view(groups, weight.shape[0] // groups, weight.shape[1], -1)
    windows = _windows(x, weight, stride, padding, dilation, groups)
    total = sum(torch.einsum("gkc,gncpq->ngkpq", taps[..., t], window) for t, window in enumerate(windows))
    assert isinstance(total, Tensor)
    check_width("accumulator_bits", total, accumulator_bits)
    return total.reshape(x.shape[0], weight.shape[0], *total.shape[3:])


def integer_shift_conv2d(
    x: Tensor,
    codes: ShiftCodes,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    accumulator_bits: int = 32,
) -> tuple[Tensor, int]:
    """Shift, negate and accumulate. x: integers N C H W. Returns: int64 sums and e, the result being sums * 2^e.

    Each input is shifted left by the distance of its weight's exponent to the least one, so no bit is lost.
    Raises: OperatorError naming accumulator_bits, and the bits needed, on overflow.
    """
    least = int(codes.exponent.min())
    places = codes.exponent.long() - least
    sign = codes.sign.long()
    k_group = sign.shape[0] // groups
    total: Tensor | None = None
    for t, window in enumerate(_windows(x, sign, stride, padding, dilation, groups)):
        shifts = places.flatten(2)[..., t].view(groups, 1, k_group, -1, 1, 1)
        signs = sign.flatten(2)[..., t].view(groups, 1, k_group, -1, 1, 1)
        moved = (window.unsqueeze(2) << shifts) * signs  # the sign is a negation or a gate, never a multiplier
        part = moved.sum(3)
        total = part if total is None else total + part
    assert total is not None
    check_width("accumulator_bits", total, accumulator_bits)
    return total.transpose(0, 1).reshape(x.shape[0], sign.shape[0], *total.shape[3:]), least


def integer_add_conv2d(
    x: Tensor,
    weight: Tensor,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    accumulator_bits: int = 32,
) -> Tensor:
    """-sum |w - x| of integers on one common step. Shapes as `integer_conv2d`.

    Raises: OperatorError naming accumulator_bits, and the bits needed, on overflow.
    """
    _require_integers("weight", weight)
    k_group = weight.shape[0] // groups
    total: Tensor | None = None
    for t, window in enumerate(_windows(x, weight, stride, padding, dilation, groups)):
        values = weight.long().flatten(2)[..., t].view(groups, 1, k_group, -1, 1, 1)
        part = (values - window.unsqueeze(2)).abs().sum(3)
        total = part if total is None else total + part
    assert total is not None
    check_width("accumulator_bits", total, accumulator_bits)
    return -total.transpose(0, 1).reshape(x.shape[0], weight.shape[0], *total.shape[3:])
