import numpy as np
import pytest

from cosearch.hardware.tables import _distinct


@pytest.mark.parametrize("largest", [(9, 4, 6), (2**40, 2**40, 2**40)], ids=["one number", "rows"])
def test_distinct_rows_are_those_of_numpy(largest):
    limits = np.array(largest, np.int64)
    rows = np.random.default_rng(0).integers(0, np.minimum(limits, 9), (500, 3), endpoint=True)
    rows[:2] = limits  # the largest that can be
    distinct, which = _distinct(rows, limits)
    assert np.array_equal(distinct, np.unique(rows, axis=0))
    assert np.array_equal(distinct[which], rows)
