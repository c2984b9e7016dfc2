"""What cosearch wrote, read again: a run as its result, a design or a document, a network that classifies images."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cosearch.errors import DataError, RunError
from cosearch.results import Result, read_result
from cosearch.runs import RunDirectory

if TYPE_CHECKING:
    from cosearch.export.documents import Document, SavedDesign


def load(path: Path | str) -> "Result | SavedDesign | Document":
    """What cosearch wrote: a run directory as its `Result`, a folder with a design as a `SavedDesign` (network with its
    weights, workload, accelerator, mapping), and a .json file as what it describes.

    Raises: RunError if it is none of these, or damaged.
    """
    from cosearch.export.documents import read_design, read_document

    found = Path(path)
    if os.path.isfile(found / "config.yaml"):
        return load_run(found)
    if os.path.isfile(found / "network.json"):
        return read_design(found)
    if os.path.isfile(found):
        return read_document(found)
    raise RunError(
        f"{path} is not a run directory, a folder with a design or one of its .json files: give the --out of an "
        "earlier run, or what cosearch export wrote"
    )


def load_run(path: Path | str) -> Result:
    """A finished run, from its files.

    Raises: RunError if it is not one, or not finished.
    """
    return read_result(RunDirectory.open(Path(path)))


def load_network(path: Path | str) -> "Classifier":
    """The finalist of a finished run as a callable on images; the dataset is not needed.

    Raises: RunError.
    """
    from cosearch.export.network import read_network
    from cosearch.integer import IntegerLinear, from_tensors, trying

    run_directory = RunDirectory.open(Path(path))
    if not run_directory.config.trains:
        raise RunError(f"{path} trained no network: its accuracies come from a table")
    described = read_network(run_directory)
    loaded = run_directory.load_tensors("best/integer.safetensors")
    if loaded is None:
        raise RunError(
            f"{path}/best/integer.safetensors is missing: finish the run with: {run_directory.resume_command}"
        )
    network = from_tensors(*loaded)
    last = network.steps[-1] if network.steps else None
    if not isinstance(last, IntegerLinear) or len(last.weight) != len(described.classes):
        raise RunError(
            f"{path}/best: network.json names {len(described.classes)} classes, and integer.safetensors does not tell "
            f"so many apart: remove both and run: {run_directory.resume_command}"
        )
    path, mend = f"{path}/best/integer.safetensors", f"remove it and run: {run_directory.resume_command}"
    with trying(network, described.blueprint.input_shape, path, mend):
        return Classifier(network, described.pixel_mean, described.pixel_std, described.classes)


@dataclass(frozen=True)
class Classifier:
    """The integer network of a finalist with the scaling of its images."""

    network: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]

    def __call__(self, images: Any) -> list[str]:
        """images: [n, channels, height, width], uint8, or float on the scale of the training data. Returns: classes.

        Raises: DataError for an array of another shape.
        """
        import torch

        from cosearch.data import standardise
        from cosearch.integer import integer_predictions

        pixels = np.asarray(images)
        if pixels.ndim != 4 or pixels.shape[1] != len(self.mean):
            raise DataError(f"images of shape {pixels.shape}, expected (images, {len(self.mean)}, height, width)")
        scaled = pixels.astype(np.float32) / np.float32(255 if pixels.dtype == np.uint8 else 1)
        found = integer_predictions(self.network, torch.from_numpy(standardise(scaled, self.mean, self.std)))
        return [self.classes[i] for i in found.tolist()]
