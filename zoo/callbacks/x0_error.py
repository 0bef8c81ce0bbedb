"""The error of the believed clean video at fixed noise levels: one number that all objectives can be compared by.

The panel is fixed: the same unseen clips with the same noise at every step, run, seed and configuration, so two
models are compared clip by clip. The measure and why it is fair: vidiff/diffusion/levels.py
(Kingma et al. 2021 (2107.00630), sec. 5).
"""

from __future__ import annotations

import json

import torch
from torch import Tensor

from vidiff.diffusion.levels import time_at, x0_error
from vidiff.random import Random
from vidiff.registry import CALLBACKS
from vidiff.types import Count


@CALLBACKS.register("x0_error", tiny=dict(every=2, num=3, batch_size=2))
class X0Error:
    """val/x0_error: E |x0_hat - x0|^2 of the averaged weights, its mean over `levels` of log-SNR and each of them."""

    def __init__(
        self,
        every: Count = 500,
        num: Count = 64,
        batch_size: Count = 32,
        split: str = "val",
        levels: list[float] = (-4.0, -2.0, 0.0, 2.0, 4.0),
    ):
        """Raises ValueError for no levels."""
        if not levels:
            raise ValueError("levels is empty: name at least one log-SNR.")
        self.every, self.num, self.batch_size, self.split = every, num, batch_size, split
        self.levels = [float(level) for level in levels]

    def check(self, diffuser) -> None:
        """Raises ValueError when the objective believes no x0, or does not reach one of the levels."""
        if "velocity" not in diffuser.objective.tells:
            raise ValueError(
                "this objective answers where a trajectory ends, which is no mean of x0 and is never as near to it: "
                "its error would be another number than that of the others. Leave x0_error away, and compare samples."
            )
        for level in self.levels:
            time_at(diffuser.objective, level)

    def __call__(self, trainer) -> None:
        """Measure, record, and leave every clip's errors in eval/x0_error.json."""
        errors = self.measure(trainer)
        means = errors.mean(0).tolist()
        by_level = {f"val/x0_error/logsnr_{level:g}": mean for level, mean in zip(self.levels, means, strict=True)}
        trainer.record({"val/x0_error": sum(means) / len(means), **by_level})
        trainer.console.say(f"  x0 error {sum(means) / len(means):.4f} on {self.num} held-out clips")
        record = {"tag": "val/x0_error", "step": trainer.step, "levels": self.levels, "clips": errors.tolist()}
        folder = trainer.run.path / "eval"
        folder.mkdir(exist_ok=True)
        partial = folder / ".x0_error.partial"
        partial.write_text(json.dumps(record) + "\n", encoding="utf-8")
        partial.replace(folder / "x0_error.json")

    @torch.no_grad()
    def measure(self, trainer) -> Tensor:
        """The errors (num, levels) in float64, a row per clip; a clip has the same noise at all levels."""
        model = trainer.model("ema")
        was_training = model.training
        model.eval()
        rows_of = []
        for batch, rows in trainer.panel(self.split, self.num, self.batch_size):
            random = Random(0, "x0_error", rows=rows, device=trainer.world.device)
            with trainer.autocast():
                x0 = model.encode(batch["video"]).float()
                noise = model.objective.noise(x0.shape, random, x0.dtype).to(x0.device)
                cond, _ = model.conditions(batch, len(x0))
                columns = [x0_error(model.objective, model.backbone, x0, noise, cond, level) for level in self.levels]
            rows_of.append(torch.stack(columns, 1).double().cpu())
        model.train(was_training)
        return torch.cat(rows_of)
