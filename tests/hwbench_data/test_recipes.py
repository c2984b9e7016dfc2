"""How the shipped tables are built: demands against workloads, costs against sums by hand, joint optima, oracles."""

import itertools
import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hwbench_data
from cosearch.errors import DataError
from cosearch.hardware import accelerator_tensor, joint_front
from cosearch.hardware.closedform import unit_costs
from cosearch.workload import Layer, count_layers, host_bytes
from hwbench_data import fbnet as composed
from hwbench_data import library
from hwbench_data.building import build_table, compare
from hwbench_data.checking import check_table
from hwbench_data.costing import Device, at_once, gap_facts, one_by_one
from hwbench_data.importing import checked_map, import_file
from hwbench_data.measuring import Measurement, measure
from hwbench_data.networks import notation
from hwbench_data.onnxnet import onnx_model
from hwbench_data.recipes import cpu, fbnet_blocks, joint
from hwbench_data.recipes import nasbench201 as recipe
from hwbench_data.recipes.common import MODELLED, Request
from hwbench_data.store import SOURCES, Block, Store, write
from search_spaces import accelerators
from search_spaces.accelerators import processor
from search_spaces.decisions import parse_pairs
from search_spaces.networks import fbnet, shiftadd
from search_spaces.networks import nasbench201 as nb

REFERENCE = os.environ.get("COSEARCH_REFERENCE_DATA")
FEW = {name: MODELLED[name] for name in ("gpu", "pim")}
"""Devices whose layers cost what a formula says: priced at once."""


def test_demands_are_those_of_the_workloads() -> None:
    demands = recipe.demands_at(32)
    assert len(demands) < 400
    space = nb.space((3, 32, 32), recipe.CLASSES)
    rng = np.random.default_rng(0)
    for i in rng.integers(nb.SIZE, size=20).tolist():
        workload, at = space.workload(nb.cell(i)), demands.of[i]
        assert demands.macs[i] == workload.macs
        assert demands.params[i] == workload.weight_count
        assert demands.host_bytes[at] == host_bytes(workload)
        assert demands.live_bytes[at] <= workload.live_activation_bytes  # the best of isomorphic orders
        total = sum(n * layer.output_count for n, layer in zip(demands.counts[at], demands.layers, strict=True))
        assert total == sum(layer.output_count for layer in workload.layers)
    same = nb.network_class
    keys = [same(nb.cell(i)) for i in range(nb.SIZE)]
    first = {key: i for i, key in enumerate(keys)}
    assert np.array_equal(demands.of, demands.of[[first[key] for key in keys]])


def _roofline(layer: Layer, clock_mhz: float, voltage: float, nominal: float) -> tuple[float, float]:
    """ms and mJ of one layer on the edge GPU, from its cost table."""
    table = unit_costs("processors")
    bits = layer.weight_count * 8 + layer.input_count * 8 + layer.output_count * 8
    ms = max(layer.macs / (table["gpu.macs_per_cycle"] * clock_mhz * 1e3), bits / (table["gpu.dram_gbit_per_s"] * 1e6))
    watt = table["gpu.switched_nf"] * voltage**2 * clock_mhz * 1e-3 + table["gpu.leakage_w"] * voltage / nominal
    return ms, watt * ms + bits * table["gpu.dram_pj_per_bit"] * 1e-9


def test_a_roofline_device_against_sums_by_hand() -> None:
    demands = recipe.demands_at(16).only(np.array([3, 1, recipe.MIXED]))
    costs = Device("gpu", demands).costs(int(demands.of[-1]))
    for at in range(len(demands)):
        sums = []
        for point in processor.operating_points("gpu"):
            how = (point.clock_mhz, point.voltage, point.nominal_v)
            layers = zip(demands.counts[at], demands.layers, strict=True)
            sums.append(np.sum([np.multiply(n, _roofline(layer, *how)) for n, layer in layers], axis=0))
        best = min(sums, key=lambda pair: pair[0] * pair[1])
        # moving the image in and the classes out is all that comes on top
        assert best[0] <= costs.best[0][at] <= best[0] * 1.01
        assert best[1] <= costs.best[1][at] <= best[1] * 1.01
        assert costs.best[0][at] * costs.best[1][at] <= costs.default[0][at] * costs.default[1][at] * (1 + 1e-12)


