import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cosearch.errors import ConfigError
from cosearch.strategies.evolutionary import order_networks
from cosearch.strategies.objectives import (
    Objectives,
    bend,
    crowding,
    derive,
    excess,
    is_known,
    knee,
    one_standard_error,
    product,
    ranks,
    recommend,
    tightest,
    undominated,
)

# few distinct values, so that ties and equal points occur
points = st.integers(1, 12).flatmap(
    lambda n: st.integers(1, 3).flatmap(lambda d: arrays(np.float64, (n, d), elements=st.integers(0, 4).map(float)))
)


def dominates(a, b) -> bool:
    return bool((a <= b).all() and (a < b).any())


@given(points)
def test_undominated_against_every_pair(p):
    kept = undominated(p)
    for i, point in enumerate(p):
        beaten = any(dominates(other, point) for other in p)
        repeated = any((other == point).all() for other in p[:i])
        assert kept[i] == (not beaten and not repeated)


@given(points)
def test_ranks_by_peeling(p):
    expected, left, rank = np.full(len(p), -1), list(range(len(p))), 0
    while left:
        front = [i for i in left if not any(dominates(p[j], p[i]) for j in left)]
        expected[front] = rank
        left = [i for i in left if i not in front]
        rank += 1
    assert np.array_equal(ranks(p), expected)


def test_crowding_by_hand():
    p = np.array([[0.0, 4.0], [1.0, 2.0], [3.0, 1.0], [4.0, 0.0], [9.0, 9.0]])
    got = crowding(p, np.array([0, 0, 0, 0, 1]))
    assert got[[0, 3, 4]].tolist() == [np.inf] * 3
    assert got[1] == pytest.approx((3 - 0) / 4 + (4 - 1) / 4)
    assert got[2] == pytest.approx((4 - 1) / 4 + (2 - 0) / 4)


@given(points)
def test_crowding_properties(p):
    rank = ranks(p)
    got = crowding(p, rank)
    assert (got >= 0).all()
    for r in set(rank):
        members = np.flatnonzero(rank == r)
        for column in p[members].T:
            assert np.isinf(got[members][column == column.min()]).any()
            assert np.isinf(got[members][column == column.max()]).any()


def test_networks_are_ordered_by_their_best_point():
    order = order_networks([np.array([[5.0, 5.0]]), np.array([[9.0, 9.0], [1.0, 1.0]]), np.array([[2.0, 2.0]])])
    assert order.tolist() == [1, 2, 0]


def test_an_empty_set():
    assert undominated(np.zeros((0, 2))).tolist() == []


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 10), st.floats(0.1, 10)), min_size=1, max_size=12),
    st.floats(0, 1),
)
def test_recommend_against_its_definition(rows, needed):
    accuracy, latency, energy = (np.array(c) for c in zip(*rows, strict=True))
    columns = {"accuracy": accuracy, "latency_ms": latency, "energy_mj": energy}
    chosen = recommend(columns, Objectives(), needed)
    enough = min(needed, accuracy.max())
    assert accuracy[chosen] >= enough
    admitted = [a for a in range(len(rows)) if accuracy[a] >= enough]
    least = min(latency[i] * energy[i] for i in admitted)
    assert latency[chosen] * energy[chosen] == pytest.approx(least, rel=1e-9)


def test_recommend_without_accuracy_takes_the_cheapest_that_is_accurate_enough():
    columns = {"accuracy": np.array([0.9, 0.5, 0.8]), "energy_mj": np.array([3.0, 1.0, 2.0])}
    assert recommend(columns, Objectives(("energy_mj",)), 0.0) == 1
    assert recommend(columns, Objectives(("energy_mj",)), 0.7) == 2
    assert recommend(columns, Objectives(("energy_mj",)), 0.95) == 0


def test_recommend_prefers_throughput_high_and_breaks_ties_by_accuracy():
    columns = {"accuracy": np.array([0.9, 0.9, 0.901]), "throughput_fps": np.array([10.0, 30.0, 30.0])}
    assert recommend(columns, Objectives(("accuracy", "throughput_fps")), 0.9) == 2


def test_recommend_takes_a_count_of_zero_for_one_value_among_others():
    columns = {"accuracy": np.array([0.9, 0.9]), "latency_ms": np.array([1.0, 1e6]), "dsp": np.array([1.0, 0.0])}
    objectives = Objectives(("accuracy", "latency_ms", "dsp"))
    assert recommend(columns, objectives, 0.9) == 0  # not a million milliseconds for one block less
    assert recommend({**columns, "latency_ms": np.array([1.0, 1.5])}, objectives, 0.9) == 1  # 1.5 * 1 < 1 * 2
    assert recommend({**columns, "latency_ms": np.array([1.0, 2.5])}, objectives, 0.9) == 0


@given(arrays(np.float64, (2, 5), elements=st.floats(1e-12, 1e9)))
def test_the_product_of_what_is_no_count(values):
    columns = {"latency_ms": values[0], "throughput_fps": values[1]}
    assert np.array_equal(product(columns), np.log(values[0]) - np.log(values[1]))


