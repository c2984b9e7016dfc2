"""Random streams named by what they are for, so that a resumed run draws what an uninterrupted one would have."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, *purpose: int | str) -> int:
    """A 63-bit seed from (seed, purpose); equal on every machine."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_stream(seed: int, *purpose: int | str) -> np.random.Generator:
    return np.random.default_rng(derive(seed, *purpose))


def torch_stream(seed: int, *purpose: int | str) -> "torch.Generator":
    import torch

    return torch.Generator().manual_seed(derive(seed, *purpose))
