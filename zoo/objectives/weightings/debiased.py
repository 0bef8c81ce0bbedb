"""Debiased estimation: Yu et al. 2023, Unmasking Bias in Diffusion Model Training (2310.08442)."""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import WEIGHTINGS


@WEIGHTINGS.register("debiased")
class Debiased(Weighting):
    """SNR^-1/2 |noise - noise_hat|^2, which is SNR^1/2 |x0 - x0_hat|^2: what high noise says about x0 counts more."""

    space = "x0"

    def weight(self, path: Path, t: Tensor) -> Tensor:
        return (path.logsnr(t) / 2).exp()
