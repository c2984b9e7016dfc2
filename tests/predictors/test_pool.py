"""A device never seen. Devices here are made up: additive latencies whose weights have two common directions."""

import time

import numpy as np
import pytest
from scipy.stats import spearmanr

from cosearch.errors import DataError, UnknownNameError
from predictors import features
from predictors.pool import DevicePool, _greedy_design
from predictors.storage import load
from search_spaces.networks import find
from search_spaces.networks.nasbench201 import cell

SPACE = find("nasbench201")()
ARCHS = [cell(i) for i in range(0, 15625, 25)]
PARTS = [f"{part}@{view}" for view in ("built", "used", "effective") for part in ("counts", "one_hot")]
X = features(SPACE, ARCHS, PARTS)
VIEWS = [list(range(35 * i, 35 * i + 35)) for i in range(3)]
GENERAL = list(range(5))


def device(seed: int, view: int = 0, noise: float = 0.03) -> np.ndarray:
    rng = np.random.default_rng(seed)
    compute, memory = rng.uniform(0.3, 2.0, 2)
    weights = np.array([0.0, 0.1 * memory, 0.5 * memory + 0.2 * compute, 2.0 * compute, 0.6 * memory])
    y = 3.0 + X[:, VIEWS[view]][:, :5] @ weights
    return 5.0 * y * np.exp(noise * rng.normal(size=len(y)))


POOL = DevicePool(VIEWS, GENERAL).fit(X, {f"d{i}": device(i, view=int(i == 5)) for i in range(8)})
ROWS = np.random.default_rng(0).permutation(len(X))


def score(predictor, y) -> float:
    return float(spearmanr(predictor.predict(X[ROWS[100:]])[0], y[ROWS[100:]])[0])


def test_ten_samples_of_a_new_device_of_the_family():
    y = device(101)
    few = ROWS[:10]
    got = POOL.adapt(X[few], y[few])
    assert score(got, y) > 0.97 * spearmanr(device(101, noise=0.0)[ROWS[100:]], y[ROWS[100:]])[0]
    mean, _ = got.predict(X)
    assert np.median(np.abs(mean / y - 1)) < 0.06


def test_it_finds_out_that_dead_code_is_dropped():
    assert POOL._view.tolist() == [0, 0, 0, 0, 0, 1, 0, 0]
    y = device(102, view=1)
    few = POOL.choose(X, 10)
    got = POOL.adapt(X[few], y[few])
    assert np.argmax(got.view_odds) == 1
    assert score(got, y) > 0.95


def test_a_ridge_that_only_guesses_the_mean_is_not_used():
    """Of twenty measurements one is far off: every error is large then, that of a constant the least."""
    y = device(101)
    flat = 0
    for draw in range(40):
        few = np.random.default_rng(draw).permutation(len(X))[:20]
        wrong = y[few].copy()
        wrong[0] *= 5.0
        got = POOL.adapt(X[few], wrong)
        if got._ridge.predict(X[:, GENERAL])[0].std() < 0.01 * y.std():
            flat += 1
            assert got.ridge_share == 0.0
            assert "used alone: ridge regression on operator counts only guesses the mean" in got.used
            assert score(got, y) > 0.8
    assert flat > 0


def test_a_device_unlike_the_pool_is_left_to_the_ridge():
    # here skips are what costs, and convolutions are free
    y = 10 + X[:, :5] @ np.array([0.0, 6.0, 0.0, 0.1, 0.0]) + 0.05 * np.random.default_rng(1).normal(size=len(X))
    few = ROWS[:20]
    got = POOL.adapt(X[few], y[few])
    assert got.ridge_share > 0.5
    assert score(got, y) > 0.9


@pytest.mark.parametrize("count", [8, 45])
def test_leave_one_out_is_what_refitting_without_a_row_says(count):
    """At fixed scale, noise and certainties; here noise without outliers, so that those are about one."""
    from predictors import pool as module
    from predictors.pool import _posteriors

    prior, few = POOL.components()[2].prior, ROWS[:count]
    design, y = POOL._design(X[few], 0), device(105)[few]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FREEDOM", 1e9)
        found = _posteriors(design, y, prior)
    which = len(module.NOISES) * 5 + 2
    target = y / found.size[which] - design @ prior.mean
    kernel = design @ prior.covariance @ design.T + module.NOISES[2] ** 2 * np.eye(count)
    for i in range(count):
        rest = np.arange(count) != i
        said = kernel[i, rest] @ np.linalg.solve(kernel[np.ix_(rest, rest)], target[rest]) + design[i] @ prior.mean
        assert found.left_out[which, i] == pytest.approx(found.size[which] * said, rel=1e-5)


