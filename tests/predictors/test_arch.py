"""Predictors of networks: features, choice of the model, intervals, limits, files."""

import json

import numpy as np
import pytest
from scipy.stats import kendalltau

from cosearch.errors import ConfigError, DataError
from predictors import features
from predictors.arch import ArchPredictor, candidates, identity
from predictors.encoding import PARTS
from predictors.storage import load, read_card
from search_spaces.decisions import Decisions
from search_spaces.networks import find
from search_spaces.networks.nasbench201 import cell
from tests import tiny_space

SPACE = find("nasbench201")()
ARCHS = [cell(i) for i in np.random.default_rng(0).permutation(15625)[:900]]
PRICE = {"none": 0.1, "skip_connect": 0.2, "nor_conv_1x1": 1.0, "nor_conv_3x3": 2.5, "avg_pool_3x3": 0.6}
NOISE = np.exp(0.05 * np.random.default_rng(1).normal(size=len(ARCHS)))
LATENCY = np.array([3.0 + sum(PRICE[op] for op in arch.values()) for arch in ARCHS]) * NOISE
TRAIN, REST = ARCHS[:60], ARCHS[60:]


@pytest.fixture(scope="module")
def fitted() -> ArchPredictor:
    return ArchPredictor(SPACE).fit(TRAIN, LATENCY[:60])


def test_auto_takes_the_best_of_what_it_compared(fitted):
    assert len(fitted.scores) > 5
    assert fitted.scores[fitted.chosen.label] >= max(fitted.scores.values()) - 1e-9
    # every edge was paid for, dead or not
    assert "@built" in fitted.chosen.label
    assert kendalltau(fitted.predict(REST)[0], LATENCY[60:])[0] > 0.85


def test_the_stated_error_is_the_error_made(fitted):
    mean, std = fitted.predict(REST)
    made = np.sqrt(np.mean((mean - LATENCY[60:]) ** 2))
    assert 0.7 < made / fitted.std < 1.4
    assert 0.7 < made / np.sqrt(np.mean(std**2)) < 1.4
    assert fitted.relative_error < 0.1 < fitted.relative_spread


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_intervals_hold_what_they_promise(coverage):
    inside = []
    for seed in range(6):
        rows = np.random.default_rng(seed).permutation(len(ARCHS))
        train, rest = rows[:150], rows[150:]
        model = ArchPredictor(SPACE, "ridge", seed=seed).fit([ARCHS[i] for i in train], LATENCY[train])
        low, high = model.interval([ARCHS[i] for i in rest], coverage)
        inside.append(((low <= LATENCY[rest]) & (LATENCY[rest] <= high)).mean())
    assert abs(np.mean(inside) - coverage) < 0.025


def test_an_interval_that_the_samples_cannot_show(fitted):
    with pytest.raises(DataError, match=r"60 samples cannot show 99% coverage: at least 99 can"):
        fitted.interval(REST, 0.99)
    with pytest.raises(DataError, match=r"ask for at most 98%"):
        fitted.interval(REST, 0.985)
    assert len(fitted.interval(REST, 0.98)[0]) == len(REST)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        fitted.interval(REST, 90)


@pytest.mark.parametrize(("samples", "least", "most"), [(50, 0.86, 0.94), (200, 0.88, 0.92)])
def test_intervals_of_a_model_that_is_sure_of_itself(samples, least, most):
    """A Gaussian process that fits few samples without noise understates its errors. 30 and 12 draws."""
    smooth = np.array([len(set(a.values())) + (a["0-3"] == "none") for a in ARCHS]) * np.abs(np.sin(LATENCY))
    inside = []
    for seed in range(30 if samples == 50 else 12):
        rows = np.random.default_rng(seed).permutation(len(ARCHS))
        train, rest = rows[:samples], rows[-300:]
        model = ArchPredictor(SPACE, "gp", positive=False, seed=seed).fit([ARCHS[i] for i in train], smooth[train])
        low, high = model.interval([ARCHS[i] for i in rest], 0.9)
        inside.append(((low <= smooth[rest]) & (smooth[rest] <= high)).mean())
    assert least < np.mean(inside) < most


