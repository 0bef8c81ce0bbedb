"""EDM: Karras et al. 2022 (2206.00364), table 1."""

from __future__ import annotations

from vidiff.diffusion.estimate import Prediction
from vidiff.diffusion.noise import Noise
from vidiff.diffusion.objective import PARTS, Objective
from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import OBJECTIVES


@OBJECTIVES.register("edm", parts=PARTS)
class Edm(Objective):
    """The preconditioned denoiser with log-normal noise levels; the weighted loss of an untrained network is 1 at each.

    For data of another deviation than 1 set prediction.sigma_data and weighting.sigma_data alike. Sample with
    spacing: karras; equal steps in t are equal steps in sigma, nearly all of them in pure noise.
    """

    def __init__(
        self,
        path: Path | str = "ve",
        prediction: Prediction | str = "edm",
        weighting: Weighting | str = "edm",
        times: Times | str = "lognormal_sigma",
        noise: Noise | str = "gaussian",
        interval: Interval = (0.0, 1.0),
    ):
        super().__init__(path, prediction, weighting, times, noise, interval)
