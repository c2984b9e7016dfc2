"""Importing the formats that others publish, real samples among them, and refusing what is wrong with a file."""

import itertools
import json
import os
import pickle
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hwbench_data
from cosearch.errors import ConfigError, CosearchError, DataError, UnknownNameError
from hwbench_data.checking import check_table
from hwbench_data.importing import checked_map, import_file, read_map
from hwbench_data.measured import COLUMNS, _row
from hwbench_data.measuring import Measurement
from hwbench_data.networks import notation
from hwbench_data.store import Block, write
from search_spaces.networks import fbnet
from search_spaces.networks import nasbench201 as nb

REFERENCE = os.environ.get("COSEARCH_REFERENCE_DATA")
with_reference = pytest.mark.skipif(not REFERENCE, reason="COSEARCH_REFERENCE_DATA is not set")
PIXEL = {"network": "arch", "values": {"ms": {"device": "pixel3", "metric": "latency_ms", "unit": "ms"}}}
MAP = checked_map(PIXEL, "map")
ROWS = {"device": "device", "metric": "metric", "value": "value"}
LONG = {"network": "key", "rows": ROWS}
FULL = {**LONG, "rows": {**ROWS, "unit": "unit", "valid": "ok", "source": "source"}}


def one(column: str = "value", **facts: str):
    return checked_map({"values": {column: facts}}, "map")


