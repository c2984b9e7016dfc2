"""Every network space on every kind of device, on digits: what a whole run takes and finds.

``python -m tests.benchmarks.spaces [--spaces a,b] [--devices x,y] [--small] [--out FOLDER]`` runs ``cosearch run``
once per pair with seed 0, and writes docs/benchmarks/spaces_default.md, or spaces.md with the small budgets of `SMALL`.
Pairs whose record is there already are not run again.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cosearch
from cosearch.errors import RunError
from cosearch.runs import to_json
from cosearch.writing import write_atomic
from search_spaces.networks import SPACES
from tests.benchmarks.machine import commit, stamp

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks"
DEVICES = ("fpga", "eyeriss", "tpu-ws")
SMALL = {"trials": 8, "supernet-epochs": 3, "finalist-epochs": 3, "finalist-seeds": 1}
"""Budgets of a look whether everything works; the defaults are 200, 90, 30 and 3."""

Record = dict[str, Any]


def run_pair(space: str, device: str, small: bool, folder: Path) -> Record:
    """One run in a process of its own: commit, exit status, error, seconds by the clock and of the processors."""
    options = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))] if small else []
    command = ["run", "--space", space, "--device", device, *options, "--out", str(folder), "--quiet"]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", "from cosearch.cli import main; raise SystemExit(main())", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "commit": commit(),
        "status": done.returncode,
        "error": done.stderr.strip().splitlines()[-1] if done.returncode and done.stderr.strip() else "",
        "seconds": time.monotonic() - started,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def record_of(space: str, device: str, small: bool, known: bool, out: Path) -> tuple[Record | None, Path]:
    """What is known of a pair, run if it is not known (unless `known`), and its run directory."""
    name = f"{space}-{device}{'-small' if small else ''}"
    file, folder = out / f"{name}.json", out / name
    if not file.exists():
        if known:
            return None, folder
        write_atomic(file, to_json(run_pair(space, device, small, folder)))
    record: Record = json.loads(file.read_text(encoding="utf-8"))
    return record, folder


def row(space: str, device: str, record: Record | None, folder: Path) -> str:
    if record is None:
        return f"| {space} | {device} | - | - | - | - | - | not run yet |"
    times = f"{record['cpu_seconds']:.0f} | {record['seconds']:.0f}"
    try:
        found = cosearch.load(folder).finalist
    except RunError as error:
        return f"| {space} | {device} | {times} | - | - | - | {record['error'] or error} |"
    costs = f"{found.costs['latency_ms'] * 1e3:.3g} | {found.costs['energy_mj'] * 1e3:.3g}"
    return f"| {space} | {device} | {times} | {100 * found.accuracy:.2f} | {costs} | {found.accelerator} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", default=",".join(SPACES))
    parser.add_argument("--devices", default=",".join(DEVICES))
    parser.add_argument("--small", action="store_true", help=f"budgets of {SMALL}")
    parser.add_argument("--known", action="store_true", help="only write the page of what has been run")
    parser.add_argument("--out", type=Path, default=Path("runs") / "benchmark-spaces")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    options = " ".join(f"--{name} {value}" for name, value in SMALL.items()) if arguments.small else "no other option"
    rows, commits = [], set()
    for space in arguments.spaces.split(","):
        for device in arguments.devices.split(","):
            record, folder = record_of(space, device, arguments.small, arguments.known, arguments.out)
            rows.append(row(space, device, record, folder))
            commits |= {record["commit"]} if record else set()
            print(rows[-1], flush=True)
    lines = [
        "# Every space on every kind of device",
        "",
        f"`cosearch run --space S --device D` with {options}, seed 0, on digits, each in a process of its own.",
        "Accuracy is measured (integer finalist on the test images, mean of its trainings), latency and energy are",
        "modelled. CPU s: processor seconds of the run and all its threads, imports included; by the clock: seconds.",
        f"Made by `python -m tests.benchmarks.spaces{' --small' * arguments.small}`.",
        "",
        stamp(),
        f"Commits of the runs: {', '.join(sorted(commits)) or 'none'}.",
        "",
        "| space | device | CPU s | by the clock | accuracy, % | latency, us | energy, uJ | accelerator |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *rows,
    ]
    report = DOCS / ("spaces.md" if arguments.small else "spaces_default.md")
    DOCS.mkdir(parents=True, exist_ok=True)
    report.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"written to {report} after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
