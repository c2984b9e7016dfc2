"""A design as input of ZigZag (3.9): hardware, workload and mapping YAML for each engine.

ZigZag describes one array with its memories, so every engine is an accelerator of its own there, with the memories that
all engines share. What its format has no words for stands in comments at the head of each file: static power,
requantisation, the vector unit, layers on two engines at once, closed forms, bit-serial elements and skipped zeros.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from cosearch.export.network_mapping import VECTOR, LayerMapping, NetworkMapping
from cosearch.hardware.accelerator import Accelerator, Engine, MemoryLevel, hierarchy
from cosearch.hardware.mapping import Mapping, loop_bounds
from cosearch.workload import Layer, Workload

OPERANDS = {"I": "I1", "W": "I2", "O": "O"}
DIMS = {"N": "B", "G": "G", "K": "K", "C": "C", "P": "OY", "Q": "OX", "R": "FY", "S": "FX"}
DRAM_BITS = 1 << 40
"""ZigZag's memories are finite; larger than every network."""


@dataclass(frozen=True)
class Run:
    """A layer as one engine runs it, with its loop nest."""

    layer: Layer
    mapping: Mapping


@dataclass(frozen=True)
class Array:
    """One dimension of an array. levels: whose fan-out it is; dims: loops that it may unroll."""

    name: str
    levels: tuple[str, ...]
    size: int
    dims: tuple[str, ...]


def runs(
    workload: Workload, mapping: NetworkMapping, accelerator: Accelerator
) -> tuple[dict[str, list[Run]], list[str]]:
    """The layers of each engine, and what no engine runs on its own, in words."""
    found: dict[str, list[Run]] = {engine.name: [] for engine in accelerator.engines}
    left: list[str] = []
    for layer, entry in zip(workload.layers, mapping.layers, strict=True):
        run = _run(layer, entry)
        if isinstance(run, str):
            left.append(f"{layer.name}: {run}")
            continue
        engine = accelerator.engine_for(run.layer.kind)
        assert engine is not None
        found[engine.name].append(replace(run, layer=engine.seen(run.layer)))
    return {name: entries for name, entries in found.items() if entries}, left


def _run(layer: Layer, entry: LayerMapping) -> Run | str:
    if entry.engine == VECTOR:
        return "runs on the vector unit"
    if len(entry.parts) > 1:
        return "runs on two engines at once"
    if entry.parts:
        [part] = entry.parts
        return Run(replace(layer, kind=part.kind), part.mapping)  # type: ignore[arg-type]
    if entry.mapping is None:
        return "is priced in closed form, without a loop nest"
    return Run(layer, entry.mapping)


def arrays(engine: Engine, layers: Iterable[Layer]) -> tuple[Array, ...]:
    """The dimensions of an engine's array; layers: what it runs, because narrow operands may share elements."""
    if engine.mapspace is not None:
        axes = enumerate(engine.mapspace.axes, start=1)
        return tuple(Array(f"D{i}", (axis.level,), axis.size, axis.dims) for i, axis in axes)
    columns = max(engine.columns(layer) for layer in layers)
    if engine.dataflow == "output-stationary":
        rows_at: tuple[str, ...] = ("weight_buffer",)
        down: tuple[str, ...] = ("Q", "P", "N")
    else:
        rows_at = ("accumulator", "window") if engine.windowed else ("accumulator",)
        down = ("S", "R", "C")
    return (
        Array("D1", rows_at, engine.rows * engine.lanes, down),
        Array("D2", ("weight_buffer",), columns, ("K", "G")),
    )


def unrolled(run: Run, array: Sequence[Array]) -> dict[str, dict[str, int]] | None:
    """Array dimension -> loop -> factor; None if the loops side by side do not lie on the dimensions.

    A loop along two dimensions is divided between them.
    """
    loops = [(level.level, dim, bound) for level in run.mapping.levels for dim, bound in level.spatial if bound > 1]
    return _place(loops, {dimension.name: {} for dimension in array}, array)


