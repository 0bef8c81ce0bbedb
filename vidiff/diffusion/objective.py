"""What is learned: path + prediction + weighting + times + noise, and the loss they make.

t ~ times,  noise ~ prior,  x_t = alpha x0 + sigma noise,  y = net(c_in x_t, label(t), cond),
loss = mean over the batch of  w(t) * mean over elements of (y - p x0 - q noise)^2
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vidiff.diffusion.estimate import Estimate, Prediction
from vidiff.diffusion.noise import Noise
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.times import Interval, Times, times_on
from vidiff.diffusion.weighting import Weighting, error_ratio
from vidiff.random import Random
from vidiff.types import Cond, CondSpec, Grid

Net = Callable[[Tensor, Tensor, Cond], Tensor]

SINGULAR = 1e-6
"""A determinant below this counts as zero: dividing by it would cost all digits of a float32."""

PARTS = {"path": "path", "prediction": "prediction", "weighting": "weighting", "times": "times", "noise": "noise"}
"""The settings of an objective that are components, with their kinds."""


class Objective(nn.Module):
    """A diffusion objective. The network's head gives `outputs` times the latent's channels."""

    outputs = 1
    power = 2.0
    """The loss is of |error|^power."""

    tells = frozenset({"velocity"})
    """What samplers may take its estimate for: "velocity", the belief at t, from which dx/dt follows; "end", where the
    trajectory through x_t ends; "step", what brings `euler` to the end of a long step; "jump", told a time s, the
    point of the trajectory at s."""
    tells_variances = False
    """Whether its estimates have the `share` of learned variances."""

    def __init__(
        self,
        path: Path,
        prediction: Prediction,
        weighting: Weighting,
        times: Times,
        noise: Noise,
        interval: Interval = (0.0, 1.0),
    ):
        """Raises ValueError when the interval is none, or the prediction impossible in it (eps where alpha = 0)."""
        super().__init__()
        self.path, self.prediction, self.weighting = path, prediction, weighting
        self.times, self.noise, self.interval = times, noise, (float(interval[0]), float(interval[1]))
        self._refuse_singular()

    @property
    def framewise(self) -> bool:
        """Whether training has shown the network frames of different times, some of them clean or nearly so."""
        return self.times.framewise

    def check(self, net: nn.Module, reads: frozenset[str]) -> None:
        """Raises ValueError when this network, or a conditioner that `reads` these entries, does not go with it."""

    def check_steps(self, begins: Tensor, ends: Tensor) -> None:
        """Raises ValueError for steps (S,) that training does not show, where estimates tell more than a velocity."""

    needs_null = False
    """Whether the loss compares with the condition that says nothing (`Cond.without`)."""
    needs_average = False
    """Whether targets come from the run's moving average of the network (`averaged`)."""
    averaged: Callable[[], Net] | None = None
    """That average, put here by training; None where the network that is asked is the average itself."""

    def extend(self, spec: CondSpec) -> CondSpec:
        """What the network is told beside its time: the conditioner's `spec`, and what `complete` adds to it."""
        return spec

    def complete(self, cond: Cond, t: Tensor, s: Tensor | None = None) -> Cond:
        """`cond` with what the objective tells the network beside it: of a step from t to s, None of no step."""
        return cond

    def entries(self, x0: Tensor, random: Random) -> dict[str, Tensor]:
        """Batch entries of the objective's own making; the conditioner and `loss` (cond.origin.batch) see them."""
        return {}

    def loss(self, net: Net, x0: Tensor, cond: Cond, random: Random) -> dict[str, Tensor]:
        """x0 (B,c,t,h,w) at unit scale -> {"loss": (), "mse": (B,), "time": (B,)}.

        `mse` is the unweighted error of the network's output, per sample.
        """
        t = self.draw_times(random, x0)
        return self.loss_at(net, x0, self.draw_noise(random, x0), t, cond)

    def draw_times(self, random: Random, x0: Tensor) -> Tensor:
        """Times (B,) or (B,t) for latents x0 (B,c,t,h,w), on their device."""
        grid = Grid(*x0.shape[1:])
        return times_on(x0.device, self.times.on(grid).draw(random, self.path, self.interval, frames=grid.t))

    def draw_noise(self, random: Random, x0: Tensor) -> Tensor:
        """Noise like latents x0, on their device, by dice of its own: whatever draws times, it is the same."""
        return self.noise(x0.shape, random.stream("noise"), full_precision(x0.dtype)).to(x0.device)

    def loss_at(self, net: Net, x0: Tensor, noise: Tensor, t: Tensor, cond: Cond) -> dict[str, Tensor]:
        """The loss at given times (B,) or (B,t) and noise: `loss` without its dice."""
        x0 = x0.to(full_precision(x0.dtype))
        x_t = self.path.point(x0, noise, t)
        target = self.prediction.target(self.path, x0, noise, t).detach()
        error = self.output(net, x_t, t, cond) - target
        mse = per_time(error**2, t)
        return {
            "loss": self.penalty(error, t).mean(),
            "mse": mse.detach().reshape(len(mse), -1).mean(1),
            "time": t.detach().reshape(len(t), -1).mean(1),
        }

    def penalty(self, error: Tensor, t: Tensor) -> Tensor:
        """The weighted loss, shaped like t, of the network's error (B,c,t,h,w): of its mean square."""
        return self.weighting.loss(self.path, self.prediction, t, per_time(error**2, t))

    def weight_of_x0(self, t: Tensor) -> Tensor:
        """What an error of the believed x0 to the `power` counts in the loss at t, shaped like t."""
        path, prediction, half = self.path, self.prediction, self.power / 2
        own, of_x0 = (error_ratio(space, path, prediction, t) for space in (self.weighting.space, "x0"))
        return self.weighting(path, prediction, t) * own ** (half - 1) / of_x0**half

    def estimate(self, net: Net, x_t: Tensor, t: Tensor, cond: Cond) -> Estimate:
        """What the network believes about x_t (B,c,t,h,w) at t (B,) or (B,t)."""
        x_t = x_t.to(full_precision(x_t.dtype))
        return self.prediction.solve(self.path, x_t, self.output(net, x_t, t, cond), t)

    def output(self, net: Net, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The network's answer y at x_t, in full precision (AMP ends here)."""
        x_in = expand(self.prediction.input_scale(self.path, t), x_t) * x_t
        label = self.prediction.label(self.path, t).to(x_t.dtype)
        return net(x_in, label, cond).to(x_t.dtype)

    def _refuse_singular(self) -> None:
        low, high = self.interval
        if not 0.0 <= low < high <= 1.0:
            raise ValueError(f"interval is [{low:g}, {high:g}]: it must satisfy 0 <= low < high <= 1.")
        d = self._determinant(high)
        if SINGULAR <= d < float("inf"):
            return
        why = "alpha is 0 there, so x_t says nothing about x0" if d < SINGULAR else "its target is infinite there"
        below = next(t for t in (0.999, 0.99, 0.9, 0.5) if t == 0.5 or SINGULAR <= self._determinant(t) < float("inf"))
        raise ValueError(
            f"{_word(self.prediction)} prediction on the {_word(self.path)} path is impossible at t = {high:g}: {why}. "
            f"Use prediction: v or x0, another path, or interval: [{low:g}, {below:g}]."
        )

    def _determinant(self, t: float) -> float:
        one = torch.tensor(t, dtype=torch.float64, device="cpu")
        return self.prediction.determinant(self.path, one).abs().item()


def per_time(error: Tensor, t: Tensor) -> Tensor:
    """The mean over everything that shares a time: (B,) for t (B,), (B,t) for t (B,t)."""
    if t.ndim == 2:
        return error.mean(dim=(1, 3, 4))
    return error.flatten(1).mean(1)


def full_precision(dtype: torch.dtype) -> torch.dtype:
    """float32 for the half types, else the type itself: the mathematics is never done in halves."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _word(part: object) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(part).__name__).lower()
