"""Designs as Timeloop-style YAML: the trees fit each other, and their loops are the design's."""

import math
from dataclasses import replace

import pytest
import yaml

from cosearch.export.timeloop import timeloop_files
from cosearch.export.zigzag import runs
from cosearch.hardware.accelerator import hierarchy
from cosearch.hardware.cost import evaluate_batch, nests
from cosearch.hardware.mapping import DIMS, LevelLoops, Mapping, loop_bounds
from tests.export.designs import WIDE, made, mapped


class Loader(yaml.SafeLoader):
    """Nodes as (tag, fields)."""


for tag in ("!Component", "!Container"):
    Loader.add_constructor(tag, lambda loader, node: (node.tag, loader.construct_mapping(node, deep=True)))


@pytest.fixture(scope="module", autouse=True)
def cache_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def product(directive: dict) -> dict[str, int]:
    pairs = (text.split("=") for text in directive["factors"])
    return {dim: int(bound) for dim, bound in pairs}


@pytest.mark.parametrize("device", ["ecp5-85f", "pynq-z1", "zcu102-split", "eyeriss", "tpu-os", "gemmini"])
def test_files_fit_each_other_and_the_design(device):
    accelerator, mapping = mapped(WIDE, device)
    files = {path: yaml.load(text, Loader) for path, text in timeloop_files(WIDE, accelerator, mapping).items()}
    by_engine, _ = runs(WIDE, mapping, accelerator)
    seen = 0
    for engine in accelerator.engines:
        if f"{engine.name}/architecture.yaml" not in files:
            continue
        nodes = files[f"{engine.name}/architecture.yaml"]["architecture"]["nodes"]
        memories = [fields["name"] for kind, fields in nodes if kind == "!Component"][:-1]
        meshes = {fields["name"]: fields["spatial"]["meshX"] for kind, fields in nodes if "spatial" in fields}
        assert sorted(memories) == sorted(level.name for level in hierarchy(accelerator, engine))
        assert memories[0] == "dram"
        assert math.prod(meshes.values()) >= engine.rows * engine.cols
        assert nodes[-1][1]["class"] == "compute"
        for run in by_engine[engine.name]:
            path = f"{engine.name}/{run.layer.name}"
            if f"{path}.mapping.yaml" not in files:
                continue
            seen += 1
            problem = files[f"{path}.problem.yaml"]["problem"]
            directives = files[f"{path}.mapping.yaml"]["mapping"]
            sizes = {dim: problem["instance"][dim] for dim in DIMS}
            assert all(sizes[dim] >= bound for dim, bound in loop_bounds(run.layer).items())
            total = dict.fromkeys(DIMS, 1)
            steps = 1
            for directive in directives:
                if directive["type"] == "dataspace":
                    assert sorted(directive["keep"] + directive["bypass"]) == ["Inputs", "Outputs", "Weights"]
                    continue
                assert sorted(directive["permutation"]) == sorted(DIMS)
                factors = product(directive)
                total = {dim: total[dim] * factors[dim] for dim in DIMS}
                if directive["type"] == "spatial":
                    assert math.prod(factors.values()) <= meshes[directive["target"]]
                else:
                    steps *= math.prod(factors.values())
            assert total == sizes
            # every loop in time is there: as many steps as the cost model counts
            [(_, batch)] = nests([run.mapping])
            assert steps == float(evaluate_batch(run.layer, hierarchy(accelerator, engine), batch).compute_cycles[0])
            assert [d["target"] for d in directives if d["type"] == "temporal"] == memories
    assert seen >= 3


def test_what_is_left_out_is_named():
    design = made("ecp5-25f")
    files = timeloop_files(design.workload, design.accelerator, design.mapping)
    for layer in design.workload.layers:
        written = any(path.endswith(f"/{layer.name}.mapping.yaml") for path in files)
        assert written != (f"- {layer.name}: runs on the vector unit" in files["notes.txt"])
    assert "static power" in files["notes.txt"]
    assert list(timeloop_files(*_closed_form())) == ["notes.txt"]


def _closed_form():
    design = made("cpu")
    return design.workload, design.accelerator, design.mapping


def test_a_dimension_that_comes_back_within_a_level_is_left_out_and_said():
    accelerator, mapping = mapped(WIDE, "gemmini")
    at, entry = next((i, x) for i, x in enumerate(mapping.layers) if x.mapping and WIDE.layers[i].C % 2 == 0)
    bounds = loop_bounds(WIDE.layers[at])
    halves = (("C", 2), *((dim, bound) for dim, bound in bounds.items() if dim != "C"), ("C", bounds["C"] // 2))
    levels = [LevelLoops(level.level) for level in entry.mapping.levels[:-1]]
    changed = replace(entry, mapping=Mapping((*levels, LevelLoops("dram", halves))))
    layers = (*mapping.layers[:at], changed, *mapping.layers[at + 1 :])
    files = timeloop_files(WIDE, accelerator, replace(mapping, layers=layers))
    name = f"gemmini/{entry.layer}.mapping.yaml"
    assert name in timeloop_files(WIDE, accelerator, mapping)
    assert name not in files
    assert f"{entry.layer}: a dimension has two loops at one level" in files["notes.txt"]
