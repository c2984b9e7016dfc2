"""The elastic supernet: shared weights, extraction, calibration, simulation, training and its checkpoint."""

import itertools
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cosearch.blueprint import Conv, Drawing, Sum
from cosearch.config import RunConfig
from cosearch.data import Split
from cosearch.errors import ConfigError, DataError, RunError
from cosearch.integer import to_integer
from cosearch.macro import BlockChoice, Macro
from cosearch.runs import RunDirectory
from cosearch.supernet import arithmetic
from cosearch.supernet.blocks import Network, calibrate, set_simulation
from cosearch.supernet.checkpoint import load, restore, save, steps_begun
from cosearch.supernet.elastic import ElasticUnit, Supernet
from cosearch.supernet.recipes import elastic_units, sandwich, uniform
from cosearch.supernet.training import (
    DivergedError,
    Recipe,
    accuracy,
    augment,
    batches,
    make_optimizer,
    rate_at,
    set_rate,
    torch_device,
    train_network,
    train_supernet_epoch,
)
from cosearch.testing import check_network_space
from cosearch.workload import INPUT
from search_spaces import networks
from search_spaces.networks.shiftadd import space
from search_spaces.networks.space import NetworkSpace
from tests import tiny_space
from tests.supernet import awake

SPACE = space()


def random_paths(n: int) -> list:
    return [SPACE.blueprint(SPACE.sample(np.random.default_rng(i))) for i in range(n)]


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    made = awake(SPACE.supernet(3))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # gains and offsets of each operator apart, so that a mix-up shows
        for name, parameter in made.named_parameters():
            if "gamma" in name or "beta" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return made


@pytest.mark.parametrize("index", range(8))
def test_an_extracted_network_computes_what_its_path_does(supernet, digits, index):
    path = random_paths(8)[index]
    x = torch.from_numpy(digits.train.x[:64])
    network = supernet.extract(path).train()  # batch statistics, as paths have them
    supernet.train()
    with torch.no_grad():
        assert torch.allclose(network(x), supernet(x, path), atol=2e-4, rtol=1e-3)
    assert network.blueprint == path


def test_extraction_copies(supernet):
    path = random_paths(1)[0]
    network = supernet.extract(path)
    before = [p.clone() for p in supernet.parameters()]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, supernet.parameters(), strict=True))


def test_conv_and_shift_read_one_tensor_and_add_its_own(supernet):
    elastic = supernet.units["layer2-depthwise"]
    [full] = elastic.weights["linear"]

    def view(op: str, inner: int, kernel: int) -> torch.Tensor:
        [weight] = elastic.weight(Conv("layer2.depthwise", op, 0, inner, inner, (8, 8), kernel, 1, inner))
        return weight

    assert view("conv", 48, 5).data_ptr() == view("shift", 48, 5).data_ptr() == full.data_ptr()
    assert view("add", 48, 5).data_ptr() != full.data_ptr()
    # a smaller kernel is the centre, a smaller expansion the first channels
    assert torch.equal(view("conv", 24, 3), full[:24, :, 1:4, 1:4])


def test_a_step_on_one_path_moves_what_it_shares_and_nothing_else(digits):
    made = awake(SPACE.supernet(0))
    before = {n: p.detach().clone() for n, p in made.named_parameters()}
    path = SPACE.macro.blueprint([BlockChoice("shift", 3, 1)] * len(SPACE.macro.positions))
    F.cross_entropy(made(torch.from_numpy(digits.train.x[:32]), path), torch.from_numpy(digits.train.y[:32])).backward()
    torch.optim.SGD(made.parameters(), lr=0.1).step()
    moved = {n for n, p in made.named_parameters() if not torch.equal(p, before[n])}
    assert {n for n in moved if "layer" in n and not {"linear", "shift"} & set(n.split("."))} == set()
    assert any(n.endswith("weights.linear.0") for n in moved)
    name = "units.layer2-depthwise.weights.linear.0"
    linear = dict(made.named_parameters())[name]
    changed = linear != before[name]
    assert changed[:8, :, 1:4, 1:4].any()
    assert not changed[8:].any()
    assert not changed[:, :, 0].any()


def test_sharing_keeps_the_supernet_small(supernet):
    largest = max(
        sum(p.numel() for p in SPACE.build(SPACE.largest(op)).parameters()) for op in ("conv", "shift", "add")
    )
    assert sum(p.numel() for p in supernet.parameters()) <= 2.5 * largest


