"""Losses of neural predictors: squared error, two that see only order, and a regulariser that orders the features."""

import torch
from torch import Tensor
from torch.nn import functional as F

MARGIN = 0.1
RANK_STEP = 2.0
"""How far the black-box gradient of ranks looks."""


def squared(score: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(score, y)


def hinge(score: Tensor, y: Tensor) -> Tensor:
    """Mean over pairs of max(0, margin - sign(y_i - y_j) (s_i - s_j)). score, y: [n]."""
    order = torch.sign(y[:, None] - y[None, :])
    apart = F.relu(MARGIN - order * (score[:, None] - score[None, :]))
    pairs = order != 0
    return (apart * pairs).sum() / pairs.sum().clamp(min=1)


def listmle(score: Tensor, y: Tensor) -> Tensor:
    """Minus the mean log likelihood, per place, of the true order under Plackett-Luce. score, y: [n].

    Source: Xia et al., Listwise approach to learning to rank, ICML 2008.
    """
    best_first = score[torch.argsort(y, descending=True, stable=True)]
    later = torch.logcumsumexp(best_first.flip(0), 0).flip(0)
    return (later - best_first).mean()


class _Rank(torch.autograd.Function):
    """Rows' ranks in [0, 1], largest first; backward by the step of a perturbed ranking.

    Source: Vlastelica et al., Differentiation of blackbox combinatorial solvers, ICLR 2020.
    """

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ranks = _ranks(values)
        ctx.save_for_backward(values, ranks)
        return ranks

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        values, ranks = ctx.saved_tensors
        # the ranks are the permutation with the least product with the values: so the values move with the gradient
        return -(ranks - _ranks(values + RANK_STEP * gradient)) / RANK_STEP


def _ranks(values: Tensor) -> Tensor:
    places = torch.argsort(torch.argsort(values, dim=1, descending=True, stable=True), dim=1, stable=True)
    return places.to(values.dtype) / values.shape[1]


def ranksim(z: Tensor, y: Tensor) -> Tensor:
    """How far neighbours in feature space are from being neighbours in target. z: [n, d] features; y: [n].

    Sum over samples of the mean squared difference of two ranks of all others: by cosine similarity of features and
    by closeness of target.
    Source: Gong et al., RankSim, ICML 2022.
    """
    _, first = torch.unique(y, return_inverse=True)
    order = torch.argsort(first, stable=True)
    kept = order[torch.cat([first.new_ones(1, dtype=torch.bool), first[order][1:] != first[order][:-1]])]
    unit = F.normalize(z[kept], dim=1)
    wanted = _ranks(-(y[kept][:, None] - y[kept][None, :]).abs())
    ranks: Tensor = _Rank.apply(unit @ unit.T)
    return ((ranks - wanted) ** 2).mean(1).sum()


LOSSES = {"squared": squared, "hinge": hinge, "listmle": listmle}
