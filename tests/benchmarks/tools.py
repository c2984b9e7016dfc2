"""Print the recorded figures of the tools that the cost model is compared with, and write docs/benchmarks/tools.md.

    python -m tests.benchmarks.tools

`tools_zigzag` and `tools_scalesim` make the recordings, each in its tool's own environment.
"""

import json
from pathlib import Path
from typing import Any

from tests.benchmarks.tools_common import RECORDINGS

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "tools.md"


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def made_by(recording: dict[str, Any]) -> str:
    return (
        f"{recording['tool']} {recording['version']}, {recording['date']}, {recording['machine']}, commit "
        f"{recording['commit']}, `{recording['command']}`."
    )


def zigzag_section(recording: dict[str, Any]) -> str:
    """Cycles and energy of ZigZag's best mappings, per accelerator and layer."""
    parts = ["## ZigZag", f"{made_by(recording)} Search: {recording['search']}."]
    for hardware in recording["hardware"]:
        rows = []
        for entry in (e for e in recording["results"] if e["hardware"] == hardware):
            for key in (k for k in entry if k.startswith("best_")):
                cost = entry[key]
                figures = (cost["latency_cycles"], cost["ideal_temporal_cycles"], cost["stall_cycles"])
                loading = cost["onloading_cycles"] + cost["offloading_cycles"] + cost["systolic_drain_cycles"]
                rows.append(
                    [f"{entry['layer']['name']}, {key.removeprefix('best_').replace('_', ' ')}"]
                    + [f"{figure:,.0f}" for figure in (*figures, loading)]
                    + [f"{cost['energy_pj'] / 1e6:.2f}", f"{cost['cpu_seconds']:.1f}"]
                )
        columns = ["layer, best by", "cycles", "of them computing", "stalls", "fill and drain", "uJ", "CPU s"]
        parts += [f"### {hardware}", table(columns, rows)]
    return "\n\n".join(parts)


def scalesim_section(recording: dict[str, Any]) -> str:
    """Cycles of each dataflow and array, without and with stalls."""
    head = (
        f"{recording['buffers_kib']} KiB and {recording['words_per_cycle']} words per cycle for each of three buffers."
    )
    places = list(dict.fromkeys((e["dataflow"], e["rows"], e["columns"]) for e in recording["results"]))
    figures = {(e["dataflow"], e["rows"], e["columns"], e["layer"]["name"]): e for e in recording["results"]}
    layers = list(dict.fromkeys(e["layer"]["name"] for e in recording["results"]))
    rows = [
        [layer] + [f"{e['stall_free_cycles']:,.0f} (+{e['stall_cycles']:,.0f})" for e in entries]
        for layer in layers
        for entries in [[figures[*place, layer] for place in places]]
    ]
    columns = ["layer: cycles (+ stalls)"] + [f"{dataflow} {r}x{c}" for dataflow, r, c in places]
    return "\n\n".join(["## SCALE-Sim", f"{made_by(recording)} {head}", table(columns, rows)])


def main() -> None:
    recordings = {name: json.loads((RECORDINGS / f"{name}.json").read_text()) for name in ("zigzag", "scalesim")}
    page = "\n\n".join(
        [
            "# What other tools say",
            "Figures of tools that this project did not write, for the layers on which its cost model is compared with "
            "them. Batch 1, 8 bits, input padding counted. Written by `python -m tests.benchmarks.tools`.",
            zigzag_section(recordings["zigzag"]),
            scalesim_section(recordings["scalesim"]),
        ]
    )
    print(page)
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page + "\n")


if __name__ == "__main__":
    main()
