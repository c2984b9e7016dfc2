"""Layers on two engines at once, against every cut, share and pair priced one by one on divided accelerators."""

import dataclasses
import itertools
import json
import math
from functools import partial

import numpy as np
import pytest

from cosearch.errors import ConfigError
from cosearch.hardware import Accelerator, best, cost_tensor, layer_report
from cosearch.hardware.nest import weighted
from cosearch.hardware.pricing import Residency
from cosearch.hardware.split import NAME, channels, cuts, partition
from cosearch.workload import Layer, Workload
from search_spaces.accelerators import find, split

CHOICES = {
    "rows": (2, 4),
    "cols": (4, 8),
    "dataflow": ("weight-stationary",),
    "windowed": (False,),
    "fabric": ("hard", "logic"),
    "accumulator_depth": (512,),
    "weight_kib": (36,),
    "activation_kib": (36,),
    "port_bits": (128, 512),
    "clock_mhz": (75.0,),
    "lanes": (8,),
}
NETWORK = Workload(
    "small",
    (
        Layer("conv", K=24, C=16, P=8, Q=8, R=3, S=3, weight_bits=2, input_bits=3),
        Layer("depthwise", K=16, C=16, P=8, Q=8, R=3, S=3, groups=16, weight_bits=2, input_bits=2),
        Layer("classifier", "bitserial", K=20, C=64, weight_bits=3, input_bits=2),
        Layer("pool", "pool", K=16, C=16, R=4, S=4, groups=16),
    ),
)
MACS = NETWORK.layers[:3]


@pytest.fixture(scope="module")
def space():
    return split.space("ecp5-85f-split", choices=CHOICES)


@pytest.fixture(scope="module")
def tensor(space):
    return cost_tensor(NETWORK.layers, space, cache=False)


def ways(layer, accelerator, shares):
    """Every way to run a layer: [(parts with the share of the memories that each has)]."""
    have = {engine.name for engine in accelerator.engines}
    if "mac" in have:
        yield [(dataclasses.replace(layer, kind="mac"), 1.0)]
    if "bitserial" in have:
        yield [(dataclasses.replace(layer, kind="bitserial"), 1.0)]
    if len(have) == 2:
        for k, share in itertools.product(cuts(layer)[1:-1], shares):
            yield [(channels(layer, layer.K - k, "mac"), share), (channels(layer, k, "bitserial"), 1 - share)]


def brute(layer, accelerator, policy, residency, shares=split.SHARES):
    """latency_ms and energy_mj of the best way, by the search on one engine with its share of the memories."""
    found = []
    for parts in ways(layer, accelerator, shares):
        costs = [best(part, partition(accelerator, s), partial(weighted, policy), residency)[1] for part, s in parts]
        slowest = max(cost.latency_ms for cost in costs)
        dynamic = sum(sum(cost.energy_pj.values()) - cost.energy_pj["static"] for cost in costs)
        found.append((slowest, dynamic * 1e-9 + slowest * accelerator.static_power_w))
    return min(found, key=lambda cost: policy * cost[0] + (1 - policy) * cost[1])


def test_cuts_are_whole_granules():
    assert cuts(Layer("x", K=20)) == [0, 8, 16, 20]
    assert cuts(Layer("x", K=512)) == list(range(0, 513, 32))
    assert cuts(Layer("x", K=24, C=24, groups=24)) == [0, 8, 16, 24]
    assert cuts(Layer("x", K=60, C=12, groups=6)) == [0, 10, 20, 30, 40, 50, 60]
    part = channels(Layer("x", K=60, C=12, groups=6), 20, "bitserial")
    assert (part.K, part.C, part.groups, part.kind) == (20, 4, 2, "bitserial")


