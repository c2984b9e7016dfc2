import os
from pathlib import Path

# Read when torch is loaded, so before any other import. Threads of several test processes that wait by spinning keep
# each other off the processors: the same tests then take up to twenty times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
from hypothesis import settings

from cosearch.data import Dataset, load_dataset

# a busy machine is no failure
settings.register_profile("patient", settings.default, deadline=None)
settings.load_profile("patient")


COMPILING = (
    "hardware/test_tensor.py",
    "operators/test_adder.py",
    "hardware/test_explicit.py",
    "strategies/test_improvement.py",
)
"""Modules that make numba compile nearly all that it compiles, each something else: begun before all others, so that
four processes and those that they start find it compiled instead of compiling the same at the same time."""
WAITING = ("distributed/test_ray.py", "test_engine.py", "test_damage.py", "test_scripting.py", "test_readme.py")
"""Modules that mostly wait, for other processes and disks: begun next, so that others run beside them."""


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # of xdist: modules with many tests first


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {Path(__file__).parent / name: at for at, name in enumerate(COMPILING + WAITING)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """Scikit-learn's 1,797 real 8x8 digits."""
    return load_dataset("digits")


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .npz of the first 400 real digits: what a whole run can be tested on in seconds."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    path = tmp_path_factory.mktemp("data") / "few.npz"
    np.savez(path, x=(bunch.images[:400] / 16).astype(np.float32), y=bunch.target[:400])
    return path
