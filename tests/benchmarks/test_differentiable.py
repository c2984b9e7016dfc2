"""The benchmark's unit: what an evaluation takes of one of the whole network."""

import numpy as np
import pytest

from cosearch.accuracy import SupernetAccuracy
from cosearch.data import load_dataset
from tests import tiny_space
from tests.benchmarks.differentiable import Counted, warm_up
from tests.supernet import awake


@pytest.fixture
def counted():
    space = tiny_space.space()
    source = SupernetAccuracy(space, awake(space.supernet(0)), load_dataset("digits", None, 0))
    warm_up(source)
    return Counted(source)


def test_what_is_used_is_processor_time_over_that_of_whole_networks(counted, monkeypatch):
    space = counted.source.space
    assert counted.used == 0
    counted.gradient(space.sample(np.random.default_rng(0)))
    assert counted.used == 0  # nothing to count it in yet
    for seed in range(4):
        arch = space.sample(np.random.default_rng(seed))
        assert counted(arch) == counted._whole(arch)
    whole, reused, gradient = ([2.0] * 4, [1.0, 2.0, 1.0, 0.5], [3.0])
    monkeypatch.setattr(counted, "seconds", reused)
    monkeypatch.setattr(counted, "whole_seconds", whole)
    monkeypatch.setattr(counted, "gradient_seconds", gradient)
    assert counted.parts == [0.5, 1.0, 0.5, 0.25]
    assert counted.gradient_cost == 1.5
    assert counted.used == pytest.approx(2.25 + 1.5)


def test_only_what_a_search_uses_goes_on_from_what_was_run_before(counted):
    space = counted.source.space
    last = list(space.choices)[-1]
    base = {name: options[-1] for name, options in space.choices.items()}
    assert counted.source._memory.longest(space.blueprint(base)) is None
    for option in space.choices[last]:
        counted({**base, last: option})
    assert counted.source._memory.longest(space.blueprint(base)) is not None
    assert counted._whole._memory.bytes == 0
