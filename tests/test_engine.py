"""The main job end to end: a space of 100 networks on real digits, with budgets of a few steps."""

import html
import itertools
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jsonschema
import numpy as np
import optuna
import pandas as pd
import pytest

import cosearch
import cosearch.engine
from cosearch import evaluators, finalists, selection, source
from cosearch.cli import main
from cosearch.config import RunConfig
from cosearch.costs import JointCosts
from cosearch.data import load_dataset
from cosearch.errors import ConfigError, CosearchError, RunError, StoppedError
from cosearch.export import writing as export_writing
from cosearch.export.schema import FOLDER
from cosearch.hardware import Accelerator
from cosearch.hardware.tensor import accelerator_tensor
from cosearch.job import Job
from cosearch.loading import load_network, load_run
from cosearch.problem import can_be_tabulated, prepare
from cosearch.progress import Reporter
from cosearch.results import Result
from cosearch.runs import RunDirectory, read_log
from cosearch.strategies import STRATEGIES, Objectives, differentiable
from cosearch.strategies.base import TURNS
from cosearch.strategies.study import TrialLog, study_storage
from cosearch.supernet import recipes
from cosearch.words import result_tables
from cosearch.workload import Workload, host_bytes
from search_spaces.accelerators import asic
from search_spaces.decisions import arch_key, network_key, split
from search_spaces.joint import joined
from tests import killing, tiny_device, tiny_space

