"""A picture of the `shapes` dataset: ``python -m tests.benchmarks.shapes_sheet`` writes docs/benchmarks/shapes.png.

One column per class; three rows each at difficulty 0, 0.25, 0.5 (the default), 0.75 and 1.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from cosearch import shapes

SHEET = Path(__file__).parents[2] / "docs" / "benchmarks" / "shapes.png"
DIFFICULTIES = (0.0, 0.25, 0.5, 0.75, 1.0)
ROWS, ZOOM, GAP = 3, 3, 2


def sheet() -> np.ndarray:
    """[height, width] uint8."""
    classes = len(shapes.CLASSES)
    bands = []
    for difficulty in DIFFICULTIES:
        images, _ = shapes.generate(difficulty, classes * ROWS, seed=1)  # labels take turns: one row, one of each
        padded = np.pad(images, ((0, 0), (GAP, GAP), (GAP, GAP)), constant_values=255)
        bands += [np.concatenate(list(row), axis=1) for row in padded.reshape(ROWS, classes, *padded.shape[1:])]
    return np.concatenate(bands)


def main() -> None:
    SHEET.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(sheet())
    picture.resize((picture.width * ZOOM, picture.height * ZOOM), Image.Resampling.NEAREST).save(SHEET, optimize=True)
    print(f"{SHEET}: columns {', '.join(shapes.CLASSES)}; rows of difficulty {', '.join(map(str, DIFFICULTIES))}")


if __name__ == "__main__":
    main()
