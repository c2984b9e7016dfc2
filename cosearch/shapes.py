"""`shapes`: a generated dataset on which networks differ, for measuring searches and supernets without a download.

Twelve outlines, drawn into 24x24 grey images at any angle, size and position, mirrored or not, with a striped texture
inside and another outside, clutter behind and in front, the object lighter or darker than its surroundings, and noise.
Everything is drawn from one seed; a difficulty in [0, 1] scales texture, clutter and noise and lowers the contrast.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from cosearch.errors import DataError
from cosearch.seeding import numpy_stream

SIZE = 24
IMAGES = 10_200
"""Of all splits: 6,120 to train on, 2,040 to validate on, 2,040 for the end."""
DIFFICULTY = 0.5
CLUTTER = 6
"""Pieces of clutter in an image at most."""
EDGE = 0.12
"""Width of an outline's soft edge, as a fraction of the object's half width."""

Field = npt.NDArray[np.float32]
"""Of single precision, but sines and the like are computed in double and rounded: their last bits differ between
processors, and an image must not. Sums, products and square roots are the same everywhere."""


def _length(u: Field, v: Field) -> Field:
    return np.sqrt(u * u + v * v)


def _wedges(u: Field, v: Field, n: int, outer: float, inner: float) -> Field:
    """Below zero inside a star of n tips at radius `outer` and n notches at `inner`; cos(pi / n) outer: a polygon."""
    step = math.pi / n
    angle = np.abs((np.arctan2(v, u, dtype=np.float64) + step) % (2 * step) - step)
    radius = _length(u, v)
    x, y = radius * np.cos(angle).astype(np.float32), radius * np.sin(angle).astype(np.float32)
    # the line from the tip (outer, 0) to the notch
    dx, dy = inner * math.cos(step) - outer, inner * math.sin(step)
    return np.asarray(((x - outer) * dy - y * dx) / math.hypot(dx, dy), np.float32)


def _polygon(u: Field, v: Field, n: int, outer: float) -> Field:
    return _wedges(u, v, n, outer, outer * math.cos(math.pi / n))


def _box(u: Field, v: Field, half_width: float, half_height: float) -> Field:
    return np.maximum(np.abs(u) - np.float32(half_width), np.abs(v) - np.float32(half_height))


def _disc(u: Field, v: Field, radius: float) -> Field:
    return _length(u, v) - np.float32(radius)


def _hollow(distance: Field, half_thickness: float) -> Field:
    return np.abs(distance) - np.float32(half_thickness)


OUTLINES: dict[str, Callable[[Field, Field], Field]] = {
    "disc": lambda u, v: _disc(u, v, 0.8),
    "ring": lambda u, v: _hollow(_disc(u, v, 0.72), 0.2),
    "square": lambda u, v: _box(u, v, 0.72, 0.72),
    "frame": lambda u, v: _hollow(_box(u, v, 0.65, 0.65), 0.17),
    "triangle": lambda u, v: _polygon(u, v, 3, 1.0),
    "star": lambda u, v: _wedges(u, v, 5, 1.05, 0.42),
    "cross": lambda u, v: np.minimum(_box(u, v, 0.95, 0.26), _box(u, v, 0.26, 0.95)),
    "bar": lambda u, v: _box(u, v, 1.0, 0.36),
    "crescent": lambda u, v: np.maximum(_disc(u, v, 0.9), -_disc(u - np.float32(0.48), v, 0.68)),
    "half": lambda u, v: np.maximum(_disc(u + np.float32(0.35), v, 0.95), np.float32(-0.35) - u),
    "ell": lambda u, v: np.minimum(_box(u + 0.5, v, 0.26, 0.85), _box(u, v - 0.6, 0.76, 0.26)),
    "tee": lambda u, v: np.minimum(_box(u, v + 0.6, 0.85, 0.26), _box(u, v, 0.26, 0.86)),
}
"""Name -> a function of (u, v) in the object's own frame, below zero inside; its half width is about 1."""
CLASSES = tuple(OUTLINES)


