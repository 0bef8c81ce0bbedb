"""Roll-out: mean and covariance far beyond the length of training."""

import pytest
import torch

import zoo  # noqa: F401
from tests.frames import F64, autoregressive
from tests.zoo.tasks.exact import FRAMES, Columns, Z, canvas, moments, sampling, take
from vidiff.registry import build


@pytest.mark.parametrize("context", [1, 2, 4])
def test_a_roll_out_keeps_mean_and_covariance_beyond_the_training_length(context):
    """AR(1): a context says all there is to say, so 13 frames drawn by a model of 5 have the covariance of 13."""
    node = {"name": "rollout", "num_frames": 13, "context": context}
    windows = 1 + -(-(13 - FRAMES) // (FRAMES - context))
    worst = []
    for steps in (64, 128):
        task = build("task", node, canvas=canvas(6))
        out = task(sampling(Columns(windows), steps=steps))
        mean, covariance = moments(out)
        assert out.shape[2] == 13 and mean.abs().max() == 0
        worst.append((covariance - autoregressive(13)).abs().max().item())
    assert worst[1] < 0.01 and 2.5 < worst[0] / worst[1] < 6


def test_a_roll_out_from_a_clip_begins_with_it_and_follows_its_mean():
    task = build("task", {"name": "rollout", "num_frames": 9, "context": 2, "start": "clip"}, canvas=canvas(6))
    assert task.pixels[:2].all() and not task.pixels[2:].any()
    mean, _ = moments(task(take(task, sampling(Columns(3), steps=128), Z)))
    assert torch.equal(mean[:2], Z[:2])
    assert torch.allclose(mean[2:], Z[1] * 0.9 ** torch.arange(1, 8, dtype=F64), atol=3e-3)


def test_a_roll_out_by_replacement_forgets_more_than_it_should():
    node = {"name": "rollout", "num_frames": 13, "context": 2}
    truth = autoregressive(13)
    off = {}
    for by in ("conditioning", "replacement"):
        task = build("task", {**node, "by": by}, canvas=canvas(6))
        off[by] = (moments(task(sampling(Columns(4), steps=64)))[1] - truth).abs().max().item()
    print("a roll-out's covariance is off by", {by: f"{worst:.2g}" for by, worst in off.items()})
    assert off["conditioning"] < 0.02 < 0.1 < off["replacement"]


def test_a_roll_out_with_a_slope_reaches_the_same_distribution():
    node = {"name": "rollout", "num_frames": 9, "context": 1, "slope": 40}
    task = build("task", node, canvas=canvas(6))
    _, covariance = moments(task(sampling(Columns(2), "euler", steps=320)))
    assert (covariance - autoregressive(9)).abs().max() < 0.03


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"context": 5}, "must fill one at least and leave one"),
        ({"context": 2, "by": "replacement", "level": 0.1}, "leave level and slope"),
    ],
)
def test_a_roll_out_that_cannot_be_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        build("task", {"name": "rollout", "num_frames": 9, **settings}, canvas=canvas(6))