def csv(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_csv_by_index_and_by_notation(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", f'arch,ms\n5,1.5\n"{nb.to_string(nb.cell(7))}",2.5\n9,\n')
    card, left_out = import_file(path, "nasbench201", MAP, tmp_path / "phone")
    table = hwbench_data.load(tmp_path / "phone")
    assert table.query(5, "pixel3")["latency_ms"] == 1.5
    assert table.query(7, "pixel3")["latency_ms"] == 2.5
    assert "latency_ms" not in table.query(9, "pixel3")
    assert table.sources([5], "latency_ms", "pixel3") == ["published"]
    assert left_out == ["ms: 15623 networks have no number"]
    assert card.metrics["latency_ms"].unit == "ms"


def test_what_bench_measure_writes_is_imported(tmp_path: Path) -> None:
    results = [Measurement(notation(nb.cell(i)), i / 8, i / 9, i / 7, 100, 3, i != 9) for i in (5, 9, 12)]
    path = csv(tmp_path / "here.csv", "\n".join(",".join(map(str, row)) for row in [COLUMNS, *map(_row, results)]))
    facts = {"device": "here", "metric": "latency_ms", "unit": "ms", "source": "measured"}
    mapping = checked_map({"network": "arch", "values": {"latency_ms": facts}}, "map")
    import_file(path, "nasbench201", mapping, tmp_path / "here")
    table = hwbench_data.load(tmp_path / "here")
    assert table.query(notation(nb.cell(12)), "here", ["latency_ms"]) == {"latency_ms": 1.5}
    times = table.query_many(range(15625), "latency_ms", "here")["latency_ms"]
    assert np.flatnonzero(np.isfinite(times)).tolist() == [5, 12]  # 9 was too noisy


def test_units_are_converted(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "arch,t,e,acc\n0,1500,0.25,93.5\n")
    values = {
        "t": {"device": "d", "metric": "latency_ms", "unit": "us", "source": "measured"},
        "e": {"device": "d", "metric": "energy_mj", "unit": "J"},
        "acc": {"metric": "cifar100_accuracy", "unit": "percent"},
    }
    mapping = checked_map({"network": "arch", "values": values}, "map")
    import_file(path, "nasbench201", mapping, tmp_path / "out")
    found = hwbench_data.load(tmp_path / "out").query(0, "d", ["latency_ms", "energy_mj", "cifar100_accuracy"])
    assert found == pytest.approx({"latency_ms": 1.5, "energy_mj": 250.0, "cifar100_accuracy": 0.935})


def test_a_spread_is_better_when_lower(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "network,std\n0,1\n1,2\n")
    card, _ = import_file(path, "nasbench201", one("std", metric="accuracy_std", unit="percent"), tmp_path / "out")
    assert card.metrics["accuracy_std"].better == "lower"


def hwnasbench(path: Path, **more: object) -> Path:
    cifar = {
        "edgegpu_latency": [5.80742, 6.54769, 4.0],
        "edgegpu_energy": [24.22661, 29.99715, 20.0],
        "fpga_latency": np.array([2.57296, 5.31536, 1.0]),
        "eyeriss_arithmetic_intensity": [1.0, 2.0, 3.0],
        "average_hw_metric": [1.0, 1.0, 1.0],
        "config": [{"name": "infer.tiny"}] * 3,
        **more,
    }
    lut = {"ConvBlock_H112_W112_Cin16_Cout16_exp1_kernel3_stride1_group1": 0.5, "FC_Cin1984_Cout1000": 0.1}
    data = {
        "nasbench201": {"cifar10": cifar, "cifar100": cifar},
        "fbnet": {"ImageNet": {"edgegpu_latency": lut, "fpga_latency": dict(list(lut.items())[:1])}},
    }
    path.write_bytes(pickle.dumps(data))
    return path


def test_hw_nas_bench_pickle(tmp_path: Path) -> None:
    path = hwnasbench(tmp_path / "HW-NAS-Bench-v1_0.pickle")
    import_file(path, "nasbench201", None, tmp_path / "nb", "cifar10")
    table = hwbench_data.load(tmp_path / "nb")
    assert table.devices == ("edgegpu", "fpga")
    assert table.query(1, "edgegpu", ["latency_ms", "energy_mj"]) == {"latency_ms": 6.54769, "energy_mj": 29.99715}
    assert table.query(0, "fpga", ["latency_ms"]) == {"latency_ms": 2.57296}
    import_file(path, "fbnet_blocks", None, tmp_path / "fb")
    blocks = hwbench_data.load(tmp_path / "fb")
    assert blocks.query("FC_Cin1984_Cout1000", "edgegpu") == {"latency_ms": 0.1}
    assert blocks.query("FC_Cin1984_Cout1000", "fpga") == {}
    with pytest.raises(ConfigError, match="cifar10, cifar100: choose one with --dataset"):
        import_file(path, "nasbench201", None, tmp_path / "x")
    with pytest.raises(ConfigError, match="did you mean 'cifar10"):
        import_file(path, "nasbench201", None, tmp_path / "x", "cifar1")


def test_hw_nas_bench_pickle_of_blocks_only(tmp_path: Path) -> None:
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps({"fbnet": {"ImageNet": {"pixel3_latency": {"FC_Cin1984_Cout1000": 0.5}}}}))
    import_file(path, "fbnet_blocks", None, tmp_path / "out")
    assert hwbench_data.load(tmp_path / "out").query("FC_Cin1984_Cout1000", "pixel3") == {"latency_ms": 0.5}
    with pytest.raises(DataError, match="has no space 'nasbench201': known: fbnet"):
        import_file(path, "nasbench201", None, tmp_path / "out")
    path.write_bytes(pickle.dumps({"fbnet": 1.5, "resnet": 2.5}))
    import_file(path, "fbnet_blocks", one(metric="latency_ms", unit="ms"), tmp_path / "out")
    assert len(hwbench_data.load(tmp_path / "out")) == 2


@pytest.mark.parametrize(
    ("cifar10", "match"),
    [
        ([1.5, 2.5], "nasbench201, cifar10 is a list, expected a dict of <device>_latency"),
        ({"pixel3_latency": 3.0}, "holds float, expected a dict of network"),
        ({"pixel3_latency": [10**400]}, "row 1: 'pixel3_latency' holds a number that is too large"),
        ({"pixel3_flops": [1.0]}, "holds no <device>_latency"),
    ],
)
def test_hw_nas_bench_pickles_laid_out_otherwise(tmp_path: Path, cifar10: object, match: str) -> None:
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps({"nasbench201": {"cifar10": cifar10}}))
    with pytest.raises(DataError, match=match) as caught:
        import_file(path, "nasbench201", None, tmp_path / "out", "cifar10")
    assert "\n" not in str(caught.value)


def test_fbnet_look_up_table_in_a_npy_file(tmp_path: Path) -> None:
    lut = {"ConvBlock_H112_W112_Cin16_Cout16_exp1_kernel3_stride1_group1": 0.737254, "FC_Cin1984_Cout1000": 0.05}
    np.save(tmp_path / "lut.npy", lut, allow_pickle=True)  # type: ignore[arg-type]
    mapping = one(device="edgegpu", metric="latency_ms", unit="ms")
    import_file(tmp_path / "lut.npy", "fbnet_blocks", mapping, tmp_path / "out")
    table = hwbench_data.load(tmp_path / "out")
    assert {label: table.query(label, "edgegpu")["latency_ms"] for label in lut} == lut


