"""A design as Timeloop-style YAML (format 0.4): an architecture per engine, and a problem and a mapping per layer.

Energies stand in the attributes of each component (pJ per row); Accelergy estimates its own unless they are entered in
its tables. Timeloop needs loops that divide a dimension: where ours do not, the problem is padded to what they cover.
What its format has no words for stands in ``notes.txt``. Written to the format's documentation; Timeloop itself, which
is no Python package, has not read these files.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from cosearch.export.network_mapping import NetworkMapping
from cosearch.export.zigzag import Array, Run, arrays, runs, unrolled
from cosearch.hardware.accelerator import TENSORS, Accelerator, Engine, MemoryLevel, hierarchy
from cosearch.hardware.mapping import DIMS, Loop, loop_bounds
from cosearch.workload import Layer, Workload

VERSION = "0.4"
DATA_SPACES = {"W": "Weights", "I": "Inputs", "O": "Outputs"}
Across = dict[str, dict[str, int]]
"""Array dimension -> loop -> factor."""


class _Component(dict[str, Any]):
    """A node of an architecture that stores or computes."""


class _Container(dict[str, Any]):
    """A node of an architecture that what follows lies in, several times where it is spatial."""


class _Dumper(yaml.SafeDumper):
    """YAML with the two tags of an architecture's nodes."""


_Dumper.add_representer(_Component, lambda dumper, node: dumper.represent_mapping("!Component", node))
_Dumper.add_representer(_Container, lambda dumper, node: dumper.represent_mapping("!Container", node))


def timeloop_files(workload: Workload, accelerator: Accelerator, mapping: NetworkMapping) -> dict[str, str]:
    """Path -> content: per engine an ``architecture.yaml``, per layer ``problem.yaml`` and ``mapping.yaml``."""
    by_engine, left = runs(workload, mapping, accelerator)
    files: dict[str, str] = {}
    padded: list[str] = []
    for engine in accelerator.engines:
        entries = by_engine.get(engine.name, [])
        array = arrays(engine, [run.layer for run in entries]) if entries else ()
        fitting: list[tuple[Run, Across]] = []
        for run in entries:
            across = unrolled(run, array)
            if across is None:
                left.append(f"{run.layer.name}: its loops side by side do not lie along the array")
            elif not run.layer.has_weights:
                left.append(f"{run.layer.name}: has no weights, which this problem shape has")
            elif any(len(level.runs) > 1 for level in run.mapping.levels):
                left.append(f"{run.layer.name}: a dimension has two loops at one level, of which a target names one")
            else:
                fitting.append((run, across))
        if not fitting:
            continue
        order = _order(accelerator, engine, [run for run, _ in fitting])
        documents = {"architecture": _architecture(accelerator, engine, order, array)}
        for run, across in fitting:
            bounds, sizes = loop_bounds(run.layer), covered(run)
            more = ", ".join(f"{dim} from {bounds[dim]} to {sizes[dim]}" for dim in DIMS if sizes[dim] != bounds[dim])
            if more:
                padded.append(f"{run.layer.name}: {more}")
            name = run.layer.name.replace("/", "_")
            documents[f"{name}.problem"] = _problem(run.layer, sizes)
            documents[f"{name}.mapping"] = {"mapping": list(_directives(run, across, order, array, mapping))}
        head = f"# {accelerator.name}, engine {engine.name}; what Timeloop has no words for stands in ../notes.txt\n"
        for name, document in documents.items():
            files[f"{engine.name}/{name}.yaml"] = head + yaml.dump(
                document, Dumper=_Dumper, sort_keys=False, default_flow_style=None
            )
    files["notes.txt"] = "\n".join(_notes(accelerator, mapping, padded, left)) + "\n"
    return files


def covered(run: Run) -> dict[str, int]:
    """What the loops over each dimension multiply to."""
    found = dict.fromkeys(loop_bounds(run.layer), 1)
    for level in run.mapping.levels:
        for dim, bound in (*level.temporal, *level.spatial):
            found[dim] *= bound
    return found


def _notes(
    accelerator: Accelerator, mapping: NetworkMapping, padded: Sequence[str], left: Sequence[str]
) -> Iterator[str]:
    yield f"{accelerator.name} for Timeloop: one architecture per engine; cycles are of {accelerator.clock_mhz:g} MHz."
    yield "Not in Timeloop's figures:"
    yield f"- static power of {accelerator.static_power_w:g} W while anything runs"
    yield f"- requantisation: {accelerator.energies.requantise_pj:g} pJ per output, {accelerator.lanes} per cycle"
    yield f"- the network's input and output, {mapping.host_bytes:g} bytes through DRAM for each image"
    yield "- that engines share memories: each has them for itself here"
    for engine in accelerator.engines:
        if engine.fill_cycles:
            yield f"- {engine.name}: {engine.fill_cycles} cycles to fill per {engine.fill_per}"
        if "bitserial" in engine.kinds:
            yield f"- {engine.name}: a product takes as many cycles as weight bits times input bits"
        if engine.zeros != "compute":
            yield f"- {engine.name}: zero weights, of which it would {engine.zeros}: this needs a sparse description"
    if mapping.resident:
        held = ", ".join(DATA_SPACES[tensor].lower() for tensor in mapping.resident)
        yield f"On chip all the time: {held}. The mappings bypass DRAM for them, which Timeloop may refuse at its root."
    yield from (["Padded layers:", *(f"- {line}" for line in padded)] if padded else [])
    yield from (["Layers that are left out:", *(f"- {line}" for line in left)] if left else [])