def test_building_again_gives_the_shipped_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "MODELLED", FEW)
    lines = list(build_table("nasbench201", tmp_path / "nb", limit=40))
    assert "modelled figures equal the shipped table's" in lines[-1]
    shipped = Store(library.folder("nasbench201"))
    key = ("gpu", "latency_ms", "32x32", "best")
    wrong = Block.full(key, shipped.column(key, nb.SIZE).values * (1 + 1e-9), "modelled")
    write(tmp_path / "off", shipped.card, [wrong])
    with pytest.raises(DataError, match="gpu, latency_ms, 32x32, best of network"):
        compare(Store(tmp_path / "off"), shipped)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "columns"), [("nasbench201", 67), ("fbnet_blocks", 18), ("joint", 10), ("shiftadd", 6)]
)
def test_all_devices_built_again_give_the_shipped_figures(tmp_path: Path, name: str, columns: int) -> None:
    limit = 40 if name == "nasbench201" else 3
    figures = Store(library.folder(name))
    assert len([key for key in figures.groups if "modelled" in _sources(figures, key)]) == columns
    said = r"modelled figures equal the shipped table's: (\d+) bit for bit, (\d+) within 1e-12"
    [counts] = re.findall(said, list(build_table(name, tmp_path, limit))[-1])
    built = Store(tmp_path)
    size = int(built.card.networks["count"])
    columns_built = [built.column(key, size) for key in built.groups if "modelled" in _sources(built, key)]
    assert len(columns_built) == columns
    assert sum(map(int, counts)) == sum(np.isfinite(column.values).sum() for column in columns_built)


def _sources(figures: Store, key: tuple[str, ...]) -> set[str]:
    """Where the figures of a column come from."""
    column = figures.column(key, int(figures.card.networks["count"]))
    return {SOURCES[code] for code in np.unique(column.sources[np.isfinite(column.values)])}


def test_a_part_of_a_table_that_lists_its_networks_is_compared_by_name(tmp_path):
    assert "modelled figures equal" in list(build_table("joint", tmp_path / "joint", limit=3))[-1]


def test_the_joint_table_has_the_exact_joint_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint, "DEVICES", ("gpu", "cpu"))
    monkeypatch.setattr(joint, "MODELLED", {name: name for name in ("gpu", "cpu")})
    built = joint.build(Request(tmp_path, limit=25))
    write(tmp_path / "joint", built.card, built.blocks, built.labels)
    table = hwbench_data.load(tmp_path / "joint")
    first = np.sort(np.unique(table.networks.cells[table.networks.cells >= 0]))
    demands = recipe.demands_at(joint.SIDE).only(first)
    for name in ("gpu", "cpu"):
        device = Device(name, demands)
        of = demands.of
        expected = joint_front(
            device.tensor, demands.counts[of], -demands.macs, demands.live_bytes[of], host_bytes=demands.host_bytes[of]
        )
        found = table.front(("capacity", "latency_ms", "energy_mj"), device=name, space="nasbench201")
        rows = {tuple(np.round(row, 12)) for row in np.stack(list(found.values.values()), 1)}
        front = expected.hardware
        wanted = np.stack([-expected.error, front.latency_ms, front.energy_mj], axis=1)
        assert rows == {tuple(np.round(row, 12)) for row in wanted}
        limit = float(np.median(front.latency_ms))
        best = table.best("energy_mj", {"max_latency_ms": limit}, name, space="nasbench201")
        assert best.values["energy_mj"][0] == front.energy_mj[front.latency_ms <= limit].min()


def test_blocks_add_up_to_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fbnet_blocks, "MODELLED", FEW)
    monkeypatch.setattr(fbnet_blocks, "LADDERS", ((32, 100),))
    built = fbnet_blocks.build(Request(tmp_path))
    write(tmp_path / "blocks", built.card, built.blocks, built.labels)
    table = hwbench_data.load(tmp_path / "blocks")
    space = fbnet.space((3, 32, 32), 100)
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(4)]
    macs = composed.compose(table, space, archs, "gpu", "macs")
    assert macs.tolist() == [space.workload(arch).macs for arch in archs]
    latency = composed.compose(table, space, archs, "gpu")
    assert table.card.devices["gpu"]["edp_gap"] == {"32x32": 0.0}  # no mappings, no gap
    default = table.card.devices["gpu"]["default_accelerators"]["32x32"]
    [point] = [p for p in processor.operating_points("gpu") if default == f"gpu_{p.clock_mhz:g}MHz"]
    how = (point.clock_mhz, point.voltage, point.nominal_v)
    by_hand = [sum(_roofline(layer, *how)[0] for layer in space.workload(arch).layers) for arch in archs]
    assert latency == pytest.approx(by_hand, rel=1e-12)


