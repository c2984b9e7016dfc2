"""How a supernet's weights are trained: recipes put together from a sampler, a step and hooks around it.

A recipe is made by a function (space, seed, settings) -> `SupernetRecipe`; `RECIPES` names them. Whatever a recipe
draws comes from streams named by (seed, epoch, step), and what it learns beside the weights stands in its `state`, so
that training continues from a checkpoint exactly.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosearch import registry
from cosearch.blueprint import Blueprint, operator_of
from cosearch.seeding import torch_stream
from cosearch.supernet import sampling
from cosearch.supernet.elastic import ElasticUnit, Supernet
from cosearch.supernet.sampling import Arch, Choice, Sampler, Within
from cosearch.supernet.sharing import laplace_distance, limit_gradient
from cosearch.supernet.sorting import sort_channels
from cosearch.supernet.training import Recipe, annealed, rate_at, supernet_recipe

if TYPE_CHECKING:
    from cosearch.config import RunConfig

RECIPES: dict[str, str] = {
    "uniform": "cosearch.supernet.recipes:uniform",
    "fair": "cosearch.supernet.recipes:fair",
    "sandwich": "cosearch.supernet.recipes:sandwich",
    "progressive": "cosearch.supernet.recipes:progressive",
    "prune": "cosearch.supernet.recipes:prune",
    "gumbel": "cosearch.supernet.recipes:gumbel",
}


Step = Callable[[Tensor, Tensor, int, int], Tensor]
Hook = Callable[[int], None]


def nothing(epoch: int) -> None:
    """A hook that does nothing."""


@dataclass(frozen=True)
class SupernetRecipe:
    """One way to train a supernet.

    step: (x, y, epoch, step) runs the step's networks, leaves their gradients in the supernet and returns the loss.
    paths: networks in a step; an epoch has that many times fewer steps, so that equal epochs are equal work.
    group: steps, each of a batch of its own, whose gradients wait for one update of the weights.
    rate: (settings, step, steps in all) -> learning rate. before_epoch, after_backward, after_step: hooks (epoch);
    resume: takes the place of before_epoch where training goes on within an epoch.
    length: epochs that training takes as far as is known by now, where that may be fewer than those asked for.
    state, optimizer: what is learned beside the weights, and by what; both go into the checkpoint.
    """

    name: str
    supernet: Supernet
    settings: Recipe
    step: Step
    paths: int = 1
    group: int = 1
    rate: Callable[[Recipe, int, int], float] = rate_at
    before_epoch: Hook = nothing
    resume: Hook = nothing
    after_backward: Hook = nothing
    after_step: Hook = nothing
    length: Callable[[], int] | None = None
    state: nn.Module = field(default_factory=nn.Module)
    optimizer: torch.optim.Optimizer | None = None

    @property
    def epochs(self) -> int:
        """`length`, or those asked for."""
        return self.settings.epochs if self.length is None else self.length()


AUTO = "auto"
"""Stands for the recipe that `automatic` names."""
MANY_NETWORKS = 6000


def automatic(operators: Sequence[str], networks: int) -> str:
    """The recipe for a space of these operators, if so many networks are run (one a batch).

    Measured where additions stand beside multiplications, on shiftadd and shapes (docs/benchmarks/supernet.md): after
    12,000 networks sandwich and uniform rank best; after 2,500 to 3,000, as many images as a run on digits trains with,
    progressive does, on each of three seeds (on other networks of the space sandwich is level with it). Elsewhere
    uniform, the simplest, as nothing else is measured.
    """
    measured = "add" in operators and len(operators) > 1
    if not measured:
        return "uniform"
    return "sandwich" if networks >= MANY_NETWORKS else "progressive"


def make(
    name: str, space: Any, supernet: Supernet, seed: int, settings: Recipe, within: Within | None = None
) -> SupernetRecipe:
    """The recipe of a name.

    within: says which archs meet the budget, which are then drawn more often.
    Raises: UnknownNameError.
    """
    build: Callable[..., SupernetRecipe] = registry.find("recipes", RECIPES, name)
    return build(space, supernet, seed, settings, within)


def of_run(config: "RunConfig", space: Any, device: str, within: Within | None = None) -> SupernetRecipe:
    """The recipe of a run, with a fresh supernet on a device."""
    asked = {"heterogeneous": config.sharing == "heterogeneous", "kernel_transform": config.kernels == "transform"}
    supernet = space.supernet(config.seed, **{name: True for name, on in asked.items() if on}).to(device)
    return make(config.recipe, space, supernet, config.seed, supernet_recipe(config.supernet_epochs), within)


# -- steps --


def backward(
    supernet: Supernet,
    x: Tensor,
    y: Tensor,
    blueprint: Blueprint,
    settings: Recipe,
    share: float = 1.0,
    teacher: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Add `share` of one network's gradient. teacher: logits to follow instead of the labels.

    Returns: its loss and its logits, detached.
    """
    transformed: list[Any] = []
    logits = supernet(x, blueprint, transformed)
    loss = (
        F.cross_entropy(logits, y, label_smoothing=settings.label_smoothing)
        if teacher is None
        else F.cross_entropy(logits, teacher.softmax(1))
    )
    total = loss
    if transformed:
        for entry in transformed:
            limit_gradient(entry, share * settings.adder_rate)
        distances = torch.stack([laplace_distance(entry.weight) for entry in transformed])
        total = loss + settings.laplace_weight * distances.mean()
    (share * total).backward()
    return loss.detach(), logits.detach()


