"""The generated dataset: repeatable, balanced, without overlap, its labels recoverable by other means."""

import math
import time

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cosearch import shapes
from cosearch.data import load_dataset
from cosearch.errors import DataError


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("shapes")


def test_generation_repeats_and_depends_on_seed_and_difficulty():
    (x, y), (again, _) = shapes.generate(0.5, 240), shapes.generate(0.5, 240)
    assert np.array_equal(x, again)
    assert x.shape == (240, 24, 24)
    assert x.dtype == np.uint8
    assert np.bincount(y).tolist() == [20] * 12
    assert not np.array_equal(x, shapes.generate(0.5, 240, seed=1)[0])
    assert not np.array_equal(x, shapes.generate(0.6, 240)[0])


def test_images_are_the_same_on_every_machine(dataset):
    """A published study names its images by this; its accuracies are of no others."""
    assert dataset.content_hash == "279f59707a563c3238d0e00b01a749672d9cd5ae761bb122d601f09d41f6df7e"


def test_the_whole_dataset_is_generated_in_seconds():
    started = time.thread_time()
    shapes.generate()
    assert time.thread_time() - started < 5


def test_splits_are_balanced_large_enough_and_do_not_overlap(dataset):
    parts = (dataset.train, dataset.validation, dataset.sealed().open_test())
    assert [len(part) for part in parts] == [6120, 2040, 2040]
    assert all(len(set(np.bincount(part.y))) == 1 for part in parts)
    assert len(dataset.classes) == 12
    assert dataset.input_shape == (1, 24, 24)
    assert dataset.mirror
    images = [image.tobytes() for part in parts for image in part.x]
    assert len(set(images)) == len(images)


def test_the_seed_of_a_run_chooses_the_split_and_not_the_images(dataset):
    other = load_dataset("shapes", seed=1)
    assert other.content_hash == dataset.content_hash
    assert not np.array_equal(other.validation.x, dataset.validation.x)
    assert load_dataset("shapes:0.5").content_hash == dataset.content_hash
    assert load_dataset("shapes:0.7").content_hash != dataset.content_hash


@pytest.mark.parametrize("text", ["", "hard", "1.5", "-0.1", "nan", "0.5:3"])
def test_a_difficulty_that_is_none_is_refused_in_one_line(text):
    with pytest.raises(DataError, match=r"expected a difficulty from 0 to 1, as in shapes:0\.5") as caught:
        load_dataset(f"shapes:{text}")
    assert "\n" not in str(caught.value)


def test_difficulty_lowers_the_contrast_between_object_and_surroundings():
    def agreement(difficulty: float) -> float:
        """How much of the picture the object explains, squared correlation with the clean picture."""
        clean, _ = shapes.generate(0.0, 120)
        found, _ = shapes.generate(difficulty, 120)
        pairs = zip(clean.reshape(120, -1), found.reshape(120, -1), strict=True)
        return float(np.mean([np.corrcoef(a, b)[0, 1] ** 2 for a, b in pairs]))

    values = [agreement(d) for d in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.99 > 0.7 > values[-1]


def _corners(name: str) -> list[list[tuple[float, float]]]:
    """The outlines again, as polygons, from their description alone."""

    def wheel(n: int, radius: float, start: float = 0.0) -> list[tuple[float, float]]:
        turns = [start + 2 * math.pi * i / n for i in range(n)]
        return [(radius * math.cos(a), radius * math.sin(a)) for a in turns]

    def box(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
        return [(left, top), (right, top), (right, bottom), (left, bottom)]

    star = [p for pair in zip(wheel(5, 1.05), wheel(5, 0.42, math.pi / 5), strict=True) for p in pair]
    return {
        "triangle": [wheel(3, 1.0)],
        "star": [star],
        "square": [box(-0.72, -0.72, 0.72, 0.72)],
        "cross": [box(-0.95, -0.26, 0.95, 0.26), box(-0.26, -0.95, 0.26, 0.95)],
        "bar": [box(-1.0, -0.36, 1.0, 0.36)],
        "ell": [box(-0.76, -0.85, -0.24, 0.85), box(-0.76, 0.34, 0.76, 0.86)],
        "tee": [box(-0.85, -0.86, 0.85, -0.34), box(-0.26, -0.86, 0.26, 0.86)],
    }[name]


POLYGONS = ("square", "triangle", "star", "cross", "bar", "ell", "tee")


def _drawn(name: str, angle: float, size: float, mirrored: bool) -> np.ndarray:
    """24x24, by Pillow at eight times the resolution."""
    image = Image.new("L", (24 * 8, 24 * 8))
    pen = ImageDraw.Draw(image)
    for polygon in _corners(name):
        turned = [
            (
                size * (math.cos(angle) * (-x if mirrored else x) - math.sin(angle) * y),
                size * (math.sin(angle) * (-x if mirrored else x) + math.cos(angle) * y),
            )
            for x, y in polygon
        ]
        pen.polygon([(96 + 96 * x, 96 + 96 * y) for x, y in turned], fill=255)
    return np.asarray(image.resize((24, 24), Image.Resampling.BOX), np.float64)


def _centred(image: np.ndarray) -> np.ndarray:
    """The object's centre of gravity moved to the middle, by whole pixels, and the picture scaled to unit length."""
    weight = np.abs(image - np.median(image))
    rows, columns = np.arange(24)[:, None], np.arange(24)
    row = round(11.5 - float((weight * rows).sum() / weight.sum()))
    column = round(11.5 - float((weight * columns).sum() / weight.sum()))
    moved = np.roll(weight, (row, column), (0, 1))
    moved = moved - moved.mean()
    return (moved / np.linalg.norm(moved)).ravel()


def test_labels_are_recovered_by_matching_outlines_drawn_by_another_program():
    templates = [
        (name, _centred(_drawn(name, angle, size, mirrored)))
        for name in POLYGONS
        for angle in np.linspace(0, 2 * math.pi, 36, endpoint=False)
        for size in (0.45, 0.55, 0.65, 0.75)
        for mirrored in ((False, True) if name == "ell" else (False,))
    ]
    names = [name for name, _ in templates]
    x, y = shapes.generate(0.0, 360)
    chosen = [i for i, label in enumerate(y) if shapes.CLASSES[label] in POLYGONS]
    scores = np.stack([_centred(x[i].astype(float)) for i in chosen]) @ np.stack([t for _, t in templates]).T
    right = [names[best] == shapes.CLASSES[y[i]] for i, best in zip(chosen, scores.argmax(1), strict=True)]
    assert np.mean(right) > 0.95
