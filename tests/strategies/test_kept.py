"""The study of a strategy made from Python: what is in it, and that a search goes on from it as if never ended."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest

from cosearch.config import RunConfig
from cosearch.errors import ConfigError, CosearchError, RunError
from cosearch.runs import RunDirectory
from cosearch.strategies import STRATEGIES, Candidate, Failure, Objectives, Strategy, make
from cosearch.strategies.study import MOST_OPEN, TrialLog, dashboard_command, study_storage
from tests.report.test_dashboard import shown_by
from tests.strategies import test_joint

SPACE = {"depth": (1, 2, 3, 4, 5, 6), "width": (8, 16, 24, 32, 48, 64), "kernel": ((1, 1), (1, 3), (3, 3), (3, 5))}
OBJECTIVES = Objectives(("accuracy", "latency_ms", "energy_mj"), 0.3, {"max_params": 20_000, "min_throughput_fps": 90})
NAMES = sorted(STRATEGIES)
every = pytest.mark.parametrize("name", NAMES)
TRIALS = {"reinforce": 30, "evolutionary": 24, "optuna-gp": 13, "optuna-tpe": 18, "bayesian": 13, "auto": 13}
"""Enough for proposals that follow from results."""


def latency(arch) -> float:
    return 0.1 * arch["depth"] * arch["width"] / 8 * (arch["kernel"][0] * arch["kernel"][1]) ** 0.5


def params(arch) -> float:
    return float(arch["depth"] * arch["width"] ** 2)


def result(arch, number: int):
    """Now and then an evaluation dies, or gives no number."""
    accuracy = 0.95 - 0.5 * np.exp(-0.1 * arch["depth"] * np.sqrt(arch["width"] / 8)) - 0.01 * arch["kernel"][1]
    if number % 9 == 5:
        return Failure("died")
    return {"accuracy": float("nan") if number % 11 == 6 else float(accuracy), "energy_mj": latency(arch) ** 0.5}


def made(name: str, study: Path | None, **changes) -> Strategy:
    given = {"space": SPACE, "costs": {"latency_ms": latency, "params": params}, "objectives": OBJECTIVES, "seed": 2}
    return make(name, **{**given, "study": study, **changes})


WARM = [
    {"depth": 2, "width": 16, "kernel": (3, 3)},
    {"depth": 6, "width": 64, "kernel": (3, 5)},  # beyond both known limits
    {"depth": 1, "width": 8, "kernel": (1, 1)},
]


class Killed(Exception):
    pass


def go_on(strategy, trials: int, group: int, die_before: int = 10**9) -> None:
    """Groups of candidates, told from the last to the first; a warm start before the first one and later."""
    told = strategy.history.told
    while len(told) < trials:
        if len(told) in (0, 1, 8) and not strategy.history.left:
            strategy.tell(WARM[(0, 1, 8).index(len(told))], result(WARM[0], 0))
            continue
        for candidate in reversed(strategy.ask(group)):
            if len(told) == die_before:
                raise Killed
            strategy.tell(candidate, result(candidate.arch, candidate.number))


def outcome(strategy) -> list[tuple]:
    return [(t.candidate.number, t.candidate.arch, t.accuracy, t.failed, t.excess) for t in strategy.history.told]


def recorded(folder: Path) -> list[tuple]:
    """All that a study says of a search but for the time."""
    trials = optuna.load_study(study_name="search", storage=study_storage(folder)).trials
    attributes = [{k: v for k, v in trial.user_attrs.items() if k != "seconds"} for trial in trials]
    return [(t.number, t.state, t.values, t.params, a) for t, a in zip(trials, attributes, strict=True)]


@every
@pytest.mark.parametrize("group", [1, 3])
def test_a_search_that_dies_between_ask_and_tell_ends_as_one_that_did_not(tmp_path, name, group):
    trials = TRIALS.get(name, 20)
    alone, whole = made(name, None), made(name, tmp_path / "whole")
    go_on(alone, trials, group)
    go_on(whole, trials, group)
    assert outcome(whole) == outcome(alone)  # keeping a study changes no proposal
    for die_before in (trials - 2, 10, 9, 4)[: 2 if name == "optuna-gp" else 4]:
        strategy = made(name, tmp_path / str(die_before))
        with pytest.raises(Killed):
            go_on(strategy, trials, group, die_before)
        again = made(name, tmp_path / str(die_before))
        assert outcome(again) == outcome(whole)[:die_before]
        go_on(again, trials, group)
        assert outcome(again) == outcome(whole)
        assert recorded(tmp_path / str(die_before)) == recorded(tmp_path / "whole")
        assert again.front() == whole.front()
        assert again.knee() == whole.knee()
    assert len(whole.front()) > 1


@every
def test_results_that_came_in_turn_are_told_without_proposing_again(tmp_path, name, monkeypatch):
    strategy = made(name, tmp_path)
    go_on(strategy, 7, 1)
    monkeypatch.setattr("cosearch.strategies.base.History.ask", lambda *_: pytest.fail("it proposed"))
    assert outcome(made(name, tmp_path)) == outcome(strategy)


@pytest.mark.parametrize("name", ["bayesian", "evolutionary"])
def test_a_warm_start_within_a_group_of_proposals_is_used_by_the_rest_of_it(tmp_path, name):
    """Which the result of a candidate of the group is not."""

    def search(folder) -> Strategy:
        strategy = made(name, folder, batch=12)
        go_on(strategy, 14, 1)
        strategy.tell(WARM[2], {"accuracy": 0.9, "energy_mj": 0.01})
        return strategy

    whole = search(tmp_path)
    again = made(name, tmp_path, batch=12)
    assert again.ask(8) == whole.ask(8)


@pytest.mark.parametrize("name", ["bayesian", "evolutionary", "random"])
def test_of_workers_that_come_in_any_order_each_gets_its_network_again(tmp_path, name):
    """One more is asked for each result; what was open when the process ended comes back first, and then the next."""
    rng = np.random.default_rng(0)
    strategy = made(name, tmp_path)
    running = strategy.ask(4)
    for _ in range(12):
        candidate = running.pop(rng.integers(len(running)))
        strategy.tell(candidate, result(candidate.arch, candidate.number))
        running += strategy.ask()
    lost, following = running[:-1], running[-1]  # the last was asked after the last result
    again = made(name, tmp_path)
    assert again.ask(2) + again.ask(9) == sorted(lost, key=lambda c: c.number)
    assert again.ask() == [following]


@pytest.mark.parametrize("name", ["evolutionary", "bayesian"])
def test_where_accelerators_are_searched_too(tmp_path, name):
    def search(folder, evaluations):
        strategy = make(name, test_joint.SPACE, test_joint.COSTS, test_joint.OBJECTIVES, 0, study=folder, batch=4)
        return strategy, test_joint.follow(strategy, evaluations)

    whole, found = search(tmp_path / "whole", 4)
    search(tmp_path / "part", 2)
    again, rest = search(tmp_path / "part", 4)
    assert rest == found[-len(rest) :]
    assert again.front() == whole.front()
    accelerators = [json.loads(attributes["accelerator"]) for *_, attributes in recorded(tmp_path / "whole")]
    assert accelerators[0].startswith("cols=")


def test_what_a_study_says_of_a_trial(tmp_path):
    strategy = made("random", tmp_path)
    for at in (0, 1):
        strategy.tell(WARM[at], {"accuracy": 0.5, "energy_mj": 1.0})
    [candidate, other] = strategy.ask(2)
    strategy.tell(candidate, {"accuracy": 0.75, "energy_mj": 2.0})
    strategy.tell(other, {"accuracy": 0.75, "energy_mj": float("inf")})
    study = optuna.load_study(study_name="search", storage=study_storage(tmp_path))
    assert study.metric_names == ["accuracy", "latency_ms", "energy_mj"]
    warm, beyond, told, failed = study.trials
    assert warm.values == [0.5, latency(WARM[0]), 1.0]
    assert json.loads(warm.user_attrs["arch"]) == {"depth": 2, "width": 16, "kernel": [3, 3]}
    assert warm.params == {"depth": 2, "width": 16, "kernel": "(3, 3)"}
    assert json.loads(warm.user_attrs["accelerator"]) is None
    assert [t.user_attrs["accuracy_source"] for t in study.trials] == ["warm start", "warm start", "told", "told"]
    assert beyond.state == optuna.trial.TrialState.FAIL
    assert beyond.user_attrs["reason"] == "breaks a limit on what is known"
    assert json.loads(beyond.user_attrs["measured"]) == {"accuracy": 0.5, "energy_mj": 1.0}
    assert told.values == [0.75, latency(candidate.arch), 2.0]
    assert told.state == optuna.trial.TrialState.COMPLETE
    assert failed.user_attrs["reason"] == "energy_mj is inf"
    for trial in study.trials:
        assert 0 <= trial.duration.total_seconds() < 60
        assert trial.user_attrs["seconds"] == pytest.approx(trial.duration.total_seconds(), abs=1e-3)


def test_the_time_of_a_trial_is_that_since_it_was_asked(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    strategy = made("random", tmp_path)
    first, second = strategy.ask(2)
    for candidate, seconds in ((first, 5.0), (second, 2.5)):
        now[0] += seconds
        strategy.tell(candidate, result(candidate.arch, 0))
    trials = optuna.load_study(study_name="search", storage=study_storage(tmp_path)).trials
    assert [trial.duration.total_seconds() for trial in trials] == pytest.approx([5.0, 7.5])


def test_results_without_accuracy_and_without_anything_measured(tmp_path):
    costs = {"latency_ms": latency, "params": params}
    for measured, objectives in (({}, ("latency_ms", "params")), ({"dsp": 3.0}, ("latency_ms", "dsp"))):
        folder = tmp_path / objectives[1]
        strategy = make("bayesian", SPACE, costs, objectives, study=folder)
        for _ in range(3):
            strategy.tell(strategy.ask()[0], measured)
        again = make("bayesian", SPACE, costs, objectives, study=folder)
        assert outcome(again) == outcome(strategy)
        assert again.front() == strategy.front()
        assert again.ask() == strategy.ask()


def test_optuna_dashboard_shows_it(tmp_path):
    strategy = made("random", tmp_path)
    go_on(strategy, 4, 1)
    shown = shown_by(dashboard_command(tmp_path).split())["search"]
    assert shown["objective_names"] == ["accuracy", "latency_ms", "energy_mj"]
    values = [trial.get("values") for trial in shown["trials"]]
    told = strategy.history.told
    assert values[0] == [told[0].accuracy, latency(WARM[0]), told[0].front.metric("energy_mj")[0]]
    assert len(values) == 4


KILLED = """
import os, signal, sys
from tests.strategies.test_kept import made, result
strategy = made("evolutionary", sys.argv[1])
for _ in range(13):
    [candidate] = strategy.ask()
    strategy.tell(candidate, result(candidate.arch, candidate.number))
