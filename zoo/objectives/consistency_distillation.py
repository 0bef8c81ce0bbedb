"""Consistency distillation: Song et al. 2023 (2303.01469), alg. 2.

As `consistency`, but x_s is what one step of a teacher's ODE makes of x_t, not a point of the same x0 and noise.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from vidiff.diffusion.estimate import place, velocity
from vidiff.diffusion.guidance import Guidance
from vidiff.diffusion.noise import Noise
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.times import Interval, Times
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import OBJECTIVES
from vidiff.types import Cond, Count, Load, NonNegative, Positive, Run
from zoo.objectives.consistency import PARTS, Consistency, Target


@OBJECTIVES.register(
    "consistency_distillation", tiny=dict(teacher="runs/teacher"), parts={**PARTS, "guidance": "guidance"}
)
class ConsistencyDistillation(Consistency):
    """One evaluation from anywhere on a trajectory of `teacher` to its end.

    `solver` heun is the trapezoid rule on the teacher's dx/dt, euler its DDIM step. The grid has `cells` cells all
    along; `guidance` guides the teacher, so that the student needs none.
    """

    def __init__(
        self,
        teacher: Run,
        path: Path | str = "ve",
        weighting: Weighting | str = "uniform",
        times: Times | str = "uniform",
        noise: Noise | str = "gaussian",
        interval: Interval = (0.000025, 1.0),
        cells: Count = 18,
        rho: Positive = 7.0,
        huber: NonNegative = 0.00054,
        gap_weight: bool = False,
        sigma_data: Positive = 1.0,
        target: Target = "online",
        solver: Literal["heun", "euler"] = "heun",
        guidance: Guidance | str = "none",
        *,
        load: Load,
    ):
        """Raises ValueError when the teacher is not there or does not fit."""
        super().__init__(
            path, weighting, times, noise, interval, cells, cells, 1, rho, huber, gap_weight, sigma_data, target
        )
        self.teacher, self.solver, self.guidance = load(teacher), solver, guidance

    def earlier(self, x0: Tensor, noise: Tensor, x_t: Tensor, t: Tensor, s: Tensor, cond: Cond) -> Tensor:
        """One step of the teacher's ODE from x_t at t to s."""
        teacher = self.teacher.estimator(cond, self.guidance)
        now = teacher(x_t, t)
        if self.solver == "euler":
            return place(self.path, now, s)
        slope, step = velocity(self.path, now, t), expand(s - t, x_t)
        return x_t + step * (slope + velocity(self.path, teacher(x_t + step * slope, s), s)) / 2
