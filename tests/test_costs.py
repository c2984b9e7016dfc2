import json

import numpy as np
import pytest

from cosearch.costs import AcceleratorCosts, JointCosts, MeasuredCosts, Measurements, read_table
from cosearch.errors import ConfigError, DataError, InfeasibleError
from cosearch.hardware.tensor import cost_tensor, network_cost
from cosearch.report.trials import read_trials
from cosearch.strategies import Objectives, make
from cosearch.strategies.base import cheapest
from cosearch.testing import check_device
from cosearch.workload import host_bytes
from search_spaces.accelerators import fpga
from search_spaces.decisions import split
from search_spaces.joint import joined
from search_spaces.networks import nasbench201
from tests import tiny_device, tiny_space

SPACE = tiny_space.space()
SIZES = {
    "rows": (2, 8), "cols": (4, 8), "weight_kib": (4.5, 36), "activation_kib": (4.5, 18), "port_bits": (64,),
    "clock_mhz": (75.0, 150.0),
}  # fmt: skip
LINE = "layer1=conv_k3_e1;layer2=add_k3_e1;layer3=skip"


def archs(n: int) -> list[dict]:
    rng = np.random.default_rng(0)
    return [SPACE.sample(rng) for _ in range(n)]


@pytest.fixture(scope="module")
def tensor():
    return cost_tensor(SPACE.layer_table(), fpga.space("ecp5-25f", choices=SIZES), cache=False)


# -- tables --


def write(tmp_path, text: str):
    (tmp_path / "table.csv").write_text(text)
    return tmp_path / "table.csv"


def test_both_ways_to_write_an_arch(tmp_path):
    arch = {"layer1": "conv_k3_e1", "layer2": "add_k3_e1", "layer3": "skip"}
    quoted = json.dumps(arch).replace('"', '""')
    path = write(tmp_path, f'arch,latency_ms,energy_mj,note\n{LINE},1.5,2,a\n"{quoted}",3,0,b\n')
    table = read_table(path, SPACE, "latency_ms", ("energy_mj",))
    assert table.archs == (arch, arch)
    assert table.values["latency_ms"].tolist() == [1.5, 3.0]
    assert table.values["energy_mj"].tolist() == [2.0, 0.0]
    assert "energy_mj" not in read_table(path, SPACE, "latency_ms").values


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "not a readable CSV"),
        ("arch,latency_ms\n", "holds no rows"),
        ("net,latency_ms\na,1\n", "has columns net, latency_ms; expected arch,latency_ms"),
        ("arch,energy_mj\na,1\n", "expected arch,latency_ms"),
        (f"arch,latency_ms\n{LINE},1\n{LINE},fast\n", "line 3: latency_ms is 'fast'"),
        (f"arch,latency_ms\n{LINE},-1\n", "line 2: latency_ms is"),
        (f"arch,latency_ms\n{LINE},inf\n", "line 2: latency_ms is"),
        (f"arch,latency_ms\n{LINE},\n", "line 2: latency_ms is 'nan'"),
        (f"arch,latency_ms,energy_mj\n{LINE},1,x\n", "line 2: energy_mj is 'x'"),
        (
            f"arch,latency_ms\n{LINE},1\nlayer1=conv,1\n",
            "line 3: decision 'layer2' is missing|line 3: decision 'layer1'",
        ),
        ("arch,latency_ms\nplain words,1\n", "line 2: arch 'plain words'"),
        ("arch,latency_ms\na=1,b=2,1\n", "more values than columns"),
        ('arch,latency_ms\n"{bad json",1\n', "line 2"),
        ('arch,latency_ms\n"[1, 2]",1\n', "line 2"),
        (",1\n", "expected arch,latency_ms"),
        ("arch,latency_ms\n,1\n", "line 2"),
    ],
)
def test_bad_lines_are_named(tmp_path, text, match):
    with pytest.raises(DataError, match=match) as caught:
        read_table(write(tmp_path, text), SPACE, "latency_ms", ("energy_mj",))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_tables(tmp_path):
    with pytest.raises(DataError, match="check the path"):
        read_table(tmp_path / "absent.csv", SPACE, "latency_ms")
    with pytest.raises(DataError, match="not a readable CSV"):
        read_table(tmp_path, SPACE, "latency_ms")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01" * 30)
    with pytest.raises(DataError, match=r"binary\.csv"):
        read_table(tmp_path / "binary.csv", SPACE, "latency_ms")


