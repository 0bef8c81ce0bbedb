"""DPM-Solver++ (2S), one step: Lu et al. 2022 (2211.01095), alg. 1 with r = 1/2."""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn, place
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.sampler import Sampler, Spacing, halfway, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count


@SAMPLERS.register("dpmpp_2s", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class Dpmpp2s(Sampler):
    """Steps with the x0 believed halfway in lambda = log(alpha/sigma): order 2, no history, 2 steps - 1 evaluations.

    The step to sigma = 0 is the `euler` one. Where alpha = 0, halfway is half the time.
    """

    def __init__(self, steps: Count = 25, spacing: Spacing | str = "logsnr", path: Path | str | None = None):
        super().__init__(steps, spacing, path)

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        ends = (path.sigma(times[1:]) == 0) | (path.sigma(times[:-1]) == 0)
        for i, t, s in steps_of(times, x):
            now = estimate(x, t)
            if ends[i]:
                x = place(path, now, s)
                continue
            middle = halfway(path, t, s)
            x0 = estimate(place(path, now, middle), middle).x0
            kept = path.sigma(s) / path.sigma(t)
            x = expand(kept, x) * x + expand(path.alpha(s) - kept * path.alpha(t), x) * x0
        return x

    @property
    def evaluations(self) -> int:
        return 2 * self.steps - 1
