"""Public pickles: plain values come through, everything that names code is refused."""

import collections
import os
import pickle

import numpy as np
import pytest

from cosearch.errors import DataError
from cosearch.unpickling import Record, load_plain


class _Point:
    def __init__(self) -> None:
        self.x = 3


class _Run:
    def __reduce__(self):
        return (os.system, ("touch ran",))


def test_plain_containers_and_numbers_come_through() -> None:
    value = {"a": [1, 2.5, None, True], (1, 2): {"b"}, "c": b"bytes", "d": collections.OrderedDict(e=1)}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        plain = {k: v for k, v in value.items() if protocol > 3 or k not in ((1, 2), "c")}  # older ones name builtins
        assert load_plain(pickle.dumps(plain, protocol), "a table") == plain


def test_arrays_only_where_they_are_expected() -> None:
    content = pickle.dumps({"x": np.arange(3.0), "y": np.float32(2)})
    found = load_plain(content, "a table", arrays=True)
    assert found["x"].tolist() == [0, 1, 2]
    assert found["y"] == 2
    with pytest.raises(DataError, match="which a table never does: refused"):
        load_plain(content, "a table")


def test_listed_classes_become_records_without_their_code() -> None:
    found = load_plain(pickle.dumps(_Point()), "a table", records=((__name__, "_Point"),))
    assert type(found) is Record
    assert found.__dict__ == {"x": 3}


@pytest.mark.parametrize("arrays", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(_Run()),
        pickle.dumps({"deep": [_Run()]}, 0),
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0ddtype.__new__\x93.",  # a dotted path from an admitted name
        b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93.",
    ],
)
def test_what_names_code_is_refused(content: bytes, arrays: bool, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="refused") as caught:
        load_plain(content, "a table", arrays=arrays)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"\x80", b"garbage", pickle.dumps([1] * 100)[:-5], b"(((((" * 100])
def test_damaged_pickles_are_data_errors(content: bytes) -> None:
    with pytest.raises(DataError, match="is not a table"):
        load_plain(content, "a table")


class _Array:
    """An array as a pickle states it: what numpy is told need not be true."""

    def __init__(self, shape: tuple[int, ...], kind: str, data: object) -> None:
        self.state = (1, shape, np.dtype(kind), False, data)

    def __reduce__(self):
        return np.zeros(1).__reduce__()[0], (np.ndarray, (0,), b"b"), self.state


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (_Array((2,), "O", [1]), r"shape \(2,\) with 1 objects or bytes, expected 2"),
        (_Array((10**9, 10**9), "O", [1]), "with 1 objects or bytes"),
        (_Array((2,), "O", b"ab"), "with 2 objects or bytes"),
        (_Array((-1,), "O", []), "expected -1"),
        (_Array((3,), "<f8", b"12345678"), "with 8 objects or bytes, expected 24"),
        (_Array((3,), "<f8", [1.0, 2.0, 3.0]), "with 3 objects or bytes"),
        (_Array((3 * 10**9,), "S0", b""), "values of no length"),
        (_Array((3 * 10**9,), "<U0", b""), "values of no length"),
    ],
)
def test_arrays_of_another_size_than_they_say_are_refused(array: _Array, said: str) -> None:
    """Numpy would read objects beyond the end of the list, and the process die of it."""
    with pytest.raises(DataError, match=said):
        load_plain(pickle.dumps(array), "a table", arrays=True)


def test_arrays_of_objects_and_text_come_through() -> None:
    value = {"o": np.array([[1, "b"], [None, 2.5]], object), "s": np.array(["ab", "c"]), "e": np.zeros((0, 3))}
    for protocol in (3, 4, 5):
        found = load_plain(pickle.dumps(value, protocol), "a table", arrays=True)
        assert found["o"].tolist() == value["o"].tolist()
        assert found["s"].tolist() == ["ab", "c"]
        assert found["e"].shape == (0, 3)
