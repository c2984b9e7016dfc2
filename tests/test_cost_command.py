"""`cosearch cost`: one network, layer by layer, from a workload file."""

import json
import sys

import pytest

from cosearch.cli import main
from cosearch.costs import find_device, price_workload, published_cost
from cosearch.errors import ConfigError
from cosearch.hardware.parts import DATA
from cosearch.tracing import read_report
from cosearch.words import gap_words, policy_words
from cosearch.workload import Layer, Workload, host_bytes
from search_spaces.accelerators import find

NETWORK = Workload(
    "two",
    (Layer("first", K=16, C=3, P=16, Q=16, R=3, S=3), Layer("second", "shift", K=32, C=16, P=16, Q=16, weight_bits=4)),
)


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["cosearch", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def workload_file(tmp_path, monkeypatch):
    monkeypatch.setenv("COSEARCH_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "two.json"
    path.write_text(json.dumps(NETWORK.to_json()))
    return path


def test_the_table_names_every_layer_and_adds_up(workload_file, monkeypatch, capsys):
    assert run(monkeypatch, "cost", "--device", "ecp5-25f", "--model", str(workload_file)) == 0
    printed = capsys.readouterr().out
    priced = price_workload(NETWORK, "ecp5-25f")
    accelerator, rows = priced.accelerator, priced.report.rows
    assert [row.layer.name for row in rows] == ["first", "second"]
    assert [row.engine for row in rows] == ["mac", "shift"]
    for word in ("first", "second", accelerator.name, f"{sum(row.latency_ms for row in rows):.4g} ms"):
        assert word in printed
    assert all(row.latency_ms >= row.roofline_ms and 0 < row.utilisation <= 1 for row in rows)


def test_the_optimum_states_its_policy_and_its_gap(workload_file, monkeypatch, capsys):
    for objective, said in (
        ("edp", "Gap to the convex-hull bound of any mapping for any layer: "),
        ("latency_ms", "of any mapping for any layer, exactly"),
    ):
        arguments = ("cost", "--device", "ecp5-25f", "--model", str(workload_file), "--objective", objective)
        assert run(monkeypatch, *arguments) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert said in printed
        assert "Mapping policy: mac: least " in printed
    assert run(monkeypatch, "cost", "--device", "ecp5-25f", "--model", str(workload_file), "--json") == 0
    document = json.loads(capsys.readouterr().out)
    cost = document["cost"]
    assert set(cost["policies"]) == {"mac", "shift"}
    assert 0 < document["edp_bound_of_all"] <= cost["edp_bound"] * (1 + 1e-12) <= cost["edp"] * (1 + 2e-12)
    assert cost["edp"] == pytest.approx(cost["latency_ms"] * cost["energy_mj"])


def test_throughput_is_that_of_one_image_after_the_other_and_of_a_pipeline(workload_file, monkeypatch, capsys):
    """Two engines: the slower one, or the memories of both, sets the interval."""
    arguments = ("cost", "--device", "ecp5-25f", "--model", str(workload_file))
    assert run(monkeypatch, *arguments) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert run(monkeypatch, *arguments, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    cost, pipeline = document["cost"], document["pipeline"]
    assert cost["throughput_fps"] == pytest.approx(1e3 / cost["latency_ms"])
    assert (
        f"one image after the other {cost['throughput_fps']:,.4g} images/s; engines on different images at " in printed
    )
    assert f"one every {pipeline['interval_ms']:.4g} ms, {1e3 / pipeline['interval_ms']:,.4g} images/s, lim" in printed
    busy = {
        kind: sum(row["latency_ms"] for row in document["layers"] if row["engine"] == kind) for kind in ("mac", "shift")
    }
    assert max(busy.values()) * (1 - 1e-9) <= pipeline["interval_ms"] < cost["latency_ms"]
    assert pipeline["limit"] in ("mac", "shift", "memories")
    assert run(monkeypatch, "cost", "--device", "eyeriss", "--model", str(conv_file(workload_file)), "--json") == 0
    assert json.loads(capsys.readouterr().out)["pipeline"] is None


def test_what_is_not_priced_is_in_the_document_too(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("COSEARCH_CACHE", str(tmp_path))
    assert run(monkeypatch, "cost", "--device", "cpu", "--model", "resnet20", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    beside = {row["operation"]: row for row in document["unpriced"]}
    assert beside.keys() >= {"relu", "requantisation", "batch norm", "constant_pad_nd"}
    assert 0 < beside["relu"]["share_of_operations"] < 0.01
    assert 0 < beside["constant_pad_nd"]["share_of_bytes"] < 0.1


def conv_file(beside):
    path = beside.with_name("conv.json")
    path.write_text(json.dumps(Workload("conv", NETWORK.layers[:1]).to_json()))
    return path


@pytest.mark.parametrize("device", ["ecp5-25f", "hwnasbench-eyeriss"])
def test_the_space_of_a_device_is_made_once(workload_file, monkeypatch, capsys, device):
    made = []
    monkeypatch.setattr("search_spaces.accelerators.find", lambda *a, **k: made.append(find(*a, **k)) or made[-1])
    assert run(monkeypatch, "cost", "--device", device, "--model", str(conv_file(workload_file))) == 0
    assert len(made) == 1


def test_gaps_in_words():
    assert gap_words(1.0, 1.0) == gap_words(1.0, 1.0 + 1e-12) == "less than 0.01%"
    assert gap_words(1.012, 1.0) == "at most 1.20%"
    assert gap_words(3.0, 1.0) == "at most 200.00%"
    assert gap_words(3.0, 0.0) == "not bounded by this grid of policies"
    assert "not known" in gap_words(1.0, None) == gap_words(1.0, float("nan"))
    assert policy_words([("mac", 1.0), ("add", 0.0)]) == "mac: least latency; add: least energy"
    assert policy_words([("mac", 0.5)]) == "mac: least 0.5 W x latency + 0.5 x energy"


def test_what_is_no_layer_is_listed_with_its_shares(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("COSEARCH_CACHE", str(tmp_path / "cache"))
    assert run(monkeypatch, "cost", "--device", "cpu", "--model", "resnet20") == 0
    printed = capsys.readouterr().out
    _, unpriced = read_report("resnet20")
    names = {entry.operation for entry in unpriced}
    assert {"batch norm", "requantisation", "host transfer"} <= names
    for entry in unpriced:
        assert entry.operation in printed
        assert f"{entry.share_of_operations:.2%}" in printed
        assert f"{entry.share_of_bytes:.2%}" in printed
    assert "elementwise" in printed  # residual sums and pooling are layers
    assert "pool" in printed


def test_the_objective_decides_the_accelerator(workload_file):
    def total(objective: str, metric: str) -> float:
        return sum(getattr(row, metric) for row in price_workload(NETWORK, "ecp5-25f", objective).report.rows)

    assert total("latency_ms", "latency_ms") <= total("energy_mj", "latency_ms")
    assert total("energy_mj", "energy_mj") <= total("latency_ms", "energy_mj")


def test_host_bytes_are_the_image_and_the_result():
    assert host_bytes(NETWORK) == 3 * 16 * 16 + 32 * 16 * 16


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "resnet19"), "resnet18"),
        (("--model", "nothing.json"), "nothing.json"),
        (("--device", "zcu1022"), "zcu102"),
        (("--input-shape", "1,x"), "1,3,224,224"),
    ],
)
def test_bad_input(workload_file, monkeypatch, capsys, arguments, words):
    model = () if "--model" in arguments else ("--model", str(workload_file))
    assert run(monkeypatch, "cost", *arguments, *model) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert words in said[0]


def test_a_device_without_room_for_anything_is_one_line(tmp_path, workload_file, monkeypatch, capsys):
    document = json.loads((DATA / "parts" / "ecp5-25f.json").read_text())
    tiny = tmp_path / "tiny.json"
    tiny.write_text(json.dumps(document | {"name": "tiny", "budget": {"lut": 900, "ff": 900, "dsp": 1, "bram": 1}}))
    search = ("run", "--space", "tests.tiny_space:space", "--quiet", "--out", str(tmp_path / "run"))
    for command in (("cost", "--model", str(workload_file)), search):
        assert run(monkeypatch, *command, "--device", str(tiny)) == 2
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cosearch:")]
        assert len(said) == 1
        assert "the budget of tiny is too small for any accelerator" in said[0]


def test_a_layer_without_an_engine_is_one_line_that_names_it(tmp_path, monkeypatch, capsys):
    odd = tmp_path / "odd.json"
    layers = (Layer("fine", K=8, C=8), Layer("odd", "bitserial", K=8, C=8))
    odd.write_text(json.dumps(Workload("odd", layers).to_json()))
    assert run(monkeypatch, "cost", "--device", "ecp5-25f", "--model", str(odd)) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said == "cosearch: layer 'odd': ecp5-25f has no engine for 'bitserial' layers, only for add, mac, shift"


def test_the_accounting_is_chosen_and_named(workload_file, monkeypatch, capsys):
    energy = {}
    for name in ("element", "operator"):
        options = ("--model", str(workload_file), "--device", "ecp5-25f", "--accounting", name, "--quiet")
        assert run(monkeypatch, "cost", *options, "--json") == 0
        said = json.loads(capsys.readouterr().out)
        assert said["accounting"] == name
        energy[name] = said["cost"]["energy_mj"]
    assert energy["operator"] < energy["element"]
    assert run(monkeypatch, "cost", *options) == 0
    assert "Accounting of an operation's energy: operator." in capsys.readouterr().out


@pytest.mark.parametrize("device", ["ecp5-25f", "gemmini", "pim-sram", "gpu"])
def test_the_accelerator_of_a_design_prices_another_network(workload_file, tmp_path, monkeypatch, capsys, device):
    """From its file: the same accelerator, at the cost that its own space says."""
    model = str(conv_file(workload_file))
    priced = price_workload(Workload("conv", NETWORK.layers[:1]), device)
    path = tmp_path / "accelerator.json"
    path.write_text(json.dumps(priced.accelerator.to_json()))
    assert run(monkeypatch, "cost", "--device", str(path), "--model", model, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["accelerator"], said["accelerators"]) == (priced.accelerator.name, 1)
    assert said["cost"]["edp"] == pytest.approx(priced.report.cost.edp)
    assert run(monkeypatch, "cost", "--device", str(path), "--model", model) == 0
    assert "of this one accelerator" in capsys.readouterr().out
    assert run(monkeypatch, "cost", "--device", str(path), "--model", model, "--accounting", "operator") == 2
    assert "has 'element'" in capsys.readouterr().err
    path.write_text(json.dumps({**priced.accelerator.to_json(), "clock_mhz": "100 MHz"}))
    assert run(monkeypatch, "cost", "--device", str(path), "--model", model) == 2
    assert "accelerator.json: clock_mhz: '100 MHz' is not" in capsys.readouterr().err


def test_an_objective_is_checked_before_anything_is_priced(monkeypatch):
    monkeypatch.setattr("cosearch.costs.cost_tensor", None)
    with pytest.raises(ConfigError, match="unknown hardware objective 'speed'"):
        price_workload(NETWORK, "ecp5-25f", "speed")


def test_small_networks_have_operations_too(workload_file, monkeypatch, capsys):
    assert run(monkeypatch, "cost", "--device", "gpu", "--model", str(workload_file)) == 0
    assert f"{NETWORK.macs / 1e6:.3g} MMACs, " in capsys.readouterr().out


def test_an_accounting_that_a_device_lacks_is_refused():
    with pytest.raises(ConfigError, match="--accounting operator: pim-reram knows only 'element'"):
        price_workload(NETWORK, "pim-reram", accounting="operator")
    with pytest.raises(ConfigError, match="--accounting operator: hwnasbench-fpga knows only 'element'"):
        published_cost(NETWORK, "hwnasbench-fpga", accounting="operator")
    with pytest.raises(ConfigError, match="accounting"):
        price_workload(NETWORK, "ecp5-25f", accounting="none")
    with pytest.raises(ConfigError, match="accounting='operator': the space given has 'element'"):
        price_workload(NETWORK, find("ecp5-25f"), accounting="operator")
    given = find("ecp5-25f", accounting="operator")
    assert find_device(given) is given
    assert find_device(given, "operator") is given
