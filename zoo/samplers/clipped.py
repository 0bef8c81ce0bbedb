"""Any sampler with the believed x0 kept within the range of the data: Ho et al. 2020 (2006.11239), clip_denoised."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import Aiming, Estimate, EstimateFn, toward
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.sampler import Sampler, Spacing
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count, Positive

PARTS = {"spacing": "spacing", "path": "path", "sampler": "sampler"}


@SAMPLERS.register("clipped", tiny=dict(steps=3, limit=4.0), parts=PARTS)
class Clipped(Sampler):
    """`sampler` with x0 clamped to +-limit, and the noise that then explains x_t.

    `keep_noise` leaves the noise as the network believes it (diffusers' DDIM with clip_sample). Steps, spacing and
    path are this one's. For data in [-1, 1]: latents of unit deviation reach further.
    """

    def __init__(
        self,
        steps: Count = 50,
        spacing: Spacing | str = "uniform",
        path: Path | str | None = None,
        sampler: Sampler | str = "euler",
        limit: Positive = 1.0,
        keep_noise: bool = False,
    ):
        super().__init__(steps, spacing, path)
        self.sampler, self.limit, self.keep_noise = sampler, limit, keep_noise
        sampler.steps = steps
        self.lands, self.spreads, self.framewise = sampler.lands, sampler.spreads, sampler.framewise
        self.asks, self.reverses, self.reads_variances = sampler.asks, sampler.reverses, sampler.reads_variances

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        def clip(x: Tensor, t: Tensor, s: Tensor | None = None) -> Estimate:
            now = estimate(x, t) if s is None else toward(estimate, s)(x, t)
            x0, sigma = now.x0.clamp(-self.limit, self.limit), expand(path.sigma(t), x)
            noise = (x - expand(path.alpha(t), x) * x0) / sigma
            return now.believing(x0, now.noise if self.keep_noise else torch.where(sigma > 0, noise, now.noise))

        aimed = Aiming(clip) if isinstance(estimate, Aiming) else clip
        return self.sampler(aimed, x, times, path, random)

    def takes(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """As the sampler within."""
        return self.sampler.takes(times)

    def check(self, path: Path, times: Tensor) -> None:
        """Raises ValueError where the sampler within does."""
        self.sampler.check(path, times)

    @property
    def evaluations(self) -> int | None:
        self.sampler.steps = self.steps
        return self.sampler.evaluations
