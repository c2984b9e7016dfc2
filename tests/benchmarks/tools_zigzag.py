"""Record what ZigZag says, and let ZigZag price a mapping of ours.

ZigZag needs its own environment (it does not declare ``six``):

    python3.11 -m venv zigzag-env
    zigzag-env/bin/pip install zigzag-dse==3.9.1 six
    zigzag-env/bin/python -m tests.benchmarks.tools_zigzag                    # writes the recording
    zigzag-env/bin/python -m tests.benchmarks.tools_zigzag --evaluate m.json  # prices the mappings in m.json
    python -m tests.benchmarks.tools_ours m.json                              # writes our best mappings
    zigzag-env/bin/python -m tests.benchmarks.tools_zigzag --confirm m.json   # records ZigZag's prices of them

The first form runs ZigZag's own search (loma, default limits, fixed spatial mapping) for every layer of
`tools_common` on its shipped tpu_like and eyeriss_like hardware, once for latency and once for energy (depthwise layers
with the unrolling left to it too), prices 80 random mappings with its cost model alone, and writes
tests/references/tools/zigzag.json; with `--add`, only what that file lacks. The second form prints one
JSON result per mapping. The last two write tests/references/tools/zigzag_ours.json: what ZigZag says of the mappings
that this project finds best, and ZigZag's own best for the layers of `EVEN_LAYERS`. `--time layers.json` prints how
long its search takes (see `zigzag_speed`, which asks). A mapping is

    {"hardware": "tpu_like", "layer": <Layer as JSON>, "spatial": {"D1": {"K": 32}, "D2": {"C": 32}},
     "temporal": {"W": [[["C", 2], ["P", 7]], [...], ...], "I": [...], "O": [...]}}

with, for each tensor, one list of loops per memory level that holds it, from the array outwards, every list written
innermost loop first. The concatenated loops of the three tensors must be the same nest. A depthwise layer's channel
loop is called K here and G in ZigZag.
"""

import argparse
import json
import logging
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from datetime import date
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from cosearch.workload import Layer
from tests.benchmarks.tools_common import EVEN_LAYERS, LAYERS, RECORDINGS, is_depthwise, origin, write_recording

RECORDING = RECORDINGS / "zigzag.json"
CONFIRMED = RECORDINGS / "zigzag_ours.json"
HARDWARE = ("tpu_like", "eyeriss_like")
TENSORS = ("W", "I", "O")
OPERAND = {"W": "I2", "I": "I1", "O": "O"}
"""Our tensors and ZigZag's memory operands, as in every mapping file that it ships."""
GIVEN_MAPPINGS = 80
DEFAULT_LPF_LIMIT = 6
TIMED_REPEATS = 3
PARTIAL_SUM_BITS = 16
"""What ZigZag's own ONNX parser takes for 8-bit layers."""
TO_ZIGZAG = {"N": "B", "K": "K", "C": "C", "P": "OY", "Q": "OX", "R": "FY", "S": "FX"}


def zigzag_names(layer: Layer) -> dict[str, str]:
    """Our loop names to ZigZag's; the channel loop of a depthwise layer is its group loop."""
    return TO_ZIGZAG | ({"K": "G"} if is_depthwise(layer) else {})


def our_names(layer: Layer) -> dict[str, str]:
    return {theirs: ours for ours, theirs in zigzag_names(layer).items()}


def zigzag_layer(layer: Layer) -> dict[str, Any]:
    """The layer in ZigZag's workload format, padding counted as input."""
    if layer.groups > 1 and not is_depthwise(layer):
        raise ValueError(f"layer {layer.name!r}: groups={layer.groups}, expected a dense or a depthwise layer")
    sizes = {TO_ZIGZAG[d]: getattr(layer, d) for d in "NKCPQRS"} | {"G": 1}
    if is_depthwise(layer):
        sizes |= {"G": layer.K, "K": 1, "C": 1}
    return {
        "id": 0,
        "name": "layer",
        "operator_type": "Conv",
        "equation": "O[g][b][k][oy][ox]+=W[g][k][c][fy][fx]*I[g][b][c][iy][ix]",
        "dimension_relations": [
            f"ix={layer.stride[1]}*ox+{layer.dilation[1]}*fx",
            f"iy={layer.stride[0]}*oy+{layer.dilation[0]}*fy",
        ],
        "loop_dims": list(sizes),
        "loop_sizes": list(sizes.values()),
        "operand_precision": {
            "I": layer.input_bits,
            "W": layer.weight_bits,
            "O": PARTIAL_SUM_BITS,
            "O_final": layer.output_bits,
        },
        "operand_source": {"I": 0, "W": 0},
    }


