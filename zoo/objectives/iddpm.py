"""Noise prediction with learned variances: Nichol & Dhariwal 2021 (2102.09672), eq. 15 and 16.

The network answers noise and, in as many channels again, v: the log-variance of a step of the chain is
f log beta_t + (1 - f) log beta~_t with f = (v + 1) / 2, learned by the variational bound of that step, in bits,
which sends no gradient to the noise. DiT (2212.09748) and Latte (2401.03048) are trained so.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidiff.diffusion.estimate import Prediction
from vidiff.diffusion.noise import Noise
from vidiff.diffusion.objective import PARTS, Net, Objective, full_precision, per_time
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.times import Interval, Times
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import OBJECTIVES
from vidiff.types import Cond, Count, NonNegative

BIN = 1 / 255
"""Half the distance of two of the 256 levels of data in [-1,1]."""


@OBJECTIVES.register("iddpm", parts=PARTS)
class Iddpm(Objective):
    """Squared error of the noise plus `bound` times the bound of the variances, over a chain of `num_steps` steps.

    Samplers read the noise; the variances are learned and kept, as official samplers want them.
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
        num_steps: Count = 1000,
        bound: NonNegative = 1.0,
    ):
        super().__init__(path, prediction, weighting, times, noise, interval)
        self.num_steps, self.bound = num_steps, bound

    def output(self, net: Net, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The half of the answer that estimates (B,c,t,h,w)."""
        return super().output(net, x_t, t, cond).chunk(2, dim=1)[0]

    def loss_at(self, net: Net, x0: Tensor, noise: Tensor, t: Tensor, cond: Cond) -> dict[str, Tensor]:
        """As every objective's, with "bound" (B,): bits per element."""
        answers: list[Tensor] = []

        def remembering(x: Tensor, label: Tensor, cond: Cond) -> Tensor:
            answers.append(net(x, label, cond))
            return answers[-1]

        losses = super().loss_at(remembering, x0, noise, t, cond)
        x0 = x0.to(full_precision(x0.dtype))
        mean, v = answers[0].to(x0.dtype).chunk(2, dim=1)
        bits = per_time(self.bits(x0, self.path.point(x0, noise, t), mean.detach(), v, t), t)
        kept = bits.detach().reshape(len(bits), -1).mean(1)
        return {**losses, "loss": losses["loss"] + self.bound * bits.mean(), "bound": kept}

    def bits(self, x0: Tensor, x_t: Tensor, mean: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """-log2 of what one step of the chain gives away, elementwise: eq. 6 (KL) and, in the last step, eq. 5."""
        s = (t - 1 / self.num_steps).clamp(min=0)
        last = expand(s <= 1e-9, x0).bool()
        beta, posterior = self.variances(t, s)
        log_beta, log_posterior = (expand(value.log(), x0) for value in (beta, posterior))
        share = (v + 1) / 2
        log_variance = share * log_beta + (1 - share) * log_posterior
        believed = self.prediction.solve(self.path, x_t, mean, t).x0
        # a posterior's mean moves by this much per unit of x0; both means share the rest
        rate = expand(self.path.alpha(s) - self.path.alpha(t) * self._carried(t, s), x0)
        gap = rate * (x0 - believed)
        kl = 0.5 * (log_variance - log_posterior - 1 + (log_posterior - log_variance).exp())
        kl = kl + 0.5 * gap**2 * (-log_variance).exp()
        return torch.where(last, -levels(x0, believed, log_variance / 2), kl) / math.log(2)

    def variances(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """beta of the step from s to t, and the posterior's beta~; that of the last step is its neighbour's."""
        step = 1 / self.num_steps
        t_, s_ = torch.where(s <= 1e-9, t + step, t), torch.where(s <= 1e-9, s + step, s)
        return self._beta(t, s), self._beta(t_, s_) * self.path.sigma(s_) ** 2 / self.path.sigma(t_) ** 2

    def _beta(self, t: Tensor, s: Tensor) -> Tensor:
        return 1 - (self.path.alpha(t) / self.path.alpha(s)) ** 2

    def _carried(self, t: Tensor, s: Tensor) -> Tensor:
        """d (mean of x_s) / d x_t of the posterior: (alpha_t / alpha_s) sigma_s^2 / sigma_t^2."""
        return self.path.alpha(t) / self.path.alpha(s) * self.path.sigma(s) ** 2 / self.path.sigma(t) ** 2


def levels(x0: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log of the mass a Gaussian gives to the level of x0, of 256 in [-1,1]; the outermost take all beyond."""
    inverse = (-log_std).exp()
    above, below = cdf(inverse * (x0 - mean + BIN)), cdf(inverse * (x0 - mean - BIN))
    mass = torch.where(x0 < -0.999, above, torch.where(x0 > 0.999, 1 - below, above - below))
    return mass.clamp(min=1e-12).log()


def cdf(x: Tensor) -> Tensor:
    """The normal distribution function, by the tanh the published codes use."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
