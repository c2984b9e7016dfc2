"""Measuring: what the statistics say, what is refused; the ONNX networks compute what their workload counts."""

import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cosearch.errors import ConfigError, CosearchError, DataError
from hwbench_data import measuring
from hwbench_data.measured import measure_file, read_archs
from hwbench_data.measuring import Measurement, Protocol, measure, median_interval
from hwbench_data.onnxnet import onnx_model
from search_spaces.networks import nasbench201 as nb
from search_spaces.networks import shiftadd

SPACE = nb.space((3, 16, 16))


@given(st.integers(6, 200))
def test_interval_of_the_median_by_ranks(n: int) -> None:
    median, low, high = median_interval(list(range(n)))
    assert median == (n - 1) / 2
    assert low <= median - 0.95 * np.sqrt(n) or low == 0
    assert high >= median + 0.95 * np.sqrt(n) or high == n - 1


def test_the_interval_covers_the_true_median_nineteen_times_of_twenty() -> None:
    rng = np.random.default_rng(0)
    truth = np.log(2)  # of an exponential distribution
    inside = 0
    for _ in range(2000):
        _, low, high = median_interval(rng.exponential(size=31))
        inside += low <= truth <= high
    assert 0.94 < inside / 2000 < 0.995


def test_too_few_values_are_never_certain() -> None:
    assert median_interval([1.0] * 5)[2] == np.inf
    assert median_interval([])[0] == np.inf


def _clocked(monkeypatch: pytest.MonkeyPatch, durations, preempted=()) -> None:
    """A clock that makes run i take durations(i) ms, and a scheduler that takes the core in some runs."""
    runs = itertools.count()
    state = {"now": 0.0, "switches": 0}

    def session(protocol):
        def opened(model):
            def run():
                i = next(runs)
                state["now"] += durations(i) / 1e3
                state["switches"] += i in preempted

            return run

        return opened

    monkeypatch.setattr(measuring, "_sessions", session)
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: state["now"])
    monkeypatch.setattr(measuring, "_preemptions", lambda: state["switches"])


def test_a_steady_figure_is_measured_and_a_noisy_one_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _clocked(monkeypatch, lambda i: 5.0)
    [steady] = measure([("a", b"")])
    assert steady.measured
    assert steady.median_ms == pytest.approx(5.0)
    assert steady.runs == 24
    rng = np.random.default_rng(0)
    _clocked(monkeypatch, lambda i: float(rng.uniform(1, 9)))
    [noisy] = measure([("a", b"")])
    assert not noisy.measured
    assert noisy.runs + noisy.dropped == Protocol().most_runs
    assert noisy.uncertainty > 0.02


def test_runs_that_were_interrupted_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    preempted = set(range(5, 4000, 4))
    _clocked(monkeypatch, lambda i: 50.0 if i in preempted else 5.0, preempted)
    [result] = measure([("a", b"")])
    assert result.measured
    assert result.median_ms == pytest.approx(5.0)
    assert result.dropped > 0


def _computed(arch: nb.Arch) -> np.ndarray:
    import onnxruntime

    model = onnx_model(SPACE.workload(arch), SPACE.rectified)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    [y] = session.run(None, {"x": np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32)})
    return np.asarray(y)


@settings(max_examples=10)
@example(10)  # no path from input to output
@given(st.integers(0, nb.SIZE - 1))
def test_networks_have_the_layers_of_their_workload(index: int) -> None:
    from cosearch.models.onnx_file import read_report

    arch = nb.cell(index)
    workload = SPACE.workload(arch)
    assert np.isfinite(_computed(arch)).all()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        path.write_bytes(onnx_model(workload))
        read, _ = read_report(path)
    if nb.connected(arch):
        assert read.macs == workload.macs
        assert read.weight_count == workload.weight_count
    else:  # what follows the first cell works on zeros: constants to whoever reads the file
        assert read.macs == workload.layers[0].macs


