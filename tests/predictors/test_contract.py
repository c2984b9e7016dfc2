"""What every predictor of numbers from features promises, and the answers of slower ways."""

import itertools

import numpy as np
import pytest
from scipy.stats import spearmanr

from cosearch.errors import DataError, RunError
from predictors import PREDICTORS, find
from predictors.base import Predictor
from predictors.storage import load, load_with_card, read_card

OF_OTHER_THINGS = ("adapted", "graph")
KINDS = [n for n in PREDICTORS if n not in OF_OTHER_THINGS and issubclass(find(n), Predictor)]
RNG = np.random.default_rng(7)
X = np.array(list(itertools.product(range(3), repeat=5)), dtype=float)
LATENCY = np.exp(0.3 * X[:, 0] + 0.5 * X[:, 1] + 0.2 * X[:, 2] * X[:, 3]) * np.exp(0.01 * RNG.normal(size=len(X)))
TRAIN, REST = RNG.permutation(len(X))[:60], np.arange(len(X))


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Shorter training than in earnest: what is tested here does not depend on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("predictors.trees.ROUNDS", 60)
        patch.setattr("predictors.trees.TREES", 60)
        patch.setattr("predictors.neural.STEPS", 150)
        yield


@pytest.fixture(scope="module", params=KINDS)
def fitted(request) -> Predictor:
    return find(request.param)(log=True).fit(X[TRAIN], LATENCY[TRAIN])


def test_it_orders_networks_it_never_saw(fitted):
    rest = np.setdiff1d(REST, TRAIN)
    mean, std = fitted.predict(X[rest])
    assert mean.shape == std.shape == rest.shape
    assert (mean > 0).all()
    assert (std > 0).all()
    assert spearmanr(mean, LATENCY[rest])[0] > 0.88


def test_one_row_gives_what_it_gives_among_many(fitted):
    mean, std = fitted.predict(X)
    alone = [fitted.predict(X[i : i + 1]) for i in (0, 17, 242)]
    np.testing.assert_allclose([a[0][0] for a in alone], mean[[0, 17, 242]], rtol=1e-6)
    np.testing.assert_allclose([a[1][0] for a in alone], std[[0, 17, 242]], rtol=1e-4)


def test_same_seed_same_predictor(fitted):
    again = find(fitted.name)(log=True).fit(X[TRAIN], LATENCY[TRAIN])
    np.testing.assert_array_equal(again.predict(X)[0], fitted.predict(X)[0])


def test_the_unit_of_the_target_does_not_matter(fitted):
    other = find(fitted.name)(log=True).fit(X[TRAIN], 1000 * LATENCY[TRAIN])
    np.testing.assert_allclose(other.predict(X)[0], 1000 * fitted.predict(X)[0], rtol=0.01)


def test_a_saved_predictor_predicts_the_same(fitted, tmp_path):
    fitted.save(tmp_path / "p.safetensors", data="toy", score={"spearman": 0.9})
    other, card = load_with_card(tmp_path / "p.safetensors")
    for a, b in zip(other.predict(X), fitted.predict(X), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    assert card["score"] == {"spearman": 0.9}
    assert {"date", "data", "model", "options", "version"} <= set(read_card(tmp_path / "p.safetensors"))


def bad(rows, column, value):
    out = np.array(rows, dtype=float)
    out[2, column] = value
    return out


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("features", "targets", "match"),
    [
        (X[:2], LATENCY[:2], "2 samples: the .* predictor needs at least"),
        (np.repeat(X[:2], 6, 0), LATENCY[:12], "2 distinct rows"),
        (X[:12], np.full(12, 4.0), "all 12 targets are 4: .*constant"),
        (X[:12], [1, 2, np.nan, 4, 5, 6, 7, 8, 9, 10, 11, 12], "target 2 is not finite: nan"),
        (X[:12], [1, 2, -3, 4, 5, 6, 7, 8, 9, 10, 11, 12], "target 2 is -3: a latency or an energy is positive"),
        (bad(X[:12], 1, np.inf), LATENCY[:12], "row 2 of the features is not finite"),
        (X[:12], LATENCY[:8], r"expected \[n, d\] and \[n\]"),
        (X[:, 0], LATENCY, r"expected \[n, d\]"),
        ([["a"] * 5] * 12, LATENCY[:12], "arrays of numbers"),
    ],
)
def test_what_cannot_be_learned_from(name, features, targets, match):
    with pytest.raises(DataError, match=match) as caught:
        find(name)(log=True).fit(features, targets)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_predicted(fitted):
    with pytest.raises(DataError, match=r"fitted on \[n, 5\]"):
        fitted.predict(X[:, :4])
    with pytest.raises(DataError, match="row 2 of the features"):
        fitted.predict(bad(X[:12], 0, np.nan))
    with pytest.raises(DataError, match="was not fitted"):
        find(fitted.name)().predict(X)


