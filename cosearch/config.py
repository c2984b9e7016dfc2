"""`RunConfig`: one flat model, the command line's options, the YAML file's keys and `cosearch.run`'s arguments."""

import math
import os
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cosearch.errors import ConfigError, DataError, nearest
from cosearch.reading import MOST_YAML_BYTES, can_be_named, parse_yaml, read

DATASETS = ("digits", "shapes", "cifar10", "cifar100")
FILE_SUFFIXES = (".csv", ".json", ".yaml", ".yml")
"""A device with one of these endings is a file."""
_brief = reprlib.Repr()  # a few aliases in YAML can stand for gigabytes of text
_brief.maxlevel, _brief.maxstring, _brief.maxother = 2, 80, 80


class RunConfig(BaseModel):
    """Everything that decides a run. Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    space: str = Field("shiftadd", description="Network space: a name (see `cosearch spaces`) or module:object.")
    device: str = Field(
        "fpga",
        description="Device: a part such as zcu102, a family such as fpga (its default part), a device file "
        "(.json, .yaml), or measurements (.csv: arch,latency_ms[,energy_mj]; no accelerator axis).",
    )
    data: str = Field(
        "digits",
        description="Dataset: digits, shapes (generated; or shapes:0.7, a difficulty from 0 to 1), cifar10, cifar100, "
        "a .npz file or a folder of class folders.",
    )
    data_dir: Path | None = Field(None, description="Folder with CIFAR's original Python batches.")
    accuracy: Literal["supernet", "table", "predictor", "train"] = Field(
        "supernet",
        description="Where accuracy comes from: supernet, table, predictor or train. "
        "A table without --accuracy-table is the bundled one of the space; nothing is trained then, and no data read.",
    )
    accuracy_table: Path | None = Field(None, description="CSV arch,accuracy for --accuracy table and predictor.")
    objectives: tuple[str, ...] = Field(
        ("accuracy", "latency_ms", "energy_mj"), description="What to optimise, comma-separated."
    )
    max_latency_ms: float | None = Field(None, gt=0, description="Hard limit on latency, ms.")
    max_energy_mj: float | None = Field(None, gt=0, description="Hard limit on energy per image, mJ.")
    max_area_mm2: float | None = Field(None, gt=0, description="Hard limit on area, mm2 (ASIC).")
    min_accuracy: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Limit on accuracy, as a fraction: if any network reaches it in the search, the front is of those, "
        "and so is the recommended design.",
    )
    constraint: tuple[str, ...] = Field(
        (),
        description="Limit on any objective, such as 'dsp<=100' or 'throughput_fps>=30'; may be given several times. "
        "Limits on hardware are hard; one on accuracy is --min-accuracy.",
        json_schema_extra={"repeatable": True},
    )
    recommend: Literal["cheapest", "knee"] = Field(
        "cheapest",
        description="The design to take. cheapest: of those within one standard error of the best accuracy the one "
        "with the least product of costs; knee: where the front of all objectives bends.",
    )
    accounting: Literal["element", "operator"] = Field(
        "element",
        description="Unit costs: element charges accumulator and operand registers with each operation; operator "
        "charges the bare operator, as many published shift/add results do.",
    )
    strategy: str = Field(
        "auto",
        description="Search strategy: auto (picks one and says why), bayesian, differentiable, evolutionary, "
        "reinforce, random, or Optuna's optuna-nsga2, optuna-nsga3, optuna-tpe, optuna-gp.",
    )
    trials: int = Field(
        200, ge=1, le=10_000_000, description="Accuracy evaluations of the search; each baseline gets as many."
    )
    minutes: float | None = Field(
        None,
        gt=0,
        description="Stop after this long with exit status 3; everything is kept, and resume goes on. Where it stops "
        "depends on the machine.",
    )
    baselines: bool = Field(
        True, description="Also search conv-only networks and at random, to show what co-search buys."
    )
    recipe: str = Field(
        "auto",
        description="How the supernet is trained: uniform, fair, sandwich, progressive, prune or gumbel; auto: "
        "uniform; with additions beside other operators progressive, from 6,000 training batches on sandwich.",
    )
    sharing: Literal["separate", "heterogeneous"] = Field(
        "separate",
        description="Weights of additions: separate ones, or those of convolutions read through a learned transform.",
    )
    kernels: Literal["crop", "transform"] = Field(
        "crop",
        description="Small kernels are the centre of the largest, or what a learned transform makes of that.",
    )
    guided: bool = Field(False, description="Train networks that meet the limits more often than others.")
    supernet_epochs: int = Field(90, ge=1, le=100_000, description="Epochs of supernet training.")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="Convolutions when the supernet's networks are evaluated: fp32, or bf16, which does not hold the "
        "simulated 8-bit values exactly and is slower on a CPU.",
    )
    finalist_epochs: int = Field(30, ge=1, le=100_000, description="Epochs of each finalist's stand-alone training.")
    finalist_start: Literal["scratch", "supernet"] = Field(
        "scratch", description="Finalists start from fresh weights, or from those that the supernet has for them."
    )
    finalist_simulated_epochs: int = Field(
        0,
        ge=0,
        description="Of a finalist's epochs the last ones, in which it computes with the hardware's 8 bits "
        "(quantisation-aware training; fewer bits are always trained as such).",
    )
    distil: bool = Field(False, description="Finalists also follow the supernet's largest network.")
    finalist_candidates: int = Field(
        1,
        ge=1,
        le=64,
        description="Networks of each search that compete to be its finalist: by successive halving, on short trainings"
        " scored on the validation images.",
    )
    finalist_seeds: int = Field(3, ge=1, le=100, description="Training seeds of each finalist.")
    seed: int = Field(0, ge=0, lt=2**63, description="Decides every random choice.")
    batch: int = Field(
        4, ge=1, le=100_000, description="Networks proposed together, from the results of earlier batches."
    )
    threads: int = Field(2, ge=1, le=1024, description="CPU threads; on Ray, those of one evaluation of large images.")
    ray: str | None = Field(
        None,
        pattern=r"^(local|auto|ray://[^/\s]+:\d+)$",
        description="Evaluate and train on Ray: local (the cores of this machine), auto (the cluster this machine is "
        "part of) or ray://host:port. Needs pip install '.[ray]'.",
    )
    ray_order: Literal["batch", "async"] | None = Field(
        None,
        description="batch: results are told in the order of asking, a batch at a time, and the search is the same as "
        "without Ray; async: as they come, so that no worker waits. [default: batch for local, async for a cluster]",
    )
    ray_cpus: float | None = Field(
        None,
        gt=0,
        description="CPUs that Ray reserves for one evaluation or training. [default: one, or the threads that it "
        "uses, if a node has as many]",
    )
    ray_gpus: float = Field(0.0, ge=0, description="GPUs, or the share of one, that Ray gives it.")
    torch_device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where networks are trained.")
    out: Path | None = Field(None, description="Run directory; must not exist. [default: runs/SPACE-DEVICE-seedSEED]")
    quiet: bool = Field(False, description="Print nothing but errors.")

    @field_validator("space", "device", "data", "data_dir", "accuracy_table", "out")
    @classmethod
    def _can_be_named(cls, value: Any) -> Any:
        if value is not None and not can_be_named(str(value)):
            raise ValueError("no file can be called so")
        return value

    @field_validator("objectives", "constraint", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            value = ",".join(map(str, value))
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    def with_absolute_paths(self) -> "RunConfig":
        """Files and folders by their full paths, so that the run can be resumed from anywhere."""
        update: dict[str, Any] = {}
        data, device = Path(self.data).expanduser(), Path(self.device).expanduser()
        if self.data not in DATASETS and os.path.exists(data):
            update["data"] = str(data.resolve())
        if device.suffix in FILE_SUFFIXES:
            update["device"] = str(device.resolve())
        for name in ("data_dir", "accuracy_table"):
            if getattr(self, name) is not None:
                update[name] = getattr(self, name).expanduser().resolve()
        return self.model_copy(update=update)

    @property
    def order(self) -> Literal["batch", "async"]:
        """In which order the search is told its results."""
        return self.ray_order or ("async" if self.ray not in (None, "local") else "batch")

    @property
    def group(self) -> int:
        """How many proposals use the same results."""
        return 1 if self.order == "async" else self.batch

    @property
    def trains(self) -> bool:
        """Whether finalists are trained: all accuracies of a bundled table are known, and its data is not at hand."""
        return self.accuracy != "table" or self.accuracy_table is not None

    @property
    def training(self) -> str:
        """How finalists are trained, for people."""
        start = "from scratch" if self.finalist_start == "scratch" else "from the supernet's weights"
        teacher = ", following its largest network" if self.distil else ""
        if self.distil and self.finalist_start == "scratch":
            teacher = ", following the supernet's largest network"
        last = f", the last {self.finalist_simulated_epochs} of {self.finalist_epochs} epochs in 8 bits"
        return start + teacher + (last if self.finalist_simulated_epochs else "")

    @property
    def constraints(self) -> dict[str, float]:
        """The limits that are set but for that on accuracy, by name.

        Raises: ConfigError for a constraint that is none.
        """
        return {name: value for name, value in self._limits.items() if name != "min_accuracy"}

    @property
    def least_accuracy(self) -> float:
        """What the recommended design must reach, however it was asked for."""
        return self._limits.get("min_accuracy", 0.0)

    @property
    def _limits(self) -> dict[str, float]:
        from cosearch.strategies.objectives import tightest

        named = ("max_latency_ms", "max_energy_mj", "max_area_mm2", "min_accuracy")
        given = [(name, value) for name in named if (value := getattr(self, name))]
        return tightest([*given, *map(parse_constraint, self.constraint)])

    @classmethod
    def make(cls, values: Mapping[str, Any]) -> "RunConfig":
        """Check a mapping of fields.

        Raises: ConfigError, one line, naming the field and, for an unknown one, the nearest.
        """
        for name in values:
            if name not in cls.model_fields:
                raise ConfigError(f"unknown option {str(name)!r}: {nearest(str(name), cls.model_fields)}")
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise ConfigError(f"{name}={_brief.repr(first['input'])}: {first['msg'].lower()}") from None

    def to_yaml(self) -> str:
        data = self.model_dump(mode="json")
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def parse_constraint(text: str) -> tuple[str, float]:
    """(name of the limit, value) of ``dsp<=100``.

    Raises: ConfigError.
    """
    from cosearch.strategies.objectives import split_limit

    for sign, side in (("<=", "max"), (">=", "min")):
        name, found, value = text.partition(sign)
        if found:
            try:
                number = float(value)
            except ValueError:
                raise ConfigError(f"constraint {text!r}: {value.strip()!r} is no number") from None
            if not math.isfinite(number):
                raise ConfigError(f"constraint {text!r}: expected a finite number")
            limited = "_".join(split_limit(f"{side}_{name.strip()}"))
            if limited == "max_accuracy":
                raise ConfigError(f"constraint {text!r}: accuracy has no upper limit, give 'accuracy>=VALUE'")
            return limited, number
    raise ConfigError(f"constraint {text!r}: expected NAME<=VALUE or NAME>=VALUE, as in 'dsp<=100'")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a configuration file.

    Raises: ConfigError if it is unreadable, too large or not a mapping.
    """
    try:
        data = read(path, parse_yaml, MOST_YAML_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror}): check the path") from None
    except DataError as error:
        raise ConfigError(f"{path} {error}: expected a configuration of a few lines") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds a {type(data).__name__}, expected lines of 'option: value'")
    return data
