"""One set of weights for every network of a space.

Steps of one name share their weights (`arithmetic.weight_key`): an operator's kernel is the centre of the largest, on
demand through a learned transform, its expansion the first channels (see `cosearch.supernet.sorting`), its rank the
first factors, its groups the blocks on the diagonal of a dense one. Additions have their own tensors, because their
weights follow another distribution (Laplacian) than those of convolutions, or read those of convolutions through a
learned transform (`cosearch.supernet.sharing`). Batch-norm gains and offsets are kept per operator: their outputs
differ by orders of magnitude. The gain that ends a residual branch starts at zero (Goyal et al., Accurate, large
minibatch SGD, 2017): what trains first is the shallow network that all choices share, whatever is drawn for branches.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosearch.blueprint import Blueprint, Conv, Linear, Norm, Pool, Step, Sum
from cosearch.errors import ConfigError
from cosearch.seeding import torch_stream
from cosearch.supernet import arithmetic
from cosearch.supernet.blocks import Network, add_up, interpret, module_name, pool
from cosearch.supernet.sharing import LaplaceTransform, Transformed


class ElasticUnit(nn.Module):
    """All variants of one convolution.

    heterogeneous: additions read the weights of convolutions, where there are any.
    kernel_transform: multiplications of a smaller kernel read the centre w of the largest as w + w D, with a learned D
    [k k, k k] for each size k, zero at first. Source: Cai et al., Once-for-all, 2020. Additions compare each weight
    with the pixel in its place and read the centre as it is.
    """

    def __init__(self, variants: Sequence[Conv], heterogeneous: bool = False, kernel_transform: bool = False) -> None:
        super().__init__()
        largest: dict[str, list[tuple[int, ...]]] = {}
        self.examples: dict[str, Conv] = {}  # one of the variants that share a weight, for its initialisation
        self.variants = variants
        self.dense = {arithmetic.weight_key(step) for step in variants if step.groups == 1}
        own = {arithmetic.weight_key(step): self._of_dense(step) for step in variants}
        linear = {key: other.replace("adder", "linear", 1) for key, other in own.items() if other.startswith("adder")}
        shared = {key: other for key, other in linear.items() if other in own.values()} if heterogeneous else {}
        self.reads = own | shared
        self.transforms = nn.ModuleDict({key: LaplaceTransform() for key in sorted(shared)})
        for step in sorted(variants, key=lambda step: self.stored(step) != arithmetic.weight_key(step)):
            key, shapes = self.stored(step), arithmetic.weight_shapes(step)
            if key in self.dense and step.groups > 1:
                shapes = [(step.out_channels, step.in_channels, step.kernel, step.kernel)]
            known = largest.get(key, shapes)
            largest[key] = [tuple(map(max, a, b)) for a, b in zip(known, shapes, strict=True)]
            self.examples.setdefault(key, step)
        self.weights = nn.ModuleDict(
            {key: nn.ParameterList(_empty(shape, key) for shape in shapes) for key, shapes in largest.items()}
        )
        self.kernels = nn.ParameterDict()
        self.ops: dict[str, dict[str, None]] = {}
        for step in variants:
            key = self.stored(step)
            self.ops.setdefault(key, {})[step.op] = None
            multiplies = step.op != "add" and step.operator.form == "dense"
            if kernel_transform and multiplies and step.kernel < largest[key][0][-1]:
                self.kernels[_kernel_name(step)] = torch.zeros(step.kernel**2, step.kernel**2)
        widths: dict[str, int] = {}
        for step in variants:
            widths[step.op] = max(widths.get(step.op, 0), step.out_channels)
        self.gamma = nn.ParameterDict({op: torch.ones(width) for op, width in widths.items()})
        self.beta = nn.ParameterDict({op: torch.zeros(width) for op, width in widths.items()})

    def _of_dense(self, step: Conv) -> str:
        """The key of the dense convolution's weights, if there is one; else of the variant's own."""
        whole = arithmetic.dense_key(step)
        return whole if step.groups > 1 and whole in self.dense else arithmetic.weight_key(step)

    def stored(self, step: Conv) -> str:
        """The name of the tensors that a variant reads."""
        return self.reads[arithmetic.weight_key(step)]

    def readers(self, stored: str) -> list[str]:
        """The operators that read tensors of a name."""
        return list(self.ops[stored])

    def weight(self, step: Conv) -> list[Tensor]:
        """Views of the shared weights, or what a transform makes of them."""
        full = self.weights[self.stored(step)]
        assert isinstance(full, nn.ParameterList)
        parts = arithmetic.part(list(full), step, dense=self.stored(step) in self.dense)
        if (name := _kernel_name(step)) in self.kernels and step.op != "add":
            flat = parts[0].flatten(2)
            parts = [(flat + flat @ self.kernels[name]).view(parts[0].shape)]
        transform = self.transform(step)
        return parts if transform is None else [transform(parts[0], full[0])]

    def transform(self, step: Conv) -> LaplaceTransform | None:
        """What a variant reads its weights through, if it does."""
        key = arithmetic.weight_key(step)
        if key not in self.transforms:
            return None
        found = self.transforms[key]
        assert isinstance(found, LaplaceTransform)
        return found

    def forward(self, x: Tensor, step: Conv, transformed: list[Transformed] | None = None) -> Tensor:
        weights, transform = self.weight(step), self.transform(step)
        if transformed is not None and transform is not None:
            transformed.append(Transformed(weights[0], transform.gains))
        y = arithmetic.compute(step, F.relu(x) if step.relu == "before" else x, weights)
        k = step.out_channels
        y = F.batch_norm(y, None, None, self.gamma[step.op][:k], self.beta[step.op][:k], training=True)
        return F.relu(y) if step.relu == "after" else y


def _kernel_name(step: Conv) -> str:
    return f"{arithmetic.weight_key(step)}-{step.kernel}"


def _empty(shape: tuple[int, ...], key: str) -> Tensor:
    layout = torch.contiguous_format if key.startswith("butterfly") else torch.channels_last
    return torch.empty(shape, memory_format=layout)


def residual_branches(blueprints: Sequence[Blueprint]) -> set[str]:
    """The convolutions that end a residual branch in every network that has them."""
    ends = [blueprint.residual_branches() for blueprint in blueprints]
    others = [{step.name for step in b.convolutions} - found for b, found in zip(blueprints, ends, strict=True)]
    return set().union(*ends).difference(*others)


class Supernet(nn.Module):
    """examples: blueprints that between them show every variant of every step (`NetworkSpace.covering`).

    heterogeneous: additions read the weights of convolutions through a learned transform (ShiftAddNAS).
    kernel_transform: as `ElasticUnit`'s.
    Raises: ConfigError if there is none, or their classifiers differ.
    """

    def __init__(
        self,
        examples: Iterable[Blueprint],
        seed: int = 0,
        heterogeneous: bool = False,
        kernel_transform: bool = False,
    ) -> None:
        super().__init__()
        self.heterogeneous, self.kernel_transform = heterogeneous, kernel_transform
        blueprints = list(examples)
        last = {blueprint.classifier.in_channels for blueprint in blueprints}
        if len(last) != 1:
            raise ConfigError(f"a supernet needs networks with one classifier, got inputs of {sorted(last)} channels")
        variants: dict[str, dict[Conv, None]] = {}
        for blueprint in blueprints:
            for step in blueprint.convolutions:
                variants.setdefault(module_name(step.name), {})[step] = None
        self.units = nn.ModuleDict(
            {name: ElasticUnit(list(steps), heterogeneous, kernel_transform) for name, steps in variants.items()}
        )
        outputs = [step.out_channels * math.prod(step.size) for steps in variants.values() for step in steps]
        self.largest_values = max(outputs, default=1)
        """Of any convolution's output for one image."""
        norms = {module_name(s.name): s for blueprint in blueprints for s in blueprint.steps if isinstance(s, Norm)}
        self.norms = nn.ModuleDict({name: nn.BatchNorm2d(step.channels) for name, step in norms.items()})
        classifier = blueprints[0].classifier
        self.classifier = nn.Linear(classifier.in_channels, classifier.out_channels)
        self._initialise(torch_stream(seed, "supernet weights"))
        for name in residual_branches(blueprints):
            unit = self.units[module_name(name)]
            assert isinstance(unit, ElasticUnit)
            for gain in unit.gamma.values():
                nn.init.zeros_(gain)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        elastic = [unit for unit in self.units.values() if isinstance(unit, ElasticUnit)]
        for unit in sorted(elastic, key=lambda unit: len(unit.gamma) > 1):  # what all networks share first
            for key, weights in sorted(unit.weights.items()):  # whatever the order of the choices
                assert isinstance(weights, nn.ParameterList)
                arithmetic.initialise(unit.examples[key], list(weights), generator)
            for key, transform in unit.transforms.items():
                full = unit.weights[unit.reads[key]]
                assert isinstance(full, nn.ParameterList)
                assert isinstance(transform, LaplaceTransform)
                transform.initialise(full[0])
        nn.init.normal_(self.classifier.weight, 0.0, 0.05, generator=generator)
        nn.init.zeros_(self.classifier.bias)

    def forward(
        self,
        x: Tensor,
        blueprint: Blueprint,
        transformed: list[Transformed] | None = None,
        gates: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Logits of one network with batch statistics. x: B x C x H x W.

        transformed: takes every weight that was read through a transform. gates: step name -> scalar that its value
        is multiplied with.
        """

        def compute(step: Step, values: Sequence[Tensor]) -> Tensor:
            if not isinstance(step, Conv):
                return self._compute(step, values)
            y = self.units[module_name(step.name)](values[0], step, transformed)
            return y * gates[step.name] if gates is not None and step.name in gates else y

        return interpret(blueprint, x, compute)

    def _compute(self, step: Step, values: Sequence[Tensor]) -> Tensor:
        if isinstance(step, Norm):
            norm = self.norms[module_name(step.name)]
            assert isinstance(norm, nn.BatchNorm2d)
            return F.relu(F.batch_norm(values[0], None, None, norm.weight, norm.bias, training=True))
        if isinstance(step, Sum):
            return add_up(values)
        if isinstance(step, Linear):
            return self.classifier(values[0].flatten(1))
        assert isinstance(step, Pool)
        return pool(step, values[0])

    def adder_parameters(self) -> list[nn.Parameter]:
        elastic = (unit for unit in self.units.values() if isinstance(unit, ElasticUnit))
        return [
            parameter
            for unit in elastic
            for key, weights in unit.weights.items()
            if key.startswith("adder") and isinstance(weights, nn.ParameterList)
            for parameter in weights
        ]

    @torch.no_grad()
    def extract(self, blueprint: Blueprint, first: int = 0) -> Network:
        """The stand-alone network with copies of the shared weights; calibrate it before use.

        first: of the steps that it can run.
        """
        network = Network(blueprint, None, first)
        network.classifier.load_state_dict(self.classifier.state_dict())
        for unit in network.units():
            elastic, k = self.units[module_name(unit.step.name)], unit.step.out_channels
            assert isinstance(elastic, ElasticUnit)
            for target, source in zip(unit.weights, elastic.weight(unit.step), strict=True):
                target.copy_(source)
            unit.bn.weight.copy_(elastic.gamma[unit.op][:k])
            unit.bn.bias.copy_(elastic.beta[unit.op][:k])
        for step in blueprint.steps[first:]:
            if isinstance(step, Norm):
                network.norm(step).load_state_dict(self.norms[module_name(step.name)].state_dict())
        return network.to(self.classifier.weight.device)
