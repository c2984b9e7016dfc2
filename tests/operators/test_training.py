"""Every operator learns: a small network on the digits data, each operator in place of the two inner convolutions.

One recipe for all: batch norm and ReLU after each, SGD with momentum 0.9, weight decay 5e-4, learning rate 0.05 with
a cosine to 0, batch 64, 12 epochs, `scale_add_gradients` before each step; form ps of shift, whose random exponents
start most weights near zero, takes RAdam at 0.01 without decay, 30 epochs and `clamp_shifts` after each step.
"""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cosearch import operators

EPOCHS, BATCH = 12, 64

CASES: dict[str, Callable[..., nn.Module]] = {
    "conv": nn.Conv2d,
    "shift q": operators.ShiftConv2d,
    "shift ps": lambda *a: operators.ShiftConv2d(*a, form="ps"),
    "add": operators.AddConv2d,
    "shift_add": lambda *a: operators.ShiftAddConv2d(*a, form="q"),
    "butterfly": lambda *a: operators.ButterflyConv2d(*a, compression=4),
    "svd": lambda *a: operators.LowRankConv2d(*a, rank=0.25),
    "tucker": lambda *a: operators.TuckerConv2d(*a, ranks=0.5),
    "spatial": lambda *a: operators.SpatialConv2d(*a, rank=0.25),
    "pruned": lambda *a: _pruned(*a),
    "quantised 4/4": lambda *a: operators.QuantConv2d(*a, weight_bits=4, activation_bits=4),
    "quantised 2/2": lambda *a: operators.QuantConv2d(*a, weight_bits=2, activation_bits=2),
    "smartexchange": operators.SmartExchangeConv2d,
    "pecan angle": lambda *a: operators.PecanConv2d(*a, form="angle"),
    "pecan distance": lambda *a: operators.PecanConv2d(*a, prototypes=32, width=3),
}


def _pruned(*arguments: int) -> nn.Module:
    layer = operators.MaskedConv2d(*arguments)
    layer.prune("unstructured", 0.25)
    return layer


def _digits() -> tuple[torch.Tensor, ...]:
    datasets = pytest.importorskip("sklearn.datasets")
    selection = pytest.importorskip("sklearn.model_selection")
    x, y = datasets.load_digits(return_X_y=True)
    parts = selection.train_test_split(x / 8 - 1, y, test_size=0.25, random_state=0, stratify=y)
    images = [torch.tensor(p, dtype=torch.float32).view(-1, 1, 8, 8) for p in parts[:2]]
    return *images, torch.tensor(parts[2]), torch.tensor(parts[3])


def _network(conv: Callable[..., nn.Module]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        conv(16, 32, 3, 2, 1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        conv(32, 32, 3, 1, 1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def _between_epochs(net: nn.Sequential, x: torch.Tensor, epoch: int) -> None:
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, operators.PecanConv2d):
                layer.set_progress(epoch / EPOCHS)
                if epoch == 0:
                    layer.calibrate(x)
            elif isinstance(layer, operators.SmartExchangeConv2d) and epoch > 0:
                layer.project_()
            x = layer(x)


def train_and_test(name: str) -> float:
    """Test accuracy of the network with one operator."""
    torch.manual_seed(0)
    x, x_test, y, y_test = _digits()
    net, epochs = _network(CASES[name]), EPOCHS
    if name == "shift ps":
        epochs = 30
        optimiser: torch.optim.Optimizer = torch.optim.RAdam(net.parameters(), lr=0.01)
    else:
        optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * (len(x) // BATCH))
    for epoch in range(epochs):
        _between_epochs(net.train(), x[:256], epoch)
        order = torch.randperm(len(x))
        for start in range(0, len(x) - BATCH + 1, BATCH):
            batch = order[start : start + BATCH]
            optimiser.zero_grad()
            F.cross_entropy(net(x[batch]), y[batch]).backward()
            operators.scale_add_gradients(net)
            optimiser.step()
            operators.clamp_shifts(net)
            schedule.step()
    _between_epochs(net.eval(), x_test[:1], EPOCHS)
    with torch.no_grad():
        return float((net(x_test).argmax(1) == y_test).float().mean())


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES))
def test_accuracy_on_digits(name: str) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny layers: threads only wait for one another
    accuracy = train_and_test(name)
    torch.set_num_threads(before)
    print(f"{name}: {accuracy:.4f}")
    assert accuracy >= (0.98 if name == "conv" else 0.95)


def test_a_few_steps_of_the_adder_lower_the_loss() -> None:
    torch.manual_seed(0)
    net, x, y = _network(operators.AddConv2d), torch.randn(64, 1, 8, 8), torch.arange(64) % 10
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        operators.scale_add_gradients(net)
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
