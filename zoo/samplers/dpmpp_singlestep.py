"""DPM-Solver (singlestep): Lu et al. 2022 (2211.01095), alg. 1, and 2206.00927; the grid has its inner points."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn, place
from vidiff.diffusion.multistep import Levels
from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Sampler, Spacing, levels, refuse_ascending, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count, Range


@SAMPLERS.register("dpmpp_singlestep", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class DpmppSinglestep(Sampler):
    """Blocks of `order` steps, each from the block's start through all x0 since: diffusers' DPMSolverSinglestep.

    One evaluation per step, nothing remembered between blocks; `dpmpp_2s` puts its halfway points itself. `solver` heun
    interpolates x0, midpoint takes its last slope; `of` noise is DPM-Solver (dpmsolver), `stochastic` the reverse SDE
    (sde-dpmsolver++), of x0 alone. The step to sigma = 0 is the `euler` one, and so is the last one in any case with
    `lower_order_final` where blocks would fill the steps. `minus_half` as of `dpmpp_3m_sde`.
    """

    def __init__(
        self,
        steps: Count = 25,
        spacing: Spacing | str = "logsnr",
        path: Path | str | None = None,
        order: Annotated[int, Range(min=1, max=3)] = 2,
        solver: Literal["midpoint", "heun"] = "midpoint",
        of: Literal["x0", "noise"] = "x0",
        stochastic: bool = False,
        lower_order_final: bool = False,
        minus_half: bool = False,
    ):
        """Raises ValueError for a stochastic solver in the noise, of which there is none."""
        if stochastic and of == "noise":
            raise ValueError(
                "dpmpp_singlestep follows the SDE with of: x0 only. Use dpm_solver for stochastic steps in the noise."
            )
        super().__init__(steps, spacing, path)
        self.order, self.midpoint, self.noise = order, solver == "midpoint", of == "noise"
        self.stochastic, self.lower_order_final = stochastic, lower_order_final
        self.half, self.reverses = -0.5 if minus_half else 0.5, not stochastic

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        if self.stochastic:
            refuse_ascending(times)
        times = torch.unique_consecutive(times)
        known, base, first, told = levels(path, times), x, 0, []
        split = len(times) - 2 if self.lower_order_final and (len(times) - 1) % self.order == 0 else None
        for i, t, s in steps_of(times, x):
            now = estimate(x, t)
            if len(told) in (0, self.order) or i == split or not known[2][first].isfinite():
                base, first, told = x, i, []
            told.append(now[self.noise])
            ends = known[1][i + 1] == 0 or known[1][first] == 0
            blind = self.noise and not known[2][first].isfinite()
            x = place(path, now, s) if ends or blind else self.step(base, told, known, first)
            if self.stochastic and known[1][i + 1]:
                h = known[2][i + 1] - known[2][first]
                x = x + known[1][i + 1] * torch.sqrt(-torch.expm1(-2 * h)) * random.normal(x.shape, x.dtype).to(
                    x.device
                )
        return x

    def step(self, x: Tensor, told: list[Tensor], known: Levels, first: int) -> Tensor:
        """x (B,...) at time `first` and what is believed at it and at the times after it -> at the one after those."""
        last = first + len(told)
        kept, scale = (known[0], known[1]) if self.noise else (known[1], known[0])
        h = known[2][last] - known[2][first]
        wide = -h if self.noise else 2 * h if self.stochastic else h  # DPM-Solver is DPM-Solver++ with time reversed
        gained = -torch.expm1(-wide)
        p2 = 1 - gained / wide
        x = kept[last] / kept[first] * (torch.exp(-h) if self.stochastic else 1) * x + scale[last] * gained * told[0]
        r = (known[2][first + 1 : last] - known[2][first]) / h
        slopes = [(there - told[0]) / node for there, node in zip(told[1:], r, strict=True)]
        if not slopes:
            return x
        if self.midpoint:
            return x + scale[last] * (gained / 2 if len(slopes) == 1 else p2) * slopes[-1]
        if len(slopes) == 1:
            return x + scale[last] * p2 * slopes[0]
        bend = (slopes[1] - slopes[0]) / (r[1] - r[0])
        return x + scale[last] * (p2 * (slopes[0] - r[0] * bend) - 2 * (p2 / wide - self.half) * bend)