def test_equal_rows_stand_for_each_other():
    from predictors.base import distinct

    rows = X[RNG.integers(0, 9, 40)]
    first, of = distinct(rows)
    np.testing.assert_array_equal(rows[first[of]], rows)
    assert len(first) == len(np.unique(rows, axis=0))


# -- files --


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "p.safetensors"
    find("ridge")(log=True).fit(X[TRAIN], LATENCY[TRAIN]).save(path, data="toy")
    return path


def test_a_predictor_that_cannot_be_written_spares_the_old_file(tmp_path):
    path = tmp_path / "file" / "p.safetensors"
    fitted = find("ridge")(log=True).fit(X[TRAIN], LATENCY[TRAIN])
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(RunError, match=r"cannot write .*p.safetensors"):
        fitted.save(path, data="toy")
    assert (tmp_path / "file").read_text() == "no folder"


def test_an_altered_file_is_refused(saved):
    raw = bytearray(saved.read_bytes())
    raw[-3] ^= 1
    saved.write_bytes(raw)
    with pytest.raises(DataError, match="altered"):
        load(saved)


def test_an_altered_card_is_refused(saved):
    raw = saved.read_bytes()
    assert b"toy" in raw
    saved.write_bytes(raw.replace(b"toy", b"joy"))
    with pytest.raises(DataError, match="altered"):
        load(saved)


def test_another_version_is_refused(saved, monkeypatch):
    monkeypatch.setattr("predictors.storage.VERSION", 4)
    with pytest.raises(DataError, match="is a predictor of version 3, this reads 4: train it again"):
        load(saved)


def test_foreign_and_missing_files(tmp_path, saved):
    with pytest.raises(DataError, match="no predictor file"):
        load(tmp_path / "none.safetensors")
    (tmp_path / "x").write_bytes(b"not a tensor file")
    with pytest.raises(DataError, match="is not a predictor file"):
        load(tmp_path / "x")
    saved.write_bytes(saved.read_bytes()[:-20])
    with pytest.raises(DataError, match="is not a predictor file"):
        load(saved)


def test_a_card_of_something_unspeakable():
    model = find("ridge")().fit(X[TRAIN], LATENCY[TRAIN])
    with pytest.raises(DataError, match="JSON values only"):
        model.save("never-written", data=object())


# -- against slower or textbook answers --


def test_ridge_is_least_squares_with_its_penalty():
    from sklearn.linear_model import RidgeCV

    from predictors.linear import PENALTIES, Ridge

    model = Ridge().fit(X[TRAIN], LATENCY[TRAIN])
    scaled = (X - X[TRAIN].mean(0)) / X[TRAIN].std(0)
    reference = RidgeCV(alphas=PENALTIES).fit(scaled[TRAIN], LATENCY[TRAIN])
    np.testing.assert_allclose(model.predict(X)[0], reference.predict(scaled), rtol=1e-6)


def test_the_gradient_of_the_marginal_likelihood_by_finite_differences():
    from predictors.gp import _negative_log_likelihood

    z, y = RNG.normal(size=(12, 4)), RNG.normal(size=12)
    squares = [((z[:, None, c] - z[None, :, c]) ** 2).mean(-1) for c in ([0, 1], [2, 3])]
    theta = np.array([-0.3, 0.2, 0.4, -0.2, -2.0])
    _, gradient = _negative_log_likelihood(theta, z @ z.T / 4, squares, y)
    for i in range(len(theta)):
        step = np.zeros(len(theta))
        step[i] = 1e-6
        up = _negative_log_likelihood(theta + step, z @ z.T / 4, squares, y)[0]
        down = _negative_log_likelihood(theta - step, z @ z.T / 4, squares, y)[0]
        assert gradient[i] == pytest.approx((up - down) / 2e-6, rel=1e-5, abs=1e-7)


def test_gp_predictions_are_those_of_scikit_learn_at_the_same_hyperparameters():
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

    from predictors.gp import JITTER, GaussianProcess

    model = GaussianProcess().fit(X[TRAIN], LATENCY[TRAIN])
    a, b, length, noise = np.exp(model._theta)
    d = X.shape[1]
    kernel = ConstantKernel(a / d) * DotProduct(1e-9) + b * Matern(length * np.sqrt(d), nu=2.5) + WhiteKernel(noise)
    reference = GaussianProcessRegressor(kernel, alpha=JITTER, optimizer=None)
    scaled = (X - X[TRAIN].mean(0)) / X[TRAIN].std(0)
    centre, spread = LATENCY[TRAIN].mean(), LATENCY[TRAIN].std()
    reference.fit(scaled[TRAIN], (LATENCY[TRAIN] - centre) / spread)
    mean, std = reference.predict(scaled, return_std=True)
    np.testing.assert_allclose(model.predict(X)[0], mean * spread + centre, rtol=1e-6)
    np.testing.assert_allclose(model.predict(X)[1], std * spread, rtol=1e-4)


