"""The finalist's ONNX files in a run directory."""

from typing import TYPE_CHECKING

from cosearch.blueprint import Blueprint
from cosearch.errors import RunError
from cosearch.runs import RunDirectory, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

FLOAT, INTEGER = "best/model.onnx", "best/model_int8.onnx"


def write_models(run: RunDirectory, blueprint: Blueprint) -> None:
    """Write the float and the integer network of ``best/`` as ONNX.

    Raises: RunError if their weights are missing or are another network's.
    """
    from cosearch.export.onnx_model import float_model, integer_model
    from cosearch.integer import from_tensors
    from cosearch.supernet.blocks import Network

    network = Network(blueprint, seed=None)
    try:
        network.load_state_dict(_tensors(run, "best/weights.safetensors")[0])
    except RuntimeError as error:
        raise RunError(f"{run.path}/best/weights.safetensors does not fit: {str(error).splitlines()[0]}") from None
    integer = from_tensors(*_tensors(run, "best/integer.safetensors"))
    image, classes = blueprint.input_shape, blueprint.classifier.out_channels
    for name, model in ((FLOAT, float_model(network)), (INTEGER, integer_model(integer, image, classes))):
        write_atomic(run.path / name, model.SerializeToString(deterministic=True))


def _tensors(run: RunDirectory, name: str) -> "tuple[dict[str, Tensor], dict[str, str]]":
    loaded = run.load_tensors(name)
    if loaded is None:
        raise RunError(f"{run.path / name} is missing: finish the run with: cosearch resume {run.path}")
    return loaded
