"""The peers of the known-optimum benchmark, on networks alone or on networks and accelerators jointly.

Each is a generator of (network, point): the networks that it evaluates, in order, and with which cost if it searched
the accelerator itself. Designs that cannot run or break a limit are rejected free of charge, repeats cost nothing.
"""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cosearch.strategies.objectives import crowding, ranks, undominated
from search_spaces.networks import nasbench201

POPULATION = 50
"""Optuna's default, for all that have a population."""
TOURNAMENT = 10
REJECTED = 200
"""Infeasible proposals in a row after which a population-based peer takes a random design."""
Step = tuple[int, np.ndarray | None]


@dataclass(frozen=True)
class Task:
    """Decisions as indices. price: choice -> (network, objectives, point for joint), or None if it cannot be."""

    sizes: tuple[int, ...]
    ordered: tuple[bool, ...]
    price: Callable[[tuple[int, ...]], tuple[int, np.ndarray, np.ndarray | None] | None]

    def sample(self, rng: np.random.Generator) -> tuple[int, ...]:
        return tuple(int(rng.integers(size)) for size in self.sizes)

    def feasible_sample(self, rng: np.random.Generator) -> tuple[int, ...]:
        while True:
            choice = self.sample(rng)
            if self.price(choice) is not None:
                return choice

    def mutate(self, choice: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
        at = int(rng.integers(len(choice)))
        other = int(rng.integers(self.sizes[at] - 1)) if self.sizes[at] > 1 else 0
        return (*choice[:at], other + (other >= choice[at]) if self.sizes[at] > 1 else 0, *choice[at + 1 :])

    def neighbours(self, choice: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [
            (*choice[:at], value, *choice[at + 1 :])
            for at, size in enumerate(self.sizes)
            for value in range(size)
            if value != choice[at]
        ]


def task_of(table: Any, limits: dict[str, float], mode: str) -> Task:
    bound = np.array([limits.get("max_latency_ms", np.inf), limits.get("max_energy_mj", np.inf)])
    cells = (len(nasbench201.OPERATIONS),) * len(nasbench201.NAMES)
    single = bool(limits)

    def objectives(network: int, cost: np.ndarray) -> np.ndarray:
        return np.array([table.error[network]]) if single else np.array([table.error[network], *cost])

    def network_of(choice: tuple[int, ...]) -> tuple[int, int]:
        at = int(np.ravel_multi_index(choice[: len(cells)], cells))
        return int(table.network[at]), int(table.cost_class[at])

    def alone(choice: tuple[int, ...]) -> tuple[int, np.ndarray, np.ndarray | None] | None:
        network, row = network_of(choice)
        if network < 0:
            return None
        points = table.fronts[row]
        points = points[(points <= bound).all(1)]
        if not len(points):
            return None
        return network, objectives(network, points[np.argmin(points.prod(1))]), None

    if mode == "networks":
        return Task(cells, (False,) * len(cells), alone)
    values = {name: np.unique(axis) for name, axis in table.axes.items()}
    columns = [np.searchsorted(values[name], axis) for name, axis in table.axes.items()]
    index: dict[tuple[int, ...], list[int]] = {}
    for at, key in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        index.setdefault(key, []).append(at)

    def joint(choice: tuple[int, ...]) -> tuple[int, np.ndarray, np.ndarray | None] | None:
        network, row = network_of(choice)
        found = index.get(choice[len(cells) :])
        if network < 0 or found is None:
            return None
        costs = table.joint[row, found]
        cost = costs[np.argmin(costs.prod(1))]
        if not np.isfinite(cost).all() or (cost > bound).any():
            return None
        return network, objectives(network, cost), cost

    sizes = tuple(len(v) for v in values.values())
    return Task((*cells, *sizes), (*((False,) * len(cells)), *(len(v) > 2 for v in values.values())), joint)


def run(algorithm: str, table: Any, limits: dict[str, float], mode: str, seed: int) -> Iterator[Step]:
    return run_task(algorithm, task_of(table, limits, mode), seed)


def run_task(algorithm: str, task: Task, seed: int) -> Iterator[Step]:
    return ALGORITHMS[algorithm](task, seed)


def available() -> tuple[str, ...]:
    """All peers whose packages are installed."""
    return tuple(n for n in ALGORITHMS if not n.startswith("pymoo") or importlib.util.find_spec("pymoo") is not None)


def _step(task: Task, choice: tuple[int, ...]) -> tuple[Step, np.ndarray]:
    priced = task.price(choice)
    assert priced is not None
    return (priced[0], priced[2]), priced[1]


def random_search(task: Task, seed: int) -> Iterator[Step]:
    rng = np.random.default_rng(seed)
    while True:
        yield _step(task, task.feasible_sample(rng))[0]


def regularised_evolution(task: Task, seed: int) -> Iterator[Step]:
    """Real et al. 2019, the tournament by rank and crowding where there are several objectives."""
    rng = np.random.default_rng(seed)
    population: list[tuple[tuple[int, ...], np.ndarray]] = []
    while True:
        if len(population) < POPULATION:
            choice = task.feasible_sample(rng)
        else:
            drawn = [population[i] for i in rng.choice(len(population), TOURNAMENT, replace=False)]
            points = np.array([values for _, values in drawn])
            rank = ranks(points) if points.shape[1] > 1 else points[:, 0].argsort().argsort()
            distance = crowding(points, rank) if points.shape[1] > 1 else np.zeros(len(points))
            parent = drawn[int(np.lexsort((-distance, rank))[0])][0]
            choice = next(
                (c for c in (task.mutate(parent, rng) for _ in range(REJECTED)) if task.price(c) is not None), ()
            ) or task.feasible_sample(rng)
        step, values = _step(task, choice)
        population.append((choice, values))
        population = population[-POPULATION:]
        yield step


def local_search(task: Task, seed: int) -> Iterator[Step]:
    """White et al. 2020: all neighbours of the best so far, a new start at a local optimum.

    With several objectives the neighbours of every undominated design (Pareto local search, Paquete et al. 2004).
    """
    rng = np.random.default_rng(seed)
    archive: list[tuple[tuple[int, ...], np.ndarray]] = []
    explored: set[tuple[int, ...]] = set()
    while True:
        if not archive:
            choice = task.feasible_sample(rng)
            step, values = _step(task, choice)
            archive = [(choice, values)]
            yield step
        unexplored = [choice for choice, _ in archive if choice not in explored]
        if not unexplored:
            archive = []  # what was found counts in the curve; the search starts anew elsewhere
            continue
        centre = unexplored[int(rng.integers(len(unexplored)))]
        explored.add(centre)
        near = task.neighbours(centre)
        for i in rng.permutation(len(near)):
            if task.price(near[i]) is None:
                continue
            step, values = _step(task, near[i])
            yield step
            if len(values) == 1:
                if values[0] < archive[0][1][0]:
                    archive = [(near[i], values)]
                    break
                continue
            everything = [*archive, (near[i], values)]
            keep = undominated(np.array([v for _, v in everything]))
            archive = [entry for entry, kept in zip(everything, keep, strict=True) if kept]


def _optuna(make_sampler: Callable[[int], Any], modelled: bool = False) -> Callable[[Task, int], Iterator[Step]]:
    """modelled: the sampler asks for the best design of a model. It does not see failed trials, so it would ask for a
    rejected design for ever: it is told that those are as bad as the worst seen, and what it repeats is replaced by a
    random design."""

    def search(task: Task, seed: int) -> Iterator[Step]:
        import optuna

        distributions = _distributions(task)
        rng = np.random.default_rng(seed)
        worst = _step(task, task.feasible_sample(rng))[1]
        told: set[tuple[int, ...]] = set()
        study = optuna.create_study(directions=["minimize"] * len(worst), sampler=make_sampler(seed))
        while True:
            trial = study.ask(distributions)
            choice = tuple(int(trial.params[str(i)]) for i in range(len(task.sizes)))
            if modelled and choice in told:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                other = task.feasible_sample(rng)
                study.enqueue_trial({str(i): value for i, value in enumerate(other)})
                told.discard(other)
                continue
            told.add(choice)
            if task.price(choice) is None:
                if modelled:
                    study.tell(trial, worst.tolist())
                else:
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            step, values = _step(task, choice)
            worst = np.maximum(worst, values)
            study.tell(trial, values.tolist())
            yield step

    return search


def _distributions(task: Task) -> dict[str, Any]:
    import warnings

    import optuna
    from optuna.distributions import CategoricalDistribution, IntDistribution

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    return {
        str(i): IntDistribution(0, size - 1) if ordered else CategoricalDistribution(tuple(range(size)))
        for i, (size, ordered) in enumerate(zip(task.sizes, task.ordered, strict=True))
    }


def optuna_tpe(task: Task, seed: int) -> Iterator[Step]:
    """Multivariate TPE, proposal for proposal as by `_optuna`, without what its study does for a rejected design.

    TPE sees completed trials only: rejected ones need not be stored, its two densities are kept until another is
    told, and the numbers of a trial's choices for good.
    """
    import optuna

    rows: dict[int, list[float]] = {}

    class Sampler(optuna.samplers.TPESampler):
        kept: tuple[int, Any, Any] = (-1, None, None)

        def _get_internal_repr(self, trials: Any, search_space: Any, study: Any) -> dict[str, np.ndarray]:
            for trial in trials:
                if trial.number not in rows:
                    rows[trial.number] = [of.to_internal_repr(trial.params[n]) for n, of in search_space.items()]
            values = np.array([rows[trial.number] for trial in trials]).reshape(len(trials), len(search_space))
            return dict(zip(search_space, values.T, strict=True))

        def _sample(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            told = study._get_trials(deepcopy=False, use_cache=True)
            if self.kept[0] != len(told):
                gamma = optuna.samplers._tpe.sampler.default_gamma
                if len(study.directions) > 1:
                    gamma = optuna.samplers._tpe.sampler.default_gamma_multiobjective
                below, above = optuna.samplers._tpe.sampler._split_trials(study, told, gamma(len(told)))
                good = self._build_parzen_estimator(study, search_space, below, handle_below=True)
                bad = self._build_parzen_estimator(study, search_space, above, handle_below=False)
                self.kept = len(told), good, bad
            _, good, bad = self.kept
            drawn = good.sample(self._rng.rng, self._n_ei_candidates)
            best = self._compare(drawn, self._compute_acquisition_func(drawn, good, bad))
            return {name: of.to_external_repr(best[name]) for name, of in search_space.items()}

    distributions = _distributions(task)
    objectives = len(_step(task, task.feasible_sample(np.random.default_rng(seed)))[1])
    sampler = Sampler(multivariate=True, constant_liar=False, seed=seed)  # nothing runs beside a proposal
    study = optuna.create_study(directions=["minimize"] * objectives, sampler=sampler)
    blank = optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL)
    while True:
        space = sampler.infer_relative_search_space(study, blank)
        params = sampler.sample_relative(study, blank, space)
        for name, of in distributions.items():
            if name not in params:
                single = of.single()
                params[name] = 0 if single else sampler.sample_independent(study, blank, name, of)
        choice = tuple(int(params[name]) for name in distributions)
        if task.price(choice) is None:
            continue
        step, values = _step(task, choice)
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, values=values.tolist()))
        study._thread_local.cached_all_trials = None  # as `study.ask` does
        yield step


