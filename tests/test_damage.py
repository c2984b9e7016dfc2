"""A full disk, a read-only folder, vanished data, SIGTERM, two processes: one clear line, and nothing is damaged."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save

import cosearch
from cosearch import finalists
from cosearch.config import RunConfig
from cosearch.errors import DataError, RunError
from cosearch.export.schema import FOLDER
from cosearch.finalists import Training, load_trained, train_all
from cosearch.report.facts import read_facts
from cosearch.report.page import run_page
from cosearch.runs import METADATA, RunDirectory
from cosearch.writing import write_atomic, write_within
from tests import killing, tiny_space

SMALL = {
    "space": tiny_space.NAME,
    "device": "ecp5-25f",
    "trials": 8,
    "supernet_epochs": 3,
    "finalist_epochs": 1,
    "finalist_seeds": 1,
    "baselines": False,
    "threads": 1,
    "torch_device": "cpu",
}


@pytest.fixture(scope="module")
def options(few_digits, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield {**SMALL, "data": str(few_digits)}


@pytest.fixture(scope="module")
def finished(options, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    cosearch.run(**options, quiet=True, out=out)
    return out


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a folder of so many bytes and files."""
    mounted = []

    def mount(size: int, files: int = 10_000) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        room = f"size={size},nr_inodes={files}"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", room, "tmpfs", str(folder)], capture_output=True, text=True
        )
        if done.returncode != 0:
            pytest.skip(f"this system mounts no tmpfs for tests: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    if shutil.which("mount") is None:
        pytest.skip("this system has no mount")
    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def said_in_one_line(arguments: list[str], status: int = 2) -> str:
    done = subprocess.run(killing.command(*arguments), capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("cosearch: ")
    return line


@pytest.mark.parametrize(
    ("size", "files"),
    [
        (60_000, 10_000),  # no room for the supernet
        (150_000, 10_000),  # for the supernet, not for the study
        (20_000_000, 9),  # for all, but not for as many files as finalists need
    ],
)
def test_a_full_disk_ends_a_run_in_one_line_and_with_room_it_goes_on(small_disk, options, finished, size, files):
    disk = small_disk(size, files)
    out = disk / "run"
    begin = ["run", "--quiet", *killing.options_of(options), "--out", str(out)]
    assert f"cannot write {out}" in said_in_one_line(begin)
    killing.require_intact(out)
    assert f"cannot write {out}" in said_in_one_line(["resume", "--quiet", str(out)])
    killing.require_intact(out)
    subprocess.run(["mount", "-o", "remount,size=50m,nr_inodes=10000", str(disk)], check=True)
    killing.finish(killing.begin_or_resume(out, options))
    killing.require_same(out, finished)


@pytest.mark.parametrize("room", [0, 20_000])
def test_a_disk_that_fills_up_later_leaves_every_file_whole(small_disk, finished, room):
    """A finished run is extended where only so many bytes are left."""
    disk = small_disk(50_000_000)
    out = disk / "run"
    shutil.copytree(finished, out)
    before = {f.name: f.read_bytes() for f in (out / "best").iterdir()}
    free = os.statvfs(disk)
    (disk / "ballast").write_bytes(bytes(free.f_bavail * free.f_frsize - room))
    line = said_in_one_line(["resume", "--quiet", str(out), "--trials", "+30"])
    assert "cannot write" in line
    killing.require_intact(out)
    assert {f.name: f.read_bytes() for f in (out / "best").iterdir()} == before
    (disk / "ballast").unlink()
    left = 38 - yaml.safe_load((out / "config.yaml").read_text())["trials"]  # the wish may have been kept, or not
    killing.finish(killing.command("resume", "--quiet", str(out), *(["--trials", f"+{left}"] if left else [])))
    assert len(killing.trials_of(out)["co-search"]) == 38


def test_a_read_only_folder_ends_in_one_line(small_disk, options, finished):
    disk = small_disk(50_000_000)
    shutil.copytree(finished, disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for arguments in (
        ["resume", "--quiet", str(disk / "run")],
        ["report", "--quiet", str(disk / "run")],
        ["export", "--quiet", str(finished), "--to", str(disk / "out")],
        ["run", "--quiet", *killing.options_of(options), "--out", str(disk / "new")],
    ):
        assert "Read-only file system" in said_in_one_line(arguments)
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    killing.require_same(disk / "run", finished)


def test_data_that_vanishes_ends_in_one_line_and_back_again_the_run_goes_on(options, finished, tmp_path):
    data = tmp_path / "mine.npz"
    shutil.copy(options["data"], data)
    mine, out = {**options, "data": str(data)}, tmp_path / "run"
    assert killing.struck(killing.begin_or_resume(out, mine), out, killing.Moment("search", 4)) == "search"
    data.rename(tmp_path / "elsewhere")
    assert str(data) in said_in_one_line(["resume", "--quiet", str(out)])
    killing.require_intact(out)
    (tmp_path / "elsewhere").rename(data)
    killing.finish(killing.begin_or_resume(out, mine))
    killing.require_same(out, finished)


def test_data_that_vanishes_under_a_running_search_ends_in_one_line(options, tmp_path, monkeypatch):
    """Training processes read the data again."""
    from cosearch import engine

    data = tmp_path / "mine.npz"
    shutil.copy(options["data"], data)
    searches = engine.searches

    def and_then_gone(*arguments):
        found = searches(*arguments)
        data.unlink()
        return found

    monkeypatch.setattr(engine, "searches", and_then_gone)
    with pytest.raises(cosearch.CosearchError, match=r"mine\.npz") as caught:
        cosearch.run(**{**options, "data": str(data)}, quiet=True, out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    killing.require_intact(tmp_path / "run")


@pytest.mark.parametrize("phase", ["supernet", "search", "finalists"])
def test_sigterm_ends_in_one_line_and_the_run_goes_on(options, finished, tmp_path, phase):
    out = tmp_path / "run"
    moment = killing.Moment(phase, 1)
    assert killing.struck(killing.begin_or_resume(out, options), out, moment, signal.SIGTERM) == phase
    killing.require_intact(out)
    cosearch.resume(out, quiet=True)
    killing.require_same(out, finished)


def test_of_two_that_begin_in_one_place_one_is_refused(tmp_path):
    """Whichever comes second is told so and changes nothing, also where both found the place free."""
    told, refused, barrier = [], [], threading.Barrier(8)

    def begin(seed: int) -> None:
        barrier.wait()
        try:
            with RunDirectory.begin(tmp_path / "run", RunConfig(seed=seed)):
                told.append(seed)
                barrier.wait()  # all have tried
        except RunError as error:
            refused.append(str(error))
            barrier.wait()

    threads = [threading.Thread(target=begin, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = told
    assert len(refused) == 7
    assert all("in use" in line or "exists" in line for line in refused)
    assert RunDirectory.open(tmp_path / "run").config.seed == winner


def test_a_second_process_is_refused_while_the_first_runs(options, tmp_path):
    out = tmp_path / "run"
    long = {**options, "supernet_epochs": 5000}
    with subprocess.Popen(killing.begin_or_resume(out, long), stderr=subprocess.DEVNULL) as first:
        while killing.phase_of(out, 0) == "preparing":
            assert first.poll() is None
        assert "in use by another process" in said_in_one_line(["resume", "--quiet", str(out)])
        again = ["run", "--quiet", *killing.options_of(options), "--out", str(out)]
        assert "exists" in said_in_one_line(again)
        first.kill()
    killing.require_intact(out)


# -- paths --


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "/tmp/outside", ".", "", "best/../.."])
def test_no_name_leads_out_of_a_folder(tmp_path, name):
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(RunError, match="leads out"):
        write_within(inside, name, b"x")
    assert [p.name for p in tmp_path.rglob("*")] == ["inside"]


@pytest.mark.parametrize("name", ["best", "supernet.safetensors", "finalists/x.json"])
def test_a_link_out_of_a_run_directory_is_refused(finished, tmp_path, name):
    run, outside = tmp_path / "run", tmp_path / "outside"
    shutil.copytree(finished, run)
    outside.mkdir()
    link = run / name
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(outside)
    for verb in (cosearch.load, cosearch.resume):
        with pytest.raises(RunError, match="leads out of"):
            verb(run)
    assert not list(outside.iterdir())


def test_a_link_within_a_run_directory_is_its_own_matter(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "front.csv").rename(run / "front-0.csv")
    (run / "front.csv").symlink_to("front-0.csv")
    assert cosearch.load(run).designs


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere; test_a_read_only_folder mounts one instead")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="Permission denied"):
        write_atomic(tmp_path / "file", b"x")


@pytest.fixture
def without_rights():
    """Root may read everything, unless its capabilities say otherwise."""
    if shutil.which("setpriv") is None:
        pytest.skip("this system has no setpriv")
    lacking = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={lacking}", f"--inh-caps={lacking}"] if os.geteuid() == 0 else []


def test_what_may_not_be_read_ends_in_one_line(finished, tmp_path, without_rights):
    """A folder of images, a network, a study."""
    (tmp_path / "images").mkdir()
    (tmp_path / "w.json").touch()
    shutil.copytree(finished, tmp_path / "run")
    for path in (tmp_path / "images", tmp_path / "w.json", tmp_path / "run" / "study.db"):
        path.chmod(0)
    code = """
import sys, cosearch
from cosearch.data import load_dataset
from cosearch.tracing import read_report
for read, name in ((load_dataset, "images"), (read_report, "w.json"), (cosearch.resume, "run")):
    try:
        read(name)
    except cosearch.CosearchError as error:
        print(error)
"""
    done = subprocess.run(
        [*without_rights, sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 3
    assert all("Permission denied" in line for line in said), said


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    write_atomic(tmp_path / "file", b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"cannot write .*file \(No space left on device\)"):
        write_atomic(tmp_path / "file", b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("file", b"old")]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("pixel_mean", None, "pixel_mean: None is not of type 'array'"),
        ("pixel_mean", 3, "pixel_mean: 3 is not of type 'array'"),
        ("pixel_std", [""], "pixel_std.0: '' is not of type 'number'"),
        ("pixel_mean", [0.5, 0.5], "expected (1, 1, 10) or none"),
        ("classes", ["a"], "expected (1, 1, 10) or none"),
        ("classes", ["a"] * 9 + [[]], "classes.9: [] is not of type 'string'"),
        ("steps", [], "steps"),
        ("", {}, "'format' is a required property"),
        ("", [], "[] is not of type 'object'"),
    ],
)
def test_a_damaged_network_is_refused_in_one_line(finished, tmp_path, field, value, words):
    path = tmp_path / "run" / "best" / "network.json"
    shutil.copytree(finished, tmp_path / "run")
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value} if field else value))
    with pytest.raises(RunError) as caught:
        cosearch.load_network(tmp_path / "run")
    assert str(caught.value).startswith(f"{path} is damaged (")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_network_and_its_integers_that_differ_are_refused_in_one_line(finished, tmp_path):
    path = tmp_path / "run" / "best" / "network.json"
    shutil.copytree(finished, tmp_path / "run")
    data = json.loads(path.read_text())
    data["steps"][-1]["out_channels"] = 3
    path.write_text(json.dumps({**data, "classes": ["a", "b", "c"]}))
    with pytest.raises(RunError, match=r"names 3 classes, .* does not tell so many apart"):
        cosearch.load_network(tmp_path / "run")


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 8, 8), (8,)])
def test_images_of_another_shape_are_refused_in_one_line(finished, shape):
    network = cosearch.load_network(finished)
    assert len(network(np.zeros((2, 1, 8, 8)))) == 2
    with pytest.raises(DataError, match=r"expected \(images, 1, height, width\)"):
        network(np.zeros(shape))


