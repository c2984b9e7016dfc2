"""What a run has done on Ray, by the module that does it."""

from collections.abc import Callable, Sequence
from typing import Any

from cosearch.accuracy import AccuracySource, TrainAccuracy
from cosearch.distributed import tasks, training
from cosearch.distributed.cluster import Cluster
from cosearch.distributed.trials import Trainings
from cosearch.evaluators import Evaluator
from cosearch.finalists import Training
from cosearch.hardware.tables import AcceleratorSpace
from cosearch.hardware.tensor import CostTensor
from cosearch.runs import RunDirectory
from cosearch.shortlist import Halving, Lists
from cosearch.workload import Layer


class Workers(Cluster):
    """A connected Ray that works for a run."""

    def evaluator(self, accuracy: AccuracySource) -> Evaluator:
        """What evaluates candidates here: trainings as trials of Tune, anything shorter as tasks."""
        import torch

        kind = Trainings if isinstance(accuracy, TrainAccuracy) else tasks.Tasks
        return kind(self, accuracy, torch.get_num_threads())

    def price(
        self,
        layers: tuple[Layer, ...],
        space: AcceleratorSpace,
        policies: tuple[float, ...],
        progress: Callable[[int, int], None] | None,
    ) -> CostTensor:
        """The cost tensor of layers, a block of them by a task."""
        return tasks.price(self, layers, space, policies, progress)

    def map(self, work: Callable[[Any, Any], Any], shared: Any, parts: Sequence[Any]) -> list[Any]:
        """An importable function of what is shared and of each part, as tasks. Returns: its values, in order."""
        return tasks.each(self, work, shared, parts)

    def train_all(self, run: RunDirectory, trainings: Sequence[Training], on_epochs: Callable[[int], None]) -> None:
        """What `cosearch.finalists.train_all` does, here."""
        training.train_all(self, run, trainings, on_epochs)

    def halve(
        self,
        run: RunDirectory,
        halving: Halving,
        lists: Lists,
        trainings: Sequence[Training],
        on_epochs: Callable[[int], None],
    ) -> None:
        """The short trainings of a halving, decided by a scheduler of Tune's."""
        training.halve(self, run, halving, lists, trainings, on_epochs)
