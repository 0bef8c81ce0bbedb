"""betas 1/T, 1/(T-1) … 1: Sohl-Dickstein et al. 2015 (1503.03585), sec. 2.4.1; "jsd" in DDPM's code (2006.11239)."""

from __future__ import annotations

from vidiff.diffusion.table import BetaTable, ramp
from vidiff.registry import PATHS
from vidiff.types import Count


@PATHS.register("ddpm_jsd", tiny=dict(num_timesteps=40))
class DdpmJsd(BetaTable):
    """Each step erases the same share of the signal's power, alpha^2 = 1 - t at the entries: none is left at t = 1."""

    def __init__(self, num_timesteps: Count = 1000):
        super().__init__(1 / ramp(num_timesteps, 1.0, num_timesteps))
