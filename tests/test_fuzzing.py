"""A bounded part of `python -m tests.benchmarks.fuzz`."""

import numpy as np
import pytest

import cosearch
from tests import fuzzing
from tests.benchmarks.fuzz import CONFIG

CASES = 300


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COSEARCH_CACHE", str(folder / "cache"))
        cosearch.run(**CONFIG, out=folder / "run")
    return fuzzing.targets(folder / "run" / "best")


@pytest.mark.parametrize(
    "name",
    [
        "configuration", "arch", "measurements", "network", "accelerator", "mapping", "workload", "part",
        "workload of a file", "ONNX", "imported table", "published pickle",
    ],
)  # fmt: skip
def test_what_is_nearly_right_is_read_or_refused_in_one_line(targets, tmp_path, name):
    target = targets[name]
    assert all(fuzzing.attempt(target, content, tmp_path) for content in target.files)
    rng = np.random.default_rng(1)
    read = sum(fuzzing.attempt(target, fuzzing.case(rng, target), tmp_path) for _ in range(CASES))
    assert 0 < read < CASES  # some changes do no harm, and not all


def test_every_target_is_in_the_list_above(targets):
    assert len(targets) == 12


def test_an_error_that_is_not_our_own_is_seen(tmp_path):
    def fails(path):
        raise KeyError(path.name)

    with pytest.raises(KeyError):
        fuzzing.attempt(fuzzing.Target(fails, (b"",), ".json"), b"{}", tmp_path)
