"""The supernet as a source of accuracies: many at once, in either precision, and the slopes of a network's gates."""

import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cosearch.accuracy import GRADIENT_IMAGES, SupernetAccuracy
from cosearch.data import load_dataset
from cosearch.supernet.recipes import gated_steps
from tests import tiny_space
from tests.supernet import awake


@pytest.fixture(scope="module")
def source():
    space = tiny_space.space()
    return SupernetAccuracy(space, awake(space.supernet(0)), load_dataset("digits", None, 0))


def test_slopes_of_gates_are_finite_differences_of_the_loss(source):
    space = source.space
    # no additions: their backward pass is AdderNet's, which is no derivative
    arch = {"layer1": "conv_k3_e1", "layer2": "shift_k3_e1", "layer3": "conv_k5_e6"}
    loss, slopes = source.gradient(arch)
    assert set(slopes) == set(arch)
    blueprint = space.blueprint(arch)
    spread = np.linspace(0, source.images - 1, GRADIENT_IMAGES).astype(int)

    def at(decision: str, gate: float) -> float:
        steps = {s: torch.tensor(gate) for s, d in gated_steps(blueprint, list(arch)).items() if d == decision}
        with torch.no_grad():
            logits = source.supernet(source._images[spread], blueprint, gates=steps)
            return float(F.cross_entropy(logits, source._labels[spread]))

    for decision, slope in slopes.items():
        assert at(decision, 1.0) == pytest.approx(loss, abs=1e-6)
        assert slope == pytest.approx((at(decision, 1.02) - at(decision, 0.98)) / 0.04, abs=5e-3)


def test_a_place_that_is_skipped_has_no_gate_and_weights_get_no_gradient(source):
    arch = {"layer1": "conv_k3_e1", "layer2": "conv_k3_e1", "layer3": "skip"}
    assert set(source.gradient(arch)[1]) == {"layer1", "layer2"}
    assert all(parameter.grad is None for parameter in source.supernet.parameters())
    assert source.gradient(arch) == source.gradient(arch)


def test_a_gradient_by_gates_computes_none_by_weights(source, monkeypatch):
    from cosearch.operators import depthwise

    monkeypatch.setattr(depthwise, "weight_gradient", lambda *_: pytest.fail("a gradient by weights"))
    loss, _ = source.gradient(dict.fromkeys(source.space.choices, "conv_k5_e6"))
    assert loss > 0
    assert all(parameter.requires_grad for parameter in source.supernet.parameters())


def test_a_source_travels_without_what_it_remembers(source):
    archs = [source.space.sample(np.random.default_rng(i)) for i in range(3)]
    fresh = SupernetAccuracy(source.space, source.supernet, source.dataset)
    size = len(pickle.dumps(fresh))
    found = [fresh(arch) for arch in archs]
    moved = pickle.dumps(fresh)
    assert len(moved) < size + 10_000
    other = pickle.loads(moved)
    other._known.clear()
    assert [other(arch) for arch in archs] == found


def test_a_network_is_evaluated_once_and_as_the_supernet_evaluates_it(source, monkeypatch):
    from cosearch.supernet import evaluation

    evaluated, evaluate = [], evaluation.evaluate
    monkeypatch.setattr(
        evaluation, "evaluate", lambda *given, **how: evaluated.append(given[1]) or evaluate(*given, **how)
    )
    arch = source.space.sample(np.random.default_rng(7))
    first, again = source(arch), source(dict(reversed(arch.items())))
    assert first == again
    assert evaluated == [[source.space.blueprint(arch)]]
    data = source.dataset
    calibration = data.train.x[np.linspace(0, len(data.train) - 1, 256).astype(int)]
    tensors = [torch.from_numpy(part) for part in (calibration, data.validation.x, data.validation.y)]
    assert [first] == evaluate(source.supernet, [source.space.blueprint(arch)], *tensors)


def test_many_networks_have_the_accuracies_of_each_and_are_evaluated_once(source, monkeypatch):
    from cosearch.supernet import evaluation

    calls = []
    evaluate = evaluation.evaluate
    monkeypatch.setattr(evaluation, "evaluate", lambda *of, **how: calls.append(len(of[1])) or evaluate(*of, **how))
    archs = [source.space.sample(np.random.default_rng(i)) for i in range(4)]
    fresh = SupernetAccuracy(source.space, source.supernet, source.dataset)
    together = fresh.many([*archs, archs[0]])
    assert calls == [4]
    assert fresh.many(archs) == together[:4]
    assert [source(arch) for arch in [*archs, archs[0]]] == together
    assert calls == [4, 1, 1, 1, 1]
    assert fresh.many([]) == []


def test_precision_reaches_the_arithmetic(source, monkeypatch):
    from cosearch.supernet.blocks import Network

    seen = []
    compute = Network.compute
    monkeypatch.setattr(
        Network, "compute", lambda self, step, values: seen.append((y := compute(self, step, values)).dtype) or y
    )
    arch = {"layer1": "conv_k3_e1", "layer2": "shift_k3_e1", "layer3": "conv_k5_e6"}
    half = SupernetAccuracy(source.space, source.supernet, source.dataset, precision="bf16")
    assert 0 <= half(arch) <= 1
    assert set(seen) == {torch.bfloat16}
    seen.clear()
    half.to("cpu")(arch)
    assert set(seen) == {torch.bfloat16}
    seen.clear()
    source(arch)
    assert set(seen) <= {torch.float32}
    assert seen
