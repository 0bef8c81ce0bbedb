"""The cosine transform: SciPy's numbers, Parseval, and where the energy of video goes."""

import pytest
import torch
from scipy.fft import dctn

import zoo.tokenizers  # noqa: F401
from vidiff.registry import build


def dct(*size):
    return build("tokenizer", {"name": "dct3d", "size": list(size)})


def test_each_block_has_the_coefficients_that_scipy_computes():
    x = torch.randn(2, 3, 4, 6, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = dct(2, 3, 5).encode(x)
    for b, c, t, h, w in [(0, 0, 0, 0, 0), (1, 2, 1, 1, 0), (0, 1, 1, 0, 1)]:
        block = x[b, c, 2 * t : 2 * t + 2, 3 * h : 3 * h + 3, 5 * w : 5 * w + 5]
        expected = torch.from_numpy(dctn(block.numpy(), norm="ortho")).flatten()
        assert torch.allclose(z[b, c * 30 : (c + 1) * 30, t, h, w], expected, atol=1e-13)


def test_blocks_of_one_are_pixels():
    x = torch.randn(2, 3, 4, 5, 7)
    assert torch.allclose(dct(1, 1, 1).encode(x), x, atol=1e-6)


def test_amp_does_not_round_it():
    x = torch.randn(1, 2, 2, 8, 4)
    with torch.autocast("cpu", torch.bfloat16):
        inside = dct(2, 4, 2).encode(x)
    assert torch.equal(inside, dct(2, 4, 2).encode(x))


def smooth(seed=0):
    """A blob that drifts: (1,1,8,32,48) float64."""
    t, y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (8, 32, 48)), indexing="ij")
    return torch.exp(-((y - 12 - t) ** 2 + (x - 16 - 2 * t) ** 2) / 72)[None, None]


@pytest.mark.parametrize(
    ("node", "least"),
    [({"name": "dct3d", "size": [2, 8, 8]}, 0.99), ({"name": "haar3d", "levels": [1, 3, 3]}, 0.97)],
)
def test_energy_is_compacted(node, least):
    """An eighth of the coefficients holds nearly all the energy of a smooth clip; of its tubelets it does not."""

    def share(tokenizer):
        power = build("tokenizer", tokenizer).encode(smooth()).square().mean(dim=(0, 2, 3, 4)).sort(descending=True)
        return (power.values[:16].sum() / power.values.sum()).item()

    assert share(node) > least > 0.5 > share({"name": "tubelet", "size": [2, 8, 8]})


def test_blocks_that_do_not_tile_the_video_are_refused():
    with pytest.raises(ValueError, match=r"4 frames of 8x9 do not split into blocks of 2x4x4: 9 is not divisible by 4"):
        dct(2, 4, 4).latent_shape((3, 4, 8, 9))
