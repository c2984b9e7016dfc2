"""``cosearch bench``: ask, build, measure, import and check benchmark tables."""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cosearch.errors import shown
from cosearch.writing import FORMULA

if TYPE_CHECKING:
    from hwbench_data.table import Selection, Table

bench = typer.Typer(
    help="Benchmark tables: what networks cost on devices, and how accurate they are.", no_args_is_help=True
)


class Format(StrEnum):
    """How answers are printed."""

    table = "table"
    json = "json"
    csv = "csv"


_Name = Annotated[str, typer.Argument(metavar="TABLE", help="A table's name, or the folder of one.")]
_Device = Annotated[str | None, typer.Option(help="One of the table's devices.", show_default=False)]
_Input = Annotated[str | None, typer.Option("--input", help="Input size, such as 32x32.", show_default=False)]
_Accelerator = Annotated[
    str | None, typer.Option(help="Which accelerator of the device: default or best.", show_default=False)
]
_Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where", metavar="NAME=VALUE", help="Another condition of the table; repeatable.", show_default=False
    ),
]
_Format = Annotated[Format, typer.Option("--format", help="How the answer is printed.")]
_MAP = (
    "YAML that says what its columns are: `network: COLUMN` and `values: {COLUMN: {device, metric, unit}}`, or, with "
    "one figure a row, `rows: {device: COLUMN, metric: COLUMN, value: COLUMN}` and optionally unit, source and valid."
)
_Limits = Annotated[
    list[str] | None,
    typer.Option(
        "--constraint",
        metavar="max_METRIC=N",
        help="A constraint, such as max_energy_mj=1; repeatable.",
        show_default=False,
    ),
]
_MaxLatency = Annotated[float | None, typer.Option(help="Same as --constraint max_latency_ms=N.", show_default=False)]
_MaxEnergy = Annotated[float | None, typer.Option(help="Same as --constraint max_energy_mj=N.", show_default=False)]
_MinAccuracy = Annotated[
    float | None, typer.Option(help="Same as --constraint min_cifar10_accuracy=N, a fraction.", show_default=False)
]


@bench.command("list")
def list_tables(form: _Format = Format.table) -> None:
    """List the tables that are shipped."""
    from hwbench_data import library

    rows = []
    for name in library.available():
        card = library.card(name)
        size = sum(int(facts["bytes"]) for facts in card.files.values())
        rows.append({"table": name, "networks": card.networks["count"], "kib": round(size / 1024), "what": card.title})
    _print("Tables", rows, form)


@bench.command()
def info(name: _Name, form: _Format = Format.table) -> None:
    """What a table holds: metrics with units, devices, conditions, and how it was built."""
    from hwbench_data import library

    card = library.card(name)
    if form is Format.json:
        typer.echo(json.dumps(card.to_json(), indent=1))
        return
    table = library.load(name)
    metrics = [
        {"metric": metric, "unit": facts.unit, "better": facts.better, "what": facts.title}
        for metric, facts in table.metrics.items()
    ]
    devices = [
        {"device": device, "source": facts.get("source", ""), "what": facts.get("title", "")}
        for device, facts in card.devices.items()
    ]
    if form is Format.csv:
        _print("", [{"metric": "", "device": "", **row} for row in (*metrics, *devices)], form)
        return
    _print(f"{card.name}: {card.title}", metrics, form)
    _print("Devices", devices, form)
    for condition, values in card.conditions.items():
        _say(f"{condition}: {', '.join(values)}")
    policies = {
        str(facts["policy"]): str(facts.get("source", "")) for facts in card.devices.values() if "policy" in facts
    }
    for policy, source in policies.items():
        _say(f"{source}: {policy}.")
    for note in card.notes:
        _say(note)
    _say(_provenance(card.built))


def _provenance(built: Mapping[str, Any]) -> str:
    """How a table came about, as far as its card says."""
    parts = [
        f"Built {built['date']} by `{built['command']}`" if "date" in built else f"By `{built.get('command', '?')}`",
        f"seed {built['seed']}" if "seed" in built else "",
        ", ".join(f"{package} {number}" for package, number in built.get("versions", {}).items()),
    ]
    return "; ".join(part for part in parts if part)


