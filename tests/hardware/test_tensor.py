import itertools
import json
import math
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from cosearch.errors import ConfigError, HardwareError, InfeasibleError
from cosearch.hardware import (
    Resources,
    accelerator_tensor,
    best,
    combine,
    cost_tensor,
    evaluate,
    grid,
    joint_front,
    layer_report,
    load_device,
)
from cosearch.hardware.nest import weighted
from cosearch.hardware.pricing import RESIDENCIES
from cosearch.hardware.tensor import CostTensor
from cosearch.workload import Layer, distinct_layers
from search_spaces.accelerators import find, fpga


def brute_front(tensor, space, counts, live, fixed=None):
    """Every accelerator of a space within the budget, priced one by one through `evaluate_on`'s plain sums."""
    points = []
    kinds = [kind for kind in tensor.kinds if counts[tensor.rows[kind]].any()]
    weight_bits = tensor.weight_bits(counts)
    for shared in range(len(space.shared)):
        resident = weight_bits <= space.shared.weight_bits[shared], 8 * live <= space.shared.activation_bits[shared]
        cases = [c for c in range(4) if (not c & 2 or resident[0]) and (not c & 1 or resident[1])]
        for engines in itertools.product(*(range(len(tensor.engines[kind])) for kind in kinds)):
            use = space.shared.resources[shared] + sum(
                tensor.engines[k].resources[e] for k, e in zip(kinds, engines, strict=True)
            )
            if (use > np.array(space.budget.counts)).any():
                continue
            for case in cases:
                column = tensor.tables[case].of_shared[shared]
                rows = tensor.vector_rows
                base = [
                    sum(counts[i] * part["vector"][case][at, column, 0, 0] for at, i in enumerate(rows))
                    for part in (tensor.latency, tensor.energy)
                ]
                for policies in itertools.product(range(len(tensor.policies)), repeat=len(kinds)):
                    total = list(base)
                    for kind, engine, policy in zip(kinds, engines, policies, strict=True):
                        for at, i in enumerate(tensor.rows[kind]):
                            if counts[i]:
                                total[0] += counts[i] * tensor.latency[kind][case][at, column, policy, engine]
                                total[1] += counts[i] * tensor.energy[kind][case][at, column, policy, engine]
                    points.append(total)
    return pareto(np.array(points))


def pareto(points):
    points = points[np.isfinite(points).all(axis=1)]
    points = points[np.lexsort((points[:, 1], points[:, 0]))]
    best = np.minimum.accumulate(points[:, 1])
    keep = np.r_[True, points[1:, 1] < best[:-1]]
    return points[keep]


def counts_of(network, layers):
    position = {layer.shape_key: i for i, layer in enumerate(layers)}
    row = np.zeros(len(layers), int)
    for layer in network:
        row[position[layer.shape_key]] += 1
    return row


@pytest.mark.parametrize(("live", "port_bits"), [(200.0, 64), (1e4, 64), (1e9, 64), (1e4, 128)])
def test_the_front_equals_brute_force(small_space, network, live, port_bits):
    """A port of 128 bits feeds two numbers of lanes."""
    fewer = {"cols": (4,), "fabric": ("logic",), "clock_mhz": (100.0,), "port_bits": (port_bits,), "lanes": (8, 16)}
    space = fpga.space("ecp5-25f", choices={**small_space.choices, **fewer})
    assert len(set(space.shared.lanes.tolist())) == port_bits // 64
    layers = distinct_layers([network])
    tensor = cost_tensor(layers, space, cache=False)
    counts = counts_of(network, layers)
    front = tensor.hardware_front(counts, live)
    expected = brute_front(tensor, space, counts, live)
    np.testing.assert_allclose(np.stack([front.latency_ms, front.energy_mj], 1), expected, rtol=1e-9)


