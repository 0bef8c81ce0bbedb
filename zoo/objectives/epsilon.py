"""Noise prediction as in DDPM: Ho et al. 2020 (2006.11239), eq. 14."""

from __future__ import annotations

from vidiff.diffusion.estimate import Prediction
from vidiff.diffusion.noise import Noise
from vidiff.diffusion.objective import PARTS, Objective
from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import OBJECTIVES


@OBJECTIVES.register("epsilon", parts=PARTS)
class Epsilon(Objective):
    """The noise on the linear-beta path, plain squared error, uniform times (DiT, Latte without learned variance)."""

    def __init__(
        self,
        path: Path | str = "ddpm",
        prediction: Prediction | str = "eps",
        weighting: Weighting | str = "uniform",
        times: Times | str = "uniform",
        noise: Noise | str = "gaussian",
        interval: Interval = (0.0, 1.0),
    ):
        super().__init__(path, prediction, weighting, times, noise, interval)
