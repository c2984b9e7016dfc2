"""How good predictions are. Rank correlation alone saturates, so four figures go together."""

import numpy as np

from cosearch.errors import DataError
from predictors.base import Floats


def scores(predicted: Floats, true: Floats) -> dict[str, float]:
    """predicted, true: [n]. Returns: Spearman, Kendall tau-b, mean absolute relative error, share within 10%.

    Raises: DataError where these are not defined: fewer than two networks, values that are all equal, zeros.
    """
    from scipy.stats import kendalltau, spearmanr

    if len(true) < 2:
        raise DataError(f"{len(true)} network to score: rank correlation needs at least two of different values")
    for what, values in (("measured values", true), ("predictions", predicted)):
        if np.ptp(values) == 0:
            raise DataError(f"all {len(values)} {what} are {values[0]:g}: rank correlation needs different ones")
    if (true == 0).any():
        raise DataError(f"value {int(np.argmin(np.abs(true)))} is 0: an error relative to it is not defined")
    relative = np.abs(predicted / true - 1)
    return {
        "spearman": round(float(spearmanr(predicted, true)[0]), 5),
        "kendall_tau": round(float(kendalltau(predicted, true)[0]), 5),
        "mape": round(float(relative.mean()), 5),
        "within_10_percent": round(float((relative <= 0.1).mean()), 5),
    }
