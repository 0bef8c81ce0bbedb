"""The discrete chain along a path: its steps, their variances and the variational bound of one step.

Ho et al. 2020 (2006.11239), eq. 6, 7 and 13; Nichol & Dhariwal 2021 (2102.09672), eq. 14 and 15. With s = t - 1/T,

    q(x_s | x_t, x0) = N(carried x_t + rate x0, beta~),    carried = (alpha_t / alpha_s) sigma_s^2 / sigma_t^2,
    rate = alpha_s - alpha_t carried,    beta = 1 - (alpha_t / alpha_s)^2,    beta~ = beta sigma_s^2 / sigma_t^2.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from vidiff.diffusion.path import Path, expand

BIN = 1 / 255
"""Half the distance of two of the 256 levels of data in [-1,1]."""

CONTINUOUS_STEPS = 1000
"""The number of steps a path without timesteps of its own is cut into."""

ROUNDING = 1e-6
"""In steps: a time this close to the beginning of a step is it, whatever the rounding of t * T."""

Learned = Literal["learned_range", "learned"]
"""How the second half of an answer tells a log-variance: as a share of the way from beta~ to beta, or itself."""

Fixed = Literal["fixed_small", "fixed_large"]
"""Which variance a step has that is not learned: beta~ or beta."""


class Chain:
    """`num_steps` equal steps along a path; None: as many as its table has, or 1000 of a continuous path."""

    def __init__(self, path: Path, num_steps: int | None = None):
        self.path = path
        self.num_steps = num_steps or getattr(path, "num_timesteps", CONTINUOUS_STEPS)

    def before(self, t: Tensor) -> Tensor:
        """The time s one step cleaner than t, at least 0."""
        return (t - 1 / self.num_steps).clamp(min=0)

    def snapped(self, t: Tensor, high: float = 1.0) -> Tensor:
        """The next time at or above t that a step of the chain begins at, none above `high`.

        Between two of them the bound is that of another chain, whose last steps cost without limit as s nears 0.
        """
        number = torch.ceil(t * self.num_steps - ROUNDING)
        return number.clamp(1, max(1, math.floor(high * self.num_steps + ROUNDING))) / self.num_steps

    def last(self, s: Tensor) -> Tensor:
        """Whether the step down to s is the last one, bool shaped like s."""
        return s <= 1e-9

    def variances(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """beta of the step down from t, and its beta~; that of the last step, which is 0, is its neighbour's."""
        s, step = self.before(t), 1 / self.num_steps
        last = self.last(s)
        t_, s_ = torch.where(last, t + step, t), torch.where(last, s + step, s)
        return self._beta(t, s), self._beta(t_, s_) * self.path.sigma(s_) ** 2 / self.path.sigma(t_) ** 2

    def fixed(self, kind: Fixed, t: Tensor) -> Tensor:
        """The log-variance of the step down from t, shaped like t; the large one is beta~, too, in the last step."""
        beta, posterior = self.variances(t)
        large = torch.where(self.last(self.before(t)), posterior, beta)
        return (posterior if kind == "fixed_small" else large).log()

    def learned(self, kind: Learned, v: Tensor, t: Tensor) -> Tensor:
        """The log-variance that the second half v (B,c,t,h,w) of an answer means."""
        if kind == "learned":
            return v
        log_beta, log_posterior = (expand(value.log(), v) for value in self.variances(t))
        share = (v + 1) / 2
        return share * log_beta + (1 - share) * log_posterior

    def rate(self, t: Tensor) -> Tensor:
        """d (mean of x_s) / d x0: what an error of x0 becomes in the mean of the posterior."""
        s = self.before(t)
        return self.path.alpha(s) - self.path.alpha(t) * self.carried(t)

    def carried(self, t: Tensor) -> Tensor:
        """d (mean of x_s) / d x_t."""
        s = self.before(t)
        return self.path.alpha(t) / self.path.alpha(s) * self.path.sigma(s) ** 2 / self.path.sigma(t) ** 2

    def mean(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The mean of x_s given x0 and x_t."""
        return expand(self.rate(t), x0) * x0 + expand(self.carried(t), x0) * x_t

    def bits(self, x0: Tensor, believed: Tensor, log_variance: Tensor, t: Tensor) -> Tensor:
        """What one step costs, elementwise in bits, when x0 is `believed`: a KL; of the last step -log2 p(x0)."""
        log_posterior = expand(self.variances(t)[1].log(), x0)
        gap = expand(self.rate(t), x0) * (x0 - believed)  # both means share the rest
        kl = 0.5 * (log_variance - log_posterior - 1 + (log_posterior - log_variance).exp())
        kl = kl + 0.5 * gap**2 * (-log_variance).exp()
        last = expand(self.last(self.before(t)), x0).bool()
        return torch.where(last, -levels(x0, believed, log_variance / 2), kl) / math.log(2)

    def _beta(self, t: Tensor, s: Tensor) -> Tensor:
        return 1 - (self.path.alpha(t) / self.path.alpha(s)) ** 2


def levels(x0: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log of the mass a Gaussian gives to the level of x0, of 256 in [-1,1]; the outermost take all beyond."""
    inverse = (-log_std).exp()
    above, below = cdf(inverse * (x0 - mean + BIN)), cdf(inverse * (x0 - mean - BIN))
    mass = torch.where(x0 < -0.999, above, torch.where(x0 > 0.999, 1 - below, above - below))
    return mass.clamp(min=1e-12).log()


def cdf(x: Tensor) -> Tensor:
    """The normal distribution function, by the tanh the published codes use."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