def test_the_ridge_counts_by_its_leave_one_out_error():
    y = 10 + X[:, :5] @ np.array([0.0, 6.0, 0.0, 0.1, 0.0]) + 0.05 * np.random.default_rng(1).normal(size=len(X))
    assert POOL.adapt(X[ROWS[:20]], y[ROWS[:20]]).ridge_share > 0.5
    alike = X[ROWS[:40]][:, 30:]
    flat = np.hstack([np.tile(X[ROWS[0], :5], (40, 1)), X[ROWS[:40], 5:30], alike])
    got = POOL.adapt(flat[:10], device(3)[ROWS[:10]])
    assert got.ridge_share == 0.0  # no two rows differ in their counts, so there is no ridge
    assert (
        got.used == "The pool of devices is used alone: the measured networks do not differ in their operator counts."
    )
    assert np.isfinite(got.predict(flat)[0]).all()


def test_where_the_ridge_does_better_it_is_used_alone_and_said_to_be(tmp_path):
    from predictors.linear import Ridge

    y = 10 + X[:, :5] @ np.array([0.0, 6.0, 0.0, 0.1, 0.0]) + 0.05 * np.random.default_rng(1).normal(size=len(X))
    few = ROWS[:20]
    got = POOL.adapt(X[few], y[few])
    plain = Ridge().fit(X[few][:, :5], y[few])
    np.testing.assert_allclose(got.predict(X)[0], np.maximum(plain.predict(X[:, :5])[0], 0.1 * y[few].min()))
    assert got.ridge_share == 1.0
    assert got.ridge_error < got.pool_error
    assert got.used.startswith("The ridge is used and the pool of devices is not: by leave-one-out error")
    got.save(tmp_path / "p")
    again = load(tmp_path / "p")
    assert again.used == got.used
    np.testing.assert_array_equal(again.predict(X)[0], got.predict(X)[0])
    pooled = POOL.adapt(X[few], device(103)[few])
    assert pooled.ridge_share < 0.5
    assert pooled.used.startswith("The pool of devices is used: by leave-one-out error")
    assert f"counts for {pooled.ridge_share:.0%} beside it" in pooled.used


def test_a_ridge_that_fits_few_rows_by_chance_is_not_believed():
    """Six rows, four directions of counts: one freedom is left, in which the rows happen to have no error."""
    few = ROWS[:6]
    counts = X[few][:, GENERAL]
    y = device(105, noise=0.1)[few]
    design = np.column_stack([np.ones(6), counts])
    exact = design @ np.linalg.lstsq(design, y, rcond=None)[0] + 1e-6 * np.sin(np.arange(6))
    got = POOL.adapt(X[few], exact)
    assert got.ridge_share < 0.5
    assert (got.predict(X)[1] > 0.01 * got.predict(X)[0]).all()


def test_the_unit_does_not_matter():
    y = device(103)
    few = ROWS[:12]
    a, b = POOL.adapt(X[few], y[few]), POOL.adapt(X[few], 1000 * y[few])
    np.testing.assert_allclose(b.predict(X)[0], 1000 * a.predict(X)[0], rtol=1e-6)
    np.testing.assert_allclose(b.predict(X)[1], 1000 * a.predict(X)[1], rtol=1e-6)


def test_an_outlier_among_the_measurements_does_little():
    y = device(104)
    few = ROWS[:12]
    spoiled = y[few].copy()
    spoiled[4] *= 5
    assert score(POOL.adapt(X[few], spoiled), y) > score(POOL.adapt(X[few], y[few]), y) - 0.03


def test_the_posterior_is_that_of_conditioning_a_joint_gaussian():
    """One scale, one noise, no reweighting: the textbook formula in weight space."""
    from predictors import pool as module
    from predictors.pool import _posteriors

    prior = POOL.prior()
    few = ROWS[:8]
    design = POOL._design(X[few], 0)
    y = device(105)[few]
    found = _posteriors(design, y, prior)
    which = len(module.NOISES) * module.SCALES.index(1.0) + 2
    only = np.eye(len(found.noise))[which]
    weights, covariance = found.moments(only)
    scale = found.noise[which] / np.sqrt(module.FREEDOM / (module.FREEDOM - 2)) / module.NOISES[2]
    certainty = np.ones(8)
    ridge = np.linalg.inv(prior.covariance + 1e-12 * np.eye(len(prior.mean)))
    for _ in range(6):
        precision = ridge + design.T @ (design * certainty[:, None]) / module.NOISES[2] ** 2
        posterior = np.linalg.inv(precision)
        w = posterior @ (ridge @ prior.mean + design.T @ (certainty * y / scale) / module.NOISES[2] ** 2)
        squared = (y / scale - design @ w) ** 2 + np.einsum("ij,jk,ik->i", design, posterior, design)
        certainty = (module.FREEDOM + 1) / (module.FREEDOM + squared / module.NOISES[2] ** 2)
    np.testing.assert_allclose(design @ weights, scale * (design @ w), rtol=1e-3)
    np.testing.assert_allclose(
        np.einsum("ij,jk,ik->i", design, covariance, design),
        scale**2 * np.einsum("ij,jk,ik->i", design, posterior, design),
        rtol=0.02,
    )


