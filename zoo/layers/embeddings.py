"""Numbers to vectors: sinusoids of the time and of coordinates.

Vaswani et al. 2017 (1706.03762), sec. 3.5, in the two orders that diffusion transformers use:
time is [cos, sin] over 256 frequencies (DiT, 2212.09748), positions are [sin, cos].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidiff.precision import no_autocast

MAX_PERIOD = 10000.0


def time_frequencies(num: int, device: torch.device) -> Tensor:
    """w_i = 10000^(-i/num), (num,) float32; the exponential in float64, so that every machine rounds it alike."""
    exponent = -math.log(MAX_PERIOD) * torch.arange(num, dtype=torch.float32, device=device) / num
    return exponent.to(finest(device)).exp().float()


def time_sinusoid(time: Tensor, num: int) -> Tensor:
    """time (...,) -> (...,num): [cos(w_i t), sin(w_i t)] with num/2 frequencies, and a zero behind where num is odd.

    Always float32, in a float64 model as well: the official networks were trained with these roundings.
    """
    angles = time.float()[..., None] * time_frequencies(num // 2, time.device)
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, num % 2))


class TimeEmbedding(nn.Module):
    """Time to width: sinusoid, Linear, SiLU, Linear (DiT).

    `scale` multiplies the time first. A time of order one, unscaled, would hardly turn the sinusoids
    (periods 2 pi to 60000), and neighbouring times would look the same to the network.
    """

    def __init__(self, dim: int, scale: float = 1000.0, frequencies: int = 256):
        super().__init__()
        self.scale, self.frequencies = scale, frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, time: Tensor) -> Tensor:
        """time (...,) -> (...,D), in the precision of the weights: this is small, so AMP stays out."""
        with no_autocast(time.device):
            return self.mlp(time_sinusoid(time * self.scale, self.frequencies).to(self.mlp[0].weight.dtype))


class TimeFromNoise(TimeEmbedding):
    """The same of 1 - time, for networks that count from noise to data (SiT, Nano-Sora)."""

    def forward(self, time: Tensor) -> Tensor:
        """time (...,) -> (...,D)."""
        return super().forward(1 - time)


TIMES = {"data": TimeEmbedding, "noise": TimeFromNoise}
"""Where a network counts the time from."""


def coordinates(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """The index of every cell of a grid along each of its k axes: (*sizes, k), float32."""
    axes = [torch.arange(n, dtype=torch.float32, device=device) for n in sizes]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def angles(position: Tensor, num: int, base: float = MAX_PERIOD) -> Tensor:
    """(...,) -> (...,num): position * base^(-i/num), in float64 where there is one."""
    exact = finest(position.device)
    w = base ** (-torch.arange(num, dtype=exact, device=position.device) / num)
    return position.to(exact)[..., None] * w


def rounded_frequencies(dim: int) -> Tensor:
    """(dim//2,): 10000^(-2i/dim) with the roundings to float32 that published rotary positions were trained with."""
    return 1 / MAX_PERIOD ** (torch.arange(0, dim, 2)[: dim // 2].float() / dim)


def finest(device: torch.device) -> torch.dtype:
    """float64, or float32 on the one device without it (mps)."""
    return torch.float32 if device.type == "mps" else torch.float64


def sincos(position: Tensor, dim: int) -> Tensor:
    """(...,) -> (...,dim) float32: [sin, cos] of dim/2 angles; computed in float64 and rounded once."""
    a = angles(position, dim // 2)
    return torch.cat([a.sin(), a.cos()], dim=-1).float()