STUDIES = ("co-search", "conv-only", "random search")
SMALL = {
    "space": tiny_space.NAME,
    "device": "ecp5-25f",
    "trials": 24,
    "supernet_epochs": 5,
    "finalist_epochs": 2,
    "finalist_seeds": 2,
    "threads": 1,
    "torch_device": "cpu",
    "quiet": True,
}


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """One cost-tensor cache for all runs of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def options(few_digits) -> dict:
    return {**SMALL, "data": str(few_digits)}


@pytest.fixture(scope="session")
def finished(tmp_path_factory, options) -> Result:
    """One whole run, uninterrupted; read it, do not change it."""
    return cosearch.run(**options, out=tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture(scope="session")
def accuracy_table(tmp_path_factory) -> Path:
    """Accuracies of all 100 networks, made up: more weights, more accuracy."""
    made = tiny_space.space()
    archs = [dict(zip(made.choices, c, strict=True)) for c in itertools.product(*made.choices.values())]
    weights = np.array([made.workload(a).weight_count for a in archs])
    path = tmp_path_factory.mktemp("tables") / "accuracy.csv"
    pd.DataFrame({"arch": [json.dumps(a) for a in archs], "accuracy": 0.5 + 0.4 * weights / weights.max()}).to_csv(
        path, index=False
    )
    return path


def train_here(run, trainings, workers, on_epochs) -> None:
    """`train_all` without worker processes, whose start takes longer than these trainings."""
    config = run.config
    dataset = load_dataset(config.data, seed=config.seed)
    space = tiny_space.space(dataset.input_shape, len(dataset.classes))
    for training in trainings:
        if finalists.load_trained(run, training) is None:
            finalists.train(run, dataset, space, training, on_epochs)


@pytest.fixture
def table_run(options, accuracy_table, tmp_path, monkeypatch) -> dict:
    """Options of a run that trains nothing but the finalists, and those in this process."""
    monkeypatch.setattr(selection, "train_all", train_here)
    return {
        **options, "accuracy": "table", "accuracy_table": accuracy_table, "finalist_epochs": 1, "finalist_seeds": 1,
        "baselines": False, "trials": 10, "out": tmp_path / "run",
    }  # fmt: skip


def study(path: Path | str, name: str = "co-search") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=study_storage(path))


@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - {"auto", "random"}))
def test_every_strategy_searches_the_space_and_the_part_of_it_that_is_a_baseline(table_run, strategy):
    result = cosearch.run(**{**table_run, "strategy": strategy, "baselines": True, "trials": 6})
    assert {"co-search", "conv-only", "random search"} <= {design.name for design in result.designs}


def test_a_run_that_is_extended_goes_on_with_the_strategy_that_auto_chose(table_run):
    """Of its 100 networks all would be evaluated: auto would now choose random."""
    run = cosearch.run(**table_run)
    cosearch.resume(run.path, trials=100)
    chosen = [line["why"] for line in read_log(Path(run.path)) if line.get("event") == "search"]
    assert len(chosen) == 2
    assert chosen[0] == chosen[1]
    assert chosen[0].startswith("bayesian: ")


def test_differentiable_starts_from_what_recipe_gumbel_has_learned(table_run, monkeypatch):
    asked = []
    relaxed = differentiable.Descent.__init__
    monkeypatch.setattr(
        differentiable.Descent,
        "__init__",
        lambda self, space, start=None: asked.append(start) or relaxed(self, space, start),
    )
    trained = {"accuracy": "supernet", "accuracy_table": None, "recipe": "gumbel", "supernet_epochs": 4, "trials": 4}
    cosearch.run(**{**table_run, **trained, "strategy": "differentiable", "baselines": True})
    assert len(asked) >= 2 * len(differentiable.LAMBDAS)  # of the search, and of conv-only
    for start in asked:
        assert set(start) == set(tiny_space.space().choices)
        assert any(logit for choices in start.values() for logit in choices.values())


@pytest.mark.parametrize(
    ("few", "said"),
    [
        (True, "supernet 1 epoch (progressive), 1 search of 1 evaluation, 1 finalist x 1 training of 1 epoch."),
        (
            False,
            "supernet 2 epochs (progressive), 3 searches of 100 evaluations, 3 finalists x 2 trainings of 4 epochs.",
        ),
    ],
)
def test_the_plan_says_how_much_will_be_done(options, few, said):
    small = {"baselines": False, "trials": 1, "supernet_epochs": 1, "finalist_epochs": 1, "finalist_seeds": 1}
    large = {"trials": 120, "supernet_epochs": 2, "finalist_epochs": 4, "finalist_seeds": 2, "baselines": True}
    problem = prepare(RunConfig.make({**options, **(small if few else large)}), Reporter(quiet=True))
    assert cosearch.engine._plan(problem).endswith(f" on ecp5-25f. Budget: {said}")


# -- what a run leaves behind --


def test_networks_are_evaluated_in_the_precision_of_the_run(monkeypatch):
    quiet = Reporter(quiet=True)
    problem = prepare(RunConfig.make({**SMALL, "precision": "bf16"}), quiet)
    recipe = recipes.of_run(problem.config, problem.space.network_space, "cpu")
    monkeypatch.setattr(source, "_trained_supernet", lambda *_: recipe)
    assert source.accuracy_source(Job(None, problem, quiet)).precision == "bf16"


def test_the_run_directory_holds_what_it_promises_and_no_pickle(finished):
    root = Path(finished.path)
    for name in (
        "config.yaml", "study.db", "log.jsonl", "supernet.safetensors", "front.csv", "result.json",
        "best/network.json", "best/accelerator.json", "best/mapping.json", "best/weights.safetensors",
        "best/workload.json", "best/model.onnx", "best/model_int8.onnx",
    ):  # fmt: skip
        assert (root / name).is_file(), name
    for file in root.rglob("*"):
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                assert all(arrays[name].dtype != object for name in arrays)
        elif file.is_file() and file.stat().st_size:
            head = file.read_bytes()[:2]
            assert head not in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK"), file
    lines = [json.loads(line) for line in (root / "log.jsonl").read_text().splitlines()]
    events = [line["event"] for line in lines]
    assert events[0] == "start"
    assert events[-1] == "finished"
    schema = json.loads((FOLDER / "log.schema.json").read_text())
    for line in lines:
        jsonschema.Draft202012Validator(schema).validate(line)
    for name in STUDIES:  # what a dashboard calls the objectives
        assert study(root, name).metric_names == ["accuracy", "latency_ms", "energy_mj"]
    for line in (root / "study.db").read_text().splitlines():
        json.loads(line)


def test_documents_load_as_what_they_say(finished, options):
    from safetensors.torch import load_file

    root = Path(finished.path)
    assert RunDirectory.open(root).config == RunConfig.make(
        {**options, "out": root, "recipe": "progressive"}
    )  # of auto
    network = json.loads((root / "best/network.json").read_text())
    assert (network["format"], network["space"], network["input_shape"]) == (
        "cosearch.network",
        tiny_space.NAME,
        [1, 8, 8],
    )
    assert network["arch"] == finished.finalist.arch
    space = tiny_space.space()
    workload = Workload.from_json((root / "best/workload.json").read_text())
    assert workload == space.workload(network["arch"])
    module = space.build(network["arch"])
    module.load_state_dict(load_file(root / "best/weights.safetensors"))
    accelerator = Accelerator.from_json(json.loads((root / "best/accelerator.json").read_text()))
    assert accelerator.name == finished.finalist.accelerator
    mapping = json.loads((root / "best/mapping.json").read_text())
    assert [row["layer"] for row in mapping["layers"]] == [layer.name for layer in workload.layers]


def test_the_weights_left_behind_reach_the_accuracy_that_is_reported(finished, options):
    import torch
    from safetensors.torch import load_file

    from cosearch.integer import integer_accuracy, to_integer
    from cosearch.supernet.training import accuracy

    dataset = load_dataset(options["data"], seed=0)
    module = tiny_space.space().build(finished.finalist.arch)
    module.load_state_dict(load_file(Path(finished.path) / "best/weights.safetensors"))
    module.eval()
    test = dataset.open_test()
    assert finished.finalist.test_images == len(test)
    assert accuracy(module, test) == finished.finalist.float_accuracies[0]
    integer = to_integer(module, torch.from_numpy(dataset.development().x))
    assert integer_accuracy(integer, test) == finished.finalist.integer_accuracies[0]


def test_the_exported_models_are_as_accurate_as_reported(finished, options):
    import onnxruntime

    dataset = load_dataset(options["data"], seed=0)
    test = dataset.open_test()
    reported = {"model": finished.finalist.float_accuracies[0], "model_int8": finished.finalist.integer_accuracies[0]}
    for name, accuracy in reported.items():
        session = onnxruntime.InferenceSession(Path(finished.path) / f"best/{name}.onnx")
        logits = session.run(None, {"images": test.x})[0]
        # integer kernels of the runtime round offsets: an image near the border may turn
        assert (logits.argmax(1) == test.y).mean() == pytest.approx(accuracy, abs=0.0 if name == "model" else 0.03)


def test_the_saved_accelerator_is_within_the_part_and_costs_what_is_reported(finished):
    from search_spaces import accelerators

    root = Path(finished.path)
    accelerator = Accelerator.from_json(json.loads((root / "best/accelerator.json").read_text()))
    assert accelerator.resources.fits(accelerators.find("ecp5-25f").budget)
    mapping = json.loads((root / "best/mapping.json").read_text())
    for metric in ("latency_ms", "energy_mj"):
        total = sum(row[metric] for row in mapping["layers"]) + mapping["host_transfer"][metric]
        assert total == pytest.approx(finished.finalist.costs[metric], rel=1e-9)
        assert mapping["total"][metric] == finished.finalist.costs[metric]


def test_every_row_of_the_front_is_within_the_budget(finished):
    from search_spaces import accelerators

    budget = accelerators.find("ecp5-25f").budget
    for name in ("lut", "ff", "dsp", "bram"):
        assert (finished.front[name] <= getattr(budget, name)).all()
    for design in finished.designs:
        assert all(design.costs[name] <= getattr(budget, name) for name in ("lut", "ff", "dsp", "bram") if design.costs)


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


def test_the_front_is_not_dominated_and_follows_from_the_recorded_trials(finished):
    points = np.stack([-finished.front.accuracy, finished.front.latency_ms, finished.front.energy_mj], 1)
    assert not any(dominates(a, b) for a in points for b in points)
    trials = study(finished.path).trials
    accuracy = {t.user_attrs["arch"]: t.values[0] for t in trials}
    for row in finished.front.itertuples():
        assert accuracy[row.arch] == row.accuracy
    # every recorded trial is on the front or dominated by it
    for trial in trials:
        point = np.array([-trial.values[0], *trial.values[1:]])
        assert any(dominates(p, point) or np.allclose(p, point, rtol=1e-12) for p in points)


def test_front_csv_reads_back_and_names_its_origin(finished):
    front = pd.read_csv(Path(finished.path) / "front.csv")
    assert set(front.accuracy_source) == {"supernet"}
    assert not {c for c in front.columns if "time" in c or "second" in c}
    assert list(front.accuracy) == sorted(front.accuracy, reverse=True)
    for text in front.arch:
        tiny_space.space().check(json.loads(text))


def test_trials_are_recorded_as_documented(finished):
    for name in STUDIES:
        recorded = study(finished.path, name)
        size = 100 if name != "conv-only" else 3 * 2 * 3
        assert len(recorded.trials) == min(24, size)
        assert recorded.metric_names == ["accuracy", "latency_ms", "energy_mj"]
        keys = [t.user_attrs["arch"] for t in recorded.trials]
        assert len(set(keys)) == len(keys)
        for trial in recorded.trials:
            assert trial.params == json.loads(trial.user_attrs["arch"])
            assert trial.user_attrs["accuracy_source"] == "supernet"
            assert json.loads(trial.user_attrs["accelerator"]).startswith("ecp5-25f")
            if name == "conv-only":
                assert all(v == "skip" or v.startswith("conv") for v in trial.params.values())


def test_designs_and_baselines(finished):
    names = [design.name for design in finished.designs]
    assert names[:3] == list(STUDIES)
    assert set(names[3:]) == {"conv-only @ default", "co-search @ default"}
    by_name = {design.name: design for design in finished.designs}
    assert finished.finalist.name == "co-search"
    assert all(len(d.integer_accuracies) == len(d.float_accuracies) == 2 for d in finished.designs)
    conv = by_name["conv-only"]
    assert all(v == "skip" or v.startswith("conv") for v in conv.arch.values())
    default = by_name["conv-only @ default"]
    assert default.integer_accuracies == conv.integer_accuracies
    # its own best accelerator cannot be worse in the product that chose it
    assert conv.latency_ms * conv.energy_mj <= default.latency_ms * default.energy_mj * (1 + 1e-9)
    assert any("sensitivity" in note for note in finished.notes)


def test_load_gives_the_result_again(finished):
    again = cosearch.load(finished.path)
    assert again.designs == finished.designs
    assert again.notes == finished.notes
    pd.testing.assert_frame_equal(again.front, finished.front)


def test_show_prints_the_tables_and_computes_nothing(finished, monkeypatch, capsys):
    def forbidden(*_):
        raise AssertionError("show must not compute")

    for name in ("cosearch.engine.prepare", "cosearch.costs.cost_tensor", "cosearch.problem.load_dataset"):
        monkeypatch.setattr(name, forbidden)
    before = contents(Path(finished.path))
    assert command(monkeypatch, "show", finished.path) == 0
    out = capsys.readouterr().out
    for word in ("Pareto front", "Recommended finalist", "What co-search bought", "random search", "sensitivity"):
        assert word in out
    assert contents(Path(finished.path)) == before


def contents(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


REPRODUCIBLE = ("front.csv", "best/network.json", "best/accelerator.json", "best/mapping.json")


def same(a: Path | str, b: Path | str, names=REPRODUCIBLE) -> None:
    for name in names:
        assert (Path(a) / name).read_bytes() == (Path(b) / name).read_bytes(), name


# -- the same seed, interruption, extension --


def test_a_run_killed_in_every_phase_ends_as_one_that_was_not(finished, options, tmp_path):
    """Also the same seed twice: equal files, trials, weights and designs."""
    out = tmp_path / "killed"
    rng = np.random.default_rng(11)
    moments = [
        killing.Moment("supernet", int(rng.integers(2, 12))),
        killing.Moment("search", int(rng.integers(4, 30))),
        killing.Moment("search", int(rng.integers(4, 30))),
        killing.Moment("finalists", int(rng.integers(1, 4))),
        killing.Moment("comparing", seconds=float(rng.uniform(0, 0.5))),
    ]
    for moment in moments:
        assert killing.struck(killing.begin_or_resume(out, options), out, moment) == moment.phase
        killing.require_intact(out)
    cosearch.resume(out)
    killing.require_same(out, Path(finished.path))
    assert cosearch.load(out).designs == finished.designs


def test_killed_exports_and_reports_leave_the_run_as_it_was(finished, tmp_path):
    run, exported = tmp_path / "run", tmp_path / "exported"
    shutil.copytree(finished.path, run)
    (run / "report.json").unlink()  # it is found again, and then the page is made
    before = contents(run)
    jobs = {"report": (run, ("report", str(run))), "export": (exported, ("export", str(run), "--to", str(exported)))}
    for folder, arguments in jobs.values():
        assert killing.struck(killing.command(*arguments, "--quiet"), folder, killing.Moment("preparing", 1))
        killing.require_intact(run)
        killing.require_intact(exported)
        assert {name for name, content in before.items() if contents(run)[name] != content} <= {"report.html"}
    (exported / ".network.json.0123abcd.partial").write_bytes(b"{")  # as a kill in the middle of a file leaves it
    cosearch.export_design(run, exported)
    assert contents(exported) == contents(run / "best")


def test_extending_a_run_equals_asking_for_more_at_once(table_run, tmp_path, monkeypatch):
    cosearch.run(**{**table_run, "trials": 30, "out": tmp_path / "long"})
    cosearch.run(**{**table_run, "trials": 7})
    first = [t.params for t in study(table_run["out"]).trials]
    assert command(monkeypatch, "resume", str(table_run["out"]), "--trials", "+23", "--quiet") == 0
    assert [t.params for t in study(table_run["out"]).trials][:7] == first
    assert len(study(table_run["out"]).trials) == 30
    assert RunDirectory.open(table_run["out"]).config.trials == 30
    same(table_run["out"], tmp_path / "long")


def test_resuming_a_finished_run_changes_nothing(finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished.path, copy)
    before = contents(copy)
    cosearch.resume(copy)
    after = contents(copy)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed <= {"log.jsonl", "study.db", "config.yaml", "report.html"}  # the report shows what the log says
    assert len(study(copy).trials) == 24


def test_another_seed_gives_another_search(finished, table_run, tmp_path):
    cosearch.run(**table_run)
    cosearch.run(**{**table_run, "seed": 1, "out": tmp_path / "other"})
    assert [t.params for t in study(table_run["out"]).trials] != [t.params for t in study(tmp_path / "other").trials]


def test_a_run_in_use_is_refused(finished, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(finished.path, copy)
    hold = (
        "import sys, pathlib; from cosearch.runs import RunDirectory\n"
        "with RunDirectory.open(pathlib.Path(sys.argv[1])).locked():\n print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(copy)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        before = contents(copy)
        assert command(monkeypatch, "resume", str(copy), "--trials", "+5", "--quiet") == 2
        assert "in use by another process" in one_line(capsys)
        assert contents(copy) == before
        process.stdin.close()
    cosearch.resume(copy)


def test_minutes_stop_a_run_that_can_be_resumed(table_run, tmp_path):
    with pytest.raises(CosearchError, match="cosearch resume"):
        cosearch.run(**{**table_run, "trials": 60, "minutes": 1e-6})
    assert 0 < len(study(table_run["out"]).trials) < 60
    cosearch.resume(table_run["out"])
    cosearch.run(**{**table_run, "trials": 60, "out": tmp_path / "whole"})
    same(table_run["out"], tmp_path / "whole")


# -- the other roads to accuracy and cost --


def test_table_accuracies_are_the_tables(table_run, accuracy_table):
    result = cosearch.run(**table_run)
    table = pd.read_csv(accuracy_table).set_index("arch").accuracy
    for row in result.front.itertuples():
        assert table[row.arch] == row.accuracy
    assert set(result.front.accuracy_source) == {"table"}
    assert [d.name for d in result.designs] == ["co-search"]
    assert not (table_run["out"] / "supernet.safetensors").exists()


def test_an_exhausted_space_gives_the_true_front(table_run, accuracy_table):
    """All 100 networks: the front must be that of a brute force over networks and their hardware fronts."""
    result = cosearch.run(**{**table_run, "trials": 1000})
    assert len(study(table_run["out"]).trials) == 100
    everything = {t.user_attrs["arch"] for t in study(table_run["out"]).trials}
    assert everything == set(pd.read_csv(accuracy_table).arch)
    assert result.front.accuracy.max() == pd.read_csv(accuracy_table).accuracy.max()


def test_predicted_accuracies(table_run, accuracy_table, tmp_path):
    half = tmp_path / "half.csv"
    pd.read_csv(accuracy_table).sample(50, random_state=0).to_csv(half, index=False)
    result = cosearch.run(**{**table_run, "accuracy": "predictor", "accuracy_table": half})
    truth = pd.read_csv(accuracy_table).set_index("arch").accuracy
    # the table is nearly additive in the decisions, so that a prediction is near the truth
    assert all(abs(truth[row.arch] - row.accuracy) < 0.05 for row in result.front.itertuples())


def test_accuracy_by_training(table_run):
    result = cosearch.run(**{**table_run, "accuracy": "train", "accuracy_table": None, "trials": 2})
    assert set(result.front.accuracy_source) == {"train"}
    assert (result.front.accuracy > 0).all()


@pytest.mark.parametrize("energy", [True, False])
def test_a_measured_device_has_no_accelerator(table_run, accuracy_table, tmp_path, monkeypatch, capsys, energy):
    table = pd.read_csv(accuracy_table).sample(60, random_state=1)
    macs = [tiny_space.space().workload(json.loads(a)).macs for a in table.arch]
    measured = pd.DataFrame({"arch": table.arch, "latency_ms": np.array(macs) * 1e-6})
    if energy:
        measured["energy_mj"] = measured.latency_ms * 3
    measured.to_csv(tmp_path / "phone.csv", index=False)
    result = cosearch.run(**{**table_run, "device": str(tmp_path / "phone.csv"), "quiet": False})
    assert "no accelerator to search" in " ".join(capsys.readouterr().err.split())
    assert not (table_run["out"] / "best/accelerator.json").exists()
    assert ("energy_mj" in result.front) == energy
    for row in result.front.itertuples():
        assert row.latency_ms == pytest.approx(tiny_space.space().workload(json.loads(row.arch)).macs * 1e-6, rel=0.3)
    metrics = ("latency_ms", "energy_mj") if energy else ("latency_ms",)
    for name in metrics:
        low, high = result.finalist.cost_intervals[name]
        assert low < result.finalist.costs[name] < high
        assert (result.front[f"{name}_low"] < result.front[name]).all()
        assert (result.front[name] < result.front[f"{name}_high"]).all()
    capsys.readouterr()
    assert command(monkeypatch, "show", str(table_run["out"])) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "with 90% intervals" in said
    low, high = (f"{bound:.4g}" for bound in result.finalist.cost_intervals["latency_ms"])
    assert said.count(f"[{low} to {high}]") >= 2  # in the front, and of the finalist
    assert command(monkeypatch, "show", str(table_run["out"]), "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert tuple(shown["designs"][0]["cost_intervals"]["latency_ms"]) == result.finalist.cost_intervals["latency_ms"]
    assert load_run(table_run["out"]).designs == result.designs
    cosearch.resume(table_run["out"], trials=12, quiet=True)


def test_what_no_measurement_is_like_is_said(table_run, accuracy_table, tmp_path, monkeypatch, capsys):
    """The board was measured without shifts; accuracies are best with them."""
    table = pd.read_csv(accuracy_table)
    shifts = table.arch.str.contains("shift")
    table.accuracy = np.where(shifts, 0.9, 0.5)
    table.to_csv(tmp_path / "accuracies.csv", index=False)
    seen = table[~shifts].arch
    macs = [tiny_space.space().workload(json.loads(a)).macs for a in seen]
    pd.DataFrame({"arch": seen, "latency_ms": np.array(macs) * 1e-6}).to_csv(tmp_path / "board.csv", index=False)
    options = {"device": str(tmp_path / "board.csv"), "accuracy_table": tmp_path / "accuracies.csv", "trials": 60}
    result = cosearch.run(**{**table_run, **options})
    assert result.finalist.unlike_measured
    assert any("no measured network is like that of co-search" in note for note in result.notes)
    for row in result.front.itertuples():
        assert row.unlike_measured or "shift" not in row.arch
    capsys.readouterr()
    assert command(monkeypatch, "show", str(table_run["out"])) == 0
    assert "like measured" in capsys.readouterr().out


def test_few_measurements_give_no_intervals_and_say_so(table_run, accuracy_table, tmp_path, capsys):
    table = pd.read_csv(accuracy_table).sample(8, random_state=1)
    noise = pd.DataFrame({"arch": table.arch, "latency_ms": [3.0, 1, 2, 5, 1, 4, 2, 3]})
    noise.to_csv(tmp_path / "n.csv", index=False)
    cosearch.run(**{**table_run, "device": str(tmp_path / "n.csv"), "out": tmp_path / "n", "quiet": False})
    assert "latency_ms are no better than guessing the mean" in " ".join(capsys.readouterr().err.split())
    macs = [tiny_space.space().workload(json.loads(a)).macs for a in table.arch]
    pd.DataFrame({"arch": table.arch, "latency_ms": np.array(macs) * 1e-6}).to_csv(tmp_path / "b.csv", index=False)
    result = cosearch.run(**{**table_run, "device": str(tmp_path / "b.csv")})
    assert not result.finalist.cost_intervals
    assert "too few for 90% intervals" in result.costs_are


def test_constraints_hold_for_every_row(table_run):
    free = cosearch.run(**{**table_run, "trials": 40, "out": table_run["out"].with_name("free")})
    limit = float(free.front.latency_ms.median())
    result = cosearch.run(**{**table_run, "trials": 40, "max_latency_ms": limit})
    assert (result.front.latency_ms <= limit).all()
    assert result.finalist.latency_ms <= limit


def test_limits_that_few_networks_meet_do_not_end_a_run(table_run):
    """Fewer admissible networks than trials, and none of them all-conv: searched to exhaustion, baseline left out."""
    free = cosearch.run(**{**table_run, "trials": 100, "out": table_run["out"].with_name("free")})
    limit = float(free.front.energy_mj.min()) * 1.0001
    result = cosearch.run(**{**table_run, "trials": 100, "max_energy_mj": limit, "baselines": True})
    assert (result.front.energy_mj <= limit).all()
    assert 0 < len(study(table_run["out"]).trials) < 100


@pytest.mark.parametrize(
    "objectives", ["accuracy,edp", "energy_mj", "accuracy,lut,dsp", "accuracy,params,macs", "accuracy,throughput_fps"]
)
def test_other_objectives(table_run, objectives):
    result = cosearch.run(**{**table_run, "objectives": objectives})
    names = objectives.split(",")
    points = np.stack([result.front[n] * (-1 if n in ("accuracy", "throughput_fps") else 1) for n in names], 1)
    assert not any(dominates(a, b) for a in points for b in points)


def test_an_evaluation_that_fails_is_recorded_and_the_search_goes_on(table_run, monkeypatch):
    from cosearch import accuracy

    known = accuracy.TableAccuracy.__call__

    def sometimes(self, arch):
        if arch["layer1"] == "add_k3_e1":
            raise CosearchError("the loss became nan")
        return float("nan") if arch["layer2"] == "add_k3_e1" else known(self, arch)

    monkeypatch.setattr(accuracy.TableAccuracy, "__call__", sometimes)
    result = cosearch.run(**{**table_run, "trials": 30})
    states = [t.state.name for t in study(table_run["out"]).trials]
    assert len(states) == 30
    assert "FAIL" in states
    assert "COMPLETE" in states
    assert not any('layer1": "add' in a or 'layer2": "add' in a for a in result.front.arch)


# -- bad input: exit status 2, one line, nothing written --


def command(monkeypatch, *arguments: str) -> int:
    """Exit status of the command line."""
    monkeypatch.setattr(sys, "argv", ["cosearch", *arguments])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def one_line(capsys) -> str:
    """What was printed on stderr, which must be one line and no traceback."""
    err = capsys.readouterr().err.strip()
    assert err.startswith("cosearch: ")
    assert "\n" not in err
    assert "Traceback" not in err
    return err


BAD = [
    (["--space", "shiftad"], "did you mean 'shiftadd'"),
    (["--space", "no_module:space"], "no module"),
    (["--space", ":space"], "no module"),
    (["--device", "zcu1022"], "did you mean 'zcu102'"),
    (["--device", "absent.json"], "absent.json"),
    (["--device", "absent.csv"], "absent.csv"),
    (["--objectives", "accuracy,latency"], "did you mean 'latency_ms'"),
    (["--objectives", "accuracy,accuracy"], "each may be given once"),
    (["--objectives", ""], "no objectives"),
    (["--objectives", "accuracy,area_mm2"], "area of ecp5-25f is unknown"),
    (["--data", "digit"], "did you mean 'digits'"),
    (["--data", "absent.npz"], "check the path"),
    (["--strategy", "evolution"], "did you mean 'evolutionary'"),
    (["--max-latency-ms", "1e-9"], "the least that tiny reaches on ecp5-25f is"),
    (["--max-energy-mj", "1e-9"], "the least that tiny reaches on ecp5-25f is"),
    (["--max-area-mm2", "1"], "area of ecp5-25f is unknown"),
    (["--trails", "5"], "No such option: --trails"),
    (["--trials", "many"], "valid integer"),
    (["--accuracy", "predictor"], "needs --accuracy-table"),
    (["--accuracy", "table", "--accuracy-table", "absent.csv"], "check the path"),
    (["--accuracy-table", "absent.csv"], "--accuracy table or predictor"),
    (["--accuracy", "oracle"], "accuracy"),
    (["--trials", "0"], "trials"),
    (["--distil", "--accuracy", "train"], "--distil needs a supernet, and --accuracy train trains none"),
    (["--finalist-start", "supernet", "--accuracy", "train"], "--finalist-start supernet needs a supernet"),
    (["--space", "tests.tiny_space:without_choices"], r"decision 'layer2' has choices \(\): expected at least one"),
    (["--space", "tests.tiny_space:without_valid_choices"], "layer2 cannot be skipped: .*; give it a block"),
    (["--guided"], "--guided needs a limit on hardware to follow, such as --max-latency-ms"),
    (["--guided", "--min-accuracy", "0.5"], "--guided needs a limit on hardware to follow"),
    (["--guided", "--max-latency-ms", "1", "--accuracy", "train"], "--guided needs a supernet"),
    (["--guided", "--max-latency-ms", "1", "--recipe", "fair"], "--guided: --recipe fair runs every choice equally"),
    (["--recipe", "sandwhich"], "did you mean 'sandwich'"),
    (["--finalist-epochs", "2", "--finalist-simulated-epochs", "3"], "expected at most the 2 epochs"),
    (["--config", "absent.yaml"], "check the path"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input(monkeypatch, tmp_path, capsys, options, arguments, words):
    import re

    monkeypatch.chdir(tmp_path)
    base = ["run", "--quiet", "--space", tiny_space.NAME, "--device", "ecp5-25f", "--data", options["data"]]
    assert command(monkeypatch, *base, *arguments) == 2
    assert re.search(words, one_line(capsys))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("arch,accuracy\n", "no rows"),
        ("arch,latency_ms\nlayer1=skip,3\n", "expected arch,accuracy"),
        ("arch,accuracy\nlayer1=conv_k3_e1;layer2=conv_k3_e1,0.5\n", "line 2: decision 'layer3' is missing"),
        ("arch,accuracy\nlayer1=conv_k3_e1;layer2=conv_k3_e1;layer3=skip,0.5\n", "1 of the 100 networks"),
        ("arch,accuracy\nlayer1=conv_k3_e1;layer2=conv_k3_e1;layer3=skip,50\n", "not percent"),
        ("arch,accuracy\nlayer1=conv_k3_e1;layer2=conv_k3_e1;layer3=skip,high\n", "line 2: accuracy is 'high'"),
    ],
)
def test_bad_accuracy_tables_are_found_before_anything_is_written(monkeypatch, tmp_path, capsys, options, table, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").write_text(table)
    base = ["run", "--quiet", "--space", tiny_space.NAME, "--device", "ecp5-25f", "--data", options["data"]]
    assert command(monkeypatch, *base, "--accuracy", "table", "--accuracy-table", "table.csv") == 2
    assert words in one_line(capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["add_k3_e1,3"] * 3 + ["add_k3_e1,0"], "board.csv, line 5: latency_ms is 0, expected a number of more than 0"),
        (["add_k3_e1,3", "add_k3_e1,-2"], "board.csv, line 3: latency_ms is '-2', expected a number of at least 0"),
        (["add_k3_e1,1e300"], "board.csv, line 2: latency_ms is 1e+300, expected a number of at most 1e+100"),
        (["add_k3_e1,3", "", "add_k3_e1,0"], "board.csv, line 4: latency_ms is 0"),
        (["add_k3_e1,3", "conv_k3_e1,4"], "board.csv, latency_ms: 2 distinct networks: a predictor needs at least 5"),
    ],
)
def test_bad_measurements_name_the_file_and_line(monkeypatch, tmp_path, capsys, options, lines, words):
    monkeypatch.chdir(tmp_path)
    rows = [f"layer1=conv_k3_e1;layer3=skip;layer2={line}" if line else "" for line in lines]
    (tmp_path / "board.csv").write_text("\n".join(["arch,latency_ms", *rows]))
    base = ["run", "--quiet", "--space", tiny_space.NAME, "--data", options["data"], "--device", "board.csv"]
    assert command(monkeypatch, *base) == 2
    assert words in one_line(capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["board.csv"]


def test_an_unknown_key_in_yaml(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("trails: 5\n")
    assert command(monkeypatch, "run", "--config", "run.yaml") == 2
    assert "did you mean 'trials'" in one_line(capsys)


def test_a_directory_that_exists_is_not_touched(monkeypatch, capsys, options, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("two years")
    assert command(monkeypatch, "run", "--quiet", "--data", options["data"], "--out", str(tmp_path / "mine")) == 2
    assert "exists: choose another --out" in one_line(capsys)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_an_out_below_a_file_cannot_be_made(monkeypatch, capsys, options, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = [f"--{k.replace('_', '-')}={v}" for k, v in options.items() if k != "quiet"]
    assert command(monkeypatch, "run", "--quiet", *arguments, "--out", str(tmp_path / "file" / "run")) == 2
    assert "cannot make the run directory" in one_line(capsys)


def test_resume_and_show_of_what_is_no_finished_run(monkeypatch, capsys, tmp_path, finished):
    for verb in ("resume", "show"):
        assert command(monkeypatch, verb, str(tmp_path)) == 2
        assert "is not a run directory" in one_line(capsys)
    shutil.copytree(finished.path, tmp_path / "copy")
    for trials, words in (("5", "has 24 already"), ("more", "expected a number"), ("-3", "has 24 already")):
        assert command(monkeypatch, "resume", str(tmp_path / "copy"), f"--trials={trials}") == 2
        assert words in one_line(capsys)
    (tmp_path / "copy" / "result.json").unlink()
    assert command(monkeypatch, "show", str(tmp_path / "copy")) == 2
    assert "finish the run with: cosearch resume" in one_line(capsys)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("result.json", "{", "damaged"),
        ("result.json", "[]", "damaged"),
        ("front.csv", "", "damaged|missing"),
        ("config.yaml", "trails: 3", "did you mean 'trials'"),
    ],
)
def test_show_of_a_damaged_run(monkeypatch, capsys, tmp_path, finished, name, content, words):
    import re

    shutil.copytree(finished.path, tmp_path / "copy")
    (tmp_path / "copy" / name).write_text(content)
    assert command(monkeypatch, "show", str(tmp_path / "copy")) == 2
    assert re.search(words, one_line(capsys))


@pytest.mark.parametrize(("name", "at"), [("supernet.safetensors", 100), ("study.db", 100), ("study.db", 5000)])
def test_resume_of_a_damaged_run(monkeypatch, capsys, tmp_path, finished, name, at):
    shutil.copytree(finished.path, tmp_path / "copy")
    file = tmp_path / "copy" / name
    content = file.read_bytes()
    file.write_bytes(content[:at] if name != "study.db" else content[:at] + b"\xff{" + content[at + 2 :])
    assert command(monkeypatch, "resume", "--quiet", str(tmp_path / "copy")) == 2
    assert "damaged" in one_line(capsys)


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_a_study_that_was_cut_off_goes_on_from_its_last_whole_line(tmp_path, finished, share):
    """As a full disk or a power failure may leave it."""
    shutil.copytree(finished.path, tmp_path / "copy")
    file = tmp_path / "copy/study.db"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))].rstrip(b"\n"))
    cosearch.resume(tmp_path / "copy")
    killing.require_same(tmp_path / "copy", Path(finished.path))


def test_a_run_with_a_study_of_sqlite_is_read_and_not_continued(tmp_path, finished, monkeypatch, capsys):
    """As runs were before."""
    shutil.copytree(finished.path, tmp_path / "copy")
    file = tmp_path / "copy/study.db"
    file.unlink()
    for name in STUDIES:
        optuna.copy_study(
            from_study_name=name, from_storage=study_storage(finished.path), to_storage=f"sqlite:///{file}"
        )
    before = contents(tmp_path / "copy")
    assert command(monkeypatch, "resume", "--quiet", "--trials", "+5", str(tmp_path / "copy")) == 2
    assert "is a database of SQLite, as runs had before: start a new run" in one_line(capsys)
    assert contents(tmp_path / "copy") == before
    assert command(monkeypatch, "report", "--quiet", str(tmp_path / "copy")) == 0
    cosearch.export_design(tmp_path / "copy", tmp_path / "out", trial=0, what="network")
    assert (tmp_path / "out/network.json").is_file()
    assert file.read_bytes() == before["study.db"]


def test_a_trial_that_does_not_fit_on_the_disk_leaves_no_half_line(tmp_path, finished, monkeypatch):
    from optuna.storages.journal import JournalFileBackend

    shutil.copytree(finished.path, tmp_path / "copy")
    file = tmp_path / "copy/study.db"
    before = file.read_bytes()

    def full(self, logs):
        with file.open("ab") as journal:
            journal.write(b'{"op_code":4,"half')
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JournalFileBackend, "append_logs", full)
    with pytest.raises(RunError, match=r"cannot write .*study.db \(No space left on device\): what was there is unhar"):
        cosearch.resume(tmp_path / "copy", trials=30)
    assert file.read_bytes() == before


def test_lists(monkeypatch, capsys):
    assert command(monkeypatch, "spaces") == 0
    assert "shiftadd" in capsys.readouterr().out
    assert command(monkeypatch, "devices") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("ecp5-85f", "zcu102", "fpga"))


def test_python_errors_are_the_same(options):
    with pytest.raises(ConfigError, match="did you mean 'trials'"):
        cosearch.run(trails=3)
    with pytest.raises(RunError, match="not a run directory"):
        cosearch.load("/")


def test_the_finalist_can_be_used_without_its_data(finished, options):
    from cosearch.data import load_dataset

    network = cosearch.load_network(finished.path)
    dataset = load_dataset(options["data"])
    raw = np.load(options["data"])
    shown = dataset.open_test()
    mean, std = np.array(network.mean).reshape(1, -1, 1, 1), np.array(network.std).reshape(1, -1, 1, 1)
    images = shown.x * (std + 1e-6) + mean
    assert images.min() >= raw["x"].min() - 1e-4
    said = network(images.astype(np.float32))
    right = np.mean([dataset.classes.index(name) == label for name, label in zip(said, shown.y, strict=True)])
    assert right == pytest.approx(finished.finalist.integer_accuracies[0], abs=1.5 / len(shown))


def test_resume_refuses_other_data(monkeypatch, capsys, table_run, tmp_path):
    data = tmp_path / "mine.npz"
    shutil.copy(table_run["data"], data)
    result = cosearch.run(**{**table_run, "data": str(data), "out": tmp_path / "run"})
    arrays = dict(np.load(data))
    arrays["x"] = arrays["x"][::-1].copy()
    np.savez(data, **arrays)
    assert command(monkeypatch, "resume", result.path) == 2
    assert "data changed since this run was started" in one_line(capsys)


def test_a_run_can_be_resumed_from_another_folder(table_run, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(table_run["data"]).parent)
    result = cosearch.run(**{**table_run, "data": Path(table_run["data"]).name, "out": tmp_path / "run"})
    monkeypatch.chdir("/")
    assert cosearch.resume(result.path).front.equals(result.front)


def test_a_device_without_some_engines_is_searched_with_the_others(options, tmp_path, capsys):
    small = {**options, "device": "nvdla", "trials": 3, "supernet_epochs": 1, "finalist_epochs": 1, "finalist_seeds": 1}
    result = cosearch.run(**{**small, "quiet": False, "out": tmp_path / "run"})
    assert "no engine for shift, add" in capsys.readouterr().err
    assert all(choice == "skip" or choice.startswith("conv") for choice in result.finalist.arch.values())
    assert "area_mm2" in result.front
    assert [design.name for design in result.designs] == ["co-search", "random search"]


def test_the_front_is_of_what_reaches_the_minimum_accuracy(table_run, tmp_path):
    options = {**table_run, "objectives": ("latency_ms",), "trials": 20}
    free = cosearch.run(**options)
    accuracies = sorted(trial.user_attrs["accuracy"] for trial in study(free.path).trials)
    needed = accuracies[-4]
    assert free.front["accuracy"].max() < needed  # the fastest network is none of the four most accurate
    for limit in ({"min_accuracy": needed}, {"constraint": (f"accuracy>={needed}",)}):
        found = cosearch.run(**{**options, **limit, "out": tmp_path / "-".join(limit)})
        enough = [t for t in study(found.path).trials if t.user_attrs["accuracy"] >= needed]
        assert found.front["accuracy"].min() >= needed
        assert found.front["latency_ms"].tolist() == [min(trial.values[0] for trial in enough)]
        assert found.finalist.costs["latency_ms"] == found.front["latency_ms"][0]


def test_the_knee_of_the_front_is_recommended_if_it_is_asked_for(table_run, tmp_path):
    options = {**table_run, "objectives": ("accuracy", "latency_ms"), "trials": 30}
    result = cosearch.run(**options, recommend="knee")
    assert result.finalist.arch != cosearch.run(**{**options, "out": tmp_path / "other"}).finalist.arch
    points = np.column_stack([-result.front["accuracy"], result.front["latency_ms"]])
    low, high = points.min(0), points.max(0)
    row = int(np.argmin(((points - low) / (high - low)).sum(1)))
    assert 0 < row < len(points) - 1
    assert result.finalist.arch == json.loads(result.front["arch"][row])
    assert result.finalist.costs["latency_ms"] == result.front["latency_ms"][row]
    assert (
        "The finalist is the knee of the front of accuracy, latency" in (Path(result.path) / "report.html").read_text()
    )


def test_a_minimum_accuracy_that_is_missed_is_said(table_run, tmp_path):
    result = cosearch.run(**{**table_run, "min_accuracy": 0.9999, "out": tmp_path / "run"})
    best = max(trial.user_attrs["accuracy"] for trial in study(result.path).trials)
    assert result.notes[0] == f"NO design reaches --min-accuracy 0.9999 in the search; the best has {best:.4f}"
    assert len(result.front) > 1  # all that was found is shown then


# -- accelerators that are searched with the networks --


@pytest.fixture
def joint_run(table_run) -> dict:
    return {
        **table_run,
        "device": tiny_device.NAME,
        "strategy": "evolutionary",
        "trials": 6,
        "batch": 3,
        "baselines": True,
    }


def test_accelerators_of_ones_own_are_searched_with_the_networks(joint_run, monkeypatch, capsys, tmp_path):
    asked = []
    once = evaluators.evaluate
    monkeypatch.setattr(evaluators, "evaluate", lambda accuracy, arch: (asked.append(arch), once(accuracy, arch))[1])
    result = cosearch.run(**{**joint_run, "quiet": False})
    assert "searched together with the networks" in " ".join(capsys.readouterr().err.split())
    for name in STUDIES:
        archs = [json.loads(trial.user_attrs["arch"]) for trial in study(result.path, name).trials]
        assert len({network_key(arch) for arch in archs}) == 6
        assert len({arch_key(arch) for arch in archs}) == len(archs) == 6 * TURNS
    # the evaluations of all searches; of the accelerators an evaluation knows nothing
    assert len(asked) == 18
    assert all(name in tiny_space.space().choices for arch in asked for name in arch)
    space = tiny_space.space()
    for row in result.front.itertuples():
        network, chosen = split(json.loads(row.arch))
        accelerator, workload = tiny_device.build(chosen), space.workload(network)
        assert row.accelerator == accelerator.name
        assert row.lut == accelerator.resources.lut <= 43_848
        counts = workload.shape_counts()
        priced = accelerator_tensor(tuple(counts), accelerator).hardware_front(
            list(counts.values()), workload.live_activation_bytes, host_bytes=host_bytes(workload)
        )
        assert (row.latency_ms, row.energy_mj) in list(zip(priced.latency_ms, priced.energy_mj, strict=True))
    assert "not exhaustively" in result.costs_are
    assert split(result.finalist.arch)[1].keys() == tiny_device.CHOICES.keys()
    best = cosearch.load(Path(result.path) / "best")
    network = json.loads((Path(result.path) / "best" / "network.json").read_text())
    assert network["arch"] == split(result.finalist.arch)[0]
    assert best.accelerator.name == result.finalist.accelerator
    assert best.cost().latency_ms == pytest.approx(result.finalist.latency_ms)
    assert command(monkeypatch, "show", str(result.path)) == 0
    assert "rows " in capsys.readouterr().out
    assert "too many to tabulate" in (Path(result.path) / "report.html").read_text()
    to, which = tmp_path / "exported", ("--trial", "9", "--what", "accelerator")
    assert command(monkeypatch, "export", str(result.path), *which, "--to", str(to)) == 0
    assert study(result.path).trials[9].user_attrs["accelerator"] in (to / "accelerator.json").read_text()


@pytest.mark.parametrize("told", [2, 11, 21])
def test_a_joint_search_that_was_interrupted_ends_as_one_that_was_not(joint_run, monkeypatch, tmp_path, told):
    joint_run = {**joint_run, "baselines": False, "trials": 4}  # which ends within a batch
    cosearch.run(**{**joint_run, "out": tmp_path / "whole"})
    add, counted = TrialLog.add, itertools.count(1)

    def interrupted(log, *arguments):
        add(log, *arguments)
        if next(counted) == told:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrialLog, "add", interrupted)
        with pytest.raises(StoppedError):
            cosearch.run(**joint_run)
    assert len(study(joint_run["out"]).trials) == told
    cosearch.resume(joint_run["out"])
    same(joint_run["out"], tmp_path / "whole")
    whole, resumed = ([t.params for t in study(path).trials] for path in (tmp_path / "whole", joint_run["out"]))
    assert whole == resumed
    cosearch.resume(joint_run["out"], trials=6)
    cosearch.run(**{**joint_run, "trials": 6, "out": tmp_path / "long"})
    same(joint_run["out"], tmp_path / "long")
    assert len(study(tmp_path / "long").trials) == 6 * TURNS


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"device": "tests.tiny_device:FIXED"}, "expected a function without arguments"),
        ({"device": "tests.tiny_device:nothing"}, "made a dict, which is no accelerator space"),
        ({"device": "tests.tiny_device:nothing_fits"}, "does not fit: "),
        (
            {"constraint": ("latency_ms<=1e-9", "lut<=9e4")},
            "within --max-latency-ms 1e-09, --constraint 'lut<=90000' to",
        ),
        ({"objectives": ("accuracy", "area_mm2")}, "the area of arrays's accelerators is unknown"),
        ({"guided": True, "max_latency_ms": 1.0}, "--guided needs accelerators that can be tabulated"),
        ({"strategy": "differentiable"}, "--strategy differentiable needs accelerators that can be tabulated"),
    ],
)
def test_what_cannot_be_searched_jointly_says_so_before_anything_is_written(joint_run, given, words):
    with pytest.raises(CosearchError, match=re.escape(words)):
        cosearch.run(**{**joint_run, **given})
    assert not joint_run["out"].exists()


def test_a_template_of_too_many_accelerators_is_searched_jointly():
    few = asic.space("gemmini")
    many = asic.space("gemmini", choices={name: tuple(range(1, 65)) for name in few.choices})
    assert can_be_tabulated(few, 100)
    assert not can_be_tabulated(few, 1_000_000)
    assert not can_be_tabulated(many, 1)
    assert not can_be_tabulated(tiny_device.arrays(), 1)
    joint = joined(tiny_space.space().restricted("conv"), many)
    [front] = JointCosts(joint, Objectives()).fronts([joint.largest()])
    assert len(front) == 0  # rows and memories of one
    assert "layer" in front.reason


# -- a bundled table --


def test_a_bundled_table_gives_accuracies_without_training(tmp_path, monkeypatch, capsys):
    import hwbench_data
    from hwbench_data.analog import installed
    from search_spaces.networks import nasbench201

    if not installed():
        pytest.skip("the accuracies come from the package analog-nasbench, which is not installed")
    out = tmp_path / "run"
    how = ("--accuracy", "table", "--strategy", "evolutionary", "--trials", "25")
    options = ("--space", "nasbench201", "--device", "fpga", *how)
    assert command(monkeypatch, "run", *options, "--quiet", "--out", str(out)) == 0
    assert command(monkeypatch, "show", str(out)) == 0
    assert "accuracy, from the table" in capsys.readouterr().out
    result = cosearch.load(out)
    table = hwbench_data.load("nasbench201")
    for row in result.front.itertuples():
        assert row.accuracy == table.accuracies([nasbench201.index_of(json.loads(row.arch))])[0]
    assert result.finalist.accuracy == result.finalist.search_accuracy
    assert not (out / "finalists").exists()
    assert {path.name for path in (out / "best").iterdir()} == {
        "network.json", "workload.json", "accelerator.json", "mapping.json",
    }  # fmt: skip
    with pytest.raises(RunError, match="trained no network"):
        load_network(out)
    cosearch.resume(out, trials=30, quiet=True)
    assert len(study(out).trials) == 30


def test_a_space_without_a_bundled_table_says_which_have_one(options, tmp_path):
    with pytest.raises(ConfigError, match="no bundled table of tiny, only of"):
        cosearch.run(**{**options, "accuracy": "table", "out": tmp_path / "none"})
    assert not (tmp_path / "none").exists()


# -- export --


def test_the_finalist_exports_as_the_run_left_it(finished, tmp_path, monkeypatch, capsys):
    assert command(monkeypatch, "export", finished.path, "--to", str(tmp_path / "out")) == 0
    best = Path(finished.path) / "best"
    written = {Path(line).name for line in capsys.readouterr().out.split()}
    assert written == {path.name for path in best.iterdir()}
    for name in written:
        assert (tmp_path / "out" / name).read_bytes() == (best / name).read_bytes(), name


def test_integers_for_hardware_are_the_integer_network(finished):
    from cosearch.integer import from_tensors

    stored = RunDirectory.open(Path(finished.path)).load_tensors("best/integer.safetensors")
    assert stored is not None
    arrays = np.load(Path(finished.path) / "best/integers.npz", allow_pickle=False)
    steps = json.loads(str(arrays["network"]))["steps"]
    assert [step["name"] for step in steps] == [step.name for step in from_tensors(*stored).steps]
    for name, tensor in stored[0].items():
        layer = name.removesuffix(".weight")
        if f"{layer}.sign" in arrays:
            restored = arrays[f"{layer}.sign"].astype(int) * 2 ** arrays[f"{layer}.exponent"].astype(int)
        else:
            restored = arrays[name]
            assert restored.dtype.itemsize <= 4 or np.abs(restored).max() >= 2**31
        np.testing.assert_array_equal(restored, tensor.numpy())


def test_any_trial_exports_and_is_trained_if_need_be(finished, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(finished.path, copy)
    trained = {json.loads(p.read_text())["arch"]["layer1"] for p in (copy / "finalists").glob("*.json")}
    trials = study(copy).trials
    number = next(t.number for t in trials if json.loads(t.user_attrs["arch"])["layer1"] not in trained or t.number > 2)
    options = ("export", str(copy), "--trial", str(number), "--to", str(tmp_path / "out"))
    assert command(monkeypatch, *options, "--what", "network,accelerator,onnx") == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "network.json", "accelerator.json", "model.onnx", "model_int8.onnx",
    }  # fmt: skip
    network = json.loads((tmp_path / "out/network.json").read_text())
    assert network["arch"] == json.loads(trials[number].user_attrs["arch"])
    accelerator = json.loads((tmp_path / "out/accelerator.json").read_text())
    assert accelerator["name"] == json.loads(trials[number].user_attrs["accelerator"])


@pytest.mark.parametrize("start", ["scratch", "supernet"])
def test_finalists_take_from_the_supernet_what_is_asked(options, tmp_path, monkeypatch, start):
    monkeypatch.setattr(selection, "train_all", train_here)
    small = {"trials": 6, "finalist_epochs": 1, "finalist_seeds": 1, "out": tmp_path / "run"}
    asked = {"finalist_start": start, "distil": start == "supernet", "finalist_simulated_epochs": 1}
    result = cosearch.run(**{**options, **asked, **small})
    run = Path(result.path)
    inherited = {path.name for path in (run / "finalists").glob("*-start.safetensors")}
    assert bool(inherited) == (run / "finalists/teacher.safetensors").exists() == (start == "supernet")
    how = "from scratch" if start == "scratch" else "from the supernet's weights, following its largest network"
    assert result.training == cosearch.load(run).training == f"{how}, the last 1 of 1 epochs in 8 bits"
    assert result_tables(result)[1][0].endswith(f"1 training {result.training}")
    assert html.escape(f"1 training {result.training} each") in (run / "report.html").read_text()
    assert all(0 <= design.accuracy <= 1 for design in result.designs)
    if start == "supernet":  # a network that was no finalist takes its weights from the same supernet
        trained = {path.name.split("-")[0] for path in (run / "finalists").glob("*.json")}
        archs = [json.loads(t.user_attrs["arch"]) for t in study(run).trials]
        number = next(i for i, arch in enumerate(archs) if finalists.Training(arch, 0, 0).name[10:22] not in trained)
        cosearch.export_design(run, tmp_path / "out", trial=number, what=["weights"])
        assert len(list((run / "finalists").glob("*-start.safetensors"))) == len(inherited) + 1


def test_candidates_for_the_finalist_compete_in_short_trainings(options, tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "train_all", train_here)
    small = {"trials": 12, "finalist_epochs": 6, "finalist_candidates": 3, "finalist_seeds": 1, "baselines": False}
    result = cosearch.run(**{**options, **small, "out": tmp_path / "run"})
    done = [json.loads(path.read_text()) for path in (tmp_path / "run/finalists").glob("*.json")]
    heats = {epochs: [d for d in done if d["epochs"] == epochs and "validation" in d] for epochs in (2, 3)}
    assert [len(heat) for heat in heats.values()] == [3, 2]  # a third of the epochs for three, half of them for two
    [full] = [d for d in done if "test" in d]
    assert full["epochs"] == 6
    assert full["arch"] == result.finalist.arch
    archs = {epochs: [d["arch"] for d in heat] for epochs, heat in heats.items()}
    assert all(arch in archs[2] for arch in archs[3])
    assert full["arch"] in archs[3]
    images = len(load_dataset(options["data"], seed=0).validation)
    assert {len(d["validation"]["correct"]) for heat in heats.values() for d in heat} == {images}
    before = contents(tmp_path / "run")
    assert cosearch.resume(tmp_path / "run").finalist == result.finalist
    assert contents(tmp_path / "run").keys() == before.keys()


def test_the_default_is_what_a_run_leaves():
    from cosearch.cli import DEFAULT_WHAT
    from cosearch.export.design import EVERYTHING, WHAT, parse_what

    assert parse_what(DEFAULT_WHAT) == WHAT
    assert parse_what("all") == EVERYTHING


def test_every_row_of_the_front_exports_with_its_own_accelerator_and_cost(finished, tmp_path):
    for row in range(len(finished.front)):
        expected = finished.front.iloc[row]
        to = tmp_path / str(row)
        cosearch.export_design(finished.path, to, what=("network", "workload", "accelerator", "mapping"), front=row)
        found = cosearch.load(to)
        assert found.description.arch == json.loads(expected["arch"])
        assert found.accelerator.name == expected["accelerator"]
        cost = found.cost()
        assert (cost.latency_ms, cost.energy_mj) == pytest.approx((expected["latency_ms"], expected["energy_mj"]))


def test_best_loads_as_the_finalist(finished, options):
    import torch

    found = cosearch.load(Path(finished.path) / "best")
    cost = found.cost()
    costs = finished.finalist.costs
    assert (cost.latency_ms, cost.energy_mj) == pytest.approx((costs["latency_ms"], costs["energy_mj"]), rel=1e-12)
    test = load_dataset(options["data"], seed=0).open_test()
    with torch.no_grad():
        right = found.network(torch.from_numpy(test.x)).argmax(1).numpy() == test.y
    assert right.mean() == finished.finalist.float_accuracies[0]
    assert found.description.pixel_mean


def test_other_tools_files_are_written_on_request(finished, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert command(monkeypatch, "export", finished.path, "--to", str(out), "--what", "zigzag,timeloop") == 0
    assert sorted(p.name for p in out.iterdir()) == ["timeloop", "zigzag"]
    assert (out / "zigzag/notes.txt").is_file()
    assert list((out / "zigzag").glob("*/hardware.yaml"))
    assert list((out / "timeloop").glob("*/architecture.yaml"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trial", "9999"], "has trials 0 to 23"),
        (["--what", "onx"], "did you mean 'onnx'"),
        (["--what", ","], "--what is empty"),
        (["--front", "9999"], "front.csv has rows 0 to"),
        (["--front", "0", "--trial", "1"], "give one of them"),
    ],
)
def test_exports_that_cannot_be(finished, tmp_path, monkeypatch, capsys, arguments, words):
    """Nothing is priced to find it out."""
    monkeypatch.setattr(export_writing, "prepare", lambda *_: pytest.fail("it was prepared"))
    out = tmp_path / "out"
    assert command(monkeypatch, "export", finished.path, "--to", str(out), *arguments) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_an_export_overwrites_no_other_design(finished, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    designs = ("network", "accelerator")
    other = int((finished.front["arch"].map(json.loads) != finished.finalist.arch).idxmax())
    cosearch.export_design(finished.path, out, what=designs)
    before = contents(out)
    cosearch.export_design(finished.path, out, what=designs)
    monkeypatch.setattr(export_writing, "prepare", lambda *_: pytest.fail("it was prepared"))
    for to, words in (
        (out, "holds another design (network.json is of another network)"),
        (Path(finished.path) / "best", "is inside of a run directory"),
        (out / "network.json", "is a file: choose a folder"),
    ):
        assert command(monkeypatch, "export", finished.path, "--to", str(to), "--front", str(other)) == 2
        assert words in capsys.readouterr().err
    assert contents(out) == before


def test_rows_of_the_front_name_their_trial(finished):
    trials = study(finished.path).trials
    assert len(finished.front)
    for row in finished.front.itertuples():
        assert json.loads(row.arch) == json.loads(trials[row.trial].user_attrs["arch"])
        assert row.accuracy == trials[row.trial].user_attrs["accuracy"]


def test_a_front_that_was_edited_is_noticed(finished, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "a copy"
    shutil.copytree(finished.path, copy)
    front = copy / "front.csv"
    front.write_text(front.read_text().replace("0.", "1.", 1))
    assert command(monkeypatch, "show", str(copy)) == 2
    said = capsys.readouterr().err
    assert "front.csv is not the one that result.json was written with" in said
    assert f"cosearch resume '{copy}'" in said  # as a shell takes it


def test_a_file_of_a_run_is_not_the_run(finished):
    with pytest.raises(RunError, match=r"is one file of a run: load the run directory"):
        cosearch.load(Path(finished.path) / "result.json")


# -- the same answer twice, and no answer where there is nothing to learn --


def test_the_main_job_twice_leaves_the_same_bytes(tmp_path):
    small = {"trials": 8, "supernet_epochs": 1, "finalist_epochs": 1, "finalist_seeds": 1, "baselines": False}
    for name in ("one", "two"):
        cosearch.run(space="shiftadd", device="fpga", threads=2, quiet=True, out=tmp_path / name, **small)
    for file in ("front.csv", "best/network.json", "best/accelerator.json", "best/mapping.json", "best/model.onnx"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_another_thread_count_begins_the_same(options, tmp_path, monkeypatch):
    """Sums in another order: images large enough that torch shares an operation among its threads."""
    monkeypatch.setattr(selection, "train_all", train_here)
    few = np.load(options["data"])
    np.savez(tmp_path / "large.npz", x=few["x"].repeat(4, axis=1).repeat(4, axis=2), y=few["y"])
    small = {"trials": 8, "supernet_epochs": 2, "finalist_epochs": 1, "finalist_seeds": 1, "baselines": False}
    given = {**options, **small, "data": str(tmp_path / "large.npz"), "strategy": "evolutionary"}
    found = []
    for threads in (1, 2):
        cosearch.run(**{**given, "threads": threads, "out": tmp_path / str(threads)})
        found.append(study(tmp_path / str(threads)).trials)
    one, two = ([json.loads(t.user_attrs["arch"]) for t in trials] for trials in found)
    assert one == two  # eight trials are within the first generation
    accuracies = np.array([[t.user_attrs["accuracy"] for t in trials] for trials in found])
    assert np.abs(accuracies[0] - accuracies[1]).max() <= 0.05


def test_labels_at_random_score_at_chance_and_true_ones_do_not(options, tmp_path, monkeypatch):
    """Nothing of the test images reaches the search: after training on labels without meaning nothing is known. The
    same run with the true labels shows that there was something to know."""
    from scipy.stats import binom

    monkeypatch.setattr(selection, "train_all", train_here)
    few = np.load(options["data"])
    labels = {"true": few["y"], "random": np.random.default_rng(0).permutation(few["y"])}
    small = {"trials": 8, "finalist_epochs": 30, "finalist_seeds": 3, "baselines": False}
    right, most = {}, {}
    for name, y in labels.items():
        data = tmp_path / f"{name}.npz"
        np.savez(data, x=few["x"], y=y)
        result = cosearch.run(**{**options, **small, "data": str(data), "out": tmp_path / name})
        test = load_dataset(str(data), seed=0).open_test()
        right[name] = [seed.count("1") for seed in result.finalist.correct]
        commonest = np.bincount(test.y).max() / len(test)  # no guess without knowledge is right more often
        # by chance one of the three has more in one test of ten thousand
        most[name] = binom.ppf(1 - 1e-4 / len(right[name]), len(test), commonest)
        # and this many right there are in one of 10^12
        beyond = binom.ppf(1 - 1e-12, len(test), commonest)
    error = np.sqrt(commonest * (1 - commonest) / len(test))
    assert all(accuracy < commonest + 4 * error for accuracy in result.finalist.integer_accuracies)
    assert result.finalist.accuracy < commonest + 3 * error
    assert max(right["random"]) <= most["random"]
    assert min(right["true"]) > beyond > most["true"]


def test_the_test_images_decide_nothing_and_are_opened_last(options, tmp_path, monkeypatch):
    """Other test images, wrongly labelled: every choice, score and weight before the end is the same, byte for byte."""
    monkeypatch.setattr(selection, "train_all", train_here)
    few = np.load(options["data"])
    x, y = few["x"], few["y"]
    tests = {"true": (x[330:], y[330:]), "false": (1 - x[330:], (y[330:] + 1) % 10)}
    small = {"trials": 12, "finalist_epochs": 6, "finalist_candidates": 3, "finalist_seeds": 2, "baselines": False}
    runs = {}
    for name, (x_test, y_test) in tests.items():
        np.savez(tmp_path / f"{name}.npz", x=x[:330], y=y[:330], x_test=x_test, y_test=y_test)
        dataset = load_dataset(str(tmp_path / f"{name}.npz"), seed=0)
        assert len(dataset.validation) != len(x_test) == 70
        out = tmp_path / name
        runs[name] = cosearch.run(**{**options, **small, "data": str(tmp_path / f"{name}.npz"), "out": out})
        lines = read_log(out)
        opened = [at for at, line in enumerate(lines) if line["event"] == "test"]
        phases = {line["name"]: at for at, line in enumerate(lines) if line["event"] == "phase"}
        assert phases["search"] < phases["finalists"] < opened[0]
        assert opened[-1] < phases["comparing"]
        names = [lines[at]["training"] for at in opened]
        final = [f.stem for f in (out / "finalists").glob("*.json") if "-heat" not in f.name]
        assert sorted(names) == sorted(final)  # each network and seed once, and no short training
    true, false = ({f.name: f for f in (tmp_path / name).rglob("*") if f.is_file()} for name in tests)
    heats = [name for name in true if "-heat" in name and name.endswith(".json")]
    weights = [name for name in true if name.endswith(".safetensors") and "integer" not in name]
    assert len(heats) == 5
    assert len(weights) > 2
    for name in ("front.csv", "network.json", *heats, *weights):
        assert true[name].read_bytes() == false[name].read_bytes(), name
    assert runs["true"].finalist.accuracy > runs["false"].finalist.accuracy


def test_the_confusion_matrix_of_the_exported_model_has_the_reported_accuracy(finished, options):
    import onnxruntime

    test = load_dataset(options["data"], seed=0).open_test()
    session = onnxruntime.InferenceSession(Path(finished.path) / "best/model.onnx")
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (test.y, session.run(None, {"images": test.x})[0].argmax(1)), 1)
    assert confusion.sum(axis=1).tolist() == np.bincount(test.y, minlength=10).tolist()
    assert np.trace(confusion) / confusion.sum() == finished.finalist.float_accuracies[0]
    assert (confusion > 0).any(axis=0).sum() > 1  # more than one class is named


# -- trainings that diverge --


def test_a_supernet_that_diverges_stops_and_begins_again_slower_on_resume(options, tmp_path, monkeypatch):
    from cosearch.supernet import recipes

    made, rates = recipes.of_run, []

    def too_fast(*given):
        recipe = made(*given)
        rates.append(recipe.settings.learning_rate * (1e30 if not rates else 1.0))
        return replace(recipe, settings=replace(recipe.settings, learning_rate=rates[-1]))

    monkeypatch.setattr(recipes, "of_run", too_fast)
    monkeypatch.setattr(selection, "train_all", train_here)
    small = {"trials": 6, "finalist_epochs": 1, "finalist_seeds": 1, "baselines": False}
    with pytest.raises(CosearchError, match="no checkpoint yet: begin again at half the learning rate with: "):
        cosearch.run(**{**options, **small, "out": tmp_path / "run"})
    assert not (tmp_path / "run/supernet.safetensors").exists()
    assert len(rates) == 1
    result = cosearch.resume(tmp_path / "run")
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    [diverged] = [line for line in log if line["event"] == "diverged"]
    assert diverged["reason"].startswith("training diverged: ")
    assert len(rates) == 2
    assert len(study(tmp_path / "run").trials) == 6
    assert 0 < result.finalist.accuracy <= 1


def test_minutes_stop_a_supernet_within_an_epoch_and_it_ends_as_without_them(finished, options, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(StoppedError, match="stopped by --minutes"):
        cosearch.run(**options, minutes=1e-6, out=out)
    _, described = RunDirectory.open(out).load_tensors("supernet.safetensors")
    assert (described["epoch"], described["step"]) == ("0", "1")
    result = cosearch.resume(out)
    for name in ("supernet.safetensors", "front.csv"):
        assert (out / name).read_bytes() == (Path(finished.path) / name).read_bytes(), name
    assert result.finalist.arch == finished.finalist.arch


def test_minutes_stop_a_fair_training_between_two_networks_of_an_update(options, tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "train_all", train_here)
    small = {"recipe": "fair", "trials": 6, "finalist_epochs": 1, "finalist_seeds": 1, "baselines": False}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    cosearch.run(**{**options, **small, "out": whole})
    with pytest.raises(StoppedError, match="stopped by --minutes"):
        cosearch.run(**{**options, **small, "minutes": 1e-6, "out": parts})
    tensors, described = RunDirectory.open(parts).load_tensors("supernet.safetensors")
    assert (described["epoch"], described["step"]) == ("0", "1")
    assert int(tensors["recipe.updates"]) == 0  # the update comes after five networks
    assert "gradient.units.stem.weights.linear.0" in tensors
    cosearch.resume(parts)
    for name in ("supernet.safetensors", "front.csv"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_supernet_that_needs_fewer_epochs_says_so_in_log_and_result(options, tmp_path, monkeypatch):
    from cosearch.supernet import recipes

    monkeypatch.setattr(recipes, "MASK_DISTANCE", 1.1)
    monkeypatch.setattr(selection, "train_all", train_here)
    small = {"trials": 6, "finalist_epochs": 1, "finalist_seeds": 1, "baselines": False}
    result = cosearch.run(**{**options, **small, "recipe": "prune", "supernet_epochs": 18, "out": tmp_path / "run"})
    log = read_log(tmp_path / "run")
    [drawn] = [line for line in log if line["event"] == "early-bird"]
    assert (drawn["settled"], drawn["epochs"], drawn["asked"]) == (5, 17, 18)
    jsonschema.Draft202012Validator(json.loads((FOLDER / "log.schema.json").read_text())).validate(drawn)
    assert [line["epoch"] for line in log if line["event"] == "supernet"][-1] == 17
    _, described = RunDirectory.open(tmp_path / "run").load_tensors("supernet.safetensors")
    assert described["epoch"] == "17"
    said = "the supernet's pruning mask settled in 5 epochs (early-bird): it trains for 17 of 18"
    assert said in result.notes
    again = cosearch.resume(tmp_path / "run", trials=8)  # from the trained supernet
    assert said in again.notes
    assert sum(line["event"] == "supernet" for line in read_log(tmp_path / "run")) == 1


def test_a_supernet_that_needs_fewer_epochs_says_so_where_it_was_stopped_in_the_epoch_that_showed_it(
    options, tmp_path, monkeypatch
):
    from cosearch.supernet import recipes, training

    monkeypatch.setattr(recipes, "MASK_DISTANCE", 1.1)
    monkeypatch.setattr(selection, "train_all", train_here)
    monkeypatch.setattr(source, "CHECKPOINT_SECONDS", 0.0)
    real = training.train_supernet_epoch

    def stopped(*given):
        *rest, on_step = given

        def between(taken: int) -> None:
            on_step(taken)
            if rest[4] == 5:
                raise StoppedError("stopped here")

        return real(*rest, between)

    small = {"trials": 6, "finalist_epochs": 1, "finalist_seeds": 1, "baselines": False}
    with monkeypatch.context() as patched:
        patched.setattr(training, "train_supernet_epoch", stopped)
        with pytest.raises(StoppedError, match="stopped here"):
            cosearch.run(**{**options, **small, "recipe": "prune", "supernet_epochs": 18, "out": tmp_path / "run"})
    _, described = RunDirectory.open(tmp_path / "run").load_tensors("supernet.safetensors")
    assert described["epoch"] == "5"
    result = cosearch.resume(tmp_path / "run")
    [drawn] = [line for line in read_log(tmp_path / "run") if line["event"] == "early-bird"]
    assert (drawn["settled"], drawn["epochs"], drawn["asked"]) == (5, 17, 18)
    assert "the supernet's pruning mask settled in 5 epochs (early-bird): it trains for 17 of 18" in result.notes


def test_weights_that_are_spoilt_within_an_epoch_are_not_saved(options, tmp_path, monkeypatch):
    from cosearch.supernet import recipes

    made = recipes.of_run

    def spoilt(*given):
        recipe = made(*given)

        def after_step(epoch):
            recipe.supernet.classifier.bias.data.fill_(float("inf"))

        return replace(recipe, after_step=after_step)

    monkeypatch.setattr(recipes, "of_run", spoilt)
    monkeypatch.setattr(source, "CHECKPOINT_SECONDS", 0.0)
    out = tmp_path / "run"
    with pytest.raises(CosearchError, match="a weight became infinite or NaN in step 1 of epoch 1 of 5"):
        cosearch.run(**options, out=out)
    assert not (out / "supernet.safetensors").exists()


def diverging(monkeypatch, epoch_of: int, step_of: int, times: int) -> list[float]:
    """Supernets' losses are NaN in a step of an epoch, so many times. Returns: the learning rates of all steps."""
    from cosearch.supernet import recipes

    made, rates, left = recipes.of_run, [], [times]

    def spoilt(*given):
        recipe = made(*given)

        def step(x, y, epoch, index):
            loss = recipe.step(x, y, epoch, index)
            if (epoch, index) == (epoch_of, step_of) and left[0]:
                left[0] -= 1
                return loss * float("nan")
            return loss

        def rate(settings, step, steps):
            rates.append(recipe.rate(settings, step, steps))
            return rates[-1]

        return replace(recipe, step=step, rate=rate)

    monkeypatch.setattr(recipes, "of_run", spoilt)
    return rates


