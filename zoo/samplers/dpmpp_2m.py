"""DPM-Solver++ (2M), two steps: Lu et al. 2022 (2211.01095), alg. 2."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn, place
from vidiff.diffusion.multistep import data_step, order_of
from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Sampler, Spacing, levels, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count


@SAMPLERS.register("dpmpp_2m", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class Dpmpp2m(Sampler):
    """x0 linear in lambda = log(alpha/sigma) through the last two evaluations, integrated exactly: order 2.

    `solver` heun integrates the line itself, midpoint (the paper's) approximates its integral. The first step and the
    one to sigma = 0 are of first order; with `lower_order_final` the last one in any case (diffusers below 15 steps).
    """

    def __init__(
        self,
        steps: Count = 25,
        spacing: Spacing | str = "logsnr",
        path: Path | str | None = None,
        solver: Literal["midpoint", "heun"] = "midpoint",
        lower_order_final: bool = False,
    ):
        super().__init__(steps, spacing, path)
        self.midpoint, self.lower_order_final = solver == "midpoint", lower_order_final

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        times = torch.unique_consecutive(times)
        known, x0s = levels(path, times), []
        for i, t, s in steps_of(times, x):
            now = estimate(x, t)
            x0s = [now.x0, *x0s[:1]]
            order = order_of(i, known[2], 2, self.lower_order_final)
            x = data_step(x, x0s, known, i, order, midpoint=self.midpoint) if known[1][i] else place(path, now, s)
        return x
