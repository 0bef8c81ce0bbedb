"""From noise to data: samplers are functions of their arguments, with no state between calls."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.times import Interval
from vidiff.random import Random


class Spacing:
    """Where the steps of a sampler lie."""

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

    asks = frozenset({"velocity"})
    """What it takes an estimate for; a model must tell one of these (see `Objective.tells`)."""

    def __init__(self, steps: int, spacing: Spacing, path: Path | None = None):
        self.steps, self.spacing, self.path = steps, spacing, path

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        """x (B,...) at times[0] -> x (B,...) at times[-1], which is x0 at time 0.

        `times` (S+1,) descending; stochastic samplers take fresh noise from `random.normal`
        (give them `PriorRandom`, so that it is of the kind the model was trained on).
        """
        raise NotImplementedError

    @property
    def evaluations(self) -> int:
        """How often one run down to time 0 calls `estimate` (NFE)."""
        return self.steps


def start(path: Path, noise: Tensor, t: Tensor) -> Tensor:
    """x_t when nothing is known of the data but their unit variance: norm(t) * noise.

    Unit noise on variance-preserving paths and at t = 1 of interpolants, sigma_max * noise on
    variance-exploding ones, as published samplers start.
    """
    return expand(path.norm(t), noise) * noise


def steps_of(times: Tensor, x: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(i, t (B,), s (B,)) for each step from t down to s, shaped for the batch of x."""
    for i, (t, s) in enumerate(pairwise(times)):
        yield i, t.expand(x.shape[0]), s.expand(x.shape[0])
