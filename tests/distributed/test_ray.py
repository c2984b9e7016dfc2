"""Searches on Ray: clusters of several nodes on this machine, killed nodes, workers and drivers, and bad input.

Runs are real ones of a space of 100 networks. Each test that kills a node adds it first.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest

import cosearch
import cosearch.engine
from cosearch import finalists
from cosearch.config import RunConfig
from cosearch.distributed.cluster import Share
from cosearch.distributed.connection import connected
from cosearch.distributed.workers import Workers
from cosearch.errors import ConfigError, RunError
from cosearch.strategies.study import study_storage
from tests import tiny_space
from tests.distributed import sources
from tests.killing import trials_in

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module", autouse=True)
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """A cluster of one node with two CPUs, more than this machine may have: what runs on it mostly sleeps."""
    from ray.cluster_utils import Cluster as Machines

    folder = tempfile.mkdtemp(prefix="cs-")  # short: Ray makes sockets below it
    port = free_port()
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_worker_niceness", "0")
    patch.setenv("RAY_TMPDIR", folder)
    started = Machines(
        initialize_head=True,
        head_node_args={
            "num_cpus": 2, "object_store_memory": 100 << 20, "include_dashboard": False,
            "ray_client_server_port": port,
        },
    )  # fmt: skip
    started.client_port = port
    patch.setenv("RAY_ADDRESS", started.address)
    yield started
    started.shutdown()
    patch.undo()
    shutil.rmtree(folder, ignore_errors=True)


def add_node(machines: Any, cpus: int = 2) -> Any:
    return machines.add_node(num_cpus=cpus, object_store_memory=100 << 20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Accuracies of all 100 networks, made up: more weights, more accuracy."""
    made = tiny_space.space()
    archs = [dict(zip(made.choices, c, strict=True)) for c in itertools.product(*made.choices.values())]
    weights = np.array([made.workload(a).weight_count for a in archs])
    path = tmp_path_factory.mktemp("tables") / "accuracy.csv"
    rows = {"arch": [json.dumps(a) for a in archs], "accuracy": 0.5 + 0.4 * weights / weights.max()}
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture
def options(few_digits: Path, table: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "space": tiny_space.NAME, "device": "ecp5-25f", "data": str(few_digits), "trials": 16, "threads": 1,
        "supernet_epochs": 2, "finalist_epochs": 1, "finalist_seeds": 2, "baselines": False, "torch_device": "cpu",
        "quiet": True, "accuracy": "table", "accuracy_table": table, "out": tmp_path / "run",
    }  # fmt: skip


def use_source(monkeypatch: pytest.MonkeyPatch, wrap: Any) -> None:
    """Evaluate by another accuracy source, made of the one that the run would have."""
    original = cosearch.engine.accuracy_source
    monkeypatch.setattr(cosearch.engine, "accuracy_source", lambda *given: wrap(original(*given)))


def trials_of(run: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="co-search", storage=study_storage(run)).trials


def require_whole(run: Path, n: int) -> None:
    """Exactly so many trials, each network once."""
    trials = trials_of(run)
    assert len(trials) == n
    assert sorted(t.user_attrs.get("number", t.number) for t in trials) == list(range(n))
    assert len({t.user_attrs["arch"] for t in trials}) == n


# -- the same search --


def test_by_batch_a_search_on_ray_is_the_one_in_this_process(machines, options, tmp_path):
    """Supernet, evaluations, finalists' trainings: the same bytes."""
    same = {**options, "accuracy": "supernet", "accuracy_table": None, "batch": 6}
    cosearch.run(**{**same, "out": tmp_path / "here"})
    cosearch.run(**same, ray="auto", ray_order="batch")
    for name in ("front.csv", "best/network.json", "best/accelerator.json", "best/weights.safetensors"):
        assert (options["out"] / name).read_bytes() == (tmp_path / "here" / name).read_bytes(), name
    assert cosearch.load(options["out"]).designs == cosearch.load(tmp_path / "here").designs
    assert not ray.is_initialized()


def test_through_a_client_trainings_are_trials_of_tune_too(machines, options, tmp_path):
    same = {**options, "accuracy": "train", "accuracy_table": None, "trials": 3, "batch": 3, "finalist_seeds": 1}
    cosearch.run(**{**same, "out": tmp_path / "here"})
    cosearch.run(**same, ray=f"ray://127.0.0.1:{machines.client_port}", ray_order="batch")
    assert (options["out"] / "front.csv").read_bytes() == (tmp_path / "here/front.csv").read_bytes()
    assert not list(Path(tempfile.gettempdir()).glob(f"cosearch-ray-{os.getpid()}-*"))