@pytest.mark.parametrize("suffix", [".json", ".pickle"])
def test_index_to_accuracy(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"nats{suffix}"
    data = {0: 91.5, 15624: 50.0}
    path.write_bytes(json.dumps(data).encode() if suffix == ".json" else pickle.dumps(data))
    import_file(path, "nasbench201", one(metric="cifar100_accuracy", unit="percent"), tmp_path / "out")
    table = hwbench_data.load(tmp_path / "out")
    assert table.accuracies([0, 15624], "cifar100_accuracy") == pytest.approx([0.915, 0.5])


class _Run:
    def __reduce__(self):
        return (eval, ("__import__('pathlib').Path('ran').touch()",))


def test_files_that_would_run_code_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hwnasbench(tmp_path / "evil.pickle", pixel3_latency=_Run())
    np.save(tmp_path / "evil.npy", {"a": _Run()}, allow_pickle=True)  # type: ignore[arg-type]
    for name in ("evil.pickle", "evil.npy"):
        with pytest.raises(DataError, match=rf"{name} asks to load builtins\.eval.*refused") as caught:
            import_file(tmp_path / name, "nasbench201", one(metric="latency_ms", unit="ms"), tmp_path / "x", "cifar10")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("arch,latency\n0,1\n", "no column 'ms'"),
        ("arch,ms\n", "holds no rows"),
        ("arch,ms\n0,fast\n", "row 1: 'ms' is 'fast', not a number"),
        ("arch,ms\n0,1\n20000,2\n", "row 2: index 20000"),
        ("arch,ms\n|conv~0|,1\n", r"row 1: cell '\|conv~0\|'"),
        ("arch,ms\n3,1\n3,2\n", "rows of network 3 disagree in 'ms'"),
        ("arch,ms\n1,5\n3,1\n3,\n3,2\n4,1\n", r"rows of network 3 disagree in 'ms' \(rows 2 and 4\)"),
        ("arch,ms\n3,-1\n", "holds -1 ms, which cannot be"),
        ("arch,ms\n3,90\n4,-1\n5,-2\n", "row 2: 'ms' holds -1 ms, which cannot be"),
        ("arch,ms\n3,-inf\n", "holds -inf ms, which cannot be"),
        ("arch,ms\n3,inf\n", "holds no finite numbers"),
        ("arch,ms\n3,inf\n3,2\n", "rows of network 3 disagree"),
        ("arch,ms\n3,True\n4,False\n", "'ms' is a column of bool, expected numbers"),
        ("arch,ms\n3,\n4,True\n", "row 2: 'ms' is 'True', not a number"),
        ("arch,ms\n3,2020-01-01\n", "row 1: 'ms' is '2020-01-01', not a number"),
        pytest.param(f"arch,ms\n3,1\n4,{10**400}\n", "'ms' holds a number that is too large", id="huge"),
        pytest.param(f"arch,ms\n{10**400},1\n", "row 1: index of more than 18 digits", id="huge index"),
        ("arch,ms\n,1\n", "row 1: no network in 'arch'"),
        ("arch,ms\n3,\n", "holds no numbers"),
        ("arch,ms\n1.5,1\n", "row 1"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(CosearchError, match=match) as caught:
        import_file(csv(tmp_path / "a.csv", text), "nasbench201", MAP, tmp_path / "out")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ms", "match"),
    [
        (pd.to_datetime(["2020-01-01", None]), "column of datetime64"),
        (pd.to_datetime(["2020-01-01", None]).tz_localize("UTC"), "column of datetime64"),
        (pd.to_timedelta([1, 2], "s"), "column of timedelta64"),
        ([True, False], "column of bool"),
        (pd.array([True, None], "boolean"), "column of boolean"),
        (pd.Categorical([True, False]), "column of bool"),
        ([[1.0], [2.0]], "not a number"),
        ([b"x", b"y"], "not a number"),
    ],
)
def test_parquet_columns_that_are_no_numbers(tmp_path: Path, ms: object, match: str) -> None:
    pd.DataFrame({"arch": [3, 4], "ms": ms}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=match) as caught:
        import_file(tmp_path / "a.parquet", "nasbench201", MAP, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_parquet_columns_of_every_kind_of_number(tmp_path: Path) -> None:
    kinds = {
        "gaps": pd.array([1, None], "Int64"),
        "text": ["1", None],
        "categories": pd.Categorical([1, 2]),
        "decimals": [Decimal("1"), Decimal("2.5")],
        "floats": np.array([1, 2.5], np.float32),
    }
    pd.DataFrame({"arch": [3, 4], **kinds}).to_parquet(tmp_path / "a.parquet")
    for kind in kinds:
        values = {kind: {"metric": "latency_ms", "unit": "ms", "device": "phone"}}
        mapping = checked_map({"network": "arch", "values": values}, "map")
        import_file(tmp_path / "a.parquet", "nasbench201", mapping, tmp_path / kind)
        assert hwbench_data.load(tmp_path / kind).query(3, "phone", ["latency_ms"]) == {"latency_ms": 1}


def test_parquet_columns_with_text_that_repeats(tmp_path: Path) -> None:
    texts = [nb.to_string(nb.cell(i)) for i in (3, 4)]
    table = pd.DataFrame({"arch": pd.Categorical(texts), "ms": ["1", "2"], "more": ["x", None]})
    table.to_parquet(tmp_path / "a.parquet", row_group_size=1)
    import_file(tmp_path / "a.parquet", "nasbench201", MAP, tmp_path / "out")
    values = hwbench_data.load(tmp_path / "out").query_many([3, 4], "latency_ms", "pixel3")["latency_ms"]
    assert values.tolist() == [1, 2]


def test_parquet_columns_of_one_name(tmp_path: Path) -> None:
    pq.write_table(
        pa.table([pa.array([3]), pa.array([1]), pa.array([2])], ["arch", "ms", "ms"]), tmp_path / "a.parquet"
    )
    with pytest.raises(DataError, match="has 2 columns 'ms': rename"):
        import_file(tmp_path / "a.parquet", "nasbench201", MAP, tmp_path / "out")


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (True, "holds a bool, expected"),
        (np.bool_(True), r"holds a bool_?, expected"),
        ("1.5", "holds a str, expected"),
        ([1.5], "holds a list, expected"),
        (None, "holds a NoneType, expected"),
        pytest.param(10**400, "holds a number that is too large", id="huge"),
    ],
)
def test_pickles_of_what_is_no_number(tmp_path: Path, value: object, match: str) -> None:
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps({0: 1.5, 7: value}))
    with pytest.raises(DataError, match=f"row 2: 'value' {match}") as caught:
        import_file(path, "nasbench201", one(metric="latency_ms", unit="ms"), tmp_path / "out")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["<f4", ">f8", "<i2", "u1"])