def parse_difficulty(text: str) -> float:
    """The D of `shapes:D`.

    Raises: DataError unless it is a number in [0, 1].
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise DataError(f"data 'shapes:{text}': expected a difficulty from 0 to 1, as in shapes:{DIFFICULTY}")
    return value


def generate(
    difficulty: float = DIFFICULTY, images: int = IMAGES, seed: int = 0
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images and labels; the labels take turns, so that every class is equally frequent.

    Returns: [images, 24, 24] uint8 and [images] indices into `CLASSES`.
    """
    rng = numpy_stream(seed, "shapes")
    labels = np.arange(images, dtype=np.int64) % len(CLASSES)
    inside = _objects(labels, rng)
    picture = _texture(images, difficulty, rng)
    front = rng.random((images, CLUTTER), dtype=np.float32) < 0.25
    present = rng.random((images, CLUTTER), dtype=np.float32) < 0.4 * difficulty
    pieces = [_piece(images, rng) for _ in range(CLUTTER)]
    for i, (shape, shade) in enumerate(pieces):
        _paint(picture, shape * (present & ~front)[:, i, None, None], shade)
    contrast = rng.uniform(0.9 - 0.2 * difficulty, 1.2 - 0.2 * difficulty, images).astype(np.float32)
    contrast *= np.where(rng.random(images) < 0.5, np.float32(-1), np.float32(1))
    _paint(picture, inside, contrast[:, None, None] + _texture(images, difficulty, rng))
    for i, (shape, shade) in enumerate(pieces):
        _paint(picture, shape * (present & front)[:, i, None, None], shade)
    picture += rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(0.02 + 0.16 * difficulty)
    return (np.clip(picture * 0.25 + 0.5, 0, 1) * 255).round().astype(np.uint8), labels


def _pixels() -> tuple[Field, Field]:
    """(x, y) of the pixels' centres, from -1 to 1."""
    line = (np.arange(SIZE, dtype=np.float32) + 0.5) * np.float32(2 / SIZE) - 1
    x, y = np.meshgrid(line, line)
    return x, y


def _objects(labels: npt.NDArray[np.int64], rng: np.random.Generator) -> Field:
    """[n, 24, 24]: 1 inside the object, 0 outside, with soft edges."""
    n = len(labels)
    x, y = _pixels()
    angle, size = rng.uniform(0, 2 * math.pi, n), rng.uniform(0.42, 0.8, n)
    centre = rng.uniform(-1, 1, (2, n)) * (0.85 - size)
    mirror = np.where(rng.random(n) < 0.5, -1.0, 1.0)
    cos, sin, mirror, size, left, top = (
        a.astype(np.float32)[:, None, None] for a in (np.cos(angle), np.sin(angle), mirror, size, *centre)
    )
    dx, dy = (x - left) / size, (y - top) / size
    u, v = (cos * dx + sin * dy) * mirror, cos * dy - sin * dx
    inside = np.empty((n, SIZE, SIZE), np.float32)
    for label, outline in enumerate(OUTLINES.values()):
        chosen = labels == label
        inside[chosen] = np.clip(0.5 - outline(u[chosen], v[chosen]) / EDGE, 0, 1)
    return inside


def _texture(n: int, difficulty: float, rng: np.random.Generator) -> Field:
    """[n, 24, 24]: stripes of random direction, width and strength."""
    x, y = _pixels()
    angle, phase = rng.uniform(0, math.pi, (2, n))[:, :, None, None]
    waves = rng.uniform(1.5, 5.0, n).astype(np.float32)[:, None, None]  # over half an image
    strength = (rng.uniform(0.2, 1.0, n) * 0.36 * difficulty).astype(np.float32)[:, None, None]
    cos, sin, phase = (a.astype(np.float32) for a in (np.cos(angle), np.sin(angle), 2 * phase))
    turns = np.float32(math.pi) * waves * (cos * x + sin * y) + phase
    return strength * np.sin(turns, dtype=np.float64).astype(np.float32)


def _piece(n: int, rng: np.random.Generator) -> tuple[Field, Field]:
    """One small box or disc per image: its [n, 24, 24] mask and its [n, 1, 1] shade."""
    x, y = _pixels()
    left, top = rng.uniform(-1, 1, (2, n)).astype(np.float32)[:, :, None, None]
    width, height = rng.uniform(0.08, 0.3, (2, n)).astype(np.float32)[:, :, None, None]
    dx, dy = np.abs(x - left), np.abs(y - top)
    round_ones = rng.random(n) < 0.5
    distance = np.where(round_ones[:, None, None], _length(dx, dy) - width, np.maximum(dx - width, dy - height))
    shade = rng.uniform(-1.2, 1.2, n).astype(np.float32)[:, None, None]
    return np.clip(0.5 - distance / np.float32(0.1), 0, 1).astype(np.float32), shade


def _paint(picture: Field, mask: Field, colour: Field) -> None:
    """Lay `colour` over the picture where the mask is 1, in place."""
    picture += mask * (colour - picture)
