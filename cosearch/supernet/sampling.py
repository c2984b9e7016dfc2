"""Which networks a supernet's training step runs: samplers, pure in (seed, epoch, step) so that resuming is exact."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from cosearch.blueprint import operator_of
from cosearch.seeding import numpy_stream

Choice = str | int | float
Arch = dict[str, Any]
Sampler = Callable[[int, int], list[Arch]]
"""(epoch, step) -> the archs of that step."""
Within = Callable[[Arch], bool]
"""Whether an arch meets the budget."""
GUIDED_TRIES = 4


def uniform(space: Any, seed: int) -> Sampler:
    """One arch, uniformly. Source: Guo et al., Single path one-shot, 2020."""
    return lambda epoch, step: [space.sample(numpy_stream(seed, "path", epoch, step))]


def strictly_fair(space: Any, seed: int) -> Sampler:
    """As many archs as the widest decision has choices, which between them use every choice of every decision.

    Each decision's choices in an order of its own; one with fewer choices begins again. Source: FairNAS, 2021.
    """
    paths = widest_decision(space)

    def sample(epoch: int, step: int) -> list[Arch]:
        rng = numpy_stream(seed, "fair paths", epoch, step)
        orders = {name: rng.permutation(len(options)) for name, options in space.choices.items()}
        return [
            {name: options[orders[name][i % len(options)]] for name, options in space.choices.items()}
            for i in range(paths)
        ]

    return sample


def widest_decision(space: Any) -> int:
    """The largest number of choices of a decision."""
    return max(len(options) for options in space.choices.values())


def sandwich(space: Any, seed: int, between: int = 2, within: Within | None = None) -> Sampler:
    """The largest network, the smallest, and some in between. Source: Yu and Huang, BigNAS, 2020, sandwich rule.

    within: says which archs meet the budget, which those in between then follow as `guided` says.
    """
    ends = [space.largest(), smallest(space)]

    def others(epoch: int, step: int) -> list[Arch]:
        rng = numpy_stream(seed, "sandwich paths", epoch, step)
        return [space.sample(rng) for _ in range(between)]

    followed = others if within is None else guided(others, within)
    return lambda epoch, step: [*ends, *followed(epoch, step)]


def smallest(space: Any) -> Arch:
    """The network whose every decision takes the choice with fewest operations; skipping is one, where it can be."""
    base = {name: options[0] for name, options in space.choices.items()}

    def operations(name: str, option: Choice) -> int:
        return int(space.workload({**base, name: option}).macs)

    return {name: min(options, key=lambda o: operations(name, o)) for name, options in space.choices.items()}


def among(space: Any, seed: int, allowed: Callable[[int], dict[str, Sequence[Choice]]]) -> Sampler:
    """One arch, uniformly of the choices that are allowed in an epoch."""

    def sample(epoch: int, step: int) -> list[Arch]:
        rng = numpy_stream(seed, "path", epoch, step)
        return [{name: options[int(rng.integers(len(options)))] for name, options in allowed(epoch).items()}]

    return sample


def guided(sampler: Sampler, within: Within, tries: int = GUIDED_TRIES) -> Sampler:
    """Archs within a budget more often: of up to `tries` draws the first that is within it, else the last.

    Where a share p of the space is within, that share of what is drawn becomes 1 - (1 - p)^tries; the others stay
    possible, so that no weight is left untrained. Draw k of a step is what the sampler gives for step + k 2^32; of
    several archs each takes the draw that suits it.
    """

    def sample(epoch: int, step: int) -> list[Arch]:
        archs = sampler(epoch, step)
        for k in range(1, tries):
            fits = [within(arch) for arch in archs]
            if all(fits):
                break
            again = sampler(epoch, step + (k << 32))
            archs = [old if fit else new for old, fit, new in zip(archs, fits, again, strict=True)]
        return archs

    return sample


def without_additions(options: Sequence[Choice]) -> Sequence[Choice]:
    """The choices that multiply or shift, if there are any."""
    kept = [option for option in options if operator_of(option) != "add"]
    return kept if any(option != "skip" for option in kept) else options


def joining(options: Sequence[Choice]) -> Sequence[Choice]:
    """The additions, where there is something else without them."""
    first = without_additions(options)
    return [option for option in options if option not in first]


def widest(options: Sequence[Choice]) -> Sequence[Choice]:
    """The choices of the largest expansion (`..._e6`), and those that have none."""
    found = {option: int(match[1]) for option in options if (match := re.search(r"_e(\d+)(_|$)", str(option)))}
    top = max(found.values(), default=0)
    return [option for option in options if found.get(option, top) == top]
