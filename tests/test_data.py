import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from cosearch import data
from cosearch.data import load_dataset
from cosearch.errors import DataError


def real(n: int = 200):
    bunch = load_digits()
    return (bunch.images[:n] / 16).astype(np.float32), bunch.target[:n]


def rows(split) -> set[bytes]:
    return {image.tobytes() for image in split.x}


def save(path: Path, **arrays) -> str:
    np.savez(path, **arrays)
    return str(path)


# -- what is accepted --


def test_digits_are_split_into_three_stratified_standardised_parts(digits):
    everything = load_digits()
    parts = (digits.train, digits.validation, digits.sealed().open_test())
    assert sum(map(len, parts)) == 1797
    assert digits.input_shape == (1, 8, 8)
    assert digits.classes == tuple("0123456789")
    assert not digits.mirror
    counts = np.bincount(everything.target)
    for part, share in zip(parts, (0.6, 0.2, 0.2), strict=True):
        assert np.abs(np.bincount(part.y) - share * counts).max() <= 1.5
        assert part.x.dtype == np.float32
        assert part.y.dtype == np.int64
    assert abs(digits.train.x.mean()) < 1e-5
    assert abs(digits.train.x.std() - 1) < 1e-3


def test_every_real_image_lands_in_exactly_one_split_with_its_own_label(digits):
    bunch = load_digits()
    raw = (bunch.images / 16).astype(np.float32)
    # undo the standardisation with statistics computed here, from the raw images
    label_of = {}
    for image, label in zip(np.round(raw * 16).astype(int), bunch.target, strict=True):
        label_of.setdefault(image.tobytes(), []).append(int(label))
    found: dict[bytes, list[int]] = {}
    for part in (digits.train, digits.validation, digits.sealed().open_test()):
        low, high = part.x.min(), part.x.max()
        for image, label in zip(np.round((part.x[:, 0] - low) / (high - low) * 16).astype(int), part.y, strict=True):
            found.setdefault(image.tobytes(), []).append(int(label))
    assert {k: sorted(v) for k, v in found.items()} == {k: sorted(v) for k, v in label_of.items()}


def test_the_same_seed_gives_the_same_split_and_another_seed_another(digits):
    again, other = load_dataset("digits", seed=0), load_dataset("digits", seed=1)
    assert np.array_equal(again.validation.x, digits.validation.x)
    assert np.array_equal(again.sealed().open_test().y, digits.sealed().open_test().y)
    assert rows(other.sealed().open_test()) != rows(digits.sealed().open_test())
    assert again.content_hash == other.content_hash == digits.content_hash


def test_development_is_train_and_validation(digits):
    development = digits.development()
    assert len(development) == len(digits.train) + len(digits.validation)
    assert rows(development) == rows(digits.train) | rows(digits.validation)
    assert not rows(development) & rows(digits.sealed().open_test())


