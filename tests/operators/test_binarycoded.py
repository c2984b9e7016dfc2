import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from cosearch.errors import OperatorError
from cosearch.operators.binarycoded import (
    BinaryCodedConv2d,
    BinaryCodedLinear,
    binary_code,
    binary_code_with_feedback,
    sum_of_powers,
)


def _error(code: object, weight: torch.Tensor) -> float:
    return float((code.matrix() - weight).norm())


def test_one_bit_is_the_sign_times_the_mean_magnitude() -> None:
    weight = torch.randn(4, 9)
    code = binary_code(weight, 1, terms=None)
    expected = weight.sign() * weight.abs().mean(1, keepdim=True)
    assert torch.allclose(code.matrix(), expected, atol=1e-6)


def test_error_does_not_rise_with_iterations_or_bits() -> None:
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    errors = [_error(binary_code(weight, 3, terms=None, iterations=i), weight) for i in range(0, 12)]
    assert all(b <= a + 1e-6 for a, b in itertools.pairwise(errors))
    by_bits = [_error(binary_code(weight, b, terms=None), weight) for b in (1, 2, 3, 4)]
    assert all(b < a for a, b in itertools.pairwise(by_bits))


def test_two_bits_come_near_the_brute_force_optimum() -> None:
    weight = torch.randn(1, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    best = float("inf")
    choices = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=6)), dtype=torch.float64)
    for a, b in itertools.combinations_with_replacement(range(64), 2):
        system = torch.stack([choices[a], choices[b]], 1)
        fit = system @ (torch.linalg.pinv(system) @ weight[0])
        best = min(best, float((fit - weight[0]).norm()))
    assert best - 1e-9 <= _error(binary_code(weight, 2, terms=None), weight) <= best * 1.5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-10, 10, allow_subnormal=False), min_size=1, max_size=8), st.integers(1, 4))
def test_sums_of_powers_have_the_stated_terms(values: list, terms: int) -> None:
    exact = torch.tensor(values, dtype=torch.float64)
    got = sum_of_powers(exact, terms)
    assert bool(((got - exact).abs() <= exact.abs() / 3**terms + 1e-12).all())
    rest = got.clone()  # each term removes one signed power of two: greedy again leaves nothing
    assert torch.equal(sum_of_powers(rest, terms), rest)


def test_groups_have_their_own_scales_and_a_short_last_one() -> None:
    weight = torch.randn(3, 10)
    code = binary_code(weight, 2, group=4)
    assert code.alpha.shape == (3, 3, 2)
    assert code.signs.shape == (3, 3, 4, 2)
    assert not bool(code.signs[:, 2, 2:].any())
    assert code.matrix().shape == (3, 10)
    last = binary_code(weight[:, 8:], 2)
    assert torch.allclose(code.matrix()[:, 8:], last.matrix(), atol=1e-6)


def test_feedback_lowers_the_output_error() -> None:
    generator = torch.Generator().manual_seed(4)
    mixing = torch.randn(32, 32, generator=generator)
    x = torch.randn(500, 32, generator=generator) @ mixing
    weight = torch.randn(16, 32, generator=generator)
    plain = binary_code(weight, 2, group=8)
    fed = binary_code_with_feedback(weight, x.T @ x, 2, group=8)
    errors = [float((x @ (c.matrix() - weight).T).norm()) for c in (plain, fed)]
    assert errors[1] < 0.9 * errors[0]
    independent = binary_code_with_feedback(weight, torch.eye(32), 2, group=8)
    assert torch.allclose(independent.matrix(), plain.matrix(), atol=1e-5)


@pytest.mark.parametrize(("groups", "stride", "size"), [(1, 1, (5, 5)), (2, 2, (7, 6))])
def test_layers_compute_with_the_coded_weight(groups: int, stride: int, size: tuple) -> None:
    conv = nn.Conv2d(4, 6, 3, stride, 1, groups=groups)
    layer = BinaryCodedConv2d(4, 6, 3, stride, 1, groups=groups, bits=4, group=9)
    layer.load_dense(conv.weight)
    x = torch.randn(2, 4, *size)
    expected = F.conv2d(x, layer.dense_weight(), layer.bias, stride, 1, groups=groups)
    assert torch.equal(layer(x), expected)
    assert float((layer.dense_weight() - conv.weight).norm() / conv.weight.norm()) < 0.25
    copy = BinaryCodedConv2d(4, 6, 3, stride, 1, groups=groups, bits=4, group=9)
    copy.load_state_dict(layer.state_dict())
    assert torch.equal(copy(x), layer(x))
    (priced,) = layer.cost_layers("b", tuple(x.shape))
    assert (priced.kind, priced.weight_bits) == ("bitserial", 4)
    linear = BinaryCodedLinear(8, 3, bits=8, terms=None)
    dense = torch.randn(3, 8)
    linear.load_dense(dense)
    assert torch.allclose(linear.dense_weight(), dense, atol=0.05)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: binary_code(torch.ones(2, 2, 2), 2), "weight"),
        (lambda: binary_code(torch.ones(2, 2), 0), "bits"),
        (lambda: binary_code(torch.ones(2, 2), 9), "bits"),
        (lambda: binary_code(torch.ones(2, 2), 2, group=0), "group"),
        (lambda: binary_code(torch.ones(2, 2), 2, terms=0), "terms"),
        (lambda: BinaryCodedLinear(2, 2, bits=0), "bits"),
        (lambda: binary_code_with_feedback(torch.ones(2, 2), torch.eye(3), 2), "moments"),
    ],
)
def test_bad_arguments_are_named(call: object, named: str) -> None:
    with pytest.raises(OperatorError, match=named):
        call()
