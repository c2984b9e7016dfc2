"""Training by stochastic gradient descent: batches, augmentation, schedule; supernets and stand-alone networks.

Randomness is drawn from streams named by (seed, purpose, epoch), so that training continues from a checkpoint exactly
as if it had not been interrupted.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosearch.data import Split
from cosearch.errors import ConfigError, CosearchError, DataError
from cosearch.operators.adder import scale_add_gradients
from cosearch.seeding import derive, torch_stream
from cosearch.supernet.blocks import Network, calibrate, set_simulation
from cosearch.supernet.descent import SGD
from cosearch.supernet.elastic import Supernet
from cosearch.supernet.equalising import equalise

if TYPE_CHECKING:
    from cosearch.supernet.recipes import SupernetRecipe


class DivergedError(CosearchError):
    """The loss or a weight became NaN or infinite."""


@dataclass(frozen=True)
class Recipe:
    """How weights are trained: SGD with Nesterov momentum and a cosine from `learning_rate` to 0 after a warm-up.

    adder_rate: AdderNet's eta; an adder weight's gradient g becomes eta sqrt(n) g / ||g||.
    rotation_degrees, scale, shift_pixels: each image is turned, zoomed and moved by up to this much.
    laplace_weight: of the distance to a Laplace distribution, for weights that additions read through a transform.
    simulated_epochs: the last ones, in which a stand-alone network computes with the hardware's 8 bits
    (quantisation-aware training; weights of fewer bits and powers of two are trained as such from the first step).
    """

    epochs: int
    batch_size: int = 64
    learning_rate: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_fraction: float = 0.05
    label_smoothing: float = 0.05
    adder_rate: float = 0.5
    rotation_degrees: float = 12.0
    scale: float = 0.1
    shift_pixels: float = 0.8
    laplace_weight: float = 0.1
    simulated_epochs: int = 0


def supernet_recipe(epochs: int) -> Recipe:
    return Recipe(epochs)


FINE_TUNING_RATE = 0.1


def finalist_recipe(epochs: int, simulated_epochs: int = 0, trained: bool = False) -> Recipe:
    """Larger batches than the supernet's: a step costs little more and there are fewer of them.

    trained: the weights have learned already, and would forget at the rate that fresh ones need.
    """
    rate = FINE_TUNING_RATE if trained else 0.25
    return Recipe(epochs, batch_size=96, learning_rate=rate, simulated_epochs=simulated_epochs)


def torch_device(name: str) -> str:
    """``auto`` is a GPU if there is one.

    Raises: ConfigError if CUDA is asked for and absent.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--torch-device cuda: torch sees no CUDA device here; use auto or cpu")
    return "cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu"


def augment(x: Tensor, recipe: Recipe, mirror: bool, generator: torch.Generator) -> Tensor:
    """Turn, zoom, move and perhaps mirror each image. x: B x C x H x W."""
    n, _, height, width = x.shape
    draws = torch.rand((5, n), generator=generator) * 2 - 1
    angle = draws[0] * math.radians(recipe.rotation_degrees)
    zoom = 1 + draws[1] * recipe.scale
    flip = torch.where(draws[4] < 0, -1.0, 1.0) if mirror else torch.ones(n)
    if not (recipe.rotation_degrees or recipe.scale or recipe.shift_pixels):  # nothing to interpolate
        return torch.where((flip < 0).to(x.device).view(n, 1, 1, 1), x.flip(-1), x) if mirror else x
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    move_x, move_y = draws[2] * 2 * recipe.shift_pixels / width, draws[3] * 2 * recipe.shift_pixels / height
    theta = torch.stack([cos * flip, -sin, move_x, sin * flip, cos, move_y], dim=1).view(n, 2, 3).to(x.device)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def require_batch(split: Split, recipe: Recipe) -> None:
    """Raises: DataError if there are fewer images than a batch."""
    if len(split) < recipe.batch_size:
        raise DataError(f"{len(split)} training images, fewer than one batch of {recipe.batch_size}: give more images")


