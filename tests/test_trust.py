"""A run directory of somebody else: what it names is not imported unless the user has named it, or says so."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import cosearch
from cosearch.config import RunConfig
from cosearch.errors import RunError
from cosearch.export.design import EVERYTHING
from cosearch.trust import FILE, cache_folder, named_code, require_trusted, trust
from tests import tiny_space

MODULE = """
from pathlib import Path
from tests.tiny_space import space
Path({mark!r}).touch()
"""


@pytest.fixture(scope="module")
def made(few_digits, tmp_path_factory) -> Path:
    """A finished run whose space is the module `foreign` of its folder; who ran it is somebody else."""
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "foreign.py").write_text(MODULE.format(mark=str(folder / "imported")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COSEARCH_CACHE", str(folder / "cache"))
        patch.syspath_prepend(folder)
        cosearch.run(
            space="foreign:space", device="ecp5-25f", data=str(few_digits), trials=6, supernet_epochs=1,
            finalist_epochs=1, finalist_seeds=1, baselines=False, threads=1, torch_device="cpu", quiet=True,
            out=folder / "run",
        )  # fmt: skip
    return folder


@pytest.fixture
def theirs(made, tmp_path, monkeypatch) -> Path:
    """The same folder, here; the module can be found."""
    folder = tmp_path / "theirs"
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("imported", "cache", "__pycache__"))
    (folder / "foreign.py").write_text(MODULE.format(mark=str(folder / "imported")))
    monkeypatch.setenv("COSEARCH_CACHE", str(tmp_path / "mine"))
    monkeypatch.syspath_prepend(folder)
    sys.modules.pop("foreign", None)
    yield folder
    sys.modules.pop("foreign", None)


def imported(folder: Path) -> bool:
    return (folder / "imported").exists()


def test_what_only_reads_imports_nothing(theirs, tmp_path):
    run = theirs / "run"
    (run / "report.json").unlink()
    assert cosearch.load(run).designs
    assert cosearch.load(run / "best").cost().latency_ms > 0
    assert cosearch.load_network(run)
    page = cosearch.write_report(run).read_text()
    assert "names code that you have not run before: foreign:space" in page
    cosearch.compare([run, run], tmp_path / "compare.html")
    cosearch.export_design(run, tmp_path / "out")
    written = {f.name: f.read_bytes() for f in (tmp_path / "out").iterdir()}
    assert written == {f.name: f.read_bytes() for f in (run / "best").iterdir()}
    assert not imported(theirs)


@pytest.mark.parametrize(
    "verb",
    [
        lambda run, to, **options: cosearch.resume(run, quiet=True, **options),
        lambda run, to, **options: cosearch.export_design(run, to, front=0, what="network", **options),
        lambda run, to, **options: cosearch.export_design(run, to, trial=0, what="network", **options),
    ],
)
def test_what_needs_the_code_asks_for_trust_in_one_line(theirs, tmp_path, verb):
    run = theirs / "run"
    with pytest.raises(RunError) as caught:
        verb(run, tmp_path / "out")
    said = str(caught.value)
    assert said.startswith(f"{run} names code that you have not run before: foreign:space ({theirs / 'foreign.py'})")
    assert said.endswith("give --trust to have it imported")
    assert "\n" not in said
    assert not imported(theirs)
    assert verb(run, tmp_path / "out", trusted=True)
    assert imported(theirs)


def test_what_was_trusted_once_is_not_asked_again_but_another_file_is(theirs, tmp_path, monkeypatch):
    run, config = theirs / "run", RunConfig(space="foreign:space")
    with pytest.raises(RunError):
        require_trusted(run, config, False)
    require_trusted(run, config, True)
    require_trusted(run, config, False)
    require_trusted(tmp_path / "another run", config, False)
    with pytest.raises(RunError, match="foreign:other"):
        require_trusted(run, config.model_copy(update={"space": "foreign:other"}), False)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "foreign.py").write_text("")
    monkeypatch.syspath_prepend(elsewhere)
    with pytest.raises(RunError, match=str(elsewhere)):
        require_trusted(run, config, False)


def test_who_began_a_run_is_not_asked(few_digits, tmp_path, monkeypatch):
    monkeypatch.setenv("COSEARCH_CACHE", str(tmp_path / "cache"))
    options = {"space": tiny_space.NAME, "device": "ecp5-25f", "data": str(few_digits), "trials": 4, "quiet": True}
    small = {"supernet_epochs": 1, "finalist_epochs": 1, "finalist_seeds": 1, "baselines": False, "threads": 1}
    cosearch.run(**options, **small, out=tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert cosearch.resume(tmp_path / "copy", trials=5, quiet=True).designs


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, []),
        ({"data": "shapes:0.7", "device": "a:b.yaml"}, []),
        ({"space": "json:loads", "strategy": "ast:walk", "recipe": "ast:x"}, ["json:loads", "ast:walk", "ast:x"]),
        ({"device": "os.path:join"}, ["os.path:join"]),
        ({"device": "sys:exit"}, ["sys:exit"]),
        ({"device": "no_such_module_anywhere:x"}, []),
        ({"ray": "ray://10.0.0.1:10001"}, ["ray://10.0.0.1:10001"]),
        ({"ray": "local"}, []),
    ],
)  # fmt: skip
def test_what_names_code(options, names):
    assert [name for name, _ in named_code(RunConfig(**options))] == names


def test_a_command_asks_for_trust_too(theirs, tmp_path, monkeypatch, capsys):
    from cosearch import cli

    def command(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["cosearch", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    run = str(theirs / "run")
    assert command("resume", run, "--quiet") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "foreign:space" in line
    assert command("show", run) == 0
    assert not imported(theirs)
    assert command("resume", run, "--quiet", "--trust") == 0
    assert command("export", run, "--front", "0", "--what", "network", "--to", str(tmp_path / "out")) == 0


def test_no_module_of_the_folder_is_imported_that_nobody_named(theirs, tmp_path):
    """Libraries use some modules if they are there; a folder of somebody else may have files that are called so."""
    optional = ("bottleneck", "numexpr", "webcolors", "opt_einsum", "fqdn", "colorama", "pytz", "msvcrt", "redis")
    for name in optional:
        (theirs / f"{name}.py").write_text(f"open({str(tmp_path / name)!r}, 'w')\n")
    environment = {**os.environ, "PYTHONPATH": str(Path(cosearch.__file__).parents[1])}
    command = [sys.executable, "-P", "-m", "cosearch", "show", "run"]  # as installed, without the folder
    subprocess.run(command, cwd=theirs, env=environment, stdout=subprocess.DEVNULL, check=True)
    assert [name for name in optional if (tmp_path / name).exists()] == []


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b'[1, 2\n{}\n["a"]\n', b"[" * 100_000])
def test_a_damaged_list_of_what_is_trusted_is_an_empty_one(tmp_path, monkeypatch, content):
    monkeypatch.setenv("COSEARCH_CACHE", str(tmp_path))
    (cache_folder() / FILE).write_bytes(content)
    config = RunConfig(space=tiny_space.NAME)
    with pytest.raises(RunError):
        require_trusted(tmp_path, config, False)
    trust(config)
    require_trusted(tmp_path, config, False)


def test_the_list_that_cannot_be_written_is_no_reason_to_fail(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("COSEARCH_CACHE", str(tmp_path / "file" / "below"))
    require_trusted(tmp_path, RunConfig(space=tiny_space.NAME), True)


def test_best_gives_what_making_it_again_gives(theirs, tmp_path, monkeypatch):
    """The files that need no code, beside those of the long way, for other tools too."""
    from cosearch.export import writing

    run = theirs / "run"
    short = cosearch.export_design(run, tmp_path / "short", what=EVERYTHING)
    monkeypatch.setattr(writing, "recorded_files", lambda *_: None)
    long = cosearch.export_design(run, tmp_path / "long", what=EVERYTHING, trusted=True)
    assert [f.relative_to(tmp_path / "short") for f in short] == [f.relative_to(tmp_path / "long") for f in long]
    for one, other in zip(short, long, strict=True):
        assert one.read_bytes() == other.read_bytes(), one


@pytest.mark.parametrize("damage", ["missing", "cut", "of another"])
def test_best_that_is_not_whole_is_made_again(theirs, tmp_path, damage):
    run = theirs / "run"
    path = run / "best" / "network.json"
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(whole[:-9])
    else:
        data = json.loads(whole)
        path.write_text(json.dumps({**data, "arch": {**data["arch"], "layer1": "another"}}))
    with pytest.raises(RunError, match="--trust"):
        cosearch.export_design(run, tmp_path / "out")
    cosearch.export_design(run, tmp_path / "out", trusted=True)
    assert (tmp_path / "out" / "network.json").read_bytes() == whole


def test_a_second_design_replaces_no_file_of_the_first(theirs, tmp_path):
    """ONNX alone does not say of which network it is."""
    run = theirs / "run"
    finalist = cosearch.load(run).finalist
    trust(RunConfig(**yaml.safe_load((run / "config.yaml").read_text())))
    front = cosearch.load(run).front["arch"].map(json.loads)
    other = int((front != finalist.arch).idxmax())
    assert front[other] != finalist.arch
    for what in ("onnx", "workload", "zigzag"):
        to = tmp_path / what
        cosearch.export_design(run, to, what=what)
        before = {f: f.read_bytes() for f in to.rglob("*") if f.is_file()}
        cosearch.export_design(run, to, what=what)  # the same again
        with pytest.raises(cosearch.CosearchError, match=r"holds another .*: remove it, or choose another folder"):
            cosearch.export_design(run, to, what=what, front=other)
        assert {f: f.read_bytes() for f in to.rglob("*") if f.is_file()} == before
