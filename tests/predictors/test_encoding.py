import numpy as np
import pytest

from cosearch.errors import ConfigError
from cosearch.hardware import best
from predictors import features
from predictors.encoding import PARTS, WORKLOAD_FEATURES
from predictors.reference import REFERENCES
from search_spaces import accelerators
from search_spaces.accelerators.processor import operating_points
from search_spaces.decisions import Decisions
from search_spaces.networks import find
from search_spaces.networks.nasbench201 import NAMES, effective, function_class

SPACE = find("nasbench201")()
RNG = np.random.default_rng(3)
ARCHS = [SPACE.sample(RNG) for _ in range(200)]


def cell(*operations):
    short = {"n": "none", "s": "skip_connect", "1": "nor_conv_1x1", "3": "nor_conv_3x3", "p": "avg_pool_3x3"}
    return {name: short[o] for name, o in zip(NAMES, operations, strict=True)}


def test_dead_edges_change_nothing():
    # 0-1 leads to node 1, from which nothing goes on
    a, b = cell("3", "1", "n", "s", "n", "p"), cell("n", "1", "n", "s", "n", "p")
    for part in ("one_hot", "counts", "workload", "paths", "shape"):
        np.testing.assert_array_equal(features(SPACE, [a], (part,)), features(SPACE, [b], (part,)))


@pytest.mark.parametrize("part", [p for p in PARTS if p != "ordinal"])
@pytest.mark.parametrize("view", ["built", "used", "effective"])
def test_a_network_is_described_among_many_as_it_is_alone(part, view):
    # dead edges make the first two one effective network, which is described once
    many = [cell("3", "1", "n", "s", "n", "p"), cell("n", "1", "n", "s", "n", "p"), *ARCHS[:30], *ARCHS[:3]]
    alone = np.vstack([features(SPACE, [arch], (f"{part}@{view}",)) for arch in many])
    np.testing.assert_allclose(features(SPACE, many, (f"{part}@{view}",)), alone, rtol=1e-12)


def test_counts_are_of_the_effective_cell():
    counts = features(SPACE, ARCHS, ("counts",))
    for arch, row in zip(ARCHS, counts, strict=True):
        options = SPACE.choices["0-1"]
        assert row.tolist() == [list(effective(arch).values()).count(o) for o in options]


def test_equal_functions_have_equal_paths():
    rows = features(SPACE, ARCHS, ("paths",))
    by_class: dict[str, np.ndarray] = {}
    for arch, row in zip(ARCHS, rows, strict=True):
        known = by_class.setdefault(function_class(arch), row)
        np.testing.assert_array_equal(known, row)


def test_paths_by_hand():
    # 0-3 direct: pool; 0-1-3: 3x3 then skip; 0-1-2-3: 3x3, 1x1, 1x1; 0-2 is none
    arch = cell("3", "n", "1", "p", "s", "1")
    row = features(SPACE, [arch], ("paths",))[0]
    assert row.sum() == 3
    assert row.max() == 1
    assert features(SPACE, [arch], ("shape",))[0].tolist() == [3, 3, 1, 5 / 3, 1]


@pytest.mark.parametrize(("name", "references"), [("nasbench201", 4), ("fbnet", 4), ("shiftadd", 2)])
def test_modelled_costs_are_sums_of_the_best_of_each_layer(name, references):
    """Against each layer's fastest mapping, searched alone; arrays that lack an operator of the space are left out."""
    space = find(name)()
    archs = [space.sample(RNG) for _ in range(3)]
    rows = features(space, archs, ("costs",))
    assert rows.shape == (3, 4 * references)
    np.testing.assert_allclose(np.exp(rows[:, 2 * references :]), rows[:, : 2 * references])
    layers = space.workload(archs[0]).layers
    for at, (device, choices) in enumerate(list(REFERENCES.items())[:references]):
        if choices:
            designs = accelerators.find(device, choices=choices)
            accelerator = designs.accelerator(0, dict.fromkeys(designs.kinds, 0))
            found = [best(layer, accelerator, "latency")[1] for layer in layers]
        else:
            found = [operating_points(device)[-1].cost(layer) for layer in layers]
        assert rows[0, 2 * at] == pytest.approx(sum(cost.latency_ms for cost in found), rel=1e-6)
        assert rows[0, 2 * at + 1] == pytest.approx(sum(cost.energy_mj for cost in found), rel=1e-6)


