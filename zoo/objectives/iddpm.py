"""Noise prediction with learned variances: Nichol & Dhariwal 2021 (2102.09672), eq. 15 and 16.

The network answers noise and, in as many channels again, v: the log-variance of a step of the chain is
f log beta_t + (1 - f) log beta~_t with f = (v + 1) / 2, learned by the variational bound of that step, in bits,
which sends no gradient to the noise. DiT (2212.09748) and Latte (2401.03048) are trained so.
"""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.chain import Chain, Learned
from vidiff.diffusion.estimate import Estimate, Prediction
from vidiff.diffusion.noise import Noise
from vidiff.diffusion.objective import PARTS, Net, Objective, full_precision, per_time
from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times
from vidiff.diffusion.weighting import Weighting
from vidiff.random import Random
from vidiff.registry import OBJECTIVES
from vidiff.types import Cond, Count, NonNegative


class WithVariances(Objective):
    """An objective whose network may answer variances, in as many channels again after those that estimate."""

    def estimate(self, net: Net, x_t: Tensor, t: Tensor, cond: Cond) -> Estimate:
        """As every objective's, and with variance learned_range the `share` that sampler `ddpm` reads."""
        answers: list[Tensor] = []

        def remembering(x: Tensor, label: Tensor, cond: Cond) -> Tensor:
            answers.append(net(x, label, cond))
            return answers[-1]

        believed = super().estimate(remembering, x_t, t, cond)
        if not self.tells_variances:
            return believed
        return believed.spread((answers[0].to(believed.x0.dtype).chunk(2, dim=1)[1] + 1) / 2)

    def output(self, net: Net, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The part of the answer that estimates (B,c,t,h,w)."""
        return super().output(net, x_t, t, cond).chunk(self.outputs, dim=1)[0]


@OBJECTIVES.register("iddpm", parts=PARTS)
class Iddpm(WithVariances):
    """Squared error of the noise plus `bound` times the bound of the variances, over a chain of `num_steps` steps.

    `num_steps` null is the path's own number. `bound` is T/1000 in the published "rescaled" loss of a chain of T steps.
    `variance` learned takes v itself for the log-variance. `vlb` is the bound alone.
    """

    outputs = 2

    def __init__(
        self,
        path: Path | str = "ddpm",
        prediction: Prediction | str = "eps",
        weighting: Weighting | str = "uniform",
        times: Times | str = "uniform",
        noise: Noise | str = "gaussian",
        interval: Interval = (0.0, 1.0),
        num_steps: Count | None = None,
        bound: NonNegative = 1.0,
        variance: Learned = "learned_range",
    ):
        super().__init__(path, prediction, weighting, times, noise, interval)
        self.chain, self.bound, self.variance = Chain(path, num_steps), bound, variance
        self.tells_variances = variance == "learned_range"

    def draw_times(self, random: Random, x0: Tensor) -> Tensor:
        """Times (B,) or (B,t) that a step of the chain begins at: its bound is made of no others."""
        return self.chain.snapped(super().draw_times(random, x0), self.interval[1])

    def loss_at(self, net: Net, x0: Tensor, noise: Tensor, t: Tensor, cond: Cond) -> dict[str, Tensor]:
        """As every objective's, with "bound" (B,): bits per element."""
        answers: list[Tensor] = []

        def remembering(x: Tensor, label: Tensor, cond: Cond) -> Tensor:
            answers.append(net(x, label, cond))
            return answers[-1]

        losses = super().loss_at(remembering, x0, noise, t, cond)
        x0 = x0.detach().to(full_precision(x0.dtype))
        mean, v = answers[0].to(x0.dtype).chunk(2, dim=1)
        believed = self.prediction.solve(self.path, self.path.point(x0, noise, t), mean, t).x0.detach()
        bits = per_time(self.chain.bits(x0, believed, self.chain.learned(self.variance, v, t), t), t)
        kept = bits.detach().reshape(len(bits), -1).mean(1)
        return {**losses, "loss": losses["loss"] + self.bound * bits.mean(), "bound": kept}
