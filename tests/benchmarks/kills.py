"""Kill real runs at random moments, resume them, and hold what they end with against a run that was never killed.

``python -m tests.benchmarks.kills [--runs 5] [--seed 0] [--folder F]`` goes through so many runs, ten kills each;
ends one run by ten SIGTERMs; then kills exports and reports of the finished run, three times each kind and run. It
writes docs/benchmarks/kills.md. What is done is kept in the folder; given again, the command goes on there.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cosearch.runs import to_json
from cosearch.writing import write_atomic
from tests import killing, tiny_space
from tests.benchmarks.machine import stamp
from tests.killing import Moment

REPORT = Path(__file__).parents[2] / "docs" / "benchmarks" / "kills.md"
CONFIG = {
    "space": tiny_space.NAME,
    "device": "ecp5-25f",
    "trials": 24,
    "supernet_epochs": 8,
    "finalist_epochs": 4,
    "finalist_seeds": 1,
    "threads": 1,
    "torch_device": "cpu",
}
ONE_RUN = (
    "supernet", "supernet", "supernet", "search", "search", "search", "finalists", "finalists", "comparing", "report",
)  # fmt: skip
AFTER = {
    "export": ("export", "RUN", "--what", "all", "--to", "TO"),
    "export of a trial": ("export", "RUN", "--trial", "7", "--what", "all", "--to", "TO"),
    "report": ("report", "RUN"),
}


def moments(rng: np.random.Generator, lengths: dict[str, float], phases: tuple[str, ...]) -> list[Moment]:
    """For each phase a moment at random: uniform in the time that it takes, or just after some change of its files."""
    return [
        Moment(phase, seconds=float(rng.uniform(0, lengths[phase])))
        if rng.random() < 0.5
        else Moment(phase, int(rng.integers(1, 9)), float(rng.uniform(0, 0.02)))
        for phase in phases
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file() and f.name != ".lock"}


def killed_run(reference: Path, rng: np.random.Generator) -> Counter[str]:
    """Kills on the way of one run, by phase; it must end as the reference."""
    out = reference.parent / "killed"
    shutil.rmtree(out, ignore_errors=True)
    phases = killing.run_through(out, CONFIG, moments(rng, killing.phase_lengths(reference), ONE_RUN))
    killing.require_same(out, reference)
    return Counter(phases)


def terminated_run(reference: Path, rng: np.random.Generator) -> Counter[str]:
    """SIGTERMs on the way of one run, by phase: each ends it in one line."""
    out = reference.parent / "terminated"
    shutil.rmtree(out, ignore_errors=True)
    phases: Counter[str] = Counter()
    for moment in moments(rng, killing.phase_lengths(reference), ONE_RUN):
        phase = killing.struck(killing.begin_or_resume(out, CONFIG), out, moment, signal.SIGTERM)
        killing.require_intact(out)
        phases.update([phase] if phase else [])
    killing.finish(killing.begin_or_resume(out, CONFIG))
    killing.require_same(out, reference)
    return phases


def after_the_end(reference: Path, what: str, rng: np.random.Generator, kills: int) -> Counter[str]:
    """Kills of an export or a report of a finished run, which leave it as it was."""
    exported = reference.parent / "exported"
    before = contents(reference)
    places = {"RUN": str(reference), "TO": str(exported)}
    job = killing.command(*(places.get(part, part) for part in AFTER[what]))
    shutil.rmtree(exported, ignore_errors=True)
    started = time.monotonic()
    killing.finish(job)
    length, expected = time.monotonic() - started, contents(exported)
    done = 0
    while done < kills:
        shutil.rmtree(exported, ignore_errors=True)
        [moment] = moments(rng, {"preparing": length}, ("preparing",))
        done += killing.struck(job, reference if what == "report" else exported, moment) is not None
        for folder in (reference, exported):
            killing.require_intact(folder)
    killing.finish(job)
    assert contents(exported) == expected, what
    after = contents(reference)
    assert after["log.jsonl"].startswith(before["log.jsonl"])  # which says whose test images an export opened
    changed = {name for name, content in before.items() if content != after[name]}
    assert changed <= {"report.html", "log.jsonl"}, changed
    return Counter({what: done})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="[default: a new one, removed at the end]")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        carry_out(arguments.folder or Path(scratch), arguments.runs, arguments.seed)


def carry_out(folder: Path, runs: int, seed: int) -> None:
    folder.mkdir(exist_ok=True)
    os.environ["COSEARCH_CACHE"] = str(folder / "cache")
    reference = folder / "reference"
    if not (reference / "report.html").exists():
        shutil.rmtree(reference, ignore_errors=True)
        killing.finish(killing.begin_or_resume(reference, CONFIG))
    jobs: dict[str, Callable[[np.random.Generator], Counter[str]]] = {
        **{f"run {n}": lambda rng: killed_run(reference, rng) for n in range(runs)},
        "terminated": lambda rng: terminated_run(reference, rng),
        **{what: lambda rng, what=what: after_the_end(reference, what, rng, 3 * runs) for what in AFTER},
    }
    kept = folder / "results.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    for number, (name, job) in enumerate(jobs.items()):
        if name not in results:
            started = time.monotonic(), _processor()
            found = job(np.random.default_rng([seed, number]))
            took = {"minutes": (time.monotonic() - started[0]) / 60, "processor": (_processor() - started[1]) / 60}
            results[name] = {"kills": dict(found), **took}
            write_atomic(kept, to_json(results))
            print(f"{name}: {dict(found)}, ends as the one never struck, {took['minutes']:.1f} minutes", flush=True)
    REPORT.write_text(report(results, killing.phase_lengths(reference)), encoding="utf-8")
    print(f"written to {REPORT}")


def _processor() -> float:
    """Seconds, of this process and those that it waited for."""
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in found)


def report(results: dict[str, dict[str, Any]], lengths: dict[str, float]) -> str:
    struck = sum((Counter(result["kills"]) for result in results.values()), Counter())
    ended = Counter(results.get("terminated", {}).get("kills", {}))
    kills = struck - ended
    runs = sum(name.startswith("run ") for name in results)
    minutes, processor = (sum(result[of] for result in results.values()) for of in ("minutes", "processor"))
    lines = [
        "# Killed and resumed",
        "",
        "Searches on real digits, killed with SIGKILL and resumed until they finish. The moments are random: half of",
        "them uniform in the time of a phase, half of them within 20 ms of some change of the files. After each",
        "kill every file of the run directory is whole; at the end these are byte for byte those of an unkilled run:",
        ", ".join(killing.REPRODUCIBLE) + "; and so is every trial of every study.",
        "Exports and reports of the finished run are killed too, given again, and end as ever.",
        "Made by `python -m tests.benchmarks.kills`.",
        "",
        stamp(),
        "",
        f"**{kills.total()} kills survived**, {runs} runs; nothing lost, doubled or half written. A run without a kill "
        f"took {sum(lengths.values()):.0f} s; all took {minutes / 60:.1f} hours, {processor:.0f} minutes of one "
        "processor's time.",
        "",
        "| killed while | kills |",
        "| --- | --- |",
        *(f"| {phase} | {n} |" for phase in dict.fromkeys((*killing.PHASES, *AFTER)) if (n := kills[phase])),
    ]
    if ended:
        where = ", ".join(f"{phase} {n}" for phase, n in ended.items())
        lines += [
            "",
            f"One more run got {ended.total()} SIGTERMs on its way ({where}): each ended it in one line with exit "
            "status 3, or 130 while it was preparing; its end was the same.",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
