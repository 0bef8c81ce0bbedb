"""Min-SNR-gamma: Hang et al. 2023 (2303.09556), sec. 3.4."""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import WEIGHTINGS
from vidiff.types import Positive


@WEIGHTINGS.register("min_snr")
class MinSnr(Weighting):
    """min(SNR, gamma) |x0 - x0_hat|^2, the same loss behind every prediction."""

    space = "x0"

    def __init__(self, gamma: Positive = 5.0):
        self.gamma = gamma

    def weight(self, path: Path, t: Tensor) -> Tensor:
        return path.logsnr(t).exp().clamp(max=self.gamma)
