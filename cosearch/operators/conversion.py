"""Swap chosen layers of a trained network for hybrid operators, with the best-fitting start and the error of each.

    network, report = convert(network, {"stem": "shift", "blocks.*.conv2": Rule("tucker", ranks=0.5)}, example=images)

Also `to_plain`: the network with every operator of ours as ordinary torch operations, for export.
"""

import copy
import fnmatch
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cosearch.errors import OperatorError, nearest
from cosearch.operators.adder import AddConv2d, AddLinear
from cosearch.operators.binarycoded import BinaryCodedConv2d, BinaryCodedLinear
from cosearch.operators.butterfly import ButterflyConv2d, ButterflyLinear
from cosearch.operators.common import require
from cosearch.operators.composite import ShiftAddConv2d
from cosearch.operators.lowrank import LowRankConv2d, LowRankLinear, SpatialConv2d, TuckerConv2d
from cosearch.operators.pecan import PecanConv2d, PecanLinear
from cosearch.operators.pruned import MaskedConv2d, MaskedLinear
from cosearch.operators.quantised import QuantConv2d, QuantLinear
from cosearch.operators.shift import ShiftConv2d, ShiftLinear
from cosearch.operators.smartexchange import SmartExchangeConv2d, SmartExchangeLinear

OPERATORS: dict[str, tuple[type[nn.Module] | None, type[nn.Module] | None]] = {
    "shift": (ShiftConv2d, ShiftLinear),
    "add": (AddConv2d, AddLinear),
    "shift_add": (ShiftAddConv2d, None),
    "butterfly": (ButterflyConv2d, ButterflyLinear),
    "svd": (LowRankConv2d, LowRankLinear),
    "tucker": (TuckerConv2d, None),
    "spatial": (SpatialConv2d, None),
    "pruned": (MaskedConv2d, MaskedLinear),
    "quantised": (QuantConv2d, QuantLinear),
    "smartexchange": (SmartExchangeConv2d, SmartExchangeLinear),
    "pecan": (PecanConv2d, PecanLinear),
    "binary": (BinaryCodedConv2d, BinaryCodedLinear),
}
"""Operator -> its convolution and its linear layer."""

SAMPLE_ROWS = 4096  # input vectors that second moments and prototypes are taken from


class Rule:
    """An operator of `OPERATORS` and its options: the keyword arguments of its layer, or of `prune` for "pruned"."""

    def __init__(self, operator: str, **options: Any) -> None:
        if operator not in OPERATORS:
            raise OperatorError(f"operator={operator!r}: {nearest(operator, OPERATORS)}")
        self.operator, self.options = operator, options


@dataclass(frozen=True)
class Conversion:
    """What became of one layer.

    weight_error: ||W' - W|| / ||W||, None where the operator is not linear in its input (add, shift_add, pecan).
    output_error: ||y' - y|| / ||y|| on the example's inputs, or on standard normal ones without an example; for the
        operators with an adder after the best scale and offset per channel, which the following batch norm can learn.
    """

    name: str
    operator: str
    weight_error: float | None
    output_error: float
    parameters_before: int
    parameters_after: int


def convert(
    module: nn.Module, rules: Mapping[str, Rule | str], example: Tensor | None = None
) -> tuple[nn.Module, tuple[Conversion, ...]]:
    """A copy of a network with the chosen nn.Conv2d and nn.Linear layers swapped, and the errors per layer.

    rules: pattern of a layer's qualified name (as in a shell, ``*`` for any) -> `Rule`, or an operator's name; the
    first that matches counts. example: a batch of inputs of the network; it calibrates input steps (quantised),
    prototypes (pecan) and the error feedback (binary), and is what output errors are measured on.
    Raises: OperatorError naming the layer and the argument, or the rule that matches no layer.
    """
    require(bool(rules), "rules", dict(rules), "at least one pattern with an operator")
    checked = {pattern: Rule(rule) if isinstance(rule, str) else rule for pattern, rule in rules.items()}
    result = copy.deepcopy(module)
    chosen = list(_chosen(result, checked))
    inputs = {} if example is None else _layer_inputs(result, [name for name, _, _ in chosen], example)
    report = []
    for name, layer, rule in chosen:
        try:
            swapped = _swap(layer, rule, inputs.get(name))
        except OperatorError as error:
            raise OperatorError(f"layer {name!r}: {error}") from error
        report.append(_compare(name, rule.operator, layer, swapped, inputs.get(name)))
        if not name:
            return swapped, tuple(report)
        for place in [place for place, m in result.named_modules(remove_duplicate=False) if m is layer]:
            parent, _, child = place.rpartition(".")  # a layer that is used in several places stays one
            setattr(result.get_submodule(parent), child, swapped)
    return result, tuple(report)


def _chosen(module: nn.Module, rules: Mapping[str, Rule]) -> Iterator[tuple[str, nn.Conv2d | nn.Linear, Rule]]:
    used = set()
    layers = {name: m for name, m in module.named_modules() if type(m) in (nn.Conv2d, nn.Linear)}
    for name, layer in layers.items():
        for pattern, rule in rules.items():
            if fnmatch.fnmatchcase(name, pattern):
                used.add(pattern)
                assert isinstance(layer, nn.Conv2d | nn.Linear)
                yield name, layer, rule
                break
    for pattern in rules:
        if pattern not in used and not any(fnmatch.fnmatchcase(name, pattern) for name in layers):
            raise OperatorError(
                f"rules: {pattern!r} matches no convolution or linear layer; {nearest(pattern, layers)}"
            )


