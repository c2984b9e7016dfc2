import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cosearch.errors import OperatorError
from cosearch.operators.smartexchange import (
    EXPONENTS,
    SmartExchangeConv2d,
    SmartExchangeLinear,
    _nearest_power,
    smart_exchange,
)


def _relative(code: object, target: torch.Tensor) -> float:
    return float((code.matrices() - target).norm() / target.norm())


def test_nearest_power_beats_every_level() -> None:
    values = torch.linspace(-1.4, 1.4, 1001)
    levels = torch.tensor([0.0, *(s * 2.0**e for e in EXPONENTS for s in (1, -1))])
    best = (values[:, None] - levels).abs().min(1).values
    assert torch.allclose((_nearest_power(values, EXPONENTS) - values).abs(), best, atol=1e-7)


def test_real_coefficients_without_threshold_are_exact() -> None:
    target = torch.randn(5, 12, 3)
    assert _relative(smart_exchange(target, exponents=None, basis_bits=None), target) < 1e-5


def test_a_weight_of_the_form_is_recovered() -> None:
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (3, 16, 4), generator=generator) * 2.0 - 1
    coefficients = torch.zeros(3, 16, 4)
    coefficients.scatter_(2, torch.arange(16).remainder(4).view(1, 16, 1).expand(3, 16, 1), 0.5)
    target = (coefficients * signs) @ torch.diag(torch.tensor([1.0, 2.0, 0.3, 5.0]))
    assert _relative(smart_exchange(target, basis_bits=None), target) < 1e-6
    assert _relative(smart_exchange(target), target) < 5e-3


def test_coefficients_are_powers_of_two_or_zero_and_refit_helps() -> None:
    target = torch.randn(4, 24, 3, generator=torch.Generator().manual_seed(1))
    one = smart_exchange(target, iterations=1)
    many = smart_exchange(target)
    assert _relative(many, target) <= _relative(one, target) + 1e-3
    assert set(many.coefficients.abs().unique().tolist()) <= {0.0, *(2.0**e for e in EXPONENTS)}
    unit = target / target.norm(dim=1, keepdim=True)
    unfitted = _nearest_power(unit, EXPONENTS) * target.norm(dim=1, keepdim=True)
    assert _relative(one, target) <= float((unfitted - target).norm() / target.norm()) + 1e-3


def test_the_basis_is_the_least_squares_fit_to_the_coefficients() -> None:
    target = torch.randn(4, 24, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    code = smart_exchange(target, basis_bits=None)
    residual = target - code.matrices()
    assert float((code.coefficients.transpose(1, 2) @ residual).abs().max()) < 1e-9


def test_threshold_makes_zero_rows_and_storage_is_the_formula() -> None:
    target = torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(2))
    target[:, ::2] *= 0.05
    code = smart_exchange(target, threshold=0.1)
    live = int((code.coefficients != 0).any(-1).sum())
    assert 0 < live <= 30
    assert code.row_density == pytest.approx(live / 60)
    assert code.storage_bits == live * 3 * 4 + 60 + 2 * 9 * 8


@pytest.mark.parametrize(
    ("c", "k", "kernel", "stride", "groups", "size"),
    [(4, 6, 3, 1, 1, (5, 5)), (4, 6, 3, 2, 2, (7, 5)), (10, 4, 1, 1, 1, (3, 4))],
)
def test_convolution_uses_the_product(c: int, k: int, kernel: int, stride: int, groups: int, size: tuple) -> None:
    conv = nn.Conv2d(c, k, kernel, stride, kernel // 2, groups=groups)
    layer = SmartExchangeConv2d(c, k, kernel, stride, kernel // 2, groups=groups)
    layer.load_dense(conv.weight)
    flat = layer.code.matrices().flatten(1)[:, : conv.weight[0].numel()].view_as(conv.weight)
    assert torch.allclose(layer.weight, flat)
    assert float((layer.weight - conv.weight).norm() / conv.weight.norm()) < 0.25
    x = torch.randn(2, c, *size)
    assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias, stride, kernel // 2, groups=groups))
    (priced,) = layer.cost_layers("s", tuple(x.shape))
    assert (priced.weight_bits, priced.kind) == (4, "mac")
    copy = SmartExchangeConv2d(c, k, kernel, stride, kernel // 2, groups=groups)
    copy.load_state_dict(layer.state_dict())
    assert torch.equal(copy(x), layer(x))
    assert copy.code.storage_bits == layer.code.storage_bits


def test_linear_layer_projects_again_after_training() -> None:
    layer = SmartExchangeLinear(10, 6, threshold=0.05)
    assert 0 < layer.project_() < 0.5
    layer(torch.randn(3, 10)).sum().backward()
    with torch.no_grad():
        layer.weight -= 0.01 * layer.weight.grad
    assert layer.project_() < 0.3


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: smart_exchange(torch.ones(2, 2)), "matrices"),
        (lambda: smart_exchange(torch.ones(2, 2, 2), exponents=()), "exponents"),
        (lambda: smart_exchange(torch.ones(2, 2, 2), threshold=-1), "threshold"),
        (lambda: smart_exchange(torch.ones(2, 2, 2), iterations=0), "iterations"),
        (lambda: smart_exchange(torch.ones(2, 2, 2), basis_bits=1), "basis_bits"),
        (lambda: SmartExchangeLinear(2, 2, basis=0), "basis"),
    ],
)
def test_bad_arguments_are_named(call: object, named: str) -> None:
    with pytest.raises(OperatorError, match=named):
        call()
