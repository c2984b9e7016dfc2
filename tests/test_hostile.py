"""Files that are made to harm: each is refused in one line, soon, with little memory, and nothing in it is run."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import pickletools
import resource
import struct
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import cosearch
import hwbench_data
from cosearch import unpickling
from cosearch.config import read_yaml
from cosearch.costs import read_table
from cosearch.data import load_dataset
from cosearch.errors import CosearchError, DataError
from cosearch.hardware.accelerator import Accelerator
from cosearch.hardware.parts import load_device
from cosearch.loading import load_run
from cosearch.models.onnx_file import read_report
from cosearch.reading import parse_json, parse_yaml, require_few_columns
from cosearch.unpickling import load_plain
from cosearch.workload import Workload
from hwbench_data.footer import DELTA_BYTE_ARRAY, read_groups
from hwbench_data.importing import checked_map, import_file, read_map
from predictors import storage
from search_spaces import accelerators
from search_spaces.accelerators.asic import load_template
from search_spaces.decisions import parse_arch
from tests import tiny_space

SECONDS, MEBIBYTES = 5.0, 400
"""Of processor time and of memory beyond what was there, to refuse one file."""


IMPORTED = checked_map(
    {"network": "arch", "values": {"ms": {"device": "d", "metric": "latency_ms", "unit": "ms"}}}, "map"
)


def refused(read, *arguments) -> str:
    """What the refusal says. The peak of memory only grows, so that a case after a large one may go unseen: rarely."""
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CosearchError) as caught:
        read(*arguments)
    assert time.process_time() - started < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEBIBYTES
    assert "\n" not in str(caught.value)
    return str(caught.value)


def proto(content: bytes) -> bytes:
    return b"\x80\x04" + content + b"."


def array_of(dtype: bytes, state: bytes) -> bytes:
    """A pickled array by hand: the constructor, then what it is filled with."""
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
    kind = b"cnumpy\ndtype\n(X" + struct.pack("<I", len(dtype)) + dtype + b"\x89\x88tR"
    return proto(made + b"(K\x01" + state.replace(b"KIND", kind) + b"tb")


PICKLES = {
    "a place of the memo far out": proto(b"Nr\xff\xff\xff\x7f"),
    "the same in text": b"Np2000000000\n.",
    "bytes that are not there": proto(b"\x96" + struct.pack("<Q", 1 << 40)),
    "a string that is not there": proto(b"\x8d" + struct.pack("<Q", 1 << 60)),
    "a frame that is not there": proto(b"\x95" + struct.pack("<Q", 1 << 62) + b"N"),
    "tuples in tuples as a key": proto(b"})" + b"\x85" * 1_000_000 + b"K\x01s"),
    "lists in lists": proto(b"]" * 100_000 + b"a" * 99_999),
    "a huge array from a shape": proto(b"cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85R0cnumpy\nload\n"),
    "an array larger than its bytes": array_of(b"f8", b"J\xff\xff\xff\x7f\x85KIND\x89C\x00"),
    "elements of a gibibyte": array_of(b"V1073741824", b"K\x01\x85KIND\x89C\x00"),
    "fields": array_of(b"f8,f8", b"K\x00\x85KIND\x89C\x00"),
    "another codec": proto(b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x04\x00\x00\x00zlibtR"),
    "a number of many digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "nothing on the stack": b"((t\x85\x85R.",
    "persistent ids": b"Pa\n.",
}


def kept(place: int, content: bytes) -> bytes:
    """What makes a value, which the memo then has at a place, and not the stack."""
    return content + b"q" + bytes([place]) + b"0"


def text_of(size: int) -> bytes:
    return b"X" + struct.pack("<I", size) + b"a" * size


PAIRS = b"](" + b"".join(b"J" + struct.pack("<i", i) + b"K\x01\x86" for i in range(10_000)) + b"e"
ORDERED, ENCODE = kept(0, b"ccollections\nOrderedDict\n"), kept(0, b"c_codecs\nencode\n")
OBJECTS = b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8\x89\x88tR\x89](" + b"N" * 10_000 + b"e"
AGAIN_ARRAY = (
    kept(0, b"cnumpy.core.multiarray\n_reconstruct\n")
    + kept(1, b"(cnumpy\nndarray\nK\x00\x85C\x01bt")
    + kept(3, b"(K\x01J" + struct.pack("<i", 10_000) + b"\x85" + OBJECTS + b"t")
)
AGAIN = {
    "dicts": ORDERED + kept(1, PAIRS + b"\x85") + b"](" + b"h\x00h\x01R" * 2000 + b"e",
    "dicts, called otherwise": ORDERED + kept(1, PAIRS) + b"](" + b"(h\x00h\x01o" * 2000 + b"e",
    "dicts, by name": kept(1, PAIRS) + b"](" + b"(h\x01icollections\nOrderedDict\n" * 2000 + b"e",
    "a list filled after it was kept": ORDERED
    + kept(1, b"]")
    + kept(2, b"h\x01\x85")
    + b"h\x01"
    + PAIRS[1:]
    + b"0]("
    + b"h\x00h\x02R" * 2000
    + b"e",
    "dicts of dicts": ORDERED + kept(1, b"h\x00" + PAIRS + b"\x85R\x85") + b"](" + b"h\x00h\x01R" * 2000 + b"e",
    "texts": ENCODE + kept(1, text_of(100_000)) + kept(2, text_of(6).replace(b"a" * 6, b"latin1"))
    + b"](" + b"h\x00h\x01h\x02\x86R" * 10_000 + b"e",
    "arrays": AGAIN_ARRAY + b"](" + b"h\x00h\x01Rh\x03b" * 10_000 + b"e",
}  # fmt: skip


@pytest.mark.parametrize("content", AGAIN.values(), ids=AGAIN)
def test_pickles_that_copy_a_value_again_and_again(content):
    assert "copies values again and again" in refused(lambda: load_plain(proto(content), "a table", arrays=True))


def test_the_same_pickles_without_copies_are_read():
    for name, content in AGAIN.items():
        assert load_plain(proto(content[: content.rindex(b"](")] + b"](e"), "a table", arrays=True) == [], name


MANY = {
    "numbers": {i: np.float32(i) for i in range(2000)},
    "small arrays": [np.array([i % 99], np.int8) for i in range(1000)],
    "objects": np.array([None] * 100_000, object),
    "objects of one": [np.array([None], object) for _ in range(1000)],
    "ordered dicts": [OrderedDict([(i, j) for i in range(20)]) for j in range(200)],
    "texts": [np.array(["a", "bc"]) for _ in range(500)],
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", MANY)
def test_honest_pickles_of_many_small_things_are_far_from_refused(name, protocol, monkeypatch):
    monkeypatch.setattr("cosearch.unpickling._FREELY_COPIED", 0)
    monkeypatch.setattr("cosearch.unpickling.MOST_COPIED", unpickling.MOST_COPIED * 2 // 3)
    assert len(load_plain(pickle.dumps(MANY[name], protocol), "a table", arrays=True)) == len(MANY[name])


def test_classes_and_functions_are_not_filled():
    """Their attributes would stay for what is read next."""
    filled = b"cnumpy\nndarray\n(N}X\x07\x00\x00\x00strangeK\x01stb"
    assert "fills what is no container" in refused(lambda: load_plain(proto(filled), "a table", arrays=True))


@pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES)
def test_pickle_bombs(content):
    refused(load_plain, content, "a table")
    refused(lambda: load_plain(content, "a table", arrays=True))


def test_a_pickle_that_would_crash_the_interpreter_does_not_reach_it(tmp_path):
    """The tuples above in a process of its own, with the check and without."""
    (tmp_path / "deep.pickle").write_bytes(PICKLES["tuples in tuples as a key"])
    code = "import sys; from cosearch.unpickling import load_plain as f; f(open(sys.argv[1], 'rb').read(), 'x'{})"
    for more, crashes in (("", False), (", installed=True", True)):
        arguments = [sys.executable, "-c", code.format(more), str(tmp_path / "deep.pickle")]
        done = subprocess.run(arguments, capture_output=True, text=True)
        assert (done.returncode < 0) == crashes, done.stderr
        assert crashes or "nested deeper than 100 levels" in done.stderr


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_honest_arrays_come_through(protocol):
    value = {
        "plain": np.arange(6.0).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
        "number": np.float32(2.5),
        "text": np.array(["a", "bc"]),
        "objects": np.array([{"a": 1}, None], object),
        "flags": np.array([True, False]),
    }
    content = pickletools.optimize(pickle.dumps(value, protocol)) if protocol > 1 else pickle.dumps(value, protocol)
    found = load_plain(content, "a table", arrays=True)
    for name, expected in value.items():
        np.testing.assert_array_equal(found[name], expected)
        assert np.asarray(found[name]).dtype.newbyteorder("=") == np.asarray(expected).dtype.newbyteorder("=")


def test_operations_are_counted(monkeypatch):
    monkeypatch.setattr("cosearch.unpickling.MOST_OPERATIONS", 1000)
    assert "more than 1,000 operations" in refused(load_plain, proto(b"N0" * 600 + b"N"), "a table")
    assert load_plain(proto(b"N0" * 400 + b"N"), "a table") is None


JSON = {
    "deep lists": "[" * 500_000,
    "deep objects": '{"a":' * 200_000,
    "deep and closed": "[" * 200 + "]" * 200,
    "NaN": '{"a": NaN}',
    "infinity": '{"a": -Infinity}',
    "a float beyond floating point": '{"a": 1e999}',
    "a whole number beyond it": '{"a": ' + "9" * 1_000_000 + "}",
    "17 MiB": '"' + "a" * (17 << 20) + '"',
    "half a character": '{"a": "\\ud800',
    "half a character, closed": '{"a": ["\\uD83D"]}',
    "half a character as a name": '{"\\udc00": 1}',
    "two halves the wrong way round": '["\\ude00\\ud83d"]',
}


@pytest.mark.parametrize("text", JSON.values(), ids=JSON)
def test_json_that_harms(text, tmp_path):
    refused(parse_json, text)
    path = tmp_path / "x.json"
    path.write_text(text)
    for read in (cosearch.load, lambda p: load_device(str(p))):
        refused(read, path)
    if len(text) < 1 << 20:
        refused(Workload.from_json, text)
        refused(Accelerator.from_json, text)
        refused(parse_arch, '{"a": ' + text, tiny_space.space())


def test_whole_characters_of_json_are_read():
    for text, value in (('"\\ud83d\\ude00"', "\U0001f600"), ('"\\\\ud800"', "\\ud800"), ('"\\uE000"', "\ue000")):
        assert parse_json(text) == value


YAML = {
    "a command": "!!python/object/apply:os.system ['touch ran']",
    "an object": "a: !!python/object:os.stat_result {}",
    "a module": "!!python/module:os",
    "deep lists": "[" * 500_000,
    "deep blocks": "- " * 100_000 + "a",
    "itself": "a: &a [*a]",
    "2 MiB": "a: " + "b" * (2 << 20),
    "hexadecimal": "trials: 0x" + "f" * 5000,
    "two thousand laughs": "a: &a [x, x]\n"
    + "".join(f"{k}: &{k} [*{j}, *{j}]\n" for j, k in zip("abcdefghij", "bcdefghijk", strict=True)),
}


@pytest.mark.parametrize("text", YAML.values(), ids=YAML)
def test_yaml_that_harms(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.yaml"
    path.write_text(text)
    if text != YAML["two thousand laughs"]:  # no harm until somebody prints it
        refused(parse_yaml, text)
    refused(lambda: cosearch.run(cosearch.config.RunConfig.make(read_yaml(path))))
    refused(load_device, str(path))
    assert [p.name for p in tmp_path.iterdir()] == ["x.yaml"]


BOMB = "a: &a [xxxxxxxx, xxxxxxxx]\n" + "".join(
    f"{k}: &{k} [{', '.join([f'*{j}'] * 10)}]\n" for j, k in zip("abcdefgh", "bcdefghi", strict=True)
)
"""A kilobyte that stands for gigabytes."""


@pytest.mark.parametrize("key", ["format", "title", "name", "family", "budget", "costs", "choices", "includes"])
def test_a_yaml_bomb_in_any_field(key, tmp_path):
    fields = {"format": "cosearch.part", "version": 1, "name": "x", "family": "fpga", "budget": "{}", key: "*i"}
    path = tmp_path / "part.yaml"
    path.write_text(BOMB + "".join(f"{name}: {value}\n" for name, value in fields.items()))
    assert "aliases" in refused(load_device, str(path))
    assert "aliases" in refused(read_map, path)
    assert "aliases" in refused(read_yaml, path)


def test_a_file_without_end_and_one_of_many_lines(tmp_path):
    assert "at most" in refused(read_yaml, Path("/dev/zero"))
    path = tmp_path / "long.yaml"
    path.write_text("- a\n" * 200_000)
    refused(read_yaml, path)


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def header(shape: str, dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def claimed(content: bytes, size: int) -> bytes:
    """The archive's directory says that its members unpack to that size."""
    at = content.rindex(b"PK\x01\x02")
    return content[: at + 24] + struct.pack("<I", size) + content[at + 28 :]