def follow(space: Any, supernet: Supernet, sampler: Sampler, settings: Recipe) -> Step:
    """A step on the sampled networks, each with an equal share of the gradient."""

    def step(x: Tensor, y: Tensor, epoch: int, index: int) -> Tensor:
        archs = sampler(epoch, index)
        losses = [backward(supernet, x, y, space.blueprint(arch), settings, 1.0 / len(archs))[0] for arch in archs]
        return torch.stack(losses).mean()

    return step


def distil(space: Any, supernet: Supernet, sampler: Sampler, settings: Recipe) -> Step:
    """A step in which the first network learns the labels and the others what it says (in-place distillation)."""

    def step(x: Tensor, y: Tensor, epoch: int, index: int) -> Tensor:
        first, *others = sampler(epoch, index)
        share = 1.0 / (1 + len(others))
        loss, teacher = backward(supernet, x, y, space.blueprint(first), settings, share)
        for arch in others:
            backward(supernet, x, y, space.blueprint(arch), settings, share, teacher)
        return loss

    return step


# -- recipes --


def uniform(
    space: Any, supernet: Supernet, seed: int, settings: Recipe, within: Within | None = None
) -> SupernetRecipe:
    """Single path, uniformly sampled."""
    return SupernetRecipe(
        "uniform",
        supernet,
        settings,
        follow(space, supernet, _sampler(sampling.uniform(space, seed), within), settings),
    )


def fair(space: Any, supernet: Supernet, seed: int, settings: Recipe, within: Within | None = None) -> SupernetRecipe:
    """Every choice of every decision once in each update (FairNAS). A budget is not followed: it would not be fair.

    Each network has a batch of its own (our choice; FairNAS shows all of them one): as many networks run in an epoch as
    in that of any recipe, however many choices there are, and its images are all seen. Gradients wait until all choices
    had their turn, over the ends of epochs too. A weight's is then their sum over the networks that used it, divided by
    the square root of their number: few updates of large batches need longer steps than many of small ones.
    """
    group = sampling.widest_decision(space)
    sampler = sampling.strictly_fair(space, seed)
    parameters = list(supernet.parameters())
    state = _FairState(len(parameters))
    for i, parameter in enumerate(parameters):
        parameter.register_post_accumulate_grad_hook(lambda _, i=i: state.count(i))

    def step(x: Tensor, y: Tensor, epoch: int, index: int) -> Tensor:
        arch = sampler(0, int(state.updates))[int(state.turn)]
        state.turn += 1
        return backward(supernet, x, y, space.blueprint(arch), settings)[0]

    def after_backward(epoch: int) -> None:
        for parameter, times in zip(parameters, state.times.tolist(), strict=True):
            if times > 1:
                assert parameter.grad is not None
                parameter.grad /= math.sqrt(times)
        state.next_update()

    return SupernetRecipe("fair", supernet, settings, step, group=group, after_backward=after_backward, state=state)


