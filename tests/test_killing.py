"""That the check after a kill would see a file that is half there; runs are killed in test_engine.py."""

import json
from pathlib import Path

import pytest

from tests import killing


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
    from cosearch.runs import RunDirectory
    from cosearch.writing import write_atomic

    run = RunDirectory.create(tmp_path / "run", RunConfig.make({}))
    left = run.path / "best" / ".model.onnx.x1y2.partial"
    write_atomic(left.with_name("model.onnx"), b"whole")
    left.write_bytes(b"half")
    with run.locked():
        assert {p.name for p in Path(run.path / "best").iterdir()} == {"model.onnx"}


def test_half_a_line_of_the_log_goes(tmp_path):
    from cosearch.config import RunConfig
    from cosearch.runs import RunDirectory

    run = RunDirectory.create(tmp_path / "run", RunConfig.make({}))
    run.log("supernet", epoch=1, loss=0.5)
    whole = (run.path / "log.jsonl").read_bytes()
    (run.path / "log.jsonl").write_bytes(whole + b'{"time": 17')
    with run.locked():
        assert (run.path / "log.jsonl").read_bytes() == whole
