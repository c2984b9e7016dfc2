"""Random forest and gradient boosting. scikit-learn grows the trees; they are kept and run as plain arrays."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit, prange

from cosearch.errors import DataError
from predictors.base import Arrays, Floats, Predictor

TREES, ROUNDS, RATE, DEPTH, MEMBERS = 200, 150, 0.1, 4, 5
BLOCK = 256
FEW_NODES = 63
"""Trees of at most so many are run by asking all of their nodes, larger ones by walking down."""


class _Trees(Predictor):
    """Trees [t] of nodes in one table, members [m] that each sum theirs; the members' spread is the uncertainty.

    monotone: per column 1 if the target may only rise with it, -1 if only fall, 0 if free; None is all free.
    """

    def __init__(self, log: bool = False, seed: int = 0, monotone: Sequence[int] | None = None) -> None:
        super().__init__(log, seed)
        self.monotone = [int(m) for m in monotone] if monotone is not None else None

    @property
    def options(self) -> dict[str, Any]:
        return {**super().options, "monotone": self.monotone}

    def _constraint(self, d: int) -> list[int] | None:
        if self.monotone is not None and len(self.monotone) != d:
            raise DataError(f"{len(self.monotone)} monotone constraints for {d} features: expected one for each")
        return self.monotone

    def _keep(self, members: list[list[Any]], scale: float, noise: float) -> None:
        """members: fitted scikit-learn trees; noise: standard deviation of what even the mean does not explain."""
        trees = [tree.tree_ for member in members for tree in member]
        starts = np.cumsum([0, *(t.node_count for t in trees)])
        leaf = [t.children_left < 0 for t in trees]
        offsets = list(zip(trees, starts[:-1], leaf, strict=True))
        self._left = np.concatenate([np.where(x, -1, t.children_left + s) for t, s, x in offsets]).astype(np.int32)
        self._right = np.concatenate([np.where(x, -1, t.children_right + s) for t, s, x in offsets]).astype(np.int32)
        self._feature = np.concatenate([np.maximum(t.feature, 0) for t in trees]).astype(np.int32)
        self._threshold = np.concatenate([t.threshold for t in trees])
        self._value = scale * np.concatenate([t.value.reshape(-1) for t in trees])
        self._roots = starts[:-1].astype(np.int32)
        self._member = np.repeat(np.arange(len(members)), [len(m) for m in members]).astype(np.int32)
        self._noise = np.array([noise])
        self._grown = _by_level(self._left, self._right, self._feature, self._threshold, self._value, self._roots)

    def _members(self, X: Floats) -> Floats:
        """[m, members] what each member says."""
        members, grown = int(self._member[-1]) + 1, self._grown
        single = X.astype(np.float32)  # on which scikit-learn grew the trees, and compares
        ends = np.append(grown.roots[1:], np.int32(len(grown.child)))
        most = int((ends - grown.roots).max())
        if most > FEW_NODES:
            return _descend(single, *grown, self._member, members)
        blocks = -(-len(X) // BLOCK)
        padded = np.zeros((blocks * BLOCK, X.shape[1]), dtype=np.float32)
        padded[: len(X)] = single
        columns = np.ascontiguousarray(padded.reshape(blocks, BLOCK, -1).transpose(0, 2, 1))
        said = _ask(columns, *grown[:-1], ends, most, self._member, members)
        return np.asarray(said.transpose(0, 2, 1).reshape(-1, members)[: len(X)])

    def _predict(self, X: Floats) -> tuple[Floats, Floats]:
        each = self._members(X)
        return each.mean(1), np.sqrt(each.var(1) + self._noise[0] ** 2)

    def _arrays(self) -> Arrays:
        return {key: getattr(self, f"_{key}") for key in _TABLE}

    def _restore(self, arrays: Arrays) -> None:
        _check_trees(arrays, len(self._centre))
        for key in _TABLE:
            setattr(self, f"_{key}", arrays[key])
        self._grown = _by_level(self._left, self._right, self._feature, self._threshold, self._value, self._roots)


def _check_trees(arrays: Arrays, columns: int) -> None:
    """Trees of a file are walked without checks, so that they are checked first: children stand after their parents.

    Raises: ValueError.
    """
    kinds = {"left": "i4", "right": "i4", "feature": "i4", "threshold": "f8", "value": "f8", "roots": "i4",
             "member": "i4", "noise": "f8"}  # fmt: skip
    if any(arrays[key].dtype != np.dtype(kind) or arrays[key].ndim != 1 for key, kind in kinds.items()):
        raise ValueError("its trees are arrays of other types")
    left, right, feature, roots, member = (arrays[key] for key in ("left", "right", "feature", "roots", "member"))
    nodes = len(left)
    if {len(arrays[key]) for key in ("right", "feature", "threshold", "value")} != {nodes} or len(arrays["noise"]) != 1:
        raise ValueError("its trees are arrays of several lengths")
    inner = np.flatnonzero(left >= 0)
    after = all(((child[inner] > inner) & (child[inner] < nodes)).all() for child in (left, right))
    if not after or not _within(feature, columns) or not _within(roots, nodes):
        raise ValueError("its trees lead out of their arrays")
    reached = np.concatenate([left[inner], right[inner], roots])
    # level by level a node of two parents would be visited twice, and so on
    if len(np.unique(reached)) != len(reached):
        raise ValueError("its trees share nodes")
    if not len(roots) or len(member) != len(roots) or not _within(member, int(member[-1]) + 1):
        raise ValueError("its trees belong to no members")
    if int(member[-1]) >= len(roots):
        raise ValueError("its trees have more members than there are trees")


def _within(numbers: npt.NDArray[Any], end: int) -> bool:
    return bool(((numbers >= 0) & (numbers < end)).all())


_TABLE = ("left", "right", "feature", "threshold", "value", "roots", "member", "noise")


class RandomForest(_Trees):
    """200 trees on bootstraps, a third of the columns per split."""

    name = "forest"
    minimum = 5

    def _fit(self, X: Floats, y: Floats) -> None:
        from sklearn.ensemble import RandomForestRegressor

        forest = RandomForestRegressor(
            TREES,
            max_features=1 / 3,
            oob_score=True,
            bootstrap=True,
            random_state=self.seed,
            monotonic_cst=self._constraint(X.shape[1]),
        ).fit(X, y)
        residual = float(np.sqrt(np.mean((forest.oob_prediction_ - y) ** 2)))
        self._keep([[tree] for tree in forest.estimators_], 1.0, 0.5 * residual)


class Boosting(_Trees):
    """Squared loss, 150 rounds of depth-4 trees at rate 0.1 on halves of the rows; five such members."""

    name = "boosting"
    minimum = 5

    def _fit(self, X: Floats, y: Floats) -> None:
        from sklearn.tree import DecisionTreeRegressor

        rng = np.random.default_rng(self.seed)
        members: list[list[Any]] = []
        out = np.zeros(len(y))
        fold = rng.permutation(len(y)) % MEMBERS
        for member in range(MEMBERS):
            # each member leaves a fifth out, on which the noise is measured
            rows, rest = np.flatnonzero(fold != member), np.flatnonzero(fold == member)
            residual, trees = y.copy(), []
            for _ in range(ROUNDS):
                part = rng.choice(rows, max(2, int(0.7 * len(rows))), replace=False)
                tree = DecisionTreeRegressor(
                    max_depth=DEPTH,
                    min_samples_leaf=min(3, max(1, len(rows) // 10)),
                    max_features=0.5,
                    random_state=int(rng.integers(2**31)),
                    monotonic_cst=self._constraint(X.shape[1]),
                ).fit(X[part], residual[part])
                residual -= RATE * tree.predict(X)
                trees.append(tree)
            out[rest] = residual[rest]
            members.append(trees)
        self._keep(members, RATE, float(np.sqrt(np.mean(out**2))))


class _Grown(NamedTuple):
    """Nodes tree by tree and level by level, the right child after the left one: a row is at `child` plus whether it is
    over the threshold. Leaves lead to themselves. feature, threshold, child, value: [nodes]; roots, depth: [trees]."""

    feature: npt.NDArray[np.int32]
    threshold: npt.NDArray[np.float32]
    child: npt.NDArray[np.int32]
    value: Floats
    roots: npt.NDArray[np.int32]
    depth: npt.NDArray[np.int32]


def _by_level(
    left: npt.NDArray[np.int32],
    right: npt.NDArray[np.int32],
    feature: npt.NDArray[np.int32],
    threshold: Floats,
    value: Floats,
    roots: npt.NDArray[np.int32],
) -> _Grown:
    """The same trees in the order that `_descend` reads. left, right: [nodes], -1 in leaves."""
    order, depth = [], np.zeros(len(roots), dtype=np.int32)
    for tree, root in enumerate(roots.tolist()):
        level = np.array([root])
        while True:
            order.append(level)
            inner = level[left[level] >= 0]
            if not len(inner):
                break
            level = np.column_stack([left[inner], right[inner]]).ravel()
            depth[tree] += 1
    old = np.concatenate(order)
    new = np.empty(len(left), dtype=np.int32)
    new[old] = np.arange(len(old))
    leaf = left[old] < 0
    # of single precision the largest that is not above: rows of single precision compare with it as with the other
    single = threshold[old].astype(np.float32)
    single = np.where(single > threshold[old], np.nextafter(single, np.float32(-np.inf)), single)
    return _Grown(
        feature[old],
        np.where(leaf, np.float32(np.inf), single),
        np.where(leaf, new[old], new[left[old]]),
        value[old],
        new[roots],
        depth,
    )


@njit(cache=True, parallel=True)
def _descend(
    X: npt.NDArray[np.float32],
    feature: npt.NDArray[np.int32],
    threshold: npt.NDArray[np.float32],
    child: npt.NDArray[np.int32],
    value: Floats,
    roots: npt.NDArray[np.int32],
    depth: npt.NDArray[np.int32],
    member: npt.NDArray[np.int32],
    members: int,
) -> Floats:  # pragma: no cover
    """[rows, members] sum over each member's trees of the leaf that a row reaches.

    A tree stays in the cache for a block of rows, which go down it level by level: no step waits for another row's, and
    none is a branch to be guessed.
    """
    out = np.zeros((len(X), members))
    for block in prange((len(X) + BLOCK - 1) // BLOCK):
        first = block * BLOCK
        rows = X[first : first + BLOCK]
        at = np.empty(len(rows), np.int32)
        for t in range(len(roots)):
            at[:] = roots[t]
            for _ in range(depth[t]):
                for i in range(len(rows)):
                    node = at[i]
                    at[i] = child[node] + np.int32(rows[i, feature[node]] > threshold[node])
            for i in range(len(rows)):
                out[first + i, member[t]] += value[at[i]]
    return out


@njit(cache=True, parallel=True, error_model="numpy")
def _ask(
    columns: npt.NDArray[np.float32],
    feature: npt.NDArray[np.int32],
    threshold: npt.NDArray[np.float32],
    child: npt.NDArray[np.int32],
    value: Floats,
    roots: npt.NDArray[np.int32],
    ends: npt.NDArray[np.int32],
    most: int,
    member: npt.NDArray[np.int32],
    members: int,
) -> Floats:  # pragma: no cover
    """[blocks, members, BLOCK] what `_descend` gives, of columns [blocks, d, BLOCK]. ends: [trees] after the last node.

    From the leaves up each node takes over what one of its children says, for a block of rows at once: nothing is
    looked up, so that processors do eight or sixteen rows in a step. It pays where a row's path is most of the nodes.
    """
    out = np.zeros((len(columns), members, BLOCK))
    for block in prange(len(columns)):
        said = np.empty((most, BLOCK))
        for t in range(len(roots)):
            root = roots[t]
            for node in range(ends[t] - 1, root - 1, -1):
                here, below = said[node - root], child[node] - root
                if child[node] == node:
                    leaf = value[node]
                    for i in range(BLOCK):
                        here[i] = leaf
                else:
                    left, right = said[below], said[below + 1]
                    column, limit = columns[block, feature[node]], threshold[node]
                    for i in range(BLOCK):
                        low, high = left[i], right[i]
                        here[i] = high if column[i] > limit else low
            total = out[block, member[t]]
            for i in range(BLOCK):
                total[i] += said[0, i]
    return out