def test_a_supernet_that_always_diverges_stops_and_its_last_good_checkpoint_is_kept(options, tmp_path, monkeypatch):
    rates = diverging(monkeypatch, epoch_of=1, step_of=1, times=99)
    monkeypatch.setattr(source, "CHECKPOINT_SECONDS", 0.0)
    out, stopped_at, halved = tmp_path / "run", [], 0
    for halved in range(3):
        go = partial(cosearch.resume, out) if halved else partial(cosearch.run, **options, out=out)
        with pytest.raises(CosearchError) as caught:
            go()
        stopped_at.append(rates[-1])
        repeated = f", as it did at {halved} higher rates: are the images of a usual scale? Else try another --recipe"
        assert str(caught.value) == (
            "training diverged: the loss became nan in step 2 of epoch 2 of 5 of the supernet at learning rate "
            f"{rates[-1]:.3g}{repeated if halved else ''}; the last good checkpoint is kept in "
            f"{out / 'supernet.safetensors'}: go on from it at half the learning rate with: cosearch resume {out}"
        )
        tensors, described = RunDirectory.open(out).load_tensors("supernet.safetensors")
        assert described["epoch"] == "1"
        assert all(np.isfinite(value.numpy()).all() for value in tensors.values())
    assert stopped_at == pytest.approx([stopped_at[0] / 2**i for i in range(3)])


