"""Ancestral sampling: Ho et al. 2020 (2006.11239), alg. 2, as the eta family of DDIM (2010.02502), eq. 16."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.sampler import Sampler, Spacing, refuse_ascending, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count, Fraction, Positive


@SAMPLERS.register("ancestral", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class Ancestral(Sampler):
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - z^2) noise + z fresh, with z = eta times the deviation of p(x_s | x_t, x0).

    eta = 1 draws from the DDPM posterior (of any path, in continuous time), eta = 0 is `euler`.
    `s_noise` scales the fresh noise (k-diffusion); other variances of the posterior: `ddpm`.
    """

    framewise = True
    reverses = False

    def __init__(
        self,
        steps: Count = 50,
        spacing: Spacing | str = "uniform",
        path: Path | str | None = None,
        eta: Fraction = 1.0,
        s_noise: Positive = 1.0,
    ):
        super().__init__(steps, spacing, path)
        self.eta, self.s_noise = eta, s_noise

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        refuse_ascending(times)
        for _, t, s in steps_of(times, x):
            x0, noise = estimate(x, t)
            z = self.eta * posterior_std(path, t, s)
            kept = torch.sqrt(path.sigma(s) ** 2 - z**2)
            fresh = random.normal(x.shape, x.dtype).to(x.device)
            x = expand(path.alpha(s), x) * x0 + expand(kept, x) * noise + expand(self.s_noise * z, x) * fresh
        return x


def posterior_std(path: Path, t: Tensor, s: Tensor) -> Tensor:
    """The standard deviation of x_s given x_t and x0, s <= t: sigma_s sqrt(1 - SNR_t / SNR_s), 0 for s = t."""
    ratio = torch.where(s < t, torch.exp(path.logsnr(t) - path.logsnr(s)), torch.ones_like(t))
    return path.sigma(s) * torch.sqrt(1 - ratio)


def descent(path: Path, t: Tensor, s: Tensor, eta: float) -> tuple[Tensor, Tensor, Tensor]:
    """The fresh noise z of a step from t to s, the noise sqrt(sigma_s^2 - z^2) kept, and the time of that level."""
    z = eta * posterior_std(path, t, s)
    down = torch.sqrt(path.sigma(s) ** 2 - z**2)
    return z, down, path.time(2 * torch.log(path.alpha(s) / down)) if eta else s
