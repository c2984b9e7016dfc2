"""The command line: parse, call the function that Python users call, print. Errors: one line, exit status 2."""

import _thread
import contextlib
import dataclasses
import errno
import inspect
import io
import json
import math
import os
import signal
import sys
import threading
import types
import typing
from collections import namedtuple
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from cosearch import registry
from cosearch.errors import CosearchError
from cosearch.predictor_cli import predict, predictor
from cosearch.version import __version__
from hwbench_data.cli import bench

app = typer.Typer(
    name="cosearch",
    help="Find a neural network and the accelerator that runs it, together.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


app.add_typer(bench, name="bench")
app.add_typer(predictor, name="predictor")
app.command("predict")(predict)

DEFAULT_WHAT = "network,workload,accelerator,mapping,weights,onnx,integers"
"""What a run leaves in best/; `cosearch.export.design` writes it, and takes long to import."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Quiet = Annotated[bool, typer.Option(help="Print nothing but errors.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Import the code that the run names, also if you have not run it before.")
]

UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EPIPE)
"""Errors of an output that takes no more."""

INTERRUPTED = 130
"""Exit status after Ctrl-C where nothing was begun that could go on."""

_UsageError: Any = typer.BadParameter.__base__
"""What a wrong command line raises; Typer carries it but does not export it."""


def _version(value: bool) -> None:
    if value:
        typer.echo(f"cosearch {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _option_type(annotation: Any) -> Any:
    """What Typer can parse: literals and tuples are read as text and checked by `RunConfig`."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        [annotation] = [a for a in typing.get_args(annotation) if a is not type(None)]
    if annotation in (str, int, float, bool, Path):
        return annotation
    return str


def _repeatable(field: Any) -> bool:
    return bool((field.json_schema_extra or {}).get("repeatable"))


def _shown(default: Any) -> str | bool:
    if default is None or default == ():
        return False
    return ",".join(default) if isinstance(default, tuple) else str(default)


def _run_signature() -> inspect.Signature:
    """One option per field of `RunConfig`; an option that is not given stays None, so that a file's value stands."""
    from cosearch.config import RunConfig

    parameters = []
    for name, field in RunConfig.model_fields.items():
        flag = f"--{name.replace('_', '-')}"
        kind = list[str] if _repeatable(field) else _option_type(field.annotation)
        flags = (f"{flag}/--no-{flag[2:]}",) if kind is bool else (flag,)
        described = str(field.description).replace("[", r"\[")  # Typer's help is Rich markup
        option = typer.Option(*flags, help=described, show_default=_shown(field.default))
        annotation: Any = Annotated[kind | None, option]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    file = typer.Option("--config", help="YAML file with any of these options; the command line goes before it.")
    parameters.append(inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AsJson))
    of_file: Any = Annotated[Path | None, file]
    parameters.append(inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=of_file))
    return inspect.Signature(parameters)


def _run(**options: Any) -> None:
    """Search a network and an accelerator together, train the finalist, leave a run directory."""
    from cosearch.config import RunConfig, read_yaml

    file, as_json = options.pop("config"), options.pop("as_json")
    given = {name: value for name, value in options.items() if value not in (None, [])}
    config = RunConfig.make({**(read_yaml(file) if file else {}), **given})
    from cosearch.engine import run

    _print_result(run(config), config.quiet, as_json)


_run.__signature__ = _run_signature()  # type: ignore[attr-defined]
app.command("run")(_run)


