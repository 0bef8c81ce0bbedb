"""DPM-Solver, multistep in the noise: Lu et al. 2022 (2206.00927), eq. 3.4; multistep and SDE as in 2211.01095."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn, place
from vidiff.diffusion.multistep import noise_step, order_of
from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Sampler, Spacing, levels, refuse_ascending, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count, Range


@SAMPLERS.register("dpm_solver", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class DpmSolver(Sampler):
    """`dpmpp_2m` and `dpmpp_3m` with the noise as a polynomial in lambda instead of x0: diffusers' dpmsolver.

    `stochastic` follows the reverse SDE (sde-dpmsolver). `solver`, `lower_order_final` and `exact` as of `dpmpp_3m`.
    The first step and the one to sigma = 0, which is the `euler` one, are of first order.
    """

    def __init__(
        self,
        steps: Count = 25,
        spacing: Spacing | str = "logsnr",
        path: Path | str | None = None,
        order: Annotated[int, Range(min=1, max=3)] = 2,
        solver: Literal["midpoint", "heun"] = "midpoint",
        stochastic: bool = False,
        lower_order_final: bool = False,
        exact: bool = False,
    ):
        super().__init__(steps, spacing, path)
        self.order, self.midpoint, self.stochastic = order, solver == "midpoint", stochastic
        self.lower_order_final, self.exact = lower_order_final, exact
        self.reverses = not stochastic

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        if self.stochastic:
            refuse_ascending(times)
        times = torch.unique_consecutive(times)
        known, noises = levels(path, times), []
        for i, t, s in steps_of(times, x):
            now = estimate(x, t)
            noises = [now.noise, *noises][: self.order]
            if not known[2][i : i + 2].isfinite().all():
                x = place(path, now, s)
                continue
            order = order_of(i, known[2], self.order, self.lower_order_final)
            x = noise_step(x, noises, known, i, order, self.stochastic, self.midpoint, self.exact)
            if self.stochastic:
                std = known[1][i + 1] * torch.sqrt(torch.expm1(2 * (known[2][i + 1] - known[2][i])))
                x = x + std * random.normal(x.shape, x.dtype).to(x.device)
        return x
