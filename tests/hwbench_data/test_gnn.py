"""NAS-Bench-Graph: keys against the package's own hash, queries, and what is said without the package."""

import pickle
from pathlib import Path

import numpy as np
import pytest

import hwbench_data
from cosearch.errors import ConfigError, DataError
from hwbench_data import gnn

with_package = pytest.mark.skipif(gnn.data_folder() is None, reason=f"{gnn.PACKAGE} is not installed")


def _hash(links: list[int], operations: list[str]) -> int:
    """As the package documents it: the place of the links, then one digit per operation."""
    code = gnn.LINKS.index(",".join(map(str, links)))
    for operation in operations:
        code = code * (len(gnn.OPERATIONS) + 1) + gnn.OPERATIONS.index(operation)
    return code


def test_keys_are_decoded() -> None:
    code = _hash([0, 0, 1, 2], ["gat", "skip", "cheb", "fc"])
    assert gnn._label(code) == "0,0,1,2|gat,skip,cheb,fc"


def _files(folder: Path) -> None:
    record = {"perf": 0.8, "valid_perf": 0.75, "latency": 0.004, "para": np.float64(1.5)}
    for dataset in gnn.DATASETS:
        codes = [_hash([0, 1, 2, 3], ["gcn"] * 3 + [last]) for last in ("gcn", "fc")]
        records = {codes[0]: record, codes[1]: {**record, "perf": 0.9, "latency": 0.006}}
        (folder / f"{dataset}.bench").write_bytes(pickle.dumps(records))


def test_the_same_queries_as_any_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _files(tmp_path)
    monkeypatch.setattr(gnn, "data_folder", lambda: tmp_path)
    table = hwbench_data.load("gnn")
    expected = {"accuracy": 0.9, "valid_accuracy": 0.75, "latency_ms": 6.0, "params": 1.5e6}
    assert table.query("0,1,2,3|gcn,gcn,gcn,fc", gnn.DEVICE) == expected
    assert table.front(device=gnn.DEVICE, dataset="proteins").index.tolist() == [1, 0]
    assert table.accuracies([0, 1], "accuracy").tolist() == [0.8, 0.9]
    assert len(table.to_pandas()) == 2 * 4 * 9
    with pytest.raises(ConfigError, match=r"network '0,1,2,3\|gcn,gcn,gcn,fc' of table gnn has no decisions"):
        table.networks.arch(1)


def test_damaged_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gnn, "data_folder", lambda: tmp_path)
    with pytest.raises(DataError, match="cannot read"):
        hwbench_data.load("gnn")
    for content, match in (
        (b"x", "is not nas-bench-graph's data"),
        (pickle.dumps({0: 1}), "reinstall"),
        (pickle.dumps({0: Path("x")}), "refused"),
        (pickle.dumps({"a": {}}), "reinstall"),
    ):
        (tmp_path / "cora.bench").write_bytes(content)
        with pytest.raises(DataError, match=match):
            hwbench_data.load("gnn").query(0, metrics=["accuracy"])


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gnn, "data_folder", lambda: None)
    with pytest.raises(DataError, match=r"pip install 'cosearch\[gnn\]'"):
        hwbench_data.load("gnn")


@with_package
def test_published_sizes() -> None:
    table = hwbench_data.load("gnn")
    assert len(table) == 26206
    assert len({table.networks.label(i) for i in range(len(table))}) == 26206
    proteins = table.query_many(np.arange(len(table)), "accuracy", dataset="proteins")["accuracy"]
    assert np.isfinite(proteins).sum() == 2021
    for dataset in gnn.DATASETS:
        found = table.query_many(np.arange(len(table)), ("accuracy", "latency_ms"), gnn.DEVICE, dataset=dataset)
        assert np.nanmax(found["accuracy"]) <= 1
        assert np.nanmin(found["latency_ms"]) > 0
