"""How searches scale on Ray: evaluations that sleep a second, on 1 to 8 simulated workers.

``python -m tests.benchmarks.ray_scale`` measures what is not in docs/benchmarks/ray.json yet and writes
docs/benchmarks/ray.md; ``--workers 1 2 --kinds tasks`` measures some of it again. What runs is the search's own loop:
proposals, Ray, study.db. Evaluations sleep, so that eight workers need no eight cores; what is not sleep is overhead.
"""

import argparse
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cosearch.config import RunConfig
from cosearch.evaluators import Pending
from cosearch.runs import RunDirectory
from cosearch.strategies import Objectives, make
from cosearch.strategies.base import Candidate
from cosearch.strategies.study import TrialLog, study_storage
from search_spaces.decisions import Arch, Decisions
from tests.benchmarks.machine import stamp

PAGE = Path(__file__).parents[2] / "docs/benchmarks/ray.md"
FIGURES = PAGE.with_suffix(".json")
WORKERS = (1, 2, 4, 8)
KINDS = ("tasks", "tune")
REQUIRED = {"tasks": (0.95, 50.0), "tune": (0.80, 200.0)}
"""Least parallel efficiency on 8 workers, and most overhead of a trial, ms."""
SPACE = Decisions({f"layer{i}": tuple("abcd") for i in range(12)})
OBJECTIVES = Objectives(("accuracy", "latency_ms"))
SECONDS = 1.0


class Sleeper:
    """An accuracy source that takes a second."""

    images = 1

    def __call__(self, arch: Arch) -> float:
        time.sleep(SECONDS)
        return _accuracy(arch)


def _accuracy(arch: Arch) -> float:
    return sum("abcd".index(str(v)) for v in arch.values()) / 40


def _latency(arch: Arch) -> float:
    return 1.0 + sum("abcd".index(str(v)) ** 2 for v in arch.values())


def measure(kind: str, workers: int, evaluations: int) -> dict[str, float]:
    """One search. Start-up: until each worker has given a result; the clock starts then."""
    import ray

    from cosearch.distributed.connection import connected
    from cosearch.distributed.tasks import Tasks
    from cosearch.distributed.trials import Trainings

    folder = Path(tempfile.mkdtemp(prefix="cs-"))
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0", RAY_AUTH_MODE="disabled")
    started = time.monotonic()
    ray.init(
        num_cpus=workers, include_dashboard=False, _temp_dir=str(folder), object_store_memory=200 << 20,
        log_to_driver=False, logging_level="ERROR",
    )  # fmt: skip
    try:
        chosen = Tasks if kind == "tasks" else Trainings
        with connected(RunConfig(ray="local")) as cluster, chosen(cluster, Sleeper(), 1) as evaluator:
            run = RunDirectory.create(folder / "run", RunConfig())
            log = TrialLog(run.path, "co-search", SPACE, OBJECTIVES)
            figures = _search(log, evaluator, workers, evaluations)
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    figures["start_up_s"] -= started
    return {"evaluations": evaluations, **figures, "load": os.getloadavg()[0]}


def _search(log: TrialLog, evaluator: Any, workers: int, evaluations: int) -> dict[str, float]:
    """The loop of `cosearch.search`, results in any order.

    Returns: when every worker had given a result; of so many results after that, wall seconds and processor ms each, of
    this process and of Tune's.
    """
    strategy: Any = make("random", SPACE, {"latency_ms": _latency}, OBJECTIVES, 0)
    pending, told = Pending(evaluator, "async", 1), strategy.history.told
    nodes: set[str] = set()
    trials, wall, busy, tune = SPACE.size, 0.0, 0.0, 0.0
    while len(told) < trials:
        for candidate in strategy.ask(n) if (n := pending.wanted(len(told), trials)) else []:
            pending.submit(candidate)
        for candidate, evaluation in pending.results():
            outcome = {"accuracy": evaluation.accuracy, "latency_ms": _latency(candidate.arch)}
            log.add(candidate, outcome, None, "table", evaluation.seconds, strategy.history.next_number)
            strategy.tell(candidate, outcome)
            nodes.add(evaluation.node)
            if len(nodes) == workers and not wall:
                trials, wall = len(told) + evaluations, time.monotonic()
                busy, tune = time.process_time(), _processor_seconds("ray::_Tune")
    return {
        "start_up_s": wall, "wall_s": time.monotonic() - wall,
        "driver_cpu_ms": 1e3 * (time.process_time() - busy) / evaluations,
        "tune_cpu_ms": 1e3 * (_processor_seconds("ray::_Tune") - tune) / evaluations,
    }  # fmt: skip


