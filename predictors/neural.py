"""Neural predictors: an ensemble of multilayer perceptrons, and of graph networks over a network's operations."""

from collections.abc import Iterator
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cosearch.errors import ConfigError, DataError, nearest
from predictors.base import Arrays, Floats, Predictor, distinct, threads
from predictors.losses import LOSSES, ranksim

MEMBERS, STEPS, RATE, DECAY = 5, 300, 3e-3, 1e-3
BATCH = 256
"""Rows of a step, where there are more."""
WIDTH = 96
ROWS_AT_ONCE = 256
"""So few that what a layer makes of them stays in the cache."""


class NeuralEnsemble(Predictor):
    """Five perceptrons, each trained without another fifth of the samples, on which its error is measured.

    loss: ``squared``, ``hinge`` (pairs) or ``listmle``; scores that only order are mapped to the target by a line.
    ranking_weight: of the RankSim regulariser on the last hidden layer; 0 is off. 0.1 lifts Kendall's tau of accuracies
    from 100 networks by 0.01 with squared and listmle, by nothing with hinge, and takes twice the time.
    """

    name = "mlp"
    minimum = 10

    def __init__(self, log: bool = False, seed: int = 0, loss: str = "squared", ranking_weight: float = 0.0) -> None:
        if loss not in LOSSES:
            raise ConfigError(f"unknown loss {loss!r}: {nearest(loss, LOSSES)}")
        super().__init__(log, seed)
        self.loss, self.ranking_weight = loss, ranking_weight

    @property
    def options(self) -> dict[str, Any]:
        return {**super().options, "loss": self.loss, "ranking_weight": self.ranking_weight}

    def _build(self, columns: int) -> nn.Module:
        return _Perceptron(columns)

    def _fit(self, X: Floats, y: Floats) -> None:
        inputs, target = torch.from_numpy(X).float(), torch.from_numpy(y).float()
        fold = np.random.default_rng(self.seed).permutation(len(y)) % MEMBERS
        errors = np.zeros(len(y))
        self._networks, lines = [], []
        kept = [torch.from_numpy(np.flatnonzero(fold != member)) for member in range(MEMBERS)]
        for member in range(MEMBERS):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed * 1000 + member)
                self._networks.append(self._build(X.shape[1]))
        with threads() as several:  # each draws from a generator of its own, so their order does not matter
            parts = [(network, inputs[rows], target[rows]) for network, rows in zip(self._networks, kept, strict=True)]
            list(several.map(lambda part: self._train(*part), parts))
        for member, (network, rows) in enumerate(zip(self._networks, kept, strict=True)):
            with torch.no_grad():
                score = network(inputs)[0].double().numpy()
            slope, offset = np.polyfit(score[rows], y[rows], 1) if self.loss != "squared" else (1.0, 0.0)
            held = fold == member
            errors[held] = y[held] - slope * score[held] - offset
            lines.append((slope, offset))
        self._lines = np.array(lines)
        self._noise = np.array([np.sqrt(np.mean(errors**2))])

    def _train(self, network: nn.Module, X: Tensor, y: Tensor) -> None:
        optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3 * RATE, total_steps=STEPS)
        network.train()
        for rows in _batches(len(y), self.seed):
            score, hidden = network(X[rows])
            loss = LOSSES[self.loss](score, y[rows])
            if self.ranking_weight:
                loss = loss + self.ranking_weight * ranksim(hidden, y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        network.eval()

    def _predict(self, X: Floats) -> tuple[Floats, Floats]:
        first, of = distinct(X)
        inputs = torch.from_numpy(X[first]).float().split(ROWS_AT_ONCE)

        def score(network: nn.Module) -> Floats:
            with torch.inference_mode():
                return np.concatenate([network(part)[0].double().numpy() for part in inputs])

        with threads() as several:
            scores = list(several.map(score, self._networks))
        each = np.array([slope * s + offset for s, (slope, offset) in zip(scores, self._lines, strict=True)])
        return each.mean(0)[of], np.sqrt(each.var(0) + self._noise[0] ** 2)[of]

    def _arrays(self) -> Arrays:
        states = [network.state_dict() for network in self._networks]
        weights = {f"{i}/{key}": value.numpy() for i, state in enumerate(states) for key, value in state.items()}
        return {"lines": self._lines, "noise": self._noise, **weights}

    def _restore(self, arrays: Arrays) -> None:
        self._lines, self._noise = arrays["lines"], arrays["noise"]
        self._networks = []
        for member in range(len(self._lines)):
            network = self._build(len(self._centre))
            prefix = f"{member}/"
            network.load_state_dict(
                {k.removeprefix(prefix): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(prefix)}
            )
            self._networks.append(network.eval())


def _batches(count: int, seed: int) -> Iterator[Tensor | slice]:
    """Which rows each step sees: all, or parts of one permutation after another."""
    if count <= BATCH:
        yield from repeat(slice(None), STEPS)
        return
    generator = torch.Generator().manual_seed(seed)
    shuffled: tuple[Tensor, ...] = ()
    for _ in range(STEPS):
        if not shuffled:
            whole = count // BATCH * BATCH
            shuffled = torch.randperm(count, generator=generator)[:whole].split(BATCH)
        rows, *rest = shuffled
        shuffled = tuple(rest)
        yield rows


class _Perceptron(nn.Module):
    def __init__(self, columns: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(columns, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU())
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: [n, columns]. Returns: [n] scores and [n, width] the last hidden layer."""
        hidden = self.body(x)
        return self.head(hidden)[:, 0], hidden


class GraphNetwork(NeuralEnsemble):
    """The same over graphs, whose nodes are operations: features from the part ``graph`` of `predictors.features`.

    nodes: how many operations a network has. Columns: [nodes, kinds] what each is, then [nodes, nodes] who reads whom.
    """

    name = "graph"

    def __init__(
        self,
        log: bool = False,
        seed: int = 0,
        loss: str = "squared",
        ranking_weight: float = 0.0,
        nodes: int = 6,
    ) -> None:
        super().__init__(log, seed, loss, ranking_weight)
        self.nodes = nodes

    @property
    def options(self) -> dict[str, Any]:
        return {**super().options, "nodes": self.nodes}

    def _scaled(self, X: Floats) -> Floats:
        return X  # zeros and ones, which mean what they are

    def _build(self, columns: int) -> nn.Module:
        if columns % self.nodes or columns // self.nodes <= self.nodes:
            raise DataError(f"{columns} columns are no graph of {self.nodes} nodes: use the features called graph")
        return _Graph(self.nodes, columns // self.nodes - self.nodes)


class _Graph(nn.Module):
    """Three rounds in which each operation hears from those before and after it; then the sum over all."""

    def __init__(self, nodes: int, kinds: int, rounds: int = 3, width: int = 32) -> None:
        super().__init__()
        self.nodes, self.kinds = nodes, kinds
        self.embed = nn.Linear(kinds, width)
        self.rounds = nn.ModuleList(nn.Linear(3 * width, width) for _ in range(rounds))
        self.last = nn.Linear(2 * width, WIDTH)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kinds, edges = x.split([self.nodes * self.kinds, self.nodes**2], dim=1)
        kinds = kinds.view(-1, self.nodes, self.kinds)
        edges = edges.view(-1, self.nodes, self.nodes)
        there = kinds.any(2, keepdim=True).to(x.dtype)
        state = self.embed(kinds) * there
        for layer in self.rounds:
            heard = torch.cat([state, edges @ state, edges.transpose(1, 2) @ state], 2)
            state = (state + torch.nn.functional.silu(layer(heard))) * there
        pooled = torch.cat([state.sum(1), state.amax(1)], 1)
        hidden = torch.nn.functional.silu(self.last(pooled))
        return self.head(hidden)[:, 0], hidden
