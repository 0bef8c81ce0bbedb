"""What every sampler promises: a function of its arguments that reaches the data."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.checks.parts import Straight, draw, require, watched_dice
from vidiff.diffusion.estimate import Estimate
from vidiff.random import Random
from vidiff.registry import Component

NUM, D = 5, 3
POINT = torch.tensor([0.4, -1.3, 0.8], dtype=torch.float64)


def knows_the_point(x: Tensor, t: Tensor) -> Estimate:
    """The exact estimate when all data are one point."""
    x0 = POINT.expand_as(x).to(x.dtype)
    return Estimate(x0, (x - (1 - t)[:, None] * x0) / t[:, None].clamp(min=1e-12))


def start(num: int = NUM) -> Tensor:
    """Pure noise."""
    return draw(num, D, seed=8).double()


def reaches_the_point(component: Component) -> None:
    """With a perfect estimate of a single data point, sampling ends on it: if it does not, the last step does not
    arrive at t = 0, or a formula is wrong."""
    sampler, path = component.build(component.tiny), Straight()
    times = torch.linspace(1, 0, 8, dtype=torch.float64)
    out = sampler(knows_the_point, start(), times, path, Random(4, "check", rows=range(NUM)))
    off = (out - POINT).abs().max().item()
    require(off <= 1e-6, f"it ends {off:.3g} away.")


def counts_its_evaluations(component: Component) -> None:
    """`evaluations` is how often the network is asked: reports and equal-cost comparisons rely on it."""
    sampler, path, calls = component.build(component.tiny), Straight(), []
    times = sampler.spacing(sampler.steps, path, (0.0, 1.0))

    def counted(x: Tensor, t: Tensor) -> Estimate:
        calls.append(t)
        return knows_the_point(x, t)

    sampler(counted, start(), times, path, Random(4, "check", rows=range(NUM)))
    require(len(calls) == sampler.evaluations, f"{len(calls)} calls, `evaluations` says {sampler.evaluations}.")
    require(all(t.shape == (NUM,) for t in calls), "the network is not asked with one time per sample.")


def samples_keep_apart(component: Component) -> None:
    """Sample i is the same whatever the batch, and throws its own dice only (`random`, never a global generator)."""
    sampler, path, times = component.build(component.tiny), Straight(), torch.linspace(1, 0.25, 5, dtype=torch.float64)
    with watched_dice():
        many = sampler(knows_the_point, start(), times, path, Random(2, "check", rows=range(NUM)))
        one = sampler(knows_the_point, start()[2:3], times, path, Random(2, "check", rows=[2]))
    off = (many[2] - one[0]).abs().max().item()
    require(off <= 1e-9, f"sample 2 differs by {off:.3g} alone and in a batch of five.")


CHECKS = (reaches_the_point, counts_its_evaluations, samples_keep_apart)
