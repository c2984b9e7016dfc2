"""The benchmark's own arithmetic, on a table in closed form: no accuracies and no accelerators are needed."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cosearch.hardware import tensor, tensorfiles
from cosearch.hardware.pricing import RESIDENCIES
from cosearch.workload import host_bytes
from hwbench_data.analog import accuracies, installed
from search_spaces import networks
from search_spaces.accelerators import fpga
from search_spaces.networks import nasbench201
from tests.benchmarks import known_optimum as benchmark
from tests.benchmarks import known_optimum_peers as peers
from tests.benchmarks import known_optimum_report as report


@pytest.fixture(scope="module")
def table():
    """Error falls with the number of 3x3 convolutions, latency rises with it; energy falls on a slower accelerator."""
    cells = np.stack(np.unravel_index(np.arange(5**6), benchmark.SIZES), axis=1)
    convolutions, wires = (cells == 3).sum(1), (cells == 1).sum(1)
    error = 0.5 / (1 + convolutions) + 0.01 * wires
    fronts = tuple(np.array([[1.0 + n, 4.0 + 2 * n], [2.0 + n, 3.0 + 2 * n]]) for n in range(7))
    joint = np.array([[[1.0 + n, 4.0 + 2 * n], [2.0 + n, 3.0 + 2 * n], [np.inf, np.inf]] for n in range(7)])
    network = np.where((cells == 0).all(1), -1, np.arange(5**6))
    axes = {"size": np.array([1.0, 2.0, 3.0])}
    return benchmark.Table("toy-raw", error, network, convolutions, fronts, joint, axes)


def test_the_exact_front_is_what_no_pair_beats(table):
    points, owners = table.exact
    # one network per number of convolutions, none with a wire, each on both accelerators
    assert len(points) == 14
    assert sorted({round(float(e), 6) for e in points[:, 0]}) == [round(0.5 / (1 + n), 6) for n in range(6, -1, -1)]
    for point, owner in zip(points, owners, strict=True):
        assert any(np.array_equal(point[1:], row) for row in table.front(owner))


def test_constrained_optima_by_hand(table):
    assert table.best_error({"max_latency_ms": 4.0}) == pytest.approx(0.5 / 4)
    assert table.best_error({"max_energy_mj": 7.5}) == pytest.approx(0.5 / 3)
    assert table.best_error({"max_latency_ms": 3.0, "max_energy_mj": 7.0}) == pytest.approx(0.5 / 2)


@pytest.mark.parametrize("algorithm", ["random", "local", "regularised", "optuna-nsga2", "evolutionary", "bayesian"])
def test_every_run_climbs_to_what_exhaustion_found(table, algorithm, monkeypatch):
    monkeypatch.setattr(benchmark, "load", lambda problem: table)
    arrives = algorithm in ("local", "regularised", "optuna-nsga2")
    monkeypatch.setattr(benchmark, "BUDGET", 300 if arrives else 60 if algorithm != "random" else 150)
    run = benchmark.one_run("toy-raw", "front", algorithm, "networks", 0)
    assert run["progress"] == sorted(run["progress"])
    assert 0.7 < run["progress"][-1] <= 1.0 + 1e-12
    if arrives:  # the others miss the last few percent of the front in the evaluations that they are given here
        assert run["progress"][-1] == pytest.approx(1.0, abs=1e-12)
        assert len(run["progress"]) < run["budget"]  # it ends there
    limited = benchmark.one_run("toy-raw", "latency", algorithm, "networks", 0)
    assert limited["progress"] == sorted(limited["progress"], reverse=True)
    assert limited["progress"][-1] >= 0
    assert limited["progress"][-1] == 0.0  # the optimum by exhaustion, and not better
    assert len(limited["progress"]) < limited["budget"]


@pytest.mark.parametrize("algorithm", ["local", "regularised"])
def test_joint_runs_credit_one_accelerator_at_a_time(table, algorithm):
    task = peers.task_of(table, {}, "joint")
    for (network, point), _ in zip(peers.run(algorithm, table, {}, "joint", 0), range(40), strict=False):
        assert any(np.array_equal(point, row) for row in table.joint[table.cost_class[network]])
    assert task.price((2,) * 6 + (2,)) is None  # nothing runs on the third accelerator


def test_peers_keep_limits_and_skip_cells_that_do_not_count(table):
    limits = {"max_latency_ms": 4.0}
    for (network, _), _ in zip(peers.run("regularised", table, limits, "networks", 1), range(80), strict=False):
        assert network >= 0
        assert table.front(network)[:, 0].min() <= 4.0


@pytest.mark.parametrize(("task", "mode"), [("front", "networks"), ("latency", "networks"), ("front", "joint")])
def test_tpe_proposes_what_its_study_would(table, task, mode):
    limits = table.limits[task][0] if task != "front" else {}
    made = peers.task_of(table, limits, mode)
    by_study = peers._optuna(peers._tpe)(made, 5)
    assert [s[0] for s, _ in zip(peers.optuna_tpe(made, 5), range(60), strict=False)] == [
        s[0] for s, _ in zip(by_study, range(60), strict=False)
    ]


@pytest.mark.parametrize("name", ["NSGAIISampler", "NSGAIIISampler"])
@pytest.mark.parametrize(("task", "mode"), [("front", "networks"), ("latency", "networks"), ("front", "joint")])
def test_a_genetic_sampler_that_counts_proposes_the_same(table, name, task, mode):
    import optuna

    sampler = getattr(optuna.samplers, name)
    made = peers.task_of(table, table.limits[task][0] if task != "front" else {}, mode)
    found = []
    for kind in (sampler, peers._counting(sampler)):
        steps = peers._optuna(lambda seed, kind=kind: kind(population_size=12, seed=seed))(made, 5)
        found.append([s[0] for s, _ in zip(steps, range(150), strict=False)])
    assert found[0] == found[1]


def test_a_sampler_with_a_model_gets_past_what_is_rejected():
    """All but one of the designs that look best cannot be built; the sampler is not to ask for one of them for ever."""

    def price(choice):
        built = choice[0] > 0 or choice[1] == 0
        return (choice[0] * 4 + choice[1], np.array([float(sum(choice))]), None) if built else None

    steps = peers.run_task("optuna-gp", peers.Task((4, 4), (False, False), price), 0)
    networks = {network for (network, _), _ in zip(steps, range(16), strict=False)}
    assert len(networks) >= 12
    assert 0 in networks


def test_reading_progress():
    run = {"progress": [0.5, 0.9, 0.96], "budget": 10}
    assert report.reached(run, 0.95) == 3
    assert report.reached(run, 0.99) == 10  # never: counted at the budget
    assert report.at(run, 2) == 0.9
    assert report.at(run, 8) == 0.96
    assert report.at(run, 11) is None


def test_medians_that_runs_without_an_arrival_leave_open():
    """Arrivals at 2 and 4; a run that never arrives in 10 would have needed anything above."""

    def runs(*arrivals, budget=10):
        return [{"progress": [0.5] * ((n or budget + 1) - 1) + [1.0] * bool(n), "budget": budget} for n in arrivals]

    said = {seeds: report.Needed.of(runs(*seeds), 0.99) for seeds in ((2, 5), (2, 4, 5), (2, 5, None), (2, None))}
    assert [str(needed) for needed in said.values()] == ["3.5", "4", "5", "at least 6"]
    assert said[2, 5].cell == "3.5 (2.8 to 4.2)"  # the median of the bullet, not the nearest run's
    assert said[2, None].cell == "at least 6 (4 to 8)"
    never = report.Needed.of(runs(2, None, None), 0.99)
    assert str(never) == never.cell == "not reached within 10 (1 of 3 seeds)"
    # a run that was cut short counts low, so that the median by budgets alone would be that of a better one
    assert str(report.Needed.of(runs(8, 9) + runs(None, budget=5), 0.99)) == "at least 8"
    exact, half = said[2, 5], said[2, None]
    assert report.ratio(exact, exact) == "1.00"
    assert report.ratio(never, exact) == "more than 2.86"  # 10 / 3.5
    assert report.ratio(exact, half) == "less than 0.58"  # 3.5 / 6
    assert report.ratio(never, half) == "an unknown part"


def test_a_level_that_few_seeds_reach_is_not_said_to_be_reached():
    ours = [{"progress": [0.5] * 49 + [0.96] * 350 + [last], "budget": 400} for last in (0.99, 0.96)]
    peer = [{"progress": [0.5] * 99 + [0.99], "budget": 800}]
    runs = {("bayesian", "networks"): ours, ("local", "networks"): peer, ("random", "networks"): ours[1:]}
    lines = report.verdicts(runs)
    assert lines[0] == "- bayesian reaches 95.0% in 50 evaluations (median); asked for: at most 60."
    assert lines[1] == "- bayesian reaches 99.0% in at least 400 evaluations (median); asked for: at most 150."
    assert lines[2] == "- bayesian: 99.9% is not reached within 400 (0 of 2 seeds); asked for: at most 500."
    assert "local with 100 evaluations; bayesian takes more than 4.00 of that" in lines[3]
    [line] = [line for line in report.evaluations_table(runs) if line.startswith("| random")]
    assert line.split(" | ")[4] == "not reached within 400 (0 of 1 seeds)"
    regret = {"progress": [0.2, 0.1], "budget": 2}
    [*_, row] = report.regret_table({"latency": {("bayesian", "networks"): [regret]}})
    assert row == "| **bayesian** | 0 of 1; 10.00; not reached within 2 (0 of 1 seeds) |"


def test_without_an_arrival_there_is_no_best_peer():
    runs = {
        ("bayesian", "networks"): [{"progress": [0.5, 0.995], "budget": 800}],
        ("local", "networks"): [{"progress": [0.5] * 9, "budget": 9}],
    }
    assert "- no run of a peer reaches 99%: there is no best one." in report.verdicts(runs)


def test_what_is_said_of_constrained_problems_and_of_commits(tmp_path):
    late, early = (
        {"progress": p, "budget": 400, "commit": c} for p, c in (([0.1] * 100 + [0.0], "b"), ([0.1, 0.0], "a"))
    )
    said = report.constrained_verdicts({"latency": {("bayesian", "networks"): [late, early, early]}})
    assert said == [
        "- latency: bayesian has no regret within 100 evaluations in 2 of 3 seeds; asked for: at least 8 of 10."
    ]
    for seed, run in enumerate((late, early)):
        for algorithm in ("bayesian", "local") if seed else ("bayesian",):
            path = tmp_path / "toy-raw" / "latency" / f"{algorithm}.networks.{seed}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(run), encoding="utf-8")
    assert report.commits_of(tmp_path) == "local: a; bayesian: a, b"


def test_places_are_in_the_product_order():
    for place in (0, 1, 777, 15_624):
        digits = np.unravel_index(place, benchmark.SIZES)
        arch = {n: nasbench201.OPERATIONS[int(d)] for n, d in zip(nasbench201.NAMES, digits, strict=True)}
        assert benchmark.place(arch) == place


def test_a_peer_that_was_cut_short_is_not_the_best_peer():
    ours = [{"progress": [0.5, 0.995], "budget": 800}]
    runs = {
        ("bayesian", "networks"): ours,
        ("local", "networks"): [{"progress": [0.5] * 9 + [0.99], "budget": 800}],
        ("optuna-gp", "networks"): [{"progress": [0.5] * 5, "budget": 5}],
    }
    assert any("best peer for 99% is local with 10 evaluations" in line for line in report.verdicts(runs))


# -- the problems themselves --


def test_the_problems_name_every_choice_themselves(monkeypatch):
    """So that they stay what they are when the spaces' own choices change."""
    for device, choices in (("fpga", benchmark.ECP5), ("asic", benchmark.NVDLA)):
        assert benchmark.DEVICES[device]().choices == choices
    before = benchmark.prices_of("fpga")
    monkeypatch.setitem(fpga.CHOICES, "lanes", (8, 16))
    monkeypatch.setitem(fpga.CHOICES, "rows", (4,))
    assert benchmark.DEVICES["fpga"]().choices == benchmark.ECP5
    assert benchmark.prices_of("fpga") == before


