"""Real runs, killed and resumed; what must hold after each kill and at the end.

The moments of kills hang on what a run has done, which its log and its files tell, not on the clock alone.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from safetensors import safe_open

from cosearch.strategies.study import study_storage

REPRODUCIBLE = (
    "front.csv",
    "supernet.safetensors",
    "best/network.json",
    "best/accelerator.json",
    "best/mapping.json",
    "best/weights.safetensors",
    "best/model.onnx",
)


CREATE_TRIAL = 4
"""The code of a line of Optuna's journal that adds a trial."""
PHASES = ("preparing", "supernet", "search", "finalists", "comparing", "report")


@dataclass(frozen=True)
class Moment:
    """When to strike: in a phase of the run, after so many changes of its files and then so many seconds.

    A phase that is over sooner is no miss: the process is struck as soon as the next one is seen.
    """

    phase: str
    changes: int = 0
    seconds: float = 0.0


def command(*arguments: str) -> list[str]:
    """The command line, but that every epoch of a supernet leaves a checkpoint: see `main`."""
    return [sys.executable, "-m", "tests.killing", *arguments]


def options_of(config: Mapping[str, Any]) -> list[str]:
    """baselines and quiet, which are given by their names alone, apart."""
    flags = [] if config.get("baselines", True) else ["--no-baselines"]
    valued = {name: value for name, value in config.items() if name not in ("baselines", "quiet")}
    return [*flags, *(f"--{name.replace('_', '-')}={value}" for name, value in valued.items())]


def finish(arguments: list[str]) -> None:
    """Raises: AssertionError with what the process said if it failed."""
    done = subprocess.run(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr


def struck(arguments: list[str], folder: Path, moment: Moment, by: signal.Signals = signal.SIGKILL) -> str | None:
    """Start a process that works in a folder and strike it at a moment.

    Returns: the phase in which it was struck, None if it had ended, as it should, before the moment came.
    Raises: AssertionError with what it said if it failed, or did not end politely where it could.
    """
    before = _log_size(folder)
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    left, seen = moment.changes, None
    while process.poll() is None:
        phase = phase_of(folder, before)
        if PHASES.index(phase) > PHASES.index(moment.phase):
            break
        if phase == moment.phase:
            now = _state(folder)
            left -= seen is not None and now != seen
            seen = now
            if left <= 0:
                time.sleep(moment.seconds)
                break
        time.sleep(0.001)
    phase = phase_of(folder, before)
    process.send_signal(by)
    _, said = process.communicate()
    if process.returncode == -signal.SIGKILL:
        return phase
    if process.returncode != 0 and by != signal.SIGKILL:
        lines = said.strip().splitlines()
        assert process.returncode in (3, 130), said
        assert lines, "it ended without a word"
        assert lines[-1].startswith("cosearch: "), said
        assert "Traceback" not in said, said
        return phase
    assert process.returncode == 0, said
    return None


def _log_size(run: Path) -> int:
    return (run / "log.jsonl").stat().st_size if (run / "log.jsonl").exists() else 0


def _state(folder: Path) -> frozenset[tuple[str, int, int]]:
    """Of all files, also those that are being written: another value, another state."""
    found = set()
    for at, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                facts = os.stat(os.path.join(at, name))
                found.add((os.path.join(at, name), facts.st_size, facts.st_mtime_ns))
    return frozenset(found)


def phase_of(run: Path, since: int) -> str:
    """What the process is doing that has written the log from a byte on."""
    if not (run / "log.jsonl").exists():
        return "preparing"
    with (run / "log.jsonl").open("rb") as file:
        file.seek(since)
        lines = [json.loads(line) for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
    phases = ["report" if line["event"] == "finished" else line.get("name") for line in lines]
    return next((phase for phase in reversed(phases) if phase in PHASES), "preparing")


def phase_lengths(run: Path) -> dict[str, float]:
    """Seconds that the phases of a run without interruption took, by its log; of the report, which it does not hold,
    those until report.html was there.
    """
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    lengths = next(line["seconds"] for line in lines if line["event"] == "finished")
    return {**lengths, "report": (run / "report.html").stat().st_mtime - lines[-1]["time"]}


def run_through(out: Path, config: Mapping[str, Any], moments: Iterable[Moment]) -> list[str]:
    """Begin a run, kill it at each moment and resume it. Returns: the phases in which it was killed."""
    phases = []
    for moment in moments:
        phase = struck(begin_or_resume(out, config), out, moment)
        require_intact(out)
        if phase is not None:
            phases.append(phase)
    finish(begin_or_resume(out, config))
    return phases


def begin_or_resume(out: Path, config: Mapping[str, Any]) -> list[str]:
    if (out / "config.yaml").exists():
        return command("resume", "--quiet", str(out))
    return command("run", "--quiet", *options_of(config), "--out", str(out))


def require_intact(folder: Path) -> None:
    """Every file is whole; what was being written has another name.

    Raises: AssertionError.
    """
    for file in folder.rglob("*") if folder.exists() else ():
        if not file.is_file() or file.name.startswith("."):
            continue
        if file.suffix == ".json":
            json.loads(file.read_text())
        elif file.suffix == ".yaml":
            assert yaml.compose(file.read_text()) is not None  # Timeloop has tags of its own
        elif file.suffix == ".jsonl":
            assert all(json.loads(line) for line in file.read_text().splitlines())
        elif file.suffix == ".safetensors":
            with safe_open(file, framework="np") as tensors:
                assert tensors.keys()
        elif file.suffix == ".html":
            assert file.read_text().rstrip().endswith("</html>")
        elif file.suffix == ".csv":
            assert file.read_text().endswith("\n")
        elif file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                assert all(arrays[name].size for name in arrays)
        elif file.suffix == ".onnx":
            onnx.checker.check_model(onnx.load(file))
        elif file.name == "study.db":
            whole, _, half = file.read_bytes().rpartition(b"\n")  # half a line is for the resumed run to remove
            assert all(isinstance(json.loads(line), dict) for line in whole.splitlines())
            assert len(half) < 100_000


def trials_in(run: Path) -> int:
    """How many trials the studies of a run hold, which may be going on."""
    try:
        return (run / "study.db").read_bytes().count(b'"op_code":%d,' % CREATE_TRIAL)
    except FileNotFoundError:
        return 0


def trials_of(run: Path) -> dict[str, list[Any]]:
    """Study -> what each trial asked and found, in order."""
    import optuna

    found = {}
    storage = study_storage(run)
    for name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage)
        found[name] = [(t.number, t.params, t.values, t.user_attrs.get("accelerator")) for t in study.trials]
    return found


def require_same(run: Path, reference: Path) -> None:
    """Raises: AssertionError naming the first difference of two finished runs."""
    for name in REPRODUCIBLE:
        assert (run / name).read_bytes() == (reference / name).read_bytes(), name
    ours, theirs = trials_of(run), trials_of(reference)
    assert ours.keys() == theirs.keys()
    for name, trials in theirs.items():
        assert ours[name] == trials, name
    left = [str(file) for file in run.rglob(".*") if file.is_file() and file.name != ".lock"]
    assert not left, left


def main() -> None:
    """`cosearch` with a checkpoint after every step of a supernet, so that short trainings are resumed midway too."""
    from cosearch import cli, source

    source.CHECKPOINT_SECONDS = 0.0
    cli.main()


if __name__ == "__main__":
    main()
