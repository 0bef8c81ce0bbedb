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
    """val/loss of the averaged weights and val/loss_raw of the raw ones, over `num` clips of a split.

    Clips of several shapes also have val/loss_TxHxW of the averaged weights.
    """

    def __init__(self, every: Count = 500, num: Count = 64, batch_size: Count = 32, split: str = "val"):
        self.every, self.num, self.batch_size, self.split = every, num, batch_size, split

    def __call__(self, trainer) -> None:
        """Measure both sets of weights and record them."""
        by_shape, raw = self.losses(trainer, "ema"), self.losses(trainer, "raw")
        values = {"val/loss": mean(by_shape), "val/loss_raw": mean(raw)}
        if len(by_shape) > 1:
            values |= {f"val/loss_{shape}": total / count for shape, (total, count) in by_shape.items()}
        trainer.record(values)
        trainer.console.say(f"  val loss {values['val/loss']:.4f} (raw weights {values['val/loss_raw']:.4f})")

    @torch.no_grad()
    def losses(self, trainer, weights: str) -> dict[str, tuple[float, int]]:
        """The summed loss and the number of clips of every shape ("TxHxW") in the panel."""
        model = trainer.model(weights)
        was_training = model.training
        model.eval()
        found: dict[str, tuple[float, int]] = {}
        for batch, rows in trainer.panel(self.split, self.num, self.batch_size):
            random = Random(0, "validation", rows=rows, total=self.num, device=trainer.world.device)
            with trainer.autocast():
                loss = float(model(batch, random)["loss"]) * len(rows)
            shape = "x".join(map(str, batch["video"].shape[2:]))
            total, count = found.get(shape, (0.0, 0))
            found[shape] = (total + loss, count + len(rows))
        model.train(was_training)
        return found


def mean(found: dict[str, tuple[float, int]]) -> float:
    """The mean over all clips, whatever their shape."""
    totals, counts = zip(*found.values(), strict=True)
    return sum(totals) / sum(counts)
