"""Where a figure comes from: date, machine, versions and commit, for the head of every report."""

import datetime
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path


def processor() -> str:
    """The processor's name and the number of cores."""
    found = (
        [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")] if _linux() else []
    )
    name = found[0].split(":", 1)[1].strip() if found else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def _linux() -> bool:
    return Path("/proc/cpuinfo").exists()


def commit() -> str:
    """The commit that is checked out, with a word on changes that it does not have, or "unknown"."""
    command = ["git", "describe", "--always", "--exclude=*", "--dirty= with changes"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def stamp(*packages: str) -> str:
    """One line: date, machine, versions, commit."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("cosearch", "torch", *packages))
    today = datetime.datetime.now(datetime.UTC).date()
    return f"{today}; {processor()}; Python {platform.python_version()}, {versions}; commit {commit()}."


def write_figures(report: Path, title: str, made: str, lines: Iterable[str]) -> None:
    """Print rows of ``| what | figure | beside |`` as they come, then write them as a page.

    made: the command and what it ran under.
    """
    page = [f"# {title}", "", made, "", "| what | figure | beside |", "| --- | --- | --- |"]
    for line in lines:
        print(line, flush=True)
        page.append(line)
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text("\n".join(page) + "\n", encoding="utf-8")