def batches(
    split: Split, recipe: Recipe, mirror: bool, seed: int, epoch: int, device: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled, augmented batches of one epoch; the last partial batch is dropped.

    Raises: DataError if there are fewer images than a batch.
    """
    require_batch(split, recipe)
    size = recipe.batch_size
    generator = torch_stream(seed, "epoch", epoch)
    x, y = torch.from_numpy(split.x).to(device), torch.from_numpy(split.y).to(device)
    order = torch.randperm(len(y), generator=generator).to(device)
    for start in range(0, len(y) - size + 1, size):
        chosen = order[start : start + size]
        yield augment(x[chosen], recipe, mirror, generator), y[chosen]


def steps_per_epoch(split: Split, recipe: Recipe) -> int:
    return max(1, len(split) // recipe.batch_size)


def rate_at(recipe: Recipe, step: int, total: int) -> float:
    """Linear warm-up, then half a cosine to zero."""
    warmup = max(1, round(recipe.warmup_fraction * total))
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    return annealed(recipe.learning_rate, step - warmup, total - warmup)


def annealed(rate: float, step: int, total: int) -> float:
    """Half a cosine to zero."""
    return rate * 0.5 * (1 + math.cos(math.pi * step / max(1, total)))


FULL_RATE_INPUTS = 64
"""A classifier of more inputs learns more slowly: a step moves a logit by the rate times the sum of squared inputs."""


def make_optimizer(model: nn.Module, recipe: Recipe) -> SGD:
    """Weight decay on convolution and classifier weights only: pulling an adder weight to 0 is not neutral."""
    adders = {id(p) for p in adder_parameters(model)}
    classifier = model.classifier.weight if isinstance(model, Network | Supernet) else None
    decayed = [p for p in model.parameters() if p.ndim > 1 and id(p) not in adders and p is not classifier]
    rest = [p for p in model.parameters() if p.ndim <= 1 or id(p) in adders]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    if classifier is not None:
        scale = min(1.0, FULL_RATE_INPUTS / classifier.shape[1])
        groups.append({"params": [classifier], "weight_decay": recipe.weight_decay, "rate_scale": scale})
    return SGD(groups, recipe.learning_rate, recipe.momentum)


def adder_parameters(model: nn.Module) -> list[nn.Parameter]:
    if isinstance(model, Supernet):
        return model.adder_parameters()
    return [unit.weight for unit in model.units() if unit.op == "add"] if isinstance(model, Network) else []


def set_rate(optimizer: SGD, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate_scale", 1.0)


def train_network(
    network: Network,
    split: Split,
    recipe: Recipe,
    seed: int,
    mirror: bool = False,
    device: str = "cpu",
    on_epoch: Callable[[int], None] | None = None,
    teacher: nn.Module | None = None,
) -> None:
    """Train in place, from the weights the network has, then calibrate batch-norm and activation ranges.

    Channels are made equal (`equalise`) before their ranges decide anything.

    teacher: in evaluation mode; half of the loss is then the cross-entropy to what it says (Hinton et al., 2015, at
    temperature 1).
    Raises: DivergedError if the loss or, in the end, a weight or a statistic is not finite.
    """
    network.to(device).train()
    optimizer = make_optimizer(network, recipe)
    adders = adder_parameters(network)
    per_epoch = steps_per_epoch(split, recipe)
    everything = torch.from_numpy(split.x).to(device)
    for epoch in range(recipe.epochs):
        if epoch == recipe.epochs - recipe.simulated_epochs:
            equalise(network)
            calibrate(network, everything)  # the ranges that are simulated from here on
            set_simulation(network, True)
            network.train()
        for i, (x, y) in enumerate(batches(split, recipe, mirror, seed, epoch, device)):
            rate = rate_at(recipe, epoch * per_epoch + i, recipe.epochs * per_epoch)
            set_rate(optimizer, rate)
            optimizer.zero_grad()
            logits = network(x)
            loss = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
            if teacher is not None:
                loss = 0.5 * loss + 0.5 * F.cross_entropy(logits, _says(teacher, x))
            require_finite(loss.detach(), f"step {i + 1} of epoch {epoch + 1} of {recipe.epochs}", rate)
            loss.backward()
            scale_add_gradients(adders, recipe.adder_rate, used_only=True)
            optimizer.step()
        if on_epoch:
            on_epoch(epoch + 1)
    end = f"the last of {recipe.epochs} epochs"
    require_finite_values("a weight", list(network.parameters()), end, recipe.learning_rate)
    if not recipe.simulated_epochs:
        equalise(network)
    calibrate(network, everything)
    require_finite_values("a statistic", list(network.buffers()), end, recipe.learning_rate)
    set_simulation(network, False)


@torch.no_grad()
def _says(teacher: nn.Module, x: Tensor) -> Tensor:
    return teacher(x).softmax(1)


def require_finite(loss: Tensor, where: str, rate: float) -> None:
    """Raises: DivergedError if the loss is NaN or infinite."""
    if not bool(torch.isfinite(loss)):
        raise DivergedError(f"training diverged: the loss became {float(loss)} in {where} at learning rate {rate:.3g}")


def require_finite_values(what: str, values: Sequence[Tensor], where: str, rate: float) -> None:
    """The last step of an epoch may spoil weights, or what follows from them, without a loss that shows it; they must
    not be saved.

    Raises: DivergedError.
    """
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise DivergedError(f"training diverged: {what} became infinite or NaN in {where} at learning rate {rate:.3g}")


def train_supernet_epoch(
    recipe: "SupernetRecipe",
    optimizer: SGD,
    split: Split,
    seed: int,
    epoch: int,
    mirror: bool = False,
    device: str = "cpu",
    first: int = 0,
    on_step: Callable[[int], None] | None = None,
) -> float:
    """One epoch of a recipe: as many networks run as there are batches, so that every recipe's epoch is equal work.

    A group of steps that has no end in this epoch ends in a later one, or with the training.

    first: steps of the epoch that were taken before. on_step: called with the number that are taken, between steps.
    Returns: the mean loss. Raises: DivergedError if it is not finite, DataError for fewer images than a batch.
    """
    supernet, settings = recipe.supernet.train(), recipe.settings
    adders = supernet.adder_parameters()
    per_epoch = supernet_steps(recipe, split)
    total = torch.zeros((), device=device)
    (recipe.resume if first else recipe.before_epoch)(epoch)
    images = batches(split, settings, mirror, derive(seed, "supernet"), epoch, device)
    for i, (x, y) in enumerate(islice(images, first, per_epoch), first):  # other images' turn comes in other epochs
        number, steps = epoch * per_epoch + i, recipe.epochs * per_epoch
        rate = recipe.rate(settings, number, steps)
        set_rate(optimizer, rate)
        loss = recipe.step(x, y, epoch, i)
        require_finite(loss, f"step {i + 1} of epoch {epoch + 1} of {recipe.epochs} of the supernet", rate)
        if (number + 1) % recipe.group and number + 1 < steps:
            optimizer.wait()
        else:
            recipe.after_backward(epoch)
            scale_add_gradients(adders, settings.adder_rate, used_only=True)
            optimizer.step()
            optimizer.zero_grad()
            recipe.after_step(epoch)
        total += loss
        if on_step is not None and i + 1 < per_epoch:
            on_step(i + 1)
    require_finite_supernet(recipe, optimizer, f"epoch {epoch + 1}")
    return float(total) / (per_epoch - first)


def supernet_steps(recipe: "SupernetRecipe", split: Split) -> int:
    """Steps in an epoch of a recipe."""
    return max(1, steps_per_epoch(split, recipe.settings) // recipe.paths)


def require_finite_supernet(recipe: "SupernetRecipe", optimizer: SGD, where: str) -> None:
    """Raises: DivergedError if what a recipe learns is not finite."""
    learned = [*recipe.supernet.parameters(), *recipe.state.parameters()]
    require_finite_values("a weight", learned, f"{where} of the supernet", optimizer.param_groups[0]["lr"])


@torch.no_grad()
def accuracy(network: nn.Module, split: Split, device: str = "cpu", batch_size: int = 512) -> float:
    """Fraction of the split that is classified correctly, in [0, 1]."""
    x, y = torch.from_numpy(split.x).to(device), torch.from_numpy(split.y).to(device)
    right = sum(
        int((network(xb).argmax(1) == yb).sum())
        for xb, yb in zip(x.split(batch_size), y.split(batch_size), strict=True)
    )
    return right / len(y)
