"""The shift-then-add composite (ShiftAddNet): a shift convolution, then an adder convolution of the same kernel.

It has about twice the operations of a convolution, and both halves are priced. One batch norm follows the pair.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cosearch.operators.adder import AddConv2d
from cosearch.operators.common import Device, PaddingMode, Pair, pair, require
from cosearch.operators.shift import Form, ShiftConv2d
from cosearch.workload import Layer


class ShiftAddConv2d(nn.Module):
    """Drop-in for nn.Conv2d: `shift` (Cin -> Cout, the given steps), then `add` (Cout -> Cout, stride 1, same size).

    form: of the shift half, whose other options, bits and activation_bits, are those of `ShiftConv2d`. frozen_shift:
    the shift weights stay as generated and only the adder learns. The kernel must be odd.
    Training recipe: SGD 0.1, momentum 0.9, weight decay 1e-4 (none for form ps), `scale_add_gradients` each step.
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
        *,
        form: Form = "ps",
        frozen_shift: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        odd = all(k % 2 for k in pair("kernel_size", kernel_size))
        require(odd, "kernel_size", kernel_size, "odd sizes, so that the adder keeps the map's size")
        steps = (stride, padding, dilation, groups)
        made = (padding_mode, device, dtype)
        self.shift = ShiftConv2d(in_channels, out_channels, kernel_size, *steps, False, *made, form=form, **options)
        self.add = AddConv2d(out_channels, out_channels, kernel_size, 1, "same", dilation, groups, bias, *made)
        if frozen_shift:
            self.shift.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.add(self.shift(x))

    def plain(self) -> nn.Module:
        """The same response from ordinary torch operations, for export."""
        return nn.Sequential(self.shift.plain(), self.add.plain())

    def cost_layers(self, name: str, input_shape: tuple[int, ...]) -> tuple[Layer, ...]:
        """A `shift` and an `add` layer for an input N, C, H, W."""
        middle = self.shift.output_shape(input_shape)
        first = self.shift.cost_layers(f"{name}.shift", input_shape)
        return (*first, *self.add.cost_layers(f"{name}.add", middle))
