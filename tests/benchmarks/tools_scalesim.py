"""Record what SCALE-Sim says about systolic arrays.

SCALE-Sim needs its own environment (version 3.0.0 breaks on numpy 2.3 and later):

    python3.11 -m venv scalesim-env
    scalesim-env/bin/pip install scalesim==3.0.0 'numpy<2.3'
    scalesim-env/bin/python -m tests.benchmarks.tools_scalesim

It simulates every layer of `tools_common` on weight- and output-stationary arrays of 32x32 and 16x64 elements with
three buffers of 256 KiB and 32 words per cycle each, and writes tests/references/tools/scalesim.json after every
layer; a run that was interrupted goes on where it stopped. SCALE-Sim takes the read bandwidth from the `layout`
section (`Bandwidth` is for outputs alone). A depthwise layer is one simulated channel times the
number of channels, one after the other. It takes about a quarter of an hour.
"""

import argparse
import csv
import json
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from cosearch.workload import Layer
from tests.benchmarks.tools_common import LAYERS, RECORDINGS, is_depthwise, origin, write_recording

RECORDING = RECORDINGS / "scalesim.json"
CONFIGURATIONS = (("ws", 32, 32), ("os", 32, 32), ("ws", 16, 64), ("os", 16, 64))
BUFFER_KIB = 256
WORDS_PER_CYCLE = 32

CONFIGURATION = """[general]
run_name = run
[run_presets]
InterfaceBandwidth: USER
UseRamulatorTrace: False
[architecture_presets]
ArrayHeight: {rows}
ArrayWidth: {columns}
IfmapSramSzkB: {buffer}
FilterSramSzkB: {buffer}
OfmapSramSzkB: {buffer}
IfmapOffset: 0
FilterOffset: 10000000
OfmapOffset: 20000000
Dataflow: {dataflow}
Bandwidth: {words}
ReadRequestBuffer: 64
WriteRequestBuffer: 64
[layout]
IfmapCustomLayout: False
IfmapSRAMBankBandwidth: {words}
IfmapSRAMBankNum: 8
IfmapSRAMBankPort: 2
FilterCustomLayout: False
FilterSRAMBankBandwidth: {words}
FilterSRAMBankNum: 8
FilterSRAMBankPort: 2
[sparsity]
SparsitySupport: false
"""


def topology(layer: Layer) -> str:
    """The layer in SCALE-Sim's workload format (one channel of a depthwise layer), padding counted as input."""
    channels, filters = (1, 1) if is_depthwise(layer) else (layer.C, layer.K)
    if layer.stride[0] != layer.stride[1] or layer.dilation != (1, 1) or layer.N != 1:
        raise ValueError(f"layer {layer.name!r}: expected batch 1, equal strides and no dilation")
    row = (layer.input_height, layer.input_width, layer.R, layer.S, channels, filters, layer.stride[0])
    header = "Layer,IFMAP Height,IFMAP Width,Filter Height,Filter Width,Channels,Num Filter,Strides,\n"
    return header + "layer," + ",".join(map(str, row)) + ",\n"


def simulate(layer: Layer, dataflow: str, rows: int, columns: int) -> dict[str, float]:
    """Cycles with and without stalls, and the words moved between the buffers, the array and DRAM."""
    from scalesim.scale_sim import scalesim

    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as devnull:
        files = {name: Path(folder) / name for name in ("run.cfg", "topology.csv", "layout.csv")}
        files["run.cfg"].write_text(
            CONFIGURATION.format(
                rows=rows, columns=columns, dataflow=dataflow, buffer=BUFFER_KIB, words=WORDS_PER_CYCLE
            )
        )
        files["topology.csv"].write_text(topology(layer))
        files["layout.csv"].write_text("Layer,\n")
        start = time.process_time()
        with redirect_stdout(devnull):
            run = scalesim(
                save_disk_space=True,
                verbose=False,
                config=str(files["run.cfg"]),
                topology=str(files["topology.csv"]),
                layout=str(files["layout.csv"]),
            )
            run.run_scale(top_path=folder)
        seconds = time.process_time() - start
        reports = {name: report(Path(folder) / "run" / f"{name}_REPORT.csv") for name in ("COMPUTE", "DETAILED_ACCESS")}
    compute, access = reports["COMPUTE"], reports["DETAILED_ACCESS"]
    copies = layer.K if is_depthwise(layer) else 1
    words = {
        f"{buffer.lower()}_{tensor.lower()}_{direction.lower()}": access[f"{buffer} {tensor} {direction}"] * copies
        for buffer in ("SRAM", "DRAM")
        for tensor, direction in (("IFMAP", "Reads"), ("Filter", "Reads"), ("OFMAP", "Writes"))
    }
    return {
        "total_cycles": compute["Total Cycles"] * copies,
        "stall_cycles": compute["Stall Cycles"] * copies,
        "stall_free_cycles": (compute["Total Cycles"] - compute["Stall Cycles"]) * copies,
        "copies": copies,
        "mapping_efficiency_percent": compute["Mapping Efficiency %"],
        "cpu_seconds": round(seconds, 1),
    } | words


def report(path: Path) -> dict[str, float]:
    """The first data row of a SCALE-Sim report."""
    header, row = list(csv.reader(path.read_text().splitlines()))[:2]
    return {key.strip(): float(value) for key, value in zip(header, row, strict=False) if value.strip()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Record SCALE-Sim's cycles.")
    parser.add_argument("--output", type=Path, default=RECORDING)
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run recorded")
    options = parser.parse_args(arguments)
    results: list[dict[str, Any]] = []
    if options.output.exists() and not options.fresh:
        results = json.loads(options.output.read_text())["results"]
    done = {(r["dataflow"], r["rows"], r["columns"], r["layer"]["name"]) for r in results}
    for dataflow, rows, columns in CONFIGURATIONS:
        for layer in LAYERS:
            if (dataflow, rows, columns, layer.name) in done:
                continue
            figures = simulate(layer, dataflow, rows, columns)
            place = {"dataflow": dataflow, "rows": rows, "columns": columns, "layer": layer.to_json()}
            results.append(place | figures)
            print(
                f"{dataflow} {rows}x{columns} {layer.name:32} {figures['total_cycles']:12,.0f} cycles"
                f" {figures['stall_cycles']:12,.0f} stalls {figures['cpu_seconds']:7.1f} s",
                flush=True,
            )
            header = origin("scalesim", "python -m tests.benchmarks.tools_scalesim") | {
                "buffers_kib": BUFFER_KIB,
                "words_per_cycle": WORDS_PER_CYCLE,
            }
            write_recording(options.output, header, results)


if __name__ == "__main__":
    main()
