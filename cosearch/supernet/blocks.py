"""The stand-alone network of a `Macro`: units (operator, batch-norm, ReLU), inverted bottlenecks, and the whole."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosearch.macro import OPERATORS, BlockChoice, Macro, Position
from cosearch.operators.adder import add_conv2d
from cosearch.operators.shift import shift_weight
from cosearch.seeding import torch_stream


def apply_operator(op: str, x: Tensor, weight: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    """Convolution, shift or add with "same" padding. x: B x C x H x W; weight: K x C/groups x k x k."""
    padding = weight.shape[-1] // 2
    if op == "add":
        y = add_conv2d(x, weight, stride=stride, padding=padding, groups=groups)
        return y.contiguous(memory_format=torch.channels_last)
    if op == "shift":
        weight = shift_weight(weight, OPERATORS["shift"].weight_bits)
    return F.conv2d(x, weight, None, stride, padding, 1, groups)


def initialise_weight(op: str, weight: Tensor, generator: torch.Generator) -> Tensor:
    """Kaiming for conv and shift (latent), standard normal for add (AdderNet)."""
    if op == "add":
        return weight.normal_(generator=generator)
    return nn.init.kaiming_normal_(weight, generator=generator)


def quantise_symmetric(x: Tensor, amax: Tensor, bits: int, signed: bool) -> Tensor:
    """Round to `bits` levels with zero exact. amax: scalar, or broadcastable to x."""
    levels = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    scale = amax.clamp_min(1e-8) / levels
    if amax.ndim == 0:  # one pass over memory instead of four
        zero = torch.zeros((), dtype=torch.int32, device=x.device)
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, -levels if signed else 0, levels)
    return (x / scale).round().clamp(-levels if signed else 0, levels) * scale


class Unit(nn.Module):
    """operator -> batch-norm -> ReLU (optional). In `simulate` mode weights and outputs are rounded to 8 bits."""

    amax: Tensor
    entry_range: Tensor

    def __init__(
        self,
        op: str,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.op, self.stride, self.groups, self.relu = op, stride, groups, relu
        # channels last: depthwise convolution and batch-norm are two to four times faster so on a CPU
        shape = (out_channels, in_channels // groups, kernel, kernel)
        self.weight = nn.Parameter(torch.empty(shape, memory_format=torch.channels_last))
        self.bn = nn.BatchNorm2d(out_channels)
        # seen while calibrating: the largest output, and the least and largest input of an adder
        self.register_buffer("amax", torch.zeros(()))
        self.register_buffer("entry_range", torch.zeros(2))
        self.observe = self.simulate = False

    def forward(self, x: Tensor) -> Tensor:
        if self.observe and self.op == "add":
            low, high = torch.aminmax(x.detach())
            self.entry_range = torch.stack([self.entry_range[0].minimum(low), self.entry_range[1].maximum(high)])
        y = self.simulated(x) if self.simulate else apply_operator(self.op, x, self.weight, self.stride, self.groups)
        y = self.bn(y)
        if self.relu:
            y = F.relu(y)
        if self.observe:
            self.amax = torch.maximum(self.amax, y.detach().abs().amax())
        return quantise_symmetric(y, self.amax, 8, signed=not self.relu) if self.simulate else y

    def simulated(self, x: Tensor) -> Tensor:
        """The operator with the weights that 8 bits can write, as `cosearch.integer` writes them."""
        weight: Tensor = self.weight
        if self.op == "conv":
            weight = quantise_symmetric(weight, weight.abs().amax((1, 2, 3), keepdim=True), 8, signed=True)
        elif self.op == "add":
            signed, amax = bool(self.entry_range[0] < 0), self.entry_range.abs().amax()
            held = weight.clamp(-amax if signed else torch.zeros_like(amax), amax)
            y = apply_operator("add", x, quantise_symmetric(held, amax, 8, signed), self.stride, self.groups)
            return y - (weight - held).abs().sum((1, 2, 3)).view(1, -1, 1, 1)
        return apply_operator(self.op, x, weight, self.stride, self.groups)

    def reset_ranges(self) -> None:
        self.amax.zero_()
        self.entry_range.zero_()


class InvertedBottleneck(nn.Module):
    """1x1 expansion, depthwise, linear 1x1 projection, and the residual where shapes allow."""

    def __init__(self, position: Position, choice: BlockChoice) -> None:
        super().__init__()
        inner = position.in_channels * choice.expansion
        self.choice, self.residual = choice, position.residual
        self.expand = Unit(choice.op, position.in_channels, inner)
        self.depthwise = Unit(choice.op, inner, inner, choice.kernel, position.stride, groups=inner)
        self.project = Unit(choice.op, inner, position.out_channels, relu=False)
        self.register_buffer("amax", torch.zeros(()))  # largest sum seen while calibrating
        self.observe = self.simulate = False

    amax: Tensor

    def reset_ranges(self) -> None:
        self.amax.zero_()

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        if not self.residual:
            return y
        y = x + y
        if self.observe:
            self.amax = torch.maximum(self.amax, y.detach().abs().amax())
        return quantise_symmetric(y, self.amax, 8, signed=True) if self.simulate else y


class Network(nn.Module):
    """One network of a macro space.

    seed: fresh weights from it; None leaves them uninitialised, for a caller that fills them.
    """

    def __init__(self, macro: Macro, choices: Sequence[BlockChoice | None], seed: int | None = 0) -> None:
        super().__init__()
        self.macro, self.choices = macro, tuple(choices)
        last = macro.positions[-1].out_channels if macro.positions else macro.stem_channels
        self.stem = Unit("conv", macro.input_shape[0], macro.stem_channels, 3, macro.stem_stride)
        self.blocks = nn.ModuleList(
            InvertedBottleneck(position, choice)
            for position, choice in zip(macro.positions, self.choices, strict=True)
            if choice is not None
        )
        self.head = Unit("conv", last, macro.head_channels)
        self.classifier = nn.Linear(macro.head_channels, macro.num_classes)
        if seed is not None:
            generator = torch_stream(seed, "weights")
            with torch.no_grad():
                for unit in self.units():
                    initialise_weight(unit.op, unit.weight, generator)
                nn.init.normal_(self.classifier.weight, 0.0, 0.05, generator=generator)
                nn.init.zeros_(self.classifier.bias)

    def units(self) -> Iterator[Unit]:
        return (module for module in self.modules() if isinstance(module, Unit))

    def forward(self, x: Tensor) -> Tensor:
        """x: B x C x H x W. Returns: B x classes, logits."""
        y = self.stem(x.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            y = block(y)
        return self.classifier(self.head(y).mean((2, 3)))


@torch.no_grad()
def calibrate(network: Network, images: Tensor, batch_size: int = 512) -> None:
    """Re-estimate batch-norm statistics and activation ranges on `images` (B x C x H x W), weights untouched.

    One pass with batch statistics: averages over the batches of mean and variance, extremes over all images.
    """
    norms = [unit.bn for unit in network.units()]
    watched = [m for m in network.modules() if isinstance(m, Unit | InvertedBottleneck)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    for module in watched:
        module.reset_ranges()
        module.observe = True
    network.train()
    for batch in images.split(batch_size):
        network(batch)
    network.eval()
    for module in watched:
        module.observe = False
    for norm in norms:
        norm.momentum = 0.1


def set_simulation(network: Network, on: bool) -> None:
    """Switch the 8-bit simulation of weights and activations (ranges from `calibrate`)."""
    for module in network.modules():
        if isinstance(module, Unit | InvertedBottleneck):
            module.simulate = on
