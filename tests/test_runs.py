"""The study of a run: what is recorded, and that it is read back for its own space only."""

import json

import optuna
import pytest

from cosearch.config import RunConfig
from cosearch.errors import DataError, RunError
from cosearch.reading import require_short_lines
from cosearch.report.trials import read_trials
from cosearch.runs import RunDirectory
from cosearch.strategies import Candidate, Failure, Objectives, make
from cosearch.strategies.study import TrialLog, study_storage
from search_spaces.decisions import Decisions

SPACE = Decisions({"a": (0, 1, 2), "b": ("x", "y")})
OBJECTIVES = Objectives(("accuracy", "latency_ms"))


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory.create(tmp_path / "run", RunConfig())
    log = TrialLog(directory.path, "co-search", SPACE, OBJECTIVES)
    log.add(Candidate(0, {"a": 1, "b": "x"}, 0), {"accuracy": 0.5, "latency_ms": 2.0}, "chip", "supernet", 0.25)
    log.add(Candidate(1, {"a": 2, "b": "y"}, 0), Failure("accuracy is nan"), None, "supernet", 0.5)
    return directory


def test_optuna_reads_objectives_by_name_with_arch_source_and_time(run):
    study = optuna.load_study(study_name="co-search", storage=study_storage(run.path))
    assert study.metric_names == ["accuracy", "latency_ms"]
    first, second = study.trials
    assert first.values == [0.5, 2.0]
    assert first.params == {"a": 1, "b": "x"}
    assert first.state == optuna.trial.TrialState.COMPLETE
    assert second.state == optuna.trial.TrialState.FAIL
    assert "supernet" in str(first.user_attrs)
    assert "chip" in str(first.user_attrs)
    assert [trial.duration.total_seconds() for trial in study.trials] == pytest.approx([0.25, 0.5])


def test_what_was_recorded_is_told_again(run):
    strategy = make("random", SPACE, {"latency_ms": lambda arch: 2.0}, OBJECTIVES, 0)
    TrialLog(run.path, "co-search", SPACE, OBJECTIVES).replay(strategy)
    assert [t.candidate.arch for t in strategy.history.told] == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert [t.failed for t in strategy.history.told] == [False, True]


@pytest.mark.parametrize("choices", [{"a": (0, 1), "b": ("x", "y")}, {"a": (0, 1, 2)}, {"c": (0, 1)}])
def test_a_study_of_another_space_is_refused(run, choices):
    other = Decisions(choices)
    strategy = make("random", other, {"latency_ms": lambda arch: 2.0}, OBJECTIVES, 0)
    with pytest.raises(RunError) as caught:
        TrialLog(run.path, "co-search", other, OBJECTIVES).replay(strategy)
    assert "\n" not in str(caught.value)


def test_a_trial_that_is_not_of_cosearch_is_refused(run):
    optuna.load_study(study_name="co-search", storage=study_storage(run.path)).add_trial(
        optuna.trial.create_trial(values=[0.5, 1.0])
    )
    strategy = make("random", SPACE, {"latency_ms": lambda arch: 2.0}, OBJECTIVES, 0)
    with pytest.raises(RunError, match=r"trial 2 of .*study.db names no network"):
        TrialLog(run.path, "co-search", SPACE, OBJECTIVES).replay(strategy)


def change_first_trial(run, **changes):
    """In the journal: of its attributes where there is one of the name, else of the trial."""
    path = run.path / "study.db"
    lines = path.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if json.loads(line)["op_code"] == 4)
    trial = json.loads(lines[at])
    for name, value in changes.items():
        where = trial if name in trial else trial["user_attrs"]
        where[name] = value
    lines[at] = json.dumps(trial)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"user_attrs": 3}, "damaged"),
        ({"arch": 1.5}, "1.5 where JSON is expected"),
        ({"arch": {"a": 1, "b": "x"}}, "where JSON is expected"),
        ({"arch": "{"}, "not valid JSON"),
        ({"arch": "3"}, "is of another space"),
        ({"values": None}, "damaged"),
        ({"values": [0.5, 2.0, 3.0]}, "damaged"),
        ({"values": [0.5, "a"]}, "damaged"),
        ({"accuracy": "a"}, "accuracy='a', expected a number"),
        ({"accuracy": None}, "accuracy=None, expected a number"),
        ({"number": "a"}, "number='a', asked=0, expected 0 to"),
        ({"asked": 2**63}, "number=0, asked=9223372036854775808, expected 0 to"),  # or it asks for ever
    ],
)
def test_a_damaged_study_is_refused_in_one_line(run, change, words):
    change_first_trial(run, **change)
    strategy = make("random", SPACE, {"latency_ms": lambda arch: 2.0}, OBJECTIVES, 0)
    with pytest.raises(RunError, match=r"study\.db") as caught:
        TrialLog(run.path, "co-search", SPACE, OBJECTIVES).replay(strategy, recall=lambda arch, front: None)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("front", [3, {}, "{", None])
def test_a_damaged_front_is_priced_again(run, front):
    change_first_trial(run, front=front)
    strategy = make("random", SPACE, {"latency_ms": lambda arch: 2.0}, OBJECTIVES, 0)
    recalled = []
    TrialLog(run.path, "co-search", SPACE, OBJECTIVES).replay(strategy, recall=lambda *known: recalled.append(known))
    assert recalled == []
    assert len(strategy.history.told) == 2


@pytest.mark.parametrize(
    "change", [{"accuracy": "a"}, {"arch": "[]"}, {"accelerator": "{}"}, {"values": [0.5, "a"]}, {"seconds": []}]
)
def test_a_report_reads_no_damaged_trial(run, change):
    change_first_trial(run, **change)
    with pytest.raises(RunError, match=r"study\.db is damaged") as caught:
        read_trials(run.path, OBJECTIVES.names)
    assert "\n" not in str(caught.value)


def test_files_too_short_for_a_long_line_are_not_read_for_it(tmp_path, monkeypatch):
    (tmp_path / "log.jsonl").write_text("{}\n")
    monkeypatch.setattr(type(tmp_path), "open", lambda *_: pytest.fail("it was read"))
    require_short_lines(tmp_path / "log.jsonl", 1 << 30)
    with pytest.raises(DataError, match=r"has 0\.0 GiB, at most"):
        require_short_lines(tmp_path / "log.jsonl", 2)