def default_spatial(layer: Layer) -> dict[str, dict[str, int]]:
    """ZigZag's shipped unrolling: K on D1 and C on D2, and only the group loop on D1 for depthwise layers.

    It asks for 32 of each; ZigZag lowers that to the array's and the layer's size.
    """
    return {"D1": {"K": 32}, "D2": {"C": 1 if is_depthwise(layer) else 32}}


def hardware_file(name: str) -> str:
    import zigzag

    return str(Path(zigzag.__path__[0]) / "inputs" / "hardware" / f"{name}.yaml")


def run_stages(
    layer: Layer, hardware: str, spatial: dict[str, dict[str, int]], stages: Sequence[Any], **options: Any
) -> Any:
    """ZigZag's pipeline on one layer, which picks the unrolling of array dimensions that `spatial` leaves out.

    Returns its cost model evaluation.
    """
    from zigzag.stages.main import MainStage
    from zigzag.stages.mapping.spatial_mapping_generation import SpatialMappingGeneratorStage
    from zigzag.stages.parser.accelerator_parser import AcceleratorParserStage
    from zigzag.stages.parser.workload_parser import WorkloadParserStage
    from zigzag.stages.workload_iterator import WorkloadStage

    names = zigzag_names(layer)
    unrolling = {dim: [f"{names[loop]}, {bound}" for loop, bound in loops.items()] for dim, loops in spatial.items()}
    mapping = [{"name": "default", "spatial_mapping": unrolling, "memory_operand_links": OPERAND}]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
        yaml.safe_dump(mapping, file)
    try:
        first = [WorkloadParserStage, AcceleratorParserStage, WorkloadStage]
        pipeline = [*first, *stages[:1], SpatialMappingGeneratorStage, *stages[1:]]
        results = MainStage(
            list_of_callables=pipeline,
            workload=[zigzag_layer(layer)],
            accelerator=hardware_file(hardware),
            mapping=file.name,
            access_same_data_considered_as_no_access=True,
            **options,
        ).run()
    finally:
        os.unlink(file.name)
    return results[0][0]


def search(
    layer: Layer, hardware: str, objective: str, lpf_limit: int, spatial: dict[str, dict[str, int]]
) -> tuple[Any, float]:
    """ZigZag's search for one objective; returns its evaluation and the CPU seconds it took."""
    from zigzag.mapping.temporal_mapping import TemporalMappingType
    from zigzag.stages.evaluation.cost_model_evaluation import CostModelStage
    from zigzag.stages.mapping.temporal_mapping_generator_stage import TemporalMappingGeneratorStage
    from zigzag.stages.results.reduce_stages import MinimalEnergyStage, MinimalLatencyStage

    best = {"latency": MinimalLatencyStage, "energy": MinimalEnergyStage}[objective]
    start = time.process_time()
    evaluation = run_stages(
        layer,
        hardware,
        spatial,
        [best, best, TemporalMappingGeneratorStage, CostModelStage],
        loma_lpf_limit=lpf_limit,
        loma_show_progress_bar=False,
        nb_mappings_generated=3,
        temporal_mapping_type=TemporalMappingType.UNEVEN,
    )
    return evaluation, time.process_time() - start


def evaluate(layer: Layer, hardware: str, spatial: dict[str, Any], temporal: dict[str, Any]) -> Any:
    """ZigZag's price of one given mapping (its cost model alone, no search)."""
    from zigzag.datatypes import LayerDim, LayerOperand
    from zigzag.mapping.temporal_mapping import TemporalMapping, TemporalMappingType
    from zigzag.stages.evaluation.cost_model_evaluation import CostModelStage
    from zigzag.stages.results.reduce_stages import MinimalLatencyStage
    from zigzag.stages.stage import Stage

    names = zigzag_names(layer)
    nests = {
        LayerOperand(tensor): [[(LayerDim(names[loop]), bound) for loop, bound in level] for level in temporal[tensor]]
        for tensor in TENSORS
    }
    flat = [[loop for level in levels for loop in level] for levels in nests.values()]
    if not flat[0] == flat[1] == flat[2]:
        raise ValueError("the loops of W, I and O must be the same nest when their levels are joined")

    class GivenMapping(Stage):
        def __init__(self, callables: list[Any], **kwargs: Any) -> None:
            super().__init__(callables, **kwargs)

        def run(self) -> Iterator[Any]:
            mapping = TemporalMapping(nests, self.kwargs["layer"], TemporalMappingType.UNEVEN)
            rest = self.list_of_callables
            yield from rest[0](rest[1:], temporal_mapping=mapping, **self.kwargs).run()

    stages = [MinimalLatencyStage, MinimalLatencyStage, GivenMapping, CostModelStage]
    return run_stages(layer, hardware, spatial, stages, nb_mappings_generated=1)


