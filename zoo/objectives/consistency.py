"""Consistency training: Song et al. 2023 (2303.01469), alg. 3; improved by Song & Dhariwal 2023 (2310.14189), table 1.

f(x_t, t) is to be the end of the trajectory through x_t, so it is the same all along it:

    loss = lambda d(f(x_t, t), stopgrad f(x_s, s)),      x_t, x_s from one x0 and one noise, t and s neighbours,
    f = c_skip x_t + c_out net,      f(x_t, t) = x_t / alpha at t = low, whatever the network says.

With the level l = sigma / alpha and its smallest l_min: c_skip = D^2 / ((l - l_min)^2 + D^2) / alpha and
c_out = D (l - l_min) / sqrt(l^2 + D^2), D the deviation of the data. Times lie on a grid that is refined in training.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vidiff.diffusion.estimate import Estimate, Prediction
from vidiff.diffusion.noise import Noise
from vidiff.diffusion.objective import Net, Objective, full_precision, per_time
from vidiff.diffusion.path import Path, expand, level_label
from vidiff.diffusion.times import Interval, Times
from vidiff.diffusion.weighting import Weighting
from vidiff.random import Random
from vidiff.registry import OBJECTIVES
from vidiff.types import Cond, Count, NonNegative, Positive
from zoo.objectives.predictions.x0 import X0

PARTS = {"path": "path", "weighting": "weighting", "times": "times", "noise": "noise"}
Target = Literal["online", "average"]
HIGHEST = 80.0
"""The noisiest level a grid begins at, where that of the path is infinite (Karras et al. 2022 (2206.00364))."""


class Boundary(Prediction):
    """What the network is asked for so that x0 is x_t / alpha at t = low: EDM's scalings, moved to that level."""

    def __init__(self, path: Path, low: float, sigma_data: float):
        """Raises ValueError where there is no noise at t = low."""
        end = torch.tensor(low, dtype=torch.float64, device="cpu")
        self.lowest, self.sigma_data = float(path.sigma(end) / path.alpha(end)), sigma_data
        if not self.lowest > 0:
            raise ValueError(f"interval begins at {low:g}, where there is no noise: begin at 0.001 or so.")

    def input_scale(self, path: Path, t: Tensor) -> Tensor:
        return 1 / torch.hypot(path.sigma(t), self.sigma_data * path.alpha(t))

    def label(self, path: Path, t: Tensor) -> Tensor:
        return level_label(path, t)

    def scalings(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        """c_skip, c_out of x0 = c_skip x_t + c_out net; finite where alpha is 0, and c_out is 0 from t = low down."""
        alpha, sigma, d = path.alpha(t), path.sigma(t), self.sigma_data
        above = (sigma - self.lowest * alpha).clamp(min=0)
        return d**2 * alpha / (above**2 + (d * alpha) ** 2), d * above / torch.hypot(sigma, d * alpha)

    def pair(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        skip, out = self.scalings(path, t)
        return (1 - path.alpha(t) * skip) / out, -path.sigma(t) * skip / out

    def solve(self, path: Path, x_t: Tensor, y: Tensor, t: Tensor) -> Estimate:
        skip, out = self.scalings(path, t)
        x0 = expand(skip, x_t) * x_t + expand(out, x_t) * y
        sigma = path.sigma(t)
        inverse = torch.where(sigma > 0, 1 / sigma, 0.0)
        return Estimate(x0, expand(inverse, x_t) * (x_t - expand(path.alpha(t), x_t) * x0))


@OBJECTIVES.register("consistency", parts=PARTS)
class Consistency(Objective):
    """One evaluation from anywhere on a trajectory to its end, learned without a teacher.

    The grid has `cells` cells, twice as many after every `double_every` steps, up to `max_cells`; `rho` bends it as
    Karras et al. do, and `times` say how often each cell is met. d is the pseudo-Huber distance sqrt(m + huber^2) -
    huber of the mean square m, or m itself at huber 0; `gap_weight` divides by the distance of the two levels.
    The `target` is the network's own answer, as it is (`online`) or that of the run's moving average (`average`).
    Sampler `consistency` draws from it, `euler` without fresh noise.
    """

    tells = frozenset({"end"})

    def __init__(
        self,
        path: Path | str = "ve",
        weighting: Weighting | str = "uniform",
        times: Times | dict | str = {"name": "lognormal_sigma", "mean": -1.1, "std": 2.0},  # noqa: B006
        noise: Noise | str = "gaussian",
        interval: Interval = (0.000025, 1.0),
        cells: Count = 10,
        max_cells: Count = 1280,
        double_every: Count = 1000,
        rho: Positive = 7.0,
        huber: NonNegative = 0.00054,
        gap_weight: bool = True,
        sigma_data: Positive = 1.0,
        target: Target = "online",
    ):
        """Raises ValueError when the interval begins where there is no noise, or the grid would lose cells."""
        super().__init__(path, Boundary(path, interval[0], sigma_data), weighting, times, noise, interval)
        self.cells, self.max_cells, self.double_every, self.rho = cells, max_cells, double_every, rho
        self.huber, self.gap_weight, self.needs_average = huber, gap_weight, target == "average"
        self.power = 1.0 if huber else 2.0  # of errors beyond `huber`, which stands for their root to be smooth at 0
        if max_cells < cells:
            raise ValueError(f"max_cells is {max_cells}: the grid begins with {cells} cells and is refined from there.")

    def loss(self, net: Net, x0: Tensor, cond: Cond, random: Random) -> dict[str, Tensor]:
        """As every objective's; the step of training, which the grid depends on, is told by the sample numbers."""
        t = self.draw_times(random, x0)
        noise = self.draw_noise(random, x0)
        return self.loss_at(net, x0, noise, t, cond, self.refined(random.first // random.total))

    def refined(self, step: int) -> int:
        """How many cells the grid has at an optimizer step."""
        doublings = min(step // self.double_every, 64)
        return min(self.cells * 2**doublings, self.max_cells)

    def loss_at(
        self, net: Net, x0: Tensor, noise: Tensor, t: Tensor, cond: Cond, cells: int | None = None
    ) -> dict[str, Tensor]:
        """The loss between the ends of the cells that the times lie in; without `cells` the grid of step 0."""
        x0 = x0.to(full_precision(x0.dtype))
        t, s = self.neighbours(t, cells or self.cells)
        x_t = self.path.point(x0, noise, t)
        believed = self.estimate(net, x_t, t, cond).x0
        other = self.averaged() if self.needs_average and self.averaged else net
        with torch.no_grad():
            target = self.estimate(other, self.earlier(x0, noise, x_t, t, s, cond), s, cond).x0
        mse = per_time((believed - target) ** 2, t)
        mse = mse.reshape(len(mse), -1).mean(1)
        apart = self.distance(mse).reshape(-1, *[1] * (t.ndim - 1)).expand(t.shape)
        apart = apart * self.inverse_gap(t, s).to(apart.dtype) if self.gap_weight else apart
        return {
            "loss": self.weighting.loss(self.path, X0(), t, apart).mean(),
            "mse": mse.detach(),
            "time": t.detach().reshape(len(t), -1).mean(1),
        }

    def weight_of_x0(self, t: Tensor) -> Tensor:
        """What the distance of two neighbouring answers counts, on the grid of step 0."""
        t, s = self.neighbours(t, self.cells)
        return self.weighting(self.path, X0(), t) * (self.inverse_gap(t, s) if self.gap_weight else 1.0)

    def earlier(self, x0: Tensor, noise: Tensor, x_t: Tensor, t: Tensor, s: Tensor, cond: Cond) -> Tensor:
        """A point at s on about the same trajectory: of the same x0 and noise."""
        return self.path.point(x0, noise, s)

    def distance(self, mse: Tensor) -> Tensor:
        """The pseudo-Huber distance of the mean square error (Charbonnier et al. 1997)."""
        return mse if self.huber == 0 else torch.sqrt(mse + self.huber**2) - self.huber

    def inverse_gap(self, t: Tensor, s: Tensor) -> Tensor:
        """1 / (the level at t - the level at s), where levels are infinite that of the grid's highest."""
        return 1 / (self.level(t) - self.level(s))

    def level(self, t: Tensor) -> Tensor:
        """sigma / alpha, and where the path ends in pure noise no more than the grid begins at."""
        high = torch.tensor(self.interval[1], dtype=torch.float64, device="cpu")
        top = float(self.path.sigma(high) / self.path.alpha(high))
        return (self.path.sigma(t) / self.path.alpha(t)).clamp(max=min(top, HIGHEST) if top > 1e6 else top)

    def grid(self, cells: int) -> Tensor:
        """(cells + 1,) ascending times from the interval's low to its high end, float64 on the CPU."""
        low, high = self.level(torch.tensor(self.interval, dtype=torch.float64, device="cpu")).tolist()
        bent = torch.linspace(low ** (1 / self.rho), high ** (1 / self.rho), cells + 1, dtype=torch.float64)
        times = self.path.time(-2 * self.rho * bent.log())
        times[0], times[-1] = self.interval
        return times

    def neighbours(self, t: Tensor, cells: int) -> tuple[Tensor, Tensor]:
        """The later and the earlier end of the cell that each time lies in, shaped like t."""
        grid = self.grid(cells).to(t)
        i = torch.searchsorted(grid, t.contiguous()).clamp(1, cells)
        return grid[i], grid[i - 1]
