"""Soft min-SNR: Crowson et al. 2024 (2401.11605, Hourglass diffusion transformers)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import WEIGHTINGS
from vidiff.types import Positive


@WEIGHTINGS.register("soft_min_snr")
class SoftMinSnr(Weighting):
    """SNR gamma / (SNR + gamma) |x0 - x0_hat|^2: `min_snr` without its corner.

    gamma is 1 / sigma_data^2 in k-diffusion.
    """

    space = "x0"

    def __init__(self, gamma: Positive = 4.0):
        self.gamma = gamma

    def weight(self, path: Path, t: Tensor) -> Tensor:
        return self.gamma * torch.sigmoid(path.logsnr(t) - math.log(self.gamma))
