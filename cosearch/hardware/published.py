"""Two published simulators, rebuilt from rules that their tables obey: HW-NAS-Bench's FPGA and Eyeriss estimates.

HW-NAS-Bench (Li et al., ICLR 2021) gives the cost of an FBNet as the sum of its blocks' costs. The rules here were
found by fitting those tables; they are not taken from the simulators, which are not public. The FPGA rule gives all
192 inverted bottlenecks of the table to the last digit; the Eyeriss rule gives 61% of their latencies exactly and a
Spearman correlation of 0.997, and has no energy. Both keep the tables' flaws, since a table is what they stand for.

Only what those tables charge is priced. The FPGA table holds nothing but inverted bottlenecks (a pointwise, a
depthwise and a pointwise convolution); stem, head, classifier and pooling are missing from its networks' totals. The
Eyeriss table charges convolutions, linear layers and pooling. Everything else is returned as unpriced.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from cosearch.errors import UnknownNameError, nearest
from cosearch.workload import Layer, Workload


@dataclass(frozen=True)
class InvertedBottleneck:
    """A block of HW-NAS-Bench's FBNet table: 1x1 to channels x expansion, depthwise, 1x1 to out_channels.

    size: input height and width; groups: of both 1x1 convolutions.
    """

    size: int
    in_channels: int
    out_channels: int
    expansion: int
    kernel: int
    stride: int = 1
    groups: int = 1

    def layers(self) -> tuple[Layer, Layer, Layer]:
        """Expansion, depthwise, projection. Raises: HardwareError if the groups do not divide the channels."""
        width, output = self.in_channels * self.expansion, -(-self.size // self.stride)
        return (
            Layer("expand", K=width, C=self.in_channels, P=self.size, Q=self.size, groups=self.groups),
            Layer(
                "depthwise",
                K=width,
                C=width,
                P=output,
                Q=output,
                R=self.kernel,
                S=self.kernel,
                stride=(self.stride, self.stride),
                groups=width,
            ),
            Layer("project", K=self.out_channels, C=width, P=output, Q=output, groups=self.groups),
        )


@dataclass(frozen=True)
class BlockCost:
    """What one block costs; energy_mj is nan where the simulator's energies obey no known rule."""

    layers: tuple[str, ...]
    latency_ms: float
    energy_mj: float


@dataclass(frozen=True)
class PublishedCost:
    """blocks: in execution order; unpriced: names of the layers that the published table does not charge."""

    blocks: tuple[BlockCost, ...]
    unpriced: tuple[str, ...]

    @property
    def latency_ms(self) -> float:
        return sum(block.latency_ms for block in self.blocks)

    @property
    def energy_mj(self) -> float:
        return sum(block.energy_mj for block in self.blocks)

    def unpriced_share(self, workload: Workload) -> float:
        """Fraction of the network's operations that is not charged."""
        operations = {layer.name: layer.macs for layer in workload.layers}
        return sum(operations[name] for name in self.unpriced) / max(1, sum(operations.values()))


@dataclass(frozen=True)
class PublishedDevice:
    """A published simulator.

    price: latency (ms) and energy (mJ) of the layers of one block, or None where the published table has none.
    knows: what that table charges, for people. metrics: what it gives.
    """

    name: str
    source: str
    price: Callable[[Sequence[Layer]], tuple[float, float] | None]
    knows: str
    metrics: tuple[str, ...] = ("latency_ms", "energy_mj")

    def cost(self, workload: Workload) -> PublishedCost:
        """The sum over the blocks of a network, as HW-NAS-Bench adds its tables up."""
        priced: list[BlockCost] = []
        unpriced: list[str] = []
        for block in blocks(workload):
            names = tuple(layer.name for layer in block)
            found = self.price(block)
            if found is None:
                unpriced += names
            else:
                priced.append(BlockCost(names, *found))
        return PublishedCost(tuple(priced), tuple(unpriced))


def is_pointwise(layer: Layer) -> bool:
    """A 1x1 convolution or a linear layer."""
    return layer.kind == "mac" and layer.R == layer.S == 1


def is_depthwise(layer: Layer) -> bool:
    return layer.kind == "mac" and layer.groups == layer.K == layer.C and layer.groups > 1


def blocks(workload: Workload) -> tuple[tuple[Layer, ...], ...]:
    """The layers in order, a depthwise layer together with the 1x1 layers that feed it and that it feeds."""
    found: list[tuple[Layer, ...]] = []
    i = 0
    while i < len(workload):
        chain = [workload.layers[i]]
        following = i + 1

        def feeds_next(position: int) -> bool:
            return position < len(workload) and workload.inputs[position] == (position - 1,)

        if is_pointwise(chain[0]) and feeds_next(following) and is_depthwise(workload.layers[following]):
            chain.append(workload.layers[following])
            following += 1
        if is_depthwise(chain[-1]) and feeds_next(following) and is_pointwise(workload.layers[following]):
            chain.append(workload.layers[following])
            following += 1
        found.append(tuple(chain))
        i = following
    return tuple(found)


# FPGA

FPGA_NS_PER_STEP = 0.3125
FPGA_WATT = 7.0


def _charged(channels: int) -> float:
    """The table charges multiples of 23 channels (184, 552, 1104) as the same multiples of 24."""
    return channels * 24 / 23 if channels % 23 == 0 else channels


