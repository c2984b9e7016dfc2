"""`differentiable`: network and accelerator relaxed together; gradients through cost tensor and supernet; then samples.

Every decision has a logit for each choice; Gumbel-softmax makes shares of them, at a temperature that falls. The loss
is ``log error + lambda * mean of log costs``, once for each of several lambda, so that the runs cover the front.

- Cost is exact: the relaxed network's layers are counted in expectation, its accelerators are those of the exact
  hardware front over the whole space, mixed by Gumbel-softmax of their own costs, and the gradient in the shares is a
  product of counts and cost tensor (`cosearch.expected`). Costs that are no tensor - functions, tables, predictions -
  are relaxed by the same linear model as accuracy, fitted to the free costs of drawn networks.
- Accuracy: with a supernet each step draws one network, runs it on validation images with the weights frozen, and
  takes the loss and its derivative by the gate of every block. All runs share these through one model that is linear in
  the shares, so that its gradient is their effect: a single-path estimator moves the choices that it drew only; so a
  few steps move all logits. Without a supernet the same model is fitted to the results that were told, anew
  each time there are half as many again. Runs start from the logits that training has learned (recipe ``gumbel``).
- Refinement: networks drawn from the logits, and those that `bayesian` would look at near the best so far, are
  evaluated in the order of expected hypervolume gain over their whole hardware fronts, as `bayesian` computes it.

Rank search (HALOC) is the same search on a space whose choices are ranks, as `lowrank`'s: shares then mix ranks, and
the cost tensor is the device table of HALOC's latency term.
Source: Zhang et al., DNA, 2021; Jang et al., Gumbel-softmax, 2017; Xiao et al., HALOC, 2023; the shared linear model,
exact accelerators and refinement are our own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cosearch.errors import DataError
from cosearch.strategies.base import Costs, Told
from cosearch.strategies.bayesian import JOINT_POOL, Bayesian, measured_value, target
from cosearch.strategies.improvement import Floats
from cosearch.strategies.objectives import MAXIMISED, Objectives
from cosearch.strategies.proposer import Proposer
from cosearch.strategies.shares import Shares, draw, shares_of, softmax
from search_spaces.decisions import Arch, Decisions

Gradient = Callable[[Arch], tuple[float, dict[str, float]]]
"""Network -> its loss and the derivative of that by the gate of each decision's block."""
LAMBDAS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Weights of the mean logarithm of the costs beside that of the error."""
ROUNDS, DESCENTS = 4, 4
"""Rounds, each with one gradient of the supernet, after which every run takes so many steps of its own: these are free.
More gradients find no more than the evaluations do that they take the time of."""
HOT, COLD = 5.0, 0.5
"""Temperature of the first and of the last round."""
RATE, MOMENTS = 0.4, (0.5, 0.9)
"""Of Adam; few steps need a short memory."""
INITIAL, GROWTH = 10, 1.5
"""Without gradients: results before the first relaxation, and by what factor they grow until the next."""
DRAWN, FREE = 1000, 100
"""Networks that a refinement's pool takes from the logits; networks whose costs a model of costs is fitted to."""


@dataclass(frozen=True)
class Step:
    """A network that the supernet ran. log_loss: of its loss; slopes: decision -> derivative of it by the gate."""

    arch: Arch
    log_loss: float
    slopes: dict[str, float]


@dataclass(frozen=True)
class Relaxed:
    """What a relaxation found. logits: one set per lambda; steps: the networks that the supernet ran."""

    logits: tuple[Shares, ...]
    steps: tuple[Step, ...]


