"""Devices that are published simulators, with no accelerators to choose from: see `cosearch.hardware.published`."""

from dataclasses import dataclass
from typing import Any

from cosearch.hardware.published import PublishedDevice, find


@dataclass(frozen=True)
class PublishedSpace:
    """One device. serves: kinds of layers that its published table knows."""

    device: PublishedDevice

    @property
    def name(self) -> str:
        """Name of the device."""
        return self.device.name

    @property
    def serves(self) -> dict[str, tuple[str, ...]]:
        """Convolutions, linear layers and pooling; whatever else a network has is listed as unpriced."""
        return {self.name: ("mac", "pool")}

    def __len__(self) -> int:
        return 1

    def describe(self) -> dict[str, Any]:
        """What decides every cost of this device, as JSON."""
        return {"space": "published", "device": self.name, "source": self.device.source}


def space(name: str) -> PublishedSpace:
    """Raises: UnknownNameError with the nearest known name."""
    return PublishedSpace(find(name))
