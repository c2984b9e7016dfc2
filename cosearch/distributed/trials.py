"""Long work as trials of Ray Tune: stand-alone trainings, of a search or of finalists.

Tune runs in an actor of its own, with a searcher that hands out what was submitted and a folder that nothing is ever
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
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cosearch.accuracy import AccuracySource
from cosearch.distributed.cluster import FOLDER, Cluster, Share
from cosearch.distributed.tasks import RETRIES, here
from cosearch.errors import RunError
from cosearch.evaluators import Evaluation, evaluate
from cosearch.strategies.base import Candidate, Failure

Report = Callable[[int], None]
Work = Callable[[Any, Any, Report], Any]
"""(value from the object store, job, on_epoch) -> result."""
TUNE_OPTIONS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # of a folder that is never read
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_THRESHOLD_S": "1000000000",
    "RAY_AIR_NEW_OUTPUT": "0",
}
POLL_SECONDS = 1.0
CLOSING_SECONDS = 30.0


@dataclass(frozen=True)
class Event:
    """What a trial did. kind: epochs, done or failed."""

    kind: str
    number: int
    value: Any


class Trials:
    """Does jobs as Tune trials.

    work: an importable function; stored: what all jobs share, as `Cluster.store` gives it; threads: of torch in each.
    on_epochs: called with a number of epochs, from a thread of its own.
    """

    def __init__(
        self,
        cluster: Cluster,
        share: Share,
        work: Work,
        stored: Any,
        threads: int,
        on_epochs: Report | None = None,
    ) -> None:
        self._cluster, self._share, self._on_epochs = cluster, share, on_epochs
        self._futures: dict[int, Future[Any]] = {}
        self._submitted, self._closed = 0, False
        self._folder = None if cluster.remote else tempfile.mkdtemp(prefix=f"{FOLDER}-{os.getpid()}-")
        options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": 64}
        if not cluster.remote:  # here, where its folder can be removed, and lost only with this process
            node = ray.get_runtime_context().get_node_id()
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
        actor: Any = ray.remote(**options)(_Tune)
        self._tune = actor.remote(work, [stored], share, threads, cluster.slots(share))
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
            if self._folder is None:  # on another machine, where Tune removes it
                ray.get(self._tune.close.remote())
                ray.wait([self._ended], timeout=CLOSING_SECONDS)
            ray.kill(self._tune)  # and with it its trials
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


def _accuracy(source: AccuracySource, arch: Any, _: Report) -> Evaluation:
    return evaluate(source, arch, here())


class _Tune:
    """The actor in which Tune runs; its other methods are called while `run` is."""

    def __init__(self, work: Work, stored: list[Any], share: Share, threads: int, slots: int) -> None:
        self._config = {"work": work, "stored": stored, "threads": threads, "device": share.device}
        self._share, self._slots = share, slots
        self._jobs: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._settled: set[int] = set()
        self._closed = threading.Event()

    def submit(self, number: int, job: Any) -> None:
        self._jobs.put((number, job))

    def deliver(self, number: int, value: Any) -> None:
        """A trial's value; that of a trial done twice, because its node was lost at the end, is the same."""
        if number not in self._settled:
            self._settled.add(number)
            self._events.put(Event("done", number, value))

    def epochs(self, number: int, n: int) -> None:
        self._events.put(Event("epochs", number, n))

    def failed(self, number: int, reason: str) -> None:
        if number not in self._settled:
            self._settled.add(number)
            self._events.put(Event("failed", number, reason))

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

    def next_job(self) -> tuple[int, Any] | None:
        try:
            return self._jobs.get_nowait()
        except queue.Empty:
            return None

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def run(self, me: list[Any], folder: str | None) -> None:
        """Everything that is submitted, until it is closed. folder: for Tune; None makes one and removes it."""
        os.environ.update(TUNE_OPTIONS, TUNE_MAX_PENDING_TRIALS_PG=str(2 * self._slots))
        from ray import tune

        from cosearch.distributed.searcher import Submitted, Trial

        own = folder or tempfile.mkdtemp(prefix=f"{FOLDER}-{os.getpid()}-")
        try:
            tune.run(
                Trial,
                name="trials",
                storage_path=own,
                search_alg=Submitted(self, {**self._config, "tune": me[0]}),
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
