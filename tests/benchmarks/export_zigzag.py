"""Feed exported designs to ZigZag and record what it says of them.

ZigZag needs its own environment:

    python3.11 -m venv zigzag-env
    zigzag-env/bin/pip install zigzag-dse==3.9.1 six
    python -m tests.benchmarks.export_zigzag --zigzag zigzag-env/bin/python

Writes tests/references/tools/zigzag_export.json: per design and engine the files as ZigZag read them, and per layer its
cycles and energy beside ours; and docs/benchmarks/export_zigzag.md. Only the whole of ZigZag's own pipeline runs, from
its parser to its cost model.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from cosearch.export.zigzag import zigzag_files
from cosearch.workload import Workload
from tests import tiny_space
from tests.benchmarks.machine import commit
from tests.benchmarks.tools_common import RECORDINGS, write_recording
from tests.export.designs import ARCHS, WIDE, mapped

RECORDING = RECORDINGS / "zigzag_export.json"
PAGE = Path(__file__).parents[2] / "docs/benchmarks/export_zigzag.md"
DESIGNS = {
    "tiny on ecp5-25f": (tiny_space.space().workload(ARCHS["mixed"]), "ecp5-25f"),
    "wide on ecp5-85f": (WIDE, "ecp5-85f"),
    "wide on eyeriss": (WIDE, "eyeriss"),
}
"""Name -> workload and device."""

SCRIPT = """
import json, logging, sys, tempfile
from importlib.metadata import version
logging.disable(logging.CRITICAL)
from zigzag.api import get_hardware_performance_zigzag
found = {"version": version("zigzag-dse"), "layers": {}}
for folder in sys.argv[1:]:
    files = [f"{folder}/{name}.yaml" for name in ("workload", "hardware", "mapping")]
    with tempfile.TemporaryDirectory() as out:
        result = get_hardware_performance_zigzag(*files, dump_folder=out, loma_show_progress_bar=False)
    found["layers"][folder] = [
        [cost.layer.name, float(cost.latency_total2), float(cost.energy_total)] for cost, _ in result[2][0][1]
    ]
json.dump(found, open("found.json", "w"))
"""


def exported(workload: Workload, device: str) -> dict[str, dict[str, str]]:
    """Engine -> file -> content."""
    engines: dict[str, dict[str, str]] = {}
    for path, content in zigzag_files(workload, *mapped(workload, device)).items():
        engine, _, name = path.rpartition("/")
        if engine:
            engines.setdefault(engine, {})[name] = content
    return engines


def ask(zigzag: Path, engines: dict[str, dict[str, str]]) -> dict[str, Any]:
    """ZigZag's version and figures: engine -> [layer, cycles, pJ]."""
    with tempfile.TemporaryDirectory() as folder:
        for engine, files in engines.items():
            (Path(folder) / engine).mkdir()
            for name, content in files.items():
                (Path(folder) / engine / name).write_text(content)
        subprocess.run([str(zigzag.absolute()), "-c", SCRIPT, *engines], cwd=folder, check=True, capture_output=True)
        return json.loads((Path(folder) / "found.json").read_text())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Record what ZigZag says of exported designs.")
    parser.add_argument("--zigzag", type=Path, required=True, help="a Python with zigzag-dse")
    parser.add_argument("--output", type=Path, default=RECORDING)
    options = parser.parse_args(arguments)
    results = []
    version = ""
    for design, (workload, device) in DESIGNS.items():
        accelerator, mapping = mapped(workload, device)
        engines = exported(workload, device)
        found = ask(options.zigzag, engines)
        version = found["version"]
        ours = {entry.layer: entry for entry in mapping.layers}
        for engine, layers in found["layers"].items():
            rows = []
            for name, cycles, pj in layers:
                entry = ours[name]
                busy = entry.energy_mj - accelerator.static_power_w * entry.latency_ms
                rows.append({"layer": name, "zigzag": [cycles, pj], "ours": [entry.cycles, busy * 1e9]})
                print(f"{design:17} {engine:8} {name:20} cycles {entry.cycles:8,.0f} {cycles:8,.0f}", end="")
                print(f"   pJ without static power {busy * 1e9:10,.0f} {pj:10,.0f}")
            results.append({"design": design, "engine": engine, "files": engines[engine], "layers": rows})
    header = {
        "tool": "zigzag-dse",
        "version": version,
        "date": date.today().isoformat(),
        "machine": platform.machine(),
        "commit": commit(),
        "command": "python -m tests.benchmarks.export_zigzag --zigzag zigzag-env/bin/python",
    }
    write_recording(options.output, header, results)
    PAGE.write_text(page(header, results), encoding="utf-8")


def page(header: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> str:
    """The recording as a page for people."""
    made = ", ".join(header[key] for key in ("date", "machine", "commit"))
    lines = [
        "# Exported designs in ZigZag",
        "",
        f"`{header['command']}`; {header['tool']} {header['version']}, {made}. Modelled by both.",
        "",
        "Each engine's YAML goes through ZigZag's whole pipeline, with our unrolling and order of loops; which loops",
        "each memory holds it decides itself. Energies are without static power. Ours count requantisation and the",
        "filling of the array per tile, ZigZag's the way in of the first tiles. A one-port register of Eyeriss reads",
        "and writes a sum in one cycle here, since its port is wide enough for both, and in two cycles there.",
        "",
        "| design, engine, layer | cycles | ZigZag | pJ | ZigZag |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for entry in results:
        for row in entry["layers"]:
            (cycles, pj), (our_cycles, our_pj) = row["zigzag"], row["ours"]
            name = f"{entry['design']}, {entry['engine']}, {row['layer']}"
            lines.append(f"| {name} | {our_cycles:,.0f} | {cycles:,.0f} | {our_pj:,.0f} | {pj:,.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