def test_blocks_are_what_networks_are_made_of() -> None:
    """As models of their own they compute, and have the operations and rectifiers of the networks."""
    import onnx

    def counted(model: bytes) -> Counter[str]:
        return Counter(node.op_type for node in onnx.load_from_string(model).graph.node)

    space = fbnet.space((3, 32, 32), 100)
    blocks = fbnet_blocks.block_workloads(space)
    rng = np.random.default_rng(1)
    for arch in [space.sample(rng) for _ in range(3)] + [dict.fromkeys(space.choices, "conv_k5_e1_g2")]:
        whole, made = space.workload(arch), composed.keys(space, arch)
        assert sum(blocks[key].macs for key in made if key in blocks) == whole.macs
        parts = sum((counted(onnx_model(blocks[key], space.rectified)) for key in made if key in blocks), Counter())
        found = counted(onnx_model(whole, space.rectified))
        assert all(parts[op] == found[op] for op in ("Conv", "Add", "Relu"))
    names = [name for name, _ in itertools.islice(fbnet_blocks.measured_models(1, 0), 12)]
    assert all(result.median_ms > 0 for result in measure(itertools.islice(fbnet_blocks.measured_models(1, 0), 12)))
    assert len(set(names)) == 12


def test_measured_blocks_join_and_say_how_they_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a runtime that takes a millisecond per call, and one per million operations: sums are above the whole."""
    monkeypatch.setattr(fbnet_blocks, "MODELLED", {"gpu": "gpu"})
    monkeypatch.setattr(fbnet_blocks, "LADDERS", ((32, 100),))
    space = fbnet.space((3, 32, 32), 100)
    blocks = fbnet_blocks.block_workloads(space)
    refused = next(iter(blocks))

    def runtime(models):
        for name, _ in models:
            whole = name.startswith("whole 32 ")
            workload = space.workload(parse_pairs(name.split(" ", 2)[2])) if whole else blocks[name]
            yield Measurement(name, 1 + workload.macs / 1e6, 0.0, 0.0, 24, 0, name != refused)

    monkeypatch.setattr(fbnet_blocks, "measure", runtime)
    built = fbnet_blocks.build(Request(tmp_path / "new", measure=5))
    write(tmp_path / "blocks", built.card, built.blocks, built.labels)
    table = hwbench_data.load(tmp_path / "blocks")
    entry = table.card.devices[cpu.NAME]
    assert (entry["source"], entry["refused"]) == ("measured", 1)
    rng = np.random.default_rng([0, 32])
    expected = []
    for arch in [space.sample(rng) for _ in range(5)]:
        made = [key for key in composed.keys(space, arch) if key in blocks]
        if refused not in made:
            macs = space.workload(arch).macs / 1e6
            expected.append((len(made) + macs) / (1 + macs))
            total = composed.compose(table, space, [arch], cpu.NAME)[0]
            assert total == pytest.approx(len(made) + macs)
    facts = entry["whole_networks"]["32x32"]
    assert facts == pytest.approx(
        {"networks": len(expected), "median": np.median(expected), "least": min(expected), "most": max(expected)},
        abs=6e-4,
    )
    skip = next(label for label in built.labels if label.startswith("Skip_") and label not in blocks)
    assert table.query(skip, cpu.NAME, ["latency_ms"]) == {"latency_ms": 0.0}
    assert np.isnan(table.query(refused, cpu.NAME, ["latency_ms"])["latency_ms"])


@pytest.mark.skipif(not REFERENCE, reason="COSEARCH_REFERENCE_DATA is not set")
@pytest.mark.parametrize("accelerator", ["default", "best"])
@pytest.mark.parametrize("device", MODELLED)
def test_modelled_devices_rank_cells_as_real_ones_do(device: str, accelerator: str) -> None:
    """On the mean over thirteen devices, which agree with the others to 0.73 (pixel3) to 0.88 on the mean."""
    real = pd.read_parquet(Path(str(REFERENCE)) / "nb201_latency_pool_ms.parquet").set_index("arch_idx")
    real = real.select_dtypes("number")
    ours = hwbench_data.load("nasbench201").query_many(
        np.arange(nb.SIZE), "latency_ms", device, input="32x32", accelerator=accelerator
    )["latency_ms"]
    assert real.shape[1] == 13
    assert real.rank().corrwith(pd.Series(ours).rank()).mean() > 0.6


@pytest.mark.skipif(not REFERENCE, reason="COSEARCH_REFERENCE_DATA is not set")
def test_published_networks_from_published_blocks(tmp_path: Path) -> None:
    """HW-NAS-Bench's own figures: every block its first choice, and the same with the second in the last layer."""
    lut = pd.read_parquet(Path(str(REFERENCE)) / "hwnasbench_fbnet_lut.parquet")
    lut = lut[lut.kind == "cifar"]  # placeholders too: the published sums have them in
    space = fbnet.space((3, 32, 32), 100)
    first = dict.fromkeys(space.choices, fbnet.CHOICES[0])
    last = {**first, "layer22": fbnet.CHOICES[1]}
    expected = {
        ("edgegpu", "latency"): (15.80452, 16.86119),
        ("eyeriss", "latency"): (3.940896, None),
        ("eyeriss", "energy"): (3.242008, None),
        ("edgegpu", "energy"): (86.98096, None),
    }
    for (device, metric), totals in expected.items():
        rows = lut[(lut.device == device) & (lut.metric == metric)]
        path = tmp_path / f"{device}_{metric}.csv"
        rows[["key", "value"]].to_csv(path, index=False)
        unit, name = ("ms", "latency_ms") if metric == "latency" else ("mJ", "energy_mj")
        facts = {"device": device, "metric": name, "unit": unit}
        mapping = checked_map({"network": "key", "values": {"value": facts}}, "map")
        import_file(path, "fbnet_blocks", mapping, tmp_path / path.stem)
        table = hwbench_data.load(tmp_path / path.stem)
        found = composed.compose(table, space, [first, last], device, name)
        for value, total in zip(found, totals, strict=True):
            if total is not None:
                assert value == pytest.approx(total, rel=2e-6)