@torch.no_grad()
def _layer_inputs(module: nn.Module, names: list[str], example: Tensor) -> dict[str, Tensor]:
    """The input of each named layer in one pass, at inference."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            seen.setdefault(name, arguments[0].detach())

        return hook

    hooks = [module.get_submodule(name).register_forward_pre_hook(keep(name)) for name in names]
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        module(example)
    finally:
        for hook in hooks:
            hook.remove()
        for m, training in modes.items():
            m.training = training
    return seen


def _swap(layer: nn.Conv2d | nn.Linear, rule: Rule, inputs: Tensor | None) -> nn.Module:
    kind = OPERATORS[rule.operator][0 if isinstance(layer, nn.Conv2d) else 1]
    if kind is None:
        raise OperatorError(f"operator={rule.operator!r}: expected a convolution, got a linear layer")
    bias, like = layer.bias is not None, (layer.weight.device, layer.weight.dtype)
    options = {} if rule.operator == "pruned" else rule.options
    try:
        if isinstance(layer, nn.Conv2d):
            size = (layer.in_channels, layer.out_channels, layer.kernel_size)
            steps = (layer.stride, layer.padding, layer.dilation, layer.groups)
            swapped: Any = kind(*size, *steps, bias, layer.padding_mode, *like, **options)
        else:
            swapped = kind(layer.in_features, layer.out_features, bias, *like, **options)
        _load(swapped, layer, rule, inputs)
    except TypeError as error:
        raise OperatorError(f"options={rule.options!r} of {rule.operator!r}: {error}") from error
    return swapped.train(layer.training)


@torch.no_grad()
def _load(swapped: Any, layer: nn.Conv2d | nn.Linear, rule: Rule, inputs: Tensor | None) -> None:
    weight = layer.weight.detach()
    target = swapped
    if isinstance(swapped, ShiftAddConv2d):
        swapped.shift.load_dense(weight)  # no adder is linear: it starts from N(0, 1)
        target = swapped.add
    elif isinstance(swapped, AddConv2d | AddLinear):
        swapped.weight.copy_(weight)
    elif isinstance(swapped, BinaryCodedConv2d | BinaryCodedLinear) and inputs is not None:
        swapped.load_dense(weight, _moments(swapped, inputs))
    else:
        swapped.load_dense(weight)
    if isinstance(swapped, MaskedConv2d | MaskedLinear):
        swapped.prune(**rule.options)
    calibrated = isinstance(swapped, QuantConv2d | QuantLinear) and swapped.activation_bits is not None
    if inputs is not None and (calibrated or isinstance(swapped, PecanConv2d | PecanLinear)):
        swapped.calibrate(inputs)
    if layer.bias is not None:
        target.bias.copy_(layer.bias)


def _moments(layer: BinaryCodedConv2d | BinaryCodedLinear, inputs: Tensor) -> Tensor | None:
    """X^T X of the rows that the weight's columns see; None for grouped convolutions, whose rows differ by group."""
    if isinstance(layer, BinaryCodedLinear):
        rows = inputs.reshape(-1, layer.in_features)
    elif layer.groups == 1:
        padded, padding = layer.padded(inputs)
        columns = nn.functional.unfold(padded, layer.kernel_size, layer.dilation, padding, layer.stride)
        rows = columns.transpose(1, 2).reshape(-1, columns.shape[1])
    else:
        return None
    rows = rows[:: max(1, len(rows) // SAMPLE_ROWS)].double()
    return rows.T @ rows


@torch.no_grad()
def _compare(
    name: str, operator: str, before: nn.Conv2d | nn.Linear, after: nn.Module, inputs: Tensor | None
) -> Conversion:
    if inputs is None:
        generator = torch.Generator().manual_seed(0)
        if isinstance(before, nn.Conv2d):
            side = [max(8, d * (k - 1) + 1) for d, k in zip(before.dilation, before.kernel_size, strict=True)]
            shape: tuple[int, ...] = (4, before.in_channels, *side)
        else:
            shape = (64, before.in_features)
        inputs = torch.randn(shape, generator=generator).to(before.weight)
    expected, got = before(inputs), after(inputs)
    channel = 1 if isinstance(before, nn.Conv2d) else -1
    if operator in ("add", "shift_add"):
        got = _affine_fit(got.movedim(channel, 0).flatten(1), expected.movedim(channel, 0).flatten(1))
        expected = expected.movedim(channel, 0).flatten(1)
    linear = operator not in ("add", "shift_add", "pecan")
    weight_error = None
    if linear:
        weight = after.value() if isinstance(after, ShiftConv2d | ShiftLinear) else after.dense_weight()  # type: ignore[operator]
        weight_error = float((weight - before.weight).norm() / before.weight.norm().clamp_min(1e-12))
    output_error = float((got - expected).norm() / expected.norm().clamp_min(1e-12))
    counts = [sum(p.numel() for p in m.parameters()) for m in (before, after)]
    return Conversion(name, operator, weight_error, output_error, *counts)


def _affine_fit(x: Tensor, y: Tensor) -> Tensor:
    """a x + b per row, by least squares against y."""
    dx, dy = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    slope = (dx * dy).sum(1, keepdim=True) / dx.square().sum(1, keepdim=True).clamp_min(1e-12)
    return y.mean(1, keepdim=True) + slope * dx


def to_plain(module: nn.Module) -> nn.Module:
    """A copy in eval mode whose operators are ordinary torch modules and operations with the same outputs.

    Use it before ONNX export or on a machine without numba; it is not meant for training (quantised weights are baked
    in, adders would get the true sign gradient).
    """
    return _plain(copy.deepcopy(module).eval(), {})


def _plain(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    """A module that stands in several places, of one parent or several, stays one."""
    if module not in done:
        done[module] = module
        if hasattr(module, "plain"):
            done[module] = module.plain().eval()  # type: ignore[operator]
        else:
            for name, child in module._modules.items():
                if child is not None:
                    setattr(module, name, _plain(child, done))
    return done[module]
