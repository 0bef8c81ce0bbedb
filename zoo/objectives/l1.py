"""Absolute instead of squared error: the "L1" of Saharia et al. 2022 (SR3, 2104.07636) and lucidrains' video U-Net.

    loss = mean over the batch of  w * mean over elements of |y - p x0 - q noise|

w is the weighting's for an absolute error: it moves between spaces by the error ratio, not by its square.
"""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.estimate import Prediction
from vidiff.diffusion.noise import Noise
from vidiff.diffusion.objective import PARTS, Objective, per_time
from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times
from vidiff.diffusion.weighting import Weighting, error_ratio
from vidiff.registry import OBJECTIVES


@OBJECTIVES.register("l1", parts=PARTS)
class L1(Objective):
    """Any path and prediction with the mean absolute error, which estimates medians; the noise on the cosine table.

    "mse" stays the mean square of the network's error.
    """

    power = 1.0

    def __init__(
        self,
        path: Path | str = "ddpm_cosine",
        prediction: Prediction | str = "eps",
        weighting: Weighting | str = "uniform",
        times: Times | str = "uniform",
        noise: Noise | str = "gaussian",
        interval: Interval = (0.0, 1.0),
    ):
        super().__init__(path, prediction, weighting, times, noise, interval)

    def penalty(self, error: Tensor, t: Tensor) -> Tensor:
        """The weighted mean absolute error, shaped like t."""
        ratio = error_ratio(self.weighting.space, self.path, self.prediction, t).sqrt()
        size = per_time(error.abs(), t)
        return self.weighting.loss(self.path, self.prediction, t, size / ratio.to(size.dtype))
