import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cosearch.errors import OperatorError
from cosearch.operators.butterfly import (
    ButterflyConv2d,
    ButterflyLinear,
    _fit_factor,
    alternating_least_squares,
    apply_chain,
    chain_from_factors,
    chain_matrix,
    chain_parameters,
    chain_shape,
    factor_matrix,
    generate_chain,
    hierarchical_svd,
    make_chain,
)
from tests.references import butterfly as reference

CHAINS = [((4, 2, 8), (2, 9, 4)), ((4, 3), (3, 5)), ((2, 2, 2), (2, 2, 2)), ((6,), (4,)), ((2, 3, 2, 2), (3, 2, 2, 2))]


def _random_chain(r: tuple, s: tuple, seed: int = 0) -> tuple:
    chain = make_chain(r, s)
    generator = torch.Generator().manual_seed(seed)
    return chain, [torch.randn(f.shape, generator=generator, dtype=torch.float64) for f in chain]


def test_the_published_example_has_its_widths_and_parameters() -> None:
    chain = make_chain((4, 2, 8), (2, 9, 4))
    assert [chain[0].q, *(f.p for f in chain)] == [72, 144, 32, 64]
    assert chain_parameters(chain) == 832
    assert chain_shape(chain) == "bulging"
    assert chain_shape(make_chain((2, 2, 2), (2, 2, 2))) == "monotone"


def test_a_chain_that_reaches_a_quarter_of_the_entries_is_refused() -> None:
    factors = [(64, 64, 2, 2, 1), (128, 64, 4, 2, 2), (128, 128, 2, 2, 8), (128, 128, 2, 2, 16)]
    with pytest.raises(OperatorError, match="chain"):
        chain_from_factors(factors)
    good = make_chain((4, 2, 8), (2, 9, 4))
    assert chain_from_factors([(f.p, f.q, f.r, f.s, f.t) for f in good]) == good


@pytest.mark.parametrize(("r", "s"), CHAINS)
def test_all_ones_make_a_matrix_of_ones_and_counts_match(r: tuple, s: tuple) -> None:
    chain = make_chain(r, s)
    ones = [torch.ones(f.shape) for f in chain]
    assert torch.equal(chain_matrix(ones, chain), torch.ones(math.prod(r), math.prod(s)))
    for f, w in zip(chain, ones, strict=True):
        assert int(factor_matrix(w, f).count_nonzero()) == f.parameters == w.numel()


@pytest.mark.parametrize(("r", "s"), CHAINS)
def test_layers_equal_the_dense_product_of_the_reference(r: tuple, s: tuple) -> None:
    chain, weights = _random_chain(r, s)
    dense = np.eye(chain[0].q)
    for w in weights:
        dense = reference.factor(w.numpy()) @ dense
    layer = ButterflyLinear(chain[0].q, chain[-1].p, bias=False, chain=chain).double()
    with torch.no_grad():
        for parameter, w in zip(layer.factors, weights, strict=True):
            parameter[0].copy_(w)
    x = torch.randn(3, 2, chain[0].q, dtype=torch.float64)
    assert torch.allclose(layer(x), x @ torch.from_numpy(dense).T, atol=1e-10)
    assert torch.allclose(layer.dense_weight(), torch.from_numpy(dense), atol=1e-12)


@pytest.mark.parametrize(
    ("c", "k", "kernel", "stride", "padding", "groups", "size"),
    [
        (8, 12, 3, 1, 1, 1, (5, 7)),
        (8, 16, 3, 2, 1, 2, (7, 9)),
        (16, 8, 1, 1, 0, 1, (3, 5)),
        (16, 24, 1, 2, 0, 2, (5, 5)),
    ],
)
def test_convolution_equals_its_dense_weight(
    c: int, k: int, kernel: int, stride: int, padding: int, groups: int, size: tuple
) -> None:
    layer = ButterflyConv2d(c, k, kernel, stride, padding, groups=groups, compression=1.5).double()
    x = torch.randn(2, c, *size, dtype=torch.float64)
    expected = F.conv2d(x, layer.dense_weight(), layer.bias, stride, padding, groups=groups)
    assert torch.allclose(layer(x), expected, atol=1e-10)
    layers = layer.cost_layers("b", tuple(x.shape))
    assert sum(one.weight_count for one in layers) == sum(w.numel() for w in layer.factors)
    assert all(one.groups % groups == 0 for one in layers)