class _FairState(nn.Module):
    """updates: done so far. turn: of the next network. times: in how many of this update's each weight was used."""

    updates: Tensor
    turn: Tensor
    times: Tensor

    def __init__(self, parameters: int) -> None:
        super().__init__()
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("turn", torch.zeros((), dtype=torch.int64))
        self.register_buffer("times", torch.zeros(parameters, dtype=torch.int64))

    def count(self, parameter: int) -> None:
        self.times[parameter] += 1

    def next_update(self) -> None:
        self.updates += 1
        self.turn.zero_()
        self.times.zero_()


def sandwich(
    space: Any, supernet: Supernet, seed: int, settings: Recipe, within: Within | None = None
) -> SupernetRecipe:
    """Largest, smallest and two others; all follow the largest (BigNAS). A budget is not followed by the two ends."""
    sampler = sampling.sandwich(space, seed, within=within)
    return SupernetRecipe("sandwich", supernet, settings, distil(space, supernet, sampler, settings), 4)


def progressive(
    space: Any, supernet: Supernet, seed: int, settings: Recipe, within: Within | None = None
) -> SupernetRecipe:
    """NASA's PGP in three equal stages: convolutions and shifts; additions join, the others' weights stand; all.

    In the first half of the first two stages only the widest expansions; before the others join, channels are sorted by
    importance, so that narrow blocks begin with the best (Once-for-all): in each layer by what it has, of additions
    that join a second time, and where a butterfly shares them not at all (`sort_channels`). The learning rate anneals
    in each stage anew, and additions start from the batch-norm gains that convolutions have learned (both our choice).
    """
    # the last stage has an epoch at least: without it nothing would train what the second leaves as it is
    second, third = (min(round(settings.epochs * i / 3), settings.epochs - 1) for i in (1, 2))
    narrower = {math.ceil(second / 2): {n: _convolving(options) for n, options in space.choices.items()}}
    if not supernet.heterogeneous:  # else additions take the order of what they share
        narrower[math.ceil((second + third) / 2)] = {
            name: added for name, options in space.choices.items() if (added := sampling.joining(options))
        }

    def stage(epoch: int) -> int:
        return (epoch >= second) + (epoch >= third)

    def allowed(epoch: int) -> dict[str, Sequence[Choice]]:
        now = stage(epoch)
        choices: Mapping[str, Sequence[Choice]] = space.choices
        if now == 0:
            choices = {name: sampling.without_additions(options) for name, options in choices.items()}
        start, end = ((0, second), (second, third), (third, settings.epochs))[now]
        if now < 2 and epoch < (start + end) / 2:
            choices = {name: sampling.widest(options) for name, options in choices.items()}
        return dict(choices)

    def before_epoch(epoch: int) -> None:
        if 0 < epoch < third and (joining := narrower.get(epoch)):
            largest = space.largest_of({**space.choices, **joining})
            sort_channels(supernet, space.blueprint(largest), joining)
        if epoch == second:
            for unit in elastic_units(supernet):
                inherit_gains(unit)

    def after_backward(epoch: int) -> None:
        if stage(epoch) == 1:
            for parameter in multiplying_parameters(supernet):
                parameter.grad = None

    def rate(settings: Recipe, step: int, total: int) -> float:
        bounds = [round(total * epoch / settings.epochs) for epoch in (0, second, third, settings.epochs)]
        now = max(i for i in range(3) if bounds[i] <= step)
        return rate_at(settings, step - bounds[now], bounds[now + 1] - bounds[now])

    sampler = _sampler(sampling.among(space, seed, allowed), within)
    return SupernetRecipe(
        "progressive",
        supernet,
        settings,
        follow(space, supernet, sampler, settings),
        rate=rate,
        before_epoch=before_epoch,
        after_backward=after_backward,
    )


def _convolving(options: Sequence[Choice]) -> Sequence[Choice]:
    """Of the choices that progressive training begins with the convolutions, if there are any."""
    first = sampling.without_additions(options)
    return [option for option in first if operator_of(option) == "conv"] or first


