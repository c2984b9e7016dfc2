"""Sanity of a table: ranges, units, one answer for equal networks, more operations of a kind not cheaper."""

from collections.abc import Iterator

import numpy as np

from hwbench_data.networks import extremes
from hwbench_data.store import ANY, SOURCES, Column, Ints, Key
from hwbench_data.table import Table

UNITS = ("ms", "mJ", "operations", "weights", "fraction")
_ROUNDING = 1e-9
_NOISE = 0.25
"""How much cheaper a heavier network, or dearer an equal one, may come out where figures are measured or predicted."""


def check_table(table: Table) -> list[str]:
    """What is wrong with a table, one line each; its checksums were verified when it was opened."""
    problems = [
        f"metric {name!r} has unit {metric.unit!r}, expected one of {', '.join(UNITS)}"
        for name, metric in table.card.metrics.items()
        if metric.unit not in UNITS
    ]
    count = table.card.networks.get("count")
    if count != len(table):
        problems.append(f"its card says that it has {count} networks, expected {len(table)}")
    heavier = table.networks.heavier
    for key in table.store.groups:
        column = table.store.column(key, len(table))
        assert column is not None
        problems += [f"{', '.join(key)}: {text}" for text in _column_problems(table, key, column, heavier)]
    return problems


def _column_problems(table: Table, key: Key, column: Column, heavier: Ints) -> Iterator[str]:
    if key[0] != ANY and key[0] not in table.card.devices:
        yield "its device is not on the card"
    if key[1] not in table.card.metrics:
        yield "its metric is not on the card"
        return
    known = np.isfinite(column.values)
    values = column.values[known]
    if (values < 0).any():
        yield f"network {int(np.flatnonzero(known)[values.argmin()])} has {values.min():g}, expected 0 or more"
    if table.card.metrics[key[1]].unit == "fraction" and (values > 1).any():
        yield f"network {int(np.flatnonzero(known)[values.argmax()])} has {values.max():g}, expected at most 1"
    same = table.networks.same
    low, high = extremes(same[known], values)
    noisy = np.zeros(len(low), bool)
    noisy[same[known & (column.sources != SOURCES.index("modelled"))]] = True
    for group in np.flatnonzero(high > low * (1 + _NOISE * noisy))[:1]:
        yield f"equal networks {np.flatnonzero(same == group)[:2].tolist()} have {low[group]:g} and {high[group]:g}"
    wrong = _cheaper_though_heavier(table, key, column, heavier)
    if len(wrong):
        i, j = wrong[0].tolist()
        yield f"{len(wrong)} networks with more operations are cheaper, such as {j} than {i}"


def _cheaper_though_heavier(table: Table, key: Key, column: Column, heavier: Ints) -> Ints:
    """Pairs of `heavier` whose second network is cheaper.

    Where a device has latency and energy their product is compared: designs are chosen by it, and either alone may
    fall when a heavier network chooses another design.
    """
    device, metric, *conditions = key
    if metric == "energy_mj" or table.card.metrics[metric].better == "higher" or not len(heavier):
        return heavier[:0]
    values = column.values
    energy = table.store.column((device, "energy_mj", *conditions), len(table)) if metric == "latency_ms" else None
    if energy is not None:
        values = values * energy.values
    certain = (column.sources[heavier] == SOURCES.index("modelled")).all(axis=1)
    slack = np.where(certain, _ROUNDING, _NOISE)
    return heavier[values[heavier[:, 1]] < values[heavier[:, 0]] * (1 - slack)]