def test_gradcheck() -> None:
    layer = ButterflyConv2d(4, 4, 3, 2, 1, groups=1, chain=make_chain((2, 2), (4, 9))).double()
    x = torch.randn(1, 4, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, *_: layer(v), (x, *layer.parameters()))


@pytest.mark.parametrize(("r", "s"), CHAINS)
def test_hierarchical_svd_recovers_a_true_chain(r: tuple, s: tuple) -> None:
    chain, weights = _random_chain(r, s, seed=1)
    matrix = chain_matrix(weights, chain)
    again = chain_matrix(hierarchical_svd(matrix, chain), chain)
    assert float((matrix - again).norm() / matrix.norm()) < 1e-12


def test_two_factors_meet_the_svd_optimum_and_als_does_not_beat_it() -> None:
    chain = make_chain((4, 3), (3, 5))
    matrix = torch.randn(12, 15, dtype=torch.float64)
    start = hierarchical_svd(matrix, chain)
    optimum = float((matrix - chain_matrix(start, chain)).norm())
    blocks = matrix.reshape(3, 4, 5, 3).permute(1, 2, 0, 3)
    tail = torch.linalg.svdvals(blocks)[..., 1:].square().sum()
    assert optimum == pytest.approx(math.sqrt(float(tail)), rel=1e-12)
    random = [torch.randn(f.shape, dtype=torch.float64) for f in chain]
    _, errors = alternating_least_squares(matrix, random, chain, sweeps=200)
    assert min(errors) >= optimum - 1e-9
    assert errors[-1] == pytest.approx(optimum, rel=1e-3)


@pytest.mark.parametrize(("r", "s"), CHAINS)
def test_als_error_never_rises(r: tuple, s: tuple) -> None:
    chain, weights = _random_chain(r, s, seed=2)
    matrix = torch.randn(chain[-1].p, chain[0].q, dtype=torch.float64)
    _, errors = alternating_least_squares(matrix, weights, chain, sweeps=3)
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(errors))
    best = hierarchical_svd(matrix, chain)
    refined, more = alternating_least_squares(matrix, best, chain, sweeps=2)
    assert more[-1] <= more[0] + 1e-9
    assert float((matrix - chain_matrix(refined, chain)).norm()) == pytest.approx(more[-1])


@pytest.mark.parametrize("position", [0, 1, 2])
def test_the_diagonal_fit_of_a_factor_is_the_full_least_squares_solution(position: int) -> None:
    chain, weights = _random_chain((2, 2, 3), (3, 2, 2), seed=3)
    matrix = torch.randn(chain[-1].p, chain[0].q, dtype=torch.float64)
    early = torch.eye(chain[0].q, dtype=torch.float64)
    for w, f in zip(weights[:position], chain, strict=False):
        early = factor_matrix(w, f) @ early
    later = torch.eye(chain[position].p, dtype=torch.float64)
    for w, f in zip(weights[position + 1 :], chain[position + 1 :], strict=True):
        later = factor_matrix(w, f) @ later
    f = chain[position]
    got = factor_matrix(_fit_factor(matrix, later, early, f, weights[position]), f)
    expected = reference.fitted_factor(matrix.numpy(), later.numpy(), early.numpy(), f.shape)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-9)


def test_a_radix_2_chain_with_twiddles_is_the_fourier_transform() -> None:
    n, stages = 8, 3
    chain = make_chain((2,) * stages, (2,) * stages)
    product = np.eye(n, dtype=complex)
    for f in chain:
        # decimation in time: t grows from 1; block entries (1, w), (1, -w) with w = exp(-i pi tau / t)
        twiddle = np.exp(-1j * np.pi * np.arange(f.t) / f.t)
        values = np.zeros((f.blocks, 2, 2, f.t), complex)
        values[:, 0, 0], values[:, 1, 0], values[:, 0, 1], values[:, 1, 1] = 1, 1, twiddle, -twiddle
        dense = sum(
            unit * factor_matrix(torch.from_numpy(part), f).numpy()
            for unit, part in ((1, values.real.copy()), (1j, values.imag.copy()))
        )
        product = dense @ product
    reversed_bits = [int(f"{i:03b}"[::-1], 2) for i in range(n)]
    permutation = np.eye(n)[reversed_bits]
    np.testing.assert_allclose(product @ permutation, np.fft.fft(np.eye(n)), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([4, 8, 12, 16, 36, 64, 90]),
    st.sampled_from([4, 9, 16, 24, 72, 144]),
    st.floats(1, 2),
    st.sampled_from(["any", "monotone", "bulging"]),
)
def test_generated_chains_keep_their_promises(n_out: int, n_in: int, compression: float, shape: str) -> None:
    try:
        chain = generate_chain(n_out, n_in, compression, shape)
    except OperatorError as error:
        assert "compression" in str(error)  # noqa: PT017 - either outcome is allowed, but not silently
        return
    assert (chain[-1].p, chain[0].q) == (n_out, n_in)
    assert chain_parameters(chain) <= n_out * n_in / compression
    assert shape == "any" or chain_shape(chain) == shape


