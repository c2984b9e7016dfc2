"""Accuracies of many sub-networks in one call are those of each cut out, calibrated and measured by hand."""

import numpy as np
import pytest
import torch

from cosearch.supernet.blocks import Unit, calibrate, set_simulation
from cosearch.supernet.evaluation import evaluate
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
