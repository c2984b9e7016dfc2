"""Optuna's samplers as strategies: NSGA-II, NSGA-III, TPE and GP.

They see a network with the accelerator of its front that has the least product of costs. A study in memory is rebuilt
for each proposal from what was told, with a sampler seeded by the trial's number, so that proposals can be replayed.
Networks that break a limit on what is known, or were proposed before, are asked again; by how much a result breaks
limits on what is measured is the samplers' own constraint.
"""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cosearch.seeding import derive
from cosearch.strategies.base import Costs, History, Told, broken
from cosearch.strategies.objectives import Objectives, product
from cosearch.strategies.proposer import Proposer
from cosearch.strategies.study import parameter
from search_spaces.decisions import Arch, Decisions

if TYPE_CHECKING:
    import optuna

POPULATION = 50
"""Optuna's own default."""
REPEATS = 20
"""Proposals that are thrown away before a random network is taken."""


class OptunaStrategy(Proposer):
    def __init__(
        self,
        make_sampler: Callable[[int], "optuna.samplers.BaseSampler"],
        space: Decisions,
        costs: Costs,
        objectives: Objectives,
        seed: int,
        batch: int,
        name: str,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        super().__init__(History(space, costs, objectives, seed, name, batch))
        self._make_sampler = make_sampler
        self._choices = {name: {parameter(o): o for o in options} for name, options in space.choices.items()}
        self._distributions: dict[str, optuna.distributions.BaseDistribution] = {
            name: optuna.distributions.CategoricalDistribution(tuple(known)) for name, known in self._choices.items()
        }
        self._limited = bool(self.history.measured_limits or objectives.min_accuracy)
        self._trials: dict[int, optuna.trial.FrozenTrial] = {}

    def propose(self, number: int) -> Arch:
        import optuna

        sampler = self._make_sampler(derive(self.history.seed, self.history.name, number) % 2**32)
        directions: Any = self.history.objectives.directions
        study = optuna.create_study(directions=directions, sampler=sampler)
        told = sorted(self.history.known(number), key=lambda t: t.candidate.number)
        study.add_trials([self._trial(t, type(sampler).__name__) for t in told if not t.failed and len(t.front)])
        for _ in range(REPEATS):
            trial = study.ask(self._distributions)
            arch = {name: self._choices[name][value] for name, value in trial.params.items()}
            if self.history.admissible(arch):
                return arch
        return self.history.fresh_sample(self.history.stream(number))

    def _trial(self, told: Told, sampler: str) -> "optuna.trial.FrozenTrial":
        from optuna.trial import create_trial

        number = told.candidate.number
        if number not in self._trials:
            objectives = self.history.objectives
            columns = {name: told.front.metric(name) for name in objectives.costs}
            point = int(product(columns).argmin()) if columns else 0
            values = [(told.accuracy or 0.0) if n == "accuracy" else float(columns[n][point]) for n in objectives.names]
            self._trials[number] = create_trial(
                values=values,
                params={name: parameter(choice) for name, choice in told.candidate.arch.items()},
                distributions=self._distributions,
                # genetic samplers select parents among trials of a generation, which they note when they propose
                system_attrs={f"{sampler}:generation": number // POPULATION, **self._constraint(told)},
            )
        return self._trials[number]

    def _constraint(self, told: Told) -> dict[str, list[float]]:
        """As Optuna keeps it: more than 0 is broken."""
        return {"constraints": [broken(self.history.objectives, told)]} if self._limited else {}


def nsga2(space: Decisions, costs: Costs, objectives: Objectives, seed: int = 0, batch: int = 1) -> OptunaStrategy:
    from optuna.samplers import NSGAIISampler

    def sampler(derived: int) -> NSGAIISampler:
        return NSGAIISampler(population_size=POPULATION, seed=derived)

    return OptunaStrategy(sampler, space, costs, objectives, seed, batch, "optuna-nsga2")


def nsga3(space: Decisions, costs: Costs, objectives: Objectives, seed: int = 0, batch: int = 1) -> OptunaStrategy:
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import NSGAIIISampler

    warnings.simplefilter("ignore", ExperimentalWarning)

    def sampler(derived: int) -> NSGAIIISampler:
        return NSGAIIISampler(population_size=POPULATION, seed=derived)

    return OptunaStrategy(sampler, space, costs, objectives, seed, batch, "optuna-nsga3")


def tpe(space: Decisions, costs: Costs, objectives: Objectives, seed: int = 0, batch: int = 1) -> OptunaStrategy:
    from optuna.samplers import TPESampler

    def sampler(derived: int) -> TPESampler:
        return TPESampler(seed=derived)

    return OptunaStrategy(sampler, space, costs, objectives, seed, batch, "optuna-tpe")


def gp(space: Decisions, costs: Costs, objectives: Objectives, seed: int = 0, batch: int = 1) -> OptunaStrategy:
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import GPSampler

    warnings.simplefilter("ignore", ExperimentalWarning)

    def sampler(derived: int) -> GPSampler:
        return GPSampler(seed=derived)

    return OptunaStrategy(sampler, space, costs, objectives, seed, batch, "optuna-gp")
