"""Where networks are evaluated, and in which order their results come: what the search loop knows of both.

An evaluator takes candidates and gives futures, in this process (`Threads`) or on Ray (`cosearch.distributed`). Orders:
``batch`` proposes whole batches and tells their results as they were asked, whatever came first, so that a search
proposes the same wherever it is evaluated; ``async`` tells results as they come and asks for one more for each.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from math import isfinite
from types import TracebackType
from typing import Literal, Protocol, Self

from cosearch.config import RunConfig
from cosearch.errors import CosearchError, described
from cosearch.strategies.base import Candidate, Failure
from search_spaces.decisions import Arch, arch_key, network_of

Order = Literal["batch", "async"]
PATIENCE_SECONDS = 10.0
"""How long nothing may come before the evaluator is asked whether anything still can."""
PARALLEL_PIXELS = 32 * 32
"""Images from this size on use several threads per operation; for smaller ones the threads wait for each other."""


def start_threads(config: RunConfig, pixels: int) -> tuple[int, int]:
    """Choose how the CPU threads are used. pixels: of one image.

    Returns: how many networks to evaluate at once, and how many threads torch uses for each: 0 where it has no part.
    """
    if not config.trains:
        return 1, 0
    import torch

    at_once = evaluations_at_once(config.threads, pixels)
    torch.set_num_threads(config.threads // at_once)
    return at_once, config.threads // at_once


def evaluations_at_once(threads: int, pixels: int) -> int:
    return 1 if pixels >= PARALLEL_PIXELS else threads


@dataclass(frozen=True)
class Evaluation:
    """An accuracy in [0, 1]. seconds: of the evaluation alone. node: the machine that did it, if it may be another."""

    accuracy: float | Failure
    seconds: float
    node: str = ""


class Evaluator(Protocol):
    @property
    def capacity(self) -> int:
        """How many candidates keep it busy; machines may come and go."""

    def submit(self, candidate: Candidate) -> "Future[Evaluation]": ...

    def check(self) -> None:
        """Raises: CosearchError if what was submitted can never run, as when machines are gone."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Threads:
    """Evaluates in this process. inside: threads of torch in each of its own; 0 where torch computes nothing."""

    def __init__(self, accuracy: Callable[[Arch], float], at_once: int, inside: int) -> None:
        self._accuracy, self.capacity = accuracy, max(1, at_once)
        self._pool = ThreadPoolExecutor(self.capacity, initializer=_use_threads, initargs=(inside,))

    def submit(self, candidate: Candidate) -> "Future[Evaluation]":
        return self._pool.submit(evaluate, self._accuracy, candidate.arch)

    def check(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)


def _use_threads(inside: int) -> None:
    if inside:
        import torch

        torch.set_num_threads(inside)


def evaluate(accuracy: Callable[[Arch], float], arch: Arch, node: str = "") -> Evaluation:
    """An evaluation that fails or gives no number is a result like any other; the search goes on.

    Raises: CosearchError that names the network, for what is no failure of its own but of the code that evaluates it.
    """
    started = time.monotonic()
    found: float | Failure
    try:
        found = accuracy(arch)
    except CosearchError as error:
        found = Failure(str(error))
    except Exception as error:
        raise CosearchError(f"the evaluation of {arch_key(arch)} raised {described(error)}") from error
    if not isinstance(found, Failure) and not isfinite(found):
        found = Failure(f"accuracy is {found}")
    return Evaluation(found, time.monotonic() - started, node)


class Pending:
    """Candidates that were asked and not told yet."""

    def __init__(self, evaluator: Evaluator, order: Order, batch: int) -> None:
        self._evaluator, self._order, self._batch = evaluator, order, batch
        self._futures: dict[Future[Evaluation], Candidate] = {}

    def __len__(self) -> int:
        return len(self._futures)

    @property
    def evaluations(self) -> int:
        """How many of them take an evaluation."""
        return sum(candidate.accuracy is None for candidate in self._futures.values())

    def submit(self, candidate: Candidate) -> None:
        """Have its network evaluated, if that was not done before."""
        if candidate.accuracy is None:
            future = self._evaluator.submit(replace(candidate, arch=network_of(candidate.arch)))
        else:
            future = Future()
            future.set_result(Evaluation(candidate.accuracy, 0.0))
        self._futures[future] = candidate

    def wanted(self, told: int, trials: int) -> int:
        """How many candidates to ask for now. told: results so far; trials: results in the end."""
        left = trials - told - len(self)
        if self._order == "async":
            return max(0, min(self._evaluator.capacity - len(self), left))
        # a batch ends where a generation does, so that what is proposed never depends on how many run at once
        return 0 if self._futures else min(self._batch - told % self._batch, left)

    def results(self) -> Iterator[tuple[Candidate, Evaluation]]:
        """Wait, and give all that is pending as it was asked, or (async) what is done by now, at least one."""
        futures = list(self._futures)
        if not futures:
            return
        if self._order == "async":
            done = self._done(futures)
            futures = [future for future in futures if future in done]
        for future in futures:
            self._done([future])
            yield self._futures.pop(future), future.result()

    def _done(self, futures: "list[Future[Evaluation]]") -> "set[Future[Evaluation]]":
        while not (done := wait(futures, PATIENCE_SECONDS, FIRST_COMPLETED).done):
            self._evaluator.check()
        return done
