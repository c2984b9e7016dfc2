"""Reading pickles that others publish, without running what they say: plain containers, numbers and what is admitted.

A pickle is a program that names classes and functions to call. Here it is first looked through without being run, and
refused if it would take much more memory than it has bytes, also by copying what it has once, or nests so deeply that
the interpreter's own stack ends. Then every name is refused except those of numpy's array format, where a caller asks
for arrays, and the classes that a caller lists, which become plain `Record`s without any of their code. Arrays, too,
are made here, not by the pickle.
"""

import gc
import io
import math
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from cosearch.errors import DataError

MOST_OPERATIONS = 5_000_000
"""Of one pickle: about as many as HW-NAS-Bench's has five times over; looking through them takes some seconds."""
MOST_DEPTH = 100
"""Of containers in each other. Hashing nested tuples takes the interpreter's stack: the process would crash."""
MOST_COPIED, _FREELY_COPIED = 64, 1 << 20
"""Bytes that calls copy of their arguments, for each byte of the pickle, and besides. Arrays need about one."""
_CALLED_ITEM, _FILLED_ITEM = 200, 32
"""Bytes of an item of a container that a call copies, as into an ordered dict, and that is put into an object."""

_FILLS = frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"})
_CALLS = frozenset({"REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST"})
_NAMES = frozenset({"GLOBAL", "STACK_GLOBAL"})
_STORES = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_READS = frozenset({"GET", "BINGET", "LONG_BINGET"})


class Record:
    """Stands for an object of an admitted class: its attributes, none of its code."""


class _Kind:
    """Stands for a numpy dtype of numbers, text or objects; of its state only the byte order counts."""

    def __init__(self, code: str, *_: Any) -> None:
        if not (isinstance(code, str) and re.fullmatch(r"[<>|=]?[?biufcSUO]\d{0,4}", code)):
            raise DataError(f"has an array of {code!r:.80}, expected numbers or text")
        self.dtype = np.dtype(code)
        if not self.dtype.itemsize:  # any number of them takes no bytes of the pickle
            raise DataError(f"has an array of {code!r:.80}, values of no length: refused")

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array whose shape, type and bytes are checked when they come."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        objects = kind.dtype.hasobject
        size = math.prod(shape) * (1 if objects else kind.dtype.itemsize)
        # numpy reads as many as the shape says, of objects even beyond the end of the list
        if type(data) is not (list if objects else bytes) or len(data) != size:
            raise DataError(f"has an array of shape {shape!r:.80} with {len(data)} objects or bytes, expected {size}")
        super().__setstate__((1, shape, kind.dtype, bool(fortran), data))  # type: ignore[arg-type]


def _reconstruct(*_: Any) -> _Array:
    return np.ndarray.__new__(_Array, 0, np.int8)


def _frombuffer(data: Any, kind: _Kind, shape: Any, order: str) -> Any:
    return np.frombuffer(data, kind.dtype).reshape(shape, order="F" if order == "F" else "C")


def _scalar(kind: _Kind, data: bytes) -> Any:
    [value] = np.frombuffer(data, kind.dtype)
    return value


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise DataError(f"asks for the encoding {encoding!r:.40}, which an array never does: refused")
    return text.encode("latin1")


_CONTAINERS: Mapping[tuple[str, str], Callable[..., Any]] = {("collections", "OrderedDict"): OrderedDict}
_ARRAYS: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("numpy", "ndarray"): Record,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _encode,
}


class _PlainUnpickler(pickle.Unpickler):
    def __init__(
        self, content: bytes, what: str, arrays: bool, records: Collection[tuple[str, str]], encoding: str
    ) -> None:
        super().__init__(io.BytesIO(content), encoding=encoding)
        self._what, self._records = what, records
        self._admitted = {**_CONTAINERS, **(_ARRAYS if arrays else {})}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._records:
            return Record
        if (module, name) not in self._admitted:
            raise DataError(f"asks to load {module}.{name}, which {self._what} never does: refused")
        return self._admitted[module, name]


