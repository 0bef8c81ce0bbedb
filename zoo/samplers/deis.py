"""DEIS: Zhang & Chen 2022 (2204.13902), the multistep form with polynomials in log rho (diffusers' DEIS)."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn, place
from vidiff.diffusion.multistep import interpolating_weights, order_of
from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Sampler, Spacing, levels, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count, Range


@SAMPLERS.register("deis", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class Deis(Sampler):
    """d(x/alpha) = noise d rho, rho = sigma/alpha: noise a polynomial in log rho, integrated exactly; order 1 to 4.

    The polynomials in rho itself are those of `lms` on `ve`. The step from alpha = 0 and the one to sigma = 0 are of
    first order; with `lower_order_final` the orders descend to 1 at the end (diffusers below 15 steps).
    """

    def __init__(
        self,
        steps: Count = 25,
        spacing: Spacing | str = "logsnr",
        path: Path | str | None = None,
        order: Annotated[int, Range(min=1, max=4)] = 3,
        lower_order_final: bool = False,
    ):
        super().__init__(steps, spacing, path)
        self.order, self.lower_order_final = order, lower_order_final

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        times = torch.unique_consecutive(times)
        (alpha, sigma, lam), noises = levels(path, times), []
        for i, t, s in steps_of(times, x):
            now = estimate(x, t)
            noises = [now.noise, *noises][: self.order]
            order = order_of(i, lam, self.order, self.lower_order_final)
            if order == 1:
                x = place(path, now, s)
                continue
            nodes = lam[i] - lam[i - order + 1 : i + 1].flip(0)  # log (rho_j / rho_i), 0 first
            weights = interpolating_weights(nodes, exponential_moments(lam[i] - lam[i + 1], order))
            push = sum(w * noise for w, noise in zip(weights, noises, strict=False))
            x = alpha[i + 1] / alpha[i] * x + alpha[i + 1] * sigma[i] / alpha[i] * push
        return x


def exponential_moments(u: Tensor, num: int) -> Tensor:
    """The integrals of v^n e^v from 0 to u, n < num: u^n e^u - n times the one before."""
    moments = [torch.expm1(u)]
    for n in range(1, num):
        moments.append(u**n * torch.exp(u) - n * moments[-1])
    return torch.stack(moments)