NPY = {
    "huge dimensions": header("(1000000000000,)", "<f8") + bytes(8),
    "dimensions that overflow": header("(4294967296, 4294967296, 16)") + bytes(8),
    "values of no length": header("(1000000000000,)", "<U0"),
    "arrays as values": header("(4,)", "(2,)f4") + bytes(32),
    "a negative dimension": header("(-5,)") + bytes(8),
    "a number": header("()") + bytes(4),
    "rows and columns": header("(2, 2)") + bytes(16),
    "signs": header(f"({'-' * 9000}1,)") + bytes(8),
    "some signs": header(f"({'-' * 900}1,)") + bytes(8),
    "sums": header(f"({'1+' * 3000}1,)") + bytes(8),
    "brackets": header("(" * 500 + "1" + ")" * 500) + bytes(8),
    "brackets that stay open": header("((((1L,")[:-2] + b"\n" + bytes(8),
    "a type that is none": header("(1,)", "f5") + bytes(8),
    "another version": b"\x93NUMPY\x09\x00" + header("(1,)")[8:] + bytes(4),
    "nothing": b"",
}


@pytest.mark.parametrize("content", NPY.values(), ids=NPY)
def test_arrays_that_harm(content, tmp_path):
    (tmp_path / "a.npy").write_bytes(content)
    mapping = checked_map({"values": {"value": {"metric": "latency_ms", "unit": "ms", "device": "d"}}}, "map")
    assert "a.npy" in refused(import_file, tmp_path / "a.npy", "nasbench201", mapping, tmp_path / "out")


