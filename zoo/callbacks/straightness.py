"""How straight the model's trajectories are, beside its teacher's: Liu et al. 2022 (2209.03003), sec. 3, eq. 8.

Straight trajectories need few steps; reflow is to make them straighter than those of its teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vidiff.diffusion.sampler import start
from vidiff.diffusion.straightness import straightness
from vidiff.random import Random
from vidiff.registry import CALLBACKS
from vidiff.types import Cond, Count


@CALLBACKS.register("straightness", tiny=dict(every=2, num=3, steps=4, batch_size=2))
class Straightness:
    """straightness/model of the averaged weights and, where the objective has one, straightness/teacher.

    From the same `num` noises under the conditions of held-out clips, without guidance, by `steps` Euler steps.
    """

    def __init__(self, every: Count = 1000, num: Count = 32, steps: Count = 25, batch_size: Count = 16):
        self.every, self.num, self.steps, self.batch_size = every, num, steps, batch_size

    def __call__(self, trainer) -> None:
        """Measure and record."""
        model, sums = trainer.model("ema"), {}
        was_training = model.training
        model.eval()
        for batch, rows in trainer.panel("val", self.num, self.batch_size):
            with torch.no_grad(), trainer.autocast():
                for name, each in self.measured(model, batch, rows):
                    sums[name] = sums.get(name, 0.0) + float(each.sum())
        model.train(was_training)
        values = {f"straightness/{name}": total / self.num for name, total in sums.items()}
        trainer.record(values)
        trainer.console.say("  " + ", ".join(f"{name} {value:.4f}" for name, value in values.items()))

    def measured(self, model, batch, rows) -> Iterator[tuple[str, Tensor]]:
        """("model" or "teacher", S (B,)) for a batch."""
        objective, z = model.objective, model.encode(batch["video"])
        cond, _ = model.conditions(batch, len(z))
        noise = objective.noise(z.shape, Random(0, "straightness", rows=rows, device=z.device)).to(z.device)
        times = torch.linspace(objective.interval[1], objective.interval[0], self.steps + 1, dtype=torch.float64)
        times = times.to(z.device)
        x = start(objective.path, noise, times[0])
        for name, estimate in estimates(model, cond).items():
            yield name, straightness(estimate, x, times, objective.path)


def estimates(model, cond: Cond) -> dict[str, Callable]:
    """What the model believes under a condition and, if it has one, what its teacher does."""
    own = {"model": lambda x, t: model.objective.estimate(model.backbone, x, t, cond)}
    teacher = getattr(model.objective, "teacher", None)
    return own if teacher is None else {**own, "teacher": teacher.estimator(cond)}
