"""What the recordings of tools that this project did not write have in common: the layers and the file format.

One batch-1 int8 layer per kind that behaves differently on an array: first, 3x3, strided, 1x1, depthwise, 5x5,
fully connected, late. Inputs count their padding (as `Layer.input_height` does), in every tool.
"""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

from cosearch.workload import Layer
from tests.benchmarks.machine import commit

RECORDINGS = Path(__file__).parents[1] / "references" / "tools"

LAYERS: tuple[Layer, ...] = (
    Layer("resnet18 conv1 7x7 s2", K=64, C=3, P=112, Q=112, R=7, S=7, stride=(2, 2)),
    Layer("resnet18 3x3 64-64 @56", K=64, C=64, P=56, Q=56, R=3, S=3),
    Layer("resnet18 3x3 128-128 @28", K=128, C=128, P=28, Q=28, R=3, S=3),
    Layer("resnet18 3x3 s2 256-512 @7", K=512, C=256, P=7, Q=7, R=3, S=3, stride=(2, 2)),
    Layer("resnet18 3x3 512-512 @7", K=512, C=512, P=7, Q=7, R=3, S=3),
    Layer("mobilenetv2 1x1 96-24 @56", K=24, C=96, P=56, Q=56),
    Layer("mobilenetv2 1x1 320-1280 @7", K=1280, C=320, P=7, Q=7),
    Layer("mobilenetv2 dw 3x3 96 @56", K=96, C=96, P=56, Q=56, R=3, S=3, groups=96),
    Layer("mobilenetv2 dw 3x3 s2 144 @28", K=144, C=144, P=28, Q=28, R=3, S=3, stride=(2, 2), groups=144),
    Layer("googlenet 5x5 16-32 @28", K=32, C=16, P=28, Q=28, R=5, S=5),
    Layer("resnet18 fc 512-1000", K=1000, C=512),
)

EVEN_LAYERS: tuple[Layer, ...] = (Layer("fc 384-1008", K=1008, C=384),)
"""Compared with ZigZag besides: no remainder on 14 x 12 elements, of which ZigZag drops fractions (see tools.md)."""


def is_depthwise(layer: Layer) -> bool:
    """One filter per channel: the group loop is the only channel loop."""
    return layer.groups > 1 and layer.groups == layer.K == layer.C


def origin(distribution: str, command: str) -> dict[str, Any]:
    """Where a recording comes from: tool, version, date, machine, commit and command."""
    return {
        "tool": distribution,
        "version": metadata.version(distribution),
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "commit": commit(),
        "command": command,
    }


def write_recording(path: Path, header: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    """A JSON object with the header's entries and "results", one line for each."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in header.items()]
    lines.append('"results": [\n' + ",\n".join(json.dumps(result) for result in results) + "\n]")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
