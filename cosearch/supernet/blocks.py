"""The stand-alone network of a `Blueprint`: units (operator, batch-norm, ReLU), sums, pooling and the classifier."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosearch.blueprint import Blueprint, Conv, Linear, Norm, Pool, Step, Sum
from cosearch.seeding import torch_stream
from cosearch.supernet import arithmetic
from cosearch.supernet.convolution import convolve
from cosearch.supernet.rounding import can_fuse, normalised, quantise_symmetric, rounded
from cosearch.workload import INPUT

Values = dict[int, Tensor]
"""What steps have computed and later ones read, by the step's index."""


def interpret(blueprint: Blueprint, x: Tensor, compute: Callable[[Step, Sequence[Tensor]], Tensor]) -> Tensor:
    """Run the steps in order and return the classifier's output; a value is dropped after its last reader.

    x: B x C x H x W. compute(step, values that it reads) gives the step's value.
    """
    values = start(x)
    run_steps(blueprint.steps, 0, values, blueprint.last_reader(), compute)
    return values[len(blueprint.steps) - 1]


def start(x: Tensor) -> Values:
    """The input, laid out as the operators like it. x: B x C x H x W."""
    return {INPUT: x.contiguous(memory_format=torch.channels_last)}


def run_steps(
    steps: Sequence[Step],
    first: int,
    values: Values,
    last_reader: Mapping[int, int],
    compute: Callable[[Step, Sequence[Tensor]], Tensor],
) -> None:
    """Run steps whose indices begin with `first`, adding to `values` and dropping what has had its last reader."""
    for i, step in enumerate(steps, first):
        if isinstance(step, Sum) and not step.sources:
            some = next(iter(values.values()))
            values[i] = some.new_zeros((len(some), step.channels, *step.size))
        else:
            values[i] = compute(step, [values[j] for j in step.reads])
        for j in step.reads:
            if last_reader[j] == i:
                values.pop(j, None)


def add_up(values: Sequence[Tensor]) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def pool(step: Pool, x: Tensor) -> Tensor:
    """Average pooling of B x C x H x W."""
    if step.size == (1, 1):
        return x.mean((2, 3), keepdim=True)
    padding = (step.kernel[0] - 1) // 2 if step.stride == 1 else 0
    return F.avg_pool2d(x, step.kernel, step.stride, padding, ceil_mode=True, count_include_pad=False)


def extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest of B x C x H x W; NaN if any is."""
    low, high = torch.aminmax(x.detach().permute(0, 2, 3, 1))  # as it lies in memory: torch would copy it otherwise
    return low, high


def largest_magnitude(x: Tensor) -> Tensor:
    low, high = extremes(x)
    return torch.maximum(-low, high)


class Watched(nn.Module):
    """Something whose outputs' range is seen while calibrating, and rounded to 8 bits in simulate mode."""

    amax: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("amax", torch.zeros(()))  # largest output seen while calibrating
        self.observe = self.simulate = False

    def watch(self, y: Tensor, signed: bool) -> Tensor:
        if self.observe:
            self.amax = torch.maximum(self.amax, largest_magnitude(y))
        return quantise_symmetric(y, self.amax, 8, signed) if self.simulate else y

    def fuses(self, x: Tensor) -> bool:
        """Whether values are only to be rounded, and a faster way knows how."""
        return self.simulate and not (self.observe or self.training) and can_fuse(x)

    def normalise(self, x: Tensor, bn: nn.BatchNorm2d, relu: bool, bias: Tensor | None = None) -> Tensor:
        """Batch-norm of x + bias (of each channel), ReLU if there is one, and what `watch` does. May overwrite x."""
        if self.fuses(x):
            return normalised(x, bn, self.amax, not relu, bias)
        y = bn(x if bias is None else x + bias.view(1, -1, 1, 1))
        return self.watch(F.relu(y, inplace=not torch.is_grad_enabled()) if relu else y, signed=not relu)

    def reset_ranges(self) -> None:
        self.amax.zero_()


