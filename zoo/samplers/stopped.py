"""Any sampler ended above clean data: final_sigmas_type "sigma_min" of diffusers, the eps of score codes.

Song et al. 2021 (2011.13456), app. C, stop at t = 1e-5 without a last step to the believed x0.
"""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn
from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Sampler, Spacing
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count, Fraction

PARTS = {"spacing": "spacing", "path": "path", "sampler": "sampler"}


@SAMPLERS.register("stopped", tiny=dict(steps=3, last=1e-12), parts=PARTS)
class Stopped(Sampler):
    """`sampler` on times of at least `last`: what comes out is alpha x0 + sigma noise there, not clean.

    0.001 is the first entry of a table of 1000 timesteps. Steps, spacing and path are this one's. Evaluations are
    promised for samplers of one per step: others may take another for a last step that does not end at sigma = 0.
    """

    lands = False

    def __init__(
        self,
        steps: Count = 25,
        spacing: Spacing | str = "uniform",
        path: Path | str | None = None,
        sampler: Sampler | str = "euler",
        last: Fraction = 0.001,
    ):
        super().__init__(steps, spacing, path)
        self.sampler, self.last = sampler, last
        sampler.steps = steps
        self.reverses, self.asks, self.spreads = sampler.reverses, sampler.asks, sampler.spreads
        self.framewise, self.reads_variances = sampler.framewise, sampler.reads_variances

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        return self.sampler(estimate, x, times.clamp(min=self.last), path, random)

    def takes(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """As the sampler within, which stops at `last`."""
        return self.sampler.takes(times.clamp(min=self.last))

    def check(self, path: Path, times: Tensor) -> None:
        """Raises ValueError where the sampler within does."""
        self.sampler.check(path, times.clamp(min=self.last))

    @property
    def evaluations(self) -> int | None:
        self.sampler.steps = self.steps
        return self.steps if self.sampler.evaluations == self.steps else None
