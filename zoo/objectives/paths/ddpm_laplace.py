"""Noise levels spread like a Laplace density: Hang & Gu 2024, Improved Noise Schedule (2407.03297); diffusers."""

from __future__ import annotations

import torch

from vidiff.diffusion.table import BetaTable, ramp
from vidiff.registry import PATHS
from vidiff.types import Count, Fraction

EDGE = 1e-6
"""What keeps the log-SNR finite at both ends."""


@PATHS.register("ddpm_laplace", tiny=dict(num_timesteps=40))
class DdpmLaplace(BetaTable):
    """log-SNR = -1/2 sign(1/2 - t) log(1 - 2|1/2 - t|), many steps near 0; betas at most `cap`.

    As in diffusers, the product of (1 - beta) follows alpha = sqrt(SNR / (1 + SNR)) and not its square, scaled to 1
    at t = 0.
    """

    def __init__(self, num_timesteps: Count = 1000, cap: Fraction = 0.999):
        middle = 0.5 - ramp(0.0, 1.0, num_timesteps + 1)
        sign = torch.ones_like(middle).copysign(middle)
        logsnr = -sign / 2 * torch.log(1 - 2 * middle.abs() + EDGE)
        alpha = torch.sigmoid(logsnr).sqrt()
        super().__init__((1 - alpha[1:] / alpha[:-1]).clamp(max=cap))
