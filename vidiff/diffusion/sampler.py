"""From noise to data: samplers are functions of their arguments, with no state between calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn, place, velocity
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.times import Interval
from vidiff.random import Random


class Spacing:
    """Where the steps of a sampler lie."""

    fixed: int | None = None
    """The only number of steps this spacing can give (a list written out), or None."""

    def __call__(self, steps: int, path: Path, interval: Interval) -> Tensor:
        """(steps+1,) float64 on the CPU, descending from interval[1] (or below it, where a spacing says so) to 0."""
        raise NotImplementedError


class LevelSpacing(Spacing):
    """Steps placed by noise level sigma/alpha: a ramp from sigma_max to sigma_min, then clean.

    None takes the level from the ends of the interval, as far as they lie within [0.002, 80]
    (Karras et al. 2022 (2206.00364), table 1); the first time is then interval[1] itself.
    """

    lowest, highest = 0.002, 80.0

    def __init__(self, sigma_min: float | None = None, sigma_max: float | None = None):
        """Raises ValueError when sigma_min is not below sigma_max."""
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        if self._low(0.0) >= self._high(float("inf")):
            raise ValueError(f"sigma_min {self._low(0.0):g} must be below sigma_max {self._high(float('inf')):g}.")

    def ramp(self, high: float, low: float, steps: int) -> Tensor:
        """(steps,) float64 levels from high to low."""
        raise NotImplementedError

    def __call__(self, steps: int, path: Path, interval: Interval) -> Tensor:
        ends = torch.tensor(interval, dtype=torch.float64, device="cpu")
        low, high = (path.sigma(ends) / path.alpha(ends)).tolist()
        levels = self.ramp(self._high(high), self._low(low), steps)
        times = torch.cat([path.time(-2 * levels.log()).clamp(*interval), ends.new_zeros(1)])
        if self.sigma_max is None:
            times[0] = interval[1]
        return times

    def _low(self, level: float) -> float:
        return self.sigma_min if self.sigma_min is not None else max(level, self.lowest)

    def _high(self, level: float) -> float:
        return self.sigma_max if self.sigma_max is not None else min(level, self.highest)


class Sampler:
    """Settings shared by all samplers: how many steps, where they lie, along which path.

    `path` None samples along the path of training; another one is reached by matching log-SNR.
    """

    lands = True
    """Whether a step to sigma = 0 ends on the believed x0 on every path, so that one step finds a single data point.

    Methods that follow dx/dt itself do so on straight paths only (`linear`, `ve`).
    """
    spreads = True
    """Whether exact denoisers lead it to the data's distribution. `consistency` wants ends of trajectories instead."""
    framewise = False
    """Whether frames may move by steps of their own: times (S+1,t) for x (B,c,t,h,w)."""
    asks = frozenset({"velocity"})
    """What it takes an estimate for; a model must tell one of these (see `Objective.tells`)."""
    reverses = True
    """Whether ascending times run it backwards, from data to noise (DDIM inversion). One that adds noise cannot."""
    reads_variances = False
    """Whether it reads the variances that a model learned (`Estimate.share`)."""

    def __init__(self, steps: int, spacing: Spacing, path: Path | None = None):
        """Raises ValueError when the spacing is a list of another number of steps."""
        self.steps, self.spacing, self.path = steps, spacing, path
        fixed = getattr(spacing, "fixed", None)
        if fixed not in (None, steps):
            raise ValueError(f"steps is {steps}, and the spacing lists {fixed}: write steps: {fixed}, or another list.")

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        """x (B,...) at times[0] -> x (B,...) at times[-1], which is x0 at time 0.

        `times` (S+1,) descending, or (S+1,t), a column for each frame of x (B,c,t,h,w), where `framewise`;
        stochastic samplers take fresh noise from `random.normal` (give them `PriorRandom`, so that it is of the kind
        the model was trained on).
        """
        raise NotImplementedError

    def takes(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Where the steps along times (S+1,) begin and end, (S,) each, as a model is told that can be told."""
        return times[:-1], times[1:]

    def check(self, path: Path, times: Tensor) -> None:
        """Raises ValueError for a path that it cannot follow at these times (S+1,)."""

    @property
    def evaluations(self) -> int | None:
        """How often one run down to time 0 calls `estimate` (NFE); None when only the run itself can tell.

        On a path whose slope dx/dt is infinite at an end (`vp` and tables at 0, `sigmoid` at both), methods that
        follow the slope take one evaluation for the step that touches it.
        """
        return self.steps


def start(path: Path, noise: Tensor, t: Tensor) -> Tensor:
    """x_t when nothing is known of the data but their unit variance: norm(t) * noise.

    Unit noise on variance-preserving paths and at t = 1 of interpolants, sigma_max * noise on
    variance-exploding ones, as published samplers start.
    """
    return expand(path.norm(t), noise) * noise


def steps_of(times: Tensor, x: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(i, t, s) for each step from t down to s, shaped for the batch of x: (B,), or (B,t) of times (S+1,t)."""
    for i, (t, s) in enumerate(pairwise(times)):
        yield i, t.expand(x.shape[0], *t.shape), s.expand(x.shape[0], *s.shape)


def finite_slope(path: Path, times: Tensor) -> Tensor:
    """(S,) bool: where dx/dt = alpha' x0 + sigma' noise is finite."""
    return torch.isfinite(path.alpha_dot(times)) & torch.isfinite(path.sigma_dot(times))


def levels(path: Path, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """alpha, sigma and lambda = log(alpha / sigma) of all times, (S+1,) each; lambda is infinite at the ends."""
    return path.alpha(times), path.sigma(times), path.logsnr(times) / 2


def halfway(path: Path, t: Tensor, s: Tensor, r: float = 0.5) -> Tensor:
    """The time whose lambda lies a share r of the way from t to s; that share of the time where one is infinite."""
    logsnr = (1 - r) * path.logsnr(t) + r * path.logsnr(s)
    return torch.where(logsnr.isfinite(), path.time(logsnr.nan_to_num(0.0, 0.0, 0.0)), (1 - r) * t + r * s)


def refuse_ascending(times: Tensor) -> None:
    """Raises ValueError where a sampler that adds noise is asked to run from data to noise."""
    if (times.diff(dim=0) > 0).any():
        raise ValueError(
            "this sampler adds noise on the way, so it runs from noise to data only; "
            "from data to noise: euler, heun, midpoint, rk4, dpmpp_2m, unipc and other deterministic ones."
        )


class RungeKutta(Sampler):
    """An explicit Runge-Kutta method for dx/dt = alpha' x0 + sigma' noise, given by its tableau.

    The slope at t + nodes[j] (s - t) is taken at x + (s - t) sum_k matrix[j][k] slope_k, and the step is
    (s - t) sum_j weights[j] slope_j. A step that touches an infinite slope is the `euler` one.
    """

    lands = False
    nodes: tuple[float, ...]
    matrix: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        def slope(x: Tensor, t: Tensor) -> Tensor:
            return velocity(path, estimate(x, t), t)

        finite = finite_slope(path, times)
        for i, t, s in steps_of(times, x):
            touches = not (finite[i] and (finite[i + 1] or 1 not in self.nodes))
            if touches:
                x = place(path, estimate(x, t), s)
                continue
            moved = self.step(slope, x, t, s)
            if path.sigma(times[i + 1]) == 0 and not moved.isfinite().all():  # no slope is told at clean data
                moved = place(path, estimate(x, t), s)
            x = moved
        return x

    def step(self, slope: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x (B,...) at t (B,) -> at s (B,), for any slope."""
        step, slopes = expand(s - t, x), []
        for node, row in zip(self.nodes, self.matrix, strict=True):
            ahead = x + step * sum((a * k for a, k in zip(row, slopes, strict=True) if a), torch.zeros_like(x))
            slopes.append(slope(ahead, torch.lerp(t, s, node)))
        return x + step * sum(w * k for w, k in zip(self.weights, slopes, strict=True) if w)

    @property
    def evaluations(self) -> int:
        return len(self.nodes) * self.steps


class Churned(Sampler):
    """A sampler that may add noise before a step: the churn of Karras et al. 2022 (2206.00364), alg. 2.

    Where s_min <= sigma/alpha <= s_max, the level is raised by the factor 1 + min(churn / steps, sqrt(2) - 1) with
    fresh noise of deviation `s_noise`; never beyond the noisiest level of the path. `steps` are those of the times
    it is given: a task that takes fewer at once (`sdedit`, `replacement` that resamples) churns more in each.
    """

    def __init__(
        self,
        steps: int,
        spacing: Spacing,
        path: Path | None,
        churn: float,
        s_min: float,
        s_max: float | None,
        s_noise: float,
    ):
        super().__init__(steps, spacing, path)
        self.churn, self.s_min, self.s_max, self.s_noise = churn, s_min, s_max, s_noise

    def stir(self, x: Tensor, t: Tensor, path: Path, random: Random, steps: int) -> tuple[Tensor, Tensor]:
        """x and t (B,) -> the noisier x and t at which the step begins."""
        if not self.churn:
            return x, t
        fresh = random.normal(x.shape, x.dtype).to(x.device)  # drawn whether used or not, as published codes do
        level = path.sigma(t) / path.alpha(t)
        top = torch.inf if self.s_max is None else self.s_max
        if not (self.s_min <= level[0] <= top and torch.isfinite(level[0])):
            return x, t
        raised = path.time(-2 * torch.log(level * (1 + min(self.churn / steps, 2**0.5 - 1))))
        added = torch.sqrt(((path.sigma(raised) / path.alpha(raised)) ** 2 - level**2).clamp(min=0))
        alpha = path.alpha(raised)
        x = expand(alpha / path.alpha(t), x) * x + expand(alpha * added * self.s_noise, x) * fresh
        return x, raised