@pytest.mark.parametrize("policy", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("case", [0, 3])
def test_every_layer_and_pair_equals_brute_force(space, tensor, policy, case):
    residency = Residency(weights=case == 3, activations=case == 3)
    for at, layer in enumerate(MACS):
        ms, mj = (part[NAME][case][at][:, tensor.policies.index(policy)] for part in (tensor.latency, tensor.energy))
        for pair in np.flatnonzero(np.isfinite(ms[0]))[::3]:
            for column, shared in enumerate(tensor.tables[case].shared[:1]):
                expected = brute(layer, space.accelerator(int(shared), {NAME: int(pair)}), policy, residency)
                score = policy * ms[column, pair] + (1 - policy) * mj[column, pair]
                assert score == pytest.approx(policy * expected[0] + (1 - policy) * expected[1], rel=1e-9)


def test_the_front_loses_nothing_by_the_pareto_set(space, tensor):
    """Least latency of the network over all pairs within the budget, dominated ones included."""
    counts, live = tensor.counts_of(NETWORK), NETWORK.live_activation_bytes
    front = tensor.hardware_front(counts, live)
    priced = np.isfinite(tensor.latency[NAME][0]).any(axis=(0, 1, 2))
    assert 0 < priced.sum() < len(priced)  # some pairs are dominated
    least = math.inf
    for shared, pair in itertools.product(range(len(space.shared)), range(len(space.pairs))):
        accelerator = space.accelerator(shared, {NAME: pair})
        if not accelerator.resources.fits(space.budget):
            continue
        pool = tensor.latency["vector"][3][0, tensor.tables[3].of_shared[shared], 0, 0]
        total = sum(brute(layer, accelerator, 1.0, Residency(weights=True, activations=True))[0] for layer in MACS)
        least = min(least, total + pool)
    assert front.latency_ms.min() == pytest.approx(least)
    alone = np.minimum(space.pairs.left, space.pairs.right) < 0
    totals = tensor.latency[NAME][3].sum(axis=0)
    assert totals[..., ~alone].min() < totals[..., alone].min()  # two engines are faster than either


def test_one_accelerator_its_report_and_its_mappings(space, tensor):
    counts, live = tensor.counts_of(NETWORK), NETWORK.live_activation_bytes
    front = tensor.hardware_front(counts, live)
    accelerator = Accelerator.from_json(json.loads(json.dumps(front.accelerator(0).to_json())))
    assert accelerator == front.accelerator(0)
    assert accelerator.resources.counts == tuple(front.resources[0])
    cost = tensor.evaluate_on(accelerator, counts, live, "latency_ms")
    assert cost.latency_ms == pytest.approx(front.latency_ms[0])
    rows = layer_report(NETWORK, accelerator, "latency_ms")
    assert sum(row.latency_ms for row in rows) == pytest.approx(cost.latency_ms)
    assert sum(row.energy_mj for row in rows) == pytest.approx(cost.energy_mj)
    assert any(len(row.parts) == 2 for row in rows)
    for row in rows:
        assert sum(row.energy_pj.values()) * 1e-9 == pytest.approx(row.energy_mj)
        assert row.roofline_ms <= row.latency_ms * (1 + 1e-9)
        assert row.compulsory_mj <= row.energy_mj * (1 + 1e-9)
        assert 0 < row.utilisation <= 1 + 1e-9
        if row.parts:
            assert sum(part.K for part, _ in row.parts) == row.layer.K
            assert row.engine == " + ".join(f"{part.kind} {part.K}" for part, _ in row.parts)
    parts = front.mappings(0)
    assert sum(part.macs for part, _ in parts) == sum(layer.macs for layer in NETWORK)


@pytest.mark.parametrize("engine", ["mac", "bitserial"])
def test_one_of_the_two_engines_alone(space, tensor, engine):
    """Either runs all layers whole, whatever their kind."""
    counts, live = tensor.counts_of(NETWORK), NETWORK.live_activation_bytes
    having = space.pairs.left if engine == "mac" else space.pairs.right
    alone = np.flatnonzero((np.minimum(space.pairs.left, space.pairs.right) < 0) & (having >= 0))
    accelerator = space.accelerator(0, {NAME: int(alone[0])})
    assert [e.name for e in accelerator.engines] == [engine]
    rows = layer_report(NETWORK, accelerator, "latency_ms")
    assert [row.engine for row in rows] == [engine] * 3 + ["vector"]
    cost = tensor.evaluate_on(accelerator, counts, live, "latency_ms")
    assert sum(row.latency_ms for row in rows) == pytest.approx(cost.latency_ms)


@pytest.mark.parametrize(("weight_bits", "input_bits"), [(9, 8), (8, 16)])
def test_a_layer_too_wide_for_bits_one_by_one_runs_on_the_other_engine(space, weight_bits, input_bits):
    """And nowhere where only the bit-serial engine is there, which says why."""
    wide = Layer("wide", K=24, C=16, P=8, Q=8, weight_bits=weight_bits, input_bits=input_bits)
    tensor = cost_tensor((wide,), space, cache=False)
    pairs = space.pairs
    finite = np.isfinite(tensor.latency[NAME][0][0, 0, 0])
    assert finite.any()
    assert not finite[pairs.left < 0].any()
    for pair in np.flatnonzero(finite):
        accelerator = space.accelerator(0, {NAME: int(pair)})
        [row] = layer_report(Workload("one", (wide,)), accelerator, "latency_ms")
        assert row.engine == "mac"
        assert row.latency_ms == pytest.approx(tensor.latency[NAME][0][0, 0, 0, pair])
    alone = int(np.flatnonzero((pairs.left < 0) & (pairs.right >= 0))[0])
    cost = tensor.evaluate_on(space.accelerator(0, {NAME: alone}), [1], 0.0)
    assert not cost.feasible


def test_a_pipeline_of_split_layers_is_an_upper_bound_and_says_so(tensor):
    counts, live = tensor.counts_of(NETWORK), NETWORK.live_activation_bytes
    assert tensor.hardware_front(counts, live, pipelined=True).interval_is_bound
    assert not tensor.hardware_front(counts, live).interval_is_bound


def test_devices_by_name():
    space = find("pynq-z1-split")
    assert space.name == "pynq-z1-split"
    assert space.kinds == (NAME,)
    assert split.space("pynq-z1", kinds=("shift",)).kinds == (NAME, "shift")
    assert space.describe()["shares"] == [0.5, 0.75]
    with pytest.raises(ConfigError, match="between 0 and 1"):
        split.space("pynq-z1", shares=(1.0,))
