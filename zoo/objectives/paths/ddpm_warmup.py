"""Betas that rise at first and stay: the "warmup10" and "warmup50" of DDPM's code, Ho et al. 2020 (2006.11239)."""

from __future__ import annotations

import torch

from vidiff.diffusion.table import BetaTable, ramp
from vidiff.registry import PATHS
from vidiff.types import Count, Fraction, Positive


@PATHS.register("ddpm_warmup", tiny=dict(num_timesteps=40))
class DdpmWarmup(BetaTable):
    """betas linear from beta_start to beta_end over the first `fraction` of the steps, then beta_end."""

    def __init__(
        self,
        num_timesteps: Count = 1000,
        beta_start: Positive = 1e-4,
        beta_end: Positive = 0.02,
        fraction: Fraction = 0.1,
    ):
        rising = int(num_timesteps * fraction)
        constant = ramp(beta_end, beta_end, num_timesteps - rising)
        super().__init__(torch.cat([ramp(beta_start, beta_end, rising), constant]))
