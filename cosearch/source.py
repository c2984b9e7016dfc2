"""The accuracy source of a run: a table or a model that is known already, trainings, or a supernet, trained first.

The supernet's training goes on from its checkpoint, and begins again at half the learning rate if it diverges.
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cosearch.accuracy import AccuracySource, SupernetAccuracy, TrainAccuracy
from cosearch.job import Job
from cosearch.problem import Problem
from cosearch.runs import read_log
from search_spaces.decisions import Arch

CHECKPOINT_SECONDS = 30.0
"""A supernet's training is saved after the step in which this much time has passed since the last time."""
MOST_HALVINGS = 4
"""Of a supernet's learning rate, when its training diverges."""
SUPERNET, LAST_GOOD = "supernet.safetensors", "supernet.diverged.safetensors"
"""The supernet; and its last checkpoint of a training that diverged after it."""


def accuracy_source(job: Job) -> AccuracySource:
    """Where the accuracies of a run come from, its supernet trained if it has one.

    Raises: DivergedError, StoppedError.
    """
    problem = job.problem
    config, space, dataset = problem.config, problem.space.network_space, problem.dataset
    if problem.known_accuracy is not None:
        return problem.known_accuracy
    from cosearch.supernet.training import torch_device

    assert dataset is not None
    device = torch_device(config.torch_device)
    if config.accuracy == "supernet":
        return SupernetAccuracy(space, _trained_supernet(job, device), dataset, device, config.precision)
    return TrainAccuracy(space, dataset, config.finalist_epochs, config.seed, device)


def _trained_supernet(job: Job, device: str) -> Any:
    """Train the space's supernet, or go on from its checkpoint. One that diverges begins again at half the rate.

    It begins at its first epoch: when a checkpoint was written depends on the machine. The last one is set aside.
    Raises: DivergedError if it still does after some times.
    """
    from cosearch.supernet.training import DivergedError

    run = job.run
    while True:
        halved = sum(line.get("event") == "diverged" for line in read_log(run.path))
        try:
            return _train_supernet(job, device, 0.5**halved)
        except DivergedError as error:
            if halved >= MOST_HALVINGS:
                kept = [str(run.path / name) for name in (SUPERNET, LAST_GOOD) if (run.path / name).is_file()]
                good = f"; its last good checkpoint is {kept[0]}" if kept else ""
                raise DivergedError(
                    f"{error}, as at {halved} higher rates: are the images of a usual scale? "
                    f"Else try another --recipe{good}"
                ) from None
            if (run.path / SUPERNET).is_file():
                os.replace(run.path / SUPERNET, run.path / LAST_GOOD)
            run.log("diverged", reason=str(error))
            job.reporter.say(f"{error}: it begins again at half the learning rate")


def _train_supernet(job: Job, device: str, slower: float) -> Any:
    """slower: than the recipe says, the learning rate.

    Raises: DivergedError, and StoppedError when time is up.
    """
    from cosearch.supernet import recipes
    from cosearch.supernet.checkpoint import restore, save, steps_begun
    from cosearch.supernet.training import require_finite_supernet, supernet_steps, train_supernet_epoch

    run, problem = job.run, job.problem
    config, space, dataset = problem.config, problem.space.network_space, problem.dataset
    assert dataset is not None
    recipe = recipes.of_run(config, space, device, _within(problem))
    settings = replace(recipe.settings, learning_rate=slower * recipe.settings.learning_rate)
    recipe = replace(recipe, settings=settings)
    done, optimizer = restore(run, recipe, space.name)
    if optimizer is None:
        return recipe.supernet
    begun = steps_begun(run, optimizer, done, supernet_steps(recipe, dataset.train))
    saved, epoch = time.monotonic(), done

    def on_step(taken: int) -> None:
        nonlocal saved
        now = time.monotonic()
        if now > min(job.deadline, saved + CHECKPOINT_SECONDS):
            require_finite_supernet(recipe, optimizer, f"step {taken} of epoch {epoch + 1} of {settings.epochs}")
            save(run, recipe, optimizer, space.name, epoch)
            saved = now
        if now > job.deadline:  # as it was when it was saved
            raise job.out_of_time()

    with job.reporter.phase("training the supernet", settings.epochs, done) as phase:
        for epoch in range(done, settings.epochs):
            first = begun if epoch == done else 0
            loss = train_supernet_epoch(
                recipe, optimizer, dataset.train, config.seed, epoch, dataset.mirror, device, first, on_step
            )
            phase.advance(1, f"loss {loss:.3f}")
            now = time.monotonic()
            if epoch + 1 == settings.epochs or now > min(job.deadline, saved + CHECKPOINT_SECONDS):
                save(run, recipe, optimizer, space.name, epoch + 1)
                run.log("supernet", epoch=epoch + 1, loss=round(loss, 5))
                saved = now
            if now > job.deadline:  # as it was when it was saved
                raise job.out_of_time()
    return recipe.supernet


def _within(problem: Problem) -> Callable[[Arch], bool] | None:
    """Whether some accelerator runs a network within the limits, if training shall know."""
    if not problem.config.guided:
        return None
    costs: Any = problem.costs
    return lambda arch: len(costs.fronts([arch])[0]) > 0