def _processor_seconds(name: str) -> float:
    """Of the processes whose command begins so."""
    ticks = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(name.encode()):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        except OSError:
            continue  # it has ended
    return ticks / os.sysconf("SC_CLK_TCK")


def parts() -> dict[str, float]:
    """Processor ms per trial of what stays in the searching process, at sizes that show how it grows."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found: dict[str, float] = {}
    rng = np.random.default_rng(0)
    trial = optuna.trial.create_trial(
        values=[0.5, 1.0], params=SPACE.sample(rng),
        distributions={n: optuna.distributions.CategoricalDistribution(o) for n, o in SPACE.choices.items()},
        user_attrs={f"a{i}": "x" * 20 for i in range(8)},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        stores: dict[str, Any] = {"study.db": study_storage(folder), "SQLite": f"sqlite:///{folder}/sqlite.db"}
        for name, storage in stores.items():
            study = optuna.create_study(storage=storage, directions=["maximize", "minimize"])
            for size in (0, 1000):
                while len(study.get_trials(deepcopy=False)) < size:
                    study.add_trials([trial] * (size - len(study.get_trials(deepcopy=False))))
                found[f"write a trial to {name}, {size:,} there"] = _median(lambda s=study: s.add_trial(trial), 50)
    for name in ("random", "evolutionary"):
        for size in (1000, 4000):
            strategy: Any = make(name, SPACE, {"latency_ms": _latency}, OBJECTIVES, 0)
            seen: set[str] = set()
            while len(strategy.history.told) < size:
                arch = SPACE.sample(rng)
                if str(arch) not in seen:
                    seen.add(str(arch))
                    result = {"accuracy": _accuracy(arch), "latency_ms": _latency(arch)}
                    strategy.tell(Candidate(len(strategy.history.told), arch), result)

            def propose(strategy: Any = strategy) -> None:
                [candidate] = strategy.ask(1)
                strategy.tell(
                    candidate, {"accuracy": _accuracy(candidate.arch), "latency_ms": _latency(candidate.arch)}
                )

            found[f"propose by {name}, {size:,} results known"] = _median(propose, 15)
    return found


def moved() -> dict[str, str]:
    """What travels and what is kept, for the default job."""
    import optuna
    import torch

    from cosearch.accuracy import SupernetAccuracy
    from cosearch.data import load_dataset
    from cosearch.distributed.packing import pack, unpack
    from search_spaces.networks import find

    torch.set_num_threads(1)
    digits = load_dataset("digits")
    space = find("shiftadd")(digits.input_shape, len(digits.classes))
    source = SupernetAccuracy(space, space.supernet(0), digits)
    packed = pack(source)
    numbers = itertools.count()

    def evaluation() -> None:
        source(space.sample(np.random.default_rng(next(numbers))))

    arch = space.sample(np.random.default_rng(0))
    trial = optuna.trial.create_trial(
        values=[0.5, 1.0, 2.0], params=arch,
        distributions={n: optuna.distributions.CategoricalDistribution(o) for n, o in space.choices.items()},
        user_attrs={"arch": json.dumps(arch), "accelerator": "x" * 50, "accuracy_source": "supernet", "seconds": 1.0,
                    "accuracy": 0.5, "number": 1, "asked": 9},
    )  # fmt: skip
    found = {
        "supernet and images of the default job, arrays": f"{sum(a.nbytes for a in packed[1]) / 1e6:.2f} MB",
        "their structure": f"{len(packed[0]) / 1e6:.2f} MB",
        "packing them": f"{_median(lambda: pack(source), 5):.0f} ms",
        "unpacking them, once in a worker process": f"{_median(lambda: unpack(packed), 5):.0f} ms",
        "one evaluation of the default job": f"{_median(evaluation, 9):.0f} ms",
    }
    with tempfile.TemporaryDirectory() as folder:
        stores: dict[str, Any] = {"study.db": study_storage(folder), "sqlite.db": f"sqlite:///{folder}/sqlite.db"}
        for name, storage in stores.items():
            study = optuna.create_study(storage=storage, directions=["maximize", "minimize", "minimize"])
            study.add_trials([trial] * 200)
            found[f"a trial of the default job in {name}"] = f"{(Path(folder) / name).stat().st_size / 200e3:.1f} kB"
    return found


def _median(call: Callable[[], Any], repeats: int) -> float:
    """Processor ms: other work on the machine counts little."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
    return 1e3 * float(np.median(times))