@pytest.mark.parametrize("layout", ["nhw", "nhwc", "nchw", "nhwc3", "nchw3"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_npz_of_every_layout_and_type(tmp_path, layout, dtype):
    x, y = real()
    x = (x * 255).astype(dtype) if dtype == np.uint8 else x.astype(dtype)
    colour = np.stack([x, x / 2, x / 4], 1).astype(dtype)
    laid = {"nhw": x, "nhwc": x[..., None], "nchw": x[:, None], "nhwc3": colour.transpose(0, 2, 3, 1), "nchw3": colour}
    found = load_dataset(save(tmp_path / "a.npz", x=laid[layout], y=y.astype(np.uint8)))
    plain = load_dataset(save(tmp_path / "b.npz", x=x.astype(np.float32) / (255 if dtype == np.uint8 else 1), y=y))
    assert found.input_shape == (3 if layout.endswith("3") else 1, 8, 8)
    assert np.allclose(found.train.x[:, :1], plain.train.x, atol=1e-2)
    assert np.array_equal(found.train.y, plain.train.y)


def test_labels_may_be_any_integers_and_keep_their_names(tmp_path):
    x, y = real()
    found = load_dataset(save(tmp_path / "a.npz", x=x, y=(y.astype(np.int32) - 5) * 100))
    assert found.classes == tuple(str((d - 5) * 100) for d in range(10))
    assert set(found.train.y) == set(range(10))


def test_a_given_test_set_is_the_test_split(tmp_path):
    x, y = real(300)
    found = load_dataset(save(tmp_path / "a.npz", x=x[:200], y=y[:200] * 3, x_test=x[200:], y_test=y[200:] * 3))
    assert len(found.sealed().open_test()) == 100
    assert np.array_equal(found.sealed().open_test().y, y[200:])
    assert len(found.train) + len(found.validation) == 200
    plain = (x[200:, None] - x[200:].mean()) / x[200:].std()
    assert np.corrcoef(found.sealed().open_test().x.ravel(), plain.ravel())[0, 1] > 0.9999


def test_content_hash_sees_every_pixel_and_label(tmp_path):
    x, y = real()
    base = load_dataset(save(tmp_path / "a.npz", x=x, y=y)).content_hash
    changed = x.copy()
    changed[17, 3, 3] += 0.25
    relabelled = y.copy()
    relabelled[[0, 1]] = y[[1, 0]]
    assert load_dataset(save(tmp_path / "b.npz", x=changed, y=y)).content_hash != base
    assert load_dataset(save(tmp_path / "c.npz", x=x, y=relabelled)).content_hash != base


def image_folder(root: Path, mode: str = "L", suffix: str = "png", n: int = 100) -> Path:
    x, y = real(n)
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        folder = root / f"digit {label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255).astype(np.uint8)).convert(mode).save(folder / f"{i:03}.{suffix}")
    return root


@pytest.mark.parametrize(
    ("mode", "suffix", "channels"),
    [("L", "png", 1), ("RGB", "png", 3), ("RGBA", "png", 3), ("LA", "png", 1), ("L", "bmp", 1), ("RGB", "PNG", 3)],
)
def test_image_folders(tmp_path, mode, suffix, channels):
    found = load_dataset(str(image_folder(tmp_path / "images", mode, suffix)))
    x, y = real(100)
    plain = load_dataset(save(tmp_path / "a.npz", x=(x * 255).astype(np.uint8), y=y))
    assert found.input_shape == (channels, 8, 8)
    assert found.classes == tuple(f"digit {d}" for d in range(10))
    assert len(found.train) == len(plain.train)


def test_an_image_folder_holds_the_pixels_of_its_files(tmp_path):
    image_folder(tmp_path / "images")
    raw = data._folder(tmp_path / "images")
    x, y = real(100)
    expected = sorted((int(label), (image * 255).astype(np.uint8).tobytes()) for image, label in zip(x, y, strict=True))
    assert sorted((int(label), image.tobytes()) for image, label in zip(raw.x, raw.y, strict=True)) == expected


def test_sixteen_bit_images_keep_their_upper_byte(tmp_path):
    x, y = real(60)
    wide = (x * 65535).astype(np.uint16)
    for i, label in enumerate(y):
        (tmp_path / "w" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(wide[i]).save(tmp_path / "w" / str(label) / f"{i:03}.png")
    raw = data._folder(tmp_path / "w")
    expected = sorted(
        (int(label), (image >> 8).astype(np.uint8).tobytes()) for image, label in zip(wide, y, strict=True)
    )
    assert sorted((int(label), image.tobytes()) for image, label in zip(raw.x, raw.y, strict=True)) == expected


def test_hidden_folders_and_foreign_files_are_left_alone(tmp_path):
    root = image_folder(tmp_path / "images")
    (root / ".cache").mkdir()
    (root / "digit 3" / "notes.txt").write_text("not an image")
    assert len(load_dataset(str(root)).classes) == 10


def cifar_batches(root: Path, hundred: bool, n: int = 60) -> dict[str, np.ndarray]:
    """Batches in CIFAR's own format: rows of 3,072 bytes, red plane first, keys as bytes, protocol 2."""
    rng = np.random.default_rng(0)
    key = b"fine_labels" if hundred else b"labels"
    names = ["train", "test"] if hundred else [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    root.mkdir(parents=True, exist_ok=True)
    pixels = {}
    for name in names:
        pixels[name] = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        batch = {b"batch_label": b"x", key: [i % 10 for i in range(n)], b"data": pixels[name], b"filenames": [b"f"] * n}
        if hundred:
            batch[b"coarse_labels"] = [i % 2 for i in range(n)]
        (root / name).write_bytes(pickle.dumps(batch, protocol=2))
    return pixels


@pytest.mark.parametrize("nested", [True, False])
def test_cifar10_batches_are_read_plane_by_plane(tmp_path, nested):
    pixels = cifar_batches(tmp_path / ("cifar-10-batches-py" if nested else "."), hundred=False)
    raw = data._cifar10(tmp_path)
    assert raw.x.shape == (300, 3, 32, 32)
    assert raw.x[61, 2, 1, 5] == pixels["data_batch_2"][1, 2 * 1024 + 32 + 5]
    found = load_dataset("cifar10", tmp_path)
    assert found.input_shape == (3, 32, 32)
    assert found.mirror
    assert len(found.sealed().open_test()) == 60
    assert len(found.validation) == 30


def test_cifar100_uses_the_fine_labels(tmp_path):
    cifar_batches(tmp_path / "cifar-100-python", hundred=True, n=80)
    found = load_dataset("cifar100", tmp_path)
    assert len(found.classes) == 10  # the fine labels of these batches; the coarse ones would be 2


# -- what is refused, in one line --


def test_class_folders_that_are_called_by_halves_of_characters(tmp_path):
    root = image_folder(tmp_path / "images")
    first = sorted(folder for folder in root.iterdir() if folder.is_dir())[0]
    first.rename(root / os.fsdecode(b"caf\xe9"))
    refused(root, r"class folder .*caf\\udce9 has a name that is no UTF-8: rename it")


def refused(path_or_name, match: str, data_dir: Path | None = None) -> None:
    with pytest.raises(DataError, match=match) as caught:
        load_dataset(str(path_or_name), data_dir)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        (lambda x, y: {"x": x}, "expected arrays 'x'"),
        (lambda x, y: {"images": x, "y": y}, "expected arrays 'x'"),
        (lambda x, y: {"x": x[:0], "y": y[:0]}, "no images"),
        (lambda x, y: {"x": x, "y": y[:-1]}, "200 images but 199 labels"),
        (lambda x, y: {"x": x, "y": y * 0}, "at least two classes"),
        (lambda x, y: {"x": np.where(x > 0.9, np.nan, x), "y": y}, "NaN or infinite pixels"),
        (lambda x, y: {"x": np.where(x > 0.9, np.inf, x), "y": y}, "NaN or infinite pixels"),
        (lambda x, y: {"x": np.where(x > 0.9, 1e300, x.astype(float)), "y": y}, "NaN or infinite pixels"),
        (lambda x, y: {"x": x.reshape(200, 64), "y": y}, "expected \\[n,h,w\\]"),
        (lambda x, y: {"x": np.stack([x] * 4, -1), "y": y}, "1 or 3 channels"),
        (lambda x, y: {"x": x[:, :7], "y": y}, "7x8, expected 8x8 to 224x224"),
        (lambda x, y: {"x": np.zeros((40, 225, 8), np.uint8), "y": y[:40]}, "225x8"),
        (lambda x, y: {"x": (x * 16).astype(np.int64), "y": y}, "expected uint8 or float"),
        (lambda x, y: {"x": x.astype(complex), "y": y}, "expected uint8 or float"),
        (lambda x, y: {"x": x.astype(object), "y": y}, "not a readable .npz"),
        (lambda x, y: {"x": x, "y": y.astype(float)}, "integer label"),
        (lambda x, y: {"x": x, "y": np.eye(10, dtype=int)[y]}, "integer label"),
        (lambda x, y: {"x": x, "y": y.astype(str)}, "integer label"),
        (lambda x, y: {"x": x, "y": np.where(np.arange(200) < 3, 77, y)}, "class '77' has 3 images"),
        (lambda x, y: {"x": x, "y": y, "x_test": x}, "give both or neither"),
        (lambda x, y: {"x": x, "y": y, "x_test": x[:0], "y_test": y[:0]}, "x_test holds no images"),
        (lambda x, y: {"x": x, "y": y, "x_test": x, "y_test": y + 1}, "y_test has label 10"),
        (lambda x, y: {"x": x, "y": y, "x_test": x.repeat(2, 1), "y_test": y}, "x_test images are"),
        (lambda x, y: {"x": x, "y": y, "x_test": x * np.nan, "y_test": y}, "x_test has NaN"),
        (lambda x, y: {"x": x, "y": y, "x_test": x, "y_test": y[1:]}, "200 images but 199 labels in y_test"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_npz_that_cannot_be_used(tmp_path, arrays, match):
    refused(save(tmp_path / "bad.npz", **arrays(*real())), match)


def test_files_that_are_not_datasets(tmp_path):
    refused("digit", "did you mean 'digits'")
    refused(tmp_path / "absent.npz", "check the path")
    for name, content in (("a.npz", b""), ("b.npz", b"text"), ("c.npz", b"PK\x03\x04 cut")):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "not a readable .npz")
    x, y = real()
    whole = Path(save(tmp_path / "whole.npz", x=x, y=y)).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut.npz", "not a readable .npz")
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, x)
    refused(tmp_path / "array.npz", "not a readable .npz")
    (tmp_path / "folder.npz").mkdir()
    refused(tmp_path / "folder.npz", "not a readable .npz")
    (tmp_path / "data.txt").write_text("1 2 3")
    refused(tmp_path / "data.txt", "neither a .npz file nor a folder")


class _Evil:
    def __reduce__(self):
        return (Path.write_text, (Path("/nonexistent-directory/x"), "run"))


def test_a_pickle_inside_an_npz_is_not_run(tmp_path):
    y = real()[1]
    refused(save(tmp_path / "evil.npz", x=np.array([_Evil()] * len(y), dtype=object), y=y), "not a readable .npz")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (9 * 2**30,)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header.getvalue() + b"\0" * 2**20)
        archive.writestr("y.npy", b"\0")
    # the directory says 9 GiB, as that of a real bomb does
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    struct.pack_into("<I", content, entry + 24, 2**32 - 2)
    path.write_bytes(bytes(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "MAX_BYTES", 2**32 - 2**21)
        refused(path, "unpacks to")


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda root: [f.unlink() for f in root.rglob("*.png")], "no images in class folders"),
        (lambda root: (root / "digit 3" / "000.png").write_bytes(b"not a png"), "not a readable image"),
        (lambda root: (root / "digit 0" / "000.png").write_bytes(b""), "not a readable image"),
        (lambda root: Image.new("L", (9, 9)).save(root / "digit 3" / "zz.png"), "resize all images"),
        (lambda root: Image.new("RGB", (8, 8)).save(root / "digit 3" / "zz.png"), "one size and mode"),
        (lambda root: Image.new("F", (8, 8)).save(root / "digit 3" / "zz.tif"), "8 or 16 bits"),
        (lambda root: [f.unlink() for f in (root / "digit 4").iterdir()], "digit 4 holds no images: fill or remove"),
    ],
)
def test_image_folders_that_cannot_be_used(tmp_path, spoil, match):
    root = image_folder(tmp_path / "images")
    spoil(root)
    refused(root, match)


