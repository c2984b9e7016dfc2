"""Training of finalists, several seeds each, in worker processes of one thread.

A worker is ``python -m cosearch.finalists``: it reads one JSON job from standard input, writes one result file per
training into the run directory, and reports progress as JSON lines. One thread per training makes a result
independent of how many run at once.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cosearch.config import RunConfig
from cosearch.errors import CosearchError, RunError
from cosearch.runs import RunDirectory, read_inputs
from cosearch.writing import writing
from search_spaces.decisions import Arch, arch_key

FOLDER = "finalists"


@dataclass(frozen=True)
class Training:
    """One network, trained with one seed on training and validation images, and tested.

    heat: not 0 for a short training that decides who goes on: of so many epochs, on the training images alone, scored
    on the validation images.
    """

    arch: Arch
    seed: int
    operations: int
    heat: int = 0

    @property
    def name(self) -> str:
        return f"{FOLDER}/{_digest(self.arch)}-seed{self.seed}" + (f"-heat{self.heat}" if self.heat else "")

    @property
    def scored_on(self) -> str:
        return "validation" if self.heat else "test"

    def epochs(self, config: RunConfig) -> int:
        return self.heat or config.finalist_epochs


def _digest(arch: Arch) -> str:
    return hashlib.sha256(arch_key(arch).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Trained:
    """What a training reached on the images that it was scored on.

    correct: one character an image, 1 where the integer network is right. float_accuracy: of the network it came from.
    failed: why there is no network, if the training diverged.
    """

    correct: str
    float_accuracy: float
    failed: str = ""

    @property
    def integer_accuracy(self) -> float:
        """0 for a training that diverged: it loses every comparison."""
        return 0.0 if self.failed else self.correct.count("1") / len(self.correct)


def load_trained(run: RunDirectory, training: Training) -> Trained | None:
    """The result of a training that is done.

    Raises: RunError if the file is damaged.
    """
    if not (run.path / f"{training.name}.json").is_file():
        return None
    data = run.read_json(f"{training.name}.json")
    try:
        return _checked(**data[training.scored_on])
    except (KeyError, TypeError) as error:
        raise RunError(
            f"{run.path / training.name}.json is damaged ({error}): remove it and run: {run.resume_command}"
        ) from error


def _checked(correct: Any, float_accuracy: Any, failed: Any = "") -> Trained:
    """Raises: TypeError for what no training writes."""
    if not isinstance(failed, str) or not isinstance(correct, str) or set(correct) - {"0", "1"}:
        raise TypeError(f"correct={correct!r:.50}, failed={failed!r:.50}, expected a 0 or 1 of each image, and a text")
    if not correct and not failed:
        raise TypeError("no images and no reason")
    if isinstance(float_accuracy, bool) or not isinstance(float_accuracy, int | float) or not 0 <= float_accuracy <= 1:
        raise TypeError(f"float_accuracy={float_accuracy!r:.50}, expected a fraction")
    return Trained(correct, float_accuracy, failed)


def inherit(run: RunDirectory, space: Any, archs: Sequence[Arch]) -> None:
    """Write what finalists take from the run's supernet: their weights, and the teacher that they follow.

    A folder of the run then holds all that a training needs, whichever process does it.
    Raises: RunError if the supernet is not trained.
    """
    wanted = {
        name: space.largest() if arch is None else arch
        for name, arch in _inherited_files(run.config, archs).items()
        if not (run.path / name).is_file()
    }
    if not wanted:
        return
    from cosearch.supernet.checkpoint import load

    supernet = load(run, space)
    for name, arch in wanted.items():
        metadata = {"format": "cosearch.network", "version": "1", "arch": json.dumps(arch)}
        run.save_tensors(name, supernet.extract(space.blueprint(arch)).state_dict(), metadata)


TEACHER = f"{FOLDER}/teacher.safetensors"


def _inherited_files(config: RunConfig, archs: Sequence[Arch]) -> dict[str, Arch | None]:
    """What trainings of some networks take from the supernet: file -> whose weights, None for the largest network's."""
    files: dict[str, Arch | None] = {TEACHER: None} if config.distil else {}
    return files | {_start_file(arch): arch for arch in archs if config.finalist_start == "supernet"}


def read_inherited(run: RunDirectory, archs: Sequence[Arch]) -> dict[str, bytes]:
    """The files that `inherit` wrote for some networks, by their names in the run directory.

    Raises: RunError for one that is missing, or larger than any that is read.
    """
    return {name: run.tensor_file(name) for name in _inherited_files(run.config, archs)}


def _start_file(arch: Arch) -> str:
    return f"{FOLDER}/{_digest(arch)}-start.safetensors"


def _inherited(run: RunDirectory, space: Any, name: str, device: str) -> Any:
    """A network with the weights in a file that `inherit` wrote."""
    from cosearch.supernet.blocks import Network

    loaded = run.load_tensors(name)
    if loaded is None:
        raise RunError(f"{run.path / name} is missing: {run.resume_command}")
    tensors, metadata = loaded
    network = Network(space.blueprint(json.loads(metadata["arch"])), seed=None)
    network.load_state_dict(tensors)
    return network.to(device)


