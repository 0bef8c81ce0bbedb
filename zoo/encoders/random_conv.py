"""Convolutions with fixed random weights: Saxe et al. 2011, "On Random Weights and Unsupervised Feature Learning".

A pooled random filter bank is selective and tolerates shifts without any learning: an encoder that needs no download,
and the control for what a trained encoder adds.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from vidiff.random import generator
from vidiff.registry import ENCODERS
from vidiff.types import Count, Natural


@ENCODERS.register("random_conv", tiny=dict(dim=12, layers=2))
class RandomConv:
    """3x3x3 convolutions with ReLU; each halves height and width, the first one time as well.

    The weights are a function of `seed` alone.
    """

    def __init__(self, dim: Count = 128, layers: Count = 3, seed: Natural = 0, *, shape: tuple[int, int, int, int]):
        self.dim, widths = dim, [shape[0], *[dim] * layers]
        self.weights = [
            math.sqrt(2 / (27 * a)) * torch.randn(b, a, 3, 3, 3, generator=generator(seed, "conv", i), device="cpu")
            for i, (a, b) in enumerate(pairwise(widths))
        ]

    def __call__(self, video: Tensor) -> Tensor:
        """video (B,C,T,H,W) in [-1,1] -> features (B,dim,t,h,w), of zero mean and unit variance over a clip's cells."""
        x = video.float()
        for i, weight in enumerate(self.weights):
            x = F.relu(F.conv3d(x, weight.to(x.device), stride=(2 if i == 0 else 1, 2, 2), padding=1))
        centred = x - x.mean((2, 3, 4), keepdim=True)
        return centred / centred.square().mean((2, 3, 4), keepdim=True).sqrt().clamp(min=1e-4)