@bench.command()
def query(
    name: _Name,
    device: _Device = None,
    index: Annotated[int | None, typer.Option(help="Index of the network.", show_default=False)] = None,
    arch: Annotated[
        str | None,
        typer.Option(help="Notation of the network, name=choice;..., JSON, or its number.", show_default=False),
    ] = None,
    image: _Input = None,
    accelerator: _Accelerator = None,
    where: _Where = None,
    form: _Format = Format.table,
) -> None:
    """Everything a table knows of one network."""
    from cosearch.errors import ConfigError

    if (index is None) == (arch is None):
        raise ConfigError("bench query needs one of --index N and --arch NOTATION")
    table = _load(name)
    network: Any = index if index is not None else _network(str(arch))
    at = table.networks.index(network)
    rows = [
        {"device": row.device, **row.conditions, "metric": row.metric, "value": row.value, "unit": row.unit}
        | {"source": row.source}
        for row in table.rows(at, device, **_conditions(image, accelerator, where))
    ]
    rows += _joined(table, at)
    _print(f"{table.name} {at}: {table.networks.label(at)}", rows, form)


def _joined(table: "Table", at: int) -> list[dict[str, Any]]:
    """What comes from a package: figures where it is installed, else how to get them."""
    from hwbench_data import analog
    from hwbench_data.store import ANY

    if not table.joined:
        return []
    if not analog.installed():
        print(f"accuracies: {analog.missing('cifar10_accuracy')}", file=sys.stderr)
        return []
    values = table.query(at, metrics=list(table.joined))
    shown = {"device": ANY, "unit": "fraction", "source": "published"}
    return [{**shown, "metric": metric, "value": value} for metric, value in values.items()]


@bench.command()
def front(
    name: _Name,
    device: _Device = None,
    objectives: Annotated[
        str | None, typer.Option(help="Metrics, joined by commas; accuracy and latency_ms by default.")
    ] = None,
    max_latency_ms: _MaxLatency = None,
    max_energy_mj: _MaxEnergy = None,
    min_accuracy: _MinAccuracy = None,
    constraint: _Limits = None,
    image: _Input = None,
    accelerator: _Accelerator = None,
    where: _Where = None,
    plot: Annotated[Path | None, typer.Option(help="Also write an HTML page with the figure.")] = None,
    form: _Format = Format.table,
) -> None:
    """The networks that no other one beats in every objective."""
    table = _load(name)
    limits = _limits(max_latency_ms, max_energy_mj, min_accuracy, constraint)
    conditions = _conditions(image, accelerator, where)
    names = tuple(part.strip() for part in objectives.split(",")) if objectives else None
    found = table.front(names, limits, device, **conditions)
    if plot is not None:
        from cosearch.writing import write_atomic
        from hwbench_data.plot import front_page

        write_atomic(plot, front_page(found, conditions, limits))
    _print_selection("Front", found, form)


