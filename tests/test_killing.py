"""A few random kills, and that the check after them would see a file that is half there."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from tests import killing
from tests.benchmarks.kills import CONFIG

SMALL = {**CONFIG, "trials": 12, "supernet_epochs": 3, "finalist_epochs": 2, "finalist_seeds": 1}


@pytest.mark.slow
def test_a_run_through_random_kills_ends_as_one_without(tmp_path, monkeypatch):
    monkeypatch.setenv("COSEARCH_CACHE", str(tmp_path / "cache"))
    reference, out = tmp_path / "reference", tmp_path / "run"
    started = time.monotonic()
    assert not killing.killed(killing.command("run", *killing.options_of(SMALL), "--out", str(reference)), 600)
    kills = killing.run_through_kills(out, SMALL, np.random.default_rng(5), 0.7 * (time.monotonic() - started))
    assert kills
    killing.require_same(out, reference)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.json", '{"a": 1'), ("log.jsonl", '{"a": 1}\n{"b"'), ("report.html", "<html>"), ("w.safetensors", "half")],
)
def test_half_a_file_is_seen(tmp_path, name, content):
    (tmp_path / "config.yaml").write_text("a: 1\n")
    (tmp_path / "whole.json").write_text(json.dumps([1]))
    killing.require_intact(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(Exception):  # noqa: B017 - of whatever reads it
        killing.require_intact(tmp_path)


def test_what_a_killed_process_left_half_written_goes(tmp_path):
    from cosearch.config import RunConfig
    from cosearch.runs import RunDirectory, write_atomic

    run = RunDirectory.create(tmp_path / "run", RunConfig.make({}))
    left = run.path / "best" / ".model.onnx.x1y2.partial"
    write_atomic(left.with_name("model.onnx"), b"whole")
    left.write_bytes(b"half")
    with run.locked():
        assert {p.name for p in Path(run.path / "best").iterdir()} == {"model.onnx"}