def _counting(base: type) -> type:
    """A genetic sampler of Optuna that keeps its generations, where it would look for them in all trials each time.

    Its generations, and so its proposals, are the same.
    """

    class Counting(base):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.generations: list[list[Any]] = [[]]
            self.parents: dict[int, list[Any]] = {}
            self.looked_at = 0

        def get_trial_generation(self, study: Any, trial: Any) -> int:
            trials = study._get_trials(deepcopy=False, use_cache=True)
            for told in trials[self.looked_at : trial.number]:
                if told.state.name == "COMPLETE":
                    self.generations[-1].append(told)
                    if len(self.generations[-1]) == self.population_size:
                        self.generations.append([])
            self.looked_at = max(self.looked_at, trial.number)
            return len(self.generations) - 1

        def get_population(self, study: Any, generation: int) -> list[Any]:
            return self.generations[generation]

        def get_parent_population(self, study: Any, generation: int) -> list[Any]:
            if generation and generation not in self.parents:
                chosen = self.select_parent(study, generation)
                self.parents[generation] = sorted(chosen, key=lambda trial: trial.number)
                return chosen  # as its own does, in this order once and then by number
            return self.parents.get(generation, [])

    return Counting


def _nsga2(seed: int) -> Any:
    import optuna

    return _counting(optuna.samplers.NSGAIISampler)(population_size=POPULATION, seed=seed)


