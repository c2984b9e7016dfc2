"""Heterogeneous weight sharing: additions read the weights of convolutions through a learned, Laplacian-making gain.

Weights of convolutions are Gaussian, those of additions Laplacian (ShiftAddNAS), so that neither can use the other's
as they are. Source: ShiftAddNAS, section 3.2, and `LaplaceTransform` for what differs.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

BINS = 30
SHARED_RATE = 0.02
"""What an addition may move shared weights, relative to its own: at the full rate convolutions unlearn every step."""


class Transformed(NamedTuple):
    """A weight that was read through a transform, and the gains of that."""

    weight: Tensor
    gains: Tensor


class LaplaceTransform(nn.Module):
    """T(w)_i = w_i a_bin(i): a learned gain for each of equally wide bins between the least and the largest weight.

    Which bin a weight falls into is not differentiated. The gains start where the spread of T(w) is one, which is what
    additions start from when they have weights of their own (our choice; the paper's start at one).
    """

    def __init__(self, bins: int = BINS) -> None:
        super().__init__()
        self.gains = nn.Parameter(torch.ones(bins))

    @torch.no_grad()
    def initialise(self, full: Tensor) -> None:
        self.gains.fill_(1.0 / float(full.std(correction=0).clamp_min(1e-12)))

    def forward(self, view: Tensor, full: Tensor) -> Tensor:
        """view: a part of the shared tensor `full`, whose extremes set the bins. Returns: view's shape."""
        low, high = torch.aminmax(full.detach())
        width = (high - low).clamp_min(1e-12) / len(self.gains)
        bins = ((view.detach() - low) / width).long().clamp_(0, len(self.gains) - 1)  # the largest is in the last bin
        return view * self.gains[bins]


def limit_gradient(transformed: Transformed, eta: float) -> None:
    """AdderNet's local rate on the gradient that enters a transform, in units of the shared weights.

    A step then moves the shared weights by `SHARED_RATE` times the fraction of their spread by which it would move an
    addition's own.
    """
    typical = transformed.gains.detach().abs().mean().clamp_min(1e-12)

    def scale(gradient: Tensor) -> Tensor:
        return gradient * (
            SHARED_RATE * eta * math.sqrt(gradient.numel()) / (typical**2 * gradient.norm().clamp_min(1e-12))
        )

    transformed.weight.register_hook(scale)


def laplace_distance(weights: Tensor) -> Tensor:
    """How far weights are from a Laplace distribution: a scalar, 0 where their quantiles are its own.

    Mean |sorted w - F^-1((i - 1/2) / n)| over the scale, F the zero-mean Laplace of the same mean magnitude; a
    distance between distributions, where the published term compares position by position with one random draw.
    """
    ordered = weights.flatten().sort().values
    n = ordered.numel()
    level = (torch.arange(n, dtype=ordered.dtype, device=ordered.device) + 0.5) / n - 0.5
    scale = ordered.abs().mean().clamp_min(1e-12)
    quantiles = -level.sign() * torch.log1p(-2 * level.abs())
    return (ordered / scale - quantiles).abs().mean()
