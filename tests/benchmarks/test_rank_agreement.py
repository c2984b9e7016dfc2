"""Which networks a study trains next, and that trainings of two kinds stay apart."""

import json
from pathlib import Path

import numpy as np
import pytest

from cosearch.runs import to_json
from search_spaces import networks
from tests.benchmarks import rank_agreement
from tests.benchmarks.rank_agreement import LONGER, NETWORKS, QUARTILES, SEEDS, Alone

HASH = json.loads(rank_agreement.STUDY.read_text(encoding="utf-8"))["data"]


def leave(folder: Path, network: int, longer: bool, value: float, seeds: tuple[int, ...] = SEEDS) -> None:
    for seed in seeds:
        file = rank_agreement.standalone_file(folder, network, seed, longer)
        file.write_text(to_json({"val_accuracy": value + seed / 100, "cpu_seconds": 1.0}))


def study_in(folder: Path):
    return rank_agreement.read_study(folder, networks.find("shiftadd")((1, 24, 24), 12), HASH)


@pytest.fixture
def without_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The published study without its longer trainings, and an empty folder."""
    study = json.loads(rank_agreement.STUDY.read_text(encoding="utf-8"))
    for entry in study["networks"]:
        entry.pop("longer", None)
    (tmp_path / "study.json").write_text(json.dumps(study))
    monkeypatch.setattr(rank_agreement, "STUDY", tmp_path / "study.json")
    return tmp_path


def test_however_many_are_trained_every_quartile_has_its_part(without_longer: Path):
    study = study_in(without_longer)
    order = rank_agreement.in_turn(study)
    assert sorted(order) == list(range(NETWORKS))
    for n in range(0, NETWORKS + 1, QUARTILES):
        quartiles = [study["networks"][i]["quartile"] for i in order[:n]]
        assert [quartiles.count(q) for q in range(QUARTILES)] == [n // QUARTILES] * QUARTILES


def test_the_longer_training_goes_on_where_it_stopped(without_longer: Path):
    first, second = rank_agreement.in_turn(study_in(without_longer))[:2]
    leave(without_longer, first, longer=True, value=0.9)
    leave(without_longer, second, longer=True, value=0.8, seeds=(0,))
    study = study_in(without_longer)
    todo = list(rank_agreement.pending(study, SEEDS, longer=True))
    assert len(todo) == 2 * NETWORKS - 3
    assert todo[0] == (second, 1)
    assert rank_agreement.complete(study, longer=True) == [first]


def test_the_two_trainings_are_not_mixed(without_longer: Path):
    before = Alone.of(study_in(without_longer))
    for i in (3, 5):
        leave(without_longer, i, longer=True, value=0.9 + i / 1000)
    study = study_in(without_longer)
    assert np.array_equal(Alone.of(study).accuracy, before.accuracy)
    longer = Alone.of(study, longer=True)
    assert longer.index.tolist() == [3, 5]
    assert longer.accuracy == pytest.approx(np.array([[0.903, 0.905], [0.913, 0.915]]))
    assert longer.proxies["MACs"].tolist() == [study["networks"][i]["macs"] for i in (3, 5)]


def test_results_of_another_longer_training_are_left_aside(without_longer: Path):
    leave(without_longer, 3, longer=True, value=0.9)
    study = study_in(without_longer)
    rank_agreement.STUDY.write_text(json.dumps({**study, "longer_recipe": {"epochs": LONGER.epochs + 1}}))
    rank_agreement.standalone_file(without_longer, 3, 0, longer=True).unlink()
    rank_agreement.standalone_file(without_longer, 3, 1, longer=True).unlink()
    assert rank_agreement.complete(study_in(without_longer), longer=True) == []
    rank_agreement.STUDY.write_text(json.dumps(study))
    assert rank_agreement.complete(study_in(without_longer), longer=True) == [3]


def test_the_best_supernet_is_that_of_highest_tau(without_longer: Path):
    study = study_in(without_longer)
    alone = Alone.of(study)
    reverse = {"name": "fair/separate", "paths": 20, "val_accuracy": list(-alone.mean)}
    macs = {"name": "fair/separate", "paths": 30, "seed": 2, "val_accuracy": list(alone.proxies["MACs"])}
    study["supernets"] = {"b": reverse, "c": macs}
    assert rank_agreement.best_supernet(study, alone) == macs
    assert rank_agreement.title(macs) == "fair/separate, seed 2, 30 networks run"
    assert rank_agreement.title(reverse) == "fair/separate, 20 networks run"


def test_the_longer_trainings_judge_a_supernet_that_the_shorter_ones_chose(without_longer: Path):
    study = study_in(without_longer)
    alone = Alone.of(study)
    for i, mean in enumerate(alone.mean[:12]):
        leave(without_longer, i, longer=True, value=float(1 - mean))  # the opposite of the shorter trainings
    study = study_in(without_longer)
    others = list(Alone.of(study, others=True).mean)
    entries = {"right": [*alone.mean, *others], "wrong": [*-alone.mean, *others]}
    study["supernets"] = {
        name: {"name": name, "paths": 1, "cpu_seconds": 1.0, "parameters": 1, "val_accuracy": values}
        for name, values in entries.items()
    }
    text = " ".join(rank_agreement.longer_lines(study))
    assert "Unfinished: 12 of 64" in text
    assert "The highest tau is that of wrong, 1 networks run" in text
    assert "was right, 1 networks run. On these trainings it has tau -1.00 +- 0.00" in text
