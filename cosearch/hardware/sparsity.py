"""What hardware makes of zero weights: a layer as an engine sees it.

An engine declares what it does with the zeros of some patterns (`Engine.zeros`, `Engine.patterns`): ``compute`` them
like any weight, ``store`` the others only and spend no arithmetic energy on them, or ``skip`` them in time as well.
Representation and gating against skipping follow Sparseloop (Wu et al., MICRO 2022).

channel, filter
    ``ceil(density C)`` input or ``ceil(density K)`` output channels: a smaller dense layer, on every engine; where each
    group has one channel, fewer groups. (He et al., ICCV 2017; Li et al., ICLR 2017)
unstructured
    Stored: non-zeros, each with an index into its filter; time: density, perfectly balanced: expected values, as in
    Sparseloop, to which imbalance would add. (EIE: Han et al., ISCA 2016)
block
    Stored: non-zeros and one bit per block of 8 x 8; time: density. (Narang et al., 2017)
pattern
    Stored: non-zeros and three bits per kernel; time: ``ceil(density R S) / (R S)``, as all kernels keep equally many.
    (PatDNN: Niu et al., ASPLOS 2020; PCNN: Tan et al., DAC 2020)

A compressed form that is larger than the dense one is not used (`Layer.stored_weight_bits`). Partial sums are
updated as often as the array steps; inputs are read as in the dense layer, since columns whose weights lie elsewhere
share little. Zeros in inputs are not modelled.
Layers of sparsity ``dense`` have no zeros that hardware knows of, whatever their density.
"""

import math
from dataclasses import replace
from functools import lru_cache

from cosearch.workload import Layer

ZEROS: tuple[str, ...] = ("compute", "store", "skip")


@lru_cache(maxsize=65536)
def seen(layer: Layer, zeros: str = "compute", patterns: tuple[str, ...] = ()) -> Layer:
    """The layer that an engine runs: without dropped channels, and dense where it makes nothing of the zeros."""
    if layer.density == 1.0 or not layer.has_weights:
        return layer
    if layer.sparsity in ("channel", "filter"):
        return _without_channels(layer)
    if zeros == "compute" or layer.sparsity not in patterns:
        return replace(layer, density=1.0, sparsity="dense")
    return layer


def _without_channels(layer: Layer) -> Layer:
    K, C, groups = layer.K // layer.groups, layer.C // layer.groups, layer.groups
    own = K if layer.sparsity == "filter" else C
    if own == 1 and groups > 1:
        groups = math.ceil(layer.density * groups)
    elif layer.sparsity == "filter":
        K = math.ceil(layer.density * K)
    else:
        C = math.ceil(layer.density * C)
    return replace(layer, K=K * groups, C=C * groups, groups=groups, density=1.0, sparsity="dense")


def time_share(layer: Layer, zeros: str) -> float:
    """Array steps, and updates of partial sums, of a layer as seen by an engine, over those of the dense layer."""
    if zeros != "skip" or layer.density == 1.0 or not layer.has_weights:
        return 1.0
    kernel = layer.R * layer.S
    return math.ceil(layer.density * kernel - 1e-9) / kernel if layer.sparsity == "pattern" else layer.density
