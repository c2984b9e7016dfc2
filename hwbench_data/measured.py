"""`cosearch bench measure`: networks from a file, measured on this machine, into a CSV."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cosearch.errors import ConfigError, CosearchError, DataError, UnknownNameError, nearest
from cosearch.writing import write_atomic
from hwbench_data.measuring import Measurement, Protocol, machine, measure, network_models
from search_spaces import networks
from search_spaces.decisions import Arch, parse_arch

DEVICES = ("cpu",)
MOST_PIXELS = 2048
"""Of a side of an image: more would not fit the memory."""
COLUMNS = ("arch", "latency_ms", "low_ms", "high_ms", "runs", "dropped", "source")


def measure_file(
    archs: Path,
    out: Path,
    device: str = "cpu",
    space: str = "nasbench201",
    image: str = "32x32",
    core: int | None = None,
) -> Iterator[str]:
    """Measure the networks of a file and write a CSV and, beside it, a card of the machine; yields what was done.

    Nothing is written before a network is measured; if it ends early, what was measured is.

    Raises: UnknownNameError, ConfigError; DataError naming the line of a network that does not exist; RunError if the
    files cannot be written.
    """
    if device not in DEVICES:
        raise UnknownNameError(f"cannot measure on {device!r}: {nearest(device, DEVICES)}")
    sizes = image.split("x")
    if len(sizes) != 2 or not all(size.isdecimal() and 1 <= int(size) <= MOST_PIXELS for size in sizes):
        raise ConfigError(f"--input {image!r}: expected a size such as 32x32, of at most {MOST_PIXELS} each")
    card = out.with_suffix(".json")
    if archs.resolve() in (out.resolve(), card.resolve()):
        raise ConfigError(f"--out {out}: its files would replace {archs}, which names the networks: write elsewhere")
    found: Any = networks.find(space)((3, int(sizes[0]), int(sizes[1])), 10)
    wanted = read_archs(archs, found)
    protocol = Protocol(core=core)
    results: list[Measurement] = []
    try:
        for result in measure(network_models(found, wanted), protocol):
            results.append(result)
            if not result.measured:
                yield f"{result.name}: not measured, its median is certain to {result.uncertainty:.1%} only"
    finally:
        facts = {**machine(), "protocol": vars(protocol), "space": space, "input": image}
        if results:
            write_atomic(out, _csv(results))
            write_atomic(card, json.dumps(facts, indent=1) + "\n")
    measured = sum(result.measured for result in results)
    yield f"{out}: {measured} of {len(wanted)} networks measured on {facts['processor']}"


def _csv(results: Iterable[Measurement]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([COLUMNS, *map(_row, results)])
    return text.getvalue()


def _row(result: Measurement) -> tuple[Any, ...]:
    """A noisy figure gets no latency: nobody can take it for a measured one."""
    shown = (result.median_ms, result.low_ms, result.high_ms) if result.measured else ("", "", "")
    return (result.name, *shown, result.runs, result.dropped, "measured" if result.measured else "refused")


def read_archs(path: Path, found: Any) -> list[Arch]:
    """One network a line: for nasbench201 an index or the published notation, for all JSON or ``name=choice;...``.

    Raises: DataError naming the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} ({error}): expected one network a line") from None
    archs = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            archs.append(parse_arch(line, found))
        except (CosearchError, ValueError) as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    if not archs:
        raise DataError(f"{path} names no networks: expected one a line")
    return archs