def test_the_budget_is_never_exceeded_and_points_evaluate_to_themselves(small_space, network):
    layers = distinct_layers([network])
    tensor = cost_tensor(layers, small_space, cache=False)
    counts = counts_of(network, layers)
    front = tensor.hardware_front(counts, network.live_activation_bytes, ("latency_ms", "energy_mj", "lut", "bram"))
    assert len(front) > 3
    for i in range(len(front)):
        accelerator = front.accelerator(i)
        assert accelerator.resources.fits(small_space.budget)
        assert accelerator.resources.counts == tuple(front.resources[i])
        cost = tensor.evaluate_on(accelerator, counts, network.live_activation_bytes, "latency_ms")
        assert cost.latency_ms <= front.latency_ms[i] * (1 + 1e-12)
        cost = tensor.evaluate_on(accelerator, counts, network.live_activation_bytes, "energy_mj")
        assert cost.energy_mj <= front.energy_mj[i] * (1 + 1e-12)


def test_objectives_with_resources_keep_what_two_objectives_find(small_space, network):
    layers = distinct_layers([network])
    tensor = cost_tensor(layers, small_space, cache=False)
    counts = counts_of(network, layers)
    two = tensor.hardware_front(counts, network.live_activation_bytes)
    four = tensor.hardware_front(counts, network.live_activation_bytes, ("latency_ms", "energy_mj", "lut", "dsp"))
    assert four.latency_ms.min() == pytest.approx(two.latency_ms.min())
    assert four.energy_mj.min() == pytest.approx(two.energy_mj.min())
    assert four.lut.min() < two.lut.min()


@pytest.mark.parametrize(("live", "most"), [(200.0, 2), (1e4, 3), (1e9, 2)])
def test_no_problem_costs_less_than_its_bound_and_few_are_built(small_space, network, monkeypatch, live, most):
    """Of 4 or 8; by what everything resident costs alone, 2, 4 and 4 would be."""
    layers = distinct_layers([network])
    tensor = cost_tensor(layers, small_space, cache=False)
    looked_at = []

    def solve(candidates, *more):
        looked_at.append(list(candidates))
        return combine.solve(candidates, *more)

    monkeypatch.setattr("cosearch.hardware.tensor.solve", solve)
    front = tensor.hardware_front(counts_of(network, layers), live)
    [candidates] = looked_at
    built = 0
    for candidate in candidates:
        latency, energy = candidate.bound
        problem = candidate.build()
        if problem is not None:
            assert latency <= problem.least[0] * (1 + 1e-12)
            assert energy <= problem.least[1] * (1 + 1e-12)
        beaten = (front.latency_ms < latency * (1 - 1e-9)) & (front.energy_mj < energy * (1 - 1e-9))
        built += not beaten.any()
    assert 0 < built <= most


def test_a_network_without_a_kind_pays_no_engine_for_it(small_space):
    layers = (Layer("a", K=8, C=8, P=4, Q=4), Layer("b", "shift", K=8, C=8, P=4, Q=4, weight_bits=5))
    tensor = cost_tensor(layers, small_space, cache=False)
    front = tensor.hardware_front([0, 3], 1e3)
    accelerator = front.accelerator(0)
    assert [engine.name for engine in accelerator.engines] == ["shift"]
    assert front.dsp[0] == small_space.shared_resources(4.5, 4.5, 64, 8).dsp


def test_evaluate_on_an_accelerator_that_lacks_a_kind_says_so(small_space):
    layers = (Layer("a", K=8, C=8, P=4, Q=4), Layer("b", "shift", K=8, C=8, P=4, Q=4, weight_bits=5))
    tensor = cost_tensor(layers, small_space, cache=False)
    cost = tensor.evaluate_on(small_space.accelerator(0, {"shift": 0}), [1, 1], 1e3)
    assert not cost.feasible
    assert "'mac'" in cost.reason
    assert math.isinf(cost.latency_ms)


