"""Datasets: images in, three stratified, seeded splits out. The search sees train and validation only.

Accepted: ``digits`` (scikit-learn's 1,797 handwritten 8x8 digits, embedded), ``shapes`` or ``shapes:DIFFICULTY``
(generated, see `cosearch.shapes`), a ``.npz`` with ``x`` and ``y`` (optional ``x_test``, ``y_test``), a folder of
class folders of images, and ``cifar10`` / ``cifar100`` as the original Python batches in ``data_dir``. Images of 8x8
to 224x224 with 1 or 3 channels.
"""

import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cosearch import shapes
from cosearch.errors import DataError, nearest
from cosearch.reading import is_unicode, npy_header
from cosearch.unpickling import load_plain

MIN_SIZE, MAX_SIZE = 8, 224
MAX_BYTES = 8 * 2**30
"""Of all images of a file as float32, and of what a file unpacks to."""
MAX_CIFAR_BYTES = 256 << 20
"""Of a batch: the largest, CIFAR-100's, has 156 million bytes."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
MAX_PIXEL = 1e6
"""Beyond this float32 loses the differences between pixels."""
TEST_FRACTION = VALIDATION_FRACTION = 0.2

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """x: [n, channels, height, width], float32, standardised; y: [n] class indices."""

    x: Images
    y: Labels

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Dataset:
    """A dataset split for a search: `development()` is what a finalist trains on, `open_test` is for the end.

    mirror: whether a mirrored image keeps its class (true of CIFAR's objects, not of digits).
    mean, std: per channel, of the training pixels; what `standardise` takes from every image.
    """

    name: str
    train: Split
    validation: Split
    _test: Split
    classes: tuple[str, ...]
    content_hash: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mirror: bool = False
    _opened: list[bool] = field(default_factory=list, compare=False, repr=False)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.x.shape[1:]
        return channels, height, width

    def development(self) -> Split:
        """Train and validation together, for the final training of a network that has been chosen."""
        return Split(
            np.concatenate([self.train.x, self.validation.x]), np.concatenate([self.train.y, self.validation.y])
        )

    def open_test(self) -> Split:
        """The test images, once: whoever needs them again takes a sealed copy, and so shows that it does.

        Raises: DataError if they were opened before.
        """
        if self.opened:
            raise DataError(f"{self.name}: the test images were opened before: they are for the end, once")
        self._opened.append(True)
        return self._test

    @property
    def opened(self) -> bool:
        """Whether somebody has seen the test images."""
        return bool(self._opened)

    def sealed(self) -> "Dataset":
        """The same data, its test images not opened yet."""
        return replace(self, _opened=[])


def load_dataset(name: str, data_dir: Path | None = None, seed: int = 0) -> Dataset:
    """Read, check and split a dataset.

    name: ``digits``, ``shapes``, ``shapes:0.7`` (a difficulty), ``cifar10``, ``cifar100``, a ``.npz`` file or a folder
    of class folders.
    Raises: DataError, one line, if the data is unknown, unreadable, empty, mislabelled or of an unusable size.
    """
    readers: dict[str, Callable[[Path | None], _Raw]] = {
        "digits": _digits,
        "shapes": _shapes,
        "cifar10": _cifar10,
        "cifar100": _cifar100,
    }
    path = Path(name).expanduser()
    if name in readers:
        raw = readers[name](data_dir)
    elif name.startswith("shapes:"):
        raw = _shapes(None, shapes.parse_difficulty(name.removeprefix("shapes:")))
    elif path.suffix == ".npz":
        raw = _npz(path)
    elif os.path.isdir(path):
        raw = _folder(path)
    elif os.path.exists(path):
        raise DataError(
            f"data {name!r} is neither a .npz file nor a folder of class folders: convert it to one of them"
        )
    else:
        raise DataError(
            f"no dataset or file {name!r}: {nearest(name, readers)}, or give a .npz file or an image folder"
        )
    return _split(name, raw, seed)


@dataclass(frozen=True)
class _Raw:
    x: npt.NDArray[Any]
    y: npt.NDArray[Any]
    classes: tuple[str, ...] | None = None
    x_test: npt.NDArray[Any] | None = None
    y_test: npt.NDArray[Any] | None = None
    mirror: bool = False


def _digits(_: Path | None) -> _Raw:
    """Scikit-learn's, from its file: the package takes two seconds to load, in every process that trains."""
    found = find_spec("sklearn")
    assert found is not None
    assert found.submodule_search_locations is not None
    table = np.loadtxt(Path(found.submodule_search_locations[0]) / "datasets/data/digits.csv.gz", delimiter=",")
    images, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(int)
    return _Raw((images / 16.0).astype(np.float32), labels, tuple(str(d) for d in range(10)))


def _shapes(_: Path | None, difficulty: float = shapes.DIFFICULTY) -> _Raw:
    return _Raw(*shapes.generate(difficulty), shapes.CLASSES, mirror=True)


def _npz(path: Path) -> _Raw:
    try:
        with np.load(path, allow_pickle=False) as archive:
            _check_archive(path, archive)
            found = archive.files
            arrays = {key: archive[key] for key in ARRAYS if key in found}
    except FileNotFoundError:
        raise DataError(f"no file {str(path)!r}: check the path") from None
    except DataError:
        raise
    except Exception as error:
        # numpy raises zipfile, zlib, pickle, value and memory errors for damaged or foreign files
        raise DataError(
            f"{path} is not a readable .npz file ({error}): write it with numpy.savez(path, x=..., y=...)"
        ) from error
    return _Raw(arrays["x"], arrays["y"], None, arrays.get("x_test"), arrays.get("y_test"))


ARRAYS = ("x", "y", "x_test", "y_test")


def _check_archive(path: Path, archive: Any) -> None:
    """Refuse zip bombs, and arrays that are no images and labels, before anything but their heads is unpacked."""
    unpacked = sum(info.file_size for info in archive.zip.infolist())
    if unpacked > MAX_BYTES:
        raise DataError(f"{path} unpacks to {unpacked / 2**30:.1f} GiB, at most {MAX_BYTES / 2**30:.0f} GiB are read")
    found = archive.files
    if "x" not in found or "y" not in found:
        raise DataError(
            f"{path} holds {', '.join(map(repr, sorted(found)))[:200]}, expected arrays 'x' (images) and 'y' (integer "
            "labels)"
        )
    if ("x_test" in found) != ("y_test" in found):
        raise DataError(f"{path} holds only one of 'x_test' and 'y_test': give both or neither")
    heads = {key: _head(path, archive, key) for key in ARRAYS if key in found}
    for images, labels in (("x", "y"), ("x_test", "y_test")):
        if images in heads:
            _image_shape(str(path), images, *heads[images])
            _check_labels(str(path), labels, *heads[labels], heads[images][0][0])


def _head(path: Path, archive: Any, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array that is still packed."""
    if f"{key}.npy" not in archive.zip.namelist():
        raise DataError(f"{path} holds files that are no arrays: write it with numpy.savez(path, x=..., y=...)")
    with archive.zip.open(f"{key}.npy") as file:
        try:
            shape, _, dtype = npy_header(file)
        except DataError as error:
            raise DataError(f"{path}: {key} {error}: write it with numpy.savez(path, x=..., y=...)") from None
        size = archive.zip.getinfo(f"{key}.npy").file_size - file.tell()
    if min(shape, default=0) < 0 or dtype.hasobject or math.prod(shape) * dtype.itemsize != size:
        raise DataError(
            f"{path} is not a readable .npz file ({key} has {size:,} bytes of values, its head says {dtype!s:.40} of "
            f"shape {shape!s:.80}): write it with numpy.savez(path, x=..., y=...)"
        )
    return shape, dtype


def _listed(path: Path) -> list[Path]:
    """What is in a folder, by name. Raises: DataError."""
    try:
        return sorted(path.iterdir())
    except OSError as error:
        raise DataError(f"cannot read the folder {path} ({error.strerror}): mend this") from None


def _folder(path: Path) -> _Raw:
    from PIL import Image, UnidentifiedImageError

    classes = [entry.name for entry in _listed(path) if entry.is_dir() and not entry.name.startswith(".")]
    for name in classes:
        if not is_unicode(name):
            raise DataError(f"class folder {path / name} has a name that is no UTF-8: rename it")
    files = [
        (image, label)
        for label, class_name in enumerate(classes)
        for image in _listed(path / class_name)
        if image.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not files:
        raise DataError(
            f"{path} holds no images in class folders: expected {path}/CLASS/*.png (or jpg, bmp, gif, webp, tif)"
        )
    empty = sorted(set(range(len(classes))) - {label for _, label in files})
    if empty:
        raise DataError(f"class folder {path / classes[empty[0]]} holds no images: fill or remove it")
    images, shape = [], None
    for image, _ in files:
        try:
            with Image.open(image) as opened:
                _check_size(str(image), opened.height, opened.width)  # before its pixels are there
                array = _pixels(opened)
        except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{image} is not a readable image ({error}): mend or remove it") from error
        shape = shape or array.shape
        if array.shape != shape:
            raise DataError(
                f"{image} is {array.shape}, the first image is {shape}: resize all images to one size and mode"
            )
        images.append(array)
        _check_bytes(str(path), len(images) * array.size)
    return _Raw(np.stack(images), np.array([label for _, label in files]), tuple(classes))


def _check_size(name: str, height: int, width: int) -> None:
    if not all(MIN_SIZE <= size <= MAX_SIZE for size in (height, width)):
        raise DataError(f"{name}: images of {height}x{width}, expected {MIN_SIZE}x{MIN_SIZE} to {MAX_SIZE}x{MAX_SIZE}")


def _check_bytes(name: str, values: int) -> None:
    if 4 * values > MAX_BYTES:
        raise DataError(
            f"{name} takes {4 * values / 2**30:.1f} GiB as float32, at most {MAX_BYTES / 2**30:.0f} GiB are read"
        )


def _pixels(image: Any) -> npt.NDArray[np.uint8]:
    """uint8 [h, w] of a grey image, [h, w, 3] of any other; of 16 bits the upper 8, where Pillow's own would clip."""
    if image.mode.startswith("I;16"):
        return (np.asarray(image) >> 8).astype(np.uint8)
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode}, expected 8 or 16 bits")
    return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))


