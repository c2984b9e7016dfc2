"""What scripts, notebooks and shells get: JSON, clean stops, completion, rich tables."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pandas as pd
import pytest

import hwbench_data
from cosearch import doctor
from cosearch.cli import main
from cosearch.export.schema import FOLDER
from cosearch.hardware import best, layer_report
from cosearch.notebook import html_table
from cosearch.results import Design, Result
from cosearch.workload import Layer, Workload
from tests import tiny_space
from tests.export.designs import made

ROOT = Path(__file__).parents[1]


def command(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["cosearch", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture(scope="module", autouse=True)
def cache_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def result() -> Result:
    front = pd.DataFrame({
        "accuracy": [0.9, 0.8], "latency_ms": [0.02, 0.01], "energy_mj": [float("nan"), 0.1],
        "accuracy_source": "table", "accelerator": ["a<b>", "c"], "arch": ['{"x": "conv"}', '{"x": "add"}'],
    })  # fmt: skip
    costs = {"latency_ms": 0.02, "energy_mj": 0.1}
    design = Design("co-search", {"x": "conv"}, "a<b>", costs, ("1101",), (0.75,), 0.9)
    return Result("runs/x", front, (design,), ("a note & more",), ("accuracy", "latency_ms"), "modelled")


# -- JSON --


def test_a_result_as_json_is_json():
    data = json.loads(json.dumps(result().to_json(), allow_nan=False))
    assert [row["arch"] for row in data["front"]] == [{"x": "conv"}, {"x": "add"}]
    assert data["front"][0]["energy_mj"] is None
    assert data["designs"][0]["accuracy"] == 0.75
    assert data["designs"][0]["interval"][0] < 0.75 < data["designs"][0]["interval"][1]


def test_layers_as_json_add_up_and_progress_stays_off_standard_output(tmp_path, monkeypatch, capsys):
    workload = Workload("two", (Layer("a", K=8, C=8, P=8, Q=8), Layer("b", K=8, C=8, P=4, Q=4)))
    path = tmp_path / "workload.json"
    path.write_text(json.dumps(workload.to_json()))
    assert command(monkeypatch, "cost", "--model", str(path), "--device", "ecp5-25f", "--json") == 0
    said = capsys.readouterr()
    data = json.loads(said.out)
    assert [row["layer"]["name"] for row in data["layers"]] == ["a", "b"]
    for row in data["layers"]:
        assert sum(row["energy_pj"].values()) * 1e-9 == pytest.approx(row["energy_mj"])
    assert "pricing" in said.err
    assert command(monkeypatch, "cost", "--model", str(path), "--device", "ecp5-25f", "--json", "--quiet") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("what", ["spaces", "devices"])
def test_lists_as_json(what, monkeypatch, capsys):
    assert command(monkeypatch, what, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) > 5


# -- notebooks --


def test_results_and_costs_have_tables_in_notebooks():
    html = result()._repr_html_()
    assert html.count("<table>") == 3
    assert "a&lt;b&gt;" in html
    assert "a note &amp; more" in html
    design = made("ecp5-25f")
    layer = design.workload.layers[0]
    _, cost = best(layer, design.accelerator)
    assert f"{cost.energy_mj:.4g} mJ" in cost._repr_html_()
    report = layer_report(design.workload, design.accelerator)
    shown = report._repr_html_()
    assert shown.count("<tr>") == 1 + len(report) == 1 + len(design.workload)
    assert all(row.layer.name in shown and f"<td>{row.cycles:,.0f}</td>" in shown for row in report)
    assert f"{sum(row.energy_mj for row in report):.4g} mJ" in shown
    assert html_table("<t>", ["<c>"], [["<d>"]]) == (
        '<table><caption>&lt;t&gt;</caption><thead><tr><th scope="col">&lt;c&gt;</th></tr></thead>'
        "<tbody><tr><td>&lt;d&gt;</td></tr></tbody></table>"
    )


# -- shells --


def test_completion_is_installed_and_completes(tmp_path):
    entry = str(Path(sys.executable).parent / "cosearch")
    home = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [entry, "--install-completion", "bash"], env=home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "completion" in (tmp_path / ".bashrc").read_text()
    asked = {**home, "_COSEARCH_COMPLETE": "complete_bash", "COMP_WORDS": "cosearch exp", "COMP_CWORD": "1"}
    done = subprocess.run([entry], env=asked, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["export"]


def test_a_module_of_the_working_directory_is_found(tmp_path):
    (tmp_path / "my_network.py").write_text("import torch\n\ndef net():\n    return torch.nn.Conv2d(8, 8, 3)\n")
    (tmp_path / "json.py").write_text("raise RuntimeError('what is installed goes before')\n")
    entry = str(Path(sys.executable).parent / "cosearch")
    words = [entry, "cost", "--model", "my_network:net", "--input-shape", "1,8,6,6", "--device", "ecp5-25f", "--json"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["layers"]) == 1


def test_without_a_command_there_is_help_and_no_odd_line(monkeypatch, capsys):
    assert command(monkeypatch) == 2
    said = capsys.readouterr()
    assert "doctor" in said.out
    assert said.err == ""


def test_tables_and_what_is_picked_from_them_have_tables_in_notebooks():
    table = hwbench_data.load("fbnet_blocks")
    shown = table._repr_html_()
    assert all(f"<td>{name}</td><td>{metric.unit}</td>" in shown for name, metric in table.metrics.items())
    picked = table.top(25, "latency_ms", device="zcu102")
    shown = picked._repr_html_()
    assert shown.count("<tr>") == 21
    assert "20 of 25 networks" in shown
    assert f"<td>{picked.values['latency_ms'][0]:.6g}</td>" in shown


# -- doctor --


def test_doctor_finds_what_is_needed():
    checks = {check.name: check for check in doctor.examine(self_check=False)}
    assert checks["torch"].ok
    assert checks["cosearch"].ok
    assert "CPU cores" in checks


def test_doctor_checks_itself_against_known_answers():
    assert doctor._mapping().startswith("1,024 cycles")
    assert doctor._adder() == "equal to its formula"
    assert doctor._training().startswith("4 epochs")


def test_doctor_notices_a_training_that_learns_nothing(monkeypatch):
    monkeypatch.setattr("cosearch.supernet.training.train_network", lambda *given: None)
    with pytest.raises(ValueError, match="expected at least 80%"):
        doctor._training()


def test_doctor_says_what_is_broken(monkeypatch, capsys):
    def broken() -> str:
        raise ValueError("wrong\nanswer")

    monkeypatch.setattr(doctor, "SELF_CHECKS", (("mapping search", broken),))
    assert command(monkeypatch, "doctor", "--json") == 2
    said = capsys.readouterr()
    [found] = [check for check in json.loads(said.out) if check["name"] == "mapping search"]
    assert (found["ok"], found["found"]) == (False, "ValueError: wrong answer")
    assert said.err.strip().splitlines()[-1] == "cosearch: mapping search: see what cosearch doctor found"


# -- runs --


def log_lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def hear_ctrl_c() -> None:
    """In the child: a shell switches SIGINT off for what it runs in the background, these tests perhaps."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_keeps_everything_and_prints_the_command_that_goes_on(few_digits, tmp_path):
    out = tmp_path / "run"
    options = {
        "space": tiny_space.NAME, "device": "ecp5-25f", "data": str(few_digits), "trials": "100", "threads": "1",
        "supernet-epochs": "2000", "torch-device": "cpu", "out": str(out),
    }  # fmt: skip
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    program = [sys.executable, "-m", "cosearch.cli", "run", *arguments]
    running = subprocess.Popen(
        program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not (out / "log.jsonl").is_file() and time.monotonic() < deadline and running.poll() is None:
            time.sleep(0.1)
        time.sleep(2)
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: every process of the group
        _, said = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 3, said
    assert said.strip().splitlines()[-1].endswith(f"continue with: cosearch resume {out}")
    assert "Traceback" not in said
    events = log_lines(out)
    assert events[0]["event"] == "start"
    assert events[-1]["event"] == "stopped"
    schema = json.loads((FOLDER / "log.schema.json").read_text())
    for event in events:
        jsonschema.Draft202012Validator(schema).validate(event)
    assert (out / "config.yaml").is_file()
    assert not list(out.rglob("*.tmp"))


AT_BAD_MOMENTS = {
    "in code of a string": "exec('send()')",
    "in a destructor": "class Falls:\n    def __del__(self):\n        send()\nFalls()",
}


@pytest.mark.parametrize("moment", AT_BAD_MOMENTS)
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_is_neither_lost_nor_taken_for_a_crash(moment, name, tmp_path):
    """As it arrives while modules are imported."""
    send = f"def send():\n    os.kill(os.getpid(), signal.{name})\n    time.sleep(0.1)\n"
    waits = "for _ in range(3000):\n    time.sleep(0.1)\n"
    (tmp_path / "mine.py").write_text(f"import os, signal, time\n{send}{AT_BAD_MOMENTS[moment]}\n{waits}")
    program = [sys.executable, "-m", "cosearch.cli", "cost", "--device", "ecp5-25f", "--model", "mine:network"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, preexec_fn=hear_ctrl_c
    )
    assert (done.returncode, done.stderr.strip()) == (130, "cosearch: interrupted")


# -- output that takes no more --


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_output_that_cannot_be_written_ends_in_one_line(form):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cosearch.cli", "bench", "list", "--format", form],
            cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "cosearch: cannot write the output (No space left on device)\n")


def test_a_reader_that_has_seen_enough_ends_a_command_quietly():
    process = subprocess.Popen(
        [sys.executable, "-m", "cosearch.cli", "bench", "list"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    assert said.count("\n") <= 1
