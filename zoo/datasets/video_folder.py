"""Clips out of the video files below a folder.

A clip is `frames` frames, `frame_stride` apart, counted in the file's own frames or, with `fps`, in time. Files are
decoded once from end to end when first touched (their headers are not believed, see vidiff/video/).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import torch

from vidiff.random import generator
from vidiff.registry import DATASETS
from vidiff.types import BadSample, Count, Fraction, Outline, Positive
from vidiff.video import SUFFIXES, Limits, VideoInfo, check_reader, fit, printable, probe, read_frames

SPLITS = ("train", "val", "test")


@DATASETS.register("video_folder", tiny=dict(root="clips", frames=5, size=(6, 7), splits=(0.4, 0.3, 0.3)))
class VideoFolder:
    """Video files of a folder and its subfolders, in order of their names; each visit cuts another clip.

    `size` (height, width): the largest middle part of that shape, scaled with antialiasing. `frame_stride` takes every
    k-th frame; `fps` first resamples by time (nearest frame), which also evens out variable frame rates. Training
    starts at a random frame, the others in the middle of the file. `short_clip` says what a file with too few frames
    is: refused (BadSample), or looped, played there and back, or held at its last frame. `labels: folder` numbers
    the first folder below `root` as the class. `splits` are the shares of train, val and test, dealt by a hash of
    the path below `root` (so they stay when files are added); `val_root` and `test_root` name folders of their own,
    whose shares go to the rest.
    With `more_shapes` (frames, height, width) each file is cut to one of these or (`frames`, *`size`): of the shapes it
    has frames enough for, one whose aspect is nearest to its own, then the largest that need not be enlarged, then the
    longest. Sorting looks into every file once.
    `reader` is pyav, or decord for H.264 and VP9. A file is refused when it is larger than `max_pixels` a frame,
    longer than `max_frames`, or slower to decode than `timeout_s`.
    Raises ValueError for a missing or empty folder, BadSample for a file that cannot be used.
    """

    def __init__(
        self,
        root: str = "data/videos",
        frames: Count = 16,
        size: tuple[Count, Count] = (64, 64),
        frame_stride: Count = 1,
        fps: Positive | None = None,
        reader: Literal["pyav", "decord"] = "pyav",
        short_clip: Literal["refuse", "loop", "ping_pong", "hold"] = "refuse",
        labels: Literal["none", "folder"] = "none",
        horizontal_flip: Fraction = 0.0,
        splits: tuple[Fraction, Fraction, Fraction] = (0.9, 0.05, 0.05),
        val_root: str | None = None,
        test_root: str | None = None,
        max_pixels: Count = 2**24,
        max_frames: Count = 36_000,
        timeout_s: Positive = 60.0,
        more_shapes: tuple[tuple[Count, Count, Count], ...] = (),
        *,
        seed: int,
        split: str,
    ):
        check_reader(reader)
        self.size, self.frame_stride, self.fps, self.reader = tuple(size), frame_stride, fps, reader
        self.short_clip, self.horizontal_flip, self.seed, self.split = short_clip, horizontal_flip, seed, split
        self.limits = Limits(pixels=max_pixels, frames=max_frames, seconds=timeout_s)
        self.shape = (3, frames, *self.size)
        self.shapes = (self.shape, *((3, *more) for more in more_shapes))
        self.root, inside = Path(root).expanduser(), video_files(Path(root).expanduser())
        self.classes = class_names(inside) if labels == "folder" else []
        self.num_classes = len(self.classes)
        roots = {"val": val_root, "test": test_root}
        if roots.get(split):
            self.root = Path(roots[split]).expanduser()
            self.paths = video_files(self.root)
        else:
            self.paths = dealt(inside, splits, split, elsewhere=[name for name in roots if roots[name]])
        strange = set(class_names(self.paths)) - set(self.classes) if self.classes else set()
        if strange:
            raise ValueError(f"{printable(self.root)} has the class '{printable(min(strange))}', {root} has not.")

    @staticmethod
    def outline(
        root: str, frames: int, size: Sequence[int], fps: float | None, more_shapes: Sequence[Sequence[int]],
        labels: str, **_: Any,
    ) -> Outline | None:  # fmt: skip
        """Its clips where the folder is missing; None with labels, because only folders tell how many classes."""
        if Path(root).expanduser().exists() or labels != "none":
            return None
        shape = (3, frames, *size)
        return Outline(shape, fps or 25.0, (shape, *((3, *more) for more in more_shapes)))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """{"video": uint8 (3,T,H,W), "fps", "path"} and with labels "label" and "text". Raises BadSample."""
        path = self.paths[i % len(self)]
        start, flip = 0.5, False
        if self.split == "train":
            draws = torch.rand(2, generator=generator(self.seed, "video_folder", i)).tolist()
            start, flip = draws[0], draws[1] < self.horizontal_flip
        info = probe(self.root / path, self.limits)
        _, frames, height, width = self._shape(info)
        video = read_frames(
            self.root / path,
            self.clip(info, start, frames),
            reader=self.reader,
            limits=self.limits,
            each=lambda frame: fit(frame, height, width),
        )
        item = {"video": video.flip(-1) if flip else video, "fps": (self.fps or info.fps) / self.frame_stride}
        if self.classes:
            name = class_names([path])[0]
            item |= {"label": self.classes.index(name), "text": printable(name)}
        return item | {"path": printable(path)}

    def shape_of(self, i: int) -> tuple[int, int, int, int]:
        """(3,T,H,W) of the clips of file i. Raises BadSample for a file that cannot be used."""
        return self._shape(probe(self.root / self.paths[i % len(self)], self.limits))

    def clip(self, info: VideoInfo, start: float, frames: int) -> list[int]:
        """The frame numbers of a clip; `start` in [0,1) chooses among the possible first frames."""
        there, span = self.there(info), self.span(frames)
        if len(there) < span and self.short_clip == "refuse":
            raise BadSample(
                printable(info.path),
                f"{len(there)} frames; {frames} with frame_stride {self.frame_stride} need {span} "
                "(short_clip: loop, ping_pong or hold takes it)",
            )
        first = int(start * max(1, len(there) - span + 1))
        return [there[extended(k, len(there), self.short_clip)] for k in range(first, first + span, self.frame_stride)]

    def there(self, info: VideoInfo) -> list[int]:
        """The frames of a file to choose from: its own, or those nearest to every 1/fps seconds."""
        if self.fps is None:
            return list(range(info.num_frames))
        return info.at([k / self.fps for k in range(max(1, int(info.duration * self.fps + 1e-6)))])

    def span(self, frames: int) -> int:
        """How many frames a clip reaches over."""
        return (frames - 1) * self.frame_stride + 1

    def _shape(self, info: VideoInfo) -> tuple[int, int, int, int]:
        if len(self.shapes) == 1:
            return self.shape
        have = len(self.there(info))
        shortest = min(shape[1] for shape in self.shapes)
        possible = [shape for shape in self.shapes if self.span(shape[1]) <= have]
        if not possible and self.short_clip == "refuse":
            raise BadSample(
                printable(info.path),
                f"{have} frames; the shortest shape with frame_stride {self.frame_stride} needs "
                f"{self.span(shortest)} (short_clip: loop, ping_pong or hold takes it)",
            )
        possible = possible or [shape for shape in self.shapes if shape[1] == shortest]
        longest_first = sorted(possible, key=lambda shape: -shape[1])
        return min(longest_first, key=lambda shape: misfit(shape, info.height, info.width))


def misfit(shape: tuple[int, int, int, int], height: int, width: int) -> tuple[float, bool, int]:
    """How badly (C,T,H,W) suits a file, the least is best: another aspect; enlarging; pixels lost, or made up."""
    _, _, h, w = shape
    enlarged = h > height or w > width
    return round(abs(math.log(h * width / (w * height))), 6), enlarged, h * w if enlarged else -h * w


def extended(k: int, count: int, policy: str) -> int:
    """The frame shown at place k of a file of `count` frames when it is played on beyond its end."""
    if policy == "loop":
        return k % count
    if policy == "ping_pong":
        period = max(1, 2 * count - 2)
        return min(k % period, period - k % period) if count > 1 else 0
    return min(k, count - 1)


def video_files(root: Path) -> list[str]:
    """Paths below `root` that end like a video, sorted by their bytes. Raises ValueError when there are none."""
    if not root.is_dir():
        raise ValueError(f"the folder {printable(root)} does not exist (looked from {printable(Path.cwd())}).")
    found = [
        os.path.relpath(os.path.join(folder, name), root)
        for folder, _, names in os.walk(root)  # links to folders are not followed: they may loop
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]
    if not found:
        raise ValueError(f"no video file below {printable(root)}: looked for {', '.join(SUFFIXES)}.")
    return sorted(found, key=os.fsencode)


def dealt(paths: list[str], splits: Sequence[float], split: str, elsewhere: Sequence[str] = ()) -> list[str]:
    """The paths whose hash falls into the share of this split; splits that live elsewhere take no part.

    Raises ValueError when none does.
    """
    if split not in SPLITS:
        raise ValueError(f"split '{split}' is not known. Known: {', '.join(SPLITS)}.")
    if abs(sum(splits) - 1) > 1e-6:
        raise ValueError(
            f"splits {list(splits)} are the shares of train, val and test: they add up to {sum(splits):g}."
        )
    shares = [0.0 if name in elsewhere else share for name, share in zip(SPLITS, splits)]
    edges = [end / (sum(shares) or 1) for end in accumulate(shares, initial=0.0)]
    low, high = edges[SPLITS.index(split)], edges[SPLITS.index(split) + 1]
    mine = [path for path in paths if low <= place(path) < high]
    if not mine:
        other = "." if split == "train" else f", or name a folder in {split}_root."
        raise ValueError(f"splits {list(splits)} leave no {split} video out of {len(paths)}: enlarge its share{other}")
    return mine


def place(path: str) -> float:
    """Where in [0,1) a path falls, whatever other files there are."""
    digest = hashlib.sha256(os.fsencode(path).replace(os.fsencode(os.sep), b"/")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def class_names(paths: list[str]) -> list[str]:
    """The distinct first folders, sorted. Raises ValueError for a file that lies in none."""
    names = {path.split(os.sep, 1)[0] for path in paths if os.sep in path}
    loose = [path for path in paths if os.sep not in path]
    if loose:
        raise ValueError(f"labels=folder, but {printable(loose[0])} lies in no class folder; labels=none takes it.")
    return sorted(names, key=os.fsencode)
