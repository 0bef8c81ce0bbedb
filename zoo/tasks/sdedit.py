"""SDEdit: Meng et al. 2021 (2108.01073), sec. 3: noise a given video part of the way, and draw it from there."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from vidiff.diffusion.sampler import Sampler
from vidiff.diffusion.task import Canvas, Sampling, Task
from vidiff.registry import TASKS
from vidiff.types import Range


@TASKS.register("sdedit", tiny=dict(strength=0.6))
class SDEdit(Task):
    """x = alpha z + sigma noise at time `strength`, then the sampler's times below it; 1 keeps nothing of the video.

    The nearer to 0, the closer to the given video. As many evaluations as the sampler has times left.
    """

    def __init__(self, strength: Annotated[float, Range(above=0.0, max=1.0)] = 0.5, *, canvas: Canvas):
        self.strength = strength
        self.take(canvas, torch.ones(canvas.shape[1:], dtype=torch.bool))

    def evaluations(self, sampler: Sampler) -> int | None:
        """Fewer than the sampler's own; how many, its spacing tells."""
        return None

    def __call__(self, sampling: Sampling) -> Tensor:
        first = sampling.times[:1].clamp(max=self.strength)
        times = torch.cat([first, sampling.times[sampling.times < first]])
        x = sampling.path.point(sampling.known.latent, sampling.noise(), first[0])
        return sampling.run(sampling.believe(None), x, times)
