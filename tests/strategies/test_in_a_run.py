"""`differentiable` in a run: the supernet's gates steer it, and an extended run proposes what a longer one does."""

import json

import optuna

import cosearch
from cosearch.strategies.study import study_storage
from tests import tiny_space


def test_an_extended_run_searches_like_a_longer_one(few_digits, tmp_path):
    options = {
        "space": tiny_space.NAME, "device": "ecp5-25f", "data": str(few_digits), "strategy": "differentiable",
        "supernet_epochs": 2, "finalist_epochs": 1, "finalist_seeds": 1, "baselines": False,
        "threads": 1, "torch_device": "cpu", "quiet": True,
    }  # fmt: skip
    cosearch.run(**options, trials=24, out=tmp_path / "whole")
    cosearch.run(**options, trials=13, out=tmp_path / "part")
    cosearch.resume(tmp_path / "part", trials=24)
    asked = []
    for name in ("whole", "part"):
        study = optuna.load_study(study_name="co-search", storage=study_storage(tmp_path / name))
        asked.append([trial.params for trial in study.trials])
    assert len(asked[0]) == 24
    assert asked[0] == asked[1]
    assert (tmp_path / "whole" / "front.csv").read_bytes() == (tmp_path / "part" / "front.csv").read_bytes()
    started = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert any(entry.get("strategy") == "differentiable" for entry in started)
