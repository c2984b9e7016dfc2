"""Ranking losses, the RankSim regulariser, and networks of operations as graphs."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from cosearch.errors import ConfigError, DataError
from predictors import features
from predictors.losses import _ranks, hinge, listmle, ranksim
from predictors.neural import GraphNetwork, NeuralEnsemble, _batches
from predictors.storage import load
from search_spaces.networks import find
from search_spaces.networks.nasbench201 import cell
from search_spaces.networks.shiftadd import space as shiftadd

SPACE = find("nasbench201")()
ARCHS = [cell(i) for i in np.random.default_rng(0).permutation(15625)[:400]]
RNG = np.random.default_rng(1)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("predictors.neural.STEPS", 120)


def test_hinge_by_hand():
    score, y = torch.tensor([0.0, 1.0, 1.05]), torch.tensor([1.0, 2.0, 3.0])
    # pairs (0,1) and (0,2) are apart by more than the margin; (1,2) by 0.05 of 0.1, counted both ways, of six pairs
    assert hinge(score, y).item() == pytest.approx(2 * 0.05 / 6)
    assert hinge(score.flip(0), y).item() == pytest.approx(2 * (0.15 + 1.15 + 1.1) / 6)
    assert hinge(score, torch.ones(3)).item() == 0.0


def test_listmle_is_the_likelihood_of_the_true_order():
    score, y = torch.tensor(RNG.normal(size=4)), torch.tensor([3.0, 1.0, 4.0, 2.0])
    order = [2, 0, 3, 1]
    likelihood = 1.0
    for place in range(4):
        rest = torch.exp(score[order[place:]])
        likelihood *= (rest[0] / rest.sum()).item()
    assert listmle(score, y).item() == pytest.approx(-np.log(likelihood) / 4)
    total = 0.0
    for wanted in itertools.permutations(range(4)):
        y = torch.empty(4)
        y[list(wanted)] = torch.tensor([4.0, 3.0, 2.0, 1.0])
        total += np.exp(-4 * listmle(score, y).item())
    assert total == pytest.approx(1.0)


@pytest.mark.parametrize("loss", [hinge, listmle])
def test_a_step_against_the_gradient_lowers_a_ranking_loss(loss):
    score = torch.tensor(RNG.normal(size=12), requires_grad=True)
    y = torch.tensor(RNG.normal(size=12))
    before = loss(score, y)
    before.backward()
    assert loss(score.detach() - 0.01 * score.grad, y) < before


def on_arc(y: torch.Tensor) -> torch.Tensor:
    angle = y / y.max() * 3.0
    return torch.stack([torch.cos(angle), torch.sin(angle)], 1)


def test_features_in_the_order_of_the_targets_need_no_regularising():
    y = torch.tensor([1.0, 2.1, 3.3, 5.9, 9.2, 10.0])
    z = on_arc(y)
    assert ranksim(z, y).item() == 0.0
    assert ranksim(z[[3, 0, 5, 1, 4, 2]], y).item() > 0.0


def test_repeated_targets_count_once():
    y = torch.tensor([1.0, 2.1, 3.3, 5.9, 9.2, 10.0])
    z = on_arc(y)
    twice = torch.cat([z, torch.randn(6, 2)])
    assert ranksim(twice, torch.cat([y, y])).item() == 0.0


def test_following_its_gradient_orders_the_features():
    torch.manual_seed(0)
    y = torch.arange(1.0, 17.0)
    z = torch.randn(16, 4, requires_grad=True)
    before = ranksim(z, y).item()
    optimiser = torch.optim.Adam([z], 0.02)
    for _ in range(200):
        optimiser.zero_grad()
        ranksim(z, y).backward()
        optimiser.step()
    assert ranksim(z, y).item() < 0.5 * before


def test_ranks():
    assert _ranks(torch.tensor([[0.1, 5.0, 3.0, -1.0]])).tolist() == [[0.5, 0.0, 0.25, 0.75]]


PRICE = {"none": 0.0, "skip_connect": 0.2, "nor_conv_1x1": 1.0, "nor_conv_3x3": 3.0, "avg_pool_3x3": 0.5}
COST = np.array([1 + sum(PRICE[o] for o in SPACE.canonical(a).values()) for a in ARCHS])


@pytest.mark.parametrize("loss", ["squared", "hinge", "listmle"])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_every_loss_learns_the_order(loss, weight):
    X = features(SPACE, ARCHS, ("counts",))
    model = NeuralEnsemble(log=True, loss=loss, ranking_weight=weight).fit(X[:100], COST[:100])
    mean, std = model.predict(X[100:])
    assert kendalltau(mean, COST[100:])[0] > 0.85
    assert (std > 0).all()
    assert 0.5 < np.median(mean / COST[100:]) < 2.0  # scores that only order are on the target's scale again


def test_steps_see_other_rows_and_all_of_them_where_there_are_more_than_a_batch_holds(monkeypatch):
    monkeypatch.setattr("predictors.neural.BATCH", 8)
    steps = [rows.tolist() for rows in _batches(40, seed=1)]
    assert len(steps) == 120
    for start in range(0, 120, 5):
        assert sorted(itertools.chain(*steps[start : start + 5])) == list(range(40))
    assert steps[:5] != steps[5:10]
    assert all(len(rows) == 8 for rows in map(torch.as_tensor, _batches(23, seed=1)))  # what is left over waits
    assert [*_batches(8, seed=1)] == [slice(None)] * 120


def test_batches_learn_what_whole_samples_teach_and_the_same_each_time(monkeypatch):
    X = features(SPACE, ARCHS, ("counts",))
    monkeypatch.setattr("predictors.neural.BATCH", 32)
    models = [NeuralEnsemble(log=True, ranking_weight=w).fit(X[:100], COST[:100]) for w in (0.0, 0.0, 1.0)]
    first, again, other = (model.predict(X[100:])[0] for model in models)
    assert kendalltau(first, COST[100:])[0] > 0.85
    assert kendalltau(other, COST[100:])[0] > 0.85
    np.testing.assert_array_equal(first, again)


def test_a_graph_network_learns_and_is_read_back(tmp_path):
    X = features(SPACE, ARCHS, ("graph",))
    model = GraphNetwork(nodes=6).fit(X[:150], COST[:150])
    mean, _ = model.predict(X[150:])
    assert kendalltau(mean, COST[150:])[0] > 0.75
    model.save(tmp_path / "g")
    np.testing.assert_allclose(load(tmp_path / "g").predict(X[150:])[0], mean, rtol=1e-6)


def test_it_does_not_matter_how_nodes_are_called():
    def named(*operations):
        return dict(zip(SPACE.choices, operations, strict=True))

    x, y = "nor_conv_3x3", "nor_conv_1x1"
    pair = [named(x, "none", "none", "none", y, "none"), named("none", x, "none", "none", "none", y)]
    X = features(SPACE, [*pair, *ARCHS[:60]], ("graph",))
    model = GraphNetwork(nodes=6).fit(X[2:], COST[:60])
    assert model.predict(X[:2])[0][0] == pytest.approx(model.predict(X[:2])[0][1], rel=1e-5)


def test_the_graph_of_a_chain():
    space = shiftadd()
    row = features(space, [space.sample(np.random.default_rng(0))], ("graph",))
    count = len(space.choices)
    reads = row[0, -count * count :].reshape(count, count)
    np.testing.assert_array_equal(reads, np.eye(count, k=1))


def test_what_is_no_loss_and_no_graph():
    with pytest.raises(ConfigError, match="did you mean 'hinge'"):
        NeuralEnsemble(loss="hing")
    with pytest.raises(DataError, match="no graph of 6 nodes"):
        GraphNetwork(nodes=6).fit(np.eye(20), np.arange(20.0))


def test_rows_are_predicted_in_parts_and_equal_ones_once(monkeypatch):
    X, y = RNG.integers(0, 3, (60, 4)).astype(float), RNG.random(60)
    model = NeuralEnsemble().fit(X, y)
    whole = model.predict(X)
    rows = torch.from_numpy(model._scaled(X)).float()
    each = np.array([network(rows)[0].detach().double().numpy() for network in model._networks])
    np.testing.assert_allclose(whole[0], each.mean(0) * model._target_std + model._target_mean, rtol=1e-5)
    monkeypatch.setattr("predictors.neural.ROWS_AT_ONCE", 7)
    np.testing.assert_allclose(model.predict(X), whole, rtol=1e-5)