# -- files of a run that are of another form --


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def test_finalists_are_not_trained_on_other_images_than_the_search(copy, options, tmp_path):
    """Training processes read the data again, which somebody may have replaced meanwhile."""
    with np.load(options["data"]) as arrays:
        np.savez(tmp_path / "mine.npz", x=arrays["x"][::-1], y=arrays["y"])
    run = RunDirectory.open(copy)
    training = Training(cosearch.load(copy).finalist.arch, seed=1, operations=0)
    run.reconfigure(run.config.model_copy(update={"data": str(tmp_path / "mine.npz")}))
    with pytest.raises(cosearch.CosearchError, match="data changed since this run was started: put it back"):
        train_all(run, [training], 1, lambda epochs: None)
    assert load_trained(run, training) is None


def edited(path: Path, change) -> None:
    """A JSON file with a change."""
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def one_line(caught) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def signed(run: Path) -> None:
    """The checksum of front.csv in result.json is right."""
    digest = hashlib.sha256((run / "front.csv").read_bytes()).hexdigest()
    edited(run / "result.json", lambda result: {**result, "front_sha256": digest})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda front: front.drop(columns="accuracy_source"), "no column 'accuracy_source'"),
        (lambda front: front.drop(columns="latency_ms"), "no column 'latency_ms'"),
        (lambda front: front.assign(lut="many"), "'lut' of front.csv is no column of numbers"),
        (lambda front: front.assign(accelerator=""), "an empty cell in the column 'accelerator'"),
        (lambda front: front.assign(arch="[1]"), "where a network is expected"),
        (lambda front: front.assign(arch='{"layer1": [1]}'), "where a network is expected"),
        (
            lambda front: front.join(pd.DataFrame(1, front.index, [f"c{i}" for i in range(1000)])),
            "more than 1,000 columns",
        ),
    ],
)
def test_a_front_of_another_form_is_refused_in_one_line(copy, change, words):
    change(pd.read_csv(copy / "front.csv")).to_csv(copy / "front.csv", index=False)
    signed(copy)
    for read in (cosearch.load, cosearch.write_report):
        with pytest.raises(RunError) as caught:
            read(copy)
        assert words in one_line(caught)


