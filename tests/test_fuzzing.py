"""A bounded part of `python -m tests.benchmarks.fuzz`."""

import numpy as np
import pytest

import cosearch
from tests import fuzzed, fuzzing
from tests.benchmarks.fuzz import CONFIG

LEAST_CASES, CASES = 60, 15
"""For each reader, and for each of its shares."""


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
    "import map", "imported table", "imported Parquet", "imported Parquet of lists", "imported JSON", "imported array",
    "published pickle",
    "card of a table", "table", "networks of a table", "predictor", "config.yaml", "result.json", "front.csv",
    "report.json", "log.jsonl", "inputs.json", "study.db", "supernet.safetensors", "best/network.json",
    "best/workload.json", "best/accelerator.json", "best/mapping.json", "best/weights.safetensors",
    "best/integer.safetensors", "finalists/NETWORK.json", "finalists/NETWORK.safetensors",
    "finalists/NETWORK.integer.safetensors",
)  # fmt: skip
HARMLESS = ("report.json",)
"""What is damaged there is found out again."""
STRICT = (
    "images in .npz", "inputs.json", "supernet.safetensors", "best/network.json", "best/workload.json",
    "best/accelerator.json", "best/mapping.json", "best/weights.safetensors", "best/integer.safetensors",
    "finalists/NETWORK.safetensors", "finalists/NETWORK.integer.safetensors",
)  # fmt: skip
"""Where everything has to fit something else, so that hardly a change does no harm."""


@pytest.mark.parametrize("name", NAMES)
def test_what_is_nearly_right_is_read_or_refused_in_one_line(targets, tmp_path, name):
    target = targets[name]
    assert all(fuzzing.attempt(target, content, tmp_path) for content in target.files)
    rng = np.random.default_rng(1)
    cases = max(LEAST_CASES, CASES * target.share)
    read = sum(fuzzing.attempt(target, fuzzing.case(rng, target), tmp_path) for _ in range(cases))
    assert read > 0 or name in STRICT  # some changes do no harm
    assert read < cases or name in HARMLESS  # and not all


def test_every_target_is_in_the_list_above(targets):
    assert sorted(targets) == sorted(NAMES)


def test_an_error_that_is_not_our_own_is_seen(tmp_path):
    def fails(path):
        raise KeyError(path.name)

    with pytest.raises(KeyError):
        fuzzing.attempt(fuzzing.Target(fails, (b"",), ".json"), b"{}", tmp_path)
