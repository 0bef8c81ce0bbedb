"""A folder of samples: held by one call, nothing in it lost unasked, every video in every format."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from vidiff.engine.run import take_lock
from vidiff.errors import Refused
from vidiff.video import tile, write_gif, write_mp4, write_npy, write_png_strip

FORMATS = ("gif", "mp4", "png", "npy")

OURS = re.compile(r"(sample_\d{4,}|grid|compare)\.(gif|mp4|png|npy)|samples\.json")
"""The names of the files written here."""


@contextmanager
def writing_in(out: Path, overwrite: bool) -> Iterator[list[Path]]:
    """Hold a folder that can be written. Raises Refused, before anything is drawn, where there are samples already.

    With `overwrite` these are given, to be deleted when there are others: all of them, because these may be fewer.
    """
    if out.exists() and not out.is_dir():
        raise Refused(f"{out} is not a folder; choose another with --out.")
    old = [file for file in out.iterdir() if OURS.fullmatch(file.name)] if out.is_dir() else []
    if old and not overwrite:
        what = "samples" if out / "samples.json" in old else f"{old[0].name}, perhaps of a call that was interrupted,"
        raise Refused(f"{out} holds {what} already; add --overwrite, or choose another folder with --out.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = take_lock(out)
    except OSError as error:
        raise Refused(f"{out} cannot be written: {error.strerror}; choose another with --out.") from None
    try:
        yield sorted(old, key=lambda file: file.suffix != ".json")  # without a record there are no samples
    finally:
        lock.close()


class SampleFiles:
    """The files of one call in a folder; `names` are those written so far. Videos are uint8 (N,C,T,H,W)."""

    def __init__(self, out: Path, fps: float, scale: int):
        self.out, self.scale, self.names = out, scale, []
        self.writers = {
            "gif": lambda file, video: write_gif(file, video, fps, scale),
            "mp4": lambda file, video: write_mp4(file, video, fps, scale),
            "png": lambda file, video: write_png_strip(file, video, scale),
            "npy": write_npy,
        }

    def write(self, name: str, clip: Tensor, formats: Sequence[str]) -> None:
        """One video in these formats."""
        for kind in formats:
            self.writers[kind](self.out / f"{name}.{kind}", clip)
            self.names.append(f"{name}.{kind}")

    def strips(self, name: str, videos: Tensor) -> None:
        """The frames of several videos in rows, half as large."""
        write_png_strip(self.out / f"{name}.png", videos, max(1, self.scale // 2))
        self.names.append(f"{name}.png")

    def each(self, videos: Tensor, formats: Sequence[str]) -> None:
        """Every video by itself."""
        for i, clip in enumerate(videos):
            self.write(f"sample_{i:04d}", clip, formats)

    def grid(self, videos: Tensor, formats: Sequence[str]) -> None:
        """All of them side by side."""
        self.write("grid", tile(videos), [f for f in formats if f != "png"] or ["gif"])
        self.strips("grid", videos)

    def comparison(self, above: Tensor, below: Tensor) -> None:
        """Some above and some below; three of each as strips."""
        self.write("compare", tile(torch.cat([above, below]), columns=len(above)), ["gif"])
        self.strips("compare", torch.cat([above[:3], below[:3]]))