@pytest.mark.parametrize("side", [8, 16, 24, 32, 64, 128])
@pytest.mark.parametrize(("heterogeneous", "most"), [(False, 2.5), (True, 1.25)])
def test_sharing_keeps_the_supernet_small_at_every_size_of_images(side, heterogeneous, most):
    made = space((3, side, side), 10)
    largest = max(sum(p.numel() for p in made.build(made.largest(op)).parameters()) for op in ("conv", "shift", "add"))
    shared = made.supernet(0, heterogeneous, kernel_transform=True)
    assert sum(p.numel() for p in shared.parameters()) <= most * largest


def test_fewer_ranks_are_the_first_and_fewer_bits_and_sparser_weights_read_the_same_tensor():
    step = Conv("layer1.expand", "lowrank50", 0, 16, 48, (8, 8))
    few, narrow = replace(step, op="lowrank25"), replace(step, op="lowrank25", out_channels=24)
    others = [replace(step, op=op) for op in ("conv", "conv4", "conv2", "sparse25", "block50", "shift")]
    chains = [replace(step, op=op, out_channels=k) for op in ("butterfly2", "butterfly4") for k in (48, 16)]
    unit = ElasticUnit([few, step, narrow, *others, *chains])
    with torch.no_grad():  # it is the supernet that gives them values
        for parameter in unit.weights.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    a, b = unit.weight(step)
    assert (a.shape, b.shape) == ((8, 16, 1, 1), (48, 8, 1, 1))
    for part, rank, out in ((few, 4, 48), (narrow, 4, 24)):
        first, last = unit.weight(part)
        assert torch.equal(first, a[:rank])
        assert torch.equal(last, b[:out, :rank])
        assert {first.data_ptr(), last.data_ptr()} == {a.data_ptr(), b.data_ptr()}  # views of what is stored once
    [linear] = unit.weights["linear"]
    assert {unit.weight(other)[0].data_ptr() for other in others} == {linear.data_ptr()}
    stored = [unit.stored(chain) for chain in chains]
    assert len(set(stored)) == len(stored)  # chains of other sizes have no entries in common


@dataclass(frozen=True)
class Widths(NetworkSpace):
    """Two convolutions; the first has one of three widths, so that the second reads as many channels."""

    description = "elastic width"

    def blueprint(self, arch):
        drawing, width = Drawing((1, 8, 8)), arch["width"]
        first = drawing.add(Conv("first", arch["op"], INPUT, 1, width, (8, 8), 3))
        last = drawing.add(Conv("second", arch["op"], first, width, 16, (8, 8), arch["kernel"]))
        return drawing.finish(last, 10, 16, (8, 8))

    def covering(self):
        return [dict(zip(self.choices, each, strict=True)) for each in itertools.product(*self.choices.values())]