def test_tune_halves_candidates_as_this_process_does(machines, options, tmp_path, monkeypatch):
    """The same short trainings, decided by Tune's scheduler alone; from half of their results it goes on."""
    trained: list[Any] = []
    monkeypatch.setattr(Workers, "train_all", _noting(Workers.train_all, trained))
    same = {**options, "finalist_candidates": 3, "finalist_epochs": 6, "finalist_seeds": 1, "trials": 12}
    cosearch.run(**{**same, "out": tmp_path / "here"})
    cosearch.run(**same, ray="auto", ray_order="batch", batch=4)
    here, there = (
        {f.name: f.read_bytes() for f in (run / "finalists").glob("*.json")} for run in (tmp_path / "here", same["out"])
    )
    assert there == here
    assert len([name for name in here if "-heat" in name]) == 5
    assert [t.heat for t in trained] == [0]
    assert (same["out"] / "best/network.json").read_bytes() == (tmp_path / "here/best/network.json").read_bytes()
    for name in sorted(n for n in here if "-heat" in n)[::2]:
        (same["out"] / "finalists" / name).unlink()
    (same["out"] / "result.json").unlink()
    cosearch.resume(same["out"])
    assert {f.name: f.read_bytes() for f in (same["out"] / "finalists").glob("*.json")} == here
    assert [t.heat for t in trained] == [0]


def _noting(train_all: Any, trained: list[Any]) -> Any:
    def noting(cluster: Any, run: Any, trainings: Any, on_epochs: Any) -> None:
        trained.extend(t for t in trainings if finalists.load_trained(run, t) is None)
        train_all(cluster, run, trainings, on_epochs)

    return noting


# -- faults --


def test_a_node_joins_and_is_killed_and_costs_nothing(machines, options, monkeypatch, tmp_path):
    """Results in any order. The search waits for a third process, which only the node that joins has, until it dies."""
    (tmp_path / "processes").mkdir()
    use_source(monkeypatch, lambda source: sources.Gathering(source, tmp_path / "processes", 0.3))
    # this node is started by a thread, which must set no handlers of signals; the test itself ends it
    monkeypatch.setattr(machines, "_shutdown_at_exit", False)
    killed = []

    def kill() -> None:
        while not list((tmp_path / "processes").iterdir()):
            time.sleep(0.01)
        assert not trials_in(options["out"])
        node = add_node(machines)
        while trials_in(options["out"]) < 5:
            time.sleep(0.01)
        killed.append(trials_in(options["out"]))
        machines.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    cosearch.run(**{**options, "trials": 30, "finalist_seeds": 1}, ray="auto")
    killer.join()
    machines.wait_for_nodes(120)  # the cluster learns late of a death, and the tests after this one use it too
    assert killed[0] < 25
    require_whole(options["out"], 30)
    assert {t.state.name for t in trials_of(options["out"])} == {"COMPLETE"}
    truth = pd.read_csv(options["accuracy_table"]).set_index("arch").accuracy
    assert all(t.values[0] == truth[t.user_attrs["arch"]] for t in trials_of(options["out"]))
    told = [json.loads(line) for line in (options["out"] / "log.jsonl").read_text().splitlines()]
    assert [e["number"] for e in told if e["event"] == "told"] == [
        t.user_attrs["number"] for t in trials_of(options["out"])
    ]


def test_a_worker_that_dies_is_replaced_and_one_that_always_does_is_a_failure(machines, options, monkeypatch, tmp_path):
    (tmp_path / "died").mkdir()
    use_source(monkeypatch, lambda source: sources.Deadly(source, tmp_path / "died"))
    monkeypatch.setattr("cosearch.distributed.tasks.RETRIES", 1)
    cosearch.run(**{**options, "finalist_seeds": 1, "trials": 10}, ray="auto", strategy="random")
    require_whole(options["out"], 10)
    states = {(t.params["layer1"], t.state.name) for t in trials_of(options["out"])}
    assert ("shift_k3_e1", "COMPLETE") in states
    assert ("conv_k5_e6", "FAIL") in states
    assert {state for layer, state in states if layer != "conv_k5_e6"} == {"COMPLETE"}
    reasons = {t.user_attrs["reason"] for t in trials_of(options["out"]) if t.state.name == "FAIL"}
    assert all("its worker died 2 times" in reason for reason in reasons)


