"""The README's examples run as they stand, one after the other in one folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def examples() -> dict[str, tuple[str, str]]:
    """Name -> language and text of each marked block."""
    found = re.findall(r"<!-- example: ([^\n]+) -->\n```(\w+)\n(.*?)```\n", (ROOT / "README.md").read_text(), re.DOTALL)
    return {name: (language, text) for name, language, text in found}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("readme")


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """`cosearch` as it is installed beside this Python, and a cost cache of its own."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    cache = str(tmp_path_factory.mktemp("cache"))
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COSEARCH_CACHE": cache}


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_figures_of_the_long_runs_are_those_of_their_pages():
    text = (ROOT / "README.md").read_text()
    [said] = re.findall(r"- \*\*Killed, fuzzed, long\*\*(.*?)\n- ", text, re.DOTALL)
    said = " ".join(said.split())
    kills, fuzz, long_run = (
        (ROOT / f"docs/benchmarks/{name}.md").read_text() for name in ("kills", "fuzz", "long_run")
    )
    [(survived, hours)] = re.findall(r"\*\*(\d+) kills survived\*\*.*? all took ([\d.]+) hours", kills)
    assert f" {survived} kills survived in {hours} hours," in said
    [(inputs, readers, hours)] = re.findall(r"\*\*([\d,]+) inputs\*\* to (\d+) readers in ([\d.]+) hours", fuzz)
    assert f" {inputs} inputs to {readers} readers fuzzed in {hours} hours," in said
    rows = [line.strip("| ").split(" | ") for line in long_run.splitlines() if line.startswith("| ")]
    table = {name: [float(row[at].replace(",", "")) for row in rows[2:]] for at, name in enumerate(rows[0]) if at}
    assert set(table["trials"]) == {2000}
    most = (
        f"grows by {max(table['growth']):g} MiB",
        f"takes {max(table['study.db']):g} MB",
        f"in {max(table['resumed in']):g} s",
    )
    assert [words for words in most if words not in said] == []


def test_there_are_three():
    found = examples()
    assert list(found) == ["command line", "python", "own space and device"]
    assert len(found["own space and device"][1].splitlines()) < 40


def test_command_line_then_python(folder, environment):
    run(["bash", "-euc", examples()["command line"][1]], folder, environment)
    assert (folder / "first.json").read_text().startswith("{")
    assert (folder / "first-design/zigzag/notes.txt").is_file()
    (folder / "example.py").write_text(examples()["python"][1])
    printed = run([sys.executable, "example.py"], folder, environment)
    assert "latency_ms" in printed


def program(mark: str) -> str:
    found = re.search(rf"<!-- {mark} -->\n```python\n(.*?)```\n", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def test_accelerators_of_ones_own(folder, environment):
    (folder / "my_arrays.py").write_text(program("accelerators of one's own"))
    printed = run([sys.executable, "my_arrays.py"], folder, environment)
    assert "accelerator.size" in printed
    assert "not exhaustively" in (folder / "runs" / "arrays" / "result.json").read_text()


def test_a_search_that_is_kept(folder, environment):
    """Run again it has nothing left to evaluate, and says the same."""
    (folder / "my_tuning.py").write_text(text := program("a search that is kept"))
    printed = run([sys.executable, "my_tuning.py"], folder, environment)
    assert printed.count("'depth'") > 2
    assert text.count("# here your training\n") == 1
    (folder / "my_tuning.py").write_text(text.replace("# here your training", "\n    raise SystemExit(1)"))
    assert run([sys.executable, "my_tuning.py"], folder, environment) == printed


def test_own_space_and_device(folder, environment):
    (folder / "my_search.py").write_text(examples()["own space and device"][1])
    assert "layer3" in run([sys.executable, "my_search.py"], folder, environment)
