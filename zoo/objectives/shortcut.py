"""Shortcut models: Frans et al. 2024 (2410.12557), eq. 4 and 5, alg. 1.

The network is told a time t and the length of the step it is to take. Steps of length 0 are flow matching; one long
step is to end where two of half its length do:

    x_m = step(x_t, t -> m),  x_s = step(x_m, m -> s),  m = (t + s) / 2;       step(x_t, t -> s) = x_s.

On the straight path that is u(x_t, t, s) = (u(x_t, t, m) + u(x_m, m, s)) / 2 for average velocities u.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidiff.diffusion.estimate import Estimate, Prediction, place, through
from vidiff.diffusion.noise import Noise
from vidiff.diffusion.objective import PARTS, Net, Objective, full_precision
from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times, time_dtype, times_on
from vidiff.diffusion.weighting import Weighting
from vidiff.random import Random
from vidiff.registry import OBJECTIVES
from vidiff.types import Cond, CondSpec, Count, Fraction, Positive, rows_of
from zoo.layers.second_time import SecondTime


class TwoTimes(Objective):
    """An objective whose network is told the length t - s of a step from t to s; of length 0 it is a plain one."""

    tells = frozenset({"velocity", "jump"})

    def __init__(
        self,
        path: Path,
        prediction: Prediction,
        weighting: Weighting,
        times: Times,
        noise: Noise,
        interval: Interval,
        step_scale: float,
        width: int,
    ):
        """Raises ValueError for a backbone without a width, and for a time per frame."""
        super().__init__(path, prediction, weighting, times, noise, interval)
        self.step = SecondTime(width, step_scale)
        if times.framewise:
            raise ValueError("a step has one length for all frames. Use times with one time per clip: uniform.")

    def extend(self, spec: CondSpec) -> CondSpec:
        return self.step.extend(spec)

    def complete(self, cond: Cond, t: Tensor, s: Tensor | None = None) -> Cond:
        """`cond` with the length of the step from t to s (B,) added to its vector; None is length 0."""
        return self.step(cond, t.new_zeros(len(t)) if s is None else t - s)

    def output(self, net: Net, x_t: Tensor, t: Tensor, cond: Cond, s: Tensor | None = None) -> Tensor:
        """The network's answer at x_t (B,c,t,h,w) and t for a step that ends at s (B,)."""
        return super().output(net, x_t, t, self.complete(cond, t, s))

    def estimate(self, net: Net, x_t: Tensor, t: Tensor, cond: Cond, s: Tensor | None = None) -> Estimate:
        """The estimate whose place at s (B,) is the end of the step; without s the belief at t."""
        x_t = x_t.to(full_precision(x_t.dtype))
        return self.prediction.solve(self.path, x_t, self.output(net, x_t, t, cond, s), t)


