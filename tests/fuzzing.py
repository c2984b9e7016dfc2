"""Whatever is read from files, with files that are nearly right: it is read, or refused in one line by an own error.

A target is a reader and files that it reads. A case changes one of these: bytes anywhere, or, where the file has a form
that is known here, values anywhere in it. `attempt` gives the reader the case. The targets are in `tests.fuzzed`.
"""

import ast
import csv
import io
import json
import resource
import struct
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cosearch.errors import MOST_CHARACTERS, CosearchError

SECONDS, MEBIBYTES = 10.0, 1024
"""Of processor time, and of memory beyond the most that there was before, that one file may take."""

STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 2**31, 2**63, 2**64, 10**400, -(10**400), 0.0, -0.0, 0.5, 1e308, -1e308, 5e-324,
    float("nan"), float("inf"), -float("inf"), "", "a", "conv", "NaN", "1e999", "\x00", "\u202e\U0001f4a9", "../../etc",
    "<script>", "\ud800", "\x1b[31m", "[/red]",
    "x" * 10_000, [], {}, [[]], [None], {"": None}, [1] * 1000, "0" * 5000, {"a": {"a": {"a": {}}}},
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """read: takes a path. files: contents of files that it reads. suffix: of their names; it tells their form.

    share: of the cases; readers that take many milliseconds get fewer than others.
    """

    read: Callable[[Path], Any]
    files: tuple[bytes, ...]
    suffix: str
    share: int = 20


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
    form = _FORMS.get(target.suffix)
    if form is None or rng.random() < 0.3:
        return spoil(rng, content)
    tree, write = form(content)
    for _ in range(int(rng.integers(1, 4))):
        tree = change(rng, tree)
    return write(tree)


# -- forms: the values in a file as a tree, and how they are written again --

Write = Callable[[Any], bytes]


def _json(content: bytes) -> tuple[Any, Write]:
    return json.loads(content), lambda tree: json.dumps(tree).encode()


def _lines(content: bytes) -> tuple[Any, Write]:
    """JSON, a value a line."""

    def write(tree: Any) -> bytes:
        return b"".join(json.dumps(line).encode() + b"\n" for line in (tree if isinstance(tree, list) else [tree]))

    return [json.loads(line) for line in content.splitlines()], write


def _yaml(content: bytes) -> tuple[Any, Write]:
    return yaml.safe_load(content), lambda tree: yaml.safe_dump(tree, allow_unicode=True).encode(
        "utf-8", "surrogatepass"
    )


def _csv(content: bytes) -> tuple[Any, Write]:
    def write(tree: Any) -> bytes:
        text = io.StringIO()
        rows = tree if isinstance(tree, list) else [tree]
        csv.writer(text).writerows(row if isinstance(row, list) else [row] for row in rows)
        return text.getvalue().encode("utf-8", "surrogatepass")

    return list(csv.reader(io.StringIO(content.decode()))), write


def _tensors(content: bytes) -> tuple[Any, Write]:
    """safetensors: its header, and what stands as JSON text in its metadata."""
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    described = header.get("__metadata__", {})
    inner = {name for name, text in described.items() if text.startswith("{")}
    header["__metadata__"] = {name: json.loads(text) if name in inner else text for name, text in described.items()}

    def write(tree: Any) -> bytes:
        if isinstance(tree, dict) and isinstance(tree.get("__metadata__"), dict):
            again = {k: json.dumps(v) if k in inner else v for k, v in tree["__metadata__"].items()}
            tree = {**tree, "__metadata__": again}
        text = json.dumps(tree).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + size :]

    return header, write


def _arrays(content: bytes) -> tuple[Any, Write]:
    """.npz: of each member the header, which says what its bytes are, and how many of these are changed."""
    headers, data = {}, {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            member = archive.read(name)
            (size,) = struct.unpack("<H", member[8:10])
            headers[name], data[name] = ast.literal_eval(member[10 : 10 + size].decode()), member[10 + size :]
            headers[name] |= {"shape": list(headers[name]["shape"]), "flipped": 0}

    def write(tree: Any) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, header in tree.items() if isinstance(tree, dict) else ():
                values = bytearray(data.get(name, b""))
                if isinstance(header, dict):
                    flipped = header.pop("flipped", 0)
                    for at in range(min(flipped, len(values)) if isinstance(flipped, int) else 0):
                        values[at] ^= 255
                    if isinstance(header.get("shape"), list):
                        header["shape"] = tuple(header["shape"])
                text = repr(header).encode("utf-8", "replace")[:65_000] + b"\n"
                prefix = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text))
                called = name.replace("\0", "").encode("utf-8", "replace").decode()[:1000] or "x"
                archive.writestr(called, prefix + text + bytes(values))
        return buffer.getvalue()

    return headers, write


_FORMS: dict[str, Callable[[bytes], tuple[Any, Write]]] = {
    ".json": _json,
    ".jsonl": _lines,
    ".db": _lines,
    ".yaml": _yaml,
    ".csv": _csv,
    ".safetensors": _tensors,
    ".npz": _arrays,
}


def attempt(target: Target, content: bytes, folder: Path) -> bool:
    """Whether the content is read.

    Raises: whatever is no error of the project's own, or has more than one line; AssertionError for a file that takes
    long, or much memory.
    """
    path = folder / f"case{target.suffix}"
    path.write_bytes(content)
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = ""
    try:
        target.read(path)
    except CosearchError as error:
        said = str(error)
        assert said, "an error without a word"
    assert "\n" not in said, f"an error of several lines: {said}"
    assert said.isprintable(), f"an error that would steer a terminal: {said!r}"
    assert len(said) <= MOST_CHARACTERS, f"an error of {len(said)} characters: {said[:200]}"
    seconds = time.process_time() - started
    mebibytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    assert seconds < SECONDS, f"it took {seconds:.1f} s"
    assert mebibytes < MEBIBYTES, f"it took {mebibytes} MiB"
    return not said
