"""Timestep respacing: Nichol & Dhariwal 2021 (2102.09672), sec. 4; "250" in DiT and Latte, "linspace" in diffusers."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Spacing
from vidiff.diffusion.times import Interval
from vidiff.registry import SPACINGS
from vidiff.types import Count


@SPACINGS.register("respaced")
class Respaced(Spacing):
    """S timesteps of T, equally spaced and rounded, first and last included, then clean; timestep i is t = (i+1)/T.

    `first` false leaves out the cleanest of S + 1 such timesteps (diffusers' DPM-Solver, DEIS, UniPC).
    Raises ValueError for more steps than timesteps.
    """

    def __init__(self, num_timesteps: Count = 1000, first: bool = True):
        self.num_timesteps, self.first = num_timesteps, first

    def __call__(self, steps: int, path: Path, interval: Interval) -> Tensor:
        parts = steps + (not self.first)
        if parts > self.num_timesteps:
            raise ValueError(f"{steps} sampling steps cannot be taken from {self.num_timesteps} timesteps.")
        timesteps = torch.linspace(self.num_timesteps - 1, 0, parts, dtype=torch.float64).round()[:steps]
        times = (timesteps + 1) / self.num_timesteps
        return torch.cat([times.clamp(*interval), times.new_zeros(1)])
