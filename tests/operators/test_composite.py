import pytest
import torch

from cosearch.errors import OperatorError
from cosearch.operators import ShiftAddConv2d, ShiftConv2d, integer_add_conv2d, integer_shift_conv2d


def _identity(layer: ShiftConv2d) -> None:
    """Exponent 0 and sign 1 at the centre of each channel's own kernel."""
    channels = torch.arange(layer.out_channels)
    own = channels % (layer.in_channels // layer.groups)
    with torch.no_grad():
        layer.shift.zero_()
        layer.sign.zero_()
        layer.sign[channels, own, layer.kernel_size[0] // 2, layer.kernel_size[1] // 2] = 1.0


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_identity_shift_leaves_the_adder_alone(groups: int) -> None:
    layer = ShiftAddConv2d(6, 6, 3, padding=1, groups=groups, activation_bits=None)
    _identity(layer.shift)
    x = torch.randn(2, 6, 5, 7)
    assert torch.equal(layer(x), layer.add(x))


def test_a_frozen_shift_leaves_gradients_to_the_adder_only() -> None:
    layer = ShiftAddConv2d(4, 6, 3, stride=2, padding=1, frozen_shift=True)
    layer(torch.randn(2, 4, 7, 7)).sum().backward()
    with_gradient = {name for name, p in layer.named_parameters() if p.grad is not None}
    assert with_gradient == {"add.weight", "add.bias"}


def test_both_halves_are_priced() -> None:
    first, second = ShiftAddConv2d(4, 6, 3, stride=2, padding=1).cost_layers("c", (2, 4, 7, 7))
    assert (first.kind, first.C, first.K, first.P) == ("shift", 4, 6, 4)
    assert (second.kind, second.C, second.K, second.P) == ("add", 6, 6, 4)


def test_integer_form_equals_the_module() -> None:
    layer = ShiftAddConv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False, bits=3).double()
    x = torch.randint(-100, 100, (2, 4, 7, 5))
    total, exponent = integer_shift_conv2d(x, layer.shift.codes(), 2, 1, 1, 2)
    with torch.no_grad():  # adder weights on the step of the shift's sums
        layer.add.weight.copy_(torch.randint(-50, 50, layer.add.weight.shape) * 2.0**exponent)
    weight = (layer.add.weight.detach() / 2.0**exponent).long()
    response = integer_add_conv2d(total, weight, 1, 1, 1, 2)
    assert torch.equal(layer(x.double()), response.double() * 2.0**exponent)


def test_adder_overflow_is_an_error() -> None:
    with pytest.raises(OperatorError, match="accumulator_bits"):
        integer_add_conv2d(torch.full((1, 8, 1, 1), 127), torch.full((1, 8, 1, 1), -127), accumulator_bits=11)


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(OperatorError, match="kernel_size"):
        ShiftAddConv2d(4, 4, 2)
