"""Haar wavelets: the matrix by hand, means first, Parseval, and where the energy of video goes."""

import math

import pytest
import torch

import zoo.tokenizers  # noqa: F401
from vidiff.registry import build


def haar(*levels):
    return build("tokenizer", {"name": "haar3d", "levels": list(levels)})


def matrix(levels):
    """The transform of one block as a matrix (out, in), by feeding unit vectors."""
    sizes = [2**n for n in levels]
    units = torch.eye(math.prod(sizes), dtype=torch.float64).reshape(-1, 1, *sizes)
    return haar(*levels).encode(units).flatten(1).T


def test_two_levels_along_time_are_the_textbook_matrix():
    a, r = 0.5, math.sqrt(0.5)
    expected = [[a, a, a, a], [a, a, -a, -a], [r, -r, 0, 0], [0, 0, r, -r]]
    assert torch.allclose(matrix((2, 0, 0)), torch.tensor(expected, dtype=torch.float64), atol=1e-15)


@pytest.mark.parametrize("levels", [(1, 0, 2), (2, 1, 1), (0, 3, 1), (1, 2, 2)])
def test_a_block_is_an_orthogonal_matrix(levels):
    m = matrix(levels)
    assert torch.allclose(m @ m.T, torch.eye(len(m), dtype=torch.float64), atol=1e-14)
    assert torch.allclose(m[0], torch.full((len(m),), len(m) ** -0.5, dtype=torch.float64), atol=1e-14), "the mean"


def test_no_levels_are_pixels():
    x = torch.randn(2, 3, 4, 5, 7)
    assert torch.equal(haar(0, 0, 0).encode(x), x)


def test_a_constant_video_is_all_in_the_first_channels():
    z = haar(1, 2, 1).encode(torch.ones(1, 3, 4, 8, 6))
    assert torch.allclose(z[:, :3], torch.full((), 4.0), atol=1e-6) and z[:, 3:].abs().max() < 1e-6


def test_channels_of_a_step_between_two_frames():
    """White after black: the mean, and the difference in time of each of the two blocks of the first level."""
    video = torch.cat([torch.zeros(1, 1, 1, 2, 4), torch.ones(1, 1, 1, 2, 4)], dim=2)
    z = haar(1, 1, 2).encode(video)[0].flatten(1)
    energy = z.square().sum(1)
    assert energy.sum() == pytest.approx(8, abs=1e-5)
    assert sorted(energy.tolist(), reverse=True)[:3] == pytest.approx([4, 2, 2], abs=1e-5)


def test_blocks_that_do_not_tile_the_video_are_refused():
    with pytest.raises(
        ValueError, match=r"5 frames of 8x12 do not split into Haar blocks of 2x4x8: 5 is not divisible"
    ):
        haar(1, 2, 3).latent_shape((3, 5, 8, 12))