def test_prices_are_kept_by_what_makes_them(monkeypatch):
    """Another unit cost, choice, code of the cost model or of the benchmark is another file."""
    first = benchmark.prices_of("fpga")
    assert first != benchmark.prices_of("asic")
    dearer = fpga.space("ecp5-85f", choices=benchmark.ECP5, kinds=("mac",), scale_modelled={"multiply_pj": 2.0})
    fewer = fpga.space("ecp5-85f", choices={**benchmark.ECP5, "lanes": (16,)}, kinds=("mac",))
    found = {first}
    for space in (dearer, fewer):
        with monkeypatch.context() as patch:
            patch.setitem(benchmark.DEVICES, "fpga", lambda space=space: space)
            found.add(benchmark.prices_of("fpga"))
    for module, name in ((benchmark, "PRICES"), (tensorfiles, "VERSION")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, getattr(module, name) + 1)
            found.add(benchmark.prices_of("fpga"))
    assert len(found) == 5
    assert first == benchmark.prices_of("fpga")


def test_runs_of_other_prices_are_neither_read_nor_kept(tmp_path, table, monkeypatch):
    named = replace(table, prices="fpga-1-abc")
    monkeypatch.setattr(benchmark, "load", lambda problem: named)
    monkeypatch.setattr(benchmark, "ROOT", tmp_path)
    for seed, run in enumerate(({}, {"prices": "fpga-1-abc"}, {"prices": "fpga-1-def"})):
        path = benchmark.path_of("toy-raw", "front", "local", "networks", seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"progress": [1.0], "budget": 1, **run}), encoding="utf-8")
        assert benchmark.is_kept(("toy-raw", "front", "local", "networks", seed)) == (seed < 2)
    [runs] = report.read(path.parent, named.prices).values()
    assert [run.get("prices") for run in runs] == [None, "fpga-1-abc"]
    assert benchmark.one_run("toy-raw", "latency", "local", "networks", 0)["prices"] == "fpga-1-abc"