@pytest.mark.parametrize("op", ["conv", "add"])
@pytest.mark.parametrize("groups", [2, 4, 8])
def test_a_grouped_convolution_has_the_diagonal_blocks_of_a_dense_one(op, groups):
    """It computes what the dense one of its channels does whose other weights are zero."""
    dense = Conv("layer", op, INPUT, 16, 24, (6, 6), kernel=5)
    grouped = replace(dense, in_channels=8, out_channels=16, kernel=3, groups=groups)
    unit = ElasticUnit([grouped, dense])
    assert list(unit.weights) == [unit.stored(dense)] == [unit.stored(grouped)]
    with torch.no_grad():
        arithmetic.initialise(dense, list(unit.weights[unit.stored(dense)]), torch.Generator().manual_seed(0))
    [blocks], [whole] = unit.weight(grouped), unit.weight(replace(grouped, groups=1))
    assert blocks.shape == (16, 8 // groups, 3, 3)
    for k in range(16):
        for c in range(8 // groups):
            assert torch.equal(blocks[k, c], whole[k, k * groups // 16 * (8 // groups) + c])
    if op == "conv":
        masked = torch.zeros_like(whole)
        for k in range(16):
            first = k * groups // 16 * (8 // groups)
            masked[k, first : first + 8 // groups] = blocks[k]
        x = torch.randn(3, 8, 6, 6, generator=torch.Generator().manual_seed(1))
        assert torch.allclose(F.conv2d(x, blocks, None, 1, 1, 1, groups), F.conv2d(x, masked, None, 1, 1), atol=1e-5)
    blocks.square().sum().backward()
    moved = unit.weights[unit.stored(dense)][0].grad != 0
    assert moved.sum() == blocks.numel()


def test_a_grouped_addition_reads_the_diagonal_blocks_of_shared_weights():
    dense = Conv("layer", "conv", INPUT, 8, 8, (6, 6))
    steps = [dense, replace(dense, op="add"), replace(dense, op="add", groups=2)]
    shared, separate = ElasticUnit(steps, heterogeneous=True), ElasticUnit(steps)
    assert list(shared.weights) == ["linear"]
    assert sorted(separate.weights) == ["adder", "linear"]
    assert sorted(shared.transforms) == ["adder", "adder-g2"]
    with torch.no_grad():
        shared.weights["linear"][0].normal_(generator=torch.Generator().manual_seed(0))
        for transform in shared.transforms.values():
            transform.initialise(shared.weights["linear"][0])
        [whole], [blocks] = shared.weight(steps[1]), shared.weight(steps[2])
    assert torch.equal(blocks, torch.cat([whole[:4, :4], whole[4:, 4:]]))


def test_grouped_convolutions_alone_keep_weights_of_their_own():
    grouped = Conv("layer", "conv", INPUT, 16, 16, (6, 6), groups=2)
    unit = ElasticUnit([grouped, replace(grouped, in_channels=8)])
    assert [tuple(w.shape) for w in unit.weights["linear-g2"]] == [(16, 8, 1, 1)]
    [narrow] = unit.weight(replace(grouped, in_channels=8))
    assert torch.equal(narrow, unit.weights["linear-g2"][0][:, :4])


@pytest.mark.parametrize("name", [name for name in networks.SPACES if name != "nasbench201"])
def test_a_fresh_supernet_is_one_shallow_network_whatever_its_branches_are(name, digits):
    """Residual branches are closed at first; in training they open, each of them."""
    space, x = networks.find(name)((1, 8, 8), 10), torch.from_numpy(digits.train.x[:32])
    supernet, draws = space.supernet(0), np.random.default_rng(0)
    arch = space.largest()
    blueprint = space.blueprint(arch)
    ends = blueprint.residual_branches()
    branches = [place for place in arch if any(end.split(".")[0] == place for end in ends)]
    assert len(branches) >= 6
    with torch.no_grad():
        logits = supernet(x, blueprint)
        for _ in range(3):
            other = {**arch, **{place: draws.choice(list(space.choices[place])) for place in branches}}
            assert torch.equal(supernet(x, space.blueprint(other)), logits)
    F.cross_entropy(supernet(x, blueprint), torch.from_numpy(digits.train.y[:32])).backward()
    for end in ends:
        [gain] = [g for g in supernet.units[end.replace(".", "-")].gamma.values() if g.grad is not None]
        assert gain.grad.abs().sum() > 0


def test_residual_branches_by_hand():
    """One within another, one over the input; of parallel convolutions none, nor one that is added to a sibling."""
    drawing = Drawing((4, 6, 6))

    def conv(name: str, source: int) -> int:
        return drawing.add(Conv(name, "conv", source, 4, 4, (6, 6)))

    def add(name: str, *sources: int) -> int:
        return drawing.add(Sum(name, sources, 4, (6, 6)))

    over_input = add("sum1", conv("first", INPUT), INPUT)
    inner = conv("inner", conv("outer", over_input))
    around = add("sum3", conv("last", add("sum2", inner - 1, inner)), over_input)
    parallel = add("sum4", conv("left", around), conv("right", around))
    assert drawing.finish(parallel, 10, 4, (6, 6)).residual_branches() == {"first", "inner", "last"}


def test_summands_that_no_other_is_computed_from_end_no_residual_branch():
    """Edges of a cell: a later node's convolution ends a branch in one network and not in others."""
    space = networks.find("nasbench201")((1, 8, 8), 10)
    for unit in elastic_units(space.supernet(0)):
        assert all(bool((gain == 1).all()) for gain in unit.gamma.values())


def test_a_space_of_elastic_widths_has_a_supernet():
    widths = Widths({"width": (4, 8, 12), "op": ("conv", "shift", "add", "lowrank50"), "kernel": (1, 3)}, "widths")
    check_network_space(widths)
    unit = widths.supernet(0).units["second"]
    [full] = unit.weights["linear"]
    assert full.shape == (16, 12, 3, 3)
    [narrow] = unit.weight(Conv("second", "shift", 0, 4, 16, (8, 8), 1))
    assert torch.equal(narrow, full[:, :4, 1:2, 1:2])


def test_small_kernels_read_the_centre_through_their_transform():
    supernet = SPACE.supernet(0, kernel_transform=True)
    plain = SPACE.supernet(0)
    block = SPACE.blueprint({name: "conv_k3_e1" for name in SPACE.choices})
    step = next(step for step in block.convolutions if step.name == "layer2.depthwise")
    unit, cropped = (made.units["layer2-depthwise"] for made in (supernet, plain))
    assert sorted(unit.kernels) == ["linear-3"]
    assert torch.equal(unit.weight(step)[0], cropped.weight(step)[0])  # nothing is learned yet
    mixing = torch.randn(9, 9)
    with torch.no_grad():
        unit.kernels["linear-3"].copy_(mixing)
    centre, found = cropped.weight(step)[0], unit.weight(step)[0]
    for channel in range(step.out_channels):
        expected = [
            centre[channel, 0].flatten()[j] + sum(centre[channel, 0].flatten()[i] * mixing[i, j] for i in range(9))
            for j in range(9)
        ]
        assert torch.allclose(found[channel, 0].flatten(), torch.stack(expected), atol=1e-5)
    for name in ("conv_k5_e6", "add_k3_e1"):  # the largest kernel, and additions, read theirs as it is
        step = next(s for s in SPACE.blueprint({n: name for n in SPACE.choices}).convolutions if s.name == step.name)
        assert torch.equal(unit.weight(step)[0], cropped.weight(step)[0])
    grown = sum(p.numel() for p in supernet.parameters()) - sum(p.numel() for p in plain.parameters())
    assert grown == 81 * len(SPACE.choices)


def test_a_kernels_transform_learns_and_is_extracted(digits):
    supernet = awake(SPACE.supernet(0, kernel_transform=True))
    blueprint = SPACE.blueprint({name: "shift_k3_e3" for name in SPACE.choices})
    x, y = torch.from_numpy(digits.train.x[:64]), torch.from_numpy(digits.train.y[:64])
    torch.nn.functional.cross_entropy(supernet(x, blueprint), y).backward()
    learned = [p for unit in supernet.units.values() for p in unit.kernels.values()]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learned)
    with torch.no_grad():
        for p in learned:
            p.sub_(p.grad)
        extracted = supernet.extract(blueprint).train()
        assert torch.allclose(extracted(x), supernet(x, blueprint), atol=2e-3, rtol=1e-3)


def test_networks_with_different_classifiers_have_no_supernet():
    with pytest.raises(ConfigError, match="one classifier, got inputs of"):
        Supernet([SPACE.blueprint(SPACE.largest()), tiny_space.space().blueprint(tiny_space.space().largest())])
    with pytest.raises(ConfigError, match="one classifier"):
        Supernet([])


def test_the_seed_decides_the_weights():
    a, b, c = SPACE.supernet(1), SPACE.supernet(1), SPACE.supernet(2)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.classifier.weight, c.classifier.weight)
    first, second = SPACE.build(SPACE.largest(), 5), SPACE.build(SPACE.largest(), 5)
    assert all(torch.equal(x, y) for x, y in zip(first.parameters(), second.parameters(), strict=True))


# -- calibration and simulation --


def test_calibration_measures_statistics_and_ranges(supernet, digits):
    network = supernet.extract(SPACE.macro.blueprint([BlockChoice("add", 3, 3)] * len(SPACE.macro.positions)))
    x = torch.from_numpy(digits.train.x[:200])
    with torch.no_grad():
        for unit in network.units():
            unit.bn.running_mean.fill_(99.0)
    calibrate(network, x, batch_size=200)
    assert not network.training
    with torch.no_grad():
        stem = network.unit("stem")
        y = F.conv2d(x, stem.weight, None, stem.step.stride, 1)
        assert torch.allclose(stem.bn.running_mean, y.mean((0, 2, 3)), atol=1e-4)
        assert torch.allclose(stem.bn.running_var, y.var((0, 2, 3)), rtol=1e-3)
        # one batch: evaluation then sees what calibration saw, up to n / (n - 1) in the variance
        out = stem(x)
    assert float(stem.amax) == pytest.approx(float(out.max()), rel=1e-2)
    low, high = network.unit("layer1.expand").entry_range.tolist()  # the stem's outputs, after their ReLU
    assert low == 0.0
    assert high == pytest.approx(float(stem.amax))
    assert network.unit("layer2.expand").entry_range[0] < 0  # block 1 ends in a sum without ReLU


def test_calibration_starts_anew(supernet, digits):
    network = supernet.extract(random_paths(4)[3])
    x = torch.from_numpy(digits.train.x[:128])
    calibrate(network, 10 * x)
    calibrate(network, x)
    once = supernet.extract(random_paths(4)[3])
    calibrate(once, x)
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), once.state_dict().values(), strict=True)
    )


