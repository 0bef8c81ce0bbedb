"""The noise levels of one path on another: EDM's "vp" discretization, k-diffusion's get_sigmas_vp."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Spacing
from vidiff.diffusion.times import Interval
from vidiff.registry import SPACINGS


@SPACINGS.register("matched", parts={"of": "path", "spacing": "spacing"})
class Matched(Spacing):
    """The times at which this path has the noise levels sigma/alpha that `spacing` gives on the path `of`.

    Of both paths the levels that they share are used.
    """

    def __init__(self, of: Path | str = "vp", spacing: Spacing | str = "uniform"):
        self.of, self.spacing = of, spacing
        self.fixed = spacing.fixed

    def __call__(self, steps: int, path: Path, interval: Interval) -> Tensor:
        ends = torch.tensor(interval, dtype=torch.float64, device="cpu")
        theirs = self.spacing(steps, self.of, tuple(self.of.time(path.logsnr(ends)).tolist()))
        times = path.time(self.of.logsnr(theirs[:-1])).clamp(*interval)
        return torch.cat([times, times.new_zeros(1)])
