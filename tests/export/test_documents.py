"""Documents of designs: what is written follows its schema, loads as what it was, and costs what it said."""

import copy
import functools
import json
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cosearch
from cosearch import reading
from cosearch.blueprint import Blueprint
from cosearch.errors import CosearchError, HardwareError, RunError
from cosearch.export import documents
from cosearch.export.network import NetworkDescription
from cosearch.export.network_mapping import NetworkMapping
from cosearch.export.schema import FOLDER
from cosearch.hardware.accelerator import Accelerator
from cosearch.runs import tensor_bytes
from cosearch.workload import Layer, Workload
from search_spaces.networks import SPACES, find
from tests import tiny_space
from tests.export.designs import DEVICES, made, mapped

NAMES = ("network", "workload", "accelerator", "mapping")


@pytest.fixture(scope="module", autouse=True)
def cache_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def as_file(data) -> dict:
    return json.loads(json.dumps(data, allow_nan=False))


def schema(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.schema.json").read_text())


def write(folder, device: str = "ecp5-25f"):
    folder.mkdir()
    for name, data in made(device).documents.items():
        (folder / f"{name}.json").write_text(json.dumps(data))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_schemas_are_schemas_and_say_what_everything_is(name):
    found = schema(name)
    jsonschema.Draft202012Validator.check_schema(found)
    assert found["$id"] == f"urn:cosearch:schema:{name}:1"
    assert found["description"]
    assert found["additionalProperties"] is False
    undescribed = [key for key, value in found["properties"].items() if value.get("description") == ""]
    assert not undescribed


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_written_follows_the_schemas_and_loads_as_it_was(device, tmp_path):
    design = made(device)
    for name, data in design.documents.items():
        jsonschema.Draft202012Validator(schema(name)).validate(as_file(data))
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(data))
        expected = {"network": design.description}.get(name) or getattr(design, name)
        assert cosearch.load(path) == expected


@pytest.mark.parametrize("device", DEVICES)
def test_a_design_costs_what_its_files_say(device, tmp_path):
    found = cosearch.load(write(tmp_path / "design", device))
    cost = found.cost()
    assert cost.latency_ms == pytest.approx(found.mapping.latency_ms, rel=1e-12)
    assert cost.energy_mj == pytest.approx(found.mapping.energy_mj, rel=1e-12)
    for (ms, mj), entry in zip(cost.layers, found.mapping.layers, strict=True):
        assert (ms, mj) == pytest.approx((entry.latency_ms, entry.energy_mj), rel=1e-12)


def test_a_layer_on_two_engines_costs_what_the_files_say():
    layer = Layer("conv", K=64, C=32, P=12, Q=12, R=3, S=3, weight_bits=4, input_bits=4, accumulator_bits=24)
    workload = Workload("one", (layer,))
    split = 0
    for at in range(4):
        accelerator, mapping = mapped(workload, "pynq-z1-split", at)
        split += len(mapping.layers[0].parts) == 2
        cost = NetworkMapping.from_json(as_file(mapping.to_json())).cost(workload, accelerator)
        assert cost.latency_ms == pytest.approx(mapping.latency_ms, rel=1e-12)
        assert cost.energy_mj == pytest.approx(mapping.energy_mj, rel=1e-12)
    assert split


@pytest.mark.parametrize("name", SPACES)
def test_networks_of_every_space_are_built_again_from_their_files(name):
    space = find(name)((3, 10, 9), 7)
    rng = np.random.default_rng(0)
    for _ in range(5):
        arch = space.sample(rng)
        blueprint: Blueprint = space.blueprint(arch)
        described = NetworkDescription.from_json(as_file(NetworkDescription(name, arch, blueprint).to_json()))
        assert described.blueprint == blueprint
        assert described.workload("w").layers == space.workload(arch).layers


def test_weights_come_back(tmp_path):
    folder = write(tmp_path / "design")
    network = made("ecp5-25f").description.build(3).eval()
    (folder / "weights.safetensors").write_bytes(tensor_bytes(network.state_dict(), {}))
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = cosearch.load(folder)
    with torch.no_grad():
        assert torch.equal(found.network(images), network(images))


def test_weights_of_another_network_are_refused(tmp_path):
    folder = write(tmp_path / "design")
    other = tiny_space.space().build(dict.fromkeys(tiny_space.space().choices, "conv_k5_e6"), 0)
    (folder / "weights.safetensors").write_bytes(tensor_bytes(other.state_dict(), {}))
    with pytest.raises(RunError, match=r"does not fit network\.json"):
        cosearch.load(folder)
    (folder / "weights.safetensors").write_bytes(b"no tensors")
    with pytest.raises(RunError, match="damaged"):
        cosearch.load(folder)


