"""The order in which a search is told its results, and its replay; no Ray here."""

import itertools
import random
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosearch.config import RunConfig
from cosearch.errors import CosearchError
from cosearch.evaluators import Evaluation, Pending, Threads, evaluate
from cosearch.runs import RunDirectory
from cosearch.strategies import Objectives, make
from cosearch.strategies.base import Candidate, Failure
from cosearch.strategies.study import TrialLog
from search_spaces.decisions import Decisions

SPACE = Decisions({f"d{i}": tuple("abcd") for i in range(6)})
OBJECTIVES = Objectives(("accuracy", "latency_ms"))
COSTS = {"latency_ms": lambda arch: 1.0 + sum("abcd".index(v) for v in arch.values())}


def accuracy(arch: dict[str, str]) -> float:
    return sum("abcd".index(v) ** 1.5 for v in arch.values()) / 40


@dataclass
class Shuffled:
    """Settles what is pending in an order of its own, some of it whenever more is asked for."""

    seed: int
    capacity: int
    waiting: list[tuple[Candidate, "Future[Evaluation]"]] = field(default_factory=list)
    evaluated: list[Candidate] = field(default_factory=list)
    most: int = 0

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)

    def submit(self, candidate: Candidate) -> "Future[Evaluation]":
        future: Future[Evaluation] = Future()
        self.waiting.append((candidate, future))
        self.evaluated.append(candidate)
        self.most = max(self.most, len(self.waiting))
        return future

    def settle(self, everything: bool = False) -> None:
        self._rng.shuffle(self.waiting)
        n = len(self.waiting) if everything else self._rng.randint(1, len(self.waiting))
        for candidate, future in self.waiting[:n]:
            future.set_result(Evaluation(accuracy(candidate.arch), 0.0))
        self.waiting = self.waiting[n:]

    def check(self) -> None:
        raise AssertionError("nothing came")


def search(log: TrialLog, evaluator: Shuffled, order: Any, trials: int, die_after: int = 10**9) -> list[Candidate]:
    """The loop of `cosearch.search` on a toy; it ends without a word after so many results."""
    strategy: Any = make("evolutionary", SPACE, COSTS, OBJECTIVES, 3, batch=1 if order == "async" else 4)
    pending = Pending(evaluator, order, 4)
    resumed = log.replay(strategy)
    for candidate in resumed:
        pending.submit(candidate)
    told = strategy.history.told
    while len(told) < trials:
        for candidate in strategy.ask(n) if (n := pending.wanted(len(told), trials)) else []:
            pending.submit(candidate)
        evaluator.settle(everything=order == "batch")
        for candidate, evaluation in pending.results():
            if len(told) == die_after:
                return resumed
            assert not isinstance(evaluation.accuracy, Failure)
            outcome = {"accuracy": evaluation.accuracy, "latency_ms": COSTS["latency_ms"](candidate.arch)}
            asked = strategy.history.next_number if order == "async" else None
            log.add(candidate, outcome, None, "table", 0.0, asked)
            strategy.tell(candidate, outcome)
    return resumed


@pytest.fixture
def run_directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", RunConfig())


def open_log(run: RunDirectory) -> TrialLog:
    return TrialLog(run.path, "co-search", SPACE, OBJECTIVES)


def networks(log: TrialLog) -> list[dict[str, str]]:
    return [trial.params for trial in log.study.trials]


@settings(max_examples=5)
@given(seed=st.integers(0, 2**16), capacity=st.integers(1, 9), cut=st.integers(0, 23))
def test_an_interrupted_search_in_any_order_loses_and_doubles_nothing(seed: int, capacity: int, cut: int) -> None:
    with TemporaryDirectory() as folder:
        run = RunDirectory.create(Path(folder) / "run", RunConfig())
        first = Shuffled(seed, capacity)
        search(open_log(run), first, "async", 24, die_after=cut)
        told = {trial.user_attrs["number"] for trial in open_log(run).study.trials}
        assert len(told) == cut
        second = Shuffled(seed + 1, capacity)
        resumed = search(open_log(run), second, "async", 24)
        # what was under evaluation at a recorded result comes back under its number, with its network
        before = {candidate.number: candidate.arch for candidate in first.evaluated}
        assert all(before[candidate.number] == candidate.arch for candidate in resumed)
        assert not told & {candidate.number for candidate in second.evaluated}
        trials = open_log(run).study.trials
        assert sorted(trial.user_attrs["number"] for trial in trials) == list(range(24))
        assert len({str(trial.params) for trial in trials}) == 24
        assert first.most <= capacity
        assert second.most <= capacity + len(resumed)


def test_a_study_replays_from_its_own_record(run_directory: RunDirectory) -> None:
    """Asked again between the same results, every proposal is what it was."""
    search(open_log(run_directory), Shuffled(5, 6), "async", 24)
    log = open_log(run_directory)
    strategy: Any = make("evolutionary", SPACE, COSTS, OBJECTIVES, 3)
    asked: dict[int, Any] = {}
    original = strategy.ask
    strategy.ask = lambda n: [asked.setdefault(c.number, c) for c in original(n)]
    assert log.replay(strategy) == []
    recorded = {trial.user_attrs["number"]: trial.params for trial in log.study.trials}
    assert {number: candidate.arch for number, candidate in asked.items()} == recorded
    assert [t.candidate.number for t in strategy.history.told] != sorted(recorded)


def test_results_by_batch_do_not_depend_on_who_comes_first(tmp_path: Path) -> None:
    found = []
    for seed, cut in ((1, None), (2, None), (3, 10)):
        run = RunDirectory.create(tmp_path / str(seed), RunConfig())
        if cut is not None:
            search(open_log(run), Shuffled(9, 4), "batch", 22, die_after=cut)
        evaluator = Shuffled(seed, 1)
        search(open_log(run), evaluator, "batch", 22)
        found.append(networks(open_log(run)))
        assert evaluator.most <= 4
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 22


def test_waiting_asks_the_evaluator_whether_anything_can_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosearch.evaluators.PATIENCE_SECONDS", 0.01)
    for order in ("batch", "async"):
        pending = Pending(Shuffled(0, 2), order, 4)  # type: ignore[arg-type]
        pending.submit(Candidate(0, {}))
        with pytest.raises(AssertionError, match="nothing came"):
            next(pending.results())


def test_threads_evaluate_at_once_and_failures_are_results() -> None:
    numbers: Iterator[int] = itertools.count()

    def sometimes(arch: Any) -> float:
        n = next(numbers)
        if n == 1:
            raise CosearchError("the loss became nan")
        return float("nan") if n == 2 else 0.5

    with Threads(sometimes, 1, 1) as threads:
        found = [threads.submit(Candidate(i, {})).result().accuracy for i in range(3)]
    assert found == [0.5, Failure("the loss became nan"), Failure("accuracy is nan")]
    assert evaluate(lambda _: 0.25, {}, "there").node == "there"


def test_an_evaluation_that_raises_names_its_network() -> None:
    def accuracy(arch: dict[str, str]) -> float:
        raise ZeroDivisionError("two\nlines")

    with pytest.raises(CosearchError, match=r"^the evaluation of a=1,b=x raised ZeroDivisionError: two lines$") as got:
        evaluate(accuracy, {"b": "x", "a": "1"})
    assert isinstance(got.value.__cause__, ZeroDivisionError)
