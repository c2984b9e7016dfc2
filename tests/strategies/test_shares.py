import numpy as np
import pytest

from cosearch.strategies.shares import draw, shares_of, softmax
from search_spaces.decisions import Decisions


def test_softmax_by_hand_and_of_large_logits():
    assert softmax(np.log([1.0, 2.0, 5.0])) == pytest.approx([1 / 8, 2 / 8, 5 / 8])
    assert softmax(np.array([1e4, 1e4 - np.log(3.0)])) == pytest.approx([0.75, 0.25])


def test_networks_are_drawn_by_their_shares_and_heat_makes_these_equal():
    space = Decisions({"a": (1, 2), "b": ("x", "y", "z")})
    logits = {"a": np.log([1.0, 3.0]), "b": np.log([1.0, 1.0, 2.0])}
    shares = shares_of(logits, 1.0)
    rng = np.random.default_rng(0)
    drawn = [draw(space, shares, rng) for _ in range(2000)]
    assert np.mean([arch["a"] == 2 for arch in drawn]) == pytest.approx(0.75, abs=0.04)
    assert np.mean([arch["b"] == "z" for arch in drawn]) == pytest.approx(0.5, abs=0.045)
    assert shares_of(logits, 2.0)["a"] == pytest.approx(np.sqrt([1, 3]) / (1 + np.sqrt(3)))
