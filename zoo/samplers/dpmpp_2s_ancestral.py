"""Ancestral DPM-Solver++ (2S): k-diffusion's sample_dpmpp_2s_ancestral, after Lu et al. 2022 (2211.01095)."""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn, place
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.sampler import Sampler, Spacing, halfway, refuse_ascending, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count, Fraction, Positive
from zoo.samplers.ancestral import descent


@SAMPLERS.register("dpmpp_2s_ancestral", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class Dpmpp2sAncestral(Sampler):
    """`dpmpp_2s` to a level below the next one, from where fresh noise leads up to it: `eta` is that of `ancestral`.

    The step to sigma = 0 is the `euler` one: 2 steps - 1 evaluations.
    """

    reverses = False

    def __init__(
        self,
        steps: Count = 25,
        spacing: Spacing | str = "logsnr",
        path: Path | str | None = None,
        eta: Fraction = 1.0,
        s_noise: Positive = 1.0,
    ):
        super().__init__(steps, spacing, path)
        self.eta, self.s_noise = eta, s_noise

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        refuse_ascending(times)
        clean = path.sigma(times[1:]) == 0
        for i, t, s in steps_of(times, x):
            now = estimate(x, t)
            if clean[i]:
                x = place(path, now, s)
                continue
            z, down, below = descent(path, t, s, self.eta)
            middle = halfway(path, t, below)
            x0 = estimate(place(path, now, middle), middle).x0
            kept, fresh = down / path.sigma(t), random.normal(x.shape, x.dtype).to(x.device)
            x = expand(kept, x) * x + expand(path.alpha(s) - kept * path.alpha(t), x) * x0
            x = x + expand(self.s_noise * z, x) * fresh
        return x

    @property
    def evaluations(self) -> int:
        return 2 * self.steps - 1
