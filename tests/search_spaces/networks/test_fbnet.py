"""FBNet: the published sizes and keys, block sums, and counts against the workloads."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cosearch.errors import ConfigError
from cosearch.workload import count_layers
from search_spaces.networks import fbnet

REFERENCE = os.environ.get("COSEARCH_REFERENCE_DATA")


def test_size_and_shapes() -> None:
    for shape, sides in (((3, 32, 32), (32, 4)), ((3, 224, 224), (112, 7))):
        space = fbnet.space(shape)
        assert len(space.positions) == 22
        assert space.size == 9**22
        assert (space.positions[0].size[0], space.positions[-1].out_size[0]) == sides
    with pytest.raises(ConfigError, match="starts at 8x8"):
        fbnet.space((3, 7, 16))


@pytest.mark.skipif(not REFERENCE, reason="COSEARCH_REFERENCE_DATA is not set")
@pytest.mark.parametrize(("shape", "classes", "kind"), [((3, 32, 32), 100, "cifar"), ((3, 224, 224), 1000, "imagenet")])
def test_keys_are_those_of_the_published_table(shape: tuple[int, int, int], classes: int, kind: str) -> None:
    space = fbnet.space(shape, classes)
    ours = {fbnet.block_key(position, str(c)) for position in space.positions for c in fbnet.CHOICES}
    ours |= set(fbnet.fixed_keys(space).values())
    table = pd.read_parquet(Path(str(REFERENCE)) / "hwnasbench_fbnet_lut.parquet")
    published = set(table[table.kind == kind].key)
    assert ours == {key for key in published if not key.startswith("FC_") or key.endswith(f"Cout{classes}")}


def test_a_block_by_hand() -> None:
    space = fbnet.space((3, 32, 32))
    arch = {**dict.fromkeys(space.choices, "skip"), "layer2": "conv_k5_e1_g2"}
    layers = {layer.name: layer for layer in space.workload(arch).layers}
    assert layers["layer2.expand"].macs == 32 * 32 * 16 * 16 // 2
    assert layers["layer2.depthwise"].macs == 32 * 32 * 16 * 25
    assert layers["layer2.project"].macs == 32 * 32 * 16 * 24 // 2
    assert "layer1.skip" not in layers  # same shape: a wire
    assert layers["layer6.skip"].macs == 16 * 16 * 24 * 32
    assert space.workload({**arch, "layer3": "conv_k3_e3"}).macs > space.workload(arch).macs


def test_counts_are_those_of_the_workloads() -> None:
    space = fbnet.space((3, 32, 32))
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(8)]
    layers = space.layer_table()
    expected = [count_layers(space.workload(arch), layers) for arch in archs]
    assert np.array_equal(space.counts(archs, layers), expected)
