"""The metrics of hardware and the constraints on them."""

from collections.abc import Mapping, Sequence
from numbers import Real

from cosearch.errors import ConfigError, nearest
from cosearch.hardware.resources import RESOURCES
from cosearch.hardware.tables import AcceleratorSpace, NestSpace

METRICS: tuple[str, ...] = ("latency_ms", "energy_mj", "edp", "area_mm2", *RESOURCES)
CONSTRAINTS: dict[str, str] = {f"max_{metric}": metric for metric in METRICS}


def checked_limits(
    objectives: Sequence[str], constraints: Mapping[str, float], space: AcceleratorSpace
) -> dict[str, float]:
    """The constraints by metric.

    Raises: ConfigError for an objective or constraint that does not exist or is unknown for the space.
    """
    if not objectives:
        raise ConfigError(f"no objective given, expected some of {', '.join(METRICS)}")
    for name in objectives:
        if name not in METRICS:
            raise ConfigError(f"unknown hardware objective {name!r}: {nearest(name, METRICS)}")
    limits: dict[str, float] = {}
    for name, value in constraints.items():
        if name not in CONSTRAINTS:
            raise ConfigError(f"unknown hardware constraint {name!r}: {nearest(name, CONSTRAINTS)}")
        if not (isinstance(value, Real) and value > 0):
            raise ConfigError(f"{name}={value!r}, expected a number above 0")
        limits[CONSTRAINTS[name]] = float(value)
    if "area_mm2" in {*objectives, *limits} and not isinstance(space, NestSpace):
        raise ConfigError(
            f"the area of {space.name} is unknown (an FPGA part is not sold by area): use lut, dsp or bram"
        )
    return limits