def test_the_cache_gives_the_same_tensor(small_space, network, tmp_path):
    layers = distinct_layers([network])
    first = cost_tensor(layers, small_space)
    assert any((tmp_path / "cache" / "tensors").iterdir())
    second = cost_tensor(layers, small_space)
    for kind in (*first.kinds, "vector"):
        for case in range(4):
            np.testing.assert_array_equal(first.latency[kind][case], second.latency[kind][case])
            np.testing.assert_array_equal(first.energy[kind][case], second.energy[kind][case])
    counts = counts_of(network, layers)
    np.testing.assert_array_equal(
        first.hardware_front(counts, 1e3).latency_ms, second.hardware_front(counts, 1e3).latency_ms
    )


def test_a_damaged_cache_is_rebuilt(small_space, network, tmp_path):
    layers = distinct_layers([network])
    first = cost_tensor(layers, small_space)
    for path in (tmp_path / "cache" / "tensors").rglob("latency-mac-0.npy"):
        path.write_bytes(b"nonsense")
    second = cost_tensor(layers, small_space)
    np.testing.assert_array_equal(first.latency["mac"][0], second.latency["mac"][0])


def test_residency_never_costs_more(small_space, network):
    tensor = cost_tensor(distinct_layers([network]), small_space, cache=False)
    for part in (tensor.latency, tensor.energy):
        for kind in tensor.kinds:
            none, both = part[kind][0], part[kind][3]
            at = tensor.tables[3].of_shared[tensor.tables[0].shared]
            assert (both[:, at] <= none * (1 + 1e-12)).all()


def test_constraints_filter_and_an_impossible_one_says_what_can_be_reached(small_space, network):
    layers = distinct_layers([network])
    tensor = cost_tensor(layers, small_space, cache=False)
    counts = counts_of(network, layers)
    free = tensor.best_accelerator(counts, "latency_ms", None, network.live_activation_bytes)
    tight = tensor.best_accelerator(
        counts, "energy_mj", {"max_latency_ms": float(free.latency_ms[0]) * 1.0001}, network.live_activation_bytes
    )
    assert tight.latency_ms[0] <= free.latency_ms[0] * 1.0001
    with pytest.raises(InfeasibleError, match="best that can be reached: latency_ms"):
        tensor.best_accelerator(counts, "energy_mj", {"max_latency_ms": 1e-9}, network.live_activation_bytes)
    with pytest.raises(InfeasibleError, match=r"constraints; the best that can be reached: lut \d+$"):
        tensor.best_accelerator(counts, "energy_mj", {"max_lut": 10}, network.live_activation_bytes)
    few = tensor.best_accelerator(counts, "latency_ms", {"max_lut": 12000}, network.live_activation_bytes)
    assert few.lut[0] <= 12000
    with pytest.raises(ConfigError, match="did you mean 'max_latency_ms'"):
        tensor.hardware_front(counts, 1.0, constraints={"max_latency": 1.0})
    with pytest.raises(ConfigError, match="area"):
        tensor.hardware_front(counts, 1.0, constraints={"max_area_mm2": 1.0})
    with pytest.raises(ConfigError, match="max_latency_ms='1 ms', expected a number above 0"):
        tensor.hardware_front(counts, 1.0, constraints={"max_latency_ms": "1 ms"})
    with pytest.raises(HardwareError, match="counts of shape"):
        tensor.hardware_front(np.full(len(counts), np.nan), 1.0)
    with pytest.raises(ConfigError, match="unknown hardware objective 'power'"):
        layer_report(network, free.accelerator(0), "power")