def test_the_quantile_of_the_errors_lies_where_a_new_one_is_below_it_as_often_as_asked():
    model = ArchPredictor(SPACE, "ridge").fit(TRAIN, LATENCY[:60])
    model._errors = np.arange(1.0, 50.0)  # 49 of them
    _, std = model._raw(REST)
    low, high = model.interval(REST, 0.9)
    expected = 45.0 * np.sqrt((std * model._calibration) ** 2 + model.std**2)  # 45 of 50 places are below
    np.testing.assert_allclose((high - low)[low > 0], 2 * expected[low > 0])
    model._errors = np.arange(1.0, 61.0)
    assert (model.interval(REST, 0.9)[1] - model._raw(REST)[0])[0] == pytest.approx(54.9 * expected[0] / 45.0)


def test_isomorphic_samples_do_not_decide_how_wide_intervals_are():
    """No path leads through these: one class, whose costs are as far apart as its dead edges."""
    dead = [a for a in ARCHS if set(SPACE.canonical(a).values()) == {"none"}][:12]
    assert len(dead) == 12
    others = [a for a in ARCHS if a not in dead]
    keys = [tuple(SPACE.canonical(a).values()) for a in others[:60]]
    y = np.concatenate([LATENCY[[ARCHS.index(a) for a in others[:60]]], np.linspace(1, 99, 12)])
    model = ArchPredictor(SPACE, "ridge").fit([*others[:60], *dead], y)
    assert len(model._errors) == sum(keys.count(key) == 1 for key in keys)
    with pytest.raises(DataError, match="72 samples cannot show 99% coverage: at least 99 can, none of them iso"):
        model.interval(REST, 0.99)


def test_what_is_held_out_has_not_told_a_gaussian_process_its_scales():
    from predictors.gp import GaussianProcess

    model = ArchPredictor(SPACE, "gp", ["counts@built"], positive=False).fit(TRAIN, LATENCY[:60])
    X = features(SPACE, TRAIN, ["counts@built"])
    mean, std = model._out_of_fold(model.chosen, X, LATENCY[:60], model._folds(TRAIN), model._model)
    held = model._folds(TRAIN) == 0
    alone = GaussianProcess().fit(X[~held], LATENCY[:60][~held])
    np.testing.assert_allclose(alone.predict(X[held]), (mean[held], std[held]), rtol=1e-6)


def test_the_noise_of_a_rank_correlation():
    from predictors.arch import _kendall_noise

    rng = np.random.default_rng(0)
    for correlation in (0.0, 0.7, 0.97):
        a, b = rng.normal(size=(2, 600, 50))
        found = [kendalltau(x, correlation * x + np.sqrt(1 - correlation**2) * z)[0] for x, z in zip(a, b, strict=True)]
        assert _kendall_noise(float(np.mean(found)), 50) == pytest.approx(float(np.std(found)), rel=0.12)


def test_boosting_lets_no_cost_fall_where_there_is_more_work():
    from predictors.arch import Candidate
    from predictors.encoding import rising

    space = find("fbnet")()
    parts = ("counts", "workload")
    made = ArchPredictor(space)._make(Candidate("boosting", parts))
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(30)]
    blocks = [features(space, archs, (part,)) for part in parts]
    signs = np.array([s for part, x in zip(parts, blocks, strict=True) for s in rising(part, x.shape[1])])
    assert made.monotone == signs.tolist()
    assert signs[: blocks[0].shape[1]].max() == 0
    # the same network with an expansion of 6 where it was 1 does no work less
    more = [{k: v.replace("e1", "e6").replace("_g2", "") for k, v in arch.items()} for arch in archs]
    work = signs[blocks[0].shape[1] :] == 1
    grown = features(space, more, ("workload",)) - blocks[1]
    assert (grown[:, work] >= 0).all()
    assert (grown[:, work].max(0) > 0).any()
    assert work.sum() == len(work) - 1  # intensity may fall where there is more work
    assert ArchPredictor(space, positive=False)._make(Candidate("boosting", parts)).monotone is None
    assert ArchPredictor(space)._make(Candidate("boosting", parts, {"monotone": None})).monotone is None


