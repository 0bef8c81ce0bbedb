"""SDE-DPM-Solver++ (3M): k-diffusion's sample_dpmpp_3m_sde, after Lu et al. 2022 (2211.01095)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn
from vidiff.diffusion.multistep import data_step, fresh_std, order_of
from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Sampler, Spacing, levels, refuse_ascending, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count, NonNegative, Positive


@SAMPLERS.register("dpmpp_3m_sde", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class Dpmpp3mSde(Sampler):
    """`dpmpp_3m` for the reverse SDE of strength `eta`: 0 is the ODE, 1 the SDE of DDPM; fresh noise in every step.

    `solver` of its second step, `lower_order_final` and `exact` as there; k-diffusion has heun, diffusers midpoint.
    `minus_half` is diffusers' sign of the 1/2 in the quadratic term, which then does not vanish with the step.
    """

    reverses = False

    def __init__(
        self,
        steps: Count = 25,
        spacing: Spacing | str = "logsnr",
        path: Path | str | None = None,
        eta: NonNegative = 1.0,
        s_noise: Positive = 1.0,
        exact: bool = False,
        solver: Literal["midpoint", "heun"] = "heun",
        lower_order_final: bool = False,
        minus_half: bool = False,
    ):
        super().__init__(steps, spacing, path)
        self.eta, self.s_noise, self.exact = eta, s_noise, exact
        self.midpoint, self.lower_order_final = solver == "midpoint", lower_order_final
        self.half = -0.5 if minus_half else 0.5

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        refuse_ascending(times)
        times = torch.unique_consecutive(times)
        known, x0s = levels(path, times), []
        for i, t, _ in steps_of(times, x):
            x0s = [estimate(x, t).x0, *x0s[:2]]
            order = order_of(i, known[2], 3, self.lower_order_final)
            x = data_step(x, x0s, known, i, order, self.eta, self.midpoint, self.exact, self.half)
            if self.eta and known[1][i + 1]:
                x = x + self.s_noise * fresh_std(known, i, self.eta) * random.normal(x.shape, x.dtype).to(x.device)
        return x