@pytest.mark.parametrize(
    "blank", ["", "\n", "\r\n\n", " \t\n\n", "\ufeff", "\ufeff\n"], ids=["none", "one", "two", "tabs", "mark", "both"]
)
def test_lines_that_begin_a_file_empty_are_counted(tmp_path, blank):
    path = write(tmp_path, f"{blank}arch,latency_ms\n{LINE},1\n\n{LINE},2\n")
    assert read_table(path, SPACE, "latency_ms").values["latency_ms"].tolist() == [1, 2]
    text = f"{blank}arch,latency_ms\n{LINE},1\n\n{LINE},slow\n"
    line = [i for i, part in enumerate(text.replace("\r\n", "\n").split("\n"), start=1) if "slow" in part]
    with pytest.raises(DataError, match=f"line {line[0]}: latency_ms is 'slow'"):
        read_table(write(tmp_path, text), SPACE, "latency_ms")


# -- a measured device --


def measured(constraints=None, objectives=None, energy: bool = True) -> MeasuredCosts:
    known = archs(60)
    latency = np.array([SPACE.workload(a).macs * 1e-6 + 0.01 for a in known])
    values = {"latency_ms": latency} | ({"energy_mj": 3 * latency} if energy else {})
    return MeasuredCosts(
        SPACE, Measurements("phone.csv", tuple(known), values), objectives or Objectives(), constraints
    )


def test_measured_costs_predict_and_count():
    costs = measured()
    assert costs.metrics == ("latency_ms", "energy_mj", "params", "macs")
    assert set(costs.models) == {"latency_ms", "energy_mj"}
    for arch, front in zip(archs(10), costs.fronts(archs(10)), strict=True):
        workload = SPACE.workload(arch)
        assert len(front) == 1
        assert front.metric("macs") == [workload.macs]
        assert front.metric("params") == [workload.weight_count]
        assert front.metric("energy_mj") == pytest.approx(3 * front.metric("latency_ms"), rel=1e-6)
        assert front.metric("latency_ms")[0] == pytest.approx(workload.macs * 1e-6 + 0.01, rel=0.3)
        with pytest.raises(ConfigError, match="gives no 'lut'"):
            front.metric("lut")


def test_predictions_do_not_depend_on_how_many_are_asked_for_at_once():
    """A resumed run asks in other groups than the first one did. What was predicted is not predicted again."""
    together, alone = measured(), measured()
    asked = []
    for metric, model in together.models.items():
        predict = model.predict
        model.predict = lambda some, predict=predict, metric=metric: (asked.append((metric, len(some))), predict(some))[
            1
        ]
    networks = archs(60)
    whole = together.fronts(networks)
    assert {count for _, count in asked} == {len({json.dumps(arch) for arch in networks})}
    assert together.fronts(networks[:5]) == whole[:5]
    assert len(asked) == len(together.models)
    for arch, front in zip(networks, whole, strict=True):
        [single] = alone.fronts([arch])
        assert single.values == front.values


def test_a_measured_device_keeps_limits():
    free = np.array([f.metric("latency_ms")[0] for f in measured().fronts(archs(40))])
    limit = float(np.median(free))
    costs = measured({"max_latency_ms": limit})
    assert [len(f) for f in costs.fronts(archs(40))] == [int(v <= limit) for v in free]
    assert [len(f) for f in costs.free().fronts(archs(40))] == [1] * 40
    found = cheapest(SPACE, measured({"max_latency_ms": float(free.min()) * 1.0001}))
    assert found is not None


def test_what_was_not_measured_cannot_be_asked_for():
    with pytest.raises(ConfigError, match="measures no 'energy_mj'"):
        measured(energy=False)
    with pytest.raises(ConfigError, match="measures no 'area_mm2'"):
        measured({"max_area_mm2": 1.0})


# -- accelerators --


def test_fronts_keep_the_limits_and_the_accelerator_that_they_name(tensor):
    [free] = AcceleratorCosts(SPACE, tensor, Objectives()).fronts([SPACE.largest()])
    limit = float(np.median(free.metric("energy_mj")))
    costs = AcceleratorCosts(SPACE, tensor, Objectives(), {"max_energy_mj": limit})
    [front] = costs.fronts([SPACE.largest()])
    assert 0 < len(front) < len(free)
    assert (front.metric("energy_mj") <= limit).all()
    for point in range(len(front)):
        cost = costs.tensor.evaluate_on(
            costs.accelerator(SPACE.largest(), point), costs._demand(SPACE.largest())[1]["counts_row"],
            live_activation_bytes=SPACE.workload(SPACE.largest()).live_activation_bytes, objective="edp",
            host_bytes=host_bytes(SPACE.workload(SPACE.largest())),
        )  # fmt: skip
        assert cost.feasible
        product = front.metric("latency_ms")[point] * front.metric("energy_mj")[point]
        assert cost.latency_ms * cost.energy_mj <= product * (1 + 1e-9)