def test_calibrating_rescues_a_sub_network(digits):
    """With the statistics of another network accuracy is chance; measured anew it is not."""
    made = tiny_space.space().supernet(0)
    tiny = tiny_space.space()
    recipe = uniform(tiny, made, 0, Recipe(epochs=10))
    optimizer = make_optimizer(made, recipe.settings)
    for epoch in range(10):
        train_supernet_epoch(recipe, optimizer, digits.train, 0, epoch)
    arch = {"layer1": "conv_k5_e6", "layer2": "conv_k5_e6", "layer3": "conv_k5_e6"}
    network = made.extract(tiny.blueprint(arch))
    network.eval()
    stale = accuracy(network, digits.validation)
    calibrate(network, torch.from_numpy(digits.train.x[:256]))
    fresh = accuracy(network, digits.validation)
    assert fresh > 0.4
    assert fresh > stale + 0.1


@pytest.mark.parametrize("op", ["conv", "shift", "add"])
def test_the_simulation_follows_the_integer_network(digits, op):
    network = tiny_space.space().build(dict.fromkeys(("layer1", "layer2", "layer3"), f"{op}_k3_e1"), 4)
    x = torch.from_numpy(digits.train.x[:256])
    calibrate(network, x)
    integer = to_integer(network, x)
    set_simulation(network, True)
    images = torch.from_numpy(digits.validation.x[:100])
    with torch.no_grad():
        simulated = network(images).double()
    exact = integer(images).double()
    assert not any(torch.equal(a, b) for a, b in zip(simulated, exact, strict=True))  # other units: only compare shape
    correlation = torch.stack(
        [torch.corrcoef(torch.stack([a, b]))[0, 1] for a, b in zip(simulated, exact, strict=True)]
    )
    assert correlation.median() > 0.99
    assert (simulated.argmax(1) == exact.argmax(1)).double().mean() >= 0.8
    set_simulation(network, False)
    with torch.no_grad():
        assert not torch.equal(network(images).double(), simulated)


