"""Autoregressive roll-out: videos longer than training, window by window.

Ho et al. 2022, Video Diffusion Models (2204.03458), sec. 3.1; Chen et al. 2024, Diffusion Forcing (2407.01392),
sec. 3.3: every window begins with the last frames of the one before, which are known to it.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vidiff.diffusion.known import fill
from vidiff.diffusion.objective import Objective
from vidiff.diffusion.sampler import Sampler
from vidiff.diffusion.task import Canvas, Known, Sampling, Task, known_pixels, staircase
from vidiff.registry import TASKS
from vidiff.types import Count, Fraction, Grid, Natural
from zoo.tasks.conditioning import refuse_untrained
from zoo.tasks.pyramid import refuse_rigid


@TASKS.register("rollout", tiny=dict(num_frames=14, context=2))
class Rollout(Task):
    """Draws `num_frames` frames; a window is as long as training, and `context` of its frames are the last ones drawn.

    `by` says how they are known to it: conditioning (a model trained for it), or replacement (any). `start` clip takes
    the first context from given videos. `level` is the time at which conditioning shows frames of its own drawing, a
    little above 0 to keep errors from growing; `slope` lets every new frame be so many steps behind the one before.
    """

    def __init__(
        self,
        num_frames: Count = 64,
        context: Count = 8,
        by: Literal["conditioning", "replacement"] = "conditioning",
        start: Literal["noise", "clip"] = "noise",
        level: Fraction = 0.0,
        slope: Natural = 0,
        *,
        canvas: Canvas,
    ):
        """Raises ValueError for a context that fills no latent frame, or the whole window, and for a level or slope
        that replacement would not use."""
        frames = canvas.shape[1]
        self.by, self.level, self.slope, self.window = by, level, slope, canvas.grid.t
        self.context = canvas.known_frames(context)
        if not 0 < self.context < self.window:
            raise ValueError(
                f"context is {context} of {frames} frames, which fills {self.context} of {self.window} latent frames: "
                "it must fill one at least and leave one at least to draw."
            )
        if by == "replacement" and (level or slope):
            raise ValueError("by=replacement shows known frames as noisy as the rest: leave level and slope at 0.")
        channels, _, height, width = canvas.shape
        self.length = Grid(*canvas.tokenizer.latent_shape((channels, num_frames, height, width))).t
        if start == "clip":
            self.take(canvas, known_pixels(canvas.shape, "first", context), whole_frames=True)

    def check(self, sampler: Sampler, objective: Objective, reads: frozenset[str]) -> None:
        """Raises ValueError for conditioning without training for it, and a slope that sampler or model cannot take."""
        if self.by == "conditioning":
            refuse_untrained(objective, reads)
        if self.slope:
            refuse_rigid(sampler, objective)

    def evaluations(self, sampler: Sampler) -> int | None:
        """Those of all windows."""
        windows = 1 + -(-max(0, self.length - self.window) // (self.window - self.context))
        return None if sampler.evaluations is None or self.slope else windows * sampler.evaluations

    def __call__(self, sampling: Sampling) -> Tensor:
        """(B,c,t,h,w), t the latent frames of `num_frames`."""
        z = self.next(sampling, sampling.known or nothing(sampling))
        while z.shape[2] < self.length:
            last = z[:, :, -self.context :]
            room = last.new_zeros(*last.shape[:2], self.window - self.context, *last.shape[3:])
            mask = torch.arange(self.window, device=z.device) < self.context
            known = Known(torch.cat([last, room], dim=2), mask[:, None, None].expand(sampling.grid))
            z = torch.cat([z, self.next(sampling, known)[:, :, self.context :]], dim=2)
        return z[:, :, : self.length]

    def next(self, sampling: Sampling, known: Known) -> Tensor:
        """The window (B,c,t,h,w) that begins with what is known."""
        wait = int(known.frames[0].sum())
        times = staircase(sampling.times, self.slope, self.window, wait) if self.slope else None
        return fill(sampling, known, self.by == "conditioning" and sampling.framewise, self.level, times)


def nothing(sampling: Sampling) -> Known:
    """No frame is known."""
    rows = len(sampling.random.random.rows)
    latent = torch.zeros(rows, *sampling.grid, device=sampling.device)
    return Known(latent, torch.zeros(sampling.grid, dtype=torch.bool, device=sampling.device))
