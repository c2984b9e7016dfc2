"""What `tests.fuzzing` changes and reads: every reader of files with small files that it reads."""

import contextlib
import hashlib
import io
import json
import pickle
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import cosearch
import hwbench_data
from cosearch.config import RunConfig, read_yaml
from cosearch.costs import read_table
from cosearch.data import load_dataset
from cosearch.hardware.parts import load_device
from cosearch.models.onnx_file import read_report
from cosearch.problem import fingerprint, prepare
from cosearch.progress import Reporter
from cosearch.results import CO_SEARCH, Result
from cosearch.runs import RunDirectory, require_same_inputs
from cosearch.workload import Workload
from search_spaces import accelerators
from search_spaces.decisions import parse_arch
from tests import tiny_space
from tests.fuzzing import Target

PACKAGE = Path(cosearch.__file__).parent


def targets(run: Path, folder: Path) -> Mapping[str, Target]:
    """run: finished, of `tests.tiny_space`; folder: empty, for copies of it and what else is read."""
    return {**_of_runs(run, folder), **_of_tables(folder), **_of_data(folder), **_of_files(run / "best")}


def _files(*paths: Path) -> tuple[bytes, ...]:
    return tuple(path.read_bytes() for path in paths)


def _in_place(
    file: Path, read: Callable[[], Any], sign: Callable[[], None] = lambda: None, suffix: str | None = None
) -> Target:
    """Of a file that lies among others. sign: what anyone who changes the file would change with it."""

    def placed(path: Path) -> None:
        shutil.copyfile(path, file)
        sign()
        read()

    return Target(placed, _files(file), suffix or file.suffix)


# -- files that stand alone --


def _of_files(best: Path) -> dict[str, Target]:
    """best: a design of a finished run."""
    arch = {name: options[0] for name, options in tiny_space.space().choices.items()}
    rows = "".join(f"{json.dumps(json.dumps(arch))},{ms},1\n".replace('\\"', '""') for ms in (1.5, 2.5))
    documents = {
        name: Target(cosearch.load, _files(best / f"{name}.json"), ".json")
        for name in ("network", "accelerator", "mapping", "workload")
    }
    parts = sorted((PACKAGE / "hardware" / "data" / "parts").glob("*.json"))
    templates = sorted((Path(accelerators.__file__).parent / "templates").glob("*.json"))
    configurations = (RunConfig().to_yaml().encode(), b"space: shiftadd\ntrials: 5\n")
    named = (json.dumps(arch).encode(), ";".join(f"{k}={v}" for k, v in arch.items()).encode())
    return {
        "configuration": Target(_configuration, configurations, ".yaml"),
        "arch": Target(_arch, named, ".txt"),
        "measurements": Target(_measurements, (f"arch,latency_ms,energy_mj\n{rows}".encode(),), ".csv"),
        **documents,
        "part": Target(lambda path: load_device(str(path)), _files(*parts), ".json"),
        "part as a space": Target(_space_of_device, _files(*parts), ".json"),
        "template": Target(_space_of_device, _files(*templates), ".json"),
        "workload of a file": Target(
            lambda p: Workload.from_json(p.read_text(errors="replace")), _files(best / "workload.json"), ".json"
        ),
        "ONNX": Target(read_report, _files(best / "model.onnx"), ".onnx"),
    }


def _configuration(path: Path) -> None:
    config = RunConfig.make(read_yaml(path))
    _ = config.constraints
    config.to_yaml()


def _measurements(path: Path) -> None:
    read_table(path, tiny_space.space(), "latency_ms", ("energy_mj",))


def _arch(path: Path) -> None:
    with contextlib.suppress(UnicodeDecodeError):
        parse_arch(path.read_text(encoding="utf-8"), tiny_space.space())


def _space_of_device(path: Path) -> None:
    space = accelerators.find(str(path))
    json.dumps(space.describe(), default=str)
    assert len(space) >= 0


# -- images --


