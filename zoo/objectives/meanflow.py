"""MeanFlow: Geng et al. 2025 (2505.13447), eq. 6, 10 and 11, alg. 1.

u(x_t, t, s) is the average velocity from t down to s. Differentiating (t - s) u = the integral of v over [s, t]
along the trajectory gives what every average velocity obeys, and training imposes it on the network:

    u = v - (t - s) (v d/dx + d/dt) u,       target = v - (t - s) stopgrad(d/dt u along v),    v = noise - x0.

The total derivative is one Jacobian-vector product of the network, in forward mode.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import jvp

from vidiff.diffusion.estimate import Estimate, Prediction, velocity
from vidiff.diffusion.noise import Noise
from vidiff.diffusion.objective import PARTS, Net, full_precision, per_time
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.times import Interval, Times, time_dtype, times_on
from vidiff.diffusion.weighting import Weighting
from vidiff.random import Random
from vidiff.registry import ATTENTION, OBJECTIVES
from vidiff.types import Cond, Fraction, NonNegative, Positive
from zoo.objectives.shortcut import TwoTimes


@OBJECTIVES.register("meanflow", parts=PARTS)
class MeanFlow(TwoTimes):
    """The average velocity between two times, learned from scratch; sampler `jump` maps noise to data in one step.

    A share `different` of the clips has s < t, the rest is flow matching. Each clip's squared error is divided by
    (error + floor)^power. On straight paths (`linear`, `ve`).
    """

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
        *,
        width: int = 64,
    ):
        """Raises ValueError on a curved path."""
        super().__init__(path, prediction, weighting, times, noise, interval, step_scale, width)
        self.different, self.adapted, self.floor = different, power, floor  # `power` is that of the error itself, 2
        ends = torch.tensor([0.25, 0.75], dtype=torch.float64, device="cpu")
        if any(slope(ends).diff().abs() > 1e-9 for slope in (path.alpha_dot, path.sigma_dot)):
            raise ValueError("an average velocity moves along a straight line. Use path: linear or ve.")

    def check(self, net: nn.Module, reads: frozenset[str]) -> None:
        """Raises ValueError for an attention that forward-mode differentiation does not go through."""
        attention = getattr(net, "attention", None)
        if attention is not None and not getattr(attention, "forward_mode", False):
            able = [f"attention: {c.name}" for c in ATTENTION if getattr(c.target, "forward_mode", False) is True]
            raise ValueError(
                f"it differentiates the network in forward mode, which this attention has no formula for. "
                f"Use {' or '.join(able)}."
            )

    def loss(self, net: Net, x0: Tensor, cond: Cond, random: Random) -> dict[str, Tensor]:
        """As every objective's, over pairs of times s <= t."""
        one, other = self.draw_times(random, x0), self.draw_times(random, x0)
        noise = self.draw_noise(random, x0)
        dice = times_on(x0.device, random.uniform((len(x0),), dtype=time_dtype(random.device)))
        t = torch.maximum(one, other)
        s = torch.where(dice < self.different, torch.minimum(one, other), t)
        return self.loss_at(net, x0, noise, t, cond, s)

    def loss_at(
        self, net: Net, x0: Tensor, noise: Tensor, t: Tensor, cond: Cond, s: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The loss of steps from t to s (B,); without s flow matching at t."""
        x0 = x0.to(full_precision(x0.dtype))
        x_t = self.path.point(x0, noise, t)
        v = self.slope(net, x_t, t, cond, velocity(self.path, Estimate(x0, noise), t))
        if s is None or bool((s == t).all()):
            target, s = v, None
        else:
            target = v - expand(t - s, v) * self.change(net, x_t, t, cond, s, v)
        y = self.output(net, x_t, t, cond, s)
        error = y - self.prediction.ask(self.path, self.moving(x_t, target, t), t)
        squared = per_time(error**2, t)
        mse = squared.detach().reshape(len(squared), -1).mean(1)
        cost = self.weighting.loss(self.path, self.prediction, t, squared).reshape(len(mse), -1).mean(1)
        return {
            "loss": (cost / (mse + self.floor) ** self.adapted).mean(),
            "mse": mse,
            "time": t.detach().reshape(len(t), -1).mean(1),
        }

    def slope(self, net: Net, x_t: Tensor, t: Tensor, cond: Cond, v: Tensor) -> Tensor:
        """The velocity whose average is learned, at x_t (B,c,t,h,w) of pairs whose own is v: that one."""
        return v

    @torch.no_grad()
    def change(self, net: Net, x_t: Tensor, t: Tensor, cond: Cond, s: Tensor, v: Tensor) -> Tensor:
        """d/dt u(x_t, t, s) along dx/dt = v, by one product with the Jacobian; shaped like x_t, without gradient."""

        def u(x: Tensor, t: Tensor) -> Tensor:
            return velocity(self.path, self.estimate(net, x, t, cond, s), t)

        return jvp(u, (x_t, t), (v, torch.ones_like(t)))[1]

    def moving(self, x_t: Tensor, v: Tensor, t: Tensor) -> Estimate:
        """The estimate at x_t whose velocity is v: v = alpha' x0 + sigma' noise."""
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        alpha_dot, sigma_dot = self.path.alpha_dot(t), self.path.sigma_dot(t)
        d = alpha * sigma_dot - sigma * alpha_dot
        x0 = expand(sigma_dot / d, v) * x_t - expand(sigma / d, v) * v
        return Estimate(x0, expand(alpha / d, v) * v - expand(alpha_dot / d, v) * x_t)
