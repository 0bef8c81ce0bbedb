"""The correlations of single noise priors."""

import torch

import zoo.objectives  # noqa: F401
from vidiff.random import Random
from vidiff.registry import build

NUM = 3000
SHAPE = (NUM, 2, 3, 4, 5)


def draw(node):
    return build("noise", node)(SHAPE, Random(7, "n", rows=range(NUM)), torch.float64)


def correlation(a, b):
    return (a * b).mean()


def test_gaussian_is_white():
    x = draw("gaussian")
    assert abs(correlation(x[:, :, 0], x[:, :, 1])) < 0.02 and abs(correlation(x[..., 0], x[..., 1])) < 0.02


def test_offset_shares_a_number_within_a_channel_of_a_clip():
    x = draw({"name": "offset", "strength": 0.5})
    expected = 0.25 / 1.25
    assert abs(correlation(x[..., 0], x[..., 1]) - expected) < 0.02
    assert abs(correlation(x[:, :, 0], x[:, :, 2]) - expected) < 0.02
    assert abs(correlation(x[:, 0], x[:, 1])) < 0.02
    assert torch.equal(draw({"name": "offset", "strength": 0.0}), draw("gaussian"))


def test_frame_mixed_shares_an_image_among_frames():
    x = draw({"name": "frame_mixed", "alpha": 2.0})
    assert abs(correlation(x[:, :, 0], x[:, :, 2]) - 4 / 5) < 0.02
    assert abs(correlation(x[..., 0], x[..., 1])) < 0.02 and abs(correlation(x[:, 0], x[:, 1])) < 0.02
    assert torch.equal(draw({"name": "frame_mixed", "alpha": 0.0}), draw("gaussian"))


def test_frame_progressive_forgets_frame_by_frame():
    """Frames k apart share (alpha^2 / (1 + alpha^2))^(k/2)."""
    x = draw({"name": "frame_progressive", "alpha": 2.0})
    assert abs(correlation(x[:, :, 0], x[:, :, 1]) - 0.8**0.5) < 0.02
    assert abs(correlation(x[:, :, 0], x[:, :, 2]) - 0.8) < 0.02
    assert abs(correlation(x[..., 0], x[..., 1])) < 0.02 and abs(correlation(x[:, 0], x[:, 1])) < 0.02
    assert torch.equal(draw({"name": "frame_progressive", "alpha": 0.0}), draw("gaussian"))
