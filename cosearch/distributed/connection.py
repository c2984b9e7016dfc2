"""The connection to Ray: start or find it, check it before anything waits for it, and leave nothing behind."""

import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosearch.config import RunConfig
from cosearch.distributed.cluster import FOLDER
from cosearch.errors import ConfigError
from cosearch.version import __version__

if TYPE_CHECKING:
    from cosearch.distributed.workers import Workers

PROBE_SECONDS = 3.0
"""How long an address has to answer; Ray's own client would wait for minutes."""
ANSWER_SECONDS = 5.0
"""How long what accepts a connection has to answer a question."""
HELLO_SECONDS = 120.0
"""How long a node has to start a worker."""
AUTH_MODE = "RAY_AUTH_MODE"
CLUSTER_INFO, CHECK_ALIVE = "/ray.rpc.RayletDriver/ClusterInfo", "/ray.rpc.NodeInfoGcsService/CheckAlive"
CLIENT_ATTEMPTS = 4
"""How often the server of a client is asked for: Ray's proxy forks it, and now and then it dies in that
(https://github.com/ray-project/ray/issues/63202, about one time in 14)."""
DIED_IN_FORK = ("Starting Ray client server failed", "ZombieProcess", "NoSuchProcess")
"""What Ray says then: the last two if it looks at the process while it dies."""


@contextmanager
def connected(config: RunConfig) -> Iterator["Workers"]:
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
    from cosearch.distributed.workers import Workers

    assert config.ray is not None
    if ray.is_initialized():
        cluster = Workers(ray.util.client.ray.is_connected())
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
                cluster = Workers(config.ray.startswith("ray://"))
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
