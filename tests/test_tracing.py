import json
from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from cosearch.errors import ConfigError, DataError, HardwareError, UnknownNameError
from cosearch.tracing import onnx_report, read_onnx, read_workload, trace, trace_report
from cosearch.workload import Layer, Workload


class Function(nn.Module):
    """A module whose forward is a function of (module, x); keyword arguments become its parts."""

    def __init__(self, forward, **parts: nn.Module) -> None:
        super().__init__()
        self.call = forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


def counted_macs(module: nn.Module, shape: tuple[int, ...]) -> int:
    """What torch's own counter says."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.zeros(shape))
    return counter.get_total_flops() // 2


# Layers


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_convolution_matches_module(data: st.DataObject) -> None:
    groups = data.draw(st.sampled_from([1, 2, 4]))
    inputs, outputs = (groups * data.draw(st.integers(1, 3)) for _ in range(2))
    kernel, stride, dilation = (data.draw(st.tuples(*[st.integers(1, n)] * 2)) for n in (4, 3, 2))
    n, height, width = data.draw(st.integers(1, 3)), data.draw(st.integers(8, 12)), data.draw(st.integers(8, 12))
    padding = data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    module = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=data.draw(st.booleans()))
    workload = trace(module, (n, inputs, height, width))
    (layer,) = workload.layers
    output = module(torch.zeros(n, inputs, height, width))
    assert tuple(output.shape) == (layer.N, layer.K, layer.P, layer.Q)
    assert (inputs, *kernel) == (layer.C, layer.R, layer.S)
    assert (layer.stride, layer.dilation, layer.groups) == (stride, dilation, groups)
    assert layer.weight_count == module.weight.numel()
    assert layer.macs == counted_macs(module, (n, inputs, height, width))
    assert layer.input_height <= height + 2 * padding[0]
    assert layer.input_width <= width + 2 * padding[1]


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (4, 2), (3, 1), (3, 3)])
def test_transposed_convolution_whose_stride_divides_its_kernel(kernel: int, stride: int) -> None:
    module = nn.ConvTranspose2d(4, 6, kernel, stride, groups=2)
    (layer,) = trace(module, (2, 4, 5, 7)).layers
    assert layer.macs == counted_macs(module, (2, 4, 5, 7))
    assert layer.weight_count == module.weight.numel()
    assert layer.output_count == 2 * 6 * (5 * stride) * (7 * stride)


def test_one_dimensional_convolutions() -> None:
    for module in (nn.Conv1d(4, 6, 3, 2), nn.ConvTranspose1d(4, 6, 2, 2)):
        (layer,) = trace(module, (2, 4, 9)).layers
        assert layer.macs == counted_macs(module, (2, 4, 9))
        assert layer.P == layer.R == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 6), st.integers(1, 6))
def test_linear_matches_module(leading: list[int], inputs: int, outputs: int) -> None:
    module = nn.Linear(inputs, outputs)
    (layer,) = trace(module, (*leading, inputs)).layers
    assert leading[0] == layer.N
    assert layer.macs == counted_macs(module, (*leading, inputs))
    assert layer.weight_count == inputs * outputs
    assert layer.input_count == inputs * torch.Size(leading).numel()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("fast_path", [nn.TransformerEncoderLayer, None])
def test_attention_is_two_grouped_products(batch: int, fast_path) -> None:
    if fast_path:
        module: nn.Module = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    else:
        module = Function(
            lambda m, x: functional.scaled_dot_product_attention(
                *(p(x).view(batch, 10, 4, 4).transpose(1, 2) for p in m.ps)
            ),
            ps=nn.ModuleList(nn.Linear(16, 16) for _ in range(3)),
        )
    workload = trace(module, (batch, 10, 16))
    products = [layer for layer in workload.layers if layer.groups == 4 * batch]
    assert [layer.macs for layer in products] == [batch * 10 * 10 * 16] * 2
    assert [layer.groups == 4 * batch for layer in workload] == [layer.computed_weights for layer in workload]
    linear = 3 + (1 + 2 + 2) * bool(fast_path)  # in units of 16x16: projections, output projection, feed-forward
    assert workload.macs == sum(p.macs for p in products) + batch * 10 * 16 * 16 * linear


def test_batched_products_with_weights() -> None:
    """One matrix for all (expanded) is a linear layer; one for each is a group for each; neither is computed."""
    shared = Function(lambda m, x: torch.bmm(x, m.w[0].expand(5, 6, 7)), w=nn.ParameterList([torch.zeros(1, 6, 7)]))
    (layer,) = trace(shared, (5, 4, 6)).layers
    assert (layer.N, layer.P, layer.C, layer.K, layer.groups, layer.weight_count) == (5, 4, 6, 7, 1, 42)
    own = Function(lambda m, x: torch.bmm(m.w[0], x), w=nn.ParameterList([torch.zeros(5, 7, 4)]))
    (layer,) = trace(own, (5, 4, 6)).layers
    assert (layer.groups, layer.weight_count, layer.macs) == (5, 5 * 28, 5 * 7 * 4 * 6)
    assert not layer.computed_weights


def test_einsum_and_product_of_two_activations() -> None:
    module = Function(lambda m, x: torch.einsum("nij,nkj->nik", m.a(x), m.b(x)), a=nn.Linear(6, 6), b=nn.Linear(6, 6))
    workload = trace(module, (2, 5, 6))
    assert workload.layers[-1].macs == 2 * 5 * 5 * 6
    assert workload.inputs == ((-1,), (-1,), (0, 1))


def test_weight_on_the_left() -> None:
    module = Function(lambda m, x: m.a.weight @ x, a=nn.Linear(6, 4, bias=False))
    (layer,) = trace(module, (6, 5)).layers
    assert (layer.K, layer.C, layer.macs) == (4, 6, 4 * 6 * 5)


POOLS = [
    (nn.MaxPool2d(3, 2, 1), (3, 3), (2, 2)),
    (nn.MaxPool2d(2), (2, 2), (2, 2)),
    (nn.AvgPool2d((2, 3), (1, 2)), (2, 3), (1, 2)),
    (nn.AdaptiveAvgPool2d(1), (12, 12), (1, 1)),
    (nn.AdaptiveAvgPool2d((3, 4)), (4, 3), (4, 3)),
    (nn.AdaptiveMaxPool2d(4), (3, 3), (3, 3)),
    (Function(lambda m, x: x.mean((2, 3))), (12, 12), (1, 1)),
]


@pytest.mark.parametrize(("module", "kernel", "stride"), POOLS)
def test_pooling(module: nn.Module, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    (layer,) = trace(module, (2, 5, 12, 12)).layers
    output = module(torch.zeros(2, 5, 12, 12))
    assert (layer.kind, layer.K, layer.C, layer.groups) == ("pool", 5, 5, 5)
    assert ((layer.R, layer.S), layer.output_count) == (kernel, output.numel())
    if output.dim() == 4 and output.shape[-1] > 1:
        assert layer.stride == stride


def test_token_mean_is_pooling() -> None:
    (layer,) = trace(Function(lambda m, x: x.mean(1)), (2, 7, 5)).layers
    assert (layer.kind, layer.K, layer.R, layer.macs) == ("pool", 5, 7, 2 * 5 * 7)


def test_elementwise_counts_two_operands() -> None:
    module = Function(lambda m, x: m.a(x) * m.b(x), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 4, 1))
    layer = trace(module, (1, 3, 6, 5)).layers[-1]
    assert (layer.kind, layer.K, layer.C, layer.groups) == ("elementwise", 4, 8, 4)
    assert (layer.input_count, layer.output_count) == (2 * 4 * 30, 4 * 30)


# Edges


def test_residual_edges_through_activations_views_and_places() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = functional.relu(m.a(x)).add_(0.5).transpose(1, 2).contiguous().transpose(1, 2)
        return m.d(m.c(m.b(y)).add_(y).flatten(1))

    parts = {"a": nn.Conv2d(3, 4, 1), "b": nn.BatchNorm2d(4), "c": nn.Conv2d(4, 4, 1), "d": nn.Linear(36, 2)}
    workload = trace(Function(forward, **parts), (1, 3, 3, 3))
    assert [layer.name for layer in workload.layers] == ["a", "c", "add", "d"]
    assert workload.inputs == ((-1,), (0,), (0, 1), (2,))


def test_edges_through_cat_and_parts_written_in_place() -> None:
    def cat(m: nn.Module, x: Tensor) -> Tensor:
        return m.c(torch.cat([m.a(x), m.b(x), x], 1))

    parts = {"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(3, 4, 1), "c": nn.Conv2d(11, 2, 1)}
    assert trace(Function(cat, **parts), (1, 3, 3, 3)).inputs == ((-1,), (-1,), (-1, 0, 1))

    def write(m: nn.Module, x: Tensor) -> Tensor:
        y = m.a(x)
        y[:, :2] = m.b(x)[:, :2]
        return m.c(torch.cat([y, y, x], 1))

    assert trace(Function(write, **parts), (1, 3, 3, 3)).inputs == ((-1,), (-1,), (-1, 0, 1))


def test_module_used_twice_and_tied_weights() -> None:
    shared = nn.Linear(4, 4)
    tied = nn.Linear(4, 4)
    tied.weight = shared.weight
    workload = trace(nn.Sequential(shared, shared, tied), (1, 4))
    assert [layer.name for layer in workload.layers] == ["0", "0:2", "2"]
    assert workload.inputs == ((-1,), (0,), (1,))


def test_only_what_depends_on_the_input_is_a_layer() -> None:
    module = Function(lambda m, x: functional.linear(x, m.a.weight @ m.b.weight), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    workload, unpriced = trace_report(module, (1, 4))
    assert len(workload) == 1
    assert {entry.operation for entry in unpriced} == {"requantisation", "host transfer"}


# Modules that know their layers


class Knows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + x

    def cost_layers(self, name: str, input_shape: tuple[int, ...]) -> tuple[Layer, ...]:
        n, c, h, w = input_shape
        first = Layer(f"{name}.shift", "shift", N=n, K=c, C=c, P=h, Q=w, weight_bits=4)
        return first, Layer(f"{name}.add", "add", N=n, K=c, C=c, P=h, Q=w)


class KnowsAll(Knows):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(Knows(), nn.ReLU())


@pytest.mark.parametrize("kind", [Knows, KnowsAll])
def test_module_is_asked_for_its_layers(kind: type[Knows]) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), kind(), nn.Conv2d(4, 2, 1))
    workload = trace(module, (2, 3, 5, 5))
    assert [layer.name for layer in workload.layers] == ["0", "1.shift", "1.add", "2"]
    assert [layer.kind for layer in workload.layers] == ["mac", "shift", "add", "mac"]
    assert workload.inputs == ((-1,), (0,), (1,), (2,))
    assert workload.layers[1].N == 2


# What is not priced


def test_report_names_and_sizes() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(2), nn.Softmax(-1), nn.LayerNorm(36)
    )
    workload, unpriced = trace_report(module, (1, 3, 8, 8))
    found = {entry.operation: entry for entry in unpriced}
    assert set(found) == {
        "bias",
        "batch norm",
        "relu",
        "softmax",
        "native_layer_norm",
        "requantisation",
        "host transfer",
    }
    assert found["batch norm"].operations == found["batch norm"].bytes == 0
    assert "folded" in found["batch norm"].reason
    assert found["relu"].operations == 8 * 36
    assert found["softmax"].operations == 5 * 8 * 36
    assert found["softmax"].bytes == 2 * 8 * 36
    assert found["host transfer"].bytes == 3 * 64 + 8 * 36
    total = workload.macs + sum(entry.operations for entry in unpriced)
    for entry in unpriced:
        assert entry.share_of_operations == pytest.approx(entry.operations / total)
    assert unpriced[0].operations == max(entry.operations for entry in unpriced)


def test_only_batch_norm_of_a_layer_with_weights_folds() -> None:
    def reasons(*before: nn.Module) -> dict[str, tuple[str, int]]:
        report = trace_report(nn.Sequential(*before, nn.Conv2d(4, 2, 1, bias=False)), (1, 4, 3, 3))[1]
        return {entry.operation: (entry.reason.split()[0], entry.operations) for entry in report}

    assert reasons(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))["batch norm"] == ("folded", 0)
    assert reasons(nn.BatchNorm2d(4))["batch norm"] == ("done", 2 * 36)
    assert reasons(nn.MaxPool2d(1), nn.BatchNorm2d(4))["batch norm"] == ("done", 2 * 36)
    assert reasons(nn.InstanceNorm2d(4))["native_batch_norm"] == ("no", 6 * 36)
    assert reasons(nn.BatchNorm2d(4, track_running_stats=False))["native_batch_norm"] == ("no", 6 * 36)


def test_recurrent_network_but_for_its_first_state() -> None:
    """Input and state products of four gates per step; the first state is zero, whatever the input."""
    workload, unpriced = trace_report(Function(lambda m, x: m.a(x)[0], a=nn.LSTM(8, 16)), (5, 2, 8))
    assert workload.macs == 5 * 2 * 64 * 8 + 4 * 2 * 64 * 16
    gru = trace_report(Function(lambda m, x: m.a(x)[0], a=nn.GRU(8, 16, batch_first=True)), (2, 5, 8))[1]
    assert "transpose" not in {entry.operation for entry in (*unpriced, *gru)}


def test_three_dimensional_convolution_is_unpriced_with_its_macs() -> None:
    module = nn.Sequential(nn.Conv3d(2, 3, 2), nn.Flatten(), nn.Linear(3 * 27, 2))
    workload, unpriced = trace_report(module, (1, 2, 4, 4, 4))
    assert len(workload) == 1
    (entry,) = [entry for entry in unpriced if entry.operation == "convolution"]
    assert entry.operations == 27 * 3 * 2 * 8


# How it runs


def test_tracing_leaves_the_module_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    module[2].eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    trace(module, (2, 3, 4, 4))
    assert [part.training for part in module] == [True, True, False]
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in module)


def test_control_flow_on_values_falls_back_to_running() -> None:
    module = Function(lambda m, x: m.a(x) if x.sum() >= 0 else x, a=nn.Linear(4, 3))
    assert trace(module, (1, 4)).macs == 12


def test_from_module_is_trace() -> None:
    assert Workload.from_module(nn.Linear(4, 3), (1, 4), "n") == trace(nn.Linear(4, 3), (1, 4), "n")


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (nn.Conv2d(3, 4, 1), (1, 5, 8, 8), r"cannot run on one float tensor of shape \(1, 5, 8, 8\)"),
        (nn.Conv2d(3, 4, 1), (1, 3, 0, 8), "expected positive integers"),
        (nn.Conv2d(3, 4, 1), (), "expected positive integers"),
        (nn.ReLU(), (1, 3), "no layer that can be priced"),
        (nn.Embedding(3, 4), (1, 3), "wrap it in a module"),
    ],
)
def test_errors(module: nn.Module, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(HardwareError, match=message) as caught:
        trace(module, shape)
    assert "\n" not in str(caught.value)


# ONNX


def small_network() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = functional.relu(m.a(x))
        y = m.p(m.b(y) + y)
        return m.d(m.c(y).mean((2, 3)))

    parts = {
        "a": nn.Conv2d(3, 8, 3, 2, 1),
        "b": nn.Conv2d(8, 8, 3, padding=1, groups=8),
        "p": nn.MaxPool2d(2),
        "c": nn.ConvTranspose2d(8, 6, 2, 2),
        "d": nn.Linear(6, 5),
    }
    return Function(forward, **parts)


def tensor(name: str, *shape: int) -> onnx.TensorProto:
    values = [0.0] * torch.Size(shape).numel()
    return helper.make_tensor(name, TensorProto.FLOAT, shape, values)


def save_small_network(path: Path, batch: int | str = 1, size: int | str = 16) -> Path:
    nodes = [
        helper.make_node("Conv", ["x", "wa", "ba"], ["a"], "a", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"], "r"),
        helper.make_node("Conv", ["r", "wb", "bb"], ["b"], "b", pads=[1, 1, 1, 1], group=8),
        helper.make_node("Add", ["b", "r"], ["s"], "add"),
        helper.make_node("MaxPool", ["s"], ["p"], "p", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("ConvTranspose", ["p", "wc", "bc"], ["c"], "c", strides=[2, 2]),
        helper.make_node("ReduceMean", ["c", "axes"], ["m"], "pool", keepdims=0),
        helper.make_node("Gemm", ["m", "wd", "bd"], ["y"], "d", transB=1),
    ]
    weights = [
        *(tensor("wa", 8, 3, 3, 3), tensor("ba", 8), tensor("wb", 8, 1, 3, 3), tensor("bb", 8)),
        *(tensor("wc", 8, 6, 2, 2), tensor("bc", 6), tensor("wd", 5, 6), tensor("bd", 5)),
        helper.make_tensor("axes", TensorProto.INT64, (2,), [2, 3]),
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, size, size])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])
    graph = helper.make_graph(nodes, "small", [image], [result], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), str(path))
    return path


@pytest.mark.parametrize("batch", [1, 2])
def test_onnx_equals_torch(tmp_path: Path, batch: int) -> None:
    ours = trace(small_network(), (batch, 3, 16, 16))
    read, unpriced = onnx_report(save_small_network(tmp_path / "n.onnx", batch))
    assert [layer.shape_key for layer in read.layers] == [layer.shape_key for layer in ours.layers]
    assert read.inputs == ours.inputs
    assert read.name == "small"
    assert {entry.operation for entry in unpriced} == {"bias", "Relu", "requantisation", "host transfer"}


def test_onnx_open_sizes(tmp_path: Path) -> None:
    assert read_onnx(save_small_network(tmp_path / "n.onnx", "batch")).layers[0].N == 1
    path = save_small_network(tmp_path / "o.onnx", "batch", "size")
    with pytest.raises(DataError, match="give input_shape"):
        read_onnx(path)
    assert read_onnx(path, (3, 3, 16, 16)).layers == read_onnx(save_small_network(tmp_path / "p.onnx", 3)).layers
    with pytest.raises(DataError, match="4 dimensions"):
        read_onnx(path, (3, 16))


def test_onnx_products(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["v"], ["w"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "w"], ["q"], "q"),
        helper.make_node("Transpose", ["q"], ["k"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "k"], ["s"], "scores"),
        helper.make_node("Softmax", ["s"], ["t"], "softmax"),
        helper.make_node("MatMul", ["t", "q"], ["y"], "values"),
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 7, 6])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 7, 4])
    graph = helper.make_graph(nodes, "g", [image], [result], [tensor("v", 4, 6)])
    onnx.save(helper.make_model(graph), str(tmp_path / "m.onnx"))
    read = read_onnx(tmp_path / "m.onnx")

    def attention(m: nn.Module, x: Tensor) -> Tensor:
        q = m.a(x)
        return torch.softmax(q @ q.transpose(1, 2), -1) @ q

    ours = trace(Function(attention, a=nn.Linear(6, 4, bias=False)), (2, 7, 6))
    assert [layer.shape_key for layer in read.layers] == [layer.shape_key for layer in ours.layers]
    assert read.inputs == ours.inputs == ((-1,), (0,), (0, 1))


def test_onnx_batch_norms(tmp_path: Path) -> None:
    scale = ["g", "h", "i", "j"]
    nodes = [
        helper.make_node("BatchNormalization", ["x", *scale], ["n"], "first"),
        helper.make_node("Conv", ["n", "w"], ["c"], "conv"),
        helper.make_node("BatchNormalization", ["c", *scale], ["y"], "second"),
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 3, 3])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 3, 3])
    weights = [tensor("w", 2, 2, 1, 1), *(tensor(name, 2) for name in scale)]
    graph = helper.make_graph(nodes, "g", [image], [result], weights)
    onnx.save(helper.make_model(graph), str(tmp_path / "b.onnx"))
    _, unpriced = onnx_report(tmp_path / "b.onnx")
    found = [entry for entry in unpriced if entry.operation == "batch norm"]
    assert [(entry.reason.split()[0], entry.operations) for entry in found] == [("done", 2 * 18), ("folded", 0)]


def test_onnx_sizes_that_the_file_computes(tmp_path: Path) -> None:
    """Zero-padded channels and a flattening as PyTorch's exporter writes them, over an open batch."""

    def integers(name: str, *values: int) -> onnx.TensorProto:
        return helper.make_tensor(name, TensorProto.INT64, (len(values),), values)

    constant = helper.make_tensor("value", TensorProto.INT64, (1,), [0])
    nodes = [
        helper.make_node("ConstantOfShape", ["four"], ["zeros"], value=constant),
        helper.make_node("Concat", ["zeros", "ends"], ["pads"], axis=0),
        helper.make_node("Pad", ["x", "pads"], ["p"]),
        helper.make_node("Shape", ["p"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["batch"], axis=0),
        helper.make_node("Concat", ["batch", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["p", "target"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"], "linear"),
    ]
    weights = [
        *(integers("four", 4), integers("ends", 0, 2, 0, 0), integers("first", 0), integers("rest", -1)),
        tensor("w", 4 * 9, 5),
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 3, 3])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])
    graph = helper.make_graph(nodes, "g", [image], [result], weights)
    onnx.save(helper.make_model(graph), str(tmp_path / "s.onnx"))
    workload, unpriced = onnx_report(tmp_path / "s.onnx", (3, 2, 3, 3))
    (layer,) = workload.layers
    assert (layer.N, layer.C, layer.K) == (3, 36, 5)
    assert {entry.operation for entry in unpriced} == {"Pad", "requantisation", "host transfer"}


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07" * 100])
def test_damaged_onnx(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.onnx"):
        read_onnx(tmp_path / "bad.onnx")


def test_onnx_node_without_inputs(tmp_path: Path) -> None:
    model = onnx.load(save_small_network(tmp_path / "n.onnx"))
    del model.graph.node[0].input[1:]
    onnx.save(model, tmp_path / "n.onnx")
    with pytest.raises(DataError, match=r"n\.onnx"):
        read_onnx(tmp_path / "n.onnx")


def test_oversized_and_missing_files(tmp_path: Path) -> None:
    with (tmp_path / "big.onnx").open("wb") as file:
        file.truncate((1 << 29) + 1)
    with pytest.raises(DataError, match="at most"):
        read_onnx(tmp_path / "big.onnx")
    with pytest.raises(DataError, match="no file"):
        read_workload(tmp_path / "none.onnx")


# By name


def factory() -> nn.Module:
    return nn.Linear(4, 3)


def test_read_workload(tmp_path: Path) -> None:
    workload = trace(factory(), (2, 4), "factory")
    assert read_workload(f"{__name__}:factory", (2, 4)) == workload
    (tmp_path / "w.json").write_text(json.dumps(workload.to_json()))
    assert read_workload(tmp_path / "w.json") == workload
    assert read_workload("resnet20", (2, 3, 32, 32)).layers[0].N == 2
    assert len(read_workload(save_small_network(tmp_path / "n.onnx"))) == 7


def test_read_workload_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="input_shape"):
        read_workload(f"{__name__}:factory")
    with pytest.raises(ConfigError, match="expected a torch module"):
        read_workload("math:pi", (1, 4))
    with pytest.raises(UnknownNameError, match="no object"):
        read_workload("math:pie", (1, 4))
    (tmp_path / "w.json").write_text("{")
    with pytest.raises(DataError, match="not a workload file"):
        read_workload(tmp_path / "w.json")
    (tmp_path / "v.json").write_text("[]")
    with pytest.raises(HardwareError, match=r"cosearch\.workload"):
        read_workload(tmp_path / "v.json")