def test_arrays_of_many_values(tmp_path, monkeypatch):
    monkeypatch.setattr("hwbench_data.importing.LARGEST_CELLS", 1000)
    np.save(tmp_path / "a.npy", np.ones(1001))
    mapping = checked_map({"values": {"value": {"metric": "latency_ms", "unit": "ms", "device": "d"}}}, "map")
    assert "holds 1,001 values, at most 1,000" in refused(
        import_file, tmp_path / "a.npy", "nasbench201", mapping, tmp_path / "out"
    )


ARCHIVES = {
    "a thousandfold": zipped(x=bytes(100 << 20), y=b""),
    "huge dimensions": zipped(x=header("(1000000, 1000, 1000)"), y=header("(1,)", "<i8") + bytes(8)),
    "dimensions that overflow": zipped(x=header("(4294967296, 4294967296, 16)"), y=b""),
    "a negative dimension": zipped(x=header("(-1, 8, 8)"), y=b""),
    "objects": zipped(x=header("(1,)", "|O") + pickle.dumps([1]), y=b""),
    "a header that is code": zipped(x=header("__import__('os').abort()"), y=b""),
    "a size that is a lie": claimed(zipped(x=header("(100, 8, 8)"), y=b""), 10),
    "no archive": b"PK\x03\x04" + bytes(100),
    "an archive in itself": zipped(x=zipped(x=bytes(1000))),
    "names that lead out": zipped(**{"../../x": header("(1,)") + bytes(4)}),
}


