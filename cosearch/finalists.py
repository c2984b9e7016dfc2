"""Stand-alone training of finalists, several seeds each, in worker processes of one thread.

A worker is ``python -m cosearch.finalists``: it reads one JSON job from standard input, writes one result file per
training into the run directory, and reports progress as JSON lines. One thread per training makes a result
independent of how many run at once.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cosearch.errors import CosearchError
from cosearch.runs import RunDirectory
from search_spaces.decisions import Arch, arch_key

FOLDER = "finalists"


@dataclass(frozen=True)
class Training:
    """One network, trained from scratch with one seed on training and validation images."""

    arch: Arch
    seed: int
    operations: int

    @property
    def name(self) -> str:
        digest = hashlib.sha256(arch_key(self.arch).encode()).hexdigest()[:12]
        return f"{FOLDER}/{digest}-seed{self.seed}"


@dataclass(frozen=True)
class Trained:
    """Test accuracies of a training: of the integer network, and of the float network it came from."""

    integer_accuracy: float
    float_accuracy: float
    images: int


def load_trained(run: RunDirectory, training: Training) -> Trained | None:
    if not (run.path / f"{training.name}.json").is_file():
        return None
    data = run.read_json(f"{training.name}.json")
    return Trained(**data["test"])


def train_all(
    run: RunDirectory,
    trainings: Sequence[Training],
    workers: int,
    on_epochs: Callable[[int], None],
) -> None:
    """Do the trainings that have no result yet.

    Raises: CosearchError with a worker's own message if one fails.
    """
    open_trainings = [t for t in trainings if load_trained(run, t) is None]
    # longest first, each to the least loaded worker
    loads: list[list[Training]] = [[] for _ in range(max(1, min(workers, len(open_trainings))))]
    for training in sorted(open_trainings, key=lambda t: (-t.operations, t.name)):
        min(loads, key=lambda load: sum(t.operations for t in load)).append(training)
    processes = [_start(run, load) for load in loads if load]
    try:
        _watch(processes, on_epochs)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def _start(run: RunDirectory, trainings: Sequence[Training]) -> "subprocess.Popen[str]":
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "cosearch.finalists"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdin is not None
    json.dump({"run": str(run.path), "trainings": [asdict(t) for t in trainings]}, process.stdin)
    process.stdin.close()
    return process


def _watch(processes: "Sequence[subprocess.Popen[str]]", on_epochs: Callable[[int], None]) -> None:
    import selectors

    with selectors.DefaultSelector() as selector:
        for process in processes:
            assert process.stdout is not None
            selector.register(process.stdout, selectors.EVENT_READ, process)
        while selector.get_map():
            for key, _ in selector.select():
                line = key.fileobj.readline()  # type: ignore[union-attr]
                if line:
                    on_epochs(int(json.loads(line)["epochs"]))
                    continue
                selector.unregister(key.fileobj)
                process = key.data
                if process.wait() != 0:
                    message = (process.stderr.read() or "").strip().splitlines()
                    raise CosearchError(
                        message[-1] if message else f"a training process ended with {process.returncode}"
                    )


def train(run: RunDirectory, dataset: Any, space: Any, training: Training, on_epoch: Callable[[int], None]) -> Trained:
    """Train one finalist from scratch, convert it to integers, and open the test split.

    The result file is written last: a training without it is done again.
    """
    import torch

    from cosearch.integer import integer_accuracy, to_integer
    from cosearch.supernet.training import accuracy, finalist_recipe, torch_device, train_network

    config = run.config
    device = torch_device(config.torch_device)
    split = dataset.development()
    network = space.build(training.arch, training.seed)
    train_network(
        network, split, finalist_recipe(config.finalist_epochs), training.seed, dataset.mirror, device, on_epoch
    )
    test = dataset.open_test()
    float_accuracy = accuracy(network, test, device)
    integer = to_integer(network, torch.from_numpy(split.x))
    result = Trained(integer_accuracy(integer, test), float_accuracy, len(test))
    metadata = {"format": "cosearch.network", "version": "1", "arch": json.dumps(training.arch)}
    run.save_tensors(f"{training.name}.safetensors", network.state_dict(), metadata)
    run.write_json(
        f"{training.name}.json",
        {"arch": training.arch, "seed": training.seed, "epochs": config.finalist_epochs, "test": asdict(result)},
    )
    return result


def _main() -> int:
    import torch

    from cosearch.engine import load_problem_data

    job = json.load(sys.stdin)
    run = RunDirectory.open(Path(job["run"]))
    torch.set_num_threads(1)
    try:
        dataset, space = load_problem_data(run.config)
        for item in job["trainings"]:
            train(run, dataset, space, Training(**item), _report)
    except CosearchError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _report(_: int) -> None:
    print(json.dumps({"epochs": 1}), flush=True)


if __name__ == "__main__":
    sys.exit(_main())
