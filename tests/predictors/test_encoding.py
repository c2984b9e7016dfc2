import numpy as np
import pytest

from cosearch.errors import ConfigError
from predictors import features
from predictors.encoding import WORKLOAD_FEATURES
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
