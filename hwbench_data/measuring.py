"""Latency on this machine's processor with onnxruntime: pinned, warmed up, repeated until the median is certain.

A run during which the scheduler took the core away is dropped. Networks are measured in groups, each visited several
times in turn, so that a slow moment is shared out. The interval of a median follows from order statistics and assumes
no distribution. A figure whose interval stays wider than 2% is returned as not measured.
"""

import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cosearch.errors import ConfigError

Z = 1.96
"""Of a 95% interval."""


@dataclass(frozen=True)
class Protocol:
    """How a latency is measured. certainty: largest half-width of the median's 95% interval, as part of the median."""

    threads: int = 1
    core: int | None = None
    warm_up_runs: int = 3
    runs_per_visit: int = 8
    least_runs: int = 24
    most_runs: int = 400
    certainty: float = 0.02
    group: int = 12

    def __post_init__(self) -> None:
        if not (0 < self.certainty < 1 and 5 < self.least_runs <= self.most_runs and self.group > 0):
            raise ConfigError(f"{self}: expected certainty in (0, 1) and 6 <= least_runs <= most_runs")


@dataclass(frozen=True)
class Measurement:
    """median_ms with its 95% interval; dropped: runs during which the scheduler took the core away."""

    name: str
    median_ms: float
    low_ms: float
    high_ms: float
    runs: int
    dropped: int
    measured: bool

    @property
    def uncertainty(self) -> float:
        """Half-width of the interval as a part of the median."""
        return (self.high_ms - self.low_ms) / 2 / self.median_ms if self.median_ms else math.inf


def median_interval(times: Sequence[float]) -> tuple[float, float, float]:
    """Median and its 95% interval from order statistics: the values ``Z sqrt(n) / 2`` ranks to either side.

    Infinite bounds for fewer than six values, which cannot say.
    """
    ordered = np.sort(np.asarray(times, float))
    n = len(ordered)
    if n < 6:
        return float(np.median(ordered)) if n else math.inf, 0.0, math.inf
    reach = Z * math.sqrt(n) / 2
    low = max(0, math.floor((n - 1) / 2 - reach))
    high = min(n - 1, math.ceil((n - 1) / 2 + reach))
    return float(np.median(ordered)), float(ordered[low]), float(ordered[high])


@dataclass
class _Trial:
    """One network being measured."""

    name: str
    run: Callable[[], Any]
    times: list[float] = field(default_factory=list)
    dropped: int = 0

    def visit(self, protocol: Protocol) -> None:
        self.run()  # brings weights and code back into the caches after the other networks of the group
        for _ in range(protocol.runs_per_visit):
            before = _preemptions()
            start = time.perf_counter()
            self.run()
            elapsed = (time.perf_counter() - start) * 1e3
            if _preemptions() == before:
                self.times.append(elapsed)
            else:
                self.dropped += 1
                self.run()  # the other process left its data in the caches

    def result(self, protocol: Protocol) -> Measurement:
        median, low, high = median_interval(self.times)
        sure = len(self.times) >= protocol.least_runs and (high - low) / 2 <= protocol.certainty * median
        return Measurement(self.name, median, low, high, len(self.times), self.dropped, sure)


def measure(models: Iterable[tuple[str, bytes]], protocol: Protocol | None = None) -> Iterator[Measurement]:
    """Time ONNX models on one core, in their order.

    models: (name, serialised model with one input ``x``). The process stays pinned while this runs.
    Raises: ConfigError if onnxruntime is not installed or the core does not exist.
    """
    protocol = protocol or Protocol()
    session = _sessions(protocol)
    waiting = iter(models)
    with _pinned(protocol.core):
        while group := [_Trial(name, session(model)) for name, model in islice(waiting, protocol.group)]:
            for trial in group:
                for _ in range(protocol.warm_up_runs):
                    trial.run()
            open_trials = list(group)
            while open_trials:
                for trial in open_trials:
                    trial.visit(protocol)
                open_trials = [trial for trial in open_trials if not _finished(trial, protocol)]
            yield from (trial.result(protocol) for trial in group)


def network_models(space: Any, archs: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, bytes]]:
    """(notation, ONNX model) of networks of a space, with the rectifiers that the space says they have."""
    from hwbench_data.networks import notation
    from hwbench_data.onnxnet import onnx_model

    rectified = getattr(space, "rectified", lambda layer: False)
    for arch in archs:
        yield notation(arch), onnx_model(space.workload(arch), rectified)


def _finished(trial: _Trial, protocol: Protocol) -> bool:
    tried = len(trial.times) + trial.dropped
    return trial.result(protocol).measured or tried >= protocol.most_runs


def _sessions(protocol: Protocol) -> Callable[[bytes], Callable[[], Any]]:
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError("measuring needs onnxruntime: pip install 'cosearch[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = protocol.threads
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL

    def session(model: bytes) -> Callable[[], Any]:
        opened = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        shape = opened.get_inputs()[0].shape
        feed = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
        return lambda: opened.run(None, feed)

    return session


class _pinned:
    """Keep this process on one core; the last one by default, which fewer interrupts go to."""

    def __init__(self, core: int | None) -> None:
        self.core = core

    def __enter__(self) -> None:
        if not hasattr(os, "sched_setaffinity"):
            return
        self.before = os.sched_getaffinity(0)
        core = max(self.before) if self.core is None else self.core
        if core not in self.before:
            raise ConfigError(f"core {core}: this process may use {', '.join(map(str, sorted(self.before)))}")
        os.sched_setaffinity(0, {core})

    def __exit__(self, *_: object) -> None:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, self.before)


def _preemptions() -> int:
    """How often the scheduler took the core from this thread; 0 where the system does not count it."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)).ru_nivcsw


def machine() -> dict[str, str]:
    """What a measured figure belongs to."""
    from importlib.metadata import version

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    fields = {
        line.split(":", 1)[0].strip(): line.split(":", 1)[1].strip()
        for line in lines
        if line.startswith(("cpu family", "model\t", "cpu MHz", "flags"))
    }
    wide = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_tile") if flag in fields.get("flags", "").split()]
    return {
        "processor": named[0] if named else platform.processor() or platform.machine(),
        "family_model": f"{fields.get('cpu family', '?')}/{fields.get('model', '?')}",
        "vector_units": " ".join(wide),
        "clock_mhz": fields.get("cpu MHz", "unknown"),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "onnxruntime": version("onnxruntime"),
        "precision": "float32",
    }
