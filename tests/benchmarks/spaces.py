"""Every network space on every kind of device, on digits: what a whole run takes and finds.

``python -m tests.benchmarks.spaces [--spaces a,b] [--devices x,y] [--out FOLDER]`` runs the job once per pair with its
default options and seed 0 and writes docs/benchmarks/spaces.md. Runs that are there already are read, not repeated.
"""

import argparse
import json
import time
from pathlib import Path

import cosearch
from cosearch.errors import CosearchError, RunError
from cosearch.results import Result
from search_spaces.networks import SPACES
from tests.benchmarks.machine import stamp

REPORT = Path(__file__).parents[2] / "docs" / "benchmarks" / "spaces.md"
DEVICES = ("fpga", "eyeriss", "tpu-ws")


def result_of(folder: Path, space: str, device: str) -> Result:
    path = folder / f"{space}-{device}"
    try:
        return cosearch.load(path)
    except RunError:
        return cosearch.resume(path) if path.exists() else cosearch.run(space=space, device=device, out=path)


def seconds_of(path: str) -> float:
    """Wall-clock of an uninterrupted run, from its log."""
    lines = [json.loads(line) for line in (Path(path) / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return float(lines[-1]["time"] - lines[0]["time"])


def row(space: str, device: str, folder: Path) -> str:
    try:
        result = result_of(folder, space, device)
    except CosearchError as error:
        return f"| {space} | {device} | - | - | - | - | {error} |"
    found, seconds = result.finalist, seconds_of(result.path)
    costs = f"{found.costs['latency_ms'] * 1e3:.3g} | {found.costs['energy_mj'] * 1e3:.3g}"
    return f"| {space} | {device} | {seconds:.0f} | {100 * found.accuracy:.2f} | {costs} | {found.accelerator} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spaces", default=",".join(SPACES))
    parser.add_argument("--devices", default=",".join(DEVICES))
    parser.add_argument("--out", type=Path, default=Path("runs") / "benchmark-spaces")
    arguments = parser.parse_args()
    started = time.monotonic()
    lines = [
        "# Every space on every kind of device",
        "",
        "`cosearch run --space S --device D` with no other option, on digits. Accuracy is measured (integer finalist",
        "on the test images, mean of three trainings), latency and energy are modelled. Seconds are of the whole run",
        "but preparation. Made by `python -m tests.benchmarks.spaces`.",
        "",
        stamp(),
        "",
        "| space | device | seconds | accuracy, % | latency, us | energy, uJ | accelerator |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for space in arguments.spaces.split(","):
        for device in arguments.devices.split(","):
            lines.append(row(space, device, arguments.out))
            print(lines[-1], flush=True)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"written to {REPORT} after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
