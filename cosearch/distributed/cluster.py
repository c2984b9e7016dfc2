"""The connection to Ray: start or find it, check it before anything waits for it, and leave nothing behind."""

import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosearch.accuracy import AccuracySource, TrainAccuracy
from cosearch.config import RunConfig
from cosearch.errors import ConfigError, RunError
from cosearch.evaluators import Evaluator
from cosearch.finalists import Training
from cosearch.hardware.tables import AcceleratorSpace
from cosearch.hardware.tensor import CostTensor
from cosearch.runs import RunDirectory
from cosearch.shortlist import Halving, Lists
from cosearch.version import __version__
from cosearch.workload import Layer

PROBE_SECONDS = 3.0
"""How long an address has to answer; Ray's own client would wait for minutes."""
ANSWER_SECONDS = 5.0
"""How long what accepts a connection has to answer a question."""
HELLO_SECONDS = 120.0
"""How long a node has to start a worker."""
REFRESH_SECONDS = 2.0
"""How often the nodes are counted."""
AUTH_MODE = "RAY_AUTH_MODE"
CLUSTER_INFO, CHECK_ALIVE = "/ray.rpc.RayletDriver/ClusterInfo", "/ray.rpc.NodeInfoGcsService/CheckAlive"
CLIENT_ATTEMPTS = 4
"""How often the server of a client is asked for: Ray's proxy forks it, and now and then it dies in that
(https://github.com/ray-project/ray/issues/63202, about one time in 14)."""
DIED_IN_FORK = ("Starting Ray client server failed", "ZombieProcess", "NoSuchProcess")
"""What Ray says then: the last two if it looks at the process while it dies."""
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

    def evaluator(self, accuracy: AccuracySource) -> Evaluator:
        """What evaluates candidates here: trainings as trials of Tune, anything shorter as tasks."""
        import torch

        from cosearch.distributed.tasks import Tasks
        from cosearch.distributed.trials import Trainings

        kind = Trainings if isinstance(accuracy, TrainAccuracy) else Tasks
        return kind(self, accuracy, torch.get_num_threads())

    def price(
        self,
        layers: tuple[Layer, ...],
        space: AcceleratorSpace,
        policies: tuple[float, ...],
        progress: Callable[[int, int], None] | None,
    ) -> CostTensor:
        """The cost tensor of layers, a block of them by a task."""
        from cosearch.distributed.tasks import price

        return price(self, layers, space, policies, progress)

    def map(self, work: Callable[[Any, Any], Any], shared: Any, parts: Sequence[Any]) -> list[Any]:
        """An importable function of what is shared and of each part, as tasks. Returns: its values, in order."""
        from cosearch.distributed.tasks import each

        return each(self, work, shared, parts)

    def train_all(self, run: RunDirectory, trainings: Sequence[Training], on_epochs: Callable[[int], None]) -> None:
        """What `cosearch.finalists.train_all` does, here."""
        from cosearch.distributed.training import train_all

        train_all(self, run, trainings, on_epochs)

    def halve(
        self,
        run: RunDirectory,
        halving: Halving,
        lists: Lists,
        trainings: Sequence[Training],
        on_epochs: Callable[[int], None],
    ) -> None:
        """The short trainings of a halving, decided by a scheduler of Tune's."""
        from cosearch.distributed.training import halve

        halve(self, run, halving, lists, trainings, on_epochs)

    def store(self, value: Any) -> Any:
        """Put a value into the object store, from where each node fetches it once. Returns: its reference."""
        import ray

        from cosearch.distributed.packing import pack

        if id(value) not in self._stored:  # the value is kept, so that its id stays its own
            self._stored[id(value)] = (value, ray.put(pack(value)))
        return self._stored[id(value)][1]


