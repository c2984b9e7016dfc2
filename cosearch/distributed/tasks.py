"""Short work as Ray tasks: evaluations of a search, blocks of layers to price, blocks of networks of a table.

What they need (supernet, images, cost tensor) lies in the object store and is unpacked once per worker process.
"""

import os
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import pairwise
from typing import Any, Self

import ray

from cosearch.distributed.cluster import Cluster, Share
from cosearch.distributed.packing import pack, unpack
from cosearch.evaluators import PATIENCE_SECONDS, Evaluation, evaluate
from cosearch.hardware.tables import AcceleratorSpace, Floats
from cosearch.hardware.tensor import CostTensor, cost_tensor, joined
from cosearch.strategies.base import Candidate, Failure
from cosearch.workload import Layer
from search_spaces.decisions import Arch

ONE_CPU = Share()
"""What a block of pricing, or of a table, takes."""
RETRIES = 3
"""How often work whose worker or node died is done again elsewhere."""
BLOCKS = 2
"""Blocks of layers for each CPU: layers differ in how long they take."""
KEPT = 4
"""Values that a worker process keeps unpacked."""
_unpacked: dict[str, Any] = {}


def fetch(reference: Any, device: str = "cpu") -> Any:
    """A value from the object store, unpacked once in this process. device: where torch has what can be moved."""
    key = f"{reference.hex()} {device}"
    if key not in _unpacked:
        while len(_unpacked) >= KEPT:
            del _unpacked[next(iter(_unpacked))]
        value = unpack(ray.get(reference))
        _unpacked[key] = value.to(device) if hasattr(value, "to") else value
    return _unpacked[key]


def here() -> str:
    """This machine and process, for the log."""
    return f"{platform.node()}:{os.getpid()}"


class Tasks:
    """Evaluates candidates as tasks. threads: of torch in each."""

    def __init__(self, cluster: Cluster, accuracy: Callable[[Arch], float], threads: int) -> None:
        self._cluster, self._threads = cluster, threads
        self._accuracy = cluster.store(accuracy)
        share = cluster.share
        self._task = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=RETRIES)(_evaluate)

    @property
    def capacity(self) -> int:
        """A few more than run, so that no worker waits for the next proposal."""
        slots = self._cluster.slots(self._cluster.share)
        return slots + (slots + 3) // 4

    def submit(self, candidate: Candidate) -> "Future[Evaluation]":
        device = self._cluster.share.device
        # a reference inside a list is handed on as it is
        task = self._task.remote([self._accuracy], candidate.arch, self._threads, device)
        return settled(task.future())

    def check(self) -> None:
        self._cluster.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _evaluate(accuracy: list[Any], arch: Arch, threads: int, device: str) -> Evaluation:
    import torch

    torch.set_num_threads(threads)
    return evaluate(fetch(accuracy[0], device), arch, here())


def price(
    cluster: Cluster,
    layers: tuple[Layer, ...],
    space: AcceleratorSpace,
    policies: tuple[float, ...],
    progress: Callable[[int, int], None] | None,
) -> CostTensor:
    """The cost tensor of layers, priced in blocks of neighbours, which no kernel treats otherwise than apart."""
    count = min(len(layers), BLOCKS * max(1, cluster.slots(ONE_CPU)))
    cuts = [len(layers) * i // count for i in range(count + 1)]
    blocks = [(layers[a:b], policies) for a, b in pairwise(cuts)]

    def on_block(block: tuple[tuple[Layer, ...], tuple[float, ...]]) -> None:
        done.append(len(block[0]))
        if progress is not None:
            progress(sum(done), len(layers))

    done: list[int] = []
    return joined(layers, space, policies, each(cluster, _price, space, blocks, on_block))


def _price(
    space: AcceleratorSpace, block: tuple[tuple[Layer, ...], tuple[float, ...]]
) -> tuple[dict[str, list[Floats]], dict[str, list[Floats]]]:
    layers, policies = block
    tensor = cost_tensor(layers, space, cache=False, policies=policies)
    return tensor.latency, tensor.energy


def each(
    cluster: Cluster,
    work: Callable[[Any, Any], Any],
    shared: Any,
    parts: Sequence[Any],
    on_part: Callable[[Any], None] = lambda part: None,
) -> list[Any]:
    """An importable function of what is shared and of each part, a task of one CPU a part. Returns: in their order.

    on_part: called with a part that is done.
    """
    task = ray.remote(num_cpus=ONE_CPU.cpus, max_retries=RETRIES)(_apply)
    stored = [ray.put(pack(shared))]  # until this returns
    pending = [task.remote(work, stored, part) for part in parts]
    part_of = dict(zip(pending, parts, strict=True))
    waiting = list(pending)
    while waiting:
        ready, waiting = ray.wait(waiting, timeout=PATIENCE_SECONDS)
        for reference in ready:
            on_part(part_of[reference])
        if not ready:
            cluster.check(ONE_CPU)
    return list(ray.get(pending))


def _apply(work: Callable[[Any, Any], Any], shared: list[Any], part: Any) -> Any:
    return work(fetch(shared[0]), part)


def settled(future: "Future[Evaluation]") -> "Future[Evaluation]":
    """An evaluation whose workers died every time is a failure of its network, as one that raises an error is."""
    result: Future[Evaluation] = Future()
    future.add_done_callback(partial(_settle, result))
    return result


def _settle(result: "Future[Evaluation]", done: "Future[Evaluation]") -> None:
    died = (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError)
    error = done.exception()
    if error is None:
        result.set_result(done.result())
    elif isinstance(error, died):
        reason = str(error).strip().splitlines()[0]
        result.set_result(Evaluation(Failure(f"its worker died {RETRIES + 1} times: {reason}"), 0.0))
    else:
        result.set_exception(error)
