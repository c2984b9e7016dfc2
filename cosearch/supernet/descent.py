"""Stochastic gradient descent, one class: `torch.optim.SGD` without torch's compiler.

Every optimiser of torch loads the compiler when it is made: two processor seconds in each process that trains, be it
for one step. Its function that updates weights does not.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd


class SGD:
    """Steps with Nesterov momentum: the arithmetic of `torch.optim.SGD(foreach=True, nesterov=True)`, bit for bit.

    param_groups: dicts of ``params``, ``lr``, ``weight_decay`` and what else a caller gave, as torch's.
    state: parameter -> ``momentum_buffer``, once it had a gradient. steps: how many were taken, with those that
    only made gradients.
    """

    def __init__(self, groups: Iterable[Mapping[str, Any]], lr: float, momentum: float) -> None:
        """lr: of groups that have none of their own."""
        self.param_groups: list[dict[str, Any]] = [{"lr": lr, **group} for group in groups]
        self.momentum = momentum
        self.steps = 0
        self.state: dict[Tensor, dict[str, Tensor]] = defaultdict(dict)

    def zero_grad(self) -> None:
        """Forget all gradients: a parameter that gets none before the next step is left as it is by it."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def wait(self) -> None:
        """Count a step whose gradients stay, so that those of the next are added to them."""
        self.steps += 1

    @torch.no_grad()
    def step(self) -> None:
        self.steps += 1
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            momenta = [self.state[parameter].get("momentum_buffer") for parameter in moved]
            sgd(
                moved,
                [parameter.grad for parameter in moved],
                momenta,
                foreach=True,
                weight_decay=group["weight_decay"],
                momentum=self.momentum,
                lr=group["lr"],
                dampening=0.0,
                nesterov=True,
                maximize=False,
            )
            for parameter, momentum in zip(moved, momenta, strict=True):
                assert momentum is not None  # the first step fills it in
                self.state[parameter]["momentum_buffer"] = momentum
