"""FPGA accelerators whose layers may run on DSP blocks and LUTs at once: see `cosearch.hardware.split`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cosearch.errors import ConfigError
from cosearch.hardware.accelerator import Accelerator, Accounting
from cosearch.hardware.parts import Part, UnitCost, load_device
from cosearch.hardware.resources import Resources
from cosearch.hardware.sparsity import ZEROS
from search_spaces.accelerators import fpga

if TYPE_CHECKING:
    from cosearch.hardware.split import PairTable
    from cosearch.hardware.tables import EngineTable, Prices, SharedTable

SUFFIX = "-split"
SHARES: tuple[float, ...] = (0.5, 0.75)
"""Of the memories, for the DSP engine while both engines run."""


def space(
    part: str | Part = "zcu102" + SUFFIX,
    *,
    choices: Mapping[str, Sequence[Any]] | None = None,
    accounting: Accounting = "element",
    shares: Sequence[float] = SHARES,
    kinds: Sequence[str] = (),
) -> "SplitSpace":
    """The accelerators of one part that have a MAC array on DSP blocks, a bit-serial array on LUTs, or both.

    part: a part's name with or without ``-split``, a part file, or a `Part`. choices: replaces some of the part's own,
    of which every second one is offered by default. shares: of the memories that the first engine may get. kinds: other
    arithmetic kinds that may have engines (shift, add).

    Raises: what `fpga.space` raises; ConfigError for a share outside (0, 1).
    """
    if not shares or not all(0 < share < 1 for share in shares):
        raise ConfigError(f"shares={tuple(shares)!r}, expected fractions between 0 and 1")
    device = load_device(part.removesuffix(SUFFIX)) if isinstance(part, str) else part
    own = {**fpga.CHOICES, **dict(device.choices)}
    whole = (True, *ZEROS, "hard")
    coarse = {n: values if any(value in whole for value in values) else values[::2] for n, values in own.items()}
    base = fpga.space(
        device,
        choices={**coarse, **(choices or {})},
        accounting=accounting,
        kinds=("mac", "bitserial", *kinds),
    )
    return SplitSpace(base, tuple(shares))


@dataclass(frozen=True)
class SplitSpace:
    """See `space`. One engine kind stands for both engines; its configurations are pairs."""

    base: fpga.FpgaSpace
    shares: tuple[float, ...]

    @property
    def name(self) -> str:
        """The part with the suffix."""
        return self.base.name + SUFFIX

    @property
    def part(self) -> Part:
        return self.base.part

    @property
    def kinds(self) -> tuple[str, ...]:
        from cosearch.hardware.split import KINDS, NAME

        return (NAME, *(kind for kind in self.base.kinds if kind not in KINDS))

    @property
    def serves(self) -> dict[str, tuple[str, ...]]:
        """The pair runs multiply-accumulate layers, whatever their kind; other engines the layers of theirs."""
        from cosearch.hardware.split import KINDS, NAME

        return {kind: KINDS if kind == NAME else (kind,) for kind in self.kinds}

    @property
    def budget(self) -> Resources:
        return self.base.budget

    @property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        return {**self.base.choices, "shares": self.shares}

    @property
    def unit_costs(self) -> dict[str, UnitCost]:
        return self.base.unit_costs

    @property
    def prices(self) -> "Prices":
        return self.base.prices

    @cached_property
    def shared(self) -> "SharedTable":
        return self.base.shared

    def __len__(self) -> int:
        """Accelerators within the budget with the one or the other engine or both, and one of every other kind."""
        from cosearch.hardware.tables import count_within

        return count_within(self)

    @cached_property
    def pairs(self) -> "PairTable":
        from cosearch.hardware.split import KINDS, PairTable

        first, second = (self.base.engines(kind) for kind in KINDS)
        on_dsp = [i for i, engine in enumerate(self.base.engine_lists[KINDS[0]]) if engine.fabric == "hard"]
        return PairTable.of(first, second, on_dsp, self.shares)

    def engines(self, kind: str) -> "EngineTable | PairTable":
        from cosearch.hardware.split import NAME

        return self.pairs if kind == NAME else self.base.engines(kind)

    def accelerator(self, shared: int, engines: Mapping[str, int]) -> Accelerator:
        from cosearch.hardware.split import KINDS, NAME

        chosen = {kind: index for kind, index in engines.items() if kind != NAME}
        if NAME not in engines:
            return self.base.accelerator(shared, chosen)
        both = zip(KINDS, (self.pairs.left, self.pairs.right), strict=True)
        pair: dict[str, int] = {kind: int(table[engines[NAME]]) for kind, table in both}
        pair = {kind: index for kind, index in pair.items() if index >= 0}
        return replace(self.base.accelerator(shared, {**pair, **chosen}), splits=self.shares)

    def describe(self) -> dict[str, Any]:
        """What decides every cost in this space, as JSON."""
        return {**self.base.describe(), "space": "split", "shares": list(self.shares)}