# -- training --


def test_augmentation_moves_little_and_repeats_with_its_seed(digits):
    x = torch.from_numpy(digits.train.x[:64])
    still = Recipe(1, rotation_degrees=0, scale=0, shift_pixels=0)
    assert torch.allclose(augment(x, still, False, torch.Generator()), x, atol=1e-4)
    flipped = augment(x, still, True, torch.Generator().manual_seed(0))
    mirrored = [torch.allclose(a, b.flip(-1), atol=1e-4) for a, b in zip(flipped, x, strict=True)]
    same = [torch.allclose(a, b, atol=1e-4) for a, b in zip(flipped, x, strict=True)]
    assert all(m or s for m, s in zip(mirrored, same, strict=True))
    assert 16 < sum(mirrored) < 48
    a, b = (augment(x, Recipe(1), False, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.allclose(a, x, atol=1e-2)


def test_batches_visit_each_image_at_most_once_and_differ_between_epochs(digits):
    still = Recipe(1, rotation_degrees=0, scale=0, shift_pixels=0, batch_size=100)
    labels = [torch.cat([y for _, y in batches(digits.train, still, False, 0, e, "cpu")]) for e in (0, 0, 1)]
    assert torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], labels[2])
    assert len(labels[0]) == len(digits.train) // 100 * 100
    few = Split(digits.train.x[:10], digits.train.y[:10])
    with pytest.raises(DataError, match="10 training images, fewer than one batch of 100"):
        next(batches(few, still, False, 0, 0, "cpu"))


def test_the_rate_warms_up_and_falls_to_zero():
    recipe = Recipe(1, learning_rate=0.2, warmup_fraction=0.1)
    rates = [rate_at(recipe, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.02 * (i + 1) for i in range(10)])
    assert rates[10] == 0.2
    assert rates[55] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] < 1e-3 * 0.2


def test_weight_decay_spares_adders_and_norms():
    network = SPACE.build({p.name: "add_k3_e1" for p in SPACE.macro.positions})
    decayed, rest, last = make_optimizer(network, Recipe(1)).param_groups
    adders = [unit.weight for unit in network.units() if unit.op == "add"]
    ids = {id(p) for p in decayed["params"]}
    assert decayed["weight_decay"] == last["weight_decay"] > 0
    assert rest["weight_decay"] == 0
    assert not ids & {id(p) for p in adders}
    assert id(network.unit("stem").weight) in ids
    assert id(network.unit("stem").bn.weight) not in ids


