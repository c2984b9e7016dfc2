"""What Tune sees: a search algorithm that hands out what was submitted, and trials that do one job each.

Apart from `cosearch.distributed.trials`, because importing Tune takes a second, which only its own process and those of
its trials need.
"""

from typing import Any, Protocol

import ray
from ray import tune
from ray.tune.search import Searcher

from cosearch.distributed.tasks import fetch


class Source(Protocol):
    @property
    def closed(self) -> bool: ...

    def next_job(self) -> tuple[int, Any] | None: ...

    def failed(self, number: int, reason: str) -> None: ...


class Submitted(Searcher):
    """config: of every trial, beside its job and number."""

    def __init__(self, source: Source, config: dict[str, Any]) -> None:
        super().__init__()
        self._source, self._config = source, config
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        """What a trial is to do; None if nothing waits, FINISHED if nothing will come."""
        if self._source.closed:
            return Searcher.FINISHED
        job = self._source.next_job()
        if job is None:
            return None
        self._numbers[trial_id] = job[0]
        return {**self._config, "number": job[0], "job": job[1]}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number = self._numbers.pop(trial_id, None)
        if error and number is not None:
            self._source.failed(number, "its training failed every time it was tried: see Ray's logs")

    def save(self, checkpoint_path: str) -> None:
        """Nothing: Tune's folder is not restored from."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("Tune's folder is not restored from")


class Trial(tune.Trainable):
    """Does a job in one step and hands the value over itself. Tune only learns that it is over."""

    def setup(self, config: dict[str, Any]) -> None:
        self._job = config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next job; what was fetched for the last one serves again."""
        self._job = new_config
        return True

    def step(self) -> dict[str, Any]:
        import torch

        job = self._job
        torch.set_num_threads(job["threads"])
        inbox, number = job["tune"], job["number"]
        stored = fetch(job["stored"][0], job["device"])
        value = job["work"](stored, job["job"], lambda _: inbox.epochs.remote(number, 1))
        ray.get(inbox.deliver.remote(number, value))
        return {"done": True}
