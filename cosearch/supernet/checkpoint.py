"""The supernet's checkpoint in a run directory: weights, optimiser, what the recipe has learned, epoch and step.

Where a recipe's update takes several steps, the gradients that wait for it too.

Training needs no generator state: whatever it draws comes from streams named by seed, epoch and step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cosearch.errors import RunError
from cosearch.supernet.descent import SGD
from cosearch.supernet.elastic import Supernet
from cosearch.supernet.recipes import SupernetRecipe, of_run
from cosearch.supernet.training import make_optimizer

if TYPE_CHECKING:
    from cosearch.runs import RunDirectory

FILE = "supernet.safetensors"
VERSION = "3"
OPTIMIZER, STATE, GRADIENT = "optimizer.", "recipe.", "gradient."
MOST_DIGITS = 9
"""Of a number of epochs or steps."""
_Optimizer = SGD | torch.optim.Optimizer
_Parts = Iterator[tuple[str, nn.Module, _Optimizer | None]]


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint's file holds."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    @property
    def untrained(self) -> bool:
        """Whether it is of before the first step."""
        return self.metadata["step"] == "0"

    def copied(self) -> "Checkpoint":
        """With values that training does not change."""
        return Checkpoint({name: value.detach().clone() for name, value in self.tensors.items()}, self.metadata)

    def write(self, run: "RunDirectory") -> None:
        run.save_tensors(FILE, self.tensors, self.metadata)


def checkpoint(recipe: SupernetRecipe, optimizer: SGD, space: str, epoch: int) -> Checkpoint:
    """After so many epochs. Its tensors are those that training goes on with."""
    parameters = recipe.supernet.named_parameters()
    tensors = {GRADIENT + name: value.grad for name, value in parameters if value.grad is not None}
    for prefix, module, learner in _parts(recipe, optimizer):
        tensors |= {prefix + name: value for name, value in module.state_dict().items()}
        for name, parameter in module.named_parameters():
            state = learner.state.get(parameter, {}) if learner is not None else {}
            entries = {entry: value for entry, value in state.items() if isinstance(value, Tensor)}
            tensors |= {f"{OPTIMIZER}{prefix}{entry}.{name}": value for entry, value in entries.items()}
    return Checkpoint(tensors, {**_identity(recipe, space), "epoch": str(epoch), "step": str(optimizer.steps)})


def save(run: "RunDirectory", recipe: SupernetRecipe, optimizer: SGD, space: str, epoch: int) -> None:
    checkpoint(recipe, optimizer, space, epoch).write(run)


def restore(run: "RunDirectory", recipe: SupernetRecipe, space: str) -> tuple[int, SGD] | tuple[int, None]:
    """Load the checkpoint if there is one. Returns: epochs done, and the optimizer that trains those that are left.

    None if none is. The optimizer knows its steps, of which some may be of an epoch that is not done.

    Raises: RunError if it is of another space, recipe, length of training or version; it says both.
    """
    loaded = run.load_tensors(FILE)
    if loaded is None:
        return 0, make_optimizer(recipe.supernet, recipe.settings)
    tensors, metadata = loaded
    expected = _identity(recipe, space)
    found = {name: metadata.get(name, "unknown") for name in expected}
    if found != expected:
        raise RunError(
            f"{run.path / FILE} is of {_words(found)}; this run is {_words(expected)}: remove it or restore config.yaml"
        )
    learned = {name: tensors.pop(name) for name in list(tensors) if name.startswith(OPTIMIZER)}
    waiting = {name: tensors.pop(name) for name in list(tensors) if name.startswith(GRADIENT)}
    for prefix, module, _ in _parts(recipe, None):
        own = {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise RunError(
                f"{run.path / FILE} does not fit the supernet of {space}: {str(error).splitlines()[0]}"
            ) from None
    done = _epochs_done(run, metadata, recipe.epochs)
    if done == recipe.epochs:
        return done, None
    optimizer = make_optimizer(recipe.supernet, recipe.settings)
    optimizer.steps = _steps_taken(run, metadata)
    for prefix, module, learner in _parts(recipe, optimizer):
        if learner is not None and not _restore_optimizer(module, learner, learned, OPTIMIZER + prefix):
            raise _damaged(run, "what its optimizer remembers does not fit the weights")
    if not _restore_gradients(recipe.supernet, waiting):
        raise _damaged(run, "the gradients in it do not fit the weights")
    return done, optimizer


def _epochs_done(run: "RunDirectory", metadata: dict[str, str], epochs: int) -> int:
    """Raises: RunError."""
    said = metadata.get("epoch", "")
    done = int(said) if said.isdecimal() and len(said) <= MOST_DIGITS else -1
    if not 0 <= done <= epochs:
        raise _damaged(run, f"trained for {said!r:.50} of {epochs} epochs")
    return done


def _damaged(run: "RunDirectory", why: str) -> RunError:
    return RunError(f"{run.path / FILE} is damaged ({why}): remove it and run: {run.resume_command}")


def _steps_taken(run: "RunDirectory", metadata: dict[str, str]) -> int:
    """Raises: RunError."""
    said = metadata.get("step", "0")  # older checkpoints were of whole epochs
    if not said.isdecimal() or len(said) > MOST_DIGITS:
        raise _damaged(run, f"{said!r:.50} steps")
    return int(said)


def steps_begun(run: "RunDirectory", optimizer: SGD, done: int, per_epoch: int) -> int:
    """Steps that a restored optimizer has taken of the epoch after `done` others, of so many steps each.

    Raises: RunError if that is more than the epoch has.
    """
    begun = max(0, optimizer.steps - done * per_epoch)
    if begun >= per_epoch:
        raise _damaged(run, f"{optimizer.steps} steps, of {per_epoch} an epoch, in {done} epochs")
    return begun


def load(run: "RunDirectory", space: Any) -> Supernet:
    """The trained supernet of a run, on the CPU.

    Raises: RunError if its training is not finished.
    """
    recipe = of_run(run.config, space, "cpu")
    done, left = restore(run, recipe, space.name)
    if left is not None:
        said = f"trained for {done} of {recipe.epochs} epochs"
        raise RunError(f"{run.path}: the supernet is {said}: {run.resume_command}")
    return recipe.supernet


def _parts(recipe: SupernetRecipe, optimizer: SGD | None) -> _Parts:
    """(prefix, module, what trains it); the supernet last, whose prefix is empty."""
    yield STATE, recipe.state, recipe.optimizer
    yield "", recipe.supernet, optimizer


def _identity(recipe: SupernetRecipe, space: str) -> dict[str, str]:
    sharing = "heterogeneous" if recipe.supernet.heterogeneous else "separate"
    return {
        "version": VERSION,
        "space": space,
        "recipe": recipe.name,
        "sharing": sharing,
        "kernels": "transform" if recipe.supernet.kernel_transform else "crop",
        "epochs": str(recipe.settings.epochs),
    }


def _words(identity: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in identity.items())


def _restore_optimizer(module: nn.Module, optimizer: _Optimizer, learned: dict[str, Tensor], prefix: str) -> bool:
    """Whether what the optimizer had learned fits the parameters; then it has it again."""
    parameters = dict(module.named_parameters())
    for key, value in learned.items():
        entry, _, name = key.removeprefix(prefix).partition(".")
        if key.startswith(prefix) and name in parameters:
            parameter = parameters[name]
            if value.ndim and value.shape != parameter.shape:
                return False
            if value.ndim:
                value = value.to(parameter.device).contiguous(memory_format=_format_of(parameter))
            optimizer.state[parameter][entry] = value
    return True


def _restore_gradients(supernet: Supernet, waiting: dict[str, Tensor]) -> bool:
    """Whether the gradients fit the parameters; then these have them again."""
    parameters = dict(supernet.named_parameters())
    for key, value in waiting.items():
        parameter = parameters.get(key.removeprefix(GRADIENT))
        if parameter is None or value.shape != parameter.shape or value.dtype != parameter.dtype:
            return False
        parameter.grad = value.to(parameter.device).contiguous(memory_format=_format_of(parameter))
    return True


def _format_of(parameter: Tensor) -> torch.memory_format:
    """A restored momentum takes its weight's memory format: sums in another order would round otherwise."""
    channels_last = parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format