def test_networks_unlike_any_seen():
    plain = [a for a in ARCHS if "avg_pool_3x3" not in a.values()]
    y = np.arange(1.0, len(plain) + 1)
    model = ArchPredictor(SPACE, "ridge").fit(plain[:80], y[:80])
    pooled = [a for a in ARCHS if list(a.values()).count("avg_pool_3x3") >= 1]
    assert model.outside(pooled).all()
    assert model.outside(plain[:80]).mean() == 0
    assert model.outside(plain[80:]).mean() < 0.05


def test_far_from_all_samples_is_outside_even_if_every_choice_was_seen():
    space = Decisions({f"d{i}": (1, 2, 4, 8) for i in range(6)})
    near = [dict(zip(space.choices, c, strict=True)) for c in np.random.default_rng(0).choice([1, 2], (40, 6)).tolist()]
    corner = [{**near[0], f"d{i}": v} for i in range(6) for v in (4, 8)]
    y = [float(sum(a.values())) for a in near + corner]
    model = ArchPredictor(space, "ridge", ["ordinal"]).fit(near + corner, y)
    assert model.outside([dict.fromkeys(space.choices, 8)]).all()
    assert not model.outside(near).any()


def test_accuracies_are_another_kind_of_target():
    assert not any("built" in part for c in candidates(SPACE, positive=False) for part in c.parts)
    accuracy = 0.9 - 0.05 * np.random.default_rng(2).random(40)
    model = ArchPredictor(SPACE, "gp", positive=False).fit(ARCHS[:40], accuracy)
    assert "flow" in model.chosen.parts
    ArchPredictor(SPACE, "gp", positive=False).fit(ARCHS[:40], accuracy - 1.0)  # nothing demands that it is positive


def test_repeats_are_averaged():
    twice = ArchPredictor(SPACE, "ridge").fit(
        [*TRAIN, *TRAIN], np.concatenate([LATENCY[:60] * 0.9, LATENCY[:60] * 1.1])
    )
    once = ArchPredictor(SPACE, "ridge").fit(TRAIN, LATENCY[:60])
    np.testing.assert_allclose(twice.predict(REST)[0], once.predict(REST)[0], rtol=1e-9)
    assert twice.samples == 60


def test_isomorphic_networks_share_a_fold(fitted):
    folds = fitted._folds(ARCHS)
    key = [tuple(SPACE.canonical(a).values()) for a in ARCHS]
    assert len({(k, int(f)) for k, f in zip(key, folds, strict=True)}) == len(set(key))
    assert len(set(folds)) == 5


def test_another_device_from_ten_samples(fitted):
    other = LATENCY**1.3
    few = np.random.default_rng(4).permutation(len(ARCHS))[:10]
    adapted = fitted.adapt([ARCHS[i] for i in few], other[few])
    assert kendalltau(adapted.predict(REST)[0], other[60:])[0] > 0.8


def test_what_a_source_knows_is_kept_with_ten_samples():
    """The other device's latency is the first one's squared: the order of the source needs no correction."""
    prices = 1 + 3 * np.random.default_rng(3).random((6, 5))
    own = np.array([prices[np.arange(6), SPACE.encode(arch)].sum() for arch in ARCHS])  # no count tells it
    source = ArchPredictor(SPACE, "ridge").fit(ARCHS[:300], own[:300])
    few = np.random.default_rng(4).permutation(len(ARCHS))[:10]
    adapted = source.adapt([ARCHS[i] for i in few], own[few] ** 2)
    assert "predictor that was adapted is used" in adapted.used
    assert kendalltau(adapted.predict(ARCHS)[0], own)[0] > 0.95