@pytest.mark.parametrize("objectives", [("latency_ms", "energy_mj"), ("latency_ms", "energy_mj", "lut", "dsp")])
@pytest.mark.parametrize("pipelined", [False, True])
def test_a_front_within_limits_is_the_part_of_the_whole_one_that_meets_them(
    small_space, network, objectives, pipelined, monkeypatch
):
    """Also where a limit is a point's own latency or energy; and no problem is built whose bound breaks a limit."""
    layers = distinct_layers([network])
    tensor = cost_tensor(layers, small_space, cache=False)
    asked = (counts_of(network, layers), network.live_activation_bytes, objectives)
    whole = tensor.hardware_front(*asked, pipelined=pipelined)
    assert len(whole) > (3 if "lut" in objectives else 0)
    for at in range(0, len(whole), 1 + len(whole) // 6):
        for name in ("latency_ms", "energy_mj"):
            other = "energy_mj" if name == "latency_ms" else "latency_ms"
            for limits in (
                {name: whole.metric(name)[at]},
                {name: whole.metric(name)[at] * (1 - 1e-6)},
                {name: whole.metric(name)[at], other: np.median(whole.metric(other))},
            ):
                expected = np.all([whole.metric(metric) <= limit for metric, limit in limits.items()], axis=0)
                found = tensor.hardware_front(
                    *asked, constraints={f"max_{metric}": float(x) for metric, x in limits.items()}, pipelined=pipelined
                )
                for metric in objectives:
                    np.testing.assert_array_equal(found.metric(metric), whole.metric(metric)[expected])
                assert ("within the budget meets max_" in found.reason) == (not expected.any())
                if not pipelined:
                    assert tensor.runs_within(*asked[:2], {f"max_{m}": float(x) for m, x in limits.items()}) == bool(
                        expected.any()
                    )
    monkeypatch.setattr(CostTensor, "_problem", lambda *more: pytest.fail("built, though its bound breaks the limit"))
    if not pipelined:
        below = {"max_latency_ms": whole.latency_ms.min() / 100}
        assert not len(tensor.hardware_front(*asked, constraints=below))
        assert not tensor.runs_within(*asked[:2], below)


@pytest.mark.parametrize("metric", ["latency_ms", "energy_mj", "edp", "lut", "dsp", "bram"])
def test_a_network_runs_within_limits_where_its_front_has_a_point(small_space, network, metric):
    """Each metric's least value, what is just below it, and with the least another one leaves; host traffic counts."""
    layers = distinct_layers([network])
    tensor = cost_tensor(layers, small_space, cache=False)
    asked = {"counts_row": counts_of(network, layers), "live_activation_bytes": 1e4, "host_bytes": 5e3}
    least = float(tensor.hardware_front(**asked, objectives=("latency_ms", metric)).metric(metric).min())
    fastest = float(tensor.hardware_front(**asked).latency_ms.min())
    found = []
    for share in (0.5, 0.999, 1.0, 1.3, 3.0):
        for others in ({}, {"max_latency_ms": fastest}, {"max_latency_ms": 1.5 * fastest}):
            limits = {f"max_{metric}": share * least, **others}
            found.append(tensor.runs_within(**asked, constraints=limits))
            assert found[-1] == bool(len(tensor.hardware_front(**asked, constraints=limits)))
    assert set(found) == {False, True}


def test_least_sums_are_below_those_of_every_engine_and_policy_and_close(small_space, network):
    layers = distinct_layers([network])
    tensor = cost_tensor(layers, small_space, cache=False)
    counts = counts_of(network, layers)
    for case in range(len(RESIDENCIES)):
        exact = np.zeros((2, len(tensor.tables[case].shared)))
        for kind in (*tensor.kinds, "vector"):
            rows = tensor.vector_rows if kind == "vector" else tensor.rows[kind]
            for side, costs in enumerate((tensor.latency, tensor.energy)):
                least = costs[kind][case].min(axis=2)  # over the policies, of each layer
                exact[side] += np.einsum("l,lce->ce", counts[rows], least).min(axis=1)
        found = tensor._least_sums(case, counts)
        assert (found <= exact * (1 + 1e-12)).all()
        np.testing.assert_allclose(found, exact, rtol=1e-6)


def test_costs_add_over_layers(small_space, network):
    layers = distinct_layers([network])
    tensor = cost_tensor(layers, small_space, cache=False)
    accelerator = tensor.hardware_front(counts_of(network, layers), 1e3).accelerator(0)
    whole = tensor.evaluate_on(accelerator, 2 * counts_of(network, layers), 1e3, "latency_ms")
    parts = [
        tensor.evaluate_on(accelerator, 2 * row, 1e3, "latency_ms").latency_ms for row in np.eye(len(layers), dtype=int)
    ]
    assert whole.latency_ms == pytest.approx(sum(parts))


@pytest.mark.parametrize("device", ["ecp5-25f", "gemmini", "pim"])
def test_a_kind_without_engine_is_infeasible_everywhere_and_says_so(device, small_space):
    """One layer that no accelerator runs stops neither its sweep nor other networks."""
    space = small_space if device == "ecp5-25f" else find(device)
    layers = (Layer("fine", K=8, C=8, P=4, Q=4), Layer("odd", "bitserial", K=8))
    tensor = cost_tensor(layers, space, cache=False)
    reason = f"layer 'odd': {space.name} has no engine for 'bitserial' layers, only for .*mac"
    assert re.match(reason, tensor.hardware_front([1, 1], 1e3).reason)
    assert len(tensor.hardware_front([1, 0], 1e3)) > 0
    assert [len(front) > 0 for front in tensor.hardware_fronts([[1, 1], [1, 0]], [1e3, 1e3])] == [False, True]
    with pytest.raises(InfeasibleError, match=reason):
        tensor.best_accelerator([0, 1], "latency_ms")
    accelerator = tensor.best_accelerator([1, 0], "latency_ms").accelerator(0)
    cost = tensor.evaluate_on(accelerator, [1, 1], 1e3)
    assert not cost.feasible
    assert "no engine for 'bitserial' layers" in cost.reason
    front = joint_front(tensor, [[1, 1], [1, 0]], [0.1, 0.2], [1e3, 1e3])
    assert set(front.network) == {1}
    if len(space.kinds) == 1:
        dense = grid(tensor)
        assert np.isinf(dense.networks([[1, 1]])[0]).all()
        index, value = dense.best([[0, 1], [1, 0]])
        assert index[0] == -1
        assert np.isinf(value[0])
        assert index[1] >= 0
        assert set(dense.front([[1, 1], [1, 0]]).network) == {1}


def test_a_part_too_small_for_any_accelerator_says_so():
    part = load_device("ecp5-25f")
    space = fpga.space(replace(part, name="tiny", budget=Resources(lut=900, ff=1000, dsp=1, bram=1)))
    assert len(space) == 0
    tensor = cost_tensor((Layer("x", K=8, C=8),), space, cache=False)
    reason = "the budget of tiny is too small for any accelerator, even for its smallest memories"
    assert tensor.hardware_front([1], 0.0).reason == reason
    with pytest.raises(InfeasibleError, match=reason):
        tensor.best_accelerator([1])


def test_bad_counts_are_refused(small_space):
    tensor = cost_tensor((Layer("x"),), small_space, cache=False)
    with pytest.raises(HardwareError, match="expected 1 numbers"):
        tensor.hardware_front([1, 2], 0.0)


@pytest.mark.parametrize(
    ("live", "host"), [(math.nan, 0.0), (-1.0, 0.0), (1.0, math.nan), (1.0, -8.0), (1.0, math.inf)]
)
def test_bytes_that_cannot_be_are_refused(small_space, live, host):
    tensor = cost_tensor((Layer("x"),), small_space, cache=False)
    with pytest.raises(HardwareError, match="expected bytes, 0 or more"):
        tensor.hardware_front([1], live, host_bytes=host)


def test_a_layer_that_fits_nowhere_is_infeasible_not_an_error(small_space):
    big = Layer("huge kernel", K=8, C=8, R=400, S=400)
    tensor = cost_tensor((big, Layer("fine")), small_space, cache=False)
    front = tensor.hardware_front([1, 1], 1e9)
    assert len(front) == 0
    assert front.reason.startswith("layer 'huge kernel' fits no mapping: in ecp5-")
    assert "level 'weight_buffer' needs at least 160000 bytes per instance, has " in front.reason
    assert len(tensor.hardware_front([0, 1], 1.0)) > 0


def test_batched_fronts_equal_single_ones(small_space, network):
    layers = distinct_layers([network])
    tensor = cost_tensor(layers, small_space, cache=False)
    counts = np.stack([counts_of(network, layers), np.ones(len(layers), int)])
    for front, row, live in zip(tensor.hardware_fronts(counts, [1e3, 1e4]), counts, [1e3, 1e4], strict=True):
        np.testing.assert_array_equal(front.latency_ms, tensor.hardware_front(row, live).latency_ms)


def test_a_tensor_answers_each_network_as_a_fresh_one_does(small_space, network):
    """Whatever it was asked before: networks whose weights and activations fit some of the buffers, none, or all."""
    layers = distinct_layers([network])
    tensor = cost_tensor(layers, small_space)
    counts, resident = counts_of(network, layers), set()
    for times, live in itertools.product((1, 20, 100), (1e3, 1e4, 1e9)):
        front = tensor.hardware_front(times * counts, live)
        fresh = cost_tensor(layers, small_space).hardware_front(times * counts, live)
        assert len(front)
        resident.update(front.residency.tolist())
        for name in ("latency_ms", "energy_mj", "shared", "engines", "residency"):
            np.testing.assert_array_equal(getattr(front, name), getattr(fresh, name))
    assert len(resident) > 2


def memory_time(layer, accelerator, mapping, residency):
    """ms that a layer needs the shared levels and lanes: what it takes where those are a million times slower."""
    slow = [
        replace(x, read_bits_per_cycle=x.read_bits_per_cycle * 1e-6, write_bits_per_cycle=x.write_bits_per_cycle * 1e-6)
        for x in accelerator.levels
    ]
    cost = evaluate(layer, replace(accelerator, levels=tuple(slow)), mapping, residency.tensors)
    assert cost.bound in [level.name for level in slow]
    return max(cost.latency_ms * 1e-6, math.ceil(layer.output_count / accelerator.lanes) / accelerator.clock_mhz / 1e3)


def brute_pipelines(tensor, space, counts, live, host):
    """(interval, energy) of every accelerator within the budget, of every tuple of policies and residency."""
    kinds = [kind for kind in tensor.kinds if counts[tensor.rows[kind]].any()]
    dram = space.prices.dram_pj_per_bit + space.prices.buffer_pj_per_bit
    static = space.prices.static_power_w
    images = len(kinds) + 1
    points = []
    for shared, case in itertools.product(range(len(space.shared)), range(4)):
        if case & 2 and tensor.weight_bits(counts) > space.shared.weight_bits[shared]:
            continue
        if case & 1 and 8 * live * images > space.shared.activation_bits[shared]:
            continue
        column = tensor.tables[case].of_shared[shared]
        alone = host * 8e3 / space.shared.dram_bits[shared]
        alone_mj = host * 8 * dram * 1e-9
        for at, i in enumerate(tensor.vector_rows):
            ms = tensor.latency["vector"][case][at, column, 0, 0]
            alone += counts[i] * ms
            alone_mj += counts[i] * (tensor.energy["vector"][case][at, column, 0, 0] - static * ms)
        options = []
        for kind in kinds:
            rows = []
            for engine, policy in itertools.product(range(len(tensor.engines[kind])), range(len(tensor.policies))):
                accelerator = space.accelerator(shared, {kind: engine})
                busy = held = mj = 0.0
                for at, i in enumerate(tensor.rows[kind]):
                    layer, ms = tensor.layers[i], tensor.latency[kind][case][at, column, policy, engine]
                    if not counts[i] or not np.isfinite(ms):
                        busy += counts[i] and math.inf
                        continue
                    score = partial(weighted, tensor.policies[policy])
                    mapping, cost = best(layer, accelerator, score, RESIDENCIES[case])
                    assert cost.latency_ms == pytest.approx(ms)
                    busy += counts[i] * ms
                    held += counts[i] * memory_time(layer, accelerator, mapping, RESIDENCIES[case])
                    mj += counts[i] * (tensor.energy[kind][case][at, column, policy, engine] - static * ms)
                rows.append((busy, held, mj, *tensor.engines[kind].resources[engine]))
            options.append(rows)
        for several in itertools.product(*options):
            use = space.shared.resources[shared] + sum(np.array(option[3:]) for option in several)
            if (use <= np.array(space.budget.counts)).all():
                interval = max(*(option[0] for option in several), alone + sum(option[1] for option in several))
                points.append((interval, alone_mj + sum(option[2] for option in several) + interval * static))
    return pareto(np.array(points))


@pytest.mark.parametrize(("port_bits", "memories_decide"), [(64, True), (128, True), (512, False)])
def test_pipelined_interval_is_the_slowest_engine_and_equals_brute_force(small_space, port_bits, memories_decide):
    """Or what the shared memories need for all engines together."""
    choices = {"port_bits": (port_bits,), "clock_mhz": (75.0,), "windowed": (False,), "activation_kib": (4.5,),
               "weight_kib": (4.5, 18), "dataflow": ("weight-stationary",)}  # fmt: skip
    space = fpga.space("ecp5-25f", choices={**small_space.choices, **choices}, scale_modelled={"static_power_w": 1e-3})
    layers = (
        Layer("stem", K=64, C=16, P=8, Q=8, R=3, S=3),
        Layer("pointwise", "shift", K=96, C=64, P=8, Q=8, weight_bits=5),
        Layer("depthwise", "add", K=96, C=96, P=8, Q=8, R=3, S=3, groups=96),
        Layer("sum", "elementwise", K=8, C=16, P=4, Q=4, groups=8),
    )
    tensor = cost_tensor(layers, space, cache=False)
    counts, live = np.array([1, 1, 1, 3]), 1e3
    front = tensor.hardware_front(counts, live, pipelined=True, host_bytes=90.0)
    expected = brute_pipelines(tensor, space, counts, live, 90.0)
    np.testing.assert_allclose(np.stack([front.latency_ms, front.energy_mj], 1), expected, rtol=1e-9)
    busy = np.zeros(len(front))
    for i, (case, shared) in enumerate(zip(front.residency, front.shared, strict=True)):
        for kind, policy, engine in zip(tensor.kinds, front.policies[i], front.engines[i], strict=True):
            ms, _ = tensor.sums(kind, case, counts, tensor.tables[case].of_shared[shared])
            busy[i] = max(busy[i], ms[policy, engine])
    assert (front.latency_ms > busy * (1 + 1e-9)).any() == memories_decide
    single = tensor.hardware_front(counts, live, host_bytes=90.0)
    assert front.throughput_fps.max() >= single.throughput_fps.max()
    assert front.energy_mj.min() <= single.energy_mj.min()


def test_engines_that_share_a_slow_dram_are_no_faster_side_by_side(small_space):
    """Two engines, each as slow as DRAM makes it: an interval of the slower one alone would be under the roofline."""
    space = fpga.space(
        "ecp5-25f", choices={**small_space.choices, "weight_kib": (4.5,)}, scale_modelled={"dram_gbit_per_s": 1e-3}
    )
    layers = tuple(Layer(kind, kind, K=64, C=64, P=2, Q=2, weight_bits=8) for kind in ("mac", "shift"))
    tensor = cost_tensor(layers, space, cache=False)
    front = tensor.hardware_front([1, 1], 1e9, pipelined=True)
    bits = sum(8 * (layer.weight_count + layer.input_count + layer.output_count) for layer in layers)
    assert front.latency_ms.min() == pytest.approx(bits / (space.cost("dram_gbit_per_s") * 1e9) * 1e3)
    assert front.latency_ms.min() == pytest.approx(tensor.hardware_front([1, 1], 1e9).latency_ms.min())


def test_activations_stay_in_a_pipeline_with_room_for_an_image_per_engine(small_space, network):
    """Four work at once, the vector unit included, over a buffer of 18 KiB at most."""
    layers = distinct_layers([network])
    tensor, counts = cost_tensor(layers, small_space, cache=False), counts_of(network, layers)
    kept, moved = (set(tensor.hardware_front(counts, x * 1024, pipelined=True).residency) for x in (4.5, 4.6))
    assert kept == {3}
    assert moved == {2}
    assert set(tensor.hardware_front(counts, 4.6 * 1024).residency) == {3}


def test_a_pipeline_of_one_array_is_one_image_after_the_other():
    """Of its template it is not known how long a layer needs the memories: nothing is taken to overlap."""
    layers = (Layer("a", K=32, C=16, P=7, Q=7, R=3, S=3), Layer("b", "pool", K=32, C=32, R=7, S=7, groups=32))
    tensor = cost_tensor(layers, find("eyeriss"), cache=False)
    front, one = (tensor.hardware_front([2, 1], 1e9, host_bytes=500.0, pipelined=p) for p in (True, False))
    np.testing.assert_allclose(front.latency_ms, one.latency_ms, rtol=1e-12)


def test_mappings_of_a_point_add_up_to_its_cost(small_space, network):
    layers = distinct_layers([network])
    tensor = cost_tensor(layers, small_space, cache=False)
    counts = counts_of(network, layers)
    front = tensor.hardware_front(counts, network.live_activation_bytes)
    accelerator, residency = front.accelerator(0), RESIDENCIES[int(front.residency[0])]
    total = float(counts[tensor.vector_rows] @ accelerator_tensor(layers, accelerator).latency["vector"][3][:, 0, 0, 0])
    for layer, mapping in front.mappings(0):
        if mapping is None:
            assert layer.kind in ("pool", "elementwise")
            continue
        times = counts[layers.index(layer)]
        total += times * evaluate(layer, accelerator, mapping, residency.tensors).latency_ms
    assert residency.activations
    assert total == pytest.approx(front.latency_ms[0])


@pytest.mark.parametrize("kinds", [("mac",), ("mac", "shift"), ("mac", "shift", "add")])
@pytest.mark.parametrize("device", ["ecp5-25f", "ecp5-85f", "zcu102"])
def test_accelerators_are_counted_as_one_by_one(device, kinds):
    """Where much is scarce, and where nothing is."""
    sizes = {"rows": (2, 8, 24), "cols": (4, 16), "weight_kib": (4.5, 36), "activation_kib": (4.5, 18),
             "port_bits": (64, 256), "clock_mhz": (75.0,)}  # fmt: skip
    space = fpga.space(device, choices=sizes, kinds=kinds)
    budget = np.array(space.budget.counts)
    parts = [space.shared.resources, *(space.engines(kind).resources for kind in kinds)]
    within = sum((np.sum(rows, axis=0) <= budget).all() for rows in itertools.product(*parts))
    assert len(space) == within > 0


@pytest.mark.parametrize("device", ["pynq-z1-split", "eyeriss", "ecp5-25f"])
@pytest.mark.parametrize("objectives", [("latency_ms", "energy_mj"), ("area_mm2", "latency_ms"), ("edp", "lut")])
def test_a_front_is_made_again_from_its_record(device, objectives):
    space = find(device)
    layers = tuple(Layer(f"{k}", K=k, C=16, P=6, Q=6, R=3, S=3, weight_bits=4, input_bits=4) for k in (16, 32))
    tensor = cost_tensor(layers, space, cache=False)
    if "area_mm2" in objectives and not space.budget.area_um2:
        objectives = ("dsp", "latency_ms")
    front = tensor.hardware_front([2, 1], 4e3, objectives, host_bytes=600.0)
    again = tensor.recorded(json.loads(json.dumps(tensor.record(front))))
    assert len(front)
    for name in ("latency_ms", "energy_mj", "area_mm2", "resources", "shared", "engines", "policies", "residency"):
        np.testing.assert_array_equal(getattr(again, name), getattr(front, name))
    assert (again.layers, again.grid, again.kinds) == (front.layers, front.grid, front.kinds)
    assert [again.accelerator(i) for i in range(len(again))] == [front.accelerator(i) for i in range(len(front))]
    other = cost_tensor((*layers, Layer("more", K=8, C=8)), space, cache=False)
    with pytest.raises(ValueError, match="a record of"):
        other.recorded(tensor.record(front))
