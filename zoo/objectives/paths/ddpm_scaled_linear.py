"""The betas of latent diffusion, linear in their square root: Rombach et al. 2022 (2112.10752)."""

from __future__ import annotations

from vidiff.diffusion.table import BetaTable, ramp
from vidiff.registry import PATHS
from vidiff.types import Count, Positive


@PATHS.register("ddpm_scaled_linear", tiny=dict(num_timesteps=40))
class DdpmScaledLinear(BetaTable):
    """sqrt(beta) linear from sqrt(beta_start) to sqrt(beta_end): Stable Diffusion, CogVideo (their "linear")."""

    def __init__(self, num_timesteps: Count = 1000, beta_start: Positive = 0.00085, beta_end: Positive = 0.012):
        super().__init__(ramp(beta_start**0.5, beta_end**0.5, num_timesteps) ** 2)
