"""MeanFlow with guidance inside its target: Geng et al. 2025 (2505.13447), sec. 4.2 and app. B.1.

What is averaged is the guided velocity, so one jump draws a guided sample and sampling needs no guidance:

    v_guided(x_t, t | c) = omega v + kappa u(x_t, t, t | c) + (1 - omega - kappa) u(x_t, t, t),    v = noise - x0,

with the network's own answers for steps of length 0, with and without the condition. A network that has learned it
tells the velocity scale v(c) + (1 - scale) v(no condition), whatever kappa: scale = omega / (1 - kappa).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import Prediction, velocity
from vidiff.diffusion.noise import Noise
from vidiff.diffusion.objective import PARTS, Net
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.times import Interval, Times
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import OBJECTIVES
from vidiff.types import Cond, Fraction, NonNegative, Positive
from zoo.objectives.meanflow import MeanFlow


@OBJECTIVES.register("meanflow_guided", parts=PARTS)
class MeanFlowGuided(MeanFlow):
    """The average of a guided velocity: one evaluation, and guidance of `scale` (1 is none), in one step.

    `kappa` is the share of the target that is the network's own guided answer; `guided` are the times of guidance.
    Clips whose condition is dropped learn `meanflow`. Sample without guidance.
    """

    needs_null = True

    def __init__(
        self,
        path: Path | str = "linear",
        prediction: Prediction | str = "velocity",
        weighting: Weighting | str = "uniform",
        times: Times | dict | str = {"name": "logit_normal", "mean": -0.4},  # noqa: B006
        noise: Noise | str = "gaussian",
        interval: Interval = (0.0, 1.0),
        different: Fraction = 0.25,
        power: NonNegative = 1.0,
        floor: Positive = 1e-3,
        step_scale: Positive = 1000.0,
        scale: NonNegative = 2.0,
        kappa: Fraction = 0.5,
        guided: Interval = (0.0, 1.0),
        *,
        width: int = 64,
    ):
        """Raises ValueError for kappa = 1, of which nothing is learned, and as `meanflow`."""
        super().__init__(
            path, prediction, weighting, times, noise, interval, different, power, floor, step_scale, width=width
        )
        if kappa == 1:
            raise ValueError("kappa is 1: the target would be the network's answer alone. Use less, such as 0.5.")
        self.omega, self.kappa, self.guided = scale * (1 - kappa), kappa, guided

    @torch.no_grad()
    def slope(self, net: Net, x_t: Tensor, t: Tensor, cond: Cond, v: Tensor) -> Tensor:
        """The guided velocity of pairs whose own is v; v itself where everything is dropped, and outside `guided`.

        Raises ValueError when the condition does not come with the one that says nothing.
        """
        if cond.without is None:
            raise ValueError("objective meanflow_guided: there is no null condition to be guided away from.")
        with_it = velocity(self.path, self.estimate(net, x_t, t, cond), t)
        without = velocity(self.path, self.estimate(net, x_t, t, cond.without), t)
        mixed = self.omega * v + self.kappa * with_it + (1 - self.omega - self.kappa) * without
        here = (t >= self.guided[0]) & (t <= self.guided[1])
        if cond.origin is not None:
            dropped = cond.origin.dropped.to(t.device)
            here = here & ~dropped.reshape(-1, *[1] * (t.ndim - 1))
        return torch.where(expand(here, v).bool(), mixed, v)
