"""What every registered tokenizer promises beside vidiff.checks.tokenizer, which test_checks.py runs on them all."""

import copy

import pytest
import torch

import zoo.tokenizers  # noqa: F401
from vidiff.registry import TOKENIZERS

B, C, T, H, W = 2, 3, 12, 24, 36


@pytest.fixture(params=TOKENIZERS.names())
def tokenizer(request):
    component = TOKENIZERS[request.param]
    return component.build(component.tiny).eval()


def video(b=B, c=C, t=T, h=H, w=W, seed=0):
    return torch.rand(b, c, t, h, w, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def learns(tokenizer):
    return any(True for _ in tokenizer.parameters())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_without_parameters_it_loses_nothing_and_keeps_lengths_and_angles(tokenizer, dtype, tolerance):
    """An orthogonal matrix, exactly or to rounding: noise on the latent is noise on the video."""
    if learns(tokenizer):
        pytest.skip("this tokenizer learns")
    x, y = video().to(dtype), video(seed=1).to(dtype)
    zx, zy = tokenizer.encode(x), tokenizer.encode(y)
    assert zx.dtype == dtype and torch.allclose(tokenizer.decode(zx), x, atol=tolerance)
    for a, b, za, zb in ((x, x, zx, zx), (x, y, zx, zy)):
        inner = (a * b).flatten(1).sum(1)
        assert torch.allclose((za * zb).flatten(1).sum(1), inner, atol=tolerance * x[0].numel() ** 0.5 * 10)


def test_every_pixel_matters(tokenizer):
    x = video(b=1).requires_grad_()
    tokenizer.encode(x).square().sum().backward()
    assert (x.grad != 0).float().mean() > 0.99


def test_gradients_come_back_through_the_decoder(tokenizer):
    z = tokenizer.encode(video(b=1)).detach().requires_grad_()
    tokenizer.decode(z).square().sum().backward()
    assert (z.grad != 0).float().mean() > 0.99


def test_it_can_be_copied(tokenizer):
    x = video()
    assert torch.equal(copy.deepcopy(tokenizer).encode(x), tokenizer.encode(x))
