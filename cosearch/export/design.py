"""One design - a network, its accelerator and its mapping - as files.

``network.json``, ``workload.json``, ``accelerator.json``, ``mapping.json`` say what it is; ``weights.safetensors`` and
``model.onnx`` are the float network, ``integer.safetensors``, ``integers.npz`` and ``model_int8.onnx`` what hardware
computes. No file is a pickle; each is the old or the new one, never half.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cosearch.blueprint import Blueprint
from cosearch.costs import HardwareCosts, NetworkFront
from cosearch.errors import ConfigError, RunError, nearest
from cosearch.export.network import NetworkDescription
from cosearch.export.network_mapping import NetworkMapping
from cosearch.finalists import Training
from cosearch.hardware.accelerator import Accelerator
from cosearch.hardware.pricing import RESIDENCIES
from cosearch.hardware.report import point_report
from cosearch.problem import Problem
from cosearch.runs import RunDirectory, tensor_bytes, to_json
from cosearch.shortlist import Choice
from cosearch.workload import Workload
from cosearch.writing import clear_partial, write_within
from search_spaces.decisions import Arch, network_of

if TYPE_CHECKING:
    from torch import Tensor

DESCRIPTIONS = ("network", "workload", "accelerator", "mapping")
TRAINED = ("weights", "onnx", "integers")
WHAT = (*DESCRIPTIONS, *TRAINED)
"""What a run leaves of its finalist."""
OTHER_TOOLS = ("zigzag", "timeloop")
EVERYTHING = (*WHAT, *OTHER_TOOLS)
Tensors = tuple[dict[str, "Tensor"], dict[str, str]]


def parse_what(text: str) -> tuple[str, ...]:
    """A comma-separated choice of `EVERYTHING`, or ``all``.

    Raises: ConfigError with the nearest name.
    """
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if names == ("all",):
        return EVERYTHING
    for name in names:
        if name not in EVERYTHING:
            raise ConfigError(f"--what {name}: {nearest(name, EVERYTHING)}, or all of {', '.join(EVERYTHING)}")
    if not names:
        raise ConfigError(f"--what is empty: give some of {', '.join(EVERYTHING)}")
    return tuple(dict.fromkeys(names))


def design_files(
    run: RunDirectory, problem: Problem, choice: Choice, training: Training | None, what: Sequence[str]
) -> dict[str, bytes]:
    """The files of a design by name. training: of its network, done already; None if it has no weights.

    Raises: RunError if the training's weights are missing; ConfigError if another tool's files are asked for and there
    is no accelerator.
    """
    documents = {name: make(problem, choice) for name, make in _DOCUMENTS.items() if name in what}
    contents = {f"{name}.json": to_json(data).encode() for name, data in documents.items() if data is not None}
    if training is not None and set(TRAINED) & set(what):
        contents |= _trained(run, problem.space.blueprint(choice[0]), training, what)
    if set(OTHER_TOOLS) & set(what):
        designed = None
        if isinstance(problem.costs, HardwareCosts):
            designed = (problem.costs.accelerator(*choice), network_mapping(problem, choice))
        contents |= _for_other_tools(problem.device_name, problem.space.workload(choice[0]), designed, what)
    return contents


def write_files(contents: Mapping[str, bytes], to: Path) -> list[Path]:
    """Write files into a folder. Returns: the files. Raises: RunError."""
    for name in contents:
        clear_partial(to / name)
    return [write_within(to, name, content) for name, content in contents.items()]


FILES = {
    **{name: (f"{name}.json",) for name in DESCRIPTIONS},
    "weights": ("weights.safetensors", "integer.safetensors"),
    "onnx": ("model.onnx", "model_int8.onnx"),
    "integers": ("integers.npz",),
}
MOST_RECORDED = 1 << 30
"""Bytes of a file in best/ that is copied."""


def recorded_files(run: RunDirectory, arch: Arch, accelerator: str, what: Sequence[str]) -> dict[str, bytes] | None:
    """What `design_files` gives of the finalist, from the files in best/; None if they are not all there, or damaged.

    Nothing is priced or imported for it. arch, accelerator: of the finalist, "" for a device that is given.
    Raises: ConfigError as `design_files` does.
    """
    from cosearch.export.documents import read_design

    best = run.path / "best"
    given = set() if accelerator else {"accelerator", "mapping"}
    untrained = set() if run.config.trains else set(TRAINED)
    names = [file for asked in WHAT if asked in what and asked not in given | untrained for file in FILES[asked]]
    try:
        found = read_design(best)
        other = (found.accelerator.name if found.accelerator else "") != accelerator
        if other or found.description.arch != network_of(arch):
            return None
        if any((best / name).stat().st_size > MOST_RECORDED for name in names):
            return None
        contents = {name: (best / name).read_bytes() for name in names}
    except (OSError, RunError):
        return None
    if set(OTHER_TOOLS) & set(what):
        designed = (found.accelerator, found.mapping) if found.accelerator and found.mapping else None
        if bool(accelerator) != bool(designed):
            return None
        contents |= _for_other_tools(run.config.device, found.workload, designed, what)
    return contents


def _for_other_tools(
    device: str, workload: Workload, designed: tuple[Accelerator, NetworkMapping] | None, what: Sequence[str]
) -> dict[str, bytes]:
    """The files of each tool in a folder of its name. designed: None for a device that is given."""
    from cosearch.export.timeloop import timeloop_files
    from cosearch.export.zigzag import zigzag_files

    if designed is None:
        if set(what) == set(EVERYTHING):
            return {}
        raise ConfigError(f"--what {','.join(what)}: {device} is a device that is given, without a design")
    accelerator, mapping = designed
    made = {"zigzag": zigzag_files, "timeloop": timeloop_files}
    return {
        f"{name}/{path}": content.encode()
        for name, write in made.items()
        if name in what
        for path, content in write(workload, accelerator, mapping).items()
    }


def _network(problem: Problem, choice: Choice) -> dict[str, Any]:
    arch, data = network_of(choice[0]), problem.dataset
    found = NetworkDescription(problem.config.space, arch, problem.space.blueprint(arch))
    if data is not None:
        found = replace(found, pixel_mean=data.mean, pixel_std=data.std, classes=tuple(data.classes))
    return found.to_json()


def _workload(problem: Problem, choice: Choice) -> Any:
    return problem.space.workload(choice[0]).to_json()


def _accelerator(problem: Problem, choice: Choice) -> Any:
    """None for a device that is given: there is nothing to build."""
    costs = problem.costs
    return costs.accelerator(*choice).to_json() if isinstance(costs, HardwareCosts) else None


def _mapping(problem: Problem, choice: Choice) -> Any:
    return network_mapping(problem, choice).to_json() if isinstance(problem.costs, HardwareCosts) else None


def network_mapping(problem: Problem, choice: Choice) -> NetworkMapping:
    """How a network runs on an accelerator of its hardware front, as the front prices it."""
    assert isinstance(problem.costs, HardwareCosts)
    arch, point = choice
    workload = problem.space.workload(arch)
    [front] = problem.costs.fronts([arch])
    assert isinstance(front, NetworkFront)
    return NetworkMapping.of(
        workload,
        problem.costs.accelerator(arch, point),
        RESIDENCIES[int(front.hardware.residency[point])],
        point_report(workload, front.hardware, point),
        (float(front.metric("latency_ms")[point]), float(front.metric("energy_mj")[point])),
    )


_DOCUMENTS: dict[str, Callable[[Problem, Choice], Any]] = {
    "network": _network,
    "workload": _workload,
    "accelerator": _accelerator,
    "mapping": _mapping,
}


def _trained(run: RunDirectory, blueprint: Blueprint, training: Training, what: Sequence[str]) -> dict[str, bytes]:
    from cosearch.export.onnx_model import float_model, integer_model
    from cosearch.integer import from_tensors, trying

    weights, integers = (_tensors(run, f"{training.name}{kind}.safetensors") for kind in ("", ".integer"))
    contents: dict[str, bytes] = {}
    if "weights" in what:
        for name, (tensors, metadata) in (("weights", weights), ("integer", integers)):
            contents[f"{name}.safetensors"] = tensor_bytes(tensors, metadata)
    if "onnx" in what:
        network = _network_of(blueprint, weights[0], training)
        image, classes = blueprint.input_shape, blueprint.classifier.out_channels
        found, path = from_tensors(*integers), f"{run.path / training.name}.integer.safetensors"
        # ONNX's checker has errors of its own, and passes weights of more channels than there are
        with trying(found, image, path, f"remove {training.name}.json and run: {run.resume_command}"):
            integer = integer_model(found, image, classes)
        for name, model in (("model", float_model(network)), ("model_int8", integer)):
            contents[f"{name}.onnx"] = model.SerializeToString(deterministic=True)
    if "integers" in what:
        contents["integers.npz"] = npz(*integers)
    return contents


def _network_of(blueprint: Blueprint, weights: "dict[str, Tensor]", training: Training) -> Any:
    from cosearch.supernet.blocks import Network

    network = Network(blueprint, seed=None)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(f"{training.name}.safetensors does not fit its network: {str(error).splitlines()[0]}") from None
    return network


def npz(tensors: "dict[str, Tensor]", metadata: dict[str, str]) -> bytes:
    """The integer network for numpy, without pickle: each array in the narrowest type that holds it.

    Weights of a shift layer are written as ``<layer>.sign`` and ``<layer>.exponent``; ``network`` is the JSON text that
    says how layers are connected. A layer requantises as out = clamp((sum * multiplier + offset) >> shift, low, high).
    """
    structure = json.loads(metadata["network"])
    shifts = {step["name"] for step in structure["steps"] if step.get("op") == "shift"}
    arrays: dict[str, Any] = {"network": np.array(metadata["network"])}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        value = tensor.numpy()
        if part == "weight" and layer in shifts:
            arrays[f"{layer}.sign"] = np.sign(value).astype(np.int8)
            arrays[f"{layer}.exponent"] = np.log2(np.abs(value)).round().astype(np.int8)
        else:
            arrays[name] = value.astype(_narrowest(value))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _narrowest(value: Any) -> type:
    low, high = (int(value.min()), int(value.max())) if value.size else (0, 0)
    kinds = (np.int8, np.int16, np.int32, np.int64)
    return next(kind for kind in kinds if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)


def _tensors(run: RunDirectory, name: str) -> Tensors:
    loaded = run.load_tensors(name)
    if loaded is None:
        json_file = name.replace(".integer.safetensors", ".json").replace(".safetensors", ".json")
        raise RunError(f"{run.path / name} is missing: remove {json_file} and resume")
    return loaded
