"""Where numbers go: the console and log.txt, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from vidiff.cli import mute
from vidiff.video import gif_bytes


class Console:
    """Lines on the terminal and in log.txt."""

    def __init__(self, file: Path | None = None, quiet: bool = False, out: TextIO | None = None):
        self.quiet, self.out = quiet, out or sys.stdout
        self._file = open(file, "a", encoding="utf-8") if file else None  # noqa: SIM115

    def say(self, text: str = "") -> None:
        """Print and record."""
        if not self.quiet:
            try:
                print(text, file=self.out, flush=True)
            except OSError:  # a terminal that was closed, a reader that has gone: a run must not end of it
                self.quiet = True
                mute(self.out)
        if self._file:
            self._file.write(text + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()


class Journal:
    """metrics.jsonl: one JSON object per event, each with its step, each step once."""

    def __init__(self, file: Path, step: int = 0):
        self.file = file
        self._cut(step)
        self._handle = open(file, "a", encoding="utf-8")  # noqa: SIM115

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one event."""
        self._handle.write(json.dumps({"step": step, **values}) + "\n")
        self._handle.flush()

    def close(self) -> None:
        """Close the file."""
        self._handle.close()

    def _cut(self, step: int) -> None:
        """Drop the events after `step`: the resumed run writes them again."""
        if self.file.exists():
            kept = [line for line in read_journal(self.file) if line["step"] <= step]
            partial = self.file.with_suffix(".partial")
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            partial.replace(self.file)


def read_journal(file: Path) -> list[dict[str, Any]]:
    """The events of a metrics.jsonl; a last line cut short by a kill is left out."""
    events = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "step" in event:
            events.append(event)
    return events


class Board:
    """TensorBoard, or nothing when it is switched off."""

    def __init__(self, folder: Path, on: bool, step: int = 0):
        self.writer = None
        if on:
            from torch.utils.tensorboard import SummaryWriter

            # without purge_step a resumed run shows the steps after its checkpoint twice
            self.writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by tag."""
        for tag, value in values.items():
            if self.writer:
                self.writer.add_scalar(tag, value, step)

    def text(self, tag: str, text: str) -> None:
        """A block of text."""
        if self.writer:
            self.writer.add_text(tag, "```\n" + text + "\n```")

    def video(self, tag: str, video: Any, step: int, fps: float) -> None:
        """An animated GIF, uint8 (C,T,H,W): `add_video` needs moviepy < 2 and is silent without it."""
        if self.writer:
            from tensorboard.compat.proto.summary_pb2 import Summary

            c, _, h, w = video.shape
            image = Summary.Image(height=h, width=w, colorspace=c, encoded_image_string=gif_bytes(video, fps))
            self.writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    def hparams(self, settings: Mapping[str, Any], metrics: Iterable[str]) -> None:
        """A row of the HParams tab: the settings, beside the last values of these tags.

        In the run itself: `SummaryWriter.add_hparams` makes another run of it, which overlays nothing.
        """
        if self.writer:
            from torch.utils.tensorboard.summary import hparams

            for summary in hparams(dict(flat(settings)), dict.fromkeys(metrics, 0.0)):
                self.writer._get_file_writer().add_summary(summary)

    def close(self) -> None:
        """Write what is pending."""
        if self.writer:
            self.writer.close()


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers and words of nested settings by dotted key; lists as text."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value) if isinstance(value, (list, tuple)) else value


class Window:
    """Running sums between two log lines."""

    def __init__(self, bins: int = 4):
        self.bins = bins
        self.start()

    def start(self) -> None:
        """Forget everything and start the clock."""
        self.began, self.waited, self.steps = time.perf_counter(), 0.0, 0
        self.loss = self.norm = 0.0
        self.by_time = [[0.0, 0] for _ in range(self.bins)]

    def add(self, loss: float, norm: float, times: list[float], errors: list[float]) -> None:
        """One optimizer step: its loss, gradient norm, and the error of each sample at its time."""
        self.steps += 1
        self.loss += loss
        self.norm += norm
        for t, error in zip(times, errors, strict=True):
            cell = self.by_time[min(int(t * self.bins), self.bins - 1)]
            cell[0] += error
            cell[1] += 1

    def means(self) -> dict[str, float]:
        """train/loss, train/grad_norm and train/loss_by_time/* over the window."""
        n = max(self.steps, 1)
        values = {"train/loss": self.loss / n, "train/grad_norm": self.norm / n}
        for i, (total, count) in enumerate(self.by_time):
            if count:
                values[f"train/loss_by_time/{i / self.bins:.2f}-{(i + 1) / self.bins:.2f}"] = total / count
        return values

    @property
    def seconds(self) -> float:
        """Since the window began."""
        return max(time.perf_counter() - self.began, 1e-9)


def duration(seconds: float) -> str:
    """`1:06`, `2:03:04`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
