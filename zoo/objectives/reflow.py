"""Reflow, the "rectified" of rectified flow: Liu et al. 2022 (2209.03003), alg. 1 and sec. 2.2.

    x0 = ODE(teacher, noise),      loss = |velocity(x_t, t) - (noise - x0)|^2   on   x_t = (1 - t) x0 + t noise

Pairs of noise and what the teacher's ODE makes of it do not cross where independent ones do, so trajectories become
straighter, and few steps do. `straightness` (a callback) measures it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import Prediction
from vidiff.diffusion.guidance import Guidance
from vidiff.diffusion.noise import Noise, PriorRandom
from vidiff.diffusion.objective import PARTS, Net, Objective
from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Sampler, start
from vidiff.diffusion.times import Interval, Times, times_on
from vidiff.diffusion.weighting import Weighting
from vidiff.random import Random
from vidiff.registry import OBJECTIVES
from vidiff.types import Cond, Load, Run


@OBJECTIVES.register(
    "reflow", tiny=dict(teacher="runs/teacher"), parts={**PARTS, "sampler": "sampler", "guidance": "guidance"}
)
class Reflow(Objective):
    """Rectified flow between noise and what `teacher` draws from it, by `sampler` and under the clip's own condition.

    Of the data only the conditions are used. The noise of a pair is a function of its sample number, so a run that was
    interrupted meets the same pairs. Each step costs a sampling run of the teacher.
    """

    def __init__(
        self,
        teacher: Run,
        path: Path | str = "linear",
        prediction: Prediction | str = "velocity",
        weighting: Weighting | str = "uniform",
        times: Times | str = "uniform",
        noise: Noise | str = "gaussian",
        interval: Interval = (0.0, 1.0),
        sampler: Sampler | dict | str = {"name": "euler", "steps": 20},  # noqa: B006
        guidance: Guidance | str = "none",
        *,
        load: Load,
    ):
        """Raises ValueError when the teacher is not there or does not fit, or the sampler has a path of its own."""
        super().__init__(path, prediction, weighting, times, noise, interval)
        self.teacher, self.sampler, self.guidance = load(teacher, sampler.asks), sampler, guidance
        if sampler.path is not None:
            raise ValueError("the teacher is sampled along the path of this objective. Use sampler.path: null.")
        with torch.device("cpu"):  # models are planned on the meta device, times never
            times = sampler.spacing(sampler.steps, self.path, self.interval)
        self.teacher.check_steps(sampler.asks, *sampler.takes(times))

    def loss(self, net: Net, x0: Tensor, cond: Cond, random: Random) -> dict[str, Tensor]:
        """As every objective's, at pairs (noise, drawn) in the place of (noise, x0); x0 (B,c,t,h,w) says the shape."""
        t = self.draw_times(random, x0)
        noise = self.draw_noise(random, x0)
        return self.loss_at(net, self.draw(noise, cond, random), noise, t, cond)

    @torch.no_grad()
    def draw(self, noise: Tensor, cond: Cond, random: Random) -> Tensor:
        """What the teacher's sampler makes of this noise (B,c,t,h,w)."""
        times = times_on(noise.device, self.sampler.spacing(self.sampler.steps, self.path, self.interval))
        estimate = self.teacher.estimator(cond, self.guidance)
        x = start(self.path, noise, times[0])
        return self.sampler(estimate, x, times, self.path, PriorRandom(self.noise, random))
