"""DDIM inversion: Song et al. 2020 (2010.02502), sec. 4.3; Mokady et al. 2022 (2211.09794), sec. 3.1.

The probability-flow ODE from a given video up to noise, and back. With an exact network both ends are the same but for
the sampler's steps: the error of the round trip falls with their number to the power of its order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.objective import Objective
from vidiff.diffusion.path import expand
from vidiff.diffusion.sampler import Sampler
from vidiff.diffusion.task import Canvas, Sampling, Task
from vidiff.registry import TASKS


@TASKS.register("inversion")
class Inversion(Task):
    """Encode and decode; `notes` has the root mean square error of the round trip, per video, in units of the latent.

    The video counts as x at the sampler's last time above 0: at 0 itself networks have no slope to follow, and a first
    step from far nearer to it would be many times its distance.
    """

    def __init__(self, *, canvas: Canvas):
        self.take(canvas, torch.ones(canvas.shape[1:], dtype=torch.bool))

    def check(self, sampler: Sampler, objective: Objective, reads: frozenset[str]) -> None:
        """Raises ValueError for a model that tells no velocity, so no ODE, and for a sampler that runs one way only."""
        if "velocity" not in objective.tells:
            tells = " and ".join(sorted(objective.tells))
            raise ValueError(
                f"the way to noise is an ODE, and this objective's estimates tell {tells} only. "
                "Use task: sdedit, or a model trained with another objective, such as rectified_flow."
            )
        if not sampler.reverses or "velocity" not in sampler.asks:
            why = "adds noise on the way" if not sampler.reverses else "jumps as models are trained to, towards data"
            raise ValueError(f"this sampler {why}, so no way leads back. Use sampler: heun, or another for an ODE.")

    def evaluations(self, sampler: Sampler) -> int | None:
        """There and back, without the step to 0; how many, the sampler's method tells."""
        return None

    def __call__(self, sampling: Sampling) -> Tensor:
        """Raises ValueError when the way up is not finite, as at an end of a path that some samplers cannot leave."""
        estimate, z = sampling.believe(None), sampling.known.latent
        down = sampling.times[sampling.times > 0]
        scale = expand(sampling.path.alpha(down[-1]), z)
        code = sampling.run(estimate, scale * z, down.flip(0))
        back = sampling.run(estimate, code, down) / scale
        if not back.isfinite().all():
            raise ValueError("the way to noise and back is not finite with this sampler. Use sampler: euler or heun.")
        errors = (back - z).square().flatten(1).mean(1).sqrt()
        sampling.notes.setdefault("round_trip_rmse", []).extend(errors.tolist())
        return back
