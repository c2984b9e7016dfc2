"""From a network to its `Workload`: trace a torch module, read an ONNX file, or look a name up.

What becomes a layer: convolutions (transposed ones as the stride^2 interleaved convolutions that they are), every
matrix product (a linear layer; an attention product with one group per head and computed weights), pooling (max,
average, adaptive, global), and additions, subtractions, products, quotients, maxima and minima of two tensors that both
depend on the input (a broadcast operand is counted at the output's size). Values are 8 bits wide.

What does not is returned by the `..._report` functions as `Unpriced` entries with their share of the whole: batch
norm (folded into the weights of the layer before it, if that has any), activations, biases and requantisation (done
as the values leave the array), softmax, other norms and reductions, data movement, and the transfer of the network's
input and outputs. Views and whatever depends on weights alone cost nothing.

Trace with the batch that is to be priced: the second operand of an attention product differs from image to image.
Importing this module imports neither torch nor onnx.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosearch.errors import ConfigError, DataError, HardwareError, UnknownNameError, nearest
from cosearch.models.recorder import (
    FUSED,
    MOVED,
    UNKNOWN,
    Producers,
    Recorder,
    Unpriced,
    adaptive_pool_layer,
    batched_product_layer,
    checked_shape,
    convolution_layer,
    mean_layer,
    pointwise_layer,
    pool_layer,
    product_layer,
    sized_file,
    words,
)
from cosearch.reading import parse_json, read
from cosearch.registry import load_object
from cosearch.workload import INPUT, Layer, Workload

if TYPE_CHECKING:
    import torch

__all__ = ["Unpriced", "onnx_report", "read_onnx", "read_report", "read_workload", "trace", "trace_report"]

LARGEST_JSON_BYTES = 1 << 26

TWO_OPERANDS = frozenset({"add", "sub", "rsub", "mul", "div", "maximum", "minimum"})
BATCH_NORMS = words(
    "native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit "
    "_native_batch_norm_legit_no_training _native_batch_norm_legit_functional"
)
ACTIVATIONS = words(
    "relu hardtanh clamp clamp_min clamp_max leaky_relu prelu _prelu_kernel elu gelu silu hardswish hardsigmoid "
    "sigmoid tanh mish softplus threshold abs neg celu selu log_sigmoid_forward dropout native_dropout"
)
MOVEMENT = words(
    "clone cat stack constant_pad_nd reflection_pad2d replication_pad2d roll flip index_select index gather copy "
    "_to_copy repeat upsample_nearest2d _unsafe_view pixel_shuffle embedding scatter where masked_fill"
)
VIEWS_IN_PLACE = words("transpose t squeeze unsqueeze swapaxes swapdims as_strided detach")
OPERATIONS_PER_VALUE = {
    "_softmax": 5,
    "_safe_softmax": 5,
    "_log_softmax": 5,
    "native_layer_norm": 6,
    "native_group_norm": 6,
    "native_batch_norm": 6,
}
"""Per input value: maximum, difference, exponential, sum and quotient; mean, variance (3), scaling and shift."""


def trace(module: "torch.nn.Module", input_shape: Sequence[int], name: str = "") -> Workload:
    """The layers that a torch module runs on one input.

    A module with a method ``cost_layers(name, input_shape) -> tuple[Layer, ...]`` is asked for its layers; whatever it
    runs inside is not looked at. The module is traced in evaluation mode on the meta device, so no arithmetic happens
    and no weights are made; where it cannot run there (its control flow depends on values) it is run.

    input_shape: of the one float tensor that the module takes, batch included, as in (1, 3, 224, 224).
    Raises: HardwareError if the module cannot take such an input, or runs nothing that can be priced.
    """
    return trace_report(module, input_shape, name)[0]


def trace_report(
    module: "torch.nn.Module", input_shape: Sequence[int], name: str = ""
) -> tuple[Workload, tuple[Unpriced, ...]]:
    """`trace`, with what the layers do not account for, most operations first."""
    shape = checked_shape(input_shape)
    failure: Exception | None = None
    for device in ("meta", None):  # what fails without values may run with them
        try:
            recorder, outputs = _run(module, shape, device)
        except HardwareError:
            raise
        except Exception as error:
            failure = error
        else:
            return recorder.finish(name or type(module).__name__, math.prod(shape), outputs)
    reason = f"{type(failure).__name__}: {(str(failure).strip().splitlines() or ['no message'])[0]}"
    raise HardwareError(
        f"{type(module).__name__} cannot run on one float tensor of shape {shape} ({reason}): "
        "give the shape that it expects, batch included, or wrap it in a module that takes one tensor"
    ) from failure


def _run(module: "torch.nn.Module", shape: tuple[int, ...], device: str | None) -> tuple[Recorder, int]:
    """Run the module under the recorder, on `device` or where its weights are; returns its number of outputs too."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils._pytree import tree_leaves

    state: dict[str, torch.Tensor] = {}
    if device:
        tensors = [*module.named_parameters(), *module.named_buffers()]
        state = {key: torch.empty_like(tensor, device=device) for key, tensor in tensors}
    where = device or next((p.device for p in module.parameters()), torch.device("cpu"))
    image = torch.zeros(shape, device=where)
    recorder = Recorder()
    mode = _dispatch_mode(recorder, image)
    training = {part: part.training for part in module.modules()}
    fast_path = torch.backends.mha.get_fastpath_enabled()
    hooks = _watch(module, mode)
    try:
        module.eval()
        torch.backends.mha.set_fastpath_enabled(False)  # one opaque operator would hide the matrix products
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), mode:
            output = torch.func.functional_call(module, state, (image,))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for hook in hooks:
            hook.remove()
        for part, flag in training.items():
            part.training = flag
    return recorder, sum(t.numel() for t in tree_leaves(output) if isinstance(t, torch.Tensor))