def test_a_source_that_tells_less_than_a_ridge_is_left(tmp_path):
    noise = ArchPredictor(SPACE, "gp").fit(TRAIN, np.random.default_rng(0).random(60) + 1)
    few = np.random.default_rng(4).permutation(len(ARCHS))[:12]
    archs = [ARCHS[i] for i in few]
    adapted = noise.adapt(archs, LATENCY[few])
    plain = ArchPredictor(SPACE, "ridge", ["counts@built"]).fit(archs, LATENCY[few])
    np.testing.assert_array_equal(adapted.predict(REST)[0], plain.predict(REST)[0])
    assert adapted.used.startswith("Ridge regression on operator counts is used: its cross-validated error on these")
    assert f"{plain.relative_error:.1%}" in adapted.used
    adapted.save(tmp_path / "p")
    assert read_card(tmp_path / "p")["used"] == adapted.used
    plain.save(tmp_path / "plain")
    assert "used" not in read_card(tmp_path / "plain")


def test_saved_and_read_back(fitted, tmp_path):
    few = np.random.default_rng(4).permutation(len(ARCHS))[:10]
    adapted = fitted.adapt([ARCHS[i] for i in few], LATENCY[few] * 2)
    for at, model in enumerate((fitted, adapted)):
        model.save(tmp_path / f"{at}", data="made up", floor={"mean": 0.3})
        again = load(tmp_path / f"{at}")
        for a, b in zip(again.predict(REST), model.predict(REST), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9)
        np.testing.assert_array_equal(again.outside(REST), model.outside(REST))
        np.testing.assert_allclose(again.interval(REST[:9], 0.8), model.interval(REST[:9], 0.8))
        for told in ("used", "label", "std", "score", "relative_error", "relative_spread", "samples"):
            assert getattr(again, told) == getattr(model, told)
        assert read_card(tmp_path / f"{at}")["label"] == model.label
    assert again.used


def same_counts() -> list:
    """12 networks of the same operators on other edges."""
    operators = list(cell(4711).values())
    orders = [np.random.default_rng(i).permutation(6) for i in range(40)]
    found = {tuple(operators[i] for i in order) for order in orders}
    return [dict(zip(SPACE.choices, each, strict=True)) for each in sorted(found)[:12]]


def test_networks_of_equal_counts_are_adapted_to_without_a_ridge_on_them():
    prices = 1 + 3 * np.random.default_rng(3).random((6, 5))
    own = np.array([prices[np.arange(6), SPACE.encode(arch)].sum() for arch in ARCHS])
    archs = same_counts()
    y = np.array([prices[np.arange(6), SPACE.encode(arch)].sum() for arch in archs])
    adapted = ArchPredictor(SPACE, "ridge").fit(ARCHS[:300], own[:300]).adapt(archs, y**2)
    assert adapted.used.startswith("The predictor that was adapted is used: its cross-validated error on these")
    assert "Without ridge regression on operator counts: 1 distinct rows of features" in adapted.used
    assert kendalltau(adapted.predict(archs)[0], y)[0] > 0.9
    with pytest.raises(DataError, match="4 distinct networks"):
        adapted.adapt(archs[:4], y[:4])


def test_source_pool_and_ridge_are_compared_at_once_and_the_least_error_is_used():
    counted = np.array([3.0 + sum(PRICE[op] for op in arch.values()) for arch in ARCHS])  # a ridge on counts is exact
    prices = 1 + 3 * np.random.default_rng(3).random((6, 5))
    edges = np.array([prices[np.arange(6), SPACE.encode(arch)].sum() for arch in ARCHS])
    few = np.random.default_rng(4).permutation(len(ARCHS))[:12]
    archs = [ARCHS[i] for i in few]
    ridge, source, fresh = (
        "ridge regression on operator counts", "the predictor that was adapted",
        "a predictor from these measurements and the pool of devices",
    )  # fmt: skip
    alive = np.array([3.0 + sum(PRICE[op] for op in SPACE.canonical(arch).values()) for arch in ARCHS])
    for known, target, best in ((edges, counted, ridge), (edges, edges**2, source), (edges, alive, fresh)):
        of = ArchPredictor(SPACE, "ridge").fit(ARCHS[:300], known[:300])
        fitted = {
            fresh: ArchPredictor(SPACE, pool=shipped_pool()).fit(archs, target[few]),
            ridge: ArchPredictor(SPACE, "ridge", ["counts@built"]).fit(archs, target[few]),
        }
        adapted = of.adapt(archs, target[few], ArchPredictor(SPACE, pool=shipped_pool()))
        assert adapted.used.startswith(f"{best[0].upper()}{best[1:]} is used: its cross-validated error on these")
        for name, model in fitted.items():
            assert model.std >= adapted.std
            other = "its cross-validated error on these measurements is" if name == best else f"that of {name}"
            assert f"{other} {model.relative_error:.1%}" in adapted.used
        assert ("adapted" in adapted.label) == (best == source)
        if best != source:
            np.testing.assert_array_equal(adapted.predict(REST)[0], fitted[best].predict(REST)[0])
            assert adapted.label == fitted[best].label == fitted[best].chosen.label


