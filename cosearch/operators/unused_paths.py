"""Clear or cut out the channels of a pruned network that nothing feeds or nothing reads; its outputs stay the same.

A filter without weights emits a constant, which later batch norms and activations turn into another constant: it is
folded into the next layer's bias and its weights there are cleared. A channel that no later weight reads makes its
filter useless: it is cleared too. Both go on through the whole graph, residual sums included, to a fixed point.

A constant other than zero is not folded through zero padding, where border pixels would differ: such a channel
stays. Operations that are not known keep all their channels. Batch norms count as at inference.
"""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from cosearch.operators.common import ConvOperator, LinearOperator
from cosearch.operators.pruned import MaskedConv2d, MaskedLinear

Weighted = nn.Conv2d | nn.Linear | MaskedConv2d | MaskedLinear
_POINTWISE_MODULES: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh),
    *(nn.Identity, nn.Dropout, nn.Dropout2d),
)
_POINTWISE_CALLS = (torch.relu, F.relu, F.relu6, F.gelu, F.silu, F.hardswish, torch.sigmoid, torch.tanh)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_ADDS = (torch.add, "add", "add_", "__add__")


@dataclass(frozen=True)
class Kept:
    """What is left of a layer: indices of outputs and of inputs with any weight."""

    outputs: tuple[int, ...]
    inputs: tuple[int, ...]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = isinstance(m, ConvOperator | LinearOperator) or hasattr(m, "cost_layers")
        return ours or super().is_leaf_module(m, module_qualified_name)


def remove_unused_paths(module: nn.Module, example: Tensor) -> dict[str, Kept]:
    """Clear dead filters and unread channels of nn.Conv2d, nn.Linear and masked layers in place.

    module: traceable by torch.fx, in eval mode semantics; example: an input, whose shape the trace takes.
    Returns: per layer name what is kept; the network's output is unchanged up to rounding.
    """
    graph = _Tracer().trace(module)
    traced = fx.GraphModule(module, graph)
    was_training = module.training
    traced.eval()
    with torch.no_grad():
        walk = _walked(traced, example)
    module.train(was_training)
    return {str(n.target): _kept(walk.layer(n)) for n in graph.nodes if walk.layer(n) is not None}


def _walked(traced: fx.GraphModule, example: Tensor) -> "_Walk":
    """What reaches what, followed both ways until nothing changes."""
    ShapeProp(traced).propagate(example)
    walk = _Walk(traced)
    while walk.forward() | walk.backward():
        pass
    return walk


def shrink_unused_paths(module: nn.Module, example: Tensor) -> tuple[nn.Module, dict[str, Kept]]:
    """A smaller copy of a network: `remove_unused_paths`, and what it cleared is cut out of weights and batch norms.

    Channels that are added, normalised or filtered depthwise together are cut together. Grouped convolutions other
    than depthwise ones, layers that are called twice and operations that are not known keep all their channels.
    Returns: the copy, and per layer name what it kept of the original's outputs and inputs.
    """
    copied = copy.deepcopy(module)
    remove_unused_paths(copied, example)
    traced = fx.GraphModule(copied, _Tracer().trace(copied))
    modes = {m: m.training for m in copied.modules()}
    traced.eval()
    with torch.no_grad():
        walk = _walked(traced, example)
        kept = _Cut(walk).apply()
    for m, training in modes.items():
        m.training = training
    return copied, kept