def test_an_empty_folder_and_one_class(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no images in class folders")
    (tmp_path / "one" / "a").mkdir(parents=True)
    for i in range(6):
        Image.new("L", (8, 8), i).save(tmp_path / "one" / "a" / f"{i}.png")
    refused(tmp_path / "one", "at least two classes")


class _Evaluate:
    def __reduce__(self):
        return (eval, ("__import__('pathlib').Path('ran').touch()",))


def test_a_malicious_cifar_batch_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cifar_batches(tmp_path, hundred=False)
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps({b"data": _Evaluate(), b"labels": [0]}))
    refused("cifar10", "eval, which a CIFAR Python batch never does", tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "not a CIFAR Python batch"),
        (b"garbage", "not a CIFAR Python batch"),
        (pickle.dumps([1, 2]), "not a CIFAR Python batch"),
        (pickle.dumps({b"data": np.zeros((5, 100), np.uint8), b"labels": [0] * 5}), "not a CIFAR Python batch"),
        (pickle.dumps({b"data": np.zeros((5, 3072), np.uint8)}), "not a CIFAR Python batch"),
        (pickle.dumps({b"data": [[0] * 3072] * 5, b"labels": [0] * 5}), "expected an array of bytes"),
        (pickle.dumps({b"data": np.zeros((5, 3072)), b"labels": [0] * 5}), "expected an array of bytes"),
        (pickle.dumps({b"data": np.zeros((5, 3072), np.uint8), b"labels": [[0] * 9] * 5}), "a list of whole numbers"),
        (pickle.dumps({b"data": np.zeros((5, 3072), np.uint8), b"labels": 5}), "not a CIFAR Python batch"),
        (pickle.dumps({b"data": np.zeros((5, 3072), np.uint8), b"labels": [0] * 4}), "must pair up"),
    ],
)
def test_damaged_cifar_batches(tmp_path, content, match):
    cifar_batches(tmp_path, hundred=False)
    (tmp_path / "data_batch_5").write_bytes(content)
    refused("cifar10", match, tmp_path)


