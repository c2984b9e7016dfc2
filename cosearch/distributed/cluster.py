"""What a connected Ray has to give, counted again and again: nodes may come and go."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cosearch.config import RunConfig
from cosearch.errors import ConfigError, RunError

REFRESH_SECONDS = 2.0
"""How often the nodes are counted."""
FOLDER = "cosearch-ray"
"""Beginning of the names of temporary folders; the process that made it comes next."""


@dataclass(frozen=True)
class Share:
    """What Ray reserves for one evaluation or training. gpus: may be a part of one."""

    cpus: float = 1.0
    gpus: float = 0.0

    @property
    def device(self) -> str:
        """Where torch computes in workers."""
        return "cuda" if self.gpus else "cpu"

    def times(self, resources: Mapping[str, float]) -> int:
        """How many fit into a node's resources."""
        # a share such as 0.1 is no exact binary fraction
        fits = [resources.get("CPU", 0.0) / self.cpus + 1e-9]
        if self.gpus:
            fits.append(resources.get("GPU", 0.0) / self.gpus + 1e-9)
        return int(min(fits))


class Cluster:
    """A connected Ray. share: of one evaluation or training, set by `reserve`."""

    def __init__(self, remote: bool) -> None:
        self.remote, self.share = remote, Share()
        self._nodes: tuple[float, list[dict[str, Any]]] = (-REFRESH_SECONDS, [])
        self._stored: dict[int, tuple[Any, Any]] = {}

    def reserve(self, config: RunConfig, threads: int = 1) -> None:
        """Set the share of one evaluation: what the run asks for, else a CPU a thread where a node has as many.

        threads: that an evaluation makes use of.
        Raises: ConfigError naming what is missing if no node can give one share.
        """
        largest = max((node["Resources"].get("CPU", 0.0) for node in self.nodes()), default=0.0)
        self.share = Share(config.ray_cpus or max(1.0, min(float(threads), largest)), config.ray_gpus)
        lacking = self._lacking(self.share)
        if lacking:
            raise ConfigError(f"{lacking}: lower --ray-cpus or --ray-gpus, or add a node that has them")

    def check(self, share: Share | None = None) -> None:
        """share: None takes that of an evaluation.

        Raises: RunError naming what is missing if no node is left that can give a share.
        """
        lacking = self._lacking(share or self.share)
        if lacking:
            again = "give the command again" if share else "continue with cosearch resume"
            raise RunError(f"{lacking}: add a node and {again}")

    def _lacking(self, share: Share) -> str:
        nodes = self.nodes()
        if any(share.times(node["Resources"]) for node in nodes):
            return ""
        wanted = {"CPU": share.cpus, "GPU": share.gpus}
        most = {name: max((n["Resources"].get(name, 0.0) for n in nodes), default=0.0) for name in wanted}
        asked = " and ".join(f"{value:g} {name}" for name, value in wanted.items() if value)
        have = " and ".join(f"{most[name]:g} {name}" for name, value in wanted.items() if value)
        return f"one task needs {asked}, and the largest of {len(nodes)} Ray nodes has {have}"

    def slots(self, share: Share) -> int:
        """How many shares there are now."""
        return sum(share.times(node["Resources"]) for node in self.nodes())

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that are alive; they may have come or gone."""
        import ray

        if time.monotonic() - self._nodes[0] >= REFRESH_SECONDS:
            self._nodes = (time.monotonic(), [node for node in ray.nodes() if node["Alive"]])
        return self._nodes[1]

    def store(self, value: Any) -> Any:
        """Put a value into the object store, from where each node fetches it once. Returns: its reference."""
        import ray

        from cosearch.distributed.packing import pack

        if id(value) not in self._stored:  # the value is kept, so that its id stays its own
            self._stored[id(value)] = (value, ray.put(pack(value)))
        return self._stored[id(value)][1]
