"""Long work as trials of Ray Tune: stand-alone trainings, of a search or of finalists.

Tune runs in an actor of its own, with a searcher that makes a trial for each job and a folder that nothing is ever
restored from: what is done stands in the run directory. A trial hands its value over itself, so that Tune carries
no weights. Actors are used again, and none of Tune's loggers run: for a trial of one second they take longer than it.
"""

import os
import queue
import shutil
import tempfile
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cosearch.accuracy import AccuracySource
from cosearch.distributed.cluster import FOLDER, Cluster, Share
from cosearch.distributed.tasks import RETRIES, here
from cosearch.errors import RunError
from cosearch.evaluators import Evaluation, evaluate
from cosearch.shortlist import Halving, Lists
from cosearch.strategies.base import Candidate, Failure

if TYPE_CHECKING:
    from cosearch.distributed.searcher import Rungs

Report = Callable[[int], None]
Work = Callable[[Any, Any, Report], tuple[Any, float | None]]
"""(value from the object store, job, on_epochs) -> result, and its score if a scheduler decides by it."""
TUNE_OPTIONS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # of a folder that is never read
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_THRESHOLD_S": "1000000000",
    "RAY_AIR_NEW_OUTPUT": "0",
}
WAITING = 16
"""Trials that wait for resources at least, so that nodes that join find some."""
POLL_SECONDS = 1.0
CLOSING_SECONDS = 30.0


@dataclass(frozen=True)
class Event:
    """What a trial did. kind: epochs, value (of a heat), done or failed."""

    kind: str
    number: int
    value: Any


class Trials:
    """Does jobs as Tune trials.

    work: an importable function; stored: what all jobs share, as `Cluster.store` gives it; threads: of torch in each.
    on_epochs: called with a number of epochs, from a thread of its own. halving: a rule and the lists that it begins
    with; the jobs are then a `Training` for each network, and end when Tune's scheduler leaves them out. on_value:
    called with the result of each heat, as on_epochs is.
    """

    def __init__(
        self,
        cluster: Cluster,
        share: Share,
        work: Work,
        stored: Any,
        threads: int,
        on_epochs: Report | None = None,
        halving: tuple[Halving, Lists] | None = None,
        on_value: Callable[[Any], None] | None = None,
    ) -> None:
        self._cluster, self._share, self._on_epochs, self._on_value = cluster, share, on_epochs, on_value
        self._futures: dict[int, Future[Any]] = {}
        self._submitted, self._closed = 0, False
        self._folder = None if cluster.remote else tempfile.mkdtemp(prefix=f"{FOLDER}-{os.getpid()}-")
        options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": 64}
        if not cluster.remote:  # here, where its folder can be removed, and lost only with this process
            node = ray.get_runtime_context().get_node_id()
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
        actor: Any = ray.remote(**options)(_Tune)
        self._tune = actor.remote(work, [stored], share, threads, cluster.slots(share), halving)
        self._ended = self._tune.run.remote([self._tune], self._folder)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def capacity(self) -> int:
        """As many wait as run: an actor that finds no next trial is ended, and a new one takes seconds to start."""
        return 2 * self._cluster.slots(self._share)

    def submit_job(self, job: Any) -> "Future[Any]":
        number, future = self._submitted, Future[Any]()
        self._submitted += 1
        self._futures[number] = future
        self._tune.submit.remote(number, job)
        return future

    def check(self) -> None:
        self._cluster.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        try:
            # Tune gives back what it reserved for trials; killed, it would hold that as long as this process runs
            ray.get(self._tune.close.remote())
            ray.wait([self._ended], timeout=CLOSING_SECONDS)
            ray.kill(self._tune)  # and with it what is left of its trials
        except ray.exceptions.RayError:
            pass  # it is gone already
        self._listener.join(2 * POLL_SECONDS)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _listen(self) -> None:
        """Settle futures as events come."""
        while not self._closed:
            try:
                events = ray.get(self._tune.events.remote())
            except Exception as error:  # whatever ended Tune ends what waits for it
                if not self._closed:
                    self._abandon(error)
                return
            for event in events:
                self._handle(event)

    def _handle(self, event: Event) -> None:
        if event.kind == "epochs":
            if self._on_epochs is not None:
                self._on_epochs(event.value)
        elif event.kind == "value":
            if self._on_value is not None:
                self._on_value(event.value)
        elif event.kind == "done":
            self._futures.pop(event.number).set_result(event.value)
        elif event.number in self._futures:
            self._futures.pop(event.number).set_exception(RunError(event.value))
        else:
            self._abandon(RunError(event.value))

    def _abandon(self, error: BaseException) -> None:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        for future in self._futures.values():
            future.set_exception(RunError(f"Ray Tune ended ({reason}): continue with cosearch resume"))
        self._futures.clear()


