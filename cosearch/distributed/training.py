"""Finalists trained, and halved, as trials of Ray Tune. Workers return files; this process writes them into the run
directory.
"""

import json
import queue
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

from cosearch.config import RunConfig
from cosearch.distributed.cluster import Cluster, Share
from cosearch.distributed.trials import Report, Trials
from cosearch.errors import CosearchError
from cosearch.evaluators import PATIENCE_SECONDS
from cosearch.finalists import Trained, Training, load_trained, read_inherited, require_same_data, train
from cosearch.problem import load_data_and_space
from cosearch.reading import parse_json
from cosearch.runs import LOG, RunDirectory
from cosearch.shortlist import Halving, Lists
from cosearch.writing import write_atomic

LOOK_SECONDS = 0.5
"""How often progress is shown."""
SUFFIXES = (".safetensors", ".integer.safetensors", ".json")
"""Files of a training; the last one says that it is done."""
Files = dict[str, bytes] | CosearchError
"""By their names in the run directory; or what the training ended with."""
Stored = tuple[RunConfig, Any, Any, dict[str, bytes], dict[str, float]]
"""Options, images, space, inherited files, known scores."""


def train_all(
    cluster: Cluster, run: RunDirectory, trainings: Sequence[Training], on_epochs: Callable[[int], None]
) -> None:
    """Do the trainings that have no result yet, as `cosearch.finalists.train_all` does.

    Raises: CosearchError with the message of a training that fails.
    """
    open_trainings = [t for t in trainings if load_trained(run, t) is None]
    if not open_trainings:
        return
    share, stored = _share(cluster, run), _stored(cluster, run, open_trainings, {})
    epochs: list[int] = []
    with Trials(cluster, share, _train, stored, 1, epochs.append) as trials:
        pending = {trials.submit_job(training) for training in _longest_first(open_trainings)}
        for future in _settled(trials, pending, epochs, on_epochs):
            _keep(run, future.result())


def halve(
    cluster: Cluster,
    run: RunDirectory,
    halving: Halving,
    lists: Lists,
    trainings: Sequence[Training],
    on_epochs: Callable[[int], None],
) -> None:
    """Do the short trainings by which lists of designs are halved until one is left of each.

    A scheduler of Tune's decides who goes on (`cosearch.distributed.searcher.Rungs`). trainings: of the first heat.
    Results of them that the run has from an interrupted time count again.
    Raises: CosearchError with the message of a training that fails.
    """
    found = {training.name: load_trained(run, training) for training in trainings}
    known = {name: trained.integer_accuracy for name, trained in found.items() if trained is not None}
    stored = _stored(cluster, run, trainings, known)
    epochs: list[int] = []
    values: queue.SimpleQueue[Files] = queue.SimpleQueue()

    def keep_all() -> None:
        while not values.empty():
            _keep(run, values.get())

    with Trials(
        cluster, _share(cluster, run), _heat, stored, 1, epochs.append, (halving.of(lists), lists), values.put
    ) as trials:
        pending = {trials.submit_job(training) for training in _longest_first(trainings)}
        for future in _settled(trials, pending, epochs, on_epochs, keep_all):
            future.result()
    keep_all()


def _share(cluster: Cluster, run: RunDirectory) -> Share:
    return Share(run.config.ray_cpus or 1.0, cluster.share.gpus)


def _stored(cluster: Cluster, run: RunDirectory, trainings: Sequence[Training], scores: dict[str, float]) -> Any:
    """What all trainings share. scores: that are known, by the name of the training."""
    config = run.config.model_copy(update={"torch_device": cluster.share.device})
    inherited = read_inherited(run, [training.arch for training in trainings])
    dataset, space = load_data_and_space(config)
    require_same_data(run, dataset)
    return cluster.store((config, dataset, space, inherited, scores))


def _longest_first(trainings: Sequence[Training]) -> list[Training]:
    return sorted(trainings, key=lambda t: (-t.operations, t.name))


def _settled(
    trials: Trials,
    pending: "set[Future[Any]]",
    epochs: list[int],
    on_epochs: Callable[[int], None],
    meanwhile: Callable[[], None] = lambda: None,
) -> "Iterator[Future[Any]]":
    """Futures as they are done. epochs: grows in another thread; meanwhile: called every time that is looked at."""
    shown, last = 0, time.monotonic()
    while pending:
        done, pending = wait(pending, LOOK_SECONDS, FIRST_COMPLETED)
        meanwhile()
        yield from done
        new = sum(epochs[shown:])
        shown += len(epochs[shown:])
        if new or done:
            last = time.monotonic()
            on_epochs(new)
        elif time.monotonic() - last > PATIENCE_SECONDS:
            trials.check()


def _keep(run: RunDirectory, files: Files) -> None:
    if isinstance(files, CosearchError):
        raise files
    for name, content in files.items():
        if name == LOG:
            for line in content.splitlines():
                run.log(**{k: v for k, v in parse_json(line.decode()).items() if k != "time"})
        else:
            run.write(name, content)


def _heat(stored: Stored, training: Training, on_epochs: Report) -> tuple[Files, float]:
    """A short training and its score; at once where that is known."""
    if training.name in stored[-1]:
        on_epochs(training.heat)
        return {}, stored[-1][training.name]
    files, _ = _train(stored, training, on_epochs)
    if isinstance(files, CosearchError):
        return files, 0.0
    found = Trained(**json.loads(files[f"{training.name}.json"])[training.scored_on])
    return files, found.integer_accuracy


def _train(stored: Stored, training: Training, on_epochs: Report) -> tuple[Files, None]:
    """Train in a folder of the worker. Returns: the files."""
    config, dataset, space, inherited, _ = stored
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder), config)
        for name, content in inherited.items():
            write_atomic(run.path / name, content)
        try:
            train(run, dataset, space, training, lambda _: on_epochs(1))
        except CosearchError as error:  # trying again would end the same way
            return error, None
        files = [*(f"{training.name}{suffix}" for suffix in SUFFIXES), LOG]
        return {name: (run.path / name).read_bytes() for name in files if (run.path / name).is_file()}, None
