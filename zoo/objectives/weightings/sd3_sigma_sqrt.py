"""The "sigma_sqrt" weights of SD3 training: Esser et al. 2024 (2403.03206), sec. 3.1; diffusers' training scripts."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import WEIGHTINGS


@WEIGHTINGS.register("sd3_sigma_sqrt")
class Sd3SigmaSqrt(Weighting):
    """s^-2 |x0 - x0_hat|^2, s = sigma / (alpha + sigma), the linear path's time of the level: its plain flow loss.

    The published scripts weigh the error of x0 (preconditioned outputs), and so does this, behind every prediction.
    """

    space = "x0"

    def weight(self, path: Path, t: Tensor) -> Tensor:
        return torch.sigmoid(-path.logsnr(t) / 2) ** -2