class Trainings(Trials):
    """Evaluates candidates by training each alone."""

    def __init__(self, cluster: Cluster, accuracy: AccuracySource, threads: int) -> None:
        super().__init__(cluster, cluster.share, _accuracy, cluster.store(accuracy), threads)

    def submit(self, candidate: Candidate) -> "Future[Evaluation]":
        result: Future[Evaluation] = Future()
        self.submit_job(candidate.arch).add_done_callback(partial(_settle, result))
        return result


def _settle(result: "Future[Evaluation]", done: "Future[Evaluation]") -> None:
    """A training whose workers died every time is a failure of its network."""
    error = done.exception()
    result.set_result(done.result() if error is None else Evaluation(Failure(str(error)), 0.0))


def _accuracy(source: AccuracySource, arch: Any, _: Report) -> tuple[Evaluation, None]:
    return evaluate(source, arch, here()), None


class _Tune:
    """The actor in which Tune runs; its other methods are called while `run` is."""

    def __init__(
        self,
        work: Work,
        stored: list[Any],
        share: Share,
        threads: int,
        slots: int,
        halving: tuple[Halving, Lists] | None,
    ) -> None:
        self._config = {"work": work, "stored": stored, "threads": threads, "device": share.device}
        self._share, self._slots, self._halving = share, slots, halving
        self._jobs: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._taken: dict[str, tuple[int, Any]] = {}
        self._unannounced: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._settled: set[int] = set()
        self._closed = threading.Event()
        self._rungs: Rungs | None = None

    def submit(self, number: int, job: Any) -> None:
        self._jobs.put((number, job))
        self._unannounced.put(None)

    def take(self, trial_id: str) -> tuple[int, Any]:
        """The job of a trial, the next one if it has none yet; of a network in a heat, its training there."""
        number, job = self._of(trial_id)
        return number, replace(job, heat=self._rungs.epochs) if self._rungs is not None else job

    def _of(self, trial_id: str) -> tuple[int, Any]:
        if trial_id not in self._taken:
            self._taken[trial_id] = self._jobs.get_nowait()  # there is one: trials are as many as jobs
        return self._taken[trial_id]

    def deliver(self, number: int, value: Any) -> None:
        """A trial's value; that of a trial done twice, because its node was lost at the end, is the same."""
        if self._rungs is not None:
            self._events.put(Event("value", number, value))
        else:
            self._settle(Event("done", number, value))

    def epochs(self, number: int, n: int) -> None:
        self._events.put(Event("epochs", number, n))

    def _settle(self, event: Event) -> None:
        if event.number not in self._settled:
            self._settled.add(event.number)
            self._events.put(event)

    def events(self) -> list[Event]:
        """What happened since the last call; waits a little for something."""
        try:
            found = [self._events.get(timeout=POLL_SECONDS)]
            while True:
                found.append(self._events.get_nowait())
        except queue.Empty:
            return found if "found" in locals() else []

    def close(self) -> None:
        self._closed.set()

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def announced(self) -> bool:
        try:
            self._unannounced.get_nowait()
        except queue.Empty:
            return False
        return True

    def taken(self, trial_id: str) -> Any:
        return self._of(trial_id)[1]

    def ended(self, trial_id: str, error: bool) -> None:
        """error: every time; also one that never began stands for a job."""
        number, _ = self._of(trial_id)
        del self._taken[trial_id]
        if error:
            self._settle(Event("failed", number, "its training failed every time it was tried: see Ray's logs"))
        else:
            self._settle(Event("done", number, None))

    def run(self, me: list[Any], folder: str | None) -> None:
        """Everything that is submitted, until it is closed. folder: for Tune; None makes one and removes it."""
        os.environ.update(TUNE_OPTIONS, TUNE_MAX_PENDING_TRIALS_PG=str(max(WAITING, 2 * self._slots)))
        from ray import tune

        from cosearch.distributed.searcher import Closing, Newest, Rungs, Submitted, Trial

        if self._halving is not None:
            self._rungs = Rungs(self, *self._halving)
        own = folder or tempfile.mkdtemp(prefix=f"{FOLDER}-{os.getpid()}-")
        try:
            tune.run(
                Trial,
                name="trials",
                storage_path=own,
                search_alg=Submitted(self, {**self._config, "tune": me[0]}),
                scheduler=self._rungs or Newest(),
                stop=Closing(self),
                num_samples=-1,
                resources_per_trial={"cpu": self._share.cpus, "gpu": self._share.gpus},
                max_failures=RETRIES,
                reuse_actors=True,
                raise_on_failed_trial=False,
                callbacks=[],
                verbose=0,
            )
        except Exception:
            self._events.put(Event("failed", -1, traceback.format_exc()))
        finally:
            if folder is None:
                shutil.rmtree(own, ignore_errors=True)
