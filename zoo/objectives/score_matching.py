"""Denoising score matching along the VP-SDE: Song et al. 2021 (2011.13456), eq. 7 and app. C."""

from __future__ import annotations

from vidiff.diffusion.estimate import Prediction
from vidiff.diffusion.noise import Noise
from vidiff.diffusion.objective import PARTS, Objective
from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import OBJECTIVES


@OBJECTIVES.register("score_matching", parts=PARTS)
class ScoreMatching(Objective):
    """The score, its error weighted by sigma^2 (weighting `snr`), uniform times from 1e-5 on: at 0 it is infinite."""

    def __init__(
        self,
        path: Path | str = "vp",
        prediction: Prediction | str = "score",
        weighting: Weighting | str = "snr",
        times: Times | str = "uniform",
        noise: Noise | str = "gaussian",
        interval: Interval = (1e-5, 1.0),
    ):
        super().__init__(path, prediction, weighting, times, noise, interval)
