"""The density over t that training draws from."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.random import Random
from vidiff.types import Grid

Interval = tuple[float, float]


class Times:
    """A density over t in an interval [low, high], given by its quantile function.

    `framewise` says that the frames of a clip have times of their own.
    """

    framewise = False

    def quantile(self, u: Tensor, path: Path, interval: Interval) -> Tensor:
        """u in (0,1) -> t in the interval, ascending in u, shaped like u."""
        raise NotImplementedError

    def on(self, grid: Grid) -> Times:
        """The density for latents of this grid: another one where it depends on their size."""
        return self

    def draw(self, random: Random, path: Path, interval: Interval, frames: int) -> Tensor:
        """Times for a batch: (B,), or (B,frames) for a density per frame; float64 where the device has it."""
        each = (frames,) if self.framewise else ()
        return self.quantile(self.spread(open_uniform(random, *each), random), path, interval)

    def spread(self, u: Tensor, random: Random) -> Tensor:
        """Independent u (B,) or (B,frames) -> those whose quantiles are drawn, uniform in (0,1) each, shaped like u."""
        return u


class Around(Times):
    """A density made of another one, its part `times`: frames with times of their own and strata are that one's."""

    def __init__(self, times: Times):
        self.times = times

    @property
    def framewise(self) -> bool:
        """Whether the other density draws a time for every frame."""
        return self.times.framewise

    def quantile(self, u: Tensor, path: Path, interval: Interval) -> Tensor:
        return self.times.quantile(u, path, interval)

    def spread(self, u: Tensor, random: Random) -> Tensor:
        return self.times.spread(u, random)


def within(interval: Interval, fraction: Tensor) -> Tensor:
    """A fraction in [0,1] of the way through the interval, as a time."""
    low, high = interval
    return low + (high - low) * fraction


def open_uniform(random: Random, *each: int) -> Tensor:
    """u (B,*each), strictly inside (0,1), drawn row by row; float64 where the device has it."""
    dtype = time_dtype(random.device)
    edge = max(1e-9, torch.finfo(dtype).eps)
    return random.uniform((len(random.rows), *each), dtype=dtype).clamp(edge, 1 - edge)


def times_on(device: torch.device, times: Tensor) -> Tensor:
    """`times` on this device, in float64 where it has float64."""
    return times.to(time_dtype(device)).to(device)


def time_dtype(device: torch.device | str) -> torch.dtype:
    """float64, in which times are kept, but float32 on mps, which has no other."""
    return torch.float32 if torch.device(device).type == "mps" else torch.float64
