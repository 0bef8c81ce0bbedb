"""A time for every frame: Chen et al. 2024, Diffusion Forcing (2407.01392), alg. 1: each k_t is drawn on its own."""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times, open_uniform
from vidiff.random import Random
from vidiff.registry import TIMES
from vidiff.types import Grid


@TIMES.register("per_frame", parts={"times": "times"})
class PerFrame(Times):
    """Independent draws of another density for every latent frame of every clip."""

    framewise = True

    def __init__(self, times: Times | str = "uniform"):
        self.times = times

    def on(self, grid: Grid) -> Times:
        return PerFrame(self.times.on(grid))

    def quantile(self, u: Tensor, path: Path, interval: Interval) -> Tensor:
        return self.times.quantile(u, path, interval)

    def draw(self, random: Random, path: Path, interval: Interval, frames: int) -> Tensor:
        """(B,frames)."""
        return self.quantile(open_uniform(random, frames), path, interval)
