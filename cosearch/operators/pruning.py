"""Training helpers for pruning: ADMM, reweighted groups, purification, Early-Bird tickets.

None of them owns a training loop: each gives a penalty to add to the loss, and an update to call between epochs.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cosearch.errors import OperatorError
from cosearch.operators.common import require
from cosearch.operators.pruned import (
    MaskedConv2d,
    MaskedLinear,
    _blocked,
    _unblocked,
    check_block,
    check_density,
    make_mask,
)

Projection = Callable[[Tensor], Tensor]


def scheme_projection(scheme: str, density: float, **options: Any) -> Projection:
    """The projection of a weight on a pruning scheme of `pruned.SCHEMES`."""
    check_density(density)
    return lambda weight: weight * make_mask(weight, scheme, density, **options)


class Admm:
    """min f(W) + sum g(Z), W = Z: train on f + `penalty()`, call `update()` every few epochs, end with `project_()`.

    targets: name -> (parameter, its projection). rho: 1e-4 to 1e-3 at first, raised in stages by setting it.
    Source: systematic weight pruning by ADMM, in scaled form.
    """

    def __init__(self, targets: Mapping[str, tuple[nn.Parameter, Projection]], rho: float = 1e-3) -> None:
        require(bool(targets), "targets", dict(targets), "at least one parameter with its projection")
        require(rho > 0, "rho", rho, "a positive number")
        self.rho = rho
        self._targets = dict(targets)
        self._z = {name: project(w.detach()) for name, (w, project) in self._targets.items()}
        self._u = {name: torch.zeros_like(w) for name, (w, _) in self._targets.items()}

    def penalty(self) -> Tensor:
        """sum rho/2 ||W - Z + U||^2."""
        parts = [(w - self._z[name] + self._u[name]).square().sum() for name, (w, _) in self._targets.items()]
        return 0.5 * self.rho * torch.stack(parts).sum()

    @torch.no_grad()
    def update(self) -> None:
        """Z = projection of W + U, then U += W - Z."""
        for name, (w, project) in self._targets.items():
            self._z[name] = project(w + self._u[name])
            self._u[name] += w - self._z[name]

    @torch.no_grad()
    def residual(self) -> float:
        """The greatest ||W - Z|| / ||W||; prune hard once it is below about 1e-2."""
        return max(
            float((w - self._z[name]).norm() / w.norm().clamp_min(1e-12)) for name, (w, _) in self._targets.items()
        )

    @torch.no_grad()
    def project_(self) -> dict[str, Tensor]:
        """Project every parameter in place. Returns: the masks of what is not zero."""
        masks = {}
        for name, (w, project) in self._targets.items():
            w.copy_(project(w))
            masks[name] = w != 0
        return masks


class Reweighted:
    """lambda sum_g P_g ||W_g||^2 with P_g = 1 / (||W_g||^2 + eps), refreshed every few epochs.

    Groups are the columns or rows inside blocks of the GEMM view: block = the whole matrix prunes whole columns or
    rows, (1, 1) single weights. lambda sets the rates; three or four refreshes are usual. Source: BLK-REW.
    """

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        block: tuple[int, int] | None = None,
        axis: str = "column",
        strength: float = 1e-4,
        eps: float = 1e-3,
    ) -> None:
        self._weights = list(weights)
        require(bool(self._weights), "weights", [], "at least one parameter")
        if block is not None:
            check_block(block)
        require(axis in ("column", "row"), "axis", axis, "'column' or 'row'")
        require(strength > 0, "strength", strength, "a positive number")
        require(eps > 0, "eps", eps, "a positive number")
        self.strength, self._block, self._along, self._eps = strength, block, 1 if axis == "column" else 3, eps
        self.refresh()

    def _energies(self, weight: Tensor) -> Tensor:
        matrix = weight.flatten(1)
        block = (len(matrix), matrix.shape[1]) if self._block is None else self._block
        return _blocked(matrix, block).square().sum(self._along, keepdim=True)

    @torch.no_grad()
    def refresh(self) -> None:
        self._factors = [1 / (self._energies(w) + self._eps) for w in self._weights]

    def penalty(self) -> Tensor:
        pairs = zip(self._factors, self._weights, strict=True)
        return self.strength * torch.stack([(p * self._energies(w)).sum() for p, w in pairs]).sum()

    @torch.no_grad()
    def masks(self, threshold: float) -> list[Tensor]:
        """Per weight the mask of groups whose mean square exceeds `threshold`."""
        result = []
        for weight in self._weights:
            matrix = weight.flatten(1)
            block = (len(matrix), matrix.shape[1]) if self._block is None else self._block
            blocks = _blocked(matrix, block)
            sizes = _blocked(torch.ones_like(matrix), block).sum(self._along, keepdim=True).clamp_min(1)
            keep = (self._energies(weight) / sizes > threshold).expand_as(blocks)
            result.append(_unblocked(keep, weight.shape))
        return result


@torch.no_grad()
def purify(
    layers: Sequence[MaskedConv2d | MaskedLinear], loss: Callable[[], float], tolerance: float, axis: str = "filter"
) -> list[int]:
    """Drop further filters (or columns) of each layer, weakest first, while the loss stays within `tolerance`.

    loss: evaluates the network as it is. Tries a tenth of what is left at once and halves the step on a failure.
    Returns: the number dropped per layer. Source: the purification step of P-RM.
    """
    require(tolerance >= 0, "tolerance", tolerance, "a number of at least 0")
    require(axis in ("filter", "column"), "axis", axis, "'filter' or 'column'")
    limit = loss() + tolerance
    dropped = []
    for layer in layers:
        energy = layer.value().flatten(1).square().sum(1 if axis == "filter" else 0)
        live = [int(i) for i in energy.argsort() if energy[i] > 0]
        step, start = max(1, len(live) // 10), 0
        while step and start + step < len(live):
            before = layer.mask.clone()
            matrix = layer.mask.view(len(layer.mask), -1)
            chosen = live[start : start + step]
            if axis == "filter":
                matrix[chosen] = False
            else:
                matrix[:, chosen] = False
            if loss() <= limit:
                start += step
            else:
                layer.mask.copy_(before)
                step //= 2
        if start:
            layer.set_mask(layer.mask, axis if axis == "filter" else "block")
        dropped.append(start)
    return dropped


def batch_norm_scales(module: nn.Module) -> Tensor:
    """|gamma| of every batch norm, concatenated. Raises: OperatorError if there is none."""
    kinds = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
    scales = [m.weight.detach().abs() for m in module.modules() if isinstance(m, kinds) and m.affine]
    if not scales:
        raise OperatorError(f"module={type(module).__name__}: expected at least one affine batch norm")
    return torch.cat(scales)


def add_scale_penalty_(module: nn.Module, strength: float = 1e-4) -> None:
    """Add the subgradient of strength sum |gamma| to the batch norms' gradients; call between backward and step."""
    kinds = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
    for m in module.modules():
        if isinstance(m, kinds) and m.affine and m.weight.grad is not None:
            m.weight.grad.add_(m.weight.detach().sign(), alpha=strength)