def _of_data(folder: Path) -> dict[str, Target]:
    from PIL import Image

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (60, 8, 8), dtype=np.uint8), np.arange(60) % 3
    archives = []
    for arrays in ({"x": x, "y": y}, {"x": x / 255, "y": y, "x_test": x[:9] / 255, "y_test": y[:9]}):
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        archives.append(buffer.getvalue())
    images = folder / "images"
    encoded = []
    for kind in ("png", "jpeg", "bmp", "gif", "webp", "tiff", "ppm"):
        buffer = io.BytesIO()
        Image.fromarray(x[0]).convert("RGB").save(buffer, kind)
        encoded.append(buffer.getvalue())
    for number, image in enumerate(x[:10]):
        (images / str(number % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert("RGB").save(images / str(number % 2) / f"{number}.png")
    batches = folder / "cifar"
    batches.mkdir()
    labels = list(range(10))
    pixels = rng.integers(0, 255, (10, 3072), dtype=np.uint8)
    batch = pickle.dumps({b"data": pixels, b"labels": labels, b"filenames": [b"a.png"] * 10})
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (batches / name).write_bytes(batch)
    one = _in_place(images / "0" / "0.png", lambda: load_dataset(str(images)))
    return {
        "images in .npz": Target(lambda path: load_dataset(str(path)), tuple(archives), ".npz"),
        "image": Target(one.read, tuple(encoded), ".png"),
        "CIFAR batch": _in_place(batches / "data_batch_1", lambda: load_dataset("cifar10", batches), suffix=".pickle"),
    }


# -- tables of costs, and what was learned from them --


def _of_tables(folder: Path) -> dict[str, Target]:
    import hwbench_data.importing as importing
    from hwbench_data.checking import check_table
    from hwbench_data.store import ANY, Block, Card, Metric, write

    table = folder / "toy"
    metrics = {"macs": Metric("operations", "lower", "o"), "latency_ms": Metric("ms", "lower", "t")}
    devices = {"board": {"title": "a board", "source": "measured"}}
    values = np.array([3.0, 5.0, 6.0, 1.0])
    blocks = [Block.full((ANY, "macs", ANY), values, "modelled")]
    blocks += [Block.full(("board", "latency_ms", size), values, "measured") for size in ("8x8", "4x4")]
    built = {"command": "by hand", "versions": {"numpy": "2"}}
    card = Card(
        "toy", "four", {"kind": "listed", "count": 4}, metrics, devices, {"input": ("8x8", "4x4")}, built, (), {}
    )
    write(table, card, blocks, ["a=1", "a=2", "b=1;c=2", "skip"])

    def asked(folder: Path) -> None:
        found = hwbench_data.load(folder)
        found._repr_html_()
        for device in found.devices:
            found.query_many([0, 1], device=device)
        found.rows(0)
        found.store.arrow()
        check_table(found)

    def sign(folder: Path) -> None:
        card = json.loads((folder / "card.json").read_text())
        for name, facts in card["files"].items():
            content = (folder / name).read_bytes()
            facts |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (folder / "card.json").write_text(json.dumps(card))

    def file_of_table(name: str, sign: Callable[[Path], None] = lambda folder: None) -> Target:
        copy = folder / f"toy-{name}"
        shutil.copytree(table, copy)
        return _in_place(copy / name, lambda: asked(copy), lambda: sign(copy))

    mapped = folder / "mapped.csv"
    mapped.write_text("index,ms,device,metric,unit\na,1,d,latency_ms,ms\nb,2,d,latency_ms,ms\nc,3.5,e,energy,mJ\n")
    maps = (
        b"title: mine\nnetwork: index\nvalues:\n  ms: {device: d, metric: latency_ms, unit: ms, source: measured}\n",
        b"network: index\nrows: {device: device, metric: metric, value: ms, unit: unit}\n",
    )

    def by_map(path: Path) -> None:
        importing.import_file(mapped, "fbnet_blocks", importing.read_map(path), folder / "imported")

    def imported(path: Path) -> None:
        value = importing.Value("d", "latency_ms", "ms")
        mapping = None if path.suffix == ".pickle" else importing.ColumnMap("index", {"ms": value})
        importing.import_file(path, "fbnet_blocks", mapping, folder / "imported", "cifar10")

    def imported_lists(path: Path) -> None:
        mapping = importing.ColumnMap("index", {"ms": importing.Value("d", "latency_ms", "ms")})
        importing.import_file(path, "fbnet", mapping, folder / "imported")

    figures = {f"block{i}": i / 7 for i in range(40)}
    published = {"fbnet": {"cifar10": {"d_latency": figures, "e_latency": figures, "e_energy": figures}}}
    array = io.BytesIO()
    np.save(array, np.ones(40, np.float32))
    dear = {
        "imported table": Target(imported, (b"index,ms\na,1\nb,2\nc,3.5\n",), ".csv"),
        "imported Parquet": Target(imported, (_parquet(["a", "b", "c"]),), ".parquet"),
        "imported Parquet of lists": Target(
            imported_lists, (_parquet([[0] * 22, [8] * 22, [*range(9)] * 2 + [1] * 4]),), ".parquet"
        ),
        "imported JSON": Target(imported, (json.dumps({str(i): i / 7 for i in range(40)}).encode(),), ".json"),
        "imported array": Target(imported, (array.getvalue(),), ".npy"),
        "published pickle": Target(imported, (pickle.dumps(published),), ".pickle"),
        "table": file_of_table("table.parquet", sign),
        "predictor": _predictors(folder),
    }
    return {
        **{name: replace(target, share=5) for name, target in dear.items()},
        "import map": Target(by_map, maps, ".yaml"),
        "card of a table": file_of_table("card.json"),
        "networks of a table": file_of_table("networks.parquet", sign),
    }


def _parquet(networks: list[Any]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table({"index": networks, "ms": [1.0, 2.0, 3.5]}), buffer)
    return buffer.getvalue()


def _predictors(folder: Path) -> Target:
    """Saved predictors of several kinds, whose digests are those of what they were changed to."""
    from predictors.arch import ArchPredictor
    from predictors.storage import load_with_card
    from search_spaces.networks import find

    space = find("nasbench201")()
    rng = np.random.default_rng(0)
    archs = [{name: options[int(rng.integers(len(options)))] for name, options in space.choices.items()}
             for _ in range(24)]  # fmt: skip
    values = 1 + np.array([sum(map(len, map(str, arch.values()))) for arch in archs], float)
    saved = []
    for model in ("ridge", "gp", "boosting", "mlp"):
        ArchPredictor(space, model).fit(archs, values).save(folder / model, target="latency_ms")
        saved.append((folder / model).read_bytes())

    def read(path: Path) -> None:
        _sign_predictor(path)
        model, card = load_with_card(path)
        json.dumps(card)
        model.predict(archs[:2])
        model.interval(archs[:2], 0.9)
        model.outside(archs[:2])

    return Target(read, tuple(saved), ".safetensors")


def _sign_predictor(path: Path) -> None:
    from safetensors import safe_open

    from predictors.storage import _digest

    content = path.read_bytes()
    with contextlib.suppress(Exception):  # such a file is refused before its digest is looked at
        (size,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + size])
        with safe_open(str(path), "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        header["__metadata__"]["sha256"] = _digest(header["__metadata__"]["card"], arrays)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])


# -- run directories --


def _of_runs(run: Path, folder: Path) -> dict[str, Target]:
    from cosearch.export.design import TRAINED, _trained
    from cosearch.finalists import Training, load_trained
    from cosearch.report.facts import read_facts
    from cosearch.report.page import run_page
    from cosearch.report.several import comparison, several_page, to_json
    from cosearch.strategies import make
    from cosearch.strategies.study import TrialLog
    from cosearch.supernet import checkpoint
    from cosearch.tables import print_comparison, print_result

    config = RunDirectory.open(run).config
    problem = prepare(config, Reporter(quiet=True))
    inputs = fingerprint(problem)
    best = cosearch.load(run).finalist.arch
    training = Training(best, config.seed, 0)
    images = np.zeros((2, *problem.dataset.input_shape), np.float32)

    def shown(path: Path) -> None:
        found = cosearch.load(path)
        assert isinstance(found, Result)
        json.dumps(found.to_json(), allow_nan=False)
        found._repr_html_().encode()
        printed(print_result, found)

    def reported(path: Path) -> None:
        facts = read_facts(path)
        run_page(facts).encode()
        compared = comparison([facts, facts])
        several_page(compared).encode()
        json.dumps(to_json(compared), default=str)
        printed(print_comparison, compared)

    def printed(show: Callable[[Any], None], what: Any) -> None:
        """As a pipe or a terminal takes it."""
        with contextlib.redirect_stdout(io.StringIO()) as out:
            show(what)
        assert "\x1b" not in out.getvalue()
        out.getvalue().encode()

    def all_of(*readers: Callable[[Path], Any]) -> Callable[[Path], None]:
        """Every reader reads; what the last of those that failed said."""

        def read(path: Path) -> None:
            errors = []
            for reader in readers:
                try:
                    reader(path)
                except cosearch.CosearchError as error:
                    errors.append(error)
            if errors:
                raise errors[-1]

        return read

    def resumed(path: Path) -> None:
        """As far as checks go."""
        there = RunDirectory.open(path)
        there.require_journal()
        require_same_inputs(there, fingerprint(prepare(there.config, Reporter(quiet=True))))

    def replayed(path: Path) -> None:
        log = TrialLog(RunDirectory.open(path).path, CO_SEARCH, problem.space, problem.objectives)
        strategy = make("random", problem.space, problem.costs, problem.objectives, 0, batch=4)
        log.replay(strategy, recall=problem.costs.recall)

    def same_inputs(path: Path) -> None:
        require_same_inputs(RunDirectory.open(path), inputs)

    def designed(path: Path) -> None:
        cosearch.load(path / "best").cost()

    def classified(path: Path) -> None:
        cosearch.load_network(path)(images)

    def trained(path: Path) -> None:
        load_trained(RunDirectory.open(path), training)

    def weighed(path: Path) -> None:
        _trained(RunDirectory.open(path), problem.space.blueprint(best), training, TRAINED)

    def supernet(path: Path) -> None:
        checkpoint.load(RunDirectory.open(path), problem.space)

    readers: dict[str, tuple[Callable[[Path], Any], ...]] = {
        "config.yaml": (shown, reported, resumed),
        "result.json": (shown, reported),
        "front.csv": (shown, reported),
        "report.json": (reported,),
        "log.jsonl": (reported,),
        "inputs.json": (reported, same_inputs),
        "study.db": (reported, replayed),
        "supernet.safetensors": (supernet,),
        "best/network.json": (reported, designed, classified),
        "best/workload.json": (designed,),
        "best/accelerator.json": (reported, designed),
        "best/mapping.json": (designed,),
        "best/weights.safetensors": (designed,),
        "best/integer.safetensors": (classified,),
        f"{training.name}.json": (trained, reported),
        f"{training.name}.safetensors": (weighed,),
        f"{training.name}.integer.safetensors": (weighed,),
    }
    found = {}
    for name, some in readers.items():
        copy = folder / name.replace("/", "-")
        shutil.copytree(run, copy)
        read = all_of(*some)
        sign = _signer(copy, name)
        called = name.replace(training.name, "finalists/NETWORK")
        found[called] = replace(_in_place(copy / name, lambda copy=copy, read=read: read(copy), sign), share=1)
    return found


def _signer(run: Path, name: str) -> Callable[[], None]:
    """What result.json says of front.csv, and report.json of both, is made true again."""
    from cosearch.report.kept import key_of

    there = RunDirectory.open(run)

    def sign() -> None:
        if name == "front.csv":
            result = json.loads((run / "result.json").read_text())
            digest = hashlib.sha256((run / "front.csv").read_bytes()).hexdigest()
            (run / "result.json").write_text(json.dumps({**result, "front_sha256": digest}))
        if name in ("front.csv", "result.json"):
            details = json.loads((run / "report.json").read_text())
            (run / "report.json").write_text(json.dumps({**details, "of": key_of(there)}))

    return sign
