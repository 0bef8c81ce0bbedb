"""Times shifted by the size of the latent: Esser et al. 2024 (2403.03206, Stable Diffusion 3), sec. 5.3.2, eq. 23.

n equal cells under noise are as uncertain as one under noise of 1/sqrt(n), so m cells where n were before want a
noise level sqrt(m/n) times higher.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Around, Interval, Times
from vidiff.registry import TIMES
from vidiff.types import Grid, NonNegative, Positive
from zoo.objectives.times.shifted import Shifted


@TIMES.register("shifted_by_grid", parts={"times": "times"})
class ShiftedByGrid(Around):
    """`shifted` by factor (m / reference)^power, m the latent's tokens (t h w), its frames or its resolution (h w).

    Every batch has the factor of its own grid; a grid of `reference` cells has `factor` alone.
    """

    def __init__(
        self,
        by: Literal["tokens", "frames", "resolution"] = "tokens",
        reference: Positive = 256.0,
        power: NonNegative = 0.5,
        factor: Positive = 1.0,
        times: Times | str = "uniform",
    ):
        super().__init__(times)
        self.by, self.reference, self.power, self.factor = by, reference, power, factor

    def on(self, grid: Grid) -> Times:
        cells = {"tokens": grid.t * grid.h * grid.w, "frames": grid.t, "resolution": grid.h * grid.w}[self.by]
        return Shifted(self.factor * (cells / self.reference) ** self.power, self.times.on(grid))

    def quantile(self, u: Tensor, path: Path, interval: Interval) -> Tensor:
        """That of a grid of `reference` cells."""
        return Shifted(self.factor, self.times).quantile(u, path, interval)