def test_the_least_limit_that_can_be_met_is_met(tensor):
    free = AcceleratorCosts(SPACE, tensor, Objectives())
    least = min(float(f.metric("energy_mj").min()) for f in free.fronts(everything()))
    found = cheapest(SPACE, AcceleratorCosts(SPACE, tensor, Objectives(), {"max_energy_mj": least * 1.000001}))
    assert found is not None
    assert cheapest(SPACE, AcceleratorCosts(SPACE, tensor, Objectives(), {"max_energy_mj": least * 0.999})) is None


def everything() -> list[dict]:
    return [SPACE.decode(i) for i in np.ndindex(*(len(options) for options in SPACE.choices.values()))]


def test_networks_of_the_same_layers_share_their_front_and_differ_in_nothing():
    space = nasbench201.space()
    tensor = cost_tensor(space.layer_table(), fpga.space("ecp5-25f", choices=SIZES, kinds=("mac",)), cache=False)
    costs = AcceleratorCosts(space, tensor, Objectives())
    cell = dict.fromkeys(space.choices, "none")
    same = [
        {**cell, "0-1": a, "1-3": b} for a, b in (("nor_conv_3x3", "nor_conv_1x1"), ("nor_conv_1x1", "nor_conv_3x3"))
    ]
    first, second = costs.fronts(same)
    assert first.hardware is second.hardware
    alone = AcceleratorCosts(space, tensor, Objectives()).fronts(same[1:])[0]
    assert np.array_equal(alone.metric("latency_ms"), second.metric("latency_ms"))
    [other] = costs.fronts([{**cell, "0-3": "nor_conv_3x3"}])
    assert other.metric("latency_ms").min() < first.metric("latency_ms").min()


def test_host_bytes_are_the_image_and_the_logits():
    assert host_bytes(SPACE.workload(SPACE.largest())) >= 7 * 7 + 10
    assert host_bytes(SPACE.workload(SPACE.largest())) <= 8 * 8 + 10


# -- objectives and limits of every kind --

OF_AN_FPGA = (
    "latency_ms", "energy_mj", "edp", "throughput_fps", "lut", "ff", "dsp", "bram", "params", "macs",
)  # fmt: skip


@pytest.mark.parametrize("name", OF_AN_FPGA)
def test_every_objective_is_priced_and_none_of_them_is_taken_for_something_to_measure(tensor, name):
    objectives = Objectives(("accuracy", name))
    strategy = make("evolutionary", SPACE, AcceleratorCosts(SPACE, tensor, objectives), objectives, 0)
    for _ in range(14):
        [candidate] = strategy.ask()
        strategy.tell(candidate, {"accuracy": 0.5})
    assert strategy.history.measured == ("accuracy",)
    assert all(np.isfinite(told.front.metric(name)).all() for told in strategy.history.told)


@pytest.mark.parametrize("name", OF_AN_FPGA)
def test_a_limit_on_anything_leaves_the_points_that_meet_it_and_no_others(tensor, name):
    side = "min" if name == "throughput_fps" else "max"
    free = AcceleratorCosts(
        SPACE, tensor, Objectives(tuple(dict.fromkeys(("accuracy", "latency_ms", "energy_mj", name))))
    )
    everything = [free.fronts([arch])[0].metric(name) for arch in archs(12)]
    limit = float(np.median(np.concatenate(everything)))
    limited = AcceleratorCosts(SPACE, tensor, Objectives(), {f"{side}_{name}": limit})
    for arch, values in zip(archs(12), everything, strict=True):
        [front] = limited.fronts([arch])
        kept = front.metric(name)
        meets = (values >= limit) if side == "min" else (values <= limit)
        assert ((kept >= limit * (1 - 1e-12)) if side == "min" else (kept <= limit)).all()
        assert (len(kept) > 0) == meets.any()