def below(front: np.ndarray, error: float) -> tuple[np.ndarray, np.ndarray]:
    """Latencies of the points of a front that err no more, rising, and the least energy up to each."""
    points = front[front[:, 0] <= error][:, 1:]
    points = points[np.argsort(points[:, 0])]
    return points[:, 0], np.minimum.accumulate(points[:, 1]) if len(points) else points[:, 1]


def test_the_stored_optima_are_those_of_every_network_on_every_accelerator():
    """fpga-raw: 15,284 networks x all accelerators x policies x what stays on chip, by sums over layers.

    No front, bound, group or joining of the cost tensor is used, only its entries of single layers.
    """
    if not installed():
        pytest.skip("the accuracies come from the package analog-nasbench, which is not installed")
    stored = json.loads((report.OPTIMA / "fpga-raw.json").read_text(encoding="utf-8"))
    front = np.array([[1 - p["accuracy"], p["latency_ms"], p["energy_mj"]] for p in stored["front"]])
    space, device = networks.find("nasbench201")(), benchmark.DEVICES["fpga"]()
    costs = tensor.cost_tensor(space.layer_table(), device)
    [kind] = costs.kinds
    engines, shared = costs.engines[kind], costs.shared
    fits = (engines.resources[None] + shared.resources[:, None] <= np.array(device.budget.counts)).all(2)
    accuracy = np.array(accuracies())
    cells = [arch for arch in map(nasbench201.cell, range(len(accuracy))) if reaches(arch)]
    of_demand = {}
    for arch in cells:
        of_demand.setdefault(space.demand_key(arch), []).append(arch)
    assert len(cells) == stored["networks"]
    attained, limits = np.zeros(len(front), bool), stored["constrained"]
    best = dict.fromkeys(limits, 1.0)
    runs = np.zeros(fits.shape, bool)
    for same in of_demand.values():
        error = 1 - max(accuracy[nasbench201.index_of(arch)] for arch in same)
        points = everywhere(costs, fits, space.workload(same[0]))
        runs |= np.isfinite(points).all(-1).any(axis=(0, 1))
        points = points[np.isfinite(points).all(-1)]
        ms, mj = below(front, error)
        # nothing lies below the stored front: of the points that err no more one takes neither longer nor more energy
        at = np.searchsorted(ms * (1 - 1e-12), points[:, 0], side="right") - 1
        assert (at >= 0).all()
        assert (points[:, 1] >= mj[at] * (1 - 1e-12)).all()
        for i in np.flatnonzero(np.isclose(front[:, 0], error, rtol=0, atol=1e-12)):
            attained[i] |= np.isclose(points, front[i, 1:], rtol=1e-12, atol=0).all(1).any()
        for name, limit in limits.items():
            within = points[:, 0] <= limit.get("max_latency_ms", np.inf)
            if (within & (points[:, 1] <= limit.get("max_energy_mj", np.inf))).any():
                best[name] = min(best[name], error)
    assert attained.all()
    assert {name: 1 - error for name, error in best.items()} == pytest.approx(
        {name: limit["accuracy"] for name, limit in limits.items()}, abs=1e-12
    )
    assert int(runs.sum()) == stored["accelerators"]


