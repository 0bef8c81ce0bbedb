"""DPM-Solver++ (singlestep): Lu et al. 2022 (2211.01095), alg. 1, with the grid's own points on the way."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn, place
from vidiff.diffusion.multistep import Levels
from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Sampler, Spacing, levels, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count, Range


@SAMPLERS.register("dpmpp_singlestep", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class DpmppSinglestep(Sampler):
    """Blocks of `order` steps, each from the block's start through all x0 since: diffusers' DPMSolverSinglestep.

    One evaluation per step, nothing remembered between blocks; `dpmpp_2s` puts its halfway points itself. `solver` heun
    interpolates x0, midpoint takes its last slope. The step to sigma = 0 is the `euler` one.
    """

    def __init__(
        self,
        steps: Count = 25,
        spacing: Spacing | str = "logsnr",
        path: Path | str | None = None,
        order: Annotated[int, Range(min=1, max=3)] = 2,
        solver: Literal["midpoint", "heun"] = "midpoint",
    ):
        super().__init__(steps, spacing, path)
        self.order, self.midpoint = order, solver == "midpoint"

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        times = torch.unique_consecutive(times)
        known, base, first, x0s = levels(path, times), x, 0, []
        for i, t, s in steps_of(times, x):
            now = estimate(x, t)
            if len(x0s) in (0, self.order) or not known[2][first].isfinite():
                base, first, x0s = x, i, []
            x0s.append(now.x0)
            ends = known[1][i + 1] == 0 or known[1][first] == 0
            x = place(path, now, s) if ends else self.step(base, x0s, known, first)
        return x

    def step(self, x: Tensor, x0s: list[Tensor], known: Levels, first: int) -> Tensor:
        """x (B,...) at time `first` and the x0 believed at it and at the times after it -> at the one after those."""
        last = first + len(x0s)
        alpha, sigma, lam = known
        h = lam[last] - lam[first]
        gained = -torch.expm1(-h)
        p2 = 1 - gained / h
        x = sigma[last] / sigma[first] * x + alpha[last] * gained * x0s[0]
        r = (lam[first + 1 : last] - lam[first]) / h
        slopes = [(x0 - x0s[0]) / node for x0, node in zip(x0s[1:], r, strict=True)]
        if not slopes:
            return x
        if self.midpoint:
            return x + alpha[last] * (gained / 2 if len(slopes) == 1 else p2) * slopes[-1]
        if len(slopes) == 1:
            return x + alpha[last] * p2 * slopes[0]
        bend = (slopes[1] - slopes[0]) / (r[1] - r[0])
        return x + alpha[last] * (p2 * (slopes[0] - r[0] * bend) - (2 * p2 / h - 1) * bend)