@pytest.mark.parametrize("fortran", [False, True])
def test_arrays_of_numbers(tmp_path: Path, kind: str, fortran: bool) -> None:
    content = np.arange(1, 4).astype(kind)
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_2_0(file, {"descr": kind, "fortran_order": fortran, "shape": (3,)})
        file.write(content.tobytes())
    import_file(tmp_path / "a.npy", "nasbench201", one(metric="latency_ms", unit="ms", device="d"), tmp_path / "out")
    assert hwbench_data.load(tmp_path / "out").query(2, "d", ["latency_ms"]) == {"latency_ms": 3}


@pytest.mark.parametrize("dtype", [bool, "timedelta64[ms]", "datetime64[s]", complex])
def test_arrays_of_what_is_no_number(tmp_path: Path, dtype: object) -> None:
    np.save(tmp_path / "a.npy", np.ones(3, dtype))
    with pytest.raises(DataError, match=r"row 1: 'value' holds a .*, expected"):
        import_file(tmp_path / "a.npy", "nasbench201", one(metric="latency_ms", unit="ms"), tmp_path / "out")


@pytest.mark.parametrize("space", ["nasbench201", "fbnet_blocks"])
def test_networks_named_by_numbers_without_a_text(tmp_path: Path, space: str) -> None:
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps({10**5000: 1.5}))
    with pytest.raises(DataError, match="row 1") as caught:
        import_file(path, space, one(metric="latency_ms", unit="ms"), tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_infinite_figures_are_left_out_by_that_name(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "arch,ms\n3,1\n4,inf\n4,inf\n5,\n")
    _, left_out = import_file(path, "nasbench201", MAP, tmp_path / "out")
    assert left_out == ["ms: 15623 networks have no number", "ms: 1 networks have an infinite number"]
    values = hwbench_data.load(tmp_path / "out").query_many([3, 4], "latency_ms", "pixel3")["latency_ms"]
    assert np.array_equal(values, [1, np.nan], equal_nan=True)


def test_what_networks_are_called_is_known(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "arch,ms\na,1\n")
    for space, match in (
        ("nasbench202", "unknown space 'nasbench202': did you mean 'nasbench201'"),
        ("", "unknown space '': known: .*fbnet_blocks"),
        ("search_spaces.networks.shiftadd:spac", "has no object 'spac'"),
    ):
        with pytest.raises(UnknownNameError, match=match):
            import_file(path, space, MAP, tmp_path / "out")
    for space in ("shiftadd", "gnn", "search_spaces.networks.shiftadd:space"):
        assert import_file(path, space, MAP, tmp_path / "out")[0].networks["space"] == space


def test_equal_cells_keep_their_figures_and_the_card_says_how_far_they_differ(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "arch,ms\n1,2\n9121,20\n5,100\n")
    card, left_out = import_file(path, "nasbench201", MAP, tmp_path / "out")
    assert card.notes == (
        "latency_ms of pixel3: 2 networks have another value than an equal (isomorphic) one, by at most 18 ms "
        "(networks 1 and 9121); each keeps its own.",
    )
    assert left_out == ["ms: 15622 networks have no number"]
    values = hwbench_data.load(tmp_path / "out").query_many([1, 9121], "latency_ms", "pixel3")["latency_ms"]
    assert values.tolist() == [2, 20]
    agreeing = csv(tmp_path / "b.csv", "arch,ms\n1,2\n9121,2\n5,100\n")
    assert import_file(agreeing, "nasbench201", MAP, tmp_path / "b")[0].notes == ()


def test_equal_rows_are_one(tmp_path: Path) -> None:
    import_file(csv(tmp_path / "a.csv", "arch,ms\n3,1\n3,1\n"), "nasbench201", MAP, tmp_path / "out")
    assert hwbench_data.load(tmp_path / "out").query(3, "pixel3")["latency_ms"] == 1


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([], "expected 'network: COLUMN'"),
        ({"network": "a", "values": {}}, "expected 'network: COLUMN'"),
        ({"values": {"a": {"device": "d", "metric": "latency_ms"}}}, "column 'a' has no unit"),
        ({"values": {"a": {"device": "d", "unit": "ms"}}}, "column 'a' needs"),
        ({"values": {"a": {"metric": "latency_ms", "unit": "msec"}}}, "did you mean 'ms'"),
        ({"values": {"a": {"metric": "latency_ms", "unit": "mJ"}}}, "given in 'mJ', not ms"),
        ({"values": {"a": {"metric": "energy_mj", "unit": "J", "source": "mesured"}}}, "did you mean 'measured'"),
        ({"values": {"a": {"metric": "macs", "unit": "operations", "units": 1}}}, "unknown entry 'units'"),
        ({"columns": {}, "values": {"a": {"metric": "macs", "unit": "operations"}}}, "unknown entry 'columns'"),
        ({"values": {"a": {"device": ["d"], "metric": "latency_ms", "unit": "ms"}}}, "device of column 'a' is .* name"),
        ({"values": {"a": {"device": None, "metric": "latency_ms", "unit": "ms"}}}, "device of column 'a' is 'None'"),
        ({"values": {"a": {"device": "", "metric": "latency_ms", "unit": "ms"}}}, "device of column 'a' is ''"),
        ({"values": {"a": {"metric": {}, "unit": "ms"}}}, "metric of column 'a' is '{}', expected a name"),
        ({"values": {"a": {"metric": "latency_ms", "unit": True}}}, "unit of column 'a' is 'True', expected a name"),
        ({**LONG, "values": {"a": {"metric": "macs", "unit": "operations"}}}, "either 'values:' or 'rows:'"),
        ({"network": "a", "values": None}, "expected 'network: COLUMN' and 'values:' with"),
        ({"network": "a", "rows": "value"}, "rows need the names of columns"),
        ({"network": "a", "rows": {"device": "d", "metric": "m"}}, "rows need the names of columns"),
        ({**LONG, "rows": {**ROWS, "units": "u"}}, "unknown entry 'units': did you mean 'unit'"),
        ({**LONG, "rows": {**ROWS, "device": None}}, "device of rows is 'None', expected a name"),
        ({**LONG, None: 1, 2: 1}, "unknown entry '2'"),
        ({"network": None, "values": {"a": {"metric": "macs", "unit": "operations"}}}, "network is 'None'"),
        ({"values": {c: {"metric": "macs", "unit": "operations"} for c in "ab"}}, "two columns are macs"),
    ],
)
def test_bad_maps(data: object, match: str) -> None:
    with pytest.raises(DataError, match=match):
        checked_map(data, "map.yaml")


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "a.pickle").write_bytes(b"\x80\x04nonsense")
    (tmp_path / "b.npy").write_bytes(b"nonsense")
    (tmp_path / "c.json").write_text("{")
    (tmp_path / "d.txt").write_text("")
    (tmp_path / "e.json").write_text('{"0": "x"}')
    (tmp_path / "f.parquet").write_bytes(b"PAR1")
    (tmp_path / "g.json").write_text("3")
    (tmp_path / "map.yaml").write_text("a: [")
    mapping = one(metric="latency_ms", unit="ms")
    for name, match in {
        "a.pickle": "not a benchmark's pickle",
        "b.npy": "not a .npy file",
        "c.json": "not a readable JSON",
        "d.txt": "files that can be imported end in",
        "e.json": "expected a dict of network -> number",
        "f.parquet": "not a readable .parquet file",
        "g.json": "expected a dict of network -> number",
        "h.csv": "check the path",
    }.items():
        with pytest.raises(DataError, match=match) as caught:
            import_file(tmp_path / name, "nasbench201", mapping, tmp_path / "out")
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="not a readable map"):
        read_map(tmp_path / "map.yaml")
    with pytest.raises(ConfigError, match="needs --map"):
        import_file(csv(tmp_path / "a.csv", "arch,ms\n0,1\n"), "nasbench201", None, tmp_path / "out")


