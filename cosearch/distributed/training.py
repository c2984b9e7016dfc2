"""Finalists trained as trials of Ray Tune. Workers return files; this process writes them into the run directory."""

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path
from typing import Any

from cosearch.config import RunConfig
from cosearch.distributed.cluster import Cluster, Share
from cosearch.distributed.trials import Report, Trials
from cosearch.errors import CosearchError
from cosearch.evaluators import PATIENCE_SECONDS
from cosearch.finalists import FOLDER, Training, load_trained, train
from cosearch.problem import load_data_and_space
from cosearch.runs import RunDirectory, write_atomic

LOOK_SECONDS = 0.5
"""How often progress is shown."""
SUFFIXES = (".safetensors", ".integer.safetensors", ".json")
"""Files of a training; the last one says that it is done."""


def train_all(
    cluster: Cluster, run: RunDirectory, trainings: Sequence[Training], on_epochs: Callable[[int], None]
) -> None:
    """Do the trainings that have no result yet, as `cosearch.finalists.train_all` does.

    Raises: CosearchError with the message of a training that fails.
    """
    open_trainings = [t for t in trainings if load_trained(run, t) is None]
    if not open_trainings:
        return
    share = Share(run.config.ray_cpus or 1.0, cluster.share.gpus)
    config = run.config.model_copy(update={"torch_device": share.device})
    inherited = {str(f.relative_to(run.path)): f.read_bytes() for f in (run.path / FOLDER).glob("*.safetensors")}
    stored = cluster.store((config, *load_data_and_space(config), inherited))
    epochs: list[int] = []
    with Trials(cluster, share, _train, stored, 1, epochs.append) as trials:
        longest_first = sorted(open_trainings, key=lambda t: (-t.operations, t.name))
        pending = {trials.submit_job(training) for training in longest_first}
        shown, last = 0, time.monotonic()
        while pending:
            done, pending = wait(pending, LOOK_SECONDS, FIRST_COMPLETED)
            for future in done:
                _keep(run, future.result())
            if len(epochs) > shown or done:
                last = time.monotonic()
                on_epochs(len(epochs) - shown)
                shown = len(epochs)
            elif time.monotonic() - last > PATIENCE_SECONDS:
                trials.check()


def _keep(run: RunDirectory, files: dict[str, bytes] | CosearchError) -> None:
    if isinstance(files, CosearchError):
        raise files
    for name, content in files.items():
        write_atomic(run.path / name, content)


def _train(
    stored: tuple[RunConfig, Any, Any, dict[str, bytes]], training: Training, on_epoch: Report
) -> dict[str, bytes] | CosearchError:
    """Train in a folder of the worker. Returns: the files, by their names in the run directory."""
    config, dataset, space, inherited = stored
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder), config)
        for name, content in inherited.items():
            write_atomic(run.path / name, content)
        try:
            train(run, dataset, space, training, on_epoch)
        except CosearchError as error:  # trying again would end the same way
            return error
        files = [f"{training.name}{suffix}" for suffix in SUFFIXES]
        return {name: (run.path / name).read_bytes() for name in files if (run.path / name).is_file()}