@pytest.mark.parametrize(
    ("made_for", "searched", "words"),
    [
        (("latency_ms", "energy_mj"), Objectives(("accuracy", "lut", "edp")), "not in lut: make"),
        (("latency_ms",), Objectives(("accuracy", "edp", "throughput_fps")), "not in edp: make"),
        (("edp",), Objectives(("accuracy", "latency_ms")), "not in latency_ms: make"),
        (("energy_mj",), Objectives(("accuracy", "energy_mj"), constraints={"max_bram": 9.0}), "not in bram: make"),
        (("latency_ms", "energy_mj"), Objectives(("accuracy", "edp"), constraints={"min_throughput_fps": 9.0}), ""),
        (("dsp",), Objectives(("accuracy", "params", "dsp"), constraints={"max_macs": 1e9}), ""),
    ],
)
def test_fronts_that_were_made_for_other_objectives_are_refused(tensor, made_for, searched, words):
    """They lack designs: of the least in another cost, or within a limit on it."""
    costs = AcceleratorCosts(SPACE, tensor, Objectives(made_for))
    if not words:
        make("random", SPACE, costs, searched).ask()
        return
    with pytest.raises(ConfigError, match=words):
        make("random", SPACE, costs, searched)


def test_what_fronts_made_for_other_objectives_lack(tensor):
    [least, other] = [
        min(c.fronts([arch])[0].metric("lut").min() for arch in archs(3))
        for c in (AcceleratorCosts(SPACE, tensor, Objectives(names)) for names in (("lut",), ("latency_ms",)))
    ]
    assert least < other


def test_of_a_limit_of_the_search_the_accelerator_is_that_of_the_point(tensor, tmp_path):
    """The limit cuts fronts of costs that do not know it; what is left is counted anew."""
    names = ("accuracy", "latency_ms", "lut")
    costs = AcceleratorCosts(SPACE, tensor, Objectives(names))
    [arch] = archs(1)
    free = costs.front(arch)
    bound = float(np.sort(free.metric("lut"))[-2])
    assert free.metric("lut")[0] > bound  # the first point goes, and the others move up
    strategy = make("random", SPACE, costs, Objectives(names, constraints={"max_lut": bound}), study=tmp_path)
    strategy.tell(arch, {"accuracy": 0.5})
    [[trial]] = read_trials(tmp_path, ())[1].values()
    within = strategy.history.costs
    [front] = within.fronts([arch])
    chosen = {within.accelerator(arch, at).name: at for at in range(len(front))}
    assert len(chosen) == len(free) - 1
    for name, at in chosen.items():
        accelerator = within.accelerator(arch, at)
        assert accelerator.name == name
        assert accelerator.resources.lut == front.metric("lut")[at] <= bound
    assert trial.values["lut"] == front.metric("lut")[chosen[trial.accelerator]]


def test_a_given_device_derives_and_limits_like_an_accelerator():
    table = Measurements("x.csv", tuple(archs(20)), {"latency_ms": np.linspace(1, 2, 20)})
    costs = MeasuredCosts(SPACE, table, Objectives(("accuracy", "throughput_fps")))
    [front] = costs.fronts(archs(1))
    assert front.metric("throughput_fps") == pytest.approx(1e3 / front.metric("latency_ms"))
    slow = MeasuredCosts(
        SPACE, table, Objectives(("accuracy", "latency_ms")), {"min_throughput_fps": 1e6}, models=costs.models
    )
    assert len(slow.fronts(archs(1))[0]) == 0
    with pytest.raises(ConfigError, match="measures no 'edp'"):
        MeasuredCosts(SPACE, table, Objectives(("accuracy", "edp")), models=costs.models)


# -- fronts that a run keeps --


@pytest.mark.parametrize("objectives", [("accuracy", "latency_ms", "energy_mj"), ("accuracy", "lut", "energy_mj")])
@pytest.mark.parametrize("limits", [{}, {"max_dsp": 20.0, "max_params": 4000.0}])
def test_a_recorded_front_is_the_front(tensor, monkeypatch, objectives, limits):
    costs, again = (AcceleratorCosts(SPACE, tensor, Objectives(objectives), limits) for _ in range(2))
    networks = archs(12)
    records = [json.loads(json.dumps(costs.record(arch))) for arch in networks]
    assert sum(record is None for record in records) == sum(not 0 < len(f) <= 64 for f in costs.fronts(networks)) < 12
    known = [(arch, record) for arch, record in zip(networks, records, strict=True) if record is not None]
    for arch, record in known:
        again.recall(arch, record)
    monkeypatch.setattr(type(tensor), "hardware_front", lambda *_, **__: pytest.fail("it was priced"))
    for arch, _ in known:
        [expected], [found] = costs.fronts([arch]), again.fronts([arch])
        for name in (*costs.metrics, "edp", "area_mm2"):
            np.testing.assert_array_equal(found.metric(name), expected.metric(name))
        for point in range(len(expected)):
            assert again.accelerator(arch, point) == costs.accelerator(arch, point)
            assert found.hardware.policies_of(point) == expected.hardware.policies_of(point)
            assert found.hardware.mappings(point) == expected.hardware.mappings(point)
        np.testing.assert_array_equal(found.hardware.residency, expected.hardware.residency)


