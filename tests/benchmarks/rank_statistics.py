"""What a rank agreement says: Kendall's tau, its standard error, and what the noise of stand-alone trainings allows.

Trainings are modelled as a_ij = network i's expected accuracy + a seed's common shift + independent noise, all normal.
Of two normal variables with correlation r, Kendall's tau is (2 / pi) asin r (Greiner's relation).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau

Floats = npt.NDArray[np.float64]


def tau(a: Sequence[float] | Floats, b: Sequence[float] | Floats) -> float:
    return float(kendalltau(a, b).statistic)


def jackknife(statistic: Callable[[npt.NDArray[np.int64]], float], n: int) -> float:
    """Standard error over n networks. statistic: of the networks with these indices. Source: Efron, 1982."""
    everything = np.arange(n)
    left_out = np.array([statistic(np.delete(everything, i)) for i in range(n)])
    return float(np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()))


def tau_of(correlation: float) -> float:
    return 2 / math.pi * math.asin(correlation)


def correlation_of(kendall: float) -> float:
    return math.sin(math.pi / 2 * kendall)


@dataclass(frozen=True)
class Noise:
    """Standard deviations of accuracy: of networks' expected accuracies, and of one training about its network's."""

    networks: float
    training: float

    @classmethod
    def of(cls, by_seed: Floats) -> "Noise":
        """Estimated by analysis of variance, two-way without interaction. by_seed: [2 or more seeds, networks].

        Where noise explains all differences, `networks` is 0.
        """
        seeds, n = by_seed.shape
        means = by_seed.mean(0)
        rest = by_seed - means - by_seed.mean(1, keepdims=True) + by_seed.mean()
        training = (rest**2).sum() / ((seeds - 1) * (n - 1))
        return cls(math.sqrt(max(0.0, means.var(ddof=1) - training / seeds)), math.sqrt(training))

    def correlation(self, seeds: int) -> float:
        """Of expected accuracy with the mean of so many trainings."""
        return self.networks / math.sqrt(max(self.networks**2 + self.training**2 / seeds, 1e-300))

    def attainable(self, seeds: int) -> float:
        """Tau to the mean of so many trainings, of a ranker that knows every network's expected accuracy."""
        return tau_of(self.correlation(seeds))

    def between_seeds(self) -> float:
        """Tau of one training to another."""
        return tau_of(self.correlation(1) ** 2)

    def without(self, kendall: float, seeds: int) -> float:
        """Tau to expected accuracy of a ranker whose tau to the mean of so many trainings is `kendall`."""
        return tau_of(min(1.0, correlation_of(kendall) / max(self.correlation(seeds), 1e-300)))
