"""Linear multistep: Adams-Bashforth (1883) on any grid; k-diffusion's sample_lms, PNDM's plain form (2202.09778)."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn, place, velocity
from vidiff.diffusion.multistep import interpolating_weights
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.sampler import Sampler, Spacing, finite_slope, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count, Range


@SAMPLERS.register("lms", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class Lms(Sampler):
    """dx/dt as a polynomial in t through its last `order` values, integrated exactly; order 1, 2, ... to begin with.

    On `ve` that is the polynomial in sigma of k-diffusion and diffusers, on `linear` the one in their flow time.
    A step that ends where the slope is infinite is the `euler` one.
    """

    lands = False

    def __init__(
        self,
        steps: Count = 25,
        spacing: Spacing | str = "uniform",
        path: Path | str | None = None,
        order: Annotated[int, Range(min=1, max=8)] = 4,
    ):
        super().__init__(steps, spacing, path)
        self.order = order

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        times = torch.unique_consecutive(times)
        finite, slopes, nodes = finite_slope(path, times), [], []
        for i, t, s in steps_of(times, x):
            now = estimate(x, t)
            if not (finite[i] and finite[i + 1]):
                x = place(path, now, s)
                continue
            slopes, nodes = [velocity(path, now, t), *slopes][: self.order], [times[i], *nodes][: self.order]
            step = times[i + 1] - times[i]
            moments = 1 / torch.arange(1, self.order + 1, dtype=times.dtype, device=times.device)
            weights = interpolating_weights((torch.stack(nodes) - times[i]) / step, moments)
            x = x + expand(step, x) * sum(w * slope for w, slope in zip(weights, slopes, strict=True))
        return x
