"""Everything that a report is made of, read from a run directory; the run may be going on."""

import fcntl
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cosearch.config import RunConfig
from cosearch.errors import CosearchError, RunError, command_line
from cosearch.export.network import read_network
from cosearch.export.schema import check, is_event
from cosearch.hardware.accelerator import Accelerator
from cosearch.reading import parse_json, read
from cosearch.report.kept import read_details
from cosearch.report.trials import Trial, read_trials
from cosearch.results import Design, Result, as_result, read_outcome
from cosearch.runs import RunDirectory, read_inputs, read_log
from cosearch.strategies.study import STUDY

FINISHED, GOING_ON, STOPPED = "finished", "going on", "stopped"


@dataclass(frozen=True)
class Trained:
    """One network that was trained alone for so many epochs, and its accuracies, one per seed."""

    arch: dict[str, Any]
    accuracies: tuple[float, ...]
    epochs: int


@dataclass(frozen=True)
class Facts:
    """state: one of the three above; result and details are None until it is finished.

    details: see `cosearch.report.details`; None if they are not known, and no_details says why, if it was tried.
    trained: for good, accuracies on the test images; in_heats: in a halving's first heat, on the validation images.
    device, data, data_hash: of result.json. inputs: hashes of what the run depends on.
    """

    path: Path
    config: RunConfig
    state: str
    objectives: tuple[str, ...]
    searches: dict[str, list[Trial]]
    log: tuple[dict[str, Any], ...]
    inputs: dict[str, str]
    result: Result | None
    device: str
    data: str | None
    data_hash: str | None
    details: dict[str, Any] | None
    accelerator: Accelerator | None
    classes: tuple[str, ...]
    trained: tuple[Trained, ...]
    in_heats: tuple[Trained, ...]
    no_details: str = ""

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @cached_property
    def finalist(self) -> Design | None:
        return self.result.finalist if self.result is not None else None

    def last(self, event: str) -> dict[str, Any]:
        """The latest entry of the log of a kind; empty if there is none."""
        return next((entry for entry in reversed(self.log) if entry.get("event") == event), {})

    @property
    def chosen_strategies(self) -> dict[str, tuple[str, str]]:
        """Search -> (the strategy asked for, what `auto` made of it and why)."""
        entries = (entry for entry in self.log if entry.get("event") == "search")
        return {entry["study"]: (entry["strategy"], entry["why"]) for entry in entries}


def read_facts(path: Path) -> Facts:
    """Read a run.

    Raises: RunError if it is no run directory, or a file of it is damaged.
    """
    run = RunDirectory.open(path)
    log = tuple(line for line in read_log(path) if is_event(line))
    state = state_of(run, log)
    finished = state == FINISHED
    objectives, searches = read_trials(path, run.config.objectives)
    outcome = read_outcome(run) if finished else {}
    objectives = tuple(outcome.get("objectives", objectives))
    _require_objectives(run, searches, objectives)
    network = path / "best" / "network.json"
    trainings = tuple(_trainings(run))
    return Facts(
        path=path,
        config=run.config,
        state=state,
        objectives=objectives,
        searches=searches,
        log=log,
        inputs=read_inputs(run) or {},
        result=as_result(run, outcome) if finished else None,
        device=str(outcome.get("device", run.config.device)),
        data=outcome.get("data", run.config.data if run.config.trains else None),
        data_hash=outcome.get("data_hash"),
        details=read_details(run, objectives) if finished else None,
        accelerator=_accelerator(path / "best" / "accelerator.json") if finished else None,
        classes=read_network(run).classes if finished and network.is_file() else (),
        trained=tuple(_trained(trainings, "test")),
        in_heats=_first_heat(_trained(trainings, "validation")),
    )


def _require_objectives(run: RunDirectory, searches: dict[str, list[Trial]], objectives: tuple[str, ...]) -> None:
    """Raises: RunError for trials that were not evaluated in all of them."""
    costs = set(objectives) - {"accuracy"}
    for trial in (trial for trials in searches.values() for trial in trials if trial.accuracy is not None):
        if not costs <= trial.values.keys():
            raise RunError(
                f"trial {trial.number} of {run.path / STUDY} is of {', '.join(map(str, trial.values)):.80}, the run of "
                f"{', '.join(objectives):.80}: put the study of this run back"
            )


def _accelerator(document: Path) -> Accelerator | None:
    """None for a device that is given. Raises: RunError if the file is damaged."""
    if not document.is_file():
        return None
    try:
        data = read(document, parse_json)
        check(data, "accelerator")
        return Accelerator.from_json(data)
    except (OSError, CosearchError) as error:
        again = command_line("resume", document.parents[1])
        raise RunError(f"{document} is damaged ({error}): remove it and run: {again}") from None


def state_of(run: RunDirectory, log: tuple[dict[str, Any], ...]) -> str:
    """A resumed run has a result of before; it counts when the run is finished again."""
    phases = [entry["event"] for entry in log if entry.get("event") in ("start", "finished")]
    if phases[-1:] == ["finished"] and (run.path / "result.json").is_file():
        return FINISHED
    return GOING_ON if _in_use(run.path) else STOPPED


def _in_use(path: Path) -> bool:
    """Whether a process holds the run's lock."""
    try:
        with (path / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _first_heat(trained: Iterable[Trained]) -> tuple[Trained, ...]:
    """Those of the fewest epochs: later heats hold the better half only."""
    known = tuple(trained)
    return tuple(t for t in known if t.epochs == min(t.epochs for t in known))


def _trainings(run: RunDirectory) -> Iterator[Any]:
    """The documents in finalists/, those of networks that were trained for an export included."""
    for file in sorted((run.path / "finalists").glob("*.json")):
        with suppress(OSError, ValueError):  # of a training that is going on
            yield read(file, parse_json)


def _trained(trainings: Iterable[Any], images: str) -> Iterator[Trained]:
    """The networks that were scored on test or validation images."""
    found: dict[tuple[str, int], tuple[dict[str, Any], list[float]]] = {}
    for data in trainings:
        with suppress(KeyError, TypeError, ZeroDivisionError):  # scored on other images, or damaged
            arch, epochs, correct = data["arch"], data["epochs"], data[images]["correct"]
            if isinstance(arch, dict) and isinstance(epochs, int) and isinstance(correct, str):
                right = correct.count("1") / len(correct)
                found.setdefault((json.dumps(arch), epochs), (arch, []))[1].append(right)
    for (_, epochs), (arch, accuracies) in found.items():
        yield Trained(arch, tuple(accuracies), epochs)


def require_finished(facts: Facts) -> Result:
    """Raises: RunError if the run has no result yet."""
    if facts.result is None:
        command = command_line("resume", facts.path)
        raise RunError(f"{facts.path} is {facts.state}, not finished: finish it with: {command}")
    return facts.result