@pytest.mark.parametrize("content", ARCHIVES.values(), ids=ARCHIVES)
def test_archives_that_harm(content, tmp_path):
    path = tmp_path / "in" / "data.npz"
    path.parent.mkdir()
    path.write_bytes(content)
    refused(load_dataset, str(path))
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "data.npz"]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "-1", "1e400"])
def test_measurements_that_are_no_numbers(value, tmp_path):
    arch = ";".join(f"{k}={v[0]}" for k, v in tiny_space.space().choices.items())
    (tmp_path / "t.csv").write_text(f"arch,latency_ms\n{arch},{value}\n")
    assert "expected a number of at least 0" in refused(
        read_table, tmp_path / "t.csv", tiny_space.space(), "latency_ms"
    )


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zst", "zip", "tar"])
def test_measurements_are_not_unpacked(ending, packed, tmp_path):
    """Whatever a file is called: a few megabytes would unpack to gigabytes, and unpackers raise errors of their own."""
    for name in (f"t.csv.{ending}", "t.csv"):
        content = PACKERS.get(ending, lzma.compress)(b"arch,ms\n0,1\n" * 1000) if packed else b"\x00\xff"
        (tmp_path / name).write_bytes(content)
        assert "is not a readable CSV file" in refused(read_table, tmp_path / name, tiny_space.space(), "latency_ms")
    assert "is not a readable .csv file" in refused(
        import_file, tmp_path / "t.csv", "nasbench201", IMPORTED, tmp_path / "out"
    )


def test_measurements_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("cosearch.costs.MOST_TABLE_BYTES", 1 << 20)
    assert "has more than 1 MiB" in refused(read_table, Path("/dev/zero"), tiny_space.space(), "latency_ms")
    monkeypatch.setattr("hwbench_data.importing.LARGEST_CSV_BYTES", 1 << 20)
    (tmp_path / "t.csv").write_bytes(b"arch,ms\n" + b"0,1\n" * (1 << 19))
    assert "has 2 MiB, at most 1" in refused(import_file, tmp_path / "t.csv", "nasbench201", IMPORTED, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"\x08\x07", b"\xff" * 1000, b"\x3a\xff\xff\xff\xff\x7f" + bytes(10)])
def test_onnx_that_is_none(content, tmp_path):
    (tmp_path / "x.onnx").write_bytes(content)
    refused(read_report, tmp_path / "x.onnx")