def _nsga3(seed: int) -> Any:
    import optuna

    return _counting(optuna.samplers.NSGAIIISampler)(population_size=POPULATION, seed=seed)


def _tpe(seed: int) -> Any:
    import optuna

    return optuna.samplers.TPESampler(multivariate=True, seed=seed)


def _gp(seed: int) -> Any:
    import optuna

    return optuna.samplers.GPSampler(seed=seed, deterministic_objective=True)


def pymoo_nsga2(task: Task, seed: int) -> Iterator[Step]:
    """pymoo's NSGA-II for choices and integers, without duplicates."""
    from pymoo.algorithms.moo.nsga2 import NSGA2, RankAndCrowdingSurvival
    from pymoo.core.mixed import MixedVariableDuplicateElimination, MixedVariableMating, MixedVariableSampling
    from pymoo.core.problem import Problem
    from pymoo.core.variable import Choice, Integer

    rng = np.random.default_rng(seed)
    objectives = len(_step(task, task.feasible_sample(rng))[1])
    variables = {
        str(i): Integer(bounds=(0, size - 1)) if ordered else Choice(options=list(range(size)))
        for i, (size, ordered) in enumerate(zip(task.sizes, task.ordered, strict=True))
    }
    algorithm = NSGA2(
        pop_size=POPULATION,
        sampling=MixedVariableSampling(),
        mating=MixedVariableMating(eliminate_duplicates=MixedVariableDuplicateElimination()),
        eliminate_duplicates=MixedVariableDuplicateElimination(),
        survival=RankAndCrowdingSurvival(),
    )
    algorithm.setup(Problem(vars=variables, n_obj=objectives, n_ieq_constr=1), seed=seed, termination=("n_gen", 10**6))
    while True:
        population = algorithm.ask()
        for individual in population:
            choice = tuple(int(individual.X[str(i)]) for i in range(len(task.sizes)))
            if task.price(choice) is None:
                individual.F, individual.G = np.full(objectives, 1e9), np.array([1.0])
            else:
                step, values = _step(task, choice)
                individual.F, individual.G = values, np.array([-1.0])
                yield step
            individual.H = np.zeros(0)
            individual.evaluated.update({"F", "G", "H"})
        algorithm.tell(infills=population)


ALGORITHMS: dict[str, Callable[[Task, int], Iterator[Step]]] = {
    "random": random_search,
    "regularised": regularised_evolution,
    "local": local_search,
    "optuna-nsga2": _optuna(_nsga2),
    "optuna-nsga3": _optuna(_nsga3),
    "optuna-tpe": optuna_tpe,
    "optuna-gp": _optuna(_gp, modelled=True),
    "pymoo-nsga2": pymoo_nsga2,
}
EVOLUTIONARY = ("regularised", "optuna-nsga2", "optuna-nsga3", "pymoo-nsga2")