def kill_when(command: list[str], reached: Callable[[], bool]) -> None:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_search_whose_driver_is_killed_goes_on(options, tmp_path, monkeypatch):
    """Ray of its own, so that it dies with the driver; what is left in the temporary folder goes with the next.

    The tests after this one show that this process can use another cluster then.
    """
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    names = {k: v for k, v in options.items() if k not in ("quiet", "baselines")}
    command = [sys.executable, "-m", "cosearch.cli", "run", "--quiet", "--no-baselines", "--ray", "local"]
    command += [f"--{k.replace('_', '-')}={v}" for k, v in names.items()]
    command += ["--trials", "60", "--ray-order", "async", "--finalist-seeds", "1"]
    kill_when(command, lambda: trials_in(options["out"]) >= 3)
    assert 3 <= trials_in(options["out"]) < 60
    monkeypatch.setenv("COSEARCH_CACHE", str(tmp_path / "cache"))  # of somebody who never named this space
    with pytest.raises(RunError, match=r"code that you have not run before: tests\.tiny_space:space .*--trust"):
        cosearch.resume(options["out"])
    assert not ray.is_initialized()
    cosearch.resume(options["out"], trusted=True)
    require_whole(options["out"], 60)
    assert not [p for p in Path(tempfile.gettempdir()).glob("cosearch-ray-*") if not _alive(p)]
    assert not (tmp_path / "home").exists()  # Ray would keep a token there
    assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} & os.environ.keys()


def _alive(folder: Path) -> bool:
    return Path(f"/proc/{folder.name.split('-')[2]}").exists()


def test_trials_of_tune_are_tried_again_and_end_with_a_reason(machines, tmp_path):
    from cosearch.distributed.trials import Trials

    epochs: list[int] = []
    with connected(RunConfig(ray="auto")) as cluster:
        stored = cluster.store(tmp_path)
        with Trials(cluster, Share(), sources.fail_or_die, stored, 1, epochs.append) as trials:
            dies, raises, fine = (trials.submit_job(job) for job in ("die once", "raise", "fine"))
            assert fine.result(timeout=300) == "fine"
            assert dies.result(timeout=300) == "die once"
            with pytest.raises(RunError, match="failed every time"):
                raises.result(timeout=300)
    assert epochs == [1, 1]


@pytest.mark.parametrize("jobs", [["done", "done"], ["stay", "stay", "stay"]])
def test_what_tune_reserved_is_free_again(machines, tmp_path, jobs):
    """What comes next would wait for it for ever."""
    from cosearch.distributed.trials import Trials

    epochs: list[int] = []
    with connected(RunConfig(ray="auto")) as cluster:
        with Trials(cluster, Share(), sources.fail_or_die, cluster.store(tmp_path), 1, epochs.append) as trials:
            futures = [trials.submit_job(job) for job in jobs]
            if "stay" in jobs:
                while len(epochs) < cluster.slots(Share()):
                    time.sleep(0.05)
            else:
                assert [future.result(timeout=300) for future in futures] == jobs
            closed = time.monotonic()
        assert time.monotonic() - closed < 20
        assert {group["state"] for group in ray.util.placement_group_table().values()} <= {"REMOVED"}
        assert ray.get(ray.remote(num_cpus=2)(lambda: "runs").remote(), timeout=60) == "runs"


def test_nodes_may_join_and_leave(machines, monkeypatch):
    monkeypatch.setattr("cosearch.distributed.cluster.REFRESH_SECONDS", 0.0)
    with connected(RunConfig(ray="auto")) as cluster:
        cluster.reserve(RunConfig(ray_cpus=2))
        before = cluster.slots(cluster.share)
        node = add_node(machines, cpus=5)
        assert cluster.slots(cluster.share) == before + 2
        machines.remove_node(node)
        assert cluster.slots(cluster.share) == before
        cluster.share = Share(64.0)
        with pytest.raises(RunError, match=r"needs 64 CPU.*has 2 CPU: add a node and continue with cosearch resume"):
            cluster.check()


# -- what is refused --


def refused(options: dict[str, Any], **ray_options: Any) -> str:
    """The one line of the error; nothing is written."""
    started = time.monotonic()
    with pytest.raises(ConfigError) as error:
        cosearch.run(**options, **ray_options)
    assert "\n" not in str(error.value)
    assert not options["out"].exists()
    assert not ray.is_initialized()
    assert time.monotonic() - started < 60
    return str(error.value)


def test_no_cluster_at_an_address_is_said_within_ten_seconds(options, monkeypatch):
    from cosearch.distributed.connection import _answering

    started = time.monotonic()
    with pytest.raises(ConfigError, match=r"no Ray answers at ray://127.0.0.1:1 within 3 s.*--ray-client-server-port"):
        _answering("ray://127.0.0.1:1")
    assert time.monotonic() - started < 10
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    assert "no Ray answers at" in refused(options, ray="auto")