class Addition(Watched):
    """The sum of values, in the range of what it has seen."""

    def forward(self, values: Sequence[Tensor]) -> Tensor:
        total = add_up(values)
        return rounded(total, self.amax, signed=True) if self.fuses(total) else self.watch(total, signed=True)


class Normalise(Watched):
    """Batch-norm and ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.normalise(x.clone() if self.simulate else x, self.bn, relu=True)  # others may read x


Held = tuple[list[tuple[Conv, Tensor]], Tensor | None]


class Unit(Watched):
    """operator -> batch-norm -> ReLU (or ReLU first). In `simulate` mode weights and outputs are rounded to 8 bits."""

    entry_range: Tensor
    middle: Tensor

    def __init__(self, step: Conv) -> None:
        super().__init__()
        self.step = step
        shapes = arithmetic.weight_shapes(step)
        # channels last: depthwise convolution and batch-norm are two to four times faster so on a CPU
        layout = torch.contiguous_format if step.operator.form == "butterfly" else torch.channels_last
        self.weights = nn.ParameterList(torch.empty(shape, memory_format=layout) for shape in shapes)
        self.bn = nn.BatchNorm2d(step.out_channels)
        # seen while calibrating: the least and largest input of an adder, the largest values inside a chain
        self.register_buffer("entry_range", torch.zeros(2))
        self.register_buffer("middle", torch.zeros(len(shapes) - 1))
        self._held: Held | None = None  # what `hold` keeps

    @property
    def op(self) -> str:
        return self.step.op

    @property
    def weight(self) -> nn.Parameter:
        """The weight of a dense operator."""
        [weight] = self.weights
        return weight

    def forward(self, x: Tensor) -> Tensor:
        step = self.step
        x = F.relu(x) if step.relu == "before" else x
        if self.observe:
            self._observe_entry(x)
        if self.simulate:
            y, bias = self.simulated(x)
        else:  # what is not trained any more is traced and exported
            y, bias = arithmetic.compute(step, x, list(self.weights), plain=not self.training), None
        return self.normalise(y, self.bn, step.relu == "after", bias)

    def _observe_entry(self, x: Tensor) -> None:
        if self.step.op == "add":
            low, high = extremes(x)
            self.entry_range = torch.stack([self.entry_range[0].minimum(low), self.entry_range[1].maximum(high)])
        for i, (stage, weight) in enumerate(arithmetic.stages(self.step, list(self.weights))[: len(self.middle)]):
            x = convolve(x, weight.detach(), stage.stride)
            self.middle[i] = torch.maximum(self.middle[i], largest_magnitude(x))

    def simulated(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The operator with the weights that the hardware has, and the bias that it adds to it."""
        held, bias = self._held or self.held()
        if self.step.op == "add":
            return arithmetic.compute(self.step, x, [held[0][1]]), bias
        for i, (stage, weight) in enumerate(held):
            x = convolve(x, weight, stage.stride, stage.groups)
            if i < len(self.middle):
                x = quantise_symmetric(x, self.middle[i], 8, signed=True)
        return x, bias

    def held(self) -> Held:
        """The stages with the weights that the hardware has, as `cosearch.integer` writes them, and the bias if any."""
        if self.step.op == "add":
            weight = self.weight
            signed, amax = bool(self.entry_range[0] < 0), self.entry_range.abs().amax()
            clipped = weight.clamp(-amax if signed else torch.zeros_like(amax), amax)
            bias = -(weight - clipped).abs().sum((1, 2, 3))
            return [(self.step, quantise_symmetric(clipped, amax, 8, signed))], bias
        stages = arithmetic.stages(self.step, list(self.weights))
        return [(stage, arithmetic.held_weight(stage, dense)) for stage, dense in stages], None

    def hold(self) -> None:
        """From here on simulate with today's weights and ranges, whatever becomes of them."""
        self._held = self.held()

    def reset_ranges(self) -> None:
        super().reset_ranges()
        self.entry_range.zero_()
        self.middle.zero_()