def test_a_predictor_that_was_adapted_twice_is_read_back(tmp_path):
    prices = 1 + 3 * np.random.default_rng(3).random((6, 5))
    own = np.array([prices[np.arange(6), SPACE.encode(arch)].sum() for arch in ARCHS])  # no count tells it
    few = np.random.default_rng(4).permutation(len(ARCHS))[:10]
    archs = [ARCHS[i] for i in few]
    model = ArchPredictor(SPACE, "ridge").fit(ARCHS[:300], own[:300])
    for power in (1.5, 2.0, 2.5):
        model = model.adapt(archs, own[few] ** power)
        assert "predictor that was adapted is used" in model.used
        model.save(tmp_path / "p")
        again = load(tmp_path / "p")
        for a, b in zip(again.predict(REST), model.predict(REST), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9)
        model = again  # what was read is adapted as what was fitted is


def test_a_file_of_an_older_version_is_refused_by_its_number(fitted, tmp_path, monkeypatch):
    for at, model in enumerate((fitted, ArchPredictor(SPACE, pool=shipped_pool()).fit(TRAIN[:10], LATENCY[:10]))):
        assert not [name for name in model.arrays() if name.endswith("numbers")]  # of version 1: told by position
        monkeypatch.setattr("predictors.storage.VERSION", 1)
        model.save(tmp_path / f"{at}")
        monkeypatch.undo()
        with pytest.raises(DataError, match="is a predictor of version 1, this reads 3: train it again") as caught:
            load(tmp_path / f"{at}")
        assert "\n" not in str(caught.value)


