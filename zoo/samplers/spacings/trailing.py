"""Every k-th step of a discrete chain, from its noisy end: Lin et al. 2023 (2305.08891), sec. 3.3."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Spacing
from vidiff.diffusion.times import Interval
from vidiff.registry import SPACINGS
from vidiff.types import Count


@SPACINGS.register("trailing")
class Trailing(Spacing):
    """Timesteps round(T - i T / S) - 1, then clean; timestep i is t = (i+1)/T. `uniform` is the same, not rounded.

    Raises ValueError for more steps than timesteps.
    """

    def __init__(self, num_timesteps: Count = 1000):
        self.num_timesteps = num_timesteps

    def __call__(self, steps: int, path: Path, interval: Interval) -> Tensor:
        if steps > self.num_timesteps:
            raise ValueError(f"{steps} sampling steps cannot be taken from {self.num_timesteps} timesteps.")
        timesteps = torch.arange(steps, 0, -1, dtype=torch.float64) * (self.num_timesteps / steps)
        times = timesteps.round() / self.num_timesteps
        return torch.cat([times.clamp(*interval), times.new_zeros(1)])
