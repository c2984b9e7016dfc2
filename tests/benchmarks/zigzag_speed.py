"""How long ZigZag's default search takes, for the benchmarks that print our speed beside it.

If the environment variable COSEARCH_ZIGZAG names a Python that has ZigZag (see `tools_zigzag`), ZigZag searches the
benchmark's own layers in the same run: processor seconds, the median of three searches for latency on its shipped
accelerator. Without it, figures are those recorded in tests/references/tools/zigzag.json, one search each.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cosearch.workload import Layer
from tests.benchmarks.tools_common import RECORDINGS

VARIABLE = "COSEARCH_ZIGZAG"
HARDWARE = "tpu_like"
"""The accelerator whose search is the peer: ZigZag takes about a third longer on eyeriss_like."""


@dataclass(frozen=True)
class ZigZagSpeed:
    """Processor seconds of a search; `of` maps layers without their names."""

    of: dict[Layer, float]
    source: str

    def seconds(self, layer: Layer) -> float | None:
        return self.of.get(replace(layer, name=""))

    def beside(self, layer: Layer, ours: float) -> str:
        """How many of our searches of `ours` processor seconds ZigZag's one lasts."""
        theirs = self.seconds(layer)
        return "no figure of ZigZag's" if theirs is None else f"{theirs / ours:,.0f} x ZigZag's {theirs:.2f} s"

    def rows(self, layers: Iterable[Layer]) -> Iterator[str]:
        """Table rows of the peer's own figures."""
        for layer in layers:
            found = self.seconds(layer)
            figure = "no figure" if found is None else f"{found:.2f} CPU s"
            yield f"| ZigZag's search, {layer.name} | {figure} | |"


def zigzag_speed(layers: Iterable[Layer], hardware: str = HARDWARE) -> ZigZagSpeed:
    """Measured in this run if the environment allows it, recorded if not; `source` says which."""
    once = list(dict.fromkeys(replace(layer, name="") for layer in layers))
    python = os.environ.get(VARIABLE)
    return _measured(Path(python), once, hardware) if python else _recorded(once, hardware)


def _measured(python: Path, layers: list[Layer], hardware: str) -> ZigZagSpeed:
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "layers.json"
        asked.write_text(json.dumps([layer.to_json() for layer in layers]))
        command = [str(python.absolute()), "-m", "tests.benchmarks.tools_zigzag", "--time", str(asked)]
        root = Path(__file__).parents[2]
        done = subprocess.run([*command, "--hardware", hardware], cwd=root, check=True, stdout=subprocess.PIPE)
    found = json.loads(done.stdout)
    source = (
        f"ZigZag {found['version']} measured in this run: its default search for latency ({found['search']}) on its "
        f"{hardware}, processor seconds, median of {found['repeats']}."
    )
    return ZigZagSpeed(dict(zip(layers, found["seconds"], strict=True)), source)


def _recorded(layers: list[Layer], hardware: str) -> ZigZagSpeed:
    recording = json.loads((RECORDINGS / "zigzag.json").read_text())
    found = {
        replace(Layer.from_json(entry["layer"]), name=""): entry["best_latency"]["cpu_seconds"]
        for entry in recording["results"]
        if entry["hardware"] == hardware
    }
    source = (
        f"ZigZag not run ({VARIABLE} names no Python that has it): recorded figures of {recording['tool']} "
        f"{recording['version']}, {recording['date']}, {recording['machine']}; its search for latency on its "
        f"{hardware}, processor seconds, one search a layer."
    )
    return ZigZagSpeed({layer: found[layer] for layer in layers if layer in found}, source)