def mask_distance(left: Tensor, right: Tensor) -> float:
    """The fraction of differing bits, in [0, 2 min(p, 1 - p)] for masks of equal share p."""
    require(left.shape == right.shape, "right", tuple(right.shape), f"the shape {tuple(left.shape)} of left")
    return float((left != right).float().mean())


class EarlyBird:
    """Draws the ticket once the channel mask by |gamma| has settled.

    density: share of channels kept, globally. `observe` once per epoch is true from the epoch on which the last
    `window` masks differ from the newest in less than `epsilon` of their bits. Source: Early-Bird tickets.
    """

    def __init__(self, density: float, epsilon: float = 0.1, window: int = 5) -> None:
        check_density(density)
        require(epsilon > 0, "epsilon", epsilon, "a positive number")
        require(window >= 2, "window", window, "an integer of at least 2")
        self.density, self.epsilon = density, epsilon
        self._masks: deque[Tensor] = deque(maxlen=window)

    def observe(self, module: nn.Module) -> bool:
        scales = batch_norm_scales(module)
        kept = max(1, math.ceil(self.density * len(scales) - 1e-9))
        mask = torch.zeros(len(scales), dtype=torch.bool)
        mask[scales.topk(kept).indices] = True  # by count: a threshold would drop a channel too many
        return self.observe_mask(mask)

    def observe_mask(self, mask: Tensor) -> bool:
        self._masks.append(mask)
        full = len(self._masks) == self._masks.maxlen
        return full and all(mask_distance(mask, old) < self.epsilon for old in self._masks)

    @property
    def mask(self) -> Tensor:
        """The newest mask."""
        return self._masks[-1]
