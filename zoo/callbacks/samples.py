"""Samples of fixed seeds during training, as a GIF, a strip of frames and in TensorBoard."""

from __future__ import annotations

from typing import Literal

import torch

from vidiff.registry import CALLBACKS
from vidiff.types import Count, Positive, shapes_of
from vidiff.video import tile, write_gif, write_png_strip


@CALLBACKS.register("samples", tiny=dict(every=2, num=2))
class Samples:
    """Draws `num` videos, the same seeds every time, with the run's sampler and guidance."""

    def __init__(
        self, every: Count = 1000, num: Count = 8, weights: Literal["ema", "raw"] = "ema", fps: Positive = 8.0
    ):
        self.every, self.num, self.weights, self.fps = every, num, weights, fps

    def __call__(self, trainer) -> None:
        """Draw, write samples/step_*.gif and .png, and show them in TensorBoard: of several shapes, some of each."""
        shapes = shapes_of(trainer.dataset)
        for shape in shapes:
            self.draw(trainer, shape, max(1, self.num // len(shapes)), named(shape) if len(shapes) > 1 else "")
        if not list((trainer.run.path / "samples").glob("data*.gif")):
            self.show_data(trainer, len(shapes) > 1)

    def draw(self, trainer, shape: tuple[int, int, int, int], num: int, name: str) -> None:
        """Draw videos of one shape, write and show them."""
        drawing = trainer.draw(num, self.weights, shape=shape)
        folder = trainer.run.path / "samples"
        folder.mkdir(exist_ok=True)
        stem = folder / f"step_{trainer.step:08d}{name}"
        grid = tile(drawing.video)
        write_gif(stem.with_suffix(".gif"), grid, self.fps)
        write_png_strip(stem.with_suffix(".png"), drawing.video)
        trainer.board.video(f"samples/{self.weights}{name}", grid, trainer.step, self.fps)
        trainer.console.say(f"  {num} samples in {drawing.seconds:.1f} s: {stem}.gif")

    def show_data(self, trainer, several: bool) -> None:
        """Held-out clips, once, to hold the samples against."""
        batches = [batch["video"].cpu() for batch, _ in trainer.panel("val", self.num, self.num)]
        for shape in dict.fromkeys(video.shape[1:] for video in batches):
            name = named(shape) if several else ""
            clips = tile(torch.cat([video for video in batches if video.shape[1:] == shape]))
            write_gif(trainer.run.path / "samples" / f"data{name}.gif", clips, self.fps)
            trainer.board.video(f"samples/data{name}", clips, trainer.step, self.fps)


def named(shape: tuple[int, int, int, int]) -> str:
    """(C,T,H,W) -> "_TxHxW"."""
    return "_" + "x".join(map(str, shape[1:]))