def test_a_front_without_end_is_refused(copy, monkeypatch):
    monkeypatch.setattr("cosearch.results.MOST_FRONT_BYTES", 1 << 20)
    (copy / "front.csv").unlink()
    with (copy / "front.csv").open("wb") as file:
        file.truncate(1 << 40)  # and no block of it on the disk
    for verb in (cosearch.load, cosearch.write_report):
        with pytest.raises(RunError, match="more than 1 MiB"):
            verb(copy)


@pytest.mark.parametrize("name", ["log.jsonl", "study.db"])
@pytest.mark.parametrize(("size", "words"), [(1 << 40, "has 1024.0 GiB, at most 4"), (17 << 20, "more than 16 MiB")])
def test_lines_without_end_are_refused(copy, name, size, words):
    """Of a file that takes no room on the disk."""
    with (copy / name).open("r+b") as file:
        file.truncate(size)
    for read in (cosearch.resume, cosearch.write_report, lambda run: cosearch.compare([run, run])):
        with pytest.raises(RunError) as caught:
            read(copy)
        assert f"{copy / name} is damaged (has" in one_line(caught)
        assert words in str(caught.value)
    assert (copy / name).stat().st_size == size


def test_weights_without_end_are_not_sent_to_workers(tmp_path):
    run = RunDirectory.create(tmp_path / "run", RunConfig(distil=True, finalist_start="supernet"))
    archs = [{"layer1": "skip"}, {"layer1": "conv"}]
    with pytest.raises(RunError, match=r"teacher\.safetensors is missing: cosearch resume"):
        finalists.read_inherited(run, archs)
    for training in (Training(arch, 0, 1) for arch in archs):
        run.write(training.name.replace("-seed0", "-start.safetensors"), training.name)
    run.write(finalists.TEACHER, "largest")
    run.write("finalists/trained.safetensors", "a result is nobody's start")
    found = finalists.read_inherited(run, archs)
    assert [content.decode()[:10] for content in found.values()] == ["largest", "finalists/", "finalists/"]
    assert all((run.path / name).read_bytes() == content for name, content in found.items())
    os.truncate(run.path / finalists.TEACHER, 1 << 40)
    with pytest.raises(RunError, match=r"teacher\.safetensors is damaged \(has 1024\.0 GiB, at most 4"):
        finalists.read_inherited(run, archs)


