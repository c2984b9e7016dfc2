"""Operators beside what torch offers for the same shape, in one run: ``python -m tests.benchmarks.operators``.

Every figure is the least of many runs that take turns, so that a busy machine slows both sides alike; with one thread
it is processor time, which other work on the machine hardly changes. Writes docs/benchmarks/operators.md.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosearch.operators import (
    ButterflyLinear,
    LowRankConv2d,
    LowRankLinear,
    QuantConv2d,
    ShiftConv2d,
    TuckerConv2d,
    add_conv2d,
)
from cosearch.operators.butterfly import ButterflyConv2d
from tests.benchmarks.machine import stamp

REPEATS, SECONDS = 40, 0.5
Row = tuple[str, ...]


def best_ms(*calls: Callable[[], object]) -> list[float]:
    """The least milliseconds of each call over runs that take turns: at least 5, at most REPEATS or SECONDS each.

    Every timed run follows an untimed one of the same call, so that none pays for the caches another one emptied.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    least = [float("inf")] * len(calls)
    begin = clock()
    for repeat in range(REPEATS):
        if repeat >= 5 and clock() - begin > SECONDS * len(calls):
            break
        for i, call in enumerate(calls):
            call()
            start = clock()
            call()
            least[i] = min(least[i], clock() - start)
    return [1e3 * seconds for seconds in least]


