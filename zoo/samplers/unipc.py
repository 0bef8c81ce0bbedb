"""UniPC, a predictor and a corrector of one form: Zhao et al. 2023 (2302.04867), alg. 5 to 8."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn, place
from vidiff.diffusion.multistep import Levels, interpolating_weights, order_of
from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Sampler, Spacing, levels, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count, Range


@SAMPLERS.register("unipc", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class Unipc(Sampler):
    """Each evaluation also corrects the step that led to it: order `order` + 1 at one evaluation per step.

    `solver` is B(h): bh1 h, bh2 e^h - 1. `corrector` false leaves UniP; `of` is what the polynomials are of. The step
    from alpha = 0 and the one to sigma = 0 are of first order; with `lower_order_final` the orders descend to 1 at the
    end (diffusers' default).
    """

    def __init__(
        self,
        steps: Count = 25,
        spacing: Spacing | str = "logsnr",
        path: Path | str | None = None,
        order: Annotated[int, Range(min=1, max=4)] = 2,
        solver: Literal["bh1", "bh2"] = "bh2",
        corrector: bool = True,
        lower_order_final: bool = False,
        of: Literal["x0", "noise"] = "x0",
    ):
        super().__init__(steps, spacing, path)
        self.order, self.solver, self.noise = order, solver, of == "noise"
        self.corrector, self.lower_order_final = corrector, lower_order_final

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        times = torch.unique_consecutive(times)
        known, told, before, order = levels(path, times), [], x, 0
        for i, t, s in steps_of(times, x):
            now = estimate(x, t)
            if order and self.corrector and known[2][i - 1 : i + 1].isfinite().all():
                x = self.step(before, [now[self.noise], *told], known, i - 1, order, True)
            told, before = [now[self.noise], *told][: self.order], x
            order = order_of(i, known[2], self.order, self.lower_order_final)
            plain = not (known[2][i : i + 2].isfinite().all() if self.noise else known[1][i])
            x = place(path, now, s) if plain else self.step(before, told, known, i, order, False)
        return x

    def step(self, x: Tensor, told: list[Tensor], known: Levels, i: int, order: int, correct: bool) -> Tensor:
        """x (B,...) at time i -> at i + 1; to correct, `told` begins with what is believed at i + 1."""
        kept, scale = (known[0], known[1]) if self.noise else (known[1], known[0])
        lam = known[2]
        h = lam[i + 1] - lam[i]
        hh = h if self.noise else -h
        ahead, (here, *behind) = told[:1] if correct else [], told[1:] if correct else told
        x = kept[i + 1] / kept[i] * x - scale[i + 1] * torch.expm1(hh) * here
        nodes = [(lam[i - j] - lam[i]) / h for j in range(1, order)] + [torch.ones_like(h)] * len(ahead)
        slopes = [other - here for other in (*behind[: order - 1], *ahead)]
        if not nodes:
            return x
        rates = self.rates(torch.stack(nodes), hh)
        push = sum(rate / node * slope for rate, node, slope in zip(rates, nodes, slopes, strict=True))
        return x - scale[i + 1] * push

    def rates(self, nodes: Tensor, hh: Tensor) -> Tensor:
        """B(hh) rho (k,): the weights of the differences; the paper's 1/2 where there is but one."""
        b = hh if self.solver == "bh1" else torch.expm1(hh)
        if len(nodes) == 1:
            return b[None] / 2
        phi, moments = torch.expm1(hh) / hh - 1, []
        for n in range(1, len(nodes) + 1):
            moments.append(phi)
            phi = (phi * (n + 1)) / hh - 1  # n! phi_(n+1) hh, divided out one factorial at a time
        return interpolating_weights(nodes, torch.stack(moments))
