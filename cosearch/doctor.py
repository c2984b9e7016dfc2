"""``cosearch doctor``: versions, threads, devices, extras, and a self-check whose answers are known from elsewhere."""

import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from cosearch.errors import one_line


@dataclass(frozen=True)
class Check:
    """One finding. ok: None for what is merely said."""

    name: str
    ok: bool | None
    found: str
    seconds: float = 0.0


def _declared() -> dict[str, list[str]]:
    """Extra -> distributions that it asks for; what is always needed under the empty name."""
    found: dict[str, list[str]] = {}
    for line in requires("cosearch") or ():
        name = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", line)
        if name is not None and name[0] != "cosearch":
            found.setdefault(extra[1] if extra else "", []).append(name[0])
    return found


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _versions() -> list[Check]:
    checks = [Check("python", None, f"{platform.python_version()}, {platform.system()} {platform.machine()}")]
    declared = _declared()
    for name in ("cosearch", *declared.pop("", [])):
        found = _installed(name)
        checks.append(Check(name, found is not None, found or f"not installed: pip install {name}"))
    for extra, names in sorted(declared.items()):
        lacking = [name for name in names if _installed(name) is None]
        said = f"lacks {', '.join(lacking)}: pip install 'cosearch[{extra}]'" if lacking else "installed"
        checks.append(Check(f"extra {extra}", None, said))
    return checks


def _machine() -> list[Check]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [
        Check("CPU cores", None, f"{cores} usable; torch uses {torch.get_num_threads()} threads"),
        Check("GPU", None, ", ".join(devices) or "none that torch sees: networks are trained on the CPU"),
    ]


def _mapping() -> str:
    """A 4 x 4 array, 16 x 16 channels, 8 x 8 pixels: 1,024 products a pixel, 16 at once, without a stall."""
    from cosearch.hardware import Accelerator, Engine, MemoryLevel, best
    from cosearch.workload import Layer

    levels = (
        MemoryLevel("weight_buffer", ("W",), 1 << 16, double_buffered=True),
        MemoryLevel("activation_buffer", ("I", "O"), 1 << 16, double_buffered=True),
        MemoryLevel("dram"),
    )
    register = MemoryLevel("register", ("W",), 256.0, instances=16)
    local = (register, MemoryLevel("accumulator", ("O",), 512.0, instances=4))
    engine = Engine("mac", ("mac",), 4, 4, accumulator_depth=64, levels=local)
    layer = Layer("conv", K=16, C=16, P=8, Q=8)
    _, cost = best(layer, Accelerator("doctor", (engine,), levels, 100.0, lanes=1 << 20))
    if cost.cycles != layer.macs / 16:
        raise ValueError(f"{cost.cycles:g} cycles, expected {layer.macs / 16:g}")
    return f"{cost.cycles:,.0f} cycles, as counted by hand"


def _adder() -> str:
    import torch

    from cosearch.operators.adder import add_conv2d

    x = torch.arange(12.0).reshape(1, 3, 2, 2)
    weight = torch.tensor([1.0, -2.0, 4.0]).reshape(1, 3, 1, 1)
    expected = -(x - weight).abs().sum(1, keepdim=True)
    if not torch.allclose(add_conv2d(x, weight), expected):
        raise ValueError("the adder kernel does not give the sum of absolute differences")
    return "equal to its formula"


def _training() -> str:
    """Ten patterns under noise, which a network that learns at all tells apart; guessing is right one time in ten."""
    import numpy as np
    import torch

    from cosearch.data import Split
    from cosearch.supernet.blocks import Network
    from cosearch.supernet.training import Recipe, accuracy, train_network
    from search_spaces.networks import find

    rng = np.random.default_rng(0)
    y = np.arange(640) % 10
    noise = rng.standard_normal((640, 1, 8, 8), np.float32)
    x = rng.standard_normal((10, 1, 8, 8), np.float32)[y] + np.float32(0.5) * noise
    space = find("shiftadd")((1, 8, 8), 10)
    arch = {name: next(c for c in options if c.startswith("conv_k3_e1")) for name, options in space.choices.items()}
    network = Network(space.blueprint(arch), 0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on images as small as these, threads wait for each other
    try:
        recipe = Recipe(epochs=4, rotation_degrees=0.0, scale=0.0, shift_pixels=0.0)
        train_network(network, Split(x[:512], y[:512]), recipe, 0)
        reached = accuracy(network.eval(), Split(x[512:], y[512:]))
    finally:
        torch.set_num_threads(threads)
    if reached < 0.8:
        raise ValueError(f"4 epochs on ten noisy patterns reach {reached:.0%}, expected at least 80%")
    return f"4 epochs on ten noisy patterns reach {reached:.0%}"


SELF_CHECKS: tuple[tuple[str, Callable[[], str]], ...] = (
    ("mapping search", _mapping),
    ("adder kernel", _adder),
    ("training", _training),
)


def examine(self_check: bool = True, note: Callable[[str], Any] = lambda name: None) -> list[Check]:
    """All findings. self_check: run the checks too, some ten seconds. note: told the name of each check as it ends."""
    found = [*_versions(), *_machine()]
    for name, check in SELF_CHECKS if self_check else ():
        started = time.monotonic()
        try:
            ok, said = True, check()
        except Exception as error:  # whatever is broken in an installation is what is looked for here
            ok, said = False, f"{type(error).__name__}: {one_line(error):.200}"
        found.append(Check(name, ok, said, round(time.monotonic() - started, 2)))
        note(name)
    return found
