"""v-prediction on the cosine path: Salimans & Ho 2022 (2202.00512), app. D."""

from __future__ import annotations

from vidiff.diffusion.estimate import Prediction
from vidiff.diffusion.noise import Noise
from vidiff.diffusion.objective import PARTS, Objective
from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import OBJECTIVES


@OBJECTIVES.register("v_prediction", parts=PARTS)
class VPrediction(Objective):
    """v = alpha noise - sigma x0 on the cosine path, plain squared error (which is SNR + 1 on x0), uniform times."""

    def __init__(
        self,
        path: Path | str = "cosine",
        prediction: Prediction | str = "v",
        weighting: Weighting | str = "uniform",
        times: Times | str = "uniform",
        noise: Noise | str = "gaussian",
        interval: Interval = (0.0, 1.0),
    ):
        super().__init__(path, prediction, weighting, times, noise, interval)
