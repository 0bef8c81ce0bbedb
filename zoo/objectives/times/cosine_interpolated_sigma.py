"""Shifted and interpolated cosine noise levels: Hoogeboom et al. 2023 (simple diffusion, 2301.11093), sec. 3.1.

logsnr_d(u) = -2 log tan(a + u (b - a)) + 2 log(d / size),    logsnr(u) = (1 - u) logsnr_high(u) + u logsnr_low(u)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times
from vidiff.registry import TIMES
from vidiff.types import Positive


@TIMES.register("cosine_interpolated_sigma")
class CosineInterpolatedSigma(Times):
    """The cosine schedule as if the last of the noise were added at size `noise_low`, the first at `noise_high`.

    `size` is the side of the frames, `sigma_data` the deviation that levels are counted in. Levels beyond the
    interval fall on its ends. Raises ValueError unless sigma_min < sigma_max.
    """

    def __init__(
        self,
        size: Positive = 64.0,
        noise_low: Positive = 32.0,
        noise_high: Positive = 64.0,
        sigma_data: Positive = 1.0,
        sigma_min: Positive = 1e-3,
        sigma_max: Positive = 1e3,
    ):
        if sigma_min >= sigma_max:
            raise ValueError(f"sigma_min {sigma_min:g} must be below sigma_max {sigma_max:g}.")
        self.shifts = 2 * math.log(noise_low / size), 2 * math.log(noise_high / size)
        self.sigma_data = sigma_data
        self.ends = -2 * math.log(sigma_min / sigma_data), -2 * math.log(sigma_max / sigma_data)

    def quantile(self, u: Tensor, path: Path, interval: Interval) -> Tensor:
        low, high = (self._shifted(u, shift) for shift in self.shifts)
        logsnr = torch.lerp(high, low, u) - 2 * math.log(self.sigma_data)
        return path.time(logsnr).clamp(*interval)

    def _shifted(self, u: Tensor, shift: float) -> Tensor:
        first, last = (math.atan(math.exp(-(end - shift) / 2)) for end in self.ends)
        return shift - 2 * torch.tan(first + u * (last - first)).log()