def test_cifar_batches_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "MAX_CIFAR_BYTES", 1 << 20)
    cifar_batches(tmp_path, hundred=False)
    (tmp_path / "data_batch_5").unlink()
    (tmp_path / "data_batch_5").symlink_to("/dev/zero")
    refused("cifar10", "has more than 1 MiB", tmp_path)


def test_cifar_says_where_its_files_are_expected(tmp_path):
    refused("cifar10", "--data-dir")
    refused("cifar100", "--data-dir must hold", tmp_path)


# -- properties of the split --


@given(
    counts=st.lists(st.integers(5, 40), min_size=2, max_size=6),
    seed=st.integers(0, 2**40),
    given_test=st.booleans(),
)
def test_split_properties(counts, seed, given_test):
    y = np.repeat(np.arange(len(counts)) * 7, counts)
    # image i holds the number i, so that its rank among all images names it, however it is standardised
    x = np.tile(np.arange(len(y), dtype=np.float64)[:, None, None], (1, 8, 8))
    test = {"x_test": x[:9] + 1000, "y_test": y[:9]} if given_test else {}
    found = data._split("set", data._Raw(x, y, None, **test), seed)
    parts = (found.train, found.validation, found.sealed().open_test())
    assert abs(found.train.x.mean()) < 1e-4
    everything = np.concatenate([part.x[:, 0, 0, 0] for part in parts])
    numbers = np.split(np.argsort(np.argsort(everything)), np.cumsum([len(part) for part in parts])[:2])
    labels = np.concatenate([y, y[:9]])
    assert len(everything) == len(y) + 9 * given_test
    assert len(np.unique(everything)) == len(everything)
    for part, number in zip(parts, numbers, strict=True):
        assert np.array_equal(part.y * 7, labels[number])
    for part in parts[:2]:
        assert set(part.y) == set(range(len(counts)))
    for label, n in enumerate(counts):
        assert abs(np.count_nonzero(found.validation.y == label) - (0.1 if given_test else 0.2) * n) <= 1
    if given_test:
        assert np.array_equal(numbers[2], np.arange(len(y), len(y) + 9))