def test_a_file_cannot_choose_what_code_runs(fitted, tmp_path, monkeypatch):
    space = tiny_space.space()
    archs = [space.sample(np.random.default_rng(i)) for i in range(12)]
    model = ArchPredictor(space, "ridge").fit(archs, np.arange(1.0, 13))
    with pytest.raises(DataError, match="space 'tiny', which is not registered"):
        model.save(tmp_path / "tiny")
    adapted, options = fitted.adapt(ARCHS[:10], LATENCY[:10]), fitted.options
    for at, (owner, name, value) in enumerate(
        (
            (ArchPredictor, "name", "os:system"),
            (ArchPredictor, "options", property(lambda self: {**options, "model": "os:system"})),
            (type(adapted._model), "options", property(lambda self: {"source": {"model": "os:system", "options": {}}})),
        )
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            (adapted._model if owner is not ArchPredictor else fitted).save(tmp_path / f"evil{at}")
        with pytest.raises(DataError, match="unknown model 'os:system'"):
            load(tmp_path / f"evil{at}")


def test_a_space_that_changed_is_another_space(fitted, tmp_path, monkeypatch):
    fitted.save(tmp_path / "p")
    other = {**identity(SPACE), "choices": "0" * 16}
    monkeypatch.setattr("predictors.arch.identity", lambda space: other)
    fitted_options = json.loads(json.dumps(fitted.options))
    monkeypatch.undo()
    with pytest.raises(DataError, match="another version of space 'nasbench201'"):
        ArchPredictor(**fitted_options)


def test_features_that_changed_since_a_file_was_written_are_found(fitted, tmp_path, monkeypatch):
    ArchPredictor(SPACE, "ridge", ["workload"]).fit(TRAIN, LATENCY[:60]).save(tmp_path / "p")
    own = PARTS["workload"]
    monkeypatch.setitem(PARTS, "workload", lambda networks: 1.01 * own(networks))
    with pytest.raises(DataError, match="features workload of a network changed since this predictor was trained"):
        load(tmp_path / "p")


def test_modelled_costs_are_offered_where_they_say_more_than_counts():
    """In a cell space they are sums over the counts, and pricing takes seconds."""
    fbnet = find("fbnet")((3, 32, 32), 10)
    offered = [c.label for c in candidates(fbnet, positive=True)]
    assert {"ridge on counts, workload, costs", "gp on counts, workload, costs"} < set(offered)
    assert not any("costs" in c.parts for c in candidates(SPACE, positive=True))
    rng = np.random.default_rng(0)
    archs = [fbnet.sample(rng) for _ in range(60)]
    eyeriss = features(fbnet, archs, ("costs",))[:, 4]  # a device that the cost model knows
    model = ArchPredictor(fbnet).fit(archs[:30], eyeriss[:30])
    assert "costs" in model.chosen.parts
    assert model.relative_error < 0.02


@pytest.mark.parametrize(
    ("archs", "values", "match"),
    [
        (ARCHS[:4], LATENCY[:4], "4 distinct networks: a predictor needs at least 5"),
        (ARCHS[:6], LATENCY[:5], "6 networks but 5 values"),
        ([], [], "0 distinct networks"),
        ([ARCHS[0]] * 9, LATENCY[:9], "1 distinct networks"),
        (ARCHS[:6], [1.0] * 6, "constant targets"),
        (ARCHS[:6], [1, 2, 3, np.nan, 4, 5], "not finite"),
        (ARCHS[:6], [1, 2, 3, -1, 4, 5], "a latency or an energy is positive"),
    ],
)
def test_nothing_can_be_learned(archs, values, match):
    with pytest.raises(DataError, match=match) as caught:
        ArchPredictor(SPACE).fit(archs, values)
    assert "\n" not in str(caught.value)


def test_networks_of_another_space(fitted):
    stranger = find("shiftadd")()
    foreign = stranger.sample(np.random.default_rng(0))
    with pytest.raises(ConfigError, match="unknown decision"):
        fitted.predict([foreign])
    with pytest.raises(ConfigError, match="unknown decision"):
        ArchPredictor(SPACE).fit([*ARCHS[:9], foreign], LATENCY[:10])


def test_options_of_a_named_model_are_its_own():
    tight = ArchPredictor(SPACE, "boosting", ["counts@built"], options={"monotone": [1, 1, 1, 1, 1]}).fit(
        TRAIN, LATENCY[:60]
    )
    free = ArchPredictor(SPACE, "boosting", ["counts@built"]).fit(TRAIN, LATENCY[:60])
    assert (tight.predict(REST)[0] != free.predict(REST)[0]).any()
    plain, log = (ArchPredictor(SPACE, "ridge", options=o).fit(TRAIN, LATENCY[:60]) for o in ({}, {"log": True}))
    assert plain.chosen.parts == log.chosen.parts
    assert log._model.log
    assert (plain.predict(REST)[0] != log.predict(REST)[0]).any()
    graph = ArchPredictor(find("shiftadd")(), "graph", options={"loss": "listmle"})
    assert graph.chosen.options == {"nodes": len(find("shiftadd")().choices), "loss": "listmle"}
    assert ArchPredictor(SPACE, "linear").chosen.parts == plain.chosen.parts
    with pytest.raises(ConfigError, match=r"model 'ridge' takes no option 'lgo': did you mean 'log'\?"):
        ArchPredictor(SPACE, "ridge", options={"lgo": True})
    with pytest.raises(ConfigError, match="model 'gp' takes no option 'seed'"):
        ArchPredictor(SPACE, "gp", options={"seed": 3})
    for name, wrong in (("groups", [3]), ("weights", ["a"])):
        with pytest.raises(ConfigError, match=r"options of model 'gp': .* check what the lists hold"):
            ArchPredictor(SPACE, "gp", options={name: wrong})
    for name, wrong, match in (
        ("nodes", 6.5, "a whole number"),
        ("loss", 3, "a name"),
        ("log", "yes", "true or false"),
    ):
        with pytest.raises(ConfigError, match=f"{name} of model 'graph' is .*: expected {match}"):
            ArchPredictor(SPACE, "graph", options={name: wrong})
    with pytest.raises(ConfigError, match="weights of model 'gp' is 2: expected a list"):
        ArchPredictor(SPACE, "gp", options={"weights": 2})
    with pytest.raises(ConfigError, match="options are those of one model"):
        ArchPredictor(SPACE, options={"log": True})


def test_what_is_no_model():
    with pytest.raises(ConfigError, match="does not learn from features alone"):
        ArchPredictor(SPACE, "pool")
    with pytest.raises(ConfigError, match="name both"):
        ArchPredictor(SPACE, parts=["one_hot"])
    with pytest.raises(DataError, match="was not fitted"):
        ArchPredictor(SPACE).predict(ARCHS)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda fitted: ArchPredictor(SPACE).adapt(ARCHS[:9], LATENCY[:9]), "was not fitted"),
        (lambda fitted: ArchPredictor(SPACE).ridge_share, "was not fitted"),
        (lambda fitted: ArchPredictor(SPACE, seed=-1), "seed -1: expected a whole number of at least 0"),
        (lambda fitted: ArchPredictor("nasbench201"), "expected a space object"),
        (lambda fitted: fitted.fit(["0-1=none"] * 9, LATENCY[:9]), "an arch is an object of decisions, got str"),
        (lambda fitted: fitted.adapt([None] * 9, LATENCY[:9]), "an arch is an object of decisions, got NoneType"),
        (lambda fitted: fitted.adapt(ARCHS[:9], ["slow"] * 9), "values are arrays of numbers"),
        (lambda fitted: ArchPredictor(SPACE).fit(ARCHS[:9], [*LATENCY[:8], 1e308]), "expected a number of at most"),
    ],
)
def test_wrong_calls_are_one_line(fitted, call, match):
    with pytest.raises((DataError, ConfigError), match=match):
        call(fitted)


