"""A table that ends in pure noise: Lin et al. 2023, "Common diffusion noise schedules ... are flawed" (2305.08891).

With a_i = sqrt(alphas_cumprod[i]), sec. 3.1, alg. 1:

    a_i <- (a_i - a_last) a_first / (a_first - a_last)

so that the first entry stays and the last is 0. Before that, the signal-to-noise ratio may be divided by a number
(CogVideoX, 2408.06072, by 3 in its smaller model): abar / (abar + shift (1 - abar)).
"""

from __future__ import annotations

import torch

from vidiff.diffusion.path import Path
from vidiff.diffusion.table import BetaTable
from vidiff.registry import PATHS
from vidiff.types import NonNegative, Positive


@PATHS.register("zero_snr", tiny=dict(path=dict(name="ddpm_scaled_linear", num_timesteps=40)), parts={"path": "path"})
class ZeroSNR(BetaTable):
    """Another table, `path`, moved to zero terminal SNR: eps and score cannot be asked for, v and x0 can.

    `shift` divides the signal-to-noise ratio of every entry first. `last` is alpha^2 of the last entry: 2^-24
    in diffusers' solvers in log-SNR (DPM-Solver, UniPC, Euler), where that must be finite.
    """

    def __init__(self, path: Path | str = "ddpm_scaled_linear", shift: Positive = 1.0, last: NonNegative = 0.0):
        """Raises ValueError for a path that is no table of betas, or ends in pure noise already."""
        table = getattr(path, "alphas_cumprod", None)
        if table is None:
            raise ValueError("path=zero_snr moves the entries of a table: give path one of the ddpm tables.")
        if not table[-1] > 0:
            raise ValueError("path=zero_snr: this table ends in pure noise already. Use it as it is.")
        shifted = table / (table + shift * (1 - table))
        a = shifted.sqrt()
        a = (a - a[-1]) * (a[0] / (a[0] - a[-1]))
        kept = torch.cat([a.new_ones(1), a]) ** 2
        kept[-1] = last
        super().__init__(1 - kept[1:] / kept[:-1])