def train_all(
    run: RunDirectory,
    trainings: Sequence[Training],
    workers: int,
    on_epochs: Callable[[int], None],
) -> None:
    """Do the trainings that have no result yet.

    Raises: CosearchError with a worker's own message if one fails; RunError if its log cannot be written.
    """
    open_trainings = [t for t in trainings if load_trained(run, t) is None]
    # longest first, each to the least loaded worker
    loads: list[list[Training]] = [[] for _ in range(max(1, min(workers, len(open_trainings))))]
    for training in sorted(open_trainings, key=lambda t: (-t.operations, t.name)):
        min(loads, key=lambda load: sum(t.operations for t in load)).append(training)
    with writing(run.path / FOLDER):
        (run.path / FOLDER).mkdir(exist_ok=True)
    processes: list[subprocess.Popen[str]] = []
    try:
        for number, load in enumerate(filter(None, loads)):
            processes.append(_start(run, number, load))
        _watch(run, processes, on_epochs)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()


def _start(run: RunDirectory, number: int, trainings: Sequence[Training]) -> "subprocess.Popen[str]":
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
        "OMP_NUM_THREADS": "1",
    }
    path = run.path / FOLDER / f"worker{number}.log"
    with writing(path):
        log = path.open("w")
    with log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cosearch.finalists"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        )
    assert process.stdin is not None
    # the pipe stays open: when it closes, this process has ended, and so does the worker
    print(
        json.dumps({"run": str(run.path), "trainings": [asdict(t) for t in trainings]}), file=process.stdin, flush=True
    )
    return process


def _watch(run: RunDirectory, processes: "Sequence[subprocess.Popen[str]]", on_epochs: Callable[[int], None]) -> None:
    import selectors

    with selectors.DefaultSelector() as selector:
        for number, process in enumerate(processes):
            assert process.stdout is not None
            selector.register(process.stdout, selectors.EVENT_READ, (number, process))
        while selector.get_map():
            for key, _ in selector.select():
                line = key.fileobj.readline()  # type: ignore[union-attr]
                if line:
                    on_epochs(int(json.loads(line)["epochs"]))
                    continue
                selector.unregister(key.fileobj)
                number, process = key.data
                if process.wait() != 0:
                    log = run.path / FOLDER / f"worker{number}.log"
                    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                    raise CosearchError(lines[-1] if lines else f"a training process ended with {process.returncode}")


def train(run: RunDirectory, dataset: Any, space: Any, training: Training, on_epoch: Callable[[int], None]) -> Trained:
    """Train one finalist, convert it to integers, and open the test split; in a heat, score the validation images.

    A training that diverges is a result, too. The result file is written last: a training without it is done again.
    """
    import torch

    from cosearch.integer import integer_predictions, to_integer, to_tensors
    from cosearch.supernet.blocks import calibrate
    from cosearch.supernet.training import DivergedError, accuracy, finalist_recipe, torch_device, train_network

    config, dataset = run.config, dataset.sealed()
    device = torch_device(config.torch_device)
    split, epochs = dataset.train if training.heat else dataset.development(), training.epochs(config)
    inherits = config.finalist_start == "supernet"
    network = (
        _inherited(run, space, _start_file(training.arch), device)
        if inherits
        else space.build(training.arch, training.seed)
    )
    recipe = finalist_recipe(epochs, min(epochs, config.finalist_simulated_epochs), inherits)
    teacher = _inherited(run, space, TEACHER, device) if config.distil else None
    if teacher is not None:
        calibrate(teacher, torch.from_numpy(split.x).to(device))
    described = {"arch": training.arch, "seed": training.seed, "epochs": epochs}
    try:
        train_network(network, split, recipe, training.seed, dataset.mirror, device, on_epoch, teacher)
    except DivergedError as error:
        result = Trained("", 0.0, str(error))
        run.write_json(f"{training.name}.json", {**described, training.scored_on: asdict(result)})
        return result
    scored = dataset.validation if training.heat else open_test(run, dataset, training)
    float_accuracy = accuracy(network, scored, device)
    integer = to_integer(network, torch.from_numpy(split.x))
    right = integer_predictions(integer, torch.from_numpy(scored.x)) == torch.from_numpy(scored.y)
    result = Trained("".join("1" if image else "0" for image in right.tolist()), float_accuracy)
    if not training.heat:
        metadata = {"format": "cosearch.network", "version": "1", "arch": json.dumps(training.arch)}
        run.save_tensors(f"{training.name}.safetensors", network.state_dict(), metadata)
        run.save_tensors(f"{training.name}.integer.safetensors", *to_tensors(integer))
    run.write_json(f"{training.name}.json", {**described, training.scored_on: asdict(result)})
    return result


def open_test(run: RunDirectory, dataset: Any, training: Training) -> Any:
    """The test images for a network that is trained to the end; the run's log says that they were opened, and for what.

    Nothing else of the project opens them.
    """
    run.log("test", training=training.name.removeprefix(f"{FOLDER}/"))
    return dataset.open_test()


def _main() -> int:
    import torch

    from cosearch.problem import load_data_and_space

    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    try:
        run = RunDirectory.open(Path(job["run"]))
        dataset, space = load_data_and_space(run.config)
        require_same_data(run, dataset)
        for item in job["trainings"]:
            train(run, dataset, space, Training(**item), _report)
    except CosearchError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def require_same_data(run: RunDirectory, dataset: Any) -> None:
    """Raises: RunError if the images are not those that the search began with."""
    known = read_inputs(run)
    if known is not None and known.get("data") != dataset.content_hash:
        raise RunError(
            f"{run.path}: data changed since this run was started: put it back and run: {run.resume_command}, or start "
            "a new run"
        )


def _end_with_parent() -> None:
    # the descriptor itself: a thread that waits in sys.stdin would hold its lock when the interpreter ends
    while os.read(0, 1024):
        pass
    os._exit(1)


def _report(_: int) -> None:
    print(json.dumps({"epochs": 1}), flush=True)


if __name__ == "__main__":
    sys.exit(_main())