def test_something_else_at_the_address_is_no_ray(options):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"ray://127.0.0.1:{other.getsockname()[1]}"
        assert f"no Ray answers at {address}" in refused(options, ray=address)


@pytest.mark.parametrize(
    "said",
    [
        "RuntimeError: Starting Ray client server failed. See ray_client_server_23000.err for detailed logs.",
        "psutil.ZombieProcess: PID still exists but it's a zombie (pid=22812)",
    ],
)
@pytest.mark.parametrize("deaths", [3, 4])
def test_a_client_server_that_dies_in_its_fork_is_asked_for_again(monkeypatch, deaths, said):
    """As Ray's proxy says it."""
    from cosearch.distributed.connection import _start

    calls: list[str] = []

    def init(address: str, **_: Any) -> None:
        calls.append(address)
        if len(calls) <= deaths:
            raise ConnectionAbortedError(
                f"Initialization failure from server:\nTraceback (most recent call last):\n{said}\n"
            )

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ConfigError, match=f"not start .{said[:20]}") if deaths == 4 else contextlib.nullcontext():
        _start("ray://a:1", {"address": "ray://a:1"})
    assert len(calls) == 4


@contextlib.contextmanager
def guarded(code: str) -> Iterator[int]:
    """The port of a gRPC server that answers every call with an error."""
    import grpc

    class Guard(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            status = grpc.StatusCode[code]
            return grpc.unary_unary_rpc_method_handler(lambda request, context: context.abort(status, "no"))

    server = grpc.server(ThreadPoolExecutor(1), [Guard()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None)


def test_a_cluster_that_asks_for_a_token_is_named_where_there_is_none(tmp_path, monkeypatch):
    from cosearch.distributed.connection import _auth_mode, _authenticating

    monkeypatch.setenv("HOME", str(tmp_path))
    with guarded("UNAUTHENTICATED") as port:
        with pytest.raises(ConfigError, match=r"asks for a token: put what ray get-auth-token prints there"):
            _auth_mode("auto", f"127.0.0.1:{port}")
        with _authenticating({"RAY_AUTH_TOKEN": "0" * 40}):
            assert _auth_mode("auto", f"ray://127.0.0.1:{port}") == "token"
    assert "RAY_AUTH_TOKEN" not in os.environ


@pytest.mark.parametrize("code", ["UNIMPLEMENTED", "NOT_FOUND"])
def test_a_server_that_is_not_of_ray_is_refused(options, code):
    from cosearch.distributed.connection import _auth_mode

    with guarded(code) as port:
        address = f"ray://127.0.0.1:{port}"
        text = refused(options, ray=address)
        assert f"what answers at {address} is no Ray client server ({code})" in text
        assert "--ray-client-server-port" in text
        with pytest.raises(ConfigError, match=rf"is no Ray cluster \({code}\): .*ray start --head --port opened"):
            _auth_mode("auto", f"127.0.0.1:{port}")


def test_a_server_that_is_not_well_is_told_from_one_that_is_not_of_ray():
    from cosearch.distributed.connection import _auth_mode

    with guarded("UNAVAILABLE") as port, pytest.raises(ConfigError, match=r"is open, but does not answer within 5 s"):
        _auth_mode("auto", f"127.0.0.1:{port}")


def test_the_port_of_the_cluster_is_not_that_of_its_client_server(machines, options):
    assert "is no Ray client server (UNIMPLEMENTED)" in refused(options, ray=f"ray://{machines.address}")


def test_an_evaluation_takes_what_the_machine_has(machines):
    """Fewer CPUs than threads are no reason to refuse a run that did not ask for so many."""
    with connected(RunConfig(ray="auto")) as cluster:
        for threads, cpus in ((1, 1), (2, 2), (16, 2)):
            cluster.reserve(RunConfig(ray="auto"), threads)
            assert cluster.share == Share(cpus)
        cluster.reserve(RunConfig(ray="auto", ray_cpus=0.5), 16)
        assert cluster.share == Share(0.5)


def test_resources_that_no_node_has_are_named(machines, options, monkeypatch):
    """Before anything is priced."""
    monkeypatch.setattr("cosearch.engine.prepare", lambda *_: pytest.fail("it was prepared"))
    text = refused(options, ray="auto", ray_cpus=100.0)
    assert "one task needs 100 CPU, and the largest of 1 Ray nodes has 2 CPU" in text
    assert "lower --ray-cpus" in text
    assert "needs 1 CPU and 0.5 GPU, and the largest of 1 Ray nodes has 2 CPU and 0 GPU" in refused(
        options, ray="auto", ray_gpus=0.5
    )


def test_another_version_of_ray_is_refused(machines, options, monkeypatch):
    monkeypatch.setattr(ray, "__version__", "1.0.0")
    assert "ersion mismatch" in refused(options, ray="auto")


def test_without_ray_it_is_said_how_to_get_it(options, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install '.\[ray\]'"):
        cosearch.run(**options, ray="local")


def test_a_strategy_that_needs_one_process_is_explained(options, monkeypatch):
    from cosearch.strategies.random import RandomSearch

    monkeypatch.setattr(RandomSearch, "single_process", "it reads what other threads write", raising=False)
    text = refused(options, ray="local", strategy="random")
    assert "--strategy random needs a single process (it reads what other threads write): run it without --ray" in text


def test_an_order_without_ray_is_refused(options):
    assert "--ray-order async" in refused(options, ray_order="async")


@pytest.mark.parametrize("ray_option", ["everywhere", "ray://nowhere", "ray://a b:1", ""])
def test_an_address_of_no_known_form_is_refused(options, ray_option):
    assert "ray=" in refused(options, ray=ray_option)


# -- parts --


@pytest.mark.parametrize(
    ("share", "resources", "times"),
    [
        (Share(0.1), {"CPU": 1.0}, 10),
        (Share(2.0), {"CPU": 5.0}, 2),
        (Share(1.0, 0.25), {"CPU": 16.0, "GPU": 1.0}, 4),
        (Share(1.0, 1.0), {"CPU": 16.0}, 0),
        (Share(1.0), {}, 0),
    ],
)
def test_how_often_a_share_fits_a_node(share, resources, times):
    assert share.times(resources) == times


def test_folders_that_killed_processes_left_are_removed():
    from cosearch.distributed.connection import _temporary_folder

    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    old = Path(tempfile.mkdtemp(prefix=f"cosearch-ray-{process.pid}-"))
    with _temporary_folder() as folder:
        assert not old.exists()
        with _temporary_folder():
            assert folder.exists()
    assert not folder.exists()


def test_a_cost_tensor_priced_in_blocks_is_the_whole_one(machines):
    from cosearch.hardware.tensor import POLICIES, cost_tensor
    from search_spaces import accelerators

    layers, space = tiny_space.space().layer_table()[:5], accelerators.find("ecp5-25f")
    whole = cost_tensor(layers, space, cache=False)
    steps: list[tuple[int, int]] = []
    with connected(RunConfig(ray="auto")) as cluster:
        found = cluster.price(layers, space, POLICIES, lambda done, of: steps.append((done, of)))
    assert steps[-1] == (5, 5)
    assert found.layers == whole.layers
    for kind, cases in whole.latency.items():
        for case, array in enumerate(cases):
            np.testing.assert_array_equal(found.latency[kind][case], array)
            np.testing.assert_array_equal(found.energy[kind][case], whole.energy[kind][case])


@pytest.mark.parametrize("name", ["nasbench201", "joint"])
def test_a_table_built_on_ray_is_the_one_built_here(machines, tmp_path, monkeypatch, name):
    import hwbench_data.recipes.joint
    import hwbench_data.recipes.nasbench201
    from hwbench_data.building import build_table

    monkeypatch.setattr(hwbench_data.recipes.nasbench201, "MODELLED", {"gpu": "", "pim": ""})
    monkeypatch.setattr(hwbench_data.recipes.common, "MODELLED", {"gpu": "", "pim": ""})
    monkeypatch.setattr(hwbench_data.recipes.joint, "DEVICES", ("ecp5-85f",))
    lines = []
    for where, folder in ((None, "here"), ("auto", "there")):
        monkeypatch.setenv("COSEARCH_CACHE", str(tmp_path / f"cache-{folder}"))  # no tensor of the other's
        lines.append(list(build_table(name, tmp_path / folder, limit=30, ray=where))[1:])
    for file in sorted((tmp_path / "here").iterdir()):
        assert (tmp_path / "there" / file.name).read_bytes() == file.read_bytes(), file.name
    assert lines[0] == lines[1]
    assert not ray.is_initialized()


def test_a_value_is_stored_once(machines):
    with connected(RunConfig(ray="auto")) as cluster:
        value = {"weights": np.zeros(1000)}
        assert cluster.store(value) is cluster.store(value)
        assert isinstance(cluster, Workers)


def test_sigterm_stays_ours(machines):
    before = signal.getsignal(signal.SIGTERM)
    with connected(RunConfig(ray="auto")):
        assert signal.getsignal(signal.SIGTERM) is before
