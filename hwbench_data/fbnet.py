"""FBNet networks composed from a table of blocks: costs add up block by block, as published look-up tables do."""

from collections.abc import Sequence

import numpy as np

from cosearch.errors import DataError
from hwbench_data.store import Floats
from hwbench_data.table import Table
from search_spaces.decisions import Arch
from search_spaces.networks import fbnet


def keys(space: fbnet.FbnetSpace, arch: Arch) -> list[str]:
    """The block keys of a network, stem and classifier included.

    Raises: ConfigError if the arch is not of the space.
    """
    space.check(arch)
    fixed = fbnet.fixed_keys(space)
    blocks = [fbnet.block_key(position, str(arch[position.name])) for position in space.positions]
    return [fixed["stem"], *blocks, fixed["head"], fixed["pool"], fixed["classifier"]]


def compose(
    table: Table, space: fbnet.FbnetSpace, archs: Sequence[Arch], device: str, metric: str = "latency_ms"
) -> Floats:
    """[n] sums over the blocks of FBNet networks.

    table: `fbnet_blocks`, or an imported look-up table. Raises: DataError naming a block that has no value.
    """
    rows = [keys(space, arch) for arch in archs]
    names = list(dict.fromkeys(key for row in rows for key in row))
    values = table.query_many(names, metric, device)[metric]
    lacking = [name for name, value in zip(names, values, strict=True) if np.isnan(value)]
    if lacking:
        raise DataError(f"table {table.name} has no {metric} of {lacking[0]} on {device}")
    value_of = dict(zip(names, values.tolist(), strict=True))
    return np.array([sum(value_of[key] for key in row) for row in rows])
