"""Documents of designs: what `cosearch.load` reads from a file or from a folder of one design.

Each document is a JSON object with a format and a version, described by a JSON Schema in `schemas/`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosearch.errors import CosearchError, DataError, RunError, nearest
from cosearch.export.network import NetworkDescription
from cosearch.export.network_mapping import NetworkCost, NetworkMapping
from cosearch.export.schema import check
from cosearch.hardware.accelerator import Accelerator
from cosearch.hardware.mapping import Mapping as LayerMapping
from cosearch.reading import parse_json, read, require_tensor_size
from cosearch.workload import Workload

if TYPE_CHECKING:
    from cosearch.supernet.blocks import Network

VERSION = 1
Document = NetworkDescription | Workload | Accelerator | NetworkMapping | LayerMapping


def _checked(name: str, read: Callable[[dict[str, Any]], Document]) -> Callable[[dict[str, Any]], Document]:
    """A reader of documents that are described by a schema."""

    def checked(data: dict[str, Any]) -> Document:
        check(data, name)
        return read(data)

    return checked


_READERS: dict[str, Callable[[dict[str, Any]], Document]] = {
    "cosearch.network": NetworkDescription.from_json,
    "cosearch.workload": _checked("workload", Workload.from_json),
    "cosearch.accelerator": _checked("accelerator", Accelerator.from_json),
    "cosearch.network_mapping": NetworkMapping.from_json,
    "cosearch.mapping": LayerMapping.from_json,
}


@dataclass(frozen=True)
class SavedDesign:
    """A folder with one design. network: with its weights, None where the files hold none; accelerator, mapping: None
    for a device that is given.
    """

    path: str
    description: NetworkDescription
    workload: Workload
    network: "Network | None"
    accelerator: Accelerator | None
    mapping: NetworkMapping | None

    def cost(self) -> NetworkCost:
        """Latency and energy of one image, counted again from the loop nests.

        Raises: RunError if there is no accelerator; HardwareError if the files do not belong together.
        """
        if self.accelerator is None or self.mapping is None:
            raise RunError(f"{self.path} has no accelerator.json and mapping.json: its device was given, not designed")
        return self.mapping.cost(self.workload, self.accelerator)

    def _repr_html_(self) -> str:
        return (self.workload if self.mapping is None else self.mapping)._repr_html_()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of limited size and depth.

    Raises: RunError.
    """
    try:
        data = read(path, parse_json)
    except OSError as error:
        raise RunError(f"cannot read {path} ({error.strerror}): check the path") from None
    except DataError as error:
        raise RunError(f"{path} {error}: no document of a design does; export it again") from None
    if not isinstance(data, dict):
        raise RunError(f"{path} holds a {type(data).__name__}, expected a JSON object with a format and a version")
    return data


def read_document(path: Path) -> Document:
    """What one file describes.

    Raises: RunError naming the file and what is wrong with it.
    """
    data = read_json(path)
    form = str(data.get("format"))
    if form == "cosearch.result":
        raise RunError(f"{path} is one file of a run: load the run directory {path.parent}")
    if form not in _READERS:
        raise RunError(f"{path} has format {form!r:.80}: {nearest(form[:80], _READERS)}")
    if data.get("version") != VERSION:
        got = data.get("version")
        raise RunError(f"{path} has version {got!r:.80}, this cosearch reads version {VERSION}: export it again")
    try:
        return _READERS[form](data)
    except CosearchError as error:
        raise RunError(f"{path}: {error}") from error


def _read(folder: Path, name: str, kind: type) -> Any:
    path = folder / f"{name}.json"
    found = read_document(path)
    if not isinstance(found, kind):
        raise RunError(f"{path} describes something else than its name says: export it again")
    return found


def read_design(folder: Path) -> SavedDesign:
    """A folder with network.json and workload.json, and what else there is of the same design.

    Raises: RunError naming the file that is missing, damaged or of another design.
    """
    description: NetworkDescription = _read(folder, "network", NetworkDescription)
    workload: Workload = _read(folder, "workload", Workload)
    if description.workload(workload.name) != workload:
        raise RunError(f"{folder}: network.json and workload.json are not of the same network: export them again")
    accelerator = _read(folder, "accelerator", Accelerator) if (folder / "accelerator.json").is_file() else None
    mapping = _read(folder, "mapping", NetworkMapping) if (folder / "mapping.json").is_file() else None
    weights = folder / "weights.safetensors"
    network = _network(description, weights) if weights.is_file() else None
    return SavedDesign(str(folder), description, workload, network, accelerator, mapping)


def _network(description: NetworkDescription, path: Path) -> "Network":
    """The module with the weights of a file; nothing is allocated before the file is known to hold them.

    Raises: RunError.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        require_tensor_size(path)
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}): export it again") from None
    with torch.device("meta"):
        expected = {name: value.shape for name, value in description.build(seed=None).state_dict().items()}
    found = {name: value.shape for name, value in weights.items()}
    if expected != found:
        odd = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise RunError(f"{path} does not fit network.json: {odd[0]!r} differs; export both again")
    network = description.build(seed=None)
    network.load_state_dict(weights)
    return network.eval()