def test_a_pipe_among_the_files_of_a_run_is_refused(copy):
    """Who reads one waits for ever."""
    (copy / "log.jsonl").unlink()
    os.mkfifo(copy / "log.jsonl")
    for read in (cosearch.load, cosearch.resume, cosearch.write_report):
        with pytest.raises(RunError) as caught:
            read(copy)
        assert f"{copy / 'log.jsonl'} is no file but a pipe" in one_line(caught)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: {**data, "changes": {}},
        lambda data: {**data, "space": {**data["space"], "networks": "many"}},
        lambda data: {**data, "finalist": {**data["finalist"], "layers": []}},
        lambda data: {**data, "finalist": None},
        lambda data: {**data, "device": {**data["device"], "budget": {"gold": 1}}},
        lambda data: {**data, "sequential": {**data["sequential"], "rows": [{"ratio": "a"}]}},
        lambda data: {**data, "searches": {"co-search": {"moved": [{"trial": 0, "points": [[1.0]]}]}}},
        lambda data: {**data, "device": {**data["device"], "unit_costs": [{"status": "guessed"}]}},
        lambda data: {
            **data,
            "finalist": {
                **data["finalist"],
                "host": {"latency_ms": 0, "energy_mj": 0},
                "layers": [{**layer, "latency_ms": 0} for layer in data["finalist"]["layers"]],
            },
        },
    ],
)
def test_damaged_details_of_a_report_are_as_none(copy, change):
    """They are found out again, and then the page is as before."""
    whole = json.loads((copy / "report.json").read_text())
    assert read_facts(copy).details == whole
    edited(copy / "report.json", change)
    assert read_facts(copy).details is None
    page = run_page(read_facts(copy))
    assert "it has not been worked out yet" in page
    cosearch.write_report(copy, quiet=True)
    assert json.loads((copy / "report.json").read_text()) == whole


