"""The supernet's checkpoint in a run directory: weights, momentum and epoch; training needs no generator state."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from cosearch.errors import RunError

if TYPE_CHECKING:
    from cosearch.runs import RunDirectory

FILE = "supernet.safetensors"
MOMENTUM = "momentum."


def save(
    run: "RunDirectory", supernet: nn.Module, optimizer: torch.optim.SGD, space: str, epoch: int, epochs: int
) -> None:
    tensors = dict(supernet.state_dict())
    for name, parameter in supernet.named_parameters():
        state = optimizer.state.get(parameter, {})
        if state.get("momentum_buffer") is not None:
            tensors[MOMENTUM + name] = state["momentum_buffer"]
    run.save_tensors(FILE, tensors, {"space": space, "epoch": str(epoch), "epochs": str(epochs)})


def restore(run: "RunDirectory", supernet: nn.Module, optimizer: torch.optim.SGD, space: str, epochs: int) -> int:
    """Load the checkpoint if there is one. Returns: epochs done.

    Raises: RunError if it belongs to another space or another length of training.
    """
    loaded = run.load_tensors(FILE)
    if loaded is None:
        return 0
    tensors, metadata = loaded
    found = (metadata.get("space"), metadata.get("epochs"))
    if found != (space, str(epochs)):
        raise RunError(
            f"{run.path / FILE} is of space {found[0]} over {found[1]} epochs, this run is {space} over {epochs}: "
            "remove it or restore config.yaml"
        )
    momentum = {key.removeprefix(MOMENTUM): tensors.pop(key) for key in list(tensors) if key.startswith(MOMENTUM)}
    try:
        supernet.load_state_dict(tensors)
    except RuntimeError as error:
        raise RunError(
            f"{run.path / FILE} does not fit the supernet of {space}: {str(error).splitlines()[0]}"
        ) from None
    for name, parameter in supernet.named_parameters():
        if name in momentum:
            buffer = momentum[name].to(parameter.device).contiguous(memory_format=_format_of(parameter))
            optimizer.state[parameter]["momentum_buffer"] = buffer
    return int(metadata["epoch"])


def _format_of(parameter: torch.Tensor) -> torch.memory_format:
    """A restored momentum takes its weight's memory format: sums in another order would round otherwise."""
    return torch.channels_last if parameter.ndim == 4 else torch.contiguous_format
