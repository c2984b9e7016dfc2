"""Scores of a network that need no training: SynFlow and NASWOT. `tests.benchmarks.training_free` says what they are
worth."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from cosearch.supernet.blocks import Network


def synflow(network: "Network") -> float:
    """Logarithm of ``sum |w dR/dw|``, R the sum of outputs for an image of ones through absolute weights.

    Batch-norms pass values on as they do before training. In double precision: products over layers overflow single.
    Source: Tanaka et al., Pruning neural networks without any data, 2020, Eq. 1.
    """
    import copy

    import torch

    linear: Any = copy.deepcopy(network).double().eval()
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.abs_()
    output = linear(torch.ones(1, *network.blueprint.input_shape, dtype=torch.float64))
    parameters = [parameter for parameter in linear.parameters() if parameter.requires_grad]
    slopes = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    terms = [(p.detach() * s).abs().sum() for p, s in zip(parameters, slopes, strict=True) if s is not None]
    return float(torch.stack(terms).sum().clamp_min(1e-300).log())


def naswot(network: "Network", images: "Tensor") -> float:
    """Logarithm of the determinant of how alike images are in which units they switch on.

    images: B x C x H x W. The kernel is ``sum over ReLUs of c c' + (1 - c)(1 - c')``, c the codes of on and off.
    Returns: minus infinity where two images have one code. Source: Mellor et al., Neural architecture search without
    training, 2021.
    """
    import torch

    network.train()
    with torch.no_grad(), _switches(network) as codes:
        network(images)
    on = torch.cat(codes, dim=1).double()
    kernel = on @ on.T + (1 - on) @ (1 - on).T
    sign, logarithm = torch.linalg.slogdet(kernel)
    return float(logarithm) if float(sign) > 0 else -float("inf")


@contextmanager
def _switches(network: "Network") -> "Iterator[list[Tensor]]":
    """The codes of every ReLU, [images, units] of 0 and 1, as a forward pass fills them in."""
    from cosearch.supernet.blocks import Normalise, Unit

    codes: list[Tensor] = []
    hooks = []
    for module in network.parts.values():
        if isinstance(module, Unit) and module.step.relu == "before":
            hooks.append(module.register_forward_pre_hook(lambda _, x: codes.append((x[0] > 0).flatten(1))))
        elif isinstance(module, Normalise) or (isinstance(module, Unit) and module.step.relu == "after"):
            hooks.append(module.register_forward_hook(lambda _, x, y: codes.append((y > 0).flatten(1))))
    try:
        yield codes
    finally:
        for hook in hooks:
            hook.remove()