def test_a_pool_is_one_more_candidate_and_wins_where_ten_samples_are_all(tmp_path):
    from predictors import features
    from predictors.arch import pool_parts
    from predictors.pool import DevicePool
    from predictors.shipped import pool_columns

    def device(conv: float, memory: float, seed: int) -> np.ndarray:
        price = {
            "none": 0,
            "skip_connect": memory,
            "nor_conv_1x1": conv / 3,
            "nor_conv_3x3": conv,
            "avg_pool_3x3": memory,
        }
        noise = np.exp(0.02 * np.random.default_rng(seed).normal(size=len(ARCHS)))
        return np.array([2 + sum(price[o] for o in a.values()) for a in ARCHS]) * noise

    pool = DevicePool(**pool_columns(SPACE)).fit(
        features(SPACE, ARCHS, pool_parts(SPACE)), {f"d{i}": device(1 + i, 0.3 * i, i) for i in range(6)}
    )
    y = device(2.5, 1.1, 9)
    few = np.random.default_rng(5).permutation(len(ARCHS))[:10]
    archs = [ARCHS[i] for i in few]
    model = ArchPredictor(SPACE, pool=pool).fit(archs, y[few])
    assert model.chosen.model == "pooled"
    # with so few samples nothing is compared: what is used is the pool's own answer
    np.testing.assert_array_equal(
        model.predict(ARCHS)[0],
        pool.adapt(features(SPACE, archs, pool_parts(SPACE)), y[few]).predict(
            features(SPACE, ARCHS, pool_parts(SPACE))
        )[0],
    )
    assert not model.scores
    assert 0 < model.ridge_share < 0.5
    assert kendalltau(model.predict(ARCHS)[0], y)[0] > 0.9
    model.save(tmp_path / "p")
    again = load(tmp_path / "p")
    np.testing.assert_allclose(again.predict(ARCHS)[0], model.predict(ARCHS)[0])
    assert (again.used, again.ridge_share) == (model.used, model.ridge_share)
    assert kendalltau(again.adapt(archs, 3 * y[few]).predict(ARCHS)[0], y)[0] > 0.9