def _watch(module: "torch.nn.Module", mode: Any) -> list[Any]:
    """Hooks that tell the recorder which module runs, and that ask modules which know their own layers."""
    hooks = []
    for path, part in module.named_modules():

        def enter(part: Any, arguments: Any, path: str = path) -> None:
            mode.enter(path, part, arguments)

        def leave(part: Any, arguments: Any, output: Any, path: str = path) -> None:
            mode.leave(path, part, arguments, output)

        hooks += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    return hooks


def _dispatch_mode(recorder: Recorder, image: "torch.Tensor") -> Any:
    """The torch dispatch mode that turns operator calls into layers."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    def tensors(tree: Any) -> list[torch.Tensor]:
        return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]

    class Mode(TorchDispatchMode):
        """Follows which layers each tensor comes from; tensors that come from weights alone are not in the table.

        The table is keyed by storage, so that views share their entry; storages are kept alive so that no key is
        used twice.
        """

        def __init__(self) -> None:
            super().__init__()
            self.batch = image.shape[0]
            self.table: dict[int, Producers] = {}
            self.alive: list[Any] = []
            self.path: list[tuple[str, bool]] = []
            self.asked = 0
            self.write(image, (INPUT,))

        def key(self, tensor: torch.Tensor) -> int:
            return int(tensor.untyped_storage()._cdata)

        def write(self, tensor: torch.Tensor, producers: Producers) -> None:
            self.alive.append(tensor.untyped_storage())
            self.table[self.key(tensor)] = producers

        def read(self, tree: Any) -> Producers:
            found = {j for tensor in tensors(tree) for j in self.table.get(self.key(tensor), ())}
            return tuple(sorted(found))

        def active(self, value: Any) -> bool:
            return isinstance(value, torch.Tensor) and self.key(value) in self.table

        def name(self, operation: str) -> str:
            path, leaf = self.path[-1] if self.path else ("", False)
            return path if leaf and path else f"{path}.{operation}".lstrip(".")

        def enter(self, path: str, part: Any, arguments: Any) -> None:
            self.path.append((path, not any(True for _ in part.children())))
            self.asked += callable(getattr(part, "cost_layers", None))

        def leave(self, path: str, part: Any, arguments: Any, output: Any) -> None:
            self.path.pop()
            if not callable(getattr(part, "cost_layers", None)):
                return
            self.asked -= 1
            if self.asked:
                return
            (source, *_) = tensors(arguments)
            producers = self.read(arguments)
            for layer in part.cost_layers(path or type(part).__name__, tuple(source.shape)):
                producers = recorder.add(layer, producers)
            for tensor in tensors(output):
                self.write(tensor, producers)

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            sources = self.read((args, kwargs))
            storages = {self.key(tensor) for tensor in tensors((args, kwargs))}
            output = func(*args, **(kwargs or {}))
            results = tensors(output)
            if not sources or not results:
                return output
            operation = func.overloadpacket.__name__.removesuffix("_")
            is_view = not func._schema.is_mutable or operation in VIEWS_IN_PLACE
            if is_view and all(self.key(result) in storages for result in results):
                return output
            producers = sources if self.asked else self.record(operation, args, results[0], sources)
            for result in results:
                self.write(result, producers)
            return output

        def record(self, operation: str, args: Any, result: torch.Tensor, sources: Producers) -> Producers:
            layer = self.layer(operation, args, result)
            if layer is not None:
                return recorder.add(layer, sources)
            size = result.numel()
            if operation in BATCH_NORMS and not _uses_batch_statistics(operation, args):
                recorder.note_batch_norm(sources, size)
            elif operation in ACTIVATIONS or operation in TWO_OPERANDS or operation == "pow":
                recorder.note(operation, FUSED, size, 0.0)
            elif operation in MOVEMENT:
                recorder.note(operation, MOVED, 0, 2.0 * size)
            else:
                inputs = sum(tensor.numel() for tensor in tensors(args) if self.active(tensor))
                work = OPERATIONS_PER_VALUE.get(operation, 1) * max(size, inputs)
                if operation == "convolution":  # of three dimensions
                    work = size * args[1][0].numel()
                recorder.note(operation.strip("_"), UNKNOWN, work, float(inputs + size))
            return sources

        def layer(self, operation: str, args: Any, result: torch.Tensor) -> Layer | None:
            """The layer that this operator call is, or None; a bias is noted as unpriced."""
            shape = tuple(result.shape)
            if operation == "convolution" and result.dim() in (3, 4):
                source, weight, bias, stride, _, dilation, transposed, _, groups = args
                self.bias(bias, result)
                name = self.name("conv")
                return convolution_layer(name, source.shape, weight.shape, shape, stride, dilation, groups, transposed)
            if operation in ("mm", "addmm"):
                left, right = args[-2:]
                if operation == "addmm":
                    self.bias(args[0], result)
                if self.active(left) and self.active(right):
                    return batched_product_layer(self.name("matmul"), 1, left.shape[0], left.shape[1], right.shape[1])
                if self.active(right):
                    left, right = right.t(), left.t()
                return product_layer(self.name("linear"), left.shape[0], left.shape[1], right.shape[1], self.batch)
            if operation in ("bmm", "baddbmm"):
                left, right = args[-2:]
                if not self.active(right):
                    left, right = right.transpose(1, 2), left.transpose(1, 2)  # weights first
                (count, rows, inner), columns = left.shape, right.shape[2]
                if self.active(left):
                    return batched_product_layer(self.name("matmul"), count, rows, inner, columns)
                if left.stride(0) == 0:  # one matrix for all
                    return product_layer(self.name("linear"), count * columns, inner, rows, self.batch)
                layer = batched_product_layer(self.name("linear"), count, columns, inner, rows)
                return replace(layer, computed_weights=False)
            if operation in ("max_pool2d_with_indices", "avg_pool2d") and result.dim() == 4:
                kernel, stride, dilation = _pool_arguments(operation, args)
                return pool_layer(self.name("pool"), shape, kernel, stride, dilation)
            if operation in ("_adaptive_avg_pool2d", "adaptive_max_pool2d") and result.dim() == 4:
                return adaptive_pool_layer(self.name("pool"), args[0].shape, shape)
            if operation == "mean" and len(args) > 1 and args[1] is not None:
                return mean_layer(self.name("pool"), tuple(args[0].shape), args[1])
            if operation in TWO_OPERANDS and self.active(args[0]) and self.active(args[1]):
                return pointwise_layer(self.name(operation), shape)
            return None

        def bias(self, bias: Any, result: torch.Tensor) -> None:
            if isinstance(bias, torch.Tensor):
                recorder.note("bias", FUSED, result.numel(), 4.0 * bias.numel())  # biases are as wide as accumulators

    return Mode()


def _uses_batch_statistics(operation: str, args: Sequence[Any]) -> bool:
    """Whether a batch-norm operator computes its mean and variance, as instance norm does through it."""
    return not operation.endswith("no_training") and not (len(args) > 5 and args[5] is False)


def _pool_arguments(operation: str, args: Sequence[Any]) -> tuple[Any, Any, Any]:
    """Kernel, stride and dilation as pairs, from the positional arguments of a torch pooling operator."""

    def pair(position: int, default: Any) -> Any:
        value = args[position] if len(args) > position else None
        return [*value, *value][:2] if value else default

    kernel = pair(1, None)
    return kernel, pair(2, kernel), pair(4, (1, 1)) if operation.startswith("max") else (1, 1)


def read_onnx(path: str | Path, input_shape: Sequence[int] | None = None) -> Workload:
    """The layers of an ONNX file.

    input_shape: replaces the shape of the file's first input, batch included; without it an open batch is 1.
    Raises: DataError if the file is missing, larger than 512 MiB, damaged, or leaves a shape open that is needed.
    """
    return onnx_report(path, input_shape)[0]


def onnx_report(path: str | Path, input_shape: Sequence[int] | None = None) -> tuple[Workload, tuple[Unpriced, ...]]:
    """`read_onnx`, with what the layers do not account for, most operations first."""
    from cosearch.models.onnx_file import read_report

    return read_report(path, input_shape)


def read_workload(spec: str | Path, input_shape: Sequence[int] | None = None) -> Workload:
    """The workload that a name, a file or a factory stands for.

    spec: a built-in network (``resnet18``), an ``.onnx`` file, a workload's ``.json`` file, or ``module:function``
        returning a torch module (or a `Workload`), which needs input_shape.
    Raises: UnknownNameError, DataError, HardwareError or ConfigError, each saying what was expected.
    """
    return read_report(spec, input_shape)[0]


def read_report(spec: str | Path, input_shape: Sequence[int] | None = None) -> tuple[Workload, tuple[Unpriced, ...]]:
    """`read_workload`, with what the layers do not account for; nothing is known of that for a workload's own file."""
    text = str(spec)
    if text.endswith(".onnx"):
        return onnx_report(text, input_shape)
    if text.endswith(".json"):
        return _read_json(text), ()
    if ":" in text:
        return _from_factory(text, input_shape)
    from cosearch import models

    if text not in models.MODELS:
        hint = nearest(text, models.MODELS)
        raise UnknownNameError(f"unknown model {text!r} (nor a .onnx or .json file, nor module:function): {hint}")
    return models.report(text, tuple(input_shape) if input_shape else None)


def _read_json(path: str) -> Workload:
    file = sized_file(path, LARGEST_JSON_BYTES)
    try:
        document = read(file, parse_json)
    except (OSError, DataError) as error:
        raise DataError(f"{path!r} is not a workload file ({error}): expected what Workload.to_json gives") from None
    return Workload.from_json(document)


def _from_factory(path: str, input_shape: Sequence[int] | None) -> tuple[Workload, tuple[Unpriced, ...]]:
    factory: Callable[[], Any] = load_object(path)
    made = factory() if callable(factory) else factory
    if isinstance(made, Workload):
        return made, ()
    import torch

    if not isinstance(made, torch.nn.Module):
        raise ConfigError(f"{path!r} gave {type(made).__name__}, expected a torch module or a Workload")
    if input_shape is None:
        raise ConfigError(f"{path!r} gives a torch module: say input_shape, batch included, as in (1, 3, 224, 224)")
    return trace_report(made, input_shape, path.rpartition(":")[2])
