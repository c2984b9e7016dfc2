"""NAS-Bench-201: published order, sizes and classes; the layers of a cell against a literal walk of its paths."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosearch.errors import ConfigError, HardwareError, UnknownNameError
from cosearch.workload import count_layers
from search_spaces.networks import nasbench201 as nb

SPACE = nb.space()
cells = st.fixed_dictionaries({name: st.sampled_from(nb.OPERATIONS) for name in nb.NAMES})


def test_published_index_0_and_the_whole_order() -> None:
    # the first lines of NAS-Bench-201's own list
    first = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
    assert nb.to_string(nb.cell(0)) == first
    assert sorted(nb.index_of(nb.cell(i)) for i in range(0, nb.SIZE, 97)) == list(range(0, nb.SIZE, 97))


def test_published_counts_of_classes_and_of_the_largest_network() -> None:
    archs = [nb.cell(i) for i in range(nb.SIZE)]
    assert len({nb.published_class(arch) for arch in archs}) == 6466
    # every published class lies in one function class
    owner: dict[str, str] = {}
    for arch in archs:
        assert owner.setdefault(nb.published_class(arch), nb.function_class(arch)) == nb.function_class(arch)
    assert len(set(owner.values())) == 4930
    largest = SPACE.workload(dict.fromkeys(nb.NAMES, "nor_conv_3x3"))
    assert round(largest.macs / 1e6, 2) == 220.12  # the benchmark's published FLOPs, in millions


def test_what_is_worked_out_for_all_cells_at_once_is_what_each_one_says() -> None:
    archs = [nb.cell(i) for i in range(nb.SIZE)]
    alone = [nb.operation_counts(tuple(nb.effective(arch).values())) for arch in archs]
    np.testing.assert_array_equal(nb.all_operation_counts(), alone)
    keys = np.unique([nb.network_class(arch) for arch in archs], return_inverse=True)[1].ravel()
    assert keys.max() + 1 == 5425
    for index in range(0, nb.SIZE, 131):
        np.testing.assert_array_equal(nb.same_network(index), np.flatnonzero(keys == keys[index]))


@given(cells)
def test_effective_edges_are_those_on_a_path(arch: dict[str, str]) -> None:
    paths = [(0, 3), (0, 1, 3), (0, 2, 3), (0, 1, 2, 3)]
    live = [p for p in paths if all(arch[f"{a}-{b}"] != "none" for a, b in itertools.pairwise(p))]
    used = {f"{a}-{b}" for path in live for a, b in itertools.pairwise(path)}
    assert nb.effective(arch) == {name: arch[name] if name in used else "none" for name in nb.NAMES}
    assert nb.connected(arch) == bool(live)
    assert nb.from_string(nb.to_string(arch)) == arch


@given(cells)
def test_dead_edges_change_neither_classes_nor_layers(arch: dict[str, str]) -> None:
    pruned = nb.effective(arch)
    assert nb.function_class(pruned) == nb.function_class(arch)
    assert [layer.shape_key for layer in SPACE.workload(pruned)] == [layer.shape_key for layer in SPACE.workload(arch)]


def test_counts_equal_the_workloads() -> None:
    archs = [nb.cell(i) for i in range(0, nb.SIZE, 311)]
    table = SPACE.layer_table()
    expected = [count_layers(SPACE.workload(arch), table) for arch in archs]
    np.testing.assert_array_equal(SPACE.counts(archs, table), expected)
    assert SPACE.counts([], table).shape == (0, len(table))


def test_counts_equal_the_workloads_whatever_operations_and_additions_a_cell_has() -> None:
    table = SPACE.layer_table()
    _, first = np.unique(nb.all_operation_counts(), axis=0, return_index=True)
    cells = [nb.cell(int(i)) for i in first]
    assert len(cells) == 195
    for row, arch in zip(SPACE.counts(cells, table), cells, strict=True):
        assert row.tolist() == count_layers(SPACE.workload(arch), table)
    plain = [dict.fromkeys(nb.NAMES, "nor_conv_3x3")]
    own = tuple(layer for layer in table if count_layers(SPACE.workload(plain[0]), table)[table.index(layer)])
    assert SPACE.counts(plain, own).tolist() == [count_layers(SPACE.workload(plain[0]), own)]
    with pytest.raises(HardwareError, match="is not in the table"):
        SPACE.counts([{**plain[0], "0-1": "avg_pool_3x3"}], own)


def test_cells_that_ask_the_same_of_hardware_are_told_by_their_keys() -> None:
    """A few hundred keys for all cells; of each the layers and the memory of several cells are compared."""
    members: dict[object, list[int]] = {}
    for i in range(nb.SIZE):
        members.setdefault(SPACE.demand_key(nb.cell(i)), []).append(i)
    assert 200 < len(members) < 1000
    table = SPACE.layer_table()
    for some in list(members.values())[::7]:
        workloads = [SPACE.workload(nb.cell(i)) for i in (some[0], some[len(some) // 2], some[-1])]
        assert len({tuple(count_layers(workload, table)) for workload in workloads}) == 1
        assert len({workload.live_activation_bytes for workload in workloads}) == 1


def test_a_cell_without_a_path_keeps_only_what_is_around_it() -> None:
    workload = SPACE.workload(dict.fromkeys(nb.NAMES, "none"))
    assert not any("cell" in layer.name for layer in workload)
    assert workload.layers[-1].name == "classifier"


def test_smaller_images_scale_the_work() -> None:
    arch = nb.cell(0)
    assert nb.space((3, 16, 16)).workload(arch).macs * 4 == pytest.approx(SPACE.workload(arch).macs, rel=1e-3)


@pytest.mark.parametrize("text", ["", "|none~0|", "|none~0|+|none~0|none~1|+|none~0|none~2|none~1|", "x" * 1000])
def test_malformed_cells_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        nb.from_string(text)


def test_unknown_operations_and_indices_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="nor_conv_3x3"):
        nb.from_string("|nor_conv_3x4~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    for index in (-1, nb.SIZE):
        with pytest.raises(ConfigError, match="15624"):
            nb.cell(index)
    with pytest.raises(ConfigError, match="8x8"):
        nb.space((1, 7, 7))
