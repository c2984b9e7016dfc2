"""Tune's scheduler halves as one process does, in whichever order trials end; without Ray, a controller stands in."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from cosearch.shortlist import Designs, Halving, Lists, networks, shortlist
from cosearch.strategies.objectives import Objectives
from search_spaces.decisions import Arch, arch_key

pytest.importorskip("ray")

from ray.tune.experiment import Trial as Record

from cosearch.distributed.searcher import Newest, Rungs

OBJECTIVES = Objectives(("accuracy", "energy_mj"))
EPOCHS = 12


def score(arch: Arch, epochs: int) -> float:
    """Of a short training, made up."""
    return float(np.random.default_rng([arch["a"], epochs]).uniform(0.5, 1.0))


def searches(seed: int, candidates: int) -> tuple[Halving, Lists]:
    """Three searches that found some of the same networks, each with two points of its hardware front."""
    rng = np.random.default_rng(seed)
    found = {}
    for name in ("co-search", "conv-only", "random search"):
        archs = [{"a": int(a)} for a in rng.choice(12, size=rng.integers(1, 9), replace=False)]
        rows = tuple((arch, point) for arch in archs for point in (0, 1))
        accuracy = np.repeat(rng.uniform(0.5, 1.0, len(archs)), 2)
        found[name] = Designs({"energy_mj": rng.uniform(1.0, 9.0, len(rows)), "accuracy": accuracy}, rows)
    return Halving(found, OBJECTIVES, 100, EPOCHS), shortlist(found, OBJECTIVES, 50, candidates)


@dataclass(eq=False)
class FakeTrial:
    trial_id: str
    status: str = Record.PENDING


class Controller:
    """Pauses, stops and runs trials as Tune does. scheduler, jobs: set before it is used."""

    def __init__(self, slots: int, rng: np.random.Generator) -> None:
        self.slots, self.rng = slots, rng
        self.trained: list[tuple[str, int]] = []

    def pause_trial(self, trial: FakeTrial, should_checkpoint: bool) -> None:
        assert not should_checkpoint  # it would go to a folder of one machine
        trial.status = Record.PAUSED

    def stop_trial(self, trial: FakeTrial) -> None:
        trial.status = Record.TERMINATED
        self.scheduler.on_trial_complete(self, trial, {})

    def run(self, scheduler: Rungs, archs: list[Arch]) -> None:
        self.scheduler = scheduler
        trials = [FakeTrial(str(i)) for i in range(len(archs))]
        for trial in trials:
            scheduler.on_trial_add(self, trial)
        while any(trial.status != Record.TERMINATED for trial in trials):
            while sum(t.status == Record.RUNNING for t in trials) < self.slots:
                chosen = scheduler.choose_trial_to_run(self)
                if chosen is None:
                    break
                chosen.status = Record.RUNNING
            running = [t for t in trials if t.status == Record.RUNNING]
            trial = running[self.rng.integers(len(running))]
            arch = archs[int(trial.trial_id)]
            self.trained.append((arch_key(arch), scheduler.epochs))
            action = scheduler.on_trial_result(self, trial, {"score": score(arch, scheduler.epochs)})
            if action == "STOP":
                self.stop_trial(trial)


@pytest.mark.parametrize("seed", range(40))
def test_tunes_scheduler_leaves_what_one_process_leaves(seed):
    rng = np.random.default_rng([seed, 1])
    halving, lists = searches(seed, int(rng.integers(2, 9)))
    begun, trained = lists, []
    while halving.open(lists):
        left, epochs = networks(lists), halving.heat(lists)
        trained += [(key, epochs) for key in left]
        lists = halving.better_half(lists, {key: score(arch, epochs) for key, arch in left.items()})
    assert sum(epochs for _, epochs in trained) <= halving.most_epochs(begun)
    if not trained:
        return
    archs = list(networks(begun).values())
    rungs = Rungs(SimpleNamespace(taken=lambda i: SimpleNamespace(arch=archs[int(i)])), halving.of(begun), begun)
    controller = Controller(int(rng.integers(1, 5)), rng)
    controller.run(rungs, archs)
    assert sorted(controller.trained) == sorted(trained)
    assert rungs._lists == lists


def test_halves_are_those_of_a_sort_where_only_accuracy_counts():
    objectives = Objectives(("accuracy",))
    archs = [{"a": i} for i in range(7)]
    rows = tuple((arch, 0) for arch in archs)
    halving = Halving({"one": Designs({"accuracy": np.linspace(0, 1, 7)}, rows)}, objectives, 100, EPOCHS)
    lists = {"one": list(rows)}
    for length in (4, 2, 1):
        scores = {arch_key(arch): score(arch, length) for arch, _ in lists["one"]}
        lists = halving.better_half(lists, scores)
        best = sorted(scores.values(), reverse=True)[:length]
        assert [scores[arch_key(arch)] for arch, _ in lists["one"]] == best


def test_a_free_actor_goes_to_the_newest_trial_that_waits():
    scheduler, trials = Newest(), [FakeTrial(str(i)) for i in range(4)]
    for trial in trials:
        scheduler.on_trial_add(None, trial)
    assert scheduler.choose_trial_to_run(None) is trials[3]
    trials[3].status = Record.RUNNING
    assert scheduler.choose_trial_to_run(None) is trials[2]
    scheduler.on_trial_error(None, trials[3])  # it is tried again
    trials[3].status = Record.PENDING
    scheduler.on_trial_add(None, trials[3])
    assert scheduler.choose_trial_to_run(None) is trials[3]
    for trial in trials:
        scheduler.on_trial_complete(None, trial, {})
    assert scheduler.choose_trial_to_run(None) is None


def test_a_trial_keeps_its_job_and_jobs_keep_their_order():
    from cosearch.distributed.cluster import Share
    from cosearch.distributed.trials import _Tune

    tune = _Tune(lambda *_: None, [], Share(), 1, 2, None)
    assert not tune.announced()
    for number, job in enumerate("abc"):
        tune.submit(number, job)
    assert [tune.announced() for _ in range(4)] == [True, True, True, False]  # a trial for each job
    assert tune.take("late") == (0, "a")
    assert tune.take("early") == (1, "b")
    assert tune.take("late") == (0, "a")  # tried again
    tune.deliver(1, "done")
    tune.deliver(1, "done")  # by a node that was lost at the end
    tune.ended("early", error=False)
    tune.ended("late", error=True)
    tune.ended("never began", error=True)
    events = [(e.kind, e.number) for e in tune.events()]
    assert events == [("done", 1), ("failed", 0), ("failed", 2)]
