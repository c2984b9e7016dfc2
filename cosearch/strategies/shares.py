"""A network's decisions as shares: a softmax of logits, one for each choice of each decision."""

from collections.abc import Mapping

import numpy as np

from cosearch.strategies.improvement import Floats
from search_spaces.decisions import Arch, Decisions

Shares = dict[str, Floats]


def softmax(logits: Floats) -> Floats:
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()


def shares_of(logits: Mapping[str, Floats], temperature: float) -> Shares:
    """A higher temperature makes them more equal."""
    return {name: softmax(values / temperature) for name, values in logits.items()}


def draw(space: Decisions, shares: Mapping[str, Floats], rng: np.random.Generator) -> Arch:
    """A network, each decision drawn from its shares."""
    return {name: options[rng.choice(len(options), p=shares[name])] for name, options in space.choices.items()}
