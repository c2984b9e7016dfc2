"""Sanity of a table: ranges, units, one answer for equal networks, more operations of a kind not cheaper.

What is modelled has to hold for every network. What was measured, predicted or published is noisy, and a device that
runs edges which lead nowhere takes time for them: there at most `MOST_OFF` of the networks may be off by more than
`NOISE`, and only networks are compared that are equal edge by edge. Real devices pass with room to spare, columns in
another order do not: of 13 devices of a public pool, 6.0% of equal networks and 2.0% of heavier ones are off at most;
with their networks shuffled 19% and 14% at least.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from hwbench_data.networks import extremes
from hwbench_data.store import ANY, SOURCES, Column, Floats, Ints, Key
from hwbench_data.table import Table

UNITS = ("ms", "mJ", "operations", "weights", "fraction")
NOISE = 0.25
"""How much cheaper a heavier network may come out, or dearer an equal one, where figures are not modelled."""
MOST_OFF = 0.1
_ROUNDING = 1e-9
_MODELLED = SOURCES.index("modelled")


def check_table(table: Table, remark: Callable[[str], None] = lambda text: None) -> list[str]:
    """What is wrong with a table, one line each; its checksums were verified when it was opened.

    remark: told how noisy figures are that were not modelled, where they are off by more than `NOISE`.
    """
    problems = [
        f"metric {name!r} has unit {metric.unit!r}, expected one of {', '.join(UNITS)}"
        for name, metric in table.card.metrics.items()
        if metric.unit not in UNITS
    ]
    count = table.card.networks.get("count")
    if count != len(table):
        problems.append(f"its card says that it has {count} networks, expected {len(table)}")
    problems += [f"network {name[:80]!r} is listed twice" for name in table.networks.repeated[:1]]
    for key in table.store.groups:
        column = table.store.column(key, len(table))
        assert column is not None
        where = ", ".join(key)
        problems += [f"{where}: {text}" for text in _range_problems(table, key, column)]
        if key[1] in table.card.metrics:
            problems += [f"{where}: {text}" for text in _strict_problems(table, key, column)]
            for share, text in _noise(table, key, column):
                if share > MOST_OFF:
                    problems.append(f"{where}: {text}: more than noise explains, are networks in another order?")
                elif share:
                    remark(f"{where}: {text}: noise")
    return problems


def _range_problems(table: Table, key: Key, column: Column) -> Iterator[str]:
    if key[0] != ANY and key[0] not in table.card.devices:
        yield "its device is not on the card"
    if key[1] not in table.card.metrics:
        yield "its metric is not on the card"
        return
    known = np.flatnonzero(np.isfinite(column.values))
    values = column.values[known]
    if (values < 0).any():
        yield f"network {known[values.argmin()]} has {values.min():g}, expected 0 or more"
    if table.card.metrics[key[1]].unit == "fraction" and (values > 1).any():
        yield f"network {known[values.argmax()]} has {values.max():g}, expected at most 1"


def _strict_problems(table: Table, key: Key, column: Column) -> Iterator[str]:
    """Equal networks with two answers, and heavier ones that are cheaper, where all of them are modelled.

    Where a device has latency and energy their product is compared: designs are chosen by it, and either alone may
    fall when a heavier network chooses another design.
    """
    modelled = np.isfinite(column.values) & (column.sources == _MODELLED)
    same = table.networks.same
    noisy = np.unique(same[np.isfinite(column.values) & ~modelled])
    here = modelled & ~np.isin(same, noisy)
    low, high = extremes(same[here], column.values[here])
    for group in np.flatnonzero(high > low)[:1]:
        yield f"equal networks {np.flatnonzero(same == group)[:2].tolist()} have {low[group]:g} and {high[group]:g}"
    if key[1] == "energy_mj" or table.card.metrics[key[1]].better == "higher":
        return
    values = column.values
    energy = table.store.column((key[0], "energy_mj", *key[2:]), len(table)) if key[1] == "latency_ms" else None
    if energy is not None:
        values = values * energy.values
    wrong = _cheaper(values, _pairs(table, modelled), _ROUNDING)
    if len(wrong):
        i, j = wrong[0].tolist()
        yield f"{len(wrong)} networks with more operations are cheaper, such as {j} than {i}"


def _noise(table: Table, key: Key, column: Column) -> Iterator[tuple[float, str]]:
    """The share of figures that were not modelled and are off by more than `NOISE`, and how they are.

    Equal networks are compared with their median, heavier ones with the lighter.
    """
    known, values, networks = np.isfinite(column.values), column.values, table.networks
    here = np.flatnonzero(known & (column.sources != _MODELLED) & (values > 0))
    at, off = _off_median(values[here], networks.alike[here])
    if len(at):
        far, most = int((off > 1 + NOISE).sum()), int(off.argmax())
        yield (
            far / len(at),
            (
                f"{far:,} of {len(at):,} equal networks are more than {NOISE:.0%} off their median, "
                f"{here[at[most]]} the most, by a factor of {off[most]:.3g}"
            ),
        )
    if table.card.metrics[key[1]].better == "higher":
        return
    pairs = _pairs(table, known)
    pairs = pairs[(column.sources[pairs] != _MODELLED).any(axis=1)]
    wrong = _cheaper(values, pairs, NOISE)
    if len(wrong):
        i, j = wrong[0].tolist()
        yield (
            len(wrong) / len(pairs),
            (
                f"{len(wrong):,} of {len(pairs):,} networks with more operations are cheaper by more than {NOISE:.0%}, "
                f"such as {j} than {i}"
            ),
        )


def _off_median(values: Floats, groups: Ints) -> tuple[Ints, Floats]:
    """Places of values in groups of more than one, and by which factor each is off its group's median."""
    order = np.lexsort((values, groups))
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    ordered = values[order]
    median = np.repeat((ordered[starts + (sizes - 1) // 2] + ordered[starts + sizes // 2]) / 2, sizes)
    several = np.repeat(sizes > 1, sizes)
    return order[several], np.maximum(ordered / median, median / ordered)[several]


def _pairs(table: Table, among: npt.NDArray[np.bool_]) -> Ints:
    """Those of `heavier` whose networks both are `among` some."""
    heavier = table.networks.heavier
    return heavier[among[heavier].all(axis=1)]


def _cheaper(values: Floats, pairs: Ints, slack: float) -> Ints:
    """Pairs whose second network is cheaper than the first by more than a part."""
    return pairs[values[pairs[:, 1]] < values[pairs[:, 0]] * (1 - slack)]