class _Cut:
    """Which channels of every node stay, and the layers cut down to them."""

    def __init__(self, walk: "_Walk") -> None:
        self.walk = walk
        self.parent = {node: node for node in walk.nodes}
        frozen = set()
        for node in walk.nodes:
            sources, module = node.all_input_nodes, walk.module(node)
            if node in walk.weighted:
                groups = getattr(walk.layer(node), "groups", 1)
                if groups > 1 and groups == walk.channels(node) == walk.channels(sources[0]):
                    self.join(node, sources[0])
                elif groups > 1:
                    frozen |= {node, sources[0]}
            elif walk.flatten_factor(node):
                continue
            elif (walk.pointwise(node) is not None and len(sources) == 1) or walk.is_sum(node):
                for source in sources:
                    self.join(node, source)
                if isinstance(module, _NORMS) and walk.calls[node.target] > 1:
                    frozen.add(node)
            else:
                frozen |= {node, *sources}
        self.flattened = {self.root(node): node for node in walk.nodes if walk.flatten_factor(node)}
        for node in walk.nodes:  # flattened channels that meet other ones must fit them: keep both whole
            flat = self.flattened.get(self.root(node))
            if flat is not None and flat is not node and (node in walk.weighted or walk.flatten_factor(node)):
                frozen |= {flat, flat.all_input_nodes[0], node, *node.all_input_nodes}
        self.masks: dict[fx.Node, Tensor] = {}
        for node in walk.nodes:
            root = self.root(node)
            needed = walk.needed[node] | (node in frozen)
            self.masks[root] = self.masks[root] | needed if root in self.masks else needed
        for mask in self.masks.values():
            if mask.numel() and not bool(mask.any()):
                mask[0] = True  # a layer has at least one channel

    def root(self, node: fx.Node) -> fx.Node:
        while self.parent[node] is not node:
            node = self.parent[node]
        return node

    def join(self, left: fx.Node, right: fx.Node) -> None:
        self.parent[self.root(left)] = self.root(right)

    def mask(self, node: fx.Node) -> Tensor:
        """The channels of a node's output that stay."""
        root = self.root(node)
        flat = self.flattened.get(root)
        if flat is None:
            return self.masks[root]
        return self.mask(flat.all_input_nodes[0]).repeat_interleave(self.walk.flatten_factor(flat))

    def apply(self) -> dict[str, Kept]:
        kept = {}
        for node in self.walk.nodes:
            module = self.walk.module(node)
            if node in self.walk.weighted:
                outputs, inputs = self.mask(node), self.mask(node.all_input_nodes[0])
                _cut_layer(self.walk.layer(node), outputs, inputs)
                kept[str(node.target)] = Kept(*(tuple(m.nonzero().flatten().tolist()) for m in (outputs, inputs)))
            elif isinstance(module, _NORMS) and not bool(self.mask(node).all()):
                _cut_norm(module, self.mask(node))
        return kept


def _cut_layer(layer: Any, outputs: Tensor, inputs: Tensor) -> None:
    groups = getattr(layer, "groups", 1)
    rows = slice(None) if groups > 1 else inputs  # a depthwise filter has one input; other groups are never cut
    layer.weight = nn.Parameter(layer.weight[outputs][:, rows].detach(), layer.weight.requires_grad)
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias[outputs].detach(), layer.bias.requires_grad)
    if isinstance(layer, MaskedConv2d | MaskedLinear):
        layer.mask = layer.mask[outputs][:, rows]
    names = ("out_channels", "in_channels") if hasattr(layer, "in_channels") else ("out_features", "in_features")
    for name, mask in zip(names, (outputs, inputs), strict=True):
        setattr(layer, name, int(mask.sum()))
    if groups > 1 and not bool(outputs.all()):
        layer.groups = layer.out_channels


def _cut_norm(norm: Any, mask: Tensor) -> None:
    for name in ("weight", "bias"):
        value = getattr(norm, name)
        if value is not None:
            setattr(norm, name, nn.Parameter(value[mask].detach(), value.requires_grad))
    for name in ("running_mean", "running_var"):
        value = getattr(norm, name)
        setattr(norm, name, None if value is None else value[mask])
    norm.num_features = int(mask.sum())


def _kept(layer: Any) -> Kept:
    grouped = _grouped(layer)
    per_output = grouped.abs().sum((2, 3)).flatten() > 0
    per_input = grouped.abs().sum((1, 3)).flatten() > 0
    return Kept(*(tuple(torch.nonzero(live).flatten().tolist()) for live in (per_output, per_input)))


def _weight(layer: Any) -> Tensor:
    return layer.value() if isinstance(layer, MaskedConv2d | MaskedLinear) else layer.weight.detach()