def _lists(path: Path, rows: list[object], kind: pa.DataType | None = None) -> Path:
    """A Parquet file that names networks by lists."""
    pq.write_table(pa.table({"arch": pa.array(rows, kind), "ms": [float(i + 1) for i in range(len(rows))]}), path)
    return path


def test_networks_as_lists_of_choices(tmp_path: Path) -> None:
    """In the order of the space's decisions, each the place of its choice; whatever stands before them in the file."""
    rng = np.random.default_rng(0)
    places = rng.integers(5, size=(20, 6))
    path = _lists(tmp_path / "a.parquet", places.tolist())
    before = pa.table({"other": [{"x": 1, "y": 2.0}] * 20, **{c: pq.read_table(path)[c] for c in ("arch", "ms")}})
    pq.write_table(before, path)
    import_file(path, "nasbench201", MAP, tmp_path / "cells")
    table = hwbench_data.load(tmp_path / "cells")
    for row, taken in enumerate(places.tolist()):
        arch = {name: nb.OPERATIONS[place] for name, place in zip(nb.NAMES, taken, strict=True)}
        assert table.query(arch, "pixel3", "latency_ms") == {"latency_ms": row + 1.0}
    import_file(_lists(tmp_path / "b.parquet", [[8] * 22, [0] * 21 + [7]]), "fbnet", MAP, tmp_path / "fbnet")
    table = hwbench_data.load(tmp_path / "fbnet")
    expected = {f"layer{i + 1}": "conv_k3_e1" for i in range(21)} | {"layer22": "conv_k5_e6"}
    assert table.networks.arch(1) == expected
    assert table.query(dict.fromkeys(expected, "skip"), "pixel3") == {"latency_ms": 1.0}


