"""Keeping a cost tensor's figures on disk, and reading them memory-mapped; what a tensor is stands in `tensor`."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cosearch.hardware.tables import Floats

VERSION = 8

Figures = dict[str, list[Floats]]
"""Per engine kind one array for every residency."""


def save(folder: Path, latency: Mapping[str, Sequence[Floats]], energy: Mapping[str, Sequence[Floats]]) -> None:
    """Write beside the final place and rename: readers see a whole tensor or none."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
    except OSError:
        return  # a cache that cannot be written is only slow
    try:
        for name, part in (("latency", latency), ("energy", energy)):
            for kind, cases in part.items():
                for case, array in enumerate(cases):
                    np.save(draft / f"{name}-{kind}-{case}.npy", array, allow_pickle=False)
        (draft / "manifest.json").write_text(json.dumps({"format": "cosearch.tensor", "version": VERSION}))
        os.replace(draft, folder)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)


def load(folder: Path, shapes: Mapping[str, Sequence[tuple[int, ...]]]) -> tuple[Figures, Figures] | None:
    """Latency and energy as `save` left them; None where there are none. What is there and damaged is removed.

    shapes: per engine kind the shape that the array of every residency has.
    """
    if not (folder / "manifest.json").is_file():
        return None
    try:
        latency, energy = (
            {
                kind: [_read(folder / f"{name}-{kind}-{case}.npy", shape) for case, shape in enumerate(cases)]
                for kind, cases in shapes.items()
            }
            for name in ("latency", "energy")
        )
    except (OSError, ValueError):
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return latency, energy


def _read(path: Path, shape: tuple[int, ...]) -> Floats:
    # a plain array: views of a `memmap` take longer to make than many sums of them
    array: Floats = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    if array.shape != shape:
        raise ValueError(f"{path}: shape {array.shape}, expected {shape}")
    return array