@pytest.mark.parametrize(("kind", "size"), [("BF16", 2), ("F8_E4M3", 1), ("F8_E5M2", 1), ("X9", 1), ("F64", 3)])
def test_predictors_with_arrays_that_numpy_does_not_have(kind, size, tmp_path):
    entries = {"__metadata__": {"card": "{}"}, "x": {"dtype": kind, "shape": [1], "data_offsets": [0, size]}}
    text = json.dumps(entries).encode()
    (tmp_path / "p.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
    assert "is not a predictor file" in refused(storage.load, tmp_path / "p.safetensors")


def test_huge_dimensions_in_a_workload():
    layer = {"name": "a", "kind": "mac", "K": 2**62, "C": 2**62, "P": 2**62, "Q": 2**62, "R": 9, "S": 9}
    document = {"format": "cosearch.workload", "version": 1, "name": "x", "layers": [layer], "inputs": [[-1]]}
    try:
        workload = Workload.from_json(json.dumps(document))
    except CosearchError:
        return
    assert workload.macs > 0  # Python's whole numbers do not overflow


NAMES = (
    "\u202egnp.exe",
    "😀 データ",
    "a\nb",
    "'; rm -rf ~; '",
    "$(touch ran)",
    "--help",
    "<script>alert(1)</script>",
    "%s%n{0}",
)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_only_names(name, tmp_path, monkeypatch):
    """As a file, as a folder of images, as an option: told back on one line, never run or formatted."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"{name}.npz".replace("/", "_")
    path.write_bytes(b"no archive")
    refused(load_dataset, str(path))
    refused(load_dataset, name)
    refused(load_device, name)
    refused(parse_arch, name, tiny_space.space())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["a\0b", "\0", "\ud800", "x" * 5000])
def test_names_that_no_file_can_have(name, tmp_path, monkeypatch):
    """From Python, and in documents that name others."""
    monkeypatch.chdir(tmp_path)
    part = {"format": "cosearch.part", "version": 1, "name": "x", "family": "fpga", "budget": {}, "includes": [name]}
    (tmp_path / "part.json").write_text(json.dumps(part))
    assert "part.json" in refused(load_device, str(tmp_path / "part.json"))
    refused(load_device, name)
    refused(load_dataset, name)
    refused(cosearch.load, name)
    refused(load_run, name)
    refused(hwbench_data.load, name)
    refused(storage.load, name)
    for option in ("space", "device", "data", "data_dir", "accuracy_table", "out"):
        refused(lambda option=option: cosearch.run(**{"space": tiny_space.NAME, "quiet": True, option: name}))
    refused(load_dataset, f"{name}.npz")
    refused(load_device, f"{name}.json")
    refused(load_device, f"{name}.csv")


@pytest.mark.parametrize("name", [b"caf\xe9", b"a\xc2\x85b"])
def test_names_that_config_yaml_cannot_hold(name, tmp_path, few_digits):
    """A file may be called so; the run is refused before anything is written."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    folder.mkdir()
    (folder / "few.npz").write_bytes(few_digits.read_bytes())
    small = {"space": tiny_space.NAME, "device": "ecp5-25f", "trials": 4, "supernet_epochs": 1, "quiet": True}
    for given in ({"out": folder / "run"}, {"out": tmp_path / "run", "data": str(folder / "few.npz")}):
        assert "has characters that no YAML file holds" in refused(lambda given=given: cosearch.run(**small, **given))
    assert [path.name for path in (tmp_path / "run", folder / "run") if path.exists()] == []


def test_accelerators_of_parts_are_called_by_what_a_table_can_hold(tmp_path):
    """A spreadsheet would run a cell of front.csv that begins as a formula does."""
    part = {"format": "cosearch.part", "version": 1, "name": "x", "family": "fpga", "budget": {}}
    known = load_template("gemmini").build({}).to_json()
    for name in ("=cmd|' /C calc'!A0", "+1", "-1", "@sum(1)", "\ta", "a\nb", "a\x1b[2J", ["x"], None):
        (tmp_path / "part.json").write_text(json.dumps({**part, "name": name}))
        assert "expected a name of printable characters" in refused(load_device, str(tmp_path / "part.json"))
        assert "expected a name of printable" in refused(Accelerator.from_json, json.dumps({**known, "name": name}))
    (tmp_path / "part.json").write_text(json.dumps(part))
    assert load_device(str(tmp_path / "part.json")).name == "x"


def test_class_names_are_escaped_wherever_they_are_shown(tmp_path):
    """A dataset whose class folders carry markup, through a whole run to its report."""
    from PIL import Image

    rng = np.random.default_rng(0)
    data, names = tmp_path / "data", ("<script>alert(1)<", '"><img src=x onerror=alert(2)>', "a & b")
    for number, name in enumerate(names):
        (data / name).mkdir(parents=True)
        for i in range(60):
            image = rng.integers(0, 80, (8, 8)) + 80 * number
            Image.fromarray(image.astype(np.uint8)).save(data / name / f"{i}.png")
    result = cosearch.run(
        space=tiny_space.NAME, device="ecp5-25f", data=str(data), trials=4, supernet_epochs=1, finalist_epochs=1,
        finalist_seeds=1, baselines=False, threads=1, torch_device="cpu", quiet=True, out=tmp_path / "run",
    )  # fmt: skip
    page = (Path(result.path) / "report.html").read_text()
    for name in names:
        assert name not in page
    assert "&lt;script&gt;alert(1)&lt;" in page  # it is shown, as text
    assert "<img src=x" not in result._repr_html_()
    assert set(json.loads((Path(result.path) / "best/network.json").read_text())["classes"]) == set(names)


def test_a_network_file_does_not_choose_code(tmp_path):
    """The space that a document names is not imported."""
    document = {
        "format": "cosearch.network",
        "version": 1,
        "space": "antigravity:fly",
        "arch": {},
        "input_shape": [1, 8, 8],
        "steps": [],
    }
    (tmp_path / "x.json").write_text(json.dumps(document))
    with pytest.raises(CosearchError):
        cosearch.load(tmp_path / "x.json")
    assert "antigravity" not in sys.modules


def repeated(length: int, rows: int) -> pa.Array:
    """One text again and again, of which Parquet stores one."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["a" * length]))


PARQUET = {
    "a text of a megabyte in 4,000 rows": ({"arch": repeated(1_000_000, 4000), "ms": np.ones(4000)}, "unpack to"),
    "the same for numbers": ({"arch": np.arange(4000), "ms": repeated(1_000_000, 4000)}, "unpack to"),
    "30 million rows": ({name: pa.nulls(30_000_000, pa.int8()) for name in ("arch", "ms")}, "unpack to 60,000,000"),
    "lists": ({"arch": [3], "ms": [[1.0] * 9_000_000]}, "not a number or name"),
}


@pytest.mark.parametrize("columns", PARQUET.values(), ids=PARQUET)
def test_parquet_that_unpacks_to_much(columns, tmp_path):
    values, said = columns
    pq.write_table(pa.table(values), tmp_path / "a.parquet", compression="zstd", store_schema=False)
    assert (tmp_path / "a.parquet").stat().st_size < 1 << 20
    assert said in refused(import_file, tmp_path / "a.parquet", "nasbench201", IMPORTED, tmp_path / "out")


def test_parquet_texts_that_begin_alike(tmp_path):
    """Of each text only its end is stored."""
    table = pa.table({"arch": [f"{'a' * 100_000}{i}" for i in range(200)], "ms": np.ones(200)})
    encoding = {"arch": "DELTA_BYTE_ARRAY"}
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", use_dictionary=False, column_encoding=encoding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hwbench_data.importing.LARGEST_UNPACKED", 10_000_000)
        assert "unpack to" in refused(import_file, tmp_path / "a.parquet", "nasbench201", IMPORTED, tmp_path / "out")


def test_parquet_with_damaged_notes(tmp_path):
    """What pandas notes about its columns is not as pandas expects."""
    pd.DataFrame({"arch": [3, 4], "ms": [1.0, 2.0]}).to_parquet(tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    for old, new in ((b"numpy_type", b"numpX_type"), (b'"float64"', b'"floaX64"')):
        (tmp_path / "b.parquet").write_bytes(content.replace(old, new))
        assert "not a readable .parquet file" in refused(
            import_file, tmp_path / "b.parquet", "nasbench201", IMPORTED, tmp_path / "out"
        )


def test_parquet_columns_that_nobody_asked_for_are_not_unpacked(tmp_path):
    """The eight gigabytes of another column do not matter."""
    table = pa.table({"arch": np.arange(4000), "ms": np.ones(4000), "note": repeated(2_000_000, 4000)})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", store_schema=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    import_file(tmp_path / "a.parquet", "nasbench201", IMPORTED, tmp_path / "out")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEBIBYTES


def test_the_checks_would_see_a_reader_that_is_slow_or_greedy(monkeypatch):
    def greedy():
        np.ones(200 << 20)
        raise DataError("no")

    monkeypatch.setitem(globals(), "MEBIBYTES", 100)
    with pytest.raises(AssertionError):
        refused(greedy)


def onnx_of(functions, call):
    """A model whose graph calls one function of domain d; functions: name -> the functions that it calls in turn."""
    from onnx import TensorProto, helper

    ops = [helper.make_opsetid("", 18), helper.make_opsetid("d", 1)]
    made = []
    for name, called in functions.items():
        values = ["x", *(f"t{i}" for i in range(1, len(called))), "y"]
        nodes = [
            helper.make_node(op, [a], [b], domain="" if op == "Relu" else "d")
            for op, (a, b) in zip(called, pairwise(values), strict=True)
        ]
        made.append(helper.make_function("d", name, ["x"], ["y"], nodes, ops))
    a, b = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in "ab")
    graph = helper.make_graph([helper.make_node(call, ["a"], ["b"], domain="d")], "g", [a], [b])
    return helper.make_model(graph, functions=made, opset_imports=ops)


def bomb(depth, width=10):
    return {"f0": ["Relu"], **{f"f{i}": [f"f{i - 1}"] * width for i in range(1, depth)}}


@pytest.mark.parametrize(
    ("functions", "call", "words"),
    [
        (bomb(12), "f11", "more than 131,072 nodes"),
        (bomb(500), "f499", "more than 131,072 nodes"),
        (dict(reversed(bomb(12).items())), "f11", "more than 131,072 nodes"),
        ({"f": ["f"]}, "f", "'f' calls itself"),
        ({"f": ["g", "Relu"], "g": ["Relu", "h"], "h": ["f"]}, "h", "calls itself"),
    ],
)
def test_functions_that_grow_without_end(functions, call, words, tmp_path):
    import onnx

    onnx.save(onnx_of(functions, call), tmp_path / "x.onnx")
    assert words in refused(read_report, tmp_path / "x.onnx")


def test_functions_that_hold_much_are_counted_by_their_bytes(tmp_path, monkeypatch):
    """A constant in a function is copied at each call."""
    import onnx
    from onnx import helper

    model = onnx_of(bomb(4), "f3")
    value = helper.make_tensor("c", onnx.TensorProto.FLOAT, [1000], [0.0] * 1000)
    model.functions[0].node.append(helper.make_node("Constant", [], ["unused"], value=value))
    onnx.save(model, tmp_path / "x.onnx")
    assert "no layer that can be priced" in refused(read_report, tmp_path / "x.onnx")  # it is read
    monkeypatch.setattr("cosearch.models.onnx_file.LARGEST_BYTES", 3 << 20)
    assert "more than 131,072 nodes or 3 MiB" in refused(read_report, tmp_path / "x.onnx")


@pytest.mark.parametrize("inside", [False, True])
def test_functions_are_counted_as_they_are_inlined(inside, monkeypatch):
    """One called from two others, and within a subgraph; the nodes that the inliner leaves are those counted."""
    from onnx import helper, inliner

    from cosearch.models import onnx_file

    model = onnx_of({"f": ["Relu"], "g": ["f", "f", "Relu"], "h": ["g", "f", "g"]}, "h")
    if inside:
        branch = helper.make_graph(
            list(model.graph.node), "then", [], [helper.make_tensor_value_info("b", 1, [1, 3, 8, 8])]
        )
        del model.graph.node[:]
        model.graph.node.append(helper.make_node("If", ["c"], ["b"], then_branch=branch, else_branch=branch))
    functions = {("d", f.name, ""): f for f in model.functions}
    left = onnx_file._body(inliner.inline_local_functions(model).graph.node, functions)
    assert not left.calls
    calls = (1 + 2 * (1 + 2) + 1) * (2 if inside else 1)  # nodes that are calls: they are counted, and go
    monkeypatch.setattr(onnx_file, "LARGEST_NODES", left.nodes + calls)
    onnx_file._check_functions(model, "x")
    monkeypatch.setattr(onnx_file, "LARGEST_NODES", left.nodes + calls - 1)
    assert "more than" in refused(onnx_file._check_functions, model, "x")


WIDE = {
    "a head of a million columns": b"," * (1 << 20) + b"\n",
    "a row of a million values": b"arch,latency_ms\n" + b"," * (1 << 20) + b"\n",
    "both": b"," * (1 << 19) + b"\n" + b"," * (1 << 19) + b"\n",
    "a row over many lines": b"arch,latency_ms\n" + b'"a\n"' + b',,,,,,,,"\n"' * 100_000 + b"\n",
    "after empty lines": b"\n \n\t\n" + b"," * (1 << 20) + b"\n",
    "after a mark of the byte order": b"\xef\xbb\xbf" + b'"arch"' + b"," * (1 << 20) + b"\n",
    "a mark and a quote": b'\xef\xbb\xbf"\n"' + b',,"\n"' * 300_000,
    "carriage returns": b"arch\r" + b"," * (1 << 20) + b"\r",
}


@pytest.mark.parametrize("content", WIDE.values(), ids=WIDE)
def test_csv_of_many_columns(content, tmp_path):
    """pandas takes minutes for them."""
    (tmp_path / "t.csv").write_bytes(content)
    assert "of more than 1,000 columns" in refused(read_table, tmp_path / "t.csv", tiny_space.space(), "latency_ms")
    said = refused(import_file, tmp_path / "t.csv", "nasbench201", IMPORTED, tmp_path / "out")
    assert "of more than 1,000 columns" in said


def test_csv_of_as_many_columns_as_are_read():
    def row(columns):
        return b",".join([b"a"] * columns) + b"\n"

    require_few_columns(row(1000) + row(1000))
    require_few_columns(row(2) * 100_000)
    require_few_columns(b'"a,b,c\n' + b"d,e,f\n" * 100 + b'"\n1\n')
    for content in (row(1001), row(1000) + row(1001), b'"' + b"a" * 200_000):
        with pytest.raises(DataError):
            require_few_columns(content)


def test_measurements_beyond_floating_point(tmp_path):
    """With numbers beside them that pandas reads as they are."""
    arch = ";".join(f"{k}={v[0]}" for k, v in tiny_space.space().choices.items())
    (tmp_path / "t.csv").write_text(f"arch,latency_ms\n{arch},1.5\n{arch},1{'0' * 400}\n")
    said = refused(read_table, tmp_path / "t.csv", tiny_space.space(), "latency_ms")
    assert "line 3: latency_ms is" in said
    assert "expected a number of at least 0" in said


LARGE = 1 << 27
IMAGES = {
    "no shape": ({"x": (f"({LARGE},)", "|u1", LARGE)}, f"shape ({LARGE},)"),
    "more labels": ({"y": (f"({LARGE >> 3},)", "<i8", LARGE)}, "must pair up"),
    "labels that are fractions": ({"y": (f"({LARGE >> 3},)", "<f8", LARGE)}, "expected one integer label"),
    "more images than are kept as float32": ({"x": (f"({LARGE >> 14}, 128, 128)", "|u1", LARGE)}, "as float32"),
    "texts": ({"x": ("(2, 8, 8)", "<U262144", LARGE)}, "expected uint8 or float images"),
    "another size than the head says": ({"x": ("(2, 8, 8)", "|u1", LARGE)}, "its head says"),
    "test labels": ({"x_test": ("(2, 8, 8)", "|u1", 128), "y_test": (f"({LARGE},)", "|u1", LARGE)}, "must pair up"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_arrays_that_are_no_images_are_not_unpacked(name, tmp_path, monkeypatch):
    """What is small when packed, and within what is read at most."""
    others, words = IMAGES[name]
    members = {"x": ("(2, 8, 8)", "|u1", 128), "y": ("(2,)", "<i8", 16), **others}
    with zipfile.ZipFile(tmp_path / "data.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for key, (shape, dtype, size) in members.items():
            with archive.open(f"{key}.npy", "w") as file:
                file.write(header(shape, dtype))
                for start in range(0, size, 1 << 20):
                    file.write(bytes(min(1 << 20, size - start)))
    monkeypatch.setattr("cosearch.data.MAX_BYTES", 2 * LARGE)
    monkeypatch.setitem(globals(), "MEBIBYTES", 60)
    assert words in refused(load_dataset, str(tmp_path / "data.npz"))


def parquet(folder, **columns):
    pq.write_table(pa.table(columns), folder / "a.parquet", compression="zstd", store_schema=False)
    return (folder / "a.parquet").read_bytes()


def test_statistics_that_end_the_process_in_arrow(tmp_path):
    """A footer that calls a column of texts one of numbers: Arrow ends the process when asked for its metadata."""
    content = parquet(tmp_path, arch=["a", "b"], ms=["1", "2"])
    texts, numbers = b"\x15\x0c", b"\x15\x08"  # of the field `type`: BYTE_ARRAY, FLOAT
    places = [at for at in range(len(content)) if content[at : at + 2] == texts]
    assert len(places) >= 2
    crashed = False
    code = "import sys, pyarrow.parquet as pq; pq.ParquetFile(sys.argv[1]).metadata.row_group(0).column({})"
    for number, at in enumerate(places):
        path = tmp_path / f"{number}.parquet"
        path.write_bytes(content[:at] + numbers + content[at + 2 :])
        crashed = crashed or any(
            subprocess.run([sys.executable, "-c", code.format(column), str(path)], capture_output=True).returncode < 0
            for column in (0, 1)
        )
        with suppress(CosearchError):
            import_file(path, "fbnet_blocks", IMPORTED, tmp_path / "out")
    assert crashed


def footer(content: bytes) -> bytes:
    return b"PAR1" + content + struct.pack("<I", len(content)) + b"PAR1"


FOOTERS = {
    "no magic": b"PAR1" + bytes(100),
    "nothing": b"",
    "longer than the file": b"PAR1" + bytes(10) + struct.pack("<I", 1 << 20) + b"PAR1",
    "nine mebibytes": footer(bytes(9 << 20)),
    "a list of more than there is": footer(b"\x49\xf5" + b"\xff" * 4 + b"\x0f"),
    "structs in structs": footer(b"\x1c" * 100_000),
    "lists in lists": footer(b"\x19" + b"\x19" * 100_000),
    "a number without end": footer(b"\x15" + b"\xff" * 1000),
    "text that is not there": footer(b"\x18\xff\xff\xff\x7f"),
    "no groups": footer(b"\x15\x02\x00"),
    "an unknown kind": footer(b"\x1e"),
}


def one_chunk(rows=b"\x16\x02", values=b"\x16\x02", size=b"\x16\x02", said=b"\x6c\x58\x01a\x18\x01a\x00"):
    """A footer of one row group of one column; each number and the statistics as their field."""
    meta = b"\x15\x0c" + b"\x19\x15\x00" + b"\x19\x18\x01n" + b"\x15\x00" + values + size + said + b"\x00"
    return footer(b"\x49\x1c" + b"\x19\x1c" + b"\x3c" + meta + b"\x00" + b"\x26" + rows[1:] + b"\x00" + b"\x00")


FOOTERS |= {
    "rows that are fewer than none": one_chunk(rows=b"\x16\x03"),
    "values that are fewer than none": one_chunk(values=b"\x16\x03"),
    "values that are text": one_chunk(values=b"\x18\x00"),
    "a size below nothing": one_chunk(size=b"\x16\x03"),
    "statistics that are a number": one_chunk(said=b"\x65\x02"),
    "a least value that is a number": one_chunk(said=b"\x6c\x55\x02\x18\x01a\x00"),
}


def test_the_footer_that_is_damaged_above_is_read_when_whole(tmp_path):
    (tmp_path / "a.parquet").write_bytes(one_chunk())
    [group] = read_groups(tmp_path / "a.parquet")
    [chunk] = group.chunks
    assert (group.rows, chunk.column, chunk.values, chunk.unpacked_bytes) == (1, "n", 1, 1)
    assert (chunk.greatest, chunk.least) == (b"a", b"a")


@pytest.mark.parametrize("content", FOOTERS.values(), ids=FOOTERS)
def test_footers_that_harm(content, tmp_path):
    (tmp_path / "a.parquet").write_bytes(content)
    refused(read_groups, tmp_path / "a.parquet")


def test_a_footer_says_what_arrow_reads_in_it(tmp_path):
    for options in ({}, {"use_dictionary": False, "column_encoding": {"label": "DELTA_BYTE_ARRAY"}}):
        table = pa.table({"n": pa.array(range(50), pa.int32()), "label": [f"t{i}" for i in range(50)]})
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=20, **options)
        groups, metadata = read_groups(tmp_path / "a.parquet"), pq.ParquetFile(tmp_path / "a.parquet").metadata
        assert [group.rows for group in groups] == [20, 20, 10]
        for at, group in enumerate(groups):
            for place, chunk in enumerate(group.chunks):
                known = metadata.row_group(at).column(place)
                assert chunk.column == known.path_in_schema
                assert chunk.values == known.num_values
                assert chunk.unpacked_bytes == known.total_uncompressed_size
                assert (DELTA_BYTE_ARRAY in chunk.encodings) == ("DELTA_BYTE_ARRAY" in known.encodings)
            assert group.chunks[1].least.decode() == metadata.row_group(at).column(1).statistics.min
            assert group.chunks[1].greatest.decode() == metadata.row_group(at).column(1).statistics.max


def test_texts_in_parquet_that_are_none(tmp_path):
    parquet(tmp_path, arch=pa.array([b"\xff\xfe", b"b"]).view(pa.string()), ms=[1.0, 2.0])
    assert "is not a readable .parquet file" in refused(
        import_file, tmp_path / "a.parquet", "fbnet_blocks", IMPORTED, tmp_path / "out"
    )


def forest(tmp_path, **changes):
    """A saved forest with some arrays changed, and the checksum of these."""
    from predictors import storage
    from predictors.trees import RandomForest

    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 3))
    model = RandomForest().fit(X, X[:, 0])
    path = tmp_path / "p.predictor"
    storage.save(model, path, {})
    whole = model.arrays()
    changed = {**whole, **{name: change(whole[name].copy()) for name, change in changes.items()}}
    model.arrays = lambda: changed  # type: ignore[method-assign]
    storage.save(model, path, {})
    return path


def put(at, value):
    def change(array):
        array[at] = value
        return array

    return change


FORESTS = {
    "a child beyond the end": {"left": put(0, 2**31 - 1)},
    "a child beyond the start": {"right": put(0, -7)},
    "a node that is its own child": {"left": put(0, 0)},
    "a root beyond the end": {"roots": put(0, 2**31 - 1)},
    "a column that is not there": {"feature": put(0, 2**31 - 1)},
    "a column before the first": {"feature": put(0, -(2**31))},
    "a member beyond the last": {"member": put(0, 2**31 - 1)},
    "a thousand million members": {"member": put(-1, 10**9)},
    "fewer thresholds": {"threshold": lambda array: array[:3]},
    "other types": {"left": lambda array: array.astype(np.int64)},
    "no trees": {"roots": lambda array: array[:0], "member": lambda array: array[:0]},
    "two noises": {"noise": lambda array: np.ones(2)},
    "a table": {"value": lambda array: array.reshape(1, -1)},
    "values that are no numbers": {"value": lambda array: array * np.nan},
}


@pytest.mark.parametrize("changes", FORESTS.values(), ids=FORESTS)
def test_trees_that_lead_out_of_their_arrays(changes, tmp_path):
    """They are walked by compiled code, which looks at no bounds."""
    assert "does not describe a predictor" in refused(storage.load, forest(tmp_path, **changes))
    assert storage.load(forest(tmp_path)).samples == 20


def test_processes_of_many_samples(tmp_path, monkeypatch):
    """Their kernel has the square of them."""
    from predictors.gp import GaussianProcess

    X = np.random.default_rng(0).normal(size=(20, 3))
    storage.save(GaussianProcess().fit(X, X[:, 0]), tmp_path / "p.predictor", {})
    assert storage.load(tmp_path / "p.predictor").samples == 20
    monkeypatch.setattr("predictors.gp.MOST_RESTORED", 19)
    assert "at most 19 are restored" in refused(storage.load, tmp_path / "p.predictor")


TEMPLATES = {
    "memories of infinite number": (
        lambda data: {**data, "shared": [{**level, "instances": [1e308, 1e308]} for level in data["shared"]]},
        "cannot convert float infinity to integer",
    ),
    "a thousand million accelerators": (
        lambda data: {**data, "choices": {name: list(range(1, 1001)) for name in [*data["parameters"]][:3]}},
        "offers 1e+09 accelerators, at most 1,000,000",
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_that_harm(name, tmp_path):
    change, words = TEMPLATES[name]
    known = json.loads((Path(accelerators.__file__).parent / "templates" / "gemmini.json").read_text())
    (tmp_path / "t.json").write_text(json.dumps(change(known)))
    assert words in refused(lambda path: accelerators.find(path).entries, str(tmp_path / "t.json"))