strategy.ask()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_is_killed_loses_nothing_that_was_told(tmp_path):
    folder = tmp_path / "study"
    died = subprocess.run([sys.executable, "-c", KILLED, str(folder)], cwd=Path(__file__).parents[2])
    assert died.returncode == -signal.SIGKILL
    with (folder / "study.db").open("a") as file:
        file.write('{"op_code": 4, "half')  # as of one that was killed while it wrote
    strategies = [made("evolutionary", study) for study in (folder, None)]
    while len(strategies[0].history.told) < 20:
        for strategy in strategies:
            [candidate] = strategy.ask()
            strategy.tell(candidate, result(candidate.arch, candidate.number))
    [candidate] = strategies[0].ask()
    assert candidate.number == 20
    assert outcome(strategies[0])[:7] == outcome(strategies[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 3}, "seed 2 there, 3 here"),
        ({"name": "evolutionary"}, 'strategy "random" there, "evolutionary" here'),
        ({"batch": 4}, "batch 1 there, 4 here"),
        ({"space": {**SPACE, "depth": (1, 2)}}, r'space \[\["depth", \[1, 2, 3, 4, 5, 6\]\]'),
        ({"space": dict(reversed(SPACE.items()))}, "space "),
        ({"objectives": Objectives(("accuracy",), 0.3, OBJECTIVES.constraints)}, "objectives "),
        ({"objectives": Objectives(OBJECTIVES.names, 0.2, OBJECTIVES.constraints)}, "min_accuracy 0.3 there, 0.2 here"),
        ({"objectives": Objectives(OBJECTIVES.names, 0.3, {"max_params": 1e4})}, "constraints .*90.0.* there, "),
        ({"costs": {"latency_ms": latency}}, r'costs \["latency_ms", "params"\] there, \["latency_ms"\] here'),
        ({"costs": {"latency_ms": lambda a: 2.0, "params": params}}, "of other costs: latency_ms of trial 0 is "),
    ],
)
def test_a_study_of_another_search_is_refused(tmp_path, change, words):
    go_on(made("random", tmp_path), 5, 1)
    before = (tmp_path / "study.db").read_bytes()
    with pytest.raises(RunError, match=words) as caught:
        made(**{"name": "random", "study": tmp_path, **change})
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "study.db") in str(caught.value)
    assert (tmp_path / "study.db").read_bytes() == before