@bench.command()
def best(
    name: _Name,
    device: _Device = None,
    objective: Annotated[
        str | None,
        typer.Option(help="The metric to optimise; accuracy, else latency_ms, by default.", show_default=False),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many networks.")] = 1,
    max_latency_ms: _MaxLatency = None,
    max_energy_mj: _MaxEnergy = None,
    min_accuracy: _MinAccuracy = None,
    constraint: _Limits = None,
    image: _Input = None,
    accelerator: _Accelerator = None,
    where: _Where = None,
    form: _Format = Format.table,
) -> None:
    """The best networks by one metric under constraints."""
    table = _load(name)
    limits = _limits(max_latency_ms, max_energy_mj, min_accuracy, constraint)
    found = table.top(n, objective, limits, device, **_conditions(image, accelerator, where))
    _print_selection("Best", found, form)


@bench.command()
def build(
    name: _Name,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first networks.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; build/TABLE by default.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything drawn at random.")] = 0,
    measure: Annotated[int, typer.Option(min=0, help="Time this many networks here; 0: take shipped figures.")] = 0,
    ray: Annotated[
        str | None, typer.Option(help="Price on Ray: local, auto or ray://host:port.", show_default=False)
    ] = None,
) -> None:
    """Build a shipped table again from code, and say whether it equals the shipped one."""
    from hwbench_data.building import build_table

    folder = out or Path("build") / name
    for line in build_table(name, folder, limit, seed, measure, lambda text: print(text, file=sys.stderr), ray):
        _say(line)


@bench.command()
def check(name: _Name) -> None:
    """Verify checksums, ranges, units, duplicates, and that more operations of a kind are not cheaper.

    What was measured or published may be off by noise: by how much is said, and how many networks are.
    """
    from cosearch.errors import DataError
    from hwbench_data.checking import check_table

    problems = check_table(_load(name), _say)
    for problem in problems:
        _say(problem)
    if problems:
        raise DataError(f"{name}: {len(problems)} problems, see above")
    _say(f"{name}: nothing wrong")


@bench.command()
def measure(
    archs: Annotated[Path, typer.Option(help="File with one network a line: an index, a notation or JSON.")],
    out: Annotated[Path, typer.Option(help="CSV to write; `cosearch run --device` takes it.")],
    device: Annotated[str, typer.Option(help="What to measure on; this machine's processor: cpu.")] = "cpu",
    space: Annotated[str, typer.Option(help="Network space of the networks.")] = "nasbench201",
    image: Annotated[str, typer.Option("--input", help="Input size.")] = "32x32",
    core: Annotated[int | None, typer.Option(help="Core to run on; the last one by default.")] = None,
) -> None:
    """Measure networks on this machine with onnxruntime: one thread, pinned, until the median is certain to 2%.

    A figure that stays noisier is refused: it is written without a latency.
    """
    from hwbench_data.measured import measure_file

    for line in measure_file(archs, out, device, space, image, core):
        _say(line)


@bench.command("import")
def import_table(
    file: Annotated[Path, typer.Argument(help="CSV, Parquet, pickle, .npy or .json.")],
    space: Annotated[
        str, typer.Option(help="What its networks are: a network space, fbnet_blocks for block keys, or gnn.")
    ],
    mapping: Annotated[Path | None, typer.Option("--map", help=_MAP)] = None,
    dataset: Annotated[str | None, typer.Option(help="Which dataset of HW-NAS-Bench's pickle.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; the file's name by default.")] = None,
) -> None:
    """Turn a table of others into one that `bench query`, `front` and `best` answer from."""
    from hwbench_data.importing import import_file, read_map

    folder = out or Path(file.stem)
    card, left_out = import_file(file, space, read_map(mapping) if mapping else None, folder, dataset)
    for line in (*left_out, *card.notes):
        print(shown(line), file=sys.stderr)
    _say(f"{folder}: {card.networks['count']} networks; {', '.join(card.metrics)} of {', '.join(card.devices)}")


def _load(name: str) -> "Table":
    from hwbench_data.library import load

    return load(name)


def _network(text: str) -> Any:
    """A notation, or the JSON of an arch."""
    from cosearch.errors import ConfigError, DataError
    from cosearch.reading import parse_json

    if not text.lstrip().startswith("{"):
        return text
    try:
        return parse_json(text)
    except DataError as error:
        raise ConfigError(f"--arch {text[:60]!r} {error}") from None


def _conditions(image: str | None, accelerator: str | None, more: Sequence[str] | None) -> dict[str, str]:
    given = {"input": image, "accelerator": accelerator}
    for text in more or ():
        name, _, value = text.partition("=")
        given[name.strip()] = value.strip()
    return {name: value for name, value in given.items() if value is not None}


def _limits(
    latency: float | None, energy: float | None, accuracy: float | None, more: Sequence[str] | None
) -> dict[str, float]:
    from cosearch.errors import ConfigError

    given = {"max_latency_ms": latency, "max_energy_mj": energy, "min_cifar10_accuracy": accuracy}
    limits = {name: value for name, value in given.items() if value is not None}
    for text in more or ():
        name, _, number = text.partition("=")
        try:
            limits[name.strip()] = float(number)
        except ValueError:
            raise ConfigError(f"--constraint {text!r}: expected max_METRIC=N or min_METRIC=N") from None
    return limits


def _print_selection(what: str, found: "Selection", form: Format) -> None:
    title = f"{what} of {found.place} by {', '.join(found.values)}: {len(found)} of {found.among:,} networks"
    _print(title, found.records(), form)


def _say(line: str) -> None:
    """Of a table that anybody may have made."""
    print(shown(line))


def _print(title: str, rows: Sequence[Mapping[str, Any]], form: Format) -> None:
    """Rows of a table; columns in order of first appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if form is Format.json:
        typer.echo(json.dumps(list(rows), indent=1))
    elif form is Format.csv:
        writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    else:
        _say(title)
        texts = [columns, *([_text(row.get(name, "")) for name in columns] for row in rows)]
        widths = [max(len(row[i]) for row in texts) for i in range(len(columns))]
        for row in texts:
            _say("  " + "  ".join(part.ljust(width) for part, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: Any) -> Any:
    """For CSV: no text is a formula to a spreadsheet, whatever the networks of a table are called."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) >= 1000 else f"{value:.6g}"
    return shown(str(value))
