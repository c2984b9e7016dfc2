"""A bounded part of `python -m tests.benchmarks.fuzz`."""

import numpy as np
import pytest

import cosearch
from tests import fuzzed, fuzzing
from tests.benchmarks.fuzz import CONFIG

CASES = 100


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COSEARCH_CACHE", str(folder / "cache"))
        cosearch.run(**CONFIG, out=folder / "run")
        (folder / "read").mkdir()
        return fuzzed.targets(folder / "run", folder / "read")


NAMES = (
    "configuration", "arch", "measurements", "network", "accelerator", "mapping", "workload", "part",
    "part as a space", "template", "workload of a file", "ONNX", "images in .npz", "image", "CIFAR batch",
    "import map", "imported table", "imported Parquet", "imported JSON", "imported array", "published pickle",
    "card of a table", "table", "networks of a table", "predictor", "config.yaml", "result.json", "front.csv",
    "report.json", "log.jsonl", "inputs.json", "study.db", "supernet.safetensors", "best/network.json",
    "best/workload.json", "best/accelerator.json", "best/mapping.json", "best/weights.safetensors",
    "best/integer.safetensors", "finalists/NETWORK.json", "finalists/NETWORK.safetensors",
    "finalists/NETWORK.integer.safetensors",
)  # fmt: skip
HARMLESS = ("report.json",)
"""What is damaged there is found out again."""


@pytest.mark.parametrize("name", NAMES)
def test_what_is_nearly_right_is_read_or_refused_in_one_line(targets, tmp_path, name):
    target = targets[name]
    assert all(fuzzing.attempt(target, content, tmp_path) for content in target.files)
    rng = np.random.default_rng(1)
    read = sum(fuzzing.attempt(target, fuzzing.case(rng, target), tmp_path) for _ in range(CASES))
    assert 0 < read < CASES or (name in HARMLESS and read == CASES)  # some changes do no harm, and not all


def test_every_target_is_in_the_list_above(targets):
    assert sorted(targets) == sorted(NAMES)


def test_an_error_that_is_not_our_own_is_seen(tmp_path):
    def fails(path):
        raise KeyError(path.name)

    with pytest.raises(KeyError):
        fuzzing.attempt(fuzzing.Target(fails, (b"",), ".json"), b"{}", tmp_path)