def module_name(step_name: str) -> str:
    """A step's name as a module may be called."""
    return step_name.replace(".", "-")


class Network(nn.Module):
    """One network.

    seed: fresh weights from it; None leaves them uninitialised, for a caller that fills them. first: of the steps that
    it has modules for; who has the values before it needs no others.
    """

    def __init__(self, blueprint: Blueprint, seed: int | None = 0, first: int = 0) -> None:
        super().__init__()
        self.blueprint = blueprint
        self.parts = nn.ModuleDict()
        for step in blueprint.steps[first:]:
            if isinstance(step, Conv):
                self.parts[module_name(step.name)] = Unit(step)
            elif isinstance(step, Sum) and len(step.sources) > 1:
                self.parts[module_name(step.name)] = Addition()
            elif isinstance(step, Norm):
                self.parts[module_name(step.name)] = Normalise(step.channels)
        last = blueprint.classifier
        self.classifier = nn.Linear(last.in_channels, last.out_channels)
        if seed is not None:
            generator = torch_stream(seed, "weights")
            with torch.no_grad():
                for unit in self.units():
                    arithmetic.initialise(unit.step, list(unit.weights), generator)
                nn.init.normal_(self.classifier.weight, 0.0, 0.05, generator=generator)
                nn.init.zeros_(self.classifier.bias)

    def units(self) -> Iterator[Unit]:
        return (module for module in self.parts.values() if isinstance(module, Unit))

    def unit(self, name: str) -> Unit:
        """The unit of a step."""
        found = self.parts[module_name(name)]
        assert isinstance(found, Unit)
        return found

    def part(self, step: Step) -> nn.Module:
        """The module of a step."""
        return self.parts[module_name(step.name)]

    def norm(self, step: Norm) -> nn.BatchNorm2d:
        """The batch-norm of a step that is nothing else."""
        found = self.part(step)
        assert isinstance(found, Normalise)
        return found.bn

    def norms(self) -> Iterator[nn.BatchNorm2d]:
        return (module for module in self.parts.modules() if isinstance(module, nn.BatchNorm2d))

    def watched(self) -> Iterator[Watched]:
        return (module for module in self.parts.values() if isinstance(module, Watched))

    def forward(self, x: Tensor) -> Tensor:
        """x: B x C x H x W. Returns: B x classes, logits."""
        return interpret(self.blueprint, x, self.compute)

    def compute(self, step: Step, values: Sequence[Tensor]) -> Tensor:
        """The value of one step from those that it reads."""
        if isinstance(step, Conv | Norm):
            return self.part(step)(values[0])
        if isinstance(step, Sum):
            return self.part(step)(values)
        if isinstance(step, Linear):
            return self.classifier(values[0].flatten(1))
        return pool(step, values[0])


@torch.no_grad()
def calibrate(network: Network, images: Tensor, batch_size: int = 512) -> None:
    """Re-estimate batch-norm statistics and activation ranges on `images` (B x C x H x W), weights untouched.

    One pass with batch statistics: averages over the batches of mean and variance, extremes over all images.
    """
    with calibrating(network):
        for batch in images.split(batch_size):
            network(batch)


@contextmanager
def calibrating(network: Network) -> Iterator[None]:
    """What runs through the network meanwhile decides its batch-norm statistics and activation ranges."""
    norms = list(network.norms())
    watched = list(network.watched())
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    for module in watched:
        module.reset_ranges()
        module.observe = True
    network.train()
    yield
    network.eval()
    for module in watched:
        module.observe = False
    for norm in norms:
        norm.momentum = 0.1


def set_simulation(network: Network, on: bool) -> None:
    """Switch the 8-bit simulation of weights and activations (ranges from `calibrate`)."""
    for module in network.watched():
        module.simulate = on
