"""What grows over a long study: memory, files, and the time that resuming takes.

``python -m tests.benchmarks.long_run [--trials 2000]`` runs studies of so many trials, one with the accuracies of a
table and one that evaluates sub-networks of a supernet; kills each a little later, resumes it, and writes
docs/benchmarks/long_run.md.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.machine import stamp
from tests.killing import trials_in

REPORT = Path(__file__).parents[2] / "docs" / "benchmarks" / "long_run.md"
FIRST = 100
"""Trials after which the memory of a run is first looked at: by then all libraries are loaded."""
STUDIES = {
    "table of NAS-Bench-201, auto": ("--space", "nasbench201", "--accuracy", "table"),
    "supernet of shiftadd, evolutionary": (
        "--space", "shiftadd", "--device", "ecp5-25f", "--strategy", "evolutionary", "--supernet-epochs", "1",
    ),
}  # fmt: skip


def resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def until(process: "subprocess.Popen[str]", run: Path, trials: int) -> None:
    """Wait until so many trials are recorded. Raises: RuntimeError with what the process said if it ended before."""
    while trials_in(run) < trials:
        if process.poll() is not None:
            raise RuntimeError(process.communicate()[1])
        time.sleep(0.02)


def start(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "cosearch.cli", *arguments, "--quiet"], stderr=subprocess.PIPE, text=True
    )


def study(options: Sequence[str], trials: int, run: Path) -> str:
    """A row of the page."""
    started = time.monotonic()
    process = start(
        "run", *options, "--trials", str(trials + FIRST), "--no-baselines", "--threads", "1", "--out", str(run)
    )
    until(process, run, FIRST)
    before = resident_mib(process.pid)
    until(process, run, trials)
    after, minutes = resident_mib(process.pid), (time.monotonic() - started) / 60
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done, started = trials_in(run), time.monotonic()
    process = start("resume", str(run))
    until(process, run, done + 1)
    seconds, processor = time.monotonic() - started, processor_seconds(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    sizes = [(run / name).stat().st_size / 1e6 for name in ("study.db", "log.jsonl")]
    figures = (f"{before:.0f}", f"{after - before:+.0f}", f"{seconds:.1f}", f"{processor:.1f}")
    return " | ".join((f"{done:,}", *figures, *(f"{size:.2f}" for size in sizes), f"{minutes:.0f}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    trials = parser.parse_args().trials
    lines = [
        "# Long studies",
        "",
        f"Memory is what the process has resident (MiB): after {FIRST} trials, and how much more after {trials:,}.",
        "Then the process is killed; resuming is timed from the command's start to the next trial recorded (seconds by",
        "the clock, and of processor time). Files in megabytes. Made by `python -m tests.benchmarks.long_run`.",
        "",
        stamp(),
        "",
        f"| study | trials | at {FIRST} | growth | resumed in | processor | study.db | log.jsonl | minutes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, options) in enumerate(STUDIES.items()):
            lines.append(f"| {name} | {study(options, trials, Path(folder) / str(number))} |")
            print(lines[-1], flush=True)
    lines += ["", f"Load at the end: {os.getloadavg()[2]:.0f} over 15 minutes."]
    REPORT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"written to {REPORT}")


if __name__ == "__main__":
    main()
