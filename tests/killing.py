"""Real runs, killed by SIGKILL at random moments and resumed; what must hold after each kill and at the end."""

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors import safe_open

REPRODUCIBLE = (
    "front.csv",
    "supernet.safetensors",
    "best/network.json",
    "best/accelerator.json",
    "best/mapping.json",
    "best/weights.safetensors",
    "best/model.onnx",
)
STUDIES = ("co-search", "conv-only", "random search")


@dataclass(frozen=True)
class Kill:
    """phase: what the run was doing, as its files tell. seconds: after its process was started."""

    phase: str
    seconds: float


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cosearch.cli", *arguments]


def options_of(config: Mapping[str, Any]) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in config.items()]


def killed(arguments: list[str], seconds: float) -> bool:
    """Start a process and kill it after so many seconds. Returns: False if it had ended by then, as it should.

    Raises: AssertionError with what it said if it failed.
    """
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return True
    assert process.returncode == 0, said
    return False


def run_through_kills(out: Path, config: Mapping[str, Any], rng: np.random.Generator, within: float) -> list[Kill]:
    """Start a run, kill it at moments uniform in 0 to `within` seconds, resume it, until it is finished."""
    kills = []
    while True:
        begun = (out / "config.yaml").exists()
        again = command("resume", "--quiet", str(out))
        job = again if begun else command("run", *options_of(config), "--out", str(out))
        seconds = float(rng.uniform(0, within))
        if not killed(job, seconds):
            return kills
        kills.append(Kill(phase_of(out), seconds))
        require_intact(out)


def phase_of(run: Path) -> str:
    if (run / "result.json").exists():
        return "report" if not (run / "report.html").exists() else "after the end"
    if (run / "finalists").is_dir():
        return "finalists"
    if (run / "study.db").exists():
        return "search"
    return "supernet" if (run / "inputs.json").exists() else "preparing"


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
            yaml.safe_load(file.read_text())
        elif file.suffix == ".jsonl":
            assert all(json.loads(line) for line in file.read_text().splitlines())
        elif file.suffix == ".safetensors":
            with safe_open(file, framework="np") as tensors:
                assert tensors.keys()
        elif file.suffix == ".html":
            assert file.read_text().rstrip().endswith("</html>")
        elif file.suffix == ".db":
            with sqlite3.connect(file) as database:
                assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def trials_of(run: Path) -> dict[str, list[Any]]:
    """Study -> what each trial asked and found, in order."""
    import optuna

    found = {}
    for name in STUDIES:
        study = optuna.load_study(study_name=name, storage=f"sqlite:///{(run / 'study.db').resolve()}")
        found[name] = [(t.number, t.params, t.values, t.user_attrs.get("accelerator")) for t in study.trials]
    return found


def require_same(run: Path, reference: Path) -> None:
    """Raises: AssertionError naming the first difference of two finished runs."""
    for name in REPRODUCIBLE:
        assert (run / name).read_bytes() == (reference / name).read_bytes(), name
    ours, theirs = trials_of(run), trials_of(reference)
    for name in STUDIES:
        assert ours[name] == theirs[name], name
    left = [str(file) for file in run.rglob(".*") if file.is_file() and file.name != ".lock"]
    assert not left, left