def _order(accelerator: Accelerator, engine: Engine, entries: Sequence[Run]) -> tuple[MemoryLevel, ...]:
    """The memories, innermost first; a window that a column's elements share lies above their registers."""
    levels = hierarchy(accelerator, engine)
    shared = any(level.spatial for run in entries for level in run.mapping.levels if level.level == "window")
    return (levels[1], levels[0], *levels[2:]) if shared else levels


def _fans(order: Sequence[MemoryLevel], array: Sequence[Array], at: int) -> list[Array]:
    """The array dimensions that fan out right below a memory."""
    names = [level.name for level in order]
    shared = names[1:2] == ["window"]
    return [
        dimension
        for dimension in array
        if at == (1 if shared and "window" in dimension.levels else names.index(dimension.levels[0]))
    ]


def _architecture(
    accelerator: Accelerator, engine: Engine, order: Sequence[MemoryLevel], array: Sequence[Array]
) -> dict[str, Any]:
    nodes: list[Any] = [_Container(name="system")]
    for at in reversed(range(len(order))):
        nodes.append(_memory(order[at], outermost=at == len(order) - 1))
        nodes += [_Container(name=d.name, spatial={"meshX": d.size}) for d in _fans(order, array, at)]
    attributes = {"fabric": engine.fabric, "cycle_seconds": 1e-6 / accelerator.clock_mhz}
    nodes.append(_Component({"name": "element", "class": "compute", "attributes": attributes}))
    return {"architecture": {"version": VERSION, "nodes": nodes}}


def _memory(level: MemoryLevel, outermost: bool) -> _Component:
    widths = {"read_bandwidth": level.read_bits_per_cycle, "write_bandwidth": level.write_bits_per_cycle}
    # rates in words of 8 bits per cycle, as Timeloop counts; none where the port never limits
    rates = {name: bits / 8 for name, bits in widths.items() if math.isfinite(bits)}
    if level.shared_port and rates:
        rates = {"shared_bandwidth": rates["read_bandwidth"]}
    size = {} if outermost else {"depth": math.floor(level.capacity_bytes), "width": 8}
    attributes = {
        **size,
        "datawidth": 8,
        **rates,
        "multiple_buffering": 2 if level.double_buffered else 1,
        "read_energy_pj": level.read_energy_pj,
        "write_energy_pj": level.write_energy_pj,
        "row_bits": level.word_bits,
    }
    keep = [DATA_SPACES[tensor] for tensor in level.holds]
    bypass = [DATA_SPACES[tensor] for tensor in TENSORS if tensor not in level.holds]
    constraints = {"dataspace": {"keep": keep, "bypass": bypass}}
    kind = "DRAM" if outermost else "storage"
    return _Component({"name": level.name, "class": kind, "attributes": attributes, "constraints": constraints})


def _problem(layer: Layer, sizes: dict[str, int]) -> dict[str, Any]:
    """A layer as a projection of loops to tensors; coefficients are strides and dilations."""
    steps = {
        "Pstride": layer.stride[0],
        "Qstride": layer.stride[1],
        "Rstep": layer.dilation[0],
        "Sstep": layer.dilation[1],
    }
    rows, columns = [["P", "Pstride"], ["R", "Rstep"]], [["Q", "Qstride"], ["S", "Sstep"]]
    weights, outputs = ([[[dim]] for dim in dims] for dims in ("GKCRS", "NGKPQ"))
    inputs = [[["N"]], [["G"]], [["C"]], rows, columns]
    shape = {
        "name": "layer",
        "dimensions": list(DIMS),
        "coefficients": [{"name": name, "default": 1} for name in steps],
        "data_spaces": [
            {"name": "Weights", "projection": weights},
            {"name": "Inputs", "projection": inputs},
            {"name": "Outputs", "projection": outputs, "read_write": True},
        ],
    }
    return {"problem": {"version": VERSION, "shape": shape, "instance": {**sizes, **steps}}}


def _directives(
    run: Run, across: Across, order: Sequence[MemoryLevel], array: Sequence[Array], mapping: NetworkMapping
) -> Iterator[dict[str, Any]]:
    """Loops per level, outermost level first; each level names every dimension once, innermost first."""
    time = {level.level: level.temporal for level in run.mapping.levels}
    if order[1].name == "window":  # pixels pass a window, not the registers below it
        time["window"], time[order[0].name] = (*time[order[0].name], *time["window"]), ()
    for at in reversed(range(len(order))):
        name = order[at].name
        yield {"target": name, "type": "temporal", **_loops(time[name])}
        for dimension in _fans(order, array, at):
            yield {"target": dimension.name, "type": "spatial", **_loops(tuple(across[dimension.name].items()))}
        away = mapping.resident if at == len(order) - 1 else ()
        keep = [DATA_SPACES[tensor] for tensor in order[at].holds if tensor not in away]
        bypass = [DATA_SPACES[tensor] for tensor in TENSORS if DATA_SPACES[tensor] not in keep]
        yield {"target": name, "type": "dataspace", "keep": keep, "bypass": bypass}


def _loops(loops: Sequence[Loop]) -> dict[str, list[str]]:
    bounds = dict(loops)
    inner = [dim for dim, _ in loops]
    return {
        "factors": [f"{dim}={bounds.get(dim, 1)}" for dim in DIMS],
        "permutation": inner + [dim for dim in DIMS if dim not in bounds],
    }
