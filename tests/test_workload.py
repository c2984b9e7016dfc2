import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosearch.errors import HardwareError
from cosearch.workload import KINDS, SPARSITIES, Layer, Workload, distinct_layers

sizes = st.integers(1, 12)


@st.composite
def layers(draw) -> Layer:
    groups = draw(st.sampled_from((1, 2, 3)))
    kind = draw(st.sampled_from(KINDS))
    return Layer(
        draw(st.text(max_size=8)),
        kind,
        N=draw(sizes),
        K=groups * draw(sizes),
        C=groups * draw(sizes),
        P=draw(sizes),
        Q=draw(sizes),
        R=draw(st.integers(1, 5)),
        S=draw(st.integers(1, 5)),
        stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        dilation=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        groups=groups,
        weight_bits=draw(st.integers(1, 64)),
        density=draw(st.floats(0.01, 1.0)),
        sparsity=draw(st.sampled_from(SPARSITIES)),
    )


@st.composite
def workloads(draw) -> Workload:
    made = draw(st.lists(layers(), min_size=1, max_size=6))
    inputs = tuple(tuple(draw(st.lists(st.integers(-1, i - 1), min_size=1, max_size=2))) for i in range(len(made)))
    return Workload(draw(st.text(max_size=8)), tuple(made), inputs)


@given(workloads())
def test_json_round_trip(workload):
    assert Workload.from_json(json.loads(json.dumps(workload.to_json()))) == workload
    assert Workload.from_json(json.dumps(workload.to_json())) == workload
    assert hash(workload.layers[0]) == hash(Layer.from_json(json.loads(json.dumps(workload.layers[0].to_json()))))


@given(layers())
def test_counts_against_loops(layer):
    per_group = layer.C // layer.groups
    assert (
        layer.macs
        == sum(1 for _ in range(layer.K * per_group) for _ in range(layer.R * layer.S)) * layer.N * layer.P * layer.Q
    )
    assert layer.weight_count == (
        layer.K * per_group * layer.R * layer.S if layer.kind not in ("pool", "elementwise") else 0
    )
    rows = {p * layer.stride[0] + r * layer.dilation[0] for p in range(layer.P) for r in range(layer.R)}
    columns = {q * layer.stride[1] + s * layer.dilation[1] for q in range(layer.Q) for s in range(layer.S)}
    assert layer.input_height == max(rows) + 1
    assert layer.input_width == max(columns) + 1


@given(layers(), st.text(max_size=5))
def test_the_name_is_no_part_of_the_shape(layer, name):
    renamed = Layer.from_json({**layer.to_json(), "name": name})
    assert renamed.shape_key == layer.shape_key
    assert distinct_layers([Workload("w", (layer, renamed))]) == (layer,)
    wider = Layer.from_json({**layer.to_json(), "input_bits": layer.input_bits + 1})
    assert wider.shape_key != layer.shape_key


@given(workloads())
def test_shape_counts_cover_every_layer_once(workload):
    counts = workload.shape_counts()
    assert sum(counts.values()) == len(workload)
    for layer, n in counts.items():
        assert n == sum(other.shape_key == layer.shape_key for other in workload.layers)
    assert sum(layer.macs * n for layer, n in counts.items() if layer.has_weights) == workload.macs


def liveness_by_hand(workload: Workload) -> float:
    """Walk the schedule with a set of live tensors: born when written, dead after the last reader."""
    readers: dict[int, set[int]] = {}
    for i, producers in enumerate(workload.inputs):
        for j in producers:
            readers.setdefault(j, set()).add(i)
    size = {i: layer.output_count * layer.output_bits / 8 for i, layer in enumerate(workload.layers)}
    firsts = [workload.layers[i] for i in readers.get(-1, ())]
    size[-1] = max((layer.input_count * layer.input_bits / 8 for layer in firsts), default=0.0)
    alive, peak = {-1} if -1 in readers else set(), 0.0
    for i in range(len(workload.layers)):
        alive.add(i)
        peak = max(peak, sum(size[j] for j in alive))
        alive = {j for j in alive if any(r > i for r in readers.get(j, ()))}
    return peak


@given(workloads())
def test_live_activations_against_a_walk_of_the_schedule(workload):
    assert workload.live_activation_bytes == pytest.approx(liveness_by_hand(workload))


