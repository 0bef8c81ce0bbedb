"""What every density over t promises: vidiff.diffusion.times.Times."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.checks.parts import Straight, registered, require, watched_dice
from vidiff.diffusion.times import Times
from vidiff.random import Random
from vidiff.registry import Component

U = torch.linspace(0.001, 0.999, 301, dtype=torch.float64)
WHOLE = (0.0, 1.0)


def make(component: Component) -> Times:
    """A tiny one."""
    return component.build(component.tiny)


def quantiles_ascend_in_the_interval(component: Component) -> None:
    """quantile(u) for u in (0,1) ascends from the interval's low end to its high one, on every path: a density that
    leaves the interval trains at times that were excluded."""
    times = make(component)
    for name, path in registered("path", Straight()):
        for low, high in (WHOLE, (0.1, 0.7)):
            t = times.quantile(U, path, (low, high))
            fits = t.shape == U.shape and t.dtype == torch.float64
            require(fits, f"{tuple(t.shape)} {t.dtype} for u {tuple(U.shape)} in float64.")
            require(((t >= low) & (t <= high)).all(), f"it leaves [{low:g}, {high:g}] on path {name}.")
            require((t.diff() >= 0).all() and t[-1] > t[0], f"it falls, or never rises, on path {name}.")


def draws_follow_the_quantiles(component: Component) -> None:
    """20,000 drawn times follow the quantile function (Kolmogorov-Smirnov, p > 1e-3): the weight that a density stands
    for, and reports of it, are computed from that function."""
    times, num = make(component), 20_000
    t = times.draw(Random(1, "ks", rows=range(num)), Straight(), WHOLE, frames=4)
    shape = (num, 4) if times.framewise else (num,)
    require(t.shape == shape, f"it draws {tuple(t.shape)}, expected {shape} of a density with framewise={shape[1:]}.")
    t = t.reshape(num, -1)[:, -1].sort().values
    fine = torch.linspace(0, 1, 200_003, dtype=torch.float64)[1:-1]
    law = torch.searchsorted(times.quantile(fine, Straight(), WHOLE), t) / len(fine)
    steps = torch.arange(num + 1, dtype=torch.float64) / num
    distance = torch.maximum((law - steps[:-1]).abs(), (law - steps[1:]).abs()).max().item()
    require(distance * num**0.5 < 1.95, f"they are {distance:.3g} apart, {distance * num**0.5:.3g} deviations.")


def rows_draw_for_themselves(component: Component) -> None:
    """A row draws the same in any process of the same global batch, other rows and steps draw otherwise, and no global
    generator is used: then the number of GPUs changes no run."""
    times = make(component)

    def drawn(step: int, rows: range) -> Tensor:
        return times.draw(Random(3, "step", step, rows=rows, first=40, total=12), Straight(), WHOLE, frames=5)

    with watched_dice():
        whole, part, other = drawn(7, range(40, 52)), drawn(7, range(45, 48)), drawn(8, range(40, 52))
    require(whole.dtype == torch.float64 and len(whole) == 12, f"{len(whole)} times in {whole.dtype} for 12 rows.")
    require(torch.equal(whole[5:8], part), "rows 5 to 7 draw otherwise when they stand alone.")
    require(not torch.equal(whole, other), "two steps draw the same times.")


CHECKS = (quantiles_ascend_in_the_interval, draws_follow_the_quantiles, rows_draw_for_themselves)