def test_the_generator_finds_the_best_chain_of_an_exhaustive_search() -> None:
    def splits(n: int, parts: int) -> list[tuple[int, ...]]:
        if parts == 1:
            return [(n,)] if n > 1 else []
        return [(d, *rest) for d in range(2, n) if n % d == 0 for rest in splits(n // d, parts - 1)]

    budget = 24 * 36 / 2
    chains = [make_chain(r, s) for parts in range(1, 5) for r in splits(24, parts) for s in splits(36, parts)]
    fitting = [(chain_parameters(c), max(f.p for f in c)) for c in chains if chain_parameters(c) <= budget]
    most = max(cost for cost, _ in fitting)
    assert chain_parameters(generate_chain(24, 36, 2.0, fill=1.0)) == most
    narrow = generate_chain(24, 36, 2.0, fill=0.6)
    cost, width = chain_parameters(narrow), max(f.p for f in narrow)
    assert width == min(w for c, w in fitting if c >= 0.6 * most)
    assert cost == max(c for c, w in fitting if c >= 0.6 * most and w == width)


def test_large_layers_are_generated_quickly_near_their_budget() -> None:
    full, narrow = generate_chain(512, 4608, 4.0, fill=1.0), generate_chain(512, 4608, 4.0)
    assert 4.0 <= 512 * 4608 / chain_parameters(full) < 4.6
    assert 4.0 <= 512 * 4608 / chain_parameters(narrow) < 4.5  # what is asked for, not twice as much
    assert max(f.p for f in narrow) <= max(f.p for f in full)


def test_kernels_equal_the_grouped_convolutions() -> None:
    torch.manual_seed(0)
    for chain, groups, length in ((make_chain((4, 2, 8), (2, 9, 4)), 1, 49), (make_chain((3, 5), (7, 2)), 2, 16)):
        weights = [torch.randn(groups, *f.shape, requires_grad=True) for f in chain]
        x = torch.randn(3, groups * chain[0].q, length, requires_grad=True)
        upstream = torch.randn(3, groups * chain[-1].p, length)
        results = []
        for plain in (False, True):
            y = apply_chain(x, weights, plain)
            results.append((y, *torch.autograd.grad(y, (x, *weights), upstream)))
        for fast, slow in zip(*results, strict=True):
            assert torch.allclose(fast, slow, rtol=1e-4, atol=1e-4 * float(slow.detach().abs().max()))


@pytest.mark.parametrize(
    ("batch", "stride", "padding", "dilation", "groups", "size"),
    [(3, 1, 1, 1, 1, (5, 7)), (2, 2, (1, 0), 1, 2, (9, 12)), (5, 1, 2, (1, 2), 1, (3, 4)), (2, 3, 1, 1, 4, (25, 23))],
)
def test_patches_unfolded_by_blocks_equal_the_plain_form(
    batch: int,
    stride: int,
    padding: object,
    dilation: object,
    groups: int,
    size: tuple,
) -> None:
    layer = ButterflyConv2d(8, 16, 3, stride, padding, dilation, groups, compression=1.2)
    x = torch.randn(batch, 8, *size, requires_grad=True)
    results = []
    for module in (layer, layer.plain()):
        y = module(x)
        upstream = torch.linspace(-1, 1, y.numel()).view_as(y)
        results.append((y, *torch.autograd.grad(y, (x, *module.parameters()), upstream)))
    for fast, slow in zip(*results, strict=True):
        assert torch.allclose(fast, slow, rtol=1e-4, atol=2e-5 * float(slow.detach().abs().max()))


SIZES = st.one_of(st.integers(1, 7), st.sampled_from([11, 16, 24, 30]))  # the large ones are cut into tiles
FACTORS = st.lists(st.tuples(SIZES, SIZES), min_size=1, max_size=4)


@settings(max_examples=80, deadline=None)
@given(FACTORS, st.integers(1, 3), st.integers(1, 3), st.integers(1, 90), st.booleans())
def test_any_chain_on_any_columns_equals_the_plain_form(
    factors: list, groups: int, batch: int, length: int, wants_input: bool
) -> None:
    chain = make_chain([r for r, _ in factors], [s for _, s in factors])
    if chain_parameters(chain) * groups > 1 << 15:
        return
    generator = torch.Generator().manual_seed(len(factors) * 100 + length)
    weights = [torch.randn(groups, *f.shape, generator=generator, requires_grad=True) for f in chain]
    x = torch.randn(batch, groups * chain[0].q, length, generator=generator, requires_grad=wants_input)
    inputs = [x, *weights] if wants_input else weights
    results = []
    for plain in (False, True):
        y = apply_chain(x, weights, plain)
        results.append((y, *torch.autograd.grad(y, inputs, torch.linspace(-1, 1, y.numel()).view_as(y))))
    for fast, slow in zip(*results, strict=True):
        assert torch.allclose(fast, slow, rtol=1e-4, atol=1e-5 * (1 + float(slow.detach().abs().max())))


@pytest.mark.parametrize(("rows", "n_in", "n_out"), [(1, 6, 4), (37, 48, 20), (300, 32, 36), (700, 64, 16)])
def test_rows_of_vectors_equal_the_plain_form(rows: int, n_in: int, n_out: int) -> None:
    torch.manual_seed(0)
    layer, x = ButterflyLinear(n_in, n_out, compression=1.0), torch.randn(rows, n_in, requires_grad=True)
    results = []
    for module in (layer, layer.plain()):
        y = module(x)
        upstream = torch.linspace(-1, 1, y.numel()).view_as(y)
        results.append((y, *torch.autograd.grad(y, (x, *module.parameters()), upstream)))
    for fast, slow in zip(*results, strict=True):
        assert torch.allclose(fast, slow, rtol=1e-4, atol=2e-5 * float(slow.detach().abs().max()))


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    from cosearch.operators import _simd

    monkeypatch.setattr(_simd, "SMALL_WORK", 0)
    cases = [(ButterflyLinear(64, 64), torch.randn(900, 64, requires_grad=True))]
    cases.append((ButterflyConv2d(8, 16, 3, padding=1, compression=1.2), torch.randn(9, 8, 7, 7, requires_grad=True)))
    before = torch.get_num_threads()
    for layer, x in cases:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(torch.autograd.grad(layer(x).square().sum(), (x, *layer.factors)))
        torch.set_num_threads(before)
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_fitting_a_dense_weight_beats_a_random_start_and_round_trips() -> None:
    conv = torch.nn.Conv2d(8, 16, 3, padding=1, groups=2)
    layer = ButterflyConv2d(8, 16, 3, padding=1, groups=2, compression=1.2)
    layer.load_dense(conv.weight)
    error = ((layer.dense_weight() - conv.weight).norm() / conv.weight.norm()).item()
    assert error < 0.8
    copy = ButterflyConv2d(8, 16, 3, padding=1, groups=2, compression=1.2)
    copy.load_state_dict(layer.state_dict())
    x = torch.randn(1, 8, 5, 5)
    assert torch.equal(copy(x), layer(x))


def test_one_factor_is_the_dense_layer() -> None:
    linear = torch.nn.Linear(6, 4)
    layer = ButterflyLinear(6, 4, chain=make_chain((4,), (6,)))
    layer.load_dense(linear.weight)
    with torch.no_grad():
        layer.bias.copy_(linear.bias)
    x = torch.randn(5, 6)
    assert torch.allclose(layer(x), linear(x), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: generate_chain(7, 64, 2.0), "n_out"),
        (lambda: generate_chain(64, 13, 2.0), "n_in"),
        (lambda: generate_chain(64, 64, 1e6), "compression"),
        (lambda: generate_chain(64, 64, 0.5), "compression"),
        (lambda: generate_chain(64, 64, 2.0, "round"), "shape"),
        (lambda: generate_chain(64, 64, 2.0, fill=0.0), "fill"),
        (lambda: make_chain((2, 2), (2,)), "r, s"),
        (lambda: ButterflyLinear(8, 8, chain=make_chain((2, 2), (2, 2))), "chain"),
        (lambda: ButterflyLinear(16, 16, compression=2)(torch.ones(2, 7)), "input"),
    ],
)
def test_bad_arguments_are_named(call: object, named: str) -> None:
    with pytest.raises(OperatorError, match=named):
        call()
