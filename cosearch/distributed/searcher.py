"""What Tune sees: a search algorithm that announces jobs, schedulers, what ends it, and trials that do one job each.

Apart from `cosearch.distributed.trials`, because importing Tune takes a second, which only its own process and those of
its trials need.
"""

from typing import Any, Protocol

import ray
from ray import tune
from ray.tune.experiment import Trial as Record
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from cosearch.distributed.tasks import fetch
from cosearch.shortlist import Halving, Lists, networks
from search_spaces.decisions import arch_key


class Source(Protocol):
    """Where jobs wait. A trial takes the next one when it begins, and keeps it when it is tried again."""

    @property
    def closed(self) -> bool: ...

    def announced(self) -> bool:
        """Whether there is a job that no trial was made for; it has one then."""

    def taken(self, trial_id: str) -> Any:
        """The job of a trial that has begun."""

    def ended(self, trial_id: str, error: bool) -> None: ...


class Submitted(Searcher):
    """config: of every trial."""

    def __init__(self, source: Source, config: dict[str, Any]) -> None:
        super().__init__()
        self._source, self._config = source, config

    def suggest(self, trial_id: str) -> Any:
        """A trial for each job; None if nothing waits, FINISHED if nothing will come."""
        if self._source.closed:
            return Searcher.FINISHED
        return {**self._config, "trial": trial_id} if self._source.announced() else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._source.ended(trial_id, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: Tune's folder is not restored from."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("Tune's folder is not restored from")


class Closing(Stopper):
    """Ends everything when nothing more is wanted, also what runs."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._source.closed

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes it into its folder, which is not restored from."""
        return {}


class Newest(FIFOScheduler):
    """Gives an actor that is free to the trial that was made last.

    Tune starts actors for the trials that were made first. One that is free takes over the trial chosen here, and the
    actor that was being started for that trial is killed. In Tune's own order, oldest first, trials shorter than the
    start of an actor (seconds) so kill one actor after another, and two do the work of eight. Jobs keep their order all
    the same, because a trial takes the next one when it begins.
    """

    def __init__(self) -> None:
        super().__init__()
        self._trials: dict[Record, None] = {}

    def on_trial_add(self, tune_controller: Any, trial: Record) -> None:
        self._trials[trial] = None

    def on_trial_error(self, tune_controller: Any, trial: Record) -> None:
        """It may be added again."""
        self._trials.pop(trial, None)

    def on_trial_complete(self, tune_controller: Any, trial: Record, result: dict[str, Any]) -> None:
        self._trials.pop(trial, None)

    def on_trial_remove(self, tune_controller: Any, trial: Record) -> None:
        self._trials.pop(trial, None)

    def choose_trial_to_run(self, tune_controller: Any) -> Record | None:
        return next((trial for trial in reversed(self._trials) if self._may_run(trial)), None)

    def _may_run(self, trial: Record) -> bool:
        return bool(trial.status == Record.PENDING)


class Rungs(Newest):
    """Successive halving: a step of a trial is a heat of its network; who is left when all are done goes on.

    A trial that waits for the others is paused without a checkpoint, and gives its resources away: each heat trains
    anew. Tune's HyperBand ranks trials by one number; here who is better depends on the accuracies and costs of all, so
    the rule is that of `cosearch.shortlist`, which gives the same halves in one process.
    """

    def __init__(self, source: Source, halving: Halving, lists: Lists) -> None:
        super().__init__()
        self._source, self._halving, self._lists = source, halving, lists
        self._scores: dict[str, float] = {}
        self._waiting: dict[Record, str] = {}
        self._goes_on: set[Record] = set()

    @property
    def epochs(self) -> int:
        """Of a training in the heat that is run now."""
        return self._halving.heat(self._lists)

    def on_trial_result(self, tune_controller: Any, trial: Record, result: dict[str, Any]) -> str:
        key = arch_key(self._source.taken(trial.trial_id).arch)
        self._scores[key] = result["score"]
        self._waiting[trial] = key
        self._goes_on.discard(trial)
        if len(self._scores) < len(networks(self._lists)):
            tune_controller.pause_trial(trial, should_checkpoint=False)
            return str(self.NOOP)
        return self._end_heat(tune_controller, trial)

    def _end_heat(self, tune_controller: Any, last: Record) -> str:
        """What becomes of the trial that was the last one."""
        self._lists = self._halving.better_half(self._lists, self._scores)
        left = networks(self._lists).keys() if self._halving.open(self._lists) else ()
        others = [(trial, key) for trial, key in self._waiting.items() if trial is not last]
        goes_on = self._waiting[last] in left
        self._scores.clear()
        self._waiting.clear()
        for trial, key in others:
            if key in left:
                self._goes_on.add(trial)
            else:
                tune_controller.stop_trial(trial)
        return str(self.CONTINUE if goes_on else self.STOP)

    def _may_run(self, trial: Record) -> bool:
        return super()._may_run(trial) or (trial.status == Record.PAUSED and trial in self._goes_on)


class Trial(tune.Trainable):
    """Does a job, a step at a time, and hands the value over itself. Tune only learns a score, and that it is over."""

    def setup(self, config: dict[str, Any]) -> None:
        self._config = config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next job; what was fetched for the last one serves again."""
        self._config = new_config
        return True

    def step(self) -> dict[str, Any]:
        import torch

        given = self._config
        torch.set_num_threads(given["threads"])
        inbox = given["tune"]
        number, job = ray.get(inbox.take.remote(given["trial"]))
        stored = fetch(given["stored"][0], given["device"])
        value, score = given["work"](stored, job, lambda n: inbox.epochs.remote(number, n))
        ray.get(inbox.deliver.remote(number, value))
        return {"done": True} if score is None else {"score": score}