@pytest.mark.parametrize("count", [6, 60])
def test_the_evidence_is_that_of_the_joint_gaussian(count):
    """Fewer rows than weights, and more: log N(y | s phi mean, s^2 (phi covariance phi' + noise))."""
    from predictors import pool as module
    from predictors.pool import _posteriors

    prior, few = POOL.components()[2].prior, ROWS[:count]
    design, y = POOL._design(X[few], 0), device(105)[few]
    found = _posteriors(design, y, prior)
    which = len(module.NOISES) * 4 + 1
    scale, noise = found.size[which], module.NOISES[1]
    target = y / scale - design @ prior.mean
    signal = design @ prior.covariance @ design.T
    certainty = np.ones(count)
    for _ in range(6):
        kernel = signal + np.diag(noise**2 / certainty)
        inverse = np.linalg.inv(kernel)
        squared = (target - signal @ inverse @ target) ** 2 + np.diag(signal - signal @ inverse @ signal)
        certainty = (module.FREEDOM + 1) / (module.FREEDOM + squared / noise**2)
    expected = -0.5 * target @ inverse @ target - 0.5 * np.linalg.slogdet(kernel)[1] - count * np.log(scale)
    assert found.log_evidence[which] == pytest.approx(expected, rel=1e-6)


def test_what_a_device_may_be_adds_up():
    components = POOL.components()
    assert sum(c.share for c in components) == pytest.approx(1.0)
    assert {c.view for c in components} == {0, 1, 2}
    assert sum((c.prior.mean[1:] == 0).all() for c in components) == 9  # three views, three widths
    free, known = components[1].prior.covariance, components[0].prior.covariance
    assert (np.diag(free) >= np.diag(known)).all()


def test_a_device_near_the_pool_is_not_worse_off_for_it():
    """Operators cost other than in the pool, the rest is as there: neither the pool nor the ridge alone knows both."""
    from predictors.linear import Ridge

    gained = []
    for seed in range(120, 126):
        y = device(seed, view=1) + 8.0 * X[:, VIEWS[1]][:, 4]
        few = ROWS[:10]
        ridge = Ridge().fit(X[few][:, :5], y[few])
        gained.append(
            score(POOL.adapt(X[few], y[few]), y) - spearmanr(ridge.predict(X[ROWS[100:], :5])[0], y[ROWS[100:]])[0]
        )
    assert np.mean(gained) > 0.02
    assert min(gained) > -0.01


def test_chosen_networks_say_more_than_random_ones():
    chosen = POOL.choose(X, 10)
    assert len(set(chosen)) == 10
    gained = []
    for seed in range(110, 116):
        y = device(seed, noise=0.1)
        rows = np.random.default_rng(seed).permutation(len(X))[:10]
        gained.append(score(POOL.adapt(X[chosen], y[chosen]), y) - score(POOL.adapt(X[rows], y[rows]), y))
    assert np.mean(gained) > 0


def test_chosen_networks_vary_in_every_operator_count_as_all_networks_do():
    """The pool may know few directions; what it does not know must be shown too, and the ridge be judged fairly."""
    counts = X[:, VIEWS[0]][:, GENERAL]
    assert (counts[POOL.choose(X, 10)].std(0) > counts.std(0)).all()


def test_the_next_network_is_the_one_that_leaves_the_least_variance():
    signals = np.random.default_rng(2).normal(size=(12, 3))
    [first] = _greedy_design(signals, 1, [])
    [second] = _greedy_design(signals, 1, [first])
    assert _greedy_design(signals, 2, []) == [first, second]

    def left(rows):
        posterior = np.linalg.inv(np.eye(3) + signals[rows].T @ signals[rows] / 0.05**2)
        return np.trace(signals @ posterior @ signals.T)

    assert first == min(range(12), key=lambda i: left([i]))
    assert second == min(set(range(12)) - {first}, key=lambda i: left([first, i]))


