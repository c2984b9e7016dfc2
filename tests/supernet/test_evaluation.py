"""Accuracies of many sub-networks in one call are those of each cut out, calibrated and measured by hand."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from cosearch.blueprint import INPUT, Blueprint, Conv, Linear, Pool, Sum
from cosearch.errors import ConfigError
from cosearch.supernet.blocks import Network, Unit, calibrate, set_simulation
from cosearch.supernet.evaluation import Begun, Memory, cuts, evaluate
from cosearch.supernet.training import accuracy
from search_spaces import networks
from search_spaces.networks.shiftadd import space
from tests.supernet import awake

SPACE = space()


@pytest.fixture(scope="module")
def supernet():
    return awake(SPACE.supernet(1))


@pytest.mark.parametrize("simulate", [True, False])
def test_many_networks_at_once_are_as_each_alone(supernet, digits, simulate):
    train, validation = torch.from_numpy(digits.train.x[:128]), digits.validation
    blueprints = [SPACE.blueprint(SPACE.sample(np.random.default_rng(i))) for i in range(3)]
    images, labels = torch.from_numpy(validation.x), torch.from_numpy(validation.y)
    found = evaluate(supernet, blueprints, train, images, labels, simulate=simulate)
    for blueprint, value in zip(blueprints, found, strict=True):
        network = supernet.extract(blueprint)
        calibrate(network, train)
        set_simulation(network, simulate)
        assert accuracy(network, validation) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("name", ["shiftadd", "nasbench201", "lowrank"])
def test_networks_that_begin_alike_are_as_each_alone(name, digits):
    """In whatever order they come, one of them twice, with several batches; cells whose nodes are zero among them."""
    found = networks.find(name)((1, 8, 8), 10)
    near = [found.sample(np.random.default_rng(i)) for i in range(2)]
    for arch in list(near):
        for decision in list(arch)[-1:0:-2]:
            near += [{**arch, decision: choice} for choice in found.choices[decision][:2]]
    blueprints = [found.blueprint(arch) for arch in [*near, near[0]]]
    supernet = awake(found.supernet(1))
    data = [torch.from_numpy(a[:100]) for a in (digits.train.x, digits.validation.x, digits.validation.y)]
    together = evaluate(supernet, blueprints, *data, batch_size=40)
    assert together == [evaluate(supernet, [blueprint], *data, batch_size=40)[0] for blueprint in blueprints]
    assert len(set(together)) > 2


def test_what_networks_share_runs_once(supernet, digits, monkeypatch):
    run: list[str] = []
    forward = Unit.forward
    monkeypatch.setattr(Unit, "forward", lambda unit, x: run.append(unit.step.name) or forward(unit, x))
    data = [torch.from_numpy(a[:64]) for a in (digits.train.x, digits.validation.x, digits.validation.y)]
    last = list(SPACE.choices)[-1]
    archs = [{**SPACE.largest("conv"), last: choice} for choice in ("conv_k3_e1", "shift_k3_e1", "add_k3_e1")]
    evaluate(supernet, [SPACE.blueprint(arch) for arch in archs], *data)
    alone = [name for name in dict.fromkeys(run) if not name.startswith(last) and name != "head"]
    assert len(alone) > 10
    assert all(run.count(name) == 2 for name in alone)  # calibrated and measured
    assert run.count("head") == 2 * len(archs)


def _neighbours(found, n=12):
    rng = np.random.default_rng(3)
    archs = [found.sample(rng)]
    for _ in range(n - 1):
        archs.append(found.mutate(archs[rng.integers(len(archs))], rng))
    return archs


@pytest.mark.parametrize("name", ["shiftadd", "nasbench201", "fbnet"])
def test_a_memory_changes_no_accuracy_and_saves_what_was_run_before(name, digits, monkeypatch):
    """Of single precision bit for bit, whatever is forgotten meanwhile; most of what near networks run is shared."""
    found = networks.find(name)((1, 8, 8), 10)
    supernet = awake(found.supernet(1))
    blueprints = [found.blueprint(arch) for arch in _neighbours(found)]
    data = [torch.from_numpy(a[:90]) for a in (digits.train.x, digits.validation.x, digits.validation.y)]
    alone = [evaluate(supernet, [blueprint], *data, batch_size=40)[0] for blueprint in blueprints]
    run: list[str] = []
    compute = Network.compute
    monkeypatch.setattr(Network, "compute", lambda net, step, x: run.append(step.name) or compute(net, step, x))
    ran = {}
    for limit in (0, 1 << 22, 1 << 30):
        run.clear()
        memory = Memory(limit)
        once = [evaluate(supernet, [b], *data, batch_size=40, memory=memory)[0] for b in blueprints]
        assert once == alone
        assert memory.bytes == sum(begun.bytes for begun in memory._begun.values()) <= limit
        ran[limit] = len(run)
    steps = sum(bool(step.reads) for blueprint in blueprints for step in blueprint.steps)
    whole = steps * (3 + 3)  # batches of calibration and of images
    assert ran[0] == whole
    assert ran[1 << 30] <= ran[1 << 22] <= whole
    assert ran[1 << 30] < whole
    assert len(set(alone)) > 2


def test_a_memory_serves_several_threads(supernet, digits):
    data = [torch.from_numpy(a[:64]) for a in (digits.train.x, digits.validation.x, digits.validation.y)]
    blueprints, memory = [SPACE.blueprint(arch) for arch in _neighbours(SPACE, 24)], Memory(1 << 21)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # of each thread its own, and sums depend on it
    try:
        with ThreadPoolExecutor(4, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            found = list(pool.map(lambda b: evaluate(supernet, [b], *data, memory=memory)[0], blueprints))
        assert found == [evaluate(supernet, [blueprint], *data)[0] for blueprint in blueprints]
    finally:
        torch.set_num_threads(before)
    assert memory.bytes == sum(begun.bytes for begun in memory._begun.values()) <= memory.limit


def test_a_beginning_ends_with_a_block_whose_last_value_is_all_that_is_read():
    block = [Conv("x.a", "conv", INPUT, 1, 4, (8, 8)), Conv("x.b", "conv", 0, 4, 4, (8, 8))]
    rest = [Sum("y.sum", (1, 0), 4, (8, 8)), Pool("pool", 2, 4, (1, 1), (8, 8)), Linear("classifier", 3, 4, 10)]
    assert cuts(Blueprint((1, 8, 8), (*block, *rest))) == [3, 4]  # after x.b the sum still reads x.a
    of_input = Sum("y.sum", (1, INPUT), 1, (8, 8))
    assert cuts(Blueprint((1, 8, 8), (*block, of_input, *rest[1:]))) == [3, 4]
    own = [Conv("y.c", "conv", 1, 4, 4, (8, 8)), Pool("pool", 2, 4, (1, 1), (8, 8)), rest[2]]
    assert cuts(Blueprint((1, 8, 8), (*block, *own))) == [2, 3, 4]
    unread = Conv("unread", "conv", 0, 4, 4, (8, 8))
    follows = [Pool("pool", 0, 4, (1, 1), (8, 8)), Linear("classifier", 2, 4, 10)]
    assert cuts(Blueprint((1, 8, 8), (block[0], unread, *follows))) == [1, 3]
    long = [Conv(f"c{i}", "conv", i - 1, 1, 1, (8, 8)) for i in range(15)]
    assert cuts(Blueprint((1, 8, 8), (*long, Linear("classifier", 14, 1, 10)))) == list(range(1, 14))  # of 16 steps


def _begun(values):
    return Begun(({0: torch.zeros(values)},), ())


def test_what_was_not_used_for_longest_is_forgotten_and_of_what_was_the_longer_first():
    blueprint = SPACE.blueprint(SPACE.largest("conv"))
    known = [blueprint.steps[:cut] for cut in cuts(blueprint)]
    memory = Memory(4 * 100 * len(known))
    for steps in known:
        memory.keep(steps, _begun(100))
    assert memory.longest(blueprint)[0] == len(known[-1])
    forgotten = []
    for i in range(1, len(known) + 1):
        memory.keep(blueprint.steps[-i:], _begun(100))
        forgotten += [steps for steps in known if steps not in memory._begun and steps not in forgotten]
        assert memory.bytes == 400 * len(memory._begun) == memory.limit
    assert forgotten == known[::-1]
    memory.keep(blueprint.steps, _begun(100 * len(known) + 1))  # more than fits
    assert blueprint.steps not in memory._begun
    assert memory.bytes == memory.limit


def test_one_network_keeps_what_saves_most_for_a_byte_within_its_part_of_the_limit():
    blueprint = SPACE.blueprint(SPACE.largest("conv"))
    ends = {cut: blueprint.steps[cut - 1] for cut in cuts(blueprint)}
    sizes = {
        cut: 4 * 10 * (step.out_channels if isinstance(step, Conv) else step.channels) * step.size[0] * step.size[1]
        for cut, step in ends.items()
    }
    everything = Memory(1 << 30).worth_keeping(blueprint, 10)
    assert everything == list(sizes)
    for part in (0, min(sizes.values()) - 1, min(sizes.values()), sum(sizes.values()) // 2, sum(sizes.values())):
        kept = Memory(16 * part).worth_keeping(blueprint, 10)
        assert sum(sizes[cut] for cut in kept) <= part
        assert bool(kept) == (part >= min(sizes.values()))
        assert all(sizes[cut] > part - sum(sizes[k] for k in kept) for cut in everything if cut not in kept)
    assert Memory(1 << 30).worth_keeping(blueprint, 10**9) == []


def test_a_memory_is_of_one_evaluation(digits):
    supernet = awake(SPACE.supernet(2))
    blueprint = SPACE.blueprint(SPACE.largest("conv"))
    data = [torch.from_numpy(a[:64]) for a in (digits.train.x, digits.validation.x, digits.validation.y)]
    memory = Memory()
    evaluate(supernet, [blueprint], *data, memory=memory)
    evaluate(supernet, [blueprint], *data, memory=memory)
    others = [dict(batch_size=40), dict(precision="bf16"), dict(simulate=False)]
    for how in others:
        with pytest.raises(ConfigError, match="memory is of another evaluation"):
            evaluate(supernet, [blueprint], *data, memory=memory, **how)
    with pytest.raises(ConfigError, match="memory is of another evaluation"):
        evaluate(supernet, [blueprint], data[0].clone(), *data[1:], memory=memory)
    with torch.no_grad():
        supernet.classifier.weight += 0.1
    with pytest.raises(ConfigError, match="not trained since"):
        evaluate(supernet, [blueprint], *data, memory=memory)


def test_a_memory_travels_empty(supernet, digits):
    data = [torch.from_numpy(a[:64]) for a in (digits.train.x, digits.validation.x, digits.validation.y)]
    memory = Memory(1 << 25)
    evaluate(supernet, [SPACE.blueprint(SPACE.largest("conv"))], *data, memory=memory)
    assert memory.bytes > 0
    for other in (copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))):
        assert (other.limit, other.bytes, len(other._begun)) == (1 << 25, 0, 0)
    assert len(pickle.dumps(memory)) < 1_000


def test_no_network_has_no_accuracy(supernet, digits):
    data = [torch.from_numpy(a[:64]) for a in (digits.train.x, digits.validation.x, digits.validation.y)]
    assert evaluate(supernet, [], *data) == []


@pytest.mark.parametrize("op", ["shift", "add"])
def test_every_operator_runs_in_half_precision(supernet, digits, op):
    blueprint = SPACE.blueprint(dict.fromkeys(SPACE.choices, f"{op}_k3_e1"))
    data = [torch.from_numpy(a[:64]) for a in (digits.train.x, digits.validation.x, digits.validation.y)]
    [found] = evaluate(supernet, [blueprint], *data, precision="bf16")
    assert 0 <= found <= 1


def test_half_precision_changes_little(digits):
    """Class scores that differ little are as random here as anywhere, so a supernet that has learned is needed."""
    from cosearch.supernet.recipes import uniform
    from cosearch.supernet.training import Recipe, make_optimizer, train_supernet_epoch

    conv = SPACE.restricted("conv")
    recipe = uniform(conv, conv.supernet(0), 0, Recipe(6))
    optimizer = make_optimizer(recipe.supernet, recipe.settings)
    for epoch in range(6):
        train_supernet_epoch(recipe, optimizer, digits.train, 0, epoch)
    blueprints = [conv.blueprint(conv.sample(np.random.default_rng(i))) for i in range(2)]
    data = [torch.from_numpy(a) for a in (digits.train.x[:128], digits.validation.x, digits.validation.y)]
    exact, half = (evaluate(recipe.supernet, blueprints, *data, precision=p, simulate=False) for p in ("fp32", "bf16"))
    assert exact == pytest.approx(half, abs=0.04)
    assert exact != [0.0, 0.0]