def test_dead_edges_cost_nothing():
    a, b = cell("3", "1", "n", "s", "n", "p"), cell("n", "1", "n", "s", "n", "p")
    np.testing.assert_array_equal(features(SPACE, [a], ("costs",)), features(SPACE, [b], ("costs",)))
    with pytest.raises(ConfigError, match="no layers, so no cost features"):
        features(Decisions({"a": (1, 2)}), [{"a": 1}], ("costs",))


@pytest.mark.parametrize("name", ["nasbench201", "shiftadd"])
def test_workload_features_are_sums_over_the_layers(name):
    space = find(name)()
    archs = [space.sample(RNG) for _ in range(5)]
    rows = features(space, archs, ("workload",))
    for arch, row in zip(archs, rows, strict=True):
        layers = space.workload(arch).layers
        assert np.exp(row[-3]) == pytest.approx(1 + sum(layer.macs for layer in layers))
        blocks = row[:-3].reshape(-1, len(WORKLOAD_FEATURES))
        assert blocks[:, 0].sum() == pytest.approx(sum(layer.macs for layer in layers))
        assert blocks[:, 3].sum() == len(layers)


def test_numbers_as_numbers():
    space = Decisions({"kernel": (3, 5), "op": ("a", "b"), "depth": (1, 2, 4)})
    archs = [{"kernel": 5, "op": "a", "depth": 4}]
    assert features(space, archs, ("ordinal",)).tolist() == [[5.0, 4.0]]
    assert features(space, archs).tolist() == [[0, 1, 1, 0, 0, 0, 1] * 2]  # one-hot, then counts of the same choices


def test_what_it_refuses():
    with pytest.raises(ConfigError, match="did you mean 'paths'"):
        features(SPACE, ARCHS[:1], ("path",))
    with pytest.raises(ConfigError, match="cell spaces"):
        features(find("shiftadd")(), [], ("paths",))
    with pytest.raises(ConfigError, match="unknown decision"):
        features(SPACE, [find("shiftadd")().sample(RNG)])
    with pytest.raises(ConfigError, match="no workload features"):
        features(Decisions({"a": (1, 2)}), [], ("workload",))


def test_the_shares_of_the_signal_by_hand():
    # node 1 gets a convolution (1); node 3 gets a skip of node 1 (1), an average of the input (1/2) and nothing else
    arch = cell("3", "n", "n", "p", "s", "n")
    row = features(SPACE, [arch], ("flow",))[0]
    columns = {(): 0, ("3",): 2, ("p",): 3}
    assert row[columns[("3",)]] == pytest.approx(2 / 3)
    assert row[columns[("p",)]] == pytest.approx(1 / 3)
    assert row[:40].sum() == pytest.approx(1)
    # mean of 1x1, 3x3 and pooling per path, then mean depth and its variance
    assert row[40:45] == pytest.approx([0, 2 / 3, 1 / 3, 2 / 3, 2 / 3 - 4 / 9])


def test_equal_functions_have_equal_flow_whatever_the_names_of_the_nodes():
    # 0-1-3 with a 3x3 then a 1x1 is 0-2-3 with the same
    a, b = cell("3", "n", "n", "s", "1", "n"), cell("n", "3", "n", "s", "n", "1")
    for part in ("paths", "flow", "shape", "counts"):
        np.testing.assert_allclose(features(SPACE, [a], (part,)), features(SPACE, [b], (part,)))


def test_views_of_a_cell():
    # 0-1 is a 3x3 into node 1, which nothing reads; 2-3 reads node 2, which gets nothing
    arch = cell("3", "n", "n", "s", "n", "1")
    count = {view: features(SPACE, [arch], (f"counts@{view}",))[0] for view in ("built", "used", "effective")}
    conv1x1, conv3x3 = 2, 3
    assert [row[conv3x3] for row in count.values()] == [1, 0, 0]
    assert [row[conv1x1] for row in count.values()] == [1, 1, 0]


@pytest.mark.parametrize("part", [*PARTS, "counts@built", "one_hot@used"])
def test_the_order_in_which_an_arch_is_written_does_not_matter(part):
    turned = [dict(reversed(arch.items())) for arch in ARCHS[:20]]
    np.testing.assert_array_equal(features(SPACE, turned, (part,)), features(SPACE, ARCHS[:20], (part,)))


def test_dead_edges_are_those_that_the_space_removes():
    from predictors.encoding import VIEWS, Networks, archs_of, codes

    networks = Networks(SPACE, codes(SPACE, ARCHS))
    assert archs_of(networks) == ARCHS
    assert archs_of(Networks(SPACE, VIEWS["effective"](networks))) == [effective(arch) for arch in ARCHS]
    np.testing.assert_array_equal(networks.codes, [SPACE.encode(arch) for arch in ARCHS])
