"""Fractional timesteps of a discrete chain: diffusers' Euler, Heun and LMS schedulers, after k-diffusion."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Spacing
from vidiff.diffusion.times import Interval
from vidiff.registry import SPACINGS
from vidiff.types import Count


@SPACINGS.register("linspace")
class Linspace(Spacing):
    """S timesteps of T, equally spaced and not rounded, first and last included, then clean.

    The noise level sigma/alpha is linear between two timesteps, as it is there. Rounded: `respaced`. Raises ValueError
    for more steps than timesteps.
    """

    def __init__(self, num_timesteps: Count = 1000):
        self.num_timesteps = num_timesteps

    def __call__(self, steps: int, path: Path, interval: Interval) -> Tensor:
        if steps > self.num_timesteps:
            raise ValueError(f"{steps} sampling steps cannot be taken from {self.num_timesteps} timesteps.")
        index = torch.linspace(self.num_timesteps - 1, 0, steps, dtype=torch.float64)
        low = index.floor()
        below, above = ((i + 1) / self.num_timesteps for i in (low, index.ceil()))
        levels = torch.lerp(*(path.sigma(t) / path.alpha(t) for t in (below, above)), index - low)
        entry = levels.isinf() | (low == index)  # a timestep itself, or no finite level to be linear in
        times = torch.where(entry, torch.lerp(below, above, index - low), path.time(-2 * levels.log()))
        return torch.cat([times.clamp(*interval), times.new_zeros(1)])
