"""Accuracies from analog-nasbench: the join with the published order, and what happens without the package."""

import pickle
import sys
import types

import numpy as np
import pytest

import hwbench_data
from cosearch.errors import CosearchError, DataError
from hwbench_data import analog
from search_spaces.networks import nasbench201 as nb

with_package = pytest.mark.skipif(not analog.installed(), reason=f"{analog.PACKAGE} is not installed")
CELLS = [nb.cell(i) for i in range(nb.SIZE)]


@with_package
def test_cells_without_a_path_score_at_chance_and_no_other_does() -> None:
    accuracy = analog.accuracies()
    pathless = np.array([not nb.connected(cell) for cell in CELLS])
    assert (accuracy[pathless] == 0.1).all()
    assert accuracy[~pathless].min() > 0.1


@with_package
def test_accurate_cells_are_full_of_3x3_convolutions_on_the_way_through() -> None:
    order = np.argsort(-analog.accuracies())
    best = [CELLS[i] for i in order[:50]]
    edges = np.mean([[cell[name] == "nor_conv_3x3" for name in nb.NAMES] for cell in best])
    assert edges > 0.5  # one in five at random
    # residual cells: a skip from input to output is what the best of NAS-Bench-201 have; a wrong edge order loses it
    assert np.mean([cell["0-3"] == "skip_connect" for cell in best]) > 0.7
    assert np.mean([cell["0-1"] == "nor_conv_3x3" for cell in best]) > 0.7


@with_package
def test_isomorphic_cells_have_one_accuracy_and_were_trained_to_almost_the_same() -> None:
    table = hwbench_data.load("nasbench201")
    everything = table.accuracies(np.arange(len(table)))
    classes = table.networks.same
    first = np.unique(classes, return_index=True)[1]
    assert np.array_equal(everything, everything[first][classes])
    # were edges or operations mixed up, isomorphic cells would not agree
    assert np.corrcoef(everything, analog.accuracies())[0, 1] > 0.995


@with_package
def test_every_metric_is_a_fraction_and_training_for_the_device_helps() -> None:
    for metric in analog.METRICS:
        column = analog.accuracies(metric)
        assert column.shape == (nb.SIZE,)
        assert column.min() >= 0
        assert column.max() <= 1
    months = [analog.accuracies(f"cifar10_accuracy_{kind}_drift_30d") for kind in ("noisy", "analog")]
    assert np.median(months[1]) > np.median(months[0])


@with_package
def test_queries_by_index_notation_and_arch_agree_and_import_nothing_of_the_package() -> None:
    table = hwbench_data.load("nasbench201")
    cell = nb.cell(1234)
    values = table.accuracies([1234, nb.to_string(cell), cell])
    assert values[0] == values[1] == values[2]
    assert table.query(1234, metrics=["cifar10_accuracy"])["cifar10_accuracy"] == pytest.approx(values[0], rel=1e-14)
    assert analog.MODULE not in sys.modules


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analog, "data_file", lambda: None)
    with pytest.raises(DataError, match=r"pip install 'cosearch\[nasbench201\]'"):
        hwbench_data.load("nasbench201").accuracies([0])


def _package(tmp_path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    (tmp_path / "data.anb").write_bytes(content)
    monkeypatch.setattr(analog, "data_file", lambda: tmp_path / "data.anb")


class _Run:
    def __reduce__(self):
        return (eval, ("__import__('pathlib').Path('ran').touch()",))


def test_a_data_file_that_would_run_code_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    _package(tmp_path, monkeypatch, pickle.dumps({(0,) * 6: _Run()}))
    with pytest.raises(DataError, match=r"asks to load builtins\.eval"):
        analog.accuracies()
    assert not (tmp_path / "ran").exists()


def _record(**values: float) -> bytes:
    """A pickle of one record under the package's class names, as the package would write it."""
    module = types.ModuleType("analognasbench.data")
    module.Architecture = type("Architecture", (), {"__module__": module.__name__})
    sys.modules["analognasbench"] = types.ModuleType("analognasbench")
    sys.modules[module.__name__] = module
    try:
        record = module.Architecture()
        record.__dict__.update(values)
        return pickle.dumps(dict.fromkeys(analog._keys(), record))
    finally:
        del sys.modules[module.__name__], sys.modules["analognasbench"]


def test_a_file_of_the_right_form_is_read_and_a_wrong_one_is_refused(tmp_path, monkeypatch) -> None:
    _package(tmp_path, monkeypatch, _record(baseline_accuracy=50.0))
    assert (analog.accuracies() == 0.5).all()
    for name, content, match in (
        ("a", _record(baseline_accuracy=150.0), "leaves 0 to 100 percent"),
        ("b", _record(other=1.0), "baseline_accuracy"),
        ("c", pickle.dumps({}), "lacks the cell"),
        ("d", pickle.dumps([1]), "lacks the cell"),
        ("e", _record(baseline_accuracy=50.0)[:-9], "is not analog-nasbench's data file"),
        ("f", b"", "is not analog-nasbench's data file"),
    ):
        (tmp_path / name).mkdir()
        _package(tmp_path / name, monkeypatch, content)
        with pytest.raises(DataError, match=match):
            analog.accuracies()


def test_unknown_names_get_the_nearest_one() -> None:
    with pytest.raises(CosearchError, match="did you mean 'cifar10_accuracy_ptq'"):
        analog.accuracies("cifar10_accuracy_ptk")
    with pytest.raises(CosearchError, match="did you mean 'nasbench201'"):
        hwbench_data.load("nasbench2001")
