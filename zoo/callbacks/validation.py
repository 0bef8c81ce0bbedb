"""The loss on a fixed panel: the same unseen clips, times and noise at every step, run and seed.

Training noise hides progress; a panel whose dice never change shows it. Times are stratified over
the panel, so that its mean is a low-variance estimate of the loss (Kingma et al. 2021, app. I.1).
"""

from __future__ import annotations

import torch

from vidiff.random import Random
from vidiff.registry import CALLBACKS
from vidiff.types import Count


@CALLBACKS.register("validation", tiny=dict(every=2, num=3, batch_size=2))
class Validation:
    """val/loss of the averaged weights and val/loss_raw of the raw ones, over `num` clips of a split."""

    def __init__(self, every: Count = 500, num: Count = 64, batch_size: Count = 32, split: str = "val"):
        self.every, self.num, self.batch_size, self.split = every, num, batch_size, split

    def __call__(self, trainer) -> None:
        """Measure both sets of weights and record them."""
        values = {"val/loss": self.loss(trainer, "ema"), "val/loss_raw": self.loss(trainer, "raw")}
        trainer.record(values)
        trainer.console.say(f"  val loss {values['val/loss']:.4f} (raw weights {values['val/loss_raw']:.4f})")

    @torch.no_grad()
    def loss(self, trainer, weights: str) -> float:
        """The mean loss over the panel."""
        model = trainer.model(weights)
        was_training = model.training
        model.eval()
        total = 0.0
        for batch, rows in trainer.panel(self.split, self.num, self.batch_size):
            random = Random(0, "validation", rows=rows, total=self.num, device=trainer.world.device)
            with trainer.autocast():
                total += float(model(batch, random)["loss"]) * len(rows)
        model.train(was_training)
        return total / self.num
