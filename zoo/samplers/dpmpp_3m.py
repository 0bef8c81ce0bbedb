"""DPM-Solver++ (3M), three steps: Lu et al. 2022 (2211.01095), sec. 3.4 and app. B."""

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


@SAMPLERS.register("dpmpp_3m", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class Dpmpp3m(Sampler):
    """x0 quadratic in lambda = log(alpha/sigma) through the last three evaluations: order 3 with `exact`.

    Without it the quadratic term has half its weight, as in the published codes, whose order is 2 (see `data_step`).

    It begins with orders 1 and 2 (`solver` as of `dpmpp_2m`) and ends at sigma = 0 with order 1; with
    `lower_order_final` it ends with orders 2 and 1 (diffusers below 15 steps).
    """

    def __init__(
        self,
        steps: Count = 25,
        spacing: Spacing | str = "logsnr",
        path: Path | str | None = None,
        lower_order_final: bool = False,
        exact: bool = False,
        solver: Literal["midpoint", "heun"] = "midpoint",
    ):
        super().__init__(steps, spacing, path)
        self.lower_order_final, self.exact, self.midpoint = lower_order_final, exact, solver == "midpoint"

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        times = torch.unique_consecutive(times)
        known, x0s = levels(path, times), []
        for i, t, s in steps_of(times, x):
            now = estimate(x, t)
            x0s = [now.x0, *x0s[:2]]
            order = order_of(i, known[2], 3, self.lower_order_final)
            x = (
                data_step(x, x0s, known, i, order, midpoint=self.midpoint, exact=self.exact)
                if known[1][i]
                else place(path, now, s)
            )
        return x
