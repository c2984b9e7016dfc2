"""Files that are nearly right, by the hundred thousand: each is read, or refused in one line by one of our own errors.

``python -m tests.benchmarks.fuzz [--cases 105000] [--seed 0]`` makes a small run, changes its documents and everything
else that is read from files, and writes docs/benchmarks/fuzz.md. It ends at the first case that is neither, and keeps
its file.
"""

import argparse
import faulthandler
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

import cosearch
from tests import fuzzed, fuzzing, tiny_space
from tests.benchmarks.machine import stamp

REPORT = Path(__file__).parents[2] / "docs" / "benchmarks" / "fuzz.md"
CONFIG = {
    "space": tiny_space.NAME,
    "device": "ecp5-25f",
    "trials": 4,
    "supernet_epochs": 1,
    "finalist_epochs": 1,
    "finalist_seeds": 1,
    "baselines": False,
    "threads": 1,
    "quiet": True,
}


def row(name: str, target: fuzzing.Target, cases: int, seed: int, folder: Path) -> str:
    rng = np.random.default_rng(seed)
    read, slowest = 0, 0.0
    for _ in range(cases):
        content = fuzzing.case(rng, target)
        started = time.process_time()
        try:
            read += fuzzing.attempt(target, content, folder)
        except BaseException:
            kept = Path(f"fuzz-failure{target.suffix}")
            shutil.copy(folder / f"case{target.suffix}", kept)
            print(f"{name}: the file is kept as {kept}")
            raise
        slowest = max(slowest, time.process_time() - started)
    return f"| {name} | {cases:,} | {read:,} | {cases - read:,} | {slowest:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=105_000, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    faulthandler.enable()
    with tempfile.TemporaryDirectory() as folder:
        cosearch.run(**CONFIG, out=Path(folder) / "run")
        scratch = Path(folder) / "read"
        scratch.mkdir()
        targets = fuzzed.targets(Path(folder) / "run", scratch)
        started = time.monotonic(), time.process_time()
        rows = []
        shares, done = sum(target.share for target in targets.values()), 0
        for name, target in targets.items():
            cases = -(-arguments.cases * target.share // shares)
            rows.append(row(name, target, cases, arguments.seed, scratch))
            print(rows[-1], flush=True)
            done += cases
        hours, processor = (time.monotonic() - started[0]) / 3600, (time.process_time() - started[1]) / 3600
        lines = [
            "# Files that are nearly right",
            "",
            f"{done:,} files made from valid ones by changing bytes or values (seed {arguments.seed}).",
            "Each is read, or refused by an error of the project in one line; nothing else happened, and none took",
            f"more than {fuzzing.SECONDS:g} s of processor time or {fuzzing.MEBIBYTES} MiB beyond what was in use.",
            "Where a checksum guards a file, the case has the right one. Seconds are processor time of the slowest.",
            "Made by `python -m tests.benchmarks.fuzz`.",
            "",
            stamp(),
            "",
            f"**{done:,} inputs** to {len(rows)} readers in {hours:.2f} hours, "
            f"{60 * processor:.0f} minutes of one processor's time.",
            "",
            "| what is read | files | read | refused | slowest, s |",
            "| --- | --- | --- | --- | --- |",
            *rows,
        ]
    REPORT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"written to {REPORT}")


if __name__ == "__main__":
    main()