def test_live_activations_of_a_residual_branch_counted_by_hand():
    pointwise = {"K": 4, "C": 4, "P": 2, "Q": 2}
    chain = Workload(
        "chain",
        (Layer("a", **pointwise), Layer("wide", K=16, C=4, P=2, Q=2), Layer("narrow", K=4, C=16, P=2, Q=2)),
    )
    # wide (64 bytes) beside its input (16): the image is gone
    assert chain.live_activation_bytes == 80
    residual = Workload(
        "residual",
        (*chain.layers, Layer("sum", "elementwise", K=4, C=8, P=2, Q=2, groups=4)),
        ((-1,), (0,), (1,), (2, 0)),
    )
    # narrow (16) is written while wide (64) is read, and a's output (16) waits for the sum
    assert residual.live_activation_bytes == 96


def test_the_largest_digits_network_counted_by_hand():
    from search_spaces.networks.shiftadd import space

    made = space()
    workload = made.workload(made.largest("conv"))
    # the widest place is layer 2: 8 channels expanded to 48 at 8x8; its expansion's output, the depthwise's and, for
    # the residual, the entry are alive at once
    assert workload.live_activation_bytes == (48 + 48 + 8) * 64


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"K": 0}, "K=0"),
        ({"C": -1}, "C=-1"),
        ({"P": 1.0}, "P=1.0"),
        ({"N": True}, "N=True"),
        ({"Q": 2**31 + 1}, "Q="),
        ({"groups": 3, "K": 4, "C": 3}, "groups=3"),
        ({"kind": "conv"}, "kind='conv'"),
        ({"sparsity": "some"}, "sparsity='some'"),
        ({"density": 0.0}, "density=0.0"),
        ({"density": 1.1}, "density=1.1"),
        ({"density": float("nan")}, "density=nan"),
        ({"weight_bits": 65}, "weight_bits=65"),
        ({"stride": (0, 1)}, "stride="),
        ({"dilation": (1, -1)}, "dilation="),
    ],
)
def test_malformed_layers_name_layer_and_field(change, match):
    with pytest.raises(HardwareError, match=f"layer 'x': {match}"):
        Layer("x", **change)


@pytest.mark.parametrize(
    ("document", "match"),
    [
        ({}, "expected a JSON object with format"),
        ([], "expected a JSON object"),
        ({"format": "cosearch.workload", "version": 2}, "version 1"),
        ({"format": "cosearch.workload", "version": 1, "name": "w"}, "incomplete"),
        ({"format": "cosearch.workload", "version": 1, "name": "w", "layers": []}, "has no layers"),
        ({"format": "cosearch.workload", "version": 1, "name": "w", "layers": [{"K": 3}]}, "a layer is an object"),
        ({"format": "cosearch.workload", "version": 1, "name": "w", "layers": ["a"]}, "a layer is an object"),
        (
            {"format": "cosearch.workload", "version": 1, "name": "w", "layers": [{"name": "a", "KK": 3}]},
            r"got \['KK'\]",
        ),
        (
            {"format": "cosearch.workload", "version": 1, "name": "w", "layers": [{"name": "a"}], "inputs": [[0]]},
            "earlier layers",
        ),
        (
            {"format": "cosearch.workload", "version": 1, "name": "w", "layers": [{"name": "a"}], "inputs": [[-2]]},
            "earlier layers",
        ),
        ({"format": "cosearch.workload", "version": 1, "name": "w", "layers": [{"name": "a", "stride": "xy"}]}, "'a'"),
        ({"format": "cosearch.workload", "version": 1, "name": "w", "layers": [{"name": "a", "stride": [1]}]}, "'a'"),
        ({"format": "cosearch.workload", "version": 1, "name": "w", "layers": [{"name": "a", "density": "x"}]}, "'a'"),
        (
            {"format": "cosearch.workload", "version": 1, "name": "w", "layers": [{"name": ["a"]}]},
            "name=.*, expected text",
        ),
        (
            {"format": "cosearch.workload", "version": 1, "name": "w", "layers": [{"name": "a"}], "inputs": [["z"]]},
            "incomplete",
        ),
        ("{not json", "JSON"),
    ],
)
def test_documents_that_are_no_workload(document, match):
    with pytest.raises(HardwareError, match=match) as caught:
        Workload.from_json(document)
    assert "\n" not in str(caught.value)


def test_with_batch_scales_the_work():
    workload = Workload("w", (Layer("a", K=4, C=2, P=3, Q=3),))
    assert workload.with_batch(5).macs == 5 * workload.macs
    assert workload.with_batch(5).weight_count == workload.weight_count
