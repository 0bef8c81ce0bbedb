"""A time for every frame: Chen et al. 2024, Diffusion Forcing (2407.01392), alg. 1: each k_t is drawn on its own."""

from __future__ import annotations

from vidiff.diffusion.times import Around, Times
from vidiff.registry import TIMES
from vidiff.types import Grid


@TIMES.register("per_frame", parts={"times": "times"})
class PerFrame(Around):
    """Independent draws of another density for every latent frame of every clip."""

    framewise = True

    def __init__(self, times: Times | str = "uniform"):
        super().__init__(times)

    def on(self, grid: Grid) -> Times:
        return PerFrame(self.times.on(grid))
