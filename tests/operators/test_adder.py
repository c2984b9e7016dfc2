import multiprocessing
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cosearch.errors import OperatorError
from cosearch.operators import AddConv2d, AddLinear, add_conv2d, add_linear, plain_add_conv2d, scale_add_gradients
from cosearch.operators.adder import BLOCK_BYTES, LONG_ROW
from tests.references.adder import adder

SHAPES = [  # n, c, h, w, k, (r, s), stride, padding, dilation, groups
    (2, 3, 5, 7, 4, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    (3, 4, 7, 5, 4, (3, 3), (2, 2), (1, 1), (1, 1), 4),
    (2, 6, 6, 9, 10, (1, 1), (1, 1), (0, 0), (1, 1), 2),
    (1, 4, 9, 8, 6, (5, 3), (3, 1), (2, 0), (1, 2), 2),
    (2, 5, 4, 4, 9, (2, 2), (2, 3), (3, 2), (2, 1), 1),
    (1, 3, 3, 3, 4, (1, 1), (2, 2), (0, 0), (1, 1), 1),
    (3, 5, 4, 5, 7, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    (3, 6, 11, 13, 7, (1, 1), (1, 1), (0, 0), (1, 1), 1),  # rows long enough for dW's own kernel
    (2, 66, 2, 3, 65, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    (4, 8, 4, 4, 8, (3, 3), (1, 1), (1, 1), (1, 1), 8),
    (9, 5, 6, 7, 10, (3, 3), (1, 1), (1, 1), (1, 1), 5),
    (5, 3, 23, 9, 3, (5, 3), (3, 2), (2, 1), (1, 1), 3),
    (2, 1, 2, 2, 1, (1, 1), (4, 4), (1, 1), (1, 1), 1),  # every output reads padding only
]


def _operands(shape: tuple, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, tuple]:
    n, c, h, w, k, kernel, stride, padding, dilation, groups = shape
    generator = torch.Generator().manual_seed(n * 1000 + c * 100 + h * 10 + k)
    x = torch.randn(n, c, h, w, generator=generator, dtype=dtype)
    weight = torch.randn(k, c // groups, *kernel, generator=generator, dtype=dtype)
    return x, weight, (stride, padding, dilation, groups)


def _with_gradients(x: torch.Tensor, weight: torch.Tensor, how: tuple) -> tuple[torch.Tensor, ...]:
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = add_conv2d(x, weight, *how)
    gradient = torch.linspace(-2, 2, y.numel(), dtype=y.dtype).view_as(y)
    dx, dw = torch.autograd.grad(y, (x, weight), gradient)
    return y.detach(), dx, dw, gradient


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_response_and_gradients_equal_the_triple_loop(shape: tuple, dtype: torch.dtype) -> None:
    x, weight, how = _operands(shape, dtype)
    y, dx, dw, gradient = _with_gradients(x, weight, how)
    expected = adder(x.double().numpy(), weight.double().numpy(), gradient.double().numpy(), *how)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    for got, want in zip((y, dx, dw), expected, strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=tolerance, atol=tolerance * (1 + np.abs(want).max()))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_kernels_equal_plain_torch_on_any_geometry(data: st.DataObject) -> None:
    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    groups, c_group, k_group = draw(1, 5), draw(1, 5), draw(1, 6)
    kernel, stride, padding, dilation = ((draw(1, top), draw(1, top)) for top in (4, 3, 3, 2))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    h, w = (draw(max(1, reach[i] - 2 * padding[i]), 14) for i in range(2))
    shape = (draw(1, 6), groups * c_group, h, w, groups * k_group, kernel, stride, padding, dilation, groups)
    x, weight, how = _operands(shape)
    fast, slow = _with_gradients(x, weight, how), _with_gradients(x.double(), weight.double(), how)
    reach = float(x.abs().max() + weight.abs().max())
    total = float(slow[3].abs().sum((0, 2, 3)).max())  # dw's terms may cancel: rounding follows their magnitudes
    scales = (float(slow[0].abs().max()), float(slow[1].abs().max()), reach * total)
    for got, want, scale in zip(fast[:3], slow[:3], scales, strict=True):
        assert torch.allclose(got.double(), want, rtol=1e-5, atol=1e-5 + 1e-6 * scale)


LAST_SHAPES = [  # as SHAPES; those whose channels-last form has a kernel of its own
    (2, 66, 2, 3, 65, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    (1, 3, 1, 1, 8, (1, 1), (1, 1), (0, 0), (1, 1), 1),  # fewer pixels than a kernel holds
    (4, 8, 4, 4, 8, (3, 3), (1, 1), (1, 1), (1, 1), 8),
    (3, 21, 9, 6, 21, (5, 3), (2, 3), (2, 0), (1, 2), 21),
    (1, 40, 70, 61, 40, (3, 3), (1, 1), (1, 1), (1, 1), 40),  # a plane of all channels would not fit the scratch
    (70, 16, 2, 2, 16, (5, 5), (1, 1), (2, 2), (1, 1), 16),  # many images in a unit, the last ones fewer
]


def _last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", LAST_SHAPES, ids=str)
def test_channels_last_kernels_equal_the_triple_loop(shape: tuple) -> None:
    x, weight, how = _operands(shape)
    y, dx, dw, gradient = _with_gradients(_last(x), weight, how)
    assert y.is_contiguous(memory_format=torch.channels_last)
    expected = adder(x.double().numpy(), weight.double().numpy(), gradient.double().numpy(), *how)
    for got, want in zip((y, dx, dw), expected, strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=2e-5, atol=2e-5 * (1 + np.abs(want).max()))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_channels_last_kernels_give_the_same_bits(data: st.DataObject) -> None:
    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    n, k, depthwise = draw(1, 9), draw(8, 50), data.draw(st.booleans())
    kernel, stride, padding, dilation = (
        ((draw(1, top), draw(1, top)) if depthwise else (least, least))
        for top, least in ((5, 1), (3, 1), (3, 0), (2, 1))
    )
    reach = [d * (size - 1) + 1 for d, size in zip(dilation, kernel, strict=True)]
    h, w = (draw(max(1, reach[i] - 2 * padding[i]), 14) for i in range(2))
    c, groups = (k, k) if depthwise else (draw(1, 50), 1)
    x, weight, how = _operands((n, c, h, w, k, kernel, stride, padding, dilation, groups))
    assert torch.equal(add_conv2d(_last(x), weight, *how), add_conv2d(x, weight, *how))


def test_row_bands_of_a_large_map_join_without_a_seam() -> None:
    shape = (1, 40, 70, 61, 6, (3, 3), (1, 1), (1, 1), (1, 1), 1)
    x, weight, how = _operands(shape)
    fast, slow = _with_gradients(x, weight, how), _with_gradients(x.double(), weight.double(), how)
    for got, want in zip(fast[:3], slow[:3], strict=True):
        assert torch.allclose(got.double(), want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


def test_forward_equals_cdist_of_unfolded_input() -> None:
    x, weight = torch.randn(2, 6, 8, 8), torch.randn(10, 6, 3, 3)
    columns = F.unfold(x, 3, padding=1).transpose(1, 2)
    expected = -torch.cdist(columns, weight.flatten(1)[None], p=1).transpose(1, 2).reshape(2, 10, 8, 8)
    assert torch.allclose(add_conv2d(x, weight, padding=1), expected, rtol=1e-4, atol=1e-4)


def test_input_gradient_is_the_sign_gradient_where_all_differences_exceed_one() -> None:
    x, weight = torch.randn(2, 3, 6, 6, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64) * 0.1
    x = torch.where(x < 0, x - 3, x + 3).requires_grad_()
    upstream = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    (dx,) = torch.autograd.grad(add_conv2d(x, weight), x, upstream)
    (true,) = torch.autograd.grad(plain_add_conv2d(x, weight), x, upstream)
    assert torch.allclose(dx, true, atol=1e-12)


def test_gradients_are_those_of_half_the_squared_distance_where_differences_stay_within_one() -> None:
    x = (torch.rand(2, 3, 5, 5, dtype=torch.float64) * 0.4).requires_grad_()
    weight = (torch.rand(4, 3, 3, 3, dtype=torch.float64) * 0.4).requires_grad_()
    upstream = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    columns = F.unfold(x, 3)
    half_square = -0.5 * (weight.flatten(1)[None, :, :, None] - columns[:, None]).square().sum(2).view(2, 4, 3, 3)
    expected = torch.autograd.grad(half_square, (x, weight), upstream)
    got = torch.autograd.grad(add_conv2d(x, weight), (x, weight), upstream)
    for one, other in zip(got, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_binary_operands_give_a_convolution_minus_its_length() -> None:
    x, weight = torch.randn(2, 5, 6, 6).sign(), torch.randn(7, 5, 3, 3).sign()
    assert torch.equal(add_conv2d(x, weight), F.conv2d(x, weight) - 45)


def test_moments_of_gaussian_operands() -> None:
    generator = torch.Generator().manual_seed(3)
    x, weight = torch.randn(400, 256, generator=generator), torch.randn(300, 256, generator=generator)
    y = add_linear(x, weight)
    assert float(y.mean()) == pytest.approx(-256 * (2 / torch.pi) ** 0.5 * 2**0.5, rel=0.01)
    assert float(y.var()) == pytest.approx(256 * (1 - 2 / torch.pi) * 2, rel=0.05)


def test_plain_forms_gradient_passes_gradcheck() -> None:
    x = torch.randn(1, 4, 5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: plain_add_conv2d(a, b, 2, 1, 1, 2), (x, weight))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", SHAPES[:10], ids=str)
def test_results_do_not_depend_on_the_number_of_threads(
    shape: tuple, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cosearch.operators import _simd

    monkeypatch.setattr(_simd, "SMALL_WORK", 0)
    n, c, *rest = shape
    x, weight, how = _operands((n * 16, c, *rest))
    x = _last(x) if last else x
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(_with_gradients(x, weight, how))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert torch.equal(results[0][0], other[0])
        assert torch.equal(results[0][1], other[1])
        long_rows = weight.shape[2:] == (1, 1) and how[3] == 1 and x.shape[2] * x.shape[3] >= LONG_ROW
        if weight.shape[1] == 1 or long_rows:  # otherwise dW is torch's own product, and so is its order of summation
            assert torch.equal(results[0][2], other[2])


def test_concurrent_callers_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    from cosearch.operators import _simd

    monkeypatch.setattr(_simd, "SMALL_WORK", 0)
    x, weight = torch.randn(16, 16, 8, 8), torch.randn(16, 16, 3, 3)
    expected = add_conv2d(x, weight, padding=1)
    wrong = []

    def call() -> None:
        for _ in range(20):
            if not torch.equal(add_conv2d(x, weight, padding=1), expected):
                wrong.append(1)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def _child(queue: "multiprocessing.Queue[float]", x: torch.Tensor, weight: torch.Tensor) -> None:
    queue.put(float(add_conv2d(x, weight).numpy().sum()))  # torch's own OpenMP would hang in a forked child


MEMORY = """
import torch
from cosearch.operators import AddLinear, add_conv2d, plain_add_conv2d

def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

torch.set_num_threads(1)
linear = AddLinear(512, 512, bias=False).plain()
cases = [
    (add_conv2d, torch.randn(8, 64, 56, 56), torch.randn(64, 64, 3, 3)),
    (plain_add_conv2d, torch.randn(1, 64, 112, 112), torch.randn(64, 64, 3, 3)),
    (lambda x, w, padding: linear(x), torch.randn(2048, 512), linear.weight),
]
add_conv2d(torch.randn(1, 4, 8, 8), torch.randn(4, 4, 3, 3), padding=1)
for call, x, w in cases:
    with torch.no_grad():
        open("/proc/self/clear_refs", "w").write("5")  # the high-water mark starts again from here
        before = status("VmRSS")
        y = call(x, w, padding=1)
        print(status("VmHWM") - before, 4 * (x.numel() + w.numel()), 4 * y.numel())
        del y
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is read as on Linux")
def test_peak_memory_is_the_stated_one() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    kernel, plain, linear = ([int(v) for v in line.split()] for line in done.stdout.splitlines())
    growth, operands, output = kernel
    assert growth + operands <= 1.5 * (operands + output)  # unfolded input alone would be nine times the operands
    for growth, _, output in (plain, linear):
        assert growth <= output + 4 * BLOCK_BYTES  # 2 to 3.4 of them, by run; without blocks 0.45 and 4.3 GB


def test_a_forked_child_computes_after_its_parent_did() -> None:
    x, weight = torch.ones(64, 16, 8, 8), torch.zeros(16, 16, 3, 3)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    add_conv2d(x, weight)
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[float] = context.Queue()
    child = context.Process(target=_child, args=(queue, x, weight))
    child.start()
    value = queue.get(timeout=60)
    child.join()
    torch.set_num_threads(before)
    assert value == -64 * 16 * 36 * 144


def test_numba_is_not_imported_before_the_first_kernel_call() -> None:
    code = (
        "import sys, cosearch.operators; assert not {'torch', 'numba'} & set(sys.modules)\n"
        "from cosearch.operators import AddConv2d; AddConv2d(2, 2, 3); assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_odd_memory_layouts_and_empty_batches() -> None:
    x, weight = torch.randn(2, 6, 5, 5), torch.randn(4, 6, 3, 3)
    expected = add_conv2d(x, weight)
    assert torch.equal(add_conv2d(x.to(memory_format=torch.channels_last), weight), expected)
    assert torch.equal(add_conv2d(x.transpose(2, 3).contiguous().transpose(2, 3), weight), expected)
    assert add_conv2d(x[:0], weight).shape == (0, 4, 3, 3)


def test_a_nan_in_the_input_shows_in_a_channels_last_output() -> None:
    x = torch.zeros(1, 16, 4, 4)
    x[0, 1, 2, 2] = float("nan")
    found = add_conv2d(_last(x), torch.ones(16, 16, 1, 1)).isnan()
    assert torch.equal(found, x.isnan().any(1, keepdim=True).expand(1, 16, 4, 4))
    assert torch.equal(add_conv2d(_last(x), torch.ones(16, 1, 1, 1), groups=16).isnan(), x.isnan())


def test_a_nan_in_the_input_shows_in_the_output_and_gradient() -> None:
    x = torch.zeros(1, 4, 4, 4)
    x[0, 1, 2, 2] = float("nan")
    y, dx, _, _ = _with_gradients(x, torch.ones(4, 4, 1, 1), ((1, 1), (0, 0), (1, 1), 1))
    assert torch.equal(y.isnan().any(1), x.isnan().any(1))
    assert torch.equal(dx.isnan(), x.isnan())


def test_modules_equal_the_function_and_round_trip() -> None:
    conv = AddConv2d(6, 8, 3, stride=2, padding=1, groups=2)
    x = torch.randn(3, 6, 7, 9)
    expected = plain_add_conv2d(x, conv.weight, 2, 1, 1, 2) + conv.bias.view(-1, 1, 1)
    assert torch.allclose(conv(x), expected, rtol=1e-5, atol=1e-5)
    copy = AddConv2d(6, 8, 3, stride=2, padding=1, groups=2)
    copy.load_state_dict(conv.state_dict())
    assert torch.equal(copy(x), conv(x))
    linear = AddLinear(5, 7)
    z = torch.randn(4, 3, 5)
    expected = -torch.cdist(z.view(-1, 5), linear.weight, p=1).view(4, 3, 7) + linear.bias
    assert torch.allclose(linear(z), expected, rtol=1e-5, atol=1e-5)


def test_cost_layers() -> None:
    (layer,) = AddConv2d(6, 8, 3, stride=2, padding=1, groups=2).cost_layers("a", (4, 6, 9, 9))
    assert (layer.kind, layer.N, layer.K, layer.C, layer.P, layer.Q, layer.groups) == ("add", 4, 8, 6, 5, 5, 2)
    (layer,) = AddLinear(5, 7).cost_layers("b", (4, 3, 5))
    assert (layer.kind, layer.N, layer.K, layer.C, layer.macs) == ("add", 12, 7, 5, 12 * 35)


def test_gradient_scaling_gives_the_stated_norm_whatever_the_loss_scale() -> None:
    net = torch.nn.Sequential(AddConv2d(3, 4, 3), torch.nn.Conv2d(4, 2, 1))
    net(torch.randn(2, 3, 6, 6)).sum().backward()
    direction = net[0].weight.grad.clone()
    other = net[1].weight.grad.clone()
    scale_add_gradients(net, eta=0.1)
    assert float(net[0].weight.grad.norm()) == pytest.approx(0.1 * (4 * 27) ** 0.5, rel=1e-5)
    assert torch.allclose(net[0].weight.grad / net[0].weight.grad.norm(), direction / direction.norm(), atol=1e-6)
    assert torch.equal(net[1].weight.grad, other)
    net[0].weight.grad.zero_()
    scale_add_gradients([net[0].weight])
    assert not net[0].weight.grad.any()


def test_gradient_scaling_of_a_shared_weight_counts_the_entries_in_use() -> None:
    parameter = torch.nn.Parameter(torch.zeros(6, 2))
    parameter.grad = torch.zeros(6, 2)
    parameter.grad[:3] = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    direction = parameter.grad / parameter.grad.norm()
    scale_add_gradients([parameter, torch.nn.Parameter(torch.ones(1))], 0.2, used_only=True)
    assert float(parameter.grad.norm()) == pytest.approx(0.2 * 6**0.5)
    assert torch.allclose(parameter.grad / parameter.grad.norm(), direction)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: add_conv2d(torch.ones(2, 3, 4, 4), torch.ones(4, 2, 3, 3)), "weight"),
        (lambda: add_conv2d(torch.ones(3, 4, 4), torch.ones(4, 3, 3, 3)), "x="),
        (lambda: add_conv2d(torch.ones(2, 3, 2, 2), torch.ones(4, 3, 3, 3)), "x="),
        (lambda: add_conv2d(torch.ones(2, 3, 4, 4), torch.ones(4, 3, 3, 3), stride=0), "stride"),
        (lambda: add_conv2d(torch.ones(2, 3, 4, 4), torch.ones(4, 3, 3, 3), padding=-1), "padding"),
        (lambda: add_conv2d(torch.ones(2, 3, 4, 4), torch.ones(4, 3, 3, 3).double()), "dtype"),
        (lambda: AddConv2d(3, 4, 3, groups=2), "groups"),
        (lambda: AddConv2d(4, 4, 2, padding="same"), "padding"),
        (lambda: AddConv2d(0, 4, 2), "in_channels"),
        (lambda: AddLinear(4, 0), "out_features"),
        (lambda: AddConv2d(3, 4, 3)(torch.ones(1, 4, 8, 8)), "input"),
        (lambda: scale_add_gradients(AddLinear(2, 2), eta=0), "eta"),
    ],
)
def test_bad_arguments_are_named(call: object, named: str) -> None:
    with pytest.raises(OperatorError, match=named):
        call()
