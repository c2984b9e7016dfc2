"""A network as a document: its steps, from which the module is built again, and what its images and classes are.

The steps are data, so that a file is read without the code of the space that it came from.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, get_args

from cosearch.blueprint import Blueprint, Conv, Linear, Norm, Pool, Step, Sum, down
from cosearch.errors import ConfigError, CosearchError, RunError
from cosearch.export.schema import check
from cosearch.notebook import html_table
from cosearch.workload import INPUT, Workload

if TYPE_CHECKING:
    from cosearch.runs import RunDirectory
    from cosearch.supernet.blocks import Network

FORMAT = "cosearch.network"


@dataclass(frozen=True)
class NetworkDescription:
    """space, arch: where the network comes from. pixel_mean, pixel_std: per channel, what images are standardised with;
    these and the names of the classes are empty where the network was never trained on images.
    """

    space: str
    arch: dict[str, Any]
    blueprint: Blueprint
    pixel_mean: tuple[float, ...] = ()
    pixel_std: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()

    def build(self, seed: int | None = 0) -> "Network":
        """The torch module with fresh weights, or uninitialised ones for None."""
        from cosearch.supernet.blocks import Network

        return Network(self.blueprint, seed)

    def workload(self, name: str) -> Workload:
        return self.blueprint.workload(name)

    def _repr_html_(self) -> str:
        return html_table(f"{self.space}: network", ("decision", "choice"), [(k, str(v)) for k, v in self.arch.items()])

    def to_json(self) -> dict[str, Any]:
        described = {
            "format": FORMAT,
            "version": 1,
            "space": self.space,
            "arch": self.arch,
            "input_shape": list(self.blueprint.input_shape),
            "steps": [{"step": type(step).__name__.lower(), **asdict(step)} for step in self.blueprint.steps],
        }
        if not self.classes:
            return described
        scaling = {"pixel_mean": list(self.pixel_mean), "pixel_std": list(self.pixel_std)}
        return {**described, **scaling, "classes": list(self.classes)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "NetworkDescription":
        """Raises: RunError if the document is not a network; ConfigError if its steps do not fit each other."""
        check(data, "network")
        shape = [int(value) for value in data["input_shape"]]
        blueprint = Blueprint((shape[0], shape[1], shape[2]), tuple(map(_step, data["steps"])))
        _check_shapes(blueprint)
        mean, std = (tuple(map(float, data.get(name, ()))) for name in ("pixel_mean", "pixel_std"))
        classes = tuple(data.get("classes", ()))
        sizes = (len(mean), len(std), len(classes))
        expected = (shape[0], shape[0], blueprint.classifier.out_channels)
        if sizes not in (expected, (0, 0, 0)):
            raise ConfigError(f"pixel_mean, pixel_std and classes have {sizes} entries, expected {expected} or none")
        return cls(data["space"], dict(data["arch"]), blueprint, mean, std, classes)


def read_network(run: "RunDirectory") -> NetworkDescription:
    """The network of a finished run's best design.

    Raises: RunError if the run is not finished, or the file is damaged.
    """
    name = "best/network.json"
    data = run.read_json(name)
    try:
        return NetworkDescription.from_json(data)
    except CosearchError as error:
        raise RunError(f"{run.path / name} is damaged ({error}): remove it and run: {run.resume_command}") from None


_STEPS: dict[str, type[Step]] = {kind.__name__.lower(): kind for kind in get_args(Step)}


def _step(data: Mapping[str, Any]) -> Step:
    """One step from its JSON form."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return tuple(int(item) for item in value)
        return value if isinstance(value, str) else int(value)

    made: Any = {name: plain(value) for name, value in data.items() if name != "step"}
    return _STEPS[data["step"]](**made)


def _check_shapes(blueprint: Blueprint) -> None:
    """Raises: ConfigError naming a step that does not fit what it reads, or a name that occurs twice."""
    channels, *size = blueprint.input_shape
    made: dict[int, tuple[int, tuple[int, ...]]] = {INPUT: (channels, tuple(size))}
    if len({step.name for step in blueprint.steps}) != len(blueprint.steps):
        raise ConfigError("two steps of a network have the same name")
    for i, step in enumerate(blueprint.steps):
        wanted = step.in_channels if isinstance(step, Conv | Linear) else step.channels
        for channels, read in (made[source] for source in step.reads):
            fits = channels == wanted
            if isinstance(step, Sum):
                fits &= read == step.size
            elif isinstance(step, Conv):
                fits &= down(read, step.stride) == step.size
            elif isinstance(step, Pool):
                fits &= step.size in ((1, 1), down(read, step.stride))
            if not fits:
                raise ConfigError(f"step {step.name!r:.80} does not fit the {channels} x {read} values that it reads")
        if isinstance(step, Conv) and (step.in_channels % step.groups or step.out_channels % step.groups):
            raise ConfigError(f"step {step.name!r:.80}: {step.groups} groups do not divide its channels")
        here = made[step.source][1] if isinstance(step, Norm | Linear) else step.size
        made[i] = (step.out_channels if isinstance(step, Conv | Linear) else step.channels, here)
