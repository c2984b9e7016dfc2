"""What the recipes share: the devices that tables are built for, and what a card says about them."""

import datetime
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hwbench_data.costing import Workers
from hwbench_data.store import Block, Card, Metric

Progress = Callable[[str], None]

MODELLED: dict[str, str] = {
    "ecp5-85f": "Lattice LFE5U-85F, engines within the part's budget",
    "zcu102": "AMD XCZU9EG, engines within the part's budget",
    "eyeriss": "row-stationary array after Eyeriss, 65 nm class",
    "tpu-ws": "systolic weight-stationary array after the TPU, 45 nm class",
    "gemmini": "weight-stationary array after Gemmini, 45 nm class",
    "pim": "crossbars of ReRAM or SRAM cells with shared ADCs, 32 nm",
    "pim-reram": "crossbars of ReRAM cells with shared ADCs, 32 nm",
    "gpu": "Mali-G610 with four cores: roofline with voltage and frequency levels",
}
"""Modelled devices of every table -> what they are."""

COSTS: dict[str, Metric] = {
    "latency_ms": Metric("ms", "lower", "time of one image, layers one after the other, 8 bit"),
    "energy_mj": Metric("mJ", "lower", "energy of one image, DRAM included"),
}
COUNTS: dict[str, Metric] = {
    "params": Metric("weights", "lower", "weights of convolutions and linear layers"),
    "macs": Metric("operations", "lower", "multiply-accumulates of layers with weights"),
}
POLICY = (
    "Each layer runs under its best mapping in the device's declared mapspace, for a grid of weights between latency "
    "and energy; of the results the one with the least energy-delay product counts. edp_gap: how far that may lie "
    "above the product of any choice of mappings, by a convex-hull bound, as a fraction of it, over the networks"
)


@dataclass(frozen=True)
class Request:
    """What a recipe is asked for.

    folder: where the table will be written. limit: only the first networks. measure: how many networks to time on this
    machine (and every block of a table of blocks); 0 takes the shipped measurements. workers: who prices, if not this
    process.
    """

    folder: Path
    limit: int | None = None
    seed: int = 0
    measure: int = 0
    progress: Progress = lambda text: None
    workers: Workers | None = None


@dataclass(frozen=True)
class Built:
    """What a recipe returns. labels: notations of listed networks. extras: files to keep beside the table."""

    card: Card
    blocks: list[Block]
    labels: list[str] | None = None
    extras: Mapping[str, Path] | None = None


def modelled(name: str, defaults: Mapping[str, str], gaps: Mapping[str, Any]) -> dict[str, Any]:
    """A card's entry of a modelled device. defaults: its default accelerators; gaps: see `costing.gap_facts`."""
    return {
        "title": MODELLED[name],
        "source": "modelled",
        "policy": POLICY,
        "edp_gap": dict(gaps),
        "default_accelerators": dict(defaults),
    }


def provenance(command: str, seed: int, *packages: str) -> dict[str, Any]:
    """How and with what a table was built."""
    return {
        "command": command,
        "seed": seed,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("cosearch", "numpy", "torch", "pyarrow", *packages)},
        },
        "licence": "Apache-2.0",
    }