@app.command()
def resume(
    run_directory: Annotated[Path, typer.Argument(help="A run directory.")],
    trials: Annotated[
        str | None, typer.Option(help="New number of accuracy evaluations, or +N for N more.", show_default=False)
    ] = None,
    quiet: Quiet = False,
    ray: Annotated[
        str | None, typer.Option(help="Go on elsewhere: local, auto, ray://host:port or none.", show_default=False)
    ] = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Continue a run that was interrupted, or extend a finished one."""
    from cosearch.engine import resume as continue_run
    from cosearch.errors import ConfigError
    from cosearch.runs import RunDirectory

    total = None
    if trials is not None:
        try:
            total = int(trials)
        except ValueError:
            raise ConfigError(f"--trials {trials!r}: expected a number such as 600, or +200 for 200 more") from None
        if trials.startswith("+"):
            total += RunDirectory.open(run_directory).config.trials
    _print_result(continue_run(run_directory, total, quiet or None, ray, trust), quiet, as_json)


@app.command()
def show(
    run_directory: Annotated[Path, typer.Argument(help="A finished run directory.")], as_json: AsJson = False
) -> None:
    """Print the tables of a finished run again; nothing is recomputed."""
    from cosearch.loading import load_run

    _print_result(load_run(run_directory), False, as_json)


@app.command()
def report(
    run_directory: Annotated[Path, typer.Argument(help="A run directory; the run may be going on.")],
    quiet: Quiet = False,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Make report.html, one page that works offline: what was found, how, and how far to trust it."""
    from cosearch.report.writing import write_report

    made = write_report(run_directory, quiet, trust)
    if as_json:
        _print_json({"report": str(made)})
    elif not quiet:
        print(made)


@app.command()
def compare(
    run_directories: Annotated[list[Path], typer.Argument(help="Two or more finished run directories.")],
    to: Annotated[Path, typer.Option(help="Where to write the page.")] = Path("compare.html"),
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Set runs side by side, on the terminal and as one page; runs that differ in their seed are taken together."""
    from cosearch.report.several import to_json
    from cosearch.report.writing import compare as make
    from cosearch.report.writing import read_several
    from cosearch.tables import print_comparison

    compared = read_several(run_directories)
    made = make(compared, to)
    if as_json:
        _print_json({**_plain(to_json(compared)), "page": str(made)})
    elif not quiet:
        print_comparison(compared)
        print(made)


@app.command()
def export(
    run_directory: Annotated[Path, typer.Argument(help="A run directory.")],
    to: Annotated[Path, typer.Option(help="Folder for the files.")],
    trial: Annotated[
        int | None, typer.Option(help="A trial of the search; the finalist by default.", show_default=False)
    ] = None,
    front: Annotated[
        int | None,
        typer.Option(help="A row of front.csv, from 0: its network and its accelerator.", show_default=False),
    ] = None,
    what: Annotated[
        str,
        typer.Option(help="Some of these, zigzag and timeloop; or all."),
    ] = DEFAULT_WHAT,
    quiet: Quiet = False,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Write a design of a run as files; its network is trained first if it was not and its weights are asked for."""
    from cosearch.export.design import parse_what
    from cosearch.export.writing import export_design

    written = export_design(run_directory, to, trial, parse_what(what), front, quiet, trust)
    if as_json:
        _print_json([str(path) for path in written])
    elif not quiet:
        print("\n".join(map(str, written)))


@app.command()
def spaces(as_json: AsJson = False) -> None:
    """List the network spaces."""
    from cosearch.terminal import print_table
    from search_spaces.networks import SPACES, find

    rows = []
    for name in registry.names("spaces", SPACES):
        space = find(name)((1, 8, 8), 10)
        rows.append((name, f"{space.size:.3g}", str(len(space.choices)), space.description))
    columns = ("space", "networks", "decisions", "what is chosen")
    if as_json:
        _print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table("Network spaces (sizes for 8x8 images)", columns, rows)


@app.command()
def devices(as_json: AsJson = False) -> None:
    """List the devices."""
    from cosearch.terminal import print_table
    from search_spaces.accelerators import ACCELERATORS, FAMILIES, find
    from search_spaces.accelerators.published import PublishedSpace

    rows = []
    for name in registry.names("devices", ACCELERATORS):
        space = find(name)
        if name in FAMILIES:
            rows.append((name, "", "", "", f"family; its default device is {FAMILIES[name]}"))
            continue
        count = f"{len(space):.2g} accelerators"
        if isinstance(space, PublishedSpace):
            rows.append((name, "-", "-", "-", f"published simulator: {space.device.source}"))
            continue
        if not hasattr(space, "part"):  # silicon: limited by --max-area-mm2, not by what a part holds
            rows.append((name, "-", "-", "-", f"array template; {count}"))
            continue
        budget = space.budget
        size = (f"{budget.lut:,}", f"{budget.dsp:,}", f"{budget.bram:,}")
        rows.append((name, *size, f"{space.part.title}; {count}"))
    columns = ("device", "LUTs", "DSP blocks", "block RAMs", "what it is")
    if as_json:
        _print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table("Devices", columns, rows)


@app.command()
def cost(
    device: Annotated[
        str, typer.Option(help="Part, family, device file, or the accelerator.json of a design.")
    ] = "fpga",
    model: Annotated[
        str, typer.Option(help="A known network such as resnet18, an .onnx file, a workload .json, or module:function.")
    ] = "resnet18",
    input_shape: Annotated[
        str | None, typer.Option(help="N,C,H,W of the input, where the model does not say.", show_default=False)
    ] = None,
    objective: Annotated[
        str, typer.Option(help="What the accelerator minimises: edp, latency_ms or energy_mj.")
    ] = "edp",
    accounting: Annotated[
        str, typer.Option(help="Energy of an operation: element, with accumulator and registers, or operator alone.")
    ] = "element",
    quiet: Annotated[bool, typer.Option(help="Print the tables only, no progress.")] = False,
    as_json: AsJson = False,
) -> None:
    """Price one network layer by layer on the device's best accelerator for it."""
    from cosearch.costs import device_to_price, price_workload, published_cost
    from cosearch.errors import ConfigError
    from cosearch.progress import Reporter
    from cosearch.tables import print_blocks, print_layers, print_unpriced
    from cosearch.tracing import read_report

    try:
        shape = [int(part) for part in input_shape.split(",")] if input_shape else None
    except ValueError:
        raise ConfigError(f"--input-shape {input_shape!r}: expected numbers such as 1,3,224,224") from None
    workload, unpriced = read_report(model, shape)
    space = device_to_price(device, accounting)
    published = published_cost(workload, space)
    if published is not None:
        if as_json:
            _print_json(_plain(published))
        else:
            print_blocks(workload, device, published)
        return
    priced = price_workload(workload, space, objective, Reporter(quiet))
    if as_json:
        layers = [
            {**_plain(row), "mapping": row.mapping.to_json() if row.mapping else None} for row in priced.report.rows
        ]
        cost = priced.report.cost
        network = {
            "network": workload.name,
            "accelerator": priced.accelerator.name,
            "objective": objective,
            "accounting": priced.accelerator.accounting,
            "cost": {
                **_plain(cost),
                "policies": dict(cost.policies),
                "edp": cost.edp,
                "throughput_fps": cost.throughput_fps,
            },
            "pipeline": priced.report.pipeline.to_json() if priced.report.pipeline else None,
            "accelerators": priced.accelerators,
            "edp_bound_of_all": _plain(priced.edp_bound),
        }
        _print_json({**network, "layers": layers, "unpriced": _plain(unpriced)})
    else:
        print_layers(priced)
        print_unpriced(unpriced)


@app.command()
def doctor(
    self_check: Annotated[bool, typer.Option(help="Also search a mapping, add and train, some ten seconds.")] = True,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Say what is installed, what the machine has, and whether it works."""
    from cosearch.doctor import SELF_CHECKS, examine
    from cosearch.progress import Reporter
    from cosearch.terminal import print_table

    with Reporter(quiet or not self_check).phase("checking", len(SELF_CHECKS)) as phase:
        checks = examine(self_check, lambda name: phase.advance(1, name))
    if as_json:
        _print_json([_plain(check) for check in checks])
    elif not quiet:
        marks = {True: "ok", False: "BROKEN", None: ""}
        rows = [(c.name, marks[c.ok], c.found, f"{c.seconds:.1f} s" if c.seconds else "") for c in checks]
        print_table("This installation", ("what", "", "found", "took"), rows)
    broken = [check.name for check in checks if check.ok is False]
    if broken:
        raise CosearchError(f"{', '.join(broken)}: see what cosearch doctor found")


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=1, allow_nan=False))


def _plain(value: Any) -> Any:
    """A dataclass as JSON has it: None for what is infinite or unknown."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print_result(result: Any, quiet: bool, as_json: bool) -> None:
    if as_json:
        _print_json(result.to_json())
    elif not quiet:
        from cosearch.tables import print_result

        print_result(result)


def _terminate(number: int, frame: Any) -> None:
    """A polite end: as Ctrl-C, so that everything is kept and training processes end too."""
    raise KeyboardInterrupt


def _interrupt_again(lost: "sys.UnraisableHookArgs") -> None:
    """For `sys.unraisablehook`. Python drops an interrupt that arrives in a destructor or a callback, as importing has
    many: it comes once more, a moment later, as SIGTERM, which no parent process can have switched off."""
    if lost.exc_type is KeyboardInterrupt:
        threading.Timer(0.05, _thread.interrupt_main, [signal.SIGTERM]).start()
    else:
        sys.__unraisablehook__(lost)


def _exit(status: int) -> NoReturn:
    # After an interrupt in code that was run from a string, as importing named tuples does, the interpreter ends by
    # SIGINT, handled or not, unless other such code has been run since.
    namedtuple("Harmless", ())
    sys.exit(status)


def main() -> None:
    """Entry point. Exit status: 0, 2 for an error that a user can mend, 3 for a run stopped on request."""
    # threads that wait for each other sleep: on a busy machine spinning ones cost far more than they save
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with contextlib.suppress(FileNotFoundError):  # it may have been removed
        registry.folder = str(Path.cwd())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a path that is no UTF-8 is printed as it is
    signal.signal(signal.SIGTERM, _terminate)
    sys.unraisablehook = _interrupt_again
    try:
        status = app(standalone_mode=False) or 0
        if status == INTERRUPTED:  # what Typer makes of it
            raise KeyboardInterrupt
        sys.stdout.flush()
        sys.exit(status)
    except CosearchError as error:
        print(f"cosearch: {error}", file=sys.stderr)
        _exit(error.exit_status)
    except _UsageError as error:
        if error.format_message():  # empty where the help itself was the answer
            print(f"cosearch: {error.format_message()} (see cosearch --help)", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        print("cosearch: interrupted", file=sys.stderr)
        _exit(INTERRUPTED)
    except OSError as error:
        if error.filename is not None or error.errno not in UNWRITTEN:
            raise
        # the output is full or closed: what is left of it would fail again at the end of the process
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"cosearch: cannot write the output ({error.strerror})", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
