"""Heterogeneous weight sharing: additions read the weights of convolutions through a learned, Laplacian-making gain.

Weights of convolutions are Gaussian, those of additions Laplacian (ShiftAddNAS), so that neither can use the other's
as they are. Source: ShiftAddNAS, section 3.2, and `LaplaceTransform` for what differs.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

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
        transformed: Tensor = _Gained.apply(view, self.gains, bins)
        return transformed


class _Gained(torch.autograd.Function):
    """view * gains[bins]; counting the gains' gradient into bins is much faster than what indexing does."""

    @staticmethod
    def forward(ctx: Any, view: Tensor, gains: Tensor, bins: Tensor) -> Tensor:
        each = gains.index_select(0, bins.flatten()).view(bins.shape)
        ctx.save_for_backward(view, each, bins)
        ctx.count = len(gains)
        return view * each

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        [gradient] = gradients
        view, each, bins = ctx.saved_tensors
        summed = torch.bincount(bins.flatten(), (gradient * view).flatten(), ctx.count)
        return gradient * each, summed.to(view.dtype), None


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
    distance: Tensor = _LaplaceDistance.apply(weights)
    return distance


class _LaplaceDistance(torch.autograd.Function):
    """One pass each way: of many small operations the overhead would be a tenth of a training step."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor) -> Tensor:
        ordered, places = weights.flatten().sort()
        scale = ordered.abs().mean().clamp_min(1e-12)
        off = ordered / scale - _laplace_quantiles(ordered.numel(), ordered.dtype, ordered.device)
        ctx.save_for_backward(ordered, places, scale, off)
        ctx.shape = weights.shape
        return off.abs().mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        ordered, places, scale, off = ctx.saved_tensors
        direct = off.sign() / ordered.numel()
        through_scale = ordered.sign() * (torch.dot(direct, ordered) / (scale * ordered.numel()))
        by_place = torch.empty_like(ordered)
        by_place[places] = (direct - through_scale) * (gradients[0] / scale)
        return by_place.view(ctx.shape)


@lru_cache(maxsize=256)
def _laplace_quantiles(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[n] at the centres of n equal parts of probability."""
    level = (torch.arange(n, dtype=dtype, device=device) + 0.5) / n - 0.5
    return -level.sign() * torch.log1p(-2 * level.abs())