def test_the_test_images_open_once(digits):
    sealed = digits.sealed()
    assert not sealed.opened
    assert len(sealed.open_test())
    assert sealed.opened
    with pytest.raises(DataError, match="opened before"):
        sealed.open_test()
    assert not digits.sealed().opened


def test_large_images_are_refused_before_their_pixels_are_there(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("L", (8, 300)).save(tmp_path / name / "x.png")
    monkeypatch.setattr(data, "_pixels", lambda image: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"x\.png: images of 300x8, expected 8x8 to 224x224"):
        load_dataset(str(tmp_path))


@pytest.mark.parametrize("folder", [False, True])
def test_bytes_are_those_of_the_float_copy(tmp_path, monkeypatch, folder):
    """20 images of 8x8 are 1280 bytes in the file and 5120 as float32."""
    x = np.random.default_rng(0).integers(0, 255, (20, 8, 8), dtype=np.uint8)
    if folder:
        for i, image in enumerate(x):
            (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / "ab"[i % 2] / f"{i}.png")
        name = str(tmp_path)
    else:
        name = save(tmp_path / "x.npz", x=x, y=np.arange(20) % 2)
    monkeypatch.setattr(data, "MAX_BYTES", 5120)
    load_dataset(name)
    monkeypatch.setattr(data, "MAX_BYTES", 5119)
    with pytest.raises(DataError, match="as float32, at most"):
        load_dataset(name)