def page(figures: dict[str, Any]) -> str:
    lines = [
        "# Ray", "",
        f"`python -m tests.benchmarks.ray_scale`, {figures['stamp']} Evaluations sleep for {SECONDS:g} s; workers are "
        "logical CPUs of one machine; results in any order; every trial is proposed by `random` and written to "
        "study.db. Efficiency: seconds slept / (workers x wall time). Overhead: worker seconds per trial that are not "
        "sleep. Start-up: from nothing until every worker has given a result, apart from the rest; what runs at that "
        "moment counts as a whole, at most a second for each of the other workers, of which 320 evaluations on 8 make "
        "a possible error of 0.02. Load: running processes on the machine at the "
        "end, which others used too; wall times are as good as that is small.", "",
        "| how | workers | evaluations | start-up | wall time | efficiency | overhead of a trial | driver, CPU a trial "
        "| Tune's process, CPU a trial | load |", "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for kind in KINDS:
        for workers in WORKERS:
            if (row := figures["runs"].get(f"{kind} {workers}")) is None:
                lines.append(f"| {kind} | {workers} | not measured | | | | | | | |")
                continue
            efficiency, overhead = rates(row, workers)
            own = f"{row['tune_cpu_ms']:.1f} ms" if row.get("tune_cpu_ms") else ""
            lines.append(
                f"| {kind} | {workers} | {row['evaluations']} | {row['start_up_s']:.1f} s | {row['wall_s']:.1f} s | "
                f"{efficiency:.3f} | {overhead:.0f} ms | {row['driver_cpu_ms']:.1f} ms | {own} | {row['load']:.1f} |"
            )
    lines.append("")
    for kind, (least, most) in REQUIRED.items():
        if (row := figures["runs"].get(f"{kind} 8")) is not None:
            efficiency, overhead = rates(row, 8)
            holds = "holds" if efficiency >= least and overhead < most else "does not hold in this run"
            lines.append(f"- {kind}: efficiency at least {least:g} on 8 workers, overhead under {most:g} ms: {holds}.")
    lines += [
        "",
        "What the searching process does by itself, processor time, median:",
        "",
        "| part | CPU |",
        "| --- | --- |",
    ]
    lines += [f"| {name} | {value:.2f} ms |" for name, value in figures["parts"].items()]
    lines += ["", "What travels and what is kept (times: processor time):", "", "| what | figure |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in figures["moved"].items()]
    return "\n".join(lines) + "\n"


def rates(row: dict[str, float], workers: int) -> tuple[float, float]:
    """Parallel efficiency and overhead per trial, ms."""
    slept, spent = row["evaluations"] * SECONDS, workers * row["wall_s"]
    return slept / spent, 1e3 * (spent - slept) / row["evaluations"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="*", default=None)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=None)
    parser.add_argument("--evaluations", type=int, default=320)
    given = parser.parse_args()
    again = given.workers is not None or given.kinds is not None
    for kind in given.kinds or KINDS:
        for workers in given.workers or WORKERS:
            if again or f"{kind} {workers}" not in _read()["runs"]:
                row = measure(kind, workers, given.evaluations)
                print(
                    kind, workers, row, "efficiency {:.3f}, overhead {:.0f} ms".format(*rates(row, workers)), flush=True
                )
                _write({"runs": {f"{kind} {workers}": row}})
    if not _read()["parts"]:
        _write({"parts": parts()})
    if not _read()["moved"]:
        _write({"moved": moved()})
    PAGE.write_text(page(_read()), encoding="utf-8")


def _read() -> dict[str, Any]:
    nothing: dict[str, Any] = {"stamp": "", "runs": {}, "parts": {}, "moved": {}}
    return nothing | (json.loads(FIGURES.read_text()) if FIGURES.exists() else {})


def _write(new: dict[str, Any]) -> None:
    """Read again before writing: several may measure at once."""
    known = _read()
    for name, value in new.items():
        known[name] |= value
    known["stamp"] = stamp("ray", "optuna")
    FIGURES.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
