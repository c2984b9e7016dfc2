import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosearch.errors import ConfigError
from search_spaces.decisions import Decisions, arch_key, ends, parse_arch
from search_spaces.networks import find
from search_spaces.networks.nasbench201 import cell, to_string

SPACE = Decisions({"op": ("conv", "shift", "add"), "kernel": (3, 5), "scale": (0.5, 1.0, 1.5), "fixed": ("x",)})
spaces = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True).map(tuple),
    min_size=1,
    max_size=6,
).map(Decisions)
seeds = st.integers(0, 2**32)


def changed(space: Decisions, a, b) -> list[str]:
    return [name for name in space.choices if a[name] != b[name]]


@given(spaces, seeds)
def test_encode_and_decode_are_inverse(space, seed):
    arch = space.sample(np.random.default_rng(seed))
    space.check(arch)
    assert space.decode(space.encode(arch)) == arch
    row = space.one_hot([arch])[0]
    assert row.sum() == len(space.choices)
    flat = [(name, option) for name, options in space.choices.items() for option in options]
    assert {flat[i] for i in np.flatnonzero(row)} == set(arch.items())


@given(spaces, seeds)
def test_every_neighbour_differs_in_one_decision(space, seed):
    rng = np.random.default_rng(seed)
    arch = space.sample(rng)
    found = space.neighbours(arch)
    assert len(found) == sum(len(options) - 1 for options in space.choices.values())
    assert len({arch_key(a) for a in found}) == len(found)
    assert all(len(changed(space, arch, a)) == 1 for a in found)
    shuffled = space.neighbours(arch, rng)
    assert sorted(map(arch_key, shuffled)) == sorted(map(arch_key, found))


@given(spaces, seeds, st.sampled_from((None, 0.0, 0.3, 1.0)))
def test_mutation_changes_at_least_one_open_decision(space, seed, rate):
    rng = np.random.default_rng(seed)
    arch = space.sample(rng)
    before = dict(arch)
    child = space.mutate(arch, rng, rate)
    space.check(child)
    assert arch == before
    open_names = [n for n, options in space.choices.items() if len(options) > 1]
    assert len(changed(space, arch, child)) >= min(1, len(open_names))
    if rate == 1.0:
        assert changed(space, arch, child) == open_names


@given(spaces, seeds)
def test_crossover_takes_each_decision_from_a_parent(space, seed):
    rng = np.random.default_rng(seed)
    a, b = space.sample(rng), space.sample(rng)
    child = space.crossover(a, b, rng)
    assert all(child[name] in (a[name], b[name]) for name in space.choices)
    assert space.crossover(a, a, rng) == a


def test_the_ends_of_a_space_are_its_first_and_last_choices():
    space = Decisions({"depth": (2, 3, 4), "kind": ("conv",), "skip": (True, False)})
    first, last = ends(space.choices)
    assert first == space.decode([0, 0, 0]) == {"depth": 2, "kind": "conv", "skip": True}
    assert last == space.decode([2, 0, 1])


def test_sampling_is_uniform():
    rng = np.random.default_rng(0)
    drawn = [SPACE.sample(rng) for _ in range(3000)]
    for name, options in SPACE.choices.items():
        for option in options:
            share = sum(a[name] == option for a in drawn) / len(drawn)
            assert abs(share - 1 / len(options)) < 0.04


def test_size_and_key():
    assert SPACE.size == len(SPACE) == 18
    archs = {arch_key(SPACE.decode(i)) for i in np.ndindex(3, 2, 3, 1)}
    assert len(archs) == 18
    assert arch_key({"b": 1, "a": 2}) == arch_key({"a": 2, "b": 1})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"oop": "conv"}, "unknown decision 'oop': did you mean 'op'"),
        ({"op": "convv"}, "decision 'op' is 'convv': expected one of conv, shift, add"),
        ({"kernel": "3"}, "decision 'kernel' is '3'"),
        ({"kernel": [3]}, "decision 'kernel' is"),
    ],
)
def test_foreign_archs_are_named(change, match):
    arch = {**SPACE.sample(np.random.default_rng(0)), **change}
    with pytest.raises(ConfigError, match=match):
        SPACE.encode(arch)


def test_missing_decisions_bad_indices_and_empty_spaces():
    with pytest.raises(ConfigError, match="'kernel' is missing"):
        SPACE.check({"op": "conv"})
    with pytest.raises(ConfigError, match="got list"):
        SPACE.check([1])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="2 indices, expected one for each of 4"):
        SPACE.decode([0, 0])
    for index in (3, -1):
        with pytest.raises(ConfigError, match="for decision 'op', expected 0 to 2"):
            SPACE.decode([index, 0, 0, 0])
    for choices in ({}, {"a": ()}, {"a": (1, 1)}):
        with pytest.raises(ConfigError):
            Decisions(choices)


@given(spaces, seeds)
def test_archs_are_read_from_pairs_and_from_json(space, seed):
    """Choices that are numbers too."""
    arch = space.sample(np.random.default_rng(seed))
    assert parse_arch("; ".join(f"{name} = {choice}" for name, choice in arch.items()), space) == arch
    assert parse_arch(json.dumps(arch), space) == arch


ARCH = "op=conv;kernel=3;scale=0.5;fixed=x"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ARCH + "; op =conv", "names a decision twice"),
        (ARCH + ";plain", "expected name=choice pairs"),
        (ARCH.replace("3", "4"), "kernel"),
        (ARCH.replace("kernel", "kernels"), "kernels"),
        ("", "op"),
        ("{", "is not valid JSON"),
        ('{"op": "conv"}', "kernel"),
    ],
)
def test_text_that_is_no_arch_is_refused(text, said):
    assert parse_arch(ARCH, SPACE) == {"op": "conv", "kernel": 3, "scale": 0.5, "fixed": "x"}
    with pytest.raises(ConfigError, match=said):
        parse_arch(text, SPACE)


@pytest.mark.parametrize("index", [0, 1234, 15624])
def test_cells_are_read_by_index_and_by_notation(index):
    """As tables of NAS-Bench-201 name them; in a file of measurements too."""
    space = find("nasbench201")()
    assert parse_arch(f" {index} ", space) == parse_arch(to_string(cell(index)), space) == cell(index)


@pytest.mark.parametrize(
    ("text", "said"),
    [("15625", "networks 0 to 15624"), ("9" * 5000, "expected name=choice pairs"), ("|none~0|", "expected |op~0|")],
)
def test_names_of_no_cell_are_refused(text, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse_arch(text, find("nasbench201")())


def test_other_spaces_have_no_indices():
    with pytest.raises(ConfigError, match="expected name=choice pairs"):
        parse_arch("12", find("shiftadd")())