def test_details_follow_their_schema(finished):
    jsonschema.Draft202012Validator(json.loads((FOLDER / "report.schema.json").read_text())).validate(
        json.loads((finished / "report.json").read_text())
    )


@pytest.mark.parametrize("data", [[], "a", {"space": 3}, {"space": ["a"]}])
def test_damaged_inputs_are_refused_in_one_line(copy, data):
    (copy / "inputs.json").write_text(json.dumps(data))
    for read in (cosearch.resume, cosearch.write_report):
        with pytest.raises(RunError) as caught:
            read(copy)
        assert f"{copy / 'inputs.json'} is damaged (expected a hash by each name)" in one_line(caught)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"[]", b'{"format": "cosearch.workload", "version": 1}'])
def test_a_damaged_accelerator_is_refused_in_one_line(copy, content):
    (copy / "best" / "accelerator.json").write_bytes(content)
    with pytest.raises(RunError) as caught:
        cosearch.write_report(copy)
    assert str(copy / "best" / "accelerator.json") in one_line(caught)


@pytest.mark.parametrize(
    "line",
    [
        {"event": "search", "study": "co-search", "strategy": 3, "why": 4},
        {"event": "start", "threads": "two", "seed": 0, "versions": []},
        {"event": "finished", "time": 1e300, "seconds": {}},
        {"event": "finished", "time": 1.0, "seconds": {"search": "long"}},
        {"event": ["finished"]},
        {"event": "unheard of"},
        {},
    ],
)
def test_lines_of_the_log_that_are_none_are_left_out_of_a_report(copy, line):
    before = run_page(read_facts(copy))
    with (copy / "log.jsonl").open("a") as file:
        file.write(json.dumps({"time": 1.0, **line}) + "\n")
    written = re.compile(r"Written [\d :-]+ UTC")
    assert written.sub("", run_page(read_facts(copy))) == written.sub("", before)