@OBJECTIVES.register("shortcut", parts=PARTS)
class Shortcut(TwoTimes):
    """Flow matching, and for a `share` of the clips one step of length 2 d that ends where two of length d do.

    d is 1/2, 1/4, ... 1/`finest`; the shortest are told as length 0. Sampler `jump` takes 1, 2, 4, ... uniform steps.
    """

    def __init__(
        self,
        path: Path | str = "linear",
        prediction: Prediction | str = "velocity",
        weighting: Weighting | str = "uniform",
        times: Times | str = "uniform",
        noise: Noise | str = "gaussian",
        share: Fraction = 0.25,
        finest: Count = 128,
        step_scale: Positive = 1000.0,
        *,
        width: int = 64,
    ):
        """Raises ValueError when `finest` is no power of two from 2 on."""
        super().__init__(path, prediction, weighting, times, noise, (0.0, 1.0), step_scale, width)
        self.share, self.finest, self.levels = share, finest, int(math.log2(finest))
        if finest != 2**self.levels or finest < 2:
            raise ValueError(f"finest is {finest}: lengths are halved, so it must be 2, 4, 8 … 128, 256.")

    def complete(self, cond: Cond, t: Tensor, s: Tensor | None = None) -> Cond:
        """`cond` with the length of the step from t to s (B,); of the shortest, as of none, 0."""
        return super().complete(cond, t, s if s is None else torch.where(self.short(t, s), t, s))

    def check_steps(self, begins: Tensor, ends: Tensor) -> None:
        """Raises ValueError for a step that is not one of 1, 2, 4, ... uniform ones, nor as short as the flow's."""
        length = begins - ends
        number = torch.exp2(torch.round(-torch.log2(length)))
        shown = ((length * number - 1).abs() < 1e-6) & ((ends * number - torch.round(ends * number)).abs() < 1e-6)
        strange = (~(shown | self.short(begins, ends))).nonzero()
        if len(strange):
            begin, end = float(begins[strange[0, 0]]), float(ends[strange[0, 0]])
            raise ValueError(
                f"a jump from {begin:.4g} to {end:.4g} was not trained: this model has learned 1, 2, 4, … "
                f"{self.finest} uniform steps. Use such sampler.steps with spacing: uniform, or sampler: euler."
            )

    def loss(self, net: Net, x0: Tensor, cond: Cond, random: Random) -> dict[str, Tensor]:
        """As every objective's, with "consistency" (B,), the squared error of long steps, 0 where there is none."""
        t = self.draw_times(random, x0)
        noise = self.draw_noise(random, x0)
        t, s = self.draw_steps(random, t)
        return self.loss_at(net, x0, noise, t, cond, s)

    def draw_steps(self, random: Random, t: Tensor) -> tuple[Tensor, Tensor]:
        """Where steps begin and end: (t, t) of length 0, and for a share of the rows a long step of the grid."""
        dice = times_on(t.device, random.uniform((len(t), 3), dtype=time_dtype(random.device)))
        number = torch.exp2(torch.floor(dice[:, 1] * self.levels))  # of steps: 1, 2, 4, ... finest / 2
        last = torch.floor(dice[:, 2] * number)
        long = dice[:, 0] < self.share
        return torch.where(long, (last + 1) / number, t), torch.where(long, last / number, t)

    def loss_at(
        self, net: Net, x0: Tensor, noise: Tensor, t: Tensor, cond: Cond, s: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The loss of steps from t to s (B,): flow matching where s = t, and everywhere without s."""
        if s is None:
            return super().loss_at(net, x0, noise, t, cond)
        x0 = x0.to(full_precision(x0.dtype))
        x_t = self.path.point(x0, noise, t)
        target = self.prediction.target(self.path, x0, noise, t)
        long = (s < t).nonzero()[:, 0]
        if len(long):
            ends = self.two_in_one(net, x_t[long], t[long], rows_of(cond, long), s[long])
            asked = self.prediction.ask(self.path, ends, t[long])
            target = target.index_copy(0, long, asked.to(target.dtype))
        error = self.output(net, x_t, t, cond, s) - target.detach()
        mse = (error.detach() ** 2).flatten(1).mean(1)
        return {
            "loss": self.penalty(error, t).mean(),
            "mse": mse,
            "time": t.detach(),
            "consistency": torch.where(s < t, mse, 0.0),
        }

    def half(self, net: Net, x_t: Tensor, t: Tensor, cond: Cond, s: Tensor) -> Estimate:
        """Half of a long step, from t to s (B,), as the network takes it now."""
        return self.estimate(net, x_t, t, cond, s)

    def short(self, t: Tensor, s: Tensor) -> Tensor:
        """Which steps are those of the flow: no longer than 1/finest; (B,) bool."""
        return t - s < 1.5 / self.finest

    @torch.no_grad()
    def two_in_one(self, net: Net, x_t: Tensor, t: Tensor, cond: Cond, s: Tensor) -> Estimate:
        """The estimate whose place at s is the end of two steps of half the length, as the network takes them now."""
        middle = (t + s) / 2
        x_m = place(self.path, self.half(net, x_t, t, cond, middle), middle)
        second = self.half(net, x_m, middle, cond, s)
        return through(self.path, x_t, t, place(self.path, second, s), s)