def test_files_of_two_designs_do_not_mix(tmp_path):
    folder = write(tmp_path / "design")
    (folder / "workload.json").write_text(json.dumps(made("eyeriss").documents["workload"]))
    with pytest.raises(RunError, match="not of the same network"):
        cosearch.load(folder)
    folder = write(tmp_path / "other")
    (folder / "mapping.json").write_text(json.dumps(made("eyeriss").documents["mapping"]))
    with pytest.raises(HardwareError, match="a mapping for accelerator"):
        cosearch.load(folder).cost()
    (folder / "mapping.json").write_text(json.dumps(made("ecp5-25f").documents["accelerator"]))
    with pytest.raises(RunError, match="something else than its name says"):
        cosearch.load(folder)


def test_what_stays_on_chip_must_fit():
    design = made("ecp5-25f")
    mapping = replace(design.mapping, resident=("W", "I", "O"))
    tight = [replace(level, capacity_bytes=1.0) if level.name == "weight_buffer" else level for level in
             design.accelerator.levels]  # fmt: skip
    with pytest.raises(HardwareError, match=r"keeps .* bytes of weights on chip"):
        mapping.cost(design.workload, replace(design.accelerator, levels=tuple(tight)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds a list"),
        ("{}", "format 'None'"),
        ('{"format": "cosearch.workloads"}', "did you mean 'cosearch.workload'"),
        ('{"format": "cosearch.workload", "version": 2}', "has version 2, this cosearch reads version 1"),
        ('{"format": "cosearch.workload", "version": NaN}', "NaN is no JSON number"),
        ('{"a": ' * 40 + "1" + "}" * 40, "nested deeper than 32"),
        ("[" * 100_000, "not valid JSON"),
        ('{"format": ' + "9" * 5000 + "}", "a number of 5000 digits"),
    ],
)
def test_files_that_are_no_documents(content, words, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(RunError) as caught:
        cosearch.load(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_sizes_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "read", functools.partial(reading.read, most_bytes=10))
    path = tmp_path / "x.json"
    path.write_text(json.dumps(made("ecp5-25f").documents["workload"]))
    with pytest.raises(RunError, match="at most 10 are read"):
        cosearch.load(path)


def test_nothing_there(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(RunError, match="is not a run directory, a folder with a design"):
            cosearch.load(path)


def places(data, prefix=()):
    """Every place of a document: paths of keys and positions."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*prefix, key)
        yield from places(value, (*prefix, key))


JUNK = (None, True, -1, 0, 1.5, "", "x", [], {}, [[]], 1e300, 10**30, "inf")


@settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(name=st.sampled_from(NAMES), device=st.sampled_from(["ecp5-25f", "pynq-z1-split", "eyeriss"]), data=st.data())
def test_a_damaged_document_is_refused_in_one_line(name, device, data):
    """Junk at any place, a missing entry or one too many: an error of ours, or a document that still makes sense."""
    document = as_file(made(device).documents[name])
    path = data.draw(st.sampled_from(sorted(places(document), key=str)))
    broken = copy.deepcopy(document)
    holder = broken
    for key in path[:-1]:
        holder = holder[key]
    action = data.draw(st.sampled_from(["junk", "drop", "add"]))
    if action == "junk":
        holder[path[-1]] = data.draw(st.sampled_from(JUNK))
    elif action == "drop":
        del holder[path[-1]]
    elif isinstance(holder, dict):
        holder["unknown"] = 1
    follows = jsonschema.Draft202012Validator(schema(name)).is_valid(broken)
    try:
        found = documents._READERS[document["format"]](broken)
    except CosearchError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert follows
    assert isinstance(found, NetworkDescription | Workload | Accelerator | NetworkMapping)
    design = made(device)
    if isinstance(found, NetworkMapping):
        try:
            found.cost(design.workload, design.accelerator)
        except CosearchError:
            return


def test_a_total_is_the_sum_of_its_parts(tmp_path):
    document = as_file(made("ecp5-25f").mapping.to_json())
    document["total"]["energy_mj"] *= 0.9
    path = tmp_path / "mapping.json"
    path.write_text(json.dumps(document))
    with pytest.raises(RunError, match=r"total.energy_mj is .*, layers and host transfer sum to"):
        cosearch.load(path)


@pytest.mark.parametrize(("name", "field"), [("accelerator", "engines"), ("mapping", "layers"), ("network", "arch")])
def test_what_cannot_be_empty_is_refused_empty(name, field, tmp_path):
    document = as_file(made("ecp5-25f").documents[name])
    document[field] = type(document[field])()
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(document))
    with pytest.raises(RunError, match=f"{field}: .* should be non-empty"):
        cosearch.load(path)


def test_documents_have_tables_in_notebooks():
    design = made("ecp5-25f")
    for document, said in (
        (design.description, design.description.space),
        (design.workload, design.workload.layers[0].name),
        (design.accelerator, design.accelerator.engines[0].name),
        (design.mapping, design.mapping.layers[0].engine),
    ):
        shown = document._repr_html_()
        assert shown.startswith("<table><caption>")
        assert said in shown
