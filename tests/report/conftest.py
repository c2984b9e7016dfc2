"""Small real runs that pages are made of: a supernet's, tables' with several seeds, one on a measured device."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import cosearch
from cosearch import selection
from tests import tiny_space
from tests.test_engine import train_here

EVIL = "<script>document.title='broken'"
"""A class of the dataset; the folders of classes are named like them, so that it can have no closing tag."""
SMALL = {
    "space": tiny_space.NAME,
    "device": "ecp5-25f",
    "trials": 12,
    "supernet_epochs": 2,
    "finalist_epochs": 1,
    "finalist_seeds": 1,
    "threads": 1,
    "torch_device": "cpu",
    "quiet": True,
}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder for runs; their finalists are trained in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(selection, "train_all", train_here)
        yield tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def evil_digits(few_digits, tmp_path_factory) -> Path:
    """Digits in folders, with a class whose name would run if it were not escaped."""
    with np.load(few_digits) as arrays:
        pixels, labels = (arrays["x"] * 255).astype(np.uint8), arrays["y"]
    path = tmp_path_factory.mktemp("data") / "evil"
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        folder = path / (EVIL if label == 3 else str(label))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    return path


@pytest.fixture(scope="session")
def finished(made, evil_digits) -> Path:
    """A whole run with a supernet and a limit; read it, do not change it."""
    out = made / "finished & <b>done"
    cosearch.run(**SMALL, data=str(evil_digits), max_latency_ms=0.2, out=out)
    return out


@pytest.fixture(scope="session")
def accuracy_table(made) -> Path:
    """Accuracies of all 100 networks, made up: more weights, more accuracy."""
    space = tiny_space.space()
    archs = [dict(zip(space.choices, c, strict=True)) for c in itertools.product(*space.choices.values())]
    weights = np.array([space.workload(a).weight_count for a in archs])
    path = made / "accuracy.csv"
    accuracy = 0.5 + 0.4 * weights / weights.max()
    pd.DataFrame({"arch": [json.dumps(a) for a in archs], "accuracy": accuracy}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def seeds(made, few_digits, accuracy_table) -> list[Path]:
    """Three runs that differ in their seed, and one with another budget."""
    common = {**SMALL, "data": str(few_digits), "accuracy": "table", "accuracy_table": accuracy_table}
    paths = []
    for name, options in (("s0", {"seed": 0}), ("s1", {"seed": 1}), ("s2", {"seed": 2}), ("more", {"trials": 20})):
        paths.append(made / name)
        cosearch.run(**{**common, **options}, out=paths[-1])
    return paths


@pytest.fixture(scope="session")
def measured(made, few_digits, accuracy_table) -> Path:
    """A run on a device that is known from measurements only: no accelerator."""
    space = tiny_space.space()
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(24)]
    latency = [space.workload(arch).macs * 1e-6 for arch in archs]
    device = made / "board.csv"
    pd.DataFrame({"arch": [json.dumps(a) for a in archs], "latency_ms": latency}).to_csv(device, index=False)
    out = made / "measured"
    options = {**SMALL, "device": str(device), "baselines": False}
    cosearch.run(**options, data=str(few_digits), accuracy="table", accuracy_table=accuracy_table, out=out)
    return out


@pytest.fixture
def unfinished(finished, tmp_path) -> Path:
    """The run as it was before its finalists were trained."""
    path = tmp_path / "unfinished"
    shutil.copytree(finished, path)
    for name in ("result.json", "front.csv", "report.html", "report.json"):
        (path / name).unlink()
    shutil.rmtree(path / "best")
    lines = (path / "log.jsonl").read_text().splitlines()
    (path / "log.jsonl").write_text("\n".join(line for line in lines if '"finished"' not in line) + '\n{"event": "sup')
    return path
