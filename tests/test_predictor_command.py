"""`cosearch predict` and `cosearch predictor`: from ten measured lines to predictions with intervals."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from cosearch.cli import app
from cosearch.errors import ConfigError, CosearchError, DataError, UnknownNameError
from predictors import shipped
from predictors.storage import load, read_card
from search_spaces.networks import find
from search_spaces.networks.nasbench201 import cell, to_string

SPACE = find("nasbench201")()
PRICE = {"none": 0.1, "skip_connect": 0.2, "nor_conv_1x1": 1.0, "nor_conv_3x3": 2.5, "avg_pool_3x3": 0.6}


def cost(arch) -> float:
    return 3.0 + sum(PRICE[op] for op in arch.values())


def csv(path, indices, scale=1.0, column="latency_ms"):
    lines = [f"arch,{column}"]
    for i in indices:
        arch = cell(i)
        noise = 1 + 0.02 * np.sin(i)
        lines.append(";".join(f"{k}={v}" for k, v in arch.items()) + f",{scale * cost(arch) * noise:.6g}")
    path.write_text("\n".join(lines))
    return path


def run(*words: object) -> str:
    done = CliRunner().invoke(app, [str(w) for w in words])
    if isinstance(done.exception, CosearchError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_networks_to_measure_are_named(tmp_path):
    from hwbench_data.measured import read_archs

    chosen = run("predictor", "choose", "-n", "12").splitlines()
    (tmp_path / "archs.txt").write_text("\n".join(chosen))
    archs = read_archs(tmp_path / "archs.txt", SPACE)
    assert len({json.dumps(SPACE.canonical(arch)) for arch in archs}) == 12
    assert (
        chosen
        == run("predictor", "choose", "-n", "12").splitlines()
        != run("predictor", "choose", "-n", "12", "--seed", "1").splitlines()
    )
    rows = [f"{line},{cost(arch):.6g}" for line, arch in zip(chosen[:5], archs, strict=False)]
    (tmp_path / "some.csv").write_text("\n".join(["arch,latency_ms", *rows]))
    more = run("predictor", "choose", "-n", "7", "--measurements", tmp_path / "some.csv").splitlines()
    assert len(more) == 7
    assert not set(more) & set(chosen[:5])
    with pytest.raises(ConfigError, match="no pool of devices ships for latency_ms in space shiftadd"):
        run("predictor", "choose", "--space", "shiftadd")


def test_a_space_is_made_for_the_images_asked_for(tmp_path):
    space = find("shiftadd")((1, 24, 24), 4)
    archs = [space.sample(np.random.default_rng(i)) for i in range(12)]
    lines = [";".join(f"{k}={v}" for k, v in a.items()) + f",{10 + i}" for i, a in enumerate(archs)]
    (tmp_path / "t.csv").write_text("\n".join(["arch,latency_ms", *lines]))
    asked = ("--space", "shiftadd", "--input-shape", "1,24,24", "--num-classes", "4")
    for words in (("train", tmp_path / "t.csv", "--model", "ridge"), ("adapt", "--measurements", tmp_path / "t.csv")):
        run("predictor", *words, *asked, "-o", tmp_path / "p")
        assert load(tmp_path / "p").space.macro.input_shape == (1, 24, 24)
        assert load(tmp_path / "p").space.macro.num_classes == 4
    with pytest.raises(ConfigError, match="--input-shape '24x24': expected channels,height,width, such as 3,224,224"):
        run("predictor", "train", tmp_path / "t.csv", "--space", "shiftadd", "--input-shape", "24x24")


def test_an_accuracy_that_ships_is_that_of_all_devices():
    model, card = shipped.predictor("shiftadd", shipped.ANY, "supernet_accuracy")
    arch = ";".join(f"{k}={v}" for k, v in model.space.sample(np.random.default_rng(1)).items())
    said = run("predict", "--space", "shiftadd", "--target", "supernet_accuracy", "--arch", arch, "--json")
    found = json.loads(said)["networks"][0]
    assert found["interval"][0] < found["supernet_accuracy"] < found["interval"][1] <= 1.2
    assert card["score"]["spearman"] > card["floor"]["ridge on operator counts"]["spearman"]
    with pytest.raises(ConfigError, match="--device is missing"):
        run("predict", "--space", "shiftadd", "--arch", arch)


def test_ten_lines_of_a_board_give_a_predictor(tmp_path):
    said = run("predictor", "adapt", "--measurements", csv(tmp_path / "board.csv", range(10)))
    assert "from 10 networks" in said
    assert "by leave-one-out error on these measurements, ridge regression" in said
    file = tmp_path / "board.predictor"
    assert read_card(file)["target"] == "latency_ms"
    mean, _ = load(file).predict([cell(i) for i in range(100, 200)])
    assert np.corrcoef(mean, [cost(cell(i)) for i in range(100, 200)])[0, 1] > 0.9
    arch = ";".join(f"{k}={v}" for k, v in cell(3).items())
    said = run("predict", "--device", file, "--arch", arch, "--arch", json.dumps(cell(7)))
    assert "90% interval" in said
    said = run("predictor", "evaluate", file, csv(tmp_path / "others.csv", range(200, 260)))
    assert "60 networks: Spearman 0.9" in said
    assert '"data"' in said
    said = run(
        "predictor", "adapt", "--from", file, "--measurements", csv(tmp_path / "other.csv", range(10), 7.0), "-o",
        tmp_path / "new.predictor",
    )  # fmt: skip
    mean, _ = load(tmp_path / "new.predictor").predict([cell(300)])
    assert mean[0] == pytest.approx(7 * cost(cell(300)), rel=0.3)


def test_adapted_once_and_again(tmp_path):
    def table(name, indices, power):
        """What an edge costs depends on the edge as well, which no count of operators tells."""
        costs = [sum((1 + i) * PRICE[op] for i, op in enumerate(cell(n).values())) ** power for n in indices]
        archs = (json.dumps(cell(n)).replace('"', '""') for n in indices)
        lines = [f'"{arch}",{1 + cost:.8g}' for arch, cost in zip(archs, costs, strict=True)]
        (tmp_path / name).write_text("\n".join(["arch,latency_ms", *lines]))
        return tmp_path / name

    run("predictor", "train", table("t.csv", range(0, 15000, 50), 1), "--model", "ridge", "-o", tmp_path / "source")
    for power in (2, 3):
        table("few.csv", range(7, 15000, 1250), power)
        said = run(
            "predictor", "adapt", "--from", tmp_path / "source", "--measurements", tmp_path / "few.csv", "-o",
            tmp_path / "source",
        )  # fmt: skip
        assert said.count(" is used: its cross-validated error") == 1
        assert "The predictor that was adapted is used" in said
        assert "that of a predictor from these measurements and the pool of devices" in said
        assert "that of ridge regression on operator counts" in said
        assert ", adapted: error" in said
        said = run("predict", "--device", tmp_path / "source", "--arch", json.dumps(cell(7)), "--coverage", "0.8")
        assert "latency_ms" in said


def test_a_source_that_cannot_be_adapted_to_these_lines_is_left_out(tmp_path, monkeypatch):
    for module in ("arch", "pool"):  # fewer than in earnest, which takes as long
        monkeypatch.setattr(f"predictors.{module}.MOST", 50)
    run("predictor", "adapt", "--measurements", csv(tmp_path / "board.csv", range(10)), "-o", tmp_path / "pooled")
    many = csv(tmp_path / "many.csv", range(0, 540, 10))
    said = run("predictor", "adapt", "--from", tmp_path / "pooled", "--measurements", many, "-o", tmp_path / "p")
    assert "A predictor from these measurements alone is used" in said
    assert "Without the predictor that was adapted: 54 samples to adapt from, at most 50" in said
    assert "latency_ms from 54 networks" in said
    with pytest.raises(DataError, match="4 distinct networks"):
        run("predictor", "adapt", "--from", tmp_path / "pooled", "--measurements", csv(tmp_path / "t.csv", range(4)))


def test_training_on_a_table(tmp_path):
    table = csv(tmp_path / "t.csv", range(40), column="energy_mj")
    said = run("predictor", "train", table, "--target", "energy_mj", "--model", "gp", "-o", tmp_path / "p")
    assert "energy_mj from 40 networks by gp" in said
    assert read_card(tmp_path / "p")["target"] == "energy_mj"


def test_a_model_is_trained_with_options_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("predictors.neural.STEPS", 10)
    table = csv(tmp_path / "t.csv", range(40))
    train = ("predictor", "train", table, "-o", tmp_path / "p")
    run(*train, "--model", "mlp", "--option", "loss=hinge", "--option", "ranking_weight=0.1")
    assert read_card(tmp_path / "p")["options"]["options"] == {"loss": "hinge", "ranking_weight": 0.1}
    run(*train, "--model", "boosting", "--option", "monotone=null", "--option", "log=true")
    assert read_card(tmp_path / "p")["options"]["options"] == {"log": True, "monotone": None}
    for words, match in (
        (("loss=hing",), "unknown loss 'hing': did you mean 'hinge'"),
        (("los=hinge",), "takes no option 'los': did you mean 'loss'"),
        (("loss",), "--option 'loss': expected name=value"),
        (("=3",), "expected name=value"),
        (("log=true", "log=false"), "each name once"),
        (("ranking_weight=much",), "ranking_weight of model 'mlp' is 'much': expected a number of at least 0"),
        (("ranking_weight=-1",), "is -1: expected a number of at least 0"),
        (("log=1",), "log of model 'mlp' is 1: expected true or false"),
    ):
        with pytest.raises(ConfigError, match=match):
            run(*train, "--model", "mlp", *(word for option in words for word in ("--option", option)))
    with pytest.raises(ConfigError, match="name it instead of auto"):
        run(*train, "--option", "log=true")


def test_what_cannot_be_done(tmp_path):
    table = csv(tmp_path / "t.csv", range(4))
    with pytest.raises(DataError, match="4 distinct networks: a predictor needs at least 5"):
        run("predictor", "train", table)
    with pytest.raises(ConfigError, match="does not learn from features alone"):
        run("predictor", "train", csv(tmp_path / "u.csv", range(9)), "--model", "pool")
    with pytest.raises(ConfigError, match="--device is missing"):
        run("predict", "--arch", "0-1=none")
    with pytest.raises(UnknownNameError, match="no predictor ships for"):
        run("predict", "--device", "toaster", "--arch", "0-1=none")
    with pytest.raises(UnknownNameError, match=r"no device; one that ships: .*cpu-x86"):
        run("predict", "--device", "pool", "--arch", "0-1=none")
    with pytest.raises(UnknownNameError) as caught:
        run("predict", "--device", "pol", "--arch", "0-1=none")
    assert "pool" not in str(caught.value)
    with pytest.raises(DataError, match="is not a predictor file"):
        run("predictor", "evaluate", table)
    run("predictor", "train", csv(tmp_path / "v.csv", range(9)), "--model", "ridge", "-o", tmp_path / "p")
    with pytest.raises(ConfigError, match="is not valid JSON"):
        run("predict", "--device", tmp_path / "p", "--arch", '{"0-1')
    with pytest.raises(ConfigError, match="decision '0-2' is missing"):
        run("predict", "--device", tmp_path / "p", "--arch", "0-1=none")
    with pytest.raises(ConfigError, match="--arch is missing"):
        run("predict", "--device", tmp_path / "p")
    with pytest.raises(DataError, match="9 samples cannot show 99% coverage"):
        run("predict", "--device", tmp_path / "p", "--arch", json.dumps(cell(7)), "--coverage", "0.99")


def changed(path, old: str, new: str):
    path.write_text(path.read_text().replace(old, new))
    return path


def test_values_that_nothing_can_be_learned_from_name_file_and_line(tmp_path):
    first = f",{cost(cell(2)) * (1 + 0.02 * np.sin(2)):.6g}"
    for value, match in (("0", "line 4: latency_ms is 0, expected a number of more"), ("1e308", "line 4: .* at most")):
        with pytest.raises(DataError, match=match):
            run("predictor", "train", changed(csv(tmp_path / "t.csv", range(9)), first, f",{value}"))


def test_networks_measured_twice_that_disagree_are_told_of(tmp_path):
    once, twice = csv(tmp_path / "a.csv", range(9)), csv(tmp_path / "b.csv", range(3), 2.0)
    once.write_text(once.read_text() + "\n" + "\n".join(twice.read_text().splitlines()[1:]))
    said = run("predictor", "train", once, "--model", "ridge")
    assert "3 networks are measured more than once with values that differ by up to 67% of their mean" in said
    assert "measured more than once" not in run("predictor", "train", csv(once, range(9)), "--model", "ridge")


def test_a_predictor_that_knows_nothing_says_so(tmp_path):
    table = csv(tmp_path / "t.csv", range(30))
    lines = [line.rsplit(",", 1)[0] for line in table.read_text().splitlines()[1:]]
    random = np.random.default_rng(1).random(30) + 1
    said = run("predictor", "train", table, "--model", "ridge")
    assert "No better than guessing" not in said
    table.write_text("\n".join(["arch,latency_ms", *(f"{a},{v:.4f}" for a, v in zip(lines, random, strict=True))]))
    assert "No better than guessing the mean" in run("predictor", "train", table, "--model", "ridge")


def test_scores_that_are_not_defined(tmp_path, recwarn):
    run("predictor", "train", csv(tmp_path / "v.csv", range(9)), "--model", "ridge", "-o", tmp_path / "p")
    with pytest.raises(DataError, match="1 network to score: rank correlation needs at least two"):
        run("predictor", "evaluate", tmp_path / "p", csv(tmp_path / "one.csv", [3]))
    flat = csv(tmp_path / "t.csv", range(4))
    rows = [line.rsplit(",", 1)[0] + ",5" for line in flat.read_text().splitlines()[1:]]
    flat.write_text("\n".join(["arch,latency_ms", *rows]))
    with pytest.raises(DataError, match="all 4 measured values are 5: rank correlation needs different ones"):
        run("predictor", "evaluate", tmp_path / "p", flat)
    zero = csv(tmp_path / "t.csv", range(3), column="accuracy")
    rows = zero.read_text().splitlines()
    zero.write_text("\n".join([*rows[:2], rows[2].rsplit(",", 1)[0] + ",0", rows[3]]))
    with pytest.raises(DataError, match="value 1 is 0: an error relative to it is not defined"):
        run("predictor", "evaluate", tmp_path / "p", zero, "--target", "accuracy")
    assert not recwarn.list


def test_a_graph_network_is_trained_on_graphs(tmp_path, monkeypatch):
    monkeypatch.setattr("predictors.neural.STEPS", 5)
    table = csv(tmp_path / "t.csv", range(0, 1500, 50))
    said = run("predictor", "train", table, "--model", "graph", "-o", tmp_path / "p")
    assert "from 30 networks by graph on graph" in said
    assert "latency_ms" in run("predict", "--device", tmp_path / "p", "--arch", json.dumps(cell(7)))


def test_a_file_knows_its_space_and_target(tmp_path):
    run("predictor", "train", csv(tmp_path / "v.csv", range(9)), "--model", "ridge", "-o", tmp_path / "p")
    arch = ("--arch", json.dumps(cell(7)))
    assert "latency_ms" in run("predict", "--device", tmp_path / "p", "--space", "nasbench201", *arch)
    with pytest.raises(ConfigError, match=r"--space shiftadd contradicts .*, which predicts nasbench201"):
        run("predict", "--device", tmp_path / "p", "--space", "shiftadd", *arch)
    with pytest.raises(ConfigError, match=r"--target energy_mj contradicts .*, which predicts latency_ms"):
        run("predict", "--device", tmp_path / "p", "--target", "energy_mj", *arch)


def test_networks_that_differ_at_their_end_are_told_apart(tmp_path):
    run("predictor", "train", csv(tmp_path / "v.csv", range(9)), "--model", "ridge", "-o", tmp_path / "p")
    archs = [cell(7), {**cell(7), "2-3": "none"}]
    texts = (";".join(f"{k}={v}" for k, v in arch.items()) for arch in archs)
    said = run("predict", "--device", tmp_path / "p", *(word for text in texts for word in ("--arch", text)))
    for arch in archs:
        assert f"2-3={arch['2-3']}" in said


def test_a_source_that_only_misleads_is_not_used(tmp_path):
    table = csv(tmp_path / "strange.csv", range(0, 600, 20))
    rows = table.read_text().splitlines()
    costs = np.random.default_rng(0).permutation([row.rsplit(",", 1)[1] for row in rows[1:]])
    pairs = zip(rows[1:], costs, strict=True)
    table.write_text("\n".join([rows[0], *(f"{row.rsplit(',', 1)[0]},{value}" for row, value in pairs)]))
    run("predictor", "train", table, "--model", "boosting", "-o", tmp_path / "strange")
    board = csv(tmp_path / "board.csv", range(5, 10000, 999))
    said = run("predictor", "adapt", "--from", tmp_path / "strange", "--measurements", board)
    assert "A predictor from these measurements and the pool of devices is used: its cross-validated error" in said
    assert "that of the predictor that was adapted" in said
    assert "by pooled on" in said
    run("predictor", "train", by_edge(tmp_path / "near.csv", range(0, 15000, 100)), "--model", "ridge")
    board = by_edge(tmp_path / "board.csv", range(5, 10000, 999), 2.0)
    said = run("predictor", "adapt", "--from", tmp_path / "near.predictor", "--measurements", board)
    assert "The predictor that was adapted is used: its cross-validated error" in said
    assert "that of a predictor from these measurements and the pool of devices" in said


def by_edge(path, indices, scale=1.0):
    """A device on which the same operation costs another time on every edge, as no count of operations can tell."""
    price = np.random.default_rng(3).exponential(size=(6, 5))
    rows = ["arch,latency_ms"]
    for i in indices:
        pairs = cell(i).items()
        spent = sum(price[e, list(PRICE).index(op)] for e, (_, op) in enumerate(pairs))
        rows.append(";".join(f"{k}={v}" for k, v in pairs) + f",{scale * (1 + spent):.6g}")
    path.write_text("\n".join(rows))
    return path


def test_a_seed_is_not_negative(tmp_path):
    done = CliRunner().invoke(app, ["predictor", "train", str(csv(tmp_path / "t.csv", range(9))), "--seed", "-1"])
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)


def test_every_predictor_that_ships_loads_and_says_what_it_is():
    for space, device, metric in shipped.available():
        if device == "pool":
            pool = shipped.device_pool(find(space)(), metric)
            assert len(pool.devices) >= 3
            card = read_card(shipped.FOLDER / f"{space}--pool--{metric}.safetensors")
            assert {"data", "score", "floor", "date", "tested_on"} <= set(card)
            assert card["score"]["spearman"] > card["floor"]["ridge on operator counts"]["spearman"]
            assert shipped.known_pool(find(space)(), metric) is not None
            continue
        model, card = shipped.predictor(space, device, metric)
        assert {"data", "score", "floor", "date", "tested_on"} <= set(card)
        assert card["data"]["source"] in ("modelled", "measured")
        assert card["score"]["spearman"] >= card["floor"]["ridge on operator counts"]["spearman"] - 0.002
        mean, std = model.predict([model.space.sample(np.random.default_rng(i)) for i in range(20)])
        assert (mean > 0).all()
        assert np.isfinite(std).all()


def test_no_pool_for_another_space():
    assert shipped.known_pool(find("shiftadd")(), "latency_ms") is None
    assert shipped.known_pool(SPACE, "weight_kg") is None
    assert shipped.known_pool(find("nasbench201")((3, 64, 64), 10), "latency_ms") is None


def test_cells_may_be_named_as_tables_of_the_field_do(tmp_path):
    """By index or notation, on the command line and in a file."""
    named = ["7", to_string(cell(7)), json.dumps(cell(7))]
    said = json.loads(run("predict", "--device", "cpu-x86", "--json", *(w for n in named for w in ("--arch", n))))
    assert [network["arch"] for network in said["networks"]] == 3 * [cell(7)]
    assert len({network["latency_ms"] for network in said["networks"]}) == 1
    rows = [f"{i if i % 2 else to_string(cell(i))},{cost(cell(i)):.6g}" for i in range(20)]
    (tmp_path / "board.csv").write_text("\n".join(["arch,latency_ms", *rows]))
    run("predictor", "train", tmp_path / "board.csv", "--model", "ridge", "-o", tmp_path / "p")
    assert read_card(tmp_path / "p")["samples"] == 20