def elastic_units(supernet: Supernet) -> list[ElasticUnit]:
    return [unit for unit in supernet.units.values() if isinstance(unit, ElasticUnit)]


@torch.no_grad()
def inherit_gains(unit: ElasticUnit) -> None:
    """Batch-norm gains and offsets of additions become those of convolutions."""
    if "add" in unit.gamma and "conv" in unit.gamma:
        for values in (unit.gamma, unit.beta):
            k = min(len(values["add"]), len(values["conv"]))
            values["add"][:k] = values["conv"][:k]


def multiplying_parameters(supernet: Supernet) -> list[nn.Parameter]:
    """Weights, gains and offsets of whatever is no addition, where there are additions beside it."""
    found: list[nn.Parameter] = []
    for unit in elastic_units(supernet):
        if "add" in unit.gamma and len(unit.gamma) > 1:
            for key, weights in unit.weights.items():
                if not key.startswith("adder") and isinstance(weights, nn.ParameterList):
                    found += list(weights)
            found += [value for values in (unit.gamma, unit.beta) for op, value in values.items() if op != "add"]
            found += list(unit.kernels.values())
    return found


# -- joint search and pruning --

PRUNED = 0.5
"""Share of the weights that is zero in the end."""
PRUNE_PERIODS = 4
MASKS, MASK_DISTANCE = 5, 0.1
GAIN_PENALTY = 1e-4
"""Of the sum of the gains' magnitudes, while a mask of them is looked for."""


class EarlyBird(nn.Module):
    """Says when a pruning mask has settled: the newest of five differs from each before in less than a tenth.

    Source: You et al., Drawing early-bird tickets, 2020.
    """

    masks: Tensor
    seen: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("masks", torch.zeros(MASKS, size, dtype=torch.uint8))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def settled(self, mask: Tensor) -> bool:
        """Take the newest mask, [size] of 0 and 1. Returns: whether a ticket can be drawn."""
        self.masks = torch.cat([self.masks[1:], mask[None].to(self.masks)])
        self.seen += 1
        return int(self.seen) >= MASKS and bool((mask_distance(self.masks[:-1], self.masks[-1]) < MASK_DISTANCE).all())


def mask_distance(a: Tensor, b: Tensor) -> Tensor:
    """The share of entries in which masks differ; broadcasts over leading dimensions."""
    return (a != b).to(torch.float64).mean(-1)


def small_gains(supernet: Supernet, share: float) -> Tensor:
    """[gains] 1 where a batch-norm gain of the supernet is not among the smallest `share`."""
    magnitudes = torch.cat([gain.detach().abs() for gain in gains(supernet)])
    return (magnitudes > magnitudes.quantile(share)).to(torch.uint8)


def gains(supernet: Supernet) -> list[nn.Parameter]:
    """Of batch-norm, of every operator of every unit."""
    return [gain for unit in elastic_units(supernet) for gain in unit.gamma.values()]