def test_measured_cells_answer_for_their_class_and_the_rest_is_predicted() -> None:
    sample, session = cpu.read_sample(library.folder("nasbench201") / cpu.FILE)
    assert "onnxruntime" in session
    table = hwbench_data.load("nasbench201")
    everything = np.arange(nb.SIZE)
    for side in recipe.SIDES:
        image = f"{side}x{side}"
        networks, latency = sample.of(side)
        assert len(networks) >= 1000
        answer = table.query_many(networks, "latency_ms", cpu.NAME, input=image)["latency_ms"]
        assert np.array_equal(answer, latency)
        sources = np.array(table.sources(everything, "latency_ms", cpu.NAME, input=image))
        assert set(sources) == {"measured", "predicted"}
        same = table.networks.same
        assert np.array_equal(sources == "measured", np.isin(same, same[networks]))
        facts = table.card.devices[cpu.NAME][image]
        assert facts["measured_networks"] == len(networks)
        assert 0 < facts["held_out_mean_error"] < 0.15


def test_predictions_follow_a_known_law_and_state_their_error() -> None:
    rng = np.random.default_rng(0)
    features = rng.integers(0, 5, size=(nb.SIZE, 4))
    truth = 1.0 + features @ np.array([0.5, 0.1, 0.2, 0.05])
    chosen = rng.permutation(nb.SIZE)[:200]
    same = library.load("nasbench201").networks.same
    chosen = chosen[np.unique(same[chosen], return_index=True)[1]]
    n = len(chosen)
    ones = np.ones(n, np.int64)
    sample = cpu.Sample(
        chosen, 32 * ones, truth[chosen], truth[chosen], truth[chosen], 24 * ones, 0 * ones, ones, 0 * ones, 1.0 * ones
    )
    values, sources = cpu.column(sample, 32, features)
    predicted = sources == SOURCES.index("predicted")
    assert np.allclose(values[predicted], np.maximum(truth, truth[chosen].min())[predicted], rtol=1e-6)
    assert cpu.facts(sample, 32, features)["held_out_mean_error"] < 1e-3


