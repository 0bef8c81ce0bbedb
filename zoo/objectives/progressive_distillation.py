"""Progressive distillation: Salimans & Ho 2022 (2202.00512), alg. 2.

A student of N steps learns two DDIM steps of its teacher in one: t = i/N, t' = t - 1/(2N), t'' = t - 1/N,

    x_t' = DDIM(teacher, x_t, t -> t'),    x_t'' = DDIM(teacher, x_t', t' -> t''),
    x~   = (x_t'' - (sigma''/sigma) x_t) / (alpha'' - (sigma''/sigma) alpha),      loss = max(SNR, 1) |x~ - x0_hat|^2.

Stages chain runs: the student of N steps, trained from the weights of its teacher (`train.init`), is the teacher of
the student of N/2 steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import Estimate, EstimateFn, Prediction, place, through
from vidiff.diffusion.guidance import Guidance
from vidiff.diffusion.noise import Noise
from vidiff.diffusion.objective import PARTS, Net, Objective
from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import OBJECTIVES
from vidiff.types import Cond, Count, Load, Run


@OBJECTIVES.register(
    "progressive_distillation", tiny=dict(teacher="runs/teacher", steps=3), parts={**PARTS, "guidance": "guidance"}
)
class ProgressiveDistillation(Objective):
    """Two DDIM steps of `teacher` in one, for a student of `steps` uniform `euler` steps.

    `guidance` guides the teacher, so that the student needs none (Meng et al. 2022, 2210.03142).
    """

    tells = frozenset({"step"})

    def __init__(
        self,
        teacher: Run,
        steps: Count = 8,
        path: Path | str = "cosine",
        prediction: Prediction | str = "v",
        weighting: Weighting | str = "truncated_snr",
        times: Times | str = "uniform",
        noise: Noise | str = "gaussian",
        interval: Interval = (0.0, 1.0),
        guidance: Guidance | str = "none",
        *,
        load: Load,
    ):
        """Raises ValueError when the teacher is not there or does not fit."""
        super().__init__(path, prediction, weighting, times, noise, interval)
        asks = frozenset({"velocity", "step"})
        self.teacher, self.guidance, self.steps = load(teacher, asks), guidance, steps
        self.teacher.check_steps(asks, *self.grid(2 * steps))

    def grid(self, steps: int) -> tuple[Tensor, Tensor]:
        """Where uniform steps begin and end (steps,), float64 on the CPU."""
        times = torch.linspace(self.interval[1], 0, steps + 1, dtype=torch.float64, device="cpu")
        return times[:-1], times[1:]

    def check_steps(self, begins: Tensor, ends: Tensor) -> None:
        """Raises ValueError for other steps than those of the student."""
        own = torch.stack(self.grid(self.steps))
        told = torch.stack([begins, ends]).to(own)
        if told.shape != own.shape or not torch.allclose(told, own, atol=1e-4):
            raise ValueError(
                f"this student has learned {self.steps} uniform steps and no others; asked are {len(begins)} "
                f"of {begins[0] - ends[0]:.3g} and so on. Use steps: {self.steps} with spacing: uniform."
            )

    def loss_at(self, net: Net, x0: Tensor, noise: Tensor, t: Tensor, cond: Cond) -> dict[str, Tensor]:
        """As every objective's; times are moved up to the next of the student's steps."""
        t = self.snapped(t)
        x_t = self.path.point(x0.to(noise.dtype), noise, t)
        with torch.no_grad():
            target = self.two_in_one(self.teacher.estimator(cond, self.guidance), x_t, t)
        return super().loss_at(net, target.x0, target.noise, t, cond)

    def two_in_one(self, teacher: EstimateFn, x_t: Tensor, t: Tensor) -> Estimate:
        """The estimate whose one step, from t down by 1/steps, ends where two steps of the teacher do."""
        half = self.interval[1] / (2 * self.steps)
        middle, end = (t - half).clamp(min=0), (t - 2 * half).clamp(min=0)
        x = place(self.path, teacher(x_t, t), middle)
        x = place(self.path, teacher(x, middle), end)
        return through(self.path, x_t, t, x, end)

    def snapped(self, t: Tensor) -> Tensor:
        """The next time at or above t that a step of the student begins at."""
        high = self.interval[1]
        return high * torch.ceil(t / high * self.steps).clamp(1, self.steps) / self.steps