def prune(space: Any, supernet: Supernet, seed: int, settings: Recipe, within: Within | None = None) -> SupernetRecipe:
    """Search and pruning at once, with iterative re-activation (SuperTickets), after early-bird training.

    All weights train, at the full learning rate and with an L1 penalty on batch-norm gains, until the mask of small
    gains has settled (early-bird), at most for a third of the epochs. What is left of that third is not trained: the
    training ends so much earlier. Then there are four periods, in which the rate anneals. Each sets the smallest
    weights to zero, more of them than the one before; they stay zero for half of the period and train again in the
    other half. In the last they stay zero.
    """
    state = _PruningState(len(small_gains(supernet, PRUNED)))
    masks: list[tuple[nn.Parameter, Tensor]] = []
    dense = settings.epochs // 3

    def length() -> int:
        return settings.epochs if int(state.start) < 0 else int(state.start) + settings.epochs - dense

    def before_epoch(epoch: int) -> None:
        if int(state.start) < 0:
            settled = epoch > 0 and state.bird.settled(small_gains(supernet, PRUNED))  # untrained, all are equal
            if settled or epoch >= dense:
                state.start.fill_(epoch)
        if int(state.start) >= 0:
            period, begins, _ = pruning_phase(epoch, int(state.start), length())
            if begins:
                zero_smallest(prunable(supernet), PRUNED * (period + 1) / PRUNE_PERIODS)
        hold_zeros(epoch)

    def hold_zeros(epoch: int) -> None:
        """What is zero stays zero, if it shall; a restored checkpoint knows it by the zeros themselves."""
        masks.clear()
        if int(state.start) >= 0 and pruning_phase(epoch, int(state.start), length())[2]:
            masks.extend((weight, (weight.detach() != 0).to(weight.dtype)) for weight in prunable(supernet))

    @torch.no_grad()
    def after_backward(epoch: int) -> None:
        for gain in gains(supernet) if int(state.start) < 0 else ():
            if gain.grad is not None:
                gain.grad += GAIN_PENALTY * gain.sign()

    @torch.no_grad()
    def after_step(epoch: int) -> None:
        for weight, mask in masks:
            weight.mul_(mask)

    def rate(settings: Recipe, step: int, total: int) -> float:
        if int(state.start) < 0:
            return rate_at(settings, min(step, round(settings.warmup_fraction * total)), total)
        begun = round(total * int(state.start) / length())
        return annealed(settings.learning_rate, step - begun, total - begun)

    sampler = _sampler(sampling.uniform(space, seed), within)
    return SupernetRecipe(
        "prune",
        supernet,
        settings,
        follow(space, supernet, sampler, settings),
        rate=rate,
        before_epoch=before_epoch,
        resume=hold_zeros,
        after_backward=after_backward,
        after_step=after_step,
        length=length,
        state=state,
    )


class _PruningState(nn.Module):
    start: Tensor

    def __init__(self, gains: int) -> None:
        super().__init__()
        self.register_buffer("start", torch.full((), -1, dtype=torch.int64))  # the epoch in which pruning starts
        self.bird = EarlyBird(gains)


def pruning_phase(epoch: int, start: int, epochs: int) -> tuple[int, bool, bool]:
    """(period, whether it begins in this epoch, whether its zeros stay) of an epoch from `start` on."""
    length = (epochs - start) / PRUNE_PERIODS
    starts = [start + math.floor(i * length) for i in range(PRUNE_PERIODS)]
    period = max(i for i in range(PRUNE_PERIODS) if starts[i] <= epoch)
    masked = period == PRUNE_PERIODS - 1 or epoch < starts[period] + max(1.0, length / 2)
    return period, epoch == starts[period], masked


def prunable(supernet: Supernet) -> list[nn.Parameter]:
    """The weights that multiply; zero is no neutral weight of an addition."""
    return [
        weight
        for unit in elastic_units(supernet)
        for key, weights in unit.weights.items()
        if key.startswith("linear") and isinstance(weights, nn.ParameterList)
        for weight in weights
    ]


@torch.no_grad()
def zero_smallest(weights: Sequence[nn.Parameter], share: float) -> None:
    """Set the smallest `share` of all weights to zero, each in units of its tensor's spread."""
    scaled = [weight.abs() / weight.std(correction=0).clamp_min(1e-12) for weight in weights]
    everything = torch.cat([values.flatten() for values in scaled])
    threshold = everything.kthvalue(max(1, round(share * everything.numel()))).values
    for weight, values in zip(weights, scaled, strict=True):
        weight.mul_((values > threshold).to(weight.dtype))


# -- architecture parameters --

TEMPERATURE, COOLING = 5.0, 0.975
"""NASA's: 5 at first, times 0.975 in each epoch."""
TRAVEL = 2.6
"""How far Adam can move a logit in all: NASA's 45 epochs of 195 steps with a learning rate of 3e-4."""


