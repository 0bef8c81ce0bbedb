"""Known frames by conditioning: the network was trained to see them clean.

Voleti et al. 2022, MCVD (2205.09853), sec. 3, known frames as channels; Höppe et al. 2022, RaMViD (2206.07696), and
Chen et al. 2024, Diffusion Forcing (2407.01392), known frames at time 0. With an exact network this draws from the
conditional distribution itself.
"""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.known import fill
from vidiff.diffusion.objective import Objective
from vidiff.diffusion.sampler import Sampler
from vidiff.diffusion.task import Canvas, Frames, Sampling, Task, known_pixels
from vidiff.registry import TASKS
from vidiff.types import Count


@TASKS.register("conditioning", tiny=dict(frames="first", count=2))
class Conditioning(Task):
    """Fills in the frames that are unknown of given videos, with a model trained for it.

    Known are the first, last, both ends or every n-th of the video's frames. The model is shown them by its conditioner
    where that reads the latent (`frames`), else clean at time 0 (objectives `diffusion_forcing`, `masked_video`).
    """

    def __init__(self, frames: Frames = "first", count: Count = 8, *, canvas: Canvas):
        self.take(canvas, known_pixels(canvas.shape, frames, count), whole_frames=True)

    def check(self, sampler: Sampler, objective: Objective, reads: frozenset[str]) -> None:
        """Raises ValueError for a model that has never seen known frames."""
        refuse_untrained(objective, reads)

    def __call__(self, sampling: Sampling) -> Tensor:
        return fill(sampling, sampling.known, clean=sampling.framewise)


def refuse_untrained(objective: Objective, reads: frozenset[str]) -> None:
    """Raises ValueError for a model that was trained neither with times per frame nor to be shown frames."""
    if not objective.framewise and "latent" not in reads:
        raise ValueError(
            "this model has never seen clean frames beside noisy ones. Train with objective: diffusion_forcing or "
            "masked_video or with conditioner: frames, or use task: replacement."
        )
