"""Recipes of supernet training, their samplers, and weights shared through a transform."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from cosearch.config import RunConfig
from cosearch.data import Split
from cosearch.errors import RunError, UnknownNameError
from cosearch.runs import RunDirectory
from cosearch.seeding import derive
from cosearch.supernet import recipes, sampling, training
from cosearch.supernet.checkpoint import restore, save, steps_begun
from cosearch.supernet.elastic import ElasticUnit
from cosearch.supernet.sharing import SHARED_RATE, LaplaceTransform, Transformed, laplace_distance, limit_gradient
from cosearch.supernet.training import DivergedError, Recipe, make_optimizer, supernet_steps, train_supernet_epoch
from search_spaces.networks.shiftadd import space
from tests import tiny_space
from tests.supernet import awake

TINY, SPACE = tiny_space.space(), space()
EPOCHS = 12


@pytest.fixture
def few(digits) -> Split:
    return Split(digits.train.x[:128], digits.train.y[:128])


def made(name: str, heterogeneous: bool = False, epochs: int = EPOCHS, kernels: bool = False) -> recipes.SupernetRecipe:
    return recipes.make(name, TINY, TINY.supernet(0, heterogeneous, kernels), 0, Recipe(epochs))


def train(recipe, few: Split, first: int, last: int, optimizer=None):
    optimizer = optimizer or make_optimizer(recipe.supernet, recipe.settings)
    for epoch in range(first, last):
        train_supernet_epoch(recipe, optimizer, few, 0, epoch)
    return optimizer


def train_in_parts(run: RunDirectory, fresh, few: Split, cuts: tuple[int, ...]) -> None:
    """Between each two of the epochs a recipe made anew goes on from the checkpoint. fresh: makes one."""
    for first, last in itertools.pairwise(cuts):
        recipe = fresh()
        done, optimizer = restore(run, recipe, "tiny")
        assert done == first
        train(recipe, few, first, last, optimizer)
        save(run, recipe, optimizer, "tiny", last)


# -- every recipe --


@pytest.mark.parametrize(
    ("name", "heterogeneous", "kernels"),
    [*itertools.product(recipes.RECIPES, (False, True), (False,)), ("progressive", True, True)],
)
def test_a_recipe_resumes_bit_for_bit_from_any_epoch(few, tmp_path, name, heterogeneous, kernels):
    whole = RunDirectory.create(tmp_path / "whole", RunConfig())
    parts = RunDirectory.create(tmp_path / "parts", RunConfig())
    straight = made(name, heterogeneous, kernels=kernels)
    save(whole, straight, train(straight, few, 0, EPOCHS), "tiny", EPOCHS)
    cuts = (0, 3, 4, 7, 9, EPOCHS)  # on both sides of every change of stage
    train_in_parts(parts, lambda: made(name, heterogeneous, kernels=kernels), few, cuts)
    file = "supernet.safetensors"
    assert (whole.path / file).read_bytes() == (parts.path / file).read_bytes()


class StoppedHereError(Exception):
    """Training that is stopped between two steps of an epoch."""


@pytest.mark.parametrize(
    ("name", "heterogeneous"), [*itertools.product(recipes.RECIPES, (False,)), ("progressive", True)]
)
def test_a_recipe_resumes_bit_for_bit_within_every_epoch(digits, tmp_path, name, heterogeneous):
    split, settings = Split(digits.train.x[:192], digits.train.y[:192]), Recipe(8, batch_size=16)
    whole, parts = (RunDirectory.create(tmp_path / part, RunConfig()) for part in ("whole", "parts"))

    def fresh() -> recipes.SupernetRecipe:
        return recipes.make(name, TINY, TINY.supernet(0, heterogeneous), 0, settings)

    straight = fresh()
    per_epoch = supernet_steps(straight, split)
    assert per_epoch > 1
    save(whole, straight, train(straight, split, 0, 8), "tiny", 8)
    for epoch in range(8):
        recipe = fresh()
        done, optimizer = restore(parts, recipe, "tiny")
        assert (done, steps_begun(parts, optimizer, done, per_epoch)) == (epoch, 0)
        stop = per_epoch // 2

        def between(taken: int, at=stop, recipe=recipe, optimizer=optimizer, epoch=epoch) -> None:
            if taken == at:
                save(parts, recipe, optimizer, "tiny", epoch)
                raise StoppedHereError

        with pytest.raises(StoppedHereError):
            train_supernet_epoch(recipe, optimizer, split, 0, epoch, on_step=between)
        recipe = fresh()
        done, optimizer = restore(parts, recipe, "tiny")
        first = steps_begun(parts, optimizer, done, per_epoch)
        assert (done, first) == (epoch, stop)
        train_supernet_epoch(recipe, optimizer, split, 0, epoch, first=first)
        save(parts, recipe, optimizer, "tiny", epoch + 1)
    file = "supernet.safetensors"
    assert (whole.path / file).read_bytes() == (parts.path / file).read_bytes()


@pytest.mark.parametrize("name", recipes.RECIPES)
@pytest.mark.parametrize(
    "made_of", [tiny_space.uneven(), TINY.restricted("shift", "add"), TINY.restricted("add")], ids=lambda s: s.name
)
def test_a_recipe_needs_no_operator_in_every_layer(few, name, made_of):
    recipe = recipes.make(name, made_of, made_of.supernet(0), 0, Recipe(6))
    before = [parameter.detach().clone() for parameter in recipe.supernet.parameters()]
    train(recipe, few, 0, 6)
    moved = [not torch.equal(a, b) for a, b in zip(before, recipe.supernet.parameters(), strict=True)]
    assert sum(moved) > 0.9 * len(moved)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_recipe_learns_and_equal_epochs_are_equal_work(digits, name):
    recipe = made(name, epochs=6)
    runs = []
    forward = recipe.supernet.forward
    recipe.supernet.forward = lambda *a, **k: (runs.append(1), forward(*a, **k))[1]
    optimizer = make_optimizer(recipe.supernet, recipe.settings)
    losses = [train_supernet_epoch(recipe, optimizer, digits.train, 0, epoch) for epoch in range(6)]
    batches = 6 * (len(digits.train) // 64)
    assert 0.7 * batches <= len(runs) <= batches
    assert losses[-1] < losses[0]


def test_an_unknown_recipe_is_named():
    with pytest.raises(UnknownNameError, match="did you mean 'sandwich'"):
        made("sandwhich")


@pytest.mark.parametrize(
    ("operators", "networks", "expected"),
    [
        (("conv", "shift", "add"), 1440, "progressive"),
        (("conv", "shift", "add"), 5999, "progressive"),
        (("conv", "shift", "add"), 6000, "sandwich"),
        (("conv", "conv4"), 8000, "uniform"),
        (("add",), 8000, "uniform"),
        ((), 8000, "uniform"),
    ],
)
def test_the_recipe_of_a_run_that_names_none(operators, networks, expected):
    assert recipes.automatic(operators, networks) == expected


# -- samplers --


def test_strictly_fair_steps_use_every_choice_of_every_decision():
    sampler = sampling.strictly_fair(SPACE, 3)
    for step in range(4):
        archs = sampler(1, step)
        assert len(archs) == 19
        for name, options in SPACE.choices.items():
            times = [sum(arch[name] == option for arch in archs) for option in options]
            assert min(times) == 1
            assert max(times) == (1 if len(options) == 19 else 2)
    assert sampler(1, 0) == sampling.strictly_fair(SPACE, 3)(1, 0)
    assert sampler(1, 0) != sampler(1, 1) != sampler(2, 1)


def test_sandwich_steps_have_both_ends():
    archs = sampling.sandwich(SPACE, 0)(0, 0)
    macs = [SPACE.workload(arch).macs for arch in archs]
    assert len(archs) == 4
    assert macs[0] == max(macs)
    assert macs[1] == min(macs)
    drawn = [SPACE.workload(SPACE.sample(np.random.default_rng(i))).macs for i in range(50)]
    assert macs[1] <= min(drawn) <= max(drawn) <= macs[0]


def test_guided_sampling_follows_the_budget_and_leaves_nothing_out():
    def within(arch) -> bool:
        return SPACE.workload(arch).macs < 200_000

    plain, guided = sampling.uniform(SPACE, 0), sampling.guided(sampling.uniform(SPACE, 0), within)
    share = np.mean([within(plain(0, i)[0]) for i in range(400)])
    found = np.mean([within(guided(0, i)[0]) for i in range(400)])
    expected = 1 - (1 - share) ** sampling.GUIDED_TRIES
    assert 0.02 < share < 0.9
    assert found == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 400) ** 0.5)
    assert found < 1
    assert guided(0, 7) == guided(0, 7)


def test_sandwich_steps_follow_the_budget_between_their_ends():
    def within(arch) -> bool:
        return SPACE.workload(arch).macs < 200_000

    recipe = recipes.sandwich(SPACE, SPACE.supernet(0), 0, Recipe(1), within)
    plain, guided = sampling.sandwich(SPACE, 0), sampling.sandwich(SPACE, 0, within=within)
    share = np.mean([within(arch) for i in range(200) for arch in plain(0, i)[2:]])
    found = np.mean([within(arch) for i in range(200) for arch in guided(0, i)[2:]])
    expected = 1 - (1 - share) ** sampling.GUIDED_TRIES
    assert 0.02 < share < 0.9
    assert found == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 400) ** 0.5)
    assert guided(0, 7)[:2] == plain(0, 7)[:2]
    assert len(guided(0, 7)) == recipe.paths == 4


@pytest.mark.parametrize("name", [name for name in recipes.RECIPES if name != "fair"])
def test_every_recipe_but_the_fair_one_follows_the_budget(few, name):
    asked = []

    def within(arch) -> bool:
        asked.append(arch)
        return True

    recipe = recipes.make(name, TINY, TINY.supernet(0), 0, Recipe(2), within)
    train(recipe, few, 0, 1)
    assert asked


# -- progressive --


def test_progressive_stages_have_exactly_the_stated_gradients_and_choices(few):
    recipe = made("progressive", epochs=12)
    seen: dict[int, set[str]] = {}
    blueprint = TINY.blueprint
    drawn: list[str] = []

    class Spy:
        choices, largest_of = TINY.choices, TINY.largest_of

        @staticmethod
        def blueprint(arch):
            drawn.extend(arch.values())
            return blueprint(arch)

    recipe = recipes.progressive(Spy, recipe.supernet, 0, recipe.settings)
    optimizer = make_optimizer(recipe.supernet, recipe.settings)
    moved: dict[int, set[str]] = {}
    for epoch in range(12):
        before = {n: p.detach().clone() for n, p in recipe.supernet.named_parameters()}
        drawn.clear()
        train_supernet_epoch(recipe, optimizer, few, 0, epoch)
        seen[epoch] = set(drawn)
        moved[epoch] = {n for n, p in recipe.supernet.named_parameters() if not torch.equal(p, before[n])}
    first, second = set.union(*(seen[e] for e in range(4))), set.union(*(seen[e] for e in range(4, 8)))
    assert not any(choice.startswith("add") for choice in first)
    assert any(choice.startswith("add") for choice in second)
    assert {c for c in seen[0] | seen[1] if c != "skip"} == {"conv_k5_e6"}
    searchable = [n for n in moved[11] if "layer" in n]
    assert any(".linear" in n for n in searchable)
    for epoch in range(4, 8):
        assert not [n for n in moved[epoch] if "layer" in n and (".linear" in n or n.endswith(("conv", "shift")))]
        assert "units.stem.weights.linear.0" in moved[epoch]
    assert any("adder" in n for e in range(4, 8) for n in moved[e])


@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
def test_progressive_training_of_few_epochs_ends_with_all_weights(few, epochs):
    recipe = made("progressive", epochs=epochs)
    optimizer = train(recipe, few, 0, epochs - 1)
    before = [parameter.detach().clone() for parameter in recipes.multiplying_parameters(recipe.supernet)]
    train(recipe, few, epochs - 1, epochs, optimizer)
    after = recipes.multiplying_parameters(recipe.supernet)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_progressive_rates_anneal_in_each_stage():
    recipe = made("progressive", epochs=12)
    rates = [recipe.rate(recipe.settings, step, 120) for step in range(120)]
    peaks = [i for i in range(1, 119) if rates[i - 1] < rates[i] >= rates[i + 1]]
    assert len(peaks) == 3
    assert all(rates[i] < 0.01 * recipe.settings.learning_rate for i in (39, 79, 119))


def test_additions_start_from_the_gains_of_convolutions():
    unit = next(u for u in recipes.elastic_units(SPACE.supernet(0)) if "add" in u.gamma)
    with torch.no_grad():
        unit.gamma["conv"].uniform_(generator=torch.Generator().manual_seed(0))
        unit.beta["conv"].fill_(0.25)
    recipes.inherit_gains(unit)
    assert torch.equal(unit.gamma["add"], unit.gamma["conv"])
    assert bool((unit.beta["add"] == 0.25).all())


# -- fair --


def groups_of(recipe, split: Split, epochs: int):
    """Of every update the networks before it (arch, images, labels), and the gradients that it takes."""
    ran, updates = [], []
    forward, optimizer = recipe.supernet.forward, make_optimizer(recipe.supernet, recipe.settings)
    update = optimizer.step

    def noted(x, blueprint, *rest):
        ran.append((blueprint, x))
        return forward(x, blueprint, *rest)

    def taken() -> None:
        gradients = {name: p.grad.clone() for name, p in recipe.supernet.named_parameters() if p.grad is not None}
        updates.append((list(ran), gradients))
        ran.clear()
        update()

    recipe.supernet.forward, optimizer.step = noted, taken
    counts = []
    for epoch in range(epochs):
        before = sum(len(networks) for networks, _ in updates) + len(ran)
        train_supernet_epoch(recipe, optimizer, split, 0, epoch)
        counts.append(sum(len(networks) for networks, _ in updates) + len(ran) - before)
    return updates, counts


def test_fair_epochs_run_a_network_on_each_batch_however_many_choices_there_are(digits):
    """Three batches an epoch, fewer than the five networks of an update."""
    recipe, split = made("fair", epochs=7), Split(digits.train.x[:192], digits.train.y[:192])
    updates, counts = groups_of(recipe, split, 7)
    assert counts == [3] * 7
    assert [len(networks) for networks, _ in updates] == [5, 5, 5, 5, 1]  # the training ends in the last
    for networks, _ in updates[:4]:
        ops = [blueprint.convolutions[1].op for blueprint, _ in networks]
        assert {"conv", "shift", "add"} <= set(ops)
        assert len({x.data_ptr() for _, x in networks}) == 5
    images = torch.cat([x.flatten(1) for networks, _ in updates for _, x in networks])
    assert len(images) == 7 * 192


def test_a_fair_update_is_the_sum_over_the_root_of_how_many_networks_use_a_weight(digits):
    recipe, split = made("fair", epochs=2), Split(digits.train.x[:320], digits.train.y[:320])
    fresh, labels = made("fair").supernet, {}
    for x, y in training.batches(split, recipe.settings, False, derive(0, "supernet"), 0, "cpu"):
        labels[x.numpy().tobytes()] = y
    [(networks, gradients), *_], _ = groups_of(recipe, split, 1)
    assert len(networks) == 5
    summed: dict[str, torch.Tensor] = {}
    times: dict[str, int] = {}
    for blueprint, x in networks:
        loss = F.cross_entropy(fresh(x, blueprint), labels[x.numpy().tobytes()], label_smoothing=0.05)
        named = dict(fresh.named_parameters())
        for name, gradient in zip(named, torch.autograd.grad(loss, named.values(), allow_unused=True), strict=True):
            if gradient is not None:
                summed[name] = summed.get(name, 0) + gradient
                times[name] = times.get(name, 0) + 1
    assert set(times.values()) > {1, 5}
    assert set(gradients) == set(summed)
    for name in summed:
        if "adder" not in name:  # those have AdderNet's length by now
            assert torch.allclose(gradients[name], summed[name] / times[name] ** 0.5, rtol=1e-3, atol=1e-6), name


def test_gradients_are_saved_while_they_wait_only(digits, tmp_path):
    run, split = RunDirectory.create(tmp_path / "run", RunConfig()), Split(digits.train.x[:320], digits.train.y[:320])
    recipe, optimizer = made("fair"), None
    optimizer = make_optimizer(recipe.supernet, recipe.settings)
    waiting = []

    def between(taken: int) -> None:
        save(run, recipe, optimizer, "tiny", 0)
        tensors, _ = run.load_tensors("supernet.safetensors")
        waiting.append(sum(name.startswith("gradient.") for name in tensors))

    train_supernet_epoch(recipe, optimizer, split, 0, 0, on_step=between)
    save(run, recipe, optimizer, "tiny", 1)
    tensors, _ = run.load_tensors("supernet.safetensors")
    assert waiting == sorted(waiting)
    assert waiting[0] > 0
    assert len(waiting) == 4
    assert not any(name.startswith("gradient.") for name in tensors)
    with torch.no_grad():
        damaged = {**tensors, "gradient.units.stem.weights.linear.0": torch.zeros(2)}
    _, described = run.load_tensors("supernet.safetensors")
    run.save_tensors("supernet.safetensors", damaged, described)
    with pytest.raises(RunError, match="the gradients in it do not fit the weights"):
        restore(run, made("fair"), "tiny")


# -- pruning --


def test_masks_settle_when_five_of_them_agree():
    generator = torch.Generator().manual_seed(0)
    steady, restless = recipes.EarlyBird(1000), recipes.EarlyBird(1000)
    mask = (torch.rand(1000, generator=generator) < 0.5).to(torch.uint8)
    assert [steady.settled(mask) for _ in range(6)] == [False] * 4 + [True] * 2
    masks = (torch.rand((20, 1000), generator=generator) < 0.5).to(torch.uint8)
    assert not any(restless.settled(m) for m in masks)
    assert float(recipes.mask_distance(masks[0], masks[1])) == pytest.approx(0.5, abs=0.06)
    assert recipes.mask_distance(masks[0], masks[1]) == recipes.mask_distance(masks[1], masks[0])


def test_weights_are_pruned_more_in_each_period_and_train_again_in_between(few):
    recipe = made("prune", epochs=24)
    optimizer = make_optimizer(recipe.supernet, recipe.settings)
    shares = []
    while len(shares) < recipe.epochs:
        train_supernet_epoch(recipe, optimizer, few, 0, len(shares))
        weights = torch.cat([w.detach().flatten() for w in recipes.prunable(recipe.supernet)])
        shares.append(float((weights == 0).double().mean()))
    start = int(recipe.state.start)
    assert 4 <= start <= 8
    assert len(shares) == start + 16
    assert not any(shares[:start])
    for epoch in range(start, len(shares)):
        period, _, masked = recipes.pruning_phase(epoch, start, len(shares))
        assert shares[epoch] >= 0.95 * 0.5 * (period + 1) / 4 if masked else shares[epoch] < 0.2
    assert shares[-1] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("distance", "start"), [(1.1, 5), (0.0, 8)], ids=["settled as soon as can be", "never"])
def test_dense_training_ends_when_the_mask_has_settled_and_with_it_the_training(few, monkeypatch, distance, start):
    """Five masks at the earliest, none of them of untrained gains; a third of the epochs at most."""
    monkeypatch.setattr(recipes, "MASK_DISTANCE", distance)
    recipe = made("prune", epochs=24)
    optimizer, epochs = make_optimizer(recipe.supernet, recipe.settings), 0
    assert recipe.epochs == 24
    while epochs < recipe.epochs:
        train_supernet_epoch(recipe, optimizer, few, 0, epochs)
        epochs += 1
    assert int(recipe.state.start) == start
    assert epochs == start + 16


def test_a_training_that_ended_early_is_resumed_bit_for_bit_and_is_known_to_have_ended(few, tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "MASK_DISTANCE", 1.1)
    whole, parts = (RunDirectory.create(tmp_path / part, RunConfig()) for part in ("whole", "parts"))
    straight = made("prune", epochs=24)
    save(whole, straight, train(straight, few, 0, 21), "tiny", 21)
    train_in_parts(parts, lambda: made("prune", epochs=24), few, (0, 4, 5, 6, 9, 13, 20, 21))
    file = "supernet.safetensors"
    assert (whole.path / file).read_bytes() == (parts.path / file).read_bytes()
    assert restore(parts, made("prune", epochs=24), "tiny") == (21, None)


def test_rates_are_high_until_the_mask_has_settled_and_anneal_to_the_end():
    recipe, per_epoch = made("prune", epochs=24), 5
    dense = [recipe.rate(recipe.settings, step, 24 * per_epoch) for step in range(5 * per_epoch)]
    full = recipe.settings.learning_rate
    assert dense[0] < full
    assert dense[8:] == [full] * (len(dense) - 8)
    recipe.state.start.fill_(5)
    pruning = [recipe.rate(recipe.settings, step, 21 * per_epoch) for step in range(5 * per_epoch, 21 * per_epoch)]
    assert pruning[0] == full
    assert pruning[len(pruning) // 2] == pytest.approx(full / 2)
    assert (np.diff(pruning) < 0).all()
    assert pruning[-1] < 0.001 * full


def test_gains_are_penalised_while_their_mask_is_looked_for(few):
    recipe = made("prune", epochs=24)
    x, y = torch.from_numpy(few.x[:64]), torch.from_numpy(few.y[:64])
    gained = recipes.gains(recipe.supernet)
    for start, penalty in ((-1, 1e-4), (5, 0.0)):
        recipe.state.start.fill_(start)
        for gain in gained:
            gain.grad = None
        with torch.no_grad():
            gained[0].neg_()
        recipe.step(x, y, 0, 0)
        before = [None if gain.grad is None else gain.grad.clone() for gain in gained]
        recipe.after_backward(0)
        assert any(gradient is None for gradient in before)
        for gain, gradient in zip(gained, before, strict=True):
            if gradient is None:
                assert gain.grad is None
            else:
                assert torch.allclose(gain.grad - gradient, penalty * gain.detach().sign(), atol=1e-7)


def test_the_smallest_weights_go_in_units_of_their_tensors_spread():
    small, large = (
        torch.nn.Parameter(s * torch.randn(5000, generator=torch.Generator().manual_seed(0))) for s in (1, 50)
    )
    kept = small.detach().abs() > small.detach().abs().quantile(0.3)
    recipes.zero_smallest([small, large], 0.3)
    assert torch.equal(small != 0, kept)
    assert torch.equal(large != 0, kept)


# -- architecture parameters --


def test_gates_are_one_and_carry_the_gradient_of_their_share():
    logits = recipes.ArchitectureLogits(TINY.choices)
    arch, gates = logits.draw(1.0, torch.Generator().manual_seed(0))
    TINY.check(arch)
    assert all(float(gate.detach()) == 1.0 for gate in gates.values())
    sum(gates.values()).backward()
    for (name, options), parameter in zip(TINY.choices.items(), logits.logits, strict=True):
        chosen = options.index(arch[name])
        assert parameter.grad[chosen] > 0
        assert float(parameter.grad.sum()) == pytest.approx(0.0, abs=1e-6)


def test_choices_are_drawn_as_often_as_is_probable():
    logits = recipes.ArchitectureLogits({"a": ("x", "y", "z")})
    with torch.no_grad():
        logits.logits[0].copy_(torch.log(torch.tensor([0.5, 0.3, 0.2])))
    generator = torch.Generator().manual_seed(1)
    drawn = [logits.draw(0.7, generator)[0]["a"] for _ in range(3000)]
    found = [drawn.count(c) / 3000 for c in "xyz"]
    assert found == pytest.approx([0.5, 0.3, 0.2], abs=0.03)
    assert np.exp(list(logits.of_choices()["a"].values())) == pytest.approx([0.5, 0.3, 0.2])


def test_a_gate_scales_what_a_block_adds(digits):
    supernet, x = awake(SPACE.supernet(0)).train(), torch.from_numpy(digits.train.x[:32])
    arch = dict.fromkeys(SPACE.choices, "conv_k3_e3")
    blueprint = SPACE.blueprint(arch)
    gated = recipes.gated_steps(blueprint, list(SPACE.choices))
    assert gated == {f"{name}.project": name for name in SPACE.choices}
    with torch.no_grad():
        plain = supernet(x, blueprint)
        assert torch.equal(plain, supernet(x, blueprint, gates=dict.fromkeys(gated, torch.tensor(1.0))))
        skipped = supernet(x, SPACE.blueprint({**arch, "layer2": "skip"}))
        closed = supernet(x, blueprint, gates={"layer2.project": torch.tensor(0.0)})
    assert torch.allclose(closed, skipped, atol=1e-5)


@pytest.mark.parametrize("epochs", [6, 12])
def test_logits_go_as_far_in_few_steps_as_in_many(few, epochs):
    """Adam moves a logit by its rate in each step, if the gradient keeps its sign."""
    recipe = recipes.make("gumbel", TINY, TINY.supernet(0), 0, Recipe(epochs))
    assert set(recipes.learned_logits(recipe)["layer1"].values()) == {0.0}
    train(recipe, few, 0, epochs // 2)
    assert set(recipes.learned_logits(recipe)["layer1"].values()) == {0.0}
    train(recipe, few, epochs // 2, epochs)
    moved = max(abs(logit) for choices in recipes.learned_logits(recipe).values() for logit in choices.values())
    assert recipes.TRAVEL / 4 < moved < 1.1 * recipes.TRAVEL
    assert recipes.learned_logits(made("uniform")) is None


def test_logits_and_weights_take_turns_in_epochs_of_one_batch_too(digits):
    recipe, one = made("gumbel", epochs=8), Split(digits.train.x[:64], digits.train.y[:64])
    optimizer, moved = train(recipe, one, 0, 4), []
    for epoch in range(4, 8):
        before = [[p.detach().clone() for p in module.parameters()] for module in (recipe.supernet, recipe.state)]
        train(recipe, one, epoch, epoch + 1, optimizer)
        after = [module.parameters() for module in (recipe.supernet, recipe.state)]
        changes = (
            (not torch.equal(a, b) for a, b in zip(*pair, strict=True)) for pair in zip(before, after, strict=True)
        )
        moved.append(tuple(map(any, changes)))
    assert moved == [(True, False), (False, True)] * 2


def test_architecture_logits_that_are_spoilt_are_not_saved(few, monkeypatch):
    recipe = recipes.make("gumbel", TINY, TINY.supernet(0), 0, Recipe(6))
    monkeypatch.setattr(recipes, "TRAVEL", float("nan"))
    optimizer = train(recipe, few, 0, 3)  # weights alone
    with pytest.raises(DivergedError, match="a weight became infinite or NaN in epoch 4 of the supernet"):
        train(recipe, few, 3, 4, optimizer)


# -- weights shared through a transform --


def test_gains_of_one_are_the_identity_and_the_extremes_keep_their_weights():
    transform = LaplaceTransform()
    full = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(transform(full, full), full)
    with torch.no_grad():
        transform.gains.copy_(torch.arange(1.0, 31.0))
    out = transform(full, full)
    low, high = full.argmin(), full.argmax()
    assert float(out.flatten()[high]) == pytest.approx(30 * float(full.max()))
    assert float(out.flatten()[low]) == pytest.approx(float(full.min()))
    assert torch.equal(transform(full[:2, :3], full), out[:2, :3])


def test_gradients_of_a_transform_are_those_of_indexing():
    transform = LaplaceTransform(5).double()
    full = torch.randn(6, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        transform.gains.copy_(torch.tensor([0.5, 2.0, 1.0, 3.0, 0.1]))
    view = full[:4, :, 1:2, 1:2].clone().requires_grad_()
    width = (full.max() - full.min()) / 5
    bins = ((view.detach() - full.min()) / width).long().clamp(0, 4)
    expected = torch.autograd.grad((view * transform.gains[bins]).pow(3).sum(), [view, transform.gains])
    found = torch.autograd.grad(transform(view, full).pow(3).sum(), [view, transform.gains])
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-12)


def test_laplace_distance_is_least_for_laplacian_weights_and_ignores_scale():
    rng = np.random.default_rng(0)
    laplace, normal = (torch.from_numpy(d.rvs(size=4000, random_state=rng)) for d in (stats.laplace, stats.norm))
    assert float(laplace_distance(laplace)) < 0.1 < float(laplace_distance(normal))
    assert float(laplace_distance(7 * normal)) == pytest.approx(float(laplace_distance(normal)))
    n = 999
    quantiles = torch.from_numpy(stats.laplace.ppf((np.arange(n) + 0.5) / n))
    assert float(laplace_distance(quantiles)) < 0.005


def test_the_gradient_of_the_laplace_distance_is_that_of_its_formula():
    weights = torch.randn(7, 3, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ordered = weights.flatten().sort().values
    level = (torch.arange(21, dtype=torch.float64) + 0.5) / 21 - 0.5
    written_out = (ordered / ordered.abs().mean() + level.sign() * torch.log1p(-2 * level.abs())).abs().mean()
    assert float(laplace_distance(weights)) == pytest.approx(float(written_out))
    assert torch.autograd.gradcheck(laplace_distance, (weights,))


def test_learning_the_gains_makes_gaussian_weights_laplacian():
    full = torch.randn(4000, generator=torch.Generator().manual_seed(0)) * 0.1
    transform = LaplaceTransform()
    transform.initialise(full)
    assert float(transform(full, full).std()) == pytest.approx(1.0, abs=0.02)
    before = float(laplace_distance(transform(full, full)))
    optimizer = torch.optim.Adam(transform.parameters(), lr=0.2)
    for _ in range(200):
        optimizer.zero_grad()
        laplace_distance(transform(full, full)).backward()
        optimizer.step()
    assert float(laplace_distance(transform(full, full))) < 0.4 * before


def test_gradients_through_a_transform_have_adder_nets_length_in_the_shared_weights():
    full = torch.nn.Parameter(0.1 * torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0)))
    transform = LaplaceTransform()
    transform.initialise(full)
    weight = transform(full, full)
    limit_gradient(Transformed(weight, transform.gains), 0.5)
    (weight * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    root_mean_square = float(full.grad.square().mean().sqrt())
    expected = SHARED_RATE * 0.5 * float(full.detach().std(correction=0))
    assert root_mean_square == pytest.approx(expected, rel=1e-4)


def test_shared_weights_are_stored_once_and_extracted_transformed(digits):
    shared, separate = awake(SPACE.supernet(0, True)), SPACE.supernet(0)
    sizes = [sum(p.numel() for p in net.parameters()) for net in (shared, separate)]
    assert sizes[0] < 0.8 * sizes[1]
    assert shared.adder_parameters() == []
    unit = shared.units["layer2-expand"]
    assert isinstance(unit, ElasticUnit)
    x = torch.from_numpy(digits.train.x[:64])
    blueprint = SPACE.blueprint(dict.fromkeys(SPACE.choices, "add_k3_e3"))
    network = shared.extract(blueprint).train()
    with torch.no_grad():
        assert torch.allclose(network(x), shared.train()(x, blueprint), atol=2e-3, rtol=1e-3)
    transformed: list[Transformed] = []
    F.cross_entropy(shared(x, blueprint, transformed), torch.from_numpy(digits.train.y[:64])).backward()
    assert len(transformed) == 3 * len(SPACE.choices)
    assert unit.transforms["adder"].gains.grad.abs().sum() > 0
    assert unit.weights["linear"][0].grad.abs().sum() > 0


def test_a_space_of_additions_alone_keeps_their_own_weights():
    supernet = SPACE.restricted("add").supernet(0, True)
    assert supernet.adder_parameters()
    assert not any(unit.transforms for unit in recipes.elastic_units(supernet))
