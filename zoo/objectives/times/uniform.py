"""Every time equally often: Ho et al. 2020 (2006.11239), alg. 1, in continuous time."""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times, within
from vidiff.registry import TIMES


@TIMES.register("uniform")
class Uniform(Times):
    """t uniform in the interval."""

    def quantile(self, u: Tensor, path: Path, interval: Interval) -> Tensor:
        return within(interval, u)
