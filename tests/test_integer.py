import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosearch.integer import (
    AccumulatorOverflowError,
    IntegerConv,
    IntegerNetwork,
    Requantise,
    _fixed_point,
    _written,
    integer_accuracy,
    to_integer,
)
from cosearch.operators.integer import integer_add_conv2d
from cosearch.supernet.blocks import Network, calibrate, set_simulation
from cosearch.supernet.training import Recipe, accuracy, train_network
from search_spaces.networks.shiftadd import space
from tests import tiny_space
from tests.references import integer_network

SPACE = space()
MIXED = ("conv_k3_e3", "add_k5_e1", "shift_k3_e3", "add_k3_e3", "conv_k5_e1", "shift_k5_e3", "skip", "add_k3_e1")
ARCHS = {
    **{op: {p.name: f"{op}_k3_e3" for p in SPACE.macro.positions} for op in ("conv", "shift", "add")},
    "mixed": {p.name: c for p, c in zip(SPACE.macro.positions, MIXED, strict=True)},
}


def calibrated(name: str, digits, seed: int = 0) -> Network:
    """Fresh weights, real batch-norm statistics with gains and offsets that are not 1 and 0."""
    network = SPACE.build(ARCHS[name], seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for unit in network.units():
            gain = torch.rand(len(unit.bn.weight), generator=generator) * 0.8 + 0.6
            gain[::5] *= -1
            unit.bn.weight.copy_(gain)
            unit.bn.bias.copy_(torch.rand(len(unit.bn.bias), generator=generator) - 0.3)
        network.classifier.bias.copy_(torch.rand(10, generator=generator) - 0.5)
    calibrate(network, torch.from_numpy(digits.train.x[:256]))
    return network


@pytest.mark.parametrize("name", ARCHS)
def test_the_integer_network_is_the_literal_one_bit_for_bit(digits, name):
    network = calibrated(name, digits)
    integer = to_integer(network, torch.from_numpy(digits.train.x))
    images = torch.from_numpy(digits.validation.x[:12])
    expected = integer_network.run(integer, network, images)
    got = integer(images)
    assert got.dtype == torch.int64
    assert torch.equal(got, expected)
    assert len(got.unique()) > 20


@pytest.mark.parametrize("name", ARCHS)
def test_integers_are_as_wide_as_the_hardware(digits, name):
    integer = to_integer(calibrated(name, digits), torch.from_numpy(digits.train.x))
    for layer in (step for step in integer.steps if isinstance(step, IntegerConv)):
        low, high = int(layer.weight.min()), int(layer.weight.max())
        if layer.op == "conv":
            assert low >= -127
            assert high <= 127
        elif layer.op == "shift":
            assert set(layer.weight.abs().flatten().tolist()) <= {2**i for i in range(8)}
        else:
            assert low >= -127
            assert high <= 255
        assert (layer.requantise.multiplier.abs() <= 2**15).all()
        assert (layer.requantise.shift >= 1).all()
        assert (layer.requantise.low, layer.requantise.high) in ((-127, 127), (0, 255))


@pytest.mark.parametrize("name", ARCHS)
def test_the_integer_network_is_close_to_the_float_one(digits, name):
    tiny = tiny_space.space()
    ops = ("conv", "shift", "add") if name == "mixed" else (name,) * 3
    network = tiny.build({f"layer{i + 1}": f"{op}_k3_e1" for i, op in enumerate(ops)}, 3)
    calibrate(network, torch.from_numpy(digits.train.x))
    images = torch.from_numpy(digits.validation.x[:100])
    with torch.no_grad():
        exact = network(images)
    got = to_integer(network, torch.from_numpy(digits.train.x))(images).double()
    rows = zip(got, exact.double(), strict=True)
    alike = torch.stack([torch.corrcoef(torch.stack([ours, theirs]))[0, 1] for ours, theirs in rows])
    assert alike.median() > 0.98


@pytest.mark.parametrize("name", ["conv", "add", "mixed"])
def test_accuracy_survives_after_a_short_training(digits, name):
    """On 1,438 images, and what is simulated on three trainings: of 357, up to seven change sides by luck."""
    images = digits.development()
    epochs, found = 3 if name == "conv" else 4, []
    for seed in (1, 2, 3):
        network = SPACE.build(ARCHS[name], seed)
        train_network(network, digits.train, Recipe(epochs=epochs), seed)
        exact = accuracy(network, images)
        integer = integer_accuracy(to_integer(network, torch.from_numpy(digits.train.x)), images)
        set_simulation(network, True)
        found.append((exact, integer, accuracy(network, images)))
        assert exact > 0.6
        assert abs(integer - exact) <= 0.0126  # a little over one point
    _, integers, simulated = np.mean(found, axis=0)
    assert abs(simulated - integers) <= 0.0085


def test_weights_outside_the_range_of_the_input_are_moved_to_its_end(digits):
    """|w - x| = |end - x| + |w - end| for every x in range: what is saved is exact."""
    network = calibrated("add", digits)
    integer = to_integer(network, torch.from_numpy(digits.train.x))
    unit, layer = network.unit("layer1.expand"), next(s for s in integer.steps if s.name == "layer1.expand")
    assert isinstance(layer, IntegerConv)
    entry = _written(float(network.unit("stem").amax), signed=False)
    x_step = entry.step
    x = torch.randint(0, 256, (2, layer.weight.shape[1], 8, 8), generator=torch.Generator().manual_seed(0))
    weight = unit.weight.detach().double()
    low, high = entry.limits
    outside = ((weight < low * x_step) | (weight > high * x_step)).any()
    assert outside  # standard normal weights against inputs that are never negative
    real = -(weight[None, :, :, 0, 0, None, None] - x_step * x[:, None].double()).abs().sum(2)
    held = weight.clamp(low * x_step, high * x_step)
    constant = -(weight - held).abs().sum((1, 2, 3))
    sums = integer_add_conv2d(x, layer.weight).double() * x_step + constant.view(1, -1, 1, 1)
    # what differs is the rounding of the weights that are in range: at most half a step each
    assert (sums - real).abs().max() <= 0.5 * x_step * weight.shape[1] + 1e-9
    # and exactly nothing for channels whose weights are all out of range
    far = unit.weight.detach().double().abs() + high * x_step + 1
    real_far = -(-far[None, :, :, 0, 0, None, None] - x_step * x[:, None].double()).abs().sum(2)
    all_low = integer_add_conv2d(x, torch.zeros_like(layer.weight)).double() * x_step
    assert torch.allclose(all_low - far.sum((1, 2, 3)).view(1, -1, 1, 1), real_far, atol=1e-9)


@given(
    scale=st.floats(1e-6, 100.0),
    negative=st.booleans(),
    offset=st.floats(-300.0, 300.0),
    accumulator=st.integers(-(2**23) + 1, 2**23 - 1),
    signed=st.booleans(),
)
def test_fixed_point_against_real_arithmetic(scale, negative, offset, accumulator, signed):
    tensor = _written(1.0, signed)
    scale = -scale if negative else scale
    made = _fixed_point(torch.tensor([scale], dtype=torch.float64), torch.tensor([offset], dtype=torch.float64), tensor)
    got = int(made(torch.tensor([[[[accumulator]]]]))[0, 0, 0, 0])
    exact = scale * accumulator + offset
    low, high = tensor.limits
    # half a step of rounding, the multiplier's 2^-15, and what the shift of at most 38 leaves of tiny scales
    error = 0.5 + abs(scale * accumulator) * 2**-15 + abs(accumulator) * 2.0**-38 + 1e-3
    assert min(max(exact, low), high) == pytest.approx(got, abs=error)


@given(
    st.integers(-(2**23) + 1, 2**23 - 1), st.integers(-(2**15), 2**15), st.integers(1, 38), st.integers(-(2**44), 2**44)
)
@settings(max_examples=50)
def test_requantise_in_int64_is_exact(accumulator, multiplier, shift, offset):
    made = Requantise(torch.tensor([multiplier]), torch.tensor([shift]), torch.tensor([offset]), -127, 127)
    exact = min(max((accumulator * multiplier + offset) // 2**shift, -127), 127)
    assert int(made(torch.tensor([[[[accumulator]]]]))[0, 0, 0, 0]) == exact


def overflowing(integer: IntegerNetwork) -> IntegerNetwork:
    stem, *rest = integer.steps
    assert isinstance(stem, IntegerConv)
    large = dataclasses.replace(stem, weight=torch.full_like(stem.weight, 2**20))
    return dataclasses.replace(integer, steps=(large, *rest))


def test_a_sum_that_does_not_fit_the_accumulator_is_an_error(digits):
    integer = overflowing(to_integer(calibrated("conv", digits), torch.from_numpy(digits.train.x)))
    with pytest.raises(AccumulatorOverflowError, match=r"layer 'stem': a sum of [0-9]+ does not fit 24 bits"):
        integer(torch.from_numpy(digits.validation.x[:4]))


def test_conversion_leaves_the_network_as_it_was(digits):
    network = calibrated("mixed", digits)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    first = to_integer(network, torch.from_numpy(digits.train.x))
    again = to_integer(network, torch.from_numpy(digits.train.x))
    images = torch.from_numpy(digits.validation.x[:8])
    assert torch.equal(first(images), again(images))
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
