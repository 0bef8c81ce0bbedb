"""Holding what is known in place: at its own times, clean or with a level, with fresh noise of the path."""

import pytest
import torch

import zoo  # noqa: F401
from tests.frames import F64
from tests.zoo.tasks.exact import FRAMES, Many, sampling
from vidiff.diffusion.estimate import Aiming, Estimate, toward
from vidiff.diffusion.known import noised, pinned, shown_clean
from vidiff.diffusion.task import Known
from vidiff.registry import build


def test_a_level_tells_the_network_less_trust_and_adds_no_noise():
    path, asked = build("path", "linear"), []
    latent = torch.arange(1.0, 6.0, dtype=F64)[None, None, :, None, None]
    mask = (torch.arange(5) < 2)[None, :, None, None]
    inner = lambda x, t: asked.append((x, t)) or None  # noqa: E731
    shown_clean(inner, Known(latent, mask), path, level=0.1)(torch.zeros_like(latent), torch.tensor([0.7], dtype=F64))
    x, t = asked[0]
    assert torch.allclose(t, torch.tensor([[0.1, 0.1, 0.7, 0.7, 0.7]], dtype=F64))
    assert torch.allclose(x[0, 0, :, 0, 0], torch.tensor([0.9, 1.8, 0.0, 0.0, 0.0], dtype=F64))


def test_what_is_known_stays_so_for_models_that_are_told_where_a_step_ends():
    """A shortcut model is told the end of its step, known frames at both ends of it; learned variances are kept."""
    path, told = build("path", "linear"), []
    latent, mask = torch.ones(2, 1, 3, 1, 1, dtype=F64), (torch.arange(3) < 1)[None, :, None, None]
    known, x = Known(latent, mask), torch.zeros(2, 1, 3, 1, 1, dtype=F64)

    def model(x, t, s=None):
        told.append((t, s))
        return Estimate(x, x).spread(x)

    wrapped = pinned(shown_clean(Aiming(model), known, path), known, path)
    t, s = torch.tensor([0.9, 0.8], dtype=F64), torch.tensor([0.4, 0.3], dtype=F64)
    belief = toward(wrapped, s)(x, t)
    assert torch.equal(told[0][0], torch.tensor([[0, 0.9, 0.9], [0, 0.8, 0.8]], dtype=F64))
    assert torch.equal(told[0][1], torch.tensor([[0, 0.4, 0.4], [0, 0.3, 0.3]], dtype=F64))
    assert (belief.x0[:, :, 0] == 1).all() and (belief.x0[:, :, 1:] == 0).all() and belief.share is not None


@pytest.mark.parametrize("path", ["linear", "cosine", "ve"])
def test_fresh_noise_up_to_a_later_time_is_the_paths_own(path):
    """x_s = alpha_s x0 + sigma_s noise, taken to t, has alpha_t x0 as its mean and sigma_t^2 as its variance."""
    pixels = 40_000
    at = sampling(Many(), path=path, pixels=pixels)
    s, t = (torch.tensor(v, dtype=F64) for v in (0.3, 0.7))
    x0 = torch.full((1, 1, FRAMES, 1, pixels), 1.7, dtype=F64)
    out = noised(at, at.path.point(x0, at.noise(), s), s, t)
    sigma = at.path.sigma(t)
    assert (out.mean() - 1.7 * at.path.alpha(t)).abs() < 4 * sigma / (FRAMES * pixels) ** 0.5
    assert (out.var() / sigma**2 - 1).abs() < 0.015