def test_without_a_device_is_a_pool_that_never_saw_it():
    rest = {f"d{i}": device(i, view=int(i == 5)) for i in range(8) if i != 3}
    direct = DevicePool(VIEWS, GENERAL).fit(X, rest)
    np.testing.assert_allclose(POOL.without("d3").prior().mean, direct.prior().mean)
    with pytest.raises(UnknownNameError, match="device 'd9' is not in the pool"):
        POOL.without("d9")


def test_networks_that_were_not_measured_everywhere():
    y = {f"d{i}": device(i).copy() for i in range(4)}
    y["d1"][::2] = np.nan
    pool = DevicePool(VIEWS, GENERAL).fit(X, y)
    assert np.isfinite(pool.prior().mean).all()
    y["d1"][:] = np.nan
    y["d1"][:19] = 1.0 + np.arange(19)
    with pytest.raises(DataError, match="19 samples: the d1 predictor needs at least 20"):
        DevicePool(VIEWS, GENERAL).fit(X, y)


def test_saved_and_read_back(tmp_path):
    y = device(106)
    few = ROWS[:10]
    got = POOL.adapt(X[few], y[few])
    POOL.save(tmp_path / "pool.safetensors", data="made up")
    again = load(tmp_path / "pool.safetensors").adapt(X[few], y[few])
    np.testing.assert_allclose(again.predict(X)[0], got.predict(X)[0])
    got.save(tmp_path / "d.safetensors")
    np.testing.assert_allclose(load(tmp_path / "d.safetensors").predict(X)[1], got.predict(X)[1])
    other = device(107)
    np.testing.assert_allclose(
        load(tmp_path / "d.safetensors").adapt(X[few], other[few]).predict(X)[0],
        POOL.adapt(X[few], other[few]).predict(X)[0],
    )


def test_adapting_takes_less_than_two_seconds():
    y = device(108)
    start = time.process_time()
    POOL.adapt(X[ROWS[:20]], y[ROWS[:20]])
    assert time.process_time() - start < 4.0  # two cores


@pytest.mark.parametrize(
    ("rows", "values", "match"),
    [
        ([0, 1], [1.0, 2.0], "2 samples: the pooled predictor needs at least 3"),
        ([0, 1, 2], [1.0, 2.0, -1.0], "target 2 is -1: a latency"),
        ([0, 1, 2], [1.0, np.nan, 1.0], "target 1 is not finite"),
        ([0, 1, 2, 3], [2.0] * 4, "constant targets"),
        (range(301), np.arange(1.0, 302), "301 samples to adapt from, at most 300: train"),
    ],
)
def test_what_it_cannot_adapt_from(rows, values, match):
    with pytest.raises(DataError, match=match):
        POOL.adapt(X[list(rows)], values)


def test_what_is_no_pool():
    with pytest.raises(DataError, match="a pool of 1 devices"):
        DevicePool().fit(X, {"one": device(1)})
    with pytest.raises(DataError, match="was not fitted"):
        DevicePool().choose(X, 3)
    with pytest.raises(DataError, match="as many columns"):
        DevicePool([[0, 1], [2]])
    with pytest.raises(DataError, match="700 networks to choose among 625"):
        POOL.choose(X, 700)
    with pytest.raises(DataError, match=r"fitted on \[n, 105\]"):
        POOL.adapt(X[ROWS[:10]], device(1)[ROWS[:10]]).predict(X[:, :4])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: POOL.adapt(X[:9, :5], np.arange(1.0, 10)), "views name columns up to 104"),
        (lambda: POOL.choose(X[:, :5], 3), "views name columns up to 104"),
        (lambda: POOL.choose(X, 3, [1000]), "measured row 1000: expected rows 0 to 624"),
        (lambda: POOL.choose(X, 2.5), "2.5 networks to choose among 625"),
        (lambda: POOL.choose(X * np.nan, 3), "not all finite"),
        (lambda: POOL.choose([["a"] * 105], 1), "features are arrays of numbers"),
        (lambda: DevicePool().fit(X, {"a": device(1), "b": device(2)[:5]}), "b: 5 latencies of 625 networks"),
        (lambda: DevicePool().fit(X, {"a": device(1), "b": ["x"] * 625}), "latencies of b are arrays of numbers"),
        (lambda: DevicePool([[0, 1], [900, 2]]).fit(X, {"a": device(1), "b": device(2)}), "columns up to 900"),
        (lambda: DevicePool(general=[900]).fit(X, {"a": device(1), "b": device(2)}), r"general columns \[900\]"),
    ],
)
def test_wrong_shapes_are_one_line(call, match):
    with pytest.raises(DataError, match=match):
        call()


def test_text_is_no_feature():
    few = ROWS[:10]
    with pytest.raises(DataError, match="features are arrays of numbers"):
        POOL.adapt(X[few], device(1)[few]).predict([["a"] * 105])
