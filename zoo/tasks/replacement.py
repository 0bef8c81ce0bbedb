"""Known frames or regions by replacement: Song et al. 2021 (2011.13456), app. I.2; RePaint, Lugmayr et al. 2022
(2201.09865), alg. 1.

What is known is noised along with the rest, so any model can predict, fill in between and inpaint. The network sees
what is known only as noisy as the rest, so what it draws agrees less than a true conditional would (Ho et al. 2022,
2204.03458, sec. 3.1, has the formula); going back and forth (`resample`) lessens that.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from vidiff.diffusion.known import begin, fill, noised, pinned
from vidiff.diffusion.sampler import Sampler
from vidiff.diffusion.task import Canvas, Frames, Sampling, Task, known_pixels
from vidiff.registry import TASKS
from vidiff.types import Count, Fraction, Range

Box = tuple[Fraction, Fraction, Fraction, Fraction]


@TASKS.register("replacement", tiny=dict(frames="first", count=2))
class Replacement(Task):
    """Fills in what is unknown of given videos, with any model.

    Known are whole `frames` (the first, the last, both ends, every n-th; `count` of the video) and, of the others, what
    lies outside `box` [top, left, height, width] in shares. `resample` goes over every `jump` steps that often, with
    fresh noise between (RePaint); 1 is plain replacement.
    """

    def __init__(
        self,
        frames: Frames = "first",
        count: Count = 8,
        box: Box | None = None,
        resample: Annotated[int, Range(min=1, max=1000)] = 1,
        jump: Count = 5,
        *,
        canvas: Canvas,
    ):
        self.resample, self.jump = resample, jump
        self.take(canvas, known_pixels(canvas.shape, frames, count, box))

    def evaluations(self, sampler: Sampler) -> int | None:
        """Every stretch of steps `resample` times."""
        return sampler.evaluations if self.resample == 1 else None

    def __call__(self, sampling: Sampling) -> Tensor:
        known, times = sampling.known, sampling.times
        if self.resample == 1:
            return fill(sampling, known, clean=False)
        x, estimate = begin(sampling, known), pinned(sampling.believe(known), known, sampling.path)
        for i in range(0, len(times) - 1, self.jump):
            stretch = times[i : i + self.jump + 1]
            for again in range(self.resample):
                x = noised(sampling, x, stretch[-1], stretch[0]) if again else x
                x = sampling.run(estimate, x, stretch)
        return torch.where(known.mask, known.latent, x)