def test_wide_classifiers_learn_more_slowly():
    for head, share in ((64, 1.0), (32, 1.0), (256, 0.25)):
        network = Network(Macro((1, 8, 8), 10, 4, 2, ((4, 1, 1),), head).blueprint([None]))
        optimizer = make_optimizer(network, Recipe(4, learning_rate=0.2))
        set_rate(optimizer, 0.1)
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert rates.pop(id(network.classifier.weight)) == pytest.approx(0.1 * share)
        assert set(rates.values()) == {0.1}
        assert len(rates) == len(list(network.parameters())) - 1


def test_training_twice_gives_the_same_weights_and_reports_epochs(digits):
    few = Split(digits.train.x[:128], digits.train.y[:128])
    seen: list[int] = []
    arch = {"layer1": "add_k3_e1", "layer2": "shift_k3_e1", "layer3": "conv_k3_e1"}
    networks = [tiny_space.space().build(arch, 1) for _ in range(3)]
    train_network(networks[0], few, Recipe(epochs=2), 1, on_epoch=seen.append)
    train_network(networks[1], few, Recipe(epochs=2), 1)
    train_network(networks[2], few, Recipe(epochs=2), 2)
    assert seen == [1, 2]
    pairs = zip(networks[0].state_dict().values(), networks[1].state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(networks[0].classifier.weight, networks[2].classifier.weight)


def test_a_loss_that_is_not_finite_is_an_error(digits):
    few = Split(digits.train.x[:128] * np.float32(1e30), digits.train.y[:128])
    made = tiny_space.space()
    with pytest.raises(DivergedError, match=r"learning rate 1e\+30") as caught:
        train_network(made.build(made.largest()), few, Recipe(epochs=2, learning_rate=1e30), 0)
    assert "\n" not in str(caught.value)
    net = made.supernet(0)
    recipe = uniform(made, net, 0, Recipe(epochs=2, learning_rate=1e30))
    with pytest.raises(DivergedError, match=r"in step \d of epoch 1 of 2 of the supernet at learning rate 1e\+30"):
        train_supernet_epoch(recipe, make_optimizer(net, recipe.settings), few, 0, 0)
    spoilt = Recipe(epochs=2, learning_rate=float("nan"))
    recipe, one = uniform(made, made.supernet(0), 0, spoilt), Split(digits.train.x[:64], digits.train.y[:64])
    with pytest.raises(DivergedError, match="a weight became infinite or NaN in epoch 1"):  # its loss came before
        train_supernet_epoch(recipe, make_optimizer(recipe.supernet, spoilt), one, 0, 0)


def test_statistics_that_are_not_finite_are_an_error(digits):
    """Of weights that the last step made so large, but finite, that what they compute is not."""
    few = Split(digits.train.x[:128], digits.train.y[:128])
    network = tiny_space.space().build(tiny_space.space().largest(), 0)

    def spoil(_: int) -> None:
        with torch.no_grad():
            next(iter(network.units())).weight.fill_(1e38)

    with pytest.raises(DivergedError, match="a statistic became infinite or NaN in the last of 1 epochs"):
        train_network(network, few, Recipe(epochs=1), 0, on_epoch=spoil)


@pytest.mark.parametrize("op", ["conv", "shift", "add"])
def test_training_in_simulation_learns_with_the_arithmetic_of_the_hardware(digits, op):
    few = Split(digits.train.x[:192], digits.train.y[:192])
    arch = {f"layer{i}": f"{op}_k3_e1" for i in (1, 2, 3)}
    plain, simulated = (tiny_space.space().build(arch, 1) for _ in range(2))
    recipe = Recipe(epochs=6, batch_size=16)
    train_network(plain, few, recipe, 1)
    train_network(simulated, few, replace(recipe, simulated_epochs=2), 1)
    assert not any(module.simulate for module in simulated.watched())  # what is left computes in floating point
    assert not torch.equal(plain.classifier.weight, simulated.classifier.weight)
    assert accuracy(plain, few) > 0.2  # chance is a tenth
    assert accuracy(simulated, few) > 0.8 * accuracy(plain, few)


@pytest.mark.parametrize("op", ["conv", "shift", "conv4", "conv2", "sparse50", "block25"])
def test_held_weights_are_those_of_the_hardware_with_the_gradient_of_training(op):
    step = Conv("c", op, -1, 8, 6, (4, 4), 3, 1)
    latent = torch.randn(6, 8, 3, 3, generator=torch.Generator().manual_seed(1))
    pull = torch.randn(6, 8, 3, 3, generator=torch.Generator().manual_seed(2))
    gradients = []
    for of in (arithmetic.held_weight, arithmetic.trained_weight):
        weight = latent.clone().requires_grad_()
        (of(step, weight) * pull).sum().backward()
        gradients.append(weight.grad)
    torch.testing.assert_close(*gradients)
    levels, unit = arithmetic.weight_levels(step, latent)
    assert torch.equal(arithmetic.held_weight(step, latent.clone().requires_grad_()).detach(), levels * unit)


def test_a_teacher_is_followed(digits):
    """A teacher that calls every image a three, whatever the labels."""

    class Threes(torch.nn.Module):
        def forward(self, x):
            return 20.0 * F.one_hot(torch.full((len(x),), 3), 10).float()

    few = Split(digits.train.x[:192], digits.train.y[:192])
    taught, untaught = (tiny_space.space().build(tiny_space.space().largest(), 1) for _ in range(2))
    train_network(untaught, few, Recipe(epochs=4), 1)
    train_network(taught, few, Recipe(epochs=4), 1, teacher=Threes())
    images = torch.from_numpy(few.x)
    threes = [net(images).softmax(1)[:, 3].mean() for net in (untaught, taught)]
    assert threes[0] < 0.25
    assert threes[1] > 0.4


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_device("auto") == torch_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="torch sees no CUDA device"):
        torch_device("cuda")