def unfold_adder(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """The textbook formula on unfolded input, one broadcast per image."""
    columns = F.unfold(x, weight.shape[2], padding=padding)
    flat = weight.flatten(1)
    parts = [-(flat[:, :, None] - image[None]).abs().sum(1) for image in columns]
    return torch.stack(parts).view(len(x), len(weight), *x.shape[2:])


def cdist_adder(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    columns = F.unfold(x, weight.shape[2], padding=padding).transpose(1, 2)
    return -torch.cdist(columns, weight.flatten(1)[None], p=1).transpose(1, 2)


def add_rows() -> list[Row]:
    rows: list[Row] = []
    shapes = [(c, size, kernel, 1) for kernel in (1, 3) for c, size in _maps()]
    shapes += [(c, size, 3, c) for c, size in ((32, 32), (96, 16), (192, 8), (256, 4))]
    for c, size, kernel, groups in shapes:
        batch = 16
        x = torch.randn(batch, c, size, size, requires_grad=True)
        weight = torch.randn(c, c // groups, kernel, kernel, requires_grad=True)
        pad = kernel // 2

        def add(x: Tensor = x, w: Tensor = weight, pad: int = pad, groups: int = groups) -> Tensor:
            return add_conv2d(x, w, 1, pad, 1, groups)

        def conv(x: Tensor = x, w: Tensor = weight, pad: int = pad, groups: int = groups) -> Tensor:
            return F.conv2d(x, w, None, 1, pad, 1, groups)

        calls: list[Callable[[], object]] = [torch.no_grad()(add), torch.no_grad()(conv)]
        if groups == 1:
            calls.append(torch.no_grad()(partial(cdist_adder, x, weight, pad)))
            if c * size * size <= 64 * 64:
                calls.append(torch.no_grad()(partial(unfold_adder, x, weight, pad)))
        y, z = add(), conv()
        upstream = torch.randn_like(y)
        for response in (y, z):
            calls.append(partial(torch.autograd.grad, response, (x, weight), upstream, retain_graph=True))
        times = best_ms(*calls)
        forward, dense, backward, dense_backward = times[0], times[1], times[-2], times[-1]
        name = f"{batch} x {c} x {size} x {size}, {kernel}x{kernel}" + (" depthwise" if groups > 1 else f" -> {c}")
        cdist = f"{times[2] / forward:.1f}x" if groups == 1 else ""
        unfold = f"{times[3] / forward:.0f}x" if len(times) == 6 else ""
        rows.append(
            (
                name,
                f"{forward:.2f}",
                f"{y.numel() * weight[0].numel() / forward / 1e6:.1f}",
                f"{forward / dense:.2f}",
                cdist,
                unfold,
                f"{backward / forward:.2f}",
                f"{backward / dense_backward:.2f}",
            )
        )
    return rows


def _maps() -> tuple[tuple[int, int], ...]:
    return ((16, 32), (32, 16), (64, 8), (96, 16), (128, 8), (256, 4), (256, 8))


def step_rows() -> list[Row]:
    """Training steps, forward and backward, of the layers that end in a conv2d."""
    rows = []
    for c, size, kernel in ((16, 32, 3), (64, 16, 3), (128, 8, 3), (64, 16, 1), (256, 8, 1)):
        x = torch.randn(64, c, size, size, requires_grad=True)
        layers: dict[str, nn.Module] = {
            "conv2d": nn.Conv2d(c, c, kernel, padding=kernel // 2),
            "shift q": ShiftConv2d(c, c, kernel, padding=kernel // 2),
            "shift q, float input": ShiftConv2d(c, c, kernel, padding=kernel // 2, activation_bits=None),
            "shift ps": ShiftConv2d(c, c, kernel, padding=kernel // 2, form="ps"),
            "quantised 8/8": QuantConv2d(c, c, kernel, padding=kernel // 2),
            "quantised 8/float": QuantConv2d(c, c, kernel, padding=kernel // 2, activation_bits=None),
        }

        def step(layer: nn.Module, x: Tensor = x) -> None:
            layer(x).sum().backward()

        times = best_ms(*(lambda layer=layer: step(layer) for layer in layers.values()))
        ratios = [f"{t / times[0]:.2f}" for t in times[1:]]
        rows.append((f"64 x {c} x {size} x {size}, {kernel}x{kernel}", f"{times[0]:.2f}", *ratios))
    return rows


def compressed_rows() -> list[Row]:
    """Forward and training step of factored layers against the dense one."""
    rows = []
    cases: list[tuple[str, tuple[int, ...], nn.Module, list[nn.Module]]] = []
    for c in (256, 512, 1024):
        rank = c // 8  # two factors: c^2 / (2 c rank) = 4
        cases.append(
            (
                f"linear {c} -> {c}, 1024 rows",
                (1024, c),
                nn.Linear(c, c),
                [ButterflyLinear(c, c), LowRankLinear(c, c, rank=rank)],
            )
        )
    for c, size in ((256, 8), (256, 16), (512, 8)):
        cases.append(
            (
                f"1x1 {c} -> {c}, 16 x {size} x {size}",
                (16, c, size, size),
                nn.Conv2d(c, c, 1),
                [ButterflyConv2d(c, c, 1), LowRankConv2d(c, c, 1, rank=c // 8)],
            )
        )
        cases.append(
            (
                f"3x3 {c} -> {c}, 16 x {size} x {size}",
                (16, c, size, size),
                nn.Conv2d(c, c, 3, padding=1),
                [ButterflyConv2d(c, c, 3, padding=1), TuckerConv2d(c, c, 3, padding=1, ranks=round(c * 0.4))],
            )
        )
    for name, shape, dense, others in cases:
        x = torch.randn(shape)
        wanted, upstream = x.clone().requires_grad_(), torch.randn_like(dense(x))
        layers = [dense, *others]
        forward = best_ms(*(torch.no_grad()(lambda layer=layer, x=x: layer(x)) for layer in layers))
        first, inner = (
            best_ms(*(lambda layer=layer, x=x, u=upstream: layer(x).backward(u) for layer in layers))
            for x in (x, wanted)
        )
        sizes = [sum(p.numel() for n, p in m.named_parameters() if n != "bias") for m in layers]
        cells = []
        for i in (1, 2):
            cells.append(f"{sizes[0] / sizes[i]:.1f}x")
            cells += [f"{times[0] / times[i]:.2f}" for times in (forward, inner, first)]
        rows.append((name, f"{forward[0]:.2f}", *cells))
    return rows


MEMORY = """
import torch
from cosearch.operators import add_conv2d

def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

torch.set_num_threads({threads})
x, w = torch.randn(1, 4, 8, 8, requires_grad=True), torch.randn(4, 4, 3, 3, requires_grad=True)
add_conv2d(x, w, padding=1).sum().backward()
x = torch.randn({n}, {c}, {size}, {size})
w = torch.randn({c}, {c}, 3, 3)
open("/proc/self/clear_refs", "w").write("5")  # the high-water mark starts again from here
before = status("VmRSS")
y = {call}
print(status("VmHWM") - before, 4 * x.numel() + 4 * w.numel(), 4 * y.numel())
"""


EXPORTED = """
import io, torch, onnxruntime
from cosearch.operators import AddConv2d, to_plain

def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

x, buffer = torch.randn(1, 64, 224, 224), io.BytesIO()
layer = to_plain(AddConv2d(64, 64, 3, padding=1))
torch.onnx.export(layer, (x,), buffer, input_names=["x"], dynamo=False, opset_version=18)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = {threads}
session = onnxruntime.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
(y,) = session.run(None, {{"x": x.numpy()}})
print(status("VmHWM") - before, y.nbytes)
"""


def exported_memory() -> str:
    """What onnxruntime adds at its peak to run an exported adder at 224 x 224 (Linux)."""
    code = EXPORTED.format(threads=torch.get_num_threads())
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    growth, output = (int(v) / 2**20 for v in done.stdout.split())
    return (
        f"The plain form, exported to ONNX, 1 x 64 x 224 x 224, 3x3 -> 64, in onnxruntime: {growth:.0f} MiB, of which "
        f"the output is {output:.0f}; one broadcast would be {64 * 9 * 64 * 224 * 224 * 4 / 2**30:.0f} GiB."
    )


def memory_rows() -> list[Row]:
    """What one forward call adds to the process's memory at its peak, the output included (Linux)."""
    rows = []
    calls = {
        "add": "add_conv2d(x, w, padding=1)",
        "cdist": "torch.cdist(torch.nn.functional.unfold(x, 3, padding=1).transpose(1, 2), w.flatten(1)[None], p=1)",
    }
    for n, c, size in ((64, 64, 32), (32, 128, 16), (4, 64, 112)):
        cells = []
        for call in calls.values():
            code = MEMORY.format(n=n, c=c, size=size, call=call, threads=torch.get_num_threads())
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            growth, operands, output = (int(v) for v in done.stdout.split())
            cells += [f"{growth / 2**20:.0f}", f"{(growth + operands) / (operands + 4 * n * c * size * size):.2f}"]
        sizes = (f"{operands / 2**20:.0f}", f"{output / 2**20:.0f}")
        rows.append((f"{n} x {c} x {size} x {size}, 3x3 -> {c}", *sizes, *cells))
    return rows


def compile_seconds() -> float:
    """Import of numba and compilation of all kernels, without the disk cache, in a fresh process."""
    code = (
        "import time; start = time.process_time()\n"
        "from cosearch.operators import _add_kernels as adders, _chain_kernels as chains\n"
        "names = ('forward', 'input_gradient', 'depthwise_gradients', 'pointwise_products')\n"
        "for module, names in ((adders, names), (chains, ('apply', 'gradients'))):\n"
        "    for name in names: module._compiled(name)\n"
        "print(time.process_time() - start)"
    )
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        cold = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        warm = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    print(f"compile: cold {float(cold.stdout):.1f} s, from the disk cache {float(warm.stdout):.1f} s")
    return float(cold.stdout)


def table(header: Row, rows: list[Row]) -> str:
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def main() -> None:
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    load = os.getloadavg()[0]  # of other work: rows measured beside it may be noisy
    cold = compile_seconds()
    clock = "processor time" if threads == 1 else "wall-clock time"
    sections = [
        "# Operators beside torch\n",
        f"{stamp('numba')} {threads} thread(s), {clock}. `python -m tests.benchmarks.operators [threads]`. Least of up "
        f"to {REPEATS} runs that take turns, each warm, load average {load:.1f} at the start. Cold compilation of all "
        f"kernels of adders and butterfly chains, imports included: {cold:.1f} s.\n",
        "## Adder: response and gradients\n",
        "forward / conv2d: how many times conv2d's time (target: at most 8); cdist, unfold: how many times ours those "
        "take (target for cdist: at least 5); backward / forward (target: at most 2.5).\n",
        table(
            (
                "shape",
                "forward ms",
                "G terms/s",
                "forward / conv2d",
                "cdist p=1 / ours",
                "unfold / ours",
                "backward / forward",
                "backward / conv2d's",
            ),
            add_rows(),
        ),
        "\n## Adder: peak memory of one forward call, MiB\n",
        "Peak over input + output + weight is the ratio (target: at most 2).\n",
        table(
            ("shape", "input + weight", "output", "added, ours", "ratio", "added, cdist", "ratio"),
            memory_rows(),
        ),
        "\n" + exported_memory(),
        "\n## Training step over conv2d's (target: at most 1.5)\n",
        table(
            (
                "shape",
                "conv2d ms",
                "shift q",
                "shift q, float input",
                "shift ps",
                "quantised 8/8",
                "quantised 8/float",
            ),
            step_rows(),
        ),
        "\n## Factored layers: speed-up over the dense layer (target: above 1 at 4 times compression)\n",
        "Butterfly chains are the default of compression=4: at most a quarter of the parameters and nearly as many, as "
        "narrow as possible. Step is a forward and a backward pass; in the first layer of a network the backward pass "
        "needs no input gradient. Low rank is SVD for linear and 1x1 layers, Tucker-2 for 3x3.\n",
        table(
            (
                "shape",
                "dense ms",
                "butterfly size",
                "forward",
                "step",
                "step, first layer",
                "low-rank size",
                "forward",
                "step",
                "step, first layer",
            ),
            compressed_rows(),
        ),
    ]
    text = "\n".join(sections) + "\n"
    target = Path("docs/benchmarks/operators.md")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
