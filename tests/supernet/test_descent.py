import torch
from torch import nn

from cosearch.supernet.descent import SGD


def moved_by(make, steps: int = 6) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Weights and momenta after steps in which not every weight has a gradient, at rates that change."""
    torch.manual_seed(0)
    net = nn.ModuleList([nn.Conv2d(3, 5, 3), nn.Linear(7, 4), nn.Linear(2, 2)])
    net[0].to(memory_format=torch.channels_last)
    decayed, plain = [p for p in net.parameters() if p.ndim > 1], [p for p in net.parameters() if p.ndim == 1]
    optimizer = make([{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0, "lr": 0.3}])
    for step in range(steps):
        optimizer.zero_grad()
        optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        loss = net[0](torch.randn(2, 3, 4, 4)).square().sum()
        if step % 3:  # the first gradient of the others comes later, and one never
            loss = loss + net[1](torch.randn(3, 7)).square().sum()
        loss.backward()
        optimizer.step()
    state = [optimizer.state[p].get("momentum_buffer", torch.zeros(0)) for p in net.parameters()]
    return [p.detach() for p in net.parameters()], state


def test_steps_are_those_of_torch_bit_for_bit():
    def of_torch(groups):
        return torch.optim.SGD(groups, lr=0.2, momentum=0.9, nesterov=True, foreach=True)

    for ours, theirs in zip(moved_by(lambda groups: SGD(groups, 0.2, 0.9)), moved_by(of_torch), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b)
            assert a.stride() == b.stride()


def test_a_weight_without_a_gradient_stays_and_has_no_momentum():
    weight, idle = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = SGD([{"params": [weight, idle], "weight_decay": 0.1}], 0.5, 0.9)
    (2 * weight).sum().backward()
    optimizer.step()
    assert torch.allclose(weight, torch.full((2,), 1 - 0.5 * 1.9 * 2.1))  # momentum starts as the gradient, 2 + 0.1
    assert torch.equal(idle, torch.ones(2))
    assert set(optimizer.state[weight]) == {"momentum_buffer"}
    assert not optimizer.state[idle]
    optimizer.zero_grad()
    assert weight.grad is None