class ArchitectureLogits(nn.Module):
    """One logit for each choice of each decision, relaxed by Gumbel-softmax with hard samples (GDAS)."""

    def __init__(self, choices: Mapping[str, Sequence[Choice]]) -> None:
        super().__init__()
        self.choices = {name: tuple(options) for name, options in choices.items()}
        self.logits = nn.ParameterList(torch.zeros(len(options)) for options in choices.values())

    def of_choices(self) -> dict[str, dict[Choice, float]]:
        """Decision -> choice -> logit."""
        return {
            name: dict(zip(options, logits.tolist(), strict=True))
            for (name, options), logits in zip(self.choices.items(), self.logits, strict=True)
        }

    def draw(self, temperature: float, generator: torch.Generator) -> tuple[Arch, dict[str, Tensor]]:
        """An arch, and for each decision a gate: a scalar of value one whose gradient is that of the choice's share."""
        arch: Arch = {}
        gates: dict[str, Tensor] = {}
        for (name, options), logits in zip(self.choices.items(), self.logits, strict=True):
            uniform = torch.rand(len(options), generator=generator).clamp(1e-9, 1 - 1e-7)
            noise = -torch.log(-torch.log(uniform)).to(logits.device)
            shares = ((logits + noise) / temperature).softmax(0)
            chosen = int(shares.argmax())
            arch[name] = options[chosen]
            gates[name] = 1.0 + shares[chosen] - shares[chosen].detach()
        return arch, gates


def learned_logits(recipe: SupernetRecipe) -> dict[str, dict[Choice, float]] | None:
    """What a recipe has learned of the choices, decision -> choice -> logit; None if it learns weights only."""
    return recipe.state.of_choices() if isinstance(recipe.state, ArchitectureLogits) else None


def gated_steps(blueprint: Blueprint, decisions: Sequence[str]) -> dict[str, str]:
    """Step -> decision, for the last convolution of each place that a decision fills.

    A choice without a convolution has no gate; its logit then moves only against those of the others.
    """
    last: dict[str, tuple[str, str]] = {}
    for step in blueprint.convolutions:
        parts = step.name.split(".")
        for decision in decisions:
            if decision in parts:
                last[".".join(parts[: parts.index(decision) + 1])] = (step.name, decision)
    return dict(last.values())


def gumbel(space: Any, supernet: Supernet, seed: int, settings: Recipe, within: Within | None = None) -> SupernetRecipe:
    """Weights on uniform paths for half of the epochs, then weights and architecture logits in turn (NASA).

    A budget is followed by the first half only: in the second the logits choose.
    The logits are `recipe.state`, from which the differentiable strategy starts; their optimiser is Adam (0.5, 0.999),
    whose rate lets them go as far in these steps as NASA's do in theirs, which are many more.
    """
    logits = ArchitectureLogits(space.choices)
    adam = torch.optim.Adam(logits.parameters(), betas=(0.5, 0.999))
    warm = follow(space, supernet, _sampler(sampling.uniform(space, seed), within), settings)
    begin = settings.epochs // 2

    def rate(settings: Recipe, step: int, total: int) -> float:
        of_logits = total * (settings.epochs - begin) / settings.epochs / 2  # every other step from `begin` on
        adam.param_groups[0]["lr"] = TRAVEL / max(1.0, of_logits)
        return rate_at(settings, step, total)

    def step(x: Tensor, y: Tensor, epoch: int, index: int) -> Tensor:
        if epoch < begin:
            return warm(x, y, epoch, index)
        temperature = TEMPERATURE * COOLING ** (epoch - begin)
        arch, gates = logits.draw(temperature, torch_stream(seed, "gumbel", epoch, index))
        blueprint = space.blueprint(arch)
        if (epoch + index) % 2 == 0:  # of one batch in an epoch too, each has its turn
            return backward(supernet, x, y, blueprint, settings)[0]
        gated = {name: gates[decision] for name, decision in gated_steps(blueprint, list(gates)).items()}
        loss = F.cross_entropy(supernet(x, blueprint, gates=gated), y, label_smoothing=settings.label_smoothing)
        parameters = list(logits.parameters())
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        adam.step()
        return loss.detach()

    return SupernetRecipe("gumbel", supernet, settings, step, rate=rate, state=logits, optimizer=adam)


def _sampler(sampler: Sampler, within: Within | None) -> Sampler:
    return sampler if within is None else sampling.guided(sampler, within)
