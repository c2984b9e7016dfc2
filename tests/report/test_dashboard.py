"""The printed command shows a run's trials in optuna-dashboard, objectives by their names."""

import html
import importlib.util
import json
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest

from cosearch.cli import main
from cosearch.report.facts import read_facts
from cosearch.report.writing import write_report

RUN = "from importlib.metadata import entry_points as e; [c] = e(group='console_scripts', name='optuna-dashboard'); "
RUN += "c.load()()"
"""The command, wherever this interpreter's environment has put it."""


def printed_command(run: Path, monkeypatch, capsys) -> list[str]:
    """What `cosearch show` says, as a shell splits it."""
    monkeypatch.setattr(sys, "argv", ["cosearch", "show", str(run)])
    with pytest.raises(SystemExit, match="0"):
        main()
    [line] = re.findall(r"optuna-dashboard .*", capsys.readouterr().out)
    return shlex.split(line)


def ask(port: int, path: str, server: subprocess.Popen) -> dict:
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}", timeout=60) as answer:
                return json.load(answer)
        except URLError:
            assert server.poll() is None, server.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.2)


def shown_by(words: list[str]) -> dict[str, dict]:
    """Study -> what the command shows of it in a browser."""
    if importlib.util.find_spec("optuna_dashboard") is None:
        pytest.skip("optuna-dashboard is not installed: pip install optuna-dashboard")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", RUN, *words[1:], "--port", str(port), "--host", "127.0.0.1"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        studies = ask(port, "studies", server)["study_summaries"]
        return {study["study_name"]: ask(port, f"studies/{study['study_id']}", server) for study in studies}
    finally:
        server.terminate()
        server.communicate(timeout=60)


def test_the_printed_command_shows_the_objectives_by_name(finished, monkeypatch, capsys):
    words = printed_command(finished, monkeypatch, capsys)
    assert words[0] == "optuna-dashboard"
    assert shlex.join(words) in html.unescape(write_report(finished, quiet=True).read_text(encoding="utf-8"))
    searches = read_facts(finished).searches
    studies = shown_by(words)
    assert set(studies) == set(searches)
    shown = studies["co-search"]
    assert shown["objective_names"] == ["accuracy", "latency_ms", "energy_mj"]
    assert len(shown["trials"]) == len(searches["co-search"])
    for trial, ours in zip(shown["trials"], searches["co-search"], strict=True):
        assert trial["values"] == [ours.values[name] for name in shown["objective_names"]]
