import itertools

import numpy as np
import pytest

from cosearch.errors import ConfigError, HardwareError, InfeasibleError
from cosearch.hardware import cost_tensor, joint_front
from cosearch.workload import Layer
from search_spaces.accelerators import asic, fpga
from tests.hardware.test_tensor import brute_front

CHOICES = {
    "rows": (2, 8),
    "cols": (4, 8),
    "weight_kib": (4.5,),
    "activation_kib": (4.5, 18),
    "port_bits": (64,),
    "clock_mhz": (75.0,),
}


@pytest.fixture(scope="module")
def tensor():
    layers = (
        Layer("stem", K=8, C=1, P=8, Q=8, R=3, S=3),
        Layer("shift", "shift", K=24, C=8, P=8, Q=8, weight_bits=5),
        Layer("sum", "elementwise", K=8, C=16, P=4, Q=4, groups=8),
        Layer("classifier", K=10, C=8),
    )
    return cost_tensor(layers, fpga.space("ecp5-25f", choices=CHOICES), cache=False)


@pytest.fixture(scope="module")
def networks():
    """Counts, errors and live bytes of 12 networks: some equal in cost, some in error; the last never useful."""
    counts = np.array([[1, a, b, 1] for a, b in itertools.product((0, 1, 3), (0, 2))] * 2)
    error = np.array([0.4, 0.3, 0.3, 0.25, 0.2, 0.2, 0.35, 0.3, 0.3, 0.25, 0.15, np.inf])
    return counts, error, np.where(counts[:, 1] > 1, 3e4, 500.0)


def brute_joint(tensor, counts, error, live):
    """Every network's brute-force front, then every pair against every other."""
    points = [
        (e, *point)
        for row, e, b in zip(counts, error, live, strict=True)
        for point in brute_front(tensor, tensor.space, row, b)
    ]
    kept = {p for p in points if p[0] < np.inf and not any(q != p and (np.array(q) <= p).all() for q in points)}
    return np.array(sorted(kept))


def test_the_joint_front_equals_brute_force(tensor, networks):
    counts, error, live = networks
    front = joint_front(tensor, counts, error, live)
    got = np.column_stack([front.error, front.metric("latency_ms"), front.metric("energy_mj")])
    np.testing.assert_allclose(got, brute_joint(tensor, counts, error, live), rtol=1e-12)
    np.testing.assert_array_equal(front.error, error[front.network])
    assert set(front.network.tolist()) <= {0, 1, 2, 3, 4, 6, 7, 10}  # of equal networks the first of least error


def test_a_point_is_a_front_of_its_own_network(tensor, networks):
    counts, error, live = networks
    front = joint_front(tensor, counts, error, live)
    for i in (0, len(front) - 1):
        network = front.network[i]
        own = tensor.hardware_front(counts[network], live[network])
        point = front.point(i)
        assert point.latency_ms[0] in own.latency_ms
        assert [layer for layer, _ in point.mappings(0)] == [
            x for x, n in zip(tensor.layers, counts[network], strict=True) if n
        ]
        cost = tensor.evaluate_on(point.accelerator(0), counts[network], live[network], "latency_ms")
        assert cost.latency_ms <= point.latency_ms[0] * (1 + 1e-9)


def test_constrained_optima_are_those_of_all_pairs(tensor, networks):
    counts, error, live = networks
    front = joint_front(tensor, counts, error, live)
    finite = np.isfinite(error)
    fronts = tensor.hardware_fronts(counts[finite], live[finite])
    every = np.array(
        [
            (e, x, y)
            for e, f in zip(error[finite], fronts, strict=True)
            for x, y in zip(f.latency_ms, f.energy_mj, strict=True)
        ]
    )
    limit = float(np.median(every[:, 1]))
    i = front.best("error", {"max_latency_ms": limit})
    assert front.error[i] == every[every[:, 1] <= limit, 0].min()
    i = front.best("edp", {"max_error": 0.3})
    assert front.metric("edp")[i] == (every[:, 1] * every[:, 2])[every[:, 0] <= 0.3].min()
    with pytest.raises(InfeasibleError, match="relax a limit"):
        front.best("error", {"max_latency_ms": 1e-9})
    with pytest.raises(ConfigError, match="make it an objective"):
        front.best("lut")


def test_resources_are_objectives_and_constraints(tensor, networks):
    counts, error, live = networks
    front = joint_front(tensor, counts, error, live, ("latency_ms", "energy_mj", "lut"), {"max_lut": 9000})
    assert len(front)
    assert (front.metric("lut") <= 9000).all()
    small = front.best("lut", {"max_error": 0.25})
    fronts = tensor.hardware_fronts(counts[error <= 0.25], live[error <= 0.25], objectives=("lut",))
    assert front.metric("lut")[small] == min(f.lut.min() for f in fronts)


def test_equal_demands_share_one_front(tensor, networks):
    counts, _, live = networks
    calls = []
    fronts = tensor.hardware_fronts(counts, live, progress=lambda done, total: calls.append((done, total)))
    assert fronts[0] is fronts[6]
    assert fronts[0] is not fronts[1]
    assert calls == [(i + 1, 6) for i in range(6)]


def test_bad_errors_are_refused(tensor, networks):
    counts, error, live = networks
    with pytest.raises(HardwareError, match="one per network"):
        joint_front(tensor, counts, error[:3], live)
    with pytest.raises(HardwareError, match="nothing to choose"):
        joint_front(tensor, counts, np.full(12, np.inf), live)


def test_the_front_over_whole_accelerators_equals_the_dense_table():
    """One engine kind, many accelerators: policies and accelerators in one table, weights in memory where they fit."""
    layers = (Layer("a", K=8, C=8, P=4, Q=4, R=3, S=3), Layer("b", K=16, C=8, P=4, Q=4), Layer("c", K=10, C=3200))
    space = asic.space("gemmini", choices={"size": (4, 8, 16), "scratchpad_depth": (2048, 4096)})
    tensor = cost_tensor(layers, space, cache=False)
    [kind] = tensor.kinds
    fits = tensor.engines[kind].weight_bits
    for counts in ([1, 2, 0], [0, 1, 1], [1, 1, 3]):
        front = tensor.hardware_front(counts, 1e12)
        cases = [0, 2]
        parts = [
            [np.tensordot(counts, part[kind][case][:, 0], 1) for part in (tensor.latency, tensor.energy)]
            for case in cases
        ]
        for part in parts[1]:
            part[:, tensor.weight_bits(counts) > fits] = np.inf
        values = np.concatenate([np.stack(part, -1).reshape(-1, 2) for part in parts])
        want = sorted({tuple(p) for p in values if not ((values <= p).all(1) & (values < p).any(1)).any()})
        np.testing.assert_allclose(np.stack([front.latency_ms, front.energy_mj], 1), want, rtol=1e-12)
