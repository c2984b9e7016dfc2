"""What stands on the pages, against the files of the runs."""

import html.parser
import importlib.util
import json
import math
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau

import cosearch
from cosearch.cli import main
from cosearch.errors import RunError
from cosearch.loading import load_run
from cosearch.report import writing
from cosearch.report.charts import edge, energy_parts, front_points, scaled
from cosearch.report.curves import moves
from cosearch.report.facts import FINISHED, GOING_ON, STOPPED, read_facts
from cosearch.report.page import change_of, command, run_page
from cosearch.report.searching import front_of
from cosearch.report.several import attained, by_run, comparison, curves_over_runs, grouped, several_page
from cosearch.report.trust import _mapper
from cosearch.report.writing import compare, write_report
from cosearch.results import CO_SEARCH
from cosearch.runs import RunDirectory
from hwbench_data import analog
from tests.report.conftest import EVIL

SECTIONS = ["found", "front", "search", "layers", "accelerator", "changes", "trust", "reproduce"]


class Page(html.parser.HTMLParser):
    """Anchors of sections, text, charts and whatever could reach the network."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.words: list[str] = []
        self.charts: dict[str, dict] = {}
        self.reaching: list[str] = []
        self.scripts = 0
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, name, attributes):
        known = dict(attributes)
        if name == "section":
            self.sections.append(known["id"])
        self.scripts += name == "script"
        self._inside = known.get("id", "") if name == "script" and "type" in known else name
        if name in ("img", "iframe", "object", "embed", "base", "form", "audio", "video") or "src" in known:
            self.reaching.append(name)
        if name in ("link", "use") and not known.get("href", "").startswith("data:"):
            self.reaching.append(name)

    def handle_endtag(self, name):
        self._inside = ""

    def handle_data(self, data):
        if self._inside.endswith("-data"):
            self.charts[self._inside.removesuffix("-data")] = json.loads(data)
        elif self._inside not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(run) -> Page:
    return Page((run / "report.html").read_text(encoding="utf-8"))


def test_the_page_states_the_policy_of_the_mappings_and_the_gap_of_their_product():
    layers = [{"mapspace": 10}, {"mapspace": 2000}, {"mapspace": 0}]
    finalist = {"layers": layers, "policies": {"mac": 0.5, "shift": 1.0}, "edp": 1.05, "edp_bound": 1.0}
    said = _mapper(SimpleNamespace(details={"finalist": finalist}))
    assert "10 to 2,000 mappings" in said
    assert "mac: least 0.5 W x latency + 0.5 x energy; shift: least latency" in said
    assert "any mapping for any layer on its accelerator: at most 5.00%" in said
    assert "no gap" not in said


def test_a_run_leaves_its_report_in_the_order_in_which_a_reader_asks(finished):
    page = page_of(finished)
    assert page.sections == SECTIONS
    assert page.reaching == []
    assert page.charts.keys() >= {
        "front-chart", "hypervolume", "best-accuracy", "layer-latency", "layer-energy", "network-changes",
    }  # fmt: skip
    for spec in page.charts.values():
        assert len(spec["alt"]) > 20


def test_every_number_of_the_front_is_that_of_front_csv(finished):
    front = pd.read_csv(finished / "front.csv")
    shown = next(s for s in page_of(finished).charts["front-chart"]["series"] if s["name"] == "Pareto front")
    assert len(shown["points"]) == len(front)
    for point, row in zip(shown["points"], front.to_dict("records"), strict=True):
        for name, value in point["v"].items():
            assert value == row[name]
        assert {"accuracy", "latency_ms", "energy_mj", "lut"} <= point["v"].keys()
        said = dict(point["n"])
        assert said["accelerator"] == row["accelerator"]
        assert said["network"] == ", ".join(f"{n} {c}" for n, c in json.loads(row["arch"]).items())


def test_the_limit_of_the_run_is_drawn(finished):
    assert page_of(finished).charts["front-chart"]["limits"] == [
        {"key": "latency_ms", "value": 0.2, "label": "at most 0.2"}
    ]


def test_the_page_says_what_show_says(finished, capsys):
    result = load_run(finished)
    text = page_of(finished).text
    for note in result.notes:
        assert " ".join(note.split()) in text
    pipeline = result.finalist.pipeline
    assert 0 < pipeline["interval_ms"] <= result.finalist.latency_ms
    assert f"one every {pipeline['interval_ms']:.4g} ms, {1e3 / pipeline['interval_ms']:,.4g} images/s" in text
    for design in result.designs:
        low, high = design.interval
        assert f"{design.accuracy:.4f} [{low:.3f}, {high:.3f}]" in text or "@" in design.name
    assert result.finalist.accelerator in text
    for name in ("model.onnx", "accelerator.json", "integers.npz"):
        assert f"best/{name}" in text


def test_layers_and_transfer_sum_to_what_the_finalist_costs(finished):
    described = read_facts(finished).details["finalist"]
    costs = load_run(finished).finalist.costs
    for name in ("latency_ms", "energy_mj"):
        total = sum(row[name] for row in described["layers"]) + described["host"][name]
        assert total == pytest.approx(costs[name], rel=1e-9)
    for row in described["layers"]:
        assert sum(row["energy_pj"].values()) * 1e-9 == pytest.approx(row["energy_mj"], rel=1e-9)
        assert row["latency_ms"] >= row["roofline_ms"] * (1 - 1e-9)
        assert 0 < row["utilisation"] <= 1
    parts = energy_parts(described["layers"])
    assert np.sum(list(parts.values()), axis=0) * 1e-9 == pytest.approx([r["energy_mj"] for r in described["layers"]])


def test_one_change_at_a_time_costs_what_a_fresh_pricing_says(finished):
    from cosearch.hardware import Accelerator
    from cosearch.problem import prepare
    from cosearch.progress import Reporter

    run = RunDirectory.open(finished)
    changes = read_facts(finished).details["changes"]
    problem = prepare(run.config, Reporter(quiet=True))
    finalist = load_run(finished).finalist
    accelerator = Accelerator.from_json(json.loads((finished / "best/accelerator.json").read_text()))
    rows = [row for row in changes["rows"] if row["part"] == "network"]
    assert len(rows) == sum(len(options) - 1 for options in problem.space.choices.values())
    for row in rows:
        other = {**finalist.arch, row["decision"]: row["instead"]}
        if row["moved"]:
            assert row["reason"]
            [front] = problem.costs.free().fronts([other])
            assert row["costs"]["energy_mj"] in front.metric("energy_mj")
        else:
            cost = problem.costs.on(accelerator, other)
            assert row["costs"]["latency_ms"] == pytest.approx(cost.latency_ms)
            assert row["costs"]["energy_mj"] == pytest.approx(cost.energy_mj)
    asked = [row for row in rows if row["accuracy"] is not None]
    assert 0 < changes["evaluated"] <= len(asked) <= len(rows)
    built = [row for row in changes["rows"] if row["part"] == "accelerator"]
    assert any(row["costs"] for row in built)
    assert {row["reason"] for row in built if not row["costs"]} <= {row["reason"] for row in built if row["reason"]}
    decided = {row["decision"] for row in built}
    assert {"clock", "weight buffer"} <= decided
    assert change_of(changes["of"], {"costs": {"energy_mj": 2 * changes["of"]["energy_mj"]}}, "energy_mj") == "+100.0%"


def test_what_moved_the_searches_ends_at_the_front(finished):
    facts = read_facts(finished)
    found = moves(facts)
    assert found.whole
    ended = front_of(found.searches[CO_SEARCH], 3)
    front = facts.result.front
    points = np.stack([-front.accuracy, front.latency_ms, front.energy_mj], axis=1)
    assert sorted(map(tuple, ended.tolist())) == sorted(map(tuple, points.tolist()))


def test_a_class_named_like_a_script_stays_text(finished):
    text = (finished / "report.html").read_text(encoding="utf-8")
    assert EVIL not in text
    assert "<b>done" not in text
    page = page_of(finished)
    assert EVIL in page.text
    assert page.scripts == len(page.charts) + 1
    assert "<b>done" in page.text


def test_trust_tells_what_is_measured_and_what_is_not(finished):
    text = page_of(finished).text
    units = read_facts(finished).details["device"]["unit_costs"]
    said = re.search(r"(\d+) measured, (\d+) published, (\d+) modelled", text)
    assert sum(map(int, said.groups())) == len(units)
    assert int(said[1]) == sum(unit["status"] == "measured" for unit in units)
    assert "rank correlation not measured in this run" in text
    assert "--finalist-candidates 8 trains enough for one" in text
    rows = {row["search"]: row for row in read_facts(finished).details["sequential"]["rows"]}
    assert set(rows) == {"co-search", "random search"}
    assert f"random search, all 12 evaluations: {rows['random search']['ratio']:.2f}x" in text
    mean, low, high = rows["random search"]["interval"]
    assert f"cut into 2 searches of 6 evaluations: {mean:.2f}x, 95% interval {low:.2f} to {high:.2f}" in text


def test_short_trainings_of_many_candidates_give_a_rank_correlation(finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    trials = [t for t in read_facts(copy).searches["co-search"] if t.accuracy is not None][:9]
    right = [40, 10, 55, 30, 70, 20, 5, 60, 33]
    for number, (trial, count) in enumerate(zip(trials, right, strict=True)):
        for epochs in (1, 2) if number == 0 else (1,):  # the second heat has the better half only, other accuracies
            heat = {"arch": trial.arch, "seed": 0, "epochs": epochs, "validation": {"correct": "1" * count + "0" * 30}}
            (copy / "finalists" / f"heat-{number}-{epochs}.json").write_text(json.dumps(heat))
    tau = kendalltau([t.accuracy for t in trials], [count / (count + 30) for count in right]).statistic
    text = Page(run_page(read_facts(copy))).text
    assert f"Kendall tau {tau:.2f} over 9 networks" in text
    assert "trained alone for 1 epoch, on the validation images" in text


def test_reproduce_names_seed_versions_and_data(finished):
    text = page_of(finished).text
    data = json.loads((finished / "result.json").read_text())
    assert data["data_hash"] in text
    assert f"cosearch {cosearch.__version__}" in text
    config = RunDirectory.open(finished).config
    assert command(config).startswith("cosearch run --space tests.tiny_space:space --device ecp5-25f")
    assert "--max-latency-ms 0.2" in command(config)


def test_a_page_reads_and_checks_its_result_once(finished, monkeypatch):
    checked = []
    monkeypatch.setattr("cosearch.export.schema.check", lambda data, name: checked.append(name))
    run_page(read_facts(finished))
    assert checked == ["result"]


def test_details_are_found_once_and_again_when_the_result_is_another(finished, tmp_path, monkeypatch):
    path = tmp_path / "copy"
    shutil.copytree(finished, path)

    def forbidden(*_):
        raise AssertionError("nothing is to be computed")

    with monkeypatch.context() as patch:
        patch.setattr("cosearch.report.details.find_again", forbidden)
        write_report(path, quiet=True)
    before = (path / "report.json").read_text()
    (path / "report.json").write_text(before.replace(json.loads(before)["of"], "0" * 64))
    write_report(path, quiet=True)
    again = json.loads((path / "report.json").read_text())
    assert again == json.loads(before)


def test_a_report_without_the_data_says_why(finished, tmp_path):
    path = tmp_path / "copy"
    shutil.copytree(finished, path)
    (path / "report.json").unlink()
    config = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(re.sub(r"data: .*evil", "data: /nowhere/gone.npz", config))
    write_report(path, quiet=True)
    page = page_of(path)
    assert page.sections == SECTIONS
    assert "gone.npz" in page.text


def test_a_report_without_the_study_says_why(finished, tmp_path):
    path = tmp_path / "copy"
    shutil.copytree(finished, path)
    (path / "report.json").unlink()
    (path / "study.db").unlink()
    write_report(path, quiet=True)
    assert "study.db has no trial of the finalist" in page_of(path).text


def test_an_unfinished_run_shows_its_search(unfinished):
    assert read_facts(unfinished).state == STOPPED
    with RunDirectory.open(unfinished).locked():
        assert read_facts(unfinished).state == GOING_ON
        write_report(unfinished, quiet=True)
    page = page_of(unfinished)
    assert page.sections == ["found", "front", "search", "trust", "reproduce"]
    assert "co-search: 12 of at most 12 evaluations" in page.text
    assert "hypervolume" in page.charts


def test_a_run_that_has_only_begun_has_a_page(unfinished):
    (unfinished / "study.db").unlink()
    (unfinished / "log.jsonl").unlink()
    write_report(unfinished, quiet=True)
    assert "Nothing has been evaluated yet" in page_of(unfinished).text


def test_a_measured_device_has_a_page_without_an_accelerator(measured):
    page = page_of(measured)
    assert page.sections == SECTIONS
    assert "There is no accelerator to design" in page.text
    assert "with 90% intervals" in page.text
    low, high = load_run(measured).finalist.cost_intervals["latency_ms"]
    assert f"[{low:.4g} to {high:.4g}]" in page.text
    assert re.search(r"90% interval \S+ ms to \S+ ms", page.text)
    assert "relative root mean square" in page.text
    assert "network-changes" in page.charts


@pytest.mark.parametrize(
    ("device", "said"),
    [pytest.param("cpu", "priced in closed form", marks=pytest.mark.slow), ("hwnasbench-eyeriss", "is given")],
)
def test_a_run_without_training_has_a_page(made, device, said):
    if importlib.util.find_spec(analog.MODULE) is None:
        pytest.skip("the accuracies of NAS-Bench-201 are in another package: pip install '.[nasbench201]'")
    options = {"space": "nasbench201", "accuracy": "table", "baselines": False, "trials": 4, "quiet": True}
    cosearch.run(**options, device=device, out=made / device)
    page = page_of(made / device)
    assert page.sections == SECTIONS
    assert "accuracy, from the table" in page.text
    assert said in page.text


def test_a_failing_report_leaves_the_run_finished(finished, tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise ValueError("no such colour")

    path = tmp_path / "copy"
    shutil.copytree(finished, path)
    config = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(re.sub("quiet: true", "quiet: false", config))
    monkeypatch.setattr("cosearch.report.details.find_details", broken)
    result = cosearch.resume(path)
    assert result.finalist.name == CO_SEARCH
    said = capsys.readouterr()
    out = " ".join((said.out + said.err).split())
    assert "The report failed (ValueError: no such colour); the run is finished" in out
    assert read_facts(path).state == FINISHED


def test_the_command_line_makes_pages_and_says_where(finished, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["cosearch", "report", str(finished)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == str(finished / "report.html")
    monkeypatch.setattr(sys, "argv", ["cosearch", "report", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "is not a run directory" in capsys.readouterr().err


def test_a_page_of_known_details_loads_no_torch(finished):
    code = (
        "import sys; from cosearch.report.writing import write_report; write_report(sys.argv[1], True); "
        "assert not {'torch', 'sklearn', 'numba'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(finished)], check=True, timeout=120)


# -- several runs --


def test_runs_that_differ_in_their_seed_are_one_group(seeds):
    facts = [read_facts(path) for path in seeds]
    groups = grouped(facts)
    assert [len(group.runs) for group in groups] == [3, 1]
    assert [(group.name, group.apart) for group in groups] == [("A", "trials 12"), ("B", "trials 20")]
    compared = comparison(facts)
    columns, rows = by_run(compared)
    energy = columns.index("energy per image (mJ)")
    for row, path in zip(rows, seeds, strict=True):
        assert row[0] == path.name
        assert float(row[energy]) == pytest.approx(load_run(path).finalist.costs["energy_mj"], rel=1e-3)


def test_attainment_over_seeds_lies_between_the_runs(seeds):
    compared = comparison([read_facts(path) for path in seeds[:3]])
    found = attained(compared, 0, "energy_mj", "accuracy")
    fronts = [pd.read_csv(path / "front.csv") for path in seeds[:3]]
    every = [{(r.energy_mj, r.accuracy) for r in front.itertuples()} for front in fronts]
    best = {tuple(step) for step in found["best"].tolist()}
    assert best <= set().union(*every)
    for energy, accuracy in found["worst"].tolist():
        for front in fronts:
            assert front.accuracy[front.energy_mj <= energy].max() >= accuracy
    for energy, accuracy in found["median"].tolist():
        assert sum(front.accuracy[front.energy_mj <= energy].max() >= accuracy for front in fronts) >= 2


def test_the_page_of_several_runs(seeds, tmp_path, monkeypatch, capsys):
    to = tmp_path / "several.html"
    words = ["cosearch", "compare", *map(str, seeds), "--to", str(to)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    out = capsys.readouterr().out
    page = Page(to.read_text(encoding="utf-8"))
    assert page.sections == ["found", "front", "attainment", "search", "trust", "reproduce"]
    assert page.reaching == []
    assert {
        "fronts",
        "attained-latency_ms-accuracy",
        "attained-energy_mj-accuracy",
        "hypervolume",
    } <= page.charts.keys()
    for said in ("trials 12", "trials 20", "ahead in"):
        assert said in page.text
        assert said in " ".join(out.split())
    assert str(to) in out


def test_a_comparison_as_json(seeds, tmp_path, monkeypatch, capsys):
    to = tmp_path / "several.html"
    monkeypatch.setattr(sys, "argv", ["cosearch", "compare", *map(str, seeds), "--to", str(to), "--json"])
    with pytest.raises(SystemExit):
        main()
    said = json.loads(capsys.readouterr().out)
    assert said["page"] == str(to)
    assert [one["apart"] for one in said["configurations"]] == [{"trials": 12}, {"trials": 20}]
    runs = [run for one in said["configurations"] for run in one["runs"]]
    curves = curves_over_runs(comparison([read_facts(path) for path in seeds]))
    for run, path in zip(runs, seeds, strict=True):
        assert run["path"] == str(path)
        assert run["finalist"]["costs"] == load_run(path).finalist.costs
    for at, run in enumerate(runs[:3]):
        assert run["hypervolume"].keys() == {"co-search", "conv-only", "random search"}
        assert all(run["hypervolume"][name] == curves[0, name][at][-1][1] for name in run["hypervolume"])
    beside = [line for line in said["sentences"] if line.startswith("A: joint search dominates")]
    assert ["random search" in line for line in beside] == [True, False]
    assert "beside conv-only at equal evaluations" in beside[1]


def test_comparing_needs_two_finished_runs(seeds, unfinished):
    with pytest.raises(RunError, match="two runs or more"):
        compare(seeds[:1])
    with pytest.raises(RunError, match=r"is stopped, not finished: .* cosearch resume"):
        compare([seeds[0], unfinished])


def test_a_seed_that_stands_twice_is_said(seeds):
    twice = comparison([read_facts(seeds[0])] * 2)
    assert "a seed stands twice" in Page(several_page(twice)).text


# -- small things --


def test_units_are_chosen_so_that_the_largest_value_is_at_least_one():
    assert scaled([0.0004, 0.0016], "ms") == ("µs", 1e3)
    assert scaled([12.0], "ms") == ("ms", 1.0)
    assert scaled([2.5e6], "pJ") == ("µJ", 1e-6)
    assert scaled([], "ms")[0] == "ns"


def test_an_axis_is_cut_only_where_few_values_would_press_the_others_together():
    assert edge([1.0, 2.0, 30.0]) is None
    assert edge([*range(20), 400.0]) == pytest.approx(20.0)
    assert edge([]) is None


def test_points_that_are_not_known_are_left_out(finished):
    facts = read_facts(finished)
    facts.result.front.loc[0, "lut"] = math.nan
    assert "lut" not in front_points(facts)[0]["v"]


def test_files_that_are_named_exist(finished):
    assert writing.FILE == "report.html"
    for target in re.findall(r'href="([^"#:]+)"', (finished / "report.html").read_text(encoding="utf-8")):
        assert (finished / target).is_file(), target
