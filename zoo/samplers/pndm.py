"""Pseudo numerical methods: Liu et al. 2022 (PNDM, 2202.09778), eq. 9, 12 and 13; "PLMS" of latent diffusion."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vidiff.diffusion.estimate import Estimate, EstimateFn, place
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.sampler import Sampler, Spacing, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count

ADAMS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Adams and Bashforth's weights of the last noises for equal steps, the newest first."""


@SAMPLERS.register("pndm", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class Pndm(Sampler):
    """The step of `euler` (DDIM) with the noise of a linear multistep method: x0 = (x - sigma noise') / alpha.

    The weights are those of equal steps in t, whatever the grid (`lms` fits them to it). It begins with a step of two
    evaluations (`warmup` plms: skip_prk_steps), or three of Runge-Kutta's four (prk); steps to sigma = 0 have one.
    """

    def __init__(
        self,
        steps: Count = 50,
        spacing: Spacing | str = "uniform",
        path: Path | str | None = None,
        warmup: Literal["plms", "prk"] = "plms",
    ):
        super().__init__(steps, spacing, path)
        self.warmup = warmup

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        times, past = torch.unique_consecutive(times), []
        noisy = path.sigma(times) > 0
        for i, t, s in steps_of(times, x):
            past = [estimate(x, t), *past][:4]
            told = mix(ADAMS[len(past) - 1], past)
            if noisy[i + 1] and i < (3 if self.warmup == "prk" else 1):
                told = self.warm(estimate, path, x, past[0], t, s)
            x = moved(path, x, told, t, s)
        return x

    def warm(self, estimate: EstimateFn, path: Path, x: Tensor, now: Estimate, t: Tensor, s: Tensor) -> Estimate:
        """What a one-step method believes of the step from t to s, given what is believed at t."""
        if self.warmup == "plms":
            return mix((1 / 2, 1 / 2), [now, estimate(moved(path, x, now, t, s), s)])
        told, half = [now], (t + s) / 2
        for end in (half, half, s):
            told.append(estimate(moved(path, x, told[-1], t, end), end))
        return mix((1 / 6, 1 / 3, 1 / 3, 1 / 6), told)

    @property
    def evaluations(self) -> int:
        return self.steps + min(1, self.steps - 1) if self.warmup == "plms" else self.steps + 3 * min(3, self.steps - 1)


def moved(path: Path, x: Tensor, told: Estimate, t: Tensor, s: Tensor) -> Tensor:
    """x (B,...) from t to s (B,) with the noise told, and the x0 told where x has nothing of it (alpha = 0)."""
    alpha = path.alpha(t)
    x0 = told.x0 if (alpha == 0).any() else (x - expand(path.sigma(t), x) * told.noise) / expand(alpha, x)
    return place(path, Estimate(x0, told.noise), s)


def mix(weights: tuple[float, ...], told: list[Estimate]) -> Estimate:
    """The weighted sum of beliefs."""
    return Estimate(
        *(sum(w * part for w, part in zip(weights, parts, strict=True)) for parts in zip(*told, strict=True))
    )
