"""The matrix of the cosine transform: Ahmed, Natarajan & Rao 1974, "Discrete cosine transform" (DCT-II)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.layers.embeddings import finest


def dct(num: int, like: Tensor) -> Tensor:
    """The orthonormal DCT-II (num,num), rows are frequencies; computed in float64 and rounded once."""
    n = torch.arange(num, dtype=finest(like.device), device=like.device)
    rows = torch.cos(math.pi / num * (n + 0.5) * n[:, None]) * math.sqrt(2 / num)
    return torch.where(n[:, None] == 0, math.sqrt(1 / num), rows).to(like.dtype)
