"""Betas in the shape of a sigmoid: Xu et al. 2022 (GeoDiff, 2203.02923); diffusers' "sigmoid"."""

from __future__ import annotations

import torch

from vidiff.diffusion.table import BetaTable, ramp
from vidiff.registry import PATHS
from vidiff.types import Count, Positive


@PATHS.register("ddpm_sigmoid", tiny=dict(num_timesteps=40))
class DdpmSigmoid(BetaTable):
    """betas = sigmoid(-6 … 6) between beta_start and beta_end (`sigmoid` shapes alpha^2 instead)."""

    def __init__(self, num_timesteps: Count = 1000, beta_start: Positive = 1e-4, beta_end: Positive = 0.02):
        shape = torch.sigmoid(ramp(-6.0, 6.0, num_timesteps))
        super().__init__(beta_start + (beta_end - beta_start) * shape)
