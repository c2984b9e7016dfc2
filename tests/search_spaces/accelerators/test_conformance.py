"""Every registered device prices networks as a search relies on; every space on every kind of device."""

import pytest

from cosearch.hardware.tensor import CostTensor
from cosearch.testing import check_device
from search_spaces.accelerators import ACCELERATORS, FAMILIES
from search_spaces.networks import SPACES
from tests import tiny_space

KINDS = ("fpga", "eyeriss", "tpu-ws")
DEVICES = [name for name in ACCELERATORS if name not in FAMILIES]
"""A family is its default device."""


@pytest.mark.parametrize("device", DEVICES)
def test_conformance(device):
    check_device(device, tiny_space.NAME, archs=3)


@pytest.mark.slow
@pytest.mark.parametrize("device", KINDS)
@pytest.mark.parametrize("space", SPACES)
def test_every_space_on_every_kind_of_device(space, device):
    check_device(device, space, archs=2)


def test_a_cost_that_the_accelerator_does_not_have_is_found(monkeypatch):
    true = CostTensor.best_accelerator

    def cheaper(self, *args, **kwargs):
        front = true(self, *args, **kwargs)
        metric = type(front).metric
        monkeypatch.setattr(type(front), "metric", lambda self, name: metric(self, name) * 0.99)
        return front

    monkeypatch.setattr(CostTensor, "best_accelerator", cheaper)
    with pytest.raises(AssertionError, match="its best accelerator costs"):
        check_device("tpu-ws", tiny_space.NAME, archs=1)
