"""The pyramid schedule: Chen et al. 2024, Diffusion Forcing (2407.01392), sec. 3.3 and fig. 2; app. D.

Frames are the less certain the farther they lie ahead: frame f is `slope` steps behind frame f - 1, so near frames are
drawn while far ones are still noise. Slope 0 is full-sequence diffusion, a slope of all steps one frame at a time.
"""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.objective import Objective
from vidiff.diffusion.sampler import Sampler
from vidiff.diffusion.task import Canvas, Sampling, Task, staircase
from vidiff.registry import TASKS
from vidiff.types import Natural


@TASKS.register("pyramid", tiny=dict(slope=1))
class Pyramid(Task):
    """Videos from noise with times per frame; S + slope (t - 1) evaluations for t latent frames."""

    def __init__(self, slope: Natural = 5, *, canvas: Canvas):
        self.slope, self.frames = slope, canvas.grid.t

    def check(self, sampler: Sampler, objective: Objective, reads: frozenset[str]) -> None:
        """Raises ValueError for a model without times per frame, or a sampler that steps all frames alike."""
        if self.slope:
            refuse_rigid(sampler, objective)

    def evaluations(self, sampler: Sampler) -> int | None:
        return None if sampler.evaluations is None else sampler.evaluations + self.slope * (self.frames - 1)

    def __call__(self, sampling: Sampling) -> Tensor:
        times = staircase(sampling.times, self.slope, self.frames) if self.slope else sampling.times
        return sampling.run(sampling.believe(None), sampling.start(), times)


def refuse_rigid(sampler: Sampler, objective: Objective) -> None:
    """Raises ValueError where frames cannot be at different times."""
    if not objective.times.framewise:
        raise ValueError("this model has never seen frames at several times. Train with objective: diffusion_forcing.")
    if not sampler.framewise:
        raise ValueError("this sampler moves all frames by one step. Use sampler: euler or ancestral, or slope: 0.")
