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
        ("device", "69.6% | 0.842 | 71.5%", "71.5% | 0.842 | 71.5%", "| 71.5%; ceiling 71.5% | met |"),
        ("device", "0.961 | 2.4% | 93.2%", "0.961 | 2.4% | 89.9%", "| 89.9%; ceiling 98.1% | **missed** |"),
        (
            "shipped", "-0.0036 | 0.0047 | 60%", "+0.0036 | 0.0047 | 60%",
            "| below on 4 of 13, -0.0019 at the least (titanx_1); by more than two standard errors on 0 |",
        ),
        ("shipped", "| -0.0011 | 0.0008 |", "| -0.0011 | 0.0005 |", "than two standard errors on 1 | **missed** |"),
        ("accuracy", "| 0.807 ± 0.014 |", "| 0.751 ± 0.014 |", "| 0.751; others 0.752 at best | **missed** |"),
        ("coverage", "| 88.2% | 5.9% |", "| 87.9% | 5.9% |", "| outside in 1 of 8: 87.9% (CIFAR-10 accuracy, 50"),
        ("speed", "| 4.17 s |", "| 24.17 s |", "elapsed | not graph network, 1,000 samples: 24.17 s | **missed** |"),
        ("speed", "| 0.08 s | 0.08 s |", "| 2.14 s | 0.08 s |", "adapt with 20 samples: 2.14 s | **missed** |"),
        ("speed", "| 186 ms; 197 ms |", "| 201 ms; 217 ms |", "blend, 1,000 samples: 201 ms; 217 ms | **missed** |"),
    ],
)  # fmt: skip
def test_another_figure_is_another_verdict(section, old, new, line):
    assert old in PARTS[section]
    changed = {**PARTS, section: PARTS[section].replace(old, new, 1)}
    assert line not in asked_and_measured(PARTS)
    assert line in asked_and_measured(changed)


def test_the_page_says_which_losses_a_regulariser_helps():
    assert "more than two standard errors with: squared, listmle; not with: hinge." in PAGE
    less = {**PARTS, "ranksim": PARTS["ranksim"].replace("| +0.0124 | 0.0029 |", "| +0.0057 | 0.0029 |")}
    said = asked_and_measured(less)
    assert "with squared loss +0.006 in tau, gains more than two standard errors with: listmle; not with: sq" in said