TEN_LINES = {
    "skip_connect avg_pool_3x3 nor_conv_1x1 avg_pool_3x3 skip_connect nor_conv_3x3": 20.0,
    "nor_conv_1x1 avg_pool_3x3 nor_conv_3x3 skip_connect none nor_conv_3x3": 28.0,
    "avg_pool_3x3 nor_conv_3x3 nor_conv_1x1 none skip_connect none": 20.0,
    "nor_conv_3x3 none nor_conv_3x3 skip_connect avg_pool_3x3 nor_conv_3x3": 34.0,
    "nor_conv_3x3 nor_conv_1x1 nor_conv_1x1 nor_conv_1x1 nor_conv_1x1 nor_conv_3x3": 35.0,
    "none nor_conv_3x3 nor_conv_1x1 avg_pool_3x3 none skip_connect": 20.0,
    "nor_conv_1x1 nor_conv_3x3 skip_connect skip_connect none none": 18.0,
    "avg_pool_3x3 avg_pool_3x3 none skip_connect skip_connect avg_pool_3x3": 9.0,
    "avg_pool_3x3 skip_connect skip_connect skip_connect nor_conv_1x1 none": 10.0,
    "skip_connect avg_pool_3x3 avg_pool_3x3 skip_connect none none": 8.0,
}
"""Latencies of a phone, in whole milliseconds: without one fold, ridge regression fits the rest almost exactly."""


def shipped_pool():
    from predictors.shipped import device_pool

    return device_pool(SPACE)


def test_ten_lines_that_a_ridge_fits_by_chance_give_intervals_of_use():
    archs = [dict(zip(SPACE.choices, text.split(), strict=True)) for text in TEN_LINES]
    model = ArchPredictor(SPACE, pool=shipped_pool()).fit(archs, list(TEN_LINES.values()))
    mean, std = model.predict(REST)
    low, high = model.interval(REST, 0.9)
    assert np.median(std / mean) < 0.3
    assert np.median((high - low) / mean) < 0.5


@pytest.mark.parametrize("model", ["ridge", "gp"])
def test_as_many_networks_cost_more_as_less_where_outliers_lie_above(model, tmp_path):
    above = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        skewed = LATENCY * np.where(rng.random(len(ARCHS)) < 0.15, 1.5, 1.0)
        rows = rng.permutation(len(ARCHS))
        train, rest = rows[:200], rows[200:]
        fitted = ArchPredictor(SPACE, model, ["counts@built"]).fit([ARCHS[i] for i in train], skewed[train])
        above.append((skewed[rest] > fitted.predict([ARCHS[i] for i in rest])[0]).mean())
    assert abs(np.mean(above) - 0.5) < 0.05
    fitted.save(tmp_path / "p")
    np.testing.assert_array_equal(load(tmp_path / "p").predict(REST)[0], fitted.predict(REST)[0])


def test_an_outlier_does_not_spread_the_scores_of_the_folds():
    """With and without it in the training folds the standard deviation is another; one scale serves them all."""
    archs, y = ARCHS[:20], LATENCY[:20].copy()
    y[3] *= 3.0
    model = ArchPredictor(SPACE, pool=shipped_pool()).fit(archs, y)
    mean, std = model.predict(REST)
    assert np.median(std / mean) < 0.6


def test_with_a_pool_what_the_pool_was_shown_is_known(tmp_path):
    from predictors import features
    from predictors.arch import pool_parts
    from predictors.pool import DevicePool
    from predictors.shipped import pool_columns

    plain = [i for i, arch in enumerate(ARCHS) if "avg_pool_3x3" not in arch.values()]
    pooling = [arch for arch in ARCHS if "avg_pool_3x3" in arch.values()]
    archs, y = [ARCHS[i] for i in plain], LATENCY[plain]
    pool = DevicePool(**pool_columns(SPACE)).fit(
        features(SPACE, archs, pool_parts(SPACE)), {f"d{i}": y ** (1 + 0.1 * i) for i in range(3)}
    )
    model = ArchPredictor(SPACE, pool=pool).fit(archs[:10], y[:10])
    model.save(tmp_path / "p")
    for known in (model, load(tmp_path / "p")):
        assert not known.outside(archs).any()
        assert known.outside(pooling).all()
