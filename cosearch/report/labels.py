"""Names, units and numbers as a report shows them."""

from collections.abc import Mapping
from typing import Any

from cosearch.strategies.objectives import MAXIMISED, UNITS
from cosearch.words import number

TITLES: dict[str, str] = {
    "accuracy": "accuracy",
    "latency_ms": "latency",
    "energy_mj": "energy per image",
    "edp": "energy-delay product",
    "area_mm2": "area",
    "lut": "LUTs",
    "ff": "flip-flops",
    "dsp": "DSP blocks",
    "bram": "block RAMs",
    "uram": "UltraRAMs",
    "params": "weights",
    "macs": "operations",
    "throughput_fps": "throughput",
}
SHOWN_UNITS: dict[str, str] = {"edp": "mJ ms", "area_mm2": "mm²", "throughput_fps": "images/s"}


def title(name: str) -> str:
    return TITLES.get(name, name)


def unit(name: str) -> str:
    """Empty for counts, whose title says what is counted."""
    if name in ("latency_ms", "energy_mj"):
        return UNITS[name]
    return SHOWN_UNITS.get(name, "")


def axis(name: str) -> str:
    """What stands at an axis or over a column: ``latency (ms)``."""
    if name == "accuracy":
        return "accuracy (fraction)"
    return f"{title(name)} ({unit(name)})" if unit(name) else title(name)


def value(name: str, amount: Any) -> str:
    """As `cosearch show` prints it, with the unit."""
    return f"{number(name, amount)} {unit(name)}".rstrip()


def better(name: str) -> str:
    return "more is better" if name in MAXIMISED else "less is better"


def network(arch: Mapping[str, Any]) -> str:
    """``layer1 shift_k3_e1, layer2 skip``, as `cosearch show` prints it."""
    return ", ".join(f"{name} {choice}" for name, choice in arch.items())


def ratio(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.2f}x" if theirs else "-"


def percent(part: float, digits: int = 0) -> str:
    return f"{100 * part:.{digits}f}%"


def count(amount: float) -> str:
    return f"{amount:,.0f}" if amount < 1e7 else f"{amount:.3g}"


def plural(n: int, one: str) -> str:
    return f"{n:,} {one}" if n == 1 else f"{n:,} {one}s"


def amount_of_bytes(size: float) -> str:
    if size >= 2**20:
        return f"{size / 2**20:.4g} MiB"
    return f"{size / 1024:.4g} KiB" if size >= 1024 else f"{size:.4g} B"
