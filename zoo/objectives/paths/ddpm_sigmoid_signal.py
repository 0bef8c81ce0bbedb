"""The sigmoid schedule as a table: Jabri et al. 2022 (2212.11972); Chen 2023 (2301.10972); lucidrains' "sigmoid"."""

from __future__ import annotations

import torch

from vidiff.diffusion.table import BetaTable, ramp
from vidiff.registry import PATHS
from vidiff.types import Count, Fraction, Positive


@PATHS.register("ddpm_sigmoid_signal", tiny=dict(num_timesteps=40))
class DdpmSigmoidSignal(BetaTable):
    """alpha^2 shaped as in `sigmoid`, its betas at most `cap` (`ddpm_sigmoid` shapes the betas): diffusion forcing.

    Raises ValueError unless start < end.
    """

    def __init__(
        self,
        num_timesteps: Count = 1000,
        start: float = -3.0,
        end: float = 3.0,
        tau: Positive = 1.0,
        cap: Fraction = 0.999,
    ):
        if start >= end:
            raise ValueError(f"start {start:g} must be below end {end:g}.")
        shape = torch.sigmoid(ramp(start / tau, end / tau, num_timesteps + 1))
        # the published codes round the value at the end to float32 (an alpha^2 off by 1e-8); so do we
        last = torch.sigmoid(torch.tensor(end / tau, dtype=torch.float32, device="cpu")).double()
        signal = last - shape
        super().__init__((1 - signal[1:] / signal[:-1]).clamp(max=cap))