@contextmanager
def connected(config: RunConfig) -> Iterator[Cluster]:
    """Ray as `--ray` says, found to have what the run asks for. One that is connected already is left running.

    Raises: ConfigError if Ray is not installed, not there, of another version, has no cosearch or is too small.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray means to change what no GPU means; this is its new meaning already, without its warning
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray

        if ray.__file__ is None:  # a folder of that name in the working directory
            raise ImportError
    except ImportError:
        raise ConfigError("--ray needs Ray, which is not installed: pip install '.[ray]'") from None
    assert config.ray is not None
    if ray.is_initialized():
        cluster = Cluster(ray.util.client.ray.is_connected())
        cluster.reserve(config)
        yield cluster
        return
    with _temporary_folder() as folder:
        options: dict[str, Any]
        authentication: dict[str, str] = {}
        if config.ray == "local":
            if AUTH_MODE not in os.environ:  # a token of this run alone: Ray would leave one in the home directory
                authentication = {AUTH_MODE: "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
            # by default workers give way to everything else on the machine, which this process does not
            os.environ.setdefault("RAY_worker_niceness", "0")
            cores = len(os.sched_getaffinity(0))
            options = {
                "address": "local",
                "num_cpus": cores,
                "include_dashboard": False,
                "_temp_dir": str(folder),
                "_node_ip_address": "127.0.0.1",  # no look at the network
            }
        else:
            found = _answering(config.ray)
            options, authentication = {"address": found}, {AUTH_MODE: _auth_mode(config.ray, found)}
        with _authenticating(authentication):
            try:
                with _own_signals():
                    _start(config.ray, options)
                cluster = Cluster(config.ray.startswith("ray://"))
                cluster.reserve(config)
                if config.ray != "local":
                    _require_cosearch()
                yield cluster
            finally:
                ray.shutdown()


def _start(address: str, options: dict[str, Any]) -> None:
    """Raises: ConfigError with what Ray says, in a line, for whatever reason it does not start."""
    import ray

    for attempt in range(1, CLIENT_ATTEMPTS + 1):
        try:
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
            return
        except Exception as error:  # of no common class: other versions, ports in use, long paths, time-outs
            if attempt < CLIENT_ATTEMPTS and any(words in str(error) for words in DIED_IN_FORK):
                continue
            lines = str(error).strip().splitlines() or [type(error).__name__]
            # "Initialization failure from server:" is followed by a traceback
            said = lines[-1] if lines[0].startswith("Initialization failure") else lines[0]
            raise ConfigError(f"--ray {address}: Ray does not start ({said.strip()})") from error


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder that is removed; those that killed processes left are removed too."""
    for old in Path(tempfile.gettempdir()).glob(f"{FOLDER}-*-*"):
        number = old.name.split("-")[2]
        if number.isdigit() and not Path(f"/proc/{number}").exists():
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}-{os.getpid()}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself, which would end this process without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _answering(address: str) -> str:
    """The address if something that speaks gRPC answers there, as both of Ray's servers do.

    Raises: ConfigError.
    """
    import grpc
    from ray._private import services

    found = address
    if address == "auto":
        try:
            found = services.canonicalize_bootstrap_address_or_die("auto")
        except ConnectionError:
            raise ConfigError(
                "--ray auto: no Ray cluster runs on this machine: start one with ray start --head, or give --ray local"
            ) from None
    with grpc.insecure_channel(found.removeprefix("ray://")) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=PROBE_SECONDS)
        except grpc.FutureTimeoutError:
            how = "ray start --head --ray-client-server-port PORT" if address != "auto" else "ray start --head"
            raise ConfigError(
                f"--ray {address}: no Ray answers at {found} within {PROBE_SECONDS:g} s: check the address, or start "
                f"it with {how}"
            ) from None
    return found


def _auth_mode(address: str, found: str) -> str:
    """Whether the cluster that answers asks for a token: token or disabled, as Ray calls it.

    A process that sends and expects tokens and a cluster that does not, or the other way round, would refuse each
    other's calls without a word, so that nothing ever runs.
    Raises: ConfigError if it does, and there is none, or if what answers is not that server of Ray's.
    """
    import grpc
    from ray import _raylet
    from ray.core.generated import ray_client_pb2

    client = found.startswith("ray://")
    method, asked = CHECK_ALIVE, b""
    if client:
        ping: Any = ray_client_pb2  # made by protoc, without types
        method, asked = CLUSTER_INFO, ping.ClusterInfoRequest(type=ping.ClusterInfoType.PING).SerializeToString()
    with grpc.insecure_channel(found.removeprefix("ray://")) as channel:
        try:
            channel.unary_unary(method)(asked, timeout=ANSWER_SECONDS)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                inside: Any = _raylet  # compiled, without types
                if not inside.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
                    raise ConfigError(
                        f"--ray {address}: the cluster at {found} asks for a token: put what ray get-auth-token prints "
                        "there into RAY_AUTH_TOKEN"
                    ) from None
                return "token"
            if error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
                raise ConfigError(
                    f"--ray {address}: {found} is open, but does not answer within {ANSWER_SECONDS:g} s: see whether "
                    "Ray is well there, or give another address"
                ) from None
            what, option = ("client server", "--ray-client-server-port") if client else ("cluster", "--port")
            raise ConfigError(
                f"--ray {address}: what answers at {found} is no Ray {what} ({error.code().name}): give the port that "
                f"ray start --head {option} opened"
            ) from None
    return "disabled"


@contextmanager
def _authenticating(settings: Mapping[str, str]) -> Iterator[None]:
    """Settings of Ray's token authentication, for a while.

    Ray turns it on for the rest of a process that starts a cluster of its own: the next cluster, without tokens, could
    not be used then.
    """
    from ray import _raylet

    inside: Any = _raylet  # compiled, without types

    def set_all(values: Mapping[str, str | None]) -> None:
        for name, value in values.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        inside.Config.initialize("")  # reads the environment again, as Ray itself makes it do
        inside.AuthenticationTokenLoader.instance().reset_cache()

    before = {name: os.environ.get(name) for name in settings}
    set_all(settings)
    try:
        yield
    finally:
        set_all(before)


def _require_cosearch() -> None:
    """Every node needs this version of cosearch.

    Raises: ConfigError naming the node.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def version() -> str:
        from cosearch import version

        return version.__version__

    alive = [node for node in ray.nodes() if node["Alive"]]
    remote = ray.remote(num_cpus=0, max_retries=0)(version)
    asked = [
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote()
        for node in alive
    ]
    for node, reference in zip(alive, asked, strict=True):
        name = node["NodeManagerHostname"]
        try:
            found = ray.get(reference, timeout=HELLO_SECONDS)
        except (ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError):
            continue  # lost a moment ago
        except Exception as error:
            first = str(error).strip().splitlines()[-1]
            raise ConfigError(
                f"Ray node {name} cannot run cosearch ({first}): install cosearch {__version__} there"
            ) from error
        if found != __version__:
            raise ConfigError(f"Ray node {name} has cosearch {found}, this is {__version__}: install the same")
