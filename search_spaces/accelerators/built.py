"""Accelerators that a function builds from decisions: a space that need not be enumerated to be searched."""

import hashlib
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from cosearch.errors import ConfigError, HardwareError
from cosearch.hardware.accelerator import Accelerator
from cosearch.hardware.resources import SILICON, Resources
from search_spaces.decisions import Arch, Decisions, ends


@dataclass(frozen=True)
class BuiltSpace(Decisions):
    """Accelerators by their decisions, for a device of your own.

    build: decisions -> the accelerator, which raises a HardwareError for decisions that make none. runs: the kinds of
    layers that some of them run, such as mac, shift and add. budget: what an accelerator may need; by default silicon
    without a limit, and nothing of an FPGA.
    Raises: ConfigError if build is no function, or runs names no kinds.
    """

    name: str
    build: Callable[[Arch], Accelerator]
    runs: tuple[str, ...] = ("mac", "pool", "elementwise")
    budget: Resources = SILICON

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.build):
            raise ConfigError(f"{self.name}: build is {self.build!r}, expected a function of the decisions"[:300])
        if isinstance(self.runs, str) or not isinstance(self.runs, Collection) or not self.runs:
            raise ConfigError(f"{self.name}: runs is {self.runs!r}, expected kinds of layers such as ('mac',)"[:300])

    @property
    def serves(self) -> dict[str, tuple[str, ...]]:
        return {self.name: tuple(self.runs)}

    def describe(self) -> dict[str, Any]:
        """What is known of what decides costs here: the decisions, and the accelerators of first and last choices."""
        return {
            "space": "built",
            "name": self.name,
            "choices": {name: list(options) for name, options in self.choices.items()},
            "runs": list(self.runs),
            "budget": list(self.budget.counts),
            "ends": [_digest_of(self.build, end) for end in ends(self.choices)],
        }


def _digest_of(build: Callable[[Arch], Accelerator], arch: Arch) -> str:
    try:
        told = json.dumps(build(arch).to_json(), sort_keys=True)
    except HardwareError as error:
        told = str(error)
    return hashlib.sha256(told.encode()).hexdigest()
