"""Numbers as conditions: sinusoids side by side, two Linears, and a learned null.

Podell et al. 2023, SDXL (2307.01952), sec. 2.2 (sizes); Blattmann et al. 2023, Stable Video Diffusion (2311.15127),
app. D (frame rate and motion bucket).
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from vidiff.precision import no_autocast
from zoo.layers.embeddings import time_sinusoid

FREQUENCIES = 256
"""Channels of each number's sinusoid: periods from 2 pi to 60000, so numbers should differ by about one."""


class NumberEmbedding(nn.Module):
    """A few numbers to one vector, or to the null vector where they are dropped."""

    def __init__(self, num: int, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(num * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.null = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.null, std=0.02)

    def forward(self, numbers: Tensor, drop: Tensor) -> Tensor:
        """numbers (B,num), drop (B,) bool -> (B,width), in the precision of the weights."""
        with no_autocast(numbers.device):
            waves = rearrange(time_sinusoid(numbers, FREQUENCIES), "b n f -> b (n f)")
            return torch.where(drop[:, None], self.null, self.mlp(waves.to(self.null.dtype)))