# -- the checkpoint --


def test_the_supernet_of_a_run_is_loaded_when_it_is_trained(digits, tmp_path):
    run = RunDirectory.create(tmp_path / "run", RunConfig.make({"supernet_epochs": 4, "recipe": "uniform"}))
    tiny = tiny_space.space()
    trained(run, digits, 0, 2)
    with pytest.raises(RunError, match="trained for 2 of 4 epochs"):
        load(run, tiny)
    finished = trained(run, digits, 2, 4)
    for name, value in load(run, tiny).state_dict().items():
        assert torch.equal(value, finished.state_dict()[name])


def trained(run: RunDirectory, digits, first: int, last: int) -> Supernet:
    tiny = tiny_space.space()
    recipe = uniform(tiny, tiny.supernet(0), 0, Recipe(epochs=4))
    done, optimizer = restore(run, recipe, "tiny")
    assert done == first
    for epoch in range(first, last):
        train_supernet_epoch(recipe, optimizer, digits.train, 0, epoch)
    save(run, recipe, optimizer, "tiny", last)
    return recipe.supernet


def test_training_goes_on_from_a_checkpoint_bit_for_bit(digits, tmp_path):
    whole = RunDirectory.create(tmp_path / "whole", RunConfig())
    parts = RunDirectory.create(tmp_path / "parts", RunConfig())
    straight = trained(whole, digits, 0, 4)
    trained(parts, digits, 0, 1)
    resumed = trained(parts, digits, 1, 4)
    for (name, a), b in zip(straight.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    file = "supernet.safetensors"
    assert (whole.path / file).read_bytes() == (parts.path / file).read_bytes()


def test_a_supernet_that_is_trained_needs_no_optimizer(digits, tmp_path):
    """Nor does loading, or training, load torch's compiler, which would take two seconds of every process."""
    run = RunDirectory.create(tmp_path / "run", RunConfig.make({"supernet_epochs": 4, "recipe": "uniform"}))
    supernet = trained(run, digits, 0, 4)
    recipe = uniform(tiny_space.space(), tiny_space.space().supernet(1), 0, Recipe(epochs=4))
    assert restore(run, recipe, "tiny") == (4, None)
    for name, value in recipe.supernet.state_dict().items():
        assert torch.equal(value, supernet.state_dict()[name])
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from cosearch.runs import RunDirectory\n"
        "from cosearch.supernet.checkpoint import load\n"
        "from cosearch.data import load_dataset\n"
        "from cosearch.supernet.training import Recipe, train_network\n"
        "from tests import tiny_space\n"
        "space = tiny_space.space()\n"
        "load(RunDirectory.open(Path(sys.argv[1])), space)\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "network = space.build(space.sample(np.random.default_rng(0)))\n"
        "train_network(network, load_dataset('digits').train, Recipe(1, batch_size=512), 0)\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(run.path)], check=True)


def test_a_foreign_checkpoint_is_refused(tmp_path):
    run = RunDirectory.create(tmp_path / "run", RunConfig())
    tiny = tiny_space.space()

    def recipe_for(space, epochs: int = 4, **sharing):
        return uniform(space, space.supernet(0, **sharing), 0, Recipe(epochs))

    def stored(recipe, space: str) -> int:
        return restore(run, recipe, space)[0]

    own = recipe_for(tiny)
    assert stored(own, "tiny") == 0
    save(run, own, make_optimizer(own.supernet, own.settings), "tiny", 2)
    assert stored(recipe_for(tiny), "tiny") == 2
    for other, name, words in (
        (recipe_for(tiny, 5), "tiny", "epochs 4; this run is .* epochs 5"),
        (recipe_for(tiny), "shiftadd", "space tiny, .*; this run is version 3, space shiftadd"),
        (recipe_for(tiny, heterogeneous=True), "tiny", "sharing separate, .* sharing heterogeneous"),
        (recipe_for(tiny, kernel_transform=True), "tiny", "kernels crop, .* kernels transform"),
        (sandwich(tiny, tiny.supernet(0), 0, Recipe(4)), "tiny", "recipe uniform, .* recipe sandwich"),
    ):
        with pytest.raises(RunError, match=words) as caught:
            stored(other, name)
        assert "\n" not in str(caught.value)
    save(run, own, make_optimizer(own.supernet, own.settings), "shiftadd", 2)
    with pytest.raises(RunError, match="does not fit the supernet") as caught:
        stored(recipe_for(SPACE), "shiftadd")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", ["2", None])
def test_a_checkpoint_of_another_version_says_both(tmp_path, version):
    run, recipe = checkpointed(tmp_path)
    tensors, described = run.load_tensors("supernet.safetensors")
    older = {name: value for name, value in described.items() if name != "version"}
    run.save_tensors("supernet.safetensors", tensors, older if version is None else {**older, "version": version})
    words = f"is of version {version or 'unknown'}, space tiny, .*; this run is version 3, space tiny, .*: remove it or"
    with pytest.raises(RunError, match=words) as caught:
        restore(run, recipe, "tiny")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("epoch", ["", "-1", "5", "two", "1.5", "9" * 5000, "٣" * 20])
def test_a_checkpoint_of_an_epoch_that_cannot_be_is_refused(tmp_path, epoch):
    run, recipe = checkpointed(tmp_path)
    tensors, described = run.load_tensors("supernet.safetensors")
    run.save_tensors("supernet.safetensors", tensors, {**described, "epoch": epoch})
    with pytest.raises(RunError, match=r"supernet\.safetensors is damaged \(trained for .* of 4 epochs\)") as caught:
        restore(run, recipe, "tiny")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("step", ["", "-1", "two", "1.5", "9" * 5000, "30"])  # 30 is a whole third epoch
def test_a_checkpoint_of_a_step_that_cannot_be_is_refused(tmp_path, step):
    run, recipe = checkpointed(tmp_path)
    tensors, described = run.load_tensors("supernet.safetensors")
    run.save_tensors("supernet.safetensors", tensors, {**described, "step": step})

    def resumed() -> int:
        done, optimizer = restore(run, recipe, "tiny")
        return steps_begun(run, optimizer, done, per_epoch=10)

    with pytest.raises(RunError, match=r"supernet\.safetensors is damaged \('?.* steps") as caught:
        resumed()
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_says_no_step_is_of_whole_epochs(tmp_path):
    run, recipe = checkpointed(tmp_path)
    tensors, described = run.load_tensors("supernet.safetensors")
    run.save_tensors("supernet.safetensors", tensors, {k: v for k, v in described.items() if k != "step"})
    done, optimizer = restore(run, recipe, "tiny")
    assert (done, steps_begun(run, optimizer, done, per_epoch=10)) == (2, 0)


def test_a_checkpoint_whose_optimizer_remembers_other_weights_is_refused(tmp_path):
    run, recipe = checkpointed(tmp_path)
    tensors, described = run.load_tensors("supernet.safetensors")
    name = next(name for name, value in recipe.supernet.named_parameters() if value.ndim == 1)
    momentum = {f"optimizer.momentum_buffer.{name}": torch.zeros(3, 3)}
    run.save_tensors("supernet.safetensors", {**tensors, **momentum}, described)
    with pytest.raises(RunError, match="what its optimizer remembers does not fit the weights") as caught:
        restore(run, recipe, "tiny")
    assert "\n" not in str(caught.value)


def checkpointed(tmp_path):
    """A run whose supernet of the tiny space is trained for two of four epochs, as far as its file says."""
    run, tiny = RunDirectory.create(tmp_path / "run", RunConfig()), tiny_space.space()
    recipe = uniform(tiny, tiny.supernet(0), 0, Recipe(4))
    save(run, recipe, make_optimizer(recipe.supernet, recipe.settings), "tiny", 2)
    return run, recipe
