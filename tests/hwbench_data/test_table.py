"""Tables on disk and what is asked of them, on small tables whose answers are known."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hwbench_data
from cosearch.errors import ConfigError, CosearchError, DataError, InfeasibleError, RunError, UnknownNameError
from hwbench_data import analog, library
from hwbench_data.checking import UNITS, check_table
from hwbench_data.networks import Cells, Listed, notation
from hwbench_data.store import ANY, Block, Card, Metric, Store, checksum, write
from hwbench_data.table import _undominated
from search_spaces.networks import nasbench201 as nb

METRICS = {
    "macs": Metric("operations", "lower", "operations"),
    "latency_ms": Metric("ms", "lower", "time"),
    "energy_mj": Metric("mJ", "lower", "energy"),
    "accuracy": Metric("fraction", "higher", "accuracy"),
}
LABELS = ["a=conv_k3_e1", "a=conv_k5_e1", "a=conv_k3_e3", "a=skip"]
MACS = np.array([2.0, 4.0, 6.0, 1.0])
LATENCY = np.array([3.0, 5.0, 6.0, 1.0])
ACCURACY = np.array([0.7, 0.8, 0.75, 0.5])


def card(**changes) -> Card:
    given = {
        "name": "toy",
        "title": "four networks",
        "networks": {"kind": "listed", "count": 4},
        "metrics": METRICS,
        "devices": {"board": {"title": "a board", "source": "measured"}, "chip": {"title": "a chip"}},
        "conditions": {"input": ("8x8", "4x4")},
        "built": {"command": "by hand"},
        "notes": (),
        "files": {},
    }
    return Card(**{**given, **changes})


def blocks() -> list[Block]:
    return [
        Block.full((ANY, "macs", ANY), MACS, "modelled"),
        Block.full((ANY, "accuracy", ANY), ACCURACY, "measured"),
        Block.full(("board", "latency_ms", "8x8"), LATENCY, "measured"),
        Block.full(("board", "latency_ms", "4x4"), LATENCY / 4, "predicted"),
        Block.full(("chip", "latency_ms", "8x8"), np.array([1.0, 2.0, np.nan, 0.5]), "modelled"),
        Block.full(("chip", "energy_mj", "8x8"), np.array([1.0, 2.0, np.nan, 0.5]), "modelled"),
    ]


@pytest.fixture
def toy(tmp_path: Path) -> hwbench_data.Table:
    write(tmp_path / "toy", card(), blocks(), LABELS)
    return hwbench_data.load(tmp_path / "toy")


def test_queries_by_index_notation_and_arch(toy) -> None:
    expected = {"macs": 4.0, "accuracy": 0.8, "latency_ms": 5.0}
    assert toy.query(1, "board") == expected
    assert toy.query("a=conv_k5_e1", "board") == expected
    assert toy.query({"a": "conv_k5_e1"}, "board", input="8x8") == expected
    assert toy.query(1) == {"macs": 4.0, "accuracy": 0.8}
    assert toy.query(1, "board", ["latency_ms"], input="4x4") == {"latency_ms": 1.25}
    assert "latency_ms" not in toy.query(2, "chip")  # has no value there
    assert np.isnan(toy.query_many([2], "latency_ms", "chip")["latency_ms"]).all()
    assert toy.sources([0], "latency_ms", "board", input="4x4") == ["predicted"]


def test_cells_by_every_notation_and_by_a_number_as_text(tmp_path: Path) -> None:
    cells = Cells()
    arch = cells.arch(5)
    for network in (5, "5", " 5 ", notation(arch), nb.to_string(arch), dict(reversed(arch.items()))):
        assert cells.index(network) == 5
    for text, match in (
        ("15625", "networks 0 to 15624"),
        ("9" * 5000, "expected |op~0|"),
        ("0-1=none", "decision '0-2' is missing"),
        ("0-1=none;0-2", "expected name=choice pairs"),
        (notation({**arch, "0-1": "conv"}), "decision '0-1' is 'conv'"),
    ):
        with pytest.raises(CosearchError, match=re.escape(match)):
            cells.index(text)


def test_listed_networks_by_a_number_as_text_unless_that_is_a_name(toy) -> None:
    assert toy.query("1", "board") == toy.query(1, "board")
    with pytest.raises(ConfigError, match="networks 0 to 3"):
        toy.query("4")
    numbered = Listed("numbered", ["7", "1", "0"])
    assert [numbered.index(name) for name in ("7", "1", "0", 0)] == [0, 1, 2, 0]
    with pytest.raises(UnknownNameError, match="no network '2'"):
        numbered.index("2")


def test_archs_are_found_whatever_the_order_of_their_decisions() -> None:
    table = hwbench_data.load("shiftadd")
    arch = table.networks.arch(1234)
    turned = dict(reversed(arch.items()))
    assert table.networks.index(arch) == table.networks.index(turned) == table.networks.index(notation(turned)) == 1234
    with pytest.raises(UnknownNameError, match="has no network"):
        table.query({**turned, "layer9": "add_k3_e1"})


def test_pairs_are_of_one_device_and_space() -> None:
    table = hwbench_data.load("joint")
    cell, shiftadd = 5, len(table) - 1
    assert table.query(shiftadd, "zcu102", space="shiftadd").keys() == {"capacity", "latency_ms", "energy_mj"}
    assert {"capacity", "latency_ms", "energy_mj"} <= table.query(cell, "ecp5-85f").keys()
    assert len(table.rows(shiftadd)) == len(table.rows(shiftadd, "zcu102")) == 3
    for call, asked, known in (
        (lambda: table.query(cell, "zcu102"), "zcu102, nasbench201", "ecp5-85f, nasbench201"),
        (lambda: table.query(cell, "ecp5-85f", space="shiftadd"), "ecp5-85f, shiftadd", "ecp5-85f, nasbench201"),
        (lambda: table.query(shiftadd, "zcu102"), "zcu102, nasbench201", "zcu102, shiftadd"),
        (lambda: table.query(shiftadd), "any device, nasbench201", "zcu102, shiftadd"),
        (lambda: table.rows(cell, "zcu102"), "zcu102", "ecp5-85f, nasbench201"),
    ):
        with pytest.raises(DataError, match=f"has no figures of {asked}; it has them of {known}$"):
            call()


def test_pairs_are_chosen_among_those_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """What depends on the network alone, as accuracy and capacity do, does not choose a pair of another device."""
    accuracies = np.arange(float(nb.SIZE)) / nb.SIZE  # every class has another one
    monkeypatch.setattr(analog, "accuracies", lambda metric: accuracies)
    table = hwbench_data.load("joint")
    for space, objective in (
        ("nasbench201", "cifar10_accuracy"),
        ("nasbench201", "capacity"),
        ("shiftadd", "capacity"),
    ):
        for device in table.devices:
            every = np.array([table.networks.label(i) for i in range(len(table))])
            here = np.array([label.startswith(f"{space}:") and f"@{device}" in label for label in every])
            values = table.query_many(np.arange(len(table)), objective, space=space)[objective]
            for found in (
                table.best(objective, device=device, space=space),
                table.front((objective,), device=device, space=space),
            ):
                assert found.labels[0].startswith(f"{space}:")
                assert f"@{device}" in found.labels[0]
                assert found.values[objective][0] == np.nanmax(values[here])
                assert found.among == here.sum()
    with pytest.raises(DataError, match="no network with cifar10_accuracy on zcu102, shiftadd: ask for others"):
        table.best("cifar10_accuracy", device="zcu102", space="shiftadd")


def test_the_best_networks_are_by_default_the_most_accurate_or_else_the_fastest(toy, tmp_path: Path) -> None:
    assert toy.top(1, device="board").index.tolist() == [1]
    assert list(toy.top(1).values) == ["accuracy"]
    metrics = {name: metric for name, metric in METRICS.items() if name != "accuracy"}
    write(
        tmp_path / "costs", card(metrics=metrics), [block for block in blocks() if block.key[1] != "accuracy"], LABELS
    )
    found = hwbench_data.load(tmp_path / "costs").top(2, device="board")
    assert found.index.tolist() == [3, 0]
    assert (list(found.values), found.among) == (["latency_ms"], 4)
    assert hwbench_data.load(tmp_path / "costs").top(1, device="chip").among == 3  # one network has no figure there


def test_networks_named_by_keys_have_no_arch() -> None:
    blocks = hwbench_data.load("fbnet_blocks")
    with pytest.raises(ConfigError, match=r"network 'ConvBlock_.*' of table fbnet_blocks has no decisions"):
        blocks.networks.arch(5)


def test_lists_of_numbers_are_looked_up_at_once_and_checked_as_arrays_are(toy) -> None:
    for wanted in ([3, 0, 3], [], [np.int64(1), 2], ["a=skip", 0]):
        expected = [toy.query(network, "board", "latency_ms")["latency_ms"] for network in wanted]
        assert toy.query_many(wanted, "latency_ms", "board")["latency_ms"].tolist() == expected
    large = (([2**63], "index of more"), ([10**40], "index of more"))
    for wanted, said in (([0, 4], "index 4"), ([-1], "index -1"), *large, ([0, True], "True"), ([1.0], "1.0")):
        with pytest.raises(ConfigError, match=said):
            toy.query_many(wanted, "latency_ms", "board")


def test_many_at_once_equals_one_by_one(toy) -> None:
    many = toy.query_many(np.array([3, 0, 3]), ("macs", "latency_ms"), "board")
    for i, network in enumerate((3, 0, 3)):
        assert {name: column[i] for name, column in many.items()} == toy.query(network, "board", ["macs", "latency_ms"])


def test_one_metric_as_text(toy) -> None:
    assert toy.query(1, "board", "latency_ms") == {"latency_ms": 5.0}
    assert toy.front("latency_ms", device="board").index.tolist() == [3]
    assert toy.top(0, "macs").index.tolist() == []


def test_rows_name_unit_source_and_conditions(toy) -> None:
    rows = toy.rows(0, "board")
    assert [(r.device, r.metric, r.unit, r.conditions, r.value, r.source) for r in rows] == [
        ("any", "macs", "operations", {}, 2.0, "modelled"),
        ("any", "accuracy", "fraction", {}, 0.7, "measured"),
        ("board", "latency_ms", "ms", {"input": "8x8"}, 3.0, "measured"),
        ("board", "latency_ms", "ms", {"input": "4x4"}, 0.75, "predicted"),
    ]
    assert len(toy.to_pandas()) == 22


def test_front_top_and_constraints(toy) -> None:
    front = toy.front(("accuracy", "latency_ms"), device="board")
    assert front.index.tolist() == [1, 0, 3]  # network 2 is slower and less accurate than 1
    assert front.labels[0] == "a=conv_k5_e1"
    assert toy.front(device="board").index.tolist() == [1, 0, 3]
    assert toy.front(("latency_ms",), {"min_accuracy": 0.6}, "board").index.tolist() == [0]
    assert toy.top(2, "accuracy").index.tolist() == [1, 2]
    assert toy.best("accuracy", {"max_macs": 3}, "board").records() == [
        {"index": 0, "network": "a=conv_k3_e1", "accuracy": 0.7, "macs": 2.0}
    ]
    with pytest.raises(InfeasibleError, match="least latency_ms 1"):
        toy.front(("accuracy",), {"max_latency_ms": 0.5}, "board")


def test_the_best_spread_is_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    spread = np.full(15625, 0.5)
    spread[[7, 9]] = 0.01, 0.9
    monkeypatch.setattr(analog, "accuracies", lambda metric: spread)
    table = hwbench_data.load("nasbench201")
    assert table.metrics["cifar10_accuracy_analog_drift_1d"].better == "higher"
    assert table.best("cifar10_accuracy_analog_drift_1d_std").values["cifar10_accuracy_analog_drift_1d_std"] < 0.5
    assert {metric.better for name, metric in table.metrics.items() if name.endswith("_std")} == {"lower"}


@given(st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=1, max_size=30))
def test_undominated_rows_equal_brute_force(rows: list[tuple[int, ...]]) -> None:
    for width in (1, 2, 3):
        values = np.array(rows, float)[:, :width]
        found = _undominated(values)

        def beats(a: np.ndarray, b: np.ndarray) -> bool:
            return bool((a <= b).all() and (a < b).any())

        front = {tuple(b) for b in values if not any(beats(a, b) for a in values)}
        assert {tuple(values[i]) for i in found} == front
        assert len(found) == len(front)


def test_random_and_splits_keep_isomorphic_cells_together() -> None:
    table = hwbench_data.load("nasbench201")
    classes = table.networks.classes
    assert len(np.unique(table.networks.same)) == 5425
    drawn = table.random(500, seed=3)
    assert len(np.unique(classes[drawn])) == 500
    assert np.array_equal(drawn, table.random(500, seed=3))
    assert not np.array_equal(drawn, table.random(500, seed=4))
    parts = table.split((0.6, 0.2, 0.2), seed=1)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(table)))
    for a, b in itertools.combinations(parts, 2):
        assert not set(classes[a]) & set(classes[b])
    with pytest.raises(ConfigError, match="4930 distinct"):
        table.random(5000)


def test_shipped_costs_follow_the_effective_cell_and_the_index_order() -> None:
    table = hwbench_data.load("nasbench201")
    assert table.networks.label(0) == (
        "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
    )
    dead = table.query("|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|", "zcu102")
    bare = table.query("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|", "zcu102")
    assert dead["latency_ms"] == bare["latency_ms"]
    assert dead["params"] == bare["params"]
    full = table.query(
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    )
    assert round(full["macs"] / 1e6, 2) == 220.12  # the benchmark's published FLOPs, in millions


def test_no_condition_metric_or_device_is_guessed(toy) -> None:
    for call, match in (
        (lambda: toy.query(0, "bord"), "did you mean 'board'"),
        (lambda: toy.query(0, "board", ["latency"]), "did you mean 'latency_ms'"),
        (lambda: toy.query(0, "board", input="16x16"), "unknown input '16x16'"),
        (lambda: toy.query(0, "board", size="8x8"), "no condition 'size'"),
        (lambda: toy.query("a=conv_k5_e2", "board"), "did you mean"),
        (lambda: toy.query(9, "board"), "networks 0 to 3"),
        (lambda: toy.query_many(np.array([0, 7]), "macs"), "index 7"),
        (lambda: toy.query(True, "board"), "expected an index"),
        (lambda: toy.query(0, metrics=["latency_ms"]), "depends on the device"),
        (lambda: toy.query(0, "board", ["energy_mj"]), "has it of chip"),
        (lambda: toy.front(("accuracy",), {"latency_ms": 1}, "board"), "max_METRIC"),
        (lambda: toy.accuracies([0], "latency_ms"), "unknown accuracy"),
        (lambda: toy.query(5, 5), "unknown device 5 "),
        (lambda: toy.query(1, ["board"]), r"unknown device \['board'\] "),
        (lambda: toy.query(1, "board", input=8), "unknown input 8 "),
        (lambda: toy.query(1, "board", input=["8x8"]), r"unknown input \['8x8'\] "),
        (lambda: toy.query(1, "board", [5]), "unknown metric 5 "),
        (lambda: toy.query(1, "board", 5), "metrics 5: expected names"),
        (lambda: toy.query(1, "board", "latency"), "did you mean 'latency_ms'"),
        (lambda: toy.query_many(1, "macs"), "networks '1': expected a sequence"),
        (lambda: toy.query_many("1", "macs"), "networks '1': expected a sequence"),
        (lambda: toy.query_many(np.array(1), "macs"), "networks '1': expected a sequence"),
        (lambda: toy.query_many({"a": "skip"}, "macs"), "expected a sequence"),
        (lambda: toy.sources(1, "macs", "board"), "networks '1': expected a sequence"),
        (lambda: toy.accuracies([0], ["accuracy"]), "unknown accuracy"),
        (lambda: toy.front("latency", device="board"), "did you mean 'latency_ms'"),
        (lambda: toy.top(1, ["macs"]), "unknown metric"),
        (lambda: toy.top(1, "macs", {"max_latency_ms": "x"}, "board"), "max_latency_ms is 'x', expected a number"),
        (lambda: toy.top(1, "macs", {"max_latency_ms": np.nan}, "board"), "max_latency_ms is nan, expected a number"),
        (lambda: toy.top(1, "macs", {"max_latency_ms": [1]}, "board"), "expected a number"),
        (lambda: toy.top(1, "macs", {"max_latency_ms": None}, "board"), "expected a number"),
        (lambda: toy.top(1, "macs", {"max_latency_ms": 10**400}, "board"), "expected a number"),
        (lambda: toy.top(-1, "macs"), "-1 best networks"),
        (lambda: toy.top(1.5, "macs"), "expected a whole number"),
        (lambda: toy.random(-1), "-1 random networks"),
        (lambda: toy.random("1"), "expected a whole number"),
        (lambda: toy.split((np.nan,)), "fractions .*expected positive numbers"),
        (lambda: toy.split((0.5, np.nan)), "fractions .*expected positive numbers"),
        (lambda: toy.split(("a",)), "fractions .*expected positive numbers"),
        (lambda: toy.split(0.5), "fractions .*expected positive numbers"),
        (lambda: toy.split(()), "fractions .*expected positive numbers"),
        (lambda: toy.split((0.5, 0.6)), "fractions .*expected positive numbers"),
        (lambda: hwbench_data.load("nasbench20"), "did you mean 'nasbench201'"),
    ):
        with pytest.raises(CosearchError, match=match) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_cut_altered_or_missing_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    write(folder, card(), blocks(), LABELS)
    path = folder / "table.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(DataError, match=r"table\.parquet has \d+ bytes, its card says"):
        hwbench_data.load(folder)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=r"table\.parquet was altered"):
        hwbench_data.load(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"cannot read .*table\.parquet"):
        hwbench_data.load(folder)
    with pytest.raises(DataError, match="no table in"):
        hwbench_data.load(tmp_path)
    (folder / "card.json").write_text("{")
    with pytest.raises(DataError, match=r"card\.json"):
        hwbench_data.load(folder)


def test_a_card_without_units_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    write(folder, card(), blocks(), LABELS)
    data = json.loads((folder / "card.json").read_text())
    data["metrics"]["latency_ms"]["unit"] = ""
    (folder / "card.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match="metric 'latency_ms' has unit ''"):
        hwbench_data.load(folder)
    del data["metrics"]["latency_ms"]["unit"]
    (folder / "card.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match="metric 'latency_ms' has no unit: give one, such as ms"):
        hwbench_data.load(folder)


def test_shipped_tables_are_small_and_their_cards_say_how_they_came_about() -> None:
    size = 0
    for name in library.TABLES:
        store = Store(library.folder(name))
        card, folder = store.card, store.folder
        assert set(card.files) == {path.name for path in folder.iterdir()} - {"card.json"}
        size += sum(path.stat().st_size for path in folder.iterdir())
        file = pq.ParquetFile(folder / "table.parquet")
        assert file.schema_arrow.names == ["network", "device", "metric", *card.conditions, "value", "source"]
        chunks = [file.metadata.row_group(i).column(j) for i in range(file.num_row_groups) for j in (0, 1, 2)]
        assert {chunk.compression for chunk in chunks} == {"ZSTD"}
        assert card.built["command"] == f"cosearch bench build {name}"
        assert {"seed", "date", "licence"} <= set(card.built)
        assert {"python", "cosearch", "numpy", "torch"} <= set(card.built["versions"])
        for metric in card.metrics.values():
            assert metric.unit in UNITS
        for device, facts in card.devices.items():
            assert "mapping" in facts["policy"] or facts["source"] == "measured"
            assert {key[1] for key in store.groups if key[0] == device} >= {"latency_ms"}
        assert len(card.devices) >= (8 if name in ("nasbench201", "fbnet_blocks") else 2)
    assert size < 30 << 20


def test_measured_cells_of_the_processor_are_many_and_the_rest_is_marked() -> None:
    table = hwbench_data.load("nasbench201")
    for image in ("32x32", "16x16"):
        sources = np.array(table.sources(np.arange(nb.SIZE), "latency_ms", "cpu-x86", input=image))
        assert set(sources) == {"measured", "predicted"}
        assert len(np.unique(table.networks.same[sources == "measured"])) >= 1000
        assert 0 < table.card.devices["cpu-x86"][image]["held_out_mean_error"] < 0.1


def test_only_the_rows_asked_for_are_read_once_from_a_mapped_file(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    original = pq.ParquetFile.read_row_group

    def read_row_group(self, group, columns):
        asked.append((group, columns))
        return original(self, group, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", read_row_group)
    table = hwbench_data.load("nasbench201")
    assert asked == []
    for _ in range(2):
        table.query_many(np.arange(nb.SIZE), ("latency_ms", "energy_mj"), "pim", input="16x16")
        keys = [("pim", metric, "16x16", "default") for metric in ("latency_ms", "energy_mj")]
        assert asked == [(table.store.groups[key], ["network", "value", "source"]) for key in keys]
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(table.store.folder / "table.parquet") in maps.read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"files": {}}, r"no size and checksum of networks\.parquet, table\.parquet"),
        ({"files": []}, "incomplete"),
        ({"files": {"table.parquet": 5}}, "incomplete"),
        ({"files": {"table.parquet": {}, "networks.parquet": {}, "../../etc/passwd": {}}}, "a file beside it"),
        ({"devices": {"chip": 5}}, "incomplete"),
        ({"conditions": {"input": []}}, "condition 'input' has no values"),
        ({"built": {"versions": 5}}, "incomplete"),
        ({"built": []}, "incomplete"),
    ],
)
def test_a_card_that_hides_or_misleads_is_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    """What has no checksum would be believed unseen."""
    folder = tmp_path / "toy"
    write(folder, card(), blocks(), LABELS)
    data = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**data, **change}))
    with pytest.raises(DataError, match=said) as caught:
        hwbench_data.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("network", pa.array([0, 1], pa.int64()), "network is a column of int64, expected int32"),
        ("network", pa.array([0, None], pa.int32()), "is damaged .*missing"),
        ("value", pa.array([1.0, 2.0], pa.float32()), "value is a column of float, expected double"),
        ("value", pa.array(["1", "2"]), "value is a column of string"),
        ("value", pa.array([1.0, np.inf]), "a value of board, latency_ms, 8x8 is not finite"),
        ("value", pa.array([1.0, np.nan]), "a value of board, latency_ms, 8x8 is not finite"),
        ("value", pa.array([1.0, None]), "is damaged .*missing"),
        ("device", pa.array([1, 1]), "device is a column of int64, expected string"),
        ("source", pa.array([[1], [2]]), "source is a column of list"),
        ("source", pa.array(["measured", None]), "is damaged .*missing|sources"),
        ("label", pa.array([1, 2, 3, 4]), "lists 1, expected the names"),
        ("label", pa.array(["a", None, "c", "d"]), "lists None, expected the names"),
    ],
)
def test_tables_with_columns_of_another_kind_are_refused(tmp_path: Path, column: str, values: pa.Array, said: str):
    """Others write tables too, with checksums that are right."""
    folder = tmp_path / "toy"
    write(folder, card(), blocks()[2:3], LABELS)
    name = "networks.parquet" if column == "label" else "table.parquet"
    columns = {name: ["board", "latency_ms", "8x8"][i] for i, name in enumerate(("device", "metric", "input"))}
    rows = {"network": pa.array([0, 1], pa.int32()), **{k: pa.array([v] * 2) for k, v in columns.items()}}
    rows |= {"value": pa.array([1.0, 2.0]), "source": pa.array(["measured"] * 2)}
    pq.write_table(pa.table({column: values} if column == "label" else {**rows, column: values}), folder / name)
    data = json.loads((folder / "card.json").read_text())
    data["files"][name] = checksum(folder / name)
    (folder / "card.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=said) as caught:
        hwbench_data.load(folder).query(0, "board")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "from_end"), [("table.parquet", 1), ("networks.parquet", 2)])
def test_texts_that_lead_out_of_their_dictionary_are_refused(tmp_path: Path, name: str, from_end: int) -> None:
    """from_end: where the last column holds places in its dictionary, the end of its bytes being 0.

    Arrow reads them without a look, and what comes of them later is beyond its memory.
    """
    folder = tmp_path / "toy"
    write(folder, card(), blocks()[2:3], LABELS)
    if name == "networks.parquet":
        pq.write_table(pa.table({"label": [*LABELS[:3], LABELS[0]]}), folder / name, compression="none")
    group = pq.ParquetFile(folder / name).metadata.row_group(0)
    chunk = group.column(group.num_columns - 1)
    content = bytearray((folder / name).read_bytes())
    content[chunk.dictionary_page_offset + chunk.total_compressed_size - from_end] = 0xFF
    (folder / name).write_bytes(content)
    data = json.loads((folder / "card.json").read_text())
    data["files"][name] = checksum(folder / name)
    (folder / "card.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match="out of bounds") as caught:
        hwbench_data.load(folder).query(0, "board")
    assert "\n" not in str(caught.value)


def test_rows_that_disagree_are_refused(tmp_path: Path) -> None:
    twice = Block(("board", "latency_ms", "8x8"), np.array([0, 1, 1]), np.array([1.0, 2.0, 3.0]), np.zeros(3, np.int8))
    write(tmp_path / "toy", card(), [twice], LABELS)
    table = hwbench_data.load(tmp_path / "toy")
    with pytest.raises(DataError, match="network 1 has two values of board, latency_ms, 8x8"):
        table.query(0, "board")
    with pytest.raises(DataError, match="occurs twice"):
        write(tmp_path / "again", card(), [*blocks(), blocks()[0]], LABELS)
    with pytest.raises(DataError, match="not finite"):
        write(tmp_path / "infinite", card(), [Block.full((ANY, "macs", ANY), np.array([np.inf]), "modelled")], LABELS)


def test_check_finds_what_is_wrong(tmp_path: Path, toy) -> None:
    assert check_table(toy) == []
    wrong = {
        "expected 0 or more": Block.full(("board", "latency_ms", "8x8"), -LATENCY, "measured"),
        "at most 1": Block.full((ANY, "accuracy", ANY), ACCURACY + 1, "measured"),
        "more operations are cheaper": Block.full(("chip", "latency_ms", "8x8"), 10 - LATENCY, "modelled"),
        "device is not on the card": Block.full(("other", "latency_ms", "8x8"), LATENCY, "modelled"),
        "metric is not on the card": Block.full(("chip", "area_mm2", "8x8"), LATENCY, "modelled"),
    }
    for i, (message, block) in enumerate(wrong.items()):
        write(tmp_path / str(i), card(), [block], LABELS)
        assert any(message in problem for problem in check_table(hwbench_data.load(tmp_path / str(i))))
    metrics = {**METRICS, "macs": Metric("furlongs", "lower", "?")}
    write(tmp_path / "unit", card(metrics=metrics), blocks(), LABELS)
    assert "furlongs" in check_table(hwbench_data.load(tmp_path / "unit"))[0]


def test_equal_networks_with_two_answers_are_found(tmp_path: Path) -> None:
    cells = Card(**{**vars(card()), "networks": {"kind": "nasbench201", "count": 15625}})
    values = np.arange(15625.0)
    write(tmp_path / "cells", cells, [Block.full(("chip", "latency_ms", "8x8"), values, "measured")])
    assert any("equal networks" in text for text in check_table(hwbench_data.load(tmp_path / "cells")))


@pytest.mark.parametrize(("source", "wrong"), [("modelled", True), ("measured", False), ("predicted", False)])
def test_equal_networks_measured_apart_differ_by_noise(tmp_path: Path, source: str, wrong: bool) -> None:
    cells = Card(**{**vars(card()), "networks": {"kind": "nasbench201", "count": 15625}})
    values = 1.0 + 0.1 * (np.arange(15625) % 2)
    write(tmp_path / "cells", cells, [Block.full(("chip", "latency_ms", "8x8"), values, source)])
    assert any("equal networks" in text for text in check_table(hwbench_data.load(tmp_path / "cells"))) == wrong


def _cells(
    folder: Path, values: np.ndarray, source: str = "measured", metric: str = "latency_ms"
) -> hwbench_data.Table:
    """A table of cells with one figure each."""
    cells = Card(**{**vars(card()), "networks": {"kind": "nasbench201", "count": 15625}})
    write(folder, cells, [Block.full(("chip", metric, "8x8"), values, source)])
    return hwbench_data.load(folder)


def _whole() -> np.ndarray:
    """[cells] whether every edge but `none` lies on a path from input to output, found by walking all paths."""
    paths = [("0-3",), ("0-1", "1-3"), ("0-2", "2-3"), ("0-1", "1-2", "2-3")]

    def whole(cell: dict[str, str]) -> bool:
        live = {edge for edge, operation in cell.items() if operation != "none"}
        return live == {edge for path in paths if live.issuperset(path) for edge in path}

    return np.array([whole(nb.cell(i)) for i in range(nb.SIZE)])


def test_cells_are_alike_edge_by_edge() -> None:
    cells, whole = Cells(), _whole()
    alike, same = cells.alike, cells.same
    assert len(np.unique(alike[~whole])) == (~whole).sum()
    assert not np.isin(alike[~whole], alike[whole]).any()
    pairs = np.stack([alike[whole], same[whole]])
    assert len(np.unique(pairs, axis=1).T) == len(np.unique(alike[whole])) == len(np.unique(same[whole]))


@pytest.mark.parametrize(("share", "wrong"), [(0.05, False), (0.2, True)])
def test_measured_equal_networks_may_be_off_by_noise_but_not_many(tmp_path: Path, share: float, wrong: bool) -> None:
    whole = _whole()
    rng = np.random.default_rng(0)
    values = np.where(rng.random(nb.SIZE) < share, 2.0, 1.0)
    values[~whole] = 50.0  # takes time for edges that lead nowhere
    same = Cells().same
    sizes = np.bincount(same[whole])
    far = compared = 0
    for group in np.flatnonzero(sizes > 1):
        own = values[whole & (same == group)]
        median = np.median(own)
        compared += len(own)
        far += int((np.maximum(own / median, median / own) > 1.25).sum())
    said: list[str] = []
    problems = check_table(_cells(tmp_path / "cells", values), said.append)
    found = next(text for text in problems + said if "off their median" in text)
    assert found.startswith(f"chip, latency_ms, 8x8: {far:,} of {compared:,} equal networks are more than 25% off")
    assert any("off their median" in text for text in problems) == wrong
    assert any("off their median" in text for text in said) != wrong


@pytest.mark.parametrize(("source", "share", "wrong"), [
    ("measured", 0.0, False), ("measured", 0.04, False), ("measured", 0.3, True), ("published", 0.3, True),
    ("modelled", 0.001, True),
])  # fmt: skip
def test_heavier_measured_networks_may_be_cheaper_by_noise_but_not_many(
    tmp_path: Path, source: str, share: float, wrong: bool
) -> None:
    rng = np.random.default_rng(1)
    labels = [f"a=conv_k{kernel}_e1;b={i}" for i in range(1000) for kernel in (3, 5)]
    light = rng.uniform(1, 2, 1000)
    cheaper = rng.permutation(1000) < round(share * 1000)
    values = np.stack([light, light * np.where(cheaper, 0.5, 0.9 if source == "measured" else 1.5)], axis=1).ravel()
    listed = card(networks={"kind": "listed", "count": 2000})
    write(tmp_path / "t", listed, [Block.full(("board", "latency_ms", "8x8"), values, source)], labels)
    said: list[str] = []
    problems = check_table(hwbench_data.load(tmp_path / "t"), said.append)
    assert bool(problems) == wrong
    if source != "modelled" and share:
        counted = f"{round(share * 1000)} of 1,000 networks with more operations are cheaper by more than 25%"
        assert counted in (problems if wrong else said)[0]


def test_measured_energy_is_judged_alone_modelled_energy_with_latency(tmp_path: Path) -> None:
    latency, energy = np.array([1.0, 2.0, 3.0, 0.5]), np.array([4.0, 3.0, 5.0, 1.0])  # the larger kernel saves energy
    for source, expected in (("modelled", 0), ("measured", 1)):
        figures = [
            Block.full(("board", metric, "8x8"), values, source)
            for metric, values in (("latency_ms", latency), ("energy_mj", energy * np.array([1, 0.9, 1, 1])))
        ]
        write(tmp_path / source, card(), figures, LABELS)
        problems = check_table(hwbench_data.load(tmp_path / source))
        assert len(problems) == expected
        assert all(text.startswith("board, energy_mj") for text in problems)
    figures = [
        Block.full(("board", metric, "8x8"), np.array(values), "modelled")
        for metric, values in (("latency_ms", [3.0, 2.0, 4.0, 0.5]), ("energy_mj", [4.0, 7.0, 5.0, 1.0]))
    ]
    write(tmp_path / "chosen", card(), figures, LABELS)  # the larger kernel has chosen a faster accelerator
    assert check_table(hwbench_data.load(tmp_path / "chosen")) == []


def test_networks_that_are_listed_twice_are_found(tmp_path: Path) -> None:
    labels = ["a=skip;b=x", "a=skip;b=y", "b=x;a=skip", "a=conv;b=x"]
    write(tmp_path / "twice", card(), [Block.full(("board", "latency_ms", "8x8"), LATENCY, "measured")], labels)
    assert check_table(hwbench_data.load(tmp_path / "twice")) == ["network 'b=x;a=skip' is listed twice"]


def test_a_card_with_another_count_is_found(tmp_path: Path) -> None:
    cells = Card(**{**vars(card()), "networks": {"kind": "nasbench201", "count": 7}})
    write(tmp_path / "cells", cells, [Block.full(("chip", "latency_ms", "8x8"), np.ones(15625), "modelled")])
    assert check_table(hwbench_data.load(tmp_path / "cells")) == [
        "its card says that it has 7 networks, expected 15625"
    ]


def test_a_full_disk_spares_the_table_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "toy"
    write(folder, card(), blocks(), LABELS)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"cannot write .*table.parquet \(No space left on device\)"):
        write(folder, card(), blocks()[:2], LABELS)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_files_laid_out_otherwise_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from hwbench_data.store import checksum

    folder = tmp_path / "toy"
    write(folder, card(), blocks(), LABELS)
    for columns, match in (
        ({"network": [0], "value": [1.0]}, "has columns network, value"),
        (
            {
                "network": [0, 1],
                "device": ["a", "b"],
                "metric": ["m", "m"],
                "input": ["x", "x"],
                "value": [1.0, 2.0],
                "source": ["measured", "measured"],
            },
            "mixes devices or metrics",
        ),
    ):
        pq.write_table(pa.table(columns), folder / "table.parquet")
        data = json.loads((folder / "card.json").read_text())
        data["files"]["table.parquet"] = checksum(folder / "table.parquet")
        (folder / "card.json").write_text(json.dumps(data))
        with pytest.raises(DataError, match=match):
            _ = Store(folder).groups


def test_a_query_loads_neither_torch_nor_sklearn_nor_pandas() -> None:
    code = (
        "import sys, hwbench_data; t = hwbench_data.load('nasbench201'); t.query(7, 'zcu102', ['latency_ms']);"
        "t.front(('latency_ms', 'params'), device='gemmini');"
        "print([m for m in ('torch', 'sklearn', 'pandas', 'optuna', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_names_are_one_kind_of_error() -> None:
    with pytest.raises(UnknownNameError, match="folder of a table"):
        hwbench_data.load("/nonexistent/place")


@pytest.mark.parametrize("name", ["unit", "better", "title"])
def test_a_card_whose_metric_is_no_text_is_refused(tmp_path, name) -> None:
    write(tmp_path / "toy", card(), blocks(), LABELS)
    path = tmp_path / "toy" / "card.json"
    data = json.loads(path.read_text())
    data["metrics"]["macs"][name] = True
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match="metric 'macs' has a unit, direction or title that is no text"):
        hwbench_data.load(tmp_path / "toy")


def test_a_table_with_figures_that_its_card_does_not_tell_of_is_refused(tmp_path) -> None:
    write(tmp_path / "toy", card(), blocks(), LABELS)
    path = tmp_path / "toy" / "card.json"
    data = json.loads(path.read_text())
    del data["metrics"]["macs"]
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match="the card tells nothing of the metric 'macs'"):
        hwbench_data.load(tmp_path / "toy").rows(0)


def test_tables_that_unpack_to_much_are_not_read(tmp_path, monkeypatch) -> None:
    write(tmp_path / "toy", card(), blocks(), LABELS)
    monkeypatch.setattr("hwbench_data.store.LARGEST_TABLE_CELLS", 130)
    with pytest.raises(DataError, match=r"unpack to 132 values .* at most 130"):
        hwbench_data.load(tmp_path / "toy").store.arrow()
    monkeypatch.setattr("hwbench_data.store.LARGEST_UNPACKED", 10)
    with pytest.raises(DataError, match="unpack to"):
        hwbench_data.load(tmp_path / "toy")


def test_labels_that_are_one_text_again_and_again_are_not_written_out(tmp_path, monkeypatch) -> None:
    write(tmp_path / "toy", card(), blocks(), ["a" * 1000] * 1000)
    monkeypatch.setattr("hwbench_data.store.LARGEST_UNPACKED", 100_000)
    with pytest.raises(DataError, match=r"networks\.parquet is not a readable list of networks .*unpack to 0 values"):
        hwbench_data.load(tmp_path / "toy")
