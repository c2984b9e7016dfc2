"""What every network space shares: an arch is a dict of named decisions, each one of an ordered tuple of choices."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from cosearch.errors import ConfigError, DataError, nearest
from cosearch.reading import parse_json

Choice = str | int | float
Arch = dict[str, Any]
Choices = Mapping[str, tuple[Choice, ...]]


def arch_key(arch: Mapping[str, Any]) -> str:
    """A string that is equal for equal archs."""
    return ",".join(f"{name}={arch[name]}" for name in sorted(arch))


OF_ACCELERATOR = "accelerator."
"""How the names of decisions begin that are the accelerator's: accuracy does not depend on them."""


def split(arch: Mapping[str, Any]) -> tuple[Arch, Arch]:
    """The decisions of the network, and those of the accelerator by their names without `OF_ACCELERATOR`."""
    accelerator = {name.removeprefix(OF_ACCELERATOR): arch[name] for name in arch if name.startswith(OF_ACCELERATOR)}
    return network_of(arch), accelerator


def network_of(arch: Mapping[str, Any]) -> Arch:
    """The decisions of the network."""
    return {name: choice for name, choice in arch.items() if not name.startswith(OF_ACCELERATOR)}


def network_key(arch: Mapping[str, Any]) -> str:
    """A string that is equal for equal networks."""
    return arch_key(network_of(arch))


def parse_pairs(text: str) -> Arch:
    """An arch from ``name=choice`` pairs joined by ``;``; choices stay text.

    Raises: ConfigError.
    """
    pairs = [part.split("=", 1) for part in text.split(";") if part.strip()]
    if any(len(pair) != 2 for pair in pairs):
        raise ConfigError(f"arch {text[:80]!r}: expected name=choice pairs joined by ';'")
    arch = {name.strip(): choice.strip() for name, choice in pairs}
    if len(arch) < len(pairs):
        raise ConfigError(f"arch {text[:80]!r} names a decision twice: expected each once")
    return arch


def parse_arch(text: str, space: "Decisions") -> Arch:
    """An arch of a space from a JSON object, a name that it has in the field (`Decisions.published`), or pairs, whose
    choices go by their spelling.

    Raises: ConfigError.
    """
    text = text.strip()
    if (published := space.published(text)) is not None:
        arch = published
    elif not text.startswith("{"):
        spelled = {name: {str(option): option for option in options} for name, options in space.choices.items()}
        arch = {name: spelled.get(name, {}).get(choice, choice) for name, choice in parse_pairs(text).items()}
    else:
        try:
            arch = parse_json(text)
        except DataError as error:
            raise ConfigError(f"arch {text[:80]!r} {error}") from None
    space.check(arch)
    return dict(arch)


def ends(choices: Choices) -> tuple[Arch, Arch]:
    """The first choice of every decision, and the last."""
    first, last = ({name: options[at] for name, options in choices.items()} for at in (0, -1))
    return first, last