def reaches(arch: dict) -> bool:
    """Whether a path leads from a cell's input to its output: node 3 is reached over 0 to 2."""
    edges = [(name, operation) for name, operation in arch.items() if operation != "none"]
    found = {0}
    for _ in range(3):
        found |= {int(name[-1]) for name, _ in edges if int(name[0]) in found}
    return 3 in found


def everywhere(costs, fits: np.ndarray, workload) -> np.ndarray:
    """[residency, policy, shared, engine, (ms, mJ)] of a network, infinite where it does not run."""
    counts = costs.counts_of(workload)
    weights, activations = costs.weight_bits(counts), 8 * workload.live_activation_bytes
    [kind] = costs.kinds
    found = np.full((4, len(costs.policies), *fits.shape, 2), np.inf)
    crossing = np.array([costs.host_cost(host_bytes(workload), at) for at in range(len(costs.shared))])
    for case, residency in enumerate(RESIDENCIES):
        room = np.ones(len(costs.shared), bool)
        room &= not residency.weights or weights <= costs.shared.weight_bits
        room &= not residency.activations or activations <= costs.shared.activation_bits
        for at, table in enumerate((costs.latency, costs.energy)):
            sums = sum(counts[i] * table[kind][case][row] for row, i in enumerate(costs.rows[kind]) if counts[i])
            beside = sum(counts[i] * table["vector"][case][row] for row, i in enumerate(costs.vector_rows) if counts[i])
            whole = (sums + beside)[costs.tables[case].of_shared] + crossing[:, at, None, None]
            found[case, ..., at] = np.where((fits & room[:, None])[:, None], whole, np.inf).transpose(1, 0, 2)
    return found
