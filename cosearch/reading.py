"""JSON, YAML and CSV that anyone may have written: of limited size and depth, with finite numbers, and never code."""

import csv
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cosearch.errors import DataError, one_line

if TYPE_CHECKING:
    import numpy as np

MOST_BYTES = 16 << 20
"""Of a document."""
MOST_YAML_BYTES = 1 << 20
"""YAML is written by hand, and its parser takes seconds for a megabyte."""
MOST_DEPTH = 32
"""Of lists and objects in each other; no document that cosearch writes or reads has half of that."""
MOST_DIGITS = 300
"""Of a whole number: more is beyond floating point."""

MOST_TENSOR_BYTES = 4 << 30
"""Of a safetensors file: no supernet that this project trains has a tenth of it."""
MOST_NPY_HEADER = 1000
MOST_COLUMNS = 1000
"""Of a CSV file: pandas takes minutes for a million of them."""


def parse_json(text: str, missing: bool = False) -> Any:
    """The value of a JSON text. missing: NaN stands for a number that is missing.

    Raises: DataError if it is none, is too large or too deep, or has a number that is not finite.
    """
    if len(text) > MOST_BYTES:
        raise DataError(f"has {len(text):,} characters, at most {MOST_BYTES:,} are read")

    def constant(name: str) -> float:
        if name == "NaN" and missing:
            return math.nan
        raise DataError(f"{name} is no JSON number")

    try:
        data = json.loads(text, parse_constant=constant, parse_int=_whole, parse_float=_finite)
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not valid JSON ({error})") from None
    _shallow(data)
    if _HALF.search(text) and not is_unicode(json.dumps(data, ensure_ascii=False)):
        raise DataError("has half a character (a \\ud800 to \\udfff alone)")
    return data


_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""Of a character beyond 16 bits, which JSON may write as two halves."""


def is_unicode(text: str) -> bool:
    """Whether a text has whole characters only, so that UTF-8 can hold it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise DataError(f"has a number of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise DataError(f"has a number beyond floating point ({digits:.20})")
    return value


def parse_yaml(text: str) -> Any:
    """The value of a YAML text, of plain values only.

    Raises: DataError if it is none, or is too large or too deep.
    """
    import yaml

    if len(text) > MOST_YAML_BYTES:
        raise DataError(f"has {len(text):,} characters, at most {MOST_YAML_BYTES:,} are read as YAML")
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        depth = 0
        for event in yaml.parse(text, loader):  # before deep texts take the parser minutes
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_DEPTH:
                raise DataError(f"is nested deeper than {MOST_DEPTH} levels")
        data = _shallow(loader(text).get_single_data())
    except DataError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if "nesting depth" in str(error):  # libyaml's own limit, a thousand
            raise DataError(f"is nested deeper than {MOST_DEPTH} levels") from None
        raise DataError(f"is not valid YAML ({one_line(error)})") from None
    if _written_out(data, {}) > MOST_BYTES:
        raise DataError(f"stands for more than {MOST_BYTES:,} characters once its aliases are written out")
    return data


def _written_out(data: Any, known: dict[int, int]) -> int:
    """Characters, about, if everything stood where it is meant. known: of lists and objects, by their ids.

    Raises: DataError for a number of too many digits.
    """
    if isinstance(data, int) and abs(data) >= 10**MOST_DIGITS:
        raise DataError(f"has a number of more than {MOST_DIGITS} digits")
    if not isinstance(data, dict | list):
        return len(data) + 1 if isinstance(data, str | bytes) else 8
    if id(data) not in known:
        items = [*data, *data.values()] if isinstance(data, dict) else data
        known[id(data)] = 2 + sum(_written_out(item, known) for item in items)
    return known[id(data)]


def _shallow(data: Any) -> Any:
    if deeper(data, MOST_DEPTH):
        raise DataError(f"is nested deeper than {MOST_DEPTH} levels")
    return data


def deeper(data: Any, most: int) -> bool:
    """Whether lists and objects are nested more than `most` times; each is looked at once a level."""
    level = [data]
    for _ in range(most):
        inner = {id(value): value for value in level if isinstance(value, dict | list)}.values()
        level = [item for value in inner for item in (value.values() if isinstance(value, dict) else value)]
        if not level:
            return False
    return any(isinstance(value, dict | list) for value in level)


def can_be_named(path: str) -> bool:
    """Whether a file can be called so: no zero byte, no half of a character, no part of more than 255 bytes."""
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return b"\0" not in encoded and all(len(part) <= 255 for part in encoded.split(os.fsencode(os.sep)))


def read(path: Path, parse: Callable[[str], Any], most_bytes: int = MOST_BYTES) -> Any:
    """What a file of UTF-8 text holds.

    Raises: DataError, what `parse` raises, OSError.
    """
    if not can_be_named(str(path)):
        raise DataError("is what no file can be called")
    with path.open("rb") as file:  # of some files, as /dev/zero, no size says how much there is
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise DataError(f"is too long: at most {most_bytes:,} are read, in bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"is not text ({error})") from None
    return parse(text)


def require_short_lines(path: Path, most_bytes: int) -> None:
    """Raises: DataError for a file of lines that is too long, or one line of which is; OSError."""
    size, line = path.stat().st_size, 0
    if size > most_bytes:
        raise DataError(f"has {size / 2**30:.1f} GiB, at most {most_bytes / 2**30:g} are read")
    if size <= MOST_BYTES:  # no line of it is longer, and it is read once only
        return
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            last = block.rfind(b"\n")
            line = line + len(block) if last < 0 else len(block) - last - 1
            if line > MOST_BYTES:
                raise DataError(f"has a line of more than {MOST_BYTES >> 20} MiB")


def npy_header(file: IO[bytes]) -> "tuple[tuple[int, ...], bool, np.dtype[Any]]":
    """Shape, whether columns come first, and type of the array in a .npy file, whose values come next.

    Raises: DataError.
    """
    import numpy as np

    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(file, max_header_size=MOST_NPY_HEADER)
    except Exception as error:
        # the header is read as Python's own text, which can go wrong in any way
        said = one_line(f"{type(error).__name__}: {error}")
        raise DataError(f"is not a .npy file ({said:.300})") from error


def require_tensor_size(path: Path) -> None:
    """Raises: DataError for a safetensors file that is too large to be read: all of it comes into memory. OSError."""
    size = path.stat().st_size
    if size > MOST_TENSOR_BYTES:
        raise DataError(f"has {size / 2**30:.1f} GiB, at most {MOST_TENSOR_BYTES / 2**30:g} are read")


def require_few_columns(content: bytes) -> None:
    """Look at the head of a CSV file, and at the first line after it, which pandas takes for wider heads.

    Raises: DataError for more than `MOST_COLUMNS`, or a value of more than 131,072 characters.
    """
    text = io.TextIOWrapper(io.BytesIO(content.removeprefix(b"\xef\xbb\xbf")), encoding="latin-1", newline="")
    commas = 0

    def lines() -> Iterator[str]:
        """One row may go over many lines."""
        nonlocal commas
        for line in text:
            commas += line.count(",")
            if commas >= MOST_COLUMNS:
                raise DataError(f"has a row of more than {MOST_COLUMNS:,} columns")
            yield line

    seen = 0
    try:
        for row in csv.reader(lines()):
            commas = 0
            seen += any(cell.strip() for cell in row) or len(row) > 1
            if seen == 2:
                return
    except csv.Error as error:
        raise DataError(f"is not readable CSV ({error})") from None
