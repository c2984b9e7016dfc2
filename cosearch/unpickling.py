"""Reading pickles that others publish, without running what they say: plain containers, numbers and what is admitted.

A pickle names classes and functions to call. Here every name is refused except those of numpy's array format, where a
caller asks for arrays, and the classes that a caller lists, which become plain `Record`s without any of their code.
"""

import io
import pickle
from collections.abc import Collection
from typing import Any

from cosearch.errors import DataError

_ARRAYS = frozenset(
    {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    }
)
_CONTAINERS = frozenset({("collections", "OrderedDict")})


class Record:
    """Stands for an object of an admitted class: its attributes, none of its code."""


class _PlainUnpickler(pickle.Unpickler):
    def __init__(
        self, content: bytes, what: str, arrays: bool, records: Collection[tuple[str, str]], encoding: str
    ) -> None:
        super().__init__(io.BytesIO(content), encoding=encoding)
        self._what, self._records = what, records
        self._admitted = _CONTAINERS | (_ARRAYS if arrays else frozenset())

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._records:
            return Record
        if (module, name) not in self._admitted:
            raise DataError(f"asks to load {module}.{name}, which {self._what} never does: refused")
        return super().find_class(module, name)


def load_plain(
    content: bytes,
    what: str,
    *,
    arrays: bool = False,
    records: Collection[tuple[str, str]] = (),
    encoding: str = "ASCII",
) -> Any:
    """The value of a pickle.

    what: what the file should be, for messages. arrays: admit numpy arrays and scalars. records: (module, name) of the
    classes whose objects become `Record`s. encoding: of Python 2's strings, as `pickle.load` takes it.

    Raises: DataError if the pickle names anything else, or is cut short or damaged.
    """
    try:
        return _PlainUnpickler(content, what, arrays, records, encoding).load()
    except DataError:
        raise
    except Exception as error:
        # a damaged pickle can raise almost anything
        raise DataError(f"is not {what} ({type(error).__name__}: {error})") from error
