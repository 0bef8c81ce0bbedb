"""SNR weighting, the simple loss of DDPM: Ho et al. 2020 (2006.11239), eq. 14."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import WEIGHTINGS


@WEIGHTINGS.register("snr")
class Snr(Weighting):
    """alpha^2/sigma^2 |x0 - x0_hat|^2, which is |noise - noise_hat|^2: the noise loss behind any prediction."""

    space = "noise"

    def weight(self, path: Path, t: Tensor) -> Tensor:
        return torch.ones_like(t)
