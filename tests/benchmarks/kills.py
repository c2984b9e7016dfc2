"""Kill real runs at random moments, resume them, and hold what they end with against a run that was never killed.

``python -m tests.benchmarks.kills [--kills 50] [--seed 0]`` does so until there were so many kills of searches, then as
many as a fifth of that of exports and reports of a finished run, and writes docs/benchmarks/kills.md.
"""

import argparse
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from tests import killing, tiny_space
from tests.benchmarks.machine import stamp

REPORT = Path(__file__).parents[2] / "docs" / "benchmarks" / "kills.md"
CONFIG = {
    "space": tiny_space.NAME,
    "device": "ecp5-25f",
    "trials": 40,
    "supernet_epochs": 6,
    "finalist_epochs": 4,
    "finalist_seeds": 2,
    "threads": 1,
    "torch_device": "cpu",
}


def seconds_of(arguments: list[str]) -> float:
    started = time.monotonic()
    assert not killed_never(arguments)
    return time.monotonic() - started


def killed_never(arguments: list[str]) -> bool:
    return killing.killed(arguments, 3600.0)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file() and f.name != ".lock"}


def searches(folder: Path, kills: int, rng: np.random.Generator) -> tuple[Counter[str], int, float]:
    """(kills by phase, runs, seconds of a run without a kill)."""
    reference = folder / "reference"
    length = seconds_of(killing.command("run", *killing.options_of(CONFIG), "--out", str(reference)))
    phases: Counter[str] = Counter()
    runs = 0
    while phases.total() < kills:
        out = folder / f"run{runs}"
        phases.update(kill.phase for kill in killing.run_through_kills(out, CONFIG, rng, length))
        killing.require_same(out, reference)
        shutil.rmtree(out)
        runs += 1
        print(f"{runs} runs finished as the one never killed, {phases.total()} kills: {dict(phases)}", flush=True)
    return phases, runs, length


def after_the_end(run: Path, kills: int, rng: np.random.Generator) -> Counter[str]:
    """Kills of exports and reports, which leave the run as it was."""
    before = contents(run)
    done: Counter[str] = Counter()
    for what, arguments in {
        "export": ("export", str(run), "--what", "all", "--to", str(run.parent / "exported")),
        "report": ("report", str(run)),
    }.items():
        job = killing.command(*arguments)
        length = seconds_of(job)
        while done[what] < -(-kills // 2):
            shutil.rmtree(run.parent / "exported", ignore_errors=True)
            done[what] += killing.killed(job, float(rng.uniform(0, length)))
            for folder in (run, run.parent / "exported"):
                killing.require_intact(folder)
        assert not killed_never(job)
        changed = {name for name in before if before[name] != contents(run)[name]} - {"report.html", "log.jsonl"}
        assert not changed, changed
        print(f"{what}: {done[what]} kills, the run is as it was", flush=True)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        phases, runs, length = searches(Path(folder), arguments.kills, rng)
        phases += after_the_end(Path(folder) / "reference", arguments.kills // 5, rng)
    lines = [
        "# Killed and resumed",
        "",
        "Searches on real digits, killed with SIGKILL at uniformly random moments and resumed until they finish. After",
        "every kill each file of the run directory is whole; at the end these are byte for byte those of a run never",
        "killed: " + ", ".join(killing.REPRODUCIBLE) + "; and so is every trial.",
        "Made by `python -m tests.benchmarks.kills`.",
        "",
        stamp(),
        "",
        f"{runs} searches, {phases.total()} kills, none lost; a search without a kill takes {length:.0f} s; the whole "
        f"took {(time.monotonic() - started) / 60:.0f} minutes.",
        "",
        "| killed while | kills |",
        "| --- | --- |",
        *(f"| {phase} | {n} |" for phase, n in sorted(phases.items())),
    ]
    REPORT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"written to {REPORT}")


if __name__ == "__main__":
    main()
