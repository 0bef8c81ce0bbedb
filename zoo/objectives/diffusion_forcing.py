"""Diffusion forcing: Chen et al. 2024 (2407.01392), alg. 1; Song et al. 2025 (2502.06764) for whole-clip transformers.

Every latent frame has a time of its own, so a frame may be known (time 0), vague or not there at all (time 1), and
one network goes on from any frames, fills in, or draws everything: `task: pyramid`, `rollout` and `conditioning`.
"""

from __future__ import annotations

from vidiff.diffusion.estimate import Prediction
from vidiff.diffusion.noise import Noise
from vidiff.diffusion.objective import PARTS, Objective
from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import OBJECTIVES
from zoo.objectives.times.per_frame import PerFrame


@OBJECTIVES.register("diffusion_forcing", parts=PARTS)
class DiffusionForcing(Objective):
    """v on the cosine path with independent times per frame; `times` is the density of each of them.

    The published code weights by fused SNR: weighting: fused_snr.
    """

    def __init__(
        self,
        path: Path | str = "cosine",
        prediction: Prediction | str = "v",
        weighting: Weighting | str = "uniform",
        times: Times | str = "uniform",
        noise: Noise | str = "gaussian",
        interval: Interval = (0.0, 1.0),
    ):
        each = times if times.framewise else PerFrame(times)
        super().__init__(path, prediction, weighting, each, noise, interval)
