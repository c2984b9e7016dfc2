"""What a relaxed network costs: expectations over soft choices and soft accelerators, and their gradients.

A network is relaxed to shares, one distribution over the choices of each decision. Layers are then counted in
expectation, and cost is ``sum_l sum_b p[l, b] sum_a q[a] T[b, a]``. The accelerators come from the exact hardware front
of the expected counts, so that their minimum is that over the whole space; gradients in the shares hold the
accelerators fixed, which at a minimum loses nothing (envelope theorem).
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cosearch.workload import host_bytes
from search_spaces.decisions import Arch

if TYPE_CHECKING:
    from cosearch.hardware.fronts import HardwareFront
    from cosearch.hardware.tensor import CostTensor

Floats = npt.NDArray[np.float64]
Shares = Mapping[str, Floats]
"""Decision -> [choices] probabilities."""
Pick = Callable[[Floats], Floats]
"""[accelerators] weighted log cost of each -> [accelerators] probabilities."""
MOST_ACCELERATORS = 16
"""A front is thinned to this many accelerators."""
IMPOSSIBLE_FACTOR = 10.0
OVERRUN = 10.0
"""Weight of the logarithm by which a limit is broken: networks that meet it come first."""


class ExpectedCosts:
    """Expected costs of the networks of a space on the accelerators of a tensor.

    A decision's choice adds the layers by which networks with it differ from one that is otherwise of last choices:
    exact where decisions do not interact. limits: `max_<metric>` -> value.
    """

    def __init__(self, space: Any, tensor: "CostTensor", limits: Mapping[str, float]) -> None:
        self.tensor, self._space = tensor, space
        self.limits = {name.removeprefix("max_"): limit for name, limit in limits.items() if name.startswith("max_")}
        base = {name: options[-1] for name, options in space.choices.items()}
        archs = [{**base, name: option} for name, options in space.choices.items() for option in options]
        counts = space.counts([base, *archs], tensor.layers).astype(float)
        ends = np.cumsum([len(options) for options in space.choices.values()])
        self._base = counts[0]
        priced = [float(layer.has_weights) for layer in tensor.layers]
        self._per_network = {
            "params": np.array([float(layer.weight_count) for layer in tensor.layers]),
            "macs": np.array([float(layer.macs) for layer in tensor.layers]) * priced,
        }
        """What each layer adds to a metric that does not depend on the accelerator."""
        self._added: dict[str, Floats] = dict(
            zip(space.choices, np.split(counts[1:] - counts[0], ends[:-1]), strict=True)
        )
        """Decision -> [choices, layers]."""

    def counts(self, shares: Shares) -> Floats:
        """[layers] expected number of each layer."""
        total = self._base + sum(shares[name] @ added for name, added in self._added.items())
        return np.where(total > 1e-12, total, 0.0)

    def log_cost(
        self, shares: Shares, arch: Arch, weights: Mapping[str, float], pick: Pick
    ) -> tuple[float, dict[str, Floats]]:
        """Weighted sum of the logarithms of expected costs, and its gradient in the shares.

        arch: a network of the shares, whose activations and transfers the relaxed one is taken to have. weights:
        metric -> weight, negative for what is to be large. Limits that are broken add to the sum.
        Returns: 0 and no gradient where no accelerator runs the relaxed network.
        """
        workload, counts = self._space.workload(arch), self.counts(shares)
        front = self.tensor.hardware_front(counts, workload.live_activation_bytes, host_bytes=host_bytes(workload))
        gradient = {name: np.zeros(len(share)) for name, share in shares.items()}
        if not len(front):
            return 0.0, gradient
        front = front.take(np.unique(np.linspace(0, len(front) - 1, min(len(front), MOST_ACCELERATORS)).astype(int)))
        per_layer = layer_costs(self.tensor, front)
        scores = np.zeros(len(front))
        for name, weight in weights.items():
            scores += weight * np.log(np.maximum(self._metric(name, front, counts, per_layer)[0], 1e-300))
        q, total = pick(scores), 0.0
        for name in dict.fromkeys((*weights, *self.limits)):
            values, slopes = self._metric(name, front, counts, per_layer)
            expected = max(float(q @ values), 1e-300)
            weight = weights.get(name, 0.0)
            if expected > self.limits.get(name, np.inf):
                total += OVERRUN * float(np.log(expected / self.limits[name]))
                weight += OVERRUN
            if name in weights:
                total += weights[name] * float(np.log(expected))
            by_layer = slopes @ q
            for decision, added in self._added.items():
                gradient[decision] += weight * (added @ by_layer) / expected
        return total, gradient

    def _metric(
        self, name: str, front: "HardwareFront", counts: Floats, per_layer: tuple[Floats, Floats]
    ) -> tuple[Floats, Floats]:
        """A metric of the relaxed network, [accelerators], and its derivative by counts, [layers, accelerators]."""
        ms, mj = per_layer
        if name in self._per_network:
            own = self._per_network[name][:, None]
            return np.full(len(front), float(counts @ own[:, 0])), np.repeat(own, len(front), axis=1)
        slopes = {
            "latency_ms": lambda: ms,
            "energy_mj": lambda: mj,
            "edp": lambda: ms * front.energy_mj + mj * front.latency_ms,
            "throughput_fps": lambda: -ms * 1e3 / front.latency_ms**2,
        }.get(name, lambda: np.zeros_like(ms))  # area and blocks are the accelerator's alone
        return front.metric(name), slopes()


def layer_costs(tensor: "CostTensor", front: "HardwareFront") -> tuple[Floats, Floats]:
    """Latency in ms and energy in mJ of each layer of a tensor at each point of a front, [layers, points].

    What an accelerator has no engine for is `IMPOSSIBLE_FACTOR` times its dearest layer: far away, but finite.
    """
    found = []
    for tables in (tensor.latency, tensor.energy):
        costs = np.full((len(tensor.layers), len(front)), np.inf)
        for i in range(len(front)):
            case = int(front.residency[i])
            column = int(tensor.tables[case].of_shared[front.shared[i]])
            for at, kind in enumerate(front.kinds):
                engine, policy = int(front.engines[i, at]), int(front.policies[i, at])
                if engine >= 0:
                    costs[tensor.rows[kind], i] = tables[kind][case][:, column, policy, engine]
            costs[tensor.vector_rows, i] = tables["vector"][case][:, column, 0, 0]
        dearest = np.where(np.isfinite(costs), costs, 0.0).max(0)
        found.append(np.where(np.isfinite(costs), costs, IMPOSSIBLE_FACTOR * dearest))
    return found[0], found[1]