def test_options_of_a_strategy_and_what_auto_chose(tmp_path):
    made("evolutionary", tmp_path / "a", age=20)
    with pytest.raises(RunError, match=r'options {"age": 20} there, {} here'):
        made("evolutionary", tmp_path / "a")
    chosen = made("auto", tmp_path / "b", trials=60)
    assert made("auto", tmp_path / "b", trials=90).history.name == chosen.history.name == "bayesian"
    with pytest.raises(RunError, match='strategy "bayesian" there, "random" here'):
        made("auto", tmp_path / "b", trials=144)


def test_a_limit_on_accuracy_is_the_same_however_it_is_given(tmp_path):
    made("random", tmp_path)
    made(
        "random", tmp_path, objectives=Objectives(OBJECTIVES.names, 0, {**OBJECTIVES.constraints, "min_accuracy": 0.3})
    )


def test_two_searches_that_write_to_one_study(tmp_path):
    """As where a cell of a notebook is run again: the later one goes on, the earlier one is told to stop."""
    earlier, later = made("random", tmp_path), made("random", tmp_path)
    later.tell(later.ask()[0], result(WARM[0], 0))
    [candidate] = earlier.ask()
    with pytest.raises(RunError, match="was written to by another search since: make the strategy again"):
        earlier.tell(candidate, result(WARM[0], 0))
    assert not earlier.history.told
    assert outcome(made("random", tmp_path)) == outcome(later)


