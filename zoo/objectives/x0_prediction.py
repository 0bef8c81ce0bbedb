"""Data prediction: Ho et al. 2020 (2006.11239), sec. 3.2; `predict_xstart` of improved-diffusion (2102.09672)."""

from __future__ import annotations

from vidiff.diffusion.estimate import Prediction
from vidiff.diffusion.noise import Noise
from vidiff.diffusion.objective import PARTS, Objective
from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import OBJECTIVES


@OBJECTIVES.register("x0_prediction", parts=PARTS)
class X0Prediction(Objective):
    """The clean latent on the linear-beta path, plain squared error, uniform times: `epsilon` but for the prediction.

    Plain error of x0 counts low noise far less than that of the noise; weighting: snr gives `epsilon`'s loss.
    """

    def __init__(
        self,
        path: Path | str = "ddpm",
        prediction: Prediction | str = "x0",
        weighting: Weighting | str = "uniform",
        times: Times | str = "uniform",
        noise: Noise | str = "gaussian",
        interval: Interval = (0.0, 1.0),
    ):
        super().__init__(path, prediction, weighting, times, noise, interval)
