"""Every network of a list on every accelerator of a list: matrix products, streamed and reduced block by block.

A `Grid` is the cost tensor laid out densely for a list of accelerators under one policy and residency: latency and
energy are [layer, accelerator]. Costs of many networks are ``counts @ grid``; gradients flow through `Grid.expected`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from cosearch.errors import ConfigError, HardwareError, nearest
from cosearch.hardware.combine import Options, undominated
from cosearch.hardware.pricing import RESIDENCIES, Residency
from cosearch.hardware.tables import Floats, Ints
from cosearch.hardware.tensor import CostTensor

IMPOSSIBLE = 1e30
"""Stands for an infinite cost in matrix products, where infinity times zero would be NaN."""
OBJECTIVES: tuple[str, ...] = ("latency_ms", "energy_mj", "edp")
_BLOCK_BYTES = 1 << 22
_RESULT_BYTES = 1 << 31


@dataclass(frozen=True, eq=False)
class Grid:
    """latency, energy: [layer, accelerator] float64, ms and mJ, `IMPOSSIBLE` where a layer cannot run there."""

    latency: Tensor
    energy: Tensor

    def networks(self, counts: ArrayLike) -> tuple[Floats, Floats]:
        """Latency and energy of every network on every accelerator, [network, accelerator]; infinite if impossible.

        Raises: HardwareError if the result would take more than 2 GiB: use `best` or `front`, which stream.
        """
        table = self._counts(counts)
        size = 2 * 8 * len(table) * self.latency.shape[1]
        if size > _RESULT_BYTES:
            raise HardwareError(
                f"{len(table)} networks x {self.latency.shape[1]} accelerators take {size / 2**30:.1f} GiB, "
                "more than 2: use best() or front(), which stream"
            )
        dense = [(table @ part).numpy() for part in (self.latency, self.energy)]
        return _finite(dense[0]), _finite(dense[1])

    def blocks(self, counts: ArrayLike) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
        """(networks, accelerators, latency, energy) block by block; the tensors are overwritten by the next block.

        Blocks are as large as a core's cache, so that what reduces them finds them there.
        """
        table = self._counts(counts)
        wide = min(self.latency.shape[1], 1024)
        high = max(1, min(len(table), _BLOCK_BYTES // (2 * 8 * wide)))
        rows = [slice(i, min(i + high, len(table))) for i in range(0, len(table), high)]
        for start in range(0, self.latency.shape[1], wide):
            columns = slice(start, min(start + wide, self.latency.shape[1]))
            both = torch.cat([self.latency[:, columns], self.energy[:, columns]], dim=1)
            out = torch.empty(high, both.shape[1], dtype=both.dtype)
            half = both.shape[1] // 2
            for block in rows:
                part = out[: block.stop - block.start]
                torch.mm(table[block], both, out=part)
                yield block, columns, part[:, :half], part[:, half:]

    def best(self, counts: ArrayLike, objective: str = "edp") -> tuple[Ints, Floats]:
        """The best accelerator of every network and its value: index and value, [network]; streamed.

        Raises: ConfigError for an objective that does not exist.
        """
        if objective not in OBJECTIVES:
            raise ConfigError(f"unknown objective {objective!r}: {nearest(objective, OBJECTIVES)}")
        n = len(self._counts(counts))
        index = torch.zeros(n, dtype=torch.int64)
        value = torch.full((n,), torch.inf, dtype=torch.float64)
        for rows, columns, latency, energy in self.blocks(counts):
            cost = {"latency_ms": latency, "energy_mj": energy}.get(objective)
            if cost is None:
                cost = latency * energy
            least = cost.amin(dim=1)
            # the position is slower to find than the value, and few blocks improve a network
            better = torch.nonzero(least < value[rows]).ravel()
            if len(better):
                value[rows.start + better] = least[better]
                index[rows.start + better] = cost[better].argmin(dim=1) + columns.start
        return index.numpy(), _finite(value.numpy())

    def front(self, counts: ArrayLike) -> tuple[Ints, Ints, Floats, Floats]:
        """The joint Pareto front of latency and energy over all pairs: network, accelerator, latency_ms, energy_mj.

        Streamed: a block's pair is looked at only if no pair found so far is at most as high in both.
        """
        found = Options(np.empty(0), np.empty(0), np.empty((0, 1), np.int64), np.empty((0, 2), np.int64))
        limit = torch.full((1,), torch.inf, dtype=torch.float64)
        edges = torch.zeros(0, dtype=torch.float64)
        for rows, columns, latency, energy in self.blocks(counts):
            # cheap test first: below the front's energy at the largest latency that the front covers
            if len(found):
                ceiling = limit[torch.searchsorted(edges, latency.amin(dim=1), right=True)]
                hopeful = torch.nonzero(energy.amin(dim=1) < ceiling).ravel()
            else:
                hopeful = torch.arange(latency.shape[0])
            if not len(hopeful):
                continue
            some_ms, some_mj = latency[hopeful], energy[hopeful]
            keep = some_mj < limit[torch.searchsorted(edges, some_ms.contiguous(), right=True)]
            i, j = torch.nonzero(keep & (some_ms < IMPOSSIBLE / 2)).T
            if not len(i):
                continue
            chosen = torch.stack([hopeful[i] + rows.start, j + columns.start], 1).numpy()
            new = Options(some_ms[i, j].numpy(), some_mj[i, j].numpy(), np.zeros((len(i), 1), np.int64), chosen)
            both = Options(
                *(np.concatenate([getattr(found, name), getattr(new, name)]) for name in new.__dataclass_fields__)
            )
            found = undominated(both, resources=False)
            edges = torch.from_numpy(found.latency.copy())
            limit = torch.cat([torch.full((1,), torch.inf, dtype=torch.float64), torch.from_numpy(found.energy.copy())])
        return found.chosen[:, 0], found.chosen[:, 1], found.latency, found.energy

    def expected(self, network: Tensor, accelerator: Tensor) -> tuple[Tensor, Tensor]:
        """Expected latency_ms and energy_mj of soft choices, differentiable in both: ``sum_l sum_a p_l q_a T[l, a]``.

        network: expected counts per layer, [..., layer]; accelerator: probabilities, [..., accelerator].
        """
        latency = (network @ self.latency * accelerator).sum(-1)
        return latency, (network @ self.energy * accelerator).sum(-1)

    def _counts(self, counts: ArrayLike) -> Tensor:
        table = torch.as_tensor(np.asarray(counts), dtype=torch.float64)
        if table.ndim != 2 or table.shape[1] != self.latency.shape[0]:
            raise HardwareError(
                f"counts of shape {tuple(table.shape)}, expected [network, {self.latency.shape[0]} layers]"
            )
        return table


def _finite(values: Floats) -> Floats:
    return np.where(values < IMPOSSIBLE / 2, values, np.inf)


def grid(
    tensor: CostTensor,
    accelerators: ArrayLike | None = None,
    *,
    policy: float = 1.0,
    residency: Residency | None = None,
) -> Grid:
    """A dense grid over a list of accelerators.

    accelerators: [n, 1 + kinds] index of the shared configuration and of each kind's engine (-1: none); by default
        every engine under every shared configuration, which needs a space with one kind of engines.
    policy: one of the tensor's; residency: what stays on chip, for all networks alike; nothing by default.

    Raises: HardwareError for a policy that the tensor does not have, or a list that is needed and not given.
    """
    if policy not in tensor.policies:
        raise HardwareError(f"policy {policy!r} is not among the tensor's {tensor.policies}")
    case = RESIDENCIES.index(residency or Residency(weights=False, activations=False))
    if accelerators is None:
        if len(tensor.kinds) != 1:
            raise HardwareError(f"a space with engines for {', '.join(tensor.kinds)} needs a list of accelerators")
        engines = len(tensor.engines[tensor.kinds[0]])
        table = np.stack(np.divmod(np.arange(len(tensor.shared) * engines), engines), axis=1)
    else:
        table = np.asarray(accelerators, np.int64)
    columns = tensor.tables[case].of_shared[table[:, 0]]
    parts = []
    for values in (tensor.latency, tensor.energy):
        dense = np.full((len(tensor.layers), len(table)), IMPOSSIBLE)
        for at, kind in enumerate(tensor.kinds):
            has = np.flatnonzero(table[:, 1 + at] >= 0)
            chosen = values[kind][case][:, columns[has], tensor.policies.index(policy), table[has, 1 + at]]
            dense[np.ix_(tensor.rows[kind], has)] = np.where(np.isfinite(chosen), chosen, IMPOSSIBLE)
        dense[tensor.vector_rows] = values["vector"][case][:, columns, 0, 0]
        parts.append(torch.from_numpy(dense))
    return Grid(*parts)


def within_budget(tensor: CostTensor, accelerators: ArrayLike) -> Ints:
    """The rows of a list of accelerators (see `grid`) that fit the space's budget and reach their clock."""
    table = np.asarray(accelerators, np.int64)
    use = tensor.shared.resources[table[:, 0]].copy()
    runs = np.ones(len(table), bool)
    for at, kind in enumerate(tensor.kinds):
        has = table[:, 1 + at] >= 0
        use[has] += tensor.engines[kind].resources[table[has, 1 + at]]
        fmax = tensor.engines[kind].fmax_mhz[table[has, 1 + at]]
        runs[has] &= fmax >= tensor.shared.clock_mhz[table[has, 0]]
    return np.flatnonzero(runs & (use <= np.array(tensor.space.budget.counts)).all(axis=1))


def sample_accelerators(tensor: CostTensor, n: int, seed: int) -> Ints:
    """n random accelerators within the budget with an engine of every kind, [n, 1 + kinds] as `grid` takes them."""
    rng = np.random.default_rng(seed)
    sizes = [len(tensor.shared), *(len(tensor.engines[kind]) for kind in tensor.kinds)]
    found = np.empty((0, len(sizes)), np.int64)
    for _ in range(1000):
        drawn = np.stack([rng.integers(size, size=n) for size in sizes], axis=1)
        found = np.concatenate([found, drawn[within_budget(tensor, drawn)]])[:n]
        if len(found) == n:
            return found
    raise HardwareError(f"space {tensor.space.name!r}: {len(found)} of {n} random accelerators fit the budget")
