"""How good predictions are. Rank correlation alone saturates, so four figures go together."""

import numpy as np

from predictors.base import Floats


def scores(predicted: Floats, true: Floats) -> dict[str, float]:
    """predicted, true: [n]. Returns: Spearman, Kendall tau-b, mean absolute relative error, share within 10%."""
    from scipy.stats import kendalltau, spearmanr

    relative = np.abs(predicted / true - 1)
    return {
        "spearman": round(float(spearmanr(predicted, true)[0]), 5),
        "kendall_tau": round(float(kendalltau(predicted, true)[0]), 5),
        "mape": round(float(relative.mean()), 5),
        "within_10_percent": round(float((relative <= 0.1).mean()), 5),
    }