def test_a_gp_of_several_length_scales_is_conditioned_as_a_joint_gaussian():
    from predictors.gp import JITTER, GaussianProcess

    model = GaussianProcess(groups=[[3, 0], [1, 2, 4]]).fit(X[TRAIN], LATENCY[TRAIN])
    linear, matern, *lengths, noise = np.exp(model._theta)
    scaled = (X - X[TRAIN].mean(0)) / X[TRAIN].std(0)
    apart = (scaled[:, None] - scaled[None]) ** 2
    squared = 5 * sum(apart[:, :, g].mean(2) / length**2 for g, length in zip(model.groups, lengths, strict=True))
    r = np.sqrt(squared)
    kernel = matern * (1 + r + squared / 3) * np.exp(-r) + linear * scaled @ scaled.T / X.shape[1]
    inverse = np.linalg.inv(kernel[np.ix_(TRAIN, TRAIN)] + (noise + JITTER) * np.eye(len(TRAIN)))
    centre, spread = LATENCY[TRAIN].mean(), LATENCY[TRAIN].std()
    mean = kernel[:, TRAIN] @ inverse @ ((LATENCY[TRAIN] - centre) / spread)
    variance = np.diag(kernel) - np.einsum("ij,jk,ik->i", kernel[:, TRAIN], inverse, kernel[:, TRAIN]) + noise
    assert abs(lengths[0] / lengths[1] - 1) > 0.01
    np.testing.assert_allclose(model.predict(X)[0], mean * spread + centre, rtol=1e-6)
    np.testing.assert_allclose(model.predict(X)[1], np.sqrt(variance) * spread, rtol=1e-4)


@pytest.mark.parametrize("name", ["forest", "boosting"])
def test_trees_run_as_arrays_as_they_run_in_scikit_learn(name, monkeypatch):
    kept = {}
    kind = find(name)
    keep = kind._keep

    def spy(self, members, scale, noise):
        kept.update(members=members, scale=scale)
        keep(self, members, scale, noise)

    monkeypatch.setattr(kind, "_keep", spy)
    model = kind().fit(X[TRAIN], LATENCY[TRAIN])
    scaled = model._scaled(X)
    slow = [kept["scale"] * sum(t.predict(scaled) for t in member) for member in kept["members"]]
    np.testing.assert_allclose(model._members(scaled), np.array(slow).T, rtol=1e-9, atol=1e-12)


def test_trees_of_a_file_that_share_nodes_are_refused_before_they_are_walked():
    """Each node has the next one twice as its child: the sixtieth level would have 2^60 nodes."""
    from predictors.trees import _check_trees

    arrays = dict(find("boosting")().fit(X[TRAIN], LATENCY[TRAIN]).arrays())
    _check_trees(arrays, 5)
    count = 61
    chain = np.append(np.arange(1, count), -1).astype(np.int32)
    arrays |= {"left": chain, "right": chain, "feature": np.zeros(count, np.int32), "threshold": np.zeros(count)}
    arrays |= {"value": np.zeros(count), "roots": np.zeros(1, np.int32), "member": np.zeros(1, np.int32)}
    with pytest.raises(ValueError, match="share nodes"):
        _check_trees(arrays, 5)


def test_a_row_on_a_threshold_goes_where_it_goes_in_scikit_learn():
    """Thresholds are of double precision and rows of single: a threshold that is rounded up would let some pass."""
    from sklearn.tree import DecisionTreeRegressor

    from predictors.trees import Boosting

    rng = np.random.default_rng(3)
    rows, y = rng.random((400, 2)).astype(np.float32), rng.random(400)
    tree = DecisionTreeRegressor(random_state=0).fit(rows, y)
    exact = tree.tree_.threshold[tree.tree_.feature == 0]
    near = np.concatenate([f(exact.astype(np.float32), np.float32(to)) for to in (0, 1) for f in (np.nextafter,)])
    rows = np.column_stack([np.concatenate([exact, near]), rng.random(3 * len(exact))]).astype(np.float32)
    model = Boosting()
    model._keep([[tree]], 1.0, 0.0)
    np.testing.assert_array_equal(model._members(rows)[:, 0], tree.predict(rows))


