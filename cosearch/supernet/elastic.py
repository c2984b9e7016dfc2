"""The supernet: one set of weights from which every network of a macro space is cut.

Per position: conv and shift read the same weights, add has its own (their distributions differ: conv weights are
Gaussian, adder weights Laplacian). A smaller expansion is a prefix of the channels, a smaller kernel the centre of the
larger. Each operator has its own batch-norm, because the scales of their outputs differ by orders of magnitude.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosearch.errors import ConfigError
from cosearch.macro import BlockChoice, Macro, Position
from cosearch.seeding import torch_stream
from cosearch.supernet.blocks import Network, Unit, apply_operator, initialise_weight

Path = Sequence[BlockChoice | None]
WEIGHT_OF = {"conv": "linear", "shift": "linear", "add": "adder"}
"""Which shared tensor an operator reads."""


class ElasticUnit(nn.Module):
    """All variants of one convolution of a block."""

    def __init__(self, ops: Sequence[str], in_channels: int, out_channels: int, kernel: int, depthwise: bool) -> None:
        super().__init__()
        self.depthwise = depthwise
        shape = (out_channels, 1 if depthwise else in_channels, kernel, kernel)
        keys = dict.fromkeys(WEIGHT_OF[op] for op in ops)
        self.weights = nn.ParameterDict({key: torch.empty(shape, memory_format=torch.channels_last) for key in keys})
        self.gamma = nn.ParameterDict({op: torch.ones(out_channels) for op in ops})
        self.beta = nn.ParameterDict({op: torch.zeros(out_channels) for op in ops})

    def weight(self, op: str, in_channels: int, out_channels: int, kernel: int) -> Tensor:
        """A view: the first channels and the centre of the kernel."""
        full = self.weights[WEIGHT_OF[op]]
        margin = (full.shape[-1] - kernel) // 2
        end = full.shape[-1] - margin
        return full[:out_channels, : 1 if self.depthwise else in_channels, margin:end, margin:end]

    def forward(self, x: Tensor, op: str, out_channels: int, kernel: int, stride: int, relu: bool) -> Tensor:
        weight = self.weight(op, x.shape[1], out_channels, kernel)
        y = apply_operator(op, x, weight, stride, out_channels if self.depthwise else 1)
        y = F.batch_norm(y, None, None, self.gamma[op][:out_channels], self.beta[op][:out_channels], training=True)
        return F.relu(y) if relu else y


class ElasticBlock(nn.Module):
    """All choices of one position."""

    def __init__(self, position: Position, options: Sequence[BlockChoice | None]) -> None:
        super().__init__()
        real = [choice for choice in options if choice is not None]
        if not real:
            raise ConfigError(f"position {position.name!r} has no choice but skip: give it at least one block")
        ops = list(dict.fromkeys(choice.op for choice in real))
        inner = position.in_channels * max(choice.expansion for choice in real)
        self.position = position
        self.expand = ElasticUnit(ops, position.in_channels, inner, 1, depthwise=False)
        self.depthwise = ElasticUnit(ops, inner, inner, max(choice.kernel for choice in real), depthwise=True)
        self.project = ElasticUnit(ops, inner, position.out_channels, 1, depthwise=False)

    def forward(self, x: Tensor, choice: BlockChoice) -> Tensor:
        inner, op = self.position.in_channels * choice.expansion, choice.op
        y = self.expand(x, op, inner, 1, 1, True)
        y = self.depthwise(y, op, inner, choice.kernel, self.position.stride, True)
        y = self.project(y, op, self.position.out_channels, 1, 1, False)
        return x + y if self.position.residual else y


class Supernet(nn.Module):
    """options: for each position its choices (None = skip)."""

    def __init__(self, macro: Macro, options: Mapping[str, Sequence[BlockChoice | None]], seed: int = 0) -> None:
        super().__init__()
        self.macro = macro
        last = macro.positions[-1].out_channels
        self.stem = Unit("conv", macro.input_shape[0], macro.stem_channels, 3, macro.stem_stride)
        self.blocks = nn.ModuleList(ElasticBlock(position, options[position.name]) for position in macro.positions)
        self.head = Unit("conv", last, macro.head_channels)
        self.classifier = nn.Linear(macro.head_channels, macro.num_classes)
        generator = torch_stream(seed, "supernet weights")
        with torch.no_grad():
            for unit in (self.stem, self.head):
                initialise_weight(unit.op, unit.weight, generator)
            for elastic in (module for module in self.modules() if isinstance(module, ElasticUnit)):
                for key, weight in elastic.weights.items():
                    initialise_weight("add" if key == "adder" else "conv", weight, generator)
            nn.init.normal_(self.classifier.weight, 0.0, 0.05, generator=generator)
            nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor, path: Path) -> Tensor:
        """Logits of one path with batch statistics. x: B x C x H x W; path: a choice for each position."""
        y = self.stem(x.contiguous(memory_format=torch.channels_last))
        for block, choice in zip(self.blocks, path, strict=True):
            if choice is not None:
                y = block(y, choice)
        return self.classifier(self.head(y).mean((2, 3)))

    def adder_parameters(self) -> list[nn.Parameter]:
        units = (module for module in self.modules() if isinstance(module, ElasticUnit))
        return [unit.weights["adder"] for unit in units if "adder" in unit.weights]

    @torch.no_grad()
    def extract(self, path: Path) -> Network:
        """The stand-alone network of a path with copies of the shared weights; calibrate it before use."""
        network = Network(self.macro, path, seed=None)
        for target, source in ((network.stem, self.stem), (network.head, self.head)):
            target.load_state_dict(source.state_dict())
        network.classifier.load_state_dict(self.classifier.state_dict())
        taken = [block for block, choice in zip(self.blocks, path, strict=True) if choice is not None]
        for target_block, source_block in zip(network.blocks, taken, strict=True):
            for name in ("expand", "depthwise", "project"):
                unit, elastic = getattr(target_block, name), getattr(source_block, name)
                out_channels, in_channels, kernel, _ = unit.weight.shape
                unit.weight.copy_(elastic.weight(unit.op, in_channels, out_channels, kernel))
                unit.bn.weight.copy_(elastic.gamma[unit.op][:out_channels])
                unit.bn.bias.copy_(elastic.beta[unit.op][:out_channels])
        return network.to(self.classifier.weight.device)
