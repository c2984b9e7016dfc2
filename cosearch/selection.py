"""From what the searches evaluated to their finalists: a short list of each, halved by short trainings, and the network
that is left trained with every seed.
"""

from collections.abc import Callable, Mapping, Sequence

from cosearch.comparison import designs_of
from cosearch.errors import CosearchError, RunError
from cosearch.finalists import Trained, Training, inherit, load_trained, train_all
from cosearch.job import Job
from cosearch.problem import Problem
from cosearch.progress import Phase
from cosearch.runs import RunDirectory
from cosearch.shortlist import Choice, Halving, Lists, networks, shortlist
from cosearch.strategies.base import Told
from search_spaces.decisions import Arch, network_key, network_of


def select(
    job: Job, found: Mapping[str, Sequence[Told]], images: int
) -> tuple[dict[str, Choice], dict[str, list[Trained]]]:
    """Of each search the design to take, and its network trained with every seed.

    images: on how many an accuracy of the search was measured.
    Raises: StoppedError; CosearchError if no training of a design succeeds.
    """
    problem, config = job.problem, job.problem.config
    designs = {name: designs_of(told, problem.objectives.costs) for name, told in found.items()}
    knee = config.recommend == "knee"
    lists = shortlist(designs, problem.objectives, images, config.finalist_candidates if config.trains else 1, knee)
    if not config.trains:
        return {name: listed[0] for name, listed in lists.items()}, {name: [] for name in lists}
    assert problem.dataset is not None
    halving = Halving(designs, problem.objectives, len(problem.dataset.validation), config.finalist_epochs, knee)
    chosen = {name: listed[0] for name, listed in _halved(job, halving, lists).items()}
    train_open(job, trainings_of([arch for arch, _ in chosen.values()], problem), "training finalists")
    results = {
        name: [_result(job.run, training) for training in trainings_of([arch], problem)]
        for name, (arch, _) in chosen.items()
    }
    for name, trained in results.items():
        if all(t.failed for t in trained):
            raise CosearchError(
                f"all {len(trained)} trainings of {name}'s network failed ({trained[0].failed}): give more "
                "--finalist-candidates, or another --seed"
            )
    return chosen, results


def _halved(job: Job, halving: Halving, lists: Lists) -> Lists:
    """Lists of one design each."""
    while halving.open(lists):
        trainings = trainings_of(list(networks(lists).values()), job.problem, halving.heat(lists))
        if job.cluster is None:
            train_open(job, trainings, "comparing candidates")
        elif any(load_trained(job.run, training) is None for training in trainings):
            # this heat and those after it, where a scheduler of Tune's halves the lists as they are halved here
            inherit(job.run, job.problem.space.network_space, [training.arch for training in trainings])
            with job.reporter.phase("comparing candidates, epochs", halving.most_epochs(lists)) as phase:
                job.cluster.halve(job.run, halving, lists, trainings, _counting(job, phase))
        scores = {network_key(t.arch): _result(job.run, t).integer_accuracy for t in trainings}
        lists = halving.better_half(lists, scores)
    return lists


def train_open(job: Job, trainings: Sequence[Training], what: str) -> None:
    """Do the trainings that have no result yet. what: they are for, as progress says.

    Raises: StoppedError, CosearchError.
    """
    from cosearch.supernet.training import torch_device

    config = job.problem.config
    open_ones = [t for t in trainings if load_trained(job.run, t) is None]
    workers = 1 if torch_device(config.torch_device) == "cuda" else config.threads
    total, rest = (sum(t.epochs(config) for t in some) for some in (trainings, open_ones))
    if open_ones:
        inherit(job.run, job.problem.space.network_space, [training.arch for training in open_ones])
    with job.reporter.phase(f"{what}, epochs", total, total - rest) as phase:
        if job.cluster is None:
            train_all(job.run, trainings, workers, _counting(job, phase))
        else:
            job.cluster.train_all(job.run, trainings, _counting(job, phase))


def _counting(job: Job, phase: Phase) -> Callable[[int], None]:
    """What is called with epochs that were done.

    Raises: StoppedError, when called, if the time is over.
    """

    def on_epochs(n: int) -> None:
        phase.advance(n)
        job.require_time()

    return on_epochs


def _result(run: RunDirectory, training: Training) -> Trained:
    trained = load_trained(run, training)
    assert trained is not None
    return trained


def trainings_of(archs: Sequence[Arch], problem: Problem, heat: int = 0) -> list[Training]:
    """Of each network with every seed; in a heat, of so many epochs, with one."""
    config = problem.config
    unique = {network_key(arch): network_of(arch) for arch in archs}.values()
    return [
        Training(arch, config.seed + k, problem.space.network_space.workload(arch).macs, heat)
        for arch in unique
        for k in range(1 if heat else config.finalist_seeds)
    ]


def first_good(run: RunDirectory, trainings: Sequence[Training]) -> Training:
    """The first of the trainings that is done and did not diverge.

    Raises: RunError if there is none.
    """
    done = [(t, found) for t in trainings if (found := load_trained(run, t)) is not None]
    good = [training for training, found in done if not found.failed]
    if not good:
        raise RunError(f"the network has no weights: {done[0][1].failed}")
    return good[0]
