"""What a design takes and a part offers."""

from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

from cosearch.errors import HardwareError
from cosearch.writing import FORMULA


@dataclass(frozen=True)
class Resources:
    """What a design takes or a part offers: FPGA resources, each a count, and silicon area in um2 for ASICs."""

    lut: int = 0
    ff: int = 0
    dsp: int = 0
    bram: int = 0
    uram: int = 0
    area_um2: int = 0

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(*(a + b for a, b in zip(self.counts, other.counts, strict=True)))

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(_counts_of(self))

    def fits(self, budget: "Resources") -> bool:
        return all(need <= have for need, have in zip(self.counts, budget.counts, strict=True))


RESOURCES: tuple[str, ...] = tuple(f.name for f in fields(Resources))
_counts_of = attrgetter(*RESOURCES)
SILICON = Resources(area_um2=2**62)
"""As much as one likes, and nothing of an FPGA."""


def over_budget(needed: Resources, budget: Resources) -> str:
    """What does not fit, empty if everything does."""
    over = [
        f"{getattr(needed, name):,} of {getattr(budget, name):,} {name.upper()}"
        for name in RESOURCES
        if getattr(needed, name) > getattr(budget, name)
    ]
    return f"does not fit: {', '.join(over)}" if over else ""


def check_name(what: str, name: Any) -> None:
    """Raises: HardwareError for a name that front.csv cannot hold without harm."""
    if not isinstance(name, str) or not name.isprintable() or name.startswith(FORMULA):
        raise HardwareError(
            f"{what} {name!r:.80}: expected a name of printable characters that does not begin with =, +, - or @, as "
            "formulas do"
        )
