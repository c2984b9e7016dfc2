"""What is refused before anything is written: objectives and limits that a device cannot have or meet."""

import numpy as np
import pytest

from cosearch.config import RunConfig
from cosearch.errors import ConfigError, CosearchError, DataError, InfeasibleError
from cosearch.problem import fair_updates, prepare
from cosearch.progress import Reporter
from tests import tiny_space

QUIET = Reporter(quiet=True)


def prepared(data, **options):
    config = {"space": tiny_space.NAME, "device": "ecp5-25f", "data": str(data), "quiet": True}
    return prepare(RunConfig.make({**config, **options}), QUIET)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"constraint": "lut<=10"}, InfeasibleError, r"--constraint 'lut<=10' cannot be met: the least that tiny"),
        ({"constraint": "throughput_fps>=1e9"}, InfeasibleError, "the most that tiny reaches on ecp5-25f"),
        ({"constraint": "params<=1"}, InfeasibleError, "'params<=1' cannot be met"),
        ({"constraint": "latency_ms>=5,latency_ms<=2"}, ConfigError, "contradict each other"),
        ({"constraint": "accuracy>=1.5"}, ConfigError, "can never be met"),
        ({"constraint": "lut<=-5"}, ConfigError, "can never be met"),
        ({"constraint": "lut<=nan"}, ConfigError, "expected a finite number"),
        ({"constraint": "area_mm2<=2"}, CosearchError, "area of ecp5-25f is unknown"),
        ({"constraint": "lute<=2"}, ConfigError, "unknown constraint"),
        ({"constraint": "lut<=5000,dsp>=10000"}, InfeasibleError, "together: loosen one"),
        ({"objectives": "accuracy,latncy_ms"}, ConfigError, "did you mean 'latency_ms'"),
    ],
)
def test_limits_that_cannot_be(few_digits, options, error, words):
    with pytest.raises(error, match=words) as caught:
        prepared(few_digits, **options)
    assert "\n" not in str(caught.value)


def test_limits_reach_the_costs_and_accuracy_the_recommendation(few_digits):
    problem = prepared(
        few_digits, constraint=["lut<=12000", "throughput_fps>=100", "accuracy>=0.9"], max_latency_ms=9.0
    )
    assert problem.objectives.min_accuracy == 0.9
    [front] = problem.costs.fronts([{"layer1": "conv_k3_e1", "layer2": "conv_k3_e1", "layer3": "skip"}])
    assert len(front)
    assert front.metric("lut").max() <= 12000
    assert front.metric("latency_ms").max() <= 9.0


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        (70, {}, "42 training images, fewer than one batch of 64"),
        (110, {}, "88 training images, fewer than one batch of 96"),
        (150, {"accuracy": "train"}, "90 training images, fewer than one batch of 96"),
        (150, {"finalist_candidates": 2}, "90 training images, fewer than one batch of 96"),
    ],
)
def test_too_few_images_for_a_batch_are_refused_before_anything_is_trained(tmp_path, images, options, words):
    x = np.random.default_rng(0).integers(0, 255, (images, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "few.npz", x=x, y=np.arange(images) % 2)
    with pytest.raises(DataError, match=words):
        prepared(tmp_path / "few.npz", **options)


@pytest.mark.parametrize(
    ("options", "recipe"),
    [
        ({}, "progressive"),  # 90 epochs of few batches
        ({"supernet_epochs": 6000}, "sandwich"),
        ({"supernet_epochs": 6000, "recipe": "fair"}, "fair"),
        ({"accuracy": "train"}, "auto"),  # no supernet, no recipe
    ],
)
def test_a_run_that_names_no_recipe_takes_the_one_for_its_budget(few_digits, options, recipe):
    assert RunConfig.make(options).recipe == options.get("recipe", "auto")
    assert prepared(few_digits, **options).config.recipe == recipe


def test_a_training_too_short_for_one_fair_update_is_refused(few_digits):
    """Of the hybrid space: 79 networks, one a batch."""
    options = {"space": "hybrid", "recipe": "fair"}
    batches = len(prepared(few_digits).dataset.train) // 64
    least = -(-79 // batches)
    said = f"an update takes 79 networks, .* {least - 1} epochs have {(least - 1) * batches} batches: .* {least}, or "
    with pytest.raises(ConfigError, match=said):
        prepared(few_digits, supernet_epochs=least - 1, **options)
    made = prepared(few_digits, supernet_epochs=least, **options)
    assert fair_updates(made.config, made.dataset, made.space) == (1, 79)


def test_networks_of_convolutions_alone_are_a_baseline_where_every_layer_can_be_one(few_digits):
    whole, uneven = (prepared(few_digits, space=f"tests.tiny_space:{name}") for name in ("space", "uneven"))
    assert whole.conv_only.operators == ("conv",)
    assert uneven.conv_only is None
