"""The variational bound itself: Ho et al. 2020 (2006.11239), eq. 5; Nichol & Dhariwal 2021 (2102.09672), eq. 4.

    loss = T E_t [ KL(q(x_s | x_t, x0) || N(mean(x0_hat, x_t), variance)) ],    s = t - 1/T

in bits per element, the last step by the likelihood of 256 levels: `loss_type` RESCALED_KL of improved-diffusion.
"""

from __future__ import annotations

import math
from typing import get_args

from torch import Tensor

from vidiff.diffusion.chain import Chain, Fixed, Learned
from vidiff.diffusion.estimate import Prediction
from vidiff.diffusion.noise import Noise
from vidiff.diffusion.objective import PARTS, Net, Objective, full_precision, per_time
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.times import Interval, Times
from vidiff.diffusion.weighting import Weighting
from vidiff.random import Random
from vidiff.registry import OBJECTIVES
from vidiff.types import Cond, Count, Positive
from zoo.objectives.iddpm import WithVariances


class BoundWeighting(Weighting):
    """What the bound counts an error of x0: scale rate^2 / (2 variance log 2), for a fixed variance."""

    space = "x0"

    def __init__(self, chain: Chain, kind: Fixed, scale: float):
        self.chain, self.kind, self.scale = chain, kind, scale

    def weight(self, path: Path, t: Tensor) -> Tensor:
        return self.scale / (2 * math.log(2)) * self.chain.rate(t) ** 2 * (-self.chain.fixed(self.kind, t)).exp()


@OBJECTIVES.register("vlb", parts={kind: kind for kind in PARTS if kind != "weighting"})
class Vlb(WithVariances):
    """The bound of a chain of `num_steps` steps (null: the path's own), with gradient to means and variances.

    `variance`: learned_range or learned, in as many channels again; fixed_small (beta~) or fixed_large (beta).
    `scale` null is the number of steps, so that the loss is the whole bound; 1 is that of one step ("KL").
    The bound has its own weights: there is no weighting to choose.
    """

    def __init__(
        self,
        path: Path | str = "ddpm",
        prediction: Prediction | str = "eps",
        times: Times | str = "uniform",
        noise: Noise | str = "gaussian",
        interval: Interval = (0.0, 1.0),
        variance: Learned | Fixed = "learned_range",
        num_steps: Count | None = None,
        scale: Positive | None = None,
    ):
        chain = Chain(path, num_steps)
        scale = float(scale or chain.num_steps)
        kind = variance if variance in get_args(Fixed) else "fixed_small"
        super().__init__(path, prediction, BoundWeighting(chain, kind, scale), times, noise, interval)
        self.chain, self.variance, self.scale = chain, variance, scale
        self.outputs, self.tells_variances = 2 if variance in get_args(Learned) else 1, variance == "learned_range"

    def draw_times(self, random: Random, x0: Tensor) -> Tensor:
        """Times (B,) or (B,t) that a step of the chain begins at: its bound is made of no others."""
        return self.chain.snapped(super().draw_times(random, x0), self.interval[1])

    def loss_at(self, net: Net, x0: Tensor, noise: Tensor, t: Tensor, cond: Cond) -> dict[str, Tensor]:
        """As every objective's, "mse" that of the network's means; with "bound" (B,): bits per element of a step."""
        x0 = x0.to(full_precision(x0.dtype))
        x_t = self.path.point(x0, noise, t)
        answer = Objective.output(self, net, x_t, t, cond)
        mean, *v = answer.chunk(self.outputs, dim=1)
        error = (mean - self.prediction.target(self.path, x0, noise, t)).detach()
        log_variance = (
            self.chain.learned(self.variance, v[0], t) if v else expand(self.chain.fixed(self.variance, t), x0)
        )
        believed = self.prediction.solve(self.path, x_t.detach(), mean, t).x0
        bits = per_time(self.chain.bits(x0.detach(), believed, log_variance, t), t)
        return {
            "loss": self.scale * bits.mean(),
            "mse": (error**2).flatten(1).mean(1),
            "time": t.detach().reshape(len(t), -1).mean(1),
            "bound": bits.detach().reshape(len(bits), -1).mean(1),
        }