@pytest.mark.parametrize("kind", [pa.list_(pa.int8()), pa.large_list(pa.uint64()), pa.list_(pa.int32(), 6)])
def test_lists_of_every_kind(tmp_path: Path, kind: pa.DataType) -> None:
    import_file(_lists(tmp_path / "a.parquet", [[0] * 6, [4] * 6], kind), "nasbench201", MAP, tmp_path / "out")
    table = hwbench_data.load(tmp_path / "out")
    assert table.query(dict.fromkeys(nb.NAMES, "avg_pool_3x3"), "pixel3", "latency_ms") == {"latency_ms": 2.0}


@pytest.mark.parametrize(
    ("rows", "kind", "space", "match"),
    [
        ([[0, 1, 2, 3, 4]], None, "nasbench201", r"row 1: 5 choices, nasbench201 has 6 decisions"),
        ([[0] * 6, [0] * 5 + [5]], None, "nasbench201", r"row 2: choice 5 of '2-3', expected 0 to 4"),
        ([[0] * 5 + [-1]], None, "nasbench201", r"choice -1 of '2-3'"),
        ([[0] * 5 + [None]], None, "nasbench201", r"choice nan of '2-3'|choice 0.0 of '0-1'"),
        ([[0] * 6, None], None, "nasbench201", "row 2: no network in 'arch'"),
        ([[0.0] * 6], None, "nasbench201", r"'arch' is a column of list<.*double>, not a number or name"),
        ([["0"] * 6], None, "nasbench201", r"'arch' is a column of list<.*string>, not a number or name"),
        ([[[0] * 6]], None, "nasbench201", r"'arch' is a column of list<.*list<.*, not a number or name"),
        ([[0] * 6], None, "fbnet_blocks", "which fbnet_blocks does not have: give a network space"),
        (
            [[0] * 6] * 2,
            None,
            "nasbench201",
            f"rows of network {nb.index_of(dict.fromkeys(nb.NAMES, 'none'))} disagree in 'ms'",
        ),
    ],
)
def test_bad_lists(tmp_path: Path, rows: list[object], kind: pa.DataType | None, space: str, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        import_file(_lists(tmp_path / "a.parquet", rows, kind), space, MAP, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_only_the_column_of_networks_may_be_of_lists(tmp_path: Path) -> None:
    pq.write_table(pa.table({"arch": [0], "ms": [[1]]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"'ms' is a column of list<"):
        import_file(tmp_path / "a.parquet", "nasbench201", MAP, tmp_path / "out")


def test_lists_that_unpack_to_much_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwbench_data.importing.LARGEST_CELLS", 100)
    with pytest.raises(DataError, match="unpack to 122 values"):
        import_file(_lists(tmp_path / "a.parquet", [[0] * 60] * 2, None), "nasbench201", MAP, tmp_path / "out")


@with_reference
def test_twenty_one_real_devices_of_fbnet(tmp_path: Path) -> None:
    path = Path(str(REFERENCE)) / "fbnet_latency_pool_ms.parquet"
    devices = pq.read_schema(path).names[1:]
    values = {device: {"device": device, "metric": "latency_ms", "unit": "ms"} for device in devices}
    _, left_out = import_file(path, "fbnet", checked_map({"network": "arch", "values": values}, "map"), tmp_path / "t")
    assert left_out == []
    table = hwbench_data.load(tmp_path / "t")
    assert (len(table), len(table.devices)) == (5000, 21)
    assert check_table(table) == []
    # the numbers are read as the choices that they are: on a phone larger blocks take longer, skips are the fastest
    archs = [table.networks.arch(i) for i in range(5000)]
    often = np.array([[list(arch.values()).count(choice) for choice in fbnet.CHOICES] for arch in archs])
    for device in ("pixel3", "samsung_a50"):
        latency = table.query_many(range(5000), "latency_ms", device)["latency_ms"]
        each = dict(zip(map(str, fbnet.CHOICES), np.linalg.lstsq(often, latency)[0], strict=True))
        for kernel in ("k3", "k5"):
            e1, e3, e6 = (each[f"conv_{kernel}_{expansion}"] for expansion in ("e1", "e3", "e6"))
            assert each["skip"] < e1 < 0.7 * e3 < 0.5 * e6
        assert max(each, key=each.__getitem__) == "conv_k5_e6"


@with_reference
def test_thirteen_real_devices(tmp_path: Path) -> None:
    path = Path(str(REFERENCE)) / "nb201_latency_pool_ms.parquet"
    raw = pd.read_parquet(path)
    devices = list(raw.columns[2:])
    values = {device: {"device": device, "metric": "latency_ms", "unit": "ms"} for device in devices}
    by_index = checked_map({"network": "arch_idx", "values": values}, "map")
    by_notation = checked_map({"network": "arch_str", "values": values}, "map")
    tables = []
    for name, mapping in (("index", by_index), ("notation", by_notation)):
        _, left_out = import_file(path, "nasbench201", mapping, tmp_path / name)
        assert left_out == []
        tables.append(hwbench_data.load(tmp_path / name))
    everything = np.arange(nb.SIZE)
    for device in devices:
        # index and notation agree only if the published order of indices is ours
        a, b = (table.query_many(everything, "latency_ms", device)["latency_ms"] for table in tables)
        assert np.array_equal(a, b)
        assert np.allclose(a, raw[device], rtol=0, atol=0)
    said: list[str] = []
    assert check_table(tables[0], said.append) == []
    assert any(text.startswith("samsung_s7, latency_ms: 381 of 18,750 networks with more operations") for text in said)
    # the same figures in the order of the choices' product, or of none: every device is found out, twice
    order = {cell: i for i, cell in enumerate(itertools.product(nb.OPERATIONS, repeat=len(nb.NAMES)))}
    product = np.array([order[cell] for cell in nb.published_cells()])
    for name, places in (("product", product), ("random", np.random.default_rng(0).permutation(nb.SIZE))):
        figures = [Block.full((d, "latency_ms"), raw[d].to_numpy(float)[places], "measured") for d in devices]
        write(tmp_path / name, tables[0].card, figures)
        assert len(check_table(hwbench_data.load(tmp_path / name))) == 2 * len(devices)


def test_one_figure_a_row(tmp_path: Path) -> None:
    path = csv(
        tmp_path / "a.csv",
        "key,device,metric,unit,value,ok,source\nA,tpu,latency,us,1500,True,measured\nB,tpu,latency,us,2500,True,measured\n"
        "A,tpu,energy_mj,J,2,True,modelled\nB,tpu,energy_mj,J,0,False,modelled\nA,any,macs,operations,9,True,modelled\n",
    )
    card, left_out = import_file(path, "fbnet_blocks", checked_map(FULL, "map"), tmp_path / "out")
    table = hwbench_data.load(tmp_path / "out")
    assert table.query("A", "tpu") == {"latency_ms": 1.5, "energy_mj": 2000, "macs": 9}
    assert table.query("B", "tpu") == {"latency_ms": 2.5}
    assert table.sources(["A"], "latency_ms", "tpu") == ["measured"]
    assert table.sources(["A"], "macs", "tpu") == ["modelled"]
    assert list(card.devices) == ["tpu"]
    assert left_out == ["energy_mj of tpu: 1 networks have no number", "macs of any: 1 networks have no number"]


def test_our_own_layout_is_imported(tmp_path: Path) -> None:
    import_file(csv(tmp_path / "a.csv", "arch,ms\n3,1.5\n4,2\n"), "nasbench201", MAP, tmp_path / "first")
    first = hwbench_data.load(tmp_path / "first")
    first.to_pandas().to_parquet(tmp_path / "long.parquet")
    mapping = checked_map({**LONG, "network": "network"}, "map")
    import_file(tmp_path / "long.parquet", "nasbench201", mapping, tmp_path / "second")
    assert hwbench_data.load(tmp_path / "second").query(3, "pixel3", "latency_ms") == {"latency_ms": 1.5}


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("A,,latency,ms,1,True,measured", "row 1: 'device' is empty"),
        ("A,tpu,latency,msec,1,True,measured", "'latency_ms of tpu' has unit 'msec': did you mean 'ms'"),
        ("A,tpu,energy,ms,1,True,measured", "energy_mj of column 'energy_mj of tpu' is given in 'ms', not mJ"),
        ("A,tpu,latency,ms,1,1,measured", "'ok' is a column of int64, expected truth values"),
        ("A,tpu,latency,ms,1,True,guessed", "has source 'guessed'"),
        ("A,tpu,latency,ms,-1,True,measured", "row 1: 'latency_ms of tpu' holds -1 ms"),
        ("A,tpu,latency,ms,1,False,measured", "'latency_ms of tpu' holds no numbers"),
        ("A,tpu,latency,ms,1,True,measured\nA,tpu,latency,ms,2,True,measured", "disagree in 'latency_ms of tpu'"),
        ("A,tpu,latency,ms,1,True,measured\nB,tpu,latency,s,2,True,measured", "comes in two units"),
        ("A,tpu,latency,ms,1,True,measured\nB,tpu,latency_ms,ms,2,True,modelled", "two units or from two sources"),
    ],
)
def test_bad_rows(tmp_path: Path, row: str, match: str) -> None:
    path = csv(tmp_path / "a.csv", f"key,device,metric,unit,value,ok,source\n{row}\n")
    with pytest.raises(DataError, match=match) as caught:
        import_file(path, "fbnet_blocks", checked_map(FULL, "map"), tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_a_missing_column_of_rows_is_named(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "key,device,metrics,value\nA,tpu,latency,1\n")
    with pytest.raises(DataError, match="has no column 'metric': did you mean 'metrics'"):
        import_file(path, "fbnet_blocks", checked_map(LONG, "map"), tmp_path / "out")


@with_reference
def test_look_up_table_of_hw_nas_bench_as_rows(tmp_path: Path) -> None:
    path = Path(str(REFERENCE)) / "hwnasbench_fbnet_lut.parquet"
    columns = ("device", "metric", "value", "unit", "valid")
    mapping = checked_map({"network": "key", "rows": {name: name for name in columns}}, "map")
    card, left_out = import_file(path, "fbnet_blocks", mapping, tmp_path / "out")
    table = hwbench_data.load(tmp_path / "out")
    assert (len(table), set(card.metrics)) == (225, {"latency_ms", "energy_mj"})
    assert "latency_ms of fpga: 33 networks have no number" in left_out
    ours = {"latency": "latency_ms", "energy": "energy_mj"}
    raw = pd.read_parquet(path)
    for (device, metric), rows in raw.groupby(["device", "metric"]):
        found = table.query_many(rows.key.tolist(), ours[metric], device)[ours[metric]]
        assert np.array_equal(found, rows.value.where(rows.valid), equal_nan=True)


@with_reference
def test_fbnet_blocks_of_hw_nas_bench(tmp_path: Path) -> None:
    raw = pd.read_parquet(Path(str(REFERENCE)) / "hwnasbench_fbnet_lut.parquet")
    chosen = raw[(raw.device == "fpga") & (raw.metric == "latency") & raw.valid & (raw.kind == "imagenet")]
    path = tmp_path / "lut.npy"
    np.save(path, dict(zip(chosen.key, chosen.value, strict=True)), allow_pickle=True)  # type: ignore[arg-type]
    import_file(path, "fbnet_blocks", one(device="fpga", metric="latency_ms", unit="ms"), tmp_path / "out")
    table = hwbench_data.load(tmp_path / "out")
    assert len(table) == chosen.key.nunique()
    for key, value in zip(chosen.key, chosen.value, strict=True):
        assert table.query(key, "fpga") == {"latency_ms": value}
