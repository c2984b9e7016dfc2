"""Where accuracy comes from during a search: a supernet, a table, a predictor, or stand-alone training."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cosearch.costs import Measurements
from cosearch.data import Dataset
from cosearch.errors import ConfigError
from search_spaces.decisions import Arch, arch_key

if TYPE_CHECKING:
    from cosearch.supernet.evaluation import Precision

SOURCES: dict[str, str] = {
    "supernet": "sub-networks of one weight-sharing network, batch-norm re-calibrated, arithmetic simulated in 8 bits",
    "train": "each network trained alone, its integer form evaluated on the validation images",
    "table": "a table of known accuracies that holds every network of the space (--accuracy-table)",
    "predictor": "a model fitted to a table of known accuracies (--accuracy-table)",
}
CALIBRATION_IMAGES = 256
GRADIENT_IMAGES = 64
"""Validation images of one gradient by gates."""


class AccuracySource(Protocol):
    """images: on how many images an accuracy is measured."""

    images: int

    def __call__(self, arch: Arch) -> float:
        """Accuracy in [0, 1]."""


class SupernetAccuracy:
    """Cuts the sub-network out, re-calibrates it on training images and evaluates it on the validation images.

    Values of what networks begin with stay, up to remembered_bytes (default: `cosearch.supernet.evaluation`'s): 0 runs
    every network whole.

    precision: as `cosearch.supernet.evaluation.evaluate`'s. logits: what training has learned of the choices, decision
    -> choice -> logit, if it did.
    """

    def __init__(
        self,
        space: Any,
        supernet: Any,
        dataset: Dataset,
        device: str = "cpu",
        precision: "Precision" = "fp32",
        logits: Mapping[str, Mapping[Any, float]] | None = None,
        remembered_bytes: int | None = None,
    ) -> None:
        import torch

        from cosearch.supernet.evaluation import REMEMBERED_BYTES, Memory

        self.space, self.supernet, self.dataset, self.device = space, supernet, dataset, device
        self.precision, self.logits = precision, logits
        self.images = len(dataset.validation)
        # spread over the training images, which may be sorted by class
        spread = np.linspace(0, len(dataset.train) - 1, min(CALIBRATION_IMAGES, len(dataset.train))).astype(int)
        self._calibration = torch.from_numpy(dataset.train.x[spread]).to(device)
        self._images = torch.from_numpy(dataset.validation.x).to(device)
        self._labels = torch.from_numpy(dataset.validation.y).to(device)
        self._known: dict[str, float] = {}
        self._memory = Memory(REMEMBERED_BYTES if remembered_bytes is None else remembered_bytes)

    def to(self, device: str) -> "SupernetAccuracy":
        """The same on another device; the supernet moves there."""
        supernet = self.supernet.to(device)
        how = self.precision, self.logits, self._memory.limit
        return SupernetAccuracy(self.space, supernet, self.dataset, device, *how)

    def __call__(self, arch: Arch) -> float:
        [accuracy] = self.many([arch])
        return accuracy

    def many(self, archs: Sequence[Arch]) -> list[float]:
        """Of each network what it has alone. What it begins with is not run again, if another began so lately."""
        from cosearch.supernet.evaluation import evaluate

        keys = [arch_key(arch) for arch in archs]
        unknown = {key: arch for key, arch in zip(keys, archs, strict=True) if key not in self._known}
        if unknown:
            blueprints = [self.space.blueprint(arch) for arch in unknown.values()]
            data = self._calibration, self._images, self._labels
            found = evaluate(self.supernet, blueprints, *data, self.precision, memory=self._memory)
            self._known.update(zip(unknown, found, strict=True))
        return [self._known[key] for key in keys]

    @cached_property
    def _frozen(self) -> Any:
        """The supernet with weights of which no gradient is asked; other threads may use the other meanwhile."""
        return deepcopy(self.supernet).requires_grad_(False)

    def gradient(self, arch: Arch) -> tuple[float, dict[str, float]]:
        """Cross-entropy of a sub-network on validation images, weights frozen, and its derivative by each gate.

        A gate multiplies the value of a decision's block; decisions without one are left out. The images are always
        the same, so that networks differ by what they are only.
        """
        import torch
        from torch.nn import functional as F

        from cosearch.supernet.recipes import gated_steps

        blueprint = self.space.blueprint(arch)
        gates = {name: torch.ones((), device=self.device, requires_grad=True) for name in arch}
        decisions = gated_steps(blueprint, list(gates))
        spread = np.linspace(0, self.images - 1, min(GRADIENT_IMAGES, self.images)).astype(int)
        with torch.enable_grad():
            gated = {step: gates[decision] for step, decision in decisions.items()}
            logits = self._frozen(self._images[spread], blueprint, gates=gated)
            loss = F.cross_entropy(logits, self._labels[spread])
        names = list(dict.fromkeys(decisions.values()))
        slopes = torch.autograd.grad(loss, [gates[name] for name in names]) if names else ()
        return float(loss.detach()), {name: float(slope) for name, slope in zip(names, slopes, strict=True)}


class TrainAccuracy:
    """Trains each network alone on the training images."""

    def __init__(self, space: Any, dataset: Dataset, epochs: int, seed: int, device: str = "cpu") -> None:
        self.space, self.dataset, self.epochs, self.seed, self.device = space, dataset, epochs, seed, device
        self.images = len(dataset.validation)

    def to(self, device: str) -> "TrainAccuracy":
        return TrainAccuracy(self.space, self.dataset, self.epochs, self.seed, device)

    def __call__(self, arch: Arch) -> float:
        import torch

        from cosearch.integer import integer_accuracy, to_integer
        from cosearch.supernet.training import finalist_recipe, train_network

        network = self.space.build(arch, self.seed)
        train_network(
            network, self.dataset.train, finalist_recipe(self.epochs), self.seed, self.dataset.mirror, self.device
        )
        integer = to_integer(network, torch.from_numpy(self.dataset.train.x))
        return integer_accuracy(integer, self.dataset.validation)


class TableAccuracy:
    def __init__(self, space: Any, table: Measurements, images: int) -> None:
        self.images = images
        self._known = {arch_key(arch): float(a) for arch, a in zip(table.archs, table.values["accuracy"], strict=True)}
        if len(self._known) < space.size:
            raise ConfigError(
                f"{table.path} holds {len(self._known)} of the {space.size} networks of {space.name}: "
                "a table must hold all of them; use --accuracy predictor to fill the rest"
            )

    def __call__(self, arch: Arch) -> float:
        return self._known[arch_key(arch)]


class BundledAccuracy:
    """Known accuracies of a bundled table.

    Raises: ConfigError if none of the tables is of this space; DataError if the table needs a package to be installed.
    """

    images = 10_000  # of CIFAR-10's test set

    def __init__(self, space: Any) -> None:
        import hwbench_data

        if space.name not in hwbench_data.available():
            raise ConfigError(
                f"--accuracy table: no bundled table of {space.name}, only of {', '.join(hwbench_data.available())}; "
                "give --accuracy-table FILE (a CSV of arch,accuracy)"
            )
        table = hwbench_data.load(space.name)
        self._index = table.networks.index
        self.values = table.accuracies(np.arange(len(table)), "cifar10_accuracy")

    def __call__(self, arch: Arch) -> float:
        return float(self.values[self._index(arch)])


class PredictorAccuracy:
    def __init__(self, space: Any, table: Measurements, images: int) -> None:
        from predictors.arch import ArchPredictor

        self.images = images
        self.model = ArchPredictor(space, positive=False).fit(table.archs, table.values["accuracy"])

    def __call__(self, arch: Arch) -> float:
        return float(np.clip(self.model.predict([arch])[0][0], 0.0, 1.0))


def require_fractions(table: Measurements) -> None:
    """Raises: ConfigError if an accuracy is not a fraction."""
    values: Mapping[str, Any] = table.values
    if (values["accuracy"] > 1).any():
        raise ConfigError(
            f"{table.path}: accuracy {values['accuracy'].max():g}, expected fractions in [0, 1], not percent"
        )