def test_sampled_networks_are_priced_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hwbench_data.recipes import shiftadd as recipe_

    monkeypatch.setattr(recipe_, "DEVICES", ())
    built = recipe_.build(Request(tmp_path, limit=12))
    assert built.labels == [notation(arch) for arch in recipe_.sample(_sampled_space(), 20, 0)[:12]]
    archs = recipe_.sample(_sampled_space(), 12, 0)
    priced = recipe_.demands(archs, _sampled_space())
    for i, arch in enumerate(archs):
        workload, at = _sampled_space().workload(arch), priced.of[i]
        assert priced.counts[at].tolist() == count_layers(workload, priced.layers)
        assert priced.live_bytes[at] == workload.live_activation_bytes
        assert priced.host_bytes[at] == host_bytes(workload)
    write(tmp_path / "sa", built.card, built.blocks, built.labels)
    assert check_table(hwbench_data.load(tmp_path / "sa")) == []


def test_networks_that_were_trained_alone_have_their_accuracies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwbench_data.recipes import shiftadd as recipe_

    known, other, once = recipe_.sample(_sampled_space(), 30, 9)[:3]
    study = {
        "data": "0f",
        "recipe": {"epochs": 3},
        "networks": [
            {"arch": known, "val_accuracy": {"0": 0.5, "1": 0.7}},
            {"arch": other},
            {"arch": once, "val_accuracy": {"0": 0.9}},
        ],
    }
    (tmp_path / "study.json").write_text(json.dumps(study))
    monkeypatch.setattr(recipe_, "TRAINED", tmp_path / "study.json")
    monkeypatch.setattr(recipe_, "DEVICES", ())
    monkeypatch.setattr(recipe_, "NETWORKS", 10)
    assert "No accuracies yet: 1 of 200" in recipe_.build(Request(tmp_path)).card.notes[-1]
    monkeypatch.setattr(recipe_, "LEAST_TRAINED", 1)
    built = recipe_.build(Request(tmp_path))
    assert built.labels == [notation(arch) for arch in (*recipe_.sample(_sampled_space(), 10, 0), known)]
    write(tmp_path / "sa", built.card, built.blocks, built.labels)
    table = hwbench_data.load(tmp_path / "sa")
    found = table.query(known)
    assert found["val_accuracy"] == pytest.approx(0.6)
    assert found["val_accuracy_std"] == pytest.approx(0.1 * 2**0.5)
    assert np.isfinite(table.accuracies(range(11), "val_accuracy")).sum() == 1
    assert table.top(1, "val_accuracy").index.tolist() == [10]
    assert check_table(table) == []
    assert "1 of the networks" in built.card.notes[-1]
    assert "longer_val_accuracy" not in table.metrics


def test_accuracies_of_the_longer_training_stand_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hwbench_data.recipes import shiftadd as recipe_

    twice, short, once = recipe_.sample(_sampled_space(), 30, 9)[:3]
    values = {"0": 0.5, "1": 0.7}
    study = {
        "data": "0f",
        "recipe": {"epochs": 3},
        "longer_recipe": {"epochs": 9},
        "networks": [
            {"arch": twice, "val_accuracy": values, "longer": {"val_accuracy": {"0": 0.8, "1": 0.9}}},
            {"arch": short, "val_accuracy": values},
            {"arch": once, "val_accuracy": values, "longer": {"val_accuracy": {"0": 0.9}}},
        ],
    }
    (tmp_path / "study.json").write_text(json.dumps(study))
    for name, value in (("TRAINED", tmp_path / "study.json"), ("DEVICES", ()), ("NETWORKS", 10), ("LEAST_TRAINED", 1)):
        monkeypatch.setattr(recipe_, name, value)
    built = recipe_.build(Request(tmp_path))
    write(tmp_path / "sa", built.card, built.blocks, built.labels)
    table = hwbench_data.load(tmp_path / "sa")
    found = table.query(twice)
    assert found["val_accuracy"] == pytest.approx(0.6)
    assert found["longer_val_accuracy"] == pytest.approx(0.85)
    assert found["longer_val_accuracy_std"] == pytest.approx(0.05 * 2**0.5)
    assert np.isfinite(table.accuracies(range(13), "val_accuracy")).sum() == 3
    assert np.isfinite(table.accuracies(range(13), "longer_val_accuracy")).sum() == 1
    assert check_table(table) == []
    [note] = [note for note in built.card.notes if note.startswith("longer_val_accuracy: 1 of these")]
    assert '"epochs": 9' in note