def load_plain(
    content: bytes,
    what: str,
    *,
    arrays: bool = False,
    records: Collection[tuple[str, str]] = (),
    encoding: str = "ASCII",
    installed: bool = False,
) -> Any:
    """The value of a pickle.

    what: what the file should be, for messages. arrays: admit numpy arrays and scalars. records: (module, name) of the
    classes whose objects become `Record`s. encoding: of Python 2's strings, as `pickle.load` takes it. installed: the
    file came with an installed package, whose code is trusted with more than memory; it is not looked through.

    Raises: DataError if the pickle names anything else, is larger or deeper than such files are, or is cut short or
    damaged.
    """
    try:
        if not installed:
            _look_through(content)
        with _uncollected():
            return _PlainUnpickler(content, what, arrays, records, encoding).load()
    except DataError:
        raise
    except Exception as error:
        # a damaged pickle can raise almost anything
        raise DataError(f"is not {what} ({type(error).__name__}: {error})") from error


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without looking for garbage among objects that all stay, which takes a third of the time, or half."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class _Value:
    """What is known of a value that a pickle makes: its depth, its own bytes and items, and a tuple's parts."""

    __slots__ = ("depth", "items", "parts", "size")

    def __init__(self, depth: int = 0, size: int = 0, items: int = 0, parts: Sequence["_Value"] = ()) -> None:
        self.depth, self.size, self.items, self.parts = depth, size, items, parts


_PLAIN, _NAMED = _Value(), _Value()
"""Numbers and the like, and what is named: classes and functions."""


def _look_through(content: bytes) -> None:
    """Follow a pickle's stack without making anything.

    Raises: DataError, or other errors for what is no pickle.
    """
    stack: list[_Value] = []
    marks: list[int] = []
    memo: dict[int, _Value] = {}
    copied, most = 0, MOST_COPIED * len(content) + _FREELY_COPIED
    for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
        name, place = operation.name, argument if isinstance(argument, int) else 0
        if count >= MOST_OPERATIONS:
            raise DataError(f"has more than {MOST_OPERATIONS:,} operations: refused")
        if name == "MARK":
            marks.append(len(stack))
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in _STORES:
            if not 0 <= place <= count:  # the unpickler would make room for all places before
                raise DataError(f"keeps a value at place {place} of its memory after {count} operations: refused")
            memo[place] = stack[-1]
        elif name in _READS:
            stack.append(memo[place])
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "POP" and marks and marks[-1] == len(stack):
            marks.pop()
        else:
            copied += _follow(operation, argument, stack, marks)
            if copied > most:
                raise DataError(f"copies values again and again, to more than {most:,} bytes: refused")


def _follow(operation: Any, argument: Any, stack: list[_Value], marks: list[int]) -> int:
    """Take from the stack what an operation takes, and put there what it puts. Returns the bytes that it copies."""
    name, before = operation.name, operation.stack_before
    takes = len(before)
    if pickletools.markobject in before:
        takes = before.index(pickletools.markobject) + len(stack) - marks.pop()
    if takes > len(stack):
        raise ValueError("its stack is empty")
    taken = stack[len(stack) - takes :]
    del stack[len(stack) - takes :]
    given = _given(name, taken)
    each = _FILLED_ITEM if name == "BUILD" else _CALLED_ITEM
    copied = sum(value.size + each * value.items for value in given)
    if name in _FILLS:
        made = taken[0]
        if made is _NAMED or made is _PLAIN:
            raise DataError("fills what is no container: refused")
        made.depth = max(made.depth, 1 + max((value.depth for value in taken[1:]), default=-1))
        made.size, made.items = made.size + copied, made.items + (0 if name == "BUILD" else len(taken) - 1)
    elif name in _NAMES:
        made = _NAMED
    elif not before and not isinstance(argument, str | bytes | bytearray) and not name.startswith("EMPTY_"):
        made = _PLAIN
    else:
        depth = 1 + max((value.depth for value in taken), default=-1)
        size = copied if name in _CALLS else len(argument) if isinstance(argument, str | bytes | bytearray) else 0
        items = sum(value.items for value in given) if name in _CALLS else len(taken)
        made = _Value(depth, size, items, taken if "TUPLE" in name else ())
    if made.depth > MOST_DEPTH:
        raise DataError(f"is nested deeper than {MOST_DEPTH} levels: refused")
    stack.extend([made] * len(operation.stack_after))
    return copied


def _given(name: str, taken: Sequence[_Value]) -> Sequence[_Value]:
    """What a call or the filling of an object is given and may copy, and the pickle may have but once; else nothing."""
    if name in ("OBJ", "INST"):
        return taken
    if name in _CALLS or name == "BUILD":
        return [part for value in taken[1:] for part in (value.parts or (value,))]
    return ()