def _cifar_batch(path: Path, label_key: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CIFAR_BYTES + 1)
    except OSError as error:
        raise DataError(
            f"cannot read {path} ({error.strerror}): --data-dir must hold the unpacked Python batches"
        ) from None
    if len(content) > MAX_CIFAR_BYTES:
        raise DataError(f"{path} has more than {MAX_CIFAR_BYTES >> 20} MiB: not a CIFAR Python batch")
    try:
        batch = load_plain(content, "a CIFAR Python batch", arrays=True, encoding="bytes")
        pixels, labels = batch[b"data"], batch[label_key.encode()]
        # lists in lists can stand for many more numbers than the file has bytes
        if (
            not isinstance(pixels, np.ndarray)
            or pixels.dtype != np.uint8
            or not all(isinstance(y, int | np.integer) for y in labels)
        ):
            raise TypeError("expected an array of bytes and a list of whole numbers")
        return np.asarray(pixels).reshape(-1, 3, 32, 32), np.asarray(labels, dtype=np.int64)
    except DataError as error:
        raise DataError(f"{path} {error}") from None
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path} is not a CIFAR Python batch ({type(error).__name__}: {error})") from error


def _cifar(data_dir: Path | None, folder: str, train: tuple[str, ...], test: str, label_key: str) -> _Raw:
    if data_dir is None:
        raise DataError(
            "CIFAR is read from --data-dir, the folder with the unpacked original Python batches: none given"
        )
    root = data_dir / folder if (data_dir / folder).is_dir() else data_dir
    batches = [_cifar_batch(root / name, label_key) for name in train]
    x_test, y_test = _cifar_batch(root / test, label_key)
    x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return _Raw(x, y, None, x_test, y_test, mirror=True)