def test_one_standard_error():
    assert one_standard_error(np.array([0.5, 0.9]), 100) == pytest.approx(0.87)
    assert one_standard_error(np.array([1.0]), 100) == 1.0


def test_minimised_turns_what_is_maximised():
    got = Objectives(("accuracy", "latency_ms")).minimised({"accuracy": [0.5, 0.6], "latency_ms": 2.0})
    assert got.tolist() == [[-0.5, 2.0], [-0.6, 2.0]]


@pytest.mark.parametrize(
    ("names", "match"),
    [((), "no objectives"), (("latency",), "did you mean 'latency_ms'"), (("macs", "macs"), "each may be given once")],
)
def test_bad_objectives(names, match):
    with pytest.raises(ConfigError, match=match):
        Objectives(names)


@pytest.mark.parametrize(
    ("constraints", "match"),
    [
        ({"max_latency": 1.0}, "did you mean 'max_latency_ms'"),
        ({"latency_ms": 1.0}, "unknown constraint"),
        ({"max_latency_ms": float("nan")}, "expected a number"),
        ({"max_latency_ms": -1.0}, "can never be met"),
        ({"min_accuracy": 1.5}, "can never be met"),
        ({"min_dsp": 8, "max_dsp": 4}, "min_dsp=8 and max_dsp=4 contradict"),
    ],
)
def test_bad_constraints(constraints, match):
    with pytest.raises(ConfigError, match=match):
        Objectives(constraints=constraints)


@pytest.mark.parametrize("value", ["5", None, [1]])
def test_limits_that_are_no_numbers(value):
    with pytest.raises(ConfigError, match=r"max_latency_ms is .*: expected a number"):
        Objectives(constraints={"max_latency_ms": value})
    with pytest.raises(ConfigError, match=r"min_accuracy is .*: expected a number"):
        Objectives(min_accuracy=value)


@pytest.mark.parametrize(
    ("names", "constraints", "match"),
    [
        (5, {}, "objectives 5: give a tuple of names"),
        ((1, "accuracy"), {}, "unknown objective 1"),
        (("accuracy",), 5, "constraints 5: give a dict"),
        (("accuracy",), {3: 1.0}, "unknown constraint 3"),
    ],
)
def test_objectives_of_another_kind(names, constraints, match):
    with pytest.raises(ConfigError, match=match):
        Objectives(names, constraints=constraints)


def test_objectives_given_as_a_list_are_the_same():
    assert Objectives(["accuracy", "latency_ms"]) == Objectives(("accuracy", "latency_ms"))


def test_a_single_name_is_not_taken_for_a_list_of_letters():
    with pytest.raises(ConfigError, match="give a tuple"):
        Objectives("accuracy")


def test_the_floor_on_accuracy_is_a_constraint_too():
    assert Objectives(constraints={"min_accuracy": 0.9}).min_accuracy == 0.9
    assert Objectives(min_accuracy=0.8).min_accuracy == 0.8


def test_excess_is_relative_and_adds_up():
    columns = {"latency_ms": np.array([1.0, 3.0]), "throughput_fps": np.array([50.0, 50.0])}
    assert excess(columns, {"max_latency_ms": 2.0, "min_throughput_fps": 100.0}) == pytest.approx([0.5, 1.0])
    assert excess(columns, {}).tolist() == [0.0, 0.0]


def test_the_knee_is_where_the_front_bends():
    bent = np.array([[0.0, 1.0], [0.1, 0.2], [1.0, 0.0], [1.0, 1.0]])
    assert knee(bent) == 1
    assert knee(bent * [5.0, 0.1] + 3) == 1
    assert knee(np.array([[2.0, 2.0]])) == 0


def test_the_bend_of_what_is_accurate_enough():
    columns = {
        "accuracy": np.array([0.9, 0.9, 0.9, 0.5]),
        "latency_ms": np.array([1.0, 2.0, 10.0, 0.1]),
        "energy_mj": np.array([10.0, 2.0, 1.0, 0.1]),
    }
    both = Objectives(("latency_ms", "energy_mj"))
    assert bend(columns, both, 0.8) == 1
    assert bend(columns, both, 0.0) == 3
    assert bend(columns, both, 0.99) == 1  # none reaches it: the most accurate are looked at


def test_what_follows_from_what():
    assert is_known("edp", ("latency_ms", "energy_mj"))
    assert not is_known("edp", ("latency_ms",))
    assert is_known("throughput_fps", ("latency_ms",))
    values = {"latency_ms": np.array([4.0]), "energy_mj": np.array([3.0])}
    assert derive("edp", values.__getitem__).tolist() == [12.0]
    assert derive("throughput_fps", values.__getitem__).tolist() == [250.0]


def test_the_tightest_of_several_limits():
    given = [("max_lut", 5.0), ("max_lut", 3.0), ("min_dsp", 1.0), ("min_dsp", 2.0)]
    assert tightest(given) == {"max_lut": 3.0, "min_dsp": 2.0}
