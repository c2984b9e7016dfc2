"""The pool against real measurements, where they are at hand. `python -m tests.benchmarks.predictors` measures all."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from predictors import features
from predictors.arch import pool_parts
from predictors.linear import Ridge
from predictors.pool import DevicePool
from predictors.shipped import pool_columns
from search_spaces.networks import find
from search_spaces.networks.nasbench201 import from_string

FOLDER = os.environ.get("COSEARCH_REFERENCE_DATA")
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="COSEARCH_REFERENCE_DATA is not set: measured latencies are not here"
)


def test_ten_samples_of_a_measured_device_that_the_pool_never_saw():
    import pandas as pd

    found = pd.read_parquet(Path(str(FOLDER)) / "nb201_latency_pool_ms.parquet").iloc[::4]
    space = find("nasbench201")()
    archs = [from_string(text) for text in found["arch_str"]]
    X = features(space, archs, pool_parts(space))
    latency = {d: found[d].to_numpy(float) for d in found.columns[2:]}
    pool = DevicePool(**pool_columns(space)).fit(X, latency)
    assert pool._view[list(latency).index("pixel3")] == 1  # the phone's compiler drops dead code
    for device, least in (("pixel3", 0.91), ("samsung_s7", 0.91), ("silver_4210r", 0.98)):
        y, ours, floor = latency[device], [], []
        for draw in range(2):
            order = np.random.default_rng(draw).permutation(len(y))
            some, rest = order[:1000], order[1000:]
            few = some[pool.without(device).choose(X[some], 10)]
            ours.append(spearmanr(pool.without(device).adapt(X[few], y[few]).predict(X[rest])[0], y[rest])[0])
            floor.append(spearmanr(Ridge().fit(X[few, :5], y[few]).predict(X[rest][:, :5])[0], y[rest])[0])
        assert np.mean(ours) > least
        assert np.mean(ours) > np.mean(floor) - 0.005
