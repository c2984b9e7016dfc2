"""What is printed is what names say: nothing in them is markup, and nothing steers the terminal."""

import io
import json
import sys

import pytest

from cosearch.costs import device_to_price, price_workload
from cosearch.errors import CosearchError, shown
from cosearch.progress import Reporter
from cosearch.tables import print_layers
from cosearch.terminal import console, print_table
from cosearch.workload import Workload

NASTY = ("[/red]", "[bold]a", "\x1b[31mred", "\x1b]0;title\x07", "a\x08b", "\u202egnp", "\udce9", ":bomb:", "tab\there")


@pytest.mark.parametrize("name", NASTY)
def test_names_in_tables_and_lines(name, capsys):
    print_table(name, ["what", name], [(name, "1")])
    console().print(f"  {name}")
    printed = capsys.readouterr().out
    assert printed.count(shown(name)) == 4
    assert shown(name) == name or name not in printed
    printed.encode()


@pytest.mark.parametrize("name", NASTY)
def test_names_in_progress_on_a_terminal(name, monkeypatch):
    """A bar of a terminal has sequences of its own, none of them a name's."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    reporter = Reporter()
    reporter.say(name)
    with reporter.phase("pricing", 1) as phase:
        phase.advance(1, f"on {name}")
    said = sys.stderr.getvalue()
    assert said.startswith(f"{shown(name)}\n")
    assert f"on {shown(name)}" in said
    assert shown(name) == name or name not in said
    said.encode()


@pytest.mark.parametrize("name", NASTY)
def test_names_in_errors(name):
    said = str(CosearchError(f"no file {name}"))
    assert said == f"no file {shown(name)}"
    assert said.isprintable()


def test_what_is_shown_of_names():
    assert [shown(name) for name in ("größe データ 😀", "\x1b[2J", "\udcff\x00", "a\u202eb")] == [
        "größe データ 😀", "\\x1b[2J", "\\udcff\\x00", "a\\u202eb",
    ]  # fmt: skip


def test_layers_of_a_network_of_somebody_else(capsys):
    """As a file can name them."""
    layer = {"name": "/a[0]/[/conv]\x1b[2J", "kind": "mac", "K": 8, "C": 8, "P": 4, "Q": 4, "R": 1, "S": 1}
    document = {"format": "cosearch.workload", "version": 1, "name": "[/net]", "layers": [layer], "inputs": [[-1]]}
    workload = Workload.from_json(json.dumps(document))
    print_layers(price_workload(workload, device_to_price("ecp5-25f", "element"), "edp", Reporter(quiet=True)))
    printed = capsys.readouterr().out
    assert "[/net] on ecp5-25f" in printed
    assert "/a[0]/[/conv]\\x1b[2J" in printed