@pytest.mark.parametrize(
    "damage",
    [
        {"of": "another"},
        {"latency_ms": [10**30], "shared": [10**30]},
        {"latency_ms": [float("nan")]},
        {"latency_ms": []},
        {"energy_mj": "x"},
        {"shared": [10**6]},
        {"shared": [-1]},
        {"engines": [[10**6, 0, 0]]},
        {"engines": [[0]]},
        {"residency": [9]},
        {"policies": [[99, -1, -1]]},
        {"layers": [10**6]},
        {"layers": None},
        {"params": None},
    ],
)
def test_a_record_that_is_damaged_is_priced_again(tensor, damage):
    costs, again = (AcceleratorCosts(SPACE, tensor, Objectives()) for _ in range(2))
    arch = next(a for a in archs(30) if costs.record(a) is not None and len(costs.fronts([a])[0]) == 1)
    again.recall(arch, {**costs.record(arch), **damage})
    assert not again._fronts


def test_a_record_without_a_part_is_priced_again(tensor):
    costs, again = (AcceleratorCosts(SPACE, tensor, Objectives()) for _ in range(2))
    arch = next(a for a in archs(30) if costs.record(a) is not None)
    for name in costs.record(arch):
        again.recall(arch, {key: value for key, value in costs.record(arch).items() if key != name})
        assert not again._fronts


def test_a_pair_costs_what_its_accelerator_and_its_network_do():
    """Resources and area are the accelerator's own, however many mapping policies there are; limits on them cut it."""
    space = joined(tiny_space.space(), tiny_device.arrays())
    chosen = {"accelerator.rows": 8, "accelerator.cols": 4, "accelerator.port_bits": 128}
    arch = {"layer1": "shift_k3_e1", "layer2": "conv_k3_e1", "layer3": "add_k3_e1", **chosen}
    accelerator = tiny_device.build({"rows": 8, "cols": 4, "port_bits": 128})
    costs = JointCosts(space, Objectives(("accuracy", "latency_ms", "energy_mj", "lut", "params")))
    [front] = costs.fronts([arch])
    best = network_cost(
        tiny_space.space().workload(split(arch)[0]), accelerator, "edp", host_bytes(space.workload(arch))
    )
    assert (front.metric("latency_ms") * front.metric("energy_mj")).min() == pytest.approx(best.edp, rel=1e-12)
    assert set(front.metric("lut")) == {accelerator.resources.lut}
    assert set(front.metric("dsp")) == {accelerator.resources.dsp}
    assert costs.accelerator(arch, 0) == accelerator
    assert costs.resources == ("lut", "ff", "dsp", "bram")
    lut = float(accelerator.resources.lut)
    for limits, kept in (({"max_lut": lut}, True), ({"max_lut": lut - 1}, False), ({"min_lut": lut + 1}, False)):
        assert bool(len(JointCosts(space, Objectives(), limits).front(arch))) == kept
    slowest = {"min_throughput_fps": 1001 / front.metric("latency_ms").min()}
    assert not len(JointCosts(space, Objectives(), slowest).front(arch))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [({"rows": 2, "cols": 8}, "cannot be built"), ({"rows": 16, "cols": 8}, "does not fit: 47,680 of 43,848 LUT")],
)
def test_an_accelerator_that_cannot_be_has_a_reason(changed, reason):
    space = joined(tiny_space.space(), tiny_device.arrays())
    arch = {**space.largest(), **{f"accelerator.{name}": choice for name, choice in changed.items()}}
    front = JointCosts(space, Objectives()).front(arch)
    assert len(front) == 0
    assert reason in front.reason


def test_a_device_that_builds_its_accelerators_passes_the_suite():
    check_device(tiny_device.NAME, tiny_space.NAME, archs=6)
    with pytest.raises(InfeasibleError, match="does not fit"):
        check_device("tests.tiny_device:nothing_fits", tiny_space.NAME)


@pytest.mark.parametrize(
    "limits", [{"max_latency_ms": 0.005, "max_lut": 5300.0}, {"max_lut": 6000.0, "max_macs": 3000.0}]
)
def test_what_runs_within_limits_has_a_front_and_nothing_else(tensor, limits):
    costs, whole = (AcceleratorCosts(SPACE, tensor, Objectives(), limits) for _ in range(2))
    some = archs(24)
    found = [costs.runs_within(arch) for arch in some]
    assert found == [len(front) > 0 for front in whole.fronts(some)]
    assert found == [costs.runs_within(arch) for arch in some]  # remembered
    assert set(found) == {False, True}