def test_small_trees_say_the_same_when_all_of_their_nodes_are_asked(monkeypatch):
    """Rows of several blocks, the last one not full, some of them on a threshold; one tree is a leaf."""
    from sklearn.tree import DecisionTreeRegressor

    from predictors.trees import BLOCK, FEW_NODES, Boosting

    rng = np.random.default_rng(3)
    rows, y = rng.random((400, 2)).astype(np.float32), rng.random(400)
    grown = [[DecisionTreeRegressor(max_depth=d, random_state=d).fit(rows, y) for d in (1, 5)] for _ in range(2)]
    grown[1].append(DecisionTreeRegressor().fit(rows, np.full(400, 0.25)))
    model = Boosting()
    model._keep(grown, 1.0, 0.0)
    assert 31 < grown[0][1].tree_.node_count <= FEW_NODES
    assert grown[1][-1].tree_.node_count == 1
    limits = [t.tree_.threshold[t.tree_.feature == 0].astype(np.float32) for t in grown[0]]
    asked = np.vstack([rng.random((2 * BLOCK + 5, 2)), [[limit, 0.5] for limit in np.concatenate(limits)]])
    expected = np.array([sum(t.predict(asked.astype(np.float32)) for t in member) for member in grown]).T
    np.testing.assert_allclose(model._members(asked), expected, rtol=1e-14)
    here = model._members(asked)
    monkeypatch.setattr("predictors.trees.FEW_NODES", 0)
    np.testing.assert_array_equal(model._members(asked), here)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_triangular_product_is_the_plain_one(kind):
    from predictors.gp import _times_triangle

    rng = np.random.default_rng(1)
    triangle = np.asfortranarray(np.tril(rng.normal(size=(7, 7))).astype(kind))
    rows = rng.normal(size=(5, 7)).astype(kind)
    expected = rows.astype(float) @ triangle.T.astype(float)
    part = np.vstack([rows, rows])
    _times_triangle(part[:5], triangle)
    np.testing.assert_allclose(part[:5], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(part[5:], rows)


def test_many_rows_of_a_gp_are_predicted_in_parts_and_in_single_precision(monkeypatch):
    from predictors.gp import SINGLE_NOISE, GaussianProcess

    noisy = LATENCY[TRAIN] * np.exp(0.15 * np.random.default_rng(2).normal(size=len(TRAIN)))
    model = GaussianProcess().fit(X[TRAIN], noisy)
    assert np.exp(model._theta[-1]) > SINGLE_NOISE
    many = RNG.permutation(np.repeat(X, 3, 0))
    found = {}
    for most in (1e-9, 1e9):  # single and double precision
        monkeypatch.setattr("predictors.gp.SINGLE_NOISE", most)
        found[most] = GaussianProcess().restore(model.arrays()).predict(many)
    alone = GaussianProcess().restore(model.arrays())
    single = np.array([alone.predict(row[None]) for row in many[:9]])[:, :, 0].T
    np.testing.assert_array_equal(found[1e-9][0], found[1e9][0])
    np.testing.assert_allclose(found[1e-9][1], found[1e9][1], rtol=1e-4)
    assert (found[1e-9][1] != found[1e9][1]).any()
    np.testing.assert_allclose(np.array(found[1e9])[:, :9], single, rtol=1e-9)


@pytest.mark.parametrize("name", ["forest", "boosting"])
def test_monotone_constraints_hold_everywhere(name):
    noisy = LATENCY * np.exp(0.3 * RNG.normal(size=len(X)))
    free = find(name)(log=True).fit(X[TRAIN], noisy[TRAIN]).predict(X)[0].reshape((3,) * 5)
    bound = find(name)(log=True, monotone=[1] * 5).fit(X[TRAIN], noisy[TRAIN]).predict(X)[0].reshape((3,) * 5)
    for axis in range(5):
        assert (np.diff(bound, axis=axis) >= -1e-9).all()
    assert any((np.diff(free, axis=axis) < -1e-9).any() for axis in range(5))
    with pytest.raises(DataError, match="2 monotone constraints for 5 features"):
        find(name)(monotone=[1, 1]).fit(X[TRAIN], noisy[TRAIN])


@pytest.mark.parametrize("name", KINDS)
def test_ten_samples_of_another_target_go_far_with_a_known_one(name, tmp_path):
    source = find(name)(log=True).fit(X, LATENCY)
    other = LATENCY**0.8 * np.exp(0.05 * X[:, 4])
    few = np.random.default_rng(5).permutation(len(X))[:10]
    adapted = source.adapt(X[few], other[few])
    assert spearmanr(adapted.predict(X)[0], other)[0] > 0.85  # the linear sources are themselves at 0.93
    np.testing.assert_array_equal(source.predict(X)[0], find(name)(log=True).fit(X, LATENCY).predict(X)[0])
    adapted.save(tmp_path / "a.safetensors")
    np.testing.assert_allclose(load(tmp_path / "a.safetensors").predict(X)[0], adapted.predict(X)[0], rtol=1e-9)
