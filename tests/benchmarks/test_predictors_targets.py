"""The head of the page of predictors says what its tables do."""

import re
from pathlib import Path

import pytest

from tests.benchmarks.predictors import SECTIONS, replace
from tests.benchmarks.predictors_targets import READERS, asked_and_measured

PAGE = (Path(__file__).parents[2] / "docs/benchmarks/predictors.md").read_text()
PARTS = dict(re.findall(r"<!-- (\S+) -->\n(.*?)\n<!-- end -->", PAGE, re.DOTALL))


def test_the_page_is_what_its_tables_make_it():
    assert set(READERS) <= set(PARTS) == set(SECTIONS)
    assert replace(PAGE, "speed", PARTS["speed"]) == PAGE


@pytest.mark.parametrize(
    ("section", "old", "new", "line"),
    [
        (
            "device", "with 100 samples: 0.890", "with 100 samples: 0.900",
            "| 100 samples of a device: median Kendall tau 0.90 or more | 0.900; ceiling 0.895 | met |",
        ),
        (
            "pool-nasbench201", "| **mean** | **0.9667**", "| **mean** | **0.9567**",
            "mean Spearman 0.96 or more | 0.9567 random, 0.9705 chosen | **missed** |",
        ),
        (
            "pool-nasbench201", "-0.0001 with chosen ones", "-0.0061 with chosen ones",
            "no device more than 0.005 below ridge on counts | -0.0061 at the least | **missed** |",
        ),
        ("pool-nasbench201", "| samsung_s7 | 0.921", "| samsung_s7 | 0.901", "0.901 (samsung_s7) | **missed** |"),
        ("device", "69.3% | 0.841 | 70.0%", "70.0% | 0.841 | 70.0%", "| 70.0%; ceiling 70.0% | met |"),
        ("device", "93.5% | 0.965 | 98.0%", "89.9% | 0.965 | 98.0%", "| 89.9%; ceiling 98.0% | **missed** |"),
        ("shipped", "-0.0123 | 59%", "+0.0123 | 59%", "| below on 7 of 13, -0.0045 at the least (silver_4114) |"),
        ("accuracy", "| 0.807 ± 0.014 |", "| 0.751 ± 0.014 |", "| 0.751; others 0.752 at best | **missed** |"),
        ("coverage", "| 92.5% | 4.6% |", "| 92.0% | 4.6% |", "| outside in 3 of 8: 86.3% (CIFAR-10 accuracy, 50"),
        ("speed", "| 49.32 s |", "| 19.32 s |", "learned in less than 20 s, elapsed | all 8 | met |"),
        ("speed", "| 0.27 s |", "| 2.27 s |", "| not pool, adapt with 20 samples: 2.27 s | **missed** |"),
        ("speed", "| 295 ms |", "| 195 ms |", "graph network, 1,000 samples: 1202 ms | **missed** |"),
    ],
)  # fmt: skip
def test_another_figure_is_another_verdict(section, old, new, line):
    assert old in PARTS[section]
    changed = {**PARTS, section: PARTS[section].replace(old, new, 1)}
    assert line not in asked_and_measured(PARTS)
    assert line in asked_and_measured(changed)
