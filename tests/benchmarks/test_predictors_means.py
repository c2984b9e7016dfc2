"""Means of the page of predictors are of what was measured, so that a table and the sentence below it agree."""

import re

import numpy as np
import pytest

from predictors.pool import DevicePool
from tests.benchmarks import predictors


@pytest.mark.parametrize("seed", range(4))
def test_the_mean_row_is_what_the_sentence_says(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 4, (300, 4)).astype(float)
    latency = {f"d{i}": 5 + X @ rng.random(4) + rng.normal(0, 0.5, 300) for i in range(3)}
    monkeypatch.setattr(predictors, "DRAWS", 1)
    monkeypatch.setattr(predictors, "TESTED", 100)
    monkeypatch.setattr(predictors, "ceiling", lambda X, y, rest: rest[:, 0])
    monkeypatch.setattr(predictors, "_CEILING", {})
    data = predictors.PoolData(X, DevicePool().fit(X, latency), X, X[:, 0], X, latency)
    text = predictors.leave_one_device_out(data)
    rows = re.findall(r"\| \*\*mean\*\* \| \*\*(\S+)\*\* \| \*\*(\S+)\*\* \| \*\*(\S+)\*\*", text)
    said = re.findall(r"random samples (\S+) \(ridge (\S+)\), chosen samples (\S+)\. ", text)
    assert len(rows) == 2
    assert rows == said
