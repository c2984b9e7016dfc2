from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosearch.blueprint import Conv
from cosearch.errors import ConfigError, UnknownNameError
from cosearch.macro import BlockChoice, down
from cosearch.workload import Workload
from search_spaces.networks import find
from search_spaces.networks.shiftadd import macro, space
from tests import tiny_space

SHAPES = [(1, 8, 8), (3, 16, 16), (3, 32, 32), (1, 28, 28), (3, 64, 64), (3, 224, 224), (1, 8, 224), (3, 31, 17)]
sized = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))


def random_archs(made, n: int):
    return [made.sample(np.random.default_rng(i)) for i in range(n)]


def test_the_space_for_digits_is_as_large_as_promised():
    made = space()
    assert made.size >= 10**10
    blocks = 3 * 2 * 3
    assert made.size == np.prod([blocks + p.residual for p in made.macro.positions], dtype=object)


@sized
def test_the_layer_table_covers_every_network_and_counts_them(shape):
    made = space(shape, 7)
    table = made.layer_table()
    keys = [layer.shape_key for layer in table]
    assert len(set(keys)) == len(keys)
    archs = random_archs(made, 12)
    counts = made.counts(archs, table)
    macs = np.array([layer.macs * layer.has_weights for layer in table])
    weights = np.array([layer.weight_count for layer in table])
    for arch, row in zip(archs, counts, strict=True):
        workload = made.workload(arch)
        assert row.sum() == len(workload)
        assert (row * macs).sum() == workload.macs
        assert (row * weights).sum() == workload.weight_count
        assert {layer.shape_key for layer in workload.layers} == {k for k, n in zip(keys, row, strict=True) if n}


@sized
def test_sizes_fit_from_layer_to_layer(shape):
    made = space(shape, 7)
    for arch in random_archs(made, 4):
        workload = made.workload(arch)
        size = shape[1:]
        for position in made.macro.positions:
            assert position.out_size == down(position.size, position.stride)
        for layer, producers in zip(workload.layers, workload.inputs, strict=True):
            channels = shape[0] if producers == (-1,) else sum(workload.layers[j].K for j in producers)
            assert channels == layer.C, layer.name
            for j in producers:
                before = size if j == -1 else (workload.layers[j].P, workload.layers[j].Q)
                if layer.kind == "pool":
                    assert before == (layer.R, layer.S)
                else:
                    assert down(before, layer.stride[0]) == (layer.P, layer.Q), layer.name
        assert workload.layers[-1].K == 7


# every rung of the ladder; larger images add time and nothing else
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (3, 33, 40), (3, 64, 64)])
def test_a_built_network_has_the_layers_of_its_description(shape):
    made = space(shape, 7)
    for arch in random_archs(made, 2):
        network = made.build(arch).eval()
        with torch.no_grad():
            assert network(torch.zeros(2, *shape)).shape == (2, 7)
        # conv in place of every operator, so that the tracer needs to know nothing of ours
        plain = {name: choice.replace("shift", "conv").replace("add", "conv") for name, choice in arch.items()}
        traced_conv = Workload.from_module(made.build(plain).eval(), (1, *shape))
        workload = made.workload(arch)
        assert traced_conv.macs == workload.macs
        assert (
            traced_conv.weight_count
            == workload.weight_count
            == sum(p.numel() for p in network.parameters() if p.ndim > 1)
        )
        shapes = lambda w: [(x.K, x.C, x.P, x.Q, x.R, x.stride, x.groups) for x in w.layers if x.has_weights]  # noqa: E731
        assert shapes(traced_conv) == shapes(workload)


def test_operators_become_arithmetic_kinds():
    made = space()
    for op, kind, bits in (("conv", "mac", 8), ("shift", "shift", 4), ("add", "add", 8)):
        layers = made.workload(made.largest(op)).layers
        inside = [x for x in layers if x.name.startswith("layer") and x.kind != "elementwise"]
        assert {(x.kind, x.weight_bits) for x in inside} == {(kind, bits)}
        assert {x.kind for x in layers if x.name in ("stem", "head", "classifier")} == {"mac"}


