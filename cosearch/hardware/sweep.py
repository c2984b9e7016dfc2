"""Every network of a list on every accelerator of a list: matrix products, streamed and reduced block by block.

A `Grid` is the cost tensor laid out densely for a list of accelerators under one policy and residency: latency and
energy are [layer, accelerator]. Costs of many networks are ``counts @ grid``; gradients flow through `Grid.expected`.

Answers are those of all pairs' float64 costs as `sweepkernel` defines them, bit for bit. They come fast because a
single-precision matrix product bounds every cost from below, and only what its bound does not rule out is summed.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from cosearch.errors import ConfigError, HardwareError, nearest
from cosearch.hardware.combine import undominated_rows
from cosearch.hardware.pricing import RESIDENCIES, Residency
from cosearch.hardware.sweepkernel import IMPOSSIBLE, estimate_table, exact_costs, extend_fronts, improve_best
from cosearch.hardware.tables import Floats, Ints

if TYPE_CHECKING:
    from cosearch.hardware.tensor import CostTensor

_T = TypeVar("_T")
_N = TypeVar("_N", np.float64, np.int64)
OBJECTIVES: tuple[str, ...] = ("latency_ms", "energy_mj", "edp")
_ROWS, _COLUMNS = 1024, 1024  # a block of estimates stays in the last-level cache
_ROOM, _JOINT_ROOM = 32, 4096
_RESULT_BYTES = 1 << 31
_MAX_COUNT = 1 << 24  # larger whole numbers have no exact single-precision form


class Pairs(NamedTuple):
    """Pairs of a network and an accelerator, and what they cost: arrays of one length."""

    network: Ints
    accelerator: Ints
    latency_ms: Floats
    energy_mj: Floats

    def take(self, index: Ints) -> "Pairs":
        return Pairs(self.network[index], self.accelerator[index], self.latency_ms[index], self.energy_mj[index])


@dataclass(frozen=True, eq=False)
class Grid:
    """latency, energy: [layer, accelerator] float64, ms and mJ, `IMPOSSIBLE` where a layer cannot run there."""

    latency: Tensor
    energy: Tensor

    def networks(self, counts: ArrayLike) -> tuple[Floats, Floats]:
        """Latency and energy of every network on every accelerator, [network, accelerator]; infinite if impossible.

        Raises: HardwareError if the result would take more than 2 GiB: use `best`, `fronts` or `front`, which stream.
        """
        table = self._counts(counts)
        shape = len(table), self.latency.shape[1]
        if 2 * 8 * shape[0] * shape[1] > _RESULT_BYTES:
            raise HardwareError(
                f"{shape[0]} networks x {shape[1]} accelerators take {16 * shape[0] * shape[1] / 2**30:.1f} GiB, "
                "more than 2: use best(), fronts() or front(), which stream"
            )
        latency, energy = np.empty(shape), np.empty(shape)

        def fill(rows: slice) -> None:
            for part, into in zip(self._tables, (latency, energy), strict=True):
                exact_costs(table, part, rows.start, rows.stop, into)

        _in_chunks(fill, len(table))
        return _finite(latency), _finite(energy)

    def best(self, counts: ArrayLike, objective: str = "edp") -> tuple[Ints, Floats]:
        """The best accelerator of every network and its value: index and value, [network]; streamed.

        Of equal accelerators the first is taken; -1 and infinite where a network runs on none. For an optimum under
        limits look along `fronts`.

        Raises: ConfigError for an objective that does not exist.
        """
        if objective not in OBJECTIVES:
            raise ConfigError(f"unknown objective {objective!r}: {nearest(objective, OBJECTIVES)}")
        table, code = self._counts(counts), OBJECTIVES.index(objective)
        index, value = np.full(len(table), -1, np.int64), np.full(len(table), np.inf)

        def improve(rows: slice) -> None:
            for first, latency, energy in self._blocks(table[rows]):
                known = latency, energy, self._factors, table[rows], *self._tables, first
                improve_best(*known, code, value[rows], index[rows])

        _in_chunks(improve, len(table))
        value = _finite(value)
        return np.where(np.isfinite(value), index, -1), value

    def fronts(self, counts: ArrayLike) -> Pairs:
        """Every network's exact front of latency and energy over the accelerators; by network, then rising latency.

        Any objective that rises with both has its optimum there, also under limits of either. Of equal points the
        first accelerator's is taken; a network that runs nowhere has none.
        """
        table = self._counts(counts)
        distinct, which = np.unique(table, axis=0, return_inverse=True)
        which = which.ravel()

        def grow(rows: slice) -> Pairs:
            found = self._grow(distinct[rows], None, alike=False)
            return found._replace(network=found.network + rows.start)

        pairs = _concatenate(_in_chunks(grow, len(distinct)))
        size = np.bincount(pairs.network, minlength=len(distinct))
        start, times = (np.cumsum(size) - size)[which], size[which]
        within = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
        network = np.repeat(np.arange(len(table)), times)
        return pairs.take(np.repeat(start, times) + within)._replace(network=network)

    def front(self, counts: ArrayLike, error: ArrayLike | None = None) -> Pairs:
        """The exact joint Pareto front over all pairs of a network and an accelerator.

        error: [network], smaller is better (1 - accuracy): then the front of error, latency and energy, by rising
        error, then latency; without it, of latency and energy. Of equal pairs the first network's, then the first
        accelerator's, is taken.

        Raises: HardwareError for errors that are not one number per network.
        """
        table = self._counts(counts)
        errors = np.zeros(len(table)) if error is None else np.asarray(error, float)
        if errors.shape != (len(table),) or np.isnan(errors).any():
            raise HardwareError(f"error of shape {errors.shape}, expected {len(table)} numbers: one per network")
        order = np.argsort(errors, kind="stable")
        # of networks that cost the same everywhere only the first of least error can be on the front
        order = order[np.sort(np.unique(table[order], axis=0, return_index=True)[1])]
        alike = bool(len(order)) and bool(errors[order[0]] == errors[order[-1]])
        front, lock = _concatenate([]), Lock()

        def grow(rows: slice) -> None:
            nonlocal front
            known = _unbeaten(front, np.zeros(len(front.network)))  # chunks start in order: all of lower error
            found = self._grow(table[order[rows]], known, alike)
            with lock:
                both = _concatenate([front, found._replace(network=order[rows][found.network])])
                front = _unbeaten(both, errors[both.network])

        _in_chunks(grow, len(order))
        return front

    def _grow(self, table: Floats, known: Pairs | None, alike: bool) -> Pairs:
        """The fronts of some networks in their order; network: the row.

        known: the front of networks before them; what it, or a row before, strictly beats may be left out; None: every
        network's front is whole. alike: any row may rule out any other, not only those after it.
        """
        ms, mj = np.empty((len(table), _ROOM)), np.empty((len(table), _ROOM))
        at, size = np.empty((len(table), _ROOM), np.int64), np.zeros(len(table), np.int64)
        joint = _Joint(known)
        for first, latency, energy in self._blocks(table):
            if not alike:
                joint = _Joint(known)
            block = latency, energy, self._factors, table, *self._tables, first
            row = 0
            while row >= 0:
                row = extend_fronts(*block, ms, mj, at, size, joint.ms, joint.mj, joint.size, row)
                if row >= 0:
                    ms, mj, at = _roomier(ms), _roomier(mj), _roomier(at)
        row_of, point = np.nonzero(np.arange(ms.shape[1]) < size[:, None])
        return Pairs(row_of, at[row_of, point], ms[row_of, point], mj[row_of, point])

    def _blocks(self, table: Floats) -> Iterator[tuple[int, NDArray[Any], NDArray[Any]]]:
        """Block by block of accelerators: the first one, and scaled estimates of latency and energy.

        Estimates [network, accelerator] times `_factors` are lower bounds; the next block overwrites them.
        """
        width = self.latency.shape[1]
        # as in `estimate_table`, what is tiny is left out
        times = np.where(table < 2.0**-20, 0.0, table).astype(self._precision)
        out = np.empty(len(table) * 2 * min(_COLUMNS, width), self._precision)
        for columns in _slices(width, _COLUMNS):
            size = columns.stop - columns.start
            both = np.empty((len(self.latency), 2 * size), self._precision)
            for part, power, into in zip(self._tables, self._powers, (both[:, :size], both[:, size:]), strict=True):
                estimate_table(part, columns.start, columns.stop, 1 / power, into)
            estimates = out[: len(table) * 2 * size].reshape(len(table), 2 * size)
            torch.mm(torch.from_numpy(times), torch.from_numpy(both), out=torch.from_numpy(estimates))
            yield columns.start, estimates[:, :size], estimates[:, size:]

    @cached_property
    def _tables(self) -> tuple[Floats, Floats]:
        return self.latency.detach().numpy(), self.energy.detach().numpy()

    @property
    def _precision(self) -> type[np.floating[Any]]:
        """Single, unless torch may compute single-precision products with less."""
        return np.float32 if torch.get_float32_matmul_precision() == "highest" else np.float64

    @cached_property
    def _powers(self) -> tuple[float, ...]:
        """A power of two near the largest possible cost of either table: estimates neither over- nor underflow."""
        peaks = (np.max(part, where=part < IMPOSSIBLE / 2, initial=0.0) for part in self._tables)
        return tuple(2.0 ** np.ceil(np.log2(peak)) if peak > 0 else 1.0 for peak in peaks)

    @property
    def _factors(self) -> Floats:
        """What makes a scaled estimate a bound below the cost: of n terms above zero every rounding is relative.

        Each term passes at most n + 1 roundings (the table's, the product's, n - 1 sums) in the estimate and n in the
        cost; the bound leaves room for a few more.
        """
        unit = float(np.finfo(self._precision).eps) / 2
        slack = (len(self.latency) + 8) * (unit + 2.0**-53)
        return np.array(self._powers) * (1 - slack)

    def expected(self, network: Tensor, accelerator: Tensor) -> tuple[Tensor, Tensor]:
        """Expected latency_ms and energy_mj of soft choices, differentiable in both: ``sum_l sum_a p_l q_a T[l, a]``.

        network: expected counts per layer, [..., layer]; accelerator: probabilities, [..., accelerator].
        """
        latency = (network @ self.latency * accelerator).sum(-1)
        return latency, (network @ self.energy * accelerator).sum(-1)

    def _counts(self, counts: ArrayLike) -> Floats:
        table = np.ascontiguousarray(counts, np.float64)
        if table.ndim != 2 or table.shape[1] != self.latency.shape[0]:
            raise HardwareError(
                f"counts of shape {tuple(table.shape)}, expected [network, {self.latency.shape[0]} layers]"
            )
        if table.size and not (table.min() >= 0 and table.max() < _MAX_COUNT):
            raise HardwareError(
                f"counts from {table.min():g} to {table.max():g}, expected numbers from 0 to {_MAX_COUNT - 1}"
            )
        return table


class _Joint:
    """A front as `extend_fronts` takes it, with room for more; none has no room."""

    def __init__(self, front: Pairs | None) -> None:
        room = 0 if front is None else _JOINT_ROOM
        self.ms, self.mj, self.size = np.empty(room), np.empty(room), np.zeros(1, np.int64)
        if front is not None:
            self.size[0] = min(len(front.network), room)
            self.ms[: self.size[0]] = front.latency_ms[: self.size[0]]
            self.mj[: self.size[0]] = front.energy_mj[: self.size[0]]


def _roomier(values: NDArray[_N]) -> NDArray[_N]:
    return np.concatenate([values, np.empty_like(values)], axis=1)


def _slices(size: int, step: int) -> list[slice]:
    return [slice(at, min(at + step, size)) for at in range(0, size, step)]


def _in_chunks(work: Callable[[slice], _T], size: int) -> list[_T]:
    """Work on rows, chunk by chunk, as many at once as torch has threads; each has one thread to itself.

    Threads that share every product would wait for each other at the end of each block.
    """
    threads = torch.get_num_threads()
    chunks = _slices(size, max(1, min(_ROWS, -(-size // threads))))
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, chunks))
    finally:
        torch.set_num_threads(threads)  # threads that start later take over what was set last


def _concatenate(parts: Sequence[Pairs]) -> Pairs:
    whole = [Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0)), *parts]
    return Pairs(
        np.concatenate([part.network for part in whole]),
        np.concatenate([part.accelerator for part in whole]),
        np.concatenate([part.latency_ms for part in whole]),
        np.concatenate([part.energy_mj for part in whole]),
    )


def _unbeaten(pairs: Pairs, error: Floats) -> Pairs:
    """Pairs that none beats in error, latency and energy; of equal ones the first network's and accelerator's."""
    order = np.lexsort((pairs.accelerator, pairs.network))
    pairs = pairs.take(order)
    return pairs.take(undominated_rows(np.stack([error[order], pairs.latency_ms, pairs.energy_mj], axis=1)))


def _finite(values: Floats) -> Floats:
    """The same array, infinite where a cost is impossible."""
    values[values >= IMPOSSIBLE / 2] = np.inf
    return values


def grid(
    tensor: "CostTensor",
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


def within_budget(tensor: "CostTensor", accelerators: ArrayLike) -> Ints:
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


def sample_accelerators(tensor: "CostTensor", n: int, seed: int) -> Ints:
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