def _cifar10(data_dir: Path | None) -> _Raw:
    batches = tuple(f"data_batch_{i}" for i in range(1, 6))
    return _cifar(data_dir, "cifar-10-batches-py", batches, "test_batch", "labels")


def _cifar100(data_dir: Path | None) -> _Raw:
    return _cifar(data_dir, "cifar-100-python", ("train",), "test", "fine_labels")


def _image_shape(name: str, which: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether the channels come last. Raises: DataError for what are no images, or too many."""
    if dtype != np.uint8 and not np.issubdtype(dtype, np.floating):
        raise DataError(f"{name}: {which} is {dtype}, expected uint8 or float images")
    last = len(shape) == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3)
    if len(shape) != 3 and not (len(shape) == 4 and (last or shape[1] in (1, 3))):
        raise DataError(
            f"{name}: {which} has shape {shape}, expected [n,h,w], [n,h,w,c] or [n,c,h,w] with 1 or 3 channels"
        )
    if shape[0] == 0:
        raise DataError(f"{name}: {which} holds no images")
    _check_size(name, *(shape[1:3] if last or len(shape) == 3 else shape[2:]))
    _check_bytes(f"{name}: {which}", math.prod(shape))
    return last


def _images(name: str, which: str, x: npt.NDArray[Any]) -> Images:
    """To [n, c, h, w] float32; uint8 becomes a fraction of 255."""
    if _image_shape(name, which, x.shape, x.dtype):
        x = x.transpose(0, 3, 1, 2)
    elif x.ndim == 3:
        x = x[:, None]
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused below
        scaled = x.astype(np.float32) / np.float32(255 if x.dtype == np.uint8 else 1)
    bad = int(np.count_nonzero(~np.isfinite(scaled).all(axis=(1, 2, 3))))
    if bad:
        raise DataError(f"{name}: {which} has NaN or infinite pixels in {bad} of {len(x)} images: mend or remove them")
    return np.ascontiguousarray(scaled)


def _check_labels(name: str, which: str, shape: tuple[int, ...], dtype: np.dtype[Any], n: int) -> None:
    """Raises: DataError for what are not n labels."""
    if len(shape) != 1 or not np.issubdtype(dtype, np.integer):
        raise DataError(f"{name}: {which} has shape {shape} and type {dtype}, expected one integer label per image")
    if shape[0] != n:
        raise DataError(f"{name}: {n} images but {shape[0]} labels in {which}: they must pair up")


def _labels(name: str, which: str, y: npt.NDArray[Any], n: int) -> npt.NDArray[np.int64]:
    _check_labels(name, which, y.shape, y.dtype, n)
    return y.astype(np.int64)


def _split(name: str, raw: _Raw, seed: int) -> Dataset:
    x = _images(name, "x", raw.x)
    y = _labels(name, "y", raw.y, len(x))
    values, y = np.unique(y, return_inverse=True)
    if len(values) < 2:
        raise DataError(f"{name}: all {len(y)} images have one label ({values[0]}), expected at least two classes")
    names = raw.classes or tuple(str(v) for v in values)
    classes = tuple(names[v] for v in values) if raw.classes else names
    smallest = int(np.bincount(y).min())
    if smallest < 5:
        rare = classes[int(np.bincount(y).argmin())]
        raise DataError(f"{name}: class {rare!r} has {smallest} images, expected at least 5 of each to split them")

    digest = hashlib.sha256(x.tobytes() + y.tobytes())
    rng = np.random.default_rng([seed, 0xDA7A])
    if raw.x_test is not None and raw.y_test is not None:
        x_test = _images(name, "x_test", raw.x_test)
        y_test = _labels(name, "y_test", raw.y_test, len(x_test))
        if x_test.shape[1:] != x.shape[1:]:
            raise DataError(f"{name}: x_test images are {x_test.shape[1:]}, x images are {x.shape[1:]}")
        unknown = sorted(set(y_test.tolist()) - set(values.tolist()))
        if unknown:
            raise DataError(f"{name}: y_test has label {unknown[0]}, which y does not have")
        y_test = np.searchsorted(values, y_test)
        digest.update(x_test.tobytes() + y_test.tobytes())
        rest = np.arange(len(y))
    else:
        test, rest = _stratified(y, TEST_FRACTION, rng)
        x_test, y_test = x[test], y[test]
    held, kept = _stratified(y[rest], VALIDATION_FRACTION * len(y) / len(rest) if raw.x_test is None else 0.1, rng)
    validation, train = rest[held], rest[kept]

    pixels = x[train].astype(np.float64)
    mean, std = pixels.mean(axis=(0, 2, 3)), pixels.std(axis=(0, 2, 3))
    if not np.isfinite(std).all() or float(np.abs(mean).max()) > MAX_PIXEL:
        raise DataError(f"{name}: pixels are as large as {np.abs(pixels).max():.3g}: scale them to 0..1 or 0..255")
    if not (std > 0).any():
        raise DataError(f"{name}: all training pixels are equal ({mean[0]:g}): there is nothing to learn from")

    def split(images: Images, labels: Labels) -> Split:
        return Split(standardise(images, mean, std), np.ascontiguousarray(labels))

    return Dataset(
        name,
        split(x[train], y[train]),
        split(x[validation], y[validation]),
        split(x_test, y_test),
        classes,
        digest.hexdigest(),
        tuple(mean.tolist()),
        tuple(std.tolist()),
        raw.mirror,
    )


def standardise(images: Images, mean: npt.ArrayLike, std: npt.ArrayLike) -> Images:
    """(images - mean) / std per channel. images: [n, channels, height, width], uint8 already as fractions of 255."""
    view = (1, -1, 1, 1)
    centred = images - np.asarray(mean, np.float32).reshape(view)
    return np.ascontiguousarray(centred / (np.asarray(std, np.float32).reshape(view) + np.float32(1e-6)))


def _stratified(
    y: Labels, fraction: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Indices (held out, kept): the fraction of every class, at least one image each side."""
    held = []
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        held.append(members[: min(max(1, round(fraction * len(members))), len(members) - 1)])
    out = np.sort(np.concatenate(held))
    return out, np.setdiff1d(np.arange(len(y)), out)
