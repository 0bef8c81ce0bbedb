"""The times of one path on another: diffusers' flow schedulers with karras, exponential or beta "sigmas"."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Spacing
from vidiff.diffusion.times import Interval
from vidiff.registry import SPACINGS


@SPACINGS.register("borrowed", tiny=dict(of=dict(name="ve", sigma_max=1.0), spacing="karras"),
                   parts={"of": "path", "spacing": "spacing"})  # fmt: skip
class Borrowed(Spacing):
    """The times that `spacing` gives on the path `of`, whatever the path; `matched` keeps the noise levels instead.

    On `ve` with sigma_max 1 the noise level is the time, so that karras, logsnr, polyexponential and beta spread times.
    """

    def __init__(self, of: Path | str = "ve", spacing: Spacing | str = "karras"):
        self.of, self.spacing, self.fixed = of, spacing, spacing.fixed

    def __call__(self, steps: int, path: Path, interval: Interval) -> Tensor:
        times = self.spacing(steps, self.of, interval)
        return torch.cat([times[:-1].clamp(*interval), times[-1:]])
