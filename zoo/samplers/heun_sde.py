"""Heun's method on a reverse SDE of free diffusion coefficient: "Heun" among the SDE samplers of SiT (2401.08740)."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn, velocity
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.sampler import refuse_ascending, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from zoo.samplers.euler_maruyama import EulerMaruyama


@SAMPLERS.register("heun_sde", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class HeunSde(EulerMaruyama):
    """The noise of a step first, sqrt(2 w (t - s)) fresh, then the trapezoid rule on dx/dt - w score.

    Settings and last step of `euler_maruyama`; 2 steps - 1 evaluations. Its moments are still of weak order 1.
    """

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        refuse_ascending(times)

        def drift(x: Tensor, t: Tensor) -> Tensor:
            now = estimate(x, t)
            return velocity(path, now, t) + expand(self.coefficient(path, t) / path.sigma(t), x) * now.noise

        clean, finite = path.sigma(times) == 0, torch.isfinite(path.alpha_dot(times))
        for i, t, s in steps_of(times, x):
            if clean[i + 1] or not finite[i]:
                x = super().__call__(estimate, x, times[i : i + 2], path, random)
                continue
            fresh, step = random.normal(x.shape, x.dtype).to(x.device), expand(t - s, x)
            x = x + expand(torch.sqrt(2 * self.coefficient(path, t) * (t - s)), x) * fresh
            slope = drift(x, t)
            x = x - step * (slope + drift(x - step * slope, s)) / 2
        return x

    @property
    def evaluations(self) -> int:
        return 2 * self.steps - 1