def test_a_cell_against_torch() -> None:
    """One network with every kind of layer, computed by torch from the same weights."""
    import onnx
    import torch
    from onnx import numpy_helper

    arch = nb.from_string("|nor_conv_3x3~0|+|avg_pool_3x3~0|skip_connect~1|+|skip_connect~0|nor_conv_1x1~1|none~2|")
    workload = SPACE.workload(arch)
    weights = {
        w.name: torch.tensor(numpy_helper.to_array(w))
        for w in onnx.load_from_string(onnx_model(workload, SPACE.rectified)).graph.initializer
    }
    x = torch.tensor(np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32))
    values = [x]
    for i, (layer, producers) in enumerate(zip(workload.layers, workload.inputs, strict=True)):
        inputs = [values[p + 1] for p in producers]
        if SPACE.rectified(layer):
            inputs = [torch.relu(t) for t in inputs]
        if layer.kind == "elementwise":
            values.append(inputs[0] + inputs[1])
        elif layer.kind == "pool" and layer.P == 1:
            values.append(torch.nn.functional.adaptive_avg_pool2d(inputs[0], 1))
        elif layer.kind == "pool":
            same = layer.stride == (1, 1)
            values.append(
                torch.nn.functional.avg_pool2d(
                    inputs[0], layer.R, layer.stride, 1 if same else 0, count_include_pad=False
                )
            )
        else:
            values.append(
                torch.nn.functional.conv2d(
                    inputs[0], weights[f"t{i}_w"], weights[f"t{i}_b"], layer.stride, layer.R // 2
                )
            )
    assert np.allclose(_computed(arch), values[-1].flatten(1).numpy(), rtol=1e-3, atol=1e-4)


def test_the_command_measures_a_file_and_its_csv_is_a_device(tmp_path: Path) -> None:
    from cosearch.costs import read_table

    archs = tmp_path / "archs.txt"
    archs.write_text(f"3\n{nb.to_string(nb.cell(0))}\n{json.dumps(nb.cell(14))}\n")
    lines = list(measure_file(archs, tmp_path / "cpu.csv", image="16x16"))
    assert "of 3 networks measured" in lines[-1]
    text = (tmp_path / "cpu.csv").read_text()
    assert text.count("measured") + text.count("refused") == 3
    assert json.loads((tmp_path / "cpu.json").read_text())["precision"] == "float32"
    if text.count("refused") == 0:
        assert len(read_table(tmp_path / "cpu.csv", SPACE, "latency_ms").archs) == 3


def test_what_was_there_stays_until_something_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archs, out = tmp_path / "archs.csv", tmp_path / "m.csv"
    archs.write_text("3\n5\n")
    out.write_text("earlier\n")
    with pytest.raises(ConfigError, match="core 4711"):
        list(measure_file(archs, out, core=4711))
    assert out.read_text() == "earlier\n"
    for same in (archs, tmp_path / "." / "archs.csv"):
        with pytest.raises(ConfigError, match="would replace"):
            list(measure_file(archs, same))
    assert archs.read_text() == "3\n5\n"

    def stopped(models: object, protocol: object) -> Iterator[Measurement]:
        yield Measurement("a", 1.0, 1.0, 1.0, 30, 0, True)
        raise KeyboardInterrupt

    monkeypatch.setattr("hwbench_data.measured.measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        list(measure_file(archs, out))
    assert [line.split(",")[0] for line in out.read_text().splitlines()] == ["arch", "a"]


def test_wrong_requests(tmp_path: Path) -> None:
    archs = tmp_path / "archs.txt"
    for text, match in (
        ("", "names no networks"),
        ("1\n99999\n", "line 2: index 99999"),
        ("{\n", "line 1"),
        ("0-1=none\n", "line 1: decision"),
    ):
        archs.write_text(text)
        with pytest.raises(DataError, match=match):
            read_archs(archs, SPACE)
    archs.write_text("1\n")
    for options, match in (
        (("gpu",), "cannot measure on 'gpu'"),
        (("cpu", "nasbench"), "did you mean 'nasbench201'"),
        (("cpu", "nasbench201", "32"), "such as 32x32"),
        (("cpu", "nasbench201", "99999x99999"), "at most 2048"),
        (("cpu", "nasbench201", "0x32"), "such as 32x32"),
    ):
        with pytest.raises(CosearchError, match=match):
            list(measure_file(archs, tmp_path / "x.csv", *options))
    with pytest.raises(ConfigError, match="core 4711"):
        list(measure_file(archs, tmp_path / "x.csv", core=4711))
    space = shiftadd.space()
    shifts = space.workload(space.largest("shift"))
    with pytest.raises(ConfigError, match="a runtime measures mac, pool"):
        onnx_model(shifts)
