"""Every registered network space holds what the engine relies on; its integers are the literal ones."""

import numpy as np
import pytest
import torch

from cosearch.blueprint import OPERATORS
from cosearch.integer import to_integer
from cosearch.macro import Macro
from cosearch.supernet.blocks import calibrate
from cosearch.testing import check_network_space
from search_spaces.networks import SPACES, find
from search_spaces.networks.shiftadd import macro_space
from tests import tiny_space
from tests.references import integer_network


@pytest.mark.parametrize("name", SPACES)
def test_conformance(name):
    check_network_space(find(name)((1, 8, 8), 5), archs=2)


def test_a_space_whose_layers_have_different_operators_conforms():
    check_network_space(tiny_space.uneven(), archs=2)


@pytest.mark.parametrize("operator", OPERATORS)
def test_integers_of_every_operator_are_the_literal_ones(operator, digits):
    made = macro_space("one", Macro((1, 8, 8), 10, 8, 2, ((8, 1, 1), (16, 2, 2)), 16), "one operator", (operator,))
    network = made.build(made.largest(operator), 1)
    x = torch.from_numpy(digits.train.x[:128])
    calibrate(network, x)
    integer = to_integer(network, x)
    images = torch.from_numpy(digits.validation.x[:3])
    logits = integer(images)
    assert torch.equal(logits, integer_network.run(integer, network, images))
    assert len(logits.unique()) > 10


def test_integers_of_a_cell_with_every_operation_are_the_literal_ones(digits):
    made = find("nasbench201")((1, 8, 8), 10)
    operations = ("nor_conv_3x3", "skip_connect", "nor_conv_1x1", "avg_pool_3x3", "nor_conv_1x1", "skip_connect")
    network = made.build(dict(zip(made.choices, operations, strict=True)), 1)
    x = torch.from_numpy(digits.train.x[:64])
    calibrate(network, x)
    integer = to_integer(network, x)
    images = torch.from_numpy(digits.validation.x[:1])
    assert torch.equal(integer(images), integer_network.run(integer, network, images))


def test_cells_without_a_path_see_nothing_of_the_image(digits):
    made = find("nasbench201")((1, 8, 8), 10)
    network = made.build(dict.fromkeys(made.choices, "none"), 1).eval()
    x = torch.from_numpy(digits.train.x[:8])
    with torch.no_grad():
        logits = network(x)
    assert torch.equal(logits, logits[:1].expand_as(logits))
    calibrate(network, x)
    integers = to_integer(network, x)(x)
    assert torch.equal(integers, integers[:1].expand_as(integers))


@pytest.mark.parametrize(("name", "smaller"), [("lowrank", "lowrank25"), ("butterfly", "butterfly4")])
def test_chains_save_operations(name, smaller):
    made = find(name)((1, 8, 8), 10)
    dense, saved = (made.workload(made.largest(op)) for op in ("conv", smaller))
    assert saved.macs < 0.8 * dense.macs
    assert saved.weight_count < 0.8 * dense.weight_count


def test_sparse_layers_say_so():
    made = find("pruning")((1, 8, 8), 10)
    layers = [x for x in made.workload(made.largest("sparse25")) if x.name.startswith("layer1.") and x.has_weights]
    assert {(x.density, x.sparsity) for x in layers} == {(0.25, "unstructured")}
    network = made.build(made.largest("sparse25"), 0)
    from cosearch.supernet.arithmetic import trained_weight

    unit = network.unit("layer2.project")
    kept = np.count_nonzero(trained_weight(unit.step, unit.weight).detach().numpy())
    assert kept == pytest.approx(0.25 * unit.weight.numel(), abs=1)


@pytest.mark.parametrize(("op", "density"), [("block50", 0.5), ("block25", 0.25)])
def test_weights_pruned_in_blocks_are_as_many_in_every_block_as_the_hardware_is_told(op, density):
    made = find("pruning")((1, 8, 8), 10)
    arch = made.largest(op)
    layers = {x.name: x for x in made.workload(arch) if x.has_weights}
    assert {(layers[f"layer2.{x}"].density, layers[f"layer2.{x}"].sparsity) for x in ("expand", "project")} == {
        (density, "block")
    }
    assert (layers["layer2.depthwise"].density, layers["layer2.depthwise"].sparsity) == (1.0, "dense")
    supernet = made.supernet(0)
    from cosearch.supernet.arithmetic import trained_weight

    for step in made.blueprint(arch).convolutions:
        if step.op != op or step.groups > 1:
            continue
        [weight] = supernet.units[step.name.replace(".", "-")].weight(step)  # a mask over weights that all share
        seen = trained_weight(step, weight).detach()[:, :, 0, 0]
        assert torch.equal(seen[seen != 0], weight.detach()[:, :, 0, 0][seen != 0])
        k, c = seen.shape
        kept = (seen != 0).reshape(k // 8, 8, c // 8, 8).permute(0, 2, 1, 3).reshape(-1, 8, 8)
        norms = (
            weight.detach()[:, :, 0, 0].reshape(k // 8, 8, c // 8, 8).permute(0, 2, 1, 3).reshape(-1, 8, 8).norm(dim=1)
        )
        for block, norm in zip(kept, norms, strict=True):
            columns = block.all(0)
            assert torch.equal(columns, block.any(0))  # whole columns of a block
            assert int(columns.sum()) == density * 8
            assert norm[columns].min() >= norm[~columns].max()