@pytest.mark.parametrize("seconds", [0.0, 1e9], ids=["saved after every step", "never saved before"])
def test_a_supernet_that_diverged_goes_on_from_what_was_kept(options, tmp_path, monkeypatch, capsys, seconds):
    """On the command line: one line, exit status 2, and what the line says works, however fast the machine is."""
    rates = diverging(monkeypatch, epoch_of=1, step_of=1, times=1)
    monkeypatch.setattr(source, "CHECKPOINT_SECONDS", seconds)
    monkeypatch.setattr(selection, "train_all", train_here)
    small = {"supernet_epochs": 3, "trials": 6, "finalist_epochs": 1, "finalist_seeds": 1}
    given = {**options, **small, "out": tmp_path / "run"}
    del given["quiet"]
    flags = [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    assert command(monkeypatch, "run", "--quiet", "--no-baselines", *flags) == 2
    said = one_line(capsys)
    assert "diverged: the loss became nan in step 2 of epoch 2 of 3 of the supernet at learning rate" in said
    assert said.endswith(f"go on from it at half the learning rate with: cosearch resume {tmp_path / 'run'}")
    run = RunDirectory.open(tmp_path / "run")
    _, described = run.load_tensors("supernet.safetensors")
    per_epoch = int(described["step"])  # of one epoch
    assert described["epoch"] == "1"
    before = list(rates)
    rates.clear()
    assert command(monkeypatch, "resume", "--quiet", str(run.path)) == 0
    assert len(rates) == 2 * per_epoch
    assert rates[:2] == pytest.approx([rate / 2 for rate in before[per_epoch : per_epoch + 2]])
    assert len(study(run.path).trials) == 6
    notes = json.loads((run.path / "result.json").read_text())["notes"]
    assert "the supernet's training diverged and went on at 0.5 of the learning rate" in notes


def test_a_finalist_that_diverges_is_said_and_the_others_count(options, tmp_path, monkeypatch):
    from cosearch.supernet import training

    trained = training.train_network

    def too_fast(network, split, recipe, seed, *rest):
        rate = 1e30 if seed == 1 else recipe.learning_rate
        trained(network, split, replace(recipe, learning_rate=rate), seed, *rest)

    monkeypatch.setattr(training, "train_network", too_fast)
    monkeypatch.setattr(selection, "train_all", train_here)
    small = {"trials": 6, "finalist_epochs": 2, "finalist_seeds": 3, "baselines": False}
    result = cosearch.run(**{**options, **small, "out": tmp_path / "run"})
    assert len(result.finalist.integer_accuracies) == 2
    assert any(note.startswith("co-search: 1 of 3 trainings failed and are left out (") for note in result.notes)


def test_an_interrupt_while_a_resumed_run_prepares_says_how_to_go_on(finished, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cosearch.engine, "prepare", interrupted)
    assert command(monkeypatch, "resume", "--quiet", finished.path) == 3
    assert f"continue with: cosearch resume {finished.path}" in one_line(capsys)
