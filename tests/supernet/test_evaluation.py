"""Accuracies of many sub-networks in one call are those of each cut out, calibrated and measured by hand."""

import numpy as np
import pytest
import torch

from cosearch.supernet.blocks import calibrate, set_simulation
from cosearch.supernet.evaluation import evaluate
from cosearch.supernet.training import accuracy
from search_spaces.networks.shiftadd import space

SPACE = space()


@pytest.fixture(scope="module")
def supernet():
    return SPACE.supernet(1)


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
