"""The accuracy source of a run: a table or a model that is known already, trainings, or a supernet, trained first.

The supernet's training goes on from its checkpoint, at half the learning rate after it has diverged.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cosearch.accuracy import AccuracySource, SupernetAccuracy, TrainAccuracy
from cosearch.costs import AcceleratorCosts
from cosearch.job import Job
from cosearch.problem import Problem
from cosearch.runs import RunDirectory, read_log
from search_spaces.decisions import Arch

if TYPE_CHECKING:
    from cosearch.supernet.recipes import SupernetRecipe

CHECKPOINT_SECONDS = 30.0
"""A supernet's training is saved after the step in which this much time has passed since the last time."""
SUPERNET = "supernet.safetensors"
EARLY_BIRD = ("settled", "epochs", "asked")
"""Fields of the log's line: epochs until the mask had settled, those that training takes, and those asked for."""


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
        from cosearch.supernet.recipes import learned_logits

        recipe = _trained_supernet(job, device)
        return SupernetAccuracy(space, recipe.supernet, dataset, device, config.precision, learned_logits(recipe))
    return TrainAccuracy(space, dataset, config.finalist_epochs, config.seed, device)


def _trained_supernet(job: Job, device: str) -> "SupernetRecipe":
    """The recipe of a run once its supernet is trained, which goes on from its checkpoint if there is one.

    After a training has diverged the next goes on at half the learning rate.

    What is kept of a training that diverges is how it stood before the epoch in which it did, whenever it was last
    saved: so what follows does not depend on how fast the machine is.
    Raises: DivergedError, which names step, learning rate and how to go on; StoppedError when time is up.
    """
    from cosearch.supernet import recipes
    from cosearch.supernet.checkpoint import checkpoint, restore, save, steps_begun
    from cosearch.supernet.training import (
        DivergedError,
        require_finite_supernet,
        supernet_steps,
        train_supernet_epoch,
    )

    run, problem = job.run, job.problem
    config, space, dataset = problem.config, problem.space.network_space, problem.dataset
    assert dataset is not None
    events = [line.get("event") for line in read_log(run.path)]
    halved, shorter = events.count("diverged"), "early-bird" in events
    recipe = recipes.of_run(config, space, device, _within(problem))
    settings = replace(recipe.settings, learning_rate=0.5**halved * recipe.settings.learning_rate)
    recipe = replace(recipe, settings=settings)
    done, optimizer = restore(run, recipe, space.name)
    if optimizer is None:
        return recipe
    begun = steps_begun(run, optimizer, done, supernet_steps(recipe, dataset.train))
    saved, epoch = time.monotonic(), done
    good = checkpoint(recipe, optimizer, space.name, done).copied()

    def on_step(taken: int) -> None:
        nonlocal saved
        now = time.monotonic()
        if now > min(job.deadline, saved + CHECKPOINT_SECONDS):
            require_finite_supernet(recipe, optimizer, f"step {taken} of epoch {epoch + 1} of {recipe.epochs}")
            save(run, recipe, optimizer, space.name, epoch)
            saved = now
        if now > job.deadline:  # as it was when it was saved
            raise job.out_of_time()

    with job.reporter.phase("training the supernet", recipe.epochs, done) as phase:
        while epoch < recipe.epochs:
            first = begun if epoch == done else 0
            try:
                loss = train_supernet_epoch(
                    recipe, optimizer, dataset.train, config.seed, epoch, dataset.mirror, device, first, on_step
                )
            except DivergedError as error:
                if not good.untrained:
                    good.write(run)
                run.log("diverged", reason=str(error))
                raise DivergedError(f"{error}{_how_to_go_on(run, halved)}") from None
            epoch += 1
            if recipe.epochs < settings.epochs and not shorter:
                shorter = True
                told = epoch - 1, recipe.epochs, settings.epochs
                run.log("early-bird", **dict(zip(EARLY_BIRD, told, strict=True)))
                phase.expect(recipe.epochs)
                job.reporter.say(early_bird(*told))
            phase.advance(1, f"loss {loss:.3f}")
            now = time.monotonic()
            good = checkpoint(recipe, optimizer, space.name, epoch)
            if epoch == recipe.epochs or now > min(job.deadline, saved + CHECKPOINT_SECONDS):
                good.write(run)
                run.log("supernet", epoch=epoch, loss=round(loss, 5))
                saved = now
            good = good.copied()
            if now > job.deadline:  # as it was when it was saved
                raise job.out_of_time()
    return recipe


def early_bird(settled: int, epochs: int, asked: int) -> str:
    """What a reader must know of a supernet's training that took fewer epochs than were asked for."""
    return f"the supernet's pruning mask settled in {settled} epochs (early-bird): it trains for {epochs} of {asked}"


def training_notes(run: RunDirectory) -> list[str]:
    """What was unusual about the training of a run's supernet, from its log."""
    events = read_log(run.path)
    halved = sum(line.get("event") == "diverged" for line in events)
    told = [[line.get(name, 0) for name in EARLY_BIRD] for line in events if line.get("event") == "early-bird"]
    lines = [early_bird(*line) for line in told[-1:]]
    if halved:
        lines.append(f"the supernet's training diverged and went on at {0.5**halved:g} of the learning rate")
    return lines


def _how_to_go_on(run: RunDirectory, halved: int) -> str:
    """After the supernet's training has diverged, so often before."""
    again = (
        f", as it did at {halved} higher rates: are the images of a usual scale? Else try another --recipe"
        if halved
        else ""
    )
    kept = (
        f"the last good checkpoint is kept in {run.path / SUPERNET}: go on from it"
        if (run.path / SUPERNET).is_file()
        else "there was no checkpoint yet: begin again"
    )
    return f"{again}; {kept} at half the learning rate with: {run.resume_command}"


def _within(problem: Problem) -> Callable[[Arch], bool] | None:
    """Whether some accelerator runs a network within the limits, if training shall know."""
    if not problem.config.guided:
        return None
    costs: Any = problem.costs
    return costs.runs_within if isinstance(costs, AcceleratorCosts) else lambda arch: len(costs.fronts([arch])[0]) > 0