def _grouped(layer: Any) -> Tensor:
    """groups x K/groups x C/groups x (R S) weights."""
    weight, groups = _weight(layer), getattr(layer, "groups", 1)
    return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)


def _clear(layer: Any, dead: Tensor) -> None:
    """Zero the weights marked in a boolean groups x K/groups x C/groups x 1."""
    weight = layer.weight
    where = dead.expand(*dead.shape[:3], weight[0, 0].numel()).reshape(weight.shape)
    weight.data[where] = 0
    if isinstance(layer, MaskedConv2d | MaskedLinear):
        layer.mask[where] = False


class _Walk:
    """Per node and channel: the constant it emits (NaN if it varies), and whether anything reads it."""

    def __init__(self, traced: fx.GraphModule) -> None:
        self.modules = dict(traced.named_modules())
        self.nodes = list(traced.graph.nodes)
        self.calls = Counter(node.target for node in self.nodes if node.op == "call_module")
        self.constant: dict[fx.Node, Tensor] = {}
        self.needed: dict[fx.Node, Tensor] = {}

    def module(self, node: fx.Node) -> nn.Module | None:
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def layer(self, node: fx.Node) -> Any:
        """The weighted layer of a node; one that is called from several nodes is left alone."""
        module = self.module(node)
        return module if isinstance(module, Weighted) and self.calls[node.target] == 1 else None

    @property
    def weighted(self) -> list[fx.Node]:
        """Nodes of weighted layers whose channels are known on both sides."""
        return [node for node in self.nodes if self.layer(node) is not None and self.foldable_input(node)]

    @staticmethod
    def channels(node: fx.Node) -> int:
        meta = node.meta.get("tensor_meta")
        shape: tuple[int, ...] = tuple(getattr(meta, "shape", ()))
        return int(shape[1]) if len(shape) >= 2 else 0

    def unknown(self, node: fx.Node) -> Tensor:
        return torch.full((self.channels(node),), torch.nan, dtype=torch.float64)

    def pointwise(self, node: fx.Node) -> Callable[[Tensor], Tensor] | None:
        """The function of one channel's constant, for operations that keep channels and constants apart."""
        module = self.module(node)
        if isinstance(module, _POINTWISE_MODULES):
            return module
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            return _normaliser(module)
        if isinstance(module, nn.AdaptiveAvgPool2d | nn.MaxPool2d | nn.AdaptiveMaxPool2d):
            return lambda value: value
        if isinstance(module, nn.AvgPool2d) and module.padding in (0, (0, 0)):
            return lambda value: value
        if node.op == "call_function" and node.target in _POINTWISE_CALLS and len(node.args) == 1 and not node.kwargs:
            return node.target
        return None

    def is_sum(self, node: fx.Node) -> bool:
        named = node.op in ("call_function", "call_method")
        add = node.target in _ADDS or getattr(node.target, "__name__", "") in ("add", "iadd")
        operands = [a for a in node.args if isinstance(a, fx.Node)]
        whole = len(operands) == len(node.args) == 2 and not node.kwargs
        return named and add and whole and len({self.channels(a) for a in (*operands, node)}) == 1

    def flatten_factor(self, node: fx.Node) -> int:
        """Features per channel where the node flattens N C H W to N (C H W), else 0."""
        module = self.module(node)
        by_module = isinstance(module, nn.Flatten) and module.start_dim == 1
        by_call = node.target in (torch.flatten, "flatten") and tuple(node.args[1:]) == (1,) and not node.kwargs
        if not (by_module or by_call):
            return 0
        source = self.channels(node.all_input_nodes[0])
        meta = node.meta["tensor_meta"]
        return self.channels(node) // source if source and len(meta.shape) == 2 else 0

    def forward(self) -> bool:
        """Carry constants from inputs to outputs and fold them. Returns: whether a weight changed."""
        changed = False
        for node in self.nodes:
            layer, function = self.layer(node), self.pointwise(node)
            if layer is not None and self.foldable_input(node):
                changed |= self.fold(layer, self.constant[node.all_input_nodes[0]])
                self.constant[node] = self.emitted(layer)
            elif function is not None and len(node.all_input_nodes) == 1:
                self.constant[node] = function(self.constant[node.all_input_nodes[0]])
            elif self.is_sum(node):
                left, right = node.all_input_nodes if len(node.all_input_nodes) == 2 else node.all_input_nodes * 2
                self.constant[node] = self.constant[left] + self.constant[right]
            elif factor := self.flatten_factor(node):
                self.constant[node] = self.constant[node.all_input_nodes[0]].repeat_interleave(factor)
            else:
                self.constant[node] = self.unknown(node)
        return changed

    def foldable_input(self, node: fx.Node) -> bool:
        """A weighted layer whose input channels are along dimension 1 (a linear layer on N x C)."""
        source = node.all_input_nodes[0]
        width = len(source.meta["tensor_meta"].shape)
        return width == (4 if isinstance(self.layer(node), nn.Conv2d | MaskedConv2d) else 2)

    @staticmethod
    def fold(layer: Any, constant: Tensor) -> bool:
        padded = getattr(layer, "padding", (0, 0)) not in (0, (0, 0), "valid")
        foldable = constant == 0 if padded else ~constant.isnan()
        grouped = _grouped(layer)
        groups, c_group = grouped.shape[0], grouped.shape[2]
        chosen = foldable.view(groups, 1, c_group, 1) & (grouped != 0).any(3, keepdim=True)
        if not bool(chosen.any()):
            return False
        values = constant.nan_to_num().view(groups, 1, c_group, 1)
        added = (grouped.double() * values * chosen).sum((2, 3)).flatten()
        if bool(added.any()):
            if layer.bias is None:
                layer.bias = nn.Parameter(torch.zeros_like(layer.weight[:, 0].reshape(len(added), -1)[:, 0]))
            layer.bias.data += added.to(layer.bias.dtype)
        _clear(layer, chosen)
        return True

    @staticmethod
    def emitted(layer: Any) -> Tensor:
        """The bias where an output has no weights left, else NaN."""
        weight = _weight(layer)
        dead = weight.reshape(len(weight), -1).abs().sum(1) == 0
        bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach()
        return torch.where(dead, bias.double(), torch.nan)

    def backward(self) -> bool:
        """Carry needs from the output to the inputs and clear what nobody reads. Returns: whether a weight changed."""
        changed = False
        self.needed = needed = {node: torch.zeros(self.channels(node), dtype=torch.bool) for node in self.nodes}
        for node in reversed(self.nodes):
            sources = node.all_input_nodes
            layer, function = self.layer(node), self.pointwise(node)
            if layer is not None and self.foldable_input(node):
                changed |= self.drop_unread(layer, needed[node])
                read = (_grouped(layer) != 0).any(3).any(1).flatten()
                needed[sources[0]] |= read
            elif (function is not None and len(sources) == 1) or self.is_sum(node):
                for source in sources:
                    needed[source] |= needed[node]
            elif factor := self.flatten_factor(node):
                needed[sources[0]] |= needed[node].view(-1, factor).any(1)
            else:
                for source in sources:
                    needed[source] |= True
        return changed

    @staticmethod
    def drop_unread(layer: Any, needed: Tensor) -> bool:
        grouped = _grouped(layer)
        unread = ~needed.view(grouped.shape[0], -1, 1, 1)
        if layer.bias is not None:
            layer.bias.data[~needed] = 0
        chosen = unread & (grouped != 0).any(3, keepdim=True)
        if not bool(chosen.any()):
            return False
        _clear(layer, chosen)
        return True


def _normaliser(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> Callable[[Tensor], Tensor] | None:
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        return None
    scale = (1 if norm.weight is None else norm.weight.double()) / (variance.double() + norm.eps).sqrt()
    shift = (0 if norm.bias is None else norm.bias.double()) - mean.double() * scale
    return lambda value: value * scale + shift