def _place(
    loops: Sequence[tuple[str, str, int]], placed: dict[str, dict[str, int]], array: Sequence[Array]
) -> dict[str, dict[str, int]] | None:
    if not loops:
        return placed
    (level, dim, bound), *rest = loops
    for dimension in array:
        here = placed[dimension.name]
        if level not in dimension.levels or dim not in dimension.dims or dim in here:
            continue
        room = dimension.size // math.prod(here.values())
        for factor in range(min(bound, room), 1, -1):
            if bound % factor:
                continue
            others = [(level, dim, bound // factor), *rest] if factor < bound else rest
            found = _place(others, {**placed, dimension.name: {**here, dim: factor}}, array)
            if found is not None:
                return found
    return None


def zigzag_files(workload: Workload, accelerator: Accelerator, mapping: NetworkMapping) -> dict[str, str]:
    """Path -> content: ``<engine>/hardware.yaml``, ``workload.yaml`` and ``mapping.yaml``, and ``notes.txt``."""
    by_engine, left = runs(workload, mapping, accelerator)
    files: dict[str, str] = {}
    for engine in accelerator.engines:
        entries = by_engine.get(engine.name, [])
        array = arrays(engine, [run.layer for run in entries]) if entries else ()
        fitting: list[tuple[Run, dict[str, dict[str, int]]]] = []
        for run in entries:
            at = unrolled(run, array)
            if at is None:
                left.append(f"{run.layer.name}: its loops side by side do not lie along the array")
                continue
            fitting.append((run, at))
            if _order(run) is None:
                left.append(
                    f"{run.layer.name}: its loops overlap, which ZigZag does not know: it finds an order itself"
                )
        if not fitting:
            continue
        documents = {
            "hardware": _hardware(accelerator, engine, array, [run for run, _ in fitting], mapping.resident),
            "workload": [_layer(i, run.layer) for i, (run, _) in enumerate(fitting)],
            "mapping": [_entry("default", {}, []), *(_entry(run.layer.name, at, _order(run)) for run, at in fitting)],
        }
        for name, document in documents.items():
            head = f"# {accelerator.name}, engine {engine.name}; what ZigZag has no words for stands in ../notes.txt\n"
            files[f"{engine.name}/{name}.yaml"] = head + yaml.safe_dump(document, sort_keys=False)
    files["notes.txt"] = "\n".join(_notes(accelerator, mapping, left)) + "\n"
    return files


def _notes(accelerator: Accelerator, mapping: NetworkMapping, left: Sequence[str]) -> Iterator[str]:
    """What the files leave out, so that figures are compared like with like."""
    yield f"{accelerator.name} for ZigZag: one accelerator per engine; cycles are of {accelerator.clock_mhz:g} MHz."
    yield "ZigZag chooses itself which loops each tensor's memories hold; every transfer takes whole cycles there."
    yield "Not in ZigZag's figures:"
    yield f"- static power of {accelerator.static_power_w:g} W while anything runs"
    yield f"- requantisation: {accelerator.energies.requantise_pj:g} pJ per output, {accelerator.lanes} per cycle"
    yield f"- the network's input and output, {mapping.host_bytes:g} bytes through DRAM for each image"
    yield "- that engines share memories: each has them for itself here"
    dram = accelerator.levels[-1].read_bits_per_cycle
    if math.isfinite(dram) and dram != _whole(dram):
        yield f"- the fraction of DRAM's {dram:g} bits per cycle: ZigZag counts whole bits"
    for engine in accelerator.engines:
        if engine.fill_cycles:
            yield f"- {engine.name}: {engine.fill_cycles} cycles to fill per {engine.fill_per}, in ZigZag per layer"
        if "bitserial" in engine.kinds:
            yield f"- {engine.name}: a product takes as many cycles as weight bits times input bits, in ZigZag one"
        if engine.zeros == "skip":
            yield f"- {engine.name}: time that skipped zero weights save"
    if mapping.resident:
        held = {"W": "weights", "I": "inputs", "O": "outputs"}
        yield f"On chip all the time, without DRAM: {', '.join(held[tensor] for tensor in mapping.resident)}."
    yield from (["Layers:", *(f"- {line}" for line in left)] if left else [])


def _whole(value: float) -> int:
    return max(1, math.floor(value))


def _hardware(
    accelerator: Accelerator, engine: Engine, array: Sequence[Array], entries: Sequence[Run], resident: Sequence[str]
) -> dict[str, Any]:
    levels = hierarchy(accelerator, engine)
    names = [level.name for level in levels]
    # a column's elements take their pixels from one window where its kernel loops are side by side
    shared = {
        level.level for run in entries for level in run.mapping.levels if level.level == "window" and level.spatial
    }
    memories = {}
    for at, level in enumerate(levels):
        # what stays on chip has its highest memory there
        holds = [tensor for tensor in level.holds if at < len(levels) - 1 or tensor not in resident]
        if holds:
            served = [dimension.name for dimension in array if at >= names.index(dimension.levels[0])]
            memories[level.name] = _memory(level, holds, served or (["D1"] if level.name in shared else []))
    operations = sum(run.layer.macs for run in entries)
    energy = sum(run.layer.macs * accelerator.energies.operation_pj(run.layer, engine.fabric) for run in entries)
    return {
        "name": f"{accelerator.name}_{engine.name}",
        "memories": memories,
        "operational_array": {
            "unit_energy": energy / operations,
            "unit_area": 0.0,
            "dimensions": [dimension.name for dimension in array],
            "sizes": [dimension.size for dimension in array],
            "systolic_dimensions": [dimension.name for dimension in array] if engine.fill_cycles else [],
        },
    }


def _memory(level: MemoryLevel, holds: Sequence[str], served: Sequence[str]) -> dict[str, Any]:
    bits = DRAM_BITS if math.isinf(level.capacity_bytes) else _whole(level.capacity_bytes * 8)
    read, write = (
        bits if math.isinf(width) else _whole(width)
        for width in (
            level.read_bits_per_cycle,
            level.read_bits_per_cycle if level.shared_port else level.write_bits_per_cycle,
        )
    )
    moves = {"read": ("tl", "th"), "write": ("fh", "fl")}
    directions = {"W": ("fh", "tl"), "I": ("fh", "tl"), "O": ("fh", "tl", "fl", "th")}

    def port(name: str, kind: str, width: int, allowed: Sequence[str]) -> dict[str, Any]:
        served = [f"{OPERANDS[x]}, {way}" for x in holds for way in directions[x] if way in allowed]
        least = min(width, level.word_bits) if level.aligned else 1
        ports = {"name": name, "type": kind, "bandwidth_min": least, "bandwidth_max": width}
        return {**ports, "allocation": served}

    if level.shared_port:
        ports = [port("rw_port_1", "read_write", read, (*moves["read"], *moves["write"]))]
    else:
        ports = [port("r_port_1", "read", read, moves["read"]), port("w_port_1", "write", write, moves["write"])]
    return {
        "size": bits,
        "r_cost": float(level.read_energy_pj * read / level.word_bits),
        "w_cost": float(level.write_energy_pj * write / level.word_bits),
        "area": 0.0,
        "latency": 1,
        "operands": [OPERANDS[tensor] for tensor in holds],
        "ports": ports,
        "served_dimensions": list(served),
        "force_double_buffering": level.double_buffered,
    }


def _layer(number: int, layer: Layer) -> dict[str, Any]:
    """A layer with padding counted as input; every kind of operation is a Conv there."""
    bounds = loop_bounds(layer)
    return {
        "id": number,
        "name": layer.name,
        "operator_type": "Conv",
        "equation": "O[g][b][k][oy][ox]+=W[g][k][c][fy][fx]*I[g][b][c][iy][ix]",
        "dimension_relations": [
            f"ix={layer.stride[1]}*ox+{layer.dilation[1]}*fx",
            f"iy={layer.stride[0]}*oy+{layer.dilation[0]}*fy",
        ],
        "loop_dims": [DIMS[dim] for dim in bounds],
        "loop_sizes": list(bounds.values()),
        "operand_precision": {
            "I": layer.input_bits,
            "W": math.ceil(layer.weight_width) if layer.has_weights else 0,
            "O": layer.accumulator_bits,
            "O_final": layer.output_bits,
        },
        "operand_source": {"I": number, "W": number},
    }


def _order(run: Run) -> list[list[Any]] | None:
    """All loops in time, innermost first; None if they overlap, which ZigZag cannot say."""
    loops = [(dim, bound) for level in run.mapping.levels for dim, bound in level.temporal if bound > 1]
    for dim, bound in loop_bounds(run.layer).items():
        side = math.prod(b for level in run.mapping.levels for d, b in level.spatial if d == dim)
        if math.prod(b for d, b in loops if d == dim) != -(-bound // side):
            return None
    return [[DIMS[dim], bound] for dim, bound in loops]


def _entry(name: str, at: dict[str, dict[str, int]], order: list[list[Any]] | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name}
    if at:
        entry["spatial_mapping"] = {
            dimension: [f"{DIMS[dim]}, {factor}" for dim, factor in loops.items()] or ["K, 1"]
            for dimension, loops in at.items()
        }
    entry["memory_operand_links"] = {tensor: OPERANDS[tensor] for tensor in ("O", "W", "I")}
    return {**entry, "temporal_ordering": order} if order else entry
