"""Truncated SNR weighting: Salimans & Ho 2022 (2202.00512), sec. 4."""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import WEIGHTINGS


@WEIGHTINGS.register("truncated_snr")
class TruncatedSnr(Weighting):
    """max(SNR, 1) |x0 - x0_hat|^2: the larger of the noise and the data loss."""

    space = "x0"

    def weight(self, path: Path, t: Tensor) -> Tensor:
        return path.logsnr(t).exp().clamp(min=1)
