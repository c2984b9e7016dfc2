"""Conformance suites: what every plugin of a kind must hold. They raise AssertionError saying what does not."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cosearch.costs import AcceleratorCosts, JointCosts
from cosearch.workload import count_layers


def check_network_space(space: Any, archs: int = 4, seed: int = 0) -> None:
    """A network space: encoding, description, workload, stand-alone module, supernet and integers agree.

    archs: how many sampled networks are built.
    """
    import torch

    rng = np.random.default_rng(seed)
    sampled = [space.sample(rng) for _ in range(archs)]
    _check_decisions(space, sampled, rng)
    _check_layers(space, sampled)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(64, *sampled_shape(space, sampled), generator=generator)
    supernet = space.supernet(seed).train()
    for arch in sampled:
        blueprint = space.blueprint(arch)
        _check_module(space, arch, images)
        extracted = supernet.extract(blueprint).train()
        with torch.no_grad():
            apart, together = extracted(images), supernet(images, blueprint)
        assert torch.allclose(apart, together, atol=2e-3, rtol=1e-3), f"{arch}: the extracted network differs"
        _check_integers(extracted, images)
    path = space.blueprint(sampled[0])
    supernet(images, path).square().sum().backward()
    used = [parameter.grad for parameter in supernet.parameters() if parameter.grad is not None]
    assert used, "no gradient reaches the supernet"
    assert all(bool(torch.isfinite(gradient).all()) for gradient in used), "a gradient is not finite"


def check_device(device: str, space: str = "shiftadd", archs: int = 4, seed: int = 0) -> None:
    """A device, under the networks of a space that it has engines for: what a search relies on when it prices them.

    Every network runs somewhere within the budget; its fronts are fronts, and what they say is what the accelerator
    itself is found to cost. archs: how many sampled networks are priced.
    Raises: what preparing a run raises; AssertionError.
    """
    from cosearch.config import RunConfig
    from cosearch.problem import prepare
    from cosearch.progress import Reporter

    problem = prepare(RunConfig.make({"space": space, "device": device, "seed": seed}), Reporter(quiet=True))
    rng = np.random.default_rng(seed)
    sampled = [problem.space.sample(rng) for _ in range(archs)]
    fronts: Sequence[Any] = problem.costs.fronts(sampled)
    if isinstance(problem.costs, JointCosts):  # each network is on one accelerator, which need not run it
        pairs = [(arch, front) for arch, front in zip(sampled, fronts, strict=True) if len(front)]
        assert pairs, f"none of {archs} networks runs on the accelerator that was drawn for it: {fronts[0].reason}"
        sampled, fronts = [arch for arch, _ in pairs], [front for _, front in pairs]
    for arch, front in zip(sampled, fronts, strict=True):
        assert len(front), f"{arch} runs on no accelerator"
        costs = {name: front.metric(name) for name in problem.costs.metrics}
        assert all(np.isfinite(values).all() and (values >= 0).all() for values in costs.values())
        named = np.stack([costs[name] for name in problem.objectives.costs], axis=1)
        assert (named > 0).all(), f"{arch}: a cost is zero"
        no_worse = (named[:, None] <= named[None]).all(-1) & (named[:, None] < named[None]).any(-1)
        assert not no_worse.any(), f"{arch}: its front holds a point that another one beats"
        if isinstance(problem.costs, AcceleratorCosts):
            _check_accelerator(problem.costs, arch, costs)


def _check_accelerator(costs: AcceleratorCosts, arch: dict[str, Any], front: dict[str, Any]) -> None:
    """front: metric -> [points] of one network."""
    budget: Any = costs.tensor.space.budget if costs.tensor.space is not None else None
    for name in costs.resources:
        assert (front[name] <= getattr(budget, name)).all(), f"{arch}: an accelerator needs more {name} than there is"
    best = costs.least_edp_cost(arch)
    product = float(best.metric("latency_ms")[0] * best.metric("energy_mj")[0])
    assert product <= (front["latency_ms"] * front["energy_mj"]).min() * (1 + 1e-9), f"{arch}: the front has less EDP"
    again = costs.on(best.accelerator(0), arch)
    assert again.feasible, f"{arch}: {again.reason}"
    assert abs(again.edp / product - 1) < 1e-9, f"{arch}: its best accelerator costs {again.edp}, said {product} mJ ms"


def sampled_shape(space: Any, archs: list[dict[str, Any]]) -> tuple[int, int, int]:
    """(channels, height, width) of the images that the space was made for."""
    shape: tuple[int, int, int] = space.blueprint(archs[0]).input_shape
    return shape


def _check_decisions(space: Any, archs: list[dict[str, Any]], rng: np.random.Generator) -> None:
    assert isinstance(space.name, str)
    assert isinstance(space.description, str)
    for arch in archs:
        space.check(arch)
        assert space.decode(space.encode(arch)) == arch
        space.check(space.mutate(arch, rng))
        same = space.canonical(arch)
        space.check(same)
        assert space.canonical(same) == same, "the canonical arch of a canonical arch is another"
        layers = [layer.shape_key for layer in space.workload(arch)]
        assert [layer.shape_key for layer in space.workload(same)] == layers, f"{arch}: its canonical arch costs more"
    for operator in filter(space.offers, space.operators):
        part = space.restricted(operator)
        space.check(part.sample(rng))


def _check_layers(space: Any, archs: list[dict[str, Any]]) -> None:
    table = space.layer_table()
    assert len({layer.shape_key for layer in table}) == len(table), "the layer table names a shape twice"
    counted = space.counts(archs, table)
    expected = [count_layers(space.workload(arch), table) for arch in archs]
    np.testing.assert_array_equal(counted, expected)


def _check_module(space: Any, arch: dict[str, Any], images: Any) -> None:
    import torch

    network = space.build(arch, 0).eval()
    with torch.no_grad():
        logits = network(images)
    assert logits.shape == (len(images), space.workload(arch).layers[-1].K)
    assert bool(torch.isfinite(logits).all()), f"{arch}: logits are not finite"
    again = space.build(arch, 0).eval()
    with torch.no_grad():
        assert torch.equal(again(images), logits), f"{arch}: the seed does not decide the weights"
    held = sum(parameter.numel() for unit in network.units() for parameter in unit.weights)
    held += network.classifier.weight.numel()
    assert held == space.workload(arch).weight_count, f"{arch}: {held} weights, its workload has another number"


def _check_integers(network: Any, images: Any) -> None:
    import torch

    from cosearch.integer import from_tensors, to_integer, to_tensors
    from cosearch.supernet.blocks import calibrate, set_simulation

    calibrate(network, images)
    integer = to_integer(network, images)
    logits = integer(images)
    assert torch.equal(from_tensors(*to_tensors(integer))(images), logits), "the integer network changes when saved"
    set_simulation(network, True)
    with torch.no_grad():
        simulated = network(images).double()
    if float(simulated.std()) > 0 and float(logits.double().std()) > 0:
        both = torch.stack([simulated.flatten(), logits.double().flatten()])
        # rounding is a large part of what networks without training compute: unrelated networks are near 0
        assert float(torch.corrcoef(both)[0, 1]) > 0.4, "the 8-bit simulation does not follow the integers"
