"""What ZigZag 3.9.1 requires of its input files, restated from its validators and factories.

Each function returns what is wrong with a document, in words; nothing if ZigZag reads it.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

OPERATORS = {
    "Max", "Conv", "Pooling", "Add", "Conv_downsample", "Gemm", "Pool", "MaxPool", "AveragePool", "GlobalAveragePool",
}  # fmt: skip
EQUATION = r"^O(\[\w+\])+\s*\+?\s*=\s*\w(\[\w+\])+\s*[*+]\s*\w(\[(?:\w+)?\])+\s*$"
RELATION = r"^(\w+)\s*=\s*(?:(\w+)\s*\*\s*)?(\w+)\s*\+\s*(?:(\w+)\s*\*\s*)?(\w+)$"


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _unknown(data: Mapping[str, Any], known: set[str], where: str) -> Iterator[str]:
    yield from (f"{where}: unknown field {name}" for name in data.keys() - known)


def hardware_faults(data: Mapping[str, Any]) -> Iterator[str]:
    yield from _unknown(data, {"name", "memories", "operational_array", "dataflows"}, "hardware")
    if not isinstance(data.get("name"), str):
        yield "hardware: name is required"
    array = data["operational_array"]
    dims = array["dimensions"]
    if len(dims) != len(array["sizes"]) or not all(_whole(size) and size >= 0 for size in array["sizes"]):
        yield "array: one whole size per dimension"
    if not all(re.fullmatch(r"D\d", dim) for dim in dims) or not set(array.get("systolic_dimensions", [])) <= set(dims):
        yield "array: dimensions are D1 to D9, and those of systolic moves are among them"
    yield from _unknown(
        array, {"dimensions", "sizes", "unit_energy", "unit_area", "systolic_dimensions", "is_imc"}, "array"
    )
    for key in ("unit_energy", "unit_area"):
        if not isinstance(array.get(key), int | float):
            yield f"array: {key} is a number that multipliers are made with"
    held: dict[str, int] = {}
    for name, memory in data["memories"].items():
        yield from _memory_faults(name, memory, dims)
        for operand in memory["operands"]:
            held[operand] = held.get(operand, 0) + 1
    if set(held) != {"I1", "I2", "O"}:
        yield f"memories hold {sorted(held)}, every operand needs one"


def _memory_faults(name: str, memory: Mapping[str, Any], dims: Sequence[str]) -> Iterator[str]:
    known = {
        "size", "r_cost", "w_cost", "area", "latency", "mem_type", "auto_cost_extraction", "operands", "ports",
        "served_dimensions", "force_double_buffering",
    }  # fmt: skip
    yield from _unknown(memory, known, name)
    for key in ("size", "latency"):
        if not _whole(memory.get(key)):
            yield f"{name}: {key} is a whole number"
    for key in ("r_cost", "w_cost", "area"):  # nothing is extracted with CACTI
        if not isinstance(memory.get(key), int | float):
            yield f"{name}: {key} is a number"
    if not set(memory["served_dimensions"]) <= set(dims):
        yield f"{name}: serves dimensions that the array has not"
    if not set(memory["operands"]) <= {"I1", "I2", "O"}:
        yield f"{name}: operands are I1, I2 and O"
    allocated: dict[str, set[str]] = {}
    for port in memory["ports"]:
        yield from _unknown(port, {"name", "type", "bandwidth_min", "bandwidth_max", "allocation"}, f"{name}, port")
        if not re.fullmatch(r"[r]?[w]?_port_\d+", port["name"]) or port["type"] not in ("read", "write", "read_write"):
            yield f"{name}: port {port['name']} of type {port['type']}"
        low, high = port["bandwidth_min"], port["bandwidth_max"]
        if not (_whole(low) and _whole(high) and 0 < low <= high):
            yield f"{name}: bandwidths {low} to {high}"
        for text in port["allocation"]:
            if not re.fullmatch(r"(I[12]|O), (fh|tl|fl|th)", text):
                yield f"{name}: allocation {text}"
                continue
            operand, way = text.split(", ")
            if operand not in memory["operands"]:
                yield f"{name}: a port moves {operand}, which the memory does not hold"
            if (way in ("fh", "fl") and port["type"] == "read") or (way in ("th", "tl") and port["type"] == "write"):
                yield f"{name}: {way} through a port of type {port['type']}"
            allocated.setdefault(operand, set()).add(way)
    for operand in memory["operands"]:
        needed = {"fh", "tl", "fl", "th"} if operand == "O" else {"fh", "tl"}
        if allocated.get(operand, set()) != needed:
            yield f"{name}: {operand} moves {sorted(allocated.get(operand, set()))}, expected {sorted(needed)}"


def workload_faults(data: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if [layer.get("id") for layer in data] != list(range(len(data))):
        yield "workload: ids count from 0"
    for layer in data:
        name = layer["name"]
        if layer["operator_type"] not in OPERATORS:
            yield f"{name}: operator {layer['operator_type']}"
        if not re.match(EQUATION, layer["equation"]):
            yield f"{name}: equation {layer['equation']}"
        yield from (f"{name}: relation {text}" for text in layer["dimension_relations"] if not re.match(RELATION, text))
        sizes = layer["loop_sizes"]
        if len(layer["loop_dims"]) != len(sizes) or not all(_whole(size) and size >= 1 for size in sizes):
            yield f"{name}: one whole size per loop"
        mentioned = {text.upper() for text in re.findall(r"\[(\w+)\]", layer["equation"])} - {"IX", "IY"}
        if mentioned | {"FX", "FY"} != set(layer["loop_dims"]):
            yield f"{name}: loops {layer['loop_dims']} are not those of the equation"
        if set(layer["operand_precision"]) != {"I", "W", "O", "O_final"} or not all(
            map(_whole, layer["operand_precision"].values())
        ):
            yield f"{name}: precisions {layer['operand_precision']}"


def mapping_faults(
    data: Sequence[Mapping[str, Any]], workload: Sequence[Mapping[str, Any]], hardware: Mapping[str, Any]
) -> Iterator[str]:
    """Besides what the parser asks: the loops fit the array, and a complete order covers each loop exactly."""
    by_name = {entry["name"]: entry for entry in data}
    if "default" not in by_name:
        yield "mapping: an entry called default is required"
    array = hardware["operational_array"]
    sizes = dict(zip(array["dimensions"], array["sizes"], strict=True))
    for layer in workload:
        entry = by_name.get(layer["name"])
        if entry is None:
            yield f"{layer['name']}: has no mapping of its own"
            continue
        yield from _unknown(
            entry, {"name", "spatial_mapping", "memory_operand_links", "temporal_ordering"}, entry["name"]
        )
        if entry["memory_operand_links"] != {"O": "O", "W": "I2", "I": "I1"}:
            yield f"{layer['name']}: operands {entry['memory_operand_links']}"
        across: dict[str, int] = {}
        for dim, loops in entry["spatial_mapping"].items():
            if not all(re.fullmatch(r"[A-Z]+\d*, \d+", text) for text in loops):
                yield f"{layer['name']}: {dim} unrolls {loops}"
                continue
            pairs = [(loop, int(bound)) for loop, bound in (text.split(", ") for text in loops)]
            if math.prod(bound for _, bound in pairs) > sizes[dim]:
                yield f"{layer['name']}: {dim} has {sizes[dim]} units, {loops} needs more"
            for loop, bound in pairs:
                across[loop] = across.get(loop, 1) * bound
        if "temporal_ordering" not in entry:
            continue
        trips = {
            loop: -(-size // across.get(loop, 1))
            for loop, size in zip(layer["loop_dims"], layer["loop_sizes"], strict=True)
        }
        ordered: dict[str, int] = {}
        for loop, bound in entry["temporal_ordering"]:
            if not _whole(bound) or bound < 2:  # its check of completeness fails over loops of 1
                yield f"{layer['name']}: loop {loop} of {bound}"
            ordered[loop] = ordered.get(loop, 1) * bound
        if ordered != {loop: bound for loop, bound in trips.items() if bound > 1}:
            yield f"{layer['name']}: order {ordered} does not cover {trips}"
