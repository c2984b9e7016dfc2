"""One network, step by step: what its workload, its torch module, its path through a supernet and its integers share.

A `Blueprint` is a list of steps in execution order; each names the steps that it reads. A network space only has to
say which blueprint an arch stands for. No torch here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

from cosearch.errors import ConfigError, nearest
from cosearch.workload import INPUT, Kind, Layer, Sparsity, Workload

ACTIVATION_BITS = 8
ACCUMULATOR_BITS = 24
"""What the measured processing elements have; 8-bit products of up to 1,000 inputs fit."""

Form = Literal["dense", "lowrank", "butterfly"]


@dataclass(frozen=True)
class Operator:
    """How an operator family looks to hardware.

    form: ``dense``, or for 1x1 convolutions a chain of matrices: two of `ratio` times the full rank, or butterfly
    factors with `ratio` times fewer weights (fewer if the size allows no more). density, sparsity: of the weights.
    """

    kind: Kind
    weight_bits: int
    form: Form = "dense"
    ratio: float = 1.0
    density: float = 1.0
    sparsity: Sparsity = "dense"


OPERATORS: dict[str, Operator] = {
    "conv": Operator("mac", 8),
    "shift": Operator("shift", 4),  # sign and a 3-bit exponent
    "add": Operator("add", 8),
    "conv4": Operator("mac", 4),
    "conv2": Operator("mac", 2),
    "sparse50": Operator("mac", 8, density=0.5, sparsity="unstructured"),
    "sparse25": Operator("mac", 8, density=0.25, sparsity="unstructured"),
    "block50": Operator("mac", 8, density=0.5, sparsity="block"),
    "block25": Operator("mac", 8, density=0.25, sparsity="block"),
    "lowrank50": Operator("mac", 8, "lowrank", 0.5),
    "lowrank25": Operator("mac", 8, "lowrank", 0.25),
    "butterfly2": Operator("mac", 8, "butterfly", 2.0),
    "butterfly4": Operator("mac", 8, "butterfly", 4.0),
}


@cache
def operator_of(choice: str | int | float) -> str | None:
    """The operator that a choice of a network space names, as ``conv_k3_e6`` does; None if it names none."""
    first = str(choice).split("_")[0]
    return first if first in OPERATORS else None


Relu = Literal["before", "after", "none"]


@dataclass(frozen=True)
class Conv:
    """Operator and batch-norm, with "same" padding. size: (height, width) of the output. relu: where it is applied.

    Raises: ConfigError for an unknown operator, or a kernel without a centre.
    """

    name: str
    op: str
    source: int
    in_channels: int
    out_channels: int
    size: tuple[int, int]
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    relu: Relu = "after"

    def __post_init__(self) -> None:
        if self.op not in OPERATORS:
            raise ConfigError(f"step {self.name!r}: unknown operator {self.op!r}: {nearest(str(self.op), OPERATORS)}")
        if self.kernel % 2 != 1:
            raise ConfigError(f"step {self.name!r} has kernel {self.kernel}: expected an odd one, which has a centre")

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.source,)

    @property
    def operator(self) -> Operator:
        """What its weights are: only 1x1 convolutions without groups are written as chains, or pruned in blocks."""
        operator = OPERATORS[self.op]
        pointwise = self.kernel == 1 and self.groups == 1
        anywhere = operator.form == "dense" and operator.sparsity != "block"
        return operator if anywhere or pointwise else OPERATORS["conv"]

    @property
    def depthwise(self) -> bool:
        """Whether each channel is computed from its own alone, of several."""
        return 1 < self.groups == self.in_channels == self.out_channels

    @property
    def rank(self) -> int:
        """Of a low-rank layer: an even number, at least 2."""
        full = min(self.in_channels, self.out_channels)
        return min(full, max(2, 2 * round(self.operator.ratio * full / 2)))


@dataclass(frozen=True)
class Sum:
    """The sum of several steps; of none, zeros."""

    name: str
    sources: tuple[int, ...]
    channels: int
    size: tuple[int, int]

    @property
    def reads(self) -> tuple[int, ...]:
        return self.sources


@dataclass(frozen=True)
class Pool:
    """Average pooling, with "same" padding that does not count. size: (height, width) of the output.

    (1, 1) with a kernel of the whole image is global.
    """

    name: str
    source: int
    channels: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: int = 1

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.source,)


@dataclass(frozen=True)
class Norm:
    """Batch-norm and ReLU on their own; hardware fuses them into the step before."""

    name: str
    source: int
    channels: int

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.source,)


@dataclass(frozen=True)
class Linear:
    """The classifier."""

    name: str
    source: int
    in_channels: int
    out_channels: int

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.source,)


Step = Conv | Sum | Pool | Norm | Linear


@dataclass(frozen=True)
class Blueprint:
    """input_shape: (channels, height, width). The last step is the classifier, the only `Linear`.

    Raises: ConfigError if it is not, or a step reads one that is not before it.
    """

    input_shape: tuple[int, int, int]
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        kinds = [isinstance(step, Linear) for step in self.steps]
        if kinds.count(True) != 1 or not kinds[-1]:
            raise ConfigError("a blueprint ends in its classifier, the only Linear step")
        for i, step in enumerate(self.steps):
            if not all(INPUT <= j < i for j in step.reads) or (isinstance(step, Sum) and len(step.sources) == 1):
                raise ConfigError(
                    f"step {step.name!r} reads {step.reads}: expected earlier steps or {INPUT}, and no sum of one"
                )

    @property
    def convolutions(self) -> tuple[Conv, ...]:
        return tuple(step for step in self.steps if isinstance(step, Conv))

    @property
    def classifier(self) -> Linear:
        last = self.steps[-1]
        assert isinstance(last, Linear)
        return last

    def readers(self) -> list[list[Step]]:
        """Of each step the steps that read it."""
        return [[reader for reader in self.steps if i in reader.reads] for i in range(len(self.steps))]

    def last_reader(self) -> dict[int, int]:
        """Producer -> the last step that reads it."""
        return {j: i for i, step in enumerate(self.steps) for j in step.reads}

    def residual_branches(self) -> set[str]:
        """Names of the convolutions whose result is added to something that it is computed from."""
        origins: list[set[int]] = []
        for step in self.steps:
            origins.append(set(step.reads).union(*(origins[j] for j in step.reads if j != INPUT)))
        return {
            self.steps[i].name
            for step in self.steps
            if isinstance(step, Sum)
            for i in step.sources
            if i != INPUT and isinstance(self.steps[i], Conv) and origins[i] & set(step.sources)
        }

    def workload(self, name: str) -> Workload:
        """The layers that hardware runs, in order, with their producers.

        Batch normalisation, ReLU and requantisation are fused into the layer before and not priced on their own.
        """
        layers: list[Layer] = []
        inputs: list[tuple[int, ...]] = []
        ends: dict[int, tuple[int, ...]] = {INPUT: (INPUT,)}  # step -> the layer that holds its value; none for zeros
        for i, step in enumerate(self.steps):
            producers = tuple(j for source in step.reads for j in ends[source])
            if isinstance(step, Sum):
                # a sum of n values is n - 1 additions of two
                held = producers[:1]
                for k, other in enumerate(producers[1:], start=1):
                    layers.append(_sum_layer(step.name if k == 1 else f"{step.name}{k}", step.channels, step.size))
                    inputs.append((*held, other))
                    held = (len(layers) - 1,)
                ends[i] = held
                continue
            if isinstance(step, Norm):
                ends[i] = producers
                continue
            for layer in _layers(step):
                layers.append(layer)
                inputs.append(producers)
                producers = (len(layers) - 1,)
            ends[i] = producers
        return Workload(name, tuple(layers), tuple(inputs))


class Drawing:
    """Collects the steps of a blueprint; every method returns the index of the step that it adds."""

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        self.input_shape = input_shape
        self.steps: list[Step] = []

    def add(self, step: Step) -> int:
        self.steps.append(step)
        return len(self.steps) - 1

    def finish(self, source: int, classes: int, channels: int, size: tuple[int, int]) -> Blueprint:
        """Global average pooling and the classifier."""
        pooled = self.add(Pool("pool", source, channels, (1, 1), size))
        self.add(Linear("classifier", pooled, channels, classes))
        return Blueprint(self.input_shape, tuple(self.steps))


def down(size: Sequence[int], stride: int) -> tuple[int, int]:
    """Output size of a strided convolution with "same" padding."""
    height, width = size
    return -(-height // stride), -(-width // stride)


@lru_cache(maxsize=1 << 14)  # networks of a space share their layers, and checking one takes time
def _layers(step: Conv | Pool | Linear) -> tuple[Layer, ...]:
    if isinstance(step, Pool):
        channels, (r, s) = step.channels, step.kernel
        stride = (step.stride, step.stride)
        pool = Layer(step.name, "pool", 1, channels, channels, *step.size, r, s, stride, groups=channels)
        return (pool,)
    if isinstance(step, Linear):
        return (_mac(step.name, OPERATORS["conv"], step.in_channels, step.out_channels, (1, 1)),)
    operator = step.operator
    if operator.form == "lowrank":
        first = _mac(f"{step.name}.in", operator, step.in_channels, step.rank, step.size, 1, step.stride)
        return first, _mac(f"{step.name}.out", operator, step.rank, step.out_channels, step.size)
    if operator.form == "butterfly":
        return tuple(
            _mac(f"{step.name}.factor{i + 1}", operator, q, p, step.size, 1, 1 if i else step.stride, groups)
            for i, (p, q, groups) in enumerate(butterfly_factors(step.out_channels, step.in_channels, operator.ratio))
        )
    conv = _mac(
        step.name,
        operator,
        step.in_channels,
        step.out_channels,
        step.size,
        step.kernel,
        step.stride,
        step.groups,
    )
    return (conv,)


def _mac(
    name: str,
    operator: Operator,
    in_channels: int,
    out_channels: int,
    out_size: tuple[int, int],
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
) -> Layer:
    return Layer(
        name,
        operator.kind,
        K=out_channels,
        C=in_channels,
        P=out_size[0],
        Q=out_size[1],
        R=kernel,
        S=kernel,
        stride=(stride, stride),
        groups=groups,
        weight_bits=operator.weight_bits,
        input_bits=ACTIVATION_BITS,
        output_bits=ACTIVATION_BITS,
        accumulator_bits=ACCUMULATOR_BITS,
        density=operator.density,
        sparsity=operator.sparsity,
    )


@lru_cache(maxsize=1 << 12)
def _sum_layer(name: str, channels: int, size: tuple[int, int]) -> Layer:
    return Layer(name, "elementwise", 1, channels, 2 * channels, *size, groups=channels)


def butterfly_factors(n_out: int, n_in: int, compression: float) -> list[tuple[int, int, int]]:
    """(outputs, inputs, groups) of each factor of a layer's chain, input side first."""
    return [(f.p, f.q, f.q // f.s) for f in butterfly_chain(n_out, n_in, compression)]


@lru_cache(maxsize=1 << 10)
def butterfly_chain(n_out: int, n_in: int, compression: float) -> tuple:
    """The chain with this compression, or with the most that the sizes allow, in quarters of it."""
    from cosearch.errors import OperatorError
    from cosearch.operators.butterfly import generate_chain

    for quarters in (4, 3, 2):
        try:
            return generate_chain(n_out, n_in, max(1.0, compression * quarters / 4))
        except OperatorError:
            continue
    return generate_chain(n_out, n_in, 1.0)
