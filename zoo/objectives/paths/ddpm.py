"""The linear betas of DDPM: Ho et al. 2020 (2006.11239), sec. 4; scaled with T as improved-diffusion does."""

from __future__ import annotations

from vidiff.diffusion.table import BetaTable, ramp
from vidiff.registry import PATHS
from vidiff.types import Count, Positive


@PATHS.register("ddpm", tiny=dict(num_timesteps=40))
class Ddpm(BetaTable):
    """betas linear from beta_start to beta_end times 1000/T: what DiT and Latte were trained on.

    Raises ValueError when a beta exceeds 1 (T < 20 with the default ends; T = 20 ends in pure noise).
    """

    def __init__(self, num_timesteps: Count = 1000, beta_start: Positive = 1e-4, beta_end: Positive = 0.02):
        scale = 1000 / num_timesteps
        super().__init__(ramp(scale * beta_start, scale * beta_end, num_timesteps))