def test_the_restricted_space_is_a_part_of_the_whole():
    made = space()
    for op in ("conv", "shift", "add"):
        part = made.restricted(op)
        assert part.size == np.prod([6 + p.residual for p in made.macro.positions])
        for arch in random_archs(part, 10):
            made.check(arch)
            assert {choice.split("_")[0] for choice in arch.values()} <= {op, "skip"}
        rows = {layer.shape_key for layer in made.layer_table()}
        assert {layer.shape_key for layer in part.layer_table()} <= rows
    with pytest.raises(ConfigError, match="expected some of conv, shift, add"):
        made.restricted("fft")


def test_a_decision_need_not_have_every_operator():
    made = tiny_space.uneven()
    assert [made.offers(op) for op in made.operators] == [False, False, False]
    assert made.offers("conv", "add")
    assert made.restricted("conv", "add").choices["layer2"] == ("add_k3_e1",)
    assert made.largest() == {"layer1": "conv_k5_e6", "layer2": "shift_k3_e1", "layer3": "shift_k3_e1"}
    with pytest.raises(ConfigError, match="decision 'layer2' has no choice of conv"):
        made.largest("conv")
    assert made.restricted("shift", "conv").restricted("shift", "conv").largest() == made.largest()
    assert tiny_space.space().restricted("add").largest() == dict.fromkeys(made.choices, "add_k3_e1")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_nothing_is_larger_than_the_largest(seed):
    made = space()
    workload, largest = made.workload(made.sample(np.random.default_rng(seed))), made.workload(made.largest())
    assert workload.macs <= largest.macs
    assert workload.weight_count <= largest.weight_count


def test_skipping_leaves_the_block_out():
    made = space()
    arch = made.largest()
    skipped = {**arch, "layer2": "skip"}
    names = [layer.name for layer in made.workload(skipped).layers]
    assert not any(name.startswith("layer2.") for name in names)
    assert len(names) == len(made.workload(arch)) - 4
    strided = next(p.name for p in made.macro.positions if not p.residual)
    with pytest.raises(ConfigError, match=f"decision '{strided}' is 'skip'"):
        made.check({**arch, strided: "skip"})


@pytest.mark.parametrize("text", ["conv", "conv_k3", "conv_3_e1", "fft_k3_e1", "conv_k3_x1", "", "conv_k3_e1_s2"])
def test_blocks_that_cannot_be_read(text):
    with pytest.raises(ConfigError, match="expected skip or OPERATOR_kN_eN"):
        BlockChoice.parse(text)
    assert str(BlockChoice.parse("add_k5_e6")) == "add_k5_e6"


@pytest.mark.parametrize("text", ["conv_kx_e1", "conv_k3_e"])
def test_blocks_without_numbers(text):
    with pytest.raises(ConfigError, match="expected skip or OPERATOR_kN_eN"):
        BlockChoice.parse(text)


def test_a_block_that_changes_the_shape_cannot_be_skipped():
    made = macro((1, 8, 8), 10)
    blocks = [BlockChoice("conv", 3, 1)] * len(made.positions)
    changes = next(i for i, position in enumerate(made.positions) if not position.residual)
    with pytest.raises(ConfigError, match=r"layer\d cannot be skipped: it makes 16 channels of 8 with stride 2"):
        made.blueprint([None if i == changes else block for i, block in enumerate(blocks)])


def test_images_that_are_too_small():
    with pytest.raises(ConfigError, match="7x9: the shiftadd space starts at 8x8"):
        space((1, 7, 9))


def test_the_registry_finds_it():
    assert find("shiftadd") is space
    with pytest.raises(UnknownNameError, match="did you mean 'shiftadd'"):
        find("shift-add")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"kernel": 4}, "step 'a' has kernel 4: expected an odd one"),
        ({"kernel": 0}, "step 'a' has kernel 0: expected an odd one"),
        ({"op": "convv"}, "step 'a': unknown operator 'convv': did you mean 'conv'"),
    ],
)
def test_convolutions_that_cannot_be(wrong, words):
    with pytest.raises(ConfigError, match=words) as caught:
        replace(Conv("a", "conv", -1, 8, 8, (4, 4), 3), **wrong)
    assert "\n" not in str(caught.value)
