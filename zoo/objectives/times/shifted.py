"""Times shifted towards noise, as larger inputs need: Esser et al. 2024 (2403.03206), eq. 23."""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Around, Interval, Times, within
from vidiff.registry import TIMES
from vidiff.types import Grid, Positive


@TIMES.register("shifted", parts={"times": "times"})
class Shifted(Around):
    """t' = s t / (1 + (s - 1) t) of another density; on the linear path that multiplies sigma/alpha by s = `factor`.

    In an interval other than [0, 1], of the fraction of the way through it.
    """

    def __init__(self, factor: Positive = 3.0, times: Times | str = "uniform"):
        super().__init__(times)
        self.factor = factor

    def on(self, grid: Grid) -> Times:
        return Shifted(self.factor, self.times.on(grid))

    def quantile(self, u: Tensor, path: Path, interval: Interval) -> Tensor:
        low, high = interval
        fraction = (self.times.quantile(u, path, interval) - low) / (high - low)
        return within(interval, self.factor * fraction / (1 + (self.factor - 1) * fraction))
