"""DDIM inversion: Song et al. 2020 (2010.02502), sec. 4.3; Mokady et al. 2022 (2211.09794), sec. 3.1.

The probability-flow ODE from a given video up to noise, and back. With an exact network both ends are the same but for
the sampler's steps: the error of the round trip falls with their number to the power of its order.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from vidiff.diffusion.objective import Objective
from vidiff.diffusion.path import expand
from vidiff.diffusion.sampler import Sampler
from vidiff.diffusion.task import Canvas, Sampling, Task
from vidiff.registry import TASKS
from vidiff.types import Range


@TASKS.register("inversion")
class Inversion(Task):
    """Encode and decode; `notes` has the root mean square error of the round trip, per video, in units of the latent.

    It begins at time `floor`, a little above 0, where networks have a slope to follow: the video counts as x_floor.
    """

    def __init__(self, floor: Annotated[float, Range(above=0.0, max=0.5)] = 0.001, *, canvas: Canvas):
        self.floor = floor
        self.take(canvas, torch.ones(canvas.shape[1:], dtype=torch.bool))

    def check(self, sampler: Sampler, objective: Objective, reads: frozenset[str]) -> None:
        """Raises ValueError for a sampler that adds noise on the way."""
        if not sampler.reverses:
            raise ValueError("this sampler adds noise, so no way leads back. Use sampler: heun, or another without.")

    def evaluations(self, sampler: Sampler) -> int | None:
        """There and back."""
        return None if sampler.evaluations is None else 2 * sampler.evaluations

    def __call__(self, sampling: Sampling) -> Tensor:
        """Raises ValueError when the way up is not finite, as at an end of a path that some samplers cannot leave."""
        estimate, z = sampling.believe(None), sampling.known.latent
        down = torch.cat([sampling.times[sampling.times > self.floor], sampling.times.new_tensor([self.floor])])
        scale = expand(sampling.path.alpha(down[-1]), z)
        code = sampling.run(estimate, scale * z, down.flip(0))
        back = sampling.run(estimate, code, down) / scale
        if not back.isfinite().all():
            raise ValueError("the way to noise and back is not finite with this sampler. Use sampler: euler or heun.")
        errors = (back - z).square().flatten(1).mean(1).sqrt()
        sampling.notes.setdefault("round_trip_rmse", []).extend(errors.tolist())
        return back