class Differentiable(Proposer):
    def __init__(
        self,
        space: Decisions,
        costs: Costs,
        objectives: Objectives,
        seed: int = 0,
        batch: int = 1,
        merge: bool = True,
        gradient: Gradient | None = None,
        logits: Mapping[str, Mapping[Any, float]] | None = None,
    ) -> None:
        self._search = Bayesian(
            space, costs, objectives, seed, batch, merge, candidates=self._drawn, name="differentiable"
        )
        super().__init__(self._search.history)
        expected = getattr(costs, "expected", None)
        self._expected: Any = expected(space=space) if expected is not None else None
        self._gradient, self._learned = gradient, logits or {}
        self._effects_of = Effects(space)
        self._relaxed: dict[int, Relaxed] = {}

    def propose(self, number: int) -> Arch:
        """The most probable network of each run first, then what the refinement chooses among those drawn."""
        if self._gradient is not None and number < len(LAMBDAS):
            arch = most_probable(self.history.space, self._at(0).logits[number])
            if self.history.admissible(arch):
                return arch
        return self._search.propose(number)

    def _drawn(self, first: int, known: Sequence[Told]) -> list[Arch]:
        """The pool of a group: networks drawn from every run's logits, those the supernet ran, and `bayesian`'s own."""
        from cosearch.strategies.evolutionary import random_networks

        space, rng = self.history.space, self.history.stream(first, "pool")
        drawn = JOINT_POOL if space.joint else DRAWN
        stage = stage_of(len(known)) if self._gradient is None else 0
        if self._gradient is None and stage < INITIAL:
            return random_networks(space, rng, drawn)
        relaxed = self._at(stage)
        archs = [step.arch for step in relaxed.steps]
        for i in range(drawn):
            logits = relaxed.logits[i % len(relaxed.logits)]
            archs.append(draw(space, shares_of(logits, (0.5, 1.0, 2.0)[i // len(LAMBDAS) % 3]), rng))
        return archs + self._search.around(first, known)

    # -- relaxation --

    def _at(self, stage: int) -> Relaxed:
        """The relaxation from the first `stage` results: a function of them and the seed, as a replay needs."""
        if stage not in self._relaxed:
            told = sorted(self.history.told, key=lambda t: t.candidate.number)
            self._relaxed = {stage: self._relax(stage, [t for t in told if not t.failed][:stage])}
        return self._relaxed[stage]

    def _relax(self, stage: int, known: Sequence[Told]) -> Relaxed:
        space, objectives = self.history.space, self.history.objectives
        rng = self.history.stream(stage, "relax")
        runs = [Descent(space, self._learned) for _ in LAMBDAS]
        steps: list[Step] = []
        effects = {name: self._told_effect(name, known) for name in self.history.measured if known}
        effects |= self._free_effects(rng)
        for temperature in np.geomspace(HOT, COLD, ROUNDS):
            if self._gradient is not None:
                shares = gumbel(runs[len(steps) % len(runs)].logits, float(temperature), rng)
                steps.append(self._step(most_probable(space, shares)))
            if steps:
                effects["accuracy"] = self._effects_of.of_steps(steps)
            for weight, run in zip(LAMBDAS, runs, strict=True):
                for _ in range(DESCENTS):
                    run.descend(
                        self._slope(run, weight, effects, objectives, float(temperature), rng), float(temperature)
                    )
        return Relaxed(tuple(run.logits for run in runs), tuple(steps))

    def _step(self, arch: Arch) -> Step:
        assert self._gradient is not None
        loss, slopes = self._gradient(arch)
        loss = max(loss, 1e-9)
        return Step(arch, float(np.log(loss)), {name: slope / loss for name, slope in slopes.items()})

    def _slope(
        self,
        run: "Descent",
        weight: float,
        effects: Mapping[str, Shares],
        objectives: Objectives,
        temperature: float,
        rng: np.random.Generator,
    ) -> Shares:
        """Derivative of a run's loss by its shares, drawn anew by Gumbel-softmax."""
        run.shares = gumbel(run.logits, temperature, rng)
        weights = {n: weight * (-1.0 if n in MAXIMISED else 1.0) / len(objectives.costs) for n in objectives.costs}
        total = {name: np.zeros(len(share)) for name, share in run.shares.items()}
        parts = [(effects["accuracy"], 1.0)] if "accuracy" in effects else []
        parts += [(effects[name], w) for name, w in weights.items() if name in effects]
        if self._expected is not None:
            priced = {name: w for name, w in weights.items() if name not in effects}

            def pick(scores: Floats) -> Floats:
                return softmax((rng.gumbel(size=len(scores)) * weight - scores) / (weight * temperature))

            if priced or self._expected.limits:
                arch = most_probable(self.history.space, run.shares)
                parts.append((self._expected.log_cost(run.shares, arch, priced, pick)[1], 1.0))
        for part, factor in parts:
            for name, values in part.items():
                total[name] = total[name] + factor * values
        return total

    def _told_effect(self, name: str, known: Sequence[Told]) -> Shares:
        return self._effects_of.of_values(
            [t.candidate.arch for t in known], [target(name, measured_value(t, name)) for t in known]
        )

    def _free_effects(self, rng: np.random.Generator) -> dict[str, Shares]:
        """Effects on known costs that are no tensor: of networks drawn at random, each on its best accelerator."""
        names = [n for n in self.history.objectives.costs if n not in self.history.measured]
        if self._expected is not None or not names:
            return {}
        archs = [self.history.space.sample(rng) for _ in range(FREE)]
        fronts = self.history.costs.free().fronts(archs)
        kept = [(arch, front) for arch, front in zip(archs, fronts, strict=True) if len(front)]
        best = {
            n: [float(np.max(f.metric(n)) if n in MAXIMISED else np.min(f.metric(n))) for _, f in kept] for n in names
        }
        return {n: self._effects_of.of_values([a for a, _ in kept], [target(n, v) for v in best[n]]) for n in names}


class Effects:
    """Linear models in the shares: what each choice of each decision adds to a value.

    Choices share what their names have in common (``conv_k3_e6``: operator, kernel, expansion), at one place and over
    all places, so that few results teach something about choices that none of them has.
    """

    def __init__(self, space: Decisions) -> None:
        self.space = space
        words = [{str(option), *str(option).split("_")} for options in space.choices.values() for option in options]
        places = [name for name, options in space.choices.items() for _ in options]
        columns = sorted({(place, word) for place, own in zip(places, words, strict=True) for word in own})
        columns += sorted({("", word) for own in words for word in own})
        self.features = np.array(
            [
                [float(word in own and place in ("", at)) for place, word in columns]
                for at, own in zip(places, words, strict=True)
            ]
        )
        """[choices of all decisions, features]; a network's features are the sum over its choices."""

    def of_values(self, archs: Sequence[Arch], values: Sequence[float]) -> Shares:
        """Effects fitted to values of networks; zero where they teach nothing."""
        return self._fitted(self.space.one_hot(archs) @ self.features, self.features, np.array(values))

    def of_steps(self, steps: Sequence[Step]) -> Shares:
        """Effects fitted to the losses of networks, what the gates of their blocks say being one more feature."""
        archs, losses = [step.arch for step in steps], np.array([step.log_loss for step in steps])
        chosen = self.space.one_hot(archs)
        offsets = np.cumsum([0, *(len(options) for options in self.space.choices.values())])[:-1]
        at, slopes = [], []
        for step in steps:
            places = dict(zip(self.space.choices, self.space.encode(step.arch) + offsets, strict=True))
            at += [places[name] for name in step.slopes]
            slopes += list(step.slopes.values())
        by_gate = np.concatenate(list(self._fitted(self.features[at], self.features, np.array(slopes)).values()))
        said = chosen @ by_gate
        if said.std() < 1e-12:
            return self._fitted(chosen @ self.features, self.features, losses)
        own = GATE_WEIGHT * by_gate / said.std()
        return self._fitted(
            np.column_stack([chosen @ self.features, chosen @ own]), np.column_stack([self.features, own]), losses
        )

    def _fitted(self, X: Floats, features: Floats, y: Floats) -> Shares:
        from predictors.linear import Ridge

        ends = np.cumsum([len(options) for options in self.space.choices.values()])
        try:
            model = Ridge().fit(X, y)
            effect = model.predict(features)[0] - model.predict(np.zeros((1, X.shape[1])))[0]
        except DataError:  # too few distinct networks, or all values equal
            effect = np.zeros(len(features))
        return dict(zip(self.space.choices, np.split(effect, ends[:-1]), strict=True))


GATE_WEIGHT = 3.0
"""How far the gates' feature is stretched: ridge regression then shrinks it less than any one choice's."""


class Descent:
    """Logits of one run and Adam's memory of their gradients.

    start: logits to start from, decision -> choice -> logit; 0 where it has none.
    """

    def __init__(self, space: Decisions, start: Mapping[str, Mapping[Any, float]] | None = None) -> None:
        start = start or {}
        self.logits: Shares = {
            name: np.array([start.get(name, {}).get(option, 0.0) for option in options])
            for name, options in space.choices.items()
        }
        self.shares: Shares = {}
        self._mean = {name: np.zeros(len(options)) for name, options in space.choices.items()}
        self._square = {name: np.zeros(len(options)) for name, options in space.choices.items()}
        self._steps = 0

    def descend(self, slope: Mapping[str, Floats], temperature: float) -> None:
        """One step of Adam against the derivative by the present shares."""
        self._steps += 1
        slow, fast = MOMENTS
        for name, by_share in slope.items():
            gradient = through_softmax(self.shares[name], by_share, temperature)
            self._mean[name] = slow * self._mean[name] + (1 - slow) * gradient
            self._square[name] = fast * self._square[name] + (1 - fast) * gradient**2
            mean, square = self._mean[name] / (1 - slow**self._steps), self._square[name] / (1 - fast**self._steps)
            self.logits[name] = self.logits[name] - RATE * mean / (np.sqrt(square) + 1e-12)


def through_softmax(shares: Floats, by_share: Floats, temperature: float) -> Floats:
    """Derivative by logits z of what depends on shares = softmax(z / temperature)."""
    return shares * (by_share - shares @ by_share) / temperature


def gumbel(logits: Mapping[str, Floats], temperature: float, rng: np.random.Generator) -> Shares:
    """Shares of a Gumbel-softmax sample. Source: Jang et al. 2017, Eq. 2."""
    return {name: softmax((values + rng.gumbel(size=len(values))) / temperature) for name, values in logits.items()}


def most_probable(space: Decisions, logits: Mapping[str, Floats]) -> Arch:
    return {name: options[int(np.argmax(logits[name]))] for name, options in space.choices.items()}


def stage_of(n: int) -> int:
    """With how many results the relaxation for n of them was made: 10, then half as many again each time."""
    stage = INITIAL
    if n < stage:
        return 0
    while int(stage * GROWTH) <= n:
        stage = int(stage * GROWTH)
    return stage
