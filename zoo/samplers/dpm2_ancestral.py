"""Ancestral DPM-Solver-2: k-diffusion's sample_dpm_2_ancestral."""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn, place
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.sampler import Sampler, Spacing, halfway, refuse_ascending, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count, Fraction, Positive
from zoo.samplers.ancestral import descent


@SAMPLERS.register("dpm2_ancestral", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class Dpm2Ancestral(Sampler):
    """`dpm2` to a level below the next one, from where fresh noise leads up to it: `eta` is that of `ancestral`.

    The step to sigma = 0 is the `euler` one: 2 steps - 1 evaluations.
    """

    reverses = False

    def __init__(
        self,
        steps: Count = 25,
        spacing: Spacing | str = "karras",
        path: Path | str | None = None,
        eta: Fraction = 1.0,
        s_noise: Positive = 1.0,
    ):
        super().__init__(steps, spacing, path)
        self.eta, self.s_noise = eta, s_noise

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        refuse_ascending(times)
        clean, blind = path.sigma(times[1:]) == 0, path.alpha(times[:-1]) == 0
        for i, t, s in steps_of(times, x):
            now = estimate(x, t)
            if clean[i]:
                x = place(path, now, s)
                continue
            z, down, below = descent(path, t, s, self.eta)
            middle = halfway(path, t, below)
            then = estimate(place(path, now, middle), middle)
            fresh = expand(self.s_noise * z, x) * random.normal(x.shape, x.dtype).to(x.device)
            if blind[i]:
                x = expand(path.alpha(s), x) * then.x0 + expand(down, x) * then.noise + fresh
                continue
            kept = path.alpha(s) / path.alpha(t)
            x = expand(kept, x) * x + expand(down - kept * path.sigma(t), x) * then.noise + fresh
        return x

    @property
    def evaluations(self) -> int:
        return 2 * self.steps - 1