@dataclass(frozen=True)
class Decisions:
    """Sampling, neighbourhood and encoding over `choices`; network spaces inherit these.

    Raises: ConfigError if there is no decision, or a decision has no choice or one twice.
    """

    choices: Choices

    def __post_init__(self) -> None:
        if not self.choices:
            raise ConfigError("the space has no decisions: give at least one name with its choices")
        for name, options in self.choices.items():
            # keys of archs spell their choices, so these differ in spelling too
            if not options or len({str(option) for option in options}) != len(options):
                raise ConfigError(f"decision {name!r} has choices {options}: expected at least one, each once")
            try:
                distinct = len(set(options)) == len(options)
            except TypeError:
                kinds = sorted({type(option).__name__ for option in options})
                raise ConfigError(
                    f"decision {name!r} has choices of type {', '.join(kinds)}: expected numbers, strings or tuples"
                ) from None
            if not distinct:
                raise ConfigError(f"decision {name!r} has choices {options}: expected at least one, each once")

    @property
    def size(self) -> int:
        """How many archs there are."""
        return math.prod(len(options) for options in self.choices.values())

    def __len__(self) -> int:
        return self.size

    def published(self, text: str) -> Arch | None:
        """The arch with a name that is used outside cosearch, such as an index or a notation; None if it is none.

        Raises: ConfigError if it is meant for one and wrong.
        """
        return None

    @cached_property
    def joint(self) -> bool:
        """Whether some decisions are the accelerator's."""
        return any(name.startswith(OF_ACCELERATOR) for name in self.choices)

    @cached_property
    def network_space(self) -> "Decisions":
        """The space of the networks alone.

        Raises: ConfigError if every decision is the accelerator's.
        """
        if not self.joint:
            return self
        networks = network_of(self.choices)
        if not networks:
            raise ConfigError(f"every decision begins with {OF_ACCELERATOR!r}: give at least one of the network")
        return Decisions(networks)

    def sample(self, rng: np.random.Generator) -> Arch:
        """One arch, uniformly."""
        return {name: options[rng.integers(len(options))] for name, options in self.choices.items()}

    def mutate(self, arch: Arch, rng: np.random.Generator, rate: float | None = None) -> Arch:
        """Change each decision with probability `rate` (default: one in expectation), at least one of them."""
        open_names = [name for name, options in self.choices.items() if len(options) > 1]
        if not open_names:
            return dict(arch)
        rate = 1.0 / len(open_names) if rate is None else rate
        chosen = [name for name in open_names if rng.random() < rate] or [open_names[rng.integers(len(open_names))]]
        return {**arch, **{name: self._other(name, arch[name], rng) for name in chosen}}

    def _other(self, name: str, current: Choice, rng: np.random.Generator) -> Choice:
        others = [option for option in self.choices[name] if option != current]
        return others[rng.integers(len(others))]

    def crossover(self, a: Arch, b: Arch, rng: np.random.Generator) -> Arch:
        """Each decision from one of the two parents."""
        return {name: (a if rng.random() < 0.5 else b)[name] for name in self.choices}

    def neighbours(self, arch: Arch, rng: np.random.Generator | None = None) -> list[Arch]:
        """Every arch that differs in one decision, in random order if a generator is given."""
        found = [
            {**arch, name: option}
            for name, options in self.choices.items()
            for option in options
            if option != arch[name]
        ]
        return found if rng is None else [found[i] for i in rng.permutation(len(found))]

    def encode(self, arch: Arch) -> npt.NDArray[np.int64]:
        """[decisions] index of each choice.

        Raises: ConfigError if the arch is not of this space.
        """
        self.check(arch)
        return np.array([options.index(arch[name]) for name, options in self.choices.items()], dtype=np.int64)

    def decode(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> Arch:
        """The inverse of `encode`."""
        if len(indices) != len(self.choices):
            raise ConfigError(f"{len(indices)} indices, expected one for each of {len(self.choices)} decisions")
        for i, (name, options) in zip(indices, self.choices.items(), strict=True):
            if not 0 <= int(i) < len(options):
                raise ConfigError(f"index {int(i)} for decision {name!r}, expected 0 to {len(options) - 1}")
        return {name: options[int(i)] for i, (name, options) in zip(indices, self.choices.items(), strict=True)}

    def one_hot(self, archs: Sequence[Arch]) -> npt.NDArray[np.float64]:
        """[archs, sum of choices], 0 or 1."""
        widths = [len(options) for options in self.choices.values()]
        offsets = np.concatenate([[0], np.cumsum(widths)[:-1]])
        out = np.zeros((len(archs), sum(widths)))
        for row, arch in enumerate(archs):
            out[row, offsets + self.encode(arch)] = 1.0
        return out

    def check(self, arch: Mapping[str, Any]) -> None:
        """Raises: ConfigError naming the first decision that is missing, unknown or has a foreign value."""
        if not isinstance(arch, Mapping):
            raise ConfigError(f"an arch is an object of decisions, got {type(arch).__name__}")
        for name in arch:
            if name not in self.choices:
                raise ConfigError(f"unknown decision {name!r}: {nearest(str(name), self.choices)}")
        for name, options in self.choices.items():
            if name not in arch:
                raise ConfigError(f"decision {name!r} is missing: expected one of {', '.join(map(str, options))}")
            if arch[name] not in options:
                raise ConfigError(
                    f"decision {name!r} is {arch[name]!r}: expected one of {', '.join(map(str, options))}"
                )