def random_mapping(generator: random.Random) -> dict[str, Any]:
    """A mapping without sense or respect for capacities, so that every kind of transfer, spill and stall occurs."""
    layer, hardware = generator.choice(LAYERS), generator.choice(HARDWARE)
    description = neutral_hardware(hardware)
    bounds = {loop: getattr(layer, loop) for loop in TO_ZIGZAG} | ({"C": 1} if is_depthwise(layer) else {})
    spatial = {}
    for dim, loop in (("D1", "K"), ("D2", "C")):
        most = min(description["array"][dim], bounds[loop])
        spatial[dim] = {loop: most if generator.random() < 0.7 else generator.randint(1, most)}
        bounds[loop] = -(-bounds[loop] // spatial[dim][loop])
    loops = [[loop, factor] for loop, bound in bounds.items() for factor in random_factors(bound, generator)]
    generator.shuffle(loops)
    temporal = {}
    for tensor in TENSORS:
        levels = sum(tensor in level["holds"] for level in description["levels"])
        cuts = [0, *sorted(generator.randint(0, len(loops)) for _ in range(levels - 1)), len(loops)]
        temporal[tensor] = [loops[start:end] for start, end in pairwise(cuts)]
    return {"hardware": hardware, "layer": layer.to_json(), "spatial": spatial, "temporal": temporal}


def random_factors(n: int, generator: random.Random) -> list[int]:
    """Factors of n larger than 1: its prime factors, some of them multiplied together."""
    factors: list[int] = []
    prime = 2
    while n > 1:
        while n % prime == 0:
            merges = factors and generator.random() < 0.3
            factors.append(factors.pop() * prime if merges else prime)
            n //= prime
        prime += 1
    return factors


def totals(cost: Any) -> dict[str, float]:
    """The figures that ZigZag's price of a mapping adds up to."""
    return {
        "latency_cycles": cost.latency_total2,
        "ideal_temporal_cycles": cost.ideal_temporal_cycle,
        "stall_cycles": cost.stall_slack_comb,
        "onloading_cycles": cost.data_onloading_cycle,
        "offloading_cycles": cost.data_offloading_cycle,
        "systolic_drain_cycles": cost.systolic_drain_cycle,
        "energy_pj": cost.energy_total,
        "mac_energy_pj": cost.mac_energy,
        "memory_energy_pj": cost.mem_energy,
    }


def directions(moving: Any) -> dict[str, float]:
    from zigzag.hardware.architecture.memory_port import DataDirection

    return {direction.value: moving.get(direction) for direction in DataDirection}


def describe(layer: Layer, cost: Any) -> dict[str, Any]:
    """Everything of a ZigZag evaluation that a comparison can use, in our loop names and units."""
    from zigzag.datatypes import LayerOperand, MemoryOperand

    names = our_names(layer)

    def loops(level: Any) -> list[list[Any]]:
        return [[names[str(dim)], bound] for dim, bound in level]

    def per_level(table: Any, tensor: str) -> list[str]:
        levels = cost.accelerator.memory_hierarchy.get_memory_levels(MemoryOperand(OPERAND[tensor]))
        return [level.name for level in levels][: len(table)]

    operands = {tensor: LayerOperand(tensor) for tensor in TENSORS}
    stalls = {
        f"{level.name}.{port}": stall
        for level, ports in zip(cost.mem_level_list, cost.stall_slack_comb_collect, strict=True)
        for port, stall in ports.items()
        if stall > 0
    }
    return totals(cost) | {
        "stall_cycles_by_port": stalls,
        "spatial": {
            str(dim): {names[str(loop)]: bound for loop, bound in unrolled.items()}
            for dim, unrolled in cost.layer.spatial_mapping.items()
        },
        "spatial_mean": [
            loop for level in cost.spatial_mapping.mapping_dict_origin[operands["W"]] for loop in loops(level)
        ],
        "temporal": {
            t: [loops(level) for level in cost.temporal_mapping.mapping_dic_origin[operands[t]]] for t in TENSORS
        },
        "temporal_stationary": {
            t: [loops(level) for level in cost.temporal_mapping.mapping_dic_stationary[operands[t]]] for t in TENSORS
        },
        "levels": {
            tensor: [
                {
                    "memory": memory,
                    "port_words": directions(cost.memory_word_access[operand][i]),
                    "energy_pj": cost.mem_energy_breakdown[operand][i],
                    "elements_per_instance": cost.mapping.data_elem_per_level_unrolled[operand][i + 1],
                    "share_of_capacity": cost.mem_utili_individual[operand][i],
                    "capacity_used_by_all": cost.mem_utili_shared[operand][i],
                    "double_buffered": cost.double_buffer_true[operand][i + 1],
                }
                for i, memory in enumerate(per_level(cost.memory_word_access[operand], tensor))
            ]
            for tensor, operand in operands.items()
        },
    }


def neutral_hardware(name: str) -> dict[str, Any]:
    """ZigZag's hardware file as a list of memory levels in this project's words, from the array outwards."""
    data = yaml.safe_load(Path(hardware_file(name)).read_text())
    array = dict(zip(data["operational_array"]["dimensions"], data["operational_array"]["sizes"], strict=True))
    tensor_of = {operand: tensor for tensor, operand in OPERAND.items()}
    moves = {"fh": "fill from above", "tl": "read to below", "fl": "update from below", "th": "drain to above"}
    levels = []
    for memory, entry in data["memories"].items():
        ports = []
        for port in entry["ports"]:
            served = [allocation.split(", ") for allocation in port["allocation"]]
            ports.append(
                {
                    "name": port["name"],
                    "type": port["type"],
                    "bits_per_cycle": port["bandwidth_max"],
                    "smallest_access_bits": port["bandwidth_min"],
                    "serves": [f"{tensor_of[operand]} {moves[direction]}" for operand, direction in served],
                }
            )
        instances = 1
        for dim, size in array.items():
            instances *= 1 if dim in entry["served_dimensions"] else size
        levels.append(
            {
                "name": memory,
                "holds": [tensor_of[operand] for operand in entry["operands"]],
                "capacity_bits_per_instance": entry["size"],
                "instances": instances,
                "shared_along": entry["served_dimensions"],
                "read_energy_pj_per_full_width_access": entry["r_cost"],
                "write_energy_pj_per_full_width_access": entry["w_cost"],
                "ports": ports,
            }
        )
    return {
        "array": array,
        "mac_energy_pj": data["operational_array"]["unit_energy"],
        "systolic_dimensions": data["operational_array"].get("systolic_dimensions", []),
        "levels": levels,
    }


def record(lpf_limit: int, output: Path, known: dict[str, Any] | None = None) -> None:
    """Search and price everything, or with a known recording only what it lacks, each addition with its own date."""
    results = []
    before = {(e["hardware"], e["layer"]["name"]): e for e in known["results"]} if known else {}
    for hardware in HARDWARE:
        for layer in LAYERS:
            entry: dict[str, Any] = before.get((hardware, layer.name), {"hardware": hardware, "layer": layer.to_json()})
            asked: dict[str, tuple[str, dict[str, dict[str, int]]]] = {
                "best_latency": ("latency", default_spatial(layer)),
                "best_energy": ("energy", default_spatial(layer)),
            }
            if is_depthwise(layer):
                asked["best_latency_free_spatial"] = ("latency", {})
                asked["best_energy_free_spatial"] = ("energy", {})
            for key, (objective, spatial) in asked.items():
                if key in entry:
                    continue
                cost, seconds = search(layer, hardware, objective, lpf_limit, spatial)
                entry[key] = describe(layer, cost) | {"cpu_seconds": round(seconds, 2)}
                if known:
                    entry[key]["date"] = date.today().isoformat()
                print(
                    f"{hardware:13} {layer.name:32} {key:26} {cost.latency_total2:12,.0f} cycles"
                    f" {cost.energy_total / 1e6:9.2f} uJ {seconds:6.1f} s",
                    flush=True,
                )
            results.append(entry)
    described = f"loma, uneven, lpf_limit {lpf_limit}, spatial mapping fixed (D1 K 32, D2 C 32; depthwise D1 K 32)"
    described += " or, of depthwise layers, free as well"
    if known:
        header = {key: value for key, value in known.items() if key != "results"} | {"search": described}
        write_recording(output, header, results)
        return
    given = []
    generator = random.Random(0)
    for _ in range(GIVEN_MAPPINGS):
        mapping = random_mapping(generator)
        layer = Layer.from_json(mapping["layer"])
        cost = evaluate(layer, mapping["hardware"], mapping["spatial"], mapping["temporal"])
        given.append(mapping | totals(cost))
    header = origin("zigzag-dse", f"python -m tests.benchmarks.tools_zigzag --lpf-limit {lpf_limit}") | {
        "search": described,
        "partial_sum_bits": PARTIAL_SUM_BITS,
        "hardware": {name: neutral_hardware(name) for name in HARDWARE},
        "given": given,
    }
    write_recording(output, header, results)


def confirm(given: Sequence[dict[str, Any]], output: Path) -> None:
    """Price our best mappings; each has an "objective" besides the mapping."""
    results = []
    for mapping in given:
        layer, hardware, objective = Layer.from_json(mapping["layer"]), mapping["hardware"], mapping["objective"]
        cost = evaluate(layer, hardware, mapping["spatial"], mapping["temporal"])
        entry = mapping | {"zigzag": totals(cost)}
        if layer in EVEN_LAYERS:
            found, seconds = search(layer, hardware, objective, DEFAULT_LPF_LIMIT, default_spatial(layer))
            entry["zigzag_best"] = totals(found) | {"cpu_seconds": round(seconds, 2)}
        results.append(entry)
    header = origin("zigzag-dse", "python -m tests.benchmarks.tools_zigzag --confirm mappings.json")
    write_recording(output, header | {"partial_sum_bits": PARTIAL_SUM_BITS}, results)


def time_searches(layers: Sequence[Layer], hardware: str) -> dict[str, Any]:
    """Processor seconds of the default search for latency, each the median of a few searches."""
    seconds = []
    for layer in layers:
        spatial = default_spatial(layer)
        runs = [search(layer, hardware, "latency", DEFAULT_LPF_LIMIT, spatial)[1] for _ in range(TIMED_REPEATS)]
        seconds.append(statistics.median(runs))
    most = math.factorial(DEFAULT_LPF_LIMIT)
    return {
        "version": metadata.version("zigzag-dse"),
        "search": f"loma, lpf_limit {DEFAULT_LPF_LIMIT}: at most {most} loop orders",
        "repeats": TIMED_REPEATS,
        "seconds": seconds,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Record ZigZag's figures or let it price given mappings.")
    parser.add_argument("--evaluate", type=Path, help="a JSON file with one mapping or a list of mappings")
    parser.add_argument("--confirm", type=Path, help="a JSON file with our best mappings: record ZigZag's prices")
    parser.add_argument("--time", type=Path, help="a JSON file with a list of layers: print how long its search takes")
    parser.add_argument("--hardware", default=HARDWARE[0], choices=HARDWARE, help="the accelerator of --time")
    parser.add_argument("--lpf-limit", type=int, default=DEFAULT_LPF_LIMIT, help="loop factors that ZigZag permutes")
    parser.add_argument("--add", action="store_true", help="search only what the recording lacks, and keep the rest")
    parser.add_argument("--output", type=Path, help="the recording to write")
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    if options.evaluate:
        given = json.loads(options.evaluate.read_text())
        for mapping in given if isinstance(given, list) else [given]:
            layer = Layer.from_json(mapping["layer"])
            cost = evaluate(layer, mapping["hardware"], mapping["spatial"], mapping["temporal"])
            json.dump(describe(layer, cost), sys.stdout)
            print()
        return
    if options.time:
        layers = [Layer.from_json(layer) for layer in json.loads(options.time.read_text())]
        with redirect_stdout(sys.stderr):
            found = time_searches(layers, options.hardware)
        print(json.dumps(found))
        return
    if options.confirm:
        confirm(json.loads(options.confirm.read_text()), options.output or CONFIRMED)
        return
    known = json.loads(RECORDING.read_text()) if options.add else None
    record(options.lpf_limit, options.output or RECORDING, known)


if __name__ == "__main__":
    main()
