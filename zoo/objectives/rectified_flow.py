"""Rectified flow: Liu et al. 2022 (2209.03003), eq. 1; flow matching, Lipman et al. 2022 (2210.02747)."""

from __future__ import annotations

from vidiff.diffusion.estimate import Prediction
from vidiff.diffusion.noise import Noise
from vidiff.diffusion.objective import PARTS, Objective
from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import OBJECTIVES


@OBJECTIVES.register("rectified_flow", parts=PARTS)
class RectifiedFlow(Objective):
    """The velocity noise - x0 of the straight path, plain squared error, uniform times (Nano-Sora, SiT)."""

    def __init__(
        self,
        path: Path | str = "linear",
        prediction: Prediction | str = "velocity",
        weighting: Weighting | str = "uniform",
        times: Times | str = "uniform",
        noise: Noise | str = "gaussian",
        interval: Interval = (0.0, 1.0),
    ):
        super().__init__(path, prediction, weighting, times, noise, interval)
