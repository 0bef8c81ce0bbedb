"""Many steps at both ends: Lee et al. 2024, Beta Sampling is All You Need (2407.12173); diffusers' use_beta_sigmas."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidiff.diffusion.sampler import LevelSpacing
from vidiff.registry import SPACINGS
from vidiff.types import Positive

TERMS = 200
"""Of a series whose terms shrink by half, or faster."""


@SPACINGS.register("beta")
class Beta(LevelSpacing):
    """sigma_min + F^-1(1 - i/(S-1)) (sigma_max - sigma_min), then clean; F the distribution function of Beta(a, b).

    The paper spreads timesteps like this and diffusers noise levels, as here. In time: spacing `borrowed` of this one
    on `ve` with sigma_max 1 (what diffusers' flow schedulers do).
    """

    def __init__(
        self,
        a: Positive = 0.6,
        b: Positive = 0.6,
        sigma_min: Positive | None = None,
        sigma_max: Positive | None = None,
    ):
        super().__init__(sigma_min, sigma_max)
        self.a, self.b = a, b

    def ramp(self, high: float, low: float, steps: int) -> Tensor:
        shares = torch.linspace(1, 0, steps, dtype=torch.float64, device="cpu")
        return low + quantile(shares, self.a, self.b) * (high - low)


def quantile(u: Tensor, a: float, b: float) -> Tensor:
    """The x in [0,1] with distribution(x) = u, by bisection."""
    low, high = torch.zeros_like(u), torch.ones_like(u)
    for _ in range(64):
        middle = (low + high) / 2
        short = distribution(middle, a, b) < u
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return torch.where(u >= 1, 1.0, torch.where(u <= 0, 0.0, (low + high) / 2))


def distribution(x: Tensor, a: float, b: float) -> Tensor:
    """The incomplete beta function I_x(a, b); from its other end, 1 - I_(1-x)(b, a), beyond 1/2."""
    return torch.where(x <= 0.5, tail(x.clamp(max=0.5), a, b), 1 - tail((1 - x).clamp(max=0.5), b, a))


def tail(x: Tensor, a: float, b: float) -> Tensor:
    """x^a (1-x)^b / (a B(a,b)) (1 + sum_n x^n prod_(k<n) (a+b+k)/(a+1+k)) for x <= 1/2."""
    k = torch.arange(TERMS, dtype=x.dtype)
    terms = ((a + b + k) / (a + 1 + k) * x[..., None]).cumprod(-1)
    scale = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)) / a
    return scale * x**a * (1 - x) ** b * (1 + terms.sum(-1))
