"""What a Parquet file says of its columns, read without Arrow, which ends the process for damaged statistics.

The footer is a struct in Thrift's compact protocol, field numbers as in parquet.thrift (format 2.11).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosearch.errors import DataError

MOST_BYTES = 8 << 20
LARGEST_UNPACKED, LARGEST_CELLS = 1 << 30, 20_000_000
"""Of the columns of a file that are read together: bytes and values."""
MOST_DEPTH = 16
MAGIC = b"PAR1"
DELTA_BYTE_ARRAY = 7
"""The encoding of texts of which only the ends are stored that the text before does not have."""


@dataclass(frozen=True)
class Chunk:
    """A column of a row group. least, greatest: of its values, as they are stored; None where the file does not say."""

    column: str
    encodings: tuple[int, ...]
    values: int
    unpacked_bytes: int
    least: bytes | None
    greatest: bytes | None


@dataclass(frozen=True)
class Group:
    rows: int
    chunks: tuple[Chunk, ...]


def read_groups(path: Path) -> list[Group]:
    """The row groups of a file.

    Raises: DataError for a file that is no Parquet file, or damaged; OSError.
    """
    with path.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - 8))
        size, magic = int.from_bytes(file.read(4), "little"), file.read(4)
        if magic != MAGIC or not 0 < size <= min(end - 8, MOST_BYTES):
            raise DataError(f"its end is not that of a Parquet file, or tells of more than {MOST_BYTES >> 20} MiB")
        file.seek(end - 8 - size)
        content = file.read(size)
    try:
        return [_group(group) for group in _Reader(content).struct()[4]]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"what it says of its columns is damaged ({type(error).__name__}: {error})") from None


def _group(fields: dict[int, Any]) -> Group:
    return Group(_count(fields[3]), tuple(_chunk(chunk[3]) for chunk in fields[1]))


def _chunk(fields: dict[int, Any]) -> Chunk:
    said = fields.get(12, {})
    least, greatest = said.get(6), said.get(5)
    if not isinstance(least, bytes | None) or not isinstance(greatest, bytes | None):
        raise TypeError(f"least {least!r:.50} and greatest {greatest!r:.50}")
    name = b".".join(fields[3]).decode()
    return Chunk(name, tuple(fields[2]), _count(fields[5]), _count(fields[6]), least, greatest)


def _count(given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise ValueError(f"{given!r:.50} where a count is expected")
    return given


def unpacked(groups: Sequence[Group], columns: Mapping[str, int]) -> tuple[int, int]:
    """Values of some columns, and bytes that they unpack to, as far as a file tells.

    columns: name -> bytes of a value, where all have as many; else 0.
    """
    cells = size = 0
    for group in groups:
        for chunk in group.chunks:
            if chunk.column in columns:
                cells += max(chunk.values, group.rows)
                # of texts that each begin as the last does only the ends are stored
                repeats = chunk.values if DELTA_BYTE_ARRAY in chunk.encodings else 1
                size += max(chunk.unpacked_bytes * repeats, chunk.values * columns[chunk.column])
    return cells, size


def require_small(cells: int, size: int, most_cells: int, most_bytes: int) -> None:
    """Raises: DataError for columns that unpack to more than is read."""
    if cells > most_cells or size > most_bytes:
        raise DataError(
            f"the columns asked for unpack to {cells:,} values or {size / 2**30:.1f} GiB, at most "
            f"{most_cells:,} and {most_bytes >> 30} GiB are read: split the file"
        )


def text_bytes(texts: Any) -> int:
    """Bytes of an Arrow array of texts that is stored as a dictionary, written out."""
    import pyarrow.compute as pc

    return pc.sum(pc.binary_length(texts.dictionary).take(texts.indices).cast("int64")).as_py() or 0


class _Reader:
    """Thrift's compact protocol: structs as field number -> value. Source: thrift-compact-protocol.md."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at, self.depth = content, 0, 0
        self.readers: dict[int, Callable[[], Any]] = {
            1: lambda: True, 2: lambda: False, 3: self.byte, 4: self.whole, 5: self.whole, 6: self.whole,
            7: lambda: self.bytes_of(8), 8: lambda: self.bytes_of(self.varint()), 9: self.list, 10: self.list,
            12: self.struct,
        }  # fmt: skip

    def byte(self) -> int:
        self.at += 1
        return self.content[self.at - 1]

    def bytes_of(self, size: int) -> bytes:
        self.at += size
        if self.at > len(self.content):
            raise IndexError("it ends too soon")
        return self.content[self.at - size : self.at]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def whole(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def list(self) -> list[Any]:
        head = self.byte()
        size = self.varint() if head >> 4 == 15 else head >> 4
        if size > len(self.content):
            raise ValueError("a list of more entries than there are bytes")
        kind = head & 15
        read = self.byte if kind in (1, 2) else self.readers[kind]  # truth values take a byte in lists
        with self.deeper():
            return [read() for _ in range(size)]

    def struct(self) -> dict[int, Any]:
        found: dict[int, Any] = {}
        number = 0
        with self.deeper():
            while head := self.byte():
                number = number + (head >> 4) if head >> 4 else self.whole()
                found[number] = self.readers[head & 15]()
        return found

    @contextmanager
    def deeper(self) -> Iterator[None]:
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise ValueError(f"nested deeper than {MOST_DEPTH} levels")
        yield
        self.depth -= 1
