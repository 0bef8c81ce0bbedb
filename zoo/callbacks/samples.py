"""Samples of fixed seeds during training, as a GIF, a strip of frames and in TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from vidiff.registry import CALLBACKS
from vidiff.types import Count, Positive
from vidiff.video import tile, write_gif, write_png_strip


@CALLBACKS.register("samples", tiny=dict(every=2, num=2))
class Samples:
    """Draws `num` videos, the same seeds every time, with the run's sampler and guidance."""

    def __init__(
        self, every: Count = 1000, num: Count = 8, weights: Literal["ema", "raw"] = "ema", fps: Positive = 8.0
    ):
        self.every, self.num, self.weights, self.fps = every, num, weights, fps

    def __call__(self, trainer) -> None:
        """Draw, write samples/step_*.gif and .png, and show them in TensorBoard."""
        drawing = trainer.draw(self.num, self.weights)
        folder = trainer.run.path / "samples"
        folder.mkdir(exist_ok=True)
        stem = folder / f"step_{trainer.step:08d}"
        grid = tile(drawing.video)
        write_gif(stem.with_suffix(".gif"), grid, self.fps)
        write_png_strip(stem.with_suffix(".png"), drawing.video)
        trainer.board.video(f"samples/{self.weights}", grid, trainer.step, self.fps)
        trainer.console.say(f"  {self.num} samples in {drawing.seconds:.1f} s: {stem}.gif")
        if not (folder / "data.gif").exists():
            self.show_data(trainer, folder / "data.gif")

    def show_data(self, trainer, file: Path) -> None:
        """Held-out clips, once, to hold the samples against."""
        clips = tile(torch.cat([batch["video"].cpu() for batch, _ in trainer.panel("val", self.num, self.num)]))
        write_gif(file, clips, self.fps)
        trainer.board.video("samples/data", clips, trainer.step, self.fps)