def _tiles(layer: Layer) -> tuple[int, int]:
    """Tiles of the output map, and pixels of one: 7x7 where 7 divides the map (224-pixel images), else 4x4."""
    edge = 7 if layer.P % 7 == 0 else 4
    return math.ceil(layer.P / edge) * math.ceil(layer.Q / edge), edge * edge


def fpga_block(layers: Sequence[Layer]) -> tuple[float, float] | None:
    """Latency (ms) and energy (mJ) of one inverted bottleneck on HW-NAS-Bench's FPGA.

    A pointwise and a depthwise engine in a pipeline: the slower one sets the pace, both 1x1 convolutions share one.
    With t tiles of p pixels at the *output* resolution of the block (for the expansion too, a flaw of the table),
    pointwise: t K (C / groups (p + 8) + 12 p) steps; depthwise: t C (R S (2 p + 8) + 12 p) steps, 0.3125 ns each.
    Energy is 7 W times latency. Source: fitted to the published table; exact on its 192 blocks.
    """
    if not any(map(is_depthwise, layers)):
        return None
    tiles, pixels = _tiles(layers[-1])
    pointwise = depthwise = 0.0
    for layer in layers:
        outputs = _charged(layer.K)
        if is_depthwise(layer):
            depthwise += tiles * outputs * (layer.R * layer.S * (2 * pixels + 8) + 12 * pixels)
        else:
            pointwise += tiles * outputs * (_charged(layer.C) / layer.groups * (pixels + 8) + 12 * pixels)
    latency_ms = FPGA_NS_PER_STEP * max(pointwise, depthwise) * 1e-6
    return latency_ms, FPGA_WATT * latency_ms


# Eyeriss

EYERISS_ROWS, EYERISS_COLUMNS = 12, 14
EYERISS_CLOCK_MHZ = 250.0
EYERISS_CYCLES_PER_WORD = 3 / 32


@lru_cache(maxsize=65536)
def _divisors(n: int, largest: int) -> tuple[int, ...]:
    return tuple(d for d in range(1, min(n, largest) + 1) if n % d == 0)


@lru_cache(maxsize=65536)
def eyeriss_elements(rows: int, outputs: int, inputs: int, kernel: int) -> int:
    """The most elements of the 12 x 14 array that a convolution can use with factors that divide its bounds.

    Columns take a divisor of the output rows times a divisor of the output channels; array rows take the kernel's
    rows, a divisor of the input channels and a divisor of the output channels that are left.
    """
    best = 1
    for k in _divisors(outputs, EYERISS_COLUMNS):
        columns = k * max(_divisors(rows, EYERISS_COLUMNS // k))
        height = EYERISS_ROWS // kernel
        fill = max(
            (c * max(_divisors(outputs // k, height // c)) for c in _divisors(inputs, height)),
            default=1,
        )
        best = max(best, columns * kernel * fill)
    return best


def eyeriss_layer_cycles(layer: Layer) -> float | None:
    """Cycles of one layer on HW-NAS-Bench's Eyeriss estimate, or None where its table charges nothing.

    Convolution and linear: MACs over the elements used; pooling is charged as a dense convolution (a flaw of the
    table); depthwise: C P Q R over the largest divisor of P up to 14. Never less than 3/32 cycle per word in and out,
    padding not counted.
    Source: fitted to the published table.
    """
    if layer.kind not in ("mac", "pool") or layer.R > EYERISS_ROWS:
        return None
    if is_depthwise(layer):
        cycles = layer.K * layer.P * layer.Q * layer.R / max(_divisors(layer.P, EYERISS_COLUMNS))
    else:
        groups = 1 if layer.kind == "pool" else layer.groups
        outputs, inputs = layer.K // groups, layer.C // groups
        macs = layer.P * layer.Q * layer.K * inputs * layer.R * layer.S
        cycles = macs / eyeriss_elements(layer.P, outputs, inputs, layer.R)
    unpadded = layer.C * layer.P * layer.stride[0] * layer.Q * layer.stride[1]
    words = unpadded + layer.K * layer.P * layer.Q
    return layer.N * max(cycles, EYERISS_CYCLES_PER_WORD * words)


def eyeriss_block(layers: Sequence[Layer]) -> tuple[float, float] | None:
    """Latency (ms) of a block, its layers one after the other; the energies obey no known rule (nan)."""
    cycles = [count for layer in layers if (count := eyeriss_layer_cycles(layer)) is not None]
    return (sum(cycles) / EYERISS_CLOCK_MHZ * 1e-3, math.nan) if len(cycles) == len(layers) else None


DEVICES: Mapping[str, PublishedDevice] = MappingProxyType(
    {
        device.name: device
        for device in (
            PublishedDevice("hwnasbench-fpga", "HW-NAS-Bench FBNet table, FPGA", fpga_block, "inverted bottlenecks"),
            PublishedDevice(
                "hwnasbench-eyeriss",
                "HW-NAS-Bench FBNet table, Eyeriss",
                eyeriss_block,
                "convolutions, linear layers and pooling",
                ("latency_ms",),
            ),
        )
    }
)


def find(name: str) -> PublishedDevice:
    """Raises: UnknownNameError with the nearest known name."""
    if name not in DEVICES:
        raise UnknownNameError(f"unknown published device {name!r}: {nearest(name, DEVICES)}")
    return DEVICES[name]
