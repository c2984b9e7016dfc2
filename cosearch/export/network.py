"""A network as a document: its steps, from which the module is built again, and what its images and classes are.

The steps are data, so that a file is read without the code of the space that it came from.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cosearch.blueprint import Blueprint
from cosearch.errors import ConfigError
from cosearch.workload import Workload

if TYPE_CHECKING:
    from cosearch.supernet.blocks import Network

FORMAT = "cosearch.network"


@dataclass(frozen=True)
class NetworkDescription:
    """space, arch: where the network comes from. pixel_mean, pixel_std: per channel, what images are standardised with;
    these and the names of the classes are empty where the network was never trained on images.
    """

    space: str
    arch: dict[str, Any]
    blueprint: Blueprint
    pixel_mean: tuple[float, ...] = ()
    pixel_std: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()

    def build(self, seed: int | None = 0) -> "Network":
        """The torch module with fresh weights, or uninitialised ones for None."""
        from cosearch.supernet.blocks import Network

        return Network(self.blueprint, seed)

    def workload(self, name: str) -> Workload:
        return self.blueprint.workload(name)

    def to_json(self) -> dict[str, Any]:
        described = {"format": FORMAT, "version": 1, "space": self.space, "arch": self.arch, **self.blueprint.to_json()}
        if not self.classes:
            return described
        scaling = {"pixel_mean": list(self.pixel_mean), "pixel_std": list(self.pixel_std)}
        return {**described, **scaling, "classes": list(self.classes)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "NetworkDescription":
        """Raises: ConfigError if the document is not a network of a version that this code reads."""
        if data.get("format") != FORMAT or data.get("version") != 1:
            raise ConfigError(f"expected a JSON object with format {FORMAT!r} and version 1")
        known = {"format", "version", "space", "arch", "input_shape", "steps", "pixel_mean", "pixel_std", "classes"}
        if not data.keys() <= known:
            raise ConfigError(f"unknown fields {sorted(data.keys() - known)!r:.200} in a network")
        space, arch = data.get("space"), data.get("arch")
        if not isinstance(space, str) or not isinstance(arch, dict):
            raise ConfigError("a network has a space, by name, and an arch, an object of choices by decision")
        if not all(isinstance(choice, str | int | float) for choice in arch.values()):
            raise ConfigError("a network's arch has one name or number per decision")
        blueprint = Blueprint.from_json(data)
        mean, std = (_numbers(data, name, blueprint.input_shape[0]) for name in ("pixel_mean", "pixel_std"))
        classes = data.get("classes", [])
        named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
        if not named or len(classes) not in (0, blueprint.classifier.out_channels) or bool(mean) != bool(classes):
            raise ConfigError(f"classes: expected {blueprint.classifier.out_channels} names, with pixel_mean and _std")
        return cls(space, dict(arch), blueprint, mean, std, tuple(classes))


def _numbers(data: Mapping[str, Any], name: str, channels: int) -> tuple[float, ...]:
    values = data.get(name, [])
    if not isinstance(values, list) or len(values) not in (0, channels):
        raise ConfigError(f"{name}={values!r:.80}: expected {channels} numbers")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(f"{name}={values!r:.80}: expected {channels} numbers")
    return tuple(float(value) for value in values)