def test_a_result_that_does_not_fit_on_the_disk_can_be_told_again(tmp_path, monkeypatch):
    from optuna.storages.journal import JournalFileBackend

    strategy = made("random", tmp_path)
    [candidate] = strategy.ask()
    with monkeypatch.context() as patch:

        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(JournalFileBackend, "append_logs", full)
        with pytest.raises(RunError, match=r"cannot write .*study.db \(No space left .*: .* and tell it again$"):
            strategy.tell(candidate, result(candidate.arch, 0))
    strategy.tell(candidate, result(candidate.arch, 0))
    assert outcome(made("random", tmp_path)) == outcome(strategy)
    assert len(strategy.history.told) == 1


def test_folders_that_are_none_and_studies_of_something_else(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write .*file \((Not a directory|File exists)\)"):
        made("random", tmp_path / "file")
    run = RunDirectory.create(tmp_path / "run", RunConfig())
    with pytest.raises(RunError, match=r"is a run's: continue it with: cosearch resume .*; or give the study another"):
        made("random", run.path)
    log = TrialLog(tmp_path, "search", made("random", None).history.space, OBJECTIVES)
    log.add(Candidate(0, WARM[0]), Failure("died"), None, "told", 0.0)
    with pytest.raises(RunError, match="does not say what search it is of"):
        made("random", tmp_path)
    (tmp_path / "study.db").write_text("no journal\n")
    with pytest.raises(RunError, match=r"study.db is damaged \(.*\): remove it and search again$"):
        made("random", tmp_path)
    (tmp_path / "study.db").write_bytes(b"SQLite format 3\0")
    with pytest.raises(RunError, match="is a database of SQLite: give the study another folder"):
        made("random", tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"arch": "[]"}, {"measured": "[]"}, {"measured": '{"accuracy": "a"}'}, {"asked": -1}, {"warm": True, "asked": 1}],
)
def test_a_damaged_trial_is_refused_in_one_line(tmp_path, changes):
    go_on(made("random", tmp_path), 3, 1)
    lines = (tmp_path / "study.db").read_text().splitlines()
    trial = json.loads(lines[-1])
    trial["user_attrs"] |= changes
    (tmp_path / "study.db").write_text("\n".join([*lines[:-1], json.dumps(trial)]) + "\n")
    with pytest.raises(RunError, match=r"trial 2 of .*study\.db") as caught:
        made("random", tmp_path)
    assert "\n" not in str(caught.value)


