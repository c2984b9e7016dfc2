"""Whatever is read from files, with files that are nearly right: it is read, or refused in one line by an own error.

A target is a reader and files that it reads. A case changes one of these: bytes anywhere, or, where the file is JSON or
YAML, values anywhere in it. `attempt` gives the reader the case.
"""

import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import cosearch
from cosearch.config import RunConfig, read_yaml
from cosearch.costs import read_table
from cosearch.errors import MOST_CHARACTERS, CosearchError
from cosearch.hardware.parts import load_device
from cosearch.models.onnx_file import read_report
from cosearch.workload import Workload
from search_spaces.decisions import parse_arch
from tests import tiny_space

STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 2**31, 2**63, 2**64, 10**400, -(10**400), 0.0, -0.0, 0.5, 1e308, -1e308, 5e-324,
    float("nan"), float("inf"), -float("inf"), "", "a", "conv", "NaN", "1e999", "\x00", "\u202e\U0001f4a9", "../../etc",
    "<script>", "x" * 10_000, [], {}, [[]], [None], {"": None}, [1] * 1000, "0" * 5000, {"a": {"a": {"a": {}}}},
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """read: takes a path. files: contents of files that it reads. suffix: of their names."""

    read: Callable[[Path], Any]
    files: tuple[bytes, ...]
    suffix: str


def change(rng: np.random.Generator, data: Any) -> Any:
    """One value anywhere in a tree of JSON, changed, removed, doubled or wrapped."""
    if isinstance(data, dict) and data and rng.random() < 0.9:
        key = list(data)[int(rng.integers(len(data)))]
        what = rng.random()
        rest = {k: v for k, v in data.items() if k != key}
        if what < 0.1:
            return rest
        if what < 0.15:
            return {**rest, str(_strange(rng))[:50]: data[key]}
        return {k: change(rng, v) if k == key else v for k, v in data.items()}
    if isinstance(data, list) and data and rng.random() < 0.9:
        at = int(rng.integers(len(data)))
        what = rng.random()
        if what < 0.1:
            return data[:at] + data[at + 1 :]
        if what < 0.2:
            return [*data, data[at]]
        return [change(rng, v) if i == at else v for i, v in enumerate(data)]
    if isinstance(data, int | float) and abs(data) < 1e300 and rng.random() < 0.4:
        return (
            data * float(rng.choice([-1, 0, 0.5, 2, 1e6, 1e300])) if rng.random() < 0.5 else int(rng.integers(-5, 99))
        )
    return [data] if rng.random() < 0.05 else _strange(rng)


def _strange(rng: np.random.Generator) -> Any:
    return STRANGE[int(rng.integers(len(STRANGE)))]


def spoil(rng: np.random.Generator, content: bytes) -> bytes:
    """Bytes cut off, flipped, repeated, replaced or put in."""
    what, n = int(rng.integers(5)), len(content)
    a, b = sorted(int(i) for i in rng.integers(0, n + 1, 2))
    if what == 0:
        return content[:a]
    if what == 1:
        return content[:a] + content[b:]
    if what == 2:
        return content[:b] + content[a:b] * int(rng.integers(1, 4)) + content[b:]
    if what == 3:
        return content[:a] + rng.bytes(int(rng.integers(1, 9))) + content[a:]
    flipped = bytearray(content)
    for at in rng.integers(0, max(1, n), int(rng.integers(1, 4))):
        if n:
            flipped[int(at)] ^= 1 << int(rng.integers(8))
    return bytes(flipped)


def case(rng: np.random.Generator, target: Target) -> bytes:
    content = target.files[int(rng.integers(len(target.files)))]
    tree = _tree(content, target.suffix)
    if tree is None or rng.random() < 0.3:
        return spoil(rng, content)
    for _ in range(int(rng.integers(1, 4))):
        tree = change(rng, tree)
    return json.dumps(tree).encode() if target.suffix == ".json" else yaml.safe_dump(tree, allow_unicode=True).encode()


def _tree(content: bytes, suffix: str) -> Any:
    if suffix == ".json":
        return json.loads(content)
    return yaml.safe_load(content) if suffix == ".yaml" else None


def attempt(target: Target, content: bytes, folder: Path) -> bool:
    """Whether the content is read. Raises: whatever is no error of the project's own, or has more than one line."""
    path = folder / f"case{target.suffix}"
    path.write_bytes(content)
    try:
        target.read(path)
    except CosearchError as error:
        said = str(error)
    else:
        return True
    assert "\n" not in said, f"an error of several lines: {said}"
    assert len(said) <= MOST_CHARACTERS, f"an error of {len(said)} characters: {said[:200]}"
    return False


def _yaml_config(path: Path) -> None:
    config = RunConfig.make(read_yaml(path))
    _ = config.constraints
    config.to_yaml()


def _table(path: Path) -> None:
    read_table(path, tiny_space.space(), "latency_ms", ("energy_mj",))


def _arch(path: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    parse_arch(text, tiny_space.space())


def _import(path: Path) -> None:
    import hwbench_data.importing as importing

    value = importing.Value("d", "latency_ms", "ms")
    mapping = None if path.suffix == ".pickle" else importing.ColumnMap("index", {"ms": value})
    space = "fbnet_blocks" if path.suffix == ".csv" else "nasbench201"
    importing.import_file(path, space, mapping, path.parent / "imported", "cifar10")


def targets(folder: Path) -> Mapping[str, Target]:
    """folder: of the best design of a finished run."""
    space = tiny_space.space()
    arch = {name: options[0] for name, options in space.choices.items()}
    rows = "".join(f"{json.dumps(json.dumps(arch))},{ms},1\n".replace('\\"', '""') for ms in (1.5, 2.5))
    published = {"nasbench201": {"cifar10": {"d_latency": [1.0] * 15_625, "d_energy": [2.0] * 15_625}}}
    documents = {
        name: Target(cosearch.load, (_bytes(folder / f"{name}.json"),), ".json")
        for name in ("network", "accelerator", "mapping", "workload")
    }
    parts = Path(cosearch.__file__).parent / "hardware" / "data" / "parts"
    return {
        "configuration": Target(
            _yaml_config, (RunConfig().to_yaml().encode(), b"space: shiftadd\ntrials: 5\n"), ".yaml"
        ),
        "arch": Target(
            _arch, (json.dumps(arch).encode(), ";".join(f"{k}={v}" for k, v in arch.items()).encode()), ".txt"
        ),
        "measurements": Target(_table, (f"arch,latency_ms,energy_mj\n{rows}".encode(),), ".csv"),
        **documents,
        "part": Target(lambda path: load_device(str(path)), tuple(map(_bytes, sorted(parts.glob("*.json")))), ".json"),
        "workload of a file": Target(
            lambda p: Workload.from_json(p.read_text(errors="replace")), (_bytes(folder / "workload.json"),), ".json"
        ),
        "ONNX": Target(read_report, (_bytes(folder / "model.onnx"),), ".onnx"),
        "imported table": Target(_import, (b"index,ms\na,1\nb,2\nc,3.5\n",), ".csv"),
        "published pickle": Target(_import, (pickle.dumps(published),), ".pickle"),
    }


def _bytes(path: Path) -> bytes:
    return path.read_bytes()