@pytest.mark.parametrize(
    "result",
    [
        {"correct": 3, "float_accuracy": 0.5},
        {"correct": ["1"], "float_accuracy": 0.5},
        {"correct": "012", "float_accuracy": 0.5},
        {"correct": "", "float_accuracy": 0.5},
        {"correct": "01", "float_accuracy": 7},
        {"correct": "01", "float_accuracy": "a"},
        {"correct": "01", "float_accuracy": 0.5, "failed": 1},
        {"correct": "01", "float_accuracy": 0.5, "more": 1},
        {"correct": "01"},
        [],
    ],
)
def test_a_damaged_training_is_refused_in_one_line(copy, result):
    [path] = (copy / "finalists").glob("*.json")
    edited(path, lambda data: {**data, "test": result})
    with pytest.raises(RunError) as caught:
        cosearch.resume(copy, quiet=True)
    assert one_line(caught).startswith(f"{path} is damaged (")
    (copy / "result.json").read_text()
    assert cosearch.write_report(copy).is_file()  # a report leaves it out


def test_a_comparison_without_a_study_is_refused_in_one_line(copy, finished):
    (copy / "study.db").unlink()
    with pytest.raises(RunError) as caught:
        cosearch.compare([copy, finished])
    assert f"{copy / 'study.db'} has no trial of the search" in one_line(caught)


@pytest.mark.parametrize("described", [[], "a", {"epoch": 3}, None])
def test_tensors_whose_description_is_none_are_refused_in_one_line(copy, described):
    path = copy / "supernet.safetensors"
    path.write_bytes(save({"a": torch.zeros(1)}, {METADATA: json.dumps(described)}))
    with pytest.raises(RunError) as caught:
        RunDirectory.open(copy).load_tensors("supernet.safetensors")
    assert "its description is no object of texts" in one_line(caught)


@pytest.mark.parametrize("name", ["supernet.safetensors", "best/weights.safetensors"])
def test_tensors_of_many_gigabytes_are_not_read(copy, name):
    for other in ("accelerator", "mapping"):  # which would be looked at before
        (copy / "best" / f"{other}.json").unlink()
    with (copy / name).open("r+b") as file:
        file.truncate(5 << 30)
    with pytest.raises(RunError) as caught:
        RunDirectory.open(copy).load_tensors(name) if "best" not in name else cosearch.load(copy / "best")
    assert "has 5.0 GiB, at most 4 are read" in one_line(caught)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda name, tensor: tensor.reshape(-1) if name.endswith(".weight") else tensor, "tensors of another shape"),
        (lambda name, tensor: tensor.to(torch.int32), "tensors of another shape or type"),
        (lambda name, tensor: tensor[:1] if name.endswith(".shift") else tensor, "tensors of several lengths"),
        (lambda name, tensor: torch.cat([tensor] * 2, 1) if name == "stem.weight" else tensor, "is no network"),
    ],
)
def test_damaged_integers_are_refused_in_one_line(copy, change, words):
    for path in (copy / "best" / "integer.safetensors", *(copy / "finalists").glob("*.integer.safetensors")):
        run, name = RunDirectory.open(copy), str(path.relative_to(copy))
        tensors, described = run.load_tensors(name)
        run.save_tensors(name, {key: change(key, tensor) for key, tensor in tensors.items()}, described)
    with pytest.raises(RunError) as caught:
        cosearch.load_network(copy)
    assert words in one_line(caught)
    (copy / "best" / "model.onnx").unlink()  # it is made again
    with pytest.raises(RunError) as caught:
        cosearch.export_design(copy, copy.parent / "out", what="onnx")
    assert words in one_line(caught)


def test_a_study_of_other_objectives_is_refused_in_one_line(copy):
    lines = (copy / "study.db").read_text().splitlines()
    [at] = [i for i, line in enumerate(lines) if "study:metric_names" in line]
    lines[at] = lines[at].replace("energy_mj", "edp")
    (copy / "study.db").write_text("\n".join(lines) + "\n")
    with pytest.raises(RunError) as caught:
        cosearch.write_report(copy)
    assert (
        f"{copy / 'study.db'} is of accuracy, latency_ms, edp, the run of accuracy, latency_ms, energy_mj"
        in one_line(caught)
    )