def test_choices_of_any_kind_that_can_be_written_down(tmp_path):
    space = {"a": [np.int64(3), np.float32(0.5)], "b": (None, True, "1", 2.5), "c": ((1, (2, "x")), ()), "d": range(3)}
    strategy = make("random", space, objectives="accuracy", study=tmp_path)
    for _ in range(12):
        strategy.tell(strategy.ask()[0], {"accuracy": 0.5})
    again = make("random", space, objectives="accuracy", study=tmp_path)
    assert outcome(again) == outcome(strategy)
    assert [type(c) for t in again.history.told for c in t.candidate.arch.values()] == [
        type(c) for t in strategy.history.told for c in t.candidate.arch.values()
    ]


@pytest.mark.parametrize("choice", [object, float("inf"), frozenset((1,)), "\ud800"])
def test_choices_that_cannot_be_written_down(tmp_path, choice):
    with pytest.raises(ConfigError, match=r"decision 'a' has the choice .*, which a study cannot hold .*: give text"):
        make("random", {"a": (1, choice)}, objectives="accuracy", study=tmp_path)
    make("random", {"a": (1, choice)}, objectives="accuracy").ask(2)


def test_more_candidates_without_a_result_than_a_study_keeps(tmp_path):
    strategy = made("random", tmp_path)
    with pytest.raises(CosearchError, match=f"at most {MOST_OPEN:,} candidates that have no result"):
        strategy.tell(Candidate(MOST_OPEN + 1, WARM[0]), result(WARM[0], 0))
    strategy.tell(Candidate(MOST_OPEN, WARM[0]), result(WARM[0], 0))
    assert outcome(made("random", tmp_path)) == outcome(strategy)


def test_a_candidate_of_an_earlier_process_may_be_told_before_it_is_asked_again(tmp_path):
    strategy = made("random", tmp_path)
    first, second, third = strategy.ask(3)
    strategy.tell(second, result(second.arch, 0))
    again = made("random", tmp_path)
    again.tell(first, result(first.arch, 0))
    assert again.ask(5) == [third]
