"""Euler-Maruyama on a reverse SDE of free diffusion coefficient: Ma et al. 2024 (SiT, 2401.08740), eq. 5 and 7."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn, place, velocity
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.sampler import Sampler, Spacing, refuse_ascending, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count, NonNegative

Form = Literal["constant", "sigma", "linear", "decreasing", "increasing_decreasing", "sbdm"]


@SAMPLERS.register("euler_maruyama", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class EulerMaruyama(Sampler):
    """x - (t - s) (dx/dt - w score) + sqrt(2 w (t - s)) fresh, with score = -noise/sigma: any w leaves p_t as it is.

    w is `norm` times: constant 1, sigma sigma(t), linear t, increasing_decreasing sin^2(pi t), sbdm half the squared
    diffusion of the forward SDE; decreasing (1 - norm cos(pi t))^2 / 4. The step to sigma = 0 takes the believed x0
    (`last` tweedie), the mean of the SDE's step, or the ODE's `euler` step.
    """

    reverses = False

    def __init__(
        self,
        steps: Count = 250,
        spacing: Spacing | str = "uniform",
        path: Path | str | None = None,
        diffusion: Form = "sigma",
        norm: NonNegative = 1.0,
        last: Literal["tweedie", "mean", "euler"] = "tweedie",
    ):
        super().__init__(steps, spacing, path)
        self.diffusion, self.norm, self.last = diffusion, norm, last

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        refuse_ascending(times)
        clean, finite = path.sigma(times) == 0, torch.isfinite(path.alpha_dot(times))
        for i, t, s in steps_of(times, x):
            now = estimate(x, t)
            if not finite[i] or (clean[i + 1] and self.last == "tweedie") or clean[i]:
                x = place(path, now, s)
                continue
            ends = clean[i + 1]
            w = self.coefficient(path, t) * (0.0 if ends and self.last == "euler" else 1.0)
            drift = velocity(path, now, t) + expand(w / path.sigma(t), x) * now.noise
            x = x - expand(t - s, x) * drift
            if not ends:
                x = x + expand(torch.sqrt(2 * w * (t - s)), x) * random.normal(x.shape, x.dtype).to(x.device)
        return x

    def check(self, path: Path, times: Tensor) -> None:
        """Raises ValueError for sbdm where alpha = 0."""
        self.coefficient(path, times[:-1][torch.isfinite(path.alpha_dot(times[:-1]))])

    def coefficient(self, path: Path, t: Tensor) -> Tensor:
        """w(t), shaped like t. Raises ValueError for sbdm where alpha = 0, which makes it infinite."""
        if self.diffusion == "decreasing":
            return (1 - self.norm * torch.cos(torch.pi * t)) ** 2 / 4
        w = {
            "constant": torch.ones_like,
            "sigma": path.sigma,
            "linear": lambda t: t,
            "increasing_decreasing": lambda t: torch.sin(torch.pi * t) ** 2,
            "sbdm": lambda t: -(path.sigma(t) ** 2) * path.logsnr_dot(t) / 2,
        }[self.diffusion](t)
        if not torch.isfinite(w).all():
            raise ValueError("diffusion: sbdm is infinite where alpha = 0. Use sigma, or interval: [0, 0.999].")
        return self.norm * w