def test_the_study_that_ships_is_one_of_the_table() -> None:
    from hwbench_data.recipes import shiftadd as recipe_

    study = json.loads(recipe_.TRAINED.read_text())
    found = recipe_.trained(study)
    assert len(found) >= 46
    for arch, (mean, spread) in found.values():
        _sampled_space().check(arch)
        assert 1 / 12 < mean < 1
        assert 0 <= spread < 0.2


def test_accuracies_of_one_supernet_are_those_of_the_tables_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwbench_data.recipes import shiftadd as recipe_

    monkeypatch.setattr(recipe_, "DEVICES", ())
    monkeypatch.setattr(recipe_, "NETWORKS", 10)
    known = recipe_.trained(json.loads(recipe_.TRAINED.read_text()))
    archs = recipe_.networks_of_table(_sampled_space(), 0, known)
    assert len(archs) == 10 + len(known)
    shared = {"networks": recipe_.digest(archs), "images": 50, "right": list(range(len(archs))), "supernet": {}}
    shared["right"] = [value % 50 for value in shared["right"]]
    (tmp_path / "supernet.json").write_text(json.dumps(shared))
    monkeypatch.setattr(recipe_, "SUPERNET", tmp_path / "supernet.json")
    for name, limit in (("all", None), ("few", 7)):
        built = recipe_.build(Request(tmp_path, limit=limit))
        write(tmp_path / name, built.card, built.blocks, built.labels)
        table = hwbench_data.load(tmp_path / name)
        assert table.query(archs[6])["supernet_accuracy"] == pytest.approx(6 / 50)
        assert check_table(table) == []
    other = recipe_.build(Request(tmp_path, limit=7, seed=1)).card  # of other networks nothing is known
    assert "supernet_accuracy" not in other.metrics
    assert not any("supernet" in note for note in other.notes)


def test_the_supernet_that_ships_was_asked_about_the_tables_networks() -> None:
    from hwbench_data.recipes import shiftadd as recipe_

    shared = json.loads(recipe_.SUPERNET.read_text())
    known = recipe_.trained(json.loads(recipe_.TRAINED.read_text()))
    archs = recipe_.networks_of_table(_sampled_space(), 0, known)
    assert shared["networks"] == recipe_.digest(archs)
    assert len(shared["right"]) == len(archs) >= 20_000
    assert shared["data"] == json.loads(recipe_.TRAINED.read_text())["data"]
    assert 0.3 * shared["images"] < np.mean(shared["right"]) < max(shared["right"]) < shared["images"]
    table = hwbench_data.load("shiftadd")
    for i in (0, 9_999, len(archs) - 1):
        found = table.query(archs[i])
        assert found["supernet_accuracy"] == pytest.approx(shared["right"][i] / shared["images"])


def _sampled_space() -> shiftadd.MacroSpace:
    return shiftadd.space((1, 24, 24), 10)


@pytest.mark.parametrize(("weight_kib", "activation_kib"), [(36, 18), (288, 72)])
def test_all_at_once_equals_one_by_one(weight_kib: int, activation_kib: int) -> None:
    """Networks that fit on chip, that half fit, and that do not, on an accelerator with three engines."""
    from hwbench_data.recipes import shiftadd as recipe_

    space = _sampled_space()
    fpga = accelerators.find(
        "ecp5-85f",
        choices={
            "rows": (8,),
            "cols": (8,),
            "dataflow": ("weight-stationary",),
            "windowed": (True,),
            "fabric": ("logic",),
            "weight_kib": (weight_kib,),
            "activation_kib": (activation_kib,),
            "port_bits": (128,),
            "clock_mhz": (100.0,),
        },
    )
    only = accelerator_tensor(space.layer_table(), fpga.accelerator(0, {"mac": 0, "shift": 0, "add": 0}))
    least = {name: "skip" if "skip" in options else "add_k3_e1" for name, options in space.choices.items()}
    priced = recipe_.demands([*recipe_.sample(space, 6, 3), least, recipe_.mixed(space)], space)
    found = at_once(only, priced)
    assert np.isfinite(found).all()
    assert np.allclose(found, one_by_one(only, priced), rtol=1e-12)
    assert (found[2] <= found[0] * found[1] * (1 + 1e-12)).all()


def test_cards_sum_up_gaps_of_what_runs() -> None:
    assert gap_facts(np.array([0.5, np.nan, 0.1, 0.3])) == {"median": 0.3, "largest": 0.5}
    assert gap_facts(np.full(2, np.nan)) == {}
