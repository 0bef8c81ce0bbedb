"""Every k-th step of a discrete chain, from its clean end: Song et al. 2020 (2010.02502), app. D; "ddimN" in DiT."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Spacing
from vidiff.diffusion.times import Interval
from vidiff.registry import SPACINGS
from vidiff.types import Count, Natural


@SPACINGS.register("leading")
class Leading(Spacing):
    """Timesteps (S-1)k + offset, …, k + offset, offset of T with k = T // S, then clean; timestep i is t = (i+1)/T.

    `first` false leaves out the cleanest of S + 1 such timesteps, k = T // (S+1) (diffusers' DPM-Solver, DEIS, UniPC).
    Starts k - 1 - offset steps below the noisiest level, as the published samplers do. Raises ValueError for
    more steps than timesteps.
    """

    def __init__(self, num_timesteps: Count = 1000, offset: Natural = 0, first: bool = True):
        self.num_timesteps, self.offset, self.first = num_timesteps, offset, first

    def __call__(self, steps: int, path: Path, interval: Interval) -> Tensor:
        parts = steps + (not self.first)
        if parts > self.num_timesteps:
            raise ValueError(f"{steps} sampling steps cannot be taken from {self.num_timesteps} timesteps.")
        timesteps = torch.arange(parts - 1, -1, -1)[:steps] * (self.num_timesteps // parts) + self.offset
        times = (timesteps.double() + 1) / self.num_timesteps
        return torch.cat([times.clamp(*interval), times.new_zeros(1)])
